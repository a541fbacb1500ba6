"""`export`: writes a model as one SavedModel with named signatures, reloads and compares it."""

import contextlib
import contextvars
import functools
import importlib.metadata
import logging
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import pandas as pd

from kerasrec.backend import few_words, tf, without_grappler
from kerasrec.checks import ArtifactError, step
from kerasrec.data.interactions import Items
from kerasrec.data.relations.order import read_order
from kerasrec.data.sources import as_items
from kerasrec.data.tables import Source
from kerasrec.features.usergroups import UserGroups
from kerasrec.fusion.fusion import Fusion
from kerasrec.fusion.recency import AT_NEWEST_EVENT
from kerasrec.generation.generator import Generator
from kerasrec.models.build import Model
from kerasrec.models.validation import Ranker
from kerasrec.text.graphtokenizers import graph_tokenizer
from kerasrec.text.vectors import Encoder, Whitening
from kerasrec.versions import folders
from kerasrec.versions.graph import ServingModule
from kerasrec.versions.manifest import FORMAT, make_manifest
from kerasrec.versions.modelcard import CARD, model_card
from kerasrec.versions.plangraph import OrderedModule, PlanningModule
from kerasrec.versions.trainingstate import plain, write_training_state
from kerasrec.versions.usergraph import add_user_groups, example_users
from kerasrec.versions.warmup import read_signatures, read_warmup, write_warmup

log = logging.getLogger(__name__)

DEFAULT_K = 50
#: all that a tokenizer may stumble over
_PROBE_TEXT = "Ｄeep學習：\u00c9té\x07 ①\u3000😀 Σ" + " 课程 word" * 300


def export(
    model: Model,
    base: str | Path,
    *,
    items: Items | Source,
    manifest: dict[str, Any] | None = None,
    encoder: Encoder | None = None,
    whitening: Whitening | None = None,
    fusion: Fusion | None = None,
    history: pd.DataFrame | None = None,
    probe: list[list[str]] | None = None,
    k: int = DEFAULT_K,
    generator: Generator | None = None,
    groups: UserGroups | None = None,
) -> Path:
    """Writes the next version of a model, reloads it in a fresh process and compares.

    Args:
        model: `Model`, trained.
        base: `saved_models/NAME`; the version in it gets the next number by itself.
        items: `Items`, or what `read_items` takes: the catalogue in the order of the item indices.
        manifest: dict of what is known of the run (data, options, metrics): keys of
            `manifest.Manifest`, or others of the caller's own; None = nothing.
        encoder: the text encoder that made the text part, or None.
        whitening: `Whitening` between encoder and text part; needed with `encoder`.
        fusion: `Fusion`, what is fused with the model's retrieval; None = nothing, and users
            without a history get items in the order of the catalogue.
        history: DataFrame of the training run, kept with the version.
        probe: list of histories (lists of item ids) to compare on; default: a few of the catalogue.
        k: length of the lists of the signatures.
        generator: `Generator` of plans, or None: the version then has no signature `generate`.
        groups: `UserGroups`, or None: the version then knows nothing of users but their histories.

    Returns:
        Path of the version folder.

    Raises:
        ArtifactError: the reloaded version answers differently; nothing is published then.
        ValueError: an item id that a line of a text file cannot hold, no `Model`, another catalogue
            than that of the model, or a base that ends in a number.
    """
    if not isinstance(model, Model):
        raise ValueError(
            "export takes the Model that build_model gives, trained. Received: "
            f"{type(model).__name__}. One part of a Model is not enough."
        )
    if Path(base).name.isdigit():
        raise ValueError(
            "export takes the folder of a model, saved_models/NAME, and numbers its versions by "
            f"itself. Received: {base}, which ends in a number. Give {Path(base).parent}."
        )
    items = as_items(items, titles=encoder is not None)
    if model.config["num_items"] != len(items):
        raise ValueError(
            f"export needs the catalogue that the model was built for, {model.config['num_items']} "
            f"items in the same order. Received: {len(items)} items."
        )
    manifest = manifest or {}
    ids = items.ids
    k, fusion = min(k, len(ids)), fusion or Fusion.alone(len(ids))
    probe = [list(ids[:3]), list(ids[-2:]), []] if probe is None else probe
    has_texts = encoder is not None and encoder.kind not in ("vectors", "features")
    encodes = has_texts and model.text_part is not None
    summary = {
        "k": k,
        "scorer_weight": fusion.scorer_weight,
        "fusion": fusion.description(),
        "num_items": len(ids),
        "options": plain(model.config),
        "encoder": None if encoder is None else encoder.description,
        "encodes_texts": encodes,
        "packages": _packages(),
        "asked": AT_NEWEST_EVENT,
        "generator": None if generator is None else generator.description(),
        "name": Path(base).name,
        **({"order": items.order} if items.order else {}),
        **({"relations": list(items.relations)} if items.relations else {}),
        **manifest,
    }
    can_do: dict[str, tuple] = {}
    documents = {CARD: lambda facts: model_card(facts, can_do)}
    compare = _comparing.get(compare_in_a_process)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        if compare is compare_in_a_process:  # it loads TensorFlow while the version is written
            process = stack.enter_context(fresh_process())
            compare = functools.partial(compare, process=process)
        asset = Path(scratch) / folders.ITEM_IDS.name
        folders.write_item_ids(asset, ids)
        given = dict(withdrawn=withdrawn_index(items), order=order_table(items))
        module = serving_module(
            model, asset=asset, fusion=fusion, k=k, generator=generator, **given
        )
        _add_texts(module, asset, encoder, whitening)
        if groups is not None:
            add_user_groups(module, groups)
        signatures = module.signatures()
        # the number and the time are set once the folder is whole
        own = {"format": FORMAT, "version": 0, "created": "", "signatures": sorted(signatures)}
        facts = make_manifest({**summary, **own})
        with folders.new_version(base, facts, documents=documents) as (folder, result):
            with step(log, "exporting the version"), few_words():
                tf.saved_model.save(module, str(folder), signatures=signatures)
            write_training_state(folder, model, whitening, history)
            fusion.recency.save(folder / folders.RECENCY)
            can_do.update(read_signatures(folder))
            write_warmup(folder, Path(base).name, items.frame)
            folders.write_catalogue(folder, items.frame)
            if encoder is not None:
                encoder.save(folder / folders.ENCODER)
            if generator is not None:
                generator.save(folder / folders.GENERATOR)
            if groups is not None:
                groups.save(folder / folders.USERS)
            texts = [*items.frame["title"][:3], _PROBE_TEXT, ""]
            with step(log, "comparing what was exported with the model"):
                compare(module, folder, probe, texts)
    log.info("exported %s", result["path"])
    return result["path"]


