"""Retries, deadlines and what a caller sees, against servers that refuse on purpose."""

import json
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest

from kerasrec.client.transport import Grpc, Refused, Rest, _array, with_retries

NOBODY = {"model": "m", "version": None, "label": None, "api_key": None, "ca": None}
INPUTS = {"item_ids": np.array(["课程"], object)}


# --- with_retries ---


def refusing(*codes, pause=0.0):
    """A call that each code refuses in turn, then answers; and the seconds it was given."""
    left, given = list(codes), []

    def call(seconds):
        given.append(seconds)
        if left:
            raise Refused(left.pop(0), "no", pause)
        return "answer"

    return call, given


def test_busy_servers_are_asked_again():
    call, given = refusing("UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
    assert with_retries(call, "here", timeout=10, retries=3) == "answer"
    assert len(given) == 4 and sorted(given, reverse=True) == given <= [10, 10, 10, 10]


def test_tries_come_to_an_end():
    call, given = refusing(*["UNAVAILABLE"] * 9)
    with pytest.raises(ConnectionError, match=r"here said UNAVAILABLE: no \(3 tries\)"):
        with_retries(call, "here", timeout=10, retries=2)
    assert len(given) == 3


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", ValueError),
        ("NOT_FOUND", LookupError),
        ("UNAUTHENTICATED", PermissionError),
        ("DEADLINE_EXCEEDED", TimeoutError),
        ("INTERNAL", RuntimeError),
    ],
)
def test_other_refusals_are_final(code, kind):
    call, given = refusing(code)
    with pytest.raises(kind, match=f"^here said {code}: no$"):
        with_retries(call, "here", timeout=10, retries=5)
    assert len(given) == 1


def test_no_pause_beyond_the_deadline():
    call, given = refusing(*["UNAVAILABLE"] * 99, pause=0.2)
    started = time.monotonic()
    with pytest.raises(ConnectionError):
        with_retries(call, "here", timeout=0.5, retries=99)
    assert time.monotonic() - started < 0.5 and len(given) == 3


# --- REST ---


@pytest.fixture
def http():
    """`(address, answers to give, requests that came)`; an answer is `(status, headers, body)`."""
    answers, came = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append((self.path, dict(self.headers), json.loads(body)))
            status, headers, content = answers.pop(0)
            if status is None:
                time.sleep(content)
                return
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            slowly = [content] if isinstance(content, bytes) else content
            for part in slowly:
                self.wfile.write(part)
                time.sleep(0.1 * (len(slowly) > 1))

        def log_message(self, *words):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", answers, came
    server.shutdown()
    thread.join()
    server.server_close()


def ask(transport, seconds=5.0):
    return transport.predict("similar", INPUTS, seconds)


def test_rest_request_and_answer(http):
    target, answers, came = http
    content = '{"outputs": {"item_ids": [["课", ""]], "scores": [[1, -Infinity]]}}'.encode()
    answers += [(200, {}, content), (200, {}, b'{"outputs": [[0.5, 2]]}')]
    transport = Rest(target, **{**NOBODY, "label": "stable", "api_key": "secret"})
    found = ask(transport)
    assert found["item_ids"].tolist() == [["课", ""]]
    assert found["scores"].tolist() == [[1.0, float("-inf")]]
    (path, headers, body), *_ = came
    assert path == "/v1/models/m/labels/stable:predict"
    assert body == {"signature_name": "similar", "inputs": {"item_ids": ["课程"]}}
    assert {k.lower(): v for k, v in headers.items()}["authorization"] == "Bearer secret"
    assert ask(transport)[""].tolist() == [[0.5, 2.0]]  # one output: no name
    transport.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "INVALID_ARGUMENT"), (404, "NOT_FOUND"), (429, "RESOURCE_EXHAUSTED"), (500, "UNKNOWN")],
)
def test_rest_refusals(http, status, code):
    target, answers, _ = http
    answers += [(status, {"retry-after": "2"}, b'{"error": "why"}'), (status, {}, b"plain")]
    transport = Rest(target, **NOBODY)
    with pytest.raises(Refused, match=rf"why \(HTTP {status}\)") as refused:
        ask(transport)
    assert (refused.value.code, refused.value.pause) == (code, 2.0)
    with pytest.raises(Refused, match="plain"):
        ask(transport)
    transport.close()


def test_rest_server_that_is_slow_or_not_there(http):
    target, answers, _ = http
    answers += [(None, {}, 0.6)]
    transport = Rest(target, **NOBODY)
    with pytest.raises(Refused, match="DEADLINE_EXCEEDED: no answer in 0.2 s"):
        ask(transport, 0.2)
    answers += [(200, {}, [b" "] * 30)]
    started = time.monotonic()
    with pytest.raises(Refused, match="DEADLINE_EXCEEDED: no answer in 0.5 s"):
        ask(transport, 0.5)  # each byte comes in time, but not all of them
    assert time.monotonic() - started < 1
    time.sleep(0.5)  # the server goes on, and nobody listens any more
    assert "kerasrec-client" not in [thread.name for thread in threading.enumerate()]
    transport.close()
    nobody = Rest("127.0.0.1:1", **NOBODY)
    with pytest.raises(Refused, match="UNAVAILABLE"):
        ask(nobody)
    nobody.close()


