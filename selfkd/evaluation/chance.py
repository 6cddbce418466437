"""Chance: the accuracy of a model that does not see the image and always gives the best answer for a question's type.

Where all questions have one question_type, the category takes its place. Types of fewer than `_MIN_ITEMS` items are
merged with those of their form (yes or no, options, anything else): in a type with a single item its own answer would
always be correct. The best answer is among the commonest targets, graded as the benchmark grades (ANLS, VQA accuracy,
relaxed accuracy); for multiple choice the accuracy is never less than that of a random option.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from selfkd.evaluation.grading import YES_NO_TYPES, grade
from selfkd.evaluation.response import Prediction

Sample = Mapping[str, Any]
_MIN_ITEMS = 10
_ANSWERS = 4  # of a type: its commonest targets, which are graded


def chance_accuracy(samples: Sequence[Sample]) -> float | None:
    """The mean score, 0 to 1, over samples with source, question_type, category, question, target and details; None
    without samples."""
    by_type = question_types(samples).values()
    return sum(len(some) * _best_score(some) for some in by_type) / len(samples) if samples else None


def question_types(samples: Sequence[Sample]) -> dict[tuple[str, str], list[Sample]]:
    """The samples by (form, question type); small types have the name ""."""
    field = "question_type" if len({s["question_type"] for s in samples}) > 1 else "category"
    counts = Counter((_form(s), s[field]) for s in samples)
    found: dict[tuple[str, str], list[Sample]] = {}
    for s in samples:
        form, name = _form(s), s[field]
        found.setdefault((form, name if counts[form, name] >= _MIN_ITEMS else ""), []).append(s)
    return found


def _best_score(samples: Sequence[Sample]) -> float:
    """The mean score of the one answer that scores best."""
    form = _form(samples[0])
    commonest = Counter(s["target"] for s in samples).most_common(_ANSWERS)
    random_option = {"options": fmean(1 / (_options(s) or 1) for s in samples), "yes or no": 0.5, "": 0.0}[form]
    if len(samples) == 1:
        return random_option
    if form:
        return max(random_option, commonest[0][1] / len(samples))
    return max(fmean(grade(s, Prediction(answer)).score for s in samples) for answer, _ in commonest)


def _form(sample: Sample) -> str:
    if _options(sample):
        return "options"
    return "yes or no" if sample["question_type"] in (*YES_NO_TYPES, "yes_no") else ""


def _options(sample: Sample) -> int:
    """The number of options; 0 where the question has none."""
    return 2 if sample["question_type"] == "choice" else len(sample["details"].get("options") or ())
