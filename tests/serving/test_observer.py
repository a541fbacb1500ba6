"""Served versions learn events of a store, as `Recommender.observe` and `remember` have it."""

import contextlib
import json
import shutil
import sqlite3
import threading
import time

import httpx
import numpy as np
import pandas as pd
import pytest
from manifests import real_manifest

import kerasrec
from kerasrec.backend import tf
from kerasrec.feedback.store import FeedbackStore
from kerasrec.fusion.recency import HALF_LIVES, Recency
from kerasrec.loop.updating import TooFewEvents, update, update_from_store
from kerasrec.serving.admission import Limits
from kerasrec.serving.modelversions import ModelVersions
from kerasrec.serving.observer import Observer, _begin
from kerasrec.serving.predictor import Predictor
from kerasrec.serving.server import FeedbackOptions, ServerOptions, running_server
from kerasrec.versions import folders
from kerasrec.versions.loaded import MomentTables

NAMES = ("starts", "first", "prior", "popularity", "popular_at")
KINDS = ("click", "purchase", "dislike", "impression")
NOW = 1_700_000_000


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "f.db") as store:
        yield store


def loaded(base):
    versions = ModelVersions(base, policy="all")
    versions.refresh()
    return Predictor({"toy": versions}, Limits())


@contextlib.contextmanager
def put_back(predictor, numbers):
    """What the versions learn inside is undone: loading them anew for every test takes long."""
    before = [(tables(predictor, number), transitions(predictor, number)) for number in numbers]
    yield predictor
    for number, (values, votes) in zip(numbers, before, strict=True):
        with predictor.models["toy"].use(version=number) as version:
            version.set_moments(MomentTables(**values))
            names = ("neighbours_transitions", "votes_transitions")
            for name, value in zip(names, votes, strict=True):
                getattr(version._loaded.module, name).assign(value)


@pytest.fixture(scope="module")
def loaded_once(served_folder):
    return loaded(served_folder)


@pytest.fixture
def predictor(loaded_once):
    with put_back(loaded_once, [1, 2]) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def reader(served_folder):
    """The `Recommender` of version 1; it learns nothing."""
    return kerasrec.Recommender.load(served_folder / "1")


def tables(predictor, number=1):
    with predictor.models["toy"].use(version=number) as version:
        return {name: getattr(version._loaded.module, name).numpy() for name in NAMES}


def events_after(recommender, count=40):
    ids, end = recommender.items.ids, recommender.log_end
    return [
        {
            "user_id": f"u{n % 7}",
            "item_id": "unknown" if n == 9 else ids[n % 5],
            "event": KINDS[n % 4],
            "timestamp": end + 60 * (n - 5),  # the first are older than the version's log
        }
        for n in range(count)
    ]


def test_as_a_recommender_that_observes(served_folder, predictor, store):
    recommender = kerasrec.Recommender.load(served_folder / "1")
    events, before = events_after(recommender), tables(predictor)
    live = Observer(predictor, store)
    assert live.refresh() == {("toy", 1): 0, ("toy", 2): 0}
    store.add(events[:20])
    first = live.refresh()
    assert first["toy", 1] > 0 and live.refresh() == {("toy", 1): 0, ("toy", 2): 0}
    store.add(events[20:])
    count = first["toy", 1] + live.refresh()["toy", 1]
    assert recommender.observe(store.interactions()) == count
    found = tables(predictor)
    # one more moment however often it looks; there are as many as may be, so the oldest went
    assert found["starts"][:-1].tolist() == before["starts"][1:].tolist()
    assert found["starts"][-1] == max(e["timestamp"] for e in events if e["event"] in KINDS[:2])
    for name in NAMES:
        expected = getattr(recommender.loaded.module, name).numpy()
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)
    assert not np.array_equal(found["prior"][-1], before["prior"][-1])
    assert np.array_equal(tables(predictor, 2)["prior"], found["prior"])


def test_late_events_count_and_wrong_clocks_do_no_harm(reader, predictor, store):
    ids, end, now = reader.items.ids, reader.log_end, int(time.time())
    live = Observer(predictor, store)
    store.add({"user_id": "u", "item_id": ids[0], "timestamp": now + 10**6}, max_ahead=None)
    assert live.refresh()["toy", 1] in (0, 1)
    store.add([{"user_id": "u", "item_id": ids[1], "timestamp": end + 5}])
    live.refresh()
    tracked = next(iter(live._tracked.values()))
    assert abs(tracked.counts.time - now) < 60
    extra = tracked.counts.total - tracked._saved.counts.total
    assert extra[1] == extra[2] == 1 and extra.sum() == 2


