"""Reads weights of every file format as one dict of numpy arrays.

`read_tf_checkpoint`, `read_safetensors` and `read_torch` give the tensors under the names that the
file has. No torch is needed, and nothing but tensors is ever unpickled. `architectures` turns those
names into bert4keras' names.
"""

import collections
import io
import json
import math
import mmap
import pickle
import struct
import zipfile
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
    """Holds a pretrained encoder as read from disk, ready to be built."""

    name: str
    config: dict  # sizes, activation, layer_norm_eps
    tensors: dict  # bert4keras' variable name -> array
    model: str  # one of architectures.MODELS
    tokenizer: Any
    pooling: str
    licence: str


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Converts bfloat16 bits, given as uint16, to float32.

    >>> from_bfloat16(np.array([0x3F80, 0xC000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


# --- TensorFlow ---


def read_tf_checkpoint(prefix: str | Path) -> dict[str, np.ndarray]:
    """Reads a TensorFlow checkpoint (`<prefix>.index`, `<prefix>.data-*`): dict of name -> array.

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


# --- safetensors ---


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads one .safetensors file: dict of name -> array (bfloat16 becomes float32).

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
    """Raised for a whole file with a tensor of a type that is not read."""


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


STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_torch(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a torch file: dict of name -> array (bfloat16 becomes float32).

    Args:
        path: a file with a state dict (name -> tensor), as `torch.save(model.state_dict(), path)`
            writes it.

    Raises:
        ValueError: the file is damaged, or holds anything but tensors and plain containers.
    """
    path = Path(path)
    try:
        data = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        MemoryError,
        OverflowError,
        RecursionError,
        UnicodeDecodeError,
        struct.error,
    ) as error:
        raise ValueError(
            f"{path} is not a whole torch file ({type(error).__name__}: {error}). Copy or download"
            " it again."
        ) from None
    if isinstance(data, dict) and isinstance(data.get("state_dict"), dict):
        data = data["state_dict"]
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a dict of tensors. Received: {type(data).__name__}.")
    return {name: value for name, value in data.items() if isinstance(value, np.ndarray)}


class _Storage:
    """A stretch of numbers; `data` is filled in later in the older format."""

    def __init__(self, dtype, size, data=None):
        self.dtype, self.size, self.data = dtype, size, data


class _View:
    """A tensor as shape and strides over a storage."""

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self):
        data = self.storage.data
        shape, strides = tuple(map(int, self.shape)), tuple(map(int, self.strides))
        if min((*shape, *strides, self.offset), default=0) < 0 or len(shape) != len(strides):
            raise ValueError(f"A tensor has the impossible shape {shape}, strides {strides}.")
        if math.prod(shape) == 0:
            return np.zeros(shape, data.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if last >= len(data):
            raise ValueError(f"A tensor of shape {shape} passes the end of its storage.")
        array = np.lib.stride_tricks.as_strided(
            data[self.offset :], shape, [step * data.itemsize for step in strides], writeable=False
        )
        return from_bfloat16(array) if self.storage.dtype == "bfloat16" else array


def _rebuild_tensor(storage, offset, shape, strides, *_):
    if not isinstance(storage, _Storage):
        raise ValueError("A tensor does not stand on a storage.")
    return _View(storage, offset, shape, strides)


def _rebuild_parameter(view, *_):
    return view


class _StorageType:
    def __init__(self, dtype):
        self.dtype = dtype


class _TensorUnpickler(pickle._Unpickler):
    """Knows the few names that a file of tensors needs; everything else is refused.

    The unpickler in Python, not the one in C: a damaged file cannot make it take gigabytes.
    """

    dispatch = dict(pickle._Unpickler.dispatch)
    del dispatch[pickle.BYTEARRAY8[0]]  # would reserve any number of bytes; torch never writes it

    def __init__(self, file, load_storage):
        super().__init__(file, encoding="utf-8")
        self._load_storage = load_storage

    def find_class(self, module, name):
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module in ("torch", "torch.storage") and name in STORAGES:
            return _StorageType(STORAGES[name])
        raise ValueError(
            f"The file holds {module}.{name}, which is neither a tensor nor a plain container. Only"
            " state dicts are read: save it with torch.save(model.state_dict(), path) or as"
            " safetensors."
        )

    def persistent_load(self, key):
        if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage":
            raise ValueError(f"The file refers to something other than a tensor: {key!r:.80}.")
        kind = key[1]
        if not isinstance(kind, _StorageType):
            raise ValueError("The file has a storage of unknown type.")
        return self._load_storage(kind.dtype, str(key[2]), int(key[4]))


def _values(raw, dtype):
    return np.frombuffer(raw, "<u2" if dtype == "bfloat16" else dtype)


def _views_to_arrays(data):
    if isinstance(data, _View):
        return data.array()
    if isinstance(data, dict):
        return {key: _views_to_arrays(value) for key, value in data.items()}
    return data


# --- The zip format ---


def _read_zip(path):
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.split("/", 1)[-1] == "data.pkl"]
        if len(names) != 1:
            raise ValueError("This is a zip file, but not of torch (it holds no data.pkl).")
        folder = names[0].removesuffix("data.pkl")
        if folder + "byteorder" in archive.namelist():
            _check_byte_order(_member(archive, folder + "byteorder") == b"little")
        storages = {}

        def load_storage(dtype, key, size):
            if key not in storages:
                raw = _member(archive, f"{folder}data/{key}")
                storages[key] = _Storage(dtype, size, _values(raw, dtype))
            return storages[key]

        file = io.BytesIO(_member(archive, names[0]))
        return _views_to_arrays(_TensorUnpickler(file, load_storage).load())


def _member(archive, name):
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed inside the file, which torch never does.")
    return archive.read(name)


def _check_byte_order(is_little):
    if not is_little:
        raise ValueError("The file was written on a big-endian machine, which is not supported.")


# --- The older format: magic, version, system, object, storage keys, storages ---


def _read_legacy(path):
    storages = {}

    def load_storage(dtype, key, size):
        return storages.setdefault(key, _Storage(dtype, size))

    # mapped, because a file's read(n) reserves n bytes even when a damaged n is far too large
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:

        def load():
            return _TensorUnpickler(data, load_storage).load()

        magic, version, system = load(), load(), load()
        if magic != LEGACY_MAGIC or version != 1001:
            raise ValueError("This is not a torch file.")
        _check_byte_order(not isinstance(system, dict) or system.get("little_endian") is not False)
        result = load()
        for key in load():
            storage = storages[str(key)]
            (size,) = struct.unpack("<q", data.read(8))
            num_bytes = size * _values(b"", storage.dtype).itemsize
            if size != storage.size or not 0 <= num_bytes <= len(data) - data.tell():
                raise ValueError(
                    f"The file is truncated (storage {key}). Copy or download it again."
                )
            storage.data = _values(data.read(num_bytes), storage.dtype)
    return _views_to_arrays(result)
