"""Keeps the newest events of a feedback store in memory, to fit tables on.

Every event is read once. Users and items are kept as hashes: 30 bytes an event and no names.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from kerasrec.data.events import EVENT_CODES
from kerasrec.data.histories import Histories

log = logging.getLogger(__name__)
#: events that are kept at most
MOST_EVENTS = 2_000_000
#: seq numbers of one read; between two the requests of a server have the interpreter
AT_ONCE = 5_000


class RecentLog:
    """Keeps the newest events of a store, in the order in which they were stored, no impressions.

    Args:
        most: number of events that are kept at most.
    """

    def __init__(self, most: int = MOST_EVENTS) -> None:
        self._most = most
        self._erasures: list[Any] = []
        self._clear()

    def __len__(self):
        return len(self._columns[0])

    def _clear(self):
        kinds = (np.uint64, np.uint64, np.int64, np.int16, np.float32)
        self._columns = [np.zeros(0, kind) for kind in kinds]
        self._seq = self._count = 0

    @property
    def seq(self) -> int:
        """Number of the newest event that was read; 0 = none yet."""
        return self._seq

    @property
    def state(self) -> tuple[int, int]:
        """Changes when the events change: two equal states mean that nothing is new."""
        return len(self._erasures), self._count

    def erased_since(self, time: int) -> int:
        """Counts the events of users who were forgotten after a time, UTC seconds."""
        return sum(erasure.rows for erasure in self._erasures if erasure.timestamp > time)

    def read(self, store: Any, is_over: Callable[[], bool] = lambda: False) -> None:
        """Reads the new events; after an erasure all events again, without the forgotten user.

        Args:
            store: `FeedbackStore`.
            is_over: function that says whether to give up.
        """
        erasures = store.erasures()
        if len(erasures) != len(self._erasures):
            self._clear()
            self._erasures = erasures
        last = until = store.last_seq()
        parts, count = [], 0
        while until > self._seq and count < self._most:  # backwards, as far as events are kept
            if is_over():
                return
            began, after = time.perf_counter(), max(until - AT_ONCE, self._seq)
            parts.append(_columns(store.interactions(after=after, until=until, order="seq").frame))
            count += len(parts[-1][0])
            until = after
            pause(began)
        self._seq = last
        if count:
            whole = zip(self._columns, *reversed(parts), strict=True)
            self._columns = [np.concatenate(column)[-self._most :] for column in whole]
            self._count += count

    def histories(self, item_ids: ArrayLike) -> Histories:
        """Makes `Histories` of the events of some items.

        Args:
            item_ids: of a catalogue, in its order.

        Returns:
            `Histories`; its `user_ids` are hashes. Within a second a user's events are in the order
            in which they were stored.
        """
        return self._made(item_ids, np.arange(len(self)))[0]

    def newer(self, item_ids: ArrayLike, count: int) -> tuple[Histories, np.ndarray]:
        """Makes `Histories` of the users who did something since the log held `count` events.

        Args:
            item_ids: as for `histories`.
            count: second number of an earlier `state`.

        Returns:
            The histories, and bool `(num_events,)`: which events came since.
        """
        is_new = np.zeros(len(self), bool)
        is_new[len(self) - min(self._count - count, len(self)) :] = True
        users = self._columns[0]
        rows = np.flatnonzero(np.isin(users, np.unique(users[is_new])))
        histories, rows = self._made(item_ids, rows)
        return histories, is_new[rows]

    def _made(self, item_ids, rows):
        """`Histories` of the events in some rows, ascending, and the row of each of its events."""
        users, items, times, events, weights = (column[rows] for column in self._columns)
        index = pd.Index(hashed(item_ids)).get_indexer(items) + 1
        order = np.lexsort((times, users))
        order = order[index[order] > 0]
        users = users[order]
        starts = np.flatnonzero(np.diff(users, prepend=users[:1] + np.uint64(1)))
        histories = Histories(
            users[starts],
            np.append(starts, len(users)).astype(np.int64),
            index[order].astype(np.int32),
            times[order],
            events[order],
            weights[order],
        )
        return histories, rows[order]


def told_of(store: Any, manifest: Any) -> Any:
    """Gives what a version says of a store, the `update` of its manifest; None for another store.

    A store that was restored from a copy has the id of the lost one, but other events under the
    numbers after the copy: it is another one, and the log says so.
    """
    told = manifest.update
    if told is None or told.store != store.id:
        return None
    last, erasures, known = store.last_seq(), len(store.erasures()), told.erasures or 0
    # after an erasure the last number may be a smaller one
    if erasures < known or (erasures == known and (told.seq or 0) > last):
        log.warning(
            "the store is behind what the version learned from it, as after a restore: the times "
            "of events decide what is new",
            extra={"version": manifest.version, "seq": told.seq, "last": last},
        )
        return None
    return told


def hashed(ids: ArrayLike) -> np.ndarray:
    """Hashes ids to uint64; among a million ids two agree once in ten million stores."""
    return pd.util.hash_array(np.asarray(ids, object), categorize=False)


def pause(began: float) -> None:
    """Sleeps as long as the work since `began` has taken, half a second at most."""
    time.sleep(min(time.perf_counter() - began, 0.5))


def _columns(frame):
    ids = []
    for name in ("user_id", "item_id"):
        column = frame[name].cat
        ids.append(hashed(column.categories)[column.codes.to_numpy()])
    codes = np.array([EVENT_CODES.get(name, 0) for name in frame["event"].cat.categories], np.int16)
    events = codes[frame["event"].cat.codes.to_numpy()]
    return [*ids, frame["timestamp"].to_numpy(), events, frame["weight"].to_numpy(np.float32)]
