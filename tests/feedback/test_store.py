"""The feedback store on real SQLite files and a real PostgreSQL server."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kerasrec.checks import ArtifactError
from kerasrec.feedback.queries import StoredEvent
from kerasrec.feedback.store import FeedbackStore
from kerasrec.feedback.writer import Added, Outcomes

T = 1_700_000_000


def event(user, item, at=0, **more):
    return {"user_id": user, "item_id": item, "timestamp": T + at, **more}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "feedback.db"
    return request.getfixturevalue("postgres_server").new_url()


@pytest.fixture
def store(url):
    with FeedbackStore(url) as opened:
        yield opened


# --- adding and reading ---


def test_what_was_added_is_read(store):
    assert store.add([event("u", "甲", event="购买", value=2.5), event("u", "b", 1)]) == (2, 0, 0)
    shown = dict(request_id="r1", model="shop", version=3, position=2)
    store.add([event("v", "b", 2, event="pv", event_id="mine", **shown)])
    frame = store.read()
    assert list(frame.columns) == list(StoredEvent._fields)
    assert frame["event"].tolist() == ["purchase", "click", "view"]
    assert frame["value"].tolist()[0] == 2.5 and np.isnan(frame["value"][1])
    assert frame.iloc[2].drop("seq").to_dict() == {
        **event("v", "b", 2, event="view", event_id="mine", **shown),
        "value": pytest.approx(np.nan, nan_ok=True),
    }
    assert frame["seq"].is_monotonic_increasing and store.last_seq() == frame["seq"].iloc[-1]
    assert store.newest() == T + 2


def test_an_empty_store(store):
    assert (store.last_seq(), store.newest()) == (0, None)
    assert store.latest("u") == store.erasures() == []
    assert len(store.read()) == len(store.interactions()) == 0
    assert store.add([]) == Added(0, 0)
    stats = store.stats()
    assert (stats.events, stats.types, len(stats.versions)) == (0, {}, 0)


def test_times_that_are_not_given_are_now(store):
    before = int(time.time())
    store.add({"user_id": 1, "item_id": 2})
    (found,) = store.latest(1)
    assert before <= found.timestamp <= time.time() and (found.user_id, found.item_id) == ("1", "2")


def test_sent_again_it_is_stored_once(store):
    events = [event("u", "a"), event("u", "a", event="view"), event("u", "a", 1)]
    assert store.add(events) == Added(3, 0)
    assert store.add([*events, event("u", "a", value=1.0)]) == Added(1, 3)
    assert store.add([event("x", "y", event_id="7"), event("z", "z", event_id="7")]) == Added(1, 1)
    assert len(store.read()) == 5


def test_latest_is_bounded_and_oldest_first(store):
    store.add([event("u", f"i{n}", n // 2) for n in range(10)])
    store.add([event("u", "shown", 20, event="impression"), event("v", "other", 30)])
    items = [found.item_id for found in store.latest("u", 3)]
    assert items == ["i7", "i8", "i9"]
    assert [found.item_id for found in store.latest("u", since=T + 4)] == ["i8", "i9"]
    assert [f.item_id for f in store.latest("u", 2, impressions=True)] == ["i9", "shown"]


def test_read_within_limits(store):
    store.add([event(f"u{n % 3}", f"i{n}", 10 - n) for n in range(6)])
    store.add([event("u0", "x", 50, event="impression")])
    seqs = store.read()["seq"].tolist()
    assert store.read(after=seqs[1], until=seqs[3])["item_id"].tolist() == ["i2", "i3"]
    assert store.read(since=T + 7, before=T + 9)["item_id"].tolist() == ["i2", "i3"]
    assert store.read(events="曝光")["item_id"].tolist() == ["x"]
    assert store.read(users=["u0"], order="time")["item_id"].tolist() == ["i3", "i0", "x"]
    with pytest.raises(ValueError, match="order: expected one of seq, time, content"):
        store.read(order="date")
    with pytest.raises(ValueError, match="did you mean 'purchase'"):
        store.read(events=["purchas"])


def test_read_in_many_parts_is_the_same(store, monkeypatch):
    store.add([event(f"u{n % 7}", f"i{n}", n % 5) for n in range(50)])
    whole, some = store.read(), store.read(users=["u1", "u2", "u5"])
    monkeypatch.setattr("kerasrec.feedback.store._CHUNK", 7)
    monkeypatch.setattr("kerasrec.feedback.store._USERS", 2)
    pd.testing.assert_frame_equal(store.read(), whole)
    pd.testing.assert_frame_equal(store.read(users=["u1", "u2", "u5"]), some)


def test_interactions_are_those_of_a_log(store, toy_interactions):
    log = toy_interactions.replace(toy_interactions.frame[:300])
    assert store.add(log).stored == 300
    store.add([event(log.frame["user_id"][0], "seen", event="impression")])
    found = store.interactions()
    expected = log.frame.sort_values("timestamp", kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(found.frame, expected, check_categorical=False)
    assert len(store.interactions(impressions=True)) == 301 and found.has_time


def test_weights_follow_from_events(store):
    store.add([event("u", "a", event="rating", value=4.1), event("u", "b", 1, event="purchase")])
    found = store.interactions(event_weights={"purchase": 9})
    assert found.frame["weight"].tolist() == [pytest.approx(4.1), 9.0]


def test_the_order_of_a_second_is_that_of_arrival(store):
    """A log of dates: within a day users walk from item i to i + 1, also after a redelivery."""
    walks = [(f"u{user}", f"i{user + step}") for step in range(20) for user in range(5)]
    events = [event(user, item, step // 60) for step, (user, item) in enumerate(walks)]
    store.add(events)
    store.add(events[::-1])  # again, and turned round: the first places stay
    assert len(store.read()) == 100
    for order in ("time", "users"):
        frame = store.interactions(order=order).frame
        for user in range(5):
            mine = frame[frame["user_id"] == f"u{user}"]["item_id"].tolist()
            assert mine == [f"i{user + step}" for step in range(20)]
    assert [found.item_id for found in store.latest("u3")] == [f"i{3 + n}" for n in range(20)]


def test_order_by_users_does_not_depend_on_how_users_interleave(tmp_path):
    """Only what one user did in one second must arrive in its order."""
    events = [event(f"u{n % 3}", f"i{n}", n % 4) for n in range(40)]
    found = []
    for name, key in (("a.db", lambda e: 0), ("b.db", lambda e: e["user_id"])):
        with FeedbackStore(tmp_path / name) as store:
            for one in sorted(events, key=key):
                store.add([one])
            tables = [store.interactions(order=order).frame for order in ("users", "time")]
            found.append(tables)
    (first, by_time), (second, other) = found
    assert first.equals(second) and not by_time.equals(other)
    assert first["user_id"].tolist()[:5] == ["u0"] * 4 + ["u1"]


def test_times_finer_than_seconds_order_a_batch(store):
    """Out of order in the batch, in every form that has them; the store keeps whole seconds."""
    times = [
        (T + 1) * 1000 + 900,
        T + 1.5,
        (T + 1) * 10**6 + 700_000,
        f"{(T + 1) * 1000 + 100}",
        "2023-11-14T22:13:21.3Z",
        T,
    ]
    events = [event("u", f"i{n}") | {"timestamp": time} for n, time in enumerate(times)]
    store.add(events)
    assert [row.item_id for row in store.latest("u")] == ["i5", "i3", "i4", "i1", "i2", "i0"]
    assert {row.timestamp for row in store.latest("u")} == {T, T + 1}


def test_an_export_keeps_the_order_of_a_second(store, tmp_path):
    store.add([event("u", f"i{n}") for n in (3, 1, 2)])
    store.add([event("u", f"i{n}", -1) for n in (9, 8)])
    for name in ("out.csv", "out.parquet"):
        store.export_file(tmp_path / name)
        with FeedbackStore(tmp_path / f"{name}.db") as copy:
            copy.import_file(tmp_path / name)
            items = [row.item_id for row in copy.latest("u")]
            assert items == ["i9", "i8", "i3", "i1", "i2"]
            assert items == [row.item_id for row in store.latest("u")]


def test_order_by_content_does_not_depend_on_how_events_came(tmp_path):
    events = [event(f"u{n % 3}", f"i{n}", n % 4) for n in range(40)]
    found = []
    for name in ("a.db", "b.db"):
        with FeedbackStore(tmp_path / name) as store:
            for one in events:
                store.add([one])
            found.append(store.interactions(order="content").frame)
        random.Random(3).shuffle(events)
    assert found[0].astype(str).equals(found[1].astype(str))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_order_and_repetition_gives_the_same_set(data, tmp_path_factory):
    events = [
        event(f"u{n % 3}", f"i{n % 4}", n % 5, event=["click", "view"][n % 2]) for n in range(30)
    ]
    events += [event("u", "named", event_id=f"e{n}") for n in range(3)]
    batches = data.draw(
        st.lists(st.lists(st.integers(0, len(events) - 1), max_size=12), max_size=6)
    )
    batches.append(data.draw(st.permutations(range(len(events)))))
    with FeedbackStore(tmp_path_factory.mktemp("store") / "f.db") as store:
        added = [store.add([events[n] for n in batch]) for batch in batches]
        assert [sum(counts) for counts in added] == [len(batch) for batch in batches]
        fields = ("user_id", "item_id", "timestamp", "event")
        ours = {tuple(e.get(f, "click") for f in fields) for e in events[:30]}
        frame = store.read()
        assert sum(counts.stored for counts in added) == len(frame) == len(ours) + 3
        named = frame["item_id"] == "named"
        assert set(frame[~named][list(fields)].itertuples(index=False, name=None)) == ours


def test_each_event_is_told_what_became_of_it(store):
    store.add([event("u", "known"), event("gone", "x", -5)])
    store.forget("gone")
    new, late = event("u", "new", 5), event("gone", "x", -5)
    found = store.submit_each([new, event("u", "known"), late, new, event("v", "w")]).result()
    assert found == Outcomes(Added(2, 2, 1), [2, 4], [3])
    assert store.submit_each([]).result() == Outcomes(Added(0, 0, 0), [], [])
    # the numbers are those as sent, also where finer times order the rows
    later = [event("u", f"i{n}") | {"timestamp": T + 30 - n / 10} for n in range(3)]
    assert store.submit_each(later[1:2]).result().added.stored == 1
    assert store.submit_each(later).result() == Outcomes(Added(2, 1, 0), [2], [])
    frame = store.read()
    assert frame["item_id"].tolist() == ["known", "new", "w", "i1", "i2", "i0"]


def test_the_future_is_refused(store):
    now = int(time.time())
    store.add([event("u", "near") | {"timestamp": now + 80_000}])
    far = event("u", "far") | {"timestamp": "2090-01-01"}
    message = "event 2: expected a time before 20.* as timestamp. Received: '2090-01-01'"
    for add in (store.add, store.submit, store.submit_each):
        with pytest.raises(ValueError, match=message):
            add([event("u", "a"), far])
    table = pd.DataFrame([event("u", "a"), event("u", "b") | {"timestamp": now + 90_000}])
    with pytest.raises(ValueError, match="timestamp"):
        store.add(table)
    assert store.add(table, max_ahead=100_000).stored == 2
    assert store.add([far], max_ahead=None).stored == 1
    stats = store.stats()
    assert (stats.ahead, stats.ahead_first, stats.last) == (2, now + 90_000, 3_786_912_000)
    assert store.stats(max_ahead=100_000).ahead == 1
    with pytest.raises(ValueError, match="max_ahead: expected seconds from 0"):
        store.add([far], max_ahead=-1)


def test_dates_of_a_zone(store):
    day = {"user_id": "u", "item_id": "a", "timestamp": "2023-11-15 06:13:20"}
    store.add([day], timezone="Asia/Shanghai")
    store.add([day | {"item_id": "b", "timestamp": "2023-11-14T22:13:20Z"}], timezone="+08:00")
    assert [row.timestamp for row in store.latest("u")] == [T, T]
    with pytest.raises(ValueError, match="timezone: expected the name of a time zone"):
        store.add([day], timezone="Asia/Nowhere")


def test_events_on_unknown_items_are_counted(store):
    store.add([event("u", "a"), event("u", "b", 1), event("v", "b"), event("v", "c")])
    store.add([event("v", "d", event="impression")])
    assert store.stats().unknown is None
    assert store.stats(["a"]).unknown == {"events": 3, "items": 2, "most": {"b": 2, "c": 1}}
    assert store.stats(["a", "b", "c"]).unknown == {"events": 0, "items": 0, "most": {}}


# --- several at once, and crashes ---


def test_threads_that_add_at_once(store):
    added = [None] * 8

    def add(number):
        mine = [store.add([event("shared", f"i{n}", n)]) for n in range(20)]
        mine += [store.add([event(f"u{number}", f"i{n}", n) for n in range(10)])]
        added[number] = mine

    threads = [threading.Thread(target=add, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    totals = np.sum([list(counts) for mine in added for counts in mine], axis=0)
    assert totals.tolist() == [20 + 80, 7 * 20, 0] and len(store.read()) == 100


def test_two_openers_of_a_new_store_at_once(url):
    found = []

    def add(number):
        with FeedbackStore(url) as store:
            found.append(store.add([event(f"u{number}", "a")]))

    threads = [threading.Thread(target=add, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Added(1, 0)] * 6


def test_one_bad_write_does_not_harm_its_neighbours(store):
    """A row that only the database refuses, in the same transaction as good ones."""
    good, bad = event("u", "a"), dict.fromkeys(["event_id", "user_id", "item_id"])
    from kerasrec.feedback.intake import FIELDS, event_rows

    bad = {**dict.fromkeys(FIELDS), **bad}
    with store._database.writing():  # the writer waits, so that both are in one group
        futures = [store._writer.submit(rows) for rows in (event_rows([good]), [bad])]
        futures += [store.submit([event("u", "b")])]
        time.sleep(0.1)
    assert [futures[0].result(), futures[2].result()] == [Added(1, 0)] * 2
    assert "NULL" in str(futures[1].exception()).upper()


def test_close_writes_what_waits(url):
    store = FeedbackStore(url)
    future = store.submit([event("u", "a")])
    store.close()
    assert future.result() == Added(1, 0)
    with pytest.raises(ValueError, match="this store is closed. Open it again."):
        store.add([event("u", "b")])


CHILD = """
import itertools, sys
from kerasrec.feedback import FeedbackStore
url, start = sys.argv[1], int(sys.argv[2])
store = FeedbackStore(url)
for n in itertools.count(start):
    size = 1 + n % 3 * 10
    ids = [f"{n}-{m}" for m in range(size)]
    store.add([{"user_id": "u", "item_id": "i", "event_id": i, "timestamp": 1700000000 + n}
        for i in ids])
    print(" ".join(ids), flush=True)
