"""TF Serving's gRPC services over a `Predictor`: Predict, GetModelMetadata, GetModelStatus."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any

import grpc
import numpy as np
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from kerasrec.backend import tf
from kerasrec.serving.admission import Refusal
from kerasrec.serving.modelversions import State
from kerasrec.serving.monitor import Call
from kerasrec.serving.predictor import Predictor, Resolved, Target, Tensors, check_outputs
from kerasrec.serving.servedversion import ServedVersion, Signature

_SPARE_THREADS = 4  # beyond the requests in work, so that one too many is told so at once
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


@contextlib.contextmanager
def _answering(context: Any) -> Iterator[None]:
    """Makes a `Refusal` inside the status of the call."""
    try:
        yield
    except Refusal as refusal:
        context.abort(grpc.StatusCode[refusal.code], str(refusal))


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """`tensorflow.serving.PredictionService`."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answers one request by one version."""
        with _answering(context), self.predictor.counted("grpc") as call:
            with self.predictor.gate.passed():
                return self._predict(call, request, context)

    def _predict(self, call: Call, request: Any, context: Any) -> Any:
        predictor, wanted = self.predictor, list(request.output_filter)
        seconds, given = predictor.limits.seconds, context.time_remaining()
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
        return {name: from_proto(name, proto) for name, proto in request.inputs.items()}

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Tells the signatures of a version."""
        with _answering(context):
            if not request.HasField("model_spec"):
                raise Refusal("INVALID_ARGUMENT", "Missing ModelSpec")
            if not request.metadata_field:
                message = "GetModelMetadataRequest must specify at least one metadata_field"
                raise Refusal("INVALID_ARGUMENT", message)
            for field in request.metadata_field:
                if field != "signature_def":
                    message = f"Metadata field {field} is not supported"
                    raise Refusal("INVALID_ARGUMENT", message)
            with self.predictor.version(target_of(request.model_spec)) as version:
                response = get_model_metadata_pb2.GetModelMetadataResponse()
                return fill_metadata(response, version)

    def Classify(self, request: Any, context: Any) -> None:  # noqa: N802
        """Refuses."""
        with _answering(context):
            self.predictor.refuse_examples(target_of(request.model_spec), "classify")

    def Regress(self, request: Any, context: Any) -> None:  # noqa: N802
        """Refuses."""
        with _answering(context):
            self.predictor.refuse_examples(target_of(request.model_spec), "regress")

    def MultiInference(self, request: Any, context: Any) -> None:  # noqa: N802
        """Refuses: it combines the two above."""
        with _answering(context):
            if not request.tasks:
                raise Refusal("INVALID_ARGUMENT", "Inference request is empty: no tasks")
            method = request.tasks[0].method_name.rpartition("/")[2]
            if method not in ("classify", "regress"):
                raise Refusal(
                    "UNIMPLEMENTED", f"Unsupported signature method_name: tensorflow/{method}"
                )
            self.predictor.refuse_examples(target_of(request.tasks[0].model_spec), method)


def _response(resolved: Resolved, outputs: Tensors) -> Any:
    """The PredictResponse that holds some outputs."""
    response = predict_pb2.PredictResponse()
    spec = response.model_spec
    spec.name, spec.signature_name = resolved.version.model, resolved.signature.name
    spec.version.value = resolved.version.number
    for name, tensor in outputs.items():
        response.outputs[name].CopyFrom(to_proto(tensor))
    return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """`tensorflow.serving.ModelService`; versions come and go by their folders, not by requests."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Tells the states of one version or of all."""
        with _answering(context):
            if not request.HasField("model_spec"):
                raise Refusal("INVALID_ARGUMENT", "Missing ModelSpec")
            states = self.predictor.states(target_of(request.model_spec))
            return fill_status(get_model_status_pb2.GetModelStatusResponse(), states)


class _ApiKey(grpc.ServerInterceptor):
    """Refuses calls without the key."""

    def __init__(self, check: Callable[[Mapping[str, str]], bool]) -> None:
        self.check = check

        def refuse(request: Any, context: Any) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "this server wants an API key.")

        self.refusal = grpc.unary_unary_rpc_method_handler(refuse)

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Passes the call on, or not."""
        if self.check(dict(details.invocation_metadata)):
            return continuation(details)
        return self.refusal


def start_grpc(
    predictor: Predictor,
    address: str,
    *,
    api_key: Callable[[Mapping[str, str]], bool] | None = None,
    credentials: grpc.ServerCredentials | None = None,
) -> tuple[grpc.Server, int]:
    """Starts the gRPC server.

    Args:
        predictor: `Predictor`.
        address: `host:port`, port 0 = a free one.
        api_key: function of the metadata, a dict, that says whether the key is right; or None.
        credentials: of `grpc.ssl_server_credentials`, or None.

    Returns:
        `(grpc.Server, port)`.

    Raises:
        OSError: the address cannot be had.
    """
    limits = predictor.limits
    threads = limits.concurrent + _SPARE_THREADS
    server = grpc.server(
        futures.ThreadPoolExecutor(threads, thread_name_prefix="kerasrec-grpc"),
        interceptors=[_ApiKey(api_key)] if api_key else [],
        options=[
            ("grpc.max_receive_message_length", limits.body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a taken port is an error, not half of the requests
        ],
        maximum_concurrent_rpcs=threads,
    )
    service = PredictionService(predictor)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(predictor), server)
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        port = 0
    if not port:
        raise OSError(f"cannot listen on {address} for gRPC. Choose another --grpc-port or --host.")
    server.start()
    return server, port
