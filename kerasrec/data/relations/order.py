"""`Order`: what must come before an item, as the prerequisites of a course do."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kerasrec.data.interactions import LISTED, Items

#: the relation that is an order, where no other name is given
ORDER = "prerequisite"


class Order(NamedTuple):
    """What must come before items of a catalogue.

    before: item index -> indices of the items that must come before it, all of them.
    """

    before: Mapping[int, tuple[int, ...]]

    def missing(self, known: Collection[int], plan: Sequence[int]) -> list[tuple[int, ...]]:
        """Finds what each step of a plan lacks: neither known nor among the steps before it.

        >>> order = Order({2: (1,), 3: (1, 2)})
        >>> order.missing([], [3, 1, 2]), order.missing([1], [2, 3])
        ([(1, 2), (), ()], [(), ()])
        """
        seen, found = set(known), []
        for item in plan:
            needed = self.before.get(int(item), ())
            found.append(tuple(one for one in needed if one not in seen))
            seen.add(int(item))
        return found

    def table(self) -> np.ndarray:
        """Gives a row for each item that needs others, then these: int32 `(n, 1 + most)`, 0 = none.

        >>> Order({2: (1,), 3: (1, 2)}).table().tolist()
        [[2, 1, 0], [3, 1, 2]]
        """
        most = max(map(len, self.before.values()), default=0)
        rows = [[item, *needed, *[0] * (most - len(needed))] for item, needed in self._sorted()]
        return np.array(rows, np.int32).reshape(len(rows), 1 + most)

    def cycles(self) -> list[list[int]]:
        """Finds items that need each other: of each such group one way round, an item before the
        next.

        >>> Order({1: (3,), 2: (1,), 3: (2,), 4: (1,)}).cycles()
        [[1, 2, 3]]
        """
        pairs = [(item, one) for item, needed in self._sorted() for one in needed]
        if not pairs:
            return []
        item, needed = np.array(pairs).T
        size = int(max(item.max(), needed.max())) + 1
        graph = coo_array((np.ones(len(item)), (item, needed)), (size, size))
        groups = connected_components(graph, connection="strong")[1]
        found = []
        for group in np.flatnonzero(np.bincount(groups) > 1):
            way = [int(np.flatnonzero(groups == group)[0])]
            while True:
                step = next(one for one in self.before[way[-1]] if groups[one] == group)
                if step in way:
                    round_ = way[way.index(step) :][::-1]
                    start = round_.index(min(round_))
                    found.append(round_[start:] + round_[:start])
                    break
                way.append(step)
        return sorted(found)

    def _sorted(self):
        return sorted(self.before.items())


def read_order(items: Items) -> Order:
    """Reads the `Order` of a catalogue from its column; empty where it has none.

    Ids that the catalogue lacks, and an item before itself, are left out.
    """
    if not items.order or items.order not in items.frame:
        return Order({})
    lists = items.frame[items.order].str.split(LISTED)
    filled = np.flatnonzero(items.frame[items.order].to_numpy(object) != "")
    found = {}
    for row in filled.tolist():
        index = items.index_of(lists.iloc[row])
        needed = tuple(sorted({int(one) for one in index if one and one != row + 1}))
        if needed:
            found[row + 1] = needed
    return Order(found)
