"""`VersionLog`: what a loaded version knows of its log, moved on without training."""

import logging
import time

import numpy as np

from kerasrec.data.histories import Histories
from kerasrec.fusion.counting import Counting
from kerasrec.fusion.following import Following, Rows
from kerasrec.fusion.fusion import FOLLOWING, Fusion
from kerasrec.fusion.neighbours import NeighbourTable
from kerasrec.fusion.recency import NEVER, Recency, log_shares
from kerasrec.versions.loaded import LoadedVersion, MomentTables

log = logging.getLogger(__name__)
_DAY = 86400


class VersionLog:
    """Recency and neighbour tables of a loaded version, in its own variables.

    Attributes:
        recency: `recency.Recency` at the end of what is known.

    Args:
        loaded: `LoadedVersion`.
        recency: `Recency` at the end of its log.
    """

    def __init__(self, loaded: LoadedVersion, recency: Recency):
        self._loaded, self._manifest, self.recency = loaded, loaded.manifest, recency
        self._has_live_moment = False  # whether the last moment is of observed events
        self._counting: Counting | None = None  # what ranks in the place of the model

    def observe(self, histories: Histories) -> int:
        """See `Recommender.observe`; takes `Histories`."""
        ahead = histories.timestamps > time.time() + _DAY
        if ahead.any() and self.recency.counts.time:
            # one wrong date would make everything else look long ago
            log.warning("events that lie in the future do not count as recent: %d", ahead.sum())
            histories = histories.where(~ahead)
        self.recency, count = self.recency.after(histories)
        if count:
            self._know_now()
        return count

    def _know_now(self):
        """Bring the last moment up to date; the first time it becomes one more."""
        if not self._has_live_moment:
            starts, first, prior, _, popular_at = self._loaded.moments()
            ended = self.recency.at_end(starts, first, prior, popular_at)
            self._loaded.set_moments(MomentTables(*ended))
            self._has_live_moment = True
            if self._counting is None:
                return
        last = self._loaded.last_moment(self.recency)
        if self._counting is not None:
            last = self._counting.moment(last, self.recency.counts)
        self._loaded.set_last_moment(last)

    def count_alone(self, counting: Counting) -> None:
        """See `Recommender.count_alone`."""
        self._counting = counting
        self._loaded.count_alone(counting.mixture())
        self._know_now()

    @property
    def is_counting(self) -> bool:
        """Whether `count_alone` was called."""
        return self._counting is not None

    def remember(self, histories: Histories, num_items: int) -> list[str]:
        """See `Recommender.remember`; takes `Histories`. Gives the names of the tables."""
        if not following_tables(self._loaded):
            return []
        _, tables = fit_following(self._loaded, histories, num_items)
        for name, table in tables.items():
            self._loaded.set_table(name, table)
        return list(tables)

    def grow(self, following: Following) -> None:
        """See `Recommender.grow`."""
        for name, rows in changed_rows(self._loaded, following).items():
            self._loaded.set_rows(name, rows)
        following.forget_changes()

    def has_room_for(self, fusion: Fusion) -> bool:
        """See `Recommender.has_room_for`."""
        facts = self._manifest.fusion
        return (
            self._loaded.knows_visits  # an older graph has fewer rows in mixture or `popular_at`
            and list(fusion.weights) == list(facts.weights)
            and list(fusion.mixture) == list(facts.mixture)
            and {name: table.decay for name, table in fusion.tables.items()} == facts.decays
        )

    def add_items(self, count: int) -> None:
        """Know of new items that nobody has chosen yet."""
        starts, first, prior, _, popular_at = self._loaded.moments()
        self.recency = self.recency._replace(counts=self.recency.counts.grown(count))
        newest, popularity = self.recency.priors()
        first = np.concatenate([first, np.full(count, NEVER, np.int32)])
        # no event at any moment: the same prior at all of them
        prior = np.concatenate([prior, np.tile(newest[-count:], (len(starts), 1))], axis=1)
        if popular_at is not None:
            last = log_shares(popularity)
            shape = (*popular_at.shape[:-1], count)
            newest = np.broadcast_to(last[..., None, -count:], shape)
            # shares of all items sum to 1, also with the new ones
            popular_at = log_shares(np.concatenate([popular_at, newest], axis=-1))
            popular_at[..., -1, :] = last
        popularity = popularity if popularity.ndim == 1 else popularity[-1]
        self._loaded.set_moments(MomentTables(starts, first, prior, popularity, popular_at))
        if self._counting is not None:
            self._know_now()

    def fusion(self, num_items: int) -> Fusion:
        """See `Recommender.fusion`."""
        facts = self._manifest.fusion
        tables = {}
        for name in self._loaded.decays:
            table = self._loaded.table(name)
            missing = [(0, num_items + 1 - len(table.neighbours)), (0, 0)]
            tables[name] = table._replace(
                neighbours=np.pad(table.neighbours, missing), weights=np.pad(table.weights, missing)
            )
        starts, first, prior, popular, popular_at = self._loaded.moments()
        return Fusion(
            tables=tables,
            weights={name: tuple(pair) for name, pair in facts.weights.items()},
            mixture=facts.mixture,
            scorer_weight=self._loaded.scorer_weight,
            fit=facts.fit,
            epsilon=facts.epsilon,
            starts=starts,
            first=first,
            prior=prior,
            popular=popular,
            popular_at=popular_at,
            recency=self.recency,
        )


def following_tables(loaded: LoadedVersion) -> list[str]:
    """Names of the tables of a version that say what follows what; they can be exchanged."""
    return [name for name in FOLLOWING if name in loaded.decays]


def fit_following(
    loaded: LoadedVersion, histories: Histories, num_items: int
) -> tuple[Following, dict[str, NeighbourTable]]:
    """Fits the `following_tables` of a version on `Histories` of a whole log; it changes nothing.

    Returns:
        What the tables were made of, and the tables: their weights are 0 where there is no
        neighbour, as `LoadedVersion.set_table` takes them.
    """
    counts = Following(histories, num_items, loaded.manifest.tables)
    tables = {}
    for name in following_tables(loaded):
        table = counts.table(name, loaded.decays[name])
        weights = np.where(table.neighbours > 0, table.weights, np.float32(0))
        tables[name] = table._replace(weights=weights)
    return counts, tables


def changed_rows(loaded: LoadedVersion, following: Following) -> dict[str, Rows]:
    """Makes the rows of the `following_tables` that changed.

    Rows of items that came after the tables are left out: they have none.
    """
    found = {}
    for name in following_tables(loaded):
        num_rows, width = loaded.shape_of_table(name)
        rows = following.changed(name, width)
        found[name] = Rows(*(part[rows.items < num_rows] for part in rows))
    return found
