"""The versions that are served, brought up to date with a feedback store.

What is recent and what follows what, as `Recommender.observe` and `remember` have it: without
training, beside the requests.
"""

import contextlib
import logging
import time
import weakref

import numpy as np
import pandas as pd

from kerasrec.feedback.recentlog import AT_ONCE, MOST_EVENTS, RecentLog, pause, told_of
from kerasrec.fusion.recency import HALF_LIVES, Recency
from kerasrec.serving.limits import Refusal
from kerasrec.versions import folders

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


class LiveLog:
    """Learns new events of a store with all loaded versions.

    What is recent is brought up to date at every look, where the store sees a tenth of the events
    that the version knows of the last days; who is forgotten counts until the version is loaded
    anew. What follows what, the table "transitions", is fitted once a version is loaded and again
    after new events or an erasure, 1/20 of the time at most, so not at once: on all events of the
    store or its newest `most`, without who was forgotten. Where the store does not hold what the
    version was trained on, this table stays as it was trained, with who was forgotten since: that
    is for `update_from_store`, which then trains from nothing.

    Args:
        predictor: `Predictor`; its models are kept up to date.
        store: `FeedbackStore`.
        most: events at most that tables are fitted on; memory and time grow with them.
    """

    def __init__(self, predictor, store, *, most=MOST_EVENTS):
        self._predictor, self._store = predictor, store
        self._tracked = weakref.WeakKeyDictionary()  # ServedVersion -> _Tracked or None
        self._log, self._most = RecentLog(most), most
        self._fit_from = 0.0  # on the clock of time.monotonic: no fit before

    def run(self, stopping, seconds):
        """Look every so many seconds until the event `stopping` is set."""
        while not stopping.wait(seconds):
            for look in (self.refresh, self.remember):
                try:
                    look(stopping.is_set)
                except Exception as error:  # the store may be back at the next look
                    log.error("events of the store not learned", extra={"error": str(error)})

    def refresh(self, is_over=lambda: False):
        """Count what is recent; requests wait only while the tables are exchanged.

        Args:
            is_over: function that says whether to give up.

        Returns:
            dict of `(model, version)` -> number of events that were new to it and now count.
        """
        last = self._store.last_seq()
        return {
            (version.model, version.number): self._bring(version, tracked, last, is_over)
            for version, tracked in self._versions(is_over)
        }

    def remember(self, is_over=lambda: False):
        """Fit what follows what anew, unless the last fit was too short a while ago.

        Args:
            is_over: function that says whether to give up.

        Returns:
            dict of `(model, version)` -> whether its table was exchanged.
        """
        if time.monotonic() < self._fit_from:
            return {}
        if not any(f and f.has_transitions for _, f in self._versions(is_over)):
            return {}
        self._log.read(self._store, is_over)
        return {
            (version.model, version.number): self._fit(version, tracked, is_over)
            for version, tracked in self._versions(is_over)
        }

    def _versions(self, is_over):
        """Yields the loaded versions, and of each its `_Tracked`."""
        for model in self._predictor.models.values():
            for number in model.numbers:
                if is_over():
                    return
                with contextlib.suppress(Refusal), model.use(version=number) as version:
                    if version not in self._tracked:
                        self._tracked[version] = _track(version, self._store)
                    yield version, self._tracked[version]

    def _bring(self, version, tracked, last, is_over):
        if tracked is None:
            return 0
        tracked.read(self._store, last, is_over)
        if not tracked.waiting:
            return 0
        facts = {"model": version.model, "version": version.number, "events": tracked.waiting}
        if not tracked.is_whole():
            log.debug("too few events to say what is recent", extra=facts)
            return 0
        if not self._exchange(facts, version.set_moments, *tracked.tables()):
            return 0
        tracked.waiting = 0
        log.debug("recent events observed", extra=facts)
        return facts["events"]

    def _fit(self, version, tracked, is_over):
        began, state = time.perf_counter(), self._log.state
        if tracked is None or not tracked.has_transitions or tracked.looked_at == state:
            return False
        histories = self._log.histories(tracked.ids)
        facts = {"model": version.model, "version": version.number, "events": len(histories.items)}
        held, trained_on = tracked.held(histories, self._log)
        is_full = len(histories.items) >= _HELD * self._most  # older ones are not needed
        is_held = is_full or held >= _HELD * trained_on
        found = version.transitions(histories) if is_held else ()
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
        if is_over() or not self._exchange(facts, version.set_transitions, *found):
            return False
        tracked.looked_at = state
        log.debug("what follows what learned", extra=facts)
        return True

    def _exchange(self, facts, take, *tables):
        """Whether a version has taken tables while nobody asked it."""
        try:
            with self._predictor.alone():
                take(*tables)
        except TimeoutError:
            log.warning("events of the store wait: the server is busy", extra=facts)
            return False
        return True


