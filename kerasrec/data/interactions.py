"""Reads and checks the two tables that everything starts from: interactions and items.

No row is lost silently. A reader refuses a table with bad rows and names all kinds of them; with
`on_bad="skip"` it leaves them out, and the report says which, why and how many.
"""

import html
import logging
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from kerasrec.checks import step
from kerasrec.data.cleaningreport import CleaningReport, DirtyRows, Refusal
from kerasrec.data.columns import withdrawn_rows
from kerasrec.data.readers import (
    Part,
    read_id_column,
    read_interaction_table,
    read_item_table,
    used_categories,
)
from kerasrec.data.tables import Source, check_output, open_table, write_table
from kerasrec.data.times.forms import POSITIONS_BELOW
from kerasrec.data.times.zones import DAY, MAX_AHEAD, read_zone, show_time, zone_name

__all__ = [
    "CleaningReport",
    "Interactions",
    "Items",
    "Split",
    "check_output",
    "join_interactions",
    "read_interactions",
    "read_items",
    "read_user_ids",
    "write_table",
]

log = logging.getLogger(__name__)
_OLD_SPANS, _OLD_SECONDS = 10, 5 * 365 * DAY
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
    """

    frame: pd.DataFrame
    columns: dict = field(default_factory=dict)
    report: CleaningReport = field(default_factory=CleaningReport)
    withdrawn: frozenset[str] = frozenset()

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

    @cached_property
    def _index(self):
        return pd.Index(self.ids, dtype=object)

    def index_of(self, ids: Sequence[object] | np.ndarray | pd.Series) -> np.ndarray:
        """Looks up the item index of every id; 0 for an unknown id.

        Args:
            ids: strings, `(num_ids,)`; a pandas category column is looked up by its categories.

        Returns:
            int32, `(num_ids,)`, in 0..num_items.

        >>> items = read_items(pd.DataFrame({"item_id": ["a", "b"], "title": ["甲", "乙"]}))
        >>> items.index_of(["b", "x", "a"]).tolist()
        [2, 0, 1]
        """
        if isinstance(getattr(ids, "dtype", None), pd.CategoricalDtype):
            column: Any = ids.array if isinstance(ids, pd.Series) else ids
            known = self.index_of(np.asarray(column.categories, dtype=object))
            return np.append(known, np.int32(0))[column.codes]  # code -1 = missing = 0
        return (self._index.get_indexer(np.asarray(ids, dtype=object)) + 1).astype(np.int32)

    def texts(self, template: str = "{title}") -> list[str]:
        """Makes one text per item from its columns; runs of white space become one space.

        Args:
            template: text with column names in braces, such as `"{title} {category}"`.

        Returns:
            list of str, `(num_items,)`; `""` where all named columns are empty.

        Raises:
            ValueError: an unknown column, a template without any column, or only empty texts.

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
        if texts and not any(texts):
            raise ValueError(
                f"items: expected text in {', '.join(dict.fromkeys(names))}. Received: empty "
                f"values in all {len(texts)} items. Choose other columns for the template."
            )
        return texts


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


