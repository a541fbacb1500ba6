"""`LiveItems`: stock, prices and other values of items that change by the minute.

They come over `PUT /v1/items`, lie in the feedback store, and count from the next request on in
every version that this server has loaded; other servers of the same store look for them several
times a second.
"""

import bisect
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd

from kerasrec.data.columns import says_withdrawn, withdrawn_by
from kerasrec.features.columntypes import is_missing
from kerasrec.feedback.itemvalues import TAKEN_BACK, ItemChange
from kerasrec.feedback.store import FeedbackStore
from kerasrec.serving.items.filters import Filters
from kerasrec.versions.loaded import LoadedVersion

log = logging.getLogger(__name__)
_LEAST_ROOM = 64  # indices of withdrawn items in a graph: their number changes without its shape
_SLACK = 1000  # changes that are kept though newer ones have come


class Exclusive(Protocol):
    """A function that gives a context in which no call into TensorFlow is under way."""

    def __call__(self) -> Any:
        """The context."""


class LiveItems:
    """The values of a store, brought to the versions that ask for them.

    Args:
        store: `FeedbackStore`.
    """

    def __init__(self, store: FeedbackStore) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._log: list[ItemChange] = []
        self._newest: dict[str, dict[str, ItemChange]] = {}  # by item and column
        self._count = 0  # of them
        self.seq = 0

    def put(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Stores values; the next list knows them."""
        self._store.set_items(changes)
        self.read()

    def read(self) -> int:
        """Reads what is new in the store; returns how many values."""
        with self._lock:
            found = self._store.item_values(self.seq)
            for change in found:
                mine = self._newest.setdefault(change.item_id, {})
                self._count += change.column not in mine
                mine[change.column] = change
            self._log += found
            if len(self._log) > 2 * self._count + _SLACK:
                kept = (one for mine in self._newest.values() for one in mine.values())
                self._log = sorted(kept, key=lambda one: one.seq)
            if found:
                self.seq = found[-1].seq
            return len(found)

    def of_item(self, item_id: str) -> dict[str, Any]:
        """Column -> value, of those of an item that are not the catalogue's."""
        with self._lock:
            found = list(self._newest.get(item_id, {}).values())
        return {one.column: one.value for one in found if one.value is not TAKEN_BACK}

    def bring(self, items: "VersionItems", alone: Exclusive) -> None:
        """Brings a version up to date, before it answers.

        Args:
            items: `VersionItems` of the version.
            alone: as `Predictor.alone`.
        """
        if items.seq == self.seq:
            return
        with self._lock:
            seq, start = (
                self.seq,
                bisect.bisect_right(self._log, items.seq, key=lambda one: one.seq),
            )
            try:
                items.take(self._log[start:], alone)
            except TimeoutError:
                log.warning("values of items wait: the server is busy")
                return
            items.seq = seq

    def run(
        self,
        stopping: threading.Event,
        versions: "Callable[[], Iterable[VersionItems]]",
        seconds: float,
    ) -> None:
        """Looks for new values every `seconds` until `stopping` is set.

        Args:
            versions: function that gives the `VersionItems` of the loaded versions: their
                catalogues are read here, so that no request waits for that.
        """
        is_reached = True
        while True:
            try:
                self.read()
                for items in versions():
                    items.filters.warm(stopping.is_set)
                    with self._lock:
                        items.warm()
                is_reached = True
            except Exception as error:  # the store may be back at the next look
                if is_reached:
                    log.error("values of items not read", extra={"error": str(error)})
                is_reached = False
            if stopping.wait(seconds):
                return


class VersionItems:
    """The values of items in one loaded version.

    Attributes:
        filters: `Filters` of the version.
        seq: of the newest change that it knows.

    Args:
        loaded: `LoadedVersion`.
        filters: see above.
        withdraw: function of item indices, called beside `LoadedVersion.set_withdrawn`.
    """

    def __init__(self, loaded: LoadedVersion, filters: Filters, withdraw: Any) -> None:
        self._loaded, self.filters, self._withdraw = loaded, filters, withdraw
        self.seq = 0
        self._states: _States | None = None

    def warm(self) -> None:
        """Reads what is to be had, so that no request waits for that; beside no `take`."""
        if self._states is None:
            self.filters.index_of([""])
            self._states = _States(self.filters.frame, self._loaded.withdrawn())

    def check(self, column: str, value: Any) -> None:
        """Raises ValueError where the version has no such column, or no such value in it."""
        columns = self.filters.columns
        if column in columns.names or not says_withdrawn(column):
            columns.read_value(column, value)
        elif not isinstance(value, str | int | float | None):
            raise ValueError(f"items: expected a text or a number for the column {column!r}.")

    def take(self, changes: list[ItemChange], alone: Exclusive) -> None:
        """Takes newer values."""
        names = dict.fromkeys(change.column for change in changes)
        index = self.filters.index_of([change.item_id for change in changes])
        has_states = False
        for name in names:
            rows, values = [], []
            for place, change in zip(index.tolist(), changes, strict=True):
                if place and change.column == name:
                    rows.append(place - 1)
                    values.append(change.value)
            if rows:
                has_states |= self._change(name, rows, values)
        if has_states and "withdraws" in self._loaded.abilities:
            assert self._states is not None
            self._set_withdrawn(self._states.withdrawn(), alone)
        elif has_states:
            log.warning(
                "%s was exported before items could be withdrawn: what is sold out stays in its "
                "lists. Update it, or train it again.",
                self._loaded.path,
            )

    def _change(self, name: str, rows: list[int], values: list[Any]) -> bool:
        """Takes values of a column; whether it says what is to be had."""
        columns, frame = self.filters.columns, self.filters.frame
        is_state = says_withdrawn(name)
        if name not in columns.names:
            if not is_state:
                return False  # another version has it
            columns.add(name)
        taken, read, texts = [], [], []
        for row, value in zip(rows, values, strict=True):
            if value is TAKEN_BACK:
                value = frame[name].iloc[row] if name in frame.columns else None
            try:
                read.append(columns.read_value(name, value))
            except ValueError as error:  # of a store that other versions write for
                log.debug("a value does not fit", extra={"error": str(error)})
                continue
            taken.append(row)
            texts.append("" if is_missing(value) else str(value))
        columns.change(name, taken, read)
        if is_state:
            self.warm()
            assert self._states is not None
            self._states.change(name, taken, texts)
        return is_state

    def _set_withdrawn(self, index: np.ndarray, alone: Exclusive) -> None:
        room = self._loaded.room_for_withdrawn
        if len(index) <= room:  # of the same shape: whoever computes meanwhile has one or the other
            self._loaded.set_withdrawn(np.pad(index, (0, room - len(index))))
        else:
            room = max(_LEAST_ROOM, 1 << (2 * len(index) - 1).bit_length())
            with alone():
                self._loaded.set_withdrawn(np.pad(index, (0, room - len(index))))
        self._withdraw(index)


class _States:
    """Which items are to be had, by the columns of a catalogue and by newer values of them.

    Args:
        frame: of the catalogue.
        withdrawn: item indices that were in no list when the version was written.
    """

    def __init__(self, frame: pd.DataFrame, withdrawn: np.ndarray) -> None:
        self._size = len(frame)
        self._gone_by: dict[str, np.ndarray] = {}
        for name in filter(says_withdrawn, frame.columns):
            mask = withdrawn_by(name, frame[name])
            # a column by which nothing is to be had says something else; newer values count
            self._gone_by[name] = mask & ~mask.all()
        # what an update took out though its columns do not say so: the catalogue lacks it
        self._lacked = np.zeros(self._size, bool)
        self._lacked[withdrawn - 1] = True
        self._lacked &= ~self._by_columns()

    def _by_columns(self):
        return np.logical_or.reduce([np.zeros(self._size, bool), *self._gone_by.values()])

    def change(self, name: str, rows: list[int], texts: list[str]) -> None:
        """Takes newer values of a column, as texts."""
        if name not in self._gone_by:
            self._gone_by[name] = np.zeros(self._size, bool)
        if rows:
            self._gone_by[name][rows] = withdrawn_by(name, pd.Series(texts, dtype="str"))

    def withdrawn(self) -> np.ndarray:
        """Indices of the items that are in no list, int32, ascending."""
        return (np.flatnonzero(self._by_columns() | self._lacked) + 1).astype(np.int32)
