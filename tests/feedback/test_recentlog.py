"""The newest events of a store in memory, beside the histories that the store itself gives."""

import sqlite3
import time

import numpy as np
import pandas as pd
import pytest
from manifests import real_manifest

from kerasrec.data.histories import make_histories
from kerasrec.data.interactions import Items
from kerasrec.feedback.recentlog import AT_ONCE, RecentLog, hashed, told_of
from kerasrec.feedback.store import FeedbackStore
from kerasrec.versions.manifest import UpdateFacts

NOW = 1_700_000_000
ITEMS = ["a", "b", "c", "课程"]
KINDS = ("click", "view", "purchase", "dislike", "impression", "rating")


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "f.db") as store:
        yield store


def events(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "user_id": f"u{rng.integers(9)}",
            "item_id": ITEMS[rng.integers(4)],
            "event": KINDS[rng.integers(6)],
            "value": float(rng.integers(1, 6)),
            "timestamp": NOW + int(rng.integers(50)),
            "event_id": f"{seed}-{n}",
        }
        for n in range(count)
    ]


def by_user(histories, hash_of=lambda ids: ids):
    """What each user did, by the hash of the user."""
    users, ends = hash_of(histories.user_ids), histories.offsets[1:-1]
    columns = histories.items, histories.timestamps, histories.events, histories.values
    parts = zip(*(np.split(column, ends) for column in columns), strict=True)
    return {
        int(user): [part.tolist() for part in of_user]
        for user, of_user in zip(users, parts, strict=True)
    }


def test_histories_are_those_of_the_store(store):
    held = RecentLog()
    held.read(store)
    assert len(held) == 0 and held.histories(ITEMS).num_users == 0
    for seed in range(3):
        store.add(events(200, seed))
        before = held.state
        held.read(store)
        assert held.state != before
        frame = store.interactions(order="seq")
        want = by_user(make_histories(frame, Items(pd.DataFrame({"item_id": ITEMS}))), hashed)
        assert by_user(held.histories(ITEMS)) == want and len(want) == 9
    state = held.state
    store.add([{"user_id": "u1", "item_id": "a", "event": "impression", "timestamp": NOW}])
    held.read(store)
    assert held.state == state  # nothing that counts


def test_events_of_other_items_are_left_out(store):
    store.add(events(300))
    held = RecentLog()
    held.read(store)
    some = held.histories(["课程", "none", "b"])
    frame = store.interactions().frame
    assert set(some.items.tolist()) == {1, 3}
    assert len(some.items) == frame["item_id"].isin(["课程", "b"]).sum()
    nobody = held.histories(["none"])
    assert nobody.num_users == 0 and nobody.offsets.tolist() == [0]


def test_the_newest_are_kept(store):
    clicks = [
        {"user_id": "u", "item_id": "a", "timestamp": NOW + n, "event_id": str(n)}
        for n in range(2 * AT_ONCE + 7)
    ]
    store.add(clicks)
    held = RecentLog(most=30)
    held.read(store)
    assert held.histories(ITEMS).timestamps.tolist() == list(
        range(NOW + 2 * AT_ONCE - 23, NOW + 2 * AT_ONCE + 7)
    )
    store.add([{"user_id": "u", "item_id": "b", "timestamp": NOW}])
    held.read(store)
    assert len(held) == 30 and held.histories(ITEMS).items.tolist() == [2] + [1] * 29
    whole = RecentLog()
    whole.read(store)
    assert len(whole) == 2 * AT_ONCE + 8


def test_who_was_forgotten_is_gone(store):
    store.add(events(300))
    held = RecentLog()
    held.read(store)
    state, user = held.state, int(hashed(["u3"])[0])
    assert user in by_user(held.histories(ITEMS))
    store.forget("u3")
    held.read(store)
    assert held.state != state and user not in by_user(held.histories(ITEMS))
    assert len(held) == len(store.interactions())


def test_a_read_that_is_given_up_is_made_good(store):
    store.add(events(100))
    held = RecentLog()
    held.read(store, lambda: True)
    assert len(held) == 0
    held.read(store)
    assert len(held) == len(store.interactions())


def test_what_was_erased_since(store):
    store.add(events(300))
    rows, began = store.forget("u3"), int(time.time()) - 60
    held = RecentLog()
    held.read(store)
    assert held.erased_since(began) == rows > 0
    assert held.erased_since(began + 3600) == 0


def test_a_restored_copy_is_another_store(store, tmp_path, caplog):
    """It has the id of the lost one, and other events under the numbers that came after."""
    store.add(events(50))
    copy = tmp_path / "copy.db"
    with sqlite3.connect(store.name) as lost, sqlite3.connect(copy) as other:
        lost.backup(other)
    lost.close()
    other.close()
    store.add(events(50, seed=1))
    told = UpdateFacts(store=store.id, seq=store.last_seq(), erasures=0)
    known, stranger = real_manifest()._replace(update=told, version=3), real_manifest()
    assert told_of(store, known) == told and told_of(store, stranger) is None
    assert told_of(store, known._replace(update=told._replace(store="another"))) is None
    erased = told._replace(seq=50, erasures=1)
    with FeedbackStore(copy) as restored:
        assert restored.id == store.id and caplog.text == ""
        assert told_of(restored, known) is None
        assert [(r.version, r.seq, r.last) for r in caplog.records] == [(3, 100, 50)]
        assert told_of(restored, known._replace(update=erased)) is None
    newest = store.read()["user_id"].iloc[-1]
    store.forget(newest)
    assert told_of(store, known) == told  # its last number is smaller, and it is known
