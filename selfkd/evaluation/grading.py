"""Responses -> grades: a public benchmark by its own rules, the toy world's questions by question type.

A response may be a word or a sentence; both are parsed by the same rules, so no style of answering is favoured.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example, image_hash, read_manifest
from selfkd.data.turns import conversation_of
from selfkd.errors import InputError
from selfkd.evaluation.average import VOICE_MARK
from selfkd.evaluation.benchmarks import multiple_choice, official_scoring
from selfkd.evaluation.benchmarks.answer_parsing import chosen_letter, only, yes_or_no
from selfkd.evaluation.benchmarks.base import Grade
from selfkd.evaluation.benchmarks.registry import BENCHMARKS
from selfkd.evaluation.benchmarks.short_answer import anls_grade, chartqa_grade, textvqa_grade
from selfkd.evaluation.config import Scoring
from selfkd.evaluation.overlap import NUMBER_WORDS
from selfkd.evaluation.response import Prediction
from selfkd.json_files import parse_json
from selfkd.toy_world.questions import COLORS, NUMBERS, SHAPES, SIZES, captions_in

YES_NO_TYPES = ("exists", "relation")
SCORED_TYPES = {*YES_NO_TYPES, "color", "shape", "size", "count", "place", "side", "neighbor", "describe"}
SCORED_TYPES |= {"choice", "repeat", "words"}
# rules of public benchmarks for other sources of the same questions: they need `details` (answers, options)
DETAILED_RULES: dict[str, Callable[[Mapping[str, Any], str], Grade]] = {
    "vqa": textvqa_grade,
    "document": anls_grade,
    "chart": chartqa_grade,
    "multiple_choice": multiple_choice.grade,
}
_ZERO = re.compile(rf"\bnone\b|^\W*no\W*$|\b(?:are|is|see) no\b|\bno (?:\w+ )?(?:{'|'.join(SHAPES)})")
_NAME = re.compile(rf"\b({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b")


def parse(question_type: str, question: str, prediction: str) -> str | None:
    """The answer in the form of `Example.target`. Raises KeyError for a question type without rules."""
    if question_type == "choice":
        # "A man rides" is not A, a caption repeated is its letter
        return chosen_letter(prediction, captions_in(question))
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
            vertical = only(_words(("top", "bottom"), prediction))
            horizontal = only(_words(("left", "right"), prediction))
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


def is_correct(question_type: str, target: str, parsed: str | None) -> bool:
    """Whether a parsed answer is the target. A description is correct when it names the same objects, in any order;
    `words`, when the target's words stand in the response one after another: a rule for short answers to a user's own
    questions."""
    if parsed is None:
        return False
    if question_type in ("neighbor", "describe"):
        return parsed == ", ".join(sorted(_names(target)))
    if question_type == "count" and target.strip() in map(str, range(len(NUMBERS))):
        target = NUMBERS[int(target)]
    if question_type == "color":
        target = _american(target.lower())
    if question_type == "words":
        wanted = " ".join(re.findall(r"\w+", target.lower()))
        return f" {wanted} " in f" {parsed} "
    target = target.strip() if question_type == "repeat" else target.strip(" .")
    return parsed == (target.upper() if question_type == "choice" else target.lower())


def _count(prediction: str) -> str | None:
    """ "None" and "there are no circles" are zero, where the response has no other number; "no idea" is not."""
    words = set(re.findall(r"\w+", prediction)) - {"no", "none"}
    if _ZERO.search(prediction) and not any(w in NUMBER_WORDS or w.isdigit() for w in words):
        return "zero"
    return only(_words(NUMBERS, prediction) | {NUMBERS[int(d)] for d in re.findall(r"\b[0-4]\b", prediction)})


def _words(known: tuple[str, ...], text: str) -> set[str]:
    return set(known) & set(re.findall(r"[a-z]+", _american(text)))


def _names(text: str) -> list[str]:
    return [f"{color} {shape}" for color, shape in _NAME.findall(_american(text))]


def _american(text: str) -> str:
    """Spelled as in `COLORS`."""
    return text.replace("grey", "gray")


# benchmarks with an official rule: OCRBench is always graded by it
OFFICIAL = (*official_scoring.RULES, "ocrbench")


GRADED_COLUMNS = ("id", "question_type", "category", "question", "target", "details")


def check_source_name(folder: ExampleFolder) -> None:
    """Raises InputError where the source of a user's own questions has a name that would grade them as a public
    benchmark's."""
    name, made_of = folder.source, read_manifest(folder.folder).get("source")
    if (name in BENCHMARKS and made_of != "benchmark") or name == "average" or VOICE_MARK in name:
        taken = "names a public benchmark" if name in BENCHMARKS else "is reserved"
        raise InputError(
            f"data: {folder.folder}: its questions are from {name!r}, which {taken}; rename their file or folder, "
            "and synthesize them again"
        )


