"""A served model for tests: in a thread, where tests reach into it, or in a process, whose memory is its own."""

import base64
import http.client
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import soundfile
import uvicorn
from examples import tone
from openai import OpenAI
from PIL import Image

from selfkd.evaluation.backends.local import MAX_NEW_TOKENS
from selfkd.serving.config import ServeConfig
from selfkd.serving.server import create_app
from selfkd.serving.state import ServerState

CHAT = "/v1/chat/completions"
PATIENCE = 120  # seconds, of whatever is waited for: a machine busy with others is slow, not wrong


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
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
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
def served_by_process(model_folder, port: int, **settings):
    """Yields (base URL, process)."""
    code = (
        "import json, sys, torch; from selfkd.serving.server import serve; "
        "from selfkd.serving.config import ServeConfig; "
        "torch.set_num_threads(1); serve(ServeConfig(**json.loads(sys.argv[1])))"
    )
    config = {"model": str(model_folder), "port": port} | settings
    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(config)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        log: list[str] = []
        threading.Thread(target=lambda: log.extend(process.stderr), daemon=True).start()
        try:
            for _ in range(10 * PATIENCE):
                if process.poll() is not None:
                    raise AssertionError("".join(log))
                try:
                    if get(f"http://127.0.0.1:{port}", "/health")[0] == 200:
                        break
                except OSError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1", SimpleNamespace(pid=process.pid, log=log)
        finally:
            process.terminate()
            process.wait()


def post(url: str, body: Any, path: str = CHAT, key: str = "", **headers: str):
    """(status, headers, JSON) of a request; `body` is bytes, an iterator of bytes (sent in chunks), or JSON."""
    content = json.dumps(body).encode() if isinstance(body, dict | list) else body
    sent = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    return _ask(url, "POST", path, content, sent | {k.replace("_", "-"): v for k, v in headers.items()})


def get(url: str, path: str, key: str = ""):
    return _ask(url, "GET", path, None, {"Authorization": f"Bearer {key}"} if key else {})


def _ask(url: str, method: str, path: str, content: Any, headers: dict[str, str]):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    try:
        connection.request(method, path, content, headers, encode_chunked=not isinstance(content, bytes | None))
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read())
    finally:
        connection.close()


def request(*parts: Any, **fields: Any) -> dict[str, Any]:
    """A body that asks these parts; a string stands for its text part."""
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"model": "selfkd", "messages": [{"role": "user", "content": content}]} | fields


def image_of(content: bytes, media_type: str = "image/png") -> dict[str, Any]:
    url = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def sound_of(content: bytes, format_name: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": format_name}}


def encoded(samples: Any, rate_hz: int, format_name: str = "wav", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=format_name, **settings)
    return buffer.getvalue()


def png(width, height) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, format="PNG")
    return buffer.getvalue()


def of(url: str):
    return request({"type": "image_url", "image_url": {"url": url}}, "What?", max_tokens=4)


ASK = request("What colour is it?", max_tokens=4)
WAV = sound_of(encoded(tone(0.5), 16_000))
PNG = image_of(png(8, 8))


def client(running, key="none") -> OpenAI:
    return OpenAI(base_url=running.url, api_key=key, max_retries=0, timeout=PATIENCE)


def ask(running, message, **others):
    return client(running).chat.completions.create(
        model="selfkd", messages=[message], temperature=0, **{"max_tokens": MAX_NEW_TOKENS} | others
    )


def together(running, bodies):
    """Asks them all at once; (threads, what came back, in order)."""
    found = [None] * len(bodies)

    def one(i):
        found[i] = running.post(bodies[i])

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    return threads, found


def lined_up(running, gate, bodies):
    """Asks one question, which waits at the gate, and then all these, which stand in line behind it when this comes
    back: so they are a batch, however slow the machine is. Without a wait for a batch; as `together`."""
    first, _ = together(running, [ASK])
    until(lambda: gate.sizes == [1])
    threads, found = together(running, bodies)
    until(lambda: len(running.state.worker._waiting) == len(bodies))
    return first + threads, found


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def raw(url, content: bytes) -> socket.socket:
    where = urlsplit(url)
    connection = socket.create_connection((where.hostname, where.port), timeout=PATIENCE)
    connection.sendall(content)
    return connection


def head(body, length=None) -> bytes:
    count = len(json.dumps(body).encode()) if length is None else length
    fields = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {count}"
    return f"POST {CHAT} HTTP/1.1\r\n{fields}\r\n\r\n".encode()


def refused(answered, status, words):
    """Checks the shape of a refusal, and returns its headers."""
    found, headers, body = answered
    assert found == status, answered
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert re.search(words, body["error"]["message"]), body
    assert "Traceback" not in body["error"]["message"] and len(body["error"]["message"]) < 500
    return headers
