"""`ItemColumns`: the columns of a catalogue as arrays, and the items that meet a condition.

Each column is read when it is first asked for. Values may change while others ask: a mask that was
kept counts for the values that it was made of alone.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kerasrec.checks import did_you_mean
from kerasrec.features.columntypes import (
    Column,
    is_missing,
    kind_of,
    parse_categories,
    parse_category,
    parse_number,
    read_column,
)
from kerasrec.features.conditions import ORDERED, Condition, Leaf, read_where, shown

#: bytes of masks that are kept
_KEPT_BYTES, _FEWEST = 1 << 25, 8
#: texts of a column that are looked at for numbers
_LOOKED_AT = 1000
#: texts that say yes and no, of which a column may use any
_YES, _NO = ({"true", "1", "yes", "y", "t", "是", "有"}, {"false", "0", "no", "n", "f", "否", "无"})


class Chosen(NamedTuple):
    """The items that meet a condition.

    `mask` is bool `(num_items,)`, `number` how many they are. `allow` and `deny` are int32 item
    indices, of which a list needs one: the shorter is filled. Where nothing is chosen, `allow`
    holds -1, an item that does not exist.
    """

    mask: np.ndarray
    number: int
    allow: np.ndarray
    deny: np.ndarray


class ItemColumns:
    """The columns of a catalogue.

    Args:
        frame: of the items, such as `Items.frame`; row r has the item index r + 1.
        columns: how columns are read, name -> `Column`; of others it is proposed.

    >>> frame = pd.DataFrame({"item_id": ["a", "b", "c"], "price": ["5", "￥70", ""]})
    >>> ItemColumns(frame).choose({"price": {"lt": 50}}).mask.tolist()
    [True, False, False]
    """

    def __init__(self, frame: pd.DataFrame, columns: Mapping[str, Column] | None = None) -> None:
        self._frame, self._given = frame, dict(columns or {})
        self.names = [str(name) for name in frame.columns]
        self._views: dict[str, Any] = {}
        self._changes: dict[str, int] = {}  # how often each column has changed
        self._kept: OrderedDict[Any, Chosen] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_items(self) -> int:
        """How many items there are."""
        return len(self._frame)

    def type_of(self, name: str) -> str:
        """Says the type of a column, one of `columntypes.TYPES`."""
        return self._view(name).type

    def warm(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Reads all columns that conditions are likely to name, so that no request waits.

        Args:
            is_over: function that says whether to give up.
        """
        for name in self.names:
            if not is_over() and name not in ("item_id", "title", "text"):
                self._view(name)

    # --- conditions ---

    def values_of(self, name: str, rows: np.ndarray) -> list[tuple[Any, ...]]:
        """Reads the values of some rows: none, one, or of a list several for each of them."""
        self.check([name])
        return self._view(name).values(rows)

    def choose(self, where: Condition) -> Chosen:
        """Finds the items that meet a condition.

        A missing value meets no comparison, not even `ne`; `not` turns a whole condition round, so
        `{"not": {"price": {"lt": 50}}}` is met by items without a price too.

        Args:
            where: as `conditions.read_where` takes it.

        Raises:
            ValueError, TypeError: a condition that is none; an unknown column, with the nearest
                one; a value that the column cannot be compared with.
        """
        read = read_where(where)
        if read is None:
            return _chosen(np.ones(self.num_items, bool))
        self.check(read.columns)
        key = read.key, tuple(self._changes.get(name, 0) for name in read.columns)
        with self._lock:
            if found := self._kept.get(key):
                self._kept.move_to_end(key)
                return found
        found = _chosen(self._mask(read.tree))
        with self._lock:
            self._kept[key] = found
            most = max(_KEPT_BYTES // max(self.num_items, 1), _FEWEST)
            while len(self._kept) > most:
                self._kept.popitem(last=False)
        return found

    def check(self, names: Iterable[str]) -> None:
        """Raises ValueError for a column that there is not, with the nearest one."""
        for name in names:
            if name not in self.names:
                if len(self.names) <= 2:
                    raise ValueError(
                        f"where: unknown column {shown(name)}: the catalogue of this version has "
                        "ids and titles alone. Train or update it with a table of items that has "
                        "the column."
                    )
                raise ValueError(
                    f"where: unknown column {shown(name)}. {did_you_mean(name, self.names[:30])}"
                )

    def _mask(self, node):
        if isinstance(node, Leaf):
            return self._view(node.column).mask(node)
        parts = [self._mask(part) for part in node.parts]
        if node.join == "not":
            return ~parts[0]
        if not parts:
            return np.full(self.num_items, node.join == "and")
        join = np.logical_and if node.join == "and" else np.logical_or
        return parts[0] if len(parts) == 1 else join.reduce(parts)

    # --- values that change ---

    def read_value(self, name: str, value: Any) -> Any:
        """Reads a new value of a column: a text, a tuple of texts or a number; None = none.

        Raises:
            ValueError: an unknown column, with the nearest one, or a value of another type.
        """
        self.check([name])
        return self._view(name).read(value)

    def change(self, name: str, rows: Sequence[int] | np.ndarray, values: Sequence[Any]) -> None:
        """Takes other values of some items.

        Args:
            name: of the column.
            rows: of the frame.
            values: as `read_value` gives them.
        """
        with self._lock:
            view = self._view(name)
            for row, value in zip(rows, values, strict=True):
                view.change(int(row), value)
            self._changes[name] = self._changes.get(name, 0) + 1

    def add(self, name: str) -> None:
        """Adds a column without any value, of numbers; does nothing where it is there."""
        if name not in self.names:
            self._views[name] = _Numbers(name, "number", np.full(self.num_items, np.nan))
            self.names.append(name)

    def _view(self, name):
        view = self._views.get(name)
        if view is None:
            series = self._frame[name]
            column = self._given.get(name) or kind_of(name, series)
            values = () if column.type == "vector" else read_column(series, column)
            view = _VIEWS.get(column.type, _Names)(name, column.type, values)
            # the first one counts: another thread may have read and changed it meanwhile
            view = self._views.setdefault(name, view)
        return view


def _chosen(mask):
    count, none = int(np.count_nonzero(mask)), np.zeros(0, np.int32)
    mask.flags.writeable = False
    if count == len(mask):
        return Chosen(mask, count, none, none)
    if not count:
        return Chosen(mask, count, np.array([-1], np.int32), none)
    if count <= len(mask) // 2:
        return Chosen(mask, count, (np.flatnonzero(mask) + 1).astype(np.int32), none)
    return Chosen(mask, count, none, (np.flatnonzero(~mask) + 1).astype(np.int32))


class _Numbers:
    """A column of numbers or of times: float64, NaN = none."""

    def __init__(self, name, kind, values):
        self.name, self.type = name, kind
        self._values = np.array(values, np.float64)

    def read(self, value):
        if value is None or is_missing(value):
            return None
        return self._number(value, "value")

    def change(self, row, value):
        self._values[row] = np.nan if value is None else value

    def values(self, rows):
        return [() if one != one else (one,) for one in self._values[rows].tolist()]

    def _number(self, value, what="condition"):
        if isinstance(value, bool):
            number = float(value) if self.type == "number" else np.nan
        elif isinstance(value, list | tuple | dict):
            number = np.nan
        elif self.type == "number":
            number = parse_number(value)
        else:
            number = _time(value)
        if number != number:
            expected = "number" if self.type == "number" else "time, such as 2026-11-24T08:00+08:00"
            raise ValueError(_wrong_value(what, self.name, f"a {expected}", value))
        return number

    def mask(self, leaf):
        return compared(self._values, leaf, self._number)


@lru_cache(maxsize=1024)
def _time(value):
    return float(read_column([value], Column("time", 0.0, 0, "", ""))[0])


def compared(values: np.ndarray, leaf: Leaf, read: Any) -> np.ndarray:
    """Compares numbers `(num_items,)`, NaN = none, with what `read` makes of a comparison."""
    operator, given = leaf.operator, leaf.value
    if operator == "exists":
        return np.isnan(values) != given
    if operator == "contains":
        raise ValueError(
            f"where: contains is for lists and texts; the column {shown(leaf.column)} holds "
            "numbers. Take eq, in or between."
        )
    if operator == "in":
        return np.isin(values, [read(one) for one in given])
    if operator == "between":
        low, high = (read(one) for one in given)
        if low > high:
            raise ValueError(
                f"where: expected the least and then the largest as between of the column "
                f"{shown(leaf.column)}. Received: {shown(list(given))}. Turn them round."
            )
        return (values >= low) & (values <= high)
    number = read(given)
    if operator == "ne":
        return (values != number) & ~np.isnan(values)
    operations = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
    return operations.get(operator, np.equal)(values, number)


class _Names:
    """A column of texts, each value a code; "" = none, with code 0."""

    def __init__(self, name, kind, values):
        self.name, self.type = name, kind
        codes, texts = pd.factorize(np.concatenate([np.array([""], object), values]))
        self._codes = codes[1:].astype(np.int32)
        self._texts = list(texts)
        self._code_of = {text: code for code, text in enumerate(self._texts)}
        self._numbers: Any = None

    def read(self, value):
        if isinstance(value, list | tuple | dict):
            raise ValueError(_wrong_value("value", self.name, "a text or a number", value))
        if isinstance(value, int | float) and not is_missing(value) and len(self._texts) > 1:
            # what the catalogue holds says whether the column is of numbers or of names
            is_flag = value in (0, 1) and bool((_YES | _NO) & {t.lower() for t in self._texts})
            if not is_flag and (isinstance(value, bool) or not self._has_numbers()):
                expected = f"a text such as {shown(self._texts[1], 30)}"
                raise ValueError(_wrong_value("value", self.name, expected, value))
        return parse_category(value)

    def _has_numbers(self):
        """Whether some of its first texts read as numbers."""
        return any(parse_number(text) == parse_number(text) for text in self._texts[1:_LOOKED_AT])

    def change(self, row, value):
        value = value or ""
        if value not in self._code_of:
            self._texts.append(value)
            self._code_of[value] = len(self._texts) - 1  # last: others may read meanwhile
        self._codes[row] = self._code_of[value]

    def values(self, rows):
        return [(self._texts[code],) if code else () for code in self._codes[rows].tolist()]

    def _codes_of(self, value):
        texts = spellings(value)
        return [self._code_of[text] for text in texts if text in self._code_of]

    def _chosen(self, codes):
        if len(codes) == 1:
            return self._codes == codes[0]
        own = self._codes.copy()  # before the texts are counted: new ones may come meanwhile
        table = np.zeros(len(self._texts), bool)
        table[codes] = True
        return table[own]

    def mask(self, leaf):
        operator, given = leaf.operator, leaf.value
        if operator == "exists":
            return (self._codes > 0) == given
        if operator in ORDERED:
            codes = self._codes.copy()  # see `_chosen`
            return compared(self._as_numbers(operator)[codes], leaf, self._number)
        if operator == "contains":
            parts = [str(one) for one in (given if isinstance(given, tuple) else (given,))]
            texts = enumerate(self._texts)
            codes = [code for code, text in texts if text and all(part in text for part in parts)]
            return self._chosen(codes)
        values = given if operator == "in" else (given,)
        found = self._chosen([code for one in values for code in self._codes_of(one) if code])
        return ~found & (self._codes > 0) if operator == "ne" else found

    def _as_numbers(self, operator):
        """The number of every code; NaN where its text is none."""
        numbers = self._numbers
        if numbers is None or len(numbers) < len(self._texts):
            numbers = self._numbers = np.array([parse_number(text) for text in self._texts])
        real = np.count_nonzero(~np.isnan(numbers))
        if real < 0.5 * (len(self._texts) - 1) or not real:
            raise ValueError(
                f"where: {operator} is for numbers and times; the column {shown(self.name)} holds "
                "names. Take a value, a list of values or contains."
            )
        return numbers

    def _number(self, value):
        number = float(value) if isinstance(value, bool) else parse_number(value)
        if number != number:
            raise ValueError(_wrong_value("condition", self.name, "a number", value))
        return number


def spellings(value: Any) -> set[str]:
    """Gives the texts that a value may stand as: a boolean stands as `是`, `true`, `1`, ... ."""
    if isinstance(value, bool):
        return _YES if value else _NO
    return {parse_category(value)}


class _Lists:
    """A column of lists: for each entry the rows that have it."""

    def __init__(self, name, kind, values):
        self.name, self.type = name, kind
        self._values = list(values)
        self._changes = 0
        #: rows by entry, and the number of changes that they are made of
        self._rows: tuple[int, dict[str, np.ndarray]] = -1, {}
        self._filled = np.array([bool(value) for value in self._values])

    def read(self, value):
        return parse_categories(value) if value is not None else ()

    def change(self, row, value):
        self._values[row] = tuple(value or ())
        self._filled[row] = bool(value)
        self._changes += 1  # last: who reads meanwhile keeps nothing old

    def values(self, rows):
        return [self._values[row] for row in rows]

    def _rows_of(self, value):
        changes, (known, rows) = self._changes, self._rows
        if known != changes:
            values = list(self._values)  # others may change them meanwhile
            counts = np.array([len(entry) for entry in values])
            flat = [one for entry in values for one in entry]
            owner = np.repeat(np.arange(len(counts)), counts)
            codes, names = pd.factorize(np.array([*flat, None], object)[:-1])
            order = np.argsort(codes, kind="stable")
            ends = np.searchsorted(codes[order], np.arange(1, len(names)))
            rows = dict(zip(names, np.split(owner[order], ends), strict=True)) if flat else {}
            self._rows = changes, rows
        found = [rows[text] for text in spellings(value) if text in rows]
        return np.concatenate(found) if found else np.zeros(0, int)

    def mask(self, leaf):
        operator, given = leaf.operator, leaf.value
        if operator == "exists":
            return self._filled == given
        if operator in ORDERED:
            raise ValueError(
                f"where: {operator} is for numbers and times; the column {shown(self.name)} holds "
                "lists. Take a value, a list of values or contains."
            )
        values = given if isinstance(given, tuple) else (given,)
        counts = np.zeros(len(self._values), np.int32)
        for value in values:
            counts[self._rows_of(value)] += 1
        if operator == "contains":
            return (counts == len(values)) & self._filled
        return (counts == 0) & self._filled if operator == "ne" else counts > 0


class _Vectors:
    """A column of vectors, of which no condition says anything and no value is shown."""

    def __init__(self, name, kind, values):
        self.name, self.type = name, kind

    def read(self, value):
        raise ValueError(
            f"items: expected a column of values. Received: {shown(self.name)}, which holds "
            "vectors. Change these by correct_items or update."
        )

    def values(self, rows):
        return [() for _ in rows]

    def mask(self, leaf):
        raise ValueError(
            f"where: expected a column of values. Received: {shown(self.name)}, which holds "
            "vectors. Name another column."
        )


_VIEWS: dict[str, Any] = {
    "number": _Numbers,
    "time": _Numbers,
    "categories": _Lists,
    "vector": _Vectors,
}


def _wrong_value(what, name, expected, value):
    where = "where" if what == "condition" else "items"
    return f"{where}: expected {expected} for the column {shown(name)}. Received: {shown(value)}."
