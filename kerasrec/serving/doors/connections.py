"""Bounds the connections of the REST server: how many, from one address, and how long they idle.

uvicorn waits for the headers of a request as long as a client likes, and takes connections until
the process has no file descriptors left.
"""

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Connections:
    """The open connections of one server, oldest first.

    When there is no room, the oldest one that waits for a request makes room for the new one; one
    whose request is in work never does. An address may hold three quarters of all.

    Args:
        most: connections at most.
        header_seconds: in which a request's headers must have come.

    Attributes:
        refused: how many were not let in; `closed`: how many had to make room.
    """

    def __init__(self, most: int, header_seconds: float) -> None:
        self.most, self.share = most, most - most // 4
        self.header_seconds = header_seconds
        self.refused = self.closed = 0
        self._open: dict[GuardedProtocol, str] = {}
        self._of_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, protocol: "GuardedProtocol", address: str) -> bool:
        """Says whether a new connection may stay."""
        is_crowded = len(self._open) >= self.most
        is_greedy = self._of_address[address] >= self.share
        if is_crowded or is_greedy:
            oldest = next(
                (
                    one
                    for one, of in self._open.items()
                    if not one.is_in_work and (of == address or not is_greedy)
                ),
                None,
            )
            if oldest is None:
                self.refused += 1
                return False
            self.closed += 1
            self.leave(oldest)
            oldest.drop()
        self._open[protocol] = address
        self._of_address[address] += 1
        return True

    def leave(self, protocol: "GuardedProtocol") -> None:
        """Counts one less, once."""
        address = self._open.pop(protocol, None)
        if address is not None:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    def protocol(self) -> type["GuardedProtocol"]:
        """The class for `uvicorn.Config(http=...)`."""
        return type("GuardedProtocol", (GuardedProtocol,), {"guard": self})


class GuardedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol with a bound on the wait for headers."""

    guard: Connections

    def connection_made(self, transport: Any) -> None:
        """Lets a connection in, or not."""
        self._late: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        if not self.guard.enter(self, peer[0] if peer else ""):
            transport.abort()
            return
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts it out."""
        self._stop_waiting()
        self.guard.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes bytes of a request; its headers must be whole in time."""
        super().data_received(data)
        if self.is_in_work:
            self._stop_waiting()
        elif self._late is None:
            self._expect_headers()

    @property
    def is_in_work(self) -> bool:
        """Whether a request has come whose answer is not over."""
        return self.cycle is not None and not self.cycle.response_complete

    def drop(self) -> None:
        """Ends the connection at once."""
        self._stop_waiting()
        self.transport.abort()

    def _expect_headers(self) -> None:
        seconds = self.guard.header_seconds
        self._late = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self._late = None
        if not self.is_in_work and not self.transport.is_closing():
            self.transport.write(_TOO_LATE)
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
