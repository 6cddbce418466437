"""Written against spoken over models and benchmarks: the chart, and what goes with what."""

from scipy.stats import spearmanr

from selfkd.evaluation.side_by_side import TEXT
from selfkd.evaluation.uncertainty import enough
from selfkd.evaluation.verdicts import too_few
from selfkd.report.charts import Dot, Figure, scatter
from selfkd.report.evaluated import Group
from selfkd.report.naming import Styles, titled
from selfkd.report.tables import minus

_FEWEST_WRITTEN = 3  # scores, for a word on what goes with what


def together(groups: list[Group]) -> list[str]:
    """Whether models that answer better in writing answer better in speech (the paper: they do, and teach better), as
    the rank correlation over models, of benchmarks where three or more have written scores that differ."""
    scores: dict[str, list[tuple[float, float]]] = {}
    for group in groups:
        systems = group.scores["systems"]
        if TEXT in systems and systems[TEXT]["n"]:
            spoken = [(systems[TEXT]["accuracy"], systems[s]["accuracy"]) for s in group.spoken if systems[s]["n"]]
            scores.setdefault(group.benchmark, []).extend(spoken)
    said = []
    for benchmark, points in scores.items():
        written, heard = zip(*points, strict=True) if points else ((), ())
        if len(set(written)) >= _FEWEST_WRITTEN and len(set(heard)) > 1:
            rank = minus(f"{spearmanr(written, heard).statistic:.2f}")
            few = "" if enough(len(points)) else f": {too_few(len(points), 'models')}"
            said.append(f"{benchmark}: rank correlation of written and spoken {rank} over {len(points)} models{few}.")
    return said


def written_against_spoken(groups: list[Group], styles: Styles) -> Figure | None:
    """A point for each model and benchmark that was asked in both ways; None without any."""
    dots = []
    for group in groups:
        systems = group.scores["systems"]
        for s in group.spoken if TEXT in systems and systems[TEXT]["n"] else ():
            if systems[s]["n"]:
                at = systems[TEXT]["accuracy"], systems[s]["accuracy"]
                dots.append(Dot(f"{titled(s)} on {group.benchmark}", at, styles.of(s), group.benchmark))
    return (
        scatter("Written against spoken, a point for each model and benchmark", dots, "written", "spoken")
        if dots
        else None
    )
