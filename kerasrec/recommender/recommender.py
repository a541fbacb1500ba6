"""`Recommender`: an exported version at work: answers, and takes in new items and events.

No training code is loaded.
"""

import logging
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.data.histories import Histories, history_rows, make_histories, model_inputs
from kerasrec.data.interactions import Items, read_interactions, read_items
from kerasrec.data.timestamps import read_moment
from kerasrec.fusion.recency import AT_THE_END, Recency, newest_times
from kerasrec.recommender import itemindex
from kerasrec.recommender.draws import Draws
from kerasrec.recommender.loadedlog import VersionLog
from kerasrec.recommender.loadedplans import VersionPlans
from kerasrec.recommender.loadedtexts import VersionTexts
from kerasrec.recommender.shortlist import LONGEST, ROWS_AT_ONCE, check_index, find_shortlist
from kerasrec.versions import folders, itemmatrix
from kerasrec.versions.derive import derive_version
from kerasrec.versions.manifest import make_manifest

log = logging.getLogger(__name__)
#: numbers (scores, history and candidate ids) that one call of the model may hold at most
MAX_CELLS = 2**26
#: scores of one call for lists, about: what is computed per user and item then stays in the cache
CACHED_CELLS = 2**20
_FEWEST_ROWS = 32  # of a call, however many items: below, the calls themselves take the time
_CALLS_AT_ONCE = 2  # some operations use one core only: meanwhile the other call has the rest


