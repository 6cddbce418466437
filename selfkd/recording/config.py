"""The configuration of `selfkd record`. Imports no source and no web server: `--help` reads it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from selfkd.errors import InputError
from selfkd.serving.config import is_loopback
from selfkd.toy_world.scenes import Split

RecordedSource = Literal["", "jsonl", "datasets", "llava", "words", "world", "easy-vqa", "mmalign-world"]


@dataclass
class RecordConfig:
    """Records people who read questions about images aloud: a page with a microphone, or files of any names.

    The folder that it writes is a source of selfkd synthesize with recorded speech. Nothing is recorded before a
    speaker has agreed to the consent text. The same command resumes. The page has no login, so it accepts connections
    from this machine only.

    Args:
        output: Folder of the recordings, with the reading list.
        source: Where the questions come from, as in selfkd synthesize; not needed for a folder that has its questions.
        path: File, folder or dataset of a source that is not in the package.
        images: Folder of the images that the source names (llava, jsonl, datasets of paths).
        columns: Columns of a jsonl or datasets source with other names than the fields.
        split: Split of the source; easy-vqa has no validation split.
        count: Number of questions, sampled by the seed; 0 takes all of a finite source.
        seed: Seed of the questions.
        language: Language of the questions.
        license: License under which the recordings may be used; the default consent text and the manifest name it.
        consent: Text file with what a speaker agrees to. Default: a text of this package.
        microphone: Serve the page that records. Without it the command writes the reading list, and ends.
        files: Folder of recordings that were made elsewhere; needs the field mapping.
        mapping: CSV with the columns id, file (a path in the field files), speaker and consent_date (YYYY-MM-DD, when
            the speaker agreed to the consent text): the reading list, filled in.
        host: Address of this machine to bind to.
        port: Port to bind to; 0 takes a free one.
        max_upload_bytes: Maximum size of a recording.
    """

    output: Path
    source: RecordedSource = ""
    path: str = ""
    images: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    split: Split = "test"
    count: int = 0
    seed: int = 0
    language: str = "en"
    license: str = ""
    consent: str = ""
    microphone: bool = True
    files: str = ""
    mapping: str = ""
    host: str = "127.0.0.1"
    port: int = 7861
    max_upload_bytes: int = 20_000_000

    def __post_init__(self) -> None:
        if self.count < 0:
            raise InputError(f"count: {self.count}: must be at least 1, or 0 for all")
        if self.max_upload_bytes < 1:
            raise InputError(f"max_upload_bytes: {self.max_upload_bytes}: must be at least 1")
        if not 0 <= self.port <= 65_535:
            raise InputError(f"port: {self.port}: must be between 0 and 65535")
        if not is_loopback(self.host):
            raise InputError(f"host: {self.host}: the page has no login; only this machine's own addresses are allowed")
        if bool(self.files) != bool(self.mapping):
            missing = "mapping" if self.files else "files"
            raise InputError(f"{missing}: missing; recordings that were made elsewhere need both files and mapping")
