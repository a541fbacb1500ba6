"""Measures recency: how often every item was chosen up to a moment, and whether it is new then.

An item has these features at a moment: the logarithm of its recent events for several half-lives,
the logarithm of all its events, and whether it has none yet (it is new). A feature knows only what
happened before its moment. `choice` fits weights for the features on validation. Their sum is one
number per moment and item, the prior, which a server looks up.

What is popular is also counted by the events that open a visit alone, those with no event of the
same user in the half hour before: what people come for is not what they go on with. So "what is
popular now" has an answer of its own for who goes on, who is back the same day, and who comes
(`kind_of_wait`). No TensorFlow here.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from kerasrec.data.events import EVENT_CODES
from kerasrec.data.histories import Histories

#: seconds in which the say of an event halves: an hour, six, a day, four, sixteen, sixty-four, and
#: for logs of many years some eight months and three years
HALF_LIVES = 3600 * np.array([1, 6, 24, 96, 384, 1536, 6144, 24576])
MAX_MOMENTS = 1024
#: moments times items at most; large catalogues have fewer moments, at last one (now)
MAX_CELLS = 2**22
#: seconds without an event of a user, after which the next one opens a visit
PAUSE = 1800
#: half-lives of the events that open a visit, seconds
OPENING_HALF_LIVES = HALF_LIVES[:4]
#: seconds since the newest event of a user that part those who go on with a visit (or it is
#: unknown), those who are back the same day and those who come, as a new user does
RETURNS = (PAUSE, 72_000)
#: kinds of users who are told what is popular, see `kind_of_wait`
KINDS = len(RETURNS) + 1
_KIND_NAMES = ("", " with who is back", " with who comes")
_SMOOTHING = 0.02  # events; an item without recent ones is not infinitely unlikely
NEVER = np.iinfo(np.int32).max
#: how a version says when its lists are asked for, see `asked_at_the_end`
AT_THE_END, AT_NEWEST_EVENT = "end of the log", "newest event of the user"


class Counts(NamedTuple):
    """Counts the events of every item up to a moment.

    time: int, UTC seconds, 0 = unknown.  recent: float64 `(num_half_lives, num_items + 1)`, each
    event counting `0.5 ** (age / half_life)`; no rows where times are unknown.  total: float64
    `(num_items + 1,)`.  opening: as `recent`, by `OPENING_HALF_LIVES`, of the events that open a
    visit; all 0 in versions of before 2026-12.
    """

    time: int
    recent: np.ndarray
    total: np.ndarray
    opening: np.ndarray

    @classmethod
    def none(cls, num_items: int, time: int) -> "Counts":
        """Counts nothing: no event has happened yet."""
        rows = (len(HALF_LIVES), len(OPENING_HALF_LIVES)) if time else (0, 0)
        recent, opening = (np.zeros((number, num_items + 1)) for number in rows)
        return cls(time, recent, np.zeros(num_items + 1), opening)

    @classmethod
    def of(cls, num_items: int, *histories: Histories) -> "Counts":
        """Counts the events that users chose in some `Histories`, until the newest of them."""
        opens = opening_events(*histories)
        chosen = np.concatenate([part.chosen for part in histories])
        columns = ("items", "timestamps", "values")
        items, times, weights = (
            np.concatenate([getattr(part, name) for part in histories])[chosen] for name in columns
        )
        until = int(times.max(initial=0))
        given = items, times, weights.astype(float), opens[chosen]
        return cls.none(num_items, until).after(*given, until=until)

    def after(
        self,
        items: ArrayLike,
        times: ArrayLike,
        weights: ArrayLike,
        opens: ArrayLike,
        *,
        until: int,
    ) -> "Counts":
        """Brings the counts to a later moment.

        Args:
            items, times, weights: of the events that are new, each `(num_events,)`; one that
                happened before `self.time` has its own age, as if it had been counted in time.
            opens: bool `(num_events,)`, which of them open a visit, see `opening_events`.
            until: the later moment, UTC seconds, not before any of the events.

        >>> none = Counts.none(2, time=1)
        >>> counts = none.after([1, 2], [1, 3601], [1.0, 1.0], [True, False], until=3601)
        >>> counts.recent[0].tolist(), counts.total.tolist(), counts.opening[0].tolist()
        ([0.0, 0.5, 1.0], [0.0, 1.0, 1.0], [0.0, 0.5, 0.0])
        """
        items, age, weights = np.asarray(items), until - np.asarray(times), np.asarray(weights)
        total = self.total + np.bincount(items, weights, len(self.total))
        passed = until - self.time

        def aged(before, half_lives, weights):
            rows = [
                row * 0.5 ** (passed / half_life)
                + np.bincount(items, weights * 0.5 ** (age / half_life), len(total))
                for row, half_life in zip(before, half_lives, strict=False)
            ]
            return np.stack(rows) if rows else before

        return Counts(
            until,
            aged(self.recent, HALF_LIVES, weights),
            total,
            aged(self.opening, OPENING_HALF_LIVES, weights * np.asarray(opens)),
        )

    def features(self) -> np.ndarray:
        """Makes the features, float32 `(num_features, num_items + 1)`.

        Recent events, all, new; then those of the events that open a visit, of which only what is
        popular knows.
        """
        parts = [np.log(self.recent + _SMOOTHING), np.log(self.total + 0.5)[None]]
        parts += [(self.total == 0)[None], np.log(self.opening + _SMOOTHING)]
        return np.concatenate(parts).astype(np.float32)

    def grown(self, num_items: int) -> "Counts":
        """Adds `num_items` items that nobody has chosen yet."""
        pad = (0, num_items)
        recent, opening = (np.pad(part, [(0, 0), pad]) for part in (self.recent, self.opening))
        return Counts(self.time, recent, np.pad(self.total, pad), opening)


class Moments(NamedTuple):
    """Holds the features of every item at several moments; the last is the end of the log.

    starts: int64 `(num_moments,)`, ascending UTC seconds; a moment is in force until the next.
    features: float32 `(num_moments, num_features, num_items + 1)`.
    first: int32 `(num_items + 1,)`, the first moment at which the item is not new, else `NEVER`.
    end: `Counts` at the last moment.
    """

    starts: np.ndarray
    features: np.ndarray
    first: np.ndarray
    end: Counts

    @property
    def only_end(self) -> bool:
        """Whether its one moment is the end of a log with times."""
        return len(self.starts) == 1 and self.end.time > 0

    @property
    def num_plain(self) -> int:
        """Number of the first features, which are not of opened visits alone."""
        return self.features.shape[1] - len(self.end.opening)

    def prior(self, weights: ArrayLike) -> np.ndarray:
        """Sums the weighted features: float32 `(num_moments, num_items + 1)`.

        Args:
            weights: `(n,)` of the first n features, or `(kinds, n)`: then the sums are
                `(kinds, num_moments, num_items + 1)`.
        """
        weights = np.asarray(weights, np.float32)
        return np.moveaxis(weights @ self.features[:, : weights.shape[-1]], 0, -2)

    def of(self, times: ArrayLike) -> np.ndarray:
        """Finds the moment in force at each time (UTC seconds; 0 = unknown: the last moment)."""
        index = np.searchsorted(self.starts, times, side="right") - 1
        return np.where(np.asarray(times) > 0, np.maximum(index, 0), len(self.starts) - 1)


def most_moments(num_columns: int) -> int:
    """Limits the number of moments for a catalogue of `num_columns` items, padding included."""
    return max(min(MAX_MOMENTS, MAX_CELLS // num_columns), 1)


def fit_moments(
    histories: Histories, num_items: int, *, only_end: bool = False, asked_from: int | None = None
) -> Moments:
    """Follows a log through time and keeps the features of all items at some moments.

    Args:
        histories: `Histories`; only events that users chose count, each with its weight.
        num_items: size of the catalogue.
        only_end: True when all lists are asked for after the log (validation is later than all of
            it): one moment is enough.
        asked_from: UTC seconds from which on lists are asked for; None = at any time. Three moments
            of four lie there.

    Returns:
        `Moments`, in which about equally many events lie between two moments.
    """
    opens = opening_events(histories)[histories.chosen]
    histories = histories.where(histories.chosen)
    order = np.argsort(histories.timestamps, kind="stable")
    columns = (histories.items, histories.timestamps, histories.values.astype(float), opens)
    items, times, weights, opens = (column[order] for column in columns)
    # where the moments start: about equally many events apart, the last at the newest event
    newest = int(times[-1]) if len(times) else 0
    starts = np.array([newest])
    count = 1 if only_end or not newest else most_moments(num_items + 1)
    if count > 1:
        places = np.linspace(0, len(times) - 1, count - 1, endpoint=False)
        if asked_from is not None:
            cut = np.searchsorted(times, asked_from)
            old, new = (
                np.linspace(0, cut, count // 4),
                np.linspace(cut, len(times), count - count // 4),
            )
            places = np.unique([*old[:-1], *new[:-1]])
        starts = np.unique([*times[places.astype(int)], newest])
    # the counts grow from moment to moment; `done` events are in them
    counts, done = Counts.none(num_items, int(times[0]) if newest else 0), 0
    features, first = [], np.full(num_items + 1, NEVER, np.int32)
    for number, start in enumerate(starts):
        is_end = number + 1 == len(starts)
        end = len(times) if is_end else np.searchsorted(times, start, side="left")
        part = slice(done, end)
        given = items[part], times[part], weights[part], opens[part]
        counts = counts.after(*given, until=int(start))
        first[(counts.total > 0) & (first == NEVER)] = number
        features.append(counts.features())
        done = end
    return Moments(starts.astype(np.int64), np.stack(features), first, counts)


def kind_of_wait(waited: ArrayLike) -> np.ndarray:
    """Finds which of the `KINDS` a user is, by the seconds since the newest event; 0 = unknown.

    >>> kind_of_wait([0, 60, 1800, 100_000]).tolist()
    [0, 0, 1, 2]
    """
    return np.searchsorted(RETURNS, waited, side="right").astype(np.int32)


def opening_events(*histories: Histories) -> np.ndarray:
    """Says which events open a visit: bool `(num_events,)`, those of all parts one after the other.

    An event does where its user has no other in the `PAUSE` seconds before, in any of the parts;
    of several in one second the first does. An event without a time does not. What a user was
    merely shown is no event here: a store does not give it to a server either.

    >>> from kerasrec.data.histories import Histories
    >>> events = np.array([7, 8, 9, 7]), np.array([100, 1000, 9000, 9000])
    >>> rest = np.zeros(4, np.int16), np.ones(4, np.float32)
    >>> two = Histories(np.array(["a", "b"]), np.array([0, 3, 4]), *events, *rest)
    >>> opening_events(two).tolist()
    [True, False, True, True]
    """
    names = np.concatenate([part.user_ids for part in histories])
    lengths = np.concatenate([part.lengths for part in histories])
    here = lengths > 0
    users = np.repeat(pd.factorize(names[here])[0], lengths[here])
    times = np.concatenate([part.timestamps for part in histories])
    counts = np.concatenate([part.events for part in histories]) != EVENT_CODES["impression"]
    counts &= times > 0
    opens = np.zeros(len(times), bool)
    opens[counts] = opens_after(users[counts], times[counts])
    return opens


def opens_after(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The same of events in any order: `users` `(n,)` of any kind, `times` `(n,)` UTC seconds."""
    order = np.lexsort((times, users))
    users, times = users[order], times[order]
    opens = np.ones(len(order), bool)
    opens[1:] = (users[1:] != users[:-1]) | (times[1:] - times[:-1] >= PAUSE)
    found = np.empty(len(order), bool)
    found[order] = opens
    return found


