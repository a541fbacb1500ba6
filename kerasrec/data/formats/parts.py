"""Reads many files as one table: a folder, a folder of Hive's, or a pattern such as `log/*.csv`.

The order is that of the paths, numbers in them by their size: part-2 before part-10. Within the
table it is the order of the rows.
"""

import glob
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa

from kerasrec.data.cleaningreport import CleaningReport, DirtyRows, Refusal
from kerasrec.data.columns import name_list

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


class _Table(Protocol):
    name: str
    columns: list[str]

    def read(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> tuple[dict[str, Any], CleaningReport]: ...


def natural_key(path: str | Path) -> list[tuple[int, int, str]]:
    """Sorts paths as people count: numbers within them by their size.

    >>> sorted(["b/part-10", "b/part-2", "a/x"], key=natural_key)
    ['a/x', 'b/part-2', 'b/part-10']
    """
    pieces = re.split(r"(\d+)", str(path).replace(os.sep, "/"))
    return [(0, int(one), one) if one.isdecimal() else (1, 0, one) for one in pieces if one]


def is_pattern(path: str | Path) -> bool:
    """Whether a path that is no file has signs that stand for others: * ? or [."""
    return glob.has_magic(str(path))


def files_of(path: str | Path) -> tuple[Path, list[Path]]:
    """Lists the files of a folder, with those of folders in it, or those that a pattern names.

    Names that begin with `.` or `_` are left out, as Hive and Spark do with their own.

    Returns:
        `(folder that all lie in, files in their order)`.
    """
    if is_pattern(path) and not Path(path).exists():
        fixed = Path(str(path)[: re.search(r"[*?[]", str(path)).start()])  # type: ignore[union-attr]
        root = fixed if str(path).startswith(f"{fixed}{os.sep}") else fixed.parent
        found = [Path(one) for one in glob.glob(str(path), recursive=True)]
    else:
        root, found = Path(path), [Path(path)]
    files = set()
    for one in found:
        inside = [file for file in one.rglob("*") if file.is_file()] if one.is_dir() else [one]
        start = one if one.is_dir() else one.parent
        files |= {
            file for file in inside if not any(p[0] in "._" for p in file.relative_to(start).parts)
        }
    return root, sorted(files, key=lambda file: natural_key(file.relative_to(root)))


class PartsTable:
    """Reads several files with the same columns as one table.

    Folders called `dt=2024-01-01` give a column `dt` of texts.

    Args:
        path: the folder or pattern, for messages.
        root: as `files_of` gives it, with `files`: at least one.
        open_one: opens one of them.
    """

    def __init__(
        self,
        path: str | Path,
        root: Path,
        files: Sequence[Path],
        open_one: Callable[[Path], _Table],
    ) -> None:
        self.name = str(path)
        self._files, self._open = files, open_one
        self._values = [_partition(file.relative_to(root)) for file in files]
        first = open_one(files[0])
        self._first, self._own = first, list(first.columns)
        for file, values in zip(files, self._values, strict=True):
            if values.keys() != self._values[0].keys():
                raise ValueError(
                    f"{path}: expected folders of the same names, {_names(self._values[0])}. "
                    f"Received: {_names(values)} ({file}). Name a folder in which all are alike."
                )
        self._paths = [file.relative_to(root).as_posix() for file in files]
        self._starts = np.zeros(1, np.int64)
        self._given = [name for name in self._values[0] if name not in self._own]
        self.columns = [*self._own, *self._given]

    def read(
        self, columns: Sequence[str], text: Sequence[str] = (), on_bad: str = "error"
    ) -> tuple[dict[str, Any], CleaningReport]:
        """Reads columns of all files, one after the other."""
        own, text = ([name for name in names if name in self._own] for names in (columns, text))
        pieces, reports = self._read(own, text, on_bad)
        # what one file holds as numbers another may hold as texts
        odd = [name for name in own if name not in text and _differ(pieces, name)]
        if odd:
            pieces, reports = self._read(own, [*text, *odd], on_bad)
        data = {name: join_columns([piece[name] for piece in pieces]) for name in own}
        sizes = [report.rows_after for report in reports]
        self._starts = np.cumsum([0, *sizes[:-1]])
        for name in columns:
            if name in self._given and name not in self._own:
                data[name] = constant_column([values[name] for values in self._values], sizes)
        return {name: data[name] for name in columns}, self._report(reports)

    def place(self, row: int) -> str:
        """Says where a row of the last `read` lies: its number within its file."""
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"data row {row - int(self._starts[part]) + 1} of {self._files[part].name}"

    def _read(self, columns, text, on_bad):
        pieces, reports = [], []
        refusals: list[Refusal] = []
        for file in self._files:
            table = self._first if file == self._files[0] else self._open(file)
            self._check_columns(file, table)
            try:
                data, report = table.read(columns, text, on_bad)
            except DirtyRows as error:
                refusals += error.refusals
                continue
            pieces.append(data)
            reports.append(report)
        if refusals:
            raise DirtyRows(refusals)
        return pieces, reports

    def _check_columns(self, file, table):
        if set(table.columns) == set(self._own):
            return
        missing = [name for name in self._own if name not in table.columns]
        more = [name for name in table.columns if name not in self._own]
        raise ValueError(
            f"{file}: expected the columns of {self._files[0]} ({name_list(self._own)}). "
            f"Received: {f'no {name_list(missing)}' if missing else ''}"
            f"{' and ' if missing and more else ''}"
            f"{f'also {name_list(more)}' if more else ''}. Keep other tables in another "
            "folder, or name the files that belong together by a pattern."
        )

    def _report(self, reports):
        files = f"{self._paths[0]} ... {self._paths[-1]}"
        whole = CleaningReport(sum(report.rows_before for report in reports))
        if len(self._files) > 1:
            what = f"files, joined in the order of their paths: {files}"
            whole = whole.add("note", what, len(self._files))
        steps: dict[tuple[str, str], list] = {}
        for file, report in zip(self._files, reports, strict=True):
            for step in report.steps:
                shown = f"{file.name}: {step.example}" if step.example else ""
                told = steps.setdefault((step.step, step.what), [0, 0, shown])
                told[0], told[1] = told[0] + step.count, told[1] + step.removed
        for (step, what), (count, removed, example) in steps.items():
            whole = whole.add(step, what, count, removed=removed, example=example)
        return whole


def _names(values):
    return ", ".join(f"{name}=..." for name in values) or "none with a ="


def _partition(path):
    """Column -> value of the folders in a path, as Hive writes them."""
    values = {}
    for folder in path.parts[:-1]:
        name, equals, value = folder.partition("=")
        if equals and name:
            values[unquote(name)] = "" if value == _NO_VALUE else unquote(value)
    return values


def column_kind(column: Any) -> Any:
    """The type of a piece of a column; None where any other goes with it."""
    if not len(column):
        return None
    if isinstance(column, pd.Series):
        return "Series"
    return None if pa.types.is_null(column.type) else column.type


def _differ(pieces, name):
    return len({kind for piece in pieces if (kind := column_kind(piece[name])) is not None}) > 1


def join_columns(columns: Sequence[Any]) -> Any:
    """The pieces of a column as one: of Arrow where they are of one type, else a Series."""
    columns = [column for column in columns if len(column)] or columns[:1]
    kinds = {kind for column in columns if (kind := column_kind(column)) is not None}
    if len(kinds) > 1 and all(
        isinstance(kind, pa.DataType) and pa.types.is_signed_integer(kind) for kind in kinds
    ):
        columns, kinds = [column.cast(pa.int64()) for column in columns], {pa.int64()}
    if len(kinds) == 1 and "Series" not in kinds:
        kind = kinds.pop()
        chunks = [
            chunk.cast(kind) if chunk.type != kind else chunk
            for column in columns
            for chunk in column.chunks
        ]
        return pa.chunked_array(chunks, kind)
    if not kinds:
        return pa.chunked_array([pa.nulls(sum(map(len, columns)), pa.string())])
    series = [
        column if isinstance(column, pd.Series) else pd.Series(column.to_pylist(), dtype=object)
        for column in columns
    ]
    return pd.concat([one.astype(object) for one in series], ignore_index=True)


def constant_column(values: Sequence[str], sizes: Sequence[int]) -> pa.ChunkedArray:
    """A column of texts that is the same throughout each file."""
    codes = np.repeat(np.arange(len(values), dtype=np.int32), sizes)
    column = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(values, pa.string()))
    unique = column.dictionary.unique()
    if len(unique) < len(values):  # several files in one folder
        places = np.array([unique.index(value).as_py() for value in column.dictionary], np.int32)
        column = pa.DictionaryArray.from_arrays(pa.array(places[codes]), unique)
    return pa.chunked_array([column])
