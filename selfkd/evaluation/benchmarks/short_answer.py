"""TextVQA, ChartQA, DocVQA, InfoVQA and OCRBench: a word, a phrase or a number read off an image.

TextVQA: prompt as in lmms-eval (task textvqa_val): `str.capitalize` lowers all other characters ("Usa"), and no OCR
tokens are given. Answers are processed as in the evaluation of TextVQA and VQA v2 (Singh et al., arXiv 1904.08920;
EvalAI's answer processor).

ChartQA: prompt as in lmms-eval (task chartqa). Relaxed accuracy, 5% for numbers, as at the end of section 5.1 of Masry
et al., arXiv 2203.10244, in the form in which pix2struct, lmms-eval and VLMEvalKit compute it: "5%" is 0.05, so that a
bare "5" does not match it; a target of 0 wants the very same text.

DocVQA and InfoVQA: prompt as in lmms-eval (tasks docvqa_val, infovqa_val). ANLS as in the challenge's evaluation (Biten
et al., arXiv 1905.13648; Mathew et al., arXiv 2007.00398): 1 - distance / length of the longer text against the nearest
of the answers, and 0 under 0.5. Only the validation splits have answers.

OCRBench: prompt as in lmms-eval (task ocrbench): only the question. Rule of Liu et al., arXiv 2305.07895: correct where
the response contains one of the answers; case is ignored, except in handwritten formulas (HME100k), where spaces are.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from rapidfuzz.distance import Levenshtein

from selfkd.evaluation.benchmarks.base import (
    Benchmark,
    Grade,
    Sample,
    details_json,
    group_by,
    load_image,
    percent,
    percent_by_category,
    required_field,
)
from selfkd.evaluation.benchmarks.yes_no import ONE_WORD
from selfkd.synthesis.sources.rows import Row

_NUMBERS = ("none zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS = {word: str(digit) for digit, words in enumerate(_NUMBERS) for word in words.split()}
ARTICLES = ("a", "an", "the")
# The contractions that the evaluation restores: each is recognized with one apostrophe missing ("dont", but not
# "couldntve"). Others stay as they are ("well").
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[: mark.start()] + word[mark.end() :]: word for word in _CONTRACTED.split() for mark in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}
_MARKS = ';/[]"{}()=+\\_-><@`!'


@lru_cache(maxsize=2**16)  # the same reference answers are processed for each response
def normalize_answer(answer: str) -> str:
    """The form in which answers are compared: lower case, no articles, no punctuation, digits for number words."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = text.strip().replace("\n", " ").replace("\t", " ").strip()
    kept = text
    for mark in _MARKS:
        # a mark next to a space is removed, between characters it becomes a space: "dr - pepper" and "dr-pepper" are
        # both two words
        kept = kept.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    kept = re.sub(r"\.(?!\d)", "", kept)
    words = (NUMBER_WORDS.get(word, word) for word in kept.split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(normalized: str, answers: Sequence[str]) -> float:
    """A third for every person with the same answer, at most 1, averaged over leaving each person out."""
    same = [normalize_answer(answer) == normalized for answer in answers]
    return sum(min(1.0, (sum(same) - own) / 3) for own in same) / len(same)


def textvqa_grade(sample: Sample, prediction: str) -> Grade:
    if not prediction.strip():
        return Grade(None, 0.0)
    normalized = normalize_answer(prediction)
    return Grade(normalized, vqa_accuracy(normalized, sample["details"]["answers"]))


def textvqa_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    return {"vqa accuracy": percent(samples)}


def textvqa_rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """The target is the most frequent answer, the first of them in a tie."""
    for number, record in enumerate(records):
        answers = list(required_field(record, "answers", number))
        yield Row(
            id=f"textvqa-{required_field(record, 'question_id', number)}",
            question=required_field(record, "question", number).capitalize(),
            answer=Counter(answers).most_common(1)[0][0],
            answer_format=ONE_WORD,
            image=load_image(record, number),
            question_type="vqa",
            details=details_json(answers=answers),
        )


TEXTVQA = Benchmark(
    name="textvqa",
    hub="lmms-lab-encoder/textvqa",
    config=None,
    split="validation",
    columns=("question_id", "question", "image", "answers"),
    license="CC-BY-4.0",
    rows=textvqa_rows,
    grade=textvqa_grade,
    metrics=textvqa_metrics,
    revision="9c0699cd19768ac5ab97568f6b3cbac4c0062884",
    column_types={"question_id": "text or number", "answers": "texts"},
)


TOLERANCE = 0.05
SINGLE_WORD = "\nAnswer the question with a single word."


def is_close(answer: str, target: str) -> bool:
    """Within 5% of a number, else the same text up to case."""
    number, true_number = _number(answer), _number(target)
    if number is None or not true_number:
        return answer.lower() == target.lower()
    return abs(number - true_number) / abs(true_number) <= TOLERANCE


def chartqa_grade(sample: Sample, prediction: str) -> Grade:
    answer = prediction.strip()
    return Grade(answer or None, float(bool(answer) and is_close(answer, sample["target"])))


def chartqa_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    return {"relaxed accuracy": percent(samples)} | percent_by_category(samples)


def chartqa_rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    for number, record in enumerate(records):
        yield Row(
            id=f"chartqa-{number:04d}",
            question=required_field(record, "question", number),
            answer=str(required_field(record, "answer", number)),
            answer_format=SINGLE_WORD,
            image=load_image(record, number),
            category=str(required_field(record, "type", number)).removesuffix("_test"),
            question_type="chart",
            details=details_json(),
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
    rows=chartqa_rows,
    grade=chartqa_grade,
    metrics=chartqa_metrics,
    revision="9e63b7df1592a1c2158e735cc1725454aef0d6d9",
)


THRESHOLD = 0.5


def anls(response: str, answers: Sequence[str]) -> float:
    """0 or THRESHOLD to 1. Lengths are those of the compared texts, without outer and double spaces: with the raw
    lengths of the official script a response of spaces would be nearly correct."""
    best = max(
        Levenshtein.normalized_similarity(_normalize_spaces(response), _normalize_spaces(answer)) for answer in answers
    )
    return best if best >= THRESHOLD else 0.0


def anls_grade(sample: Sample, prediction: str) -> Grade:
    answer = _normalize_spaces(prediction)
    return Grade(answer, anls(answer, sample["details"]["answers"])) if answer else Grade(None, 0.0)


def anls_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    return {"anls": percent(samples)}


def document_rows(name: str, type_column: str) -> Callable[[Iterable[Mapping[str, Any]]], Iterator[Row]]:
    """`rows` of DocVQA or InfoVQA; `type_column` holds the question types."""

    def rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
        for number, record in enumerate(records):
            answers = list(required_field(record, "answers", number))
            yield Row(
                id=f"{name}-{required_field(record, 'questionId', number)}",
                question=required_field(record, "question", number),
                answer=answers[0],
                answer_format=ONE_WORD,
                image=load_image(record, number),
                category=", ".join(record[type_column] or ()),
                question_type="document",
                details=details_json(answers=answers),
            )

    return rows


def _normalize_spaces(text: str) -> str:
    return " ".join(text.lower().split())


DOCVQA = Benchmark(
    name="docvqa",
    hub="lmms-lab-encoder/DocVQA",
    config="DocVQA",
    split="validation",
    columns=("questionId", "question", "question_types", "image", "answers"),
    license="Apache-2.0 (the copy); the documents are those of the UCSF library",
    column_types={"questionId": "text or number", "question_types": "texts", "answers": "texts"},
    rows=document_rows("docvqa", "question_types"),
    grade=anls_grade,
    metrics=anls_metrics,
    revision="539088ef8a8ada01ac8e2e6d4e372586748a265e",
)
INFOVQA = Benchmark(
    name="infovqa",
    hub="lmms-lab-encoder/DocVQA",
    config="InfographicVQA",
    split="validation",
    columns=("questionId", "question", "answers", "answer_type", "image"),
    license="Apache-2.0 (the copy); each infographic has its own",
    column_types={"questionId": "text or number", "answers": "texts", "answer_type": "texts"},
    rows=document_rows("infovqa", "answer_type"),
    grade=anls_grade,
    metrics=anls_metrics,
    revision="539088ef8a8ada01ac8e2e6d4e372586748a265e",
)


TEXT_RECOGNITION = "Text Recognition"


def ocrbench_grade(sample: Sample, prediction: str) -> Grade:
    is_formula = sample["details"]["dataset"] == "HME100k"
    response = _normalize_ocr(prediction, is_formula)
    answers = (_normalize_ocr(answer, is_formula) for answer in sample["details"]["answers"])
    return Grade(response or None, float(bool(response) and any(answer in response for answer in answers)))


def ocrbench_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """`score` is the official one, out of 1,000; on a part of the benchmark it is scaled to the whole. The five groups
    are in percent of their questions (300, 200, 200, 200, 100)."""
    result = {"accuracy": percent(samples), "score": 10 * percent(samples)}
    groups = group_by(
        samples,
        lambda s: TEXT_RECOGNITION if s["category"].endswith("Recognition") and not _is_formula(s) else s["category"],
    )
    return result | {name: percent(part) for name, part in sorted(groups.items())}


def ocrbench_rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    for number, record in enumerate(records):
        answers = required_field(record, "answer", number)
        answers = [answers] if isinstance(answers, str) else list(answers)
        yield Row(
            id=f"ocrbench-{number:04d}",
            question=required_field(record, "question", number).strip(),
            answer=answers[0],
            image=load_image(record, number),
            category=required_field(record, "question_type", number),
            question_type="ocr",
            details=details_json(answers=answers, dataset=record["dataset"]),
        )


def _is_formula(sample: Sample) -> bool:
    return "Mathematical Expression" in sample["category"]


def _normalize_ocr(text: str, is_formula: bool) -> str:
    text = text.strip().replace("\n", " ")
    return text.replace(" ", "") if is_formula else text.lower()


OCRBENCH = Benchmark(
    name="ocrbench",
    hub="echo840/OCRBench",
    config=None,
    split="test",
    columns=("dataset", "question", "question_type", "answer", "image"),
    license="not stated by the copy",
    rows=ocrbench_rows,
    grade=ocrbench_grade,
    metrics=ocrbench_metrics,
    revision="92a54bd1384387c178d5a07140a2d85e0a3d12e1",
    column_types={"answer": "text or texts"},
)
