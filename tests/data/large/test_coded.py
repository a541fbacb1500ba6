"""Rules on a coded log agree with `clean` on any small log; ids meet a catalogue as in memory."""

import tempfile

import numpy as np
import pandas as pd
import pytest

from kerasrec.data import clean, read_interactions, read_items
from kerasrec.data.large.coded import CodedLog
from kerasrec.data.large.database import open_database
from kerasrec.data.large.staging import stage
from kerasrec.data.matching import match_ids


def made(seed, rows=60):
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 6, rows), rng.integers(0, 9, rows) ** 2 // 8
    times = 1_700_000_000 + rng.integers(0, 12, rows)
    return pd.DataFrame({"uid": [f"u{n}" for n in users], "iid": items, "ts": times})


def left(coded):
    rows = coded.connection.sql("SELECT row FROM coded ORDER BY row").fetchall()
    return [row for (row,) in rows]


RULES = [
    {"repeats": "first"},
    {"repeats": "last"},
    {"repeats": "exact"},
    {"min_user_events": 9, "min_item_events": 4},
    {"min_item_events": 12},
    {"max_user_events": 9},
    {"max_user_events": "auto", "repeats": "first", "min_user_events": 3, "min_item_events": 3},
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rules", RULES, ids=str)
def test_rules_leave_the_same_rows_and_lines(rules, seed):
    log = made(seed)
    interactions = read_interactions(log)
    named = interactions.frame.assign(value=np.arange(len(log), dtype=np.float32))
    right = clean(interactions.replace(named), **rules)
    with tempfile.TemporaryDirectory() as folder, open_database("2GB", folder) as connection:
        coded = CodedLog(stage(connection, log))
        coded.clean(None, **rules)
        assert left(coded) == right.frame["value"].astype(int).tolist()
        assert coded.report == right.report
        assert sorted(coded.counts("users")) == sorted(right.frame["user_id"].value_counts())


def test_the_core_counts_its_own_events_alone():
    log = pd.DataFrame({"uid": list("aabbc"), "iid": list("xyxyy"), "ts": range(5)})
    with tempfile.TemporaryDirectory() as folder, open_database("2GB", folder) as connection:
        coded = CodedLog(stage(connection, log))
        assert coded.find_core(2, 2) == 1  # c goes, and all others have enough
        assert sorted(connection.sql("SELECT n FROM core_users").fetchall()) == [(2,), (2,)]
        assert sorted(connection.sql("SELECT n FROM core_items").fetchall()) == [(2,), (2,)]


@pytest.mark.parametrize(
    "ids", [["0001", "0004"], ["u0", "u1", "u2", "u3"], ["1", "4", "z"], ["p", "q"]]
)
def test_ids_meet_a_catalogue_as_in_memory(ids):
    log = made(0)
    items = read_items(pd.DataFrame({"item_id": ids, "title": "书"}))
    right = match_ids(read_interactions(log), items)
    with tempfile.TemporaryDirectory() as folder, open_database("2GB", folder) as connection:
        assert CodedLog(stage(connection, log)).match(items) == right


def test_newest_events_by_hand():
    log = pd.DataFrame({"uid": list("aabaa"), "iid": list("vwxyz"), "ts": [9, 5, 1, 9, 7]})
    with tempfile.TemporaryDirectory() as folder, open_database("2GB", folder) as connection:
        coded = CodedLog(stage(connection, log))
        coded.newest(2)  # of a: the two at 9, rows 0 and 3
        assert left(coded) == [0, 2, 3]
        assert coded.report.steps[-1].example == "1 users have more"
