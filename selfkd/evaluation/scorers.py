"""Replies -> answers: what a reply says, by kind of question, or None where it says nothing or several things.

A reply may be a word or a sentence; both are read by the same rules, so no style of answering is favoured.
"""

import re

from selfkd.data.questions import COLORS, NUMBERS, SHAPES, SIZES, captions_of
from selfkd.evaluation.benchmarks.replies import chosen_letter, only, yes_or_no
from selfkd.evaluation.overlap import NUMBER_WORDS

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
