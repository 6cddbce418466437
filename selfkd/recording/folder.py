"""A folder of recordings: what is in it, and the changes that are made to it, each whole or not at all.

    recording.json       the sentences, the consent text (see `sentences.py`)
    images/              their images
    consents.json        who agreed to which text, and when
    audio/SPEAKER/*.flac a file for each sentence that a speaker has read
    NAME.jsonl           the recorded source: a row for each of these files

The audio files are the record: the table is written from them again after each change, so that a process that is
stopped between the two loses nothing.
"""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import soundfile
from numpy.typing import NDArray
from typing_extensions import TypedDict

from selfkd.errors import InputError
from selfkd.files import (
    case_key,
    check_name,
    in_sole_use,
    path_within,
    write_atomically,
    write_folder_atomically,
    write_json,
    write_text,
)
from selfkd.json_files import read_json
from selfkd.recording.config import RecordConfig
from selfkd.recording.reading_list import write_reading_list
from selfkd.recording.sentences import (
    IMAGES,
    SETTINGS,
    RecordingSettings,
    Sentence,
    consent_text,
    read_settings,
    read_source,
    stored,
)

AUDIO, CONSENTS = "audio", "consents.json"
_SUFFIX = ".flac"


class Consent(TypedDict):
    """That a speaker agreed to a text, and when; `on_paper` where the date is that of a mapping."""

    text: str
    agreed: str
    on_paper: NotRequired[bool]


class RecordingFolder:
    """The recordings of one folder. Not thread-safe; `opened` keeps other processes out."""

    def __init__(self, folder: Path):
        """Raises InputError for a folder that is damaged, or has no sentences."""
        self.folder = folder
        self.settings: RecordingSettings = read_settings(folder)
        self.sentences = tuple(Sentence(**row) for row in self.settings["sentences"])
        path = folder / CONSENTS
        self.consents: dict[str, Consent] = read_json(path, dict[str, Consent]) if path.is_file() else {}
        for speaker in self.consents:
            check_speaker(speaker)

    @property
    def table(self) -> Path:
        """The recorded source."""
        return self.folder / f"{self.settings['name']}.jsonl"

    def has_agreed(self, speaker: str) -> bool:
        """Whether a speaker has agreed to the consent text as it is now."""
        return speaker in self.consents and self.consents[speaker]["text"] == self.settings["consent"]

    def agree(self, speaker: str, text: str, day: str = "") -> None:
        """Writes that a speaker agreed to a text: now, or on a `day` on paper. Raises InputError for a name that can
        be no folder, and for another text than the folder's."""
        check_speaker(speaker)
        same = [known for known in self.consents if case_key(known) == case_key(speaker) and known != speaker]
        if same:
            raise InputError(f"speaker: {speaker!r} and {same[0]!r} are one name on some systems; choose another")
        if text != self.settings["consent"]:
            raise InputError("consent: the text has changed; read it again")
        consent = Consent(text=text, agreed=day or datetime.now(UTC).isoformat(timespec="seconds"))
        if day:
            consent["on_paper"] = True
        consents = self.consents | {speaker: consent}
        write_json(self.folder / CONSENTS, consents)
        self.consents = consents

    def recorded(self, speaker: str) -> set[str]:
        """The ids of the sentences that a speaker has read."""
        try:
            names = {path.name for path in self._folder_of(speaker).iterdir()}
        except FileNotFoundError:
            return set()
        return {s.id for s in self.sentences if f"{s.file_stem}{_SUFFIX}" in names}

    def path(self, speaker: str, sentence: Sentence) -> Path:
        return self._folder_of(speaker) / f"{sentence.file_stem}{_SUFFIX}"

    def add(self, speaker: str, sentence: Sentence, samples: NDArray[np.float32], rate_hz: int) -> None:
        """Keeps a recording, in place of an earlier one of the same sentence. Raises InputError without consent."""
        if not self.has_agreed(speaker):
            raise InputError(f"speaker: {speaker!r} has not agreed to the consent text; nothing is recorded before")
        buffer = BytesIO()
        soundfile.write(buffer, samples, rate_hz, format="FLAC", subtype="PCM_16")
        with write_atomically(self.path(speaker, sentence)) as temporary:
            temporary.write_bytes(buffer.getvalue())
        self.write_table()

    def write_table(self) -> None:
        """Writes the recorded source from the audio files. With several speakers an id says whose recording it is."""
        rows = [json.dumps(row, ensure_ascii=False) for speaker in sorted(self.consents) for row in self._rows(speaker)]
        if rows or self.table.is_file():
            write_text(self.table, "".join(f"{row}\n" for row in rows))

    def _rows(self, speaker: str) -> Iterator[dict[str, Any]]:
        recorded = self.recorded(speaker)
        for sentence in self.sentences:
            if sentence.id in recorded:
                row: dict[str, Any] = {**stored(sentence), "id": f"{sentence.id}-{speaker}", "speaker": speaker}
                row["image"] = sentence.image and f"{IMAGES}/{sentence.image}"
                row["speech"] = f"{AUDIO}/{speaker}/{sentence.file_stem}{_SUFFIX}"
                yield row

    def _folder_of(self, speaker: str) -> Path:
        check_speaker(speaker)
        return path_within(self.folder, f"{AUDIO}/{speaker}")

    def progress(self) -> dict[str, int]:
        """{speaker: number of sentences read}."""
        return {speaker: len(self.recorded(speaker)) for speaker in sorted(self.consents)}

    def next_commands(self) -> list[str]:
        """The commands that make a dataset of the recordings and evaluate on it."""
        data = self.folder.with_name(f"{self.folder.name}-data")
        settings = self.settings
        synthesize = ["selfkd", "synthesize", "--source", "jsonl", "--path", str(self.table)]
        synthesize += ["--images", str(self.folder), "--split", settings["split"], "--count", "0"]
        synthesize += ["--language", settings["language"]] if settings["language"] != "en" else []
        synthesize += ["--source_license", settings["license"]] if settings["license"] else []
        evaluate = ["selfkd", "evaluate", "selfkd-tiny", "--data", str(data), "--output", f"runs/{self.folder.name}"]
        return [shlex.join([*synthesize, "--output", str(data)]), shlex.join(evaluate)]


