"""`Trainer`: fits a model with full-ranking validation, early stopping, checkpoints and resume."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field, PlainValidator
from tqdm import tqdm

from kerasrec.backend import keras, set_seed, tf, whole_file
from kerasrec.data import histories as sequences
from kerasrec.models.optiontypes import (
    Count,
    Flag,
    Positive,
    Strategy,
    Text,
    TextOrPath,
    Whole,
    check_function,
)
from kerasrec.models.validation import Ranker, Validation, ranking_quality
from kerasrec.training.optimizers import LazyAdam

log = logging.getLogger(__name__)
MONITOR = "valid_ndcg@10"
#: types of an optimizer that is made already
OPTIMIZERS = (keras.optimizers.Optimizer, keras.optimizers.legacy.Optimizer)
#: epochs whose weights are averaged at the end, if the mean ranks validation better than the best
AVERAGED = 3
#: an epoch has at least this many steps where the data allow it, or few users learn little
MIN_STEPS = 50
_MIN_BATCH = 16
_SIGNATURE = {
    name: tf.TensorSpec((None, None), tf.int32)
    for name in ("history", "time_gap", "event", "target")
}


def named_optimizer(name: str, config: dict) -> Any:
    """Makes the optimizer of a name; "adam" is `LazyAdam`.

    Raises:
        ValueError: Keras knows no such name.
    """
    if name.lower() == "adam":
        return LazyAdam(**config)
    try:
        return keras.optimizers.get({"class_name": name, "config": config})
    except ValueError as error:
        raise ValueError(
            "optimizer must be the name of a Keras optimizer, an instance or a callable. "
            f"Received: {name!r}."
        ) from error


def check_optimizer(value: Any) -> Any:
    """The value, where it names, makes or is an optimizer.

    Raises:
        ValueError: it does not.
    """
    if isinstance(value, str):
        named_optimizer(value, {})
    return check_function(value)


#: an optimizer, by its name, ready or as a function that makes one
Optimizer = Annotated[
    Any, PlainValidator(check_optimizer), Field(description="a name or a function")
]


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a cosine down to a tenth of the peak at `total_steps`."""

    def __init__(self, peak: float, warmup_steps: int, total_steps: int):
        self.peak = peak
        # a variable, so that a second run needs no second trace
        self._steps = tf.Variable([0.0, 0.0], trainable=False)
        self.plan(warmup_steps, total_steps)

    def plan(self, warmup_steps: int, total_steps: int) -> None:
        """Take other numbers of steps."""
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self._steps.assign([warmup_steps, total_steps])

    def __call__(self, step: Any) -> Any:
        """Learning rate at a step."""
        step = tf.cast(step, tf.float32)
        warmup_steps, total_steps = self._steps[0], self._steps[1]
        warm = (step + 1) / tf.maximum(warmup_steps, 1.0)
        share = (step - warmup_steps) / tf.maximum(total_steps - warmup_steps, 1.0)
        cosine = 0.55 + 0.45 * tf.cos(math.pi * tf.clip_by_value(share, 0.0, 1.0))
        return self.peak * tf.minimum(warm, cosine)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }


