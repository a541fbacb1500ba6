"""`ServedVersion`: one loaded version of a served model and its signatures."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.data.histories import Histories
from kerasrec.features.usergroups import UserGroups
from kerasrec.fusion.counting import Guard
from kerasrec.fusion.following import Following, Rows
from kerasrec.fusion.neighbours import NeighbourTable
from kerasrec.fusion.recency import Counts, LastMoment, Recency
from kerasrec.recommender.loadedlog import changed_rows, fit_following, following_tables
from kerasrec.recommender.shortlist import sparse_table
from kerasrec.recommender.watching import guard_of, watch
from kerasrec.serving.admission import Refusal
from kerasrec.serving.indexedsignatures import INDEXED, SCORES_PER_ROW, IndexedSignatures
from kerasrec.serving.items.filters import PLANS, Filters
from kerasrec.serving.items.live import VersionItems
from kerasrec.serving.items.users import UserColumns
from kerasrec.versions import folders
from kerasrec.versions.loaded import LoadedVersion, MomentTables
from kerasrec.versions.warmup import WARMUP

DEFAULT_SIGNATURE = "serving_default"
_MAX_WARMUP = 1000  # records, as TF Serving
#: names, sizes and times of the files of a folder; None = they went away meanwhile
Look = list[tuple[str, int, int]] | None


class Signature:
    """One function of a version.

    Attributes:
        name: of the signature.
        inputs: name -> `(dtype enum, shape)`; shape is a tuple with -1 = any, or None.
        outputs: list of names.
    """

    def __init__(self, name: str, definition: Any, function: Callable[..., dict]) -> None:
        self.name = name
        self.inputs: dict[str, tuple[int, tuple[int, ...] | None]] = {
            key: (info.dtype, _dimensions(info.tensor_shape))
            for key, info in sorted(definition.inputs.items())
        }
        self.outputs = sorted(definition.outputs)
        self._function = function

    def __call__(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Computes the outputs, name -> tensor."""
        return self._function(**tensors)

    def example(self) -> dict[str, Any]:
        """Makes the smallest inputs: one row, one cell, the empty string or zero."""
        return {
            key: tf.zeros([1 if size == -1 else size for size in shape or ()], dtype)
            for key, (dtype, shape) in self.inputs.items()
        }


def _dimensions(shape: Any) -> tuple[int, ...] | None:
    return None if shape.unknown_rank else tuple(dimension.size for dimension in shape.dim)


#: numbers that a row of plans needs besides those of the items, about
PLAN_PER_ROW = 1 << 18


