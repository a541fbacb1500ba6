"""Clients that want to shut out the others, over real sockets: each one meets a bound."""

import contextlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from functools import partial

import grpc
import httpx
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from kerasrec.serving import grpcapi
from kerasrec.serving import server as server_module
from kerasrec.serving.admission import Access, Gate, Refusal
from kerasrec.serving.server import ServerOptions, running_server


def free_port():
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


PREDICT = "/tensorflow.serving.PredictionService/Predict"


def request(history=(("a",),)):
    asked = predict_pb2.PredictRequest()
    asked.model_spec.name = "toy"
    asked.inputs["history"].CopyFrom(tf.make_tensor_proto(history, tf.string))
    return asked


def refusal_of(call):
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code().name, refused.value.details()


@contextlib.contextmanager
def calls_without_a_message(address, number, metadata=()):
    """Headers alone; the futures of the calls."""
    over = threading.Event()

    def never():
        over.wait(60)
        yield from ()

    with grpc.insecure_channel(address) as channel:
        call = channel.stream_unary(PREDICT)
        try:
            yield [call.future(never(), metadata=metadata) for _ in range(number)]
        finally:
            over.set()


@pytest.fixture(scope="module")
def guarded(served_folder):
    """A server with a key and tight bounds: 20 calls without a message, 8 connections, 1 second."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(grpcapi, "MESSAGE_SECONDS", 1.0)
        patched.setattr(server_module, "MESSAGE_SECONDS", 1.0)
        patched.setattr(grpcapi, "MOST_WAITING", 20)
        patched.setattr(server_module, "most_connections", lambda: 8)
        with running_server(served_folder, ServerOptions(access=Access(api_key="k"))) as running:
            yield running


SLOW = partial(pytest.param, marks=pytest.mark.slow)
KEY = (("x-api-key", "k"),)


def test_calls_without_a_message_take_no_place(guarded):
    with grpc.insecure_channel(guarded.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert stub.Predict(request(), 20, metadata=KEY)
        with calls_without_a_message(guarded.grpc_address, 30, KEY) as calls:
            until = time.monotonic() + 3
            answered = 0
            while time.monotonic() < until:
                assert stub.Predict(request(), 2, metadata=KEY).outputs
                answered += 1
            assert answered > 30
            found = [refusal_of(call.result) for call in calls]
    codes = {code for code, _ in found}
    # those that had waited longest made room for the healthy ones; the others ran out of time
    assert codes == {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    assert "no message came within 1 seconds." in {text for _, text in found}


def test_the_key_is_checked_before_a_message_is_waited_for(guarded):
    began = time.monotonic()
    with calls_without_a_message(guarded.grpc_address, 5, (("x-api-key", "wrong"),)) as calls:
        assert {refusal_of(call.result)[0] for call in calls} == {"UNAUTHENTICATED"}
    assert time.monotonic() - began < 0.9


def test_garbage_is_one_line(guarded, caplog):
    with grpc.insecure_channel(guarded.grpc_address) as channel:
        call = channel.unary_unary(PREDICT)
        code, text = refusal_of(lambda: call(b"\xff\xff\xff", 10, metadata=KEY))
    assert code == "INVALID_ARGUMENT"
    assert text == "the message must be a tensorflow.serving.PredictRequest."
    assert not [record for record in caplog.records if record.exc_info]


def test_a_few_bytes_fill_no_large_tensor(guarded):
    """A tensor may leave out values at its end: the last one counts for all of them."""
    asked = request()
    shape = asked.inputs["history"].tensor_shape
    with grpc.insecure_channel(guarded.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        shape.dim[0].size, shape.dim[1].size = 4, 1000
        answer = stub.Predict(asked, 20, metadata=KEY)
        assert tf.make_ndarray(answer.outputs["item_ids"]).shape == (4, 50)
        shape.dim[0].size = 1000
        assert len(asked.SerializeToString()) < 100
        code, text = refusal_of(lambda: stub.Predict(asked, 20, metadata=KEY))
    assert code == "INVALID_ARGUMENT"
    assert "must hold all its values where it has more than 4096" in text
    assert "1 values for 1000000 places" in text


def http_address(server):
    host, port = re.match(r"http://(.+):(\d+)", server.rest_address).groups()
    return host, int(port)


def test_unfinished_headers_end_and_healthy_clients_get_in(guarded):
    sockets = []
    try:
        for _ in range(30):
            one = socket.create_connection(http_address(guarded))
            one.sendall(b"GET /v1/models/toy HTTP/1.1\r\nhost: localhost\r\n")
            sockets.append(one)
        for _ in range(5):
            answer = httpx.get(f"{guarded.rest_address}/healthz", timeout=5)
            assert answer.status_code == 200
        sockets[-1].settimeout(5)
        began = time.monotonic()
        assert sockets[-1].recv(100).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 3
    finally:
        for one in sockets:
            one.close()


def test_headers_of_a_second_request_have_their_time_too(guarded):
    asked = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with socket.create_connection(http_address(guarded)) as one:
        one.settimeout(5)
        one.sendall(asked)
        answer = b""
        while not answer.endswith(b"}"):
            answer += one.recv(4000)
        assert answer.startswith(b"HTTP/1.1 200 ")
        one.sendall(asked[:20])
        assert one.recv(4000).startswith(b"HTTP/1.1 408 ")
        assert one.recv(4000) == b""


def test_a_request_in_work_keeps_its_connection(guarded):
    """Its body comes slowly while others fill the house; it gets its answer."""
    body = b'{"instances": [["a"]]}'
    head = "POST /v1/models/toy:predict HTTP/1.1\r\nhost: localhost\r\nx-api-key: k\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(socket.create_connection(http_address(guarded)))
        slow.settimeout(10)
        slow.sendall(head.encode() + body[:5])
        time.sleep(0.2)
        for _ in range(20):
            stack.enter_context(socket.create_connection(http_address(guarded)))
        time.sleep(1.5)  # longer than headers may take
        slow.sendall(body[5:])
        assert slow.recv(4000).startswith(b"HTTP/1.1 200 ")


def test_an_address_has_its_share_of_the_places():
    gate = Gate(8)
    for _ in range(6):
        gate.enter("203.0.113.7")
    with pytest.raises(Refusal, match="works on 6 requests of yours"):
        gate.enter("203.0.113.7")
    with gate.passed("203.0.113.8"), gate.passed():
        with pytest.raises(Refusal, match="works on 8 requests, as many"):
            gate.enter("203.0.113.9")
    gate.leave("203.0.113.7")
    gate.enter("203.0.113.7")
    assert gate.in_flight == 6


@pytest.mark.parametrize("damage", ["no variables", SLOW("empty"), SLOW("half")])
def test_a_broken_newest_version_stops_no_restart(served_folder, tmp_path, damage):
    base = tmp_path / "toy"
    shutil.copytree(served_folder / "1", base / "1")
    if damage == "empty":
        (base / "2").mkdir()
    else:
        shutil.copytree(served_folder / "2", base / "2")
    if damage == "half":
        pb = base / "2" / "saved_model.pb"
        pb.write_bytes(pb.read_bytes()[:1000])
    if damage == "no variables":
        shutil.rmtree(base / "2" / "variables")
    with running_server(base) as running:
        assert running.models["toy"].numbers == [1]
        assert list(running.models["toy"].reasons()) == [2]
        answer = httpx.post(
            f"{running.rest_address}/v1/models/toy:predict", json={"instances": [["a"]]}
        )
        assert answer.status_code == 200


@pytest.mark.slow
def test_few_file_descriptors_are_enough(served_folder, tmp_path):
    """300 connections with unfinished headers at `ulimit -n 256`: the log stays short."""
    rest, log = free_port(), tmp_path / "log"
    command = f"ulimit -n 256; exec {sys.executable} -m kerasrec.cli.entry serve"
    command += f" --model {served_folder} --rest-port {rest} --grpc-port {free_port()}"
    with open(log, "w") as out:
        process = subprocess.Popen(["bash", "-c", command], stdout=out, stderr=out)
    sockets, health = [], f"http://127.0.0.1:{rest}/healthz"
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(health, timeout=5).status_code == 200:
                    break
            time.sleep(0.1)
        for _ in range(300):
            one = socket.create_connection(("127.0.0.1", rest))
            one.sendall(b"GET /healthz HTTP/1.1\r\n")
            # closed at once with a reset, it leaves nothing behind on this side
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sockets.append(one)
        for _ in range(10):
            assert httpx.get(health, timeout=5).status_code == 200
        assert log.stat().st_size < 20_000, log.read_text()[-2000:]
    finally:
        for one in sockets:
            one.close()
        process.terminate()
        assert process.wait(60) == 0
