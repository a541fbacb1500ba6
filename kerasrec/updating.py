"""`update`: the next version of a model, from its weights and what has happened since.

New items and users enter without training anew: the catalogue grows, old items keep their rows, the
users with new events are learned from, beside as many others (replay, against forgetting). The
newest events are held back: on them the child is judged beside its parent and beside baselines.
Only a child that is no worse is published; it learns the held-back events too before that.
"""

import datetime
import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kerasrec import artifacts, itemmatrix
from kerasrec.data import Items, join_interactions, read_interactions, read_items
from kerasrec.derive import derive_version
from kerasrec.evaluation import evaluate, run_baselines
from kerasrec.exporter import export
from kerasrec.fusion import MAX_USERS, choose_live, fit_again
from kerasrec.pipeline import fingerprint, train
from kerasrec.recommender import Recommender
from kerasrec.sequences import before, first_of_pairs, make_histories
from kerasrec.servingmodule import ServingModule
from kerasrec.trainer import Trainer
from kerasrec.trainingstate import rebuild, write_training_state
from kerasrec.validation import Ranker, Validation

log = logging.getLogger(__name__)
#: share of the new events that the child is judged on
HELD_BACK = 0.2
#: new events of users with a past, at least: fewer prove nothing
FEWEST = 20
#: new events of first meetings, at least, that the weights of the fusion are chosen on anew
FEWEST_TO_WEIGH = 300
#: epochs over the users with new events and those that are replayed
EPOCHS = 3
#: learning rate, as a share of the parent's
GENTLE = 0.25
#: what a version says of the store that it was learned from; its children say it too
_OF_STORE = ("store", "seq", "erasures")
_K = 10  # of the lists that are judged
#: baselines that a child must not fall behind
BASELINES = ("recent_popularity", "item_knn")


class TooFewEvents(ValueError):
    """There is too little that is new to learn from and to judge on."""


class Updated(NamedTuple):
    """What `update` gives back.

    version: Path of the published version; None = refused.  reason: str, why so.  evaluation:
    `Evaluation` of child, parent and baselines on the held-back events.  events: number of new
    events.  seconds: of the whole work.
    """

    version: Path | None
    reason: str
    evaluation: Any
    events: int
    seconds: float


