"""Version folders: `saved_models/<name>/<version>/`, written whole or not at all, never changed.

No TensorFlow here. Labels (stable, canary) live in `labels.json` beside the versions.
"""

import contextlib
import csv
import datetime
import glob
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasrec.backend import sync_folder, sync_tree, whole_file
from kerasrec.checks import ArtifactError
from kerasrec.versions.manifest import MANIFEST, Manifest, read_manifest, write_manifest

if TYPE_CHECKING:
    import pandas as pd

ITEM_IDS = Path("assets") / "item_ids.txt"
ITEMS = Path("assets.extra") / "items.csv.gz"
ENCODER = Path("assets.extra") / "encoder"
USERS = Path("assets.extra") / "users"
RECENCY = Path("assets.extra") / "recency.npz"
GENERATOR = Path("assets.extra") / "generator.npz"
TRAIN = Path("assets.extra") / "train"
HISTORY = TRAIN / "history.csv"
LABELS = ("stable", "canary")
_DAY = 86400
_FRESH = 60  # seconds after which a folder's lock has long been taken
_LABEL_SECONDS = 30  # to write a label takes milliseconds
_WRITER = ".writer.lock"  # in a folder that is being written; held by its process
_LARGEST = 2**63 - 1  # a version's number goes over the wire as int64
_PARTS = (Path("saved_model.pb"), Path("variables") / "variables.index", ITEM_IDS, ITEMS)


def check_name(name: str) -> None:
    """Raises unless `name` can be the folder name of a model.

    >>> check_name("shop")
    >>> check_name("2")
    Traceback (most recent call last):
    ValueError: A model's name must be a plain folder name that is no number. Received: '2'.
    """
    plain = name and name == Path(name).name and name == name.strip()
    if not plain or name.startswith(".") or name.isdigit():
        raise ValueError(
            f"A model's name must be a plain folder name that is no number. Received: {name!r}."
        )


def check_writable(out: str | Path) -> None:
    """Makes the parent folder of models; raises before the work when nothing can be written."""
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"Models need a folder to go to; {out} or a part of it is a file. Choose another out."
        ) from error
    if not os.access(out, os.W_OK):
        raise PermissionError(f"Models need a writable folder; {out} is not. Choose another out.")


def versions(base: str | Path) -> list[int]:
    """Lists the version numbers of a model folder, ascending; empty when there is none.

    >>> versions("no/such/folder")
    []
    """
    base = Path(base)
    if not base.is_dir():
        return []
    return sorted(int(entry.name) for entry in base.iterdir() if _is_version(entry))


def _is_version(folder):
    """Whether the name is a number as kerasrec writes it: not 007, not ², not above an int64."""
    name = folder.name
    is_plain = name.isascii() and name.isdecimal() and len(name) <= 19
    return is_plain and str(int(name)) == name and int(name) <= _LARGEST and folder.is_dir()


def find_version(model: str | Path) -> Path:
    """Finds the folder of a version.

    Args:
        model: `saved_models/NAME` (its stable label, else its largest version) or
            `saved_models/NAME/V`.

    Raises:
        ArtifactError: nothing of the kind is there.
    """
    model = Path(model)
    if (model / MANIFEST).is_file():
        _check_whole(model)
        return model
    if (model / "saved_model.pb").is_file() or (model.name.isdigit() and model.is_dir()):
        raise ArtifactError(
            f"{model} is not a version that kerasrec exported ({MANIFEST} is missing). Name a "
            "folder that `kerasrec train` wrote."
        )
    known = versions(model)
    others = versions(model.parent) if model.name.isdigit() and not model.exists() else []
    if others:
        raise ArtifactError(
            f"{model.parent} has no version {model.name}; it has {', '.join(map(str, others))}. "
            f"Name one of them, or {model.parent} for its stable label or else its newest."
        )
    if not known:
        found, advice = _what_is_there(model)
        raise ArtifactError(
            f"Expected a model folder with numbered versions such as {model / '1'}; found {found}. "
            f"{advice}"
        )
    chosen = read_labels(model).get("stable", known[-1])
    if chosen not in known:
        raise ArtifactError(
            f"The label stable of {model} names version {chosen}, which is not there (found "
            f"{known}). Mend {model / 'labels.json'}."
        )
    return find_version(model / str(chosen))