def check_speaker(name: str) -> None:
    """Raises InputError for a name that cannot be that of a folder on any system."""
    try:
        check_name(name)
        if name.startswith("."):
            raise InputError(name)
    except InputError:
        raise InputError(f"speaker: {name[:80]!r} cannot be a speaker's name: letters, digits, blanks and -") from None


@contextmanager
def opened(config: RecordConfig) -> Iterator[RecordingFolder]:
    """The folder of a configuration, begun where there is none, in sole use. Raises InputError where the source or the
    consent text is given and another than the folder's."""
    folder = config.output
    if not (folder / SETTINGS).is_file():
        with write_folder_atomically(folder) as new:
            settings = read_source(config, new / IMAGES)
            write_json(new / SETTINGS, settings)
            write_reading_list(new, settings)
    elif config.source or config.consent or config.license:
        _check_same(config)
    with existing(folder) as recordings:
        yield recordings


@contextmanager
def existing(folder: Path) -> Iterator[RecordingFolder]:
    """A folder that `selfkd record` has begun, in sole use."""
    read_settings(folder)
    with in_sole_use(folder, folder / ".lock"):
        recordings = RecordingFolder(folder)
        for partial in (folder / AUDIO).rglob(f".*{_SUFFIX}.*"):  # of a process that was killed
            partial.unlink(missing_ok=True)
        recordings.write_table()
        yield recordings


def _check_same(config: RecordConfig) -> None:
    settings = read_settings(config.output)
    if config.source:
        found = read_source(config, config.output / IMAGES)
        for field in ("name", "split", "language", "sentences"):
            if found[field] != settings[field]:
                raise InputError(
                    f"output: {config.output}: was begun with another {field} of the source; give another folder"
                )
    if config.license and config.license != settings["license"]:
        raise InputError(f"license: {config.license}: {config.output} was begun with {settings['license'] or 'none'}")
    if config.consent and consent_text(config) != settings["consent"]:
        raise InputError(f"consent: {config.consent}: not the text that {config.output} was begun with")
