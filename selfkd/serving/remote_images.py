"""Images from http(s) URLs: off by default, and from public addresses only.

A client could otherwise make the server read what only the server can reach (server-side request forgery). A host name
is therefore resolved once, all of its addresses must be public, and the connection goes to the address that was
checked. Redirects are not followed, and proxies of the environment are not used.
"""

import ipaddress
import socket
import ssl
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse
from threading import Timer
from urllib.parse import SplitResult, urlsplit

from selfkd.serving.schema import bad_field

MAX_SECONDS = 10.0
_EMBEDDING_NETWORKS = [ipaddress.IPv6Network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")]


def fetch(url: str, max_bytes: int, max_seconds: float = MAX_SECONDS) -> bytes:
    """The body at an http(s) URL; raises RefusedError if it cannot be fetched within the limits."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not (url.isascii() and url.isprintable() and " " not in url) or not parts.hostname:
            raise ValueError("not a valid URL")
        connection = _connect(parts, port, max_seconds)
        with closing(connection):
            stop = Timer(max_seconds, connection.sock.shutdown, [socket.SHUT_RDWR])
            stop.daemon = True
            stop.start()
            started = time.monotonic()
            try:
                connection.request("GET", path, headers={"Accept": "image/*"})
                content = _read_body(connection.getresponse(), max_bytes)
            except (OSError, HTTPException):
                if time.monotonic() - started < max_seconds:
                    raise
                content = None  # however a read ends whose connection was shut down
            finally:
                stop.cancel()
            if content is None or time.monotonic() - started >= max_seconds:
                raise TimeoutError(f"no complete image within {max_seconds:g} s")
            return content
    except (OSError, ValueError, HTTPException) as error:
        raise bad_field("image_url", f"not fetched: {error}") from error


def _connect(parts: SplitResult, port: int, max_seconds: float) -> HTTPConnection:
    host = parts.hostname or ""
    addresses = [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(is_public(str(address)) for address in addresses):
        raise ValueError(f"{host} is not a public address")
    sock: socket.socket = socket.create_connection((str(addresses[0]), port), timeout=max_seconds)
    if parts.scheme == "https":
        sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    connection = HTTPConnection(host, port)
    connection.sock = sock  # otherwise it would resolve the name again
    return connection


def _read_body(response: HTTPResponse, max_bytes: int) -> bytes:
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    content = response.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"over {max_bytes} bytes")
    return content


def is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    inner = _inner_ipv4(ip) if isinstance(ip, ipaddress.IPv6Address) else []
    return all(address.is_global and not address.is_multicast for address in [ip, *inner])


def _inner_ipv4(ip: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses inside an IPv6 address, which a router may forward to: 6to4, Teredo, NAT64 (RFC 6052),
    IPv4-compatible."""
    is_embedding = any(ip in net for net in _EMBEDDING_NETWORKS)
    last_32_bits = [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)] if is_embedding else []
    return [address for address in (ip.sixtofour, *(ip.teredo or ()), *last_32_bits) if address is not None]
