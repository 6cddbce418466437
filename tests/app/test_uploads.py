"""The app reads what was uploaded through it and nothing else of its machine: by every route, every kind of name."""

import http.client
import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import quote, urlsplit

import pytest
from serving import png

from selfkd.app.app import PageServer, app
from selfkd.app.config import AppConfig
from selfkd.app.session import VOICES, Session
from selfkd.app.uploads import check_uploaded
from selfkd.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")
SECRET = b"TOP SECRET 4711"
META = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a planted file, and a folder of uploads in it that has a link to that."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / ".id_rsa").write_bytes(SECRET)
    (folder / "uploads").mkdir()
    (folder / "uploads" / "link.png").symlink_to(folder / ".id_rsa")
    return folder


@pytest.fixture(scope="module")
def elsewhere():
    """A server of this machine that only the app could reach; `asked` are its paths."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SECRET)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret.png", asked
    server.shutdown()


@pytest.fixture(scope="module")
def page(folder):
    """The page without models: what it is asked is read, and nobody answers."""
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


def sent(page, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(page, timeout=60)
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, content, {"Content-Type": "application/json"} | (headers or {}))
    answer = connection.getresponse()
    return answer.status, answer.read()


def asking(page):
    """The event of the page that takes picture, question and speech."""
    events = json.loads(sent(page, "GET", "/config")[1])["dependencies"]
    return next(event["id"] for event in events if len(event["inputs"]) == 6)


def event(page, data, session):
    """What the queue says at the end of an event."""
    body = {"data": data, "fn_index": asking(page), "session_hash": session}
    assert sent(page, "POST", "/gradio_api/queue/join", body)[0] == 200
    connection = http.client.HTTPConnection(page, timeout=60)
    connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
    stream = connection.getresponse()
    while line := stream.readline():
        if b"process_completed" in line:
            return json.loads(line.partition(b"data:")[2])
    raise AssertionError("the event has no end")


def inputs(file, at=0):
    data = [None, "What?", None, None, next(iter(VOICES.values())), "response"]
    data[at] = file
    return data


def names(folder, elsewhere):
    planted = folder / ".id_rsa"
    uploads = folder / "uploads"
    return {
        "absolute": str(planted),
        "up": f"{uploads}/../.id_rsa",
        "relative": f"../../../../../../../../../..{planted}",
        "a link": str(uploads / "link.png"),
        "a file URL": f"file://{planted}",
        "a server here": elsewhere[0],
        "elsewhere": "https://example.invalid/a.png",
        "a device": "/dev/zero",
        "of the process": "/proc/self/environ",
        "the folder": str(uploads),
    }


def leaked(folder):
    return [
        p for p in (folder / "uploads").rglob("*") if p.is_file() and not p.is_symlink() and SECRET in p.read_bytes()
    ]


def test_a_planted_file_is_read_by_no_route(page, folder, elsewhere):
    """sec_01_app_reads_any_local_file"""
    for name, path in names(folder, elsewhere).items():
        for file, at in (
            ({"path": path, "meta": META}, 0),
            ({"path": path, "meta": META, "url": path, "orig_name": "a.svg", "is_stream": True}, 2),
            ({"path": path, "meta": META}, 1),  # a text that says that it is a file
            ({"a": [{"path": path, "meta": META}]}, 3),
        ):
            session = uuid.uuid4().hex
            ended = event(page, inputs(file, at), session)
            assert not ended["success"] and SECRET not in json.dumps(ended).encode(), (name, at)
            link = sent(page, "GET", f"/gradio_api/deep_link?session_hash={session}")[1].decode().strip('"')
            assert SECRET not in sent(page, "GET", f"/config?deep_link={link}")[1]
        body = {"data": inputs({"path": path, "meta": META}), "fn_index": asking(page), "session_hash": "s"}
        for route in ("run/predict", "api/predict", "run/ask", "call/ask", "call/in_words"):
            assert SECRET not in sent(page, "POST", f"/gradio_api/{route}", body)[1], route
        for route in ("file=", "file/", "proxy=", "stream/"):
            for asked in (path, quote(path, safe="")):
                status, content = sent(page, "GET", f"/gradio_api/{route}{asked}")
                assert status >= 400 and SECRET not in content, (route, name)
    assert leaked(folder) == [] and elsewhere[1] == []


def test_what_was_uploaded_is_read(page, folder):
    mark = uuid.uuid4().hex
    form = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
    content = form + png(8, 8) + f"\r\n--{mark}--\r\n".encode()
    status, paths = sent(
        page, "POST", "/gradio_api/upload", content, {"Content-Type": f"multipart/form-data; boundary={mark}"}
    )
    assert status == 200
    (path,) = json.loads(paths)
    ended = event(page, inputs({"path": path, "meta": META}), uuid.uuid4().hex)
    assert ended["success"], ended
    status, shown = sent(page, "GET", f"/gradio_api/file={path}")
    assert status == 200 and shown == png(8, 8)


def test_uploads_have_a_folder_of_their_own(tmp_path, monkeypatch):
    """Gradio's own is one for all pages of a machine, and keeps what was uploaded."""
    found = []
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    monkeypatch.setattr("selfkd.app.session.Session.load", lambda config: Session(config, {}, None))

    def run(server):
        from gradio.utils import get_upload_folder

        found.append(get_upload_folder())

    monkeypatch.setattr("selfkd.app.app.PageServer.run", run)
    app(AppConfig())
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    assert "selfkd-app-" in found[0]


@pytest.mark.parametrize("value", [{"path": "/etc/passwd"}, [{"a": {"path": "x"}}], ({"path": ""},), {"path": "\0"}])
def test_names_of_files_are_found_at_any_depth(value):
    with pytest.raises(InputError, match="only files that were uploaded"):
        check_uploaded(value)
    check_uploaded([None, "/etc/passwd", 3, {"a": ["text", {}]}])
