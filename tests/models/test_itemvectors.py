import numpy as np
import pytest

from kerasrec.backend import keras, tf
from kerasrec.models.itemvectors import (
    CodePart,
    DropKnown,
    ItemTokens,
    ItemVectors,
    StepItems,
    TextTable,
    WhiteningLayer,
)
from kerasrec.text.vectors import fit_whitening

HISTORY = np.array([[0, 3, 5], [2, 3, 9]], np.int32)
TARGET = np.array([[0, 5, 0], [3, 9, 7]], np.int32)
RNG = np.random.default_rng(0)


# --- StepItems ---


def step(negatives, whole, **options):
    layer = StepItems(9, negatives, whole=whole, **options)
    return [part.numpy() for part in layer([HISTORY, TARGET])]


@pytest.mark.parametrize("negatives", ["all", "uniform", "in_batch"])
@pytest.mark.parametrize("whole", [True, False])
def test_step_items_rows_lead_back_to_the_items(negatives, whole):
    item_index, history, target, negative = step(negatives, whole, num_negatives=4)
    np.testing.assert_array_equal(item_index[history], HISTORY)
    np.testing.assert_array_equal(item_index[target], TARGET)
    assert item_index[0] == 0
    assert len(set(item_index)) == len(item_index)  # no item is looked up twice
    listed = item_index[negative]
    if negatives == "all":
        assert listed.tolist() == list(range(1, 10))
    elif negatives == "uniform":
        assert len(listed) == 4 and 1 <= listed.min() and listed.max() <= 9
    else:
        assert sorted(listed) == [3, 5, 7, 9]
    needed = {0, *HISTORY.ravel(), *TARGET.ravel(), *listed}
    assert set(item_index) == (set(range(10)) if whole else needed)


def test_step_items_draws_every_item_equally_often():
    layer = StepItems(5, "uniform", num_negatives=99)  # never more than there are items
    drawn = np.stack([layer([HISTORY % 6, TARGET % 6])[3] for _ in range(400)])
    assert drawn.shape == (400, 5)
    shares = np.bincount(drawn.ravel(), minlength=6) / drawn.size
    assert shares[0] == 0
    np.testing.assert_allclose(shares[1:], 0.2, atol=0.04)  # 4.5 standard errors
    assert (drawn[1:] != drawn[:-1]).any(axis=1).mean() > 0.9


# --- TextTable, ItemTokens, WhiteningLayer ---


def test_text_table_looks_up_and_keeps_its_vectors():
    vectors = RNG.normal(size=(3, 2)).astype(np.float32)
    table = TextTable(3, 2)
    table.build(None)
    table.set_vectors(vectors)
    for _ in range(2):  # once the first call built, and emptied, the table again
        found = table(tf.constant([2, 0, 3, 2])).numpy()
        np.testing.assert_array_equal(found, [vectors[1], [0, 0], vectors[2], vectors[1]])
    assert table.trainable_weights == []


def test_text_table_keeps_its_vectors_in_a_keras_model():
    vectors = RNG.normal(size=(3, 2)).astype(np.float32)
    table = TextTable(3, 2)
    table.build(None)
    table.set_vectors(vectors)
    index = keras.Input((), dtype="int32")
    model = keras.Model(index, table(index))
    np.testing.assert_array_equal(model(np.array([1, 3]))[:, 0], vectors[[0, 2], 0])


def item_tokens():
    tokens = np.array([[5, 6, 0, 0, 0], [7, 0, 0, 0, 0], [5, 7, 8, 9, 0]], np.int32)
    segments = np.array([[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 0]], np.int32)
    layer = ItemTokens(3, 5)
    layer.build(None)
    layer.set_tokens(tokens, segments)
    return layer


@pytest.mark.parametrize(
    "index, tokens, segments",
    [
        ([1, 2], [[5, 6], [7, 0]], [[0, 1], [1, 0]]),
        ([2], [[7]], [[1]]),
        ([3, 2], [[5, 7, 8, 9], [7, 0, 0, 0]], [[0, 0, 1, 1], [1, 0, 0, 0]]),
        ([0, 2], [[5, 6], [7, 0]], [[0, 1], [1, 0]]),  # padding: the first item, never no text
    ],
)
def test_item_tokens_cuts_what_is_padding_in_all_rows(index, tokens, segments):
    found = item_tokens()(tf.constant(index))
    assert [part.numpy().tolist() for part in found] == [tokens, segments]


def test_whitening_equals_the_fitted_one():
    raw = RNG.normal(size=(40, 6)).astype(np.float32) @ RNG.normal(size=(6, 6)) + 3
    fitted = fit_whitening(raw.astype(np.float32), 4)
    layer = WhiteningLayer(6, 4)
    layer.build(None)
    layer.set_constants(fitted.mean, fitted.matrix)
    whitened = layer(raw.astype(np.float32)).numpy()
    np.testing.assert_allclose(whitened, fitted.apply(raw.astype(np.float32)), atol=1e-5)
    np.testing.assert_allclose(whitened.mean(axis=0), np.zeros(4), atol=1e-4)
    assert layer.trainable_weights == []
    raw[[3, 5]] = 0
    whitened = layer(raw.astype(np.float32)).numpy()
    assert (whitened[[3, 5]] == 0).all() and (whitened[[0, 4]] != 0).all()
    np.testing.assert_allclose(whitened, fitted.apply(raw), atol=1e-5)


# --- ItemVectors ---


