"""Gives every item a short tuple of codes (semantic id), alike for items that are alike.

Residual k-means (the codes of TIGER, Rajput et al. 2023, with k-means in the place of RQ-VAE) over
the whitened text vector of an item joined with its trained item vector, so that the codes know both
what an item says and who takes it (the idea of LETTER, Wang et al. 2024). A last code tells apart
the items that share all others.

`make_trie` says which codes may follow which, so that only items that exist are planned.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

#: items that the centres are fitted on, at most
FITTED = 50_000
#: values of a code: the power of two nearest to the root of the number of items, in between. More
#: leave nothing to the later levels: an item alone under its first codes has no residual
MIN_CODES, MAX_CODES = 8, 256
#: centres nearer than this are one: they differ by rounding, which k-means would tell apart gladly
SAME = 1e-3
#: the first level is used at least as evenly as if this share of its codes were used evenly
LEAST_USAGE = 0.25
#: items that may share all codes but the last, at most
MOST_ALIKE = 256
#: values of the last code, at least: there is room for new items
ROOM = 16


class CollapsedCodes(ValueError):
    """Raised where semantic ids tell items apart too little to be of use."""


class SemanticIds(NamedTuple):
    """Holds the codes of a catalogue's items, and what gives new items theirs.

    codes: int32 `(num_items, levels + 1)`, from 0; the last one tells apart what shares the others.
    centers: float32 `(levels, num_codes, dim)`: the whitened text vector, where there is one, then
        the item vector, both scaled; inf for the codes that are left over where there are fewer
        distinct items.
    known: bool `(item_dim,)`, True for the columns of an item vector that a new item has too: its
        text part. The others, the id part, are left out when a new item is coded.
    room: values that the last code may have.
    """

    codes: np.ndarray
    centers: np.ndarray
    known: np.ndarray
    room: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values that each code may have: tuple of ints, `levels + 1` of them."""
        levels, num_codes, _ = self.centers.shape
        return (*[num_codes] * levels, int(self.room))

    def usage(self) -> list[dict[str, Any]]:
        """Measures how evenly the codes are used: one dict per level but the last.

        `perplexity` is the exponential of the usage entropy: so many codes, evenly used, would be
        as hard to guess. `unique` is the share of items that no other has the same codes as up to
        there.
        """
        rows = []
        for level in range(self.centers.shape[0]):
            count = np.bincount(self.codes[:, level])
            share = count[count > 0] / count.sum()
            paths = np.unique(self.codes[:, : level + 1], axis=0, return_counts=True)[1]
            rows.append(
                {
                    "level": level + 1,
                    "codes": self.centers.shape[1],
                    "used": len(share),
                    "perplexity": round(float(np.exp(-(share * np.log(share)).sum())), 1),
                    "unique": round(float((paths == 1).sum() / len(self.codes)), 4),
                }
            )
        return rows

    def with_items(self, item_vectors: np.ndarray) -> Self:
        """Adds new items behind the others, coded by what is known of them: the text part.

        An item with the text of an old one gets the same codes but for the last, as long as the
        old one's place follows from the known columns; text vectors and an id part move it.

        Args:
            item_vectors: float32 `(num_new, item_dim)`, as `Recommender.add_items` makes them; may
                be empty. Those with the same codes as others take the next free number, and where
                there is none left, the nearest code of the last level that has one.

        Returns:
            `SemanticIds`; the codes of the old items are as they were.

        Raises:
            CollapsedCodes: there is no room left where an item belongs.
        """
        added = self._places(item_vectors, self.codes)
        return self._replace(codes=np.concatenate([self.codes, added]))

    def with_changed(self, rows: np.ndarray, before: np.ndarray, now: np.ndarray) -> Self:
        """Moves items whose texts have changed to where the new texts belong.

        An item stays in its place where its text part leads to the same codes as before.

        Args:
            rows: of the items in `codes`, `(n,)`.
            before, now: their item vectors, float32 `(n, item_dim)`.

        Returns:
            `SemanticIds`; the codes of all other items are as they were.

        Raises:
            CollapsedCodes: as `with_items`.
        """
        none = self.codes[:0]
        was, belongs = (
            np.concatenate([self._places(row[None], none) for row in part])[:, :-1]
            for part in (before, now)
        )
        moves = (was != belongs).any(axis=1)
        if not moves.any():
            return self
        codes, moved = self.codes.copy(), rows[moves]
        codes[moved] = self._places(now[moves], np.delete(codes, moved, axis=0))
        return self._replace(codes=codes)

    def _places(self, item_vectors, others):
        """Codes by the known columns, int32 `(n, levels + 1)`, free beside those of `others`."""
        start = self.centers.shape[2] - len(self.known)
        columns = start + np.flatnonzero(self.known)
        centers = self.centers[:, :, columns]
        rows = _text_columns(np.asarray(item_vectors, np.float32), self.known)[:, self.known]
        taken = {}
        for *path, number in others.tolist():  # behind the last one: an item may have moved away
            taken[tuple(path)] = max(taken.get(tuple(path), 0), number + 1)
        places = [_place(row, centers, taken, self.room) for row in rows]
        return np.array(places, np.int32).reshape(-1, self.codes.shape[1])


