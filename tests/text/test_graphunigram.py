import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from kerasrec.backend import tf
from kerasrec.data.datasets import load_mooccube
from kerasrec.text.e5small import read_e5_small
from kerasrec.text.graphunigram import GraphUnigram, make_trie
from kerasrec.text.tokenizers import UnigramTokenizer, WordPieceTokenizer

HAND_MADE = [
    *(
        "",
        " ",
        "\u3000 \t",
        "a",
        "机器学习",
        "  两端  空格  ",
        "\x00",
        "a\x00b",
        "\x00\x07控制\ufeff",
    ),
    *("全角：ＡＢＣ１２３，。！（）", "ﬁ ligature ½ ① Ⅳ ㎏ ㈱ ﷺ", "emoji 😀👨‍👩‍👧 ★☆ 😀😀 😀"),
    *("繁體中文課程：機器學習與資料庫", "日本語 かな ガ カ゛", "한국어 한국어", "Русский العربية"),
    *("a▁b ▁▁ ▁x", "tab\tnew\nline\u00a0nbsp\u200bzero\x1c\x1f\x85", "e\u0301 é Å Å \u0301\u0301"),
    *("<s> </s> <pad> <unk> <mask>", "𠮷野家 㐀 龘龘龘 \U0010ffff", "\ufeff中", "\ufffd"),
    *("query: query: ", "—— …… “引号” 《书名》·间隔", "0000000000000000000000000000"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return read_e5_small(max_tokens=64, prefix="query: ").tokenizer


@pytest.fixture(scope="module")
def graph(tokenizer, tmp_path_factory):
    return GraphUnigram(tokenizer, tmp_path_factory.mktemp("assets"))


def wrong(graph, tokenizer, texts):
    """Texts whose row in the graph is another one than in Python (with the width of the batch)."""
    expected, segments = tokenizer.encode_batch(texts)
    token_ids, segment_ids = (part.numpy() for part in graph(tf.constant(texts, tf.string)))
    assert token_ids.dtype == segment_ids.dtype == np.int32
    assert token_ids.shape == expected.shape
    np.testing.assert_array_equal(segment_ids, segments)
    return [texts[i] for i in np.flatnonzero((token_ids != expected).any(axis=1))]


def wrong_of(graph, tokenizer, texts, batch_size=512):
    batches = [texts[i : i + batch_size] for i in range(0, len(texts), batch_size)]
    return [text for batch in batches for text in wrong(graph, tokenizer, batch)]


def table(pieces, **options):
    return UnigramTokenizer(list(pieces), list(pieces.values()), **options)


# --- By hand ---


def test_best_path_by_hand():
    """ids: ▁ 4, a 5, ab 6, abc 7, b 8, ▁a 9; ▁abc: ▁+abc -6, ▁a+b+unknown worse."""
    pieces = {"▁": -1.0, "a": -2.0, "ab": -3.0, "abc": -5.0, "b": -2.0, "▁a": -2.5}
    graph = GraphUnigram(table(pieces))
    token_ids, segment_ids = graph(tf.constant(["abc", "", "ab xyz b"]))
    # ▁ab: ▁+ab -4, ▁a+b -4.5; ▁xyz: ▁ and one unknown; ▁b: ▁+b
    assert token_ids.numpy().tolist() == [
        [1, 4, 7, 2, 0, 0, 0, 0],
        [1, 2, 0, 0, 0, 0, 0, 0],
        [1, 4, 6, 4, 3, 4, 8, 2],
    ]
    assert segment_ids.numpy().tolist() == np.zeros((3, 8)).tolist()


def test_of_equal_paths_the_longest_last_piece_wins():
    pieces = {"▁": 0.0, "a": -1.0, "aa": -2.0, "aaa": -3.0}
    token_ids, _ = GraphUnigram(table(pieces))(tf.constant(["aaaaa"]))
    assert token_ids.numpy().tolist() == [[1, 4, 6, 7, 2]]  # aa + aaa


def test_unknowns_merge_within_a_word_only():
    tokenizer = table({"a": -1.0})  # not even the mark is known
    token_ids, _ = GraphUnigram(tokenizer)(tf.constant(["xx yy", "xa y"]))
    assert token_ids.numpy().tolist() == [[1, 3, 3, 2, 0], [1, 3, 4, 3, 2]]


def test_trie_by_hand():
    trie = make_trie(table({"b": -1.0, "ab": -2.0, "a▁": -9.0}))
    edge = [state << 21 | ord(char) for state, char in ((0, "a"), (0, "b"), (1, "b"))]
    assert trie.edges.tolist() == [*edge, 2**63 - 1]
    assert trie.depths.tolist() == [0, 1, 1, 2, 1]
    assert trie.ids.tolist() == [0, 0, 4, 5, 3]  # a piece with a mark inside matches nothing
    assert trie.scores.tolist() == [-np.inf, -np.inf, -1.0, -2.0, -19.0]


# --- Against the Python tokenizer: e5-small ---


def test_titles_and_descriptions_of_mooccube(graph, tokenizer):
    frame = load_mooccube()[1].frame
    texts = frame["title"].astype(str).tolist()
    assert wrong_of(graph, tokenizer, texts, 64) == []
    assert wrong_of(graph, tokenizer, frame["text"].astype(str).tolist(), 64) == []


def test_hand_made_texts(graph, tokenizer):
    assert wrong(graph, tokenizer, HAND_MADE) == []
    for text in HAND_MADE:
        assert wrong(graph, tokenizer, [text]) == []  # the padding of others plays no part


def test_no_text(graph):
    token_ids, segment_ids = graph(tf.zeros([0], tf.string))
    assert token_ids.shape == segment_ids.shape == (0, 0)


@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.slow)])
def test_characters(graph, tokenizer, step):
    """All of the basic plane and a part of the others, beside each other and beside letters."""
    codes = [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 23)][::step]
    texts = ["中a".join(map(chr, codes[i : i + 12])) for i in range(0, len(codes), 12)]
    assert wrong_of(graph, tokenizer, texts) == []


