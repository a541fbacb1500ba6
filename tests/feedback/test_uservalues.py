"""What is known of users in real stores: the newest counts, and who is forgotten leaves nothing."""

import contextlib
import sqlite3

import pandas as pd
import pytest

from kerasrec.feedback.store import FeedbackStore, UsersAdded


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "feedback.db"
    return request.getfixturevalue("postgres_server").new_url()


@pytest.fixture
def store(url):
    with FeedbackStore(url) as opened:
        yield opened


def test_a_value_is_there_until_it_is_taken_back(url, store):
    assert store.user_values("u") == {} and store.users() is None
    given = {"u": {"age": 30, "city": "上海", "tags": ["甲", "乙"], "vip": True}, "v": {"age": 7.5}}
    assert store.set_users(given) == 5
    assert store.user_values("u") == given["u"] and store.user_values("v") == given["v"]
    store.set_users({"u": {"age": 31, "city": None}, "v": {"age": None, "no": None}})
    assert store.user_values("u") == {"age": 31, "tags": ["甲", "乙"], "vip": True}
    with FeedbackStore(url) as other:  # after a restart, and for others
        assert other.user_values("u")["age"] == 31 and other.user_values("v") == {}
        found = other.users().frame
    assert found.to_dict("records") == [
        {"user_id": "u", "age": "31", "tags": "甲\x1f乙", "vip": "true"}
    ]
    assert store.set_users({}) == 0


def test_who_is_forgotten_leaves_no_value_and_no_older_table_brings_it_back(store):
    table = pd.DataFrame({"uid": ["u", "v"], "city": ["上海", "北京"], "age": ["30", ""]})
    assert store.import_users(table) == UsersAdded(2, 3, 0)
    store.add([{"user_id": "u", "item_id": "a"}])
    assert store.forget("u") == 1
    assert store.user_values("u") == {} and store.user_values("v") == {"city": "北京"}
    assert store.import_users(table) == UsersAdded(1, 1, 1)
    assert store.user_values("u") == {}
    store.set_users({"u": {"city": "广州"}})  # there anew
    assert store.user_values("u") == {"city": "广州"}


def test_a_table_changes_the_columns_that_it_has(store):
    store.set_users({"u": {"age": 30, "city": "上海", "vip": "yes"}})
    store.import_users(pd.DataFrame({"user_id": ["u"], "age": ["31"], "city": [""]}))
    assert store.user_values("u") == {"age": "31", "vip": "yes"}


def test_the_whole_table_comes_back_in_parts(store):
    users = [f"u{number:05}" for number in range(12_000)]
    store.import_users(pd.DataFrame({"user_id": users, "age": [str(n) for n in range(12_000)]}))
    found = store.users()
    assert found.frame["user_id"].tolist() == users
    assert found.of(["u11999", "no"])["age"].tolist() == ["11999", ""]


def test_a_bad_value_stores_nothing(store):
    for changes in (
        {"u": {"age": 1}, "": {"age": 1}},
        {"u": {"age": 1, "": 1}},
        {"u": {"age": float("nan")}},
        {"u": {"age": object()}},
        {"u": {"city": "x" * 5000}},
        {"u": {"city": "x\x00y"}},
        {"u": {"user_id": "u"}},
    ):
        with pytest.raises(ValueError, match=r"users: expected .* Nothing was stored"):
            store.set_users(changes)
    assert store.users() is None


def test_a_store_from_before_there_were_users(tmp_path):
    path = tmp_path / "old.db"
    with FeedbackStore(path) as store:
        store.add([{"user_id": "u", "item_id": "a"}])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE feedback_user_values")
        connection.commit()
    with FeedbackStore(path) as store:
        assert store.user_values("u") == {} and store.users() is None
        assert store.forget("u") == 1
        store.set_users({"u": {"age": 3}})
        assert store.user_values("u") == {"age": 3}


def test_forgotten_values_are_gone_from_the_disk(tmp_path):
    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        store.set_users({"u": {"city": "Zanzibar-Altstadt"}})
        store.forget("u")
    assert b"Zanzibar" not in path.read_bytes()
