"""Fits baselines: popularity, recent popularity, sequential item-kNN, TF-IDF of texts.

Each `fit_<name>(histories, num_items, *, options)` learns from training histories and returns a
scorer: a callable `Histories -> float32, (num_users, num_items + 1)`, column 0 is padding.
`recommend_top_k` turns a scorer into a recommendation table. Every scorer adds a little
popularity, far below its own differences. Popularity orders the items that the method cannot rank,
and all items of a user without a history.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from kerasrec.data.histories import Histories
from kerasrec.evaluation.toplists import ScoreFunction, recommend_top_k
from kerasrec.fusion.neighbours import (
    history_weights,
    nearest_by_cosine,
    normalise_counts,
    sequential_counts,
)

__all__ = [
    "BASELINES",
    "fit_item_knn",
    "fit_popularity",
    "fit_recent_popularity",
    "fit_tfidf_text",
    "recommend_top_k",
]

log = logging.getLogger(__name__)

_POPULARITY_SHARE = 1e-6  # of a row's best score: only orders what is otherwise equal
#: n-grams in more texts than both of these say nothing and cost most of the time
_COMMON_TEXTS, _COMMON_SHARE = 500, 0.05


def fit_popularity(histories: Histories, num_items: int) -> ScoreFunction:
    """Ranks items by their number of events: the same list for everyone.

    Args:
        histories: `Histories` of the training events; events of weight 0 or less do not count.
        num_items: size of the catalogue.

    Returns:
        A scorer; its scores are events per item.

    >>> from kerasrec.data.histories import Histories
    >>> h = Histories(np.array(["u"], object), np.array([0, 3]), np.array([2, 1, 2]),
    ...               np.zeros(3), np.zeros(3), np.ones(3))
    >>> fit_popularity(h, 3)(h).tolist()
    [[0.0, 1.0, 2.0, 0.0]]
    """
    return _same_for_all(_popularity(histories, num_items))


def fit_recent_popularity(
    histories: Histories,
    num_items: int,
    *,
    half_life: float | None = None,
    window: float | None = None,
    now: float | None = None,
) -> ScoreFunction:
    """Ranks items by recent events: the weight of an event halves every `half_life` seconds.

    Args:
        histories: `Histories` of the training events. Without times it is plain popularity, and
            the log says so.
        num_items: size of the catalogue.
        half_life: seconds; None means 1/20 of the time that the events span.
        window: seconds; events older than `now - window` do not count at all. With a window and
            no half_life, all events in it count alike.
        now: UTC seconds; None means the last training event. Later events do not count.

    Returns:
        A scorer; its scores are decayed events per item, the best item scaled to 1.

    Raises:
        ValueError: half_life or window is not above 0.

    >>> from kerasrec.data.histories import Histories
    >>> h = Histories(np.array(["u"], object), np.array([0, 3]), np.array([2, 2, 1]),
    ...               np.array([80, 80, 100]), np.zeros(3), np.ones(3))
    >>> fit_recent_popularity(h, 2, half_life=10)(h).round(4).tolist()
    [[0.0, 1.0, 0.5]]
    """
    for name, seconds in (("half_life", half_life), ("window", window)):
        if seconds is not None and not seconds > 0:
            raise ValueError(f"{name} must be above 0 seconds. Received: {seconds}. Raise it.")
    times = np.asarray(histories.timestamps, np.int64)
    known = times > 0
    if not known.any():
        log.info("no times in the training events: recent popularity is plain popularity")
        return fit_popularity(histories, num_items)
    now = times.max() if now is None else now
    age = now - times
    weight = np.where(known & (age >= 0), 1.0, 0.0)
    if window is not None:
        weight[age > window] = 0
    if half_life is None and window is None:
        half_life = max(now - times[known].min(), 1) / 20
    if half_life is not None:
        weight *= np.exp2(-np.maximum(age, 0) / half_life)
    popularity = np.bincount(
        histories.items, weights=weight * (histories.values > 0), minlength=num_items + 1
    )
    all_time = _popularity(histories, num_items)
    return _same_for_all(_with_popularity(popularity[None], all_time)[0])


def fit_item_knn(
    histories: Histories,
    num_items: int,
    *,
    distance_decay: float = 0.9,
    backward: float = 0.5,
    source_power: float = 0.5,
    target_power: float = 0.25,
    recency: float = 0.45,
    max_distance: int = 10,
) -> ScoreFunction:
    """Ranks items that follow the user's newest items in other histories: sequential item-kNN.

    For every ordered pair of items i, j at distance d <= max_distance in one history,
    `C[i, j] += d ** -distance_decay` and `C[j, i] += backward * d ** -distance_decay`. Then
    `score(u, j) = sum over i of recency ** age(i) * C[i, j] / (n_i ** source_power * n_j **
    target_power)`, where n counts an item's events and age is 0 for the user's newest event.

    Args:
        histories: `Histories` of the training events; events of weight 0 or less do not count.
        num_items: size of the catalogue.
        distance_decay: how fast a pair counts less with its distance; 0 counts all alike.
        backward: weight of "j came before i"; 0 looks forward only, 1 ignores the order.
        source_power: how far items with many events are damped as a reason.
        target_power: how far items with many events are damped as a recommendation.
        recency: weight of an event relative to the one after it, 0..1.
        max_distance: events further apart are no pair.

    Returns:
        A scorer.

    >>> from kerasrec.data.histories import Histories
    >>> def rows(*lists):
    ...     items = np.concatenate(lists).astype(int)
    ...     ends = np.cumsum([0] + [len(row) for row in lists])
    ...     return Histories(np.arange(len(lists)).astype(object), ends, items,
    ...                      np.zeros(len(items)), np.zeros(len(items)), np.ones(len(items)))
    >>> score = fit_item_knn(rows([1, 2], [1, 2], [3, 1]), 3)
    >>> int(score(rows([1])).argmax()), int(score(rows([])).argmax())
    (2, 1)
    """
    histories = histories.where(histories.chosen)
    popularity = _popularity(histories, num_items)
    counts = sequential_counts(
        histories,
        num_items,
        distance_decay=distance_decay,
        backward=backward,
        max_distance=max_distance,
    )
    neighbours = normalise_counts(
        counts, popularity, source_power=source_power, target_power=target_power
    )
    return _weighted_history(neighbours, popularity, recency)


def fit_tfidf_text(
    histories: Histories,
    num_items: int,
    *,
    texts: Sequence[str],
    recency: float = 0.8,
    num_neighbours: int = 500,
) -> ScoreFunction:
    """Ranks items by texts like those of the newest items: cosine of character 1-3-gram TF-IDF.

    Args:
        histories: `Histories` of the training events, for the popularity only.
        num_items: size of the catalogue.
        texts: one str per item, `(num_items,)`; an item with an empty text is like no other.
        recency: weight of an event relative to the one after it, 0..1.
        num_neighbours: most similar items kept per item; bounds time and memory.

    Returns:
        A scorer.

    Raises:
        ValueError: the number of texts is not num_items, or all are empty.

    >>> from kerasrec.data.histories import Histories
    >>> none, one = np.zeros(1), np.ones(1)  # no time and no event type, weight 1
    >>> h = Histories(np.array(["u"], object), np.array([0, 1]), np.array([1]), none, none, one)
    >>> score = fit_tfidf_text(h, 3, texts=["机器学习", "中国历史", "深度学习"])
    >>> int(score(h)[0, 2:].argmax()) + 2
    3
    """
    if len(texts) != num_items:
        raise ValueError(
            f"texts needs one text per item ({num_items}). Received: {len(texts)}. Use "
            "items.texts()."
        )
    if not any(text.strip() for text in texts):
        raise ValueError("texts needs some text. Received: only empty ones. Choose other columns.")
    grams = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, norm=None)
    vectors = sparse.csc_array(grams.fit_transform(texts))  # (num_items, num_grams)
    rare = np.diff(vectors.indptr) <= max(_COMMON_TEXTS, _COMMON_SHARE * num_items)
    vectors = normalize(vectors[:, rare].astype(np.float32))
    neighbours = nearest_by_cosine(vectors.tocsr(), num_neighbours, rows_at_once=512)
    neighbours.eliminate_zeros()
    return _weighted_history(neighbours, _popularity(histories, num_items), recency)


def _popularity(histories, num_items):
    """Chosen events per item index, float, `(num_items + 1,)`; 0 for the padding."""
    return np.bincount(histories.items[histories.chosen], minlength=num_items + 1).astype(float)


def _same_for_all(scores):
    scores = scores.astype(np.float32)
    return lambda histories: np.tile(scores, (histories.num_users, 1))


def _with_popularity(scores, popularity):
    """Rows scaled to a best score of 1, plus a little popularity."""
    best = scores.max(axis=1, keepdims=True)
    best[best <= 0] = 1
    return scores / best + _POPULARITY_SHARE * popularity / max(popularity.max(), 1)


def _weighted_history(neighbours, popularity, recency):
    """Scorer: the neighbours of the history's items, each weighted by `recency ** age`.

    Args:
        neighbours: sparse float32, `(num_items + 1, num_items + 1)`, from a row's item to others.
        popularity: `(num_items + 1,)`.
        recency: weight of an event relative to the one after it.
    """
    if not 0 <= recency <= 1:
        raise ValueError(f"recency must be in 0..1. Received: {recency}. Try 0.7.")

    def score(histories):
        history = history_weights(histories.where(histories.chosen), neighbours.shape[0], recency)
        scores = (history @ neighbours).toarray()  # (num_users, num_items + 1)
        return _with_popularity(scores, popularity).astype(np.float32)

    return score


#: name -> function; `tfidf_text` needs the texts
BASELINES: dict[str, Callable[..., ScoreFunction]] = {
    "popularity": fit_popularity,
    "recent_popularity": fit_recent_popularity,
    "item_knn": fit_item_knn,
    "tfidf_text": fit_tfidf_text,
}
