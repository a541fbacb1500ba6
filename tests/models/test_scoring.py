import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasrec.backend import keras, tf
from kerasrec.models import scoring
from kerasrec.models.scoring import (
    Scorer,
    ScorerLoss,
    add_columns,
    exclude,
    exclude_all_but,
    graph_top_k,
    ones_but,
    rerank,
)

RNG = np.random.default_rng(0)
INF = math.inf


def unit(*shape):
    vectors = RNG.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# --- Masks and top k ---

SCORES = tf.constant([[9.0, 1, 2, 3], [9, 4, -5, 6]])


def test_exclude_by_hand():
    found = exclude(SCORES, tf.constant([[0, 2, 2], [0, 0, 3]]))
    assert found.numpy().tolist() == [[-INF, 1, -INF, 3], [-INF, 4, -5, -INF]]
    assert exclude(SCORES, tf.zeros((2, 0), tf.int32)).numpy().tolist() == SCORES.numpy().tolist()
    again = exclude(found, tf.constant([[1], [1]]))
    assert again.numpy().tolist() == [[-INF, -INF, -INF, 3], [-INF, -INF, -5, -INF]]


def test_exclude_all_but_by_hand():
    found = exclude_all_but(SCORES, tf.constant([[2, 0, 2], [0, 0, 0]]))
    assert found.numpy()[:, 1:].tolist() == [[-INF, 2, -INF], [4, -5, 6]]
    found = exclude_all_but(SCORES, tf.constant([[-1, 0], [-1, 3]]))  # -1: no such item
    assert found.numpy()[:, 1:].tolist() == [[-INF] * 3, [-INF, -INF, 6]]
    nothing = exclude_all_but(SCORES, tf.zeros((2, 0), tf.int32))
    assert nothing.numpy().tolist() == SCORES.numpy().tolist()


def test_ones_but_by_hand():
    found = ones_but(tf.constant([[0, 2, 2], [0, 0, 3]]), 4)  # an item may come twice
    assert found.numpy().tolist() == [[0, 1, 0, 1], [0, 1, 1, 0]]
    assert ones_but(tf.zeros((2, 0), tf.int32), 3).numpy().tolist() == [[1] * 3] * 2
    assert ones_but(tf.zeros((0, 2), tf.int32), 3).shape == (0, 3)


def test_add_columns_by_hand():
    found = add_columns(SCORES, tf.constant([3, 1]), tf.constant([[0.5, 1], [-1, 0]]))
    assert found.numpy().tolist() == [[9, 2, 2, 3.5], [9, 4, -5, 5]]
    nothing = add_columns(SCORES, tf.zeros([0], tf.int32), tf.zeros((2, 0)))
    assert nothing.numpy().tolist() == SCORES.numpy().tolist()


def test_top_k_by_hand():
    scores = tf.constant([[-INF, 2, 7, 2, 7], [-INF, -INF, 1, -INF, -INF]])
    index, values = graph_top_k(scores, 3)
    assert index.numpy().tolist() == [[2, 4, 1], [2, 0, 0]]  # ties: the smaller index first
    assert values.numpy().tolist() == [[7, 7, 2], [1, -INF, -INF]]
    assert graph_top_k(scores, 99)[0].shape == (2, 5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([-INF, -1.0, 0.0, 0.5, 2.0]), min_size=2, max_size=12))
def test_top_k_agrees_with_a_full_sort(scores):
    scores[0] = -INF
    expected = [i for s, i in sorted((-s, i) for i, s in enumerate(scores)) if s < INF]
    index = graph_top_k(tf.constant([scores]), 5)[0].numpy()[0]
    found = expected[:5]
    assert index.tolist() == found + [0] * (min(5, len(scores)) - len(found))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([1, 3, 40, 10**6]))
def test_top_k_of_many_columns_agrees_with_a_full_sort(seed, k, values):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, values, (3, 130 + seed % 40)).astype(np.float32)  # ties
    scores[0, rng.permutation(scores.shape[1])[: -rng.integers(1, 8)]] = -INF  # a few may be listed
    scores[1] = -INF
    index, found = (part.numpy() for part in graph_top_k(tf.constant(scores), k))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(index, np.where(expected > -INF, order, 0))


def test_top_k_of_no_rows():
    for columns in (3, 500):
        index, scores = graph_top_k(tf.zeros((0, columns)), 2)
        assert index.shape == scores.shape == (0, 2)


