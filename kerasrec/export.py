"""`export`: a model -> one SavedModel with named signatures, then reload and compare."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasrec import artifacts
from kerasrec.backend import tf
from kerasrec.itemvectors import Whitening
from kerasrec.scoring import exclude, exclude_all_but, rerank, top_k
from kerasrec.sequences import NUM_GAP_BUCKETS
from kerasrec.textvectors import Whitening as WhiteningConstants

DEFAULT_K = 50
_IDS = tf.TensorSpec((None, None), tf.string)
_ROWS = tf.TensorSpec((None, None), tf.int32)
_ONE_ID = tf.TensorSpec((None,), tf.string)
_VECTORS = tf.TensorSpec((None, None), tf.float32)


class ServingModule(tf.Module):
    """What a version holds: tables, variables and functions of core TensorFlow operations only.

    The functions whose names end in `_rows` take item indices; `Recommender` calls them. The
    signatures take and give item ids.
    """

    def __init__(self, model, *, item_vectors, popularity, asset, scorer_weight, k):
        super().__init__()
        self.max_length = model.config["max_length"]
        self.k, self.scorer_weight = k, scorer_weight
        self.interest_model, self.scorer = model.interest, model.scorer
        dim = item_vectors.shape[1]
        self.item_vectors = tf.Variable(item_vectors, shape=(None, dim), name="item_vectors")
        unit = tf.transpose(tf.math.l2_normalize(item_vectors, axis=-1))
        self.item_matrix = tf.Variable(unit, shape=(dim, None), name="item_matrix")
        self.popularity = tf.Variable(popularity, shape=(None,), name="popularity")
        self.temperature = tf.Variable(float(model.loss.temperature()), name="temperature")
        self.asset = tf.saved_model.Asset(str(asset))
        self.index_of_id = _table(self.asset, tf.string, tf.int64, "", -1)
        self.id_of_index = _table(self.asset, tf.int64, tf.string, -1, "")
        self.text_part, self.whitening = model.text_part, None

    # --- item indices in, item indices out ---

    @tf.function(input_signature=[_ROWS, _ROWS, _ROWS])
    def interest_rows(self, history, time_gap, event):
        """U, float32 `(batch, dim)`, of histories of item indices (left-padded, any width)."""
        history, time_gap, event = (
            tf.pad(values, [[0, 0], [1, 0]])[:, -self.max_length :]  # never of width 0
            for values in (history, time_gap, event)
        )
        vectors = tf.gather(self.item_vectors, history)
        return self.interest_model([vectors, history, time_gap, event])

    @tf.function(
        input_signature=[
            _ROWS,
            _ROWS,
            _ROWS,
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((None,), tf.bool),
            tf.TensorSpec((), tf.int32),
        ]
    )
    def recommend_rows(self, history, time_gap, event, allow, deny, keep_seen, k):
        """Best items: int32 index and float32 score, `(batch, k)`; index 0, -inf = none left.

        `allow` and `deny` hold item indices (0 = none; an all-zero row of `allow` allows all).
        A history without a known item is answered by popularity.
        """
        interest = self.interest_rows(history, time_gap, event)
        scores = tf.matmul(interest, self.item_matrix) / self.temperature
        known = tf.reduce_any(history > 0, axis=1)
        scores = tf.where(known[:, None], scores, self.popularity[None])
        seen = tf.where(keep_seen[:, None], 0, history)
        scores = exclude(scores, tf.concat([tf.pad(seen, [[0, 0], [1, 0]]), deny], axis=1))
        scores = exclude_all_but(scores, allow)
        if not self.scorer_weight:
            return top_k(scores, k)
        weight = tf.where(known, self.scorer_weight, 0.0)
        return rerank(scores, interest, self.item_vectors, self.scorer, weight, k)

    @tf.function(input_signature=[_ROWS, _ROWS, _ROWS, _ROWS])
    def score_rows(self, history, time_gap, event, candidates):
        """Fused score, float32 `(batch, c)`, of candidate item indices; -inf for index 0."""
        interest = self.interest_rows(history, time_gap, event)
        vectors = tf.math.l2_normalize(tf.gather(self.item_vectors, candidates), axis=-1)
        scores = tf.einsum("bd,bcd->bc", interest, vectors) / self.temperature
        scores += self.scorer_weight * self.scorer([interest, vectors], training=False)
        known = tf.reduce_any(history > 0, axis=1)
        scores = tf.where(known[:, None], scores, tf.gather(self.popularity, candidates))
        return tf.where(candidates > 0, scores, -float("inf"))

    @tf.function(input_signature=[_VECTORS, _ROWS, tf.TensorSpec((), tf.int32)])
    def similar_rows(self, vectors, deny, k):
        """Items nearest by cosine to `vectors (batch, dim)`: index and cosine, `(batch, k)`."""
        scores = tf.matmul(tf.math.l2_normalize(vectors, axis=-1), self.item_matrix)
        index, values = top_k(exclude(scores, tf.pad(deny, [[0, 0], [1, 0]])), k)
        nothing = tf.reduce_all(vectors == 0, axis=1)[:, None]
        return tf.where(nothing, 0, index), tf.where(nothing, -float("inf"), values)

    def add_text_functions(self, whitening):
        """Functions from new texts to item vectors; `whitening` as fitted on the catalogue."""
        layer = Whitening(*whitening.matrix.shape, name="whitening")
        layer.build(None)
        layer.set_constants(whitening.mean, whitening.matrix)
        self.whitening = layer
        spec = tf.TensorSpec((None, whitening.matrix.shape[0]), tf.float32)

        def place(text_vectors):
            return self.text_part(layer(text_vectors))

        self.place_text = tf.function(place, input_signature=[spec])

    def add_encoder(self, encoder):
        """Function from tokens to item vectors; `encoder` gives what `place_text` takes."""
        self.text_encoder = encoder

        def encode(token_ids, segment_ids):
            return self.place_text(encoder([token_ids, segment_ids], training=False))

        self.encode_tokens = tf.function(encode, input_signature=[_ROWS, _ROWS])

    # --- signatures: item ids in, item ids out ---

    def _index(self, ids):
        return tf.cast(self.index_of_id.lookup(ids) + 1, tf.int32)

    def _history(self, ids):
        """Indices of the known ids, moved to the right end (left-padded)."""
        index = self._index(ids)
        order = tf.argsort(tf.cast(index > 0, tf.int32), axis=1, stable=True)
        return tf.gather(index, order, batch_dims=1), order

    def _named(self, index, scores):
        ids = self.id_of_index.lookup(tf.cast(index, tf.int64) - 1)
        return {"item_ids": ids, "scores": scores}

    def _recommend(self, history, time_gap, allow, deny, keep_seen):
        none = tf.zeros_like(history)
        rows = self.recommend_rows(history, time_gap, none, allow, deny, keep_seen, self.k)
        return self._named(*rows)

    @tf.function(input_signature=[_IDS])
    def serving_default(self, history):
        """Unseen items for histories of item ids, oldest first; `""`, unknown ids are ignored."""
        index, _ = self._history(history)
        batch = tf.shape(index)[0]
        none = tf.zeros((batch, 0), tf.int32)
        return self._recommend(index, tf.zeros_like(index), none, none, tf.fill([batch], False))

    @tf.function(
        input_signature=[
            _IDS,
            tf.TensorSpec((None, None), tf.int64, name="timestamps"),
            tf.TensorSpec((None, None), tf.string, name="allow"),
            tf.TensorSpec((None, None), tf.string, name="deny"),
            tf.TensorSpec((None,), tf.bool, name="keep_seen"),
        ]
    )
    def recommend(self, history, timestamps, allow, deny, keep_seen):
        """The same with times (UTC seconds, 0 = unknown), allow and deny lists, and seen items."""
        index, order = self._history(history)
        times = tf.where(index > 0, tf.gather(timestamps, order, batch_dims=1), 0)
        # an allow list of unknown ids only must not mean "all"
        wanted = self._index(allow)
        unknown = tf.reduce_any(allow != "", axis=1) & tf.reduce_all(wanted == 0, axis=1)
        wanted = tf.where(unknown[:, None], -1, wanted)
        return self._recommend(index, gap_bucket(times), wanted, self._index(deny), keep_seen)

    @tf.function(input_signature=[_IDS])
    def interest(self, history):
        """U, float32 `(batch, dim)`, of unit length."""
        index, _ = self._history(history)
        none = tf.zeros_like(index)
        return {"interest": self.interest_rows(index, none, none)}

    @tf.function(input_signature=[_IDS, tf.TensorSpec((None, None), tf.string, name="candidates")])
    def score(self, history, candidates):
        """Fused score of candidate item ids; -inf for an unknown one."""
        index, _ = self._history(history)
        none = tf.zeros_like(index)
        return {"scores": self.score_rows(index, none, none, self._index(candidates))}

    @tf.function(input_signature=[_ONE_ID])
    def similar(self, item_ids):
        """Items nearest to an item by cosine, without itself."""
        index = self._index(item_ids)
        vectors = tf.gather(self.item_vectors, index)
        return self._named(*self.similar_rows(vectors, index[:, None], self.k))

    @tf.function(input_signature=[_ONE_ID])
    def vectors_of(self, item_ids):
        """Item vectors, float32 `(batch, dim)`; zeros for an unknown id."""
        return {"vectors": tf.gather(self.item_vectors, self._index(item_ids))}

    def signatures(self):
        """Signature name -> function."""
        return {
            "serving_default": self.serving_default,
            "recommend": self.recommend,
            "interest": self.interest,
            "score": self.score,
            "similar": self.similar,
            "item_vectors": self.vectors_of,
        }


def _table(asset, key_type, value_type, key_default, default):
    """Static table between the lines of the id file and their numbers."""
    whole, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    by_id = key_type == tf.string
    source = tf.lookup.TextFileInitializer(
        asset.asset_path,
        key_type,
        whole if by_id else number,
        value_type,
        number if by_id else whole,
    )
    return tf.lookup.StaticHashTable(source, default)


def gap_bucket(timestamps):
    """In-graph twin of `sequences.gap_buckets`: int64 `(batch, time)` -> int32, same shape."""
    before = tf.pad(timestamps, [[0, 0], [1, 0]])[:, :-1]
    gap = tf.cast(tf.maximum(timestamps - before, 0), tf.float64)
    bucket = 1 + tf.cast(tf.math.log(gap + 1) / np.log(2.0) + 1e-9, tf.int32)
    known = (timestamps > 0) & (before > 0)
    return tf.where(known, tf.minimum(bucket, NUM_GAP_BUCKETS), 0)


def export(
    model,
    base,
    *,
    items,
    popularity,
    manifest,
    encoder=None,
    whitening=None,
    scorer_weight=0.0,
    history=None,
    probe=None,
    k=DEFAULT_K,
):
    """Write the next version of a model, reload it in a fresh process and compare.

    Args:
        model: `Model`, trained.
        base: `saved_models/NAME`.
        items: `Items`, the catalogue in the order of the item indices.
        popularity: float, `(num_items + 1,)`, the scores of the answer to an empty history.
        manifest: dict of what is known of the run (data, options, metrics).
        encoder: the text encoder that made the text part, or None.
        whitening: `Whitening` between encoder and text part; needed with `encoder`.
        scorer_weight: weight of the MLP in the fused score; 0 leaves it out.
        history: DataFrame of the training run, kept with the version.
        probe: list of histories (lists of item ids) to compare on; default: a few of the catalogue.
        k: length of the lists of the signatures.

    Returns:
        Path of the version folder.

    Raises:
        ArtifactError: the reloaded version answers differently; nothing is published then.
        ValueError: an item id that a line of a text file cannot hold.
    """
    ids = items.ids
    _check_ids(ids)
    k = min(k, len(ids))
    probe = [list(ids[:3]), list(ids[-2:]), []] if probe is None else probe
    summary = {
        "k": k,
        "scorer_weight": scorer_weight,
        "num_items": len(ids),
        "options": _plain(model.config),
        "encoder": None if encoder is None else encoder.description,
        "encodes_texts": encoder is not None and encoder.kind != "vectors",
        "packages": _packages(),
        **manifest,
    }
    with artifacts.new_version(base, summary) as (folder, result):
        asset = folder.parent / f"{folder.name}-item_ids" / "item_ids.txt"
        try:
            asset.parent.mkdir()
            asset.write_text("".join(f"{i}\n" for i in ids), encoding="utf-8", newline="\n")
            module = _module(model, asset, popularity, scorer_weight, k, encoder, whitening)
            tf.saved_model.save(module, str(folder), signatures=module.signatures())
        finally:
            asset.unlink(missing_ok=True)
            asset.parent.rmdir()
        extra = folder / "assets.extra"
        _write_training_state(model, extra / "train", popularity, whitening)
        if history is not None:
            history.to_csv(extra / "train" / "history.csv", index=False)
        items.frame.to_csv(extra / "items.csv.gz", index=False)
        if encoder is not None:
            encoder.save(extra / "encoder")
        _compare(module, folder, probe)
    return result["path"]


def _module(model, asset, popularity, scorer_weight, k, encoder, whitening):
    from kerasrec.trainer import Ranker

    module = ServingModule(
        model,
        item_vectors=Ranker(model).item_vectors(),
        popularity=tf.constant(popularity, tf.float32),
        asset=asset,
        scorer_weight=scorer_weight,
        k=k,
    )
    if encoder is not None and model.text_part is not None:
        module.add_text_functions(whitening)
        if encoder.kind == "bert":
            module.add_encoder(encoder.model)
    return module


def _check_ids(ids):
    bad = [i for i in ids if not i or "\n" in i or "\r" in i]
    if bad:
        raise ValueError(
            "Item ids must be non-empty and hold no line break: an export lists one per line. "
            f"Received: {bad[0]!r} and {len(bad) - 1} more. Rename them in the items table."
        )


def _plain(config):
    """Options as JSON values; a callable by its name."""
    return {key: getattr(v, "__name__", v) if callable(v) else v for key, v in config.items()}


def _packages():
    import platform

    import tf_keras

    from kerasrec import __version__

    return {
        "kerasrec": __version__,
        "tensorflow": tf.__version__,
        "tf_keras": tf_keras.__version__,
        "python": platform.python_version(),
    }


def _write_training_state(model, folder, popularity, whitening):
    """Weights, tables and options for further training; no pickle."""
    folder.mkdir(parents=True)
    arrays = {f"w{i:04d}": w for i, w in enumerate(model.training.get_weights())}
    if whitening is not None:
        arrays.update(whitening_mean=whitening.mean, whitening_matrix=whitening.matrix)
    np.savez(folder / "state.npz", popularity=popularity, **arrays)
    (folder / "options.json").write_text(json.dumps(_plain(model.config), indent=1) + "\n")


class TrainingState(NamedTuple):
    """What a version keeps for further training.

    options: of `build_model`.  weights: of `Model.training`, in its order.
    popularity: float32 `(num_items + 1,)`.  whitening: `Whitening` or None.
    """

    options: dict
    weights: list
    popularity: np.ndarray
    whitening: Any


def read_training_state(version):
    """The `TrainingState` of a version folder.

    Raises:
        ArtifactError: the version holds none.
    """
    folder = Path(version) / "assets.extra" / "train"
    if not (folder / "state.npz").is_file():
        raise artifacts.ArtifactError(f"{version} holds no weights for further training.")
    options = json.loads((folder / "options.json").read_text())
    with np.load(folder / "state.npz") as saved:
        arrays = {name: saved[name] for name in saved.files}
    whitening = None
    if "whitening_mean" in arrays:
        whitening = WhiteningConstants(arrays.pop("whitening_mean"), arrays.pop("whitening_matrix"))
    popularity = arrays.pop("popularity")
    return TrainingState(options, [arrays[n] for n in sorted(arrays)], popularity, whitening)


_RELOAD = """
import os, sys
os.environ.pop("TF_USE_LEGACY_KERAS", None)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
for name in ("bert4keras", "tf_keras", "kerasrec"):
    sys.modules[name] = None  # importing them is an error here
