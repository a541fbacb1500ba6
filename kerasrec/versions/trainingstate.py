"""Keeps what further training of a version needs: weights, tables and options; no pickle."""

import functools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kerasrec.checks import ArtifactError
from kerasrec.data.interactions import Items, changed_texts
from kerasrec.features.itemfeatures import ItemFeatures
from kerasrec.models.build import Model, TextEncoder, build_model
from kerasrec.models.ensemble import average_models
from kerasrec.models.itemvectors import ItemTokens, TextTable
from kerasrec.models.textpart import prepare_encoder
from kerasrec.text.encoders import build_encoder, load_text_encoder, with_features
from kerasrec.text.vectors import Whitening
from kerasrec.text.withfeatures import of_content
from kerasrec.versions import folders


class TrainingState(NamedTuple):
    """Holds what a version keeps for further training.

    options: of `build_model`, and `members` where several models are averaged.
    weights: of `Model.training`, in its order.
    whitening: `Whitening` or None.
    """

    options: dict
    weights: list
    whitening: Any


def write_training_state(
    version: str | Path,
    model: Model,
    whitening: Whitening | None = None,
    history: pd.DataFrame | None = None,
) -> None:
    """Writes the state of a trained `Model`, and the table of its epochs, into a version folder."""
    folder = Path(version) / folders.TRAIN
    folder.mkdir(parents=True)
    arrays = {f"w{i:04d}": w for i, w in enumerate(model.training.get_weights())}
    if whitening is not None:
        arrays.update(whitening_mean=whitening.mean, whitening_matrix=whitening.matrix)
    np.savez(folder / "state.npz", **arrays)
    text = json.dumps(plain(model.config), ensure_ascii=False, indent=1)
    (folder / "options.json").write_text(text + "\n", encoding="utf-8")
    if history is not None:
        history.to_csv(Path(version) / folders.HISTORY, index=False)


def read_training_state(version: str | Path) -> TrainingState:
    """Reads the `TrainingState` of a version folder.

    Raises:
        ArtifactError: the version holds none.
    """
    folder = Path(version) / folders.TRAIN
    if not (folder / "state.npz").is_file():
        raise ArtifactError(f"{version} holds no weights for further training.")
    options = json.loads((folder / "options.json").read_text(encoding="utf-8"))
    with np.load(folder / "state.npz") as saved:
        arrays = {name: saved[name] for name in saved.files}
    whitening = None
    if "whitening_mean" in arrays:
        constants = arrays.pop("whitening_mean"), arrays.pop("whitening_matrix")
        whitening = Whitening(*constants, options.get("features", 0))
    return TrainingState(options, [arrays[n] for n in sorted(arrays)], whitening)


