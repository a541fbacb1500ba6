"""Judges the rows of a table one column at a time: which are bad, and what an id or a text is.

`Rows` counts what is bad; `readers` says which columns there are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from kerasrec.data.cleaningreport import SKIP_HINT, CleaningReport, DirtyRows, Refusal
from kerasrec.data.columns import name_list
from kerasrec.data.events import is_cancelled
from kerasrec.data.formats.columntable import to_pandas
from kerasrec.data.formats.sqltable import is_address
from kerasrec.data.times.forms import ROUNDED, exact_below

#: digits of a number that a spreadsheet keeps; it makes zeros of all behind them
_KEPT_DIGITS = 15
#: half of a character, which no file can hold, and what stands for an id with one
_HALF, _HALVED = re.compile("[\ud800-\udfff]"), "\ufffd half a character in "
MISSING_IDS = (
    *("", "nan", "NaN", "NULL", "null", "None", "<NA>", "\\N"),
    *("N/A", "#N/A", "(null)", "(NULL)", "undefined"),
)
_MISSING = frozenset(MISSING_IDS)


def none_left(source: str, report: CleaningReport) -> str:
    """Words the refusal of a table without a usable row."""
    kind = "query" if is_address(source) else "file"
    kind = "table" if source in ("DataFrame", "table") else kind
    if not report.rows_before:
        received = "a header only" if kind == "file" else f"a {kind} without rows"
    else:
        reasons = "; ".join(f"{step.count} x {step.what}" for step in report.steps if step.removed)
        received = f"{report.rows_before} rows, none of them usable ({reasons})"
    return f"{source}: expected at least one row. Received: {received}. Check the {kind}."


class Rows:
    """Which rows of a table are bad: counts them, in refusals where they are to be an error."""

    def __init__(
        self,
        source: str,
        report: CleaningReport,
        on_bad: str,
        refusals: Sequence[Refusal],
        place: Callable[[int], str],
    ) -> None:
        self.source, self.place = source, place
        self.size = report.rows_after
        self.report = report
        self.bad = np.zeros(self.size, dtype=bool)
        self._skip = on_bad == "skip"
        self.refusals = list(refusals)
        #: role -> ids with spaces around them; those with more digits than spreadsheets keep
        self.padded: dict[str, list[str]] = {}
        self.long_ids: dict[str, list[str]] = {}
        #: role -> whether zeros behind 15 digits stand for others; a role that is absent is judged
        #: by its ids
        self.are_rounded: dict[str, bool] = {}
        if not self.size:
            raise (
                DirtyRows(self.refusals)
                if self.refusals
                else ValueError(none_left(self.source, self.report))
            )

    def check(
        self,
        mask: np.ndarray,
        what: str,
        describe: Callable[[int], tuple[str, str]],
        *,
        example: Callable[[int], Any] | None = None,
        advice: Callable[[int], str] | None = None,
    ) -> None:
        """Takes out the rows of `mask`; `describe(row)` gives (expected, received)."""
        mask = mask & ~self.bad
        count = int(mask.sum())
        if not count:
            return
        row = int(np.argmax(mask))
        shown = self.place(row) + (f", '{example(row)}'" if example else "")
        if not self._skip:
            expected, received = describe(row)
            others = f" ({count} such rows)" if count > 1 else ""
            hint = advice(row) if advice else SKIP_HINT
            refusal = (self.source, expected, received + others, what, count, shown, hint)
            self.refusals.append(Refusal(*refusal))
        self.report = self.report.add("skip", what, count, removed=count, example=shown)
        self.bad |= mask

    def leave_out_cancelled(self, columns: Mapping[str, Any]) -> dict[str, str]:
        """Leaves out orders that came to nothing; gives the columns that say so of some.

        This comes first: such an order often lacks a time, which is no mistake then.
        """
        found: dict[str, str] = {}
        for name, column in columns.items():
            series = column if isinstance(column, pd.Series) else to_pandas(column)
            mask = is_cancelled(series, name) & ~self.bad
            if not mask.any():
                continue
            found["status" if not found else f"status ({len(found) + 1})"] = name
            what = (
                f"cancelled or refunded by the column {name} (columns={{'status': None}} or "
                "--columns status= keeps them)"
            )
            row, count = int(np.argmax(mask)), int(mask.sum())
            example = f"{self.place(row)}, '{cell(series, row)}'"
            self.report = self.report.add("skip", what, count, removed=count, example=example)
            self.bad |= mask
        return found

    def note(self, what: str, count: int, example: str = "") -> None:
        """A line in the report that takes out nothing."""
        self.report = self.report.add("note", what, count, example=example)

    def note_columns(self, columns: Mapping[str, str], word: str, others: Sequence[str]) -> None:
        """Say which column was taken for what, and what became of the others."""
        taken = [role if role == name else f"{role} = {name}" for role, name in columns.items()]
        self.report = self.report.add("columns", "columns: " + ", ".join(taken), len(taken))
        if others:
            what = f"columns {word}: {name_list(others)}"
            self.report = self.report.add("columns", what, len(others))

    def good(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows that no check took out."""
        if self.bad.all():
            raise (
                DirtyRows(self.refusals)
                if self.refusals
                else ValueError(none_left(self.source, self.report))
            )
        if not self.bad.any():
            return frame
        frame = frame[~self.bad].reset_index(drop=True)
        for name in frame.select_dtypes("category"):
            frame[name] = used_categories(frame[name])
        return frame

    def read_ids(self, column: Any, role: str, name: str) -> pd.Categorical:
        """The column as categories of str; rows without an id are bad."""
        ids = as_categories(column, f"{self.source}: {name}")
        texts = ids.categories.tolist()
        missing = [text in _MISSING or text.isspace() for text in texts]
        if any(missing):
            ids = ids.remove_categories(ids.categories[missing])
            texts = ids.categories.tolist()
        article = "a" if role == "user_id" else "an"
        label = role if name == role else f"{role} (column {name})"
        self.check(
            ids.codes < 0,
            f"empty {role}",
            lambda row: (f"{article} {label} in every row", f"none in {self.place(row)}"),
        )
        halved = np.array([text.startswith(_HALVED) for text in texts] + [False])
        self.check(
            halved[ids.codes],
            f"{role} with half a character",
            lambda row: (
                f"whole characters in {label}",
                f"'{ids[row].removeprefix(_HALVED)}' in {self.place(row)}",
            ),
            example=lambda row: ids[row].removeprefix(_HALVED),
        )
        self._check_exact(ids, texts, role, label)
        padded = [text for text in texts if text != text.strip() and text.strip()]
        self.padded[role] = padded
        if padded:
            self.note(
                f"{role} with spaces around it (kept as written)", len(padded), repr(padded[0])
            )
        return ids

    def _check_exact(self, ids, texts, role, label):
        """Takes out ids that a float or a spreadsheet has rounded: others became the same."""
        rounded, whole = _rounded_ids(texts, self.are_rounded.get(role))
        self.long_ids[role] = [texts[number] for number in whole]
        self.check(
            np.append(rounded, False)[ids.codes],
            f"{role} rounded to a number",
            lambda row: (
                f"whole ids as {label}",
                f"a rounded one, '{ids[row]}' in {self.place(row)}",
            ),
            example=lambda row: ids[row],
            advice=lambda row: (
                "Ids that differ became the same: read or export the column as text (pandas: "
                "dtype=str; Excel: a column of the format text), or pass on_bad='skip' (--on-bad "
                "skip) to leave such rows out and count them."
            ),
        )

    def read_numbers(
        self, data: Mapping[str, Any], columns: Mapping[str, str], role: str
    ) -> np.ndarray:
        """float32 column of a role, NaN where there is none; texts that are no numbers are bad."""
        if role not in columns:
            return np.full(self.size, np.nan, dtype=np.float32)
        column = data[columns[role]]
        series = column if isinstance(column, pd.Series) else column.to_pandas()
        empty = series.isna().to_numpy()
        if series.dtype.kind not in "iuf":
            empty = empty | series.astype("str").str.strip().isin(MISSING_IDS).to_numpy()
        values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        self.check(
            ~empty & ~np.isfinite(values),
            f"{role} that is no number",
            lambda row: (
                f"a finite number as {role}",
                f"{columns[role]}='{series.iloc[row]}' in {self.place(row)}",
            ),
            example=lambda row: series.iloc[row],
        )
        return values.astype(np.float32)