def serving_module(
    model: Model,
    *,
    asset: Path,
    fusion: Fusion,
    k: int,
    generator: Generator | None = None,
    withdrawn: Any = (),
    order: np.ndarray | None = None,
) -> ServingModule:
    """Makes the `ServingModule` of a trained `Model`, without its encoder.

    With a generator and an `Order.table` its plans can be asked for in that order.
    """
    vectors = Ranker(model).item_vectors()
    given = dict(item_vectors=vectors, asset=asset, fusion=fusion, k=k, withdrawn=withdrawn)
    if generator is None:
        return ServingModule(model, **given)
    if order is None:
        return PlanningModule(model, generator=generator, **given)
    return OrderedModule(model, generator=generator, order=order, **given)


def withdrawn_index(items: Items) -> np.ndarray:
    """Gives the indices of the items that are in no list, int32 `(n,)`, ascending."""
    return np.sort(items.index_of(sorted(items.withdrawn)))


def order_table(items: Items) -> np.ndarray | None:
    """Gives the `Order.table` of a catalogue; None where it has no order."""
    return read_order(items).table() if items.order else None


def _add_texts(module, asset, encoder, whitening):
    if encoder is not None and module.text_part is not None:
        module.add_text_functions(whitening)
        if encoder.kind == "bert":
            module.add_encoder(encoder.model, graph_tokenizer(encoder.tokenizer, asset.parent))


def _packages():
    names = ("kerasrec", "tensorflow", "tf-keras", "bert4keras", "numpy")
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


