"""Turns times of the usual forms into UTC seconds: unix numbers, ISO dates, timestamps."""

from datetime import UTC, tzinfo
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from kerasrec.data.times.zones import DAY, latest_moment, read_zone, to_utc, zone_name

# A number is taken by its size. Milliseconds and microseconds begin in 1990: a "no end" of the year
# 9999 in seconds would be 1978 in milliseconds. Ticks of Windows lie where nanoseconds begin.
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_YEAR_1990 = 631_152_000
_UNIT_EDGES = np.array([_YEAR_1990 * 10**3, _YEAR_1990 * 10**6, 10**17], dtype=np.int64)
POSITIONS_BELOW = 10**8
FIRST_SECOND = 10**8  # 1973-03-03: no log is older
_YEAR_2000 = 946_684_800
LAST_SECOND = 4_102_444_800  # 2100-01-01
#: whole numbers that are dates, by an example: form of strptime
_CALENDAR_FORMS = {
    "20140301": "%Y%m%d",
    "2014030118": "%Y%m%d%H",
    "201403011830": "%Y%m%d%H%M",
    "20140301183059": "%Y%m%d%H%M%S",
}
#: dates that are not ISO: one digit is enough, other marks, half a day of twelve hours
_LOOSE = (
    r"^(?P<year>\d{4})[-/.年](?P<month>\d{1,2})[-/.月](?P<day>\d{1,2})日?(?:[ T]*"
    r"(?P<before>上午|下午|凌晨|晚上)?\s*(?P<hour>\d{1,2})(?::|[时点](?=\d))(?P<minute>\d{1,2})分?"
    r"(?::?(?P<second>\d{1,2}(?:\.\d+)?)秒?)?\s*(?P<after>[AaPp][Mm])?\s*"
    r"(?P<zone>Z|[+-]\d\d:?\d\d)?)?$"
)
#: days from 1900 as a spreadsheet counts them, of 2000-01-01 and 2100-01-01, and of 1970-01-01
_SHEET_DAYS, _SHEET_EPOCH = (36_526, 73_051), 25_569
_HUGE = 9e18  # no unit makes a time of it
#: a problem of `Times`
INEXACT = "time rounded by its type"
#: a number as spreadsheets and floats write it where they have rounded it
ROUNDED = r"[+-]?\d(?:\.\d+)?[eE]\+\d{2,3}"
_EMPTY_WORDS = ("", "nan", "null", "none", "nat", "<na>", "\\n")


class Times(NamedTuple):
    """Holds the UTC seconds of every row, and what is wrong with some rows.

    `seconds` is int64, `(num_rows,)`, 0 where a row is bad. `problems` maps a reason to a bool mask
    `(num_rows,)`. `nanoseconds` is int64 when the source is finer than seconds, else None.
    `form` says how the column was read. `local` is a bool mask `(num_rows,)` of the dates that name
    no zone (None = there is none); `twice` and `never` count those of them that a change of the
    clock made doubtful, see `LocalTimes`.
    """

    seconds: np.ndarray
    problems: dict
    nanoseconds: np.ndarray | None
    form: str
    local: np.ndarray | None = None
    twice: int = 0
    never: int = 0


