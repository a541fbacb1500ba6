"""`PlanningModule`: a `ServingModule` that also generates plans, lists of items in order."""

from typing import Any

import numpy as np

from kerasrec.backend import tf
from kerasrec.generation.beamsearch import BeamSearch
from kerasrec.generation.generator import Generator
from kerasrec.models.build import Model
from kerasrec.models.codes import make_trie
from kerasrec.models.scoring import NUM_RERANKED, exclude, exclude_all_but, rerank
from kerasrec.versions.graph import ServingModule

#: items of a plan and beams of the search for it, in the signature `generate`
PLAN_ITEMS, BEAMS = 5, 16
#: between the score of the last item that is re-ranked and the best of the others, at least: more
#: than rounding, less than anything that counts
_APART = 1e-3
_ROWS = tf.TensorSpec((None, None), tf.int32)
_FLOATS = tf.TensorSpec((None,), tf.float32)
_INTS = tf.TensorSpec((None,), tf.int32)
#: inputs of `generate_rows`
_OF_ROWS = [
    *[_ROWS] * 5,
    *[tf.TensorSpec((None,), tf.int64)] * 2,
    _ROWS,
    tf.TensorSpec((), tf.float32),
    *[tf.TensorSpec((), tf.int32)] * 2,
    *[_FLOATS] * 2,
    _INTS,
]
#: inputs of the signatures `generate` and `generate_in_order`
_OF_SIGNATURE = [
    tf.TensorSpec((None, None), tf.string, name="history"),
    tf.TensorSpec((None, None), tf.int64, name="timestamps"),
    tf.TensorSpec((None, None), tf.string, name="allow"),
    tf.TensorSpec((None, None), tf.string, name="deny"),
    tf.TensorSpec((None,), tf.float32, name="temperature"),
    tf.TensorSpec((None,), tf.float32, name="top_p"),
    tf.TensorSpec((None,), tf.int32, name="seed"),
]


class PlanningModule(ServingModule):
    """Holds what a version with a generator computes with; see `ServingModule`.

    Args:
        generator: `Generator` of the catalogue.
        others: of `ServingModule`.
    """

    def __init__(
        self,
        model: Model,
        *,
        generator: Generator,
        plan_items: int = PLAN_ITEMS,
        beams: int = BEAMS,
        **others: Any,
    ) -> None:
        super().__init__(model, **others)
        decoder = generator.decoder
        self.planner = BeamSearch(
            decoder,
            make_trie(generator.ids.codes),
            generator.tokens(),
            vectors_of=self._vectors,
            trust=generator.trust,
        )
        self.prior_trust = tf.Variable(float(generator.prior), trainable=False, name="prior_trust")
        longest = int(self.planner.longest.numpy())
        self.plan_items = tf.Variable(min(plan_items, longest), trainable=False, name="items")
        self.beams = tf.Variable(beams, trainable=False, name="beams")

    @tf.function(autograph=False, input_signature=_OF_ROWS)
    def generate_rows(
        self,
        history: Any,
        time_gap: Any,
        event: Any,
        allow: Any,
        deny: Any,
        asked: Any,
        waited: Any,
        earlier: Any,
        diversity: Any,
        num_items: Any,
        beams: Any,
        temperature: Any,
        top_p: Any,
        seed: Any,
    ) -> tuple[Any, Any]:
        """Searches plans of unseen items: index and log p `(batch, beams, num_items)`, likeliest
        first.

        Args:
            history, time_gap, event, allow, deny, asked, waited: as in `recommend_rows`.
            earlier: item indices `(batch, n)` of other plans for the same row; an item that m of
                them hold weighs exp(-diversity * m) of what it would.
            num_items, beams, temperature, top_p, seed: as in `BeamSearch.search`.
        """
        given = (history, time_gap, event, allow, deny, asked, waited, earlier, diversity)
        return self._searched(*given, num_items, beams, (temperature, top_p, seed))

    def _searched(
        self,
        history,
        time_gap,
        event,
        allow,
        deny,
        asked,
        waited,
        earlier,
        diversity,
        num_items,
        beams,
        draws,
        order=None,
    ):
        """As `generate_rows`; `order` as in `BeamSearch.search`."""
        history = tf.pad(history, [[0, 0], [1, 0]])  # never of width 0
        interest = self.interest_rows(history[:, 1:], time_gap, event)
        scores = self.fused_rows(history, interest, asked, waited)
        scores, known = self._or_popular(scores, history)
        scores = exclude(scores, tf.concat([history, deny], axis=1)) + self._absent()
        scores = self._reranked(exclude_all_but(scores, allow), interest, known)
        scores = tf.cast(scores, tf.float64)
        best = tf.reduce_max(scores, axis=1, keepdims=True)
        trust = tf.cast(self.prior_trust, tf.float64)
        may = scores > -float("inf")
        logs = trust * (scores - tf.where(tf.math.is_inf(best), tf.zeros_like(best), best))
        logs -= tf.cast(diversity, tf.float64) * _counts(earlier, tf.shape(scores)[1])
        logs = tf.maximum(logs, -500.0)  # an item far behind weighs little, never nothing
        weights = tf.where(may, tf.exp(logs), 0.0)
        return self.planner.search(history, weights, num_items, beams, draws, order)

    def _reranked(self, scores, interest, known):
        """Scores with the MLP's part in those that `recommend_rows` would re-rank."""

        def with_scorer():
            weight = tf.where(known, self.scorer_weight, 0.0)
            given = (scores, interest, self._vectors, self.scorer, weight)
            index, values = rerank(*given, NUM_RERANKED)
            row = tf.repeat(tf.range(tf.shape(index)[0]), tf.shape(index)[1])
            place = tf.stack([row, tf.reshape(index, [-1])], axis=1)
            # the others stay below, in the order in which `rerank` has them
            others = tf.fill([tf.size(index)], -float("inf"))
            others = tf.tensor_scatter_nd_update(scores, place, others)
            best = tf.reduce_max(others, axis=1, keepdims=True)
            least = tf.where(index > 0, values, float("inf"))
            least = tf.reduce_min(least, axis=1, keepdims=True)
            held = scores - tf.maximum(best - least + _APART, 0.0)
            values = tf.where(index > 0, values, -float("inf"))
            return tf.tensor_scatter_nd_update(held, place, tf.reshape(values, [-1]))

        return tf.cond(self.scorer_weight > 0, with_scorer, lambda: scores)

    @tf.function(autograph=False, input_signature=_OF_SIGNATURE)
    def generate(
        self,
        history: Any,
        timestamps: Any,
        allow: Any,
        deny: Any,
        temperature: Any,
        top_p: Any,
        seed: Any,
    ) -> dict[str, Any]:
        """Lists the items that a user will want next, in order, none of them in the history.

        With a temperature above 0 they are drawn, else searched for. Times, allow and deny lists as
        in `recommend`.
        """
        given = (history, timestamps, allow, deny, temperature, top_p, seed)
        return self._planned(self.generate_rows, *given)

    def _planned(self, find, history, timestamps, allow, deny, temperature, top_p, seed):
        """As `generate`, by `generate_rows` or another function like it."""
        index, gaps, asked, waited = self._timed(history, timestamps)
        plans, logs = find(
            index,
            gaps,
            tf.zeros_like(index),
            self._wanted(allow),
            self._index(deny),
            asked,
            waited,
            index[:, :0],
            0.0,
            self.plan_items,
            self.beams,
            temperature,
            top_p,
            seed,
        )
        named = self._named(plans[:, 0], logs[:, 0])
        return {"item_ids": named["item_ids"], "log_probabilities": named["scores"]}

    def signatures(self) -> dict[str, Any]:
        """Gives the signatures: name -> function."""
        return {**super().signatures(), "generate": self.generate}