def fit_semantic_ids(
    item_vectors: np.ndarray,
    text_vectors: np.ndarray | None = None,
    *,
    known: np.ndarray | None = None,
    levels: int = 3,
    num_codes: int | None = None,
    seed: int = 0,
) -> SemanticIds:
    """Fits the codes of a catalogue.

    Args:
        item_vectors: float32 `(num_items, item_dim)`, trained.
        text_vectors: float32 `(num_items, text_dim)`, whitened; None = there are no texts.
        known: bool `(item_dim,)`, True for the columns of the item vectors that a new item has too:
            the text part; None = no column: nothing tells new items apart, they fill the first
            codes that have room.
        levels: codes of an item, without the one that tells apart.
        num_codes: values of a code; None = as `default_codes` says; never more than there are
            items.
        seed: of k-means.

    Returns:
        `SemanticIds`.

    Raises:
        CollapsedCodes: the first level uses few of its codes, or too many items share all theirs.

    >>> vectors = np.repeat(np.eye(4, dtype=np.float32), 2, axis=0)
    >>> ids = fit_semantic_ids(vectors, levels=1, num_codes=4)
    >>> ids.codes[:, 1].tolist(), len(np.unique(ids.codes, axis=0))
    ([0, 1, 0, 1, 0, 1, 0, 1], 8)
    """
    item_vectors = np.asarray(item_vectors, np.float32)
    num_items, dim = item_vectors.shape
    known = np.zeros(dim, bool) if known is None else np.asarray(known, bool)
    rest = _joined(item_vectors, text_vectors, known)
    num_codes = min(num_codes or default_codes(num_items), num_items)
    centers = np.zeros((levels, num_codes, rest.shape[1]), np.float32)
    codes = np.zeros((num_items, levels + 1), np.int32)
    for level in range(levels):
        centers[level], codes[:, level] = _means(rest, num_codes, seed + level)
        rest = rest - centers[level][codes[:, level]]
    codes[:, -1] = _numbered(codes[:, :-1])
    room = max(2 * int(codes[:, -1].max() + 1), ROOM)
    ids = SemanticIds(codes, centers, known, room)
    _check(ids)
    return ids


