"""Scores of evaluation runs: sentences, bars, gaps, shares closed, question types, "yes" bias, all models at once."""

from collections import Counter
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr

from selfkd.evaluation.chance import chance_floor
from selfkd.evaluation.compare import CASCADE, TEXT
from selfkd.evaluation.gap_table import official_note
from selfkd.evaluation.grading import YES_NO_TYPES
from selfkd.evaluation.judge import agreement_sentence
from selfkd.evaluation.metrics import groups_in
from selfkd.evaluation.uncertainty import DIFFERENCE, MIN_GROUPS, enough, mean_interval
from selfkd.evaluation.verdicts import AT_CHANCE, format_interval, too_few
from selfkd.report.charts import Bar, Dot, Figure, Table, bar_chart, minus, percent, percents, scatter
from selfkd.report.html import Styles, listed, system_title, titled
from selfkd.report.inputs import Group, RunFolder, read_json

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


def scores_section(
    runs: list[RunFolder], groups: list[Group], averages: list[Group], styles: Styles
) -> dict[str, Any] | None:
    """None where no run was evaluated. The averages over benchmarks come first."""
    if not groups:
        return None
    shown = [*averages, *groups]
    names = Names(shown)
    tables = [_score_table(shown, names), _gap_table(shown, names), _closed_table(shown)]
    return {
        "headlines": [headline(group, names) for group in shown],
        "compared": _compared(groups),
        "warnings": _warnings(groups, names),
        "bars": [_bars(group, names, styles) for group in shown],
        "tables": [t for t in (*tables, _voices_table(runs), _topic_table(runs)) if t.rows],
        "question_types": [t for t in (_kind_table(group, names) for group in groups) if t.rows],
        "bias": [f for f in (_bias(group, names, styles) for group in groups) if f],
        "scatter": written_against_spoken(groups, styles),
        "together": together(groups),
    }


class Names:
    """What systems are called: the written view and the cascade by their run too, where there are several."""

    def __init__(self, groups: list[Group]):
        owners = {system: {g.owners[system] for g in groups if system in g.samples} for system in (TEXT, CASCADE)}
        self._many = {system: len(of) > 1 for system, of in owners.items()}
        self._times = Counter((group.benchmark, group.writer) for group in groups)

    def of(self, group: Group, system: str) -> str:
        return system_title(system, group.owners[system] if self._many.get(system) else "")

    def group(self, group: Group) -> str:
        benchmark = f"{group.benchmark} (official rule)" if group.is_official else group.benchmark
        name = f"{benchmark}, {titled(group.writer)}" if self._many[TEXT] and group.writer else benchmark
        # it was spoken in more than one way, or heard by more than one recogniser
        twice = self._times[group.benchmark, group.writer] > 1
        who = group.spoken or [group.owners[s] for s in group.samples if s == CASCADE]
        return f"{name} ({listed(who)})" if twice and who else name


def headline(group: Group, names: Names) -> dict[str, str]:
    """The group's title and what came of it, in a sentence or two."""
    systems = group.scores["systems"]
    said = [f"{_inside(names.of(group, s))} {percent(score['accuracy'])}" for s, score in systems.items() if score["n"]]
    closed = group.scores["gap_closed"]
    after = [_closed_words(s, c) for s, c in closed.items()]
    if not closed:
        after = [_gap_words(s, g) for s, g in group.scores["gap"].items() if s != CASCADE and g["n"]]
    clear = {s: c["share"] for s, c in closed.items() if c["verdict"] == "closed"}
    first = next(iter(clear), "")
    text = "; ".join(said) or "no replies"
    chance = [f"Chance is {percent(score['chance'])}." for score in systems.values() if score["n"]][:1]
    return {
        "title": names.group(group),
        "figure": f"{percent(clear[first], 0)} of the gap closed with {titled(first)}" if clear else "",
        "text": " ".join([f"{text[0].upper()}{text[1:]}.", *chance, *dict.fromkeys(after)]),
    }


def _silent_words(verdict: str, groups: int) -> str:
    why = AT_CHANCE if verdict == "at chance" else f"{too_few(groups)} to say anything of the gap"
    return f"{why[0].upper()}{why[1:]}."


def _closed_words(system: str, closed: dict[str, Any]) -> str:
    """ "is closed" is said where the interval of the share leaves out none."""
    match closed["verdict"]:
        case "too few" | "at chance":
            return _silent_words(closed["verdict"], closed["groups"])
        case "no clear gap":
            return "There is no clear gap to close."
    share, low_to_high, of = percent(closed["share"], 0), percents(closed["interval"]), titled(closed["of"])
    if closed["verdict"] == "closed":
        return f"With {titled(system)}, {share} of the gap that {of} leaves is closed ({low_to_high})."
    return f"With {titled(system)}, no clear share of the gap that {of} leaves is closed ({share}; {low_to_high})."


def _inside(title: str) -> str:
    """A title in a sentence."""
    return title[0].lower() + title[1:]