def as_categories(column: Any, name: str) -> pd.Categorical:
    """Turns a column of ids into pandas categories of str, in order of first appearance.

    Whole floats lose their `.0` (a pandas column of ints with gaps), texts stay exactly as they
    are.

    Args:
        column: pandas Series or Arrow array of strings, ints or whole floats.
        name: of the column, for messages.

    Returns:
        pandas Categorical; code -1 = missing.

    >>> as_categories(pd.Series([12.0, None, 7.0]), "user").tolist()
    ['12', nan, '7']
    """
    if isinstance(column, pa.ChunkedArray):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return _from_arrow_strings(column)
        column = to_pandas(column)
    try:
        codes, uniques = pd.factorize(column)
    except TypeError:  # lists, dicts: cannot be hashed
        _id_text(column[column.notna()].iloc[0], name)
    exact = exact_below(column.dtype)  # factorize makes wider floats of narrow ones
    texts = pd.Index([_whole(_id_text(value, name, exact)) for value in uniques], dtype=object)
    if not texts.is_unique:  # 1 and "1" in one column
        merged, texts = pd.factorize(texts)
        codes = np.append(merged, -1)[codes]
    # an empty list would be categories of another type than texts
    return pd.Categorical.from_codes(codes, texts.tolist() or pd.Index([], dtype=str))


