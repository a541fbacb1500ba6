import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import histories_of, planted_histories

from kerasrec import trainer as trainer_module
from kerasrec.backend import keras, tf
from kerasrec.metrics import score_recommendations
from kerasrec.models import build_model
from kerasrec.sequences import EVENT_CODES
from kerasrec.trainer import (
    Ranker,
    Trainer,
    Validation,
    WarmupCosine,
    hold_out_last,
    make_validation,
    ranking_quality,
)

TINY = dict(id_units=16, max_length=8, scorer_units=8, dropout=0.1, input_dropout=0.1)


def tiny(num_items=30, **options):
    return build_model(num_items, **{**TINY, **options})


@pytest.fixture(scope="module")
def data():
    return hold_out_last(planted_histories())


def trainer(model=tiny, **options):
    defaults = dict(epochs=2, batch_size=32, learning_rate=2e-2, progress=False)
    return Trainer(model, **{**defaults, **options})


def test_hold_out_last_parts_the_last_event():
    train, validation = hold_out_last(histories_of([[1, 2, 3], [4], [5, 6]]))
    assert train.items.tolist() == [1, 2, 4, 5]
    assert train.offsets.tolist() == [0, 2, 3, 4]
    assert validation.target_items.tolist() == [3, 6]
    assert validation.histories.items.tolist() == [1, 2, 5]


def test_hold_out_last_takes_the_last_event_that_the_user_chose():
    shown, click, disliked = (EVENT_CODES[name] for name in ("impression", "click", "dislike"))
    rows, events = [[1, 2, 3, 4], [5, 6], [7, 8]], [[click, click, shown, disliked]]
    histories = histories_of(rows, events=[*events, [click, click], [shown, disliked]])
    histories.values[5] = 0  # an event of the user's own without a weight: item 6
    train, validation = hold_out_last(histories)
    assert validation.target_items.tolist() == [2] and validation.histories.items.tolist() == [1]
    assert train.items.tolist() == [1, 5, 6, 7, 8]  # nothing later than the target 2
    held_out = histories_of([[3, 4], [6], [8]], events=[[shown, click], [disliked], [click]])
    validation = make_validation(histories, held_out)
    assert validation.histories.user_ids.tolist() == ["u0", "u2"]
    assert validation.target_items.tolist() == [4, 8] and validation.target_rows.tolist() == [0, 1]


def test_make_validation_leaves_out_users_without_a_past():
    known = histories_of([[1, 2], [3]])
    later = histories_of([[4], [5], [6, 7]])
    validation = make_validation(known, later._replace(user_ids=np.array(["u1", "new", "u0"])))
    assert validation.histories.user_ids.tolist() == ["u1", "u0"]
    assert validation.target_rows.tolist() == [0, 1, 1]
    assert validation.target_items.tolist() == [4, 6, 7]


def test_ranking_quality_equals_score_recommendations():
    rng = np.random.default_rng(0)
    lists = np.stack([rng.permutation(30)[:10] + 1 for _ in range(20)])
    rows = np.repeat(np.arange(20), 2)
    targets = np.concatenate([rng.permutation(30)[:2] + 1 for _ in range(20)]).astype(np.int32)
    validation = Validation(histories_of([[1]] * 20), rows, targets)
    found = ranking_quality(lists, validation)
    recs = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(20), 10).astype(str),
            "item_id": lists.ravel().astype(str),
            "rank": np.tile(np.arange(1, 11), 20),
        }
    )
    test = pd.DataFrame({"user_id": rows.astype(str), "item_id": targets.astype(str)})
    expected = score_recommendations(recs, test, ks=(10,)).values
    assert found["ndcg@10"] == pytest.approx(expected["ndcg@10"])
    assert found["recall@10"] == pytest.approx(expected["recall@10"])


def test_ranking_quality_by_hand():
    validation = Validation(histories_of([[1]] * 4), np.array([0, 0, 2, 3]), np.array([5, 7, 9, 2]))
    lists = np.array([[7, 1, 5], [1, 2, 3], [0, 0, 0], [3, 2, 0]])
    # user 0: hits at ranks 1 and 3 of 2 targets; user 1 has no target; user 3: a hit at rank 2
    ndcg = ((1 + 1 / 2) / (1 + 1 / np.log2(3)) + 0 + 1 / np.log2(3)) / 3
    found = ranking_quality(lists, validation)
    assert found["ndcg@10"] == pytest.approx(ndcg)
    assert found["recall@10"] == pytest.approx((1 + 0 + 1) / 3)
    found = ranking_quality(lists, validation, k=1)
    assert found["ndcg@1"] == pytest.approx(1 / 3) and found["recall@1"] == pytest.approx(0.5 / 3)
    nobody = Validation(histories_of([]), np.zeros(0, int), np.zeros(0, np.int32))
    assert ranking_quality(np.zeros((0, 10), int), nobody) == {"ndcg@10": 0, "recall@10": 0}