def _gap_words(system: str, gap: dict[str, Any]) -> str:
    """ "loses" and "gains" are said where the interval of the gap leaves out none."""
    if gap["verdict"] in ("too few", "at chance"):
        return _silent_words(gap["verdict"], gap["groups"])
    mean, low, high = (100 * share for share in (gap["gap"], *gap["gap_interval"]))
    if gap["verdict"] == "no clear gap":
        points = minus(f"{mean:.1f} points, {low:.1f} to {high:.1f}")
        return f"{titled(system)} shows no clear gap ({points})."
    sign = 1 if gap["verdict"] == "loses" else -1
    ends = sorted((sign * low, sign * high))
    points = f"{sign * mean:.1f} points ({ends[0]:.1f} to {ends[1]:.1f})"
    return f"{titled(system)} {gap['verdict']} {points} when the question is spoken."


def _compared(groups: list[Group]) -> list[str]:
    """What is measured against what, said once for the benchmarks that are alike in it."""
    said: dict[str, list[str]] = {}
    for group in groups:
        if not group.spoken:
            continue
        who = listed(group.spoken)
        if TEXT not in group.samples:
            line = f"{who}: no run was asked the same items in writing, so there is no gap."
        else:
            line = f"questions spoken to {who}, against the same questions written to {titled(group.writer)}."
        if group.apart:
            line += f" Measured apart: {who} {group.apart}."
        said.setdefault(line, []).append(group.benchmark)
    official = official_note(list(dict.fromkeys(g.benchmark for g in groups if g.is_official)))
    lines = [f"{', '.join(benchmarks)}: {line}" for line, benchmarks in said.items()]
    return [*lines, *([f"{official[0].upper()}{official[1:]}."] if official else [])]


def _warnings(groups: list[Group], names: Names) -> list[str]:
    """Where responses of one modality were cut, empty, refused or failed more often than of the other."""
    return [
        f"{names.group(group)}, {_inside(names.of(group, system))}: {line}."
        for group in groups
        for system, gap in group.scores["gap"].items()
        for line in gap.get("warnings", ())
    ]


def _bars(group: Group, names: Names, styles: Styles) -> Figure:
    shown = {system: score for system, score in group.scores["systems"].items() if score["n"]}
    bars = [
        Bar(
            names.of(group, system),
            score["accuracy"],
            score["interval"],
            styles.of(system),
            not enough(score["groups"]),
        )
        for system, score in shown.items()
    ]
    chance = next((score["chance"] for score in shown.values()), None)
    return bar_chart(names.group(group), bars, chance=chance)


def _score_table(groups: list[Group], names: Names) -> Table:
    rows = []
    for group in groups:
        for system, s in group.scores["systems"].items():
            shares = [percent(s.get(k)) for k in ("accuracy", "chance", "stderr")]
            shares.append(format_interval(s.get("interval"), s.get("groups", 0), percent))
            shares += [percent(s.get(k)) for k in ("parse_rate", "yes_rate", "true_yes_rate")]
            metrics = {"their average": s["headline"]} if "headline" in s else s.get("figures", {})
            official = next((f"{name} {value:.1f}" for name, value in metrics.items()), "–")
            counts = [f"{s['n']:,}", str(s.get("correct", "–"))]
            outcomes = [str(s.get("outcomes", {}).get(o, "–")) for o in ("cut", "empty", "refused")]
            ends = [*outcomes, str(s["failed"]), official]
            rule = ", official rule" if group.is_official else ""
            rows.append([f"{group.benchmark}{rule}", names.of(group, system), *counts, *shares, *ends])
    columns = "Benchmark", "Answered by", "n", "Right", "Score", "Chance", "Std. error", "95% interval"
    shares_of = "Parsed", "Says yes", "Truly yes"
    ends_of = "Cut", "Empty", "Refused", "No reply", "Official"
    note = (
        "Chance: the score of always giving the best one answer to each question type. A response that cannot be "
        "parsed counts as wrong, an empty one and a refusal among them; one that was cut at the token limit is graded "
        "as it stands; an item without a response counts nowhere. In an average each benchmark counts the same."
    )
    return Table("Scores of each view", [*columns, *shares_of, *ends_of], rows, note=note)


def _gap_table(groups: list[Group], names: Names) -> Table:
    rows = []
    for group in groups:
        for system, g in group.scores["gap"].items():
            if not g["n"]:
                continue
            agreement = [str(g.get(k, "–")) for k in ("both_right", "only_written", "only_spoken", "neither")]
            is_silent, p = g["verdict"] in ("too few", "at chance"), g.get("mcnemar_p")
            interval = format_interval(g["gap_interval"], g["groups"], percent)
            interval = "at chance" if g["verdict"] == "at chance" else interval
            gap = "–" if g["verdict"] == "at chance" else percent(g["gap"])
            shown = [f"{g['n']:,}", gap, interval, "–" if is_silent or p is None else f"{p:.2g}"]
            rows.append([group.benchmark, names.of(group, system), *shown, *agreement])
    columns = "Benchmark", "Answered by", "n", "Gap", "95% interval", "McNemar p", "Both right"
    note = (
        "The gap is the written score less this one, on the same items, with its interval over images; where the text "
        f"modality is at chance there is none to measure. Fewer than {MIN_GROUPS} images are too few for a verdict."
    )
    return Table("Written against spoken", [*columns, "Only written", "Only spoken", "Neither"], rows, note=note)


