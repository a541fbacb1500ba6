import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from kerasrec.data.times.forms import holds_times, parse_times, read_moment
from kerasrec.data.times.zones import read_zone

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


def test_no_end_is_of_the_far_future():
    """9999-12-31 among seconds and milliseconds: a bad row, not 1978 and not another unit."""
    no_end = 253402214400
    for scale, form in ((1, "unix seconds"), (1000, "unix milliseconds")):
        times = parse_times(pd.Series([MIDNIGHT * scale, no_end * scale]))
        assert (times.form, times.seconds.tolist()) == (form, [MIDNIGHT, 0])
        assert bad(times) == {"time after 2099": [1]}
    old = parse_times(pd.Series([878_000_000_000, 893_000_000_000]))  # MovieLens of 1997, ms
    assert old.seconds.tolist() == [878_000_000, 893_000_000] and bad(old) == {}


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


# --- zones ---


def seconds_of(text):
    return int(np.datetime64(text, "s").astype(int))


@pytest.mark.parametrize(
    ("column", "local"),
    [
        (pd.Series(["2014-03-01 08:00:00", "2014-03-01T08:00:01"]), [True, True]),
        (pd.Series(["2014/3/1 8:00", "2014年3月1日 8:00:01"]), [True, True]),
        (pd.Series(["2014-03-01 08:00:00", "2014-03-01T00:00:01Z"]), [True, False]),
        (pd.Series(["2014-03-01T01:00:00+01:00", "2014-02-28T19:00:01-0500"]), None),
        (pd.Series(["2014-03-01 00:00:00 UTC", "2014-03-01T00:00:01z"]), None),
        (pd.Series(["2014-03-01T01:00+01:00[Europe/Berlin]", "2014-03-01 00:00:01 GMT"]), None),
        (pd.Series(["2014-03-01T08", "2014-03-01 08:00:01,000"]), [True, True]),
        (pd.Series(pd.to_datetime(["2014-03-01 08:00:00", "2014-03-01 08:00:01"])), [True, True]),
        (pd.Series(pd.to_datetime(["2014-03-01 00:00:00Z", "2014-03-01 00:00:01Z"])), None),
        (pd.Series([20140301080000, 20140301080001]), [True, True]),
        (pd.Series([MIDNIGHT, MIDNIGHT + 1]), None),
        (
            pa.chunked_array([pa.array([MIDNIGHT, MIDNIGHT + 1], pa.timestamp("s", "UTC"))]),
            None,
        ),
        (
            pa.chunked_array([pa.array([MIDNIGHT + 28800, MIDNIGHT + 28801], pa.timestamp("s"))]),
            [True, True],
        ),
    ],
)
def test_every_form_in_a_zone(column, local):
    times = parse_times(column, zone=read_zone("Asia/Shanghai"))
    assert times.seconds.tolist() == [MIDNIGHT, MIDNIGHT + 1]
    assert bad(times) == {}
    assert (None if times.local is None else times.local.tolist()) == local


def test_a_date_alone_is_midnight_of_the_zone():
    for column in (["2014-03-01"], [datetime.date(2014, 3, 1)], [20140301]):
        times = parse_times(pd.Series(column), zone=read_zone("Asia/Shanghai"))
        assert times.seconds.tolist() == [MIDNIGHT - 8 * 3600]


def test_doubtful_local_times_are_counted():
    texts = pd.Series(["2024-03-31 02:30", "2024-10-27 02:30", "2024-10-27T02:30+01:00"])
    times = parse_times(texts, zone=read_zone("Europe/Berlin"))
    assert (times.never, times.twice) == (1, 1)
    assert times.seconds.tolist() == [
        seconds_of("2024-03-31T01:30"),
        seconds_of("2024-10-27T00:30"),
        seconds_of("2024-10-27T01:30"),  # its own zone says which of the two it is
    ]


@pytest.mark.parametrize("word", ["now", "today"])
def test_words_for_this_moment_are_no_times(word):
    assert bad(parse_times(pd.Series(["2014-03-01", word]))) == {"unparsable time": [1]}


