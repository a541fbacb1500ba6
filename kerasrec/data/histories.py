"""Turns interactions into histories and training batches: padded integer arrays.

Item index 0 is padding and real items start at 1. Histories are padded on the left, so the last
slot always holds the newest event.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kerasrec.data.events import EVENT_CODES, PASSIVE_EVENTS
from kerasrec.data.interactions import Interactions, Items
from kerasrec.data.matching import match_ids

PADDING = 0
#: bucket b of a time gap holds 2**(b-1) - 1 .. 2**b - 2 seconds; the last one all longer gaps
NUM_GAP_BUCKETS = 28
_POOL = 16  # batches whose windows are sorted by length together


class Histories(NamedTuple):
    """Holds what each user did, oldest first; user u owns the events `offsets[u]:offsets[u+1]`.

    user_ids: object str, `(num_users,)`.  offsets: int64, `(num_users + 1,)`.
    items: int32 item index, `(num_events,)`.  timestamps: int64 UTC seconds, 0 = unknown,
    `(num_events,)`.  events: int16 code of `EVENT_CODES`.  values: float32 event weight.
    """

    user_ids: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    events: np.ndarray
    values: np.ndarray

    @property
    def num_users(self) -> int:
        """Number of rows."""
        return len(self.user_ids)

    @property
    def lengths(self) -> np.ndarray:
        """Events per user, int64, `(num_users,)`."""
        return np.diff(self.offsets)

    @property
    def chosen(self) -> np.ndarray:
        """Marks the events that the user wanted: bool `(num_events,)`. Only these are predicted.

        `PASSIVE_EVENTS` and events of weight 0 or less are not among them.
        """
        passive = [EVENT_CODES[name] for name in PASSIVE_EVENTS]
        return (self.values > 0) & ~np.isin(self.events, passive)

    def __repr__(self):
        return f"Histories({len(self.items):,} events, {self.num_users:,} users)"

    def select(self, rows: ArrayLike) -> "Histories":
        """Gives the histories of some rows, in the order of `rows`.

        Raises:
            IndexError: a row number below 0 or from `num_users` on.
        """
        rows = np.asarray(rows, np.int64)
        outside = rows[(rows < 0) | (rows >= self.num_users)]
        if len(outside):
            raise IndexError(
                f"rows must be in 0..num_users - 1 ({self.num_users} users). Received: "
                f"{outside[0]}. For users without a history take of_users(user_ids)."
            )
        return self._rows(rows)

    def _rows(self, rows):
        """As `select`; a row number of -1 gives an empty history under some user's id."""
        known = rows >= 0
        starts = np.where(known, self.offsets[rows], 0)
        lengths = np.where(known, self.lengths[rows] if self.num_users else 0, 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        take = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        ids = self.user_ids[rows] if self.num_users else np.full(len(rows), "", object)
        return Histories(ids, offsets, *(column[take] for column in self[2:]))

    def where(self, keep: np.ndarray) -> "Histories":
        """Keeps the users, and of their events those in the bool mask `keep (num_events,)`."""
        offsets = np.concatenate([[0], np.cumsum(keep)])[self.offsets]
        return Histories(self.user_ids, offsets, *(column[keep] for column in self[2:]))

    def timeless(self) -> "Histories":
        """Removes the times: all become 0, unknown."""
        return self._replace(timestamps=np.zeros_like(self.timestamps))

    def of_users(self, user_ids: ArrayLike) -> "Histories":
        """Gives the histories of `user_ids`, in this order; an unknown user gets an empty one."""
        import pandas as pd

        rows = pd.Index(self.user_ids).get_indexer(user_ids)
        return self._rows(rows)._replace(user_ids=np.asarray(user_ids, object))


def before(histories: Histories, places: ArrayLike) -> Histories:
    """Gives for each event the history of its user before it; the place becomes the user id.

    Args:
        histories: `Histories`.
        places: of the events, `(n,)`.

    >>> one = Histories(np.array(["u"], object), np.array([0, 3]), np.array([5, 6, 7]),
    ...                 np.zeros(3), np.zeros(3), np.ones(3))
    >>> before(one, np.array([2, 0])).items.tolist(), before(one, np.array([2])).user_ids.tolist()
    ([5, 6], ['2'])
    """
    places = np.asarray(places)
    row = np.searchsorted(histories.offsets, places, side="right") - 1
    return up_to(histories, row, places, places.astype(str).astype(object))


def up_to(histories: Histories, rows: np.ndarray, ends: np.ndarray, names: np.ndarray) -> Histories:
    """Gives the events of some rows before a place each.

    Args:
        histories: `Histories`.
        rows: int `(n,)`; -1 = a user without a history.
        ends: int `(n,)`, the place in `histories` behind the last event that counts.
        names: object `(n,)`, the user ids of the result.

    Returns:
        `Histories` of `n` users.
    """
    starts = np.where(rows >= 0, histories.offsets[rows], 0)
    lengths = np.where(rows >= 0, ends - starts, 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    take = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Histories(names, offsets, *(column[take] for column in histories[2:]))


def first_of_pairs(histories: Histories) -> np.ndarray:
    """Marks the events with which a user met an item for the first time: bool `(num_events,)`.

    >>> one = Histories(np.array(["u"], object), np.array([0, 3]), np.array([5, 6, 5]),
    ...                 np.zeros(3), np.zeros(3), np.ones(3))
    >>> first_of_pairs(one).tolist()
    [True, True, False]
    """
    row = np.repeat(np.arange(histories.num_users), histories.lengths)
    pair = row * (int(histories.items.max(initial=0)) + 1) + histories.items
    is_first = np.zeros(len(pair), bool)
    is_first[np.unique(pair, return_index=True)[1]] = True
    return is_first


def make_histories(interactions: Interactions, items: Items) -> Histories:
    """Groups interactions by user and sorts each user's events by time; ties keep file order.

    Args:
        interactions: `Interactions`.
        items: `Items`; decides the item index (row + 1).

    Returns:
        `Histories`, users in the order of the interactions' user categories.

    Raises:
        ValueError: an interaction names an item that is not in the catalogue.
    """
    frame = interactions.frame
    item_codes = frame["item_id"].cat.codes.to_numpy()
    item_index = items.index_of(frame["item_id"].cat.categories.astype(object).to_numpy())
    item_of_event = item_index[item_codes].astype(np.int32)
    if (item_of_event == PADDING).any():
        unknown = frame["item_id"][item_of_event == PADDING]
        match = match_ids(interactions, items)
        raise ValueError(
            f"Every interaction needs an item of the catalogue: {len(unknown)} interactions name "
            f"{unknown.nunique()} unknown items, the first is {unknown.iloc[0]!r}. Add them to the "
            "items table or drop them with clean(interactions, items, unknown_items='skip')."
            + (f" {match.sentence()}" if match.is_poor else "")
        )
    users = frame["user_id"].cat.codes.to_numpy().astype(np.int32)
    times = frame["timestamp"].to_numpy()
    order = _order(users, times)
    if order is not None:
        users, times, item_of_event = users[order], times[order], item_of_event[order]
    counts = np.bincount(users, minlength=len(frame["user_id"].cat.categories))
    present = np.flatnonzero(counts)
    offsets = np.concatenate([[0], np.cumsum(counts[present])]).astype(np.int64)
    event_names = frame["event"].cat.categories
    event_code = np.array([EVENT_CODES.get(name, 0) for name in event_names], np.int16)
    events = event_code[frame["event"].cat.codes.to_numpy()]
    values = frame["weight"].to_numpy(np.float32)
    if order is not None:
        events, values = events[order], values[order]
    if not interactions.has_time:
        times = np.zeros_like(times)
    ids = frame["user_id"].cat.categories.astype(object).to_numpy()[present]
    return Histories(ids, offsets, item_of_event, times, events, values)


def history_rows(
    histories: Iterable[Iterable[Any]] | Mapping[Any, Iterable[Any]],
) -> tuple[list, list[list]]:
    """Reads histories as callers write them, lists of item ids, and refuses mistakes.

    Args:
        histories: list of histories (the users are then called 0, 1, ...), or a dict user id ->
            history; a history is an iterable of item ids, oldest first.

    Returns:
        `(user_ids, rows)`, two lists; a row is a list.

    Raises:
        ValueError: one history where a list of them is expected.

    >>> history_rows({"u": ("a", "b")})
    (['u'], [['a', 'b']])
    """
    by_user = histories if isinstance(histories, dict) else dict(enumerate(histories))
    wrong = [
        row for row in by_user.values() if isinstance(row, str) or not hasattr(row, "__iter__")
    ]
    if wrong:
        raise ValueError(
            "histories must be a list of histories, each a list of item ids. Received: a list of "
            f"{type(wrong[0]).__name__}. For one user write recommend([history]); for a table, "
            "recommend(read_interactions(table))."
        )
    return list(by_user), [list(row) for row in by_user.values()]


def _order(users, times):
    """Stable order by user, then time; None when the rows are in that order already."""
    same = users[1:] == users[:-1]
    if ((users[1:] > users[:-1]) | (same & (times[1:] >= times[:-1]))).all():
        return None
    return np.lexsort((times, users))


def gap_buckets(timestamps: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Puts the seconds since the user's previous event into logarithmic buckets.

    Args:
        timestamps: int64 seconds, `(num_events,)`, 0 = unknown.
        offsets: int64, `(num_users + 1,)`.

    Returns:
        int32, `(num_events,)`: 0 for a first event or an unknown time, else
        `1 + floor(log2(gap + 1))`, at most `NUM_GAP_BUCKETS`.

    >>> gap_buckets(np.array([100, 100, 101, 108, 0]), np.array([0, 5])).tolist()
    [0, 1, 2, 4, 0]
    """
    buckets = np.zeros(len(timestamps), np.int32)
    gap = np.maximum(np.diff(timestamps), 0)
    known = (timestamps[1:] > 0) & (timestamps[:-1] > 0)
    buckets[1:] = np.where(known, np.minimum(1 + np.log2(gap + 1), NUM_GAP_BUCKETS), 0)
    starts = offsets[:-1]
    buckets[starts[starts < len(buckets)]] = 0
    return buckets


def pad_left(values: np.ndarray, starts: ArrayLike, lengths: ArrayLike, width: int) -> np.ndarray:
    """Makes a left-padded matrix of the rows `values[start:start+length]`.

    Args:
        values: `(num_events,)`.  starts, lengths: int64, `(num_rows,)`.  width: int.

    Returns:
        `(num_rows, width)` of the dtype of `values`; of a longer row the last `width` stay.

    >>> pad_left(np.array([1, 2, 3]), np.array([0, 1]), np.array([1, 2]), 3).tolist()
    [[0, 0, 1], [0, 2, 3]]
    """
    starts, lengths = np.asarray(starts), np.asarray(lengths)
    column = np.arange(width) - width  # (width,), -1 is the newest
    source = (starts + lengths)[:, None] + column
    valid = column >= -lengths[:, None]
    if not len(values):
        return np.zeros((len(starts), width), values.dtype)
    return np.where(valid, values[np.where(valid, source, 0)], values.dtype.type(0))


def model_inputs(histories: Histories, max_length: int) -> dict[str, np.ndarray]:
    """Makes the inputs of the interest part from the newest `max_length` events of every history.

    Returns:
        dict of int32 `(num_users, width)`: `history`, `time_gap`, `event`; width is the longest
        history, at least 1 and at most `max_length`.
    """
    width = int(np.clip(histories.lengths.max(initial=1), 1, max_length))
    gaps = gap_buckets(histories.timestamps, histories.offsets)
    place = (histories.offsets[:-1], histories.lengths, width)
    return {
        "history": pad_left(histories.items, *place),
        "time_gap": pad_left(gaps, *place),
        "event": pad_left(histories.events.astype(np.int32), *place),
    }


class TrainingWindows(NamedTuple):
    """Holds windows over histories: every event but a user's first is the target of one position.

    items, gaps, events, targets: int32, `(num_events,)`.  starts, lengths: int64,
    `(num_windows,)`, of the inputs; the target of an input is one event later.
    """

    items: np.ndarray
    gaps: np.ndarray
    events: np.ndarray
    targets: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def make_windows(histories: Histories, max_length: int) -> TrainingWindows:
    """Cuts histories into windows of at most `max_length` inputs; the newest window is full.

    Events a user did not choose (`Histories.chosen`) stay in the inputs and are never targets.
    """
    count = np.maximum(histories.lengths - 1, 0)  # targets per user
    windows = -(-count // max_length)
    row = np.repeat(np.arange(len(count)), windows)
    number = np.arange(len(row)) - np.repeat(np.cumsum(windows) - windows, windows)  # from the end
    last = histories.offsets[row + 1] - 1 - number * max_length  # behind the last input
    start = np.maximum(last - max_length, histories.offsets[row])
    targets = np.where(histories.chosen, histories.items, PADDING)
    gaps = gap_buckets(histories.timestamps, histories.offsets)
    events = histories.events.astype(np.int32)
    targets = targets.astype(np.int32)
    return TrainingWindows(histories.items, gaps, events, targets, start, last - start)


def training_batches(
    windows: TrainingWindows, *, batch_size: int, seed: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Yields shuffled training batches, each of windows of similar lengths.

    The shuffled windows are sorted by length within pools of `_POOL` batches: little is padding,
    and which windows come together still differs from epoch to epoch.

    Args:
        windows: `TrainingWindows`.
        batch_size: windows per batch.
        seed: anything `numpy.random.default_rng` takes; the same seed gives the same batches.

    Yields:
        dict of int32 `(batch, width)`: `history`, `time_gap`, `event`, `target` (0 = no target);
        the width is that of the longest window.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(windows.lengths))
    plan = []
    for start in range(0, len(shuffled), _POOL * batch_size):
        pool = shuffled[start : start + _POOL * batch_size]
        pool = pool[np.argsort(windows.lengths[pool], kind="stable")]
        plan += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    for place in rng.permutation(len(plan)):
        rows = plan[place]
        yield _batch(windows, rows, int(windows.lengths[rows].max()))


def num_batches(windows: TrainingWindows, *, batch_size: int) -> int:
    """Counts the batches that `training_batches` yields."""
    return -(-len(windows.lengths) // batch_size)


def _batch(windows, rows, width):
    place = (windows.starts[rows], windows.lengths[rows], width)
    return {
        "history": pad_left(windows.items, *place),
        "time_gap": pad_left(windows.gaps, *place),
        "event": pad_left(windows.events, *place),
        "target": pad_left(windows.targets[1:], *place),
    }
