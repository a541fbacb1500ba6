import functools
import itertools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from toys import histories_of, planted_histories

from kerasrec.backend import keras, tf
from kerasrec.data import histories
from kerasrec.data.sources import read_items
from kerasrec.models.build import (
    EventFeatures,
    PackPositions,
    TextEncoder,
    build_model,
)
from kerasrec.models.interest import INTERESTS
from kerasrec.models.losses import LOSSES
from kerasrec.models.sequencemodels import SEQUENCE_MODELS
from kerasrec.models.validation import Ranker
from kerasrec.text.textmodel import add_lora, set_trainable
from kerasrec.text.vectors import fit_whitening
from kerasrec.versions import exporter

NAMES = ("history", "time_gap", "event", "target")
NUM_ITEMS = 30
TINY = dict(
    text_units=8,
    id_units=8,
    max_length=8,
    scorer_units=8,
    num_negatives=20,
    dropout=0.0,
    input_dropout=0.0,
)
TEXT = np.random.default_rng(0).normal(size=(NUM_ITEMS, 8)).astype(np.float32)
ALL_ITEMS = np.arange(NUM_ITEMS + 1, dtype=np.int32)


def build(**options):
    keras.utils.set_random_seed(0)
    return build_model(NUM_ITEMS, **{"text": TEXT, **TINY, **options})


def some_batches(batch_size=45):
    windows = histories.make_windows(planted_histories(), TINY["max_length"])
    for batch in histories.training_batches(windows, batch_size=batch_size, seed=0):
        yield [batch[name] for name in NAMES]


def interest_of(model, history):
    """U of `history (batch, time)`, by the parts of a `Model`."""
    none = np.zeros_like(history)
    vectors = tf.gather(model.item_vectors(ALL_ITEMS[: model.config["num_items"] + 1]), history)
    return model.interest([vectors, history, none, none]).numpy()


def cosines(model, history):
    vectors = model.item_vectors(ALL_ITEMS).numpy()
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return interest_of(model, history) @ (vectors / np.maximum(lengths, 1e-9)).T


# --- The graph ---


def test_layers_have_stable_names():
    model = build()
    names = {layer.name for layer in model.training.layers}
    assert names >= {
        *("history", "time_gap", "event", "target", "step_items", "item_vectors", "sequence"),
        *("event_features", "fusion", "interest", "interest_loss", "scorer_loss"),
    }
    assert model.training.get_layer("scorer_loss").scorer is model.scorer
    assert model.training.get_layer("interest_loss") is model.loss
    inference = {layer.name for layer in model.interest.layers}
    assert {"interest", "fusion", "sequence"} <= inference
    assert not {"interest_loss", "scorer_loss", "target"} & inference  # no target is needed


def test_parts_share_their_weights():
    model = build()
    history = np.array([[0, 3, 4, 5]], np.int32)
    before = interest_of(model, history)
    item_weights = {id(weight) for weight in model.item_vectors.weights}
    training = {id(weight) for weight in model.training.weights}
    assert item_weights | {id(weight) for weight in model.interest.weights} <= training
    batch = next(some_batches())
    model.training.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    model.training.train_on_batch(batch)
    assert np.abs(interest_of(model, history) - before).max() > 1e-4
    # a new item is an item whose id part is still zero
    model.training.get_layer("item_vectors").id_table.assign(tf.zeros((NUM_ITEMS + 1, 8)))
    known = model.item_vectors(ALL_ITEMS)[1:]
    np.testing.assert_allclose(model.text_part(TEXT), known, atol=1e-6)
    np.testing.assert_array_equal(model.item_vectors(ALL_ITEMS)[0], np.zeros(16))


