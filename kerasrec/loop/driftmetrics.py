"""Computes the numbers of `drift` and its verdict: has a version gone stale?

Distances of stretches of a log, calibration, sure differences; then the warnings that follow from
them, each with its numbers and a remedy.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial.distance import jensenshannon

from kerasrec.data.histories import Histories
from kerasrec.loop.gate import LIST_LENGTH

#: neighbouring stretches before the end of a log, whose distances say what is normal
STRETCHES = 20
#: events of a stretch at least: fewer are far from anything by chance
FEWEST = 100
BINS = 10
#: share of events on items that the version never learned from, above which it is stale
COLD = 0.3
#: users whose events are judged, at least, beside `FEWEST` events
FEWEST_USERS = 20
_SURE = 1.96  # standard errors on either side: 95 %


class Calibration(NamedTuple):
    """Says how well confidence matches the truth.

    confidence: float, its mean.  right: float, share of the answers that were right.  error: float,
    expected calibration error, 0 = perfect. All NaN where there is no answer.
    """

    confidence: float
    right: float
    error: float


def calibration(confidence: ArrayLike, right: ArrayLike) -> Calibration:
    """Computes mean confidence, share of right answers, expected calibration error (ECE).

    Answers are put into ten bins of equal width by their confidence; ECE is the mean, over
    answers, of `|share right - mean confidence|` of the answer's bin (Guo et al. 2017, On
    Calibration of Modern Neural Networks, eq. 3). With few answers it is above 0 by chance alone.

    Args:
        confidence: float, `(n,)`, in 0..1.
        right: bool, `(n,)`.

    Returns:
        `Calibration`.

    >>> calibration([0.9, 0.9, 0.2, 0.2], [True, True, False, True])
    Calibration(confidence=0.55, right=0.75, error=0.2...)
    """
    confidence, right = np.asarray(confidence, float), np.asarray(right, float)
    if not len(confidence):
        return Calibration(np.nan, np.nan, np.nan)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    apart = np.bincount(place, right - confidence, BINS)  # sum over the answers of each bin
    error = np.abs(apart).sum() / len(confidence)
    return Calibration(float(confidence.mean()), float(right.mean()), float(error))


def top_confidence(row: ArrayLike, scores: ArrayLike, num_rows: int) -> np.ndarray:
    """Computes the softmax at the best item of every list: P(best | the wanted item is listed).

    Args:
        row: int `(n,)`, the list of each score.
        scores: float `(n,)`.
        num_rows: number of lists.

    Returns:
        float `(num_rows,)`; NaN for an empty list.

    >>> top_confidence([0, 0, 1], np.log([3, 1, 5]), 2).tolist()
    [0.75, 1.0]
    """
    row, scores = np.asarray(row), np.asarray(scores, float)
    best = np.full(num_rows, -np.inf)
    np.maximum.at(best, row, scores)
    total = np.bincount(row, np.exp(scores - best[row]), num_rows)
    with np.errstate(divide="ignore"):
        return np.where(total > 0, 1 / total, np.nan)


def code_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Measures the distance of two samples of codes: 0 = the same shares, 1 = nothing in common.

    It is the Jensen-Shannon distance, the square root of the divergence to base 2 (Lin 1991; Endres
    and Schindelin 2003).

    Args:
        first, second: int codes from 0, `(n,)` and `(m,)`.

    Returns:
        float; NaN where a sample is empty.

    >>> code_distance([1, 1, 2], [2, 1, 1]), code_distance([0, 1], [2, 2])
    (0.0, 1.0)
    """
    if not len(first) or not len(second):
        return float("nan")
    size = max(np.max(first), np.max(second)) + 1
    counts = [np.bincount(codes, minlength=size) for codes in (first, second)]
    return float(jensenshannon(*counts, base=2))


