"""What a version with members answers after reloading is in test_train_kinds."""

import numpy as np
import pandas as pd
import pytest
from toys import newest_alone, planted_histories

from kerasrec.backend import tf
from kerasrec.models.build import TextEncoder, build_model
from kerasrec.models.codes import fit_product_codes
from kerasrec.models.ensemble import average_models
from kerasrec.models.validation import Ranker, hold_out_last
from kerasrec.training.fitting import best_epochs, fit_members
from kerasrec.training.trainer import Trainer

NUM_ITEMS, TEXT_DIM, DIM = 30, 6, 12
TEXT = np.random.default_rng(0).normal(size=(NUM_ITEMS, TEXT_DIM)).astype(np.float32)
TEXT[7] = 0  # item 8 has no text
TINY = dict(text_units=4, id_units=8, max_length=8, scorer_units=8, dropout=0.0)
OPTIONS = dict(epochs=2, batch_size=32, learning_rate=2e-2, progress=False)


def tiny(**options):
    return build_model(NUM_ITEMS, **{"text": TEXT, **TINY, **options})


def plain():
    """For tests of who is trained for how long."""
    return tiny(sequence=newest_alone)


def random_member(seed, **options):
    """A model with random weights, item vectors of quite different lengths among them."""
    model, rng = tiny(**options), np.random.default_rng(seed)
    for weight in model.training.trainable_weights:
        weight.assign(rng.normal(scale=0.5, size=weight.shape))
    model.loss.log_temperature.assign(np.log(0.1 * (seed + 1)))
    return model


