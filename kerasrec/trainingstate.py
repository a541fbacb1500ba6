"""What a version keeps for further training: weights, tables and options; no pickle."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasrec import artifacts
from kerasrec.data import Items
from kerasrec.encoder import build_encoder, load_text_encoder
from kerasrec.ensemble import average_models
from kerasrec.models import TextEncoder, build_model
from kerasrec.textpart import prepare_encoder
from kerasrec.textvectors import Whitening


class TrainingState(NamedTuple):
    """What a version keeps for further training.

    options: of `build_model`, and `members` where several models are averaged.
    weights: of `Model.training`, in its order.
    whitening: `Whitening` or None.
    """

    options: dict
    weights: list
    whitening: Any


def write_training_state(version, model, whitening=None, history=None):
    """Write the state of a trained `Model`, and the table of its epochs, into a version folder."""
    folder = Path(version) / artifacts.TRAIN
    folder.mkdir(parents=True)
    arrays = {f"w{i:04d}": w for i, w in enumerate(model.training.get_weights())}
    if whitening is not None:
        arrays.update(whitening_mean=whitening.mean, whitening_matrix=whitening.matrix)
    np.savez(folder / "state.npz", **arrays)
    text = json.dumps(plain(model.config), ensure_ascii=False, indent=1)
    (folder / "options.json").write_text(text + "\n", encoding="utf-8")
    if history is not None:
        history.to_csv(Path(version) / artifacts.HISTORY, index=False)


def read_training_state(version):
    """The `TrainingState` of a version folder.

    Raises:
        ArtifactError: the version holds none.
    """
    folder = Path(version) / artifacts.TRAIN
    if not (folder / "state.npz").is_file():
        raise artifacts.ArtifactError(f"{version} holds no weights for further training.")
    options = json.loads((folder / "options.json").read_text(encoding="utf-8"))
    with np.load(folder / "state.npz") as saved:
        arrays = {name: saved[name] for name in saved.files}
    whitening = None
    if "whitening_mean" in arrays:
        whitening = Whitening(arrays.pop("whitening_mean"), arrays.pop("whitening_matrix"))
    return TrainingState(options, [arrays[n] for n in sorted(arrays)], whitening)


def rebuild(version, items=None):
    """The trained `Model` of a version, its encoder and its state, to go on with.

    Args:
        version: path of a version folder.
        items: `Items`: the catalogue that the model is to know, which begins with the items it was
            trained on; the others are known by their text alone at first, as after `add_items`.
            None = the items it was trained on.

    Returns:
        `(model, encoder, state)`: `Model`, the encoder or None, `TrainingState`.

    Raises:
        ArtifactError: the version holds no training state, or its encoder is another one by now.
        FileNotFoundError: its encoder cannot be had here (a checkpoint folder that is gone).
    """
    manifest, state = artifacts.read_manifest(version), read_training_state(version)
    encoder, text, known = None, None, manifest["encoder"]
    before = state.options["num_items"]
    new = None if items is None else Items(items.frame[before:].reset_index(drop=True))
    if known is not None:
        wanted = manifest["encoder_options"]
        if known["kind"] == "bert":
            same = {name: known[name] for name in ("max_tokens", "pooling", "prefix")}
            encoder = build_encoder(wanted["name"], model=known["architecture"], **same)
        else:
            encoder = load_text_encoder(Path(version) / artifacts.ENCODER)
        text = _text_of(encoder, wanted, state, new)
    options = dict(state.options)
    options["num_items"] = before if items is None else len(items)
    members = options.pop("members", 1)
    model = average_models([build_model(text=text, **options) for _ in range(members)])
    model.training.set_weights(_grown(state.weights, model.training.get_weights(), before + 1))
    if encoder is not None and encoder.fingerprint != known["fingerprint"]:
        raise artifacts.ArtifactError(
            f"The encoder {wanted['name']} is not the one that {version} was trained with: its "
            "files have changed. Bring the old ones back, or train anew."
        )
    return model, encoder, state


def _text_of(encoder, wanted, state, new):
    """The `text` of `build_model`: zeros, which `set_weights` fills, and the rows of `new`."""
    num_items = state.options["num_items"]
    texts = [] if new is None else new.texts(wanted["template"])
    if wanted["mode"] == "frozen":
        old = np.zeros((num_items, state.whitening.matrix.shape[1]), np.float32)
        if not texts:
            return old
        vectors = state.whitening.apply(encoder.encode_items(new, wanted["template"]))
        if encoder.kind != "vectors":
            vectors[[not text.strip() for text in texts]] = 0
        return np.concatenate([old, vectors])
    prepare_encoder(encoder, wanted["mode"], wanted["layers"])
    width = next(w.shape[1] for w in state.weights if w.dtype == np.int32)
    tokens = [np.zeros((num_items + len(texts), width), np.int32) for _ in range(2)]
    if texts:
        for table, found in zip(tokens, encoder.tokenizer.encode_batch(texts), strict=True):
            found = found[:, :width]
            table[num_items:, : found.shape[1]] = found
    return TextEncoder(encoder.model, *tokens, state.whitening)


def _grown(weights, fresh, rows):
    """Weights of a model in the shapes of a larger one: tables of `rows` keep the fresh rest."""
    return [
        w if w.shape == f.shape or len(w) != rows else np.concatenate([w, f[rows:]])
        for w, f in zip(weights, fresh, strict=True)
    ]


def plain(options):
    """Options as JSON values; a callable by its name, another object by its type's.

    >>> plain({"loss": "bpr", "optimizer": print, "epochs": 3})
    {'loss': 'bpr', 'optimizer': 'print', 'epochs': 3}
    """
    return {name: _plain(value) for name, value in options.items()}


def _plain(value):
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, int | float | str | None):
        return value
    return getattr(value, "__name__", type(value).__name__)
