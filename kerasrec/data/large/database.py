"""The database on disk that holds a large log: DuckDB within a limit of memory."""

import contextlib
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from kerasrec.checks import Pace
from kerasrec.data.formats.packed import one_line

log = logging.getLogger(__name__)

#: bytes that Python, the columns that are being read and the writer of parquet take beside DuckDB
_BESIDE = 1_100 << 20
_LEAST = 2 << 30
#: what DuckDB needs for each thread
_A_THREAD = 256 << 20
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def read_memory(text: str) -> int:
    """Reads an amount of memory in bytes.

    Raises:
        ValueError: no such amount, or one that is too small to work in.

    >>> read_memory("4GB"), read_memory("2.5 GiB")
    (4000000000, 2684354560)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?B)\s*", str(text), re.IGNORECASE)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size < 0.9 * _LEAST:
        raise ValueError(
            f"memory: expected an amount of 2GB or more, such as 4GB. Received: {text!r}. DuckDB "
            "gets what is left of it beside Python and the rows that are being read."
        )
    return size


class Progress:
    """Shows how many rows are done: a bar on a terminal, else now and then a line of the log.

    Args:
        what: is being done.
        total: rows; None = nobody knows.
    """

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._done, self._pace = what, 0, Pace(log)
        options: dict[str, Any] = {"unit": " rows", "unit_scale": True, "desc": what}
        self._bar = tqdm(total=total, disable=not sys.stderr.isatty(), **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def go_on(self, rows: int) -> None:
        """Some more rows are done."""
        self._done += rows
        self._bar.update(rows)
        if self._bar.disable:
            self._pace.say("%s: %s rows", self._what, f"{self._done:,}")


@contextlib.contextmanager
def open_database(memory: str, folder: str | Path | None = None) -> Iterator[Any]:
    """Gives a connection to an empty database of DuckDB, which is deleted at the end.

    Args:
        memory: what the whole process may take, such as `"4GB"`.
        folder: where it lies; None = where this machine keeps temporary files.

    Raises:
        ImportError: DuckDB is missing.
        ValueError: see `read_memory`.
        MemoryError: the limit is too small for the log.
        OSError: the disk is full, or cannot be written to.
    """
    room = read_memory(memory) - _BESIDE
    try:
        import duckdb
    except ModuleNotFoundError as missing:
        raise ImportError(
            "a log larger than memory needs duckdb, which is missing. "
            "Run: pip install 'kerasrec[duckdb]'"
        ) from missing
    work = Path(tempfile.mkdtemp(prefix=".kerasrec-log-", dir=folder))
    try:
        with duckdb.connect(str(work / "log.duckdb")) as connection:
            run(connection, f"SET memory_limit = '{room}B'")
            run(connection, f"SET temp_directory = '{_quoted(work / 'spilled')}'")
            run(connection, f"SET threads = {max(1, min(os.cpu_count() or 1, room // _A_THREAD))}")
            run(connection, "SET preserve_insertion_order = false")
            run(connection, "SET autoinstall_known_extensions = false")
            run(connection, "SET enable_progress_bar = false")
            yield connection
    except duckdb.OutOfMemoryException as error:
        if "max_temp_directory_size" in str(error):  # all that the disk has left
            raise OSError(_full(work.parent, error)) from error
        raise MemoryError(
            f"memory: expected enough for this log. Received: {memory}, too little "
            f"({one_line(error)}). Give more with memory= (--memory 8GB)."
        ) from error
    except duckdb.IOException as error:
        raise OSError(_full(work.parent, error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(connection: Any, query: str, values: Sequence[Any] = ()) -> list[tuple]:
    """Runs a statement to its end; `values` stand for its question marks. Gives all its rows."""
    return connection.execute(query, list(values)).fetchall()


def put(connection: Any, table: str, rows: pa.Table) -> None:
    """Adds rows to a table, by the order of the columns."""
    connection.register("new_rows", rows)
    try:
        run(connection, f"INSERT INTO {table} SELECT * FROM new_rows")
    finally:
        connection.unregister("new_rows")


def _quoted(path):
    return str(path).replace("'", "''")


def _full(folder, error):
    return (
        f"{folder}: expected room for the log while it is worked on. Received: a disk that cannot "
        f"take it ({one_line(error)}). Work where there is more: beside --out, or as TMPDIR says."
    )


def kth_values(connection: Any, table: str, ranks: list[int]) -> list[int]:
    """Gives the times at some places of all times in order, without ordering all of them.

    Args:
        connection: of DuckDB.
        table: `events`, or another one with times.
        ranks: places from 0, below the number of events.
    """
    days = run(
        connection,
        f"SELECT timestamp // 86400 AS day, count(*) FROM {table} GROUP BY day ORDER BY day",
    )
    found = []
    for rank in ranks:
        ends = np.cumsum([count for _, count in days])
        place = int(np.searchsorted(ends, rank, side="right"))
        before = int(ends[place]) - days[place][1]
        seconds = run(
            connection,
            f"SELECT timestamp, count(*) FROM {table} WHERE timestamp // 86400 = ? "
            "GROUP BY timestamp ORDER BY timestamp",
            [days[place][0]],
        )
        for second, count in seconds:
            before += count
            if before > rank:
                found.append(int(second))
                break
    return found
