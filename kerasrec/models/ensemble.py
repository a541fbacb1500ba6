"""Averages several seeds of a model into one wider `Model`, which is served like any other.

The mean of the members' scores cosine(U_m, e_m) / T_m, up to a constant per user the logarithm of
the geometric mean of their softmaxes, is one score U . e / T of joined vectors of unit length:

    U = [c_1 U_1, 0, ..., c_M U_M, 0]    with c_m = (1 / T_m) / S and S^2 = sum of 1 / T_m^2
    e = [e_1 / |e_1|, s |e_1|, ..., e_M / |e_M|, s |e_M|] / sqrt(M)    and T = sqrt(M) / S

The sequence model of a member reads e_m itself, so its length is kept in a column behind it, made
so small by s that it changes no cosine.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from kerasrec.backend import keras, tf, without_autograph
from kerasrec.models.build import Model
from kerasrec.models.kerasmodel import HistoryModel

#: s of the module: its square vanishes beside 1 in float32
LENGTH_SCALE = 1e-5


def average_models(models: Sequence[Model]) -> Model:
    """Makes one `Model` whose scores are the means of those of several; see the module.

    Args:
        models: list of `Model`s of the same options, each without an encoder in its graph.

    Returns:
        `Model` with vectors of `len(models) * (dim + 1)` numbers. Its layers are those of the
        members; its training model trains them all in one step. A single model comes back as it is.

    Raises:
        ValueError: no model, options that differ, or an encoder in the graph.
    """
    if not models:
        raise ValueError("average_models needs at least one model. Received: none.")
    first = models[0].config
    differ = {
        key for m in models for key in {*first, *m.config} if m.config.get(key) != first.get(key)
    }
    if differ:
        raise ValueError(
            "average_models needs models of the same options. Received: models that differ in "
            f"{', '.join(sorted(differ))}."
        )
    if len(models) == 1:
        return models[0]
    if models[0].encoder is not None:
        raise ValueError(
            "average_models needs models on ready text vectors. Received: models with an encoder "
            "in the graph. Train them with encoder.mode='frozen'."
        )
    config = {**models[0].config, "members": len(models)}
    loss = MeanLoss([model.loss for model in models])
    # Layers
    training_of = SideBySide([model.training for model in models], name="members")
    interest_of = JoinedInterest([model.interest for model in models], loss.layers, name="interest")
    vectors_of = JoinedVectors([model.item_vectors for model in models], name="item_vectors")
    scorer = MeanScorer([model.scorer for model in models], name="scorer")
    # Functional model
    names = ("history", "time_gap", "event", "target")
    events = [keras.Input((None,), name=name, dtype="int32") for name in names]
    training = HistoryModel(events, training_of(events), name="training")
    index = keras.Input((), name="item_index", dtype="int32")
    item_model = keras.Model(index, vectors_of(index), name="item_model")
    inputs = [keras.Input((None, item_model.output.shape[-1]), name="vectors"), *events[:3]]
    interest = keras.Model(inputs, interest_of(inputs), name="interest_model")
    text_model = None
    if models[0].text_part is not None:
        text = keras.Input(models[0].text_part.input.shape[1:], name="text")
        texts_of = JoinedVectors([model.text_part for model in models], name="text_parts")
        text_model = keras.Model(text, texts_of(text), name="text_part")
    return Model(training, interest, item_model, text_model, None, scorer, loss, config)


class MeanLoss(NamedTuple):
    """Stands for the `InterestLoss` layers of the members."""

    layers: list

    def inverse_temperatures(self) -> Any:
        """1 / T_m, float32 `(num_members,)`."""
        return 1 / tf.stack([layer.temperature() for layer in self.layers])

    def temperature(self) -> Any:
        """The one temperature of the joined vectors."""
        return len(self.layers) ** 0.5 / tf.norm(self.inverse_temperatures())


@without_autograph
class SideBySide(keras.layers.Layer):
    """Runs the same part of every member on the same inputs, outputs side by side: `(n, ...)`.

    In float32, whatever the members compute in.
    """

    def __init__(self, parts: Iterable[Any], **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.parts = list(parts)

    def call(self, inputs: Any) -> Any:
        """See the class."""
        return tf.concat([tf.cast(part(inputs), tf.float32) for part in self.parts], axis=-1)


@without_autograph
class JoinedVectors(SideBySide):
    """Joins the item vectors of the members: `(n, num_members * (dim + 1))`; zero stays zero."""

    def call(self, inputs: Any) -> Any:
        """See the class."""
        blocks = []
        for part in self.parts:
            vectors = tf.cast(part(inputs), tf.float32)
            length = tf.norm(vectors, axis=-1, keepdims=True)
            blocks += [tf.math.l2_normalize(vectors, axis=-1), LENGTH_SCALE * length]
        return tf.concat(blocks, axis=-1) / len(self.parts) ** 0.5


@without_autograph
class JoinedInterest(SideBySide):
    """Joins the interests of the members: `[vectors (b, t, dim), history, ...]` -> `(b, dim)`."""

    def __init__(self, parts: Iterable[Any], loss_layers: Iterable[Any], **kwargs: Any) -> None:
        super().__init__(parts, **kwargs)
        self.loss_layers = list(loss_layers)

    def call(self, inputs: Any) -> Any:
        """See the class."""
        vectors, *events = inputs
        weights = tf.math.l2_normalize(MeanLoss(self.loss_layers).inverse_temperatures())
        joined = []
        for number, block in enumerate(tf.split(vectors, len(self.parts), axis=-1)):
            unit, length = block[..., :-1], block[..., -1:] / LENGTH_SCALE
            own = unit * length * len(self.parts)  # both were divided by the root
            interest = self.parts[number]([own, *events])  # (batch, dim of the member)
            joined.append(tf.pad(weights[number] * interest, [[0, 0], [0, 1]]))
        return tf.concat(joined, axis=-1)


@without_autograph
class MeanScorer(SideBySide):
    """Averages the members' MLPs: `[interest (n, dim), item_vectors (n, m, dim)]` -> `(n, m)`."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """See the class."""
        blocks = [tf.split(vectors, len(self.parts), axis=-1) for vectors in inputs]
        scores = []
        for scorer, *pair in zip(self.parts, *blocks, strict=True):
            unit = [tf.math.l2_normalize(block[..., :-1], axis=-1) for block in pair]
            scores.append(scorer(unit, training=training))
        return tf.add_n(scores) / len(self.parts)
