import numpy as np
import pandas as pd
import pytest

from kerasrec.data.formats.vectorfiles import pack_vectors
from kerasrec.features.itemfeatures import ItemFeatures, declared_features, fit_item_features
from kerasrec.features.usergroups import choose_user_columns
from kerasrec.text.withfeatures import of_content


def frame_of(vectors, **more):
    cells = ["" if one is None else pack_vectors(np.array([one]))[0] for one in vectors]
    return pd.DataFrame({"item_id": [f"i{n}" for n in range(len(cells))], "image": cells, **more})


def test_vectors_are_whitened_by_themselves_and_a_missing_one_is_zeros():
    # 8 vectors of which only the first number differs: mean 1, standard deviation (8 of n - 1)
    frame = frame_of([[0.0, 5], [2.0, 5]] * 4 + [None])
    features = fit_item_features(frame, {"image": "vector"})
    deviation = (8 / 7) ** 0.5
    expected = np.array([-1, 1] * 4 + [0]) / deviation
    rows = features.rows(frame)
    assert rows.shape == (9, 2)  # one direction for each 4 items
    # of two directions: each row is divided by the root of their number
    np.testing.assert_allclose(abs(rows[:, 0]), abs(expected) / 2**0.5, rtol=2e-3)
    assert rows[0, 0] == -rows[1, 0] and not rows[8].any()
    np.testing.assert_allclose(rows[:, 1], 0, atol=1e-6)
    assert features.description() == {"image": "vector"}


def test_they_are_as_wide_as_the_items_allow():
    rng = np.random.default_rng(0)
    for num_items, width, expected in ((400, 200, 64), (400, 10, 10), (40, 200, 10), (2, 5, 1)):
        frame = frame_of(rng.normal(size=(num_items, width)))
        assert fit_item_features(frame, {"image": "vector"}).width == expected
    assert fit_item_features(frame_of([[1.0], None]), {"image": "vector"}).width == 0


def test_saved_and_read_again_they_are_the_same(tmp_path):
    rng = np.random.default_rng(0)
    frame = frame_of(rng.normal(size=(30, 6)), brand=["x", "y", ""] * 10)
    features = fit_item_features(frame, declared_features(frame, "brand:category"))
    features.save(tmp_path)
    again = ItemFeatures.load(tmp_path)
    assert again.fingerprint == features.fingerprint and again.columns.keys() == {"image", "brand"}
    np.testing.assert_array_equal(again.rows(frame), features.rows(frame))
    plain = fit_item_features(frame, "brand:category")
    plain.save(tmp_path)
    assert "whitening" not in (tmp_path / "features.json").read_text()


def test_what_is_read_is_what_is_declared_and_all_vectors():
    frame = frame_of([[1.0], [2.0]], price=["5", "7"])
    assert declared_features(frame, None) == {"image": "vector"}
    assert declared_features(frame, "price:number") == {"price": "number", "image": "vector"}
    assert declared_features(frame, "image:id") == {"image": "id"}
    assert fit_item_features(frame, "auto").description() == {"price": "number", "image": "vector"}
    assert declared_features(frame.drop(columns="image"), None) == {}


def test_another_picture_is_a_change():
    frame = frame_of([[1.0, 0], [2.0, 1], None, [0.0, 3]])
    features = fit_item_features(frame, {"image": "vector"})
    now = frame.copy()
    now.loc[2, "image"] = now["image"][0]
    now.loc[3, "image"] = ""
    assert features.changed(frame, now).tolist() == [2, 3]
    assert features.changed(frame, frame.drop(columns="image")).tolist() == [0, 1, 3]


def test_lists_of_numbers_are_vectors_where_they_are_declared():
    frame = frame_of([[1.0, 0], [2.0, 1]] * 4)
    written = frame.assign(image=["[1, 0]", "2.0\x1f1.0"] * 4)
    features = fit_item_features(frame, {"image": "vector"})
    np.testing.assert_allclose(features.rows(written), features.rows(frame), atol=1e-5)


def test_what_is_no_vector_or_of_another_width_is_one_sentence():
    features = fit_item_features(frame_of([[1.0, 0], [2.0, 1]]), {"image": "vector"})
    with pytest.raises(
        ValueError, match="image: expected vectors of 2 numbers. Received: one of 3"
    ):
        features.rows(frame_of([[1.0, 2, 3]]))
    for cell in ("picture.png", "1,nan", "vector:A"):
        with pytest.raises(ValueError, match="image: expected a vector of finite numbers"):
            features.rows(pd.DataFrame({"image": [cell]}))
    users = pd.DataFrame({"user_id": ["u"], "taste": ["1,2"]})
    with pytest.raises(ValueError, match="Received: taste:vector. Leave it out"):
        choose_user_columns(users, "taste:vector")


def test_what_items_are_alike_by_is_texts_and_vectors():
    """Of `text(2) | brand(2) | image(...)` the columns of the brand are left out."""
    rng = np.random.default_rng(0)
    image = pack_vectors(rng.standard_normal((6, 3)).astype(np.float32))
    frame = pd.DataFrame({"item_id": list("abcdef"), "brand": list("xxyyxx"), "image": image})
    both = fit_item_features(frame, "brand:category image:vector")
    wide = np.arange(6 * (2 + both.width), dtype=np.float32).reshape(6, -1)
    found = of_content(wide, both)
    assert both.are_vectors.tolist() == [False, False] + [True] * (both.width - 2)
    assert found[0].tolist() == [0, 1, *range(4, 2 + both.width)]
    brands = fit_item_features(frame, "brand:category")
    assert of_content(wide[:, :4], brands)[0].tolist() == [0, 1]
    assert of_content(wide[:, :2], brands)[0].tolist() == [0, 1]  # there is nothing else
    assert of_content(wide, None) is wide
