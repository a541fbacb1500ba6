"""`train`: tables in, a served-ready version out. The command line's `train` is this function."""

import logging
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from kerasrec.data.histories import make_histories
from kerasrec.data.interactions import join_interactions, read_interactions, read_items
from kerasrec.data.statistics import fingerprint
from kerasrec.fusion.choice import choose_fusion
from kerasrec.fusion.fusion import PARTS, fit_tables
from kerasrec.fusion.recency import (
    AT_NEWEST_EVENT,
    AT_THE_END,
    Counts,
    asked_at_the_end,
    fit_moments,
    newest_times,
)
from kerasrec.generation.decoder import check_decoder
from kerasrec.models.build import build_model
from kerasrec.models.codes import CollapsedCodes
from kerasrec.models.textpart import text_part
from kerasrec.models.validation import Ranker, hold_out_last, make_validation
from kerasrec.training.fitting import best_epochs, fit_members, fit_models
from kerasrec.training.generating import choose_trust, fit_generator, text_columns
from kerasrec.training.options import known_options, resolve_preset
from kerasrec.training.trainer import OPTIMIZERS
from kerasrec.versions import folders
from kerasrec.versions.exporter import export, serving_module
from kerasrec.versions.plangraph import PLAN_ITEMS
from kerasrec.versions.trainingstate import plain

log = logging.getLogger(__name__)


class Trained(NamedTuple):
    """What `train` gives back.

    version: Path of the exported version.  history: DataFrame, one row per epoch (and member).
    metrics: dict, quality on validation.  manifest: dict, as in the version.
    """

    version: Path
    history: pd.DataFrame
    metrics: dict
    manifest: dict


