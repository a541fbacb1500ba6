"""`Child`: a version in the making, from its parent's weights, and what it learns from."""

import functools
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kerasrec.backend import untraced
from kerasrec.checks import ArtifactError
from kerasrec.data.histories import before, first_of_pairs, make_histories
from kerasrec.data.interactions import Interactions, Items
from kerasrec.data.statistics import fingerprint
from kerasrec.fusion.candidates import MAX_USERS
from kerasrec.fusion.choice import choose_live
from kerasrec.fusion.fusion import Fusion, fit_again
from kerasrec.fusion.sharing import sharing_table
from kerasrec.loop.gate import LIST_LENGTH
from kerasrec.models.validation import Ranker, Validation
from kerasrec.recommender.recommender import Recommender
from kerasrec.training.catchup import EPOCHS, gentle_trainer, replayed
from kerasrec.training.choosing.heldout import FEWEST_TO_WEIGH
from kerasrec.versions import folders, itemmatrix
from kerasrec.versions.derive import derive_version
from kerasrec.versions.exporter import export, withdrawn_index
from kerasrec.versions.graph import ServingModule
from kerasrec.versions.manifest import FusionFacts, UpdateFacts, make_part
from kerasrec.versions.trainingstate import Rebuilt, write_training_state

log = logging.getLogger(__name__)
#: what `export` says of a child itself, instead of what its parent said
_OF_EXPORT = (
    "signatures",
    "packages",
    "options",
    "encoder",
    "fusion",
    "scorer_weight",
    "generator",
)


