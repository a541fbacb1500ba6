"""Turns the columns of a table into checked ones: ids, times, events, texts.

The functions here return plain frames; `data.read_interactions` and `data.read_items` are the
public doors.
"""

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from kerasrec.data.cleaningreport import CleaningReport, DirtyRows, Refusal
from kerasrec.data.columns import (
    INTERACTION_ALIASES,
    ITEM_ALIASES,
    RELATION_ALIASES,
    choose_time,
    name_list,
    resolve_columns,
)
from kerasrec.data.events import (
    cancelled_columns,
    event_table,
    look_up_events,
    unknown_event_message,
)
from kerasrec.data.rows import Rows, cell, read_texts
from kerasrec.data.tables import Table
from kerasrec.data.times.dateclock import DatedTable, with_clock
from kerasrec.data.times.forms import INEXACT, holds_times, parse_times
from kerasrec.data.times.zones import MAX_AHEAD, latest_moment, read_zone, show_time, zone_name

_SAMPLE = 10_000  # values of a column of an unknown name


class Part(NamedTuple):
    """Holds one source after reading: its good rows, column names and report.

    `fractions` is int64 nanoseconds within the second, `(num_rows,)`, or None for whole seconds.
    `kept` is bool, `(rows of the source,)`: which of them are in the frame; None = all. `refusals`
    say which kinds of bad rows there were, where such rows are to be an error.
    """

    name: str
    frame: pd.DataFrame
    columns: dict
    report: CleaningReport
    fractions: np.ndarray | None = None
    kept: np.ndarray | None = None
    refusals: Sequence[Refusal] = ()


def read_interaction_table(
    table: Table,
    columns: Mapping[str, str | None] | None,
    on_bad: str,
    event_weights: Mapping[str, float | str | None] | None,
    *,
    timezone: str | tzinfo | None = None,
    max_ahead: float | None = MAX_AHEAD,
    extras: Mapping[str, str] | None = None,
) -> Part:
    """Reads the good rows of one table of interactions.

    Args:
        table: as `open_table` gives it.
        columns, on_bad, event_weights, timezone, max_ahead: as for `read_interactions`.
        extras: role -> column that the caller reads along, for the report.
    """
    table, reading = plan_reading(
        table, columns, event_weights, timezone=timezone, max_ahead=max_ahead, extras=extras
    )
    roles, states = reading.roles, reading.states
    text = [roles[role] for role in ("user_id", "item_id", "event") if role in roles] + states
    names = [*roles.values(), *states]
    data, rows = _read(table, names, text, on_bad)
    if is_float(data.get(roles.get("timestamp", ""))):
        # a csv parser makes floats of numbers such as 1.4E+12: the text still shows the rounding
        data, rows = _read(table, names, [*text, roles["timestamp"]], on_bad)
    found = rows.leave_out_cancelled({name: data[name] for name in states})
    note_reading(rows, table.columns, reading, found)
    return check_interactions(data, rows, reading)


class Reading(NamedTuple):
    """Holds how a table of interactions is read.

    roles: role -> column.  found: the column that was taken for what it holds, or "".  clocks: the
    columns of dates and of clocks that are read together, or ().  states: columns that may say that
    an order was cancelled.  along: role -> column that is read by another one.  zone: of times that
    name none.  latest: the last UTC second that an event may have.  event_weights: as for
    `read_interactions`.
    """

    roles: dict[str, str]
    found: str
    clocks: tuple[str, ...]
    states: list[str]
    along: dict[str, str]
    zone: tzinfo
    latest: float
    event_weights: Mapping[str, float | str | None] | None


def plan_reading(
    table: Table,
    columns: Mapping[str, str | None] | None,
    event_weights: Mapping[str, float | str | None] | None,
    *,
    timezone: str | tzinfo | None,
    max_ahead: float | None,
    extras: Mapping[str, str] | None = None,
) -> tuple[Table, Reading]:
    """Finds how a table of interactions is read; a date and a clock in it become one column.

    Args:
        table: as `open_table` gives it.
        columns, event_weights, timezone, max_ahead: as for `read_interactions`.
        extras: as for `read_interaction_table`.
    """
    zone, latest = read_zone(timezone), latest_moment(max_ahead)
    table = with_clock(table, columns)
    given = dict(columns or {})
    clocks: tuple[str, ...] = ()
    if isinstance(table, DatedTable):
        given["timestamp"], clocks = table.joined, table.parts
    own = {role: name for role, name in given.items() if role != "status"}
    roles, found = _interaction_columns(table, own)
    along = dict(extras or {})
    states = cancelled_columns(table.columns, given, [*roles.values(), *along.values()], table.name)
    return table, Reading(
        roles, found, clocks, states, along, zone=zone, latest=latest, event_weights=event_weights
    )


