"""`Observer`: brings the served versions up to date with a feedback store.

It learns what is recent and what follows what, as `Recommender.observe` and `remember` do: without
training, beside the requests.
"""

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from kerasrec.data.histories import Histories
from kerasrec.feedback.recentlog import AT_ONCE, MOST_EVENTS, RecentLog, pause, told_of
from kerasrec.feedback.store import FeedbackStore
from kerasrec.fusion.following import GROWN, Following, add_new
from kerasrec.fusion.recency import HALF_LIVES, PAUSE, Counts, LastMoment, Recency, Visits
from kerasrec.serving.admission import Refusal
from kerasrec.serving.predictor import Predictor
from kerasrec.serving.servedversion import ServedVersion
from kerasrec.versions import folders
from kerasrec.versions.loaded import MomentTables
from kerasrec.versions.manifest import Manifest

log = logging.getLogger(__name__)
_DAYS = int(np.flatnonzero(HALF_LIVES == 96 * 3600)[0])
#: a store that sees fewer events than this share of those a version was trained on (about, over the
#: last days) is not the whole log: the popular items would be those of a few users
_SHARE = 0.1
#: a store that holds fewer than this share of what a version was trained on, by the weights of the
#: events that users chose, is not its log: a table fitted on it would forget the others
_HELD = 0.9
#: tables are not fitted again before so many times the seconds that the last fit took
_REST = 20


