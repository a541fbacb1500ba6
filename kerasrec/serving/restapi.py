"""TF Serving's REST API over a `Predictor`, metrics and health: a starlette application."""

import asyncio
import contextlib
import json
import re
import time
from concurrent import futures

import numpy as np
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from kerasrec.backend import tf
from kerasrec.serving.grpcapi import fill_metadata, fill_status, model_states, refuse_examples
from kerasrec.serving.limits import Refusal
from kerasrec.serving.restjson import columns, read_request, shape_of, to_array, write_answer

_WHERE = r"/v1/models/([^/:]+)(?:/versions/([0-9]{1,18})|/labels/([^/:]+))?"
_PREDICT = re.compile(_WHERE + r":(predict|classify|regress)")
_LOOK = re.compile(_WHERE + r"(/metadata)?")
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_METRICS = "/monitoring/prometheus/metrics"
#: of the feedback store, where there is one
_FEEDBACK = ("/v1/feedback", "/v1/recommend", "/v1/feedback/stats")
_MAX_INT64 = (1 << 63) - 1


class RestApi:
    """The handlers of one server.

    Args:
        predictor: `Predictor`.
        is_ready: function without arguments: whether requests should come here.
        api_key: function of the headers that says whether the key is right; or None.
        feedback: `FeedbackRoutes`; None = no store.
    """

    def __init__(self, predictor, *, is_ready, api_key=None, feedback=None):
        self.predictor, self.is_ready, self.api_key = predictor, is_ready, api_key
        self.feedback = feedback
        self._unread = 0  # bytes of bodies that are not complete yet
        self.pool = futures.ThreadPoolExecutor(
            predictor.limits.workers, thread_name_prefix="kerasrec-rest"
        )
        self.app = Starlette(
            routes=[
                Route("/healthz", self.health),
                Route("/readyz", self.readiness),
                Route(_METRICS, self.metrics),
                Route("/v1/{path:path}", self.version_1, methods=_METHODS),
                Route("/{path:path}", self.elsewhere, methods=_METHODS),
            ]
        )

    async def health(self, request):
        """200 as long as the process answers."""
        return _json({"status": "ok"})

    async def readiness(self, request):
        """200 when every model has a version that answers, else 503."""
        ready = self.is_ready()
        models = {name: model.numbers for name, model in self.predictor.models.items()}
        return _json({"ready": ready, "versions": models}, 200 if ready else 503)

    async def metrics(self, request):
        """Prometheus' page."""
        with _answering() as answer:
            self._check_key(request)
            metrics = self.predictor.metrics
            answer.append(Response(metrics.page(), media_type=metrics.content_type))
        return answer[0]

    async def elsewhere(self, request):
        """No such place."""
        return _error(f"nothing at {request.scope['path']}; the API is below /v1/models/", 404)

    async def version_1(self, request):
        """All of TF Serving's API, and the routes of the feedback store."""
        with _answering() as answer:
            self._check_key(request)
            path = request.scope["path"]
            if request.method == "POST" and (found := _PREDICT.fullmatch(path)):
                answer.append(await self._post(request, *found.groups()))
            elif request.method == "GET" and (found := _LOOK.fullmatch(path)):
                answer.append(self._look(*found.groups()))
            elif path in _FEEDBACK and self.feedback is None:
                message = "this server has no feedback store; start it with --store PATH_OR_URL."
                raise Refusal("NOT_FOUND", message)
            elif self.feedback and (route := self.feedback.route(request.method, path)):
                answer.append(_json(await route(request, self._body)))
            else:
                message = f"Malformed request: {request.method} {path}"
                raise Refusal("INVALID_ARGUMENT", message)
        return answer[0]

    def _check_key(self, request):
        if self.api_key is not None and not self.api_key(request.headers):
            raise Refusal("UNAUTHENTICATED", "this server wants an API key.")

    def _look(self, name, version, label, metadata):
        spec = _spec(name, version, label)
        if not metadata:
            states = model_states(self.predictor, spec)
            return _json(_plain(fill_status(get_model_status_pb2.GetModelStatusResponse(), states)))
        model = self.predictor.model(name)
        with model.use(version=spec["version"], label=label) as found:
            response = fill_metadata(get_model_metadata_pb2.GetModelMetadataResponse(), found)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return _json(
            {
                "model_spec": _plain(response.model_spec),
                "metadata": {"signature_def": _plain(signatures)},
            }
        )

    async def _post(self, request, name, version, label, method):
        spec = _spec(name, version, label)
        if method != "predict":
            refuse_examples(self.predictor, spec, method)
        predictor, limits = self.predictor, self.predictor.limits
        with predictor.counted("rest") as call:
            deadline, what = time.perf_counter() + limits.seconds, "whole request"
            try:
                async with asyncio.timeout(limits.seconds):
                    body = await self._body(request)  # a slow one takes no place from the others
                    predictor.gate.enter()
                    what = "answer"
                    job = self.pool.submit(self._predict, call, spec, body, deadline)
                    # the place is free when the work is over, also if nobody waits for it
                    job.add_done_callback(lambda job: predictor.gate.leave())
                    content = await asyncio.wrap_future(job)
            except TimeoutError:
                message = f"no {what} within {limits.seconds:g} seconds, the server's limit."
                raise Refusal("DEADLINE_EXCEEDED", message) from None
        return Response(content, media_type="application/json")

    async def _body(self, request):
        """The body of a request.

        Raises:
            Refusal: it is larger than the limit, HTTP's status is 413; or those that are being
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

    def _predict(self, call, spec, body, deadline):
        spec["signature"], form, value = read_request(body)

        def read(signature):
            given = columns(form, value, signature.inputs)
            if form == "inputs":  # as TF Serving: what the signature does not know is left aside
                given = {name: part for name, part in given.items() if name in signature.inputs}
            shapes = {name: shape_of(part) for name, part in given.items()}
            types = {name: signature.inputs.get(name, (0,))[0] for name in given}
            self.predictor.check_inputs(
                signature, {name: (types[name], shapes[name]) for name in given}
            )
            tensors = {}
            for name, part in given.items():
                dtype = tf.as_dtype(types[name])
                array = to_array(name, part, shapes[name], dtype.name)
                tensors[name] = tf.constant(array, dtype)
            return tensors

        _, _, outputs = self.predictor.predict(call, spec, read, deadline)
        arrays = {name: np.asarray(outputs[name].numpy()) for name in sorted(outputs)}
        return write_answer(form, arrays)


def _spec(name, version, label):
    """Parts of a path -> dict as `Predictor.predict` takes it."""
    if version is not None and int(version) > _MAX_INT64:
        raise Refusal("INVALID_ARGUMENT", f"Failed to convert version: {version} to numeric.")
    number = None if version is None else int(version)
    return {"model": name, "version": number, "label": label, "signature": ""}


@contextlib.contextmanager
def _answering():
    """A list for the response; a `Refusal` inside fills it."""
    answer = []
    try:
        yield answer
    except Refusal as refusal:
        answer[:] = [_error(str(refusal), refusal.http_status)]


def _error(message, status):
    return _json({"error": message}, status)


def _json(content, status=200):
    text = json.dumps(content, ensure_ascii=False, indent=1)
    return Response(text.encode(errors="replace"), status, media_type="application/json")


def _plain(message):
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
