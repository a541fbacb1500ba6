"""TF Serving's gRPC services over a `Predictor`: Predict, GetModelMetadata, GetModelStatus."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from kerasrec.backend import tf
from kerasrec.serving.admission import MESSAGE_SECONDS, Refusal, most_connections
from kerasrec.serving.modelversions import State
from kerasrec.serving.monitor import Call
from kerasrec.serving.predictor import Predictor, Resolved, Target, Tensors, check_outputs
from kerasrec.serving.servedversion import ServedVersion, Signature

_SPARE_THREADS = 4  # beyond the requests in work, so that one too many is told so at once
#: calls that wait for their message at the same time
MOST_WAITING = 1024
_STREAMS = 256  # calls of one connection at the same time; its client lets others wait
#: cells of an input that need not be sent: its last value fills the rest
MOST_FILLED = 4096
#: dtype -> field of TensorProto that holds its values, as TF Serving fills it
_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.int64: "int64_val",
    tf.string: "string_val",
    tf.bool: "bool_val",
}


def to_proto(tensor: Any) -> tensor_pb2.TensorProto:
    """Makes a TensorProto of a tensor, with its values in the field of their type.

    >>> to_proto(tf.constant(["题"])).string_val[0].decode()
    '题'
    """
    if tensor.dtype not in _FIELDS:
        return tf.make_tensor_proto(tensor.numpy())
    proto = tensor_pb2.TensorProto(dtype=tensor.dtype.as_datatype_enum)
    for size in tensor.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, _FIELDS[tensor.dtype]).extend(tensor.numpy().ravel().tolist())
    return proto


def from_proto(name: str, proto: tensor_pb2.TensorProto) -> Any:
    """Makes a tensor of a TensorProto; its type and size must have been checked before.

    Raises:
        Refusal: INVALID_ARGUMENT.
    """
    if proto.dtype == tf.string.as_datatype_enum:
        sizes = [dimension.size for dimension in proto.tensor_shape.dim]
        if len(proto.string_val) == math.prod(sizes):  # the usual case, in a tenth of the time
            ids = np.array(proto.string_val, object).reshape(sizes)
            return tf.constant(ids, tf.string)
    try:
        return tf.io.parse_tensor(proto.SerializeToString(), proto.dtype)
    except (tf.errors.InvalidArgumentError, TypeError, ValueError):
        raise Refusal("INVALID_ARGUMENT", f"tensor parsing error: {name}") from None


def target_of(model_spec: Any) -> Target:
    """Reads the `Target` of a ModelSpec."""
    which = model_spec.WhichOneof("version_choice")
    return Target(
        model_spec.name,
        model_spec.version.value if which == "version" else None,
        model_spec.version_label if which == "version_label" else None,
        model_spec.signature_name,
    )


def fill_status(response: Any, states: Iterable[State]) -> Any:
    """Writes states of versions into a GetModelStatusResponse, and returns it."""
    state_of = get_model_status_pb2.ModelVersionStatus.State.Value
    for number, state, code, message in states:
        entry = response.model_version_status.add(version=number, state=state_of(state))
        entry.status.error_code = grpc.StatusCode[code].value[0]
        entry.status.error_message = message
    return response


def fill_metadata(response: Any, version: ServedVersion) -> Any:
    """Writes the signatures of a version into a GetModelMetadataResponse, and returns it."""
    response.model_spec.name = version.model
    response.model_spec.version.value = version.number
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in version.definitions.items():
        signatures.signature_def[name].CopyFrom(definition)
    response.metadata["signature_def"].Pack(signatures)
    return response


# --- what is answered ---


class Method(NamedTuple):
    """One remote procedure.

    Attributes:
        request: class of its message.
        answer: function of the message and the `Caller`, which returns the response or raises
            `Refusal`.
        computes: whether it may take long: then it is done in a thread of its own.
    """

    request: Any
    answer: Callable[[Any, "Caller"], Any]
    computes: bool = False


class Caller(NamedTuple):
    """Who calls.

    Attributes:
        address: of the client's machine; "" = unknown.
        seconds: that the client gives; None = any.
    """

    address: str = ""
    seconds: float | None = None


class PredictionService:
    """`tensorflow.serving.PredictionService`."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, request: Any, caller: Caller) -> Any:
        """Answers one request by one version."""
        with self.predictor.counted("grpc") as call:
            with self.predictor.gate.passed(caller.address):
                return self._predict(call, request, caller)

    def _predict(self, call: Call, request: Any, caller: Caller) -> Any:
        predictor, wanted = self.predictor, list(request.output_filter)
        seconds, given = predictor.limits.seconds, caller.seconds
        deadline = time.perf_counter() + (seconds if given is None else min(seconds, given))
        with predictor.resolved(target_of(request.model_spec), call) as resolved:
            check_outputs(resolved.signature, wanted)
            tensors = self._tensors(resolved.signature, request)
            outputs = predictor.run(resolved, tensors, deadline)
        return _response(resolved, {name: outputs[name] for name in wanted or outputs})

    def _tensors(self, signature: Signature, request: Any) -> Tensors:
        """The inputs of a request, checked before a tensor is made of them."""
        shapes = {}
        for name, proto in request.inputs.items():
            shape = proto.tensor_shape
            sizes = [-1] if shape.unknown_rank else [d.size for d in shape.dim]
            shapes[name] = (proto.dtype, sizes)
        self.predictor.check_inputs(signature, shapes)
        for name, (_, sizes) in shapes.items():
            _check_filled(name, request.inputs[name], sizes)
        return {name: from_proto(name, proto) for name, proto in request.inputs.items()}

    def metadata(self, request: Any, caller: Caller) -> Any:
        """Tells the signatures of a version."""
        if not request.HasField("model_spec"):
            raise Refusal("INVALID_ARGUMENT", "Missing ModelSpec")
        if not request.metadata_field:
            message = "GetModelMetadataRequest must specify at least one metadata_field"
            raise Refusal("INVALID_ARGUMENT", message)
        for field in request.metadata_field:
            if field != "signature_def":
                message = f"Metadata field {field[:100]} is not supported"
                raise Refusal("INVALID_ARGUMENT", message)
        with self.predictor.version(target_of(request.model_spec)) as version:
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            return fill_metadata(response, version)

    def classify(self, request: Any, caller: Caller) -> None:
        """Refuses."""
        self.predictor.refuse_examples(target_of(request.model_spec), "classify")

    def regress(self, request: Any, caller: Caller) -> None:
        """Refuses."""
        self.predictor.refuse_examples(target_of(request.model_spec), "regress")

    def multi_inference(self, request: Any, caller: Caller) -> None:
        """Refuses: it combines the two above."""
        if not request.tasks:
            raise Refusal("INVALID_ARGUMENT", "Inference request is empty: no tasks")
        method = request.tasks[0].method_name.rpartition("/")[2]
        if method not in ("classify", "regress"):
            raise Refusal(
                "UNIMPLEMENTED", f"Unsupported signature method_name: tensorflow/{method[:100]}"
            )
        self.predictor.refuse_examples(target_of(request.tasks[0].model_spec), method)


