"""What a sentence of the first screen speaks of: an average over benchmarks, a benchmark in several voices, or one
benchmark; which audio model is the best on it, and differences of two systems on the same items.

Legend: n items, M systems.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfkd.evaluation.compare import CASCADE, TEXT
from selfkd.evaluation.metrics import groups_in
from selfkd.evaluation.uncertainty import DIFFERENCE, Bounds, average_interval, enough
from selfkd.report.inputs import Group, Samples


@dataclass(frozen=True)
class Difference:
    """Of the scores of two systems, first minus second, on the items that both answered."""

    first: float
    second: float
    interval: Sequence[float] | None
    groups: int

    @property
    def mean(self) -> float:
        return self.first - self.second

    @property
    def sign(self) -> int | None:
        """1 or -1 where the interval excludes zero, else 0; None with too few groups for a verdict."""
        if self.interval is None or not enough(self.groups):
            return None
        return int(self.interval[0] > 0) - int(self.interval[1] < 0)


@dataclass(frozen=True)
class Scope:
    group: Group
    title: str
    seed: int

    @property
    def parts(self) -> list[dict[str, Samples]]:
        """The samples of each system, for each benchmark that is averaged."""
        return [member.samples for member in self.group.members] or [self.group.samples]

    @property
    def scores(self) -> dict[str, Any]:
        return self.group.scores

    @cached_property
    def audio(self) -> list[str]:
        """The audio systems with a response; the others are measured against the first."""
        systems = self.scores["systems"]
        return [s for s in self.group.samples if s not in (TEXT, CASCADE) and systems[s]["n"]]

    def has(self, system: str) -> bool:
        return system in self.group.samples and bool(self.scores["systems"][system]["n"])

    @property
    def gap(self) -> dict[str, Any]:
        """Of the first audio system; {} where it has no item in common with text."""
        return self.gap_of(self.audio[0]) if self.audio else {}

    def gap_of(self, system: str) -> dict[str, Any]:
        gap = self.scores["gap"].get(system, {})
        return gap if gap.get("n") else {}

    @cached_property
    def best_of_others(self) -> str:
        """The audio system after the first that closes the largest share of its gap, or, where no share is known, that
        gains the most; "" without one."""
        closed = self.scores["gap_closed"]
        others = [s for s in self.audio[1:] if s in closed]
        known = [s for s in others if closed[s]["share"] is not None]
        if known:
            return max(known, key=lambda s: closed[s]["share"])
        return max(others, key=lambda s: closed[s]["difference"], default="")

    @cached_property
    def best(self) -> str:
        """The audio system with the highest score; "" without one."""
        closed, other = self.scores["gap_closed"], self.best_of_others
        if other:
            return other if closed[other]["difference"] > 0 else self.audio[0]
        return max(self.audio, key=lambda s: self.scores["systems"][s]["accuracy"], default="")

    def answered_by(self, systems: Sequence[str]) -> tuple[list[NDArray[np.float64]], list[list[str]]] | None:
        """Scores (n, M) of each part's items with a response from all `systems`, and the groups of these items; None
        where a part has no such item."""
        scores, groups = [], []
        for part in self.parts:
            by_id = [{s["id"]: s for s in part[system] if not s["error"]} for system in systems]
            ids = [i for i in by_id[0] if all(i in of for of in by_id)]
            if not ids:
                return None
            scores.append(np.array([[float(of[i]["score"]) for of in by_id] for i in ids]))
            groups.append(groups_in([by_id[0][i] for i in ids]))
        return scores, groups

    def difference(self, first: str, second: str) -> Difference | None:
        """None where no item has a response from both."""
        found = self.answered_by([first, second])
        if found is None:
            return None
        scores, groups = found
        interval, count = self.interval([of[:, 0] - of[:, 1] for of in scores], groups, DIFFERENCE)
        one, other = (fmean(float(of[:, i].mean()) for of in scores) for i in (0, 1))
        return Difference(one, other, interval, count)

    def interval(
        self, values: Sequence[NDArray[np.float64]], groups: Sequence[list[str]], bounds: Bounds
    ) -> tuple[list[float] | None, int]:
        """The interval of the mean over parts, and the number of groups behind it: the minimum over the parts."""
        return average_interval(values, groups, bounds, self.seed), min(len(set(of)) for of in groups)


def main_scope(scopes: list[Scope]) -> Scope:
    """The first on which a gap is measured, else the first with audio and text, with audio, with anything."""
    kinds = (
        [s for s in scopes if s.gap.get("verdict") in ("loses", "gains", "no clear gap")],
        [s for s in scopes if s.gap],
        [s for s in scopes if s.audio],
        scopes,
    )
    return next(found[0] for found in kinds if found)