@pytest.mark.parametrize("sequence", SEQUENCE_MODELS)
def test_padding_changes_no_interest(sequence):
    model = build(sequence=sequence, time_gaps=True, events=True)
    features = model.training.get_layer("event_features")
    rng = np.random.default_rng(0)
    for table in features.weights:
        table.assign(rng.normal(size=table.shape))
    vectors = model.item_vectors(ALL_ITEMS)
    short = [np.array([row], np.int32) for row in ([7, 2, 9], [0, 5, 6], [1, 2, 3])]
    found = []
    for padding in (0, 1, 5):
        padded = [np.pad(values, [(0, 0), (padding, 0)]) for values in short]
        found.append(model.interest([tf.gather(vectors, padded[0]), *padded]).numpy())
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)
    assert np.linalg.norm(found[0]) == pytest.approx(1, abs=1e-5)
    nothing = interest_of(model, np.zeros((1, 4), np.int32))
    assert np.isfinite(nothing).all()


@pytest.mark.parametrize("sequence", SEQUENCE_MODELS)
def test_training_output_is_the_interest_of_each_position_with_a_target(sequence):
    drops = dict(dropout=0.0, input_dropout=0.0, id_dropout=0.0)
    model = build(sequence=sequence, loss="infonce", **drops)
    history = np.array([[0, 3, 4], [7, 8, 9]], np.int32)
    target = np.array([[0, 4, 5], [8, 0, 10]], np.int32)
    none = np.zeros_like(history)
    outputs = model.training([history, none, none, target]).numpy()
    expected = [interest_of(model, np.array([row]))[0] for row in ([3], [3, 4], [7], [7, 8, 9])]
    # where positions are counted from the newest event only the last states are the same
    same = slice(None) if sequence in ("rnn", "hstu") else [1, 3]
    np.testing.assert_allclose(outputs[same], np.array(expected)[same], atol=1e-5)
    assert len(outputs) == 4
    assert len(model.training.losses) == 2  # of the interest and of the scorer


def test_time_gaps_and_events_count_where_the_data_has_them():
    history = np.array([[3, 4, 5]], np.int32)
    code = np.array([[0, 2, 1]], np.int32)
    none = np.zeros_like(code)
    for use, given in (({"time_gaps": True}, [code, none]), ({"events": True}, [none, code])):
        model = build(**use)
        (table,) = model.training.get_layer("event_features").weights
        vectors = tf.gather(model.item_vectors(ALL_ITEMS), history)
        before = model.interest([vectors, history, none, none]).numpy()
        np.testing.assert_array_equal(model.interest([vectors, history, *given]), before)
        table.assign(np.random.default_rng(0).normal(size=table.shape))  # it starts at zero
        assert np.abs(model.interest([vectors, history, *given]) - before).max() > 1e-3
        np.testing.assert_allclose(
            model.interest([vectors, history, none, none]), before, atol=1e-6
        )
    assert build().training.get_layer("event_features").weights == []


@pytest.mark.parametrize("time_gaps", [True, False])
def test_hstu_sees_the_time_between_events_where_the_model_does(time_gaps):
    model = build(sequence="hstu", time_gaps=time_gaps)
    (table,) = [w for w in model.interest.weights if w.name.startswith("time_bias")]
    table.assign(np.random.default_rng(0).normal(size=table.shape))
    history = np.array([[3, 4, 5]], np.int32)
    none, vectors = np.zeros_like(history), tf.gather(model.item_vectors(ALL_ITEMS), history)
    timed = model.interest([vectors, history, np.array([[0, 9, 2]], np.int32), none])
    moved = np.abs(timed - model.interest([vectors, history, none, none])).max()
    assert (moved > 1e-4) if time_gaps else (moved == 0)


def test_some_training_histories_lose_their_gaps_and_events_as_a_whole():
    layer = EventFeatures(time_gaps=True, events=True)
    given = [np.zeros((3000, 2, 1), np.float32), *np.ones((2, 3000, 2), np.int32)]
    layer(given)
    for table, value in zip(layer.weights, (1.0, 10.0), strict=True):
        table.assign(tf.fill(table.shape, value))
    assert (layer(given, training=False).numpy() == 11).all()
    found = layer(given, training=True).numpy()[..., 0]
    assert ((found == 11).all(axis=1) | (found == 0).all(axis=1)).all()
    assert 0.02 < (found[:, 0] == 0).mean() < 0.3


