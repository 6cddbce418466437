"""The first screen: four questions with answers in words. How large is the gap, by how much is it closed and by which
model, how does that stand against the cascade, is it the speech or the image that fails.

An answer that the runs do not hold says so, and names the command that would add it. Figures of gaps and shares are
those of `selfkd compare`, to the digit; "clear" means that a 95% interval excludes zero.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from selfkd.evaluation.compare import CASCADE, TEXT
from selfkd.evaluation.uncertainty import MIN_GROUPS, enough
from selfkd.evaluation.verdicts import too_few
from selfkd.report.charts import Table, percent, percent_interval, points
from selfkd.report.html import run_title
from selfkd.report.inputs import RunFolder
from selfkd.report.sections.causes import cause_sentences
from selfkd.report.sections.scope import Difference, Scope, main_scope

QUESTIONS = (
    "How large is the gap?",
    "By how much is it closed, and by which model?",
    "How does that stand against the cascade?",
    "Is it the speech or the image that fails?",
)


@dataclass(frozen=True)
class Answer:
    """`short` is the answer in a few words, `sentence` has its figures; `more` is folded. `command` adds the run that
    is missing."""

    short: str
    sentence: str
    more: list[str] = field(default_factory=list)
    command: str = ""


def answers_section(scopes: list[Scope], runs: list[RunFolder]) -> dict[str, Any] | None:
    """None where no run was evaluated."""
    if not scopes:
        return None
    scope = main_scope(scopes)
    answers = gap_answer(scope, scopes), closed_answer(scope, runs), cascade_answer(scope), cause_answer(scope)
    return {
        "subject": _subject(scope),
        "answers": list(zip(QUESTIONS, answers, strict=True)),
        "table": _overview_table(scopes),
    }


def _subject(scope: Scope) -> str:
    """What the answers are about."""
    first = next((s for s in (TEXT, *scope.audio, CASCADE) if scope.has(s)), None)
    if first is None:
        return f"{scope.title}: no item has a response."
    return f"{scope.title}: {scope.scores['systems'][first]['n']:,} questions."


def gap_answer(scope: Scope, scopes: Sequence[Scope] = ()) -> Answer:
    if missing := _missing_for_a_gap(scope):
        return missing
    system, gap = scope.audio[0], scope.gap
    found = scope.difference(system, TEXT)
    if found is None:
        return _nothing_in_common(system, "text")
    name = run_title(system)
    by = f"{name} scores {percent(found.first)} on audio queries and {percent(found.second)} "
    by += "on the same questions as text"
    distance = f"{by}: {points_text(-gap['gap'])}"
    more = _elsewhere(scope, scopes)
    match verdict_of(gap):
        case "at chance":
            chance = percent(scope.scores["systems"][TEXT]["chance"])
            why = f"{by}. The best constant answer scores {chance}: with text at chance there is no gap to measure."
            return Answer("Not measurable: text is at chance", why, more)
        case "too few":
            return Answer("Not known yet: too few images", f"{distance}, on {too_few(gap['groups'])}.", more)
        case "loses":
            short = f"Audio loses {points(gap['gap'])}"
        case "gains":
            short = f"No gap: audio gains {points(-gap['gap'])}"
        case _:
            short = "No clear gap"
    return Answer(short, f"{distance} ({_ends_text([-end for end in reversed(gap['gap_interval'])])}).", more)


def verdict_of(found: Mapping[str, Any]) -> str:
    """Of a gap or a share. With few images that is the reason first: of a single item even the constant answer is
    right, so that text would be at chance."""
    return found["verdict"] if enough(found["groups"]) else "too few"


def _missing_for_a_gap(scope: Scope) -> Answer | None:
    if not scope.has(TEXT):
        why = "No run has text queries on the same items as the audio queries."
        return Answer("Not known: no text queries", why, [], _command(scope, "text"))
    if not scope.audio:
        return Answer("Not known: no audio queries", "No run has audio queries.", [], _command(scope, "audio"))
    return None if scope.gap else _nothing_in_common(scope.audio[0], "text")


def _nothing_in_common(system: str, other: str) -> Answer:
    return Answer("Not known: no item in common", f"No item has a response from both {run_title(system)} and {other}.")


def _elsewhere(scope: Scope, scopes: Sequence[Scope]) -> list[str]:
    """The range of the gap over the voices and benchmarks on which the same model's gap can be measured."""
    system = scope.audio[0]
    gaps = {s.title: s.gap["gap"] for s in scopes if s.audio and s.audio[0] == system and _has_verdict(s.gap)}
    gaps.pop(scope.title, None)
    if len(gaps) < 2:
        return [f"The gap of {run_title(system)} on {title}: {points(gap)}." for title, gap in gaps.items()]
    low, high = min(gaps, key=lambda t: gaps[t]), max(gaps, key=lambda t: gaps[t])
    ends = f"{points(gaps[low])} ({low}) to {points(gaps[high])} ({high})"
    return [f"On {len(gaps)} voices and benchmarks the gap of {run_title(system)} runs from {ends}."]


