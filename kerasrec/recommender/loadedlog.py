"""`VersionLog`: what a loaded version knows of its log, moved on without training."""

import logging
import time

import numpy as np

from kerasrec.fusion.fusion import Fusion, fit_again
from kerasrec.fusion.neighbours import NeighbourTable
from kerasrec.fusion.recency import NEVER

log = logging.getLogger(__name__)
_DAY = 86400
_MOMENTS = ("starts", "first", "prior", "popularity")


class VersionLog:
    """Recency and neighbour tables of a loaded version, in its own variables.

    Attributes:
        recency: `recency.Recency` at the end of what is known.

    Args:
        module: the loaded version, or a `ServingModule`.
        manifest: `Manifest`, what it says of itself.
        recency: `Recency` at the end of its log; None where it is not asked for.
    """

    def __init__(self, module, manifest, recency):
        self._module, self._manifest, self.recency = module, manifest, recency

    def observe(self, histories):
        """See `Recommender.observe`; takes `Histories`."""
        ahead = histories.timestamps > time.time() + _DAY
        if ahead.any() and self.recency.counts.time:
            # one wrong date would make everything else look long ago
            log.warning("events that lie in the future do not count as recent: %d", ahead.sum())
            histories = histories.where(~ahead)
        self.recency, count = self.recency.after(histories)
        if count:
            *moments, _ = self._moments()
            found = self.recency.at_end(*moments)
            for name, value in zip(_MOMENTS, found, strict=True):
                getattr(self._module, name).assign(value)
        return count

    def remember(self, histories, num_items):
        """See `Recommender.remember`; takes `Histories`."""
        if not self.has_transitions():
            return False
        self.set_transitions(self.transitions(histories, num_items))
        return True

    def has_transitions(self):
        """Whether there is a table "transitions" that can be exchanged."""
        return "transitions" in self._manifest.fusion.decays and self._has_growing_tables()

    def transitions(self, histories, num_items):
        """The table "transitions" fitted on `Histories` of a whole log, a `NeighbourTable`."""
        decay = self._manifest.fusion.decays["transitions"]
        known = {"transitions": NeighbourTable(None, None, decay)}  # no more of it is looked at
        chosen = self._manifest.tables
        table = fit_again(known, chosen, histories, num_items)["transitions"]
        votes = np.where(table.neighbours > 0, table.weights, np.float32(0))
        return table._replace(weights=votes)

    def set_transitions(self, table):
        """Take another table "transitions"; its weights are 0 where there is no neighbour."""
        self._module.neighbours_transitions.assign(table.neighbours)
        self._module.votes_transitions.assign(table.weights)

    def _has_growing_tables(self):
        """Whether the graph takes neighbour tables of any size (those of old versions do not)."""
        names = self._manifest.fusion.decays
        tables = [getattr(self._module, f"neighbours_{name}", None) for name in names]
        return all(table is not None and table.shape[0] is None for table in tables)

    def has_room_for(self, fusion):
        """See `Recommender.has_room_for`."""
        facts = self._manifest.fusion
        return (
            hasattr(self._module, "part_weights")
            and self._has_growing_tables()
            and list(fusion.weights) == list(facts.weights)
            and list(fusion.mixture) == list(facts.mixture)
            and {name: table.decay for name, table in fusion.tables.items()} == facts.decays
        )

    def add_items(self, count):
        """Know of new items that nobody has chosen yet."""
        module = self._module
        self.recency = self.recency._replace(counts=self.recency.counts.grown(count))
        prior, popular = self.recency.priors()
        first = [module.first.numpy(), np.full(count, NEVER, np.int32)]
        module.first.assign(np.concatenate(first))
        # no event at any moment: the same prior at all of them
        of_new = np.tile(prior[-count:], (len(module.starts.numpy()), 1))
        module.prior.assign(np.concatenate([module.prior.numpy(), of_new], axis=1))
        module.popularity.assign(popular)

    def fusion(self, num_items):
        """See `Recommender.fusion`."""
        module, facts = self._module, self._manifest.fusion
        tables = {}
        for name in facts.decays:
            *rows, decay = self._table(name)
            rows = [np.pad(table, [(0, num_items + 1 - len(table)), (0, 0)]) for table in rows]
            tables[name] = NeighbourTable(*rows, decay)
        starts, first, prior, popular = self._moments()
        return Fusion(
            tables=tables,
            weights={name: tuple(pair) for name, pair in facts.weights.items()},
            mixture=facts.mixture,
            scorer_weight=float(module.scorer_weight.numpy()),
            fit=facts.fit,
            epsilon=facts.epsilon,
            starts=starts,
            first=first,
            prior=prior,
            popular=popular,
            recency=self.recency,
        )

    def _table(self, name):
        rows = [getattr(self._module, f"{kind}_{name}").numpy() for kind in ("neighbours", "votes")]
        return NeighbourTable(*rows, self._manifest.fusion.decays[name])

    def _moments(self):
        return [getattr(self._module, name).numpy() for name in _MOMENTS]
