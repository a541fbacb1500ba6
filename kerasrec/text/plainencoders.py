"""Encodes without a model of its own: n-grams + SVD, vectors by id, vectors of an endpoint."""

import functools
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from tqdm import tqdm

from kerasrec import backend
from kerasrec.checks import Pace
from kerasrec.client.chat import EmbeddingEndpoint
from kerasrec.data.formats.vectorfiles import check_vectors, read_vectors
from kerasrec.data.interactions import Items
from kerasrec.text.vectors import (
    ENCODER_FILE,
    Encoder,
    VectorCache,
    Whitening,
    check_endpoint_url,
    text_keys,
)

log = logging.getLogger(__name__)
WARNING = (
    "The encoder tfidf is lexical: it compares characters, not meanings (电脑 and 计算机 have"
    " nothing in common). Use e5-small or a checkpoint folder for semantics."
)

#: of an endpoint: seconds for the answer to a batch with its retries, how many of these, and the
#: file of the cache that says how wide its vectors are
_SECONDS, _RETRIES, _WIDTH = 300.0, 6, "width.txt"


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


class EndpointEncoder(Encoder):
    """Asks an endpoint of OpenAI's protocol for vectors, `POST URL/embeddings`.

    Each vector is kept in the cache under the content of its text, so that a text is sent once. The
    key comes from the environment (KERASREC_ENDPOINT_KEY) and is never kept. A blank text is not
    sent: its vector is zeros.

    Args:
        url: where the protocol begins, such as `http://localhost:8000/v1`.
        model: name of the model, as the endpoint knows it.
        prefix: put before every text.
        dim: width of a vector; 0 = as the first answer says.
    """

    kind = "endpoint"
    licence = "unknown (model of an endpoint)"

    def __init__(self, url: str, *, model: str, prefix: str = "", dim: int = 0) -> None:
        self.url, self.served_model, self.prefix = check_endpoint_url(url), model, prefix
        self.name, self.dim = f"endpoint:{url}", dim

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        cache: bool | str | Path | None = True,
        progress: bool = False,
    ) -> np.ndarray:
        """Gives the vectors of texts: float32 `(num_texts, dim)`.

        Args:
            texts: list of str; a text may be empty, and may repeat.
            batch_size: texts in a request.
            cache: True = the user's cache folder, a folder, or None for no cache.
            progress: show a progress bar.

        Raises:
            ValueError: the endpoint refuses the request, or answers in another form or width.
            PermissionError, LookupError, TimeoutError, ConnectionError, RuntimeError: as the
                endpoint says, after some tries. What was answered before is in the cache.
        """
        texts = list(texts)
        unique = [text for text in dict.fromkeys(texts) if text.strip()]
        folder = self._folder(cache)
        known = np.zeros((len(unique), self.dim), np.float32)
        found = np.zeros(len(unique), bool)
        keys = text_keys(unique)
        if width := _width_in(folder):
            self._check_width(width, folder)
            known, found = VectorCache(folder, self.dim).get(keys)
        todo = np.flatnonzero(~found)
        if len(todo):
            known = self._ask(unique, todo, known, keys, folder, batch_size, progress)
        place = {text: row for row, text in enumerate(unique)}
        rows = np.array([place.get(text, len(unique)) for text in texts], int)
        return np.concatenate([known, np.zeros((1, self.dim), np.float32)])[rows]

    def _ask(self, texts, todo, known, keys, folder, batch_size, progress):
        """The vectors of all texts, those of `todo` from the endpoint; each batch is kept."""
        log.info("encoding %s texts (%s, %s)", f"{len(todo):,}", self.name, self.served_model)
        endpoint = EmbeddingEndpoint(
            self.url, api_key=backend.endpoint_key() or None, timeout=_SECONDS, retries=_RETRIES
        )
        hidden = None if progress else True  # None = where there is a terminal
        pace = Pace(log)
        with tqdm(total=len(todo), desc=f"encoding ({self.served_model})", disable=hidden) as bar:
            for start in range(0, len(todo), batch_size):
                batch = todo[start : start + batch_size]
                try:
                    vectors = endpoint.embed(
                        [self.prefix + texts[row] for row in batch], self.served_model
                    )
                except (OSError, LookupError, ValueError, RuntimeError) as error:
                    if not start or folder is None:
                        raise
                    kept = f"{start:,} of {len(todo):,} texts are in the cache: run it again"
                    raise type(error)(f"{error} ({kept} to go on from there)") from None
                self._check_width(vectors.shape[1], folder)
                if known.shape[1] != self.dim:
                    known = np.zeros((len(texts), self.dim), np.float32)
                known[batch] = vectors
                if folder is not None:
                    VectorCache(folder, self.dim).add(keys[batch], vectors)
                    if not _width_in(folder):
                        with backend.whole_file(folder / _WIDTH) as beside:
                            beside.write_text(str(self.dim), encoding="utf-8")
                bar.update(len(batch))
                if bar.disable:
                    done = start + len(batch)
                    pace.say("encoded %s of %s texts", f"{done:,}", f"{len(todo):,}")
        if folder is not None:
            VectorCache(folder, self.dim).compact()
        return known

    def _check_width(self, width, folder):
        if self.dim and width != self.dim:
            # else training anew would meet the old vectors again
            kept = "" if folder is None else f", and delete the folder of its old vectors: {folder}"
            raise ValueError(
                f"{self.name}: expected vectors of {self.dim} numbers, as before. Received: "
                f"{width}. Is {self.served_model!r} another model now? Train anew with it{kept}."
            )
        self.dim = width

    def _folder(self, cache):
        if cache is None or cache is False:
            return None
        root = backend.cache_dir() / "vectors" if cache is True else Path(cache)
        return root / f"endpoint-{self.fingerprint[:32]}"

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of address, model and prefix: what the endpoint computes is not known."""
        settings = json.dumps([self.url, self.served_model, self.prefix])
        return hashlib.sha256(settings.encode()).hexdigest()

    @property
    def description(self) -> dict[str, Any]:
        """What a manifest records: plain data, without a key."""
        note = "texts are sent to an endpoint, which new items need too"
        more = {"architecture": self.served_model, "prefix": self.prefix}
        return self._described(licence=self.licence, note=note, **more)

    def save(self, folder: str | Path) -> None:
        """Writes address, model and width; no key."""
        self._write_settings(Path(folder), url=self.url)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote."""
        data = json.loads((Path(folder) / ENCODER_FILE).read_text(encoding="utf-8"))
        return cls(data["url"], model=data["architecture"], prefix=data["prefix"], dim=data["dim"])


def _width_in(folder):
    """Width of the vectors in the cache of an endpoint; 0 = not known."""
    path = None if folder is None else folder / _WIDTH
    text = path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""
    return int(text) if text.isdecimal() else 0
