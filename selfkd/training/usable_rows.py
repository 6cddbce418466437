"""Which rows of data folders a model can take, known before its weights are read. All unusable rows are listed at once.

The small columns of the shards decide for nearly all rows: image sizes, seconds of audio, bytes of text. A row that may
not fit by these is prepared as for the model. Images and audio are decoded only where that is quick (`DECODED_PIXELS`,
`DECODED_SECONDS`), or where unusable rows are to be skipped.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import (
    HISTORY,
    IMAGE_COLUMNS,
    MAX_AUDIO_SECONDS,
    SAMPLE_RATE_HZ,
    SHORTEST_SECONDS,
    Example,
    image_columns,
)
from selfkd.errors import InputError
from selfkd.files import write_json
from selfkd.json_files import read_json
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.speech_encoder import encoder_frames
from selfkd.progress import SLOW_SECONDS, progress
from selfkd.run_dir import UNUSABLE, is_main_process
from selfkd.training.config import AudioTurns
from selfkd.training.data import MODALITIES, Modality, checked_item, encode_example_image, modality_prompts

DECODED_PIXELS, DECODED_SECONDS = 4e8, 3600.0  # about ten seconds of a core, each
MAX_NAMED = 10  # rows in a message
_COLUMNS = ("id", "question", "answer", "instruction", "answer_format", "duration_seconds", *IMAGE_COLUMNS, HISTORY)
_MAX_VECTORS_A_SECOND, _MAX_TEMPLATE_TOKENS = 50, 600  # upper bounds over all models: audio embeddings; special tokens
_MELS_A_SECOND = 100


@dataclass(frozen=True)
class Unusable:
    """A row that cannot be used, and why."""

    folder: Path
    position: int
    id: str
    reason: str


class _Skipped(TypedDict):
    folder: str
    position: int
    id: str
    reason: str


@dataclass(frozen=True)
class Use:
    """What a command needs of each row."""

    processor: OmniProcessor
    context: int  # the LLM's context length, in tokens
    modalities: Sequence[str] = MODALITIES
    trains: bool = False  # trains on both modalities and the answer; otherwise evaluates `modalities`
    with_image: bool = True  # false for CTC-only training, which runs no LLM
    new_tokens: int = 0  # tokens reserved for a response
    ctc_tokens: Collection[int] | None = None  # the CTC vocabulary; empty for all tokens of the question
    audio_turns: AudioTurns = "all"  # of a conversation, in training

    def reason_from_columns(self, row: Mapping[str, Any]) -> str | None:
        """Why a row cannot be used, as far as `_COLUMNS` show it; None where they show nothing."""
        for number, turn in enumerate(row[HISTORY], 1):
            if reason := self._reason_of_turn(turn):
                return f"field {HISTORY}: turn {number}: {reason}"
            if not turn["answer"].strip():  # in evaluation too, where it is given as the earlier response
                return f"field {HISTORY}: turn {number}: field answer: is empty"
        if self.with_image and row["image_hash"]:
            if not row["image_width"] or not row["image_height"]:
                return "field image: not a readable image"
            try:
                self.processor.image_tokens(row["image_width"], row["image_height"])
            except InputError as error:
                return str(error)
        return self._reason_of_turn(row)

    def _reason_of_turn(self, row: Mapping[str, Any]) -> str | None:
        """Why a turn, the last or an earlier one, cannot be used; None where its texts and duration show nothing."""
        texts = ("question", "answer") if self.trains and self.with_image else ("question",)
        for name in texts if self.trains or "text" in self.modalities else ():
            if not row[name].strip():
                return f"field {name}: is empty"
        seconds = row["duration_seconds"]
        if self.with_audio and not SHORTEST_SECONDS <= seconds <= MAX_AUDIO_SECONDS:
            too = "too short, or missing" if seconds < SHORTEST_SECONDS else f"over {MAX_AUDIO_SECONDS:.0f} s"
            return f"field audio: {seconds:.3f} s of audio is {too}"
        if self.ctc_tokens is not None and len(row["question"].encode()) >= self._frames(seconds) // 2:
            ids = self.processor.text_ids(row["question"])
            labels = [i for i in ids if not self.ctc_tokens or i in self.ctc_tokens]
            needed = len(labels) + sum(a == b for a, b in pairwise(labels))  # a blank between equal labels
            if needed > self._frames(seconds):
                return (
                    f"field audio: {seconds:.2f} s of audio is too short for its question: CTC needs {needed} frames, "
                    f"there are {self._frames(seconds)}"
                )
        return None

    def surely_fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row fits the context whatever the tokenizer: a token is at least one byte. Normalization may
        lengthen texts that are not ASCII, so their bytes count fourfold."""
        if not self.with_image:
            return True
        turns, fields = [*row[HISTORY], row], ("question", "answer", "instruction", "answer_format")
        texts = "".join(turn[name] for turn in turns for name in fields)
        size = len(texts.encode()) * (1 if texts.isascii() else 4)
        image = 2 * self.processor.image_tokens(row["image_width"], row["image_height"])
        audio = _MAX_VECTORS_A_SECOND * sum(turn["duration_seconds"] for turn in turns) if self.with_audio else 0
        template = _MAX_TEMPLATE_TOKENS * len(turns)
        return size + image + audio + template <= self.context - self.new_tokens

    @property
    def with_audio(self) -> bool:
        return self.trains or any(modality != "text" for modality in self.modalities)

    def prepare(self, example: Example) -> None:
        """Prepares an example as for the model; raises InputError where that fails or does not fit the context."""
        history = {HISTORY: list(map(vars, example.history))}
        if reason := self.reason_from_columns(vars(example) | image_columns(example) | history):
            raise InputError(f"example {example.id}: {reason}")
        if self.trains:
            checked_item(self.processor, example, self.with_image, self.context, self.audio_turns)
            return
        image = encode_example_image(self.processor, example)
        modalities: list[Modality] = [modality for modality in MODALITIES if modality in self.modalities]
        for prompt in modality_prompts(self.processor, example, modalities, image):
            ids = prompt.prefix_ids + prompt.suffix_ids
            max_tokens = self.context - self.new_tokens
            self.processor.check_context(f"example {example.id}", ids, prompt.audio_inputs, max_tokens)
        if "cascade" in self.modalities:
            for turn in example.turns():
                turn.samples()

    def decode(self, example: Example, row: Mapping[str, Any]) -> None:
        """Decodes image and audio only; prepares the example where their size differs from the columns."""
        image = example.load_image() if self.with_image else None
        size = (0, 0) if image is None else image.size
        known = (row["image_width"], row["image_height"]) if self.with_image else (0, 0)
        turns = zip(example.turns(), [*row[HISTORY], row], strict=True) if self.with_audio else ()
        is_other = [abs(len(turn.samples()) / SAMPLE_RATE_HZ - of["duration_seconds"]) > 0.01 for turn, of in turns]
        if size != known or any(is_other):
            self.prepare(example)

    @staticmethod
    def _frames(seconds: float) -> int:
        return int(encoder_frames(int(_MELS_A_SECOND * seconds)))


