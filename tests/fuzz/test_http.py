"""HTTP: requests to the server with fields of other types, other fields, damaged JSON, damaged media and odd headers.

The application runs in this process, with a model, as `selfkd serve` runs it."""

import json
from typing import Any

import pytest
from examples import tone
from fuzzing import Malformed
from hypothesis import strategies as st
from malformed import as_json, damaged_bytes, edited_documents, json_values, short
from serving import CHAT, PNG, WAV, audio_file, audio_part, image_part, png_bytes, request
from starlette.testclient import TestClient

from selfkd.errors import InputError
from selfkd.serving.config import ServeConfig
from selfkd.serving.schema import NEUTRAL, ChatRequest
from selfkd.serving.server import create_app

pytestmark = pytest.mark.slow

BODIES = [
    request("What colour is it?", max_tokens=2),
    request(PNG, "What?", max_tokens=2, stream=True, stream_options={"include_usage": True}),
    request(PNG, WAV, max_tokens=2, temperature=0, n=1, stop=None),
    request("Answer.", WAV, max_completion_tokens=2, modalities=["text"]),
    request(PNG, "What?", max_tokens=2, temperature=0.7, top_p=0.9, top_k=5, seed=7, stop=["a", "\n"]),
    {
        "model": "selfkd", "max_tokens": 2, "messages": [
            {"role": "system", "content": "Be brief."},
            *request(PNG, "What is there?")["messages"],
            {"role": "assistant", "content": "A circle."},
            *request(WAV)["messages"],
        ],
    },
    {
        "model": "selfkd", "max_tokens": 2, "messages": [
            *request(PNG, "Answer this.", WAV, "Be brief.")["messages"],
            {"role": "assistant", "content": "A circle."},
            *request("And there?", PNG)["messages"],
        ],
    },
]  # fmt: skip
JSON = {"content-type": "application/json"}
HEADERS = {
    "content-type": ["", "text/plain", "application/json; charset=utf-16", "multipart/form-data", "a" * 5_000],
    "content-length": ["-1", "99999999999999999999", "abc", ""],
    "host": ["", "evil.example", "localhost:99999", "[::1]", "a" * 5_000],
    "authorization": ["Bearer", "Bearer é", "Basic Og==", "x" * 5_000], "accept-encoding": ["gzip", "*;q=0"],
    "content-encoding": ["gzip", "br"],
}  # fmt: skip
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]
PATHS = [
    CHAT, f"{CHAT}/", "/v1/models", "/v1/models/selfkd", "/v1/models/../../etc/passwd", "/health", "/", "/docs",
    "//evil.example/x", "/v1/models/%00", "/v1/models/" + "x" * 5_000, "/v1/audio/transcriptions", "/metrics",
]  # fmt: skip


