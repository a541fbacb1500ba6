import math

import numpy as np
import pytest

from kerasrec.backend import import_bert4keras, keras, tf
from kerasrec.models.interest import Interest, InterestLoss, LongShortFusion
from kerasrec.models.losses import LOSSES

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


# --- LongShortFusion ---


@pytest.fixture
def fusion():
    layer = LongShortFusion()
    layer([normal(1, 2, 3), normal(1, 2, 3), np.ones((1, 2), bool)])
    layer.decay_logits.assign([math.log(0.5 / 0.5), math.log(0.8 / 0.2)])  # decays 0.5 and 0.8
    layer.gains.assign([[1, 2, 3], [0.5, 0, -1]])
    return layer


def test_long_short_fusion_equals_loops(fusion):
    states, vectors = normal(2, 4, 3), normal(2, 4, 3)
    valid_mask = np.array([[True] * 4, [False, False, True, True]])
    found = fusion([states, vectors, valid_mask]).numpy()
    for row in range(2):
        for now in range(4):
            expected = states[row, now].copy()
            for decay, gain in ((0.5, [1, 2, 3]), (0.8, [0.5, 0, -1])):
                seen = [t for t in range(now + 1) if valid_mask[row, t]]
                if seen:
                    weights = [decay ** (now - t) for t in seen]
                    expected += gain * np.average(vectors[row, seen], axis=0, weights=weights)
            np.testing.assert_allclose(found[row, now], expected, atol=1e-5)


def test_long_short_fusion_knows_neither_padding_nor_future(fusion):
    states, vectors = normal(1, 5, 3), normal(1, 5, 3)
    valid_mask = np.array([[False, False, True, True, True]])
    found = fusion([states, vectors, valid_mask]).numpy()
    alone = fusion([states[:, 2:], vectors[:, 2:], valid_mask[:, 2:]]).numpy()
    np.testing.assert_allclose(found[:, 2:], alone, atol=1e-6)
    later = vectors.copy()
    later[:, 4] += 1
    changed = fusion([states, later, valid_mask]).numpy()
    np.testing.assert_array_equal(changed[:, :4], found[:, :4])


# --- Interest ---


@pytest.mark.parametrize("kind", ["mf", "gmf"])
def test_interest_is_of_unit_length_and_starts_as_the_state(kind):
    states = np.concatenate([normal(3, 4), np.zeros((1, 4), np.float32)])
    found = Interest(kind)(states).numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(
        found[:3], states[:3] / np.linalg.norm(states[:3], axis=1)[:, None], atol=1e-6
    )
    sequences = np.stack([states, states])
    np.testing.assert_allclose(Interest(kind)(sequences)[1], found, atol=1e-6)


def test_mf_is_the_projection():
    layer = Interest("mf")
    states, kernel = normal(5, 4), normal(4, 4)
    layer(states)
    layer.kernel.assign(kernel)
    raw = states @ kernel
    expected = raw / np.linalg.norm(raw, axis=1)[:, None]
    np.testing.assert_allclose(layer(states), expected, atol=1e-5)


def test_gmf_weights_fold_into_the_interest():
    """w . (U * e) must be the plain dot product with the interest that is exported."""
    layer = Interest("gmf")
    states, kernel, gmf, items = normal(5, 4), normal(4, 4), normal(4), normal(7, 4)
    layer(states)
    layer.kernel.assign(kernel)
    layer.gmf.assign(gmf)
    raw = states @ kernel
    by_formula = np.array([[np.sum(gmf * (u * e)) for e in items] for u in raw])
    length = np.linalg.norm(raw * gmf, axis=1)[:, None]
    np.testing.assert_allclose(layer(states) @ items.T, by_formula / length, atol=1e-5)


def test_interest_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="interest must be one of mf, gmf. Received: 'ncf'"):
        Interest("ncf")


# --- InterestLoss ---

ITEMS = np.concatenate([np.zeros((1, 4)), normal(6, 4) * 3]).astype(np.float32)
POSITIVE = np.array([2, 5, 2], np.int32)
NEGATIVE = np.array([1, 2, 4, 5, 6], np.int32)
INTEREST = normal(3, 4)
INTEREST /= np.linalg.norm(INTEREST, axis=1)[:, None]


