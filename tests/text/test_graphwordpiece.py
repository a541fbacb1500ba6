"""`GraphWordPiece` gives the ids of `WordPieceTokenizer`, which itself is bert4keras."""

import json
import os
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasrec.backend import tf
from kerasrec.data.datasets import load_mooccube
from kerasrec.text.graphwordpiece import VOCAB_FILE, GraphWordPiece
from kerasrec.text.tokenizers import WordPieceTokenizer, read_vocab

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CORPORA = [
    *["tnews-headlines/tnews", "toutiao-headlines/toutiao", "thucnews-titles/thucnews"],
    *["sentence-pairs/lcqmc", "sentence-pairs/paws-x", "reviews/online_shopping_10_cats_1"],
    *["reviews/waimai_10k", "iflytek-apps/iflytek", "douban-books/books"],
]
HAND_MADE = [
    "",
    " ",
    "\u3000\n",
    "机器学习",
    "[CLS] [SEP] [UNK] ##a ##",
    "全角：ＡＢＣ１２３，。！（）［］｛｝～",
    "ﬁ ligature ½ ① Ⅳ ㎏ ㈱ ß ŉ İstanbul ı",
    "emoji 😀👨‍👩‍👧 ★☆ 🇨🇳 👍🏽",
    "繁體中文：機器學習與資料探勘，「龍」「龜」",
    "日本語 かな ガ カ゛ 한국어 Русский العربية हिन्दी ไทย",
    "tab\tnew\nline\rreturn\u3000ideographic\u00a0nbsp\u200bzero\u2028ls\u2029ps\x85nel\x1cfs",
    "e\u0301 é Å Å n\u0303 \u0301alone",
    "𠮷野家 㐀 龘龘龘 豈 \U0002f800",
    "ΑΣ ΑΣΑ Σ ΣΣ ΑΣ' ΑΣ'Β Α'Σ 1Σ ΑΣ中 中Σ ΑΣ",
    "\x00\x07控制\ufeff\ufffd\ud7ff\x7f",
    "a\x00b\x00",
    "\x00",
    "—— …… “引号” 《书名》·间隔",
    "x" * 200,
    "x" * 201,
    "中" + "é" * 200 + "文" + "é" * 201,
    "supercalifragilisticexpialidocious" * 4,
    "深度学习" * 3000,
    "word " * 5000,
    "   " * 5000 + "end",
    "\u0301" * 4000 + "end",
    "y" * 9000 + " end",
    "ΑΣ" + "'" * 3000 + "Β",
    "，" * 30 + "ab" * 2000,
]


def ids(tokenizer, folder, texts):
    return GraphWordPiece(tokenizer, folder)(tf.constant(texts, tf.string))


def check(graph, tokenizer, texts):
    """The ids of the graph are those of Python, text by text."""
    expected = tokenizer.encode_batch(texts)
    found = graph(tf.constant(texts, tf.string))
    for mine, other in zip(found, expected, strict=True):
        assert mine.dtype == tf.int32 and mine.shape == other.shape
        wrong = np.flatnonzero((mine.numpy() != other).any(axis=1))
        assert not len(wrong), (len(wrong), texts[wrong[0]], mine.numpy()[wrong[0]])


@pytest.fixture(scope="module")
def titles():
    items = load_mooccube()[1].frame
    return items["title"].tolist(), items["text"].tolist()


@pytest.fixture(scope="module")
def vocab(titles):
    """Half the characters of the titles, ## forms of most of them, and a few longer pieces."""
    texts = [*titles[0], *HAND_MADE]
    chars = sorted({c for t in texts for c in t + t.lower() + unicodedata.normalize("NFD", t)})
    chars = [c for c in chars if not c.isspace()]
    pieces = ["the", "java", "##script", "math", "##ematics", "2019", "##20", "##é", "super", "##ν"]
    pieces += chars[::2] + ["##" + c for number, c in enumerate(chars) if number % 5]
    return [*SPECIAL, *dict.fromkeys(pieces)]


@pytest.fixture(scope="module", params=[True, False], ids=["lower", "cased"])
def pair(request, vocab, tmp_path_factory):
    """`GraphWordPiece` and its `WordPieceTokenizer`."""
    tokenizer = WordPieceTokenizer(vocab, do_lower_case=request.param)
    return GraphWordPiece(tokenizer, tmp_path_factory.mktemp("vocab")), tokenizer