import numpy as np
import tensorflow as tf
folder, probe, answers = sys.argv[1:]
loaded = tf.saved_model.load(folder)
given = np.load(probe)
history = tf.constant(given["history"].astype(str))
result = {}
for name, keys in (
    ("serving_default", {"history": history}),
    ("interest", {"history": history}),
    ("score", {"history": history, "candidates": history}),
    ("similar", {"item_ids": history[:, -1]}),
    ("item_vectors", {"item_ids": history[:, -1]}),
):
    for key, value in loaded.signatures[name](**keys).items():
        result[f"{name}/{key}"] = value.numpy().astype(str if value.dtype == tf.string else None)
np.savez(answers, **result)
"""


def _compare(module, folder, probe):
    """Answers of the saved version in a process with TensorFlow alone, against `module`s."""
    import tempfile

    width = max(1, *(len(history) for history in probe))
    rows = [[""] * (width - len(history)) + list(history) for history in probe]
    history = tf.constant(rows)
    with tempfile.TemporaryDirectory() as scratch:
        given, answers = Path(scratch) / "probe.npz", Path(scratch) / "answers.npz"
        np.savez(given, history=np.array(rows, str))
        command = [sys.executable, "-c", _RELOAD, str(folder), str(given), str(answers)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=scratch)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise artifacts.ArtifactError(f"The exported version does not load: {last}.")
        with np.load(answers) as saved:
            answer = {name: saved[name] for name in saved.files}
    last = history[:, -1]
    expected = {
        "serving_default": module.serving_default(history),
        "interest": module.interest(history),
        "score": module.score(history, history),
        "similar": module.similar(last),
        "item_vectors": module.vectors_of(last),
    }
    for signature, outputs in expected.items():
        for key, value in outputs.items():
            if value.dtype != tf.string:  # ids follow from the scores, but for ties
                got = answer[f"{signature}/{key}"]
                if not np.allclose(got, value.numpy(), atol=1e-4, rtol=1e-4):
                    raise artifacts.ArtifactError(
                        f"The exported version answers {signature} differently after reloading; "
                        "nothing was published. This is a defect of kerasrec: please report it."
                    )
