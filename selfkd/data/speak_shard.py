"""One shard of spoken questions: a job that any process, on any machine, does alone and always with the same bytes."""

import hashlib
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfkd.data.engines import EngineName, open_engine, resampled
from selfkd.data.example import Example, groups_of, write_shard
from selfkd.data.guarded import GuardedSpeaker
from selfkd.data.listed import read_clip
from selfkd.data.sources import EMBEDDED, Source
from selfkd.data.speakers import Utterance
from selfkd.data.spoken_text import spoken_form
from selfkd.data.verify import Verifier, check_sound
from selfkd.errors import InputError
from selfkd.files import sha256

if TYPE_CHECKING:
    from selfkd.data.synthesize import SynthesizeConfig

VERIFIED_AT_ONCE = 64
NAME_DIGITS = 12  # of the hash in a shard's name


def speak_shard(
    config: "SynthesizeConfig", source: Source, voices: dict[str, float], bounds: tuple[int, int], stem: str
) -> Path:
    """Writes `stem`-HASH.parquet with the examples of these bounds that could be spoken; returns its path."""
    report: dict[str, Any] = {"rows": 0, "rejected": [], "word_error_rates": {}}

    def rows() -> Iterator[Example]:
        for example in _verified(config, _spoken(config, source, voices, bounds, report), report):
            report["rows"] += 1
            yield example

    partial = config.output / f".{stem}.parquet"
    write_shard(partial, rows(), report)
    return partial.rename(config.output / f"{stem}-{sha256(partial)[:NAME_DIGITS]}.parquet")


def _spoken(
    config: "SynthesizeConfig",
    source: Source,
    voices: dict[str, float],
    bounds: tuple[int, int],
    report: dict[str, Any],
) -> Iterator[Example]:
    for index in range(*bounds):
        name, question = source.named(index)
        try:
            example = source.example(index)
            name, question = example.id, example.question
            yield _recorded(source, index, example) or _say(config, voices, example)
        except InputError as error:
            report["rejected"].append({"id": name, "question": question[:200], "reason": str(error)})


def _recorded(source: Source, index: int, example: Example) -> Example | None:
    clip = source.recorded(index)
    if clip is None:
        return None
    samples = resampled(*read_clip(clip))
    check_sound(samples, example.question)
    return example.spoken(samples, example.voice or "recorded")


def _say(config: "SynthesizeConfig", voices: dict[str, float], example: Example) -> Example:
    # what the embedded sources ask is in plain words already
    said = example.question if config.source in EMBEDDED else spoken_form(example.question, config.language)
    utterance = draw_utterance(config, voices, example.id, said)
    engine = _engine(config.engine, config.engine_path, config.engine_model, config.time_limit_seconds)
    samples = engine.speak(utterance)
    check_sound(samples, said)
    return example.spoken(samples, utterance.voice, said)


def _verified(config: "SynthesizeConfig", examples: Iterator[Example], report: dict[str, Any]) -> Iterator[Example]:
    if not config.verify:
        yield from examples
        return
    verifier = _verifier(config.verify, config.most_wer)
    for some in groups_of(examples, VERIFIED_AT_ONCE):
        for example in verifier.heard(some):
            total, rows = report["word_error_rates"].get(example.voice, (0.0, 0))
            report["word_error_rates"][example.voice] = (total + example.word_error_rate, rows + 1)
            try:
                verifier.check(example)
                yield example
            except InputError as error:
                rejected = {"id": example.id, "question": example.question[:200], "reason": str(error)}
                report["rejected"].append(rejected | {"word_error_rate": example.word_error_rate})


def draw_utterance(config: "SynthesizeConfig", voices: dict[str, float], name: str, said: str) -> Utterance:
    """How an example is said: drawn from a hash of the seed and its id."""
    key = hashlib.sha256(f"{config.seed}/{name}".encode()).digest()
    rng = random.Random(key)
    voice = rng.choices(list(voices), list(voices.values()))[0]
    rate, pitch = rng.randint(*config.rate_wpm), rng.randint(*config.pitch)
    return Utterance(said, voice, rate, pitch, int.from_bytes(key[:3], "big") + 1, name)


@cache
def _engine(engine: EngineName, path: str, model: str, time_limit_seconds: float) -> GuardedSpeaker:
    return GuardedSpeaker(open_engine, (engine, path, model), time_limit_seconds)


@cache
def _verifier(checkpoint: str, most_wer: float) -> Verifier:
    import torch  # needed by nothing else here

    torch.set_num_threads(1)  # processes are what runs side by side
    return Verifier(checkpoint, most_wer)
