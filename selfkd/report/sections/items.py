"""Items of the benchmarks: query, target, responses and transcript. The first items with image and audio, the next as
text with a link to the data."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from selfkd.data.turns import TurnFolder
from selfkd.errors import InputError
from selfkd.evaluation.compare import CASCADE, TEXT
from selfkd.evaluation.samples import QUESTIONS, prompt_hash
from selfkd.json_files import read_json
from selfkd.report.html import audio_uri, image_uri, run_title
from selfkd.report.inputs import Group
from selfkd.report.sections.scores import Names

OUTCOMES = {
    (True, True): "both correct",
    (True, False): "only text correct",
    (False, True): "only audio correct",
    (False, False): "neither correct",
}

IndexedFolder = tuple[TurnFolder, dict[str, int]]  # a dataset folder, and the position of each id


@dataclass
class Item:
    benchmark: str
    sample: dict[str, Any]  # of the first modality
    index: int  # among the items of its benchmark
    audio_prompt: str = ""  # hash of image and audio; "" while only text is known
    folder: IndexedFolder | None = None
    responses: list[dict[str, Any]] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)  # by audio system
    media: dict[str, Any] = field(default_factory=dict)
    link: str = ""

    @property
    def anchor(self) -> str:
        return f"item-{self.benchmark}-{self.index}"

    @property
    def transcript(self) -> str:
        return next((r["transcript"] for r in self.responses if r["transcript"]), "")


def items_section(groups: list[Group], output: Path, with_media: int, listed: int) -> dict[str, Any] | None:
    """At most `with_media` items with image and audio, then at most `listed` as text."""
    folders, notes = _folders(groups)
    items = _items(groups, folders)
    if not items:
        return None
    chosen = spread(items, with_media + listed)
    for item in chosen[:with_media]:
        _add_media(item)
    for item in chosen[with_media:]:
        item.link = "" if item.folder is None else _link(item.folder[0].folder, output.parent)
    return {
        "items": chosen,
        "total": len(items),
        "with_media": sum(bool(item.media) for item in chosen),
        "notes": notes,
        "benchmarks": sorted({item.benchmark for item in chosen}),
        "question_types": sorted({item.sample["question_type"] for item in chosen}),
        "outcomes": [o for o in OUTCOMES.values() if any(o in item.outcomes.values() for item in chosen)],
        "systems": {s: run_title(s) for item in chosen for s in item.outcomes},
    }


def _link(folder: Path, page_folder: Path) -> str:
    """A relative URL; "#", "?", "%" and ":" may stand in the name of a folder and are quoted."""
    return quote(Path(os.path.relpath(folder, page_folder)).as_posix())


def _items(groups: list[Group], folders: list[IndexedFolder | None]) -> list[Item]:
    """Merges the same item of several groups where query and audio are equal, or where a group has it as text only."""
    names, by_benchmark = Names(groups), dict[str, list[Item]]()
    same_query: dict[tuple[str, ...], list[Item]] = {}  # items that differ in their audio only
    for group, folder in zip(groups, folders, strict=True):
        of_benchmark = by_benchmark.setdefault(group.benchmark, [])
        by_system = {system: {s["id"]: s for s in samples} for system, samples in group.samples.items()}
        for row in group.items():
            samples = {system: by_id[row[0]] for system, by_id in by_system.items() if row[0] in by_id}
            audio = next((sample["prompt_hash"] for system, sample in samples.items() if system != TEXT), "")
            same = same_query.setdefault((group.benchmark, *row), [])
            item = next((i for i in same if i.audio_prompt == audio or not (i.audio_prompt and audio)), None)
            if item is None:
                item = Item(group.benchmark, next(iter(samples.values())), len(of_benchmark), folder=folder)
                of_benchmark.append(item)
                same.append(item)
            if audio and not item.audio_prompt:
                item.audio_prompt, item.folder = audio, folder
            item.responses += [{"system": names.of(group, s), **sample} for s, sample in samples.items()]
            item.outcomes |= _outcomes(samples)
    return [item for items in by_benchmark.values() for item in items]


def _outcomes(samples: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    text = samples.get(TEXT)
    if text is None or text["error"]:
        return {}
    return {
        system: OUTCOMES[bool(text["correct"]), bool(sample["correct"])]
        for system, sample in samples.items()
        if system not in (TEXT, CASCADE) and not sample["error"]
    }


def spread(items: list[Item], count: int) -> list[Item]:
    """`count` items, in turn one of each benchmark and outcome, so that rare outcomes are among the first."""
    strata: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        strata.setdefault((item.benchmark, *item.outcomes.values()), []).append(item)
    turns = [(turn, at, item) for at, stratum in enumerate(strata.values()) for turn, item in enumerate(stratum)]
    return [item for _, _, item in sorted(turns, key=lambda t: t[:2])[:count]]


def _folders(groups: list[Group]) -> tuple[list[IndexedFolder | None], list[str]]:
    """The dataset folder of each group, and a note for each that cannot be read any more."""
    opened: dict[Path | None, IndexedFolder | str] = {}
    folders: list[IndexedFolder | None] = []
    notes = []
    for group in groups:
        named = list(dict.fromkeys(_named_folders(group)))
        opened |= {folder: _open_folder(folder) for folder in named if folder not in opened}
        readable = [indexed for folder in named if not isinstance(indexed := opened[folder], str)]
        folders.append(readable[0] if readable else None)
        notes += [] if readable else [f"{group.benchmark}: {opened[named[0]]}"]
    return folders, list(dict.fromkeys(notes))


def _open_folder(folder: Path | None) -> IndexedFolder | str:
    """The folder, or why it cannot be read."""
    if folder is None:
        return "the run does not name its dataset folder."
    try:
        examples = TurnFolder(folder)
    except InputError as error:
        return f"its dataset folder cannot be read ({error})."
    return examples, {row["id"]: i for i, row in enumerate(examples.columns("id"))}


def _named_folders(group: Group) -> Iterator[Path | None]:
    """Runs with audio first: the text modality may be that of a run on other audio."""
    for system in sorted(group.runs, key=lambda system: system == TEXT):
        run = group.runs[system]
        path = run.folder / QUESTIONS
        named = read_json(path, dict[str, str]) if path.is_file() else {}
        yield run.folder / named[group.benchmark] if group.benchmark in named else None


def _add_media(item: Item) -> None:
    """Adds nothing where the folder was written again since and holds something else under this id."""
    if item.folder is None or item.sample["id"] not in item.folder[1]:
        return
    examples, positions = item.folder
    example = examples[positions[item.sample["id"]]]
    modality, prompt = ("audio", item.audio_prompt) if item.audio_prompt else ("text", item.sample["prompt_hash"])
    if prompt_hash(example, modality) != prompt:
        return
    media: dict[str, Markup | float | None] = {"image": image_uri(example), "audio": audio_uri(example)}
    item.media = {**media, "seconds": example.duration_seconds, "voice": example.voice}
