"""Folders of spoken questions -> one HTML file: word error rate by engine and voice, and the worst cases to listen to.
Reads files alone; imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfkd.data.example import Example
from selfkd.data.folder import ExampleFolder
from selfkd.errors import InputError
from selfkd.report.media import data_uri
from selfkd.report.page import write_page
from selfkd.report.quality import Row, quality_tables, rows_of


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


def speech_report(config: SpeechReportConfig) -> Path:
    """Writes the page and returns its path; raises InputError where nothing was verified."""
    folders = [Path(d) for d in config.data]
    rows = [row for folder in folders for row in rows_of(folder)]
    heard = [row for row in rows if row.wer >= 0]
    if not heard:
        raise InputError(f"data: {', '.join(config.data)}: nothing was heard (selfkd synthesize --verify WHISPER)")
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
        "said": example.said,
        "heard": example.heard or "(nothing)",
        "wer": f"{example.word_error_rate:.2f}",
        "voice": example.voice,
        "engine": row.engine,
        "augmentation": example.augmentation,
        "rejected": example.rejected,
        "speech": data_uri(example.speech or b"", "audio/flac"),
    }
