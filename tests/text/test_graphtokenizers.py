"""Which tokenizer goes into the graph, blank texts, and many texts in chunks."""

import sys
import unicodedata

import numpy as np
import pytest

from kerasrec.backend import tf
from kerasrec.text.graphtokenizers import CHUNK, graph_tokenizer, is_blank, text_vectors
from kerasrec.text.graphwordpiece import GraphWordPiece
from kerasrec.text.tokenizers import UnigramTokenizer, WordPieceTokenizer

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "中"]


def test_graph_tokenizer_gives_the_twin(tmp_path):
    texts = ["中中", "", "x"]
    for tokenizer in (
        WordPieceTokenizer(VOCAB, max_tokens=9),
        UnigramTokenizer(["中", "▁"], [-1.0, -2.0], max_tokens=9),
    ):
        twin = graph_tokenizer(tokenizer, tmp_path)
        found = twin(tf.constant(texts))
        for mine, other in zip(found, tokenizer.encode_batch(texts), strict=True):
            assert mine.numpy().tolist() == other.tolist()
    assert isinstance(graph_tokenizer(WordPieceTokenizer(VOCAB), tmp_path), GraphWordPiece)


def test_what_has_no_twin(tmp_path):
    assert graph_tokenizer(None, tmp_path) is None
    assert graph_tokenizer(object(), tmp_path) is None


def test_blank_is_what_strip_empties():
    chars = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) != "Cs"]
    found = is_blank(tf.constant(chars)).numpy()
    assert [c for c, blank in zip(chars, found, strict=True) if blank] == [
        c for c in chars if not c.strip()
    ]
    texts = ["", " \t\u3000\x1f\u2028 ", " a ", "\x00", " \u200b", b"\xff", b" \xe3\x80"]
    assert is_blank(tf.constant([texts])).numpy().tolist() == [[True, True, *[False] * 5]]


@pytest.mark.parametrize("in_graph", [False, True])
def test_text_vectors_are_those_of_the_texts_alone(in_graph):
    rng = np.random.default_rng(0)
    texts = ["中" * n for n in rng.integers(0, 300, 400)] + [" ", "", "ab", "ba", "ab"]
    chunks = []

    def encode(part):
        if not in_graph:
            chunks.append(part.numpy())
        length = tf.cast(tf.strings.length(part), tf.float32)
        bucket = tf.cast(tf.strings.to_hash_bucket_fast(part, 99), tf.float32)
        return tf.stack([length, bucket], axis=1)

    function = tf.function(text_vectors) if in_graph else text_vectors
    found = function(tf.constant(texts), encode, 2).numpy()
    blank = np.array([not text.strip() for text in texts])
    assert (found[blank] == 0).all() and blank.sum() > 2
    np.testing.assert_array_equal(found[~blank], encode(tf.constant(texts)).numpy()[~blank])
    if not in_graph:
        chunks.pop()
        done = np.concatenate(chunks)
        assert sorted(done) == sorted({text.encode() for text in texts if text.strip()})
        assert all(len(chunk) == CHUNK for chunk in chunks[:-1]) and len(chunks[-1]) <= CHUNK
        assert (np.diff([len(text) for text in done]) >= 0).all()  # little padding


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_text_vectors_of_nothing(texts):
    found = text_vectors(tf.constant(texts, tf.string), None, 3)
    assert found.shape == (len(texts), 3) and not found.numpy().any()
