"""XModBench (Wang et al. 2026, arXiv 2510.15148), its tasks on speech: which of four sentences is the text in an image,
or its translation, with the sentences read aloud or written.

The benchmark has each item in six directions between text, vision and audio. Vision to audio and vision to text differ
only in how the options come, so they are one question in two modalities here: the four recordings are the audio query,
their texts the text query. Directions with several images, and those without one, are not read; in its other tasks the
audio is a sound, without a text that says the same.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfkd.data.as_text import as_text
from selfkd.data.lazy_images import ImageInFolder
from selfkd.errors import InputError
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.sources.asr_corpora import in_published_layout
from selfkd.synthesis.sources.rows import Clip, Row, RowSource, json_records, sample_rows

LICENSE = "Apache-2.0 (XModBench's copy on the hub; its repository says MIT; texts and images have their own)"
TASKS = {"xmodbench-recognition": "recognition", "xmodbench-translation": "translation"}
FILE = "acr_audio_bench_questions_vision_audio.json"
LETTERS = "ABCD"
IN_ORDER = "The four options A, B, C and D follow in this order."
NOTES = (
    "the question stays text and says option where XModBench says audio or text; the options are the query, without "
    "their letters, in both modalities",
)
_MEDIA = "Data"  # the folder below which all media are
_AUDIO = re.compile(r"\baudio\b")
_ANSWER_FORMAT = re.compile(r"(?<=\?) *(Answer[^?]*)\Z")


def xmodbench(config: SynthesizeConfig) -> RowSource:
    """The folder of the copy on the hub, with `tasks` and the unpacked `Data`, or of the repository, whose `benchmark`
    has both. Raises InputError, naming file and record, for another layout."""
    folder = Path(config.path)
    folder = folder / "benchmark" if (folder / "benchmark").is_dir() else folder
    file = folder / "tasks" / "03_speech" / TASKS[config.source] / FILE
    if not file.is_file():
        raise InputError(f"path: {file}: no such file; give the folder with XModBench's tasks and Data")
    images = Path(config.images) if config.images else folder / _MEDIA
    recordings = Path(config.recordings) if config.recordings else folder / _MEDIA
    skipped: Counter[str] = Counter()
    rows = sample_rows(_rows(config.source, file, images, recordings, skipped), config.count, config.seed)
    return RowSource(config.source, rows, LICENSE, skipped=dict(skipped), notes=NOTES)


def _rows(source: str, file: Path, images: Path, recordings: Path, skipped: Counter[str]) -> Iterator[Row]:
    for number, record in enumerate(json_records(file)):
        where = f"path: {file}: record {number}"
        with in_published_layout(where):
            condition, options = record["conditions"], [record["options"][letter] for letter in LETTERS]
            if condition["modality"] != "Image" or any(option["modality"] != "Audio" for option in options):
                skipped["not an image with four recordings"] += 1
                continue
            texts = {
                letter: as_text(option["text"], f"{where}: option {letter}")
                for letter, option in zip(LETTERS, options, strict=True)
            }
            target = str(record["correct_answer"]).strip()
            if not all(texts.values()) or target not in texts:
                skipped["an option without a text, or no answer"] += 1
                continue
            instruction, answer_format = _texts(as_text(record["question"], f"{where}: field question"))
            yield Row(
                id=f"{source}-{number:05d}",
                question="\n".join(texts.values()),
                answer=target,
                instruction=instruction,
                answer_format=answer_format,
                image=ImageInFolder(images, _below_media(condition)),
                clips=tuple(Clip(recordings / _below_media(option), folder=recordings) for option in options),
                category=TASKS[source],
                question_type="multiple_choice",
                details=json.dumps({"options": texts}, ensure_ascii=False),
            )


def _texts(question: str) -> tuple[str, str]:
    """(text before the options, text after them)."""
    found = _ANSWER_FORMAT.search(question)
    before = _AUDIO.sub("option", question[: found.start()] if found else question)
    return f"{before}\n{IN_ORDER}\n", f"\n{found[1]}" if found else ""


def _below_media(medium: Mapping[str, Any]) -> str:
    """The path within `Data`: the files name it by "./benchmark/Data/", or by a folder of their authors' machine."""
    name = str(medium["input"])
    return f"/{name}".partition(f"/{_MEDIA}/")[2] or name