def _check_whole(version):
    missing = [str(part) for part in _PARTS if not (version / part).is_file()]
    if missing:
        raise ArtifactError(
            f"{version} is incomplete ({', '.join(missing)} missing). Copy the whole folder again, "
            "or export the model again."
        )


def _what_is_there(model):
    """`(what was found, what to do)` where no version is."""
    if model.is_dir():
        inside = sorted(entry.name for entry in model.iterdir() if versions(entry))
        if inside:
            names = ", ".join(str(model / name) for name in inside[:6])
            return "a folder of models", f"Name one of them: {names}."
    found = "no version in it" if model.is_dir() else "no such folder"
    found = "a file" if model.is_file() else found
    name = model.name or "NAME"
    return found, f"Train one with `kerasrec train --name {name}`, or check the path."


@contextlib.contextmanager
def new_version(
    base: str | Path,
    manifest: Manifest,
    *,
    documents: dict[Path, Callable[[Manifest], str]] | None = None,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Writes a version beside the model folder and renames it when the block ends without error.

    Its files are on the disk before the rename and the rename before this returns: after a power
    cut the version is whole or not there, and is there when it was said to be.

    Args:
        base: `saved_models/NAME`.
        manifest: `Manifest`; its `version` and `created` are set when the block ends.
        documents: path within the version -> function that makes its text of the whole `Manifest`;
            called when the block ends, for what must name the version's number.

    Yields:
        `(folder to write into, result)`; `result["version"]` is the number and `result["path"]`
        the final folder, once the block is over. The number is the smallest free one above all
        others, also when two processes publish at once.
    """
    from filelock import FileLock

    base = Path(base)
    base.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(base)
    beside = base.parent / f".writing-{base.name}-{uuid.uuid4().hex[:12]}"
    beside.mkdir()
    result: dict[str, Any] = {}
    lock = FileLock(beside / _WRITER)
    try:
        lock.acquire()
        yield beside, result
        lock.release()
        (beside / _WRITER).unlink()
        base.mkdir(exist_ok=True)
        sync_folder(base.parent)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        while True:
            version = (versions(base) or [0])[-1] + 1
            whole = manifest._replace(version=version, created=now)
            write_manifest(beside, whole)
            for path, document in (documents or {}).items():
                (beside / path).write_text(document(whole), encoding="utf-8")
            sync_tree(beside)
            try:
                os.rename(beside, base / str(version))
            except OSError:
                if not (base / str(version)).exists():
                    raise
                continue  # another process took the number
            sync_folder(base)
            break
        result.update(version=version, path=base / str(version))
    finally:
        lock.release()
        shutil.rmtree(beside, ignore_errors=True)


def _remove_leftovers(base):
    """Remove what exports that were killed left beside the model folder; live ones hold a lock."""
    from filelock import FileLock, Timeout

    for folder in base.parent.glob(f".writing-{glob.escape(base.name)}-{'?' * 12}"):
        with contextlib.suppress(FileNotFoundError, Timeout):  # another was faster; at work
            age = time.time() - folder.stat().st_mtime
            if age > _FRESH and (folder / _WRITER).exists():
                with FileLock(folder / _WRITER, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
            elif age > _DAY:  # without a lock: just made, just finished, or by an older release
                shutil.rmtree(folder, ignore_errors=True)


def check_item_ids(ids: Iterable[str]) -> None:
    """Raises ValueError when an id is empty or does not fit into one line of a text file."""
    bad = [i for i in ids if not i or "\n" in i or "\r" in i]
    if bad:
        others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(
            "Item ids must be non-empty and hold no line break: a version lists one per line. "
            f"Received: {bad[0]!r}{others}. Rename them in the items table."
        )


def write_item_ids(path: str | Path, ids: Iterable[str]) -> None:
    """Writes the list of item ids that a version's lookup tables read, in order, one per line."""
    check_item_ids(ids)
    Path(path).write_text("".join(f"{i}\n" for i in ids), encoding="utf-8", newline="\n")


def write_catalogue(version: str | Path, frame: "pd.DataFrame") -> None:
    """Writes the items of a version: DataFrame with `item_id`, `title` and more, all str."""
    # every cell in quotes: a line break of any kind stays inside its cell
    frame.to_csv(Path(version) / ITEMS, index=False, quoting=csv.QUOTE_ALL)


def read_catalogue(version: str | Path) -> "pd.DataFrame":
    """Reads the DataFrame that `write_catalogue` wrote."""
    import pandas as pd

    return pd.read_csv(Path(version) / ITEMS, dtype=str, keep_default_na=False)


def read_labels(base: str | Path) -> dict[str, int]:
    """Reads label -> version of a model folder; empty without `labels.json`."""
    path = Path(base) / "labels.json"
    if not path.exists():
        return {}
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _bad_labels(path, f"it is no JSON ({place})") from error
    except UnicodeDecodeError as error:
        raise _bad_labels(path, "it is no UTF-8 text") from error
    except (RecursionError, ValueError) as error:  # braces in braces, a number of 5,000 digits
        raise _bad_labels(path, "it is nested too deep or holds a number too large") from error
    if not isinstance(labels, dict):
        raise _bad_labels(path, f"it holds {json.dumps(labels, ensure_ascii=False)[:50]}")
    for label, version in labels.items():
        text = str(version)
        if not (text.isascii() and text.isdecimal() and len(text) <= 19):
            named = json.dumps(version, ensure_ascii=False)[:50]
            raise _bad_labels(path, f"{label} names {named}, which is no version's number")
    return {str(label): int(version) for label, version in labels.items()}


def _bad_labels(path, what):
    return ArtifactError(f'{path} must be a JSON object such as {{"stable": 1}}; {what}. Mend it.')


@contextlib.contextmanager
def alone(base: str | Path) -> Iterator[None]:
    """Keeps other processes from working on a model folder at the same time.

    Raises:
        ArtifactError: another one is at it.
    """
    refusal = f"Another update of {base} is at work. Wait until it has ended."
    with _locked(Path(base) / ".update.lock", 0, refusal):
        yield


@contextlib.contextmanager
def _locked(path, seconds, refusal):
    """Hold a lock, which ends with its process too; waits so long, then raises `refusal`."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=seconds, poll_interval=0.005)
    except Timeout as error:
        raise ArtifactError(refusal) from error
    try:
        yield
    finally:
        lock.release()


def write_label(
    base: str | Path, label: str, version: int, *, instead_of: int | None = None
) -> None:
    """Points a label at an existing version (this is also how a rollback is done).

    Of two processes that write at once none undoes what the other has written.

    Args:
        base: `saved_models/NAME`.
        label: one of `LABELS`.
        version: number of the version.
        instead_of: number of the version that the label must name until now; None = whatever it is.

    Raises:
        ValueError: an unknown label.
        ArtifactError: no such version; the label names another one by now; another process keeps
            the labels locked.
    """
    if label not in LABELS:
        raise ValueError(f"label must be one of {', '.join(LABELS)}. Received: {label!r}.")
    if version not in versions(base):
        raise ArtifactError(f"{base} has no version {version}; it has {versions(base)}.")
    refusal = (
        f"Another process has kept the labels of {base} locked for {_LABEL_SECONDS} seconds. Try "
        "again when it has ended."
    )
    # not the lock of `alone`: whoever holds that writes labels too
    with _locked(Path(base) / ".labels.lock", _LABEL_SECONDS, refusal):
        labels = read_labels(base)
        if instead_of not in (None, labels.get(label)):
            raise ArtifactError(
                f"The label {label} of {base} was moved from {instead_of} to {labels.get(label)} "
                f"meanwhile and was left there. Version {version} is there, without a label."
            )
        text = json.dumps({**labels, label: version}, indent=1) + "\n"
        with whole_file(Path(base) / "labels.json") as beside:
            beside.write_text(text, encoding="utf-8")


def rollback(model: str | Path, to: int | None = None) -> tuple[int, int]:
    """Points the label stable at an earlier version.

    Args:
        model: `saved_models/NAME`.
        to: number of the version; None = the parent of the one that answers now.

    Returns:
        `(number before, number now)`.

    Raises:
        ArtifactError: no such version, or one without a parent.
    """
    if to is not None:  # also away from a version that is damaged or gone
        known = versions(model)
        if not known:
            find_version(model)  # says what is there instead
        before = read_labels(model).get("stable", known[-1])
        write_label(model, "stable", to)
        return before, to
    version = find_version(model)
    manifest = read_manifest(version)
    to = manifest.parent
    if to is None:
        raise ArtifactError(
            f"{version} has no parent to go back to. Name a version: --to N, one of "
            f"{versions(version.parent)}."
        )
    write_label(version.parent, "stable", to)
    return manifest.version, to
