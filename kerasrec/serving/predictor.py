"""`Predictor`: one Predict request, whichever protocol brought it."""

import contextlib
import logging
import math
import threading
import time

from kerasrec.backend import tf
from kerasrec.serving.limits import CANDIDATE, SCORES_AT_ONCE, TEXTS, TEXTS_AT_ONCE, Gate, Refusal
from kerasrec.serving.monitor import Metrics

log = logging.getLogger(__name__)
#: errors of TensorFlow that are the caller's; the others are INTERNAL
_CODES = {
    tf.errors.INVALID_ARGUMENT: "INVALID_ARGUMENT",
    tf.errors.OUT_OF_RANGE: "INVALID_ARGUMENT",
    tf.errors.FAILED_PRECONDITION: "FAILED_PRECONDITION",
    tf.errors.RESOURCE_EXHAUSTED: "RESOURCE_EXHAUSTED",
    tf.errors.UNIMPLEMENTED: "UNIMPLEMENTED",
}


class Call:
    """What is known of one request, for the metrics and the log; names are "" until resolved."""

    def __init__(self, protocol):
        self.protocol = protocol
        self.model = self.version = self.signature = ""
        self.rows = 0
        self.code, self.error = "OK", ""
        self.began = time.perf_counter()
        self.seconds = 0.0


class Predictor:
    """Answers Predict requests from a few models.

    Args:
        models: dict of name -> `ModelVersions`.
        limits: `Limits`.

    Each request is a line of this module's log at the level DEBUG.
    """

    def __init__(self, models, limits):
        self.models, self.limits = models, limits
        self.gate = Gate(limits.concurrent)
        self.metrics = Metrics(models, self.gate)
        self._slots = threading.BoundedSemaphore(limits.workers)
        # texts take seconds where ids take milliseconds: they leave a worker to the others
        self._text_slots = threading.BoundedSemaphore(max(limits.workers - 1, 1))

    def model(self, name):
        """`ModelVersions` by name.

        Raises:
            Refusal: NOT_FOUND.
        """
        try:
            return self.models[name]
        except KeyError:
            message = f"Servable not found for request: Latest({name})"
            raise Refusal("NOT_FOUND", message) from None

    @contextlib.contextmanager
    def counted(self, protocol):
        """A `Call` around one request; its outcome is counted when the block ends.

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

    def predict(self, call, spec, read, deadline, *, outputs=()):
        """Compute one request by one version.

        Args:
            call: `Call` to note the names in.
            spec: dict with `model`, and `version` (number), `label`, `signature` or none of them.
            read: function of a `Signature` that gives its inputs, a dict of tensors.
            deadline: on the clock of `time.perf_counter`.
            outputs: names wanted; empty = all.

        Returns:
            `(ServedVersion, Signature, dict of output tensors)`.

        Raises:
            Refusal: anything is wrong with the request.
        """
        model = self.model(spec["model"])
        call.model = model.name
        with model.use(version=spec.get("version"), label=spec.get("label")) as version:
            call.version = version.number
            signature = version.signature(spec.get("signature") or "")
            call.signature = signature.name
            _check_outputs(signature, outputs)
            tensors = read(signature)
            call.rows = max((t.shape[0] for t in tensors.values() if t.shape.rank), default=0)
            answer = self._run(version, signature, tensors, deadline)
        wanted = outputs or answer
        return version, signature, {name: answer[name] for name in wanted}

    def _run(self, version, signature, tensors, deadline):
        if texts := [tensors[name] for name in TEXTS if name in tensors]:
            return self._run_texts(signature, tensors, texts[0], deadline)
        if not set(signature.outputs) & {"item_ids", "scores"}:
            return self._call(signature, tensors, deadline)
        # every row needs numbers for the whole catalogue and for each of its candidates: not the
        # memory for all rows at once, nor for any number of candidates
        rows = next((t.shape[0] for t in tensors.values()), 0)
        width = tensors["candidates"].shape[1] if "candidates" in tensors else 0
        columns = max(min(width, SCORES_AT_ONCE // CANDIDATE), 1)
        of_row = version.scores_per_row(signature.name) + CANDIDATE * min(width, columns)
        at_once = max(SCORES_AT_ONCE // of_row, 1)
        if rows <= at_once and width <= columns:
            return self._call(signature, tensors, deadline)

        def of_rows(start):
            part = {name: tensor[start : start + at_once] for name, tensor in tensors.items()}
            if width <= columns:
                return self._call(signature, part, deadline)
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

    def _run_texts(self, signature, tensors, texts, deadline):
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
    def _turn(self, slots, deadline):
        remaining = deadline - time.perf_counter()
        if remaining <= 0 or not slots.acquire(timeout=min(remaining, 1e6)):
            raise Refusal("DEADLINE_EXCEEDED", "the deadline passed before the request's turn.")
        try:
            yield
        finally:
            slots.release()

    def _call(self, signature, tensors, deadline):
        with self._turn(self._slots, deadline):
            try:
                return signature(tensors)
            except tf.errors.OpError as error:
                code = _CODES.get(error.error_code, "INTERNAL")
                if code == "INTERNAL":
                    log.exception("TensorFlow failed", extra={"signature": signature.name})
                message = " ".join(str(error.message).split())[:500]
                raise Refusal(code, message) from error

    @contextlib.contextmanager
    def alone(self, seconds=2.0):
        """No call into TensorFlow is under way inside the block; those that come wait.

        Raises:
            TimeoutError: others did not end within so many seconds.
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

    def check_inputs(self, signature, tensors):
        """Check names, types and sizes of inputs before they are made.

        Args:
            signature: `Signature`.
            tensors: name -> `(dtype enum, shape)` of what came.

        Raises:
            Refusal: INVALID_ARGUMENT.
        """
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


def _joined(answers, axis):
    if len(answers) == 1:
        return answers[0]
    return {name: tf.concat([a[name] for a in answers], axis) for name in answers[0]}


def _dtype_name(dtype):
    try:
        return tf.as_dtype(dtype).name
    except TypeError:
        return f"type {dtype}"


def _check_outputs(signature, names):
    for number, name in enumerate(names):
        if name not in signature.outputs:
            raise Refusal(
                "INVALID_ARGUMENT",
                f"output tensor alias not found in signature: {name} Outputs expected to be in "
                f"the set {{{','.join(signature.outputs)}}}.",
            )
        if name in names[:number]:
            raise Refusal("INVALID_ARGUMENT", f"duplicate output tensor alias: {name}")
