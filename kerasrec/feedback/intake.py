"""What was sent to a feedback store: checked, brought to one form, and given its event id."""

import hashlib
import json
import math
import time
from collections.abc import Mapping
from datetime import datetime, tzinfo
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from kerasrec.checks import did_you_mean
from kerasrec.data.cleaningreport import CleaningReport, DirtyRows
from kerasrec.data.events import EVENT_WEIGHTS, event_table, look_up_events, unknown_event_message
from kerasrec.data.interactions import Interactions
from kerasrec.data.readers import read_interaction_table
from kerasrec.data.rows import MISSING_IDS
from kerasrec.data.tables import FrameTable, Table, as_frame, is_frame
from kerasrec.data.times.forms import FIRST_SECOND, LAST_SECOND, parse_times, read_moment
from kerasrec.data.times.zones import MAX_AHEAD, latest_moment, read_zone, show_time

#: fields of a stored event, beside its seq
FIELDS = (
    "event_id",
    "user_id",
    "item_id",
    "event",
    "value",
    "timestamp",
    "request_id",
    "model",
    "version",
    "position",
)
#: columns that tables of interactions do not have elsewhere
EXTRAS = ("event_id", "request_id", "model", "version", "position")
MAX_LENGTH = 256  # of an id; an index entry of PostgreSQL ends at 2,700 bytes
_SHOWN = 60  # characters of a wrong value in a message
_TABLE = event_table()


class Intake(NamedTuple):
    """Holds checked events: the rows to store, in their order, and the number of each as sent."""

    rows: list[dict[str, Any]]
    numbers: list[int]


class _Clock(NamedTuple):
    """Holds how times are read: the present, the zone of those that name none, the last allowed."""

    now: int
    zone: tzinfo
    latest: float


def event_rows(
    events: Any,
    *,
    now: int | None = None,
    timezone: str | tzinfo | None = None,
    max_ahead: float | None = MAX_AHEAD,
) -> list[dict[str, Any]]:
    """Checks whatever `FeedbackStore.add` takes and makes rows to store.

    Args:
        events: a list of dicts, one dict, a DataFrame or `Interactions`.
        now: UTC seconds of events without a time; None = the clock.
        timezone: of dates and times that name none, such as `"Asia/Shanghai"`; None = UTC.
        max_ahead: seconds that an event may lie ahead of `now`; None = any.

    Returns:
        list of dicts with the keys `FIELDS`, in the order given; times that are finer than seconds
        decide the order where there are some.

    Raises:
        ValueError, TypeError: names the row and the field.

    >>> event_rows([{"user_id": 7, "item_id": "a", "event": "pv", "timestamp": "2014-03-01"}])
    [{'event_id': 'cb03e41c5ed7a5944b85f5badf17c1c6', 'user_id': '7', 'item_id': 'a', 'event':
    'view', 'value': None, 'timestamp': 1393632000, 'request_id': None, 'model': None, 'version':
    None, 'position': None}]
    """
    return numbered_rows(events, now=now, timezone=timezone, max_ahead=max_ahead).rows


def numbered_rows(
    events: Any,
    *,
    now: int | None = None,
    timezone: str | tzinfo | None = None,
    max_ahead: float | None = MAX_AHEAD,
) -> Intake:
    """Checks like `event_rows`; tells for each row which event it was, from 1."""
    now = int(time.time()) if now is None else now
    clock = _Clock(now, read_zone(timezone), latest_moment(max_ahead, now=now))
    if isinstance(events, Interactions):
        return _as_sent(_not_ahead(_interaction_rows(events), clock))
    if is_frame(events):
        frame = as_frame(events)
        if not len(frame):
            return _as_sent([])
        rows, _ = table_rows(FrameTable(frame), now=now, timezone=clock.zone, max_ahead=max_ahead)
        return _as_sent(rows)
    if isinstance(events, dict):
        events = [events]
    if not isinstance(events, list | tuple):
        raise TypeError(
            "events: expected a list of dicts, a DataFrame or Interactions. Received: "
            f"{type(events).__name__}. Pass one of these."
        )
    found = [_row(event, number, clock) for number, event in enumerate(events, 1)]
    rows = [row for row, _ in found]
    if not any(fraction for _, fraction in found):
        return _as_sent(rows)
    # a store keeps whole seconds: within one, the order of storing is the order of events
    order = sorted(range(len(rows)), key=lambda n: (rows[n]["timestamp"], found[n][1]))
    return Intake([rows[n] for n in order], [n + 1 for n in order])


