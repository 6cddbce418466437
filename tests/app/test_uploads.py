"""The app reads uploads and no other file of its machine: every route with every form of path."""

import http.client
import json
import os
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import quote, urlsplit

import hanging
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from serving import png_bytes

from selfkd.app.app import app
from selfkd.app.config import AppConfig
from selfkd.app.server import PageServer
from selfkd.app.session import VOICES, Session
from selfkd.app.uploads import KEEP_SECONDS, check_uploaded, has_room
from selfkd.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")
SECRET = b"TOP SECRET 4711"
META = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a secret file, and an upload folder in it with a symlink to the secret."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / ".id_rsa").write_bytes(SECRET)
    (folder / "uploads").mkdir()
    (folder / "uploads" / "link.png").symlink_to(folder / ".id_rsa")
    return folder


@pytest.fixture(scope="module")
def internal_server():
    """(URL, list of requested paths) of a server on this machine that only the app could reach."""
    paths = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SECRET)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret.png", paths
    server.shutdown()


@pytest.fixture(scope="module")
def page(folder):
    """Address of a page without models: inputs are read, and there are no responses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        server = PageServer(Session(AppConfig(port=0), {}, None), folder)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield urlsplit(server.url).netloc
        server.should_exit = True
        thread.join()


def send(page, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(page, timeout=60)
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, content, {"Content-Type": "application/json"} | (headers or {}))
    response = connection.getresponse()
    return response.status, response.read()


def run_event(page):
    """Id of the page's event that runs a query."""
    events = json.loads(send(page, "GET", "/config")[1])["dependencies"]
    return next(event["id"] for event in events if len(event["inputs"]) == 8)


def queue_event(page, data, session):
    """The last message of the queue about an event."""
    body = {"data": data, "fn_index": run_event(page), "session_hash": session}
    assert send(page, "POST", "/gradio_api/queue/join", body)[0] == 200
    connection = http.client.HTTPConnection(page, timeout=60)
    connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
    stream = connection.getresponse()
    while line := stream.readline():
        if b"process_completed" in line:
            return json.loads(line.partition(b"data:")[2])
    raise AssertionError("the event did not complete")


def inputs(file, at=0):
    data = [None, "What?", None, None, next(iter(VOICES.values())), False, "response", None]
    data[at] = file
    return data


def forbidden_paths(folder, internal_server):
    secret = folder / ".id_rsa"
    uploads = folder / "uploads"
    return {
        "absolute": str(secret),
        "up": f"{uploads}/../.id_rsa",
        "relative": f"../../../../../../../../../..{secret}",
        "symlink": str(uploads / "link.png"),
        "file URL": f"file://{secret}",
        "internal URL": internal_server[0],
        "external URL": "https://example.invalid/a.png",
        "device": "/dev/zero",
        "process file": "/proc/self/environ",
        "folder": str(uploads),
    }


def leaked_files(folder):
    return [
        p for p in (folder / "uploads").rglob("*") if p.is_file() and not p.is_symlink() and SECRET in p.read_bytes()
    ]


@pytest.mark.slow
def test_no_route_reads_a_file_that_was_not_uploaded(page, folder, internal_server):
    """sec_01_app_reads_any_local_file"""
    for name, path in forbidden_paths(folder, internal_server).items():
        for file, at in (
            ({"path": path, "meta": META}, 0),
            ({"path": path, "meta": META, "url": path, "orig_name": "a.svg", "is_stream": True}, 2),
            ({"path": path, "meta": META}, 1),  # a file in the text field
            ({"a": [{"path": path, "meta": META}]}, 3),
            ({"path": None, "url": path, "meta": META}, 0),
            ({"path": "a.png", "meta": META | {"path": path, "url": path}}, 0),
        ):
            session = uuid.uuid4().hex
            message = queue_event(page, inputs(file, at), session)
            assert not message["success"] and SECRET not in json.dumps(message).encode(), (name, at)
            link = send(page, "GET", f"/gradio_api/deep_link?session_hash={session}")[1].decode().strip('"')
            assert SECRET not in send(page, "GET", f"/config?deep_link={link}")[1]
        body = {"data": inputs({"path": path, "meta": META}), "fn_index": run_event(page), "session_hash": "s"}
        for route in ("run/predict", "api/predict", "run/run_query", "call/run_query", "call/wrapped"):
            assert SECRET not in send(page, "POST", f"/gradio_api/{route}", body)[1], route
        for route in ("file=", "file/", "proxy=", "stream/"):
            for name_in_url in (path, quote(path, safe="")):
                status, content = send(page, "GET", f"/gradio_api/{route}{name_in_url}")
                assert status >= 400 and SECRET not in content, (route, name)
    assert leaked_files(folder) == [] and internal_server[1] == []


