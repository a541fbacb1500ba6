"""TF Serving's REST API over a `Predictor`, metrics and health: a starlette application."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from kerasrec.backend import tf
from kerasrec.serving.admission import Access, Refusal
from kerasrec.serving.doors.browsers import BrowserGuard
from kerasrec.serving.grpcapi import fill_metadata, fill_status
from kerasrec.serving.items.filters import FILTERED, WHERE
from kerasrec.serving.monitor import Call
from kerasrec.serving.predictor import Predictor, Target, Tensors
from kerasrec.serving.restjson import (
    PredictJson,
    columns,
    read_request,
    shape_of,
    to_array,
    write_answer,
)
from kerasrec.serving.servedversion import Signature

if TYPE_CHECKING:
    from kerasrec.serving.feedbackroutes import FeedbackRoutes

_WHERE = r"/v1/models/([^/:]+)(?:/versions/([0-9]{1,18})|/labels/([^/:]+))?"
_PREDICT = re.compile(_WHERE + r":(predict|classify|regress)")
_LOOK = re.compile(_WHERE + r"(/metadata)?")
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_METRICS = "/monitoring/prometheus/metrics"
#: of the feedback store, where there is one
_FEEDBACK = ("/v1/feedback", "/v1/recommend", "/v1/feedback/stats", "/v1/items", "/v1/users")
_VALUES = ("/v1/items/", "/v1/users/")
_ANYBODY = Access()
_MAX_INT64 = (1 << 63) - 1


def _writes(method: str, path: str) -> bool:
    """Whether a request may change what is stored."""
    return method not in ("GET", "HEAD") and not _PREDICT.fullmatch(path)


class RestApi:
    """The handlers of one server.

    Args:
        predictor: `Predictor`.
        is_ready: function without arguments: whether requests should come here.
        api_key: function of the headers that says whether the key is right; or None.
        feedback: `FeedbackRoutes`; None = no store.
        access: `Access`, for what browsers may send.

    Attributes:
        app: the ASGI application.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        is_ready: Callable[[], bool],
        api_key: Callable[[Mapping[str, str]], bool] | None = None,
        feedback: "FeedbackRoutes | None" = None,
        access: Access = _ANYBODY,
    ) -> None:
        self.predictor, self.is_ready, self.api_key = predictor, is_ready, api_key
        self.feedback = feedback
        self._unread = 0  # bytes of bodies that are not complete yet
        self.pool = futures.ThreadPoolExecutor(
            predictor.limits.workers, thread_name_prefix="kerasrec-rest"
        )
        routes = [
            Route("/healthz", self.health),
            Route("/readyz", self.readiness),
            Route(_METRICS, self.metrics),
            Route("/v1/{path:path}", self.version_1, methods=_METHODS),
            Route("/{path:path}", self.elsewhere, methods=_METHODS),
        ]
        self.app = BrowserGuard(
            Starlette(routes=routes),
            is_local=access.is_local,
            host_names=access.host_names,
            origins=access.origins,
            writes=_writes,
        )

    async def health(self, request: Request) -> Response:
        """Answers 200 as long as the process answers."""
        return _json({"status": "ok"})

    async def readiness(self, request: Request) -> Response:
        """Answers 200 when every model has a version that answers, else 503."""
        ready = self.is_ready()
        models = {name: model.numbers for name, model in self.predictor.models.items()}
        return _json({"ready": ready, "versions": models}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Answers with Prometheus' page."""
        with _answering() as answer:
            self._check_key(request)
            metrics = self.predictor.metrics
            answer.append(Response(metrics.page(), media_type=metrics.content_type))
        return answer[0]

    async def elsewhere(self, request: Request) -> Response:
        """Answers 404."""
        return _error(f"nothing at {request.scope['path']}; the API is below /v1/models/", 404)

    async def version_1(self, request: Request) -> Response:
        """Answers for all of TF Serving's API, and for the routes of the feedback store."""
        with _answering() as answer:
            self._check_key(request)
            path = request.scope["path"]
            if request.method == "POST" and (found := _PREDICT.fullmatch(path)):
                answer.append(await self._post(request, *found.groups()))
            elif request.method == "GET" and (found := _LOOK.fullmatch(path)):
                answer.append(self._look(*found.groups()))
            elif self.feedback is None and (path in _FEEDBACK or path.startswith(_VALUES)):
                message = "this server has no feedback store; start it with --store PATH_OR_URL."
                raise Refusal("NOT_FOUND", message)
            elif self.feedback and (route := self.feedback.route(request.method, path)):
                answer.append(_json(await route(request, self._body)))
            else:
                message = f"Malformed request: {request.method} {path}"
                raise Refusal("INVALID_ARGUMENT", message)
        return answer[0]

    def _check_key(self, request: Request) -> None:
        if self.api_key is not None and not self.api_key(request.headers):
            raise Refusal("UNAUTHENTICATED", "this server wants an API key.")

    def _look(
        self, name: str, version: str | None, label: str | None, metadata: str | None
    ) -> Response:
        target = _target(name, version, label)
        if not metadata:
            states = self.predictor.states(target)
            return _json(_plain(fill_status(get_model_status_pb2.GetModelStatusResponse(), states)))
        with self.predictor.version(target) as found:
            response = fill_metadata(get_model_metadata_pb2.GetModelMetadataResponse(), found)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return _json(
            {
                "model_spec": _plain(response.model_spec),
                "metadata": {"signature_def": _plain(signatures)},
            }
        )

    async def _post(
        self, request: Request, name: str, version: str | None, label: str | None, method: str
    ) -> Response:
        target = _target(name, version, label)
        if method != "predict":
            self.predictor.refuse_examples(target, method)
        predictor, limits = self.predictor, self.predictor.limits
        with predictor.counted("rest") as call:
            deadline, what = time.perf_counter() + limits.seconds, "whole request"
            try:
                async with asyncio.timeout(limits.seconds):
                    body = await self._body(request)  # a slow one takes no place from the others
                    address = request.client.host if request.client else ""
                    predictor.gate.enter(address)
                    what = "answer"
                    job = self.pool.submit(self._predict, call, target, body, deadline)
                    # the place is free when the work is over, also if nobody waits for it
                    job.add_done_callback(lambda job: predictor.gate.leave(address))
                    content = await asyncio.wrap_future(job)
            except TimeoutError:
                message = f"no {what} within {limits.seconds:g} seconds, the server's limit."
                raise Refusal("DEADLINE_EXCEEDED", message) from None
        return Response(content, media_type="application/json")

    async def _body(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            Refusal: it is larger than the limit, HTTP's status is 413; or all bodies that are being
                read are together as large as all requests in work may be.
        """
        limits = self.predictor.limits
        message = f"this server takes requests of at most {limits.body_bytes} bytes."
        size = request.headers.get("content-length", "0")
        if size.isdigit() and int(size[:20]) > limits.body_bytes:
            raise Refusal("INVALID_ARGUMENT", message, http_status=413)
        parts, total = [], 0
        try:
            async for part in request.stream():
                total += len(part)
                self._unread += len(part)
                if total > limits.body_bytes:
                    raise Refusal("INVALID_ARGUMENT", message, http_status=413)
                if self._unread > limits.body_bytes * limits.concurrent:
                    raise Refusal("RESOURCE_EXHAUSTED", "too many large requests; try again later.")
                parts.append(part)
        except ClientDisconnect:
            raise Refusal("CANCELLED", "the client has gone") from None
        finally:
            self._unread -= total
        return b"".join(parts)

    def _predict(self, call: Call, target: Target, body: bytes, deadline: float) -> bytes:
        asked = read_request(body)
        target = target._replace(signature=asked.signature)
        with self.predictor.resolved(target, call) as resolved:
            tensors = self._tensors(resolved.signature, asked)
            outputs = self.predictor.run(resolved, tensors, deadline)
        arrays = {name: np.asarray(outputs[name].numpy()) for name in sorted(outputs)}
        return write_answer(asked.form, arrays)

    def _tensors(self, signature: Signature, asked: PredictJson) -> Tensors:
        """The inputs of a request, checked before an array is made of them."""
        given = columns(asked.form, asked.value, signature.inputs)
        known = {name: dtype for name, (dtype, _) in signature.inputs.items()}
        if signature.name in FILTERED:
            known[WHERE] = tf.string.as_datatype_enum
        if asked.form == "inputs":  # as TF Serving: inputs of other signatures are left aside
            given = {name: part for name, part in given.items() if name in known}
        if WHERE in given:
            given[WHERE] = _condition_texts(given[WHERE])
        shapes = {name: shape_of(part) for name, part in given.items()}
        types = {name: known.get(name, 0) for name in given}
        self.predictor.check_inputs(
            signature, {name: (types[name], shapes[name]) for name in given}
        )
        tensors = {}
        for name, part in given.items():
            dtype = tf.as_dtype(types[name])
            array = to_array(name, part, shapes[name], dtype.name)
            tensors[name] = tf.constant(array, dtype)
        return tensors


def _condition_texts(given: Any) -> Any:
    """The input `where` of which conditions may stand as they are, not as texts."""
    if isinstance(given, dict):
        return json.dumps(given)
    if isinstance(given, list):
        return [json.dumps(one) if isinstance(one, dict) else one for one in given]
    return given


def _target(name: str, version: str | None, label: str | None) -> Target:
    """The `Target` of the parts of a path."""
    if version is not None and int(version) > _MAX_INT64:
        raise Refusal("INVALID_ARGUMENT", f"Failed to convert version: {version} to numeric.")
    number = None if version is None else int(version)
    return Target(name, number, label)


@contextlib.contextmanager
def _answering() -> Iterator[list[Response]]:
    """A list for the response; a `Refusal` inside fills it."""
    answer: list[Response] = []
    try:
        yield answer
    except Refusal as refusal:
        answer[:] = [_error(str(refusal), refusal.http_status)]


def _error(message: str, status: int) -> Response:
    return _json({"error": message}, status)


def _json(content: Any, status: int = 200) -> Response:
    text = json.dumps(content, ensure_ascii=False, indent=1)
    return Response(text.encode(errors="replace"), status, media_type="application/json")


def _plain(message: Any) -> dict:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