def test_a_store_that_is_not_the_whole_log_changes_nothing(base, reader, store):
    """The version knows of more traffic than the store sees, then of less than ten times that."""
    path = base / "1" / folders.RECENCY
    recency = Recency.load(path)
    busy = recency.counts._replace(recent=recency.counts.recent + 100 / recency.counts.total.size)
    recency._replace(counts=busy).save(path)
    ids, end = reader.items.ids, busy.time + 30 * 86400
    clicks = [{"user_id": f"u{n}", "item_id": ids[n % 9], "timestamp": end + n} for n in range(60)]
    predictor = loaded(base)
    live, before = Observer(predictor, store), tables(predictor)
    store.add(clicks[:7])
    assert live.refresh()["toy", 1] == 0
    assert all(np.array_equal(before[name], tables(predictor)[name]) for name in NAMES)
    store.add(clicks[7:])
    assert live.refresh()["toy", 1] == 60  # nothing was lost meanwhile


def test_a_busy_server_is_left_alone(reader, predictor, store):
    store.add(events_after(reader))
    live, before = Observer(predictor, store), tables(predictor)
    with predictor._slots:
        assert live.refresh()["toy", 1] == 0
    assert np.array_equal(before["prior"], tables(predictor)["prior"])
    assert live.refresh()["toy", 1] > 0
    free = [predictor._slots.acquire(blocking=False) for _ in range(2)]
    for _ in filter(None, free):
        predictor._slots.release()
    assert free == [True, True]  # every place is free again


