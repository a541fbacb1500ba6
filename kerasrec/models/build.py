"""`build_model`: chains encoder, item vectors, sequence model, interest and scorer."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import PlainValidator

from kerasrec.backend import check_process, keras, register, tf, with_autograph
from kerasrec.checks import is_whole
from kerasrec.data.events import EVENT_CODES
from kerasrec.data.histories import NUM_GAP_BUCKETS, Histories
from kerasrec.data.interactions import Interactions, Items
from kerasrec.data.tables import is_frame
from kerasrec.models.interest import (
    INTERESTS,
    Interest,
    InterestKind,
    InterestLoss,
    LongShortFusion,
)
from kerasrec.models.itemvectors import (
    CodePart,
    DropKnown,
    ItemTokens,
    ItemVectors,
    StepItems,
    TextTable,
    WhiteningLayer,
)
from kerasrec.models.kerasmodel import (
    HistoryModel,
    RankingQuality,
    WatchedFigures,
    batches,
    check_callbacks,
    check_catalogue,
    check_keras_2,
)
from kerasrec.models.losses import LOSSES, NEGATIVES, check_loss
from kerasrec.models.optiontypes import Count, Flag, NameOf, Share, Whole, shown_plainly
from kerasrec.models.scoring import Scorer, ScorerLoss
from kerasrec.models.sequencemodels import SEQUENCE_MODELS, UNKNOWN_SHARE, own_sequence
from kerasrec.models.validation import Validation

#: a sequence model, by its name or as a function
Sequence = Annotated[str | Callable, PlainValidator(NameOf(SEQUENCE_MODELS))]
#: a loss, by its name or as a function
Loss = Annotated[str | Callable, PlainValidator(NameOf(LOSSES))]
#: up to this many items the default loss is the full softmax, beyond it the sampled one
FULL_SOFTMAX_ITEMS = 4000
#: width of the part of item vectors that comes from codes, about
CODE_UNITS = 64
#: sequence models of kerasrec; a user may add others to the table
_OWN_SEQUENCES = frozenset(SEQUENCE_MODELS)
#: whose layers have no Python control flow over tensors
_KNOWN = ("kerasrec.", "tf_keras.", "bert4keras.")


class Model(NamedTuple):
    """Names the parts of one model; they share their layers.

    training: Keras model with the losses inside; inputs `history`, `time_gap`, `event`, `target`,
        each int32 `(batch, time)`.
    interest: Keras model `[vectors (batch, time, dim), history, time_gap, event]` -> U
        `(batch, dim)`; ends before the loss, so it needs no target.
    item_vectors: Keras model `item_index (n,)` -> `(n, dim)`.
    text_part: Keras model `text (n, text_dim)` -> `(n, dim)`, the vector of an item without an id
        part (a new item).
    encoder: Keras model tokens -> text vector (whitened), or None where no encoder is in the graph.
    scorer: `Scorer` layer.  loss: `InterestLoss` layer.  config: the options, as resolved.

    An average of several models (`ensemble`) has the same parts and one more option, `members`.

    `training` is a Keras model, and `compile`, `fit`, `evaluate`, `summary`, `save_weights` and
    `load_weights` of this are those of it. The other parts learn along with it: they share its
    layers.
    """

    training: Any
    interest: Any
    item_vectors: Any
    text_part: Any
    encoder: Any
    scorer: Any
    loss: Any
    config: dict

    def __repr__(self):
        names = (self.config["sequence"], self.config["loss"])
        of = ", ".join(
            n if isinstance(n, str) else getattr(n, "__name__", type(n).__name__) for n in names
        )
        count = f"{self.training.count_params():,} weights"
        return f"Model({self.config['num_items']:,} items, {of}, {count})"

    @property
    def keras_model(self) -> Any:
        """The Keras model that is trained: `training`."""
        return self.training

    def compile(self, optimizer: Any = "adam", **options: Any) -> None:
        """As a Keras model's, without loss and metrics: the losses are in the graph.

        Args:
            optimizer: name, or optimizer of Keras 2.
            options: the other ones of Keras: `run_eagerly`, `jit_compile`, ...
        """
        self.training.compile(optimizer=optimizer, **options)

    def batches(self, histories: Histories, *, batch_size: int = 128, seed: int = 0) -> Any:
        """Makes a `tf.data.Dataset` of one epoch, in another order each time it is read.

        Args:
            histories: `Histories`, as `make_histories` gives them.
            batch_size: histories per step.
            seed: of the order.
        """
        options: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
        options["num_items"] = self.config["num_items"]
        return batches(histories, max_length=self.config["max_length"], **options)

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = None,
        validation_data: Any = None,
        callbacks: Any = None,
        **options: Any,
    ) -> Any:
        """Trains as a Keras model does, and returns Keras' `History`.

        Args:
            x: `Histories`, or batches of one's own as `kerasmodel.inputs_of` takes them: a
                `tf.data.Dataset`, or arrays.
            y: the target where x are arrays of histories alone.
            batch_size: rows per step of `Histories` (default 128) and of arrays.
            validation_data: the same as x, to know `val_loss`; or a `Validation`
                (`hold_out_last`), which adds `val_ndcg@10` and `val_recall@10` to the logs.
            callbacks: list of Keras callbacks. To stop by the ranking take
                `EarlyStopping("val_ndcg@10", mode="max", restore_best_weights=True)`.
            options: the other ones of Keras' `fit`: `epochs`, `verbose`, ...
        """
        callbacks = list(callbacks or [])
        check_callbacks(callbacks)
        if "validation_freq" not in options:  # else some epochs lack what is watched
            callbacks.append(WatchedFigures(callbacks))
        if isinstance(validation_data, Validation):
            check_catalogue(validation_data.histories, self.config["num_items"])
            callbacks.insert(0, RankingQuality(self, validation_data))
            validation_data = None
        x, batch_size = self._fed(x, batch_size)
        return self.training.fit(
            x,
            y,
            batch_size=batch_size,
            validation_data=self._fed(validation_data, None)[0],
            callbacks=callbacks,
            **options,
        )

    def evaluate(self, x: Any, y: Any = None, **options: Any) -> Any:
        """Measures the loss on data of the forms of `fit`, as a Keras model does."""
        x, batch_size = self._fed(x, options.pop("batch_size", None))
        return self.training.evaluate(x, y, batch_size=batch_size, **options)

    def _fed(self, data, batch_size):
        """`Histories` become a dataset, which has its own batch size; other data stay."""
        if isinstance(data, Histories | Interactions | Items) or is_frame(data):
            return self.batches(data, batch_size=batch_size or 128), None
        return data, batch_size

    def summary(self, **options: Any) -> None:
        """Prints the layers, as a Keras model does."""
        self.training.summary(**options)

    def save_weights(self, filepath: Any, **options: Any) -> Any:
        """Writes the weights, as a Keras model does."""
        return self.training.save_weights(filepath, **options)

    def load_weights(self, filepath: Any, **options: Any) -> Any:
        """Reads the weights, as a Keras model does."""
        return self.training.load_weights(filepath, **options)


@register
class PackPositions(keras.layers.Layer):
    """Keeps the positions with a target.

    Call: `[states (batch, time, dim), target (batch, time)]` -> `states (positions, dim)`,
    `target (positions,)`, `batch_row (positions,)`.
    """

    def call(self, inputs: Any) -> Any:
        """See the class."""
        states, target = inputs
        place = tf.where(target > 0)
        return tf.gather_nd(states, place), tf.gather_nd(target, place), place[:, 0]


@register
class EventFeatures(keras.layers.Layer):
    """Adds what is known of each event besides its item: the time gap before it and its type.

    Call: `[vectors (b, t, d), time_gap (b, t), event (b, t)]` -> `(b, t, d)`. An unknown gap or
    event (0) adds nothing; both tables start at zero. In training a tenth of the histories loses
    its gaps and types, since a server may be asked without them.
    """

    def __init__(self, *, time_gaps: bool, events: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.time_gaps, self.events = time_gaps, events

    def build(self, input_shapes: Any) -> None:
        """Creates one table per feature in use."""
        dim = input_shapes[0][-1]
        if self.time_gaps:
            shape = (NUM_GAP_BUCKETS + 1, dim)
            self.gap_table = self.add_weight("gap_table", shape, initializer="zeros")
        if self.events:
            shape = (len(EVENT_CODES) + 1, dim)
            self.event_table = self.add_weight("event_table", shape, initializer="zeros")

    def call(self, inputs: Any, training: bool | None = False) -> Any:
        """See the class."""
        vectors, time_gap, event = inputs
        if training:
            kept = tf.random.uniform((tf.shape(time_gap)[0], 1)) >= UNKNOWN_SHARE
            time_gap, event = (tf.where(kept, code, 0) for code in (time_gap, event))
        for use, name, code in (
            (self.time_gaps, "gap_table", time_gap),
            (self.events, "event_table", event),
        ):
            if use:
                known = tf.cast(code > 0, vectors.dtype)[..., None]
                vectors += tf.cast(tf.gather(getattr(self, name), code), vectors.dtype) * known
        return vectors

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        mine = {"time_gaps": self.time_gaps, "events": self.events}
        return {**super().get_config(), **mine}


class TextEncoder(NamedTuple):
    """Puts an encoder inside the graph, for `build_model(text=...)`: gradients reach the encoder.

    model: Keras model `[token_ids, segment_ids]` -> `(n, dim)`.
    token_ids, segment_ids: int32, `(num_items, max_tokens)`.
    whitening: object with `mean (dim,)`, `matrix (dim, text_dim)` and `features`: how many of the
        last columns of both are features of items, not of the text.
    features: float32 `(num_items, features)`, as the whitening takes them; None = none.
    """

    model: Any
    token_ids: np.ndarray
    segment_ids: np.ndarray
    whitening: Any
    features: np.ndarray | None = None


@shown_plainly
def build_model(
    num_items: int,
    *,
    text: Any = None,
    features: int = 0,
    codes: Any = None,
    code_sizes: Any = None,
    code_units: int | None = None,
    sequence: Sequence = "transformer",
    interest: InterestKind = "mf",
    loss: Loss | None = None,
    text_units: Whole = 64,
    id_units: Whole = 64,
    max_length: Count = 50,
    num_blocks: Count = 1,
    heads: Count = 2,
    dropout: Share = 0.3,
    input_dropout: Share = 0.4,
    id_dropout: Share = 0.05,
    num_negatives: Count = 1024,
    scorer_units: Count = 64,
    residual: Flag = True,
    time_gaps: Flag = False,
    events: Flag = False,
) -> Model:
    """Builds the whole chain as one Keras functional graph.

    A loss of one's own is a function that stands where a name does. It takes four arguments (see
    `kerasrec.models.losses`) and gives one value per position. In `train` the same function goes
    into the options: `options={"model": {"loss": far_apart}}`.

    >>> def far_apart(positive, negative, valid_mask, num_items):
    ...     margin = tf.nn.relu(1 + negative - positive[:, None])
    ...     return tf.reduce_sum(tf.where(valid_mask, margin, 0.0), axis=1)
    >>> build_model(50, loss=far_apart, id_units=8).config["loss"].__name__
    'far_apart'

    Args:
        num_items: size of the catalogue; item indices are 1..num_items.
        text: float32 `(num_items, text_dim)` ready (whitened) text vectors for a frozen encoder, a
            `TextEncoder` for one that learns, or None for items known by their id alone.
        features: how many of the last columns of the text vectors are features of the items. They
            are dropped by rows in training as ids are, and count for nothing at the start.
        codes: int32 `(num_items, num_levels)`, from `fit_product_codes` or `SemanticIds.codes`: a
            third part of the item vectors, and with text_units and id_units 0 all of them; -1 = not
            known, None = no such part. That of a new item is zero.
        code_sizes: values that each code may have; None = as many as codes has.
        code_units: width of that part; None = 64, or the next multiple of heads.
        sequence: the sequence model: a name of `SEQUENCE_MODELS`; a Keras layer from vectors
            `(batch, time, dim)` to states of the same shape, dim = the sum of the units; or a
            function that makes one of dim, see `kerasrec.models.sequencemodels.own_sequence`.
        interest: how an interest is made of a state: "mf" = by a matrix, "gmf" = with a weight per
            column too.
        loss: a name of `LOSSES` or a function with their signature; None = softmax over the whole
            catalogue up to `FULL_SOFTMAX_ITEMS` items, sampled softmax beyond it and with a
            `TextEncoder`.
        text_units: width of the text part of an item vector; 0 leaves it out.
        id_units: width of the id part of an item vector; 0 leaves it out.
        max_length: newest events of a history that the model sees.
        num_blocks: layers of the sequence model.
        heads: attention heads of the sequence model.
        dropout: share of values that training drops inside the sequence model.
        input_dropout: share of values that training drops in the item vectors before it.
        id_dropout: share of items whose id part and codes training drops in a step.
        num_negatives: negatives that sampled losses draw per step, for all its positions.
        scorer_units: hidden units of the MLP scorer.
        residual: whether the decayed means of the item vectors are added to the sequence model's
            states (`LongShortFusion`).
        time_gaps: whether the model sees the time between events; `train` says so where there are
            times.
        events: whether the model sees the types of events; `train` says so where there are several.

    Returns:
        `Model`, the named parts. Layer names are stable: `step_items`, `item_vectors`, `sequence`,
        `fusion`, `interest`, `interest_loss`, `scorer_loss` (which holds `scorer`).

    Raises:
        ValueError: an unknown name or an impossible combination.
    """
    check_process()
    if not is_whole(num_items):
        received = type(num_items).__name__ if hasattr(num_items, "__len__") else repr(num_items)
        raise TypeError(
            "num_items: expected a whole number, how many items the catalogue has. Received: "
            f"{received}. Pass its length, build_model(len(items)); texts go into text=..."
        )
    config: dict[str, Any] = dict(
        num_items=num_items,
        sequence=sequence,
        interest=interest,
        loss=loss,
        text_units=text_units,
        id_units=id_units,
        max_length=max_length,
        num_blocks=num_blocks,
        heads=heads,
        dropout=dropout,
        input_dropout=input_dropout,
        id_dropout=id_dropout,
        num_negatives=num_negatives,
        scorer_units=scorer_units,
        residual=residual,
        time_gaps=time_gaps,
        events=events,
    )
    if features:  # versions of before have no such option
        config["features"] = features
    config |= _checked(config, text) | _code_options(
        codes, num_items, code_sizes, code_units, heads
    )
    if not config["text_units"] + id_units + config.get("code_units", 0):
        raise ValueError(
            "Items need a text part, an id part or codes: text_units and id_units are both 0."
        )
    # Layers
    step_items = StepItems(
        num_items,
        NEGATIVES.get(config["loss"], "uniform"),
        num_negatives=config["num_negatives"],
        whole=_lists_catalogue(config, text),
        name="step_items",
    )
    encoder, text_of_items = _text_source(num_items, text)
    text_units = config["text_units"]
    wide = config.get("code_units", 0)  # of the part that comes from codes
    items = ItemVectors(
        num_items,
        text_units=text_units,
        id_units=id_units,
        id_dropout=id_dropout if codes is None else 0.0,
        features=features,
        name="item_vectors",
    )
    coded = None
    if codes is not None:
        coded = CodePart(num_items, config["code_sizes"], wide, name="code_part")
        coded.build(None)
        coded.set_codes(np.asarray(codes, np.int32))
    drop_known = DropKnown(text_units, id_dropout if text_units else 0.0, name="drop_known")
    vectors_of = _join_parts(text_of_items, items, coded, drop_known)
    dim = text_units + id_units + wide
    drop = keras.layers.Dropout(input_dropout, noise_shape=None)
    of_events = EventFeatures(time_gaps=time_gaps, events=events, name="event_features")
    options: dict[str, Any] = dict(
        max_length=max_length, num_blocks=num_blocks, heads=heads, dropout=dropout
    )
    if isinstance(sequence, str) and sequence in _OWN_SEQUENCES:
        sequence_model = SEQUENCE_MODELS[sequence](dim, **options)
    else:  # also one that the user has put into the table
        given = SEQUENCE_MODELS[sequence] if isinstance(sequence, str) else sequence
        sequence_model = own_sequence(given, dim, options)
        _translate(sequence_model)
    # float32 from here on, whatever the precision policy: cosines, temperatures and losses
    fusion = LongShortFusion(name="fusion", dtype="float32")
    project = Interest(interest, name="interest", dtype="float32")
    interest_loss = InterestLoss(config["loss"], num_items, name="interest_loss", dtype="float32")
    scorer = Scorer(scorer_units, name="scorer", dtype="float32")
    scorer_loss = ScorerLoss(scorer, interest_loss.temperature, name="scorer_loss", dtype="float32")

    def states_of(vectors, valid, time_gap, event):
        given = [of_events([drop(vectors), time_gap, event]), valid]
        if len(getattr(sequence_model, "inputs", None) or ()) > len(given):
            given.append(time_gap if time_gaps else tf.zeros_like(time_gap))
        states = sequence_model(given)
        return fusion([states, vectors, valid]) if residual else states

    # Functional model: training
    names = ("history", "time_gap", "event", "target")
    history, time_gap, event, target = (keras.Input((None,), name=n, dtype="int32") for n in names)
    item_index, history_row, target_row, negative = step_items([history, target])
    vectors = vectors_of(item_index)
    states = states_of(tf.gather(vectors, history_row), history > 0, time_gap, event)
    packed, positive, batch_row = PackPositions(name="pack_positions")([states, target_row])
    step = [vectors, positive, negative]
    outputs = interest_loss([project(packed), *step])
    outputs = scorer_loss([outputs, *step, history_row, batch_row])
    training = HistoryModel([history, time_gap, event, target], outputs, name="training")
    # Functional model: parts for inference
    given = keras.Input((None, dim), name="vectors")
    states = states_of(given, history > 0, time_gap, event)
    interest_model = keras.Model(
        [given, history, time_gap, event], project(states[:, -1]), name="interest_model"
    )
    index = keras.Input((), name="item_index", dtype="int32")
    item_model = keras.Model(index, vectors_of(index), name="item_model")
    text_model = None
    if text is not None and text_units:
        given_text = keras.Input((text_of_items.text_dim,), name="text")
        of_text = items([given_text])
        if coded is not None:
            of_text = tf.pad(of_text, [[0, 0], [0, wide]])
        text_model = keras.Model(given_text, of_text, name="text_part")
    return Model(
        training, interest_model, item_model, text_model, encoder, scorer, interest_loss, config
    )


def _translate(model):
    """Let AutoGraph have the layers of a user's own model: what calls them is kept from it."""
    for layer in (model, *getattr(model, "submodules", ())):
        if isinstance(layer, keras.layers.Layer) and not layer.__module__.startswith(_KNOWN):
            if "call" not in vars(layer):  # a layer that is used again has it
                layer.call = with_autograph(layer.call)


