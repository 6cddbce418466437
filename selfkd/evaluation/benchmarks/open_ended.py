"""MM-Vet: questions about images with open answers, from a number to an explanation.

Prompt as in lmms-eval (task mmvet): only the question. The official score is that of an LLM judge (Yu et al. 2024,
arXiv 2308.02490), which `selfkd judge --criterion correctness` gives by its own prompt. The rule here is the free part
of it, without a judge: the share of the reference's parts ("<AND>") whose words stand in the response, of the best
alternative ("<OR>"). It is sound for short references, and a long one hardly ever meets it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from selfkd.evaluation.benchmarks.base import (
    Benchmark,
    Grade,
    Sample,
    details_json,
    load_image,
    percent,
    required_field,
)
from selfkd.synthesis.sources.annotations import AND, OR, alternatives, plain_target, whole_reference
from selfkd.synthesis.sources.rows import Row


def reference_of(sample: Sample) -> str:
    """The reference with its alternatives, where a benchmark has them; else the target."""
    reference = sample["details"].get("reference", "")
    return reference if isinstance(reference, str) and reference else sample["target"]


def mmvet_grade(sample: Sample, prediction: str) -> Grade:
    words = _words(prediction)
    by_alternative = (one.split(AND) for one in reference_of(sample).split(OR))
    shares = [sum(f" {_words(part)} " in f" {words} " for part in parts) / len(parts) for parts in by_alternative]
    return Grade(words or None, max(shares) if words else 0.0)


def mmvet_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """By the rule: all questions, then those that need each capability (a question may need several)."""
    result = {"words": percent(samples)}
    for name in sorted({name for sample in samples for name in capabilities(sample)}):
        result[name] = percent([sample for sample in samples if name in capabilities(sample)])
    return result


def capabilities(sample: Sample) -> list[str]:
    """The capabilities that a question needs, of its category "ocr,math"."""
    return [name for part in sample["category"].split(",") if (name := part.strip())]


def mmvet_rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    for number, record in enumerate(records):
        answers = alternatives(required_field(record, "answer", number))
        target, reference = plain_target(answers), whole_reference(answers)
        yield Row(
            id=f"mmvet-{required_field(record, 'question_id', number)}",
            question=required_field(record, "question", number),
            answer=target,
            image=load_image(record, number),
            category=",".join(part.strip() for part in str(record["capability"] or "").split(",")),
            question_type="open_ended",
            details=details_json(reference=reference),
        )


def _words(text: str) -> str:
    """Words and numbers with their sign: -1 is not 1, and well-known is two words."""
    return " ".join(re.findall(r"(?<!\w)-?\w+", text.lower()))


MMVET = Benchmark(
    name="mmvet",
    hub="lmms-lab/MMVet",
    config=None,
    split="test",
    columns=("question_id", "image", "question", "answer", "capability"),
    license="not stated by the copy (MM-Vet)",
    rows=mmvet_rows,
    grade=mmvet_grade,
    metrics=mmvet_metrics,
    revision="b310d12d0d9e765db953da28a7ef7ff43620dc83",
)
