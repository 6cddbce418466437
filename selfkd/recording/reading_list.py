"""Without a microphone at hand: the sentences as a table, as a page to print, and recordings of other devices.

`reading_list.csv` has a row for each sentence, with a name for its file. Filled in, with the names that the files have,
the speaker and the day of the consent, it is the mapping by which a folder of files becomes the recorded source.
"""

import csv
import io
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

from selfkd.errors import InputError
from selfkd.files import path_within, write_text
from selfkd.recording.sentences import IMAGES, RecordingSettings, Sentence, is_date
from selfkd.synthesis.sources.tables import delimited

READING_LIST, PAGE = "reading_list.csv", "reading_list.html"
COLUMNS = ("id", "file", "speaker", "consent_date")
_PAGE = """\
<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><title>{name}: {count} sentences to read</title>
<style>
body {{ font: 14pt/1.4 Georgia, serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #111; }}
h1 {{ font-size: 1.3em; }}
li {{ display: grid; grid-template-columns: 3.5rem 9rem 1fr; gap: 1rem; align-items: center; padding: .6rem 0;
  border-bottom: 1px solid #bbb; break-inside: avoid; }}
ol {{ list-style: none; padding: 0; }}
img {{ max-width: 9rem; max-height: 7rem; }}
small {{ color: #555; font-size: .65em; overflow-wrap: anywhere; }}
.consent {{ border: 1px solid #888; padding: 1rem; break-inside: avoid; white-space: pre-line; font-size: .85em; }}
@media (max-width: 30rem) {{ li {{ grid-template-columns: 2.5rem 1fr; }} li p {{ grid-column: 2; margin: 0; }} }}
</style></head><body>
<h1>{name}: {count} sentences to read</h1>
<p>Record each sentence in a file of its own, in a quiet room, and begin and end with half a second of silence.</p>
<div class="consent">{consent}

Name of the speaker: ______________________  Day and signature: ______________________</div>
<ol>
{rows}
</ol></body></html>
"""


class Mapped(NamedTuple):
    """A row of a mapping: the recording of a sentence, by whom, and the day of the consent."""

    sentence: Sentence
    file: Path
    speaker: str
    consent_date: str


def write_reading_list(folder: Path, settings: RecordingSettings) -> None:
    """Writes `reading_list.csv` and `reading_list.html` into a folder with the images."""
    sentences = [Sentence(**row) for row in settings["sentences"]]
    width = len(str(len(sentences)))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("id", "sentence", *COLUMNS[1:]))
    for number, sentence in enumerate(sentences, 1):
        writer.writerow((sentence.id, sentence.question, f"{number:0{width}d}.wav", "", ""))
    write_text(folder / READING_LIST, table.getvalue())
    page = _PAGE.format(
        name=escape(settings["name"]),
        language=escape(settings["language"]),
        count=len(sentences),
        consent=escape(settings["consent"]),
        rows="\n".join(_row(f"{number:0{width}d}", sentence) for number, sentence in enumerate(sentences, 1)),
    )
    write_text(folder / PAGE, page)


def _row(number: str, sentence: Sentence) -> str:
    image = f'<img src="{IMAGES}/{escape(sentence.image)}" alt="">' if sentence.image else ""
    text = f"<p>{escape(sentence.question)}<br><small>{escape(sentence.id)}</small></p>"
    return f"<li><b>{number}</b><span>{image}</span>{text}</li>"


def _table(path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from delimited(path)
    except InputError as error:
        raise InputError(str(error).replace("path: ", "mapping: ", 1)) from error


def read_mapping(path: Path, files: Path, sentences: dict[str, Sentence]) -> Iterator[Mapped]:
    """The rows of a mapping that have a file. Raises InputError, naming file and row, for a column that is missing, an
    unknown id, a file out of the folder, a speaker or a day of consent that is missing, and one sentence twice."""
    known: set[tuple[str, str]] = set()
    if not path.is_file() or path.suffix.lower() not in (".csv", ".tsv"):
        why = "neither .csv nor .tsv" if path.is_file() else "no such file"
        raise InputError(f"mapping: {path}: {why}")
    for number, row in enumerate(_table(path), 2):
        where = f"mapping: {path}: row {number}"
        if missing := [column for column in COLUMNS if column not in row]:
            raise InputError(f"{where}: no column {missing[0]!r}; there are {', '.join(row)}")
        name, file, speaker, day = (row[column].strip() for column in COLUMNS)
        if not file or not (speaker or day):  # a sentence that nobody has read yet
            continue
        if name not in sentences:
            raise InputError(f"{where}: id {name!r} is none of the {len(sentences)} sentences")
        if not speaker or not is_date(day):
            field = "speaker" if not speaker else "consent_date"
            raise InputError(
                f"{where}: {field} {row[field]!r}: a file needs its speaker, and the day of the consent as YYYY-MM-DD"
            )
        if (name, speaker) in known:
            raise InputError(f"{where}: {name!r} by {speaker!r} a second time")
        known.add((name, speaker))
        try:
            yield Mapped(sentences[name], path_within(files, file), speaker, day)
        except InputError as error:
            raise InputError(f"{where}: file {error}") from error