class Rebuilt:
    """Rebuilds the trained `Model` of a version, its encoder and its state, to go on with.

    Attributes:
        model: `Model`.
        state: `TrainingState`.
        changed: int `(n,)`, rows of the items it was trained on that have another text now.

    Args:
        version: path of a version folder.
        items: `Items`: the catalogue that the model is to know, which begins with the items it was
            trained on; the others are known by their text alone at first, as after `add_items`.
            None = the items it was trained on.

    Raises:
        ArtifactError: the version holds no training state, or its encoder is another one by now.
        FileNotFoundError: its encoder is needed and cannot be had here (a checkpoint folder that is
            gone).
    """

    def __init__(self, version: str | Path, items: Items | None = None) -> None:
        self._version, self._manifest = Path(version), folders.read_manifest(version)
        self.state = read_training_state(version)
        if self._manifest.encoder is not None:
            self._manifest.check_trained(version)
        self._wanted: dict[str, Any] = self._manifest.encoder_options or {}
        options = dict(self.state.options)
        before = options["num_items"]
        new = None if items is None else Items(items.frame[before:].reset_index(drop=True))
        options["num_items"] = before if items is None else len(items)
        if "code_sizes" in options:  # `set_weights` fills in those that are known
            shape = (options["num_items"], len(options["code_sizes"]))
            options["codes"] = np.full(shape, -1, np.int32)
        members = options.pop("members", 1)
        text = None if self._manifest.encoder is None else self._text(new)
        self.model = average_models([build_model(text=text, **options) for _ in range(members)])
        fresh = self.model.training.get_weights()
        self.model.training.set_weights(_grown(self.state.weights, fresh, before + 1))
        self.changed = self._changed(items, before)  # rows whose text is another one by now
        if len(self.changed) and items is not None:
            self._correct(Items(items.frame.iloc[self.changed].reset_index(drop=True)))
        if text is not None and not self._is_frozen():
            self._check(self.encoder)  # it has its weights by now

    @functools.cached_property
    def encoder(self) -> Any:
        """The encoder with its weights, or None.

        Made where it is asked for, which takes seconds: a frozen one is needed for new texts only.
        """
        known = self._manifest.encoder
        if known is None:
            return None
        if known.kind != "bert":
            encoder = load_text_encoder(self._version / folders.ENCODER)
        else:
            same: dict[str, Any] = {"max_tokens": known.max_tokens, "pooling": known.pooling}
            same |= {"prefix": known.prefix, "model": known.architecture}
            base = build_encoder(self._wanted["name"], **same)
            encoder = with_features(base, self._version / folders.ENCODER)
        if self._is_frozen():
            self._check(encoder)
        return encoder

    def _changed(self, items, before):
        """Which of the items that it was trained on have another text, or other features, now."""
        encoder = self._manifest.encoder
        if items is None or encoder is None:
            return np.zeros(0, int)
        known = folders.read_catalogue(self._version).iloc[:before]
        now = items.frame.iloc[:before]
        changed = np.zeros(0, int)
        if encoder.kind not in ("vectors", "features"):
            changed = changed_texts(known, now, self._wanted["template"])
        if features := ItemFeatures.load(self._version / folders.ENCODER):
            changed = np.union1d(changed, features.changed(known, now))
        return changed

    def _correct(self, items):
        """Put the texts of `items`, the rows of `changed`, into the tables of the model."""
        rows = self.changed + 1
        for layer in self.model.training.submodules:
            if isinstance(layer, TextTable):
                vectors = self.text_vectors(items)  # with an encoder that learns: features alone
                _put(layer.table, rows, vectors[:, vectors.shape[1] - layer.text_dim :])
            elif isinstance(layer, ItemTokens):
                texts = items.texts(self._wanted["template"])
                given = self.encoder.tokenizer.encode_batch(texts)
                for table, found in zip((layer.token_ids, layer.segment_ids), given, strict=True):
                    width = min(found.shape[1], layer.max_tokens)
                    values = np.zeros((len(rows), layer.max_tokens), np.int32)
                    values[:, :width] = found[:, :width]
                    _put(table, rows, values)

    def _is_frozen(self):
        return self._wanted["mode"] == "frozen"

    def _check(self, encoder):
        if encoder.fingerprint != self._manifest.encoder.fingerprint:
            name = self._wanted["name"]
            raise ArtifactError(
                f"The encoder {name} is not the one that {self._version} was trained with: its "
                "files have changed. Bring the old ones back, or train anew."
            )

    def text_vectors(self, items: Items) -> np.ndarray:
        """Computes whitened vectors of the texts of `Items`, float32 `(num_items, text_dim)`; 0 if
        blank.
        """
        template = self._wanted["template"]
        vectors = self.encoder.encode_items(items, template, progress=False)
        return self.encoder.whitened(vectors, self.state.whitening, items, template)

    def table_vectors(self, items: Items) -> np.ndarray:
        """The same without categories and numbers: what items are like each other by."""
        features = getattr(self.encoder, "features", None)
        return of_content(self.text_vectors(items), features)

    def _text(self, new):
        """The `text` of `build_model`: zeros, which `set_weights` fills, and the rows of `new`."""
        state = self.state
        if self._is_frozen():
            shape = state.options["num_items"], state.whitening.matrix.shape[1]
            added = [self.text_vectors(new)] if new is not None and len(new) else []
            return np.concatenate([np.zeros(shape, np.float32), *added])
        return _tokens_of(self.encoder, self._wanted, state, new)


def _tokens_of(encoder, wanted, state, new):
    """`TextEncoder` of an encoder that is trained along, see `Rebuilt`."""
    num_items = state.options["num_items"]
    texts = [] if new is None else new.texts(wanted["template"], blank=True)
    prepare_encoder(encoder, wanted["mode"], wanted["layers"])
    width = next(w.shape[1] for w in state.weights if w.dtype == np.int32)
    tokens = [np.zeros((num_items + len(texts), width), np.int32) for _ in range(2)]
    if texts:
        for table, found in zip(tokens, encoder.tokenizer.encode_batch(texts), strict=True):
            found = found[:, :width]
            table[num_items:, : found.shape[1]] = found
    features = None
    if state.whitening.features:
        features = np.zeros((len(tokens[0]), state.whitening.features), np.float32)
        if texts:
            features[num_items:] = encoder.features.rows(new.frame)
    return TextEncoder(encoder.model, *tokens, state.whitening, features)


def _put(table, rows, values):
    """Other values at some rows of a variable."""
    whole = table.numpy()
    whole[rows] = values
    table.assign(whole)


def _grown(weights, fresh, rows):
    """Weights of a model in the shapes of a larger one: tables of `rows` keep the fresh rest."""
    return [
        w if w.shape == f.shape or len(w) != rows else np.concatenate([w, f[rows:]])
        for w, f in zip(weights, fresh, strict=True)
    ]


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Makes JSON values of options; a callable becomes its name, another object its type's.

    >>> plain({"loss": "bpr", "optimizer": print, "epochs": 3})
    {'loss': 'bpr', 'optimizer': 'print', 'epochs': 3}
    """
    return {name: _plain(value) for name, value in options.items()}


def _plain(value):
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, int | float | str | None):
        return value
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return getattr(value, "__name__", type(value).__name__)
