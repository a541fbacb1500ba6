"""The next version of a model from a feedback store, which knows what came in since."""

import json
import shutil

import numpy as np
import pytest
from loopchecks import (
    _distance,
    broken_versions,
    difference,
    kill_update,
    send_shuffled,
    start_update,
)

from kerasrec.feedback.database import EVENTS, sa
from kerasrec.feedback.intake import FIELDS
from kerasrec.feedback.store import FeedbackStore
from kerasrec.fusion.recency import Recency
from kerasrec.loop.drifting import drift
from kerasrec.loop.updating import _erased, update, update_from_store
from kerasrec.recommender.recommender import Recommender
from kerasrec.versions import folders
from kerasrec.versions.derive import export_again

DAY = 86400


def fill(store, week_log):
    """The whole week_log but for the last two days."""
    frame = week_log.frame.sort_values("timestamp", kind="stable")
    store.add(week_log.replace(frame[frame["timestamp"] <= frame["timestamp"].max() - 2 * DAY]))


@pytest.fixture
def store(week_log, tmp_path):
    """A store in which the new week came last."""
    with FeedbackStore(tmp_path / "feedback.db") as store:
        fill(store, week_log)
        yield store


@pytest.fixture(scope="module")
def updated_once(exported_version, week_log, grown_items, tmp_path_factory):
    """A folder with a store and a model of which version 2 is updated from it."""
    folder = tmp_path_factory.mktemp("updated")
    shutil.copytree(exported_version, folder / "toy")
    with FeedbackStore(folder / "feedback.db") as store:
        fill(store, week_log)
        update_from_store(folder / "toy", store, grown_items, force=True)
    return folder


@pytest.fixture
def updated(updated_once, tmp_path):
    """`(folder of the model, store)`: a copy of `updated_once` to write into."""
    folder = shutil.copytree(updated_once, tmp_path / "updated")
    with FeedbackStore(folder / "feedback.db") as store:
        yield folder / "toy", store


def test_from_a_store(updated):
    toy_base, store = updated
    told = folders.read_manifest(toy_base / "2").as_dict()["update"]
    assert (told["seq"], told["store"]) == (store.last_seq(), store.id)  # an id: no path leaks
    with pytest.raises(ValueError, match="Received: 0"):
        update_from_store(toy_base, store)


@pytest.fixture
def with_2090(updated, week_log, caplog):
    """`(folder of the model, store, version 3, sentence)`: the store has a click of 2090, as an
    older kerasrec stored it, and the whole week."""
    toy_base, store = updated
    row = {name: None for name in FIELDS} | {"event_id": "2090", "user_id": "clock"}
    row |= {"item_id": week_log.frame["item_id"].iloc[0], "event": "click"}
    with store._database.writing() as connection:
        connection.execute(sa.insert(EVENTS).values(row | {"timestamp": 3_786_912_000}))
    store.add(week_log)
    found = update_from_store(toy_base, store, force=True)
    sentence = "1 event lies more than 86400 seconds ahead of this machine's clock (2090-01-01)"
    assert sentence in caplog.text
    return toy_base, store, found.version, sentence


def test_an_event_of_the_future_is_no_end(with_2090, week_log):
    """One click of 2090 once made all later updates fail."""
    toy_base, store, version, sentence = with_2090
    last = int(week_log.frame["timestamp"].max())
    assert version.name == "3" and last - DAY < Recommender.load(version).log_end <= last
    facts = folders.read_manifest(version).as_dict()
    assert facts["data"]["interactions"] == store.stats().events - 1
    found = drift(toy_base / "2", store.interactions())
    assert found.notes[0].startswith(sentence) and found.table["end"].max() < "2090"
    stats = store.stats()
    assert (stats.ahead, stats.ahead_first, stats.last) == (1, 3_786_912_000, 3_786_912_000)


