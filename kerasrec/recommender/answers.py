"""Answers of a loaded version to many questions: cut into batches, each by one call of the graph.

The sizes here bound memory and time. They change no answer.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from kerasrec.checks import Pace
from kerasrec.data.histories import Histories
from kerasrec.data.relations.order import Order
from kerasrec.evaluation.toplists import top_k
from kerasrec.features.itemcolumns import Chosen
from kerasrec.recommender.questions import Questions, history_tensors
from kerasrec.recommender.shortlist import LONGEST, ROWS_AT_ONCE, Shortlist
from kerasrec.versions.loaded import LoadedVersion

log = logging.getLogger(__name__)
#: numbers (scores, item indices of histories and rules) that one call holds at most: 256 MB
MAX_CELLS = 2**26
#: scores of one call for lists, about: what is computed per user and item then stays in the
#: processor's cache
CACHED_CELLS = 2**20
#: users of a call at least, however many items there are: in smaller calls the call itself takes
#: most of the time
FEWEST_ROWS = 32
#: users of a call at most, where nobody says otherwise
MOST_ROWS = 512
#: denied items with which a shortlist still answers
MOST_DENIED = 1000
#: calls for lists at the same time: some operations use one core only, and meanwhile the other
#: call has the rest
CALLS_AT_ONCE = 2


def make_lists(
    loaded: LoadedVersion,
    questions: Questions,
    *,
    k: int,
    keep_seen: bool = False,
    batch_size: int = MOST_ROWS,
    shortlist: Shortlist | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Best items for each question.

    Args:
        loaded: `LoadedVersion`.
        questions: `Questions`.
        k: length of the lists.
        keep_seen: whether items of a history may be listed.
        batch_size: questions of a call at most.
        shortlist: where one is given, it answers the questions that it can: without an allow list
            or a long deny list. So a list under a condition is exact.

    Returns:
        Item index int32 and score float32, `(num_users, min(k, num_items + 1))`; index 0 = none.
    """
    columns = loaded.num_items + 1
    at_once = max(CACHED_CELLS // columns, FEWEST_ROWS)
    fixed = columns + len(questions.allow) + len(questions.deny)
    is_filtered = len(questions.allow) > 0 or len(questions.deny) > MOST_DENIED
    is_grouped = questions.members is not None  # what groups like may be far from the nearest
    if shortlist is not None and (k > LONGEST or is_filtered or is_grouped):
        shortlist = None  # among few items, the nearest of all say little
    if shortlist is not None:
        at_once, fixed = ROWS_AT_ONCE, 1024 * loaded.dim

    def exact(part):
        return loaded.recommend(
            part.inputs(),
            part.allow,
            part.deny,
            part.times,
            part.waited,
            k=k,
            keep_seen=keep_seen,
            members=part.members,
        )

    def answer(rows):
        part = questions.select(rows)
        if shortlist is None:
            return exact(part)
        given = dict(k=k, keep_seen=keep_seen, deny=part.deny)
        enough, index, scores = shortlist.lists(part.inputs(), part.times, part.waited, **given)
        rest = np.flatnonzero(~enough)
        if len(rest):
            index[rest], scores[rest] = exact(part.select(rest))
        return index, scores

    index = np.zeros((questions.num_users, min(k, columns)), np.int32)
    scores = np.zeros(index.shape, np.float32)
    lengths = questions.histories.lengths
    batches = list(make_batches(lengths, min(batch_size, at_once), fixed))
    pace = Pace(log)
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        for number, found in enumerate(pool.map(answer, batches), start=1):
            index[batches[number - 1]], scores[batches[number - 1]] = found
            pace.say("lists: batch %d of %d", number, len(batches))
    return index, scores


def make_interests(
    loaded: LoadedVersion, histories: Histories, *, batch_size: int = MOST_ROWS
) -> np.ndarray:
    """U of each history, float32 `(num_users, dim)`."""
    interests = np.zeros((histories.num_users, loaded.dim), np.float32)
    for rows in make_batches(histories.lengths, batch_size, loaded.dim):
        interests[rows] = loaded.interests(history_tensors(histories.select(rows)))
    return interests


def make_similar(
    loaded: LoadedVersion, index: np.ndarray, k: int, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Items nearest to items by cosine, without these themselves.

    Args:
        loaded: `LoadedVersion`.
        index: int32 `(n,)`, item indices.
        k: length of the lists.
        mask: bool `(num_items,)`, the items that may be listed; None = all.

    Returns:
        Item index int32 and cosine float32, `(n, min(k, num_items + 1))`; index 0 = none.
    """
    columns, vectors = loaded.num_items + 1, loaded.vectors_at(index)
    if mask is not None:
        return _similar_among(loaded, index, vectors, k, np.flatnonzero(mask) + 1)
    found = np.zeros((len(index), min(k, columns)), np.int32)
    scores = np.zeros(found.shape, np.float32)
    for rows in make_batches(np.zeros(len(index), int), MOST_ROWS, columns):
        found[rows], scores[rows] = loaded.similar(vectors[rows], index[rows, None], k)
    return found, scores


def _similar_among(loaded, index, vectors, k, among):
    """The nearest of a few items; `among` holds their indices, ascending."""
    among = np.setdiff1d(among, loaded.withdrawn()).astype(np.int32)
    found = np.zeros((len(index), min(k, len(among))), np.int32)
    scores = np.full(found.shape, -np.inf, np.float32)
    if not len(among):
        return found, scores
    places, items = np.concatenate([[0], among]), unit(loaded.vectors_at(among)).T
    vectors = unit(vectors)
    for rows in make_batches(np.zeros(len(index), int), MOST_ROWS, len(places)):
        cosine = np.pad(vectors[rows] @ items, [(0, 0), (1, 0)])  # as `top_k` takes it
        cosine[places == index[rows, None]] = -np.inf
        cosine[~vectors[rows].any(axis=1)] = -np.inf  # an item without a vector is near to none
        best, scores[rows] = top_k(cosine, k)
        found[rows] = places[best]
    return found, scores


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors `(n, dim)` of unit length; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def list_table(
    ids: np.ndarray, asked_for: Sequence[Any], index: np.ndarray, scores: np.ndarray, *, of: str
) -> pd.DataFrame:
    """Long table of lists `(n, k)`: `item_id, rank, score` behind a column of who asked.

    Args:
        ids: object `(num_items + 1,)`, the id of each item index.
        asked_for: user or query of each list.
        index, scores: of the lists; index 0 = no item.
        of: name of the first column.
    """
    row, column = np.nonzero(index)
    return pd.DataFrame(
        {
            of: np.asarray(asked_for, object)[row],
            "item_id": ids[index[row, column]],
            "rank": column + 1,
            "score": scores[row, column],
        }
    )


def plan_table(
    ids: np.ndarray, users: Sequence[Any], index: np.ndarray, logs: np.ndarray
) -> pd.DataFrame:
    """Long table of plans `(num_users, num_lists, num_items)`; see `Recommender.generate`."""
    row, number, place = np.nonzero(index)
    return pd.DataFrame(
        {
            "user_id": np.asarray(users, object)[row],
            "list": number + 1,
            "rank": place + 1,
            "item_id": ids[index[row, number, place]],
            "log_probability": logs[row, number, place],
        }
    )


def say_what_is_missing(
    table: pd.DataFrame, ids: np.ndarray, histories: Histories, index: np.ndarray, order: Order
) -> pd.DataFrame:
    """The table of plans with a column `missing`: what each step lacks of all that it needs.

    Args:
        table: of `plan_table`, of `ids` and `index`.
        histories: of the users, whose items count as known.
        order: `Order`.
    """
    found = []
    for row, plans in enumerate(index):
        known = set(histories.items[histories.offsets[row] : histories.offsets[row + 1]].tolist())
        for plan in plans:
            found += ["|".join(ids[list(one)]) for one in order.missing(known, plan[plan > 0])]
    table["missing"] = np.array(found, object)
    table.attrs["violations"] = int((table["missing"] != "").sum())
    return table


def say_who_got_popular(
    table: pd.DataFrame, questions: Questions, chosen: Chosen | None = None
) -> pd.DataFrame:
    """The table; its `attrs` say which users have no known item and so got popular items.

    And, of a condition, how many items meet it.
    """
    histories = questions.histories
    popular = histories.user_ids[histories.lengths == 0]
    if len(popular):
        log.info("%d users without a known item get popular items", len(popular))
    table.attrs["popular_for"] = list(popular)
    if chosen is not None:
        table.attrs["chosen"] = chosen.number
        log.info("%d of %d items meet the condition", chosen.number, len(chosen.mask))
    return table


def make_batches(lengths: np.ndarray, batch_size: int, fixed: int) -> Iterator[np.ndarray]:
    """Cut rows into batches of at most `MAX_CELLS` numbers, histories of similar length together.

    Args:
        lengths: events of each row.
        batch_size: rows of a batch at most.
        fixed: numbers that a row needs besides its events.

    Yields:
        Arrays of row numbers; every row is in one of them.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1. Received: {batch_size!r}.")
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = order[start : start + batch_size]
        while len(rows) > 1 and len(rows) * (lengths[rows[-1]] + fixed) > MAX_CELLS:
            rows = rows[: len(rows) // 2]
        yield rows
        start += len(rows)
