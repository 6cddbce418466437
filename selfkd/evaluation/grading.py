"""Responses -> grades: a public benchmark by its own rules, the toy world's questions by question type.

A response may be a word or a sentence; both are parsed by the same rules, so no style of answering is favoured.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example, image_hash, read_manifest
from selfkd.errors import InputError
from selfkd.evaluation.average import VOICE_MARK
from selfkd.evaluation.benchmarks import official_scoring as official
from selfkd.evaluation.benchmarks.answer_parsing import chosen_letter, only, yes_or_no
from selfkd.evaluation.benchmarks.base import Grade
from selfkd.evaluation.benchmarks.registry import BENCHMARKS
from selfkd.evaluation.overlap import NUMBER_WORDS
from selfkd.evaluation.response import Prediction
from selfkd.toy_world.questions import COLORS, NUMBERS, SHAPES, SIZES, captions_of

YES_NO_TYPES = ("exists", "relation")
SCORED_TYPES = {*YES_NO_TYPES, "color", "shape", "size", "count", "place", "side", "neighbor", "describe"}
SCORED_TYPES |= {"choice", "repeat", "words"}
_NOTHING = re.compile(rf"\bnone\b|^\W*no\W*$|\b(?:are|is|see) no\b|\bno (?:\w+ )?(?:{'|'.join(SHAPES)})")
_NAME = re.compile(rf"\b({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b")


def parse(question_type: str, question: str, prediction: str) -> str | None:
    """The answer in the form of `Example.target`. Raises KeyError for a kind without rules."""
    if question_type == "choice":
        return chosen_letter(
            prediction, captions_of(question)
        )  # "A man rides" is not A, a caption said back is its letter
    prediction, question = prediction.lower().strip(), question.lower()
    match question_type:
        case "exists" | "relation":
            return yes_or_no(prediction)
        case "color":
            return only(_words(COLORS, prediction) - _words(COLORS, question))
        case "shape":
            return only(_words(SHAPES, prediction) - _words(SHAPES, question))
        case "size":
            return only(_words(SIZES, prediction))
        case "count":
            return _count(prediction)
        case "place":
            vertical, horizontal = (
                only(_words(("top", "bottom"), prediction)),
                only(_words(("left", "right"), prediction)),
            )
            return f"{vertical} {horizontal}" if vertical and horizontal else None
        case "side":
            return only(_words(("left", "right", "above", "below"), prediction))
        case "neighbor":
            return only(set(_names(prediction)) - set(_names(question)))
        case "describe":
            return ", ".join(sorted(_names(prediction))) or None
        case "repeat":
            return prediction or None
        case "words":
            return " ".join(re.findall(r"\w+", prediction)) or None
    raise KeyError(question_type)


def is_right(question_type: str, target: str, parsed: str | None) -> bool:
    """Whether a parsed answer is the true one. A description is right when it names the very things, in any order;
    words, when they stand in the reply on end: a rule for short answers to questions of one's own."""
    if parsed is None:
        return False
    if question_type in ("neighbor", "describe"):
        return parsed == ", ".join(sorted(_names(target)))
    if question_type == "count" and target.strip() in map(str, range(len(NUMBERS))):
        target = NUMBERS[int(target)]
    if question_type == "color":
        target = _spelled(target.lower())
    if question_type == "words":
        wanted = " ".join(re.findall(r"\w+", target.lower()))
        return f" {wanted} " in f" {parsed} "
    target = target.strip() if question_type == "repeat" else target.strip(" .")
    return parsed == (target.upper() if question_type == "choice" else target.lower())


def _count(prediction: str) -> str | None:
    """ "None" and "there are no circles" say zero, where no number is said beside them; "no idea" does not."""
    words = set(re.findall(r"\w+", prediction)) - {"no", "none"}
    if _NOTHING.search(prediction) and not any(w in NUMBER_WORDS or w.isdigit() for w in words):
        return "zero"
    return only(_words(NUMBERS, prediction) | {NUMBERS[int(d)] for d in re.findall(r"\b[0-4]\b", prediction)})


def _words(known: tuple[str, ...], text: str) -> set[str]:
    return set(known) & set(re.findall(r"[a-z]+", _spelled(text)))


def _names(text: str) -> list[str]:
    return [f"{color} {shape}" for color, shape in _NAME.findall(_spelled(text))]


def _spelled(text: str) -> str:
    """As `COLORS` are."""
    return text.replace("grey", "gray")


