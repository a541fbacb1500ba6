"""Reads JSON Lines: one object for each line, packed or not."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kerasrec.data.cleaningreport import Refusal
from kerasrec.data.formats.columntable import ColumnBuilder, ColumnTable
from kerasrec.data.formats.csvtable import known_encoding
from kerasrec.data.formats.encodings import find_encoding, show_encoding
from kerasrec.data.formats.packed import DAMAGES, damaged, one_line, open_binary, peek

_WHAT = "lines that are no JSON object"


def open_json(path: str | Path, encoding: str = "utf-8") -> ColumnTable:
    """Reads a file of JSON objects, one in each line, whole.

    Objects within objects become columns with a dot: `{"user": {"id": 7}}` is `user.id`. A name
    that a line lacks is a missing value.

    Raises:
        ValueError: damage, another encoding, no line with an object.
    """
    lines, builder = JsonLines(path, encoding), ColumnBuilder()
    for row in lines.rows():
        builder.add(row)
    return ColumnTable(
        str(path),
        builder.columns(),
        builder.num_rows,
        notes=lines.notes,
        refusals=lines.refusals(),
    )


class JsonLines:
    """Reads the objects of a file one after the other, and counts the lines that hold none.

    Args:
        path: of the file.
        encoding: of its text; where it is UTF-8, GBK and UTF-16 are found by their bytes.

    Attributes:
        notes: for the report, `(what, count)`.
    """

    def __init__(self, path: str | Path, encoding: str = "utf-8") -> None:
        self._path, self._encoding = path, known_encoding(encoding)
        self.notes: list[tuple[str, int]] = []
        found = find_encoding(peek(path)) if self._encoding == "utf-8" else ""
        if found:
            self._encoding = found
            self.notes.append((f"encoding: {show_encoding(found)}, by its bytes", 1))
        self._num_bad, self._first_bad = 0, ""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields the objects, flat.

        Raises:
            ValueError: damage, another encoding, no line with an object.
        """
        path, number, has_rows = self._path, 0, False
        self._num_bad, self._first_bad = 0, ""
        try:
            for number, line in _lines(path, self._encoding):
                try:
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError
                except ValueError:
                    self._first_bad = self._first_bad or f"line {number}, '{one_line(line)[:60]}'"
                    self._num_bad += 1
                    continue
                has_rows = True
                yield _flat(row) if any(isinstance(one, dict) for one in row.values()) else row
        except UnicodeError as error:
            raise ValueError(
                f"{path}: expected text in {self._encoding}. Received: bytes that are not, behind "
                f"line {number} ({one_line(error)}). Name the file's encoding with encoding=... "
                "(--encoding ...) or mend the line."
            ) from error
        except DAMAGES as error:
            raise ValueError(damaged(path, error, number)) from error
        if not has_rows:
            some = f"none in {self._num_bad} lines ({self._first_bad})"
            received = some if self._num_bad else "blank lines only"
            raise ValueError(
                f"{path}: expected a JSON object in each line. Received: {received}. Write one "
                "object a line, without a list around them."
            )

    def refusals(self) -> list[Refusal]:
        """Of the lines without an object that `rows` has met."""
        if not self._num_bad:
            return []
        count, first = self._num_bad, self._first_bad
        others = f" ({count} such lines)" if count > 1 else ""
        expected, received = "a JSON object in each line", f"{first}{others}"
        return [Refusal(str(self._path), expected, received, _WHAT, count, first)]


def _lines(path: str | Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank."""
    with open_binary(path) as file:
        text = io.TextIOWrapper(file, encoding, newline="\n")
        for number, line in enumerate(text, start=1):
            line = line.removeprefix("\ufeff") if number == 1 else line
            if line.strip():
                yield number, line


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
