"""Reads a log of any size into a database on disk, by the rules of `read_interactions`.

The rows go through the reader itself, a million at a time. What a rule decides by a whole column
(how times are written, of which type a column is) is compared between the pieces: where a later
piece says otherwise, the table is read anew by what is known then, or refused.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import tzinfo
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from kerasrec.data.cleaningreport import CleaningReport, DirtyRows, Refusal
from kerasrec.data.columns import Naming, split_naming
from kerasrec.data.formats.columntable import ColumnTable
from kerasrec.data.formats.parts import column_kind, join_columns
from kerasrec.data.large.database import Progress, kth_values, put, run
from kerasrec.data.large.streams import PIECE, Again, Stream, open_stream, size_of
from kerasrec.data.readers import (
    Part,
    check_interactions,
    is_float,
    note_reading,
    plan_reading,
)
from kerasrec.data.rows import Rows, are_rounded_by_sheets, none_left
from kerasrec.data.sources import (
    check_on_bad,
    check_same_columns,
    old_events_edge,
    warn_of_old,
)
from kerasrec.data.tables import Source
from kerasrec.data.times.dateclock import DatedTable
from kerasrec.data.times.forms import INEXACT, POSITIONS_BELOW
from kerasrec.data.times.zones import MAX_AHEAD, read_zone, show_time, zone_name

log = logging.getLogger(__name__)
#: pieces that are looked at for what is decided by the first values
_HEAD_PIECES = 3
#: long ids that are kept to see whether a spreadsheet has rounded all of them
_ENOUGH = 10
#: reasons that depend on how times are written
_WRONG_TIMES = {
    *("unparsable time", "negative time", "time before 1973", "time after 2099"),
    *("time in the future", INEXACT),
}
_FORMS = ("times read as ", "times below 1e8")
#: notes that speak of ids, not of rows
_PADDED = " with spaces around it (kept as written)"


class LargeLog(NamedTuple):
    """Holds a log that lies in a database.

    connection: of DuckDB, with the table `events`: `row` (place in the log, from 0), `user_id`,
    `item_id`, `timestamp` (UTC seconds), `nanos` (within the second), `event`, `value`, `weight`.
    columns, report, timezone: as of `Interactions`.  has_time: as of `Interactions`.
    """

    connection: Any
    columns: dict[str, str]
    report: CleaningReport
    timezone: str
    has_time: bool

    @property
    def num_rows(self) -> int:
        """Events in the log."""
        return int(run(self.connection, "SELECT count(*) FROM events")[0][0])


def stage(
    connection: Any,
    source: Source | Sequence[Source],
    *,
    columns: Naming | None = None,
    encoding: str = "utf-8",
    on_bad: str = "error",
    event_weights: Mapping[str, float | str | None] | None = None,
    timezone: str | tzinfo | None = None,
    max_ahead: float | None = MAX_AHEAD,
) -> LargeLog:
    """Reads a log into the table `events`; the options are those of `read_interactions`.

    Raises:
        FileNotFoundError, ValueError: as `read_interactions`; also where pieces of a table tell
            different things of how its times are written.
    """
    check_on_bad(on_bad)
    mapping, names = split_naming(columns)
    sources = source if isinstance(source, list | tuple) else [source]
    if not sources:
        raise ValueError(
            "expected at least one file of interactions. Received: an empty list. Name a file."
        )
    run(
        connection,
        "CREATE TABLE events (row BIGINT, user_id VARCHAR, item_id VARCHAR, timestamp BIGINT, "
        "nanos INTEGER, event VARCHAR, value FLOAT, weight FLOAT)",
    )
    run(connection, "CREATE TABLE padded (role VARCHAR, id VARCHAR)")
    reading = {"event_weights": event_weights, "timezone": timezone, "max_ahead": max_ahead}
    parts: list[Part] = []
    refusals: list[Refusal] = []
    for one in sources:
        stream = open_stream(one, encoding, names=names)
        part = _Staged(connection, stream, mapping, on_bad, reading).read()
        refusals += part.refusals
        parts.append(part)
    if refusals:
        raise DirtyRows(refusals)
    check_same_columns(parts)
    report = CleaningReport.of_sources((part.name, part.report) for part in parts)
    roles = parts[0].columns
    if "timestamp" not in roles:
        run(connection, "UPDATE events SET timestamp = row + 1")
    zone = read_zone(timezone)
    last = run(connection, "SELECT max(timestamp) FROM events")[0][0]
    found = LargeLog(connection, roles, report, zone_name(zone), last >= POSITIONS_BELOW)
    if "timestamp" not in roles and found.has_time:
        raise ValueError(
            f"{parts[0].name}: expected a column of times in a log of more than 1e8 rows. "
            "Received: none, and places in the log from 1e8 on read as times. Name the column."
        )
    found = _with_exact_order(found)
    return _with_warning_of_old(found) if found.has_time else found


class _Staged:
    """Reads one stream into the database; begins anew where a later row says how."""

    def __init__(
        self,
        connection: Any,
        stream: Stream,
        mapping: Mapping[str, str | None] | None,
        on_bad: str,
        reading: dict[str, Any],
    ) -> None:
        self.connection, self.stream, self.on_bad = connection, stream, on_bad
        self._mapping, self._options = mapping, reading
        self._begin = _count(connection, "events")
        #: columns that are read as text though nothing asks for it; roles whose long numbers a
        #: spreadsheet has rounded
        self._text: set[str] = set()
        self._rounded: dict[str, bool] = {"user_id": False, "item_id": False, "event": False}

    def read(self) -> Part:
        """Reads all; a `Part` whose frame has the greatest time alone."""
        while True:
            try:
                return self._read()
            except Again as again:
                log.info("%s: a later row says how to read it; it is read anew", self.stream.name)
                self._text |= {again.text} - {""}
                run(self.connection, f"DELETE FROM events WHERE row >= {self._begin}")
                run(self.connection, "DELETE FROM padded")

    def _read(self):
        names = list(self.stream.columns)
        self._reading = self._plan()
        self._totals = _Totals()
        self._next, size = self._begin, 0
        with Progress("reading", self.stream.num_rows) as progress:
            for chunk in self._chunks():
                self._take(chunk, size)
                size += size_of(chunk)
                progress.go_on(size_of(chunk))
        if names != list(self.stream.columns) and self._plan().roles != self._reading.roles:
            raise Again  # lines of JSON have brought other columns
        self._check_rounded()
        return self._part(size)

    def _plan(self):
        head = _Head(self.stream)
        _, reading = plan_reading(head, self._mapping, **self._options)
        return reading

    def _chunks(self) -> Iterator[dict[str, Any]]:
        """Pieces of at least `PIECE` rows: the last is joined to the one before."""
        roles, clocks = self._reading.roles, self._reading.clocks
        names = [name for role, name in roles.items() if not (clocks and role == "timestamp")]
        names += [*clocks, *self._reading.states]
        text = {roles[role] for role in ("user_id", "item_id", "event") if role in roles}
        text |= {*clocks, *self._reading.states, *self._text}
        kinds: dict[str, set] = {name: set() for name in names if name not in text}
        before: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        in_order = [name for name in names if name in text]
        for piece in self.stream.pieces(names, in_order, self.on_bad):
            for name, seen in kinds.items():
                self._check_kind(name, piece[name], seen)
            found.append(piece)
            if sum(map(size_of, found)) >= PIECE:
                if before:
                    yield _joined(before)
                before, found = found, []
        if before or found:
            yield _joined([*before, *found])

    def _check_kind(self, name, column, seen):
        """Reads a column as text where its pieces are of several types, as the reader does."""
        if name == self._reading.roles.get("timestamp") and is_float(column):
            raise Again(name)
        if self.stream.typed == "equal":
            kind = column_kind(column)
            seen |= {kind} - {None}
            differ = len(seen) > 1
        elif self.stream.typed == "alike":
            seen |= {_class_of(column.type)}
            differ = len(seen - {"nothing"}) > 1 or {"nothing", "text"} <= seen
        else:
            return
        if differ:
            raise Again(name)

    def _take(self, chunk, start):
        """Checks the rows of a chunk and writes the good ones."""
        table: Any = ColumnTable(self.stream.name, chunk, size_of(chunk))
        reading, size = self._reading, size_of(chunk)
        if reading.clocks:
            table = DatedTable(table, *reading.clocks)
            data, _ = table.read([*reading.roles.values(), *reading.states])
        else:
            data = chunk
        rows = _ChunkRows(
            self.stream.name,
            CleaningReport(size),
            self.on_bad,
            (),
            lambda row: self.stream.place(start + row),
        )
        rows.are_rounded = self._rounded
        rows.leave_out_cancelled({name: data[name] for name in reading.states})
        try:
            part = check_interactions(data, rows, reading)
        except ValueError as error:  # of a whole column: rows are counted from the first of all
            raise ValueError(_moved(str(error), start)) from error
        self._totals.add(rows, start)
        self._write_padded(rows)
        if len(part.frame):
            self._write(part)

    def _write(self, part):
        frame, size = part.frame, len(part.frame)
        nanos = np.zeros(size, np.int64) if part.fractions is None else part.fractions
        row = np.arange(self._next, self._next + size)
        piece = pa.table(
            {
                "row": row,
                **{name: _texts(frame[name]) for name in ("user_id", "item_id")},
                "timestamp": frame["timestamp"].to_numpy(),
                "nanos": nanos.astype(np.int32),
                "event": _texts(frame["event"]),
                **{name: pa.array(frame[name].to_numpy()) for name in ("value", "weight")},
            }
        )
        put(self.connection, "events", piece)
        self._next += size

    def _write_padded(self, rows):
        for role, ids in rows.padded.items():
            if ids:
                piece = pa.table({"role": [role] * len(ids), "id": ids})
                put(self.connection, "padded", piece)

    def _check_rounded(self):
        """Reads anew where all long ids of a role end in zeros: a spreadsheet has made them."""
        wrong = [
            role
            for role, ids in self._totals.long_ids.items()
            if not self._rounded[role] and are_rounded_by_sheets(list(ids))
        ]
        if wrong:
            self._rounded.update(dict.fromkeys(wrong, True))
            raise Again

    def _part(self, size):
        """What `read_interaction_table` gives, without the rows."""
        stream, totals = self.stream, self._totals
        distinct = dict(
            run(self.connection, "SELECT role, count(DISTINCT id) FROM padded GROUP BY role")
        )
        run(self.connection, "DELETE FROM padded")
        refusals = [] if self.on_bad == "skip" else list(stream.refusals)
        report = stream.report
        lines = list(totals.lines())
        for line in lines[: totals.num_cancelled]:
            report = report.add(line[0], line[1], line[2], removed=line[3], example=line[4])
        if size:
            head = Rows(stream.name, CleaningReport(size), self.on_bad, (), stream.place)
            names = [name for name in stream.columns if name not in self._reading.clocks]
            note_reading(head, names, self._reading, totals.states(self._reading.states))
            for line in head.report.steps:
                report = report.add(line.step, line.what, line.count, example=line.example)
        for line in lines[totals.num_cancelled :]:
            count = line[2]
            if line[1].endswith(_PADDED):
                count = distinct[line[1].removesuffix(_PADDED)]
            report = report.add(line[0], line[1], count, removed=line[3], example=line[4])
        if self.on_bad != "skip":
            refusals += totals.refusals()
        if self._next == self._begin:
            if refusals:
                return Part(stream.name, pd.DataFrame(), {}, report, refusals=refusals)
            raise ValueError(none_left(stream.name, report))
        last = run(
            self.connection, f"SELECT max(timestamp) FROM events WHERE row >= {self._begin}"
        )[0][0]
        frame = pd.DataFrame({"timestamp": [last]})
        return Part(stream.name, frame, self._reading.roles, report, refusals=refusals)


class _Head:
    """The first rows of a stream as a `Table`: columns are chosen by what they hold."""

    def __init__(self, stream):
        self._stream = stream
        self.name, self.columns = stream.name, list(stream.columns)

    def read(self, columns, text=(), on_bad="error"):
        found = []
        pieces = self._stream.pieces(columns, text, "skip")
        try:
            for piece, _ in zip(pieces, range(_HEAD_PIECES), strict=False):
                found.append(piece)
        except Again:
            return self.read(columns, text, on_bad)
        pieces.close()
        if not found:
            return {name: pa.chunked_array([[]], pa.string()) for name in columns}, CleaningReport()
        data = _joined(found)
        return data, CleaningReport(size_of(data))


class _ChunkRows(Rows):
    """The rows of a chunk: it may have no good one, and it remembers what it looked for."""

    def __init__(self, *given):
        self.looked_for: list[tuple[str, str]] = []
        self.cancelled: list[str] = []
        super().__init__(*given)

    def leave_out_cancelled(self, columns):
        begin = len(self.report.steps)
        found = super().leave_out_cancelled(columns)
        self.cancelled = list(found.values())
        self.looked_for += [(line.step, line.what) for line in self.report.steps[begin:]]
        return found

    def check(self, mask, what, describe, *, example=None, advice=None):
        self.looked_for.append(("skip", what))
        super().check(mask, what, describe, example=example, advice=advice)

    def note(self, what, count, example=""):
        self.looked_for.append(("note", what))
        super().note(what, count, example)

    def good(self, frame):
        return super().good(frame) if not self.bad.all() else frame[:0]


class _Totals:
    """Adds up what the chunks of a table report."""

    def __init__(self):
        self._order: list[tuple[str, str]] = []
        self._lines: dict[tuple[str, str], list] = {}
        self._refusals: dict[str, Refusal] = {}
        self._form, self._num_rows = "", 0
        self._states: set[str] = set()
        #: role -> some of its long ids, among them one that was not rounded if there is one
        self.long_ids: dict[str, set[str]] = {}

    def add(self, rows: _ChunkRows, start: int) -> None:
        self._num_rows += rows.size
        self._states |= set(rows.cancelled)
        place = 0
        for key in rows.looked_for:
            if key not in self._order:
                self._order.insert(place, key)
            place = self._order.index(key) + 1
        for line in rows.report.steps:
            told = self._lines.setdefault((line.step, line.what), [0, 0, line.example])
            told[0], told[1] = told[0] + line.count, told[1] + line.removed
        for one in rows.refusals:
            base = one.received.removesuffix(f" ({one.count} such rows)")
            before = self._refusals.get(one.what, one._replace(received=base, count=0))
            self._refusals[one.what] = before._replace(count=before.count + one.count)
        for role, ids in rows.long_ids.items():
            known = self.long_ids.setdefault(role, set())
            known |= {*ids[:_ENOUGH], *[one for one in ids if one[15:].strip("0")][:1]}
            if len(known) > 2 * _ENOUGH:  # the whole ones last: one of them says enough
                known = set(sorted(known, key=lambda one: one[15:].strip("0"))[-_ENOUGH:])
            self.long_ids[role] = known
        self._check_form(rows, start)

    def _check_form(self, rows, start):
        """Refuses times that are written in one way here and in another way there."""
        whats = {line.what for line in rows.report.steps if line.removed}
        if rows.bad.all() and not whats & _WRONG_TIMES:
            return  # it has no time at all
        notes = [line.what for line in rows.report.steps if line.what.startswith(_FORMS)]
        form = notes[0] if notes else "times read as unix seconds"
        if self._form and form != self._form:
            raise ValueError(
                f"{rows.source}: expected times that are written in one way. Received: "
                f"{self._form} up to {rows.place(-1)}, {form} from {rows.place(0)} on. Bring them "
                "to one form, best UTC seconds."
            )
        self._form = form

    @property
    def num_cancelled(self):
        """How many of the first lines speak of cancelled orders."""
        return len(self._states)

    def states(self, names):
        """What `Rows.leave_out_cancelled` gives for all rows."""
        found = [name for name in names if name in self._states]
        roles = ["status", *(f"status ({number})" for number in range(2, len(found) + 1))]
        return dict(zip(roles, found, strict=False))

    def lines(self):
        """`(step, what, count, removed, example)` in the order in which was looked for them."""
        size = self._num_rows
        for name, what in self._order:
            count, removed, example = self._lines.get((name, what), (0, 0, ""))
            if what.startswith(_FORMS):  # it speaks of the whole column
                count = size if what == (self._form or what) else 0
            if count:
                yield name, what, count, removed, example

    def refusals(self):
        """One for each kind."""
        order = [what for _, what in self._order]
        for one in sorted(self._refusals.values(), key=lambda one: order.index(one.what)):
            others = f" ({one.count} such rows)" if one.count > 1 else ""
            yield one._replace(received=one.received + others)


def _count(connection, table):
    return run(connection, f"SELECT count(*) FROM {table}")[0][0]


def _joined(pieces):
    if len(pieces) == 1:
        return pieces[0]
    return {name: join_columns([piece[name] for piece in pieces]) for name in pieces[0]}


def _class_of(kind):
    """The types among which a csv parser goes on to the wider one, by one word."""
    types = pa.types
    if types.is_null(kind):
        return "nothing"
    if types.is_integer(kind) or types.is_floating(kind):
        return "number"
    if types.is_date(kind) or (types.is_timestamp(kind) and kind.tz is None):
        return "moment"
    return "text" if types.is_string(kind) else str(kind)


def _moved(message, start):
    """A message in which rows of a chunk are counted from the first row of all."""
    return re.sub(r"(?<=data row )\d+", lambda found: str(int(found[0]) + start), message)


def _texts(column):
    """A column of pandas categories as an Arrow dictionary."""
    codes, categories = column.cat.codes.to_numpy(), column.cat.categories
    texts = pa.array(categories.tolist(), pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), texts)


def _with_exact_order(found):
    """A line in the report where rows of one second are not in the order of their exact times."""
    connection = found.connection
    if not run(connection, "SELECT max(nanos) FROM events")[0][0]:
        return found
    count, before = 0, None
    reader = connection.sql(
        "SELECT timestamp, nanos FROM events ORDER BY timestamp, row"
    ).to_arrow_reader(PIECE)
    for batch in reader:
        seconds, nanos = (batch.column(place).to_numpy() for place in (0, 1))
        if before:
            seconds, nanos = np.append(before[0], seconds), np.append(before[1], nanos)
        count += int(((np.diff(seconds) == 0) & (np.diff(nanos) < 0)).sum())
        before = seconds[-1], nanos[-1]
    if not count:
        return found
    what = "rows out of order within a second: put in the order of their exact times"
    return found._replace(report=found.report.add("note", what, count))


def _with_warning_of_old(found):
    last = found.num_rows - 1
    # as np.quantile(..., method="nearest") takes them: half goes to the even place
    low, high = kth_values(
        found.connection, "events", [round(last * share) for share in (0.25, 0.75)]
    )
    edge = old_events_edge(low, high)
    count, oldest = run(
        found.connection, "SELECT count(*), min(timestamp) FROM events WHERE timestamp < ?", [edge]
    )[0]
    if not count:
        return found
    shown = show_time(oldest, read_zone(found.timezone))
    return found._replace(report=warn_of_old(found.report, edge, count, shown))
