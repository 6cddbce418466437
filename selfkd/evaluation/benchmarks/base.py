"""What a public benchmark is to selfkd: where its copy lies, how a row of it becomes a question, how a reply is graded.

`rows` and `grade` work on one item, `metrics` on all of them: a benchmark's own figures are no plain means (pairs of
questions about a picture, rotated options, F1).
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from selfkd.data.as_text import as_published, is_blank
from selfkd.data.lazy_images import Stored
from selfkd.errors import InputError
from selfkd.synthesis.sources.rows import Row

Holds = Literal["text or number", "texts", "text or texts"]
Sample = Mapping[str, Any]  # id, question, truth, category, details; once graded also parsed, score


@dataclass(frozen=True)
class Grade:
    parsed: str | None  # None where the reply says nothing that the rule can read
    score: float  # 0 to 1


@dataclass(frozen=True)
class Benchmark:
    name: str
    hub: str  # repository of the public copy, in the layout of `datasets`
    config: str | None
    split: str
    columns: tuple[str, ...]  # all that `rows` reads
    license: str
    rows: Callable[[Iterable[Mapping[str, Any]]], Iterator[Row]]
    grade: Callable[[Sample, str], Grade]
    metrics: Callable[[Sequence[Sample]], dict[str, float]]  # headline first, in percent
    revision: str  # commit of the copy
    group: Callable[[Sample], str] | None = None  # names what is only whole together; None where items stand alone
    counts_groups: bool = False  # whether figures are of groups that are right as a whole
    holds: Mapping[str, Holds] = field(default_factory=dict)  # of columns that hold other than text (and the picture)


def needed(record: Mapping[str, Any], field: str, number: int) -> Any:
    """A field that must not be empty, as text, or as texts where it is a list, to the letter; raises InputError naming
    it and the row. A test split without answers fails."""
    value, where = record[field], f"row {number}: field {field}:"
    if is_blank(value) or (isinstance(value, list) and (not value or None in value)):
        raise InputError(f"{where} empty (is this the split with the answers?)")
    return [as_published(v, where) for v in value] if isinstance(value, list) else as_published(value, where)


def load_image(record: Mapping[str, Any], number: int) -> Stored:
    """The picture of a row, not yet read; raises InputError where there is none."""
    if record["image"] is None:
        raise InputError(f"row {number}: field image: holds no picture")
    return record["image"]


def as_details(**values: Any) -> str:
    return json.dumps(values, ensure_ascii=False)


def percent(samples: Sequence[Sample]) -> float:
    """The mean score of samples, 0 to 100; 0 for none."""
    return 100 * sum(s["score"] for s in samples) / len(samples) if samples else 0.0


def grouped(samples: Sequence[Sample], key: Callable[[Sample], Hashable]) -> dict[Any, list[Sample]]:
    groups: dict[Any, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    return dict(groups)


def by_category(samples: Sequence[Sample]) -> dict[str, float]:
    """{category: percent}, in the order of the alphabet."""
    return {name: percent(some) for name, some in sorted(grouped(samples, lambda s: s["category"]).items())}


def percent_all_right(samples: Sequence[Sample], key: Callable[[Sample], Hashable]) -> float:
    """The share of groups in which every sample is right, 0 to 100."""
    groups = grouped(samples, key).values()
    return 100 * sum(all(s["score"] == 1 for s in group) for group in groups) / len(groups) if groups else 0.0


def whole_groups(groups: Sequence[Hashable], limit: int, seed: int | None = None) -> list[int]:
    """The positions, in their order, of the first groups that come to `limit` items at most (all for 0). None is broken
    up, and one is always there. A seed draws the order of the groups."""
    sizes = Counter(groups)
    order = list(sizes)
    if seed is not None:
        random.Random(f"draw/{seed}").shuffle(order)
    taken: set[Hashable] = set()
    room = limit or len(groups)
    for group in order:
        room -= sizes[group]
        if taken and room < 0:
            break
        taken.add(group)
    return [i for i, group in enumerate(groups) if group in taken]
