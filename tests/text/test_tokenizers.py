import json
import subprocess
import sys
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer, Tokenizer, pre_tokenizers
from tokenizers.models import Unigram

from kerasrec.backend import import_bert4keras
from kerasrec.data.datasets import MOOCCUBE_FOLDER
from kerasrec.text.e5small import _find_file, read_e5s1
from kerasrec.text.tokenizers import (
    UnigramTokenizer,
    WordPieceTokenizer,
    is_chinese_or_ascii,
    load_tokenizer,
    pad_rows,
    read_vocab,
    save_tokenizer,
)

HAND_MADE = [
    "",
    " ",
    "a",
    "机器学习",
    "  两端  空格  ",
    "全角：ＡＢＣ１２３，。！（）",
    "ﬁ ligature ½ ① Ⅳ ㎏ ㈱",
    "emoji 😀👨‍👩‍👧 ★☆",
    "日本語 かな ガ カ゛ 한국어 Русский العربية",
    "a▁b ▁▁ ▁x",
    "tab\tnew\nline\u3000ideographic\u00a0nbsp\u200bzero",
    "e\u0301 é Å Å",
    "<s> </s> <pad> <unk> <mask>",
    "𠮷野家 㐀 龘龘龘",
    "supercalifragilisticexpialidocious" * 4,
    "—— …… “引号” 《书名》·间隔",
    "\x00\x07控制\ufeff",
]
SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<mask>")


@pytest.fixture(scope="module")
def titles():
    frame = pd.read_csv(MOOCCUBE_FOLDER / "items.csv.gz", dtype=str, keep_default_na=False)
    return frame["title"].tolist(), frame["text"].tolist()


# --- Unigram against Hugging Face `tokenizers` ---


