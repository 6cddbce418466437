"""Downloads from a server on this machine: resumed, unpacked within their folder, each part once."""

import io
import json
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from selfkd.data.example import MANIFEST
from selfkd.errors import InputError
from selfkd.reproduce.download import check_reach, download, fetch, unpack_flat, unpack_folders
from selfkd.reproduce.stand_in_data import write_llava


@contextmanager
def served(files, cut=()):
    """(URL of a server of {path: bytes}, the requests that it had: (path, range)). Of a path in `cut` half is sent, to
    the first request."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            requests.append((self.path, wanted))
            content = files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            is_cut = self.path in cut and not wanted
            self.wfile.write(content[start : len(content) // 2 if is_cut else None])

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


def zipped(names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return buffer.getvalue()


def test_an_interrupted_file_is_continued(tmp_path):
    content = bytes(range(256)) * 20
    (tmp_path / ".a.zip.partial").write_bytes(content[:1000])
    with served({"/a.zip": content}) as (url, requests):
        fetch(f"{url}/a.zip", tmp_path / "a.zip")
        fetch(f"{url}/a.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == content
    assert requests == [("/a.zip", "bytes=1000-")]


def test_a_connection_that_ends_early_loses_nothing(tmp_path):
    content = bytes(range(256)) * 20
    with served({"/a.zip": content}, cut={"/a.zip"}) as (url, requests):
        with pytest.raises(InputError, match=r"a.zip: ended after 2,560 of 5,120 bytes; the same command resumes"):
            fetch(f"{url}/a.zip", tmp_path / "a.zip")
        assert not (tmp_path / "a.zip").exists()
        fetch(f"{url}/a.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == content
    assert requests == [("/a.zip", None), ("/a.zip", "bytes=2560-")]


def test_a_url_that_cannot_be_fetched_is_named(tmp_path):
    with served({}) as (url, _), pytest.raises(InputError, match=r"archives: http://.*/b.zip: 404"):
        fetch(f"{url}/b.zip", tmp_path / "b.zip")
    with pytest.raises(InputError, match=r"file:///etc/passwd: not a URL of http or https"):
        fetch("file:///etc/passwd", tmp_path / "c")


def test_a_zip_is_unpacked_by_names_within_the_folder(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(["deep/er/1.jpg", "../../2.jpg"]))
    (tmp_path / "into").mkdir()
    assert unpack_flat(tmp_path / "a.zip", tmp_path / "into", "a") == 2
    assert {p.name for p in (tmp_path / "into").iterdir()} == {"1.jpg", "2.jpg"}


def test_a_tar_that_leads_out_of_its_folder_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name in ("in/1.txt", "../out.txt"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(InputError, match=r"archives: a: cannot be unpacked"):
        unpack_folders(tmp_path / "a.tar.gz", tmp_path / "into", "a")
    assert (tmp_path / "into/in/1.txt").is_file() and not (tmp_path / "out.txt").exists()


def test_parts_that_are_complete_are_not_fetched_again(tmp_path):
    output = tmp_path / "download"
    write_llava(tmp_path / "q.json", tmp_path / "there", count=4, side=56)
    images = {f"/{p.relative_to(tmp_path / 'there')}": p.read_bytes() for p in (tmp_path / "there").rglob("*.png")}
    questions = {"source": "llava", "path": str(tmp_path / "q.json"), "images": str(output / "images"), "count": 4}
    with served({"/x.zip": zipped(["a/1.txt"])} | images) as (url, requests):
        settings = {"output": str(output), "downloads": {}, "questions": questions, "benchmarks": []}
        settings |= {"archives": {"images": [{"url": f"{url}/x.zip", "into": "x", "gigabytes": 1}]}}
        settings |= {"image_url": f"{url}/"}
        with pytest.raises(InputError, match="404"):
            download(settings | {"image_url": f"{url}/missing/"})
        assert not (output / MANIFEST).exists()
        download(settings)
    assert [path for path, _ in requests].count("/x.zip") == 1
    assert (output / "images/x/1.txt").is_file() and not list(output.glob("*.archive"))
    found = json.loads((output / MANIFEST).read_text())
    assert found["images-0"]["files"] == 1 and found["images"]["files"] == len(images) == 2
    assert {p.name for p in (output / "images").rglob("*.png")} == {name.rpartition("/")[2] for name in images}


def test_a_hub_out_of_reach_is_named():
    with pytest.raises(InputError, match=r"downloads.vlm: a/b@main cannot be reached on the hub .*--rehearse"):
        check_reach("a/b@main")
