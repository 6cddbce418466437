"""How many responses were answers, were cut, empty, refused or failed, and what to say where that differs between two
modalities: then a gap is not, or not only, what the model makes of its input."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from selfkd.evaluation.response import OUTCOMES

LEAST_DIFFERENCE = 0.005  # of two rates: half a point, which one decimal of a gap can show
_WORDS = {
    "cut": ("responses were cut at the token limit", "raise --max_new_tokens before reading the gap"),
    "empty": ("responses were empty", "they count as wrong"),
    "refused": ("responses were refusals", "does the model take this modality at all?"),
    "failed": ("items failed", "the gap is of the others alone"),
}


def count_outcomes(samples: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """{outcome: number of samples}, of all outcomes in their order."""
    # a sample that some other code has made was not sorted
    found = Counter(s.get("outcome", "failed" if s["error"] else "answer") for s in samples)
    return {outcome: found[outcome] for outcome in OUTCOMES}


def outcome_warnings(
    text: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], modality: str = "audio"
) -> list[str]:
    """A sentence for each outcome that is more frequent in one of two modalities of the same items."""
    counts, sizes = [count_outcomes(text), count_outcomes(other)], [len(text), len(other)]
    if not all(sizes):
        return []
    said = []
    for outcome, (what, hint) in _WORDS.items():
        of_text, of_other = (count[outcome] / size for count, size in zip(counts, sizes, strict=True))
        if abs(of_text - of_other) >= LEAST_DIFFERENCE:
            more = sorted([(of_text, "text"), (of_other, modality)], reverse=True)
            (high, first), (low, second) = more
            said.append(f"{_percent(high)} of {first} {what}, {_percent(low)} of {second}: {hint}")
    return said


def _percent(rate: float) -> str:
    whole = f"{100 * rate:.0f}"
    return f"{whole}%" if abs(100 * rate - round(100 * rate)) < 0.05 or rate >= 0.1 else f"{100 * rate:.1f}%"
