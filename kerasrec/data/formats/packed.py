"""Opens files that may be compressed with gzip or zstd: seen by their first bytes, not by name."""

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

HEAD_BYTES = 1 << 16
#: what a damaged file, packed or not, raises while it is read
DAMAGES = (EOFError, OSError, zlib.error, pa.ArrowException)
_STARTS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_ENDINGS = {".gz": "gzip", ".zst": "zstd"}


def one_line(error: object) -> str:
    """Shortens the message of a foreign error to one line."""
    return " ".join(str(error).split())[:160]


def packing(path: str | Path) -> str:
    """Names how a file is compressed: `"gzip"`, `"zstd"` or `""`."""
    with open(path, "rb") as file:
        start = file.read(4)
    return next((kind for sign, kind in _STARTS.items() if start.startswith(sign)), "")


def open_binary(path: str | Path) -> BinaryIO:
    """Opens the bytes of a file, unpacked."""
    kind = packing(path)
    if kind == "gzip":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if kind == "zstd":
        return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression="zstd")))
    return open(path, "rb")


def peek(path: str | Path, size: int = HEAD_BYTES) -> bytes:
    """Reads the first bytes of the unpacked file.

    Raises:
        ValueError: the name says that it is compressed and it is not, or it is damaged.
    """
    says = _ENDINGS.get(Path(path).suffix.lower(), "")
    if says and packing(path) != says:
        raise ValueError(
            f"{path}: expected a {says} file, as its name says. Received: a file that is not "
            f"compressed so. Rename it to {Path(path).stem} or compress it."
        )
    try:
        with open_binary(path) as file:
            return file.read(size)
    except DAMAGES as error:
        raise ValueError(damaged(path, error)) from error


def damaged(path: str | Path, error: object, num_lines: int | None = None) -> str:
    """Says that a file is not whole, and after how many lines it breaks off."""
    after = "" if num_lines is None else f" after {num_lines} lines"
    kind = packing(path)
    whole = f"a whole {kind} file" if kind else "a file that can be read"
    return (
        f"{path}: expected {whole}. Received: one that is cut off or damaged{after} "
        f"({one_line(error)}). Copy or compress it again."
    )