@pytest.fixture(scope="module")
def client(parts):
    config = ServeConfig(max_body_bytes=2_000_000, max_pixels=1_000_000, timeout_seconds=8)
    with TestClient(create_app(config, *parts), "http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        client.follow_redirects = False
        yield client


@st.composite
def edited_requests(draw: st.DrawFn) -> Malformed:
    body, label = draw(edited_documents(draw(st.sampled_from(BODIES))))
    return Malformed(("POST", CHAT, JSON, as_json(body)), label)


@st.composite
def further_fields(draw: st.DrawFn) -> Malformed:
    """A field of OpenAI, vLLM or SGLang, or an unknown one, with any value."""
    name = draw(st.sampled_from([*NEUTRAL, *ChatRequest.model_fields, "user", "no_such", "__proto__"]))
    value = draw(json_values())
    return Malformed(("POST", CHAT, JSON, as_json(BODIES[0] | {name: value})), f"{name} = {short(value)}")


@st.composite
def damaged_requests(draw: st.DrawFn) -> Malformed:
    body, label = draw(damaged_bytes(json.dumps(draw(st.sampled_from(BODIES[:1] + BODIES[2:]))).encode()))
    return Malformed(("POST", CHAT, JSON, body), label)


@st.composite
def damaged_media(draw: st.DrawFn) -> Malformed:
    """Images and audio whose bytes, base64, or name of a format are damaged."""
    if draw(st.booleans()):
        content, label = draw(damaged_bytes(png_bytes(8, 8)))
        part = image_part(content, draw(st.sampled_from(["image/png", "image/jpeg", "text/html", "image/svg+xml", ""])))
        if draw(st.booleans()):
            url = part["image_url"]["url"]
            part["image_url"]["url"] = draw(
                st.sampled_from([url[5:], url[:-1], url + "=", url.replace("base64", "utf8")])
            )
            label += ", damaged URL"
        return Malformed(("POST", CHAT, JSON, as_json(request(part, "What?", max_tokens=2))), f"image: {label}")
    name = draw(st.sampled_from(["wav", "flac", "mp3", "ogg"]))
    content, label = draw(damaged_bytes(audio_file(tone(0.5), 16_000, name)))
    part = audio_part(content, draw(st.sampled_from([name, "wav", "mp3", "webm", "opus"])))
    return Malformed(("POST", CHAT, JSON, as_json(request(part, max_tokens=2))), f"{name}: {label}")


@st.composite
def large_requests(draw: st.DrawFn) -> Malformed:
    """Within the limit of a body, but with many parts, messages, fields or digits; or beyond it."""
    count = draw(st.sampled_from([1_000, 30_000]))
    part = {"type": "text", "text": "x"}
    bodies: dict[str, Any] = {
        "parts": request(*[part] * count),
        "wrong parts": request(*[{"type": "no"}] * count),
        "turns": {
            "model": "selfkd",
            "messages": [{"role": ["user", "assistant"][i % 2], "content": "x"} for i in range(count + 1)],
        },
        "messages": {"model": "selfkd", "messages": [{"role": "user", "content": "x"}] * count},
        "fields": request("x") | {f"f{i}": i for i in range(count)},
        "images": request(*[PNG] * (count // 100), "What?"),
        "text": request("x " * count),
        "digits": request("x", max_tokens=10 ** min(count, 4_000)),
        "base64": request({"type": "input_audio", "input_audio": {"data": "A" * 40 * count, "format": "wav"}}),
    }
    name = draw(st.sampled_from(sorted(bodies)))
    return Malformed(("POST", CHAT, JSON, as_json(bodies[name])), f"{count} {name}")


@st.composite
def odd_heads(draw: st.DrawFn) -> Malformed:
    method, path = draw(st.sampled_from(METHODS)), draw(st.sampled_from(PATHS))
    headers = dict(JSON)
    for name in draw(st.sets(st.sampled_from(sorted(HEADERS)), max_size=2)):
        headers[name] = draw(st.sampled_from(HEADERS[name]))
    return Malformed((method, path, headers, as_json(BODIES[0])), f"{method} {path[:60]} {short(headers)}")


REQUESTS = (
    edited_requests() | edited_requests() | further_fields() | damaged_requests() | damaged_media() | large_requests()
    | odd_heads()
)  # fmt: skip


def test_http(fuzzer, client):
    def send(given: tuple[str, str, dict[str, str], bytes]) -> None:
        """Raises InputError for a refusal in OpenAI's form."""
        method, path, headers, body = given
        content = {} if method in ("GET", "HEAD", "TRACE") else {"content": body}
        encoded = {name: value.encode("utf-8") for name, value in headers.items()}
        response = client.request(method, path, headers=encoded, **content)
        if response.status_code < 300:
            return check_response(response)
        assert 400 <= response.status_code < 500, f"status {response.status_code}: {response.text[:200]}"
        if method == "HEAD":
            raise InputError(f"status {response.status_code}")
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and set(response.json()) == {"error"}
        assert len(response.text) < 2_000 and "Traceback" not in response.text
        raise InputError(error["message"])

    def check_response(response: Any) -> None:
        if response.headers["content-type"].startswith("text/event-stream"):
            events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
            assert events[-1] == "[DONE]" and all("error" not in json.loads(event) for event in events[:-1])
        elif response.content and response.request.method == "POST":
            assert response.json()["choices"][0]["finish_reason"] in ("stop", "length")

    for body in BODIES:
        send(("POST", CHAT, JSON, as_json(body)))  # what is damaged above is accepted
    fuzzer.run("HTTP", REQUESTS, send, examples=150)
    assert client.get("/health").json() == {"status": "ok"}
