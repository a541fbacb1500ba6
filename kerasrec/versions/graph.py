"""`ServingModule`: computes what an exported version answers, in core TensorFlow operations."""

from pathlib import Path
from typing import Any

import numpy as np

from kerasrec.backend import tf
from kerasrec.data.histories import NUM_GAP_BUCKETS
from kerasrec.fusion.fusion import Fusion
from kerasrec.models.build import Model
from kerasrec.models.graphfusion import FusedScore, total_by_sample
from kerasrec.models.itemvectors import WhiteningLayer
from kerasrec.models.scoring import exclude, exclude_all_but, graph_top_k, rerank
from kerasrec.text.graphtokenizers import is_blank, text_vectors
from kerasrec.text.vectors import Whitening
from kerasrec.versions import itemmatrix

_IDS = tf.TensorSpec((None, None), tf.string)
_ROWS = tf.TensorSpec((None, None), tf.int32)
_ONE_ID = tf.TensorSpec((None,), tf.string)
_TIMES = tf.TensorSpec((None,), tf.int64)
_VECTORS = tf.TensorSpec((None, None), tf.float32)


class ServingModule(tf.Module):
    """Holds what a version computes with: tables, variables and functions of core operations only.

    The functions whose names end in `_rows` take item indices; `Recommender` calls them. The
    signatures take and give item ids.

    The attributes keep their names in the SavedModel. `LoadedVersion` and `derive` find them by
    these names, also in the versions that older releases of kerasrec wrote: no name may change.

    Attributes:
        k: length of the lists of the signatures, int32 `()`.
        scorer_weight: weight of the MLP in the fused score, float32 `()`; 0 = it is left out.
        temperature: of the cosines, float32 `()`.
        item_vectors, item_matrix, half_vectors, byte_vectors, byte_scale, unit_scale: the item
            vectors in one of several forms, see `itemmatrix`.
        neighbours_NAME, votes_NAME: for each neighbour table, int32 and float32
            `(num_items + 1, width)`, see `Memory`.
        part_weights, mixture, epsilon: how much the parts of the score count, see `Weights`.
        starts, first, prior, popular_at: what is known of recency, see `Fusion`. Versions of before
            2026-12 have no `popular_at`, and one row in `mixture`; their functions take no
            `waited`.
        withdrawn: indices of items that are in no list, int32 `(n,)`; not in versions of before
            2026-12.
        popularity: scores for users without a history, float32 `(num_items + 1,)`.
        layer_variables: list of the variables of the neighbour tables, the sequence model, the
            scorer, the text part, the whitening and the encoder, in this order, as far as there
            are such parts. `derive` calls them `layer_variables/NUMBER`.
        asset, index_of_id, id_of_index: the file of the item ids, and its two tables.
        place_text: function of text vectors; there after `add_text_functions` alone.
        encode_tokens: function of token ids and segment ids; there after `add_encoder` alone.
        read_tokens: the same without placing: what `place_text` takes before the features; there
            where the version knows features of items.
        group_lifts, group_weights, members, recommend_for_rows, recommend_for: there where groups
            of users are known, see `usergraph`.
        tokenizer, encode_items, recommend_by_text: there where the tokenizer has a twin in the
            graph.
        max_length, fused_score, interest_model, scorer, text_part: what the functions call; a
            loaded version has none of these.
    """

    #: set by `add_text_functions`, `add_encoder` and `usergraph.add_user_groups`
    place_text: Any
    encode_tokens: Any
    read_tokens: Any
    tokenizer: Any
    encode_items: Any
    recommend_by_text: Any
    group_lifts: Any
    group_weights: Any
    members: Any
    recommend_for_rows: Any
    recommend_for: Any

    def __init__(
        self,
        model: Model,
        *,
        item_vectors: Any,
        asset: Path,
        fusion: Fusion,
        k: int,
        withdrawn: Any = (),
    ) -> None:
        super().__init__()
        self.max_length = model.config["max_length"]
        # variables, so that a later version can have other values in the same graph
        self.k = tf.Variable(k, trainable=False, name="k")
        self.scorer_weight = tf.Variable(float(fusion.scorer_weight), name="scorer_weight")
        # of the layers, in the order in which they are made: their places here are their names in a
        # checkpoint, see `LoadedVersion.learned_variables`
        self.layer_variables: list[Any] = []
        self.fused_score = fused = FusedScore(fusion)
        for name, memory in fused.memories.items():
            self.layer_variables = [*self.layer_variables, *memory.tables]
            # under names of their own too, which depend on the table: a `Shortlist` reads them
            setattr(self, f"neighbours_{name}", memory.neighbours)
            setattr(self, f"votes_{name}", memory.votes)
        self.part_weights = fused.weights.variables["part_weights"]
        self.mixture = fused.weights.variables["mixture"]
        self.epsilon = fused.weights.variables["epsilon"]
        self.starts, self.first, self.prior = fused.starts, fused.first, fused.prior
        self.popular_at = fused.popular_at
        self.interest_model = self._plain_call(model.interest)
        self.scorer = self._plain_call(model.scorer)
        tables = itemmatrix.make_variables(np.asarray(item_vectors))
        self.item_vectors, self.item_matrix = tables["item_vectors"], tables["item_matrix"]
        self.half_vectors, self.byte_vectors = tables["half_vectors"], tables["byte_vectors"]
        self.byte_scale, self.unit_scale = tables["byte_scale"], tables["unit_scale"]
        self.popularity = tf.Variable(fusion.popular, shape=(None,), name="popularity")
        gone = np.asarray(withdrawn, np.int32)
        self.withdrawn = tf.Variable(gone, shape=(None,), trainable=False, name="withdrawn")
        self.temperature = tf.Variable(float(model.loss.temperature()), name="temperature")
        self.asset = tf.saved_model.Asset(str(asset))
        self.index_of_id = _table(self.asset, tf.string, tf.int64, "", -1)
        self.id_of_index = _table(self.asset, tf.int64, tf.string, -1, "")
        self.text_part = model.text_part and self._plain_call(model.text_part)

    def _plain_call(self, layer):
        """A function of `layer`; saving it leaves out Keras' own traces of each inner layer.

        These would double the size of a version and the time to load it.
        """
        self.layer_variables = [*self.layer_variables, *layer.variables]
        return lambda inputs, training=False: layer(inputs, training=training)

    def _item_tables(self):
        return {name: getattr(self, name) for name in itemmatrix.TABLES}

    def _vectors(self, index):
        """Item vectors at item indices of any shape: int32 `(...)` -> float32 `(..., dim)`."""
        dim = self.item_vectors.shape[1]
        found = self.vector_rows(tf.reshape(index, [-1]))
        found = tf.reshape(found, tf.concat([tf.shape(index), [dim]], 0))
        return tf.ensure_shape(found, [*index.shape, dim])

    # --- parts of the others: functions, so that a version holds and loads each of them once ---

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int32)], autograph=False)
    def vector_rows(self, index: Any) -> Any:
        """Looks up item vectors, float32 `(n, dim)`."""
        return itemmatrix.look_up(self._item_tables(), index)

    @tf.function(input_signature=[_VECTORS], autograph=False)
    def cosine_rows(self, queries: Any) -> Any:
        """Multiplies queries with every unit item vector, `(batch, num_items + 1)`."""
        return itemmatrix.cosines(self._item_tables(), queries)

    @tf.function(input_signature=[_ROWS, _VECTORS, _TIMES, _TIMES], autograph=False)
    def fused_rows(self, history: Any, interest: Any, asked: Any, waited: Any) -> Any:
        """Gives the fused score without the MLP, `(batch, num_items + 1)`."""
        retrieval = tf.nn.softmax(self.cosine_rows(interest / self.temperature))
        newest = history[:, -self.max_length :]
        return self.fused_score.of_all(retrieval, history, newest, asked, waited)

    # --- item indices in, item indices out ---

    @tf.function(input_signature=[_ROWS, _ROWS, _ROWS], autograph=False)
    def interest_rows(self, history: Any, time_gap: Any, event: Any) -> Any:
        """Computes U, float32 `(batch, dim)`, of histories of item indices (left-padded, any
        width).

        Zeros where a history has no item: what a sequence model makes of padding means nothing.
        """
        history, time_gap, event = (
            tf.pad(values, [[0, 0], [1, 0]])[:, -self.max_length :]  # never of width 0
            for values in (history, time_gap, event)
        )
        interest = self.interest_model([self._vectors(history), history, time_gap, event])
        known = tf.reduce_any(history > 0, axis=1, keepdims=True)
        return tf.where(known, interest, 0.0)

    @tf.function(
        autograph=False,
        input_signature=[
            _ROWS,
            _ROWS,
            _ROWS,
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((None,), tf.bool),
            _TIMES,
            _TIMES,
            tf.TensorSpec((), tf.int32),
        ],
    )
    def recommend_rows(
        self,
        history: Any,
        time_gap: Any,
        event: Any,
        allow: Any,
        deny: Any,
        keep_seen: Any,
        asked: Any,
        waited: Any,
        k: Any,
    ) -> tuple[Any, Any]:
        """Finds the best items: index int32 and score float32, `(batch, k)`; 0, -inf = none left.

        `allow` and `deny` hold item indices (0 = none; an all-zero row of `allow` allows all).
        `asked` is when a list is asked for, UTC seconds, 0 = now, the last moment of the log;
        `waited` how many seconds after the newest event of the user, 0 = unknown.
        A history without a known item is answered by what is popular now.
        """
        return self.lists(history, time_gap, event, allow, deny, keep_seen, asked, waited, k)

    def lists(
        self,
        history: Any,
        time_gap: Any,
        event: Any,
        allow: Any,
        deny: Any,
        keep_seen: Any,
        asked: Any,
        waited: Any,
        k: Any,
        *,
        shift: Any = None,
    ) -> tuple[Any, Any]:
        """What `recommend_rows` gives; `shift (batch, num_items + 1)` is added to the scores."""
        interest = self.interest_rows(history, time_gap, event)
        history = tf.pad(history, [[0, 0], [1, 0]])  # never of width 0
        scores, known = self.scores_of_all(history, interest, asked, waited)
        if shift is not None:
            scores += shift
        seen = tf.where(keep_seen[:, None], 0, history)
        scores = exclude(scores, tf.concat([seen, deny], axis=1))
        scores = exclude_all_but(scores, allow) + self._absent()
        return self._best(scores, interest, known, k)

    def scores_of_all(
        self, history: Any, interest: Any, asked: Any, waited: Any
    ) -> tuple[Any, Any]:
        """Scores without the MLP, `(batch, num_items + 1)`, and which histories have an item."""
        scores = self.fused_rows(history, interest, asked, waited)
        return self._or_popular(scores, history)

    def _absent(self):
        """float32 `(num_items + 1,)`: -inf at items that are in no list, 0 elsewhere."""
        low = tf.fill(tf.shape(self.withdrawn), -float("inf"))
        return tf.scatter_nd(self.withdrawn[:, None], low, tf.shape(self.first))

    def _or_popular(self, scores, history):
        """Scores with those of popular items where a history is empty; which ones are not."""
        known = tf.reduce_any(history > 0, axis=1)
        scores = tf.cond(
            tf.reduce_all(known),
            lambda: scores,
            lambda: tf.where(known[:, None], scores, self.popularity[None]),
        )
        return scores, known

    def _best(self, scores, interest, known, k):
        """Top `k`, re-ranked by the MLP where a history is `known (batch,)`."""
        weight = tf.where(known, self.scorer_weight, 0.0)
        return tf.cond(
            self.scorer_weight > 0,
            lambda: rerank(scores, interest, self._vectors, self.scorer, weight, k),
            lambda: graph_top_k(scores, k),
        )

    @tf.function(
        autograph=False,
        input_signature=[
            _ROWS,
            _VECTORS,
            _ROWS,
            tf.TensorSpec((None, None, None), tf.float32),
            tf.TensorSpec((None, None), tf.float32),
            tf.TensorSpec((None,), tf.int32),
            _TIMES,
            _TIMES,
            tf.TensorSpec((), tf.int32),
        ],
    )
    def among_rows(
        self,
        history: Any,
        interest: Any,
        candidates: Any,
        votes: Any,
        totals: Any,
        sample: Any,
        asked: Any,
        waited: Any,
        k: Any,
    ) -> tuple[Any, Any]:
        """Finds the best of a few candidates: index and fused score `(batch, k)`, as
        `recommend_rows`.

        For catalogues in which a pass over all items is dear. The score is the same but for the
        sum of the model's shares over the items that are no candidates, which a sample stands for.

        Args:
            history: `(batch, time)`, whole histories.
            interest: `(batch, dim)`, from `interest_rows`.
            candidates: item indices `(batch, n)`, ascending, none twice, 0 = none.
            votes: `(num_tables, batch, n)`, what the neighbour tables (in the order of their
                names) give the candidates.
            totals: `(num_tables, batch)`, what they give all unseen items.
            sample: item indices `(m,)`, drawn from the catalogue, none twice.
        """
        history = tf.sort(tf.pad(history, [[0, 0], [1, 0]]), axis=1)
        vectors = tf.math.l2_normalize(self._vectors(candidates), axis=-1)  # (batch, n, dim)
        logits = tf.einsum("bd,bnd->bn", interest, vectors) / self.temperature
        highest = tf.reduce_max(logits, axis=1, keepdims=True)
        values = {"model": tf.exp(logits - highest)}
        of_sample = tf.math.l2_normalize(self._vectors(sample), axis=-1)
        others = tf.matmul(interest, of_sample, transpose_b=True) / self.temperature
        total = {
            "model": total_by_sample(
                values["model"],
                tf.exp(others - highest),
                candidates,
                sample,
                history,
                tf.size(self.first) - 1,
            )
        }
        for number, name in enumerate(self.fused_score.memories):
            values[name], total[name] = votes[number], totals[number][:, None]
        scores = self.fused_score.of_candidates(values, total, candidates, history, asked, waited)
        known = tf.reduce_any(history > 0, axis=1)
        scores = tf.where(known[:, None], scores, tf.gather(self.popularity, candidates))
        scores += tf.gather(self._absent(), candidates)
        scores = tf.where(candidates > 0, scores, -float("inf"))
        weight = tf.where(known, self.scorer_weight, 0.0)

        def vectors_of(column):
            return tf.gather(vectors, column, batch_dims=1)

        column, best = tf.cond(
            self.scorer_weight > 0,
            lambda: rerank(scores, interest, vectors_of, self.scorer, weight, k),
            lambda: graph_top_k(scores, k),
        )
        index = tf.gather(candidates, column, batch_dims=1)
        return tf.where(tf.math.is_inf(best), 0, index), best

    @tf.function(input_signature=[_ROWS, _ROWS, _ROWS, _ROWS, _TIMES, _TIMES], autograph=False)
    def score_rows(
        self, history: Any, time_gap: Any, event: Any, candidates: Any, asked: Any, waited: Any
    ) -> Any:
        """Gives the fused score, float32 `(batch, c)`, of candidate item indices; index 0: -inf."""
        interest = self.interest_rows(history, time_gap, event)
        vectors = tf.math.l2_normalize(self._vectors(candidates), axis=-1)
        fused = self.fused_rows(tf.pad(history, [[0, 0], [1, 0]]), interest, asked, waited)
        scores = tf.gather(fused, candidates, batch_dims=1)
        scores += self.scorer_weight * self.scorer([interest, vectors], training=False)
        known = tf.reduce_any(history > 0, axis=1)
        scores = tf.where(known[:, None], scores, tf.gather(self.popularity, candidates))
        return tf.where(candidates > 0, scores, -float("inf"))

    @tf.function(input_signature=[_VECTORS, _ROWS, tf.TensorSpec((), tf.int32)], autograph=False)
    def similar_rows(self, vectors: Any, deny: Any, k: Any) -> tuple[Any, Any]:
        """Finds items near `vectors (batch, dim)` by cosine: index and cosine, `(batch, k)`."""
        scores = self.cosine_rows(tf.math.l2_normalize(vectors, axis=-1))
        scores = exclude(scores, tf.pad(deny, [[0, 0], [1, 0]])) + self._absent()
        index, values = graph_top_k(scores, k)
        nothing = tf.reduce_all(vectors == 0, axis=1)[:, None]
        return tf.where(nothing, 0, index), tf.where(nothing, -float("inf"), values)

    def add_text_functions(self, whitening: Whitening) -> None:
        """Adds the function from text vectors to item vectors; `whitening` as on the catalogue.

        Where the version knows features of items they stand behind the text in the vectors.
        """
        rows, columns = whitening.matrix.shape
        layer = WhiteningLayer(rows, columns, whitening.features, name="whitening")
        layer.build(None)
        layer.set_constants(whitening.mean, whitening.matrix)
        whiten = self._plain_call(layer)
        spec = tf.TensorSpec((None, whitening.matrix.shape[0]), tf.float32)

        def place(text_vectors):
            return self.text_part(whiten(text_vectors))

        self.place_text = tf.function(place, input_signature=[spec], autograph=False)

    def add_encoder(self, encoder: Any, tokenizer: Any = None) -> None:
        """Adds the functions from tokens to item vectors; `encoder` gives what `place_text` takes.

        With a `tokenizer` in the graph (see `text.graphtokenizers`) also the signatures that
        take texts.
        """
        text_encoder = self._plain_call(encoder)
        width = self.place_text.input_signature[0].shape[1]

        def encode(token_ids, segment_ids):
            vectors = text_encoder([token_ids, segment_ids])
            # of a text alone no feature is known
            return self.place_text(tf.pad(vectors, [[0, 0], [0, width - vectors.shape[1]]]))

        self.encode_tokens = tf.function(encode, input_signature=[_ROWS, _ROWS], autograph=False)
        if width > encoder.output_shape[-1]:  # features stand behind the text
            self.read_tokens = tf.function(
                lambda token_ids, segment_ids: text_encoder([token_ids, segment_ids]),
                input_signature=[_ROWS, _ROWS],
                autograph=False,
            )
        if tokenizer is not None:
            self.tokenizer = tokenizer
            spec = tf.TensorSpec((None,), tf.string, name="texts")
            self.encode_items = tf.function(
                self._encode_items, input_signature=[spec], autograph=False
            )
            spec = tf.TensorSpec((None, None), tf.string, name="history_texts")
            self.recommend_by_text = tf.function(
                self._recommend_by_text, input_signature=[spec], autograph=False
            )

    # --- signatures: texts in; only where the encoder and its tokenizer are in the graph ---

    def _encode_items(self, texts):
        """Item vectors of texts, float32 `(batch, dim)`: that of an item added by its text.

        The text part alone speaks; the id part is zero, and so is all of a blank text's vector. A
        text is what the version's template (`text_template` of the manifest) makes of an item.
        """
        return {"vectors": self._vectors_of_texts(texts)}

    def _vectors_of_texts(self, texts):
        dim = self.item_vectors.shape[1]
        return text_vectors(texts, lambda part: self.encode_tokens(*self.tokenizer(part)), dim)

    def _recommend_by_text(self, history_texts):
        """Items for histories of texts, oldest first, which the model may never have seen.

        A text stands for an item that was added by it a moment ago and touched since: it moves the
        interest, while the tables of neighbours know nothing of it; recency is that of the end of
        the log. It is not looked up in the catalogue, so an item of the same title may be listed.
        Blank texts are ignored; popular items answer where a row has no other.
        """
        given = tf.cast(~is_blank(history_texts), tf.int32)
        order = tf.argsort(given, axis=1, stable=True)
        texts = tf.gather(history_texts, order, batch_dims=1)[:, -self.max_length :]
        batch = tf.shape(texts)[0]
        texts = tf.concat([tf.fill([batch, 1], ""), texts], axis=1)[:, -self.max_length :]
        history = tf.cast(~is_blank(texts), tf.int32)  # says only which events are real
        none = tf.zeros_like(history)
        vectors = self._vectors_of_texts(tf.reshape(texts, [-1]))
        vectors = tf.reshape(vectors, [batch, tf.shape(texts)[1], vectors.shape[1]])
        interest = self.interest_model([vectors, history, none, none])
        now = tf.zeros([batch], tf.int64)
        scores = self.fused_rows(none, interest, now, now)
        scores, known = self._or_popular(scores, history)
        scores = exclude(scores, none) + self._absent()
        return self._named(*self._best(scores, interest, known, self.k))

    # --- signatures: item ids in, item ids out ---

    def _index(self, ids):
        return tf.cast(self.index_of_id.lookup(ids) + 1, tf.int32)

    def _history(self, ids):
        """Indices of the known ids, moved to the right end (left-padded)."""
        index = self._index(ids)
        order = tf.argsort(tf.cast(index > 0, tf.int32), axis=1, stable=True)
        return tf.gather(index, order, batch_dims=1), order

    def _named(self, index, scores):
        ids = self.id_of_index.lookup(tf.cast(index, tf.int64) - 1)
        return {"item_ids": ids, "scores": scores}

    def _recommend(self, history, time_gap, allow, deny, keep_seen, asked, waited):
        inputs = (history, time_gap, tf.zeros_like(history), allow, deny, keep_seen, asked, waited)
        return self._named(*self.recommend_rows(*inputs, self.k))

    @tf.function(input_signature=[_IDS], autograph=False)
    def serving_default(self, history: Any) -> dict[str, Any]:
        """Unseen items for histories of item ids, oldest first; `""`, unknown ids are ignored."""
        index, _ = self._history(history)
        batch = tf.shape(index)[0]
        none, now = tf.zeros((batch, 0), tf.int32), tf.zeros([batch], tf.int64)
        kept = tf.fill([batch], False)
        return self._recommend(index, tf.zeros_like(index), none, none, kept, now, now)

    @tf.function(
        autograph=False,
        input_signature=[
            _IDS,
            tf.TensorSpec((None, None), tf.int64, name="timestamps"),
            tf.TensorSpec((None, None), tf.string, name="allow"),
            tf.TensorSpec((None, None), tf.string, name="deny"),
            tf.TensorSpec((None,), tf.bool, name="keep_seen"),
        ],
    )
    def recommend(
        self, history: Any, timestamps: Any, allow: Any, deny: Any, keep_seen: Any
    ) -> dict[str, Any]:
        """The same with times (UTC seconds, 0 = unknown), allow and deny lists, and seen items.

        The newest time of a row, also one beside the id `""`, is when the list is asked for.
        """
        index, gaps, asked, waited = self._timed(history, timestamps)
        wanted, denied = self._wanted(allow), self._index(deny)
        return self._recommend(index, gaps, wanted, denied, keep_seen, asked, waited)

    def _timed(self, history, timestamps):
        """Item indices, buckets of time gaps, the newest time, when a list is asked for, and how
        long after the newest event that is; 0 = unknown.
        """
        index, order = self._history(history)
        times = tf.where(index > 0, tf.gather(timestamps, order, batch_dims=1), 0)
        asked = tf.reduce_max(tf.pad(timestamps, [[0, 0], [1, 0]]), axis=1)
        newest = tf.reduce_max(tf.pad(times, [[0, 0], [1, 0]]), axis=1)
        return index, gap_bucket(times), asked, tf.where(newest > 0, asked - newest, 0)

    def _wanted(self, allow):
        """Item indices of an allow list; one of unknown ids only must not mean "all"."""
        wanted = self._index(allow)
        unknown = tf.reduce_any(allow != "", axis=1) & tf.reduce_all(wanted == 0, axis=1)
        return tf.where(unknown[:, None], -1, wanted)

    @tf.function(input_signature=[_IDS], autograph=False)
    def interest(self, history: Any) -> dict[str, Any]:
        """U, float32 `(batch, dim)`, of unit length; zeros where no id is known."""
        index, _ = self._history(history)
        none = tf.zeros_like(index)
        return {"interest": self.interest_rows(index, none, none)}

    @tf.function(
        input_signature=[_IDS, tf.TensorSpec((None, None), tf.string, name="candidates")],
        autograph=False,
    )
    def score(self, history: Any, candidates: Any) -> dict[str, Any]:
        """Fused score of candidate item ids; -inf for an unknown one."""
        index, _ = self._history(history)
        none, now = tf.zeros_like(index), tf.zeros([tf.shape(index)[0]], tf.int64)
        return {"scores": self.score_rows(index, none, none, self._index(candidates), now, now)}

    @tf.function(input_signature=[_ONE_ID], autograph=False)
    def similar(self, item_ids: Any) -> dict[str, Any]:
        """Items nearest to an item by cosine, without itself."""
        index = self._index(item_ids)
        vectors = self._vectors(index)
        return self._named(*self.similar_rows(vectors, index[:, None], self.k))

    @tf.function(input_signature=[_ONE_ID], autograph=False)
    def vectors_of(self, item_ids: Any) -> dict[str, Any]:
        """Item vectors, float32 `(batch, dim)`; zeros for an unknown id."""
        return {"vectors": self._vectors(self._index(item_ids))}

    def signatures(self) -> dict[str, Any]:
        """Gives the signatures: name -> function."""
        of_ids = {
            "serving_default": self.serving_default,
            "recommend": self.recommend,
            "interest": self.interest,
            "score": self.score,
            "similar": self.similar,
            "item_vectors": self.vectors_of,
        }
        some = ("encode_items", "recommend_by_text", "recommend_for")
        return of_ids | {name: getattr(self, name) for name in some if hasattr(self, name)}


def _table(asset, key_type, value_type, key_default, default):
    """Static table between the lines of the id file and their numbers."""
    whole, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    by_id = key_type == tf.string
    source = tf.lookup.TextFileInitializer(
        asset.asset_path,
        key_type,
        whole if by_id else number,
        value_type,
        number if by_id else whole,
    )
    return tf.lookup.StaticHashTable(source, default)


def gap_bucket(timestamps: Any) -> Any:
    """Computes `histories.gap_buckets` in the graph: int64 `(batch, time)` -> int32, same shape."""
    before = tf.pad(timestamps, [[0, 0], [1, 0]])[:, :-1]
    gap = tf.maximum(timestamps - before, 0)
    starts = tf.constant([2**bucket - 1 for bucket in range(NUM_GAP_BUCKETS)], tf.int64)
    bucket = tf.searchsorted(starts, tf.reshape(gap, [-1]), side="right")
    known = (timestamps > 0) & (before > 0)
    return tf.where(known, tf.reshape(bucket, tf.shape(timestamps)), 0)