class Observer:
    """Teaches all loaded versions the new events of a store.

    What is recent is brought up to date at every look, where the store sees a tenth of the events
    that the version knows of the last days; a forgotten user counts until the version is loaded
    anew.

    What follows what, the tables "transitions" and "follows", is fitted when a version has been
    loaded, and again after an erasure or when the log has grown by 2 %, on all events of the store
    or its newest `most`, without users who were forgotten. In between the tables grow by the new
    events, but not those of a large catalogue, of which an index answers. Fitting takes at most
    1/20 of the time, so it may come later. Where the store does not hold the log that the version
    was trained on, these tables stay as they were trained, forgotten users included;
    `update_from_store` then trains from nothing.

    Where the tables grow, a `Guard` compares what the version lists with what counting alone lists,
    on what users then took. A version that falls behind for sure answers by counts from then on.

    Args:
        predictor: `Predictor`; its models are kept up to date.
        store: `FeedbackStore`.
        most: events at most that tables are fitted on; memory and time grow with them.
    """

    def __init__(
        self, predictor: Predictor, store: FeedbackStore, *, most: int = MOST_EVENTS
    ) -> None:
        self._predictor, self._store = predictor, store
        self._tracked: weakref.WeakKeyDictionary[ServedVersion, _Tracked | None] = (
            weakref.WeakKeyDictionary()
        )
        self._recent, self._most = RecentLog(most), most
        self._fit_from = 0.0  # on the clock of time.monotonic: no fit before

    def run(self, stopping: threading.Event, seconds: float) -> None:
        """Looks at the store every `seconds` until the event `stopping` is set."""
        while not stopping.wait(seconds):
            # what is recent last, and no more of it: a `Guard` compares lists that do not know the
            # new events
            for look in (self.remember, lambda is_over: self.refresh(is_over, self._recent.seq)):
                try:
                    look(stopping.is_set)
                except Exception as error:  # the store may be back at the next look
                    log.error("events of the store not learned", extra={"error": str(error)})

    def refresh(
        self, is_over: Callable[[], bool] = lambda: False, until: int = 0
    ) -> dict[tuple[str, int], int]:
        """Counts what is recent; requests wait only while the tables are exchanged.

        Args:
            is_over: function that says whether to give up.
            until: seq of the newest event that is counted; 0 = all.

        Returns:
            dict of `(model, version)` -> number of events that were new to it and now count.
        """
        last = until or self._store.last_seq()
        return {
            (version.model, version.number): self._bring(version, tracked, last, is_over)
            for version, tracked in self._versions(is_over)
        }

    def remember(self, is_over: Callable[[], bool] = lambda: False) -> dict[tuple[str, int], bool]:
        """Learns what follows what.

        Where only a little is new, the counts of a fit grow by it. Else the tables are fitted anew,
        unless the last fit was too short a while ago.

        Args:
            is_over: function that says whether to give up.

        Returns:
            dict of `(model, version)` -> whether its tables were exchanged.
        """
        if not any(f and f.has_following for _, f in self._versions(is_over)):
            return {}
        self._recent.read(self._store, is_over)
        may_fit = time.monotonic() >= self._fit_from
        return {
            (version.model, version.number): self._learn(version, tracked, may_fit, is_over)
            for version, tracked in self._versions(is_over)
        }

    def _versions(
        self, is_over: Callable[[], bool]
    ) -> "Iterator[tuple[ServedVersion, _Tracked | None]]":
        """Yields the loaded versions, and of each its `_Tracked`."""
        for model in self._predictor.models.values():
            for number in model.numbers:
                if is_over():
                    return
                with contextlib.suppress(Refusal), model.use(version=number) as version:
                    if version not in self._tracked:
                        self._tracked[version] = _track(version, self._store)
                    yield version, self._tracked[version]

    def _bring(
        self,
        version: ServedVersion,
        tracked: "_Tracked | None",
        last: int,
        is_over: Callable[[], bool],
    ) -> int:
        if tracked is None:
            return 0
        tracked.read(self._store, last, is_over)
        if not tracked.waiting:
            return 0
        facts = {"model": version.model, "version": version.number, "events": tracked.waiting}
        if not tracked.is_whole():
            log.debug("too few events to say what is recent", extra=facts)
            return 0
        if tracked.is_first_look:
            is_taken = self._exchange(facts, version.set_moments, tracked.tables(version.moments()))
        else:
            now = tracked.last_moment(version)
            is_taken = self._exchange(facts, version.set_last_moment, now)
        if not is_taken:
            return 0
        tracked.is_first_look = False
        count, tracked.waiting = tracked.waiting, 0
        log.debug("recent events observed", extra=facts)
        return count

    def _learn(
        self,
        version: ServedVersion,
        tracked: "_Tracked | None",
        may_fit: bool,
        is_over: Callable[[], bool],
    ) -> bool:
        """Lets the tables of a version grow, or fits them anew; whether they were exchanged."""
        state = self._recent.state
        if tracked is None or not tracked.has_following:
            return False
        guard = tracked.guard
        if guard is not None and guard.is_lost and not tracked.counts_alone:
            self._count_alone(version, tracked)
        if tracked.looked_at == state:  # rows may be left over that the busy server did not take
            return tracked.following is not None and self._exchange_rows(version, tracked)
        more = tracked.more(self._recent)
        if more is not None:
            self._watch(version, tracked)
            if not may_fit or tracked.is_little(more[1]):
                return self._grow(version, tracked, *more)
        return may_fit and self._fit(version, tracked, is_over)

    def _fit(
        self, version: ServedVersion, tracked: "_Tracked", is_over: Callable[[], bool]
    ) -> bool:
        began, state = time.perf_counter(), self._recent.state
        histories = self._recent.histories(tracked.ids)
        facts = {"model": version.model, "version": version.number, "events": len(histories.items)}
        held, trained_on = tracked.held(histories, self._recent)
        is_full = len(histories.items) >= _HELD * self._most  # older ones are not needed
        is_held = is_full or is_the_log(held, trained_on)
        counts, found = version.following(histories) if is_held else (None, {})
        seconds = time.perf_counter() - began
        self._fit_from = max(self._fit_from, time.monotonic()) + _REST * seconds
        if not is_held:
            if not tracked.is_told:
                log.warning(
                    "what follows what stays as it was trained: the store does not hold the log "
                    "of the version; kerasrec feedback import puts it there",
                    extra={**facts, "held": held, "trained_on": trained_on},
                )
            tracked.is_told, tracked.looked_at = True, state
            return False
        facts["seconds"] = round(seconds, 3)
        if is_over() or not self._exchange(facts, version.set_following, found):
            return False
        tracked.looked_at = state
        tracked.following = counts if version.indexed is None else None
        tracked.fitted, tracked.added = len(histories.items), 0
        log.debug("what follows what learned", extra=facts)
        return True

    def _grow(
        self, version: ServedVersion, tracked: "_Tracked", histories: Histories, is_new: np.ndarray
    ) -> bool:
        """Adds new events to the counts of the last fit, and exchanges the rows they change."""
        counts = tracked.following
        assert counts is not None
        add_new(counts, histories, is_new)
        tracked.added += int(is_new.sum())
        tracked.looked_at = self._recent.state
        return self._exchange_rows(version, tracked)

    def _watch(self, version: ServedVersion, tracked: "_Tracked") -> None:
        """Compares the version with counting on new events; where it has lost, counting answers."""
        guard, count = tracked.guard, max(tracked.looked_at[1], tracked.compared)
        tracked.compared = self._recent.state[1]
        # what was recent at the last look has to be in the version
        if guard is None or tracked.is_first_look or tracked.waiting:
            return
        assert tracked.following is not None
        histories, is_new = self._recent.newer(tracked.ids, count)
        places = np.flatnonzero(is_new)
        places = places[np.argsort(histories.timestamps[places], kind="stable")]
        facts = {"model": version.model, "version": version.number}
        try:
            known = tracked.following, tracked.counts
            has_lost = version.watch(guard, histories, places, known)
        except Exception as error:  # the tables have to grow all the same
            log.error("the model is not compared any more", extra={**facts, "error": str(error)})
            tracked.guard = None
            return
        if has_lost:
            log.warning(
                "counting alone lists better than the model: it answers until the next version",
                extra={**facts, "ndcg_gain": round(guard.gain, 4), "events": guard.events},
            )
        if guard.is_lost:
            self._count_alone(version, tracked)

    def _count_alone(self, version: ServedVersion, tracked: "_Tracked") -> None:
        """Lets counting answer, with the shares of now; tried again where the server is busy."""
        assert tracked.guard is not None
        now = version.last_moment(tracked.recency())
        now = tracked.guard.counting.moment(now, tracked.counts)
        mixture = tracked.guard.counting.mixture()
        facts = {"model": version.model, "version": version.number}
        if self._exchange(facts, version.count_alone, mixture, now):
            tracked.counts_alone = True

    def _exchange_rows(self, version: ServedVersion, tracked: "_Tracked") -> bool:
        """Gives a version the rows that changed; those that it does not take stay noted."""
        counts = tracked.following
        assert counts is not None
        rows = version.changed_rows(counts)
        if not any(len(part.items) for part in rows.values()):
            return False
        facts = {"model": version.model, "version": version.number}
        if not self._exchange(facts, version.set_rows, rows):
            return False
        counts.forget_changes()
        log.debug("what follows what has grown", extra=facts)
        return True

    def _exchange(self, facts: dict[str, Any], take: Callable[..., None], *tables: Any) -> bool:
        """Whether a version has taken tables while nobody asked it."""
        try:
            with self._predictor.alone():
                take(*tables)
        except TimeoutError:
            log.warning("events of the store wait: the server is busy", extra=facts)
            return False
        return True


