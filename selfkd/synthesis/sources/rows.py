"""Rows of a source: drawn by a seed, with images and recordings that are read one at a time.

Items of a list in a JSON file are read one at a time too: LLaVA's file has 665,000 and would take gigabytes of memory.
"""

import hashlib
import heapq
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfkd.data.as_text import check_text, readable, refuse_utf16
from selfkd.data.example import Example, image_hash
from selfkd.data.image_tags import IMAGE_PLACE, image_place_left, without_image_place
from selfkd.data.lazy_images import Stored
from selfkd.data.media import decode_audio, stored_image
from selfkd.data.sound_files import SUFFIXES
from selfkd.errors import InputError
from selfkd.files import path_within

_AT_ONCE = 2**20  # characters
_BETWEEN = re.compile(r"[\s,]*")
_PLAIN = json.JSONDecoder()


def json_records(path: Path, opening: str = r"\s*\[", decoder: json.JSONDecoder = _PLAIN) -> Iterator[Any]:
    """The items of the list that begins where `opening`, a pattern, is found first; raises InputError, naming file and
    item, where there is none or it cannot be read."""
    number = 0
    try:
        refuse_utf16(path)
        with path.open(encoding="utf-8-sig") as file:
            text, wanted = file.read(_AT_ONCE), _AT_ONCE
            begun = re.match(opening, text, re.DOTALL)
            if not begun:
                raise InputError(f"path: {path}: does not begin as a JSON file of this source does")
            at = begun.end()
            while True:
                at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # matches nothing too
                if text.startswith("]", at):
                    return
                try:
                    item, end = decoder.raw_decode(text, at)
                    if end == len(text):
                        raise json.JSONDecodeError("Unfinished list", text, end)
                except json.JSONDecodeError:
                    more = file.read(wanted)
                    if not more:
                        raise
                    text, at, wanted = text[at:] + more, 0, 2 * wanted  # twice as much each time: an item may be long
                    continue
                yield item
                at, wanted, number = end, _AT_ONCE, number + 1
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"path: {path}: no such file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"path: {path}: after record {number}: not UTF-8 ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"path: {path}: record {number}: not JSON ({error.msg})") from error


MAX_BYTES = 50_000_000
UNANSWERED = "no question or answer"  # why a row is skipped


class Clip(NamedTuple):
    """Recorded speech: a sound file, or a part of it in seconds (to its end where `stop` is 0); of its `channels`, from
    0, those alone where some are named. Data may name no file outside their `folder`."""

    path: Path
    start: float = 0.0
    stop: float = 0.0
    channels: tuple[int, ...] = ()
    folder: Path | None = None


class Row(NamedTuple):
    """A question as a source lists it. `image` is a file, its bytes, or where they are stored; `clip` is there where it
    has been spoken."""

    id: str
    question: str
    answer: str
    instruction: str = ""
    answer_format: str = ""
    image: Path | bytes | Stored | None = None
    clip: Clip | None = None
    category: str = ""
    tts_engine: str = ""
    question_type: str = "open"
    details: str = ""


@dataclass(frozen=True)
class RowSource:
    """A source (see sources.py) over rows; `skipped` counts what the files hold and this source has no use for."""

    name: str
    rows: tuple[Row, ...]
    license: str = "not stated"
    first: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, start: int, stop: int) -> "RowSource":
        """The rows of a shard alone, under their own numbers: all that a process needs of a large list."""
        return replace(self, rows=self.rows[start - self.first : stop - self.first], first=start)

    def sha256(self) -> str:
        """Over what the rows say and where their pictures and sound stand, none of which is read."""
        digest = hashlib.sha256()
        for row in self.rows:
            clip = row.clip and (row.clip.path.name, row.clip.start, row.clip.stop, *row.clip.channels)
            digest.update(repr((*row._replace(image=None, clip=None), _place(row.image), clip)).encode())
        return digest.hexdigest()

    def example(self, index: int) -> Example:
        """Raises InputError, naming the field, for a picture or a text that cannot be used."""
        row = self.rows[index - self.first]
        for name, value in row._asdict().items():
            if isinstance(value, str):
                check_text(name, value)
        if left := image_place_left(_asked(row), row.image is not None):
            raise InputError(f"field question: {left}")
        example = Example(
            id=row.id,
            question=row.question,
            answer=row.answer,
            source=self.name,
            question_type="repeat" if row.clip is not None and row.image is None else row.question_type,
            target=row.answer,
            category=row.category,
            instruction=row.instruction,
            answer_format=row.answer_format,
            details=row.details,
        )
        if row.image is not None:
            image = row.image.read() if isinstance(row.image, Stored) else row.image
            example = replace(example, image=checked_image(image))
        return example if row.clip is None else replace(example, voice=row.tts_engine)

    def named(self, index: int) -> tuple[str, str]:
        row = self.rows[index - self.first]
        return readable(row.id), readable(row.question)

    def recorded(self, index: int) -> Clip | None:
        return self.rows[index - self.first].clip