@pytest.fixture(scope="module")
def members():
    return [random_member(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def joined(members):
    return average_models(members)


@pytest.fixture(scope="module")
def data():
    return hold_out_last(planted_histories())


HISTORY = np.array([[0, 0, 3, 7], [2, 9, 9, 1], [0, 0, 0, 0]], np.int32)


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def parts_of(model):
    """Unit interests of HISTORY, unit item vectors and the logits, in numpy."""
    vectors, none = Ranker(model).item_vectors().numpy(), np.zeros_like(HISTORY)
    interest = model.interest([vectors[HISTORY], HISTORY, none, none + 1]).numpy()
    logits = interest @ unit(vectors).T / float(model.loss.temperature())
    return interest, unit(vectors), logits


def test_joined_logits_are_the_mean_of_those_of_the_members(members, joined):
    interest, vectors, logits = parts_of(joined)
    assert interest.shape == (3, 3 * (DIM + 1)) and vectors.shape == (31, 3 * (DIM + 1))
    expected = [parts_of(member)[2] for member in members]
    assert np.abs(expected[0] - expected[1]).max() > 1
    np.testing.assert_allclose(logits, np.mean(expected, axis=0), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(interest[:2], axis=1), 1, atol=1e-5)


def test_joined_item_vectors_have_unit_length_and_padding_stays_zero(members, joined):
    raw = Ranker(joined).item_vectors().numpy()
    assert (raw[0] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(raw[1:], axis=1), 1, atol=1e-6)
    cosines = [parts_of(member)[1] @ parts_of(member)[1].T for member in members]
    np.testing.assert_allclose(unit(raw) @ unit(raw).T, np.mean(cosines, axis=0), atol=1e-5)


def test_text_part_is_that_of_each_member_and_nothing_for_no_text(members, joined):
    joined_parts = joined.text_part(TEXT).numpy().reshape(NUM_ITEMS, 3, DIM + 1)
    assert (joined_parts[7] == 0).all()
    for number, member in enumerate(members):
        expected = unit(member.text_part(TEXT).numpy()) / 3**0.5
        np.testing.assert_allclose(joined_parts[:, number, :-1], expected, atol=1e-6)
    assert average_models([tiny(text=None) for _ in range(2)]).text_part is None


def test_a_new_item_in_a_history_is_the_same_to_each_member(members, joined):
    """Its vector, made of its text alone, keeps the length that the sequence model has learned."""
    events = [HISTORY[:1], HISTORY[:1] * 0, HISTORY[:1] * 0]
    text = TEXT[[1, 2, 3, 4]]
    found = joined.interest([joined.text_part(text)[None], *events]).numpy()
    for number, member in enumerate(members):
        expected = member.interest([member.text_part(text)[None], *events]).numpy()
        mine = found.reshape(3, DIM + 1)[number, :-1]
        np.testing.assert_allclose(unit(mine), expected[0], atol=1e-4)


def test_mlp_is_the_mean_of_those_of_the_members(members, joined):
    def scores(model):
        interest, vectors, _ = parts_of(model)
        candidates = np.array([[1, 2], [30, 4], [0, 8]])
        return model.scorer([interest, vectors[candidates]], training=False).numpy()

    expected = [scores(member) for member in members]
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    np.testing.assert_allclose(scores(joined), np.mean(expected, axis=0), atol=1e-4)


def test_ranker_gives_the_geometric_mean_of_the_softmaxes(members, joined, data):
    some = data[0].select(np.arange(5))
    rows = [Ranker(member).probabilities()(some)[0] for member in members]
    expected = np.exp(np.mean(np.log(rows), axis=0))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Ranker(joined).probabilities()(some)[0], expected, atol=1e-5)


def test_losses_on_plain_cosines_and_gmf():
    members = [random_member(seed, loss="mse", interest="gmf") for seed in range(2)]
    joined = average_models(members)
    assert float(joined.loss.temperature()) == pytest.approx(1.0)
    expected = np.mean([parts_of(member)[2] for member in members], axis=0)
    np.testing.assert_allclose(parts_of(joined)[2], expected, atol=1e-5)


def test_average_of_one_is_that_one(members):
    assert average_models(members[:1]) is members[0]


def test_average_models_refuses(members, tiny_bert):
    with pytest.raises(ValueError, match="at least one model. Received: none"):
        average_models([])
    first = members[0]
    with pytest.raises(ValueError, match="same options. Received: .* differ in heads, max_length"):
        average_models([first, tiny(heads=1), tiny(max_length=9)])
    codes = fit_product_codes(np.random.default_rng(0).normal(size=(NUM_ITEMS, 8)), parts=4)
    coded = tiny(codes=codes)
    for models in ([first, coded], [coded, first]):
        with pytest.raises(ValueError, match="differ in code_sizes, code_units"):
            average_models(models)
    tokens = np.ones((NUM_ITEMS, 4), np.int32)
    whitening = type("W", (), {"mean": np.zeros(16), "matrix": np.eye(16)})
    learns = tiny(text=TextEncoder(tiny_bert.model, tokens, tokens * 0, whitening))
    with pytest.raises(ValueError, match="with an encoder in the graph. .*encoder.mode='frozen'"):
        average_models([learns, learns])


# --- training ---


@pytest.mark.slow
def test_members_are_trained_as_alone_with_the_next_seeds(data, tmp_path):
    model, history = fit_members(tiny, *data, members=2, seed=3, run_folder=tmp_path, **OPTIONS)
    assert history["member"].tolist() == [1, 1, 2, 2] and history["epoch"].tolist() == [1, 2, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["member-1", "member-2"]
    second = Trainer(tiny, seed=4, **OPTIONS)
    np.testing.assert_allclose(history["loss"][2:], second.fit(*data)["loss"], rtol=1e-4)
    vectors = Ranker(model).item_vectors().numpy().reshape(31, 2, DIM + 1)[:, 1, :-1]
    expected = unit(Ranker(second.model).item_vectors().numpy())
    assert (unit(vectors) * expected).sum(axis=1)[1:].min() > 0.999
    # a run that is done is not trained again
    again, rows = fit_members(tiny, *data, members=2, seed=3, run_folder=tmp_path, **OPTIONS)
    pd.testing.assert_frame_equal(rows, history)
    np.testing.assert_allclose(parts_of(again)[2], parts_of(model)[2], atol=1e-5)
    with pytest.raises(ValueError, match="member-1 holds another run"):
        fit_members(tiny, *data, members=2, seed=4, run_folder=tmp_path, **OPTIONS)


def test_one_member_is_a_plain_run(data, tmp_path):
    model, history = fit_members(plain, *data, run_folder=tmp_path, **OPTIONS)
    assert "member" not in history and "members" not in model.config
    assert (tmp_path / "history.csv").exists()


def test_each_member_stops_after_its_own_epochs(data):
    history = fit_members(plain, data[0], None, members=2, stop_after=[1, 2], **OPTIONS)[1]
    assert history["member"].tolist() == [1, 2, 2]


def test_best_epochs_by_hand():
    history = pd.DataFrame({"valid_ndcg@10": [0.1, 0.3, 0.2, 0.4, 0.5, 0.4]})
    assert best_epochs(history) == [5]
    assert best_epochs(history.assign(member=[1, 1, 1, 2, 2, 2])) == [2, 2]


@pytest.mark.slow
def test_training_goes_on_for_all_members(data):
    members = [random_member(seed) for seed in range(2)]
    joined = average_models(members)
    before = [model.training.get_weights() for model in members]
    trainer = Trainer(joined, **{**OPTIONS, "epochs": 4})
    history = trainer.fit(*data)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    for model, old in zip(members, before, strict=True):
        changed = [
            not np.array_equal(weight.numpy(), w)
            for weight, w in zip(model.training.weights, old, strict=True)
            if weight.trainable
        ]
        assert np.mean(changed) > 0.8
    expected = np.mean([parts_of(member)[2] for member in members], axis=0)
    np.testing.assert_allclose(parts_of(joined)[2], expected, atol=1e-4)  # temperatures have moved


@pytest.mark.parametrize("kind", ["precision", "strategy"])
@pytest.mark.slow
def test_mixed_precision_and_a_strategy(data, kind):
    value = "mixed_bfloat16" if kind == "precision" else tf.distribute.MirroredStrategy(["CPU:0"])
    model, _ = fit_members(tiny, *data, members=2, **{**OPTIONS, "epochs": 1, kind: value})
    assert Ranker(model).item_vectors().dtype == tf.float32
    assert Ranker(model).top(data[1].histories).shape == (90, 10)
