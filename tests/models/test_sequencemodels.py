import numpy as np
import pytest

from kerasrec.backend import import_bert4keras, keras, tf
from kerasrec.data.histories import NUM_GAP_BUCKETS, gap_buckets
from kerasrec.models.sequencemodels import (
    SEQUENCE_MODELS,
    CausalAttention,
    GatedAttention,
    HistoryMask,
    Normalization,
    ReversePositions,
    TimeBetween,
    TimeBias,
    WithMask,
    build_bert,
    build_hstu,
    build_transformer,
    own_sequence,
)

DIM, MAX_LENGTH = 8, 12
#: buckets of the time before each of the newest events; 0 = unknown
GAPS = np.array([1, 9, 28, 0, 2, 17, 5, 1, 12, 12, 3, 20], np.int32)
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


def states_of(model, vectors, valid_mask, gaps=GAPS):
    """States; of the models that look at times, with those that `GAPS` says."""
    time_gap = np.tile(gaps[len(gaps) - vectors.shape[1] :], (len(vectors), 1))
    return model([vectors, valid_mask, time_gap][: len(model.inputs)]).numpy()


def test_states_are_of_the_shape_of_the_history(model):
    for time in (1, 2, 7, MAX_LENGTH):
        vectors, valid_mask = history(time)
        states = states_of(model, vectors, valid_mask)
        assert states.shape == (3, time, DIM) and np.isfinite(states).all()
        again = states_of(model, vectors, valid_mask)  # no dropout here
        np.testing.assert_array_equal(again, states)


def test_a_later_event_changes_no_earlier_state(model):
    vectors, valid_mask = history(9)
    states = states_of(model, vectors, valid_mask)
    for changed in (0, 4, 8):
        other = vectors.copy()
        other[:, changed] += RNG.normal(size=(3, DIM))
        moved = np.abs(states_of(model, other, valid_mask) - states).max(axis=(0, 2))
        assert (moved[:changed] < 1e-6).all()
        assert (moved[changed:] > 1e-4).all()  # and every later one hears of it


def test_a_masked_later_event_changes_no_earlier_state_either(model):
    vectors, valid_mask = history(6)
    states = states_of(model, vectors, valid_mask)
    valid_mask[:, 5] = False
    masked = states_of(model, vectors, valid_mask)
    np.testing.assert_allclose(masked[:, :5], states[:, :5], atol=1e-6)


@pytest.mark.parametrize("padding", [1, 4, MAX_LENGTH - 4])
def test_padding_on_the_left_changes_no_state(model, padding):
    vectors, valid_mask = history(4)
    noise, _ = history(padding)  # whatever stands in a padded slot
    padded = np.concatenate([noise, vectors], axis=1)
    mask = np.concatenate([np.zeros((3, padding), bool), valid_mask], axis=1)
    states = states_of(model, padded, mask)[:, padding:]
    np.testing.assert_allclose(states, states_of(model, vectors, valid_mask), atol=1e-5)


def test_rows_of_different_lengths_do_not_meet(model):
    vectors, valid_mask = history(7)
    valid_mask[1, :5] = False
    valid_mask[2] = False  # an empty history
    states = states_of(model, vectors, valid_mask)
    assert np.isfinite(states).all()
    for row, start in ((0, 0), (1, 5)):
        alone = states_of(model, vectors[row : row + 1, start:], valid_mask[row : row + 1, start:])
        np.testing.assert_allclose(states[row, start:], alone[0], atol=1e-5)


def test_order_counts(model):
    vectors, valid_mask = history(5)
    swapped = vectors[:, [1, 0, 2, 3, 4]]
    difference = states_of(model, vectors, valid_mask) - states_of(model, swapped, valid_mask)
    assert np.abs(difference[:, -1]).max() > 1e-3


def test_the_time_between_events_counts_from_the_later_one_on():
    keras.utils.set_random_seed(0)
    model = build_hstu(DIM, max_length=MAX_LENGTH, num_blocks=2)
    vectors, valid_mask = history(7)
    timeless = np.zeros(7, np.int32)
    states = states_of(model, vectors, valid_mask, timeless)
    np.testing.assert_array_equal(states_of(model, vectors, valid_mask), states)  # not learned yet
    for weight in model.weights:
        if weight.name.endswith("table:0"):
            weight.assign(RNG.normal(size=weight.shape))
    np.testing.assert_array_equal(states_of(model, vectors, valid_mask, timeless), states)
    gaps = np.array([0, 3, 3, 3, 3, 3, 3])
    known = states_of(model, vectors, valid_mask, gaps)
    gaps[4] = 22
    moved = np.abs(states_of(model, vectors, valid_mask, gaps) - known).max(axis=(0, 2))
    assert (moved[:4] == 0).all() and (moved[4:] > 1e-4).all()


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


