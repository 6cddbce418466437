"""The finished rows of a shard that is not finished: an interrupted run resumes with the next row.

A journal stands next to the shard, one line of JSON for each turn of a row: its audio, or why the engine has none, and,
once the ASR filter has read it, its transcript. The first line names what the rows depend on; a journal of anything
else is begun again. Images are not in it, for reading them costs little.
"""

import base64
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.json_files import check_schema, lines_of, parse_json

AUDIO_FIELDS = ("voice", "duration_seconds", "spoken_text", "augmentation")  # of an example, next to its audio


class _Header(TypedDict):
    key: str


class _Line(TypedDict):
    """What became of turn `at`: audio with its fields, a reason to reject it, or the transcript of its audio."""

    at: str
    audio: NotRequired[str]  # base64
    voice: NotRequired[str]
    duration_seconds: NotRequired[float]
    spoken_text: NotRequired[str]
    augmentation: NotRequired[str]
    reason: NotRequired[str]
    transcript: NotRequired[str]
    word_error_rate: NotRequired[float]


class RowJournal:
    """The journal at `path`, of the rows that depend on `key` only. One process uses it at a time."""

    def __init__(self, path: Path, key: str):
        self._path = path
        self._offsets: dict[str, int] = {}  # of the turns' lines in the file
        self._transcripts: dict[str, tuple[str, float]] = {}
        path.touch()
        end = self._read(key)
        os.truncate(path, end)  # in place: what was cut short by a kill or a power cut is made again
        self._file = path.open("r+b")
        self._file.seek(end)
        if not end:
            self._append({"key": key})

    def _read(self, key: str) -> int:
        """Finds the whole lines; returns where they end. A damaged line ends them, for the journal is no source of
        data but of time: rows behind it are made again, with the same bytes."""
        end = 0
        with self._path.open("rb") as file:
            try:
                for line in lines_of(file, str(self._path)):
                    if not line.endswith(b"\n"):
                        break
                    value = parse_json(line)
                    check_schema(value, _Line if end else _Header, str(self._path))
                    if end:
                        self._note(value, end)
                    elif value["key"] != key:
                        break
                    end += len(line)
            except (ValueError, InputError):
                pass
        return end

    def _note(self, value: dict[str, Any], offset: int) -> None:
        if "transcript" in value:
            self._transcripts[value["at"]] = value["transcript"], value["word_error_rate"]
        else:
            self._offsets[value["at"]] = offset

    def _append(self, value: dict[str, Any]) -> None:
        """Written, and not synced: a killed process loses nothing, and after a power cut the damaged end is found."""
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()
        if offset:
            self._note(value, offset)

    def __contains__(self, at: str) -> bool:
        return at in self._offsets

    def restored(self, at: str, example: Example) -> Example:
        """The turn `at` with the audio of the journal. Raises InputError with the reason where the engine had
        none."""
        self._file.seek(self._offsets[at])
        line = parse_json(self._file.readline())
        if "reason" in line:
            raise InputError(line["reason"])
        fields = {name: line[name] for name in AUDIO_FIELDS}
        return replace(example, **fields, audio=base64.b64decode(line["audio"]))

    def add(self, at: str, example: Example) -> None:
        audio = base64.b64encode(example.audio or b"").decode()
        self._append({"at": at, **{name: getattr(example, name) for name in AUDIO_FIELDS}, "audio": audio})

    def add_reason(self, at: str, reason: str) -> None:
        self._append({"at": at, "reason": reason})

    def transcript(self, at: str) -> tuple[str, float] | None:
        """(transcript, word error rate) of turn `at`."""
        return self._transcripts.get(at)

    def add_transcript(self, at: str, example: Example) -> None:
        self._append({"at": at, "transcript": example.transcript, "word_error_rate": example.word_error_rate})

    def close(self) -> None:
        """Keeps the file where it holds a row: a folder without any is left as it was."""
        self._file.close()
        if not self._offsets and not self._transcripts:
            self._path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Once the shard is finished."""
        self._file.close()
        self._path.unlink(missing_ok=True)
