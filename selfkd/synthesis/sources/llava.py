"""llava-1.5-mix-665k as it is published: one JSON file of conversations about images, and the folders of images.

A conversation's turns become single questions about its image, or it stays whole. Turns with bounding boxes have no
spoken form and are skipped, and so are whole conversations with such a turn, and those without an image. All are
counted.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfkd.data.as_text import as_published, as_text, single_value
from selfkd.data.image_placeholders import strip_image_placeholder
from selfkd.data.lazy_images import ImageInFolder
from selfkd.errors import InputError
from selfkd.synthesis.config import TurnsForm
from selfkd.synthesis.sources.rows import (
    Row,
    RowSource,
    drop_unanswered,
    json_records,
    sample_rows,
    whole_conversation,
)

_BOX = re.compile(r"\[\s*\d*\.\d+\s*(,\s*\d*\.\d+\s*){3}\]|bounding box coordinate")
# the mixture's own sentences on the form of the answer, each at the end of a question or on a line of its own
_FORMAT = re.compile(
    r"(?:(?<!\s)\s+)?(Answer the question using a single word or phrase\."
    r"|Answer with the option's letter from the given choices directly\."
    r"|Provide a one-sentence caption for the provided image\.)\s*"
)
_OCR = re.compile(r"(?:(?<!\s)\s+)?Reference OCR token:[^\n]*\n?")


def llava(
    path: Path, images: Path, count: int, seed: int, audio_instruction: bool, turns: TurnsForm = "split"
) -> RowSource:
    """The questions, or the whole conversations, of a llava file. Raises InputError, naming file and field, for any
    other file."""
    skipped: Counter[str] = Counter()
    every = _rows(path, images, audio_instruction, turns, skipped)
    rows = sample_rows(drop_unanswered(every, skipped), count, seed)
    first: dict[Any, int] = {}  # several conversations may have one image
    rows = tuple(sorted(rows, key=lambda row: first.setdefault(row.image, len(first))))
    return RowSource("llava", rows, "CC-BY-4.0 (annotations); the images have their own", skipped=dict(skipped))


def _rows(path: Path, images: Path, audio_instruction: bool, form: TurnsForm, skipped: Counter[str]) -> Iterator[Row]:
    for number, record in enumerate(json_records(path)):
        if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
            raise InputError(f"{path}: record {number}: field conversations: not a list of turns")
        where = f"{path}: record {number}: field"
        name = as_published(single_value(record.get("image"), f"{where} image", "one image"), f"{where} image").strip()
        if not name:
            skipped["no image"] += 1
            continue
        image, turns = ImageInFolder(images, name), record["conversations"]
        folder = sys.intern(Path(image.name).parent.name)
        is_whole, rows = form == "whole", list[Row]()
        if is_whole and len(turns) % 2:
            raise InputError(f"{where} conversations: ends with a turn of human, without gpt's response")
        for turn, (query, response) in enumerate(zip(turns[::2], turns[1::2], strict=False)):
            if not (_is_from("human", query) and _is_from("gpt", response)):
                raise InputError(f"{where} conversations: turn {2 * turn} is not human's, then gpt's")
            text, answer = (as_text(t["value"], f"{where} conversations: a turn's value") for t in (query, response))
            question, instruction, answer_format = split_question(text, audio_instruction)
            if _BOX.search(text) or _BOX.search(answer):
                skipped["boxes"] += 1
                if is_whole:  # the later turns may be about this one
                    break
                continue
            # the mixture repeats ids in several conversations; the record's number is unique
            name = f"llava-{number:06d}-{turn:02d}"
            row = Row(name, question, answer, instruction, answer_format, image, category=folder)
            if is_whole:
                rows.append(row)
            else:
                yield row
        else:
            if is_whole and rows:
                yield whole_conversation(rows, f"llava-{number:06d}")


def _is_from(who: str, turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("from") == who and "value" in turn


def split_question(value: str, audio_instruction: bool) -> tuple[str, str, str]:
    """(question, text before it, text after it): the image placeholder is removed, OCR tokens stay text, and so does
    the sentence on the form of the answer, unless `audio_instruction`."""
    text = strip_image_placeholder(value).strip()
    before = "".join(f"{m.strip()}\n" for m in _OCR.findall(text))
    text = _OCR.sub("\n", text).strip()
    if audio_instruction:
        return text, before, ""
    after = "".join(f"\n{m.strip()}" for m in _FORMAT.findall(text))
    question = _FORMAT.sub("\n", text).strip()
    return (question, before, after) if question else (text, before, "")  # the whole question asks for a caption
