import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from kerasrec.data.sources import read_interactions
from kerasrec.data.tables import FrameTable
from kerasrec.feedback.intake import (
    FIELDS,
    check_json,
    event_id,
    event_rows,
    numbered_rows,
    table_rows,
)

T = 1_700_000_000


def test_ids_and_numbers_of_numpy_are_taken():
    rows = event_rows(
        [{"user_id": np.int64(7), "item_id": "a", "value": np.float32(0.1), "version": 2.0}], now=T
    )
    assert (rows[0]["user_id"], rows[0]["value"], rows[0]["version"]) == ("7", 0.1, 2)


@pytest.mark.parametrize(
    "time",
    [
        T,
        float(T),
        str(T),
        T * 1000,
        T * 10**6,
        T * 10**9,
        str(T * 1000),
        T * 1000.0,
        "2023-11-14T22:13:20Z",
        "2023-11-14 22:13:20",
        "2023-11-15T06:13:20+08:00",
        "2023/11/14 22:13:20",
        datetime.datetime(2023, 11, 14, 22, 13, 20),
        pd.Timestamp(T, unit="s"),
    ],
)
def test_times_in_the_usual_forms(time):
    assert event_rows([{"user_id": "u", "item_id": "a", "timestamp": time}])[0]["timestamp"] == T


#: numbers outside every type, and things that are no numbers
ODD = [float("inf"), -float("inf"), 10**400, 10**5000, -(10**5000), True, [], {}, [1], b"x"]
ODD += [np.float64("inf"), np.float32("inf"), np.bool_(True), np.complex64(1), np.array([1, 2])]
ODD += ["9" * 5000, "\ud800", "\0", object(), pd.NaT, np.datetime64("NaT")]
NUMBERS = ("value", "timestamp", "version", "position")
OF_NUMBERS = [0.5, -1, 0, 2**31, 2**63, 2**64, "1e999", "nan", "x"]


# 253402214400 = 9999-12-31 in seconds: "no end" in tables of Hive and of tools of Java
@pytest.mark.parametrize(
    "time", [253402214400, "253402214400", 253402214400.0, 253402214400 * 1000, 32503680000]
)
def test_seconds_of_the_far_future_are_not_milliseconds_of_the_past(time):
    event = {"user_id": "u", "item_id": "a", "timestamp": time}
    for events in ([event], pd.DataFrame([event])):
        with pytest.raises(ValueError, match="to 2099|after 2099|between 1973 and 2099"):
            event_rows(events)


def test_columns_that_are_read_along_are_not_called_unused():
    frame = pd.DataFrame({"user": ["u"], "item": ["a"], "ts": [T], "event_id": ["e1"], "who": "x"})
    frame["at_place"] = 3
    rows, report = table_rows(FrameTable(frame), columns={"position": "at_place"})
    assert (rows[0]["event_id"], rows[0]["position"]) == ("e1", 3)
    assert [step.what for step in report.steps if step.step == "columns"] == [
        "columns: user_id = user, item_id = item, timestamp = ts, event_id, position = at_place",
        "columns not used: who",
    ]


@pytest.mark.parametrize("field", FIELDS)
def test_what_no_field_holds_is_refused_by_its_name(field):
    """A ValueError that is short and names the field, whatever came."""
    odd = [*ODD, *OF_NUMBERS] if field in ("version", "position") else ODD
    for value in odd:
        with pytest.raises(ValueError, match=f"event 1: .* as {field}. Received: ") as refused:
            event_rows([{"user_id": "u", "item_id": "a", "timestamp": T, field: value}])
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize("field", ["version", "position"])
@pytest.mark.parametrize(
    "column",
    [[True, False], ["1e999", "2"], [10**400, 1], ["9" * 500, "1"], [np.inf, 1], [1.5, 2]]
    + [[2**63, 1], [[1], [2]], [1 + 2j, 2], ["x", "1"], [10**5000, 1]],
)
def test_columns_of_other_numbers_are_refused_by_their_name(field, column):
    table = pd.DataFrame({"user": ["u", "v"], "item": ["a", "b"], "time": T})
    table[field] = pd.Series(column, dtype=None if isinstance(column[0], float) else object)
    with pytest.raises(ValueError, match=f"data row 1: .* as {field}. Received: "):
        event_rows(table)