def _track(version, store):
    """`_Tracked` of a version, None where it has no times or cannot take any."""
    recency = Recency.load(version.path / folders.RECENCY)
    if not recency.counts.time or not len(recency.counts.recent):
        return None
    return _Tracked(version, recency, store)


class _Tracked:
    """What a version was saved with, and what has been counted since."""

    def __init__(self, version, recency, store):
        manifest = folders.read_manifest(version.path)
        self._saved, self._moments = recency, version.moments()
        self.ids = folders.read_catalogue(version.path)["item_id"].to_numpy(object)
        self._index, self._counts = pd.Index(self.ids), recency.counts
        self._seq, self._since = _begin(manifest, recency.counts.time, store)
        self.waiting = 0  # events that are counted but not in the version's tables
        self.has_transitions = version.has_transitions
        self.looked_at = (0, 0)  # state of the `RecentLog` at which its table was dealt with
        self.is_told = False  # whether the operator knows that the table stays

    def read(self, store, last, is_over):
        """Count the events up to a seq that the version does not know."""
        while self._seq < last and not is_over():
            began, until = time.perf_counter(), min(self._seq + AT_ONCE, last)
            part = store.interactions(after=self._seq, until=until, since=self._since, order="seq")
            self._count(part.frame)
            self._seq = until
            if until < last:
                pause(began)

    def _count(self, frame):
        items = self._index.get_indexer(frame["item_id"].astype(object)) + 1
        weights = frame["weight"].to_numpy(float)
        chosen = (items > 0) & (weights > 0)
        if not chosen.any():
            return
        # a wrong clock must not make everything else look long ago
        times = np.minimum(frame["timestamp"].to_numpy(), int(time.time()))[chosen]
        until = max(self._counts.time, int(times.max()))
        self._counts = self._counts.after(items[chosen], times, weights[chosen], until=until)
        self.waiting += int(chosen.sum())

    def is_whole(self):
        """Whether the store seems to get the events of all users."""
        return self._counts.recent[_DAYS].sum() >= _SHARE * self._saved.counts.recent[_DAYS].sum()

    def held(self, histories, stored):
        """What the store holds of what the version was trained on, and all of that.

        What users chose, by its weights; what was erased since counts as held, at the largest
        weight, or a table would stay because of an erasure.

        Args:
            histories: `Histories` of the store.
            stored: `RecentLog`.
        """
        end, total = self._saved.counts.time, self._saved.counts.total.sum()
        weights = histories.values[histories.chosen & (histories.timestamps <= end)]
        erased = stored.erased_since(end) * weights.max(initial=1)
        return round(float(weights.sum() + erased)), round(float(total))

    def tables(self):
        """`(starts, first, prior, popularity)`: those of the version and one more moment, now."""
        return self._saved._replace(counts=self._counts).at_end(*self._moments)


def _begin(manifest, end, store):
    """`(seq, time)` from which on events of a store are unknown to a version.

    A version that was updated from the same store knows it up to a seq, so that what was stored
    later counts also where it happened earlier; not where it happened before the end of a log that
    was learned from files, which may be imported at any time. Of another one nothing is known but
    the end of its log: what had happened by then and came in later is taken for known.
    """
    told = told_of(store, manifest)
    if told is not None and told.seq is not None and manifest.observed != end:
        return told.seq, told.since
    return 0, end + 1
