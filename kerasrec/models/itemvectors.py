"""Makes item vectors: a text part from the encoder joined with a trainable id part, tied in and
out.

`item_vector = [scale * projection(whitened text) ; id]`. The id part starts at zero and loses whole
rows in training (row dropout), so the text part alone must work: that is what a new item has.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasrec.backend import keras, register, tf, without_autograph
from kerasrec.models.codes import level_offsets

#: length of the text part at the start
TEXT_NORM = 0.5


@register
class StepItems(keras.layers.Layer):
    """Lists the items that one training step touches, and where each of them stands in the list.

    Args:
        num_items: size of the catalogue.
        negatives: "all" (every item), "uniform" (`num_negatives` drawn for the step and shared by
            all positions) or "in_batch" (the targets of the batch).
        num_negatives: for "uniform".
        whole: True lists the catalogue even when only a few items are needed (then no item needs
            to be looked up twice; right for small catalogues with a frozen encoder).

    Call: `[history (batch, time), target (batch, time)]` int32 item indices ->
    `item_index (num_step_items,)`, `history (batch, time)`, `target (batch, time)`,
    `negative (num_negatives,)`; the last three are rows of the first. Row 0 is always padding.
    """

    def __init__(
        self,
        num_items: int,
        negatives: str,
        *,
        num_negatives: int = 1024,
        whole: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_items, self.negatives = num_items, negatives
        self.num_negatives = min(num_negatives, num_items)
        self.whole = whole

    def call(self, inputs: Any) -> Any:
        """See the class."""
        history, target = inputs
        # not a constant: Keras would take a constant int32 vector for a shape
        end = self.num_items + 1 + 0 * tf.size(history)
        if self.negatives == "all":
            negative = tf.range(1, end)
        elif self.negatives == "uniform":
            negative = tf.random.uniform((self.num_negatives,), 1, self.num_items + 1, tf.int32)
        else:
            negative = tf.unique(tf.boolean_mask(target, target > 0)).y
        if self.whole:
            return tf.range(end), history, target, negative
        parts = [tf.reshape(part, [-1]) for part in (history, target, negative)]
        item_index, row = tf.unique(tf.concat([[0], *parts], axis=0))
        sizes = [1, *(tf.size(part) for part in parts)]
        _, history_row, target_row, negative_row = tf.split(row, sizes)
        return (
            item_index,
            tf.reshape(history_row, tf.shape(history)),
            tf.reshape(target_row, tf.shape(target)),
            negative_row,
        )

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        mine = {key: getattr(self, key) for key in ("num_items", "negatives", "whole")}
        return {**super().get_config(), **mine, "num_negatives": self.num_negatives}


@register
class TextTable(keras.layers.Layer):
    """Looks up frozen text vectors: `item_index (n,)` -> `(n, text_dim)`; row 0 is zero."""

    def __init__(self, num_items: int, text_dim: int, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "trainable": False})
        self.num_items, self.text_dim = num_items, text_dim

    def build(self, input_shape: Any) -> None:
        """Creates the table; `set_vectors` fills it."""
        shape = (self.num_items + 1, self.text_dim)
        self.table = self.add_weight("table", shape, initializer="zeros", trainable=False)
        super().build(input_shape)  # or the first call would build, and empty, it again

    def set_vectors(self, vectors: np.ndarray) -> None:
        """Takes `(num_items, text_dim)` vectors, row r for item index r + 1."""
        self.table.assign(np.concatenate([np.zeros((1, self.text_dim), np.float32), vectors]))

    def call(self, item_index: Any) -> Any:
        """See the class."""
        return tf.gather(self.table, item_index)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "num_items": self.num_items, "text_dim": self.text_dim}


@register
class ItemTokens(keras.layers.Layer):
    """Looks up the token ids of the item texts: `item_index (n,)` -> two `(n, max_tokens)`.

    Columns that are padding in every chosen row are cut off, so short titles stay cheap.
    """

    def __init__(self, num_items: int, max_tokens: int, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "trainable": False})
        self.num_items, self.max_tokens = num_items, max_tokens

    def build(self, input_shape: Any) -> None:
        """Creates the table; `set_tokens` fills it."""
        shape = (self.num_items + 1, self.max_tokens)
        options = dict(shape=shape, dtype=tf.int32, initializer="zeros", trainable=False)
        self.token_ids = self.add_weight("token_ids", **options)
        self.segment_ids = self.add_weight("segment_ids", **options)
        super().build(input_shape)

    def set_tokens(self, token_ids: np.ndarray, segment_ids: np.ndarray) -> None:
        """Takes int32 `(num_items, max_tokens)` twice; the padding row takes the first item's."""
        for table, values in ((self.token_ids, token_ids), (self.segment_ids, segment_ids)):
            table.assign(np.concatenate([values[:1], values]))

    def call(self, item_index: Any) -> Any:
        """See the class."""
        token_ids = tf.gather(self.token_ids, item_index)
        used = tf.reduce_max(tf.reduce_sum(tf.cast(token_ids > 0, tf.int32), axis=1))
        return token_ids[:, :used], tf.gather(self.segment_ids, item_index)[:, :used]

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        mine = {"num_items": self.num_items, "max_tokens": self.max_tokens}
        return {**super().get_config(), **mine}