def item_vectors(**options):
    """With text `(n, 4)`, 2 units of text and 2 of id: weights that make the sums easy."""
    layer = ItemVectors(3, **{"text_units": 2, "id_units": 2, **options})
    layer([TEXT, INDEX])
    if layer.text_units:
        layer.projection.assign([[1, 0], [0, 1], [0, 0], [2, 2]])
    if layer.id_units:
        layer.id_table.assign([[9, 9], [1, 2], [3, 4], [5, 6]])
    return layer


TEXT = np.array([[2, 4, 7, 0], [0, 0, 0, 1], [2, 4, 7, 0]], np.float32)
INDEX = np.array([2, 3, 0], np.int32)


def test_item_vectors_by_hand():
    found = item_vectors()([TEXT, INDEX]).numpy()
    # the text part is scaled by 0.5 * 4 ** -0.5; the padding row is zero whatever the tables hold
    np.testing.assert_allclose(found, [[0.5, 1, 3, 4], [0.5, 0.5, 5, 6], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"id_units": 0}, [[0.5, 1], [0.5, 0.5], [0, 0]]),
        ({"text_units": 0}, [[3, 4], [5, 6], [0, 0]]),
    ],
)
def test_item_vectors_of_one_part(options, expected):
    np.testing.assert_allclose(item_vectors(**options)([TEXT, INDEX]), expected)


def test_item_vectors_of_text_alone_have_no_id_part():
    found = item_vectors()([TEXT]).numpy()
    np.testing.assert_allclose(found, [[0.5, 1, 0, 0], [0.5, 0.5, 0, 0], [0.5, 1, 0, 0]])


def test_item_vectors_start_from_the_text_alone():
    layer = ItemVectors(3, text_units=2, id_units=2)
    found = layer([TEXT, INDEX]).numpy()
    np.testing.assert_array_equal(found[:, 2:], np.zeros((3, 2)))
    assert (np.abs(found[:2, :2]).sum(axis=1) > 0).all()
    only_ids = ItemVectors(3, text_units=0, id_units=2)([TEXT, INDEX]).numpy()
    assert (only_ids[0] != only_ids[1]).all()  # zeros would keep all items alike


def test_id_dropout_zeroes_whole_rows_in_training_only():
    layer = item_vectors(id_dropout=0.3)
    index = np.full(4000, 2, np.int32)
    text = np.tile(TEXT[:1], (4000, 1))
    found = layer([text, index], training=True).numpy()
    np.testing.assert_array_equal(found[:, :2], np.tile([0.5, 1], (4000, 1)))  # the text part stays
    kept = (found[:, 2:] == [3, 4]).all(axis=1)
    gone = (found[:, 2:] == 0).all(axis=1)
    assert (kept | gone).all()
    assert gone.mean() == pytest.approx(0.3, abs=0.035)  # 5 standard errors
    assert (layer([text, index], training=False).numpy()[:, 2:] == [3, 4]).all()


def test_id_dropout_spares_items_without_a_text_part():
    layer = item_vectors(id_dropout=0.9, text_units=0)
    found = layer([TEXT, INDEX], training=True).numpy()
    np.testing.assert_array_equal(found, [[3, 4], [5, 6], [0, 0]])


# --- CodePart ---


def test_code_part_by_hand():
    layer = CodePart(3, (2, 3), 2)
    layer.build(None)
    layer.set_codes(np.array([[1, 0], [0, 2], [1, 2]], np.int32))
    # of the first code 0 and 1, then of the second 0, 1 and 2
    layer.vectors.assign([[1, 10], [2, 20], [3, 30], [4, 40], [5, 50]])
    found = layer(tf.constant([2, 0, 1, 3, 2])).numpy()
    # 1 + 5, padding, 2 + 3, 2 + 5
    np.testing.assert_allclose(found, [[6, 60], [0, 0], [5, 50], [7, 70], [6, 60]])
    assert layer(tf.zeros(0, tf.int32)).shape == (0, 2)
    assert [weight.name.split(":")[0] for weight in layer.trainable_weights] == ["vectors"]


def test_code_part_of_what_has_no_codes():
    layer = CodePart(3, (2, 3), 2)
    layer.build(None)
    layer.vectors.assign([[1, 10], [2, 20], [3, 30], [4, 40], [5, 50]])
    layer.set_codes(np.array([[1, 0], [-1, -1], [-1, 2]], np.int32))
    # 2 + 3, nothing, 5 alone
    found = layer(tf.constant([1, 2, 3])).numpy()
    np.testing.assert_allclose(found, [[5, 50], [0, 0], [5, 50]])


def test_what_a_code_learns_all_items_with_it_have():
    layer = CodePart(3, (2, 3), 2)
    layer.build(None)
    layer.set_codes(np.array([[1, 0], [0, 2], [1, 2]], np.int32))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([1, 0])))
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.vectors)).numpy()
    # neither item 2's codes nor the codes at which padding looks
    assert gradient.tolist() == [[0, 0], [1, 1], [1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    "layer",
    [
        StepItems(9, "uniform", num_negatives=4, whole=False),
        TextTable(3, 2),
        ItemTokens(3, 5),
        WhiteningLayer(6, 4),
        ItemVectors(3, text_units=2, id_units=2, id_dropout=0.1),
        CodePart(3, (4, 2), 5),
        DropKnown(2, 0.1),
    ],
    ids=lambda layer: layer.name,
)
def test_config_round_trip(layer):
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