def test_gated_attention_equals_loops():
    layer = GatedAttention(heads=2, max_length=6)
    vectors, valid_mask = history(5, batch=2)
    valid_mask[1, :2] = False
    bias = RNG.normal(size=(2, 2, 5, 5)).astype(np.float32)
    layer([vectors, valid_mask, bias])
    for weight in (layer.distances, *layer.normalize.weights):
        weight.assign(weight + RNG.normal(size=weight.shape))
    found = layer([vectors, valid_mask, bias]).numpy()
    gain, shift = layer.normalize.get_weights()
    silu = lambda x: x / (1 + np.exp(-x))  # noqa: E731
    gate, value, query, key = np.split(silu(vectors @ layer.inward.numpy()), 4, axis=2)
    distances = layer.distances.numpy()
    for row in range(2):
        for now in range(5):
            joined = np.zeros(8)
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                for t in range(now + 1):
                    if valid_mask[row, t]:
                        logit = query[row, now, part] @ key[row, t, part]
                        logit += distances[head, now - t] + bias[row, head, now, t]
                        joined[part] += silu(logit) * value[row, t, part]
            joined = (joined - joined.mean()) / np.sqrt(joined.var() + layer.normalize.epsilon)
            expected = (joined * gain + shift) * gate[row, now] @ layer.outward.numpy()
            np.testing.assert_allclose(found[row, now], expected, atol=1e-4)


def test_time_between_by_hand():
    # buckets 2 and 4 count as 1.5 and 10.5 seconds, which is 12 together: bucket 4 again
    found = TimeBetween()(np.array([[7, 2, 4, 0, 1]]))[0].numpy()
    assert found.tolist() == [
        [0, 0, 0, 0, 0],
        [2, 0, 0, 0, 0],
        [4, 4, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0],
    ]


def test_time_between_is_that_of_the_clock_or_the_bucket_beside_it():
    every = np.arange(1, NUM_GAP_BUCKETS + 1)[None]
    found = TimeBetween()(every)[0].numpy()
    np.testing.assert_array_equal(np.diagonal(found, -1), every[0, 1:])
    seconds = np.concatenate([[10**9], (2.0 ** RNG.uniform(0, 22, size=19)).astype(int)]).cumsum()
    gaps = gap_buckets(seconds, np.array([0, 20]))[None]
    found = TimeBetween()(gaps)[0].numpy()
    exact = 1 + np.floor(np.log2(np.maximum(seconds[:, None] - seconds[None], 0) + 1))
    earlier = np.tri(20, k=-1, dtype=bool)
    assert np.abs(found - exact)[earlier].max() <= 1 and (found[~earlier] == 0).all()


def test_some_training_histories_lose_their_times_as_a_whole():
    found = TimeBetween()(np.full((3000, 3), 5), training=True).numpy()
    lost = (found == 0).all(axis=(1, 2))
    assert (found[~lost, 1:, 0] > 0).all() and 0.02 < lost.mean() < 0.3


def test_time_bias_by_hand():
    layer = TimeBias(heads=2)
    between = np.array([[[0, 0], [3, 0]]])
    assert (layer(between).numpy() == 0).all()
    layer.table.assign(np.arange(1, 2 * NUM_GAP_BUCKETS + 1).reshape(-1, 2))  # 1, 2; 3, 4; 5, 6
    assert layer(between).numpy().tolist() == [[[[0, 0], [5, 0]], [[0, 0], [6, 0]]]]


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


@pytest.mark.parametrize("build", [build_transformer, build_hstu])
def test_heads_must_divide_the_width(build):
    with pytest.raises(ValueError, match="multiple of heads=3. Received: 8. Choose another"):
        build(8, max_length=5, heads=3)


@pytest.mark.parametrize(
    "layer",
    [
        WithMask(),
        HistoryMask(),
        ReversePositions(7),
        CausalAttention(4),
        TimeBetween(),
        TimeBias(4),
        GatedAttention(4, 7),
    ],
)
def test_config_round_trip(layer):
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()


