"""A `Recommender` that a log brings up to date as a server with a store does: `LiveModel`.

`replay` and `simulate` ask it. What it does at a look is what `serving.observer.Observer` does.
"""

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from kerasrec.data.histories import Histories
from kerasrec.data.times.zones import show_time
from kerasrec.fusion.following import GROWN, Stream
from kerasrec.fusion.recency import PAUSE
from kerasrec.recommender.recommender import Recommender
from kerasrec.recommender.watching import guard_of, watch
from kerasrec.serving.observer import is_the_log, sees_all_users, weigh_held

log = logging.getLogger(__name__)
#: seconds between two looks of a server at what is new, between two whole fits of what follows what
REFRESH, REMEMBER = 60, 3600


class Asked(NamedTuple):
    """Holds requests for lists.

    histories: `Histories`, what the user of each request did before it; its `user_ids` name the
    requests.  times: int64 `(num_requests,)`, when they are asked, UTC seconds.
    """

    histories: Histories
    times: np.ndarray


class LiveModel:
    """Answers requests with what is known at the last look, and with the user's own newest events.

    Attributes:
        events: number of events that were learned at the looks.
        lost_at: when counting alone took over from the model, UTC seconds; 0 = it did not.

    Args:
        recommender: `Recommender`; it is changed.
        histories: `Histories` of the whole log by the items of the recommender; of it a look sees
            only what happened before.
        begin: UTC seconds of the first look.
        remember: seconds between two whole fits of what follows what, at least.
        lag: seconds that an event needs until others can learn from it.
    """

    def __init__(
        self,
        recommender: Recommender,
        histories: Histories,
        begin: int,
        remember: int,
        lag: int = 0,
    ) -> None:
        self._recommender, self._histories = recommender, histories
        self._begin, self._remember, self._lag = begin, remember, lag
        self._saved = recommender.counts
        self._times = np.sort(histories.timestamps)
        self._observed = self._known = self._place(recommender.log_end + 1)
        self._fits = -1  # number of the last fit, on the grid of `remember`
        self._fitted = 0  # events that the tables know
        self._fitted_whole = 0  # events that the last whole fit knew
        self._stream: Stream | None = None  # what follows what since then
        self._order = np.argsort(histories.timestamps, kind="stable")
        self._guard = guard_of(recommender.loaded)
        self.events = 0
        self.lost_at = 0

    def _place(self, time):
        """Number of the events before a time."""
        return int(np.searchsorted(self._times, time, side="left"))

    def look(self, moment: int) -> None:
        """Learns what happened before a moment, UTC seconds, without training."""
        until = moment - self._lag
        stop = max(self._place(until), self._known)
        self.events += stop - self._known
        self._watch(moment, self._order[self._known : stop])
        self._known = stop
        if self._saved.time and len(self._saved.recent):
            self._observe(stop)
            self._fit(moment, until)

    def _watch(self, moment, places):
        """Compares the model with counting on events that neither knows."""
        guard, stream = self._guard, self._stream
        if guard is None or stream is None or not len(places):
            return
        recommender = self._recommender
        known = stream.following, recommender.counts
        if watch(recommender.loaded, guard, self._histories, places, known):
            self.lost_at = moment
            log.warning(
                "%s: counting alone lists better since %s UTC (NDCG@10 %+.3f, %d events)",
                recommender.version,
                show_time(moment),
                guard.gain,
                guard.events,
            )
        if guard.is_lost:
            recommender.count_alone(guard.counting)

    def _observe(self, stop):
        """Counts what is recent, where the log seems to have all users."""
        if stop == self._observed:
            return
        times, until = self._histories.timestamps, self._times[stop - 1]
        # those of the half hour before say who goes on with a visit
        since = self._times[self._observed] - PAUSE
        part = self._histories.where((times >= since) & (times <= until))
        part = part.select(np.flatnonzero(part.lengths > 0))
        now, _ = self._recommender.recency.after(part)
        if sees_all_users(now.counts, self._saved):
            self._recommender.observe(part)
            self._observed = stop

    def _fit(self, moment, until):
        """Learns what follows what, where the log holds what the version was trained on."""
        number, count = (moment - self._begin) // self._remember, self._place(until)
        if count == self._fitted:
            return
        is_little = self._stream is not None and count < GROWN * self._fitted_whole
        if number == self._fits or is_little:
            self._fitted = count
            if self._stream is not None:
                self._stream.until(until)
                self._recommender.grow(self._stream.following)
            return
        known = self._histories.where(self._histories.timestamps < until)
        if is_the_log(*weigh_held(known, self._saved)):
            learned = self._recommender.remember(known)
            if learned and self._recommender.can_grow:
                items, about = self._recommender.items, self._recommender.about
                self._stream = Stream(self._histories, until, len(items), about.tables)
        elif not self._fitted:
            log.warning(
                "what follows what stays as it was trained: the log does not hold the events that "
                "%s was trained on",
                self._recommender.version,
            )
        self._fits, self._fitted = number, count
        self._fitted_whole = count

    def lists(self, asked: Asked, k: int) -> pd.DataFrame:
        """Makes the lists of some requests, as `Recommender.recommend`.

        The model sees no event types: those who ask a server for a user's list give none either.
        """
        histories = asked.histories
        histories = histories._replace(
            events=np.zeros_like(histories.events), values=np.ones_like(histories.values)
        )
        return self._recommender.recommend(histories, k=k, at=asked.times)


def blocks(times: np.ndarray, begin: int, refresh: int) -> Iterator[tuple[int, np.ndarray]]:
    """Groups requests by the look before them.

    Args:
        times: UTC seconds of the requests, `(n,)`, none before `begin`.
        begin: of the first look.
        refresh: seconds between two looks.

    Yields:
        `(moment of the look, numbers of its requests)`, in time order; none without requests.
    """
    number = (times - begin) // refresh
    order = np.argsort(number, kind="stable")
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        if len(rows):
            yield int(begin + number[rows[0]] * refresh), rows