"""


def acknowledged_before_a_kill(url, start, seconds):
    """Event ids that a child said were stored, killed so long after its first."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(url), str(start)], stdout=subprocess.PIPE, text=True
    )
    first = child.stdout.readline()
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read()
    child.wait()
    lines = (first + rest).split("\n")
    return [name for line in lines[:-1] for name in line.split()]


def test_kill_loses_nothing_acknowledged_and_doubles_nothing(url):
    draw, known = random.Random(0), set()
    for number in range(3):
        known |= set(acknowledged_before_a_kill(url, 10_000 * number, draw.uniform(0.02, 0.3)))
        with FeedbackStore(url) as store:
            ids = store.read()["event_id"]
            assert known <= set(ids) and ids.is_unique
            batches = ids.str.split("-").str[0].value_counts()
            assert all(count == 1 + int(n) % 3 * 10 for n, count in batches.items())  # whole ones
    assert len(known) > 3


# --- attribution and statistics ---


def test_clicks_are_attributed_to_version_and_position(store):
    served = dict(request_id="r1", model="shop", version=2)
    store.add([event("u", "b", 5, request_id="r1")])  # a click may arrive before the impression
    store.add_served("u", ["a", "b"], timestamp=T, **served).result()
    store.add_served(
        "v", ["a", "c"], request_id="r2", model="shop", version=3, timestamp=T
    ).result()
    store.add([event("u", "b", 6, request_id="r1", event="purchase"), event("u", "b", 7)])
    store.add([event("w", "z", 7, request_id="r9")])
    frame = store.read(events=["click", "purchase"])
    assert frame["version"].tolist() == [2, 2, pd.NA, pd.NA]
    assert frame["position"].tolist()[:2] == [2, 2] and frame["model"][0] == "shop"
    assert store.read(attribute=False, events="click")["version"].isna().all()
    stats = store.stats()
    assert stats.types == {"impression": 4, "click": 3, "purchase": 1}
    assert (stats.events, stats.users, stats.items) == (8, 3, 4)
    assert (stats.first, stats.last, stats.unmatched, stats.erasures) == (T, T + 7, 1, 0)
    assert stats.versions.to_numpy().tolist() == [["shop", 2, 2, 1, 0.5], ["shop", 3, 2, 0, 0.0]]
    assert stats.positions.to_numpy().tolist() == [[1, 2, 0, 0.0], [2, 2, 1, 0.5]]


