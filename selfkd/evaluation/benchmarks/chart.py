"""ChartQA: a number or a word read off a chart, numbers with 5% of tolerance.

Prompt as in lmms-eval (task chartqa). Relaxed accuracy as at the end of section 5.1 of Masry et al., arXiv 2203.10244,
in the form in which pix2struct, lmms-eval and VLMEvalKit compute it: "5%" is 0.05, so that a bare "5" does not match
it; a true 0 wants the very same text.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from selfkd.data.listed import Row
from selfkd.evaluation.benchmarks.benchmark import (
    Benchmark,
    Grade,
    Sample,
    as_details,
    by_category,
    needed,
    percent,
    picture,
)

TOLERANCE = 0.05
SINGLE_WORD = "\nAnswer the question with a single word."


def is_close(said: str, truth: str) -> bool:
    """Within 5% of a number, else the same text but for case."""
    number, true_number = _number(said), _number(truth)
    if number is None or not true_number:
        return said.lower() == truth.lower()
    return abs(number - true_number) / abs(true_number) <= TOLERANCE


def grade(sample: Sample, reply: str) -> Grade:
    said = reply.strip()
    return Grade(said or None, float(bool(said) and is_close(said, sample["truth"])))


def figures(samples: Sequence[Sample]) -> dict[str, float]:
    return {"relaxed accuracy": percent(samples)} | by_category(samples)


def rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    for number, record in enumerate(records):
        yield Row(
            id=f"chartqa-{number:04d}",
            question=needed(record, "question", number),
            answer=str(needed(record, "answer", number)),
            answer_format=SINGLE_WORD,
            image=picture(record, number),
            category=str(needed(record, "type", number)).removesuffix("_test"),
            kind="chart",
            details=as_details(),
        )


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


CHARTQA = Benchmark(
    name="chartqa",
    hub="lmms-lab-encoder/ChartQA",
    config=None,
    split="test",
    columns=("type", "question", "answer", "image"),
    license="GPL-3.0 (ChartQA's repository; not stated by the copy)",
    rows=rows,
    grade=grade,
    figures=figures,
    revision="9e63b7df1592a1c2158e735cc1725454aef0d6d9",
)