def test_pack_positions_by_hand():
    states = np.arange(8.0).reshape(2, 2, 2)
    packed, target, row = PackPositions()([states, np.array([[0, 5], [7, 9]])])
    assert packed.numpy().tolist() == [[2, 3], [4, 5], [6, 7]]
    assert target.numpy().tolist() == [5, 7, 9] and row.numpy().tolist() == [0, 1, 1]


@pytest.mark.parametrize("layer", [PackPositions(), EventFeatures(time_gaps=True, events=False)])
def test_config_round_trip(layer):
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()


# --- Options ---


def test_ids_alone_and_texts_alone():
    ids_alone = build(text=None)
    assert ids_alone.config["text_units"] == 0 and ids_alone.text_part is None
    assert ids_alone.item_vectors(ALL_ITEMS).shape == (31, 8)
    texts_alone = build(id_units=0)
    assert texts_alone.item_vectors(ALL_ITEMS).shape == (31, 8)
    for model in (ids_alone, texts_alone):
        model.training.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
        assert np.isfinite(model.training.train_on_batch(next(some_batches())))


def test_default_loss_depends_on_the_catalogue(tiny_bert, toy_items):
    def loss(num_items, **options):
        return build_model(num_items, id_units=2, heads=1, **options).config["loss"]

    assert loss(30) == "softmax"
    assert loss(5_000) == "sampled_softmax"
    text = text_encoder(tiny_bert, toy_items)[0]
    assert loss(len(toy_items), text=text, text_units=2) == "sampled_softmax"


def test_loss_and_sequence_take_a_callable():
    def far_from(positive, negative, valid_mask, num_items):
        assert num_items == NUM_ITEMS
        valid = tf.cast(valid_mask, tf.float32)
        margin = tf.nn.relu(1.0 + negative - positive[:, None])
        return tf.reduce_sum(margin * valid, axis=1)

    def running_mean(dim, *, max_length, num_blocks, heads, dropout):
        vectors, valid = keras.Input((None, dim)), keras.Input((None,), dtype=bool)
        mean = keras.layers.Lambda(lambda x: tf.cumsum(x, axis=1) / max_length)(vectors)
        return keras.Model([vectors, valid], mean, name="sequence")

    model = build(loss=far_from, sequence=running_mean)
    assert 10 < planted_ranks(model).mean() < 17  # chance
    train(model)
    assert planted_ranks(model).mean() < 8
    assert "far_from" in str(model.config["loss"])


class Turned(keras.layers.Layer):
    """Has a Python `if` on a tensor: AutoGraph must translate it."""

    def call(self, vectors):
        if tf.shape(vectors)[1] > 3:
            return -vectors
        return vectors


def test_python_control_flow_in_the_users_own_parts_is_translated():
    def bounded(positive, negative, valid_mask, num_items):
        loss = LOSSES["bpr"](positive, negative, valid_mask, num_items)
        if tf.size(positive) > 10**6:
            loss = loss * 2
        return loss

    def turned(dim, *, max_length, num_blocks, heads, dropout):
        vectors, valid = keras.Input((None, dim)), keras.Input((None,), dtype=bool)
        return keras.Model([vectors, valid], Turned()(vectors), name="sequence")

    model = build(loss=bounded, sequence=turned, residual=False)
    short, long = (np.full((1, width), 3, np.int32) for width in (3, 5))
    ranker = Ranker(model)
    vectors = ranker.item_vectors()
    for history, sign in ((short, 1), (long, -1)):
        inputs = {"history": history} | dict.fromkeys(("time_gap", "event"), history * 0)
        _, scores = ranker._retrieve(vectors, tf.math.l2_normalize(vectors, axis=-1), inputs)
        assert np.sign(scores.numpy()[0, 3]) == sign
    model.training.compile("adam")
    losses = [model.training.train_on_batch(batch) for batch in some_batches()]
    assert np.isfinite(losses).all()


