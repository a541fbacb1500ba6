"""Cleans interactions: repeated pairs, rare users and items, crawlers, unknown items.

Every step is optional and adds a line to the report.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kerasrec.data.cleaningreport import CleaningReport
from kerasrec.data.interactions import Interactions, Items
from kerasrec.data.matching import Match, match_ids

CRAWLER_QUANTILE = 0.99
CRAWLER_FACTOR = 10
CRAWLER_MINIMUM = 100


def clean(
    interactions: Interactions,
    items: Items | None = None,
    *,
    repeats: str = "keep",
    min_user_events: int = 0,
    min_item_events: int = 0,
    max_user_events: int | str | None = None,
    unknown_items: str = "error",
) -> Interactions:
    """Removes events that should not be trained on, and reports each step.

    The steps run in this order: unknown items, crawlers, repeated pairs, k-core. The rows keep
    their order.

    Args:
        interactions: `Interactions`.
        items: `Items`, the catalogue; None does not look for unknown items.
        repeats: what to do when a user meets an item again: `"keep"` all events; `"exact"` leaves
            out those with the same time as well (logged twice); `"first"` or `"last"` keeps one
            event of each pair by time (file order when times are equal), whatever its type.
        min_user_events, min_item_events: users and items with fewer events are removed, again and
            again until all have enough (the k-core); 0 or 1 keeps all.
        max_user_events: a user with more events is removed with all events; `"auto"` takes
            `crawler_limit`; None keeps all users.
        unknown_items: events of items that the catalogue lacks: `"error"` or `"skip"`.

    Returns:
        `Interactions`; its report continues that of the input.

    Raises:
        ValueError: unknown items with `"error"`; an unknown option; no event left.

    >>> import pandas as pd
    >>> from kerasrec.data import read_interactions
    >>> log = pd.DataFrame({"user": list("aaab"), "item": list("xxyx"), "ts": [3, 1, 2, 1]})
    >>> cleaned = clean(read_interactions(log), repeats="first", min_user_events=2)
    >>> cleaned.frame[["user_id", "item_id", "timestamp"]].values.tolist()
    [['a', 'x', 1], ['a', 'y', 2]]
    """
    check_options(repeats, unknown_items, max_user_events)
    frame = interactions.frame
    columns = _Columns(interactions)
    if items is not None:
        columns.skip_unknown_items(items, unknown_items)
    if max_user_events is not None:
        columns.skip_crawlers(max_user_events)
    if repeats != "keep":
        columns.skip_repeats(repeats)
    if max(min_user_events, min_item_events) > 1:
        columns.skip_rare(min_user_events, min_item_events)
    report = interactions.report
    if report.rows_after != len(frame):  # built by hand
        report = CleaningReport(len(frame))
    report = report + columns.report
    if not columns.rows.size:
        match = items is not None and match_ids(interactions, items)
        hint = f"{match.sentence()} " if match and match.is_poor else ""
        raise ValueError(
            f"expected at least one event after cleaning. Received: none of {len(frame)} "
            f"({'; '.join(f'{step.removed} x {step.what}' for step in columns.report.steps)}). "
            f"{hint}Ask for less."
        )
    return interactions.replace(frame.iloc[columns.rows], report)


def crawler_limit(interactions: Interactions) -> int:
    """Finds the number of events above which a user looks like a crawler or a shared account.

    It is ten times what 99 % of the users have, but at least 100: heavy readers stay below this
    limit, machines do not. (In the caixin-news log 99 % of the users have at most 70 clicks; the
    limit of 700 finds exactly the two accounts with 4,012 and 1,473.)

    Returns:
        int; users with more events are crawler-like.

    >>> import pandas as pd
    >>> from kerasrec.data import read_interactions
    >>> log = pd.DataFrame({"user": [*range(99), *[100] * 150], "item": 1, "ts": 1})
    >>> crawler_limit(read_interactions(log))
    100
    """
    counts = np.bincount(interactions.frame["user_id"].cat.codes)
    return limit_of_counts(counts[counts > 0])


def limit_of_counts(counts: np.ndarray) -> int:
    """The `crawler_limit` of users with so many events each."""
    usual = np.quantile(counts, CRAWLER_QUANTILE, method="lower") if counts.size else 0
    return int(max(CRAWLER_FACTOR * usual, CRAWLER_MINIMUM))


def check_trainable(interactions: Interactions, items: Items | None = None) -> None:
    """Refuses data that nothing can be learned from: one user, one item, or histories of one event.

    Args:
        interactions: `Interactions` to train on.
        items: `Items`; when given, events of unknown items raise as well.

    Raises:
        ValueError: says what is missing.
    """
    if items is not None:
        _Columns(interactions).skip_unknown_items(items, "error")
    users = np.bincount(interactions.frame["user_id"].cat.codes)
    check_counts(users[users > 0], interactions.num_items, interactions.columns)


def check_counts(users: np.ndarray, num_items: int, columns: Mapping[str, str]) -> None:
    """Refuses what `check_trainable` refuses, of a log that is known by its counts.

    Args:
        users: int `(num_users,)`, events of each.
        num_items: items with events.
        columns: as of `Interactions`.
    """
    problem = ""
    if len(users) < 2:
        problem = f"{len(users)} user"
    elif num_items < 2:
        problem = f"{num_items} item"
    elif users.max() < 2:
        problem = f"{len(users)} users with one event each"
    if problem:
        raise ValueError(
            "expected at least two users and two items, and a user with two events or more, to "
            f"learn what follows what. Received: {problem}. Check the id columns "
            f"({columns.get('user_id', 'user_id')}, {columns.get('item_id', 'item_id')}) or bring "
            "more data."
        )


class _Columns:
    """The rows that are left, as positions in the frame, and the codes needed to choose them."""

    def __init__(self, interactions):
        self.interactions, frame = interactions, interactions.frame
        self.users = frame["user_id"].cat.codes.to_numpy()
        self.items = frame["item_id"].cat.codes.to_numpy()
        self.times = frame["timestamp"].to_numpy()
        self.user_names = frame["user_id"].cat.categories
        self.item_names = frame["item_id"].cat.categories
        self.rows = np.arange(len(frame))
        self.report = CleaningReport(len(frame))

    def keep(self, mask, what, count=None, example=""):
        """Keeps the rows of `mask`; a line in the report even when nothing went."""
        removed = int(mask.size - mask.sum())
        self.report = self.report.add(
            "clean", what, removed if count is None else count, removed=removed, example=example
        )
        if removed:
            self.rows = self.rows[mask]
            self.users, self.items = self.users[mask], self.items[mask]
            self.times = self.times[mask]

    def skip_unknown_items(self, items, unknown_items):
        known = items.index_of(self.item_names.to_numpy(dtype=object)) > 0
        mask = known[self.items]
        unknown = self.item_names[~known]
        if not len(unknown):
            return
        if unknown_items == "error":
            raise ValueError(refuse_unknown(match_ids(self.interactions, items)))
        self.keep(mask, "events of items that the catalogue lacks", example=unknown[0])

    def skip_crawlers(self, limit):
        counts = np.bincount(self.users, minlength=len(self.user_names))
        rule = "" if limit != "auto" else " (auto: 10 x the 99 % quantile, at least 100)"
        limit = limit_of_counts(counts[counts > 0]) if limit == "auto" else limit
        crawlers = counts > limit
        top = f"{self.user_names[counts.argmax()]}: {counts.max()} events" if counts.size else ""
        self.keep(
            ~crawlers[self.users],
            f"users with more than {limit} events{rule}",
            count=int(crawlers.sum()),
            example=top if crawlers.any() else "",
        )

    def skip_repeats(self, repeats):
        pairs = self.users.astype(np.int64) * len(self.item_names) + self.items
        if repeats == "exact":
            self.skip_exact_repeats(pairs)
            return
        in_order = bool(np.all(self.times[1:] >= self.times[:-1]))
        order = None if in_order else np.argsort(self.times, kind="stable")
        repeated = _repeated(pairs if order is None else pairs[order], repeats)
        mask = np.ones(pairs.size, dtype=bool)
        if order is None:
            mask = ~repeated
        else:
            mask[order[repeated]] = False
        example = ""
        if not mask.all():
            row = int(np.argmin(mask))
            example = f"{self.user_names[self.users[row]]}, {self.item_names[self.items[row]]}"
        self.keep(mask, f"repeated pairs of user and item, all but the {repeats}", example=example)

    def skip_exact_repeats(self, pairs):
        repeated = pd.DataFrame({"pair": pairs, "time": self.times}).duplicated().to_numpy()
        self.keep(~repeated, "events logged twice (same user, item and time)")

    def skip_rare(self, min_user_events, min_item_events):
        users, items = _num_distinct(self.users), _num_distinct(self.items)
        mask, rounds = k_core(self.users, self.items, min_user_events, min_item_events)
        users -= _num_distinct(self.users[mask])
        items -= _num_distinct(self.items[mask])
        self.keep(
            mask,
            f"events outside the core (users >= {min_user_events}, items >= {min_item_events} "
            f"events, {rounds} rounds)",
            example=f"{users} users, {items} items gone" if users or items else "",
        )


def k_core(
    users: np.ndarray, items: np.ndarray, min_user_events: int, min_item_events: int
) -> tuple[np.ndarray, int]:
    """Finds the largest set of events in which every user and every item has enough events.

    Args:
        users, items: int codes from 0, `(num_events,)`.
        min_user_events, min_item_events: what counts as enough.

    Returns:
        `(bool mask (num_events,), rounds until nothing changed)`.

    >>> k_core(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1]), 2, 2)[0].tolist()
    [True, True, True, True, False]
    """
    num_events = len(users)
    rows = np.arange(num_events)
    rounds = 0
    while rows.size:
        enough = (np.bincount(users)[users] >= min_user_events) & (
            np.bincount(items)[items] >= min_item_events
        )
        if enough.all():
            break
        rounds += 1
        rows, users, items = rows[enough], users[enough], items[enough]
    mask = np.zeros(num_events, dtype=bool)
    mask[rows] = True
    return mask, rounds


def _num_distinct(codes):
    return int(np.count_nonzero(np.bincount(codes)))


def _repeated(pairs, keep):
    """True for every occurrence of a value but the first or the last."""
    return pd.Series(pairs).duplicated(keep=keep).to_numpy()


def refuse_unknown(match: Match) -> str:
    """The sentence that refuses events of unknown items; opens with ids that hardly meet."""
    events = match.events - match.known_events
    unknown = f"{match.ids - match.known_ids} unknown items in {events} of {match.events} events"
    end = (
        "Add them to the items, or pass unknown_items='skip' (--unknown-items skip) to leave these "
        "events out."
    )
    if match.is_poor:
        return f"the ids of log and catalogue hardly meet: {match.sentence()} ({unknown}.) {end}"
    hint = f" {match.hint()}" if match.hint() else ""
    return (
        f"expected only items of the catalogue in the interactions. Received: {unknown}, such as "
        f"{match.shown_unknown()}; ids of the catalogue look like {match.shown_known()}.{hint} "
        f"{end}"
    )


def check_options(repeats: str, unknown_items: str, max_user_events: int | str | None) -> None:
    """Raises ValueError for what `clean` does not take."""
    if repeats not in ("keep", "exact", "first", "last"):
        raise ValueError(
            "repeats: expected 'keep', 'exact', 'first' or 'last'. "
            f"Received: {repeats!r}. Choose one."
        )
    if unknown_items not in ("error", "skip"):
        raise ValueError(
            f"unknown_items: expected 'error' or 'skip'. Received: {unknown_items!r}. Choose one."
        )
    is_count = isinstance(max_user_events, int | np.integer) and max_user_events >= 1
    if not (max_user_events is None or max_user_events == "auto" or is_count):
        raise ValueError(
            "max_user_events: expected a number of events, 'auto' or None. "
            f"Received: {max_user_events!r}. Choose one."
        )
