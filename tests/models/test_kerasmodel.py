"""What `build_model` gives, trained as a Keras user trains."""

import importlib
import inspect
import json
import pydoc

import numpy as np
import pandas as pd
import polars as pl
import pytest
from toys import newest_alone, planted_histories

from kerasrec.backend import keras, tf
from kerasrec.data.sources import read_interactions
from kerasrec.models import kerasmodel
from kerasrec.models.build import build_model
from kerasrec.models.kerasmodel import inputs_of, plot_model
from kerasrec.models.validation import Ranker, hold_out_last, ranking_quality
from kerasrec.training.generating import fit_generator
from kerasrec.training.trainer import Trainer

TINY = dict(id_units=16, max_length=8, scorer_units=8, dropout=0.0, input_dropout=0.0)


def tiny(**options):
    keras.utils.set_random_seed(0)
    return build_model(30, **{**TINY, "sequence": newest_alone, **options})


@pytest.fixture(scope="module")
def data():
    return hold_out_last(planted_histories())


@pytest.fixture(scope="module")
def compiled():
    """For tests of what goes in: one step is traced for all of them."""
    model = tiny()
    model.compile(keras.optimizers.legacy.Adam(0.05))
    return model


def test_a_model_is_one_line_to_read(compiled):
    count = sum(int(np.prod(weight.shape)) for weight in compiled.training.weights)
    assert repr(compiled) == f"Model(30 items, newest_alone, softmax, {count:,} weights)"


def test_compile_and_fit_learn_and_callbacks_see_the_ranking(compiled, data, tmp_path, caplog):
    learned, validation = data
    seen = []
    callbacks = [
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs))),
        keras.callbacks.EarlyStopping("val_ndcg@10", mode="max", min_delta=9, patience=3),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.weights.h5",
            monitor="val_ndcg@10",
            mode="max",
            save_best_only=True,
            save_weights_only=True,
        ),
        keras.callbacks.TensorBoard(tmp_path / "board"),
    ]
    run = compiled.fit(
        learned,
        epochs=9,
        batch_size=32,
        validation_data=validation,
        callbacks=callbacks,
        verbose=0,
    )
    assert not [r for r in caplog.records if "serialize" in r.getMessage()]
    assert set(run.history) == {"loss", "val_ndcg@10", "val_recall@10"}
    assert len(run.history["loss"]) == 4  # it never gets better by 9
    assert run.history["loss"][-1] < run.history["loss"][0]
    assert [logs["val_ndcg@10"] for logs in seen] == run.history["val_ndcg@10"]
    assert list((tmp_path / "board").rglob("events.out.tfevents.*"))
    last = ranking_quality(Ranker(compiled).top(validation.histories), validation)["ndcg@10"]
    assert last == pytest.approx(run.history["val_ndcg@10"][-1]) and last > 0.5
    # the weights go to another model, and come back
    other = tiny()
    other.load_weights(tmp_path / "best.weights.h5")
    best = ranking_quality(Ranker(other).top(validation.histories), validation)["ndcg@10"]
    assert best == pytest.approx(max(run.history["val_ndcg@10"]))
    loss = compiled.evaluate(learned, verbose=0)
    assert 0 < loss < run.history["loss"][0]


def test_batches_are_those_of_one_epoch_in_another_order_each_time(compiled, data):
    made = compiled.batches(data[0], batch_size=16, seed=1)
    first, second = ([b["target"].numpy() for b in made] for _ in range(2))
    assert len(first) == len(made)
    total = sum(np.count_nonzero(batch) for batch in first)
    assert total == sum(np.count_nonzero(batch) for batch in second)
    assert total == (data[0].lengths - 1).clip(0).sum()
    pairs = zip(first, second, strict=True)
    assert any(one.shape != two.shape or (one != two).any() for one, two in pairs)


