"""Tells how a server does: Prometheus metrics, and a log of one JSON object per line."""

import datetime
import json
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kerasrec.serving.admission import Gate
    from kerasrec.serving.modelversions import ModelVersions

#: fields of every record of `logging`; all others come from the caller's `extra`
_USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class JsonFormatter(logging.Formatter):
    """A log record as one JSON object: time (UTC), level, logger, event and what is in `extra`.

    >>> record = logging.makeLogRecord({"msg": "version loaded", "model": "课程", "version": 2})
    >>> text = JsonFormatter().format(record)
    >>> json.loads(text)["event"], json.loads(text)["model"], json.loads(text)["version"]
    ('version loaded', '课程', 2)
    """

    def format(self, record: logging.LogRecord) -> str:
        """Writes a record on one line."""
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        facts = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        facts |= {k: v for k, v in record.__dict__.items() if k not in _USUAL}
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return json.dumps(facts, ensure_ascii=False, default=str)


class Call:
    """Notes on one request, for the metrics and the log; names are "" until resolved."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.model = ""
        self.version: int | str = ""
        self.signature = ""
        self.rows = 0
        self.code, self.error = "OK", ""
        self.began = time.perf_counter()
        self.seconds = 0.0


class Metrics:
    """The metrics of one server, in a registry of their own.

    Args:
        models: dict of name -> `ModelVersions`.
        gate: `Gate` that counts the requests in work.
    """

    def __init__(self, models: "Mapping[str, ModelVersions]", gate: "Gate") -> None:
        import prometheus_client as prometheus

        self.content_type = prometheus.CONTENT_TYPE_LATEST
        self._page = prometheus.generate_latest
        self._registry = registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "kerasrec_requests",
            "Predict requests that were answered or refused.",
            ("protocol", "model", "version", "signature", "code"),
            registry=registry,
        )
        self._seconds = prometheus.Histogram(
            "kerasrec_request_seconds",
            "Seconds from the whole request to its answer.",
            ("protocol", "model", "signature"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._events = prometheus.Counter(
            "kerasrec_feedback_events",
            "Events sent to the feedback store, by what became of them; unknown_item counts those "
            "stored whose item no loaded version has.",
            ("outcome",),
            registry=registry,
        )
        in_flight = prometheus.Gauge(
            "kerasrec_requests_in_flight", "Predict requests in work.", registry=registry
        )
        in_flight.set_function(lambda: gate.in_flight)
        loaded = prometheus.Gauge(
            "kerasrec_versions_loaded", "Versions that answer.", ("model",), registry=registry
        )
        newest = prometheus.Gauge(
            "kerasrec_default_version",
            "Version that answers requests which name none; 0 = none.",
            ("model",),
            registry=registry,
        )
        for name, versions in models.items():
            loaded.labels(name).set_function(partial(_num_loaded, versions))
            newest.labels(name).set_function(partial(_default_or_0, versions))

    def count(self, call: Call) -> None:
        """Counts a `Call` that is over."""
        self._requests.labels(
            call.protocol, call.model, str(call.version), call.signature, call.code
        ).inc()
        self._seconds.labels(call.protocol, call.model, call.signature).observe(call.seconds)

    def count_events(self, outcome: str, number: int) -> None:
        """Counts events of feedback: stored, repeated, erased, unknown_item or refused."""
        self._events.labels(outcome).inc(number)

    def page(self) -> bytes:
        """Writes all metrics in Prometheus' text form."""
        return self._page(self._registry)


def _num_loaded(versions: "ModelVersions") -> int:
    return len(versions.numbers)


def _default_or_0(versions: "ModelVersions") -> int:
    return versions.default or 0
