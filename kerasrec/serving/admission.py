"""What a server accepts: limits, and `Refusal`, the one exception that becomes an error code."""

import contextlib
import threading
from typing import NamedTuple

#: status code of gRPC -> that of HTTP, as TF Serving maps them
HTTP_STATUS = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
#: scores of one call into TensorFlow, about; a request of more rows is computed in parts
SCORES_AT_ONCE = 1 << 22
#: what a candidate of the caller's choice costs, about, where an item of the catalogue costs 1:
#: its vector and what the scorer makes of it are kept, not only its score
CANDIDATE = 256
#: values of an option at most
MOST = 1 << 31
#: inputs that are lists of the caller's choice, not histories: only the body limits their width
_LISTS = ("allow", "deny", "candidates")
#: inputs whose every cell costs a pass through the text encoder
TEXTS = ("texts", "history_texts")
#: texts of one call into TensorFlow, about; a request of more is computed in parts
TEXTS_AT_ONCE = 32
#: limit -> how `kerasrec serve` calls it
_OPTIONS = {
    "body_bytes": "--max-body-mib",
    "batch": "--max-batch",
    "history": "--max-history",
    "texts": "--max-texts",
    "seconds": "--deadline",
    "concurrent": "--max-concurrent",
    "workers": "--workers",
}
_MAX_CELLS = 1 << 20  # of one input: a proto can declare a large tensor in a few bytes


class Refusal(Exception):
    """A request that is answered by an error.

    Args:
        code: name of a gRPC status code, a key of `HTTP_STATUS`.
        message: one sentence for the caller.
        http_status: where HTTP has a better code than `HTTP_STATUS` gives.
    """

    def __init__(self, code, message, *, http_status=None):
        super().__init__(message)
        self.code = code
        self.http_status = http_status or HTTP_STATUS[code]


class Limits(NamedTuple):
    """What one request, and all requests together, may ask for.

    Attributes:
        body_bytes: size of a request.
        batch: rows of a request.
        history: width of a history, texts or times included.
        texts: raw texts of a request (each costs a pass through the encoder).
        seconds: a request that has not begun to compute by then is given up; one that is computed
            in parts also between two of them.
        concurrent: requests in work or waiting; one more is refused at once.
        workers: calls into TensorFlow at once; `kerasrec serve` shares the cores among them.
    """

    body_bytes: int = 8 << 20
    batch: int = 1024
    history: int = 1000
    texts: int = 1024
    seconds: float = 30.0
    concurrent: int = 64
    workers: int = 2

    def check(self):
        """Raise ValueError unless all are positive; gives back the limits."""
        for name, value in self._asdict().items():
            if not 0 < value < MOST:
                raise ValueError(
                    f"The limit {name} ({_OPTIONS[name]}) must be above 0 and below 2**31. "
                    f"Received: {value}."
                )
        return self

    def check_shape(self, name, shape, expected):
        """Raise `Refusal` unless an input has the rank of its signature and is small enough.

        Args:
            name: of the input.
            shape: its dimensions.
            expected: those of the signature, -1 = any; None = any shape.
        """
        wrong = expected is not None and (
            len(shape) != len(expected)
            or any(want not in (-1, size) for size, want in zip(shape, expected, strict=True))
        )
        if wrong or any(size < 0 for size in shape):
            wanted = "any" if expected is None else _shape(expected)
            raise Refusal(
                "INVALID_ARGUMENT",
                f"input {name} must have the shape {wanted} (? = any size). Received: "
                f"{_shape(shape)}.",
            )
        cells = 1
        for size in shape:
            cells *= size
        if shape and shape[0] > self.batch:
            _too_much(f"at most {self.batch} rows in a request", shape[0], name, "batch")
        widest = max(shape[1:], default=0)
        if name not in _LISTS and expected != (-1,) and widest > self.history:
            advice = f"Keep the newest {self.history} events of each history"
            _too_much(f"a width of at most {self.history}", widest, name, "history", advice)
        if name in TEXTS and cells > self.texts:
            _too_much(f"at most {self.texts} texts in a request", cells, name, "texts")
        if cells > _MAX_CELLS:
            _too_much(f"at most {_MAX_CELLS} values in an input", cells, name)


def _too_much(allowed, received, name, limit=None, advice="Send several requests"):
    """Refuse; `limit` may be raised by whoever starts the server."""
    higher = f", or start the server with a higher {_OPTIONS[limit]}" if limit else ""
    raise Refusal(
        "INVALID_ARGUMENT",
        f"this server allows {allowed}. Received: {received} in {name}. {advice}{higher}.",
    )


def _shape(dimensions):
    return "[" + ",".join("?" if size == -1 else str(size) for size in dimensions) + "]"


class Gate:
    """Counts the requests in work and refuses those above the limit at once.

    >>> gate = Gate(1)
    >>> with gate.passed():
    ...     gate.in_flight
    1
    >>> gate.in_flight
    0
    """

    def __init__(self, limit):
        self.limit = limit
        self.in_flight = 0
        self._lock = threading.Lock()

    def enter(self):
        """Count one more.

        Raises:
            Refusal: RESOURCE_EXHAUSTED, there are as many as may be.
        """
        with self._lock:
            if self.in_flight >= self.limit:
                raise Refusal(
                    "RESOURCE_EXHAUSTED",
                    f"the server works on {self.limit} requests, as many as it takes at once; "
                    "try again later.",
                )
            self.in_flight += 1

    def leave(self):
        """Count one less."""
        with self._lock:
            self.in_flight -= 1

    @contextlib.contextmanager
    def passed(self):
        """`enter` and `leave`."""
        self.enter()
        try:
            yield
        finally:
            self.leave()
