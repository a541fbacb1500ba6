import math

import numpy as np
import pytest

from kerasrec.backend import keras, tf
from kerasrec.models.build import build_model
from kerasrec.models.losses import LOSSES, gbce, sampled_softmax, softmax

NUM_ITEMS = 5
LOG2 = math.log(2)
# scores 0 for the target and log 3, 0 for two negatives: exp gives 1, 3, 1; sigmoid 1/2, 3/4, 1/2
BY_HAND = {
    # 1 ** 2 + (log 3) ** 2 + 0 ** 2
    "mse": 1 + math.log(3) ** 2,
    # -log 1/2 for the target; the mean of -log 1/4 and -log 1/2
    "bce": LOG2 + (2 * LOG2 + LOG2) / 2,
    # the mean of -log sigmoid(-log 3) = -log 1/4 and -log sigmoid(0) = -log 1/2
    "bpr": (2 * LOG2 + LOG2) / 2,
    # -log(1 / 5)
    "softmax": math.log(5),
    "infonce": math.log(5),
    # 2 negatives stand for 4: -log(1 / (1 + 4 / 2 * (3 + 1)))
    "sampled_softmax": math.log(9),
    # alpha = 2 / 4, beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha) = 0.625
    "gbce": 0.625 * LOG2 + 2 * LOG2 + LOG2,
}


def value(loss, positive, negative, valid_mask, num_items=NUM_ITEMS):
    arguments = tf.constant(positive), tf.constant(negative), tf.constant(valid_mask)
    return LOSSES[loss](*arguments, num_items).numpy()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def slow(loss, positive, negatives, num_drawn, num_items=NUM_ITEMS):
    """One position in plain Python; `negatives` are the real ones, `num_drawn` counts all."""
    count = len(negatives)
    if loss == "mse":
        return (1 - positive) ** 2 + sum(n**2 for n in negatives)
    if loss == "bce":
        return -math.log(sigmoid(positive)) - sum(math.log(sigmoid(-n)) for n in negatives) / count
    if loss == "bpr":
        return -sum(math.log(sigmoid(positive - n)) for n in negatives) / count
    if loss == "gbce":
        alpha = num_drawn / (num_items - 1)
        beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
        power = sigmoid(positive) ** beta
        return -math.log(power) - sum(math.log(sigmoid(-n)) for n in negatives)
    weight = (num_items - 1) / count if loss == "sampled_softmax" else 1
    total = math.exp(positive) + weight * sum(math.exp(n) for n in negatives)
    return -math.log(math.exp(positive) / total)


def test_every_loss_has_a_hand_worked_number():
    assert set(BY_HAND) == set(LOSSES)


@pytest.mark.parametrize("loss", BY_HAND)
def test_loss_by_hand(loss):
    negative = np.array([[math.log(3), 0, 7]], np.float32)
    found = value(loss, [0.0], negative[:, :2], [[True, True]])
    np.testing.assert_allclose(found, [BY_HAND[loss]], rtol=1e-6)
    if loss != "gbce":  # its alpha counts what was drawn
        found = value(loss, [0.0], negative, [[True, True, False]])
        np.testing.assert_allclose(found, [BY_HAND[loss]], rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_equals_plain_python(loss):
    rng = np.random.default_rng(0)
    positive = rng.normal(size=6).astype(np.float32)
    negative = rng.normal(size=(6, 4)).astype(np.float32)
    valid_mask = rng.random((6, 4)) < 0.7
    valid_mask[:, 0] = True
    expected = [
        slow(loss, float(p), n[keep].tolist(), 4)
        for p, n, keep in zip(positive, negative, valid_mask, strict=True)
    ]
    np.testing.assert_allclose(value(loss, positive, negative, valid_mask), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_masked_candidates_change_neither_loss_nor_gradient(loss):
    gradients, values = [], []
    for hidden in (0.0, 30.0, -30.0, 1e18):
        positive = tf.constant([0.3, -0.2])
        negative = tf.constant([[0.1, hidden, 0.4], [hidden, hidden, hidden]])
        valid_mask = tf.constant([[True, False, True], [False, False, False]])
        with tf.GradientTape() as tape:
            tape.watch([positive, negative])
            loss_values = LOSSES[loss](positive, negative, valid_mask, NUM_ITEMS)
        values.append(loss_values.numpy())
        gradients.append([g.numpy() for g in tape.gradient(loss_values, [positive, negative])])
        assert np.isfinite(values[-1]).all()
        by_positive, by_negative = gradients[-1]
        assert np.isfinite(by_positive).all()
        assert (by_negative[~valid_mask.numpy()] == 0).all()
        assert by_positive[0] < 0 and (by_negative[0, [0, 2]] > 0).all()  # the way to less loss
    for number in range(1, 4):
        np.testing.assert_array_equal(values[number], values[0])
        np.testing.assert_array_equal(gradients[number][0], gradients[0][0])


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "infonce", "bce", "bpr", "gbce"])
def test_large_scores_stay_finite(loss):
    found = value(loss, [100.0, -100.0], [[-100.0, 100.0]] * 2, [[True, True]] * 2)
    assert np.isfinite(found).all()
    assert found[1] > found[0] >= 0


