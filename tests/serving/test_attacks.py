"""A real `selfkd serve` under requests that are made to take its memory, its time or its file descriptors.

`pytest -s` prints the memory curve of each attack.
"""

import http.client
import io
import json
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from examples import png_chunk, tone
from PIL import Image
from serving import (
    BODY,
    CHAT,
    TIMEOUT_SECONDS,
    audio_file,
    audio_request,
    free_port,
    get,
    image_request,
    post,
    raw_connection,
    request,
    request_head,
    wait_until,
)

pytestmark = pytest.mark.slow
MB = 1_000_000
LIMIT_SECONDS = 10  # of a stop; of an answer of /health, on a busy machine far more than it takes


class Attacked:
    """The process of a server: its memory, its end, its log."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path, context: ssl.SSLContext | None):
        self.process, self.log = psutil.Process(process.pid), log
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{port}"
        self._popen = process
        self.idle = 0.0  # MB before the first attack

    def memory(self) -> float:
        """MB of the server and of its processes; a page that several share counts once."""
        total = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss / MB
        return total

    def during(self, attack) -> tuple[list[float], float]:
        """(MB every 0.1 s while `attack` runs, the longest time that /health took)."""
        curve, longest = [self.memory()], 0.0
        thread = threading.Thread(target=attack)
        thread.start()
        while thread.is_alive():
            started = time.monotonic()
            assert get(self.url, "/health")[0] == 200
            longest = max(longest, time.monotonic() - started)
            curve.append(self.memory())
            time.sleep(0.1)
        return [*curve, self.memory()], longest

    def stop(self) -> float:
        """Seconds from SIGTERM to the end."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self._popen.wait(TIMEOUT_SECONDS)
        return time.monotonic() - started


@contextmanager
def attacked(folder, context=None, **settings):
    port, log = free_port(), folder / f"{time.monotonic_ns()}.log"
    fields = (str(part) for name, value in settings.items() for part in (f"--{name}", value))
    with log.open("w") as file:
        command = [sys.executable, "-m", "selfkd.cli", "serve", "--port", str(port), *fields]
        process = subprocess.Popen(command, stderr=file, stdout=file, start_new_session=True)
    try:
        server = Attacked(process, port, log, context)
        while True:
            assert process.poll() is None, log.read_text()
            with suppress(OSError), urllib.request.urlopen(f"{server.url}/health", context=context):
                break
            time.sleep(0.1)
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with attacked(tmp_path_factory.mktemp("attacked")) as server:
        for body in (BODY, image_request(flat_png(64, 64)), audio_request(audio_file(tone(1), 16_000))):
            assert post(server.url, body)[0] == 200  # what is loaded with the first request is no growth
        server.idle = server.memory()
        yield server


