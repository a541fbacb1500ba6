"""Optimizers by name, the learning rate over a run, and `LazyAdam` for large catalogues."""

import math
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from kerasrec.backend import keras, register, tf
from kerasrec.models.optiontypes import check_function

#: types of an optimizer that is made already
OPTIMIZERS = (keras.optimizers.Optimizer, keras.optimizers.legacy.Optimizer)
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


def named_optimizer(name: str, config: dict) -> Any:
    """Makes the optimizer of a name; "adam" is `LazyAdam`.

    Raises:
        ValueError: Keras knows no such name.
    """
    if name.lower() == "adam":
        return LazyAdam(**config)
    try:
        return keras.optimizers.get({"class_name": name, "config": config})
    except ValueError as error:
        raise ValueError(
            "optimizer must be the name of a Keras optimizer, an instance or a callable. "
            f"Received: {name!r}."
        ) from error


def check_optimizer(value: Any) -> Any:
    """The value, where it names, makes or is an optimizer.

    Raises:
        ValueError: it does not.
    """
    if isinstance(value, str):
        named_optimizer(value, {})
    return check_function(value)


#: an optimizer, by its name, ready or as a function that makes one
Optimizer = Annotated[
    Any, PlainValidator(check_optimizer), Field(description="a name or a function")
]


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a cosine down to a tenth of the peak at `total_steps`."""

    def __init__(self, peak: float, warmup_steps: int, total_steps: int):
        self.peak = peak
        # a variable, so that a second run needs no second trace
        self._steps = tf.Variable([0.0, 0.0], trainable=False)
        self.plan(warmup_steps, total_steps)

    def plan(self, warmup_steps: int, total_steps: int) -> None:
        """Takes other numbers of steps."""
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self._steps.assign([warmup_steps, total_steps])

    def __call__(self, step: Any) -> Any:
        """Learning rate at a step."""
        step = tf.cast(step, tf.float32)
        warmup_steps, total_steps = self._steps[0], self._steps[1]
        warm = (step + 1) / tf.maximum(warmup_steps, 1.0)
        share = (step - warmup_steps) / tf.maximum(total_steps - warmup_steps, 1.0)
        cosine = 0.55 + 0.45 * tf.cos(math.pi * tf.clip_by_value(share, 0.0, 1.0))
        return self.peak * tf.minimum(warm, cosine)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }
