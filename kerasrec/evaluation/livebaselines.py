"""`LiveKnn`: a baseline that knows each event at once, as a server of today knows it.

The baselines of `baselines` are fitted once, or anew after a while. Here the counts grow with every
event: which items follow which (sequential kNN), and popularity that halves with time.
"""

import itertools
import logging
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from kerasrec.data.histories import Histories
from kerasrec.fusion.gains import discount

log = logging.getLogger(__name__)
#: chosen items of a history that count, and the distance up to which two of them are a pair
WINDOW = 10
#: weight of a pair against the order of time
_BACKWARD = 0.3
#: catalogues up to this size keep the counts of all pairs as one matrix: 64 MB
_MOST_DENSE = 4096
_HOUR, _DAY = 3600, 86400
#: numbers that the choice of options computes at most, and events that it predicts at most
_MOST_CELLS, _MOST_EVENTS = 2**31, 4000


class KnnOptions(NamedTuple):
    """Says how `LiveKnn` weighs what it has counted.

    decay: weight of an item of a history relative to the one after it.  power: how far items with
    many events are damped.  mix: share of recent popularity.  half_life: of it, seconds.
    """

    decay: float = 0.5
    power: float = 0.5
    mix: float = 0.3
    half_life: int = 7 * _DAY


#: what `choose_options` chooses from
OPTIONS = tuple(
    KnnOptions(*values)
    for values in itertools.product(
        (0.5, 0.8), (0.25, 0.5), (0.0, 0.3, 0.5), (_HOUR, 4 * _HOUR, _DAY, 7 * _DAY, 60 * _DAY)
    )
)


class LiveKnn:
    """Counts the events of a log as time goes on, and ranks items by them.

    Pairs of items at distance d <= `WINDOW` in a history count 1 / d, and `_BACKWARD` / d the other
    way. An item's score is the sum over the newest items of a history of `decay ** age * pairs /
    (events of both) ** power`, scaled to sum 1; with a share `mix` of popularity, in which an event
    counts `0.5 ** (age / half_life)`. Where no pair is known popularity alone has its say.

    Args:
        histories: `Histories` of the whole log; events that users did not choose do not count.
        num_items: size of the catalogue.
        options: `KnnOptions` that are computed side by side.
    """

    def __init__(
        self,
        histories: Histories,
        num_items: int,
        options: tuple[KnnOptions, ...] = (KnnOptions(),),
    ) -> None:
        self._whole, self._options = histories, options
        chosen = histories.chosen
        self._kept = np.concatenate([[0], np.cumsum(chosen)])  # place -> place among the chosen
        known = histories.where(chosen)
        self._items, self._times = known.items, known.timestamps
        self._starts = np.repeat(known.offsets[:-1], known.lengths)  # where its history starts
        self._order = np.argsort(known.timestamps, kind="stable")
        self._sorted = known.timestamps[self._order]
        self._done, self._now = 0, int(self._sorted[0]) if len(self._sorted) else 0
        self._pairs = _Pairs(num_items)
        self._events = np.zeros(num_items + 1)
        self._half_lives = np.unique([one.half_life for one in options])
        self._popular = np.zeros((len(self._half_lives), num_items + 1))

    def learn(self, until: int) -> None:
        """Counts all events before a moment, UTC seconds; earlier moments change nothing."""
        stop = int(np.searchsorted(self._sorted, until, side="left"))
        if stop <= self._done:
            return
        new = self._order[self._done : stop]
        items, size = self._items[new], len(self._events)
        now = int(self._sorted[stop - 1])
        for row, half_life in enumerate(self._half_lives):
            self._popular[row] *= 0.5 ** ((now - self._now) / half_life)
            weights = 0.5 ** ((now - self._times[new]) / half_life)
            self._popular[row] += np.bincount(items, weights, size)
        self._events += np.bincount(items, minlength=size)
        for distance in range(1, WINDOW + 1):
            behind = new[new - distance >= self._starts[new]]
            first, second = self._items[behind - distance], self._items[behind]
            self._pairs.add(first, second, 1 / distance)
        self._done, self._now = stop, now

    def scores(self, place: int) -> np.ndarray:
        """Scores all items for the user of an event, who is asked before it.

        Args:
            place: of the event in the histories.

        Returns:
            float `(num_options, num_items + 1)`, above 0 where an item is known; the padding and
            items of the history have -1.
        """
        row = int(np.searchsorted(self._whole.offsets, place, side="right")) - 1
        seen = self._whole.items[self._whole.offsets[row] : place]
        end = self._kept[place]
        newest = self._items[max(self._kept[self._whole.offsets[row]], end - WINDOW) : end][::-1]
        popular = self._popular / np.maximum(self._popular.sum(axis=1, keepdims=True), 1e-300)
        of_half_life = dict(zip(self._half_lives.tolist(), popular, strict=True))
        near = {}
        if len(newest):
            pairs = self._pairs.rows(newest)
            damped = {
                power: np.maximum(self._events, 1) ** -power
                for power in {one.power for one in self._options}
            }
            for decay, power in {(one.decay, one.power) for one in self._options}:
                votes = (decay ** np.arange(len(newest)) * damped[power][newest]) @ pairs
                votes = votes * damped[power]
                total = votes.sum()
                near[decay, power] = votes / total if total > 0 else None
        found = np.empty((len(self._options), len(self._events)))
        for number, one in enumerate(self._options):
            votes, of_time = near.get((one.decay, one.power)), of_half_life[one.half_life]
            found[number] = of_time
            if votes is not None:
                found[number] = (1 - one.mix) * votes + (one.mix + 1e-9) * of_time
        found[:, seen] = found[:, 0] = -1
        return found

    def ranks(self, places: np.ndarray) -> np.ndarray:
        """Ranks the item of each event among those that its user has not had, as of its moment.

        Args:
            places: of the events in the histories, `(n,)`; none earlier than a call before.

        Returns:
            int `(num_options, n)`, from 1; equal scores in the order of the catalogue; 0 = the user
            has had the item.
        """
        times, found = self._whole.timestamps[places], np.zeros((len(self._options), len(places)))
        for number in np.argsort(times, kind="stable"):
            self.learn(int(times[number]))
            scores, item = self.scores(int(places[number])), self._whole.items[places[number]]
            own = scores[:, item, None]
            better = (scores > own).sum(axis=1) + (scores[:, :item] == own).sum(axis=1)
            found[:, number] = np.where(own[:, 0] < 0, 0, better + 1)
        return found.astype(int)


