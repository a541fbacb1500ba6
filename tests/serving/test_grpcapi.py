"""gRPC over real sockets, with the official client stubs."""

import threading
import time

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from kerasrec.serving.admission import Limits, Refusal
from kerasrec.serving.grpcapi import from_proto, start_grpc, to_proto


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def small(server):
    """`(server with tight limits, stub, predictor)` over the same models."""
    from kerasrec.serving.predictor import Predictor

    limits = Limits(body_bytes=20_000, batch=4, concurrent=2, workers=1, seconds=5)
    predictor = Predictor(server.models, limits)
    running, port = start_grpc(predictor, "127.0.0.1:0")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel), predictor
    running.stop(None).wait()


def request(history=(("a",),), **spec):
    asked = predict_pb2.PredictRequest()
    asked.model_spec.name = "toy"
    if "version" in spec:
        asked.model_spec.version.value = spec.pop("version")
    for name, value in spec.items():
        setattr(asked.model_spec, name, value)
    asked.inputs["history"].CopyFrom(tf.make_tensor_proto(history, tf.string))
    return asked


def code_of(call):
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code().name


@pytest.mark.parametrize(
    "value", [[[b"a", "题".encode()]], [[1.5, -2.5]], [True], [[1, 2], [3, 4]], 7]
)
def test_protos_and_tensors(value):
    tensor = tf.constant(value)
    proto = to_proto(tensor)
    assert tf.make_ndarray(proto).tolist() == tensor.numpy().tolist()
    assert not proto.tensor_content  # as TF Serving: clients read float_val and the like
    assert from_proto("x", proto).numpy().tolist() == tensor.numpy().tolist()
    double = to_proto(tf.constant([1, 2], tf.uint8))
    assert tf.make_ndarray(double).tolist() == [1, 2]


def test_a_proto_that_contradicts_itself_is_refused():
    proto = tf.make_tensor_proto([1.0, 2.0])
    proto.tensor_content = b"123"
    with pytest.raises(Refusal, match="tensor parsing error: x"):
        from_proto("x", proto)


def test_a_small_proto_cannot_ask_for_a_large_tensor(stub):
    asked = request()
    for sizes in ((1000, 1_000_000_000), (1 << 40, 1 << 40), (-5, 3)):
        shape = asked.inputs["history"].tensor_shape
        del shape.dim[:]
        for size in sizes:
            shape.dim.add(size=size)
        assert code_of(lambda: stub.Predict(asked, 10)) == "INVALID_ARGUMENT"
    asked.inputs["history"].tensor_shape.unknown_rank = True
    assert code_of(lambda: stub.Predict(asked, 10)) == "INVALID_ARGUMENT"


def test_batch_and_body_limits(small):
    stub, _ = small
    assert stub.Predict(request([["a"]] * 4), 10)
    assert code_of(lambda: stub.Predict(request([["a"]] * 5), 10)) == "INVALID_ARGUMENT"
    large = request([["a" * 30_000]])
    assert code_of(lambda: stub.Predict(large, 10)) == "RESOURCE_EXHAUSTED"
    assert stub.Predict(request(), 10)


def test_one_request_too_many_is_refused_and_the_others_are_answered(small):
    stub, predictor = small
    with predictor._slots:  # the model is busy
        waiting = [stub.Predict.future(request(), 10) for _ in range(2)]
        while predictor.gate.in_flight < 2:
            time.sleep(0.01)
        assert code_of(lambda: stub.Predict(request(), 10)) == "RESOURCE_EXHAUSTED"
    assert [len(call.result().outputs) for call in waiting] == [2, 2]
    assert stub.Predict(request(), 10) and predictor.gate.in_flight == 0


def test_deadline(small):
    stub, predictor = small
    with predictor._slots:
        assert code_of(lambda: stub.Predict(request(), 0.1)) == "DEADLINE_EXCEEDED"
        began = time.monotonic()
        assert code_of(lambda: stub.Predict(request())) == "DEADLINE_EXCEEDED"  # the server's own
        assert 4 < time.monotonic() - began < 9
    assert stub.Predict(request(), 10)


def test_many_threads_get_their_own_answers(server, stub):
    ids = [f"C{number}" for number in range(6)]
    expected = {i: stub.Predict(request([[i]] * (n + 1)), 10) for n, i in enumerate(ids)}
    wrong = []

    def ask(number, item):
        for _ in range(10):
            answer = stub.Predict(request([[item]] * (number + 1)), 20)
            if answer != expected[item]:
                wrong.append(item)

    threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(ids)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_other_methods(server, stub):
    from tensorflow_serving.apis import classification_pb2, regression_pb2

    classify = classification_pb2.ClassificationRequest()
    regress = regression_pb2.RegressionRequest()
    for asked, call in ((classify, stub.Classify), (regress, stub.Regress)):
        asked.model_spec.name = "nope"
        assert code_of(lambda call=call, asked=asked: call(asked, 10)) == "NOT_FOUND"
        asked.model_spec.name = "toy"
        assert code_of(lambda call=call, asked=asked: call(asked, 10)) == "INVALID_ARGUMENT"
    several = inference_pb2.MultiInferenceRequest()
    assert code_of(lambda: stub.MultiInference(several, 10)) == "INVALID_ARGUMENT"
    task = several.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name = "toy"
    assert code_of(lambda: stub.MultiInference(several, 10)) == "INVALID_ARGUMENT"
    task.method_name = "tensorflow/serving/predict"
    assert code_of(lambda: stub.MultiInference(several, 10)) == "UNIMPLEMENTED"
    with grpc.insecure_channel(server.grpc_address) as channel:
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        reload = model_management_pb2.ReloadConfigRequest()
        assert (
            code_of(lambda: models.HandleReloadConfigRequest(reload, timeout=10)) == "UNIMPLEMENTED"
        )
        status = get_model_status_pb2.GetModelStatusRequest()
        assert code_of(lambda: models.GetModelStatus(status, 10)) == "INVALID_ARGUMENT"


def test_metadata_wants_a_field_it_knows(stub):
    asked = get_model_metadata_pb2.GetModelMetadataRequest()
    assert code_of(lambda: stub.GetModelMetadata(asked, 10)) == "INVALID_ARGUMENT"
    asked.model_spec.name = "toy"
    assert code_of(lambda: stub.GetModelMetadata(asked, 10)) == "INVALID_ARGUMENT"
    asked.metadata_field.append("weights")
    assert code_of(lambda: stub.GetModelMetadata(asked, 10)) == "INVALID_ARGUMENT"


def test_a_taken_port_is_one_sentence(server):
    with pytest.raises(OSError, match="cannot listen on .* for gRPC. Choose another --grpc-port"):
        start_grpc(server.predictor, server.grpc_address)
