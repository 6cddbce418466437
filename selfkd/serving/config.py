"""What a server is told when it starts, and the key that it asks for."""

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass

from selfkd.errors import InputError
from selfkd.model.features import LONGEST_SECONDS, SHORTEST_SECONDS

KEY_VARIABLE = "SELFKD_API_KEY"


@dataclass
class ServeConfig:
    """Answers written and spoken questions about images over HTTP, in OpenAI's chat protocol.

    Where the environment variable SELFKD_API_KEY is set, requests must bring it ("Authorization: Bearer KEY"). Without
    it only this machine is served.

    Args:
        model: The output of selfkd align or distill (with /model), or a native omni model, a hub id or a path; the
            bundled model without it.
        host: Address to listen at. Any other than this machine's own needs a key.
        port: Port to listen at; 0 takes a free one.
        served_name: What requests call the model.
        max_batch: Most requests that are answered together.
        batch_wait_seconds: How long an idle model waits for more requests once one is there.
        max_requests: Most requests that are being read, waiting or answered; further ones get 503.
        max_body_bytes: Longest body of a request, and of a remote picture; a longer one gets 413.
        max_pixels: Most pixels of a picture.
        max_audio_seconds: Longest sound; at most 30.
        max_new_tokens: Most tokens of a reply, whatever a request asks for.
        timeout_seconds: Longest time for a request, from its head to the last byte of its reply: then 504.
        preparing_threads: Threads that decode pictures and sound; each holds one picture of `max_pixels` at most.
        remote_images: Whether pictures may be fetched from public http(s) addresses.
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
    max_audio_seconds: float = LONGEST_SECONDS
    max_new_tokens: int = 512
    timeout_seconds: float = 60.0
    preparing_threads: int = 2
    remote_images: bool = False

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_requests", "max_body_bytes", "max_pixels", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)}: must be at least 1")
        if self.preparing_threads < 1:
            raise InputError(f"preparing_threads: {self.preparing_threads}: must be at least 1")
        if not 0 <= self.port <= 65_535:
            raise InputError(f"port: {self.port}: must be between 0 and 65535")
        if not self.timeout_seconds > 0:
            raise InputError(f"timeout_seconds: {self.timeout_seconds}: must be more than 0")
        if not 0 <= self.batch_wait_seconds <= 1:
            raise InputError(f"batch_wait_seconds: {self.batch_wait_seconds}: must be between 0 and 1")
        if not SHORTEST_SECONDS <= self.max_audio_seconds <= LONGEST_SECONDS:
            allowed = f"between {SHORTEST_SECONDS} and {LONGEST_SECONDS:.0f}"
            raise InputError(f"max_audio_seconds: {self.max_audio_seconds}: must be {allowed}")
        if not self.served_name.strip():
            raise InputError("served_name: must not be empty")
        if not api_key() and not is_own_machine(self.host):
            raise InputError(f"host: {self.host}: others could ask; set {KEY_VARIABLE}, or listen at 127.0.0.1")


def api_key() -> str:
    """The key that requests must bring; "" where none is set. Raises InputError for one that no header can carry."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and (key.isprintable() or not key)):
        raise InputError(f"{KEY_VARIABLE}: holds letters that no header can carry")
    return key


def check_free(host: str, port: int) -> None:
    """Raises InputError, before a model is loaded, where nothing can listen at this address."""
    if not port:
        return
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(*address[:3]) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
            one.bind(address[4])
    except OSError as error:
        field = "host" if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL else "port"
        raise InputError(f"{field}: {port if field == 'port' else host}: {error.strerror} ({host}:{port})") from error


OWN_NAMES = ("127.0.0.1", "localhost", "::1", "[::1]")  # in a request's Host


def is_own_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
