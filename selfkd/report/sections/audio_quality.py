"""How well synthesized speech is understood: word error rate by folder, engine, voice and effect, rejected rows.

Also a page of its own (`selfkd data report`) with the worst cases to listen to. Reads files alone; imports no torch.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example, read_manifest
from selfkd.errors import InputError
from selfkd.evaluation.uncertainty import clustered_stderr
from selfkd.report.charts import Table
from selfkd.report.html import data_uri, write_page
from selfkd.report.inputs import DATA, RunFolder

_FIELDS = ("id", "voice", "word_error_rate", "augmentation", "rejected")
_FIGURES = ("Spoken", "Mean WER", "Heard right", "Refused")


@dataclass(frozen=True)
class Row:
    """A spoken question, kept or refused."""

    folder: Path
    engine: str
    at: tuple[bool, int]  # among the rejected, and where
    fields: dict[str, Any]

    @property
    def wer(self) -> float:
        return self.fields["word_error_rate"]


def quality_section(runs: list[RunFolder]) -> dict[str, Any] | None:
    folders = [run.folder for run in runs if run.kind == DATA]
    if not folders:
        return None
    rows = [row for folder in folders for row in rows_of(folder)]
    tables, heard = quality_tables(folders, rows), any(row.wer >= 0 for row in rows)
    # of voices that nobody listened to there is nothing to say
    return {"tables": tables if heard else [t for t in tables if t.words != 2], "transcript": heard}


def rows_of(folder: Path) -> Iterable[Row]:
    engine = read_manifest(folder)["engine_name"]
    for rejected in (False, True):
        for i, fields in enumerate(ExampleFolder(folder, rejected).columns(*_FIELDS)):
            yield Row(folder, engine, (rejected, i), fields)


def quality_tables(folders: Sequence[Path], rows: Sequence[Row]) -> list[Table]:
    """By folder, by voice, by what was done to the voice where something was, and the reasons of what was refused."""
    manifests = {folder: read_manifest(folder) for folder in folders}
    by_folder = []
    for folder, manifest in manifests.items():
        some = [row for row in rows if row.folder == folder]
        asr_model = Path(manifest["asr_filter"]).name or "nobody listened"
        by_folder.append([folder.name, manifest["engine_name"], asr_model, *_figures(some)])
    voices = _by(rows, lambda row: row.fields["voice"])
    effects = _by(rows, lambda row: re.sub(r" -?\d+ dB", "", row.fields["augmentation"]) or "as spoken")
    reasons = Counter(_kind(r["reason"]) for manifest in manifests.values() for r in manifest["rejected"])
    tables = [
        Table("By engine", ["Data", "Engine", "Recogniser", *_FIGURES], by_folder, words=3),
        Table("By voice", ["Voice", "Engine", *_FIGURES], voices),
    ]
    if len(effects) > 1:
        tables.append(Table("By what was done to the voice", ["Heard", "Engine", *_FIGURES], effects))
    if reasons:
        counted = [[reason, f"{count:,}"] for reason, count in reasons.most_common()]
        tables.append(Table("Why rows were refused", ["Reason", "Rows"], counted, words=1))
    return tables


def _by(rows: Sequence[Row], name_of: Callable[[Row], str]) -> list[list[str]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.engine, name_of(row)), []).append(row)
    return [[name, engine, *_figures(some)] for (engine, name), some in sorted(groups.items())]


def _figures(rows: Sequence[Row]) -> list[str]:
    rates = [row.wer for row in rows if row.wer >= 0]
    error = clustered_stderr(rates) if rates else None
    return [
        f"{len(rows):,}",
        f"{fmean(rates):.3f}" + ("" if error is None else f" ± {error:.3f}") if rates else "–",
        f"{sum(rate == 0 for rate in rates) / len(rates):.1%}" if rates else "–",
        f"{sum(bool(row.fields['rejected']) for row in rows):,}",
    ]


def _kind(reason: str) -> str:
    """A reason without what is particular to its row."""
    return re.sub(r"\s*\(.*", "", re.sub(r"[-\d.]*\d", "…", reason))


@dataclass
class AudioReportConfig:
    """One HTML file on how well spoken questions can be understood.

    Args:
        data: Folders that selfkd synthesize wrote, with --asr_filter.
        output: The HTML file to write.
        items: How many of the worst cases to show, with sound.
    """

    data: list[str]
    output: Path
    items: int = 24


def speech_report(config: AudioReportConfig) -> Path:
    """Writes the page and returns its path; raises InputError where nothing was verified."""
    folders = [Path(d) for d in config.data]
    rows = [row for folder in folders for row in rows_of(folder)]
    heard = [row for row in rows if row.wer >= 0]
    if not heard:
        raise InputError(f"data: {', '.join(config.data)}: nothing was heard (selfkd synthesize --asr_filter WHISPER)")
    worst = sorted(heard, key=lambda row: (-row.wer, row.fields["id"]))[: config.items]
    write_page(
        config.output,
        "speech.html",
        title="How well the spoken questions can be understood",
        tables=quality_tables(folders, rows),
        worst=[_item(row) for row in worst],
    )
    print(f"{config.output}: {len(heard):,} spoken questions")
    return config.output


def _item(row: Row) -> dict[str, Any]:
    rejected, i = row.at
    example: Example = ExampleFolder(row.folder, rejected)[i]
    return {
        "id": example.id,
        "spoken_text": example.spoken_text,
        "transcript": example.transcript or "(nothing)",
        "wer": f"{example.word_error_rate:.2f}",
        "voice": example.voice,
        "engine": row.engine,
        "augmentation": example.augmentation,
        "rejected": example.rejected,
        "audio": data_uri(example.audio or b"", "audio/flac"),
    }