class Child:
    """A version in the making.

    Attributes:
        weighed: number of events that the weights of its fusion rest on, `MAX_USERS` at most; 0 =
            they were not chosen as a live server predicts.

    Args:
        parent: `Recommender`, which the child reads and never changes. Whoever makes the child adds
            the new items to it first, and lets it observe what the child learns: so the two
            differ in what was trained alone, and the child takes over what is recent.
        items: `Items`, those of the parent, in their order.
        seed: of the replay and of the batches.

    Raises:
        ValueError: the parent does not know the same items.
    """

    def __init__(self, parent: Recommender, items: Items, *, seed: int = 0):
        if not np.array_equal(items.ids, parent.items.ids):
            raise ValueError(
                f"A child knows the items of its parent ({len(parent.items)}). Received: "
                f"{len(items)} items. Add the new ones to the parent first (add_items)."
            )
        self.parent, self.items, self.seed = parent, items, seed
        self.about = parent.about._replace(num_items=len(items))
        self._rebuilt = Rebuilt(parent.loaded.folder, items)
        self.model, self.state = self._rebuilt.model, self._rebuilt.state
        # or has other texts: what is made of texts is made anew
        self._has_grown = len(items) > parent.about.num_items or len(self._rebuilt.changed) > 0
        self.tables = dict(parent.fusion().tables)
        self._chosen: Fusion | None = None  # a fusion with weights of its own
        self._frozen_vectors = None  # of all texts, by an encoder that is not trained
        told = (self.about.update or UpdateFacts()).weighed
        self.weighed: int = told or self.about.weighed or 0
        self.history = None

    def learn(self, interactions: Interactions, *, since: Interactions) -> None:
        """Trains on the users with events that are not in `since`, and on as many others.

        The parent must have observed the interactions: what is recent is read from it.

        Args:
            interactions: `Interactions`, all that is known by now.
            since: the part of them that is learned already.
        """
        histories = make_histories(interactions, self.items)
        learned = since.frame["user_id"].astype(str).value_counts()
        fresh = histories.lengths - learned.reindex(histories.user_ids, fill_value=0).to_numpy()
        part = replayed(histories, fresh, self.model.config["max_length"], self.seed)
        if len(part.items):  # else newcomers alone, of one event each
            self.history = self._trainer.fit(part, None)
        chosen = self.about.tables
        num_items = len(self.items)
        self.tables = fit_again(self.tables, chosen, histories, num_items, self._text_vectors())
        old, shared = self.tables.get("relations"), None
        if old is not None:  # of new items too
            shared = sharing_table(self.items)
        if old is not None and shared is not None:
            self.tables["relations"] = shared._replace(decay=old.decay)

    @functools.cached_property
    def _trainer(self):
        return gentle_trainer(self.model, self.about.trainer, seed=self.seed)

    def choose_weights(self, interactions: Interactions) -> None:
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
        times = known.timestamps[places]
        chosen = choose_live(
            Ranker(self.model),
            known,
            validation,
            times,
            self.tables,
            self.about.tables,
            self._text_vectors(),
            before=(self.parent.fusion(), self.weighed) if self.weighed else None,
        )
        if chosen is None:
            return
        fusion, quality = chosen
        if fusion.tables:  # else the model alone was best on few events: no reason to forget them
            self._chosen = fusion.arranged_as(self.parent.fusion())
            self.weighed = int(min(quality["events"], MAX_USERS))
        log.info("weights chosen on %d new events: %s", len(places), quality)

    def _text_vectors(self):
        """What the table "text" is fitted to; None where there is none, or nothing new for it."""
        if "text" not in self.tables or (self._is_frozen() and not self._has_grown):
            return None
        if not self._is_frozen():  # its encoder gives others after every training
            return self._rebuilt.table_vectors(self.items)
        if self._frozen_vectors is None:
            self._frozen_vectors = self._rebuilt.table_vectors(self.items)
        return self._frozen_vectors

    def fusion(self) -> Fusion:
        """`Fusion`: the weights chosen, else the parent's; tables and recency as they are now."""
        parent = self.parent.fusion()
        if self._chosen is None:
            return parent._replace(tables=self.tables)
        return self._chosen._replace(tables=self.tables).at_end(parent.recency.counts)

    def module(self) -> ServingModule:
        """`ServingModule` of the child as it is now, without its encoder."""
        vectors = Ranker(self.model).item_vectors()
        with tempfile.TemporaryDirectory() as folder:
            ids = Path(folder) / folders.ITEM_IDS.name
            folders.write_item_ids(ids, self.items.ids)
            module = ServingModule(
                self.model,
                item_vectors=vectors,
                asset=ids,
                fusion=self.fusion(),
                k=self.about.k,
                withdrawn=withdrawn_index(self.items),
            )
            if self.about.encoder is not None and self.model.text_part is not None:
                module.add_text_functions(self.state.whitening)
        return module

    def recommender(self) -> Recommender:
        """`Recommender` of the child as it is now; it cannot encode texts."""
        fusion = self.fusion()
        about = self.about._replace(fusion=make_part(FusionFacts, fusion.description()))
        return Recommender.in_memory(self.module(), self.items, fusion.recency, about)

    def publish(
        self,
        label: str,
        facts: dict[str, Any],
        interactions: Interactions,
        seconds: float,
        *,
        labels: dict[str, int],
    ) -> Path:
        """Makes the child the next version and labels it; returns its path.

        `labels` are those that there were when the work began: who has moved the label stable since
        then, as by a rollback, has the last word.
        """
        base, number = self.parent.loaded.folder.parent, self.parent.about.version
        if label == "canary" and "stable" not in labels:
            folders.write_label(base, "stable", number)
        changes = {
            "num_items": len(self.items),
            "parent": number,
            "data": fingerprint(interactions, self.items),
            "update": make_part(UpdateFacts, facts),
            "train_seconds": round(seconds, 1),
            "epochs": EPOCHS,
            "metrics": {f"held_back_ndcg@{LIST_LENGTH}": facts["ndcg"]["child"]},
            **({"order": self.items.order} if self.items.order else {}),
            **({"relations": list(self.items.relations)} if self.items.relations else {}),
        }
        if self._has_room():
            fusion = self.fusion()
            changes |= {"fusion": make_part(FusionFacts, fusion.description())}
            version = self._derived({**changes, "scorer_weight": fusion.scorer_weight})
        else:
            version = self._exported(changes)
        if label == "canary" or "stable" in labels:
            instead_of = labels["stable"] if label == "stable" else None
            folders.write_label(base, label, int(version.name), instead_of=instead_of)
        return version

    def _has_room(self):
        """Whether the graph of the parent can hold the child: other numbers in the same graph."""
        may_withdraw = "withdraws" in self.parent.loaded.abilities or not self.items.withdrawn
        may_order = "orders" in self.parent.loaded.abilities or not (
            self.items.order and self.parent.plans.can_plan
        )
        may = may_withdraw and may_order
        return self._is_frozen() and may and self.parent.has_room_for(self.fusion())

    def _is_frozen(self):
        """Whether its encoder, if it has one, is as it was pretrained."""
        mode = self.about.encoder_options["mode"]
        return self.about.encoder is None or mode == "frozen"

    def _derived(self, changes):
        form = self.about.item_matrix or "float32"
        made = self.recommender()
        values = made.loaded.learned_variables()
        groups = self.parent.loaded.user_groups
        if groups is not None:  # what groups like is not learned anew
            weights = np.array(groups.weights, np.float32)
            values |= {"group_lifts": groups.lifts, "group_weights": weights}
        if "withdraws" not in self.parent.loaded.abilities:  # of a version of before: none
            del values["withdrawn"]
        values |= itemmatrix.stored(made.loaded.vectors(), form)
        # the generator is not trained again; it plans the new items by their codes
        plans = self.parent.plans
        if plans.can_plan:
            values |= self.parent.loaded.plan_variables()
            changes |= {"generator": self.about.generator._replace(**plans.facts())}
        some = [list(self.items.ids[place : place + 3]) for place in range(0, len(self.items), 97)]
        with untraced():
            expected = made.recommend(some, k=LIST_LENGTH)

        def finish(folder, loaded):
            shutil.rmtree(folder / folders.TRAIN)
            whitening = self.state.whitening
            write_training_state(folder, self.model, whitening, self.history)
            self.parent.plans.save_to(folder)
            found = Recommender(loaded, index="exact").recommend(some, k=LIST_LENGTH)
            # other forms round the vectors
            if form == "float32" and not np.allclose(found["score"], expected["score"], atol=5e-3):
                raise ArtifactError(
                    "The child answers otherwise in the graph of its parent; nothing was "
                    "published. This is a defect of kerasrec: please report it."
                )

        return derive_version(
            self.parent.loaded.folder,
            changes,
            variables=values,
            frame=self.items.frame,
            recency=self.fusion().recency,
            finish=finish,
        )

    def _exported(self, changes):
        said = self.about._replace(**changes, item_matrix=None).as_dict()
        kept = {key: value for key, value in said.items() if key not in _OF_EXPORT}
        return export(
            self.model,
            self.parent.loaded.folder.parent,
            items=self.items,
            manifest=kept,
            encoder=self._rebuilt.encoder,
            whitening=self.state.whitening,
            fusion=self.fusion(),
            history=self.history,
            k=self.about.k,
            generator=self.parent.plans.generator(),
            groups=self.parent.loaded.user_groups,
        )
