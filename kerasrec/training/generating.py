"""Trains the generator of plans, and weighs it beside the recommender's own score."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from kerasrec.checks import step
from kerasrec.data.histories import Histories
from kerasrec.evaluation.metrics import mean_and_error
from kerasrec.generation.decoder import build_decoder
from kerasrec.generation.generator import Generator, PlanRanker
from kerasrec.models.codes import fit_semantic_ids, make_trie
from kerasrec.models.optiontypes import Count, Positive, Share, TextOrPath, Whole, shown_plainly
from kerasrec.models.validation import Validation, quality_per_user, some_of
from kerasrec.recommender.loadedplans import VersionPlans
from kerasrec.recommender.questions import Questions
from kerasrec.training.trainer import Trainer
from kerasrec.versions.loaded import LoadedVersion

log = logging.getLogger(__name__)

#: users whose next item is searched for after each epoch, at most
VALIDATED = 2000


@shown_plainly
def fit_generator(
    item_vectors: np.ndarray,
    text_vectors: np.ndarray | None,
    histories: Histories,
    validation: Validation | None,
    *,
    known: np.ndarray | None = None,
    levels: Count = 3,
    max_items: Count = 25,
    units: Count = 128,
    num_blocks: Count = 2,
    heads: Count = 4,
    dropout: Share = 0.2,
    batch_size: Count = 32,
    learning_rate: Positive = 1.5e-3,
    epochs: Count = 25,
    patience: Count = 4,
    seed: Whole = 0,
    run_folder: TextOrPath | None = None,
    progress: bool = True,
) -> tuple[Generator, pd.DataFrame]:
    """Fits semantic ids to a trained catalogue and trains a decoder on them.

    Args:
        item_vectors: float32 `(num_items, item_dim)` of the trained model.
        text_vectors: float32 `(num_items, text_dim)`, whitened, or None.
        histories: `Histories` of the training events.
        validation: `Validation`, to stop by (on `VALIDATED` of its users); None = the last weights.
        known: for `fit_semantic_ids`.
        levels: codes of a semantic id.
        max_items: newest items of a history and those of the plan together, at most.
        units: width of the decoder; a multiple of heads.
        num_blocks: layers of the decoder.
        heads: attention heads of the decoder.
        dropout: share of values that training drops inside the decoder.
        batch_size: histories per step at most; small, since what a decoder learns in an epoch
            depends on the number of steps.
        learning_rate: peak of the schedule, as in `Trainer`.
        epochs: upper limit.
        patience: epochs without a better validation NDCG@10 before it stops.
        seed: of semantic ids, batches and dropout.
        run_folder: where checkpoints, `history.csv` and TensorBoard logs go, as in `Trainer`.
        progress: whether a bar is shown.

    Returns:
        `Generator`, which lists by the decoder alone, and the DataFrame of its epochs.

    Raises:
        CollapsedCodes: the items are too alike to be told apart by codes.
    """
    with step(log, "fitting semantic ids to %s items", f"{len(item_vectors):,}"):
        ids = fit_semantic_ids(item_vectors, text_vectors, known=known, levels=levels, seed=seed)
    for row in ids.usage():
        log.info("semantic ids, %s", ", ".join(f"{key} {value}" for key, value in row.items()))
    trie = make_trie(ids.codes)

    def build():
        return build_decoder(
            ids.codes,
            ids.sizes,
            item_vectors,
            max_items=max_items,
            units=units,
            num_blocks=num_blocks,
            heads=heads,
            dropout=dropout,
            centers=[*ids.centers, None],
        )

    options: dict[str, Any] = dict(
        batch_size=batch_size, learning_rate=learning_rate, epochs=epochs
    )
    options |= dict(patience=patience, seed=seed, run_folder=run_folder, progress=progress)
    ranker = None

    def ranker_of(decoder):
        nonlocal ranker
        ranker = ranker or PlanRanker(decoder, trie)
        return ranker

    fitted = Trainer(build, ranker=ranker_of, **options)
    history = fitted.fit(histories, validation and some_of(validation, VALIDATED))
    return Generator(ids, fitted.model), history


def text_columns(config: dict[str, Any], dim: int) -> np.ndarray:
    """Tells which columns of item vectors are text parts: bool `(dim,)`.

    Args:
        config: of the `Model`; an average of several has a text part per member.
        dim: of its item vectors.

    >>> text_columns({"text_units": 2}, 3).tolist()
    [True, True, False]
    """
    members = config.get("members", 1)
    return np.arange(dim) % (dim // members) < config["text_units"]


#: what `choose_trust` tries: exponents of the decoder and of the recommender's shares, from the
#: recommender alone to the decoder alone
TRUSTS = ((0, 1), (0.1, 1), (0.25, 1), (0.25, 0.7), (0.5, 1), (0.5, 0.7), (1, 1), (1, 0.5), (1, 0))
#: validation users whose plans that looks at, at most
JUDGED = 600


def choose_trust(
    module: Any,
    validation: Validation,
    asked_of: Callable[[Histories], np.ndarray],
    num_items: int,
) -> tuple[float, float, list[dict[str, float]]]:
    """Weighs the decoder and what the recommender expects, by the plans of validation users.

    `simplest_of` says which of `TRUSTS` is taken.

    Args:
        module: `PlanningModule`; it is left with the exponents that are chosen.
        validation: `Validation`.
        asked_of: function of `Histories` that gives when plans are asked for, int64.
        num_items: of a plan; fewer where the decoder reads few.

    Returns:
        The two exponents, and a list of dicts `trust, prior, ndcg, se`: NDCG@num_items of the plans
        against what users really took next, and the standard error of its difference to the best.
    """
    some = some_of(validation, JUDGED)
    loaded = LoadedVersion(module, None)
    num_items = min(num_items, loaded.longest_plan)
    asked = asked_of(some.histories)
    questions = Questions(some.histories, asked, np.zeros_like(asked))
    plans, found = VersionPlans(loaded), []
    for trust, prior in TRUSTS:
        loaded.set_trust(trust, prior)
        index, _ = plans.index(questions, num_items)
        found.append(quality_per_user(index[:, 0], some, num_items)["ndcg"])
    best = max(found, key=np.mean)
    rows = [
        {"trust": trust, "prior": prior, "ndcg": ndcg.mean(), "se": mean_and_error(best - ndcg)[1]}
        for (trust, prior), ndcg in zip(TRUSTS, found, strict=True)
    ]
    rows = [{name: float(value) for name, value in row.items()} for row in rows]
    taken = simplest_of(rows)
    loaded.set_trust(taken["trust"], taken["prior"])
    return taken["trust"], taken["prior"], rows


def simplest_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """Picks the first of the rows that are no worse than the best by more than the standard error.

    The one-standard-error rule of Breiman et al. 1984, *Classification and Regression Trees*,
    3.4.3. The decoder is made of what was known before validation, and knows less and less of what
    comes after it: it has no more of a say than is proven.

    >>> rows = [{"trust": 0, "ndcg": 0.2, "se": 0.02}, {"trust": 1, "ndcg": 0.21, "se": 0.0}]
    >>> simplest_of(rows)["trust"], simplest_of([rows[0] | {"se": 0.005}, rows[1]])["trust"]
    (0, 1)
    """
    best = max(row["ndcg"] for row in rows)
    return next(row for row in rows if best - row["ndcg"] <= row["se"])
