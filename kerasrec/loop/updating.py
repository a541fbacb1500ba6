"""Makes the next version of a model from its weights and newer events: `update`.

New items and users enter without training anew: the catalogue grows, old items keep their rows, the
users with new events are learned from, beside as many others (replay, against forgetting). The
newest events are held back: on them the child is judged beside its parent and beside baselines.
Only a child that is no worse is published; it learns the held-back events too before that.
Events of the future, which a wrong clock has made, are left out and counted.
"""

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kerasrec.backend import untraced
from kerasrec.checks import ArtifactError, step
from kerasrec.data.columns import says_withdrawn
from kerasrec.data.events import PASSIVE_EVENTS
from kerasrec.data.formats.vectorfiles import vector_columns
from kerasrec.data.histories import make_histories
from kerasrec.data.interactions import Interactions, Items, Users, join_interactions
from kerasrec.data.sources import as_interactions, as_items, as_users
from kerasrec.data.tables import Source
from kerasrec.data.times.zones import latest_moment, show_time
from kerasrec.features.columntypes import choose_columns, parse_declaration
from kerasrec.feedback.recentlog import told_of
from kerasrec.feedback.store import FeedbackStore
from kerasrec.fusion.recency import Recency
from kerasrec.loop.child import Child
from kerasrec.loop.futureevents import without_future
from kerasrec.loop.gate import decide, figures_of, judge
from kerasrec.models.losses import LOSSES
from kerasrec.models.sequencemodels import SEQUENCE_MODELS
from kerasrec.recommender.recommender import Recommender
from kerasrec.training.pipeline import train
from kerasrec.versions import folders
from kerasrec.versions.loaded import read_withdrawn
from kerasrec.versions.manifest import UpdateFacts

log = logging.getLogger(__name__)
#: share of the new events that the child is judged on
HELD_BACK = 0.2
#: share of the known items that a catalogue must have: with fewer it is no whole catalogue
LEAST_KEPT = 0.1
#: new events of known items that users chose, at least: fewer prove nothing
FEWEST = 20
#: what a manifest says of a model beside its options
_OF_THE_DATA = ("num_items", "members", "code_sizes", "code_units")


class TooFewEvents(ValueError):
    """Refuses an update: the new events are too few to learn from and to judge on."""


class Updated(NamedTuple):
    """Holds what `update` did.

    version: Path of the published version; None = refused.  reason: str, why so.  evaluation:
    `Evaluation` of child, parent and baselines on the held-back events.  events: number of new
    events.  seconds: of the whole work.  withdrawn: number of items that are in no list.  returned:
    of those that were in no list before and are listed again.  changed: number of items with
    another text, which was encoded anew.
    """

    version: Path | None
    reason: str
    evaluation: Any
    events: int
    seconds: float
    withdrawn: int = 0
    returned: int = 0
    changed: int = 0


