"""Limits and access checks of the server: no client can harm another by what it sends, or does not send."""

import json
import resource
import socket
import struct
import sys
import threading
import time
import zlib
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from examples import png_chunk, tone
from openai import APIError
from serving import (
    BODY,
    assert_refused,
    audio_file,
    audio_part,
    audio_request,
    client,
    complete,
    get,
    image_request,
    png_bytes,
    post_concurrently,
    raw_connection,
    request,
    request_head,
    served,
    wait_until,
)

from selfkd.errors import InputError
from selfkd.serving.config import KEY_VARIABLE, ServeConfig, is_loopback
from selfkd.serving.connections import reserve_descriptors
from selfkd.serving.serve import serve

# limits


def test_max_body_bytes(parts):
    with served(parts, max_body_bytes=10_000) as running:
        assert_refused(running.post(request("x" * 20_000)), 413, "longer than 10000 bytes")
        assert_refused(running.post(iter([b"x" * 3_000] * 7)), 413, "longer than 10000 bytes")  # without Content-Length
        assert_refused(running.post(b"x" * 30_000_000), 413, "longer")
        for _ in range(3):  # a false Content-Length without a body
            raw_connection(running.url, request_head({}, 10**15)).close()
        assert running.post(BODY)[0] == 200


def decompression_bomb(width=50_000, height=50_000) -> bytes:
    """A PNG of some kilobytes whose header declares this many pixels."""
    rows = zlib.compress(bytes(1_000_000), 9)
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def test_max_pixels_and_unreadable_images(parts):
    with served(parts, max_pixels=10_000) as running:
        assert running.post(image_request(png_bytes(100, 100)))[0] == 200
        assert_refused(running.post(image_request(png_bytes(101, 100))), 400, "101 x 100 pixels are too many")
        assert_refused(running.post(image_request(decompression_bomb())), 400, "image_url: too many pixels")
        assert_refused(running.post(image_request(decompression_bomb(4_000, 4_000))), 400, "pixels are too many")
        assert_refused(running.post(image_request(png_bytes(9, 9)[:-30])), 400, "not a readable")
        assert running.post(image_request(png_bytes(10_000, 1)))[0] == 200


