"""The routes of the page: nothing before consent, bounded uploads, paths that stay in the folder, no other origin."""

import pytest
from recordings import SPEAKER, config_of, decoder, same_question, speech, wav, write_questions
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from selfkd.recording.folder import RecordingFolder, opened
from selfkd.recording.pages import recording_pages
from selfkd.serving.local_page import local_only

QUESTION = "What color is the circle?"
MAX_BYTES = 200_000
HERE = "http://127.0.0.1:7861"


@pytest.fixture(scope="module")
def process():
    found = decoder(MAX_BYTES)
    yield found
    found.close()


@pytest.fixture
def recordings(tmp_path):
    table = write_questions(tmp_path / "source", same_question(QUESTION, 2))
    with opened(config_of(table, tmp_path / "mine")) as folder:
        yield folder


@pytest.fixture
def client(recordings, process):
    pages = recording_pages(recordings, process, MAX_BYTES)
    app = Starlette(routes=[Mount("/", pages)], middleware=local_only("127.0.0.1"))
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as found:
        yield found


@pytest.fixture(scope="module")
def clip():
    return wav(0.4 * speech(QUESTION))


def agree(client, recordings, speaker=SPEAKER):
    body = {"speaker": speaker, "text": recordings.settings["consent"]}
    assert client.post("/agree", json=body).status_code == 200


def test_no_recording_is_read_before_consent(client, recordings, clip):
    response = client.post(f"/recording/0?speaker={SPEAKER}", content=clip)
    assert response.status_code == 403 and "agreed to the consent text" in response.json()["reason"]
    assert client.get(f"/state?speaker={SPEAKER}").json()["has_agreed"] is False
    assert "sentences" not in client.get(f"/state?speaker={SPEAKER}").json()
    response = client.post("/agree", json={"speaker": SPEAKER, "text": "I do not"})
    assert response.status_code == 422 and "the text has changed" in response.json()["reason"]
    assert not (recordings.folder / "audio").exists()


def test_a_recording_is_kept_played_and_counted(client, recordings, clip):
    agree(client, recordings)
    response = client.post(f"/recording/1?speaker={SPEAKER}", content=clip)
    assert response.status_code == 200 and -45 < response.json()["level_dbfs"] < 0
    state = client.get(f"/state?speaker={SPEAKER}").json()
    assert [s["is_recorded"] for s in state["sentences"]] == [False, True]
    played = client.get(f"/recording/1?speaker={SPEAKER}")
    assert played.status_code == 200 and played.content[:4] == b"fLaC"
    assert client.get(f"/recording/0?speaker={SPEAKER}").status_code == 404
    image = client.get("/image/0")
    assert image.headers["content-type"] == "image/png" and image.headers["x-content-type-options"] == "nosniff"
    for path in ("", "record.js", "record.css", "recorder.js"):
        assert client.get(f"/{path}").status_code == 200


@pytest.mark.parametrize("speaker", ["..%2F..", "a%2Fb", "%2Fetc", "", "nobody", ".."])
def test_no_name_leads_out_of_the_folder(client, recordings, clip, speaker):
    agree(client, recordings)
    assert client.post(f"/recording/0?speaker={speaker}", content=clip).status_code == 403
    assert client.get(f"/recording/0?speaker={speaker}").status_code == 404
    assert client.get(f"/state?speaker={speaker}").status_code == (200 if speaker in ("", "nobody") else 422)


def test_uploads_are_bounded(client, recordings, clip):
    agree(client, recordings)
    address = f"/recording/0?speaker={SPEAKER}"
    assert client.post(address, content=bytes(MAX_BYTES + 1)).status_code == 413
    assert client.post(address, content=iter([clip])).status_code == 411  # chunked
    assert client.post("/agree", content=b"[" * 90_000).status_code == 422
    assert client.post("/agree", content=bytes(100_001)).status_code == 413
    assert client.post("/agree", json={"speaker": 3, "text": None}).status_code == 422
    for number in ("2", "999999999999999999999"):
        assert client.post(f"/recording/{number}?speaker={SPEAKER}", content=clip).status_code == 404
    assert client.get("/image/-1").status_code == 404
    for content in (b"", b"nonsense", clip[:5000]):
        response = client.post(address, content=content)
        assert response.status_code == 422 and response.json()["reason"]
    assert recordings.recorded(SPEAKER) == set()


def test_a_full_disk_has_a_message(client, recordings, clip, monkeypatch):
    agree(client, recordings)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordingFolder, "add", full)
    response = client.post(f"/recording/0?speaker={SPEAKER}", content=clip)
    assert response.status_code == 507 and "no space left on the disk" in response.json()["reason"]


def test_other_origins_and_hosts_are_refused(client):
    codes = {"http://evil.example": 403, "http://127.0.0.1:1": 403, "null": 403, HERE: 200, None: 200}
    for origin, code in codes.items():
        headers = {} if origin is None else {"Origin": origin}
        assert client.get("/state", headers=headers).status_code == code, origin
    assert client.get("/state", headers={"Host": "evil.example"}).status_code == 400
