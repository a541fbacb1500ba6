"""Who can reach a server: its address, API key and TLS, checked before the work."""

import contextlib
import hmac
import ipaddress
import re
import socket
import ssl
from pathlib import Path
from typing import NamedTuple


class Access(NamedTuple):
    """Who can reach a server.

    Attributes:
        host: address to listen on; the default is reached from this machine only.
        api_key: what requests must give as `x-api-key` or `authorization: Bearer`; "" = nothing.
        tls_cert: file with the certificate chain (PEM), for both protocols; None = no TLS.
        tls_key: file with its private key (PEM).
    """

    host: str = "127.0.0.1"
    api_key: str = ""
    tls_cert: str | None = None
    tls_key: str | None = None

    @property
    def is_local(self):
        """Whether only this machine can reach the address."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"


def check_access(access):
    """Raise ValueError or OSError unless key and TLS files of an `Access` can be used."""
    if bool(access.tls_cert) != bool(access.tls_key):
        raise ValueError("TLS needs both a certificate and its private key. Received: one of them.")
    for path in (access.tls_cert, access.tls_key):
        if path:
            Path(path).read_bytes()

    def is_encrypted():  # without it OpenSSL asks for a passphrase on the terminal
        raise ValueError(
            f"The private key {access.tls_key} is encrypted, and nobody is there to type its "
            f"passphrase. Give it decrypted: openssl pkey -in {access.tls_key} -out plain.pem"
        )

    if access.tls_cert:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(access.tls_cert, access.tls_key, password=is_encrypted)
        except ssl.SSLError as error:
            raise ValueError(
                f"Expected a certificate and its private key in PEM form. {access.tls_cert} and "
                f"{access.tls_key} are not ({error})."
            ) from error
    if not re.fullmatch("[!-~]*", access.api_key):
        raise ValueError("An API key must be of printable ASCII characters without spaces.")


def listen(host, port, protocol="REST"):
    """A bound socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off for sockets that say TCP; without that, 40 ms a request
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            f"cannot listen on {host}:{port} for {protocol} ({reason}). Choose another "
            f"--{protocol.lower()}-port or --host."
        ) from error
    return listening


def key_check(key):
    """Function of headers (names in lower case) -> whether they hold the key; None without one."""
    if not key:
        return None
    wanted = key.encode()

    def is_right(headers):
        given = headers.get("x-api-key") or ""
        scheme, _, token = (headers.get("authorization") or "").partition(" ")
        if not given and scheme.lower() == "bearer":
            given = token.strip()
        return hmac.compare_digest(given.encode(errors="replace"), wanted)

    return is_right
