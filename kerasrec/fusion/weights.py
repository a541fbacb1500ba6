"""Fits the weights of a fused score to what validation users chose. No TensorFlow here.

A score is a weighted sum of the features of a user's candidates. There are three ways to fit the
weights, `FITS`: maximum likelihood of a conditional logit (McFadden 1974); from there uphill in a
smooth NDCG (ApproxNDCG, Qin et al. 2010); or uphill from the mixture of the parts, held near it.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit

from kerasrec.fusion.gains import discount, first_gains, ideal_gains

#: ways to fit the weights: most likely; from there uphill in a smooth NDCG; uphill from the mixture
FITS = ("likelihood", "ndcg", "ndcg near the mixture")
#: targets that a climb looks at; beyond them a sample
MAX_TARGETS = 4000
#: users among whom the way is chosen; beyond them a sample
MAX_COMPARED = 2000
TINY = 1e-12
#: seconds between a user's newest event and a question that part one bucket from the next: within
#: a visit, a pause, another visit of the day, of another day, of another week
WAITS = (60, 300, 1800, 7200, 72_000, 604_800)
#: buckets of the wait, see `wait_buckets`
NUM_WAITS = len(WAITS) + 2
_KNOWN = 30  # targets that the mixture of all users counts as in that of a bucket
_FEWEST_TO_CLIMB = 200  # users of a bucket; fewer are moved by chance
#: weight moved between two parts of the mixture at a time
_STEPS = (0.2, 0.1, 0.05)
_FOLDS = 3
_STEPS_OF_FIT = 40  # of L-BFGS
_SOFTNESS = 0.1  # of the ranks of the smooth NDCG, in units of the score
#: of a feature; most are logarithms of shares, with deviations around 1
_LEAST_DEVIATION = 0.02
#: how firmly a climb is held to its start, on standardised weights
_RIDGES = {"ndcg": 1e-4, "ndcg near the mixture": 1e-2}


class FitData(NamedTuple):
    """Holds what the fit needs of every validation user: candidates, their features, the targets.

    items: int `(num_users, n)`, item index.  shares: float32 `(num_parts, num_users, n)`, what each
    part of the mixture gives the candidates; the model is part 0, what is popular the last.
    is_new: bool `(num_users, n)`.  prior: float32 `(num_features, num_users, n)`.  scorer: float32
    `(num_users, n)`, the MLP.  real: bool, False where the place is empty.  hits: bool, True where
    the candidate is a target.  num_targets: `(num_users,)`.  waited: int `(num_users,)`, see
    `wait_buckets`.  target_shares: float32 `(num_targets, num_parts)`.  target_waited: int
    `(num_targets,)`, `waited` of its user.
    """

    items: np.ndarray
    shares: np.ndarray
    is_new: np.ndarray
    prior: np.ndarray
    scorer: np.ndarray
    real: np.ndarray
    hits: np.ndarray
    num_targets: np.ndarray
    waited: np.ndarray
    target_shares: np.ndarray
    target_waited: np.ndarray


def wait_buckets(waited: ArrayLike) -> np.ndarray:
    """Puts the seconds between a user's newest event and a question into a bucket, int32.

    0 = unknown, or no second; 1, 2, ... = below the first, the second, ... of `WAITS`.

    >>> wait_buckets([0, 30, 60, 86400]).tolist()
    [0, 1, 2, 6]
    """
    waited = np.asarray(waited)
    bucket = 1 + np.searchsorted(WAITS, waited, side="right")
    return np.where(waited > 0, bucket, 0).astype(np.int32)


def features_of(data: FitData, mixture: np.ndarray, epsilon: float) -> np.ndarray:
    """Makes the features: log shares, log shares of new items, prior, MLP.

    What is popular has no share of its own here, only in the mixture: the prior says it already.

    Returns:
        float32 `(num_features, num_users, n)`.
    """
    shares = np.concatenate([data.shares[:-1], mixed(data, mixture)[None]])
    logs = np.log(shares + np.float32(epsilon))
    return np.concatenate([logs, logs * data.is_new, data.prior, data.scorer[None]])


def mixed(data: FitData, mixture: np.ndarray) -> np.ndarray:
    """Mixes the shares of the parts, float32 `(num_users, n)`: each user by the row of its wait."""
    return np.einsum("up,pun->un", mixture[data.waited].astype(np.float32), data.shares)


def most_likely(
    target_parts: np.ndarray, steps: int = 100, *, known: np.ndarray | None = None
) -> np.ndarray:
    """Finds the mixture that makes the targets most likely, by expectation maximisation.

    Args:
        target_parts: probability of every target under every part, `(num_targets, num_parts)`.
        steps: of the maximisation.
        known: a mixture that counts as much as `_KNOWN` targets, `(num_parts,)`; None = nothing.

    Returns:
        Weights `(num_parts,)` that sum to 1.
    """
    weights = np.full(target_parts.shape[1], 1 / target_parts.shape[1])
    # a target that no part can name (the history holds it already) says nothing of the weights
    target_parts = target_parts[target_parts.sum(axis=1) > 0]
    if not len(target_parts):
        return weights
    for _ in range(steps):
        joint = target_parts * weights + TINY
        counts = (joint / joint.sum(axis=1, keepdims=True)).sum(axis=0)
        counts += 0 if known is None else _KNOWN * known
        weights = counts / counts.sum()
    return weights


def best_mixture(data: FitData, k: int) -> np.ndarray:
    """Finds the shares of the parts, `(NUM_WAITS, num_parts)`: a row for each bucket of the wait.

    Somebody who was here a minute ago goes on; somebody who comes back after days asks what is
    there now. Each row begins where its targets are most likely and goes uphill in NDCG. Row 0,
    for an unknown wait, is fitted to all users; a bucket with few users stays near it.
    """
    pooled = _uphill(most_likely(data.target_shares), data, k)
    rows = np.tile(pooled, (NUM_WAITS, 1))
    for bucket in np.unique(data.waited[data.waited > 0]):
        users, targets = data.waited == bucket, data.target_waited == bucket
        likely = most_likely(data.target_shares[targets], known=pooled)
        if users.sum() >= _FEWEST_TO_CLIMB:
            likely = _uphill(likely, _of_users(data, users), k)
        rows[bucket] = likely
    return rows


def _of_users(data, users):
    """`FitData` of some users, for `_uphill`."""
    return data._replace(
        shares=data.shares[:, users],
        real=data.real[users],
        hits=data.hits[users],
        num_targets=data.num_targets[users],
    )


def _uphill(mixture, data, k):
    """Moves weight between two parts of a mixture `(num_parts,)` as long as NDCG grows."""

    def quality(mixture):
        scores = np.tensordot(mixture.astype(np.float32), data.shares, 1)
        return ndcg_of_hits(top_hits(scores, data, k), data.num_targets).mean()

    best = quality(mixture)
    for step in _STEPS:
        improved = True
        while improved:
            improved = False
            for source, target in itertools.permutations(range(len(mixture)), 2):
                tried = mixture.copy()
                moved = min(step, tried[source])
                tried[source] -= moved
                tried[target] += moved
                found = quality(tried) if moved else 0.0
                if found > best + 1e-6:
                    best, mixture, improved = found, tried, True
    return mixture


def best_way(
    features: np.ndarray,
    data: FitData,
    mixture_alone: np.ndarray,
    k: int,
    *,
    hold_back: str = "users",
) -> str:
    """Chooses the way of `FITS` that ranks held-back events best, by cross-validation.

    Args:
        features, data, mixture_alone, k: as in `fit_weights`.
        hold_back: "users", or "items": the ways are then fitted on some of the items and compared
            on the others, as if only those were on the shelf.
    """
    rng = np.random.default_rng(0)
    if len(data.num_targets) > MAX_COMPARED:
        compared = np.zeros(len(data.num_targets), bool)
        compared[rng.choice(len(compared), MAX_COMPARED, replace=False)] = True
        features, data = _part(features, data, compared[:, None])
    if hold_back == "users":
        fold = rng.integers(0, _FOLDS, len(data.num_targets))[:, None]
    else:
        fold = rng.integers(0, _FOLDS, data.items.max(initial=0) + 1)[data.items]
    quality = dict.fromkeys(FITS, 0.0)
    for number in range(_FOLDS):
        fit_features, fitted = _part(features, data, fold != number)
        held_features, held_back = _part(features, data, fold == number)
        for name, weights in fit_weights(fit_features, fitted, mixture_alone, k).items():
            scores = np.tensordot(weights, held_features, 1)
            hits = top_hits(scores, held_back, k)
            quality[name] += ndcg_of_hits(hits, held_back.num_targets).sum()
    return max(quality, key=lambda name: quality[name])


def _part(features, data, mask):
    """Features and data of the candidates in a mask `(num_users, n or 1)`."""
    real, hits = data.real & mask, data.hits & mask
    data = data._replace(real=real, hits=hits, num_targets=hits.sum(axis=1))
    used = real.any(axis=1)
    one_axis = ("items", "real", "hits", "num_targets", "waited")
    return features[:, used], data._replace(**{n: getattr(data, n)[used] for n in one_axis})


def fit_weights(
    features: np.ndarray,
    data: FitData,
    mixture_alone: np.ndarray,
    k: int,
    *,
    ways: Sequence[str] = FITS,
) -> dict[str, np.ndarray]:
    """Fits weights in each of `ways`, names of `FITS`.

    Args:
        features: float32 `(num_features, num_users, n)`, the MLP last.
        data: `FitData`.
        mixture_alone: `(num_features,)`, the weights of the mixture alone.
        k: cut of the NDCG.
        ways: names of `FITS`.

    Returns:
        dict name of the way -> weights `(num_features,)`.
    """
    found = {}
    if set(ways) & {"likelihood", "ndcg"}:
        found["likelihood"] = by_likelihood(features, data)
    if "ndcg" in ways:
        start, ridge = found["likelihood"], _RIDGES["ndcg"]
        found["ndcg"] = climb(start, features, data, k, ridge=ridge)
    if "ndcg near the mixture" in ways:
        ridge = _RIDGES["ndcg near the mixture"]
        found["ndcg near the mixture"] = climb(mixture_alone, features, data, k, ridge=ridge)
    return {way: found[way] for way in ways}


def by_likelihood(features: np.ndarray, data: FitData) -> np.ndarray:
    """Fits a conditional logit: weights `(num_features,)`; every user with a target counts alike.

    Targets that are no candidate say nothing and are left out. The last weight, of the MLP, is not
    below 0.
    """
    wanted = data.hits / np.maximum(data.hits.sum(axis=1, keepdims=True), 1)
    use = data.hits.any(axis=1)
    return fit_logit(
        features[:, use], wanted[use].astype(np.float32), data.real[use], _bounds(features)
    )


def _bounds(features):
    return [(None, None)] * (len(features) - 1) + [(0, None)]


def climb(
    start: np.ndarray, features: np.ndarray, data: FitData, k: int, *, ridge: float
) -> np.ndarray:
    """Climbs in ApproxNDCG: gains 1 / log2(1 + rank), with ranks made of sigmoids.

    Args:
        start: weights to start from, `(num_features,)`.
        features, data, k: as in `fit_weights`.
        ridge: how firmly the weights are held to the start, where there are `MAX_TARGETS`; with
            fewer targets they are held the firmer.

    Returns:
        Weights `(num_features,)`.
    """
    # the targets, at most `MAX_TARGETS`, and what each adds to the NDCG at rank 1
    row, column = np.nonzero(data.hits)  # one entry per target
    count = len(row)
    if not count:
        return start
    ridge *= max(MAX_TARGETS / count, 1)  # few targets prove little
    if count > MAX_TARGETS:
        chosen = np.sort(np.random.default_rng(0).choice(count, MAX_TARGETS, replace=False))
        row, column = row[chosen], column[chosen]
    gain = 1 / (ideal_gains(data.num_targets[row], k) * len(data.num_targets))
    gain *= count / len(row)  # a sample stands for all
    # the rivals of every target: the user's other candidates
    rival = data.real[row]
    rival[np.arange(len(row)), column] = False
    some = rival.any(axis=1)  # a target without a rival is first, whatever the weights
    row, column, gain, rival = row[some], column[some], gain[some], rival[some]
    target, place = np.nonzero(rival)
    if not len(target):
        return start
    # features of every rival minus those of its target; a fit on standardised features
    starts, counts = _runs(rival)
    ahead = features[:, row[target], place]  # (num_features, rivals), all targets' in one line
    ahead -= features[:, row[target], column[target]]
    deviation = np.array([part[data.real].std() for part in features])
    deviation = _scale(deviation)
    first = np.where(np.isfinite(deviation), start * np.minimum(deviation, 1e9), 0)

    def loss(standardised):
        # how far every rival stands above its target, then the smooth ranks and their value
        above = expit(((standardised / deviation / _SOFTNESS).astype(np.float32)) @ ahead)
        rank = 1 + np.add.reduceat(above, starts, dtype=np.float64)
        away = standardised - first
        value = -(gain / discount(rank)).sum() + ridge * (away**2).sum()
        # the slope: of the value by rank, of the rank by every rival, of the rival by the weights
        per_rank = gain * np.log(2) / (np.log1p(rank) ** 2 * (1 + rank)) / _SOFTNESS
        push = np.repeat(per_rank.astype(np.float32), counts)
        push *= above
        push *= 1 - above
        return value, ahead @ push / deviation + 2 * ridge * away

    options = {"maxiter": _STEPS_OF_FIT}
    found = minimize(loss, first.copy(), jac=True, bounds=_bounds(features), options=options)
    return found.x / deviation


def _scale(deviation):
    """What features are divided by: a constant one gets weight 0, a nearly constant one little.

    A feature that hardly varies here may vary a hundredfold when a list is asked for: in a log of
    days what happened within the hour is the same for all items, and in the list of a server not.
    Divided by its own deviation it had weights such as -28,000.
    """
    return np.where(deviation > 1e-6, np.maximum(deviation, _LEAST_DEVIATION), np.inf)


def _runs(mask):
    """Where each row's True cells start in the line of all of them, and how many these are."""
    counts = mask.sum(axis=1)
    return np.cumsum(counts) - counts, counts