def test_warmup_cosine_by_hand():
    schedule = WarmupCosine(1.0, 10, 110)
    assert float(schedule(0)) == pytest.approx(0.1)
    assert float(schedule(9)) == pytest.approx(1.0)
    assert float(schedule(60)) == pytest.approx(0.55)
    assert float(schedule(110)) == float(schedule(500)) == pytest.approx(0.1)


def test_fit_learns_the_pattern_and_restores_the_best_epoch(data, tmp_path):
    made = trainer(epochs=12, patience=3, run_folder=tmp_path)
    history = made.fit(*data)
    assert list(history.columns[:4]) == ["epoch", "loss", "valid_ndcg@10", "valid_recall@10"]
    best = history["valid_ndcg@10"].max()
    assert best > 0.5  # chance is about 0.15
    lists = Ranker(made.model).top(data[1].histories)
    assert ranking_quality(lists, data[1])["ndcg@10"] == pytest.approx(best, abs=1e-4)
    written = pd.read_csv(tmp_path / "history.csv")
    np.testing.assert_allclose(written["loss"], history["loss"], rtol=1e-6)
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))


def test_fit_stops_when_validation_stops_improving(data):
    history = trainer(epochs=30, patience=2, learning_rate=0.0).fit(*data)
    assert len(history) == 3


def test_top_lists_no_seen_item(data):
    lists = Ranker(tiny()).top(data[1].histories)
    histories = data[1].histories
    for row, start, end in zip(lists, histories.offsets, histories.offsets[1:], strict=False):
        assert not set(row) & set(histories.items[start:end])
        assert len(set(row)) == 10


@pytest.mark.parametrize("scorer_weight", [0.0, 0.8])
def test_top_equals_numpy(scorer_weight):
    model = tiny()
    rng = np.random.default_rng(0)
    for weight in model.scorer.weights:
        weight.assign(rng.normal(size=weight.shape))
    # a user without a history is answered by popularity, never by the model
    histories = histories_of([[1, 2, 3], [30], list(range(1, 26))])
    lists = Ranker(model).top(histories, k=6, scorer_weight=scorer_weight, batch_size=2)
    vectors = model.item_vectors(np.arange(31, dtype=np.int32)).numpy()
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    for row in range(3):
        seen = histories.items[histories.offsets[row] : histories.offsets[row + 1]]
        recent = seen[-8:] if len(seen) else np.zeros(1, np.int32)
        none = np.zeros((1, len(recent)), np.int32)
        interest = model.interest([vectors[recent][None], recent[None], none, none]).numpy()
        scores = (unit @ interest[0]) / float(model.loss.temperature())
        scores += scorer_weight * model.scorer([interest, unit[None]]).numpy()[0]
        scores[[0, *seen]] = -np.inf
        best = np.argsort(-scores, kind="stable")[:6]
        assert lists[row].tolist() == [i if scores[i] > -np.inf else 0 for i in best]
    assert Ranker(model).top(histories.select([]), k=6).shape == (0, 6)


