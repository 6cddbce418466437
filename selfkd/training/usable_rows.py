"""Which rows of folders a model can take, told before its weights are read: all that cannot be are listed at once.

The small columns of the shards settle nearly all of it: sizes of pictures, seconds of speech, bytes of text. A row that
may not fit by these is prepared as it would be for the model. Pictures and sound are decoded only where that is quick
(`DECODED_PIXELS`, `DECODED_SECONDS`), or where rows are to be left out, so that what is left can be relied on.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tqdm import tqdm

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import INDEX_COLUMNS, LONGEST_SECONDS, SAMPLE_RATE_HZ, Example, index_of
from selfkd.errors import InputError
from selfkd.files import read_json, write_json
from selfkd.model.features import SHORTEST_SECONDS
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.speech_encoder import encoder_frames
from selfkd.run_dir import UNUSABLE, is_main_process
from selfkd.training.data import MODALITIES, Modality, checked_item, modality_prompts

DECODED_PIXELS, DECODED_SECONDS = 4e8, 3600.0  # about ten seconds of a core, each
TOLD = 10  # rows that a message names
_COLUMNS = ("id", "question", "answer", "instruction", "answer_format", "duration_seconds", *INDEX_COLUMNS)
_VECTORS_A_SECOND, _MARKS = 50, 600  # more than any model has of speech; of marks around picture, speech and turns
_MELS_A_SECOND = 100
_PATIENCE_SECONDS = 3  # before progress is shown


@dataclass(frozen=True)
class Unusable:
    """A row that cannot be used, and why."""

    folder: Path
    position: int
    id: str
    reason: str


@dataclass(frozen=True)
class Use:
    """What a command does with each row."""

    processor: OmniProcessor
    context: int  # tokens that the LLM reads and writes at once
    modalities: Sequence[str] = MODALITIES
    learns: bool = False  # from the answer, both views; without it rows are asked
    looks: bool = True  # at the picture; CTC-only training does not, and runs no LLM
    new_tokens: int = 0  # room for a response
    ctc_tokens: Collection[int] | None = None  # those that the CTC head knows; empty for all of the question's

    def wrong_by_index(self, row: Mapping[str, Any]) -> str | None:
        """Why a row of `_COLUMNS` cannot be used, as far as these say it."""
        written = ("question", "answer") if self.learns and self.looks else ("question",)
        for name in written if self.learns or "text" in self.modalities else ():
            if not row[name].strip():
                return f"field {name}: is empty"
        if self.looks and row["image_hash"]:
            if not row["image_width"] or not row["image_height"]:
                return "field image: not a readable picture"
            try:
                self.processor.image_tokens(row["image_width"], row["image_height"])
            except InputError as error:
                return str(error)
        seconds = row["duration_seconds"]
        if self.listens and not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
            too = "too short, or not there" if seconds < SHORTEST_SECONDS else f"over {LONGEST_SECONDS:.0f} s"
            return f"field audio: {seconds:.3f} s of sound is {too}"
        if self.ctc_tokens is not None and len(row["question"].encode()) >= self._frames(seconds) // 2:
            ids = self.processor.text_ids(row["question"])
            labels = [i for i in ids if not self.ctc_tokens or i in self.ctc_tokens]
            needed = len(labels) + sum(a == b for a, b in pairwise(labels))  # a blank between
            if needed > self._frames(seconds):
                return (
                    f"field audio: {seconds:.2f} s of sound is too short for its question: {needed} frames are needed "
                    f"for CTC, there are {self._frames(seconds)}"
                )
        return None

    def surely_fits(self, row: Mapping[str, Any]) -> bool:
        """Whether the context holds a row whatever the tokenizer makes of its texts: a token is a byte at least, of
        texts that are normalised too, about."""
        if not self.looks:
            return True
        texts = "".join(row[name] for name in ("question", "answer", "instruction", "answer_format"))
        size = len(texts.encode()) * (1 if texts.isascii() else 4)
        image = 2 * self.processor.image_tokens(row["image_width"], row["image_height"])
        audio = _VECTORS_A_SECOND * row["duration_seconds"] if self.listens else 0
        return size + image + audio + _MARKS <= self.context - self.new_tokens

    @property
    def listens(self) -> bool:
        return self.learns or any(modality != "text" for modality in self.modalities)

    def prepare(self, example: Example) -> None:
        """Makes of an example what the model is given; raises InputError where that cannot be, or does not fit."""
        if reason := self.wrong_by_index(vars(example) | index_of(example)):
            raise InputError(f"example {example.id}: {reason}")
        if self.learns:
            checked_item(self.processor, example, self.looks, self.context)
            return
        seen = self.processor.encode_image(example.load_image(), f"example {example.id}")
        asked: list[Modality] = [modality for modality in MODALITIES if modality in self.modalities]
        for prompt in modality_prompts(self.processor, example, asked, seen):
            ids = prompt.prefix_ids + prompt.suffix_ids
            room = self.context - self.new_tokens
            self.processor.check_context(f"example {example.id}", ids, prompt.audio_inputs, room)
        if "cascade" in self.modalities:
            example.samples()

    def decode(self, example: Example, row: Mapping[str, Any]) -> None:
        """Decodes picture and sound alone; prepares the example where their size is not what the columns say."""
        image = example.load_image() if self.looks else None
        size = (0, 0) if image is None else image.size
        seconds = len(example.samples()) / SAMPLE_RATE_HZ if self.listens else row["duration_seconds"]
        known = (row["image_width"], row["image_height"]) if self.looks else (0, 0)
        if size != known or abs(seconds - row["duration_seconds"]) > 0.01:
            self.prepare(example)

    @staticmethod
    def _frames(seconds: float) -> int:
        return int(encoder_frames(int(_MELS_A_SECOND * seconds)))


def find_unusable(
    folders: Iterable[tuple[ExampleFolder, Sequence[int] | None]], use: Use, decode: bool = False, whole: bool = False
) -> list[Unusable]:
    """The rows of folders, at these positions (None for all), that cannot be used so. With `decode` pictures and sound
    are decoded however many there are; with `whole` each row is prepared as it would be for the model."""
    listed = [(folder, list(range(len(folder)) if some is None else some)) for folder, some in folders]
    known = [(folder, some, folder.columns(*_COLUMNS)) for folder, some in listed]
    decode = decode or _is_quick(rows[i] for _, some, rows in known for i in some)
    found = []
    with tqdm(total=sum(len(some) for _, some in listed), desc="checking rows", delay=_PATIENCE_SECONDS) as progress:
        for folder, some, rows in known:
            for i in some:
                if reason := _why_not(folder, i, rows[i], use, decode, whole):
                    found.append(Unusable(folder.folder, folder.positions[i], rows[i]["id"], reason))
                progress.update()
    return found


def _is_quick(rows: Iterable[Mapping[str, Any]]) -> bool:
    pixels: dict[str, int] = {}
    seconds = 0.0
    for row in rows:
        pixels[row["image_hash"]] = row["image_width"] * row["image_height"]
        seconds += row["duration_seconds"]
    return sum(pixels.values()) <= DECODED_PIXELS and seconds <= DECODED_SECONDS


def _why_not(
    folder: ExampleFolder, position: int, row: Mapping[str, Any], use: Use, decode: bool, whole: bool
) -> str | None:
    if reason := use.wrong_by_index(row):
        return reason
    try:
        if whole or not use.surely_fits(row):
            use.prepare(folder[position])
        elif decode:
            use.decode(folder[position], row)
    except InputError as error:
        return " ".join(str(error).split()).removeprefix(f"example {row['id']}: ")
    return None


def told(found: Sequence[Unusable], rows: int) -> str:
    """Some of the rows with their reasons, and how many there are of each kind of reason."""
    by_kind = "; ".join(f"{n} x {kind}" for kind, n in [*by_reason(found).items()][:TOLD])
    named = "; ".join(f"{u.folder}: example {u.id}: {u.reason}" for u in found[:TOLD])
    more = f"; and {len(found) - TOLD} more" if len(found) > TOLD else ""
    return f"{len(found)} of {rows} rows cannot be used ({by_kind}): {named}{more}"


def left_out(
    run: Path, folders: Sequence[ExampleFolder], use: Use, skip: bool
) -> tuple[dict[Path, list[int]], dict[str, Any]]:
    """({folder: positions of the rows to leave out}, what the result says of them), as `checked_rows` gives them. What
    was left out stands in the run (`UNUSABLE`), and is left out when the run goes on."""
    path = run / UNUSABLE
    known = left_out_before(path) if skip else None
    found = checked_rows(folders, use, skip) if known is None else known
    return by_folder(found), skipped(path, found, sum(map(len, folders))) if skip else {}


def checked_rows(folders: Sequence[ExampleFolder], use: Use, skip: bool) -> list[Unusable]:
    """The rows that cannot be used. Raises InputError that lists them unless they are to be skipped, and where a folder
    would be left without any."""
    found = find_unusable([(folder, None) for folder in folders], use, decode=skip)
    rows = sum(map(len, folders))
    if found and not skip:
        raise InputError(f"data: {told(found, rows)} (--skip_unusable true leaves them out)")
    for folder in folders:
        if len(by_folder(found).get(folder.folder, ())) == len(folder):
            raise InputError(f"data: {folder.folder}: no row is left: {told(found, rows)}")
    return found


def by_folder(found: Iterable[Unusable]) -> dict[Path, list[int]]:
    """{folder: positions of these rows}."""
    positions: dict[Path, list[int]] = {}
    for u in found:
        positions.setdefault(u.folder, []).append(u.position)
    return positions


def skipped(path: Path, found: Sequence[Unusable], rows: int) -> dict[str, Any]:
    """Writes and says which rows are left out, once in a run, and returns what its result says of them."""
    if is_main_process() and left_out_before(path) is None:
        write_json(path, [asdict(u) | {"folder": str(u.folder)} for u in found])
        if found:
            print(f"left out: {told(found, rows)}; {path} names them all")
    return {"skipped_unusable": len(found), "skipped_because": by_reason(found)}


def left_out_before(path: Path) -> list[Unusable] | None:
    """What a run that goes on left out before; None for one that begins."""
    if not path.is_file():
        return None
    return [Unusable(**entry | {"folder": Path(entry["folder"])}) for entry in read_json(path)]


def by_reason(found: Sequence[Unusable]) -> dict[str, int]:
    """How many rows there are of each kind of reason: numbers apart, the same words."""
    return dict(Counter(re.sub(r"\d[\d.,]*", "N", u.reason) for u in found).most_common())