def choose_options(
    histories: Histories, places: np.ndarray, num_items: int, options: Any = OPTIONS
) -> KnnOptions:
    """Chooses the options with the best NDCG@10 on some events.

    Args:
        histories: `Histories`; nothing in it may be later than what may be known.
        places: of events to predict, `(n,)`, evenly thinned out where they are many.
        num_items: size of the catalogue.
        options: `KnnOptions` to choose from.

    Returns:
        `KnnOptions`; their defaults where there are no events.
    """
    if not len(places):
        return KnnOptions()
    most = int(np.clip(_MOST_CELLS // (len(options) * (num_items + 1)), 50, _MOST_EVENTS))
    ordered = places[np.argsort(histories.timestamps[places], kind="stable")]
    taken = ordered[:: -(-len(ordered) // most)]
    ranks = LiveKnn(histories, num_items, tuple(options)).ranks(taken)
    gains = np.where((ranks > 0) & (ranks <= 10), 1 / discount(np.maximum(ranks, 1)), 0.0)
    best = options[int(np.argmax(gains.sum(axis=1)))]
    log.info("live kNN: %s, NDCG@10 %.4f on %d events", best, gains.mean(axis=1).max(), len(taken))
    return best


class _Pairs:
    """Counts of ordered pairs that grow: a matrix, or two sparse ones where that is too large."""

    def __init__(self, num_items):
        self._shape = (num_items + 1, num_items + 1)
        self._is_dense = num_items <= _MOST_DENSE
        empty = sparse.csr_array(self._shape, dtype=np.float32)
        # new counts go into the small one, which joins the large one when it has grown
        self._large: Any = np.zeros(self._shape, np.float32) if self._is_dense else empty
        self._small: Any = empty

    def add(self, first, second, weight):
        """Counts pairs in their order with a weight, and in the other one with less."""
        rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
        weights = np.repeat(np.array([weight, weight * _BACKWARD], np.float32), len(first))
        if self._is_dense:
            np.add.at(self._large, (rows, columns), weights)
            return
        new = sparse.coo_array((weights, (rows, columns)), shape=self._shape).tocsr()
        self._small = self._small + new
        if self._small.nnz > 10_000 + self._large.nnz // 8:
            self._large = self._large + self._small
            self._small = sparse.csr_array(self._shape, dtype=np.float32)

    def rows(self, items):
        """Counts of the pairs that start with some items, `(n, num_items + 1)`."""
        if self._is_dense:
            return self._large[items]
        return (self._large[items] + self._small[items]).toarray()
