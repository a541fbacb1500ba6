"""The server as a whole: several models, swaps under load, keys, TLS, signals, mistakes."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import httpx
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from kerasrec.cli.entry import main
from kerasrec.cli.serveverb import examples
from kerasrec.serving.admission import Access
from kerasrec.serving.server import ServerOptions, check_packages, listen, running_server

ASK = {"instances": [["a"]]}


def grpc_request(model="toy"):
    asked = predict_pb2.PredictRequest()
    asked.model_spec.name = model
    asked.inputs["history"].CopyFrom(tf.make_tensor_proto([["a"]]))
    return asked


def run(*words):
    command = [sys.executable, "-m", "kerasrec.cli.entry", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


# --- versions ---


@pytest.mark.parametrize("numbers", [(2,), pytest.param((2, 3), marks=pytest.mark.slow)])
def test_swaps_under_load_fail_no_request_and_mix_no_answer(served_folder, base, numbers):
    """Even versions give lists of 5, odd ones of 50."""
    over, wrong, seen, counts = threading.Event(), [], set(), itertools.count()

    def check(version, width):
        next(counts)
        seen.add(version)
        if width != (50, 5)[version % 2 == 0]:
            wrong.append((version, width))

    def ask_grpc(address):
        with grpc.insecure_channel(address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not over.is_set():
                answer = stub.Predict(grpc_request(), 20)
                shape = answer.outputs["item_ids"].tensor_shape
                check(answer.model_spec.version.value, shape.dim[1].size)
                time.sleep(0.02)

    def ask_rest(address):
        with httpx.Client(base_url=address, timeout=20) as client:
            while not over.is_set():
                answer = client.post("/v1/models/toy:predict", json=ASK)
                assert answer.status_code == 200, answer.text
                row = answer.json()["predictions"][0]
                if len(row["item_ids"]) != len(row["scores"]):
                    wrong.append(row)
                time.sleep(0.02)

    def guarded(ask, address):
        try:
            ask(address)
        except BaseException as error:
            wrong.append(error)

    with running_server(base, ServerOptions(poll=0.1)) as server:
        places = [(ask_grpc, server.grpc_address)] * 2 + [(ask_rest, server.rest_address)]
        threads = [threading.Thread(target=guarded, args=place) for place in places]
        for thread in threads:
            thread.start()
        for number in numbers:
            beside = base.parent / ".writing-toy"
            shutil.copytree(served_folder / str(2 - number % 2), beside)
            beside.rename(base / str(number))
            until = time.monotonic() + 60
            while number not in seen and time.monotonic() < until:
                time.sleep(0.05)
        over.set()
        for thread in threads:
            thread.join()
    assert wrong == [] and seen == {1, *numbers} and next(counts) > 20


@pytest.mark.slow
def test_two_models(served_folder, base):
    shutil.copytree(served_folder, base.parent / "课程")
    with running_server([base, base.parent / "课程"]) as server:
        assert list(server.models) == ["toy", "课程"]
        for name, width in (("toy", 50), ("课程", 50)):
            answer = httpx.post(f"{server.rest_address}/v1/models/{name}:predict", json=ASK)
            assert len(answer.json()["predictions"][0]["item_ids"]) == width
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert stub.Predict(grpc_request("课程"), 20).model_spec.name == "课程"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.rest_address}/healthz")


# --- access ---


def test_api_key(base):
    options = ServerOptions(access=Access(api_key="geheim"))
    with running_server(base, options) as server:
        url = f"{server.rest_address}/v1/models/toy"
        for headers in ({}, {"x-api-key": "geheim2"}, {"authorization": "Bearer 密".encode()}):
            answer = httpx.post(f"{url}:predict", json=ASK, headers=headers)
            assert answer.status_code == 401 and list(answer.json()) == ["error"]
            assert httpx.get(url, headers=headers).status_code == 401
        for headers in ({"X-Api-Key": "geheim"}, {"authorization": "bearer geheim"}):
            assert httpx.post(f"{url}:predict", json=ASK, headers=headers).status_code == 200
        metrics = f"{server.rest_address}/monitoring/prometheus/metrics"
        assert httpx.get(metrics).status_code == 401
        assert httpx.get(f"{server.rest_address}/healthz").status_code == 200
        assert "$KERASREC_API_KEY" in examples(server)[0] and "geheim" not in examples(server)[0]
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for metadata in (None, [("x-api-key", "wrong")]):
                with pytest.raises(grpc.RpcError) as refused:
                    stub.Predict(grpc_request(), 20, metadata=metadata)
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            for pair in (("x-api-key", "geheim"), ("authorization", "Bearer geheim")):
                assert stub.Predict(grpc_request(), 20, metadata=[pair])


def test_tls(base, certificate):
    import ssl

    authority, cert, key = certificate
    options = ServerOptions(access=Access(tls_cert=cert, tls_key=key))
    with running_server(base, options) as server:
        assert server.rest_address.startswith("https://")
        trusted = ssl.create_default_context(cafile=authority)
        url = f"{server.rest_address}/v1/models/toy:predict"
        assert httpx.post(url, json=ASK, verify=trusted).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.post(url, json=ASK)
        credentials = grpc.ssl_channel_credentials(authority.read_bytes())
        with grpc.secure_channel(server.grpc_address, credentials) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert stub.Predict(grpc_request(), 20)


def test_only_this_machine_unless_told(server):
    assert Access().is_local and Access("::1").is_local and Access("localhost").is_local
    assert not Access("0.0.0.0").is_local and not Access("::").is_local
    assert server.rest_address.startswith("http://127.0.0.1:")


# --- mistakes ---


def test_mistakes_are_told_before_anything_is_loaded(served_folder, certificate, tmp_path):
    def start(models, **options):
        with running_server(models, ServerOptions(**options)):
            pass

    with pytest.raises(ValueError, match="different names. Received: \\['toy', 'toy'\\]"):
        start([served_folder, served_folder])
    with pytest.raises(ValueError, match="both a certificate and its private key"):
        start(served_folder, access=Access(tls_cert="x"))
    with pytest.raises(FileNotFoundError):
        start(served_folder, access=Access(tls_cert="no.pem", tls_key="no.pem"))
    (tmp_path / "no.pem").write_text("no certificate")
    no = str(tmp_path / "no.pem")
    with pytest.raises(ValueError, match="Expected a certificate and its private key in PEM form"):
        start(served_folder, access=Access(tls_cert=no, tls_key=no))
    authority, cert, key = certificate
    lines = ["Proc-Type: 4,ENCRYPTED", f"DEK-Info: AES-128-CBC,{'00' * 16}", "", ""]
    (tmp_path / "locked.pem").write_text(key.read_text().replace("\n", "\n" + "\n".join(lines), 1))
    with pytest.raises(ValueError, match="locked.pem is encrypted, .* openssl pkey -in .*locked"):
        start(served_folder, access=Access(tls_cert=cert, tls_key=tmp_path / "locked.pem"))
    with pytest.raises(ValueError, match="printable ASCII") as refused:
        start(served_folder, access=Access(api_key="密码"))
    assert "密码" not in str(refused.value)
    with pytest.raises(ValueError, match="poll must be above 0"):
        start(served_folder, poll=0)
    with pytest.raises(ValueError, match="poll must be above 0 and below"):
        start(served_folder, poll=float("inf"))


def test_listen():
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        bound.listen()
        with socket.create_connection(("127.0.0.1", port), 5):
            pass
        with pytest.raises(OSError, match=f"127.0.0.1:{port} for gRPC .*another --grpc-port"):
            listen("127.0.0.1", port, "gRPC")
    with pytest.raises(OSError, match="cannot listen on 127.0.0.1:70000 for REST"):
        listen("127.0.0.1", 70000)


def test_a_taken_port(served_folder, server):
    port = int(server.rest_address.rpartition(":")[2])
    with pytest.raises(OSError, match="cannot listen on 127.0.0.1:.* for REST"):
        with running_server(served_folder, ServerOptions(rest_port=port)):
            pass


def test_a_version_that_does_not_load_is_one_sentence(base, capsys, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device.")

    monkeypatch.setattr(tf.saved_model, "load", full)
    assert main(["serve", "--model", str(base), "--rest-port", "0", "--grpc-port", "0"]) == 2
    said = f"kerasrec serve: No version of {base} loads. 1: [Errno 28] No space left on device."
    assert capsys.readouterr().err.splitlines()[-1] == said  # not that it is tried again


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "no/such"], "Expected a model folder with numbered versions"),
        (["--model", "{toy}/1"], "is one version of it"),
        (["--model", "{toy}", "--max-batch", "0"], "limit batch (--max-batch) must be above 0"),
        (
            ["--model", "{toy}", "--deadline", "inf"],
            "limit seconds (--deadline) must be above 0 and below",
        ),
        (["--model", "{toy}", "--max-body-mib", "inf"], "--max-body-mib must be above 0 and below"),
        (["--model", "{toy}", "--poll", "inf"], "poll must be above 0 and below"),
        (["--model", "{toy}", "--rest-port", "99999"], "for REST (bind(): port must be 0-65535.)"),
        (["--model", "{toy}", "--grpc-port", "99999"], "for gRPC (bind(): port must be 0-65535.)"),
        (
            ["--model", "{toy}", "--rest-port", "8599", "--grpc-port", "8599"],
            "REST and gRPC need a port each. Received: 8599 for both.",
        ),
        (["--model", "{toy}", "--tls-cert", "x.pem"], "both a certificate"),
        (["--model", "{toy}", "--api-key-file", "no.txt"], "no.txt: no such file"),
        (["--model", "{toy}", "--rest-prot", "1"], "unknown option --rest-prot"),
        ([], "the following arguments are required: --model"),
    ],
)
def test_mistakes_on_the_command_line(served_folder, words, said, capsys):
    assert main(["serve", *(word.format(toy=served_folder) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("kerasrec") and said in err
    assert err.count("\n") == 1


def test_missing_packages_are_named(monkeypatch):
    check_packages()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"uvicorn, which is missing. .*kerasrec\[serving\]"):
        check_packages()


# --- as a process ---


def test_graceful_stop(base):
    """SIGTERM while requests are in work: each gets its answer, and the exit code is 0."""
    command = [sys.executable, "-m", "kerasrec.cli.entry", "serve", "--model", str(base)]
    command += ["--rest-port", "0", "--grpc-port", "0", "--workers", "1", "--log-requests"]
    env = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    env["KERASREC_API_KEY"] = "k"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        lines = [process.stdout.readline().strip() for _ in range(4)]
        assert lines[0] == "model toy: versions 1"
        rest, grpc_address = (line.split()[1] for line in lines[1:3])
        assert re.fullmatch(r"http://127.0.0.1:\d+", rest) and lines[3].startswith("curl ")
        shown = subprocess.run(lines[3], shell=True, capture_output=True, text=True, env=env)
        assert json.loads(shown.stdout)["predictions"][0]["item_ids"], shown
        for address in (rest[7:], grpc_address):
            with socket.create_connection(address.split(":")) as rude:
                rude.sendall(b"\x00\xff no HTTP\r\n\r\n")
                rude.recv(1000)
        body = json.dumps({"instances": [["a"]] * 100}).encode()
        codes, signalled, half_sent = [], threading.Event(), threading.Semaphore(0)

        def halves():
            yield body[:50]
            half_sent.release()
            signalled.wait(60)
            yield body[50:]

        def ask():
            answer = httpx.post(
                f"{rest}/v1/models/toy:predict",
                content=halves(),
                headers={"x-api-key": "k"},
                timeout=60,
            )
            codes.append((answer.status_code, len(answer.json()["predictions"])))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 30
        for _ in threads:
            assert half_sent.acquire(timeout=30)
        assert httpx.get(f"{rest}/healthz").status_code == 200  # came after those
        process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            while time.monotonic() < until:  # soon nothing new is taken
                httpx.get(f"{rest}/healthz")
        signalled.set()
        for thread in threads:
            thread.join()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and out == ""
    assert codes == [(200, 100)] * 4
    events = [json.loads(line) for line in err.splitlines()]
    names = [event["event"] for event in events]
    assert names[:3] == ["loading a version", "version loaded", "serving"]
    assert names[-1] == "stopped" and events[2]["versions"] == {"toy": [1]}
    assert "Invalid HTTP request received." in names  # uvicorn's own words, in the same form
    requests = [event for event in events if event["event"] == "request"]
    assert [event["rows"] for event in requests] == [1, *[100] * 4]


SLOW = """
import sys, time
from kerasrec import backend, cli
tf, _ = backend.load(quiet=True)
load = tf.saved_model.load

