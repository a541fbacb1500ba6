"""`HistoryModel`: the training graph as a Keras user takes it: compile, fit, callbacks, own data.

Besides it, what it is fed with (`batches`), what measures it after each epoch (`RankingQuality`),
and its picture (`plot_model`).
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kerasrec.backend import check_process, keras, tf
from kerasrec.data.histories import Histories, make_windows, num_batches, training_batches
from kerasrec.models.validation import Ranker, Validation, ranking_quality

#: inputs of a training graph, each int32 `(batch, time)`
INPUTS = ("history", "time_gap", "event", "target")
_EXPECTED = (
    "A batch is a dict of int32 (batch, time): history, item indices padded with 0 on the left; "
    "target, the next item at each place or 0; and, where there are any, time_gap and event. Or it "
    "is a pair (history, target), where target may also be the one next item, (batch,)."
)


def is_of_keras_3(value: Any) -> bool:
    """Says whether a layer, an optimizer or a callback is one of Keras 3, which goes with no other.

    >>> is_of_keras_3(keras.layers.Dense(1))
    False
    """
    kind = value if isinstance(value, type) else type(value)
    return any(base.__module__.split(".")[0] == "keras" for base in kind.__mro__)


def check_keras_2(*values: Any) -> None:
    """Refuses objects of Keras 3.

    Raises:
        ValueError: one of the values is such an object.
    """
    for value in values:
        if is_of_keras_3(value):
            kind = value if isinstance(value, type) else type(value)
            raise ValueError(
                "kerasrec runs on Keras 2, and its objects go with no others. Received: "
                f"{kind.__name__} of Keras 3. Take it from tf_keras: import tf_keras as keras."
            )


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """Refuses callbacks of Keras 3, and those that would take the worst ranking for the best.

    Keras takes a figure that it does not know for a loss, of which less is better.

    Raises:
        ValueError: one of the callbacks is such a one.
    """
    for callback in callbacks:
        check_keras_2(callback)
        monitor = str(getattr(callback, "monitor", ""))
        is_ranking = any(word in monitor for word in ("ndcg", "recall"))
        is_better = getattr(callback, "monitor_op", None)
        if is_ranking and is_better is not None and is_better(0.0, 1.0):
            raise ValueError(
                f"{type(callback).__name__} takes less of {monitor} for better. More of it is: "
                "make the callback with mode='max'."
            )


class HistoryModel(keras.Model):
    """A Keras functional model with its losses inside, from histories to interests.

    It is compiled with an optimizer alone. A batch may lack `time_gap` and `event`, and may be a
    pair `(history, target)`, see `inputs_of`.
    """

    def compile(
        self, optimizer: Any = "adam", loss: Any = None, metrics: Any = None, **options: Any
    ) -> None:
        """As Keras' own; the loss is in the graph.

        Raises:
            ValueError: a loss or metrics.
        """
        if loss is not None:
            raise ValueError(
                "compile takes no loss: it is in the graph, where it sees the scores of all "
                "candidates. Give it to build_model(loss=...): a name of kerasrec.LOSSES, or a "
                "function of positive, negative, valid_mask and num_items."
            )
        if metrics is not None or options.get("weighted_metrics") is not None:
            raise ValueError(
                "compile takes no metrics: what the graph gives are interests, not predictions. "
                "fit(validation_data=validation), with a Validation, adds val_ndcg@10 and "
                "val_recall@10 to the logs of each epoch."
            )
        check_keras_2(optimizer)
        super().compile(optimizer=optimizer, **options)

    def _assert_compile_was_called(self) -> None:
        """Says what is missing; Keras' own words ask for a loss."""
        if not self._is_compiled:
            raise RuntimeError(
                'The model is not compiled yet: model.compile("adam") comes before fit and '
                "evaluate. It takes an optimizer alone, the loss is in the graph."
            )

    def train_step(self, data: Any) -> Any:
        """One step on a batch in any of the forms of `inputs_of`."""
        return super().train_step((inputs_of(data),))

    def test_step(self, data: Any) -> Any:
        """The loss of a batch in any of the forms of `inputs_of`."""
        return super().test_step((inputs_of(data),))

    def predict(self, *given: Any, **options: Any) -> Any:
        """Refuses: this graph needs the targets.

        Raises:
            ValueError: always, as `compile(loss=)` and `save` do with what this graph cannot hold.
        """
        raise ValueError(
            "The training graph needs the targets, so it predicts nothing. For lists export a "
            "version and load it with kerasrec.Recommender; for interests call Model.interest."
        )

    def save(self, filepath: Any, *given: Any, **options: Any) -> None:
        """As Keras' own, but for the formats .keras and .h5, which cannot hold it.

        Raises:
            ValueError: one of the two formats.
        """
        if str(filepath).endswith((".keras", ".h5", ".hdf5")):
            raise ValueError(
                f"A training graph cannot be saved whole as {filepath}. Save its weights "
                "(save_weights, ModelCheckpoint(..., save_weights_only=True)), or export a "
                "version: kerasrec.export, kerasrec.train(fit=...)."
            )
        super().save(filepath, *given, **options)


