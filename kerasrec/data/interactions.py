"""The tables that everything starts from, checked: what users did, and the catalogue."""

import html
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from kerasrec.data.cleaningreport import CleaningReport
from kerasrec.data.rows import used_categories
from kerasrec.data.times.forms import POSITIONS_BELOW
from kerasrec.data.times.zones import read_zone, show_time

#: what stands between the values of a list in a cell of a catalogue
LISTED = "\x1f"
#: columns of `Interactions`, in three kinds
_KINDS = {
    "categories": ("user_id", "item_id", "event"),
    "integers": ("timestamp",),
    "floats": ("value", "weight"),
}


@dataclass(frozen=True)
class Interactions:
    """Holds what users did, one row per event, in file order; made by `read_interactions`.

    Attributes:
        frame: columns `user_id`, `item_id`, `event` (pandas categories of str), `timestamp`
            (int64, UTC seconds), `value` (float32, NaN = none), `weight` (float32).
        columns: canonical name -> name in the source; names that the source lacks are absent.
        report: what was read, left out and why.
        timezone: in which times are shown, such as `"Asia/Shanghai"`.

    Raises:
        ValueError: a column of the frame is missing or of another kind; an unknown time zone.
    """

    frame: pd.DataFrame
    columns: dict = field(default_factory=dict)
    report: CleaningReport = field(default_factory=CleaningReport)
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        read_zone(self.timezone)
        found = self.frame.dtypes.to_dict()
        for expected, names in _KINDS.items():
            for name in names:
                received = found.get(name, "no such column")
                if _kind_of(received) != expected:
                    raise ValueError(
                        f"Interactions: expected {expected} in the column {name}. Received: "
                        f"{received}. Make them with read_interactions(frame)."
                    )

    def __len__(self):
        return len(self.frame)

    def __repr__(self):
        text = f"{len(self):,} events, {self.num_users:,} users, {self.num_items:,} items"
        if self.has_time:
            times, zone = self.frame["timestamp"], read_zone(self.timezone)
            first, last = (show_time(edge, zone)[:10] for edge in (times.min(), times.max()))
            text += f", {first} to {last}"
        return f"Interactions({text})"

    def _repr_html_(self) -> str:
        """For notebooks: the same line, and the first rows."""
        return f"<p>{html.escape(repr(self))}</p>{self.frame.head().to_html()}"

    @property
    def num_users(self) -> int:
        """Users with at least one event."""
        return _num_used(self.frame["user_id"])

    @property
    def num_items(self) -> int:
        """Items with at least one event."""
        return _num_used(self.frame["item_id"])

    @property
    def has_time(self) -> bool:
        """False when the timestamps are positions in a history (all below 1e8), not times."""
        return bool(len(self.frame)) and int(self.frame["timestamp"].max()) >= POSITIONS_BELOW

    @property
    def has_events(self) -> bool:
        """True when there is more than one type of event."""
        return _num_used(self.frame["event"]) > 1

    def replace(self, frame: pd.DataFrame, report: CleaningReport | None = None) -> "Interactions":
        """Gives the same source with other rows; ids without a row leave the categories.

        Without `report` the present report continues, with a line when the number of rows changes.
        """
        frame = frame.reset_index(drop=True)
        for name in ("user_id", "item_id", "event"):
            frame[name] = used_categories(frame[name])
        if report is None:
            report = self.report
            removed = report.rows_after - len(frame)
            if removed:
                report = report.add("note", "rows replaced", abs(removed), removed=removed)
        return Interactions(frame, self.columns, report, self.timezone)


def _kind_of(dtype):
    if isinstance(dtype, pd.CategoricalDtype):
        return "categories"
    return {"i": "integers", "f": "floats"}.get(getattr(dtype, "kind", ""), "")


def _num_used(column):
    return int(np.count_nonzero(np.bincount(column.cat.codes)))


