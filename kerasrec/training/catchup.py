"""Teaches a trained model newer events gently: beside as many others, against forgetting."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kerasrec.data.histories import Histories
from kerasrec.models.build import Model
from kerasrec.training.trainer import Trainer

#: epochs over the users with new events and those that are replayed
EPOCHS = 3
#: learning rate, as a share of that of the first training
GENTLE = 0.25


def gentle_trainer(
    model: Model, options: Mapping[str, Any], *, seed: int, strategy: Any = None
) -> Trainer:
    """Makes the `Trainer` of a model that is trained already.

    Args:
        model: `Model`.
        options: the section `trainer` of the first training, complete.
        seed: of the batches.
        strategy: as in `Trainer`.
    """
    return Trainer(
        model,
        optimizer=options["optimizer"],
        learning_rate=GENTLE * options["learning_rate"],
        batch_size=options["batch_size"],
        clip_norm=options["clip_norm"],
        epochs=EPOCHS,
        seed=seed,
        deterministic=options["deterministic"],
        strategy=strategy,
        progress=False,
    )


def learn_gently(trainer: Trainer, known: Histories, fitted: Histories) -> None:
    """Teaches the model of a `gentle_trainer` what is new in `known`.

    Args:
        trainer: `Trainer`, see `gentle_trainer`.
        known: `Histories` of all that is to be known afterwards.
        fitted: `Histories` of what the model has learned already.
    """
    fresh = known.lengths - fitted.of_users(known.user_ids).lengths
    part = replayed(known, fresh, trainer.model.config["max_length"], trainer.seed)
    if len(part.items):  # else newcomers alone, of one event each
        trainer.fit(part, None)


def replayed(histories: Histories, fresh: np.ndarray, max_length: int, seed: int) -> Histories:
    """Gives what is learned from: the users with new events, and as many others.

    Args:
        histories: `Histories`, all that is known.
        fresh: how many of each user's events are new, `(num_users,)`.
        max_length: of the model.
        seed: of the draw of the others.

    Returns:
        `Histories` of these users, of each the new events and `max_length` before them.
    """
    active = np.flatnonzero((fresh > 0) & (histories.lengths > 1))
    others = np.flatnonzero((fresh <= 0) & (histories.lengths > 1))
    count = min(len(active), len(others))
    drawn = np.random.default_rng(seed).choice(others, count, replace=False)
    rows = np.sort(np.concatenate([active, drawn]))
    part = histories.select(rows)
    age = np.repeat(part.offsets[1:], part.lengths) - 1 - np.arange(len(part.items))
    return part.where(age < np.repeat(np.maximum(fresh[rows], 0), part.lengths) + max_length)