def test_no_request_sees_half_of_it(base, reader, store):
    """Requests while the tables grow by a moment and are exchanged all the time."""
    events, over, wrong = events_after(reader, 400), threading.Event(), []
    options = ServerOptions(feedback=FeedbackOptions(store.name, observe=0.05))
    with running_server(base, options) as server:

        def ask(number):
            with httpx.Client(base_url=server.rest_address, timeout=30) as client:
                while not over.is_set():
                    answer = client.get(f"/v1/recommend?user=u{number}&log=0")
                    if answer.status_code != 200 or len(answer.json()["items"]) != 10:
                        wrong.append(answer.text)
                    time.sleep(0.01)

        threads = [threading.Thread(target=ask, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        with server.models["toy"].use() as version:
            before = version.moments()[0][-1]
            for start in range(0, 400, 40):
                store.add(events[start : start + 40])
                time.sleep(0.1)
            until = time.monotonic() + 20
            while version.moments()[0][-1] == before and time.monotonic() < until:
                time.sleep(0.05)
            assert version.moments()[0][-1] > before
        over.set()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_store_that_fails_ends_nothing(reader, predictor, store, caplog):
    """Its tables are gone for a while; when they are back the events count."""
    store.add(events_after(reader))
    live, over = Observer(predictor, store), threading.Event()
    before = tables(predictor)
    with contextlib.closing(sqlite3.connect(store.name, isolation_level=None)) as other:
        other.execute("ALTER TABLE feedback_events RENAME TO away")
        thread = threading.Thread(target=live.run, args=[over, 0.01])
        thread.start()
        wait_for(lambda: "events of the store not learned" in caplog.text)
        assert np.array_equal(before["prior"], tables(predictor)["prior"])
        other.execute("ALTER TABLE away RENAME TO feedback_events")
        wait_for(lambda: not np.array_equal(before["prior"], tables(predictor)["prior"]))
        over.set()
        thread.join()


# --- events that came in late ---


def updated(base, store, **changes):
    """The version says that it was updated from the store as it is now."""
    path = base / "1" / folders.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    told = {"store": store.id, "seq": store.last_seq()}
    path.write_text(json.dumps({**manifest, "update": told, **changes}), encoding="utf-8")


@pytest.fixture(scope="module")
def single_once(served_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("single") / "toy"
    shutil.copytree(served_folder / "1", folder / "1")
    return loaded(folder)


@pytest.fixture
def single(single_once):
    """As `predictor`, with version 1 alone."""
    with put_back(single_once, [1]) as predictor:
        yield predictor


def late_and_new(recommender):
    """Clicks on item 0 long before the end of the version's log, and on item 1 after it."""
    ids, end = recommender.items.ids, recommender.log_end
    late = [{"user_id": f"u{n}", "item_id": ids[0], "timestamp": end - 86400} for n in range(50)]
    return late, [{**e, "item_id": ids[1], "timestamp": end + 100} for e in late]


def test_what_came_in_after_an_update_counts_at_its_own_age(base, reader, toy_interactions, store):
    late, new = late_and_new(reader)
    store.add(toy_interactions)
    updated(base, store)
    live = Observer(loaded(base), store)
    assert live.refresh() == {("toy", 1): 0}  # what it has learned from is not counted twice
    store.add(late + new)
    assert live.refresh() == {("toy", 1): 100}
    tracked = next(iter(live._tracked.values()))
    saved, counts = tracked._saved.counts, tracked.counts
    assert (counts.total - saved.total)[1:3].tolist() == [50, 50]
    day = list(HALF_LIVES).index(24 * 3600)
    grown = counts.recent[day] - saved.recent[day] * 0.5 ** (100 / 86400)
    np.testing.assert_allclose(grown[1:4], [50 * 0.5 ** (86500 / 86400), 50, 0], atol=1e-6)


def test_without_a_seq_the_end_of_the_log_decides(single, reader, toy_interactions, store):
    late, new = late_and_new(reader)
    store.add(toy_interactions)
    store.add(late + new)
    assert Observer(single, store).refresh() == {("toy", 1): 50}


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ({}, (0, 101)),
        ({"update": {"events": 30}}, (0, 101)),
        ({"update": {"store": "other", "seq": 7}}, (0, 101)),
        ({"update": {"store": "mine", "seq": 7}}, (7, None)),
        ({"update": {"store": "mine", "seq": 7, "since": 60}}, (7, 60)),
        ({"update": {"store": "mine", "erasures": 0}}, (0, 101)),  # a child of files
        ({"update": {"store": "mine", "seq": 9}}, (0, 101)),  # the store is a restored copy
        ({"update": {"store": "mine", "seq": 7}, "observed": 100}, (0, 101)),
        ({"update": {"store": "mine", "seq": 7}, "observed": 90}, (7, None)),  # of its parent
    ],
)
def test_where_events_begin_that_a_version_does_not_know(manifest, expected, store):
    store.add([{"user_id": "u", "item_id": "i", "timestamp": NOW + n} for n in range(8)])
    if manifest.get("update", {}).get("store") == "mine":
        manifest = {**manifest, "update": {**manifest["update"], "store": store.id}}
    assert _begin(real_manifest(**manifest), 100, store) == expected


@pytest.mark.slow
def test_after_real_updates_no_event_counts_twice(toy_base, toy_interactions, week_log, store):
    """Version 2 is updated from a store of the new week alone, 3 from files that go on after it."""
    end, ids = kerasrec.Recommender.load(toy_base).log_end, week_log.frame["item_id"].unique()
    store.add(week_log.replace(week_log.frame[week_log.frame["timestamp"] > end]))
    update_from_store(toy_base, store, force=True)
    live = Observer(loaded(toy_base), store)
    first = live.refresh()
    assert first["toy", 1] > 100 and first["toy", 2] == 0
    store.add(toy_interactions)  # the operator imports what version 1 was trained on
    assert live.refresh() == {("toy", 1): 0, ("toy", 2): 0}
    store.add([{"user_id": "late", "item_id": ids[0], "timestamp": end + 10}])
    assert live.refresh() == {("toy", 1): 1, ("toy", 2): 1}
    newest = store.newest()
    more = [
        {"user_id": f"z{n // 3}", "item_id": ids[n % 20], "timestamp": newest + 60 * n}
        for n in range(1, 61)
    ]
    store.add(more)
    update(toy_base, store.interactions(), force=True)
    told = folders.read_manifest(toy_base / "3").as_dict()["update"]
    assert told["store"] == store.id and told["erasures"] == 0
    assert Observer(loaded(toy_base), store).refresh()["toy", 3] == 0
    with pytest.raises(TooFewEvents, match="Received: 0"):
        update_from_store(toy_base, store)


@pytest.mark.slow
def test_a_version_saved_after_observing_says_so(base, toy_interactions, store):
    store.add(toy_interactions)
    updated(base, store)
    recommender = kerasrec.Recommender.load(base)
    store.add(late_and_new(recommender)[1])
    assert recommender.observe(store.interactions()) == 50
    assert folders.read_manifest(recommender.save()).observed == recommender.log_end
    live = Observer(loaded(base), store)
    assert live.refresh() == {("toy", 1): 50, ("toy", 2): 0}


# --- what follows what ---


def transitions(predictor, number=1):
    with predictor.models["toy"].use(version=number) as version:
        names = ("neighbours_transitions", "votes_transitions")
        return [getattr(version._loaded.module, name).numpy() for name in names]


def served(predictor, item, number=1):
    with predictor.models["toy"].use(version=number) as version:
        answer = version.signature()({"history": tf.constant([[item]])})
        return [found.decode() for found in answer["item_ids"].numpy()[0]]


def remembered(live):
    """What the next fit gives, which is not at once."""
    wait_for(lambda: time.monotonic() >= live._fit_from)
    return live.remember()


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def pairs(recommender, first, then, users=120):
    """Each of many users takes one of `first`, and a minute later what stands beside it."""
    end = recommender.log_end
    return [
        {"user_id": f"n{n}-{place}", "item_id": item, "timestamp": end + 1 + n + minute * 60}
        for n in range(users)
        for place, both in enumerate(zip(first, then, strict=True))
        for minute, item in enumerate(both)
    ]


@pytest.fixture(scope="module")
def habit(reader):
    """`(Recommender, a, b, events)`: b follows a; as many users take other items before others.

    All but a are what the version lists after a: b leads once it follows a, far before the next.
    """
    a = str(reader.items.ids[3])
    before, b, *others = reader.recommend([[a]], k=8)["item_id"].tolist()
    return reader, a, b, pairs(reader, [a, *others[:3]], [b, before, *others[3:5]])


def test_what_follows_what_as_a_recommender_remembers(
    habit, served_folder, predictor, toy_interactions, store
):
    recommender, (_, a, b, events) = kerasrec.Recommender.load(served_folder / "1"), habit
    store.add(toy_interactions)
    live = Observer(predictor, store)
    store.add(events)
    live.refresh()
    with_recency = served(predictor, a)
    assert with_recency[0] != b
    assert live.remember() == {("toy", 1): True, ("toy", 2): True}
    assert served(predictor, a)[0] == served(predictor, a, 2)[0] == b
    whole = store.interactions()
    recommender.observe(whole)
    assert recommender.remember(whole)
    expected = recommender.recommend([[a]], k=50, at="now")
    assert served(predictor, a) == expected["item_id"].tolist()
    module = recommender.loaded.module
    neighbours, votes = transitions(predictor)
    np.testing.assert_array_equal(neighbours, module.neighbours_transitions.numpy())
    np.testing.assert_allclose(votes, module.votes_transitions.numpy(), rtol=1e-6)


def test_a_table_is_fitted_when_there_is_something_new(habit, single, toy_interactions, store):
    _, a, b, events = habit
    live = Observer(single, store)
    store.add(toy_interactions)
    assert live.remember()["toy", 1]
    assert live.remember() == {("toy", 1): False}  # nothing is new
    assert remembered(live) == {("toy", 1): False}
    shown = [{**event, "event": "impression"} for event in events]
    store.add(shown)
    assert not remembered(live)["toy", 1]
    store.add(events)
    assert remembered(live)["toy", 1] and served(single, a)[0] == b


def test_an_erasure_is_a_reason_to_fit(habit, single, toy_interactions, store):
    _, a, b, _ = habit
    end = habit[0].log_end
    store.add(toy_interactions)
    live = Observer(single, store)
    assert live.remember()["toy", 1]
    before = transitions(single)
    for place in range(200):
        item, time_ = (a, b)[place % 2], end + 60 * place
        store.add([{"user_id": "fan", "item_id": item, "timestamp": time_}])
    assert remembered(live)["toy", 1]
    assert not np.array_equal(before[1], transitions(single)[1])
    store.forget("fan")
    assert remembered(live)["toy", 1]
    for old, new in zip(before, transitions(single), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_store_without_the_training_log_leaves_the_table(
    habit, single, toy_interactions, store, caplog
):
    _, a, b, events = habit
    said = "what follows what stays as it was trained"
    live, before = Observer(single, store), transitions(single)
    store.add(events)
    store.add(toy_interactions.replace(toy_interactions.frame[::2]))
    assert remembered(live) == {("toy", 1): False}
    store.add(pairs(habit[0], [b], [a]))
    assert remembered(live)["toy", 1] is False
    for old, new in zip(before, transitions(single), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [record.message.partition(":")[0] for record in caplog.records] == [said]
    assert {(r.version, r.trained_on) for r in caplog.records} == {(1, 1326)}
    store.add(toy_interactions)  # now it is there
    assert remembered(live)["toy", 1] is True


def test_an_unheld_log_is_not_looked_at_all_the_time(single, toy_interactions, store):
    store.add(toy_interactions.replace(toy_interactions.frame[::2]))
    live, before = Observer(single, store), time.monotonic()
    assert live.remember() == {("toy", 1): False}
    assert live._fit_from > before


def test_a_log_of_many_impressions_is_held(base, toy_interactions, store):
    """The manifest counts them among the events that the version was trained on."""
    path = base / "1" / folders.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["data"]["interactions"] *= 2
    path.write_text(json.dumps(manifest), encoding="utf-8")
    store.add(toy_interactions)
    assert Observer(loaded(base), store).remember() == {("toy", 1): True}


def test_many_erasures_do_not_keep_the_table(single, toy_interactions, store):
    """More than a tenth of the events are erased: the table is fitted without them all the same."""
    store.add(toy_interactions)
    users = toy_interactions.frame["user_id"].astype(str)
    for user in users.unique()[: users.nunique() // 4]:
        store.forget(user)
    assert len(store.interactions()) < 0.85 * len(toy_interactions)
    before = transitions(single)
    assert Observer(single, store).remember() == {("toy", 1): True}
    with single.models["toy"].use(version=1) as version:
        left = kerasrec.Recommender.load(version.path).histories(store.interactions())
        _, found = version.following(left)
        table, _ = found["transitions"]
    assert not np.array_equal(before[1], transitions(single)[1])
    np.testing.assert_array_equal(transitions(single)[0], table.neighbours)


def test_the_newest_events_are_enough_when_they_are_many(habit, single, store):
    """Of a log of more events than are fitted on, the newest count, whatever was before."""
    _, a, b, events = habit
    live = Observer(single, store, most=900)
    store.add(events[:600])
    assert remembered(live) == {("toy", 1): False}
    store.add(events[600:])
    assert len(events) > 900
    assert remembered(live)["toy", 1] and served(single, a)[0] == b


@pytest.mark.parametrize("is_spoiled", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_model_that_falls_behind_counting_gives_way(
    is_spoiled, base, week_log, toy_interactions, store, caplog
):
    """Real events come in by and by; a spoiled version lists last what it should list first."""
    predictor = loaded(base)
    with predictor.models["toy"].use(version=1) as version:
        module = version._loaded.module
    if is_spoiled:
        module.part_weights.assign(-module.part_weights)
        module.prior.assign(-module.prior)
    store.add(toy_interactions)
    live, given = Observer(predictor, store), module.part_weights.numpy()
    live.refresh(), live.remember()
    frame = week_log.frame
    new = frame[frame["timestamp"] > toy_interactions.frame["timestamp"].max()]
    new = new[["user_id", "item_id", "timestamp"]].astype({"user_id": str})
    twins = new.assign(user_id=new["user_id"] + " twin", timestamp=new["timestamp"] + 5)
    new = pd.concat([new, twins]).sort_values("timestamp")
    for start in range(0, len(new), 20):
        store.add(new.iloc[start : start + 20].to_dict("records"))
        live.remember(), live.refresh()
    told = [r for r in caplog.records if "counting alone lists better" in r.message]
    assert len(told) == is_spoiled
    assert np.array_equal(module.part_weights.numpy(), given) != is_spoiled
    if is_spoiled:
        assert told[0].ndcg_gain > 0 and told[0].events >= 200
        # what is popular among those who come leads for them, by the counts of now
        assert not module.prior.numpy()[-1].any()


def test_a_busy_server_hands_over_later(base, toy_interactions, store):
    """The version has lost while a request runs: it stays whole until the next look."""
    predictor = loaded(base)
    store.add(toy_interactions)
    live = Observer(predictor, store)
    assert live.remember()["toy", 1]
    (tracked,) = live._tracked.values()
    with predictor.models["toy"].use(version=1) as version:
        module = version._loaded.module
    given = module.part_weights.numpy()
    tracked.guard.is_lost = True
    ids = folders.read_catalogue(base / "1")["item_id"]
    end = int(toy_interactions.frame["timestamp"].max())
    events = [
        {"user_id": f"u{n}", "item_id": ids[n % 7], "timestamp": end + 60 * n} for n in range(200)
    ]
    store.add(events[:100])
    with predictor._slots:
        assert not live.remember()["toy", 1]
        live.refresh()
    assert not tracked.counts_alone
    np.testing.assert_array_equal(module.part_weights.numpy(), given)
    store.add(events[100:])
    live.refresh()  # the moment is that of the model still
    assert module.prior.numpy()[-1].any()
    live.remember()
    assert tracked.counts_alone and not module.prior.numpy().any()
    live.refresh()
    assert not module.prior.numpy().any()


def test_an_error_in_the_comparison_stops_no_learning(base, toy_interactions, store, monkeypatch):
    predictor = loaded(base)
    store.add(toy_interactions)
    live = Observer(predictor, store)
    live.remember(), live.refresh()
    (tracked,) = live._tracked.values()
    tracked.is_first_look = False

    def fails(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("kerasrec.serving.servedversion.watch", fails)
    ids = folders.read_catalogue(base / "1")["item_id"]
    end = int(toy_interactions.frame["timestamp"].max())
    store.add([{"user_id": "u", "item_id": ids[n], "timestamp": end + n} for n in range(5)])
    assert live.remember()["toy", 1] and tracked.guard is None


def test_no_event_is_compared_twice(base, toy_interactions, store, monkeypatch):
    """The busy server does not take the tables of a fit: at the next look its events are new."""
    predictor = loaded(base)
    store.add(toy_interactions)
    live = Observer(predictor, store)
    live.remember(), live.refresh()
    (tracked,) = live._tracked.values()
    tracked.is_first_look = False
    ids = folders.read_catalogue(base / "1")["item_id"]
    end = int(toy_interactions.frame["timestamp"].max())
    store.add(
        [{"user_id": f"u{n}", "item_id": ids[n % 7], "timestamp": end + n} for n in range(60)]
    )
    taken, compare = [], tracked.guard.compare

    def listening(asked, users, *rest):
        taken.append(users.tolist())
        return compare(asked, users, *rest)

    monkeypatch.setattr(tracked.guard, "compare", listening)
    for _ in range(3):
        live._fit_from = 0  # so much is new that it is fitted
        with predictor._slots:
            assert not live.remember()["toy", 1]
    assert len(taken) == 1 and len(taken[0]) == 20
    store.add([{"user_id": "late", "item_id": ids[0], "timestamp": end + 99}])
    assert live.remember()["toy", 1] and [len(one) for one in taken] == [20, 1]


def test_a_busy_server_keeps_its_table(habit, single, toy_interactions, store):
    store.add(toy_interactions)
    store.add(habit[-1])
    live, before = Observer(single, store), transitions(single)
    with single._slots:
        assert live.remember() == {("toy", 1): False}
    np.testing.assert_array_equal(before[0], transitions(single)[0])
    assert remembered(live)["toy", 1]


def test_a_server_learns_what_follows_what(habit, base, toy_interactions, store):
    """Over REST: events in, and the next user's list begins with what others took next."""
    _, a, b, events = habit
    store.add(toy_interactions)
    options = ServerOptions(feedback=FeedbackOptions(store.name, observe=0.1))
    with running_server(base, options) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:
            for start in range(0, len(events), 100):
                answer = client.post("/v1/feedback", json={"events": events[start : start + 100]})
                assert answer.status_code == 200
            client.post("/v1/feedback", json={"user_id": "me", "item_id": a})

            def is_first():
                answer = client.get("/v1/recommend?user=me&log=0").json()
                return answer["items"][0]["item_id"] == b

            wait_for(is_first)
