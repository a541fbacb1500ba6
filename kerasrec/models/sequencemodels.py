"""Builds sequence models: item vectors of a history, oldest first, to one state per event.

Each builder returns a Keras model `[vectors (batch, time, dim), valid_mask (batch, time)]` ->
`states (batch, time, dim)`; state t has seen events 0..t and nothing later. `valid_mask` is True at
real events; histories are padded on the left. One that looks at times has a third input, `time_gap
(batch, time)`: the bucket of the seconds since the event before, as `gap_buckets` makes it, and 0
where it is unknown.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from kerasrec.backend import import_bert4keras, keras, register, tf, without_autograph
from kerasrec.data.histories import NUM_GAP_BUCKETS

layers = keras.layers
#: share of training histories whose times and event types are hidden
UNKNOWN_SHARE = 0.1


@register
def gelu(x: Any) -> Any:
    """As `tf.nn.gelu`, which goes through erfc; erf is faster on a CPU."""
    return 0.5 * x * (1 + tf.math.erf(x * 0.5**0.5))


@register
class WithMask(keras.layers.Layer):
    """Passes `vectors` on with `valid_mask` as their Keras mask: `[vectors, valid_mask]`."""

    def call(self, inputs: Any) -> Any:
        """See the class."""
        return tf.identity(inputs[0])

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The second input."""
        return tf.cast(inputs[1], tf.bool)


@register
class ReversePositions(keras.layers.Layer):
    """Adds a learned position vector counted from the newest event (0 = newest)."""

    def __init__(self, max_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_length = max_length

    def build(self, input_shape: Any) -> None:
        """Creates the position table, oldest position first."""
        shape = (self.max_length, input_shape[-1])
        start = keras.initializers.RandomNormal(stddev=0.02)
        self.positions = self.add_weight("positions", shape, initializer=start)

    def call(self, vectors: Any) -> Any:
        """`(batch, time, dim)` -> the same shape; time may not exceed `max_length`."""
        return vectors + self.positions[self.max_length - tf.shape(vectors)[1] :]

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "max_length": self.max_length}


def _check_heads(dim, heads):
    if dim % heads:
        raise ValueError(
            f"The model width must be a multiple of heads={heads}. Received: {dim}. "
            "Choose another number of heads."
        )