@dataclass(frozen=True)
class Items:
    """Holds the catalogue, one row per item, in file order; made by `read_items`.

    Row r has the item index r + 1; 0 is padding.

    Attributes:
        frame: columns `item_id` (unique), `title` and every further column of the source, all str,
            `""` where a value is missing.
        columns: canonical name -> name in the source.
        report: what was read, left out and why.
        withdrawn: ids of items that are in no list: known, but not to be had now.
        relations: names of the columns that `with_relations` made.
        order: name of the column that lists the items that must come before each one; "" = none. It
            is no feature.
    """

    frame: pd.DataFrame
    columns: dict = field(default_factory=dict)
    report: CleaningReport = field(default_factory=CleaningReport)
    withdrawn: frozenset[str] = frozenset()
    relations: tuple[str, ...] = ()
    order: str = ""

    def __len__(self):
        return len(self.frame)

    def __repr__(self):
        return f"Items({len(self):,} items, columns {', '.join(map(str, self.frame.columns))})"

    def _repr_html_(self) -> str:
        """For notebooks: the same line, and the first rows."""
        return f"<p>{html.escape(repr(self))}</p>{self.frame.head().to_html()}"

    @cached_property
    def ids(self) -> np.ndarray:
        """Object array of str, `(num_items,)`."""
        return self.frame["item_id"].to_numpy(dtype=object)

    @property
    def feature_frame(self) -> pd.DataFrame:
        """The columns that may be features: all but that of the order."""
        return self.frame.drop(columns=[self.order] if self.order else [], errors="ignore")

    @cached_property
    def _index(self):
        return pd.Index(self.ids, dtype=object)

    def index_of(self, ids: Sequence[object] | np.ndarray | pd.Series) -> np.ndarray:
        """Looks up the item index of every id; 0 for an unknown id.

        Args:
            ids: strings, `(num_ids,)`; a pandas category column is looked up by its categories.

        Returns:
            int32, `(num_ids,)`, in 0..num_items.

        >>> from kerasrec import read_items
        >>> items = read_items(pd.DataFrame({"item_id": ["a", "b"], "title": ["甲", "乙"]}))
        >>> items.index_of(["b", "x", "a"]).tolist()
        [2, 0, 1]
        """
        if isinstance(getattr(ids, "dtype", None), pd.CategoricalDtype):
            column: Any = ids.array if isinstance(ids, pd.Series) else ids
            known = self.index_of(np.asarray(column.categories, dtype=object))
            return np.append(known, np.int32(0))[column.codes]  # code -1 = missing = 0
        return (self._index.get_indexer(np.asarray(ids, dtype=object)) + 1).astype(np.int32)

    def texts(self, template: str = "{title}", *, blank: bool = False) -> list[str]:
        """Makes one text per item from its columns; runs of white space become one space.

        Args:
            template: text with column names in braces, such as `"{title} {category}"`.
            blank: whether all texts may be empty: the items are known by something else too.

        Returns:
            list of str, `(num_items,)`; `""` where all named columns are empty.

        Raises:
            ValueError: an unknown column, a template without any column, or only empty texts.

        >>> from kerasrec import read_items
        >>> table = pd.DataFrame({"item_id": [1], "title": [" 围  城 "], "tag": ["小说"]})
        >>> read_items(table).texts("{title}，{tag}")
        ['围 城，小说']
        """
        pieces = _template_pieces(template, list(self.frame.columns))
        names = [name for _, name in pieces if name]
        values = [[" ".join(text.split()) for text in self.frame[name]] for name in names]
        pattern = "".join(
            literal.replace("{", "{{").replace("}", "}}") + ("{}" if name else "")
            for literal, name in pieces
        )
        texts = [
            " ".join(pattern.format(*row).split()) if any(row) else ""
            for row in zip(*values, strict=True)
        ]
        if texts and not (blank or any(texts)):
            raise ValueError(
                f"items: expected text in {', '.join(dict.fromkeys(names))}. Received: empty "
                f"values in all {len(texts)} items. Choose other columns for the template."
            )
        return texts


@dataclass(frozen=True)
class Users:
    """Holds what is known of users, one row per user, in file order; made by `read_users`.

    Attributes:
        frame: columns `user_id` (unique) and every further column of the source, all str, `""`
            where a value is missing.
        columns: canonical name -> name in the source.
        report: what was read, left out and why.
    """

    frame: pd.DataFrame
    columns: dict = field(default_factory=dict)
    report: CleaningReport = field(default_factory=CleaningReport)

    def __len__(self):
        return len(self.frame)

    def __repr__(self):
        return f"Users({len(self):,} users, columns {', '.join(map(str, self.frame.columns))})"

    @cached_property
    def _index(self):
        return pd.Index(self.frame["user_id"].to_numpy(object))

    def of(self, user_ids: Sequence[object] | np.ndarray) -> pd.DataFrame:
        """Gives the rows of some users, in their order; `""` in all columns for an unknown one.

        >>> Users(pd.DataFrame({"user_id": ["a"], "city": ["京"]})).of(["b", "a"])["city"].tolist()
        ['', '京']
        """
        texts = [one if isinstance(one, str) else str(one) for one in user_ids]
        place = self._index.get_indexer(np.array([*texts, None], object)[:-1])
        values = self.frame.drop(columns="user_id").to_numpy(object)
        rows = np.full((len(texts), values.shape[1]), "", object)
        rows[place >= 0] = values[place[place >= 0]]
        found = pd.DataFrame(rows, columns=self.frame.columns.drop("user_id"))
        found.insert(0, "user_id", texts)
        return found