def inputs_of(data: Any) -> dict[str, Any]:
    """Makes the four inputs of what a `tf.data.Dataset`, or `fit(x, y)`, gives for a batch.

    Args:
        data: a dict of `INPUTS`, of which `time_gap` and `event` may be missing (then nothing is
            known of them); all four in a list; or a pair of the history, or such a dict, and the
            target. A target `(batch,)` is the item after the whole history.

    Returns:
        dict of `INPUTS`, int32 `(batch, time)`.

    Raises:
        ValueError: anything else.
    """
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        raise ValueError(f"There are no weights of samples here. {_EXPECTED}")
    if isinstance(x, Mapping):
        found = dict(x)
    elif isinstance(x, tuple | list):
        found = dict(zip(INPUTS, x, strict=False)) if len(x) == len(INPUTS) else {}
    else:
        found = {"history": x}
    if y is not None:
        found["target"] = y["target"] if isinstance(y, Mapping) and "target" in y else y
    if not {"history", "target"} <= set(found) <= set(INPUTS):
        raise ValueError(f"{_EXPECTED} Received: {', '.join(map(str, found)) or type(x).__name__}.")
    history, target = (tf.cast(found[name], tf.int32) for name in ("history", "target"))
    if history.shape.rank not in (2, None) or target.shape.rank not in (1, 2, None):
        shapes = f"history {history.shape}, target {target.shape}"
        raise ValueError(f"{_EXPECTED} Received: {shapes}.")
    history = tf.ensure_shape(history, (None, None))
    target = tf.reshape(target, (tf.shape(history)[0], -1))
    missing = tf.shape(history)[1] - tf.shape(target)[1]  # one target is that of the last place
    target = tf.pad(target, [[0, 0], [missing, 0]])
    nothing = tf.zeros_like(history)
    rest = {n: tf.cast(found.get(n, nothing), tf.int32) for n in ("time_gap", "event")}
    return {"history": history, **rest, "target": target}


def check_catalogue(histories: Histories, num_items: int) -> None:
    """Refuses histories with item indices that a model has not: those of a larger catalogue.

    Raises:
        ValueError: see above.
    """
    highest = int(histories.items.max(initial=0))
    if highest > num_items:
        raise ValueError(
            f"Histories must name items of the model, 1 to {num_items}. Received: item {highest}, "
            "so they are of another catalogue. Make them with that of the model: "
            "make_histories(interactions, items)."
        )


def batches(
    histories: Histories,
    *,
    max_length: int,
    batch_size: int = 128,
    seed: int = 0,
    num_items: int | None = None,
) -> Any:
    """Makes the training data of one epoch; each time it is read in another order.

    Args:
        histories: `Histories`.
        max_length: of the model.
        batch_size: histories per step.
        seed: of the order.
        num_items: of the model; None = it is not checked.

    Returns:
        `tf.data.Dataset` of dicts of int32 `(batch, time)`: `INPUTS`.

    Raises:
        ValueError: no `Histories`, those of a larger catalogue, or nobody with two events.
    """
    if not isinstance(histories, Histories):
        raise ValueError(
            "Training data are Histories, as make_histories(interactions, items) gives them, or "
            f"batches of your own. Received: {type(histories).__name__}. A table of events becomes "
            "them by make_histories(read_interactions(table), items)."
        )
    if num_items is not None:
        check_catalogue(histories, num_items)
    windows, number = make_windows(histories, max_length), [0]
    if not len(windows.starts):
        raise ValueError("Training needs at least one user with 2 events. Received: none.")

    def generate():
        number[0] += 1
        yield from training_batches(windows, batch_size=batch_size, seed=(seed, number[0]))

    form = {name: tf.TensorSpec((None, None), tf.int32) for name in INPUTS}
    made = tf.data.Dataset.from_generator(generate, output_signature=form)
    steps = num_batches(windows, batch_size=batch_size)
    return made.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(4)