def find_unusable(
    folders: Iterable[tuple[ExampleFolder, Sequence[int] | None]], use: Use, decode: bool = False, whole: bool = False
) -> list[Unusable]:
    """The unusable rows of folders, each with the positions to check (None for all). `decode` decodes images and audio
    of any amount of data; `whole` prepares each row as for the model."""
    listed = [(folder, list(range(len(folder)) if some is None else some)) for folder, some in folders]
    columns = [(folder, some, folder.columns(*_COLUMNS)) for folder, some in listed]
    decode = decode or _is_quick(rows[i] for _, some, rows in columns for i in some)
    found = []
    count = sum(len(some) for _, some in listed)
    with progress("checking rows", count, "rows", SLOW_SECONDS, is_main_process()) as shown:
        for folder, some, rows in columns:
            for i in some:
                if reason := _reason(folder, i, rows[i], use, decode, whole):
                    found.append(Unusable(folder.folder, folder.positions[i], rows[i]["id"], reason))
                shown.advance()
    return found


def _is_quick(rows: Iterable[Mapping[str, Any]]) -> bool:
    pixels: dict[str, int] = {}
    seconds = 0.0
    for row in rows:
        pixels[row["image_hash"]] = row["image_width"] * row["image_height"]
        seconds += sum(turn["duration_seconds"] for turn in (*row[HISTORY], row))
    return sum(pixels.values()) <= DECODED_PIXELS and seconds <= DECODED_SECONDS