def check_gradable(name: str, items: Iterable[Mapping[str, Any]]) -> None:
    """Raises InputError where questions of a source (`GRADED_COLUMNS`) cannot be graded: a question type without a
    rule, a target that would count as wrong if the model repeated it, or, of a public benchmark, details that its rule
    cannot read."""
    for item in items:
        question_type, target = item["question_type"], item["target"]
        if name in BENCHMARKS or question_type in DETAILED_RULES:
            _check_details(name, item, BENCHMARKS[name].grade if name in BENCHMARKS else DETAILED_RULES[question_type])
            continue
        if question_type not in SCORED_TYPES:
            known = ", ".join(sorted(SCORED_TYPES))
            raise InputError(
                f"data: {name}: questions of type {question_type!r} have no rule that grades them; the field "
                f"question_type of your own questions chooses one: {known}"
            )
        if not is_correct(question_type, target, parse(question_type, item["question"], target)):
            raise InputError(
                f"data: {name}: {item['id']}: no response to {item['question']!r} could be parsed as {target!r} by the "
                f"rule for questions of type {question_type!r}; the type 'words' matches the words themselves"
            )


def _check_details(name: str, item: Mapping[str, Any], rule: Callable[[Mapping[str, Any], str], Grade]) -> None:
    sample = {**item, "source": name, "details": details_of(item)}
    try:
        rule(sample, item["target"] or "none")
        group = group_of(sample, item["id"])
    except Exception as error:  # each rule reads other parts of them
        group, reason = None, f" ({type(error).__name__}: {str(error)[:100]})"
    else:
        reason = f" (group {group!r:.100})"
    if not isinstance(group, str):
        raise InputError(f"data: example {item['id']}: field details: {name} cannot be graded by it{reason}")


def scoring_of(benchmark: str, scoring: Scoring) -> Scoring:
    """The rule that grades a benchmark ("mme", "mme@voice") under a run's `scoring`: lenient where there is no
    other."""
    return scoring if benchmark.partition(VOICE_MARK)[0] in OFFICIAL else "lenient"


def grade(sample: Mapping[str, Any], prediction: Prediction, scoring: Scoring = "lenient") -> Grade:
    """`sample` has id, source, question_type, category, question, target, details. Our rules do not parse a refusal or
    an empty response; official rules parse any text. A response that was cut is graded as it stands."""
    if scoring == "official" and sample["source"] in official_scoring.RULES:
        return official_scoring.grade(sample["source"], sample, prediction.text)
    if not prediction.is_parsable:
        return Grade(None, 0.0)
    if sample["source"] in BENCHMARKS:
        return BENCHMARKS[sample["source"]].grade(sample, prediction.text)
    if rule := DETAILED_RULES.get(sample["question_type"]):
        return rule(sample, prediction.text)
    parsed = parse(sample["question_type"], sample["question"], prediction.text)
    return Grade(parsed, float(is_correct(sample["question_type"], sample["target"], parsed)))


def group_of(sample: Mapping[str, Any], image: str) -> str:
    """The items that are right or wrong together with this one: its benchmark's own group, or all questions about its
    image. `sample` has source, category, details; `image` is the name of its image."""
    benchmark = BENCHMARKS.get(sample["source"])
    return benchmark.group(sample) if benchmark and benchmark.group else image


def details_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The field details of a row (with its id); raises InputError where it is not a JSON object."""
    try:
        details = parse_json(row["details"] or "{}")
    except ValueError as error:
        raise InputError(f"data: example {row['id']}: field details: not JSON ({error})") from error
    if not isinstance(details, dict):
        raise InputError(f"data: example {row['id']}: field details: not a JSON object")
    return details


def group_of_example(example: Example) -> str:
    details = details_of(vars(example))
    sample = {"source": example.source, "category": example.category, "details": details}
    return group_of(sample, image_hash(example.image) if example.image else conversation_of(example.id))


def benchmark_metrics(*modalities: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """A benchmark's own metrics in each of several modalities, headline first, on the items that have a response in all
    of them. Where metrics count groups (pairs), groups that lack an item are left out. Empty for a source without
    metrics of its own, and where no item is left."""
    benchmark = BENCHMARKS.get(modalities[0][0]["source"]) if modalities[0] else None
    if benchmark is None:
        return [{} for _ in modalities]
    unit = "group" if benchmark.counts_groups else "id"
    lost = {s[unit] for samples in modalities for s in samples if s["error"]}
    whole = [[s for s in samples if s[unit] not in lost] for samples in modalities]
    return [benchmark.metrics(samples) if samples else {} for samples in whole]


def headline_metrics(*modalities: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The benchmark's first metric in each of several modalities, on the same items; None where it has none."""
    metrics = benchmark_metrics(*modalities)
    return [next(iter(values.values())) for values in metrics] if all(metrics) else None