@pytest.mark.slow
def test_an_update_after_that_of_the_future(with_2090, week_log):
    toy_base, store, _, _ = with_2090
    late = int(week_log.frame["timestamp"].max()) + DAY
    items = enumerate(week_log.frame["item_id"].unique()[:30])
    store.add([{"user_id": f"u{n}", "item_id": i, "timestamp": late + n} for n, i in items])
    found = update_from_store(toy_base, store, force=True)
    assert found.version.name == "4" and Recommender.load(found.version).log_end == late + 29


@pytest.mark.slow
def test_a_version_that_took_the_future_as_its_end(updated, week_log, caplog):
    """As an older kerasrec made it: the store still says what is new, a file cannot."""
    toy_base, store = updated
    click = {"user_id": "clock", "item_id": week_log.frame["item_id"].iloc[0]}
    store.add([click | {"timestamp": "2035-01-01"}], max_ahead=None)
    store.add(week_log)
    recommender = Recommender.load(toy_base)
    end = recommender.log_end
    path = recommender.version / folders.RECENCY
    recency = Recency.load(path)
    recency._replace(counts=recency.counts._replace(time=2_051_222_400)).save(path)
    with pytest.raises(ValueError, match="takes 2035-01-01 00:00:00 UTC as the end of its log"):
        update(toy_base, store.interactions())
    with pytest.raises(ValueError, match="takes 2035-01-01T00:00:00 as the end .* say by since"):
        drift(toy_base, store.interactions())
    assert "is left out" in drift(toy_base, store.interactions(), since=end).notes[0]
    assert update_from_store(toy_base, store, force=True).version.name == "3"
    assert "2035-01-01 00:00:00 UTC): nothing counts as recent" in caplog.text


@pytest.mark.slow
def test_new_is_what_came_in_since_the_parent(updated, week_log):
    """Not only what happened since: an event of long ago may come late."""
    toy_base, store = updated
    stored = store.add(week_log).stored
    assert stored > 50
    late = week_log.frame[week_log.frame["item_id"] != "new-3"].iloc[:1]
    store.add([{"user_id": "late", "item_id": late["item_id"].iloc[0], "timestamp": 1_500_000_000}])
    second = update_from_store(toy_base, store, force=True)
    assert second.events == stored + 1
    facts = folders.read_manifest(second.version).as_dict()
    assert facts["data"]["interactions"] == store.stats().events


@pytest.mark.slow
def test_an_erased_user_is_forgotten_by_training_from_nothing(updated, week_log):
    toy_base, store = updated
    user = week_log.frame["user_id"].value_counts().index[0]
    rows = store.forget(user)
    found = update_from_store(toy_base, store)
    facts = folders.read_manifest(found.version).as_dict()
    assert found.reason == "trained from nothing, without 1 erased users"
    assert facts["update"]["erased"] == {"users": 1, "rows": rows}
    assert facts["parent"] == 2 and facts["data"]["users"] == store.stats().users
    assert facts["options"]["text_units"] == 8 and facts["trainer"]["epochs"] == 2
    # what was forgotten once is not forgotten again
    with pytest.raises(ValueError, match="Received: 0"):
        update_from_store(toy_base, store)


def test_a_derived_version_and_another_store_forget_no_erasure(updated, week_log, tmp_path):
    """Neither an export between erasure and update, nor a store that was moved, hides a user."""
    from kerasrec.versions.manifest import UpdateFacts

    toy_base, store = updated
    store.forget(week_log.frame["user_id"].iloc[0])
    told = folders.read_manifest(export_again(toy_base / "2", k=7))
    assert len(_erased(told.update, store.erasures(), told)) == 1
    # of a first version, which knows no store: what was erased since it began to learn
    manifest = folders.read_manifest(toy_base / "1")
    assert len(_erased(UpdateFacts(), store.erasures(), manifest)) == 1
    # a store with next to nothing in it is no ground to train from nothing
    with FeedbackStore(tmp_path / "fresh.db") as fresh:
        fresh.add([{"user_id": "u", "item_id": "i"}, {"user_id": "v", "item_id": "i"}])
        fresh.forget("u")
        with pytest.raises(ValueError, match="Import the log .* into the store first"):
            update_from_store(toy_base, fresh)


