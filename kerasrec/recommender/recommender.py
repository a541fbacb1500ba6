"""`Recommender`: an exported version at work: answers, and takes in new items and events.

No training code is loaded.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kerasrec.checks import ArtifactError, step
from kerasrec.client.draws import Draws
from kerasrec.data.columns import says_withdrawn, withdrawn_rows
from kerasrec.data.histories import Histories
from kerasrec.data.interactions import Interactions, Items, Users
from kerasrec.data.relations.order import Order, read_order
from kerasrec.data.sources import as_items, read_interactions, read_users
from kerasrec.data.tables import Source
from kerasrec.data.times.forms import read_moment
from kerasrec.features.columntypes import unreadable
from kerasrec.features.conditions import Condition
from kerasrec.features.itemcolumns import Chosen, ItemColumns
from kerasrec.features.shoprules import read_shop_rules
from kerasrec.fusion.counting import Counting
from kerasrec.fusion.following import Following
from kerasrec.fusion.fusion import Fusion
from kerasrec.fusion.recency import Counts, Recency
from kerasrec.recommender import itemindex
from kerasrec.recommender.answers import (
    MOST_ROWS,
    list_table,
    make_interests,
    make_lists,
    make_similar,
    plan_table,
    say_what_is_missing,
    say_who_got_popular,
)
from kerasrec.recommender.loadedlog import VersionLog
from kerasrec.recommender.loadedplans import VersionPlans
from kerasrec.recommender.loadedtexts import VersionTexts
from kerasrec.recommender.questions import (
    ManyHistories,
    among_chosen,
    index_of,
    known_histories,
    read_histories,
    read_k,
    read_questions,
)
from kerasrec.recommender.ruled import ruled_lists
from kerasrec.recommender.shortlist import Shortlist, check_index, find_shortlist
from kerasrec.versions import folders
from kerasrec.versions.derive import derive_version
from kerasrec.versions.loaded import LoadedVersion
from kerasrec.versions.manifest import make_manifest

log = logging.getLogger(__name__)


class Recommender:
    """Recommendations from an exported version.

    Attributes:
        manifest: dict, what the version says of itself: a copy of what its file holds.
        about: the same as `versions.manifest.Manifest`, whose docstring describes every key.
        version: Path of its folder; None where it is none (yet).
        loaded: `LoadedVersion`, what its graph holds and computes.
        items: `Items`, the catalogue; row r has item index r + 1.
        index: `ItemIndex` where one is used, with its `report`; else None.
        plans: `VersionPlans`, what makes the plans of `generate`.

    Args:
        version: `LoadedVersion`; a path is loaded first, as by `load`.
        index: as for `load`.

    >>> recommender = Recommender.load("saved_models/courses")            # doctest: +SKIP
    >>> recommender.recommend([["C_1", "C_7"]], k=3)                      # doctest: +SKIP
      user_id item_id  rank     score
    0       0    C_12     1  9.731445
    """

    def __init__(self, version: LoadedVersion | str | Path, *, index: str = "auto"):
        check_index(index)
        loaded = version if isinstance(version, LoadedVersion) else LoadedVersion.load(version)
        self.loaded, self.about = loaded, loaded.manifest
        self.version: Any = loaded.path
        self._set_items(loaded.items())
        self._knowledge = VersionLog(loaded, loaded.recency())
        self._has_observed = False
        self._texts, self.plans = VersionTexts(loaded), VersionPlans(loaded)
        self._shortlist = find_shortlist(index, loaded)

    @classmethod
    def in_memory(cls, module: Any, items: Items, recency: Recency, manifest: Any) -> "Recommender":
        """A Recommender of a `ServingModule` that is no version (yet); it cannot be saved.

        Args:
            module: `ServingModule`.
            items: `Items` in the order of its item indices.
            recency: `recency.Recency` at the end of its log.
            manifest: what a version of it would say of itself, `Manifest` or a dict of it.
        """
        about = make_manifest(manifest) if isinstance(manifest, dict) else manifest
        return cls(LoadedVersion(module, about, items=items, recency=recency), index="exact")

    @classmethod
    def load(cls, model: str | Path, *, index: str = "auto") -> "Recommender":
        """Loads `saved_models/NAME` (its stable label, else the largest version) or one version.

        Args:
            model: path of it.
            index: "exact" looks at every item for every list; "ann" at those that an index of
                nearest items (faiss), the neighbour tables and popularity propose, which are then
                scored exactly; "auto" takes the index from `ANN_FROM` items on where faiss is
                installed. The index is built at the first load and kept in the cache folder.

        Raises:
            ImportError: "ann" without faiss.
        """
        check_index(index)  # before the work
        with step(log, "loading %s", folders.find_version(model)):
            return cls(LoadedVersion.load(model), index=index)

    def __reduce__(self):
        return self.loaded.__reduce__()  # which says what to do instead

    def __repr__(self):
        about = self.about
        name = f"{about.name} {about.version}" if self.version else f"{about.name}, in memory"
        return f"Recommender({name}, {len(self.items):,} items)"

    @property
    def manifest(self) -> dict[str, Any]:
        """What the version says of itself, as a dict."""
        return self.about.as_dict()

    @property
    def index(self) -> itemindex.ItemIndex | None:
        """See the class."""
        return None if self._shortlist is None else self._shortlist.index

    def tune_index(self, histories: ManyHistories, *, recall: float = itemindex.RECALL) -> float:
        """Measure the index on histories of users (as for `recommend`) and choose its effort anew.

        Without it, the index was measured on made-up histories that follow the neighbour tables.

        Returns:
            Share of the 100 items nearest to an interest that the index now finds.

        Raises:
            ValueError: this Recommender uses no index.
        """
        if self._shortlist is None:
            raise ValueError('tune_index needs an index. Load with index="ann".')
        vectors = self.loaded.vectors()[1:]
        return self._shortlist.index.tune(vectors, self.interests(histories), recall=recall)

    def _set_items(self, items, *, has_changed=False):
        self.items = items
        self._ids = np.concatenate([[""], self.items.ids])
        self._columns = ItemColumns(items.frame)
        self._known_order: Order | None = None
        if has_changed and "orders" in self.loaded.abilities:
            self.loaded.set_order(self._order.table())

    def choose(self, where: Condition) -> Chosen:
        """Finds the items of the catalogue that meet a condition; see `recommend`.

        Returns:
            `Chosen`: `mask` is bool `(num_items,)` in the order of `items`, `number` how many.

        Raises:
            ValueError, TypeError: an unknown column, with the nearest one, or a condition that is
                none.
        """
        return self._columns.choose(where)

    def index_of(self, item_ids: Iterable[Any]) -> np.ndarray:
        """int32 item index of each id, 0 = unknown; a number stands for its text (5 for "5")."""
        return index_of(item_ids, self.items)

    def titles(self, item_ids: Iterable[Any]) -> np.ndarray:
        """Title of each item id ("" for an unknown one), object `(n,)`."""
        titles = np.concatenate([[""], self.items.frame["title"].to_numpy(object)])
        return titles[self.index_of(item_ids)]

    def training_history(self) -> pd.DataFrame | None:
        """DataFrame of the training run, one row per epoch; None where the version holds none."""
        path = self.loaded.folder / folders.HISTORY
        return pd.read_csv(path) if path.is_file() else None

    # --- recommend ---

    def recommend(
        self,
        histories: ManyHistories,
        *,
        k: int = 10,
        keep_seen: bool = False,
        candidates: Iterable[Any] | None = None,
        deny: Iterable[Any] | None = None,
        where: Condition = None,
        rules: Any = None,
        at: Any = None,
        users: Users | pd.DataFrame | None = None,
        batch_size: int = MOST_ROWS,
    ) -> pd.DataFrame:
        """Best items for many users at once.

        Args:
            histories: list of histories (lists of item ids, oldest first; the users are then called
                0, 1, ...), a dict user id -> history, `Interactions` or `Histories`. Unknown items
                are skipped. A user without a known item gets popular items;
                `result.attrs["popular_for"]` lists these users.
            k: list length; shorter when fewer items may be listed.
            keep_seen: True may list items of the history.
            candidates: item ids that alone may be listed; None = the whole catalogue.
            deny: item ids that may not be listed.
            where: a condition on columns of the catalogue that listed items meet, such as
                `{"category": ["图书", "音像"], "price": {"lt": 50}}` or `"price<50"`; see
                `read_where`. Lists are the best of these items; shorter than `k` where they are
                fewer (`result.attrs["chosen"]` says how many there are).
            rules: of a shop: the path of a YAML file, or what `features.shoprules.read_shop_rules`
                takes: at most n items of a brand, boosts, pins, variety, nothing of what a user had
                in the last days, what may be bought again. `result.attrs["rules"]`
                says for each row what they did. Their time windows are looked up at `at` where
                that is one time, else at this moment.
            at: when the lists are asked for, a time in any form that a log may have (a date, UTC
                seconds): what is recent and new then has its say. A time before or after those
                that the version knows counts as the first or last of them. An array of int UTC
                seconds gives each history a moment of its own. How long before that moment the
                newest event of a user was has its say too.
                "now" = the end of the log. None = as the version was validated: at the end of the
                log after a split by time, else at each user's newest event (where it has a time).
            users: what is known of the users, `Users` or a DataFrame as `read_users` takes it, for
                a version that was trained with a table of users. Users and columns that it lacks
                are unknown, and so are values that the version has not seen. Lists are made for
                the users of `histories`: a newcomer has an empty one, `{"new": []}`.
            batch_size: users per call of the model at most.

        Returns:
            DataFrame `user_id, item_id, rank, score`, users in the order given, rank from 1, equal
            scores in the order of the catalogue.

        Raises:
            ValueError: k below 1, a single history where a list of them is expected, candidates
                that are all unknown, a condition that is none or names an unknown column, a time
                that is none, or users for a version that knows no groups of them.
        """
        k = read_k(k)
        questions, chosen = self._questions(histories, candidates, deny, where, at)
        if users is not None:
            questions = questions._replace(members=self._members(questions, users))

        def make(asked, length, with_seen=keep_seen):
            return make_lists(
                self.loaded,
                asked,
                k=length,
                keep_seen=with_seen,
                batch_size=batch_size,
                shortlist=self._shortlist,
            )

        reasons = None
        if rules is None:
            index, scores = make(questions, k)
        else:
            moment = None if isinstance(at, np.ndarray | pd.Series) else read_moment(at)
            index, scores, reasons = ruled_lists(
                make,
                questions,
                read_shop_rules(rules),
                k,
                columns=self._columns,
                vectors=self.loaded.vectors_at,
                now=moment if isinstance(moment, int) else None,
                keep_seen=keep_seen,
            )
        asking = questions.histories.user_ids
        table = list_table(self._ids, asking, index, scores, of="user_id")
        if reasons is not None:
            table.attrs["rules"] = reasons
        return say_who_got_popular(table, questions, chosen)

    def _members(self, questions, users):
        """How far each user who asks belongs to each group."""
        groups = self.loaded.user_groups
        if groups is None:
            raise ValueError(
                "This version knows nothing of users but their histories. Leave users out, or "
                "train with a table of users (users=, --users)."
            )
        known = users if isinstance(users, Users) else read_users(users)
        wanted, given = list(groups.columns), [*known.frame.columns.drop("user_id")]
        if missing := [name for name in wanted if name not in given]:
            received = f"Received: {', '.join(given) or 'a column of ids alone'}."
            if len(missing) == len(wanted):
                raise ValueError(
                    f"users: expected columns that the version knows, {', '.join(wanted)}. "
                    f"{received} Rename them, or leave users out."
                )
            log.warning("users: no column %s, which the version knows. %s", missing[0], received)
        asking = questions.histories.user_ids
        if others := len(known) - known.frame["user_id"].isin([str(one) for one in asking]).sum():
            log.info("%d users of the table are not asked for: they have no history here", others)
        asked = known.of(asking)
        for name, one in groups.columns.items():
            if name in asked and (said := unreadable(asked[name], one.column)):
                log.warning("users: %s", said)
        return groups.members(asked)

    def _questions(self, histories, candidates, deny, where, at):
        """`Questions`, and `Chosen` or None; the arguments are those of `recommend`."""
        chosen = None if where is None else self.choose(where)
        told = dict(asked=self.about.asked, log_end=self.log_end)
        if self.items.withdrawn and "withdraws" not in self.loaded.abilities:
            deny = [*(deny or []), *self.items.withdrawn]  # a graph of before has no place for them
        rules = dict(candidates=candidates, deny=deny, at=at)
        return among_chosen(read_questions(histories, self.items, **told, **rules), chosen), chosen

    # --- plans ---

    def generate(
        self,
        histories: ManyHistories,
        num_items: int = 5,
        beams: int = 16,
        *,
        num_lists: int = 1,
        diversity: float = 0.0,
        candidates: Iterable[Any] | None = None,
        deny: Iterable[Any] | None = None,
        where: Condition = None,
        at: Any = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        order: bool = False,
        batch_size: int = 64,
    ) -> pd.DataFrame:
        """What users will want next, as plans: items in order, each meant to follow those before.

        No plan holds an item twice or one of the history, and added items are planned too. Users
        without a known item get plans from what is popular and how histories begin.

        Args:
            histories, candidates, deny, where, at: as for `recommend`.
            num_items: of a plan; at most half of the items that the decoder reads
                (`generator.max_items`, 25 by default). Shorter where fewer items may be listed.
            beams: of the search: more find likelier plans, for more work. 1 = greedy.
            num_lists: plans per user, at most `beams`.
            diversity: between the plans of a user: an item that m of the plans before hold counts
                exp(-diversity * m) of what it would; 100 at most. 0 = the best beams of one search,
                which often differ little.
            temperature: above 0, plans are drawn instead of searched for, each of the num_lists on
                its own: at 1 as likely as they are, below it likelier ones more often. Drawn is
                code by code: near 0 the likeliest code each time, not the likeliest item.
            top_p: of each code only the likeliest ones that have this share together are drawn;
                without a temperature there are no draws and it says nothing.
            seed: of the draws; the same one draws the same for a user, whoever else is asked for.
            order: True plans an item only when all that must come before it (`prerequisite`, see
                `with_relations`) is in the history or earlier in the plan. False counts the steps
                that come too early.
            batch_size: users per call of the model at most.

        Returns:
            DataFrame `user_id, list, rank, item_id, log_probability`, users in the order given,
            lists and ranks from 1. The probability of an item is that of following the plan so far
            among all that may be listed; the sum over a list is that of the plan. With a diversity
            it is that of the search, in which items of earlier lists weigh less. `attrs` as for
            `recommend`. Where the version knows an order there is a column `missing`: the ids of
            what each step lacks, joined by "|"; `attrs["violations"]` says of how many steps.

        Raises:
            ValueError: a version without a generator, numbers out of range, an order that the
                version does not know, or as for `recommend`.
        """
        draws = Draws(temperature, top_p, seed)
        self.plans.check(num_items, beams, num_lists, diversity, draws, batch_size)
        if order:
            self._check_order()
        questions, chosen = self._questions(histories, candidates, deny, where, at)
        index, logs = self.plans.index(
            questions,
            num_items,
            beams=beams,
            num_lists=num_lists,
            diversity=diversity,
            draws=draws,
            batch_size=batch_size,
            in_order=order,
        )
        table = plan_table(self._ids, questions.histories.user_ids, index, logs)
        if self.items.order:
            table = say_what_is_missing(table, self._ids, questions.histories, index, self._order)
        return say_who_got_popular(table, questions, chosen)

    def _check_order(self):
        if not self.items.order:
            raise ValueError(
                "This version knows no order of its items. Leave order out, or train with a "
                "relation prerequisite (with_relations, --relations)."
            )
        if "orders" not in self.loaded.abilities:
            raise ValueError(
                "The graph of this version plans in no order. Train it again with its relations, "
                "or update it."
            )

    @property
    def _order(self) -> Order:
        if self._known_order is None:
            self._known_order = read_order(self.items)
        return self._known_order

    # --- newer events ---

    def observe(self, events: Any) -> int:
        """Learn what is recent from events that are newer than what the version knows.

        Without training: the newest events of a whole log (not of a few users, which would look
        as if nobody else were there) move recent popularity, and which items count as new, for
        lists that are asked for at the newest of them or later; of several calls the last counts.
        `save()` makes it a version.

        Args:
            events: `Histories`, `Interactions`, or what `read_interactions` takes; what is older
                than the version does not count again, but that of the half hour before says whose
                visits go on. What is more than a day ahead of this machine's clock is left out, and
                so are items the model does not know.

        Returns:
            Number of events that were newer; 0 where the version has no times.
        """
        events = self._whole_log(events)
        count = self._knowledge.observe(events)
        self._has_observed |= count > 0
        if count and self._shortlist is not None:
            self._shortlist.know()
        return count

    def remember(self, events: Any) -> bool:
        """Learn anew what follows what, from a whole log, without training.

        `observe` moves what is recent; this moves the tables "transitions" and "follows", for which
        it takes about a second per 100,000 events. Lists are made by them from the next call on.

        Args:
            events: all that is known, as for `observe`.

        Returns:
            Whether there were such tables to learn.
        """
        learned = self._knowledge.remember(self._whole_log(events), len(self.items))
        if self._shortlist is not None:
            for name in learned:
                self._shortlist.remember(name)
        return bool(learned)

    def grow(self, following: Following) -> None:
        """Learn what follows what from the newest events alone, after a `remember`.

        Args:
            following: `fusion.following.Following` of a log, to which newer events were added. Of
                the tables the rows that these changed are taken. A large catalogue, of which an
                index answers, waits for the next `remember`.
        """
        if self.can_grow:
            self._knowledge.grow(following)

    @property
    def can_grow(self) -> bool:
        """Whether `grow` changes anything: not where an index answers."""
        return self._shortlist is None

    def count_alone(self, counting: Counting) -> None:
        """Ranks by counts alone from now on, without the model; `save` then refuses.

        Args:
            counting: `fusion.counting.Counting`. Where it has learned more, call it again.

        Raises:
            ArtifactError: a version whose graph does not mix counts, see
                `LoadedVersion.can_count_alone`, or of which an index answers.
        """
        if not (self.loaded.can_count_alone and self.can_grow):
            raise ArtifactError(f"{self.version} has no counts in its score, to rank by alone.")
        self._knowledge.count_alone(counting)

    def _whole_log(self, events):
        """What `observe` and `remember` take, as `Histories`."""
        if isinstance(events, Histories | Interactions):
            return read_histories(events, self.items)
        # events of the future are left out, not refused
        return self.histories(read_interactions(events, max_ahead=None))

    @property
    def log_end(self) -> int:
        """Time of the newest event that it has learned or observed, UTC seconds; 0 = unknown."""
        return self.counts.time

    @property
    def counts(self) -> Counts:
        """`recency.Counts` of what it has learned or observed, at `log_end`."""
        return self.recency.counts

    @property
    def recency(self) -> Recency:
        """`recency.Recency` at `log_end`."""
        return self._knowledge.recency

    def has_room_for(self, fusion: Fusion) -> bool:
        """Whether its graph can hold another `Fusion`: the same parts, weighed as that says."""
        return self._knowledge.has_room_for(fusion)

    def fusion(self) -> Fusion:
        """`Fusion`: what is fused with the retrieval, added items and observed events included."""
        return self._knowledge.fusion(len(self.items))

    def interests(self, histories: ManyHistories, *, batch_size: int = MOST_ROWS) -> np.ndarray:
        """U of each history (given as for `recommend`), float32 `(num_users, dim)`.

        Of unit length; zeros for a history without a known item.
        """
        known = read_histories(histories, self.items)
        return make_interests(self.loaded, known, batch_size=batch_size)

    def histories(
        self, interactions: Interactions, *, users: Iterable[Any] | None = None
    ) -> Histories:
        """`Histories` of the items that the model knows; others are skipped, with a warning.

        Args:
            interactions: `Interactions`.
            users: user ids to give exactly these users, with an empty history where nothing is
                known; None = the users of the interactions.
        """
        return known_histories(interactions, self.items, users=users)

    # --- similar items ---

    def similar(
        self, item: Any = None, *, text: Any = None, k: int = 10, where: Condition = None
    ) -> pd.DataFrame:
        """Items nearest by cosine: of the item vectors, or for a text of their text parts alone.

        Args:
            item: an item id or a list of them.
            text: instead of `item`: a text or a list of texts the model may never have seen.
            k: list length.
            where: as for `recommend`; the items given need not meet it.

        Returns:
            DataFrame `query, item_id, rank, score`; the item itself is left out. A text of which
            the encoder knows nothing (tfidf: no known n-gram) has no rows.

        Raises:
            ValueError: neither or both given, an unknown item, an empty text, a condition as for
                `recommend`, or a version without an encoder.
        """
        if (item is None) == (text is None):
            raise ValueError("similar needs either an item or text=..., one of them.")
        k = read_k(k)
        chosen = None if where is None else self.choose(where)
        given = text if item is None else item
        is_list = isinstance(given, list | tuple | np.ndarray | pd.Series | pd.Index)
        queries = list(given) if is_list else [given]
        if text is not None:
            index, scores = self._texts.near(queries, k, None if chosen is None else chosen.mask)
            if unlike := int((index[:, 0] == 0).sum()):
                log.warning("%d of %d texts are unlike all known ones", unlike, len(queries))
            return list_table(self._ids, queries, index, scores, of="query")
        itself = self.index_of(queries)
        if not itself.all():
            unknown = queries[int(np.argmin(itself))]
            raise ValueError(
                f"similar needs items of the catalogue ({len(self.items)}). Received: "
                f"{unknown!r}, which is unknown. For a new text use similar(text=...)."
            )
        mask = None if chosen is None else chosen.mask
        index, scores = make_similar(self.loaded, itself, k, mask)
        return list_table(self._ids, queries, index, scores, of="query")

    def item_vectors(self, item_ids: Iterable[Any]) -> np.ndarray:
        """Item vectors, float32 `(n, dim)`; zeros for an unknown id."""
        return self.loaded.vectors_at(self.index_of(item_ids))

    # --- new items ---

    def encode(self, texts: Iterable[str]) -> np.ndarray:
        """Item vectors of new texts, float32 `(n, dim)`; zeros for an empty text.

        Raises:
            ValueError: the version cannot encode texts (ready vectors, or ids alone).
        """
        return self._texts.encode(texts)

    def add_items(self, items: Items | Source, *, vectors: np.ndarray | None = None) -> int:
        """Makes new items known to this loaded Recommender, without training.

        They are listed from the next call on, by their text and features alone; `save()` makes it
        a version.

        Args:
            items: `Items`, or what `read_items` takes, with the columns of the text. A version that
                reads features too needs no text.
            vectors: float32 `(num_items, dim)` from the same model that made the version's ready
                vectors; needed for a version trained on these, and only there.

        Returns:
            Number of items added.

        Raises:
            ValueError: an id that is known already or repeated, a text column or vectors that are
                missing, or a version that knows items by their id alone.
        """
        items = as_items(items, titles=self._texts.needs_texts)
        folders.check_item_ids(items.ids)
        clash = items.ids[self.index_of(items.ids) > 0]
        if len(clash):
            raise ValueError(
                f"add_items takes new ids only. Received: {clash[0]!r}, known already."
            )
        added = self._texts.vectors_of(items, vectors)
        self.plans.add_items(added)  # first: there may be no codes left
        self.loaded.add_vectors(added)
        self._knowledge.add_items(len(items))
        if self._shortlist is not None:
            self._shortlist.add(added)
        columns = self.items.frame.columns
        frames = [self.items.frame, items.frame.reindex(columns=columns, fill_value="")]
        withdrawn = self.items.withdrawn | items.withdrawn
        told = dict(relations=self.items.relations, order=self.items.order)
        grown = Items(pd.concat(frames, ignore_index=True), **told)
        self._set_items(grown, has_changed=True)
        self.withdraw(withdrawn)
        return len(items)

    def correct_items(self, items: Items | Source) -> int:
        """Takes other titles, texts and columns of known items; texts that differ are encoded anew.

        What users did with an item counts as before. Its codes in plans are those of the new text.
        `save()` makes it a version.

        Args:
            items: `Items`, or what `read_items` takes, with some columns of the catalogue or all;
                the others stay as they were, and so do items that are not given. Ids that are
                unknown are left out; columns that are new to the catalogue are taken too. Items
                that are not to be had by it leave the lists, other given ones come back; a table
                that says nothing of this (see `read_items`) changes nothing of it.

        Returns:
            Number of items with another text.

        Raises:
            ValueError: no id is known, or there is no column beside the ids.
        """
        items = as_items(items, titles=False)
        given = [name for name in items.frame.columns if name != "item_id"]
        if items.columns and "title" not in items.columns:
            given = [name for name in given if name != "title"]  # read without: empty for all
        if not given:
            raise ValueError(
                "correct_items needs a column with new values beside the ids. Received: item_id "
                "alone. Give titles, texts or other columns."
            )
        place = self.index_of(items.ids)
        if not place.any():
            received = f"{items.ids[0]!r} and others" if len(items) else "no row"
            raise ValueError(
                f"correct_items needs ids of the catalogue, such as {self.items.ids[0]!r}. "
                f"Received: {received}, none of which is known. New items enter by add_items."
            )
        columns = _all_columns(self.items.frame, items.frame[given])
        frame = self.items.frame.reindex(columns=columns, fill_value="")
        old = place[place > 0] - 1
        frame.iloc[old, frame.columns.get_indexer(given)] = items.frame.loc[
            place > 0, given
        ].to_numpy(object)
        changed = self._texts.changed(self.items.frame, frame)
        if len(changed):
            rows = Items(frame.iloc[changed].reset_index(drop=True))
            before = self.loaded.vectors_at(changed + 1)
            vectors = self._texts.with_texts(before, rows)
            self.plans.change_items(changed, before, vectors)  # first: there may be no codes left
            self.loaded.set_vectors(changed + 1, vectors)
        self._set_items(replace(self.items, frame=frame), has_changed=True)
        if len(changed) and self._shortlist is not None:
            self._shortlist = Shortlist(self.loaded)
        if items.withdrawn or any(map(says_withdrawn, given)):
            known, gone = items.ids[place > 0], set(items.withdrawn)
            if any(map(says_withdrawn, given)):
                # by the whole catalogue: of a few rows alone all may be sold out
                gone |= set(frame["item_id"][withdrawn_rows(frame)[0]])
            self.withdraw((self.items.withdrawn - set(known)) | (gone & set(known)))
        return len(changed)

    def withdraw(self, item_ids: Iterable[Any]) -> int:
        """Takes items out of all lists; those that were out before and are not named come back.

        They stay known: in histories they count as before. `save()` makes it a version.

        Args:
            item_ids: of the catalogue; unknown ones are left out.

        Returns:
            Number of items that are in no list now.
        """
        index = np.unique(self.index_of(item_ids))
        index = index[index > 0].astype(np.int32)
        self._set_items(replace(self.items, withdrawn=frozenset(self._ids[index])))
        if "withdraws" in self.loaded.abilities:
            self.loaded.set_withdrawn(index)
        if self._shortlist is not None:
            self._shortlist.know()
        return len(index)

    def save(self) -> Path:
        """Writes this Recommender, with added items and observed events, as the next version.

        Returns its path.

        The graph is copied; the tables that grew are written anew.
        """
        if self._knowledge.is_counting:
            raise ArtifactError(
                f"{self.version} ranks by counts alone since its model fell behind them: there is "
                "nothing of it to save. Load it anew, or train it again."
            )
        changes: dict[str, Any] = {"num_items": len(self.items)}
        if self.items.withdrawn and "withdraws" not in self.loaded.abilities:
            raise ArtifactError(
                f"{self.version} was written by a kerasrec whose graphs cannot leave items out. "
                "Update it or train it again; or save it without withdrawn items."
            )
        if self._has_observed:  # its recency knows more of the log than `update` says
            changes["observed"] = self.log_end
        if self.about.generator is not None:
            changes["generator"] = self.about.generator._replace(**self.plans.facts())
        return derive_version(
            self.loaded.folder,
            changes,
            variables=self.loaded.grown_variables(),
            frame=self.items.frame,
            recency=self._knowledge.recency,
            finish=lambda folder, loaded: self.plans.save_to(folder),
        )


def _all_columns(known, given):
    """The columns of a catalogue, and behind them those that another one has too."""
    return [*known.columns, *(name for name in given.columns if name not in known.columns)]
