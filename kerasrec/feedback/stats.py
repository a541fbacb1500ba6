"""Counts what a feedback store holds, and the clicks on lists by version and position."""

from typing import NamedTuple

import pandas as pd

from kerasrec.feedback.database import ERASURES, EVENTS, sa

#: events that answer a served list
ANSWERS = ("click", "view", "cart", "purchase")
_COLUMNS = EVENTS.c


class Stats(NamedTuple):
    """Holds the counts of a store.

    `events` counts all rows, impressions too; `types` is a dict event -> rows; `first` and `last`
    are UTC seconds, None in an empty store. `versions` has the columns `model, version,
    impressions, clicked, rate`, `positions` has `position, impressions, clicked, rate`: an
    impression is clicked when an event of `ANSWERS` has its request id and item. `unmatched`
    counts answers whose request id and item no impression has. `erasures` counts users forgotten.
    """

    events: int
    users: int
    items: int
    types: dict
    first: int | None
    last: int | None
    versions: pd.DataFrame
    positions: pd.DataFrame
    unmatched: int
    erasures: int


def read_stats(connection: sa.Connection) -> Stats:
    """Counts a whole store; reads all of it once (seconds for millions of events)."""
    counted = sa.select(_COLUMNS.event, sa.func.count()).group_by(_COLUMNS.event)
    types = {event: count for event, count in connection.execute(counted)}
    users, items, first, last = connection.execute(
        sa.select(
            sa.func.count(sa.distinct(_COLUMNS.user_id)),
            sa.func.count(sa.distinct(_COLUMNS.item_id)),
            sa.func.min(_COLUMNS.timestamp),
            sa.func.max(_COLUMNS.timestamp),
        )
    ).one()
    shown = _impressions(connection)
    return Stats(
        sum(types.values()),
        users,
        items,
        dict(sorted(types.items(), key=lambda pair: -pair[1])),
        first,
        last,
        _rates(shown, ["model", "version"]),
        _rates(shown, ["position"]),
        connection.execute(_unmatched()).scalar_one(),
        connection.execute(sa.select(sa.func.count()).select_from(ERASURES)).scalar_one(),
    )


def _impressions(connection):
    """Impressions and how many of them were clicked, by model, version and position."""
    keys = _COLUMNS.model, _COLUMNS.version, _COLUMNS.position
    answer = EVENTS.alias("answer").c
    is_answered = sa.exists().where(
        answer.request_id == _COLUMNS.request_id,
        answer.item_id == _COLUMNS.item_id,
        answer.event.in_(ANSWERS),
    )
    clicked = sa.func.sum(sa.case((is_answered, 1), else_=0))
    asked = (
        sa.select(*keys, sa.func.count(), clicked)
        .where(_COLUMNS.event == "impression")
        .group_by(*keys)
    )
    names = ["model", "version", "position", "impressions", "clicked"]
    return pd.DataFrame(connection.execute(asked).all(), columns=names)


def _unmatched():
    shown = EVENTS.alias("shown").c
    is_shown = sa.exists().where(
        shown.request_id == _COLUMNS.request_id,
        shown.item_id == _COLUMNS.item_id,
        shown.event == "impression",
    )
    return (
        sa.select(sa.func.count())
        .select_from(EVENTS)
        .where(_COLUMNS.request_id.is_not(None), _COLUMNS.event.in_(ANSWERS), ~is_shown)
    )


def _rates(shown, keys):
    """Counts by some of the keys, with the rate clicked / impressions."""
    counts = shown.groupby(keys, dropna=False, as_index=False)[["impressions", "clicked"]].sum()
    for name in {"version", "position"} & set(keys):
        counts[name] = counts[name].astype("Int64")
    counts[["impressions", "clicked"]] = counts[["impressions", "clicked"]].astype("int64")
    counts["rate"] = counts["clicked"] / counts["impressions"]
    return counts