def _as_sent(rows):
    return Intake(rows, list(range(1, len(rows) + 1)))


def _not_ahead(rows, clock):
    """The rows, none of which is too far ahead of the clock."""
    for number, row in enumerate(rows, 1):
        _check_ahead(row["timestamp"], f"data row {number}", clock, row["timestamp"])
    return rows


def _check_ahead(seconds, where, clock, value):
    if seconds > clock.latest:
        expected = (
            f"a time before {show_time(int(clock.latest))} UTC, which is max_ahead seconds after "
            "the clock of this machine,"
        )
        raise ValueError(_problem(where, "timestamp", expected, value))


def _row(event, number, clock):
    """A row, and the nanoseconds of its time within the second."""
    where = f"event {number}"
    if not isinstance(event, dict):
        raise TypeError(
            f"{where}: expected a dict with user_id and item_id. Received: "
            f"{type(event).__name__}. Correct it; nothing was stored."
        )
    for key in event:
        if key not in FIELDS:
            raise ValueError(
                f"{where}: unknown field {_short(key)}. {did_you_mean(str(key)[:_SHOWN], FIELDS)}"
            )
    get = event.get
    seconds, fraction = _time(get("timestamp"), where, clock)
    row = {
        "event_id": _optional_text(get("event_id"), where, "event_id"),
        "user_id": _text(get("user_id"), where, "user_id"),
        "item_id": _text(get("item_id"), where, "item_id"),
        "event": _event(get("event"), where),
        "value": _value(get("value"), where),
        "timestamp": seconds,
        "request_id": _optional_text(get("request_id"), where, "request_id"),
        "model": _optional_text(get("model"), where, "model"),
        "version": _whole(get("version"), where, "version"),
        "position": _whole(get("position"), where, "position"),
    }
    if row["event"] == "rating" and row["value"] is None:
        raise ValueError(_problem(where, "value", "a number for a rating", None))
    row["event_id"] = row["event_id"] or event_id(row)
    return row, fraction


def is_id(text: str) -> bool:
    """Says whether a store takes a text as the id of a user or an item."""
    try:
        _text(text, "", "")
    except ValueError:
        return False
    return True


def check_json(events: Any) -> None:
    """Refuses NaN, which Python's parser of JSON takes: there a missing value is null.

    In events from Python NaN is a missing value, as in pandas.

    Raises:
        ValueError: names the event and the field.
    """
    for number, event in enumerate(events, 1):
        for field, value in event.items() if isinstance(event, dict) else ():
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(_problem(f"event {number}", field, "a number or null", value))


