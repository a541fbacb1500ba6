"""Counts what follows what, event by event: the tables of `FOLLOWING` without fitting anew.

A table that is fitted anew costs a pass over the whole log. One more event changes a few counts
only: those of the item and of what its user took before. So a server and a choice of weights know
what follows what up to the event before. No TensorFlow here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kerasrec.data.histories import Histories
from kerasrec.fusion import neighbours
from kerasrec.fusion.fusion import (
    FOLLOWING,
    damping_of,
    direct_counts,
    follows_table,
    transitions_table,
)
from kerasrec.fusion.neighbours import NeighbourTable

#: tables that grow are fitted whole again when the log has grown by so much: until then the damping
#: of the rows that did not change is a little old
GROWN = 1.02
#: an event of a history that counts less than this, beside the newest one, is not looked at
_LEAST = 1e-4


class Rows(NamedTuple):
    """Holds some rows of a neighbour table.

    items: int64 `(n,)`, item index, ascending.  neighbours: int32 `(n, width)`, 0 = none.  weights:
    float32 `(n, width)`, 0 where there is none.
    """

    items: np.ndarray
    neighbours: np.ndarray
    weights: np.ndarray


class Following:
    """Knows how often each item followed each other one, up to the newest event.

    Args:
        histories: `Histories` of the log so far; only events that users chose count.
        num_items: size of the catalogue.
        chosen: as for `fusion.fit_again`; it names the damping of "transitions".
    """

    def __init__(
        self, histories: Histories, num_items: int, chosen: Mapping[str, int] | None
    ) -> None:
        histories = histories.where(histories.chosen)
        self._powers = damping_of(chosen)
        self._events = np.bincount(histories.items, minlength=num_items + 1).astype(float)
        self._counts = {
            "transitions": neighbours.sequential_counts(histories, num_items),
            "follows": direct_counts(histories, num_items),
        }
        # row -> column -> what came since
        self._more: dict[str, dict[int, dict[int, float]]] = {name: {} for name in FOLLOWING}
        self._touched: set[int] = set()

    def table(self, name: str, decay: float) -> NeighbourTable:
        """Makes a whole table of the histories, without what was added since.

        Args:
            name: of `FOLLOWING`.
            decay: of the table.
        """
        counts = self._counts[name]
        if name == "follows":
            return follows_table(counts)._replace(decay=decay)
        return transitions_table(counts, self._events, self._powers)._replace(decay=decay)

    def add(self, item: int, before: Sequence[int] | np.ndarray) -> None:
        """Counts one more event. What its user did later, and was counted before, stays as it is.

        Args:
            item: item index.
            before: item indices of what its user chose before, oldest first.
        """
        self._events[item] += 1
        for distance, earlier in enumerate(reversed(before[-neighbours.MAX_DISTANCE :]), start=1):
            weight = distance**-neighbours.DISTANCE_DECAY
            self._count("transitions", earlier, item, weight)
            self._count("transitions", item, earlier, weight * neighbours.BACKWARD)
        if len(before):
            self._count("follows", before[-1], item, 1.0)

    def _count(self, name, source, target, weight):
        row = self._more[name].setdefault(int(source), {})
        row[int(target)] = row.get(int(target), 0.0) + float(weight)
        self._touched.add(int(source))

    def row(self, name: str, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Gives the neighbours of an item: columns, int, and weights, float64, in any order."""
        counts = self._counts[name]
        part = slice(counts.indptr[item], counts.indptr[item + 1])
        columns, weights = counts.indices[part], counts.data[part].astype(float)
        if more := self._more[name].get(item):
            later = np.fromiter(more, np.int64, len(more))
            columns = np.concatenate([columns, later])
            weights = np.concatenate([weights, np.fromiter(more.values(), float, len(more))])
            columns, place = np.unique(columns, return_inverse=True)
            weights = np.bincount(place, weights, len(columns))
        if name == "follows":
            return columns, weights / max(weights.sum(), 1.0)
        source_power, target_power = self._powers
        weights /= max(self._events[item], 1) ** source_power
        return columns, weights / np.maximum(self._events[columns], 1) ** target_power

    def scores(self, name: str, history: np.ndarray, decay: float) -> np.ndarray:
        """Scores all items by a history, as `NeighbourTable.scores`: float32 `(num_items + 1,)`.

        All neighbours count, where a table keeps the nearest.

        Args:
            name: of `FOLLOWING`.
            history: item indices, oldest first.
            decay: of the table.
        """
        scores = np.zeros(len(self._events))
        weight = 1.0
        for item in history[::-1]:
            columns, votes = self.row(name, item)
            scores[columns] += weight * votes
            weight *= decay
            if weight < _LEAST:
                break
        scores[0] = 0
        return scores.astype(np.float32)

    def changed(self, name: str, width: int) -> Rows:
        """Makes the rows of a table that changed since `forget_changes`.

        The damping of other rows by the number of events of their neighbours is a little old.

        Args:
            name: of `FOLLOWING`.
            width: neighbours of a row at most, the largest are kept.
        """
        items = np.array(sorted(self._touched), np.int64)
        found = np.zeros((len(items), width), np.int32), np.zeros((len(items), width), np.float32)
        for place, item in enumerate(items):
            columns, weights = self.row(name, item)
            best = np.argsort(-weights, kind="stable")[:width]
            for table, values in zip(found, (columns, weights), strict=True):
                table[place, : len(best)] = values[best]
        return Rows(items, *found)

    def forget_changes(self) -> None:
        """Begins anew to note which rows change."""
        self._touched.clear()


