"""`serve`: kerasrec's own server for version folders; it speaks TF Serving's REST and gRPC.

Clients of TF Serving work as they are. Loopback only unless told otherwise.
"""

import contextlib
import json
import logging
import re
import shlex
import signal
import threading
import time
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from kerasrec import backend
from kerasrec.checks import ArtifactError
from kerasrec.client.client import Client as Client
from kerasrec.feedback.userlists import Rules
from kerasrec.serving.access import Access, check_access, key_check, listen
from kerasrec.serving.limits import MOST, Limits
from kerasrec.versions.folders import find_version, read_catalogue

log = logging.getLogger(__name__)
_PACKAGES = {
    "tensorflow_serving": "tensorflow-serving-api",
    "grpc": "grpcio",
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "prometheus_client": "prometheus-client",
}
_LAST_STEP = 1.0  # seconds that stopping waits for a step of loading a version, or for a fit
_CHINESE = re.compile("[\u4e00-\u9fff]{2}")


class Loop(NamedTuple):
    """The feedback store of a server.

    Attributes:
        store: path or URL, as `FeedbackStore` takes it.
        rules: `Rules` of the lists that are made from it.
        observe: seconds between two looks for events that say what is recent and what follows what
            (`observer`); 0 = never.
    """

    store: str | Path
    rules: Rules = Rules()
    observe: float = 60.0


_LOCAL, _LIMITS = Access(), Limits()


class GivenUp(Exception):
    """The first versions are not wanted any more.

    Attributes:
        is_loading: whether the thread that loads them is alive; it may be for a while.
    """

    def __init__(self, is_loading):
        super().__init__("given up: the server stops.")
        self.is_loading = is_loading


