"""REST over real sockets; codes that TF Serving shares are in test_servingconformance."""

import contextlib
import json
import socket
import threading
import time
from concurrent import futures

import httpx
import pytest

from kerasrec.serving.admission import Limits
from kerasrec.serving.server import ServerOptions, running_server

ASK = {"instances": [["a"]]}


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.rest_address, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def small(served_folder):
    """`(client, server)` with tight limits."""
    limits = Limits(body_bytes=20_000, batch=4, history=6, concurrent=2, workers=1, seconds=1.5)
    with running_server(served_folder, ServerOptions(limits=limits)) as running:
        with httpx.Client(base_url=running.rest_address, timeout=30) as client:
            yield client, running


def error_of(response):
    assert list(response.json()) == ["error"] and response.json()["error"]
    assert response.headers["content-type"] == "application/json"
    return response.status_code


def test_health_readiness_and_unknown_places(client):
    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "versions": {"toy": [1, 2]}}
    assert error_of(client.get("/v2/models/toy")) == 404
    assert error_of(client.get("/")) == 404


def test_metrics_page(client):
    assert client.post("/v1/models/toy:predict", json=ASK).status_code == 200
    assert client.post("/v1/models/x1:predict", json=ASK).status_code == 404
    page = client.get("/monitoring/prometheus/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    labels = 'code="OK",model="toy",protocol="rest",signature="serving_default",version="1"'
    assert f"kerasrec_requests_total{{{labels}}}" in page.text
    assert 'code="NOT_FOUND",model="",protocol="rest"' in page.text
    assert "x1" not in page.text  # names that a caller makes up do not fill the memory


def test_body_limits(small):
    client, _ = small
    large = json.dumps({"instances": [["a" * 30_000]]})
    assert error_of(client.post("/v1/models/toy:predict", content=large)) == 413
    parts = (large[i : i + 1000].encode() for i in range(0, len(large), 1000))
    assert error_of(client.post("/v1/models/toy:predict", content=parts)) == 413
    for instances in ([["a"]] * 5, [["a"] * 7]):
        assert error_of(client.post("/v1/models/toy:predict", json={"instances": instances})) == 400
    assert client.post("/v1/models/toy:predict", json=ASK).status_code == 200


def test_too_many_requests_while_health_answers(small):
    client, server = small
    url = f"{server.rest_address}/v1/models/toy:predict"
    with futures.ThreadPoolExecutor() as pool:
        with server.predictor._slots:  # the model is busy
            waiting = [pool.submit(httpx.post, url, json=ASK, timeout=20) for _ in range(2)]
            while server.predictor.gate.in_flight < 2:
                time.sleep(0.01)
            assert error_of(client.post("/v1/models/toy:predict", json=ASK)) == 429
            assert client.get("/healthz").status_code == 200
        assert [job.result().status_code for job in waiting] == [200, 200]


def test_deadline(small):
    client, server = small
    with server.predictor._slots:
        assert error_of(client.post("/v1/models/toy:predict", json=ASK)) == 504
    with socket.create_connection(server.rest_address[7:].split(":")) as slow:
        head = "POST /v1/models/toy:predict HTTP/1.1\r\nhost: localhost\r\n"
        head += "content-length: 100\r\n\r\n{"
        slow.sendall(head.encode())  # and no more
        assert b" 504 " in slow.recv(1000).split(b"\r\n")[0]
    assert client.post("/v1/models/toy:predict", json=ASK).status_code == 200
    assert server.predictor.gate.in_flight == 0


def test_slow_bodies_take_no_place_from_others(small):
    client, server = small
    head = (
        b"POST /v1/models/toy:predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 12000\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        address = server.rest_address[7:].split(":")
        slow = [stack.enter_context(socket.create_connection(address)) for _ in range(5)]
        for connection in slow[:4]:
            connection.sendall(head + b"{" * 9000)  # and no more
        assert client.post("/v1/models/toy:predict", json=ASK).status_code == 200
        slow[4].sendall(head + b"{" * 9000)  # what is not complete would fill the memory
        assert b" 429 " in slow[4].recv(1000).split(b"\r\n")[0]
        assert b" 504 " in slow[0].recv(1000).split(b"\r\n")[0]


def test_a_client_that_goes_leaves_no_trace(small):
    _, server = small
    for _ in range(5):
        with socket.create_connection(server.rest_address[7:].split(":")) as gone:
            gone.sendall(b"POST /v1/models/toy:predict HTTP/1.1\r\nhost: localhost\r\n")
            gone.sendall(b"content-length: 100\r\n\r\n{")
    until = time.monotonic() + 5
    while server.predictor.gate.in_flight and time.monotonic() < until:
        time.sleep(0.05)
    assert server.predictor.gate.in_flight == 0


def test_no_bytes_take_it_down(client, server):
    host, port = server.rest_address[7:].split(":")
    for line in (b"\x00\xff" * 50, b"GET", b"POST / HTTP/9\r\n\r\n", b"A" * 100_000):
        with socket.create_connection((host, port)) as rude:
            rude.sendall(line)
    assert client.get("/healthz").status_code == 200


def test_good_and_bad_requests_at_once(client):
    good, bad = json.dumps(ASK).encode(), [b"", b"{", b'{"instances": [[1]]}', b"\xff" * 100]
    codes = {"good": set(), "bad": set()}

    def ask(number):
        for turn in range(20):
            is_bad = (turn + number) % 3 == 0
            body = bad[(turn + number) % 4] if is_bad else good
            answer = client.post("/v1/models/toy:predict", content=body)
            codes["bad" if is_bad else "good"].add(answer.status_code)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {"good": {200}, "bad": {400}}


def test_empty_inputs_and_recommend(client):
    body = {
        "signature_name": "recommend",
        "inputs": {
            "history": [["a", ""]],
            "timestamps": [[0, 1_500_000_000]],
            "allow": [[]],
            "deny": [[]],
            "keep_seen": [False],
            "unknown": 3,
        },
    }
    answer = client.post("/v1/models/toy/labels/stable:predict", json=body)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["outputs"]["item_ids"][0]) == 50
    body["inputs"]["timestamps"] = [[0]]  # another width than the history
    assert error_of(client.post("/v1/models/toy:predict", json=body)) == 400
    none = {"inputs": {"history": []}}
    assert error_of(client.post("/v1/models/toy:predict", json=none)) == 400
