"""Measures recommendation tables: full-ranking metrics, single targets, a paired bootstrap.

The rules are those of the project's yardstick (`score.py`): every test user counts, one without
a list is a miss; an item that repeats in a list, or that the user has in `train`, keeps its
place and is never relevant; lists of users outside the test set are ignored.

| metric | meaning |
| --- | --- |
| recall@k | hits / number of relevant items (one relevant item: the same as the hit rate) |
| hr@k | 1 if any relevant item is in the first k |
| ndcg@k | binary gain, log2 discount, the ideal list has min(k, relevant) hits |
| mrr@k | 1 / place of the first hit within k, else 0 |
| map@k | sum of the precision at each hit within k / number of relevant items |
| coverage@k | different catalogue items in the first k of all lists / catalogue |
| novelty@k | mean of -log2((train events + 1) / (train users + 1)) of the recommended items |
| popularity@k | mean number of train events of the recommended items |
| gini@k | Gini index of how often each catalogue item is listed (0: all alike) |
| diversity@k | 1 - mean pairwise cosine of the vectors (or share of equal categories) in a list |
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse

from kerasrec.data.interactions import Interactions, Items
from kerasrec.evaluation.encodedlists import encode_lists
from kerasrec.fusion.gains import discount, ideal_gains

log = logging.getLogger(__name__)

#: in the order of the tables; the first five are means over all test users
METRICS = "recall hr ndcg mrr map coverage novelty popularity gini diversity".split()
_USERS_AT_ONCE = 50_000  # bounds the memory of the diversity


@dataclass(frozen=True)
class Scores:
    """Holds what `score_recommendations` found.

    Attributes:
        per_user: one row per test user (index `user_id`), a column per metric of one user
            (`recall@10`); NaN where a list is missing or too short for the metric.
        per_target: one row per test pair: `user_id`, `item_id`, `place` in the list (NaN = not
            found within the largest k) and `train_count`, the item's train events.
        values: metric name (`ndcg@10`) -> mean.
        errors: the same names -> standard error of the mean; NaN where one does not exist.
        counts: users, lists, and what was odd about them (missing, repeated, seen, unknown).
    """

    per_user: pd.DataFrame
    per_target: pd.DataFrame
    values: dict
    errors: dict
    counts: dict

    def table(self) -> pd.DataFrame:
        """Gives a tidy DataFrame `metric, k, value, se`, one row per figure."""
        names = [name.split("@") for name in self.values]
        return pd.DataFrame(
            {
                "metric": [metric for metric, _ in names],
                "k": [int(k) for _, k in names],
                "value": list(self.values.values()),
                "se": [self.errors[name] for name in self.values],
            }
        )


def score_recommendations(
    recs: pd.DataFrame,
    test: Interactions | pd.DataFrame,
    *,
    train: Interactions | pd.DataFrame | None = None,
    ks: Iterable[int] = (5, 10, 20),
    catalogue: Items | Sequence[str] | np.ndarray | None = None,
    vectors: np.ndarray | None = None,
    categories: ArrayLike | None = None,
) -> Scores:
    """Compares recommendation lists with what the users did next.

    Args:
        recs: table `user_id, item_id, rank` (1 = best) or `user_id, item_id, score` (high = best;
            ties keep the order of the rows); rank wins when both are there. May be empty.
        test: table `user_id, item_id`, or `Interactions`; several items of a user are one set.
        train: table `user_id, item_id`, or `Interactions`: what was known before (may be None).
        ks: list lengths to judge.
        catalogue: all item ids, or `Items`; else every item of `train`, `test` and `recs`.
        vectors: float, `(num_items, dim)`, rows in the order of `catalogue`; gives the diversity.
            Items outside the catalogue or with a zero vector are left out of it.
        categories: a label per catalogue item; the diversity when there are no vectors.

    Returns:
        `Scores`. With one test user every standard error is 0.

    Raises:
        ValueError: a column is missing, an id, rank or score is missing (NaN), `test` is empty,
            or vectors and catalogue differ in length.

    >>> recs = pd.DataFrame({"user_id": list("aab"), "item_id": list("xyx"), "rank": [1, 2, 1]})
    >>> test = pd.DataFrame({"user_id": ["a", "b"], "item_id": ["y", "z"]})
    >>> scores = score_recommendations(recs, test, ks=[2])
    >>> scores.values["hr@2"], round(scores.values["ndcg@2"], 3)
    (0.5, 0.315)
    """
    ks = _checked_ks(ks)
    data = encode_lists(recs, test, train, catalogue)
    lists, counts = _cut_lists(data, max(ks))
    count = np.bincount(data.train_item, minlength=len(data.item_names))
    rarity = -np.log2((count + 1) / (data.num_train_users + 1))
    columns, figures = {}, {}  # name -> value per user; name -> one value
    unit = None
    if vectors is not None or categories is not None:
        unit = _unit_vectors(
            vectors, categories, data.num_catalogue if catalogue is not None else 0
        )
    for k in ks:
        for name, values in _accuracy(lists, data, k).items():
            columns[f"{name}@{k}"] = values
            figures[f"{name}@{k}"] = values.mean()
        for name, of_item in (("novelty", rarity), ("popularity", count)):
            sums, listed = _sums(lists, of_item, k)
            columns[f"{name}@{k}"] = _of_users(sums / listed, lists, data)
            figures[f"{name}@{k}"] = sums.sum() / max(listed.sum(), 1)  # mean over items
        if unit is not None:
            values = _of_users(_diversity(lists, unit, k), lists, data)
            columns[f"diversity@{k}"] = values
            figures[f"diversity@{k}"] = mean_and_error(values[~np.isnan(values)])[0]
        exposure = np.bincount(lists.item[lists.place <= k], minlength=data.num_catalogue)
        exposure = exposure[: data.num_catalogue]
        figures[f"coverage@{k}"] = (exposure > 0).sum() / max(len(exposure), 1)
        figures[f"gini@{k}"] = gini(exposure)
    names = [f"{metric}@{k}" for metric in METRICS for k in ks if f"{metric}@{k}" in figures]
    per_user = pd.DataFrame(columns, index=pd.Index(data.user_names, name="user_id"))
    per_user = per_user[[name for name in names if name in columns]]
    errors = {name: mean_and_error(values.dropna())[1] for name, values in per_user.items()}
    return Scores(
        per_user,
        _per_target(lists, data, count),
        {name: float(figures[name]) for name in names},
        {name: errors.get(name, float("nan")) for name in names},
        counts,
    )


def mean_and_error(values: ArrayLike) -> tuple[float, float]:
    """Computes mean and standard error of a 1-d array.

    Both are 0 for an empty array; the error is 0 for a single value.

    >>> mean_and_error([1.0, 0.0, 1.0, 0.0])
    (0.5, 0.288...)
    """
    values = np.asarray(values, float)
    if not len(values):
        return 0.0, 0.0
    spread = values.std(ddof=min(1, len(values) - 1))
    return float(values.mean()), float(spread / len(values) ** 0.5)


def gini(counts: ArrayLike) -> float:
    """Computes the Gini index of non-negative counts: 0 when all are equal (or nothing is counted).

    >>> gini([3, 3, 3]), round(gini([0, 0, 0, 4]), 2)
    (0.0, 0.75)
    """
    counts = np.sort(np.asarray(counts, float))
    if not counts.sum():
        return 0.0
    weight = 2 * np.arange(1, len(counts) + 1) - len(counts) - 1
    return float((weight * counts).sum() / (len(counts) * counts.sum()))


def ndcg_from_ranks(ranks: ArrayLike, k: int) -> np.ndarray:
    """Computes NDCG@k of rows with one target each: `1 / log2(rank + 1)`, 0 beyond k.

    >>> ndcg_from_ranks(np.array([1, 3, 11]), 10).tolist()
    [1.0, 0.5, 0.0]
    """
    ranks = np.asarray(ranks)
    return np.where(ranks <= k, 1 / discount(ranks), 0.0)


def recall_from_ranks(ranks: ArrayLike, k: int) -> np.ndarray:
    """Computes recall@k (= hit rate) of rows with one target each: 1.0 or 0.0.

    >>> recall_from_ranks([1, 11], 10).tolist()
    [1.0, 0.0]
    """
    return (np.asarray(ranks) <= k).astype(float)


class Comparison(NamedTuple):
    """Holds the mean difference a - b, its 95 % interval, and the p value of "no difference"."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    per_user_a: ArrayLike, per_user_b: ArrayLike, *, samples: int = 2000, seed: int = 0
) -> Comparison:
    """Tests whether model a is better than model b: resamples the users of both together.

    Args:
        per_user_a: one metric of each user: a Series indexed by user, or an array.
        per_user_b: the same users; a Series is put in the order of `per_user_a`.
        samples: how many times the users are drawn anew.
        seed: the same seed gives the same result.

    Returns:
        `Comparison`; the smallest p value is `2 / (samples + 1)`.

    Raises:
        ValueError: the two do not have the same users, there are none, or a value is NaN.

    >>> paired_bootstrap([1, 1, 1, 0], [0, 0, 0, 0]).difference
    0.75
    """
    if isinstance(per_user_a, pd.Series) and isinstance(per_user_b, pd.Series):
        if len(per_user_a) == len(per_user_b):
            per_user_b = per_user_b.reindex(per_user_a.index)
    a, b = np.asarray(per_user_a, float), np.asarray(per_user_b, float)
    if a.shape != b.shape or not len(a) or np.isnan(a).any() or np.isnan(b).any():
        raise ValueError(
            "A paired comparison needs one number per user from both models for the same users. "
            f"Received: {len(a)} and {len(b)} values, {int(np.isnan(a).sum())} and "
            f"{int(np.isnan(b).sum())} of them missing. Score both models on the same test set."
        )
    # Only how often each different value is drawn matters: one multinomial draw per sample.
    values, counts = np.unique(a - b, return_counts=True)
    rng = np.random.default_rng(seed)
    rows = max(1, 5_000_000 // len(values))
    means = np.concatenate(
        [
            rng.multinomial(len(a), counts / len(a), size=min(rows, samples - start)) @ values
            for start in range(0, samples, rows)
        ]
    ) / len(a)
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min((means <= 0).sum(), (means >= 0).sum()) + 1
    p_value = min(1.0, 2 * tail / (samples + 1))
    return Comparison(float((a - b).mean()), float(low), float(high), float(p_value))


# --- the steps of score_recommendations ---


class _Lists(NamedTuple):
    """The rows within the largest k, sorted by user and place, and the hits among them."""

    users: np.ndarray  # user of each list
    starts: np.ndarray  # first row of each list
    lengths: np.ndarray
    item: np.ndarray  # of each row
    place: np.ndarray
    hit_user: np.ndarray  # of each hit
    hit_place: np.ndarray
    hit_target: np.ndarray  # number of the test pair


def _checked_ks(ks):
    ks = sorted({int(k) for k in np.atleast_1d(ks)})
    if not ks or ks[0] < 1:
        raise ValueError(f"ks must be list lengths from 1 on. Received: {ks}. Try ks=(5, 10, 20).")
    return ks


def _cut_lists(data, longest):
    """`_Lists`, and the counts of what was odd."""
    starts = np.flatnonzero(data.list_place == 1)
    lengths = np.diff(starts, append=len(data.list_place))
    within = np.flatnonzero(data.list_place <= longest)
    user, item, place = data.list_user[within], data.list_item[within], data.list_place[within]
    pair = data.pairs(user, item)
    repeated = _repeated(pair)
    of_test_users = data.train_user >= 0
    known = data.pairs(data.train_user[of_test_users], data.train_item[of_test_users])
    seen = pd.Series(pair).isin(known).to_numpy()
    test_pair = data.pairs(data.test_user, data.test_item)
    target = pd.Index(test_pair).get_indexer(pair)
    hit = np.flatnonzero((target >= 0) & ~repeated & ~seen)
    short = np.minimum(lengths, longest)
    lists = _Lists(
        data.list_user[starts],
        np.cumsum(short) - short,
        short,
        item,
        place,
        user[hit],
        place[hit],
        target[hit],
    )
    num_users = len(data.user_names)
    if not len(lengths):
        log.warning("none of the %d test users has a list: every metric is 0", num_users)
    return lists, {
        "users": num_users,
        "test_events": len(data.test_user),
        "test_events_known": int(pd.Series(test_pair).isin(known).sum()),
        "catalogue": data.num_catalogue,
        "users_scored": len(lengths),
        "users_missing": num_users - len(lengths),
        "users_not_in_test": data.users_not_in_test,
        f"users_with_fewer_than_{longest}": int((lengths < longest).sum()),
        "duplicates": int(repeated.sum()),
        "seen": int(seen.sum()),
        "unknown_items": int((item >= data.num_catalogue).sum()),
    }


def _repeated(pair):
    """True at every later occurrence of a value; the sort is quicker than the usual hash table."""
    ordered = np.sort(pair)
    if (ordered[1:] != ordered[:-1]).all():
        return np.zeros(len(pair), bool)
    return pd.Series(pair).duplicated().to_numpy()


def _accuracy(lists, data, k):
    """Accuracy columns of one k, each float `(num_users,)`."""
    size = len(data.user_names)
    targets = np.bincount(data.test_user, minlength=size)
    found = lists.hit_place <= k
    user, place = lists.hit_user[found], lists.hit_place[found]
    hits = np.bincount(user, minlength=size)
    gain = np.bincount(user, weights=1 / discount(place), minlength=size)
    first = np.full(size, np.inf)
    np.minimum.at(first, user, place)
    # Hits come sorted by user and place, so the hits so far are their numbers within the user.
    number = np.arange(len(user)) - (np.cumsum(hits) - hits)[user] + 1
    precision = np.bincount(user, weights=number / place, minlength=size)
    return {
        "recall": hits / targets,
        "hr": (hits > 0).astype(float),
        "ndcg": gain / ideal_gains(targets, k),
        "mrr": 1 / first,
        "map": precision / targets,
    }


def _sums(lists, of_item, k):
    """Sum of `of_item` over the first k of each list, and how many those are."""
    top = np.minimum(lists.lengths, k)
    if not len(top):
        return np.zeros(0), top
    bounds = np.stack([lists.starts, lists.starts + top], axis=1).ravel()
    return np.add.reduceat(np.append(of_item[lists.item].astype(float), 0.0), bounds)[::2], top


def _of_users(values, lists, data):
    """Values of the lists as values of the users; NaN without a list."""
    out = np.full(len(data.user_names), np.nan)
    out[lists.users] = values
    return out


def _unit_vectors(vectors, categories, num_items):
    """Rows of length 1 (or 0): the vectors, or one-hot categories as a sparse matrix."""
    name, given = ("categories", categories) if vectors is None else ("vectors", vectors)
    if len(given) != num_items:
        raise ValueError(
            f"{name} needs one row per item of catalogue, in its order. Received: {len(given)} "
            f"rows for {num_items} items. Pass both from one table."
        )
    if vectors is None:
        codes = pd.factorize(pd.Series(categories))[0]
        rows = np.flatnonzero(codes >= 0)
        shape = (num_items, int(codes.max(initial=0)) + 1)
        return sparse.csr_array((np.ones(len(rows)), (rows, codes[rows])), shape=shape)
    vectors = np.asarray(vectors, float)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1)