@pytest.mark.slow
def test_a_store_restored_from_a_copy_is_another_one(toy_base, store, caplog):
    """Its numbers say nothing: new is what is later than the log of the version."""
    path = toy_base / "1" / folders.MANIFEST
    manifest = folders.read_manifest(toy_base / "1").as_dict()
    end = Recommender.load(toy_base).log_end
    new = int((store.interactions().frame["timestamp"] > end).sum())
    lost = {"store": store.id, "seq": store.last_seq() + 9, "erasures": 0}
    path.write_text(json.dumps({**manifest, "update": lost}), encoding="utf-8")
    found = update_from_store(toy_base, store, force=True)
    assert "as after a restore" in caplog.text
    told = folders.read_manifest(found.version).as_dict()["update"]
    assert (told["seq"], told["since"]) == (store.last_seq(), end + 1)
    assert 0 < found.events <= new


def test_differences_of_versions_are_seen():
    """Also where a number has become none: NaN is no larger than any."""
    same = [0.0, np.nan, np.inf]
    assert _distance(same, same) == 0
    assert _distance([1.0, np.nan], [1.5, np.nan]) == 0.5
    for other in ([np.nan, np.nan, np.inf], [0.0, 1.0, np.inf], [0.0, np.nan, -np.inf]):
        assert _distance(same, other) == np.inf


@pytest.mark.slow
def test_kills_repeated_events_and_their_order_change_nothing(
    toy_base, week_log, grown_items, tmp_path
):
    """Killed twice and started again, of events that came thrice and shuffled: the same version.

    What one user did in one second came in its order: there the order of arrival is the order.
    Many kills and 100,000 events: benchmarks/feedback.py --only kill-update same.
    """

    path = toy_base / "1" / folders.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["trainer"]["deterministic"] = True
    path.write_text(json.dumps(manifest), encoding="utf-8")
    folders.write_label(toy_base, "stable", 1)
    twin = shutil.copytree(toy_base, tmp_path / "twin" / "toy")
    grown_items.frame.to_csv(tmp_path / "items.csv", index=False)
    rows = week_log.frame[["user_id", "item_id", "timestamp"]].astype(object)
    events = rows.to_dict("records")
    for number, event in enumerate(events):
        event["timestamp"] -= event["timestamp"] % 3600  # many at once, in no order of their own
        if number % 2:  # the others get ids from what they say
            event["event_id"] = f"event-{number}"
    with (
        FeedbackStore(tmp_path / "once.db") as once,
        FeedbackStore(tmp_path / "thrice.db") as thrice,
    ):
        assert once.add(events).stored == len(events)
        added = [send_shuffled(thrice, events, seed) for seed in range(3)]
        assert [some.stored for some in added] == [len(events), 0, 0]
        assert thrice.last_seq() == len(events) == len(thrice.read())
        for order, is_same in (("users", True), ("time", False)):
            tables = [store.interactions(order=order).frame for store in (once, thrice)]
            assert tables[0].equals(tables[1]) == is_same
    items = ("--items", tmp_path / "items.csv")
    undisturbed = start_update(twin, tmp_path / "once.db", *items)
    for phase, seconds, reached in (("start", 2, "learning"), ("writing", 0.2, "writing")):
        process = start_update(toy_base, tmp_path / "thrice.db", *items)
        assert kill_update(process, toy_base, phase, seconds) == reached
        assert folders.versions(toy_base) == [1]
    last = start_update(toy_base, tmp_path / "thrice.db", *items)
    assert [last.wait(), undisturbed.wait()] == [0, 0]
    assert folders.versions(toy_base) == [1, 2] and broken_versions(toy_base) == []
    assert folders.read_labels(toy_base) == {"stable": 2}
    with FeedbackStore(tmp_path / "thrice.db") as thrice:
        assert thrice.last_seq() == len(events) == len(thrice.read())
    largest, places = difference(toy_base / "2", twin / "2")
    assert largest <= 1e-5 and places == 0
