"""Items of the benchmarks: what was asked, heard and answered. Some with picture and sound, the next as text and a link
to where the data lie."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.evaluation.compare import CASCADE, TEXT
from selfkd.evaluation.samples import QUESTIONS, prompt_hash
from selfkd.report.html import audio_uri, image_uri, titled
from selfkd.report.inputs import Group, read_json
from selfkd.report.sections.scores import Names

OUTCOMES = {
    (True, True): "both right",
    (True, False): "only written right",
    (False, True): "only spoken right",
    (False, False): "neither right",
}


Place = tuple[ExampleFolder, dict[str, int]]  # spoken questions, and where each stands


@dataclass
class Item:
    benchmark: str
    sample: dict[str, Any]  # of the first view
    at: int  # among the items of its benchmark
    spoken: str = ""  # hash of what was shown and said; "" while it is known in writing alone
    place: Place | None = None
    answers: list[dict[str, Any]] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)  # by spoken system
    media: dict[str, Any] = field(default_factory=dict)
    link: str = ""

    @property
    def anchor(self) -> str:
        return f"item-{self.benchmark}-{self.at}"

    @property
    def heard(self) -> str:
        return next((a["transcript"] for a in self.answers if a["transcript"]), "")


def items_section(groups: list[Group], output: Path, with_media: int, listed: int) -> dict[str, Any] | None:
    """At most `with_media` items with picture and sound, then at most `listed` as text."""
    positions, notes = _folders(groups)
    items = _items(groups, positions)
    if not items:
        return None
    chosen = spread(items, with_media + listed)
    for item in chosen[:with_media]:
        _add_media(item)
    for item in chosen[with_media:]:
        item.link = "" if item.place is None else _link(item.place[0].folder, output.parent)
    return {
        "items": chosen,
        "total": len(items),
        "with_media": sum(bool(item.media) for item in chosen),
        "notes": notes,
        "benchmarks": sorted({item.benchmark for item in chosen}),
        "question_types": sorted({item.sample["question_type"] for item in chosen}),
        "outcomes": [o for o in OUTCOMES.values() if any(o in item.outcomes.values() for item in chosen)],
        "systems": {s: titled(s) for item in chosen for s in item.outcomes},
    }


def _link(folder: Path, seen_from: Path) -> str:
    """A relative URL: "#", "?", "%" and ":" are letters of a folder's name."""
    return quote(Path(os.path.relpath(folder, seen_from)).as_posix())


def _items(groups: list[Group], positions: list[Place | None]) -> list[Item]:
    """An item that several groups were asked, in the same words of the same voice, is one; so is one that a group was
    asked in writing alone."""
    names, found = Names(groups), dict[str, list[Item]]()
    alike: dict[tuple[str, ...], list[Item]] = {}  # by what was asked; they were spoken in different ways
    for group, place in zip(groups, positions, strict=True):
        of_benchmark = found.setdefault(group.benchmark, [])
        by_system = {system: {s["id"]: s for s in samples} for system, samples in group.samples.items()}
        for row in group.items():
            answers = {system: by_id[row[0]] for system, by_id in by_system.items() if row[0] in by_id}
            spoken = next((sample["prompt"] for system, sample in answers.items() if system != TEXT), "")
            same = alike.setdefault((group.benchmark, *row), [])
            item = next((i for i in same if i.spoken == spoken or not (i.spoken and spoken)), None)
            if item is None:
                item = Item(group.benchmark, next(iter(answers.values())), len(of_benchmark), place=place)
                of_benchmark.append(item)
                same.append(item)
            if spoken and not item.spoken:
                item.spoken, item.place = spoken, place
            item.answers += [{"system": names.of(group, s), **sample} for s, sample in answers.items()]
            item.outcomes |= _outcomes(answers)
    return [item for of in found.values() for item in of]


def _outcomes(answers: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    written = answers.get(TEXT)
    if written is None or written["error"]:
        return {}
    return {
        system: OUTCOMES[bool(written["correct"]), bool(answer["correct"])]
        for system, answer in answers.items()
        if system not in (TEXT, CASCADE) and not answer["error"]
    }


def spread(items: list[Item], count: int) -> list[Item]:
    """In turn one of each benchmark and outcome, so that the rare ones are among the first."""
    strata: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        strata.setdefault((item.benchmark, *item.outcomes.values()), []).append(item)
    turns = [(turn, at, item) for at, of in enumerate(strata.values()) for turn, item in enumerate(of)]
    return [item for _, _, item in sorted(turns, key=lambda t: t[:2])[:count]]


def _folders(groups: list[Group]) -> tuple[list[Place | None], list[str]]:
    """Of each group its spoken questions, and a note for those that are not there any more."""
    opened: dict[Path | None, Place | str] = {}
    positions: list[Place | None] = []
    notes = []
    for group in groups:
        named = list(dict.fromkeys(_named_folders(group)))
        opened |= {folder: _opened(folder) for folder in named if folder not in opened}
        there = [place for folder in named if not isinstance(place := opened[folder], str)]
        positions.append(there[0] if there else None)
        notes += [] if there else [f"{group.benchmark}: {opened[named[0]]}"]
    return positions, list(dict.fromkeys(notes))


def _opened(folder: Path | None) -> Place | str:
    """The spoken questions, or what is the matter with them."""
    if folder is None:
        return "the run does not say where its spoken questions are."
    try:
        examples = ExampleFolder(folder)
    except InputError as error:
        return f"its spoken questions are not where the run left them ({error})."
    return examples, {row["id"]: i for i, row in enumerate(examples.columns("id"))}


def _named_folders(group: Group) -> Iterator[Path | None]:
    """Those of the runs that were asked aloud first: a written view may be that of a run over other speech."""
    for system in sorted(group.runs, key=lambda system: system == TEXT):
        run = group.runs[system]
        path = run.folder / QUESTIONS
        named = read_json(path) if path.is_file() else {}
        yield run.folder / named[group.benchmark] if group.benchmark in named else None


def _add_media(item: Item) -> None:
    """None where the folder was made anew since, and holds something else under this id."""
    if item.place is None or item.sample["id"] not in item.place[1]:
        return
    example = item.place[0][item.place[1][item.sample["id"]]]
    modality, asked = ("audio", item.spoken) if item.spoken else ("text", item.sample["prompt"])
    if prompt_hash(example, modality) != asked:
        return
    media: dict[str, Markup | float | None] = {"picture": image_uri(example), "audio": audio_uri(example)}
    item.media = {**media, "seconds": example.duration_seconds, "voice": example.voice}
