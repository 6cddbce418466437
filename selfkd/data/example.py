"""The record that every stage reads and writes, and the folder of Parquet shards that holds it.

A folder is complete when it holds `manifest.json`, which is written last. `datasets.load_dataset` and pyarrow read the
shards as they are: image (PNG) and speech (FLAC, mono, 16 kHz) are encoded bytes in the layout of `datasets.Image` and
`datasets.Audio`.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from numpy.typing import NDArray
from PIL import Image

from selfkd.data.media import decode_audio, decode_image, image_size
from selfkd.errors import InputError
from selfkd.files import write_atomically

Item = TypeVar("Item")
SCHEMA_VERSION = 3
ROWS_PER_GROUP = 16  # what must be read to get at one of them
MANIFEST = "manifest.json"
REJECTED = "rejected"  # folder of what was spoken and refused
SAMPLE_RATE_HZ = 16_000
SHORTEST_SECONDS = 0.025  # one window of the spectrogram
LONGEST_SECONDS = 30.0  # what Whisper's ears read at once


@dataclass(frozen=True)
class Example:
    id: str
    question: str  # what is spoken in the speech view and written in the text view
    answer: str  # the response to learn, in whatever words the source has
    source: str
    question_type: str  # how `target` is scored: see evaluation/grading.py
    target: str  # the right short answer; equals `answer` where the source makes no mistakes
    category: str = ""  # a subset of the source, for tables
    instruction: str = ""  # stays written in both views, before the question
    answer_format: str = ""  # stays written in both views, after the question: "\nAnswer with one word."
    details: str = ""  # JSON: what a benchmark's rule of scoring needs beside `target`
    image: bytes | None = None  # PNG or JPEG
    audio: bytes | None = None  # FLAC
    voice: str = ""
    duration_seconds: float = 0.0
    spoken_text: str = ""  # the question in the words that were given to the voice
    transcript: str = ""  # what ASR made of the speech, where it was asked
    word_error_rate: float = -1.0  # of `transcript` against `spoken_text`; -1 where ASR was not asked
    augmentation: str = ""  # what was done to the voice: "room, noise 12 dB"
    rejected: str = ""  # why it is not among the data: only rows of the folder `REJECTED` have a reason

    def load_image(self) -> Image.Image | None:
        """The decoded image, RGB, upright; raises InputError naming the example where it cannot be read."""
        if self.image is None:
            return None
        try:
            return decode_image(self.image)
        except InputError as error:
            raise InputError(f"example {self.id}: field image: {error}") from error

    def samples(self) -> NDArray[np.float32]:
        """The decoded speech, mono, 16 kHz; raises InputError naming the example where it cannot be read."""
        if self.audio is None:
            raise InputError(f"example {self.id}: field audio: this example has not been spoken (selfkd synthesize)")
        try:
            samples, rate_hz, channels = decode_audio(self.audio)
        except InputError as error:
            raise InputError(f"example {self.id}: field audio: {error}") from error
        if rate_hz != SAMPLE_RATE_HZ or channels != 1:
            found = f"{channels} channels at {rate_hz} Hz"
            raise InputError(f"example {self.id}: field audio: {found}, expected mono at {SAMPLE_RATE_HZ} Hz")
        return samples

    def spoken(self, samples: NDArray[np.float32], voice: str, spoken_text: str = "") -> "Example":
        """Raises InputError, naming the field, for samples that are no numbers."""
        if not np.isfinite(samples).all():
            raise InputError("field audio: holds samples that are no numbers")
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
        seconds, spoken_text = len(samples) / SAMPLE_RATE_HZ, spoken_text or self.question
        return replace(self, audio=buffer.getvalue(), voice=voice, duration_seconds=seconds, spoken_text=spoken_text)


def image_to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def index_of(example: Example) -> dict[str, Any]:
    """What the shards say of a picture beside the picture: its hash ("" without one), its size upright in pixels, 0
    where it cannot be read."""
    if example.image is None:
        return dict(zip(INDEX_COLUMNS, ("", 0, 0), strict=True))
    width, height = image_size(example.image) or (0, 0)
    return dict(zip(INDEX_COLUMNS, (image_hash(example.image), width, height), strict=True))


def image_hash(image: bytes) -> str:
    return hashlib.blake2b(image, digest_size=8).hexdigest()


INDEX_COLUMNS = ("image_hash", "image_width", "image_height")
_BINARY = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FEATURES = {"image": {"_type": "Image"}, "audio": {"sampling_rate": SAMPLE_RATE_HZ, "_type": "Audio"}}


def _schema() -> pa.Schema:
    columns, features = [], {}
    for field in fields(Example):
        arrow, name = (pa.float64(), "float64") if field.type is float else (pa.string(), "string")
        columns.append((field.name, _BINARY if field.name in _FEATURES else arrow))
        features[field.name] = _FEATURES.get(field.name, {"dtype": name, "_type": "Value"})
    for column, name in zip(INDEX_COLUMNS, ("string", "int32", "int32"), strict=True):
        columns.append((column, pa.type_for_alias(name)))
        features[column] = {"dtype": name, "_type": "Value"}
    # what `datasets` and the hub's viewer look for, so that they show pictures and players without being told
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}})})


SCHEMA = _schema()


def write_shard(path: Path, examples: Iterable[Example], metadata: dict[str, Any]) -> None:
    """Writes one Parquet file under a temporary name, a row group at a time, then renames it. `metadata` travels in the
    file's footer, as it is when the last example has been taken."""
    # nothing compresses PNG and FLAC; of the small columns beside them Snappy opens 24 a row group at once, Zstandard
    # in a millisecond
    with write_atomically(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="snappy") as writer:
        for some in groups_of(examples, ROWS_PER_GROUP):
            writer.write_table(pa.Table.from_pylist([_row(e) for e in some], schema=SCHEMA))
        writer.add_key_value_metadata({"selfkd": json.dumps(metadata)})


