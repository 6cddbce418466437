"""Scores of evaluation runs: findings, bars, tables of scores, gaps and shares closed, question types, yes bias, models
compared."""

from collections import Counter
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr

from selfkd.evaluation.chance import chance_accuracy
from selfkd.evaluation.compare import CASCADE, TEXT
from selfkd.evaluation.correctness import MAX_RULE_WORDS, gap_text, kappa_cell
from selfkd.evaluation.grading import YES_NO_TYPES
from selfkd.evaluation.judge import agreement_sentence
from selfkd.evaluation.metrics import OVERLAP_COUNTS, groups_in
from selfkd.evaluation.schemas import Correctness, Judged
from selfkd.evaluation.tables import official_note
from selfkd.evaluation.uncertainty import DIFFERENCE, MIN_GROUPS, enough, mean_interval
from selfkd.evaluation.verdicts import AT_CHANCE, format_interval, too_few
from selfkd.json_files import read_json
from selfkd.report.charts import Bar, Dot, Figure, Table, bar_chart, minus, percent, percent_interval, scatter
from selfkd.report.html import Styles, join_titles, run_title, system_title
from selfkd.report.inputs import Group, RunFolder
from selfkd.report.sections.voices import by_voice_tables, voices_table

_MIN_TEXT_SCORES = 3  # different ones, for a rank correlation


def rank_correlations(groups: list[Group]) -> list[str]:
    """Whether models with a higher text score have a higher audio score (the paper: they do, and are better teachers):
    the rank correlation over models, for benchmarks with three or more different text scores."""
    scores: dict[str, list[tuple[float, float]]] = {}
    for group in groups:
        systems = group.scores["systems"]
        if TEXT in systems and systems[TEXT]["n"]:
            text = systems[TEXT]["accuracy"]
            pairs = [(text, systems[s]["accuracy"]) for s in group.audio_systems if systems[s]["n"]]
            scores.setdefault(group.benchmark, []).extend(pairs)
    sentences = []
    for benchmark, points in scores.items():
        text_scores, audio_scores = zip(*points, strict=True) if points else ((), ())
        if len(set(text_scores)) >= _MIN_TEXT_SCORES and len(set(audio_scores)) > 1:
            rank = minus(f"{spearmanr(text_scores, audio_scores).statistic:.2f}")
            few = "" if enough(len(points)) else f": {too_few(len(points), 'models')}"
            sentence = f"{benchmark}: rank correlation of text and audio scores {rank} over {len(points)} models{few}."
            sentences.append(sentence)
    return sentences


def text_audio_scatter(groups: list[Group], styles: Styles) -> Figure | None:
    """A point for each model and benchmark with both modalities; None without any."""
    dots = []
    for group in groups:
        systems = group.scores["systems"]
        for s in group.audio_systems if TEXT in systems and systems[TEXT]["n"] else ():
            if systems[s]["n"]:
                at = systems[TEXT]["accuracy"], systems[s]["accuracy"]
                dots.append(Dot(f"{run_title(s)} on {group.benchmark}", at, styles.of(s), group.benchmark))
    title = "Text score against audio score by model and benchmark"
    return scatter(title, dots, "text", "audio") if dots else None


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
        "by_voice": by_voice_tables(groups),
        "findings": [score_finding(group, names) for group in shown],
        "comparisons": _comparisons(groups),
        "warnings": _warnings(groups, names),
        "bars": [_bar_chart(group, names, styles) for group in shown],
        "tables": [t for t in (*tables, voices_table(runs), _correctness_table(runs), _judge_table(runs)) if t.rows],
        "question_types": [t for t in (_question_type_table(group, names) for group in groups) if t.rows],
        "bias": [f for f in (_yes_bias_chart(group, names, styles) for group in groups) if f],
        "scatter": text_audio_scatter(groups, styles),
        "rank_correlations": rank_correlations(groups),
    }