def parse_times(column: Any, name: str = "timestamp", *, zone: tzinfo = UTC) -> Times:
    """Reads a column of numbers, texts or timestamps as UTC seconds.

    Numbers are seconds, milliseconds, microseconds or nanoseconds, by their size, and one column
    must hold one unit; when all are below 1e8 they are positions, not times. Numbers that all read
    as dates (20140301, also with hour, minute and second behind it) are dates. Texts are ISO dates,
    with or without a time and a zone; `2014/3/1 9:05`, `2014年3月1日 下午 3:05` and days of a
    spreadsheet with a clock (45352.5) are understood as well.
    Dates and times that name no zone are local times of `zone`; `to_utc` says how they are read
    when the clock is set forward or back.

    Args:
        column: pandas Series or Arrow array.
        name: the column's name in its source, for messages.
        zone: as `read_zone` gives it; of no use for unix numbers, which know no zone.

    Returns:
        `Times`. Rows without a time, and times before 1973 or after 2099, are in `problems`.

    Raises:
        ValueError: the column mixes units, or holds neither numbers, texts nor timestamps.

    >>> times = parse_times(pd.Series(["2014-03-01", "2014-03-01T08:00:00+08:00", "soon"]))
    >>> times.seconds.tolist(), [reason for reason, bad in times.problems.items() if bad.any()]
    ([1393632000, 1393632000, 0], ['unparsable time'])
    """
    series = _as_series(column).reset_index(drop=True)
    if pd.api.types.is_bool_dtype(series.dtype):
        raise ValueError(_kind_message(name, "true and false"))
    if pd.api.types.is_numeric_dtype(series.dtype):
        return _from_numbers(series, name, zone)
    if isinstance(series.dtype, pd.DatetimeTZDtype) or series.dtype.kind == "M":
        return _from_datetimes(series, "timestamps", zone)
    return _from_texts(series, name, zone)


def read_moment(at: Any, *, timezone: str | tzinfo | None = None) -> int | str | None:
    """Reads one time as UTC seconds, in any form that `parse_times` takes; keeps None and "now".

    Args:
        at: the time.
        timezone: of a date that names none, such as `"Asia/Shanghai"`; None = UTC.

    Raises:
        ValueError: anything else.

    >>> read_moment("2014-03-01"), read_moment(1393632000000), read_moment("now")
    (1393632000, 1393632000, 'now')
    >>> read_moment("2014-03-01T08:00", timezone="Asia/Shanghai")
    1393632000
    """
    zone = read_zone(timezone)
    if at is None or isinstance(at, str) and at == "now":
        return at
    is_number = isinstance(at, str) and at.isdecimal() and len(at) > 8  # 20140301 is a date
    try:
        times = parse_times(pd.Series([int(at) if is_number else at]), "at", zone=zone)
        bad = any(rows.any() for rows in times.problems.values()) or isinstance(at, bool)
        # pandas reads "today" as this moment
        bad |= isinstance(at, str) and not any(letter.isdigit() for letter in at)
    except (ValueError, TypeError, OverflowError):
        bad = True
    if bad or times.seconds[0] < FIRST_SECOND:
        raise ValueError(
            'at must be "now" or a time: a date such as 2026-11-24T08:00 '
            f"({zone_name(zone)} unless it names a zone), or UTC seconds. Received: {at!r}."
        )
    return int(times.seconds[0])


def holds_times(column: Any) -> str:
    """Says whether a column reads as times: `"dates"`, `"numbers"` (unix times), or `""`.

    Nine of ten values must be times. Numbers must be times from 2000 on, and not of the future.

    >>> holds_times(pd.Series(["2014-03-01", "2014-03-02"])), holds_times(pd.Series([1, 2]))
    ('dates', '')
    """
    try:
        times = parse_times(column)
    except (ValueError, TypeError, OverflowError, pa.ArrowException):
        return ""
    filled = ~times.problems["no time"]
    good = filled & ~np.logical_or.reduce(list(times.problems.values()))
    if not good.any() or good.sum() < 0.9 * filled.sum() or times.form == "positions":
        return ""
    if not times.form.startswith("unix"):
        return "dates"
    seconds = times.seconds[filled]
    return "numbers" if ((seconds >= _YEAR_2000) & (seconds <= latest_moment())).all() else ""


def _as_series(column):
    if not isinstance(column, pd.Series):
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        kind = column.type
        if pa.types.is_date(kind):
            column = column.cast(pa.timestamp("s"))
        elif pa.types.is_decimal(kind):
            column = column.cast(pa.string())  # a float would round them
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


