"""New events of a store count as recent in the served versions, as `Recommender.observe` has it."""

import threading
import time

import httpx
import numpy as np
import pytest

import kerasrec
from kerasrec.feedback import FeedbackStore
from kerasrec.liverecency import LiveRecency
from kerasrec.modelversions import ModelVersions
from kerasrec.predictcalls import Predictor
from kerasrec.serving import Loop, running_server
from kerasrec.servinglimits import Limits

NAMES = ("starts", "first", "prior", "popularity")
KINDS = ("click", "purchase", "dislike", "impression")


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "f.db") as store:
        yield store


@pytest.fixture
def predictor(served_folder):
    versions = ModelVersions(served_folder, policy="all")
    versions.refresh()
    return Predictor({"toy": versions}, Limits())


def tables(predictor, number=1):
    with predictor.models["toy"].use(version=number) as version:
        return {name: getattr(version._loaded, name).numpy() for name in NAMES}


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
    live = LiveRecency(predictor, store)
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
        np.testing.assert_allclose(
            found[name], getattr(recommender._module, name).numpy(), rtol=1e-5, atol=1e-5
        )
    assert not np.array_equal(found["prior"][-1], before["prior"][-1])
    assert np.array_equal(tables(predictor, 2)["prior"], found["prior"])


def test_late_events_count_and_wrong_clocks_do_no_harm(served_folder, predictor, store):
    recommender = kerasrec.Recommender.load(served_folder / "1")
    ids, end, now = recommender.items.ids, recommender.log_end, int(time.time())
    live = LiveRecency(predictor, store)
    store.add([{"user_id": "u", "item_id": ids[0], "timestamp": now + 10**6}] * 1)
    assert live.refresh()["toy", 1] in (0, 1)
    store.add([{"user_id": "u", "item_id": ids[1], "timestamp": end + 5}])
    live.refresh()
    followed = next(iter(live._followed.values()))
    assert abs(followed._counts.time - now) < 60
    extra = followed._counts.total - followed._saved.counts.total
    assert extra[1] == extra[2] == 1 and extra.sum() == 2


def test_a_store_that_is_not_the_whole_log_changes_nothing(
    served_folder, predictor, store, monkeypatch
):
    monkeypatch.setattr("kerasrec.liverecency._SHARE", 1e6)
    recommender = kerasrec.Recommender.load(served_folder / "1")
    store.add(events_after(recommender))
    live, before = LiveRecency(predictor, store), tables(predictor)
    assert live.refresh()["toy", 1] == 0
    assert all(np.array_equal(before[name], tables(predictor)[name]) for name in NAMES)
    monkeypatch.setattr("kerasrec.liverecency._SHARE", 0.0)
    assert live.refresh()["toy", 1] > 0  # nothing was lost meanwhile


def test_a_busy_server_is_left_alone(served_folder, predictor, store):
    store.add(events_after(kerasrec.Recommender.load(served_folder / "1")))
    live, before = LiveRecency(predictor, store), tables(predictor)
    with predictor._slots:
        assert live.refresh()["toy", 1] == 0
    assert np.array_equal(before["prior"], tables(predictor)["prior"])
    assert live.refresh()["toy", 1] > 0
    for _ in range(2):  # every place is free again
        assert predictor._slots.acquire(blocking=False)


def test_no_request_sees_half_of_it(served_folder, store):
    """Requests while the tables grow by a moment and are exchanged all the time."""
    recommender = kerasrec.Recommender.load(served_folder / "1")
    events, over, wrong = events_after(recommender, 400), threading.Event(), []
    with running_server(served_folder, loop=Loop(store.name, observe=0.05)) as server:

        def ask(number):
            with httpx.Client(base_url=server.rest_address, timeout=30) as client:
                while not over.is_set():
                    answer = client.get(f"/v1/recommend?user=u{number}&log=0")
                    if answer.status_code != 200 or len(answer.json()["items"]) != 10:
                        wrong.append(answer.text)

        threads = [threading.Thread(target=ask, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        with server.models["toy"].use() as version:
            before = version.moments()[0][-1]
            for start in range(0, 400, 20):
                store.add(events[start : start + 20])
                time.sleep(0.1)
            until = time.monotonic() + 20
            while version.moments()[0][-1] == before and time.monotonic() < until:
                time.sleep(0.05)
            assert version.moments()[0][-1] > before
        over.set()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_store_that_fails_ends_nothing(predictor, store):
    live, over, looks = LiveRecency(predictor, store), threading.Event(), []

    def fail():
        looks.append(1)
        if len(looks) == 2:
            over.set()
        raise OSError("away")

    store.last_seq = fail
    live.run(over, 0.01)
    assert len(looks) == 2
