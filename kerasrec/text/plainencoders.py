"""Encodes without a language model: character n-grams + SVD, and ready vectors found by id."""

import functools
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from kerasrec.data.interactions import Items
from kerasrec.data.vectorfiles import check_vectors, read_vectors
from kerasrec.text.vectors import ENCODER_FILE, Encoder, Whitening

log = logging.getLogger(__name__)
WARNING = (
    "The encoder tfidf is lexical: it compares characters, not meanings (电脑 and 计算机 have"
    " nothing in common). Use e5-small or a checkpoint folder for semantics."
)


@functools.cache
def _warn_once():
    log.warning(WARNING)


class TfidfEncoder(Encoder):
    """Encodes texts by TF-IDF of character 1-, 2- and 3-grams and SVD; rows have length 1.

    `fit` learns n-grams and SVD; `encode` before `fit` fails. The width is `dim`, or less when
    there are few texts.
    """

    kind = "tfidf"
    name = "tfidf"
    licence = "none (learned from your texts)"

    def __init__(self, dim: int = 128) -> None:
        self.dim = dim
        self._vectorizer: Any = None
        self._components: Any = None  # (dim, num_grams) float32

    def fit(self, texts: Sequence[str]) -> Self:
        """Learns n-grams, their weights and the SVD from texts; gives itself back."""
        from sklearn.decomposition import TruncatedSVD

        _warn_once()
        texts = list(texts)
        if not any(text.strip() for text in texts):
            raise ValueError(
                f"tfidf needs texts to learn from. Received: {len(texts)} empty texts."
            )
        self._vectorizer = _vectorizer()
        counts = self._vectorizer.fit_transform(texts)
        width = min(self.dim, *counts.shape)
        if width < min(counts.shape):
            self._components = TruncatedSVD(width, random_state=0).fit(counts).components_
        else:
            self._components = np.linalg.svd(counts.toarray(), full_matrices=False)[2][:width]
        self._components = self._components.astype(np.float32)
        self.dim = width
        return self

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 4096,
        cache: bool | str | Path | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Gives the vectors of texts: float32 `(num_texts, dim)`; 0 without a known n-gram.

        It is fast and not cached: `cache` and `progress` are there for the common surface.
        """
        self._check_fitted()
        vectors = [np.zeros((0, self.dim), np.float32)]
        texts = list(texts)
        for start in range(0, len(texts), batch_size):
            counts = self._vectorizer.transform(texts[start : start + batch_size])
            rows = np.asarray(counts @ self._components.T, np.float32)
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            vectors.append(rows / np.maximum(lengths, 1e-12))
        return np.concatenate(vectors)

    @property
    def fingerprint(self) -> str | None:
        """sha256 (hex) of what was learned; None before `fit`."""
        if self._vectorizer is None:
            return None
        digest = hashlib.sha256(json.dumps(self._grams(), ensure_ascii=True).encode())
        digest.update(np.ascontiguousarray(self._vectorizer.idf_).data)
        digest.update(np.ascontiguousarray(self._components).data)
        return digest.hexdigest()

    @property
    def description(self) -> dict[str, Any]:
        """What a manifest records: plain data."""
        note = "lexical only: compares characters, not meanings"
        return self._described(licence=self.licence, note=note)

    def save(self, folder: str | Path) -> None:
        """Writes what was learned: JSON and npz."""
        self._check_fitted()
        folder = Path(folder)
        self._write_settings(folder, grams=self._grams())
        np.savez(folder / "tfidf.npz", idf=self._vectorizer.idf_, components=self._components)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote."""
        folder = Path(folder)
        data = json.loads((folder / ENCODER_FILE).read_text(encoding="utf-8"))
        encoder = cls(data["dim"])
        encoder._vectorizer = _vectorizer(vocabulary=data["grams"])
        with np.load(folder / "tfidf.npz", allow_pickle=False) as arrays:
            encoder._vectorizer.idf_ = arrays["idf"]
            encoder._components = arrays["components"]
        return encoder

    def _grams(self):
        return self._vectorizer.get_feature_names_out().tolist()

    def _check_fitted(self):
        if self._vectorizer is None:
            raise ValueError(
                "The encoder tfidf has learned nothing yet. Call encoder.fit(texts) first."
            )


def _vectorizer(vocabulary=None):
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer="char", ngram_range=(1, 3), sublinear_tf=True, vocabulary=vocabulary
    )


class StoredVectors(Encoder):
    """Looks up the vectors of items by id. Texts cannot be encoded.

    Args:
        ids: list of str, unique.
        vectors: float, `(num_ids, dim)`, finite.
        name: where they came from.
    """

    kind = "vectors"
    licence = "unknown (vectors of another model)"

    def __init__(self, ids: Iterable[Any], vectors: np.ndarray, *, name: str = "vectors") -> None:
        self.name = name
        self.ids, self.vectors = check_vectors(ids, vectors, name)
        self._row = {item_id: row for row, item_id in enumerate(self.ids)}
        self.dim = self.vectors.shape[1]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a file of vectors.

        Args:
            path: `X.npy` with `X.npy.ids.txt` or `X.ids.txt` beside it (one id a line), `X.npz`
                with `ids` and `vectors`, or `X.parquet` with `item_id` and one list column.
        """
        ids, vectors = read_vectors(path)
        return cls(ids, vectors, name=f"vectors:{Path(path).name}")

    def encode(
        self,
        ids: Sequence[Any],
        *,
        batch_size: int | None = None,
        cache: bool | str | Path | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Gives the vectors of item ids: float32 `(num_ids, dim)`.

        Nothing is computed: `batch_size`, `cache` and `progress` are there for the common surface.

        Raises:
            ValueError: an id has no vector; says how many and the first few.
        """
        ids = [str(item_id) for item_id in ids]
        missing = [item_id for item_id in ids if item_id not in self._row]
        if missing:
            raise ValueError(
                f"{self.name} has no vector for {len(missing)} of {len(ids)} items:"
                f" {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. Add their vectors"
                " to the file."
            )
        return self.vectors[[self._row[item_id] for item_id in ids]].reshape(len(ids), self.dim)

    def encode_items(self, items: Items, template: str = "{title}", **options: Any) -> np.ndarray:
        """Gives the vectors of items by their ids: float32 `(num_items, dim)`; without template."""
        return self.encode(items.ids.tolist(), **options)

    def whitened(
        self, vectors: np.ndarray, whitening: Whitening, items: Items, template: str = "{title}"
    ) -> np.ndarray:
        """Whitens the vectors of items; they may be known for an item without a text."""
        return whitening.apply(vectors)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of ids and vectors."""
        digest = hashlib.sha256(json.dumps(self.ids).encode())
        digest.update(self.vectors.data)
        return digest.hexdigest()

    @property
    def description(self) -> dict[str, Any]:
        """What a manifest records: plain data."""
        note = "ready vectors: texts cannot be encoded, new items need vectors"
        return self._described(licence=self.licence, note=note)

    def save(self, folder: str | Path) -> None:
        """Writes ids and vectors."""
        folder = Path(folder)
        self._write_settings(folder, ids=self.ids)
        np.save(folder / "vectors.npy", self.vectors, allow_pickle=False)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote."""
        folder = Path(folder)
        data = json.loads((folder / ENCODER_FILE).read_text(encoding="utf-8"))
        vectors = np.load(folder / "vectors.npy", allow_pickle=False)
        return cls(data["ids"], vectors, name=data["name"])
