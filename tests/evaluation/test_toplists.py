"""Recommendation tables against a full sort, and their encoding."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasrec.data.histories import Histories
from kerasrec.evaluation.encodedlists import encode_lists
from kerasrec.evaluation.toplists import recommend_top_k, top_k


def histories(**rows):
    """`histories(ann=[1, 2], bob=[])`."""
    items = np.concatenate([*rows.values(), []]).astype(np.int32)
    offsets = np.cumsum([0] + [len(row) for row in rows.values()])
    zeros, ones = np.zeros(len(items), np.int64), np.ones(len(items), np.float32)
    return Histories(np.array(list(rows), object), offsets, items, zeros, zeros, ones)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_top_k_agrees_with_a_full_sort(data):
    num_items, k = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 12))
    number = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1e-30, 2.0, np.inf])
    row = st.lists(number, min_size=num_items + 1, max_size=num_items + 1)
    scores = np.array(data.draw(st.lists(row, min_size=1, max_size=3)), np.float32)
    index, best = top_k(scores, k)
    assert index.shape == best.shape == (len(scores), min(k, num_items))
    for scored, found, values in zip(scores, index, best, strict=True):
        listed = [item for item in range(1, num_items + 1) if scored[item] > -np.inf]
        order = sorted(listed, key=lambda item: (-scored[item], item))[:k]  # noqa: B023
        assert found.tolist() == order + [0] * (len(found) - len(order))
        assert values.tolist() == [scored[i] if i else -np.inf for i in found]


def test_top_k_errors():
    with pytest.raises(ValueError, match="k must be at least 1. Received: 0"):
        top_k([[0, 1.0]], 0)
    with pytest.raises(ValueError, match="NaN in 1 of 1 rows"):
        top_k([[0, np.nan]], 1)


def test_recommend_top_k_leaves_out_the_history():
    def score(rows):
        return np.tile([9, 0.1, 0.4, 0.3, 0.4], (rows.num_users, 1))

    users = histories(ann=[2, 2], bob=[], eve=[1, 2, 3, 4])
    lists = recommend_top_k(score, users, ["a", "b", "c", "d"], k=3)
    assert list(lists.columns) == ["user_id", "item_id", "rank", "score"]
    ann = lists[lists["user_id"] == "ann"]
    assert ann["item_id"].tolist() == ["d", "c", "a"] and ann["rank"].tolist() == [1, 2, 3]
    assert lists[lists["user_id"] == "bob"]["item_id"].tolist() == ["b", "d", "c"]  # tie: b first
    assert "eve" not in set(lists["user_id"])  # nothing left to list
    seen = recommend_top_k(score, users, ["a", "b", "c", "d"], k=1, keep_seen=True)
    assert seen["item_id"].tolist() == ["b", "b", "b"]


def test_recommend_top_k_batches_change_nothing():
    rng = np.random.default_rng(0)
    users = histories(**{f"u{n}": rng.integers(1, 30, n % 5) for n in range(40)})
    table = rng.normal(size=(31, 31)).astype(np.float32)

    def score(rows):
        return np.stack(
            [table[mine].sum(axis=0) for mine in np.split(rows.items, rows.offsets[1:-1])]
        )

    whole = recommend_top_k(score, users, np.arange(30).astype(str), k=7)
    parts = recommend_top_k(score, users, np.arange(30).astype(str), k=7, batch_size=3)
    pd.testing.assert_frame_equal(whole, parts)
    assert whole.groupby("user_id", observed=False).size().eq(7).all()


def test_recommend_top_k_without_users():
    lists = recommend_top_k(lambda rows: 1 / 0, histories(), ["a"], k=3)
    assert list(lists.columns) == ["user_id", "item_id", "rank", "score"] and lists.empty


def test_recommend_top_k_errors():
    with pytest.raises(ValueError, match=r"must return \(1, 3\) scores"):
        recommend_top_k(lambda rows: np.ones((1, 2)), histories(ann=[1]), ["a", "b"], k=1)
    with pytest.raises(ValueError, match="NaN in 1 of 1 rows"):
        recommend_top_k(lambda rows: [[0, np.nan, 1]], histories(ann=[]), ["a", "b"], k=1)


def test_encode_lists():
    recs = pd.DataFrame(
        {"user_id": list("babz"), "item_id": list("xyzx"), "score": [0.1, 0.5, 0.9, 1.0]}
    )
    test = pd.DataFrame({"user_id": ["b", "a", "b"], "item_id": ["q", "y", "q"]})
    train = pd.DataFrame({"user_id": ["t", "a"], "item_id": ["x", "x"]})
    found = encode_lists(recs, test, train, ["x", "y", "z"])
    assert found.user_names.tolist() == ["b", "a"]
    assert found.item_names.tolist() == ["x", "y", "z", "q"] and found.num_catalogue == 3
    assert found.list_user.tolist() == [0, 0, 1]
    assert found.list_item.tolist() == [2, 0, 1] and found.list_place.tolist() == [1, 2, 1]
    assert found.test_user.tolist() == [0, 1] and found.test_item.tolist() == [3, 1]
    assert found.train_user.tolist() == [-1, 1]
    assert found.num_train_users == 2 and found.users_not_in_test == 1
