"""`FeaturedEncoder`: an encoder of texts with the features of items beside them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasrec.data.interactions import Items
from kerasrec.features.itemfeatures import ItemFeatures
from kerasrec.text.vectors import Encoder, Whitening

#: mean square of what features add to a row, beside that of the text
SHARE = 0.5


class FeaturedEncoder(Encoder):
    """Gives vectors of items: that of the text, then the features of the row.

    Args:
        base: the encoder of the texts, or None where items have features alone.
        features: `ItemFeatures`.

    Attributes:
        kind, name, licence, tokenizer, model: those of `base`; the kind is "features" without one.
        dim: width of both together.
    """

    def __init__(self, base: Encoder | None, features: ItemFeatures) -> None:
        self.base, self.features = base, features
        self.kind = "features" if base is None else base.kind
        self.name = "none" if base is None else base.name
        self.licence = "none (columns of your table)" if base is None else base.licence
        self.tokenizer = None if base is None else base.tokenizer

    @property
    def model(self) -> Any:
        """The Keras model of the texts, or None."""
        return None if self.base is None else self.base.model

    @model.setter
    def model(self, model: Any) -> None:
        assert self.base is not None
        self.base.model = model

    @property
    def text_dim(self) -> int:
        """Width of the text's part."""
        return 0 if self.base is None else self.base.dim

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Width of a vector."""
        return self.text_dim + self.features.width

    @property
    def fingerprint(self) -> str | None:
        """sha256 (hex) of both parts."""
        both = f"{self.base and self.base.fingerprint} {self.features.fingerprint}"
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def description(self) -> dict[str, Any]:
        """What a manifest records: that of the text encoder, and the columns."""
        said = {} if self.base is None else self.base.description
        own = self._described(licence=self.licence, features=self.features.description())
        return {**said, **own}

    def encode(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """Gives the vectors of texts: float32 `(num_texts, dim)`; no feature is known of a text."""
        if self.base is None:
            raise ValueError("This version knows items by their features and cannot encode texts.")
        found = self.base.encode(texts, **options)
        return np.pad(found, [(0, 0), (0, self.features.width)])

    def encode_items(self, items: Items, template: str = "{title}", **options: Any) -> np.ndarray:
        """Gives the vectors of items: float32 `(num_items, dim)`; `options` go to `encode`."""
        rows = self.features.rows(items.frame)
        if self.base is None:
            return rows
        return np.concatenate([self.base.encode_items(items, template, **options), rows], axis=1)

    def whitened(
        self, vectors: np.ndarray, whitening: Whitening, items: Items, template: str = "{title}"
    ) -> np.ndarray:
        """Whitens the vectors of items; the text's part of an item with a blank text is zeros."""
        found = whitening.apply(vectors)
        if self.base is not None and self.base.kind != "vectors":
            blank = [not text for text in items.texts(template, blank=True)]
            found[blank, : found.shape[1] - self.features.width] = 0
        return found

    def save(self, folder: str | Path) -> None:
        """Writes what `load_text_encoder` reads."""
        if self.base is None:
            self._write_settings(Path(folder))
        else:
            self.base.save(folder)
        self.features.save(folder)


def of_content(vectors: np.ndarray, features: ItemFeatures | None) -> np.ndarray:
    """Gives the part of vectors that is read of the items' contents: their texts and pictures.

    What items are like each other by (the table "text", semantic ids) is read of it: with
    categories and numbers among it, cold items of mooccube-courses were found half as often.

    Args:
        vectors: of items, whitened, `(num_items, dim)`, the features last.
        features: `ItemFeatures`; None = there are none.

    Returns:
        The columns of texts and of vectors; all of them where there are neither.
    """
    if features is None:
        return vectors
    text = np.ones(vectors.shape[1] - features.width, bool)
    kept = np.concatenate([text, features.are_vectors])
    return vectors[:, kept] if kept.any() else vectors


def scale_of(rows: np.ndarray, text_width: int) -> float:
    """Finds what features are multiplied by to weigh `SHARE` of what the text weighs.

    Args:
        rows: float32 `(num_items, width)`, as `ItemFeatures.rows` gives them.
        text_width: of the whitened texts, whose rows have about this mean square; 0 = no text.

    >>> scale_of(np.array([[0.5], [0.5]]), 8)
    4.0
    """
    mean_square = float((rows**2).sum(axis=1).mean())
    wanted = SHARE * text_width if text_width else rows.shape[1]
    return (wanted / max(mean_square, 1e-9)) ** 0.5
