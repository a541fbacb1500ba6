"""Makes the Keras model of an encoder: pools token states, and chooses the weights that learn."""

import re
from typing import Any

from kerasrec.backend import import_bert4keras, keras, register, tf


@register
class MeanPooling(keras.layers.Layer):
    """Averages the real tokens: `(batch, length, dim) -> (batch, dim)`."""

    def call(self, hidden: Any, mask: Any = None) -> Any:
        """The mean of the rows where the mask is True."""
        if mask is None:
            return tf.reduce_mean(hidden, axis=1)
        weights = tf.cast(mask, hidden.dtype)[:, :, None]  # (batch, length, 1)
        total = tf.maximum(tf.reduce_sum(weights, axis=1), 1.0)
        return tf.reduce_sum(hidden * weights, axis=1) / total  # (batch, dim)

    def compute_mask(self, hidden: Any, mask: Any = None) -> None:
        """No mask: the length is gone."""
        return None


@register
class ClsPooling(keras.layers.Layer):
    """Takes the first token: `(batch, length, dim) -> (batch, dim)`."""

    def call(self, hidden: Any, mask: Any = None) -> Any:
        """The first row of each text."""
        return hidden[:, 0]

    def compute_mask(self, hidden: Any, mask: Any = None) -> None:
        """No mask: the length is gone."""
        return None


@register
class MaxPooling(keras.layers.Layer):
    """Takes the maximum over the real tokens: `(batch, length, dim) -> (batch, dim)`."""

    def call(self, hidden: Any, mask: Any = None) -> Any:
        """The maximum of the rows where the mask is True."""
        if mask is not None:
            hidden = tf.where(mask[:, :, None], hidden, hidden.dtype.min)
        return tf.reduce_max(hidden, axis=1)

    def compute_mask(self, hidden: Any, mask: Any = None) -> None:
        """No mask: the length is gone."""
        return None


@register
class UnitLength(keras.layers.Layer):
    """Divides each row by its Euclidean length; a zero row stays zero."""

    def call(self, vectors: Any) -> Any:
        """Rows of length 1."""
        return tf.math.l2_normalize(vectors, axis=-1, epsilon=1e-24)


POOLINGS: dict[str, Any] = {"mean": MeanPooling, "cls": ClsPooling, "max": MaxPooling}


def build_text_model(transformer: Any, pooling: str) -> Any:
    """Adds pooling to a transformer.

    Args:
        transformer: Keras model `[Input-Token, Input-Segment] -> (batch, length, dim)`.
        pooling: `mean`, `cls` or `max`; with `_l2` behind, the vectors have length 1.

    Returns:
        Keras model `[Input-Token, Input-Segment] -> (batch, dim)`, named `encoder`.
    """
    check_pooling(pooling)
    vectors = POOLINGS[pooling.removesuffix("_l2")](name="pooling")(
        transformer.output
    )  # (batch, dim)
    if pooling.endswith("_l2"):
        vectors = UnitLength(name="unit_length")(vectors)
    return keras.Model(transformer.inputs, vectors, name="encoder")


def check_pooling(pooling: str) -> None:
    """Fails on an unknown pooling, and names the known ones."""
    known = [name + suffix for name in POOLINGS for suffix in ("", "_l2")]
    if pooling not in known:
        raise ValueError(f"pooling must be one of {', '.join(known)}. Received: {pooling!r}.")


ATTENTION_PARTS = ("q_dense", "k_dense", "v_dense", "o_dense")


