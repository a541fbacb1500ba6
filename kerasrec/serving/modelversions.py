"""`ModelVersions`: keeps the versions of one model folder loaded, while folders come and go.

A new version is loaded, checked and warmed up while the others serve; requests see it only then.
A version that is not wanted any more is let go when its last request has its answer. A version that
does not load is left out until its folder changes, with the reason in its status and in the log.
Where the reason may pass (the disk, the memory) it is tried again after growing pauses.
"""

import contextlib
import gc
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kerasrec.backend import tf
from kerasrec.checks import ArtifactError
from kerasrec.serving.admission import Refusal
from kerasrec.serving.servedversion import Look, ServedVersion, look_of
from kerasrec.versions import folders

log = logging.getLogger(__name__)

POLICIES = ("labelled", "all")
_WATCH = 0.5  # seconds between two looks at the labels while a version loads
_MAX_ENDED = 50  # versions that are over stay in the status; only so many
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 300.0  # seconds between tries of a version; they double
#: why a version may load a little later, in its folder as it is
_PASSING = (
    OSError,
    MemoryError,
    tf.errors.ResourceExhaustedError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,  # such as an input/output error
)


class _Closed(Exception):
    """The versions are not wanted any more; nothing more is loaded."""


class State(NamedTuple):
    """The state of a version.

    Attributes:
        number: of the version.
        state: START, LOADING, AVAILABLE, UNLOADING or END.
        code: name of a gRPC status code; "OK" = nothing is wrong.
        message: the words for it.
    """

    number: int
    state: str
    code: str
    message: str