def oracle(pieces, scores, normalisation):
    """Hugging Face's Unigram, put together as transformers' XLMRobertaTokenizer does.

    Gives a function text -> pieces. The character map is applied before (its own compiled form of
    it is not in the file).
    """
    tokenizer = Tokenizer(Unigram([("<unk>", 0.0), *zip(pieces, scores, strict=True)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", "always")]
    )
    table = str.maketrans(normalisation)

    def encode(text):
        encoding = tokenizer.encode(text.translate(table), add_special_tokens=False)
        return [
            "<unk>" if i == 0 else token
            for i, token in zip(encoding.ids, encoding.tokens, strict=True)
        ]

    return encode


@pytest.fixture(scope="module")
def e5_file():
    return read_e5s1(_find_file())


@pytest.fixture(scope="module")
def full_tokenizer(e5_file):
    return UnigramTokenizer(
        e5_file.pieces[4:], e5_file.scores[4:].tolist(), normalisation=e5_file.normalisation
    )


@pytest.fixture(scope="module")
def cut_tokenizer():
    from kerasrec.text.e5small import read_e5_small

    return read_e5_small(max_tokens=64, prefix="query: ").tokenizer


def random_texts(tokenizer, count, seed):
    """Random strings of pieces, characters of pieces, and any other characters."""
    rng = np.random.default_rng(seed)
    alphabet = sorted(tokenizer._longest) + list("中文 abc　１é😀؟\u0301")
    texts = []
    for _ in range(count):
        parts = [
            tokenizer.pieces[i] for i in rng.integers(0, len(tokenizer.pieces), rng.integers(0, 4))
        ]
        parts += [alphabet[i] for i in rng.integers(0, len(alphabet), rng.integers(0, 12))]
        parts += [chr(c) for c in rng.integers(32, 0xD7FF, rng.integers(0, 3))]
        texts.append("".join(rng.permutation(parts)) if parts else "")
    return [t for t in texts if not any(s in t for s in SPECIAL)]


def test_unigram_full_table_equals_hugging_face(full_tokenizer, titles):
    expected = oracle(full_tokenizer.pieces, full_tokenizer.scores, full_tokenizer.normalisation)
    texts = titles[0] + titles[1][:40] + random_texts(full_tokenizer, 1500, 0)
    texts += [t for t in HAND_MADE if not t.startswith("<s>")]
    wrong = [t for t in texts if full_tokenizer.tokenize(t) != expected(t)]
    assert wrong == []


def test_unigram_cut_table_equals_hugging_face(cut_tokenizer, titles):
    expected = oracle(cut_tokenizer.pieces, cut_tokenizer.scores, cut_tokenizer.normalisation)
    texts = titles[0] + titles[1][:40] + random_texts(cut_tokenizer, 1500, 1)
    texts += [t for t in HAND_MADE if not t.startswith("<s>")]
    wrong = [t for t in texts if cut_tokenizer.tokenize(t) != expected(t)]
    assert wrong == []


def test_cut_table_changes_nothing_for_chinese_titles(full_tokenizer, cut_tokenizer, titles):
    wrong = [t for t in titles[0] if full_tokenizer.tokenize(t) != cut_tokenizer.tokenize(t)]
    assert len(wrong) <= 1 and all("español" in t for t in wrong)


def test_normalisation_of_chinese_texts_is_nfkc_without_control_characters(full_tokenizer, titles):
    for text in titles[0] + titles[1]:
        kept = [c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf")]
        words = unicodedata.normalize("NFKC", "".join(kept)).split()
        assert full_tokenizer.normalise(text) == "".join("\u2581" + word for word in words)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.text("abc▁中", min_size=1, max_size=3), st.floats(-9, -0.1), min_size=1),
    st.text("abcd▁中文 ", max_size=20),
    st.integers(1, 12),
)
def test_unigram_equals_hugging_face_on_any_table(table, text, limit):
    table = {piece: s for piece, s in table.items() if "▁" not in piece[1:]} | {"▁": -3.0}
    tokenizer = UnigramTokenizer(list(table), list(table.values()), max_tokens=limit + 2)
    # equal sums may be broken either way by rounding: compare the scores
    expected = oracle(tokenizer.pieces, tokenizer.scores, {})(text)

    def total(pieces):
        return sum(table.get(p, tokenizer.unknown_score) for p in pieces)

    mine = tokenizer.tokenize(text)
    assert mine == expected or total(mine) == pytest.approx(total(expected))
    known = {p: i for i, p in enumerate(tokenizer.pieces, 4)}
    ids = [known.get(p, 3) for p in mine]
    assert tokenizer.token_ids(text) == [1, *ids[:limit], 2]  # stopping early changes nothing


def test_unigram_best_path_by_hand():
    # "▁ab": ▁a + b = -3.5, ▁ + ab = -3.0, ▁ + a + b = -5.0
    tokenizer = UnigramTokenizer(["▁", "a", "b", "ab", "▁a"], [-1.0, -2.0, -2.0, -2.0, -1.5])
    assert tokenizer.tokenize("ab") == ["▁", "ab"]
    assert tokenizer.tokenize("ba") == ["▁", "b", "a"]
    assert tokenizer.tokenize("xyab") == ["▁", "<unk>", "ab"]  # two unknowns, one token
    assert tokenizer.tokenize("x y") == ["▁", "<unk>", "▁", "<unk>"]
    assert tokenizer.token_ids("ab") == [1, 4, 7, 2]
    assert tokenizer.unknown_score == -12.0


def test_unigram_special_tokens_do_not_match_text(cut_tokenizer):
    for text in SPECIAL:
        ids = cut_tokenizer.token_ids(text)
        assert ids[0] == 1 and ids[-1] == 2
        assert not {0, 1, 2} & set(ids[1:-1])


def test_unigram_prefix_and_truncation(cut_tokenizer):
    long = "机器学习与深度学习" * 500
    ids = cut_tokenizer.token_ids(long)
    assert len(ids) == 64 and ids[0] == 1 and ids[-1] == 2
    start = cut_tokenizer.token_ids("")[:-1]  # the prefix
    assert [cut_tokenizer.pieces[i - 4] for i in start[1:]] == ["▁que", "ry", ":"]
    assert ids[: len(start)] == start


def test_unigram_refuses_bad_tables():
    with pytest.raises(ValueError, match="equally long.*Received: 1 pieces, 2 scores"):
        UnigramTokenizer(["a"], [1.0, 2.0])
    with pytest.raises(ValueError, match="max_tokens must be at least 3"):
        UnigramTokenizer(["a"], [1.0], max_tokens=2)


# --- WordPiece ---


@pytest.fixture(scope="module")
def vocab(titles):
    """Every character of the titles and the frequent English words and their pieces."""
    chars = sorted({c for t in titles[0] for c in t.lower()} - {" ", "\u3000", "\xa0"})
    words = [
        "the",
        "of",
        "java",
        "##script",
        "math",
        "##ematics",
        "##s",
        "introduction",
        "2019",
        "##20",
    ]
    return [
        *["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        *dict.fromkeys(
            chars[::2] + words + ["##" + c for c in chars if c.isascii() and c.isalnum()]
        ),
    ]


@pytest.mark.parametrize("lower", [True, False])
def test_wordpiece_equals_bert4keras_and_hugging_face(tmp_path, vocab, titles, lower):
    path = tmp_path / "vocab.txt"
    path.write_bytes("".join(t + "\n" for t in vocab).encode())
    mine = WordPieceTokenizer(read_vocab(path), do_lower_case=lower, max_tokens=48)
    original = import_bert4keras().tokenizers.Tokenizer(str(path), do_lower_case=lower)
    hugging = BertWordPieceTokenizer(str(path), lowercase=lower)
    hugging.enable_truncation(48)
    texts = titles[0][::2] + titles[1][::8] + [t for t in HAND_MADE if "<" not in t]
    for text in texts:
        assert mine.token_ids(text) == original.encode(text, maxlen=48)[0], text
    same = [
        mine.token_ids(text) == hugging.encode(text).ids for text in titles[0][::2] + titles[1][::8]
    ]
    assert np.mean(same) > 0.99  # the two originals differ in rare characters


def test_wordpiece_by_hand():
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "中", "java", "##script", "，"]
    tokenizer = WordPieceTokenizer(vocab, max_tokens=6)
    assert tokenizer.token_ids("JavaScript，中x") == [
        2,
        5,
        6,
        7,
        4,
        3,
    ]  # the last token stays [SEP]
    assert tokenizer.tokenize("Ｊ中") == ["[CLS]", "ｊ", "中", "[SEP]"]
    assert WordPieceTokenizer(vocab, do_lower_case=False).token_ids("Java java") == [2, 1, 5, 3]
    assert WordPieceTokenizer(vocab, prefix="中").token_ids("java") == [2, 4, 5, 3]