def set_trainable(model: Any, mode: str | int) -> Any:
    """Chooses which weights learn. Compile the model again afterwards.

    Args:
        model: Keras model of an encoder.
        mode: `"frozen"`, `"all"`, or an int: that many transformer layers counted from the top.

    Returns:
        The same model.

    Raises:
        ValueError: the mode is unknown, or the model has not that many layers of its own (ALBERT
            shares one).
    """
    if mode in ("frozen", "all"):
        model.trainable = True  # or the flags of single layers would not count
        for layer in model.layers:
            layer.trainable = mode == "all" and layer.name != "Embedding-Relative-Position"
        return model
    if not isinstance(mode, int) or isinstance(mode, bool):
        raise ValueError(f'mode must be "frozen", "all" or a number of layers. Received: {mode!r}.')
    numbers = [_layer_number(layer) for layer in model.layers]
    count = max((n for n in numbers if n is not None), default=-1) + 1
    if not 1 <= mode <= count:
        what = f"has {count} layers" if count else "shares its layers (ALBERT)"
        raise ValueError(
            f'This encoder {what}, so {mode} top layers cannot be trained. Use "all" or '
            f"{f'1 to {count}' if count else 'LoRA'}."
        )
    model.trainable = True
    for layer, number in zip(model.layers, numbers, strict=True):
        layer.trainable = number is not None and number >= count - mode
    return model


def _layer_number(layer):
    found = re.match(r"Transformer-(\d+)-", layer.name)
    return int(found.group(1)) if found else None


@register
class LoraDense(keras.layers.Layer):
    """Adds a low-rank part to a frozen dense layer: `dense(x) + (x A B) alpha / rank`.

    LoRA, arXiv 2106.09685. A is random, B is 0: at the start nothing changes.
    """

    def __init__(self, dense: Any, rank: int, alpha: float) -> None:
        super().__init__(name=dense.name + "_lora")
        self.dense = dense
        self.rank, self.scale = rank, alpha / rank
        dim_in, dim_out = dense.kernel.shape
        self.lora_a = self.add_weight(
            name="lora_a",
            shape=(dim_in, rank),
            initializer=keras.initializers.RandomNormal(stddev=1.0 / rank),
        )
        self.lora_b = self.add_weight(name="lora_b", shape=(rank, dim_out), initializer="zeros")
        self.dense.trainable = False
        self.built = True

    def call(self, inputs: Any) -> Any:
        """`(..., dim_in) -> (..., dim_out)`."""
        added = tf.matmul(tf.matmul(inputs, self.lora_a), self.lora_b)
        return self.dense(inputs) + added * self.scale

    def merged(self) -> Any:
        """Writes the addition into the kernel of the dense layer and gives that layer."""
        self.dense.kernel.assign_add(tf.matmul(self.lora_a, self.lora_b) * self.scale)
        return self.dense


def add_lora(model: Any, *, rank: int = 8, alpha: float = 16) -> Any:
    """Puts LoRA on the four dense layers of every attention; only the new matrices learn.

    Works in place: the layers of `model` are exchanged and all other weights frozen. The outputs
    are equal until a step is trained. Compile the model again afterwards; `merge_lora` undoes it
    and keeps what was learned.

    Args:
        model: Keras model of an encoder.
        rank: width of the addition.
        alpha: the addition is scaled by alpha / rank.

    Returns:
        The same model.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1. Received: {rank}.")
    attentions = _attentions(model)
    if not attentions:
        raise ValueError(
            "LoRA needs a model with bert4keras attention layers. Received one without."
        )
    if any(isinstance(layer.q_dense, LoraDense) for layer in attentions):
        raise ValueError("The model has LoRA already. Call merge_lora first.")
    set_trainable(model, "frozen")
    for layer in attentions:
        layer.trainable = True
        for part in ATTENTION_PARTS:
            setattr(layer, part, LoraDense(getattr(layer, part), rank, alpha))
    return _forget_traces(model)


def merge_lora(model: Any) -> Any:
    """Writes the LoRA additions into the kernels and takes the extra matrices away; outputs stay.

    Returns:
        The same model, frozen.
    """
    for layer in _attentions(model):
        for part in ATTENTION_PARTS:
            dense = getattr(layer, part)
            if isinstance(dense, LoraDense):
                setattr(layer, part, dense.merged())
    return _forget_traces(set_trainable(model, "frozen"))


def _attentions(model):
    attention = import_bert4keras().layers.MultiHeadAttention
    return [layer for layer in model.layers if isinstance(layer, attention)]


def _forget_traces(model):
    """Functions that were traced with the old layers must not be used again."""
    model.train_function = model.test_function = model.predict_function = None
    return model
