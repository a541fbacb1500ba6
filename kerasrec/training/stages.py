"""The stages of `train`: read, encode, fit, choose, generate, publish.

Each is a function whose result has a name, so that `pipeline.train` reads as the list of them. The
stages that learn what was held out, refit and catch up, are in `catchup`.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kerasrec.checks import step
from kerasrec.data.cleaningreport import column_lines
from kerasrec.data.histories import Histories, make_histories
from kerasrec.data.interactions import Interactions, Items, Users, items_of, join_interactions
from kerasrec.data.sources import as_interactions, as_items
from kerasrec.data.statistics import fingerprint
from kerasrec.data.times.zones import latest_moment, read_zone, show_time
from kerasrec.fusion.choice import choose_fusion, choose_live, choose_tables
from kerasrec.fusion.fusion import PARTS, Fusion, fit_tables
from kerasrec.fusion.recency import (
    AT_NEWEST_EVENT,
    AT_THE_END,
    Counts,
    fit_moments,
    newest_times,
)
from kerasrec.fusion.sharing import sharing_table
from kerasrec.generation.decoder import check_decoder
from kerasrec.generation.generator import Generator
from kerasrec.models.build import Model, build_model
from kerasrec.models.codes import CollapsedCodes
from kerasrec.models.textpart import TextPart, text_part
from kerasrec.models.validation import Ranker, Validation
from kerasrec.training.choosing.grouping import Grouped, fit_groups
from kerasrec.training.choosing.heldout import Ask, HeldOut, hold_out
from kerasrec.training.fitting import Fitted, fit_models
from kerasrec.training.generating import choose_trust, fit_generator, text_columns
from kerasrec.training.optimizers import OPTIMIZERS
from kerasrec.training.options import known_options
from kerasrec.versions import folders
from kerasrec.versions.exporter import export, serving_module
from kerasrec.versions.plangraph import PLAN_ITEMS
from kerasrec.versions.trainingstate import plain

log = logging.getLogger(__name__)
#: sections of options, each a dict, complete: as `options.resolve_preset` gives them
Options = dict[str, dict[str, Any]]


class Data(NamedTuple):
    """Holds what a model is trained and chosen on.

    interactions, valid: as they were given, `valid` None where there is none.  items: the
    catalogue.  histories: all training events.  held: `HeldOut`: what of them the first model
    learns from, what it is stopped and weighed by, and for which question.  users: what is known of
    users, None where there is no table of them.
    """

    interactions: Interactions
    valid: Interactions | None
    items: Items
    histories: Histories
    held: HeldOut
    users: Users | None = None

    @property
    def fitted(self) -> Histories:
        """What the first model learns from."""
        return self.held.fitted

    @property
    def validation(self) -> Validation:
        """What the model is stopped by."""
        return self.held.validation

    def everything(self) -> Histories:
        """Returns the histories of all events, those that were held out too."""
        if self.valid is None:
            return self.histories
        return make_histories(join_interactions([self.interactions, self.valid]), self.items)


class Chosen(NamedTuple):
    """Holds how the parts of the score are weighed.

    fusion: tables and weights.  metrics: quality on validation.  places: of each table, which of
    those that were tried the fusion has.  weighed: number of requests that the weights rest on; 0 =
    they were not chosen as a live server predicts.
    """

    fusion: Fusion
    metrics: dict[str, float]
    places: dict[str, int]
    weighed: int = 0


class Plans(NamedTuple):
    """Holds the generator of plans, None where there is none, and what the manifest says of it."""

    generator: Generator | None = None
    facts: dict[str, Any] = {}


# --- before the work ---


def check_wishes(options: Options, *, refit: bool | None, generator: bool) -> None:
    """Refuses options that do not go together, before anything is read.

    Raises:
        ValueError: refit, members or codes with an optimizer that is made already, members or codes
            with an encoder that learns, or refit with a generator.
    """
    if generator:
        check_decoder(**options["generator"])
    _check_repeats(options, bool(refit))
    if refit and generator:
        raise ValueError(
            "refit trains the model anew on what the generator is weighed by. Give refit or "
            "generator, not both."
        )


#: options of `Trainer` and of what repeats it, which a function of the user's replaces
_REPLACED = ("epochs", "patience", "run_folder", "precision", "members", "codes")


def check_own_fit(options: Options, *, refit: bool | None) -> None:
    """Refuses what a function that trains in the place of `Trainer` would leave unread.

    Args:
        options: as the user gave them, without a preset.
        refit: as for `train`.

    Raises:
        ValueError: refit, or such an option.
    """
    given, usual = options.get("trainer") or {}, known_options()["trainer"]
    if unread := [n for n in _REPLACED if n in given and given[n] != usual[n]]:
        raise ValueError(
            f"fit trains in the place of Trainer, so trainer.{unread[0]} would count for nothing. "
            "Leave it out, and say it inside of fit."
        )
    if refit:
        raise ValueError(
            "refit fits anew for as many epochs, which only Trainer can do. Received: refit=True "
            "and fit. Leave one of them out."
        )


def own_fit(fit: Callable[..., Any], data: Data, text: TextPart, options: Options) -> Fitted:
    """Has a function of the user's train the model, see `pipeline.train`.

    Raises:
        ValueError: it gives no `Model` of this catalogue.
    """
    log.info("training on the histories of %s users, by fit", f"{data.fitted.num_users:,}")
    build = builder_of(data, text, options)
    found = fit(build, data.fitted, data.validation)
    is_pair = isinstance(found, tuple) and not isinstance(found, Model)
    model, history = found if is_pair and len(found) == 2 else (found, None)
    if not isinstance(model, Model) or model.config["num_items"] != len(data.items):
        raise ValueError(
            "fit gives back the Model that build() made, trained; or that and its history. "
            f"Received: {type(model).__name__}."
        )
    return Fitted(model, _epochs_of(history), build, {})


def _epochs_of(history: Any) -> pd.DataFrame:
    """A row per epoch, of a DataFrame, of what Keras' `fit` gives, or of None."""
    if isinstance(history, pd.DataFrame):
        return history
    logs = getattr(history, "history", {})
    table = pd.DataFrame(logs)
    table.insert(0, "epoch", np.arange(1, len(table) + 1))
    return table


