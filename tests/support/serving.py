"""Serves a model for tests: in a thread, whose state tests can read, or in a process, whose memory they can measure.

Also requests, raw connections and checks of error responses."""

import base64
import http.client
import io
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import soundfile
import uvicorn
from examples import tone
from openai import OpenAI
from PIL import Image
from processes import Command

from selfkd.evaluation.backends.local import MAX_NEW_TOKENS
from selfkd.serving.config import ServeConfig
from selfkd.serving.server import create_app
from selfkd.serving.state import ServerState

CHAT = "/v1/chat/completions"
TIMEOUT_SECONDS = 120  # of every wait: generous, because test machines are busy


@dataclass
class Served:
    url: str
    state: ServerState

    def post(self, body: Any, **others: Any):
        return post(self.url, body, **others)


@contextmanager
def served(parts, **settings):
    """The model in a thread of this process, on a free port."""
    app = create_app(ServeConfig(port=0, **settings), *parts)
    # as `selfkd serve`, it does not wait for ever for a client that neither reads nor leaves
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=8))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}/v1", app.state.state)
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serve_process(model_folder, port: int, **settings):
    """Yields (base URL, the process of `selfkd serve`)."""
    fields = (part for name, value in settings.items() for part in (f"--{name}", value))
    with Command(["serve", model_folder, "--port", port, *fields]) as process:
        wait_for_health(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}/v1", process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_health(url: str, process: Command) -> None:
    for _ in range(10 * TIMEOUT_SECONDS):
        assert process.poll() is None, process.stderr
        try:
            if get(url, "/health")[0] == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("no answer from /health")


def post(url: str, body: Any, path: str = CHAT, key: str = "", **headers: str):
    """(status, headers, JSON) of the response; `body`: bytes, an iterator of bytes (sent in chunks), or JSON."""
    content = json.dumps(body).encode() if isinstance(body, dict | list) else body
    sent = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    return _send(url, "POST", path, content, sent | {k.replace("_", "-"): v for k, v in headers.items()})


def get(url: str, path: str, key: str = ""):
    return _send(url, "GET", path, None, {"Authorization": f"Bearer {key}"} if key else {})


def _send(url: str, method: str, path: str, content: Any, headers: dict[str, str]):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path, content, headers, encode_chunked=not isinstance(content, bytes | None))
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read())
    finally:
        connection.close()


def request(*parts: Any, **fields: Any) -> dict[str, Any]:
    """A request body with these content parts; a string stands for a text part."""
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"model": "selfkd", "messages": [{"role": "user", "content": content}]} | fields


def image_request(content: bytes) -> dict[str, Any]:
    return request(image_part(content), "What?")


def audio_request(content: bytes, format_name: str = "wav", **fields: Any) -> dict[str, Any]:
    return request(audio_part(content, format_name), **fields)


def image_part(content: bytes, media_type: str = "image/png") -> dict[str, Any]:
    url = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def audio_part(content: bytes, format_name: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": format_name}}


def audio_file(samples: Any, rate_hz: int, format_name: str = "wav", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=format_name, **settings)
    return buffer.getvalue()


def png_bytes(width, height) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, format="PNG")
    return buffer.getvalue()


def image_url_request(url: str):
    return request({"type": "image_url", "image_url": {"url": url}}, "What?", max_tokens=4)


BODY = request("What colour is it?", max_tokens=4)
WAV = audio_part(audio_file(tone(0.5), 16_000))
PNG = image_part(png_bytes(8, 8))


def client(running, key="none") -> OpenAI:
    return OpenAI(base_url=running.url, api_key=key, max_retries=0, timeout=TIMEOUT_SECONDS)


def complete(running, message, **others):
    return client(running).chat.completions.create(
        model="selfkd", messages=[message], temperature=0, **{"max_tokens": MAX_NEW_TOKENS} | others
    )


def post_concurrently(running, bodies):
    """Posts all bodies at once; returns (threads, list that fills with the responses, in order)."""
    responses = [None] * len(bodies)

    def post_one(i):
        responses[i] = running.post(bodies[i])

    threads = [threading.Thread(target=post_one, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    return threads, responses


def post_behind_gate(running, gate, bodies):
    """Posts one request, which blocks at the gate, then all these, which are queued behind it on return. They form a
    batch however slow the machine is, if `batch_wait_seconds` is 0. Returns as `post_concurrently`."""
    first, _ = post_concurrently(running, [BODY])
    wait_until(lambda: gate.sizes == [1])
    threads, responses = post_concurrently(running, bodies)
    wait_until(lambda: len(running.state.worker._waiting) == len(bodies))
    return first + threads, responses


def post_as_one_batch(running, gate, bodies):
    """The responses to requests that form one batch, see `post_behind_gate`."""
    threads, responses = post_behind_gate(running, gate, bodies)
    gate.set()
    for thread in threads:
        thread.join()
    return responses


def wait_until(condition):
    end = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)


def raw_connection(url, content: bytes) -> socket.socket:
    where = urlsplit(url)
    connection = socket.create_connection((where.hostname, where.port), timeout=TIMEOUT_SECONDS)
    connection.sendall(content)
    return connection


def request_head(body, length=None) -> bytes:
    count = len(json.dumps(body).encode()) if length is None else length
    fields = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {count}"
    return f"POST {CHAT} HTTP/1.1\r\n{fields}\r\n\r\n".encode()


def assert_refused(response, status, message):
    """Checks status, shape and message of an error response, and returns its headers."""
    found, headers, body = response
    assert found == status, response
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert re.search(message, body["error"]["message"]), body
    assert "Traceback" not in body["error"]["message"] and len(body["error"]["message"]) < 500
    return headers
