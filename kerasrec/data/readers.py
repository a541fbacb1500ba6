"""Turns the columns of a table into checked ones: ids, times, events, texts.

The functions here return plain frames; `data.read_interactions` and `data.read_items` are the
public doors.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from kerasrec.data.cleaningreport import SKIP_HINT, CleaningReport, DirtyRows, Refusal
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
    is_cancelled,
    look_up_events,
    unknown_event_message,
)
from kerasrec.data.formats.columntable import to_pandas
from kerasrec.data.formats.sqltable import is_address
from kerasrec.data.tables import Table
from kerasrec.data.times.dateclock import DatedTable, with_clock
from kerasrec.data.times.forms import INEXACT, ROUNDED, exact_below, holds_times, parse_times
from kerasrec.data.times.zones import MAX_AHEAD, latest_moment, read_zone, show_time, zone_name

#: digits of a number that a spreadsheet keeps; it makes zeros of all behind them
_KEPT_DIGITS = 15
_SAMPLE = 10_000  # values of a column of an unknown name
#: half of a character, which no file can hold, and what stands for an id with one
_HALF, _HALVED = re.compile("[\ud800-\udfff]"), "\ufffd half a character in "
MISSING_IDS = (
    *("", "nan", "NaN", "NULL", "null", "None", "<NA>", "\\N"),
    *("N/A", "#N/A", "(null)", "(NULL)", "undefined"),
)
_MISSING = frozenset(MISSING_IDS)


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
                reason, name, _cell(column, row), rows.place(row), latest
            ),
            example=None if reason == "no time" else lambda row: _cell(column, row),
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
            frame[role] = _read_text(data[columns[role]])
        elif role == "title":
            frame[role] = pd.Series([""] * rows.size, dtype=object)
    for name in names:
        if name in columns.values():
            continue
        if str(name) in frame:
            rows.note(f"column {name} of the source renamed to source_{name}", 1)
        frame[f"source_{name}" if str(name) in frame else str(name)] = _read_text(data[name])
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


def none_left(source: str, report: CleaningReport) -> str:
    """Words the refusal of a table without a usable row."""
    kind = "query" if is_address(source) else "file"
    kind = "table" if source in ("DataFrame", "table") else kind
    if not report.rows_before:
        received = "a header only" if kind == "file" else f"a {kind} without rows"
    else:
        reasons = "; ".join(f"{step.count} x {step.what}" for step in report.steps if step.removed)
        received = f"{report.rows_before} rows, none of them usable ({reasons})"
    return f"{source}: expected at least one row. Received: {received}. Check the {kind}."


class Rows:
    """Which rows of a table are bad: counts them, in refusals where they are to be an error."""

    def __init__(
        self,
        source: str,
        report: CleaningReport,
        on_bad: str,
        refusals: Sequence[Refusal],
        place: Callable[[int], str],
    ) -> None:
        self.source, self.place = source, place
        self.size = report.rows_after
        self.report = report
        self.bad = np.zeros(self.size, dtype=bool)
        self._skip = on_bad == "skip"
        self.refusals = list(refusals)
        #: role -> ids with spaces around them; those with more digits than spreadsheets keep
        self.padded: dict[str, list[str]] = {}
        self.long_ids: dict[str, list[str]] = {}
        #: role -> whether zeros behind 15 digits stand for others; a role that is absent is judged
        #: by its ids
        self.are_rounded: dict[str, bool] = {}
        if not self.size:
            raise (
                DirtyRows(self.refusals)
                if self.refusals
                else ValueError(none_left(self.source, self.report))
            )

    def check(
        self,
        mask: np.ndarray,
        what: str,
        describe: Callable[[int], tuple[str, str]],
        *,
        example: Callable[[int], Any] | None = None,
        advice: Callable[[int], str] | None = None,
    ) -> None:
        """Takes out the rows of `mask`; `describe(row)` gives (expected, received)."""
        mask = mask & ~self.bad
        count = int(mask.sum())
        if not count:
            return
        row = int(np.argmax(mask))
        shown = self.place(row) + (f", '{example(row)}'" if example else "")
        if not self._skip:
            expected, received = describe(row)
            others = f" ({count} such rows)" if count > 1 else ""
            hint = advice(row) if advice else SKIP_HINT
            refusal = (self.source, expected, received + others, what, count, shown, hint)
            self.refusals.append(Refusal(*refusal))
        self.report = self.report.add("skip", what, count, removed=count, example=shown)
        self.bad |= mask

    def leave_out_cancelled(self, columns: Mapping[str, Any]) -> dict[str, str]:
        """Leaves out orders that came to nothing; gives the columns that say so of some.

        This comes first: such an order often lacks a time, which is no mistake then.
        """
        found: dict[str, str] = {}
        for name, column in columns.items():
            series = column if isinstance(column, pd.Series) else to_pandas(column)
            mask = is_cancelled(series, name) & ~self.bad
            if not mask.any():
                continue
            found["status" if not found else f"status ({len(found) + 1})"] = name
            what = (
                f"cancelled or refunded by the column {name} (columns={{'status': None}} or "
                "--columns status= keeps them)"
            )
            row, count = int(np.argmax(mask)), int(mask.sum())
            example = f"{self.place(row)}, '{_cell(series, row)}'"
            self.report = self.report.add("skip", what, count, removed=count, example=example)
            self.bad |= mask
        return found

    def note(self, what: str, count: int, example: str = "") -> None:
        """A line in the report that takes out nothing."""
        self.report = self.report.add("note", what, count, example=example)

    def note_columns(self, columns: Mapping[str, str], word: str, others: Sequence[str]) -> None:
        """Say which column was taken for what, and what became of the others."""
        taken = [role if role == name else f"{role} = {name}" for role, name in columns.items()]
        self.report = self.report.add("columns", "columns: " + ", ".join(taken), len(taken))
        if others:
            what = f"columns {word}: {name_list(others)}"
            self.report = self.report.add("columns", what, len(others))

    def good(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows that no check took out."""
        if self.bad.all():
            raise (
                DirtyRows(self.refusals)
                if self.refusals
                else ValueError(none_left(self.source, self.report))
            )
        if not self.bad.any():
            return frame
        frame = frame[~self.bad].reset_index(drop=True)
        for name in frame.select_dtypes("category"):
            frame[name] = used_categories(frame[name])
        return frame

    def read_ids(self, column: Any, role: str, name: str) -> pd.Categorical:
        """The column as categories of str; rows without an id are bad."""
        ids = as_categories(column, f"{self.source}: {name}")
        texts = ids.categories.tolist()
        missing = [text in _MISSING or text.isspace() for text in texts]
        if any(missing):
            ids = ids.remove_categories(ids.categories[missing])
            texts = ids.categories.tolist()
        article = "a" if role == "user_id" else "an"
        label = role if name == role else f"{role} (column {name})"
        self.check(
            ids.codes < 0,
            f"empty {role}",
            lambda row: (f"{article} {label} in every row", f"none in {self.place(row)}"),
        )
        halved = np.array([text.startswith(_HALVED) for text in texts] + [False])
        self.check(
            halved[ids.codes],
            f"{role} with half a character",
            lambda row: (
                f"whole characters in {label}",
                f"'{ids[row].removeprefix(_HALVED)}' in {self.place(row)}",
            ),
            example=lambda row: ids[row].removeprefix(_HALVED),
        )
        self._check_exact(ids, texts, role, label)
        padded = [text for text in texts if text != text.strip() and text.strip()]
        self.padded[role] = padded
        if padded:
            self.note(
                f"{role} with spaces around it (kept as written)", len(padded), repr(padded[0])
            )
        return ids

    def _check_exact(self, ids, texts, role, label):
        """Takes out ids that a float or a spreadsheet has rounded: others became the same."""
        rounded, whole = _rounded_ids(texts, self.are_rounded.get(role))
        self.long_ids[role] = [texts[number] for number in whole]
        self.check(
            np.append(rounded, False)[ids.codes],
            f"{role} rounded to a number",
            lambda row: (
                f"whole ids as {label}",
                f"a rounded one, '{ids[row]}' in {self.place(row)}",
            ),
            example=lambda row: ids[row],
            advice=lambda row: (
                "Ids that differ became the same: read or export the column as text (pandas: "
                "dtype=str; Excel: a column of the format text), or pass on_bad='skip' (--on-bad "
                "skip) to leave such rows out and count them."
            ),
        )

    def read_numbers(
        self, data: Mapping[str, Any], columns: Mapping[str, str], role: str
    ) -> np.ndarray:
        """float32 column of a role, NaN where there is none; texts that are no numbers are bad."""
        if role not in columns:
            return np.full(self.size, np.nan, dtype=np.float32)
        column = data[columns[role]]
        series = column if isinstance(column, pd.Series) else column.to_pandas()
        empty = series.isna().to_numpy()
        if series.dtype.kind not in "iuf":
            empty = empty | series.astype("str").str.strip().isin(MISSING_IDS).to_numpy()
        values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        self.check(
            ~empty & ~np.isfinite(values),
            f"{role} that is no number",
            lambda row: (
                f"a finite number as {role}",
                f"{columns[role]}='{series.iloc[row]}' in {self.place(row)}",
            ),
            example=lambda row: series.iloc[row],
        )
        return values.astype(np.float32)