# --- The same ids ---


def test_by_hand(tmp_path):
    vocab = [*SPECIAL, "中", "java", "##script", "，", "##s"]
    tokenizer = WordPieceTokenizer(vocab, max_tokens=7)
    found, segments = ids(tokenizer, tmp_path, ["JavaScript，中x", "", "JAVASS 中"])
    assert found.numpy().tolist() == [
        [2, 6, 7, 8, 5, 1, 3],
        [2, 3, 0, 0, 0, 0, 0],
        [2, 6, 9, 9, 5, 3, 0],
    ]
    assert not segments.numpy().any() and segments.shape == found.shape


def test_titles_and_introductions(pair, titles):
    check(*pair, titles[0])
    check(*pair, titles[1])


def test_hand_made_texts(pair):
    check(*pair, HAND_MADE)
    for text in HAND_MADE:
        check(*pair, [text])


@pytest.mark.parametrize(
    ("max_tokens", "prefix"),
    [
        (4, "中é "),
        (300, "a"),
        *(pytest.param(*given, marks=pytest.mark.slow) for given in ((3, ""), (9, "query: "))),
    ],
)
def test_prefix_and_truncation(vocab, titles, tmp_path, max_tokens, prefix):
    tokenizer = WordPieceTokenizer(vocab, max_tokens=max_tokens, prefix=prefix)
    graph = GraphWordPiece(tokenizer, tmp_path)
    check(graph, tokenizer, [*HAND_MADE, *titles[0][:100], *titles[1][:100]])


ALPHABET = "ab Σς'·ά\u0301中文，。\x00\x07\n\u2028\u200d\ufe0fĀİß１Ⅳ😀"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from(ALPHABET), max_size=60), min_size=1, max_size=6))
def test_any_texts(pair, texts):
    check(*pair, texts)


def fuzz(count, seed=0):
    """Random texts: characters of one or of several ranges of Unicode, halves of pairs aside."""
    rng = np.random.default_rng(seed)
    ranges = [(0, 0x80), (0x80, 0x250), (0x300, 0x600), (0x2000, 0x3400), (0x4E00, 0xA000)]
    ranges += [(0xF900, 0x10000), (0x1F000, 0x1FB00), (0, 0xD800), (0xE000, 0x110000)]
    texts = []
    for _ in range(count):
        length = int(rng.integers(0, 40))
        chosen = rng.choice(len(ranges), rng.integers(1, 4), p=[0.3, *[0.7 / 8] * 8])
        low, high = np.array(ranges)[rng.choice(chosen, length)].reshape(-1, 2).T
        texts.append("".join(map(chr, rng.integers(low, high))))
    return texts