def test_read_moment_in_a_zone():
    zone = "Asia/Shanghai"
    assert read_moment("2014-03-01T08:00", timezone=zone) == MIDNIGHT
    assert read_moment("2014-03-01T08:00Z", timezone=zone) == MIDNIGHT + 8 * 3600
    assert read_moment("20140301", timezone=zone) == MIDNIGHT - 8 * 3600
    assert read_moment(str(MIDNIGHT), timezone=zone) == MIDNIGHT
    assert read_moment("now", timezone=zone) == "now"
    with pytest.raises(ValueError, match=r"\(Asia/Shanghai unless it names a zone\)"):
        read_moment("soon", timezone=zone)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["2014-03-01", "2014/3/2 8:00"], "dates"),
        ([20140301, 20140302], "dates"),
        ([20140301083000, 20140302083000], "dates"),
        (pd.to_datetime(["2014-03-01", None]), "dates"),
        (["2014-03-01"] * 9 + ["soon"], "dates"),
        (["2014-03-01"] * 8 + ["soon", "later"], ""),
        ([MIDNIGHT, MIDNIGHT + 1], "numbers"),
        ([MIDNIGHT * 1000, MIDNIGHT * 1000 + 1], "numbers"),
        ([MIDNIGHT, 900_000_000], ""),  # 1998: a number of something else
        ([MIDNIGHT, 4_000_000_000], ""),
        ([MIDNIGHT, MIDNIGHT * 1000], ""),
        ([13812345678, 13912345678], ""),  # telephones
        ([1, 2, 3], ""),
        ([2014, 2015], ""),
        ([9.5, 20.0], ""),
        (["红楼梦", "2014-03-01"], ""),
        (["", None], ""),
        ([], ""),
        ([True, False], ""),
        ([[1], [2]], ""),
    ],
)
def test_what_reads_as_times(values, kind):
    assert holds_times(pd.Series(values)) == kind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024/3/1 下午 3:05:00", "2024-03-01T15:05"),
        ("2024/3/1 上午 12:05", "2024-03-01T00:05"),
        ("2024/3/1 下午12:05", "2024-03-01T12:05"),
        ("2024-03-01 3:05 PM", "2024-03-01T15:05"),
        ("2024/3/1 12:05:09 am", "2024-03-01T00:05:09"),
        ("2024年3月1日 8时5分", "2024-03-01T08:05"),
        ("2024年3月1日 08时05分30秒", "2024-03-01T08:05:30"),
        ("2024年03月01日8点05分", "2024-03-01T08:05"),
        ("2024-03-01 24:00:00", "2024-03-02T00:00"),
        ("2024.3.1 8:05:7.25", "2024-03-01T08:05:07"),
        ("2024/3/1 8:05+08:00", "2024-03-01T00:05"),
        ("2024-03-01 08:00:00 +0800 CST", "2024-03-01T00:00"),
        ("2024-03-01 08:00:00.5 +0000 UTC", "2024-03-01T08:00"),
    ],
)
def test_other_forms_of_dates(text, expected):
    assert parse_times(pd.Series([text])).seconds.tolist() == [seconds_of(expected)]


@pytest.mark.parametrize(
    "text",
    ["3/1/2024", "2024-03-01 25:00", "2024-03-01 24:01", "2024-03-01 8:00 CST", "0000-00-00"],
)
def test_what_could_be_more_than_one_time_is_none(text):
    assert bad(parse_times(pd.Series(["2024-03-01", text]))) == {"unparsable time": [1]}


def test_days_of_a_spreadsheet():
    # 2024-03-01 is day 45352; a quarter is six hours
    times = parse_times(pd.Series([45352.25, 45353, None]), zone=read_zone("Asia/Shanghai"))
    assert times.seconds.tolist()[:2] == [
        seconds_of("2024-02-29T22:00"),
        seconds_of("2024-03-01T16:00"),
    ]
    assert times.form == "days of a spreadsheet" and bad(times) == {"no time": [2]}
    assert parse_times(pd.Series([45352, 45353])).form == "positions"
    assert parse_times(pd.Series([0.5, 45353])).form == "positions"


def test_units_of_texts_meet():
    texts = [
        "2014-03-01",
        "2014/3/1 0:00:01.5",
        "2014-03-01T00:00:02.000000001Z",
        "2014年3月1日 0:00:03",
        "2999-12-31",
        "2014-03-01 00:00:04.25 UTC",
    ]
    for some in (texts, texts[:2], texts[:1] + texts[3:]):
        times = parse_times(pd.Series(some))
        rows = [texts.index(text) for text in some]
        expected = [0 if row == 4 else MIDNIGHT + min(row, 4) for row in rows]
        assert times.seconds.tolist() == expected
        fractions = [0, 5 * 10**8, 1, 0, 0, 25 * 10**7]
        kept = np.where(times.seconds > 0, times.nanoseconds, 0).tolist()
        assert kept == [fractions[row] for row in rows]