@pytest.mark.parametrize(
    "optimizer",
    [
        "sgd",
        lambda schedule: keras.optimizers.Adam(schedule),
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
    steps = -(-90 // 32)
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
        trainer(lambda: tiny(loss=broken)).fit(*data)


def test_users_with_one_event_cannot_train():
    alone = histories_of([[1], [2]])
    validation = Validation(alone, np.array([0]), np.array([2], np.int32))
    with pytest.raises(ValueError, match="at least one user with 2 events"):
        trainer().fit(alone, validation)


def test_mixed_precision_trains(data):
    made = trainer(precision="mixed_bfloat16", epochs=1)
    assert np.isfinite(made.fit(*data)["loss"]).all()
    assert keras.mixed_precision.global_policy().name == "float32"  # not left behind


@pytest.mark.parametrize(
    "make",
    [
        lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
        lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
    ],
    ids=["mirrored", "one device"],
)
def test_strategy_trains_like_none(data, make):
    strategy = make()
    calm = dict(dropout=0.0, input_dropout=0.0)
    made = trainer(lambda: tiny(**calm), strategy=strategy)
    history = made.fit(*data)
    assert made.model.training.distribute_strategy is strategy
    alone = trainer(lambda: tiny(**calm)).fit(*data)
    # the same weights to start with and the same batches; the scorer's dropout is another
    np.testing.assert_allclose(history["loss"], alone["loss"], rtol=0.05)


def test_built_model_keeps_its_strategy_and_precision():
    with pytest.raises(ValueError, match="Give Trainer a function that builds it"):
        trainer(tiny(), precision="mixed_bfloat16")


def test_run_folder_of_another_run_is_refused(data, tmp_path):
    trainer(epochs=1, run_folder=tmp_path).fit(*data)
    with pytest.raises(ValueError, match="holds another run"):
        trainer(lambda: tiny(heads=4), epochs=1, run_folder=tmp_path).fit(*data)
    with pytest.raises(ValueError, match="holds another run"):
        trainer(epochs=1, run_folder=tmp_path).fit(*hold_out_last(planted_histories(seed=1)))
    with pytest.raises(ValueError, match="another run"):  # its schedule spans the epochs
        trainer(epochs=2, run_folder=tmp_path).fit(*data)
    train, validation = data
    later = train._replace(timestamps=train.timestamps + np.arange(len(train.items)))
    with pytest.raises(ValueError, match="another run"):
        trainer(epochs=1, run_folder=tmp_path).fit(later, validation)
    text = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    trainer(lambda: tiny(text=text), epochs=1, run_folder=tmp_path / "text").fit(*data)
    with pytest.raises(ValueError, match="another run"):
        trainer(lambda: tiny(text=-text), epochs=1, run_folder=tmp_path / "text").fit(*data)


def test_finished_run_is_not_trained_again(data, tmp_path):
    first = trainer(epochs=9, patience=1, learning_rate=0.0, run_folder=tmp_path)
    history = first.fit(*data)
    assert len(history) == 2  # it stopped early
    weights = first.model.training.get_weights()
    again = trainer(lambda: tiny(), epochs=9, patience=1, learning_rate=0.0, run_folder=tmp_path)
    again.model.training.set_weights([w * 0 for w in weights])
    pd.testing.assert_frame_equal(again.fit(*data), history)
    for found, expected in zip(again.model.training.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "optimizer", ["adam", lambda schedule: keras.optimizers.Adam(schedule)], ids=["legacy", "new"]
)
def test_interrupted_run_goes_on_as_if_nothing_had_happened(data, tmp_path, monkeypatch, optimizer):
    def run(folder):
        calm = dict(dropout=0.0, input_dropout=0.0)  # then nothing is drawn but for the scorer
        made = trainer(
            lambda: tiny(**calm), optimizer=optimizer, epochs=5, run_folder=folder, clip_norm=None
        )
        return made.model.training, made.fit(*data)

    whole, history = run(tmp_path / "whole")
    begin = trainer_module._Run.on_epoch_begin

    def break_off(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt
        begin(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module._Run, "on_epoch_begin", break_off)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken")
    # what a kill in the middle of writing leaves behind
    checkpoints = tmp_path / "broken" / "checkpoints"
    (checkpoints / "epoch-3.index").write_bytes(b"half")
    (tmp_path / "broken" / "state.json.part").write_bytes(b"{")
    (tmp_path / "broken" / "history.csv").write_bytes(b"epo")
    resumed, again = run(tmp_path / "broken")
    assert again["epoch"].tolist() == [1, 2, 3, 4, 5]
    quality = "valid_ndcg@10"
    np.testing.assert_allclose(again[quality], history[quality], atol=0.01)  # a few close ranks
    assert int(resumed.optimizer.iterations) == int(whole.optimizer.iterations) == 15
    for name in ("item_vectors", "interest", "fusion"):  # the first has sparse gradients
        found, expected = (m.get_layer(name).get_weights()[0] for m in (resumed, whole))
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert {path.name.split(".")[0] for path in checkpoints.iterdir()} == {"epoch-5"}


_RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from test_trainer import hold_out_last, planted_histories, tiny, trainer
made = trainer(tiny, epochs=int(sys.argv[3]), patience=99, run_folder=sys.argv[2],
               deterministic=True)
history = made.fit(*hold_out_last(planted_histories()))
print(",".join(f"{loss:.8f}" for loss in history["loss"]))
"""


def _start(folder, epochs):
    here = os.path.dirname(__file__)
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