class OrderedModule(PlanningModule):
    """Also plans in an order: nothing comes before what it needs.

    Args:
        order: `data.relations.order.Order.table` of the catalogue.
        others: of `PlanningModule`.
    """

    def __init__(self, model: Model, *, order: np.ndarray, **others: Any) -> None:
        super().__init__(model, **others)
        table = np.asarray(order, np.int32)
        self.order = tf.Variable(table, shape=(None, None), trainable=False, name="order")

    @tf.function(autograph=False, input_signature=_OF_ROWS)
    def generate_in_order_rows(
        self,
        history: Any,
        time_gap: Any,
        event: Any,
        allow: Any,
        deny: Any,
        asked: Any,
        waited: Any,
        earlier: Any,
        diversity: Any,
        num_items: Any,
        beams: Any,
        temperature: Any,
        top_p: Any,
        seed: Any,
    ) -> tuple[Any, Any]:
        """Searches as `generate_rows`; an item may come when all it needs is in the history or in
        the plan before it.
        """
        given = (history, time_gap, event, allow, deny, asked, waited, earlier, diversity)
        draws = (temperature, top_p, seed)
        return self._searched(*given, num_items, beams, draws, self.order.read_value())

    @tf.function(autograph=False, input_signature=_OF_SIGNATURE)
    def generate_in_order(
        self,
        history: Any,
        timestamps: Any,
        allow: Any,
        deny: Any,
        temperature: Any,
        top_p: Any,
        seed: Any,
    ) -> dict[str, Any]:
        """Lists as `generate`; nothing comes before what it needs."""
        given = (history, timestamps, allow, deny, temperature, top_p, seed)
        return self._planned(self.generate_in_order_rows, *given)

    def signatures(self) -> dict[str, Any]:
        """Gives the signatures: name -> function."""
        return {**super().signatures(), "generate_in_order": self.generate_in_order}


def _counts(index, num_columns):
    """How often each item is among `index (batch, n)`: float64 `(batch, num_columns)`."""
    batch, width = tf.unstack(tf.shape(index))
    row = tf.repeat(tf.range(batch), width)
    place = tf.stack([row, tf.reshape(index, [-1])], axis=1)
    return tf.scatter_nd(place, tf.ones([batch * width], tf.float64), [batch, num_columns])
