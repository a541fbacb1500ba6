"""Ranks items by counts alone, and watches whether that would list better than a model.

A model, and the weights of its score, are of yesterday. Where people begin to want other things
than it learned, counting may be ahead: `Guard` notices it and says so. No TensorFlow here.
"""

from collections.abc import Mapping

import numpy as np

from kerasrec.data.histories import Histories
from kerasrec.fusion.following import Following
from kerasrec.fusion.fusion import FOLLOWING, POPULAR
from kerasrec.fusion.gains import discount
from kerasrec.fusion.recency import (
    HALF_LIVES,
    KINDS,
    RETURNS,
    Counts,
    LastMoment,
    kind_of_wait,
    log_shares,
    newest_times,
)
from kerasrec.fusion.weights import NUM_WAITS, TINY, WAITS

#: length of the lists that are compared
CUT = 10
#: events that are compared at a look at most
MOST_AT_A_LOOK = 20
_LEAST_EVENTS = 200  # before them nothing is said
_MEMORY = 1000  # events that the comparison and the shares remember, about
#: how many standard errors counting must be ahead: it is asked thousands of times
_SURE = 4.0
_START = 30  # events that the equal shares at the start count as
_SMOOTHING = 1e-6  # events of an item that has none


class Counting:
    """Mixes what follows what and what is popular; the shares are learned from each event.

    The parts are the tables of `FOLLOWING`, and the recent events of the items for each of
    `HALF_LIVES` and in all. Each event moves the shares towards the parts that made it likely: one
    step of expectation maximisation (Cappe and Moulines 2009), that forgets after some thousand
    events. Who goes on with a visit, who is back and who comes have shares of their own.

    Attributes:
        shares: float64 `(KINDS, num_parts)`; each row sums to 1.

    Args:
        decays: name of a table of `FOLLOWING` -> its decay.
    """

    def __init__(self, decays: Mapping[str, float]) -> None:
        self._decays = {name: decays[name] for name in FOLLOWING if name in decays}
        size = len(self._decays) + len(HALF_LIVES) + 1
        self.shares = np.full((KINDS, size), 1 / size)
        self._events = np.zeros(KINDS)

    def parts(self, history: np.ndarray, following: Following, counts: Counts) -> np.ndarray:
        """Gives what each part says comes next, `(num_parts, num_items + 1)`.

        A row sums to 1 over the items that are not in the history, or is 0 everywhere.

        Args:
            history: item indices, oldest first.
            following: what followed what.
            counts: of the events of each item.
        """
        rows = [
            following.scores(name, history, decay).astype(float)
            for name, decay in self._decays.items()
        ]
        found = np.vstack([*rows, self._popular(counts)])
        found[:, history] = 0
        return found / np.maximum(found.sum(axis=1, keepdims=True), TINY)

    @staticmethod
    def _popular(counts):
        """Shares of the items by each half-life and in all."""
        rows = np.vstack([counts.recent, counts.total]) + _SMOOTHING
        rows[:, 0] = 0
        return rows / rows.sum(axis=1, keepdims=True)

    def learn(self, likely: np.ndarray, kind: int) -> None:
        """Moves the shares of a kind of users towards the parts that made an event likely.

        Args:
            likely: what each part gave the item, `(num_parts,)`; all 0 says nothing.
            kind: see `recency.kind_of_wait`.
        """
        joint = self.shares[kind] * likely
        if joint.sum() > 0:
            self._events[kind] += 1
            step = 1 / min(_START + self._events[kind], _MEMORY)
            self.shares[kind] += step * (joint / joint.sum() - self.shares[kind])

    def mixture(self) -> dict[str, np.ndarray]:
        """Gives the shares as `Fusion.mixture` has them: a number for each bucket of the wait."""
        kinds = kind_of_wait([0, *(wait - 1 for wait in WAITS), WAITS[-1]])
        assert len(kinds) == NUM_WAITS
        tables = len(self._decays)
        found = {str(name): self.shares[kinds, i] for i, name in enumerate(self._decays)}
        return {**found, POPULAR: self.shares[kinds, tables:].sum(axis=1)}

    def moment(self, last: LastMoment, counts: Counts) -> LastMoment:
        """Replaces what a version knows of now by these counts: nothing else has a say."""
        shares = self.shares[:, len(self._decays) :]
        shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), TINY)
        popular = log_shares(np.log(np.maximum(shares @ self._popular(counts), TINY)))
        newcomers = np.where(np.isfinite(popular[-1]), popular[-1], 0).astype(np.float32)
        return last._replace(prior=np.zeros_like(last.prior), popular=newcomers, popular_at=popular)


class Guard:
    """Compares the lists of a version with those of `Counting`, on what users then took.

    Attributes:
        counting: `Counting`.
        is_lost: whether counting is ahead, by more than chance explains. It stays so: the next
            version begins anew.
        events: how many were compared.
        gain: mean NDCG@10 of counting less that of the version, over about the last 1,000 events.

    Args:
        decays: as for `Counting`.
    """

    def __init__(self, decays: Mapping[str, float]) -> None:
        self.counting = Counting(decays)
        self.is_lost: bool = False
        self.events = 0
        self.gain, self._square = 0.0, 0.0

    def compare(
        self,
        asked: tuple[Histories, np.ndarray],
        taken: np.ndarray,
        listed: np.ndarray | None,
        known: tuple[Following, Counts],
    ) -> bool:
        """Compares lists, and lets counting learn what was taken.

        Args:
            asked: `Histories` before each event, and its time, int64 `(n,)`, UTC seconds.
            taken: item index of each event, `(n,)`.
            listed: item indices that the version listed for it, `(n, CUT)`, 0 = none. None =
                nothing is compared: counting only learns.
            known: what counting may know: nothing of these events.

        Returns:
            Whether `is_lost` has become true.
        """
        histories, times = asked
        newest = newest_times(histories)
        kinds = kind_of_wait(np.where(newest > 0, times - newest, RETURNS[-1]))
        for row, (item, kind) in enumerate(zip(taken, kinds, strict=True)):
            start, end = histories.offsets[row : row + 2]
            history = histories.items[start:end]
            if item in history:
                continue  # no list has what was taken before
            parts = self.counting.parts(history, *known)
            scores = self.counting.shares[kind] @ parts
            if listed is not None:
                place = np.flatnonzero(listed[row] == item)
                gain = _gain(1 + int((scores > scores[item]).sum()))
                self._add(gain - (_gain(1 + int(place[0])) if len(place) else 0.0))
            self.counting.learn(parts[:, item], int(kind))
        if self.is_lost or self.events < _LEAST_EVENTS:
            return False
        variance = max(self._square - self.gain**2, 0.0)
        error = np.sqrt(variance / min(self.events, _MEMORY))
        self.is_lost = bool(self.gain > _SURE * error)
        return self.is_lost

    def _add(self, difference):
        self.events += 1
        step = 1 / min(self.events, _MEMORY)
        self.gain += step * (difference - self.gain)
        self._square += step * (difference**2 - self._square)


def _gain(rank):
    return 1 / discount(rank) if rank <= CUT else 0.0