class Names:
    """Titles of systems and groups. Text and cascade have the name of their run too where there are several."""

    def __init__(self, groups: list[Group]):
        runs = {system: {g.run_names[system] for g in groups if system in g.samples} for system in (TEXT, CASCADE)}
        self._has_several_runs = {system: len(names) > 1 for system, names in runs.items()}
        self._group_counts = Counter((group.benchmark, group.text_run) for group in groups)

    def of(self, group: Group, system: str) -> str:
        title = system_title(system, group.run_names[system] if self._has_several_runs.get(system) else "")
        has_question_form = group.scores["systems"][system].get("form") == "question"
        return f"{title} (question form)" if has_question_form else title

    def group(self, group: Group) -> str:
        benchmark = f"{group.benchmark} (official rule)" if group.is_official else group.benchmark
        has_run = self._has_several_runs[TEXT] and group.text_run
        name = f"{benchmark}, {run_title(group.text_run)}" if has_run else benchmark
        # several groups of one text modality: different audio, or different ASR models
        is_one_of_several = self._group_counts[group.benchmark, group.text_run] > 1
        runs = group.audio_systems or [group.run_names[s] for s in group.samples if s == CASCADE]
        return f"{name} ({join_titles(runs)})" if is_one_of_several and runs else name


def score_finding(group: Group, names: Names) -> dict[str, str]:
    """The title of a group, its scores, and its gap or the share of it that is closed."""
    systems = group.scores["systems"]
    answered = {system: score for system, score in systems.items() if score["n"]}
    accuracies = [f"{_lowercase_first(names.of(group, s))} {percent(of['accuracy'])}" for s, of in answered.items()]
    closed = group.scores["gap_closed"]
    sentences = [_share_sentence(s, c) for s, c in closed.items()]
    if not closed:
        sentences = [_gap_sentence(s, g) for s, g in group.scores["gap"].items() if s != CASCADE and g["n"]]
    clear = {s: c["share"] for s, c in closed.items() if c["verdict"] == "closed"}
    first = next(iter(clear), "")
    text = "; ".join(accuracies) or "no responses"
    chance = [f"Chance is {percent(score['chance'])}." for score in answered.values()][:1]
    return {
        "title": names.group(group),
        "highlight": f"{percent(clear[first], 0)} of the gap closed by {run_title(first)}" if clear else "",
        "text": " ".join([f"{text[0].upper()}{text[1:]}.", *chance, *dict.fromkeys(sentences)]),
    }


def _no_verdict_sentence(verdict: str, groups: int) -> str:
    reason = AT_CHANCE if verdict == "at chance" else f"{too_few(groups)} to estimate the gap"
    return f"{reason[0].upper()}{reason[1:]}."


def _share_sentence(system: str, closed: dict[str, Any]) -> str:
    """ "closes" where the interval of the share excludes zero."""
    match closed["verdict"]:
        case "too few" | "at chance":
            return _no_verdict_sentence(closed["verdict"], closed["groups"])
        case "no clear gap":
            return "There is no clear gap to close."
    share, interval = percent(closed["share"], 0), percent_interval(closed["interval"])
    closing, baseline = run_title(system), run_title(closed["baseline"])
    if closed["verdict"] == "closed":
        return f"{closing} closes {share} of the gap left by {baseline} ({interval})."
    return f"{closing} closes no clear share of the gap left by {baseline} ({share}; {interval})."


def _lowercase_first(title: str) -> str:
    return title[0].lower() + title[1:]


def _gap_sentence(system: str, gap: dict[str, Any]) -> str:
    """ "loses" or "gains" where the interval of the gap excludes zero."""
    if gap["verdict"] in ("too few", "at chance"):
        return _no_verdict_sentence(gap["verdict"], gap["groups"])
    mean, low, high = (100 * share for share in (gap["gap"], *gap["gap_interval"]))
    if gap["verdict"] == "no clear gap":
        points = minus(f"{mean:.1f} points, {low:.1f} to {high:.1f}")
        return f"{run_title(system)} has no clear gap ({points})."
    sign = 1 if gap["verdict"] == "loses" else -1
    ends = sorted((sign * low, sign * high))
    points = f"{sign * mean:.1f} points ({ends[0]:.1f} to {ends[1]:.1f})"
    return f"{run_title(system)} {gap['verdict']} {points} with audio queries."


def _comparisons(groups: list[Group]) -> list[str]:
    """Which text and audio modalities are compared; benchmarks with the same comparison share a line."""
    benchmarks_by_line: dict[str, list[str]] = {}
    for group in groups:
        if not group.audio_systems:
            continue
        audio = join_titles(group.audio_systems)
        if TEXT not in group.samples:
            line = f"{audio}: no run has text queries on the same items, so there is no gap."
        else:
            line = f"audio queries of {audio} against the same text queries of {run_title(group.text_run)}."
        if group.difference:
            line += f" In a group of its own: {audio} {group.difference}."
        benchmarks_by_line.setdefault(line, []).append(group.benchmark)
    official = official_note(list(dict.fromkeys(g.benchmark for g in groups if g.is_official)))
    lines = [f"{', '.join(benchmarks)}: {line}" for line, benchmarks in benchmarks_by_line.items()]
    return [*lines, *([f"{official[0].upper()}{official[1:]}."] if official else [])]


