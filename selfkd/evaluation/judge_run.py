"""The wrong replies of an evaluation run before a judge: are they on topic, as the paper holds, or not?

Reads a run's samples; writes `judged/BENCHMARK.VIEW.jsonl` and `judged.json` into the run. A run that was cut short
goes on with the replies that have no verdict of this judge. The judge is asked about labelled replies too, so that its
figures stand beside how far it agrees with the labels.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from selfkd.errors import InputError
from selfkd.evaluation.asker import Asker
from selfkd.evaluation.judge import (
    PROMPT,
    PROMPT_VERSION,
    Verdict,
    agreement,
    agreement_told,
    judge_each,
    judge_messages,
)
from selfkd.evaluation.overlap import overlap
from selfkd.evaluation.resampling import clustered_stderr
from selfkd.evaluation.samples import keep_whole_lines, read_samples, whole_lines
from selfkd.evaluation.statistics import groups_in
from selfkd.evaluation.systems import endpoint_settings
from selfkd.evaluation.uncertainty import score_interval
from selfkd.evaluation.usage import USAGE, kept_usage
from selfkd.files import read_json, write_json

JUDGED = "judged"
LABELLED = Path(__file__).with_name("judge_labels.jsonl")  # by hand, by the author of this package


@dataclass
class JudgeConfig:
    """Are wrong replies on topic? A judge over any OpenAI-compatible endpoint, and a free measure by words beside it.

    Args:
        run: Evaluation run.
        model: The endpoint's name of the judge; without it the measure by words alone is taken.
        url: Base URL of the endpoint; OpenAI's by default. Its key comes from OPENAI_API_KEY.
        endpoint: How it is asked: {concurrency: 8, budget: 5, price_in: 2.5, price_out: 10}.
    """

    run: Path
    model: str = ""
    url: str = ""
    endpoint: dict[str, Any] = field(default_factory=dict)


def judge_run(config: JudgeConfig) -> dict[str, Any]:
    """Returns and writes {benchmark.view: figures}: wrong replies, those with a verdict, the share on topic.
    `judged.json` says beside them who judged, with what prompt, and how far it agrees with labels.

    Raises InputError, when all that came is written, where the endpoint or the budget gave out before the end."""
    paths = sorted((config.run / "samples").glob("*.jsonl"))
    if not paths:
        raise InputError(f"run: {config.run}: holds no samples (selfkd evaluate writes them)")
    settings = endpoint_settings(config.endpoint)
    wrong = {p: [s for s in read_samples(p) if not s["error"] and not s["correct"]] for p in paths}
    verdicts: dict[Path, dict[str, Any]] = {path: {} for path in paths}
    about: dict[str, Any] = {}
    if config.model:
        folder = config.run / JUDGED
        with kept_usage(folder / USAGE, config.model) as usage:
            asker = Asker(config.url, config.model, settings, usage)
            labels = _judged(
                folder / LABELLED.name, labelled_replies(), asker, "labels"
            )  # first: whether to believe it
            verdicts = {path: _judged(folder / path.name, wrong[path], asker, path.stem) for path in paths}
        agrees = _agreement(labels)
        about = {"judge": config.model, "prompt_version": PROMPT_VERSION, "prompt": PROMPT, "agreement": agrees}
    figures = {path.stem: _figures(wrong[path], verdicts[path]) for path in paths}
    told = config.run / "judged.json"
    if not config.model and told.is_file() and (before := read_json(told))["about"]:
        figures = before["figures"]  # a judge's, and the measure by words beside them
    else:
        write_json(told, {"about": about, "figures": figures})
    Console().print(_table(figures))
    if config.model:
        print(f"{config.model}: {agreement_told(about['agreement'])}")
        lost = [v for of in (labels, *verdicts.values()) for v in of.values() if not v.get("asked", True)]
        if lost:
            raise InputError(
                f"{len(lost)} replies have no verdict, the first because: {lost[0]['error']} (the same command asks "
                "for them; the figures are of the others)"
            )
    return figures


def labelled_replies() -> list[dict[str, Any]]:
    """Replies made up for this with their label (`on_topic`), as items that a judge can be asked about."""
    return [{"id": f"label-{i}", **reply} for i, reply in enumerate(map(json.loads, whole_lines(LABELLED)))]


def _agreement(verdicts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    items = labelled_replies()
    given = [verdicts[item["id"]]["on_topic"] for item in items]
    return agreement([Verdict(on_topic) for on_topic in given], [item["on_topic"] for item in items])


def _judged(path: Path, wrong: Sequence[dict[str, Any]], asker: Asker, title: str) -> dict[str, dict[str, Any]]:
    """{id: verdict}. Verdicts are appended as they come; one without an answer is asked for again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    keep_whole_lines(path)
    # verdicts of another judge, or on another reply, stay in the file and count for nothing
    asked = {s["id"]: _asked(asker, s) for s in wrong}
    there = map(json.loads, whole_lines(path))
    known = {v["id"]: v for v in there if not v["error"] and v["id"] in asked and v.get("of") == asked[v["id"]]}
    left = [s for s in wrong if s["id"] not in known]
    with path.open("a", encoding="utf-8") as file:
        for at, verdict in tqdm(judge_each(left, asker), title, len(left), unit="verdict", disable=not left):
            name = left[at]["id"]
            known[name] = {"id": name, "judge": asker.model, "of": asked[name], **asdict(verdict)}
            file.write(json.dumps(known[name], ensure_ascii=False) + "\n")
            file.flush()
    return known


def _asked(asker: Asker, sample: dict[str, Any]) -> str:
    """A hash of who is asked what: a verdict is one on this reply, by this judge, with these fields of the request."""
    asked = asker.model, asker.settings.extra, judge_messages(sample)
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _figures(wrong: Sequence[dict[str, Any]], verdicts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    given = [(s, verdicts[s["id"]]["on_topic"]) for s in wrong if s["id"] in verdicts]
    judged = [(s, float(on_topic)) for s, on_topic in given if on_topic is not None]
    said = [on_topic for _, on_topic in judged]
    groups = groups_in([s for s, _ in judged])
    return {
        "wrong": len(wrong),
        "judged": len(said),
        "on_topic": fmean(said) if said else None,
        "stderr": clustered_stderr(said, groups) if said else None,
        "interval": score_interval(said, groups) if said else None,
        "overlap": fmean(overlap(s["question"], s["reply"]) for s in wrong) if wrong else None,
    }


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title="Wrong replies: on topic or not")
    for column in ("benchmark and view", "wrong", "judged", "on topic", "by words"):
        table.add_column(column, justify="left" if column.startswith("bench") else "right")
    for name, f in figures.items():
        error = "" if f["stderr"] is None else f" ({100 * f['stderr']:.1f})"
        topic = "–" if f["on_topic"] is None else f"{100 * f['on_topic']:.1f}{error}"
        words = "–" if f["overlap"] is None else f"{100 * f['overlap']:.1f}"
        table.add_row(name, str(f["wrong"]), str(f["judged"]), topic, words)
    return table
