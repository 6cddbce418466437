"""TextVQA: a word or two read off a picture, against the answers of ten people.

Prompt as in lmms-eval (task textvqa_val): `str.capitalize` also makes small letters of all others ("Usa"), and no OCR
tokens are given. The answers are processed as in the evaluation of TextVQA and VQA v2 (Singh et al., arXiv 1904.08920;
EvalAI's answer processor).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from selfkd.data.listed import Row
from selfkd.evaluation.benchmarks.benchmark import Benchmark, Grade, Sample, as_details, needed, percent, picture
from selfkd.evaluation.benchmarks.yes_no import ONE_WORD

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


def grade(sample: Sample, reply: str) -> Grade:
    if not reply.strip():
        return Grade(None, 0.0)
    said = processed(reply)
    return Grade(said, agreement(said, sample["details"]["answers"]))


def figures(samples: Sequence[Sample]) -> dict[str, float]:
    return {"vqa accuracy": percent(samples)}


def rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """The truth is what most people said, the first of them where several are as frequent."""
    for number, record in enumerate(records):
        answers = list(needed(record, "answers", number))
        yield Row(
            id=f"textvqa-{needed(record, 'question_id', number)}",
            question=needed(record, "question", number).capitalize(),
            answer=Counter(answers).most_common(1)[0][0],
            answer_format=ONE_WORD,
            image=picture(record, number),
            kind="vqa",
            details=as_details(answers=answers),
        )


TEXTVQA = Benchmark(
    name="textvqa",
    hub="lmms-lab-encoder/textvqa",
    config=None,
    split="validation",
    columns=("question_id", "question", "image", "answers"),
    license="CC-BY-4.0",
    rows=rows,
    grade=grade,
    figures=figures,
    revision="9c0699cd19768ac5ab97568f6b3cbac4c0062884",
    holds={"question_id": "text or number", "answers": "texts"},
)
