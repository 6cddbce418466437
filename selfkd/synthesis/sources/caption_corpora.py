"""Captions of images that people have read aloud or made up aloud, in the layouts in which they are published: human
speech about images, for stage 1.

A row is to be repeated, as those of `asr_corpora.py` are; it has its image where `--images` gives the folder. The split
is by image, by a hash of its name: COCO's images have the same split in SpokenCOCO, SPEECH-COCO and Localized
Narratives. With `--split_by speaker` it is by who speaks: no voice of a split is in another one.
"""

import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

from selfkd.data.as_text import as_text, refuse_utf16, tidy
from selfkd.data.example import MAX_AUDIO_SECONDS
from selfkd.data.lazy_images import ImageInFolder
from selfkd.data.trace import points_in_order, traced_words
from selfkd.errors import InputError
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.sources.asr_corpora import in_published_layout
from selfkd.synthesis.sources.rows import Clip, Row, RowSource, drop_unanswered, json_records, sample_rows
from selfkd.synthesis.sources.tables import json_lines_records
from selfkd.toy_world.scenes import Split
from selfkd.toy_world.tasks import REPEAT_INSTRUCTION

COCO_LICENSE = "as its publishers state (SpokenCOCO); captions and images are COCO's"
NARRATIVES_LICENSE = "CC-BY-4.0 (Localized Narratives); the images have their own"
SPEECH_COCO_LICENSE = "CC-BY-4.0 (SPEECH-COCO); captions and images are COCO's"
FLICKR8K_LICENSE = "CC-BY-SA (Flickr 8k Audio Caption Corpus); captions and images are Flickr8k's"
OTHER_SPLIT = "another split"
NO_SPEAKER = "no speaker"
_TEST_SHARE, _VALIDATION_SHARE = 0.2, 0.1
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?0*(\d+)")  # of a file without its extension, or a number
_SENTENCE_END = (".", "?", "!")


def split_of_image(name: str) -> Split:
    """The split of an image by its file's name or its id; of COCO's by the number in it."""
    stem = PurePosixPath(name).stem if "." in name else name
    match = _COCO_NAME.fullmatch(stem)
    return split_of_key(match[1] if match else stem)


def split_of_key(key: str) -> Split:
    """The split of what must not be in two of them: 70% of all keys are in train, 10% in validation, 20% in test."""
    share = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest()) / 2**32
    if share < _TEST_SHARE:
        return "test"
    return "validation" if share < _TEST_SHARE + _VALIDATION_SHARE else "train"


def _why_left_out(config: SynthesizeConfig, image: str, speaker: str) -> str:
    """Why a caption is not of the split; "" for one that is."""
    if config.split_by == "speaker":
        if not speaker:
            return NO_SPEAKER
        return "" if split_of_key(f"speaker/{speaker}") == config.split else OTHER_SPLIT
    return "" if split_of_image(image) == config.split else OTHER_SPLIT


def coco_captions(config: SynthesizeConfig) -> RowSource:
    """SpokenCOCO_train.json or SpokenCOCO_val.json: `data[]{image, captions[]{text, speaker, uttid, wav}}`, next to the
    folder `wavs`. Raises InputError."""
    path = Path(config.path)
    recordings = Path(config.recordings) if config.recordings else path.parent

    def rows(skipped: Counter[str]) -> Iterator[Row]:
        for number, record in enumerate(json_records(path, r'\s*\{.*?"data"\s*:\s*\[')):
            with in_published_layout(f"path: {path}: record {number}"):
                image, captions = str(record["image"]), record["captions"]
                for caption in captions:
                    speaker = str(caption["speaker"])
                    if reason := _why_left_out(config, image, speaker):
                        skipped[reason] += 1
                        continue
                    text = as_text(caption["text"], f"path: {path}: record {number}: field text")
                    clip = Clip(recordings / str(caption["wav"]), folder=recordings)
                    yield _row(config, str(caption["uttid"]), text, clip, image, speaker)

    return _source(config, rows, COCO_LICENSE)


def speech_coco(config: SynthesizeConfig) -> RowSource:
    """SPEECH-COCO (Havard et al. 2017), COCO's captions in eight voices of one TTS engine: the folder `train2014` or
    `val2014` with its database (`train_2014.sqlite3`, table `captions`) and `wav`, or the database. What the voice says
    is the question, with the "um" that a third of the captions have. Raises InputError."""
    path = Path(config.path)
    found = sorted(path.glob("*_2014.sqlite3")) if path.is_dir() else [path]
    if len(found) != 1 or not found[0].is_file():
        raise InputError(f"path: {path}: not a folder with one database of SPEECH-COCO (train_2014.sqlite3)")
    (database,) = found
    recordings = Path(config.recordings) if config.recordings else database.parent / "wav"
    part = database.stem.replace("_", "")  # train2014, as in the names of COCO's images

    def rows(skipped: Counter[str]) -> Iterator[Row]:
        query = "SELECT captionID, imageID, wavFilename, text, speaker FROM captions ORDER BY captionID"
        try:
            with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
                for caption_id, image_id, wav, *texts in connection.execute(query):
                    where = f"path: {database}: caption {caption_id}"
                    text, speaker = (as_text(value, where) for value in texts)
                    with in_published_layout(where):
                        image = f"COCO_{part}_{int(image_id):012d}.jpg"
                        clip = Clip(recordings / str(wav), folder=recordings)
                    if reason := _why_left_out(config, image, speaker):
                        skipped[reason] += 1
                        continue
                    yield _row(config, str(caption_id), text, clip, image, speaker)
        except (sqlite3.Error, UnicodeError) as error:
            raise InputError(f"path: {database}: not a database of SPEECH-COCO ({error})") from error

    return _source(config, rows, SPEECH_COCO_LICENSE)