def _from_numbers(series, name, zone):
    empty = series.isna().to_numpy()
    if pd.api.types.is_integer_dtype(series.dtype):
        values = series.fillna(0)
        too_large = (values > np.iinfo(np.int64).max).to_numpy(dtype=bool)  # of uint64
        values = values.where(~too_large, -1).to_numpy(dtype=np.int64)
        return _from_counts(values, None, empty, np.zeros_like(empty), name, zone)
    floats = series.to_numpy(dtype=np.float64, na_value=np.nan)
    huge = ~np.isfinite(floats) | (np.abs(floats) >= _HUGE)
    inexact = ~huge & (np.abs(floats) >= exact_below(series.dtype))
    floats = np.where(huge, 0, floats)
    values = np.floor(floats).astype(np.int64)
    fractions = floats - values
    values[huge & ~empty] = -1  # infinite: ends up among the absurd times
    return _from_counts(values, fractions, empty, inexact, name, zone)


def _from_counts(values, fractions, empty, inexact, name, zone):
    """`Times` of whole numbers and what is behind their point, `(num_rows,)`, 0 to 1 or None."""
    good = ~empty & ~inexact & (values >= 0)
    written = good & (values != 0)  # a 0 among dates is a missing one
    form = _calendar_form(values[written])
    if form:
        text = pd.Series(values.astype(str)).where(written)
        dates = pd.to_datetime(text, format=_CALENDAR_FORMS[form], errors="coerce")
        times = _from_datetimes(dates, f"dates such as {form}", zone, empty | (good & ~written))
        return _with_inexact(times, inexact)
    if fractions is not None and fractions[good].any() and _are_sheet_days(values[good]):
        days = values - _SHEET_EPOCH + fractions
        seconds = pd.Series(np.round(np.where(written, days, 0) * DAY).astype("M8[s]"))
        dates = seconds.where(written)
        times = _from_datetimes(dates, "days of a spreadsheet", zone, empty | (good & ~written))
        return _with_inexact(times, inexact)
    unit = _one_unit(values, good, name)
    scale = UNITS[unit]
    if unit == "nanoseconds" and values[good].max() < _YEAR_2000 * scale:
        raise ValueError(
            f"{name}: expected seconds, milliseconds, microseconds or nanoseconds since 1970. "
            f"Received: {values[good].max()}, before 2000 as nanoseconds, so most likely ticks of "
            "Windows or .NET (of 100 nanoseconds, since 1601 or the year 1). Write UTC seconds."
        )
    step = 10**9 // scale
    nanoseconds = values % scale * step
    if fractions is not None:
        nanoseconds = nanoseconds + np.round(fractions * step).astype(np.int64)
    values = values // scale
    form = f"unix {unit}"
    if good.any() and values[good].max() < POSITIONS_BELOW:
        form = "positions"
    nanoseconds = nanoseconds if nanoseconds[good].any() else None
    times = _checked(values, empty | inexact, np.zeros_like(empty), nanoseconds, form)
    return _with_inexact(times, inexact)


def _are_sheet_days(values):
    """Whether days with a clock behind their point are counted from 1900, as Excel does it."""
    first, end = _SHEET_DAYS
    return bool(((values >= first) & (values < end)).all())


def _with_inexact(times, inexact):
    """`Times` whose inexact rows have that problem, and none of the others."""
    if not inexact.any():
        return times
    problems = {reason: mask & ~inexact for reason, mask in times.problems.items()}
    seconds = np.where(inexact, 0, times.seconds)
    return times._replace(seconds=seconds, problems={**problems, INEXACT: inexact})


def exact_below(dtype: Any) -> float:
    """Gives the number from which a type of floats no longer holds every whole number.

    From there on, neighbours become one: 2^53 + 1 is 2^53 in a float64. No bound for other types.

    >>> exact_below(np.dtype("float32")), exact_below(np.dtype("int64"))
    (16777216.0, inf)
    """
    dtype = getattr(dtype, "numpy_dtype", dtype)  # of pandas' Float64
    if getattr(dtype, "kind", "") != "f":
        return np.inf
    return 2.0 ** (np.finfo(dtype).nmant + 1)


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


