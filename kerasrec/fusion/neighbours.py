"""Fits neighbour tables: which items go with an item, by training events or by texts.

There are four tables. `transitions` counts what follows an item in histories, `follows` what comes
directly after it, `ease` is a closed-form linear model, `text` finds items with similar texts and
is all that helps with a new item. None needs training, and each answers in microseconds. `fusion`
adds their scores to those of the model, with weights chosen on validation. No TensorFlow here.
"""

import logging
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from kerasrec.data.histories import Histories

log = logging.getLogger(__name__)
#: EASE inverts an item-by-item matrix, so it is left to catalogues up to this size
MAX_EASE_ITEMS = 4000
#: every text is compared with every other, so beyond this size there are no text neighbours
MAX_TEXT_ITEMS = 50_000
#: entries of one table; with more than 200,000 items it keeps fewer than 200 neighbours of each
MAX_TABLE_ENTRIES = 40_000_000
#: ridge of EASE: how far its weights are held near 0
EASE_PENALTY = 50.0
#: power of a text cosine: how much more the nearest count than the near
TEXT_POWER = 3.0
#: of `sequential_counts`: how fast a pair counts less with its distance, what "j came before i"
#: counts beside "j came after i", and events further apart that are no pair
DISTANCE_DECAY, BACKWARD, MAX_DISTANCE = 0.9, 0.5, 10
_BLOCK_ENTRIES = 4_000_000  # of a sparse matrix, sorted at a time