def localized_narratives(config: SynthesizeConfig) -> RowSource:
    """A .jsonl of Localized Narratives: `{dataset_id, image_id, annotator_id, caption, timed_caption[]{utterance,
    start_time, end_time}, traces[][]{x, y, t}, voice_recording}`. Narratives are often longer than the 30 s that a
    Whisper encoder takes, so each is cut into pieces of whole sentences by the times of its words; a longer sentence is
    left out and counted. The mouse trace of each word goes into `details` (see `data/trace.py`). Raises InputError."""
    path = Path(config.path)
    recordings = Path(config.recordings) if config.recordings else path.parent

    def rows(skipped: Counter[str]) -> Iterator[Row]:
        for number, record in enumerate(json_lines_records(path)):
            with in_published_layout(f"path: {path}: record {number}"):
                name, speaker = str(record["image_id"]), str(record["annotator_id"])
                if reason := _why_left_out(config, name, speaker):
                    skipped[reason] += 1
                    continue
                # COCO's files are named by the number, with zeros before it
                image = f"{name.zfill(12) if 'coco' in str(record['dataset_id']) else name}.jpg"
                file = recordings / str(record["voice_recording"])
                points = points_in_order(record.get("traces", ()))
                for piece, words in enumerate(_pieces(record["timed_caption"], skipped)):
                    row_id = f"{record['dataset_id']}-{name}-{speaker}-{piece}"
                    text, start, stop = " ".join(text for text, *_ in words), words[0][1], words[-1][2]
                    row = _row(config, row_id, text, Clip(file, start, stop, folder=recordings), image, speaker)
                    traced = traced_words(words, points, start)
                    has_points = any(word["points"] for word in traced)
                    yield row._replace(details=json.dumps({"trace": traced})) if has_points else row

    return _source(config, rows, NARRATIVES_LICENSE)


_Word = tuple[str, float, float]  # utterance, start, stop in seconds


def _pieces(timed: Sequence[Mapping[str, Any]], skipped: Counter[str]) -> Iterator[list[_Word]]:
    """The words of the longest runs of whole sentences that an encoder's window holds."""
    sentences: list[list[_Word]] = [[]]
    for entry in timed:
        text = tidy(str(entry["utterance"]))
        sentences[-1].append((text, float(entry["start_time"]), float(entry["end_time"])))
        if text.endswith(_SENTENCE_END):
            sentences.append([])
    piece: list[_Word] = []
    for sentence in filter(None, sentences):
        if sentence[-1][2] - sentence[0][1] > MAX_AUDIO_SECONDS:
            skipped["a sentence over 30 s"] += 1
        elif piece and sentence[-1][2] - piece[0][1] <= MAX_AUDIO_SECONDS:
            piece += sentence
        else:
            if piece:
                yield piece
            piece = sentence
    if piece:
        yield piece


def flickr8k_audio(config: SynthesizeConfig) -> RowSource:
    """The folder of the Flickr 8k Audio Caption Corpus: wav2capt.txt (recording, image, #number of its caption),
    wav2spk.txt (recording, speaker) and `wavs`. It comes without the captions: `annotations` is Flickr8k.token.txt
    (image#number, caption). Raises InputError."""
    folder = Path(config.path)
    if not config.annotations:
        raise InputError("annotations: flickr8k-audio comes without its captions; give Flickr8k.token.txt of Flickr8k")
    captions = dict(_fields(Path(config.annotations), "\t", 2, "annotations"))
    speakers = dict(_fields(folder / "wav2spk.txt", None, 2, "path"))
    recordings = Path(config.recordings) if config.recordings else folder / "wavs"

    def rows(skipped: Counter[str]) -> Iterator[Row]:
        for recording, image, number in _fields(folder / "wav2capt.txt", None, 3, "path"):
            speaker = speakers.get(recording, "")
            if reason := _why_left_out(config, image, speaker):
                skipped[reason] += 1
            elif f"{image}{number}" not in captions:
                skipped["no caption"] += 1
            else:
                text, clip = tidy(captions[f"{image}{number}"]), Clip(recordings / recording, folder=recordings)
                yield _row(config, Path(recording).stem, text, clip, image, speaker)

    return _source(config, rows, FLICKR8K_LICENSE)


def _fields(path: Path, separator: str | None, count: int, field: str) -> Iterator[list[str]]:
    """The `count` fields of each line of a text file that is not blank. Raises InputError, naming file and line."""
    if not path.is_file():
        raise InputError(f"{field}: {path}: no such file")
    refuse_utf16(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{field}: {path}: not text in UTF-8 ({error.reason})") from error
    for number, line in enumerate(lines, 1):
        parts = line.strip().split(separator, count - 1)
        if line.strip() and len(parts) < count:
            raise InputError(f"{field}: {path}: line {number}: {len(parts)} fields, expected {count}")
        if line.strip():
            yield parts


def _row(config: SynthesizeConfig, row_id: str, text: str, clip: Clip, image: str, speaker: str) -> Row:
    return Row(
        f"{config.source}-{row_id}",
        text,
        text,
        f"{REPEAT_INSTRUCTION}\n",
        image=ImageInFolder(Path(config.images), image) if config.images else None,
        clips=(clip,),
        speaker=speaker,
        question_type="repeat",
    )


def _source(config: SynthesizeConfig, rows: Callable[[Counter[str]], Iterator[Row]], license: str) -> RowSource:
    skipped: Counter[str] = Counter()
    sample = sample_rows(drop_unanswered(rows(skipped), skipped), config.count, config.seed)
    return RowSource(config.source, sample, license, skipped=dict(skipped))
