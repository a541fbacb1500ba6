"""Learns what was held out: gently, beside as many other events, or by fitting anew.

The stages `refit_all` and `catch_up` of `train` are here; `loop.child` learns gently too.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kerasrec.checks import step
from kerasrec.data.histories import Histories
from kerasrec.fusion.fusion import fit_again
from kerasrec.models.build import Model, TextEncoder
from kerasrec.models.textpart import TextPart
from kerasrec.training.choosing.learning import (
    Trial,
    lift_that_keeps,
    places_of_new,
    try_at_the_end,
    try_by_users,
)
from kerasrec.training.fitting import Fitted, best_epochs, fit_members
from kerasrec.training.optimizers import OPTIMIZERS
from kerasrec.training.options import known_options
from kerasrec.training.stages import Chosen, Data, Options, builder_of, encode, is_timed
from kerasrec.training.trainer import Trainer

log = logging.getLogger(__name__)

#: epochs over the users with new events and those that are replayed
EPOCHS = 3
#: learning rate, as a share of that of the first training
GENTLE = 0.25
#: the best epoch is early where there were this many times as many in all
EARLY = 3


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


# --- the stages of `train` ---


def refit_all(
    first: Fitted, chosen: Chosen, data: Data, text: TextPart, options: Options, *, progress: bool
) -> tuple[Fitted, Chosen, TextPart]:
    """Fits model and tables anew on all events, for as many epochs, with the weights chosen.

    What was held out is known when the version goes to work.

    Args:
        first: the first fit; its model is not read, so leave it out where it is large.
        chosen, data, text, options, progress: as for the stages before.

    Returns:
        The same three as they are now. The table of epochs stays that of the first fit.
    """
    log.info("fitting anew on all events")
    build = first.build
    if isinstance(text.text, TextEncoder):
        # the encoder has learned: begin again with the pretrained one
        text = encode(data, options, progress=progress)
        build = builder_of(data, text, options)
    events = data.everything()
    wanted = {"progress": progress, **_elsewhere(options["trainer"])}
    stop_after = best_epochs(first.history)
    model, _ = fit_members(build, events, None, stop_after=stop_after, **wanted)
    return first._replace(model=model), _with_tables(chosen, events, data, text), text


def _with_tables(chosen, events, data, text):
    """`Chosen` with the same tables of other events."""
    fusion = chosen.fusion
    tables = fit_again(fusion.tables, chosen.places, events, len(data.items), text.vectors)
    return chosen._replace(fusion=fusion._replace(tables=tables))


def _elsewhere(options: dict[str, Any]) -> dict[str, Any]:
    """Trainer options of a second run: its run folder lies in that of the first."""
    folder = options.get("run_folder")
    rest = {name: value for name, value in options.items() if name != "codes"}
    return rest if folder is None else {**rest, "run_folder": Path(folder) / "refit"}


def catch_up(
    last: Fitted, chosen: Chosen, data: Data, text: TextPart, options: Options, *, learn: bool
) -> tuple[Fitted, Chosen, dict[str, Any]]:
    """Teaches model and tables the events that they were weighed by.

    For "live" both learn them: the model gently, as in an update, and the tables are fitted to all
    events. For "end" and "newest" it is tried what that is worth (`learning`).

    Args:
        last, chosen, data, text, options: of the stages before.
        learn: whether it is tried; if not, only "live" is learned.

    Returns:
        The first two as they are now, and what the manifest is to say of it.
    """
    requests = data.held.requests
    if requests is None and not learn:
        return last, chosen, {}
    known = data.everything() if requests is None else requests.known
    if requests is not None:
        with step(log, "learning the held-out events"):
            learn_gently(_gentle(last.model, options), known, data.fitted)
            return last, _with_tables(chosen, known, data, text), {}
    with step(log, "trying what learning the held-out events is worth"):
        return _try(last, chosen, data, text, options, known)


def _try(last, chosen, data, text, options, known):
    """`catch_up` for "end" and "newest"."""
    teach, is_end = _teacher(last, data, options), data.held.ask == "end"
    given = last.model, teach, chosen.fusion, chosen.places, text.vectors, data.held, known
    trial = Trial(*given, timed=is_timed(options))
    decision, new = (try_at_the_end if is_end else try_by_users)(trial), 0.0
    is_learned = decision.tables or decision.model
    if is_end and is_learned:
        (new,) = places_of_new(last.model, chosen.fusion, trial, (0.0,))
    if teach is not None:
        last = last._replace(model=teach(known if decision.model else data.fitted))
    if decision.tables:
        chosen = _with_tables(chosen, known, data, text)
    if is_end and is_learned:
        listed = places_of_new(last.model, chosen.fusion, trial)
        decision = decision._replace(lift=lift_that_keeps(new, listed, decision.lift))
    elif decision.tables:
        chosen = chosen._replace(fusion=chosen.fusion.at_moments(trial.moments(known)))
    chosen = chosen._replace(fusion=chosen.fusion.lifted(decision.lift))
    return last, chosen, {"learned": decision._asdict()}


def _gentle(model, options):
    trainer = {**known_options()["trainer"], **options["trainer"]}
    return gentle_trainer(model, trainer, seed=trainer["seed"], strategy=trainer["strategy"])


def _teacher(last, data, options):
    """A function of the events that are to be known, which gives the model that knows them.

    It learns them gently; where its best epoch came early it would so be trained past its best,
    and is fitted anew for as many epochs. Told the events it has learned it is what it was. None
    where it cannot begin again: an encoder that learns, an optimizer that keeps its state.
    """
    wanted = options["trainer"]
    if options["encoder"].get("mode", "frozen") != "frozen":
        return None
    if isinstance(wanted.get("optimizer"), OPTIMIZERS):
        return None
    epochs, given = best_epochs(last.history), {**_elsewhere(wanted), "run_folder": None}
    first, before = last.model, last.model.training.get_weights()

    def anew(known):
        if known is data.fitted:
            return first
        return fit_members(last.build, known, None, stop_after=epochs, progress=False, **given)[0]

    def gently(known):
        first.training.set_weights(before)
        if known is not data.fitted:
            learn_gently(trainer, known, data.fitted)
        return first

    if sum(epochs) * EARLY <= len(last.history):
        return anew
    trainer = _gentle(first, options)
    return gently
