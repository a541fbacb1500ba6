"""`fit_generator` on the toy data, and what a `Generator` is on disk."""

import json

import numpy as np
import pytest
from toys import histories_of

from kerasrec.data.histories import model_inputs
from kerasrec.generation.generator import Generator, PlanRanker, read_ids
from kerasrec.models.build import build_model
from kerasrec.models.codes import make_trie
from kerasrec.models.ensemble import average_models
from kerasrec.models.validation import Validation, hold_out_last, some_of
from kerasrec.training.generating import fit_generator, text_columns
from kerasrec.training.pipeline import train

TINY = dict(
    levels=2,
    max_items=8,
    units=16,
    num_blocks=1,
    heads=2,
    epochs=2,
    batch_size=64,
    learning_rate=1e-2,
    progress=False,
)


@pytest.fixture(scope="module")
def vectors(toy_items):
    """Item vectors whose first 4 columns are a text part, and text vectors."""
    rng = np.random.default_rng(0)
    item_vectors = rng.normal(size=(len(toy_items), 8)).astype(np.float32)
    return item_vectors, rng.normal(size=(len(toy_items), 6)).astype(np.float32)


@pytest.fixture(scope="module")
def split(toy_histories):
    return hold_out_last(toy_histories)


@pytest.fixture(scope="module")
def fitted(vectors, split):
    known = np.arange(8) < 4
    return fit_generator(*vectors, *split, known=known, **TINY)


@pytest.fixture(scope="module")
def ranker(fitted):
    generator = fitted[0]
    return PlanRanker(generator.decoder, make_trie(generator.ids.codes))


def test_fit_generator_trains_and_validates(fitted, toy_items):
    generator, history = fitted
    assert list(history["epoch"]) == [1, 2]
    assert history["loss"].iloc[1] < history["loss"].iloc[0]
    assert history["valid_ndcg@10"].between(0, 1).all()
    assert (generator.trust, generator.prior) == (1.0, 0.0)
    assert generator.ids.codes.shape == (len(toy_items), 3)
    assert len(np.unique(generator.ids.codes, axis=0)) == len(toy_items)
    facts = json.loads(json.dumps(generator.description()))
    assert facts["options"]["max_items"] == 8 and len(facts["usage"]) == 2
    assert facts["most_alike"] == generator.ids.codes[:, -1].max() + 1


def test_tokens_are_what_the_decoder_reads(fitted):
    generator, _ = fitted
    every = np.arange(len(generator.ids.codes) + 1)
    np.testing.assert_array_equal(generator.tokens(), generator.decoder.items(every))


def test_the_decoder_has_the_item_vectors(fitted, vectors):
    items = fitted[0].decoder.items
    np.testing.assert_allclose(items.vectors_of(np.arange(1, len(vectors[0]) + 1)), vectors[0])


def test_without_validation_texts_and_known_columns(vectors, split):
    options = {**TINY, "epochs": 1, "levels": 1}
    generator, history = fit_generator(vectors[0], None, split[0], None, **options)
    assert len(history) == 1 and not generator.ids.known.any()
    assert generator.ids.codes.shape[1] == 2


# --- on disk ---