class Recommender:
    """Recommendations from an exported version.

    Attributes:
        manifest: dict, what the version says of itself: a copy of what its file holds.
        about: the same as `versions.manifest.Manifest`, whose docstring describes every key.
        version: Path of its folder.
        items: `Items`, the catalogue; row r has item index r + 1.
        index: `ItemIndex` where one is used, with its `report`; else None.
        plans: `VersionPlans`, what makes the plans of `generate`.

    >>> recommender = Recommender.load("saved_models/courses")            # doctest: +SKIP
    >>> recommender.recommend([["C_1", "C_7"]], k=3)                      # doctest: +SKIP
      user_id item_id  rank     score
    0       0    C_12     1  9.731445
    """

    def __init__(self, version, *, index="auto"):
        check_index(index)
        version = folders.find_version(version)
        manifest = folders.read_manifest(version)
        try:
            module = tf.saved_model.load(str(version))
            items = Items(folders.read_catalogue(version))
            recency = Recency.load(version / folders.RECENCY)
        except (OSError, EOFError, zlib.error, ValueError, KeyError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ArtifactError(
                f"{version} is damaged and does not load ({reason}). Copy the whole folder "
                "again, or export the model again."
            ) from error
        self._take(module, items, recency, manifest, version)
        self._shortlist = find_shortlist(index, module, manifest, version)

    @classmethod
    def in_memory(cls, module, items, recency, manifest):
        """A Recommender of a `ServingModule` that is no version (yet); it cannot be saved.

        Args:
            module: `ServingModule`.
            items: `Items` in the order of its item indices.
            recency: `recency.Recency` at the end of its log.
            manifest: what a version of it would say of itself, `Manifest` or a dict of it.
        """
        self = cls.__new__(cls)
        about = make_manifest(manifest) if isinstance(manifest, dict) else manifest
        self._take(module, items, recency, about, None)
        self._shortlist = None
        return self

    def _take(self, module, items, recency, manifest, version):
        self._module, self._log = module, VersionLog(module, manifest, recency)
        self.about, self.version = manifest, version
        self._has_observed = False
        self._set_items(items.frame)
        self._texts = VersionTexts(module, manifest, version)
        self.plans = VersionPlans(module, version)

    @classmethod
    def load(cls, model, *, index="auto"):
        """Load `saved_models/NAME` (its stable label, else the largest version) or one version.

        Args:
            model: path of it.
            index: "exact" looks at every item for every list; "ann" at those that an index of
                nearest items (faiss), the neighbour tables and popularity propose, which are then
                scored exactly; "auto" takes the index from `ANN_FROM` items on where faiss is
                installed. The index is built at the first load and kept in the cache folder.

        Raises:
            ImportError: "ann" without faiss.
        """
        return cls(model, index=index)

    @property
    def manifest(self):
        """What the version says of itself, as a dict."""
        return self.about.as_dict()

    @property
    def index(self):
        """See the class."""
        return self._shortlist and self._shortlist.index

    def tune_index(self, histories, *, recall=itemindex.RECALL):
        """Measure the index on histories of users (as for `recommend`) and choose its effort anew.

        Without it, the index was measured on made-up histories that follow the neighbour tables.

        Returns:
            Share of the 100 items nearest to an interest that the index now finds.

        Raises:
            ValueError: this Recommender uses no index.
        """
        if self._shortlist is None:
            raise ValueError('tune_index needs an index. Load with index="ann".')
        vectors = itemmatrix.read_vectors(self._module)[1:]
        return self.index.tune(vectors, self.interests(histories), recall=recall)

    def _set_items(self, frame):
        self.items = Items(frame)
        self._ids = np.concatenate([[""], self.items.ids])

    def index_of(self, item_ids):
        """int32 item index of each id, 0 = unknown; a number stands for its text (5 for "5")."""
        if isinstance(getattr(item_ids, "dtype", None), pd.CategoricalDtype):
            return self.items.index_of(item_ids)
        texts = [i if isinstance(i, str) else str(i) for i in item_ids]
        return self.items.index_of(texts)

    def titles(self, item_ids):
        """Title of each item id ("" for an unknown one), object `(n,)`."""
        titles = np.concatenate([[""], self.items.frame["title"].to_numpy(object)])
        return titles[self.index_of(item_ids)]

    def training_history(self):
        """DataFrame of the training run, one row per epoch; None where the version holds none."""
        path = self.version / folders.HISTORY
        return pd.read_csv(path) if path.is_file() else None

    # --- recommend ---

    def recommend(
        self,
        histories,
        *,
        k=10,
        keep_seen=False,
        candidates=None,
        deny=None,
        at=None,
        batch_size=512,
    ):
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
            at: when the lists are asked for, a time in any form that a log may have (a date, UTC
                seconds): what is recent and new then has its say. A time before or after those
                that the version knows counts as the first or last of them.
                "now" = the end of the log. None = as the version was validated: at the end of the
                log after a split by time, else at each user's newest event (where it has a time).
            batch_size: users per call of the model at most.

        Returns:
            DataFrame `user_id, item_id, rank, score`, users in the order given, rank from 1, equal
            scores in the order of the catalogue.

        Raises:
            ValueError: k below 1, a single history where a list of them is expected, candidates
                that are all unknown, or a time that is none.
        """
        k = _checked_k(k)
        histories = self._histories(histories)
        asked = self._asked(histories, at)
        allow = self._listed(candidates, "candidates")
        refuse = self._listed(deny, "deny")
        width = min(k, len(self._ids))
        index = np.zeros((histories.num_users, width), np.int32)
        scores = np.zeros((histories.num_users, width), np.float32)
        at_once = max(CACHED_CELLS // len(self._ids), _FEWEST_ROWS)
        fixed = len(self._ids) + len(allow) + len(refuse)
        is_short = k <= LONGEST and self._shortlist is not None and not len(allow)
        if is_short:
            at_once, fixed = ROWS_AT_ONCE, 1024 * interest_width(self._module)
        batches = _batches(histories.lengths, min(batch_size, at_once), fixed)

        def answer(rows):
            if is_short:
                inputs = self._inputs(histories.select(rows))
                enough, *found = self._shortlist.lists(
                    inputs, asked[rows], k=k, keep_seen=keep_seen, deny=refuse
                )
                done = rows[enough]
                index[done], scores[done] = (values[enough] for values in found)
                rows = rows[~enough]
                if not len(rows):
                    return
            size = len(rows)
            found = self._module.recommend_rows(
                *self._inputs(histories.select(rows)),
                tf.constant(np.tile(allow, (size, 1))),
                tf.constant(np.tile(refuse, (size, 1))),
                tf.fill([size], bool(keep_seen)),
                tf.constant(asked[rows]),
                tf.constant(k),
            )
            index[rows], scores[rows] = (part.numpy() for part in found)

        with ThreadPoolExecutor(_CALLS_AT_ONCE) as pool:
            for _ in pool.map(answer, batches):
                pass  # an error of a call is raised here
        table = self._table(histories.user_ids, index, scores)
        return self._with_popular(table, histories)

    def _with_popular(self, table, histories):
        """The table, which says for whom it has what is popular."""
        popular = histories.user_ids[histories.lengths == 0]
        if len(popular):
            log.info("%d users without a known item get popular items", len(popular))
        table.attrs["popular_for"] = list(popular)
        return table

    # --- plans ---

    def generate(
        self,
        histories,
        num_items=5,
        beams=16,
        *,
        num_lists=1,
        diversity=0.0,
        candidates=None,
        deny=None,
        at=None,
        temperature=0.0,
        top_p=1.0,
        seed=0,
        batch_size=64,
    ):
        """What users will want next, as plans: items in order, each meant to follow those before.

        No plan holds an item twice or one of the history, and added items are planned too. Users
        without a known item get plans from what is popular and how histories begin.

        Args:
            histories, candidates, deny, at: as for `recommend`.
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
            batch_size: users per call of the model at most.

        Returns:
            DataFrame `user_id, list, rank, item_id, log_probability`, users in the order given,
            lists and ranks from 1. The probability of an item is that of following the plan so far
            among all that may be listed; the sum over a list is that of the plan. With a diversity
            it is that of the search, in which items of earlier lists weigh less. `attrs` as for
            `recommend`.

        Raises:
            ValueError: a version without a generator, numbers out of range, or as for `recommend`.
        """
        draws = Draws(temperature, top_p, seed)
        self.plans.check(num_items, beams, num_lists, diversity, draws, batch_size)
        histories = self._histories(histories)
        index, logs = self.plans.index(
            histories,
            self._asked(histories, at),
            num_items,
            listed=(self._listed(candidates, "candidates"), self._listed(deny, "deny")),
            beams=beams,
            num_lists=num_lists,
            diversity=diversity,
            draws=draws,
            batch_size=batch_size,
        )
        row, number, place = np.nonzero(index)
        table = pd.DataFrame(
            {
                "user_id": np.asarray(histories.user_ids, object)[row],
                "list": number + 1,
                "rank": place + 1,
                "item_id": self._ids[index[row, number, place]],
                "log_probability": logs[row, number, place],
            }
        )
        return self._with_popular(table, histories)

    def _asked(self, histories, at):
        """int64 `(num_users,)`: when each list is asked for; 0 = at the end of the log."""
        if at is None and self.about.asked != AT_THE_END:
            return newest_times(histories)
        if at in (None, "now"):
            return np.zeros(histories.num_users, np.int64)
        return np.full(histories.num_users, read_moment(at), np.int64)

    def observe(self, events):
        """Learn what is recent from events that are newer than what the version knows.

        Without training: the newest events of a whole log (not of a few users, which would look
        as if nobody else were there) move recent popularity, and which items count as new, for
        lists that are asked for at the newest of them or later. `save()` makes it a version.

        Args:
            events: `Histories`, `Interactions`, or what `read_interactions` takes; what is older
                than the version, or more than a day ahead of this machine's clock, is left out, and
                so are items the model does not know.

        Returns:
            Number of events that were newer; 0 where the version has no times.
        """
        events = self._whole_log(events)
        count = self._log.observe(events)
        self._has_observed |= count > 0
        if count and self._shortlist is not None:
            self._shortlist.know()
        return count

    def remember(self, events):
        """Learn anew what follows what, from a whole log, without training.

        `observe` moves what is recent; this moves the table "transitions", for which it takes
        about a second per 100,000 events. Lists are made by it from the next call on.

        Args:
            events: all that is known, as for `observe`.

        Returns:
            Whether there was such a table to learn; False too for a version that an earlier
            kerasrec exported.
        """
        learned = self._log.remember(self._whole_log(events), len(self.items))
        if learned and self._shortlist is not None:
            self._shortlist.remember("transitions")
        return learned

    def _whole_log(self, events):
        """What `observe` and `remember` take, as `Histories`."""
        if isinstance(events, Histories):
            return events
        return self.histories(events if hasattr(events, "report") else read_interactions(events))

    @property
    def log_end(self):
        """Time of the newest event that it has learned or observed, UTC seconds; 0 = unknown."""
        return self.counts.time

    @property
    def counts(self):
        """`recency.Counts` of what it has learned or observed, at `log_end`."""
        return self._log.recency.counts

    def has_room_for(self, fusion):
        """Whether its graph can hold another `Fusion`: the same parts, weighed as that says.

        That of a version of an earlier kerasrec cannot.
        """
        return self._log.has_room_for(fusion)

    def fusion(self):
        """`Fusion`: what is fused with the retrieval, added items and observed events included."""
        return self._log.fusion(len(self.items))

    def interests(self, histories, *, batch_size=512):
        """U of each history (given as for `recommend`), float32 `(num_users, dim)`.

        Of unit length; zeros for a history without a known item.
        """
        histories = self._histories(histories)
        interests = np.zeros((histories.num_users, interest_width(self._module)), np.float32)
        for rows in _batches(histories.lengths, batch_size, interests.shape[1]):
            inputs = self._inputs(histories.select(rows))
            interests[rows] = self._module.interest_rows(*inputs).numpy()
        return interests

    def _inputs(self, histories):
        """Tensors `history, time_gap, event` of whole histories: what they hold is left out."""
        inputs = model_inputs(histories, int(histories.lengths.max(initial=1)))
        return [tf.constant(inputs[name]) for name in ("history", "time_gap", "event")]

    def _table(self, user_ids, index, scores):
        """Long table of `(num_users, k)` arrays; index 0 = no item."""
        row, column = np.nonzero(index)
        return pd.DataFrame(
            {
                "user_id": np.asarray(user_ids, object)[row],
                "item_id": self._ids[index[row, column]],
                "rank": column + 1,
                "score": scores[row, column],
            }
        )

    def _listed(self, item_ids, what):
        """int32 item indices of `candidates` or `deny`, `(n,)`; None = none."""
        if item_ids is None:
            return np.zeros(0, np.int32)
        if isinstance(item_ids, str):
            raise ValueError(f"{what} must be a list of item ids. Received: the text {item_ids!r}.")
        index = self.index_of(item_ids)
        if what == "candidates" and not index.any():
            raise ValueError(
                f"candidates must name items of the catalogue ({len(self.items)}). Received: "
                f"{len(index)} ids, none of them known."
            )
        if not index.all():
            log.warning("%d of %d ids in %s are unknown", (index == 0).sum(), len(index), what)
        return np.unique(index[index > 0])

    def _histories(self, histories):
        """Whatever `recommend` takes, as `Histories`."""
        if isinstance(histories, Histories):
            return histories
        if isinstance(histories, pd.DataFrame):
            histories = read_interactions(histories)
        if hasattr(histories, "report"):  # Interactions
            return self.histories(histories)
        user_ids, rows = history_rows(histories)
        index = self.index_of([item for row in rows for item in row])
        owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows]).astype(np.int64)
        known = index > 0
        counts = np.bincount(owner[known], minlength=len(rows))
        num_events = int(known.sum())
        return Histories(
            np.array([*user_ids, None], object)[:-1],
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            index[known],
            np.zeros(num_events, np.int64),
            np.zeros(num_events, np.int16),
            np.ones(num_events, np.float32),
        )

    def histories(self, interactions, *, users=None):
        """`Histories` of the items that the model knows; others are skipped, with a warning.

        Args:
            interactions: `Interactions`.
            users: user ids to give exactly these users, with an empty history where nothing is
                known; None = the users of the interactions.
        """
        frame = interactions.frame
        if users is None:
            users = frame["user_id"].cat.remove_unused_categories().cat.categories
        known = self.index_of(frame["item_id"]) > 0
        if not known.all():
            count = int((~known).sum())
            log.warning("%d interactions with items the model does not know are skipped", count)
            interactions = interactions.replace(frame[known])
        histories = make_histories(interactions, self.items)
        # ids are texts everywhere, also where a log has numbers
        return histories.of_users(np.array([str(user) for user in users], object))

    # --- similar items ---

    def similar(self, item=None, *, text=None, k=10):
        """Items nearest by cosine: of the item vectors, or for a text of their text parts alone.

        Args:
            item: an item id or a list of them.
            text: instead of `item`: a text or a list of texts the model may never have seen.
            k: list length.

        Returns:
            DataFrame `query, item_id, rank, score`; the item itself is left out. A text of which
            the encoder knows nothing (tfidf: no known n-gram) has no rows.

        Raises:
            ValueError: neither or both given, an unknown item, an empty text, or a version without
                an encoder.
        """
        if (item is None) == (text is None):
            raise ValueError("similar needs either an item or text=..., one of them.")
        k = _checked_k(k)
        given = text if item is None else item
        is_list = isinstance(given, list | tuple | np.ndarray | pd.Series | pd.Index)
        queries = list(given) if is_list else [given]
        if text is not None:
            index, scores = self._texts.near(queries, k)
            if unlike := int((index[:, 0] == 0).sum()):
                log.warning("%d of %d texts are unlike all known ones", unlike, len(queries))
            return self._table(queries, index, scores).rename(columns={"user_id": "query"})
        itself = self.index_of(queries)[:, None]
        if not itself.all():
            unknown = queries[int(np.argmin(itself))]
            raise ValueError(
                f"similar needs items of the catalogue ({len(self.items)}). Received: "
                f"{unknown!r}, which is unknown. For a new text use similar(text=...)."
            )
        vectors = self.item_vectors(queries)
        width = min(k, len(self._ids))
        index = np.zeros((len(queries), width), np.int32)
        scores = np.zeros((len(queries), width), np.float32)
        for rows in _batches(np.zeros(len(queries), int), 512, len(self._ids)):
            found = self._module.similar_rows(vectors[rows], itself[rows], tf.constant(k))
            index[rows], scores[rows] = (part.numpy() for part in found)
        return self._table(queries, index, scores).rename(columns={"user_id": "query"})

    def item_vectors(self, item_ids):
        """Item vectors, float32 `(n, dim)`; zeros for an unknown id."""
        return itemmatrix.vectors_at(self._module, self.index_of(item_ids))

    # --- new items ---

    def encode(self, texts):
        """Item vectors of new texts, float32 `(n, dim)`; zeros for an empty text.

        Raises:
            ValueError: the version cannot encode texts (ready vectors, or ids alone).
        """
        return self._texts.encode(texts)

    def add_items(self, items, *, vectors=None):
        """Make new items known to this loaded Recommender, without training.

        They are listed from the next call on, by their text alone; `save()` makes it a version.

        Args:
            items: `Items`, or a DataFrame as `read_items` takes it, with the columns of the text.
            vectors: float32 `(num_items, dim)` from the same model that made the version's ready
                vectors; needed for a version trained on these, and only there.

        Returns:
            Number of items added.

        Raises:
            ValueError: an id that is known already or repeated, a text column or vectors that are
                missing, or a version that knows items by their id alone.
        """
        if isinstance(items, pd.DataFrame):
            items = read_items(items)
        folders.check_item_ids(items.ids)
        clash = items.ids[self.index_of(items.ids) > 0]
        if len(clash):
            raise ValueError(
                f"add_items takes new ids only. Received: {clash[0]!r}, known already."
            )
        if self._texts.are_vectors:
            added = self._texts.place(vectors, len(items))
        elif vectors is None:
            added = self.encode(items.texts(self.about.template))
        else:
            raise ValueError("This version was not trained on ready vectors: leave vectors out.")
        self.plans.add_items(added)  # first: there may be no codes left
        module = self._module
        for name, rows in itemmatrix.grown(module, added).items():
            getattr(module, name).assign(rows)
        self._log.add_items(len(items))
        if self._shortlist is not None:
            self._shortlist.add(added)
        columns = self.items.frame.columns
        frames = [self.items.frame, items.frame.reindex(columns=columns, fill_value="")]
        self._set_items(pd.concat(frames, ignore_index=True))
        return len(items)

    def save(self):
        """Write this Recommender, with added items and observed events, as the next version.

        Returns its path.

        The graph is copied; the tables that grew are written anew.
        """
        names = ["popularity", "starts", "prior", "first"]
        names += [name for name in itemmatrix.TABLES if hasattr(self._module, name)]
        changes = {"num_items": len(self.items)}
        if self._has_observed:  # its recency knows more of the log than `update` says
            changes["observed"] = self.log_end
        if self.plans.can_plan:
            changes["generator"] = self.about.generator._replace(**self.plans.facts())
        variables = {name: getattr(self._module, name) for name in names}
        return derive_version(
            self.version,
            changes,
            variables=variables | self.plans.variables(),
            frame=self.items.frame,
            recency=self._log.recency,
            finish=lambda folder, loaded: self.plans.save_to(folder),
        )


def interest_width(module):
    """Length of the item vectors of a loaded version."""
    return module.item_vectors.shape[1]


def _checked_k(k):
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1. Received: {k!r}.")
    return int(k)


def _batches(lengths, batch_size, fixed):
    """Yields arrays of row numbers, histories of similar length together.

    Args:
        lengths: events per row.
        batch_size: rows of a batch at most.
        fixed: numbers that a row needs besides its events.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1. Received: {batch_size!r}.")
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = order[start : start + batch_size]
        while len(rows) > 1 and len(rows) * (lengths[rows[-1]] + fixed) > MAX_CELLS:
            rows = rows[: len(rows) // 2]
        yield rows
        start += len(rows)
