"""One shard of spoken questions: a job that any process, on any machine, does alone and always with the same bytes."""

import hashlib
import random
import secrets
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfkd.data.example import REJECTED, Example, groups_of, write_shard
from selfkd.errors import EngineError, InputError, steady
from selfkd.files import locked, sha256, without_folders
from selfkd.synthesis.augment import augmented
from selfkd.synthesis.quality_filter import Verifier, check_audio
from selfkd.synthesis.sayable import ANY
from selfkd.synthesis.sources.registry import TOY_SOURCES, Source
from selfkd.synthesis.sources.rows import read_clip
from selfkd.synthesis.text_normalization import spoken_form
from selfkd.synthesis.tts.base import Utterance
from selfkd.synthesis.tts.registry import FOLLOW_THE_TEXT, EngineName, loaded_engine, resampled
from selfkd.synthesis.workers import IsolatedEngine

if TYPE_CHECKING:
    from selfkd.synthesis.synthesize import SynthesizeConfig

VERIFIED_AT_ONCE = 64
NAME_DIGITS = 12  # of the hash in a shard's name


def synthesize_shard(
    config: "SynthesizeConfig", source: Source, voices: dict[str, float], bounds: tuple[int, int], stem: str
) -> Path:
    """Writes `stem`-HASH.parquet with the examples of these bounds that can be understood; returns its path. Where
    another job is making the same shard, it is waited for and its shard is the one.

    What was spoken and refused goes, without its picture, into rejected/`number`.parquet, which is written first.
    """
    lock = config.output / f".{stem}.parquet.lock"
    with locked(lock):
        try:
            return finished_shard(config.output, stem) or _made(config, source, voices, bounds, stem)
        finally:
            lock.unlink(missing_ok=True)  # whoever waits for it looks for the shard first


def _made(
    config: "SynthesizeConfig", source: Source, voices: dict[str, float], bounds: tuple[int, int], stem: str
) -> Path:
    shard = _Shard(config, source, voices)
    partial = config.output / f".{stem}.{secrets.token_hex(4)}.parquet"
    write_shard(partial, shard.examples(*bounds), shard.report)
    refused = config.output / REJECTED / f"{stem.partition('-')[2]}.parquet"
    refused.unlink(missing_ok=True)  # of a time when every question was refused
    if shard.refused:
        write_shard(refused, shard.refused, {"rows": len(shard.refused)})
    return partial.rename(config.output / f"{stem}-{sha256(partial)[:NAME_DIGITS]}.parquet")


def finished_shard(folder: Path, stem: str) -> Path | None:
    """Its name ends in a hash of what it holds."""
    return next(iter(sorted(folder.glob(f"{stem}-*.parquet"))), None)


class _Shard:
    """The examples of a shard as they are made; `report` and `refused` are complete when the last has been taken."""

    def __init__(self, config: "SynthesizeConfig", source: Source, voices: dict[str, float]):
        self.config, self.source, self.voices = config, source, voices
        self.report: dict[str, Any] = {"rows": 0, "rejected": [], "word_error_rates": {}}
        self.refused: list[Example] = []

    def examples(self, start: int, stop: int) -> Iterator[Example]:
        spoken = (e for index in range(start, stop) if (e := self._spoken(index)))
        for some in groups_of(spoken, VERIFIED_AT_ONCE):
            for example in self._heard(some):
                self.report["rows"] += 1
                yield example

    def _spoken(self, index: int) -> Example | None:
        name, question = self.source.named(index)
        try:
            asked = self.source.example(index)
            name, question = asked.id, asked.question
            recorded = self._recorded(index, asked)
            example = recorded or self._say(asked)
            # the teacher reads, the voice says and CTC learns one text
            assert example.question == question and (example.spoken_text == question or not recorded)
        except EngineError:
            raise
        except InputError as error:  # no picture, no text to be said, no sound: there is nothing to keep
            self.report["rejected"].append({"id": name, "question": question[:200], "reason": self._told(error)})
            return None
        try:
            check_audio(example.samples(), example.spoken_text)
            return example
        except InputError as error:
            self._refuse(example, error)
            return None

    def _recorded(self, index: int, example: Example) -> Example | None:
        clip = self.source.recorded(index)
        if clip is None:
            return None
        return self._augmented(example, resampled(*read_clip(clip)), example.voice or "recorded", example.question)

    def _say(self, example: Example) -> Example:
        config = self.config
        said = self._words_of(example)
        utterance = sample_utterance(config, self.voices, example.id, said)
        engine = _engine(config.engine, config.engine_path, config.engine_model, config.time_limit_seconds)
        return self._augmented(example, engine.synthesize_audio(utterance), utterance.voice, said)

    def _words_of(self, example: Example) -> str:
        """What is said of the one text that the teacher reads and the ears' CTC learns."""
        config = self.config
        if config.source in TOY_SOURCES:  # what they ask is in plain words already
            return example.question
        voice_language = ANY if config.engine in FOLLOW_THE_TEXT else config.language
        return spoken_form(example.question, config.language, voice_language)

    def _augmented(self, example: Example, samples: Any, voice: str, said: str) -> Example:
        config, key = self.config, f"{self.config.seed}/{example.id}"
        samples, done = augmented(samples, config.augment, config.noise_snr_db, config.noise_folder, key)
        return replace(example, augmentation=done).spoken(samples, voice, said)

    def _heard(self, examples: list[Example]) -> Iterator[Example]:
        if not self.config.asr_filter:
            yield from examples
            return
        verifier = _verifier(self.config.asr_filter, self.config.max_wer, self.config.language)
        for example in verifier.transcribed(examples):
            total, rows = self.report["word_error_rates"].get(example.voice, (0.0, 0))
            self.report["word_error_rates"][example.voice] = (total + example.word_error_rate, rows + 1)
            try:
                verifier.check(example)
                yield example
            except InputError as error:
                self._refuse(example, error)

    def _told(self, reason: InputError) -> str:
        # the shard may be published, and is named by what it holds
        return steady(without_folders(str(reason), vars(self.config)))

    def _refuse(self, example: Example, error: InputError) -> None:
        reason = self._told(error)
        said = {"id": example.id, "question": example.question[:200], "reason": reason, "voice": example.voice}
        scored = {"word_error_rate": example.word_error_rate} if example.word_error_rate >= 0 else {}
        self.report["rejected"].append(said | scored)
        self.refused.append(replace(example, image=None, rejected=reason))


def sample_utterance(config: "SynthesizeConfig", voices: dict[str, float], name: str, said: str) -> Utterance:
    """How an example is said: drawn from a hash of the seed and its id."""
    key = hashlib.sha256(f"{config.seed}/{name}".encode()).digest()
    rng = random.Random(key)
    voice = rng.choices(list(voices), list(voices.values()))[0]
    rate, pitch = rng.randint(*config.rate_wpm), rng.randint(*config.pitch)
    return Utterance(said, voice, rate, pitch, int.from_bytes(key[:3], "big") + 1, name)


@cache
def _engine(engine: EngineName, path: str, model: str, time_limit_seconds: float) -> IsolatedEngine:
    slow = EngineError if engine == "openai" else InputError  # a server that does not answer would refuse every row
    return IsolatedEngine(loaded_engine, (engine, path, model, time_limit_seconds), time_limit_seconds, slow)


@cache
def _verifier(checkpoint: str, max_wer: float, language: str) -> Verifier:
    import torch  # needed by nothing else here

    torch.set_num_threads(1)  # processes are what runs side by side
    return Verifier(checkpoint, max_wer, language)
