"""Where questions come from. A source gives example `index`, always the same one, without audio."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.synthesis.config import SourceName, SynthesizeConfig
from selfkd.synthesis.sources import asr_corpora
from selfkd.synthesis.sources.caption_corpora import coco_captions, flickr8k_audio, localized_narratives
from selfkd.synthesis.sources.llava import llava
from selfkd.synthesis.sources.published import LAYOUTS, published_set
from selfkd.synthesis.sources.rows import Clip
from selfkd.synthesis.sources.stamps import stamps, stamps_mmalign
from selfkd.synthesis.sources.tables import Folders, dataset, json_lines
from selfkd.synthesis.sources.toy import TURNS, EasyVQA, ToyMMAlign, ToyTranscription, ToyWorld
from selfkd.toy_world.scenes import Split


class Source(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def license(self) -> str: ...

    def __len__(self) -> int:
        """The number of examples; raises InputError for a source without an end."""
        ...

    @property
    def skipped(self) -> dict[str, int]:
        """{reason: number} of the rows that the source cannot use."""
        ...

    def id_and_question(self, index: int) -> tuple[str, str]:
        """(id, question), of a row whose example cannot be made too."""
        ...

    def recordings(self, index: int) -> tuple[Clip, ...]:
        """The recorded speech of an example, clip after clip; none where it has to be synthesized."""
        ...

    def part(self, start: int, stop: int) -> "Source":
        """A source of these examples only, small enough to send to another process."""
        ...

    def example(self, index: int) -> Example: ...


CAPTIONS: dict[str, Callable[[SynthesizeConfig], Source]] = {
    "spoken-coco": coco_captions,
    "localized-narratives": localized_narratives,
    "flickr8k-audio": flickr8k_audio,
}
RECORDED = (
    *("librispeech", "common-voice", "gigaspeech", "lhotse", "stamps", "stamps-mmalign"),
    *LAYOUTS,
    *CAPTIONS,
)  # every row has a recording
MAY_BE_RECORDED: tuple[SourceName, ...] = ("jsonl", "datasets")  # with a column `speech`
TOY_SOURCES: dict[str, Callable[[Split, int], Source]] = {
    "words": ToyTranscription,
    "world": ToyWorld,
    "world-noisy": lambda split, seed: ToyWorld(split, seed, noisy=True),
    "easy-vqa": EasyVQA,
    "mmalign-world": ToyMMAlign,
}


_PUBLISHED = (*LAYOUTS, *CAPTIONS)
_FIELDS_OF_SOURCES: dict[str, tuple[str, ...]] = {
    "images": ("llava", "jsonl", "datasets", *_PUBLISHED),
    "recordings": ("jsonl", "datasets", *_PUBLISHED),
    "annotations": (*(name for name, layout in LAYOUTS.items() if layout.annotations), "flickr8k-audio"),
    "columns": ("jsonl", "datasets", *LAYOUTS),
    "instruction": ("llava", "benchmark"),
    "turns": ("llava", "jsonl", "datasets", "world", "world-noisy"),
}


def open_source(config: SynthesizeConfig) -> Source:
    """The source of a configuration. Raises InputError, naming file and field, where it cannot be read, and for fields
    without effect."""
    for field, sources in _FIELDS_OF_SOURCES.items():
        if getattr(config, field) not in ("", {}, "text", "split") and config.source not in sources:
            raise InputError(f"{field}: is for {', '.join(sources)}, not for {config.source}")
    if config.source in TOY_SOURCES:
        if config.path:
            raise InputError(f"path: {config.source} is in the package and takes none")
        source = TOY_SOURCES[config.source](config.split, config.seed)
        if config.turns == "whole":
            return ToyWorld(config.split, config.seed, config.source == "world-noisy", TURNS)
        if config.source == "easy-vqa" and config.count > len(source):
            raise InputError(f"count: {config.count} wanted, easy-vqa has {len(source)} {config.split} questions")
        return source
    if config.source == "benchmark":
        raise InputError("source: benchmark: selfkd evaluate --benchmarks NAME synthesizes public benchmarks")
    if not config.path:
        raise InputError(f"path: {config.source} needs one")
    path, images, count, seed = Path(config.path), Path(config.images), config.count, config.seed
    if config.source in LAYOUTS:
        return published_set(config)
    if config.source in CAPTIONS:
        return CAPTIONS[config.source](config)
    folders = Folders(images, Path(config.recordings) if config.recordings else None)
    match config.source:
        case "llava":
            return llava(path, images, count, seed, config.instruction == "audio", config.turns)
        case "jsonl":
            return json_lines(path, folders, config.columns, count, seed, config.turns)
        case "datasets":
            return dataset(config.path, folders, config.split, config.columns, count, seed, config.turns)
        case "librispeech":
            return asr_corpora.librispeech(path, count, seed)
        case "common-voice":
            return asr_corpora.common_voice(path, count, seed)
        case "gigaspeech":
            return asr_corpora.gigaspeech(path, count, seed)
        case "stamps":
            return stamps(path, config.language, config.split, count, seed)
        case "stamps-mmalign":
            return stamps_mmalign(path, config.language, config.split, count, seed)
    return asr_corpora.lhotse_cuts(path, count, seed)
