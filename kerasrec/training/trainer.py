"""`Trainer`: fits a model with full-ranking validation, early stopping, checkpoints and resume."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kerasrec.backend import check_process, keras, set_seed, tf
from kerasrec.checks import step
from kerasrec.data.histories import Histories, make_windows, num_batches, training_batches
from kerasrec.models.kerasmodel import (
    WatchedFigures,
    check_callbacks,
    check_catalogue,
    check_keras_2,
)
from kerasrec.models.optiontypes import (
    Count,
    Flag,
    Positive,
    Strategy,
    Text,
    TextOrPath,
    Whole,
    shown_plainly,
)
from kerasrec.models.validation import Ranker, Validation, some_of
from kerasrec.training.optimizers import (
    OPTIMIZERS,
    LazyAdam,
    Optimizer,
    WarmupCosine,
    named_optimizer,
)
from kerasrec.training.run import Run, fingerprint

log = logging.getLogger(__name__)
#: an epoch has at least this many steps where the data allow it, or few users learn little
MIN_STEPS = 50
_MIN_BATCH = 16
#: validation users that an epoch is judged by, at most: as many as the weights are chosen on
VALIDATED = 4000
_SIGNATURE = {
    name: tf.TensorSpec((None, None), tf.int32)
    for name in ("history", "time_gap", "event", "target")
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
        callbacks: list of Keras callbacks. They see each epoch's logs with `loss`, `valid_ndcg@10`
            and `valid_recall@10`; `EarlyStopping("valid_ndcg@10", mode="max")` stops by it.
    """

    @shown_plainly
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
        callbacks: Sequence[Any] = (),
    ):
        check_process()
        set_seed(seed, deterministic=deterministic)
        self.strategy = strategy or tf.distribute.get_strategy()
        self.model = self._built(model, precision)
        self.optimizer, self.learning_rate, self.clip_norm = optimizer, learning_rate, clip_norm
        self.batch_size, self.epochs, self.patience = batch_size, epochs, patience
        self.run_folder = None if run_folder is None else Path(run_folder)
        self.seed, self.progress, self.ranker = seed, progress, ranker
        check_keras_2(optimizer)
        check_callbacks(callbacks)
        self.callbacks = list(callbacks)
        self._schedule, self._compiled = None, ()  # of the last `fit`

    def _built(self, model, precision):
        if isinstance(model, keras.Model):
            raise ValueError(
                "Trainer takes the Model that build_model gives, or a function that builds one. "
                f"Received: {type(model).__name__}; one part of a Model is not enough."
            )
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
        histories: Histories,
        validation: Validation | None,
        *,
        stop_after: int | None = None,
    ) -> pd.DataFrame:
        """Trains until validation stops improving, then takes the best weights.

        These are the ones of the best epoch, or the mean of the three best epochs' where that ranks
        validation better (Izmailov et al. 2018).

        Args:
            histories: `Histories` of the training events.
            validation: `Validation`; of more than `VALIDATED` users a sample is looked at. None =
                nothing is held out, the last weights are taken.
            stop_after: epochs after which it stops, on the schedule of `epochs`; None = `epochs`.

        Returns:
            DataFrame with one row per epoch: epoch, loss, valid_ndcg@10, valid_recall@10, seconds.

        Raises:
            ValueError: no training target at all, or a run folder of another run.
            FloatingPointError: the loss became NaN or infinite.
        """
        if not isinstance(histories, Histories):
            raise ValueError(
                "fit takes Histories, as make_histories(interactions, items) gives them. Received: "
                f"{type(histories).__name__}."
            )
        max_length = self.model.config["max_length"]
        check_catalogue(histories, self.model.config["num_items"])
        windows = make_windows(histories, max_length)
        if not len(windows.starts):
            raise ValueError(
                "Training needs at least one user with 2 events. Received: "
                f"{histories.num_users} users with 1 event each or none."
            )
        most = max(len(windows.starts) // MIN_STEPS, _MIN_BATCH)
        batch_size = min(self.batch_size, most)
        steps = num_batches(windows, batch_size=batch_size)
        self._begin(steps)
        judged_by = validation and some_of(validation, VALIDATED)
        run = Run(self, judged_by, steps, fingerprint(self, histories, validation))
        run.last = stop_after or self.epochs
        first = run.resume()

        def generate():
            for epoch in range(first, self.epochs):
                seed = (self.seed, epoch)
                for batch in training_batches(windows, batch_size=batch_size, seed=seed):
                    if run.finished:
                        return
                    yield batch

        data = tf.data.Dataset.from_generator(generate, output_signature=_SIGNATURE).prefetch(4)
        if not run.finished and first < run.last:
            watched = WatchedFigures(self.callbacks)
            callbacks = [run, *run.boards(), *self.callbacks, watched]
            self._run_epochs(range(first, run.last), steps, data, callbacks)
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
            for number in range(steps):
                callbacks.on_train_batch_begin(number)
                # the first one may be traced, which takes long where the model is large
                traces = step(log, "the first step of the epoch", only_long=True)
                with traces if number == 0 else contextlib.nullcontext():
                    logs = {name: float(value) for name, value in step_of(batches).items()}
                callbacks.on_train_batch_end(number, logs)
            callbacks.on_epoch_end(epoch, logs)
            if training.stop_training:
                callbacks.callbacks[0].end(epoch)
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
