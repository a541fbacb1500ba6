"""`LazyAdam`: Adam whose step costs what the step's own items cost, however large the catalogue."""

from typing import Any

from kerasrec.backend import keras, register, tf

#: tables up to this many rows are updated as a whole, exactly as Adam does
DENSE_ROWS = 50_000


@register
class LazyAdam(keras.optimizers.legacy.Adam):
    """Adam (Kingma and Ba 2015) that leaves rows of a large table alone that a step did not use.

    The moments of Keras' Adam decay in all rows at every step, and every row moves: with a table of
    a million ids that is most of the work of a step. Here a row's moments and values change only in
    steps whose gradient names it. Dense gradients, and tables of at most `dense_rows` rows, are
    updated exactly as by `keras.optimizers.legacy.Adam`.

    Args:
        learning_rate: a number or a schedule.
        dense_rows: see above.
        kwargs: for Keras' Adam: `beta_1`, `beta_2`, `epsilon`, `global_clipnorm`, ...

    Raises:
        ValueError: `amsgrad=True`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        *,
        dense_rows: int = DENSE_ROWS,
        name: str = "Adam",
        **kwargs: Any,
    ):
        if kwargs.get("amsgrad"):
            raise ValueError(
                "LazyAdam has no amsgrad. Received: amsgrad=True. Use keras.optimizers.Adam for it."
            )
        super().__init__(learning_rate, name=name, **kwargs)
        self.dense_rows = dense_rows

    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        # Keras has summed the rows of equal index by now
        if var.shape[0] <= self.dense_rows:
            whole = tf.scatter_nd(indices[:, None], grad, tf.cast(tf.shape(var), indices.dtype))
            return self._resource_apply_dense(whole, var, apply_state)
        place = (var.device, var.dtype.base_dtype)
        known = (apply_state or {}).get(place) or self._fallback_apply_state(*place)
        first, second = self.get_slot(var, "m"), self.get_slot(var, "v")
        mean = tf.gather(first, indices) * known["beta_1_t"] + grad * known["one_minus_beta_1_t"]
        square = tf.gather(second, indices) * known["beta_2_t"]
        square += tf.square(grad) * known["one_minus_beta_2_t"]
        moved = known["lr"] * mean / (tf.sqrt(square) + known["epsilon"])
        return tf.group(
            first.scatter_update(tf.IndexedSlices(mean, indices)),
            second.scatter_update(tf.IndexedSlices(square, indices)),
            var.scatter_sub(tf.IndexedSlices(moved, indices)),
        )

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "dense_rows": self.dense_rows}