def _has_verdict(gap: Mapping[str, Any]) -> bool:
    return gap.get("verdict") in ("loses", "gains", "no clear gap")


def closed_answer(scope: Scope, runs: Sequence[RunFolder] = ()) -> Answer:
    if missing := _missing_for_a_gap(scope):
        return missing
    baseline, best = scope.audio[0], scope.best_of_others
    if not best and len(scope.group.audio_systems) > 1:
        first = run_title(scope.group.audio_systems[0])
        why = f"Shares are of the gap of {first}, the first model, and no item has a response from it, from text and "
        return Answer("Not known: no item in common", f"{why}from another model.")
    if not best:
        why = f"{run_title(baseline)} is the only model with audio queries. The first evaluated run is the one whose "
        why += "gap the others close."
        return Answer("Not known: only one model", why, [], _command(scope, "audio", "TRAINED_MODEL"))
    closed, shares = scope.scores["gap_closed"][best], _shares(scope)
    change = _change_sentence(scope, best, baseline)
    name = run_title(best)
    match verdict_of(closed):
        case "at chance":
            return Answer("Not measurable: text is at chance", change)
        case "too few":
            return Answer("Not known yet: too few images", f"{change} There are {too_few(closed['groups'])}.")
        case "no clear gap":
            return Answer("No clear gap to close", change)
    rank = "" if len(shares) == 1 else f", the best of {len(shares)} models,"
    of_gap = f"of the gap that {run_title(baseline)} leaves ({percent_interval(closed['interval'])})"
    more = [change, *_remaining(scope, best), *_next_best(scope, shares), *_seeds(best, shares, runs)]
    share, interval = closed["share"], closed["interval"]
    if closed["verdict"] == "closed":
        return Answer(f"{name} closes {percent(share)}", f"{name}{rank} closes {percent(share)} {of_gap}.", more)
    if interval[1] < 0:
        worse = percent(-share), f"{percent(-interval[1])} to {percent(-interval[0])}"
        sentence = f"{name}{rank} makes the gap of {run_title(baseline)} larger by {worse[0]} of it ({worse[1]})."
        return Answer("Not at all: the gap grows", sentence, more)
    return Answer("By no clear share", f"{name}{rank} closes {percent(share)} {of_gap}: no clear share.", more)


def _shares(scope: Scope) -> dict[str, float]:
    """{model: share closed} where it is known, the largest first."""
    closed = scope.scores["gap_closed"]
    known = {s: closed[s]["share"] for s in scope.audio if s in closed and closed[s]["share"] is not None}
    return dict(sorted(known.items(), key=lambda of: -of[1]))


def _change_sentence(scope: Scope, best: str, baseline: str) -> str:
    found = scope.difference(best, baseline)
    return "" if found is None else _compared(run_title(best), f"audio queries of {run_title(baseline)}", found)


def _remaining(scope: Scope, best: str) -> list[str]:
    gap = scope.gap_of(best)
    if not _has_verdict(gap):
        return []
    clear = "" if gap["verdict"] != "no clear gap" else "no clear gap: "
    ends = _ends_text([-end for end in reversed(gap["gap_interval"])])
    return [f"What remains of {run_title(best)} against text is {clear}{points_text(-gap['gap'])} ({ends})."]


def _next_best(scope: Scope, shares: dict[str, float]) -> list[str]:
    """How far the best is ahead of the next; that it was chosen as the best makes its share a little too high."""
    if len(shares) < 2:
        return []
    best, following = list(shares)[:2]
    closed = scope.scores["gap_closed"][following]
    interval = percent_interval(closed["interval"])
    sentences = [f"Next is {run_title(following)}, with {percent(closed['share'])} ({interval})."]
    if found := scope.difference(best, following):
        sentences.append(_compared(run_title(best), run_title(following), found))
    return [*sentences, f"The share of the best of {len(shares)} is a little too high, because it was chosen by it."]


def _seeds(best: str, shares: dict[str, float], runs: Sequence[RunFolder]) -> list[str]:
    """The spread over the trainings that differ from that of the best model by their seed only."""
    recipes = {run.name: _recipe(run) for run in runs if run.kind in ("align", "distill")}
    same = [shares[s] for s in shares if s in recipes and recipes[s] == recipes.get(best)]
    if len(same) < 2:
        return []
    ends = f"{percent(min(same))} to {percent(max(same))}"
    return [f"It is one of {len(same)} trainings that differ in their seed only: {ends}, mean {percent(fmean(same))}."]


def _recipe(run: RunFolder) -> str:
    return json.dumps({k: v for k, v in run.config.items() if k not in ("seed", "output")}, sort_keys=True)