def _check_repeats(options: Options, refit: bool) -> None:
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


# --- read ---


def read(
    interactions: Interactions,
    items: Items,
    valid: Interactions | None,
    ask: Ask | None,
    users: Users | None = None,
) -> Data:
    """Says what is learned from and what is held out.

    Args:
        interactions: `Interactions`.
        items: `Items`.
        valid: the same as `interactions`, or None.
        ask: as for `hold_out`.
        users: `Users`, or None.

    Raises:
        ValueError: times in one of the two tables only, a question that the data cannot answer, or
            nothing to validate on.
    """
    _check_times(interactions, valid)
    histories = make_histories(interactions, items)
    held = hold_out(histories, items, interactions, valid, ask)
    if not len(held.validation.target_items):
        raise ValueError(
            "Validation needs users with a past: no validation user has a training event. "
            "Give other events to valid, or leave it out and take ask='newest' (--ask newest) to "
            "validate on each user's last event."
        )
    _check_not_known(held.validation)
    return Data(interactions, valid, items, histories, held, users)


def read_tables(
    interactions: Any, items: Any, valid: Any, options: Options
) -> tuple[Interactions, Items, Interactions | None]:
    """Reads the tables; without a catalogue makes one of the ids of the log, and says so.

    Refuses ids that the text file of a version cannot hold.

    Args:
        interactions, valid: `Interactions`, or what `read_interactions` takes; valid may be None.
        items: `Items`, what `read_items` takes, or None. Titles are needed for an encoder alone.
        options: where there is no catalogue the encoder becomes "none" in it.

    Raises:
        ValueError: an encoder and no catalogue; and what the readers refuse.
    """
    name = options["encoder"].get("name")
    if items is not None:
        items = as_items(items, titles=name != "none")
    elif name not in (None, "none"):
        raise ValueError(
            f"The encoder {name} reads the texts of items. Received: items=None. Give the "
            "catalogue, or leave the encoder out for a model of ids alone."
        )
    interactions = as_interactions(interactions)
    valid = None if valid is None else as_interactions(valid)
    if items is None:
        options["encoder"] = {**options["encoder"], "name": "none"}
        items = items_of([interactions] if valid is None else [interactions, valid])
        log.info("no catalogue: the model knows the items of the log by their ids alone")
    folders.check_item_ids(items.ids)
    return interactions, items, valid


def _check_times(interactions: Interactions, valid: Interactions | None) -> None:
    """Times in one of the two tables only are refused; those of the future are counted."""
    if valid is not None and interactions.has_time != valid.has_time:
        kinds = ["times" if part.has_time else "no times" for part in (interactions, valid)]
        raise ValueError(
            "interactions and valid must both have times, or neither of them. Received: "
            f"{kinds[0]} in interactions, {kinds[1]} in valid. Give both a time column, or leave "
            "it out of both."
        )
    given = [part for part in (interactions, valid) if part is not None and part.has_time]
    latest = latest_moment()
    for part in given:
        times = part.frame["timestamp"].to_numpy()
        if (times > latest).any():  # max_ahead let them pass, or the table was made by hand
            log.warning(
                "%d events lie in the future, the newest of %s (%s): what is recent is counted "
                "from there. Without max_ahead, read_interactions leaves such events out.",
                (times > latest).sum(),
                show_time(times.max(), read_zone(part.timezone)),
                part.timezone,
            )


