"""`Shortlist`: the few items of a large catalogue that can come into a user's list.

They are the items nearest to the interest (`itemindex`), those that the neighbour tables of the
fusion give most votes, what is asked for most at the moment, and the nearest of the new items. A
version scores them exactly (`ServingModule.among_rows`). The tables are read
as sparse matrices: an item's neighbours are few, however large the catalogue.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from kerasrec.backend import is_installed
from kerasrec.recommender import itemindex
from kerasrec.versions.loaded import Inputs, LoadedVersion

log = logging.getLogger(__name__)
#: how items are looked through: all of them, those an index finds, or as pays for the catalogue
INDEXES = ("auto", "exact", "ann")
#: items from which "auto" takes the index; below, looking at all of them is as fast
ANN_FROM = 200_000
#: users of a call with an index
ROWS_AT_ONCE = 64
#: items taken from each source; lists of up to LONGEST items are made from them
NEAREST, VOTED, ASKED, NEW = 512, 256, 256, 64
LONGEST = 128
_SAMPLE = 2048  # items that stand for all others in the sum of the model's shares
_SCANNED = 4096  # new items of which the nearest are found without the index
_WALKS = 512  # made-up histories that the recall of the index is measured on


def check_index(index: str) -> None:
    """Raises ValueError unless it is one of `INDEXES`."""
    if index not in INDEXES:
        raise ValueError(f"index must be one of {', '.join(INDEXES)}. Received: {index!r}.")


def find_shortlist(index: str, loaded: LoadedVersion) -> "Shortlist | None":
    """`Shortlist` of a loaded version, or None where all its items are looked at.

    Args:
        index: one of `INDEXES`.
        loaded: `LoadedVersion`.

    Raises:
        ImportError: "ann" without faiss.
    """
    num_items = loaded.manifest.num_items
    if index == "exact" or (index == "auto" and num_items < ANN_FROM):
        return None
    if index == "auto" and not is_installed("faiss"):
        log.info("%d items without an index: pip install 'kerasrec[ann]'", num_items)
        return None
    itemindex.import_faiss()  # raises before the work
    return Shortlist(loaded)


class Candidates(NamedTuple):
    """What `ServingModule.among_rows` takes.

    items: int32 `(batch, n)`, ascending, column 0 is 0.  votes: float32 `(num_tables, batch, n)`.
    totals: float32 `(num_tables, batch)`.  enough: bool `(batch,)`, False where too few are left.
    """

    items: np.ndarray
    votes: np.ndarray
    totals: np.ndarray
    enough: np.ndarray


class Shortlist:
    """Candidates for the lists of a loaded version.

    Attributes:
        index: `ItemIndex` of the item vectors.
        sample: int32 `(m,)`, items drawn for `among_rows`.

    Args:
        loaded: `LoadedVersion`.
        folder: as for `ItemIndex.build`.
    """

    def __init__(self, loaded: LoadedVersion, *, folder: Any = None):
        self._loaded = loaded
        self._max_length = loaded.manifest.options["max_length"]
        self._names = sorted(loaded.decays)
        self._decays = [loaded.decays[name] for name in self._names]
        self.know()
        self._tables = [self._table(name) for name in self._names]
        vectors = loaded.vectors()[1:]
        rng = np.random.default_rng(0)
        drawn = rng.permutation(len(vectors))[:_SAMPLE] + 1
        self.sample = np.sort(drawn).astype(np.int32)
        queries = self.interests(self.walks(_WALKS))
        self.index = itemindex.ItemIndex.build(vectors, queries, folder=folder)

    def remember(self, name: str) -> None:
        """Reads a neighbour table again, after it has changed in the loaded version."""
        self.take(name, self._table(name))

    def take(self, name: str, matrix: sparse.csr_array) -> None:
        """Uses a `sparse_table` in the place of the neighbour table of this name."""
        self._tables[self._names.index(name)] = matrix

    def _table(self, name):
        neighbours, votes, _ = self._loaded.table(name)
        return sparse_table(neighbours, votes)

    def know(self) -> None:
        """Reads what is popular and new at every moment; again after that has changed."""
        self._starts, first, prior, popularity, popular_at = self._loaded.moments()
        of_moments = [prior]
        if popular_at is not None:
            of_moments += [popular_at] if popular_at.ndim == 2 else [*popular_at]
        self._asked = [
            np.concatenate([_best(row, ASKED) for row in rows])
            for rows in zip(*of_moments, strict=True)
        ]
        self._popular = _best(popularity, ASKED)
        self._first = first
        self.withdraw(self._loaded.withdrawn())
        self._selectors: dict[int, Any] = {}
        # what is new at a moment is what is new at the next one and more
        order = np.argsort(-first[1:], kind="stable") + 1
        self._num_new = (first[1:, None] > np.arange(len(self._starts))).sum(axis=0)
        self._scanned = order[: min(_SCANNED, int(self._num_new.max(initial=0)))].astype(np.int32)
        vectors = self._loaded.vectors_at(self._scanned)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._scanned_vectors = vectors / np.maximum(lengths, 1e-12)

    def withdraw(self, index: np.ndarray) -> None:
        """Takes other items, by their indices, out of all lists."""
        gone = np.zeros(len(self._first), bool)
        gone[index] = True
        self._gone = gone

    def add(self, vectors: np.ndarray) -> None:
        """Takes in new items, `(num_new, dim)`, which the loaded version knows already."""
        self.index.add(vectors)
        self.know()

    # --- lists ---

    def lists(
        self,
        inputs: Inputs,
        asked: np.ndarray,
        waited: np.ndarray,
        *,
        k: int,
        keep_seen: bool = False,
        deny: Sequence[int] | np.ndarray = (),
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lists made of candidates alone.

        Args:
            inputs: tensors `history, time_gap, event` of whole histories, int32 `(batch, time)`.
            waited: int64 `(batch,)`, as for `LoadedVersion.recommend`.
            asked, k, keep_seen, deny: as for `candidates`.

        Returns:
            `enough` bool `(batch,)`, False where too few candidates are left to trust the list;
            item index int32 and score float32, `(batch, min(k, num_items + 1))`.
        """
        interest = self._loaded.interests(inputs)
        given = np.asarray(inputs[0]), interest, asked
        found = self.candidates(*given, k=k, keep_seen=keep_seen, deny=deny)
        answer = self._loaded.among(
            inputs[0],
            interest,
            found.items,
            found.votes,
            found.totals,
            sample=self.sample,
            asked=asked,
            waited=waited,
            k=k,
        )
        width = min(k, len(self._first))
        index, scores = (np.pad(part, [(0, 0), (0, width)])[:, :width] for part in answer)
        return found.enough, index, scores

    def candidates(
        self,
        history: np.ndarray,
        interest: np.ndarray,
        asked: np.ndarray,
        *,
        k: int,
        keep_seen: bool = False,
        deny: Sequence[int] | np.ndarray = (),
    ) -> Candidates:
        """The candidates of a batch of users.

        Args:
            history: int32 `(batch, time)`, whole histories of item indices, padded on the left.
            interest: float32 `(batch, dim)`.
            asked: int64 `(batch,)`, when the lists are asked for, as for `recommend_rows`.
            k: length of the lists.
            keep_seen: True makes items of the history candidates too.
            deny: item indices that are none.

        Returns:
            `Candidates`.
        """
        moment = self._moment(asked)
        near, _ = self.index.search(interest, NEAREST)
        new = self._nearest_new(interest, moment)
        voted = [
            self._voted(history, *pair) for pair in zip(self._tables, self._decays, strict=True)
        ]
        size = len(self._first)
        mark, scratch = np.zeros(size, bool), np.zeros(size, np.float32)
        rows, votes = [], []
        totals = np.zeros((len(voted), len(history)), np.float32)
        for row, past in enumerate(history):
            past = np.unique(past[past > 0])
            parts = (
                [near[row], new[row], self._asked[moment[row]]] if len(past) else [self._popular]
            )
            ends = [matrix.indptr[row : row + 2] for matrix in voted]
            of_row = [(m.indices[a:b], m.data[a:b]) for m, (a, b) in zip(voted, ends, strict=True)]
            parts += [column[_largest(value, VOTED)] for column, value in of_row]
            parts += [past] if keep_seen else []
            mark[past], mark[list(deny)] = not keep_seen, True
            found = np.unique(np.concatenate([[0], *parts]))
            found = found[~(mark[found] | self._gone[found])]
            mark[past] = mark[list(deny)] = False
            given = np.zeros((len(voted), len(found)), np.float32)
            for number, (column, value) in enumerate(of_row):
                scratch[column] = value
                given[number] = scratch[found]
                totals[number, row] = value.sum() - scratch[past].sum()
                scratch[column] = 0
            rows.append(found)
            votes.append(given)
        return _padded(rows, votes, np.maximum(totals, 0), max(k, itemindex.DEPTH))

    def _moment(self, asked):
        index = np.maximum(np.searchsorted(self._starts, asked, side="right") - 1, 0)
        return np.where(np.asarray(asked) > 0, index, len(self._starts) - 1)

    def _voted(self, history, table, decay):
        """What a table gives every item, sparse `(batch, num_items + 1)`: see `NeighbourTable`."""
        newest = history[:, -self._max_length :]
        valid = newest > 0
        age = valid[:, ::-1].cumsum(axis=1)[:, ::-1] - valid
        has_row = valid & (newest < table.shape[0])
        weight = (decay ** age[has_row]).astype(np.float32)
        ends = np.concatenate([[0], np.cumsum(has_row.sum(axis=1))])
        shape = (len(history), table.shape[0])
        given = sparse.csr_array((weight, newest[has_row], ends), shape=shape) @ table
        np.maximum(given.data, 0, out=given.data)
        return given

    def _nearest_new(self, interest, moment):
        """The nearest of the items that are new at each row's moment, `(batch, NEW)`; 0 = none."""
        found = np.zeros((len(interest), NEW), np.int32)
        for now in np.unique(moment):
            rows, count = np.flatnonzero(moment == now), self._num_new[now]
            if count > _SCANNED:
                if now not in self._selectors:
                    self._selectors[now] = self.index.selector(self._first[1:] > now)
                among = self._selectors[now]
                found[rows] = self.index.search(interest[rows], NEW, among=among)[0]
            elif count:
                cosine = interest[rows] @ self._scanned_vectors[:count].T
                best = np.argpartition(-cosine, min(NEW, count) - 1, axis=1)[:, :NEW]
                found[rows, : best.shape[1]] = self._scanned[best]
        return found

    # --- real queries ---

    def walks(self, count: int) -> np.ndarray:
        """Made-up histories: popular items and, from each, a walk through the neighbour tables.

        Returns:
            int32 `(count, time)`, padded on the left.
        """
        rng = np.random.default_rng(0)
        start = rng.choice(self._popular if len(self._tables) else len(self._first) - 1, count)
        item = np.maximum(start, 1)
        steps = [item]
        for _ in range(9):
            drawn = rng.integers(1, len(self._first), count)
            if self._tables:
                table = self._tables[rng.integers(len(self._tables))]
                width = np.diff(table.indptr)[item]
                place = table.indptr[item] + (rng.random(count) ** 2 * width).astype(int)
                place = np.minimum(place, max(len(table.indices) - 1, 0))
                drawn = np.where(width > 0, table.indices[place], drawn) if table.nnz else drawn
            item = drawn
            steps.append(item)
        walk = np.stack(steps, axis=1).astype(np.int32)
        walk[np.arange(10) < 10 - rng.integers(1, 11, count)[:, None]] = 0
        return walk

    def interests(self, history: np.ndarray) -> np.ndarray:
        """Interests of histories of item indices, `(batch, time)` -> float32 `(batch, dim)`."""
        parts = [
            self._loaded.interests([part, np.zeros_like(part), np.zeros_like(part)])
            for part in np.array_split(history, -(-len(history) // 256))
        ]
        return np.concatenate(parts)


def sparse_table(neighbours: np.ndarray, votes: np.ndarray) -> sparse.csr_array:
    """A neighbour table `(num_items + 1, width)` as a matrix `(num_items + 1, num_items + 1)`."""
    real = (neighbours > 0) & (votes != 0)
    ends = np.concatenate([[0], np.cumsum(real.sum(axis=1))])
    shape = (len(neighbours), len(neighbours))
    return sparse.csr_array((votes[real], neighbours[real], ends), shape=shape)


def _best(scores, count):
    """Item indices of the highest scores `(num_items + 1,)`; never 0."""
    return (_largest(scores[1:], count) + 1).astype(np.int32)


def _largest(values, count):
    if len(values) <= count:
        return np.arange(len(values))
    return np.argpartition(-values, count - 1)[:count]


def _padded(rows, votes, totals, least):
    """`Candidates` of rows of different lengths; zeros go first, so rows stay ascending."""
    width = max((len(row) for row in rows), default=1)
    items = np.zeros((len(rows), width), np.int32)
    given = np.zeros((len(totals), len(rows), width), np.float32)
    for number, (row, of_row) in enumerate(zip(rows, votes, strict=True)):
        items[number, width - len(row) :] = row
        given[:, number, width - len(row) :] = of_row
    return Candidates(items, given, totals, np.array([len(row) > least for row in rows], bool))
