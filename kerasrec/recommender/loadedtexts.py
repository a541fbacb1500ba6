"""`VersionTexts`: what a loaded version makes of texts and ready vectors it has never seen."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from kerasrec.data.interactions import Items, changed_texts
from kerasrec.evaluation.toplists import top_k
from kerasrec.features.itemfeatures import ItemFeatures
from kerasrec.versions import folders
from kerasrec.versions.loaded import LoadedVersion

_AT_ONCE = 64  # texts encoded in one call
_CELLS = 2**26  # cosines held at once


class VersionTexts:
    """Item vectors of new texts, and the items whose texts are nearest.

    Args:
        loaded: `LoadedVersion`.
    """

    def __init__(self, loaded: LoadedVersion):
        self._loaded, self._manifest = loaded, loaded.manifest
        self._encoder: Any = None  # read when it is first needed
        self._features: ItemFeatures | None = None
        if loaded.path is not None:  # a model in memory alone encodes nothing new
            self._features = ItemFeatures.load(loaded.path / folders.ENCODER)

    @property
    def are_vectors(self) -> bool:
        """Whether the version was trained on ready vectors instead of texts."""
        return self._manifest.encoder is not None and self._manifest.encoder.kind == "vectors"

    @property
    def needs_texts(self) -> bool:
        """Whether a new item needs a text: no column of the catalogue is read beside it."""
        return self._features is None

    def encode(self, texts: Iterable[str]) -> np.ndarray:
        """See `Recommender.encode`."""
        if not self._manifest.encodes_texts:
            raise ValueError(
                "This version cannot encode texts: its items were known by "
                f"{'ready vectors' if self.are_vectors else 'their id alone'}. Train with "
                "--encoder e5-small, tfidf or a checkpoint folder (and model.text_units above 0)."
            )
        from kerasrec.text.encoders import check_texts

        texts = check_texts(texts)
        if "texts" in self._loaded.abilities:
            return self._loaded.encode_texts(texts)
        # tfidf, or a tokenizer that has no twin in the graph
        self._read_encoder()
        vectors = np.zeros((len(texts), self._loaded.dim), np.float32)
        for start in range(0, len(texts), _AT_ONCE):
            part = texts[start : start + _AT_ONCE]
            if "tokens" in self._loaded.abilities:
                found = self._loaded.encode_tokens(*self._encoder.tokenizer.encode_batch(part))
            else:
                found = self._loaded.place(self._encoder.encode(part))
            vectors[start : start + _AT_ONCE] = found
        vectors[[not text.strip() for text in texts]] = 0
        return vectors

    def _read_encoder(self):
        if self._encoder is None:
            from kerasrec.text.encoders import load_text_encoder

            self._encoder = load_text_encoder(self._loaded.folder / folders.ENCODER)

    def vectors_of(self, items: Items, vectors: np.ndarray | None) -> np.ndarray:
        """Item vectors of new items, float32 `(num_items, dim)`; see `Recommender.add_items`."""
        if not self.are_vectors and vectors is not None:
            raise ValueError("This version was not trained on ready vectors: leave vectors out.")
        if self._features is None:
            if self.are_vectors:
                return self.place(vectors, len(items))
            return self.encode(items.texts(self._manifest.template))
        rows = self._features.rows(items.frame)
        if self.are_vectors:
            return self.place(vectors, len(items), rows)
        if "text_vectors" not in self._loaded.abilities:  # text_units=0
            return np.zeros((len(items), self._loaded.dim), np.float32)
        return self._loaded.place(np.concatenate([self._read(items), rows], axis=1))

    def _read(self, items):
        """What the encoder makes of the texts of items, `(num_items, width)`; zeros if blank."""
        if not self._manifest.encodes_texts:
            return np.zeros((len(items), 0), np.float32)
        self._read_encoder()
        texts, found = items.texts(self._manifest.template, blank=True), []
        for start in range(0, len(texts), _AT_ONCE):
            part = texts[start : start + _AT_ONCE]
            if "tokens" in self._loaded.abilities:
                found.append(self._loaded.read_tokens(*self._encoder.tokenizer.encode_batch(part)))
            else:
                found.append(self._encoder.base.encode(part))
        vectors = np.concatenate(found)
        vectors[[not text.strip() for text in texts]] = 0
        return vectors

    def changed(self, before: pd.DataFrame, now: pd.DataFrame) -> np.ndarray:
        """Rows of a catalogue with another text or other features now, int `(n,)`; none where
        nothing is read of them.
        """
        changed = np.zeros(0, int)
        if self._manifest.encodes_texts:
            changed = changed_texts(before, now, self._manifest.template)
        if self._features is not None and not self.are_vectors:
            changed = np.union1d(changed, self._features.changed(before, now))
        return changed

    def with_texts(self, vectors: np.ndarray, items: Items) -> np.ndarray:
        """Item vectors `(n, dim)` with the text parts, features among them, of other rows of the
        same items.
        """
        options = self._manifest.options
        width = vectors.shape[1] // options.get("members", 1)
        is_text = np.arange(vectors.shape[1]) % width < options["text_units"]
        return np.where(is_text, self.vectors_of(items, None), vectors)

    def place(
        self, vectors: np.ndarray | None, num_items: int, features: np.ndarray | None = None
    ) -> np.ndarray:
        """Item vectors of new ready vectors, and of features beside, float32 `(num_items, dim)`.

        Raises:
            ValueError: no vectors, another shape, or a version without a text part.
        """
        dim = self._manifest.encoder.dim if self._manifest.encoder else 0
        beside = np.zeros((num_items, 0), np.float32) if features is None else features
        expected = (num_items, dim - beside.shape[1])
        shape = None if vectors is None else np.shape(vectors)
        if vectors is None or shape != expected or not np.isfinite(vectors).all():
            raise ValueError(
                f"This version was trained on ready vectors: add_items needs vectors of shape "
                f"{expected}, all finite, from the same model. Received: "
                f"{'none' if shape is None else f'shape {shape}'}."
            )
        if "text_vectors" not in self._loaded.abilities:
            raise ValueError("This version has no text part (text_units=0) to place vectors in.")
        return self._loaded.place(np.concatenate([vectors, beside], axis=1))

    def near(
        self, texts: list[str], k: int, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The items whose text parts are nearest; what users did with them has no say here.

        Args:
            texts: list of str, none of them blank.
            k: list length.
            mask: bool `(num_items,)`, the items that may be listed; None = all.

        Returns:
            Item index int32 and cosine float32, `(num_texts, min(k, num_items))`; index 0 = none.
        """
        given = self.encode(texts)
        if not all(text.strip() for text in texts):
            raise ValueError("similar needs a text with words in it. Received: an empty one.")
        queries, items = (self._text_parts(v) for v in (given, self._loaded.vectors()))
        at_once = max(_CELLS // len(items), 1)
        parts = np.split(queries, range(at_once, len(queries), at_once))
        gone = self._loaded.withdrawn()
        if mask is not None:
            gone = np.union1d(gone, np.flatnonzero(~mask) + 1)
        found = [top_k(_without(part @ items.T, gone), k) for part in parts]
        index, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        index = np.where(np.isneginf(scores), 0, index)
        return np.where(queries.any(axis=1)[:, None], index, 0).astype(np.int32), scores

    def _text_parts(self, vectors):
        """Text parts of item vectors, `(n, width)`, of unit length or zero."""
        options = self._manifest.options
        members = options.get("members", 1)  # the text part comes first in the vector of each
        parts = vectors.reshape(len(vectors), members, vectors.shape[1] // members)
        parts = parts[:, :, : options["text_units"]]
        parts = parts / np.maximum(np.linalg.norm(parts, axis=2, keepdims=True), 1e-9)
        return np.concatenate(list(parts.transpose(1, 0, 2)), axis=1) / members**0.5


def _without(scores, index):
    """Scores `(n, num_items + 1)` with -inf at the items of `index`."""
    scores[:, index] = -np.inf
    return scores
