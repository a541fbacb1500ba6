"""A second model, whose items have codes, where it is better on validation.

Codes are made of the item vectors of a trained model and of the texts (`fit_product_codes`); the
second model has them as a third part of its item vectors. What it learns of one item so helps all
that share a code with it, which an id part of each item's own never does.
"""

import functools
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasrec.ensemble import fit_members
from kerasrec.metrics import mean_and_error
from kerasrec.semanticids import fit_product_codes
from kerasrec.validation import Ranker, quality_per_user

log = logging.getLogger(__name__)
#: codes of an item at most
PARTS = 32


class Fitted(NamedTuple):
    """What `fit_models` gives back.

    model: `Model`.  history: DataFrame of `fit_members`, that of the model.  build: the function
    that builds such a model, its codes included.  facts: dict for a manifest, `codes` in it where
    there was a choice.
    """

    model: Any
    history: Any
    build: Any
    facts: dict


def fit_models(
    build, histories, validation, text_vectors=None, *, codes=False, run_folder=None, **options
):
    """Train as `fit_members` does, and with `codes` once more, on items with codes.

    The second model is kept where its NDCG@10 on validation is higher by more than the standard
    error of the difference: else the first one, which is smaller.

    Args:
        build: function that builds a `Model`; takes `codes` (`build_model`) or nothing.
        histories, validation: as in `Trainer.fit`; with codes there must be a validation.
        text_vectors: float32 `(num_items, text_dim)`, whitened; None = there are no texts.
        codes: whether there is a second model; it takes about as long again.
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
    facts = {"without": float(plain.mean()), "with": float(better.mean()), "se": error}
    facts = {"codes": {"taken": bool(taken), **{k: round(v, 5) for k, v in facts.items()}}}
    if taken:
        return Fitted(coded, coded_history, again, facts)
    return Fitted(model, history, build, facts)


def _codes_of(vectors, text_vectors, folder):
    """Codes of the items; those of a run that goes on, where there are any."""
    kept = folder and folder / "codes.npy"
    if kept and kept.exists():
        return np.load(kept)
    codes = fit_product_codes(vectors, text_vectors, parts=min(PARTS, vectors.shape[1]))
    if kept:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(kept, codes)
    return codes


def _ndcg(model, validation):
    lists = Ranker(model).top(validation.histories, 10)
    return np.asarray(quality_per_user(lists, validation, 10)["ndcg"])