def distance_from(
    before: np.ndarray, codes: np.ndarray, *, seed: int = 0
) -> tuple[float, np.ndarray]:
    """Measures how far a period is from the end of the log before it, and what is normal there.

    The distance of two small samples is large by chance alone. So the log before is cut into
    `STRETCHES` + 1 stretches of equally many events, the last of which is the reference; the
    period and each earlier stretch are thinned out to the same number of events, at random; and the
    period's distance from the reference is to be judged by those of each earlier stretch from the
    stretch that follows it.

    Args:
        before: int codes (of items or event types) of the log in time order, `(n,)`.
        codes: those of the period, `(m,)`.
        seed: of the draws.

    Returns:
        `(distance, neighbours)`, float and float `(STRETCHES,)`, oldest first; NaN and an empty
        array where a stretch or the period has fewer than `FEWEST` events.
    """
    size = len(before) // (STRETCHES + 1)
    drawn = min(size, len(codes))
    if drawn < FEWEST:
        return float("nan"), np.zeros(0)
    rng = np.random.default_rng(seed)
    stretches = np.asarray(before)[-size * (STRETCHES + 1) :].reshape(STRETCHES + 1, size)
    neighbours = [
        code_distance(later, rng.choice(earlier, drawn, replace=False))
        for earlier, later in zip(stretches[:-1], stretches[1:], strict=True)
    ]
    distance = code_distance(stretches[-1], rng.choice(codes, drawn, replace=False))
    return distance, np.array(neighbours)


def mean_and_error_of_users(values: ArrayLike, users: ArrayLike) -> tuple[float, float]:
    """Computes the mean over events, and its standard error when events of one user are alike.

    `sqrt(U / (U - 1) * sum over users of (sum of the user's deviations)^2) / n` (Liang and Zeger
    1986); where every user has one event it is the usual standard error.

    Args:
        values: float `(n,)`.
        users: `(n,)`, anything that tells users apart.

    Returns:
        `(mean, error)`; NaN without events, an error of NaN with a single user.

    >>> mean_and_error_of_users([1, 0, 1, 0], [1, 2, 3, 4])
    (0.5, 0.288...)
    """
    values = np.asarray(values, float)
    if not len(values):
        return float("nan"), float("nan")
    mean = values.mean()
    _, row = np.unique(users, return_inverse=True)
    sums = np.bincount(row, values - mean)
    if len(sums) == 1:
        return float(mean), float("nan")
    variance = len(sums) / (len(sums) - 1) * (sums**2).sum() / len(values) ** 2
    return float(mean), float(variance**0.5)


def interval(mean: float, error: float) -> tuple[float, float]:
    """Gives the 95 % interval `(low, high)`."""
    return mean - _SURE * error, mean + _SURE * error


def ranks_by(scores: ArrayLike, histories: Histories, targets: np.ndarray) -> np.ndarray:
    """Ranks each row's target by scores that are the same for all rows, without its history.

    Args:
        scores: float `(num_items + 1,)`, column 0 is padding; equal ones by item index.
        histories: `Histories`, `(num_rows)`; none holds its target.
        targets: int item index `(num_rows,)`.

    Returns:
        int `(num_rows,)`, from 1.
    """
    scores = np.asarray(scores)
    place = np.empty(len(scores), int)
    place[1 + np.argsort(-scores[1:], kind="stable")] = np.arange(len(scores) - 1)
    row = np.repeat(np.arange(histories.num_users), histories.lengths)
    pairs = np.unique(row * len(scores) + histories.items)
    row, items = pairs // len(scores), pairs % len(scores)
    own = place[targets]
    return own + 1 - np.bincount(row[place[items] < own[row]], minlength=len(own))


# --- the verdict ---


