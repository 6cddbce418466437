"""A local server with the OpenAI chat protocol that fails on demand.

Its response names the image and the audio (or text) that came together in the request, so a wrong pairing shows. Its
failures are scripted for each such pair: a list of behaviours, one for each request about it, then "ok".
"""

import base64
import gzip
import hashlib
import io
import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import soundfile

LONG_TEXT = "and so on " * 20_000
HUGE = b'{"choices": []' + b" " * 40_000_000 + b"}"  # 40 kB as gzip
USAGE = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}


def pair_of(image: bytes, question: bytes) -> str:
    """Names an image (b"" where there is none) and the query about it: audio samples, or text in UTF-8."""
    return hashlib.blake2b(hashlib.sha1(image).digest() + question, digest_size=6).hexdigest()


@dataclass
class Request:
    body: dict[str, Any]
    headers: dict[str, str]
    pair: str
    seconds: float  # monotonic, at arrival
    path: str = ""

    @property
    def parts(self) -> list[dict[str, Any]]:
        return self.body["messages"][-1]["content"]

    @property
    def texts(self) -> list[str]:
        return [p["text"] for p in self.parts if p["type"] == "text"]


def read_parts(parts: list[dict[str, Any]]) -> tuple[bytes, bytes]:
    """(the image's file, the audio samples or else the longest text)."""
    image, audio_clip, texts = b"", b"", []
    for part in parts:
        if part["type"] == "image_url":
            image = base64.b64decode(part["image_url"]["url"].partition(";base64,")[2], validate=True)
        elif part["type"] == "input_audio":
            assert part["input_audio"]["format"] == "wav"
            wav = base64.b64decode(part["input_audio"]["data"], validate=True)
            samples, rate_hz = soundfile.read(io.BytesIO(wav), dtype="int16")
            assert rate_hz == 16_000 and samples.ndim == 1 and wav[:4] == b"RIFF"
            audio_clip = samples.tobytes()
        else:
            texts.append(part["text"])
    return image, audio_clip or max(texts, key=len).encode()