@without_autograph
@keras.utils.register_keras_serializable("kerasrec", "Whitening")
class WhiteningLayer(keras.layers.Layer):
    """Computes `(vectors - mean) @ matrix` with constants fitted on the catalogue; never trained.

    A row of zeros (a text of which nothing is known) stays zero. The last `features` columns are no
    text, see `Whitening`.
    """

    def __init__(self, input_dim: int, text_dim: int, features: int = 0, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "trainable": False})
        self.input_dim, self.text_dim, self.features = input_dim, text_dim, features

    def build(self, input_shape: Any) -> None:
        """Creates the constants; `set_constants` fills them."""
        self.mean = self.add_weight("mean", (self.input_dim,), initializer="zeros", trainable=False)
        shape = (self.input_dim, self.text_dim)
        self.matrix = self.add_weight("matrix", shape, initializer="zeros", trainable=False)
        super().build(input_shape)

    def set_constants(self, mean: np.ndarray, matrix: np.ndarray) -> None:
        """Takes the mean `(input_dim,)` and the matrix `(input_dim, text_dim)`."""
        self.mean.assign(mean)
        self.matrix.assign(matrix)

    def call(self, vectors: Any) -> Any:
        """`(n, input_dim)` -> `(n, text_dim)`."""
        whitened = tf.matmul(vectors - self.mean, self.matrix)
        known = tf.reduce_any(
            vectors[:, : self.input_dim - self.features] != 0, axis=-1, keepdims=True
        )
        if self.features:
            known |= tf.range(self.text_dim) >= self.text_dim - self.features
        return tf.where(known, whitened, tf.zeros_like(whitened))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        mine = {"input_dim": self.input_dim, "text_dim": self.text_dim, "features": self.features}
        return {**super().get_config(), **mine}