def _join_parts(text_of_items, items, coded, drop_known):
    """Function item_index `(n,)` -> vectors `(n, dim)` of the parts that there are."""

    def vectors_of(index):
        if coded is None:
            return items([text_of_items(index), index])
        if not items.text_units + items.id_units:
            return coded(index)
        parts = [items([text_of_items(index), index]), coded(index)]
        return drop_known(tf.concat(parts, axis=-1))

    return vectors_of


def _checked(config, text):
    """The options that depend on the data, after the checks of all of them."""
    num_items, loss = config["num_items"], config["loss"]
    learns = isinstance(text, TextEncoder)
    for value, known, what in (
        (config["sequence"], SEQUENCE_MODELS, "sequence"),
        (config["interest"], INTERESTS, "interest"),
        (loss, LOSSES, "loss"),
    ):
        if isinstance(value, str) and value not in known:
            raise ValueError(f"{what} must be one of {', '.join(known)}. Received: {value!r}.")
    check_keras_2(config["sequence"])
    if not isinstance(loss, str | None):
        check_loss(loss)
    if num_items < 2:
        raise ValueError(f"A model needs at least 2 items. Received: num_items={num_items}.")
    if loss is None:
        full = num_items <= FULL_SOFTMAX_ITEMS and not learns
        loss = "softmax" if full else "sampled_softmax"
    elif learns and NEGATIVES.get(loss) == "all":
        raise ValueError(
            f"loss={loss!r} would encode the texts of all {num_items} items in every step. Use "
            "loss='sampled_softmax' with an encoder that learns, or a frozen encoder."
        )
    return {
        "loss": loss,
        "text_units": 0 if text is None else config["text_units"],
        "num_negatives": min(config["num_negatives"], num_items),
    }