@pytest.mark.parametrize("target_listed", [False, True])
def test_sampled_softmax_of_all_items_is_the_full_softmax(target_listed):
    scores = np.random.default_rng(1).normal(size=NUM_ITEMS).astype(np.float32)
    negative = scores[None] if target_listed else scores[None, 1:]
    valid_mask = np.arange(NUM_ITEMS)[None] > 0 if target_listed else np.ones((1, 4), bool)
    full = -math.log(math.exp(scores[0]) / sum(math.exp(s) for s in scores))
    for loss in (sampled_softmax, softmax):
        found = loss(tf.constant(scores[:1]), tf.constant(negative), valid_mask, NUM_ITEMS)
        np.testing.assert_allclose(found, [full], rtol=1e-6)


def test_sampled_softmax_estimates_the_full_partition_sum_without_bias():
    rng = np.random.default_rng(2)
    num_items, num_draws = 20, 40_000
    scores = rng.normal(size=num_items).astype(np.float32)
    drawn = rng.integers(0, num_items, (num_draws, 8))  # with repeats; item 0 is the target
    drawn = drawn[(drawn > 0).any(axis=1)]
    positive = np.repeat(scores[:1], len(drawn))
    loss = value("sampled_softmax", positive, scores[drawn], drawn > 0, num_items)
    partition = np.exp(loss + positive)
    np.testing.assert_allclose(partition.mean(), np.exp(scores).sum(), rtol=0.01)


def test_gbce_beta_runs_from_1_to_alpha():
    positive, negative = tf.constant([0.0]), tf.constant([[-50.0, -50.0]])  # only the target counts
    mask = tf.constant([[True, True]])

    def beta(num_items, calibration):
        loss = gbce(positive, negative, mask, num_items, calibration=calibration)
        return float(loss[0]) / LOG2

    assert beta(5, 0.0) == pytest.approx(1)  # no calibration: plain BCE
    assert beta(5, 1.0) == pytest.approx(2 / 4)  # full calibration: the sampling rate
    assert beta(5, 0.75) == pytest.approx(0.625)
    assert beta(201, 0.75) == pytest.approx(0.01 * (0.75 * (1 - 100) + 100))
    assert beta(2, 0.75) == pytest.approx(1)  # more draws than items: the rate is at most 1


@pytest.mark.parametrize("loss", [lambda truth, found: 0.0, keras.losses.MeanSquaredError()])
def test_a_loss_of_other_arguments_is_refused(loss):
    with pytest.raises(ValueError, match="positive .*negative .*valid_mask .*num_items.*of Keras"):
        build_model(9, id_units=4, loss=loss)


def test_a_loss_that_takes_the_mean_itself_is_refused():
    def mean(positive, negative, valid_mask, num_items):
        return tf.reduce_mean(negative)

    with pytest.raises(ValueError, match="one value per position.*Received: float32 of shape"):
        build_model(9, id_units=4, loss=mean)