class Doubling(keras.Model):
    """A user's own class whose `call` asks a tensor."""

    def __init__(self, dim):
        super().__init__(name="sequence")
        self.dense = keras.layers.Dense(dim)

    def call(self, inputs):
        vectors, valid = inputs
        states = self.dense(vectors)
        if tf.reduce_any(valid):
            states = states * 2.0
        return states


def test_a_sequence_model_of_ones_own_may_be_a_class_or_a_function():
    def of_class(dim, **options):
        return Doubling(dim)

    def of_function(dim, **options):
        dense = keras.layers.Dense(dim)
        return lambda inputs: dense(inputs[0])

    histories = planted_histories(num_users=3)
    for made in (of_class, of_function):
        assert Ranker(build(sequence=made)).top(histories, k=2).shape == (3, 2)


# --- Codes ---

#: two levels of 6 and 5 codes, no row twice
CODES = np.stack([np.arange(NUM_ITEMS) % 6, np.arange(NUM_ITEMS) // 6], axis=1)


def code_vectors(model):
    """The vectors of the codes of each item, summed, and a zero row before them."""
    vectors = model.training.get_layer("code_part").vectors.numpy()
    return np.concatenate([np.zeros((1, vectors.shape[1])), vectors[CODES + [0, 6]].sum(axis=1)])


def test_codes_are_a_third_part_of_the_item_vectors():
    model = build(codes=CODES, code_units=4)
    found = model.item_vectors(ALL_ITEMS).numpy()
    assert found.shape == (31, 8 + 8 + 4) and model.config["code_units"] == 4
    np.testing.assert_allclose(found[:, 16:], code_vectors(model), atol=1e-6)
    np.testing.assert_array_equal(found[0], 0)
    # of a new item no code is known
    of_text = model.text_part(TEXT[:3]).numpy()
    assert of_text.shape == (3, 20) and np.abs(of_text[:, :8]).min(axis=1).all()
    np.testing.assert_array_equal(of_text[:, 8:], 0)
    np.testing.assert_allclose(of_text[:, :8], found[1:4, :8], atol=1e-6)
    assert model.config["code_sizes"] == [6, 5] and not {"code_units", "code_sizes"} & set(
        build().config
    )


def test_an_item_without_codes_has_its_other_parts_alone():
    codes = CODES.copy()
    codes[4] = -1
    model = build(codes=codes, heads=3, text_units=6, id_units=6)
    found = model.item_vectors(ALL_ITEMS).numpy()
    assert model.config["code_units"] == 66  # the next multiple of the heads
    np.testing.assert_array_equal(found[5, 12:], 0)
    assert np.abs(found[5, :12]).max() > 0 and np.abs(found[4, 12:]).min() > 0
    # nothing known, as where a version is built again before it has its weights
    empty = build(codes=np.full_like(CODES, -1), code_sizes=[6, 5], code_units=4)
    assert empty.config["code_sizes"] == [6, 5]
    np.testing.assert_array_equal(empty.item_vectors(ALL_ITEMS)[:, 16:], 0)


@pytest.mark.parametrize("sizes", [[6], [6, 4], [5, 5]])
def test_code_sizes_have_room_for_the_codes(sizes):
    with pytest.raises(ValueError, match=r"code_sizes of at least \[6, 5\]. Received: \["):
        build(codes=CODES, code_sizes=sizes)


def test_a_share_of_the_items_is_trained_by_text_alone():
    model = build(codes=CODES, code_units=4, id_dropout=0.5)
    for weight in model.training.trainable_weights:
        if "id_table" in weight.name:
            weight.assign(tf.ones_like(weight))
    found = model.item_vectors(ALL_ITEMS, training=True).numpy()
    whole = model.item_vectors(ALL_ITEMS).numpy()
    dropped = (found[1:, 8:] == 0).all(axis=1)
    assert 5 < dropped.sum() < 25  # of 30; id part and codes go together
    np.testing.assert_allclose(found[1:][~dropped], whole[1:][~dropped], atol=1e-6)
    np.testing.assert_allclose(found[:, :8], whole[:, :8], atol=1e-6)


@pytest.mark.parametrize("given", [CODES.tolist(), CODES.astype(np.uint8), CODES])
def test_items_of_codes_alone_learn(given):
    model = build(text=None, text_units=0, id_units=0, codes=given, code_units=16)
    np.testing.assert_allclose(model.item_vectors(ALL_ITEMS), code_vectors(model), atol=1e-6)
    assert model.text_part is None
    if given is CODES:
        losses = train(model, steps=60)
        assert losses[-1] < losses[0]
        assert planted_ranks(model).mean() < 4  # by chance 13.5
        np.testing.assert_array_equal(model.item_vectors(np.array([0])), 0)


def test_codes_of_one_byte_have_room_for_256_values():
    codes = np.arange(255, -1, -1, dtype=np.uint8)[:, None]
    model = build_model(256, codes=codes, code_units=4, id_units=0)
    vectors = model.training.get_layer("code_part").vectors.numpy()
    np.testing.assert_array_equal(model.item_vectors(np.array([1, 256]))[:, :4], vectors[[255, 0]])


@pytest.mark.slow
def test_codes_alone_train_on_the_toy_data(toy_histories, toy_items):
    keras.utils.set_random_seed(0)
    codes = np.stack([np.arange(len(toy_items)) % 9, np.arange(len(toy_items)) // 9], axis=1)
    model = build_model(len(toy_items), codes=codes, code_units=8, id_units=0, max_length=20)
    windows = histories.make_windows(toy_histories, 20)
    model.training.compile(keras.optimizers.Adam(0.01))
    losses = [
        model.training.train_on_batch([batch[name] for name in NAMES])
        for seed in range(3)
        for batch in histories.training_batches(windows, batch_size=64, seed=seed)
    ]
    assert np.isfinite(losses).all() and np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (
            CODES - 2,
            r"whole numbers from 0 \(-1 = not known\), .*int64 of shape \(30, 2\), least -2",
        ),
        (CODES.astype(float), "codes must be whole numbers .*Received: float64 of shape"),
        (CODES > 2, "codes must be whole numbers .*Received: bool of shape"),
        (CODES[:, 0], r"\(num_items, num_levels\). Received: int64 of shape \(30,\)"),
        (CODES[:0], r"codes needs one row per item \(30\). Received: 0."),
        (CODES[:29], r"codes needs one row per item \(30\). Received: 29."),
        (np.full((30, 1), -2), "least -2"),
        (CODES[:, :0], r"codes must be .*num_levels\). Received: int64 of shape \(30, 0\)"),
    ],
)
def test_bad_codes_are_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        build(codes=codes)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sequence": "lstm"}, "sequence must be one of rnn, .*, hstu. Received: 'lstm'"),
        ({"interest": "ncf"}, "interest must be one of mf, gmf. Received: 'ncf'"),
        ({"loss": "hinge"}, "loss must be one of mse, .*Received: 'hinge'"),
        ({"text_units": 0, "id_units": 0}, "need a text part, an id part or codes"),
        ({"text": None, "id_units": 0}, "need a text part, an id part or codes"),
        ({"text": TEXT[:5]}, r"one row per item \(30\). Received: 5"),
        ({"heads": 3}, "multiple of heads=3"),
    ],
)
def test_build_model_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_build_model_refuses_one_item():
    with pytest.raises(ValueError, match="at least 2 items. Received: num_items=1"):
        build_model(1)


