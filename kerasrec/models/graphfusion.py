"""Computes the fused score in the graph: from what each part gives to one number.

    score(u, i) = prior(t, i) + sum over p of (a_p + b_p * new_i) * log(share_p(u, i) + epsilon)

`FusedScore` brings the parts together, for all items or for a few candidates; `ServingModule` holds
its variables under their names in a version. Core TensorFlow operations only.
"""

from typing import Any

import numpy as np

from kerasrec.backend import tf
from kerasrec.fusion.fusion import POPULAR, Fusion
from kerasrec.fusion.neighbours import NeighbourTable
from kerasrec.fusion.recency import RETURNS
from kerasrec.fusion.weights import TINY, WAITS
from kerasrec.models.scoring import add_columns, ones_but


class Memory(tf.Module):
    """Scores by a neighbour table in the graph, as `NeighbourTable.scores` does.

    Attributes:
        tables: the variables it holds.
    """

    def __init__(self, table: NeighbourTable, name: str) -> None:
        super().__init__(name)
        self.decay = float(table.decay)
        # of any size, so that a later version can have more items in the same graph
        options = dict(shape=(None, None), trainable=False)
        self.neighbours = tf.Variable(table.neighbours, name="neighbours", **options)
        votes = np.where(table.neighbours > 0, table.weights, np.float32(0))
        self.votes = tf.Variable(votes, name="votes", **options)
        self.tables = [self.neighbours, self.votes]

    def call(self, history: Any, num_columns: Any) -> Any:
        """Item indices `(batch, time)`, oldest first, 0 = none -> `(batch, num_columns)`.

        Columns beyond the table are those of added items: nothing votes for them.
        """
        valid = tf.cast(history > 0, tf.float32)
        # age counts the real events behind an event, so padding anywhere changes nothing
        age = tf.cumsum(valid, axis=1, exclusive=True, reverse=True)
        weight = valid * tf.pow(self.decay, age)  # (batch, time)
        batch, num_rows = tf.shape(history)[0], tf.shape(self.neighbours)[0]
        has_row = history < num_rows  # an added item has none
        known, weight = tf.where(has_row, history, 0), tf.where(has_row, weight, 0.0)
        near = tf.gather(self.neighbours, known)  # (batch, time, width)
        votes = tf.gather(self.votes, known) * weight[:, :, None]
        place = near + tf.range(batch)[:, None, None] * num_columns
        flat = [tf.reshape(part, [-1]) for part in (votes, place)]
        total = tf.math.unsorted_segment_sum(*flat, batch * num_columns)
        return tf.nn.relu(tf.reshape(total, (batch, num_columns)))


