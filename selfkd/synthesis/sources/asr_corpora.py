"""Recorded speech with transcripts, in the layouts in which corpora are published: data of stage 1.

Each reader takes the unpacked corpus and gives rows whose question and answer are the transcript.
"""

import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfkd.data.as_text import as_text, refuse_utf16, tidy
from selfkd.data.example import MAX_AUDIO_SECONDS, SAMPLE_RATE_HZ
from selfkd.errors import InputError, reason_of
from selfkd.json_files import lines_of, parse_json
from selfkd.synthesis.sources.rows import Clip, Row, RowSource, drop_unanswered, json_records, sample_rows
from selfkd.toy_world.tasks import REPEAT_INSTRUCTION

_GIGASPEECH_PUNCTUATION = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
_CUTS = ("MonoCut", "MultiCut")  # of lhotse; other cuts are silence, or several recordings mixed
_GIGASPEECH_NOISE = ("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>")


def librispeech(folder: Path, count: int, seed: int) -> RowSource:
    """A folder with LibriSpeech's chapters in it: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt next to FLAC files."""
    transcripts = sorted(_folder(folder).rglob("*.trans.txt"))
    if not transcripts:
        raise InputError(f"path: {folder}: no *.trans.txt in it; this is not LibriSpeech's layout")
    return _listed("librispeech", _librispeech(transcripts), Counter(), count, seed, "CC-BY-4.0")


def _librispeech(transcripts: Iterable[Path]) -> Iterator[Row]:
    for path in transcripts:
        try:
            refuse_utf16(path)
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"path: {path}: not text in UTF-8 ({error})") from error
        for line in filter(str.strip, lines):
            name, _, text = line.partition(" ")
            yield _row(
                f"librispeech-{name}",
                _cased(text),
                Clip(path.parent / f"{name}.flac", folder=path.parent),
                name.partition("-")[0],
            )


def common_voice(path: Path, count: int, seed: int) -> RowSource:
    """A .tsv of Common Voice, next to its folder `clips`."""
    if not path.is_file():
        raise InputError(f"path: {path}: no such file; give one of Common Voice's .tsv files")
    needed = ("path", "sentence", "client_id")
    try:
        refuse_utf16(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"path: {path}: not a table in UTF-8 ({error})") from error
    missing = [c for c in needed if table and c not in table[0]]
    if missing or not table:
        raise InputError(f"path: {path}: {f'no column {missing[0]!r}' if missing else 'no rows'}")
    for number, row in enumerate(table, 2):
        if None in map(row.get, needed):
            raise InputError(f"path: {path}: line {number}: fewer columns than in the first line")
    rows = (
        _row(
            f"common-voice-{Path(r['path']).stem}",
            r["sentence"],
            Clip(path.parent / "clips" / r["path"], folder=path.parent / "clips"),
            r["client_id"][:12],
        )
        for r in table
    )
    return _listed("common-voice", rows, Counter(), count, seed, "CC0-1.0")


def gigaspeech(path: Path, count: int, seed: int) -> RowSource:
    """GigaSpeech.json, next to its folder `audio`; segments of noise, and those over 30 s, are skipped and counted."""
    skipped: Counter[str] = Counter()
    return _listed("gigaspeech", _gigaspeech(path, skipped), skipped, count, seed, "as GigaSpeech's terms say")


def _gigaspeech(path: Path, skipped: Counter[str]) -> Iterator[Row]:
    for number, audio in enumerate(json_records(path, r'\s*\{.*?"audios"\s*:\s*\[')):
        with in_published_layout(f"path: {path}: audio {number}"):
            yield from _segments(path.parent, audio["path"], audio["aid"], audio["segments"], skipped)


def _segments(
    folder: Path, name: str, speaker: str, segments: Iterable[dict[str, Any]], skipped: Counter[str]
) -> Iterator[Row]:
    for segment in segments:
        text = as_text(segment["text_tn"], f"{folder / name}: segment {segment['sid']}: field text_tn")
        start, stop = float(segment["begin_time"]), float(segment["end_time"])
        if any(tag in text for tag in _GIGASPEECH_NOISE):
            skipped["noise"] += 1
        elif stop - start > MAX_AUDIO_SECONDS:
            skipped["over 30 s"] += 1
        else:
            for tag, mark in _GIGASPEECH_PUNCTUATION.items():
                text = text.replace(f" {tag}", mark).replace(tag, mark)
            clip = Clip(folder / name, start, stop, folder=folder)
            yield _row(f"gigaspeech-{segment['sid']}", _cased(text), clip, speaker)


def lhotse_cuts(path: Path, count: int, seed: int) -> RowSource:
    """A lhotse manifest of cuts, .jsonl or .jsonl.gz, with one supervision each: Libriheavy's form. Recordings are
    files in the manifest's folder or below, their paths absolute or relative to it; of several channels the
    supervision's are read. A supervision's own texts (Libriheavy) take precedence."""
    skipped: Counter[str] = Counter()
    return _listed("lhotse", _cuts(path, skipped), skipped, count, seed)