def slow(path):
    if path.endswith(slow_version):
        print("loading", flush=True)
        time.sleep(60)
    return load(path)

tf.saved_model.load = slow
slow_version = sys.argv.pop(1)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_stop_while_a_version_loads_and_a_log_of_json_only(served_folder, base, certificate):
    _, cert, key = certificate
    words = ["serve", "--model", base, "--rest-port", "0", "--grpc-port", "0", "--poll", "0.1"]
    command = [sys.executable, "-c", SLOW, "2", *words, "--tls-cert", cert, "--tls-key", key]
    quiet = ("TF_CPP_MIN_LOG_LEVEL", "GRPC_VERBOSITY")
    env = {k: v for k, v in os.environ.items() if k not in quiet}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    with subprocess.Popen(list(map(str, command)), **pipes) as process:
        lines = [process.stdout.readline().strip() for _ in range(4)]
        for address in (lines[1].rpartition("/")[2], lines[2].split()[1]):
            with socket.create_connection(address.split(":")) as rude:
                rude.sendall(b"GET / HTTP/1.1\r\nhost: no TLS\r\n\r\n")
                rude.recv(1000)
        beside = base.parent / ".writing-toy"
        shutil.copytree(served_folder / "2", beside)
        beside.rename(base / "2")
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 10 and process.returncode == 0
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events[-1] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_stop_while_the_first_version_loads(base, number):
    words = ["serve", "--model", str(base), "--rest-port", "0", "--grpc-port", "0"]
    command = [sys.executable, "-c", SLOW, "1", *words]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "loading\n"
        process.send_signal(number)
        began = time.monotonic()
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert time.monotonic() - began < 10 and process.returncode == 0 and out == ""
    said = [json.loads(line)["event"] for line in err.splitlines()]
    assert said == ["loading a version", "stopped"]
