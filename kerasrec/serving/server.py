"""`serve`: kerasrec's own server for version folders; it speaks TF Serving's REST and gRPC.

Clients of TF Serving work as they are. Loopback only unless told otherwise.
"""

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kerasrec import backend
from kerasrec.checks import ArtifactError
from kerasrec.client.client import Client as Client
from kerasrec.data.times.zones import MAX_AHEAD, latest_moment, read_zone
from kerasrec.features.shoprules import read_shop_rules
from kerasrec.feedback.userlists import Rules
from kerasrec.serving.admission import (
    MESSAGE_SECONDS,
    MOST,
    Access,
    Limits,
    key_check,
    most_connections,
)
from kerasrec.versions.folders import find_version, versions

if TYPE_CHECKING:
    from kerasrec.feedback.store import FeedbackStore
    from kerasrec.serving.feedbackroutes import FeedbackRoutes
    from kerasrec.serving.items.live import LiveItems
    from kerasrec.serving.modelversions import ModelVersions
    from kerasrec.serving.predictor import Predictor

log = logging.getLogger(__name__)
_PACKAGES = {
    "tensorflow_serving": "tensorflow-serving-api",
    "grpc": "grpcio",
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "prometheus_client": "prometheus-client",
}
#: seconds between two looks for values of items that other servers took in
_LOOK_FOR_ITEMS = 0.25
#: connections that asyncio accepts before the first of them may be refused: fewer than the file
#: descriptors that are kept free
_BURST = 50
_LAST_STEP = 1.0  # seconds that stopping waits for a step of loading a version, or for a fit
#: one or several folders `saved_models/NAME`
ModelFolders = str | Path | Sequence[str | Path]


# --- options ---


class FeedbackOptions(NamedTuple):
    """The feedback store of a server, and its use.

    Attributes:
        store: path or URL, as `FeedbackStore` takes it.
        rules: `Rules` of the lists that are made from it.
        observe: seconds between two looks for events that say what is recent and what follows what
            (`observer`); 0 = never.
        timezone: of dates and times in events that name none, such as "Asia/Shanghai"; None = UTC.
        max_ahead: seconds that an event may lie ahead of this machine's clock.
        shop_rules: path of a YAML file with the rules of the shop (`features.shoprules`), which is
            read again when it changes; None = without.
    """

    store: str | Path
    rules: Rules = Rules()
    observe: float = 60.0
    timezone: str | None = None
    max_ahead: float = MAX_AHEAD
    shop_rules: str | Path | None = None

    def check(self) -> None:
        """Raises ValueError unless rules, seconds and zone make sense."""
        self.rules.check()
        read_zone(self.timezone)
        latest_moment(self.max_ahead)
        if self.shop_rules is not None:
            read_shop_rules(self.shop_rules)
        if not 0 <= self.observe < MOST:
            raise ValueError(f"observe must be 0 or more seconds. Received: {self.observe}.")


#: the name of `FeedbackOptions` in the first releases
Loop = FeedbackOptions


class ServerOptions(NamedTuple):
    """Everything that an operator chooses for a server, besides its models.

    Attributes:
        rest_port: 0 = a free one, see `Server.rest_address`.
        grpc_port: 0 = a free one, see `Server.grpc_address`.
        access: who can reach it.
        limits: how much it takes.
        policy: "labelled" = the newest version and those with a label, "all" = all versions.
        poll: seconds between two looks for new versions and labels.
        feedback: its feedback store; None = without.
    """

    rest_port: int = 0
    grpc_port: int = 0
    access: Access = Access()
    limits: Limits = Limits()
    policy: str = "labelled"
    poll: float = 2.0
    feedback: FeedbackOptions | None = None

    def check(self) -> None:
        """Raises ValueError or OSError for what can be told to be wrong before anything starts."""
        self.access.check()
        if not 0 < self.poll < MOST:
            raise ValueError(
                f"poll must be above 0 and below 2**31 seconds. Received: {self.poll}."
            )
        if self.feedback is not None:
            self.feedback.check()
        self.limits.check()
        ports = {"REST": self.rest_port, "gRPC": self.grpc_port}
        if self.rest_port == self.grpc_port != 0:
            raise ValueError(
                f"REST and gRPC need a port each. Received: {self.rest_port} for both."
            )
        for protocol, port in ports.items():
            listen(self.access.host, port, protocol).close()