def _cuts(path: Path, skipped: Counter[str]) -> Iterator[Row]:
    if not path.is_file():
        raise InputError(f"path: {path}: no such file")
    try:
        refuse_utf16(path)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(lines_of(file, f"path: {path}"), 1):
                if not line.strip():
                    continue
                try:
                    cut = parse_json(line.removeprefix(b"\xef\xbb\xbf"))
                except ValueError as error:
                    reason = f"not lhotse's JSON lines ({error})"
                    raise InputError(f"path: {path}: line {number}: {reason}") from error
                with in_published_layout(f"path: {path}: line {number}"):
                    yield from _cut(cut, path, number, skipped)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"path: {path}: not lhotse's JSON lines ({error})") from error


def _cut(cut: dict[str, Any], path: Path, number: int, skipped: Counter[str]) -> Iterator[Row]:
    where = f"path: {path}: line {number}"
    if cut.get("type", "MonoCut") not in _CUTS:
        raise InputError(f"{where}: field type: {cut['type']!r}: {' and '.join(_CUTS)} are read")
    supervisions = cut["supervisions"]
    if len(supervisions) != 1 or cut["duration"] > MAX_AUDIO_SECONDS:
        skipped["not one supervision" if len(supervisions) != 1 else "over 30 s"] += 1
        return
    _check_as_recorded(cut["recording"], where)
    source, channels = _source_of(cut, supervisions[0], where)
    own_texts = (supervisions[0].get("custom") or {}).get("texts") or []
    text = own_texts[0] if own_texts else supervisions[0].get("text")
    text = as_text(text, f"{where}: field supervisions.text")
    start = cut["start"]
    clip = Clip(path.parent / source["source"], start, start + cut["duration"], channels, path.parent)
    yield _row(f"lhotse-{cut['id']}", " ".join(text.split()), clip, str(supervisions[0].get("speaker") or ""))


def _check_as_recorded(recording: dict[str, Any], where: str) -> None:
    """Raises InputError for a recording with a transform, which is not applied here: another speed is other audio."""
    for transform in recording.get("transforms") or []:
        name = transform.get("name", "") if isinstance(transform, dict) else str(transform)
        rate_hz = (transform.get("kwargs") or {}).get("target_sampling_rate", 0) if isinstance(transform, dict) else 0
        if name != "Resample" or rate_hz < SAMPLE_RATE_HZ:  # audio is resampled to 16 kHz anyway
            raise InputError(
                f"{where}: field recording.transforms: {name or transform!r} is not applied here; save the "
                "transformed audio (lhotse: CutSet.save_audios)"
            )


def _source_of(cut: dict[str, Any], supervision: dict[str, Any], where: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    """(the one file with the transcribed channels, their indices in it): the supervision's channels, else the cut's,
    else all."""
    sources = cut["recording"]["sources"]
    of_cut, of_text = (_numbers(entry.get("channel"), where) for entry in (cut, supervision))
    if len(sources) == 1 and "channels" not in sources[0]:  # then a channel is an index in the file
        sources = [sources[0] | {"channels": of_text or of_cut}]
    available = [number for source in sources for number in source["channels"]]
    wanted = of_text or of_cut or available
    missing = [number for number in wanted if number not in (of_cut or available) or number not in available]
    if missing:
        raise InputError(f"{where}: field channel: {missing[0]}: there are {of_cut or available}")
    holding = [source for source in sources if set(wanted) & set(source["channels"])] if wanted else sources
    if len(holding) != 1 or holding[0]["type"] != "file":
        raise InputError(f"{where}: field recording.sources: not one file")
    return holding[0], tuple(holding[0]["channels"].index(number) for number in wanted)


def _numbers(channel: Any, where: str) -> list[int]:
    numbers = [] if channel is None else channel if isinstance(channel, list) else [channel]
    if not all(type(number) is int for number in numbers):
        raise InputError(f"{where}: field channel: {channel!r}: neither a number nor a list of them")
    return sorted(set(numbers))


def _listed(
    name: str, rows: Iterable[Row], skipped: Counter[str], count: int, seed: int, license: str = "not stated"
) -> RowSource:
    sample = sample_rows(drop_unanswered(rows, skipped), count, seed)  # counts the skipped rows
    return RowSource(name, sample, license, skipped=dict(skipped))


@contextmanager
def in_published_layout(where: str) -> Iterator[None]:
    """Turns an error that a record of another layout causes into an InputError that names the record."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{where}: not in the published layout ({reason_of(error)})") from error


def _row(name: str, text: str, clip: Clip, speaker: str) -> Row:
    text = tidy(text)  # one text for transcript, response and CTC labels
    return Row(name, text, text, f"{REPEAT_INSTRUCTION}\n", clips=(clip,), speaker=speaker, question_type="repeat")


def _cased(text: str) -> str:
    """Transcripts in capitals in sentence case."""
    text = re.sub(r"\bi\b", "I", text.lower()) if text.isupper() else text
    return re.sub(r"(^|[.?!] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"path: {path}: no such folder")
    return path
