"""Rows of a source: sampled by a seed; their images and recordings are read one at a time.

Items of a list in a JSON file are read one at a time too: LLaVA's file has 665,000 and would take gigabytes of memory.
"""

import hashlib
import heapq
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfkd.data.as_text import check_text, refuse_utf16, valid_unicode
from selfkd.data.audio_files import SUFFIXES
from selfkd.data.example import SAMPLE_RATE_HZ, Example, ExampleTurn, image_hash
from selfkd.data.image_limits import MAX_BYTES
from selfkd.data.image_placeholders import IMAGE_PLACEHOLDER, leftover_image_placeholder, strip_image_placeholder
from selfkd.data.lazy_images import FileInDataset, LazyImage
from selfkd.data.media import decode_audio, stored_image
from selfkd.data.resample import resampled
from selfkd.errors import InputError
from selfkd.files import open_regular, path_within
from selfkd.json_files import MAX_LINE_BYTES, check_depth

_READ_CHARACTERS = 2**20
_BETWEEN = re.compile(r"[\s,]*")
_PLAIN = json.JSONDecoder()


def json_records(path: Path, opening: str = r"\s*\[", decoder: json.JSONDecoder = _PLAIN) -> Iterator[Any]:
    """The items of the list that begins where `opening`, a pattern, matches first. Raises InputError, naming file and
    item, where there is none or it cannot be decoded."""
    number = 0
    try:
        refuse_utf16(path)
        with path.open(encoding="utf-8-sig") as file:
            text, wanted = file.read(_READ_CHARACTERS), _READ_CHARACTERS
            begun = re.match(opening, text, re.DOTALL)
            if not begun:
                raise InputError(f"path: {path}: does not begin like a JSON file of this source")
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
                    more = file.read(wanted) if len(text) - at < MAX_LINE_BYTES else ""
                    if not more:
                        raise
                    text, at, wanted = text[at:] + more, 0, 2 * wanted  # doubled each time: an item may be long
                    continue
                check_depth(item)
                yield item
                at, wanted, number = end, _READ_CHARACTERS, number + 1
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"path: {path}: no such file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"path: {path}: after record {number}: not UTF-8 ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"path: {path}: record {number}: not JSON ({error.msg})") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # too many digits, nested too deep
        raise InputError(f"path: {path}: record {number}: not JSON within limits ({error})") from error


PAUSE_SECONDS = 0.3  # between the clips of a question
UNANSWERED = "no question or answer"  # why a row is skipped


class Clip(NamedTuple):
    """Recorded speech: an audio file, its bytes or where it is stored, or a part of it in seconds (to its end where
    `stop` is 0); of its channels, from 0, only `channels` where some are given. A path outside of `folder` is refused;
    one without an extension is that of any audio file of this name."""

    file: Path | bytes | FileInDataset
    start: float = 0.0
    stop: float = 0.0
    channels: tuple[int, ...] = ()
    folder: Path | None = None


class Row(NamedTuple):
    """A question as a source lists it. `image` is a file, its bytes, or where they are stored; `clips` are its recorded
    speech, if any, by `speaker`, one after another."""

    id: str
    question: str
    answer: str
    instruction: str = ""
    answer_format: str = ""
    image: Path | bytes | LazyImage | None = None
    clips: tuple[Clip, ...] = ()
    category: str = ""
    speaker: str = ""
    question_type: str = "open"
    details: str = ""
    history: tuple["Row", ...] = ()  # the earlier turns of a conversation, of which this is the last


def whole_conversation(turns: Sequence[Row], name: str) -> Row:
    """The turns of a conversation, the first of which has its image, as one row."""
    *earlier, last = turns
    return last._replace(id=name, image=turns[0].image, history=tuple(earlier))