class Trainer:
    """Trains a `Model` on histories.

    Args:
        model: a `Model`, or a function without arguments that builds one (called inside the
            strategy's scope and under the precision policy).
        optimizer: name of a Keras optimizer, an instance, or a callable that takes the
            learning-rate schedule. An instance keeps its own learning rate. "adam" is `LazyAdam`:
            in large catalogues a step updates only the items that it uses.
        learning_rate: peak of the schedule (linear warm-up over one epoch, cosine to a tenth).
        batch_size: histories per step at most; fewer, down to 16, where an epoch would have less
            than `MIN_STEPS` steps.
        epochs: upper limit.
        patience: epochs without a better validation NDCG@10 before it stops.
        clip_norm: gradients are scaled down to this global norm; None = never.
        run_folder: where checkpoints, `history.csv` and TensorBoard logs go; a run that was killed
            goes on from its last epoch when started again with the same folder. None = nothing is
            written.
        seed: of batches, sampled negatives and dropout.
        deterministic: same seed, same losses on one machine; slower.
        strategy: a `tf.distribute.Strategy`; None = the one in whose scope this is called.
        precision: a Keras mixed precision policy such as "mixed_bfloat16".
        progress: whether a bar is shown.
        ranker: function of the model that gives what ranks validation, as `Ranker` does. Anything
            with `training` (a Keras model of the four inputs), `config` (with `max_length`) and a
            ranker of its own can be trained.
    """

    def __init__(
        self,
        model: Any,
        *,
        optimizer: Optimizer = "adam",
        learning_rate: Positive = 2e-3,
        batch_size: Count = 128,
        epochs: Count = 30,
        patience: Count = 4,
        clip_norm: Positive | None = 5.0,
        run_folder: TextOrPath | None = None,
        seed: Whole = 0,
        deterministic: Flag = False,
        strategy: Strategy | None = None,
        precision: Text = "float32",
        progress: bool = True,
        ranker: Callable[[Any], Any] = Ranker,
    ):
        set_seed(seed, deterministic=deterministic)
        self.strategy = strategy or tf.distribute.get_strategy()
        self.model = self._built(model, precision)
        self.optimizer, self.learning_rate, self.clip_norm = optimizer, learning_rate, clip_norm
        self.batch_size, self.epochs, self.patience = batch_size, epochs, patience
        self.run_folder = None if run_folder is None else Path(run_folder)
        self.seed, self.progress, self.ranker = seed, progress, ranker
        self._schedule, self._compiled = None, ()  # of the last `fit`

    def _built(self, model, precision):
        if callable(model):
            before = keras.mixed_precision.global_policy()
            keras.mixed_precision.set_global_policy(precision)
            try:
                with self.strategy.scope():
                    return model()
            finally:
                keras.mixed_precision.set_global_policy(before)
        if precision != "float32" or model.training.distribute_strategy is not self.strategy:
            raise ValueError(
                "A model that is already built has its precision and strategy. Give Trainer a "
                "function that builds it, e.g. lambda: build_model(...), to choose them here."
            )
        return model

    def fit(
        self,
        histories: sequences.Histories,
        validation: Validation | None,
        *,
        stop_after: int | None = None,
    ) -> pd.DataFrame:
        """Train until validation stops improving, then take the best weights.

        These are the ones of the best epoch, or the mean of the three best epochs' where that ranks
        validation better (Izmailov et al. 2018).

        Args:
            histories: `Histories` of the training events.
            validation: `Validation`; None = nothing is held out, the last weights are taken.
            stop_after: epochs after which it stops, on the schedule of `epochs`; None = `epochs`.

        Returns:
            DataFrame with one row per epoch: epoch, loss, valid_ndcg@10, valid_recall@10, seconds.

        Raises:
            ValueError: no training target at all, or a run folder of another run.
            FloatingPointError: the loss became NaN or infinite.
        """
        max_length = self.model.config["max_length"]
        windows = sequences.make_windows(histories, max_length)
        if not len(windows.starts):
            raise ValueError(
                "Training needs at least one user with 2 events. Received: "
                f"{histories.num_users} users with 1 event each or none."
            )
        most = max(len(windows.starts) // MIN_STEPS, _MIN_BATCH)
        batch_size = min(self.batch_size, most)
        steps = sequences.num_batches(windows, batch_size=batch_size)
        self._begin(steps)
        run = _Run(self, validation, steps, _fingerprint(self, histories, validation))
        run.last = stop_after or self.epochs
        first = run.resume()

        def generate():
            for epoch in range(first, self.epochs):
                seed = (self.seed, epoch)
                for batch in sequences.training_batches(windows, batch_size=batch_size, seed=seed):
                    if run.finished:
                        return
                    yield batch

        data = tf.data.Dataset.from_generator(generate, output_signature=_SIGNATURE).prefetch(4)
        if not run.finished and first < run.last:
            self._run_epochs(range(first, run.last), steps, data, [run, *run.boards()])
        run.restore_best()
        return pd.DataFrame(run.rows)

    def _run_epochs(self, epochs, steps, data, callbacks):
        """What Keras' `fit` does, with one iterator for all epochs that is read to its end.

        `fit` throws its iterator away where training stops, which takes from nothing to a minute.
        """
        training = self.model.training
        step_of = training.make_train_function()
        callbacks = keras.callbacks.CallbackList(
            callbacks, model=training, epochs=epochs.stop, steps=steps
        )
        training.stop_training = False
        batches = iter(self.strategy.experimental_distribute_dataset(data))
        callbacks.on_train_begin()
        for epoch in epochs:
            training.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            for step in range(steps):
                callbacks.on_train_batch_begin(step)
                logs = {name: float(value) for name, value in step_of(batches).items()}
                callbacks.on_train_batch_end(step, logs)
            callbacks.on_epoch_end(epoch, logs)
            if training.stop_training:
                break
        callbacks.on_train_end()
        for _ in batches:
            pass

    def _begin(self, steps):
        """Compile; a second `fit` has the compiled step still and begins anew with its numbers."""
        training = self.model.training
        with self.strategy.scope():
            is_ours = isinstance(self.optimizer, str) and isinstance(training.optimizer, LazyAdam)
            if is_ours and self._compiled == _step_of(training):
                self._schedule.plan(steps, steps * self.epochs)
                for variable in training.optimizer.variables():
                    variable.assign(tf.zeros_like(variable))
                return
            self._schedule = WarmupCosine(self.learning_rate, steps, steps * self.epochs)
            training.compile(optimizer=self._optimizer())
            _make_slots(training)
            self._compiled = _step_of(training)

    def _optimizer(self):
        if isinstance(self.optimizer, str):
            config = {"learning_rate": self._schedule, "global_clipnorm": self.clip_norm}
            return named_optimizer(self.optimizer, config)
        return self.optimizer(self._schedule) if _is_factory(self.optimizer) else self.optimizer


def _step_of(training):
    """What a compiled step belongs to: its optimizer and what it trains."""
    return id(training.optimizer), *(id(variable) for variable in training.trainable_weights)


def _make_slots(training):
    """Create the optimizer's variables; made in the first step they would have it traced twice."""
    optimizer = training.optimizer
    make = optimizer.build if hasattr(optimizer, "build") else optimizer._create_all_weights
    make(training.trainable_variables)


def _is_factory(optimizer):
    return not isinstance(optimizer, OPTIMIZERS)


def _fingerprint(trainer, histories, validation):
    """What must be equal for a run to go on: options and data, the items' texts among them."""
    digest = hashlib.sha256()
    options = {**trainer.model.config, "optimizer": trainer.optimizer}
    for name in ("batch_size", "epochs", "patience", "learning_rate", "clip_norm", "seed"):
        options[name] = getattr(trainer, name)
    kinds = {str(layer.compute_dtype) for layer in trainer.model.training.layers}
    options["precision"] = " ".join(sorted(kinds))
    # a function's or an object's own text holds its address, which another process changes
    plain = (int, float, str, type(None))
    config = {
        key: str(v) if isinstance(v, plain) else getattr(v, "__name__", type(v).__name__)
        for key, v in options.items()
    }
    digest.update(json.dumps(config, sort_keys=True).encode())
    data = [*histories[1:]]
    if validation is not None:
        data += [*validation.histories[1:], validation.target_rows, validation.target_items]
    # what never learns: texts as vectors or tokens, whitening
    data += trainer.model.training.non_trainable_weights
    for values in data:
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


class _Run(keras.callbacks.Callback):
    """Validates after each epoch, keeps the best weights, writes what a resumed run needs."""

    def __init__(self, trainer, validation, steps, fingerprint):
        super().__init__()
        self.trainer, self.validation, self.steps = trainer, validation, steps
        self.fingerprint = fingerprint
        self.folder = trainer.run_folder
        self.ranker = trainer.ranker(trainer.model)
        self.rows, self.best, self.best_epoch = [], -1.0, -1
        self.kept = {}  # epoch -> weights, of the best epochs
        self.finished, self.bar, self.last = False, None, trainer.epochs

    # --- progress ---

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()
        self.bar = tqdm(
            total=self.steps,
            desc=f"epoch {epoch + 1}/{self.trainer.epochs}",
            disable=not self.trainer.progress,
            leave=False,
        )

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss", 0.0)
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"The loss became {loss} at step {batch} of epoch {len(self.rows) + 1}. Lower "
                f"learning_rate (now {self.trainer.learning_rate}) or clip_norm (now "
                f"{self.trainer.clip_norm}), or use precision='float32'."
            )
        self.bar.update()
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

    def on_epoch_end(self, epoch, logs=None):
        quality = self._quality()
        seconds = time.perf_counter() - self.started
        row = {"epoch": epoch + 1, "loss": float((logs or {}).get("loss", 0.0))}
        row.update({f"valid_{name}": value for name, value in quality.items()})
        self.rows.append({**row, "seconds": round(seconds, 2)})
        if logs is not None:
            logs.update({name: value for name, value in row.items() if name.startswith("valid")})
        self.bar.close()
        log.info("%s", "  ".join(f"{k} {v:.4g}" for k, v in self.rows[-1].items()))
        if self.validation is None or row[MONITOR] > self.best:
            self.best, self.best_epoch = row[MONITOR], epoch
        elif epoch - self.best_epoch >= self.trainer.patience:
            self.model.stop_training = True
        self._keep(epoch)
        self.finished = self.model.stop_training or epoch + 1 == self.last
        self._save(epoch)

    def _quality(self):
        if self.validation is None:
            return {"ndcg@10": float("nan"), "recall@10": float("nan")}
        return ranking_quality(self.ranker.top(self.validation.histories), self.validation)

    def _keep(self, epoch):
        """Keep the weights of the best epochs; what does not learn is the same in all."""
        if self.validation is None:
            return
        best = sorted(range(epoch + 1), key=lambda e: -self.rows[e][MONITOR])[:AVERAGED]
        if epoch in best:
            self.kept[epoch] = [w.numpy() for w in self.model.trainable_weights]
        self.kept = {e: weights for e, weights in self.kept.items() if e in best}

    # --- checkpoint and resume ---

    def boards(self):
        """Keras callbacks that write logs for TensorBoard."""
        if self.folder is None:
            return []
        return [keras.callbacks.TensorBoard(self.folder / "tensorboard", write_graph=False)]

    def _checkpoint(self):
        training = self.trainer.model.training
        return tf.train.Checkpoint(model=training, optimizer=training.optimizer)

    def _save(self, epoch):
        if self.folder is None:
            return
        checkpoints = self.folder / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        path = str(checkpoints / f"epoch-{epoch + 1}")
        self._checkpoint().write(path)
        if epoch in self.kept:
            best = self.folder / f"best-{epoch + 1}.npz"
            with whole_file(best) as beside, open(beside, "wb") as file:
                np.savez(file, *self.kept[epoch])
        pd.DataFrame(self.rows).to_csv(self.folder / "history.csv", index=False)
        state = {
            "fingerprint": self.fingerprint,
            "epochs_done": epoch + 1,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "kept": list(self.kept),
            "finished": self.finished,
            "rows": self.rows,
        }
        with whole_file(self.folder / "state.json") as beside:
            beside.write_text(json.dumps(state), encoding="utf-8")
        current = (f"epoch-{epoch + 1}.", *(f"best-{kept + 1}." for kept in self.kept))
        for old in [
            *checkpoints.glob("epoch-*"),
            *self.folder.glob("best-*"),
            *self.folder.glob(".best-*"),
        ]:
            if not old.name.startswith(current):
                old.unlink()

    def resume(self):
        """Load the last whole epoch of the run folder; returns the number of epochs done."""
        if self.folder is None or not (self.folder / "state.json").exists():
            return 0
        state = json.loads((self.folder / "state.json").read_text())
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"The run folder {self.folder} holds another run (other options or data). Choose "
                "another run_folder, or delete it to start anew."
            )
        self.rows, self.finished = state["rows"], state["finished"]
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        path = self.folder / "checkpoints" / f"epoch-{state['epochs_done']}"
        self._checkpoint().read(str(path)).assert_existing_objects_matched()
        for epoch in state["kept"]:
            with np.load(self.folder / f"best-{epoch + 1}.npz") as saved:
                self.kept[epoch] = [saved[name] for name in saved.files]
        log.info("resumed after epoch %d from %s", state["epochs_done"], self.folder)
        return state["epochs_done"]

    def restore_best(self):
        """Put the best weights back: one epoch's, or the mean of the best ones'."""
        if not self.kept:
            return
        if len(self.kept) > 1:
            self._put([np.mean(values, axis=0) for values in zip(*self.kept.values(), strict=True)])
            mean = self._quality()[MONITOR.removeprefix("valid_")]
            epochs = ", ".join(str(epoch + 1) for epoch in sorted(self.kept))
            log.info("mean of epochs %s: %s %.4f, best %.4f", epochs, MONITOR, mean, self.best)
            if mean > self.best:
                return
        self._put(self.kept[self.best_epoch])

    def _put(self, weights):
        for variable, value in zip(
            self.trainer.model.training.trainable_weights, weights, strict=True
        ):
            variable.assign(value)
