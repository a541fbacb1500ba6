"""Checks that many modules share, and the words of their refusals. Loads without numpy."""

import difflib
import math
import numbers
from collections.abc import Collection
from typing import Any


class ArtifactError(Exception):
    """A version that is missing, foreign or only half written."""


def did_you_mean(name: object, known: Collection[str]) -> str:
    """Proposes what was meant by an unknown name, and lists the known ones.

    Args:
        name: as it was given.
        known: the names that exist.

    >>> did_you_mean("dropuot", ["dropout", "heads"])
    "Did you mean 'dropout'? Known: dropout, heads."
    """
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known)}."


def is_whole(value: object) -> bool:
    """Says whether a value is a whole number, of Python or numpy; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_number(name: str, value: Any, most: float) -> None:
    """Raises ValueError unless a value is a finite number from 0 to `most`."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= most and value < math.inf):
        expected = "0 or above" if most == math.inf else f"from 0 to {most:g}"
        raise ValueError(f"{name} must be a number, {expected}. Received: {value!r}.")
