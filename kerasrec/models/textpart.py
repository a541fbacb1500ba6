"""Prepares a model's text side: encodes and whitens item texts, sets how the encoder learns."""

import logging
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np

from kerasrec.data.interactions import Items
from kerasrec.features.columntypes import unreadable
from kerasrec.features.itemfeatures import declared_features, fit_item_features
from kerasrec.models.build import TextEncoder
from kerasrec.models.optiontypes import Count, Flag, Text, TextOrPath
from kerasrec.text.encoders import build_encoder
from kerasrec.text.textmodel import add_lora, set_trainable
from kerasrec.text.vectors import Encoder, Whitening, fit_whitening
from kerasrec.text.withfeatures import FeaturedEncoder, of_content, scale_of

log = logging.getLogger(__name__)
DEFAULT_ENCODER = "e5-small"
#: how the encoder learns
Mode = Annotated[Literal["frozen", "finetune", "lora"], "option"]
MODES: tuple[str, ...] = get_args(get_args(Mode)[0])


class TextPart(NamedTuple):
    """Holds the text side of a model; all None where items are known by their id alone.

    encoder: what `build_encoder` gave, with features a `FeaturedEncoder`.  text: for
    `build_model`.  whitening: `Whitening` between the two.  vectors: float32 `(num_items,
    text_dim)`, whitened texts alone, as they were before training; zero for an empty text.
    features: how many of the last columns of what the model reads are features of the items.
    """

    encoder: Any
    text: Any
    whitening: Any
    vectors: Any
    features: int = 0


def text_part(
    items: Items,
    *,
    name: TextOrPath = DEFAULT_ENCODER,
    mode: Mode = "frozen",
    template: Text = "{title}",
    max_tokens: Count = 64,
    pooling: Text | None = None,
    prefix: Text | None = None,
    model: Text | None = None,
    whitening_dim: Count = 128,
    layers: Literal["all"] | Count = "all",
    cache: Flag | TextOrPath | None = True,
    features: Text | None = None,
    progress: bool = True,
) -> TextPart:
    """Encodes and whitens the item texts, and puts features of the items beside: `TextPart`.

    Args:
        items: `Items`.
        name: of the text encoder, as `build_encoder` takes it, or "none" for items known by their
            id alone.
        mode: how the encoder learns: "frozen" = not at all, "finetune" = its own weights, "lora" =
            small matrices beside them.
        template: of the item text, with the names of columns.
        max_tokens: longer texts are cut here.
        pooling: how token states become one vector: "mean", "cls", "max", or one of them with
            "_l2"; None = what the encoder says.
        prefix: put before every text; None = what the encoder says.
        model: architecture of a checkpoint folder; None = found from the folder. Of an endpoint
            the name of its model.
        whitening_dim: width of the text vectors after whitening, at most.
        layers: of the encoder that "finetune" trains: "all", or how many of the top layers.
        cache: whether text vectors are kept for the next run; a path = in that folder.
        features: columns of the catalogue that the model reads, such as "brand:category
            price:number", or "auto" for all that read as such; None = none. Columns of vectors
            (`with_vectors`) are read in any case.
        progress: whether a bar is shown.
    """
    if mode not in MODES:
        raise ValueError(f"encoder mode must be one of {', '.join(MODES)}. Received: {mode!r}.")
    frame = items.feature_frame
    declared = declared_features(frame, features)
    fitted = fit_item_features(frame, declared) if declared else None
    for column, one in (fitted.columns if fitted else {}).items():
        if said := unreadable(frame[column], one.column):
            log.warning("items: %s", said)
    if fitted is not None and not fitted.width:
        log.warning(
            "no column of the catalogue makes features (%s): none is read",
            features or ", ".join(declared),
        )
        fitted = None
    if name == "none":
        return _features_alone(items, fitted) if fitted else TextPart(None, None, None, None)
    encoder = build_encoder(
        name, max_tokens=max_tokens, pooling=pooling, prefix=prefix, model=model
    )
    if mode != "frozen" and encoder.model is None:
        raise ValueError(
            f"encoder mode {mode!r} needs a pretrained encoder; {name} has no weights to train."
        )
    texts = items.texts(template)
    encoder.fit(texts)
    vectors = encoder.encode_items(items, template, cache=cache, progress=progress)
    width = min(whitening_dim, vectors.shape[1], max(len(items) - 1, 1))
    whitening, rows, many = fit_whitening(vectors, width), None, 0
    if fitted is not None:
        encoder = FeaturedEncoder(encoder, fitted)
        rows, many = fitted.rows(items.frame), fitted.width
        whitening = whitening.beside(many, scale_of(rows, width))
        vectors = np.concatenate([vectors, rows], axis=1)
    vectors = encoder.whitened(vectors, whitening, items, template)
    if mode == "frozen":
        return TextPart(encoder, vectors, whitening, of_content(vectors, fitted), many)
    prepare_encoder(encoder, mode, layers)
    tokens, segments = encoder.tokenizer.encode_batch(texts)
    text = TextEncoder(encoder.model, tokens, segments, whitening, rows)
    return TextPart(encoder, text, whitening, of_content(vectors, fitted), many)


def _features_alone(items, fitted):
    """`TextPart` of items without a text: their features are all that a new one has."""
    rows = fitted.rows(items.frame)
    no_text = Whitening(np.zeros(0, np.float32), np.zeros((0, 0), np.float32))
    whitening = no_text.beside(fitted.width, scale_of(rows, 0))
    encoder, vectors = FeaturedEncoder(None, fitted), whitening.apply(rows)
    return TextPart(encoder, vectors, whitening, of_content(vectors, fitted), fitted.width)


def prepare_encoder(encoder: Encoder, mode: str, layers: str | int) -> None:
    """Puts the encoder into "finetune" or "lora" mode, in place."""
    if mode == "lora":
        encoder.model = add_lora(encoder.model)
    else:
        set_trainable(encoder.model, layers)
