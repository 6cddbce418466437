"""Pictures from other machines: off unless a setting allows it, and then from public addresses alone.

Whoever may name a URL could otherwise have the server read what only it can reach. So a name is looked up once, every
address that it has must be public, and the connection goes to the very address that was checked; redirects are not
followed, and proxies of the environment are not used.
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
_EMBEDDING = [ipaddress.IPv6Network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")]


def fetch(url: str, max_bytes: int, max_seconds: float = MAX_SECONDS) -> bytes:
    """The body at an http(s) URL; raises RefusedError where it is not to be had within the limits."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not (url.isascii() and url.isprintable() and " " not in url) or not parts.hostname:
            raise ValueError("no such URL")
        connection = _open(parts, port, max_seconds)
        with closing(connection):
            stop = Timer(max_seconds, connection.sock.shutdown, [socket.SHUT_RDWR])
            stop.daemon = True
            stop.start()
            started = time.monotonic()
            try:
                connection.request("GET", path, headers={"Accept": "image/*"})
                content = _body(connection.getresponse(), max_bytes)
            finally:
                stop.cancel()
            if time.monotonic() - started >= max_seconds:
                raise TimeoutError(f"no whole picture within {max_seconds:g} s")
            return content
    except (OSError, ValueError, HTTPException) as error:
        raise bad_field("image_url", f"not fetched: {error}") from error


def _open(parts: SplitResult, port: int, max_seconds: float) -> HTTPConnection:
    host = parts.hostname or ""
    found = [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(is_public(str(address)) for address in found):
        raise ValueError(f"{host} is no public address")
    sock: socket.socket = socket.create_connection((str(found[0]), port), timeout=max_seconds)
    if parts.scheme == "https":
        sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    connection = HTTPConnection(host, port)
    connection.sock = sock  # so it opens none of its own, which would look the name up again
    return connection


def _body(response: HTTPResponse, max_bytes: int) -> bytes:
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    content = response.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"over {max_bytes} bytes")
    return content


def is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    inner = _ipv4_within(ip) if isinstance(ip, ipaddress.IPv6Address) else []
    return all(one.is_global and not one.is_multicast for one in [ip, *inner])


def _ipv4_within(ip: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that a router may send it on to: 6to4, Teredo, NAT64 (RFC 6052), IPv4-compatible."""
    embedded = any(ip in net for net in _EMBEDDING)
    last = [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)] if embedded else []
    return [found for found in (ip.sixtofour, *(ip.teredo or ()), *last) if found is not None]
