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
    encoding, notes = known_encoding(encoding), []
    found = find_encoding(peek(path)) if encoding == "utf-8" else ""
    if found:
        encoding = found
        notes.append((f"encoding: {show_encoding(found)}, by its bytes", 1))
    builder, bad, number = ColumnBuilder(), [], 0
    try:
        for number, line in _lines(path, encoding):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError
            except ValueError:
                bad.append(f"line {number}, '{one_line(line)[:60]}'")
                continue
            builder.add(_flat(row) if any(isinstance(one, dict) for one in row.values()) else row)
    except UnicodeError as error:
        raise ValueError(
            f"{path}: expected text in {encoding}. Received: bytes that are not, behind line "
            f"{number} ({one_line(error)}). Name the file's encoding with encoding=... "
            "(--encoding ...) or mend the line."
        ) from error
    except DAMAGES as error:
        raise ValueError(damaged(path, error, number)) from error
    if not builder.num_rows:
        received = f"none in {len(bad)} lines ({bad[0]})" if bad else "blank lines only"
        raise ValueError(
            f"{path}: expected a JSON object in each line. Received: {received}. Write one object "
            "a line, without a list around them."
        )
    refusals = []
    if bad:
        others = f" ({len(bad)} such lines)" if len(bad) > 1 else ""
        expected, received = "a JSON object in each line", f"{bad[0]}{others}"
        refusals = [Refusal(str(path), expected, received, _WHAT, len(bad), bad[0])]
    return ColumnTable(
        str(path), builder.columns(), builder.num_rows, notes=notes, refusals=refusals
    )


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
