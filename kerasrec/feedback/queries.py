"""Queries of stored events: which rows a reader asks for, and the table that is made of them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from kerasrec.data.events import event_table, look_up_events, unknown_event_message
from kerasrec.feedback.database import EVENTS, sa

COLUMNS = EVENTS.c


class StoredEvent(NamedTuple):
    """Holds an event as it is stored; `timestamp` is UTC seconds, a missing value is None."""

    seq: int
    event_id: str
    user_id: str
    item_id: str
    event: str
    value: float | None
    timestamp: int
    request_id: str | None
    model: str | None
    version: int | None
    position: int | None


def select_events(
    attribute: bool,
    events: Sequence[str] | None,
    users: Sequence[str] | None,
    *,
    until: int | None,
    since: int | None,
    before: int | None,
) -> sa.Select:
    """Makes the query of events within limits, without an order; see `FeedbackStore.read`."""
    fields: list[Any] = [COLUMNS[name] for name in StoredEvent._fields]
    source: Any = EVENTS
    if attribute:
        shown, first = EVENTS.alias("shown"), EVENTS.alias("first")
        of_list = (
            sa.select(sa.func.min(first.c.seq))
            .where(first.c.request_id == COLUMNS.request_id, first.c.item_id == COLUMNS.item_id)
            .where(first.c.event == "impression")
            .scalar_subquery()
        )
        is_asked = COLUMNS.request_id.is_not(None) & (COLUMNS.event != "impression")
        source = EVENTS.outerjoin(shown, is_asked & (shown.c.seq == of_list))
        said = StoredEvent._fields[:-3]
        fields = [COLUMNS[name] for name in said] + [
            sa.func.coalesce(COLUMNS[name], shown.c[name]).label(name)
            for name in ("model", "version", "position")
        ]
    query = sa.select(*fields).select_from(source)
    if until is not None:
        query = query.where(COLUMNS.seq <= until)
    if since is not None:
        query = query.where(COLUMNS.timestamp >= since)
    if before is not None:
        query = query.where(COLUMNS.timestamp < before)
    if events is not None:
        query = query.where(COLUMNS.event.in_(events))
    if users is not None:
        query = query.where(COLUMNS.user_id.in_(users))
    return query


def event_names(events: str | Iterable[str] | None) -> list[str] | None:
    """Gives the canonical names of events that a caller asks for; None = all.

    Raises:
        ValueError: an unknown name.
    """
    if events is None:
        return None
    table = event_table()
    names = [events] if isinstance(events, str) else list(events)
    found = []
    for name, event in zip(names, look_up_events(names, table), strict=True):
        if event is None:
            expected, received, _ = unknown_event_message(name, table)
            raise ValueError(f"events: expected {expected}. Received: {received}. Correct it.")
        found.append(event.name)
    return found


def as_frame(rows: Iterable[Any]) -> pd.DataFrame:
    """Makes the table of rows with the fields of `StoredEvent`."""
    frame = pd.DataFrame(rows, columns=list(StoredEvent._fields), dtype=object)
    kinds = dict.fromkeys(("seq", "timestamp"), "int64") | {"value": "float64"}
    kinds |= dict.fromkeys(("version", "position"), "Int64")
    return frame.astype(kinds)