_DEFAULTS = ServerOptions()


def listen(host: str, port: int, protocol: str = "REST") -> socket.socket:
    """Makes a bound socket.

    Raises:
        OSError: the address or the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off for sockets that say TCP; without that, 40 ms a request
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            f"cannot listen on {host}:{port} for {protocol} ({reason}). Choose another "
            f"--{protocol.lower()}-port or --host."
        ) from error
    return listening


# --- a running server ---


class GivenUp(Exception):
    """The first versions are not wanted any more.

    Attributes:
        is_loading: whether the thread that loads them is alive; it may be for a while.
    """

    def __init__(self, is_loading: bool) -> None:
        super().__init__("given up: the server stops.")
        self.is_loading = is_loading


class Server:
    """A running server; `running_server` makes it.

    Attributes:
        models: name -> `ModelVersions`.
        predictor: `Predictor`, with `limits` and `metrics`.
        feedback: `FeedbackRoutes`, with `store`; None = no store.
        options: `ServerOptions`.
        rest_address: such as `http://127.0.0.1:8501`.
        grpc_address: such as `127.0.0.1:8500`.
    """

    def __init__(
        self,
        predictor: "Predictor",
        options: ServerOptions,
        feedback: "FeedbackRoutes | None" = None,
    ) -> None:
        self.models, self.predictor, self.options = predictor.models, predictor, options
        self.feedback = feedback
        self.rest_address = self.grpc_address = ""
        self._stopping = threading.Event()
        self._parts = contextlib.ExitStack()
        self._threads: list[threading.Thread] = []
        #: functions that refuse what comes from now on, and return at once
        self._close_doors: list[Callable[[], object]] = []

    def is_ready(self) -> bool:
        """Whether every model has a version that answers, and the server is not about to stop."""
        return not self._stopping.is_set() and all(m.numbers for m in self.models.values())

    @property
    def is_loading(self) -> bool:
        """Whether a version is being loaded, or a table fitted; after `stop`, for a while."""
        return any(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Listens on both ports, and looks for new versions and new events from now on."""
        options = self.options
        with contextlib.ExitStack() as parts:
            self._start_grpc(parts)
            self._start_rest(parts)
            self._start_beside(parts, "kerasrec-poll", self._poll, options.poll)
            if live := self.predictor.live:
                versions = lambda: (one.items for one in self.predictor.loaded())  # noqa: E731
                self._start_beside(
                    parts, "kerasrec-items", live.run, self._stopping, versions, _LOOK_FOR_ITEMS
                )
            if self.feedback and options.feedback and options.feedback.observe:
                from kerasrec.serving.observer import Observer

                seconds = options.feedback.observe
                observer = Observer(self.predictor, self.feedback.store)
                self._start_beside(parts, "kerasrec-observe", observer.run, self._stopping, seconds)
            parts.callback(self._stopping.set)
            self._parts = parts.pop_all()
        facts = {"rest": self.rest_address, "grpc": self.grpc_address}
        served = {name: model.numbers for name, model in self.models.items()}
        log.info("serving", extra={**facts, "versions": served})
        if not (options.access.is_local or options.access.api_key):
            log.warning("open to other machines, without an API key", extra=facts)

    def _start_beside(
        self, parts: contextlib.ExitStack, name: str, work: Callable[..., None], *given: object
    ) -> None:
        """Starts a thread that ends with the server, after the step that it is in."""
        thread = threading.Thread(target=work, args=given, name=name)
        thread.start()
        self._threads.append(thread)
        parts.callback(thread.join, _LAST_STEP)

    def _start_grpc(self, parts: contextlib.ExitStack) -> None:
        import grpc

        from kerasrec.serving.grpcapi import start_grpc

        access, credentials = self.options.access, None
        if access.tls_cert and access.tls_key:
            pair = (Path(access.tls_key).read_bytes(), Path(access.tls_cert).read_bytes())
            credentials = grpc.ssl_server_credentials([pair])
        host = f"[{access.host}]" if ":" in access.host else access.host
        server, port = start_grpc(
            self.predictor,
            f"{host}:{self.options.grpc_port}",
            api_key=key_check(access.api_key),
            credentials=credentials,
        )
        self.grpc_address = f"{host}:{port}"
        self._close_doors.append(lambda: server.stop(self._grace))
        parts.callback(lambda: server.stop(self._grace).wait())

    def _start_rest(self, parts: contextlib.ExitStack) -> None:
        import uvicorn

        from kerasrec.serving.doors.connections import Connections
        from kerasrec.serving.restapi import RestApi

        access = self.options.access
        api = RestApi(
            self.predictor,
            is_ready=self.is_ready,
            api_key=key_check(access.api_key),
            feedback=self.feedback,
            access=access,
        )
        parts.callback(api.pool.shutdown)
        listening = parts.enter_context(listen(access.host, self.options.rest_port))
        connections = Connections(most_connections(), MESSAGE_SECONDS)
        config = uvicorn.Config(
            api.app,
            http=connections.protocol(),
            backlog=_BURST,
            ws="none",  # a connection that becomes a websocket would leave the count
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=self._grace,
            ssl_certfile=access.tls_cert,
            ssl_keyfile=access.tls_key,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, name="kerasrec-rest"
        )
        thread.start()
        parts.callback(thread.join)
        self._close_doors.append(lambda: setattr(server, "should_exit", True))
        parts.callback(self._close_doors[-1])
        while not server.started:
            if not thread.is_alive():
                raise OSError("the REST server did not start; the log says why.")
            time.sleep(0.01)
        host = f"[{access.host}]" if ":" in access.host else access.host
        scheme = "https" if access.tls_cert else "http"
        self.rest_address = f"{scheme}://{host}:{listening.getsockname()[1]}"

    @property
    def _grace(self) -> int:
        """Seconds that requests in work get when the server stops."""
        return int(self.predictor.limits.seconds) + 1

    def _poll(self, seconds: float) -> None:
        while not self._stopping.wait(seconds):
            for model in self.models.values():
                try:
                    model.refresh()
                except Exception:  # what is loaded goes on serving, and the next look may do
                    log.exception("looking for versions failed", extra={"model": model.name})

    def stop(self) -> None:
        """Takes no new requests, finishes those in work, then returns.

        A version that is being loaded is given up; its last step may go on for a while.
        """
        self._stopping.set()
        for model in self.models.values():
            model.close()
        for close in self._close_doors:
            close()
        self._parts.close()
        log.info("stopped")


