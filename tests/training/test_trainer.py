import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from places import HELPERS
from toys import histories_of, newest_alone, planted_histories

from kerasrec.backend import keras, set_seed, tf
from kerasrec.data.histories import make_windows
from kerasrec.models.build import build_model
from kerasrec.models.validation import (
    Ranker,
    Validation,
    hold_out_last,
    ranking_quality,
    some_of,
)
from kerasrec.training.optimizers import WarmupCosine
from kerasrec.training.run import Run
from kerasrec.training.trainer import Trainer

TINY = dict(id_units=16, max_length=8, scorer_units=8, dropout=0.1, input_dropout=0.1)


def tiny(num_items=30, **options):
    return build_model(num_items, **{**TINY, **options})


def plain(**options):
    """For tests of the trainer around the model: it is built and traced sooner."""
    return tiny(sequence=newest_alone, **options)


@pytest.fixture(scope="module")
def data():
    return hold_out_last(planted_histories())


def trainer(model=plain, **options):
    defaults = dict(epochs=2, batch_size=32, learning_rate=2e-2, progress=False)
    return Trainer(model, **{**defaults, **options})


def test_warmup_cosine_by_hand():
    schedule = WarmupCosine(1.0, 10, 110)
    assert float(schedule(0)) == pytest.approx(0.1)
    assert float(schedule(9)) == pytest.approx(1.0)
    assert float(schedule(60)) == pytest.approx(0.55)
    assert float(schedule(110)) == float(schedule(500)) == pytest.approx(0.1)


def test_fit_learns_the_pattern_and_restores_the_best_epoch(data, tmp_path):
    made = trainer(tiny, epochs=12, patience=3, run_folder=tmp_path)
    history = made.fit(*data)
    assert list(history.columns[:4]) == ["epoch", "loss", "valid_ndcg@10", "valid_recall@10"]
    best = history["valid_ndcg@10"].max()
    assert best > 0.5  # chance is about 0.15
    lists = Ranker(made.model).top(data[1].histories)
    assert ranking_quality(lists, data[1])["ndcg@10"] >= best - 1e-4
    written = pd.read_csv(tmp_path / "history.csv")
    np.testing.assert_allclose(written["loss"], history["loss"], rtol=1e-6)
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))