def note_reading(
    rows: "Rows", names: Sequence[str], reading: Reading, states: Mapping[str, str]
) -> None:
    """Notes which columns of a table were taken for what; `states` as of `leave_out_cancelled`."""
    taken = {**reading.roles, **reading.along, **states}
    rows.note_columns(taken, "not used", _others(names, taken))
    if reading.clocks:
        joined = reading.roles["timestamp"]
        rows.note(f"a date and a clock are read together: {joined}", rows.size)
    if reading.found:
        rows.note(f"no usual name of a time: {reading.found} holds times and is taken", rows.size)


def check_interactions(data: Mapping[str, Any], rows: "Rows", reading: Reading) -> Part:
    """Checks columns of interactions row by row; the good rows are the frame of the `Part`."""
    roles = reading.roles
    checked: dict[str, Any] = {
        role: rows.read_ids(data[roles[role]], role, roles[role]) for role in ("user_id", "item_id")
    }
    times, fractions = _read_times(rows, data, roles, reading.zone, reading.latest)
    checked["timestamp"] = times
    value = rows.read_numbers(data, roles, "value")
    weight = rows.read_numbers(data, roles, "weight")
    checked["event"], event_weight = _read_events(rows, data, roles, reading.event_weights)
    event_weight = np.where(np.isnan(event_weight), value, event_weight)
    weight = np.where(np.isnan(weight), event_weight, weight).astype(np.float32)
    rows.check(
        np.isnan(weight),
        "rating without a value",
        lambda row: ("a value for every rating", f"none in {rows.place(row)}"),
    )
    checked["value"], checked["weight"] = value, weight
    frame = rows.good(pd.DataFrame(checked))
    if fractions is not None:
        fractions = fractions[~rows.bad]
    kept = ~rows.bad if rows.bad.any() else None
    return Part(rows.source, frame, roles, rows.report, fractions, kept, rows.refusals)


def _read(table, names, text, on_bad):
    """The asked columns, and the `Rows` that judge them; rows of a wrong length are bad too."""
    refusals = []
    try:
        data, report = table.read(names, text, on_bad)
    except DirtyRows as error:
        refusals = list(error.refusals)
        data, report = table.read(names, text, "skip")
    return data, Rows(table.name, report, on_bad, refusals, getattr(table, "place", _data_row))


def _data_row(row):
    """Where a row lies; a table of several files says which of them."""
    return f"data row {row + 1}"


def _interaction_columns(
    table: Table, mapping: Mapping[str, str | None] | None
) -> tuple[dict[str, str], str]:
    """(role -> column, the column among them that was taken for what it holds, or "")."""
    columns = resolve_columns(
        table.columns,
        INTERACTION_ALIASES,
        mapping,
        required=("user_id", "item_id"),
        source=table.name,
    )
    if "timestamp" in columns or "timestamp" in (mapping or {}):
        return columns, ""
    found = _find_times(table, columns)
    if found:
        columns["timestamp"] = found
    return {role: columns[role] for role in INTERACTION_ALIASES if role in columns}, found


def _others(names, columns):
    """The columns that play no role, each name once."""
    used = list(columns.values())
    return [name for name in dict.fromkeys(names) if name not in used and str(name)]


def _find_times(table, columns):
    """The column that holds times though its name is unknown, or ""; asks where it is unsure."""
    names = [name for name in _others(table.columns, columns) if table.columns.count(name) == 1]
    if not names:
        return ""
    # a row that cannot be read is the business of the real reading
    data, _ = table.read(names, (), "skip")
    kinds = {name: holds_times(_sample(data[name])) for name in names}
    chosen, possible = choose_time({name: kind == "dates" for name, kind in kinds.items() if kind})
    if chosen is not None or not possible:
        return chosen or ""
    name = possible[0]
    raise ValueError(
        f"{table.name}: expected a column timestamp (or ts, time, 时间, ...). Received: no such "
        f"name, but what reads as times in {name_list(possible)}. Say which one is the time of the "
        f"event with columns={{'timestamp': '{name}'}} (--columns timestamp={name}), or that none "
        "is with columns={'timestamp': None} (--columns timestamp=)."
    )