def _warnings(groups: list[Group], names: Names) -> list[str]:
    """Where responses of one modality were truncated, empty, refused or failed more often than of the other."""
    return [
        f"{names.group(group)}, {_lowercase_first(names.of(group, system))}: {line}."
        for group in groups
        for system, gap in group.scores["gap"].items()
        for line in gap.get("warnings", ())
    ]


def _bar_chart(group: Group, names: Names, styles: Styles) -> Figure:
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
            shares += [percent(s.get(k)) for k in ("parse_rate", "yes_rate", "target_yes_rate")]
            metrics = {"average": s["headline"]} if "headline" in s else s.get("metrics", {})
            official = next((f"{name} {value:.1f}" for name, value in metrics.items()), "–")
            counts = [f"{s['n']:,}", str(s.get("correct", "–"))]
            outcomes = [str(s.get("outcomes", {}).get(o, "–")) for o in ("cut", "empty", "refused")]
            last = [*outcomes, str(s["failed"]), official]
            rule = ", official rule" if group.is_official else ""
            rows.append([f"{group.benchmark}{rule}", names.of(group, system), *counts, *shares, *last])
    columns = "Benchmark", "System", "n", "Correct", "Score", "Chance", "Std. error", "95% interval"
    more_columns = "Parsed", "Yes responses", "Yes targets"
    last_columns = "Truncated", "Empty", "Refused", "No response", "Official"
    note = (
        "Chance: the score of the best constant answer to each question type. A response that cannot be parsed counts "
        "as wrong, as do empty responses and refusals. A response truncated at the token limit is graded as it is. "
        "Items without a response are left out. An average weighs each benchmark equally. A cascade is given each "
        "transcript as the ASR model writes it and, in question form, as a question is written; the better one is here."
    )
    return Table("Scores by modality", [*columns, *more_columns, *last_columns], rows, note=note)


def _gap_table(groups: list[Group], names: Names) -> Table:
    rows = []
    for group in groups:
        for system, g in group.scores["gap"].items():
            if not g["n"]:
                continue
            joint_counts = [str(g.get(k, "–")) for k in OVERLAP_COUNTS]
            has_no_verdict, p = g["verdict"] in ("too few", "at chance"), g.get("mcnemar_p")
            interval = format_interval(g["gap_interval"], g["groups"], percent)
            interval = "at chance" if g["verdict"] == "at chance" else interval
            gap = "–" if g["verdict"] == "at chance" else percent(g["gap"])
            shown = [f"{g['n']:,}", gap, interval, "–" if has_no_verdict or p is None else f"{p:.2g}"]
            rows.append([group.benchmark, names.of(group, system), *shown, *joint_counts])
    columns = "Benchmark", "System", "n", "Gap", "95% interval", "McNemar p", "Both correct"
    note = (
        "Gap: the text score minus the score of this system on the same items, with its interval over images. Where "
        f"text is at chance there is no gap to measure. Fewer than {MIN_GROUPS} images are too few for a verdict."
    )
    last_columns = "Only text correct", "Only audio correct", "Neither correct"
    return Table("Modality gap", [*columns, *last_columns], rows, note=note)


def _closed_table(groups: list[Group]) -> Table:
    rows = []
    for group in groups:
        for s, c in group.scores["gap_closed"].items():
            systems = [run_title(s), run_title(c["baseline"])]
            interval = c["verdict"] if c["share"] is None else percent_interval(c["interval"])
            difference = format_interval(c["difference_interval"], c["groups"], percent)
            cells = [percent(c["share"]), interval, percent(c["difference"]), difference]
            rows.append([group.benchmark, *systems, *cells])
            if c.get("headline") is not None:
                rows.append([f"{group.benchmark}, official", *systems, percent(c["headline"]), "–", "–", "–"])
    columns = "Benchmark", "Model", "Baseline", "Share closed", "95% interval", "Difference", "95% interval"
    note = (
        "Share closed: (model − baseline) / (text − baseline), with its interval over images. It is left out where the "
        "gap is not clear, there are too few images, or text is at chance."
    )
    return Table("Gap closed", columns, rows, text_columns=3, note=note)


