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
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.files import write_text
from selfkd.report.charts import bar_chart, line_chart
from selfkd.runs import CONFIG, PROVENANCE, read_log

SYSTEMS = {
    "text": "Written (text view)",
    "sft": "Spoken, SFT",
    "selfkd": "Spoken, Self-KD",
    "cascade": "Spoken, cascade",
}
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
    samples = {
        benchmark: {s: read_samples(samples_path(runs[s], benchmark, places[s]["view"])) for s in SYSTEMS}
        for benchmark in scores
    }
    page = Environment(loader=PackageLoader("selfkd", "report"), autoescape=True).get_template("template.html")
    html = page.render(
        title=config.title,
        intro=config.intro,
        systems=SYSTEMS,
        headlines=[_headline(name, s) for name, s in scores.items()],
        bars=Markup(bar_chart(_bars(scores), "Accuracy by benchmark and system")),
        table=[_score_row(b, s, scores[b][s]) for b in scores for s in SYSTEMS],
        gaps=[_gap_row(b, scores[b], samples[b]["cascade"]) for b in scores],
        kinds=[row for b in scores for row in _kind_rows(b, samples[b])],
        curves=_curves(config.training),
        items=_items(config, samples, runs["text"]),
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


def _headline(benchmark: str, scores: dict[str, Any]) -> str:
    text, sft, selfkd, cascade = (scores[s]["accuracy"] for s in SYSTEMS)
    gap = scores["gap_closed"]
    closed = "There is no clear gap between text and SFT to close."
    if gap["share"] is not None:
        closed = f"Self-KD closes {gap['share']:.0%} of the gap that SFT leaves ({_interval(gap['interval'])})."
    return (
        f"{benchmark}: written {text:.1%}, spoken {sft:.1%} after SFT and {selfkd:.1%} after Self-KD, "
        f"cascade {cascade:.1%}. {closed}"
    )


def _bars(scores: dict[str, Any]) -> dict[str, dict[str, tuple[float, float]]]:
    return {
        benchmark: {name: (s[system]["accuracy"], s[system]["stderr"]) for system, name in SYSTEMS.items()}
        for benchmark, s in scores.items()
    }


def _score_row(benchmark: str, system: str, score: dict[str, Any]) -> dict[str, Any]:
    percents = {k: _percent(score[k]) for k in ("accuracy", "stderr", "parse_rate", "yes_rate", "true_yes_rate")}
    return {"benchmark": benchmark, "system": SYSTEMS[system], "n": score["n"], "correct": score["correct"], **percents}


def _gap_row(benchmark: str, scores: dict[str, Any], heard: list[dict[str, Any]]) -> dict[str, str]:
    gap = scores["gap_closed"]
    return {
        "benchmark": benchmark,
        "gap": _percent(scores["text"]["accuracy"] - scores["sft"]["accuracy"]),
        "share": _percent(gap["share"]),
        "interval": _interval(gap["interval"]),
        "difference": _percent(gap["selfkd_minus_sft"]),
        "difference_interval": _interval(gap["selfkd_minus_sft_interval"]),
        "heard": _percent(sum(s["heard"] == s["question"] for s in heard) / len(heard)),
    }


def _kind_rows(benchmark: str, samples: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    kinds = sorted({s["kind"] for s in samples["text"]})
    rows = []
    for kind in kinds:
        right = {system: [s["correct"] for s in items if s["kind"] == kind] for system, items in samples.items()}
        accuracies = [_percent(sum(r) / len(r)) for r in right.values()]
        rows.append({"benchmark": benchmark, "kind": kind, "n": len(right["text"]), "accuracies": accuracies})
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


def _items(config: ReportConfig, samples: dict[str, dict[str, list]], run: Path) -> list[dict[str, Any]]:
    """Items evenly spread over each benchmark, as many of one as of another."""
    folders = json.loads((run / CONFIG).read_text())["data"]
    shown = []
    for folder in map(Path, folders):
        examples = list(ExampleFolder(folder))
        by_system = samples[examples[0].source]
        count = min(len(by_system["text"]), -(-config.items // len(folders)))
        for i in range(count):
            at = i * len(by_system["text"]) // count
            shown.append(_item(examples[at], {system: items[at] for system, items in by_system.items()}))
    return shown[: config.items]


def _item(example: Example, answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": example.id,
        "question": example.question,
        "truth": example.truth,
        "voice": example.voice,
        "image": example.image and data_uri(example.image, "image/png"),
        "speech": data_uri(example.speech or b"", "audio/flac"),
        "heard": answers["cascade"]["heard"],
        "answers": [{"system": SYSTEMS[s], **answers[s]} for s in SYSTEMS],
    }


def data_uri(content: bytes, media_type: str) -> Markup:
    return Markup(f"data:{media_type};base64,{base64.b64encode(content).decode()}")
