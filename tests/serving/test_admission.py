"""Who and how much a server lets in; no TensorFlow."""

import threading

import pytest

from kerasrec.serving.admission import Access, Gate, Limits, Refusal, key_check


def test_refusal_takes_the_status_of_its_code_unless_told():
    assert Refusal("NOT_FOUND", "x").http_status == 404
    assert Refusal("INVALID_ARGUMENT", "x", http_status=413).http_status == 413


def test_limits_refuse_nonsense():
    assert Limits().check() == Limits()
    with pytest.raises(
        ValueError, match=r"limit batch .--max-batch. must be above 0 and below .*: 0\."
    ):
        Limits(batch=0).check()


@pytest.mark.parametrize(
    ("name", "shape", "expected", "words"),
    [
        ("history", (3, 4, 1), (-1, -1), r"must have the shape \[\?,\?\] .* \[3,4,1\]"),
        ("history", (), (-1, -1), r"Received: \[\]"),
        ("history", (-1, 2), (-1, -1), "must have the shape"),
        ("x", (2, 3), (-1, 4), r"\[\?,4\]"),
        ("history", (5, 1), (-1, -1), "at most 4 rows in a request. Received: 5 in history"),
        ("history", (1, 7), (-1, -1), "width of at most 6"),
        ("timestamps", (1, 7), (-1, -1), "width of at most 6"),
        ("history_texts", (2, 5), (-1, -1), "at most 8 texts in a request. Received: 10"),
        ("candidates", (4, 1 << 20), (-1, -1), "values in an input"),
    ],
)
def test_check_shape_refuses(name, shape, expected, words):
    with pytest.raises(Refusal, match=words) as refused:
        Limits(batch=4, history=6, texts=8).check_shape(name, shape, expected)
    assert refused.value.code == "INVALID_ARGUMENT"


def test_every_limit_is_named_as_it_is_typed():
    from kerasrec.cli.entry import build_parser

    serve = build_parser()[1]["serve"].format_help()
    for name in Limits._fields:
        with pytest.raises(ValueError, match=rf"limit {name} \(--[a-z-]+\) must") as refused:
            Limits()._replace(**{name: 0}).check()
        assert str(refused.value).split("(")[1].split(")")[0] in serve


@pytest.mark.parametrize(
    ("name", "shape", "advice"),
    [
        ("history", (1, 7), "Keep the newest 6 events .*higher --max-history.$"),
        ("history", (5, 1), "Send several requests, .*higher --max-batch.$"),
        ("history_texts", (2, 5), "Send several requests, .*higher --max-texts.$"),
        ("candidates", (4, 1 << 20), "Send several requests.$"),
    ],
)
def test_what_to_do_about_a_limit(name, shape, advice):
    with pytest.raises(Refusal, match=advice):
        Limits(batch=4, history=6, texts=8).check_shape(name, shape, (-1, -1))


def test_check_shape_accepts_what_is_on_the_limit_and_long_lists():
    limits = Limits(batch=4, history=6, texts=8)
    limits.check_shape("history", (4, 6), (-1, -1))
    limits.check_shape("history_texts", (2, 4), (-1, -1))
    limits.check_shape("candidates", (1, 5000), (-1, -1))
    limits.check_shape("anything", (2, 2, 2), None)
    limits.check_shape("history", (0, 0), (-1, -1))


def test_gate_counts_over_threads_and_refuses_the_next():
    gate, refused, together = Gate(3), [], threading.Barrier(5)

    def work():
        try:
            with gate.passed():
                together.wait(5)
        except Refusal as refusal:
            refused.append(refusal.code)
            together.wait(5)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["RESOURCE_EXHAUSTED"] * 2 and gate.in_flight == 0


# --- who ---


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("db", False)],
)
def test_is_local(host, is_local):
    assert Access(host).is_local is is_local


def test_key_check():
    assert key_check("") is None
    is_right = key_check("s3cret")
    assert is_right({"x-api-key": "s3cret"}) and is_right({"authorization": "Bearer s3cret"})
    assert is_right({"authorization": "bearer  s3cret "})
    for headers in ({}, {"x-api-key": "s3cre"}, {"authorization": "Basic s3cret"}):
        assert not is_right(headers)
    assert not is_right({"x-api-key": "密码", "authorization": "Bearer s3cret"})


def test_check_access(certificate, tmp_path):
    authority, cert, key = certificate
    assert Access(tls_cert=cert, tls_key=key).check()
    for access, message in (
        (Access(tls_cert=cert), "both a certificate and its private key"),
        (Access(tls_cert=cert, tls_key=authority), "in PEM form"),
        (Access(api_key="two words"), "printable ASCII"),
    ):
        with pytest.raises(ValueError, match=message):
            access.check()
    with pytest.raises(FileNotFoundError):
        Access(tls_cert=cert, tls_key=tmp_path / "none.pem").check()
