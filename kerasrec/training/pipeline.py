"""`train`: tables in, a served-ready version out. The command line's `train` is this function."""

import html
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from kerasrec.data.interactions import Interactions, Items, Users
from kerasrec.data.sources import as_users
from kerasrec.data.tables import Source
from kerasrec.features.columntypes import unreadable
from kerasrec.features.usergroups import choose_user_columns
from kerasrec.training import catchup, stages
from kerasrec.training.choosing.heldout import Ask
from kerasrec.training.options import resolve_preset
from kerasrec.versions import folders

log = logging.getLogger(__name__)


class Trained(NamedTuple):
    """What `train` gives back.

    version: Path of the exported version.  history: DataFrame, one row per epoch (and member).
    metrics: dict, quality on validation.  manifest: dict, as in the version.
    """

    version: Path
    history: pd.DataFrame
    metrics: dict[str, float]
    manifest: dict[str, Any]

    def __repr__(self):
        ndcg, recall = (self.metrics.get(f"valid_{name}@10") for name in ("ndcg", "recall"))
        quality = "" if ndcg is None else f", validation NDCG@10 {ndcg:.4f}, recall@10 {recall:.4f}"
        return f"Trained({self.version}{quality}, {len(self.history)} epochs)"

    def _repr_html_(self) -> str:
        """For notebooks: the same line, and the table of epochs."""
        return f"<p>{html.escape(repr(self))}</p>{self.history.round(4).to_html(index=False)}"


def train(
    interactions: Interactions | Source | Sequence[Source],
    items: Items | Source | None = None,
    *,
    name: str,
    valid: Interactions | Source | Sequence[Source] | None = None,
    out: str | Path = "saved_models",
    preset: str = "balanced",
    options: dict[str, dict[str, Any]] | None = None,
    refit: bool | None = None,
    generator: bool = False,
    progress: bool = True,
    facts: dict[str, Any] | None = None,
    ask: Ask | None = None,
    fit: Callable[..., Any] | None = None,
    users: Users | Source | None = None,
    user_features: str | Mapping[str, str] = "auto",
) -> Trained:
    """Encodes the texts, fits a model, chooses the fusion on validation, exports a version.

    Args:
        interactions: `Interactions`, or what `read_interactions` takes (a file, a DataFrame); taken
            as they are.
        items: `Items`, or what `read_items` takes; the catalogue is all of them. With the encoder
            "none" it needs no titles. None = the items of the log, known by their ids alone.
        name: of the model; versions go to `out/name/1`, `out/name/2`, ...
        valid: the same as `interactions`, to stop and tune on; None = a part of `interactions` that
            `ask` decides.
        out: parent folder.
        preset: "fast", "balanced" or "accurate".
        options: dict of sections `encoder`, `model`, `trainer`, `fusion`, `generator`, each a dict
            of options that override the preset. With `trainer.members` above 1 the model is trained
            with that many seeds, and their average is one version (`ensemble`). With
            `trainer.codes` it is trained once more with codes of the items (`fitting`).
        refit: what is learned of the held-out events once epochs and weights are chosen. True: all,
            by fitting model and tables anew for as many epochs, which takes about as long again.
            False: nothing, but for "live", which learns them gently. None: for "live" the same; for
            "end" and "newest" what pays on a part of them (`learning`), and `learned` in the
            manifest says what that is and why. The metrics stay those of the first fit.
        generator: whether a generator of plans is trained too (`Recommender.generate`), after the
            model and on the same events. It takes about as long again. Where the items are too
            alike for semantic ids the version comes without one, and a warning says so.
        facts: dict, what the manifest is to say besides.
        ask: the question that the weights are chosen for. "live": each held-out event is a request
            at its moment, with everything known before it, as a server is asked; held out are
            `valid` or the newest tenth, which the version learns too at the end. "newest": the last
            event of each user. "end": one list for each user at the cut, for all that comes after
            it. None = "live" where the log has real times and at least `FEWEST_TO_WEIGH` held-out
            first choices, and `valid` is later or not given; else "end" where `valid` is later,
            else "newest".
        fit: a function that trains in the place of `Trainer`. It is called as `fit(build,
            histories, validation)`, where `build(**options)` is `build_model` with the catalogue,
            its texts and the options of the section "model", `histories` are what is to be learned
            and `validation` what is held out. It gives back the trained `Model`, or that and its
            history: a DataFrame with a row per epoch, or what Keras' `fit` gives. Tables, weights,
            generator and export are as ever.
        users: `Users`, or what `read_users` takes: what is known of users. The version then lists
            for who has no history yet what users like them choose (`Recommender.recommend(users=)`,
            signature `recommend_for`), where validation gains by it.
        user_features: columns of the users and their types, such as "age:number city:category", or
            "auto" for all that read as such.

    Returns:
        `Trained`.

    Raises:
        ValueError: unknown options, data that nothing can be learned from, times in one of
            `interactions` and `valid` only, a question that the data cannot answer, refit, members
            or codes with an optimizer that is made already, members or codes with an encoder that
            learns, or refit with a generator; fit with refit or with options of `Trainer` that it
            replaces, or a fit that gives no `Model`.
    """
    started = time.perf_counter()
    folders.check_name(name)
    folders.check_writable(out)
    wanted = resolve_preset(preset, options or {})
    stages.check_wishes(wanted, refit=refit, generator=generator)
    if fit is not None:
        stages.check_own_fit(options or {}, refit=refit)
    interactions, items, valid = stages.read_tables(interactions, items, valid, wanted)
    if users is not None:
        users = as_users(users)
        # what is wrong is said before the work
        for column, read in choose_user_columns(users.frame, user_features).items():
            if bad := unreadable(users.frame[column], read):
                log.warning("users: %s", bad)
    data = stages.read(interactions, items, valid, ask, users)
    text = stages.encode(data, wanted, progress=progress)
    if fit is None:
        fitted = stages.fit(data, text, wanted, progress=progress)
    else:
        fitted, refit = stages.own_fit(fit, data, text, wanted), False
    chosen = stages.choose(fitted.model, data, text, wanted)
    grouped = stages.group(fitted.model, chosen, data, user_features)
    if refit:
        fitted = fitted._replace(model=None)  # it is large: not two at a time
        given = (fitted, chosen, data, text, wanted)
        fitted, chosen, text = catchup.refit_all(*given, progress=progress)
    plans = stages.Plans()
    if generator:
        plans = stages.generate(fitted.model, chosen, data, text, wanted, progress=progress)
    learned: dict[str, Any] = {}
    if not refit:
        given = (fitted, chosen, data, text, wanted)
        fitted, chosen, learned = catchup.catch_up(*given, learn=refit is None)
    said = {"preset": preset, "refit": bool(refit), **learned, **(facts or {})}
    base, result = Path(out) / name, (fitted, chosen, plans, grouped)
    version = stages.publish(base, result, data, text, wanted, said, started=started)
    manifest = folders.read_manifest(version).as_dict()
    return Trained(version, fitted.history, chosen.metrics, manifest)