def train(
    interactions,
    items,
    *,
    name,
    valid=None,
    out="saved_models",
    preset="balanced",
    options=None,
    refit=False,
    generator=False,
    progress=True,
    facts=None,
):
    """Encode the texts, fit a model, choose the fusion on validation, export a version.

    Args:
        interactions: `Interactions`, or what `read_interactions` takes (a file, a DataFrame); taken
            as they are.
        items: `Items`, or what `read_items` takes; the catalogue is all of them.
        name: of the model; versions go to `out/name/1`, `out/name/2`, ...
        valid: the same as `interactions`, to stop and tune on; None = the last event of each user.
        out: parent folder.
        preset: "fast", "balanced" or "accurate".
        options: dict of sections `encoder`, `model`, `trainer`, `fusion`, `generator`, each a dict
            of options that override the preset. With `trainer.members` above 1 the model is trained
            with that many seeds, and their average is one version (`ensemble`). With
            `trainer.codes` it is trained once more with codes of the items (`fitting`).
        refit: whether, once epochs and weights are chosen, model and tables are fitted anew on all
            events, those of `valid` too, for as many epochs. The metrics stay those of the first
            fit. It takes about as long again.
        generator: whether a generator of plans is trained too (`Recommender.generate`), after the
            model and on the same events. It takes about as long again. Where the items are too
            alike for semantic ids the version comes without one, and a warning says so.
        facts: dict, what the manifest is to say besides.

    Returns:
        `Trained`.

    Raises:
        ValueError: unknown options, data that nothing can be learned from, times in one of
            `interactions` and `valid` only, refit, members or codes with an optimizer that is
            made already, members or codes with an encoder that learns, or refit with a generator.
    """
    started = time.perf_counter()
    folders.check_name(name)
    items = items if hasattr(items, "frame") else read_items(items)
    folders.check_item_ids(items.ids)
    folders.check_writable(out)
    options = resolve_preset(preset, options or {})
    if generator:  # before the work
        check_decoder(**options["generator"])
    interactions, valid = (
        given if given is None or hasattr(given, "frame") else read_interactions(given)
        for given in (interactions, valid)
    )
    _check_times(interactions, valid)
    _check_repeats(options, refit)
    if refit and generator:
        raise ValueError(
            "refit trains the model anew on what the generator is weighed by. Give refit or "
            "generator, not both."
        )
    histories = make_histories(interactions, items)
    fitted, validation, later = _split(histories, items, valid)
    only_end = asked_at_the_end(fitted, later)
    part = text_part(items, **options["encoder"], progress=progress)
    inputs = {
        "time_gaps": bool(histories.timestamps.any()),
        "events": len(np.unique(histories.events)) > 1,
    }

    def build(**codes):
        return build_model(len(items), text=part.text, **{**inputs, **options["model"]}, **codes)

    log.info("training on the histories of %s users", f"{fitted.num_users:,}")
    how = {"progress": progress, **options["trainer"]}
    model, history, build, code_facts = fit_models(build, fitted, validation, part.vectors, **how)
    users = f"{validation.histories.num_users:,}"
    log.info("choosing tables and weights on %s validation users", users)
    tables = fit_tables(fitted, len(items), part.vectors, **options["fusion"])
    timed = "recency" in options["fusion"].get("parts", PARTS)
    moments = fit_moments(fitted if timed else fitted.timeless(), len(items), only_end=only_end)
    fusion, metrics = choose_fusion(Ranker(model), validation, tables, moments)
    chosen = fusion.chosen(tables)
    # what was held out is known when the version goes to work
    if refit:
        log.info("fitting anew on all events")
        if part.encoder is not None and part.text is not part.vectors:
            # the encoder has learned: begin again with the pretrained one
            model = None  # it is large: not two at a time
            part = text_part(items, **options["encoder"], progress=progress)
        every = histories
        if valid is not None:
            every = make_histories(join_interactions([interactions, valid]), items)
        elsewhere = _elsewhere(options["trainer"])
        stop_after = best_epochs(history)
        model, _ = fit_members(
            build, every, None, progress=progress, stop_after=stop_after, **elsewhere
        )
        again = fit_tables(every, len(items), part.vectors, **options["fusion"])
        fusion = fusion.with_tables(tables, again)
    plans, plan_facts = None, {}
    if generator:  # weighed before the fusion knows what was held out
        wanted = {"progress": progress, **options["generator"]}
        given = (fitted, validation, fusion, items, wanted, only_end)
        plans, plan_facts = _plans(model, part.vectors, *given)
    known = [log if timed else log.timeless() for log in (histories, later)]
    fusion = fusion.at_end(Counts.of(len(items), *known))
    log.info("exporting, and comparing what was exported")
    version = export(
        model,
        Path(out) / name,
        items=items,
        manifest={
            "name": name,
            "preset": preset,
            **_described(options, generator),
            "data": fingerprint(interactions, items),
            "validation": "last event of each user" if valid is None else "given",
            "asked": AT_THE_END if only_end else AT_NEWEST_EVENT,
            "metrics": metrics,
            "tables": chosen,
            "parts": list(options["fusion"].get("parts", PARTS)),
            "refit": bool(refit),
            "epochs": len(history),
            **code_facts,
            **plan_facts,
            "train_seconds": round(time.perf_counter() - started, 1),
            "learned_since": int(time.time() - (time.perf_counter() - started)),
            **(facts or {}),
        },
        encoder=part.encoder,
        whitening=part.whitening,
        fusion=fusion,
        history=history,
        probe=_probe(items, fitted),
        generator=plans,
    )
    return Trained(version, history, metrics, folders.read_manifest(version).as_dict())


def _plans(model, text_vectors, fitted, validation, fusion, items, options, only_end):
    """`Generator` for a trained model, weighed on validation, and facts for the manifest."""
    log.info("training the generator of plans")
    begin = time.perf_counter()
    vectors = Ranker(model).item_vectors().numpy()[1:]
    known = text_columns(model.config, vectors.shape[1])
    given = (vectors, text_vectors, fitted, validation)
    try:
        found, history = fit_generator(*given, known=known, **options)
    except CollapsedCodes as error:  # the model has been trained for long
        log.warning("the version comes without a generator of plans. %s", error)
        return None, {"plans": {"refused": str(error)}}
    seconds = round(time.perf_counter() - begin, 1)
    asked_of = no_time if only_end else newest_times
    with tempfile.TemporaryDirectory() as folder:
        ids = Path(folder) / folders.ITEM_IDS.name
        folders.write_item_ids(ids, items.ids)
        module = serving_module(model, asset=ids, fusion=fusion, k=1, generator=found)
        trust, prior, tried = choose_trust(module, validation, asked_of, PLAN_ITEMS)
    log.info("plans: trust in the decoder %s, in the recommender %s", trust, prior)
    facts = {"tried": tried, "epochs": history.to_dict("records"), "seconds": seconds}
    return found._replace(trust=trust, prior=prior), {"plans": facts}