# --- Scorer ---


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def numpy_scorer(layer, user, item):
    """MLP(U * e, U, e) of one pair: one dense layer over the three, joined, in plain numpy."""
    dim = len(user)
    joined = np.concatenate([user * item * dim, user * dim**0.5, item * dim**0.5])
    kernels = layer.pair_kernel, layer.user_kernel, layer.item_kernel
    hidden = gelu(joined @ np.concatenate([k.numpy() for k in kernels]) + layer.bias.numpy())
    return float(hidden @ layer.output_kernel.numpy()[:, 0])


def random_scorer(dim=4, **options):
    layer = Scorer(5, **options)
    layer([unit(1, dim), unit(1, 1, dim)])
    for weight in layer.weights:
        weight.assign(RNG.normal(size=weight.shape))
    return layer


def test_scorer_starts_at_0():
    found = Scorer(6)([unit(3, 4), unit(3, 5, 4)]).numpy()
    assert found.shape == (3, 5) and (found == 0).all()


def test_scorer_equals_numpy():
    layer, users, items = random_scorer(), unit(3, 4), unit(3, 5, 4)
    expected = [
        [numpy_scorer(layer, u, e) for e in row] for u, row in zip(users, items, strict=True)
    ]
    np.testing.assert_allclose(layer([users, items]), expected, atol=1e-4)


def test_scorer_drops_out_in_training_only():
    layer, given_inputs = random_scorer(dropout=0.5), [unit(3, 4), unit(3, 5, 4)]
    calm = layer(given_inputs, training=False)
    assert np.abs(layer(given_inputs, training=True) - calm).max() > 1e-3
    np.testing.assert_array_equal(layer(given_inputs, training=False), calm)
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.get_config() == layer.get_config()


# --- Re-ranking ---


def of(items):
    """Item vectors by index, as `rerank` asks for them."""
    return lambda index: tf.gather(items, index)


def test_rerank_equals_numpy():
    num_items, k = 150, 12
    layer, users = random_scorer(), unit(3, 4)
    items = np.concatenate([np.zeros((1, 4), np.float32), unit(num_items, 4) * 3])
    weight = np.array([0.0, 0.7, 50.0], np.float32)
    scores = (users @ items.T).astype(np.float32)
    scores[:, 0] = -INF
    scores[1, 5:] = -INF  # fewer items than asked for
    scores[0, [7, 9]] = scores[0].max() + 1  # a tie
    index, values = (x.numpy() for x in rerank(scores, users, of(items), layer, weight, k))
    for row, user in enumerate(users):
        retrieved = np.argsort(-scores[row], kind="stable")[:100]
        retrieved = [i for i in sorted(retrieved) if scores[row, i] > -INF]
        fused = [
            scores[row, i] + weight[row] * numpy_scorer(layer, user, items[i] / 3)
            for i in retrieved
        ]
        order = np.argsort(-np.array(fused), kind="stable")[:k]
        expected = [retrieved[i] for i in order]
        assert index[row].tolist() == expected + [0] * (k - len(expected))
        found = values[row][: len(expected)]
        np.testing.assert_allclose(found, [fused[i] for i in order], rtol=1e-4, atol=1e-4)
        assert (values[row][len(expected) :] == -INF).all()
    assert index[0, :2].tolist() == [7, 9]
    assert len(index[2]) == k and set(index[2]) - set(np.argsort(-scores[2])[:k])  # it reorders


def test_rerank_looks_at_the_retrieved_alone(monkeypatch):
    monkeypatch.setattr(scoring, "NUM_RERANKED", 3)

    def scorer(inputs, training):
        return tf.cast(inputs[1][..., 0] * 1000, tf.float32)

    items = np.array([[0], [1], [1], [-1], [-1], [1]], np.float32)
    scores = tf.constant([[-INF, 5, 1, 6, 7, 0]])
    index, _ = rerank(scores, tf.ones((1, 1)), of(items), scorer, tf.ones(1), 2)
    assert index.numpy().tolist() == [[1, 4]]  # 2 and 5 would score more, but were not retrieved
    index, values = rerank(scores, tf.ones((1, 1)), of(items), scorer, tf.ones(1), 6)
    assert index.numpy().tolist() == [[1, 4, 3, 2, 5, 0]]  # a longer list starts with the short one
    assert values.numpy().tolist() == [[1005, -993, -994, -994, -994, -INF]]