def flat_png(width, height, bits=8, colors=2) -> bytes:
    """A PNG of a few kilobytes with these many pixels; `colors` as its header has them."""
    channels = {0: 1, 2: 3, 6: 4}[colors]
    row, compressor = bytes(1 + width * channels * bits // 8), zlib.compressobj(9)
    rows = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    size = struct.pack(">IIBBBBB", width, height, bits, colors, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def scans_jpeg(side=4_000, scans=20_000) -> bytes:
    """A progressive JPEG of under a megabyte, which repeats its last scan."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True, quality=50)
    raw = buffer.getvalue()
    last, end = raw.rindex(b"\xff\xda"), raw.rindex(b"\xff\xd9")
    return raw[:end] + raw[last:end] * scans + raw[end:]


def body_of_parts(part: str, megabytes: float) -> bytes:
    parts = ",".join([part] * int(megabytes * MB / (len(part) + 1)))
    return f'{{"model":"selfkd","messages":[{{"role":"user","content":[{parts}]}}]}}'.encode()


def with_field(value: str) -> bytes:
    return json.dumps(BODY)[:-1].encode() + f', "metadata": {value}}}'.encode()


ATTACKS = {
    "wrong messages": lambda: b'{"model":"selfkd","messages":[' + b"{}," * 6_000_000 + b"{}]}",
    "wrong parts": lambda: body_of_parts("{}", 19),
    "tiny parts": lambda: body_of_parts('{"type":"text","text":""}', 19),
    "one text": lambda: request("x" * 19 * MB),
    "deep": lambda: with_field("[" * 9 * MB + "]" * 9 * MB),
    "unknown fields": lambda: with_field("{" + ",".join(f'"{i}":0' for i in range(1_500_000)) + "}"),
    "strings": lambda: with_field("[" + '"",' * 6 * MB + '""]'),
    "an unfinished string": lambda: with_field('"' + '\\"' * 9 * MB),
    "digits": lambda: with_field("9" * 19 * MB),
    "progressive JPEG": lambda: image_request(scans_jpeg()),
    "RGBA of 16 bits": lambda: image_request(flat_png(4_400, 4_400, 16, 6)),
    "gray of 16 bits": lambda: image_request(flat_png(4_400, 4_400, 16, 0)),
    "RGB": lambda: image_request(flat_png(4_400, 4_400)),
    "an hour of silence": lambda: audio_request(audio_file(np.zeros(3600 * 16_000, np.int16), 16_000, "flac"), "flac"),
    "ID3 frames": lambda: audio_request(id3_frames(), "mp3", max_tokens=2),
}


def id3_frames(count=333_333) -> bytes:
    """An MP3 whose tag has bad frames, of which a decoder writes a line each."""
    size = 12 * count
    head = b"ID3\x04\0\0" + bytes([size >> shift & 127 for shift in (21, 14, 7, 0)])
    return head + (b"TXXX\0\0\0\2" + b"\0\0" * 2) * count + audio_file(tone(1), 16_000, "mp3")


@pytest.mark.parametrize("name", ATTACKS)
def test_one_body_takes_no_more_memory_than_the_idle_server_and_never_blocks_health(server, name):
    """sec_02_serve_one_body_takes_all_memory, sec_03_serve_progressive_jpeg, sec_10_mp3_fills_the_log."""
    body = ATTACKS[name]()
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert len(content) <= 20_000_000, "within the limits"
    log, started, statuses = server.log.stat().st_size, time.monotonic(), []
    curve, health = server.during(lambda: statuses.append(post(server.url, content)[0]))
    shown = " ".join(f"{value:.0f}" for value in curve[:: max(1, len(curve) // 12)])
    measured = f"{time.monotonic() - started:.1f} s, /health {health:.2f} s, MB {shown}, peak {max(curve):.0f}"
    print(f"\n{name}: {statuses[0]}, {len(content) / MB:.1f} MB of body, {measured}")
    assert statuses[0] in (200, 400)
    assert max(curve) < 2 * server.idle
    assert health < LIMIT_SECONDS
    assert server.log.stat().st_size - log < 100_000  # a line for each /health, and one more
    assert post(server.url, BODY)[0] == 200


def test_bodies_of_many_clients_are_bounded(server):
    """Connections that send all but the end of a large body are refused before they take the memory of the server."""
    head = request_head(BODY, length=20_000_000)
    connections, refused = [], 0
    for _ in range(20):
        connection = raw_connection(server.url, head)
        with suppress(OSError):
            connection.sendall(b" " * 19 * MB)
        connections.append(connection)
    wait_until(lambda: metric(server, "selfkd_requests_active") == 8)
    held = server.memory()
    print(f"\n20 bodies of 19 MB: {held:.0f} MB, of {server.idle:.0f} when it was idle")
    for connection in connections:
        connection.settimeout(0.2)
        with suppress(OSError):
            refused += b" 503 " in connection.recv(4096)
        connection.close()
    assert refused == 12 and held < 2 * server.idle
    wait_until(lambda: post(server.url, BODY)[0] == 200)


def metric(server, name) -> float:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=TIMEOUT_SECONDS)
    connection.request("GET", "/metrics")
    for line in connection.getresponse().read().decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise AssertionError(name)


def test_idle_connections_leave_the_server_its_descriptors(tmp_path):
    with attacked(tmp_path, max_connections=50) as server:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        idle = [raw_connection(server.url, b"" if i % 2 else head) for i in range(300)]
        wait_until(lambda: server.process.num_fds() < 150)
        late = raw_connection(server.url, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = late.recv(4096)
        assert b" 503 " in answer and b"50 connections are open" in answer and b"connection: close" in answer
        closed = 0
        for connection in idle:  # those within the limit are closed for being idle, the others were refused at once
            connection.settimeout(3 * LIMIT_SECONDS)
            with suppress(ConnectionError):
                while connection.recv(4096):
                    pass
            closed += 1
        assert closed == 300 and post(server.url, BODY)[0] == 200
        assert "Traceback" not in server.log.read_text()


def test_a_request_that_times_out_leaves_no_work(tmp_path):
    """What is decoded ends with its request, and other requests are answered."""
    with attacked(tmp_path, timeout_seconds=2.0, decoding_processes=1) as server:
        assert post(server.url, BODY)[0] == 200
        assert post(server.url, image_request(scans_jpeg()))[0] in (400, 504)
        wait_until(lambda: post(server.url, BODY)[0] == 200)
        spent = cpu_seconds(server)
        time.sleep(2)
        assert cpu_seconds(server) - spent < 0.5


def cpu_seconds(server) -> float:
    processes = [server.process, *server.process.children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


@pytest.mark.parametrize("kind", ["image", "body"])
def test_sigterm_ends_the_server_whatever_is_being_read(tmp_path, kind):
    """sec_03_serve_progressive_jpeg."""
    with attacked(tmp_path) as server:
        content = image_request(scans_jpeg()) if kind == "image" else ATTACKS["tiny parts"]()
        threads = [threading.Thread(target=_try_post, args=(server, content), daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: metric(server, "selfkd_requests_active") > 0)
        children = server.process.children(recursive=True)
        seconds = server.stop()
        print(f"\nSIGTERM while it reads an {kind}: {seconds:.1f} s")
        assert seconds < LIMIT_SECONDS
        wait_until(lambda: not any(child.is_running() for child in children))


def _try_post(server, content) -> None:
    with suppress(OSError, http.client.HTTPException):
        post(server.url, content)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificate with openssl")
def test_https(tmp_path):
    names = "-nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", *names.split()], cwd=tmp_path, check=True)
    files = {"ssl_certfile": tmp_path / "cert.pem", "ssl_keyfile": tmp_path / "key.pem"}
    context = ssl.create_default_context(cafile=files["ssl_certfile"])
    with attacked(tmp_path, context, **files) as server:
        content = json.dumps(BODY).encode()
        sent = urllib.request.Request(f"{server.url}{CHAT}", content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(sent, context=context) as response:
            assert response.status == 200
        assert server.stop() < LIMIT_SECONDS
