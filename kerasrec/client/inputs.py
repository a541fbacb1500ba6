"""Checks the arguments of `Client`, and makes rows of ids or texts and arrays of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from kerasrec.data.histories import history_rows
from kerasrec.data.interactions import Interactions
from kerasrec.data.sources import read_interactions
from kerasrec.data.tables import is_frame

#: histories as `recommend` takes them
Histories: TypeAlias = Sequence[Any] | Mapping[Any, Sequence[Any]] | Interactions | pd.DataFrame
#: newest events of a history that are sent; with the padding before them `Limits.history`. A
#: model's own window is far shorter.
NEWEST = 999


class Maker:
    """Makes the array of some rows of an input.

    Attributes:
        widths: number of values in each row.
    """

    def __init__(self, make: Callable[[slice], np.ndarray], widths: list[int]) -> None:
        self._make, self.widths = make, widths

    def __call__(self, chosen: slice) -> np.ndarray:
        """The array of the chosen rows."""
        return self._make(chosen)


def lengths(rows: Iterable[Sequence[Any]]) -> list[int]:
    """Counts the values in each row."""
    return [len(row) for row in rows]


def is_many(values: Any) -> bool:
    """Tells whether a value is a list of some kind and no single id."""
    return hasattr(values, "__iter__") and not isinstance(values, str | bytes)


def ids_of(values: Any, what: str) -> list[str]:
    """Makes texts of ids; a number stands for its text."""
    if not is_many(values):
        raise ValueError(f"{what} must be a list of ids. Received: {_shown(values)}.")
    return [value if isinstance(value, str) else _id(value, what) for value in values]


def _id(value: Any, what: str) -> str:
    is_wrong = value is None or value is pd.NA or hasattr(value, "__iter__")
    if is_wrong or value != value:  # not a number
        raise ValueError(f"{what} must hold ids, texts or numbers. Received: {value!r} among them.")
    return str(value)


def _shown(value: Any) -> str:
    return f"the text {value!r}" if isinstance(value, str) else repr(value)


def checked_texts(values: Any, what: str) -> list[str]:
    """Makes a list of texts; raises ValueError for anything else."""
    if not is_many(values):
        raise ValueError(f"{what} must be a list of texts. Received: {_shown(values)}.")
    texts = list(values)
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{what} must hold texts (str). Received: {text!r} among them.")
    return texts


def text_histories(histories: Any) -> tuple[list, list[list[str]]]:
    """Makes `(users, rows of texts)` of the argument of `recommend_by_text`."""
    rows: Any = histories.values() if isinstance(histories, dict) else histories
    rows = list(rows) if is_many(rows) and not is_frame(rows) else rows
    if not isinstance(rows, list) or not all(map(is_many, rows)):
        raise ValueError(
            "recommend_by_text takes a list of histories, each a list of texts. For one user with "
            f'one text write recommend_by_text([["..."]]). Received: {_one_of(rows)}.'
        )
    users = list(histories) if isinstance(histories, dict) else list(range(len(rows)))
    return users, [checked_texts(row, "a history of texts")[-NEWEST:] for row in rows]


def _one_of(rows: Any) -> str:
    """The mistake among values that should be histories."""
    if is_frame(rows):
        return "a DataFrame"
    if not is_many(rows):
        return _shown(rows)
    return f"a list with {_shown(next(row for row in rows if not is_many(row)))}"


def histories_of(
    histories: Histories, timestamps: Any
) -> tuple[list, list[list[str]], list[list[int]] | None]:
    """Makes `(users, rows of ids, rows of times or None)` of any form that `recommend` takes."""
    if is_frame(histories):
        histories = read_interactions(histories)
    if isinstance(histories, Interactions):
        return _of_interactions(histories, timestamps)
    if isinstance(histories, dict) and isinstance(timestamps, dict):
        timestamps = [timestamps[user] for user in histories]
    users, rows = history_rows(histories)
    rows = [ids_of(row, "a history") for row in rows]
    if timestamps is None:
        return users, rows, None
    times = [[int(moment) for moment in row] for row in timestamps]
    if lengths(times) != lengths(rows):
        raise ValueError("timestamps must hold one time for each item of each history.")
    return users, rows, times


def _of_interactions(
    interactions: Interactions, timestamps: Any
) -> tuple[list, list[list[str]], list[list[int]] | None]:
    """The histories of a log, and its times where it has some and none are given."""
    frame = interactions.frame
    if interactions.has_time:
        frame = frame.sort_values("timestamp", kind="stable")
    groups = frame.groupby("user_id", observed=True, sort=True)
    rows = {str(user): [str(item) for item in part["item_id"]] for user, part in groups}
    times = timestamps
    if timestamps is None and interactions.has_time:
        times = {str(user): part["timestamp"].tolist() for user, part in groups}
    return histories_of(rows, times)


def batches(
    num_rows: int, widths: Iterable[list[int]], most_rows: int, most_cells: int
) -> Iterator[slice]:
    """Yields slices of rows whose padded inputs hold `most_cells` values at most, or a single row.

    Args:
        num_rows: of all.
        widths: for each input, the values of each row.
        most_rows: of a slice.
    """
    of_row = np.maximum.reduce([np.ones(num_rows, int), *(np.array(w, int) for w in widths)])
    start = 0
    while start < num_rows:
        widest = np.maximum.accumulate(of_row[start : start + most_rows])
        cells = widest * np.arange(1, len(widest) + 1)
        end = start + max(int(np.searchsorted(cells, most_cells, side="right")), 1)
        yield slice(start, end)
        start = end


def padded(rows: Sequence[Sequence[Any]], *, padding: str | int = "", first: bool = True) -> Maker:
    """Makes arrays of ragged rows, filled up on the left behind a first column of padding.

    Where TF Serving batches requests of unlike widths it repeats the first value of each behind it;
    a repeated item would look like the newest. Without `first`, padding is on the right.
    """
    kind = np.int64 if padding == 0 else object

    def make(chosen: slice) -> np.ndarray:
        part = rows[chosen]
        width = max([1, *(len(row) + first for row in part)])
        array = np.full((len(part), width), padding, kind)
        for line, row in zip(array, part, strict=True):
            start = width - len(row) if first else 0
            line[start : start + len(row)] = row
        return array

    return Maker(make, lengths(rows))


def flat(values: Sequence[Any], kind: Any = object) -> Maker:
    """Makes arrays of single values."""
    return Maker(lambda chosen: np.array(values[chosen], kind), [1] * len(values))
