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
from selfkd.evaluation.response import Reply
from selfkd.toy_world.questions import COLORS, NUMBERS, SHAPES, SIZES, captions_of

YES_NO_KINDS = ("exists", "relation")
SCORED_KINDS = {*YES_NO_KINDS, "color", "shape", "size", "count", "place", "side", "neighbor", "describe"}
SCORED_KINDS |= {"choice", "repeat", "words"}
_NOTHING = re.compile(rf"\bnone\b|^\W*no\W*$|\b(?:are|is|see) no\b|\bno (?:\w+ )?(?:{'|'.join(SHAPES)})")
_NAME = re.compile(rf"\b({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b")


def parse(kind: str, question: str, reply: str) -> str | None:
    """The answer in the form of `Example.truth`. Raises KeyError for a kind without rules."""
    if kind == "choice":
        return chosen_letter(reply, captions_of(question))  # "A man rides" is not A, a caption said back is its letter
    reply, question = reply.lower().strip(), question.lower()
    match kind:
        case "exists" | "relation":
            return yes_or_no(reply)
        case "color":
            return only(_words(COLORS, reply) - _words(COLORS, question))
        case "shape":
            return only(_words(SHAPES, reply) - _words(SHAPES, question))
        case "size":
            return only(_words(SIZES, reply))
        case "count":
            return _count(reply)
        case "place":
            vertical, horizontal = only(_words(("top", "bottom"), reply)), only(_words(("left", "right"), reply))
            return f"{vertical} {horizontal}" if vertical and horizontal else None
        case "side":
            return only(_words(("left", "right", "above", "below"), reply))
        case "neighbor":
            return only(set(_names(reply)) - set(_names(question)))
        case "describe":
            return ", ".join(sorted(_names(reply))) or None
        case "repeat":
            return reply or None
        case "words":
            return " ".join(re.findall(r"\w+", reply)) or None
    raise KeyError(kind)


def is_right(kind: str, truth: str, parsed: str | None) -> bool:
    """Whether a parsed answer is the true one. A description is right when it names the very things, in any order;
    words, when they stand in the reply on end: a rule for short answers to questions of one's own."""
    if parsed is None:
        return False
    if kind in ("neighbor", "describe"):
        return parsed == ", ".join(sorted(_names(truth)))
    if kind == "count" and truth.strip() in map(str, range(len(NUMBERS))):
        truth = NUMBERS[int(truth)]
    if kind == "color":
        truth = _spelled(truth.lower())
    if kind == "words":
        wanted = " ".join(re.findall(r"\w+", truth.lower()))
        return f" {wanted} " in f" {parsed} "
    truth = truth.strip() if kind == "repeat" else truth.strip(" .")
    return parsed == (truth.upper() if kind == "choice" else truth.lower())


def _count(reply: str) -> str | None:
    """ "None" and "there are no circles" say zero, where no number is said beside them; "no idea" does not."""
    words = set(re.findall(r"\w+", reply)) - {"no", "none"}
    if _NOTHING.search(reply) and not any(w in NUMBER_WORDS or w.isdigit() for w in words):
        return "zero"
    return only(_words(NUMBERS, reply) | {NUMBERS[int(d)] for d in re.findall(r"\b[0-4]\b", reply)})


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
        kind, truth = item["kind"], item["truth"]
        if kind not in SCORED_KINDS:
            known = ", ".join(sorted(SCORED_KINDS))
            raise InputError(
                f"data: {name}: questions of kind {kind!r} have no rule to be scored by; the field kind of your own "
                f"questions says which: {known}"
            )
        if not is_right(kind, truth, parse(kind, item["question"], truth)):
            raise InputError(
                f"data: {name}: {item['id']}: no reply to {item['question']!r} could be read as {truth!r} by the rule "
                f"for questions of kind {kind!r}; the kind 'words' looks for the words themselves"
            )


def scoring_of(benchmark: str, scoring: Scoring) -> Scoring:
    """What grades a benchmark ("mme", "mme@voice") under a run's `scoring`: the lenient rule where no other is."""
    return scoring if benchmark.partition(VOICE_MARK)[0] in OFFICIAL else "lenient"


def grade(sample: Mapping[str, Any], reply: Reply, scoring: Scoring = "lenient") -> Grade:
    """`sample` has id, source, kind, category, question, truth, details. A refusal and an empty answer say nothing that
    our rules may read; official rules read whatever stands there. An answer that was cut is graded as it stands."""
    if scoring == "official" and sample["source"] in official.RULES:
        return official.grade(sample["source"], sample, reply.text)
    if not reply.is_read:
        return Grade(None, 0.0)
    if sample["source"] in BENCHMARKS:
        return BENCHMARKS[sample["source"]].grade(sample, reply.text)
    parsed = parse(sample["kind"], sample["question"], reply.text)
    return Grade(parsed, float(is_right(sample["kind"], sample["truth"], parsed)))


def group_of(sample: Mapping[str, Any], picture: str) -> str:
    """What an item is right or wrong with: its benchmark's own group, or all questions about its picture. `sample` has
    source, category, details; `picture` is the name of its picture."""
    benchmark = BENCHMARKS.get(sample["source"])
    return benchmark.group(sample) if benchmark and benchmark.group else picture


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


def official_figures(*views: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """A benchmark's own figures of each of some views of it, headline first, on the items that have a reply in all of
    the views. Where figures count groups those alone are in it that lack no item: a pair of which one is lost is no
    pair. Empty for a source without figures, and where no item is left."""
    benchmark = BENCHMARKS.get(views[0][0]["source"]) if views[0] else None
    if benchmark is None:
        return [{} for _ in views]
    unit = "group" if benchmark.counts_groups else "id"
    lost = {s[unit] for samples in views for s in samples if s["error"]}
    whole = [[s for s in samples if s[unit] not in lost] for samples in views]
    return [benchmark.figures(samples) if samples else {} for samples in whole]


def headlines(*views: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The first figure of each of some views, on the same items; None without any."""
    figures = official_figures(*views)
    return [next(iter(of.values())) for of in figures] if all(figures) else None
