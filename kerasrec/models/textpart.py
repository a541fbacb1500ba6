"""Prepares a model's text side: encodes and whitens item texts, sets how the encoder learns."""

from pathlib import Path
from typing import Any, NamedTuple

from kerasrec.data.interactions import Items
from kerasrec.models.build import TextEncoder
from kerasrec.text.encoders import build_encoder
from kerasrec.text.textmodel import add_lora, set_trainable
from kerasrec.text.vectors import Encoder, fit_whitening

DEFAULT_ENCODER = "e5-small"
MODES = ("frozen", "finetune", "lora")


class TextPart(NamedTuple):
    """Holds the text side of a model; all None where items are known by their id alone.

    encoder: what `build_encoder` gave.  text: for `build_model`.  whitening: `Whitening` between
    the two.  vectors: float32 `(num_items, text_dim)`, whitened, as they were before training;
    zero for an empty text.
    """

    encoder: Any
    text: Any
    whitening: Any
    vectors: Any


def text_part(
    items: Items,
    *,
    name: str | Path = DEFAULT_ENCODER,
    mode: str = "frozen",
    template: str = "{title}",
    max_tokens: int = 64,
    pooling: str | None = None,
    prefix: str | None = None,
    model: str | None = None,
    whitening_dim: int = 128,
    layers: str | int = "all",
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> TextPart:
    """Encodes and whitens the item texts: `TextPart`.

    Args:
        items: `Items`.
        name: for `build_encoder`, or "none" for items known by their id alone.
        mode: "frozen", "finetune" (`layers`: "all" or how many of the top layers) or "lora".
        template: of the item text, with the names of columns.
        max_tokens, pooling, prefix, model: for `build_encoder`.
        whitening_dim: width after whitening.
        cache: as in `encode`.
    """
    if mode not in MODES:
        raise ValueError(f"encoder mode must be one of {', '.join(MODES)}. Received: {mode!r}.")
    if name == "none":
        return TextPart(None, None, None, None)
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
    whitening = fit_whitening(vectors, width)
    vectors = encoder.whitened(vectors, whitening, items, template)
    if mode == "frozen":
        return TextPart(encoder, vectors, whitening, vectors)
    prepare_encoder(encoder, mode, layers)
    tokens, segments = encoder.tokenizer.encode_batch(texts)
    text = TextEncoder(encoder.model, tokens, segments, whitening)
    return TextPart(encoder, text, whitening, vectors)


def prepare_encoder(encoder: Encoder, mode: str, layers: str | int) -> None:
    """Puts the encoder into "finetune" or "lora" mode, in place."""
    if mode == "lora":
        encoder.model = add_lora(encoder.model)
    else:
        set_trainable(encoder.model, layers)
