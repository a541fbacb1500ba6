"""Reads tables in pieces: each form of table as a stream that is never in memory as a whole.

The rules are those of `data.formats`: a stream is the table of that form, read in another way.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from kerasrec.data.cleaningreport import CleaningReport, DirtyRows, Refusal
from kerasrec.data.formats.columntable import ColumnBuilder, arrow_columns
from kerasrec.data.formats.csvtable import (
    BLOCK_BYTES,
    CsvTable,
    Utf8Stream,
    check_repeated,
    num_lines,
)
from kerasrec.data.formats.encodings import find_encoding
from kerasrec.data.formats.jsonlines import JsonLines
from kerasrec.data.formats.packed import DAMAGES
from kerasrec.data.formats.parts import PartsTable, constant_column
from kerasrec.data.formats.sqltable import is_duckdb, open_duckdb, query_rows, source_name
from kerasrec.data.tables import Forms, ParquetTable, Source, Table, open_table

#: rows of a piece
PIECE = 1_000_000
#: rows of a wrong length that are kept to be shown
_SHOWN = 1_000
#: lines of JSON that are looked at for names of columns, before all others are
_HEAD = 10_000


class Again(Exception):
    """What was read of a stream must be read anew, for a later row says how to read the first.

    `text` names a column that must be read as text.
    """

    def __init__(self, text: str = "") -> None:
        self.text = text
        super().__init__(text)


class Stream(Protocol):
    """A source of columns in pieces.

    name, columns: as of a `Table`.  report: after the last piece, what its form has lost; its rows
    are those of the source.  refusals: the same, where such rows are to be an error.  num_rows: of
    the source where that is known, else None.  typed: how the types of the pieces of a column must
    agree: "alike" (a csv parser chose them), "equal" (many files) or "any".
    """

    name: str
    columns: list[str]
    report: CleaningReport
    refusals: list[Refusal]
    num_rows: int | None
    typed: str

    def pieces(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> Iterator[dict[str, Any]]:
        """Yields the asked columns, name -> array or Series, from the first row on.

        Raises:
            Again: see there.
        """

    def place(self, row: int) -> str:
        """Says where a row lies that was read."""


def open_stream(
    source: Source, encoding: str = "utf-8", *, names: Sequence[str] | None = None
) -> Any:
    """Opens what `open_table` opens, as a `Stream`."""
    return open_table(source, encoding, names=names, forms=_FORMS)


def size_of(piece: Mapping[str, Any]) -> int:
    """Rows of a piece."""
    return next((len(column) for column in piece.values()), 0)


def data_row(row: int) -> str:
    """Where a row lies in a source that is one table."""
    return f"data row {row + 1}"


class CsvStream(CsvTable):
    """Reads a csv file in pieces; see `CsvTable`."""

    typed = "alike"
    num_rows = None

    def __init__(
        self, path: str | Path, encoding: str = "utf-8", names: Sequence[str] | None = None
    ) -> None:
        super().__init__(path, encoding, names)
        self.report = CleaningReport()
        self.refusals: list[Refusal] = []
        self._errors, self._error = "strict", UnicodeError()

    def pieces(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> Iterator[dict[str, Any]]:
        """Yields pieces, columns of `text` as texts, others as the parser takes them."""
        check_repeated(self.name, self.columns, columns)
        self.report, self.refusals = CleaningReport(), []
        if self._is_header_only:
            return
        places = {name: str(self.columns.index(name)) for name in columns}
        own = [places[name] for name in columns if name not in text]
        ragged, broken = _Ragged(), _Broken(self._encoding)
        num_rows, last = 0, pa.table({})
        try:
            with Utf8Stream(self._path, self._encoding, self._errors) as stream:
                for last in _gathered(self._batches(stream, places, ragged)):
                    num_rows += last.num_rows
                    table = _typed(last, own)
                    if self._errors == "replace":
                        table = broken.without(table, [places[name] for name in text])
                        if broken.count and (on_bad != "skip" or self._is_another_encoding()):
                            raise ValueError(self._explain(self._error))
                    yield {name: table.column(place) for name, place in places.items()}
                last_line = stream.last_line()
        except UnicodeError as error:
            self._read_otherwise(error)
        except DAMAGES as error:
            raise ValueError(self._explain(error)) from error
        self._check_quotes(last, ragged.rows[-1:], last_line)
        self._report(num_rows, ragged, broken)

    def place(self, row: int) -> str:
        """Says where a row lies."""
        return data_row(row)

    def _batches(self, stream, places, ragged):
        return pa.csv.open_csv(
            stream,
            read_options=self._read_options(),
            parse_options=self._parse_options(ragged.collect),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(places.values(), pa.string()),
                include_columns=list(places.values()),
                strings_can_be_null=False,
            ),
        )

    def _read_otherwise(self, error: UnicodeError) -> NoReturn:
        """Another encoding where the bytes say so; else signs for the bytes that are none."""
        found = find_encoding(self._sample()) if self._encoding == "utf-8" else ""
        if self._errors == "replace":
            raise ValueError(self._explain(error)) from error
        if found:
            self._take_encoding(found)
        else:
            self._errors, self._error = "replace", error
        raise Again from error

    def _is_another_encoding(self):
        return "looks like" in self._explain(self._error)

    def _report(self, num_rows, ragged, broken):
        report = CleaningReport(num_rows + ragged.lines)
        if ragged.count:
            refusal = self._refuse_ragged(ragged.rows, ragged.count)
            self.refusals = [refusal]
            report = report.add(
                "skip", refusal.what, ragged.lines, removed=ragged.lines, example=refusal.example
            )
        if broken.count:
            what = f"rows with bytes that are not {self._encoding}"
            report = report.add(
                "skip", what, broken.count, removed=broken.count, example=broken.first
            )
        self.report = self._noted(report)


class _Ragged:
    """Counts rows of a wrong length, and keeps the first of them and the last."""

    def __init__(self):
        self.count = self.lines = 0
        self.rows: list[Any] = []

    def collect(self, row):
        self.count += 1
        self.lines += num_lines(row)
        if len(self.rows) > _SHOWN:
            self.rows.pop()
        self.rows.append(row)
        return "skip"


class _Broken:
    """Counts rows whose texts hold the sign that stands for bytes of another encoding."""

    def __init__(self, encoding):
        self.encoding, self.count, self.first, self._seen = encoding, 0, "", 0

    def without(self, table, places):
        mask = np.zeros(table.num_rows, bool)
        for place in places:
            has_sign = pa.compute.match_substring(table.column(place), "\ufffd")
            mask |= has_sign.to_numpy()
        if mask.any() and not self.count:
            self.first = data_row(self._seen + int(np.argmax(mask)))
        self.count += int(mask.sum())
        self._seen += table.num_rows
        return table.filter(pa.array(~mask)) if mask.any() else table


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of `PIECE` rows; the last may be smaller, none is empty."""
    found: list[pa.RecordBatch] = []
    for batch in batches:
        found.append(batch)
        while sum(one.num_rows for one in found) >= PIECE:
            table = pa.Table.from_batches(found)
            yield table.slice(0, PIECE)
            found = table.slice(PIECE).to_batches()
    if sum(one.num_rows for one in found):
        yield pa.Table.from_batches(found)


