"""Counts what a feedback store holds, and the clicks on lists by version and position."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from kerasrec.data.times.forms import LAST_SECOND
from kerasrec.feedback.database import ACTION, ERASURES, EVENTS, sa

#: events that answer a served list
ANSWERS = ("click", "view", "cart", "purchase")
_COLUMNS = EVENTS.c
_MOST_UNKNOWN = 10  # items outside the catalogue that are named


class Stats(NamedTuple):
    """Holds the counts of a store.

    `events` counts all rows, impressions too; `types` is a dict event -> rows; `first` and `last`
    are UTC seconds, None in an empty store. `versions` has the columns `model, version,
    impressions, clicked, rate`, `positions` has `position, impressions, clicked, rate`: an
    impression is clicked when an event of `ANSWERS` has its request id and item. `unmatched`
    counts answers whose request id and item no impression has. `erasures` counts users forgotten.
    `ahead` counts the events that lie further ahead of the clock than any may, `ahead_first` is the
    earliest of these, UTC seconds (the last is `last`). `unknown` is about events, not impressions,
    on items outside a catalogue: a dict with their number `events`, that of the items `items`, and
    `most`, the ten items with most of them and their numbers; None without a catalogue.
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
    ahead: int = 0
    ahead_first: int | None = None
    unknown: dict[str, Any] | None = None


def read_stats(connection: sa.Connection, catalogue: Iterable[str] | None, latest: float) -> Stats:
    """Counts a whole store; reads all of it once (seconds for millions of events).

    Args:
        connection: of the store.
        catalogue: ids of items; None = unknown.
        latest: UTC seconds, the last moment that an event may have.
    """
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
    too_late = sa.select(sa.func.count(), sa.func.min(_COLUMNS.timestamp))
    too_late = too_late.where(_COLUMNS.timestamp > min(latest, LAST_SECOND))
    ahead, ahead_first = connection.execute(too_late).one()
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
        ahead,
        ahead_first,
        None if catalogue is None else _unknown(connection, catalogue),
    )


def _unknown(connection, catalogue):
    """Events that people caused, on items that a catalogue lacks."""
    known = set(catalogue)
    counted = sa.select(_COLUMNS.item_id, sa.func.count()).where(ACTION).group_by(_COLUMNS.item_id)
    found = {item: count for item, count in connection.execute(counted) if item not in known}
    most = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_UNKNOWN]
    return {"events": sum(found.values()), "items": len(found), "most": dict(most)}


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