# --- The encoder in the graph ---


def text_encoder(encoder, items):
    """`TextEncoder` of the toy items, and the ready vectors of the same texts."""
    texts = items.texts()
    raw = encoder.encode(texts, cache=None, progress=False)
    whitening = fit_whitening(raw, 6)
    tokens, segments = encoder.tokenizer.encode_batch(texts)
    return TextEncoder(encoder.model, tokens, segments, whitening), whitening.apply(raw)


def toy_batch(num_items):
    rng = np.random.default_rng(0)
    history = rng.integers(1, num_items + 1, (4, 5)).astype(np.int32)
    history[0, :3] = 0
    target = np.roll(history, -1, axis=1)
    target[:, -1] = 1
    target[0, :3] = 0
    return [history, np.zeros_like(history), np.zeros_like(history), target]


def test_frozen_vectors_equal_the_full_graph(tiny_bert, toy_items):
    graph, vectors = text_encoder(tiny_bert, toy_items)
    options = {**TINY, "loss": "infonce"}  # its negatives are not drawn
    full = build_model(len(toy_items), text=graph, **options)
    frozen = build_model(len(toy_items), text=vectors, **options)
    for name in ("item_vectors", "sequence", "event_features", "fusion", "interest"):
        weights = [w + 0.1 for w in full.training.get_layer(name).get_weights()]
        full.training.get_layer(name).set_weights(weights)
        frozen.training.get_layer(name).set_weights(weights)
    assert frozen.encoder is None and full.encoder is not None
    np.testing.assert_allclose(
        full.encoder([graph.token_ids, graph.segment_ids]), vectors, atol=1e-5
    )
    index = np.arange(len(toy_items) + 1, dtype=np.int32)
    np.testing.assert_allclose(full.item_vectors(index), frozen.item_vectors(index), atol=1e-5)
    batch = toy_batch(len(toy_items))
    np.testing.assert_allclose(full.training(batch), frozen.training(batch), atol=1e-5)
    found = [float(model.training.losses[0]) for model in (full, frozen)]
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    np.testing.assert_allclose(full.text_part(vectors), frozen.text_part(vectors), atol=1e-6)