def _typed(table, names):
    """The table; the types of the named columns of texts are those that a csv parser finds."""
    if not names or not table.num_rows:
        return table
    file = io.BytesIO()
    pa.csv.write_csv(table.select(names), file)
    found = pa.csv.read_csv(
        pa.BufferReader(file.getbuffer()),
        read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(strings_can_be_null=False),
    )
    for name in names:
        table = table.set_column(table.column_names.index(name), name, found.column(name))
    return table


class ParquetStream(ParquetTable):
    """Reads a parquet file in pieces; see `ParquetTable`."""

    typed = "equal"

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.report = CleaningReport()
        self.refusals: list[Refusal] = []
        self.num_rows = pa.parquet.read_metadata(path).num_rows

    def pieces(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> Iterator[dict[str, Any]]:
        """Yields pieces, columns of `text` as dictionaries of strings."""
        check_repeated(self.name, self.columns, columns)
        self.report, num_rows = CleaningReport(self.num_rows), 0
        try:
            schema = pa.parquet.read_schema(self._path)
            strings = [name for name in text if pa.types.is_string(schema.field(name).type)]
            with pa.parquet.ParquetFile(
                self._path, read_dictionary=strings, pre_buffer=False
            ) as file:
                for batch in file.iter_batches(batch_size=PIECE, columns=list(columns)):
                    table = pa.Table.from_batches([batch])
                    table.validate(full=True)
                    num_rows += len(table)
                    yield {name: table.column(name) for name in columns}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(self._damaged(error)) from error

    def place(self, row: int) -> str:
        """Says where a row lies."""
        return data_row(row)


class JsonStream:
    """Reads a file of JSON Lines in pieces; see `open_json`.

    Columns that only later lines have are added to `columns` while they are read.
    """

    typed = "any"
    num_rows = None

    def __init__(self, path: str | Path, encoding: str = "utf-8") -> None:
        self.name = str(path)
        self._lines = JsonLines(path, encoding)
        self.report = CleaningReport()
        self.refusals: list[Refusal] = []
        names: dict[str, None] = {}
        for row, _ in zip(self._lines.rows(), range(_HEAD), strict=False):
            names.update(dict.fromkeys(row))
        self.columns = list(names)

    def pieces(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> Iterator[dict[str, Any]]:
        """Yields pieces, as `ColumnBuilder` makes them."""
        known, num_rows, builder = set(self.columns), 0, ColumnBuilder(columns)
        for row in self._lines.rows():
            if not row.keys() <= known:
                new = [name for name in row if name not in known]
                self.columns += new
                known.update(new)
            builder.add({name: row[name] for name in columns if name in row})
            num_rows += 1
            if builder.num_rows == PIECE:
                yield builder.columns()
                builder = ColumnBuilder(columns)
        if builder.num_rows:
            yield builder.columns()
        self.refusals = self._lines.refusals()
        report = CleaningReport(num_rows + sum(one.count for one in self.refusals))
        for one in self.refusals:
            report = report.add("skip", one.what, one.count, removed=one.count, example=one.example)
        for what, count in self._lines.notes:
            report = report.add("note", what, count)
        self.report = report

    def place(self, row: int) -> str:
        """Says where a row lies."""
        return data_row(row)


class QueryStream:
    """Reads what a query gives in pieces; each reading runs it again."""

    typed = "any"
    num_rows = None

    def __init__(self, source: str) -> None:
        self._source, self.name = source, source_name(source)
        self.report = CleaningReport()
        self.refusals: list[Refusal] = []
        if is_duckdb(source):
            self.columns = list(open_duckdb(source).columns)
        else:
            self.columns = list(next(query_rows(source)))

    def pieces(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> Iterator[dict[str, Any]]:
        """Yields pieces."""
        check_repeated(self.name, self.columns, columns)
        num_rows = 0
        for piece in self._duckdb() if is_duckdb(self._source) else self._rows():
            num_rows += size_of(piece)
            yield {name: piece[name] for name in columns}
        self.report = CleaningReport(num_rows)

    def place(self, row: int) -> str:
        """Says where a row lies."""
        return data_row(row)

    def _duckdb(self):
        for batch in open_duckdb(self._source).to_arrow_reader(PIECE):
            yield arrow_columns(pa.Table.from_batches([batch]))[0]

    def _rows(self):
        found = query_rows(self._source)
        names = list(next(found))
        builder = ColumnBuilder(names)
        for rows in found:
            for row in rows:
                builder.add(dict(zip(names, row, strict=True)))
            if builder.num_rows >= PIECE:
                yield builder.columns()
                builder = ColumnBuilder(names)
        if builder.num_rows:
            yield builder.columns()


class MemoryStream:
    """Gives a table that is in memory already in pieces."""

    typed = "any"

    def __init__(self, table: Table) -> None:
        self._table, self.name, self.columns = table, table.name, table.columns
        self.num_rows: int | None = None
        self.report = CleaningReport()
        self.refusals: list[Refusal] = []

    def pieces(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> Iterator[dict[str, Any]]:
        """Yields pieces."""
        self.refusals = []
        try:
            data, self.report = self._table.read(columns, text, on_bad)
        except DirtyRows as error:
            self.refusals = list(error.refusals)
            data, self.report = self._table.read(columns, text, "skip")
        self.num_rows = self.report.rows_after
        for start in range(0, self.num_rows, PIECE):
            yield {name: _slice(column, start) for name, column in data.items()}

    def place(self, row: int) -> str:
        """Says where a row lies."""
        return data_row(row)


def _slice(column, start):
    if isinstance(column, pd.Series):
        return column.iloc[start : start + PIECE].reset_index(drop=True)
    return column.slice(start, PIECE)


class PartsStream(PartsTable):
    """Reads several files as one table, in pieces; see `PartsTable`."""

    typed = "equal"

    def __init__(self, path: Any, root: Any, files: Any, open_one: Any) -> None:
        super().__init__(path, root, files, open_one)
        self.report = CleaningReport()
        self.refusals: list[Refusal] = []
        self.num_rows = None
        if isinstance(self._first, ParquetStream):
            self.num_rows = sum(pa.parquet.read_metadata(file).num_rows for file in files)

    def pieces(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> Iterator[dict[str, Any]]:
        """Yields pieces of all files, one after the other."""
        own, own_text = ([n for n in names if n in self._own] for names in (columns, text))
        self._starts, self.refusals, reports, num_rows = np.zeros(0, np.int64), [], [], 0
        for file, values in zip(self._files, self._values, strict=True):
            table: Any = self._first if file == self._files[0] else self._open(file)
            self._check_columns(file, table)
            self._starts = np.append(self._starts, num_rows)
            for piece in table.pieces(own, own_text, on_bad):
                size = size_of(piece)
                num_rows += size
                for name in columns:
                    if name not in piece:
                        piece[name] = constant_column([values[name]], [size])
                yield {name: piece[name] for name in columns}
            self.refusals += table.refusals
            reports.append(table.report)
        self.report = self._report(reports)


_FORMS = Forms(CsvStream, JsonStream, ParquetStream, QueryStream, PartsStream, MemoryStream)
