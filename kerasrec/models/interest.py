"""Makes the interest U: fuses long and short term, projects the states, and adds the loss."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

import numpy as np

from kerasrec.backend import import_bert4keras, keras, register, tf, with_autograph
from kerasrec.models.losses import (
    BIASED,
    INITIAL_BIAS,
    INITIAL_TEMPERATURE,
    LOSSES,
    MIN_TEMPERATURE,
    UNSCALED,
)

_BertLoss: Any = import_bert4keras().layers.Loss
#: how an interest is made of a state, see `Interest`
InterestKind = Annotated[Literal["mf", "gmf"], "option"]
INTERESTS: tuple[str, ...] = get_args(get_args(InterestKind)[0])


@register
class LongShortFusion(keras.layers.Layer):
    """Adds a short- and a long-term memory of the item vectors to the sequence states.

    Each memory is the mean of the events so far, weighted by `decay ** age`, with a learned decay
    (starting at 0.6 and 0.95) and a learned gain. It is the path by which a recent item votes for
    its neighbours without passing through the sequence model.

    Call: `[states (batch, time, dim), vectors (batch, time, dim), valid_mask (batch, time)]` ->
    `(batch, time, dim)`.
    """

    def build(self, input_shapes: Any) -> None:
        """Creates decays (as logits) and gains."""
        dim = input_shapes[0][-1]
        start = keras.initializers.Constant(np.log([0.6 / 0.4, 0.95 / 0.05]))
        self.decay_logits = self.add_weight("decay_logits", (2,), initializer=start)
        self.gains = self.add_weight(
            "gains", (2, dim), initializer=keras.initializers.Constant(0.5)
        )

    def call(self, inputs: Any) -> Any:
        """See the class."""
        states, vectors, valid_mask = inputs
        time = tf.shape(vectors)[1]
        age = tf.cast(tf.range(time)[:, None] - tf.range(time)[None, :], tf.float32)
        valid = tf.cast(valid_mask, tf.float32)[:, None, :]  # (batch, 1, time)
        fused = states
        for number in range(2):
            log_decay = tf.math.log_sigmoid(tf.cast(self.decay_logits[number], tf.float32))
            weights = tf.exp(log_decay * tf.maximum(age, 0.0)) * tf.cast(age >= 0, tf.float32)
            weights = weights[None] * valid  # (batch, time, time)
            total = tf.reduce_sum(weights, axis=2, keepdims=True)
            weights = tf.cast(weights / tf.maximum(total, 1e-9), vectors.dtype)
            gain = tf.cast(self.gains[number], vectors.dtype)
            fused += gain * tf.matmul(weights, vectors)
        return fused


@register
class Interest(keras.layers.Layer):
    """Projects states to interests U of unit length: `(..., dim)` -> `(..., dim)`.

    `mf`: U = W h, so r(u, i) = U . e_i. `gmf`: r(u, i) = w . (U * e_i) (He et al. 2017, NCF); the
    weights w are folded into U: cosine and dot product with item vectors keep their meaning.
    """

    def __init__(self, kind: str = "mf", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if kind not in INTERESTS:
            raise ValueError(f"interest must be one of {', '.join(INTERESTS)}. Received: {kind!r}.")
        self.kind = kind

    def build(self, input_shape: Any) -> None:
        """Creates W (identity at the start) and, for gmf, w (ones)."""
        dim = input_shape[-1]
        self.kernel = self.add_weight("kernel", (dim, dim), initializer="identity")
        if self.kind == "gmf":
            self.gmf = self.add_weight("gmf", (dim,), initializer="ones")

    def call(self, states: Any) -> Any:
        """See the class."""
        interest = tf.tensordot(states, self.kernel, 1)
        if self.kind == "gmf":
            interest = interest * self.gmf
        return tf.math.l2_normalize(tf.cast(interest, tf.float32), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "kind": self.kind}


@register
class InterestLoss(_BertLoss):
    """Adds the training loss of U and returns U unchanged: a `Loss` layer of bert4keras.

    Inputs: `interest (positions, dim)`, `item_vectors (items, dim)`, `positive (positions,)` and
    `negative (negatives,)`, both rows of `item_vectors`.
    """

    def __init__(self, loss: str | Callable[..., Any], num_items: int, **kwargs: Any) -> None:
        kwargs["output_axis"] = 0
        super().__init__(**kwargs)
        self.loss, self.num_items = loss, num_items
        self.loss_function = LOSSES[loss] if isinstance(loss, str) else with_autograph(loss)

    def build(self, input_shapes: Any) -> None:
        """Creates the temperature (as a logarithm) and, for losses that need one, the bias."""
        start = keras.initializers.Constant(np.log(INITIAL_TEMPERATURE))
        self.log_temperature = self.add_weight(
            "log_temperature", (), initializer=start, trainable=self.loss not in UNSCALED
        )
        self.bias = 0.0
        if self.loss in BIASED:
            start = keras.initializers.Constant(INITIAL_BIAS)
            self.bias = self.add_weight("bias", (), initializer=start)

    def temperature(self) -> Any:
        """Gives the temperature: scores are cosine / temperature; 1 for losses on plain cosines."""
        if self.loss in UNSCALED:
            return tf.constant(1.0)
        return tf.exp(tf.maximum(self.log_temperature, MIN_TEMPERATURE))

    def compute_loss(self, inputs: Any, mask: Any = None) -> Any:
        """Gives the mean loss over the positions; 0 when the batch has none."""
        interest, item_vectors, positive, negative = inputs
        unit = tf.math.l2_normalize(tf.cast(item_vectors, tf.float32), axis=-1)
        interest = interest / self.temperature()
        positive_score = tf.reduce_sum(interest * tf.gather(unit, positive), axis=-1)
        negative_score = tf.matmul(interest, tf.gather(unit, negative), transpose_b=True)
        valid_mask = positive[:, None] != negative[None, :]
        positive_score, negative_score = positive_score + self.bias, negative_score + self.bias
        loss = self.loss_function(positive_score, negative_score, valid_mask, self.num_items)
        if loss is None:
            raise ValueError(
                "A loss gives one value per position, (num_positions,). Received: None from "
                f"{self.loss!r}: it returns nothing. End it with a return."
            )
        loss = tf.convert_to_tensor(loss)
        if loss.shape.rank != 1 or not loss.dtype.is_floating:
            raise ValueError(
                "A loss gives one value per position, (num_positions,); their mean is taken "
                f"afterwards. Received: {loss.dtype.name} of shape {loss.shape} from {self.loss!r}."
            )
        count = tf.maximum(tf.cast(tf.size(positive), tf.float32), 1.0)
        return tf.reduce_sum(loss) / count

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        mine = {"loss": self.loss, "num_items": self.num_items}
        return {**super().get_config(), **mine}
