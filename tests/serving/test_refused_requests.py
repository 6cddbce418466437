"""Refused requests: always a 4xx status, a reason and no traceback, and the server keeps running."""

import json
import threading
import time
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import (
    BODY,
    CHAT,
    PNG,
    WAV,
    assert_refused,
    audio_part,
    get,
    image_part,
    image_url_request,
    png_bytes,
    post,
    request,
    served,
    wait_until,
)

from selfkd.serving import remote_images
from selfkd.serving.remote_images import fetch, is_public
from selfkd.serving.schema import RefusedError

USER = {"role": "user", "content": "What?"}
SYSTEM, ASSISTANT = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "A circle."}


def chat(*messages):
    return {"model": "selfkd", "messages": list(messages), "max_tokens": 4}


def user(*parts):
    return request(*parts)["messages"][0]


BAD, BAD_WAV = image_part(b"GIF89a nonsense"), audio_part(b"nonsense")
REMOTE = {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}
REFUSED = {
    "no JSON": (b"{", 400, "JSON"),
    "empty": (b"", 400, "JSON"),
    "list": ([], 400, "object"),
    "deep": (b"[" * 100_000, 400, "JSON|recursion"),
    "no UTF-8": (b'{"model": "\xff"}', 400, "JSON|invalid"),
    "half a surrogate": (json.dumps(request("\ud83d")).encode(), 400, "JSON|surr"),
    "no model": ({"messages": [USER]}, 400, "model: Field required"),
    "other model": (BODY | {"model": "gpt-4o"}, 404, "'gpt-4o' does not exist; this server has 'selfkd'"),
    "no messages": (BODY | {"messages": []}, 400, "messages: .*at least 1 item"),
    "messages as text": (BODY | {"messages": "What?"}, 400, "messages: .*valid array"),
    "too many messages": (chat(*[USER, ASSISTANT] * 64, USER), 400, "messages: .*at most 128 items"),
    "a tool": (chat(USER, {"role": "tool", "content": "7"}, USER), 400, "messages.1.role: Input should be 'system'"),
    "two system messages": (chat(SYSTEM, SYSTEM, USER), 400, "messages.1.role: system instead of user: one system"),
    "system in between": (chat(USER, SYSTEM, USER), 400, "messages.1.role: system instead of assistant"),
    "two user messages": (chat(USER, USER), 400, "messages.1.role: user instead of assistant"),
    "assistant first": (chat(ASSISTANT, USER), 400, "messages.0.role: assistant instead of user"),
    "assistant last": (chat(USER, ASSISTANT), 400, "messages.1.role: the last message must be a user's"),
    "system only": (chat(SYSTEM), 400, "messages.0.role: the last message must be a user's"),
    "empty system": (chat({"role": "system", "content": ""}, USER), 400, "messages.0.content: empty"),
    "image in system": (chat({"role": "system", "content": [PNG]}, USER), 400, "messages.0.content: .*system has"),
    "assistant's audio": (chat(USER, {"role": "assistant", "content": [WAV]}, USER), 400, "messages.1.content: .*text"),
    "assistant without content": (chat(USER, {"role": "assistant"}, USER), 400, "messages.1.content: Field required"),
    "earlier turn without query": (chat(user(PNG), ASSISTANT, USER), 400, "messages.0.content: no query"),
    "last turn without query": (chat(USER, ASSISTANT, user(" ")), 400, "messages.2.content: no query"),
    "two clips in an earlier turn": (chat(SYSTEM, user(WAV, WAV), ASSISTANT, USER), 400, "messages.1.content: at most"),
    "two images in a later turn": (chat(USER, ASSISTANT, user(PNG, PNG, "?")), 400, "messages.2.content: at most one"),
    "assistant's image": (chat(USER, {"role": "assistant", "content": [PNG]}, USER), 400, "messages.1.content: .*text"),
    "bad earlier clip": (chat(user("?", BAD_WAV), ASSISTANT, USER), 400, "^messages.0.content.1.input_audio: .*a wav"),
    "bad later image": (chat(USER, ASSISTANT, user(BAD, "?")), 400, "^messages.2.content.0.image_url: not a readable"),
    "remote later": (chat(USER, ASSISTANT, user(REMOTE, "?")), 400, "^messages.2.content.0.image_url: .*not fetched"),
    "tool calls": (chat(USER, ASSISTANT | {"tool_calls": [{}]}, USER), 400, "messages.1.tool_calls: this value"),
    "no content": (BODY | {"messages": [{"role": "user"}]}, 400, "content: Field required"),
    "no query": (request(PNG, " "), 400, "no query"),
    "no parts": (request(), 400, "no query"),
    "unknown part": (request({"type": "file", "file": {}}), 400, "'file' found"),
    "two images": (request(PNG, PNG, "What?"), 400, "at most one part of type image_url"),
    "two audio parts": (request(WAV, WAV), 400, "at most one part of type input_audio"),
    "no data URL": (image_url_request("file:///etc/passwd"), 400, "expected data"),
    "remote": (image_url_request("HTTPS://x.org/a.png"), 400, "not fetched here"),
    "no base64": (image_url_request("data:image/png;base64,§§"), 400, "base64"),
    "not an image": (request(image_part(b"GIF89a nonsense"), "?"), 400, "not a readable"),
    "an SVG": (request(image_part(b"<svg/>"), "?"), 400, "not a readable"),
    "wma": (request(audio_part(b"OggS", "wma")), 400, "format: Input should be 'wav', 'flac', 'mp3', 'ogg'"),
    "invalid opus": (request(audio_part(b"OggS", "opus")), 400, "not readable"),
    "audio without bytes": (request(audio_part(b"")), 400, "no bytes"),
    "negative temperature": (BODY | {"temperature": -0.1}, 400, "temperature: .*greater than or equal to 0"),
    "high temperature": (BODY | {"temperature": 2.1}, 400, "temperature: .*less than or equal to 2"),
    "temperature NaN": (BODY | {"temperature": float("nan")}, 400, "temperature: .*finite"),
    "temperature as text": (BODY | {"temperature": "1"}, 400, "temperature: .*number"),
    "temperature as boolean": (BODY | {"temperature": True}, 400, "temperature: .*number"),
    "top_p 0": (BODY | {"temperature": 1, "top_p": 0}, 400, "top_p: .*greater than 0"),
    "top_p over 1": (BODY | {"temperature": 1, "top_p": 1.5}, 400, "top_p: .*less than or equal to 1"),
    "top_p without temperature": (BODY | {"top_p": 0.5}, 400, "top_p: has no effect without a temperature"),
    "top_k -2": (BODY | {"temperature": 1, "top_k": -2}, 400, "top_k: .*greater than or equal to -1"),
    "top_k without temperature": (BODY | {"top_k": 5}, 400, "top_k: has no effect without a temperature"),
    "top_k of half a token": (BODY | {"temperature": 1, "top_k": 1.5}, 400, "top_k: .*integer"),
    "seed as text": (BODY | {"seed": "7"}, 400, "seed: .*integer"),
    "seed of 64 bits": (BODY | {"seed": 2**63}, 400, "seed: .*less than"),
    "n": (BODY | {"n": 2}, 400, "one response"),
    "five stops": (BODY | {"stop": list("abcde")}, 400, "stop: .*at most 4 items"),
    "empty stop": (BODY | {"stop": ["a", ""]}, 400, "stop.1: .*at least 1 character"),
    "long stop": (BODY | {"stop": "a" * 1001}, 400, "stop.0: .*at most 1000 characters"),
    "stop as number": (BODY | {"stop": 7}, 400, "stop: .*valid array"),
    "tools": (BODY | {"tools": [{"type": "function"}]}, 400, "tools: this value is not supported"),
    "JSON response format": (BODY | {"response_format": {"type": "json_object"}}, 400, "response_format"),
    "audio response": (BODY | {"modalities": ["text", "audio"]}, 400, "modalities"),
    "max_tokens 0": (BODY | {"max_tokens": 0}, 400, "max_tokens: .*greater"),
    "max_tokens as text": (BODY | {"max_tokens": "7"}, 400, "max_tokens: .*integer"),
    "stream as text": (BODY | {"stream": "yes"}, 400, "stream: .*bool"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_request_is_refused(server, name):
    body, status, message = REFUSED[name]
    assert_refused(server.post(body), status, message)


def test_other_paths_methods_and_content_types(server):
    assert_refused(post(server.url, BODY, path="/v1/completions"), 404, "Not Found")
    assert_refused(get(server.url, CHAT), 405, "Method Not Allowed")
    assert_refused(get(server.url, "/docs"), 404, "Not Found")
    assert_refused(server.post(BODY, Content_Type="text/plain"), 415, "application/json")


def test_host_header_of_another_site_is_refused(server):
    """DNS rebinding: the name of another site that resolves to 127.0.0.1."""
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::ffff:7f00:1"):
        assert_refused(server.post(BODY, Host=host), 403, "Host: .*only loopback names are served")
    assert [server.post(BODY, Host=host)[0] for host in ("localhost", "LOCALHOST:1", "[::1]:8000")] == [200] * 3


@pytest.fixture(scope="module")
def alive_afterwards(server):
    yield
    assert server.post(BODY)[0] == 200 and get(server.url, "/health")[0] == 200
    wait_until(lambda: server.state.num_active == 0)  # finishes after the last byte


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def malformed(draw) -> bytes:
    """A valid request that is truncated, or has other bytes or one other value at any depth."""
    body = json.loads(json.dumps(request(PNG, "What?", WAV, stream=False, max_tokens=3)))
    change = draw(st.sampled_from(["value", "value", "value", "cut", "bytes", "any"]))
    if change == "any":
        return json.dumps(draw(JSON)).encode()
    if change == "value":
        holder, key = draw(st.sampled_from(list(slots(body))))
        holder[key] = draw(JSON)
        return json.dumps(body).encode()
    content = bytearray(json.dumps(body).encode())
    if change == "cut":
        return bytes(content[: draw(st.integers(0, len(content) - 1))])
    for position in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
        content[position] = draw(st.integers(0, 255))
    return bytes(content)


def slots(value):
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from slots(value[key])


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(body=malformed())
def test_malformed_bodies_never_cause_a_server_error(server, alive_afterwards, body):
    """A refusal with a reason, or 200 if the body is a valid request after all; never 500."""
    response = server.post(body)
    if response[0] != 200:
        assert response[0] in (400, 404)
        assert_refused(response, response[0], ".")


# remote images


@pytest.mark.parametrize("address", [
    "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "224.0.0.1", "100.64.0.1", "::ffff:10.0.0.1",
    "64:ff9b::a00:1", "2002:a00:1::", "::127.0.0.1",  # NAT64, 6to4 and IPv4-compatible
])  # fmt: skip
def test_is_public(address):
    assert not is_public(address)
    assert is_public("8.8.8.8") and is_public("2606:4700::1111") and is_public("64:ff9b::808:808")


@pytest.fixture
def image_server():
    """An HTTP server of images on this machine, and the list of requested paths."""

    class Handler(BaseHTTPRequestHandler):
        paths: ClassVar[list[str]] = []

        def do_GET(self):
            self.paths.append(self.path)
            content = png_bytes(8, 8) if self.path == "/a.png" else bytes(50_000)
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/a.png")
            self.end_headers()
            if self.path == "/slow":
                for _ in range(400):
                    time.sleep(0.05)
                    self.wfile.write(b"x")
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    remote_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    remote_server.handle_error = lambda *_: None
    threading.Thread(target=remote_server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{remote_server.server_port}", Handler.paths
    remote_server.shutdown()
    remote_server.server_close()


def test_remote_images(parts, server, image_server, monkeypatch):
    url, paths = image_server
    assert_refused(server.post(image_url_request(f"{url}/a.png")), 400, "remote images are not fetched here")
    with served(parts, remote_images=True, max_body_bytes=20_000) as running:
        # other names and notations of this machine
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"):
            port = urlsplit(url).port
            assert_refused(
                running.post(image_url_request(f"http://{host}:{port}/a.png")), 400, "not a public address|not fetched"
            )
        for odd in ("http://", "http://x:99999/", "http://[/", "http://a b/", "http://127.0.0.1:9/\r\nX: y"):
            assert_refused(running.post(image_url_request(odd)), 400, "not fetched")
        assert paths == []
        monkeypatch.setattr(remote_images, "is_public", lambda address: True)
        fetched, sent = (running.post(image_url_request(u)) for u in (f"{url}/a.png", PNG["image_url"]["url"]))
        assert fetched[2]["choices"] == sent[2]["choices"]
        part = {"type": "image_url", "image_url": {"url": f"{url}/a.png"}}
        fetched, sent = (running.post(chat(user(one, "?"), ASSISTANT, user(one, "?"))) for one in (part, PNG))
        assert fetched[0] == 200 and fetched[2]["choices"] == sent[2]["choices"]
        assert fetched[2]["usage"] == sent[2]["usage"]
        large = part | {"image_url": {"url": f"{url}/large"}}
        refused = running.post(chat(user(part, "?"), ASSISTANT, user("Or:", large)))
        left = 20_000 - len(png_bytes(8, 8))  # of the limit for all images together
        assert_refused(refused, 400, f"^messages.2.content.1.image_url: not fetched: over {left} bytes")
        assert_refused(running.post(image_url_request(f"{url}/large")), 400, "over 20000 bytes")
        assert_refused(running.post(image_url_request(f"{url}/moved")), 400, "status 302")
        monkeypatch.setattr("selfkd.serving.state.fetch", lambda url, max_bytes: fetch(url, max_bytes, 0.5))
        started = time.monotonic()
        slow = running.post(image_url_request(f"{url}/slow"))
        assert_refused(slow, 400, "not fetched: no complete image within 0.5 s")
        assert time.monotonic() - started < 15  # of 20


@pytest.mark.parametrize("end", [ConnectionResetError("reset by peer"), IncompleteRead(b"half")])
def test_a_remote_image_that_takes_too_long_is_late_however_its_connection_ends(image_server, monkeypatch, end):
    def read_too_long(response, max_bytes):
        time.sleep(0.3)
        raise end

    monkeypatch.setattr(remote_images, "is_public", lambda address: True)
    monkeypatch.setattr(remote_images, "_read_body", read_too_long)
    for max_seconds, message in ((0.2, "no complete image within 0.2 s"), (5.0, "reset by peer|IncompleteRead")):
        with pytest.raises(RefusedError, match=message):
            fetch(f"{image_server[0]}/a.png", 20_000, max_seconds)