def _code_options(codes, num_items, sizes, units, heads):
    """The options `code_sizes` and `code_units`; none where there are no codes."""
    if codes is None:
        return {}
    _check_codes(codes, num_items)
    least = [max(int(code) + 1, 1) for code in np.asarray(codes).max(axis=0)]
    found = least if sizes is None else [int(size) for size in sizes]
    if len(found) != len(least) or np.less(found, least).any():
        raise ValueError(f"codes needs code_sizes of at least {least}. Received: {sizes!r}.")
    wide = CODE_UNITS + -CODE_UNITS % heads
    return {"code_sizes": found, "code_units": wide if units is None else units}


def _check_codes(codes, num_items):
    codes = np.asarray(codes)
    is_table = codes.ndim == 2 and codes.shape[1] > 0 and np.issubdtype(codes.dtype, np.integer)
    if not is_table or codes.min(initial=0) < -1:
        raise ValueError(
            "codes must be whole numbers from 0 (-1 = not known), (num_items, num_levels). "
            f"Received: {codes.dtype} of shape {codes.shape}, least {codes.min(initial=0)}."
        )
    if len(codes) != num_items:
        raise ValueError(f"codes needs one row per item ({num_items}). Received: {len(codes)}.")


def _lists_catalogue(config, text):
    """Whether a step lists all items; with sampled negatives that pays in small catalogues only."""
    if isinstance(text, TextEncoder):
        return False
    needs_all = NEGATIVES.get(config["loss"]) == "all"
    return needs_all or config["num_items"] <= FULL_SOFTMAX_ITEMS


