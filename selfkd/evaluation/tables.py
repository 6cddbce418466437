"""The tables of `selfkd evaluate` and `selfkd compare` for a terminal of 80 columns, and their cells."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from selfkd.evaluation.average import by_voice
from selfkd.evaluation.by_voice import spread_rows
from selfkd.evaluation.response import OUTCOMES
from selfkd.evaluation.uncertainty import MIN_GROUPS
from selfkd.evaluation.verdicts import AT_CHANCE

MODALITIES = ("text", "audio", "cascade")
MAX_SPEAKER_ROWS = 10  # in a table of the terminal


def scores_table(result: Mapping[str, Any]) -> Group:
    """The gap table; the outcomes of responses where not all were answers; why some gaps have no verdict; warnings
    about the others."""
    outcomes = _outcome_table(result)
    warnings = [f"{name}: {line}" for name, scores in result.items() for line in gap_warnings(scores)]
    lines = [*map(Text, [*subset_notes(result), *gap_notes(result)]), *(Text(line, "yellow") for line in warnings)]
    tables = [table for table in (turns_table(result), outcomes) if table.rows]
    return Group(gap_table(result), *tables, *lines)


def turns_table(result: Mapping[str, Any]) -> Table:
    """A row for each turn of the conversations of a benchmark; empty where all items are single questions."""
    modalities = [m for m in MODALITIES if any("turns" in scores.get(m, {}) for scores in result.values())]
    table = Table(title="Score in % by turn (standard error)")
    for column in ("benchmark", "turn", "n", *modalities):
        is_name = column == "benchmark"
        table.add_column(column, justify="left" if is_name else "right", overflow="fold" if is_name else "ellipsis")
    for name, scores in result.items():
        by_turn = {m: scores[m]["turns"] for m in modalities if "turns" in scores.get(m, {})}
        for turn in next(iter(by_turn.values()), {}):
            own = {m: of_turn.get(turn, {"n": 0}) for m, of_turn in by_turn.items()}
            n = max(found["n"] for found in own.values())
            table.add_row(name, turn, str(n), *(_turn_cell(own.get(m, {})) for m in modalities))
    return table


def _turn_cell(scores: Mapping[str, Any]) -> str:
    if not scores.get("n"):
        return "–"
    error = f" ({100 * scores['stderr']:.1f})" if scores["stderr"] is not None else ""
    return f"{100 * scores['accuracy']:.1f}{error}"


def gap_warnings(scores: Mapping[str, Any]) -> list[str]:
    return [line for key in ("gap", "cascade_gap") for line in scores.get(key, {}).get("warnings", ())]


def _outcome_table(result: Mapping[str, Any]) -> Table:
    """A row for each benchmark and modality: how many responses have each outcome."""
    table = Table(title="Responses by outcome")
    for column in ("benchmark", "modality", *OUTCOMES):
        table.add_column(column, justify="right" if column in OUTCOMES else "left", overflow="fold")
    for name, scores in result.items():
        outcomes = {m: scores[m]["outcomes"] for m in MODALITIES if "outcomes" in scores.get(m, {})}
        if any(counts[o] for counts in outcomes.values() for o in OUTCOMES if o != "answer"):
            for modality, counts in outcomes.items():
                table.add_row(name, modality, *(str(counts[o]) for o in OUTCOMES))
    return table


def gap_table(result: Mapping[str, Any]) -> Table:
    """A row for each benchmark: chance, score and standard error of each modality in percent, and the gap with its
    interval. Last the average over public benchmarks, of mean scores and of their headline metrics."""
    modalities = [m for m in MODALITIES if any(m in scores for scores in result.values())]
    table = Table(title="Score in % (standard error)")
    for column in ("benchmark", "n", *modalities, "gap (95%)", "p"):
        is_name = column == "benchmark"
        table.add_column(column, justify="left" if is_name else "right", overflow="fold" if is_name else "ellipsis")
    for name, scores in result.items():
        if "over_voices" in scores:
            _add_spread(table, f"{name}, over voices", scores["over_voices"], modalities)
            continue
        if "over_benchmarks" in scores:
            over = scores["over_benchmarks"]
            count, gap = str(len(over["benchmarks"])), over.get("gap")
            table.add_section()
            cells = [accuracy_cell(over.get(m)) for m in modalities]
            table.add_row(_name_and_chance(name, over), count, *cells, _gap_cells(gap)[0], "")
            cells = [f"{over[m]['headline']:.1f}" if m in over else "–" for m in modalities]
            headline = gap["headline"] if gap else None
            cells.append("–" if headline is None else f"{headline:.1f}")
            table.add_row("headline metrics", count, *cells, "")
            continue
        counts = sorted({scores[m]["n"] for m in modalities if m in scores})
        cells = [accuracy_cell(scores.get(m)) for m in modalities]
        table.add_row(
            _name_and_chance(name, scores), "/".join(map(str, counts)), *cells, *_gap_cells(scores.get("gap"))
        )
        if "over_speakers" in scores:
            _add_speakers(table, name, scores, modalities)
    notes = [
        official_note([name for name in result if scoring_in(result, name) == "official"]),
        question_form_note({name: scores.get("cascade") for name, scores in result.items()}),
    ]
    failed = sum(s["failed"] for scores in result.values() for m, s in scores.items() if m in MODALITIES)
    if failed:
        notes.append(f"{failed} items have no response and are not in n")
    counts_left_out = (
        [s.get("skipped_unusable", 0) for m, s in scores.items() if m in MODALITIES] for scores in result.values()
    )
    if left_out := sum(max(counts, default=0) for counts in counts_left_out):
        notes.append(f"{left_out} rows were left out: the model cannot take them")
    table.caption = "\n".join(filter(None, notes)) or None
    return table


def _add_speakers(table: Table, name: str, scores: Mapping[str, Any], modalities: Sequence[str]) -> None:
    """A row for each speaker where they are few, and the spread over them."""
    speakers = scores["speakers"]
    for speaker, of in speakers.items() if len(speakers) <= MAX_SPEAKER_ROWS else ():
        cells = [accuracy_cell(of) if m == "audio" else "" for m in modalities]
        table.add_row(f"  {speaker}", str(of["n"]), *cells, *_gap_cells(of.get("gap")))
    _add_spread(table, f"{name}, over speakers", scores["over_speakers"], modalities)


def _add_spread(table: Table, title: str, over: Mapping[str, Any], modalities: Sequence[str]) -> None:
    """Mean and standard deviation of the audio accuracy, the mean gap with its interval; minimum and maximum."""
    accuracy, gap = over["accuracy"], over.get("gap")
    mean = f"{100 * accuracy['mean']:.1f}" + ("" if accuracy["sd"] is None else f" ± {100 * accuracy['sd']:.1f}")
    mean_gap = "–" if gap is None else f"{100 * gap['mean']:.1f}"
    if gap and gap.get("interval"):
        mean_gap += " ({:.1f} to {:.1f})".format(*(100 * end for end in gap["interval"]))
    table.add_row(title, str(over["voices"]), *(mean if m == "audio" else "" for m in modalities), mean_gap, "")
    ends = ["–" if of is None else f"{100 * of['min']:.1f}, {100 * of['max']:.1f}" for of in (accuracy, gap)]
    table.add_row("  min, max", "", *(ends[0] if m == "audio" else "" for m in modalities), ends[1], "")


def scoring_in(result: Mapping[str, Any], benchmark: str) -> str:
    """The rule that graded a benchmark in a run's result."""
    return next(
        (scores["scoring"] for name, scores in result[benchmark].items() if name in MODALITIES and "scoring" in scores),
        "lenient",
    )