class Server:
    """A running server; `running_server` makes it.

    Attributes:
        models: name -> `ModelVersions`.
        predictor: `Predictor`, with `limits` and `metrics`.
        feedback: `FeedbackRoutes`, with `store`; None = no store.
        rest_address: such as `http://127.0.0.1:8501`.
        grpc_address: such as `127.0.0.1:8500`.
    """

    def __init__(self, models, predictor, access, feedback=None):
        self.models, self.predictor, self.access = models, predictor, access
        self.feedback = feedback
        self.rest_address = self.grpc_address = ""
        self._stopping = threading.Event()
        self._parts, self._threads = contextlib.ExitStack(), []
        self._close_doors = []  # functions that refuse what comes from now on, and return at once

    def is_ready(self):
        """Whether every model has a version that answers, and the server is not about to stop."""
        return not self._stopping.is_set() and all(m.numbers for m in self.models.values())

    @property
    def is_loading(self):
        """Whether a version is being loaded, or a table fitted; after `stop`, for a while."""
        return any(thread.is_alive() for thread in self._threads)

    def start(self, rest_port, grpc_port, poll, observe=0):
        """Listen on both ports and look for new versions every `poll` seconds.

        Every `observe` seconds, 0 = never, also for events that versions learn without training.
        """
        with contextlib.ExitStack() as parts:
            self._start_grpc(parts, grpc_port)
            self._start_rest(parts, rest_port)
            self._start_beside(parts, "kerasrec-poll", self._poll, poll)
            if observe:
                from kerasrec.serving.observer import LiveLog

                live = LiveLog(self.predictor, self.feedback.store)
                self._start_beside(parts, "kerasrec-observe", live.run, self._stopping, observe)
            parts.callback(self._stopping.set)
            self._parts = parts.pop_all()
        facts = {"rest": self.rest_address, "grpc": self.grpc_address}
        log.info("serving", extra=facts)
        if not (self.access.is_local or self.access.api_key):
            log.warning("open to other machines, without an API key", extra=facts)

    def _start_beside(self, parts, name, work, *given):
        """A thread that ends when the server stops, but for the step in which it is."""
        thread = threading.Thread(target=work, args=given, name=name)
        thread.start()
        self._threads.append(thread)
        parts.callback(thread.join, _LAST_STEP)

    def _start_grpc(self, parts, port):
        import grpc

        from kerasrec.serving.grpcapi import start_grpc

        access, credentials = self.access, None
        if access.tls_cert:
            pair = (Path(access.tls_key).read_bytes(), Path(access.tls_cert).read_bytes())
            credentials = grpc.ssl_server_credentials([pair])
        host = f"[{access.host}]" if ":" in access.host else access.host
        server, port = start_grpc(
            self.predictor,
            f"{host}:{port}",
            api_key=key_check(access.api_key),
            credentials=credentials,
        )
        self.grpc_address = f"{host}:{port}"
        self._close_doors.append(lambda: server.stop(self._grace))
        parts.callback(lambda: server.stop(self._grace).wait())

    def _start_rest(self, parts, port):
        import uvicorn

        from kerasrec.serving.restapi import RestApi

        access = self.access
        api = RestApi(
            self.predictor,
            is_ready=self.is_ready,
            api_key=key_check(access.api_key),
            feedback=self.feedback,
        )
        parts.callback(api.pool.shutdown)
        listening = parts.enter_context(listen(access.host, port))
        config = uvicorn.Config(
            api.app,
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
    def _grace(self):
        """Seconds that requests in work get when the server stops."""
        return int(self.predictor.limits.seconds) + 1

    def _poll(self, seconds):
        while not self._stopping.wait(seconds):
            for model in self.models.values():
                try:
                    model.refresh()
                except Exception:  # what is loaded goes on serving, and the next look may do
                    log.exception("looking for versions failed", extra={"model": model.name})

    def stop(self):
        """Take no new requests, finish those in work, then return.

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
    models,
    *,
    rest_port=0,
    grpc_port=0,
    access=_LOCAL,
    limits=_LIMITS,
    policy="labelled",
    poll=2.0,
    loop=None,
    over=None,
):
    """A server of this process, for the length of the block.

    Args:
        models: one or several folders `saved_models/NAME`; the folder's name is the model's.
        rest_port: 0 = a free one, see `Server.rest_address`.
        grpc_port: 0 = a free one, see `Server.grpc_address`.
        access: `Access`.
        limits: `Limits`.
        policy: "labelled" = the newest version and those with a label, "all" = all versions.
        poll: seconds between two looks for new versions and labels.
        loop: `Loop`, for the routes of a feedback store; None = without.
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
    check_access(access)
    if not 0 < poll < MOST:
        raise ValueError(f"poll must be above 0 and below 2**31 seconds. Received: {poll}.")
    if loop is not None:
        loop.rules.check()
        if not 0 <= loop.observe < MOST:
            raise ValueError(f"observe must be 0 or more seconds. Received: {loop.observe}.")
    paths = [models] if isinstance(models, str | Path) else list(models)
    folders = [_model_folder(path) for path in paths]
    names = [folder.resolve().name for folder in folders]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"Expected one or more model folders with different names. Received: {names}."
        )
    limits.check()
    if rest_port == grpc_port != 0:
        raise ValueError(f"REST and gRPC need a port each. Received: {rest_port} for both.")
    for protocol, port in (("REST", rest_port), ("gRPC", grpc_port)):
        listen(access.host, port, protocol).close()  # a taken port is said before the work
    from kerasrec.serving.modelversions import ModelVersions
    from kerasrec.serving.predictor import Predictor

    with contextlib.ExitStack() as parts:
        store = loop and parts.enter_context(_open_store(loop.store))
        served = {
            name: ModelVersions(f, policy=policy) for name, f in zip(names, folders, strict=True)
        }
        if over is None:
            _load_first(served.values())
        else:
            _load_first_unless(over, served.values())
        predictor = Predictor(served, limits)
        server = Server(served, predictor, access, loop and _routes(predictor, store, loop, parts))
        server.start(rest_port, grpc_port, poll, loop.observe if loop else 0)
        parts.callback(server.stop)
        yield server


def _open_store(url):
    from kerasrec.feedback.store import FeedbackStore

    return FeedbackStore(url)


