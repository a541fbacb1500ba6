import logging

import numpy as np
import pytest

from kerasrec.text import plainencoders
from kerasrec.text.plainencoders import TfidfEncoder

TEXTS = ["机器学习基础", "机器学习进阶", "古代汉语", "现代汉语", "Java 程序设计", "C 程序设计"]


def test_similar_characters_are_near():
    vectors = TfidfEncoder().fit(TEXTS).encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -1)
    assert cosine.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]


def test_full_width_keeps_the_cosine_of_the_ngrams():
    """With as many components as texts the SVD loses nothing: equal to a slow TF-IDF."""
    vectors = TfidfEncoder().fit(TEXTS).encode(TEXTS)
    places = [(t.lower(), i, n) for t in TEXTS for n in (1, 2, 3) for i in range(len(t) + 1 - n)]
    grams = sorted({text[i : i + n] for text, i, n in places})
    counts = np.array(
        [[sum(t.lower()[i:].startswith(g) for i in range(len(t))) for g in grams] for t in TEXTS]
    )
    idf = np.log((1 + len(TEXTS)) / (1 + (counts > 0).sum(axis=0))) + 1
    weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors @ vectors.T, weights @ weights.T, atol=1e-5)


def test_dim_and_unknown_texts():
    encoder = TfidfEncoder(dim=3).fit(TEXTS)
    assert encoder.dim == 3
    assert encoder.encode(TEXTS, batch_size=2).shape == (6, 3)
    assert not encoder.encode(["ЖЖЖ", ""]).any()
    assert encoder.encode([]).shape == (0, 3)
    assert TfidfEncoder(dim=128).fit(TEXTS[:2]).dim == 2


def test_says_that_it_is_lexical(caplog):
    plainencoders._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        encoder = TfidfEncoder().fit(TEXTS)
        TfidfEncoder().fit(TEXTS)
    assert caplog.text.count("lexical") == 1
    assert "lexical" in encoder.description["note"]
    assert encoder.description["dim"] == 6


def test_save_and_load(tmp_path):
    encoder = TfidfEncoder(dim=4).fit(TEXTS)
    encoder.save(tmp_path / "e")
    loaded = TfidfEncoder.load(tmp_path / "e")
    new = ["机器", "Java", "新"]
    np.testing.assert_allclose(loaded.encode(new), encoder.encode(new), atol=1e-6)
    assert loaded.fingerprint == encoder.fingerprint
    assert loaded.description == encoder.description
    assert TfidfEncoder(dim=4).fit(TEXTS[:5]).fingerprint != encoder.fingerprint


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=r"learned nothing yet. Call encoder.fit\(texts\) first"):
        TfidfEncoder().encode(TEXTS)
    with pytest.raises(ValueError, match="learned nothing yet"):
        TfidfEncoder().save(tmp_path)
    with pytest.raises(ValueError, match="Received: 2 empty texts"):
        TfidfEncoder().fit(["", " "])
    assert TfidfEncoder().description["fingerprint"] is None
