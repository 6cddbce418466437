"""The sentences that people read: the questions of a source, with their images, and the files that hold them.

Reads any source of `selfkd synthesize` without recordings of its own; writes `recording.json`, which has everything
that the page and the recorded source need, and `images/`.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from selfkd.data.example import Example, image_hash
from selfkd.data.media import decode_image
from selfkd.errors import InputError
from selfkd.files import check_name, path_within, write_atomically
from selfkd.json_files import read_json
from selfkd.recording.config import RecordConfig
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.sources.registry import Source, open_source
from selfkd.synthesis.sources.rows import RowSource

SETTINGS = "recording.json"
IMAGES = "images"
MAX_SENTENCES = 20_000  # a year of evenings; the table of recordings is written again after each of them
_SLUG_CHARACTERS = 40
_NOT_IN_SLUG = re.compile(r"[^A-Za-z0-9]+")
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif"}
_CONSENT = (
    "I agree that my voice is recorded while I read these sentences aloud. The recordings are kept together with the "
    "name that I give, which need not be my own. They are used to train and to evaluate computer models that process "
    "speech{license}. I may end at any time, and I may have my recordings deleted as long as they have not been passed "
    "on."
)


@dataclass(frozen=True)
class Sentence:
    """A question to read, and what the recorded source says about it; `image` is a file name in `images/`, "" for
    none."""

    id: str
    question: str
    answer: str
    image: str = ""
    instruction: str = ""
    answer_format: str = ""
    category: str = ""
    question_type: str = "open"

    @property
    def file_stem(self) -> str:
        """The name of its recordings, without extension: that of no other sentence, whatever characters its id has."""
        key = hashlib.blake2b(f"{self.id}\0{self.question}".encode(), digest_size=4).hexdigest()
        slug = _NOT_IN_SLUG.sub("-", self.id).strip("-")[-_SLUG_CHARACTERS:].strip("-")
        return f"{slug}-{key}" if slug else key


class StoredSentence(TypedDict):
    id: str
    question: str
    answer: str
    image: str
    instruction: str
    answer_format: str
    category: str
    question_type: str


class LeftOut(TypedDict):
    id: str
    reason: str


class RecordingSettings(TypedDict):
    """`recording.json`."""

    name: str
    language: str
    license: str
    split: str
    consent: Annotated[str, Field(min_length=1)]
    sentences: Annotated[list[StoredSentence], Field(min_length=1)]
    left_out: list[LeftOut]


def read_settings(folder: Path) -> RecordingSettings:
    """Raises InputError for a folder without sentences, and for damaged ones."""
    if not (folder / SETTINGS).is_file():
        raise InputError(f"output: {folder}: has no {SETTINGS}; selfkd record --source ... --output {folder} begins it")
    settings = read_json(folder / SETTINGS, RecordingSettings)
    check_name(settings["name"])
    for row in settings["sentences"]:
        if row["image"]:
            path_within(folder / IMAGES, row["image"])
    return settings


def stored(sentence: Sentence) -> StoredSentence:
    return StoredSentence(**asdict(sentence))  # type: ignore[typeddict-item]  # of the same fields


def read_source(config: RecordConfig, images: Path) -> RecordingSettings:
    """The settings of a folder that is begun. Writes the images into `images`. Raises InputError, naming the field, for
    a source without a sentence that can be read; sentences whose image or text cannot be used are left out."""
    source = _open(config)
    count = config.count or len(source)
    if count > MAX_SENTENCES:
        raise InputError(f"count: {count} sentences are too many to read, at most {MAX_SENTENCES} are taken")
    sentences: list[Sentence] = []
    left_out: list[LeftOut] = []
    for index in range(count):
        try:
            sentences.append(_sentence(source.example(index), images))
        except InputError as error:
            left_out.append(LeftOut(id=source.id_and_question(index)[0], reason=str(error)))
    if not sentences:
        why = f" ({left_out[0]['reason']})" if left_out else ""
        raise InputError(f"source: {config.path or config.source}: has no sentence to read{why}")
    check_name(source.name)
    _check_ids(sentences)
    return RecordingSettings(
        name=source.name,
        language=config.language,
        license=config.license,
        split=config.split,
        consent=consent_text(config),
        sentences=[stored(sentence) for sentence in sentences],
        left_out=left_out,
    )


def consent_text(config: RecordConfig) -> str:
    """What speakers agree to: the text of the file that the configuration names, or the package's own."""
    if not config.consent:
        return _CONSENT.format(
            license=f", and may be published under the license {config.license}" * bool(config.license)
        )
    path = Path(config.consent)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"consent: {path}: not a text file ({error})") from error
    if not text:
        raise InputError(f"consent: {path}: empty")
    return text


def _open(config: RecordConfig) -> Source:
    if not config.source:
        raise InputError(f"source: missing; {config.output} has no sentences yet")
    source = open_source(
        SynthesizeConfig(
            config.output,
            source=config.source,
            path=config.path,
            images=config.images,
            columns=config.columns,
            split=config.split,
            count=config.count,
            seed=config.seed,
            language=config.language,
        )
    )
    if isinstance(source, RowSource) and source.is_recorded:
        raise InputError(f"source: {config.path}: its questions are recorded already; selfkd synthesize reads them")
    return source


def _sentence(example: Example, images: Path) -> Sentence:
    """Writes the image of an example, under its hash."""
    if not example.question.strip():
        raise InputError("field question: empty")
    image = ""
    if example.image is not None:
        decode_image(example.image)
        image = f"{image_hash(example.image)}{_suffix(example.image)}"
        if not (images / image).is_file():
            with write_atomically(images / image) as temporary:
                temporary.write_bytes(example.image)
    return Sentence(
        id=example.id,
        question=example.question,
        answer=example.target,
        image=image,
        instruction=example.instruction.removesuffix("\n"),
        answer_format=example.answer_format.removeprefix("\n"),
        category=example.category,
        question_type=example.question_type,
    )


def _suffix(image: bytes) -> str:
    """By the first bytes; any program opens an image of another format by its content."""
    heads = {b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"RIFF": "WEBP", b"GIF8": "GIF"}
    return next((_SUFFIXES[name] for head, name in heads.items() if image.startswith(head)), "")


def _check_ids(sentences: Sequence[Sentence]) -> None:
    known: set[str] = set()
    for sentence in sentences:
        if sentence.id in known:
            raise InputError(f"field id: {sentence.id!r} of more than one sentence")
        known.add(sentence.id)


def is_date(text: Any) -> bool:
    """Whether a text is a day that has been, as YYYY-MM-DD."""
    try:
        return date.fromisoformat(text) <= date.today()
    except (TypeError, ValueError):
        return False
