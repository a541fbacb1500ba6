"""`IndexedLists`: `serving_default` and `recommend` of a large catalogue, by an index.

The graph of a version looks at every item for every list. The embedded server answers these two
signatures from the candidates of a `Shortlist` instead, where that pays (`find_shortlist`); inputs
and outputs are the same. A row that needs more than the candidates goes through the graph: with an
allow list, or where too few candidates are left; among several rows also with a deny list or seen
items kept.
"""

import numpy as np
import pandas as pd

from kerasrec import artifacts
from kerasrec.backend import tf
from kerasrec.sequences import Histories, model_inputs
from kerasrec.shortlist import LONGEST, find_shortlist

#: the signatures that it answers
INDEXED = ("serving_default", "recommend")
#: a row takes the vectors of its candidates: a batch of 64 rows is as large as one may be
SCORES_PER_ROW = 1 << 16


class IndexedLists:
    """The two signatures of a loaded version over a `Shortlist`.

    Attributes:
        report: dict, what the index says of itself (`ItemIndex.report`).

    Args:
        shortlist: `Shortlist`.
        module: the loaded version.
        item_ids: of the catalogue, in its order.
    """

    def __init__(self, shortlist, module, item_ids):
        self.report = shortlist.index.report
        self._shortlist = shortlist
        self._exact = module.signatures
        self._k = int(module.k.numpy())
        self._ids = np.array([b"", *(item.encode() for item in item_ids)], object)
        self._index = pd.Index(self._ids)

    @classmethod
    def of(cls, module, manifest, version):
        """`IndexedLists` of a loaded version, or None where its graph answers.

        Args:
            module, manifest, version: as for `find_shortlist`.
        """
        if module.k.numpy() > LONGEST:
            return None
        shortlist = find_shortlist("auto", module, manifest, version)
        return shortlist and cls(shortlist, module, artifacts.read_catalogue(version)["item_id"])

    def know(self):
        """Read what is popular and new again, after it has changed in the loaded version."""
        self._shortlist.know()

    def serving_default(self, history):
        """Tensors in, dict of tensors out, as the signature of the version."""
        ids = history.numpy()
        found = self._lists(ids, np.zeros(ids.shape, np.int64), np.zeros(len(ids), np.int64))
        return self._joined("serving_default", {"history": history}, *found)

    def recommend(self, history, timestamps, allow, deny, keep_seen):
        """The same with times; rows with a filter of their own go through the graph."""
        given = {"history": history, "timestamps": timestamps}
        given |= {"allow": allow, "deny": deny, "keep_seen": keep_seen}
        ids, times = history.numpy(), timestamps.numpy()
        asked = times.max(axis=1, initial=0)
        filtered = (allow.numpy() != b"").any(axis=1)
        if len(ids) == 1:
            denied = self._index.get_indexer(deny.numpy()[0])
            own = dict(keep_seen=bool(keep_seen.numpy()[0]), deny=denied[denied > 0])
            enough, *lists = self._lists(ids, times, asked, **own)
        else:
            enough, *lists = self._lists(ids, times, asked)
            filtered |= (deny.numpy() != b"").any(axis=1) | keep_seen.numpy()
        enough &= ~filtered
        return self._joined("recommend", given, enough, *lists)

    def _lists(self, ids, times, asked, **options):
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
        enough, index, scores = self._shortlist.lists(tensors, asked, k=self._k, **options)
        return enough, self._ids[index], scores

    def _joined(self, name, given, enough, items, scores):
        """The lists, with those of the graph where the candidates were not enough."""
        if not enough.all():
            rows = np.flatnonzero(~enough)
            exact = self._exact[name](**{key: tf.gather(t, rows) for key, t in given.items()})
            items[rows], scores[rows] = exact["item_ids"].numpy(), exact["scores"].numpy()
        return {"item_ids": tf.constant(items), "scores": tf.constant(scores)}
