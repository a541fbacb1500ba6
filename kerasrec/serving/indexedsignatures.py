"""`IndexedSignatures`: `serving_default` and `recommend` of a large catalogue, by an index.

The graph of a version looks at every item for every list. The embedded server answers these two
signatures from the candidates of a `Shortlist` instead, where that pays (`find_shortlist`); inputs
and outputs are the same. A row that needs more than the candidates goes through the graph: with an
allow list, or where too few candidates are left; among several rows also with a deny list or seen
items kept.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from kerasrec.backend import tf
from kerasrec.data.histories import Histories, model_inputs
from kerasrec.recommender.shortlist import LONGEST, Shortlist, find_shortlist
from kerasrec.serving.admission import SCORES_AT_ONCE
from kerasrec.versions.loaded import LoadedVersion

#: the signatures that an index answers
INDEXED = ("serving_default", "recommend")
#: a row takes the vectors of its candidates: a batch of 64 rows is as large as one may be
SCORES_PER_ROW = 1 << 16


class IndexedSignatures:
    """The two signatures of a loaded version over a `Shortlist`.

    Attributes:
        report: dict, size and recall of the index (`ItemIndex.report`).

    Args:
        shortlist: `Shortlist`.
        loaded: `LoadedVersion`.
        item_ids: of the catalogue, in its order.
    """

    def __init__(
        self, shortlist: Shortlist, loaded: LoadedVersion, item_ids: Iterable[str]
    ) -> None:
        self.report = shortlist.index.report
        self._shortlist = shortlist
        self._exact, self._k = loaded.signatures, loaded.k
        self._ids = np.array([b"", *(item.encode() for item in item_ids)], object)
        self._index = pd.Index(self._ids)

    @classmethod
    def of(cls, loaded: LoadedVersion) -> "IndexedSignatures | None":
        """Makes those of a loaded version; None where its graph answers."""
        shortlist = None if loaded.k > LONGEST else find_shortlist("auto", loaded)
        return None if shortlist is None else cls(shortlist, loaded, loaded.items().ids)

    def know(self) -> None:
        """Reads again what is popular and new, after it has changed in the loaded version."""
        self._shortlist.know()

    def withdraw(self, index: np.ndarray) -> None:
        """Takes other items out of all lists, as `Shortlist.withdraw`."""
        self._shortlist.withdraw(index)

    def take(self, name: str, matrix: Any) -> None:
        """Takes another neighbour table, as `Shortlist.take`; the loaded version has it already."""
        self._shortlist.take(name, matrix)

    def serving_default(self, history: Any) -> dict[str, Any]:
        """Answers as the signature of the version: tensors in, dict of tensors out."""
        ids = history.numpy()
        times, asked = np.zeros(ids.shape, np.int64), np.zeros(len(ids), np.int64)
        by_index = np.ones(len(ids), bool)
        return self._answer("serving_default", {"history": history}, by_index, ids, times, asked)

    def recommend(
        self, history: Any, timestamps: Any, allow: Any, deny: Any, keep_seen: Any
    ) -> dict[str, Any]:
        """Answers as the signature; rows with a filter of their own go through the graph."""
        given = {"history": history, "timestamps": timestamps}
        given |= {"allow": allow, "deny": deny, "keep_seen": keep_seen}
        ids, times = history.numpy(), timestamps.numpy()
        if ids.shape != times.shape:  # what comes of that is for the graph to say
            return self._exactly("recommend", given, np.arange(len(ids)))
        asked, own = times.max(axis=1, initial=0), dict[str, Any]()
        by_index = ~(allow.numpy() != b"").any(axis=1)
        if len(ids) == 1:
            denied = self._index.get_indexer(deny.numpy()[0])
            own = dict(keep_seen=bool(keep_seen.numpy()[0]), deny=denied[denied > 0])
        else:
            by_index &= ~((deny.numpy() != b"").any(axis=1) | keep_seen.numpy())
        return self._answer("recommend", given, by_index, ids, times, asked, **own)

    def _answer(
        self,
        name: str,
        given: Mapping[str, Any],
        by_index: np.ndarray,
        ids: np.ndarray,
        times: np.ndarray,
        asked: np.ndarray,
        **own: Any,
    ) -> dict[str, Any]:
        """Lists by the index for the rows of `by_index`, by the graph for all others.

        It is the graph too where the candidates are not enough.
        """
        width = min(self._k, len(self._ids))
        items, scores = np.empty((len(ids), width), object), np.empty((len(ids), width), np.float32)
        rows = np.flatnonzero(by_index)
        if len(rows):
            enough, *found = self._lists(ids[rows], times[rows], asked[rows], **own)
            items[rows], scores[rows] = found
            by_index[rows] = enough
        rows = np.flatnonzero(~by_index)
        if len(rows):
            exact = self._exactly(name, given, rows)
            items[rows], scores[rows] = exact["item_ids"].numpy(), exact["scores"].numpy()
        return {"item_ids": tf.constant(items, tf.string), "scores": tf.constant(scores)}

    def _exactly(self, name: str, given: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
        """Rows through the graph, in parts: each row takes numbers for every item."""
        step = max(SCORES_AT_ONCE // (len(self._ids) - 1), 1)
        parts = [
            self._exact[name](**{key: tf.gather(t, part) for key, t in given.items()})
            for part in np.split(rows, range(step, len(rows), step))
        ]
        return {key: tf.concat([part[key] for part in parts], 0) for key in parts[0]}

    def _lists(
        self, ids: np.ndarray, times: np.ndarray, asked: np.ndarray, **options: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`Shortlist.lists` of rows of ids, with the ids of what it lists."""
        item = np.maximum(self._index.get_indexer(ids.ravel()), 0).reshape(ids.shape)
        known = item > 0
        lengths = known.sum(axis=1)
        events = int(lengths.sum())
        histories = Histories(
            user_ids=np.zeros(len(ids), object),
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            items=item[known].astype(np.int32),
            timestamps=times[known],
            events=np.zeros(events, np.int16),
            values=np.ones(events, np.float32),
        )
        inputs = model_inputs(histories, int(lengths.max(initial=1)))
        tensors = [tf.constant(inputs[name]) for name in ("history", "time_gap", "event")]
        newest = np.where(known, times, 0).max(axis=1, initial=0)  # as in the graph, in any order
        waited = np.where(newest > 0, np.maximum(asked - newest, 0), 0)
        enough, index, scores = self._shortlist.lists(tensors, asked, waited, k=self._k, **options)
        return enough, self._ids[index], scores
