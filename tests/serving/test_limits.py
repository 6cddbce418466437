"""Every limit of the server, and who may ask it: nothing that a client sends, or does not send, harms another."""

import json
import socket
import struct
import threading
import time
import zlib
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from examples import tone
from openai import APIError
from serving import (
    ASK,
    ask,
    client,
    encoded,
    get,
    head,
    image_of,
    png,
    raw,
    refused,
    request,
    served,
    sound_of,
    together,
    until,
)

from selfkd.errors import InputError
from selfkd.serving.config import KEY_VARIABLE, ServeConfig, is_own_machine
from selfkd.serving.server import serve

# limits


def test_body_size(parts):
    with served(parts, max_body_bytes=10_000) as running:
        refused(running.post(request("x" * 20_000)), 413, "longer than 10000 bytes")
        refused(running.post(iter([b"x" * 3_000] * 7)), 413, "longer than 10000 bytes")  # says no length
        refused(running.post(b"x" * 30_000_000), 413, "longer")
        for _ in range(3):  # a length that is a lie, and nothing after it
            raw(running.url, head({}, 10**15)).close()
        assert running.post(ASK)[0] == 200


def bomb(width=50_000, height=50_000) -> bytes:
    """A PNG of some kilobytes that says it has so many pixels."""

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(1_000_000), 9)
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", size) + part(b"IDAT", rows) + part(b"IEND", b"")


def test_pictures(parts):
    with served(parts, max_pixels=10_000) as running:
        assert running.post(request(image_of(png(100, 100)), "What?"))[0] == 200
        refused(running.post(request(image_of(png(101, 100)), "What?")), 400, "101 x 100 pixels are too many")
        refused(running.post(request(image_of(bomb()), "What?")), 400, "image_url: too many pixels")
        refused(running.post(request(image_of(bomb(4_000, 4_000)), "What?")), 400, "pixels are too many")
        refused(running.post(request(image_of(png(9, 9)[:-30]), "What?")), 400, "not a readable picture")
        assert running.post(request(image_of(png(10_000, 1)), "What?"))[0] == 200