def _check_filled(name: str, proto: tensor_pb2.TensorProto, sizes: Sequence[int]) -> None:
    """Refuses a tensor of many cells whose values were not all sent: the last one fills the rest.

    A hundred bytes could ask for a million cells that way.
    """
    field = _FIELDS.get(tf.as_dtype(proto.dtype))
    sent = len(getattr(proto, field)) if field else 0
    cells = math.prod(sizes)
    if not proto.tensor_content and sent < cells and cells > MOST_FILLED:
        raise Refusal(
            "INVALID_ARGUMENT",
            f"input {name} must hold all its values where it has more than {MOST_FILLED}. "
            f"Received: {sent} values for {cells} places. Send the values that differ, or all.",
        )


def _response(resolved: Resolved, outputs: Tensors) -> Any:
    """The PredictResponse that holds some outputs."""
    response = predict_pb2.PredictResponse()
    spec = response.model_spec
    spec.name, spec.signature_name = resolved.version.model, resolved.signature.name
    spec.version.value = resolved.version.number
    for name, tensor in outputs.items():
        response.outputs[name].CopyFrom(to_proto(tensor))
    return response


class ModelService:
    """`tensorflow.serving.ModelService`; versions come and go by their folders, not by requests."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def status(self, request: Any, caller: Caller) -> Any:
        """Tells the states of one version or of all."""
        if not request.HasField("model_spec"):
            raise Refusal("INVALID_ARGUMENT", "Missing ModelSpec")
        states = self.predictor.states(target_of(request.model_spec))
        return fill_status(get_model_status_pb2.GetModelStatusResponse(), states)


def _services(predictor: Predictor) -> dict[str, Method]:
    """Path of a call -> what answers it."""
    service, model = PredictionService(predictor), ModelService(predictor)
    prediction = "/tensorflow.serving.PredictionService/"
    return {
        f"{prediction}Predict": Method(predict_pb2.PredictRequest, service.predict, True),
        f"{prediction}GetModelMetadata": Method(
            get_model_metadata_pb2.GetModelMetadataRequest, service.metadata
        ),
        f"{prediction}Classify": Method(classification_pb2.ClassificationRequest, service.classify),
        f"{prediction}Regress": Method(regression_pb2.RegressionRequest, service.regress),
        f"{prediction}MultiInference": Method(
            inference_pb2.MultiInferenceRequest, service.multi_inference
        ),
        "/tensorflow.serving.ModelService/GetModelStatus": Method(
            get_model_status_pb2.GetModelStatusRequest, model.status
        ),
    }


# --- how it comes in and goes out ---


class _Doors(grpc.GenericRpcHandler):
    """Lets calls in: first the key, then the message within its time, then a thread.

    A call that waits for its message costs no thread. Of too many such calls the one that has
    waited longest is refused: a client that means it sends its message at once.
    """

    def __init__(self, predictor: Predictor, key: Callable[[Mapping[str, str]], bool] | None):
        self.methods, self.key = _services(predictor), key
        limits = predictor.limits
        self.threads = limits.concurrent + _SPARE_THREADS
        self.pool = futures.ThreadPoolExecutor(self.threads, thread_name_prefix="kerasrec-grpc")
        self.in_pool = 0
        self.waiting: dict[asyncio.Task[Any], None] = {}  # in the order in which they came

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Finds what answers a call; runs before anything of its message is read."""
        if self.key is not None and not self.key(dict(details.invocation_metadata)):
            return grpc.stream_unary_rpc_method_handler(_refuse_key)
        method = self.methods.get(details.method)
        if method is None:
            return None
        # on the wire a stream of one message is a message; as a stream it can be waited for
        return grpc.stream_unary_rpc_method_handler(partial(self._answer, method))

    async def _answer(self, method: Method, _: Any, context: Any) -> bytes:
        try:
            message = await self._message(context)
            request = _parsed(method.request, message)
            caller = Caller(_address(context.peer()), context.time_remaining())
            if method.computes:
                response = await self._in_thread(method.answer, request, caller)
            else:
                response = method.answer(request, caller)
            return response.SerializeToString()
        except Refusal as refusal:
            await context.abort(grpc.StatusCode[refusal.code], str(refusal))
            raise AssertionError("abort raises") from refusal

    async def _message(self, context: Any) -> bytes:
        while len(self.waiting) >= MOST_WAITING:
            oldest = next(iter(self.waiting))
            del self.waiting[oldest]
            oldest.cancel()
        reading = asyncio.ensure_future(context.read())
        self.waiting[reading] = None
        try:
            done, _ = await asyncio.wait({reading}, timeout=MESSAGE_SECONDS)
        finally:
            self.waiting.pop(reading, None)
        if not done:
            reading.cancel()
            message = f"no message came within {MESSAGE_SECONDS:g} seconds."
            raise Refusal("DEADLINE_EXCEEDED", message)
        if reading.cancelled():
            raise Refusal("RESOURCE_EXHAUSTED", "too many calls wait for their message.")
        message = reading.result()
        if message is grpc.aio.EOF:
            raise Refusal("INVALID_ARGUMENT", "the call has no message.")
        return message

    async def _in_thread(self, answer: Callable[..., Any], *given: Any) -> Any:
        if self.in_pool >= self.threads:
            raise Refusal("RESOURCE_EXHAUSTED", "the server is full; try again later.")
        self.in_pool += 1
        job = asyncio.get_running_loop().run_in_executor(self.pool, answer, *given)
        job.add_done_callback(self._leave)
        return await asyncio.shield(job)  # nobody may wait for it, its thread goes on all the same

    def _leave(self, job: Any) -> None:
        self.in_pool -= 1
        if not job.cancelled():
            job.exception()  # heard of, also when the client has gone