@pytest.mark.slow
def test_a_second_fit_is_as_that_of_a_new_trainer(data):
    """The compiled step is used again; schedule and moments begin anew."""
    histories, _ = data
    still = dict(dropout=0.0, input_dropout=0.0, id_dropout=0.0, loss="softmax")
    first = trainer(lambda: tiny(**still), deterministic=True)
    first.fit(histories, None)
    step, weights = first.model.training.train_function, first.model.training.get_weights()
    set_seed(0, deterministic=True)  # as a new trainer does
    again = first.fit(histories.select(np.arange(histories.num_users // 2)), None)
    assert first.model.training.train_function is step
    model = tiny(**still)
    model.training.set_weights(weights)
    other = trainer(model, deterministic=True)
    new = other.fit(histories.select(np.arange(histories.num_users // 2)), None)
    np.testing.assert_allclose(again["loss"], new["loss"], rtol=1e-5)
    for one, two in zip(
        first.model.training.get_weights(), model.training.get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, two, atol=1e-5)
    # another trainer of the same model, or other layers to train: traced anew
    trainer(first.model).fit(histories, None)
    first.fit(histories, None)
    step = first.model.training.train_function
    first.model.training.layers[-1].trainable = False
    first.fit(histories, None)
    assert first.model.training.train_function is not step


def test_fit_stops_when_validation_stops_improving(data):
    history = trainer(epochs=30, patience=2, learning_rate=0.0).fit(*data)
    assert len(history) == 3


@pytest.mark.parametrize(
    "optimizer",
    [
        "sgd",
        pytest.param(lambda schedule: keras.optimizers.Adam(schedule), marks=pytest.mark.slow),
        keras.optimizers.legacy.Adam,
        lambda schedule: accumulated()(schedule, grad_accum_steps=2),
    ],
    ids=["name", "callable", "class", "bert4keras"],
)
def test_optimizer_by_name_or_callable(data, optimizer):
    made = trainer(epochs=2, optimizer=optimizer)
    history = made.fit(*data)
    assert history["loss"].iloc[1] < history["loss"].iloc[0] * 0.999
    # the step is traced once: the optimizer made its variables before
    assert made.model.training.train_tf_function.experimental_get_tracing_count() == 1


def accumulated():
    """bert4keras' gradient accumulation; its mixins go with the legacy optimizers of Keras."""
    import bert4keras.optimizers

    return bert4keras.optimizers.extend_with_gradient_accumulation(keras.optimizers.legacy.Adam)


def test_clip_norm_bounds_a_step(data):
    moved = {}
    for clip_norm in (1e-3, None):
        made = trainer(optimizer="sgd", learning_rate=0.1, clip_norm=clip_norm, epochs=1)
        before = made.model.training.get_weights()
        made.fit(*data)
        after = made.model.training.get_weights()
        squares = [((a - b) ** 2).sum() for a, b in zip(after, before, strict=True)]
        moved[clip_norm] = np.sqrt(np.sum(squares))
    steps = -(-90 // 16)  # small data have small batches
    assert 0 < moved[1e-3] <= steps * 0.1 * 1e-3 * 1.001
    assert moved[None] > 10 * moved[1e-3]


def test_optimizer_instance_is_used_as_it_is(data):
    optimizer = keras.optimizers.Adam(1e-2)
    trainer(epochs=1, optimizer=optimizer).fit(*data)
    assert int(optimizer.iterations) > 0


def test_unknown_optimizer_is_refused(data):
    with pytest.raises(ValueError, match="optimizer must be the name .* Received: 'adamm'"):
        trainer(optimizer="adamm").fit(*data)


def test_nan_stops_the_run(data):
    def broken(positive, negative, valid_mask, num_items):
        return positive * float("nan")

    with pytest.raises(FloatingPointError, match="The loss became nan .* Lower learning_rate"):
        trainer(lambda: plain(loss=broken)).fit(*data)


def test_users_with_one_event_cannot_train():
    alone = histories_of([[1], [2]])
    validation = Validation(alone, np.array([0]), np.array([2], np.int32))
    with pytest.raises(ValueError, match="at least one user with 2 events"):
        trainer().fit(alone, validation)


def test_mixed_precision_trains(data):
    made = trainer(tiny, precision="mixed_bfloat16", epochs=1)
    assert np.isfinite(made.fit(*data)["loss"]).all()
    assert keras.mixed_precision.global_policy().name == "float32"  # not left behind


def calm():
    return tiny(dropout=0.0, input_dropout=0.0)


@pytest.fixture(scope="module")
def trained_alone(data):
    """History of a run without a strategy."""
    return trainer(calm).fit(*data)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
        pytest.param(lambda: tf.distribute.OneDeviceStrategy("CPU:0"), marks=pytest.mark.slow),
    ],
    ids=["mirrored", "one device"],
)
def test_strategy_trains_like_none(data, trained_alone, make):
    strategy = make()
    made = trainer(calm, strategy=strategy)
    history = made.fit(*data)
    assert made.model.training.distribute_strategy is strategy
    # the same weights to start with and the same batches; the scorer's dropout is another
    np.testing.assert_allclose(history["loss"], trained_alone["loss"], rtol=0.05)


def test_built_model_keeps_its_strategy_and_precision():
    with pytest.raises(ValueError, match="Give Trainer a function that builds it"):
        trainer(tiny(), precision="mixed_bfloat16")


def test_run_folder_of_another_run_is_refused(data, tmp_path):
    text = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    first = trainer(lambda: plain(text=text), epochs=1, run_folder=tmp_path)
    first.fit(*data)
    train, validation = data
    later = train._replace(timestamps=train.timestamps + np.arange(len(train.items)))
    same = first.model  # it need not be built anew: the weights do not say which run it is
    for model, epochs, given in (
        (lambda: plain(text=text, heads=4), 1, data),
        (lambda: plain(text=-text), 1, data),
        (same, 1, hold_out_last(planted_histories(seed=1))),
        (same, 2, data),  # its schedule spans the epochs
        (same, 1, (later, validation)),
    ):
        with pytest.raises(ValueError, match="holds another run"):
            trainer(model, epochs=epochs, run_folder=tmp_path).fit(*given)
    assert trainer(same, epochs=1, run_folder=tmp_path).fit(*data)["epoch"].tolist() == [1]


def test_finished_run_is_not_trained_again(data, tmp_path):
    first = trainer(epochs=9, patience=1, learning_rate=0.0, run_folder=tmp_path)
    history = first.fit(*data)
    assert len(history) == 2  # it stopped early
    weights = first.model.training.get_weights()
    again = trainer(epochs=9, patience=1, learning_rate=0.0, run_folder=tmp_path)
    again.model.training.set_weights([w * 0 for w in weights])
    pd.testing.assert_frame_equal(again.fit(*data), history)
    for found, expected in zip(again.model.training.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param("adam", id="legacy"),
        pytest.param(
            lambda schedule: keras.optimizers.Adam(schedule), id="new", marks=pytest.mark.slow
        ),
    ],
)
def test_interrupted_run_goes_on_as_if_nothing_had_happened(data, tmp_path, monkeypatch, optimizer):
    def run(folder):  # nothing is drawn but for the scorer
        made = trainer(
            lambda: plain(dropout=0.0, input_dropout=0.0),
            **dict(optimizer=optimizer, epochs=5, run_folder=folder, clip_norm=None),
        )
        return made.model.training, made.fit(*data)

    whole, history = run(tmp_path / "whole")
    begin = Run.on_epoch_begin

    def break_off(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt
        begin(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "on_epoch_begin", break_off)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken")
    # what a kill in the middle of writing leaves behind
    checkpoints = tmp_path / "broken" / "checkpoints"
    (checkpoints / "epoch-3.index").write_bytes(b"half")
    (tmp_path / "broken" / ".state.json-0123456789ab").write_bytes(b"{")
    (tmp_path / "broken" / "history.csv").write_bytes(b"epo")
    resumed, again = run(tmp_path / "broken")
    assert again["epoch"].tolist() == [1, 2, 3, 4, 5]
    quality = "valid_ndcg@10"
    np.testing.assert_allclose(again[quality], history[quality], atol=0.01)  # a few close ranks
    assert int(resumed.optimizer.iterations) == int(whole.optimizer.iterations) == 30
    for name in ("item_vectors", "interest", "fusion"):  # the first has sparse gradients
        found, expected = (m.get_layer(name).get_weights()[0] for m in (resumed, whole))
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert {path.name.split(".")[0] for path in checkpoints.iterdir()} == {"epoch-5"}


_RUN = """
import os, sys
sys.path[:0] = sys.argv[1].split(os.pathsep)
from test_trainer import hold_out_last, planted_histories, tiny, trainer
made = trainer(tiny, epochs=int(sys.argv[3]), patience=99, run_folder=sys.argv[2],
               deterministic=True)
history = made.fit(*hold_out_last(planted_histories()))
print(",".join(f"{loss:.8f}" for loss in history["loss"]))
"""


def _start(folder, epochs):
    here = os.pathsep.join([os.path.dirname(__file__), str(HELPERS)])
    command = [sys.executable, "-c", _RUN, here, str(folder), str(epochs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _losses(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-2000:]
    return np.array([float(loss) for loss in out.strip().splitlines()[-1].split(",")])


@pytest.mark.slow
def test_killed_run_goes_on_and_equal_seeds_give_equal_losses(tmp_path):
    epochs = 40
    process = _start(tmp_path / "killed", epochs)
    path, deadline = tmp_path / "killed" / "history.csv", time.time() + 120
    while not (path.exists() and len(path.read_text().splitlines()) > 3):
        assert process.poll() is None and time.time() < deadline, process.stderr.read()[-2000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(pd.read_csv(path))
    assert done < epochs
    resumed = _losses(_start(tmp_path / "killed", epochs))
    assert len(resumed) == epochs
    whole = _losses(_start(tmp_path / "whole", epochs))
    # the same seed gives the same losses up to the kill; behind it only the random streams of
    # dropout start anew, so the run still converges to the same level
    np.testing.assert_allclose(resumed[: done - 1], whole[: done - 1], atol=1e-5)
    assert resumed[0] > 1 and resumed[-1] == pytest.approx(whole[-1], abs=0.1)
    assert len(pd.read_csv(path)) == epochs


# --- the best weights ---


def run_of(data, rows):
    """A `Run` with the quality of some epochs, each with other weights of its own."""
    trainer = Trainer(plain, progress=False)
    run = Run(trainer, data[1], 1, "")
    run.set_model(trainer.model.training)
    for epoch, quality in enumerate(rows):
        for weight in trainer.model.training.trainable_weights:
            weight.assign(tf.fill(weight.shape, float(epoch)))
        run.rows.append({"valid_ndcg@10": quality})
        if quality > run.best:
            run.best, run.best_epoch = quality, epoch
        run._keep(epoch)
    return run


def test_only_the_best_epochs_are_kept(data):
    run = run_of(data, [0.1, 0.5, 0.3, 0.6, 0.2, 0.4])
    assert {epoch: weights[0].max() for epoch, weights in run.kept.items()} == {1: 1, 3: 3, 5: 5}


@pytest.fixture(scope="module")
def learned_once(data):
    """A `Trainer` that has trained, and its weights."""
    made = trainer(epochs=6)
    made.fit(*data)
    return made, [w.numpy() for w in made.model.training.trainable_weights]


@pytest.mark.parametrize("better", ["mean", "best"])
def test_the_mean_of_the_best_epochs_where_it_ranks_better(data, learned_once, better):
    """Trained weights with noise added and taken away: only their mean is good, or only the best.

    Validation ranks for real.
    """
    made, learned = learned_once
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 0.3, w.shape).astype(np.float32) for w in learned]
    run = Run(made, data[1], 1, "")
    run.set_model(made.model.training)
    up, down = ([w + sign * n for w, n in zip(learned, noise, strict=True)] for sign in (1, -1))
    if better == "mean":
        run.kept = {0: up, 1: down}
    else:
        run.kept = {0: learned, 1: [w + 2 * n for w, n in zip(learned, noise, strict=True)]}
    run._put(run.kept[0])
    run.best_epoch, run.best = 0, run._quality()["ndcg@10"]
    run.restore_best()
    for weight, expected in zip(made.model.training.trainable_weights, learned, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)
    assert run._quality()["ndcg@10"] > 0.5  # chance is about 0.15


def test_of_many_validation_users_a_sample_judges_an_epoch(data, monkeypatch):
    monkeypatch.setattr("kerasrec.training.trainer.VALIDATED", 10)
    made = trainer(epochs=1)
    history = made.fit(*data)
    some = some_of(data[1], 10)
    assert some.histories.num_users == 10 < data[1].histories.num_users
    found = ranking_quality(Ranker(made.model).top(some.histories), some)
    assert history["valid_ndcg@10"].item() == pytest.approx(found["ndcg@10"], abs=1e-6)


def test_small_data_have_small_batches(data):
    """At least 50 steps an epoch where the data allow it, never under 16 histories a step."""
    made = trainer(batch_size=4096, epochs=1)
    made.fit(*data)
    windows = len(make_windows(data[0], made.model.config["max_length"]).starts)
    assert windows < 800
    assert int(made.model.training.optimizer.iterations) == -(-windows // 16)


def test_without_validation_the_last_weights_are_taken(data, tmp_path):
    made = trainer(epochs=9, run_folder=tmp_path)
    history = made.fit(data[0], None, stop_after=2)
    assert history["epoch"].tolist() == [1, 2] and history["valid_ndcg@10"].isna().all()
    assert np.isfinite(history["loss"]).all()
    again = trainer(epochs=9, run_folder=tmp_path)
    again.fit(data[0], None, stop_after=2)  # finished: nothing is trained
    for one, other in zip(made.model.training.weights, again.model.training.weights, strict=True):
        np.testing.assert_allclose(one, other)


def test_callbacks_see_validation_and_may_stop_for_good(data, tmp_path):
    seen = []
    callbacks = [
        keras.callbacks.EarlyStopping("valid_ndcg@10", mode="max", min_delta=9, patience=1),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs))),
    ]
    made = trainer(epochs=9, run_folder=tmp_path, callbacks=callbacks)
    history = made.fit(*data)
    assert history["epoch"].tolist() == [1, 2]
    np.testing.assert_allclose([logs["valid_ndcg@10"] for logs in seen], history["valid_ndcg@10"])
    # the run is over, also for who starts it again
    assert len(trainer(epochs=9, run_folder=tmp_path).fit(*data)) == 2


def test_parts_and_tables_are_refused_with_what_is_expected(data):
    made = plain()
    with pytest.raises(ValueError, match="Trainer takes the Model .*Received: HistoryModel"):
        Trainer(made.training)
    with pytest.raises(ValueError, match="fit takes Histories, as make_histories.*Received: dict"):
        trainer(made).fit({"u": ["i"]}, None)
