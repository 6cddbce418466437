"""Items of the benchmarks: what was asked, heard and answered. Some with picture and sound, the next as text and a link
to where the data lie."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from selfkd.data.folder import ExampleFolder
from selfkd.errors import InputError
from selfkd.evaluation.samples import QUESTIONS
from selfkd.evaluation.side_by_side import CASCADE, TEXT
from selfkd.report.evaluated import Group
from selfkd.report.media import picture_uri, speech_uri
from selfkd.report.naming import titled
from selfkd.report.run_folder import read_json
from selfkd.report.scores import Names

OUTCOMES = {
    (True, True): "both right",
    (True, False): "only written right",
    (False, True): "only spoken right",
    (False, False): "neither right",
}


@dataclass
class Item:
    benchmark: str
    sample: dict[str, Any]  # of the first view
    at: int  # among the items of its benchmark
    answers: list[dict[str, Any]] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)  # by spoken system
    media: dict[str, Any] = field(default_factory=dict)
    link: str = ""

    @property
    def anchor(self) -> str:
        return f"item-{self.benchmark}-{self.at}"

    @property
    def heard(self) -> str:
        return next((a["heard"] for a in self.answers if a["heard"]), "")


def items_section(groups: list[Group], output: Path, with_media: int, listed: int) -> dict[str, Any] | None:
    """At most `with_media` items with picture and sound, then at most `listed` as text."""
    items = _items(groups)
    if not items:
        return None
    chosen = spread(items, with_media + listed)
    folders, notes = _folders(groups)
    for item in chosen[:with_media]:
        _add_media(item, folders.get(item.benchmark))
    for item in chosen[with_media:]:
        place = folders.get(item.benchmark)
        item.link = "" if place is None else _link(place[0].folder, output.parent)
    return {
        "items": chosen,
        "total": len(items),
        "with_media": sum(bool(item.media) for item in chosen),
        "notes": notes,
        "benchmarks": sorted({item.benchmark for item in chosen}),
        "kinds": sorted({item.sample["kind"] for item in chosen}),
        "outcomes": [o for o in OUTCOMES.values() if any(o in item.outcomes.values() for item in chosen)],
        "systems": {s: titled(s) for item in chosen for s in item.outcomes},
    }


def _link(folder: Path, seen_from: Path) -> str:
    """A relative URL: "#", "?", "%" and ":" are letters of a folder's name."""
    return quote(Path(os.path.relpath(folder, seen_from)).as_posix())


def _items(groups: list[Group]) -> list[Item]:
    """An item that several groups were asked is one."""
    names, found = Names(groups), dict[str, dict[str, Item]]()
    for group in groups:
        known = found.setdefault(group.benchmark, {})
        by_system = {system: {s["id"]: s for s in samples} for system, samples in group.samples.items()}
        for i in group.ids():
            answers = {system: by_id[i] for system, by_id in by_system.items() if i in by_id}
            first = next(iter(answers.values()))
            item = known.setdefault(i, Item(group.benchmark, first, len(known)))
            item.answers += [{"system": names.of(group, s), **sample} for s, sample in answers.items()]
            item.outcomes |= _outcomes(answers)
    return [item for of in found.values() for item in of.values()]


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


Place = tuple[ExampleFolder, dict[str, int]]


def _folders(groups: list[Group]) -> tuple[dict[str, Place], list[str]]:
    """{benchmark: (its spoken questions, where each stands)}, and a note for each that is not there any more."""
    places: dict[str, Place] = {}
    lost: dict[str, str] = {}
    for benchmark, folder in _named_folders(groups):
        if benchmark in places:
            continue
        if folder is None:
            lost[benchmark] = f"{benchmark}: the run does not say where its spoken questions are."
            continue
        try:
            examples = ExampleFolder(folder)
        except InputError as error:
            lost[benchmark] = f"{benchmark}: its spoken questions are not where the run left them ({error})."
            continue
        places[benchmark] = examples, {row["id"]: i for i, row in enumerate(examples.columns("id"))}
    return places, [note for benchmark, note in lost.items() if benchmark not in places]


def _named_folders(groups: list[Group]) -> Iterator[tuple[str, Path | None]]:
    for group in groups:
        for run in group.runs.values():
            path = run.folder / QUESTIONS
            named = read_json(path) if path.is_file() else {}
            yield group.benchmark, (run.folder / named[group.benchmark] if group.benchmark in named else None)


def _add_media(item: Item, place: Place | None) -> None:
    if place is None or item.sample["id"] not in place[1]:
        return
    example = place[0][place[1][item.sample["id"]]]
    media: dict[str, Markup | float | None] = {"picture": picture_uri(example), "speech": speech_uri(example)}
    item.media = {**media, "seconds": example.duration_seconds, "voice": example.voice}