def test_models_round_trip_through_their_config(model):
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    inputs = history(6)
    np.testing.assert_allclose(states_of(again, *inputs), states_of(model, *inputs), atol=1e-6)


def test_normalization_is_that_of_keras():
    values = RNG.normal(3.0, 2.0, size=(4, 5, DIM)).astype(np.float32)
    ours, theirs = Normalization(), keras.layers.LayerNormalization()
    ours(values), theirs(values)
    weights = [RNG.normal(size=(DIM,)).astype(np.float32) for _ in range(2)]
    ours.set_weights(weights), theirs.set_weights(weights)
    np.testing.assert_allclose(ours(values), theirs(values), atol=1e-5)


# --- of the user's own ---

OPTIONS = {"max_length": MAX_LENGTH, "num_blocks": 1, "heads": 2, "dropout": 0.25}


class Gated(keras.layers.Layer):
    """Takes all that a sequence model may see, by name."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def call(self, vectors, valid_mask, time_gap):
        known = tf.cast(valid_mask & (time_gap > 0), vectors.dtype)
        return vectors * known[..., None]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Masked(keras.layers.Layer):
    """Takes Keras' mask."""

    def call(self, vectors, mask):
        return vectors * tf.cast(mask, vectors.dtype)[..., None]


class Listed(keras.layers.Layer):
    """Takes a list, as a function that makes a layer always could have it."""

    def call(self, inputs):
        return inputs[0] * tf.cast(inputs[1], inputs[0].dtype)[..., None]


VECTORS = RNG.normal(size=(2, 3, DIM)).astype(np.float32)
VALID = np.array([[False, True, True], [True, True, True]])
TIMES = np.array([[0, 0, 3], [0, 1, 2]], np.int32)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (Gated(DIM), VALID & (TIMES > 0)),
        (Gated, VALID & (TIMES > 0)),
        (Masked(), VALID),
        (lambda dim: Masked(), VALID),
        (lambda dim, *, dropout, **options: Listed(name=f"by{options['heads']}{dropout}"), VALID),
        (keras.layers.Activation("linear"), np.full((2, 3), True)),
        (lambda dim: keras.Sequential([keras.layers.Activation("linear")]), np.full((2, 3), True)),
    ],
    ids=["layer", "class", "mask", "mask by a function", "list", "plain", "sequential"],
)
def test_a_plain_layer_is_a_sequence_model(given, kept):
    made = own_sequence(given, DIM, OPTIONS)
    inputs = [tf.constant(values) for values in (VECTORS, VALID, TIMES)]
    np.testing.assert_allclose(made(inputs[: len(made.inputs)]), VECTORS * kept[..., None])


def test_a_recurrent_layer_skips_padding():
    keras.utils.set_random_seed(0)
    made = own_sequence(keras.layers.GRU(DIM, return_sequences=True), DIM, OPTIONS)
    states = made([tf.constant(VECTORS), tf.constant(VALID)]).numpy()
    alone = made([tf.constant(VECTORS[:1, 1:]), tf.constant(VALID[:1, 1:])]).numpy()
    np.testing.assert_allclose(states[:1, 1:], alone, atol=1e-6)


def test_each_model_has_weights_of_its_own():
    layer = keras.layers.Conv1D(DIM, 2, padding="causal")
    first, second = (own_sequence(layer, DIM, OPTIONS) for _ in range(2))
    assert len({id(weight) for model in (first, second) for weight in model.weights}) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (keras.layers.GRU(DIM), r"needs return_sequences=True|one state per event"),
        (keras.layers.Dense(3), r"Received: \(batch, 6, 3\).*text_units \+ id_units"),
        (keras.layers.Conv1D(DIM, 3, padding="same"), "whose states change with later events"),
        (
            keras.layers.Bidirectional(keras.layers.SimpleRNN(DIM // 2, return_sequences=True)),
            "whose states change with later events",
        ),
        (keras.layers.MultiHeadAttention(1, 4), "call takes .*It failed: .*missing 1 required"),
        (lambda vectors, valid_mask: vectors, "function that makes one of dim.*missing a required"),
        (lambda dim: None, "Received: NoneType"),
        (5, "Received: 5"),
    ],
)
def test_what_is_no_sequence_model_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        own_sequence(given, DIM, OPTIONS)
