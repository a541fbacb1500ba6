"""Requests of the past are answered with what a server would have known then, and not more."""

import httpx
import numpy as np
import pandas as pd
import pytest

from kerasrec.data.histories import make_histories
from kerasrec.data.interactions import Items
from kerasrec.data.sources import read_interactions
from kerasrec.feedback.store import FeedbackStore
from kerasrec.feedback.userlists import make_question
from kerasrec.loop.live import Asked, LiveModel, blocks
from kerasrec.loop.replaying import histories_of, replay
from kerasrec.loop.requests import Requests, read_requests
from kerasrec.recommender.recommender import Recommender
from kerasrec.serving.observer import Observer
from kerasrec.serving.server import FeedbackOptions, ServerOptions, running_server
from kerasrec.versions import folders

DAY = 86400
T = 1_500_000_000


@pytest.fixture(scope="module")
def week(week_log, toy_interactions):
    """`(log, requests)` as the yardstick writes them: every event of the new week is a request."""
    log = week_log.frame[["user_id", "item_id", "timestamp"]].astype({"user_id": str})
    log.columns = ["who", "item", "timestamp"]
    log = log.astype({"item": str}).sort_values("timestamp", kind="stable", ignore_index=True)
    asked = log[log["timestamp"] > toy_interactions.frame["timestamp"].max()]
    names = [f"r{n:04d}" for n in range(len(asked))]
    return log, asked[["who", "timestamp"]].assign(user=names)[["user", "who", "timestamp"]]


def test_blocks():
    times = np.array([10, 75, 12, 190, 69])
    found = [(moment, rows.tolist()) for moment, rows in blocks(times, 10, 60)]
    assert found == [(10, [0, 2, 4]), (70, [1]), (190, [3])]


def test_what_a_request_knows_of_its_user():
    """In a second the order of the file; a request never knows its own event."""
    rows = [("u", "a", T), ("v", "b", T), ("u", "b", T + 5), ("u", "c", T + 5), ("u", "d", T + 9)]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    items = Items(pd.DataFrame({"item_id": ["a", "b", "c", "d"], "title": "课"}))
    histories = make_histories(read_interactions(log), items)
    asked = [("u", T), ("u", T + 5), ("v", T), ("u", T + 5), ("w", T + 5), ("u", T + 99)]
    users, times = zip(*asked, strict=True)
    names = np.array([f"r{n}" for n in range(6)], object)
    requests = Requests(names, np.array(users, object), np.array(times))
    found = histories_of(requests, histories, np.arange(6))
    assert found.times.tolist() == list(times)
    known = np.split(found.histories.items, found.histories.offsets[1:-1])
    assert [k.tolist() for k in known] == [[], [1], [], [1, 2], [], [1, 2, 3, 4]]
    some = histories_of(requests, histories, np.array([3, 0]))
    assert some.histories.user_ids.tolist() == ["r3", "r0"]
    assert some.histories.items.tolist() == [1, 2]


def test_the_lists_are_those_of_a_server(exported_version, week, tmp_path):
    """A server with a store that gets the same events and looks at the same moments."""
    log, requests = week
    requests = requests.iloc[:120]
    every = 5 * 3600
    found = replay(exported_version, log, requests, k=10, refresh=every, remember=every).lists
    lists = {user: part["item"].tolist() for user, part in found.groupby("user")}
    assert list(lists) == requests["user"].tolist()
    begin, stored = requests["timestamp"].min(), np.zeros(len(log), bool)
    options = ServerOptions(feedback=FeedbackOptions(tmp_path / "f.db", observe=0))
    with (
        running_server(exported_version, options) as server,
        FeedbackStore(tmp_path / "f.db") as store,
        httpx.Client(base_url=server.rest_address, timeout=30) as client,
    ):
        observer = Observer(server.predictor, store)

        def add(rows):
            names = {"who": "user_id", "item": "item_id"}
            new = log[rows & ~stored].rename(columns=names)
            store.add(new.to_dict("records"))
            stored[:] |= rows

        moments, differ = set(), 0
        for moment, rows in blocks(requests["timestamp"].to_numpy(), begin, every):
            add((log["timestamp"] < moment).to_numpy())
            observer._fit_from = 0  # the replay fits at every look
            assert observer.refresh() and (observer.remember() or moment == begin)
            moments.add(moment)
            for name, who, time in requests.iloc[rows].itertuples(index=False):
                add(((log["who"] == who) & (log["timestamp"] < time)).to_numpy())
                # what /v1/recommend asks the version, at the moment of the request
                question = make_question(store, who, now=int(time)).inputs()
                inputs = {key: values.tolist() for key, values in question.items()}
                body = {"signature_name": "recommend", "inputs": inputs}
                answer = client.post("/v1/models/toy:predict", json=body).json()["outputs"]
                differ += answer["item_ids"][0][:10] != lists[name]
    assert len(moments) > 5 and differ == 0


