"""What a version makes of texts and ready vectors; through `Recommender` in test_recommender.py."""

import numpy as np
import pytest

from kerasrec.recommender.loadedtexts import VersionTexts
from kerasrec.recommender.recommender import Recommender


@pytest.fixture(scope="module")
def loaded(exported_version):
    return Recommender.load(exported_version)


@pytest.fixture(scope="module")
def texts(loaded):
    return VersionTexts(loaded.loaded)


def test_near_is_the_cosine_of_the_text_parts(texts, loaded, toy_items):
    """Against numpy: the text part is the first half of a toy vector, the other is the id's."""
    given = toy_items.texts()[:5]
    index, cosine = texts.near(given, 4)
    width = loaded.manifest["options"]["text_units"]
    parts = loaded.item_vectors(loaded.items.ids)[:, :width]
    parts = parts / np.maximum(np.linalg.norm(parts, axis=1, keepdims=True), 1e-9)
    queries = texts.encode(given)[:, :width]
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    expected = -np.sort(-(queries @ parts.T), axis=1)[:, :4]
    np.testing.assert_allclose(cosine, expected, atol=1e-5)
    found = np.take_along_axis(queries @ parts.T, index - 1, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_near_in_parts_is_near_at_once(texts, toy_items, monkeypatch):
    given = toy_items.texts()[:7]
    index, cosine = texts.near(given, 3)
    monkeypatch.setattr("kerasrec.recommender.loadedtexts._CELLS", 2 * (len(toy_items) + 1))
    again, same = texts.near(given, 3)
    np.testing.assert_array_equal(again, index)
    np.testing.assert_allclose(same, cosine, atol=1e-6)


def test_near_says_nothing_of_a_text_unlike_all_known_ones(texts):
    index, _ = texts.near(["zzzqqq", "机器学习"], 3)
    assert not index[0].any() and index[1].all()


def test_near_of_no_text(texts):
    index, cosine = texts.near([], 3)
    assert index.shape == cosine.shape == (0, 3)


def test_place_refuses_what_is_no_vector_of_the_version(texts, loaded):
    assert not texts.are_vectors  # a version of texts; with ready vectors: test_train_kinds
    dim = loaded.manifest["encoder"]["dim"]
    with pytest.raises(ValueError, match=rf"vectors of shape \(2, {dim}\).*Received: none"):
        texts.place(None, 2)
    with pytest.raises(ValueError, match="all finite"):
        texts.place(np.full((2, dim), np.nan), 2)
    assert texts.place(np.zeros((2, dim)), 2).shape == (2, loaded.loaded.dim)