def answered(rows: Iterable[Row], skipped: Counter[str]) -> Iterator[Row]:
    """Those with a question and an answer; the others, which nothing could be learned from, are counted."""
    for row in rows:
        if row.question.strip() and row.answer.strip():
            yield row
        else:
            skipped[UNANSWERED] += 1


def sample_rows(rows: Iterable[Row], count: int, seed: int) -> tuple[Row, ...]:
    """`count` rows drawn by the seed (all for 0), in the order of the files: questions about a picture stay together.
    The picture's own place in a question ("<image>") is taken out of it.

    Raises InputError where there are fewer, or where two that are taken have one id.
    """
    rng = random.Random(f"draw/{seed}")
    every = list(rows) if not count else _smallest(count, ((rng.random(), i, row) for i, row in enumerate(rows)))
    twice = [name for name, times in Counter(row.id for row in every).items() if times > 1]
    if twice:
        raise InputError(f"field id: {twice[0]!r} stands for more than one row")
    if count > len(every):
        raise InputError(f"count: {count} are asked for, the source has {len(every)}")
    return tuple(map(_without_place, every))


def _smallest(count: int, keyed: Iterable[tuple[float, int, Row]]) -> list[Row]:
    """The rows with the smallest keys, in their order: no more than these are held at any time."""
    return [row for _, _, row in sorted(heapq.nsmallest(count, keyed), key=itemgetter(1))]


def checked_image(image: Path | bytes) -> bytes:
    """The bytes to keep of a picture (see `stored_image`); raises InputError, naming the field, for one that cannot be
    decoded to its end."""
    try:
        data = image if isinstance(image, bytes) else _read(image)
    except OSError as error:
        raise InputError(f"field image: {_name(image)}: cannot be read ({error.strerror})") from error
    try:
        return stored_image(data)
    except InputError as error:
        raise InputError(f"field image: {_name(image)}: {error}") from error


def read_clip(clip: Clip) -> tuple[NDArray[np.float32], int]:
    """(samples (frames,), rate in Hz) of recorded speech; raises InputError, naming field and file."""
    try:
        if clip.folder is not None:
            path_within(clip.folder, clip.path)
        path = clip.path if clip.path.is_file() else with_suffix_of_any_case(clip.path) or clip.path
        audio_clip = decode_audio(path, clip.start, clip.stop, clip.channels)
    except InputError as error:
        raise InputError(f"field audio: {clip.path}: {error}") from error
    return audio_clip.samples, audio_clip.rate_hz


def find_recording(folder: Path, name: str) -> Path | None:
    """The sound file called `name`, without its extension, in `folder`; raises InputError where it leads out of it."""
    found = (with_suffix_of_any_case(path_within(folder, f"{name}{suffix}")) for suffix in SUFFIXES)
    return next((one for one in found if one is not None), None)


def with_suffix_of_any_case(path: Path) -> Path | None:
    """The file of this name whose extension may be in capitals (a.wav: a.WAV); None where there is none."""
    try:
        changed = path.parent.stat().st_mtime_ns
    except OSError:
        return None
    name = _names(path.parent, changed).get((path.stem, path.suffix.lower()))
    return None if name is None else path.with_name(name)


@lru_cache(maxsize=16)
def _names(folder: Path, changed: int) -> dict[tuple[str, str], str]:
    """{(stem, extension in small letters): name} of a folder's files, listed once as long as it stays as it is."""
    names = sorted((path.name for path in folder.iterdir() if path.is_file()), reverse=True)
    return {(Path(name).stem, Path(name).suffix.lower()): name for name in names}  # a.wav before a.WAV


def _asked(row: Row) -> str:
    return f"{row.instruction}\n{row.question}\n{row.answer_format}"


def _without_place(row: Row) -> Row:
    """The row without the place of its picture; as it is where `example` will refuse it."""
    if row.image is None or len(IMAGE_PLACE.findall(_asked(row))) != 1:
        return row
    if IMAGE_PLACE.search(row.question):
        question = without_image_place(row.question)
        return row._replace(question=question) if question else row  # nothing else is asked
    before, after = without_image_place(row.instruction), without_image_place(row.answer_format)
    return row._replace(instruction=before and f"{before}\n", answer_format=after and f"\n{after}")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"field image: {path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"field image: {path}: {path.stat().st_size} bytes are too many")
    return path.read_bytes()


def _place(image: Path | bytes | Stored | None) -> str:
    if isinstance(image, Path | None):
        return image.name if image else ""
    return image_hash(image) if isinstance(image, bytes) else image.place


def _name(image: Path | bytes) -> str:
    return "bytes" if isinstance(image, bytes) else str(image)
