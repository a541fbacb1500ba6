"""Token states -> one vector per text."""

from kerasrec.backend import keras, tf


@keras.utils.register_keras_serializable("kerasrec")
class MeanPooling(keras.layers.Layer):
    """Mean over the real tokens: `(batch, length, dim) -> (batch, dim)`."""

    def call(self, hidden, mask=None):
        """The mean of the rows where the mask is True."""
        if mask is None:
            return tf.reduce_mean(hidden, axis=1)
        weights = tf.cast(mask, hidden.dtype)[:, :, None]  # (batch, length, 1)
        total = tf.maximum(tf.reduce_sum(weights, axis=1), 1.0)
        return tf.reduce_sum(hidden * weights, axis=1) / total  # (batch, dim)

    def compute_mask(self, hidden, mask=None):
        """No mask: the length is gone."""
        return None


@keras.utils.register_keras_serializable("kerasrec")
class ClsPooling(keras.layers.Layer):
    """The first token: `(batch, length, dim) -> (batch, dim)`."""

    def call(self, hidden, mask=None):
        """The first row of each text."""
        return hidden[:, 0]

    def compute_mask(self, hidden, mask=None):
        """No mask: the length is gone."""
        return None


@keras.utils.register_keras_serializable("kerasrec")
class MaxPooling(keras.layers.Layer):
    """Maximum over the real tokens: `(batch, length, dim) -> (batch, dim)`."""

    def call(self, hidden, mask=None):
        """The maximum of the rows where the mask is True."""
        if mask is not None:
            hidden = tf.where(mask[:, :, None], hidden, hidden.dtype.min)
        return tf.reduce_max(hidden, axis=1)

    def compute_mask(self, hidden, mask=None):
        """No mask: the length is gone."""
        return None


@keras.utils.register_keras_serializable("kerasrec")
class UnitLength(keras.layers.Layer):
    """Each row divided by its Euclidean length; a zero row stays zero."""

    def call(self, vectors):
        """Rows of length 1."""
        return tf.math.l2_normalize(vectors, axis=-1, epsilon=1e-24)


POOLINGS = {"mean": MeanPooling, "cls": ClsPooling, "max": MaxPooling}


def build_text_model(transformer, pooling):
    """Add pooling to a transformer.

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


def check_pooling(pooling):
    """Fails on an unknown pooling, and names the known ones."""
    known = [name + suffix for name in POOLINGS for suffix in ("", "_l2")]
    if pooling not in known:
        raise ValueError(f"pooling must be one of {', '.join(known)}. Received: {pooling!r}.")
