"""The fused score in the graph, against the numpy twin and numbers worked by hand."""

import numpy as np
import tensorflow as tf
from toys import histories_of

from kerasrec.fusion.fusion import Fusion
from kerasrec.fusion.neighbours import NeighbourTable
from kerasrec.fusion.weights import NUM_WAITS, wait_buckets
from kerasrec.models.graphfusion import (
    Memory,
    Weights,
    seen_share,
    total_by_sample,
    wait_bucket,
)


def test_memory_is_the_twin_of_the_table():
    rng = np.random.default_rng(0)
    neighbours = rng.integers(0, 9, (9, 3)).astype(np.int32)
    weights = (rng.normal(size=(9, 3)) * (neighbours > 0)).astype(np.float32)
    weights[0] = 9  # the padding row, which nothing may read
    table = NeighbourTable(neighbours, weights, 0.7)
    rows = [[1, 2, 3], [8], [], [4, 4, 5, 1, 2]]
    history = np.zeros((4, 7), np.int32)
    for number, row in enumerate(rows):
        history[number, 7 - len(row) :] = row
    memory = Memory(table, "toy")
    np.testing.assert_allclose(
        memory.call(tf.constant(history), 9), table.scores(histories_of(rows)), atol=1e-6
    )
    # padding between events changes nothing, and an item beyond the table says nothing
    spread = np.array([[1, 0, 2, 0, 3, 0, 0]], np.int32)
    np.testing.assert_allclose(
        memory.call(tf.constant(spread), 9), table.scores(histories_of([[1, 2, 3]])), atol=1e-6
    )
    # it has its place in the order of the history all the same
    found = memory.call(tf.constant([[1, 12, 2], [0, 0, 12]]), 13).numpy()
    with_signs = [np.zeros(9), np.zeros(9)]
    for votes, item in zip(with_signs, (1, 2), strict=True):
        np.add.at(votes, neighbours[item], weights[item])
    np.testing.assert_allclose(
        found[0, :9], np.maximum(with_signs[0] * 0.7**2 + with_signs[1], 0), atol=1e-6
    )
    assert not found[:, 9:].any()  # nor does anything vote for it
    assert not found[1].any()


def weights_of(weights, mixture=(), epsilon=0.01):
    alone = Fusion.alone(2)
    return Weights(alone._replace(weights=weights, mixture=dict(mixture), epsilon=epsilon))


def test_weights_give_the_formula_of_the_module():
    """Two items, two parts: shares .6 and .1 of one, .25 and .5 of the other; worked in numpy."""
    shares = np.full((2, NUM_WAITS), np.nan)
    shares[:, 2] = 0.75, 0.25  # who was away for one to five minutes
    weights = weights_of(
        {"model": (1.5, 0.0), "text": (0.5, 2.0), "mixture": (0.3, 0.0)},
        {"model": tuple(shares[0]), "text": tuple(shares[1])},
    )
    values = {"model": tf.constant([[6.0, 1.0]]), "text": tf.constant([[0.5, 1.0]])}
    total = {"model": tf.constant([[10.0]]), "text": tf.constant([[2.0]])}
    logs, shift = weights.logs(values, total, tf.constant([100], tf.int64))
    model, text = np.array([0.6, 0.1]), np.array([0.25, 0.5])
    mixed = 0.75 * model + 0.25 * text
    np.testing.assert_allclose((logs["text"] - shift["text"])[0], np.log(text + 0.01), atol=1e-6)
    score = weights.score(tf.constant([[3.0, 4.0]]), logs, shift)[0]
    expected = 1.5 * np.log(model + 0.01) + 0.5 * np.log(text + 0.01) + 0.3 * np.log(mixed + 0.01)
    np.testing.assert_allclose(score, [3, 4] + expected, atol=1e-5)
    np.testing.assert_allclose(weights.of_new(logs, shift)[0], 2 * np.log(text + 0.01), atol=1e-6)
    # other numbers in the same graph
    weights.variables["part_weights"].assign([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    weights.variables["epsilon"].assign(0.02)
    logs, shift = weights.logs(values, total, tf.constant([100], tf.int64))
    score = weights.score(tf.constant([[3.0, 4.0]]), logs, shift)[0]
    np.testing.assert_allclose(score, [3, 4] + 2 * np.log(text + 0.02), atol=1e-5)
    np.testing.assert_allclose(weights.of_new(logs, shift)[0], np.log(model + 0.02), atol=1e-6)


def test_weights_of_the_model_alone():
    weights = weights_of({"model": (1.0, 0.0)}, epsilon=0.0)
    logs, shift = weights.logs(
        {"model": tf.constant([[6.0, 1.0]])},
        {"model": tf.constant([[8.0]])},
        tf.zeros([1], tf.int64),
    )
    found = weights.score(tf.zeros((1, 2)), logs, shift)[0]
    np.testing.assert_allclose(found, np.log([6 / 8, 1 / 8]), atol=1e-6)


def test_seen_share_by_hand():
    """Items 1 and 2 are seen, 1 twice; padding has no share."""
    log_share = np.log([[1e-30, 0.1, 0.1, 0.3], [0.2, 0.25, 0.5, 0.125]]).astype(np.float32)
    history = tf.constant([[0, 1, 1, 2], [3, 4, 5, 6]])
    np.testing.assert_allclose(seen_share(history, log_share), [[0.4], [1.075]], rtol=1e-6)
    assert seen_share(tf.zeros((1, 1), tf.int32), tf.fill([1, 1], -float("inf"))).numpy() == 0


def test_the_buckets_of_the_graph_are_those_of_the_fit():
    seconds = np.array([-5, 0, 1, 59, 60, 1799, 1800, 71_999, 72_000, 604_800, 10**10])
    np.testing.assert_array_equal(wait_bucket(tf.constant(seconds)), wait_buckets(seconds))


def test_total_by_sample_by_hand():
    """Ten items; 1 and 2 are seen, 3 and 4 candidates, 5 and 6 (of six others) drawn."""
    history = tf.constant([[0, 1, 1, 2]])
    candidates, of_candidates = tf.constant([[0, 3, 4]]), tf.constant([[9.0, 0.5, 0.25]])
    sample, of_sample = tf.constant([2, 4, 5, 6]), tf.constant([[7.0, 8.0, 0.1, 0.3]])
    found = total_by_sample(of_candidates, of_sample, candidates, sample, history, 10)
    # six others stand for 0.2 each; what is seen, or a candidate, is not counted twice
    np.testing.assert_allclose(found, [[0.5 + 0.25 + 6 * 0.2]], atol=1e-6)


def test_total_of_a_whole_sample_is_exact():
    rng = np.random.default_rng(0)
    values = rng.random(21).astype(np.float32)
    history = np.array([[0, 3, 7, 7]])
    candidates = np.array([[0, 2, 3, 9]])
    found = total_by_sample(
        *map(tf.constant, (values[candidates], values[None, 1:], candidates, np.arange(1, 21))),
        tf.constant(history),
        20,
    )
    unseen = np.setdiff1d(np.arange(1, 21), history)
    np.testing.assert_allclose(found[0, 0], values[unseen].sum(), rtol=1e-5)