async def _refuse_key(_: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this server wants an API key.")


def _parsed(request: Any, message: bytes) -> Any:
    try:
        return request.FromString(message)
    except DecodeError:
        expected = request.DESCRIPTOR.full_name
        raise Refusal("INVALID_ARGUMENT", f"the message must be a {expected}.") from None


def _address(peer: str) -> str:
    """The client's address in gRPC's words for it; "" where it has none.

    >>> _address("ipv4:127.0.0.1:40312"), _address("ipv6:%5B::1%5D:40312"), _address("unix:")
    ('127.0.0.1', '::1', '')
    """
    kind, _, rest = peer.partition(":")
    host = unquote(rest).rpartition(":")[0].strip("[]")
    return host if kind in ("ipv4", "ipv6") else ""


class GrpcServer:
    """A gRPC server in a thread and an event loop of its own; `start_grpc` makes it."""

    def __init__(self, doors: _Doors, body_bytes: int) -> None:
        self._doors, self._body_bytes = doors, body_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Any = None
        self._over = threading.Event()
        self._stopping = threading.Lock()
        self._is_stopping = False

    def start(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Listens; returns the port, 0 where it cannot."""
        bound: futures.Future[int] = futures.Future()
        serving = threading.Thread(
            target=lambda: asyncio.run(self._serve(address, credentials, bound)),
            name="kerasrec-grpc",
            daemon=True,
        )
        serving.start()
        return bound.result()

    async def _serve(
        self, address: str, credentials: grpc.ServerCredentials | None, bound: "futures.Future[int]"
    ) -> None:
        self._loop = asyncio.get_running_loop()
        server = self._server = grpc.aio.server(
            handlers=(self._doors,),
            options=[
                ("grpc.max_receive_message_length", self._body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a taken port is an error, not half of the requests
                ("grpc.max_allowed_incoming_connections", most_connections()),
                ("grpc.server_handshake_timeout_ms", int(1000 * MESSAGE_SECONDS)),
                ("grpc.max_concurrent_streams", _STREAMS),
            ],
        )
        try:
            if credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
            await server.start()
        except RuntimeError:
            port = 0
        except BaseException as error:  # or `start` would wait for ever
            bound.set_exception(error)
            self._over.set()
            raise
        bound.set_result(port)
        if port:
            await server.wait_for_termination()
        self._doors.pool.shutdown(wait=False)
        self._over.set()

    def stop(self, grace: float | None) -> threading.Event:
        """Takes no new calls and gives those in work `grace` seconds; the event says it is over."""
        with self._stopping:
            is_first, self._is_stopping = not self._is_stopping, True
        if is_first and self._loop is not None and not self._over.is_set():
            asyncio.run_coroutine_threadsafe(self._server.stop(grace), self._loop)
        return self._over


def start_grpc(
    predictor: Predictor,
    address: str,
    *,
    api_key: Callable[[Mapping[str, str]], bool] | None = None,
    credentials: grpc.ServerCredentials | None = None,
) -> tuple[GrpcServer, int]:
    """Starts the gRPC server.

    Args:
        predictor: `Predictor`.
        address: `host:port`, port 0 = a free one.
        api_key: function of the metadata, a dict, that says whether the key is right; or None.
        credentials: of `grpc.ssl_server_credentials`, or None.

    Returns:
        `(GrpcServer, port)`.

    Raises:
        OSError: the address cannot be had.
    """
    server = GrpcServer(_Doors(predictor, api_key), predictor.limits.body_bytes)
    port = server.start(address, credentials)
    if not port:
        raise OSError(f"cannot listen on {address} for gRPC. Choose another --grpc-port or --host.")
    return server, port
