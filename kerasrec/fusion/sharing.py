"""The neighbour table "relations": items that share entities, such as a teacher or a school."""

import logging

import numpy as np
from scipy import sparse

from kerasrec.data.interactions import LISTED, Items
from kerasrec.fusion.neighbours import (
    MAX_TEXT_ITEMS,
    NeighbourTable,
    nearest_by_cosine,
    to_table,
)

log = logging.getLogger(__name__)
_WIDTH = 200  # neighbours per item
_DECAY = 0.7


def sharing_table(items: Items) -> NeighbourTable | None:
    """Makes the table of a catalogue with relations; None where nothing is shared.

    Its votes are the cosines of the items by their entities. Each entity weighs log(items / items
    that have it), so what all have says nothing. Beyond `MAX_TEXT_ITEMS` items there is none.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"item_id": [*"abc"], "t": ["x", "x", "y"]})
    >>> table = sharing_table(Items(frame, relations=("t",)))
    >>> table.neighbours[:, 0].tolist(), table.weights[:, 0].round(3).tolist()
    ([0, 2, 1, 0], [0.0, 1.0, 1.0, 0.0])
    """
    unit = entity_vectors(items)
    if unit is None:
        return None
    if len(items) > MAX_TEXT_ITEMS:
        log.info("no table of relations: %d items, at most %d", len(items), MAX_TEXT_ITEMS)
        return None
    near = nearest_by_cosine(unit, _WIDTH)
    near.data = np.maximum(near.data, 0).astype(np.float32)
    near.eliminate_zeros()
    return to_table(near, width=_WIDTH, decay=_DECAY) if near.nnz else None


def entity_vectors(items: Items) -> sparse.csr_array | None:
    """Makes a row of length 1 (or 0) for each item, of what it has; None without any entity."""
    names = [name for name in items.relations if name in items.frame]
    cells = [
        (row, (name, entity))
        for name in names
        for row, cell in enumerate(items.frame[name].tolist())
        for entity in dict.fromkeys(cell.split(LISTED))
        if entity
    ]
    if not cells:
        return None
    place = {entity: number for number, entity in enumerate(dict.fromkeys(e for _, e in cells))}
    row = np.array([number for number, _ in cells])
    column = np.array([place[entity] for _, entity in cells])
    counts = np.bincount(column)
    weight = np.log(len(items) / counts)[column]
    length = np.sqrt(np.bincount(row, weight**2, minlength=len(items)))
    data = (weight / np.maximum(length[row], 1e-12)).astype(np.float32)
    return sparse.csr_array((data, (row, column)), (len(items), len(place)))
