"""Recorded speech with transcripts, in the layouts in which corpora are published: what stage 1 repeats.

Each reader takes the corpus as it was unpacked and gives rows whose question and answer are the transcript.
"""

import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfkd.data.as_text import as_text, refuse_utf16, tidy
from selfkd.data.example import LONGEST_SECONDS, SAMPLE_RATE_HZ
from selfkd.errors import InputError, reason_of
from selfkd.synthesis.sources.rows import Clip, Row, RowSource, answered, json_records, sample_rows
from selfkd.toy_world.tasks import REPEAT_INSTRUCTION

_GIGA_SIGNS = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
_CUTS = ("MonoCut", "MultiCut")  # of lhotse's: others are silence, or several recordings mixed
_GIGA_NOISE = ("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>")


def librispeech(folder: Path, count: int, seed: int) -> RowSource:
    """A folder with LibriSpeech's chapters in it: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside FLAC files."""
    transcripts = sorted(_folder(folder).rglob("*.trans.txt"))
    if not transcripts:
        raise InputError(f"path: {folder}: no *.trans.txt within; this is not LibriSpeech's layout")
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
    """A .tsv of Common Voice, beside its folder `clips`."""
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
    """GigaSpeech.json, beside its folder `audio`; segments of noise, and those over 30 s, are skipped and counted."""
    skipped: Counter[str] = Counter()
    return _listed("gigaspeech", _gigaspeech(path, skipped), skipped, count, seed, "as GigaSpeech's terms say")


def _gigaspeech(path: Path, skipped: Counter[str]) -> Iterator[Row]:
    for number, audio in enumerate(json_records(path, r'\s*\{.*?"audios"\s*:\s*\[')):
        with _as_published(f"path: {path}: audio {number}"):
            yield from _segments(path.parent, audio["path"], audio["aid"], audio["segments"], skipped)


def _segments(
    folder: Path, name: str, tts_engine: str, segments: Iterable[dict[str, Any]], skipped: Counter[str]
) -> Iterator[Row]:
    for segment in segments:
        text = as_text(segment["text_tn"], f"{folder / name}: segment {segment['sid']}: field text_tn")
        start, stop = float(segment["begin_time"]), float(segment["end_time"])
        if any(sign in text for sign in _GIGA_NOISE):
            skipped["noise"] += 1
        elif stop - start > LONGEST_SECONDS:
            skipped["over 30 s"] += 1
        else:
            for sign, mark in _GIGA_SIGNS.items():
                text = text.replace(f" {sign}", mark).replace(sign, mark)
            clip = Clip(folder / name, start, stop, folder=folder)
            yield _row(f"gigaspeech-{segment['sid']}", _cased(text), clip, tts_engine)


def lhotse_cuts(path: Path, count: int, seed: int) -> RowSource:
    """A lhotse manifest of cuts, .jsonl or .jsonl.gz, with one supervision each: Libriheavy's form. Recordings are
    files in the manifest's folder or below, their paths absolute or from there; of several channels the supervision's
    are read. A supervision's own texts (Libriheavy) come first."""
    skipped: Counter[str] = Counter()
    return _listed("lhotse", _cuts(path, skipped), skipped, count, seed)


def _cuts(path: Path, skipped: Counter[str]) -> Iterator[Row]:
    if not path.is_file():
        raise InputError(f"path: {path}: no such file")
    try:
        refuse_utf16(path)
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                cut = json.loads(line)
                with _as_published(f"path: {path}: line {number}"):
                    yield from _cut(cut, path, number, skipped)
    except (UnicodeDecodeError, json.JSONDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"path: {path}: not lhotse's JSON lines ({error})") from error


def _cut(cut: dict[str, Any], path: Path, number: int, skipped: Counter[str]) -> Iterator[Row]:
    where = f"path: {path}: line {number}"
    if cut.get("type", "MonoCut") not in _CUTS:
        raise InputError(f"{where}: field type: {cut['type']!r}: {' and '.join(_CUTS)} are read")
    supervisions = cut["supervisions"]
    if len(supervisions) != 1 or cut["duration"] > LONGEST_SECONDS:
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
    """Raises InputError for a recording that is to be changed when it is read: another speed, say, is other sound."""
    for transform in recording.get("transforms") or []:
        name = transform.get("name", "") if isinstance(transform, dict) else str(transform)
        rate_hz = (transform.get("kwargs") or {}).get("target_sampling_rate", 0) if isinstance(transform, dict) else 0
        if name != "Resample" or rate_hz < SAMPLE_RATE_HZ:  # to 16 kHz is where we go ourselves
            raise InputError(
                f"{where}: field recording.transforms: {name or transform!r} is not applied here; save the cuts as "
                "they sound (lhotse: CutSet.save_audios)"
            )


def _source_of(cut: dict[str, Any], supervision: dict[str, Any], where: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    """(the one file with the channels that are transcribed, their numbers in it): the supervision's, else the cut's,
    else all that there are."""
    sources = cut["recording"]["sources"]
    of_cut, of_text = (_numbers(of.get("channel"), where) for of in (cut, supervision))
    if len(sources) == 1 and "channels" not in sources[0]:  # then a number is the file's own
        sources = [sources[0] | {"channels": of_text or of_cut}]
    there = [number for source in sources for number in source["channels"]]
    wanted = of_text or of_cut or there
    missing = [number for number in wanted if number not in (of_cut or there) or number not in there]
    if missing:
        raise InputError(f"{where}: field channel: {missing[0]}: there are {of_cut or there}")
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
    some = sample_rows(answered(rows, skipped), count, seed)  # which counts what is skipped
    return RowSource(name, some, license, skipped=dict(skipped))


@contextmanager
def _as_published(where: str) -> Iterator[None]:
    """Turns what a record of another layout makes go wrong within it into an InputError that says where."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{where}: not in the published layout ({reason_of(error)})") from error


def _row(name: str, text: str, clip: Clip, tts_engine: str) -> Row:
    text = tidy(text)  # what is read out, repeated and learnt is one text
    return Row(name, text, text, f"{REPEAT_INSTRUCTION}\n", clip=clip, tts_engine=tts_engine)


def _cased(text: str) -> str:
    """Transcripts in capitals as sentences are written."""
    text = re.sub(r"\bi\b", "I", text.lower()) if text.isupper() else text
    return re.sub(r"(^|[.?!] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"path: {path}: no such folder")
    return path