Scoring = Literal["lenient", "official"]
# whose official rule `official` grades by: OCRBench's is the one that is always taken
OFFICIAL = (*official.RULES, "ocrbench")


def check_name(folder: ExampleFolder) -> None:
    """Raises InputError where questions of one's own are called what would have them graded as a public benchmark's."""
    name, made_of = folder.source, read_manifest(folder.folder).get("source")
    if (name in BENCHMARKS and made_of != "benchmark") or name == "average" or VOICE_MARK in name:
        taken = "names a public benchmark" if name in BENCHMARKS else "has a meaning of its own here"
        raise InputError(
            f"data: {folder.folder}: its questions are from {name!r}, which {taken}; rename their file or folder, "
            "and speak them anew"
        )


def check_gradable(name: str, items: Iterable[Mapping[str, Any]]) -> None:
    """Raises InputError where questions of a source (id, kind, question, truth) cannot be scored: a kind without a
    rule, or a truth that said back word for word would count as wrong."""
    for item in items if name not in BENCHMARKS else ():
        question_type, target = item["question_type"], item["target"]
        if question_type not in SCORED_TYPES:
            known = ", ".join(sorted(SCORED_TYPES))
            raise InputError(
                f"data: {name}: questions of kind {question_type!r} have no rule to be scored by; the field kind of your own "
                f"questions says which: {known}"
            )
        if not is_right(question_type, target, parse(question_type, item["question"], target)):
            raise InputError(
                f"data: {name}: {item['id']}: no reply to {item['question']!r} could be read as {target!r} by the rule "
                f"for questions of kind {question_type!r}; the kind 'words' looks for the words themselves"
            )


def scoring_of(benchmark: str, scoring: Scoring) -> Scoring:
    """What grades a benchmark ("mme", "mme@voice") under a run's `scoring`: the lenient rule where no other is."""
    return scoring if benchmark.partition(VOICE_MARK)[0] in OFFICIAL else "lenient"


def grade(sample: Mapping[str, Any], prediction: Prediction, scoring: Scoring = "lenient") -> Grade:
    """`sample` has id, source, kind, category, question, truth, details. A refusal and an empty answer say nothing that
    our rules may read; official rules read whatever stands there. An answer that was cut is graded as it stands."""
    if scoring == "official" and sample["source"] in official.RULES:
        return official.grade(sample["source"], sample, prediction.text)
    if not prediction.is_read:
        return Grade(None, 0.0)
    if sample["source"] in BENCHMARKS:
        return BENCHMARKS[sample["source"]].grade(sample, prediction.text)
    parsed = parse(sample["question_type"], sample["question"], prediction.text)
    return Grade(parsed, float(is_right(sample["question_type"], sample["target"], parsed)))


def group_of(sample: Mapping[str, Any], image: str) -> str:
    """What an item is right or wrong with: its benchmark's own group, or all questions about its picture. `sample` has
    source, category, details; `image` is the name of its picture."""
    benchmark = BENCHMARKS.get(sample["source"])
    return benchmark.group(sample) if benchmark and benchmark.group else image


def details_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The field details of a row (with its id); raises InputError where it is no JSON object."""
    try:
        details = json.loads(row["details"] or "{}")
    except ValueError as error:
        raise InputError(f"data: example {row['id']}: field details: not JSON ({error})") from error
    if not isinstance(details, dict):
        raise InputError(f"data: example {row['id']}: field details: no JSON object")
    return details


def group_of_example(example: Example) -> str:
    details = details_of(vars(example))
    sample = {"source": example.source, "category": example.category, "details": details}
    return group_of(sample, image_hash(example.image) if example.image else example.id)


def official_metrics(*modalities: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """A benchmark's own figures of each of some views of it, headline first, on the items that have a reply in all of
    the views. Where figures count groups those alone are in it that lack no item: a pair of which one is lost is no
    pair. Empty for a source without figures, and where no item is left."""
    benchmark = BENCHMARKS.get(modalities[0][0]["source"]) if modalities[0] else None
    if benchmark is None:
        return [{} for _ in modalities]
    unit = "group" if benchmark.counts_groups else "id"
    lost = {s[unit] for samples in modalities for s in samples if s["error"]}
    whole = [[s for s in samples if s[unit] not in lost] for samples in modalities]
    return [benchmark.metrics(samples) if samples else {} for samples in whole]


def headlines(*modalities: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The first figure of each of some views, on the same items; None without any."""
    metrics = official_metrics(*modalities)
    return [next(iter(of.values())) for of in metrics] if all(metrics) else None
