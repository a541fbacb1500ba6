"""Who can reach a server."""

import socket

import pytest

from kerasrec.serving.access import Access, check_access, key_check, listen


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
    check_access(Access(tls_cert=cert, tls_key=key))
    for access, message in (
        (Access(tls_cert=cert), "both a certificate and its private key"),
        (Access(tls_cert=cert, tls_key=authority), "in PEM form"),
        (Access(api_key="two words"), "printable ASCII"),
    ):
        with pytest.raises(ValueError, match=message):
            check_access(access)
    with pytest.raises(FileNotFoundError):
        check_access(Access(tls_cert=cert, tls_key=tmp_path / "none.pem"))


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
