"""A table whose columns are in memory: of Python objects, or of Arrow."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import pandas as pd
import pyarrow as pa

from kerasrec.data.cleaningreport import CleaningReport, DirtyRows, Refusal

#: rows that are made Arrow arrays at once
CHUNK = 65_536


class ColumnTable:
    """Reads columns that are in memory already.

    Args:
        name: for messages.
        columns: name -> Arrow array or Series, all of one length.
        num_rows: their length.
        notes: for the report, `(what, count)`.
        refusals: kinds of rows that could not be read at all.
    """

    def __init__(
        self,
        name: str,
        columns: Mapping[str, Any],
        num_rows: int,
        *,
        notes: Sequence[tuple[str, int]] = (),
        refusals: Sequence[Refusal] = (),
    ) -> None:
        self.name = name
        self.columns = list(columns)
        self._data, self._num_rows = columns, num_rows
        self._notes, self._refusals = notes, refusals

    def read(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> tuple[dict[str, Any], CleaningReport]:
        """Gives the columns as they are."""
        if self._refusals and on_bad != "skip":
            raise DirtyRows(self._refusals)
        lost = sum(refusal.count for refusal in self._refusals)
        report = CleaningReport(self._num_rows + lost)
        for one in self._refusals:
            report = report.add("skip", one.what, one.count, removed=one.count, example=one.example)
        for what, count in self._notes:
            report = report.add("note", what, count)
        return {name: self._data[name] for name in columns}, report


class ColumnBuilder:
    """Collects rows of Python objects and gives compact columns.

    Args:
        names: of the columns that are known beforehand; `add` may bring others.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.num_rows = 0
        self._open: dict[str, list] = {}
        self._done: dict[str, list] = {name: [] for name in names}

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds one row; names that it lacks are missing values."""
        for name, value in row.items():
            if name not in self._open:
                if name not in self._done:  # missing in all rows before
                    self._done[name] = _gaps(self.num_rows - self.num_rows % CHUNK)
                self._open[name] = [None] * (self.num_rows % CHUNK)
            values = self._open[name]
            if len(values) < self.num_rows % CHUNK:
                values.extend([None] * (self.num_rows % CHUNK - len(values)))
            values.append(value)
        self.num_rows += 1
        if self.num_rows % CHUNK == 0:
            self._close(CHUNK)

    def _close(self, size):
        for name, done in self._done.items():
            values = self._open.get(name, [])
            values.extend([None] * (size - len(values)))
            done.append(_compact(values))
        self._open = {}

    def columns(self) -> dict[str, Any]:
        """Name -> Arrow array or Series; call it once, at the end."""
        if self.num_rows % CHUNK:
            self._close(self.num_rows % CHUNK)
        return {str(name): _joined(pieces) for name, pieces in self._done.items()}


def _gaps(count):
    return [pa.nulls(count)] if count else []


def _compact(values):
    """An Arrow array where all values are of one plain kind; else the list."""
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pa.nulls(len(values))
    if len(kinds) > 1:
        return values
    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    try:
        return pa.array(values, types[kinds.pop()])
    except (KeyError, OverflowError, UnicodeError, pa.ArrowException):
        return values


def _joined(pieces):
    types = {piece.type for piece in pieces if isinstance(piece, pa.Array)} - {pa.null()}
    if len(types) == 1 and all(isinstance(piece, pa.Array) for piece in pieces):
        kind = types.pop()
        return pa.chunked_array([piece.cast(kind) for piece in pieces], kind)
    if not types and all(isinstance(piece, pa.Array) for piece in pieces):
        return pa.chunked_array([pa.nulls(sum(map(len, pieces)), pa.string())])
    values: list = []
    for piece in pieces:
        values.extend(piece.to_pylist() if isinstance(piece, pa.Array) else piece)
    return as_series(values)


def as_series(values: list) -> pd.Series:
    """A Series in which whole numbers stay whole, and days and moments are ISO texts.

    >>> as_series([1, None, 2**60]).tolist()
    [1, <NA>, 1152921504606846976]
    """
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {int} and all(value is None or abs(value) < 2**63 for value in values):
        return pd.Series(pd.array(values, dtype="Int64"))
    if kinds & {datetime, date}:
        values = [one.isoformat() if isinstance(one, date) else one for one in values]
    return pd.Series(values, dtype=object)


def arrow_columns(source: Any) -> tuple[dict[str, pa.ChunkedArray], int]:
    """The columns of an Arrow, polars or other table that offers itself as an Arrow stream."""
    table = pa.table(source)
    return {
        name: _plain(column) for name, column in zip(table.column_names, table.columns, strict=True)
    }, table.num_rows


def to_pandas(column: pa.ChunkedArray) -> pd.Series:
    """An Arrow column as a Series; whole numbers with gaps stay whole (floats would round ids)."""
    if pa.types.is_integer(column.type) and column.null_count:
        return pd.Series(column.to_pandas(types_mapper=pd.ArrowDtype).astype("Int64"))
    return column.to_pandas()


def _plain(column):
    """Without the kinds of texts and dictionaries that only some of the readers know."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = _plain_type(kind.value_type)
        chunks = [chunk.dictionary.cast(kind).take(chunk.indices) for chunk in column.chunks]
        column = pa.chunked_array(chunks, kind)
    plain = _plain_type(kind)
    return column if plain == kind else column.cast(plain)


def _plain_type(kind):
    if getattr(pa.types, "is_string_view", lambda kind: False)(kind):
        return pa.large_string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(_plain_type(kind.value_type))
    return kind
