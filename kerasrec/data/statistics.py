"""Describes a data set: the table behind `kerasrec inspect --data`."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kerasrec.data.cleaning import check_counts, k_core, limit_of_counts
from kerasrec.data.cleaningreport import CleaningReport
from kerasrec.data.interactions import Interactions, Items
from kerasrec.data.matching import Match, format_share, match_ids
from kerasrec.data.times.zones import DAY, read_zone, show_time

QUANTILES = {"min": 0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "max": 1}
CHINESE = r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
TOP_CRAWLERS = 5
#: events that users and items have at least in the core that is counted
CORE = 5


def describe(
    interactions: Interactions, items: Items | None = None, *, share: float = 0.1
) -> pd.DataFrame:
    """Describes a data set: sizes, distributions and oddities. Changes nothing.

    Args:
        interactions: `Interactions`.
        items: `Items`; adds the part about the catalogue and its titles.
        share: of the events, by time, that the cold-start figures call "late".

    Returns:
        DataFrame with the columns `part`, `what`, `value` (int, float or str), in reading order.

    >>> from kerasrec.data import read_interactions
    >>> log = pd.DataFrame({"user": list("aab"), "item": list("xyx"), "ts": [1.4e9, 1.4e9, 1.5e9]})
    >>> table = describe(read_interactions(log))
    >>> table[table["what"].isin(["users", "density", "same-second events"])]["value"].tolist()
    [2, 0.75, 2]
    """
    return describe_figures(count_figures(interactions, share=share), items)


class Figures(NamedTuple):
    """Holds what is counted in a log of any size: `describe` and `find_problems` are words on it.

    columns, report, timezone: as of `Interactions`.
    user_counts, item_counts: int, events of each user and item that has some, in no order.
    pairs: distinct pairs of user and item.  core: events, users and items of the 5-core.
    event_types: `(name, events)`, the most frequent first.  values: their mean and number.
    same_second: events of a user with another one in the same second.  twice: events with the user,
    item and second of an earlier one.
    times: first and last second; None = positions.  late: of the last `share` of the events by
    time, for items and users: how many are cold, share of the events that are theirs.
    most_active: `(user, events)` of some of the users above `crawler_limit`, the most active first.
    nobody: `(user, events)` of ids that mean nobody.  masked: an id with stars, events of such ids.
    meet: gives the number of item ids of the log, and of those that a catalogue has.
    match: does what `match_ids` does.
    """

    columns: Mapping[str, str]
    report: CleaningReport
    timezone: str
    user_counts: np.ndarray
    item_counts: np.ndarray
    pairs: int
    core: tuple[int, int, int]
    event_types: list[tuple[str, int]]
    values: tuple[float, int]
    same_second: int
    twice: int
    times: tuple[int, int] | None
    late: dict[str, tuple[int, float]]
    share: float
    most_active: list[tuple[str, int]]
    nobody: list[tuple[str, int]]
    masked: tuple[str, int]
    meet: Callable[[Items], tuple[int, int]]
    match: Callable[[Items], Match]

    @property
    def events(self) -> int:
        """Events of the log."""
        return int(self.user_counts.sum())


def count_figures(interactions: Interactions, *, share: float = 0.1) -> Figures:
    """Counts what `describe` and `find_problems` speak of."""
    frame = interactions.frame
    users = frame["user_id"].cat.codes.to_numpy().astype(np.int64)
    item_codes = frame["item_id"].cat.codes.to_numpy().astype(np.int64)
    times = frame["timestamp"].to_numpy()
    core, _ = k_core(users, item_codes, CORE, CORE)
    values = frame["value"].dropna()
    moments = pd.DataFrame({"user": users, "second": times})
    names, counts = frame["user_id"].cat.categories, np.bincount(users)
    by_user = frame["user_id"].value_counts()
    suspects = by_user[by_user > limit_of_counts(counts[counts > 0])].iloc[:TOP_CRAWLERS]
    masked = np.flatnonzero(names.str.contains(MASKED))
    item_names = frame["item_id"].cat.categories.to_numpy(dtype=object)
    is_used = np.bincount(item_codes, minlength=len(item_names)) > 0

    def meet(items):
        return int(is_used.sum()), int((items.index_of(item_names[is_used]) > 0).sum())

    return Figures(
        columns=interactions.columns,
        report=interactions.report,
        timezone=interactions.timezone,
        user_counts=_counts(users),
        item_counts=_counts(item_codes),
        pairs=_distinct_pairs(users, item_codes),
        core=(int(core.sum()), np.unique(users[core]).size, np.unique(item_codes[core]).size),
        event_types=[
            (str(name), int(count)) for name, count in frame["event"].value_counts().items()
        ],
        values=(float(values.mean()) if len(values) else 0.0, len(values)),
        same_second=int(moments.duplicated(keep=False).sum()),
        twice=int(moments.assign(item=item_codes).duplicated().sum()),
        times=(int(times.min()), int(times.max())) if interactions.has_time else None,
        late=_late(frame, times, share) if interactions.has_time else {},
        share=share,
        most_active=[(str(user), int(count)) for user, count in suspects.items()],
        nobody=[
            (str(names[place]), int(counts[place])) for place in np.flatnonzero(names.isin(NOBODY))
        ],
        masked=(str(names[masked[0]]), int(counts[masked].sum())) if masked.size else ("", 0),
        meet=meet,
        match=lambda items: match_ids(interactions, items),
    )


def describe_figures(figures: Figures, items: Items | None = None) -> pd.DataFrame:
    """Does what `describe` does, for a log that is known by its `Figures`."""
    rows = _sizes(figures)
    rows += _quantiles("events per user", figures.user_counts)
    rows += _quantiles("events per item", figures.item_counts)
    rows += _event_types(figures)
    rows += _repeats_and_ties(figures)
    rows += _time(figures)
    rows += _crawlers(figures)
    if items is not None:
        rows += _catalogue(figures, items)
        rows += _titles(items.frame["title"])
    return pd.DataFrame(rows, columns=["part", "what", "value"])


def format_value(value: object) -> str:
    """Writes a value of `describe` for people: with thousands marks, four digits of a fraction.

    >>> [format_value(value) for value in (102204, 0.0016539, 10.0, "2014-03-01")]
    ['102,204', '0.001654', '10', '2014-03-01']
    """
    if isinstance(value, float | np.floating):
        return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


# --- problems ---

#: how bad a problem is: these come before all that only a share of the rows has
_HOPELESS, _SPOILS_ALL = 3.0, 2.0
#: a share of something that is worth a line
_WORTH_A_LINE = 0.01
_MANY = 0.5
#: users that stand for all who did not say who they are, and ids with stars for what is hidden
NOBODY = "0 -1 unknown anonymous guest visitor 游客 访客 匿名 匿名用户 未登录 未知".split()
MASKED = r"\*\*"
#: signs of titles that were read in a wrong encoding
_BROKEN = "\ufffd|锟斤拷|烫烫烫|[\xe4-\xe9][\x80-\xbf\u0152-\u2122]{2}|[\xa1-\xff]{4}"


def find_problems(interactions: Interactions, items: Items | None = None) -> list[str]:
    """Lists what is wrong with a data set, the worst first, each as a sentence.

    Args:
        interactions: `Interactions`, read with `on_bad="skip"`: its report tells of bad rows.
        items: `Items`, in the same way, or None.

    >>> from kerasrec.data import read_interactions
    >>> log = pd.DataFrame({"user": list("aab") + [None], "item": list("xyxy")})
    >>> for problem in find_problems(read_interactions(log, on_bad="skip")):
    ...     print(problem)
    no time column: the position in the file is the time (4 of 4 events)
    1 of 4 rows (25 %) left out: empty user_id (data row 4)
    """
    return problems_of_figures(count_figures(interactions), items)


def problems_of_figures(figures: Figures, items: Items | None = None) -> list[str]:
    """Does what `find_problems` does, for a log that is known by its `Figures`."""
    found = [*_of_report(figures.report, ""), *_of_events(figures)]
    if items is not None:
        found += [*_of_report(items.report, "catalogue: "), *_of_catalogue(figures, items)]
    return [text for _, text in sorted(found, key=lambda one: -one[0])]


def _of_report(report, whose):
    """(how bad, sentence) of the rows that were left out, and of ids with spaces."""
    for step in report.steps:
        if step.removed:
            shown = f" ({step.example})" if step.example else ""
            rows = _part(step.removed, report.rows_before, "rows")
            yield step.removed / report.rows_before, f"{whose}{rows} left out: {step.what}{shown}"
        elif step.step == "warning":
            yield _WORTH_A_LINE, f"{whose}{step.count:,} x {step.what} ({step.example})"
        elif step.step == "note" and "spaces around" in step.what:
            yield _WORTH_A_LINE, f"{whose}{step.count:,} x {step.what}, such as {step.example}"
        elif step.step == "note" and step.what.startswith(("no time column", "times below")):
            part = f"({step.count:,} of {report.rows_before:,} events)"
            yield _SPOILS_ALL, f"{step.what} {part}"


def _of_events(figures):
    """(how bad, sentence) of the log by itself."""
    counts, size = figures.user_counts, figures.events
    try:
        check_counts(counts, len(figures.item_counts), figures.columns)
    except ValueError as error:
        yield _HOPELESS, f"nothing can be learned: {error}"
    if figures.times and size > 1 and figures.times[0] == figures.times[1]:
        yield _SPOILS_ALL, "all events have the same time: their order is that of the file"
    twice = figures.twice
    if twice > _WORTH_A_LINE * size:
        part = _part(twice, size, "events")
        yield twice / size, f"{part} logged twice (same user, item, time): --repeats exact"
    for name, count in figures.nobody:
        if count > _WORTH_A_LINE * size:
            part = _part(count, size, "events")
            yield count / size, f"{part} are of the user '{name}': all that nobody is known of?"
    name, count = figures.masked
    if count > _WORTH_A_LINE * size:
        part = _part(count, size, "events")
        what = f"are of masked users such as '{name}', who may be several people"
        yield count / size, f"{part} {what}"
    above = counts[counts > limit_of_counts(counts)]
    if above.size:
        part = _part(int(above.sum()), size, "events")
        what = f"are of {above.size:,} users who look like machines or shared accounts"
        yield above.sum() / size, f"{part} {what}: --max-user-events auto"
    alone = int((counts == 1).sum())
    if alone > _MANY * len(counts):
        part = _part(alone, len(counts), "users")
        yield _WORTH_A_LINE, f"{part} have one event: nothing follows on it"


def _of_catalogue(figures, items):
    """(how bad, sentence) of the catalogue, and of how it meets the log."""
    match = figures.match(items)
    unknown = match.events - match.known_events
    if match.is_poor:
        text = f"the ids of log and catalogue hardly meet: {match.sentence()}"
        yield _HOPELESS + 1 - match.share, text
    elif unknown:
        part = _part(unknown, match.events, "events")
        what = f"name {match.ids - match.known_ids:,} items that the catalogue lacks"
        hint = match.hint() or "--unknown-items skip leaves them out."
        yield unknown / match.events, f"{part} {what}, such as {match.shown_unknown()}. {hint}"
    titles = items.frame["title"].str.strip()
    blank = int((titles == "").sum())
    if blank:
        part = _part(blank, len(items), "items")
        yield _SPOILS_ALL * (blank == len(items)) or blank / len(items), f"{part} have no title"
    broken = titles[titles.str.contains(_BROKEN)]
    if len(broken):
        part = _part(len(broken), len(items), "items")
        what = f"have a title that a wrong encoding has broken, such as '{broken.iloc[0][:20]}'"
        yield len(broken) / len(items), f"{part} {what}"
    shared = int((titles.duplicated(keep=False) & (titles != "")).sum())
    if shared > _MANY * len(items):
        part = _part(shared, len(items), "items")
        yield shared / len(items), f"{part} share their title with another one"


def _part(count, whole, what):
    return f"{count:,} of {whole:,} {what} ({format_share(count, whole)})"


def _counts(codes):
    counts = np.bincount(codes)
    return counts[counts > 0]


def _quantiles(part, counts):
    rows = [
        (part, name, round(float(np.quantile(counts, quantile)), 1))
        for name, quantile in QUANTILES.items()
    ]
    return [*rows, (part, "mean", round(float(np.mean(counts)), 2))]


def _sizes(figures):
    num_users, num_items = len(figures.user_counts), len(figures.item_counts)
    top = np.sort(figures.item_counts)[::-1]
    events, users, items = figures.core
    return [
        ("size", "users", num_users),
        ("size", "items with events", num_items),
        ("size", "events", figures.events),
        ("size", "density", figures.pairs / (num_users * num_items)),
        ("size", "events in the 5-core", events),
        ("size", "users in the 5-core", users),
        ("size", "items in the 5-core", items),
        ("size", "share of the 10 most frequent items", float(top[:10].sum() / figures.events)),
    ]


def _distinct_pairs(users, item_codes):
    pairs = pd.Series(users * (item_codes.max(initial=0) + 1) + item_codes)
    return int(len(pairs) - pairs.duplicated().sum())


def _event_types(figures):
    rows: list[tuple[str, str, float]] = [
        ("event types", name, count) for name, count in figures.event_types if count
    ]
    mean, count = figures.values
    if count:
        rows += [
            ("event types", "mean value", round(mean, 3)),
            ("event types", "events with a value", count),
        ]
    return rows


def _repeats_and_ties(figures):
    size = figures.events
    repeated = size - figures.pairs
    return [
        ("order", "repeated pairs of user and item", repeated),
        ("order", "share of repeated pairs", repeated / size),
        ("order", "events logged twice (same user, item, time)", figures.twice),
        ("order", "same-second events", figures.same_second),
        ("order", "share of same-second events", figures.same_second / size),
    ]


def _late(frame, times, share):
    """`Figures.late` of a log with times."""
    late = times >= np.sort(times)[int(times.size * (1 - share))]
    found = {}
    for name, column in (("items", "item_id"), ("users", "user_id")):
        codes = frame[column].cat.codes.to_numpy()
        is_cold = ~np.isin(codes[late], codes[~late])
        found[name] = np.unique(codes[late][is_cold]).size, float(is_cold.mean())
    return found


def _time(figures):
    if figures.times is None:
        return [("time", "kind", "positions in a history, not times")]
    first, last = figures.times
    zone, name = read_zone(figures.timezone), figures.timezone
    rows = [
        ("time", f"first event ({name})", show_time(first, zone)),
        ("time", f"last event ({name})", show_time(last, zone)),
        ("time", "days", round((last - first) / DAY, 1)),
    ]
    part = f"last {figures.share:.0%} by time"
    for name, (cold, events) in figures.late.items():
        rows += [(part, f"cold {name}", cold), (part, f"share of events of cold {name}", events)]
    return rows


def _crawlers(figures):
    limit = limit_of_counts(figures.user_counts)
    above = figures.user_counts[figures.user_counts > limit]
    rows = [
        ("crawlers", "limit (10 x the 99 % quantile, at least 100)", limit),
        ("crawlers", "users above it", len(above)),
        ("crawlers", "share of their events", float(above.sum() / figures.events)),
    ]
    return rows + [("crawlers", f"events of user {user}", n) for user, n in figures.most_active]


def _catalogue(figures, items):
    num_ids, known = figures.meet(items)
    return [
        ("catalogue", "items", len(items)),
        ("catalogue", "items without events", len(items) - known),
        ("catalogue", "unknown items in the events", num_ids - known),
        ("catalogue", "columns", ", ".join(items.frame.columns)),
    ]


def _titles(titles):
    lengths = titles.str.len().to_numpy()
    chinese = titles.str.count(CHINESE).to_numpy()
    characters = titles.str.replace(r"\s", "", regex=True).str.len().sum()
    clean = titles.str.split().str.join(" ")
    clean = clean[clean != ""]
    is_repeated = clean.duplicated(keep=False)
    rows = [
        ("titles", "empty", int(len(titles) - len(clean))),
        ("titles", "share of Chinese characters", float(chinese.sum() / max(characters, 1))),
        ("titles", "titles with Chinese characters", int((chinese > 0).sum())),
        ("titles", "titles under more than one id", int(clean[is_repeated].nunique())),
        ("titles", "items that share their title", int(is_repeated.sum())),
    ]
    return rows + _quantiles("title length (characters)", lengths)


def fingerprint(interactions: Interactions, items: Items) -> dict[str, Any]:
    """Identifies the data in a manifest: counts and a sha256 of the tables."""
    digest = hashlib.sha256()
    frame = interactions.frame
    for column in ("user_id", "item_id", "timestamp"):
        digest.update(pd.util.hash_pandas_object(frame[column], index=False).to_numpy().tobytes())
    digest.update(pd.util.hash_pandas_object(items.frame, index=False).to_numpy().tobytes())
    return {
        "sha256": digest.hexdigest(),
        "interactions": len(frame),
        "users": interactions.num_users,
        "items": len(items),
        "columns": {**interactions.columns},
    }
