"""The lexical fallback: character n-grams + SVD. No download, no meaning."""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

WARNING = (
    "The encoder tfidf is lexical: it compares characters, not meanings (电脑 and 计算机 have"
    " nothing in common). Use e5-small or a checkpoint folder for semantics."
)
_warned = False


class TfidfEncoder:
    """TF-IDF of character 1-, 2- and 3-grams, reduced by SVD, rows of length 1.

    `fit` learns n-grams and SVD; `encode` before `fit` fails. The width is `dim`, or less when
    there are few texts.
    """

    kind = "tfidf"
    name = "tfidf"
    licence = "none (learned from your texts)"
    tokenizer = None
    model = None

    def __init__(self, dim=128):
        self.dim = dim
        self._vectorizer = None
        self._components = None  # (dim, num_grams) float32

    def fit(self, texts):
        """Learn n-grams, their weights and the SVD from texts; gives itself back."""
        global _warned
        from sklearn.decomposition import TruncatedSVD

        if not _warned:
            logger.warning(WARNING)
            _warned = True
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

    def encode(self, texts, *, batch_size=4096, cache=None, progress=False):
        """Vectors of texts: float32 `(num_texts, dim)`; a text without a known n-gram is 0.

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

    def encode_items(self, items, template="{title}", **options):
        """Vectors of items: float32 `(num_items, dim)`."""
        return self.encode(items.texts(template), **options)

    @property
    def fingerprint(self):
        """sha256 (hex) of what was learned."""
        self._check_fitted()
        digest = hashlib.sha256(json.dumps(self._grams(), ensure_ascii=True).encode())
        digest.update(np.ascontiguousarray(self._vectorizer.idf_))
        digest.update(np.ascontiguousarray(self._components))
        return digest.hexdigest()

    @property
    def description(self):
        """What a manifest records: plain data."""
        return {
            "name": self.name,
            "kind": self.kind,
            "dim": self.dim,
            "licence": self.licence,
            "note": "lexical only: compares characters, not meanings",
            "fingerprint": self.fingerprint if self._vectorizer is not None else None,
        }

    def save(self, folder):
        """Write what was learned: JSON and npz."""
        self._check_fitted()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        data = self.description | {"grams": self._grams()}
        (folder / "encoder.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        np.savez(folder / "tfidf.npz", idf=self._vectorizer.idf_, components=self._components)

    @classmethod
    def load(cls, folder):
        """Read what `save` wrote."""
        folder = Path(folder)
        data = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
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
