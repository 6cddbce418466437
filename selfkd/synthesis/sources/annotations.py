"""Answers that a published set with recorded questions comes without: files of the benchmarks that it was made from.

Each reader gives a function from (the row's ids, its question) to the answers, an empty list where there are none.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from selfkd.errors import InputError, reason_of
from selfkd.json_files import read_json
from selfkd.synthesis.sources.rows import json_records

Parsed = TypeVar("Parsed")
AND, OR = " <AND> ", " <OR> "
Answers = Callable[[Mapping[str, str], str], list[str]]


def vqa_answers(path: Path) -> Answers:
    """VQA v2's annotations, `annotations[]{question_id, answers[]{answer}}`, by `sample_id`: the ten answers of a
    question. Raises InputError, naming file and record."""

    def parsed(record: Any) -> tuple[int, tuple[str, ...]]:
        return int(record["question_id"]), tuple(sys.intern(str(one["answer"])) for one in record["answers"])

    known = dict(_records(path, "annotations", parsed))
    return lambda ids, question: list(known.get(_number(ids["sample_id"]), ()))


def textvqa_answers(path: Path) -> Answers:
    """TextVQA's `data[]{image_id, question, answers[]}`, by image and question, as LLaVA's evaluation finds them: its
    ids of questions are those of the images. Raises InputError, naming file and record."""

    def parsed(record: Any) -> tuple[tuple[str, str], list[str]]:
        key = str(record["image_id"]), _plain(str(record["question"]))
        return key, [str(answer) for answer in record["answers"]]

    known = dict(_records(path, "data", parsed))
    return lambda ids, question: known.get((Path(ids["image"]).stem, _plain(question)), [])


def mm_vet_answers(path: Path) -> Answers:
    """MM-Vet's `{question_id: {answer}}`: the alternatives ("<OR>") of an answer, each with its parts ("<AND>").
    Raises InputError, naming file and question."""
    known = read_json(path, dict[str, dict[str, Any]])
    return lambda ids, question: alternatives(str(known.get(ids["question_id"], {}).get("answer", "")))


def alternatives(reference: str) -> list[str]:
    """The alternatives of a reference in MM-Vet's form, with a space around each AND."""
    parts = (AND.join(part.strip() for part in one.split("<AND>")) for one in reference.split("<OR>"))
    return [part for part in parts if part.strip()]


def plain_target(answers: Sequence[str]) -> str:
    """The first of these alternatives in words: what a rule for short answers looks for."""
    return answers[0].replace(AND, " ")


def whole_reference(answers: Sequence[str]) -> str:
    """All alternatives: what a judge of open answers compares with (`evaluation/correctness.py`)."""
    return OR.join(answers)


def _records(path: Path, name: str, parsed: Callable[[Any], Parsed]) -> Iterator[Parsed]:
    """The records of the list `name` of a JSON file, one at a time: VQA v2's file has 170 MB."""
    for number, record in enumerate(json_records(path, rf'\s*\{{.*?"{name}"\s*:\s*\[')):
        try:
            yield parsed(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"annotations: {path}: record {number}: other fields ({reason_of(error)})") from error


def _plain(question: str) -> str:
    return " ".join(question.lower().split())


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1
