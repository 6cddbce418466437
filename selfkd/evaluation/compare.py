"""Evaluated runs -> one comparison on the same items: text, audio and cascade scores, gaps, share of the gap closed.

For each benchmark, and on average over public benchmarks with equal weights, as the paper states its results. The share
is of the gap that the baseline leaves, the first system with audio. Reads the samples of evaluation runs; writes
`scores.json` and `comparison.json` (the run and modality of each system).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from selfkd.errors import InputError
from selfkd.evaluation.average import average_gap, average_scores, benchmarks_to_average, by_voice
from selfkd.evaluation.by_voice import by_speaker, spread_of
from selfkd.evaluation.chance import chance_accuracy
from selfkd.evaluation.comparable import ModalityRun, ReadSettings, difference
from selfkd.evaluation.config import CompareConfig
from selfkd.evaluation.grading import headline_metrics
from selfkd.evaluation.metrics import (
    gap_closed,
    gap_closed_on_average,
    groups_in,
    pair_samples,
    summarize_modality,
    vision_audio_gap,
)
from selfkd.evaluation.response import outcome_warnings
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.schemas import EvaluationResult
from selfkd.evaluation.tables import comparison_notes, comparison_table, scoring_in, voices_tables
from selfkd.files import write_json
from selfkd.json_files import read_json
from selfkd.run_dir import CONFIG, RESULT, Settings, name_and_path
from selfkd.stage_function import stage_function
from selfkd.terminal import table_console

TEXT, CASCADE = "text", "cascade"  # names of systems that no run can have
Samples = list[dict[str, Any]]


def compare_samples(samples: Mapping[str, Samples], seed: int) -> dict[str, Any]:
    """{"systems": {system: scores}, "gap": {system: ...}, "gap_closed": {system: ...}, "by_speaker": {system: ...}} for
    {system: its samples} on one benchmark. Gaps are to `TEXT`; without it there are none."""
    chance = chance_accuracy(next(iter(samples.values())))  # the items of all systems are the same
    text = samples.get(TEXT, ())
    speakers = {s: by_speaker(text, samples[s], seed, chance) for s in samples if s not in (TEXT, CASCADE)}
    closed = {s: _gap_closed(samples, baseline, s, seed, chance) for baseline, s in _after_the_baseline(samples)}
    return {
        "systems": {s: summarize_modality(items, chance) for s, items in samples.items()},
        "gap": {s: _gap(samples[TEXT], s, samples[s], seed, chance) for s in _other_than_text(samples)},
        "gap_closed": {s: share for s, share in closed.items() if share is not None},
        "by_speaker": {s: found for s, found in speakers.items() if found},
    }


def compare_voices(samples: Mapping[str, Mapping[str, Samples]], seed: int) -> dict[str, Any]:
    """{benchmark: {"over_voices": {system: `spread_of`}}} for the names "benchmark@voice" in {name: {system: its
    samples}}, with no scores of its own."""
    found: dict[str, Any] = {}
    for benchmark, voices in by_voice(samples.items()).items():
        systems = dict.fromkeys(s for _, of in voices for s in of if s not in (TEXT, CASCADE))
        spreads = {s: spread_of(dict(voices), seed, s) for s in systems}
        over = {s: of for s, of in spreads.items() if of.get("voices", 0) > 1}
        if over:
            found[benchmark] = {"systems": {}, "gap": {}, "gap_closed": {}, "over_voices": over}
    return found


def _gap(text: Samples, system: str, samples: Samples, seed: int, chance: float | None) -> dict[str, Any]:
    warnings = outcome_warnings(text, samples, CASCADE if system == CASCADE else "audio")
    return vision_audio_gap(text, samples, seed, chance) | {"warnings": warnings}


def items_in(samples: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The items, the same in every modality: id, question, target, group and image."""
    return [(s["id"], s["question"], s["target"], s["group"], s["image"]) for s in samples]


def compare_averages(
    scores: Mapping[str, Mapping[str, Any]], samples: Mapping[str, Mapping[str, Samples]], seed: int
) -> dict[str, Any]:
    """{"average": ...}, or {"average@voice": ...} for each voice, in the form of `compare_samples`, with the names of
    the `benchmarks`: the public ones in `scores` and `samples`, where there are at least two. All have the same
    systems. Groups are resampled within each benchmark."""
    systems = {benchmark: comparison["systems"].values() for benchmark, comparison in scores.items()}
    return {
        average: _average({b: scores[b] for b in names}, [samples[b] for b in names], seed)
        for average, names in benchmarks_to_average(systems).items()
    }


def _average(scores: Mapping[str, Mapping[str, Any]], samples: Sequence[Mapping[str, Samples]], seed: int) -> dict:
    systems = {s: average_scores([comparison["systems"][s] for comparison in scores.values()]) for s in samples[0]}
    gaps, closed = {}, {}
    for system in _other_than_text(systems):
        each = [comparison["gap"][system] for comparison in scores.values()]
        if all(gap["n"] for gap in each):
            gaps[system] = average_gap(each, systems[TEXT])
    for baseline, system in _after_the_baseline(systems):
        items = [_scores_of_three(by_system, baseline, system) for by_system in samples]
        if all(groups for *_, groups in items):
            headlines = [
                headline_metrics(by_system[TEXT], by_system[baseline], by_system[system]) for by_system in samples
            ]
            share = gap_closed_on_average(items, seed, systems[TEXT]["chance"])
            known = [h for h in headlines if h is not None]
            is_known = share["share"] is not None and len(known) == len(headlines)
            headline = _share(*map(fmean, zip(*known, strict=True))) if is_known else None
            closed[system] = {"baseline": baseline, **share, "headline": headline}
    return {"benchmarks": list(scores), "systems": systems, "gap": gaps, "gap_closed": closed}