class Ended(NamedTuple):
    """Holds what `Recency.at_end` makes; the fields are those of `Fusion` of the same names."""

    starts: np.ndarray
    first: np.ndarray
    prior: np.ndarray
    popular: np.ndarray
    popular_at: np.ndarray | None = None


def _as_row_of(table, row):
    """A row of a table `(..., num_moments, num_items + 1)`; one row for all kinds is repeated."""
    return np.broadcast_to(row[..., None, :], (*table.shape[:-2], 1, table.shape[-1]))


class LastMoment(NamedTuple):
    """Holds what is known at the end of a log: the last rows of the tables of `Ended`.

    start: int, UTC seconds.  first: int32 `(num_items + 1,)`.  prior, popular: float32
    `(num_items + 1,)`.  popular_at: float32 `(kinds, num_items + 1)`, or `(num_items + 1,)` in
    versions of before 2026-12.
    """

    start: int
    first: np.ndarray
    prior: np.ndarray
    popular: np.ndarray
    popular_at: np.ndarray


def log_shares(scores: np.ndarray) -> np.ndarray:
    """Computes log softmax over the items, float32 `(..., num_items + 1)`; padding has -inf.

    >>> np.exp(log_shares(np.array([9.0, 0.0, np.log(3)]))).tolist()
    [0.0, 0.25, 0.75]
    """
    scores = np.asarray(scores, np.float32).copy()
    scores[..., 0] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(
        np.float32
    )


