"""`ServedVersion`: one loaded version of a served model and its signatures."""

from kerasrec.backend import tf
from kerasrec.recommender.loadedlog import VersionLog
from kerasrec.recommender.shortlist import sparse_table
from kerasrec.serving.indexedlists import INDEXED, SCORES_PER_ROW, IndexedLists
from kerasrec.serving.limits import Refusal
from kerasrec.versions import folders
from kerasrec.versions.warmup import WARMUP

DEFAULT_SIGNATURE = "serving_default"
_MAX_WARMUP = 1000  # records, as TF Serving


class Signature:
    """One function of a version.

    Attributes:
        name: of the signature.
        inputs: name -> `(dtype enum, shape)`; shape is a tuple with -1 = any, or None.
        outputs: list of names.
    """

    def __init__(self, name, definition, function):
        self.name = name
        self.inputs = {
            key: (info.dtype, _dimensions(info.tensor_shape))
            for key, info in sorted(definition.inputs.items())
        }
        self.outputs = sorted(definition.outputs)
        self._function = function

    def __call__(self, tensors):
        """Dict of tensors -> dict of tensors."""
        return self._function(**tensors)

    def example(self):
        """Smallest inputs: one row, one cell, the empty string or zero."""
        return {
            key: tf.zeros([1 if size == -1 else size for size in shape or ()], dtype)
            for key, (dtype, shape) in self.inputs.items()
        }


def _dimensions(shape):
    return None if shape.unknown_rank else tuple(dimension.size for dimension in shape.dim)


#: numbers that a row of `generate` needs besides those of the items, about
PLAN_PER_ROW = 1 << 18


class ServedVersion:
    """A loaded version, and how many requests it works on.

    Attributes:
        model: name of the model.
        number: of the version.
        path: its folder.
        look: what the folder held, see `_look`.
        num_items: size of its catalogue.
        has_transitions: whether it has a table of what follows what that can be fitted anew.
        lists: `IndexedLists` where an index answers for the graph, else None.
        definitions: signature name -> SignatureDef, as saved.
        signatures: signature name -> `Signature`.
    """

    def __init__(self, model, number, path):
        self.model, self.number = model, number
        self.path = folders.find_version(path)  # raises where a part is missing
        self.look = look_of(self.path)  # before it is read: what changes meanwhile is seen later
        manifest = folders.read_manifest(self.path)
        self.num_items = manifest.num_items
        self.definitions = _definitions(self.path)
        self._loaded = tf.saved_model.load(str(self.path))
        self._log = VersionLog(self._loaded, manifest, None)
        self.has_transitions = self._log.has_transitions()
        functions = dict(self._loaded.signatures)
        self.lists = IndexedLists.of(self._loaded, manifest, self.path)
        if self.lists is not None:
            functions |= {name: getattr(self.lists, name) for name in INDEXED}
        self.signatures = {
            name: Signature(name, self.definitions[name], function)
            for name, function in functions.items()
        }
        self.in_use = 0
        self.is_retired = False

    def signature(self, name=""):
        """The `Signature` of a name, "" = the default one.

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

    def scores_per_row(self, name):
        """How many scores a signature computes for a row, about: all items or the candidates."""
        if name == "generate":  # what the beams of a plan keep, and what each item weighs
            return PLAN_PER_ROW + 6 * self.num_items
        return SCORES_PER_ROW if self.lists is not None and name in INDEXED else self.num_items

    def warm_up(self, check):
        """Call each signature once, then replay the warm-up requests; an error is raised.

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

    def moments(self):
        """Arrays `starts, first, prior`, as in `recency.Moments`."""
        return [getattr(self._loaded, name).numpy() for name in ("starts", "first", "prior")]

    def set_moments(self, starts, first, prior, popularity):
        """Take other moments; nobody may be asking the version meanwhile (`Predictor.alone`)."""
        values = {"starts": starts, "first": first, "prior": prior, "popularity": popularity}
        for name, value in values.items():
            getattr(self._loaded, name).assign(value)
        if self.lists is not None:
            self.lists.know()

    def transitions(self, histories):
        """What follows what, fitted on `Histories` of a whole log.

        Returns:
            What `set_transitions` takes: `NeighbourTable`, and where an index answers the same as a
            sparse matrix, else None.
        """
        table = self._log.transitions(histories, self.num_items)
        has_index = self.lists is not None
        return table, sparse_table(table.neighbours, table.weights) if has_index else None

    def set_transitions(self, table, matrix):
        """Take another table of what follows what; nobody may be asking, as for `set_moments`."""
        self._log.set_transitions(table)
        if self.lists is not None:
            self.lists.take("transitions", matrix)

    def unload(self):
        """Let the memory go; nobody may use the version any more."""
        self._loaded, self._log, self.lists, self.signatures = None, None, None, {}


def _definitions(path):
    """Signature name -> SignatureDef of a SavedModel, without its graph."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    result = {}
    for name, definition in saved.meta_graphs[0].signature_def.items():
        result[name] = type(definition).FromString(definition.SerializeToString())
    return result


def _warmup_requests(path):
    """`(signature name, tensors)` of the PredictRequests of a warm-up file, if there is one.

    An operator may have put a file of his own there, so it is read with the official messages;
    `warmup` reads what kerasrec wrote, where these need not be installed.
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


def look_of(path):
    """What a folder holds: names, sizes and times of its files."""
    try:
        files = [(f, f.stat()) for f in sorted(path.rglob("*")) if f.is_file()]
    except OSError:  # files go while we look
        return None
    return [(str(f), facts.st_size, facts.st_mtime_ns) for f, facts in files]