def _other_than_text(systems: Mapping[str, Any]) -> list[str]:
    return [s for s in systems if s != TEXT] if TEXT in systems else []


def _after_the_baseline(systems: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(baseline, system) for each system after the first with audio; none without text."""
    with_audio = [s for s in _other_than_text(systems) if s != CASCADE]
    return [(with_audio[0], s) for s in with_audio[1:]]


def _gap_closed(
    samples: Mapping[str, Samples], baseline: str, system: str, seed: int, chance: float | None
) -> dict[str, Any] | None:
    """On the items that have a response from all three; None where no item has."""
    text, first, second, groups = _scores_of_three(samples, baseline, system)
    return {"baseline": baseline, **gap_closed(text, first, second, seed, groups, chance)} if groups else None


def _scores_of_three(
    samples: Mapping[str, Samples], baseline: str, system: str
) -> tuple[list[float], list[float], list[float], list[str]]:
    """Scores of text, baseline and system on the items with a response from all three, and their groups."""
    text, first = pair_samples(samples[TEXT], samples[baseline])
    text, second = pair_samples(text, samples[system])
    first, _ = pair_samples(first, second)
    text_scores, first_scores, second_scores = ([s["score"] for s in items] for items in (text, first, second))
    return text_scores, first_scores, second_scores, groups_in(text)


def _share(text: float, first: float, second: float) -> float | None:
    return (second - first) / (text - first) if text > first else None


Systems = dict[str, tuple[Path, str]]  # {system: (run, modality)}


@stage_function(CompareConfig)
def compare(config: CompareConfig) -> dict[str, Any]:
    """Returns {benchmark: {"systems": {system: scores}, "gap": {system: ...}, "gap_closed": {system: ...}}}, and the
    same under "average" for at least two public benchmarks, and the spread over voices under the name of a benchmark in
    several; raises InputError where the items are not the same. Text
    comes first among the systems, the cascade last."""
    systems = _systems(config.runs)
    text_result = _result(systems[TEXT][0])
    benchmarks = [b for b, modalities in text_result.items() if TEXT in modalities]
    samples = {
        b: {system: read_samples(samples_path(run, b, modality)) for system, (run, modality) in systems.items()}
        for b in benchmarks
    }
    for benchmark, by_system in samples.items():
        _check_comparable(benchmark, by_system, systems)
    scores = {benchmark: compare_samples(by_system, config.seed) for benchmark, by_system in samples.items()}
    scores |= compare_averages(scores, samples, config.seed)
    scores |= compare_voices(samples, config.seed)
    for benchmark in benchmarks:
        scores[benchmark]["scoring"] = scoring_in(text_result, benchmark)
    relative = {s: {"run": os.path.relpath(run, config.output), "modality": m} for s, (run, m) in systems.items()}
    write_json(config.output / "comparison.json", relative)
    write_json(config.output / "scores.json", scores)
    console = table_console()
    console.print(comparison_table(scores))
    for table in voices_tables(scores):
        console.print(table)
    for note in comparison_notes(scores):
        print(note)
    for benchmark, score in scores.items():
        for system, gap in score["gap"].items():
            for line in gap.get("warnings", ()):
                console.print(f"{benchmark}, {system}: {line}", style="yellow", markup=False)
    return scores


def _check_comparable(benchmark: str, samples: Mapping[str, Sequence[Mapping[str, Any]]], systems: Systems) -> None:
    """Each system against text, and each with audio against the first with audio."""
    modality_runs = {
        system: ModalityRun(str(run), modality, read_json(run / CONFIG, ReadSettings), samples[system])
        for system, (run, modality) in systems.items()
    }
    with_audio = [one for system, one in modality_runs.items() if system != TEXT]
    for first in (modality_runs[TEXT], *with_audio[:1]):
        for other in with_audio:
            if found := difference(first, other):
                hint = ": a gap closed would be that of the voices" if "other audio" in found else ""
                raise InputError(f"runs: {other.run}: {benchmark} {found}{hint}")


def _systems(runs: list[str]) -> Systems:
    named = {}
    for entry in runs:
        name, path = name_and_path(entry)
        run = Path(path)
        name = name or run_name(run)
        if name in named or name in (TEXT, CASCADE):
            raise InputError(f"runs: {entry}: a second {name!r}; write NAME={path}")
        named[name] = run
    modalities = {name: {m for scores in _result(run).values() for m in scores} for name, run in named.items()}
    with_text = next((name for name in named if TEXT in modalities[name]), None)
    if with_text is None:
        raise InputError(f"runs: {', '.join(runs)}: none has the modality text (selfkd evaluate --modalities text ...)")
    systems: Systems = {TEXT: (named[with_text], TEXT)}
    systems |= {name: (run, "audio") for name, run in named.items() if "audio" in modalities[name]}
    with_cascade = next((name for name in named if CASCADE in modalities[name]), None)
    return systems if with_cascade is None else systems | {CASCADE: (named[with_cascade], CASCADE)}


def run_name(run: Path) -> str:
    """The name of a run without NAME=: the folder eval-sft is "sft"."""
    return (run.name or run.resolve().name).removeprefix("eval-")


def _result(run: Path) -> dict[str, Any]:
    path = run / RESULT
    is_evaluation = (run / CONFIG).is_file() and read_json(run / CONFIG, Settings).get("stage") == "evaluate"
    if not is_evaluation or not path.is_file():
        raise InputError(f"runs: {run}: not a complete evaluation (selfkd evaluate writes {RESULT})")
    return read_json(path, EvaluationResult)