@register
class CausalAttention(keras.layers.Layer):
    """Attends to earlier, real events alone: multi-head self-attention.

    Call: `[vectors (batch, time, dim), valid_mask (batch, time)]` -> `(batch, time, dim)`.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, input_shapes: Any) -> None:
        """Creates the projections."""
        dim = input_shapes[0][-1]
        _check_heads(dim, self.heads)
        self.inward = self.add_weight("inward", (dim, 3 * dim), initializer="glorot_uniform")
        self.outward = self.add_weight("outward", (dim, dim), initializer="glorot_uniform")

    def call(self, inputs: Any) -> Any:
        """See the class."""
        vectors, valid_mask = inputs
        dim = vectors.shape[-1]
        batch, time = tf.unstack(tf.shape(vectors)[:2])
        joined = tf.tensordot(vectors, self.inward, 1)  # (batch, time, 3 * dim)
        joined = tf.reshape(joined, (batch, time, 3, self.heads, dim // self.heads))
        query, key, value = tf.unstack(tf.transpose(joined, (2, 0, 3, 1, 4)))
        logits = tf.matmul(query, key, transpose_b=True) * (dim // self.heads) ** -0.5
        place = tf.range(time)
        visible = (place[None, :] <= place[:, None]) & tf.cast(valid_mask, tf.bool)[:, None, None]
        logits = tf.where(visible, tf.cast(logits, tf.float32), -1e9)
        weights = tf.cast(tf.nn.softmax(logits), value.dtype)  # (batch, heads, time, time)
        states = tf.transpose(tf.matmul(weights, value), (0, 2, 1, 3))
        return tf.tensordot(tf.reshape(states, (batch, time, dim)), self.outward, 1)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "heads": self.heads}


@register
class TimeBetween(keras.layers.Layer):
    """Puts the time between any two events of a history into the buckets of `gap_buckets`.

    Call: `time_gap (batch, time)`, the bucket of the seconds since the event before -> int32
    `(batch, time, time)`: `[b, t, s]` is the bucket of the seconds from event s to a later event t.
    It is 0 where a gap between the two is unknown, and where s is not before t. Each gap counts as
    the middle of its bucket. In training a tenth of the histories loses its times, since a server
    may be asked without them.
    """

    def call(self, time_gap: Any, training: bool | None = False) -> Any:
        """See the class."""
        if training:
            kept = tf.random.uniform((tf.shape(time_gap)[0], 1)) >= UNKNOWN_SHARE
            time_gap = tf.where(kept, time_gap, 0)
        # float64: years and seconds in one sum
        gap = 1.5 * (2.0 ** (tf.cast(time_gap, tf.float64) - 1) - 1)
        since = tf.cumsum(tf.where(time_gap > 0, gap, 0.0), axis=1)
        unknown = tf.cumsum(tf.cast(time_gap == 0, tf.int32), axis=1)
        between = tf.cast(since[:, :, None] - since[:, None], tf.float32)
        bucket = 1 + tf.cast(tf.math.log(tf.maximum(between, 0.0) + 1) / np.log(2.0), tf.int32)
        place = tf.range(tf.shape(time_gap)[1])
        known = unknown[:, :, None] == unknown[:, None]
        known &= place[None, :] < place[:, None]
        return tf.where(known, tf.minimum(bucket, NUM_GAP_BUCKETS), 0)


@register
class TimeBias(keras.layers.Layer):
    """Learns one number per head and bucket of the time between two events.

    Call: int32 `(batch, time, time)`, of `TimeBetween` -> `(batch, heads, time, time)`: zero where
    the time is unknown, and everywhere at the start of training.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, input_shape: Any) -> None:
        """Creates the table, one row per bucket."""
        shape = (NUM_GAP_BUCKETS, self.heads)
        self.table = self.add_weight("table", shape, initializer="zeros")

    def call(self, between: Any) -> Any:
        """See the class."""
        table = tf.pad(tf.cast(self.table, self.compute_dtype), [[1, 0], [0, 0]])
        return tf.transpose(tf.gather(table, between), (0, 3, 1, 2))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "heads": self.heads}