def _sample(column):
    """The first values of a column that are there: enough to see whether they are times."""
    if isinstance(column, pd.Series):
        return column.dropna()[:_SAMPLE]
    return column.drop_null().slice(0, _SAMPLE)


def is_float(column: Any) -> bool:
    """Whether a column of Arrow holds floats."""
    return isinstance(column, pa.ChunkedArray) and pa.types.is_floating(column.type)


def _read_times(rows, data, columns, zone, latest):
    """(int64 seconds, nanoseconds within the second or None); positions when there is no time."""
    if "timestamp" not in columns:
        rows.note("no time column: the position in the file is the time", rows.size)
        return np.arange(1, rows.size + 1, dtype=np.int64), None
    name = columns["timestamp"]
    column = data[name]
    times = parse_times(column, f"{rows.source}: {name}", zone=zone)
    problems = {**times.problems, "time in the future": times.seconds > latest}
    for reason, mask in problems.items():
        rows.check(
            mask,
            reason,
            lambda row, reason=reason: _describe_time(
                reason, name, cell(column, row), rows.place(row), latest
            ),
            example=None if reason == "no time" else lambda row: cell(column, row),
            advice=_TIME_ADVICE.get(reason),
        )
    if times.form == "positions":
        rows.note("times below 1e8: positions in a history, not times", rows.size)
    elif times.form != "unix seconds":
        rows.note(f"times read as {times.form}", rows.size)
    if times.local is not None:
        rows.note(f"times without a zone: read as {zone_name(zone)}", times.local.sum())
    if times.twice:
        rows.note("times that a clock set back showed twice: the first is taken", times.twice)
    if times.never:
        rows.note("times that a clock set forward never showed: read as before it", times.never)
    return times.seconds, times.nanoseconds


_TIME_ADVICE = {
    INEXACT: lambda row: (
        "Times that differ became the same: read or export the column as text or whole numbers, "
        "or pass on_bad='skip' (--on-bad skip) to leave such rows out and count them."
    ),
    "time in the future": lambda row: (
        "Correct the data, pass on_bad='skip' (--on-bad skip) to leave such rows out and count "
        "them, or allow later times with max_ahead (--max-ahead 30d)."
    ),
}


def _describe_time(reason, name, cell, place, latest):
    """(expected, received) of a row whose time is missing or wrong."""
    if reason == "no time":
        return f"a time (column {name}) in every row", f"none in {place}"
    received = f"{reason}, {name}='{cell}' in {place}"
    if reason == "time in the future":
        return f"times up to {show_time(latest)} UTC, a little ahead of this clock", received
    if reason == INEXACT:
        return "times in a type that holds them exactly", received
    return "unix seconds or milliseconds, or ISO dates, between 1973 and 2099", received


def _read_events(rows, data, columns, event_weights):
    """(categories of canonical names, float64 weight with NaN where the value is the weight)."""
    events = event_table(event_weights)
    if "event" not in columns:
        name = "rating" if "value" in columns else "click"
        codes = np.zeros(rows.size, dtype=np.int8)
        weight = events[name].weight
        weights = np.full(rows.size, np.nan if weight is None else weight)
        return pd.Categorical.from_codes(codes, [name]), weights
    found = rows.read_ids(data[columns["event"]], "event", columns["event"])
    known = look_up_events(found.categories, events)
    is_unknown = np.array([event is None for event in known] + [False])
    rows.check(
        is_unknown[found.codes],
        "unknown event",
        lambda row: unknown_event_message(found[row], events)[:2],
        example=lambda row: found[row],
        advice=lambda row: unknown_event_message(found[row], events)[2],
    )
    names = list(dict.fromkeys(event.name for event in known if event)) or ["click"]
    new_codes = [names.index(event.name) if event else -1 for event in known] + [-1]
    known_weights = [event.weight if event else None for event in known]
    categories = pd.Categorical.from_codes(np.array(new_codes)[found.codes], names)
    return categories, np.array([*known_weights, None], float)[found.codes]  # None becomes NaN


