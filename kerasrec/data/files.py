"""Writes files whole: the one way in which the library replaces a file that others may read."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and renames what was written when all went well.

    A reader never sees half a file. The bytes are on the disk before the rename: after a power cut
    either the old file is there or the new one is whole.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels.json"
    ...     with whole_file(path) as beside:
    ...         _ = beside.write_text("{}")
    ...         before = path.exists()
    ...     before, path.read_text()
    (False, '{}')
    """
    beside = path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