class Visits:
    """Knows who was here in the `PAUSE` seconds before, to say which newer events open a visit."""

    def __init__(self) -> None:
        self._here = pd.Series(dtype=np.int64)  # user -> time of the newest event

    def opens(self, users: ArrayLike, times: np.ndarray) -> np.ndarray:
        """Learns of newer events, in any order, and says which of them open a visit.

        One that is told of half an hour too late may count as opening.

        Args:
            users: ids, `(n,)`.
            times: UTC seconds, `(n,)`.

        >>> visits = Visits()
        >>> visits.opens(["a", "b"], np.array([100, 200])).tolist()
        [True, True]
        >>> visits.opens(["b", "a"], np.array([300, 9000])).tolist()
        [False, True]
        """
        names = np.concatenate([self._here.index.to_numpy(object), np.asarray(users, object)])
        all_times = np.concatenate([self._here.to_numpy(np.int64), times])
        found = opens_after(pd.factorize(names)[0], all_times)[len(self._here) :]
        newest = pd.Series(all_times, index=names).groupby(level=0).max()
        self._here = newest[newest > all_times.max(initial=0) - PAUSE]
        return found & (times > 0)


class Recency(NamedTuple):
    """Holds the counts at the end of a log and the weights of their features.

    A version keeps it, so that newer events can bring the version up to date.

    counts: `Counts` at the end.  weights: `(num_plain,)`, beside the other parts of a fusion.
    popular_weights: `(KINDS, num_features)`, alone: what is popular with each kind of users, or one
    row for all; the last row answers a user without a history. In versions of before 2026-12
    `(num_plain,)`.
    """

    counts: Counts
    weights: np.ndarray
    popular_weights: np.ndarray

    def priors(self) -> tuple[np.ndarray, ...]:
        """Gives `(prior, popular)` at the end of the log, float32 `(num_items + 1,)` the prior.

        What is popular is `(KINDS, num_items + 1)`, as `popular_weights`.
        """
        features = self.counts.features()
        return tuple(
            (weights @ features[: weights.shape[-1]]).astype(np.float32) for weights in self[1:]
        )

    def description(self) -> dict[str, dict[str, float]]:
        """Describes the weights of the features in both priors, as plain data for the manifest."""
        hours, opening = HALF_LIVES // 3600, OPENING_HALF_LIVES // 3600
        names = [f"recent, half-life {number} h" for number in hours[: len(self.counts.recent)]]
        names += ["all", "new"]
        names += [f"opening a visit, half-life {n} h" for n in opening[: len(self.counts.opening)]]
        popular = np.atleast_2d(self.popular_weights)
        priors = {f"popular{kind}": w for kind, w in zip(_KIND_NAMES, popular, strict=False)}
        priors = {"prior": self.weights, **priors}
        return {
            prior: {n: round(float(w), 4) for n, w in zip(names, weights, strict=False)}
            for prior, weights in priors.items()
        }

    def at_end(
        self,
        starts: np.ndarray,
        first: np.ndarray,
        prior: np.ndarray,
        popular_at: np.ndarray | None = None,
    ) -> "Ended":
        """Brings what a server looks up to the end of the log that these counts know.

        A later end becomes one more moment, because the moments before must not know it. There are
        two exceptions: a single moment takes the new counts itself, so that the time of a question
        makes no difference; and so does the last moment where the end is no later. When the number
        of moments has reached its limit, the oldest is removed.

        Args:
            starts, first, prior, popular_at: as in `Fusion`.

        Returns:
            `Ended`.
        """
        row, popular = self.priors()
        end = max(int(starts[-1]), self.counts.time)
        tables = [(prior, row)]
        if popular_at is not None:
            tables.append((popular_at, log_shares(popular)))
        kept = len(starts) - (len(starts) == 1 or end == starts[-1])
        starts = np.append(starts[:kept], end)
        grown = [
            np.concatenate([table[..., :kept, :], _as_row_of(table, new)], axis=-2)
            for table, new in tables
        ]
        last = len(starts) - 1
        first = np.where(self.counts.total > 0, np.minimum(first, last), first)
        if len(starts) > most_moments(len(row)):
            starts, grown = starts[1:], [table[..., 1:, :] for table in grown]
            first = np.where(first == NEVER, NEVER, np.maximum(first - 1, 0))
        prior, *rest = grown
        popular_at = rest[0] if rest else None
        newcomers = popular if popular.ndim == 1 else popular[-1]
        return Ended(starts.astype(np.int64), first.astype(np.int32), prior, newcomers, popular_at)

    def last_moment(self, starts: np.ndarray, first: np.ndarray) -> LastMoment:
        """Gives what is known at the end, to take the place of the last moment.

        That is for a server, which looks often: a moment for each look would push the others out.

        Args:
            starts, first: as in `Fusion`.
        """
        prior, popular = self.priors()
        first = np.where(self.counts.total > 0, np.minimum(first, len(starts) - 1), first)
        return LastMoment(
            max(int(starts[-1]), self.counts.time),
            first.astype(np.int32),
            prior,
            popular if popular.ndim == 1 else popular[-1],
            log_shares(popular),
        )

    def after(self, histories: Histories) -> tuple["Recency", int]:
        """Adds the events of `Histories` that are later than the end.

        Earlier ones are not counted again; those of the half hour before say which visits go on.

        Returns:
            `(Recency, number of events that were new)`.
        """
        is_newer = histories.chosen & (histories.timestamps > self.counts.time)
        newer = histories.where(is_newer)
        if not self.counts.time or not len(newer.items):
            return self, 0
        until, opens = int(newer.timestamps.max()), opening_events(histories)[is_newer]
        given = newer.items, newer.timestamps, newer.values, opens
        return self._replace(counts=self.counts.after(*given, until=until)), len(newer.items)

    def save(self, path: str | Path) -> None:
        """Writes an .npz file."""
        counts = self.counts._asdict()
        np.savez(path, **counts, weights=self.weights, popular_weights=self.popular_weights)

    @classmethod
    def load(cls, path: str | Path) -> "Recency":
        """Reads what `save` wrote."""
        with np.load(path) as saved:
            total = saved["total"]
            recent = saved["recent"]
            if "opening" in saved:
                opening = saved["opening"]
            else:  # of before 2026-12: they are counted from now on
                rows = len(OPENING_HALF_LIVES) if len(recent) else 0
                opening = np.zeros((rows, len(total)))
            counts = Counts(int(saved["time"]), recent, total, opening)
            return cls(counts, saved["weights"], saved["popular_weights"])


def asked_at_the_end(histories: Histories, held_out: Histories) -> bool:
    """Says whether all held-out events are later than the log, as in a split by time.

    Lists are then made once, at the end of the log; else (each user's last events held out) a list
    is asked for at the user's newest event.
    """
    known = held_out.timestamps.any() and histories.timestamps.any()
    return bool(known and held_out.timestamps.min() >= histories.timestamps.max())


def newest_times(histories: Histories) -> np.ndarray:
    """Finds the newest time of every history: int64 `(num_users,)`; 0 = no event or no time."""
    times = np.zeros(histories.num_users, np.int64)
    has = histories.lengths > 0
    times[has] = histories.timestamps[histories.offsets[1:][has] - 1]
    return times