def lora(model):
    add_lora(model, rank=2)


@pytest.mark.parametrize(
    "prepare, moved",
    [
        pytest.param(lambda model: None, lambda name: False, marks=pytest.mark.slow),
        (lambda model: set_trainable(model, 1), lambda name: name.startswith("Transformer-1-")),
        pytest.param(
            lambda model: set_trainable(model, "all"), lambda name: True, marks=pytest.mark.slow
        ),
        (lora, lambda name: "lora" in name),
    ],
    ids=["frozen", "top layer", "all", "lora"],
)
def test_one_step_moves_the_right_weights(tiny_bert, toy_items, prepare, moved):
    graph, _ = text_encoder(tiny_bert, toy_items)
    prepare(tiny_bert.model)
    keras.utils.set_random_seed(0)
    model = build_model(len(toy_items), text=graph, **TINY)
    model.training.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    before = snapshot(tiny_bert.model.weights)
    rest = [w for w in model.training.weights if id(w) not in map(id, tiny_bert.model.weights)]
    rest_before = snapshot(rest)
    for _ in range(2):  # the first step moves the id part only off zero
        assert np.isfinite(model.training.train_on_batch(toy_batch(len(toy_items))))
    changed = moved_names(tiny_bert.model.weights, before)
    assert bool(changed) == any(map(moved, before))
    assert all(map(moved, changed))
    # a bias of the keys shifts all logits of a row alike, so it stays where it is
    assert all("bias" in name for name in set(filter(moved, before)) - changed)
    changed = moved_names(rest, rest_before)
    assert not {"mean:0", "matrix:0", "token_ids:0", "segment_ids:0"} & changed
    for part in ("projection:0", "id_table:0", "interest/kernel:0", "fusion/gains:0"):
        assert any(name.endswith(part) for name in changed)


def snapshot(weights):
    return {weight.name: weight.numpy() for weight in weights}


def moved_names(weights, before):
    return {weight.name for weight in weights if (weight.numpy() != before[weight.name]).any()}


# --- Every sequence model x interest x loss ---

GRID = list(itertools.product(SEQUENCE_MODELS, INTERESTS, LOSSES))
#: every loss and every sequence model with both interests, which is where they meet; the others
#: are slow tests
PAIRS = [
    (tuple(SEQUENCE_MODELS)[(place + 2 * number) % 4], interest, loss)
    for number, interest in enumerate(INTERESTS)
    for place, loss in enumerate(LOSSES)
]
LEARNS = [
    pytest.param(*names, id="-".join(names), marks=[] if names in PAIRS else [pytest.mark.slow])
    for names in GRID
]
#: these of `PAIRS` go through `export` itself (as the fixture `exported_version` does)
EXPORTED = [
    ("rnn", "gmf", "bpr"),
    ("transformer", "mf", "gbce"),
    ("bert", "gmf", "sampled_softmax"),
    ("hstu", "mf", "softmax"),
]