# --- files ---


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_export_and_import_give_the_same_store(store, tmp_path, kind):
    store.add(
        [
            event("007", 'a "b",\nc', value=3.7, event="rating"),
            event(" 甲", "é", 1, event_id="x1", request_id="r", model="m", version=2, position=1),
            event("u", "a", 2, event="dislike"),
        ]
    )
    path = tmp_path / f"events.{kind}"
    assert store.export_file(path) == 3
    with FeedbackStore(tmp_path / "copy.db") as copy:
        assert copy.import_file(path) == Added(3, 0) and copy.import_file([path]) == Added(0, 3)
        ours, theirs = (s.read().drop(columns="seq") for s in (store, copy))
        pd.testing.assert_frame_equal(theirs, ours)


def test_import_of_a_foreign_log_in_any_order(store, tmp_path, caplog):
    frame = pd.DataFrame(
        {
            "uid": ["1", "2", "1", "1"],
            "iid": ["a", "b", "a", "c"],
            "ts": ["2024-03-01 08:00:00.900", "2024-03-01", "2024-03-01 08:00:00", "2024-03-02"],
            "behavior": ["4", "pv", "4", "pv"],
            "ticket": ["", "", "", "r1"],
        }
    )
    for seed in (0, 1, 2):
        path = tmp_path / f"{seed}.csv"
        frame.sample(frac=1, random_state=seed).to_csv(path, index=False)
        added = store.import_file(
            path, columns={"request_id": "ticket"}, event_weights={"4": "purchase"}
        )
        assert added == (Added(3, 1) if seed == 0 else Added(0, 4))
    assert "are stored once: 1 fewer" in caplog.text
    found = store.read(order="time")
    assert found["event"].tolist() == ["view", "purchase", "view"]
    assert found["request_id"].tolist() == [None, None, "r1"]