@pytest.mark.parametrize("count", [1000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_fuzz(pair, count):
    texts = fuzz(count)
    assert max(map(len, texts)) == 39 and any("\x00" in text for text in texts)
    check(*pair, texts)


@pytest.mark.slow
@pytest.mark.parametrize("lower", [True, False], ids=["lower", "cased"])
def test_every_code_point(tmp_path, lower):
    """All of Unicode in a vocabulary that tells all characters apart, unassigned ones too."""
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    known = {c for c in every if unicodedata.category(c) not in ("Cn", "Co") and not c.isspace()}
    vocab = [*SPECIAL, *(form for c in sorted(known) for form in (c, "##" + c))]
    tokenizer = WordPieceTokenizer(vocab, do_lower_case=lower, max_tokens=4000)
    graph = GraphWordPiece(tokenizer, tmp_path)
    some = [c for number, c in enumerate(every) if c in known or number % 101 == 0]
    words = [f"a{c}b" for c in some]
    if lower:  # what stands beside a sigma decides which small one it becomes
        words += [form.format(c) for c in some[::3] for form in ("a{}Σ", "{}Σ", "aΣ{}", "aΣ{}b")]
    assert len(words) > 140_000
    check(graph, tokenizer, [" ".join(words[n : n + 500]) for n in range(0, len(words), 500)])


@pytest.mark.parametrize("count", [40, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("lower", [True, False], ids=["lower", "cased"])
def test_corpora_with_the_vocabulary_of_chinese_bert(tmp_path, shared_data, lower, count):
    vocab = read_vocab(shared_data / "bert-chinese" / "vocab.txt")
    assert len(vocab) == 21128
    tokenizer = WordPieceTokenizer(vocab, do_lower_case=lower)
    graph = GraphWordPiece(tokenizer, tmp_path)
    for name in CORPORA:
        path = shared_data / "corpus" / f"{name}.csv.gz"
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        frame = frame.sample(min(len(frame), count), random_state=0)
        for column in {"title", "text", "a", "keywords", "publisher"} & set(frame):
            check(graph, tokenizer, frame[column].tolist())
    check(graph, tokenizer, HAND_MADE)
    check(graph, tokenizer, fuzz(2 * count, seed=1))


# --- What Python has no answer to ---


@pytest.mark.parametrize(
    "broken",
    [
        b"\xff",
        b"\xe4\xb8",
        b"\xe4",
        b"\xf0\x9f\x98",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf5",
    ],
)
def test_bytes_that_are_no_utf8_are_left_out(pair, broken):
    graph, tokenizer = pair
    texts = [
        broken,
        broken + "中".encode(),
        b"the" + broken,
        b"ja" + broken + b"va",
        b"\n" + broken,
    ]
    found = graph(tf.constant([*texts, b"the"]))[0].numpy()
    expected = tokenizer.encode_batch(["", "中", "the", "java", "", "the"])[0]
    assert found.tolist() == expected.tolist()
    long = broken * 3000 + b"the"
    assert graph(tf.constant([long]))[0].numpy().tolist() == [found[-1][:3].tolist()]


def test_no_text_at_all(pair):
    token_ids, segment_ids = pair[0](tf.constant([], tf.string))
    assert token_ids.shape[0] == segment_ids.shape[0] == 0


# --- The vocabulary ---


def test_tokens_that_no_line_can_hold(tmp_path):
    """Twice, empty, with a line break: the ids are those of Python all the same."""
    vocab = [*SPECIAL, "甲", "", "乙", "甲", "", "a\nb", "a\r", "\u2028", "##c", "乙", "a"]
    tokenizer = WordPieceTokenizer(vocab)
    check(GraphWordPiece(tokenizer, tmp_path), tokenizer, ["甲乙a ac \u2028 5 6", "a\rb a\nb"])
    lines = (tmp_path / VOCAB_FILE).read_bytes().decode().split("\n")
    assert len(set(lines[:-1])) == len(vocab) and lines[-1] == ""
    assert [line for line in lines if line in ("甲", "##c", "a")] == ["甲", "##c", "a"]


def test_words_of_every_piece_are_found(tmp_path):
    """Also the longest piece, as a word and inside one."""
    vocab = [*SPECIAL, "ab" * 40, "##" + "cd" * 50, "a", "##b", "##c"]
    tokenizer = WordPieceTokenizer(vocab)
    check(
        GraphWordPiece(tokenizer, tmp_path),
        tokenizer,
        ["ab" * 40, "ab" * 40 + "cd" * 50, "a" + "cd" * 50 + "bc", "ab" * 39, "cd" * 50],
    )


def test_saved_it_answers_in_plain_tensorflow_whatever_the_locale(pair, tmp_path, titles):
    graph, tokenizer = pair
    tf.saved_model.save(graph, str(tmp_path / "saved"))
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    assert (tmp_path / "moved" / "assets" / VOCAB_FILE).is_file()
    texts = [*titles[0][:40], *HAND_MADE[:18], "TITLE INDEX"]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    code = (
        "import json, sys\n"
        "for name in ('bert4keras', 'tf_keras', 'kerasrec'): sys.modules[name] = None\n"
        "import tensorflow as tf\n"
        "texts = tf.constant(json.load(open(sys.argv[2])))\n"
        "print(json.dumps(tf.saved_model.load(sys.argv[1])(texts)[0].numpy().tolist()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "moved"), str(tmp_path / "texts.json")],
        env={**os.environ, "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == tokenizer.encode_batch(texts)[0].tolist()
