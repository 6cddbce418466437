"""The page that records: static files, and a few routes over a `RecordingFolder`.

`selfkd record` serves it, and `selfkd app` shows the same page in a tab. All addresses in it are relative. A recording
comes as the bytes of a WAV file, is bounded before it is read, and is decoded in an isolated process.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict

from selfkd.errors import InputError
from selfkd.files import is_disk_full, path_within
from selfkd.json_files import check_schema, parse_json
from selfkd.recording.checks import decode_recording
from selfkd.recording.folder import RecordingFolder, check_speaker
from selfkd.recording.sentences import IMAGES, Sentence
from selfkd.serving.isolated import DECODE_SECONDS, IsolatedProcess

STATIC = Path(__file__).parent / "static"
_FILES = {"": "record.html", "record.css": "record.css", "record.js": "record.js", "recorder.js": "recorder.js"}
_MAX_JSON_BYTES = 100_000
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
}
log = logging.getLogger("selfkd.recording")


class Agreement(TypedDict):
    """The body of a request that says that a speaker agrees."""

    speaker: str
    text: str


def recording_pages(recordings: RecordingFolder, decoder: IsolatedProcess, max_upload_bytes: int) -> Starlette:
    """The page and its routes, to be served or mounted; `decoder` decodes the recordings."""
    pages = _Pages(recordings, decoder, max_upload_bytes)
    return Starlette(
        routes=[
            *(Route(f"/{path}", _static(name)) for path, name in _FILES.items()),
            Route("/state", pages.state),
            Route("/agree", pages.agree, methods=["POST"]),
            Route("/image/{number:int}", pages.image),
            Route("/recording/{number:int}", pages.recording),
            Route("/recording/{number:int}", pages.record, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _http_error},
    )


def _static(name: str) -> Any:
    async def send(request: Request) -> Response:
        return FileResponse(STATIC / name, headers=_HEADERS)

    return send


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 it handles these only
    return JSONResponse({"reason": error.detail}, error.status_code, headers=_HEADERS)


@contextmanager
def _http_errors(status: int = 422) -> Iterator[None]:
    """An InputError as a response that says why; a full disk as one that says so. No other error is a person's."""
    try:
        yield
    except InputError as error:
        raise HTTPException(status, str(error)) from error
    except Exception as error:
        if not is_disk_full(error):
            raise
        log.error("no space left: %s", error)
        raise HTTPException(
            507, "no space left on the disk; what was recorded before is kept, this one is not"
        ) from error


class _Pages:
    def __init__(self, recordings: RecordingFolder, decoder: IsolatedProcess, max_upload_bytes: int):
        self._recordings, self._decoder, self._max_upload_bytes = recordings, decoder, max_upload_bytes
        self._writing = Lock()

    async def state(self, request: Request) -> Response:
        """The consent text, and for a speaker who has agreed to it the sentences, and which of them are recorded."""
        recordings, speaker = self._recordings, request.query_params.get("speaker", "")
        found: dict[str, Any] = {
            "name": recordings.settings["name"],
            "language": recordings.settings["language"],
            "consent": recordings.settings["consent"],
            "count": len(recordings.sentences),
            "has_agreed": False,
        }
        if speaker:
            with _http_errors():
                check_speaker(speaker)
            found["has_agreed"] = recordings.has_agreed(speaker)
        if found["has_agreed"]:
            recorded = await run_sync(recordings.recorded, speaker)
            found["sentences"] = [
                {"text": s.question, "has_image": bool(s.image), "is_recorded": s.id in recorded}
                for s in recordings.sentences
            ]
            found["commands"] = recordings.next_commands()
        return JSONResponse(found, headers=_HEADERS)

    async def agree(self, request: Request) -> Response:
        with _http_errors():
            try:
                body = parse_json(await self._body(request, _MAX_JSON_BYTES))
            except ValueError as error:
                raise InputError(f"not JSON ({error})") from error
            check_schema(body, Agreement, "the request")
            await run_sync(self._agree, body["speaker"], body["text"])
        return JSONResponse({"has_agreed": True}, headers=_HEADERS)

    def _agree(self, speaker: str, text: str) -> None:
        with self._writing:
            self._recordings.agree(speaker, text)

    async def image(self, request: Request) -> Response:
        sentence = self._sentence(request)
        if not sentence.image:
            raise HTTPException(404, "this sentence has no image")
        with _http_errors(404):
            path = path_within(self._recordings.folder / IMAGES, sentence.image)
        return _file(path)

    async def recording(self, request: Request) -> Response:
        with _http_errors(404):
            path = self._recordings.path(request.query_params.get("speaker", ""), self._sentence(request))
            path_within(self._recordings.folder, path)
        return _file(path)

    async def record(self, request: Request) -> Response:
        """Keeps the recording in the body, or answers 422 with the reason why it cannot be kept."""
        speaker, sentence = request.query_params.get("speaker", ""), self._sentence(request)
        if not self._recordings.has_agreed(speaker):  # before a byte of it is read
            raise HTTPException(403, "nothing is recorded before you have agreed to the consent text")
        content = await self._body(request, self._max_upload_bytes)
        with _http_errors():
            level = await run_sync(self._record, speaker, sentence, content)
        return JSONResponse({"level_dbfs": round(level, 1)}, headers=_HEADERS)

    def _record(self, speaker: str, sentence: Sentence, content: bytes) -> float:
        samples, rate_hz, level_dbfs = self._decoder.call(
            decode_recording, content, sentence.question, seconds=DECODE_SECONDS
        )
        with self._writing:
            self._recordings.add(speaker, sentence, samples, rate_hz)
        return level_dbfs

    def _sentence(self, request: Request) -> Sentence:
        number = request.path_params["number"]
        if number >= len(self._recordings.sentences):
            raise HTTPException(404, f"there is no sentence {number}")
        return self._recordings.sentences[number]

    async def _body(self, request: Request, max_bytes: int) -> bytes:
        """The body of a request that says how long it is; never more than `max_bytes` of it are in memory."""
        length = request.headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,15}", length):
            raise HTTPException(411, "an upload needs a Content-Length")
        if int(length) > max_bytes:
            raise HTTPException(413, f"over {max_bytes} bytes")
        return await request.body()  # the server reads as many bytes as the length says


def _file(path: Path) -> Response:
    if not path.is_file():
        return PlainTextResponse("not found", 404, headers=_HEADERS)
    return FileResponse(path, headers=_HEADERS)
