"""Folders given to the report: what each is, read from its files alone, and evaluation runs in groups.

InputError for a folder that is none of the known kinds. A group is a text modality with the audio modalities and the
cascade that are measured against it. A run's own text modality comes first; runs whose text responses are equal, word
for word, share a group: their language model is the same. A run without text goes to the nearest run before it with the
same items, or else after it. Different speech (another engine, other voices) makes another group: the difference of two
such runs would be that of the voices. A group has one cascade: where a second ASR model leads to other responses, its
cascade stands in a group of its own, next to the same text modality.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfkd.data.example import MANIFEST, read_manifest
from selfkd.errors import InputError
from selfkd.evaluation.comparable import Query, check_fields, difference
from selfkd.evaluation.compare import (
    CASCADE,
    TEXT,
    averages_side_by_side,
    items_in,
    run_name,
    side_by_side,
    titled_benchmark,
)
from selfkd.evaluation.gap_table import MODALITIES, scoring_in
from selfkd.evaluation.samples import samples_path
from selfkd.files import read_json
from selfkd.run_dir import CONFIG, PROVENANCE, RESULT, name_and_path

DATA = "data"  # the kind of a folder of spoken questions; the others are stages
STAGES = ("evaluate", "align", "distill", "attention", "agreement")


@dataclass(frozen=True)
class RunFolder:
    name: str
    folder: Path
    kind: str  # one of `STAGES`, or `DATA`
    config: dict[str, Any]  # of spoken questions the manifest
    result: dict[str, Any]
    provenance: dict[str, Any]


def read_runs(entries: Sequence[str]) -> list[RunFolder]:
    """Of RUN or NAME=RUN, in their order. Runs of different stages may have one name: a model's training and its
    evaluation."""
    if not entries:
        raise InputError("runs: give at least one (a run directory, or a folder of selfkd synthesize)")
    found: dict[tuple[str, str], RunFolder] = {}
    for entry in entries:
        name, path = name_and_path(entry)
        folder = Path(path)
        run = _read(name or run_name(folder), folder)
        if run.kind == "evaluate" and run.name in (TEXT, CASCADE):
            raise InputError(f"runs: {entry}: {run.name!r} is the name of a view; write NAME={path}")
        if (run.kind, run.name) in found:
            raise InputError(f"runs: {entry}: a second {run.name!r} ({run.kind}); write NAME={path}")
        found[run.kind, run.name] = run
    return list(found.values())


def _read(name: str, folder: Path) -> RunFolder:
    if not folder.is_dir():
        raise InputError(f"runs: {folder}: no such folder")
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if not config:
        if not any((folder / file).is_file() for file in (MANIFEST, "plan.json")):
            raise InputError(f"runs: {folder}: neither a run directory ({CONFIG}) nor spoken questions ({MANIFEST})")
        return RunFolder(name, folder, DATA, read_manifest(folder), {}, {})
    stage = config.get("stage")
    if stage not in STAGES:
        hint = "" if stage else " (a model's folder? give the run that it is in)"
        raise InputError(f"runs: {folder / CONFIG}: stage: {stage!r} is not one of {', '.join(STAGES)}{hint}")
    if not (folder / RESULT).is_file():
        raise InputError(f"runs: {folder}: not complete, no {RESULT} (the command that began it goes on with it)")
    provenance = read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    return RunFolder(name, folder, stage, config, read_json(folder / RESULT), provenance)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; raises InputError where it was cut short."""
    if not path.is_file():
        raise InputError(f"{path}: not found; the run has lost it")
    records = []
    with path.open("rb") as file:  # of bytes: a text has other ends of lines too, and a model may have said one
        for number, line in enumerate(file, 1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise InputError(f"{path}: line {number} is cut short or damaged ({error})") from error
    return records


def groups_stated(found: Mapping[str, Any], run: RunFolder) -> int:
    """Of how many groups an analysis' figures are."""
    if "groups" not in found:
        raise InputError(f"{run.folder / RESULT}: field groups: missing; an older selfkd made this run, analyze again")
    return found["groups"]


def data_folder(run: RunFolder, path: str) -> Path | None:
    """A folder that a run's configuration names, seen from where the run was made: here, or above the run. None where
    it has been deleted since."""
    positions = [Path(), *run.folder.resolve().parents]
    return next((place / path for place in positions if (place / path / MANIFEST).is_file()), None)


Samples = list[dict[str, Any]]
_NEEDED = ("question_type", "outcome", "transcript", "parsed", "correct")  # beside what is compared


@dataclass
class Group:
    benchmark: str
    samples: dict[str, Samples] = field(default_factory=dict)  # by system: TEXT, runs by name, CASCADE
    runs: dict[str, RunFolder] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    asked: Query | None = None  # the first that is spoken, once it has any
    apart: str = ""  # why it is not measured against what was asked before it

    @property
    def writer(self) -> str:
        """The run whose written view it is; "" without one."""
        return self.runs[TEXT].name if TEXT in self.runs else ""

    @property
    def owners(self) -> dict[str, str]:
        """The name of the run that each system is of."""
        return {system: self.runs[system].name for system in self.samples}

    @property
    def is_official(self) -> bool:
        """Whether it is graded by the benchmark's own rule."""
        return self.scores.get("scoring") == "official"

    @property
    def spoken(self) -> list[str]:
        return [s for s in self.samples if s not in (TEXT, CASCADE)]

    def items(self) -> list[tuple[str, ...]]:
        return items_in(next(iter(self.samples.values())))

    def differs(self, run: RunFolder, modalities: dict[str, Samples], is_written: bool = False) -> str:
        """How what a run was asked in `modalities` differs from what was asked here, in writing (alone, if `is_written`) and
        aloud; "" where nothing does."""
        text = [Query(self.writer, TEXT, self.runs[TEXT].config, self.samples[TEXT])] if TEXT in self.samples else []
        there = text if is_written and text else [*text, *([self.asked] if self.asked else [])]
        told = (difference(one, other) for one in there for other in _asked(run, modalities))
        return next(filter(None, told), "")

    def add(self, system: str, run: RunFolder, samples: Samples) -> None:
        self.samples.setdefault(system, samples)
        self.runs.setdefault(system, run)


def groups_of(runs: list[RunFolder], seed: int) -> list[Group]:
    """Of all benchmarks, each with its scores; the written view comes first among the systems, the cascade last."""
    groups = [group for benchmark in _benchmarks(runs) for group in _of_benchmark(benchmark, runs)]
    for group in groups:
        order = [TEXT, *group.spoken, CASCADE]
        group.samples = {s: group.samples[s] for s in order if s in group.samples}
        group.scores = side_by_side(group.samples, seed)
        group.scores["scoring"] = scoring_in(next(iter(group.runs.values())).result, group.benchmark)
    return groups


def averages_of(groups: list[Group], seed: int) -> list[Group]:
    """Averages over public benchmarks, as groups without items: for each set of systems that were asked a benchmark
    together, over all that they were."""
    averages = []
    for writer, owners in dict.fromkeys((g.writer, tuple(g.owners.items())) for g in groups):
        systems = [system for system, _ in owners]
        having = [g for g in groups if g.writer == writer and set(owners) <= set(g.owners.items())]
        scores = {g.benchmark: g.scores | {"systems": {s: g.scores["systems"][s] for s in systems}} for g in having}
        samples = {g.benchmark: {s: g.samples[s] for s in systems} for g in having}
        for name, score in averages_side_by_side(scores, samples, seed).items():
            nothing: dict[str, Samples] = {s: [] for s in systems}
            averages.append(Group(titled_benchmark(name, score), nothing, having[0].runs, score))
    return averages


def _benchmarks(runs: list[RunFolder]) -> list[str]:
    return list(
        dict.fromkeys(b for run in runs for b, modalities in run.result.items() if set(modalities) & set(MODALITIES))
    )


def _of_benchmark(benchmark: str, runs: list[RunFolder]) -> list[Group]:
    asked = [(run, _views(run, benchmark)) for run in runs]
    groups: list[Group] = []
    home: dict[str, Group] = {}
    for run, modalities in asked:
        if TEXT not in modalities:
            continue
        predictions = [(s["id"], s["prediction"]) for s in modalities[TEXT]]
        alike = [g for g in groups if [(s["id"], s["prediction"]) for s in g.samples[TEXT]] == predictions]
        same = [g for g in alike if not g.differs(run, modalities)]
        apart = alike[0].differs(run, modalities) if alike and not same else ""
        home[run.name] = same[0] if same else Group(benchmark, apart=apart)
        home[run.name].add(TEXT, run, modalities[TEXT])
        home[run.name].asked = home[run.name].asked or _spoken(run, modalities)
        groups += [] if same else [home[run.name]]
    names = [run.name for run, _ in asked]
    for at, (run, modalities) in enumerate(asked):
        if not modalities:
            continue
        if run.name not in home:
            nearest = [home[n] for n in (*reversed(names[:at]), *names[at + 1 :]) if n in home]
            alike = [g for g in nearest if not g.differs(run, modalities, is_written=True)]
            fitting = [g for g in alike if not g.differs(run, modalities)]
            apart = next((g.differs(run, modalities) for g in alike or nearest), "")
            home[run.name] = fitting[0] if fitting else Group(benchmark, apart=apart)
            home[run.name].asked = home[run.name].asked or _spoken(run, modalities)
            groups += [] if fitting else [home[run.name]]
            if alike and not fitting and TEXT in alike[0].samples:  # what was written is the same
                home[run.name].add(TEXT, alike[0].runs[TEXT], alike[0].samples[TEXT])
        if "audio" in modalities:
            home[run.name].add(run.name, run, modalities["audio"])
        if "cascade" in modalities:
            _add_cascade(groups, home[run.name], run, modalities)
    return groups


def _add_cascade(groups: list[Group], home: Group, run: RunFolder, modalities: dict[str, Samples]) -> None:
    """Where `home` has the cascade of another recogniser, to a group of its own."""
    there, heard = home.samples.get(CASCADE), _heard(modalities["cascade"])
    if there is None or _heard(there) == heard:
        home.add(CASCADE, run, modalities["cascade"])
        return
    if any(_heard(g.samples[CASCADE]) == heard for g in groups if CASCADE in g.samples and g.items() == home.items()):
        return  # that of a third run with the second one's recogniser
    apart = Group(home.benchmark, asked=home.asked)
    if TEXT in modalities:
        apart.add(TEXT, run, modalities[TEXT])
    elif TEXT in home.samples:
        apart.add(TEXT, home.runs[TEXT], home.samples[TEXT])
    apart.add(CASCADE, run, modalities["cascade"])
    groups.append(apart)


def _heard(samples: Samples) -> list[tuple[str, ...]]:
    return [(s["prompt"], s["transcript"], s["prediction"]) for s in samples]


def _asked(run: RunFolder, modalities: dict[str, Samples]) -> list[Query]:
    return [Query(run.name, modality, run.config, samples) for modality, samples in modalities.items()]


def _spoken(run: RunFolder, modalities: dict[str, Samples]) -> Query | None:
    return next((asked for asked in _asked(run, modalities) if asked.modality != TEXT), None)


def _views(run: RunFolder, benchmark: str) -> dict[str, Samples]:
    return {
        modality: _samples(run, benchmark, modality)
        for modality in MODALITIES
        if modality in run.result.get(benchmark, {})
    }


def _samples(run: RunFolder, benchmark: str, modality: str) -> Samples:
    path, counted = samples_path(run.folder, benchmark, modality), run.result[benchmark][modality]
    records = read_lines(path)
    check_fields(path, records, _NEEDED)
    if len(records) != counted["n"] + counted["failed"]:
        raise InputError(f"{path}: cut short: {len(records)} records of {counted['n'] + counted['failed']}")
    return records
