"""Vectors of items that another model made: reads their files, makes cells of a table of them."""

import base64
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

#: what a cell of `pack_vectors` begins with
PACKED = "vector:"


def read_vectors(path: str | Path) -> tuple[list[Any], np.ndarray]:
    """Reads a file of vectors; `check_vectors` says whether they are fit for use.

    Args:
        path: `X.npy` with `X.npy.ids.txt` or `X.ids.txt` beside it (one id a line), `X.npz` with
            `ids` and `vectors`, or `X.parquet` with `item_id` and one list column.

    Returns:
        `(ids, vectors)`.

    Raises:
        FileNotFoundError, ValueError: no such file, or one of another form.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"No file of vectors found at {path}. Expected an npy, npz or parquet file."
        )
    readers = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(f"{path} must end in {', '.join(readers)}. Received: {path.suffix!r}.")
    return readers[path.suffix](path)


def check_vectors(
    ids: Iterable[Any], vectors: np.ndarray, name: str
) -> tuple[list[str], np.ndarray]:
    """Gives ids as texts and vectors as float32 `(num_ids, width)`.

    Args:
        ids: one for each vector.
        vectors: float, `(num_ids, width)`.
        name: where they came from, for the message.

    Raises:
        ValueError: not one finite vector for each id, or an id that comes twice.
    """
    known = [str(item_id) for item_id in ids]
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.ndim != 2 or len(vectors) != len(known) or not known:
        raise ValueError(
            f"{name} must hold one vector per item id. Received: {len(known)} ids and"
            f" vectors of shape {vectors.shape}."
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name}: {len(bad)} vectors hold NaN or infinity, the first of item"
            f" {known[bad[0]]!r}. Make them again."
        )
    row = {item_id: row for row, item_id in enumerate(known)}
    if len(row) < len(known):
        double = next(one for place, one in enumerate(known) if row[one] != place)
        raise ValueError(
            f"{name}: {len(known) - len(row)} item ids come twice, e.g. {double!r}. Keep one."
        )
    return known, vectors


# --- vectors as cells of a table ---


def pack_vectors(vectors: np.ndarray) -> list[str]:
    """Makes one text of each vector, as a column of `Items.frame` holds it: about 3 digits stay.

    The text is `vector:` and, in base64, the largest value (float32) and each value as a share of
    it (float16).

    >>> texts = pack_vectors(np.array([[0.5, -2.0]]))
    >>> texts, unpack_vector(texts[0]).tolist()
    (['vector:AAAAQAA0ALw='], [0.5, -2.0])
    """
    largest = np.abs(vectors).max(axis=1).astype("<f4")
    shares = (vectors / np.where(largest, largest, 1)[:, None]).astype("<f2")
    return [
        PACKED + base64.b64encode(most.tobytes() + share.tobytes()).decode()
        for most, share in zip(largest, shares, strict=True)
    ]


def unpack_vector(text: str) -> np.ndarray:
    """Reads what `pack_vectors` made, or numbers between spaces, commas or in a JSON list.

    >>> unpack_vector("[1, 2.5]").tolist()
    [1.0, 2.5]

    Raises:
        ValueError: it is something else, or holds NaN or infinity.
    """
    if text.startswith(PACKED):
        raw = base64.b64decode(text[len(PACKED) :], validate=True)
        vector = np.frombuffer(raw, "<f2", offset=4).astype(np.float32)
        vector *= np.frombuffer(raw, "<f4", count=1)
    else:
        vector = np.array(re.split(r"[\s,;]+", text.strip("[]() \t\n")), np.float32)
    if not len(vector) or not np.isfinite(vector).all():
        raise ValueError("no finite numbers")
    return vector


def vector_columns(frame: pd.DataFrame) -> list[str]:
    """Finds the columns whose cells are those of `pack_vectors`, or none."""
    first = {name: next((one for one in frame[name] if one), "") for name in frame.columns}
    return [str(n) for n, cell in first.items() if isinstance(cell, str) and cell[:7] == PACKED]


# --- forms of files ---


def _load_array(path):
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        raise ValueError(f"{path} cannot be read as a numpy file ({reason}).") from None


def _read_npy(path):
    ids_path = next(
        (p for p in (Path(f"{path}.ids.txt"), path.with_suffix(".ids.txt")) if p.is_file()), None
    )
    if ids_path is None:
        raise FileNotFoundError(
            f"{path} needs its item ids beside it, one a line. Expected: {path}.ids.txt."
        )
    lines = ids_path.read_text(encoding="utf-8-sig").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines], _load_array(path)


def _read_npz(path):
    with _load_array(path) as arrays:
        missing = {"ids", "vectors"} - set(arrays)
        if missing:
            raise ValueError(
                f"{path} must hold the arrays ids and vectors. It holds: {', '.join(arrays)}."
            )
        return arrays["ids"].tolist(), arrays["vectors"]


def _read_parquet(path):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as parquet ({str(error).splitlines()[0]})."
        ) from None
    lists = [
        field.name
        for field in table.schema
        if pa.types.is_list(field.type)
        or pa.types.is_large_list(field.type)
        or pa.types.is_fixed_size_list(field.type)
    ]
    if "item_id" not in table.column_names or len(lists) != 1:
        raise ValueError(
            f"{path} must have the column item_id and one column of lists. It has: "
            f"{', '.join(f'{f.name} ({f.type})' for f in table.schema)}."
        )
    column = table.column(lists[0]).combine_chunks()
    lengths = {
        None if n is None else int(n) for n in pc.unique(pc.list_value_length(column)).to_pylist()
    }
    if len(lengths) != 1 or None in lengths:
        raise ValueError(f"{path}: all vectors must have one length. Received lengths: {lengths}.")
    vectors = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    return table.column("item_id").to_pylist(), vectors.reshape(len(table), -1)