def _text_source(num_items, text):
    """The encoder model (or None) and a callable item_index -> text vectors with `text_dim`."""
    if text is None:
        source = TextTable(num_items, 1, name="text_table")
        return None, source
    if isinstance(text, TextEncoder):
        return _encoder_source(num_items, text)
    text = np.asarray(text, np.float32)
    if text.shape[0] != num_items:
        raise ValueError(f"text needs one row per item ({num_items}). Received: {text.shape[0]}.")
    source = TextTable(num_items, text.shape[1], name="text_table")
    source.build(None)
    source.set_vectors(text)
    return None, source


def _encoder_source(num_items, text):
    tokens = ItemTokens(num_items, text.token_ids.shape[1], name="item_tokens")
    tokens.build(None)
    tokens.set_tokens(text.token_ids, text.segment_ids)
    many = getattr(text.whitening, "features", 0)
    rows, columns = (size - many for size in text.whitening.matrix.shape)
    whitening = WhiteningLayer(rows, columns, name="whitening")
    whitening.build(None)
    whitening.set_constants(text.whitening.mean[:rows], text.whitening.matrix[:rows, :columns])
    encoder = keras.Model(text.model.inputs, whitening(text.model.output), name="encoder")
    beside = None
    if many:
        beside = TextTable(num_items, many, name="feature_table")
        beside.build(None)
        beside.set_vectors(text.features @ text.whitening.matrix[rows:, columns:])

    def text_of_items(item_index):
        found = encoder(list(tokens(item_index)))
        return found if beside is None else tf.concat([found, beside(item_index)], axis=-1)

    text_of_items.text_dim = columns + many
    return encoder, text_of_items
