"""Keeps web pages from using the server through a browser that can reach it.

A page that a developer visits may have the browser send requests to 127.0.0.1, or to a name of its
own that it points there (DNS rebinding). No key is needed then, as on loopback there is none.
"""

import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
#: what a browser lets a page send anywhere without asking the server first
_OF_FORMS = ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded", "")


class BrowserGuard:
    """An ASGI application before another one: refuses what pages of other places send.

    - A request whose `Host` is a name that is not known (only of a server on loopback, or where
      names are given; an IP address always is): 421.
    - A request that a browser says comes from another origin (`Origin`, `Sec-Fetch-Site`), unless
      that origin may: 403. An origin that may gets the headers of CORS.
    - A body for a route that writes, from a browser (its `User-Agent`), in a form that pages may
      send without asking: 415. Old browsers told no origin with it.

    Programs such as curl send neither `Origin` nor `Sec-Fetch-Site`, and may send any form.

    Args:
        app: the application.
        is_local: whether the server listens on loopback alone.
        host_names: names that clients use for the server, besides localhost.
        origins: such as `https://shop.example`; pages from there may use the server.
        writes: function of method and path: whether the request changes anything.
    """

    def __init__(
        self,
        app: App,
        *,
        is_local: bool,
        host_names: Iterable[str] = (),
        origins: Iterable[str] = (),
        writes: Callable[[str, str], bool],
    ) -> None:
        self.app, self.writes = app, writes
        names = {name.lower() for name in host_names}
        self.any_host = not names and not is_local
        self.names = {"localhost", *names}
        self.origins = {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        origin = headers.get("origin", "").lower()
        may = origin in self.origins
        if may and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await _answer(send, 204, "", _cors(origin, headers))
            return
        if refusal := self._refusal(scope, headers, origin, may):
            await _answer(send, *refusal)
            return
        if not may:
            await self.app(scope, receive, send)
            return

        async def with_cors(message: Scope) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_cors(origin, headers)]}
            await send(message)

        await self.app(scope, receive, with_cors)

    def _refusal(
        self, scope: Scope, headers: dict[str, str], origin: str, may: bool
    ) -> tuple[int, str] | None:
        host = headers.get("host", "")
        name = _name(host)
        if not (self.any_host or name in self.names or _is_address(name)):
            return 421, (
                f"this server is not known by the name {name[:100]!r}; use localhost or its "
                "address, or start it with --host-name NAME."
            )
        site = headers.get("sec-fetch-site", "none")
        is_own = origin and origin.partition("://")[2] == host.lower()
        if not may and not is_own and (origin or site not in ("none", "same-origin")):
            what = origin[:100] or f"another place ({site[:20]})"
            return 403, (
                f"a page of {what} may not use this server; start it with --allow-origin ORIGIN "
                "for pages that may."
            )
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        is_browser = headers.get("user-agent", "").startswith("Mozilla/")
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        is_form = is_browser and has_body and kind in _OF_FORMS
        if is_form and self.writes(scope["method"], scope["path"]):
            return 415, (
                "a body for this path needs the header content-type: application/json. Received: "
                f"{kind[:100] or 'none'}."
            )
        return None


def _name(host: str) -> str:
    """The name or address in a Host header, without its port.

    >>> _name("Shop:8501"), _name("[::1]:8501"), _name("127.0.0.1")
    ('shop', '::1', '127.0.0.1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    """An address cannot be pointed elsewhere by whoever owns a name; "" comes from no browser."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == ""
    return True


def _cors(origin: str, headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    asked = headers.get("access-control-request-headers", "content-type, x-api-key")
    found = {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": "GET, POST, PUT, DELETE",
        "access-control-allow-headers": asked,
        "vary": "Origin",
    }
    return [(name.encode(), value.encode("latin-1")) for name, value in found.items()]


async def _answer(
    send: Any, status: int, error: str, more: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    body = json.dumps({"error": error}, ensure_ascii=False).encode() if error else b""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    start = {"type": "http.response.start", "status": status, "headers": [*headers, *more]}
    await send(start)
    await send({"type": "http.response.body", "body": body})