def event_id(row: Mapping[str, Any]) -> str:
    """Makes the id of an event from its content: 32 hex digits, the same for the same content.

    The content is user, item, event, time (seconds), value and request id. So an event that is sent
    again is recognised, and two equal events within a second are one.
    """
    content = [row[name] for name in ("user_id", "item_id", "event", "timestamp", "value")]
    text = json.dumps([*content, row["request_id"]], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# --- fields ---


def _problem(where, field, expected, received):
    return (
        f"{where}: expected {expected} as {field}. Received: {_short(received)}. Correct it; "
        "nothing was stored."
    )


def _short(value):
    """A value for a message: its start, and no error whatever it is."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _text(value, where, field):
    """An id as text; whole numbers become their digits, as everywhere in kerasrec."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, int | np.integer) and not isinstance(value, bool):
        # a longer number is too long anyway, and Python writes none beyond 4,300 digits
        text = str(int(value)) if abs(int(value)) < 10**MAX_LENGTH else "9" * (MAX_LENGTH + 1)
    else:
        raise ValueError(_problem(where, field, "a text or a whole number", value))
    if text in MISSING_IDS or text.isspace():
        raise ValueError(_problem(where, field, "a text that is not empty", value))
    if len(text) > MAX_LENGTH:
        expected = f"at most {MAX_LENGTH} characters"
        raise ValueError(_problem(where, field, expected, value))
    if not _is_storable(text):
        raise ValueError(_problem(where, field, "text without NUL and broken characters", value))
    return text


def _is_storable(text):
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _optional_text(value, where, field):
    if _is_missing(value) or (isinstance(value, str) and not value):
        return None
    return _text(value, where, field)


def _is_missing(value):
    if value is None or value is pd.NA:
        return True
    return isinstance(value, float | np.floating) and math.isnan(value)


def _event(value, where):
    if value is None:
        return "click"
    if isinstance(value, str) and value in EVENT_WEIGHTS:
        return value
    is_name = isinstance(value, str) and len(value) <= _SHOWN
    is_code = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_name and not (is_code and abs(value) < 10**9):
        raise ValueError(_problem(where, "event", f"one of {', '.join(EVENT_WEIGHTS)}", value))
    known = look_up_events([value], _TABLE)[0]
    if known is None:
        expected, received, _ = unknown_event_message(value, _TABLE)
        raise ValueError(
            f"{where}: expected {expected} as event. Received: {received}. Correct it; nothing was "
            "stored."
        )
    return known.name


def _value(value, where):
    """A number as float32 keeps it (as `Interactions` do), in its shortest decimal form."""
    if _is_missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(_problem(where, "value", "a number", value))
    try:
        with np.errstate(over="ignore"):
            short = float(str(np.float32(value)))
    except OverflowError:  # a whole number beyond all floats
        short = math.inf
    if not math.isfinite(short):
        raise ValueError(_problem(where, "value", "a finite number", value))
    return short


def _whole(value, where, field):
    if _is_missing(value):
        return None
    is_number = isinstance(value, int | float | np.integer | np.floating)
    is_number = is_number and not isinstance(value, bool)
    # within the limits first: an infinite one cannot be made whole
    if not (is_number and 1 <= value < 2**31 and value == int(value)):
        raise ValueError(_problem(where, field, "a whole number from 1", value))
    return int(value)


def _time(value, where, clock):
    """UTC seconds, and the nanoseconds within the second."""
    if value is None:
        return clock.now, 0
    found = _read_time(value, where, clock.zone)
    _check_ahead(found[0], where, clock, value)
    return found


def _read_time(value, where, zone):
    if type(value) is int and FIRST_SECOND <= value < LAST_SECOND:
        return value, 0
    if type(value) is int and 10**12 <= value < LAST_SECOND * 1000:
        return value // 1000, value % 1000 * 10**6  # milliseconds; fewer digits may be a date
    try:
        if isinstance(value, np.complexfloating):
            raise ValueError("no time")
        return _moment(value, zone)
    except (ValueError, TypeError, OverflowError, pa.ArrowException):
        expected = "a time from 1973 to 2099 (UTC seconds, or such as 2026-11-24T08:00)"
        raise ValueError(_problem(where, "timestamp", expected, value)) from None


@lru_cache(maxsize=4096)
def _moment(value, zone):
    if isinstance(value, str) and len(value) > _SHOWN:
        raise ValueError("no time")
    if isinstance(value, datetime):
        value = value.isoformat()
    if isinstance(value, str) and value[4:5] == "-":
        with_zone = datetime.fromisoformat(value)  # much faster than pandas for one value
        if with_zone.tzinfo is None:
            with_zone = with_zone.replace(tzinfo=zone)
        seconds = math.floor(with_zone.timestamp())
        if FIRST_SECOND <= seconds < LAST_SECOND:
            return seconds, with_zone.microsecond * 1000
    found = read_moment(value, timezone=zone)
    if not isinstance(found, int):  # None or "now"
        raise ValueError("no time")
    is_number = isinstance(value, str) and value.isdecimal()
    column = pd.Series([int(value) if is_number else value])
    fractions = parse_times(column, zone=zone).nanoseconds
    return found, 0 if fractions is None else int(fractions[0])


# --- tables ---


class _WithExtras:
    """A table of `kerasrec.data.tables` of which further columns are read along."""

    def __init__(self, table, extras):
        self.name, self.columns = table.name, table.columns
        self._table, self._extras = table, extras
        self.found = {}

    def read(self, columns, text=(), on_bad="error"):
        names = list(dict.fromkeys([*columns, *self._extras.values()]))
        texts = [self._extras[r] for r in ("event_id", "request_id", "model") if r in self._extras]
        data, report = self._table.read(names, [*text, *texts], on_bad)
        self.found = {role: data[name] for role, name in self._extras.items()}
        return data, report


def table_rows(
    table: Table,
    *,
    columns: Mapping[str, str | None] | None = None,
    on_bad: str = "error",
    event_weights: Mapping[str, float | str | None] | None = None,
    now: int | None = None,
    timezone: str | tzinfo | None = None,
    max_ahead: float | None = MAX_AHEAD,
) -> tuple[list[dict[str, Any]], CleaningReport]:
    """Checks an opened table and makes rows to store.

    Args:
        table: with columns as `read_interactions` finds them, and those of `EXTRAS` by their names.
        columns: canonical name -> column name, also of `EXTRAS`.
        on_bad, event_weights: as for `read_interactions`; an event must have a known name, or be
            said to be one.
        now: UTC seconds for a table without a time column; None: it must have one.
        timezone, max_ahead: as for `read_interactions`.

    Returns:
        `(rows, report)`: dicts with the keys `FIELDS` in the order of the exact times of the
        source within a second, and the `CleaningReport`.
    """
    columns = dict(columns or {})
    extras = {role: columns.pop(role, role) for role in EXTRAS}
    _check_given(table, {r: n for r, n in extras.items() if r != n and n is not None})
    along = {role: name for role, name in extras.items() if name in table.columns}
    table = _WithExtras(table, along)
    part = read_interaction_table(
        table,
        columns,
        on_bad,
        event_weights,
        timezone=timezone,
        max_ahead=max_ahead,
        extras=along,
    )
    if part.refusals:
        raise DirtyRows(part.refusals)
    frame = part.frame
    if "timestamp" not in part.columns and now is not None:
        frame["timestamp"] = now
    _check_frame(frame, table.name)
    rows = _frame_rows(frame, table.name, _extra_columns(table.found, part.kept))
    if part.fractions is not None:
        order = np.lexsort((part.fractions, frame["timestamp"].to_numpy()))
        rows = [rows[number] for number in order]
    return rows, part.report


def _interaction_rows(interactions):
    if not len(interactions):
        return []
    _check_frame(interactions.frame, "interactions")
    return _frame_rows(interactions.frame, "interactions", {})


def _check_given(table, given):
    for role, name in given.items():
        if name not in table.columns:
            raise ValueError(
                f"{table.name}: expected the column '{name}' for {role}. Received: columns "
                f"{', '.join(map(str, table.columns))}. Correct the mapping."
            )


def _check_frame(frame, name):
    """Raise unless a store can hold the rows: real times, known events, ids of a usual length."""
    if frame["timestamp"].min() < FIRST_SECOND:
        raise ValueError(
            f"{name}: expected a time in every row (column timestamp, ts, time, ...). Received: "
            "none, or positions below 1e8. Name the time column, e.g. columns={'timestamp': 'at'} "
            "(--columns timestamp=at)."
        )
    for event in frame["event"].cat.categories:
        if event not in EVENT_WEIGHTS:
            raise ValueError(
                f"{name}: expected one of {', '.join(EVENT_WEIGHTS)} as event. Received: '{event}'."
                f" Say which of them it is: event_weights={{'{event}': 'click'}} (--event-weights "
                f"{event}=click)."
            )
    for role in ("user_id", "item_id"):
        for text in frame[role].cat.categories:
            _text(text, name, role)


def _extra_columns(found, kept):
    """Role -> list of values of the kept rows."""
    columns = {}
    for role, column in found.items():
        series = column if isinstance(column, pd.Series) else column.to_pandas()
        series = series[kept] if kept is not None else series
        if role in ("version", "position") and series.dtype.kind not in "iuf":
            series = series.astype(object).map(_number)
        columns[role] = series.astype(object).where(series.notna(), None).tolist()
    return columns


def _number(value):
    """A text as a number where it is one; all else stays, to be refused by name and row."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if value else None
    except ValueError:
        return value


def _frame_rows(frame, name, extras):
    values = [_value(value, name) for value in frame["value"].tolist()]
    columns = {role: frame[role].astype(object).tolist() for role in ("user_id", "item_id")}
    columns |= {"event": frame["event"].astype(object).tolist(), "value": values}
    columns["timestamp"] = frame["timestamp"].tolist()
    for role in EXTRAS:
        check = _whole if role in ("version", "position") else _optional_text
        given = extras.get(role)
        columns[role] = (
            [check(value, f"{name}, data row {row}", role) for row, value in enumerate(given, 1)]
            if given is not None
            else [None] * len(frame)
        )
    rows = [
        dict(zip(FIELDS, row, strict=True))
        for row in zip(*(columns[field] for field in FIELDS), strict=True)
    ]
    for row in rows:
        row["event_id"] = row["event_id"] or event_id(row)
    return rows