def test_nan_is_missing_in_python_and_no_json():
    given = {"user_id": "u", "item_id": "a", "timestamp": T, "version": float("nan")}
    assert event_rows([given])[0]["version"] is None
    with pytest.raises(ValueError, match="event 2: expected a number or null as version"):
        check_json([{}, given])


def test_rows_know_the_numbers_of_their_events():
    times = [T + 0.5, T + 0.25, T - 1]
    events = [{"user_id": "u", "item_id": str(n), "timestamp": t} for n, t in enumerate(times, 1)]
    found = numbered_rows(events)
    assert found.numbers == [3, 2, 1] == [int(row["item_id"]) for row in found.rows]
    assert numbered_rows(events[2:]).numbers == [1]


def test_ids_follow_from_content_and_nothing_else():
    base = {"user_id": "u", "item_id": "a", "timestamp": T, "value": 1, "request_id": "r"}
    (row,) = event_rows([base])
    assert row["event_id"] == event_id(row) and len(row["event_id"]) == 32
    same = [{**base, "event": "clicked"}, {**base, "model": "m", "version": 1, "position": 3}]
    assert {r["event_id"] for r in event_rows(same)} == {row["event_id"]}
    other = [
        {**base, **change} for change in (dict(user_id="v"), dict(value=2), dict(event="view"))
    ]
    other += [{**base, "timestamp": T + 1}, {**base, "request_id": "s"}, {**base, "item_id": "b"}]
    ids = {r["event_id"] for r in event_rows(other)}
    assert len(ids) == 6 and row["event_id"] not in ids
    joined = [{**base, "user_id": x, "item_id": y} for x, y in (("a", "b,c"), ("a,b", "c"))]
    assert len({r["event_id"] for r in event_rows(joined)}) == 2


def test_a_table_and_interactions_give_the_rows_of_a_list():
    events = [
        {"user_id": "7", "item_id": "a", "event": "rating", "value": 3.3, "timestamp": T},
        {"user_id": "8", "item_id": "b", "event": "rating", "value": 4.0, "timestamp": T + 1},
    ]
    rows = event_rows(events)
    table = pd.DataFrame(events)
    assert event_rows(table) == event_rows(read_interactions(table)) == rows
    extra = table.assign(request_id=[None, "r"], position=[np.nan, 2.0], event_id=["", "mine"])
    found = event_rows(extra)
    assert [row["position"] for row in found] == [None, 2]
    assert [row["request_id"] for row in found] == [None, "r"]
    assert [row["event_id"] for row in found] == [rows[0]["event_id"], "mine"]
    assert event_rows(table[:0]) == []


def test_a_table_without_times_is_of_now():
    rows = event_rows(pd.DataFrame({"user": [1, 2], "item": [3, 4]}), now=T)
    assert [row["timestamp"] for row in rows] == [T, T]


def test_interactions_without_times_are_refused():
    log = read_interactions(pd.DataFrame({"user": [1, 2], "item": [3, 4]}))
    with pytest.raises(ValueError, match="interactions: expected a time in every row"):
        event_rows(log)


def test_rows_of_one_second_are_in_their_exact_order():
    times = ["2024-03-01 00:00:00.9", "2024-03-01 00:00:00.1", "2024-03-01 00:00:00.5"]
    table = pd.DataFrame({"user": 1, "item": ["c", "a", "b"], "time": times})
    assert [row["item_id"] for row in event_rows(table)] == ["a", "b", "c"]


def test_tables_of_polars_and_arrow_are_as_those_of_pandas():
    data = {
        "user": ["u", "v"],
        "item": [2**53 + 1, 3],
        "event": ["pv", "buy"],
        "ts": [1393607161, 1393607207],
    }
    expected = event_rows(pd.DataFrame(data))
    assert [row["item_id"] for row in expected] == ["9007199254740993", "3"]
    for make in (pl.DataFrame, pa.table, lambda data: pa.table(data).to_reader()):
        assert event_rows(make(data)) == expected
    assert event_rows(pl.DataFrame(data).clear()) == []