def _from_texts(series, name, zone):
    text = series.astype("str").str.strip()
    empty = series.isna().to_numpy() | text.str.lower().isin(_EMPTY_WORDS).to_numpy()
    present = series[~empty]
    if len(present) and not isinstance(present.iloc[0], str):
        known = pd.api.types.infer_dtype(present)
        if known == "time":
            raise ValueError(
                f"{name}: expected times. Received: clocks without a day, such as "
                f"{present.iloc[0]}. Name both columns: columns={{'timestamp': 'DATE+CLOCK'}} "
                "(--columns timestamp=DATE+CLOCK)."
            )
        if known not in (
            "datetime",
            "date",
            "datetime64",
            "integer",
            "floating",
            "mixed-integer-float",
            "decimal",
        ):
            raise ValueError(_kind_message(name, f"values such as {present.iloc[0]!r}"))
    numbers = pd.to_numeric(text.where(~empty), errors="coerce")
    numeric = numbers.notna().to_numpy()
    dates, local = _to_datetime(text.mask(empty | numeric))
    if numeric.sum() >= max(dates.notna().sum(), 1):
        inexact = numeric & text.str.fullmatch(ROUNDED).to_numpy(dtype=bool)
        values, fractions = _whole_and_fraction(text, numbers.to_numpy(np.float64), numeric)
        times = _from_counts(values, fractions, ~numeric, inexact, name, zone)
        unparsable = ~empty & ~numeric
        problems = {**times.problems, "no time": empty, "unparsable time": unparsable}
        return times._replace(problems=problems)
    return _from_datetimes(dates, "ISO dates and times", zone, empty, local)


def _whole_and_fraction(text, numbers, numeric):
    """Texts of numbers as int64 and what is behind the point, exact where floats would round.

    `numbers` are the floats, `numeric` says which rows hold a number. Numbers that are too large
    for any unit are -1.
    """
    values, fractions = np.zeros(len(text), np.int64), np.zeros(len(text))
    odd = numeric & ~(np.abs(numbers) < _HUGE)
    parts = text[numeric & ~odd].str.extract(r"^\+?(\d{1,19})(?:\.(\d*))?$")
    plain = parts.index[parts[0].notna()]
    values[plain] = parts.loc[plain, 0].astype("int64")
    fractions[plain] = ("0." + parts.loc[plain, 1].fillna("") + "0").astype(float)
    rest = parts.index[parts[0].isna()]  # negative, or with an exponent
    values[rest] = np.floor(numbers[rest])
    fractions[rest] = numbers[rest] - values[rest]
    values[odd] = -1
    return values, fractions if fractions.any() else None


