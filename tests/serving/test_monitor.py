"""The log and the metrics of a server."""

import json
import logging

from kerasrec.serving.admission import Gate
from kerasrec.serving.monitor import JsonFormatter, Metrics
from kerasrec.serving.predictor import Call


def test_log_is_one_json_object_per_line(caplog):
    log = logging.getLogger("kerasrec.test")
    with caplog.at_level(logging.INFO, "kerasrec.test"):
        log.info("两行\nline %d", 2, extra={"version": 3, "path": JsonFormatter})
        try:
            raise KeyError("x")
        except KeyError:
            log.exception("defect")
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert not any("\n" in line for line in lines)
    first, second = map(json.loads, lines)
    assert (first["event"], first["version"], first["level"]) == ("两行\nline 2", 3, "info")
    assert first["time"].endswith("+00:00")
    assert "KeyError: 'x'" in second["traceback"]


class Versions:
    numbers, default = [3, 4], 3


def test_metrics_count_calls():
    gate = Gate(4)
    metrics = Metrics({"toy": Versions()}, gate)
    for code in ("OK", "OK", "NOT_FOUND"):
        call = Call("grpc")
        call.model, call.version, call.signature, call.code = "toy", 3, "score", code
        call.seconds = 0.015
        metrics.count(call)
    with gate.passed():
        page = metrics.page().decode()
    labels = 'code="OK",model="toy",protocol="grpc",signature="score",version="3"'
    assert f"kerasrec_requests_total{{{labels}}} 2.0" in page
    assert 'kerasrec_versions_loaded{model="toy"} 2.0' in page
    assert 'kerasrec_default_version{model="toy"} 3.0' in page
    assert "kerasrec_requests_in_flight 1.0" in page
    bucket = (
        'kerasrec_request_seconds_bucket{le="%s",model="toy",protocol="grpc",signature="score"}'
    )
    assert bucket % "0.01" + " 0.0" in page and bucket % "0.02" + " 3.0" in page


def test_two_servers_do_not_share_their_metrics():
    one, other = (Metrics({}, Gate(1)) for _ in range(2))
    one.count(Call("rest"))
    assert b'protocol="rest"' in one.page() and b'protocol="rest"' not in other.page()