@dataclass(frozen=True)
class Split:
    """Holds the three parts of one `Interactions`; `protocol` says how they were cut.

    `valid` may be empty.
    """

    train: Interactions
    valid: Interactions
    test: Interactions
    protocol: str

    def __repr__(self):
        parts = (f"{name} {len(getattr(self, name)):,}" for name in ("train", "valid", "test"))
        return f"Split({', '.join(parts)} events, {self.protocol})"


def _template_pieces(template, columns):
    """`(literal, column or None)` pairs of a template."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"template: expected text with column names in braces such as '{{title}}'. Received: "
            f"'{template}' ({error}). Close or double the brace."
        ) from None
    pieces = []
    for literal, name, format_spec, conversion in parsed:
        if name is not None and (name not in columns or format_spec or conversion):
            asked = name + (f"!{conversion}" if conversion else "")
            asked += f":{format_spec}" if format_spec else ""
            raise ValueError(
                f"template: expected column names of the items ({', '.join(columns)}). "
                f"Received: '{{{asked}}}'. Use only these names in braces."
            )
        pieces.append((literal, name))
    if not any(name for _, name in pieces):
        raise ValueError(
            f"template: expected at least one column name in braces ({', '.join(columns)}). "
            f"Received: '{template}'. Write for example '{{title}}'."
        )
    return pieces


def changed_texts(before: pd.DataFrame, now: pd.DataFrame, template: str) -> np.ndarray:
    """Finds the rows of which a template makes another text now, int `(n,)`, ascending.

    A text that was taken away is no other text: an item without one is known by the old one.

    Args:
        before, now: frames of `Items`, the same items in the same rows.
        template: as for `Items.texts`.

    >>> before = pd.DataFrame({"item_id": ["a", "b"], "title": ["甲", "乙"]})
    >>> changed_texts(before, before.assign(title=["甲 ", "丙"]), "{title}")
    array([1])
    """
    names = {name for _, name in _template_pieces(template, list(now.columns)) if name}
    is_other, has_text = np.zeros(len(now), bool), np.zeros(len(now), bool)
    for name in names:
        one, two = (frame[name].str.split().str.join(" ").to_numpy() for frame in (before, now))
        is_other |= one != two
        has_text |= two != ""
    return np.flatnonzero(is_other & has_text)


def items_of(parts: Iterable[Interactions]) -> Items:
    """Makes the catalogue of what a log names: ids in the order in which they come, no titles.

    >>> from kerasrec import read_interactions
    >>> log = read_interactions(pd.DataFrame({"user": [1, 2, 1], "item": ["b", "a", "b"]}))
    >>> items_of([log]).frame.to_dict("list")
    {'item_id': ['b', 'a'], 'title': ['', '']}
    """
    named = [part.frame["item_id"].astype("str") for part in parts]
    ids = pd.concat(named, ignore_index=True).drop_duplicates()
    frame = pd.DataFrame({"item_id": ids.to_numpy(object), "title": ""}).astype("str")
    return Items(frame, {}, CleaningReport(len(frame)))


def join_interactions(parts: Iterable[Interactions]) -> Interactions:
    """Joins parts of one source in the order given, such as train and valid before a test.

    Nothing is left out: an event of two parts occurs twice. Positions instead of times (a source
    without a time column) are kept, so such parts must come from one source.

    Args:
        parts: list of `Interactions`, at least one; parts may be empty.

    Returns:
        `Interactions` with the rows of all parts, the source columns of the first part and a
        report that starts afresh.

    Raises:
        ValueError: no part, or times in one part and positions (all below 1e8) in another.

    >>> from kerasrec import read_interactions
    >>> log = read_interactions(pd.DataFrame({"user": [1, 2, 1], "item": ["a", "b", "c"]}))
    >>> first, second = log.replace(log.frame[:1]), log.replace(log.frame[1:])
    >>> join_interactions([first, second]).frame["item_id"].tolist()
    ['a', 'b', 'c']
    """
    parts = list(parts)
    if not parts:
        raise ValueError(
            "expected at least one part to join. Received: an empty list. Pass Interactions."
        )
    if len({part.has_time for part in parts if len(part)}) > 1:
        raise ValueError(
            "expected parts of one source. Received: times in some, positions (below 1e8) in "
            "others. Join only parts with the same kind of time."
        )
    frame = join_frames([part.frame for part in parts])
    report = CleaningReport(len(frame)).add("note", f"joined from {len(parts)} parts", len(frame))
    return Interactions(frame, parts[0].columns, report, parts[0].timezone)


def join_frames(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Joins frames of events; categories keep the order in which they first appear."""
    if len(frames) == 1:
        return frames[0]
    joined = pd.concat(
        [frame[["timestamp", "value", "weight"]] for frame in frames], ignore_index=True
    )
    for name in ("user_id", "item_id", "event"):
        joined[name] = union_categoricals([frame[name] for frame in frames])
    return joined[list(frames[0].columns)]
