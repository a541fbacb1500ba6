"""Says who and what a server lets in: `Access`, `Limits`, `Gate`, and `Refusal` for the rest."""

import contextlib
import hmac
import ipaddress
import re
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from kerasrec.client.statuscodes import HTTP_STATUS

#: scores of one call into TensorFlow, about; a request of more rows is computed in parts
SCORES_AT_ONCE = 1 << 22
#: cost of a candidate that the caller chose, where an item of the catalogue costs 1: its vector
#: and what the scorer makes of it are kept, not only its score
CANDIDATE = 256
#: values of an option at most
MOST = 1 << 31
#: inputs that are lists of the caller's choice, not histories: only the body limits their width
_LISTS = ("allow", "deny", "candidates")
#: inputs whose every cell costs a pass through the text encoder
TEXTS = ("texts", "history_texts")
#: texts of one call into TensorFlow, about; a request of more is computed in parts
TEXTS_AT_ONCE = 32
#: limit -> its name on the command line of `kerasrec serve`
_OPTIONS = {
    "body_bytes": "--max-body-mib",
    "batch": "--max-batch",
    "history": "--max-history",
    "texts": "--max-texts",
    "events": "--max-events",
    "seconds": "--deadline",
    "concurrent": "--max-concurrent",
    "workers": "--workers",
}
#: seconds in which headers, the message of a call, and a connection's first bytes must have come
MESSAGE_SECONDS = 10.0
_SPARE_FILES = 100  # of the process, not for connections
_MAX_CELLS = 1 << 20  # of one input: a proto can declare a large tensor in a few bytes


class Refusal(Exception):
    """A request that is answered by an error.

    Args:
        code: name of a gRPC status code, a key of `HTTP_STATUS`.
        message: one sentence for the caller.
        http_status: where HTTP has a better code than `HTTP_STATUS` gives.
    """

    def __init__(self, code: str, message: str, *, http_status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.http_status = http_status or HTTP_STATUS[code]


# --- how much ---


class Limits(NamedTuple):
    """Bounds of one request, and of all requests together.

    Attributes:
        body_bytes: size of a request.
        batch: rows of a request.
        history: width of a history, texts or times included.
        texts: raw texts of a request (each costs a pass through the encoder).
        seconds: a request that has not begun to compute by then is given up; one that is computed
            in parts also between two of them.
        concurrent: requests in work or waiting; one more is refused at once.
        workers: calls into TensorFlow at once; `kerasrec serve` shares the cores among them.
        events: of a request to the feedback store.
    """

    body_bytes: int = 8 << 20
    batch: int = 1024
    history: int = 1000
    texts: int = 1024
    seconds: float = 30.0
    concurrent: int = 64
    workers: int = 2
    events: int = 20_000

    def check(self) -> "Limits":
        """Returns the limits; raises ValueError unless all are positive."""
        for name, value in self._asdict().items():
            if not 0 < value < MOST:
                raise ValueError(
                    f"The limit {name} ({_OPTIONS[name]}) must be above 0 and below 2**31. "
                    f"Received: {value}."
                )
        return self

    def check_shape(self, name: str, shape: Sequence[int], expected: Sequence[int] | None) -> None:
        """Raises `Refusal` unless an input has the rank of its signature and is small enough.

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

    def check_events(self, number: int) -> None:
        """Raises `Refusal` where a request has more events than the store takes at once."""
        if number > self.events:
            _too_much(f"at most {self.events} events in a request", number, "it", "events")


def _too_much(
    allowed: str,
    received: int,
    name: str,
    limit: str | None = None,
    advice: str = "Send several requests",
) -> NoReturn:
    """Refuses an input; `limit` is one that an operator may raise."""
    higher = f", or start the server with a higher {_OPTIONS[limit]}" if limit else ""
    raise Refusal(
        "INVALID_ARGUMENT",
        f"this server allows {allowed}. Received: {received} in {name}. {advice}{higher}.",
    )


def _shape(dimensions: Sequence[int]) -> str:
    return "[" + ",".join("?" if size == -1 else str(size) for size in dimensions) + "]"


class Gate:
    """Counts the requests in work and refuses those above the limit at once.

    One address may hold three quarters of the places: who sends more than the server can answer
    leaves room for the others. Behind a proxy all requests come from one address.

    >>> gate = Gate(4)
    >>> for _ in range(3):
    ...     gate.enter("203.0.113.7")
    >>> gate.enter("203.0.113.7")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    kerasrec.serving.admission.Refusal: the server works on 3 requests of yours, as many ...
    >>> with gate.passed("203.0.113.8"):
    ...     gate.in_flight
    4
    >>> gate.in_flight
    3
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.share = limit, limit - limit // 4
        self.in_flight = 0
        self._of_address: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, address: str = "") -> None:
        """Counts one more, of an address; "" = one that is not known.

        Raises:
            Refusal: RESOURCE_EXHAUSTED, the limit is reached.
        """
        with self._lock:
            if self.in_flight >= self.limit:
                raise _full(f"{self.limit} requests")
            if address and self._of_address[address] >= self.share:
                raise _full(f"{self.share} requests of yours")
            self.in_flight += 1
            self._of_address[address] += 1

    def leave(self, address: str = "") -> None:
        """Counts one less."""
        with self._lock:
            self.in_flight -= 1
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    @contextlib.contextmanager
    def passed(self, address: str = "") -> Iterator[None]:
        """Enters, and leaves when the block ends."""
        self.enter(address)
        try:
            yield
        finally:
            self.leave(address)