def _reason(
    folder: ExampleFolder, position: int, row: Mapping[str, Any], use: Use, decode: bool, whole: bool
) -> str | None:
    if reason := use.reason_from_columns(row):
        return reason
    try:
        if whole or not use.surely_fits(row):
            use.prepare(folder[position])
        elif decode:
            use.decode(folder[position], row)
    except InputError as error:
        return " ".join(str(error).split()).removeprefix(f"example {row['id']}: ")
    return None


def unusable_text(found: Sequence[Unusable], rows: int) -> str:
    """A message: counts by reason, and the first rows, each with its own reason."""
    counts = "; ".join(f"{n} x {reason}" for reason, n in [*by_reason(found).items()][:MAX_NAMED])
    named = "; ".join(f"{u.folder}: example {u.id}: {u.reason}" for u in found[:MAX_NAMED])
    more = f"; and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return f"{len(found)} of {rows} rows cannot be used ({counts}): {named}{more}"


def skip_unusable_rows(
    run: Path, folders: Sequence[ExampleFolder], use: Use, skip: bool
) -> tuple[dict[Path, list[int]], dict[str, Any]]:
    """({folder: positions of the rows to skip}, their counts for the result), as `checked_rows` finds them. The run
    keeps the list in `UNUSABLE`, and skips the same rows when it resumes."""
    path = run / UNUSABLE
    before = read_skipped(path) if skip else None
    found = checked_rows(folders, use, skip) if before is None else before
    return by_folder(found), write_skipped(path, found, sum(map(len, folders))) if skip else {}


def checked_rows(folders: Sequence[ExampleFolder], use: Use, skip: bool) -> list[Unusable]:
    """The unusable rows. Raises InputError that lists them unless `skip`, and for a folder without a usable row."""
    found = find_unusable([(folder, None) for folder in folders], use, decode=skip)
    rows = sum(map(len, folders))
    if found and not skip:
        raise InputError(f"data: {unusable_text(found, rows)} (--skip_unusable leaves them out)")
    for folder in folders:
        if len(by_folder(found).get(folder.folder, ())) == len(folder):
            raise InputError(f"data: {folder.folder}: no usable row: {unusable_text(found, rows)}")
    return found


def by_folder(found: Iterable[Unusable]) -> dict[Path, list[int]]:
    """{folder: positions of its rows}."""
    positions: dict[Path, list[int]] = {}
    for u in found:
        positions.setdefault(u.folder, []).append(u.position)
    return positions


def write_skipped(path: Path, found: Sequence[Unusable], rows: int) -> dict[str, Any]:
    """Writes and prints, once in a run, which rows are skipped; returns their counts for the result."""
    if is_main_process() and read_skipped(path) is None:
        write_json(path, [asdict(u) | {"folder": str(u.folder)} for u in found])
        if found:
            print(f"skipped: {unusable_text(found, rows)}; {path} lists them all")
    return {"skipped_unusable": len(found), "skipped_because": by_reason(found)}


def read_skipped(path: Path) -> list[Unusable] | None:
    """The rows that a resumed run has skipped; None for a new run."""
    if not path.is_file():
        return None
    found = read_json(path, list[_Skipped])
    return [Unusable(Path(row["folder"]), row["position"], row["id"], row["reason"]) for row in found]


def by_reason(found: Sequence[Unusable]) -> dict[str, int]:
    """{reason, its numbers replaced by N: how many rows}, the most frequent first."""
    return dict(Counter(re.sub(r"\d[\d.,]*", "N", u.reason) for u in found).most_common())
