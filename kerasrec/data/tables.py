"""Reads files, databases and tables of Python by columns, and writes tables whole.

Every source is a `Table`: its name for messages, its columns in order, and `read`. Nothing here
knows what a column means. The forms of files are in `data.formats`.
"""

import gzip
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from kerasrec.backend import whole_file
from kerasrec.data.cleaningreport import CleaningReport
from kerasrec.data.formats.addresses import check_address, check_is_here
from kerasrec.data.formats.columntable import ColumnTable, arrow_columns, to_pandas
from kerasrec.data.formats.csvtable import CsvTable, check_repeated, given_names
from kerasrec.data.formats.excel import open_sheet
from kerasrec.data.formats.jsonlines import open_json
from kerasrec.data.formats.packed import one_line
from kerasrec.data.formats.parts import PartsTable, files_of, is_pattern
from kerasrec.data.formats.sqltable import is_address, open_query
from kerasrec.data.formats.written import guarded, write_csv


class ArrowTable(Protocol):
    """A table that offers itself as an Arrow stream: polars, Arrow, DuckDB and others."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The stream, in a capsule."""


#: where a table can come from
Source: TypeAlias = str | os.PathLike[str] | pd.DataFrame | ArrowTable
PARQUET_SUFFIXES = (".parquet", ".pq")
_EXCEL_SUFFIXES = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
_PACKED = ("", ".gz", ".zst")
#: kind of table -> endings of its files
_SUFFIXES = {
    "parquet": PARQUET_SUFFIXES,
    "excel": _EXCEL_SUFFIXES,
    "json": tuple(f".{name}{end}" for name in ("jsonl", "ndjson") for end in _PACKED),
    "text": tuple(f".{name}{end}" for name in ("csv", "tsv", "txt") for end in _PACKED),
}


#: files that Hive writes for a query: they have no ending, and no header line
_OF_HIVE = re.compile(r"\d{6}_\d+(_copy_\d+)?(\.gz|\.zst)?")


class Table(Protocol):
    """A source of columns, whatever its form: what all classes here offer."""

    name: str
    columns: list[str]

    def read(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> tuple[dict[str, Any], CleaningReport]:
        """The asked columns, name -> array or Series, and what was left out."""


def is_frame(source: object) -> bool:
    """Whether a source is a table of Python: of pandas, polars, Arrow or another Arrow stream."""
    if isinstance(source, pd.DataFrame) or _is_lazy(source):
        return True
    # a column alone, such as a Series, offers a stream too
    is_table = hasattr(source, "columns") or hasattr(source, "schema")
    return is_table and hasattr(source, "__arrow_c_stream__")


def _is_lazy(source):
    """Whether a source is a LazyFrame of polars, which is a plan of a table."""
    kind = type(source)
    return kind.__name__ == "LazyFrame" and kind.__module__.partition(".")[0] == "polars"


def _collected(source):
    return source.collect() if _is_lazy(source) else source


def as_frame(source: Any) -> pd.DataFrame:
    """Turns a table of Python into a pandas DataFrame; whole numbers with gaps stay whole."""
    source = _collected(source)
    if isinstance(source, pd.DataFrame):
        return source
    columns, _ = arrow_columns(source)
    return pd.DataFrame({name: to_pandas(column) for name, column in columns.items()})


def open_table(
    source: Source,
    encoding: str = "utf-8",
    *,
    names: Sequence[str] | None = None,
    forms: "Forms | None" = None,
) -> Any:
    """Opens the table behind a path, a pattern, a query or a table of Python, as a `Table`.

    Of csv and parquet files only the column names are read here; other sources are read whole.

    Args:
        source: see `read_interactions`.
        encoding: of text files.
        names: of the columns of a table without a header line, whose first line is data.
        forms: what opens each form of table, when it is not to be a `Table`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder without tables, another kind of file, an empty or damaged file, a wrong
            encoding.
    """
    source, forms = _collected(source), forms or _FORMS
    if isinstance(source, pd.DataFrame):
        if names is not None:
            source = source.set_axis(given_names("DataFrame", names, list(source.columns)), axis=1)
        return forms.memory(FrameTable(source))
    if is_frame(source):
        _refuse_names("table", names)
        return forms.memory(ColumnTable("table", *arrow_columns(source)))
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            "expected a path or a table of pandas, polars or Arrow (for interactions also a list "
            f"of them). Received: {type(source).__name__}. Pass one of these."
        )
    check_is_here(source)
    if is_address(source):
        check_address(str(source))
        _refuse_names("the query", names)
        return forms.query(str(source))
    path = Path(source)
    if not path.exists():
        check_address(str(source))
    if path.is_dir() or (is_pattern(path) and not path.exists()):
        return _open_parts(path, encoding, names, forms)
    return _open_file(path, encoding, names, forms)


def _refuse_names(source, names):
    if names is not None:
        raise ValueError(
            f"{source}: expected a mapping as columns, such as {{'user_id': 'uid'}}. Received: a "
            "list of names, which is for files without a header line; this table has names. Name "
            "the columns of the roles instead."
        )


def _open_file(path, encoding, names, forms):
    sheet = ""
    if not path.exists():
        name, hash_sign, sheet = path.name.rpartition("#")
        if not (hash_sign and path.with_name(name).exists()):
            raise FileNotFoundError(_missing_file_message(path))
        path = path.with_name(name)
    kind = _kind(path)
    if sheet and kind != "excel":
        raise ValueError(
            f"{path}: expected the name of a sheet behind an Excel file only. Received: "
            f"'#{sheet}' behind '{path.name}', which has no sheets. Leave it out."
        )
    if not kind:
        raise ValueError(
            f"{path}: expected a file that ends in .csv, .tsv, .txt or .jsonl (also with .gz or "
            f".zst), .parquet or .xlsx. Received: '{path.suffix or path.name}'. Save the table in "
            "one of these forms."
        )
    if path.stat().st_size == 0:
        raise ValueError(
            f"{path}: expected a table with a header line. Received: an empty file (0 bytes). "
            "Write the file again."
        )
    if kind == "excel":
        return forms.memory(open_sheet(path, sheet, names))
    if kind == "text":
        return forms.text(path, encoding, names)
    _refuse_names(path, names)
    return forms.json(path, encoding) if kind == "json" else forms.parquet(path)