def losses_by_loop(loss, temperature, bias):
    unit = ITEMS / np.maximum(np.linalg.norm(ITEMS, axis=1)[:, None], 1e-9)
    values = []
    for user, taken in zip(INTEREST, POSITIVE, strict=True):
        cosines = [unit[i] @ user for i in (taken, *NEGATIVE)]
        scores = tf.constant([cosines], tf.float32) / temperature + bias
        mask = tf.constant([[bool(i != taken) for i in NEGATIVE]])
        values.append(float(LOSSES[loss](scores[:, 0], scores[:, 1:], mask, 6)[0]))
    return values


@pytest.mark.parametrize("loss", LOSSES)
def test_interest_loss_adds_the_mean_loss_and_passes_the_interest_on(loss):
    layer = InterestLoss(loss, 6)
    assert isinstance(layer, import_bert4keras().layers.Loss)
    given = [tf.constant(part) for part in (INTEREST, ITEMS, POSITIVE, NEGATIVE)]
    layer(given)
    layer.log_temperature.assign(math.log(0.5))
    bias = 0.0
    if loss in ("bce", "gbce"):  # the level of a score counts
        bias = 0.8
        layer.bias.assign(bias)
    np.testing.assert_array_equal(layer(given), INTEREST)
    (added,) = layer.losses
    temperature = 1 if loss == "mse" else 0.5  # mse wants cosines as they are
    assert float(layer.temperature()) == pytest.approx(temperature)
    expected = np.mean(losses_by_loop(loss, temperature, bias))
    assert float(added) == pytest.approx(expected, rel=1e-5)
    assert len(layer.trainable_weights) == {"mse": 0, "bce": 2, "gbce": 2}.get(loss, 1)


def test_interest_loss_of_no_positions_is_0():
    layer = InterestLoss("softmax", 6)
    none = np.zeros(0, np.int32)
    with tf.GradientTape() as tape:
        outputs = layer([tf.zeros((0, 4)), tf.constant(ITEMS), none, none])
        (added,) = layer.losses
    assert outputs.shape == (0, 4) and float(added) == 0
    assert np.isfinite(tape.gradient(added, layer.log_temperature))


def test_interest_loss_in_a_keras_model_trains_the_interest_alone():
    """The loss layer ends the training model; what is exported stops before it."""
    states = keras.Input((4,))
    items = tf.constant(ITEMS)
    interest = Interest(name="interest")(states)
    positive = keras.Input((), dtype="int32")
    outputs = InterestLoss("bpr", 6)([interest, items, positive, tf.constant(NEGATIVE)])
    model = keras.Model([states, positive], outputs)
    model.compile(keras.optimizers.SGD(1.0))
    batch = [normal(64, 4), RNG.integers(1, 7, 64).astype(np.int32)]
    before = model.evaluate(batch, batch_size=64, verbose=0)
    model.fit(batch, batch_size=64, epochs=5, verbose=0)
    assert model.evaluate(batch, batch_size=64, verbose=0) < before
    exported = keras.Model(states, model.get_layer("interest").output)
    np.testing.assert_allclose(exported(batch[0]), model(batch), atol=1e-6)


def test_temperature_has_a_floor():
    layer = InterestLoss("softmax", 6)
    layer.build(None)
    layer.log_temperature.assign(math.log(1e-9))
    assert 1e-3 < float(layer.temperature()) < 0.1


def test_interest_loss_takes_a_callable():
    def twice(positive, negative, valid_mask, num_items):
        assert num_items == 6
        return 2 * positive + 0 * tf.reduce_sum(tf.where(valid_mask, negative, 0.0), axis=1)

    layer = InterestLoss(twice, 6)
    layer([tf.constant(part) for part in (INTEREST, ITEMS, POSITIVE, NEGATIVE)])
    unit = ITEMS / np.maximum(np.linalg.norm(ITEMS, axis=1)[:, None], 1e-9)
    mean = np.mean([user @ unit[i] for user, i in zip(INTEREST, POSITIVE, strict=True)])
    expected = 2 * mean / float(layer.temperature())
    assert float(layer.losses[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "layer", [LongShortFusion(), Interest("gmf"), InterestLoss("bce", 6)], ids=lambda x: x.name
)
def test_config_round_trip(layer):
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