def read_item_table(
    table: Table, columns: Mapping[str, str | None] | None, on_bad: str, *, titles: bool = True
) -> Part:
    """Reads the good rows of one table of items; without `titles` empty ones stand for none."""
    required = ("item_id", "title") if titles else ("item_id",)
    part, rows = _read_keyed(table, columns, on_bad, ITEM_ALIASES, required)
    if titles:
        _note_empty_texts(rows, part.frame)
    return part._replace(report=rows.report)


def read_user_table(table: Table, columns: Mapping[str, str | None] | None, on_bad: str) -> Part:
    """Reads the good rows of one table of users."""
    aliases = {"user_id": INTERACTION_ALIASES["user_id"]}
    return _read_keyed(table, columns, on_bad, aliases, ("user_id",))[0]


def read_relation_table(
    table: Table, columns: Mapping[str, str | None] | None, on_bad: str
) -> Part:
    """Reads the good rows of one table of relations: `item_id, relation, entity`, all str."""
    roles = tuple(RELATION_ALIASES)
    columns = resolve_columns(
        table.columns, RELATION_ALIASES, columns, required=roles, source=table.name
    )
    names = [columns[role] for role in roles]
    data, rows = _read(table, names, names, on_bad)
    rows.note_columns(columns, "kept as texts", [])
    frame = {
        role: rows.read_ids(data[columns[role]], role, columns[role]).astype(object)
        for role in roles
    }
    found = rows.good(pd.DataFrame(frame).astype("str"))
    return Part(table.name, found, columns, rows.report, refusals=rows.refusals)


def _read_keyed(table, columns, on_bad, aliases, required):
    """`Part` of a table with one row for each id, all columns as texts, and its `_Rows`."""
    key = required[0]
    columns = resolve_columns(table.columns, aliases, columns, required=required, source=table.name)
    names = [name for name in table.columns if str(name) and not _is_saved_index(name)]
    data, rows = _read(table, names, names, on_bad)
    rows.note_columns(columns, "kept as texts", _others(names, columns))
    ids = rows.read_ids(data[columns[key]], key, columns[key])
    rows.check(
        pd.Series(ids.codes).duplicated().to_numpy(),
        f"repeated {key}",
        lambda row: (
            f"every {key} once",
            f"'{ids[row]}' in {rows.place(int(np.argmax(ids.codes == ids.codes[row])))} and in "
            f"{rows.place(row)}",
        ),
        example=lambda row: ids[row],
    )
    frame = {key: ids.astype(object)}
    for role in [role for role in aliases if role != key]:
        if role in columns:
            frame[role] = read_texts(data[columns[role]])
        elif role == "title":
            frame[role] = pd.Series([""] * rows.size, dtype=object)
    for name in names:
        if name in columns.values():
            continue
        if str(name) in frame:
            rows.note(f"column {name} of the source renamed to source_{name}", 1)
        frame[f"source_{name}" if str(name) in frame else str(name)] = read_texts(data[name])
    frame = rows.good(pd.DataFrame(frame).astype("str"))
    return Part(table.name, frame, columns, rows.report, refusals=rows.refusals), rows


def read_id_column(table: Table, column: str | None = None) -> np.ndarray:
    """Reads the user ids of a table as an object array of str; without `column` by the aliases."""
    mapping = {"user_id": column} if column else None
    columns = resolve_columns(
        table.columns,
        {"user_id": INTERACTION_ALIASES["user_id"]},
        mapping,
        required=("user_id",),
        source=table.name,
    )
    data, rows = _read(table, list(columns.values()), list(columns.values()), "error")
    ids = rows.read_ids(data[columns["user_id"]], "user_id", columns["user_id"])
    if rows.refusals:
        raise DirtyRows(rows.refusals)
    return np.asarray(ids.astype(object))


def _is_saved_index(name):
    """A DataFrame's index in a parquet file or in a csv written without index=False."""
    return str(name).startswith(("__index_level_", "Unnamed: "))


def _note_empty_texts(rows, frame):
    is_blank = frame.drop(columns="item_id").apply(lambda column: column.str.strip() == "")
    without_any = is_blank.all(axis=1)
    if without_any.all():
        raise ValueError(
            f"{rows.source}: expected texts of items. Received: {len(frame)} items without any "
            "text. Name the column that holds the titles."
        )
    for what, mask in (("empty title", is_blank["title"]), ("item without any text", without_any)):
        if mask.any():
            rows.note(f"{what} (kept)", int(mask.sum()), frame["item_id"][mask].iloc[0])