@contextlib.contextmanager
def running_server(
    models: ModelFolders,
    options: ServerOptions = _DEFAULTS,
    *,
    over: threading.Event | None = None,
) -> "Iterator[Server]":
    """Runs a server in this process, for the length of the block.

    Args:
        models: one or several folders `saved_models/NAME`; the folder's name is the model's.
        options: `ServerOptions`.
        over: event; the first versions are given up where it is set before they are loaded.

    Yields:
        `Server`.

    Raises:
        ArtifactError: a model folder has no version that loads.
        GivenUp: `over` was set.
        OSError: a port is taken, a file of `access` cannot be read, or the store is out of reach.
        SetupError: packages of the extra "serving" are missing.
        ValueError: two models of one name, two ports of one number, a limit that makes no sense,
            half of a TLS pair.
    """
    check_packages()
    folders = _model_folders(models)
    options.check()  # a mistake, such as a taken port, is said before the work
    from kerasrec.serving.modelversions import ModelVersions
    from kerasrec.serving.predictor import Predictor

    with contextlib.ExitStack() as parts:
        feedback = options.feedback
        store = parts.enter_context(_open_store(feedback.store)) if feedback else None
        served = {
            name: ModelVersions(folder, policy=options.policy) for name, folder in folders.items()
        }
        if over is None:
            _load_first(served.values())
        else:
            _load_first_unless(over, served.values())
        predictor = Predictor(served, options.limits, _live_items(store))
        routes = _routes(predictor, store, feedback, parts) if store and feedback else None
        server = Server(predictor, options, routes)
        server.start()
        parts.callback(server.stop)
        yield server


def _open_store(url: str | Path) -> "FeedbackStore":
    from kerasrec.feedback.store import FeedbackStore

    return FeedbackStore(url)


def _live_items(store: "FeedbackStore | None") -> "LiveItems | None":
    """What is stored of items; read before the first list is made."""
    from kerasrec.serving.items.live import LiveItems

    if store is None:
        return None
    live = LiveItems(store)
    live.read()
    return live


