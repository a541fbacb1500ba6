"""Makes recommendation tables from scores.

A recommendation table is long: `user_id, item_id, rank, score`, rank from 1. Item index 0 is
padding: score matrices have `num_items + 1` columns and column 0 is never listed.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from kerasrec.data.histories import Histories
from kerasrec.data.interactions import Items

#: gives the scores of users, `(num_users, num_items + 1)`, column 0 is padding, higher is better
ScoreFunction: TypeAlias = Callable[[Histories], Any]


def top_k(scores: ArrayLike, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the best `k` items of every row: score descending, equal scores by item index.

    Args:
        scores: float, `(batch, num_items + 1)`, compared as float32; -inf = may not be listed.
        k: list length; at most num_items are returned.

    Returns:
        int64 item index and float32 score, both `(batch, min(k, num_items))`; a row with fewer
        items that may be listed ends in index 0, score -inf.

    Raises:
        ValueError: a score is NaN, or k is below 1.

    >>> top_k([[9, .5, .7, .5]], 2)
    (array([[2, 1]]), array([[0.7, 0.5]], dtype=float32))
    """
    scores = np.asarray(scores, np.float32)[:, 1:]
    num_items = scores.shape[1]
    if k < 1:
        raise ValueError(f"k must be at least 1. Received: {k}. Ask for one item or more.")
    if np.isnan(scores).any():
        raise ValueError(
            f"Scores must be numbers. Received: NaN in {np.isnan(scores).any(1).sum()} of "
            f"{len(scores)} rows. Look for NaN in the model's weights or inputs."
        )
    # the k-th best score of a row is the bar: at least k items reach it, more where scores tie
    k = min(k, num_items)
    worst = np.partition(scores, num_items - k, axis=1)[:, num_items - k]  # (batch,)
    listed = (scores >= worst[:, None]) & (scores > -np.inf)
    # only the listed cells are sorted, by row and falling score
    row, column = np.nonzero(listed)
    order = np.lexsort((-scores[row, column], row))  # stable: equal scores keep the item order
    row, column = row[order], column[order]
    # the place of a cell in its row, from 0; what ties beyond the k-th place is cut off
    place = np.arange(len(row)) - np.searchsorted(row, row)
    row, column, place = row[place < k], column[place < k], place[place < k]
    # back into rows; the padding column was cut off above, so columns are one behind
    index = np.zeros((len(scores), k), np.int64)
    best = np.full((len(scores), k), -np.inf, np.float32)
    index[row, place] = column + 1
    best[row, place] = scores[row, column]
    return index, best


def recommend_top_k(
    score: ScoreFunction,
    histories: Histories,
    items: Items | Sequence[str] | np.ndarray,
    *,
    k: int,
    keep_seen: bool = False,
    batch_size: int = 1024,
) -> pd.DataFrame:
    """Makes the recommendation table of all users of `histories`, in their order.

    Args:
        score: callable `Histories -> float, (num_users, num_items + 1)`, higher is better.
        histories: `Histories`; a user may have an empty one.
        items: `Items`, or their ids, `(num_items,)`.
        k: list length; lists are shorter when fewer items may be listed.
        keep_seen: True lists items that the history holds as well.
        batch_size: users scored at once.

    Returns:
        DataFrame `user_id`, `item_id` (pandas categories), `rank` (int32, from 1), `score`.

    Raises:
        ValueError: a score is NaN, the scores have the wrong shape, or k is below 1.

    >>> from kerasrec.data.histories import Histories
    >>> h = Histories(np.array(["u"], object), np.array([0, 1]), np.array([1]), *[np.zeros(1)] * 3)
    >>> recommend_top_k(lambda rows: [[0, .9, .8, .1]], h, ["a", "b", "c"], k=5)
      user_id item_id  rank  score
    0       u       b     1    0.8
    1       u       c     2    0.1
    """
    ids = np.asarray(getattr(items, "ids", items), object)
    parts = []
    for start in range(0, histories.num_users, batch_size):
        rows = histories.select(np.arange(start, min(start + batch_size, histories.num_users)))
        scores = np.array(score(rows), np.float32)
        if scores.shape != (rows.num_users, len(ids) + 1):
            raise ValueError(
                f"A scorer must return {(rows.num_users, len(ids) + 1)} scores (users, items + 1). "
                f"Received: {scores.shape}. Column 0 is padding, item r is column r + 1."
            )
        if not keep_seen:
            scores[np.repeat(np.arange(rows.num_users), rows.lengths), rows.items] = -np.inf
        index, values = top_k(scores, k)
        user, rank = np.nonzero(~np.isneginf(values))  # rank from 0
        parts.append((user + start, index[user, rank] - 1, rank + 1, values[user, rank]))
    empty = [(np.zeros(0, np.int64),) * 3 + (np.zeros(0, np.float32),)]
    columns = zip(*(parts or empty), strict=True)
    user, item, rank, values = (np.concatenate(column) for column in columns)
    return pd.DataFrame(
        {
            "user_id": pd.Categorical.from_codes(user, histories.user_ids),
            "item_id": pd.Categorical.from_codes(item, ids),
            "rank": rank.astype(np.int32),
            "score": values,
        }
    )
