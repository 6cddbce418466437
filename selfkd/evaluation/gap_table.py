"""Scores of an evaluation as a table for a terminal of 80 columns."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from selfkd.evaluation.response import OUTCOMES
from selfkd.evaluation.uncertainty import MIN_GROUPS
from selfkd.evaluation.verdicts import AT_CHANCE

MODALITIES = {"text": "text", "audio": "audio", "cascade": "cascade"}  # views by the field's words
MODALITIES = {"text": "written", "audio": "spoken", "cascade": "cascade"}


def scores_table(result: Mapping[str, Any]) -> Group:
    """The scores; the outcomes of responses where not all were answers; why nothing is said of some gaps; what to know
    before the others are read."""
    outcomes = _outcome_table(result)
    told = [f"{name}: {line}" for name, scores in result.items() for line in gap_warnings(scores)]
    lines = [*map(Text, gap_notes(result)), *(Text(line, "yellow") for line in told)]
    return Group(gap_table(result), *([outcomes] if outcomes.rows else []), *lines)


def gap_warnings(scores: Mapping[str, Any]) -> list[str]:
    return [line for key in ("gap", "cascade_gap") for line in scores.get(key, {}).get("warnings", ())]


def _outcome_table(result: Mapping[str, Any]) -> Table:
    """One row a benchmark and modality: how many responses were answers, and how many were not."""
    table = Table(title="Responses that are more, or other, than answers")
    for column in ("benchmark", "modality", *OUTCOMES):
        table.add_column(column, justify="right" if column in OUTCOMES else "left", overflow="fold")
    for name, scores in result.items():
        of_modalities = {v: scores[v]["outcomes"] for v in MODALITIES if "outcomes" in scores.get(v, {})}
        if any(counts[o] for counts in of_modalities.values() for o in OUTCOMES if o != "answer"):
            for modality, counts in of_modalities.items():
                table.add_row(name, MODALITIES[modality], *(str(counts[o]) for o in OUTCOMES))
    return table


def gap_table(result: Mapping[str, Any]) -> Table:
    """One row a benchmark: score and standard error of each view in percent, beside the floor of chance, and the gap
    with its interval. Last the average over public benchmarks, of mean scores and of their own first figures."""
    modalities = [v for v in MODALITIES if any(v in scores for scores in result.values())]
    table = Table(title="Score in % (standard error)")
    for column in ("benchmark", "n", *(MODALITIES[v] for v in modalities), "gap (95%)", "p"):
        is_name = column == "benchmark"
        table.add_column(column, justify="left" if is_name else "right", overflow="fold" if is_name else "ellipsis")
    for name, scores in result.items():
        if "over_voices" in scores:
            over = scores["over_voices"]["accuracy"]
            spread = f"{100 * over['mean']:.1f} ± {100 * over['sd']:.1f}" if over["sd"] is not None else "–"
            cells = [spread if v == "audio" else "" for v in modalities]
            table.add_row(f"{name}, over voices", str(scores["over_voices"]["voices"]), *cells, "", "")
            continue
        if "over_benchmarks" in scores:
            over = scores["over_benchmarks"]
            count, gap = str(len(over["benchmarks"])), over.get("gap")
            table.add_section()
            cells = [accuracy_cell(over.get(v)) for v in modalities]
            table.add_row(_named(name, over), count, *cells, _gap_cells(gap)[0], "")
            cells = [f"{over[v]['headline']:.1f}" if v in over else "–" for v in modalities]
            own = gap["headline"] if gap else None
            table.add_row("own figures", count, *cells, "–" if own is None else f"{own:.1f}", "")
            continue
        counts = sorted({scores[v]["n"] for v in modalities if v in scores})
        cells = [accuracy_cell(scores.get(v)) for v in modalities]
        table.add_row(_named(name, scores), "/".join(map(str, counts)), *cells, *_gap_cells(scores.get("gap")))
    notes = [official_note([name for name in result if scoring_in(result, name) == "official"])]
    failed = sum(s["failed"] for scores in result.values() for v, s in scores.items() if v in MODALITIES)
    if failed:
        notes.append(f"{failed} items have no reply and are not in n")
    counts_left_out = (
        [s.get("skipped_unusable", 0) for v, s in of.items() if v in MODALITIES] for of in result.values()
    )
    if left_out := sum(max(counts, default=0) for counts in counts_left_out):
        notes.append(f"{left_out} rows were left out: the model cannot take them")
    table.caption = "\n".join(filter(None, notes)) or None
    return table


def scoring_in(result: Mapping[str, Any], benchmark: str) -> str:
    """The rule by which a run's result has a benchmark graded."""
    return next((scores["scoring"] for scores in result[benchmark].values() if "scoring" in scores), "lenient")


def official_note(benchmarks: Sequence[str]) -> str:
    """Beneath a table in which some are graded officially: "" where none is."""
    return f"graded by the official rule: {', '.join(benchmarks)}" if benchmarks else ""


def _named(name: str, scores: Mapping[str, Any]) -> str:
    """With the floor of chance on a line of its own: a column more would be too wide for the terminal."""
    return f"{name}\nchance {chance_cell(scores.get(v) for v in MODALITIES)}"


def gap_notes(result: Mapping[str, Any]) -> list[str]:
    """Lines beneath the table: why nothing is said of some gaps."""
    gaps = {name: scores.get("over_benchmarks", scores).get("gap") for name, scores in result.items()}
    return verdict_notes({name: gap["verdict"] for name, gap in gaps.items() if gap and gap["n"]})


def verdict_notes(verdicts: Mapping[str, str]) -> list[str]:
    """Why nothing is said of some benchmarks' gaps, a line each, of {benchmark: verdict}."""
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
    """The floor of chance under the accuracies of some systems, in percent."""
    return next((f"{100 * s['chance']:.1f}" for s in scores if s and s["n"]), "–")


def accuracy_cell(scores: Mapping[str, Any] | None) -> str:
    """Accuracy (standard error) in percent."""
    if not scores or not scores["n"]:
        return "–"
    error = scores["stderr"]
    return f"{100 * scores['accuracy']:.1f}" + (f" ({100 * error:.1f})" if error is not None else "")