HISTORY, TARGET = np.array([[0, 3, 4], [5, 6, 7]]), np.array([[0, 4, 5], [6, 7, 8]])
NEXT = np.array([5, 8])


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ({"history": HISTORY, "target": TARGET}, TARGET),
        ((HISTORY, TARGET), TARGET),
        (({"history": HISTORY}, TARGET), TARGET),
        (({"history": HISTORY}, {"target": TARGET}), TARGET),
        ((HISTORY, NEXT), [[0, 0, 5], [0, 0, 8]]),
        ((HISTORY, NEXT[:, None]), [[0, 0, 5], [0, 0, 8]]),
        (([HISTORY, HISTORY, HISTORY, TARGET],), TARGET),
    ],
)
def test_batches_of_ones_own(compiled, given, target):
    found = inputs_of(given)
    assert list(found) == ["history", "time_gap", "event", "target"]
    np.testing.assert_array_equal(found["history"], HISTORY)
    np.testing.assert_array_equal(found["target"], target)
    known = HISTORY if isinstance(given[0] if isinstance(given, tuple) else 0, list) else 0
    np.testing.assert_array_equal(found["time_gap"], known * np.ones_like(HISTORY))
    assert all(value.dtype == tf.int32 for value in found.values())
    # and in a step, one form after the other
    if isinstance(given, tuple) and isinstance(given[0], list):  # tf.data stacks lists
        given = (tuple(given[0]),)
    made = tf.data.Dataset.from_tensors(given)
    assert np.isfinite(compiled.fit(made, verbose=0).history["loss"][0])


@pytest.mark.parametrize(
    ("given", "received"),
    [
        ({"hist": HISTORY, "target": TARGET}, "Received: hist, target"),
        ((HISTORY,), "Received: history"),
        ((HISTORY[0], TARGET), "Received: history (3,), target (2, 3)"),
        ((HISTORY, TARGET, NEXT), "no weights of samples"),
        (([HISTORY, TARGET],), "Received: list"),
    ],
)
def test_other_batches_are_refused(given, received):
    with pytest.raises(ValueError, match="A batch is a dict of int32") as caught:
        inputs_of(given)
    assert received in str(caught.value)


def test_what_a_keras_user_may_try_and_cannot_have_is_said(compiled, tmp_path):
    with pytest.raises(ValueError, match=r"compile takes no loss.*build_model\(loss=...\)"):
        compiled.compile("adam", loss="mse")
    with pytest.raises(ValueError, match="compile takes no metrics"):
        compiled.compile("adam", metrics=["accuracy"])
    with pytest.raises(ValueError, match="predicts nothing.*kerasrec.Recommender"):
        compiled.keras_model.predict(HISTORY)
    with pytest.raises(ValueError, match=r"cannot be saved whole.*kerasrec.train\(fit=...\)"):
        compiled.keras_model.save(tmp_path / "model.keras")
    log = read_interactions(pd.DataFrame({"user_id": ["u"], "item_id": ["i"]}))
    with pytest.raises(ValueError, match="make_histories.*Received: Interactions"):
        compiled.fit(log)
    with pytest.raises(ValueError, match="make_histories.*Received: dict"):
        compiled.batches({"history": HISTORY})


def test_objects_of_keras_3_are_refused():
    kind = type("Adam", (), {"__module__": "keras.src.optimizers.adam"})
    with pytest.raises(ValueError, match="Adam of Keras 3. Take it from tf_keras"):
        tiny().compile(kind())
    with pytest.raises(ValueError, match="Adam of Keras 3"):
        tiny(sequence=kind())
    assert not kerasmodel.is_of_keras_3(keras.optimizers.Adam)


def test_plot_model_draws_every_layer(compiled, tmp_path):
    figure = plot_model(compiled, tmp_path / "model.svg")
    shown = (tmp_path / "model.svg").read_text()
    texts = [text.get_text() for text in figure.axes[0].texts]
    for layer in compiled.training.layers:
        assert f"{layer.name}\n{type(layer).__name__}" in texts
    assert shown.startswith("<?xml") and len(shown) > 10_000
    # whatever is read stands above
    boxes = [text for text in figure.axes[0].texts if text.get_text()]  # the others are arrows
    places = {text.get_text(): text.get_position() for text in boxes}
    named = {name.partition("\n")[0]: place for name, place in places.items()}
    assert named["history"][1] > named["step_items"][1] > named["item_vectors"][1]
    assert named["item_vectors"][1] > named["interest"][1] > named["interest_loss"][1]
    assert len(set(named.values())) == len(named)
    with pytest.raises(ValueError, match="Received: int"):
        plot_model(3)


