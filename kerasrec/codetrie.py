"""`CodeTrie`: which codes may follow which, so that only items that exist are generated."""

from typing import NamedTuple

import numpy as np


class CodeTrie(NamedTuple):
    """A trie over the semantic ids, in arrays; the leaves are the items, in order of their codes.

    Node 0 is the root. The children of a node are neighbours, ordered by code, and so are the
    leaves below it.

    first_child, num_children: int32 `(num_nodes,)`; a leaf has 0 children.
    code: int32 `(num_nodes,)`, that leads to the node.
    start, end: int32 `(num_nodes,)`, places of the leaves below it.
    leaves: int32 `(num_items,)`, item index (from 1) of each place.
    widest: int32 `(num_levels,)`, children of a node of that level at most.
    """

    first_child: np.ndarray
    num_children: np.ndarray
    code: np.ndarray
    start: np.ndarray
    end: np.ndarray
    leaves: np.ndarray
    widest: np.ndarray


def make_trie(codes):
    """The trie of the codes of a catalogue.

    Args:
        codes: int32 `(num_items, num_levels)`, no row twice; row r is item index r + 1.

    Raises:
        ValueError: two items have the same codes, or there is no item.

    >>> trie = make_trie(np.array([[1, 0], [0, 1], [1, 1]]))
    >>> trie.leaves.tolist(), trie.num_children.tolist(), trie.widest.tolist()
    ([2, 1, 3], [2, 1, 2, 0, 0, 0], [2, 2])
    >>> trie.code[1:3].tolist(), trie.start[1:3].tolist(), trie.end[1:3].tolist()
    ([0, 1], [0, 1], [1, 3])
    """
    codes = np.asarray(codes, np.int32)
    if not len(codes):
        raise ValueError("A trie needs at least one item. Received: none.")
    order = np.lexsort(codes.T[::-1])
    rows = codes[order]
    # differs[i, level]: the path up to that level is another one than that of the leaf before
    differs = np.cumsum(rows[1:] != rows[:-1], axis=1) > 0
    if not differs[:, -1].all():
        place = int(np.argmin(differs[:, -1]))
        twice = order[place : place + 2] + 1
        raise ValueError(f"Items {twice[0]} and {twice[1]} have the same codes.")
    columns = {name: [] for name in ("first_child", "num_children", "code", "start", "end")}
    starts, before = np.zeros(1, np.int64), 1
    codes_of, widest = np.zeros(1, np.int32), []
    for level in range(codes.shape[1] + 1):
        ends = np.append(starts[1:], len(rows))
        below = np.zeros(0, np.int64)
        if level < codes.shape[1]:
            below = np.concatenate([[0], 1 + np.flatnonzero(differs[:, level])])
        first = np.searchsorted(below, starts)
        count = np.searchsorted(below, ends) - first
        columns["first_child"].append(np.where(count > 0, before + first, 0))
        columns["num_children"].append(count)
        columns["code"].append(codes_of)
        columns["start"].append(starts)
        columns["end"].append(ends)
        if level < codes.shape[1]:
            widest.append(int(count.max()))
            starts, codes_of, before = below, rows[below, level], before + len(below)
    parts = {name: np.concatenate(part).astype(np.int32) for name, part in columns.items()}
    return CodeTrie(**parts, leaves=(order + 1).astype(np.int32), widest=np.int32(widest))