@dataclass(frozen=True)
class RowSource:
    """A source (see registry.py) over rows; `skipped` counts rows of the files that it cannot use, by reason."""

    name: str
    rows: tuple[Row, ...]
    license: str = "not stated"
    first: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what the source leaves out or changes in every row; in the manifest

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, start: int, stop: int) -> "RowSource":
        """Only the rows of a shard, with unchanged indices: all that a process needs of a large list."""
        return replace(self, rows=self.rows[start - self.first : stop - self.first], first=start)

    @property
    def is_recorded(self) -> bool:
        """Whether every question is recorded speech, so that no engine is needed."""
        return bool(self.rows) and all(row.clips for row in self.rows)

    def sha256(self) -> str:
        """Over the rows' text and the keys of their images and recordings, which are not read."""
        digest = hashlib.sha256()
        for row in chain.from_iterable((*last.history, last) for last in self.rows):
            clips = tuple((_file_key(clip.file), clip.start, clip.stop, *clip.channels) for clip in row.clips)
            *text, history = row._replace(image=None, clips=())
            earlier = (len(history),) if history else ()
            digest.update(repr((*text, _file_key(row.image), clips, *earlier)).encode())
        return digest.hexdigest()

    def example(self, index: int) -> Example:
        """Raises InputError, naming the field, for an image or a text that cannot be used."""
        row = self.rows[index - self.first]
        for number, turn in enumerate((*row.history, row)):
            where = f"turn {number + 1}: " if row.history else ""
            for name, value in turn._asdict().items():
                if isinstance(value, str):
                    check_text(f"{where}{name}", value)
            if reason := leftover_image_placeholder(_query_text(turn), row.image is not None and number == 0):
                raise InputError(f"{where}field question: {reason}")
        example = Example(
            id=row.id,
            question=row.question,
            answer=row.answer,
            source=self.name,
            question_type=row.question_type,
            target=row.answer,
            category=row.category,
            instruction=row.instruction,
            answer_format=row.answer_format,
            details=row.details,
            history=tuple(map(_earlier_turn, row.history)),
        )
        if row.image is not None:
            image = row.image.read() if isinstance(row.image, LazyImage) else row.image
            example = replace(example, image=checked_image(image))
        return replace(example, voice=row.speaker) if row.clips else example

    def id_and_question(self, index: int) -> tuple[str, str]:
        row = self.rows[index - self.first]
        return valid_unicode(row.id), valid_unicode(row.question)

    def recordings(self, index: int) -> tuple[Clip, ...]:
        return self.rows[index - self.first].clips

    def earlier_recordings(self, index: int) -> list[tuple[Clip, ...]]:
        """The recorded speech of each earlier turn."""
        return [turn.clips for turn in self.rows[index - self.first].history]


def drop_unanswered(rows: Iterable[Row], skipped: Counter[str]) -> Iterator[Row]:
    """Rows with a question and an answer; the others, useless for training, are counted."""
    for row in rows:
        if all(turn.question.strip() and turn.answer.strip() for turn in (*row.history, row)):
            yield row
        else:
            skipped[UNANSWERED] += 1


def sample_rows(rows: Iterable[Row], count: int, seed: int) -> tuple[Row, ...]:
    """`count` rows sampled by the seed (all for 0), in the order of the files: questions about an image stay together.
    The image placeholder ("<image>") is removed from the text.

    Raises InputError where there are fewer rows, or where two of the sample have one id.
    """
    rng = random.Random(f"draw/{seed}")  # noqa: S311 seeded, for the same data in every run; nothing secret
    every = list(rows) if not count else _smallest(count, ((rng.random(), i, row) for i, row in enumerate(rows)))
    duplicates = [name for name, times in Counter(row.id for row in every).items() if times > 1]
    if duplicates:
        raise InputError(f"field id: {duplicates[0]!r} of more than one row")
    if count > len(every):
        raise InputError(f"count: {count} wanted, the source has {len(every)}")
    return tuple(map(_without_placeholder, every))


def _smallest(count: int, keyed: Iterable[tuple[float, int, Row]]) -> list[Row]:
    """The rows with the smallest keys, in their order; holds no more than these at any time."""
    return [row for _, _, row in sorted(heapq.nsmallest(count, keyed), key=itemgetter(1))]


