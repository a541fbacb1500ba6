"""What a hit counts by its place in a list: the discount of NDCG, for all that fit or measure."""

import numpy as np
from numpy.typing import ArrayLike


def discount(place: ArrayLike) -> np.ndarray:
    """Computes what the gain of a hit is divided by at a place of a list, `log2(place + 1)`.

    >>> discount([1, 3, 7]).tolist()
    [1.0, 2.0, 3.0]
    """
    return np.log2(np.asarray(place) + 1.0)


def first_gains(k: int) -> np.ndarray:
    """Computes what a hit gains at each of the first k places, float64 `(k,)`."""
    return 1 / discount(np.arange(1, k + 1))


def ideal_gains(num_targets: ArrayLike, k: int) -> np.ndarray:
    """Computes what the best list of k places gains: hits at the first places, one per target.

    >>> ideal_gains([0, 1, 3], 2).round(3).tolist()
    [0.0, 1.0, 1.631]
    """
    return np.concatenate([[0], np.cumsum(first_gains(k))])[np.minimum(num_targets, k)]