def no_time(histories):
    """Lists that are asked for at the end of the log: int64 zeros `(num_users,)`."""
    return np.zeros(histories.num_users, np.int64)


def _check_repeats(options, refit):
    """Training more than once needs what begins anew each time."""
    members, codes = (options["trainer"].get(name) for name in ("members", "codes"))
    repeats = []
    if (members or 1) > 1:
        repeats.append((f"members={members}", "trains several times"))
    if codes:
        repeats.append(("codes=True", "trains twice"))
    mode = options["encoder"].get("mode", "frozen")
    if repeats and mode != "frozen":
        name, given = repeats[0][0].split("=")[0], f"{repeats[0][0]}, mode={mode!r}"
        raise ValueError(
            f"trainer.{name} needs encoder.mode='frozen', or every model would train an encoder of "
            f"its own. Received: {given}. Change one of them."
        )
    if refit:
        repeats.append(("refit", "trains twice"))
    if repeats and isinstance(options["trainer"].get("optimizer"), OPTIMIZERS):
        raise ValueError(
            f"{' '.join(repeats[0])}, and an optimizer that is made already keeps its state. Give "
            "its name, or a function that takes the learning rate and makes one."
        )


def _elsewhere(options):
    """Trainer options of a second run: its run folder lies in that of the first."""
    folder = options.get("run_folder")
    rest = {name: value for name, value in options.items() if name != "codes"}
    return rest if folder is None else {**rest, "run_folder": Path(folder) / "refit"}


def _check_times(interactions, valid):
    """Times in one of the two tables only are refused; one in the future is worth a warning."""
    if valid is not None and interactions.has_time != valid.has_time:
        kinds = ["times" if part.has_time else "no times" for part in (interactions, valid)]
        raise ValueError(
            "interactions and valid must both have times, or neither of them. Received: "
            f"{kinds[0]} in interactions, {kinds[1]} in valid. Give both a time column, or leave "
            "it out of both."
        )
    given = [part for part in (interactions, valid) if part is not None and part.has_time]
    newest = max((int(part.frame["timestamp"].max()) for part in given), default=0)
    if newest > time.time() + 86400:
        log.warning(
            "The newest event is of %s, in the future: what is recent is counted from there. "
            "If that time is wrong, leave the event out.",
            pd.Timestamp(newest, unit="s"),
        )


def _split(histories, items, valid):
    """`(training histories, Validation, Histories of the events given to validate on)`."""
    if valid is None:
        fitted, validation = hold_out_last(histories)
        later = histories.select([])
    else:
        fitted, later = histories, make_histories(valid, items)
        validation = make_validation(histories, later)
    if not len(validation.target_items):
        raise ValueError(
            "Validation needs users with a past: no validation user has a training event. "
            "Give other events to valid, or leave it out to validate on each user's last event."
        )
    _check_not_known(validation)
    return fitted, validation, later


def _check_not_known(validation):
    """A target that the history holds already is never listed, whatever the model."""
    histories = validation.histories
    width = int(max(histories.items.max(initial=0), validation.target_items.max())) + 1
    row = np.repeat(np.arange(histories.num_users), histories.lengths)
    known = np.isin(
        validation.target_rows * width + validation.target_items, row * width + histories.items
    )
    what = f"{known.sum():,} of {len(known):,} validation events name an item that their user has"
    if known.all():
        raise ValueError(
            "Validation needs items that the training events of their users do not hold. "
            f"Received: {what} already. Give later events to valid, or keep the first of repeated "
            "pairs only: clean(..., repeats='first'), --repeats first."
        )
    if known.mean() > 0.5:
        log.warning("%s already; these can never be found", what)


def _described(options, generator):
    """Options as used, defaults included; `export` adds those of the model."""
    used = {section: {**known, **options[section]} for section, known in known_options().items()}
    described = {
        "encoder_options": plain(used["encoder"]),
        "trainer": plain(used["trainer"]),
        "text_template": used["encoder"]["template"],
    }
    if generator:
        used["generator"].pop("run_folder")  # it belongs to one run
        described["generator_options"] = plain(used["generator"])
    return described


def _probe(items, histories):
    """A few real histories for the comparison after export, and an empty one."""
    ids = items.ids
    some = histories.select(np.arange(min(8, histories.num_users)))
    rows = np.split(some.items, some.offsets[1:-1])
    return [list(ids[row[-60:] - 1]) for row in rows] + [[]]
