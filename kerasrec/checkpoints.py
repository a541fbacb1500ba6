"""Reading weights: every file format in, one dict of numpy arrays out.

`read_tf_checkpoint` and `read_safetensors` give the tensors under the
names the file has. No torch is needed, and nothing but tensors is ever unpickled.
`kerasrec.architectures` turns those names into bert4keras' names.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SAFETENSORS_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


class Checkpoint(NamedTuple):
    """A pretrained encoder as read from disk, ready to be built."""

    name: str
    config: dict  # sizes, activation, layer_norm_eps
    tensors: dict  # bert4keras' variable name -> array
    model: str  # one of architectures.MODELS
    tokenizer: Any
    pooling: str
    licence: str


def from_bfloat16(bits):
    """float32 values of bfloat16 bits given as uint16.

    >>> from_bfloat16(np.array([0x3F80, 0xC000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


# === TensorFlow ===


def read_tf_checkpoint(prefix):
    """Tensors of a TensorFlow checkpoint (`<prefix>.index`, `<prefix>.data-*`): dict of name ->
    array.

    Optimizer slots (`adam_m`, `adam_v`, `global_step`) are left out.
    """
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        names = [
            name
            for name in reader.get_variable_to_shape_map()
            if not name.endswith(("adam_m", "adam_v", "global_step"))
        ]
        return {name: reader.get_tensor(name) for name in names}
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{prefix}.* is not a whole TensorFlow checkpoint ({reason}). Copy its .index and all"
            " its .data-* files again."
        ) from None


# === safetensors ===


def read_safetensors(path):
    """Tensors of one .safetensors file: dict of name -> array (bfloat16 becomes float32).

    The arrays are memory-mapped.

    Raises:
        ValueError: the file is truncated or not safetensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            start = 8 + length
            if start > path.stat().st_size:
                raise ValueError("its header does not fit")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        data = np.memmap(path, np.uint8, "r") if header else None
        return {name: _read_tensor(data, start, name, entry) for name, entry in header.items()}
    except UnsupportedType as error:
        raise ValueError(f"{path}: {error}") from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}). Copy or download it again (a Git"
            " LFS pointer is about 130 bytes long)."
        ) from None


class UnsupportedType(ValueError):
    """A whole file with a tensor of a type that is not read."""


def _read_tensor(data, start, name, entry):
    """One tensor; `start` is where the tensors begin in the file."""
    begin, end = entry["data_offsets"]
    if entry["dtype"] not in SAFETENSORS_TYPES:
        raise UnsupportedType(f"{name} has the type {entry['dtype']}, which is not supported.")
    dtype = np.dtype(SAFETENSORS_TYPES[entry["dtype"]])
    if not 0 <= begin <= end <= len(data) - start:
        raise ValueError(f"{name} passes its end")
    if math.prod(entry["shape"]) * dtype.itemsize != end - begin:
        raise ValueError(f"the shape of {name} does not fit its bytes")
    tensor = np.frombuffer(data[start + begin : start + end], dtype).reshape(entry["shape"])
    return from_bfloat16(tensor) if entry["dtype"] == "BF16" else tensor
