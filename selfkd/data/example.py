"""The record that every stage reads and writes, and the folder of Parquet shards that holds it.

A folder is complete when it holds `manifest.json`, which is written last. `datasets.load_dataset` and pyarrow read the
shards as they are: image (PNG) and audio (FLAC or Opus, mono, 16 kHz) are encoded bytes in the layout of
`datasets.Image` and `datasets.Audio`.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, NotRequired, Required, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import TypedDict

from selfkd.data.media import decode_audio, decode_image, image_size
from selfkd.errors import InputError
from selfkd.files import write_atomically
from selfkd.json_files import check_schema, parse_json, read_json

Item = TypeVar("Item")
SCHEMA_VERSION = 4
ROWS_PER_GROUP = 16  # of a Parquet row group, which is read as a whole to get one row
MANIFEST = "manifest.json"
REJECTED = "rejected"  # folder of the examples that were synthesized and rejected
SAMPLE_RATE_HZ = 16_000
SHORTEST_SECONDS = 0.025  # one window of the spectrogram
MAX_AUDIO_SECONDS = 30.0  # the window of Whisper's encoder


HISTORY = "history"  # field and column of the earlier turns


@dataclass(frozen=True)
class ExampleTurn:
    """An earlier turn of a conversation; its fields are those of an `Example`, which holds the last turn."""

    question: str
    answer: str
    question_type: str = "open"
    target: str = ""
    instruction: str = ""
    answer_format: str = ""
    audio: bytes | None = None
    duration_seconds: float = 0.0
    spoken_text: str = ""
    transcript: str = ""
    word_error_rate: float = -1.0
    augmentation: str = ""


@dataclass(frozen=True)
class Example:
    """A question with its response, or a conversation: its last turn, and the earlier ones in `history`."""

    id: str
    question: str  # audio in an audio query, text in a text query
    answer: str  # the response to train on, as the source words it
    source: str
    question_type: str  # selects the grading rule: see evaluation/grading.py
    target: str  # the reference answer, short; equals `answer` where the source has no label noise
    category: str = ""  # a subset of the source, a row of result tables
    instruction: str = ""  # text before the question in both modalities
    answer_format: str = ""  # text after the question in both modalities: "\nAnswer with one word."
    details: str = ""  # JSON: what a benchmark's grading rule needs in addition to `target`
    image: bytes | None = None  # PNG or JPEG
    audio: bytes | None = None  # FLAC or Ogg Opus
    voice: str = ""
    duration_seconds: float = 0.0
    spoken_text: str = ""  # the question after text normalization: the input of the TTS engine
    transcript: str = ""  # of `audio` by the ASR filter; empty without one
    word_error_rate: float = -1.0  # of `transcript` against `spoken_text`; -1 without an ASR filter
    augmentation: str = ""  # effects on the audio: "room, noise 12 dB"
    rejected: str = ""  # the reason, in rows of the folder `REJECTED` only
    history: tuple[ExampleTurn, ...] = ()  # the earlier turns of a conversation, whose image is in the first

    def at_turn(self, number: int) -> "Example":
        """The conversation up to the turn `number`, counted from 0; a single question is its own turn 0."""
        if number == len(self.history):
            return self
        return replace(self, details="", **vars(self.history[number]), history=self.history[:number])

    def with_turns(self, turns: Sequence["Example"]) -> "Example":
        """The conversation with the fields of `ExampleTurn` of `turns`, one for each turn."""
        names = [field.name for field in fields(ExampleTurn)]
        *earlier, last = [{name: getattr(turn, name) for name in names} for turn in turns]
        return replace(self, **last, history=tuple(ExampleTurn(**values) for values in earlier))

    @property
    def speech_seconds(self) -> float:
        """Seconds of audio in all turns."""
        return sum((turn.duration_seconds for turn in self.history), self.duration_seconds)

    def load_image(self) -> Image.Image | None:
        """The decoded image, RGB, upright. Raises InputError, naming the example, where it cannot be decoded."""
        if self.image is None:
            return None
        try:
            return decode_image(self.image)
        except InputError as error:
            raise InputError(f"example {self.id}: field image: {error}") from error

    def samples(self) -> NDArray[np.float32]:
        """The decoded audio (frames,), mono, 16 kHz; raises InputError, naming the example, where it cannot be
        decoded."""
        if self.audio is None:
            raise InputError(f"example {self.id}: field audio: no audio; selfkd synthesize makes it")
        try:
            samples, rate_hz, channels = decode_audio(self.audio)
        except InputError as error:
            raise InputError(f"example {self.id}: field audio: {error}") from error
        if rate_hz != SAMPLE_RATE_HZ or channels != 1:
            found = f"{channels} channels at {rate_hz} Hz"
            raise InputError(f"example {self.id}: field audio: {found}, expected mono at {SAMPLE_RATE_HZ} Hz")
        return samples

    def turns(self) -> Iterator["Example"]:
        """The conversation up to each of its turns, in their order. An InputError within a turn before the last, such
        as that of its `samples`, names the turn."""
        for number, _ in enumerate(self.history):
            yield replace(self.at_turn(number), id=f"{self.id}: field {HISTORY}: turn {number + 1}")
        yield self

    def with_audio(self, samples: NDArray[np.float32], voice: str, spoken_text: str = "") -> "Example":
        """The example with `samples` (frames,) at 16 kHz as its audio. Raises InputError for NaN and infinity."""
        if not np.isfinite(samples).all():
            raise InputError("field audio: holds NaN or infinite samples")
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
        seconds, spoken_text = len(samples) / SAMPLE_RATE_HZ, spoken_text or self.question
        return replace(self, audio=buffer.getvalue(), voice=voice, duration_seconds=seconds, spoken_text=spoken_text)


def image_to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def image_columns(example: Example) -> dict[str, Any]:
    """The columns that index an image: its hash ("" without an image) and its upright size in pixels, 0 where it cannot
    be decoded."""
    if example.image is None:
        return dict(zip(IMAGE_COLUMNS, ("", 0, 0), strict=True))
    width, height = image_size(example.image) or (0, 0)
    return dict(zip(IMAGE_COLUMNS, (image_hash(example.image), width, height), strict=True))


def image_hash(image: bytes) -> str:
    return hashlib.blake2b(image, digest_size=8).hexdigest()


IMAGE_COLUMNS = ("image_hash", "image_width", "image_height")
_BINARY = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FEATURES = {"image": {"_type": "Image"}, "audio": {"sampling_rate": SAMPLE_RATE_HZ, "_type": "Audio"}}


def _columns(of: type) -> tuple[list[tuple[str, pa.DataType]], dict[str, Any]]:
    """(names and types of the columns, their features in `datasets`) of a dataclass."""
    columns, features = [], {}
    for field in fields(of):
        if field.name == HISTORY:
            continue
        arrow, name = (pa.float64(), "float64") if field.type is float else (pa.string(), "string")
        columns.append((field.name, _BINARY if field.name in _FEATURES else arrow))
        features[field.name] = _FEATURES.get(field.name, {"dtype": name, "_type": "Value"})
    return columns, features


def _schema(with_history: bool) -> pa.Schema:
    columns, features = _columns(Example)
    for column, name in zip(IMAGE_COLUMNS, ("string", "int32", "int32"), strict=True):
        columns.append((column, pa.type_for_alias(name)))
        features[column] = {"dtype": name, "_type": "Value"}
    if with_history:
        turn, of_turn = _columns(ExampleTurn)
        columns.append((HISTORY, pa.list_(pa.struct(turn))))
        features[HISTORY] = {"feature": of_turn, "_type": "List"}
    # `datasets` and the hub's viewer show images and audio players by this metadata
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}})})


SCHEMA = _schema(with_history=False)
CONVERSATIONS = _schema(with_history=True)  # the schema of a folder of conversations


def write_shard(path: Path, examples: Iterable[Example], metadata: dict[str, Any], schema: pa.Schema = SCHEMA) -> None:
    """Writes one Parquet file under a temporary name, a row group at a time, then renames it. `metadata` goes into the
    file's footer, with its value after the last example. Conversations need the schema `CONVERSATIONS`."""
    # PNG and FLAC do not compress; Snappy decodes the 24 small columns of a row group faster than Zstandard (1 ms)
    with write_atomically(path) as temporary, pq.ParquetWriter(temporary, schema, compression="snappy") as writer:
        for some in groups_of(examples, ROWS_PER_GROUP):
            assert schema is CONVERSATIONS or not any(e.history for e in some), "turns would be lost"  # noqa: S101 an invariant of this code, no check of input
            writer.write_table(pa.Table.from_pylist([_row(e) for e in some], schema=schema))
        writer.add_key_value_metadata({"selfkd": json.dumps(metadata)})