def _rounded_ids(texts, are_rounded):
    """(bool mask of the ids that stand for more than one, places of long whole numbers).

    See `ROUNDED`, and Excel's 15 digits; `are_rounded` says of all long ones whether they are, None
    = they are judged by themselves.
    """
    rounded = np.zeros(len(texts), dtype=bool)
    exact = exact_below(np.dtype(np.float64))
    whole = []
    for number, text in enumerate(texts):
        if "+" in text:
            rounded[number] = re.fullmatch(ROUNDED, text) is not None
        elif len(text) > _KEPT_DIGITS and text.removesuffix(".0").isdecimal():
            rounded[number] = text.endswith(".0") and float(text) >= exact
            if len(text) > _KEPT_DIGITS + 1 and not text.endswith(".0"):
                whole.append(number)
    if are_rounded is None:
        are_rounded = are_rounded_by_sheets([texts[number] for number in whole])
    if are_rounded:
        rounded[whole] = True
    return rounded, whole


def are_rounded_by_sheets(ids: Sequence[str]) -> bool:
    """Whether whole numbers of more than 16 digits were rounded by a spreadsheet.

    One id may end in zeros; where all do, a spreadsheet has made them.
    """
    return len(ids) > 2 and not any(one[_KEPT_DIGITS:].strip("0") for one in ids)


def used_categories(column: pd.Series) -> pd.Categorical:
    """Removes the categories that no row has, and gives a Categorical.

    >>> used_categories(pd.Series(["a", "b"], dtype="category")[1:]).categories.tolist()
    ['b']
    """
    codes, categories = column.cat.codes.to_numpy(), column.cat.categories
    is_used = np.bincount(codes, minlength=len(categories)) > 0
    if is_used.all():
        return column.array
    new_codes = np.cumsum(is_used) - 1
    return pd.Categorical.from_codes(new_codes[codes], categories[is_used])


def _from_arrow_strings(column):
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries().combine_chunks()
    codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    texts = column.dictionary.to_pylist()
    if None in texts:
        gap = texts.index(None)
        codes = np.where(codes == gap, -1, codes)
        codes = np.where(codes > gap, codes - 1, codes)
        del texts[gap]
    return pd.Categorical.from_codes(codes, texts)


def _whole(text):
    """The text; one that no file can hold is marked, and `Rows.read_ids` takes it out."""
    if text.isascii() or not _HALF.search(text):
        return text
    return _HALVED + text.encode("utf-8", "backslashreplace").decode()


def _id_text(value, name, exact=np.inf):
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float | np.floating) and float(value).is_integer():
        if abs(float(value)) >= min(exact, exact_below(np.asarray(value).dtype)):
            return np.format_float_scientific(value, exp_digits=2)  # `_rounded_ids` finds it
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return str(int(value))
    raise ValueError(
        f"{name}: expected ids that are texts or whole numbers. Received: {value!r} "
        f"({type(value).__name__}). Turn the column into strings."
    )


def read_texts(column: Any) -> pd.Series:
    """Reads a column as a Series of str; "" where a value is missing.

    Between values of a list stands U+001F, the unit separator: white space for a text, but no space
    that a value may have, so `features` finds the values again.
    """
    series = column if isinstance(column, pd.Series) else to_pandas(column)
    if series.dtype.kind == "f":
        series = series.astype(float)  # also of pandas' Float64, whose gaps are no numbers
        whole = series.map(
            lambda value: str(int(value)) if float(value).is_integer() else str(value)
        )
        return whole.where(series.notna(), "").astype(object)
    return series.astype(object).where(series.notna(), "").map(_text)


def _text(value):
    if isinstance(value, list | tuple | np.ndarray):
        value = "\x1f".join(str(one) for one in value)
    return _HALF.sub("\ufffd", str(value))


def cell(column: Any, row: int) -> str:
    """Gives one value as it stood in the source, on one line."""
    value = column.iloc[row] if isinstance(column, pd.Series) else column[row].as_py()
    return " ".join(str(value).split())[:40]
