"""Lists under the rules of a shop: a longer list of each question, ordered anew."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kerasrec.data.events import EVENT_CODES
from kerasrec.features.itemcolumns import ItemColumns
from kerasrec.features.shoprules import Past, ShopRules
from kerasrec.recommender.questions import Questions, among_chosen

#: lists of questions, of a length, perhaps with items of the histories: item index and score
#: `(num_users, k)`; index 0 = none
MakeLists = Callable[[Questions, int, bool], tuple[np.ndarray, np.ndarray]]
_PURCHASE = EVENT_CODES["purchase"]


def ruled_lists(
    make: MakeLists,
    questions: Questions,
    rules: ShopRules,
    k: int,
    *,
    columns: ItemColumns,
    vectors: Callable[[np.ndarray], np.ndarray],
    now: float | None = None,
    keep_seen: bool = False,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Best items of each question by the rules.

    Args:
        make: makes the lists that the rules order.
        questions: `Questions`.
        rules: `ShopRules`.
        k: length of the lists.
        columns: of the catalogue.
        vectors: function of item indices that gives item vectors.
        now: UTC seconds, of the time windows of rules; None = the clock.
        keep_seen: whether lists may hold items of the histories.

    Returns:
        Item index int32 and score float32, `(num_users, k)`, index 0 = none; and for every item
        that is listed what the rules did, row by row.
    """
    rules.check(columns)
    now = time.time() if now is None else now
    with_seen, look = keep_seen, max(k, rules.look)
    if rules.keep_purchased is not None:  # what must not come again is taken out here
        with_seen, look = True, look + int(questions.histories.lengths.max(initial=0))
    # what is pinned may be far behind in the list, so each pin has one of its own
    found = [make(questions, look, with_seen)]
    found += [
        make(among_chosen(questions, columns.choose(pin.where)), pin.place, with_seen)
        for pin in rules.pinned(now)
    ]
    may = _may_be_listed(questions, rules, columns, now, keep_seen)
    index = np.zeros((questions.num_users, k), np.int32)
    scores = np.full(index.shape, -np.inf, np.float32)
    reasons: list[str] = []
    for row in range(questions.num_users):
        items, own = merged([(part[row], values[row]) for part, values in found])
        stays = may(row, items)
        items, own = items[stays], own[stays]
        ordered = rules.order(items, own, k, columns=columns, now=now, vectors=vectors)
        size = len(ordered.places)
        index[row, :size], scores[row, :size] = items[ordered.places], ordered.scores
        reasons += ordered.reasons
    return index, scores, reasons


def _may_be_listed(questions, rules, columns, now, keep_seen):
    """Function of a row and item indices: which of them the user's past leaves in, bool `(n,)`."""
    histories = questions.histories
    # without any purchase the log says of no event what it was: all count as such
    says_purchase = bool((histories.events == _PURCHASE).any())

    def may(row, items):
        begin, end = histories.offsets[row], histories.offsets[row + 1]
        past = Past(*(part[begin:end] for part in (histories.items, histories.timestamps,
                                                   histories.events)))  # fmt: skip
        out = np.zeros(len(items), bool)
        if rules.pause:
            newest = int(past.times.max(initial=0))
            moment = newest + int(questions.waited[row]) if newest else now
            out |= rules.paused(items, past, columns=columns, moment=moment)
        if rules.keep_purchased is not None:
            bought = past.items[past.events == _PURCHASE] if says_purchase else past.items
            is_bought = np.isin(items, bought)
            out |= is_bought & ~rules.is_kept(items, columns)
            if not keep_seen:
                out |= np.isin(items, past.items) & ~is_bought
        return ~out

    return may


def merged(lists: list[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """One list of several, the first with what is new in the others behind it; no index 0."""
    index = np.concatenate([np.asarray(part) for part, _ in lists])
    scores = np.concatenate([np.asarray(values) for _, values in lists])
    _, first = np.unique(index, return_index=True)
    places = np.sort(first[index[first] > 0])
    return index[places], scores[places]
