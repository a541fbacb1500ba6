"""The second model, with codes; versions of such models are in test_train_refit."""

import functools

import numpy as np
import pandas as pd
import pytest
from toys import newest_alone, planted_histories

from kerasrec.models.build import build_model
from kerasrec.models.codes import fit_product_codes
from kerasrec.models.validation import Ranker, hold_out_last, quality_per_user
from kerasrec.training.fitting import fit_members, fit_models

NUM_ITEMS = 30
TEXT = np.random.default_rng(0).normal(size=(NUM_ITEMS, 6)).astype(np.float32)
TINY = dict(text_units=4, id_units=8, max_length=8, scorer_units=8, dropout=0.0)
OPTIONS = dict(batch_size=32, learning_rate=1e-2, progress=False)

build = functools.partial(build_model, NUM_ITEMS, text=TEXT, **TINY)
#: where it does not matter what the model is
plain = functools.partial(build, sequence=newest_alone)


@pytest.fixture(scope="module")
def data():
    return hold_out_last(planted_histories())


def ndcg(model, validation):
    lists = Ranker(model).top(validation.histories, 10)
    return quality_per_user(lists, validation, 10)["ndcg"]


def first_vectors(model):
    return Ranker(model).item_vectors().numpy()[1:]


def test_without_codes_it_is_fit_members(data):
    found = fit_models(plain, *data, TEXT, epochs=1, **OPTIONS)
    model, history = fit_members(plain, *data, epochs=1, **OPTIONS)
    pd.testing.assert_frame_equal(
        found.history.drop(columns="seconds"), history.drop(columns="seconds")
    )
    for weight, expected in zip(
        found.model.training.get_weights(), model.training.get_weights(), strict=True
    ):
        np.testing.assert_allclose(weight, expected, atol=1e-6)
    assert found.build is plain and found.facts == {}


@pytest.mark.slow
@pytest.mark.parametrize("text", [TEXT, None], ids=["texts", "no texts"])
def test_the_better_of_two_models_is_kept(data, text, tmp_path):
    """After two epochs the wider one, whose codes know the first, is well ahead."""
    made = functools.partial(build, text=text)
    given = dict(codes=True, epochs=2, run_folder=tmp_path, **OPTIONS)
    found = fit_models(made, *data, text, **given)
    first, _ = fit_members(made, *data, epochs=2, run_folder=tmp_path, **OPTIONS)  # read again
    plain, coded = ndcg(first, data[1]), ndcg(found.model, data[1])
    gain = coded - plain
    error = gain.std(ddof=1) / len(gain) ** 0.5
    facts = found.facts["codes"]
    assert facts["taken"] and gain.mean() > error
    assert (facts["without"], facts["with"], facts["se"]) == pytest.approx(
        (plain.mean(), coded.mean(), error), abs=1e-5
    )
    # as many codes as the vectors of the first model have numbers
    width = 8 + (0 if text is None else 4)
    assert len(found.model.config["code_sizes"]) == width and found.model.config["code_units"] == 64
    assert found.model.item_vectors(np.array([1])).shape == (1, width + 64)
    again = found.build()  # the same codes, fresh weights
    tables = [m.training.get_layer("code_part").table.numpy() for m in (found.model, again)]
    np.testing.assert_array_equal(*tables)
    kept = np.load(tmp_path / "codes" / "codes.npy")
    np.testing.assert_array_equal(kept, fit_product_codes(first_vectors(first), text, parts=width))
    # a run that goes on takes the codes that it began with
    again = fit_models(made, *data, text, **given)
    assert again.facts == found.facts


def test_codes_need_a_validation(data):
    with pytest.raises(ValueError, match="codes=True needs a validation"):
        fit_models(build, data[0], None, TEXT, codes=True, epochs=1, **OPTIONS)


@pytest.mark.slow
def test_a_model_that_is_no_better_is_left(data):
    """After enough epochs both know the pattern."""
    found = fit_models(build, *data, TEXT, codes=True, epochs=25, members=1, **OPTIONS)
    facts = found.facts["codes"]
    assert facts["without"] > 0.95 and not facts["taken"]
    assert "code_units" not in found.model.config and found.build is build
    assert ndcg(found.model, data[1]).mean() == pytest.approx(facts["without"], abs=1e-5)