def _check_not_known(validation: Validation) -> None:
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


# --- encode, fit, choose ---


def encode(data: Data, options: Options, *, progress: bool) -> TextPart:
    """Encodes and whitens the texts of the catalogue; says which columns all is read from."""
    with step(log, "reading the texts of %s items", f"{len(data.items):,}", only_long=True):
        text = text_part(data.items, **options["encoder"], progress=progress)
    for name, table in (("interactions", data.interactions), ("items", data.items)):
        for line in column_lines(table.report, name):
            log.info("%s", line)
    return text


def fit(data: Data, text: TextPart, options: Options, *, progress: bool) -> Fitted:
    """Trains the model, or the models whose average or choice it is, and stops by validation."""
    log.info("training on the histories of %s users", f"{data.fitted.num_users:,}")
    wanted = {"progress": progress, **options["trainer"]}
    build = builder_of(data, text, options)
    return fit_models(build, data.fitted, data.validation, text.vectors, **wanted)


def builder_of(data: Data, text: TextPart, options: Options) -> Callable[..., Model]:
    """Gives the function that builds the model: gaps and events are inputs where there are any."""
    inputs = {
        "time_gaps": bool(data.histories.timestamps.any()),
        "events": len(np.unique(data.histories.events)) > 1,
    }

    def build(**codes: Any) -> Model:
        given = {**inputs, "features": text.features, **options["model"], **codes}
        return build_model(len(data.items), text=text.text, **given)

    return build


def choose(model: Model, data: Data, text: TextPart, options: Options) -> Chosen:
    """Fits the tables and recency, and chooses the weights of all parts on validation."""
    timed, held = is_timed(options), data.held
    if timed and (found := _choose_live(model, data, text, options)):
        return found
    users = f"{held.validation.histories.num_users:,}"
    num_items, fitted = len(data.items), data.fitted
    with step(log, "choosing tables and weights on %s validation users", users):
        shared = dict(sharing=sharing_table(data.items), **options["fusion"])
        tables = fit_tables(fitted, num_items, text.vectors, **shared)
        moments = fit_moments(
            fitted if timed else fitted.timeless(), num_items, only_end=held.ask != "newest"
        )
        fusion, metrics = choose_fusion(Ranker(model), held.validation, tables, moments)
    return Chosen(fusion, metrics, fusion.chosen(tables))


def _choose_live(model, data, text, options):
    """`Chosen` on the requests, one after the other; None where that is not asked or possible."""
    if (requests := data.held.requests) is None:
        return None
    known, places, times, validation = requests
    given = known, validation, times
    num_items, count = len(data.items), f"{len(places):,}"
    with step(log, "choosing tables on %s requests", count):
        shared = dict(sharing=sharing_table(data.items), **options["fusion"])
        tables, chosen = choose_tables(*given, num_items, text.vectors, **shared)
    given = Ranker(model), *given, tables, chosen, text.vectors
    with step(log, "choosing weights on %s requests", count):
        found = choose_live(*given, num_items=num_items)
    if found is None:
        return None
    fusion, quality = found
    weighed = int(quality.pop("events"))
    kept = {name: place for name, place in chosen.items() if name in fusion.tables}
    return Chosen(fusion, quality, kept, weighed)


def _parts(options: Options) -> list[str]:
    return list(options["fusion"].get("parts", PARTS))


def is_timed(options: Options) -> bool:
    """Whether recency is a part of the score."""
    return "recency" in _parts(options)


# --- generate ---


