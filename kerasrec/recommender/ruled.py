"""Lists under the rules of a shop: a longer list of each question, ordered anew."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kerasrec.features.itemcolumns import ItemColumns
from kerasrec.features.shoprules import ShopRules
from kerasrec.recommender.questions import Questions, among_chosen

#: lists of questions, of a length: item index and score `(num_users, k)`; index 0 = none
MakeLists = Callable[[Questions, int], tuple[np.ndarray, np.ndarray]]


def ruled_lists(
    make: MakeLists,
    questions: Questions,
    rules: ShopRules,
    k: int,
    *,
    columns: ItemColumns,
    vectors: Callable[[np.ndarray], np.ndarray],
    now: float | None = None,
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

    Returns:
        Item index int32 and score float32, `(num_users, k)`, index 0 = none; and for every item
        that is listed what the rules did, row by row.
    """
    rules.check(columns)
    now = time.time() if now is None else now
    # what is pinned may be far behind in the list, so each pin has one of its own
    found = [make(questions, max(k, rules.look))]
    found += [
        make(among_chosen(questions, columns.choose(pin.where)), pin.place)
        for pin in rules.pinned(now)
    ]
    index = np.zeros((questions.num_users, k), np.int32)
    scores = np.full(index.shape, -np.inf, np.float32)
    reasons: list[str] = []
    for row in range(questions.num_users):
        items, own = merged([(part[row], values[row]) for part, values in found])
        ordered = rules.order(items, own, k, columns=columns, now=now, vectors=vectors)
        size = len(ordered.places)
        index[row, :size], scores[row, :size] = items[ordered.places], ordered.scores
        reasons += ordered.reasons
    return index, scores, reasons


def merged(lists: list[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """One list of several, the first with what is new in the others behind it; no index 0."""
    index = np.concatenate([np.asarray(part) for part, _ in lists])
    scores = np.concatenate([np.asarray(values) for _, values in lists])
    _, first = np.unique(index, return_index=True)
    places = np.sort(first[index[first] > 0])
    return index[places], scores[places]