def as_categories(column: Any, name: str) -> pd.Categorical:
    """Turns a column of ids into pandas categories of str, in order of first appearance.

    Whole floats lose their `.0` (a pandas column of ints with gaps), texts stay exactly as they
    are.

    Args:
        column: pandas Series or Arrow array of strings, ints or whole floats.
        name: of the column, for messages.

    Returns:
        pandas Categorical; code -1 = missing.

    >>> as_categories(pd.Series([12.0, None, 7.0]), "user").tolist()
    ['12', nan, '7']
    """
    if isinstance(column, pa.ChunkedArray):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return _from_arrow_strings(column)
        column = to_pandas(column)
    try:
        codes, uniques = pd.factorize(column)
    except TypeError:  # lists, dicts: cannot be hashed
        _id_text(column[column.notna()].iloc[0], name)
    exact = exact_below(column.dtype)  # factorize makes wider floats of narrow ones
    texts = pd.Index([_whole(_id_text(value, name, exact)) for value in uniques], dtype=object)
    if not texts.is_unique:  # 1 and "1" in one column
        merged, texts = pd.factorize(texts)
        codes = np.append(merged, -1)[codes]
    # an empty list would be categories of another type than texts
    return pd.Categorical.from_codes(codes, texts.tolist() or pd.Index([], dtype=str))