class RankingQuality(keras.callbacks.Callback):
    """Adds `val_ndcg@10` and `val_recall@10`, of the whole catalogue ranked, to an epoch's logs.

    Args:
        model: `Model`.
        validation: `Validation`.
    """

    def __init__(self, model: Any, validation: Validation) -> None:
        super().__init__()
        self._ranker, self._validation = Ranker(model), validation

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ranks the validation users; the callbacks behind this one see the figures."""
        lists = self._ranker.top(self._validation.histories)
        found = ranking_quality(lists, self._validation)
        if logs is not None:
            logs.update({f"val_{name}": value for name, value in found.items()})


class WatchedFigures(keras.callbacks.Callback):
    """Refuses, at the end of the first epoch, a callback that watches a figure that is not there.

    Keras warns in each epoch instead, and never stops. It comes behind all other callbacks, which
    may add figures of their own.

    Args:
        callbacks: the others.
    """

    def __init__(self, callbacks: Iterable[Any]) -> None:
        super().__init__()
        self._watching = list(callbacks)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compares what is watched with what there is."""
        known = [name for name in (logs or {}) if name != "lr"]
        for one in self._watching:
            watched = getattr(one, "monitor", None)
            is_watching = isinstance(one, _WATCHING) and getattr(one, "save_best_only", True)
            if is_watching and watched not in (logs or {}):
                near = difflib.get_close_matches(str(watched), known, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"{type(one).__name__} watches {watched!r}, which no epoch gives. Known: "
                    f"{', '.join(known)}.{hint} What begins with val_ needs validation_data."
                )


#: callbacks of Keras that do something by a figure of the epoch
_WATCHING = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ReduceLROnPlateau,
)


# --- picture ---


def plot_model(model: Any, to_file: str | Path | None = None) -> Any:
    """Draws the layers of a Keras model and what flows between them, without graphviz.

    Args:
        model: `Model` (its training graph is drawn) or any functional model of Keras.
        to_file: picture to write (.png, .svg, .pdf); None = none.

    Returns:
        `matplotlib.figure.Figure`, which a notebook shows.

    Raises:
        ValueError: a model without a graph of layers.
    """
    check_process()
    model = getattr(model, "training", model) if not isinstance(model, keras.Model) else model
    if not getattr(model, "_nodes_by_depth", None):
        raise ValueError(
            "plot_model draws what build_model gives, or a functional model of Keras. Received: "
            f"{type(model).__name__}."
        )
    from matplotlib.figure import Figure

    rows = _rows_of(model)
    place = {id(layer): (x, -y) for y, row in enumerate(rows) for x, layer in row}
    width = max(x for x, _ in place.values()) - min(x for x, _ in place.values()) + 1
    figure = Figure(figsize=(2.6 * width, 0.75 * len(rows) + 0.5))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for layer, before in _edges_of(model):
        axes.annotate(
            "",
            xy=place[id(layer)],
            xytext=place[id(before)],
            arrowprops={"arrowstyle": "-|>", "color": "0.6", "shrinkA": 14, "shrinkB": 14},
        )
    for row in rows:
        for _, layer in row:
            text = f"{layer.name}\n{type(layer).__name__}"
            box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.3"}
            axes.text(*place[id(layer)], text, ha="center", va="center", fontsize=7, bbox=box)
    xs = [x for x, _ in place.values()]
    axes.set_xlim(min(xs) - 0.6, max(xs) + 0.6)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    if to_file is not None:
        figure.savefig(to_file, dpi=120)
    return figure


def _edges_of(model):
    """Pairs of a layer and one that it reads, each once."""
    nodes = (node for depth in model._nodes_by_depth.values() for node in depth)
    pairs = {
        (id(node.layer), id(before)): (node.layer, before)
        for node in nodes
        for before in {id(n.layer): n.layer for n in node.parent_nodes}.values()
    }
    return list(pairs.values())


def _rows_of(model):
    """Layers from the inputs down, each row a list of `(x, layer)`, below what they read."""
    edges, rank = _edges_of(model), {id(layer): 0 for layer in model.layers}
    for _ in model.layers:
        moved = False
        for layer, before in edges:
            if rank[id(layer)] <= rank[id(before)]:
                rank[id(layer)], moved = rank[id(before)] + 1, True
        if not moved:
            break
    rows: list[list] = [[] for _ in range(max(rank.values()) + 1)]
    for layer in model.layers:
        rows[rank[id(layer)]].append(layer)
    x: dict[int, float] = {}
    placed = []
    for row in rows:
        wish = {
            id(layer): [x[id(b)] for one, b in edges if one is layer and id(b) in x]
            for layer in row
        }
        row = sorted(row, key=lambda one: sum(wish[id(one)]) / max(len(wish[id(one)]), 1))
        middle = (len(row) - 1) / 2
        x |= {id(layer): number - middle for number, layer in enumerate(row)}
        placed.append([(x[id(layer)], layer) for layer in row])
    return placed
