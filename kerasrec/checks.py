"""Checks that many modules share, and the words of their refusals."""

import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np


class ArtifactError(Exception):
    """A version that is missing, foreign or only half written."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Text that proposes what was meant.

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
    """Whether it is a whole number, of numpy or not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_number(name: str, value: Any, most: float) -> None:
    """Raise ValueError unless it is a finite number from 0 to `most`."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= most and np.isfinite(value)):
        expected = "0 or above" if most == np.inf else f"from 0 to {most:g}"
        raise ValueError(f"{name} must be a number, {expected}. Received: {value!r}.")