def cascade_answer(scope: Scope) -> Answer:
    if not scope.has(CASCADE):
        why = "No run has a cascade (an ASR model transcribes, the model answers the transcript) on the same audio."
        return Answer("Not known: no cascade", why, [], _command(scope, "cascade"))
    if not scope.audio:
        return Answer("Not known: no audio queries", "No run has audio queries.", [], _command(scope, "audio"))
    best = scope.best
    found = scope.difference(best, CASCADE)
    if found is None:
        return _nothing_in_common(best, "the cascade")
    name, more = run_title(best), []
    if gap := scope.gap_of(CASCADE):
        more.append(f"Against text the cascade itself has {points_text(-gap['gap'])}{_clear_text(gap)}.")
    shorts = {
        None: "Not known yet: too few images",
        1: f"{name} is ahead by {points(found.mean)}",
        0: "No clear difference",
        -1: f"{name} is behind by {points(-found.mean)}",
    }
    return Answer(shorts[found.sign], _compared(name, "the cascade", found), more)


def _clear_text(gap: Mapping[str, Any]) -> str:
    match gap["verdict"]:
        case "loses" | "gains":
            return f" ({_ends_text([-end for end in reversed(gap['gap_interval'])])})"
        case "no clear gap":
            return ", no clear difference"
    return ""


def cause_answer(scope: Scope) -> Answer:
    """Errors that a model makes with text queries too are not the speech's; what it loses from text to audio is."""
    if missing := _missing_for_a_gap(scope):
        if scope.has(TEXT):
            wrong = points(1 - scope.scores["systems"][TEXT]["accuracy"])
            note = f"With text queries, where speech plays no part, {wrong} are lost."
            return Answer(missing.short, f"{missing.sentence} {note}", [], missing.command)
        return missing
    short, sentence, more, has_transcripts = cause_sentences(scope)
    return Answer(short, sentence, more, "" if has_transcripts else _command(scope, "cascade"))


def _compared(first: str, second: str, found: Difference) -> str:
    """ "Self-KD scores 75.0%, the cascade 83.3%: 8.3 points fewer (95% interval: 30.1 fewer to 14.2 more), no clear
    difference."."""
    scores = f"{first} scores {percent(found.first)}, {second} {percent(found.second)}: {points_text(found.mean)}"
    if found.sign is None:
        return f"{scores}, on {too_few(found.groups)}."
    unclear = "" if found.sign else ", no clear difference"
    return f"{scores} ({_ends_text(found.interval or ())}){unclear}."


def points_text(difference: float) -> str:
    """ "3.1 points more", "0.2 points fewer", "no difference"."""
    if abs(difference) < 1e-9:
        return "no difference"
    return f"{100 * abs(difference):.1f} points {'more' if difference > 0 else 'fewer'}"


def _ends_text(interval: Sequence[float]) -> str:
    """ "95% interval: 0.2 fewer to 1.4 more"; once where both ends have one sign."""
    low, high = interval
    ends = [points_text(end).replace(" points", "") for end in (low, high)]
    if low * high > 0:
        near, far = sorted((abs(low), abs(high)))
        return f"95% interval: {100 * near:.1f} to {100 * far:.1f} {'more' if low > 0 else 'fewer'}"
    return f"95% interval: {ends[0]} to {ends[1]}"


def _command(scope: Scope, modality: str, model: str = "") -> str:
    """A command that evaluates `modality` of the first run's model, or of `model`, on the same data."""
    run = next(iter(scope.group.runs.values()))
    config = run.config
    settings = {name: config[name] for name in ("url", "data", "benchmarks") if config.get(name)}
    words = ["selfkd", "evaluate", model or str(config.get("model", "MODEL"))]
    for name, value in settings.items():
        words += [f"--{name}", ",".join(value) if isinstance(value, list) else str(value)]
    words += ["--modalities", modality]
    if modality == "cascade":
        words += ["--asr_model", "openai/whisper-base"]
    return shlex.join([*words, "--output", f"{run.folder}-{modality}"])


def _overview_table(scopes: list[Scope]) -> Table:
    rows = []
    for scope in scopes:
        systems, best = scope.scores["systems"], scope.best_of_others
        closed, first = scope.scores["gap_closed"].get(best, {}), scope.audio[0] if scope.audio else ""
        accuracy = {s: percent(systems[s]["accuracy"]) if s and scope.has(s) else "–" for s in (TEXT, first, CASCADE)}
        names = [run_title(s) if s else "–" for s in (first, best)]
        audio_best = percent(systems[best]["accuracy"]) if best else "–"
        count = max(of["n"] for of in systems.values())
        gap = percent(scope.gap["gap"]) if _has_verdict(scope.gap) else "–"
        cells = [accuracy[TEXT], accuracy[first], gap, audio_best, percent(closed.get("share")), accuracy[CASCADE]]
        rows.append([scope.title, *names, f"{count:,}", *cells])
    columns = "Benchmark", "First model", "Best of the others", "n", "Text", "Audio, first", "Gap", "Audio, best"
    note = f"A gap is left out where text is at chance, and with fewer than {MIN_GROUPS} images."
    return Table("All benchmarks", [*columns, "Share closed", "Cascade"], rows, text_columns=3, note=note)
