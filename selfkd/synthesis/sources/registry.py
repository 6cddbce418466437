"""Where questions come from. A source gives example `index`, always the same one, not yet spoken."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.synthesis.sources import asr_corpora as corpora
from selfkd.synthesis.sources.llava import llava
from selfkd.synthesis.sources.rows import Clip
from selfkd.synthesis.sources.tables import dataset, json_lines
from selfkd.synthesis.sources.toy import EasyVQA, ToyMMAlign, ToyTranscription, ToyWorld
from selfkd.toy_world.scenes import Split

if TYPE_CHECKING:
    from selfkd.synthesis.synthesize import SynthesizeConfig

SourceName = Literal[
    "words", "world", "world-noisy", "easy-vqa", "mmalign-world",
    "benchmark", "llava", "jsonl", "datasets", "librispeech", "common-voice", "gigaspeech", "lhotse",
]  # fmt: skip


class Source(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def license(self) -> str: ...

    def __len__(self) -> int:
        """How many examples there are; raises InputError for a source that makes as many as are asked for."""
        ...

    @property
    def skipped(self) -> dict[str, int]:
        """What the source has no use for, counted by the reason."""
        ...

    def named(self, index: int) -> tuple[str, str]:
        """(id, question), for a row that cannot be made."""
        ...

    def recorded(self, index: int) -> Clip | None:
        """The speech of an example that has been spoken already."""
        ...

    def part(self, start: int, stop: int) -> "Source":
        """All that is needed for these examples, to be sent to another process."""
        ...

    def example(self, index: int) -> Example: ...


RECORDED = ("librispeech", "common-voice", "gigaspeech", "lhotse")  # every row of theirs has been spoken
TOY_SOURCES: dict[str, Callable[[Split, int], Source]] = {
    "words": ToyTranscription,
    "world": ToyWorld,
    "world-noisy": lambda split, seed: ToyWorld(split, seed, noisy=True),
    "easy-vqa": EasyVQA,
    "mmalign-world": ToyMMAlign,
}


_FIELDS_OF: dict[str, tuple[SourceName, ...]] = {
    "images": ("llava", "jsonl", "datasets"),
    "columns": ("jsonl", "datasets"),
    "instruction": ("llava", "benchmark"),
}


def open_source(config: "SynthesizeConfig") -> Source:
    """The source of a configuration; raises InputError, naming file and field, where it cannot be read, and for fields
    that would do nothing."""
    for field, of in _FIELDS_OF.items():
        if getattr(config, field) not in ("", {}, "text") and config.source not in of:
            raise InputError(f"{field}: is for {', '.join(of)}, not for {config.source}")
    if config.source in TOY_SOURCES:
        if config.path:
            raise InputError(f"path: {config.source} comes with the package and takes none")
        source = TOY_SOURCES[config.source](config.split, config.seed)
        if config.source == "easy-vqa" and config.count > len(source):
            raise InputError(
                f"count: {config.count} are asked for, easy-vqa has {len(source)} {config.split} questions"
            )
        return source
    if config.source == "benchmark":
        raise InputError("source: benchmark: selfkd evaluate --benchmarks NAME speaks public benchmarks")
    if not config.path:
        raise InputError(f"path: {config.source} needs one")
    path, images, count, seed = Path(config.path), Path(config.images), config.count, config.seed
    match config.source:
        case "llava":
            return llava(path, images, count, seed, config.instruction == "spoken")
        case "jsonl":
            return json_lines(path, images, config.columns, count, seed)
        case "datasets":
            return dataset(config.path, images, config.split, config.columns, count, seed)
        case "librispeech":
            return corpora.librispeech(path, count, seed)
        case "common-voice":
            return corpora.common_voice(path, count, seed)
        case "gigaspeech":
            return corpora.gigaspeech(path, count, seed)
    return corpora.lhotse_cuts(path, count, seed)
