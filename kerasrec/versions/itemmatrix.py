"""How a version stores its item vectors: float32, or float16 or int8 in less memory.

float32 keeps two tables: the vectors by row, to look items up, and their unit vectors by column,
which a matrix product reads fastest. The other forms keep the rows alone, an eighth of the bytes as
int8 and a quarter as float16, and a scoring decodes them in blocks that fit the processor's cache.
The graph is the same for all: the tables that are not in use are empty. Core operations only.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kerasrec.backend import tf

FORMS = ("float32", "float16", "int8")
#: the variables of `ServingModule` that hold the vectors, in all forms together
TABLES = (
    "item_vectors",
    "item_matrix",
    "half_vectors",
    "byte_vectors",
    "byte_scale",
    "unit_scale",
)
_BLOCK = 4096  # items decoded together
#: name of each of `TABLES` -> tf.Variable, as `make_variables` gives them
Tables = Mapping[str, Any]


def stored(vectors: np.ndarray, form: str = "float32") -> dict[str, np.ndarray]:
    """The tables of item vectors in one form; those of the other forms are empty.

    Args:
        vectors: float32 `(num_items + 1, dim)`, row 0 (padding) zero.
        form: one of `FORMS`. int8 stores every vector as whole numbers from -127 to 127 times a
            scale of its own, so an entry is wrong by 1/254 of the vector's largest entry at most.

    Returns:
        dict: `item_vectors` float32 `(num_items + 1, dim)`, `item_matrix` float32
        `(dim, num_items + 1)` of unit vectors, `half_vectors` float16 and `byte_vectors` int8
        `(num_items + 1, dim)`, `byte_scale` float32 `(num_items + 1,)` and `unit_scale` float32
        `(num_items + 1,)`, the inverse lengths of the stored rows.

    >>> tables = stored(np.array([[0, 0], [3, 4]], np.float32), "int8")
    >>> tables["byte_vectors"].tolist(), tables["item_vectors"].shape
    ([[0, 0], [95, 127]], (0, 2))
    """
    if form not in FORMS:
        raise ValueError(f"item_matrix must be one of {', '.join(FORMS)}. Received: {form!r}.")
    vectors = np.asarray(vectors, np.float32)
    dim = vectors.shape[1]
    tables: dict[str, np.ndarray] = {
        "item_vectors": np.zeros((0, dim), np.float32),
        "item_matrix": np.zeros((dim, 0), np.float32),
        "half_vectors": np.zeros((0, dim), np.float16),
        "byte_vectors": np.zeros((0, dim), np.int8),
        "byte_scale": np.zeros(0, np.float32),
        "unit_scale": np.zeros(0, np.float32),
    }
    if form == "float32":
        unit = tf.transpose(tf.math.l2_normalize(vectors, axis=-1)).numpy()
        return {**tables, "item_vectors": vectors, "item_matrix": unit}
    if form == "float16":
        # without a scale, so what float16 cannot hold must not become infinite
        codes = np.clip(vectors, *_HALF_RANGE).astype(np.float16)
        tables["half_vectors"] = codes
    else:
        largest = np.abs(vectors).max(axis=1, initial=0)
        codes = np.rint(vectors * (127 / np.maximum(largest, 1e-30))[:, None]).astype(np.int8)
        tables["byte_vectors"], tables["byte_scale"] = codes, (largest / 127).astype(np.float32)
    lengths = np.linalg.norm(codes.astype(np.float32), axis=1)
    tables["unit_scale"] = (1 / np.maximum(lengths, 1e-6)).astype(np.float32)
    return tables


_HALF_RANGE = (float(np.finfo(np.float16).min), float(np.finfo(np.float16).max))


def form_of(tables: Tables) -> str:
    """The form in which the tables of a version store its vectors."""
    # the static shape of a loaded variable does not know the number of items
    if not len(tables["unit_scale"].numpy()):
        return "float32"
    return "int8" if len(tables["byte_scale"].numpy()) else "float16"


def read_vectors(tables: Tables) -> np.ndarray:
    """The item vectors of a version in whatever form, float32 `(num_items + 1, dim)`."""
    form = form_of(tables)
    if form == "float32":
        return tables["item_vectors"].numpy()
    if form == "float16":
        return tables["half_vectors"].numpy().astype(np.float32)
    return tables["byte_vectors"].numpy() * tables["byte_scale"].numpy()[:, None]


def grown(tables: Tables, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """The tables of a version with more items, in the form that it has.

    Args:
        tables: of the version.
        vectors: float32 `(num_new, dim)`, behind the others.

    Returns:
        dict, as `stored`.
    """
    return {
        name: np.concatenate([tables[name].numpy(), rows], axis=1 if name == "item_matrix" else 0)
        for name, rows in stored(vectors, form_of(tables)).items()
    }


def make_variables(vectors: np.ndarray) -> dict[str, Any]:
    """Name of a table -> tf.Variable, float32 in use; every one can later take another form."""
    variables = {}
    for name, value in stored(vectors).items():
        shape = [None] * value.ndim
        if value.ndim == 2:
            shape[0 if name == "item_matrix" else 1] = vectors.shape[1]
        variables[name] = tf.Variable(value, shape=shape, trainable=False, name=name)
    return variables


def look_up(tables: Tables, index: Any) -> Any:
    """Item vectors at item indices: int32 `(...)` -> float32 `(..., dim)`."""

    def from_bytes():
        codes = tf.cast(tf.gather(tables["byte_vectors"], index), tf.float32)
        return codes * tf.gather(tables["byte_scale"], index)[..., None]

    return _in_use(
        tables,
        lambda: tf.gather(tables["item_vectors"], index),
        lambda: tf.cast(tf.gather(tables["half_vectors"], index), tf.float32),
        from_bytes,
    )


def cosines(tables: Tables, queries: Any) -> Any:
    """Products of queries with every unit item vector: `(batch, dim)` -> `(batch, num_items + 1)`.

    Args:
        tables: see `Tables`.
        queries: float32; of unit length where cosines are wanted.
    """
    return _in_use(
        tables,
        lambda: tf.matmul(queries, tables["item_matrix"]),
        lambda: _in_blocks(queries, tables["half_vectors"], tables["unit_scale"]),
        lambda: _in_blocks(queries, tables["byte_vectors"], tables["unit_scale"]),
    )


def _in_use(tables, whole, half, byte):
    """What the function of the form in use gives."""
    compressed = tf.shape(tables["unit_scale"])[0] > 0
    is_byte = tf.shape(tables["byte_scale"])[0] > 0
    return tf.cond(compressed, lambda: tf.cond(is_byte, byte, half), whole)


def _in_blocks(queries, codes, scale):
    """`queries @ (codes * scale).T`, decoding a block of items at a time."""
    num_items = tf.shape(scale)[0]
    count = (num_items + _BLOCK - 1) // _BLOCK
    parts = tf.TensorArray(tf.float32, count, infer_shape=False, element_shape=(None, None))

    def add(number, parts):
        rows = slice(number * _BLOCK, (number + 1) * _BLOCK)
        block = tf.cast(codes[rows], tf.float32)
        found = tf.matmul(block, queries, transpose_b=True) * scale[rows][:, None]
        return number + 1, parts.write(number, found)  # (block, batch)

    _, parts = tf.while_loop(lambda number, _: number < count, add, (0, parts))
    return tf.transpose(parts.concat())
