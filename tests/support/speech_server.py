"""A local server with OpenAI's speech interface that fails on demand: a behaviour for each request about a text."""

import io
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import soundfile
from examples import tone


def wav(text: str) -> bytes:
    """Audio of a plausible length that depends on the text only."""
    buffer = io.BytesIO()
    samples = tone(0.5 + 0.06 * len(text), 200 + sum(text.encode()) % 100)
    soundfile.write(buffer, np.repeat(samples, 2), 32_000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


@dataclass
class SpeechServer:
    """`script[text]` lists the behaviours for requests about a text, in turn, then "ok": an HTTP status, "429 after
    0.3" (Retry-After, seconds), "noise" (no audio), "cut" (half of the file), "drop" (no response)."""

    url: str = ""
    script: dict[str, list[str]] = field(default_factory=dict)
    always: str = "ok"
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    speech: SpeechServer

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/audio/speech", self.path
        with self.speech.lock:
            self.speech.requests.append(body)
            self.speech.keys.add(self.headers["Authorization"])
            left = self.speech.script.get(body["input"])
            behaviour = left.pop(0) if left else self.speech.always
        content = wav(body["input"])
        if behaviour == "drop":
            self.close_connection = True
        elif behaviour in ("ok", "noise", "cut"):
            content = {"ok": content, "noise": b"no audio at all", "cut": content[: len(content) // 2]}[behaviour]
            self._send(200, content, "")
        else:
            status, _, after = behaviour.partition(" after ")
            # servers repeat the key in their messages
            message = f"status {status} for {self.headers['Authorization']}"
            self._send(int(status), json.dumps({"error": {"message": message}}).encode(), after)

    def _send(self, status: int, content: bytes, after: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if after:
            self.send_header("Retry-After", after)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def speech_server():
    speech = SpeechServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"speech": speech}))
    speech.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield speech
    finally:
        server.shutdown()
        server.server_close()