def test_import_leaves_out_bad_rows_where_asked(store, tmp_path, caplog):
    path = tmp_path / "log.csv"
    path.write_text("user,item,time,event_id\nu,a,soon,1\nu,b,1700000000,2\n")
    with pytest.raises(ValueError, match="time='soon' in data row 1"):
        store.import_file(path)
    assert store.import_file(path, on_bad="skip") == Added(1, 0)
    assert "unparsable time" in caplog.text
    assert store.read()[["item_id", "event_id"]].to_numpy().tolist() == [["b", "2"]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("user,item\nu,a\n", {}, "expected a time in every row"),
        ("user,item,time\nu,a,5\n", {}, "expected a time in every row"),
        (
            "user,item,time,event\nu,a,1700000000,share\n",
            {"event_weights": {"share": 2}},
            "Received: 'share'. Say which of them it is: event_weights={'share': 'click'}",
        ),
        ("user,item,time\nu,a,1700000000\n", {"columns": {"request_id": "no"}}, "column 'no' for"),
        ("user,item,time,version\nu,a,1700000000,new\n", {}, "as version. Received: 'new'"),
    ],
)
def test_import_refuses(tmp_path, text, options, message):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with FeedbackStore(tmp_path / "f.db") as store:
        with pytest.raises(ValueError) as caught:
            store.import_file(path, **options)
        assert message in str(caught.value) and len(store.read()) == 0