def test_what_others_do_counts_after_the_look_and_the_lag(exported_version, week):
    log, requests = week
    begin = int(requests["timestamp"].min())
    saved = Recommender.load(exported_version).counts
    histories = Recommender.load(exported_version).histories(
        read_interactions(log, columns={"user_id": "who"})
    )

    def total(moment, lag):
        recommender = Recommender.load(exported_version)
        live = LiveModel(recommender, histories, begin, 600, lag)
        live.look(moment)
        live.look(moment)  # nothing is counted twice
        return recommender.counts.total.sum() - saved.total.sum(), live.events

    times = histories.timestamps
    newer = int(((times > saved.time) & (times < begin + DAY)).sum())
    assert total(begin + DAY, 0) == (newer, newer) and newer > 5
    assert total(begin + 2 * DAY, DAY) == (newer, newer)
    assert total(begin, DAY) == (0, 0)


def spoil(module):
    """What the version would list last comes first."""
    module.part_weights.assign(-module.part_weights)
    module.prior.assign(-module.prior)


@pytest.mark.parametrize("is_spoiled", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_version_that_falls_behind_counting_gives_way(exported_version, week, is_spoiled, caplog):
    log, requests = week
    recommender = Recommender.load(exported_version)
    if is_spoiled:
        spoil(recommender.loaded.module)
    times = requests["timestamp"].to_numpy()
    new = log[log["timestamp"] >= times.min()]
    more = [new.assign(who=new["who"] + f" {n}", timestamp=new["timestamp"] + n) for n in (1, 2)]
    events = pd.concat([log, *more]).rename(columns={"who": "user_id", "item": "item_id"})
    histories = recommender.histories(read_interactions(events))
    live = LiveModel(recommender, histories, int(times.min()), DAY)
    for moment, _ in blocks(times, int(times.min()), 3600):
        live.look(moment)
    assert bool(live.lost_at) == is_spoiled
    assert ("counting alone lists better" in caplog.text) == is_spoiled
    assert bool(recommender.loaded.scorer_weight) == (
        not is_spoiled and bool(Recommender.load(exported_version).loaded.scorer_weight)
    )


def test_new_users_and_unknown_items(exported_version, week):
    log, requests = week
    end = int(log["timestamp"].max())
    more = pd.DataFrame({"who": ["u-new", "u-new"], "item": ["?", "??"], "timestamp": end + 5})
    asked = pd.DataFrame(
        {"user": ["2", "1"], "who": ["u-new", "nobody"], "timestamp": [end + 9, end + 7]}
    )
    found = replay(exported_version, pd.concat([log, more]), asked, k=5)
    assert list(found.lists.columns) == ["user", "item", "rank"]
    assert found.lists["user"].tolist() == ["2"] * 5 + ["1"] * 5
    assert found.lists["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    assert found.lists["item"][:5].tolist() == found.lists["item"][5:].tolist()  # popular ones
    assert found.ms_per_request > 0 and found.events_per_second > 0 and len(found.updates) == 0
    with pytest.raises(ValueError, match="replay needs the log of the model's users"):
        replay(exported_version, more, asked)


def test_seen_items_are_left_out(exported_version, week):
    log, requests = week
    lists = replay(exported_version, log, requests, k=30, refresh=DAY, remember=DAY).lists
    pairs = lists.merge(requests, on="user").merge(log, on=["who", "item"], suffixes=("", "_had"))
    assert len(pairs) and (pairs["timestamp_had"] >= pairs["timestamp"]).all()


@pytest.mark.slow
def test_updates_go_into_a_copy_and_go_on_after_a_stop(toy_base, week, tmp_path):
    log, requests = week
    before = {path: path.read_bytes() for path in toy_base.rglob("*") if path.is_file()}
    given = dict(k=10, update=3 * DAY, refresh=DAY, remember=DAY, work=tmp_path / "w")
    found = replay(toy_base, log, requests, **given)
    assert {path: path.read_bytes() for path in toy_base.rglob("*") if path.is_file()} == before
    steps = -(-int(requests["timestamp"].max() + 1 - requests["timestamp"].min()) // (3 * DAY))
    assert len(found.updates) == steps > 1
    assert found.updates["version"][0] == 0  # nothing is new at the first request
    made = [version for version in found.updates["version"] if version]
    own = tmp_path / "w" / "saved_models" / "toy"
    assert folders.versions(own) == [1, *made]
    assert found.lists["user"].drop_duplicates().tolist() == requests["user"].tolist()
    # stopped after the last update, before its lists: no update is made again
    last = max((tmp_path / "w" / "steps").glob("*.csv"), key=lambda path: int(path.stem))
    last.unlink()
    again = replay(toy_base, log, requests, **given)
    pd.testing.assert_frame_equal(again.lists, found.lists)
    pd.testing.assert_frame_equal(again.updates, found.updates)
    # stopped in the last update, which had published: it finds nothing new, the lists are the same
    last.unlink()
    last.with_suffix(".json").unlink()
    again = replay(toy_base, log, requests, **given)
    pd.testing.assert_frame_equal(again.lists, found.lists)
    assert folders.versions(own) == [1, *made]
    with pytest.raises(ValueError, match="the replay of another model, log or requests"):
        replay(toy_base, log, requests.iloc[1:], **given)
    with pytest.raises(ValueError, match="work must be a folder of its own"):
        replay(toy_base, log, requests, **{**given, "work": toy_base.parent.parent})


def test_requests_without_what_they_need(tmp_path, week, exported_version):
    log, requests = week
    path = tmp_path / "r.csv"

    def message(frame):
        frame.to_csv(path, index=False)
        with pytest.raises(ValueError) as error:
            read_requests(path)
        return str(error.value)

    assert "Received: no 'who', but user, timestamp" in message(requests.drop(columns="who"))
    assert "a header only" in message(requests.iloc[:0])
    assert "'r0000' twice" in message(pd.concat([requests, requests]))
    assert "bad" in message(requests.astype(object).assign(timestamp="bad"))
    for change, text in (
        ({"k": 0}, "k must be a whole number of at least 1"),
        ({"lag": -1}, "lag must be a whole number of at least 0"),
        ({"update": 0}, "update must be a whole number of at least 1"),
        ({"update": DAY}, "An update needs a folder"),
    ):
        with pytest.raises(ValueError, match=text):
            replay(exported_version, log, requests, **change)
    with pytest.raises(ValueError, match="replay needs times"):
        replay(exported_version, log[["who", "item"]], requests)


def test_types_of_events_are_not_asked(exported_version, week):
    """A user's list is made as the server makes it: without event types and weights."""
    recommender = Recommender.load(exported_version)
    histories = recommender.histories(read_interactions(week[0], columns={"user_id": "who"}))
    live = LiveModel(recommender, histories, int(week[1]["timestamp"].min()), 600)
    some = histories.select(range(5))
    other = some._replace(events=some.events + 2, values=some.values * 3)
    times = np.full(5, int(week[1]["timestamp"].max()))
    pd.testing.assert_frame_equal(
        live.lists(Asked(some, times), 10), live.lists(Asked(other, times), 10)
    )
