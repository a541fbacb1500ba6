"""`ServedRules`: the rules of a shop in the lists of `/v1/recommend`, read again when their file
changes.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kerasrec.data.events import EVENT_CODES
from kerasrec.features.shoprules import Past, ShopRules, read_shop_rules
from kerasrec.recommender.ruled import merged
from kerasrec.serving.servedversion import ServedVersion

log = logging.getLogger(__name__)
_LOOK = 1.0  # seconds between two looks at the file
_SAY_AGAIN = 60.0  # seconds between two lines of the log on the same error
#: item ids and scores of a list, best first
Listed = tuple[list[str], list[float]]
#: ids, times and names of events of one user
PastEvents = tuple[list[str], list[int], list[str]]


class ServedRules:
    """The rules of a file.

    Args:
        path: of the YAML file.

    Raises:
        FileNotFoundError, ValueError: as `read_shop_rules`.
    """

    def __init__(self, path: str | Path) -> None:
        self._path, self._lock = Path(path), threading.Lock()
        self._rules, self._look = read_shop_rules(self._path), self._state()
        self._next = 0.0
        self._said: dict[tuple[str, int, str], float] = {}  # error -> when it may be said again

    def _state(self):
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def now(self) -> ShopRules:
        """The rules as the file has them; those of before where it cannot be read any more."""
        with self._lock:
            if time.monotonic() < self._next:
                return self._rules
            self._next = time.monotonic() + _LOOK
            state = self._state()
            if state != self._look:
                self._look = state
                try:
                    self._rules = read_shop_rules(self._path)
                    log.info("rules read again", extra={"file": str(self._path)})
                except (OSError, ValueError) as error:
                    log.error("the rules stay as they were", extra={"error": str(error)})
            return self._rules

    def bought(self, version: ServedVersion, item_ids: Sequence[str]) -> list[str]:
        """Those of some bought items that may not be listed again; all, where no rule keeps any."""
        rules, filters = self.now(), version.filters
        if rules.keep_purchased is None or not item_ids:
            return list(item_ids)
        index = filters.index_of(item_ids)
        try:
            kept = rules.is_kept(np.maximum(index, 1), filters.columns) & (index > 0)
        except ValueError as error:
            self._say(version, str(error))
            return list(item_ids)
        return [item for item, is_kept in zip(item_ids, kept, strict=True) if not is_kept]

    def _say(self, version: ServedVersion, error: str) -> None:
        """Logs that lists of a version are without the rules, at most once a minute."""
        with self._lock:
            key, now = (version.model, version.number, error), time.monotonic()
            if now < self._said.get(key, 0.0):
                return
            self._said = {one: until for one, until in self._said.items() if now < until}
            self._said[key] = now + _SAY_AGAIN
        facts = {"model": version.model, "version": version.number, "error": error}
        log.error("lists without the rules", extra=facts)

    def ordered(
        self,
        version: ServedVersion,
        make: Callable[[str], Listed],
        k: int,
        where: str,
        past: Callable[[ShopRules], PastEvents] | None = None,
    ) -> Listed:
        """A list by the rules; without them where the catalogue of a version has not their columns.

        Args:
            version: that makes the lists.
            make: function of a condition, "" = none, that gives its whole list.
            k: length of the list.
            where: the condition of the list.
            past: function of the rules that gives what the user did within their pauses: ids,
                times, names of events; None = nothing.
        """
        rules, filters, now = self.now(), version.filters, time.time()
        listed = make(where)
        try:
            rules.check(filters.columns)
        except ValueError as error:
            self._say(version, str(error))
            return listed[0][:k], listed[1][:k]
        lists = [listed]
        for pin in rules.pinned(now):
            both = pin.where.key if not where else f'{{"and": [{where}, {pin.where.key}]}}'
            lists.append(make(both))
        parts = [(filters.index_of(ids), np.array(scores)) for ids, scores in lists]
        names = {
            item: name
            for (items, _), (ids, _) in zip(parts, lists, strict=True)
            for item, name in zip(items.tolist(), ids, strict=True)
        }
        cut = [(items[: rules.look], scores[: rules.look]) for items, scores in parts]
        index, scores = merged(cut)
        if rules.pause and past is not None:
            had, times, kinds = past(rules)
            of_catalogue = filters.index_of(had)
            codes = np.array([EVENT_CODES.get(kind, 0) for kind in kinds], np.int64)
            known = of_catalogue > 0
            done = Past(of_catalogue[known], np.array(times, np.int64)[known], codes[known])
            out = rules.paused(index, done, columns=filters.columns, moment=now)
            index, scores = index[~out], scores[~out]
        found = rules.order(
            index, scores, k, columns=filters.columns, now=now, vectors=version.vectors_at
        )
        return [names[item] for item in index[found.places].tolist()], found.scores.tolist()
