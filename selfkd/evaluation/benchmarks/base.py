"""A public benchmark: its repository on the hub, how a row becomes a question, how a response is graded, its metrics.

`rows` and `grade` work on single items, `metrics` on all of them: official metrics are not always means (pairs of
questions on an image, rotated options, F1). To add a benchmark, write its `Benchmark` next to those of the same answer
type (yes_no.py, multiple_choice.py, short_answer.py) or in a file of its own, and list it in registry.py.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from selfkd.data.as_text import as_published, is_blank
from selfkd.data.lazy_images import LazyImage
from selfkd.errors import InputError
from selfkd.synthesis.sources.rows import Row

ColumnType = Literal["text or number", "texts", "text or texts"]
Sample = Mapping[str, Any]  # id, question, target, category, details; after grading also parsed, score


@dataclass(frozen=True)
class Grade:
    parsed: str | None  # None where the rule finds no answer in the response
    score: float  # 0 to 1


@dataclass(frozen=True)
class Benchmark:
    name: str
    hub: str  # repository on the hub, in the layout of `datasets`
    config: str | None
    split: str
    columns: tuple[str, ...]  # those that `rows` reads
    license: str
    rows: Callable[[Iterable[Mapping[str, Any]]], Iterator[Row]]
    grade: Callable[[Sample, str], Grade]
    metrics: Callable[[Sequence[Sample]], dict[str, float]]  # headline first, in percent
    revision: str  # commit of the repository
    group: Callable[[Sample], str] | None = (
        None  # the group of an item, which is never split; None where each item is its own
    )
    counts_groups: bool = False  # whether metrics count groups in which all items are correct
    column_types: Mapping[str, ColumnType] = field(default_factory=dict)  # of columns that are neither text nor image


def required_field(record: Mapping[str, Any], field: str, number: int) -> Any:
    """A field that must not be empty, unchanged, as text, or as a list of texts where it is a list. Raises InputError
    with field and row, as for a test split without answers."""
    value, where = record[field], f"row {number}: field {field}:"
    if is_blank(value) or (isinstance(value, list) and (not value or None in value)):
        raise InputError(f"{where} empty (is this the split with the answers?)")
    return [as_published(v, where) for v in value] if isinstance(value, list) else as_published(value, where)


def load_image(record: Mapping[str, Any], number: int) -> LazyImage:
    """The image of a row, not yet read; raises InputError where there is none."""
    if record["image"] is None:
        raise InputError(f"row {number}: field image: no image")
    return record["image"]


def details_json(**values: Any) -> str:
    return json.dumps(values, ensure_ascii=False)


def percent(samples: Sequence[Sample]) -> float:
    """The mean score of samples, 0 to 100; 0 for none."""
    return 100 * sum(s["score"] for s in samples) / len(samples) if samples else 0.0


def group_by(samples: Sequence[Sample], key: Callable[[Sample], Hashable]) -> dict[Any, list[Sample]]:
    groups: dict[Any, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    return dict(groups)


def percent_by_category(samples: Sequence[Sample]) -> dict[str, float]:
    """{category: percent}, in alphabetical order."""
    return {name: percent(part) for name, part in sorted(group_by(samples, lambda s: s["category"]).items())}


def percent_all_correct(samples: Sequence[Sample], key: Callable[[Sample], Hashable]) -> float:
    """The share of groups in which all samples are correct, 0 to 100."""
    groups = group_by(samples, key).values()
    return 100 * sum(all(s["score"] == 1 for s in group) for group in groups) / len(groups) if groups else 0.0


def whole_groups(groups: Sequence[Hashable], limit: int, seed: int | None = None) -> list[int]:
    """The positions, in order, of the items of the first groups with at most `limit` items together (0: all). No group
    is split, and there is at least one. With a seed the order of the groups is random."""
    sizes = Counter(groups)
    order = list(sizes)
    if seed is not None:
        random.Random(f"draw/{seed}").shuffle(order)  # noqa: S311 seeded, for the same data in every run; nothing secret
    selected: set[Hashable] = set()
    remaining = limit or len(groups)
    for group in order:
        remaining -= sizes[group]
        if selected and remaining < 0:
            break
        selected.add(group)
    return [i for i, group in enumerate(groups) if group in selected]