@pytest.mark.slow
def test_save_and_load(fitted, ranker, split, tmp_path):
    generator = fitted[0]._replace(trust=0.5, prior=0.7)
    generator.save(tmp_path / "generator.npz")
    with np.load(tmp_path / "generator.npz", allow_pickle=False) as saved:
        assert all(saved[name].dtype != object for name in saved.files)
    again = Generator.load(tmp_path / "generator.npz")
    assert (again.trust, again.prior) == (0.5, 0.7)
    assert again.decoder.config == generator.decoder.config
    for name, value in generator.ids._asdict().items():
        np.testing.assert_array_equal(getattr(again.ids, name), value)
        np.testing.assert_array_equal(getattr(read_ids(tmp_path / "generator.npz"), name), value)
    pairs = zip(
        generator.decoder.training.trainable_weights,
        again.decoder.training.trainable_weights,
        strict=True,
    )
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(again.tokens(), generator.tokens())
    # the vectors come from the version: with them it plans the same
    assert not again.decoder.items.vectors.numpy().any()
    again.decoder.items.vectors.assign(generator.decoder.items.vectors)
    there = PlanRanker(again.decoder, make_trie(again.ids.codes))
    some = split[0].select(np.arange(10))
    for found, expected in zip(there.plans(some, 2), ranker.plans(some, 2), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_load_with_a_catalogue_that_has_grown(fitted, vectors, tmp_path):
    generator, _ = fitted
    generator.save(tmp_path / "generator.npz")
    ids = generator.ids.with_items(vectors[0][:3] + 0.01)
    again = Generator.load(tmp_path / "generator.npz", ids=ids)
    assert len(again.tokens()) == len(generator.tokens()) + 3
    assert again.decoder.config["num_items"] == len(ids.codes)
    again.save(tmp_path / "grown.npz")
    assert len(Generator.load(tmp_path / "grown.npz").ids.codes) == len(ids.codes)


# --- plans ---


def test_plans_of_the_ranker_hold_nothing_seen(ranker, split):
    histories = split[0]
    index, logs = ranker.plans(histories, 3, beams=4)
    assert index.shape == logs.shape == (histories.num_users, 4, 3)
    for row in range(histories.num_users):
        seen = set(histories.select([row]).items.tolist())
        for plan in index[row].tolist():
            assert not seen & set(plan) and len(set(plan)) == 3 and all(plan)
    some = np.array([5, 2])
    alone, _ = ranker.plans(histories.select(some), 3, beams=4)
    np.testing.assert_array_equal(alone, index[some])


def test_top_is_the_first_of_plans_of_one_item(ranker, split):
    histories = split[0].select(np.arange(12))
    index, _ = ranker.plans(histories, 1, beams=16)
    np.testing.assert_array_equal(ranker.top(histories, 10), index[:, :10, 0])
    assert ranker.top(histories, 20).shape == (12, 20)


def test_weights_of_the_ranker_are_left_as_they_were(ranker, split):
    histories = split[0].select(np.arange(4))
    weights = np.ones((4, len(ranker.search.tokens.numpy())))
    weights[:, 9:] = 0
    index, _ = ranker.plans(histories, 1, weights=weights)
    assert index.max() <= 8 and (weights[:, :9] == 1).all()


def test_the_ranker_reads_the_newest_items_only(ranker, split):
    long = split[0].select([int(np.argmax(split[0].lengths))])
    assert long.lengths[0] > 8
    width = model_inputs(long, 8)["history"].shape[1]
    assert width == 8
    newest = long.where(np.arange(long.lengths[0]) >= long.lengths[0] - 7)
    weights = np.ones((1, len(ranker.search.tokens.numpy())))
    weights[0, long.items] = 0
    np.testing.assert_array_equal(
        ranker.plans(long, 1)[0], ranker.plans(newest, 1, weights=weights)[0]
    )


# --- parts ---


def test_text_columns_of_an_average():
    assert text_columns({"text_units": 2, "members": 2}, 6).tolist() == [1, 1, 0, 1, 1, 0]
    assert text_columns({"text_units": 0}, 3).tolist() == [0, 0, 0]
    assert text_columns({"text_units": 2, "members": 1}, 2).tolist() == [1, 1]


def test_text_columns_are_those_of_a_text_part():
    """Of one model and of an average, whose members' vectors stand side by side."""
    text = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    models = [build_model(9, text=text, text_units=3, id_units=5) for _ in range(2)]
    for model in (models[0], average_models(models)):
        vectors = model.text_part(text).numpy()
        known = text_columns(model.config, vectors.shape[1])
        assert known.sum() == 3 * model.config.get("members", 1)
        assert vectors[:, known].any(axis=0).all()
        whole = model.item_vectors(np.arange(1, 10)).numpy()
        assert whole.shape == vectors.shape
        np.testing.assert_allclose(whole[:, known], vectors[:, known], atol=1e-6)


def test_some_of_a_validation(toy_histories):
    _, validation = hold_out_last(toy_histories)
    assert some_of(validation, 10**6) is validation
    some = some_of(validation, 12)
    assert some.histories.num_users == 12
    whole = {
        (validation.histories.user_ids[row], item)
        for row, item in zip(validation.target_rows, validation.target_items, strict=True)
    }
    kept = {
        (some.histories.user_ids[row], item)
        for row, item in zip(some.target_rows, some.target_items, strict=True)
    }
    assert kept == {pair for pair in whole if pair[0] in set(some.histories.user_ids)}
    again = some_of(validation, 12)
    assert again.histories.user_ids.tolist() == some.histories.user_ids.tolist()
    other = some_of(validation, 12, seed=1)
    assert other.histories.user_ids.tolist() != some.histories.user_ids.tolist()


def test_some_of_keeps_all_targets_of_a_user():
    histories = histories_of([[1], [2], [3]])
    validation = Validation(histories, np.array([0, 0, 2]), np.array([5, 6, 7], np.int32))
    some = some_of(validation, 2)
    users = [int(user[1:]) for user in some.histories.user_ids]
    expected = [(users.index(row), item) for row, item in ((0, 5), (0, 6), (2, 7)) if row in users]
    assert list(zip(some.target_rows, some.target_items, strict=True)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [({"units": 10, "heads": 4}, "multiple of heads"), ({"max_items": 1}, "2")],
)
def test_bad_options_are_refused_before_the_work(
    toy_interactions, toy_items, tmp_path, monkeypatch, options, message
):
    def work(*_, **__):
        raise AssertionError("it has begun to work")

    monkeypatch.setattr("kerasrec.training.stages.text_part", work)
    given = dict(name="m", out=tmp_path, options={"generator": options}, progress=False)
    with pytest.raises(ValueError, match=message):
        train(toy_interactions, toy_items, generator=True, **given)
    with pytest.raises(AssertionError):
        train(toy_interactions, toy_items, **given)  # of no use without a generator