def _track(version: ServedVersion, store: FeedbackStore) -> "_Tracked | None":
    """`_Tracked` of a version, None where it has no times or cannot take any."""
    recency = Recency.load(version.path / folders.RECENCY)
    if not recency.counts.time or not len(recency.counts.recent):
        return None
    return _Tracked(version, recency, store)


def sees_all_users(now: Counts, saved: Counts) -> bool:
    """Whether a log after that of a version seems to have the events of all users.

    Args:
        now: `Counts` of what the version knew and of the log.
        saved: `Counts` that the version was saved with.
    """
    return bool(now.recent[_DAYS].sum() >= _SHARE * saved.recent[_DAYS].sum())


def weigh_held(histories: Histories, saved: Counts, *, erased: int = 0) -> tuple[int, int]:
    """Weighs the events of a version's training log: those that a log holds, and all; see `held`.

    Args:
        histories: `Histories` of the log.
        saved: `Counts` that the version was saved with.
        erased: events of users who were forgotten since.
    """
    weights = histories.values[histories.chosen & (histories.timestamps <= saved.time)]
    held = weights.sum() + erased * weights.max(initial=1)
    return round(float(held)), round(float(saved.total.sum()))


def is_the_log(held: int, trained_on: int) -> bool:
    """Whether what is held (`weigh_held`) is the log that a version was trained on."""
    return held >= _HELD * trained_on


