"""Writes and replays warm-up requests of a version, one per signature, as TF Serving does at load.

`assets.extra/tf_serving_warmup_requests` is a TFRecord of `tensorflow.serving.PredictionLog`. The
messages are few and simple, so they are written and read here as protobuf lays them out, and every
version has them, whether or not tensorflow-serving-api is installed; the tests compare with it.
"""

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.features.usergroups import USER_INPUT

WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"
#: signatures that run the text encoder
TEXT_SIGNATURES = ("encode_items", "recommend_by_text")
_NUM_EXAMPLES = 3  # ids or titles of the catalogue in a request

# field numbers of tensorflow_serving/apis/{prediction_log,predict,model}.proto
_LOG_PREDICT, _PREDICT_REQUEST = 6, 1
_REQUEST_SPEC, _REQUEST_INPUTS = 1, 2
_SPEC_NAME, _SPEC_SIGNATURE = 1, 3
_MAP_KEY, _MAP_VALUE = 1, 2


def read_signatures(version: str | Path) -> dict[str, tuple[dict, dict]]:
    """Reads what a version can be asked from its `saved_model.pb`, without loading it.

    Args:
        version: Path of a version folder.

    Returns:
        dict signature -> `(inputs, outputs)`, each a dict name -> `(dtype, shape)`, such as
        `("string", [None, None])`; sorted by name, `serving_default` first.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((Path(version) / "saved_model.pb").read_bytes())
    found = saved.meta_graphs[0].signature_def
    names = sorted(found, key=lambda name: (name != "serving_default", name))
    return {
        name: (_tensors(found[name].inputs), _tensors(found[name].outputs))
        for name in names
        if not name.startswith("__")  # __saved_model_init_op is no signature
    }


def _tensors(infos):
    shapes = {}
    for name in sorted(infos):
        shape = infos[name].tensor_shape
        sizes = [None if axis.size < 0 else axis.size for axis in shape.dim]
        shapes[name] = (tf.as_dtype(infos[name].dtype).name, None if shape.unknown_rank else sizes)
    return shapes


def example_inputs(inputs: Iterable[str], frame: pd.DataFrame) -> dict[str, list]:
    """Makes values for the inputs of a signature, one row, with real ids and titles.

    Args:
        inputs: names of the inputs, perhaps with `(dtype, shape)` as `read_signatures` has them.
        frame: DataFrame of the catalogue, `item_id` and `title`.

    Returns:
        dict name -> nested list.

    Raises:
        ArtifactError: an input that nobody has told this module about.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"item_id": ["a", "b"], "title": ["甲", "乙"]})
    >>> example_inputs(["history", "keep_seen"], frame)
    {'history': [['', 'a', 'b']], 'keep_seen': [False]}
    """
    some = frame.head(_NUM_EXAMPLES)
    ids, titles = some["item_id"].tolist(), some["title"].tolist()
    known: dict[str, list[Any]] = {
        # TF Serving pads what it batches with the first element, behind: "" is ignored there
        "history": [["", *ids]],
        "history_texts": [["", *titles]],
        "timestamps": [[0] * (1 + len(ids))],
        "allow": [[""]],
        "deny": [[""]],
        "keep_seen": [False],
        "temperature": [0.0],
        "top_p": [1.0],
        "seed": [0],
        "candidates": [ids],
        "item_ids": ids[:1],
        "texts": titles[:1],
    }
    for name in inputs:
        if name.startswith(USER_INPUT):  # nothing is known of the user
            dtype = inputs[name][0] if isinstance(inputs, Mapping) else "string"
            known[name] = [""] if dtype == "string" else [float("nan")]
    unknown = [name for name in inputs if name not in known]
    if unknown:
        raise ArtifactError(
            f"No warm-up request for the input {unknown[0]!r}; nothing was published. This is a "
            "defect of kerasrec: please report it."
        )
    return {name: known[name] for name in inputs}


def write_warmup(version: str | Path, name: str, frame: pd.DataFrame) -> None:
    """Writes one request per signature of a version that is being made.

    Args:
        version: Path of the folder; its `saved_model.pb` is there.
        name: of the model; requests carry it as TF Serving's own do.
        frame: DataFrame of the catalogue.
    """
    path = Path(version) / WARMUP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, (inputs, _) in read_signatures(version).items():
            values = example_inputs(inputs, frame)
            tensors = {
                key: tf.make_tensor_proto(values[key], dtype=dtype).SerializeToString()
                for key, (dtype, _) in inputs.items()
            }
            writer.write(_prediction_log(name, signature, tensors))


def read_warmup(version: str | Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Reads the requests of a version: list of `(signature, dict input -> array)`, texts as `str`.

    Raises:
        ArtifactError: the file is missing or no warm-up file.
    """
    path = Path(version) / WARMUP
    try:
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
        return [_parsed(record) for record in records]
    except (tf.errors.OpError, IndexError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{path} cannot be read ({reason}). Export the model again.") from error


def replay_warmup(version: str | Path, loaded: Any, *, without: Container[str] = ()) -> None:
    """Sends a version's requests to its loaded SavedModel, as a server does when it loads it.

    Args:
        version: Path of its folder.
        loaded: the SavedModel.
        without: signatures to which nothing is sent.

    Raises:
        ArtifactError: a signature without a request, or one that does not answer its own.
    """
    requests = read_warmup(version)
    asked, there = sorted(name for name, _ in requests), sorted(loaded.signatures)
    if asked != there:
        raise ArtifactError(f"{WARMUP} asks {asked}, the version answers {there}.")
    for signature, inputs in requests:
        if signature in without:
            continue
        try:
            loaded.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()})
        except (tf.errors.OpError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ArtifactError(
                f"The version does not answer its own warm-up request to {signature} ({reason})."
            ) from error


# --- protobuf, as far as these messages need it ---


def _prediction_log(name, signature, tensors):
    """Bytes of `PredictionLog(predict_log=PredictLog(request=PredictRequest(...)))`."""
    spec = _field(_SPEC_NAME, name.encode()) + _field(_SPEC_SIGNATURE, signature.encode())
    request = _field(_REQUEST_SPEC, spec)
    for key in sorted(tensors):
        entry = _field(_MAP_KEY, key.encode()) + _field(_MAP_VALUE, tensors[key])
        request += _field(_REQUEST_INPUTS, entry)
    return _field(_LOG_PREDICT, _field(_PREDICT_REQUEST, request))


def _field(number, content):
    """A field of bytes: tag, length, content (wire type 2)."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value):
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _parsed(record):
    """`(signature, inputs)` of what `_prediction_log` wrote."""
    from tensorflow.core.framework import tensor_pb2

    request = dict(_fields(dict(_fields(record))[_LOG_PREDICT]))[_PREDICT_REQUEST]
    fields = list(_fields(request))
    signature = dict(_fields(dict(fields)[_REQUEST_SPEC]))[_SPEC_SIGNATURE].decode()
    inputs = {}
    for number, content in fields:
        if number == _REQUEST_INPUTS:
            entry = dict(_fields(content))
            tensor = tensor_pb2.TensorProto.FromString(entry[_MAP_VALUE])
            value = tf.make_ndarray(tensor)
            if value.dtype == object:
                texts = [text.decode() for text in value.flat]
                value = np.array(texts, str).reshape(value.shape)
            inputs[entry[_MAP_KEY].decode()] = value
    return signature, inputs


def _fields(content):
    """Yields `(number, bytes)` of a message whose fields are all of wire type 2."""
    place = 0
    while place < len(content):
        tag, place = _read_varint(content, place)
        size, place = _read_varint(content, place)
        if tag & 7 != 2 or place + size > len(content):
            raise ValueError(f"not a PredictionLog: byte {place}")
        yield tag >> 3, content[place : place + size]
        place += size


def _read_varint(content, place):
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