def groups_of(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one of what is left."""
    iterator = iter(items)
    return iter(lambda: list(islice(iterator, size)), [])


def _row(example: Example) -> dict[str, Any]:
    row = asdict(example) | index_of(example)
    for name, suffix in (("image", "png"), ("audio", "flac")):
        row[name] = row[name] and {"bytes": row[name], "path": f"{example.id}.{suffix}"}
    return row


def example_of_row(row: dict[str, Any]) -> Example:
    """An example from a row of a shard."""
    values = {k: v for k, v in row.items() if k not in INDEX_COLUMNS}
    return Example(**{k: v["bytes"] if isinstance(v, dict) else v for k, v in values.items()})


def shard_metadata(path: Path) -> dict[str, Any]:
    return json.loads(pq.read_metadata(path).metadata[b"selfkd"])


# types of what the commands read; a folder need not have all of it
_MANIFEST: dict[str, type] = {
    "shards": list, "rejected_shards": list, "rejected": list, "voice_names": list, "word_error_rates": dict,
    "rows": int, "seed": int, "source": str, "language": str, "engine_name": str, "engine_license": str,
    "source_license": str, "asr_filter": str, "split": str,
}  # fmt: skip


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a complete folder; raises InputError where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        unfinished = folder.is_dir() and "unfinished: run the same synthesize command again"
        raise InputError(
            f"{path}: not found ({unfinished or ('a file, no folder' if folder.exists() else 'no such folder')})"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a manifest ({error})") from error
    if not isinstance(manifest, dict):
        raise InputError(f"{path}: not a manifest (no JSON object)")
    for name, question_type in _MANIFEST.items():
        if name in manifest and (not isinstance(manifest[name], question_type) or isinstance(manifest[name], bool)):
            raise InputError(f"{path}: field {name}: {manifest[name]!r:.60} is no {question_type.__name__}")
    for name in ("shards", "rejected_shards"):
        for entry in manifest.get(name, []):
            file = entry.get("file") if isinstance(entry, dict) else None
            if not isinstance(file, str) or Path(file).is_absolute() or ".." in Path(file).parts:
                raise InputError(f"{path}: field {name}: {entry!r:.60} does not name a file of the folder")
    if "shards" not in manifest:
        raise InputError(f"{path}: field shards: not in the manifest")
    return manifest


def language_code(language: str) -> str:
    """ "de" of "de-AT"."""
    return language.lower().partition("-")[0]
