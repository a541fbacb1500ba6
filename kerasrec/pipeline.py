"""`train`: tables in, a served-ready version out. The command line's `train` is this function."""

import hashlib
import logging
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from kerasrec import artifacts, sequences
from kerasrec.data import read_items
from kerasrec.encoder import build_encoder, load_text_encoder
from kerasrec.export import export, read_training_state
from kerasrec.finetuning import add_lora, set_trainable
from kerasrec.models import TextEncoder, build_model
from kerasrec.options import check_options, resolve_preset
from kerasrec.textvectors import fit_whitening
from kerasrec.trainer import Ranker, Trainer, hold_out_last, make_validation, ranking_quality

log = logging.getLogger(__name__)
DEFAULT_ENCODER = "e5-small"
MODES = ("frozen", "finetune", "lora")
#: weights of the MLP scorer that validation chooses from
SCORER_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Trained(NamedTuple):
    """What `train` gives back.

    version: Path of the exported version.  history: DataFrame, one row per epoch.
    metrics: dict, quality on validation.  manifest: dict, as in the version.
    """

    version: Path
    history: pd.DataFrame
    metrics: dict
    manifest: dict


def train(
    interactions,
    items,
    *,
    name,
    valid=None,
    out="saved_models",
    preset="balanced",
    options=None,
    progress=True,
):
    """Encode the texts, fit a model, choose the fusion on validation, export a version.

    Args:
        interactions: `Interactions`, taken as they are.
        items: `Items`; the catalogue is all of them.
        name: of the model; versions go to `out/name/1`, `out/name/2`, ...
        valid: `Interactions` to stop and tune on; None = the last event of each user.
        out: parent folder.
        preset: "fast", "balanced" or "accurate".
        options: dict of sections `encoder`, `model`, `trainer`, each a dict of options that
            override the preset.

    Returns:
        `Trained`.

    Raises:
        ValueError: unknown options, or data that nothing can be learned from.
    """
    started = time.perf_counter()
    options = resolve_preset(preset, options or {})
    check_options(options)
    histories = sequences.make_histories(interactions, items)
    if valid is None:
        fitted, validation = hold_out_last(histories)
    else:
        fitted = histories
        validation = make_validation(histories, sequences.make_histories(valid, items))
    if not len(validation.target_items):
        raise ValueError(
            "Validation needs users with a past: no validation user has a training event. "
            "Give other events to valid, or leave it out to validate on each user's last event."
        )
    encoder, text, whitening = text_part(items, **options["encoder"], progress=progress)
    feature_flags = {
        "time_gaps": bool(histories.timestamps.any()),
        "events": len(np.unique(histories.events)) > 1,
    }

    def build():
        return build_model(len(items), text=text, **{**feature_flags, **options["model"]})

    trainer = Trainer(build, progress=progress, **options["trainer"])
    history = trainer.fit(fitted, validation)
    scorer_weight, metrics = choose_scorer_weight(trainer.model, validation)
    manifest = {
        "name": name,
        "preset": preset,
        "trainer": {key: _plain(v) for key, v in options["trainer"].items()},
        "encoder_options": options["encoder"],
        "text_template": options["encoder"].get("template", "{title}"),
        "inputs": feature_flags,
        "data": fingerprint(interactions, items),
        "validation": "given" if valid is not None else "last event of each user",
        "metrics": metrics,
        "epochs": len(history),
        "train_seconds": round(time.perf_counter() - started, 1),
    }
    version = export(
        trainer.model,
        Path(out) / name,
        items=items,
        popularity=popularity_scores(histories, len(items)),
        manifest=manifest,
        encoder=encoder,
        whitening=whitening,
        scorer_weight=scorer_weight,
        history=history,
        probe=_probe(items, fitted),
    )
    return Trained(version, history, metrics, manifest)


def text_part(
    items,
    *,
    name=DEFAULT_ENCODER,
    mode="frozen",
    template="{title}",
    max_tokens=64,
    pooling=None,
    prefix=None,
    whitening_dim=128,
    layers="all",
    cache=True,
    progress=True,
):
    """The text side of `build_model`: `(encoder, text, whitening)`.

    Args:
        items: `Items`.
        name: for `build_encoder`, or "none" for items known by their id alone.
        mode: "frozen", "finetune" (`layers`: "all" or how many of the top layers) or "lora".
        template: of the item text, with the names of columns.
        max_tokens, pooling, prefix: for `build_encoder`.
        whitening_dim: width after whitening.
        cache: as in `encode`.
    """
    if mode not in MODES:
        raise ValueError(f"encoder mode must be one of {', '.join(MODES)}. Received: {mode!r}.")
    if name == "none":
        return None, None, None
    encoder = build_encoder(name, max_tokens=max_tokens, pooling=pooling, prefix=prefix)
    texts = items.texts(template)
    encoder.fit(texts)
    vectors = encoder.encode_items(items, template, cache=cache, progress=progress)
    width = min(whitening_dim, vectors.shape[1], max(len(items) - 1, 1))
    whitening = fit_whitening(vectors, width)
    if mode == "frozen":
        return encoder, whitening.apply(vectors), whitening
    if encoder.model is None:
        raise ValueError(
            f"encoder mode {mode!r} needs a pretrained encoder; {name} has no weights."
        )
    _prepare_encoder(encoder, mode, layers)
    tokens, segments = encoder.tokenizer.encode_batch(texts)
    return encoder, TextEncoder(encoder.model, tokens, segments, whitening), whitening