def most_connections(protocols: int = 2) -> int:
    """How many connections one of the protocols may hold: some file descriptors stay free.

    Those are for the store, versions that load, and the log. At most 4,096; a proxy holds more.
    """
    try:
        import resource
    except ImportError:  # Windows
        return 512
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return 4096
    return min(max((files - _SPARE_FILES) // protocols, 8), 4096)


def _full(what: str) -> Refusal:
    return Refusal(
        "RESOURCE_EXHAUSTED",
        f"the server works on {what}, as many as it takes at once; try again later.",
    )


# --- who ---


class Access(NamedTuple):
    """Who can reach a server.

    Attributes:
        host: address to listen on; the default is reached from this machine only.
        api_key: requests must give it as `x-api-key` or `authorization: Bearer`; "" = no key.
        tls_cert: file with the certificate chain (PEM), for both protocols; None = no TLS.
        tls_key: file with its private key (PEM).
        host_names: names that clients use for the server. On loopback others than localhost are
            refused; elsewhere any name is taken unless some are given here.
        origins: pages of these origins, such as `https://shop.example`, may use the server from a
            browser; all others are refused.
    """

    host: str = "127.0.0.1"
    api_key: str = ""
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    host_names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the address."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"

    def check(self) -> "Access":
        """Returns it; raises ValueError or OSError unless key and TLS files can be used."""
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError(
                "TLS needs both a certificate and its private key. Received: one of them."
            )
        for path in (self.tls_cert, self.tls_key):
            if path:
                Path(path).read_bytes()
        if self.tls_cert:
            _check_pair(self.tls_cert, self.tls_key)
        for name in self.host_names:
            if not re.fullmatch(r"[\w.-]+", name):
                raise ValueError(
                    "A host name (--host-name) must be a name without scheme and port, such as "
                    f"recs.example. Received: {name!r}."
                )
        for origin in self.origins:
            if not re.fullmatch(r"https?://[^/\s]+/?", origin):
                raise ValueError(
                    "An origin (--allow-origin) must be a scheme and a host, such as "
                    f"https://shop.example. Received: {origin!r}."
                )
        if not re.fullmatch("[!-~]*", self.api_key):
            raise ValueError("An API key must be of printable ASCII characters without spaces.")
        return self


def _check_pair(certificate: str | Path, key: str | Path | None) -> None:
    def is_encrypted() -> NoReturn:  # without it OpenSSL asks for a passphrase on the terminal
        raise ValueError(
            f"The private key {key} is encrypted, and nobody is there to type its "
            f"passphrase. Give it decrypted: openssl pkey -in {key} -out plain.pem"
        )

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=is_encrypted)
    except ssl.SSLError as error:
        raise ValueError(
            f"Expected a certificate and its private key in PEM form. {certificate} and "
            f"{key} are not ({error})."
        ) from error


def key_check(key: str) -> Callable[[Mapping[str, str]], bool] | None:
    """Makes a function that says whether headers (names in lower case) hold a key; None for ""."""
    if not key:
        return None
    wanted = key.encode()

    def is_right(headers: Mapping[str, str]) -> bool:
        given = headers.get("x-api-key") or ""
        scheme, _, token = (headers.get("authorization") or "").partition(" ")
        if not given and scheme.lower() == "bearer":
            given = token.strip()
        return hmac.compare_digest(given.encode(errors="replace"), wanted)

    return is_right
