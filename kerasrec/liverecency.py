"""What is recent in the versions that are served, brought up to date with a feedback store.

As `Recommender.observe` does, without training, beside the requests.
"""

import contextlib
import logging
import time
import weakref

import numpy as np
import pandas as pd

from kerasrec import artifacts
from kerasrec.recency import HALF_LIVES, Recency
from kerasrec.servinglimits import Refusal

log = logging.getLogger(__name__)
_AT_ONCE = 5_000  # events of one read; between two the requests have the interpreter
_DAYS = int(np.flatnonzero(HALF_LIVES == 96 * 3600)[0])
#: a store that sees fewer events than this share of those a version was trained on (about, over the
#: last days) is not the whole log: the popular items would be those of a few users
_SHARE = 0.1


class LiveRecency:
    """Observes new events of a store on all loaded versions.

    Args:
        predictor: `Predictor`; its models are kept up to date.
        store: `FeedbackStore`.
    """

    def __init__(self, predictor, store):
        self._predictor, self._store = predictor, store
        self._followed = weakref.WeakKeyDictionary()  # ServedVersion -> _Followed or None

    def run(self, stopping, seconds):
        """Refresh every so many seconds until the event `stopping` is set."""
        while not stopping.wait(seconds):
            try:
                self.refresh(stopping.is_set)
            except Exception as error:  # the store may be back at the next look
                log.error("recent events not observed", extra={"error": str(error)})

    def refresh(self, is_over=lambda: False):
        """Look at the store once; requests wait only while the tables are exchanged.

        Args:
            is_over: function that says whether to give up.

        Returns:
            dict of `(model, version)` -> number of events that were new to it and now count.
        """
        found = {}
        last = self._store.last_seq()
        for model in self._predictor.models.values():
            for number in model.numbers:
                if is_over():
                    return found
                with contextlib.suppress(Refusal), model.use(version=number) as version:
                    found[model.name, number] = self._bring(version, last, is_over)
        return found

    def _bring(self, version, last, is_over):
        if version not in self._followed:
            self._followed[version] = _follow(version)
        followed = self._followed[version]
        if followed is None:
            return 0
        followed.read(self._store, last, is_over)
        if not followed.waiting:
            return 0
        facts = {"model": version.model, "version": version.number, "events": followed.waiting}
        if not followed.is_whole():
            log.debug("too few events to say what is recent", extra=facts)
            return 0
        tables = followed.tables()
        try:
            with self._predictor.alone():
                version.set_moments(*tables)
        except TimeoutError:
            log.warning("recent events wait: the server is busy", extra=facts)
            return 0
        followed.waiting = 0
        log.debug("recent events observed", extra=facts)
        return facts["events"]


def _follow(version):
    """`_Followed` of a version, None where it has no times or cannot take any."""
    recency = Recency.load(version.path / artifacts.RECENCY)
    if not recency.counts.time or not len(recency.counts.recent):
        return None
    return _Followed(version, recency)


class _Followed:
    """What a version was saved with, and what has been counted since."""

    def __init__(self, version, recency):
        self._saved, self._moments = recency, version.moments()
        self._ids = pd.Index(artifacts.read_catalogue(version.path)["item_id"])
        self._counts, self._seq = recency.counts, 0
        self.waiting = 0  # events that are counted but not in the version's tables

    def read(self, store, last, is_over):
        """Count the events up to a seq that are later than the version's log."""
        while self._seq < last and not is_over():
            began, until = time.perf_counter(), min(self._seq + _AT_ONCE, last)
            since = self._saved.counts.time + 1
            part = store.interactions(after=self._seq, until=until, since=since, order="seq")
            self._count(part.frame)
            self._seq = until
            if until < last:
                time.sleep(min(time.perf_counter() - began, 0.5))

    def _count(self, frame):
        items = self._ids.get_indexer(frame["item_id"].astype(object)) + 1
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

    def tables(self):
        """`(starts, first, prior, popularity)`: those of the version and one more moment, now."""
        return self._saved._replace(counts=self._counts).at_end(*self._moments)
