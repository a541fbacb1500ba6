"""A new version from an existing one: other tables or export options in the same graph."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.fusion.recency import Recency
from kerasrec.versions import folders, itemmatrix
from kerasrec.versions.loaded import LoadedVersion
from kerasrec.versions.modelcard import CARD, model_card
from kerasrec.versions.warmup import TEXT_SIGNATURES, read_signatures, replay_warmup, write_warmup


def export_again(
    model: str | Path,
    *,
    k: int | None = None,
    scorer_weight: float | None = None,
    item_matrix: str | None = None,
) -> Path:
    """Writes a new version of a model with other export options.

    Args:
        model: `saved_models/NAME` or a version folder.
        k: length of the lists of the signatures; None = as it was.
        scorer_weight: weight of the MLP in the fused score; None = as it was.
        item_matrix: how the item vectors are stored, one of `itemmatrix.FORMS` (float16 and int8
            take less memory and round); None = as they were. What a smaller form has rounded, a
            larger one does not bring back.

    Returns:
        Path of the new version.

    Raises:
        ArtifactError: no such version.
        ValueError: nothing to change, or a value out of range.
    """
    version = folders.find_version(model)
    num_items = folders.read_manifest(version).num_items
    changes: dict[str, Any] = {}
    if k is not None:
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= num_items:
            raise ValueError(f"k must be a whole number from 1 to {num_items}. Received: {k!r}.")
        changes["k"] = k
    if scorer_weight is not None:
        is_number = isinstance(scorer_weight, int | float) and not isinstance(scorer_weight, bool)
        if not (is_number and 0 <= scorer_weight < float("inf")):
            raise ValueError(f"scorer_weight must be 0 or above. Received: {scorer_weight!r}.")
        changes["scorer_weight"] = float(scorer_weight)
    variables = {name: tf.constant(value) for name, value in changes.items()}
    if item_matrix is not None:
        variables.update(_in_form(version, item_matrix))
        changes["item_matrix"] = item_matrix
    if not changes:
        raise ValueError(
            "export needs something to change: k=N, scorer_weight=W or item_matrix=FORM."
        )
    return derive_version(version, changes, variables=variables)


def _in_form(version, form):
    """The tables of a version's item vectors in one of `itemmatrix.FORMS`."""
    if form not in itemmatrix.FORMS:
        itemmatrix.stored(np.zeros((1, 1)), form)  # raises
    return itemmatrix.stored(LoadedVersion.load(version).vectors(), form)


def derive_version(
    version: Path,
    changes: Mapping[str, Any],
    *,
    variables: Mapping[str, Any],
    frame: pd.DataFrame | None = None,
    recency: Recency | None = None,
    finish: Callable[[Path, LoadedVersion], None] | None = None,
) -> Path:
    """Copies a version with some variables exchanged and publishes it as the next one.

    Args:
        version: Path of a version folder.
        changes: attribute of `Manifest` -> what the new version says differently.
        variables: name in the checkpoint -> new value; `LoadedVersion` gives these names.
        frame: DataFrame of the catalogue where it has grown.
        recency: `Recency` where newer events or items have changed it.
        finish: function of the folder and of its `LoadedVersion`, called before the rename;
            what it raises leaves nothing published.

    Returns:
        Path of the new version.

    Raises:
        ArtifactError: the copy does not answer; nothing is published then.
    """
    manifest = folders.read_manifest(version)
    facts = manifest._replace(**{**changes, "parent": manifest.version})
    signatures = read_signatures(version)
    documents = {CARD: lambda facts: model_card(facts, signatures)}
    with folders.new_version(version.parent, facts, documents=documents) as (folder, result):
        ignored = shutil.ignore_patterns("variables.*")
        shutil.copytree(version, folder, ignore=ignored, dirs_exist_ok=True)
        if frame is not None:
            folders.write_item_ids(folder / folders.ITEM_IDS, frame["item_id"])
            folders.write_catalogue(folder, frame)
        if recency is not None:
            recency.save(folder / folders.RECENCY)
        write_warmup(folder, version.parent.name, folders.read_catalogue(folder))
        _write_variables(folder, version, variables)
        loaded = _check(folder, facts)
        if finish is not None:
            finish(folder, loaded)
    return result["path"]


def _write_variables(folder, version, values):
    """Write the checkpoint of a SavedModel with other values under the same names."""
    place = Path("variables", "variables")
    reader = tf.train.load_checkpoint(str(version / place))
    names = sorted(reader.get_variable_to_shape_map())
    replaced = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE": value for name, value in values.items()}
    if unknown := sorted(set(replaced) - set(names)):
        raise ArtifactError(
            f"{version} has no variable {unknown[0].partition('/.')[0]}: another "
            "kerasrec exported it. Train it again."
        )
    tensors = [replaced[n] if n in replaced else tf.constant(reader.get_tensor(n)) for n in names]
    tf.raw_ops.SaveV2(
        prefix=str(folder / place),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=tensors,
    )


def _check(folder, manifest):
    """Load the copy and look every id up: each must give its own row of the vectors.

    Its warm-up requests are sent to it too, but for those of texts: the encoder, which is a copy,
    would take longer than all others. Returns what was loaded.
    """
    module = tf.saved_model.load(str(folder))
    loaded = LoadedVersion(module, manifest, folder)
    replay_warmup(folder, loaded, without=TEXT_SIGNATURES)
    ids = (folder / folders.ITEM_IDS).read_text(encoding="utf-8").split("\n")[:-1]
    vectors = loaded.signatures["item_vectors"](item_ids=tf.constant(ids))["vectors"]
    if not np.array_equal(vectors, loaded.vectors()[1:]):
        raise ArtifactError(
            f"The copy of {folder.name} does not give every item its vector; nothing was "
            "published. This is a defect of kerasrec: please report it."
        )
    return loaded