def read_interactions(
    source: Source | Sequence[Source],
    *,
    columns: Mapping[str, str | None] | None = None,
    encoding: str = "utf-8",
    on_bad: str = "error",
    event_weights: Mapping[str, float | str | None] | None = None,
    timezone: str | tzinfo | None = None,
    max_ahead: float | None = MAX_AHEAD,
) -> Interactions:
    """Reads what users did: a table of events.

    Column names are recognised by their usual aliases (`user`, `uid`, `item`, `iid`, `ts`, `time`,
    ...) or given by `columns`. Without a time column the position in the file is the time. Without
    an event column every row is a `rating` where there is a value column, else a `click`.

    Args:
        source: path of a file (csv, tsv or jsonl, also with .gz or .zst; parquet, xlsx); a folder
            of such files or a pattern such as `"log/*.csv"` (joined in the order of their paths,
            numbers in them by their size); a query, `"sqlite:///shop.db?query=SELECT ..."`; a table
            of pandas, polars or Arrow; or a list of these, joined in this order.
        columns: canonical name -> column name, e.g. `{"user_id": "buyer"}`; None as name ignores a
            role.
        encoding: of text files, e.g. `"big5"`; GBK, GB18030 and UTF-16 are found by their bytes
            where these leave no doubt.
        on_bad: `"error"` raises where there are bad rows (one error that names all
            kinds), `"skip"` leaves such rows out and counts them.
        event_weights: event name -> weight, added to the defaults (impression 0, view 1, click 1,
            like 2, cart 2, purchase 3, rating = value, dislike -1), or -> the name of a known
            event.
        timezone: of dates and times that name no zone, such as `"Asia/Shanghai"` or `"+08:00"`, and
            in which times are shown; None = UTC. Where a clock that is set back shows an hour
            twice, the first is taken; an hour that a clock set forward never shows is read as if
            the clock had not been set yet.
        max_ahead: seconds that an event may lie ahead of this machine's clock; a later one is a bad
            row. None takes all.

    Returns:
        `Interactions`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: missing or doubtful columns, mixed time units, a damaged or empty file, a wrong
            encoding, unknown events, an unknown time zone; bad rows unless they are to be skipped.

    >>> log = pd.DataFrame({"uid": [7, 7], "iid": ["a", "b"], "ts": [1393607161, 1393607207]})
    >>> interactions = read_interactions(log)
    >>> interactions.columns
    {'user_id': 'uid', 'item_id': 'iid', 'timestamp': 'ts'}
    >>> interactions.frame["user_id"].tolist(), interactions.frame["weight"].tolist()
    (['7', '7'], [1.0, 1.0])
    """
    _check_on_bad(on_bad)
    sources = source if isinstance(source, list | tuple) else [source]
    if not sources:
        raise ValueError(
            "expected at least one file of interactions. Received: an empty list. Name a file."
        )
    zone = read_zone(timezone)
    times: Any = {"timezone": zone, "max_ahead": max_ahead}
    parts: list[Part] = []
    refusals: list[Refusal] = []
    for one in sources:
        try:
            with step(log, "reading interactions", only_long=True):
                part = read_interaction_table(
                    open_table(one, encoding), columns, on_bad, event_weights, **times
                )
        except DirtyRows as error:  # no good row is left of this one
            refusals += error.refusals
            continue
        refusals += part.refusals
        parts.append(part)
    if not parts:
        raise DirtyRows(refusals)
    _check_same_columns(parts)
    report = CleaningReport.of_sources((part.name, part.report) for part in parts)
    frame = _join([part.frame for part in parts])
    if "timestamp" not in parts[0].columns:
        frame["timestamp"] = np.arange(1, len(frame) + 1, dtype=np.int64)
    if any(part.fractions is not None for part in parts):
        frame, report = _in_exact_order(frame, parts, report)
    found = Interactions(frame, parts[0].columns, report, zone_name(zone))
    if found.has_time:
        found = _with_warning_of_old(found)
    if refusals:
        raise DirtyRows(refusals, found)
    return found


def read_items(
    source: Source,
    *,
    columns: Mapping[str, str | None] | None = None,
    encoding: str = "utf-8",
    on_bad: str = "error",
    titles: bool = True,
) -> Items:
    """Reads the catalogue: an id, a title and any further columns, all kept as texts.

    Column names are recognised by their usual aliases (`item`, `iid`, `sku`, ...; `name`, `标题`,
    ...) or given by `columns`; further columns keep their names. Empty titles are kept and counted
    in the report. A column may say that an item is not to be had now (`available` = 0, `下架` = 是,
    `status` = off, `stock` = 0, `end_date` in the past, ...): it is `withdrawn`, in no list.

    Args:
        source: a file, folder, pattern, query or table, as for `read_interactions`.
        columns: canonical name -> column name, e.g. `{"title": "headline"}`.
        encoding: of text files, e.g. `"gb18030"`.
        on_bad: `"error"` raises at a row without an id or with an id seen before, `"skip"` leaves
            such rows out (the first row of an id stays) and counts them.
        titles: whether titles are needed. False: a catalogue without any is read too, for a model
            that knows items by their ids alone; `title` is empty then.

    Returns:
        `Items`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: missing or doubtful columns, a damaged or empty file, a wrong encoding, only
            empty texts; bad rows unless they are to be skipped.

    >>> items = read_items(pd.DataFrame({"sku": ["007"], "name": ["红楼梦"], "price": [9.5]}))
    >>> items.frame.to_dict("records")
    [{'item_id': '007', 'title': '红楼梦', 'price': '9.5'}]
    """
    _check_on_bad(on_bad)
    part = read_item_table(open_table(source, encoding), columns, on_bad, titles=titles)
    gone, reasons = withdrawn_rows(part.frame)
    report = part.report
    for column, count in reasons.items():
        what = f"not to be had by the column {column}: in no list"
        report = report.add("note", what, count)
    withdrawn = frozenset(part.frame["item_id"][gone])
    found = Items(part.frame, part.columns, report, withdrawn)
    if part.refusals:
        raise DirtyRows(part.refusals, found)
    return found


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


