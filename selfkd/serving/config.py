"""The configuration of a server, its API key, and checks of its address."""

import errno
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass

from selfkd.data.example import MAX_AUDIO_SECONDS, SHORTEST_SECONDS
from selfkd.errors import InputError

KEY_VARIABLE = "SELFKD_API_KEY"


@dataclass
class ServeConfig:
    """Serves a model over HTTP with OpenAI's chat-completions protocol: text and audio queries about images.

    With the environment variable SELFKD_API_KEY set, every request needs the header "Authorization: Bearer KEY".
    Without it the server accepts connections from this machine only.

    Args:
        model: Output of selfkd align or distill (with /model), or a native omni model: a hub id or a path. Empty: the
            bundled model.
        host: Address to bind to. Any address other than this machine's own needs an API key.
        port: Port to bind to; 0 takes a free one.
        served_name: Name of the model in requests.
        max_batch: Maximum number of requests generated in one batch.
        batch_wait_seconds: How long an idle model waits for further requests after the first one.
        max_requests: Maximum number of active requests (reading, waiting or generating); further ones get 503.
        max_body_bytes: Maximum size of a request body and of a remote image; a larger body gets 413.
        max_pixels: Maximum number of pixels of an image.
        max_audio_seconds: Maximum duration of audio; at most 30.
        max_new_tokens: Maximum number of tokens in a response, also where a request asks for more.
        timeout_seconds: Maximum time for a request, from its headers to the last byte of its response; then 504.
        decoding_processes: Processes that parse bodies and decode images and audio; each holds at most one request.
        max_connections: Maximum number of open connections, idle ones included; further ones get 503.
        ssl_certfile: PEM file of a certificate, with the chain to its root: serves https. Empty: http.
        ssl_keyfile: PEM file of the certificate's key, without a password. Empty: it is in `ssl_certfile`.
        remote_images: Whether the server may fetch images from public http(s) addresses.
    """

    model: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    served_name: str = "selfkd"
    max_batch: int = 16
    batch_wait_seconds: float = 0.01
    max_requests: int = 128
    max_body_bytes: int = 20_000_000
    max_pixels: int = 20_000_000
    max_audio_seconds: float = MAX_AUDIO_SECONDS
    max_new_tokens: int = 512
    timeout_seconds: float = 60.0
    decoding_processes: int = 2
    max_connections: int = 512
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    remote_images: bool = False

    def __post_init__(self) -> None:
        limits = ("max_batch", "max_requests", "max_body_bytes", "max_pixels", "max_new_tokens", "max_connections")
        for name in (*limits, "decoding_processes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)}: must be at least 1")
        if not 0 <= self.port <= 65_535:
            raise InputError(f"port: {self.port}: must be between 0 and 65535")
        if not self.timeout_seconds > 0:
            raise InputError(f"timeout_seconds: {self.timeout_seconds}: must be more than 0")
        if not 0 <= self.batch_wait_seconds <= 1:
            raise InputError(f"batch_wait_seconds: {self.batch_wait_seconds}: must be between 0 and 1")
        if not SHORTEST_SECONDS <= self.max_audio_seconds <= MAX_AUDIO_SECONDS:
            allowed = f"between {SHORTEST_SECONDS} and {MAX_AUDIO_SECONDS:.0f}"
            raise InputError(f"max_audio_seconds: {self.max_audio_seconds}: must be {allowed}")
        if not self.served_name.strip():
            raise InputError("served_name: must not be empty")
        if not api_key() and not is_loopback(self.host):
            raise InputError(
                f"host: {self.host}: other machines can reach it; set {KEY_VARIABLE}, or bind to 127.0.0.1"
            )
        check_certificate(self.ssl_certfile, self.ssl_keyfile)


_AUDIO_BYTES = 200_000_000  # 30 s of 8 channels at 384 kHz, as floats, and their mean


def decoder_bytes(max_body_bytes: int, max_pixels: int) -> int:
    """Memory that decoding one request may take: copies of its bytes, and of an image with 4 bytes a pixel."""
    return 6 * max_body_bytes + 16 * max_pixels + _AUDIO_BYTES


def check_certificate(certfile: str, keyfile: str) -> None:
    """Raises InputError for files that no server can use."""
    if not certfile:
        if keyfile:
            raise InputError("ssl_keyfile: has no effect without ssl_certfile")
        return
    try:
        # a password would be asked for at the terminal
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certfile, keyfile or None, lambda: "")
    except OSError as error:  # an SSLError too
        raise InputError(f"ssl_certfile: {certfile}: no certificate and key that fit ({error})") from error


def api_key() -> str:
    """The key that requests must send, "" if none is set; raises InputError for one that no HTTP header can carry."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and (key.isprintable() or not key)):
        raise InputError(f"{KEY_VARIABLE}: has characters that no HTTP header can carry")
    return key


def check_address_free(host: str, port: int) -> None:
    """Raises InputError, before a model is loaded, if a server cannot bind to this address."""
    if not port:
        return
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(*address[:3]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
            probe.bind(address[4])
    except OSError as error:
        field = "host" if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL else "port"
        raise InputError(f"{field}: {port if field == 'port' else host}: {error.strerror} ({host}:{port})") from error


LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1", "[::1]")  # in a request's Host header


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
