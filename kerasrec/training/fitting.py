"""Fits models: several seeds and their average, and a second model whose items have codes.

Codes are made of the item vectors of a trained model and of the texts (`fit_product_codes`); the
second model has them as a third part of its item vectors. What it learns of one item so helps all
that share a code with it, which an id part of each item's own never does. It is kept where it is
better on validation.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kerasrec.data.histories import Histories
from kerasrec.evaluation.metrics import mean_and_error
from kerasrec.models.build import Model
from kerasrec.models.codes import fit_product_codes
from kerasrec.models.ensemble import average_models
from kerasrec.models.optiontypes import Count, Flag, TextOrPath, Whole
from kerasrec.models.validation import Ranker, Validation, quality_per_user
from kerasrec.training.run import MONITOR
from kerasrec.training.trainer import Trainer

log = logging.getLogger(__name__)
#: codes of an item at most
NUM_CODE_PARTS = 32


class Fitted(NamedTuple):
    """What `fit_models` gives back.

    model: `Model`; None once it is let go.  history: DataFrame of `fit_members`, that of the
    model.  build: the function that builds such a model, its codes included.  facts: dict for a
    manifest, `codes` in it where there was a choice.
    """

    model: Any
    history: pd.DataFrame
    build: Callable[[], Model]
    facts: dict[str, Any]


def fit_members(
    build: Callable[[], Model],
    histories: Histories,
    validation: Validation | None,
    *,
    members: Count = 1,
    seed: Whole = 0,
    run_folder: TextOrPath | None = None,
    stop_after: list[int] | None = None,
    **options: Any,
) -> tuple[Model, pd.DataFrame]:
    """Trains a model with several seeds, one after the other, and averages them.

    Args:
        build: function without arguments that builds a `Model`.
        histories, validation: as in `Trainer.fit`.
        members: seeds to train the model with; their average is the version. 1 = a plain model.
        seed: of batches, sampled negatives and dropout, for the first member; the next ones have
            seed + 1, seed + 2, ...
        run_folder: as in `Trainer`; several members have the folders `member-1`, ... in it.
        stop_after: list of epochs, for each member as in `Trainer.fit`; None = no limit of its own.
        options: the other ones of `Trainer`.

    Returns:
        `(Model, DataFrame)`: the table has the rows of all members one after the other, told apart
        by a column `member` (from 1) where there are several.
    """
    models, runs = [], []
    for number in range(1, members + 1):
        folder = run_folder
        if members > 1:
            log.info("member %d of %d, seed %d", number, members, seed + number - 1)
            folder = run_folder and Path(run_folder) / f"member-{number}"
        trainer = Trainer(build, seed=seed + number - 1, run_folder=folder, **options)
        last = stop_after[number - 1] if stop_after else None
        runs.append(trainer.fit(histories, validation, stop_after=last))
        models.append(trainer.model)
    if members == 1:
        return models[0], runs[0]
    rows = [run.assign(member=number) for number, run in enumerate(runs, start=1)]
    return average_models(models), pd.concat(rows, ignore_index=True)


def best_epochs(history: pd.DataFrame) -> list[int]:
    """Finds the best epoch of each member, from the table of `fit_members`.

    >>> best_epochs(pd.DataFrame({"valid_ndcg@10": [0.1, 0.3, 0.2, 0.1], "member": [1, 1, 2, 2]}))
    [2, 1]
    """
    runs = history.groupby("member") if "member" in history else [(1, history)]
    return [int(run[MONITOR].argmax()) + 1 for _, run in runs]


def fit_models(
    build: Callable[..., Model],
    histories: Histories,
    validation: Validation | None,
    text_vectors: np.ndarray | None = None,
    *,
    codes: Flag = False,
    run_folder: TextOrPath | None = None,
    **options: Any,
) -> Fitted:
    """Trains as `fit_members` does, and with `codes` once more, on items with codes.

    The second model is kept where its NDCG@10 on validation is higher by more than the standard
    error of the difference: else the first one, which is smaller.

    Args:
        build: function that builds a `Model`; takes `codes` (`build_model`) or nothing.
        histories, validation: as in `Trainer.fit`; with codes there must be a validation.
        text_vectors: float32 `(num_items, text_dim)`, whitened; None = there are no texts.
        codes: whether a second model, on items with codes, is trained too; it is kept where it is
            better. It takes about as long again.
        run_folder: as in `fit_members`; the second model has the folder `codes` in it.
        options: the other ones of `fit_members`.

    Returns:
        `Fitted`.

    Raises:
        ValueError: codes without a validation.
    """
    if codes and validation is None:
        raise ValueError("codes=True needs a validation to choose by. Received: None.")
    model, history = fit_members(build, histories, validation, run_folder=run_folder, **options)
    if not codes:
        return Fitted(model, history, build, {})
    vectors = Ranker(model).item_vectors().numpy()[1:]
    log.info("training once more, with codes of the items")
    folder = run_folder and Path(run_folder) / "codes"
    again = functools.partial(build, codes=_codes_of(vectors, text_vectors, folder))
    coded, coded_history = fit_members(again, histories, validation, run_folder=folder, **options)
    plain, better = (_ndcg(found, validation) for found in (model, coded))
    gain, error = mean_and_error(better - plain)
    taken = gain > error
    log.info(
        "NDCG@10 on validation %.4f, with codes %.4f: %s",
        *(plain.mean(), better.mean(), "taken" if taken else "left"),
    )
    numbers = {"without": float(plain.mean()), "with": float(better.mean()), "se": error}
    facts = {"codes": {"taken": bool(taken), **{k: round(v, 5) for k, v in numbers.items()}}}
    if taken:
        return Fitted(coded, coded_history, again, facts)
    return Fitted(model, history, build, facts)


def _codes_of(vectors, text_vectors, folder):
    """Codes of the items; those of a run that goes on, where there are any."""
    kept = folder and folder / "codes.npy"
    if kept and kept.exists():
        return np.load(kept)
    codes = fit_product_codes(vectors, text_vectors, parts=min(NUM_CODE_PARTS, vectors.shape[1]))
    if kept:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(kept, codes)
    return codes


def _ndcg(model, validation):
    lists = Ranker(model).top(validation.histories, 10)
    return np.asarray(quality_per_user(lists, validation, 10)["ndcg"])
