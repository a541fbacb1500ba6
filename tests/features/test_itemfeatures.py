import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasrec.features import itemfeatures
from kerasrec.features.itemfeatures import ItemFeatures, fit_item_features


@pytest.fixture
def shop():
    return pd.DataFrame(
        {
            "item_id": list("abcdef"),
            "title": [f"商品{i}" for i in range(6)],
            "brand": ["李宁", "李宁", "安踏", "安踏", "安踏", "孤品"],
            "tags": ["跑步|夏", "跑步", "夏", "", "跑步|夏", "冬"],
            "price": ["￥10", "20", "30", "", "50", "60"],
        }
    )


def test_a_category_is_one_column_for_each_value_that_two_items_have(shop):
    features = fit_item_features(shop, "brand:category")
    assert features.columns["brand"].values == ("安踏", "李宁")
    # idf: log(6 / 3) / log(6 / 2) and log(6 / 2) / log(6 / 2)
    rare, common = 1.0, np.log(2) / np.log(3)
    expected = [[0, rare]] * 2 + [[common, 0]] * 3 + [[0, 0]]
    np.testing.assert_allclose(features.rows(shop), expected, rtol=1e-6)


def test_a_list_shares_the_length_among_its_known_values(shop):
    features = fit_item_features(shop, "tags:categories")
    assert features.columns["tags"].values == ("跑步", "夏")  # both three times
    weight = np.log(2) / np.log(3)
    both = weight / np.sqrt(2)
    expected = [[both, both], [weight, 0], [0, weight], [0, 0], [both, both], [0, 0]]
    np.testing.assert_allclose(features.rows(shop), expected, rtol=1e-6)


def test_a_number_lies_between_two_quantiles(shop, monkeypatch):
    monkeypatch.setattr(itemfeatures, "KNOTS", 3)
    features = fit_item_features(shop, "price:number")
    assert features.columns["price"].knots == (10.0, 30.0, 60.0)
    now = pd.DataFrame({"price": ["10", "25", "45", "5", "99", "", "无"]})
    expected = [
        *([1, 0, 0], [0.25, 0.75, 0], [0, 0.5, 0.5]),
        *([1, 0, 0], [0, 0, 1]),  # beyond the ends: the ends
        *([0, 0, 0], [0, 0, 0]),  # missing
    ]
    np.testing.assert_allclose(features.rows(now), expected)


def test_unknown_equals_missing_and_a_column_may_be_away(shop):
    features = fit_item_features(shop, "brand:category tags:categories price:number")
    unknown = pd.DataFrame({"brand": ["新牌"], "tags": ["新"], "price": [""]})
    assert not features.rows(unknown).any() and not features.rows(unknown[[]].iloc[:1]).any()
    assert features.rows(shop.drop(columns="price")).shape == (6, features.width)


def test_of_many_values_the_rarer_ones_share_places(monkeypatch):
    monkeypatch.setattr(itemfeatures, "OWN", 2)
    monkeypatch.setattr(itemfeatures, "SHARED", 2)
    values = [v for number, v in enumerate("abcdef") for _ in range(8 - number)]
    features = fit_item_features(pd.DataFrame({"brand": values}), "brand:category")
    assert features.width == 4
    rows = features.rows(pd.DataFrame({"brand": list("abcdef")}))
    assert [int(row.argmax()) for row in rows] == [0, 1, 2, 3, 2, 3]


def test_auto_takes_what_reads_as_features(shop):
    assert repr(fit_item_features(shop)) == (
        "ItemFeatures(brand:category, tags:categories, price:number)"
    )
    nothing = fit_item_features(shop[["item_id", "title"]])
    assert nothing.width == 0 and nothing.rows(shop).shape == (6, 0)


def test_a_declaration_is_checked(shop):
    with pytest.raises(ValueError, match="brant.*brand"):
        fit_item_features(shop, "brant:category")
    with pytest.raises(ValueError, match="none of which reads so"):
        fit_item_features(shop, "brand:number")


def test_changed_rows_are_found(shop):
    features = fit_item_features(shop)
    now = shop.assign(price=["10", "20", "55", "", "50", "60"], title="x")
    assert features.changed(shop, now).tolist() == [2]  # ￥10 and 10 are the same


def test_saved_features_are_the_same(shop, tmp_path):
    features = fit_item_features(shop)
    features.save(tmp_path)
    again = ItemFeatures.load(tmp_path)
    np.testing.assert_array_equal(again.rows(shop), features.rows(shop))
    assert again.fingerprint == features.fingerprint and repr(again) == repr(features)
    assert ItemFeatures.load(tmp_path / "nothing") is None


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(st.lists(st.tuples(TEXTS, TEXTS, st.floats(width=32) | st.none()), min_size=1, max_size=8))
def test_rows_are_finite_and_never_longer_than_one(rows):
    frame = pd.DataFrame(rows, columns=["brand", "tags", "price"])
    features = fit_item_features(frame)
    found = features.rows(frame)
    assert np.isfinite(found).all() and found.dtype == np.float32
    assert (np.linalg.norm(found, axis=1) <= 1 + 1e-6).all()