def update(
    model: str | Path,
    interactions: Interactions | Source,
    items: Items | Source | None = None,
    *,
    new: np.ndarray | None = None,
    label: str = "stable",
    force: bool = False,
    facts: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Updated:
    """Learns new events, compares the child with its parent, publishes or refuses it.

    Args:
        model: `saved_models/NAME`; the parent is its stable label, else its largest version.
        interactions: `Interactions` or what `read_interactions` takes: the whole log, old events
            (which are replayed) and new ones.
        items: `Items` or what `read_items` takes: the whole catalogue as it is now. An item of the
            parent that it lacks, or that a column of it says is not to be had (see `read_items`),
            is in no list; histories know it as before, and it comes back when it does. New titles,
            texts and categories of known items are taken. None = the parent's catalogue.
        new: bool `(num_events,)`, which rows of `interactions` the parent has not learned from;
            None = those later than the parent's log.
        label: "stable" or "canary", which will name the new version. For "canary" a parent that
            has no label is labelled stable, or the new version would answer for all.
        force: publishes a child that is worse, too.
        facts: dict, further facts for the manifest's `update`.
        seed: of the replay and of the batches.

    Returns:
        `Updated`.

    Raises:
        ArtifactError: no such model, one without weights, or another update is at work on it.
        TooFewEvents: a ValueError: hardly anything is new.
        ValueError: a log without times, an unknown label.
    """
    _check_label(label)
    interactions = as_interactions(interactions)
    with folders.alone(folders.find_version(model).parent):
        return _update(model, interactions, items, new, label, force, facts or {}, seed)


def _check_label(label):
    if label not in folders.LABELS:
        raise ValueError(f"label must be one of {', '.join(folders.LABELS)}. Received: {label!r}.")


def _update(model, interactions, items, new, label, force, facts, seed):
    """`update`, by whoever holds the lock."""
    started = time.perf_counter()
    if not interactions.has_time:
        raise ValueError("update needs times, to tell new events from old ones. Received: none.")
    interactions, kept, _ = without_future(interactions)
    new = None if new is None else np.asarray(new, bool)[kept]
    labels = folders.read_labels(folders.find_version(model).parent)
    parent = Recommender.load(model, index="exact")
    _check_trainable(parent.about, parent.version)
    if parent.log_end > latest_moment():
        log.warning(
            "%s has learned an event of the future (%s UTC): nothing counts as recent for it or "
            "its children. Train it anew without that event",
            parent.version,
            show_time(parent.log_end),
        )
    items = grown_catalogue(parent.items, items, read=_columns_read(parent.about))
    interactions, new = _known_events(interactions, new, items, parent)
    earlier, learned, held = _cut(interactions, new)
    # the parent, on which the child is judged, is told of all that the child will know: the two
    # differ in what was trained alone. It observes no event before the weights are chosen on it
    returned = len(parent.items.withdrawn - items.withdrawn)
    if changed := parent.correct_items(items):
        log.info("%d texts changed", changed)
    if new_items := len(items) - len(parent.items):
        log.info("%d new items", new_items)
        parent.add_items(Items(items.frame[-new_items:].reset_index(drop=True)))
    if (withdrawn := len(items.withdrawn)) or returned:
        log.info("%d items are in no list, %d are listed again", withdrawn, returned)
    if parent.items.withdrawn != items.withdrawn:
        parent.withdraw(items.withdrawn)
    child = Child(parent, items, seed=seed)
    with step(log, "weighing the parts of the score on what is new"):
        child.choose_weights(learned)
    with step(log, "learning what is new"):
        parent.observe(make_histories(learned, items))
        child.learn(learned, since=earlier)
    with step(log, "comparing the new version with version %d", parent.about.version), untraced():
        evaluation = judge(child.recommender(), parent, learned, held)
    better, reason = decide(evaluation)
    path = None
    if better or force:
        parent.observe(make_histories(interactions, items))
        child.learn(interactions, since=learned)
        told = parent.about.update or UpdateFacts()
        of_store = {"store": told.store, "erasures": told.erasures}
        named = {key: value for key, value in of_store.items() if value is not None}
        named |= {"events": int(new.sum()), "decision": reason, "forced": not better}
        named |= {"ndcg": figures_of(evaluation), "weighed": child.weighed}
        named |= {"withdrawn": withdrawn, "returned": returned, "changed": changed, **facts}
        if not force and folders.find_version(model) != parent.version:
            raise ArtifactError(
                f"While the update of {parent.version} was at work another version became the one "
                "that answers; nothing was published. Start it again."
            )
        seconds = time.perf_counter() - started
        path = child.publish(label, named, interactions, seconds, labels=labels)
    seconds = time.perf_counter() - started
    catalogue = (withdrawn, returned, changed)
    return Updated(path, reason, evaluation, int(new.sum()), seconds, *catalogue)


def update_from_store(
    model: str | Path,
    store: FeedbackStore,
    items: Items | Source | None = None,
    *,
    label: str = "stable",
    force: bool = False,
    seed: int = 0,
) -> Updated:
    """Updates from a `FeedbackStore`; after an erasure it retrains.

    New is what was stored after the parent's last event, also where it happened before (it came in
    late); for a parent that knows no store, what is later than its log.

    Events of one user in one second are in the order in which they arrived. So the same events give
    the same version in whatever order they were delivered, as long as those of one user in one
    second arrive in their order; an event that is delivered again keeps its first place.

    Args:
        model, items, label, force, seed: as for `update`.
        store: `FeedbackStore`, which holds the old events too.

    Returns:
        `Updated`.
    """
    _check_label(label)
    with folders.alone(folders.find_version(model).parent):
        version = folders.find_version(model)
        manifest = folders.read_manifest(version)
        _check_trainable(manifest, version)
        told = told_of(store, manifest) or UpdateFacts()
        last, erasures = store.last_seq(), store.erasures()
        facts = {"store": store.id, "seq": last, "erasures": len(erasures)}
        known, erased = told.seq, _erased(told, erasures, manifest)
        if erased:
            rows = sum(erasure.rows for erasure in erased)
            facts["erased"] = {"users": len(erased), "rows": rows}
            log.info("%d users were erased: training from nothing", len(erased))
            whole = store.interactions(until=last, order="users")
            had = manifest.data["interactions"] - rows
            if len(whole) < had / 2 and not force:
                raise ValueError(
                    "After an erasure the next version is trained from nothing, on the store "
                    f"alone. That holds {len(whole):,} events; the version learned {had:,}. Import "
                    "the log (without the user) into the store first, or force it."
                )
            return _retrain(model, whole, items, label, facts, seed, store.users())
        if known is None:
            # what it had learned by then is perhaps not in the store, but may come in later
            end = Recency.load(version / folders.RECENCY).counts.time
            facts["since"] = int(min(end, latest_moment())) + 1
            whole, new = store.interactions(until=last, order="users"), None
        else:
            facts |= {} if told.since is None else {"since": told.since}
            parts = [
                store.interactions(order="users", until=known),
                store.interactions(order="users", after=known, until=last),
            ]
            whole = join_interactions(parts)
            new = np.arange(len(whole)) >= len(parts[0])
        return _update(model, whole, items, new, label, force, facts, seed)


def _check_trainable(manifest, version):
    """Raises unless a further training has what it needs; a version has only names of functions."""
    manifest.check_trained(version)
    for option, table, known in (
        ("loss", "LOSSES", LOSSES),
        ("sequence", "SEQUENCE_MODELS", SEQUENCE_MODELS),
    ):
        name = manifest.options.get(option, next(iter(known)))
        if name not in known:
            raise ValueError(
                f"{version} was trained with model.{option}={name}, a function of yours, and a "
                "version keeps its name alone. Update it from Python, after "
                f"kerasrec.{table}[{name!r}] = {name}."
            )


def _erased(told, erasures, manifest):
    """The erasures of users from whom the weights of a version may have learned.

    Args:
        told: `UpdateFacts`, what its manifest says of the store.
        erasures: list of `feedback.Erasure`, all of the store.
        manifest: of the version.
    """
    if told.erasures is not None:
        later = erasures[told.erasures :]
    else:
        later = [erasure for erasure in erasures if erasure.timestamp >= manifest.learned_since]
    known = told.seq
    return [e for e in later if e.rows and (known is None or e.first_seq <= known)]


def retrain(
    model: str | Path,
    interactions: Interactions | Source,
    items: Items | Source | None = None,
    *,
    label: str = "stable",
    facts: Mapping[str, Any] | None = None,
    seed: int = 0,
    users: Users | Source | None = None,
) -> Updated:
    """Trains the next version of a model from nothing, with its options and without its weights.

    This forgets a user: what a parent has learned of a user lies in its weights.

    Args:
        model, interactions, items, label, facts, seed: as for `update`.
        users: for a model with groups of users: the table of users, `Users` or what `read_users`
            takes. Without it the next version has no groups.

    Returns:
        `Updated`; it is published whatever its quality, and `evaluation` is None.
    """
    _check_label(label)
    interactions = as_interactions(interactions)
    with folders.alone(folders.find_version(model).parent):
        return _retrain(model, interactions, items, label, facts or {}, seed, users)


def _retrain(model, interactions, items, label, facts, seed, users=None):
    """`retrain`, by whoever holds the lock."""
    started = time.perf_counter()
    version = folders.find_version(model)
    base, manifest = version.parent, folders.read_manifest(version)
    _check_trainable(manifest, version)
    known = Items(folders.read_catalogue(version), withdrawn=read_withdrawn(version))
    items = grown_catalogue(known, items, read=_columns_read(manifest))
    if interactions.has_time:
        interactions, _, _ = without_future(interactions)
    is_known = items.index_of(interactions.frame["item_id"]) > 0
    interactions = interactions.replace(interactions.frame[is_known])
    # a run folder belongs to one run, and a strategy is an object of another process
    trainer = {k: v for k, v in manifest.trainer.items() if k not in ("run_folder", "strategy")}
    encoder = dict(manifest.encoder_options)
    if encoder.get("features"):
        kept = _telling(items.frame, encoder["features"])
        words = [name if name == "auto" else f"{name}:{kind}" for name, kind in kept.items()]
        encoder["features"] = " ".join(words) or None
    options = {
        "encoder": encoder,
        "model": {k: v for k, v in manifest.options.items() if k not in _OF_THE_DATA},
        "trainer": {**trainer, "seed": seed},
        "fusion": {"parts": manifest.parts},
        "generator": manifest.generator_options or {},
    }
    stable = folders.read_labels(base).get("stable")
    if stable is None:  # or the new version would answer before it is labelled
        stable = manifest.version
        folders.write_label(base, "stable", stable)
    users, columns = _users_for(manifest, users)
    reason = "trained from nothing"
    if "erased" in facts:
        reason += f", without {facts['erased']['users']} erased users"
    trained = train(
        interactions,
        items,
        name=base.name,
        out=base.parent,
        preset=manifest.preset,
        options=options,
        refit=bool(manifest.refit) or (None if manifest.learned else False),
        generator=manifest.generator_options is not None,
        progress=False,
        facts={"parent": manifest.version, "update": {"decision": reason, **facts}},
        # "live" by default: what is left of the log may be too little for it
        ask=None if manifest.ask == "live" else manifest.ask,
        users=users,
        user_features=columns,
    )
    instead_of = stable if label == "stable" else None  # a rollback meanwhile has the last word
    folders.write_label(base, label, int(trained.version.name), instead_of=instead_of)
    seconds = time.perf_counter() - started
    withdrawn, returned = len(items.withdrawn), len(known.withdrawn - items.withdrawn)
    events = len(interactions)
    return Updated(trained.version, reason, None, events, seconds, withdrawn, returned)


def _telling(frame: pd.DataFrame, declaration: str | Mapping[str, str]) -> dict[str, str]:
    """Gives a declaration of features without columns that say nothing any more, with a warning.

    What was declared once may be empty or the same everywhere by now: no reason to train nothing.

    >>> frame = pd.DataFrame({"price": ["5"] * 20, "brand": ["甲", "乙"] * 10})
    >>> _telling(frame, "auto brand:category price:number")
    {'auto': 'auto', 'brand': 'category'}
    """
    kept = {}
    for name, kind in parse_declaration(declaration, list(frame.columns)).items():
        try:
            if name != "auto":
                choose_columns(frame[[name]], {name: kind})
        except ValueError as error:
            log.warning("%s", error)
        else:
            kept[name] = kind
    return kept


def _users_for(manifest, users):
    """The table of users that a version is trained on anew, and the types of its columns."""
    columns = manifest.more.get("user_features", {}).get("columns", {})
    if not columns:
        return None, "auto"
    found = None if users is None else as_users(users)
    kept = {} if found is None else {n: kind for n, kind in columns.items() if n in found.frame}
    kept = {} if found is None else _telling(found.frame, kept)
    if lost := [name for name in columns if name not in kept]:
        log.warning(
            "the next version has no groups of users by %s: there is no table of users that says "
            "something in that column (retrain(users=...), kerasrec feedback users import)",
            ", ".join(lost),
        )
    return (found, kept) if kept else (None, "auto")


def grown_catalogue(
    known: Items, items: Items | Source | None, *, read: Collection[str] | None = None
) -> Items:
    """Makes the catalogue of a child: the parent's items in their order, then the new ones.

    Args:
        known: `Items` of the parent.
        items: `Items`, what `read_items` takes, or None = no new ones. Its titles and other columns
            count where it knows an item.
        read: columns that the model reads, which `items` must have; None = all of `known`. Of other
            columns that it lacks, known items keep their values, and new ones have none; so it is
            with vectors (`with_vectors`), also those of single items. A column that says what is
            to be had is empty then: what it said is of another day.

    Returns:
        `Items` with the parent's columns, and behind them those that are new in `items`; those that
        are not in `items`, or not to be had, are withdrawn.

    Raises:
        ValueError: a column is missing, or nearly all items of the parent are.
    """
    if items is None:
        return known
    items = as_items(items)
    folders.check_item_ids(items.ids)
    vectors = vector_columns(known.frame)  # a picture stays as it was unless there is another
    missing = [
        name
        for name in known.frame.columns
        if name not in items.frame.columns and name not in vectors
    ]
    if missing:
        _check_missing(known, missing, read)
        states = [name for name in missing if says_withdrawn(name)]
        known = replace(known, frame=known.frame.assign(**dict.fromkeys(states, "")))
    index = known.index_of(items.ids)
    old = index > 0
    if old.sum() < LEAST_KEPT * len(known):
        raise ValueError(
            f"items must be the whole catalogue as it is now. Received: {int(old.sum())} of the "
            f"{len(known)} items that the model knows; all others would be in no list. Give old "
            "items and new ones together, or a catalogue of the same ids."
        )
    columns = [*known.frame.columns]
    columns += [name for name in items.frame.columns if name not in columns]
    given = [name for name in columns if name in items.frame.columns]
    new = items.frame.loc[~old].reindex(columns=columns, fill_value="")
    gone = set(known.ids) - set(items.ids)
    now = known.frame.reindex(columns=columns, fill_value="")
    values = items.frame.loc[old, given].to_numpy(object)
    for name in set(vectors).intersection(given):
        column, before = given.index(name), now[name].to_numpy(object)[index[old] - 1]
        values[:, column] = np.where(values[:, column] == "", before, values[:, column])
    now.iloc[index[old] - 1, now.columns.get_indexer(given)] = values
    frame = pd.concat([now, new], ignore_index=True)
    withdrawn = frozenset(gone) | items.withdrawn
    return Items(
        frame,
        withdrawn=withdrawn,
        relations=items.relations or known.relations,
        order=items.order or known.order,
    )


def _columns_read(manifest):
    """Columns of the catalogue that a version makes item vectors of."""
    encoder = manifest.encoder
    if encoder is None:
        return []
    names = list(encoder.features or ())
    if encoder.kind not in ("vectors", "features"):
        names += [name for _, name, _, _ in Formatter().parse(manifest.template) if name]
    return names


def _check_missing(known, missing, read):
    """Raises where a column is missing that the model reads; says what becomes of others."""
    of_relations = [name for name in missing if known.frame[name].str.contains("\x1f").any()]
    hint = "Columns that came from relations come with --relations again (with_relations)."
    if of_relations:
        hint = (
            f"{_listed(of_relations)} came from relations, as it seems: give these again by "
            "--relations (with_relations)."
        )
    needed = missing if read is None else [name for name in missing if name in read]
    if needed:
        raise ValueError(
            "items needs the columns of the parent's catalogue that the model reads: "
            f"{_listed(needed)}. Received: a catalogue without {_listed(missing)}. Add them. {hint}"
        )
    log.warning(
        "items lacks columns of the parent's catalogue that the model does not read: %s. Known "
        "items keep their values, new ones have none; a column that says what is to be had is "
        "empty. %s",
        _listed(missing),
        hint,
    )


def _listed(names):
    return ", ".join(map(repr, names))


def _known_events(interactions, new, items, parent):
    """Events of known items, and which of them are new."""
    frame = interactions.frame
    times = frame["timestamp"].to_numpy()
    if new is None:
        if not parent.log_end:
            raise ValueError(
                f"{parent.version} does not know when its log ends (it was trained without "
                "recency): say which events are new, or update it from a store."
            )
        if parent.log_end > latest_moment():
            raise ValueError(
                f"{parent.version} has learned an event of the future and takes "
                f"{show_time(parent.log_end)} UTC as the end of its log: nothing is newer. Train "
                "it anew without that event, or say which events are new."
            )
        new = times > parent.log_end
    known = items.index_of(frame["item_id"]) > 0
    if not known.all():
        count = int((~known).sum())
        log.warning("%d events with items outside the catalogue are left out", count)
    new = np.asarray(new, bool)[known]
    interactions = interactions.replace(frame[known])
    chosen = new & (interactions.frame["weight"].to_numpy() > 0)
    if chosen.sum() < FEWEST:
        raise TooFewEvents(
            f"update needs at least {FEWEST} new events of items in the catalogue. Received: "
            f"{int(chosen.sum())}. Wait for more, or give the whole log and the new catalogue."
        )
    return interactions, new


def _cut(interactions, new):
    """`Interactions` known before, those learned before the child is judged, those held back."""
    times = interactions.frame["timestamp"].to_numpy()
    until = np.quantile(times[new], 1 - HELD_BACK, method="lower")
    until = max(until, times[~new].max(initial=0))  # later than all that the parent has learned
    held = new & (times > until)
    if not held.any():  # a log of dates: its last day
        held = new & (times == times[new].max()) & (times > times[~new].max(initial=0))
    if not held.any() or not (new & ~held).any():
        raise TooFewEvents(
            "update holds back the newest events to judge on, and needs earlier new ones to learn "
            "from. Received: new events of one moment, or none that is later than what the parent "
            "has learned. Wait for more."
        )
    if not (held & _first_choices(interactions, held)).any():
        raise TooFewEvents(
            "update judges on items that users take for the first time among the newest events. "
            "Received: only what they had already or did not choose. Wait for more."
        )
    return tuple(interactions.replace(interactions.frame[rows]) for rows in (~new, ~held, held))


def _first_choices(interactions, held):
    """bool `(num_events,)`: chosen, and no pair of user and item of the events not held back."""
    frame = interactions.frame
    wanted = (frame["weight"] > 0) & ~frame["event"].isin(PASSIVE_EVENTS)
    users, items = (frame[name].cat.codes.to_numpy(np.int64) for name in ("user_id", "item_id"))
    pairs = users * (int(items.max(initial=0)) + 1) + items
    return wanted.to_numpy() & ~np.isin(pairs, pairs[~held])
