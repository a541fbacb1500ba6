"""Builds a language model over semantic ids: bert4keras' transformer with its LM mask.

A history is read as one line of tokens, some codes per item, and every code is predicted from all
before it: what a GPT does with words. A token of its own begins the line, so that the first item of
a history is learned too.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kerasrec.backend import import_bert4keras, keras, register, tf, without_autograph
from kerasrec.data.events import EVENT_CODES, PASSIVE_EVENTS
from kerasrec.models.codes import level_offsets
from kerasrec.models.sequencemodels import FreshTruncatedNormal, build_bert4keras

_BertLoss: Any = import_bert4keras().layers.Loss
#: tokens that are no codes: padding and the beginning of a line
PADDING, BEGIN = 0, 1
_FIRST_CODE = 2


class CodeDecoder(NamedTuple):
    """Names the parts of a decoder; they share their layers.

    training: Keras model with the loss inside; the inputs of `Model.training`, of which it looks at
        `history`, `event` and `target` alone.
    transformer: Keras model tokens `(batch, length)` -> states `(batch, length, units)`.
    items: `CodesOfItems` layer, item index `(...)` -> tokens `(..., num_levels)`.
    heads: `CodeHeads` layer.
    config: the options of `build_decoder`, and `max_length`, `num_items`.
    """

    training: Any
    transformer: Any
    items: Any
    heads: Any
    config: dict


@register
class CodesOfItems(keras.layers.Layer):
    """Looks up the codes of items as tokens: item index `(...)` -> int32 `(..., num_levels)`.

    Each level has tokens of its own. Those of item index 0 are padding. Beside them it holds item
    vectors, which the decoder reads.
    """

    def __init__(self, num_items: int, sizes: Sequence[int], dim: int, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "trainable": False})
        self.num_items, self.sizes, self.dim = num_items, tuple(sizes), dim

    @property
    def offsets(self) -> np.ndarray:
        """The token of code 0 of each level, int `(num_levels,)`."""
        return _FIRST_CODE + level_offsets(self.sizes)

    def build(self, input_shape: Any) -> None:
        """Creates the tables; `set_items` fills them."""
        shape = (self.num_items + 1, len(self.sizes))
        options = dict(shape=shape, dtype=tf.int32, initializer="zeros", trainable=False)
        self.table = self.add_weight("table", **options)
        shape = (self.num_items + 1, self.dim)
        self.vectors = self.add_weight("vectors", shape, initializer="zeros", trainable=False)
        super().build(input_shape)

    def set_items(self, codes: np.ndarray, vectors: np.ndarray) -> None:
        """Takes int32 codes `(num_items, num_levels)`, from 0, and vectors `(num_items, dim)`."""
        self.table.assign(np.concatenate([np.zeros_like(codes[:1]), codes + self.offsets]))
        self.vectors.assign(np.concatenate([np.zeros_like(vectors[:1]), vectors]))

    def vectors_of(self, item_index: Any) -> Any:
        """Looks up item vectors `(..., dim)`."""
        return tf.gather(self.vectors, item_index)

    def call(self, item_index: Any) -> Any:
        """See the class."""
        return tf.gather(self.table, item_index)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        mine = {"num_items": self.num_items, "sizes": self.sizes, "dim": self.dim}
        return {**super().get_config(), **mine}


@register
class Line(keras.layers.Layer):
    """Writes the items of a history and the last target one after the other, as a line of tokens.

    Call: `[history, target, event]`, each `(batch, time)` -> tokens `(batch, (time + 1) * levels)`,
    which begin with `BEGIN` and lack the last code; item vectors, see `spread`; and the items
    wanted at each place, int32 `(batch, time + 1)`, 0 where an event is nothing to predict. Padding
    moves behind the items: nothing then looks at it.
    """

    def __init__(self, items: Any, max_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.items, self.max_length = items, max_length

    def call(self, inputs: Any) -> Any:
        """See the class."""
        history, target, event = inputs
        line = tf.concat([history, target[:, -1:]], axis=1)
        before = tf.pad(history, [[0, 0], [1, 0]])[:, :-1]
        first = tf.where((before == 0) & ~_passive(event), history, 0)
        # a row as long as it may be is a window that can begin in the middle of a history
        is_whole = tf.reduce_sum(tf.cast(history > 0, tf.int32), axis=1) < self.max_length
        first = tf.where(is_whole[:, None], first, 0)
        # the target of an event is wanted at the place of the next one
        wanted = tf.pad(target, [[0, 0], [1, 0]]) + tf.pad(first, [[0, 0], [0, 1]])
        line, wanted = align_left(line, wanted)
        tokens = line_of_tokens(self.items(line))[:, :-1]
        vectors = spread(self.items.vectors_of(line), len(self.items.sizes))[:, :-1]
        return tokens, vectors, wanted


def spread(vectors: Any, levels: int) -> Any:
    """Puts item vectors at the places of a line at which the next item begins.

    That is where the last code of an item is read. `(batch, items, dim)` -> `(batch, 1 + items *
    levels, dim)`, zero elsewhere.
    """
    batch, items, dim = tf.unstack(tf.shape(vectors))
    apart = tf.pad(vectors[:, :, None], [[0, 0], [0, 0], [levels - 1, 0], [0, 0]])
    apart = tf.reshape(apart, [batch, items * levels, dim])
    return tf.pad(apart, [[0, 0], [1, 0], [0, 0]])


def _passive(event):
    """bool: the events that nobody chose, by their codes."""
    codes = [EVENT_CODES[name] for name in PASSIVE_EVENTS]
    return tf.reduce_any(event[..., None] == tf.constant(codes), axis=-1)


def align_left(history: Any, *others: Any) -> Any:
    """Moves the padding of left-padded rows behind: `history (batch, time)` decides for all."""
    padding = tf.reduce_sum(tf.cast(tf.cumsum(history, axis=1) == 0, tf.int32), axis=1)
    time = tf.shape(history)[1]
    place = tf.range(time)[None] + padding[:, None]
    inside = place < time
    place = tf.minimum(place, time - 1)
    rows = [
        tf.where(inside, tf.gather(part, place, batch_dims=1), 0) for part in (history, *others)
    ]
    return rows if others else rows[0]


def line_of_tokens(tokens: Any) -> Any:
    """Puts `BEGIN` before tokens `(batch, items, levels)`: `(batch, 1 + items * levels)`."""
    batch = tf.shape(tokens)[0]
    begin = tf.fill([batch, 1], BEGIN)
    return tf.concat([begin, tf.reshape(tokens, [batch, -1])], axis=1)


@register
class CodeHeads(keras.layers.Layer):
    """Predicts the next code: the state against the embeddings of the level's tokens, and a bias.

    Call of `logits(states, level)`: `(..., units)` -> `(..., size of the level)`.
    """

    def __init__(self, embedding: Any, sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embedding, self.sizes = embedding, tuple(sizes)

    def build(self, input_shape: Any) -> None:
        """Creates the biases."""
        self.bias = self.add_weight("bias", (sum(self.sizes),), initializer="zeros")
        super().build(input_shape)

    def logits(self, states: Any, level: int) -> Any:
        """See the class."""
        start = sum(self.sizes[:level])
        end = start + self.sizes[level]
        table = self.embedding.embeddings[_FIRST_CODE + start : _FIRST_CODE + end]
        return tf.tensordot(states, table, [[-1], [1]]) + self.bias[start:end]

    def call(self, states: Any) -> list[Any]:
        """Logits of all levels: states `(batch, items, levels, units)` -> list of arrays."""
        return [self.logits(states[:, :, level], level) for level in range(len(self.sizes))]


@without_autograph
class CodeLoss(_BertLoss):
    """Adds the mean over items of -log p(all codes of the item): a `Loss` layer of bert4keras.

    Inputs: `states (batch, items * levels, units)`, `wanted (batch, items)` item indices.
    """

    def __init__(self, items: Any, heads: Any, **kwargs: Any) -> None:
        super().__init__(output_axis=0, **kwargs)
        self.items, self.heads = items, heads

    def compute_loss(self, inputs: Any, mask: Any = None) -> Any:
        """See the class."""
        states, wanted = inputs
        levels = len(self.heads.sizes)
        place = tf.where(wanted > 0)
        states = tf.reshape(states, [tf.shape(wanted)[0], -1, levels, states.shape[-1]])
        states = tf.gather_nd(states, place)  # (positions, levels, units)
        codes = self.items(tf.gather_nd(wanted, place)) - self.items.offsets
        total = tf.zeros([tf.shape(place)[0]])
        for level, logits in enumerate(self.heads(states[:, None])):
            total += tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=codes[:, level], logits=tf.cast(logits[:, 0], tf.float32)
            )
        return tf.reduce_sum(total) / tf.maximum(tf.cast(tf.size(total), tf.float32), 1.0)


def check_decoder(*, max_items: int = 25, units: int = 128, heads: int = 4, **_: Any) -> None:
    """Raises the ValueError of `build_decoder` where it does not take these options."""
    if max_items < 2:
        raise ValueError(
            f"max_items must be at least 2, one to read and one to generate. Received: {max_items}."
        )
    if units % heads:
        raise ValueError(f"units must be a multiple of heads ({heads}). Received: {units}.")


def build_decoder(
    codes: np.ndarray,
    sizes: Sequence[int],
    vectors: np.ndarray,
    *,
    max_items: int = 25,
    units: int = 128,
    num_blocks: int = 2,
    heads: int = 4,
    dropout: float = 0.2,
    centers: Sequence[np.ndarray | None] | None = None,
) -> CodeDecoder:
    """Builds the decoder.

    Args:
        codes: int32 `(num_items, num_levels)`, semantic ids, from 0.
        sizes: values that each code may have, `(num_levels,)`.
        vectors: float32 `(num_items, dim)`, what else is known of the items; read, not predicted.
        max_items: of a line, those generated included; at least 2.
        units, num_blocks, heads, dropout: of the transformer.
        centers: list with an array `(size, dim)` per level, or None instead of it: where the tokens
            of that level start, turned into `units` columns.

    Returns:
        `CodeDecoder`.

    Raises:
        ValueError: units are no multiple of heads, or a line has no room for a plan.
    """
    check_decoder(max_items=max_items, units=units, heads=heads)
    bert4keras = import_bert4keras()
    bert: Any = bert4keras.models.BERT
    with_mask: Any = bert4keras.models.LM_Mask
    num_items, num_levels = codes.shape
    # Layers
    dim = vectors.shape[1]
    items = CodesOfItems(num_items, sizes, dim, name="codes")
    items.build(None)
    items.set_items(codes, vectors)

    class HistoryGPT(with_mask, bert):
        """BERT that sees what came before in the line, and item vectors beside the tokens."""

        initializer = FreshTruncatedNormal()

        def get_inputs(self):
            given = self.apply(layer=keras.layers.Input, shape=(None, dim), name="Input-Vectors")
            return [*super().get_inputs(), given]

        def apply_embeddings(self, inputs):
            tokens, given = inputs
            given = self.apply(
                given,
                keras.layers.Dense,
                units=units,
                use_bias=False,
                name="Embedding-Vectors",
                kernel_initializer=self.initializer,
            )
            x = self.apply(
                tokens,
                keras.layers.Embedding,
                input_dim=self.vocab_size,
                output_dim=units,
                embeddings_initializer=self.initializer,
                name="Embedding-Token",
            )
            x = self.apply([x, given], keras.layers.Add, name="Embedding-Token-Vectors")
            x = self.apply(
                x,
                bert4keras.layers.PositionEmbedding,
                input_dim=self.max_position,
                output_dim=units,
                embeddings_initializer=self.initializer,
                name="Embedding-Position",
            )
            x = self.apply(
                x, bert4keras.layers.LayerNormalization, epsilon=1e-12, name="Embedding-Norm"
            )
            return self.apply(
                x, keras.layers.Dropout, rate=self.dropout_rate, name="Embedding-Dropout"
            )

    transformer = build_bert4keras(
        HistoryGPT,
        units=units,
        inner_units=2 * units,
        num_blocks=num_blocks,
        heads=heads,
        dropout=dropout,
        max_position=(max_items + 1) * num_levels,
        vocab_size=_FIRST_CODE + sum(sizes),
        name="decoder",
    )
    embedding = transformer.get_layer("Embedding-Token")
    code_heads = CodeHeads(embedding, sizes, name="code_heads")
    # Functional model
    names = ("history", "time_gap", "event", "target")
    events = [keras.Input((None,), name=name, dtype="int32") for name in names]
    history, _, event, target = events
    tokens, given, wanted = Line(items, max_items - 1, name="line")([history, target, event])
    states = transformer([tokens, given])
    outputs = CodeLoss(items, code_heads, name="code_loss")([states, wanted])
    training = keras.Model(events, outputs, name="training")
    if centers is not None:
        _start_from(embedding, centers, sizes)
    config = {
        "num_items": num_items,
        "max_length": max_items - 1,
        "sizes": [int(size) for size in sizes],
        **dict(max_items=max_items, units=units, num_blocks=num_blocks, heads=heads),
        "dropout": dropout,
        "dim": dim,
    }
    return CodeDecoder(training, transformer, items, code_heads, config)


def _start_from(embedding, centers, sizes):
    """Let tokens start as their centres do: near each other where these are."""
    table = embedding.embeddings.numpy()
    units, start = table.shape[1], _FIRST_CODE
    rng = np.random.default_rng(0)
    for size, center in zip(sizes, centers, strict=True):
        if center is not None:
            center = np.where(np.isfinite(center), center, 0)  # a code that is left over
            turned = center @ rng.normal(size=(center.shape[1], units))
            scale = np.sqrt((turned**2).mean())
            table[start : start + size] = 0.02 * turned / max(scale, 1e-9)
        start += size
    embedding.embeddings.assign(table)
