"""Quality of synthesized audio: word error rate of an ASR model by engine, voice and augmentation, and rejected rows.

Also a page of its own (`selfkd data report`) with the rows of the highest error and their audio. Reads files only;
imports no torch.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example, ReportedManifest, read_manifest
from selfkd.errors import InputError
from selfkd.evaluation.uncertainty import clustered_stderr
from selfkd.report.charts import Table
from selfkd.report.data_uris import data_uri
from selfkd.report.html import write_page
from selfkd.report.inputs import DATA, RunFolder

_FIELDS = ("id", "voice", "word_error_rate", "augmentation", "rejected")
_METRIC_COLUMNS = ("Rows", "Mean WER", "Exact transcripts", "Rejected")


@dataclass(frozen=True)
class Row:
    """An audio query, kept or rejected."""

    folder: Path
    engine: str
    at: tuple[bool, int]  # whether it is rejected, and its position in the folder
    fields: dict[str, Any]

    @property
    def wer(self) -> float:
        return self.fields["word_error_rate"]


def audio_quality_section(runs: list[RunFolder]) -> dict[str, Any] | None:
    folders = [run.folder for run in runs if run.kind == DATA]
    if not folders:
        return None
    rows = [row for folder in folders for row in rows_of(folder)]
    tables, transcribed = quality_tables(folders, rows), any(row.wer >= 0 for row in rows)
    # without transcripts the tables by voice and by augmentation have no metrics
    shown = tables if transcribed else [t for t in tables if t.text_columns != 2]
    return {"tables": shown, "transcribed": transcribed}


def rows_of(folder: Path) -> Iterable[Row]:
    engine = read_manifest(folder, ReportedManifest)["engine_name"]
    for rejected in (False, True):
        for i, fields in enumerate(ExampleFolder(folder, rejected).columns(*_FIELDS)):
            yield Row(folder, engine, (rejected, i), fields)


def quality_tables(folders: Sequence[Path], rows: Sequence[Row]) -> list[Table]:
    """By folder, by voice, by augmentation where there is one, and the reasons for which rows were rejected."""
    manifests = {folder: read_manifest(folder, ReportedManifest) for folder in folders}
    by_folder = []
    for folder, manifest in manifests.items():
        in_folder = [row for row in rows if row.folder == folder]
        asr_model = Path(manifest["asr_filter"]).name or "none"
        by_folder.append([folder.name, manifest["engine_name"], asr_model, *_metrics(in_folder)])
    voices = _grouped(rows, lambda row: row.fields["voice"])
    augmentations = _grouped(rows, lambda row: re.sub(r" -?\d+ dB", "", row.fields["augmentation"]) or "none")
    reasons = Counter(_general_reason(r["reason"]) for manifest in manifests.values() for r in manifest["rejected"])
    tables = [
        Table("By engine", ["Data", "Engine", "ASR model", *_METRIC_COLUMNS], by_folder, text_columns=3),
        Table("By voice", ["Voice", "Engine", *_METRIC_COLUMNS], voices),
    ]
    if len(augmentations) > 1:
        tables.append(Table("By augmentation", ["Augmentation", "Engine", *_METRIC_COLUMNS], augmentations))
    if reasons:
        counted = [[reason, f"{count:,}"] for reason, count in reasons.most_common()]
        tables.append(Table("Reasons for rejection", ["Reason", "Rows"], counted, text_columns=1))
    return tables


def _grouped(rows: Sequence[Row], name_of: Callable[[Row], str]) -> list[list[str]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.engine, name_of(row)), []).append(row)
    return [[name, engine, *_metrics(group)] for (engine, name), group in sorted(groups.items())]


def _metrics(rows: Sequence[Row]) -> list[str]:
    rates = [row.wer for row in rows if row.wer >= 0]
    error = clustered_stderr(rates) if rates else None
    return [
        f"{len(rows):,}",
        f"{fmean(rates):.3f}" + ("" if error is None else f" ± {error:.3f}") if rates else "–",
        f"{sum(rate == 0 for rate in rates) / len(rates):.1%}" if rates else "–",
        f"{sum(bool(row.fields['rejected']) for row in rows):,}",
    ]


def _general_reason(reason: str) -> str:
    """A reason without the numbers and paths of its row."""
    return re.sub(r"(?<![-\d.])[-\d.]*\d", "…", reason).partition("(")[0].rstrip()


@dataclass
class AudioQualityConfig:
    """One HTML file on how intelligible synthesized audio is, by an ASR model.

    Args:
        data: Folders that selfkd synthesize wrote, with --asr_filter.
        output: The HTML file to write.
        items: How many rows of the highest word error rate to show, with audio.
    """

    data: list[str]
    output: Path
    items: int = 24


def audio_quality_report(config: AudioQualityConfig) -> Path:
    """Writes the page and returns its path; raises InputError where no row has a transcript."""
    folders = [Path(d) for d in config.data]
    rows = [row for folder in folders for row in rows_of(folder)]
    transcribed = [row for row in rows if row.wer >= 0]
    if not transcribed:
        raise InputError(f"data: {', '.join(config.data)}: no transcripts (selfkd synthesize --asr_filter WHISPER)")
    worst = sorted(transcribed, key=lambda row: (-row.wer, row.fields["id"]))[: config.items]
    write_page(
        config.output,
        "audio_quality.html",
        title="Quality of synthesized audio",
        tables=quality_tables(folders, rows),
        worst=[_item(row) for row in worst],
    )
    print(f"{config.output}: {len(transcribed):,} transcribed rows")
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
