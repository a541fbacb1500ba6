import numpy as np
import pytest
from numpybert import make_config, make_weights, vocabulary, write_tf_folder

from kerasrec.backend import keras
from kerasrec.data.datasets import load_mooccube
from kerasrec.text.encoders import build_encoder
from kerasrec.text.textmodel import LoraDense, add_lora, merge_lora, set_trainable

TITLES = load_mooccube()[1].texts()[:64]
VOCAB = vocabulary(TITLES)


def make_folder(folder, model):
    config = make_config(model, len(VOCAB))
    weights = make_weights(model, config)
    return write_tf_folder(folder / model, model, config, weights, VOCAB)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("checkpoint"), "bert")


@pytest.fixture
def encoder(folder):
    return build_encoder(folder, max_tokens=24)


def train(encoder, steps=4):
    """A few steps on real titles (their length as target); gives the losses."""
    keras.utils.set_random_seed(0)
    tokens, segments = encoder.tokenizer.encode_batch(TITLES)
    lengths = np.array([[len(t) / 20] for t in TITLES], np.float32)
    outputs = keras.layers.Dense(1, name="head")(encoder.model.output)
    model = keras.Model(encoder.model.inputs, outputs)
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    return model.fit([tokens, segments], lengths, 64, steps, verbose=0).history["loss"]


def snapshot(model):
    return {weight.name: weight.numpy() for weight in model.weights}


def changed(before, model):
    return {name for name, value in snapshot(model).items() if (value != before[name]).any()}


def direct(encoder):
    return encoder.model(list(encoder.tokenizer.encode_batch(TITLES)), training=False).numpy()


def test_frozen_gives_the_vectors_of_the_full_graph(encoder):
    assert encoder.model.trainable_weights == []
    cached = encoder.encode(TITLES, cache=None, progress=False)
    np.testing.assert_allclose(cached, direct(encoder), atol=1e-5)
    before = snapshot(encoder.model)
    losses = train(encoder)  # the head learns, the encoder does not
    assert losses[-1] < losses[0]
    assert changed(before, encoder.model) == set()
    np.testing.assert_array_equal(encoder.encode(TITLES, cache=None, progress=False), cached)


