"""MMMB (Sun et al. 2024, "Parrot", arXiv 2406.02539): the same multiple-choice questions about images in six languages,
for the gap between text and audio by language.

A language is a table `mmmb_CODE.tsv` in the form of MMBench, with images in base64; that of the same questions of
MMBench (`mmbench_dev_CODE.tsv`) is read, too. The voices have to speak its language, so `--language` has to name it.
"""

import base64
import binascii
import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from selfkd.data.as_text import as_text, refuse_utf16
from selfkd.data.example import language_code
from selfkd.errors import InputError
from selfkd.json_files import MAX_LINE_BYTES
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.sources.published import LETTER
from selfkd.synthesis.sources.rows import UNANSWERED, Row, RowSource, sample_rows

LICENSE = "not stated by the copy (Parrot-dataset); the images have their own"
LANGUAGES = {"ar": "ar", "cn": "zh", "en": "en", "pt": "pt", "ru": "ru", "tr": "tr"}  # by the end of the file's name
NEEDED = ("index", "question", "answer", "image", "A", "B")
LETTERS = "ABCD"
_MISSING = ("", "nan")  # what stands for an option or a category that there is not
_MAX_INDEX_DIGITS = 10  # of an image that is that of another row


def mmmb(config: SynthesizeConfig) -> RowSource:
    """A table of one language. Raises InputError, naming file and row, and for questions in another language than the
    configuration's."""
    path = Path(config.path)
    language = LANGUAGES.get(path.stem.rpartition("_")[2])
    if not path.is_file() or language is None:
        raise InputError(f"path: {path}: not a table of MMMB, whose names end in _{'.tsv, _'.join(LANGUAGES)}.tsv")
    if language_code(config.language) != language:
        raise InputError(f"language: {config.language}: the questions of {path.name} are in {language}")
    skipped: Counter[str] = Counter()
    rows = sample_rows(_rows(path, language, skipped), config.count, config.seed)
    return RowSource("mmmb", rows, LICENSE, skipped=dict(skipped))


def _rows(path: Path, language: str, skipped: Counter[str]) -> Iterator[Row]:
    images: dict[str, bytes] = {}
    for number, record in enumerate(_records(path)):
        where = f"path: {path}: row {number}: field"
        index, question = as_text(record["index"], f"{where} index"), as_text(record["question"], f"{where} question")
        options = {
            letter: text
            for letter in LETTERS
            if (text := as_text(record.get(letter, ""), f"{where} {letter}")).lower() not in _MISSING
        }
        answer = as_text(record["answer"], f"{where} answer")
        if not question or answer not in options:
            skipped[UNANSWERED] += 1
            continue
        images[index] = image = _image(record["image"], images, f"{where} image")
        category = as_text(record.get("category", ""), f"{where} category")
        yield Row(
            id=f"mmmb-{language}-{index}",
            question="\n".join([question, *(f"{letter}. {text}" for letter, text in options.items())]),
            answer=answer,
            answer_format=LETTER,
            image=image,
            category="" if category.lower() in _MISSING else category,
            question_type="multiple_choice",
            details=json.dumps({"options": options}, ensure_ascii=False),
        )


def _records(path: Path) -> Iterator[Mapping[str, str]]:
    refuse_utf16(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file, _long_fields():
            table = csv.DictReader(file, delimiter="\t")
            missing = [name for name in NEEDED if name not in (table.fieldnames or ())]
            if missing:
                raise InputError(
                    f"path: {path}: no column {missing[0]!r}; there are {', '.join(table.fieldnames or ())}"
                )
            for number, row in enumerate(table):
                if None in row or any(row[name] is None for name in NEEDED):
                    raise InputError(f"path: {path}: row {number}: other columns than the first line names")
                yield {name: value or "" for name, value in row.items()}
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"path: {path}: not a table in UTF-8 ({error})") from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """Within it a field of a table may be as long as a line: an image of 100 kB is."""
    before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _image(value: str, images: Mapping[str, bytes], where: str) -> bytes:
    """The image of a row: base64, or the index of an earlier row with the same image."""
    text = value.strip()
    if len(text) <= _MAX_INDEX_DIGITS and text in images:
        return images[text]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where}: neither base64 nor the index of an earlier row ({error})") from error
