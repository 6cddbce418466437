"""What the server refuses: always with a status of the client's, a reason and no traceback, and it lives on."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import ASK, CHAT, PNG, WAV, get, image_of, of, png, post, refused, request, served, sound_of, until

from selfkd.serving import remote_images as remote

# what is refused


USER = {"role": "user", "content": "What?"}
REFUSED = {
    "no JSON": (b"{", 400, "JSON"),
    "empty": (b"", 400, "JSON"),
    "list": ([], 400, "object"),
    "deep": (b"[" * 100_000, 400, "JSON|recursion"),
    "no UTF-8": (b'{"model": "\xff"}', 400, "JSON|invalid"),
    "half a surrogate": (json.dumps(request("\ud83d")).encode(), 400, "JSON|surr"),
    "no model": ({"messages": [USER]}, 400, "model: Field required"),
    "other model": (ASK | {"model": "gpt-4o"}, 404, "no model 'gpt-4o', this one is 'selfkd'"),
    "no messages": (ASK | {"messages": []}, 400, "one message"),
    "system": (ASK | {"messages": [{"role": "system", "content": "Be brief."}, USER]}, 400, "no system message"),
    "earlier turns": (ASK | {"messages": [USER, {"role": "assistant"}, USER]}, 400, "no earlier turns"),
    "no content": (ASK | {"messages": [{"role": "user"}]}, 400, "content: Field required"),
    "nothing asked": (request(PNG, " "), 400, "asks nothing"),
    "no parts": (request(), 400, "asks nothing"),
    "unknown part": (request({"type": "file", "file": {}}), 400, "'file' found"),
    "two pictures": (request(PNG, PNG, "What?"), 400, "one part of type image_url"),
    "two sounds": (request(WAV, WAV), 400, "one part of type input_audio"),
    "no data URL": (of("file:///etc/passwd"), 400, "expected data"),
    "remote": (of("HTTPS://x.org/a.png"), 400, "not fetched here"),
    "no base64": (of("data:image/png;base64,§§"), 400, "base64"),
    "no picture": (request(image_of(b"GIF89a nonsense"), "?"), 400, "not a readable picture"),
    "an SVG": (request(image_of(b"<svg/>"), "?"), 400, "not a readable picture"),
    "sound as wma": (request(sound_of(b"OggS", "wma")), 400, "format: Input should be 'wav', 'flac', 'mp3', 'ogg'"),
    "sound as opus": (request(sound_of(b"OggS", "opus")), 400, "not readable sound"),
    "sound of no bytes": (request(sound_of(b"")), 400, "no bytes"),
    "temperature": (ASK | {"temperature": 0.7}, 400, "greedy"),
    "n": (ASK | {"n": 2}, 400, "one reply"),
    "stop": (ASK | {"stop": ["\n"]}, 400, "stop: is not offered"),
    "tools": (ASK | {"tools": [{"type": "function"}]}, 400, "tools: is not offered"),
    "JSON wanted": (ASK | {"response_format": {"type": "json_object"}}, 400, "response_format"),
    "speech wanted": (ASK | {"modalities": ["text", "audio"]}, 400, "modalities"),
    "no tokens": (ASK | {"max_tokens": 0}, 400, "max_tokens: .*greater"),
    "tokens in letters": (ASK | {"max_tokens": "7"}, 400, "max_tokens: .*integer"),
    "stream in letters": (ASK | {"stream": "yes"}, 400, "stream: .*bool"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(server, name):
    body, status, words = REFUSED[name]
    refused(server.post(body), status, words)


def test_other_paths_methods_and_types(server):
    refused(post(server.url, ASK, path="/v1/completions"), 404, "Not Found")
    refused(get(server.url, CHAT), 405, "Method Not Allowed")
    refused(get(server.url, "/docs"), 404, "Not Found")
    refused(server.post(ASK, Content_Type="text/plain"), 415, "application/json")


def test_a_name_that_leads_here_from_elsewhere_is_not_this_machines(server):
    """What a page makes of its own name, once that leads to 127.0.0.1; without a key it would be let in."""
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::ffff:7f00:1"):
        refused(server.post(ASK, Host=host), 403, "Host: .*this machine's own names")
    assert [server.post(ASK, Host=host)[0] for host in ("localhost", "LOCALHOST:1", "[::1]:8000")] == [200] * 3


@pytest.fixture(scope="module")
def alive_after(server):
    yield
    assert server.post(ASK)[0] == 200 and get(server.url, "/health")[0] == 200
    until(lambda: server.state.inside == 0)  # a client may read the last byte before the server has let the request go


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def malformed(draw) -> bytes:
    """A good request that is cut, or that has one of its values, at any depth, made another."""
    body = json.loads(json.dumps(request(PNG, "What?", WAV, stream=False, max_tokens=3)))
    how = draw(st.sampled_from(["value", "value", "value", "cut", "bytes", "any"]))
    if how == "any":
        return json.dumps(draw(JSON)).encode()
    if how == "value":
        holder, key = draw(st.sampled_from(list(positions(body))))
        holder[key] = draw(JSON)
        return json.dumps(body).encode()
    content = bytearray(json.dumps(body).encode())
    if how == "cut":
        return bytes(content[: draw(st.integers(0, len(content) - 1))])
    for place in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
        content[place] = draw(st.integers(0, 255))
    return bytes(content)


def positions(value):
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from positions(value[key])


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(body=malformed())
def test_malformed_bodies(server, alive_after, body):
    """Always a refusal with a reason, or an answer where what came is a request after all; never 500."""
    answered = server.post(body)
    if answered[0] != 200:
        assert answered[0] in (400, 404)
        refused(answered, answered[0], ".")


# remote pictures


@pytest.mark.parametrize("address", [
    "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "224.0.0.1", "100.64.0.1", "::ffff:10.0.0.1",
    "64:ff9b::a00:1", "2002:a00:1::", "::127.0.0.1",  # NAT64, 6to4 and the old form of 10.0.0.1 and this machine
])  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not remote.is_public(address)
    assert remote.is_public("8.8.8.8") and remote.is_public("2606:4700::1111") and remote.is_public("64:ff9b::808:808")


@pytest.fixture
def elsewhere():
    """A server of pictures on this machine; `asked` are the paths."""

    class Handler(BaseHTTPRequestHandler):
        asked: ClassVar[list[str]] = []

        def do_GET(self):
            self.asked.append(self.path)
            content = png(8, 8) if self.path == "/a.png" else bytes(50_000)
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

    there = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there.handle_error = lambda *_: None
    threading.Thread(target=there.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{there.server_port}", Handler.asked
    there.shutdown()
    there.server_close()


def test_remote_pictures(parts, server, elsewhere, monkeypatch):
    url, asked = elsewhere
    refused(server.post(of(f"{url}/a.png")), 400, "remote pictures are not fetched here")
    with served(parts, remote_images=True, max_body_bytes=20_000) as running:
        # by another name, and in other notations, it is this machine still
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"):
            port = urlsplit(url).port
            refused(running.post(of(f"http://{host}:{port}/a.png")), 400, "no public address|not fetched")
        for odd in ("http://", "http://x:99999/", "http://[/", "http://a b/", "http://127.0.0.1:9/\r\nX: y"):
            refused(running.post(of(odd)), 400, "not fetched")
        assert asked == []
        monkeypatch.setattr(remote, "is_public", lambda address: True)
        assert running.post(of(f"{url}/a.png"))[2]["choices"] == running.post(of(PNG["image_url"]["url"]))[2]["choices"]
        refused(running.post(of(f"{url}/large")), 400, "over 20000 bytes")
        refused(running.post(of(f"{url}/moved")), 400, "status 302")
        monkeypatch.setattr("selfkd.serving.state.fetch", lambda u, most: remote.fetch(u, most, 1.0))
        started = time.monotonic()
        refused(running.post(of(f"{url}/slow")), 400, "not fetched: no whole picture within 1 s")
        assert time.monotonic() - started < 15  # of 20
