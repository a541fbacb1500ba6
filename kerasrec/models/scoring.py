"""Scores pairs by an MLP, r(u, i) = MLP(U * e_i, U, e_i), and finds the top k under masks."""

from collections.abc import Callable
from typing import Any

from kerasrec.backend import keras, register, tf
from kerasrec.models.sequencemodels import gelu

#: how many retrieved items the scorer looks at
NUM_RERANKED = 100
#: negatives of a position that the scorer trains against, the best retrieved ones
NUM_HARD = 50
#: positions of a step that the scorer trains on; beyond them a sample
MAX_POSITIONS = 64
_BLOCK = 16  # columns of which the best is looked at first


@register
class Scorer(keras.layers.Layer):
    """Corrects the retrieval score by one hidden layer over U * e_i, U and e_i.

    The first layer is split by input, so that U and e_i pass through it once each and only
    U * e_i once per pair.

    Call: `[interest (n, dim), item_vectors (n, m, dim)]` -> `(n, m)`, both of unit length.
    """

    def __init__(self, units: int = 64, *, dropout: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.dropout = units, dropout
        self.drop = keras.layers.Dropout(dropout)

    def build(self, input_shapes: Any) -> None:
        """Creates the kernels; the last one starts at zero, so scoring starts as retrieval."""
        dim = input_shapes[0][-1]
        shape = (dim, self.units)
        self.pair_kernel = self.add_weight("pair_kernel", shape, initializer="glorot_uniform")
        self.user_kernel = self.add_weight("user_kernel", shape, initializer="glorot_uniform")
        self.item_kernel = self.add_weight("item_kernel", shape, initializer="glorot_uniform")
        self.bias = self.add_weight("bias", (self.units,), initializer="zeros")
        self.output_kernel = self.add_weight("output_kernel", (self.units, 1), initializer="zeros")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """See the class."""
        interest, item_vectors = inputs
        scale = item_vectors.shape[-1] ** 0.5  # entries of unit vectors are ~ dim ** -0.5
        pair = tf.tensordot(interest[:, None] * item_vectors * scale**2, self.pair_kernel, 1)
        user = tf.tensordot(interest * scale, self.user_kernel, 1)
        item = tf.tensordot(item_vectors * scale, self.item_kernel, 1)
        hidden = gelu(pair + user[:, None] + item + self.bias)  # (n, m, units)
        hidden = self.drop(hidden, training=training)
        return tf.squeeze(tf.tensordot(hidden, self.output_kernel, 1), -1)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "units": self.units, "dropout": self.dropout}


