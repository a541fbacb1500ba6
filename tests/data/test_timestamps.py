import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from kerasrec.data.timestamps import parse_times

# 2014-03-01 00:00:00 UTC = 16130 days after 1970-01-01
MIDNIGHT = 16130 * 86400


def bad(times):
    return {
        reason: np.flatnonzero(mask).tolist()
        for reason, mask in times.problems.items()
        if mask.any()
    }


@pytest.mark.parametrize(
    ("column", "form"),
    [
        (pd.Series([MIDNIGHT, MIDNIGHT + 1]), "unix seconds"),
        (pd.Series([MIDNIGHT, MIDNIGHT + 1]) * 1000, "unix milliseconds"),
        (pd.Series([MIDNIGHT, MIDNIGHT + 1]) * 10**6, "unix microseconds"),
        (pd.Series([MIDNIGHT, MIDNIGHT + 1]) * 10**9, "unix nanoseconds"),
        (pd.Series([MIDNIGHT, MIDNIGHT + 1], dtype="float64"), "unix seconds"),
        (pd.Series([str(MIDNIGHT), str(MIDNIGHT + 1)]), "unix seconds"),
        (pd.Series(["2014-03-01", "2014-03-01T00:00:01"]), "ISO dates and times"),
        (pd.Series(["2014-03-01 00:00:00", "2014-03-01 00:00:01"]), "ISO dates and times"),
        (pd.Series(["2014-03-01T00:00:00Z", "2014-03-01T08:00:01+08:00"]), "ISO dates and times"),
        (pd.Series(["2014/3/1 0:00", "2014年3月1日 0:00:01"]), "ISO dates and times"),
        (pd.Series([datetime.date(2014, 3, 1), datetime.datetime(2014, 3, 1, 0, 0, 1)]), None),
        (pd.Series(pd.to_datetime(["2014-03-01 00:00:00", "2014-03-01 00:00:01"])), "timestamps"),
        (
            pd.Series(pd.to_datetime(["2014-03-01 08:00:00+08:00", "2014-03-01 08:00:01+08:00"])),
            "timestamps",
        ),
        (pa.chunked_array([pa.array([MIDNIGHT, MIDNIGHT + 1])]), "unix seconds"),
        (
            pa.chunked_array(
                [pa.array([MIDNIGHT * 1000, MIDNIGHT * 1000 + 1000], pa.timestamp("ms"))]
            ),
            "timestamps",
        ),
        (pa.chunked_array([pa.array(["2014-03-01", "2014-03-01 00:00:01"])]), None),
    ],
)
def test_every_form_gives_utc_seconds(column, form):
    times = parse_times(column)
    assert times.seconds.tolist() == [MIDNIGHT, MIDNIGHT + 1]
    assert times.seconds.dtype == np.int64
    assert bad(times) == {}
    assert form is None or times.form == form


def test_arrow_dates():
    column = pa.chunked_array([pa.array([datetime.date(2014, 3, 1)])])
    assert parse_times(column).seconds.tolist() == [MIDNIGHT]


def test_calendar_numbers_are_dates():
    times = parse_times(pd.Series([20140301, 20140302]))
    assert times.seconds.tolist() == [MIDNIGHT, MIDNIGHT + 86400]


def test_calendar_number_that_is_no_date_is_unparsable():
    assert bad(parse_times(pd.Series([20140301, 20140231]))) == {"unparsable time": [1]}


def test_small_numbers_are_positions():
    times = parse_times(pd.Series([1, 2, 3]))
    assert times.form == "positions" and times.seconds.tolist() == [1, 2, 3]


def test_finer_than_a_second_is_kept_aside():
    times = parse_times(pd.Series([MIDNIGHT * 1000 + 250, MIDNIGHT * 1000 + 999]))
    assert times.seconds.tolist() == [MIDNIGHT, MIDNIGHT]
    assert times.nanoseconds.tolist() == [250_000_000, 999_000_000]
    times = parse_times(pd.Series(["2014-03-01T00:00:00.5", "2014-03-01T00:00:00"]))
    assert times.nanoseconds.tolist() == [500_000_000, 0]
    times = parse_times(pd.Series([MIDNIGHT + 0.5, MIDNIGHT]))
    assert times.nanoseconds.tolist() == [500_000_000, 0]


def test_whole_seconds_have_no_fractions():
    assert parse_times(pd.Series([MIDNIGHT * 1000])).nanoseconds is None


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ([MIDNIGHT, None], {"no time": [1]}),
        ([MIDNIGHT, -5], {"negative time": [1]}),
        ([MIDNIGHT, 0], {"time before 1973": [1]}),
        ([MIDNIGHT * 1000, 0], {"time before 1973": [1]}),
        ([MIDNIGHT, 4_102_444_800], {"time after 2099": [1]}),
        ([float(MIDNIGHT), np.inf], {"negative time": [1]}),
        (["2014-03-01", "", "nan", "soon"], {"no time": [1, 2], "unparsable time": [3]}),
        ([str(MIDNIGHT), "", "soon"], {"no time": [1], "unparsable time": [2]}),
        (["1960-01-01", "2014-03-01"], {"negative time": [0]}),
        (["1971-01-01", "2014-03-01"], {"time before 1973": [0]}),
        (["2014-02-30", "2014-03-01"], {"unparsable time": [0]}),
        ([None, "NULL"], {"no time": [0, 1]}),
    ],
)
def test_bad_times_are_marked(values, problems):
    times = parse_times(pd.Series(values))
    assert bad(times) == problems
    rows = [row for rows in problems.values() for row in rows]
    assert not times.seconds[rows].any()


def test_mixed_units_name_both_rows():
    with pytest.raises(ValueError) as error:
        parse_times(pd.Series([MIDNIGHT, MIDNIGHT * 1000]), "log.csv: ts")
    assert str(error.value) == (
        "log.csv: ts: expected one unit for all times. Received: seconds in data row 1 "
        "(1393632000) and milliseconds in data row 2 (1393632000000). Bring them to one unit, best "
        "UTC seconds."
    )


@pytest.mark.parametrize("values", [[True, False], [[1], [2]], [{"a": 1}, {"a": 2}]])
def test_other_kinds_are_refused(values):
    with pytest.raises(ValueError, match="expected times as numbers, ISO texts or timestamps"):
        parse_times(pd.Series(values))


def test_nullable_and_arrow_backed_columns():
    for kind in ("Int64", "int64[pyarrow]"):
        times = parse_times(pd.Series([MIDNIGHT, None], dtype=kind))
        assert times.seconds.tolist() == [MIDNIGHT, 0] and bad(times) == {"no time": [1]}


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([2014030118, 2014030200], "2014-03-01T18"),
        ([201403011830, 201403020000], "2014-03-01T18:30"),
        ([20140301183059, 20140302000000], "2014-03-01T18:30:59"),
    ],
)
def test_calendar_numbers_with_a_clock(numbers, text):
    times = parse_times(pd.Series(numbers))
    second = np.datetime64("2014-03-02T00:00:00", "s").astype(int)
    assert times.seconds.tolist() == [np.datetime64(text, "s").astype(int), second]
    assert "dates such as 2014" in times.form


def test_a_zero_among_calendar_dates_is_a_missing_one():
    times = parse_times(pd.Series([20140301, 0]))
    assert times.seconds.tolist() == [1393632000, 0] and bad(times) == {"no time": [1]}


def test_unix_seconds_are_no_calendar():
    assert parse_times(pd.Series([1_393_632_000, 2_014_030_199])).form == "unix seconds"