class NeighbourTable(NamedTuple):
    """Holds the neighbours of every item, and how fast older events of a history lose weight.

    neighbours: int32, `(num_items + 1, width)`, item index, 0 = none.
    weights: float32, `(num_items + 1, width)`.
    decay: weight of an event relative to the one after it, 0..1.
    """

    neighbours: np.ndarray
    weights: np.ndarray
    decay: float

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores all items by the neighbours of each history's items.

        Returns:
            float32 `(num_users, num_items + 1)`; negative sums and the padding column are 0.
        """
        # only the rows of the histories' own items are touched: a table may have a million
        row, age = _places(histories)
        votes = self.weights[histories.items] * np.power(self.decay, age, dtype=np.float32)[:, None]
        place = np.repeat(row, votes.shape[1]), self.neighbours[histories.items].ravel()
        shape = (histories.num_users, len(self.neighbours))
        scores = sparse.coo_array((votes.ravel(), place), shape=shape).toarray()
        np.maximum(scores, 0, out=scores)
        scores[:, 0] = 0
        return scores


def history_weights(histories: Histories, num_columns: int, decay: float) -> sparse.csr_array:
    """Weighs the items of each history by `decay ** age`; the newest event has age 0.

    Returns:
        Sparse float32 `(num_users, num_columns)`.
    """
    row, age = _places(histories)
    weight = np.power(decay, age, dtype=np.float32)
    shape = (histories.num_users, num_columns)
    return sparse.csr_array((weight, (row, histories.items)), shape=shape)


def _places(histories):
    """Row and age of every event; the newest has age 0."""
    row = np.repeat(np.arange(histories.num_users), histories.lengths)
    return row, histories.offsets[1:][row] - 1 - np.arange(len(row))


def to_table(matrix: Any, *, width: int, decay: float) -> NeighbourTable:
    """Makes a table of the `width` weights of largest size in every row.

    Args:
        matrix: sparse or dense, `(num_items + 1, num_items + 1)`.
        width: neighbours per item, at most; fewer where no row has that many, or where the table
            would pass `MAX_TABLE_ENTRIES`.
        decay: see `NeighbourTable`.

    >>> table = to_table(np.array([[0, 0, 0], [0, 0, 2.0], [0, 3.0, 0]]), width=1, decay=0.5)
    >>> table.neighbours.ravel().tolist(), table.weights.ravel().tolist()
    ([0, 2, 1], [0.0, 2.0, 3.0])
    """
    num_rows = matrix.shape[0]
    width = max(min(width, matrix.shape[1], MAX_TABLE_ENTRIES // num_rows), 1)
    if sparse.issparse(matrix):
        matrix = sparse.csr_array(matrix)
        width = min(width, max(int(np.diff(matrix.indptr).max(initial=0)), 1))
    neighbours = np.zeros((num_rows, width), np.int32)
    weights = np.zeros((num_rows, width), np.float32)
    if sparse.issparse(matrix):
        _fill_from_sparse(matrix, neighbours, weights)
        return NeighbourTable(neighbours, weights, decay)
    for start in range(0, num_rows, 1024):
        block = np.array(matrix[start : start + 1024])
        block[:, 0] = 0
        chosen = np.argsort(-np.abs(block), axis=1, kind="stable")[:, :width]
        values = np.take_along_axis(block, chosen, axis=1)
        neighbours[start : start + 1024] = np.where(values != 0, chosen, 0)
        weights[start : start + 1024] = values
    return NeighbourTable(neighbours, weights, decay)


def _fill_from_sparse(matrix, neighbours, weights):
    """Write the largest entries of every row into the two tables, blocks of rows at a time."""
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    ends = matrix.indptr[1:]
    first = 0
    while first < len(ends):
        # a block has at least one row, and with more than one at most _BLOCK_ENTRIES entries
        limit = int(matrix.indptr[first]) + _BLOCK_ENTRIES
        last = max(first + 1, int(np.searchsorted(ends, limit, "right")))
        part = slice(int(matrix.indptr[first]), int(matrix.indptr[last]))
        row = np.repeat(np.arange(last - first), np.diff(matrix.indptr[first : last + 1]))
        column, value = matrix.indices[part], matrix.data[part].astype(np.float32)
        real = (column > 0) & (value != 0)
        row, column, value = row[real], column[real], value[real]
        # one integer to sort by: the row, then falling size (bits of a positive float are in its
        # order); the sort is stable, so equal sizes stay in the order of the columns
        falling = 0xFFFFFFFF - np.abs(value).view(np.uint32).astype(np.int64)
        order = np.argsort((row << 32) | falling, kind="stable")
        count = np.bincount(row, minlength=last - first)
        place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        kept = place < neighbours.shape[1]
        order, target = order[kept], (row[kept] + first, place[kept])
        neighbours[target], weights[target] = column[order], value[order]
        first = last


def sequential_counts(
    histories: Histories,
    num_items: int,
    *,
    distance_decay: float = DISTANCE_DECAY,
    backward: float = BACKWARD,
    max_distance: int = MAX_DISTANCE,
) -> sparse.csr_array:
    """Counts pairs of items in histories, weighted by their distance.

    For every ordered pair of items i, j at distance d <= max_distance in one history
    `C[i, j] += d ** -distance_decay` and `C[j, i] += backward * d ** -distance_decay`.

    Args:
        histories: `Histories` of the training events.
        num_items: size of the catalogue.
        distance_decay: how fast a pair counts less with its distance; 0 counts all alike.
        backward: weight of "j came before i"; 0 looks forward only, 1 ignores the order.
        max_distance: events further apart are no pair.

    Returns:
        Sparse float32 `(num_items + 1, num_items + 1)`.
    """
    items = np.asarray(histories.items)
    row = np.repeat(np.arange(histories.num_users), histories.lengths)
    shape = (num_items + 1, num_items + 1)
    forward = sparse.csr_array(shape, dtype=np.float32)
    for distance in range(1, min(max_distance, len(items) - 1) + 1):
        same_user = row[distance:] == row[:-distance]
        pair = (items[:-distance][same_user], items[distance:][same_user])
        weight = np.full(len(pair[0]), distance**-distance_decay, np.float32)
        forward = forward + sparse.coo_array((weight, pair), shape=shape).tocsr()
    if not backward:
        return forward
    behind = forward.T.tocsr()
    behind.data *= np.float32(backward)
    return forward + behind


def normalise_counts(
    counts: Any, events: np.ndarray, *, source_power: float, target_power: float
) -> sparse.csr_array:
    """Damps frequent items: `C[i, j] / (n_i ** source_power * n_j ** target_power)`.

    Args:
        counts: sparse, `(num_items + 1, num_items + 1)`.
        events: `(num_items + 1,)`, the events of each item.
        source_power: how far items with many events are damped as a reason.
        target_power: how far items with many events are damped as a recommendation.

    Returns:
        Sparse float32, the shape of `counts`.
    """
    counts = sparse.csr_array(counts)
    events = np.maximum(events, 1).astype(float)
    source = np.repeat((events**-source_power).astype(np.float32), np.diff(counts.indptr))
    data = counts.data.astype(np.float32) * source
    data *= (events**-target_power).astype(np.float32)[counts.indices]
    # the places of the entries are shared with `counts`: of a large matrix they are the most
    return sparse.csr_array((data, counts.indices, counts.indptr), shape=counts.shape)


def fit_ease(histories: Histories, num_items: int) -> np.ndarray:
    """Fits EASE (Steck 2019): the item-item weights that best rebuild each user's set of items.

    Returns:
        float32, `(num_items + 1, num_items + 1)`, zero diagonal; `B = I - P / diag(P)` with
        `P = (X'X + EASE_PENALTY I)^-1`.
    """
    row = np.repeat(np.arange(histories.num_users), histories.lengths)
    shape = (histories.num_users, num_items + 1)
    values = np.ones(len(row), np.float32)
    users = sparse.csr_array((values, (row, histories.items)), shape=shape)
    users.data = np.minimum(users.data, 1)
    users.sum_duplicates()
    gram = (users.T @ users).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += EASE_PENALTY
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)[None, :]
    weights[np.diag_indices_from(weights)] = 0
    return weights.astype(np.float32)


def text_neighbours(vectors: np.ndarray, *, width: int) -> sparse.csr_array:
    """Finds items with similar texts: `max(cosine, 0) ** TEXT_POWER` of the nearest.

    Args:
        vectors: float32, `(num_items, text_dim)`, whitened text vectors.
        width: neighbours per item.

    Returns:
        Sparse float32, `(num_items + 1, num_items + 1)`; without entries for more than
        `MAX_TEXT_ITEMS` items.
    """
    shape = (len(vectors) + 1, len(vectors) + 1)
    if len(vectors) > MAX_TEXT_ITEMS:
        log.info("no text neighbours: %d items, at most %d", len(vectors), MAX_TEXT_ITEMS)
        return sparse.csr_array(shape, dtype=np.float32)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    near = nearest_by_cosine(unit, width)
    near.data = (np.maximum(near.data, 0) ** TEXT_POWER).astype(np.float32)
    return near


def nearest_by_cosine(unit: Any, count: int, *, rows_at_once: int = 1024) -> sparse.csr_array:
    """Finds the `count` largest cosines of every item with the others, blocks of rows at a time.

    Args:
        unit: float32, `(num_items, dim)`, dense or sparse, rows of length 1 (or 0).
        count: neighbours per item; fewer where there are not that many others.
        rows_at_once: rows of a block; a block holds that many times `num_items` cosines.

    Returns:
        Sparse float32, `(num_items + 1, num_items + 1)`, cosines by item index.

    >>> nearest_by_cosine(np.array([[1, 0], [0.6, 0.8], [0, 1]]), 1).toarray()[1:, 1:].tolist()
    [[0.0, 0.6, 0.0], [0.0, 0.0, 0.8], [0.0, 0.8, 0.0]]
    """
    num_items = unit.shape[0]
    count = min(count, num_items - 1)
    others = unit.T.tocsr() if sparse.issparse(unit) else unit.T
    rows, columns, values = [], [], []
    for start in range(0, num_items, rows_at_once):
        cosine = unit[start : start + rows_at_once] @ others
        if sparse.issparse(cosine):
            cosine = cosine.toarray()
        here = np.arange(len(cosine))
        cosine[here, start + here] = -1  # not itself
        nearest = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        rows.append(np.repeat(start + here + 1, count))
        columns.append(nearest.ravel() + 1)
        values.append(np.take_along_axis(cosine, nearest, axis=1).ravel())
    place = (np.concatenate(rows), np.concatenate(columns))
    shape = (num_items + 1, num_items + 1)
    return sparse.coo_array((np.concatenate(values), place), shape=shape).tocsr()
