"""Ranks items by counts alone, and watches whether that would list better than a model.

A model, and the weights of its score, are of yesterday. Where people begin to want other things
than it learned, counting may be ahead: `Guard` notices it and says so. No TensorFlow here.
"""

from collections.abc import Mapping
from typing import Any

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
#: before so many events, of so many hours, which span so many, nothing is said
_LEAST_EVENTS, _LEAST_HOURS, _SPAN = 200, 12, 24
_HALF_LIFE = 168  # hours after which a comparison counts half
#: how many standard errors counting must be ahead: it is asked each hour
_SURE = 4.0
_MEMORY = 1000  # events that the shares remember, about
_FLOOR = 1e-4  # of a share: a part that is never right today may be right tomorrow
_START = 30  # events that the equal shares at the start count as
_SMOOTHING = 1e-6  # events of an item that has none


class Counting:
    """Mixes what follows what and what is popular; the shares are learned from each event.

    The parts are the tables of `FOLLOWING`, and the recent events of the items for each of
    `HALF_LIVES` and in all. Each event moves the shares towards the parts that made it likely: one
    step of expectation maximisation (Cappe and Moulines 2009), that forgets after about a thousand
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

    def parts(
        self,
        history: np.ndarray,
        following: Following,
        counts: Counts,
        withdrawn: np.ndarray | None = None,
    ) -> np.ndarray:
        """Gives what each part says comes next, `(num_parts, num_items + 1)`, 0 = not listed.

        Args:
            history: item indices, oldest first.
            following: what followed what.
            counts: of the events of each item.
            withdrawn: indices of items that no list has.
        """
        rows = [
            following.scores(name, history, decay).astype(float)
            for name, decay in self._decays.items()
        ]
        found = np.vstack([*rows, self._popular(counts)])
        found[:, history] = 0
        if withdrawn is not None:
            found[:, withdrawn] = 0
        return found

    def scores(self, parts: np.ndarray, kind: int) -> np.ndarray:
        """Mixes `parts` for a kind of users, `(num_items + 1,)`, as the graph of a version does.

        What is popular is one part there: its shares are taken before those of what was seen go.
        """
        tables = len(self._decays)
        shares = self.shares[kind]
        popular = shares[tables:] @ parts[tables:]
        mixed = popular * (shares[tables:].sum() / max(popular.sum(), TINY))
        return shares[:tables] @ _scaled(parts[:tables]) + mixed

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
            moved = self.shares[kind] + step * (joint / joint.sum() - self.shares[kind])
            moved = np.maximum(moved, _FLOOR)
            self.shares[kind] = moved / moved.sum()

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

    Of a user one event an hour is compared: else one robot would be many people. The differences of
    an hour are one draw, because they are alike; hours of a week ago count half. Counting is
    ahead where its gain is above `_SURE` standard errors of the mean over these draws, once they
    are of a whole day and a night.

    Attributes:
        counting: `Counting`.
        is_lost: whether counting is ahead, by more than chance explains. It stays so: the next
            version begins anew.
        events: how many were compared.
        gain: mean NDCG@10 of counting less that of the version.

    Args:
        decays: as for `Counting`.
    """

    def __init__(self, decays: Mapping[str, float]) -> None:
        self.counting = Counting(decays)
        self.is_lost: bool = False
        self.events = self._hours = 0
        self.gain = 0.0
        self._first = self._hour = 0  # numbers of the hours
        self._users: set[Any] = set()  # who were compared in this hour
        self._now = np.zeros(2)  # differences of this hour: their sum and number
        # of the hours before: sums of both, and of their products
        self._sums, self._products = np.zeros(2), np.zeros((2, 2))

    def compare(
        self,
        asked: tuple[Histories, np.ndarray],
        users: np.ndarray,
        taken: np.ndarray,
        listed: np.ndarray | None,
        known: tuple[Following, Counts],
        withdrawn: np.ndarray,
    ) -> bool:
        """Compares lists, and lets counting learn what was taken.

        Args:
            asked: `Histories` before each event, and its time, int64 `(n,)`, UTC seconds.
            users: who they are, `(n,)`, of any kind.
            taken: item index of each event, `(n,)`.
            listed: item indices that the version listed for it, `(n, CUT)`, 0 = none. None =
                nothing is compared: counting only learns.
            known: what counting may know: nothing of these events.
            withdrawn: indices of items that no list has.

        Returns:
            Whether `is_lost` has become true.
        """
        histories, times = asked
        newest = newest_times(histories)
        kinds = kind_of_wait(np.where(newest > 0, times - newest, RETURNS[-1]))
        was_lost = self.is_lost
        for row, (user, item, kind) in enumerate(zip(users, taken, kinds, strict=True)):
            self._begin(int(times[row]) // 3600)
            start, end = histories.offsets[row : row + 2]
            history = histories.items[start:end]
            if item in history or user in self._users:
                continue  # no list has what was taken before
            self._users.add(user)
            parts = self.counting.parts(history, *known, withdrawn)
            if listed is not None:
                scores = self.counting.scores(parts, kind)
                better, equal = (scores > scores[item]).sum(), (scores == scores[item]).sum()
                place = np.flatnonzero(listed[row] == item)
                gain = _gain(1 + better + (equal - 1) / 2)
                self._now += gain - (_gain(1 + int(place[0])) if len(place) else 0.0), 1
                self.events += 1
            self.counting.learn(_scaled(parts)[:, item], int(kind))
        return self.is_lost and not was_lost

    def _begin(self, hour):
        """Closes the hour before where another one begins, and looks how it stands."""
        if hour <= self._hour:
            return
        self._users.clear()
        if self._now[1]:
            self._first = self._first or self._hour
            self._hours += 1
            self._sums += self._now
            self._products += np.outer(self._now, self._now)
            self._now = np.zeros(2)
            total, number = self._sums
            self.gain = total / number
            # the variance of a ratio of sums over draws
            away = np.array([1, -self.gain])
            error = np.sqrt(max(away @ self._products @ away, 0.0)) / number
            is_long = self._hours >= _LEAST_HOURS and hour - self._first >= _SPAN
            if is_long and self.events >= _LEAST_EVENTS and self.gain > _SURE * error:
                self.is_lost = True
        keep = 0.5 ** ((hour - self._hour) / _HALF_LIFE) if self._hour else 1.0
        self._sums, self._products = keep * self._sums, keep * self._products
        self._hour = hour


def _scaled(parts):
    """Rows that sum to 1, or are 0 everywhere."""
    return parts / np.maximum(parts.sum(axis=1, keepdims=True), TINY)


def _gain(rank):
    return 1 / discount(rank) if rank <= CUT else 0.0