def body_of(message: dict[str, Any], finish: str = "stop", **others: Any) -> bytes:
    choices = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}]
    body = {"id": "chat-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    return json.dumps(body | {"usage": USAGE} | others).encode()


# bodies with status 200, from the text of a correct response
BODIES: dict[str, Callable[[str], bytes]] = {
    "ok": lambda text: body_of({"content": text}),
    "html": lambda text: b"<!doctype html><html><body>Bad gateway, but 200</body></html>",
    "half": lambda text: body_of({"content": text})[:60],
    "list": lambda text: b"[1, 2]",
    "empty": lambda text: b"",
    "no choices": lambda text: json.dumps({"choices": [], "usage": USAGE}).encode(),
    "error inside": lambda text: b'{"error": {"message": "the model behind me fell over", "code": 502}}',
    "null": lambda text: body_of({"content": None}),
    "no message": lambda text: b'{"choices": [{"index": 0, "finish_reason": "stop"}]}',
    "number": lambda text: body_of({"content": 7}),
    "filter": lambda text: body_of({"content": ""}, "content_filter"),
    "thinks": lambda text: body_of({"content": f"<think>Is it no? Or A?</think>\n\n{text}"}),
    "thinks apart": lambda text: body_of({"content": text, "reasoning_content": "Is it no? Or A?"}),
    "thinks too long": lambda text: body_of({"content": "", "reasoning_content": "Is it no?"}, "length"),
    "at the limit": lambda text: body_of({"content": "To answer this, no"}, "length"),
    "aborted": lambda text: body_of({"content": text}, "abort"),
    "no audio": lambda text: body_of({"content": "I'm sorry, but there is no audio in your message."}),
    "silence": lambda text: body_of({"content": ""}),
    "refusal": lambda text: body_of({"content": None, "refusal": "I cannot help with that."}),
    "parts": lambda text: body_of(
        {"content": [{"type": "text", "text": text[:3]}, {"type": "text", "text": text[3:]}]}
    ),
    "bytes": lambda text: body_of({"content": f"{text} caf#"}).replace(b"#", b"\xe9"),
    "surrogate": lambda text: body_of({"content": f"{text} \ud83d and \ud83d\ude00"}),
    "endless": lambda text: body_of({"content": text + LONG_TEXT}, "length"),
    "no usage": lambda text: body_of({"content": text}, usage=None),
    "odd usage": lambda text: body_of({"content": text}, usage={"prompt_tokens": "many", "completion_tokens": None}),
}

ENCODED: dict[str, Callable[[bytes], tuple[str, bytes]]] = {  # a body's encoding, by the name of the behaviour
    "gzip": lambda body: ("gzip", gzip.compress(body)),
    "cut gzip": lambda body: ("gzip", gzip.compress(body)[:-12]),
    "no gzip": lambda body: ("gzip", body),
    "huge gzip": lambda body: ("gzip", gzip.compress(HUGE)),
    "huge": lambda body: ("identity", HUGE),
    "gzip twice": lambda body: ("gzip, gzip", gzip.compress(gzip.compress(HUGE))),
    "unknown encoding": lambda body: ("br", body),
}


@dataclass
class ChatServer:
    """`script[pair]` lists the behaviours for requests about a pair, in turn; `always` is the one for all others."""

    url: str = ""
    script: dict[str, list[str]] = field(default_factory=dict)
    always: str = "ok"
    delay_seconds: Callable[[], float] = lambda: 0.0
    prediction: Callable[[Request], str] = lambda request: request.pair
    requests: list[Request] = field(default_factory=list)
    max_at_once: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    at_once: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive, as real servers
    chat: ChatServer

    def do_POST(self):
        chat = self.chat
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path.partition("?")[0] == "/v1/chat/completions", self.path
        content = body["messages"][-1]["content"]
        pair = pair_of(*read_parts(content)) if isinstance(content, list) else content
        request = Request(body, {k.lower(): v for k, v in self.headers.items()}, pair, time.monotonic(), self.path)
        with chat.lock:
            chat.requests.append(request)
            left = chat.script.get(pair)
            behaviour = left.pop(0) if left else "ok" if left is not None else chat.always
            chat.at_once += 1
            chat.max_at_once = max(chat.max_at_once, chat.at_once)
        try:
            time.sleep(chat.delay_seconds())
        finally:
            with chat.lock:
                chat.at_once -= 1
        with suppress(BrokenPipeError, ConnectionResetError):
            self._behave(behaviour, request)

    def _behave(self, behaviour: str, request: Request) -> None:
        """`behaviour`: a name of BODIES or ENCODED, "redirect", "hang", "drip", "cut", or "429" or "429 after 0.3"
        (Retry-After, seconds)."""
        if behaviour in BODIES:
            headers = {"Content-Type": "text/html"} if behaviour == "html" else {}
            self._send(200, BODIES[behaviour](self.chat.prediction(request)), headers)
        elif behaviour in ENCODED:
            encoding, content = ENCODED[behaviour](BODIES["ok"](self.chat.prediction(request)))
            self._send(200, content, {"Content-Encoding": encoding})
        elif behaviour == "redirect":  # the body of a redirect is read too
            self._send(307, gzip.compress(HUGE), {"Content-Encoding": "gzip", "Location": self.path})
        elif behaviour == "hang":
            self.chat.closing.wait()
            self.close_connection = True
        elif behaviour in ("cut", "drip"):
            content = BODIES["ok"](self.chat.prediction(request))
            self._head(200, len(content), {})
            self.wfile.write(content[:20])
            for byte in content[20:] if behaviour == "drip" else b"":
                if self.chat.closing.wait(0.1):
                    break
                self.wfile.write(bytes([byte]))
            self.close_connection = True
        else:
            status, _, after = behaviour.partition(" after ")
            message = f"status {status} on demand, {self.headers.get('Authorization')}"
            content = json.dumps({"error": {"message": message}}).encode()
            self._send(int(status), content, {"Retry-After": after} if after else {})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(content), headers)
        self.wfile.write(content)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(length)} | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False  # threads that hang do not block

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # a client that has closed its connection is no error
            super().handle_error(request, client_address)


@contextmanager
def chat_server():
    chat = ChatServer()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"chat": chat}))
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield chat
    finally:
        chat.closing.set()
        server.shutdown()
        server.server_close()
