"""Describes a data set: the table behind `kerasrec inspect --data`."""

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from kerasrec.data.cleaning import check_trainable, crawler_limit, k_core
from kerasrec.data.interactions import Interactions, Items
from kerasrec.data.matching import format_share, match_ids
from kerasrec.data.times.zones import DAY, read_zone, show_time

QUANTILES = {"min": 0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "max": 1}
CHINESE = r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
TOP_CRAWLERS = 5


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
    frame = interactions.frame
    users = frame["user_id"].cat.codes.to_numpy().astype(np.int64)
    item_codes = frame["item_id"].cat.codes.to_numpy().astype(np.int64)
    rows = _sizes(interactions, users, item_codes)
    rows += _quantiles("events per user", _counts(users))
    rows += _quantiles("events per item", _counts(item_codes))
    rows += _event_types(frame)
    rows += _repeats_and_ties(frame, users, item_codes)
    rows += _time(interactions, share)
    rows += _crawlers(interactions)
    if items is not None:
        rows += _catalogue(interactions, items)
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
_NOBODY = "0 -1 unknown anonymous guest visitor 游客 访客 匿名 匿名用户 未登录 未知".split()
_MASKED = r"\*\*"
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
    found = [*_of_report(interactions.report, ""), *_of_events(interactions)]
    if items is not None:
        found += [*_of_report(items.report, "catalogue: "), *_of_catalogue(interactions, items)]
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


def _of_events(interactions):
    """(how bad, sentence) of the log by itself."""
    try:
        check_trainable(interactions)
    except ValueError as error:
        yield _HOPELESS, f"nothing can be learned: {error}"
    frame, size = interactions.frame, len(interactions)
    times, users = frame["timestamp"].to_numpy(), frame["user_id"].cat.codes.to_numpy()
    if interactions.has_time and size > 1 and times.min() == times.max():
        yield _SPOILS_ALL, "all events have the same time: their order is that of the file"
    twice = int(frame.duplicated(["user_id", "item_id", "timestamp"]).sum())
    if twice > _WORTH_A_LINE * size:
        part = _part(twice, size, "events")
        yield twice / size, f"{part} logged twice (same user, item, time): --repeats exact"
    names, counts = frame["user_id"].cat.categories, np.bincount(users)
    for place in np.flatnonzero(names.isin(_NOBODY)):
        part, share = _part(int(counts[place]), size, "events"), counts[place] / size
        if share > _WORTH_A_LINE:
            yield share, f"{part} are of the user '{names[place]}': all that nobody is known of?"
    masked = np.flatnonzero(names.str.contains(_MASKED))
    share = counts[masked].sum() / size
    if share > _WORTH_A_LINE:
        part = _part(int(counts[masked].sum()), size, "events")
        what = f"are of masked users such as '{names[masked[0]]}', who may be several people"
        yield share, f"{part} {what}"
    above = counts[counts > crawler_limit(interactions)]
    if above.size:
        part = _part(int(above.sum()), size, "events")
        what = f"are of {above.size:,} users who look like machines or shared accounts"
        yield above.sum() / size, f"{part} {what}: --max-user-events auto"
    alone = int((counts == 1).sum())
    if alone > _MANY * interactions.num_users:
        part = _part(alone, interactions.num_users, "users")
        yield _WORTH_A_LINE, f"{part} have one event: nothing follows on it"


def _of_catalogue(interactions, items):
    """(how bad, sentence) of the catalogue, and of how it meets the log."""
    match = match_ids(interactions, items)
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


def _sizes(interactions, users, item_codes):
    num_users, num_items = interactions.num_users, interactions.num_items
    core, _ = k_core(users, item_codes, 5, 5)
    top = np.sort(_counts(item_codes))[::-1]
    return [
        ("size", "users", num_users),
        ("size", "items with events", num_items),
        ("size", "events", len(users)),
        ("size", "density", _distinct_pairs(users, item_codes) / (num_users * num_items)),
        ("size", "events in the 5-core", int(core.sum())),
        ("size", "users in the 5-core", int(np.unique(users[core]).size)),
        ("size", "items in the 5-core", int(np.unique(item_codes[core]).size)),
        ("size", "share of the 10 most frequent items", float(top[:10].sum() / len(users))),
    ]


def _distinct_pairs(users, item_codes):
    pairs = pd.Series(users * (item_codes.max(initial=0) + 1) + item_codes)
    return int(len(pairs) - pairs.duplicated().sum())


def _event_types(frame):
    counts = frame["event"].value_counts()
    rows: list[tuple[str, str, float]] = [
        ("event types", str(name), int(count)) for name, count in counts.items() if count
    ]
    values = frame["value"].dropna()
    if len(values):
        rows += [
            ("event types", "mean value", round(float(values.mean()), 3)),
            ("event types", "events with a value", len(values)),
        ]
    return rows


def _repeats_and_ties(frame, users, item_codes):
    repeated = len(users) - _distinct_pairs(users, item_codes)
    seconds = frame["timestamp"].to_numpy()
    moments = pd.DataFrame({"user": users, "second": seconds})
    ties = int(moments.duplicated(keep=False).sum())
    twice = int(moments.assign(item=item_codes).duplicated().sum())
    size = len(users)
    return [
        ("order", "repeated pairs of user and item", repeated),
        ("order", "share of repeated pairs", repeated / size),
        ("order", "events logged twice (same user, item, time)", twice),
        ("order", "same-second events", ties),
        ("order", "share of same-second events", ties / size),
    ]


def _time(interactions, share):
    if not interactions.has_time:
        return [("time", "kind", "positions in a history, not times")]
    frame = interactions.frame
    times = frame["timestamp"].to_numpy()
    first, last = int(times.min()), int(times.max())
    zone, name = read_zone(interactions.timezone), interactions.timezone
    late = times >= np.sort(times)[int(times.size * (1 - share))]
    rows = [
        ("time", f"first event ({name})", show_time(first, zone)),
        ("time", f"last event ({name})", show_time(last, zone)),
        ("time", "days", round((last - first) / DAY, 1)),
    ]
    for name, column in (("items", "item_id"), ("users", "user_id")):
        codes = frame[column].cat.codes.to_numpy()
        is_cold = ~np.isin(codes[late], codes[~late])
        rows.append(
            (f"last {share:.0%} by time", f"cold {name}", np.unique(codes[late][is_cold]).size)
        )
        rows.append(
            (f"last {share:.0%} by time", f"share of events of cold {name}", float(is_cold.mean()))
        )
    return rows


def _crawlers(interactions):
    limit = crawler_limit(interactions)
    counts = interactions.frame["user_id"].value_counts()
    suspects = counts[counts > limit]
    rows = [
        ("crawlers", "limit (10 x the 99 % quantile, at least 100)", limit),
        ("crawlers", "users above it", len(suspects)),
        ("crawlers", "share of their events", float(suspects.sum() / len(interactions))),
    ]
    for user, count in suspects.iloc[:TOP_CRAWLERS].items():
        rows.append(("crawlers", f"events of user {user}", int(count)))
    return rows


def _catalogue(interactions, items):
    names = interactions.frame["item_id"].cat.categories.to_numpy(dtype=object)
    names = names[np.bincount(interactions.frame["item_id"].cat.codes, minlength=len(names)) > 0]
    index = items.index_of(names)
    known = int((index > 0).sum())
    return [
        ("catalogue", "items", len(items)),
        ("catalogue", "items without events", len(items) - known),
        ("catalogue", "unknown items in the events", len(names) - known),
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
