"""Reads what a replay needs: the log, and the requests that are asked of it."""

import logging
from typing import Any, NamedTuple

import numpy as np

from kerasrec.data.columns import Naming, split_naming
from kerasrec.data.interactions import Interactions
from kerasrec.data.sources import read_interactions
from kerasrec.data.tables import Source, open_table

log = logging.getLogger(__name__)


class Requests(NamedTuple):
    """Holds who asks when. names: object str `(n,)`.  users: object str.  times: UTC seconds."""

    names: np.ndarray
    users: np.ndarray
    times: np.ndarray


def read_log(
    source: Interactions | Source,
    *,
    columns: Naming | None = None,
    encoding: str = "utf-8",
    **reading: Any,
) -> Interactions:
    """Reads the log of a replay: its users stand in `who`, or in a column known by its name.

    Args:
        source: `Interactions`, or a table.
        columns, encoding, reading: as for `read_interactions`.

    Raises:
        ValueError: no times.
    """
    if isinstance(source, Interactions):
        found = source
    else:
        mapping, names = split_naming(columns)
        if "who" in open_table(source, encoding, names=names).columns and names is None:
            columns = {"user_id": "who", **(mapping or {})}
        found = read_interactions(source, columns=columns, encoding=encoding, **reading)
    if not found.has_time:
        raise ValueError("replay needs times. Received: a log without them.")
    return found


def read_requests(requests: Source, *, encoding: str = "utf-8", **reading: Any) -> Requests:
    """Reads requests: a table `user, who, timestamp`.

    Args:
        requests: the table.
        encoding, reading: `encoding`, `on_bad`, `timezone` and `max_ahead` of `read_interactions`.

    Raises:
        ValueError: no such columns, no rows, bad times, or two requests of one name.
    """
    table = open_table(requests, encoding)
    missing = [name for name in ("user", "who", "timestamp") if name not in table.columns]
    if missing:
        raise ValueError(
            f"{table.name}: requests need the columns user (the name of the request), who (its "
            f"user) and timestamp. Received: no {missing[0]!r}, but {', '.join(table.columns)}."
        )
    roles = {"item_id": "user", "user_id": "who", "timestamp": "timestamp"}
    unread = {"event": None, "value": None}
    read = read_interactions(requests, columns={**roles, **unread}, encoding=encoding, **reading)
    if read.report.rows_before != read.report.rows_after:
        log.warning("%s", read.report)
    found = read.frame
    names, users = (found[name].astype(object).to_numpy() for name in ("item_id", "user_id"))
    twice = found["item_id"].duplicated()
    if twice.any():
        raise ValueError(
            f"{table.name}: every request needs a name of its own in the column user. Received: "
            f"{names[twice.argmax()]!r} twice."
        )
    return Requests(names, users, found["timestamp"].to_numpy())