def _judge_table(runs: list[RunFolder]) -> Table:
    rows, judges = [], []
    for run in runs:
        path = run.folder / "judged.json"
        judged = read_json(path, Judged) if path.is_file() else {"metrics": {}, "about": {}}
        for name, f in judged["metrics"].items():
            counts = [str(f["wrong"]), str(f["judged"]), percent(f["on_topic"]), percent(f["overlap"])]
            rows.append([name, run_title(run.name), *counts])
        if judged["about"]:
            judges.append(
                f"{run_title(run.name)}: {judged['about']['judge']} {agreement_sentence(judged['about']['agreement'])}."
            )
    note = (
        "Word overlap, without a judge: 1 for a response in the expected form (yes or no, a number, a color, a "
        "position), 0 for a refusal or a repetition of the question, else the share of the content words of the "
        "question that are in the response."
    )
    columns = "Benchmark and modality", "Run", "Wrong", "Judged", "On topic", "Word overlap"
    return Table("Wrong responses: on topic or not", columns, rows, note=" ".join([note, *judges]))


def _correctness_table(runs: list[RunFolder]) -> Table:
    """What a judge makes of open answers, with its agreement; no rows where no run was judged so."""
    rows, notes = [], []
    for run in runs:
        path = run.folder / "correctness.json"
        if not path.is_file():
            continue
        judged = read_json(path, Correctness)
        for name, f in judged["metrics"].items():
            spread = "" if f["stderr"] is None else f" ({100 * f['stderr']:.1f})"
            kappas = kappa_cell(f["with_rule"]), kappa_cell(f["with_itself"])
            rows.append([name, run_title(run.name), str(f["judged"]), f"{percent(f['score'])}{spread}", *kappas])
        notes.append(f"{run_title(run.name)}: judged by {judged['about']['judge']}.")
        gaps = (f"{name} {gap_text(gap)}" for name, gap in judged["gaps"].items() if gap["n"])
        notes += [f"Text minus audio, in points: {gap}." for gap in gaps]
    note = (
        "Score of 0 to 1 against the reference, mean (standard error). Kappa with its 95% interval, and the number of "
        f"responses: with the rule, where the reference has at most {MAX_RULE_WORDS} words; with the judge's own "
        "second scores, the prompt's examples in another order."
    )
    columns = "Benchmark and modality", "Run", "n", "Correct", "Kappa with rule", "Kappa with itself"
    return Table("Open answers: correctness by a judge", columns, rows, note=" ".join([note, *notes]))


def _question_type_table(group: Group, names: Names) -> Table:
    """By question type, or by category where there is one question type; no rows where there is one of each."""
    first = next(iter(group.samples.values()))
    by = "question_type" if len({s["question_type"] for s in first}) > 1 else "category"
    values = sorted({s[by] for s in first})
    rows = []
    for value in values if len(values) > 1 else ():
        samples = {
            system: [s for s in items if s[by] == value and not s["error"]] for system, items in group.samples.items()
        }
        means = [percent(fmean(s["score"] for s in part)) if part else "–" for part in samples.values()]
        queries = [s for s in first if s[by] == value]
        chance = percent(chance_accuracy(queries)) if enough(len(queries)) else "–"  # the floor of one item is 100%
        rows.append([value or "–", str(len(next(iter(samples.values())))), chance, *means])
    title = by.replace("_", " ")
    columns = [title.capitalize(), "n", "Chance", *(names.of(group, s) for s in group.samples)]
    return Table(f"{names.group(group)} by {title}", columns, rows, text_columns=1)


def _yes_bias_chart(group: Group, names: Names, styles: Styles) -> Figure | None:
    """The share of yes responses minus the share of yes targets, over yes/no questions."""
    bars = []
    for system, score in group.scores["systems"].items():
        if score["n"] and score["yes_bias"] is not None:
            samples = [
                s for s in group.samples[system] if not s["error"] and s["question_type"] in (*YES_NO_TYPES, "yes_no")
            ]
            excess = [(s["parsed"] == "yes") - (s["target"] == "yes") for s in samples]
            item_groups = groups_in(samples)
            interval, few = mean_interval(excess, item_groups, DIFFERENCE), not enough(len(set(item_groups)))
            bars.append(Bar(names.of(group, system), score["yes_bias"], interval, styles.of(system), few))
    reach = max((abs(end) for b in bars for end in (b.value, *(b.interval or ()))), default=0.0)
    reach = min(1.0, max(0.1, reach))
    return bar_chart(f"{names.group(group)}: yes bias", bars, -reach, reach) if bars else None
