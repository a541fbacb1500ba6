"""Values of items in real stores: what is newest counts, and others hear of it by its seq."""

import contextlib
import sqlite3

import pytest

from kerasrec.feedback.itemvalues import TAKEN_BACK
from kerasrec.feedback.store import FeedbackStore


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "feedback.db"
    return request.getfixturevalue("postgres_server").new_url()


@pytest.fixture
def store(url):
    with FeedbackStore(url) as opened:
        yield opened


def told(changes):
    return [change[1:] for change in changes]


def test_the_newest_value_of_an_item_and_a_column_is_there(store):
    assert store.item_values() == [] and store.set_items({}) == 0
    first = store.set_items({"甲": {"stock": 0, "price": 9.5}, "b": {"tags": ["x", "y"]}})
    assert told(store.item_values()) == [
        ("甲", "stock", 0),
        ("甲", "price", 9.5),
        ("b", "tags", ["x", "y"]),
    ]
    second = store.set_items({"甲": {"stock": 3}, "b": {"new": True, "brand": None}})
    assert second > first
    newer = store.item_values(first)
    assert told(newer) == [("甲", "stock", 3), ("b", "new", True), ("b", "brand", None)]
    assert [change.seq for change in newer] == sorted(change.seq for change in newer)
    assert len(store.item_values()) == 5 and store.item_values(second) == []
    store.set_items({"甲": {"stock": TAKEN_BACK}})
    (back,) = store.item_values(second)
    assert back.value is TAKEN_BACK and back.item_id == "甲"


def test_values_are_there_after_a_restart_and_for_others(url, store):
    store.set_items({"a": {"stock": 0}})
    with FeedbackStore(url) as other:
        assert told(other.item_values()) == [("a", "stock", 0)]
        other.set_items({"a": {"stock": 1}})
    assert told(store.item_values()) == [("a", "stock", 1)]


def test_a_bad_value_stores_nothing(store):
    for changes in (
        {"a": {"stock": 1}, "": {"stock": 1}},
        {"a": {"stock": 1, "": 1}},
        {"a": {"stock": 1, "price": float("nan")}},
        {"a": {"stock": 1, "price": object()}},
        {"a": {"stock": 1, "brand": "x" * 5000}},
        {"a": {"stock": 1, "brand": "x\x00y"}},
        {"a": {"stock": 1, "brand": "\ud800"}},
        {"a": {"stock": 1, "item_id": "a"}},
    ):
        with pytest.raises(ValueError, match=r"items: expected .* Nothing was stored"):
            store.set_items(changes)
    assert store.item_values() == []


def test_a_store_from_before_there_were_values(tmp_path):
    path = tmp_path / "old.db"
    with FeedbackStore(path) as store:
        store.add([{"user_id": "u", "item_id": "a"}])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE feedback_items")
        connection.commit()
    with FeedbackStore(path) as store:
        assert store.item_values() == []
        store.set_items({"a": {"stock": 0}})
        assert told(store.item_values()) == [("a", "stock", 0)]


def test_many_values_at_once(store):
    store.set_items({f"i{number}": {"stock": number} for number in range(12_000)})
    store.set_items({f"i{number}": {"stock": -number} for number in range(12_000)})
    found = store.item_values()
    assert len(found) == 12_000 and found[-1][1:] == ("i11999", "stock", -11_999)
