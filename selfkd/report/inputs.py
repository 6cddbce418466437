"""The folders given to the report: what each is, by its files, and evaluation runs in comparable groups.

InputError for a folder that is none of the known kinds. A group is a text modality with the audio modalities and the
cascade that are measured against it. A run's own text modality comes first; runs whose text responses are equal, word
for word, share a group: their language model is the same. A run without text goes to the nearest run before it with the
same items, or else after it. Different speech (another engine, other voices) makes another group: the difference of two
such runs would be that of the voices. A group has one cascade: where a second ASR model leads to other responses, its
cascade stands in a group of its own, next to the same text modality.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfkd.analysis.schemas import AgreementResult, AttentionResult
from selfkd.data.example import MANIFEST, read_manifest
from selfkd.errors import InputError
from selfkd.evaluation.average import VOICE_MARK, by_voice
from selfkd.evaluation.by_voice import group_over_voices
from selfkd.evaluation.comparable import ModalityRun, ReadSettings, difference
from selfkd.evaluation.compare import CASCADE, TEXT, compare_averages, compare_samples, items_in, run_name
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.schemas import EvaluationResult
from selfkd.evaluation.tables import MODALITIES, benchmark_title, scoring_in
from selfkd.json_files import check_schema, read_json
from selfkd.run_dir import CONFIG, PROVENANCE, RESULT, Settings, TrainingResult, name_and_path

DATA = "data"  # the kind of a dataset folder; other kinds are stages
RESULTS = {  # by stage
    "evaluate": EvaluationResult,
    "align": TrainingResult,
    "distill": TrainingResult,
    "attention": AttentionResult,
    "agreement": AgreementResult,
}
STAGES = tuple(RESULTS)


@dataclass(frozen=True)
class RunFolder:
    name: str
    folder: Path
    kind: str  # one of `STAGES`, or `DATA`
    config: dict[str, Any]  # the manifest for a dataset folder
    result: dict[str, Any]
    provenance: dict[str, Any]


def read_runs(entries: Sequence[str]) -> list[RunFolder]:
    """`entries` are RUN or NAME=RUN. Runs of different stages may share a name: the training of a model and its
    evaluation."""
    if not entries:
        raise InputError("runs: give at least one (a run directory, or a folder of selfkd synthesize)")
    runs: dict[tuple[str, str], RunFolder] = {}
    for entry in entries:
        name, path = name_and_path(entry)
        folder = Path(path)
        run = _read(name or run_name(folder), folder)
        if run.kind == "evaluate" and run.name in (TEXT, CASCADE):
            raise InputError(f"runs: {entry}: {run.name!r} is the name of a modality; write NAME={path}")
        if (run.kind, run.name) in runs:
            raise InputError(f"runs: {entry}: a second {run.name!r} ({run.kind}); write NAME={path}")
        runs[run.kind, run.name] = run
    return list(runs.values())


def _read(name: str, folder: Path) -> RunFolder:
    if not folder.is_dir():
        raise InputError(f"runs: {folder}: no such folder")
    config = read_json(folder / CONFIG, Settings) if (folder / CONFIG).is_file() else {}
    if not config:
        if not any((folder / file).is_file() for file in (MANIFEST, "plan.json")):
            raise InputError(f"runs: {folder}: neither a run directory ({CONFIG}) nor a dataset folder ({MANIFEST})")
        return RunFolder(name, folder, DATA, read_manifest(folder), {}, {})
    stage = config.get("stage")
    if not isinstance(stage, str) or stage not in STAGES:
        hint = "" if stage else " (a model folder? give the run directory around it)"
        raise InputError(f"runs: {folder / CONFIG}: stage: {stage!r} is not one of {', '.join(STAGES)}{hint}")
    if not (folder / RESULT).is_file():
        raise InputError(f"runs: {folder}: not complete, no {RESULT} (run the same command again to resume it)")
    check_schema(config, ReadSettings, str(folder / CONFIG))
    provenance = read_json(folder / PROVENANCE, dict[str, str]) if (folder / PROVENANCE).is_file() else {}
    return RunFolder(name, folder, stage, config, read_json(folder / RESULT, RESULTS[stage]), provenance)


def group_count(metrics: Mapping[str, Any], run: RunFolder) -> int:
    """The number of groups behind the metrics of an analysis."""
    if "groups" not in metrics:
        raise InputError(f"{run.folder / RESULT}: field groups: missing; written by an older version; analyze again")
    return metrics["groups"]


def data_folder(run: RunFolder, path: str) -> Path | None:
    """A dataset folder that the configuration of a run names, relative to the current folder or to one above the run.
    None where it has been deleted."""
    roots = [Path(), *run.folder.resolve().parents]
    return next((root / path for root in roots if (root / path / MANIFEST).is_file()), None)


Samples = list[dict[str, Any]]


@dataclass
class Group:
    benchmark: str
    samples: dict[str, Samples] = field(default_factory=dict)  # by system: TEXT, runs by name, CASCADE
    runs: dict[str, RunFolder] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    audio_query: ModalityRun | None = None  # the first with audio, once the group has one
    difference: str = ""  # why it is not compared with the runs before it
    members: list["Group"] = field(default_factory=list)  # of an average over benchmarks, which has no samples

    @property
    def text_run(self) -> str:
        """The run whose text modality this is; "" without one."""
        return self.runs[TEXT].name if TEXT in self.runs else ""

    @property
    def run_names(self) -> dict[str, str]:
        """The name of the run of each system."""
        return {system: self.runs[system].name for system in self.samples}

    @property
    def is_official(self) -> bool:
        """Whether it is graded by the official rule of the benchmark."""
        return self.scores.get("scoring") == "official"

    @property
    def audio_systems(self) -> list[str]:
        return [s for s in self.samples if s not in (TEXT, CASCADE)]

    def items(self) -> list[tuple[str, ...]]:
        return items_in(next(iter(self.samples.values())))

    def difference_to(self, run: RunFolder, modalities: dict[str, Samples], text_only: bool = False) -> str:
        """The first difference between the queries of a run in `modalities` and those of this group, its text queries
        (only these, if `text_only`) and its audio queries; "" without any."""
        text = (
            [ModalityRun(self.text_run, TEXT, self.runs[TEXT].config, self.samples[TEXT])]
            if TEXT in self.samples
            else []
        )
        own = text if text_only and text else [*text, *([self.audio_query] if self.audio_query else [])]
        differences = (difference(one, other) for one in own for other in _queries(run, modalities))
        return next(filter(None, differences), "")

    def add(self, system: str, run: RunFolder, samples: Samples) -> None:
        self.samples.setdefault(system, samples)
        self.runs.setdefault(system, run)


def groups_of(runs: list[RunFolder], seed: int) -> list[Group]:
    """The groups of all benchmarks with their scores; among the systems text comes first, the cascade last."""
    groups = [group for benchmark in _benchmarks(runs) for group in _groups_of_benchmark(benchmark, runs)]
    for group in groups:
        order = [TEXT, *group.audio_systems, CASCADE]
        group.samples = {s: group.samples[s] for s in order if s in group.samples}
        group.scores = compare_samples(group.samples, seed)
        group.scores["scoring"] = scoring_in(next(iter(group.runs.values())).result, group.benchmark)
    return groups


def averages_of(groups: list[Group], seed: int) -> list[Group]:
    """Averages over public benchmarks, as groups without items: one for each set of systems that share a benchmark,
    over all benchmarks that they share."""
    averages = []
    for text_run, run_names in dict.fromkeys((g.text_run, tuple(g.run_names.items())) for g in groups):
        systems = [system for system, _ in run_names]
        shared = [g for g in groups if g.text_run == text_run and set(run_names) <= set(g.run_names.items())]
        scores = {g.benchmark: g.scores | {"systems": {s: g.scores["systems"][s] for s in systems}} for g in shared}
        samples = {g.benchmark: {s: g.samples[s] for s in systems} for g in shared}
        for name, score in compare_averages(scores, samples, seed).items():
            no_samples: dict[str, Samples] = {s: [] for s in systems}
            members = [g for g in shared if g.benchmark in score["benchmarks"]]
            averages.append(Group(benchmark_title(name, score), no_samples, shared[0].runs, score, members=members))
    return averages


def pooled_voices(groups: list[Group], seed: int) -> dict[str, Group]:
    """{benchmark: its items in all voices, as one group with scores} for the benchmarks that the same systems answered
    in several. The items about one image stay together, whatever their voice."""
    pooled = {}
    for benchmark, voices in by_voice((group.benchmark, group) for group in groups).items():
        first, names = voices[0][1], {voice for voice, _ in voices}
        if len(names) != len(voices) or len(voices) < 2 or any(g.run_names != first.run_names for _, g in voices):
            continue  # a voice with several groups, which are not compared
        samples = {s: [_in_voice(one, v) for v, group in voices for one in group.samples[s]] for s in first.samples}
        scores = compare_samples(samples, seed) | {"scoring": first.scores["scoring"]}
        pooled[benchmark] = Group(f"{benchmark}, {len(voices)} voices", samples, first.runs, scores)
    return pooled


def _in_voice(sample: dict[str, Any], voice: str) -> dict[str, Any]:
    """With an id that no other voice has."""
    return sample | {"id": f"{sample['id']}{VOICE_MARK}{voice}", "group": group_over_voices(sample)}


def _benchmarks(runs: list[RunFolder]) -> list[str]:
    return list(
        dict.fromkeys(b for run in runs for b, modalities in run.result.items() if set(modalities) & set(MODALITIES))
    )


def _groups_of_benchmark(benchmark: str, runs: list[RunFolder]) -> list[Group]:
    read = [(run, _modalities(run, benchmark)) for run in runs]
    groups: list[Group] = []
    group_of_run: dict[str, Group] = {}
    for run, modalities in read:
        if TEXT not in modalities:
            continue
        predictions = [(s["id"], s["prediction"]) for s in modalities[TEXT]]
        equal = [g for g in groups if [(s["id"], s["prediction"]) for s in g.samples[TEXT]] == predictions]
        comparable = [g for g in equal if not g.difference_to(run, modalities)]
        why_not = equal[0].difference_to(run, modalities) if equal and not comparable else ""
        group = group_of_run[run.name] = comparable[0] if comparable else Group(benchmark, difference=why_not)
        group.add(TEXT, run, modalities[TEXT])
        group.audio_query = group.audio_query or _audio_query(run, modalities)
        groups += [] if comparable else [group]
    names = [run.name for run, _ in read]
    for at, (run, modalities) in enumerate(read):
        if not modalities:
            continue
        if run.name not in group_of_run:
            nearest = [group_of_run[n] for n in (*reversed(names[:at]), *names[at + 1 :]) if n in group_of_run]
            same_text = [g for g in nearest if not g.difference_to(run, modalities, text_only=True)]
            comparable = [g for g in same_text if not g.difference_to(run, modalities)]
            why_not = next((g.difference_to(run, modalities) for g in same_text or nearest), "")
            group = group_of_run[run.name] = comparable[0] if comparable else Group(benchmark, difference=why_not)
            group.audio_query = group.audio_query or _audio_query(run, modalities)
            groups += [] if comparable else [group]
            if same_text and not comparable and TEXT in same_text[0].samples:
                group.add(TEXT, same_text[0].runs[TEXT], same_text[0].samples[TEXT])
        if "audio" in modalities:
            group_of_run[run.name].add(run.name, run, modalities["audio"])
        if "cascade" in modalities:
            _add_cascade(groups, group_of_run[run.name], run, modalities)
    return groups


def _add_cascade(groups: list[Group], group: Group, run: RunFolder, modalities: dict[str, Samples]) -> None:
    """Adds the cascade of a run to its group, or, where `group` has the cascade of another ASR model, to a new one."""
    present, responses = group.samples.get(CASCADE), _cascade_responses(modalities["cascade"])
    if present is None or _cascade_responses(present) == responses:
        group.add(CASCADE, run, modalities["cascade"])
        return
    others = [g for g in groups if CASCADE in g.samples and g.items() == group.items()]
    if any(_cascade_responses(other.samples[CASCADE]) == responses for other in others):
        return  # a third run with the ASR model of the second
    separate = Group(group.benchmark, audio_query=group.audio_query)
    if TEXT in modalities:
        separate.add(TEXT, run, modalities[TEXT])
    elif TEXT in group.samples:
        separate.add(TEXT, group.runs[TEXT], group.samples[TEXT])
    separate.add(CASCADE, run, modalities["cascade"])
    groups.append(separate)


def _cascade_responses(samples: Samples) -> list[tuple[str, ...]]:
    return [(s["prompt_hash"], s["transcript"], s["prediction"]) for s in samples]


def _queries(run: RunFolder, modalities: dict[str, Samples]) -> list[ModalityRun]:
    return [ModalityRun(run.name, modality, run.config, samples) for modality, samples in modalities.items()]


def _audio_query(run: RunFolder, modalities: dict[str, Samples]) -> ModalityRun | None:
    """Of audio or the cascade."""
    return next((query for query in _queries(run, modalities) if query.modality != TEXT), None)


def _modalities(run: RunFolder, benchmark: str) -> dict[str, Samples]:
    return {
        modality: _samples(run, benchmark, modality)
        for modality in MODALITIES
        if modality in run.result.get(benchmark, {})
    }


def _samples(run: RunFolder, benchmark: str, modality: str) -> Samples:
    path, counts = samples_path(run.folder, benchmark, modality), run.result[benchmark][modality]
    samples = read_samples(path)
    if len(samples) != counts["n"] + counts["failed"]:
        raise InputError(f"{path}: cut short: {len(samples)} samples of {counts['n'] + counts['failed']}")
    return samples