def _routes(predictor, store, loop, parts):
    """`FeedbackRoutes` that are closed with `parts`."""
    from kerasrec.serving.feedbackroutes import FeedbackRoutes

    routes = FeedbackRoutes(predictor, store, loop.rules)
    parts.callback(routes.close)
    return routes


def _load_first(models):
    for model in models:
        model.refresh()
        if not model.numbers:
            reasons = [f"{number}: {reason}" for number, reason in model.reasons().items()]
            raise ArtifactError(f"No version of {model.base} loads. {' '.join(reasons)}")


def _load_first_unless(over, models):
    """`_load_first` in a thread of its own: a step of it may take minutes and hears of nothing."""
    errors = []

    def load():
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
    models,
    *,
    rest_port=8501,
    grpc_port=8500,
    access=_LOCAL,
    limits=_LIMITS,
    policy="labelled",
    poll=2.0,
    loop=None,
    ready=None,
):
    """Serve until SIGTERM or SIGINT, then finish the requests in work and return.

    Args:
        models, rest_port, grpc_port, access, limits, policy, poll, loop: as in `running_server`.
        ready: function of the `Server`, called when it answers.

    Returns:
        Whether all is over; False while a thread is still in the last step of loading a version or
        fitting a table, which the interpreter waits for when it ends.
    """
    over = threading.Event()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, lambda *_: over.set())
    try:
        with running_server(
            models,
            rest_port=rest_port,
            grpc_port=grpc_port,
            access=access,
            limits=limits,
            policy=policy,
            poll=poll,
            loop=loop,
            over=over,
        ) as server:
            if ready is not None:
                ready(server)
            over.wait()
    except GivenUp as given_up:
        return not given_up.is_loading
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return not server.is_loading


def check_packages():
    """Raise `SetupError` unless the packages of the extra "serving" are there."""
    missing = [name for module, name in _PACKAGES.items() if not backend.is_installed(module)]
    if missing:
        raise backend.SetupError(
            f"serving needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
            "missing. Run: pip install 'kerasrec[serving]'"
        )


def _model_folder(path):
    """A model folder; a version's folder or one without versions is a mistake."""
    path = Path(path)
    version = find_version(path)
    if version == path:
        raise ArtifactError(
            f"Expected a model folder; {path} is one version of it. Name {path.parent}: which "
            "version answers is chosen by its labels, or by the path of a request."
        )
    return path


def examples(server):
    """curl lines that the first model answers, with an item and a Chinese title of its catalogue.

    Args:
        server: `Server`.

    Returns:
        list of str.
    """
    name, model = next(iter(server.models.items()))
    with model.use() as version:
        catalogue = read_catalogue(version.path)
        has_texts = "recommend_by_text" in version.signatures
    requests = [{"instances": [{"history": [str(catalogue["item_id"].iloc[0])]}]}]
    titles = [title for title in catalogue["title"] if _CHINESE.search(title)]
    if has_texts:
        text = (titles or list(catalogue["title"]))[0]
        rows = [{"history_texts": [text]}]
        requests.append({"signature_name": "recommend_by_text", "instances": rows})
    url = f"{server.rest_address}/v1/models/{urllib.parse.quote(name)}:predict"
    options = ' -H "x-api-key: $KERASREC_API_KEY"' if server.access.api_key else ""
    if server.access.tls_cert:
        options += f" --cacert {shlex.quote(str(server.access.tls_cert))}"
    lines = [
        f"curl{options} {url} -d {shlex.quote(json.dumps(request, ensure_ascii=False))}"
        for request in requests
    ]
    if server.feedback is not None:
        item = requests[0]["instances"][0]["history"][0]
        click = shlex.quote(json.dumps({"user_id": "u1", "item_id": item}, ensure_ascii=False))
        lines.append(f"curl{options} {server.rest_address}/v1/feedback -d {click}")
        asked = f"user=u1&model={urllib.parse.quote(name)}"
        lines.append(f"curl{options} '{server.rest_address}/v1/recommend?{asked}'")
    return lines
