"""`Run`: what happens around the steps of a training run: validation, best weights, checkpoints."""

import hashlib
import json
import logging
import time
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from kerasrec.backend import few_words, keras, tf, whole_file
from kerasrec.checks import Pace, step
from kerasrec.data.histories import Histories
from kerasrec.models.validation import Validation, ranking_quality

log = logging.getLogger(__name__)
MONITOR = "valid_ndcg@10"
#: epochs whose weights are averaged at the end, if the mean ranks validation better than the best
AVERAGED = 3


def fingerprint(trainer: Any, histories: Histories, validation: Validation | None) -> str:
    """Hashes what must be equal for a run to go on: options and data, texts of items included."""
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


class Run(keras.callbacks.Callback):
    """Validates after each epoch, keeps the best weights, writes what a resumed run needs."""

    def __init__(
        self, trainer: Any, validation: Validation | None, steps: int, fingerprint: str
    ) -> None:
        super().__init__()
        self.trainer, self.validation, self.steps = trainer, validation, steps
        self.fingerprint = fingerprint
        self.folder = trainer.run_folder
        self.ranker = trainer.ranker(trainer.model)
        self.rows: list[dict[str, Any]] = []
        self.best, self.best_epoch = -1.0, -1
        self.kept: dict[int, list[np.ndarray]] = {}  # epoch -> weights, of the best epochs
        self.finished, self.last = False, trainer.epochs
        self.bar: Any = None

    # --- progress ---

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock and the bar."""
        self.started = time.perf_counter()
        self.bar = tqdm(
            total=self.steps,
            desc=f"epoch {epoch + 1}/{self.trainer.epochs}",
            disable=None if self.trainer.progress else True,  # None = where there is a terminal
            leave=False,
        )
        self.pace = Pace(log)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops a run whose loss is no number any more; moves the bar."""
        loss = (logs or {}).get("loss", 0.0)
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"The loss became {loss} at step {batch} of epoch {len(self.rows) + 1}. Lower "
                f"learning_rate (now {self.trainer.learning_rate}) or clip_norm (now "
                f"{self.trainer.clip_norm}), or use precision='float32'."
            )
        self.bar.update()
        if self.bar.disable:
            name = f"epoch {len(self.rows) + 1}/{self.trainer.epochs}"
            self.pace.say("%s: step %d of %d, loss %.4g", name, batch + 1, self.steps, loss)
        else:
            self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Validates, keeps and writes weights, and says whether it was the last epoch."""
        quality = self._quality()
        seconds = time.perf_counter() - self.started
        row = {"epoch": epoch + 1, "loss": float((logs or {}).get("loss", 0.0))}
        row.update({f"valid_{name}": value for name, value in quality.items()})
        self.rows.append({**row, "seconds": round(seconds, 2)})
        if logs is not None:
            logs.update({name: value for name, value in row.items() if name.startswith("valid")})
        self.bar.close()
        log.info("%s", "  ".join(f"{k} {v:.4g}" for k, v in self.rows[-1].items() if v == v))
        if self.validation is None or row[MONITOR] > self.best:
            self.best, self.best_epoch = row[MONITOR], epoch
        elif epoch - self.best_epoch >= self.trainer.patience:
            self.model.stop_training = True
        self._keep(epoch)
        self.finished = self.model.stop_training or epoch + 1 == self.last
        self._save(epoch)

    def end(self, epoch: int) -> None:
        """Notes that a callback of the user's has stopped the training after an epoch."""
        if not self.finished:
            self.finished = True
            self._save(epoch)

    def _quality(self):
        if self.validation is None:
            return {"ndcg@10": float("nan"), "recall@10": float("nan")}
        with step(log, "validating", only_long=True):
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

    def boards(self) -> list[Any]:
        """Makes the Keras callbacks that write logs for TensorBoard."""
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
        with few_words():
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

    def resume(self) -> int:
        """Loads the last whole epoch of the run folder; returns the number of epochs done."""
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
        with few_words():
            self._checkpoint().read(str(path)).assert_existing_objects_matched()
        for epoch in state["kept"]:
            with np.load(self.folder / f"best-{epoch + 1}.npz") as saved:
                self.kept[epoch] = [saved[name] for name in saved.files]
        log.info("resumed after epoch %d from %s", state["epochs_done"], self.folder)
        return state["epochs_done"]

    def restore_best(self) -> None:
        """Puts the best weights back: one epoch's, or the mean of the best ones'."""
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
