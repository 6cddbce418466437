"""Folders of spoken questions -> one HTML file: word error rate by engine and voice, and the worst cases to listen to.
Reads files alone; imports no torch."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from jinja2 import Environment, PackageLoader

from selfkd.data.example import Example, read_manifest
from selfkd.data.folder import ExampleFolder
from selfkd.errors import InputError
from selfkd.files import write_text
from selfkd.report.build import data_uri

_FIELDS = ("id", "voice", "word_error_rate", "augmentation", "rejected")


@dataclass
class SpeechReportConfig:
    """One HTML file on how well spoken questions can be understood.

    Args:
        data: Folders that selfkd synthesize wrote, with --verify.
        output: The HTML file to write.
        items: How many of the worst cases to show, with sound.
    """

    data: list[str]
    output: Path
    items: int = 24


@dataclass(frozen=True)
class _Row:
    folder: Path
    engine: str
    at: tuple[bool, int]  # among the rejected, and where
    fields: dict[str, Any]

    @property
    def wer(self) -> float:
        return self.fields["word_error_rate"]


def speech_report(config: SpeechReportConfig) -> Path:
    """Writes the page and returns its path; raises InputError where nothing was verified."""
    rows = [row for folder in map(Path, config.data) for row in _rows(folder)]
    heard = [row for row in rows if row.wer >= 0]
    if not heard:
        raise InputError(f"data: {', '.join(config.data)}: nothing was heard (selfkd synthesize --verify WHISPER)")
    manifests = {Path(d): read_manifest(Path(d)) for d in config.data}
    reasons = Counter(_kind(r["reason"]) for manifest in manifests.values() for r in manifest["rejected"])
    worst = sorted(heard, key=lambda row: (-row.wer, row.fields["id"]))[: config.items]
    page = Environment(loader=PackageLoader("selfkd", "report"), autoescape=True).get_template("speech.html")
    html = page.render(
        title="How well the spoken questions can be understood",
        folders=[
            {**_figures(folder.name, [r for r in rows if r.folder == folder]), "recognizer": Path(m["verify"]).name}
            for folder, m in manifests.items()
        ],
        voices=_by(rows, lambda row: row.fields["voice"]),
        augmentations=_by(rows, lambda row: re.sub(r" -?\d+ dB", "", row.fields["augmentation"]) or "as spoken"),
        reasons=reasons.most_common(),
        worst=[_item(row) for row in worst],
    )
    write_text(config.output, html)
    print(f"{config.output}: {len(heard):,} spoken questions")
    return config.output


def _rows(folder: Path) -> Iterable[_Row]:
    engine = read_manifest(folder)["engine_name"]
    for rejected in (False, True):
        for i, fields in enumerate(ExampleFolder(folder, rejected).columns(*_FIELDS)):
            yield _Row(folder, engine, (rejected, i), fields)


def _by(rows: list[_Row], name_of: Callable[[_Row], str]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row.engine, name_of(row)), []).append(row)
    return [_figures(name, some) for (_, name), some in sorted(groups.items())]


def _figures(name: str, rows: list[_Row]) -> dict[str, Any]:
    rates = [row.wer for row in rows if row.wer >= 0]
    error = stdev(rates) / len(rates) ** 0.5 if len(rates) > 1 else 0.0
    return {
        "name": name,
        "engine": rows[0].engine if rows else "–",
        "n": f"{len(rows):,}",
        "wer": f"{fmean(rates):.3f} ± {error:.3f}" if rates else "–",
        "right": f"{sum(rate == 0 for rate in rates) / len(rates):.1%}" if rates else "–",
        "refused": f"{sum(bool(row.fields['rejected']) for row in rows):,}",
    }


def _kind(reason: str) -> str:
    """A reason without what is particular to its row."""
    return re.sub(r"\s*\(.*", "", re.sub(r"[-\d.]*\d", "…", reason))


def _item(row: _Row) -> dict[str, Any]:
    rejected, i = row.at
    example: Example = ExampleFolder(row.folder, rejected)[i]
    return {
        "id": example.id,
        "said": example.said,
        "heard": example.heard or "(nothing)",
        "wer": f"{example.word_error_rate:.2f}",
        "voice": example.voice,
        "engine": row.engine,
        "augmentation": example.augmentation,
        "rejected": example.rejected,
        "speech": data_uri(example.speech or b"", "audio/flac"),
    }