def test_bytes_that_are_no_text_come_in_base64():
    assert _array([{"b64": "6K++"}, "课"]).tolist() == ["课", "课"]


# --- gRPC ---


@pytest.fixture
def service():
    """`(address, what to abort with, requests that came)` of a gRPC server of this process."""
    from tensorflow import make_tensor_proto
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    aborts, came = [], []

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            came.append((request, dict(context.invocation_metadata())))
            if aborts:
                context.abort(*aborts.pop(0))
            answer = predict_pb2.PredictResponse()
            answer.outputs["item_ids"].CopyFrom(make_tensor_proto([["课", ""]]))
            return answer

    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", aborts, came
    server.stop(None).wait()


def test_grpc_request_and_answer(service):
    target, _, came = service
    transport = Grpc(target, **{**NOBODY, "version": 3, "api_key": "secret"})
    assert ask(transport)["item_ids"].tolist() == [["课", ""]]
    ((request, metadata),) = came
    assert request.model_spec.version.value == 3 and request.model_spec.name == "m"
    assert request.model_spec.signature_name == "similar"
    assert request.inputs["item_ids"].string_val == ["课程".encode()]
    assert metadata["authorization"] == "Bearer secret"
    transport.close()


def test_grpc_refusals(service):
    target, aborts, came = service
    busy, wrong = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT
    aborts += [(busy, "later"), (busy, "later"), (wrong, "never")]
    transport = Grpc(target, **{**NOBODY, "label": "canary"})
    with pytest.raises(ValueError, match=f"{target} said INVALID_ARGUMENT: never \\(3 tries\\)"):
        with_retries(lambda left: ask(transport, left), target, timeout=9, retries=3)
    assert [request.model_spec.version_label for request, _ in came] == ["canary"] * 3
    transport.close()
    nobody = Grpc("127.0.0.1:1", **NOBODY)
    with pytest.raises(Refused, match="UNAVAILABLE"):
        ask(nobody)
    nobody.close()


def test_a_grpc_target_is_no_url():
    with pytest.raises(ValueError, match="HOST:PORT, such as localhost:8500, not 'http://x'"):
        Grpc("http://x", **NOBODY)


@pytest.mark.parametrize(("transport", "usual"), [(Grpc, 8500), (Rest, 8501)])
def test_what_is_told_before_anything_is_sent(transport, usual, tmp_path):
    with pytest.raises(ValueError, match=f"no port: 'here'. Write .* such as here:{usual}"):
        transport("here", **NOBODY)
    for key in ("密钥", "a b", "a\n"):
        with pytest.raises(ValueError, match="An API key must be of printable ASCII"):
            transport("here:1", **{**NOBODY, "api_key": key})
    (tmp_path / "ca.pem").write_text("junk")
    with pytest.raises(ValueError, match="ca must be a PEM file with certificates. .*ca.pem is"):
        transport("here:1", **{**NOBODY, "ca": tmp_path / "ca.pem"})
    with pytest.raises(FileNotFoundError, match="none.pem"):
        transport("here:1", **{**NOBODY, "ca": tmp_path / "none.pem"})


def test_an_address_without_a_port_is_one():
    Rest("https://rec.example.com", **NOBODY).close()


def test_too_large_a_message_is_not_sent_again(service):
    """Over REST this is HTTP 413; gRPC's code for it is that of a server which is busy."""
    target, aborts, came = service
    words = "SERVER: Received message larger than max (3028 vs. 1000)"
    aborts += [(grpc.StatusCode.RESOURCE_EXHAUSTED, words)]
    transport = Grpc(target, **NOBODY)
    with pytest.raises(ValueError, match=r"INVALID_ARGUMENT: .*larger than max .3028 vs. 1000."):
        with_retries(lambda left: ask(transport, left), target, timeout=9, retries=3)
    assert len(came) == 1
    transport.close()


def test_the_wrong_port_is_guessed(http, service):
    """The REST port does not speak gRPC, nor the other way round."""
    wrong = Grpc(http[0], **NOBODY)
    with pytest.raises(Refused, match="is it the REST port. The gRPC port is usually 8500"):
        wrong.status(5)
    wrong.close()
    service[1].append((grpc.StatusCode.INTERNAL, "a title with HTTP/2 in it"))
    right = Grpc(service[0], **NOBODY)
    with pytest.raises(Refused, match="in it$"):
        ask(right)
    right.close()
    wrong = Rest(service[0], **NOBODY)
    with pytest.raises(Refused, match="is it the gRPC port. The REST port is usually 8501"):
        wrong.status(5)
    wrong.close()