def test_audio_limits(parts, server):
    ten_minutes = audio_file(np.zeros(600 * 16_000, np.float32), 16_000, "flac")
    assert_refused(server.post(audio_request(ten_minutes, "flac")), 400, "over the limit of 30 s")
    assert_refused(server.post(audio_request(audio_file(np.zeros(0), 16_000))), 400, "0.000 s of .* is too short")
    assert_refused(server.post(audio_request(audio_file(np.zeros(16_000), 1_000))), 400, "1000 samples a second")
    bad = audio_file(np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    assert_refused(server.post(audio_request(bad)), 400, "no numbers|NaN")
    assert_refused(server.post(audio_request(audio_file(tone(1), 16_000), "mp3")), 400, "not a mp3 file")
    assert_refused(server.post(request(audio_part(b"RIFF1234WAVE" + bytes(99)))), 400, "not readable")
    assert server.post(audio_request(audio_file(tone(30), 16_000), max_tokens=2))[0] == 200
    with served(parts, max_audio_seconds=1.0) as running:
        assert running.post(audio_request(audio_file(tone(1), 16_000), max_tokens=2))[0] == 200
        assert_refused(running.post(audio_request(audio_file(tone(1.01), 16_000))), 400, "over the limit of 1 s")


def test_context_length(parts, server, endless):
    """A prompt that does not fit is refused; a response ends at the context length."""
    assert_refused(server.post(request("what " * 3_000)), 400, "do not fit the model's context of 2048")
    assert_refused(server.post(request("x" * 200_000)), 400, "200000 characters do not fit")
    text = "a b " * 2_000
    while len(parts[1].ids(text)) > 2_000:
        text = text[: len(text) * 99 // 100]
    body = server.post(request(text, max_tokens=10**9))[2]
    assert body["usage"]["total_tokens"] == 2_048 and body["choices"][0]["finish_reason"] == "length"


def test_max_requests(parts, gate):
    with served(parts, max_requests=2, batch_wait_seconds=0.0) as running:
        threads, responses = post_concurrently(running, [BODY, BODY])
        wait_until(lambda: running.state.num_active == 2)
        headers = assert_refused(running.post(BODY), 503, "2 requests are active")
        assert headers["Retry-After"] == "1"
        assert get(running.url, "/health")[0] == 200
        gate.set()
        for thread in threads:
            thread.join()
        assert [status for status, _, _ in responses] == [200, 200] and running.post(BODY)[0] == 200
        slow = (
            raw_connection(running.url, request_head(BODY)),
            raw_connection(running.url, request_head(BODY)),
        )  # without bodies they are active too
        wait_until(lambda: running.state.num_active == 2)
        assert_refused(running.post(BODY), 503, "try again")
        for connection in slow:
            connection.close()
        wait_until(lambda: running.state.num_active == 0)
        assert running.post(BODY)[0] == 200


def test_timeout_seconds(parts, gate, endless):
    with served(parts, timeout_seconds=0.4) as running:
        assert_refused(running.post(BODY), 504, "no complete response within 0.4 s")
        assert_refused(running.post(BODY | {"stream": True}), 504, "no complete response within 0.4 s")
        slow = raw_connection(running.url, request_head(BODY) + b'{"mod')
        assert b" 408 " in slow.recv(4096)
        wait_until(lambda: running.state.num_active == 0)
        gate.set()
        # a stream that has begun ends with the error, which the client raises
        with pytest.raises(APIError, match=r"no complete response within 0\.4 s"):
            for _ in complete(running, {"role": "user", "content": "What?"}, stream=True, max_tokens=10_000):
                pass
        wait_until(lambda: running.post(BODY)[0] == 200)  # in time again, once the row has left the batch


def test_client_that_does_not_read_its_stream_times_out(parts, endless):
    with served(parts, timeout_seconds=1.0) as running:
        body = BODY | {"stream": True, "max_tokens": 500}
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            where = urlsplit(running.url)
            connection.connect((where.hostname, where.port))
            started = time.monotonic()
            connection.sendall(request_head(body) + json.dumps(body).encode())
            wait_until(lambda: running.state.num_active == 1)
            wait_until(lambda: running.post(BODY)[0] == 200)
            wait_until(lambda: running.state.num_active == 0)
            assert time.monotonic() - started > 0.9, "the whole response fit into the buffers"


def test_stopping_server_refuses_waiting_requests(parts, gate):
    with served(parts, batch_wait_seconds=0.0) as running:
        threads, responses = post_concurrently(running, [BODY])
        wait_until(lambda: gate.sizes == [1])
        more, late = post_concurrently(running, [BODY])
        wait_until(lambda: len(running.state.worker._waiting) == 1)
        closing = threading.Thread(target=running.state.worker.close)
        closing.start()
        more[0].join()
        assert_refused(late[0], 503, "stopping")
        gate.set()
        threads[0].join()
        closing.join()
        assert responses[0][0] == 200
        assert get(running.url, "/health")[0] == 503


# access


def test_api_key(parts, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-right")
    with served(parts) as running:
        for key in ("", "sk-wrong", "sk-righ", "sk-right2", "sk-r\xefght"):
            headers = assert_refused(running.post(BODY, key=key), 401, KEY_VARIABLE)
            assert headers["WWW-Authenticate"] == "Bearer"
        assert_refused(running.post(BODY, Authorization="Basic sk-right"), 401, KEY_VARIABLE)
        assert_refused(get(running.url, "/v1/models"), 401, KEY_VARIABLE)
        assert_refused(running.post(b"x" * 30_000_000), 401, KEY_VARIABLE)  # before the body is read
        assert running.post(BODY, key="sk-right")[0] == 200
        assert [m.id for m in client(running, "sk-right").models.list()] == ["selfkd"]
        assert get(running.url, "/health")[0] == 200


def test_other_hosts_need_an_api_key(monkeypatch):
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        assert not is_loopback(host)
        with pytest.raises(InputError, match=rf"host: {host}: other machines can reach it; set {KEY_VARIABLE}"):
            ServeConfig("m", host=host)
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.2"):
        ServeConfig("m", host=host)
    monkeypatch.setenv(KEY_VARIABLE, "sk")
    ServeConfig("m", host="0.0.0.0")
    monkeypatch.setenv(KEY_VARIABLE, "sch\xf6n")
    with pytest.raises(InputError, match="no HTTP header can carry"):
        ServeConfig("m")


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_batch", 0), ("max_requests", 0), ("max_body_bytes", 0), ("max_pixels", -1), ("max_new_tokens", 0),
     ("port", 70_000), ("timeout_seconds", 0), ("batch_wait_seconds", -1), ("max_audio_seconds", 31),
     ("decoding_processes", 0), ("max_connections", 0), ("served_name", " ")],
)  # fmt: skip
def test_invalid_settings(name, value):
    with pytest.raises(InputError, match=f"^{name}: "):
        ServeConfig("m", **{name: value})


def test_certificates_are_checked_before_a_model_is_loaded(tmp_path):
    (tmp_path / "text.pem").write_text("no certificate")
    for name in ("missing.pem", "text.pem"):
        with pytest.raises(InputError, match=rf"^ssl_certfile: .*{name}: no certificate and key that fit"):
            ServeConfig(ssl_certfile=str(tmp_path / name))
    with pytest.raises(InputError, match=r"^ssl_keyfile: has no effect"):
        ServeConfig(ssl_keyfile=str(tmp_path / "text.pem"))


def test_descriptors_are_reserved_at_the_start(monkeypatch):
    limits = [(256, 1024), (256, 256), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)]
    raised = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, values: raised.append(values))
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[0])
    reserve_descriptors(512)
    assert raised == [(612, 1024)]
    limits.pop(0)
    with pytest.raises(InputError, match="max_connections: 512: this process may open 256 files"):
        reserve_descriptors(512)
    limits.pop(0)
    reserve_descriptors(512)
    assert len(raised) == 1


def test_missing_model(tmp_path):
    with pytest.raises(InputError, match="no checkpoint there"):
        serve(ServeConfig(str(tmp_path / "none")))


def test_missing_fastapi_is_reported_with_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "selfkd.serving.server", raising=False)
    with pytest.raises(InputError, match=r"fastapi.*pip install 'selfkd\[serve\]'"):
        serve(ServeConfig())


def test_docs_list_every_setting_with_its_default():
    (page,) = (path.read_text() for path in (Path(__file__).parents[2] / "docs").glob("serv*.md"))
    for setting in fields(ServeConfig)[1:]:
        default = f"{setting.default:,}" if type(setting.default) is int and setting.name != "port" else setting.default
        assert f"| `--{setting.name}` | {default} |" in page, setting.name


def test_processor_end_id_is_an_end_id_of_the_model(parts):
    assert parts[1].end_id in torch.tensor(parts[0].vlm.generation_config.eos_token_id).flatten().tolist()