def groups_of(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last list holds the rest."""
    iterator = iter(items)
    return iter(lambda: list(islice(iterator, size)), [])


def _row(example: Example) -> dict[str, Any]:
    row = asdict(example) | image_columns(example)
    row["image"] = row["image"] and {"bytes": row["image"], "path": f"{example.id}.png"}
    row["audio"] = _stored_audio(row["audio"], example.id)
    for number, turn in enumerate(row[HISTORY]):
        turn["audio"] = _stored_audio(turn["audio"], f"{example.id}-{number:02d}")
    return row


def _stored_audio(audio: bytes | None, name: str) -> dict[str, Any] | bytes | None:
    suffix = "opus" if (audio or b"").startswith(b"OggS") else "flac"
    return audio and {"bytes": audio, "path": f"{name}.{suffix}"}


def example_from_row(row: dict[str, Any]) -> Example:
    """An example from a row of a shard."""
    values = {k: v for k, v in row.items() if k not in (*IMAGE_COLUMNS, HISTORY)}
    history = tuple(ExampleTurn(**_with_bytes(turn)) for turn in row.get(HISTORY, ()))
    return Example(**_with_bytes(values), history=history)


def _with_bytes(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v["bytes"] if isinstance(v, dict) else v for k, v in values.items()}


def shard_metadata(path: Path) -> dict[str, Any]:
    """The metadata in the footer of a shard; raises InputError where it has none that `selfkd synthesize` wrote."""
    try:
        found = parse_json((pq.read_metadata(path).metadata or {})[b"selfkd"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: no shard of selfkd synthesize (its footer: {error})") from error
    check_schema(found, Footer, str(path))
    return found


class Shard(TypedDict):
    file: str
    rows: NotRequired[int]
    sha256: NotRequired[str]


class Rejected(TypedDict):
    id: str
    reason: str


class Footer(TypedDict):
    """What `selfkd synthesize` writes into the footer of a shard."""

    rows: int
    rejected: NotRequired[list[Rejected]]  # of the shards with audio for training and evaluation


class Manifest(TypedDict, total=False):
    """The fields of a manifest that the commands read; a folder need not have all of them."""

    shards: Required[list[Shard]]
    rejected_shards: list[Shard]
    rejected: list[Rejected]
    rows: int
    seed: int
    voice_names: list[str]
    word_error_rates: dict[str, Any]
    source: str
    language: str
    engine_name: str
    engine_license: str
    source_license: str
    asr_filter: str
    split: str


class ReportedManifest(TypedDict):
    """The fields of an audio quality report."""

    engine_name: str
    asr_filter: str
    rejected: list[Rejected]


class PublishedManifest(ReportedManifest):
    """The fields of a dataset card."""

    rows: int
    seed: int
    voice_names: list[str]
    source: str
    source_license: str
    engine_license: str


def language_code(language: str) -> str:
    """ "de" of "de-AT"."""
    return language.lower().partition("-")[0]


def check_schema_version(path: Path, version: Any) -> None:
    """Raises InputError, naming the file, for the version of another release: its columns have other names."""
    if version != SCHEMA_VERSION:
        age = "a newer" if isinstance(version, int) and version > SCHEMA_VERSION else "an older"
        raise InputError(
            f"{path}: field schema_version: {version}, not {SCHEMA_VERSION}: {age} selfkd wrote this folder; "
            "synthesize it again"
        )


def read_manifest(folder: Path, schema: Any = Any) -> dict[str, Any]:
    """The manifest of a complete folder; raises InputError where it is missing, damaged, of another version, or lacks a
    field of `schema`."""
    path = folder / MANIFEST
    if not path.is_file():
        unfinished = folder.is_dir() and "unfinished: run the same synthesize command again"
        raise InputError(
            f"{path}: not found ({unfinished or ('a file, no folder' if folder.exists() else 'no such folder')})"
        )
    manifest = read_json(path, dict[str, Any])
    check_schema_version(path, manifest.get("schema_version", SCHEMA_VERSION))
    check_schema(manifest, Manifest, str(path))
    check_schema(manifest, schema, str(path))
    for name in ("shards", "rejected_shards"):
        for entry in manifest.get(name, []):
            if Path(entry["file"]).is_absolute() or ".." in Path(entry["file"]).parts:
                raise InputError(f"{path}: field {name}: {entry!r:.60} does not name a file of the folder")
    return manifest