def add_new(following: Following, histories: Histories, is_new: np.ndarray) -> int:
    """Adds some events of histories to counts; gives their number.

    Args:
        following: `Following` of the other events.
        histories: `Histories` of the users who took part, whole or their newest events.
        is_new: bool `(num_events,)`, which events are added; of these the chosen ones count.
    """
    is_new, histories = is_new[histories.chosen], histories.where(histories.chosen)
    starts = np.repeat(histories.offsets[:-1], histories.lengths)
    places = np.flatnonzero(is_new)
    for place in places:
        before = histories.items[max(starts[place], place - neighbours.MAX_DISTANCE) : place]
        following.add(int(histories.items[place]), before)
    return len(places)


class Stream:
    """Lets `Following` grow along a log, and scores requests at their moments.

    Args:
        histories: `Histories` of the whole log; events that users chose count.
        begin: UTC seconds; what was before is counted at once.
        num_items, chosen: as for `Following`.
    """

    def __init__(
        self, histories: Histories, begin: int, num_items: int, chosen: Mapping[str, int] | None
    ) -> None:
        self._histories = histories = histories.where(histories.chosen)
        times = histories.timestamps
        self._order = np.argsort(times, kind="stable")
        self._order = self._order[times[self._order] >= begin]
        self._starts = np.repeat(histories.offsets[:-1], histories.lengths)
        self._done = 0
        self.following = Following(histories.where(times < begin), num_items, chosen)

    def until(self, moment: int) -> int:
        """Counts the events before a moment, UTC seconds; gives their number."""
        items, times = self._histories.items, self._histories.timestamps
        done, reach = self._done, neighbours.MAX_DISTANCE
        while self._done < len(self._order) and times[place := self._order[self._done]] < moment:
            before = items[max(self._starts[place], place - reach) : place]
            self.following.add(items[place], before)
            self._done += 1
        return self._done - done

    def scores(
        self, tables: Mapping[str, NeighbourTable], histories: Histories, times: Iterable[int]
    ) -> dict[str, np.ndarray]:
        """Scores requests, each by what was known before it.

        Args:
            tables: name of `FOLLOWING` -> table, of which the decay counts.
            histories: `Histories`, one for each request.
            times: when each is asked, ascending, UTC seconds.

        Returns:
            name -> float32 `(num_requests, num_items + 1)`.
        """
        rows: dict[str, list[np.ndarray]] = {name: [] for name in tables}
        bounds = zip(histories.offsets[:-1], histories.offsets[1:], times, strict=True)
        for start, end, moment in bounds:
            self.until(moment)
            for name, table in tables.items():
                history = histories.items[start:end]
                rows[name].append(self.following.scores(name, history, table.decay))
        return {name: np.stack(found) for name, found in rows.items()}
