"""What a benchmark gives to who does not look: the accuracy of always giving the best one answer to each question type.

A question type is a kind, or, where all questions are of one kind, a category. Types of fewer than `_FEWEST` items are
one type with those of their form (yes or no, options, anything else): of a type with a single item its own answer would
always be right. The best answer is among the commonest targets, graded as the benchmark grades (ANLS, VQA accuracy,
relaxed accuracy); of multiple choice the floor is never less than an option drawn by lot.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from selfkd.evaluation.grading import YES_NO_TYPES, grade
from selfkd.evaluation.response import Prediction

Sample = Mapping[str, Any]
_FEWEST = 10
_ANSWERS = 4  # commonest targets of a type, which are tried


def chance_floor(samples: Sequence[Sample]) -> float | None:
    """The mean score, 0 to 1, over samples with source, kind, category, question, truth and details; None for none."""
    by_type = question_types(samples).values()
    return sum(len(some) * _best(some) for some in by_type) / len(samples) if samples else None


def question_types(samples: Sequence[Sample]) -> dict[tuple[str, str], list[Sample]]:
    """The samples by form and question type; small types are under the name ""."""
    by = "question_type" if len({s["question_type"] for s in samples}) > 1 else "category"
    counts = Counter((_form(s), s[by]) for s in samples)
    found: dict[tuple[str, str], list[Sample]] = {}
    for s in samples:
        form, name = _form(s), s[by]
        found.setdefault((form, name if counts[form, name] >= _FEWEST else ""), []).append(s)
    return found


def _best(samples: Sequence[Sample]) -> float:
    """The mean score of always giving the one answer that scores best."""
    form = _form(samples[0])
    commonest = Counter(s["target"] for s in samples).most_common(_ANSWERS)
    by_lot = {"options": fmean(1 / (_options(s) or 1) for s in samples), "yes or no": 0.5, "": 0.0}[form]
    if len(samples) == 1:
        return by_lot
    if form:
        return max(by_lot, commonest[0][1] / len(samples))
    return max(fmean(grade(s, Prediction(answer)).score for s in samples) for answer, _ in commonest)


def _form(sample: Sample) -> str:
    if _options(sample):
        return "options"
    return "yes or no" if sample["question_type"] in (*YES_NO_TYPES, "yes_no") else ""


def _options(sample: Sample) -> int:
    """How many there are to choose from; 0 where the question has none."""
    return 2 if sample["question_type"] == "choice" else len(sample["details"].get("options") or ())