def test_all_trains_every_weight_that_matters(encoder):
    set_trainable(encoder.model, "all")
    before = snapshot(encoder.model)
    vectors = encoder.encode(TITLES, cache=None, progress=False)
    losses = train(encoder)
    assert losses[-1] < losses[0]
    # the key bias shifts all scores of a query alike: its gradient is 0 up to rounding
    still = set(before) - changed(before, encoder.model)
    assert all("bias" in name for name in still)
    after = encoder.encode(TITLES, cache=None, progress=False)
    assert np.abs(after - vectors).max() > 1e-3
    np.testing.assert_allclose(after, direct(encoder), atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_top_layers_only(encoder, num_layers):
    set_trainable(encoder.model, num_layers)
    before = snapshot(encoder.model)
    train(encoder, 2)
    layers = {name.split("-")[1] for name in changed(before, encoder.model)}
    assert layers == {"1"} if num_layers == 1 else {"0", "1"}
    set_trainable(encoder.model, "frozen")
    assert encoder.model.trainable_weights == []


def test_lora_trains_its_own_matrices_only(encoder):
    before_vectors = encoder.encode(TITLES, cache=None, progress=False)
    full_graph = direct(encoder)
    base = snapshot(encoder.model)
    model = add_lora(encoder.model, rank=4)
    assert model.inputs is encoder.model.inputs
    np.testing.assert_array_equal(direct(encoder), full_graph)
    names = [weight.name.split("/")[-1] for weight in model.trainable_weights]
    assert sorted(names) == ["lora_a:0"] * 8 + ["lora_b:0"] * 8  # 2 layers x q, k, v, o
    losses = train(encoder, 6)
    assert losses[-1] < losses[0]
    for name, value in base.items():
        np.testing.assert_array_equal(snapshot(model)[name], value)
    learned = encoder.encode(TITLES, cache=None, progress=False)  # no stale trace
    assert np.abs(learned - before_vectors).max() > 1e-3
    np.testing.assert_allclose(learned, direct(encoder), atol=1e-5)


def test_merge_lora_keeps_what_was_learned(encoder):
    names = {weight.name for weight in encoder.model.weights}
    add_lora(encoder.model, rank=2, alpha=4)
    train(encoder)
    learned = encoder.encode(TITLES, cache=None, progress=False)
    merge_lora(encoder.model)
    np.testing.assert_allclose(
        encoder.encode(TITLES, cache=None, progress=False), learned, atol=1e-5
    )
    assert {weight.name for weight in encoder.model.weights} == names
    assert encoder.model.trainable_weights == []
    add_lora(encoder.model)  # and again


def test_lora_by_hand():
    dense = keras.layers.Dense(2)
    dense.build((None, 3))
    dense.kernel.assign([[1.0, 0], [0, 1], [1, 1]])
    lora = LoraDense(dense, rank=1, alpha=3)
    lora.lora_a.assign([[1.0], [2], [0]])
    lora.lora_b.assign([[1.0, -1]])
    # x W = [4, 5]; x A = 5; 5 * B * 3 / 1 = [15, -15]
    assert lora(np.array([[1.0, 2, 3]], np.float32)).numpy().tolist() == [[19.0, -10.0]]
    assert lora.merged()(np.array([[1.0, 2, 3]], np.float32)).numpy().tolist() == [[19.0, -10.0]]


def test_inside_a_larger_graph(encoder):
    """As build_model uses it: the encoder as one layer of another model."""
    add_lora(encoder.model, rank=2)
    tokens = keras.Input((None,), dtype="int32")
    segments = keras.Input((None,), dtype="int32")
    outputs = keras.layers.Dense(1)(encoder.model([tokens, segments]))
    model = keras.Model([tokens, segments], outputs)
    model.compile("adam", "mse")
    assert len(model.trainable_weights) == 16 + 2
    batch = list(encoder.tokenizer.encode_batch(TITLES[:8]))
    before = snapshot(encoder.model)
    model.fit(batch, np.ones((8, 1)), verbose=0)
    after = changed(before, encoder.model)
    assert after and all("lora" in name for name in after)


def test_errors(encoder, tmp_path):
    for mode in ("none", 0, 3, True, 1.5):
        with pytest.raises(ValueError, match="mode must be|top layers cannot be trained"):
            set_trainable(encoder.model, mode)
    with pytest.raises(ValueError, match="rank must be at least 1. Received: 0"):
        add_lora(encoder.model, rank=0)
    add_lora(encoder.model)
    with pytest.raises(ValueError, match="has LoRA already"):
        add_lora(encoder.model)
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="needs a model with bert4keras attention"):
        add_lora(plain)
    albert = build_encoder(make_folder(tmp_path, "albert"), max_tokens=24)
    with pytest.raises(ValueError, match=r"shares its layers \(ALBERT\).*Use \"all\" or LoRA"):
        set_trainable(albert.model, 1)


@pytest.mark.parametrize(
    "model",
    ["albert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nezha", "roformer_v2"))],
)
def test_other_architectures_train(tmp_path, model):
    encoder = build_encoder(make_folder(tmp_path, model), max_tokens=24)
    set_trainable(encoder.model, "all")
    losses = train(encoder)
    assert losses[-1] < losses[0]
    add_lora(encoder.model)
    losses = train(encoder)
    assert losses[-1] < losses[0]
    merge_lora(encoder.model)
    set_trainable(encoder.model, "all")
    if model == "nezha":  # its position table is computed, not learned
        frozen = {weight.name for weight in encoder.model.non_trainable_weights}
        assert frozen == {"Embedding-Relative-Position/embeddings:0"}