def _closed_table(groups: list[Group]) -> Table:
    rows = []
    for group in groups:
        for s, c in group.scores["gap_closed"].items():
            who = [titled(s), titled(c["of"])]
            interval = c["verdict"] if c["share"] is None else percents(c["interval"])
            difference = format_interval(c["difference_interval"], c["groups"], percent)
            found = [percent(c["share"]), interval, percent(c["difference"]), difference]
            rows.append([group.benchmark, *who, *found])
            if c.get("headline") is not None:
                rows.append([f"{group.benchmark}, official", *who, percent(c["headline"]), "–", "–", "–"])
    columns = "Benchmark", "By", "Of the gap left by", "Share closed", "95% interval", "Difference", "95% interval"
    note = (
        "Share closed = (second − first) / (written − first), with its interval over images; none is given where the "
        "gap is not clear, the images are too few, or the text modality is at chance."
    )
    return Table("Gap closed", columns, rows, words=3, note=note)


def _voices_table(runs: list[RunFolder]) -> Table:
    rows = []
    for run in runs:
        for benchmark, of in run.result.items():
            for metric, f in of.get("over_voices", {}).items():
                if metric != "voices":
                    shown = [percent(f[k]) for k in ("mean", "sd", "least", "most")]
                    rows.append([benchmark, titled(run.name), metric, str(of["over_voices"]["voices"]), *shown])
    return Table("Over voices", ["Benchmark", "Run", "Figure", "Voices", "Mean", "Sd", "Least", "Most"], rows, words=3)


def _topic_table(runs: list[RunFolder]) -> Table:
    rows, judges = [], []
    for run in runs:
        path = run.folder / "judged.json"
        judged = read_json(path) if path.is_file() else {"figures": {}, "about": {}}
        for name, f in judged["figures"].items():
            topic = [str(f["wrong"]), str(f["judged"]), percent(f["on_topic"]), percent(f["overlap"])]
            rows.append([name, titled(run.name), *topic])
        if judged["about"]:
            judges.append(
                f"{titled(run.name)}: {judged['about']['judge']} {agreement_sentence(judged['about']['agreement'])}."
            )
    note = (
        "By words, with no judge: 1 for a reply in the form that was asked for (yes or no, a number, a colour, a "
        "place), 0 for a refusal or the question said back, else the share of the question's content words that stand "
        "in the reply."
    )
    columns = "Benchmark and view", "Run", "Wrong", "Judged", "On topic", "By words"
    return Table("Wrong replies: on topic or about something else", columns, rows, note=" ".join([note, *judges]))


def _kind_table(group: Group, names: Names) -> Table:
    """By kind of question, or by category where all questions are of one kind; none where there is one of both."""
    first = next(iter(group.samples.values()))
    by = "question_type" if len({s["question_type"] for s in first}) > 1 else "category"
    values = sorted({s[by] for s in first})
    rows = []
    for value in values if len(values) > 1 else ():
        some = {name: [s for s in items if s[by] == value and not s["error"]] for name, items in group.samples.items()}
        means = [percent(fmean(s["score"] for s in of)) if of else "–" for of in some.values()]
        asked = [s for s in first if s[by] == value]
        chance = percent(chance_floor(asked)) if enough(len(asked)) else "–"  # of one item its own answer is right
        rows.append([value or "–", str(len(next(iter(some.values())))), chance, *means])
    columns = [by.capitalize(), "n", "Chance", *(names.of(group, s) for s in group.samples)]
    return Table(f"{names.group(group)} by {by}", columns, rows, words=1)


def _bias(group: Group, names: Names, styles: Styles) -> Figure | None:
    """How much more often "yes" is said than it is true, of the yes/no questions."""
    bars = []
    for system, score in group.scores["systems"].items():
        if score["n"] and score["yes_bias"] is not None:
            asked = [
                s for s in group.samples[system] if not s["error"] and s["question_type"] in (*YES_NO_TYPES, "yes_no")
            ]
            beyond = [(s["parsed"] == "yes") - (s["target"] == "yes") for s in asked]
            in_groups = groups_in(asked)
            ends, few = mean_interval(beyond, in_groups, DIFFERENCE), not enough(len(set(in_groups)))
            bars.append(Bar(names.of(group, system), score["yes_bias"], ends, styles.of(system), few))
    reach = max((abs(end) for b in bars for end in (b.value, *(b.interval or ()))), default=0.0)
    reach = min(1.0, max(0.1, reach))
    return bar_chart(f"{names.group(group)}: “yes” beyond the truth", bars, -reach, reach) if bars else None
