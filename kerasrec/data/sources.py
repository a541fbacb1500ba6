"""Reads and checks the two tables that everything starts from: interactions and items.

No row is lost silently. A reader refuses a table with bad rows and names all kinds of them; with
`on_bad="skip"` it leaves them out, and the report says which, why and how many.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import tzinfo
from pathlib import Path
from typing import Any

import numpy as np

from kerasrec.checks import step
from kerasrec.data.cleaningreport import CleaningReport, DirtyRows, ManyRefused, Refusal
from kerasrec.data.columns import Naming, split_naming, withdrawn_rows
from kerasrec.data.formats.vectorfiles import check_vectors, pack_vectors, read_vectors
from kerasrec.data.interactions import LISTED, Interactions, Items, Users, join_frames
from kerasrec.data.readers import (
    Part,
    read_id_column,
    read_interaction_table,
    read_item_table,
    read_relation_table,
    read_user_table,
)
from kerasrec.data.relations.order import ORDER, read_order
from kerasrec.data.tables import Source, open_table
from kerasrec.data.times.forms import POSITIONS_BELOW
from kerasrec.data.times.zones import DAY, MAX_AHEAD, read_zone, show_time, zone_name

log = logging.getLogger(__name__)
_OLD_SPANS, _OLD_SECONDS = 10, 5 * 365 * DAY


def read_interactions(
    source: Source | Sequence[Source],
    *,
    columns: Naming | None = None,
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
            role. `status` is a column that says which orders were cancelled or refunded, which are
            left out; without it the usual names are looked for (`status`, `订单状态`, ...), and
            `{"status": None}` keeps such orders. For files without a header line: a list of the
            names of all columns in their order, `["user", "item", "_", "time"]`, `_` for what is
            of no use.
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

    >>> import pandas as pd
    >>> log = pd.DataFrame({"uid": [7, 7], "iid": ["a", "b"], "ts": [1393607161, 1393607207]})
    >>> interactions = read_interactions(log)
    >>> interactions.columns
    {'user_id': 'uid', 'item_id': 'iid', 'timestamp': 'ts'}
    >>> interactions.frame["user_id"].tolist(), interactions.frame["weight"].tolist()
    (['7', '7'], [1.0, 1.0])
    """
    check_on_bad(on_bad)
    sources = source if isinstance(source, list | tuple) else [source]
    if not sources:
        raise ValueError(
            "expected at least one file of interactions. Received: an empty list. Name a file."
        )
    mapping, names = split_naming(columns)
    zone = read_zone(timezone)
    times: Any = {"timezone": zone, "max_ahead": max_ahead}
    parts: list[Part] = []
    refusals: list[Refusal] = []
    failures: list[Exception] = []
    for one in sources:
        try:
            with step(log, "reading interactions", only_long=True):
                part = read_interaction_table(
                    open_table(one, encoding, names=names), mapping, on_bad, event_weights, **times
                )
        except DirtyRows as error:  # no good row is left of this one
            refusals += error.refusals
            continue
        except (ValueError, FileNotFoundError) as error:  # the others are looked at all the same
            failures.append(error)
            continue
        refusals += part.refusals
        parts.append(part)
    if failures:
        if len(failures) == 1 and not refusals:
            raise failures[0]
        dirty = [str(DirtyRows(refusals))] if refusals else []
        raise ManyRefused([*map(str, failures), *dirty])
    if not parts:
        raise DirtyRows(refusals)
    check_same_columns(parts)
    report = CleaningReport.of_sources((part.name, part.report) for part in parts)
    frame = join_frames([part.frame for part in parts])
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
    columns: Naming | None = None,
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
        columns: canonical name -> column name, e.g. `{"title": "headline"}`; for files without a
            header line a list of all names in their order, `["sku", "title", "_"]`.
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

    >>> import pandas as pd
    >>> items = read_items(pd.DataFrame({"sku": ["007"], "name": ["红楼梦"], "price": [9.5]}))
    >>> items.frame.to_dict("records")
    [{'item_id': '007', 'title': '红楼梦', 'price': '9.5'}]
    """
    check_on_bad(on_bad)
    mapping, names = split_naming(columns)
    table = open_table(source, encoding, names=names)
    part = read_item_table(table, mapping, on_bad, titles=titles)
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


def with_relations(
    items: Items | Source,
    source: Source,
    *,
    columns: Mapping[str, str | None] | None = None,
    encoding: str = "utf-8",
    on_bad: str = "error",
    order: str | None = ORDER,
) -> Items:
    """Gives a catalogue with one more column for each relation: what items share with others.

    `teacher` of a course, `brand` of a product: a row `item, relation, entity` for each. The new
    column lists the entities of each item, so that it may be a feature, and a condition of a list.

    One relation may be an order instead: its entities are items that must come before. It is no
    feature; plans are checked by it, see `Recommender.generate`. Items before themselves, entities
    that are no items, and items that need each other are named in the report and in the log.

    Args:
        items: `Items`, or what `read_items` takes.
        source: a table with the columns item, relation and entity, in any form that `read_items`
            takes.
        columns: canonical name -> column name, e.g. `{"entity": "teacher_id"}`.
        encoding: of text files.
        on_bad: `"error"` raises at a row without one of the three, `"skip"` leaves it out.
        order: name of the relation that is an order; None = none of them. Where none of its
            entities is an item of the catalogue it is a relation as the others are.

    Returns:
        `Items`; what it holds more is in the report: rows on items that it lacks too, and rows that
        were left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing column, bad rows unless they are to be skipped, no item in common, or
            a relation that is called as a column.

    >>> import pandas as pd
    >>> items = read_items(pd.DataFrame({"item": [1, 2], "title": ["甲", "乙"]}))
    >>> rows = pd.DataFrame({"item": [1, 1], "relation": "teacher", "entity": ["张", "李"]})
    >>> with_relations(items, rows).frame["teacher"].str.split("\x1f").tolist()
    [['张', '李'], ['']]
    >>> rows = pd.DataFrame({"item": [2], "relation": "prerequisite", "entity": [1]})
    >>> with_relations(items, rows).order
    'prerequisite'
    """
    check_on_bad(on_bad)
    items = as_items(items)
    part = read_relation_table(open_table(source, encoding), columns, on_bad)
    if part.refusals:
        raise DirtyRows(part.refusals, part.frame)
    frame, place = part.frame, items.index_of(part.frame["item_id"])
    if not (place > 0).any():
        raise ValueError(
            f"{part.name}: expected ids of the catalogue, such as {items.ids[0]!r}. Received: "
            f"{frame['item_id'].iloc[0]!r} and others, none of which it has. Give both tables the "
            "same ids."
        )
    known = frame[place > 0].assign(place=place[place > 0] - 1)
    found, report = items.frame.copy(), items.report
    if order is not None:
        known, report, is_ordered = _ordered(items, known, order, report)
    for relation, rows in known.groupby("relation", sort=True):
        if relation in found:
            raise ValueError(
                f"{part.name}: the catalogue has a column {relation!r} already. Rename the "
                "relation, or leave the column out."
            )
        lists = rows.groupby("place")["entity"].agg(lambda one: LISTED.join(dict.fromkeys(one)))
        found[relation] = lists.reindex(range(len(found)), fill_value="").to_numpy(object)
        what = f"relation {relation}: {rows['entity'].nunique():,} entities"
        report = report.add("note", f"{what}, items", len(lists))
    for one in part.report.steps:
        if one.removed:
            what = f"{part.name}: {one.what} (row left out)"
            report = report.add("note", what, one.count, example=one.example)
    if foreign := int((place == 0).sum()):
        ids = frame["item_id"][place == 0].unique()
        what = f"rows of {part.name} on items that the catalogue lacks ({len(ids):,} items)"
        shown = ", ".join(map(repr, ids[:3])) + (", ..." if len(ids) > 3 else "")
        report = report.add("note", what, foreign, example=shown)
        log.warning("%s: %s: %s", what, f"{foreign:,} of {len(frame):,}", shown)
    told = order if order is not None and is_ordered else items.order
    names = [name for name in sorted(known["relation"].unique()) if name != told]
    ordered = replace(
        items,
        frame=found.astype("str"),
        report=report,
        relations=(*items.relations, *names),
        order=told,
    )
    return _told_of_cycles(ordered) if told != items.order else ordered


def _ordered(items, rows, order, report):
    """Rows of which those of the order name items alone, the report, whether there is an order."""
    is_order = (rows["relation"] == order).to_numpy()
    entities = rows["entity"].to_numpy(object)
    is_unknown = is_order & (items.index_of(entities) == 0)
    is_itself = is_order & (rows["item_id"].to_numpy(object) == entities)
    has_order = bool((is_order & ~is_unknown & ~is_itself).any())
    if is_itself.any():
        what = f"{order}: items before themselves, left out"
        report = _warned(report, what, is_itself.sum(), entities[is_itself][0])
    if not has_order:
        if is_unknown.any():
            what = f"relation {order}: no entity is another item, so it is no order"
            report = _warned(report, what, is_unknown.sum(), entities[is_unknown][0])
        return rows[~is_itself], report, False
    if is_unknown.any():
        what = f"{order}: what must come before is no item of the catalogue, left out"
        report = _warned(report, what, is_unknown.sum(), entities[is_unknown][0])
    return rows[~(is_itself | is_unknown)], report, True


def _told_of_cycles(items):
    cycles = read_order(items).cycles()
    if not cycles:
        return items
    way = " before ".join(items.ids[[one - 1 for one in [*cycles[0], cycles[0][0]]]])
    what = f"{items.order}: groups of items that need each other; in no order can all come"
    return replace(items, report=_warned(items.report, what, len(cycles), way))


def _warned(report, what, count, example):
    log.warning("%s: %d, such as %s", what, count, example)
    return report.add("warning", what, count, example=example)


def with_vectors(
    items: Items | Source, name: str, source: str | Path | tuple[Iterable[Any], np.ndarray]
) -> Items:
    """Gives a catalogue with one more column: vectors that another model made of each item.

    Of its picture, its sound, or anything else. A model that is trained on the catalogue reads the
    column beside the text, without being told (option `encoder.features`), and a new item needs any
    one of them.

    Args:
        items: `Items`, or what `read_items` takes; titles are not needed.
        name: of the column, such as `"image"`.
        source: an npy file with the ids beside it, an npz or a parquet file, as for the encoder
            `vectors:FILE`; or `(ids, vectors)`, one row of numbers for each id.

    Returns:
        `Items`; its report says how many items have a vector, and counts those of other items.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column of this name, a file of another form, not one finite vector for each
            id, an id that comes twice, or no item in common.

    >>> import pandas as pd
    >>> items = read_items(pd.DataFrame({"item": [1, 2], "title": ["甲", "乙"]}))
    >>> items = with_vectors(items, "image", (["2", "7"], np.array([[0.5, -2.0], [1.0, 0.0]])))
    >>> items.frame["image"].tolist()
    ['', 'vector:AAAAQAA0ALw=']
    """
    items = as_items(items, titles=False)
    given, vectors = source if isinstance(source, tuple) else read_vectors(source)
    what = name if isinstance(source, tuple) else f"{name}={source}"
    ids, vectors = check_vectors(given, vectors, what)
    if name in items.frame:
        raise ValueError(
            f"{what}: the catalogue has a column {name!r} already. Give the vectors another name, "
            "or leave the column out."
        )
    place = items.index_of(ids)
    if not (place > 0).any():
        raise ValueError(
            f"{what}: expected ids of the catalogue, such as {items.ids[0]!r}. Received: "
            f"{ids[0]!r} and others, none of which it has. Give both the same ids."
        )
    column = np.full(len(items), "", object)
    column[place[place > 0] - 1] = pack_vectors(vectors[place > 0])
    known = int((place > 0).sum())
    said = f"{name}: vectors of {vectors.shape[1]:,} numbers for {known:,} of {len(items):,} items"
    if known < len(ids):
        said += f"; the catalogue lacks the items of {len(ids) - known:,} others"
    report = items.report.add("columns", said, known)
    return replace(items, frame=items.frame.assign(**{name: column}).astype("str"), report=report)


def read_users(
    source: Source,
    *,
    columns: Mapping[str, str | None] | None = None,
    encoding: str = "utf-8",
    on_bad: str = "error",
) -> Users:
    """Reads the table of users: an id and any further columns, all kept as texts.

    Args:
        source, encoding: as for `read_items`.
        columns: canonical name -> column name, e.g. `{"user_id": "member"}`.
        on_bad: `"error"` raises at a row without an id or with an id seen before, `"skip"` leaves
            such rows out (the first row of an id stays) and counts them.

    Returns:
        `Users`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no column of ids, a damaged or empty file, a wrong encoding; bad rows unless
            they are to be skipped.

    >>> import pandas as pd
    >>> users = read_users(pd.DataFrame({"uid": [7], "年龄": [31], "城市": ["上海"]}))
    >>> users.frame.to_dict("records")
    [{'user_id': '7', '年龄': '31', '城市': '上海'}]
    """
    check_on_bad(on_bad)
    part = read_user_table(open_table(source, encoding), columns, on_bad)
    found = Users(part.frame, part.columns, part.report)
    if part.refusals:
        raise DirtyRows(part.refusals, found)
    return found


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

    >>> import pandas as pd
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


def as_users(source: Users | Source) -> Users:
    """Gives `Users`: reads whatever else `read_users` takes."""
    return source if isinstance(source, Users) else read_users(source)


def check_on_bad(on_bad: str) -> None:
    """Raises ValueError for another word than those of `on_bad`."""
    if on_bad not in ("error", "skip"):
        raise ValueError(
            f"on_bad: expected 'error' or 'skip'. Received: {on_bad!r}. Choose one of them."
        )


def check_same_columns(parts: Sequence[Part]) -> None:
    """Raises ValueError where parts have other columns, or positions in the place of times."""
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
    times = interactions.frame["timestamp"].to_numpy()
    edge = old_events_edge(*np.quantile(times, [0.25, 0.75], method="nearest"))
    old = int((times < edge).sum())
    if not old:
        return interactions
    oldest = show_time(times.min(), read_zone(interactions.timezone))
    return replace(interactions, report=warn_of_old(interactions.report, edge, old, oldest))


def old_events_edge(low: int, high: int) -> int:
    """The time before which an event is far older than the rest.

    A device that lost its clock says 1980 or 2000. Half of the log lies between the quartiles `low`
    and `high`; what is older than ten times this span before them, and more than five years, is far
    off.
    """
    return int(low - max(_OLD_SPANS * (high - low), _OLD_SECONDS))


def warn_of_old(report: CleaningReport, edge: int, count: int, oldest: str) -> CleaningReport:
    """Adds a line to a report, and to the log: events older than `old_events_edge`."""
    what = f"events far older than the rest, before {show_time(edge)[:10]}: was a clock wrong?"
    log.warning("%s: %d, the oldest of %s", what.partition(":")[0], count, oldest)
    return report.add("warning", what, count, example=oldest)
