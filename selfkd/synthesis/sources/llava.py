"""llava-1.5-mix-665k as it is published: one JSON file of conversations about pictures, and the folders of pictures.

A conversation's turns become single questions about its picture. What asks for boxes, or gives them, cannot be spoken
or answered aloud and is left out; conversations without a picture are skipped. Both are counted.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfkd.data.as_text import as_published, as_text, only_one
from selfkd.data.image_tags import without_image_place
from selfkd.data.lazy_images import InFolder
from selfkd.errors import InputError
from selfkd.synthesis.sources.rows import Row, RowSource, answered, json_records, sample_rows

_BOX = re.compile(r"\[\s*\d*\.\d+\s*(,\s*\d*\.\d+\s*){3}\]|bounding box coordinate")
# how the answer is to look: the mixture's own sentences, each at the end of a question or on a line of its own
_FORMAT = re.compile(
    r"\s*(Answer the question using a single word or phrase\."
    r"|Answer with the option's letter from the given choices directly\."
    r"|Provide a one-sentence caption for the provided image\.)\s*"
)
_OCR = re.compile(r"\s*Reference OCR token:[^\n]*\n?")


def llava(path: Path, images: Path, count: int, seed: int, spoken_instruction: bool) -> RowSource:
    """The questions of a llava file; raises InputError, naming file and field, for what is not one."""
    skipped: Counter[str] = Counter()
    rows = sample_rows(answered(_rows(path, images, spoken_instruction, skipped), skipped), count, seed)
    first: dict[Any, int] = {}  # several conversations may be about one picture
    rows = tuple(sorted(rows, key=lambda row: first.setdefault(row.image, len(first))))
    return RowSource("llava", rows, "CC-BY-4.0 (annotations); the pictures have their own", skipped=dict(skipped))


def _rows(path: Path, images: Path, spoken_instruction: bool, skipped: Counter[str]) -> Iterator[Row]:
    for number, record in enumerate(json_records(path)):
        if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
            raise InputError(f"{path}: record {number}: field conversations: not a list of turns")
        where = f"{path}: record {number}: field"
        name = as_published(only_one(record.get("image"), f"{where} image", "one picture"), f"{where} image").strip()
        if not name:
            skipped["no picture"] += 1
            continue
        image, turns = InFolder(images, name), record["conversations"]
        folder = sys.intern(Path(image.name).parent.name)
        for turn, (asked, told) in enumerate(zip(turns[::2], turns[1::2], strict=False)):
            if not (_is_from("human", asked) and _is_from("gpt", told)):
                raise InputError(f"{where} conversations: turn {2 * turn} is not human's, then gpt's")
            wanted, answer = (as_text(t["value"], f"{where} conversations: a turn's value") for t in (asked, told))
            question, instruction, answer_format = split_question(wanted, spoken_instruction)
            if _BOX.search(wanted) or _BOX.search(answer):
                skipped["boxes"] += 1
            else:
                # an id of the mixture may stand for several conversations: the record's number does not
                name = f"llava-{number:06d}-{turn:02d}"
                yield Row(name, question, answer, instruction, answer_format, image, category=folder)


def _is_from(who: str, turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("from") == who and "value" in turn


def split_question(value: str, spoken_instruction: bool) -> tuple[str, str, str]:
    """(what is asked, what stays written before it, what after it): the place of the picture goes, OCR tokens stay
    written, and so does the sentence on the form of the answer unless it is to be spoken."""
    text = without_image_place(value).strip()
    before = "".join(f"{m.strip()}\n" for m in _OCR.findall(text))
    text = _OCR.sub("\n", text).strip()
    if spoken_instruction:
        return text, before, ""
    after = "".join(f"\n{m.strip()}" for m in _FORMAT.findall(text))
    question = _FORMAT.sub("\n", text).strip()
    return (question, before, after) if question else (text, before, "")  # a caption is all that is asked for
