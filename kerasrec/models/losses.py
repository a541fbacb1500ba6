"""Loss functions of the interest layer: pure functions of scores.

Every loss takes the same four arguments and returns one value per position, so a user's own
callable fits wherever a name does:

    positive: float32, `(num_positions,)`, score of the item the user really took.
    negative: float32, `(num_positions, num_negatives)`, scores of the other candidates.
    valid_mask: bool, `(num_positions, num_negatives)`, True = really a negative; False where the
        candidate is the target itself.
    num_items: size of the catalogue (an int), for the sampling corrections.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

from kerasrec.backend import tf

_EXCLUDED = -1e9  # exp() of it is 0, and unlike -inf it leaves no NaN in a gradient


def mse(positive: Any, negative: Any, valid_mask: Any, num_items: int) -> Any:
    """Summed squared error against 1 for the target and 0 for the negatives.

    The plain form of the source material, `mean(sum((y - r) ** 2))`; the mean is taken by the
    interest layer. The negatives keep it from collapsing to a constant.

    >>> one = tf.constant([[True, False]])
    >>> float(mse(tf.constant([0.5]), tf.constant([[0.5, 9.0]]), one, 3)[0])
    0.5
    """
    wrong = tf.where(valid_mask, negative, 0.0)
    return tf.square(1.0 - positive) + tf.reduce_sum(tf.square(wrong), axis=1)


def bce(positive: Any, negative: Any, valid_mask: Any, num_items: int) -> Any:
    """Binary cross-entropy: the target against the mean over its negatives (SASRec's loss)."""
    return tf.nn.softplus(-positive) + _mean(tf.nn.softplus(negative), valid_mask)


def bpr(positive: Any, negative: Any, valid_mask: Any, num_items: int) -> Any:
    """Bayesian personalised ranking, `-log sigmoid(positive - negative)` (Rendle et al. 2009)."""
    return _mean(tf.nn.softplus(negative - positive[:, None]), valid_mask)


def softmax(positive: Any, negative: Any, valid_mask: Any, num_items: int) -> Any:
    """Cross-entropy over the target and the negatives given; over all items it is the full softmax.

    >>> both = tf.constant([[True, True]])
    >>> round(float(softmax(tf.constant([0.0]), tf.constant([[0.0, 0.0]]), both, 3)[0]), 4)
    1.0986
    """
    return _cross_entropy(positive, tf.where(valid_mask, negative, _EXCLUDED))


def sampled_softmax(positive: Any, negative: Any, valid_mask: Any, num_items: int) -> Any:
    """Softmax over sampled negatives that stand for the whole catalogue.

    `log((num_items - 1) / n)` is added to each of the n real negatives of a position, which makes
    the sampled partition sum an unbiased estimate of the full one under uniform sampling.
    """
    count = tf.reduce_sum(tf.cast(valid_mask, tf.float32), axis=1, keepdims=True)
    negative = negative + tf.math.log(float(max(num_items - 1, 1)) / tf.maximum(count, 1.0))
    return softmax(positive, negative, valid_mask, num_items)


def gbce(
    positive: Any, negative: Any, valid_mask: Any, num_items: int, *, calibration: float = 0.75
) -> Any:
    """Generalised binary cross-entropy of gSASRec (Petrov and Macdonald, RecSys 2023, eq. 14-17).

    The probability of the positive is raised to `beta`, which undoes the overconfidence that
    negative sampling brings; `calibration` is the paper's t.
    """
    alpha = tf.cast(tf.shape(negative)[1], tf.float32) / float(max(num_items - 1, 1))
    alpha = tf.minimum(alpha, 1.0)
    beta = alpha * (calibration * (1.0 - 1.0 / alpha) + 1.0 / alpha)
    wrong = tf.where(valid_mask, tf.nn.softplus(negative), 0.0)
    return beta * tf.nn.softplus(-positive) + tf.reduce_sum(wrong, axis=1)


def infonce(positive: Any, negative: Any, valid_mask: Any, num_items: int) -> Any:
    """InfoNCE (van den Oord et al. 2018): softmax against the targets of the other positions."""
    return softmax(positive, negative, valid_mask, num_items)


def _cross_entropy(positive, negative):
    top = tf.stop_gradient(tf.maximum(positive, tf.reduce_max(negative, axis=1)))
    total = tf.exp(positive - top) + tf.reduce_sum(tf.exp(negative - top[:, None]), axis=1)
    return tf.math.log(total) + top - positive


def _mean(values, valid_mask):
    valid = tf.cast(valid_mask, tf.float32)
    total = tf.reduce_sum(tf.where(valid_mask, values, 0.0), axis=1)
    return total / tf.maximum(tf.reduce_sum(valid, axis=1), 1.0)


def check_loss(loss: Callable[..., Any]) -> None:
    """Refuses a loss of the user's that cannot take the four arguments.

    Raises:
        ValueError: it cannot; the message names them.
    """
    try:
        inspect.signature(loss).bind(None, None, None, None)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "A loss is a function of four arguments: positive (num_positions,), negative "
            "(num_positions, num_negatives), valid_mask of the same shape and num_items; it gives "
            f"one value per position. Received: {loss!r} ({error}). Losses of Keras, of y_true and "
            "y_pred, do not fit: the scores of the candidates are made inside the graph."
        ) from error


LOSSES = {
    "mse": mse,
    "bce": bce,
    "bpr": bpr,
    "softmax": softmax,
    "sampled_softmax": sampled_softmax,
    "gbce": gbce,
    "infonce": infonce,
}
#: where each loss takes its negatives from; a callable or a name not listed: "uniform"
NEGATIVES = {"softmax": "all", "infonce": "in_batch"}
#: losses whose scores are cosines in -1..1; the others see cosine / temperature
UNSCALED = ("mse",)
#: losses in which the level of a score counts, not only differences; a learned bias is added to
#: their scores (Zhai et al. 2023, SigLIP), as cosines with all negatives cannot be low at once
BIASED = ("bce", "gbce")
#: initial bias, learned from there
INITIAL_BIAS = -10.0
#: initial temperature of the cosine, learned from there
INITIAL_TEMPERATURE = 0.07
MIN_TEMPERATURE = math.log(0.01)