def fit_logit(
    features: np.ndarray,
    wanted: np.ndarray,
    available: np.ndarray,
    bounds: Sequence[tuple] | None = None,
) -> np.ndarray:
    """Fits a logit by maximum likelihood, with a ridge of one user's weight.

    The ridge is on the weights of the standardised features.

    Args:
        features: float32 `(num_features, rows, n)`.
        wanted: float32 `(rows, n)`, how often each was chosen.
        available: `(rows, n)`, share of the row's choosers who could choose it; 0 = no part in it.
        bounds: of the weights, as `scipy.optimize.minimize` takes them.

    Returns:
        Weights `(num_features,)`.
    """
    # only real cells of rows in which something was chosen, all in one line
    real = available > 0
    real &= (real & (wanted > 0)).any(axis=1, keepdims=True)  # other rows say nothing
    real = real[used := real.any(axis=1)]
    if not len(real):
        return np.zeros(len(features))
    starts, counts = _runs(real)
    features = features[:, used][:, real]  # (num_features, cells), the rows one after the other
    wanted, available = wanted[used][real], available[used][real]
    offset = np.log(available).astype(np.float32)
    num_users = max(float(wanted.sum()), 1.0)
    # standardised features: one ridge fits all
    deviation = features.std(axis=1)
    deviation = _scale(deviation)
    features -= features.mean(axis=1, keepdims=True)
    features /= deviation[:, None]
    size = np.add.reduceat(wanted, starts, dtype=np.float64)

    def loss(weights):
        scores = weights.astype(np.float32) @ features + offset
        scores -= np.repeat(np.maximum.reduceat(scores, starts), counts)
        value = -np.dot(wanted, scores)
        share = np.exp(scores, out=scores)
        total = np.add.reduceat(share, starts, dtype=np.float64)
        value += (size * np.log(total)).sum() + (weights**2).sum()
        share *= np.repeat((size / total).astype(np.float32), counts)
        slope = features @ (share - wanted) + 2 * weights
        return value / num_users, slope.astype(float) / num_users

    options = {"maxiter": _STEPS_OF_FIT}
    found = minimize(loss, np.zeros(len(features)), jac=True, bounds=bounds, options=options)
    return found.x / deviation


def first_columns(scores: np.ndarray, k: int) -> np.ndarray:
    """Finds the columns of the `k` largest scores of every row, largest first."""
    k = min(k, scores.shape[1])
    order = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    inner = np.argsort(-np.take_along_axis(scores, order, axis=1), axis=1, kind="stable")
    return np.take_along_axis(order, inner, axis=1)


def top_hits(scores: np.ndarray, data: FitData, k: int) -> np.ndarray:
    """Marks which of the first k candidates are targets: bool `(num_users, k)`."""
    scores = np.where(data.real, scores, -np.inf)
    order = first_columns(scores, k)
    return np.take_along_axis(data.hits, order, axis=1)


def ndcg_of_hits(hits: np.ndarray, num_targets: np.ndarray) -> np.ndarray:
    """Measures the NDCG of every user, `(num_users,)`.

    Args:
        hits: bool `(num_users, k)`, which of the first k are targets.
        num_targets: `(num_users,)`.
    """
    k = hits.shape[1]
    ideal = np.maximum(ideal_gains(num_targets, k), TINY)
    return (hits * first_gains(k)).sum(axis=1) / ideal
