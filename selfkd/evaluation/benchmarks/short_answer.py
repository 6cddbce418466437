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

OCRBench: prompt as in lmms-eval (task ocrbench): the question alone. Rule of Liu et al., arXiv 2305.07895: right where
the response holds one of the answers; case is ignored, but for handwritten formulas (HME100k), where spaces are.
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
    as_details,
    by_category,
    grouped,
    load_image,
    needed,
    percent,
)
from selfkd.evaluation.benchmarks.yes_no import ONE_WORD
from selfkd.synthesis.sources.rows import Row

_NUMBERS = ("none zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS = {word: str(digit) for digit, words in enumerate(_NUMBERS) for word in words.split()}
ARTICLES = ("a", "an", "the")
# The contractions that the evaluation restores: each is recognised with one of its apostrophes missing ("dont",
# "couldntve" is not). It knows no others: "well" stays what it is.
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


@lru_cache(maxsize=2**16)  # the answers of people are compared with each answer that is tried
def processed(answer: str) -> str:
    """An answer in the form in which answers are compared: no case, no articles, no punctuation, digits for numbers."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = text.strip().replace("\n", " ").replace("\t", " ").strip()
    kept = text
    for mark in _MARKS:
        # beside a space a mark goes; between letters it becomes one: "dr - pepper" and "dr-pepper" are both two words
        kept = kept.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    kept = re.sub(r"\.(?!\d)", "", kept)
    words = (NUMBER_WORDS.get(word, word) for word in kept.split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def agreement(said: str, answers: Sequence[str]) -> float:
    """VQA accuracy: a third for every person who said the same, at most 1, averaged over leaving each person out."""
    same = [processed(answer) == said for answer in answers]
    return sum(min(1.0, (sum(same) - own) / 3) for own in same) / len(same)


def textvqa_grade(sample: Sample, prediction: str) -> Grade:
    if not prediction.strip():
        return Grade(None, 0.0)
    said = processed(prediction)
    return Grade(said, agreement(said, sample["details"]["answers"]))


def textvqa_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    return {"vqa accuracy": percent(samples)}


def textvqa_rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """The truth is what most people said, the first of them where several are as frequent."""
    for number, record in enumerate(records):
        answers = list(needed(record, "answers", number))
        yield Row(
            id=f"textvqa-{needed(record, 'question_id', number)}",
            question=needed(record, "question", number).capitalize(),
            answer=Counter(answers).most_common(1)[0][0],
            answer_format=ONE_WORD,
            image=load_image(record, number),
            question_type="vqa",
            details=as_details(answers=answers),
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
    holds={"question_id": "text or number", "answers": "texts"},
)


TOLERANCE = 0.05
SINGLE_WORD = "\nAnswer the question with a single word."


def is_close(said: str, target: str) -> bool:
    """Within 5% of a number, else the same text but for case."""
    number, true_number = _number(said), _number(target)
    if number is None or not true_number:
        return said.lower() == target.lower()
    return abs(number - true_number) / abs(true_number) <= TOLERANCE


def chartqa_grade(sample: Sample, prediction: str) -> Grade:
    said = prediction.strip()
    return Grade(said or None, float(bool(said) and is_close(said, sample["target"])))


def chartqa_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    return {"relaxed accuracy": percent(samples)} | by_category(samples)


def chartqa_rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    for number, record in enumerate(records):
        yield Row(
            id=f"chartqa-{number:04d}",
            question=needed(record, "question", number),
            answer=str(needed(record, "answer", number)),
            answer_format=SINGLE_WORD,
            image=load_image(record, number),
            category=str(needed(record, "type", number)).removesuffix("_test"),
            question_type="chart",
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
    rows=chartqa_rows,
    grade=chartqa_grade,
    metrics=chartqa_metrics,
    revision="9e63b7df1592a1c2158e735cc1725454aef0d6d9",
)


THRESHOLD = 0.5


def anls(said: str, answers: Sequence[str]) -> float:
    """0 or THRESHOLD to 1. Lengths are those of the texts that are compared, without outer and double spaces: the
    official script takes the raw ones, by which a reply of spaces would be nearly right."""
    best = max(Levenshtein.normalized_similarity(_plain(said), _plain(answer)) for answer in answers)
    return best if best >= THRESHOLD else 0.0


def anls_grade(sample: Sample, prediction: str) -> Grade:
    said = _plain(prediction)
    return Grade(said, anls(said, sample["details"]["answers"])) if said else Grade(None, 0.0)


def anls_metrics(samples: Sequence[Sample]) -> dict[str, float]:
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
                image=load_image(record, number),
                category=", ".join(record[types] or ()),
                question_type="document",
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
    license="Apache-2.0 (the copy); the infographics have their own",
    holds={"questionId": "text or number", "answers": "texts", "answer_type": "texts"},
    rows=rows_of("infovqa", "answer_type"),
    grade=anls_grade,
    metrics=anls_metrics,
    revision="539088ef8a8ada01ac8e2e6d4e372586748a265e",
)


RECOGNITION = "Text Recognition"


def ocrbench_grade(sample: Sample, prediction: str) -> Grade:
    formula = sample["details"]["dataset"] == "HME100k"
    said = _ocr_plain(prediction, formula)
    answers = (_ocr_plain(answer, formula) for answer in sample["details"]["answers"])
    return Grade(said or None, float(bool(said) and any(answer in said for answer in answers)))


def ocrbench_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """`score` is the official one, out of 1,000: on a part of the benchmark it is what the whole would have. The five
    groups are in percent of their questions (300, 200, 200, 200, 100)."""
    result = {"accuracy": percent(samples), "score": 10 * percent(samples)}
    groups = grouped(
        samples, lambda s: RECOGNITION if s["category"].endswith("Recognition") and not _formula(s) else s["category"]
    )
    return result | {name: percent(some) for name, some in sorted(groups.items())}


def ocrbench_rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    for number, record in enumerate(records):
        answers = needed(record, "answer", number)
        answers = [answers] if isinstance(answers, str) else list(answers)
        yield Row(
            id=f"ocrbench-{number:04d}",
            question=needed(record, "question", number).strip(),
            answer=answers[0],
            image=load_image(record, number),
            category=needed(record, "question_type", number),
            question_type="ocr",
            details=as_details(answers=answers, dataset=record["dataset"]),
        )


def _formula(sample: Sample) -> bool:
    return "Mathematical Expression" in sample["category"]


def _ocr_plain(text: str, formula: bool) -> str:
    text = text.strip().replace("\n", " ")
    return text.replace(" ", "") if formula else text.lower()


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
    holds={"answer": "text or texts"},
)