def random_texts(tokenizer, count, rng):
    """Strings of pieces, of characters that are mapped, of blanks and of any others."""
    alphabet = list(
        "中文学习 abcABC　１２é😀؟\u0301\x00\x07\t\n\ufeff▁あガ한국,。!!---(((  aaaee000"
    )
    alphabet += list(tokenizer.normalisation)
    texts = []
    for _ in range(count):
        some = rng.integers(0, len(tokenizer.pieces), rng.integers(0, 8))
        parts = [tokenizer.pieces[i] for i in some]
        parts += [alphabet[i] for i in rng.integers(0, len(alphabet), rng.integers(0, 16))]
        parts += [chr(code) for code in rng.integers(0, 0xD800, rng.integers(0, 4))]
        parts += [chr(code) for code in rng.integers(0xE000, 0x110000, rng.integers(0, 3))]
        texts.append("".join(rng.permutation(parts)) if parts else "")
    return texts


@pytest.mark.parametrize("count", [1000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_random_strings(graph, tokenizer, count):
    texts = random_texts(tokenizer, count, np.random.default_rng(0))
    assert wrong_of(graph, tokenizer, texts) == []


@pytest.mark.parametrize(
    ("max_tokens", "prefix"),
    [
        (4, "query: "),
        (9, ""),
        *(pytest.param(*given, marks=pytest.mark.slow) for given in ((3, ""), (20, "你 "))),
    ],
)
def test_short_rows_and_other_prefixes(tokenizer, max_tokens, prefix):
    data = tokenizer.to_dict() | {"max_tokens": max_tokens, "prefix": prefix}
    short = UnigramTokenizer(**{key: data[key] for key in data if key != "kind"})
    texts = random_texts(tokenizer, 1000, np.random.default_rng(max_tokens))
    texts = HAND_MADE + [a + b for a, b in zip(texts, reversed(texts), strict=True)]
    assert wrong_of(GraphUnigram(short), short, texts) == []


def test_bytes_that_are_no_text(graph, tokenizer):
    rng = np.random.default_rng(0)
    texts = [bytes(rng.integers(0, 256, size).tolist()) for size in rng.integers(0, 40, 1000)]
    texts += [("中" * 300).encode()[:size] for size in range(500, 530)]
    expected, _ = tokenizer.encode_batch([text.decode("utf-8", "replace") for text in texts])
    token_ids, _ = graph(tf.constant(texts))
    np.testing.assert_array_equal(token_ids, expected)


def test_cut_within_a_character():
    """The head of a long text ends in half of a character: the piece that it ends counts."""
    pieces = {"▁": -1.0, "a": -1.0, "中": -1.0, "a中": -0.5}
    tokenizer = table(pieces, normalisation={"D": ""}, max_tokens=4)
    texts = ["D" * size + "a中" * 40 for size in range(60)]
    assert wrong(GraphUnigram(tokenizer), tokenizer, texts) == []


@pytest.mark.parametrize(
    "text",
    [
        *("学" * 50_000, "😀" * 50_000, "hello world " * 10_000, "\x01" * 100_000 + "中"),
        *(
            " " * 200_000 + "x",
            "，。" * 30_000 + "完",
            "\U0010ffff" * 9_000 + "学习",
            "\u0378" * 9_000,
        ),
        "0" * 3_001,  # no place that every way passes: all of it decides
    ],
    ids=lambda text: ascii(text[:2]),
)
def test_very_long_texts(graph, tokenizer, text):
    others = ["机器学习", "", text[:500] + "a" + text[500:2000]]
    assert wrong(graph, tokenizer, [text, *others]) == []


def shared_texts(folder, count):
    """File -> the texts of its first rows, from the data beside the repository."""
    files = sorted([*folder.glob("*/items.csv.gz"), *folder.glob("corpus/*/*.csv.gz")])
    for path in files:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, nrows=count)
        yield path, [text for name in frame.columns for text in frame[name]]


@pytest.mark.parametrize("count", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_shared_data_and_corpora(graph, tokenizer, shared_data, count):
    texts = shared_texts(shared_data, count)
    result = {path: wrong_of(graph, tokenizer, some) for path, some in texts}
    assert len(result) > 10 and not any(result.values()), result


# --- Against the Python tokenizer: any table ---


def random_tokenizer(rng):
    """Few letters and round scores, so that ways meet and tie; repeated pieces, marks inside."""
    letters = np.array(list("ab中▁"))
    scores, pieces = [-0.1, -1.0, -2.0, -1.7, -3.1], []
    for size in rng.integers(1, 7, rng.integers(1, 40)):
        pieces.append("".join(rng.choice(letters, size, p=[0.5, 0.25, 0.15, 0.1])))
    return UnigramTokenizer(
        pieces,
        rng.choice(scores, len(pieces)).tolist(),
        normalisation={
            "A": "a",
            "D": "",
            "S": " ",
            "M": "a▁\u3000b中",
            "▁": rng.choice(["▁", " "]),
        },
        unknown_score=float(rng.choice([-1.0, -2.0, -10.0])),
        max_tokens=int(rng.integers(3, 30)),
        prefix=str(rng.choice(["", "a", "b "])),
    )


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 12))]
)
def test_any_table(seed):
    rng = np.random.default_rng(seed)
    tokenizer = random_tokenizer(rng)
    graph = GraphUnigram(tokenizer)
    letters = np.array(list("aaaaabb中 ▁xADSM"))
    sizes = [*rng.integers(0, 30, 400), *rng.integers(0, 2000, 20)]
    texts = ["".join(rng.choice(letters, size)) for size in sizes]
    texts += ["a" * size for size in range(0, 1500, 61)]
    texts += ["ab" * size + "b" * int(rng.integers(9)) for size in range(0, 700, 37)]
    assert wrong_of(graph, tokenizer, texts, 100) == []