def official_note(benchmarks: Sequence[str]) -> str:
    """The line beneath a table for the benchmarks graded by their official rule; "" without any."""
    return f"graded by the official rule: {', '.join(benchmarks)}" if benchmarks else ""


def question_form_note(cascades: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The line beneath a table for {benchmark: scores of its cascade}: where the better form of its transcripts is the
    question; "" where it is nowhere."""
    names = [name for name, scores in cascades.items() if scores and scores.get("form") == "question"]
    return f"cascade with transcripts in question form: {', '.join(names)}" if names else ""


def _name_and_chance(name: str, scores: Mapping[str, Any]) -> str:
    """With chance on a line of its own: another column would be too wide for the terminal."""
    return f"{name}\nchance {chance_cell(scores.get(m) for m in MODALITIES)}"


def gap_notes(result: Mapping[str, Any]) -> list[str]:
    """Lines beneath the table: why some gaps have no verdict."""
    gaps = {name: scores.get("over_benchmarks", scores).get("gap") for name, scores in result.items()}
    return verdict_notes({name: gap["verdict"] for name, gap in gaps.items() if gap and gap["n"]})


def subset_notes(result: Mapping[str, Any]) -> list[str]:
    """Lines beneath the table: what the scores of a part of a benchmark may differ from those of the whole by."""
    lines = []
    for name, found in result.items():
        scores = found.get("over_benchmarks", found)
        parts = {kind: scores[kind]["subset"] for kind in (*MODALITIES, "gap") if "subset" in scores.get(kind, {})}
        known = [f"{kind} {100 * part['stderr']:.1f}" for kind, part in parts.items() if part["stderr"] is not None]
        size = next((f", of {part['of_items']:,} items" for part in parts.values() if "of_items" in part), "")
        if parts:
            lines.append(f"{name}{size}: standard error against the whole: {', '.join(known) or 'not known'}")
    return lines


def verdict_notes(verdicts: Mapping[str, str]) -> list[str]:
    """Lines for {benchmark: verdict}: why some benchmarks' gaps have no verdict."""
    notes = [f"{name}: {AT_CHANCE}" for name, verdict in verdicts.items() if verdict == "at chance"]
    few = [name for name, verdict in verdicts.items() if verdict == "too few"]
    return [*notes, *([f"{', '.join(few)}: too few images for a verdict, fewer than {MIN_GROUPS}"] if few else [])]


def _gap_cells(gap: Mapping[str, Any] | None) -> tuple[str, str]:
    if not gap or not gap["n"]:
        return "–", "–"
    if gap["verdict"] == "at chance":
        return "at chance", "–"
    value = f"{100 * gap['gap']:.1f}"
    if gap["gap_interval"] is None or gap["verdict"] == "too few":
        return f"{value} (too few)", "–"
    low, high = (100 * side for side in gap["gap_interval"])
    return f"{value} ({low:.1f} to {high:.1f})", f"{gap.get('mcnemar_p', 1.0):.2g}"


def chance_cell(scores: Iterable[Mapping[str, Any] | None]) -> str:
    """The chance accuracy of several systems' benchmark, in percent."""
    return next((f"{100 * s['chance']:.1f}" for s in scores if s and s["n"]), "–")


def accuracy_cell(scores: Mapping[str, Any] | None) -> str:
    """Accuracy (standard error) in percent."""
    if not scores or not scores["n"]:
        return "–"
    error = scores["stderr"]
    return f"{100 * scores['accuracy']:.1f}" + (f" ({100 * error:.1f})" if error is not None else "")


def comparison_table(scores: Mapping[str, Any]) -> Table:
    """A row for each system: its accuracy (standard error) on a benchmark, and the share that it closes of the gap left
    by the baseline, the first run with audio. Last the average over public benchmarks, of mean scores and of their
    headline metrics."""
    official = [benchmark for benchmark, score in scores.items() if score.get("scoring") == "official"]
    notes = official_note(official), question_form_note({b: s["systems"].get("cascade") for b, s in scores.items()})
    table = Table(title="Accuracy in % (standard error)", caption="\n".join(filter(None, notes)))
    for column in ("benchmark", "system", "chance", "accuracy", "gap closed"):
        table.add_column(column, justify="left" if column in ("benchmark", "system") else "right")
    for benchmark, score in scores.items():
        if not score["systems"]:  # the spread over voices has a table of its own
            continue
        closed, chance = score["gap_closed"], chance_cell(score["systems"].values())
        shares = {system: gap_closed_cell(share) for system, share in closed.items()}
        _add_rows(table, benchmark_title(benchmark, score), chance, accuracy_cells(score), shares)
        if "benchmarks" in score:
            headlines = {system: f"{s['headline']:.1f}" for system, s in score["systems"].items()}
            shares = {s: f"{c['headline']:.0%}" for s, c in closed.items() if c["headline"] is not None}
            _add_rows(table, "headline metrics", "", headlines, shares)
    return table


def voices_tables(scores: Mapping[str, Any]) -> list[Table]:
    """For each benchmark in several voices, or with several speakers: a row for each, with the accuracy (standard
    error) of each system, and the word error rate of the cascade's transcripts in percent; and the spread over them."""
    systems = ((name, score["systems"]) for name, score in scores.items() if "benchmarks" not in score)  # no average
    voices = {name: dict(of) for name, of in by_voice(systems).items() if len(of) > 1}
    tables = [_voices_table(name, of, scores.get(name, {}).get("over_voices", {})) for name, of in voices.items()]
    return [*tables, *(_speakers_table(n, s) for n, s in scores.items() if s.get("by_speaker"))]


def _voices_table(
    benchmark: str, voices: Mapping[str, Mapping[str, Any]], spreads: Mapping[str, Mapping[str, Any]]
) -> Table:
    systems = list(dict.fromkeys(system for of_voice in voices.values() for system in of_voice))
    first = next(iter(voices.values())).values()
    table = Table(title=f"{benchmark} by voice: accuracy in % (standard error); chance {chance_cell(first)}")
    for column in ("voice", *systems, "WER"):
        table.add_column(column, justify="left" if column == "voice" else "right", overflow="fold")
    for voice, of_voice in voices.items():
        cells = [accuracy_cell(of_voice.get(system)) for system in systems]
        table.add_row(voice, *cells, word_error_cell(of_voice))
    _add_spread_rows(table, spreads, systems, [""])
    return table


def _speakers_table(benchmark: str, score: Mapping[str, Any]) -> Table:
    by_system = score["by_speaker"]
    speakers = list(dict.fromkeys(speaker for of in by_system.values() for speaker in of["speakers"]))
    table = Table(title=f"{benchmark} by speaker: accuracy in % (standard error)")
    for column in ("speaker", "n", *by_system):
        table.add_column(column, justify="left" if column == "speaker" else "right", overflow="fold")
    for speaker in speakers if len(speakers) <= MAX_SPEAKER_ROWS else ():
        of_speaker = [of["speakers"].get(speaker) for of in by_system.values()]
        counts = sorted({scores["n"] for scores in of_speaker if scores})
        table.add_row(speaker, "/".join(map(str, counts)), *map(accuracy_cell, of_speaker))
    _add_spread_rows(table, {s: of["over_speakers"] for s, of in by_system.items()}, list(by_system), [], [""])
    return table


def _add_spread_rows(
    table: Table,
    spreads: Mapping[str, Mapping[str, Any]],
    systems: Sequence[str],
    after: Sequence[str],
    before: Sequence[str] = (),
) -> None:
    if spreads:
        table.add_section()
        for title, *cells in spread_rows(spreads, systems, lambda share: f"{100 * share:.1f}"):
            table.add_row(title, *before, *cells, *after)


def word_error_cell(systems: Mapping[str, Mapping[str, Any]]) -> str:
    """The mean word error rate of the cascade's transcripts, in percent; a dash without a cascade."""
    wer = systems.get("cascade", {}).get("transcript_wer")
    return "–" if wer is None else f"{100 * wer:.1f}"


def comparison_notes(scores: Mapping[str, Any]) -> list[str]:
    """Lines beneath the table: why some benchmarks' gaps have no verdict."""
    gaps = {benchmark: list(score["gap"].values())[:1] for benchmark, score in scores.items()}
    return verdict_notes({benchmark: gap["verdict"] for benchmark, first in gaps.items() for gap in first if gap["n"]})


def _add_rows(table: Table, title: str, chance: str, cells: Mapping[str, str], closed: Mapping[str, str]) -> None:
    for i, (system, cell) in enumerate(cells.items()):
        table.add_row("" if i else title, system, "" if i else chance, cell, closed.get(system, ""))
    table.add_section()


def gap_closed_cell(closed: Mapping[str, Any]) -> str:
    """The share of the gap that is closed with its interval, or why there is none."""
    if closed["share"] is None:
        return closed["verdict"]
    low, high = closed["interval"]
    return f"{closed['share']:.0%} ({low:.0%} to {high:.0%})"


def accuracy_cells(score: Mapping[str, Any]) -> dict[str, str]:
    """{system: its accuracy on a benchmark}, for a table's row."""
    return {system: accuracy_cell(scores) for system, scores in score["systems"].items()}


def benchmark_title(name: str, score: Mapping[str, Any]) -> str:
    """ "average of 8"."""
    return f"{name} of {len(score['benchmarks'])}" if "benchmarks" in score else name