def _rounded_ids(texts, are_rounded):
    """(bool mask of the ids that stand for more than one, places of long whole numbers).

    See `ROUNDED`, and Excel's 15 digits; `are_rounded` says of all long ones whether they are, None
    = they are judged by themselves.
    """
    rounded = np.zeros(len(texts), dtype=bool)
    exact = exact_below(np.dtype(np.float64))
    whole = []
    for number, text in enumerate(texts):
        if "+" in text:
            rounded[number] = re.fullmatch(ROUNDED, text) is not None
        elif len(text) > _KEPT_DIGITS and text.removesuffix(".0").isdecimal():
            rounded[number] = text.endswith(".0") and float(text) >= exact
            if len(text) > _KEPT_DIGITS + 1 and not text.endswith(".0"):
                whole.append(number)
    if are_rounded is None:
        are_rounded = are_rounded_by_sheets([texts[number] for number in whole])
    if are_rounded:
        rounded[whole] = True
    return rounded, whole


def are_rounded_by_sheets(ids: Sequence[str]) -> bool:
    """Whether whole numbers of more than 16 digits were rounded by a spreadsheet.

    One id may end in zeros; where all do, a spreadsheet has made them.
    """
    return len(ids) > 2 and not any(one[_KEPT_DIGITS:].strip("0") for one in ids)


def used_categories(column: pd.Series) -> pd.Categorical:
    """Removes the categories that no row has, and gives a Categorical.

    >>> used_categories(pd.Series(["a", "b"], dtype="category")[1:]).categories.tolist()
    ['b']
    """
    codes, categories = column.cat.codes.to_numpy(), column.cat.categories
    is_used = np.bincount(codes, minlength=len(categories)) > 0
    if is_used.all():
        return column.array
    new_codes = np.cumsum(is_used) - 1
    return pd.Categorical.from_codes(new_codes[codes], categories[is_used])


def _from_arrow_strings(column):
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries().combine_chunks()
    codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    texts = column.dictionary.to_pylist()
    if None in texts:
        gap = texts.index(None)
        codes = np.where(codes == gap, -1, codes)
        codes = np.where(codes > gap, codes - 1, codes)
        del texts[gap]
    return pd.Categorical.from_codes(codes, texts)


def _whole(text):
    """The text; one that no file can hold is marked, and `Rows.read_ids` takes it out."""
    if text.isascii() or not _HALF.search(text):
        return text
    return _HALVED + text.encode("utf-8", "backslashreplace").decode()


def _id_text(value, name, exact=np.inf):
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float | np.floating) and float(value).is_integer():
        if abs(float(value)) >= min(exact, exact_below(np.asarray(value).dtype)):
            return np.format_float_scientific(value, exp_digits=2)  # `_rounded_ids` finds it
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return str(int(value))
    raise ValueError(
        f"{name}: expected ids that are texts or whole numbers. Received: {value!r} "
        f"({type(value).__name__}). Turn the column into strings."
    )


def _read_text(column):
    """A column as a Series of str; "" where a value is missing.

    Between values of a list stands U+001F, the unit separator: white space for a text, but no space
    that a value may have, so `features` finds the values again.
    """
    series = column if isinstance(column, pd.Series) else to_pandas(column)
    if series.dtype.kind == "f":
        series = series.astype(float)  # also of pandas' Float64, whose gaps are no numbers
        whole = series.map(
            lambda value: str(int(value)) if float(value).is_integer() else str(value)
        )
        return whole.where(series.notna(), "").astype(object)
    return series.astype(object).where(series.notna(), "").map(_text)


def _text(value):
    if isinstance(value, list | tuple | np.ndarray):
        value = "\x1f".join(str(one) for one in value)
    return _HALF.sub("\ufffd", str(value))


def _cell(column, row):
    """One value as it stood in the source, on one line."""
    value = column.iloc[row] if isinstance(column, pd.Series) else column[row].as_py()
    return " ".join(str(value).split())[:40]