def test_uploaded_file_is_read(page):
    status, paths = send(page, "POST", "/gradio_api/upload", *form(png_bytes(8, 8)))
    assert status == 200
    (path,) = json.loads(paths)
    message = queue_event(page, inputs({"path": path, "meta": META}), uuid.uuid4().hex)
    assert message["success"], message
    status, content = send(page, "GET", f"/gradio_api/file={path}")
    assert status == 200 and content == png_bytes(8, 8)


def test_each_app_has_its_own_upload_folder(monkeypatch):
    """Gradio's default folder is shared by all apps of a machine, and keeps uploads."""
    folders = []
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    monkeypatch.setattr("selfkd.app.session.Session.load", lambda config: Session(config, {}, None))

    def run(server):
        from gradio.utils import get_upload_folder

        folders.append(get_upload_folder())

    monkeypatch.setattr("selfkd.app.server.PageServer.run", run)
    app(AppConfig())
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    assert "selfkd-app-" in folders[0]


@pytest.mark.parametrize("value", [{"path": "/etc/passwd"}, [{"a": {"path": "x"}}], ({"path": ""},), {"path": "\0"}])
def test_check_uploaded_finds_paths_at_any_depth(value):
    with pytest.raises(InputError, match="only files that were uploaded"):
        check_uploaded(value)
    check_uploaded([None, "/etc/passwd", 3, {"a": ["text", {}]}])


def form(content, count=1):
    """(body, headers) of an upload of `count` files."""
    boundary = uuid.uuid4().hex
    head = 'Content-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    part = f"--{boundary}\r\n{head}".encode() + content + b"\r\n"
    return part * count + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def test_uploads_have_a_size_a_total_and_an_age(page, folder):
    upload = "/gradio_api/upload"
    many = send(page, "POST", upload, *form(bytes(15_000_000), 2))  # each within Gradio's limit of a file
    assert many[0] == 413 and b"over 20000000 bytes" in many[1]
    connection = http.client.HTTPConnection(page, timeout=60)
    body, headers = form(b"x")
    connection.request("POST", upload, iter([body]), headers, encode_chunked=True)
    assert connection.getresponse().status == 411
    big = folder / "uploads" / "others.bin"
    with big.open("wb") as file:
        file.truncate(999_000_000)  # takes no disk
    full = send(page, "POST", upload, *form(bytes(2_000_000)))
    assert full[0] == 507 and b"deleted after an hour" in full[1]
    os.utime(big, (0, 0))
    assert send(page, "POST", upload, *form(bytes(2_000_000)))[0] == 200 and not big.exists()


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 2 * KEEP_SECONDS)), max_size=6), st.integers(0, 1000))
def test_old_uploads_make_room(tmp_path_factory, files, size):
    folder = tmp_path_factory.mktemp("uploads")
    for i, (length, age) in enumerate(files):
        path = folder / str(i) / "a.png"
        path.parent.mkdir()
        path.write_bytes(bytes(length))
        os.utime(path, (time.time() - age - 30, time.time() - age - 30))
    kept = [length for length, age in files if age + 30 < KEEP_SECONDS]
    assume(all(abs(age + 30 - KEEP_SECONDS) > 5 for _, age in files))
    assert has_room(folder, size, 1500) == (size + sum(kept) <= 1500)
    assert sum(path.stat().st_size for path in folder.rglob("*.png")) == sum(kept)


def test_image_that_hangs_its_decoder_is_refused(monkeypatch, page):
    session = Session(AppConfig(), {}, None)
    monkeypatch.setattr("selfkd.app.session.read_pixels", hanging.hang)
    monkeypatch.setattr("selfkd.app.session.DECODE_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"Image: not decoded within 0\.5 s"):
        session.run(png_bytes(8, 8), "What?", None, None, "en-US+f2")
    session.close()
