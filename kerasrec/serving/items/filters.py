"""`Filters`: the lists of a served version under conditions on columns of its catalogue.

A request of the signatures `recommend`, `generate` and `generate_in_order` may have one more input,
`where`: for each row, or for all of them together, a condition as `features.conditions` reads it,
as JSON or in its short form. TF Serving knows no such input. For `recommend` the graph is asked by
item indices instead of by ids, so a list is exactly what the same graph gives with an allow list;
for plans the condition becomes the allow or the deny list.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kerasrec.backend import tf
from kerasrec.data.histories import Histories, model_inputs
from kerasrec.features.itemcolumns import Chosen, ItemColumns
from kerasrec.serving.admission import Refusal
from kerasrec.versions import folders
from kerasrec.versions.loaded import LoadedVersion

#: the input
WHERE = "where"
#: signatures of plans, and all that have the input
PLANS = ("generate", "generate_in_order")
FILTERED = ("recommend", *PLANS)
#: what the server itself adds for users of whom something is known, see `UserGroups.members`
MEMBERS = "members"


class Filters:
    """Conditions on the items of a loaded version. Its catalogue is read when it is first needed.

    Args:
        loaded: `LoadedVersion`.
    """

    def __init__(self, loaded: LoadedVersion) -> None:
        self._loaded = loaded
        self._lock = threading.Lock()
        self._read: tuple[ItemColumns, pd.Index, pd.DataFrame, np.ndarray] | None = None

    @property
    def columns(self) -> ItemColumns:
        """The columns of the catalogue."""
        return self._catalogue()[0]

    @property
    def frame(self) -> pd.DataFrame:
        """The catalogue as it was written, all texts."""
        return self._catalogue()[2]

    def index_of(self, item_ids: Sequence[Any] | np.ndarray) -> np.ndarray:
        """int32 item index of each id, bytes or text; 0 = unknown."""
        ids = [i.decode("utf-8", "replace") if isinstance(i, bytes) else i for i in item_ids]
        return (self._catalogue()[1].get_indexer(np.array(ids, object)) + 1).astype(np.int32)

    def _catalogue(self):
        with self._lock:
            if self._read is None:
                frame = folders.read_catalogue(self._loaded.folder)
                index = pd.Index(frame["item_id"].to_numpy(object))
                ids = np.array([b"", *(item.encode() for item in index)], object)
                self._read = ItemColumns(frame), index, frame, ids
            return self._read

    def warm(self, is_over: Callable[[], bool]) -> None:
        """Reads the catalogue, so that no request waits for that."""
        self.columns.warm(is_over)

    def choose(self, where: Any) -> Chosen:
        """Finds the items that meet a condition.

        Raises:
            Refusal: INVALID_ARGUMENT, with the nearest column.
        """
        try:
            return self.columns.choose(where)
        except (ValueError, TypeError) as error:
            raise Refusal("INVALID_ARGUMENT", str(error)) from error

    def recommend(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Answers as the signature `recommend`, of `tensors` with its inputs and `where`.

        One more, `MEMBERS`, may say to which groups the users belong, as `UserGroups.members`.
        """
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        conditions = np.broadcast_to(arrays[WHERE], (len(arrays["history"]),))
        width = min(self._loaded.k, self._loaded.num_items + 1)
        index = np.zeros((len(conditions), width), np.int32)
        scores = np.full(index.shape, -np.inf, np.float32)
        for condition in sorted(set(conditions.tolist())):
            rows = np.flatnonzero(conditions == condition)
            chosen = self.choose(condition.decode("utf-8", "replace"))
            part = {name: arrays[name][rows] for name in arrays if name != WHERE}
            # rows that keep what was seen are asked apart: the graph takes one answer for a call
            for kept in (False, True):
                of_kind = np.flatnonzero(part["keep_seen"] == kept)
                if len(of_kind):
                    some = {name: array[of_kind] for name, array in part.items()}
                    found = self._lists(some, chosen, kept)
                    index[rows[of_kind]], scores[rows[of_kind]] = found
        ids = self._catalogue()[3][index]
        return {"item_ids": tf.constant(ids, tf.string), "scores": tf.constant(scores)}

    def plans(
        self, signature: Callable[[Mapping[str, Any]], dict[str, Any]], tensors: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Answers as a signature of plans, of `tensors` with its inputs and `where`."""
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        conditions = np.broadcast_to(arrays.pop(WHERE), (len(arrays["history"]),))
        if not len(conditions):
            return signature({name: tensors[name] for name in arrays})
        ids, found = self._catalogue()[3], []
        groups = [np.flatnonzero(conditions == one) for one in sorted(set(conditions.tolist()))]
        for rows in groups:
            chosen = self.choose(conditions[rows[0]].decode("utf-8", "replace"))
            part = {name: array[rows] for name, array in arrays.items()}
            has_own = (part["allow"] != b"").any(axis=1)
            allow = np.tile(chosen.allow, (len(rows), 1))
            if has_own.any():
                allow = _among(self._indices(part["allow"]), has_own, chosen)
            deny = np.tile(ids[chosen.deny], (len(rows), 1))
            # behind the ids one that is unknown, where nothing may be listed
            part["allow"] = np.concatenate([ids, np.array([b"\x00"], object)])[allow]
            part["deny"] = np.concatenate([deny, part["deny"]], axis=1)
            kinds = {name: tensors[name].dtype for name in part}
            found.append(signature({n: tf.constant(a, kinds[n]) for n, a in part.items()}))
        place = np.argsort(np.concatenate(groups))
        return {
            name: tf.gather(tf.concat([one[name] for one in found], axis=0), place)
            for name in found[0]
        }

    def _lists(self, arrays, chosen, keep_seen):
        """Item index and score of the lists of rows with one condition, `(rows, k)`."""
        inputs, asked, waited = self._asked(arrays["history"], arrays["timestamps"])
        wanted, denied = self._indices(arrays["allow"]), self._indices(arrays["deny"])
        size = len(asked)
        allow = np.tile(chosen.allow, (size, 1))
        if arrays["allow"].size and (arrays["allow"] != b"").any():
            allow = _among(wanted, (arrays["allow"] != b"").any(axis=1), chosen)
        deny = np.concatenate([np.tile(chosen.deny, (size, 1)), denied], axis=1)
        return self._loaded.recommend(
            inputs,
            allow,
            deny,
            asked,
            waited,
            k=self._loaded.k,
            keep_seen=keep_seen,
            members=arrays.get(MEMBERS),
        )

    def _indices(self, ids):
        """Item indices of ids `(rows, n)`."""
        return self.index_of(ids.ravel().tolist()).reshape(ids.shape)

    def _asked(self, ids, times):
        """The inputs of histories of ids, when their lists are asked for, and how long they waited;
        as the graph makes them of ids and times.
        """
        item = self._indices(ids)
        known = item > 0
        lengths = known.sum(axis=1)
        histories = Histories(
            user_ids=np.zeros(len(ids), object),
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            items=item[known],
            timestamps=times[known],
            events=np.zeros(int(lengths.sum()), np.int16),
            values=np.ones(int(lengths.sum()), np.float32),
        )
        inputs = model_inputs(histories, int(lengths.max(initial=1)))
        asked = times.max(axis=1, initial=0)
        newest = np.where(known, times, 0).max(axis=1, initial=0)
        waited = np.where(newest > 0, np.maximum(asked - newest, 0), 0)
        tensors = [tf.constant(inputs[name]) for name in ("history", "time_gap", "event")]
        return tensors, asked, waited


def _among(wanted, has_list, chosen):
    """Allow lists `(rows, n)` of chosen items alone; rows without a list of their own get all."""
    rows = []
    for row, is_own in zip(wanted, has_list, strict=True):
        row = np.unique(row[row > 0]) if is_own else np.flatnonzero(chosen.mask) + 1
        row = row[chosen.mask[row - 1]]
        rows.append(row if len(row) else np.array([-1]))
    width = max(len(row) for row in rows)
    return np.array([[*row, *[0] * (width - len(row))] for row in rows], np.int32)


def check_where(dtype: int, shape: Sequence[int]) -> None:
    """Checks the input `where` before a tensor is made of it.

    Raises:
        Refusal: INVALID_ARGUMENT.
    """
    if dtype != tf.string.as_datatype_enum or len(shape) > 1:
        raise Refusal(
            "INVALID_ARGUMENT",
            "input where must be a string, or one for each row: JSON such as "
            '{"category": "book", "price": {"lt": 50}}.',
        )
