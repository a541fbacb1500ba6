"""Sends requests to a server: gRPC or REST as TF Serving speaks them, with retries and a deadline.

Libraries are loaded when a connection is made: grpcio and tensorflow-serving-api, or httpx.
"""

import base64
import json
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import numpy as np

from kerasrec.client.statuscodes import code_of

Answer = TypeVar("Answer")
#: PEM file of an authority; True = those of this machine; None = no TLS
Authority = str | Path | bool | None
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between tries
_WRONG_PORT = (
    " (no {here} is spoken there; is it the {other} port? The {here} port is usually {usual})"
)
#: words of the libraries about TLS that no further try would mend -> what to do
_TLS_FAILURES = {
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not trusted: give ca= the file of "
    "the authority that signed it, and the server the name that it was signed for",
    "Hostname Verification Check failed": "the server's certificate is for another name than this",
    "WRONG_VERSION_NUMBER": "no TLS is spoken there: leave ca out",
}
#: their words for a connection that was closed at once, as servers with TLS do to plain clients
_CLOSED = ("Socket closed", "Connection reset", "disconnected without sending a response")
_MAYBE_TLS = " (if the server speaks TLS, give ca=: a PEM file, or True for public authorities)"
_MISSING = "The {what} client needs {package}. Run: pip install 'kerasrec[serving]'"

#: code of a server -> the error that a caller sees; any other code is a RuntimeError
_ERRORS = {
    "INVALID_ARGUMENT": ValueError,
    "OUT_OF_RANGE": ValueError,
    "FAILED_PRECONDITION": ValueError,
    "NOT_FOUND": LookupError,
    "UNAUTHENTICATED": PermissionError,
    "PERMISSION_DENIED": PermissionError,
    "DEADLINE_EXCEEDED": TimeoutError,
    "UNAVAILABLE": ConnectionError,
    "RESOURCE_EXHAUSTED": ConnectionError,
}
_WORTH_A_RETRY = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
#: states of a version by their number in GetModelStatus
_STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}


class Refused(Exception):
    """The refusal of a server, or a failure on the way.

    code: name of a gRPC status code.  details: the words.  pause: seconds that the server asks to
    wait.  is_final: no further try can do better, whatever the code.
    """

    def __init__(
        self, code: str, details: str, pause: float = 0.0, *, is_final: bool = False
    ) -> None:
        super().__init__(f"{code}: {details}")
        self.code, self.details, self.pause, self.is_final = code, details, pause, is_final


def _refused(code: str, details: str, *, has_tls: bool) -> Refused:
    """`Refused` with the words of a library, and with advice where some is known."""
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in details:
        return Refused("INVALID_ARGUMENT", f"{details} bytes (a smaller batch_size may do)")
    for sign, advice in _TLS_FAILURES.items():
        if sign in details:
            return Refused(code, f"{details} ({advice})", is_final=True)
    if not has_tls and any(sign in details for sign in _CLOSED):
        details += _MAYBE_TLS
    return Refused(code, details)


def with_retries(
    call: Callable[[float], Answer], target: str, *, timeout: float, retries: int
) -> Answer:
    """Returns `call(seconds left)`; calls again where the server is busy or not there.

    Args:
        call: function of the seconds left; raises `Refused`.
        target: the server's address, for the message.
        timeout: seconds for all tries and pauses together.
        retries: tries after the first, at most.

    Raises:
        ValueError, LookupError, PermissionError, TimeoutError, ConnectionError, RuntimeError: by
            what the server said, in its words.
    """
    end = time.monotonic() + timeout
    for tries in range(retries + 1):
        try:
            return call(max(end - time.monotonic(), 1e-3))
        except Refused as refused:
            # full jitter: clients that were refused together do not come back together
            pause = random.uniform(0, min(_FIRST_PAUSE * 2**tries, _LONGEST_PAUSE))
            pause = max(pause, refused.pause)
            too_late = time.monotonic() + pause >= end
            is_final = refused.is_final or refused.code not in _WORTH_A_RETRY
            if is_final or tries == retries or too_late:
                after = f" ({tries + 1} tries)" if tries else ""
                kind = _ERRORS.get(refused.code, RuntimeError)
                raise kind(f"{target} said {refused}{after}") from refused
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


