"""`Predictor`: one Predict request, whichever protocol brought it.

A request is a `Target` and its inputs. All protocols go the same way:

    with predictor.counted("rest") as call:                    # metrics and log
        with predictor.resolved(target, call) as resolved:     # the version stays loaded
            tensors = ...                                      # made for resolved.signature
            outputs = predictor.run(resolved, tensors, deadline)
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from kerasrec.backend import tf
from kerasrec.serving.admission import (
    CANDIDATE,
    SCORES_AT_ONCE,
    TEXTS,
    TEXTS_AT_ONCE,
    Gate,
    Limits,
    Refusal,
)
from kerasrec.serving.items.filters import FILTERED, PLANS, WHERE, Filters, check_where
from kerasrec.serving.items.live import LiveItems
from kerasrec.serving.modelversions import ModelVersions, State
from kerasrec.serving.monitor import Call, Metrics
from kerasrec.serving.servedversion import ServedVersion, Signature

log = logging.getLogger(__name__)
#: errors of TensorFlow that are the caller's; the others are INTERNAL
_CODES = {
    tf.errors.INVALID_ARGUMENT: "INVALID_ARGUMENT",
    tf.errors.OUT_OF_RANGE: "INVALID_ARGUMENT",
    tf.errors.FAILED_PRECONDITION: "FAILED_PRECONDITION",
    tf.errors.RESOURCE_EXHAUSTED: "RESOURCE_EXHAUSTED",
    tf.errors.UNIMPLEMENTED: "UNIMPLEMENTED",
}


#: names of inputs or outputs -> tensors
Tensors = Mapping[str, Any]


class Target(NamedTuple):
    """Whom a request is for, in the words of its sender.

    Attributes:
        model: name of the model.
        version: its number; None = the one of `label`.
        label: name of a label; None = the version that answers by default.
        signature: its name; "" = the default one.
    """

    model: str
    version: int | None = None
    label: str | None = None
    signature: str = ""


class Resolved(NamedTuple):
    """The one signature of one loaded version that answers a request."""

    version: ServedVersion
    signature: Signature
    call: Call


class Predictor:
    """Answers Predict requests from a few models.

    Args:
        models: dict of name -> `ModelVersions`.
        limits: `Limits`.
        live: `LiveItems`, newer values of items; None = there are none.

    Each request is a line of this module's log at the level DEBUG.
    """

    def __init__(
        self, models: dict[str, ModelVersions], limits: Limits, live: LiveItems | None = None
    ) -> None:
        self.models, self.limits, self.live = models, limits, live
        self.gate = Gate(limits.concurrent)
        self.metrics = Metrics(models, self.gate)
        self._slots = threading.BoundedSemaphore(limits.workers)
        # texts take seconds where ids take milliseconds: they leave a worker to the others
        self._text_slots = threading.BoundedSemaphore(max(limits.workers - 1, 1))

    @contextlib.contextmanager
    def counted(self, protocol: str) -> Iterator[Call]:
        """Gives a `Call` for one request, and counts its outcome when the block ends.

        Raises:
            Refusal: also where something else went wrong inside, as INTERNAL.
        """
        call = Call(protocol)
        try:
            yield call
        except Refusal as refusal:
            call.code, call.error = refusal.code, str(refusal)
            raise
        except Exception as error:  # a request never takes the server down
            call.code, call.error = "INTERNAL", f"{type(error).__name__}: {error}"
            log.exception("defect while answering", extra={"model": call.model})
            message = "the server failed to answer; its log says why."
            raise Refusal("INTERNAL", message) from error
        except BaseException:  # nobody waits for the answer any more
            call.code = "CANCELLED"
            raise
        finally:
            call.seconds = time.perf_counter() - call.began
            self.metrics.count(call)
            if log.isEnabledFor(logging.DEBUG):
                facts = {k: v for k, v in vars(call).items() if k != "began"}
                log.debug("request", extra={**facts, "seconds": round(call.seconds, 6)})

    @contextlib.contextmanager
    def resolved(self, target: Target, call: Call) -> Iterator[Resolved]:
        """Finds what answers a request, and keeps it loaded inside the block.

        Args:
            target: `Target`.
            call: `Call`, to note the names in.

        Raises:
            Refusal: there is no such model, version, label or signature.
        """
        model = self._model(target)
        call.model = model.name
        with model.use(version=target.version, label=target.label) as version:
            call.version = version.number
            signature = version.signature(target.signature)
            call.signature = signature.name
            yield Resolved(version, signature, call)

    def run(self, resolved: Resolved, tensors: Tensors, deadline: float) -> Tensors:
        """Computes the outputs of a request; large ones in parts.

        Args:
            resolved: `Resolved`, inside of its block.
            tensors: the inputs; `check_inputs` has looked at them.
            deadline: on the clock of `time.perf_counter`.

        Raises:
            Refusal: the deadline has passed, or TensorFlow refuses the inputs.
        """
        ranked = [tensor.shape[0] for tensor in tensors.values() if tensor.shape.rank]
        resolved.call.rows = max(ranked, default=0)
        if self.live is not None:
            self.live.bring(resolved.version.items, self.alone)
        return self._run(resolved.version, resolved.signature, tensors, deadline)

    def loaded(self) -> "Iterator[ServedVersion]":
        """Yields all loaded versions; each stays loaded until the next one."""
        for model in self.models.values():
            for number in model.numbers:
                with contextlib.suppress(Refusal), model.use(version=number) as version:
                    yield version

    @contextlib.contextmanager
    def version(self, target: Target) -> Iterator[ServedVersion]:
        """Gives the version of a `Target`, and keeps it loaded inside the block."""
        with self._model(target).use(version=target.version, label=target.label) as version:
            yield version

    def states(self, target: Target) -> list[State]:
        """Tells the states of one version, or of all, of a model.

        Raises:
            Refusal: NOT_FOUND, in other words than `resolved` has, as TF Serving.
        """
        if target.model not in self.models:
            message = f"Could not find any versions of model {target.model}"
            raise Refusal("NOT_FOUND", message)
        return self.models[target.model].status(target.version, target.label)

    def refuse_examples(self, target: Target, method: str) -> None:
        """Refuses Classify and Regress: all signatures are for Predict; TF Serving's words."""
        with self.version(target) as version:
            version.signature(target.signature)
        kind = {"classify": "classification", "regress": "regression"}[method]
        raise Refusal(
            "INVALID_ARGUMENT",
            f"Expected {kind} signature method_name to be tensorflow/serving/{method}. Was: "
            "tensorflow/serving/predict",
        )

    def _model(self, target: Target) -> ModelVersions:
        try:
            return self.models[target.model]
        except KeyError:
            message = f"Servable not found for request: Latest({target.model})"
            raise Refusal("NOT_FOUND", message) from None

    def _run(
        self, version: ServedVersion, signature: Signature, tensors: Tensors, deadline: float
    ) -> Tensors:
        if texts := [tensors[name] for name in TEXTS if name in tensors]:
            return self._run_texts(signature, tensors, texts[0], deadline)
        if not set(signature.outputs) & {"item_ids", "scores"}:
            return self._call(signature, tensors, deadline)
        # every row needs numbers for the whole catalogue and for each of its candidates: not the
        # memory for all rows at once, nor for any number of candidates
        rows = next((t.shape[0] for t in tensors.values() if t.shape.rank), 0)
        width = tensors["candidates"].shape[1] if "candidates" in tensors else 0
        columns = max(min(width, SCORES_AT_ONCE // CANDIDATE), 1)
        of_row = version.scores_per_row(signature.name) + CANDIDATE * min(width, columns)
        if WHERE in tensors:
            # of every item a score, and an index at most
            of_row = max(of_row, 2 * version.num_items)
            tensors = {**tensors, WHERE: tf.broadcast_to(tensors[WHERE], [rows])}
        at_once = max(SCORES_AT_ONCE // of_row, 1)
        filters = version.filters
        if rows <= at_once and width <= columns:
            return self._call(signature, tensors, deadline, filters)

        def of_rows(start: int) -> Tensors:
            part = {name: tensor[start : start + at_once] for name, tensor in tensors.items()}
            if width <= columns:
                return self._call(signature, part, deadline, filters)
            whole = part["candidates"]
            return _joined(
                [
                    self._call(
                        signature, {**part, "candidates": whole[:, at : at + columns]}, deadline
                    )
                    for at in range(0, width, columns)
                ],
                axis=1,
            )

        return _joined([of_rows(start) for start in range(0, max(rows, 1), at_once)], axis=0)

    def _run_texts(
        self, signature: Signature, tensors: Tensors, texts: Any, deadline: float
    ) -> Tensors:
        """A few texts at a time: others get their turn, and the deadline is heeded, between."""
        width = max(math.prod(texts.shape[1:]), 1)
        at_once = max(TEXTS_AT_ONCE // width, 1)
        answers = []
        for start in range(0, max(texts.shape[0], 1), at_once):
            part = {name: tensor[start : start + at_once] for name, tensor in tensors.items()}
            with self._turn(self._text_slots, deadline):
                answers.append(self._call(signature, part, deadline))
        return _joined(answers, axis=0)

    @contextlib.contextmanager
    def _turn(self, slots: threading.Semaphore, deadline: float) -> Iterator[None]:
        remaining = deadline - time.perf_counter()
        if remaining <= 0 or not slots.acquire(timeout=min(remaining, 1e6)):
            raise Refusal("DEADLINE_EXCEEDED", "the deadline passed before the request's turn.")
        try:
            yield
        finally:
            slots.release()

    def _call(
        self,
        signature: Signature,
        tensors: Tensors,
        deadline: float,
        filters: Filters | None = None,
    ) -> Tensors:
        answer: Callable[[Tensors], Tensors] = signature
        if filters and WHERE in tensors:
            plans = partial(filters.plans, signature)
            answer = plans if signature.name in PLANS else filters.recommend
        with self._turn(self._slots, deadline):
            try:
                return answer(tensors)
            except tf.errors.OpError as error:
                code = _CODES.get(error.error_code, "INTERNAL")
                if code == "INTERNAL":
                    log.exception("TensorFlow failed", extra={"signature": signature.name})
                message = " ".join(str(error.message).split())[:500]
                raise Refusal(code, message) from error

    @contextlib.contextmanager
    def alone(self, seconds: float = 2.0) -> Iterator[None]:
        """Waits until no call into TensorFlow is under way; new ones wait until the block ends.

        Raises:
            TimeoutError: the others did not end within `seconds`.
        """
        until, held = time.perf_counter() + seconds, 0
        try:
            while held < self.limits.workers:
                if not self._slots.acquire(timeout=max(until - time.perf_counter(), 0.001)):
                    raise TimeoutError("calls that are under way did not end")
                held += 1
            yield
        finally:
            for _ in range(held):
                self._slots.release()

    def check_inputs(
        self, signature: Signature, tensors: Mapping[str, tuple[int, Sequence[int]]]
    ) -> None:
        """Checks names, types and sizes of inputs before tensors are made of them.

        Args:
            signature: `Signature`.
            tensors: name -> `(dtype enum, shape)` as received.

        Raises:
            Refusal: INVALID_ARGUMENT.
        """
        if signature.name in FILTERED and WHERE in tensors:
            tensors = dict(tensors)
            dtype, shape = tensors.pop(WHERE)
            check_where(dtype, shape)
            sizes = {one[0] for _, one in tensors.values() if one}
            if shape and shape[0] != 1 and sizes != {shape[0]}:
                message = f"where needs one condition, or one for each row ({sizes})."
                raise Refusal("INVALID_ARGUMENT", f"{message} Received: {shape[0]}.")
        sent, wanted = set(tensors), set(signature.inputs)
        if sent != wanted:
            extra, missing = sorted(sent - wanted), sorted(wanted - sent)
            raise Refusal(
                "INVALID_ARGUMENT",
                f"input size does not match signature: {len(sent)}!={len(wanted)}. Sent extra: "
                f"{{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}.",
            )
        for name, (dtype, shape) in tensors.items():
            expected, dimensions = signature.inputs[name]
            if dtype != expected:
                raise Refusal(
                    "INVALID_ARGUMENT",
                    f"input {name} must be {tf.as_dtype(expected).name}. Received: "
                    f"{_dtype_name(dtype)}.",
                )
            self.limits.check_shape(name, shape, dimensions)
        rows = {name: shape[0] for name, (_, shape) in tensors.items() if shape}
        if len(set(rows.values())) > 1:
            raise Refusal(
                "INVALID_ARGUMENT",
                f"all inputs need the same number of rows. Received: {rows}.",
            )


def _joined(answers: Sequence[Tensors], axis: int) -> Tensors:
    if len(answers) == 1:
        return answers[0]
    return {name: tf.concat([a[name] for a in answers], axis) for name in answers[0]}


def _dtype_name(dtype: int) -> str:
    try:
        return tf.as_dtype(dtype).name
    except TypeError:
        return f"type {dtype}"


def check_outputs(signature: Signature, names: Sequence[str]) -> None:
    """Raises `Refusal` unless each name is an output of a signature, and stands once."""
    for number, name in enumerate(names):
        if name not in signature.outputs:
            raise Refusal(
                "INVALID_ARGUMENT",
                f"output tensor alias not found in signature: {name} Outputs expected to be in "
                f"the set {{{','.join(signature.outputs)}}}.",
            )
        if name in names[:number]:
            raise Refusal("INVALID_ARGUMENT", f"duplicate output tensor alias: {name}")
