"""Codes of gRPC and statuses of HTTP; no TensorFlow."""

import grpc

from kerasrec.client.statuscodes import HTTP_STATUS, code_of


def test_every_code_of_grpc_has_a_status():
    assert set(HTTP_STATUS) == {code.name for code in grpc.StatusCode}
    assert HTTP_STATUS["RESOURCE_EXHAUSTED"] == 429 and HTTP_STATUS["NOT_FOUND"] == 404


def test_a_status_names_the_code_that_a_client_understands():
    codes = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
    codes |= {404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED", 412: "FAILED_PRECONDITION"}
    codes |= {413: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}
    codes |= {504: "DEADLINE_EXCEEDED"}
    assert {status: code_of(status, "other") for status in codes} == codes
    assert {code_of(status, "other") for status in (200, 302, 409, 418, 500, 501)} == {"other"}