def _open_parts(path, encoding, names, forms):
    root, files = files_of(path)
    files = [file for file in files if _kind(file) or is_pattern(path)]
    if not files:
        what = "a folder with tables" if path.is_dir() else "a pattern that names files"
        received = "a folder without" if path.is_dir() else "one that names none"
        raise FileNotFoundError(f"{path}: expected {what}. Received: {received}. Check the path.")
    # of empty files, which jobs write for parts without rows, the header is unknown
    filled = [file for file in files if file.stat().st_size] or files[:1]
    return forms.parts(path, root, filled, lambda file: _open_file(file, encoding, names, forms))


def _kind(path):
    name = Path(path).name.lower()
    if _OF_HIVE.fullmatch(name):
        return "text"
    return next((kind for kind, endings in _SUFFIXES.items() if name.endswith(endings)), "")


def _missing_file_message(path):
    folder = path.parent
    near = ""
    if folder.is_dir():
        tables = sorted(p.name for p in folder.iterdir() if _kind(p))[:6]
        near = f" That folder holds {', '.join(tables)}." if tables else ""
    return f"{path}: expected a file. Received: a path where there is none.{near} Check the path."


class FrameTable:
    """Reads a pandas DataFrame; its index is ignored."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.name = "DataFrame"
        self.columns = list(frame.columns)
        self._frame = frame

    def read(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> tuple[dict[str, Any], CleaningReport]:
        """Reads columns as Series."""
        check_repeated(self.name, self.columns, columns)
        data = {name: self._frame[name].reset_index(drop=True) for name in columns}
        return data, CleaningReport(len(self._frame))


class ParquetTable:
    """Reads a parquet file."""

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            self.columns = pa.parquet.read_schema(path).names
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(self._damaged(error)) from error

    def read(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> tuple[dict[str, Any], CleaningReport]:
        """Reads columns as Arrow arrays, those of `text` as dictionaries of strings."""
        check_repeated(self.name, self.columns, columns)
        try:
            table = pa.parquet.read_table(
                self._path, columns=list(columns), read_dictionary=list(text), partitioning=None
            )
            table.validate(full=True)  # a damaged page can hold numbers of texts that are not there
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(self._damaged(error)) from error
        return {name: table.column(name) for name in columns}, CleaningReport(table.num_rows)

    def _damaged(self, error):
        return (
            f"{self.name}: expected a parquet file. Received: one that cannot be read "
            f"({one_line(error)}). Write it again."
        )


class Forms(NamedTuple):
    """Holds what opens each form of table: a path and an encoding, a path, or a query.

    `memory` takes a table that is in memory already, `parts` what `PartsTable` takes.
    """

    text: Callable[..., Any]
    json: Callable[..., Any]
    parquet: Callable[..., Any]
    query: Callable[..., Any]
    parts: Callable[..., Any]
    memory: Callable[..., Any]


_FORMS = Forms(CsvTable, open_json, ParquetTable, open_query, PartsTable, lambda table: table)


def check_output(path: str | os.PathLike[str]) -> str:
    """Checks a path to write to and gives its kind: `.csv`, `.csv.gz`, `.parquet` or `.pq`.

    Raises:
        ValueError: another ending, a folder, or a place where nothing can be written.
    """
    check_is_here(path)
    path = Path(path)
    kind = next(
        (k for k in (".csv.gz", ".csv", *PARQUET_SUFFIXES) if path.name.lower().endswith(k)), ""
    )
    if not kind:
        raise ValueError(
            f"{path}: expected a file name that ends in .csv, .csv.gz or .parquet. "
            f"Received: '{path.name}'. Choose one of these endings."
        )
    if path.is_dir():
        raise ValueError(f"{path}: expected a file name. Received: a folder. Name a file in it.")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        what = "not writable" if nearest.is_dir() else "a file"
        raise ValueError(
            f"{path}: expected a place in a writable folder. Received: {nearest}, which is {what}. "
            "Choose another place."
        )
    return kind


def write_table(
    frame: pd.DataFrame,
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    *,
    for_people: bool = False,
) -> Path:
    """Writes a DataFrame as csv, csv.gz or parquet, whole or not at all.

    The file is written beside its place and then renamed, so that a reader never sees half of it.

    Args:
        frame: the DataFrame; its index is not written.
        path: ends in .csv, .csv.gz or .parquet; missing folders are made.
        columns: canonical name -> name to write, such as `Interactions.columns`, so that a table
            made from a file with `user,item` also says `user,item`; names absent from it stay.
        for_people: True puts a `'` before texts of a csv file that a spreadsheet would run as
            formulas, such as `=1+1`. Read again, such an id is another one.

    Returns:
        The path.
    """
    kind, path = check_output(path), Path(path)
    frame = frame.rename(columns=dict(columns or {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside:
        if kind in PARQUET_SUFFIXES:
            frame.to_parquet(beside, index=False)
            return path
        if for_people:
            frame, _ = guarded(frame)
        if kind == ".csv":
            write_csv(frame, str(beside))
        else:  # without name and time in the header: the same table gives the same bytes
            with open(beside, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
                write_csv(frame, file)
    return path