def verdict(seen: Any, judged: pd.DataFrame, *, seed: int = 0) -> tuple[list[str], list[str]]:
    """Says why a version has gone stale, and what too few events cannot tell.

    Args:
        seen: the log in periods, `drifting.PeriodLog`.
        judged: DataFrame, one row per predicted event: `period`, `user`, and NDCG of the version
            (`ndcg`) and of recent popularity (`popularity`).
        seed: of the draws.

    Returns:
        `(warnings, notes)`, lists of sentences.
    """
    periods = range(1, len(seen.begins))
    newest, first = _enough(judged, periods[::-1]), _enough(judged, periods)
    if newest is None:
        return [], [
            f"Too few events to tell whether it has gone stale: {len(judged):,} first choices of "
            f"{judged['user'].nunique():,} users after {seen.moment(seen.end)}; {FEWEST} of "
            f"{FEWEST_USERS} users are needed."
        ]
    warnings, notes = [], []
    part = judged[judged["period"].isin(newest)]
    when = f"{len(part):,} events since {seen.moment(seen.begins[min(newest)])}"
    if set(newest) & set(first):
        notes.append("Too few events to tell whether it predicts worse than at first.")
    else:
        warnings += _worse_than_at_first(judged, part, first, when)
    warnings += _worse_than_popularity(part, when)
    warnings += _cold(seen, newest)
    moved, told = _moved(seen, newest, seed)
    return warnings + moved, notes + told


def _enough(judged, numbers):
    """The first of these periods that together have enough to judge on; None = all have not."""
    taken = []
    for number in numbers:
        taken.append(number)
        part = judged[judged["period"].isin(taken)]
        if len(part) >= FEWEST and part["user"].nunique() >= FEWEST_USERS:
            return taken
    return None


def _worse_than_at_first(judged, part, first, when):
    then = judged[judged["period"].isin(first)]
    (now, error), (was, error_then) = (
        mean_and_error_of_users(rows["ndcg"], rows["user"]) for rows in (part, then)
    )
    low, high = interval(now - was, (error**2 + error_then**2) ** 0.5)
    if not high < 0:
        return []
    return [
        f"It predicts worse than at first: NDCG@{LIST_LENGTH} {now:.4f} on {when}, {was:.4f} on "
        f"the first {len(then):,} (difference {now - was:+.4f}, 95 % {low:+.4f} to {high:+.4f}). "
        "Learn what is new: kerasrec update."
    ]


def _worse_than_popularity(part, when):
    behind, error = mean_and_error_of_users(part["ndcg"] - part["popularity"], part["user"])
    low, high = interval(behind, error)
    if not high < 0:
        return []
    return [
        f"Recent popularity is better: NDCG@{LIST_LENGTH} {part['popularity'].mean():.4f}, the "
        f"model's {part['ndcg'].mean():.4f} on {when} (difference {behind:+.4f}, 95 % {low:+.4f} "
        f"to {high:+.4f}). Learn what is new: kerasrec update."
    ]


def _cold(seen, newest):
    places = seen.of(newest)
    cold, error = mean_and_error_of_users(seen.is_cold[places], seen.user[places])
    if not interval(cold, error)[0] > COLD:
        return []
    outside = (seen.histories.items[places] > seen.num_known).mean()
    return [
        f"{cold:.0%} of {len(places):,} events since {seen.moment(seen.begins[min(newest)])} are "
        f"on items that it never learned from ({COLD:.0%} is the limit), {outside:.0%} on items "
        "that it cannot list. Learn them: kerasrec update with the items of today."
    ]


def _moved(seen, newest, seed):
    """`(warnings, notes)`."""
    items, places = seen.histories.items, seen.of(newest)
    distance, neighbours = distance_from(items[seen.learned], items[places], seed=seed)
    if not len(neighbours):
        needed = FEWEST * (STRETCHES + 1)
        return [], [
            "Too few events to tell whether what is chosen has moved: distances need "
            f"{needed:,} events until {seen.moment(seen.end)} and {FEWEST} after it."
        ]
    if not distance > neighbours.max():
        return [], []
    return [
        f"What is chosen has moved: distance of items {distance:.3f} since "
        f"{seen.moment(seen.begins[min(newest)])}; neighbouring stretches of as many events in its "
        f"own log had {neighbours.mean():.3f} on average, {neighbours.max():.3f} at most. Learn "
        "what is new: kerasrec update."
    ], []