def update(
    model, interactions, items=None, *, new=None, label="stable", force=False, facts=None, seed=0
):
    """Learn what is new, compare with the parent, publish or refuse.

    Args:
        model: `saved_models/NAME`; the parent is its stable label, else its largest version.
        interactions: `Interactions` or what `read_interactions` takes: the whole log, old events
            (which are replayed) and new ones.
        items: `Items` or what `read_items` takes: the catalogue as it is now. Items that it lacks
            stay in the model; None = the parent's catalogue.
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
    if not hasattr(interactions, "frame"):
        interactions = read_interactions(interactions)
    with artifacts.alone(artifacts.find_version(model).parent):
        return _update(model, interactions, items, new, label, force, facts or {}, seed)


def _check_label(label):
    if label not in artifacts.LABELS:
        raise ValueError(
            f"label must be one of {', '.join(artifacts.LABELS)}. Received: {label!r}."
        )


def _update(model, interactions, items, new, label, force, facts, seed):
    """`update`, by whoever holds the lock."""
    started = time.perf_counter()
    if not interactions.has_time:
        raise ValueError("update needs times, to tell new events from old ones. Received: none.")
    parent = Recommender.load(model, index="exact")
    items = grown_catalogue(parent.items, items)
    interactions, new = _known_events(interactions, new, items, parent)
    earlier, learned, held = _cut(interactions, new)
    child = Child(parent, items, seed=seed)
    child.choose_weights(learned)
    child.learn(learned, since=earlier)
    evaluation = judge(child.recommender(), parent, learned, held)
    better, reason = decide(evaluation)
    path = None
    if better or force:
        child.learn(interactions, since=learned)
        told = parent.manifest.get("update", {})
        named = {key: told[key] for key in _OF_STORE if key in told}
        named |= {"events": int(new.sum()), "decision": reason, "forced": not better}
        named |= {"ndcg": _figures(evaluation), **facts}
        if not force and artifacts.find_version(model) != parent.version:
            raise artifacts.ArtifactError(
                f"While the update of {parent.version} was at work another version became the one "
                "that answers; nothing was published. Start it again."
            )
        path = child.publish(label, named, interactions, time.perf_counter() - started)
    seconds = time.perf_counter() - started
    return Updated(path, reason, evaluation, int(new.sum()), seconds)


def update_from_store(model, store, items=None, *, label="stable", force=False, seed=0):
    """`update` from a `FeedbackStore`; after an erasure, `retrain`.

    New is what was stored after the parent's last event, also where it happened before (it came in
    late); for a parent that knows no store, what is later than its log.

    Args:
        model, items, label, force, seed: as for `update`.
        store: `FeedbackStore`, which holds the old events too.

    Returns:
        `Updated`.
    """
    _check_label(label)
    with artifacts.alone(artifacts.find_version(model).parent):
        manifest = artifacts.read_manifest(artifacts.find_version(model))
        told, last, erasures = manifest.get("update", {}), store.last_seq(), store.erasures()
        facts = {"store": store.name, "seq": last, "erasures": len(erasures)}
        if told.get("store") != store.name:
            told = {}  # numbers of another store say nothing of this one
        known, erased = told.get("seq"), _erased(told, erasures, manifest)
        if erased:
            rows = sum(erasure.rows for erasure in erased)
            facts["erased"] = {"users": len(erased), "rows": rows}
            log.info("%d users were erased: training from nothing", len(erased))
            whole = store.interactions(until=last, order="content")
            had = manifest["data"]["interactions"] - rows
            if len(whole) < had / 2 and not force:
                raise ValueError(
                    "After an erasure the next version is trained from nothing, on the store "
                    f"alone. That holds {len(whole):,} events; the version learned {had:,}. Import "
                    "the log (without the user) into the store first, or force it."
                )
            return _retrain(model, whole, items, label, facts, seed)
        if known is None:
            whole, new = store.interactions(until=last, order="content"), None
        else:
            parts = [
                store.interactions(order="content", until=known),
                store.interactions(order="content", after=known, until=last),
            ]
            whole = join_interactions(parts)
            new = np.arange(len(whole)) >= len(parts[0])
        return _update(model, whole, items, new, label, force, facts, seed)


def _erased(told, erasures, manifest):
    """The erasures of users from whom the weights of a version may have learned.

    Args:
        told: what its manifest says of the store.
        erasures: list of `feedback.Erasure`, all of the store.
        manifest: of the version.
    """
    if "erasures" in told:
        later = erasures[told["erasures"] :]
    else:
        made = datetime.datetime.fromisoformat(manifest["created"]).timestamp()
        since = manifest.get("learned_since", made - manifest.get("train_seconds", 0))
        later = [erasure for erasure in erasures if erasure.timestamp >= since]
    known = told.get("seq")
    return [e for e in later if e.rows and (known is None or e.first_seq <= known)]


def retrain(model, interactions, items=None, *, label="stable", facts=None, seed=0):
    """The next version of a model from nothing, with its options: the parent's weights are unused.

    For what must be forgotten: what a parent has learned of a user lies in its weights.

    Args:
        model, interactions, items, label, facts, seed: as for `update`.

    Returns:
        `Updated`; it is published whatever its quality, and `evaluation` is None.
    """
    _check_label(label)
    if not hasattr(interactions, "frame"):
        interactions = read_interactions(interactions)
    with artifacts.alone(artifacts.find_version(model).parent):
        return _retrain(model, interactions, items, label, facts or {}, seed)


def _retrain(model, interactions, items, label, facts, seed):
    """`retrain`, by whoever holds the lock."""
    started = time.perf_counter()
    version = artifacts.find_version(model)
    base, manifest = version.parent, artifacts.read_manifest(version)
    items = grown_catalogue(Items(artifacts.read_catalogue(version)), items)
    known = items.index_of(interactions.frame["item_id"]) > 0
    interactions = interactions.replace(interactions.frame[known])
    # a run folder belongs to one run, and a strategy is an object of another process
    trainer = {k: v for k, v in manifest["trainer"].items() if k not in ("run_folder", "strategy")}
    options = {
        "encoder": manifest["encoder_options"],
        "model": {
            k: v for k, v in manifest["options"].items() if k not in ("num_items", "members")
        },
        "trainer": {**trainer, "seed": seed},
    }
    labels = artifacts.read_labels(base)
    artifacts.write_label(base, "stable", labels.get("stable", manifest["version"]))
    reason = "trained from nothing"
    if "erased" in facts:
        reason += f", without {facts['erased']['users']} erased users"
    trained = train(
        interactions,
        items,
        name=base.name,
        out=base.parent,
        preset=manifest["preset"],
        options=options,
        refit=manifest.get("refit", False),
        progress=False,
        facts={"parent": manifest["version"], "update": {"decision": reason, **facts}},
    )
    artifacts.write_label(base, label, int(trained.version.name))
    seconds = time.perf_counter() - started
    return Updated(trained.version, reason, None, len(interactions), seconds)


def grown_catalogue(known, items):
    """The catalogue of a child: the parent's items in their order, then the new ones.

    Args:
        known: `Items` of the parent.
        items: `Items`, what `read_items` takes, or None = no new ones. Its titles and other
            columns count where it knows an item.

    Returns:
        `Items` with the parent's columns.
    """
    if items is None:
        return known
    items = items if hasattr(items, "frame") else read_items(items)
    artifacts.check_item_ids(items.ids)
    missing = [name for name in known.frame.columns if name not in items.frame.columns]
    if missing:
        raise ValueError(
            f"items needs the columns of the parent's catalogue. Received: no {missing[0]!r}."
        )
    old = known.index_of(items.ids) > 0
    new = items.frame.loc[~old, known.frame.columns]
    return Items(pd.concat([known.frame, new], ignore_index=True))


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
    return tuple(interactions.replace(interactions.frame[rows]) for rows in (~new, ~held, held))


class Child:
    """A version in the making.

    Args:
        parent: `Recommender`; it is told of the events and items that the child learns, so that
            the two differ in what was trained alone.
        items: `Items`, those of the parent first.
        seed: of the replay and of the batches.
    """

    def __init__(self, parent, items, *, seed=0):
        new = items.frame[len(parent.items) :]
        self.parent, self.items, self.seed = parent, items, seed
        self.manifest = {**parent.manifest, "num_items": len(items)}
        self.model, self.encoder, self.state = rebuild(parent.version, items)
        if len(new):
            log.info("%d new items", len(new))
            parent.add_items(Items(new.reset_index(drop=True)))
        self.tables = dict(parent.fusion().tables)
        self._chosen = None  # a fusion with weights of its own
        self.history = None

    def learn(self, interactions, *, since):
        """Train on the users with events that are not in `since`, and on as many others.

        Args:
            interactions: `Interactions`, all that is known by now.
            since: the part of them that is learned already.
        """
        histories = make_histories(interactions, self.items)
        before = since.frame["user_id"].astype(str).value_counts()
        fresh = histories.lengths - before.reindex(histories.user_ids, fill_value=0).to_numpy()
        part = replayed(histories, fresh, self.model.config["max_length"], self.seed)
        options = self.manifest["trainer"]
        trainer = Trainer(
            self.model,
            optimizer=options["optimizer"],
            learning_rate=GENTLE * options["learning_rate"],
            batch_size=options["batch_size"],
            clip_norm=options["clip_norm"],
            epochs=EPOCHS,
            seed=self.seed,
            deterministic=options["deterministic"],
            progress=False,
        )
        if len(part.items):  # else newcomers alone, of one event each
            self.history = trainer.fit(part, None)
        self.parent.observe(histories)
        self._fit_tables(histories)

    def choose_weights(self, interactions):
        """Weigh the parts of the score anew, on the new events, as the parent predicts them live.

        Only before `learn`: the model must not know the events. Few events leave the weights.
        """
        known = make_histories(interactions, self.items)
        is_new = known.chosen & first_of_pairs(known) & (known.timestamps > self.parent.log_end)
        places = np.flatnonzero(is_new)
        if len(places) < FEWEST_TO_WEIGH or not self.tables or not self.parent.log_end:
            return
        places = places[np.argsort(known.timestamps[places], kind="stable")][-MAX_USERS:]
        rows = before(known, places)
        validation = Validation(rows, np.arange(len(places)), known.items[places])
        texts = self._text_vectors() if "text" in self.tables else None
        times = known.timestamps[places]
        chosen = choose_live(
            Ranker(self.model),
            known,
            validation,
            times,
            self.tables,
            self.manifest.get("tables"),
            texts,
        )
        if chosen is None:
            return
        if chosen[
            0
        ].tables:  # else the model alone was best on few events: no reason to forget them
            self._chosen = chosen[0]
        log.info("weights chosen on %d new events: %s", len(places), chosen[1])

    def _fit_tables(self, histories):
        texts = self._text_vectors() if "text" in self.tables else None
        chosen = self.manifest.get("tables")
        self.tables = fit_again(self.tables, chosen, histories, len(self.items), texts)

    def _text_vectors(self):
        template = self.manifest["text_template"]
        vectors = self.encoder.encode_items(self.items, template, progress=False)
        vectors = self.state.whitening.apply(vectors)
        if self.encoder.kind != "vectors":
            vectors[[not text.strip() for text in self.items.texts(template)]] = 0
        return vectors

    def fusion(self):
        """`Fusion`: the weights chosen, else the parent's; tables and recency as they are now."""
        parent = self.parent.fusion()
        if self._chosen is None:
            return parent._replace(tables=self.tables)
        return self._chosen._replace(tables=self.tables).at_end(parent.recency.counts)

    def module(self):
        """`ServingModule` of the child as it is now, without its encoder."""
        vectors = Ranker(self.model).item_vectors()
        with tempfile.TemporaryDirectory() as folder:
            ids = Path(folder) / artifacts.ITEM_IDS.name
            artifacts.write_item_ids(ids, self.items.ids)
            module = ServingModule(
                self.model,
                item_vectors=vectors,
                asset=ids,
                fusion=self.fusion(),
                k=self.manifest["k"],
            )
            if self.encoder is not None and self.model.text_part is not None:
                module.add_text_functions(self.state.whitening)
        return module

    def recommender(self):
        """`Recommender` of the child as it is now; it cannot encode texts."""
        fusion = self.fusion()
        manifest = {**self.manifest, "fusion": fusion.description()}
        return Recommender.in_memory(self.module(), self.items, fusion.recency, manifest)

    def publish(self, label, facts, interactions, seconds):
        """Make the child the next version and label it; returns its path."""
        base, number = self.parent.version.parent, self.parent.manifest["version"]
        labels = artifacts.read_labels(base)
        if label == "canary" and "stable" not in labels:
            artifacts.write_label(base, "stable", number)
        changes = {
            "num_items": len(self.items),
            "parent": number,
            "data": fingerprint(interactions, self.items),
            "update": facts,
            "train_seconds": round(seconds, 1),
            "epochs": EPOCHS,
            "metrics": {f"held_back_ndcg@{_K}": facts["ndcg"]["child"]},
        }
        version = self._derived(changes) if self._has_room() else self._exported(changes)
        if label == "canary" or "stable" in labels:
            artifacts.write_label(base, label, int(version.name))
        return version

    def _has_room(self):
        """Whether the graph of the parent can hold the child: other numbers in the same graph."""
        mode = self.manifest["encoder_options"]["mode"]
        frozen = self.encoder is None or mode == "frozen"
        return frozen and self._chosen is None and self.parent.has_growing_tables()

    def _derived(self, changes):
        module, form = self.module(), self.manifest.get("item_matrix", "float32")
        values = itemmatrix.stored(itemmatrix.read_vectors(module), form)
        names = ["starts", "first", "prior", "popularity", "temperature"]
        tables = [f"{kind}_{name}" for name in self.tables for kind in ("neighbours", "votes")]
        values |= {name: getattr(module, name) for name in names + tables}
        places = {}  # a variable that is listed twice is stored under its first place
        for place, variable in enumerate(module.layer_variables):
            places.setdefault(variable.ref(), f"layer_variables/{place}")
        own = {getattr(module, name).ref() for name in tables}
        # the id part comes along with the text part's layer and is not read in the graph
        values |= {
            name: ref.deref()
            for ref, name in places.items()
            if ref not in own and "id_table" not in ref.deref().name
        }
        recency = self.parent.fusion().recency
        made = Recommender.in_memory(module, self.items, recency, self.manifest)
        some = [list(self.items.ids[place : place + 3]) for place in range(0, len(self.items), 97)]
        expected = made.recommend(some, k=_K)

        def finish(folder, loaded):
            shutil.rmtree(folder / artifacts.TRAIN)
            whitening = self.state.whitening
            write_training_state(folder, self.model, whitening, self.history)
            copy = Recommender.in_memory(loaded, self.items, recency, self.manifest)
            found = copy.recommend(some, k=_K)
            # manifests hold the weights of the fusion with some digits only
            if form == "float32" and not np.allclose(found["score"], expected["score"], atol=0.02):
                raise artifacts.ArtifactError(
                    "The child answers otherwise in the graph of its parent; nothing was "
                    "published. This is a defect of kerasrec: please report it."
                )

        return derive_version(
            self.parent.version,
            changes,
            variables=values,
            frame=self.items.frame,
            recency=recency,
            finish=finish,
        )

    def _exported(self, changes):
        own = ("format", "version", "created", "signatures", "packages", "options", "fusion")
        own += ("item_matrix", "scorer_weight")
        kept = {key: value for key, value in self.manifest.items() if key not in own}
        return export(
            self.model,
            self.parent.version.parent,
            items=self.items,
            manifest={**kept, **changes},
            encoder=self.encoder,
            whitening=self.state.whitening,
            fusion=self.fusion(),
            history=self.history,
            k=self.manifest["k"],
        )


