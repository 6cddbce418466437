"""A comparison and the runs behind it -> one HTML file that opens from disk. Reads files alone; imports no torch."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from selfkd.data.example import Example
from selfkd.data.folder import ExampleFolder
from selfkd.errors import InputError
from selfkd.evaluation.samples import QUESTIONS, read_samples, samples_path
from selfkd.files import write_text
from selfkd.report.charts import bar_chart, line_chart
from selfkd.runs import PROVENANCE, read_log

LABELS = {"text": "Written", "sft": "Spoken, SFT", "selfkd": "Spoken, Self-KD", "cascade": "Spoken, cascade"}
_CURVES = {"sft_per_token": "Cross-entropy to the labels", "kl_per_token": "KL(teacher || student)"}


@dataclass
class ReportConfig:
    """One HTML file from a comparison.

    Args:
        comparison: Folder with scores.json (the output of selfkd compare).
        output: The HTML file to write.
        training: Training runs whose loss curves are shown.
        title: Title of the page.
        intro: Sentences under the title, say on the data.
        items: How many items to show.
    """

    comparison: Path
    output: Path
    training: list[str] = field(default_factory=list)
    title: str = "Written against spoken questions"
    intro: list[str] = field(default_factory=list)
    items: int = 12


def report(config: ReportConfig) -> Path:
    """Writes the page and returns its path."""
    scores, places = (_read(config.comparison / name) for name in ("scores.json", "comparison.json"))
    runs = {system: config.comparison / place["run"] for system, place in places.items()}
    names = {s: LABELS.get(s, f"Spoken, {s}") for s in places}
    samples = {
        benchmark: {s: read_samples(samples_path(runs[s], benchmark, place["view"])) for s, place in places.items()}
        for benchmark in scores
    }
    page = Environment(loader=PackageLoader("selfkd", "report"), autoescape=True).get_template("template.html")
    html = page.render(
        title=config.title,
        intro=config.intro,
        systems=names,
        headlines=[_headline(name, s, names) for name, s in scores.items()],
        bars=Markup(bar_chart(_bars(scores, names), "Accuracy by benchmark and system")),
        table=[_score_row(b, names[s], score) for b in scores for s, score in scores[b]["systems"].items()],
        gaps=[_gap_row(b, names[s], gap) for b in scores for s, gap in scores[b]["gap"].items()],
        closed=[_closed_row(b, names, s, c) for b in scores for s, c in scores[b]["gap_closed"].items()],
        kinds=[row for b in scores for row in _kind_rows(b, samples[b])],
        curves=_curves(config.training),
        items=_items(config, samples, runs["text"], names),
        provenance=_read(runs["text"] / PROVENANCE),
    )
    write_text(config.output, html)
    return config.output


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: not found (selfkd compare writes it)")
    return json.loads(path.read_text())


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _interval(pair: list[float] | None) -> str:
    return "–" if pair is None else f"{pair[0]:.1%} to {pair[1]:.1%}"


def _headline(benchmark: str, scores: dict[str, Any], names: dict[str, str]) -> str:
    said = "; ".join(
        f"{names[s][0].lower()}{names[s][1:]} {score['accuracy']:.1%}" for s, score in scores["systems"].items()
    )
    models = {system: name.removeprefix("Spoken, ") for system, name in names.items()}
    closed = [
        f"{models[s]} closes {c['share']:.0%} of the gap that {models[c['of']]} leaves ({_interval(c['interval'])})."
        for s, c in scores["gap_closed"].items()
        if c["share"] is not None
    ]
    if scores["gap_closed"] and not closed:
        closed = ["There is no clear gap to close."]
    return " ".join([f"{benchmark}: {said}.", *closed])


def _bars(scores: dict[str, Any], names: dict[str, str]) -> dict[str, dict[str, tuple[float, float]]]:
    return {
        benchmark: {names[s]: (score["accuracy"], score["stderr"] or 0.0) for s, score in of["systems"].items()}
        for benchmark, of in scores.items()
    }


def _score_row(benchmark: str, system: str, score: dict[str, Any]) -> dict[str, Any]:
    percents = {k: _percent(score[k]) for k in ("accuracy", "stderr", "parse_rate", "yes_rate", "true_yes_rate")}
    official = ", ".join(f"{name} {value:.1f}" for name, value in list(score["figures"].items())[:1]) or "–"
    counts = {k: score[k] for k in ("n", "failed", "correct")}
    return {"benchmark": benchmark, "system": system, "official": official, **counts, **percents}


def _gap_row(benchmark: str, system: str, gap: dict[str, Any]) -> dict[str, Any]:
    shown = {"gap": _percent(gap["gap"]), "interval": _interval(gap["gap_interval"]), "p": f"{gap['mcnemar_p']:.2g}"}
    agreement = {k: gap[k] for k in ("n", "both_right", "only_written", "only_spoken", "neither")}
    return {"benchmark": benchmark, "system": system, **shown, **agreement}


def _closed_row(benchmark: str, names: dict[str, str], system: str, closed: dict[str, Any]) -> dict[str, str]:
    return {
        "benchmark": benchmark,
        "system": names[system],
        "of": names[closed["of"]],
        "share": _percent(closed["share"]),
        "interval": _interval(closed["interval"]),
        "difference": _percent(closed["difference"]),
        "difference_interval": _interval(closed["difference_interval"]),
    }


def _kind_rows(benchmark: str, samples: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """By kind of question, or by category where all questions are of one kind."""
    by = "kind" if len({s["kind"] for s in samples["text"]}) > 1 else "category"
    rows = []
    for value in sorted({s[by] for s in samples["text"]}):
        some = {name: [s for s in items if s[by] == value and not s["error"]] for name, items in samples.items()}
        means = [_percent(sum(s["score"] for s in of) / len(of)) if of else "–" for of in some.values()]
        rows.append({"benchmark": benchmark, "kind": value or "–", "n": len(some["text"]), "accuracies": means})
    return rows


def _curves(runs: list[str]) -> list[dict[str, Any]]:
    """One chart for each figure that was logged; a run keeps its colour in all of them."""
    logs = {run.name: read_log(run) for run in map(Path, runs)}
    curves = []
    for key, title in _CURVES.items():
        lines = {n: [(e["step"], e[key]) for e in log if e.get(key)] for n, log in logs.items()}
        names = {name: color for color, name in enumerate(lines) if lines[name]}
        if names:
            curves.append({"title": title, "names": names, "svg": Markup(line_chart(lines, title))})
    return curves


def _items(
    config: ReportConfig, samples: dict[str, dict[str, list]], run: Path, names: dict[str, str]
) -> list[dict[str, Any]]:
    """Items evenly spread over each benchmark, as many of one as of another."""
    folders, shown = _read(run / QUESTIONS), []
    for benchmark, by_system in samples.items():
        folder = run / folders[benchmark]
        if not folder.is_dir():
            continue  # the spoken questions have been deleted since
        examples = ExampleFolder(folder)
        count = min(len(by_system["text"]), -(-config.items // len(samples)))
        for i in range(count):
            at = i * len(by_system["text"]) // count
            shown.append(_item(examples[at], {s: items[at] for s, items in by_system.items()}, names))
    return shown[: config.items]


def _item(example: Example, answers: dict[str, dict[str, Any]], names: dict[str, str]) -> dict[str, Any]:
    return {
        "id": example.id,
        "question": example.question,
        "truth": example.truth,
        "voice": example.voice,
        "image": example.image and data_uri(example.image, "image/png"),
        "speech": data_uri(example.speech or b"", "audio/flac"),
        "heard": next((a["heard"] for a in answers.values() if a["heard"]), ""),
        "answers": [{"system": names[s], **answer} for s, answer in answers.items()],
    }


def data_uri(content: bytes, media_type: str) -> Markup:
    return Markup(f"data:{media_type};base64,{base64.b64encode(content).decode()}")