# --- ScorerLoss ---

NUM_ITEMS, DIM = 12, 4
ITEMS = np.concatenate([np.zeros((1, DIM), np.float32), unit(NUM_ITEMS, DIM) * 2])
USERS = unit(6, DIM)
POSITIVE = np.array([1, 4, 2, 9, 12, 7], np.int32)
NEGATIVE = np.arange(1, NUM_ITEMS + 1, dtype=np.int32)
HISTORY = np.array([[0, 3, 4, 1], [5, 6, 2, 2], [0, 0, 0, 8]], np.int32)
BATCH_ROW = np.array([0, 0, 1, 1, 2, 2])
TEMPERATURE = 0.3


def scorer_loss(scorer):
    return ScorerLoss(scorer, lambda: tf.constant(TEMPERATURE))


def step_inputs():
    parts = USERS, ITEMS, POSITIVE, NEGATIVE, HISTORY, BATCH_ROW
    return [tf.constant(part) for part in parts]


@pytest.mark.parametrize("num_hard", [4, 50])
def test_scorer_loss_equals_loops(monkeypatch, num_hard):
    monkeypatch.setattr(scoring, "NUM_HARD", num_hard)
    layer = scorer_loss(random_scorer())
    np.testing.assert_array_equal(layer(step_inputs(), training=False), USERS)
    normal = ITEMS / np.maximum(np.linalg.norm(ITEMS, axis=1, keepdims=True), 1e-9)
    values = []
    for user, target, row in zip(USERS, POSITIVE, BATCH_ROW, strict=True):
        cosine = normal @ user
        others = [i for i in NEGATIVE if i != target]
        hard = sorted(others, key=lambda i: -cosine[i])[:num_hard]
        if len(hard) == num_hard and cosine[target] < cosine[hard[-1]]:
            continue  # retrieval would not hand it over
        listed = [target] + [i for i in hard if i not in HISTORY[row]]
        fused = [
            cosine[i] / TEMPERATURE + numpy_scorer(layer.scorer, user, normal[i]) for i in listed
        ]
        values.append(math.log(sum(math.exp(f - fused[0]) for f in fused)))
    assert 0 < len(values) <= 6
    assert (len(values) < 6) == (num_hard == 4)
    np.testing.assert_allclose(float(layer.losses[0]), np.mean(values), rtol=1e-4)


def test_scorer_loss_reaches_the_scorer_alone():
    layer, inputs = scorer_loss(random_scorer()), step_inputs()
    temperature = tf.Variable(TEMPERATURE)
    layer.temperature = lambda: temperature * 1.0
    with tf.GradientTape() as tape:
        tape.watch(inputs[:2])
        layer(inputs, training=True)
        loss = layer.losses[0]
    scorer = layer.scorer.trainable_weights
    gradients = tape.gradient(loss, [*inputs[:2], temperature, *scorer])
    assert gradients[:3] == [None] * 3
    assert all(np.abs(gradient).max() > 0 for gradient in gradients[3:])
    assert len(layer.trainable_weights) == len(scorer) == 5


def test_scorer_loss_draws_at_most_max_positions(monkeypatch):
    monkeypatch.setattr(scoring, "MAX_POSITIONS", 1)
    keras.utils.set_random_seed(0)
    layer = scorer_loss(random_scorer())
    drawn = []
    for _ in range(40):
        layer(step_inputs(), training=False)
        drawn.append(round(float(layer.losses[0]), 4))
    assert len(set(drawn)) == 6  # one position at a time, each of them in turn


@pytest.mark.parametrize("positions, negatives", [(0, 12), (6, 1), (1, 1)])
def test_scorer_loss_of_next_to_nothing_is_finite(positions, negatives):
    layer, inputs = scorer_loss(random_scorer()), step_inputs()
    for place in (0, 2, 5):
        inputs[place] = inputs[place][:positions]
    inputs[3] = inputs[3][:negatives]  # with one position the target itself
    with tf.GradientTape() as tape:
        layer(inputs, training=False)
        loss = layer.losses[0]
    gradients = tape.gradient(loss, layer.scorer.trainable_weights)
    assert np.isfinite(float(loss)) and float(loss) >= 0
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    if positions < 6:
        assert float(loss) == 0