class Grpc:
    """A channel to the gRPC port, through the official stubs."""

    def __init__(
        self,
        target: str,
        *,
        model: str,
        version: int | None,
        label: str | None,
        api_key: str | None,
        ca: Authority,
    ) -> None:
        try:
            import grpc
            from tensorflow_serving.apis import (
                get_model_status_pb2,
                model_service_pb2_grpc,
                predict_pb2,
                prediction_service_pb2_grpc,
            )
        except ImportError as error:
            package = "grpcio and tensorflow-serving-api"
            raise ImportError(_MISSING.format(what="gRPC", package=package)) from error
        if "://" in target:
            raise ValueError(f"A gRPC target is HOST:PORT, such as localhost:8500, not {target!r}.")
        _check_port(target, 8500)
        sizes = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self._has_tls = ca is not None
        if ca is None:
            self._channel = grpc.insecure_channel(target, options=sizes)
        else:
            _ssl_context(ca)  # says which file is missing, or holds no certificate
            trusted = None if ca is True else _read_bytes(ca)
            credentials = grpc.ssl_channel_credentials(root_certificates=trusted)
            self._channel = grpc.secure_channel(target, credentials, options=sizes)
        self._grpc, self._predict_pb2, self._status_pb2 = grpc, predict_pb2, get_model_status_pb2
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._metadata = list(key_header(api_key).items()) or None
        self._model = model
        self._version = None if version is None else int(version)
        self._label = label

    def _address(self, spec: Any) -> None:
        spec.name = self._model
        if self._version is not None:
            spec.version.value = self._version
        elif self._label is not None:
            spec.version_label = self._label

    def predict(
        self, signature: str, inputs: Mapping[str, np.ndarray], seconds: float
    ) -> dict[str, np.ndarray]:
        """Asks a signature: arrays of its inputs in, arrays of its outputs out."""
        from tensorflow import make_ndarray, make_tensor_proto

        request = self._predict_pb2.PredictRequest()
        self._address(request.model_spec)
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(make_tensor_proto(value, shape=value.shape))
        answer = self._call(self._prediction.Predict, request, seconds)
        return {name: _texts(make_ndarray(tensor)) for name, tensor in answer.outputs.items()}

    def status(self, seconds: float) -> list[tuple[int, str, str]]:
        """Asks for the versions: `(version, state, error)` of each."""
        request = self._status_pb2.GetModelStatusRequest()
        self._address(request.model_spec)
        answer = self._call(self._models.GetModelStatus, request, seconds)
        return [
            (found.version, _STATES.get(found.state, "UNKNOWN"), found.status.error_message)
            for found in answer.model_version_status
        ]

    def _call(self, method: Callable[..., Any], request: Any, seconds: float) -> Any:
        try:
            return method(request, timeout=seconds, metadata=self._metadata)
        except self._grpc.RpcError as error:
            code, details = error.code().name, error.details()
            if code == "UNAVAILABLE" and ("HTTP/2" in details or "http1" in details):
                details += _WRONG_PORT.format(here="gRPC", usual=8500, other="REST")
            raise _refused(code, details, has_tls=self._has_tls) from error

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()