@register
class GatedAttention(keras.layers.Layer):
    """Attends to earlier, real events alone: each by itself, without a softmax, and gated.

    u, v, q, k = silu(x W) and y_t = sum of silu(q_t . k_s + p[t - s] + bias[t, s]) v_s over the
    visible s; the result is (norm(y) * u) W'. Zhai et al. divide y by the number of events, which
    the norm undoes.

    Call: `[vectors (batch, time, dim), valid_mask (batch, time), bias (batch, heads, time, time)]`
    -> `(batch, time, dim)`.
    """

    def __init__(self, heads: int, max_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.max_length = heads, max_length

    def build(self, input_shapes: Any) -> None:
        """Creates the projections and the table p of distances, the nearest first."""
        dim = input_shapes[0][-1]
        _check_heads(dim, self.heads)
        self.inward = self.add_weight("inward", (dim, 4 * dim), initializer="glorot_uniform")
        self.outward = self.add_weight("outward", (dim, dim), initializer="glorot_uniform")
        shape = (self.heads, self.max_length)
        self.distances = self.add_weight("distances", shape, initializer="zeros")
        self.normalize = Normalization(name="normalize")

    def call(self, inputs: Any) -> Any:
        """See the class."""
        vectors, valid_mask, bias = inputs
        dim = vectors.shape[-1]
        batch, time = tf.unstack(tf.shape(vectors)[:2])
        joined = tf.nn.silu(tf.tensordot(vectors, self.inward, 1))  # (batch, time, 4 * dim)
        gate, joined = joined[..., :dim], joined[..., dim:]
        joined = tf.reshape(joined, (batch, time, 3, self.heads, dim // self.heads))
        value, query, key = tf.unstack(tf.transpose(joined, (2, 0, 3, 1, 4)))
        place = tf.range(time)
        distance = place[:, None] - place[None, :]
        visible = (distance >= 0) & tf.cast(valid_mask, tf.bool)[:, None, None]
        logits = tf.matmul(query, key, transpose_b=True) + bias
        distances = tf.cast(self.distances, logits.dtype)
        logits += tf.gather(distances, tf.maximum(distance, 0), axis=1)
        weights = tf.where(visible, tf.nn.silu(logits), tf.zeros_like(logits))
        states = tf.transpose(tf.matmul(weights, value), (0, 2, 1, 3))
        states = self.normalize(tf.reshape(states, (batch, time, dim)))
        return tf.tensordot(states * gate, self.outward, 1)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        mine = {"heads": self.heads, "max_length": self.max_length}
        return {**super().get_config(), **mine}


@register
class Normalization(keras.layers.LayerNormalization):
    """Normalizes the last axis as Keras' layer normalization does, faster on a CPU.

    Keras goes through batch normalization, which is made for few channels and many examples.
    """

    def call(self, inputs: Any) -> Any:
        """`(..., dim)` -> the same shape."""
        values = tf.cast(inputs, tf.float32)
        values -= tf.reduce_mean(values, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(values), axis=-1, keepdims=True)
        values *= tf.math.rsqrt(variance + self.epsilon)
        gain, shift = (tf.cast(part, tf.float32) for part in (self.gamma, self.beta))
        return tf.cast(values * gain + shift, inputs.dtype)


def _inputs(dim):
    return keras.Input((None, dim), name="vectors"), keras.Input((None,), name="valid", dtype=bool)


def build_rnn(
    dim: int, *, max_length: int, num_blocks: int = 1, heads: int = 2, dropout: float = 0.2
) -> Any:
    """Builds `num_blocks` GRU layers, h_t = GRU(h_{t-1}, x_t) (GRU4Rec, Hidasi et al. 2016).

    `heads` has no meaning here; it is taken so that every sequence model has the same options.
    """
    # Layers
    # not layers.GRU: its fused kernel needs padding on the right, and only tracing it costs
    cells = [layers.GRUCell(dim) for _ in range(num_blocks)]
    recurrent = [layers.RNN(cell, return_sequences=True) for cell in cells]
    # Functional model
    vectors, valid = _inputs(dim)
    states = WithMask()([vectors, valid])
    for layer in recurrent:
        states = layers.Dropout(dropout)(layer(states))
    return keras.Model([vectors, valid], states, name="sequence")


def build_transformer(
    dim: int, *, max_length: int, num_blocks: int = 1, heads: int = 2, dropout: float = 0.2
) -> Any:
    """Builds a pre-norm causal transformer with reverse positions (SASRec, Kang, McAuley 2018)."""
    # Layers and functional model
    vectors, valid = _inputs(dim)
    states = ReversePositions(max_length)(vectors)
    for _ in range(num_blocks):
        attended = CausalAttention(heads)([Normalization()(states), valid])
        states = layers.Add()([states, layers.Dropout(dropout)(attended)])
        inner = layers.Dense(4 * dim, gelu)(Normalization()(states))
        inner = layers.Dense(dim)(inner)
        states = layers.Add()([states, layers.Dropout(dropout)(inner)])
    states = Normalization()(states)
    return keras.Model([vectors, valid], states, name="sequence")


def build_hstu(
    dim: int, *, max_length: int, num_blocks: int = 1, heads: int = 2, dropout: float = 0.2
) -> Any:
    """Builds gated attention that knows distances and times (HSTU, Zhai et al. 2024)."""
    # Layers and functional model
    vectors, valid = _inputs(dim)
    time_gap = keras.Input((None,), name="time_gap", dtype="int32")
    between = TimeBetween()(time_gap)
    states = vectors
    for _ in range(num_blocks):
        given = [Normalization()(states), valid, TimeBias(heads)(between)]
        attended = GatedAttention(heads, max_length)(given)
        states = layers.Add()([states, layers.Dropout(dropout)(attended)])
    states = Normalization()(states)
    return keras.Model([vectors, valid, time_gap], states, name="sequence")


@register
class HistoryMask(keras.layers.Layer):
    """Says who sees whom: `valid_mask (batch, time)` -> bool `(batch, time, time)`, True = visible.

    An event sees itself and earlier, real ones. So does a padded slot: bert4keras makes NaN of a
    row that sees nothing.
    """

    def call(self, valid_mask: Any) -> Any:
        """See the class."""
        place = tf.range(tf.shape(valid_mask)[1])
        itself = place[None, :] == place[:, None]
        real = tf.cast(valid_mask, tf.bool)[:, None, :]
        return (place[None, :] <= place[:, None]) & (real | itself)


@register
class FreshTruncatedNormal(keras.initializers.Initializer):
    """Draws BERT's truncated normal anew at every call.

    Keras' own repeats its values, and bert4keras gives one to all the kernels of a layer: query,
    key, value and output would start equal.
    """

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> Any:
        """Values of standard deviation 0.02, cut at two of them."""
        return tf.random.truncated_normal(shape, stddev=0.02, dtype=dtype or tf.float32)


@without_autograph
def build_bert4keras(
    kind: type,
    *,
    units: int,
    inner_units: int,
    num_blocks: int,
    heads: int,
    dropout: float,
    max_position: int,
    vocab_size: int,
    name: str,
) -> Any:
    """Builds a transformer of bert4keras: with GELU, without segments.

    Args:
        kind: a subclass of `bert4keras.models.Transformer`, which says what goes in.
        units: width of the states.
        inner_units: width of the feed-forward layers.
        num_blocks, heads, dropout: of the transformer.
        max_position: length of the longest row.
        vocab_size: number of tokens.
        name: of the Keras model.

    Returns:
        Keras model.
    """
    transformer = kind(
        max_position=max_position,
        segment_vocab_size=0,
        vocab_size=vocab_size,
        hidden_size=units,
        num_hidden_layers=num_blocks,
        num_attention_heads=heads,
        intermediate_size=inner_units,
        hidden_act="gelu",
        dropout_rate=dropout,
        name=name,
    )
    transformer.build()
    return transformer.model


def build_bert(
    dim: int, *, max_length: int, num_blocks: int = 1, heads: int = 2, dropout: float = 0.2
) -> Any:
    """Builds bert4keras' BERT over item vectors, each seeing what came before: BERT(x_0 .. x_t)."""
    models = import_bert4keras().models
    bert: Any = models.BERT

    class HistoryBERT(bert):
        """BERT whose word embeddings are given: item vectors instead of token ids."""

        initializer = FreshTruncatedNormal()

        def get_inputs(self):
            return list(_inputs(dim))

        def apply_embeddings(self, inputs):
            x = ReversePositions(max_length, name="Embedding-Position")(inputs[0])
            return self.apply(x, models.LayerNormalization, epsilon=1e-12, name="Embedding-Norm")

        def compute_attention_bias(self, inputs=None):
            return self.apply(self.inputs[1], HistoryMask, name="Attention-History-Mask")

    return build_bert4keras(
        HistoryBERT,
        units=dim,
        inner_units=4 * dim,
        num_blocks=num_blocks,
        heads=heads,
        dropout=dropout,
        max_position=max_length,
        vocab_size=1,
        name="sequence",
    )


SEQUENCE_MODELS = {
    "rnn": build_rnn,
    "transformer": build_transformer,
    "bert": build_bert,
    "hstu": build_hstu,
}


# --- of the user's own ---
_EXPECTED = (
    "sequence is a name, a Keras layer, or a function that makes one of dim (and of any of "
    "max_length, num_blocks, heads, dropout). The layer's call takes (vectors), (vectors, mask), "
    "(vectors, valid_mask) or (vectors, valid_mask, time_gap), and gives one state per event, "
    "(batch, time, {dim}); of a functional model the inputs are [vectors, valid_mask] and perhaps "
    "time_gap."
)


def own_sequence(given: Any, dim: int, options: dict[str, Any]) -> Any:
    """Makes a sequence model of what a user gives, and checks that no state sees the future.

    Args:
        given: a Keras layer; or a function, or class, that makes one of `dim` and of those of
            `options` that its signature names (a function with `**options` gets all). The layer's
            `call` takes `(vectors)`, `(vectors, mask)` (Keras' mask: True = a real event),
            `(vectors, valid_mask)` or `(vectors, valid_mask, time_gap)`. Of a functional model the
            inputs count: vectors, `valid_mask`, `time_gap`. A layer of another kind that a function
            makes, or a function, gets the list `[vectors, valid_mask]`. A layer that has weights
            already is made anew from its configuration: each model has weights of its own.
        dim: width of the item vectors, and of the states.
        options: `max_length`, `num_blocks`, `heads`, `dropout`.

    Returns:
        Keras model, see the module.

    Raises:
        ValueError: no layer, other states than `(batch, time, dim)`, or states that see what comes
            after them.
    """
    made = given if isinstance(given, layers.Layer) else _made(given, dim, options)
    is_made = made is not given
    if not is_made and given.built:
        made = type(given).from_config(given.get_config())
    if not isinstance(made, layers.Layer) and callable(made) and is_made:
        return made  # a function of the two inputs; what it holds is known when it is called
    if not isinstance(made, layers.Layer):
        raise ValueError(f"{_EXPECTED.format(dim=dim)} Received: {type(made).__name__}.")
    try:
        if len(getattr(made, "inputs", None) or ()) < 2:
            made = _with_inputs(made, dim, is_made=is_made)
        _check_states(made, dim, min(options["max_length"], 6))
    except _BadStates as error:
        raise ValueError(str(error)) from error
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{_EXPECTED.format(dim=dim)} It failed: {reason}") from error
    return made


class _BadStates(ValueError):
    """The states are not what a sequence model gives."""


def _made(make: Callable[..., Any], dim: int, options: dict[str, Any]) -> Any:
    """What a builder makes of dim and of those options that it names."""
    try:
        known = inspect.signature(make).parameters
        takes_all = any(one.kind is one.VAR_KEYWORD for one in known.values())
        takes_all &= not inspect.isclass(make)
        wanted = {name: value for name, value in options.items() if takes_all or name in known}
        inspect.signature(make).bind(dim, **wanted)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_EXPECTED.format(dim=dim)} Received: {make!r} ({error}).") from error
    return make(dim, **wanted)


def _with_inputs(layer: Any, dim: int, *, is_made: bool) -> Any:
    """A model of the inputs that the `call` of a layer takes."""
    vectors, valid = _inputs(dim)
    time_gap = keras.Input((None,), name="time_gap", dtype="int32")
    known = inspect.signature(layer.call).parameters
    given = {"valid_mask": valid, "time_gap": time_gap}
    named = {name: tensor for name, tensor in given.items() if name in known}
    is_plain = "mask" in known or layer.__module__.startswith("tf_keras.") or not is_made
    if named:
        states = layer(vectors, **named)
    elif is_plain:
        states = layer(WithMask()([vectors, valid]))
    else:
        states = layer([vectors, valid])
    inputs = [vectors, valid, *([time_gap] if "time_gap" in named else [])]
    return keras.Model(inputs, states, name="sequence")


def _check_states(model: Any, dim: int, time: int) -> None:
    """Refuse states of another shape, and such as change with what comes after them."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2, time, dim)).astype(np.float32)
    valid = np.ones((2, time), bool)
    valid[0, : time // 3] = False
    rest = [np.ones((2, time), np.int32)] if len(model.inputs) > 2 else []
    states = model([tf.constant(v) for v in (vectors, valid, *rest)], training=False)
    if tuple(states.shape) != (2, time, dim):
        shape = ", ".join(map(str, states.shape[1:]))
        raise _BadStates(
            f"A sequence model gives one state per event, (batch, {time}, {dim}) for {time} "
            f"events of {dim} numbers. Received: (batch, {shape}). The last number is "
            "text_units + id_units; a recurrent layer needs return_sequences=True."
        )
    half = time // 2
    vectors[:, half:] += 1
    changed = model([tf.constant(v) for v in (vectors, valid, *rest)], training=False)
    first, second = (tf.cast(found, tf.float32).numpy()[:, :half] for found in (states, changed))
    if half and not np.allclose(first, second, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise _BadStates(
            "A state may depend on its own event and earlier ones only. Received: a sequence model "
            "whose states change with later events: it would read the answer. Make it causal, as "
            "by Conv1D(padding='causal') or MultiHeadAttention with use_causal_mask=True."
        )