def _prepare_encoder(encoder, mode, layers):
    if mode == "lora":
        encoder.model = add_lora(encoder.model)
    else:
        set_trainable(encoder.model, layers)


def rebuild(version):
    """The `Model` of an exported version with its weights, and its text side.

    Args:
        version: path of a version folder.

    Returns:
        `(model, encoder, state)`: `Model`, the encoder or None, `TrainingState`.

    Raises:
        ArtifactError: the version holds no training state.
        ValueError: its encoder cannot be had here (a checkpoint folder that is gone).
    """
    manifest, state = artifacts.read_manifest(version), read_training_state(version)
    encoder, text = None, None
    if manifest["encoder"] is not None:
        wanted = manifest["encoder_options"]
        if manifest["encoder"]["kind"] == "bert":
            keys = ("max_tokens", "pooling", "prefix")
            chosen = {key: wanted[key] for key in keys if key in wanted}
            encoder = build_encoder(wanted.get("name", DEFAULT_ENCODER), **chosen)
        else:
            encoder = load_text_encoder(Path(version) / "assets.extra" / "encoder")
        text = _empty_text(encoder, wanted, state)
    model = build_model(text=text, **state.options)
    model.training.set_weights(state.weights)
    return model, encoder, state


def _empty_text(encoder, wanted, state):
    """The `text` argument of `build_model` in the right shape; `set_weights` fills it."""
    num_items = state.options["num_items"]
    if wanted.get("mode", "frozen") == "frozen":
        return np.zeros((num_items, state.whitening.matrix.shape[1]), np.float32)
    _prepare_encoder(encoder, wanted["mode"], wanted.get("layers", "all"))
    width = next(w.shape[1] for w in state.weights if w.dtype == np.int32)
    tokens = np.zeros((num_items, width), np.int32)
    return TextEncoder(encoder.model, tokens, tokens, state.whitening)


def export_again(model, *, k=None, scorer_weight=None):
    """Write a new version of a model with other export options.

    Args:
        model: `saved_models/NAME` or a version folder.
        k: length of the lists of the signatures.
        scorer_weight: weight of the MLP in the fused score.

    Returns:
        Path of the new version.
    """
    version = artifacts.find_version(model)
    manifest = artifacts.read_manifest(version)
    rebuilt, encoder, state = rebuild(version)
    table = pd.read_csv(version / "assets.extra" / "items.csv.gz", dtype=str, keep_default_na=False)
    return export(
        rebuilt,
        version.parent,
        items=read_items(table),
        popularity=state.popularity,
        manifest={**_kept(manifest), "parent": manifest["version"]},
        encoder=encoder,
        whitening=state.whitening,
        scorer_weight=manifest["scorer_weight"] if scorer_weight is None else float(scorer_weight),
        k=manifest["k"] if k is None else int(k),
    )


def _kept(manifest):
    """What a re-exported version takes over from its parent's manifest."""
    written = ("format", "version", "k", "scorer_weight", "num_items", "options", "packages")
    return {key: value for key, value in manifest.items() if key not in (*written, "encoder")}


def choose_scorer_weight(model, validation):
    """The weight of the MLP in the fused score that validates best, and its quality.

    Returns:
        `(weight, metrics)`; metrics holds NDCG@10 and recall@10 at every weight tried.
    """
    ranker = Ranker(model)
    tried = {}
    for weight in SCORER_WEIGHTS:
        lists = ranker.top(validation.histories, scorer_weight=weight)
        tried[weight] = ranking_quality(lists, validation)
    best = max(tried, key=lambda weight: (tried[weight]["ndcg@10"], -weight))
    by_weight = {str(weight): quality["ndcg@10"] for weight, quality in tried.items()}
    metrics = {f"valid_{key}": value for key, value in tried[best].items()}
    return best, {**metrics, "valid_ndcg@10_by_scorer_weight": by_weight}


def popularity_scores(histories, num_items):
    """Log of one plus the weighted events of each item, float32 `(num_items + 1,)`."""
    weight = np.maximum(histories.values, 0)
    counts = np.bincount(histories.items, weights=weight, minlength=num_items + 1)
    return np.log1p(counts).astype(np.float32)


def fingerprint(interactions, items):
    """What identifies the data in a manifest: counts and a sha256 of the tables."""
    digest = hashlib.sha256()
    frame = interactions.frame
    for column in ("user_id", "item_id", "timestamp"):
        digest.update(pd.util.hash_pandas_object(frame[column], index=False).to_numpy().tobytes())
    digest.update(pd.util.hash_pandas_object(items.frame, index=False).to_numpy().tobytes())
    return {
        "sha256": digest.hexdigest(),
        "interactions": len(frame),
        "users": interactions.num_users,
        "items": len(items),
        "columns": {**interactions.columns},
    }


def _probe(items, histories):
    """A few real histories for the comparison after export, and an empty one."""
    ids = items.ids
    some = histories.select(np.arange(min(8, histories.num_users)))
    rows = np.split(some.items, some.offsets[1:-1])
    return [list(ids[row[-60:] - 1]) for row in rows] + [[]]


def _plain(value):
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)