def fit_product_codes(
    item_vectors: np.ndarray,
    text_vectors: np.ndarray | None = None,
    *,
    parts: int = 32,
    num_codes: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Fits unordered codes for parallel heads: the joined vectors are turned, cut, and clustered.

    Product quantisation behind a random rotation, as RPG (Hou et al. 2025) takes them for heads
    that predict all codes at once: no code depends on another, so each is used well. Items may
    share all of theirs; a last code does not tell them apart.

    Args:
        item_vectors, text_vectors, seed: as for `fit_semantic_ids`.
        parts: codes of an item; at most as many as the joined vectors are wide.
        num_codes: values of a code; None = an eighth of the number of items, from `MIN_CODES` to
            `MAX_CODES`; never more than there are items.

    Returns:
        int32 `(num_items, parts)`.

    Raises:
        ValueError: more parts than the joined vectors have numbers.

    >>> fit_product_codes(np.repeat(np.eye(4), 2, axis=0), parts=2, num_codes=4).shape
    (8, 2)
    """
    item_vectors = np.asarray(item_vectors, np.float32)
    joined = _joined(item_vectors, text_vectors, np.zeros(item_vectors.shape[1], bool))
    if not 1 <= parts <= joined.shape[1]:
        raise ValueError(
            f"parts must be from 1 to the width of the joined vectors ({joined.shape[1]}): each "
            f"part needs a number of its own. Received: {parts}."
        )
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(joined.shape[1], joined.shape[1])))
    cut = np.array_split(joined @ turn, parts, axis=1)
    default = min(max(len(joined) // 8, MIN_CODES), MAX_CODES)
    num_codes = min(num_codes or default, len(joined))
    return np.stack([_means(part, num_codes, seed)[1] for part in cut], axis=1)


def level_offsets(sizes: Sequence[int]) -> np.ndarray:
    """Numbers all codes through: where those of each level begin, int32 `(num_levels,)`.

    >>> level_offsets((4, 4, 2)).tolist()
    [0, 4, 8]
    """
    return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)


def default_codes(num_items: int) -> int:
    """Chooses how many values a code has, by the size of the catalogue.

    >>> default_codes(96), default_codes(456), default_codes(12_101), default_codes(1_000_000)
    (8, 16, 128, 256)
    """
    power = 2 ** round(math.log2(max(num_items, 1)) / 2)
    return min(max(power, MIN_CODES), MAX_CODES)


def _unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _text_columns(item_vectors, known):
    """Item vectors with the text part at the length it has in the joined vectors, the rest zero."""
    return _unit(np.where(known, item_vectors, 0)) * 0.5**0.5


def _joined(item_vectors, text_vectors, known):
    """`(num_items, dim)`: text and id part weigh the same; an item that few took has a short id.

    Of the text, half is the text vector and half the known columns: all that a new item has.
    """
    rest = np.where(known, 0, item_vectors)
    length = np.sqrt((rest**2).sum(axis=1).mean())
    own = _text_columns(item_vectors, known) + rest / max(length, 1e-9)
    if text_vectors is None:
        return own
    return np.concatenate([_unit(np.asarray(text_vectors, np.float32)) * 0.5**0.5, own], axis=1)


def _means(vectors, num_codes, seed):
    """k-means: centres `(num_codes, dim)`, inf for codes left over, and the code of every row."""
    from scipy.spatial.distance import cdist
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rng = np.random.default_rng(seed)
    sample = vectors
    if len(vectors) > FITTED:
        sample = vectors[rng.choice(len(vectors), FITTED, replace=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than codes
        found = KMeans(num_codes, n_init=1, max_iter=50, random_state=seed).fit(sample)
    means = found.cluster_centers_
    first = (cdist(means, means) < SAME).argmax(axis=1)  # the first one that is the same
    kept, codes = np.unique(first[found.predict(vectors)], return_inverse=True)
    centers = np.full((num_codes, vectors.shape[1]), np.inf, np.float32)
    centers[: len(kept)] = means[kept]
    return centers, codes.reshape(-1).astype(np.int32)


def _numbered(paths):
    """Number of every row among those equal to it, in their order, from 0."""
    _, group = np.unique(paths, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    counts = np.diff(first, append=len(order))
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order)) - np.repeat(first, counts)
    return number


def _check(ids):
    first = ids.usage()[0]
    if first["perplexity"] < LEAST_USAGE * first["codes"]:
        raise CollapsedCodes(
            f"The semantic ids have collapsed: the first level uses its {first['codes']} codes as "
            f"if there were {first['perplexity']}, expected at least {LEAST_USAGE:.0%} of them. "
            "Are most texts the same? Bring texts that tell items apart, or train the model longer."
        )
    most = int(ids.codes[:, -1].max()) + 1
    if most > MOST_ALIKE:
        raise CollapsedCodes(
            f"The semantic ids have collapsed: {most} items share all their codes, expected at "
            f"most {MOST_ALIKE}. Are their texts the same? Bring texts that tell items apart, or "
            "more codes or levels."
        )


def _place(row, centers, taken, room):
    """Codes of a new item; `taken`, path -> numbers that are taken, is kept up to date.

    The nearest code at each level; at the last one the nearest under which there is room.
    """
    path = []
    for level, center in enumerate(centers):
        distance = ((row - center) ** 2).sum(axis=1)
        if level + 1 < len(centers):
            path.append(int(distance.argmin()))
            row = row - center[path[-1]]
            continue
        for code in np.argsort(distance, kind="stable"):
            whole = (*path, int(code))
            if taken.get(whole, 0) < room:
                taken[whole] = taken.get(whole, 0) + 1
                return (*whole, taken[whole] - 1)
    raise CollapsedCodes(
        f"More new items have the same text than the codes can tell apart ({room} under each of "
        f"{len(centers[-1])}). Give them texts of their own, or train anew."
    )


class CodeTrie(NamedTuple):
    """Holds a trie over the semantic ids in arrays; its leaves are the items, in order of codes.

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


def make_trie(codes: np.ndarray) -> CodeTrie:
    """Makes the trie of the codes of a catalogue.

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
    # items by their codes: then the items below a node are neighbours
    order = np.lexsort(codes.T[::-1])
    rows = codes[order]
    # differs[i, level]: the path up to that level is another one than that of the leaf before
    differs = np.cumsum(rows[1:] != rows[:-1], axis=1) > 0
    if not differs[:, -1].all():
        place = int(np.argmin(differs[:, -1]))
        twice = order[place : place + 2] + 1
        raise ValueError(f"Items {twice[0]} and {twice[1]} have the same codes.")
    columns: dict[str, list] = {}
    columns |= {name: [] for name in ("first_child", "num_children", "code", "start", "end")}
    # level by level: `starts` are the places of the first leaves of its nodes
    starts, before = np.zeros(1, np.int64), 1
    codes_of, widest = np.zeros(1, np.int32), []
    for level in range(codes.shape[1] + 1):
        ends = np.append(starts[1:], len(rows))
        below = np.zeros(0, np.int64)
        if level < codes.shape[1]:
            below = np.concatenate([[0], 1 + np.flatnonzero(differs[:, level])])
        # the children of a node are those nodes below that begin among its leaves
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
    return CodeTrie(**parts, leaves=(order + 1).astype(np.int32), widest=np.array(widest, np.int32))