class ServedVersion:
    """A loaded version, and how many requests it works on.

    Attributes:
        model: name of the model.
        number: of the version.
        path: its folder.
        look: of its folder when it was loaded, see `look_of`.
        num_items: size of its catalogue.
        has_following: whether it has tables of what follows what, which can be fitted anew.
        indexed: `IndexedSignatures` where an index answers for the graph, else None.
        filters: `Filters`, its lists under conditions on the catalogue.
        items: `VersionItems`, newer values of its items.
        users: `UserColumns`, what it knows of users; None = nothing but their histories.
        definitions: signature name -> SignatureDef, as saved.
        signatures: signature name -> `Signature`.
    """

    def __init__(self, model: str, number: int, path: Path) -> None:
        self.model, self.number = model, number
        self.path = folders.find_version(path)  # raises where a part is missing
        self.look = look_of(self.path)  # before it is read: what changes meanwhile is seen later
        self.definitions = _definitions(self.path)
        self._loaded = _load(self.path)
        self.num_items = self._loaded.manifest.num_items
        self.has_following = bool(following_tables(self._loaded))
        functions = dict(self._loaded.signatures)
        self.indexed = IndexedSignatures.of(self._loaded)
        self.filters = Filters(self._loaded)
        withdraw = (lambda index: None) if self.indexed is None else self.indexed.withdraw
        self.items = VersionItems(self._loaded, self.filters, withdraw)
        # what groups like is in the graph: not a second time here
        has_groups = "groups" in self._loaded.abilities
        groups = UserGroups.load(self.path / folders.USERS) if has_groups else None
        self.users = None if groups is None else UserColumns(groups)
        if self.indexed is not None:
            functions |= {name: getattr(self.indexed, name) for name in INDEXED}
        self.signatures = {
            name: Signature(name, self.definitions[name], function)
            for name, function in functions.items()
        }
        self.in_use = 0
        self.is_retired = False

    def signature(self, name: str = "") -> Signature:
        """Finds the `Signature` of a name, "" = the default one.

        Raises:
            Refusal: FAILED_PRECONDITION, as TF Serving has it.
        """
        name = name or DEFAULT_SIGNATURE
        try:
            return self.signatures[name]
        except KeyError:
            known = ", ".join(sorted(self.signatures))
            raise Refusal(
                "FAILED_PRECONDITION",
                f'Serving signature key "{name}" not found. Known: {known}.',
            ) from None

    def scores_per_row(self, name: str) -> int:
        """Estimates how many scores a signature computes for a row: all items or the candidates."""
        if name in PLANS:  # numbers that the beams of a plan keep, and weights of the items
            return PLAN_PER_ROW + 6 * self.num_items
        return SCORES_PER_ROW if self.indexed is not None and name in INDEXED else self.num_items

    def warm_up(self, check: Callable[[], None]) -> int:
        """Calls each signature once, then replays the warm-up requests; an error is raised.

        Args:
            check: function that is called before each step; it may raise.

        Returns:
            Number of requests replayed.
        """
        for signature in self.signatures.values():
            check()
            signature(signature.example())
        count = 0
        for name, tensors in _warmup_requests(self.path / WARMUP):
            check()
            self.signature(name)(tensors)
            count += 1
        return count

    def vectors_at(self, index: np.ndarray) -> np.ndarray:
        """Item vectors at item indices, float32 `(n, dim)`."""
        return self._loaded.vectors_at(index)

    def moments(self) -> MomentTables:
        """Reads what is new and popular at every moment."""
        return self._loaded.moments()

    def set_moments(self, moments: MomentTables) -> None:
        """Takes other moments; no request may use the version meanwhile (`Predictor.alone`)."""
        self._loaded.set_moments(moments)
        if self.indexed is not None:
            self.indexed.know()

    def last_moment(self, recency: Recency) -> LastMoment:
        """Computes the end of a longer log, beside the requests."""
        return self._loaded.last_moment(recency)

    def set_last_moment(self, last: LastMoment) -> None:
        """Takes the end of a longer log in the place of the last moment; see `set_moments`."""
        self._loaded.set_last_moment(last)
        if self.indexed is not None:
            self.indexed.know()

    def following(
        self, histories: Histories
    ) -> tuple[Following, dict[str, tuple[NeighbourTable, Any]]]:
        """Fits the tables of what follows what on the histories of a whole log.

        Returns:
            The counts behind them, and what `set_following` takes: name -> `NeighbourTable`, and
            the same as a sparse matrix where an index answers, else None.
        """
        counts, tables = fit_following(self._loaded, histories, self.num_items)
        has_index = self.indexed is not None
        return counts, {
            name: (table, sparse_table(table.neighbours, table.weights) if has_index else None)
            for name, table in tables.items()
        }

    def set_following(self, tables: Mapping[str, tuple[NeighbourTable, Any]]) -> None:
        """Takes other tables of what follows what; no request meanwhile, as for `set_moments`."""
        for name, (table, matrix) in tables.items():
            self._loaded.set_table(name, table)
            if self.indexed is not None:
                self.indexed.take(name, matrix)

    def changed_rows(self, counts: Following) -> dict[str, Rows]:
        """Makes the rows of these tables that newer events changed."""
        return changed_rows(self._loaded, counts)

    def set_rows(self, rows: Mapping[str, Rows]) -> None:
        """Takes some rows of these tables; no request meanwhile, as for `set_moments`."""
        for name, part in rows.items():
            self._loaded.set_rows(name, part)

    def guard(self) -> Guard | None:
        """Makes its `Guard`; None where it cannot count alone, or where an index answers."""
        return guard_of(self._loaded) if self.indexed is None else None

    def watch(
        self,
        guard: Guard,
        histories: Histories,
        places: np.ndarray,
        known: tuple[Following, Counts],
    ) -> bool:
        """Compares what it lists with what counting lists, beside the requests; see `watch`."""
        return watch(self._loaded, guard, histories, places, known)

    def count_alone(self, mixture: Mapping[str, np.ndarray], last: LastMoment) -> None:
        """Ranks by counts alone from now on; no request meanwhile, as for `set_moments`."""
        self._loaded.count_alone(mixture)
        self._loaded.set_last_moment(last)

    def unload(self) -> None:
        """Lets the memory go; nobody may use the version any more."""
        del self._loaded, self.filters, self.items
        self.indexed, self.signatures = None, {}


def _definitions(path: Path) -> dict[str, Any]:
    """Signature name -> SignatureDef of a SavedModel, without its graph."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    result = {}
    for name, definition in saved.meta_graphs[0].signature_def.items():
        result[name] = type(definition).FromString(definition.SerializeToString())
    return result


def _warmup_requests(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields `(signature name, tensors)` of the requests of a warm-up file, if there is one.

    An operator may have put another file there, so it is read with the official messages;
    `versions.warmup` reads the files of kerasrec, where these need not be installed.
    """
    if not path.is_file():
        return
    from tensorflow_serving.apis import prediction_log_pb2

    for record in tf.data.TFRecordDataset(str(path)).take(_MAX_WARMUP).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        tensors = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        yield (
            request.model_spec.signature_name,
            {name: tf.constant(value) for name, value in tensors.items()},
        )


def _load(path: Path) -> LoadedVersion:
    """Loads a version; an error keeps its class, by which `ModelVersions` knows what may pass."""
    try:
        return LoadedVersion.load(path)
    except ArtifactError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


def look_of(path: Path) -> Look:
    """Reads names, sizes and times of the files of a folder, to see later whether they changed."""
    try:
        files = [(f, f.stat()) for f in sorted(path.rglob("*")) if f.is_file()]
    except OSError:  # files go while we look
        return None
    return [(str(f), facts.st_size, facts.st_mtime_ns) for f, facts in files]