def test_the_layers_can_be_written_down(compiled):
    assert "scorer_loss" in json.dumps(compiled.training.get_config(), default=str)


@pytest.mark.parametrize("name", ["EarlyStopping", "ReduceLROnPlateau"])
def test_a_callback_that_takes_the_worst_ranking_for_the_best(compiled, data, name):
    """Keras knows ndcg for no figure of which more is better."""
    learned, validation = data
    make = getattr(keras.callbacks, name)
    with pytest.raises(ValueError, match="takes less of val_ndcg@10 for better.*mode='max'"):
        compiled.fit(learned, validation_data=validation, callbacks=[make("val_ndcg@10")])
    kerasmodel.check_callbacks([make("val_ndcg@10", mode="max"), make("loss")])


def test_import_keras_after_a_model_is_built_is_keras_2(compiled):
    """bert4keras puts it there; before that it is Keras 3, whose objects are refused."""
    assert importlib.import_module("keras").layers.Dense is keras.layers.Dense


def test_what_comes_before_fit_is_said(data):
    model = tiny()
    with pytest.raises(RuntimeError, match=r"not compiled yet: model.compile\(.adam.\)"):
        model.fit(data[0], verbose=0)
    with pytest.raises(RuntimeError, match="not compiled yet"):
        model.keras_model.fit(model.batches(data[0]), verbose=0)


def test_a_table_in_the_place_of_histories(compiled, data):
    table = pd.DataFrame({"user": ["u", "u"], "item": ["a", "b"]})
    for wrong in (table, pl.DataFrame(table), read_interactions(table)):
        with pytest.raises(ValueError, match=r"make_histories\(read_interactions\(table\)"):
            compiled.fit(wrong, verbose=0)


def test_histories_of_another_catalogue(compiled, data):
    learned, validation = data
    beyond = learned._replace(items=learned.items + 30)
    calls = (
        lambda: compiled.fit(beyond, verbose=0),
        lambda: compiled.evaluate(beyond, verbose=0),
        lambda: compiled.fit(learned, validation_data=beyond, verbose=0),
        lambda: compiled.fit(
            learned, validation_data=validation._replace(histories=beyond), verbose=0
        ),
        lambda: Trainer(tiny(), epochs=1, progress=False).fit(beyond, None),
    )
    for call in calls:
        with pytest.raises(ValueError, match="items of the model, 1 to 30. Received: item [3-6]"):
            call()


def test_a_callback_that_watches_what_is_not_there(compiled, data):
    learned, validation = data
    stop = keras.callbacks.EarlyStopping("val_ndcg@20", mode="max")
    with pytest.raises(ValueError, match="watches 'val_ndcg@20'.*Did you mean 'val_ndcg@10'"):
        compiled.fit(learned, epochs=3, validation_data=validation, callbacks=[stop], verbose=0)
    best = keras.callbacks.ModelCheckpoint("x", monitor="val_loss", save_best_only=True)
    with pytest.raises(ValueError, match="Known: loss. .*val_ needs validation_data"):
        compiled.fit(learned, epochs=3, callbacks=[best], verbose=0)
    trainer = Trainer(tiny(), epochs=3, progress=False, callbacks=[stop])
    with pytest.raises(ValueError, match="Did you mean 'valid_ndcg@10'"):
        trainer.fit(learned, validation)


def test_help_shows_plain_types():
    owners = {build_model: "heads: int = 2", Trainer: "epochs: int = 30"}
    for owner, option in {**owners, fit_generator: "levels: int = 3"}.items():
        shown = str(inspect.signature(owner))
        assert option in shown
        assert "Validator" not in shown and "Annotated" not in shown
        assert "BeforeValidator" not in pydoc.render_doc(owner)