def _diversity(lists, unit, k):
    """1 - mean pairwise cosine of each list's first k, float `(num_lists,)`; NaN below 2 items."""
    squares = (unit * unit).sum(axis=1)  # (num_catalogue,), 1 or 0
    out = np.full(len(lists.lengths), np.nan)
    ends = np.append(lists.starts, len(lists.item))
    for first in range(0, len(out), _USERS_AT_ONCE):
        last = min(first + _USERS_AT_ONCE, len(out))
        rows = slice(ends[first], ends[last])
        number = np.repeat(np.arange(last - first), lists.lengths[first:last])
        item, place = lists.item[rows], lists.place[rows]
        use = np.flatnonzero((place <= k) & (item < len(squares)))
        use = use[squares[item[use]] > 0]
        shape = (last - first, len(squares))
        bags = sparse.csr_array((np.ones(len(use)), (number[use], item[use])), shape=shape)
        total = bags @ unit  # (lists, dim)
        count = np.bincount(number[use], minlength=last - first)
        alike = (total * total).sum(axis=1) - count
        pairs = count * (count - 1)
        out[first:last] = np.where(pairs > 0, 1 - alike / np.maximum(pairs, 1), np.nan)
    return out


def _per_target(lists, data, count):
    place = np.full(len(data.test_user), np.nan)
    place[lists.hit_target] = lists.hit_place
    return pd.DataFrame(
        {
            "user_id": data.user_names[data.test_user],
            "item_id": data.item_names[data.test_item],
            "place": place,
            "train_count": count[data.test_item],
        }
    )