# --- the right to be forgotten ---


def test_forget(store):
    store.add([event("u", "a", n) for n in range(3)] + [event("v", "a")])
    assert store.forget("u") == 3 and store.read()["user_id"].tolist() == ["v"]
    (erasure,) = store.erasures()
    assert (erasure.rows, erasure.first_seq) == (3, 1) and abs(erasure.timestamp - time.time()) < 60
    assert store.add([event("u", "a"), event("v", "b")]) == Added(1, 0, 1)
    later = event("u", "new", timestamp=int(time.time()) + 5)
    assert store.add([later]) == Added(1, 0, 0)
    assert store.forget("stranger") == 0 and store.erasures()[1].first_seq is None
    assert store.last_seq() > 4  # a seq is never given twice


def test_forget_refuses_nothing_that_is_yet_to_come(store):
    """A wrong clock has dated an event years ahead: what the user does tomorrow is stored."""
    now = int(time.time())
    early = [event("u", "a", timestamp=now + 10**8), event("u", "b", timestamp=now - 10)]
    store.add(early, max_ahead=None)
    assert store.forget("u") == 2
    assert now <= store.erasures()[0].timestamp <= now + 60
    sent = [event("u", "b", timestamp=now - 10), event("u", "c", timestamp=now + 86400)]
    assert store.add(sent) == Added(1, 0, 1)
    assert store.read()["item_id"].tolist() == ["c"]


def test_another_process_respects_an_erasure(url):
    with FeedbackStore(url) as one, FeedbackStore(url) as other:
        other.add([event("u", "a")])
        one.forget("u")
        assert other.add([event("u", "a")]) == Added(0, 0, 1)