def train(model, *, steps=6, rate=0.05):
    """Descent by the signs of the gradient, on all users at once: in few steps it learns much."""
    (batch,) = some_batches(batch_size=90)
    weights = model.training.trainable_variables

    def step(size):
        with tf.GradientTape() as tape:
            model.training(batch, training=True)
            loss = tf.add_n(model.training.losses)
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(size * tf.sign(tf.convert_to_tensor(gradient)))
        return loss

    step = step if steps < 10 else tf.function(step)  # tracing costs as much as 10 steps
    sizes = rate * (1 - np.arange(steps, dtype=np.float32) / steps)
    return [float(step(tf.constant(size))) for size in sizes]


@functools.cache
def trained_model(sequence, interest, loss):
    model = build(sequence=sequence, interest=interest, loss=loss)
    # mse knows no temperature: it learns in many small steps
    losses = train(model, **({"steps": 100, "rate": 0.02} if loss == "mse" else {}))
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    return model


def planted_rows():
    """30 histories of 4 items; the next item of row r is row r's number + 5, round the circle."""
    rows = (np.arange(NUM_ITEMS)[:, None] + np.arange(4)) % NUM_ITEMS + 1
    return rows.astype(np.int32), (np.arange(NUM_ITEMS) + 4) % NUM_ITEMS + 1


def planted_ranks(model):
    """Rank of the planted next item among the 26 unseen; 13.5 by chance."""
    history, wanted = planted_rows()
    scores = cosines(model, history)
    np.put_along_axis(scores, np.pad(history, [(0, 0), (1, 0)]), -2, axis=1)
    return (scores >= scores[np.arange(NUM_ITEMS), wanted][:, None]).sum(axis=1)


@pytest.mark.parametrize("sequence, interest, loss", LEARNS)
def test_every_combination_learns_the_planted_pattern(sequence, interest, loss):
    # 30 ranks of 1..26 have a mean of 13.5 +- 1.4 by chance
    assert planted_ranks(trained_model(sequence, interest, loss)).mean() < 8


RELOAD = """
import sys
for name in ("bert4keras", "tf_keras", "keras", "kerasrec"):
    sys.modules[name] = None  # importing them is an error here
import numpy as np
import tensorflow as tf
folder, *versions = sys.argv[1:]
given = np.load(f"{folder}/given.npz")
answers = {}
history = tf.constant(given["ids"].astype(str))
for version in versions:
    served = tf.saved_model.load(version).signatures
    name = version.split("/")[-2]
    answers[f"{name} interest"] = served["interest"](history=history)["interest"]
    answers[f"{name} vectors"] = served["item_vectors"](item_ids=history[:, 0])["vectors"]
    best = served["serving_default"](history=history)
    answers[f"{name} best"] = best["item_ids"].numpy().astype(str)
    candidates = {"history": history, "candidates": best["item_ids"][:, :10]}
    answers[f"{name} scores"] = best["scores"][:, :10]
    answers[f"{name} again"] = served["score"](**candidates)["scores"]
grid = tf.saved_model.load(f"{folder}/grid")
for name, call in zip(given["names"], grid.calls):
    answers[f"{name} grid interest"], answers[f"{name} mlp"] = call(tf.constant(given["history"]))
np.savez(f"{folder}/answers.npz", **answers)
"""


def answers_of(model):
    """A function of histories of item indices: U and the MLP's scores of all items."""
    vectors = tf.Variable(model.item_vectors(ALL_ITEMS))

    @tf.function  # without a signature: with one it would be traced again to be saved
    def answer(history):
        none = tf.zeros_like(history)
        interest = model.interest([tf.gather(vectors, history), history, none, none])
        unit = tf.math.l2_normalize(vectors, axis=-1)
        repeated = tf.repeat(unit[None], tf.shape(history)[0], axis=0)
        return interest, model.scorer([interest, repeated], training=False)

    return answer, [vectors, *model.interest.variables, *model.scorer.variables]


