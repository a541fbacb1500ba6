"""Makes a small, clean log of one that is larger than memory."""

import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from kerasrec.backend import sync_folder, sync_tree
from kerasrec.checks import did_you_mean, is_whole, step
from kerasrec.data.cleaning import clean
from kerasrec.data.cleaningreport import CleaningReport
from kerasrec.data.formats.sqltable import source_name
from kerasrec.data.interactions import Items
from kerasrec.data.large.coded import CodedLog
from kerasrec.data.large.database import Progress, open_database
from kerasrec.data.large.staging import stage
from kerasrec.data.sources import as_items, read_interactions
from kerasrec.data.tables import Source, is_frame

log = logging.getLogger(__name__)
#: rows of a file
_PART = 2_000_000


def condense(
    source: Source | Sequence[Source],
    out: str | os.PathLike[str],
    *,
    last: int | None = 50,
    max_users: int | None = None,
    items: Items | Source | None = None,
    memory: str = "4GB",
    reading: Mapping[str, Any] | None = None,
    cleaning: Mapping[str, Any] | None = None,
) -> CleaningReport:
    """Makes a small, clean log of one that may be larger than memory, as a folder of parquet files.

    The rows are read by the rules of `read_interactions`, cleaned by those of `clean`, and the
    newest events of each user are written in the order of their times (of equal times in the order
    of the log). The folder is a log as any other. It is there as a whole or not at all. Meanwhile
    the log lies in a database of DuckDB beside it, which takes about as much room as the log.

    What is no longer in it: how often items were met in events that were left out, and what
    followed what in them.

    Args:
        source: as for `read_interactions`; also `"duckdb:///shop.duckdb?query=SELECT ..."`.
        out: folder to make.
        last: how many events of a user are kept, the newest; None = all.
        max_users: how many users are kept, drawn by their ids, so that they are the same ones next
            time; None = all.
        items: `Items` or a source of them; events of other items are refused, or left out with
            `cleaning={"unknown_items": "skip"}`.
        memory: what the process may take, about; at least 2GB.
        reading: options of `read_interactions`.
        cleaning: options of `clean`; they come before `last`.

    Returns:
        `CleaningReport`, from the rows of the source to those that were written.

    Raises:
        FileExistsError: there is something at `out`.
        ImportError: DuckDB is missing.
        MemoryError, OSError: `memory` is too small, or the disk.
        FileNotFoundError, ValueError: as `read_interactions` and `clean`; also where the time of
            one part of the log is written in another way than that of another part.

    >>> import tempfile
    >>> import pandas as pd
    >>> from kerasrec.data import read_interactions
    >>> table = pd.DataFrame({"user": list("aaab"), "item": list("xyzx")})
    >>> table["time"] = [400_000_000, 600_000_000, 500_000_000, 700_000_000]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = condense(table, f"{folder}/small", last=2)
    ...     small = read_interactions(f"{folder}/small")
    >>> report.rows_before, small.frame[["user_id", "item_id"]].to_numpy().tolist()
    (4, [['a', 'z'], ['a', 'y'], ['b', 'x']])
    """
    for name, value in (("last", last), ("max_users", max_users)):
        if value is not None and not (is_whole(value) and value >= 1):
            raise ValueError(f"{name}: expected a number from 1, or None. Received: {value!r}.")
    path = Path(out)
    if path.exists():
        raise FileExistsError(
            f"{path}: expected the name of a folder to make. Received: one that is there already. "
            "Take another name, or delete it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    options = _checked("reading", reading, read_interactions)
    rules = _checked("cleaning", cleaning, clean)
    catalogue = None if items is None else as_items(items, titles=False)
    with open_database(memory, path.parent) as connection:
        found = stage(connection, source, **options)
        with step(log, "ids become numbers", only_long=True):
            coded = CodedLog(found)
        with step(log, "cleaning", only_long=True):
            coded.clean(catalogue, **rules)
        if max_users is not None:
            with step(log, "drawing users", only_long=True):
                coded.draw_users(max_users)
        if last is not None:
            with step(log, "the newest %d events of each user", last, only_long=True):
                coded.newest(last)
        keeps_weights = "weight" in coded.columns or bool(options.get("event_weights"))
        told = {
            "from": _named(source),
            "last": last,
            "max_users": max_users,
            "columns": coded.columns,
            "report": coded.report.to_dict(),
        }
        _write(coded, path, told, keeps_weights)
    return coded.report


def _checked(name, given, function):
    """Options of a function as a dict; refuses those that it does not have."""
    given = dict(given or {})
    known = [
        one.name
        for one in signature(function).parameters.values()
        if one.kind is Parameter.KEYWORD_ONLY
    ]
    for option in given:
        if option not in known:
            raise ValueError(f"{name}: unknown option {option}. {did_you_mean(option, known)}")
    return given


def _named(source):
    """Names of sources, without passwords."""
    sources = source if isinstance(source, list | tuple) else [source]
    return ["table" if is_frame(one) else source_name(str(one)) for one in sources]


def _write(coded, path, told, keeps_weights):
    """Writes the log as a folder beside `path` and renames it."""
    beside = path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")
    beside.mkdir()
    try:
        for number, part in enumerate(_parts(coded, keeps_weights)):
            pa.parquet.write_table(part, beside / f"part-{number:05d}.parquet", compression="zstd")
        text = json.dumps(told, ensure_ascii=False, indent=1)
        (beside / "_condensed.json").write_text(text, encoding="utf-8")
        sync_tree(beside)
        os.rename(beside, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _parts(coded: CodedLog, keeps_weights: bool) -> Iterator[pa.Table]:
    """The log in the order of its times, `_PART` rows each; columns that the source lacks are not
    in it.
    """
    others = [name for name in ("value",) if name in coded.columns]
    others += ["weight"] if keeps_weights else []
    roles = {"user_id": "user_code", "item_id": "item_code"}
    roles |= {"event": "event_code"} if "event" in coded.columns else {}
    asked = ", ".join([*roles.values(), "timestamp", *others])
    names = coded.connection.cursor()  # beside the one that is being read
    reader = coded.connection.sql(
        f"SELECT {asked} FROM coded ORDER BY timestamp, nanos, row"
    ).to_arrow_reader(_PART)
    with Progress("writing", coded.report.rows_after) as progress:
        for batch in reader:
            tables = {"user_id": "users", "item_id": "items", "event": "kinds"}
            columns = {
                role: _named_codes(names, tables[role], batch.column(code))
                for role, code in roles.items()
            }
            columns["timestamp"] = batch.column("timestamp")
            for name in others:
                values = batch.column(name).to_numpy()
                columns[name] = pa.array(values, from_pandas=True)  # NaN = there is none
            order = ["user_id", "item_id", "timestamp", "event", *others]
            yield pa.table({name: columns[name] for name in order if name in columns})
            progress.go_on(batch.num_rows)


def _named_codes(connection, table, codes):
    """The texts of codes, as an Arrow dictionary."""
    distinct, places = np.unique(codes.to_numpy(), return_inverse=True)
    connection.register("asked", pa.table({"code": distinct}))
    found = connection.sql(f"SELECT name FROM {table} SEMI JOIN asked USING (code) ORDER BY code")
    names = found.to_arrow_table().column("name").combine_chunks()
    connection.unregister("asked")
    return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32)), names)