def _routes(
    predictor: "Predictor",
    store: "FeedbackStore",
    options: FeedbackOptions,
    parts: contextlib.ExitStack,
) -> "FeedbackRoutes":
    """`FeedbackRoutes` that are closed with `parts`."""
    from kerasrec.serving.feedbackroutes import FeedbackRoutes
    from kerasrec.serving.items.shop import ServedRules

    shop_rules = None if options.shop_rules is None else ServedRules(options.shop_rules)
    if shop_rules is not None:
        for version in predictor.loaded():
            shop_rules.now().check(version.filters.columns)
    routes = FeedbackRoutes(
        predictor,
        store,
        options.rules,
        timezone=options.timezone,
        max_ahead=options.max_ahead,
        shop_rules=shop_rules,
    )
    parts.callback(routes.close)
    return routes


def _load_first(models: "Collection[ModelVersions]") -> None:
    for model in models:
        model.refresh()
        if not model.numbers:
            reasons = [f"{number}: {reason}" for number, reason in model.reasons().items()]
            raise ArtifactError(f"No version of {model.base} loads. {' '.join(reasons)}")


def _load_first_unless(over: threading.Event, models: "Collection[ModelVersions]") -> None:
    """`_load_first` in a thread of its own: a step of it may take minutes and hears of nothing."""
    errors: list[BaseException] = []

    def load() -> None:
        try:
            _load_first(models)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=load, name="kerasrec-load")
    thread.start()
    while thread.is_alive() and not over.is_set():
        thread.join(0.1)
    if over.is_set():
        for model in models:
            model.close()
        thread.join(_LAST_STEP)
        log.info("stopped")
        raise GivenUp(thread.is_alive())
    if errors:
        raise errors[0]


def serve(
    models: ModelFolders,
    *,
    rest_port: int = 8501,
    grpc_port: int = 8500,
    access: Access = _DEFAULTS.access,
    limits: Limits = _DEFAULTS.limits,
    policy: str = "labelled",
    poll: float = 2.0,
    loop: FeedbackOptions | None = None,
    ready: Callable[[Server], object] | None = None,
) -> bool:
    """Serves until SIGTERM or SIGINT, then finishes the requests in work and returns.

    Args:
        models: as in `running_server`.
        rest_port, grpc_port, access, limits, policy, poll: as in `ServerOptions`.
        loop: `FeedbackOptions`, for the routes of a feedback store; None = without.
        ready: function of the `Server`, called when it answers.

    Returns:
        Whether all is over; False while a thread is still in the last step of loading a version or
        fitting a table, which the interpreter waits for when it ends.
    """
    options = ServerOptions(rest_port, grpc_port, access, limits, policy, poll, loop)
    return serve_until_signal(models, options, ready)


def serve_until_signal(
    models: ModelFolders,
    options: ServerOptions,
    ready: Callable[[Server], object] | None = None,
) -> bool:
    """`serve` with its options as one value."""
    over = threading.Event()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, lambda *_: over.set())
    try:
        with running_server(models, options, over=over) as server:
            if ready is not None:
                ready(server)
            over.wait()
    except GivenUp as given_up:
        return not given_up.is_loading
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return not server.is_loading


def check_packages() -> None:
    """Raises `SetupError` unless the packages of the extra "serving" are there."""
    missing = [name for module, name in _PACKAGES.items() if not backend.is_installed(module)]
    if missing:
        raise backend.SetupError(
            f"serving needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
            "missing. Run: pip install 'kerasrec[serving]'"
        )


def _model_folders(models: ModelFolders) -> dict[str, Path]:
    """Model name -> its folder."""
    paths = [models] if isinstance(models, str | Path) else list(models)
    folders = [_model_folder(Path(path)) for path in paths]
    names = [folder.resolve().name for folder in folders]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"Expected one or more model folders with different names. Received: {names}."
        )
    return dict(zip(names, folders, strict=True))


def _model_folder(path: Path) -> Path:
    """A model folder; a version's folder or one without versions is a mistake.

    Which of its versions are sound is found by loading them: a broken one stops no other.
    """
    if not versions(path) and find_version(path) == path:
        raise ArtifactError(
            f"Expected a model folder; {path} is one version of it. Name {path.parent}: which "
            "version answers is chosen by its labels, or by the path of a request."
        )
    return path
