"""OCRBench: 1,000 questions on what is written, right where the reply holds one of the answers.

Prompt as in lmms-eval (task ocrbench): the question alone. Rule of Liu et al., arXiv 2305.07895: case is ignored, but
for handwritten formulas (HME100k), where spaces are.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from selfkd.data.listed import Row
from selfkd.evaluation.benchmarks.benchmark import (
    Benchmark,
    Grade,
    Sample,
    as_details,
    grouped,
    needed,
    percent,
    picture,
)

RECOGNITION = "Text Recognition"


def grade(sample: Sample, reply: str) -> Grade:
    formula = sample["details"]["dataset"] == "HME100k"
    said = _plain(reply, formula)
    answers = (_plain(answer, formula) for answer in sample["details"]["answers"])
    return Grade(said or None, float(bool(said) and any(answer in said for answer in answers)))


def figures(samples: Sequence[Sample]) -> dict[str, float]:
    """`score` is the official one, out of 1,000: on a part of the benchmark it is what the whole would have. The five
    groups are in percent of their questions (300, 200, 200, 200, 100)."""
    result = {"accuracy": percent(samples), "score": 10 * percent(samples)}
    groups = grouped(
        samples, lambda s: RECOGNITION if s["category"].endswith("Recognition") and not _formula(s) else s["category"]
    )
    return result | {name: percent(some) for name, some in sorted(groups.items())}


def rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    for number, record in enumerate(records):
        answers = needed(record, "answer", number)
        answers = [answers] if isinstance(answers, str) else list(answers)
        yield Row(
            id=f"ocrbench-{number:04d}",
            question=needed(record, "question", number).strip(),
            answer=answers[0],
            image=picture(record, number),
            category=needed(record, "question_type", number),
            kind="ocr",
            details=as_details(answers=answers, dataset=record["dataset"]),
        )


def _formula(sample: Sample) -> bool:
    return "Mathematical Expression" in sample["category"]


def _plain(text: str, formula: bool) -> str:
    text = text.strip().replace("\n", " ")
    return text.replace(" ", "") if formula else text.lower()


OCRBENCH = Benchmark(
    name="ocrbench",
    hub="echo840/OCRBench",
    config=None,
    split="test",
    columns=("dataset", "question", "question_type", "answer", "image"),
    license="not stated by the copy",
    rows=rows,
    grade=grade,
    figures=figures,
    revision="92a54bd1384387c178d5a07140a2d85e0a3d12e1",
    holds={"answer": "text or texts"},
)