def replayed(histories, fresh, max_length, seed):
    """What a child learns from: the users with new events, and as many others.

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


def judge(child, parent, learned, held):
    """Child, parent and baselines on events that come after all that they know.

    Args:
        child, parent: `Recommender`s.
        learned: `Interactions` that both know.
        held: `Interactions` to judge on.

    Returns:
        `Evaluation`; its first model is the child.

    Raises:
        ValueError: nothing to judge on.
    """
    histories = make_histories(learned, child.items)
    asked = histories.of_users(held.frame["user_id"].astype(str).unique())
    lists = {
        name: model.recommend(asked, k=_K, at="now")
        for name, model in (("child", child), ("parent", parent))
    }
    lists |= run_baselines(histories, asked, child.items, k=_K, names=BASELINES)
    return evaluate(lists, held, histories=histories, train=learned, items=child.items, ks=(_K,))


def decide(evaluation):
    """Whether the child may be published, and why.

    It may where its NDCG is at least the parent's and not surely (95 %) below a baseline's; below a
    baseline, too, where it is surely better than the parent: refusing it would leave a worse one.
    """
    figures = _figures(evaluation)
    ndcg = evaluation.comparisons.query("metric == 'ndcg'").set_index("model")
    against = ndcg.loc["parent"]
    text = (
        f"NDCG@{_K} {figures['child']:.4f} against the parent's {figures['parent']:.4f} "
        f"(difference {against['difference']:+.4f}, 95 % {against['low']:+.4f} to "
        f"{against['high']:+.4f}, {evaluation.counts['child']['users']} users)"
    )
    if against["difference"] < 0:
        return False, f"worse than its parent: {text}"
    for name in BASELINES:
        if ndcg.loc[name, "high"] < 0 and not against["low"] > 0:
            return False, f"below {name} ({figures[name]:.4f}): {text}"
    return True, text


def _figures(evaluation):
    return {name: round(evaluation.value(name, "ndcg")[0], 4) for name in evaluation.models}
