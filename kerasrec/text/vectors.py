"""Defines what gives vectors of texts (`Encoder`), and keeps the vectors on disk.

`VectorCache` keeps one row per text under its content hash, so that a text is encoded once per
encoder. The folder may be deleted at any time; several processes may use it at once.
"""

import difflib
import hashlib
import json
import logging
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self
from urllib.parse import urlsplit

import numpy as np

from kerasrec.backend import whole_file
from kerasrec.data.interactions import Items
from kerasrec.features.whitening import Whitening as Whitening
from kerasrec.features.whitening import fit_whitening as fit_whitening

log = logging.getLogger(__name__)

SMALL_SHARD = 1024  # rows; when more than MAX_SMALL_SHARDS are smaller, they are merged into one
MAX_SMALL_SHARDS = 32
MERGED_SHARD = 65_536  # rows of a merged file, about
ENCODER_FILE = "encoder.json"


#: encoders that a name stands for; `kerasrec.train` knows "none" too: no texts are read
NAMES = ("e5-small", "tfidf", "vectors:FILE", "endpoint:URL")


def check_encoder_name(name: str | Path) -> None:
    """Refuses what is neither the name of an encoder nor a folder, before anything is loaded.

    Raises:
        FileNotFoundError: with the nearest name.
        ValueError: `endpoint:` with what is no address, or an address that holds a secret.

    >>> check_encoder_name("nonee")
    Traceback (most recent call last):
    FileNotFoundError: The encoder 'nonee' is neither a folder nor a known name. Known names:
    e5-small, tfidf, vectors:FILE, endpoint:URL; none = no texts. Did you mean 'none'?
    """
    name = str(name)
    if name.startswith("endpoint:"):
        check_endpoint_url(name.partition(":")[2])
        return
    if name in (*NAMES, "none") or name.startswith("vectors:") or Path(name).is_dir():
        return
    near = difflib.get_close_matches(name, (*NAMES, "none"), n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    is_file = Path(name).is_file()
    what = "is a file, not a folder" if is_file else "is neither a folder nor a known name"
    raise FileNotFoundError(
        f"The encoder {name!r} {what}. Known names: {', '.join(NAMES)}; none = no texts.{hint}"
    )


def check_endpoint_url(url: str) -> str:
    """Gives an address that a manifest may hold; one with a user, a password or a query is refused.

    >>> check_endpoint_url("http://me:word@localhost:8000/v1")
    Traceback (most recent call last):
    ValueError: endpoint: expected an address without user, password and query, which a version
    would keep. Received one for localhost. Put the key into KERASREC_ENDPOINT_KEY.
    """
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_one = False
    if not is_one:
        raise ValueError(
            "endpoint: expected the address where OpenAI's protocol begins, such as "
            f"endpoint:http://localhost:8000/v1. Received: {url.rpartition('@')[2][:60]!r}."
        )
    if "@" in url or parts.query or parts.fragment:
        raise ValueError(
            "endpoint: expected an address without user, password and query, which a version would "
            f"keep. Received one for {parts.hostname}. Put the key into KERASREC_ENDPOINT_KEY."
        )
    return url


def text_keys(texts: Iterable[str]) -> np.ndarray:
    """Hashes the content of texts: uint64, `(num_texts, 2)` (the first half of a sha256).

    >>> bool((text_keys(["机器学习"]) == text_keys(["机器学习", "x"])[:1]).all())
    True
    """
    digests = [hashlib.sha256(t.encode("utf-8", "surrogatepass")).digest()[:16] for t in texts]
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


class Shard(NamedTuple):
    """One file of the cache."""

    keys: np.ndarray  # (num_rows, 2) uint64
    checks: np.ndarray  # (num_rows,) uint64
    vectors: np.ndarray  # (num_rows, dim) float32, memory-mapped when read


class VectorCache:
    """Keeps rows of float32 in one folder and finds them by key.

    Each `add` writes one new file beside and renames it, so that a killed run leaves whole files
    only. Each row carries a checksum: a damaged file or row is left out with a warning, and encoded
    again.

    Args:
        folder: one folder per encoder; made at the first `add`.
        dim: length of a row.
    """

    def __init__(self, folder: str | Path, dim: int) -> None:
        self.folder = Path(folder)
        self.dim = int(dim)

    def get(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the vectors of the keys that are there.

        Args:
            keys: uint64, `(num_keys, 2)`, from `text_keys`.

        Returns:
            `(vectors, found_mask)`: float32 `(num_keys, dim)` and bool `(num_keys,)` (True = there;
            the other rows are 0).
        """
        keys = np.asarray(keys, np.uint64).reshape(-1, 2)
        vectors = np.zeros((len(keys), self.dim), np.float32)
        found_mask = np.zeros(len(keys), bool)
        for path in self._paths():
            shard = self._read(path)
            if shard is None or not len(shard.keys):
                continue
            by_key = np.argsort(shard.keys[:, 0], kind="stable")
            place = np.searchsorted(shard.keys[by_key, 0], keys[:, 0])
            row = by_key[np.minimum(place, len(by_key) - 1)]  # in the shard, for each key
            hit = np.flatnonzero((shard.keys[row] == keys).all(axis=1) & ~found_mask)
            taken = shard.vectors[row[hit]]
            sound = _checksums(taken) == shard.checks[row[hit]]
            if not sound.all():
                num_damaged = int((~sound).sum())
                log.warning("%s: damaged vectors, encoded again: %d.", path, num_damaged)
            vectors[hit[sound]] = taken[sound]
            found_mask[hit[sound]] = True
        return vectors, found_mask

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Writes one new file, whole or not at all.

        Args:
            keys: uint64, `(num_rows, 2)`.
            vectors: float32, `(num_rows, dim)`.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        self._write(Shard(np.asarray(keys, np.uint64), _checksums(vectors), vectors))

    def compact(self) -> None:
        """Merges the small files when there are many (each lookup of one new text adds one)."""
        shards = [(path, self._read(path)) for path in self._paths()]
        small = [(p, s) for p, s in shards if s is not None and len(s.keys) < SMALL_SHARD]
        if len(small) <= MAX_SMALL_SHARDS:
            return
        group_of = np.cumsum([len(shard.keys) for _, shard in small]) // MERGED_SHARD
        for group in np.unique(group_of):
            members = [small[i] for i in np.flatnonzero(group_of == group)]
            merged = Shard(*map(np.concatenate, zip(*(s for _, s in members), strict=True)))
            sound = np.flatnonzero(_checksums(merged.vectors) == merged.checks)
            keep = sound[np.unique(merged.keys[sound], axis=0, return_index=True)[1]]
            self._write(Shard(*(column[keep] for column in merged)))
            for path, _ in members:  # after the new file is there: another reader loses nothing
                path.unlink(missing_ok=True)

    def _paths(self):
        return sorted(self.folder.glob("*.shard"))

    def _read(self, path):
        """A `Shard`; None when it is damaged (then the file is deleted) or gone."""
        try:
            with path.open("rb") as file:
                keys = np.load(file, allow_pickle=False)
                checks = np.load(file, allow_pickle=False)
                offset = file.tell()
            shape = (len(keys), self.dim)
            vectors = np.memmap(path, np.float32, "r", offset, shape) if len(keys) else None
            if keys.shape != (len(checks), 2) or keys.dtype != np.uint64 != checks.dtype:
                raise ValueError("its keys have another form")
        except FileNotFoundError:  # merged by another process
            return None
        except (ValueError, OSError, EOFError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else "unreadable"
            log.warning(
                "%s is damaged (%s); it is dropped and its texts encoded again.", path, reason
            )
            path.unlink(missing_ok=True)
            return None
        return Shard(keys, checks, vectors)

    def _write(self, shard):
        """Keys and checksums as npy parts, then the bare vectors (so that they can be mapped)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{uuid.uuid4().hex}.shard"
        with whole_file(path) as beside, open(beside, "wb") as file:
            np.save(file, shard.keys, allow_pickle=False)
            np.save(file, shard.checks, allow_pickle=False)
            file.write(np.ascontiguousarray(shard.vectors))


def _checksums(vectors):
    """uint64 `(num_rows,)`. A row of zeros never fits: that is what a lost page looks like."""
    bits = np.ascontiguousarray(vectors).view("<u4").astype(np.uint64)
    weights = np.arange(1, bits.shape[1] + 1, dtype=np.uint64)
    return (bits * weights).sum(axis=1, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)


# --- Encoders ---


class Encoder(Protocol):
    """What every encoder offers: the contract, and the lines that all encoders share.

    Attributes:
        name: what it was built from, such as `tfidf` or the name of a checkpoint folder.
        kind: `bert`, `tfidf`, `vectors` or `endpoint`.
        dim: width of its vectors.
        licence: of its weights, as far as it is known.
        tokenizer: a `TextTokenizer`; None where there are no tokens.
        model: Keras model `[token ids, segment ids] -> (batch, dim)`; None where no weights learn,
            or where they live in a SavedModel.
    """

    kind: ClassVar[str]
    name: str
    dim: int
    licence: str
    tokenizer: Any = None
    model: Any = None

    @property
    @abstractmethod
    def fingerprint(self) -> str | None:
        """sha256 (hex) of all that decides the vectors; equal fingerprints give equal vectors."""

    @property
    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Plain data for a manifest: `name`, `kind`, `dim`, `licence`, `fingerprint` and more."""

    @abstractmethod
    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        cache: bool | str | Path | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Gives the vectors of texts: float32 `(num_texts, dim)`."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes what `load_text_encoder` reads."""

    def fit(self, texts: Sequence[str]) -> Self:
        """Learns from texts where there is something to learn; gives itself back."""
        return self

    def encode_items(self, items: Items, template: str = "{title}", **options: Any) -> np.ndarray:
        """Gives the vectors of items: float32 `(num_items, dim)`; `options` go to `encode`."""
        return self.encode(items.texts(template, blank=True), **options)

    def whitened(
        self, vectors: np.ndarray, whitening: Whitening, items: Items, template: str = "{title}"
    ) -> np.ndarray:
        """Whitens the vectors of items; an item with a blank text gets zeros."""
        vectors = whitening.apply(vectors)
        vectors[[not text for text in items.texts(template, blank=True)]] = 0
        return vectors

    def _described(self, **own: Any) -> dict[str, Any]:
        """The description: what all encoders have, with `own` in between."""
        common = {"name": self.name, "kind": self.kind, "dim": self.dim}
        return {**common, **own, "fingerprint": self.fingerprint}

    def _write_settings(self, folder: Path, indent: int | None = None, **more: Any) -> None:
        """Writes the description and `more` as `encoder.json`; makes the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.description | more, ensure_ascii=False, indent=indent)
        (folder / ENCODER_FILE).write_text(text, encoding="utf-8")