_RELOAD = """
import os, sys
os.environ.pop("TF_USE_LEGACY_KERAS", None)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# importing them is an error here; TensorFlow does without Keras, and starts much sooner
for name in ("bert4keras", "tf_keras", "keras", "kerasrec"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
folder = sys.stdin.readline()[:-1]
if not folder:  # there is nothing to compare
    sys.exit()
loaded = tf.saved_model.load(folder)
calls = {name: {} for name in loaded.signatures}
with np.load("probe.npz") as given:
    for place in given.files:
        name, key = place.split("/")
        calls[name][key] = tf.constant(given[place])
result = {}
for name, inputs in calls.items():
    for key, value in loaded.signatures[name](**inputs).items():
        value = value.numpy()
        if value.dtype == object:
            value = np.array([i.decode() for i in value.flat], str).reshape(value.shape)
        result[f"{name}/{key}"] = value
np.savez("answers.npz", **result)
requests = {name: {} for name in loaded.signatures}  # each must have one, and answer it
with np.load("requests.npz") as asked:
    for place in asked.files:
        name, key = place.split("/")
        requests[name][key] = tf.constant(asked[place])
for name, inputs in requests.items():
    loaded.signatures[name](**inputs)
"""


def _as_saved():
    """A context in which functions are called as `tf.saved_model.save` traced them.

    Outside of it TensorFlow keeps other traces, so that each function would be traced anew: half of
    the time of an export.
    """
    try:
        from tensorflow.python.saved_model import save_context
    except ImportError:
        return contextlib.nullcontext()
    return save_context.save_context(tf.saved_model.SaveOptions())


#: signatures whose function has another name
_FUNCTIONS = {"item_vectors": "vectors_of"}


#: the comparison of every export in this context, where it is another one than
#: `compare_in_a_process`; tests whose subject is something else compare without a new process
_comparing: contextvars.ContextVar[Callable[..., None]] = contextvars.ContextVar("comparing")


@contextlib.contextmanager
def compared_by(compare: Callable[..., None]) -> Iterator[None]:
    """A context in which exported versions are compared by another function."""
    token = _comparing.set(compare)
    try:
        yield
    finally:
        _comparing.reset(token)


class FreshProcess(NamedTuple):
    """Holds a process that has TensorFlow alone, and waits for the folder of a version.

    process: `subprocess.Popen`.  errors: what it says where it fails.  folder: its working folder,
    where it finds what to ask and leaves the answers.
    """

    process: subprocess.Popen
    errors: IO[bytes]
    folder: Path

    def begin(self, version: Path) -> None:
        """Says which version it is to answer for."""
        with contextlib.suppress(BrokenPipeError):  # it is gone: `answers` says why
            assert self.process.stdin is not None
            self.process.stdin.write(f"{version.resolve()}\n".encode())
            self.process.stdin.close()

    def answers(self) -> dict[str, np.ndarray]:
        """Waits for the answers: "signature/output" -> values."""
        if self.process.wait():
            self.errors.seek(0)
            last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ArtifactError(f"The exported version does not load: {last}.")
        with np.load(self.folder / "answers.npz") as saved:
            return {name: saved[name] for name in saved.files}


@contextlib.contextmanager
def fresh_process() -> Iterator[FreshProcess]:
    """Starts a `FreshProcess`; at the end of the context there is none any more."""
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-c", _RELOAD]
        none, pipe = subprocess.DEVNULL, subprocess.PIPE
        with subprocess.Popen(
            command, cwd=scratch, stdin=pipe, stdout=none, stderr=errors
        ) as process:
            try:
                yield FreshProcess(process, errors, Path(scratch))
            finally:
                process.kill()


def compare_in_a_process(
    module: Any,
    folder: Path,
    probe: Sequence,
    texts: Sequence[str],
    process: FreshProcess | None = None,
) -> None:
    """Compares the answers of a saved version, in a process with TensorFlow alone, with `module`s.

    Both answer at the same time.

    Args:
        module: what was saved.
        folder: of the version.
        probe, texts: what is asked.
        process: `FreshProcess` that was started before; None = one is started.

    Raises:
        ArtifactError: they differ, or the version does not load.
    """
    if process is None:
        with fresh_process() as started:
            compare_in_a_process(module, folder, probe, texts, started)
        return
    calls = _calls_of(module, probe, texts)
    asked = {f"{n}/{key}": value for n, keys in calls.items() for key, value in keys.items()}
    requests = {f"{n}/{key}": v for n, keys in read_warmup(folder) for key, v in keys.items()}
    np.savez(process.folder / "probe.npz", **cast(Any, asked))
    np.savez(process.folder / "requests.npz", **cast(Any, requests))
    process.begin(folder)
    expected = _answers(module, calls)
    _check(expected, process.answers())


