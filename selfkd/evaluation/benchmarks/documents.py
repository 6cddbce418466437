"""DocVQA and InfoVQA: what a document or an infographic says, scored by ANLS.

Prompt as in lmms-eval (tasks docvqa_val, infovqa_val). ANLS as in the challenge's evaluation (Biten et al., arXiv
1905.13648; Mathew et al., arXiv 2007.00398): 1 - distance / length of the longer text against the nearest of the
answers, and 0 under 0.5. Only the validation splits have answers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from selfkd.data.listed import Row
from selfkd.evaluation.benchmarks.benchmark import Benchmark, Grade, Sample, as_details, needed, percent, picture
from selfkd.evaluation.benchmarks.yes_no import ONE_WORD

THRESHOLD = 0.5


def anls(said: str, answers: Sequence[str]) -> float:
    """0 or THRESHOLD to 1. Lengths are those of the texts that are compared, without outer and double spaces: the
    official script takes the raw ones, by which a reply of spaces would be nearly right."""
    best = max(Levenshtein.normalized_similarity(_plain(said), _plain(answer)) for answer in answers)
    return best if best >= THRESHOLD else 0.0


def grade(sample: Sample, reply: str) -> Grade:
    said = _plain(reply)
    return Grade(said, anls(said, sample["details"]["answers"])) if said else Grade(None, 0.0)


def figures(samples: Sequence[Sample]) -> dict[str, float]:
    return {"anls": percent(samples)}


def rows_of(name: str, types: str) -> Callable[[Iterable[Mapping[str, Any]]], Iterator[Row]]:
    """`types` is the column that says what kind of question it is."""

    def rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
        for number, record in enumerate(records):
            answers = list(needed(record, "answers", number))
            yield Row(
                id=f"{name}-{needed(record, 'questionId', number)}",
                question=needed(record, "question", number),
                answer=answers[0],
                answer_format=ONE_WORD,
                image=picture(record, number),
                category=", ".join(record[types] or ()),
                kind="document",
                details=as_details(answers=answers),
            )

    return rows


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


DOCVQA = Benchmark(
    name="docvqa",
    hub="lmms-lab-encoder/DocVQA",
    config="DocVQA",
    split="validation",
    columns=("questionId", "question", "question_types", "image", "answers"),
    license="Apache-2.0 (the copy); the documents are the UCSF library's",
    holds={"questionId": "text or number", "question_types": "texts", "answers": "texts"},
    rows=rows_of("docvqa", "question_types"),
    grade=grade,
    figures=figures,
    revision="539088ef8a8ada01ac8e2e6d4e372586748a265e",
)
INFOVQA = Benchmark(
    name="infovqa",
    hub="lmms-lab-encoder/DocVQA",
    config="InfographicVQA",
    split="validation",
    columns=("questionId", "question", "answers", "answer_type", "image"),
    license="Apache-2.0 (the copy); the infographics have their own",
    holds={"questionId": "text or number", "answers": "texts", "answer_type": "texts"},
    rows=rows_of("infovqa", "answer_type"),
    grade=grade,
    figures=figures,
    revision="539088ef8a8ada01ac8e2e6d4e372586748a265e",
)
