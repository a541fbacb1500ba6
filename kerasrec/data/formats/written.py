"""Writes csv so that it is read again as it was, or so that a spreadsheet runs nothing in it."""

import csv
from typing import Any

import pandas as pd

#: what a spreadsheet takes for the start of a formula, also in full width
_FORMULA = r"[=+\-@\t\r＝＋－＠]"
_NUMBER = r"[+\-]?\d+(?:[.,]\d+)?"


def write_csv(frame: pd.DataFrame, file: Any) -> None:
    """Writes a frame as UTF-8 csv; carriage returns stay within their cells."""
    # Python's csv puts quotes around line feeds, but not around carriage returns alone
    names = [str(name) for name in frame.columns]
    has_return = any("\r" in name for name in names) or any(
        frame.iloc[:, place].astype("str").str.contains("\r", regex=False).any()
        for place in _text_columns(frame)
    )
    quoting = csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL
    frame.to_csv(file, index=False, encoding="utf-8", quoting=quoting, lineterminator="\n")


def guarded(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Puts a `'` before the texts that a spreadsheet would run as formulas; says how many.

    These are texts that begin with = + - @, a tab or a carriage return and are no plain numbers.

    >>> guarded(pd.DataFrame({"title": ["=1+1", "-5", "a=b"], "score": [-1, 2, 3]}))[0]
       title  score
    0  '=1+1     -1
    1     -5      2
    2    a=b      3
    """
    frame, count = frame.copy(), 0
    for place in _text_columns(frame):
        column = frame.iloc[:, place]
        texts = column.astype("str")
        mask = texts.str.match(_FORMULA) & ~texts.str.fullmatch(_NUMBER) & column.notna()
        if mask.any():
            count += int(mask.sum())
            frame.isetitem(place, texts.where(~mask, "'" + texts).where(column.notna()))
    return frame, count


def _text_columns(frame):
    """Places of the columns that hold texts."""
    numbers = "biufMm"
    return [place for place, kind in enumerate(frame.dtypes) if kind.kind not in numbers]
