"""What a server says of itself: Prometheus metrics, and a log of one JSON object per line."""

import datetime
import json
import logging

#: what every record of `logging` has; the rest is what the caller gave as `extra`
_USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class JsonFormatter(logging.Formatter):
    """A log record as one JSON object: time (UTC), level, logger, event and what is in `extra`.

    >>> record = logging.makeLogRecord({"msg": "version loaded", "model": "课程", "version": 2})
    >>> text = JsonFormatter().format(record)
    >>> json.loads(text)["event"], json.loads(text)["model"], json.loads(text)["version"]
    ('version loaded', '课程', 2)
    """

    def format(self, record):
        """The record on one line."""
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


class Metrics:
    """The metrics of one server, in a registry of their own.

    Args:
        models: dict of name -> `ModelVersions`.
        gate: `Gate` that counts the requests in work.
    """

    def __init__(self, models, gate):
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
            loaded.labels(name).set_function(lambda versions=versions: len(versions.numbers))
            newest.labels(name).set_function(lambda versions=versions: versions.default or 0)

    def count(self, call):
        """Count a `Call` that is over."""
        self._requests.labels(
            call.protocol, call.model, str(call.version), call.signature, call.code
        ).inc()
        self._seconds.labels(call.protocol, call.model, call.signature).observe(call.seconds)

    def page(self):
        """All metrics in Prometheus' text form, bytes."""
        return self._page(self._registry)
