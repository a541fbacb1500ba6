"""Version folders: `saved_models/<name>/<version>/`, written whole or not at all, never changed.

No TensorFlow here. Labels (stable, canary) live in `labels.json` beside the versions.
"""

import contextlib
import json
import os
import shutil
import uuid
from pathlib import Path

MANIFEST = Path("assets.extra") / "manifest.json"
LABELS = ("stable", "canary")
_FORMAT = 1


class ArtifactError(Exception):
    """A version that is missing, foreign or only half written."""


def versions(base):
    """Version numbers of a model folder, ascending; empty when there is none.

    >>> versions("no/such/folder")
    []
    """
    base = Path(base)
    if not base.is_dir():
        return []
    found = (entry.name for entry in base.iterdir() if entry.is_dir())
    return sorted(int(name) for name in found if name.isdigit() and str(int(name)) == name)


def find_version(model):
    """Folder of a version.

    Args:
        model: `saved_models/NAME` (its stable label, else its largest version) or
            `saved_models/NAME/V`.

    Raises:
        ArtifactError: nothing of the kind is there.
    """
    model = Path(model)
    if (model / MANIFEST).is_file():
        return model
    if model.name.isdigit() and model.is_dir():
        raise ArtifactError(
            f"{model} is not a version that kerasrec exported ({MANIFEST} is missing). Export the "
            "model again."
        )
    known = versions(model)
    if not known:
        raise ArtifactError(
            f"Expected a model folder with numbered versions such as {model}/1; found "
            f"{'no version in it' if model.is_dir() else 'no such folder'}. Train one with "
            f"`kerasrec train --name {model.name or 'NAME'}`, or check the path."
        )
    chosen = read_labels(model).get("stable", known[-1])
    if chosen not in known:
        raise ArtifactError(
            f"The label stable of {model} names version {chosen}, which is not there (found "
            f"{known}). Mend {model}/labels.json."
        )
    return find_version(model / str(chosen))


def read_manifest(version):
    """The manifest of a version folder.

    Raises:
        ArtifactError: missing, unreadable or of a later format.
    """
    path = Path(version) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{version} has no {MANIFEST}. Export the model again.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}). Export the model again.") from error
    if manifest.get("format") != _FORMAT:
        raise ArtifactError(
            f"{path} has format {manifest.get('format')}; this kerasrec reads format {_FORMAT}. "
            "Use the kerasrec that wrote it, or export again."
        )
    return manifest


@contextlib.contextmanager
def new_version(base, manifest):
    """Write a version beside the model folder and rename it when the block ends without error.

    Args:
        base: `saved_models/NAME`.
        manifest: dict; `format` and `version` are added when the block ends.

    Yields:
        `(folder to write into, result)`; `result["version"]` is the number and `result["path"]`
        the final folder, once the block is over. The number is the smallest free one above all
        others, also when two processes publish at once.
    """
    base = Path(base)
    base.mkdir(parents=True, exist_ok=True)
    beside = base.parent / f".writing-{base.name}-{uuid.uuid4().hex[:12]}"
    beside.mkdir()
    result = {}
    try:
        yield beside, result
        (beside / MANIFEST.parent).mkdir(exist_ok=True)
        while True:
            version = (versions(base) or [0])[-1] + 1
            text = json.dumps(
                {"format": _FORMAT, "version": version, **manifest}, ensure_ascii=False, indent=1
            )
            (beside / MANIFEST).write_text(text + "\n", encoding="utf-8")
            try:
                os.rename(beside, base / str(version))
            except OSError:
                if not (base / str(version)).exists():
                    raise
                continue  # another process took the number
            break
        result.update(version=version, path=base / str(version))
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_labels(base):
    """Label -> version of a model folder; empty without `labels.json`."""
    path = Path(base) / "labels.json"
    if not path.exists():
        return {}
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): int(version) for name, version in labels.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(
            f'{path} must be a JSON object such as {{"stable": 1}}; it is damaged ({error}).'
        ) from error


def write_label(base, label, version):
    """Point a label at an existing version (this is also how a rollback is done)."""
    if label not in LABELS:
        raise ValueError(f"label must be one of {', '.join(LABELS)}. Received: {label!r}.")
    if version not in versions(base):
        raise ArtifactError(f"{base} has no version {version}; it has {versions(base)}.")
    text = json.dumps({**read_labels(base), label: version}, indent=1) + "\n"
    beside = Path(base) / f".labels-{uuid.uuid4().hex[:12]}"
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, Path(base) / "labels.json")
