"""Scores by voice and by speaker, with the spread over them."""

from typing import Any

from selfkd.evaluation.average import by_voice
from selfkd.evaluation.by_voice import spread_of, spread_rows
from selfkd.evaluation.compare import CASCADE, TEXT
from selfkd.evaluation.tables import question_form_note
from selfkd.report.charts import Table, percent, percent_interval
from selfkd.report.html import run_title, system_title
from selfkd.report.inputs import Group, RunFolder

_SPREAD_NOTE = (
    "The mean weighs each voice the same; its interval is over images, and says nothing of other voices: the standard "
    "deviation, minimum and maximum over voices do."
)


def by_voice_tables(groups: list[Group]) -> list[Table]:
    """For each benchmark in several voices, or with several speakers: a row for each, a column for each system, and the
    spread over them."""
    found = by_voice((group.benchmark, group) for group in groups)
    tables = [_by_voice_table(benchmark, voices) for benchmark, voices in found.items() if len(voices) > 1]
    return [*tables, *(_speakers_table(group) for group in groups if group.scores.get("by_speaker"))]


def _by_voice_table(benchmark: str, voices: list[tuple[str, Group]]) -> Table:
    titles = {system: system_title(system) for _, group in voices for system in group.samples}
    scores = [(voice, group.scores["systems"]) for voice, group in voices]
    rows = [
        [voice, *(_accuracy_and_interval(systems.get(s)) for s in titles), percent(_cascade_wer(systems))]
        for voice, systems in scores
    ]
    samples = {voice: group.samples for voice, group in voices}
    if len(samples) == len(voices):  # else a voice has several groups, which are not compared
        audio = [s for s in titles if s not in (TEXT, CASCADE)]
        spreads = {s: spread_of(samples, system=s) for s in audio}
        rows += [[*row, ""] for row in spread_rows(spreads, list(titles), percent)]
    chance = next((f" Chance: {percent(s['chance'])}." for s in scores[0][1].values() if s["n"]), "")
    forms = question_form_note({voice: systems.get(CASCADE) for voice, systems in scores})
    note = f"Accuracy with its 95% interval; WER: of the cascade's transcripts, mean over clips.{chance} {_SPREAD_NOTE}"
    note += f" {forms[0].upper()}{forms[1:]}." if forms else ""
    return Table(f"{benchmark} by voice", ["Voice", *titles.values(), "WER"], rows, 1, note)


def _speakers_table(group: Group) -> Table:
    by_system = group.scores["by_speaker"]
    speakers = list(dict.fromkeys(speaker for of in by_system.values() for speaker in of["speakers"]))
    rows = []
    for speaker in speakers:
        of_speaker = [of["speakers"].get(speaker) for of in by_system.values()]
        counts = sorted({scores["n"] for scores in of_speaker if scores})
        rows.append([speaker, "/".join(map(str, counts)), *map(_accuracy_and_interval, of_speaker)])
    spreads = {s: of["over_speakers"] for s, of in by_system.items()}
    rows += [[row[0], "", *row[1:]] for row in spread_rows(spreads, list(by_system), percent)]
    columns = ["Person", "n", *map(system_title, by_system)]
    note = f"Accuracy of audio queries with its 95% interval. {_SPREAD_NOTE}"
    return Table(f"{group.benchmark} by speaker", columns, rows, 1, note)


def _cascade_wer(systems: dict[str, Any]) -> float | None:
    return systems.get(CASCADE, {}).get("transcript_wer")


def _accuracy_and_interval(scores: dict[str, Any] | None) -> str:
    if not scores or not scores["n"]:
        return "–"
    ends = [f"{100 * end:.0f}" for end in scores["interval"] or ()]
    return percent(scores["accuracy"]) + (f" ({' to '.join(ends)})" if ends else "")


def voices_table(runs: list[RunFolder]) -> Table:
    """A row for each run, benchmark in several voices, and metric: its spread over the voices."""
    rows = []
    for run in runs:
        for benchmark, result in run.result.items():
            for metric, f in result.get("over_voices", {}).items():
                if metric != "voices":
                    shown = [percent(f[k]) for k in ("mean", "sd", "min", "max")]
                    shown.append(percent_interval(f["interval"]) if f.get("interval") else "–")
                    rows.append([benchmark, run_title(run.name), metric, str(result["over_voices"]["voices"]), *shown])
    columns = "Benchmark", "Run", "Metric", "Voices", "Mean", "SD", "Min", "Max", "95% interval"
    return Table("Over voices", columns, rows, text_columns=3)