class Rest:
    """Connections to the REST port."""

    def __init__(
        self,
        target: str,
        *,
        model: str,
        version: int | None,
        label: str | None,
        api_key: str | None,
        ca: Authority,
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ImportError(_MISSING.format(what="REST", package="httpx")) from error
        self._httpx = httpx
        if "://" not in target:
            _check_port(target, 8501)
            target = f"{'http' if ca is None else 'https'}://{target}"
        self._has_tls = target.startswith("https")
        self._client = httpx.Client(
            base_url=target.rstrip("/"), headers=key_header(api_key), verify=_ssl_context(ca)
        )
        self._path = f"/v1/models/{quote(model, safe='')}"
        given = {"model": model, "version": version, "label": label}
        self._named = {name: value for name, value in given.items() if value is not None}
        if version is not None:
            self._path += f"/versions/{int(version)}"
        elif label is not None:
            self._path += f"/labels/{quote(label, safe='')}"

    def predict(
        self, signature: str, inputs: Mapping[str, np.ndarray], seconds: float
    ) -> dict[str, np.ndarray]:
        """Asks a signature: arrays of its inputs in, arrays of its outputs out."""
        columns = {name: value.tolist() for name, value in inputs.items()}
        content = json.dumps(
            {"signature_name": signature, "inputs": columns}, ensure_ascii=False
        ).encode()
        answer = self._call("POST", f"{self._path}:predict", seconds, content)
        outputs = answer["outputs"]
        if not isinstance(outputs, dict):  # a single output comes without its name
            outputs = {"": outputs}
        return {name: _array(value) for name, value in outputs.items()}

    def status(self, seconds: float) -> list[tuple[int, str, str]]:
        """Asks for the versions: `(version, state, error)` of each."""
        answer = self._call("GET", self._path, seconds)
        return [
            (
                int(found["version"]),
                found["state"],
                found.get("status", {}).get("error_message", ""),
            )
            for found in answer["model_version_status"]
        ]

    def feedback(self, content: bytes, seconds: float) -> dict[str, int]:
        """Sends events, as JSON; returns how many were stored."""
        return self._call("POST", "/v1/feedback", seconds, content)

    def set_items(self, content: bytes, seconds: float) -> dict[str, Any]:
        """Sends newer values of items, as JSON."""
        return self._call("PUT", "/v1/items", seconds, content)

    def set_users(self, content: bytes, seconds: float) -> dict[str, Any]:
        """Sends what is known of users, as JSON."""
        return self._call("PUT", "/v1/users", seconds, content)

    def user_values(self, user: str, seconds: float) -> dict[str, Any]:
        """Asks what is known of a user."""
        return self._call("GET", f"/v1/users/{quote(user, safe='')}", seconds)

    def recommend_for(
        self, user: str, k: int, log: bool, where: str, known: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Asks `/v1/recommend`; `where` is JSON of a condition, "" = none."""
        asked = {**known, "user": user, "k": k, "log": int(log), **self._named}
        asked |= {"where": where} if where else {}
        return self._call("GET", f"/v1/recommend?{urlencode(asked)}", seconds)

    def _call(self, method: str, path: str, seconds: float, content: bytes | None = None) -> Any:
        httpx = self._httpx
        json_type = {"content-type": "application/json"}
        ask = partial(
            self._client.stream, method, path, content=content, headers=json_type, timeout=seconds
        )

        def answered(is_over: Callable[[], bool]) -> Any:
            with ask() as answer:
                parts = []
                for part in answer.iter_raw():
                    if is_over():
                        raise TimeoutError
                    parts.append(part)
            headers, whole = answer.headers, b"".join(parts)
            return httpx.Response(answer.status_code, headers=headers, content=whole)

        try:
            answer = within(seconds, answered)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Refused("DEADLINE_EXCEEDED", f"no answer in {seconds:.3g} s") from error
        except httpx.RemoteProtocolError as error:
            hint = _WRONG_PORT.format(here="REST", usual=8501, other="gRPC")
            # what does not speak HTTP/1 is "illegal"; a server that goes says other things
            words = f"{error}{hint if 'illegal' in str(error) else ''}"
            raise _refused("UNAVAILABLE", words, has_tls=self._has_tls) from error
        except httpx.ConnectError as error:
            raise _refused("UNAVAILABLE", str(error), has_tls=self._has_tls) from error
        except httpx.HTTPError as error:
            words = f"{type(error).__name__} {error}"
            raise _refused("UNAVAILABLE", words, has_tls=self._has_tls) from error
        if answer.is_success:
            return answer.json()
        code = code_of(answer.status_code, "UNKNOWN")
        wait = answer.headers.get("retry-after", "")
        pause = float(wait) if wait.isdigit() else 0.0
        raise Refused(code, f"{_words(answer)} (HTTP {answer.status_code})", pause)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()


def within(seconds: float, call: Callable[[Callable[[], bool]], Answer]) -> Answer:
    """Returns `call(is_over)`; raises TimeoutError after `seconds`, and `is_over()` is then True.

    The libraries count the seconds anew for each of their steps.
    """
    job: futures.Future[Answer] = futures.Future()
    end = time.monotonic() + seconds

    def run() -> None:
        try:
            job.set_result(call(lambda: time.monotonic() > end))
        except BaseException as error:
            job.set_exception(error)

    threading.Thread(target=run, name="kerasrec-client", daemon=True).start()
    return job.result(seconds)


def _words(answer: Any) -> str:
    """The words of an answer that is an error."""
    try:
        return answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:500] or answer.reason_phrase


def _array(value: Any) -> np.ndarray:
    """Array of a JSON value; bytes that are no text come as `{"b64": ...}`."""
    array = np.array(value)
    if array.dtype.kind == "U":
        return array.astype(object)
    if array.dtype == object:
        texts = [base64.b64decode(v["b64"]) if isinstance(v, dict) else v for v in array.flat]
        filled = np.empty(array.size, object)
        filled[:] = texts
        return _texts(filled.reshape(array.shape))
    return array


def _texts(array: np.ndarray) -> np.ndarray:
    """An array of bytes as one of text; others as they are."""
    if array.dtype != object:
        return array
    texts = [text.decode() if isinstance(text, bytes) else text for text in array.flat]
    return np.array(texts, object).reshape(array.shape)


def _ssl_context(ca: Authority) -> ssl.SSLContext | bool:
    """The argument `verify` of httpx."""
    if ca is None or ca is True:
        return True
    _read_bytes(ca)  # says which file is missing
    try:
        return ssl.create_default_context(cafile=str(ca))
    except ssl.SSLError as error:
        raise ValueError(f"ca must be a PEM file with certificates. {ca} is not.") from error


def key_header(api_key: str | None) -> dict[str, str]:
    """Makes the header that carries a key; none without one."""
    if not re.fullmatch("[!-~]*", api_key or ""):
        raise ValueError("An API key must be of printable ASCII characters without spaces.")
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def _check_port(target: str, usual: int) -> None:
    if not re.search(r":\d+$", target) and not target.startswith("unix:"):
        raise ValueError(
            f"target has no port: {target!r}. Write HOST:PORT, such as {target}:{usual}."
        )


def _read_bytes(path: Any) -> bytes:
    with open(path, "rb") as file:
        return file.read()


#: protocol -> transport
TRANSPORTS: dict[str, type[Grpc] | type[Rest]] = {"grpc": Grpc, "rest": Rest}