class Weights:
    """Weighs the parts of a score as a `Fusion` does.

    Which parts there are is in the graph; how much each counts is in variables, so that a later
    version can weigh them otherwise in the same graph.

    Attributes:
        variables: name -> `tf.Variable`; see `weight_values`.
        has_popular: whether what is popular is a part of the mixture.
    """

    def __init__(self, fusion: Fusion) -> None:
        self._names, self._mixed = list(fusion.weights), list(fusion.mixture)
        self.has_popular = POPULAR in self._mixed
        self.variables = {
            name: tf.Variable(value, trainable=False, name=name)
            for name, value in weight_values(fusion).items()
        }

    def logs(
        self, values: dict[str, Any], total: dict[str, Any], waited: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Gives the logarithms of the shares of the parts, up to one number per row.

        Args:
            values: name -> float32 `(batch, n)`, what a part gives each of n items.
            total: name -> float32 `(batch, 1)`, what it gives all unseen items.
            waited: int64 `(batch,)`, seconds since the newest event of the user; 0 = unknown.

        Returns:
            Two dicts, name -> `(batch, n)` and name -> `(batch, 1)`: their difference is
            `log(share + epsilon)`.
        """
        # every pass over the catalogue counts: (share + epsilon) * total takes one, and the
        # logarithm of the total is one number per row
        total = {name: tf.maximum(values, TINY) for name, values in total.items()}
        epsilon, mixture = self.variables["epsilon"], self.variables["mixture"]
        scaled = {name: part + epsilon * total[name] for name, part in values.items()}
        if self._mixed:
            # its parts sum to 1, so epsilon is in it already
            share = tf.gather(mixture, wait_bucket(waited))  # (batch, num_mixed)
            scaled["mixture"] = tf.add_n(
                [
                    scaled[name] * (share[:, i : i + 1] / total[name])
                    for i, name in enumerate(self._mixed)
                ]
            )
            total["mixture"] = tf.ones_like(total["model"])
        logs = {name: tf.math.log(scaled[name]) for name in self._names}
        return logs, {name: tf.math.log(total[name]) for name in self._names}

    def score(self, prior: Any, logs: dict[str, Any], shift: dict[str, Any]) -> Any:
        """Gives the fused score of items with events, `(batch, n)`; `logs`, `shift`: see `logs`."""
        weight = self.variables["part_weights"][:, 0]
        parts = [logs[name] * weight[i] for i, name in enumerate(self._names)]
        return tf.add_n([prior, *parts]) - self._weighted(shift, weight)

    def _weighted(self, of_parts, weight):
        return tf.add_n([of_parts[name] * weight[i] for i, name in enumerate(self._names)])

    def of_new(self, logs: dict[str, Any], shift: dict[str, Any]) -> Any:
        """Gives what an item's score has more while the item is new, `(batch, n)`."""
        more = self.variables["part_weights"][:, 1]
        return self._weighted(logs, more) - self._weighted(shift, more)


class FusedScore:
    """Computes the fused score of the parts of a `Fusion`, without the MLP.

    Attributes:
        memories: name of a neighbour table -> its `Memory`, in the order of the names.
        weights: `Weights`.
        starts, first, prior, popular_at: variables of what is known of recency, see `Fusion`.
    """

    def __init__(self, fusion: Fusion) -> None:
        self.memories = {
            name: Memory(fusion.tables[name], name=name) for name in sorted(fusion.tables)
        }
        self.weights = Weights(fusion)
        # of any size, so that a later version can have more items and other moments
        self.starts = tf.Variable(fusion.starts, shape=(None,), name="starts")
        self.first = tf.Variable(fusion.first, shape=(None,), name="first")
        self.prior = tf.Variable(fusion.prior, shape=(None, None), name="prior")
        popular_at = fusion.popular_at
        if popular_at is None:  # no part of the mixture: nobody looks it up
            popular_at = np.zeros((1, 1, 1), np.float32)
        elif popular_at.ndim == 2:  # of a version of before 2026-12: the same for all kinds
            popular_at = popular_at[None]
        self.popular_at = tf.Variable(popular_at, shape=(None, None, None), name="popular_at")

    def of_all(self, retrieval: Any, history: Any, newest: Any, asked: Any, waited: Any) -> Any:
        """Gives the score of every item, float32 `(batch, num_items + 1)`.

        Args:
            retrieval: what the model gives each item, `(batch, num_items + 1)`.
            history: item indices, `(batch, time)`, 0 = none: what was seen.
            newest: the end of it, which the neighbour tables look at.
            asked: UTC seconds `(batch,)`, 0 = now.
            waited: as for `Weights.logs`.
        """
        num_columns = tf.shape(retrieval)[1]
        parts = {"model": retrieval}
        for name, memory in self.memories.items():
            parts[name] = memory.call(newest, num_columns)
        moment = self._moment(asked)
        if self.weights.has_popular:
            place = tf.stack([self._kind(waited), moment], axis=1)
            parts[POPULAR] = tf.exp(tf.gather_nd(self.popular_at, place))
        unseen = ones_but(history, num_columns)
        total = {
            name: tf.reduce_sum(values * unseen, axis=1, keepdims=True)
            for name, values in parts.items()
        }
        logs, shift = self.weights.logs(parts, total, waited)
        score = self.weights.score(tf.gather(self.prior, moment), logs, shift)
        # only a few columns as a rule: those of items that are new to some row
        column = tf.cast(tf.where(self.first > tf.reduce_min(moment))[:, 0], tf.int32)
        is_new = tf.cast(tf.gather(self.first, column) > moment[:, None], tf.float32)
        chosen = {name: tf.gather(values, column, axis=1) for name, values in logs.items()}
        return add_columns(score, column, self.weights.of_new(chosen, shift) * is_new)

    def of_candidates(
        self,
        values: dict[str, Any],
        total: dict[str, Any],
        candidates: Any,
        history: Any,
        asked: Any,
        waited: Any,
    ) -> Any:
        """Gives the score of a few items, float32 `(batch, n)`.

        Args:
            values, total, waited: as for `Weights.logs`; what is popular is added here.
            candidates: item indices `(batch, n)`.
            history: item indices `(batch, time)`, ascending: what was seen.
            asked: UTC seconds `(batch,)`, 0 = now.
        """
        moment = self._moment(asked)
        if self.weights.has_popular:
            place = self._kind(waited), moment
            seen = seen_share(history, _at(self.popular_at, *place, history))
            values = {**values, POPULAR: tf.exp(_at(self.popular_at, *place, candidates))}
            total = {**total, POPULAR: 1 - seen}
        logs, shift = self.weights.logs(values, total, waited)
        scores = self.weights.score(_at(self.prior, moment, candidates), logs, shift)
        is_new = tf.cast(tf.gather(self.first, candidates) > moment[:, None], tf.float32)
        return scores + self.weights.of_new(logs, shift) * is_new

    def _moment(self, asked):
        """In-graph twin of `recency.Moments.of`: UTC seconds `(batch,)`, 0 = now -> int32."""
        index = tf.maximum(tf.searchsorted(self.starts, asked, side="right") - 1, 0)
        return tf.where(asked > 0, index, tf.size(self.starts) - 1)

    def _kind(self, waited):
        """Kind of each user in `popular_at`, which may know one kind only."""
        return tf.minimum(kind_of_wait(waited), tf.shape(self.popular_at)[0] - 1)


def _at(table, *place_and_columns):
    """Cells `(batch, n)` of a table: a place `(batch,)` on each axis, then columns `(batch, n)`."""
    *place, columns = place_and_columns
    rows = [tf.tile(row[:, None], [1, tf.shape(columns)[1]]) for row in place]
    return tf.gather_nd(table, tf.stack([*rows, columns], axis=2))


def weight_values(fusion: Fusion) -> dict[str, np.ndarray]:
    """Gives the values of the variables of `Weights`: name -> float32 array.

    part_weights: `(num_parts, 2)`, of an item with events, and more while it is new.
    mixture: `(NUM_WAITS, num_mixed)`.  epsilon: `()`.
    """
    return {
        "part_weights": np.array(list(fusion.weights.values()), np.float32),
        "mixture": fusion.mixture_rows().astype(np.float32),
        "epsilon": np.array(fusion.epsilon, np.float32),
    }


def wait_bucket(waited: Any) -> Any:
    """Computes `fusion.weights.wait_buckets` in the graph: int64 `(batch,)` -> int32."""
    bucket = 1 + tf.searchsorted(tf.constant(WAITS, tf.int64), waited, side="right")
    return tf.where(waited > 0, bucket, 0)


def kind_of_wait(waited: Any) -> Any:
    """Computes `fusion.recency.kind_of_wait` in the graph: int64 `(batch,)` -> int32."""
    return tf.searchsorted(tf.constant(RETURNS, tf.int64), waited, side="right")


def seen_share(history: Any, log_share: Any) -> Any:
    """Sums the shares of the items of each history, each item once: float32 `(batch, 1)`.

    Args:
        history: `(batch, time)`, ascending.
        log_share: of these items, `(batch, time)`.
    """
    once = tf.pad(history[:, 1:] > history[:, :-1], [[0, 0], [1, 0]])
    once |= tf.pad(history[:, :1] > 0, [[0, 0], [0, tf.shape(history)[1] - 1]])
    return tf.reduce_sum(tf.where(once, tf.exp(log_share), 0.0), axis=1, keepdims=True)


def total_by_sample(
    of_candidates: Any, of_sample: Any, candidates: Any, sample: Any, history: Any, num_items: Any
) -> Any:
    """Sums over all unseen items: the candidates as they are, the others by a sample.

    Args:
        of_candidates: `(batch, n)`.  of_sample: `(batch, m)`.  candidates, sample: their item
        indices, `(batch, n)` and `(m,)`.  history: `(batch, time)`, ascending.

    Returns:
        float32 `(batch, 1)`.
    """
    unseen = tf.cast((candidates > 0) & ~_is_in(history, candidates), tf.float32)
    rows = tf.tile(sample[None], [tf.shape(history)[0], 1])
    others = tf.cast(~_is_in(history, rows) & ~_is_in(candidates, rows), tf.float32)
    seen = tf.cast(history[:, 1:] > history[:, :-1], tf.float32)  # each item once, never 0
    count = tf.cast(num_items, tf.float32) - tf.reduce_sum(seen, axis=1)
    count = tf.maximum(count - tf.reduce_sum(unseen, axis=1), 0.0)
    drawn = tf.maximum(tf.reduce_sum(others, axis=1), 1.0)
    rest = tf.reduce_sum(of_sample * others, axis=1) * count / drawn
    return (tf.reduce_sum(of_candidates * unseen, axis=1) + rest)[:, None]


def _is_in(ordered, values):
    """Which values `(batch, m)` are in the same row of `ordered` (batch, n >= 1), ascending."""
    place = tf.minimum(tf.searchsorted(ordered, values), tf.shape(ordered)[1] - 1)
    return tf.gather(ordered, place, batch_dims=1) == values