def compare_here(module: Any, folder: Path, probe: Sequence, texts: Sequence[str]) -> None:
    """As `compare_in_a_process`, but loads the version in this process, which is much faster."""
    calls, answers = _calls_of(module, probe, texts), {}
    signatures = tf.saved_model.load(str(folder)).signatures
    for name, inputs in calls.items():
        given = {key: tf.constant(value) for key, value in inputs.items()}
        for key, value in signatures[name](**given).items():
            value = value.numpy()
            if value.dtype == object:
                value = np.array([i.decode() for i in value.flat], str).reshape(value.shape)
            answers[f"{name}/{key}"] = value
    _check(_answers(module, calls), answers)


def _calls_of(module, probe, texts):
    """Signature -> inputs, of the signatures that a module has."""
    calls = _probes(probe, texts)
    if hasattr(module, "recommend_for"):
        history = calls["recommend"]["history"]
        calls["recommend_for"] = calls["recommend"] | example_users(module, len(history))
    return {name: calls[name] for name in calls if hasattr(module, _FUNCTIONS.get(name, name))}


def _answers(module, calls):
    """Signature -> what the functions of a module answer, as arrays."""
    answers = {}
    for signature, inputs in calls.items():
        function = getattr(module, _FUNCTIONS.get(signature, signature))
        given = {key: tf.constant(value) for key, value in inputs.items()}
        # each function is called once, so that Grappler would take longer than the calls
        with _as_saved(), without_grappler():
            outputs = function(**given)
        answers[signature] = {key: value.numpy() for key, value in outputs.items()}
    return answers


def _check(expected, answers):
    """Raise `ArtifactError` where a saved version answered otherwise than is expected."""
    for signature, outputs in expected.items():
        got = {key: answers[f"{signature}/{key}"] for key in outputs}
        if not _same(got, outputs):
            raise ArtifactError(
                f"The exported version answers {signature} differently after reloading; "
                "nothing was published. This is a defect of kerasrec: please report it."
            )


def _probes(probe, texts):
    """Signature -> its inputs as arrays, from histories of item ids and texts."""
    width = max(1, *(len(history) for history in probe))
    history = np.array([[""] * (width - len(history)) + list(history) for history in probe], str)
    count = len(history)
    times = np.tile(np.cumsum(2 ** (np.arange(width) % 20)), (count, 1))  # gaps of all sizes
    none, kept = np.full((count, 0), "", str), np.full(count, False)
    plans = {
        "history": history,
        "timestamps": times,
        "allow": none,
        "deny": none,
        # every other row is drawn
        "temperature": np.arange(count, dtype=np.float32) % 2,
        "top_p": np.full(count, 0.9, np.float32),
        "seed": np.arange(count, dtype=np.int32),
    }
    return {
        "serving_default": {"history": history},
        "recommend": {
            "history": history,
            "timestamps": times,
            "allow": none,
            "deny": none,
            "keep_seen": kept,
        },
        "interest": {"history": history},
        "score": {"history": history, "candidates": history},
        "similar": {"item_ids": history[:, -1]},
        "item_vectors": {"item_ids": history[:, -1]},
        "generate": plans,
        "generate_in_order": plans,
        "encode_items": {"texts": np.array(texts, str)},
        "recommend_by_text": {
            "history_texts": np.array([texts, [*texts[:1], *[""] * (len(texts) - 1)]])
        },
    }


def _same_plans(got, expected):
    """Whether most plans agree; in another process rounding can turn a near tie, or a draw."""
    ids = np.array([i.decode() for i in expected["item_ids"].flat], str)
    same_ids = got["item_ids"] == ids.reshape(expected["item_ids"].shape)
    logs = got["log_probabilities"], expected["log_probabilities"]
    same = same_ids & np.isclose(*logs, atol=1e-3, rtol=1e-3)
    return bool(same.all(axis=1).mean() >= 0.5)


def _same(got, expected):
    """Whether the numbers agree, and the best item of each list that has no rival for the place."""
    if "log_probabilities" in expected:
        return _same_plans(got, expected)
    item_ids = expected.pop("item_ids", None)
    if not all(np.allclose(got[k], v, atol=1e-4, rtol=1e-4) for k, v in expected.items()):
        return False
    if item_ids is None:
        return True
    lead = -np.diff(np.maximum(expected["scores"][:, :2], -1e30), append=-1e30)[:, 0]
    best = np.array([i.decode() for i in item_ids[:, 0]], str)
    return bool(((got["item_ids"][:, 0] == best) | (lead < 1e-3)).all())