@register
class ItemVectors(keras.layers.Layer):
    """Joins the text part and the id part of items.

    Args:
        num_items: size of the catalogue.
        text_units: width of the projected text part; 0 = no text part.
        id_units: width of the id part; 0 = no id part.
        id_dropout: share of id rows set to zero in a training step, and of rows of features.
        features: how many of the last columns of the text are features of the item. They begin
            without a say where there is a text beside them.

    Call: `[text (n, text_dim), item_index (n,)]` -> `(n, text_units + id_units)`. The row of item
    index 0 is zero. `[text]` alone gives the vectors of new items: their id part is zero.
    """

    def __init__(
        self,
        num_items: int,
        *,
        text_units: int,
        id_units: int,
        id_dropout: float = 0.0,
        features: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_items, self.text_units, self.id_units = num_items, text_units, id_units
        self.id_dropout, self.features = id_dropout, features

    def build(self, input_shapes: Any) -> None:
        """Creates the projection of the text part and the id table."""
        if self.text_units:
            self.projection = self.add_weight(
                "projection",
                (input_shapes[0][-1], self.text_units),
                initializer=self._at_the_start,
            )
        if self.id_units:
            # without a text part zeros would leave all items alike for ever
            start = "zeros" if self.text_units else keras.initializers.RandomNormal(stddev=0.02)
            shape = (self.num_items + 1, self.id_units)
            self.id_table = self.add_weight("id_table", shape, initializer=start)

    def _at_the_start(self, shape, dtype=None):
        """Of the projection: without a say for features that stand beside a text."""
        of_text = (shape[0] - self.features) or shape[0]
        known = keras.initializers.Orthogonal()((of_text, shape[1]), dtype)
        return tf.pad(known, [[0, shape[0] - of_text], [0, 0]])

    def call(self, inputs: Any, training: bool | None = False) -> Any:
        """See the class."""
        text, item_index = inputs if len(inputs) == 2 else (inputs[0], None)
        width, features = text.shape[-1] or 1, self.features
        parts = []
        if training and features and self.id_dropout:
            keep = tf.random.uniform((tf.shape(text)[0], 1)) >= self.id_dropout
            text = tf.where(keep | (tf.range(width) < width - features), text, 0.0)
        if self.text_units:
            # whitened rows have norm ~ sqrt(text_dim); at norm 0.5 the id part, which starts at 0,
            # soon has a say in the cosine (at norm 1 it took twice the epochs on caixin-news)
            scale = TEXT_NORM * ((width - features) or width) ** -0.5
            parts.append(tf.matmul(text, self.projection) * scale)
        if self.id_units:
            parts.append(self._id_part(text, item_index, training))
        vectors = tf.concat(parts, axis=-1)
        if item_index is None:
            return vectors
        return tf.where((item_index > 0)[:, None], vectors, 0.0)

    def _id_part(self, text, item_index, training):
        if item_index is None:
            return tf.zeros((tf.shape(text)[0], self.id_units), self.id_table.dtype)
        rows = tf.gather(self.id_table, item_index)
        if training and self.id_dropout and self.text_units:
            keep = tf.random.uniform(tf.shape(item_index)) >= self.id_dropout
            rows = tf.where(keep[:, None], rows, 0.0)
        return rows

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        mine = ("num_items", "text_units", "id_units", "id_dropout", "features")
        return {**super().get_config(), **{key: getattr(self, key) for key in mine}}


@register
class CodePart(keras.layers.Layer):
    """Makes item vectors from semantic ids: the sum of a learned vector for each code of an item.

    What a code learns from one item all items with it have. The dot product of an interest with it
    is a sum of one number per code, so these are parallel heads over the codes (as in RPG, Hou et
    al. 2025) that score the whole catalogue exactly.

    Args:
        num_items: size of the catalogue.
        sizes: values that the code of each level may have.
        units: width.

    Call: `item_index (n,)` -> `(n, units)`; the row of item index 0 is zero, and so is that of an
    item without codes.
    """

    def __init__(self, num_items: int, sizes: Sequence[int], units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_items, self.sizes, self.units = num_items, tuple(sizes), units

    def build(self, input_shape: Any) -> None:
        """Creates the vectors and the table of codes; `set_codes` fills that."""
        start = keras.initializers.RandomNormal(stddev=0.02)
        self.vectors = self.add_weight("vectors", (sum(self.sizes), self.units), initializer=start)
        self.table = self.add_weight(
            "table",
            (self.num_items + 1, len(self.sizes)),
            dtype=tf.int32,
            initializer="zeros",
            trainable=False,
        )
        super().build(input_shape)

    def set_codes(self, codes: np.ndarray) -> None:
        """Takes int32 `(num_items, num_levels)` codes, from 0; -1 = not known."""
        codes = np.where(codes < 0, -1, codes + level_offsets(self.sizes))
        self.table.assign(np.concatenate([np.full_like(codes[:1], -1), codes]))

    def call(self, item_index: Any) -> Any:
        """See the class."""
        vectors = tf.pad(self.vectors, [[1, 0], [0, 0]])  # -1 looks at a row of zeros
        return tf.reduce_sum(tf.gather(vectors, 1 + tf.gather(self.table, item_index)), axis=-2)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        mine = {"num_items": self.num_items, "sizes": self.sizes, "units": self.units}
        return {**super().get_config(), **mine}


@register
class DropKnown(keras.layers.Layer):
    """Leaves a share of the items nothing but their text part in training, as new items have.

    Args:
        text_units: width of the text part, which comes first.
        rate: share of the items.

    Call: item vectors `(n, dim)` -> the same shape.
    """

    def __init__(self, text_units: int, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text_units, self.rate = text_units, rate

    def call(self, vectors: Any, training: bool | None = False) -> Any:
        """See the class."""
        if not training or not self.rate:
            return vectors
        keep = tf.random.uniform((tf.shape(vectors)[0], 1)) >= self.rate
        text = tf.range(tf.shape(vectors)[1]) < self.text_units
        return tf.where(keep | text, vectors, 0.0)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "text_units": self.text_units, "rate": self.rate}
