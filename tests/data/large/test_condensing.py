"""A condensed log is the log in memory, cleaned, with the newest events of each user."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from kerasrec.data import clean, load_mooccube, make_histories, read_interactions
from kerasrec.data.large import condensing, staging, streams
from kerasrec.data.large.condensing import condense
from kerasrec.data.tables import write_table


@pytest.fixture(scope="module")
def course_log(tmp_path_factory):
    """The packaged log as a file, and what the reader makes of it."""
    interactions, items = load_mooccube()
    path = tmp_path_factory.mktemp("courses") / "log.csv"
    write_table(interactions.frame[["user_id", "item_id", "timestamp"]], path)
    return path, read_interactions(path), items


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(streams, "PIECE", 20_000)
    monkeypatch.setattr(staging, "PIECE", 20_000)
    monkeypatch.setattr(condensing, "_PART", 15_000)


def newest(interactions, last):
    """By definition: rows in the order of their times, the last ones of each user."""
    frame = interactions.frame.sort_values("timestamp", kind="stable")
    return frame if last is None else frame.groupby("user_id", observed=True).tail(last)


def texts(frame):
    return frame[["user_id", "item_id", "event", "timestamp", "weight"]].astype(str).to_numpy()


@pytest.mark.parametrize(
    ("last", "rules"),
    [
        (5, {}),
        (None, {"repeats": "first"}),
        (20, {"repeats": "last", "max_user_events": "auto"}),
        (3, {"repeats": "exact", "min_user_events": 6, "min_item_events": 30}),
    ],
)
def test_it_is_what_the_rules_of_memory_leave(last, rules, course_log, tmp_path):
    path, interactions, items = course_log
    report = condense(path, tmp_path / "small", last=last, items=items, cleaning=rules)
    right = clean(interactions, items, **rules)
    found = read_interactions(tmp_path / "small")
    assert (texts(found.frame) == texts(newest(right, last))).all()
    steps = [step for step in report.steps if "before the newest" not in step.what]
    assert steps == list(right.report.steps)
    assert report.rows_before == len(interactions) and report.rows_after == len(found)
    parts = sorted(path.name for path in (tmp_path / "small").iterdir())
    assert parts[:2] == ["_condensed.json", "part-00000.parquet"]
    assert len(parts) == 1 + -(-len(found) // 15_000)


def test_histories_are_the_newest_of_those_in_memory(course_log, tmp_path):
    path, interactions, items = course_log
    condense(path, tmp_path / "small", last=4)
    whole = make_histories(interactions, items)
    small = make_histories(read_interactions(tmp_path / "small"), items).of_users(whole.user_ids)
    assert small.lengths.tolist() == np.minimum(whole.lengths, 4).tolist()
    for user in range(0, whole.num_users, 97):
        end, small_end = whole.offsets[user + 1], small.offsets[user + 1]
        count = small.lengths[user]
        assert (small.items[small_end - count : small_end] == whole.items[end - count : end]).all()


def test_by_hand(tmp_path):
    # two events of one second: their fractions, and then the rows of the log, are the order
    rows = [
        ("007", "x", 1_700_000_002.0, "buy", 3),
        ("007", "y", 1_700_000_001.5, "pv", 1),
        ("007", "z", 1_700_000_001.25, "share", 9),
        ("b", "z", 1_700_000_001.25, "pv", 1),
        ("007", "x", 1_700_000_001.25, "pv", 1),
    ]
    table = pd.DataFrame(rows, columns=["uid", "sku", "ts", "event", "stars"])
    reading = {"event_weights": {"share": 2.5}, "columns": {"value": "stars"}}
    condense(table, tmp_path / "small", last=3, reading=reading)
    found = pd.read_parquet(tmp_path / "small" / "part-00000.parquet")
    assert found.astype(str).to_numpy().tolist() == [
        ["b", "z", "1700000001", "view", "1.0", "1.0"],
        ["007", "x", "1700000001", "view", "1.0", "1.0"],
        ["007", "y", "1700000001", "view", "1.0", "1.0"],
        ["007", "x", "1700000002", "purchase", "3.0", "3.0"],
    ]
    assert found.columns.tolist() == [
        *("user_id", "item_id", "timestamp", "event", "value", "weight")
    ]
    told = json.loads((tmp_path / "small" / "_condensed.json").read_text("utf-8"))
    assert told["from"] == ["table"] and told["last"] == 3
    assert told["columns"]["value"] == "stars"
    assert told["report"]["rows_after"] == 4


def test_a_log_of_three_columns_stays_one(tmp_path):
    table = pd.DataFrame({"uid": ["a", "a", "b"], "sku": [1, 2, 1]})
    condense(table, tmp_path / "small", last=1)
    found = pd.read_parquet(tmp_path / "small")
    assert found.astype(str).to_numpy().tolist() == [["a", "2", "2"], ["b", "1", "3"]]
    assert not read_interactions(tmp_path / "small").has_time


def test_users_that_are_drawn_are_the_same_ones_next_time(course_log, tmp_path):
    path, interactions, _ = course_log
    condense(path, tmp_path / "one", max_users=50, last=None)
    condense(path, tmp_path / "two", max_users=80, last=2)
    one, two = (read_interactions(tmp_path / name).frame for name in ("one", "two"))
    users, more = set(one["user_id"]), set(two["user_id"])
    assert len(users) == 50 and len(more) == 80 and users < more
    whole = interactions.frame
    assert len(one) == whole["user_id"].isin(users).sum()


def test_events_of_unknown_items_are_refused_or_left_out(course_log, tmp_path):
    path, interactions, items = course_log
    few = items.frame.iloc[::2]
    with pytest.raises(ValueError, match="unknown items in ") as memory:
        clean(interactions, condensing.as_items(few))
    with pytest.raises(ValueError, match="unknown items in ") as disk:
        condense(path, tmp_path / "small", items=few)
    assert str(disk.value) == str(memory.value)
    assert list(tmp_path.iterdir()) == []
    skip = {"unknown_items": "skip"}
    report = condense(path, tmp_path / "small", last=None, items=few, cleaning=skip)
    right = clean(interactions, condensing.as_items(few), **skip)
    assert report == right.report


def test_nothing_left_is_refused_in_words(tmp_path):
    table = pd.DataFrame({"uid": list("ab"), "sku": list("xy")})
    with pytest.raises(ValueError, match=r"at least one event after cleaning.*none of 2 \(2 x eve"):
        condense(table, tmp_path / "small", cleaning={"min_user_events": 2})
    with pytest.raises(ValueError, match="expected a user_id"):
        condense(pd.DataFrame({"uid": ["", "a"], "sku": list("xy")}), tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last": 0}, "last: expected a number from 1, or None. Received: 0."),
        ({"max_users": 2.5}, "max_users: expected a number from 1"),
        ({"memory": "lots"}, "memory: expected an amount of 2GB or more"),
        ({"reading": {"encodng": "gbk"}}, "reading: unknown option encodng. Did you mean 'enc"),
        ({"cleaning": {"repeat": "first"}}, "cleaning: unknown option repeat. Did you mean 'rep"),
        ({"cleaning": {"repeats": "once"}}, "repeats: expected 'keep', 'exact'"),
        ({"reading": {"on_bad": "drop"}}, "on_bad: expected 'error' or 'skip'"),
    ],
)
def test_options_that_are_none(options, message, tmp_path):
    table = pd.DataFrame({"uid": list("aab"), "sku": list("xyx")})
    with pytest.raises(ValueError) as error:
        condense(table, tmp_path / "small", **options)
    assert str(error.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_touched(tmp_path):
    (tmp_path / "small").mkdir()
    table = pd.DataFrame({"uid": list("aab"), "sku": list("xyx")})
    with pytest.raises(FileExistsError, match="one that is there already"):
        condense(table, tmp_path / "small")
    assert list((tmp_path / "small").iterdir()) == []


SLOW = """
import sys, threading
from kerasrec.data.large import condensing
write = condensing._parts
def slow(*given):
    for part in write(*given):
        yield part
        print("written", flush=True)
        threading.Event().wait(60)
condensing._parts = slow
from kerasrec.cli import main
sys.exit(main(["condense", "--interactions", sys.argv[1], "--out", sys.argv[2]]))
"""


@pytest.mark.parametrize("kind", ["SIGINT", "SIGKILL"])
def test_an_interrupted_run_leaves_no_half_log(kind, course_log, tmp_path):
    path, _, _ = course_log
    words = [sys.executable, "-c", SLOW, str(path), str(tmp_path / "small")]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, env=dict(os.environ))
    assert child.stdout.readline() == b"written\n"
    child.send_signal(getattr(signal, kind))
    code = child.wait(timeout=30)
    assert not (tmp_path / "small").exists()
    left = [one.name for one in tmp_path.iterdir()]
    assert all(name.startswith(".") for name in left)  # which no reader takes for a log
    if kind == "SIGINT":
        assert code == 130 and left == []
    begin = time.monotonic()
    condense(path, tmp_path / "small")
    assert (tmp_path / "small").exists() and time.monotonic() - begin < 30