def _to_datetime(text):
    """UTC datetimes from texts, NaT where a text is no date; a bool mask of those without a zone.

    Those without a zone are what the local clock showed.
    """
    # pandas reads "now" and "today" as this moment
    plain = text.where(text.str.contains(r"^\d", na=False))
    parsed = pd.to_datetime(plain, format="ISO8601", utc=True, errors="coerce")
    odd = plain[parsed.isna() & plain.notna()]
    if len(odd):
        # Java's [Asia/Shanghai] repeats the offset before it, so does Go's +0800 CST; BigQuery
        # writes UTC; log4j a comma
        odd = odd.str.replace(r"(?<=[\dZz])\[[\w/+-]+\]$", "", regex=True)
        odd = odd.str.replace(r"(?<=[+-]\d{4})\s+[A-Z]{2,5}$", "", regex=True)
        odd = odd.str.replace(r"(?<=\d)\s*(UTC|GMT|z)$", "Z", regex=True)
        odd = odd.str.replace(r"(?<=:\d\d),(?=\d+)", ".", regex=True)
        plain[odd.index] = odd
        parsed = _filled(parsed, pd.to_datetime(odd, format="ISO8601", utc=True, errors="coerce"))
    rest = plain[parsed.isna() & plain.notna()]
    if len(rest):
        parts = rest.str.extract(_LOOSE)
        hour = parts["hour"].astype(float)
        half = parts["before"].fillna("") + parts["after"].fillna("").str.lower()
        hour = hour.where(half == "", hour % 12 + 12 * half.isin(("下午", "晚上", "pm")))
        minute, second = parts["minute"].fillna("0"), parts["second"].fillna("00")
        is_24 = (hour == 24) & (minute.astype(float) == 0) & (second.astype(float) == 0)
        hour = hour.where(~is_24, 0).map("{:02.0f}".format, na_action="ignore").astype("str")
        clock = (
            hour
            + ":"
            + minute.str.zfill(2)
            + ":"
            + second.str.replace(r"^(\d)(?!\d)", r"0\1", regex=True)
        )
        day = parts["year"] + "-" + parts["month"].str.zfill(2) + "-" + parts["day"].str.zfill(2)
        padded = day + ("T" + clock + parts["zone"].fillna("")).fillna("")
        loose = pd.to_datetime(padded, format="ISO8601", utc=True, errors="coerce")
        parsed = _filled(parsed, loose + pd.to_timedelta(is_24.astype(int), unit="D"))
    # the clock (or a day and its T) comes before a zone: the -01 of 2014-03-01 is none
    with_zone = plain.str.contains(r"(?::|T)\d\d.*(?:Z|[+-]\d\d(?::?\d\d)?)$", na=False)
    return parsed, (parsed.notna() & ~with_zone).to_numpy()


def _filled(parsed, found):
    """Datetimes with those of some rows put in; both in the finer unit of the two."""
    unit = "ns" if "ns" in (parsed.dt.unit, found.dt.unit) else "us"
    parts = []
    for part in (parsed, found):
        if unit == "ns":  # which knows the years 1678 to 2261
            part = part.where((part >= "1678-01-01") & (part < "2262-01-01"))
        parts.append(part.dt.as_unit(unit))
    parts[0][found.index] = parts[1]
    return parts[0]


def _from_datetimes(series, form, zone, empty=None, local=None):
    """`Times` from pandas datetimes; NaT rows that are not in `empty` are unparsable.

    `local` is a bool mask of the rows that hold what a clock in `zone` showed; None = all, unless
    the datetimes have a zone.
    """
    missing = series.isna().to_numpy()
    if local is None:
        has_zone = getattr(series.dtype, "tz", None) is not None
        local = np.zeros(len(series), bool) if has_zone else ~missing
    if getattr(series.dtype, "tz", None) is not None:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    empty = missing if empty is None else empty
    unit = np.datetime_data(series.dtype)[0]
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    ticks = np.where(missing, 0, series.to_numpy().astype(np.int64))
    seconds, fraction = ticks // scale, ticks % scale
    nanoseconds = fraction * (10**9 // scale) if fraction.any() else None
    # a clock is asked only for times that a log can have: calendars end at the year 9999
    shown = np.flatnonzero(local & (seconds > -DAY) & (seconds < LAST_SECOND + DAY))
    moments = to_utc(seconds[shown], zone)
    seconds[shown] = moments.seconds
    # Dates before 1973 that were written as dates are absurd, never positions.
    times = _checked(seconds, empty, missing & ~empty, nanoseconds, form)
    twice, never = int(moments.twice.sum()), int(moments.never.sum())
    return times._replace(local=local if local.any() else None, twice=twice, never=never)


def _checked(seconds, empty, unparsable, nanoseconds, form):
    bad = empty | unparsable
    problems = {"no time": empty, "unparsable time": unparsable}
    problems["negative time"] = ~bad & (seconds < 0)
    if form != "positions":
        problems["time before 1973"] = ~bad & (seconds >= 0) & (seconds < FIRST_SECOND)
        problems["time after 2099"] = ~bad & (seconds >= LAST_SECOND)
    wrong = np.logical_or.reduce(list(problems.values()))
    return Times(np.where(wrong, 0, seconds), problems, nanoseconds, form)