def test_sound(parts, server):
    ten_minutes = encoded(np.zeros(600 * 16_000, np.float32), 16_000, "flac")
    refused(server.post(request(sound_of(ten_minutes, "flac"))), 400, "over the limit of 30 s")
    refused(server.post(request(sound_of(encoded(np.zeros(0), 16_000)))), 400, "0.000 s of sound is too short")
    refused(server.post(request(sound_of(encoded(np.zeros(16_000), 1_000)))), 400, "1000 samples a second")
    bad = encoded(np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    refused(server.post(request(sound_of(bad))), 400, "no numbers")
    refused(server.post(request(sound_of(encoded(tone(1), 16_000), "mp3"))), 400, "not a mp3 file")
    refused(server.post(request(sound_of(b"RIFF1234WAVE" + bytes(99)))), 400, "not readable sound")
    assert server.post(request(sound_of(encoded(tone(30), 16_000)), max_tokens=2))[0] == 200
    with served(parts, max_audio_seconds=1.0) as running:
        assert running.post(request(sound_of(encoded(tone(1), 16_000)), max_tokens=2))[0] == 200
        refused(running.post(request(sound_of(encoded(tone(1.01), 16_000)))), 400, "over the limit of 1 s")


def test_context(parts, server, endless):
    """What does not fit is refused; a reply ends where the context does."""
    refused(server.post(request("what " * 3_000)), 400, "do not fit the model's context of 2048")
    refused(server.post(request("x" * 200_000)), 400, "200000 letters do not fit")
    letters = "a b " * 2_000
    while len(parts[1].ids(letters)) > 2_000:
        letters = letters[: len(letters) * 99 // 100]
    body = server.post(request(letters, max_tokens=10**9))[2]
    assert body["usage"]["total_tokens"] == 2_048 and body["choices"][0]["finish_reason"] == "length"


def test_requests_inside(parts, gate):
    with served(parts, max_requests=2, batch_wait_seconds=0.0) as running:
        threads, found = together(running, [ASK, ASK])
        until(lambda: running.state.inside == 2)
        headers = refused(running.post(ASK), 503, "2 requests are being answered")
        assert headers["Retry-After"] == "1"
        assert get(running.url, "/health")[0] == 200
        gate.set()
        for thread in threads:
            thread.join()
        assert [status for status, _, _ in found] == [200, 200] and running.post(ASK)[0] == 200
        slow = raw(running.url, head(ASK)), raw(running.url, head(ASK))  # no body: they have places nevertheless
        until(lambda: running.state.inside == 2)
        refused(running.post(ASK), 503, "try again")
        for connection in slow:
            connection.close()
        until(lambda: running.state.inside == 0)
        assert running.post(ASK)[0] == 200


def test_time(parts, gate, endless):
    with served(parts, timeout_seconds=0.4) as running:
        refused(running.post(ASK), 504, "no whole reply within 0.4 s")
        refused(running.post(ASK | {"stream": True}), 504, "no whole reply within 0.4 s")
        slow = raw(running.url, head(ASK) + b'{"mod')
        assert b" 408 " in slow.recv(4096)
        until(lambda: running.state.inside == 0)
        gate.set()
        # a stream that has begun ends with the reason, which the client raises
        with pytest.raises(APIError, match=r"no whole reply within 0\.4 s"):
            for _ in ask(running, {"role": "user", "content": "What?"}, stream=True, max_tokens=10_000):
                pass
        until(lambda: running.post(ASK)[0] == 200)  # within the time again, once the row has left


def test_a_client_that_does_not_read_its_stream_loses_its_place_in_time(parts, endless):
    with served(parts, timeout_seconds=2.0) as running:
        body = ASK | {"stream": True, "max_tokens": 500}
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            where = urlsplit(running.url)
            deaf.connect((where.hostname, where.port))
            started = time.monotonic()
            deaf.sendall(head(body) + json.dumps(body).encode())
            until(lambda: running.state.inside == 1)
            until(lambda: running.post(ASK)[0] == 200)
            until(lambda: running.state.inside == 0)
            assert time.monotonic() - started > 1.9, "it was sent all there was to send"


def test_a_server_that_stops_refuses_what_waits(parts, gate):
    with served(parts, batch_wait_seconds=0.0) as running:
        threads, found = together(running, [ASK])
        until(lambda: gate.sizes == [1])
        more, late = together(running, [ASK])
        until(lambda: len(running.state.worker._waiting) == 1)
        closing = threading.Thread(target=running.state.worker.close)
        closing.start()
        more[0].join()
        refused(late[0], 503, "stopping")
        gate.set()
        threads[0].join()
        closing.join()
        assert found[0][0] == 200
        assert get(running.url, "/health")[0] == 503


# who may ask


def test_key(parts, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-right")
    with served(parts) as running:
        for key in ("", "sk-wrong", "sk-righ", "sk-right2", "sk-r\xefght"):
            headers = refused(running.post(ASK, key=key), 401, KEY_VARIABLE)
            assert headers["WWW-Authenticate"] == "Bearer"
        refused(running.post(ASK, Authorization="Basic sk-right"), 401, KEY_VARIABLE)
        refused(get(running.url, "/v1/models"), 401, KEY_VARIABLE)
        refused(running.post(b"x" * 30_000_000), 401, KEY_VARIABLE)  # before the body is looked at
        assert running.post(ASK, key="sk-right")[0] == 200
        assert [m.id for m in client(running, "sk-right").models.list()] == ["selfkd"]
        assert get(running.url, "/health")[0] == 200


def test_another_host_needs_a_key(monkeypatch):
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        assert not is_own_machine(host)
        with pytest.raises(InputError, match=rf"host: {host}: others could ask; set {KEY_VARIABLE}"):
            ServeConfig("m", host=host)
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.2"):
        ServeConfig("m", host=host)
    monkeypatch.setenv(KEY_VARIABLE, "sk")
    ServeConfig("m", host="0.0.0.0")
    monkeypatch.setenv(KEY_VARIABLE, "sch\xf6n")
    with pytest.raises(InputError, match="no header can carry"):
        ServeConfig("m")


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_batch", 0), ("max_requests", 0), ("max_body_bytes", 0), ("max_pixels", -1), ("max_new_tokens", 0),
     ("port", 70_000), ("timeout_seconds", 0), ("batch_wait_seconds", -1), ("max_audio_seconds", 31),
     ("preparing_threads", 0), ("served_name", " ")],
)  # fmt: skip
def test_settings_that_make_no_sense(name, value):
    with pytest.raises(InputError, match=f"^{name}: "):
        ServeConfig("m", **{name: value})


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no checkpoint there"):
        serve(ServeConfig(str(tmp_path / "none")))


def test_the_documents_name_every_setting_with_its_default():
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
    for setting in fields(ServeConfig)[1:]:
        default = f"{setting.default:,}" if type(setting.default) is int and setting.name != "port" else setting.default
        assert f"| `--{setting.name}` | {default} |" in page, setting.name


def test_rows_know_the_end_of_the_model(parts):
    assert parts[1].end_id in torch.tensor(parts[0].vlm.generation_config.eos_token_id).flatten().tolist()