class ModelVersions:
    """The loaded versions of one model folder.

    Args:
        base: `saved_models/NAME`; the folder's name is the model's name.
        policy: "labelled" loads the newest version and those with a label, "all" loads all.

    Attributes:
        name: of the model.
        base: its folder.
        labels: label -> version, of labels whose version is loaded.
    """

    def __init__(self, base: str | Path, *, policy: str = "labelled") -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}. Received: {policy!r}.")
        self.base = Path(base)
        self.name = self.base.resolve().name
        self.policy = policy
        self.labels: dict[str, int] = {}
        self._loaded: dict[int, ServedVersion] = {}  # replaced as a whole, never changed
        self._states: dict[int, State] = {}
        #: number -> (look of its folder when it failed, why)
        self._broken: dict[int, tuple[Look, str]] = {}
        #: number of a version that failed for a passing reason -> (time of the next try, pause)
        self._again: dict[int, tuple[float, float]] = {}
        self._label_error = ""
        self._astray: dict[str, int] = {}  # labels whose version is not loaded
        self._garbage = False  # whether a version was let go since the last collection
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._closed = threading.Event()

    # --- requests ---

    @contextlib.contextmanager
    def use(
        self, *, version: int | None = None, label: str | None = None
    ) -> Iterator[ServedVersion]:
        """Gives the one version that answers a request; it stays loaded inside the block.

        Args:
            version: number, or None.
            label: name, or None. Without both: the version of the label stable, else the largest.

        Raises:
            Refusal: NOT_FOUND for a version, INVALID_ARGUMENT for a label, as TF Serving has it.
        """
        with self._lock:
            chosen = self._choose(version, label)
            chosen.in_use += 1
        try:
            yield chosen
        finally:
            with self._lock:
                chosen.in_use -= 1
                is_over = chosen.is_retired and chosen.in_use == 0
            if is_over:
                self._unload(chosen)

    def _choose(self, version: int | None, label: str | None) -> ServedVersion:
        asked = f"Latest({self.name})"
        if label is not None:
            if label not in self.labels:
                raise Refusal("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
            version = self.labels[label]
        elif version is None:
            version = self.default
        else:
            asked = f"Specific({self.name}, {version})"
        if version is None or version not in self._loaded:
            raise Refusal("NOT_FOUND", f"Servable not found for request: {asked}")
        return self._loaded[version]

    @property
    def numbers(self) -> list[int]:
        """Numbers of the loaded versions, ascending."""
        return sorted(self._loaded)

    @property
    def default(self) -> int | None:
        """Number of the version that answers where none is named; None = none is loaded."""
        return self.labels.get("stable", max(self._loaded, default=None))

    def status(self, version: int | None = None, label: str | None = None) -> list[State]:
        """Tells the states of one version or of all, newest first.

        Raises:
            Refusal: NOT_FOUND for a version, INVALID_ARGUMENT for a label.
        """
        with self._lock:
            if label is not None:
                version = self._choose(None, label).number
            if version is not None and version not in self._states:
                raise Refusal("NOT_FOUND", f"Could not find version {version} of model {self.name}")
            numbers = sorted(self._states, reverse=True) if version is None else [version]
            found = [self._states[number] for number in numbers]
        if not found:
            raise Refusal("NOT_FOUND", f"Could not find any versions of model {self.name}")
        return found

    def reasons(self) -> dict[int, str]:
        """Tells why versions do not load: number -> reason."""
        return {number: why for number, (_, why) in sorted(self._broken.items())}

    # --- folders ---

    def refresh(self) -> None:
        """Looks at the folder once: loads new versions that are wanted, lets the others go.

        Raises:
            OSError: the folder cannot be read; the loaded versions go on serving.
        """
        with self._refreshing:
            tried: set[int] = set()  # each once: one that changes as it loads is for the next look
            # a version that fails makes the next smaller one the latest
            while not self._closed.is_set():
                on_disk = folders.versions(self.base)
                if not on_disk and self._loaded:
                    return  # the folder has gone for a moment: all stays as it is
                self._forget(on_disk)
                labels = self._move_labels()
                wanted = self._wanted(on_disk, labels)
                missing = sorted(wanted - self._current() - set(self._broken) - tried)
                if not missing:
                    break
                tried.add(missing[-1])
                self._load_and_watch(missing[-1])
            if self._closed.is_set():
                return
            self._retire(wanted, labels)
            if self._garbage:
                self._garbage = False
                gc.collect()  # functions of TensorFlow hold each other in cycles

    def close(self) -> None:
        """Loads nothing more; a version that is being loaded is given up before its next step."""
        self._closed.set()

    def _current(self) -> set[int]:
        """Numbers of the loaded versions whose folders are as they were, or have gone."""
        looks = {number: look_of(self.base / str(number)) for number in self._loaded}
        return {n for n, version in self._loaded.items() if looks[n] in ([], None, version.look)}

    def _forget(self, on_disk: Sequence[int]) -> None:
        """Makes failed versions due whose folder has gone or changed, or whose pause is over."""
        for number, (failed, _) in list(self._broken.items()):
            look = look_of(self.base / str(number))
            if number not in on_disk or look != failed:
                del self._broken[number]
                self._again.pop(number, None)
                if number in self._loaded and self._loaded[number].look == look:
                    self._set_state(number, "AVAILABLE")  # it is again what is loaded of it
            elif number in self._again and time.monotonic() >= self._again[number][0]:
                del self._broken[number]

    def _read_labels(self) -> dict[str, int]:
        """Label -> version, of the file; the last good ones while it is damaged."""
        try:
            labels, error = folders.read_labels(self.base), ""
        except (ArtifactError, OSError) as problem:
            labels, error = dict(self.labels), str(problem)
        if error and error != self._label_error:
            log.error("labels kept as they were", extra={"model": self.name, "error": error})
        self._label_error = error
        return labels

    def _wanted(self, on_disk: Sequence[int], labels: Mapping[str, int]) -> set[int]:
        # a folder that was replaced by a broken one leaves what is loaded of it serving
        sound = [n for n in on_disk if n not in self._broken or n in self._loaded]
        if self.policy == "all":
            return set(sound)
        return {*sound[-1:], *(n for n in labels.values() if n in sound)}

    def _load(self, number: int) -> None:
        path = self.base / str(number)
        look = look_of(path)
        self._set_state(number, "LOADING")
        facts: dict[str, object] = {"model": self.name, "version": number}
        log.info("loading a version", extra=facts)
        begin = time.monotonic()
        try:
            version = ServedVersion(self.name, number, path)
            replayed = version.warm_up(self._check_open)
        except Exception as error:  # whatever a broken folder does, the others go on
            self._note_failure(number, look, error)
            return
        self._again.pop(number, None)
        with self._lock:
            replaced = self._loaded.get(number)  # another version of the same number
            self._loaded = {**self._loaded, number: version}
            self._states[number] = State(number, "AVAILABLE", "OK", "")
            is_over = replaced is not None and replaced.in_use == 0
            if replaced is not None:
                replaced.is_retired = True
        if replaced is not None and is_over:
            self._unload(replaced)
        facts["seconds"] = round(time.monotonic() - begin, 1)
        facts["warm_up_requests"] = replayed
        if version.indexed is not None:
            facts["index"] = version.indexed.report
        log.info("version loaded", extra=facts)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise _Closed

    def _note_failure(self, number: int, look: Look, error: Exception) -> None:
        """Says in status and log that a version does not load, and whether it is tried again."""
        message = (" ".join(str(error).split()) or type(error).__name__)[:1000]
        code = "FAILED_PRECONDITION"
        _, pause = self._again.pop(number, (0.0, _FIRST_PAUSE / 2))
        if isinstance(error, _Closed):
            code, message = "CANCELLED", "given up: the server stops."
        self._broken[number] = (look, message)
        if isinstance(error, _PASSING):
            pause = min(2 * pause, _LONGEST_PAUSE)
            self._again[number] = (time.monotonic() + pause, pause)
            code, message = "UNAVAILABLE", _tried_again(message, pause)
        self._set_state(number, "AVAILABLE" if number in self._loaded else "END", code, message)
        facts = {"model": self.name, "version": number, "error": message}
        log.error("version does not load", extra=facts)

    def _load_and_watch(self, number: int) -> None:
        """Loads a version; a label that is moved meanwhile does not wait for it."""
        if not self._loaded:
            self._load(number)
            return
        loading = threading.Thread(target=self._load, args=[number], name="kerasrec-load")
        loading.start()
        while loading.is_alive():
            loading.join(_WATCH)
            self._move_labels()

    def _move_labels(self) -> dict[str, int]:
        """Points labels at their versions where these are loaded; returns all that were read."""
        labels = self._read_labels()
        with self._lock:
            kept = {}
            for label, number in labels.items():
                # a label that points to a version that is not there stays where it was
                served = number if number in self._loaded else self.labels.get(label)
                if served is not None and served in self._loaded:
                    kept[label] = served
            moved, self.labels = kept != self.labels, kept
        if moved:
            log.info("labels", extra={"model": self.name, "labels": kept})
        return labels

    def _retire(self, wanted: set[int], labels: Mapping[str, int]) -> None:
        """Lets versions go that are not wanted and have no label; logs labels that lead nowhere."""
        with self._lock:
            keep = wanted | set(self.labels.values())
            if not keep & set(self._loaded):  # the folder has gone: better the old one than none
                keep = set(sorted(self._loaded)[-1:])
            retired = [v for number, v in self._loaded.items() if number not in keep]
            self._loaded = {n: v for n, v in self._loaded.items() if n in keep}
            for version in retired:
                version.is_retired = True
                self._states[version.number] = State(version.number, "UNLOADING", "OK", "")
            idle = [version for version in retired if version.in_use == 0]
            kept = dict(self.labels)
        astray = {label: n for label, n in labels.items() if kept.get(label) != n}
        if astray and astray != self._astray:
            facts = {"model": self.name, "labels": astray, "served": kept}
            log.error("labels name versions that are not loaded", extra=facts)
        self._astray = astray
        for version in idle:
            self._unload(version)

    def _unload(self, version: ServedVersion) -> None:
        version.unload()
        self._garbage = True
        with self._lock:
            if version.number not in self._loaded:  # not there again in the meantime
                self._states[version.number] = State(version.number, "END", "OK", "")
        log.info("version unloaded", extra={"model": self.name, "version": version.number})

    def _set_state(self, number: int, state: str, code: str = "OK", message: str = "") -> None:
        with self._lock:
            self._states[number] = State(number, state, code, message)
            ended = sorted(n for n, found in self._states.items() if found.state == "END")
            for old in ended[:-_MAX_ENDED]:
                del self._states[old]


def _tried_again(message: str, pause: float) -> str:
    return f"{message.rstrip('.')}. It is tried again in {pause:g} seconds."