# --- Saved and loaded ---

LOAD = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
for name in ("bert4keras", "tf_keras", "kerasrec", "tensorflow_text"):
    sys.modules[name] = None  # importing them is an error here
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
texts = tf.constant(json.load(sys.stdin))
by_call = loaded(texts)[0].numpy().tolist()
by_name = loaded.signatures["tokens"](texts=texts)
assert by_name["token_ids"].numpy().tolist() == by_call
assert not by_name["segment_ids"].numpy().any()
print(json.dumps(by_call))
"""


def test_saved_and_loaded_by_plain_tensorflow(graph, tokenizer, tmp_path):
    """A folder that was moved, in a process where kerasrec and Keras 2 cannot be imported."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="texts")])
    def tokens(texts):
        return dict(zip(("token_ids", "segment_ids"), graph(texts), strict=True))

    tf.saved_model.save(graph, str(tmp_path / "saved"), signatures={"tokens": tokens})
    moved = (tmp_path / "saved").rename(tmp_path / "moved")
    texts = HAND_MADE + load_mooccube()[1].texts()[:100]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(moved)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == tokenizer.encode_batch(texts)[0].tolist()
    assert sum(path.stat().st_size for path in moved.rglob("*") if path.is_file()) < 8e6


def test_no_python_in_the_graph(graph):
    definition = graph.__call__.get_concrete_function().graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    kinds = {node.op for node in nodes}
    assert "While" in kinds or "StatelessWhile" in kinds
    assert [kind for kind in kinds if "Py" in kind or ">" in kind] == []  # Text>Op: of add-ons


# --- Errors ---


def test_another_tokenizer():
    other = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])
    with pytest.raises(ValueError, match="needs a UnigramTokenizer. Received: .*'wordpiece'"):
        GraphUnigram(other)


def test_scores_that_are_no_numbers():
    with pytest.raises(ValueError, match="must be finite"):
        GraphUnigram(table({"a": float("-inf")}))
