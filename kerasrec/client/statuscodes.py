"""The status codes of gRPC and those of HTTP, side by side: for the server and for its clients."""

#: code of gRPC -> status of HTTP, as TF Serving maps them
HTTP_STATUS = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
#: codes that a client tells apart by the status of HTTP; one status stands for one of them
_TOLD_APART = (
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
)
_CODE = {HTTP_STATUS[code]: code for code in _TOLD_APART} | {
    408: "DEADLINE_EXCEEDED",
    412: "FAILED_PRECONDITION",
    413: "INVALID_ARGUMENT",
}


def code_of(http_status: int, default: str) -> str:
    """Names the gRPC code of an HTTP status.

    Args:
        http_status: of an answer that is no success.
        default: what any other status means.

    >>> code_of(429, "UNKNOWN"), code_of(418, "UNKNOWN")
    ('RESOURCE_EXHAUSTED', 'UNKNOWN')
    """
    return _CODE.get(http_status, default)