@pytest.mark.slow
def test_all_parts_export_and_one_fresh_process_reloads_them_all(tmp_path):
    """`PAIRS` as the parts that differ (item vectors, U, MLP): no loss is in them; one of each
    sequence model by `export` itself."""
    ids = [f"i{number}" for number in range(1, NUM_ITEMS + 1)]
    items = read_items(pd.DataFrame({"item_id": ids, "title": ids}))
    versions, grid = [], tf.Module()
    for names in EXPORTED:
        options = {"items": items}
        base = tmp_path / "-".join(names)
        model = trained_model(*names)
        versions.append(exporter.export(model, base, manifest={"name": base.name}, **options))
    history, wanted = planted_rows()
    rows, expected = tf.constant(history), {}
    assert set(EXPORTED) < set(PAIRS)
    for names in PAIRS:
        call, variables = answers_of(trained_model(*names))
        expected["-".join(names)] = call(rows)
        grid.calls = [*getattr(grid, "calls", []), call]
        grid.kept = [*getattr(grid, "kept", []), *variables]
    tf.saved_model.save(grid, str(tmp_path / "grid"))
    given = {"ids": np.array(ids)[history - 1], "history": history, "names": list(expected)}
    np.savez(tmp_path / "given.npz", **given)
    command = [sys.executable, "-c", RELOAD, str(tmp_path), *map(str, versions)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "answers.npz") as saved:
        found = {name: saved[name] for name in saved.files}
    for names in PAIRS:
        name, model = "-".join(names), trained_model(*names)
        interest, mlp = expected[name]
        np.testing.assert_allclose(found[f"{name} grid interest"], interest, atol=1e-5)
        np.testing.assert_allclose(found[f"{name} mlp"], mlp, atol=1e-5)
        if names in EXPORTED:
            interest = interest_of(model, history)
            np.testing.assert_allclose(found[f"{name} interest"], interest, atol=1e-5)
            vectors = model.item_vectors(history[:, 0])
            np.testing.assert_allclose(found[f"{name} vectors"], vectors, atol=1e-5)
            best = found[f"{name} best"]
            scores = cosines(model, history)
            np.put_along_axis(scores, np.pad(history, [(0, 0), (1, 0)]), -2, axis=1)
            assert (best[:, 0] == np.array(ids)[scores.argmax(axis=1) - 1]).mean() > 0.9
            assert (
                np.mean([ids[w - 1] in row[:10] for w, row in zip(wanted, best, strict=True)]) > 0.7
            )
            np.testing.assert_allclose(
                found[f"{name} scores"], found[f"{name} again"], rtol=1e-4, atol=1e-4
            )


def test_one_user_and_one_event_train():
    model = build(loss="sampled_softmax")
    windows = histories.make_windows(histories_of([[1, 2]]), 8)
    (batch,) = histories.training_batches(windows, batch_size=4, seed=0)
    model.training.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    assert np.isfinite(model.training.train_on_batch([batch[name] for name in NAMES]))


def test_a_catalogue_in_the_place_of_its_size():
    table = pd.DataFrame({"item": ["a", "b"], "title": ["甲", "乙"]})
    for wrong, received in ((read_items(table), "Items"), (table, "DataFrame"), (2.5, "2.5")):
        with pytest.raises(TypeError, match=f"Received: {received}. Pass its length, build_model"):
            build_model(wrong)


@pytest.mark.parametrize(
    ("given", "received"),
    [(None, "it returns nothing"), ("text", "Received: string"), (tf.constant(1.0), "shape ()")],
)
def test_losses_that_give_no_values_per_position(given, received):
    def loss(positive, negative, valid_mask, num_items):
        return given

    with pytest.raises(ValueError, match="A loss gives one value per position") as refused:
        build_model(NUM_ITEMS, id_units=8, loss=loss)
    assert received in str(refused.value)
