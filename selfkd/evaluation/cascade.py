"""The two forms in which a cascade gives an ASR model's transcript to its model, and the better one of a benchmark.

`verbatim` is the transcript as the ASR model writes it; `question` is the same words as people write a question.
An ASR model may write "is the red circle left of the blue star.", which a model that is never given such a text reads
badly: a comparison with that form alone would be unfair to the cascade. Every item runs in both; where they are equal,
one response is that of both. The form with the higher score on a benchmark is its cascade.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import fsum
from typing import Any, Literal

from selfkd.data.example import Example, language_code
from selfkd.evaluation.response import Prediction

TranscriptForm = Literal["verbatim", "question"]
FORMS: tuple[TranscriptForm, ...] = ("verbatim", "question")
FORM_FIELDS = (
    *("transcript", "prediction", "outcome", "finish_reason", "reasoning", "seconds", "error"),
    *("parsed", "score", "correct"),
)  # of a sample, in which its two forms may differ

_OPENING, _CLOSING = r"[\"'“‘«(\[]*", r"[\"'”’»)\]]*"
_FIRST_WORD = re.compile(rf"{_OPENING}(\S+)")
_QUESTION_START = re.compile(
    rf"{_OPENING}(?:"
    r"(?:(?:in|on|at|to|from|for|of|with|by)\s+(?=wh))?"  # On which side
    r"(?:what|where|which|who|whom|whose|when|why|how)(?:['’](?:s|re|d|ll|ve|m))?"
    r"|(?:is|are|was|were|do|does|did|could|would|should|has|have|had|may|might|must)(?:n['’]t)?"
    r"|can(?:not|['’]t)?|will|won['’]t|shall|shan['’]t|am"
    r")(?![\w'’-])",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(rf"[.!?…]{_CLOSING}\s")
_CLOSING_MARK = re.compile(rf"[.!?,;:…。！？、，；：–—-]{_CLOSING}$")


def question_form(transcript: str, language: str = "en") -> str:
    """The transcript as a question is written: a capital first, and "?" at the end of one English sentence that begins
    as a question does and has no closing mark but a full stop. All words stay, and so do other closing marks and
    several sentences; idempotent."""
    text = _with_capital(transcript.strip())
    body = text.removesuffix(".").rstrip()
    is_question = language_code(language) == "en" and _QUESTION_START.match(text)
    if not is_question or _SENTENCE_END.search(body) or _CLOSING_MARK.search(body):
        return text
    return f"{body}?"


def _with_capital(text: str) -> str:
    first = _FIRST_WORD.match(text)
    if first is None or first[1] != first[1].lower():  # iPhone
        return text
    capital, at = first[1][0].title(), first.start(1)
    return text[:at] + capital + text[at + 1 :] if len(capital) == 1 else text  # not of ß


def predict_both_forms(
    examples: Sequence[Example],
    transcripts: Sequence[str],
    language: str,
    predict: Callable[[Iterable[Example]], Iterable[tuple[int, Prediction]]],
) -> Iterator[tuple[int, Prediction]]:
    """Yields (position in `examples`, prediction of the verbatim transcript, with that of its question form) for the
    transcripts of the examples, as both responses are there. The questions of earlier turns are transcripts already
    (`with_transcripts_of_history`), and are given in the same form.

    `predict` runs text queries and yields (position, prediction) in any order. An item whose forms are equal is one
    query; the two of another follow each other, so that an interrupted run loses few."""
    texts = [_forms(example, transcript, language) for example, transcript in zip(examples, transcripts, strict=True)]
    queries = [(at, form) for at, forms in enumerate(texts) for form in forms]
    found: dict[int, dict[tuple[str, ...], Prediction]] = {}
    for position, prediction in predict(_with_questions(examples[at], form) for at, form in queries):
        at, form = queries[position]
        of_item = found.setdefault(at, {})
        of_item[form] = replace(prediction, transcript=form[-1])
        if len(of_item) == len(texts[at]):
            verbatim, *other = (of_item[form] for form in texts[at])
            yield at, replace(verbatim, question_form=other[0] if other else None)


def _forms(example: Example, transcript: str, language: str) -> list[tuple[str, ...]]:
    """The different forms of an item: of the transcripts of the earlier turns, and of its own."""
    verbatim = (*(turn.question for turn in example.history), transcript)
    return list(dict.fromkeys((verbatim, tuple(question_form(text, language) for text in verbatim))))


def _with_questions(example: Example, questions: tuple[str, ...]) -> Example:
    *earlier, last = questions
    history = (replace(turn, question=text) for turn, text in zip(example.history, earlier, strict=True))
    return replace(example, question=last, history=tuple(history))


def in_form(sample: Mapping[str, Any], form: TranscriptForm) -> dict[str, Any]:
    """A sample of the cascade with the response in `form` in its own fields, and the other one in `other_form`; that is
    {} where both forms are one text."""
    other = sample["other_form"]
    if not other or sample["form"] == form:
        return {**sample, "form": form}
    return {**sample, **other, "form": form, "other_form": {name: sample[name] for name in FORM_FIELDS}}


def in_better_form(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The samples of a cascade on one benchmark, all in the form with the higher score over the items with a response
    in both; verbatim on a tie. Samples of other modalities as they are."""
    if not any("form" in s for s in samples):
        return [dict(s) for s in samples]
    in_both = {form: [in_form(s, form) for s in samples if not error_of(s)] for form in FORMS}
    verbatim, question = (fsum(s["score"] for s in in_both[form]) for form in FORMS)
    return [in_form(s, "question" if question > verbatim else "verbatim") for s in samples]


def error_of(sample: Mapping[str, Any]) -> str:
    """Why an item has no response, or a cascade's has none in one of its forms; "" where it has all."""
    return sample["error"] or sample.get("other_form", {}).get("error", "")