def test_forget_leaves_no_byte_in_the_files(tmp_path):
    draw = random.Random(1)
    forgotten = [f"user-{n:03d}-forgotten" for n in range(10)]
    others = [f"user-{n:03d}-staying-on" for n in range(60)]
    with FeedbackStore(tmp_path / "f.db") as store, FeedbackStore(tmp_path / "f.db") as other:
        for _ in range(40):
            users = draw.choices(forgotten + others, k=60)
            store.add([event(user, f"i{draw.random()}", draw.randrange(10**6)) for user in users])
        assert len(other.latest(forgotten[0])) > 10
        for user in forgotten:
            store.forget(user)
        names = os.listdir(tmp_path)
        held = b"".join((tmp_path / name).read_bytes() for name in names)
        assert "f.db-wal" in names and b"-staying-on" in held and b"-forgotten" not in held


# --- mistakes ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_id": None}, "event 2: expected a text or a whole number as user_id. Received: Non"),
        ({"user_id": "  "}, "event 2: expected a text that is not empty as user_id"),
        ({"item_id": 1.5}, "event 2: expected a text or a whole number as item_id. Received: 1.5"),
        ({"item_id": "x" * 300}, "event 2: expected at most 256 characters as item_id"),
        ({"item_id": "a\0b"}, "event 2: expected text without NUL"),
        ({"item_id": "\ud800"}, "event 2: expected text without NUL and broken characters"),
        ({"event": "clik"}, "event 2: expected a known event (impression, view, click,"),
        ({"event": "rating"}, "event 2: expected a number for a rating as value"),
        ({"value": "much"}, "event 2: expected a number as value. Received: 'much'"),
        ({"value": float("inf")}, "event 2: expected a finite number as value"),
        ({"value": True}, "event 2: expected a number as value"),
        (
            {"timestamp": "soon"},
            "event 2: expected a time from 1973 to 2099 (UTC",
        ),
        ({"timestamp": 5}, "event 2: expected a time"),
        ({"timestamp": "now"}, "event 2: expected a time"),
        ({"timestamp": "1960-01-01"}, "event 2: expected a time"),
        ({"position": 0}, "event 2: expected a whole number from 1 as position. Received: 0"),
        ({"version": "three"}, "event 2: expected a whole number from 1 as version"),
        ({"request_id": ["r"]}, "event 2: expected a text or a whole number as request_id"),
        ({"itemid": "a"}, "event 2: unknown field 'itemid'. Did you mean 'item_id'?"),
    ],
)
def test_a_malformed_event_refuses_the_batch(tmp_path, changes, message):
    with FeedbackStore(tmp_path / "f.db") as store:
        with pytest.raises(ValueError) as caught:
            store.add([event("u", "a"), {**event("u", "b"), **changes}])
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
        assert len(store.read()) == 0
        with pytest.raises(TypeError, match="event 1: expected a dict"):
            store.add(["click"])
        with pytest.raises(TypeError, match="events: expected a list of dicts"):
            store.add("click")


def test_a_full_disk_is_said(tmp_path):
    """SQLite's own limit of pages stands for the disk."""
    with FeedbackStore(tmp_path / "f.db") as store:
        store.add([event("u", "a")])
        with contextlib.closing(store._database.engine.raw_connection()) as connection:
            connection.driver_connection.execute("PRAGMA max_page_count = 20")
        with pytest.raises(OSError, match="the disk is full. Make room and send it again"):
            store.add([event(f"user {n}", f"item {n}" * 20) for n in range(2000)])
        assert len(store.read()) == 1


def test_store_of_a_newer_kerasrec(store, url):
    from kerasrec.feedback.database import STORE, sa

    with store._database.writing() as connection:
        connection.execute(sa.update(STORE).where(STORE.c.key == "format").values(value="9"))
    with pytest.raises(ArtifactError, match="of format 1. Received: format 9. Use the kerasrec"):
        FeedbackStore(url)


def test_import_in_a_zone_and_ahead_of_the_clock(store, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n1,a,2024-03-01 08:00\n2,b,2090-01-01\n")
    with pytest.raises(ValueError, match="time in the future"):
        store.import_file(path)
    with pytest.raises(ValueError, match="time in the future"):
        store.add(pd.read_csv(path))
    assert len(store.read()) == 0
    assert store.import_file(path, on_bad="skip", timezone="Asia/Shanghai").stored == 1
    assert store.read()["timestamp"].tolist() == [1709251200]  # 2024-03-01 00:00 UTC