def generate(
    model: Model, chosen: Chosen, data: Data, text: TextPart, options: Options, *, progress: bool
) -> Plans:
    """Trains the generator of plans and weighs it on validation.

    It is weighed by a fusion that does not know yet what was held out. Where the items are too
    alike for semantic ids there is none, and a warning says so: the model has been trained for
    long by then.
    """
    log.info("training the generator of plans")
    begin = time.perf_counter()
    vectors = Ranker(model).item_vectors().numpy()[1:]
    known = text_columns(model.config, vectors.shape[1])
    given = (vectors, text.vectors, data.fitted, data.validation)
    wanted = {"progress": progress, **options["generator"]}
    try:
        found, history = fit_generator(*given, known=known, **wanted)
    except CollapsedCodes as error:
        log.warning("the version comes without a generator of plans. %s", error)
        return Plans(None, {"plans": {"refused": str(error)}})
    seconds = round(time.perf_counter() - begin, 1)
    asked_of = moments_of(data.held)
    with tempfile.TemporaryDirectory() as folder:
        ids = Path(folder) / folders.ITEM_IDS.name
        folders.write_item_ids(ids, data.items.ids)
        with step(log, "weighing the generator of plans"):
            module = serving_module(model, asset=ids, fusion=chosen.fusion, k=1, generator=found)
            trust, prior, tried = choose_trust(module, data.validation, asked_of, PLAN_ITEMS)
    log.info("plans: trust in the decoder %s, in the recommender %s", trust, prior)
    facts = {"tried": tried, "epochs": history.to_dict("records"), "seconds": seconds}
    return Plans(found._replace(trust=trust, prior=prior), {"plans": facts})


def group(
    model: Model, chosen: Chosen, data: Data, declaration: str | Mapping[str, str]
) -> Grouped:
    """Fits groups of users and weighs them on validation; nothing where there is no table."""
    if data.users is None:
        return Grouped()
    given = (model, chosen.fusion, data.held, data.users, declaration, data.items.ids)
    return fit_groups(*given, moments_of(data.held))


def moments_of(held: HeldOut) -> Callable[[Histories], np.ndarray]:
    """Gives the function of the histories of validation users that says when they ask."""
    by_ask = {"end": no_time, "newest": newest_times}
    return held.requests.time_of if held.requests else by_ask[held.ask]


def no_time(histories: Histories) -> np.ndarray:
    """Says that all lists are asked for at the end of the log: int64 zeros `(num_users,)`."""
    return np.zeros(histories.num_users, np.int64)


# --- publish ---
#: what a version was validated on, in the words of its manifest, where `valid` was not given
VALIDATED = {
    "live": "each event of the newest tenth, at its moment",
    "newest": "last event of each user",
    "end": "newest tenth, lists at its begin",
}


def publish(
    base: Path,
    result: tuple[Fitted, Chosen, Plans, Grouped],
    data: Data,
    text: TextPart,
    options: Options,
    facts: dict[str, Any],
    *,
    started: float,
) -> Path:
    """Exports the version, compares what was exported, and gives its folder.

    Args:
        base: `saved_models/NAME`.
        result, data, text, options: of the stages before.
        facts: what the manifest is to say besides; they have the last word.
        started: when the work began, seconds of `time.perf_counter`.
    """
    last, chosen, plans, grouped = result
    known = [data.histories, data.held.later]
    if not is_timed(options):
        known = [part.timeless() for part in known]
    fusion = chosen.fusion.at_end(Counts.of(len(data.items), *known))
    seconds = time.perf_counter() - started
    return export(
        last.model,
        base,
        items=data.items,
        manifest={
            "name": base.name,
            **_described(options, plans=bool(plans.facts)),
            "data": fingerprint(data.interactions, data.items),
            "ask": data.held.ask,
            "validation": VALIDATED[data.held.ask] if data.valid is None else "given",
            "asked": AT_NEWEST_EVENT if data.held.ask == "newest" else AT_THE_END,
            "metrics": chosen.metrics,
            "tables": chosen.places,
            "weighed": chosen.weighed,
            "parts": _parts(options),
            "epochs": len(last.history),
            **last.facts,
            **plans.facts,
            **grouped.facts,
            "train_seconds": round(seconds, 1),
            "learned_since": int(time.time() - seconds),
            **facts,
        },
        encoder=text.encoder,
        whitening=text.whitening,
        fusion=fusion,
        history=last.history,
        probe=_probe(data.items, data.fitted),
        generator=plans.generator,
        groups=grouped.groups,
    )


def _described(options: Options, *, plans: bool) -> dict[str, Any]:
    """Options as used, defaults included; `export` adds those of the model."""
    used = {section: {**known, **options[section]} for section, known in known_options().items()}
    described = {
        "encoder_options": plain(used["encoder"]),
        "trainer": plain(used["trainer"]),
        "text_template": used["encoder"]["template"],
    }
    if plans:
        used["generator"].pop("run_folder")  # it belongs to one run
        described["generator_options"] = plain(used["generator"])
    return described


def _probe(items: Items, histories: Histories) -> list[list[str]]:
    """A few real histories for the comparison after export, and an empty one."""
    ids = items.ids
    some = histories.select(np.arange(min(8, histories.num_users)))
    rows = np.split(some.items, some.offsets[1:-1])
    return [list(ids[row[-60:] - 1]) for row in rows] + [[]]
