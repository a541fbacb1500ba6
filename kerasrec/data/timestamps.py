"""Turns times of the usual forms into UTC seconds: unix numbers, ISO dates, timestamps."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

# A number is taken by its size: seconds reach 1e11 in the year 5138, milliseconds 1e11 in March
# 1973.
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_UNIT_EDGES = np.array([10**11, 10**14, 10**17], dtype=np.int64)
POSITIONS_BELOW = 10**8
FIRST_SECOND = 10**8  # 1973-03-03: no log is older
LAST_SECOND = 4_102_444_800  # 2100-01-01
#: whole numbers that are dates, by an example: form of strptime
_CALENDAR_FORMS = {
    "20140301": "%Y%m%d",
    "2014030118": "%Y%m%d%H",
    "201403011830": "%Y%m%d%H%M",
    "20140301183059": "%Y%m%d%H%M%S",
}
_EMPTY_WORDS = ("", "nan", "null", "none", "nat", "<na>", "\\n")


class Times(NamedTuple):
    """Holds the UTC seconds of every row, and what is wrong with some rows.

    `seconds` is int64, `(num_rows,)`, 0 where a row is bad. `problems` maps a reason to a bool mask
    `(num_rows,)`. `nanoseconds` is int64 when the source is finer than seconds, else None.
    `form` says how the column was read.
    """

    seconds: np.ndarray
    problems: dict
    nanoseconds: np.ndarray | None
    form: str


def parse_times(column: Any, name: str = "timestamp") -> Times:
    """Reads a column of numbers, texts or timestamps as UTC seconds.

    Numbers are seconds, milliseconds, microseconds or nanoseconds, by their size, and one column
    must hold one unit; when all are below 1e8 they are positions, not times. Numbers that all read
    as dates (20140301, also with hour, minute and second behind it) are dates. Texts are ISO dates,
    with or without a time and a zone (UTC when there is none); `2014/3/1 9:05` and `2014年3月1日`
    are understood as well.

    Args:
        column: pandas Series or Arrow array.
        name: the column's name in its source, for messages.

    Returns:
        `Times`. Rows without a time, and times before 1973 or after 2099, are in `problems`.

    Raises:
        ValueError: the column mixes units, or holds neither numbers, texts nor timestamps.

    >>> times = parse_times(pd.Series(["2014-03-01", "2014-03-01T08:00:00+08:00", "soon"]))
    >>> times.seconds.tolist(), [reason for reason, bad in times.problems.items() if bad.any()]
    ([1393632000, 1393632000, 0], ['unparsable time'])
    """
    series = _as_series(column)
    if pd.api.types.is_bool_dtype(series.dtype):
        raise ValueError(_kind_message(name, "true and false"))
    if pd.api.types.is_numeric_dtype(series.dtype):
        return _from_numbers(series, name)
    if isinstance(series.dtype, pd.DatetimeTZDtype) or series.dtype.kind == "M":
        return _from_datetimes(series, "timestamps")
    return _from_texts(series, name)


def read_moment(at: Any) -> int | str | None:
    """Reads one time as UTC seconds, in any form that `parse_times` takes; keeps None and "now".

    Raises:
        ValueError: anything else.

    >>> read_moment("2014-03-01"), read_moment(1393632000000), read_moment("now")
    (1393632000, 1393632000, 'now')
    """
    if at is None or isinstance(at, str) and at == "now":
        return at
    is_number = isinstance(at, str) and at.isdecimal() and len(at) > 8  # 20140301 is a date
    try:
        times = parse_times(pd.Series([int(at) if is_number else at]), "at")
        bad = any(rows.any() for rows in times.problems.values()) or isinstance(at, bool)
        # pandas reads "today" as this moment
        bad |= isinstance(at, str) and not any(letter.isdigit() for letter in at)
    except (ValueError, TypeError, OverflowError):
        bad = True
    if bad or times.seconds[0] < FIRST_SECOND:
        raise ValueError(
            'at must be "now" or a time: a date such as 2026-11-24T08:00 (UTC unless it names a '
            f"zone), or UTC seconds. Received: {at!r}."
        )
    return int(times.seconds[0])


def _as_series(column):
    if not isinstance(column, pd.Series):
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        kind = column.type
        if pa.types.is_date(kind):
            column = column.cast(pa.timestamp("s"))
        elif pa.types.is_decimal(kind):
            column = column.cast(pa.float64())
        elif pa.types.is_integer(kind) and column.null_count:
            return pd.Series(column.to_pandas(types_mapper=pd.ArrowDtype).astype("Int64"))
        elif pa.types.is_null(kind):
            column = column.cast(pa.string())
        column = column.to_pandas()
    if isinstance(column.dtype, pd.ArrowDtype):
        return _as_series(pa.chunked_array([pa.array(column)]))
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    return column


def _kind_message(name, received):
    return (
        f"{name}: expected times as numbers, ISO texts or timestamps. Received: {received}. "
        "Name the right column for timestamp."
    )


def _from_numbers(series, name):
    empty = series.isna().to_numpy()
    nanoseconds = None
    if pd.api.types.is_integer_dtype(series.dtype):
        values = series.fillna(0).to_numpy(dtype=np.int64)
    else:
        floats = series.to_numpy(dtype=np.float64, na_value=np.nan)
        huge = ~np.isfinite(floats) | (np.abs(floats) >= 9e18)
        floats = np.where(huge, 0, floats)
        values = np.floor(floats).astype(np.int64)
        values[huge & ~empty] = -1  # infinite: ends up among the absurd times
        nanoseconds = (floats - values) if np.any(floats != values) else None
    good = ~empty & (values >= 0)
    written = good & (values != 0)  # a 0 among dates is a missing one
    form = _calendar_form(values[written])
    if form:
        text = pd.Series(values.astype(str)).where(written)
        dates = pd.to_datetime(text, format=_CALENDAR_FORMS[form], errors="coerce")
        return _from_datetimes(dates, f"dates such as {form}", empty | (good & ~written))
    unit = _one_unit(values, good, name)
    scale = UNITS[unit]
    if scale > 1:
        fraction = values % scale
        nanoseconds = fraction * (10**9 // scale) if fraction[good].any() else None
        values = values // scale
    elif nanoseconds is not None:
        nanoseconds = np.round(nanoseconds * 1e9).astype(np.int64)
    form = f"unix {unit}"
    if good.any() and values[good].max() < POSITIONS_BELOW:
        form = "positions"
    return _checked(values, empty, np.zeros_like(empty), nanoseconds, form)


def _calendar_form(values):
    """Key of `_CALENDAR_FORMS` when all values read as calendar dates of that form, else None."""
    if not len(values):
        return None
    digits = len(str(values.min()))
    form = next((form for form in _CALENDAR_FORMS if len(form) == digits), None)
    if form is None or len(str(values.max())) != digits:
        return None
    date = values // 10 ** (digits - 8)
    month, day = date // 100 % 100, date % 100
    fits = (date >= 19_700_101) & (date <= 21_001_231)
    fits &= (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    for place, limit in enumerate((24, 60, 60)[: (digits - 8) // 2]):
        fits &= values // 10 ** (digits - 10 - 2 * place) % 100 < limit
    return form if fits.all() else None


def _one_unit(values, good, name):
    large = good & (values >= POSITIONS_BELOW)
    good = large if large.any() else good  # a 0 among milliseconds is a bad time, not a unit
    codes = np.searchsorted(_UNIT_EDGES, values, side="right")
    present = np.unique(codes[good])
    names = list(UNITS)
    if len(present) > 1:
        rows = [int(np.flatnonzero(good & (codes == code))[0]) for code in present[:2]]
        seen = " and ".join(
            f"{names[code]} in data row {row + 1} ({values[row]})"
            for row, code in sorted(zip(rows, present[:2], strict=True))
        )
        raise ValueError(
            f"{name}: expected one unit for all times. Received: {seen}. "
            "Bring them to one unit, best UTC seconds."
        )
    return names[present[0]] if len(present) else "seconds"


def _from_texts(series, name):
    text = series.astype("str").str.strip()
    empty = series.isna().to_numpy() | text.str.lower().isin(_EMPTY_WORDS).to_numpy()
    present = series[~empty]
    if len(present) and not isinstance(present.iloc[0], str):
        known = pd.api.types.infer_dtype(present)
        if known not in (
            "datetime",
            "date",
            "datetime64",
            "integer",
            "floating",
            "mixed-integer-float",
        ):
            raise ValueError(_kind_message(name, f"values such as {present.iloc[0]!r}"))
    numbers = pd.to_numeric(text.where(~empty), errors="coerce")
    numeric = numbers.notna().to_numpy()
    dates = _to_datetime(text.mask(empty | numeric))
    if numeric.sum() >= max(dates.notna().sum(), 1):
        if np.all(numbers[numeric] == np.floor(numbers[numeric])):
            numbers = pd.to_numeric(text.where(numeric)).astype("Int64")
        times = _from_numbers(numbers, name)
        unparsable = ~empty & ~numeric
        problems = {**times.problems, "no time": empty, "unparsable time": unparsable}
        return times._replace(problems=problems)
    return _from_datetimes(dates, "ISO dates and times", empty)


def _to_datetime(text):
    """UTC datetimes from texts; NaT where a text is no date."""
    parsed = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    rest = text[parsed.isna() & text.notna()]
    if len(rest):
        parts = rest.str.extract(
            r"^(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})日?(?:[ T]*(\d{1,2}):(\d{1,2})(.*))?$"
        )
        clock = parts[3].str.zfill(2) + ":" + parts[4].str.zfill(2) + parts[5]
        day = parts[0] + "-" + parts[1].str.zfill(2) + "-" + parts[2].str.zfill(2)
        padded = day + ("T" + clock).fillna("")
        parsed[rest.index] = pd.to_datetime(padded, format="ISO8601", utc=True, errors="coerce")
    return parsed


def _from_datetimes(series, form, empty=None):
    """`Times` from pandas datetimes; NaT rows that are not in `empty` are unparsable."""
    if getattr(series.dtype, "tz", None) is not None:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    missing = series.isna().to_numpy()
    empty = missing if empty is None else empty
    unit = np.datetime_data(series.dtype)[0]
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    ticks = np.where(missing, 0, series.to_numpy().astype(np.int64))
    seconds, fraction = ticks // scale, ticks % scale
    nanoseconds = fraction * (10**9 // scale) if fraction.any() else None
    # Dates before 1973 that were written as dates are absurd, never positions.
    return _checked(seconds, empty, missing & ~empty, nanoseconds, form)


def _checked(seconds, empty, unparsable, nanoseconds, form):
    bad = empty | unparsable
    problems = {"no time": empty, "unparsable time": unparsable}
    problems["negative time"] = ~bad & (seconds < 0)
    if form != "positions":
        problems["time before 1973"] = ~bad & (seconds >= 0) & (seconds < FIRST_SECOND)
        problems["time after 2099"] = ~bad & (seconds >= LAST_SECOND)
    wrong = np.logical_or.reduce(list(problems.values()))
    return Times(np.where(wrong, 0, seconds), problems, nanoseconds, form)