@settings(max_examples=150, deadline=None)
@given(st.text("ab 中文，é\u0301Σς", min_size=40, max_size=200), st.integers(3, 5))
def test_wordpiece_of_a_long_text_equals_the_slow_way(text, max_tokens):
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "中", "a", "##b", "，", "σ", "##ς"]
    tokenizer = WordPieceTokenizer(vocab, max_tokens=max_tokens)
    slow = tokenizer._tokenizer.encode(text)[0]
    if len(slow) > max_tokens:
        slow = slow[: max_tokens - 1] + [3]
    assert tokenizer.token_ids(text) == slow


def test_wordpiece_needs_its_special_tokens():
    with pytest.raises(ValueError, match=r"Missing: \['\[SEP\]'\]"):
        WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "a"])
    with pytest.raises(ValueError, match=r"Token 0 .* must be \[PAD\]. Received: '\[UNK\]'"):
        WordPieceTokenizer(["[UNK]", "[PAD]", "[CLS]", "[SEP]"])


# --- Batches and files ---


def test_encode_batch_pads_on_the_right():
    tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "中"])
    token_ids, segment_ids = tokenizer.encode_batch(["中中", "", "x"])
    assert token_ids.tolist() == [[2, 4, 4, 3], [2, 3, 0, 0], [2, 1, 3, 0]]
    assert segment_ids.tolist() == np.zeros((3, 4)).tolist()
    assert token_ids.dtype == segment_ids.dtype == np.int32
    assert [part.shape for part in tokenizer.encode_batch([])] == [(0, 0), (0, 0)]
    assert pad_rows([]).shape == (0, 0)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_tokenizer_round_trip(tmp_path, kind, cut_tokenizer, titles):
    if kind == "wordpiece":
        vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "机", "\u2028", "\x85", "java"]
        tokenizer = WordPieceTokenizer(vocab, do_lower_case=False, max_tokens=9, prefix="机")
    else:
        tokenizer = cut_tokenizer
    save_tokenizer(tokenizer, tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t")
    assert type(loaded) is type(tokenizer)
    assert loaded.to_dict() == tokenizer.to_dict()
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.token_ids(titles[0][0]) == tokenizer.token_ids(titles[0][0])
    assert {p.suffix for p in (tmp_path / "t").iterdir()} <= {".json", ".txt"}


def test_fingerprint_depends_on_every_setting():
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "中"]
    tokenizers = [
        WordPieceTokenizer(vocab),
        WordPieceTokenizer([*vocab, "文"]),
        WordPieceTokenizer(vocab, max_tokens=63),
        WordPieceTokenizer(vocab, prefix="x"),
        WordPieceTokenizer(vocab, do_lower_case=False),
        UnigramTokenizer(vocab, [-1.0] * 5),
        UnigramTokenizer(vocab, [-1.0] * 4 + [-2.0]),
        UnigramTokenizer(vocab, [-1.0] * 5, normalisation={"a": "b"}),
    ]
    assert len({t.fingerprint for t in tokenizers}) == len(tokenizers)


def test_read_vocab_splits_at_newlines_only(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("[PAD]\na\u2028b\n\x85\n\n中".encode())
    assert read_vocab(path) == ["[PAD]", "a\u2028b", "\x85", "", "中"]
    path.write_bytes(b"[PAD]\r\na\r\n")
    assert read_vocab(path) == ["[PAD]", "a"]
    path.write_bytes("机器".encode("gb18030"))
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_vocab(path)
    with pytest.raises(FileNotFoundError, match="No vocabulary found"):
        read_vocab(tmp_path / "nothing.txt")


def test_load_tokenizer_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="No tokenizer found"):
        load_tokenizer(tmp_path)
    (tmp_path / "kerasrec_tokenizer.json").write_text(json.dumps({"kind": "bpe"}))
    with pytest.raises(ValueError, match="Unknown tokenizer kind 'bpe'.*Known: wordpiece, unigram"):
        load_tokenizer(tmp_path)


def test_is_chinese_or_ascii():
    assert all(map(is_chinese_or_ascii, ["", "▁编程", "C++", "——", "〇", "𠮷", "《", "😀"]))
    assert not any(map(is_chinese_or_ascii, ["нет", "é", "か", "한", "中é"]))


def test_unigram_needs_no_tensorflow(tmp_path):
    save_tokenizer(UnigramTokenizer(["▁a"], [-1.0]), tmp_path)
    code = (
        "import sys, kerasrec.text.tokenizers as t;"
        f"assert t.load_tokenizer({str(tmp_path)!r}).token_ids('a') == [1, 4, 2];"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