def checked_image(image: Path | bytes) -> bytes:
    """The bytes to store of an image (see `stored_image`). Raises InputError, naming the field, for one that cannot be
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
    """(samples (frames,), rate in Hz) of recorded speech. Raises InputError, naming field and file."""
    file = clip.file.read() if isinstance(clip.file, FileInDataset) else clip.file
    try:
        source = _found(file, clip.folder) if isinstance(file, Path) else file
        audio_clip = decode_audio(source, clip.start, clip.stop, clip.channels)
    except InputError as error:
        raise InputError(f"field audio: {_name(file)}: {error}") from error
    return audio_clip.samples, audio_clip.rate_hz


def _found(path: Path, folder: Path | None) -> Path:
    """The audio file of a path, whatever the case of its extension, or with one where the path has none. Raises
    InputError for a path out of `folder`."""
    if folder is not None:
        path_within(folder, path)
    if path.is_file():
        return path
    named = [path] if path.suffix.lower() in SUFFIXES else [path.with_name(f"{path.name}{end}") for end in SUFFIXES]
    found = next(filter(None, map(with_suffix_of_any_case, named)), path)
    return found if folder is None else path_within(folder, found)  # another file, which may be a link


def read_clips(clips: Sequence[Clip]) -> NDArray[np.float32]:
    """Recorded speech (frames,) at 16 kHz, one clip after another with a pause of `PAUSE_SECONDS` between them. Raises
    InputError, naming field and file."""
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE_HZ), np.float32)
    parts = [part for clip in clips for part in (resampled(*read_clip(clip)), pause)]
    return np.concatenate(parts[:-1])


def find_recording(folder: Path, name: str) -> Path | None:
    """The audio file called `name`, without its extension, in `folder`. Raises InputError for a path out of it."""
    found = (with_suffix_of_any_case(path_within(folder, f"{name}{suffix}")) for suffix in SUFFIXES)
    return next((one for one in found if one is not None), None)


def with_suffix_of_any_case(path: Path) -> Path | None:
    """The file of this name, whatever the case of its extension (a.wav: a.WAV); None where there is none."""
    try:
        changed = path.parent.stat().st_mtime_ns
    except OSError:
        return None
    name = _names(path.parent, changed).get((path.stem, path.suffix.lower()))
    return None if name is None else path.with_name(name)


@lru_cache(maxsize=16)
def _names(folder: Path, changed: int) -> dict[tuple[str, str], str]:
    """{(stem, lower-case extension): name} of a folder's files, listed again when the folder changes."""
    names = sorted((path.name for path in folder.iterdir() if path.is_file()), reverse=True)
    return {(Path(name).stem, Path(name).suffix.lower()): name for name in names}  # a.wav before a.WAV


def _earlier_turn(row: Row) -> ExampleTurn:
    return ExampleTurn(row.question, row.answer, row.question_type, row.answer, row.instruction, row.answer_format)


def _query_text(row: Row) -> str:
    return f"{row.instruction}\n{row.question}\n{row.answer_format}"


def _without_placeholder(row: Row) -> Row:
    """The row without the image placeholder; unchanged where `example` will refuse it."""
    if row.history:
        first = _without_placeholder(row.history[0]._replace(image=row.image))
        return row._replace(history=(first._replace(image=None), *row.history[1:]))
    if row.image is None or len(IMAGE_PLACEHOLDER.findall(_query_text(row))) != 1:
        return row
    if IMAGE_PLACEHOLDER.search(row.question):
        question = strip_image_placeholder(row.question)
        return row._replace(question=question) if question else row  # nothing else is in the question
    before, after = strip_image_placeholder(row.instruction), strip_image_placeholder(row.answer_format)
    return row._replace(instruction=before and f"{before}\n", answer_format=after and f"\n{after}")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"field image: {path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"field image: {path}: {path.stat().st_size} bytes are too many")
    with open_regular(path) as file:
        return file.read()


def _file_key(file: Path | bytes | LazyImage | None) -> str:
    if isinstance(file, Path | None):
        return file.name if file else ""
    return image_hash(file) if isinstance(file, bytes) else file.key


def _name(file: Path | bytes) -> str:
    return "bytes" if isinstance(file, bytes) else str(file)