class _Tracked:
    """The counts that a version was saved with, and the events that came since."""

    def __init__(self, version: ServedVersion, recency: Recency, store: FeedbackStore) -> None:
        manifest = folders.read_manifest(version.path)
        self._saved = recency
        self.is_first_look = True  # the version has no moment yet for what is seen here
        self.ids = folders.read_catalogue(version.path)["item_id"].to_numpy(object)
        self._index, self.counts = pd.Index(self.ids), recency.counts
        self._seq, self._since = _begin(manifest, recency.counts.time, store)
        self._visits = Visits()
        if self._seq:  # who was here at the end of its log goes on with a visit
            end = recency.counts.time
            at_its_end = store.interactions(since=end - PAUSE, before=end + 1, until=self._seq)
            self._opens(at_its_end.frame)
        self.waiting = 0  # events that are counted but not in the version's tables
        self.has_following = version.has_following
        self.looked_at = (0, 0)  # state of the `RecentLog` at which its tables were dealt with
        self.following: Following | None = None  # counts of the last fit, and what came since
        self.fitted, self.added = 0, 0  # events of that fit, and since
        self.guard = version.guard()
        self.counts_alone = False  # whether it has taken over
        self.compared = 0  # events of the `RecentLog` that it has seen
        self.is_told = False  # whether the operator knows that the table stays

    def read(self, store: FeedbackStore, last: int, is_over: Callable[[], bool]) -> None:
        """Counts the events up to a seq that the version does not know."""
        while self._seq < last and not is_over():
            began, until = time.perf_counter(), min(self._seq + AT_ONCE, last)
            # those of the half hour before do not count, but say which visits go on
            since = None if self._since is None else self._since - PAUSE
            part = store.interactions(after=self._seq, until=until, since=since, order="seq")
            self._count(part.frame)
            self._seq = until
            if until < last:
                pause(began)

    def _count(self, frame: pd.DataFrame) -> None:
        items, weights, opens = self._opens(frame)
        times = np.minimum(frame["timestamp"].to_numpy(), int(time.time()))
        chosen = (items > 0) & (weights > 0)
        if self._since is not None:
            chosen &= times >= self._since
        if not chosen.any():
            return
        until = max(self.counts.time, int(times[chosen].max()))
        given = (part[chosen] for part in (items, times, weights, opens))
        self.counts = self.counts.after(*given, until=until)
        self.waiting += int(chosen.sum())

    def _opens(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Item index (0 = unknown) and weight of each event, and whether it opens a visit."""
        items = self._index.get_indexer(frame["item_id"].astype(object)) + 1
        opens, known = np.zeros(len(frame), bool), items > 0
        part = frame[known]
        # a wrong clock must not make everything else look long ago
        times = np.minimum(part["timestamp"].to_numpy(), int(time.time()))
        opens[known] = self._visits.opens(part["user_id"], times)
        return items, frame["weight"].to_numpy(float), opens

    def is_whole(self) -> bool:
        """Whether the store seems to get the events of all users."""
        return sees_all_users(self.counts, self._saved.counts)

    def held(self, histories: Histories, stored: RecentLog) -> tuple[int, int]:
        """Weighs the events of the version's training log: those that the store holds, and all.

        Events that users chose count, by their weights. Erased ones count as held, at the largest
        weight: else a table would stay because of an erasure.

        Args:
            histories: `Histories` of the store.
            stored: `RecentLog`.
        """
        saved = self._saved.counts
        return weigh_held(histories, saved, erased=stored.erased_since(saved.time))

    def more(self, stored: RecentLog) -> tuple[Histories, np.ndarray] | None:
        """Finds what came since the tables were made, where the counts of the last fit can grow.

        Returns:
            As `RecentLog.newer`; None where they cannot: after an erasure, or without counts.
        """
        erasures, count = self.looked_at
        if self.following is None or stored.state[0] != erasures:
            return None
        return stored.newer(self.ids, count)

    def is_little(self, is_new: np.ndarray) -> bool:
        """Whether so little is new that no fit is needed."""
        return bool(self.fitted + self.added + is_new.sum() < GROWN * self.fitted)

    def tables(self, moments: MomentTables) -> MomentTables:
        """What is new and popular at the moments of the version, and at one more: now."""
        starts, first, prior, _, popular_at = moments
        return MomentTables(*self.recency().at_end(starts, first, prior, popular_at))

    def last_moment(self, version: ServedVersion) -> LastMoment:
        """What is recent now, as the last moment of a version."""
        last = version.last_moment(self.recency())
        if self.guard is not None and self.counts_alone:
            return self.guard.counting.moment(last, self.counts)
        return last

    def recency(self) -> Recency:
        """What is recent now."""
        return self._saved._replace(counts=self.counts)


def _begin(manifest: Manifest, end: int, store: FeedbackStore) -> tuple[int, int | None]:
    """`(seq, time)` from which on events of a store are unknown to a version.

    A version that was updated from the same store knows it up to a seq: events that were stored
    later count, also where they happened earlier. They do not count where they happened before the
    end of a log that was learned from files, which may be imported at any time. Of any other
    version only the end of its log is known: earlier events that came in later are taken for known.
    """
    told = told_of(store, manifest)
    if told is not None and told.seq is not None and manifest.observed != end:
        return told.seq, told.since
    return 0, end + 1