@register
class ScorerLoss(keras.layers.Layer):
    """Trains the scorer to put the target first in the list that retrieval would hand it.

    Inputs: `interest (positions, dim)`, `item_vectors (items, dim)`, `positive (positions,)`,
    `negative (negatives,)`, `history (batch, time)`, all three rows of item_vectors, and
    `batch_row (positions,)`. Of a step's positions at most `MAX_POSITIONS` are drawn; each is
    scored against its `NUM_HARD` best-retrieved unseen negatives, and counts only if its target
    would be retrieved among them: otherwise the scorer would learn that retrieval is wrong, not
    where. Gradients stop at interest and item vectors: the interest loss alone trains retrieval.
    """

    def __init__(self, scorer: Any, temperature: Callable[[], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scorer, self.temperature = scorer, temperature

    def get_config(self) -> dict[str, Any]:
        """Says what it holds, for Keras' pictures and logs; it cannot be made of that."""
        return {**super().get_config(), "scorer": self.scorer.get_config()}

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Adds the loss and returns the interests unchanged."""
        interest, item_vectors, positive, negative, history, batch_row = inputs
        chosen = tf.random.shuffle(tf.range(tf.size(positive)))[:MAX_POSITIONS]
        target = tf.gather(positive, chosen)[:, None]  # (n, 1)
        seen = tf.gather(history, tf.gather(batch_row, chosen))  # (n, time)
        unit = tf.stop_gradient(tf.math.l2_normalize(tf.cast(item_vectors, tf.float32), axis=-1))
        users = tf.stop_gradient(tf.gather(interest, chosen))
        retrieval = tf.matmul(users, tf.gather(unit, negative), transpose_b=True)
        retrieval = tf.where(target == negative[None, :], -2.0, retrieval)
        count = tf.minimum(NUM_HARD, tf.size(negative))
        hard = tf.gather(negative, tf.math.top_k(retrieval, count).indices)  # (n, NUM_HARD)
        known = tf.reduce_any(hard[:, :, None] == seen[:, None, :], axis=2) | (hard == target)
        candidates = tf.concat([target, hard], axis=1)
        vectors = tf.gather(unit, candidates)  # (n, 1 + NUM_HARD, dim)
        cosine = tf.einsum("nd,nmd->nm", users, vectors)
        retrieved = tf.cast(cosine[:, 0] >= cosine[:, -1], tf.float32)
        fused = cosine / tf.stop_gradient(self.temperature())
        fused += self.scorer([users, vectors], training=training)
        fused = tf.where(tf.pad(known, [[0, 0], [1, 0]]), -1e9, fused)
        labels = tf.zeros(tf.shape(chosen), tf.int32)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, fused) * retrieved
        self.add_loss(tf.reduce_sum(loss) / tf.maximum(tf.reduce_sum(retrieved), 1.0))
        return interest


def exclude(scores: Any, item_index: Any) -> Any:
    """Puts -inf at the given items.

    Args:
        scores: float32, `(batch, num_items + 1)`.
        item_index: int32, `(batch, n)`; 0 (padding) names column 0.
    """
    place = _places(item_index)
    low = tf.fill([tf.shape(place)[0]], -float("inf"))
    return tf.tensor_scatter_nd_update(scores, place, low)


def ones_but(item_index: Any, num_columns: Any) -> Any:
    """Gives float32 `(batch, num_columns)`: 0 at the given items `(batch, n)`, 1 elsewhere."""
    batch = tf.shape(item_index)[0]
    place = tf.reshape(item_index + tf.range(batch)[:, None] * num_columns, [-1])
    # the product of nothing is 1: one pass, and an item may be given twice
    ones = tf.math.unsorted_segment_prod(tf.zeros(tf.shape(place)), place, batch * num_columns)
    return tf.reshape(ones, (batch, num_columns))


def add_columns(scores: Any, column: Any, values: Any) -> Any:
    """Adds values `(batch, n)` to scores `(batch, num_items + 1)` at distinct columns `(n,)`."""
    place = _places(tf.tile(column[None], [tf.shape(values)[0], 1]))
    return tf.tensor_scatter_nd_add(scores, place, tf.reshape(values, [-1]))


def _places(item_index):
    """int32 `(batch * n, 2)`: row and column of every entry of `(batch, n)`."""
    rows = tf.repeat(tf.range(tf.shape(item_index)[0]), tf.shape(item_index)[1])
    return tf.stack([rows, tf.reshape(item_index, [-1])], axis=1)


@tf.function(
    input_signature=[tf.TensorSpec((None, None), tf.float32), tf.TensorSpec((), tf.int32)],
    autograph=False,
)
def graph_top_k(scores: Any, k: Any) -> tuple[Any, Any]:
    """Finds the best `k` columns of every row, or all where there are fewer; ties by smaller index.

    Returns:
        int32 item index and float32 score, both `(batch, k)`; an excluded item (score -inf) has
        index 0.
    """
    k = tf.minimum(k, tf.shape(scores)[1])
    many = tf.shape(scores)[1] >= 2 * _BLOCK * k
    values, index = tf.cond(
        many, lambda: _top_of_many(scores, k), lambda: tuple(tf.math.top_k(scores, k))
    )
    return tf.where(tf.math.is_inf(values), 0, index), values


def _top_of_many(scores, k):
    """What `tf.math.top_k` gives, sooner where there are many columns.

    `tf.math.top_k` keeps a heap of k items, which costs more than reading the scores. The k-th best
    of the maxima of disjoint blocks is no more than the k-th best score; few others reach it, and
    only these are sorted.
    """
    batch, num_columns = tf.unstack(tf.shape(scores))
    blocks = num_columns // _BLOCK
    best = tf.reshape(scores[:, : blocks * _BLOCK], (batch, _BLOCK, blocks))
    best = tf.reduce_max(best, axis=1)  # (batch, blocks), each of _BLOCK columns
    least = tf.raw_ops.NthElement(input=best, n=k - 1, reverse=True)  # (batch,)
    reach = tf.where((scores >= least[:, None]) & (scores > -float("inf")))
    row, column = tf.unstack(tf.cast(reach, tf.int32), axis=1)
    first = tf.searchsorted(row, tf.range(batch))  # rows are in order, columns within them too
    place = tf.stack([row, tf.range(tf.size(row)) - tf.gather(first, row)], axis=1)
    width = tf.maximum(tf.reduce_max(place[:, 1], axis=0) + 1, k)
    values = tf.fill((batch, width), -float("inf"))
    values = tf.tensor_scatter_nd_update(values, place, tf.gather_nd(scores, reach))
    values, order = tf.math.top_k(values, k)
    index = tf.gather(tf.scatter_nd(place, column, (batch, width)), order, batch_dims=1)
    return values, index


def exclude_all_but(scores: Any, item_index: Any) -> Any:
    """Puts -inf everywhere but at the given items; an all-zero row of items changes nothing.

    Args:
        scores: float32, `(batch, num_items + 1)`.
        item_index: int32, `(batch, n)`; 0 = none; -1 = an item that does not exist.
    """

    def restrict():
        place = _places(tf.maximum(item_index, 0))
        ones = tf.ones([tf.shape(place)[0]], tf.int32)
        allowed = tf.scatter_nd(place, ones, tf.shape(scores)) > 0
        free = tf.reduce_all(item_index == 0, axis=1, keepdims=True)
        return tf.where(allowed | free, scores, -float("inf"))

    return tf.cond(tf.reduce_any(item_index != 0), restrict, lambda: scores)


def rerank(
    scores: Any, interest: Any, vectors_of: Callable[[Any], Any], scorer: Any, weight: Any, k: Any
) -> tuple[Any, Any]:
    """Ranks the `NUM_RERANKED` best by `score + weight * MLP`, with the others below; gives k.

    How many are re-ranked does not depend on `k`, so a short list is the start of a long one.

    Args:
        scores: float32, `(batch, num_items + 1)`, -inf = may not be listed.
        interest: float32, `(batch, dim)`.  vectors_of: function of columns `(batch, n)` that gives
        the item vectors `(batch, n, dim)`.  scorer: `Scorer`.  weight: float32, `(batch,)`.

    Returns:
        As `graph_top_k`; behind the re-ranked places the score is held down to that of the last of
        them.
    """
    index, values = graph_top_k(scores, tf.maximum(k, NUM_RERANKED))
    index, rest = index[:, :NUM_RERANKED], index[:, NUM_RERANKED:]
    values, rest_values = values[:, :NUM_RERANKED], values[:, NUM_RERANKED:]
    vectors = tf.math.l2_normalize(vectors_of(index), axis=-1)
    fused = values + weight[:, None] * scorer([interest, vectors], training=False)
    # equal scores stay in the order of the item index, also behind the re-ranking
    place = tf.argsort(index, axis=1, stable=True)
    index, fused = (tf.gather(part, place, batch_dims=1) for part in (index, fused))
    best, order = tf.math.top_k(fused, tf.shape(fused)[1])
    index = tf.gather(index, order, batch_dims=1)
    index = tf.concat([index, rest], axis=1)[:, :k]
    best = tf.concat([best, tf.minimum(rest_values, best[:, -1:])], axis=1)[:, :k]
    return tf.where(tf.math.is_inf(best), 0, index), best