def read_user_ids(
    source: Source, *, column: str | None = None, encoding: str = "utf-8"
) -> np.ndarray:
    """Reads a list of users: the user column of a table with a header line.

    Args:
        source: a file, folder, pattern, query or table, as for `read_interactions`.
        column: name to look for before the usual aliases, such as the interactions' user column.
        encoding: of text files.

    Returns:
        object array of str, in file order, repeated ids included.

    Raises:
        FileNotFoundError, ValueError: as `read_interactions`.

    >>> read_user_ids(pd.DataFrame({"uid": [7, 9]})).tolist()
    ['7', '9']
    """
    table = open_table(source, encoding)
    return read_id_column(table, column if column in table.columns else None)


def as_interactions(source: Interactions | Source | Sequence[Source]) -> Interactions:
    """Gives `Interactions`: reads whatever else `read_interactions` takes."""
    return source if isinstance(source, Interactions) else read_interactions(source)


def as_items(source: Items | Source, *, titles: bool = True) -> Items:
    """Gives `Items`: reads whatever else `read_items` takes."""
    return source if isinstance(source, Items) else read_items(source, titles=titles)


def items_of(parts: Iterable[Interactions]) -> Items:
    """Makes the catalogue of what a log names: ids in the order in which they come, no titles.

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
    frame = _join([part.frame for part in parts])
    report = CleaningReport(len(frame)).add("note", f"joined from {len(parts)} parts", len(frame))
    return Interactions(frame, parts[0].columns, report, parts[0].timezone)


def _check_on_bad(on_bad):
    if on_bad not in ("error", "skip"):
        raise ValueError(
            f"on_bad: expected 'error' or 'skip'. Received: {on_bad!r}. Choose one of them."
        )


def _check_same_columns(parts):
    first = parts[0]
    for part in parts[1:]:
        if part.columns != first.columns:
            raise ValueError(
                f"{part.name}: expected the columns of {first.name} ({_pairs(first.columns)}). "
                f"Received: {_pairs(part.columns)}. Give both files the same header."
            )
        kinds = [bool(p.frame["timestamp"].max() >= POSITIONS_BELOW) for p in (first, part)]
        if "timestamp" in part.columns and kinds[0] != kinds[1]:
            words = ["times" if kind else "positions (below 1e8)" for kind in kinds]
            raise ValueError(
                f"{part.name}: expected {words[0]} as in {first.name}. Received: {words[1]}. "
                "Join only files with the same kind of time."
            )


def _pairs(columns):
    return ", ".join(f"{role} = {name}" for role, name in columns.items())


def _join(frames):
    """The frames one after the other; categories keep their order of first appearance."""
    if len(frames) == 1:
        return frames[0]
    joined = pd.concat(
        [frame[["timestamp", "value", "weight"]] for frame in frames], ignore_index=True
    )
    for name in ("user_id", "item_id", "event"):
        joined[name] = union_categoricals([frame[name] for frame in frames])
    return joined[list(frames[0].columns)]


def _in_exact_order(frame, parts, report):
    """Rows of one second in the order of their exact times, then of the file; others stay."""
    fractions = np.concatenate(
        [
            np.zeros(len(part.frame), np.int64) if part.fractions is None else part.fractions
            for part in parts
        ]
    )
    seconds = frame["timestamp"].to_numpy()
    places = np.argsort(seconds, kind="stable")
    is_wrong = (np.diff(seconds[places]) == 0) & (np.diff(fractions[places]) < 0)
    if not is_wrong.any():
        return frame, report
    rows = np.empty(len(frame), np.int64)
    rows[places] = np.lexsort((fractions, seconds))
    what = "rows out of order within a second: put in the order of their exact times"
    return frame.iloc[rows].reset_index(drop=True), report.add("note", what, is_wrong.sum())


def _with_warning_of_old(interactions):
    """A line in the report, and in the log, where a few events are far older than all others.

    A device that lost its clock says 1980 or 2000. Half of the log lies between the quartiles; what
    is older than ten times this span before them, and more than five years, is far off.
    """
    times = interactions.frame["timestamp"].to_numpy()
    low, high = np.quantile(times, [0.25, 0.75], method="nearest")
    edge = low - max(_OLD_SPANS * (high - low), _OLD_SECONDS)
    old = times < edge
    if not old.any():
        return interactions
    oldest = show_time(times.min(), read_zone(interactions.timezone))
    what = f"events far older than the rest, before {show_time(edge)[:10]}: was a clock wrong?"
    log.warning("%s: %d, the oldest of %s", what.partition(":")[0], old.sum(), oldest)
    report = interactions.report.add("warning", what, old.sum(), example=oldest)
    return replace(interactions, report=report)
