"""Reads csv and parquet files and DataFrames by columns, and writes tables whole.

Every source is a `Table`: its name for messages, its columns in order, and `read`. Nothing here
knows what a column means.
"""

import gzip
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from kerasrec.backend import whole_file
from kerasrec.data.cleaningreport import CleaningReport
from kerasrec.data.csvtable import CsvTable, check_repeated, one_line

#: where a table can come from
Source: TypeAlias = str | os.PathLike[str] | pd.DataFrame
TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
PARQUET_SUFFIXES = (".parquet", ".pq")


class Table(Protocol):
    """A source of columns, whatever its form: what all classes here offer."""

    name: str
    columns: list[str]

    def read(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> tuple[dict[str, Any], CleaningReport]:
        """The asked columns, name -> array or Series, and what was left out."""


def open_table(source: Source, encoding: str = "utf-8") -> Table:
    """Opens the table behind a path or a DataFrame; only the column names are read here.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, another kind of file, an empty or damaged file, a wrong encoding.
    """
    if isinstance(source, pd.DataFrame):
        return FrameTable(source)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            "expected a path or a pandas DataFrame (for interactions also a list of them). "
            f"Received: {type(source).__name__}. Pass one of these."
        )
    path = Path(source)
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if _kind(p))[:6]
        hint = f" It holds {', '.join(inside)}." if inside else ""
        raise ValueError(f"{path}: expected a file. Received: a folder.{hint} Name the file.")
    if not path.exists():
        raise FileNotFoundError(_missing_file_message(path))
    if not _kind(path):
        raise ValueError(
            f"{path}: expected a file that ends in .csv, .csv.gz, .tsv, .txt or .parquet. "
            f"Received: '{path.suffix or path.name}'. Save the table in one of these forms."
        )
    if path.stat().st_size == 0:
        raise ValueError(
            f"{path}: expected a table with a header line. Received: an empty file (0 bytes). "
            "Write the file again."
        )
    return ParquetTable(path) if _kind(path) == "parquet" else CsvTable(path, encoding)


def _kind(path):
    name = Path(path).name.lower()
    if name.endswith(PARQUET_SUFFIXES):
        return "parquet"
    return "text" if name.endswith(TEXT_SUFFIXES) else ""


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


def check_output(path: str | os.PathLike[str]) -> str:
    """Checks a path to write to and gives its kind: `.csv`, `.csv.gz`, `.parquet` or `.pq`.

    Raises:
        ValueError: another ending, a folder, or a place where nothing can be written.
    """
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
    frame: pd.DataFrame, path: str | os.PathLike[str], columns: Mapping[str, str] | None = None
) -> Path:
    """Writes a DataFrame as csv, csv.gz or parquet, whole or not at all.

    The file is written beside its place and then renamed, so that a reader never sees half of it.

    Args:
        frame: the DataFrame; its index is not written.
        path: ends in .csv, .csv.gz or .parquet; missing folders are made.
        columns: canonical name -> name to write, such as `Interactions.columns`, so that a table
            made from a file with `user,item` also says `user,item`; names absent from it stay.

    Returns:
        The path.
    """
    kind, path = check_output(path), Path(path)
    frame = frame.rename(columns=dict(columns or {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside:
        if kind in PARQUET_SUFFIXES:
            frame.to_parquet(beside, index=False)
        elif kind == ".csv":
            frame.to_csv(beside, index=False, encoding="utf-8")
        else:  # without name and time in the header: the same table gives the same bytes
            with open(beside, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
                frame.to_csv(file, index=False, encoding="utf-8")
    return path
