import numpy as np
import pytest

from kerasrec.backend import import_bert4keras, keras
from kerasrec.models.sequencemodels import (
    SEQUENCE_MODELS,
    CausalAttention,
    HistoryMask,
    Normalization,
    ReversePositions,
    WithMask,
    build_bert,
    build_transformer,
)

DIM, MAX_LENGTH = 8, 12
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", params=sorted(SEQUENCE_MODELS))
def model(request):
    """Two blocks with weights large enough that every path counts."""
    keras.utils.set_random_seed(0)
    built = SEQUENCE_MODELS[request.param](DIM, max_length=MAX_LENGTH, num_blocks=2)
    rng = np.random.default_rng(1)
    for weight in built.weights:
        weight.assign(weight + rng.normal(scale=0.2, size=weight.shape))
    return built


def history(time, batch=3):
    return RNG.normal(size=(batch, time, DIM)).astype(np.float32), np.ones((batch, time), bool)


def test_states_are_of_the_shape_of_the_history(model):
    for time in (1, 2, 7, MAX_LENGTH):
        vectors, valid_mask = history(time)
        states = model([vectors, valid_mask]).numpy()
        assert states.shape == (3, time, DIM) and np.isfinite(states).all()
        np.testing.assert_array_equal(model([vectors, valid_mask]), states)  # no dropout here


def test_a_later_event_changes_no_earlier_state(model):
    vectors, valid_mask = history(9)
    states = model([vectors, valid_mask]).numpy()
    for changed in (0, 4, 8):
        other = vectors.copy()
        other[:, changed] += RNG.normal(size=(3, DIM))
        moved = np.abs(model([other, valid_mask]).numpy() - states).max(axis=(0, 2))
        assert (moved[:changed] < 1e-6).all()
        assert (moved[changed:] > 1e-4).all()  # and every later one hears of it


def test_a_masked_later_event_changes_no_earlier_state_either(model):
    vectors, valid_mask = history(6)
    states = model([vectors, valid_mask]).numpy()
    valid_mask[:, 5] = False
    masked = model([vectors, valid_mask]).numpy()
    np.testing.assert_allclose(masked[:, :5], states[:, :5], atol=1e-6)


@pytest.mark.parametrize("padding", [1, 4, MAX_LENGTH - 4])
def test_padding_on_the_left_changes_no_state(model, padding):
    vectors, valid_mask = history(4)
    noise, _ = history(padding)  # whatever stands in a padded slot
    padded = np.concatenate([noise, vectors], axis=1)
    mask = np.concatenate([np.zeros((3, padding), bool), valid_mask], axis=1)
    states = model([padded, mask]).numpy()[:, padding:]
    np.testing.assert_allclose(states, model([vectors, valid_mask]), atol=1e-5)


def test_rows_of_different_lengths_do_not_meet(model):
    vectors, valid_mask = history(7)
    valid_mask[1, :5] = False
    valid_mask[2] = False  # an empty history
    states = model([vectors, valid_mask]).numpy()
    assert np.isfinite(states).all()
    for row, start in ((0, 0), (1, 5)):
        alone = model([vectors[row : row + 1, start:], valid_mask[row : row + 1, start:]])
        np.testing.assert_allclose(states[row, start:], alone[0], atol=1e-5)


def test_order_counts(model):
    vectors, valid_mask = history(5)
    swapped = vectors[:, [1, 0, 2, 3, 4]]
    difference = model([vectors, valid_mask]) - model([swapped, valid_mask])
    assert np.abs(difference[:, -1]).max() > 1e-3


def test_bert_is_made_of_bert4keras_layers():
    layers = import_bert4keras().layers
    kinds = [type(layer) for layer in build_bert(DIM, max_length=5, num_blocks=2).layers]
    for kind in (layers.MultiHeadAttention, layers.FeedForward):
        assert kinds.count(kind) == 2
    assert kinds.count(layers.LayerNormalization) == 5  # 1 + 2 per block


@pytest.mark.filterwarnings("error:The initializer")
def test_bert_starts_with_different_kernels():
    """They were all equal: bert4keras hands one initializer to all the kernels of a layer."""
    for seed, equal in ((0, True), (1, False)):
        keras.utils.set_random_seed(0)
        first = build_bert(DIM, max_length=5, num_blocks=2).get_weights()
        keras.utils.set_random_seed(seed)
        second = build_bert(DIM, max_length=5, num_blocks=2).get_weights()
        kernels = [w for w in first if w.shape == (DIM, DIM)]
        assert len(kernels) == 8
        assert len({w.tobytes() for w in kernels}) == 8
        assert all(0.01 < w.std() < 0.03 for w in kernels)  # 0.02, cut at two deviations
        assert all((a == b).all() for a, b in zip(first, second, strict=True)) == equal


# --- Layers ---


def test_causal_attention_equals_loops():
    layer = CausalAttention(heads=2)
    vectors, valid_mask = history(5, batch=2)
    valid_mask[1, :2] = False
    found = layer([vectors, valid_mask]).numpy()
    query, key, value = np.split(layer.inward.numpy(), 3, axis=1)
    for row in range(2):
        for now in range(5):
            visible = [t for t in range(now + 1) if valid_mask[row, t]]
            if not visible:
                continue
            joined = []
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                asked = vectors[row, now] @ query[:, part]
                logits = [asked @ (vectors[row, t] @ key[:, part]) / 2 for t in visible]
                weights = np.exp(logits) / np.exp(logits).sum()
                shown = np.array([vectors[row, t] @ value[:, part] for t in visible])
                joined.append(weights @ shown)
            expected = np.concatenate(joined) @ layer.outward.numpy()
            np.testing.assert_allclose(found[row, now], expected, atol=1e-5)


def test_reverse_positions_count_from_the_newest_event():
    layer = ReversePositions(4)
    layer(np.zeros((1, 4, 1), np.float32))
    layer.positions.assign([[40], [30], [20], [10]])
    for time in (1, 2, 4):
        found = layer(np.zeros((1, time, 1), np.float32))[0, :, 0].numpy()
        assert found.tolist() == [40, 30, 20, 10][4 - time :]


def test_with_mask_passes_the_mask_on():
    vectors, valid_mask = history(3)
    valid_mask[0, 0] = False
    found = WithMask()([vectors, valid_mask])
    np.testing.assert_array_equal(found, vectors)
    np.testing.assert_array_equal(found._keras_mask, valid_mask)


def test_history_mask_by_hand():
    found = HistoryMask()(np.array([[False, True, True]]))[0].numpy().astype(int)
    assert found.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="multiple of heads=3. Received: 8. Choose another"):
        build_transformer(8, max_length=5, heads=3)


@pytest.mark.parametrize(
    "layer", [WithMask(), HistoryMask(), ReversePositions(7), CausalAttention(4)]
)
def test_config_round_trip(layer):
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()


def test_models_round_trip_through_their_config(model):
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    inputs = history(6)
    np.testing.assert_allclose(again([*inputs]), model([*inputs]), atol=1e-6)


def test_normalization_is_that_of_keras():
    values = RNG.normal(3.0, 2.0, size=(4, 5, DIM)).astype(np.float32)
    ours, theirs = Normalization(), keras.layers.LayerNormalization()
    ours(values), theirs(values)
    weights = [RNG.normal(size=(DIM,)).astype(np.float32) for _ in range(2)]
    ours.set_weights(weights), theirs.set_weights(weights)
    np.testing.assert_allclose(ours(values), theirs(values), atol=1e-5)
