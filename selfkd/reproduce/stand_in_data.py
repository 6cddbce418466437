"""A few rows in the layout of each download of a recipe: llava's file with its images, LibriSpeech's folders, and the
tables of the eight benchmarks. Images are scenes of the toy world, speech is espeak-ng's."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import soundfile
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from selfkd.data.example import SAMPLE_RATE_HZ
from selfkd.evaluation.benchmarks.registry import BENCHMARKS
from selfkd.files import write_json, write_text
from selfkd.synthesis.sources.toy import ToyTranscription, ToyWorld
from selfkd.synthesis.tts.base import ESPEAK_VOICES, EspeakEngine, Utterance

_IMAGES_IN = "coco/train2017"  # the folder of llava's images in which these are
_ROWS = 4  # of a benchmark
_SPEAKERS = 2
_OPTIONS = ("a red circle", "a blue star", "a green triangle", "a black rectangle")
Row = dict[str, Any]


def scene_png(index: int, side: int) -> bytes:
    """The image of a scene of the toy world, `side` pixels wide and high."""
    with PILImage.open(io.BytesIO(ToyWorld("train", 0).example(index).image or b"")) as small:
        large = small.resize((side, side), PILImage.Resampling.BICUBIC)
    buffer = io.BytesIO()
    large.save(buffer, "PNG")
    return buffer.getvalue()


def write_llava(file: Path, images: Path, count: int, side: int) -> None:
    """A file with `count` questions about images of `side` pixels, two in each conversation."""
    folder = images / _IMAGES_IN
    folder.mkdir(parents=True)
    world, records = ToyWorld("train", 0), []
    for number in range((count + 1) // 2):
        name = f"{number:012d}.png"
        (folder / name).write_bytes(scene_png(number, side))
        turns = []
        for turn in range(2):
            example = world.example(number)
            question = f"<image>\n{example.question}" if turn == 0 else f"{example.question} Once more."
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": example.answer}]
        records.append({"id": f"{number:012d}", "image": f"{_IMAGES_IN}/{name}", "conversations": turns})
    write_json(file, records)


def write_librispeech(folder: Path, count: int) -> None:
    """`count` sentences in LibriSpeech's folders: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt next to FLAC files."""
    sentences, engine, voices = ToyTranscription("train", 0), EspeakEngine(), ESPEAK_VOICES["training"]
    for speaker in range(_SPEAKERS):
        chapter = folder / "LibriSpeech" / "train-clean-100" / str(speaker + 1) / "1"
        chapter.mkdir(parents=True)
        lines = []
        for index in range(speaker, count, _SPEAKERS):
            name, text = f"{speaker + 1}-1-{index:04d}", sentences.example(index).question
            samples = engine.synthesize_audio(Utterance(text, voices[speaker], seed=index + 1))
            soundfile.write(chapter / f"{name}.flac", samples, SAMPLE_RATE_HZ)
            lines.append(f"{name} {text.upper().rstrip('.')}\n")
        write_text(chapter / f"{speaker + 1}-1.trans.txt", "".join(lines))


def _option_lines(mark: str = ".") -> list[str]:
    return [f"{letter}{mark} {option}" for letter, option in zip("ABCD", _OPTIONS, strict=True)]


# a row of each benchmark by its number; a column that is left out is the image
_BENCHMARK_ROWS: dict[str, Callable[[int], Row]] = {
    "mme": lambda n: {
        "question_id": f"existence/{n // 2}.png",
        "question": "Is there a circle in this image? Please answer yes or no.",
        "answer": ("Yes", "No")[n % 2],
        "category": "existence",
    },
    "pope": lambda n: {
        "question_id": str(n),
        "question": "Is there a star in the image?",
        "answer": ("yes", "no")[n % 2],
        "image_source": f"COCO_val2014_{n:012d}",
        "category": "popular",
    },
    "hallusionbench": lambda n: {
        "category": "VS",
        "subcategory": "ocr",
        "visual_input": "1",
        "set_id": str(n),
        "figure_id": "1",
        "question_id": "0",
        "question": "Is the circle red?",
        "gt_answer": str(n % 2),
    },
    "textvqa": lambda n: {"question_id": n, "question": "what color is the circle?", "answers": ["red"] * 10},
    "realworldqa": lambda n: {
        "question": "\n".join(["What is in the image?\n", *_option_lines()])
        + "\nPlease answer directly with only the letter of the correct option and nothing else.",
        "answer": "ABCD"[n % 4],
    },
    "ai2d": lambda n: {"question": "What is in the image?", "options": list(_OPTIONS), "answer": str(n % 4)},
    "chartqa": lambda n: {"type": "human_test", "question": "How many shapes are there?", "answer": str(2 + n)},
    "mmstar": lambda n: {
        "index": n,
        "question": f"What is in the image?\nOptions: {', '.join(_option_lines(':'))}",
        "answer": "ABCD"[n % 4],
        "category": "coarse perception",
        "l2_category": "image scene and topic",
    },
}


def write_benchmark(file: Path, name: str, side: int) -> None:
    """A table in the layout of a benchmark on the hub, with the columns that are read of it."""
    benchmark = BENCHMARKS[name]
    rows = [_BENCHMARK_ROWS[name](n) | {"image": {"bytes": scene_png(n, side), "path": None}} for n in range(_ROWS)]
    features = {column: _feature(rows[0], column) for column in benchmark.columns}
    file.parent.mkdir(parents=True, exist_ok=True)
    chosen = [{column: row[column] for column in benchmark.columns} for row in rows]
    Dataset.from_list(chosen, Features(features)).to_parquet(str(file))


def _feature(row: Mapping[str, Any], column: str) -> Any:
    value = row[column]
    if column == "image":
        return Image()
    return List(Value("string")) if isinstance(value, list) else Value("int64" if isinstance(value, int) else "string")
