"""One shard of synthesized questions: a job for any process on any machine, always with the same bytes."""

import hashlib
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfkd.data.example import CONVERSATIONS, REJECTED, SCHEMA, Example, groups_of, write_shard
from selfkd.errors import EngineError, InputError, without_run_details
from selfkd.files import locked, replace_durably, sha256, strip_folders
from selfkd.synthesis.augment import augment
from selfkd.synthesis.config import EngineName, SynthesizeConfig
from selfkd.synthesis.pronounceable import ANY
from selfkd.synthesis.quality_filter import MAX_CLIPPED, MAX_CLIPPED_RECORDED, ASRFilter, check_audio
from selfkd.synthesis.sources.registry import TOY_SOURCES, Source
from selfkd.synthesis.sources.rows import RowSource, read_clips
from selfkd.synthesis.text_normalization import spoken_form
from selfkd.synthesis.tts.base import Utterance
from selfkd.synthesis.tts.registry import ANY_LANGUAGE_ENGINES, load_engine
from selfkd.synthesis.workers import IsolatedEngine, IsolatedWorker

ASR_GROUP_SIZE = 64  # examples that are transcribed together
MAX_READER_BYTES = 2**31  # of memory that the images and recordings of a row may take
NAME_DIGITS = 12  # of the hash in a shard's name


def synthesize_shard(
    config: SynthesizeConfig, source: Source, voices: dict[str, float], bounds: tuple[int, int], stem: str
) -> Path:
    """Writes `stem`-HASH.parquet with the accepted examples of these bounds; returns its path. Where another job makes
    the same shard, waits for it and returns its shard.

    Rejected examples with audio are written first, without their images, to rejected/`number`.parquet.
    """
    lock = config.output / f".{stem}.parquet.lock"
    with locked(lock):
        try:
            return finished_shard(config.output, stem) or _make(config, source, voices, bounds, stem)
        finally:
            lock.unlink(missing_ok=True)  # waiting jobs look for the shard first


def _make(
    config: SynthesizeConfig, source: Source, voices: dict[str, float], bounds: tuple[int, int], stem: str
) -> Path:
    shard, schema = _Shard(config, source, voices), CONVERSATIONS if config.turns == "whole" else SCHEMA
    unfinished = config.output / f".{stem}.{secrets.token_hex(4)}.parquet"
    try:
        write_shard(unfinished, shard.examples(*bounds), shard.report, schema)
    finally:
        shard.close()
    rejected = config.output / REJECTED / f"{stem.partition('-')[2]}.parquet"
    rejected.unlink(missing_ok=True)  # of an earlier run in which every question was rejected
    if shard.rejected:
        write_shard(rejected, shard.rejected, {"rows": len(shard.rejected)}, schema)
    return replace_durably(unfinished, config.output / f"{stem}-{sha256(unfinished)[:NAME_DIGITS]}.parquet")


def finished_shard(folder: Path, stem: str) -> Path | None:
    """The path of a complete shard, whose name ends in a hash of its content; None where there is none."""
    return next(iter(sorted(folder.glob(f"{stem}-*.parquet"))), None)


class _Shard:
    """Makes the examples of a shard; `report` and `rejected` are complete after the last example."""

    def __init__(self, config: SynthesizeConfig, source: Source, voices: dict[str, float]):
        self.config, self.source, self.voices = config, source, voices
        self.report: dict[str, Any] = {"rows": 0, "rejected": [], "word_error_rates": {}}
        self.rejected: list[Example] = []
        # bytes from outside are decoded in a process that can be killed
        self._reader: IsolatedWorker | None = None
        if config.source not in TOY_SOURCES:
            limits = config.time_limit_seconds, InputError, MAX_READER_BYTES
            self._reader = IsolatedWorker("reader", "content", _open_reader, (source,), *limits)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def examples(self, start: int, stop: int) -> Iterator[Example]:
        synthesized = (e for index in range(start, stop) if (e := self._synthesized(index)))
        for group in groups_of(synthesized, ASR_GROUP_SIZE):
            for example in self._accepted(group):
                self.report["rows"] += 1
                yield example

    def _synthesized(self, index: int) -> Example | None:
        name, question = self.source.id_and_question(index)
        try:
            text_example, recordings = self._reader.call(index) if self._reader else read_row(self.source, index)
            name, question = text_example.id, text_example.question
            turns = list(map(self._voiced, single_turns(text_example), recordings, repeat(name)))
            example = joined(text_example, turns)
            # one text for the teacher's query, the voice and the CTC labels
            assert example.question == question  # noqa: S101 an invariant of this code, no check of input
        except EngineError:
            raise
        except InputError as error:  # no image, no text to synthesize or no audio: nothing to keep
            self.report["rejected"].append({"id": name, "question": question[:200], "reason": self._reason(error)})
            return None
        try:
            is_recorded = recordings[0] is not None or self.config.engine == "recorded"
            max_clipped = MAX_CLIPPED_RECORDED if is_recorded else MAX_CLIPPED
            for number, turn in enumerate(turns):
                with _naming_turn(number, example):
                    check_audio(turn.samples(), turn.spoken_text, max_clipped)
            return example
        except InputError as error:
            self._reject(example, error)
            return None

    def _voiced(self, turn: Example, recording: NDArray[np.float32] | None, name: str) -> Example:
        """A question with its recording, or synthesized; `name` is that of its conversation, whose turns have one
        voice, one room and one noise."""
        if recording is not None:
            return self._augmented(turn, recording, turn.voice or "recorded", turn.question, name)
        config = self.config
        text = self._spoken_text(turn)
        utterance = replace(sample_utterance(config, self.voices, name, text), id=turn.id)
        engine = _engine(config.engine, config.engine_path, config.engine_model, config.time_limit_seconds)
        return self._augmented(turn, engine.synthesize_audio(utterance), utterance.voice, text, name)

    def _spoken_text(self, example: Example) -> str:
        """The question as the input of the TTS engine."""
        config = self.config
        if config.source in TOY_SOURCES:  # whose questions are plain words already
            return example.question
        voice_language = ANY if config.engine in ANY_LANGUAGE_ENGINES else config.language
        return spoken_form(example.question, config.language, voice_language)

    def _augmented(self, example: Example, samples: Any, voice: str, spoken_text: str, name: str) -> Example:
        config, key = self.config, f"{self.config.seed}/{name}"
        samples, effects = augment(samples, config.augment, config.noise_snr_db, config.noise_folder, key)
        return replace(example, augmentation=effects).with_audio(samples, voice, spoken_text)

    def _accepted(self, examples: list[Example]) -> Iterator[Example]:
        if not self.config.asr_filter:
            yield from examples
            return
        asr_filter = _asr_filter(self.config.asr_filter, self.config.max_wer, self.config.language)
        every = [(example, single_turns(example)) for example in examples]
        transcribed = iter(asr_filter.transcribe([turn for _, turns in every for turn in turns]))
        for before, own in every:
            turns = [next(transcribed) for _ in own]
            example = joined(before, turns)
            for turn in turns:
                total, rows = self.report["word_error_rates"].get(turn.voice, (0.0, 0))
                self.report["word_error_rates"][turn.voice] = (total + turn.word_error_rate, rows + 1)
            try:
                for number, turn in enumerate(turns):
                    with _naming_turn(number, example):
                        asr_filter.check(turn)
                yield example
            except InputError as error:
                self._reject(example, error)

    def _reason(self, error: InputError) -> str:
        # the shard may be published, and its name is a hash of its content
        return without_run_details(strip_folders(str(error), vars(self.config)))

    def _reject(self, example: Example, error: InputError) -> None:
        reason = self._reason(error)
        entry = {"id": example.id, "question": example.question[:200], "reason": reason, "voice": example.voice}
        scored = {"word_error_rate": example.word_error_rate} if example.word_error_rate >= 0 else {}
        self.report["rejected"].append(entry | scored)
        self.rejected.append(replace(example, image=None, rejected=reason))


def single_turns(example: Example) -> list[Example]:
    """The questions of a conversation without its image, each as an example; a single question as it is."""
    if not example.history:
        return [example]
    turns = (example.at_turn(number) for number in range(len(example.history) + 1))
    return [replace(t, id=f"{t.id}-{n:02d}", image=None, history=()) for n, t in enumerate(turns)]


def joined(conversation: Example, turns: Sequence[Example]) -> Example:
    """The reverse of `single_turns`, of turns with audio."""
    return replace(conversation.with_turns(turns), voice=turns[-1].voice) if conversation.history else turns[0]


@contextmanager
def _naming_turn(number: int, example: Example) -> Iterator[None]:
    """Within it an InputError names the turn, where there are several."""
    try:
        yield
    except InputError as error:
        raise InputError(f"turn {number + 1}: {error}" if example.history else str(error)) from error


def read_row(source: Source, index: int) -> tuple[Example, list[NDArray[np.float32] | None]]:
    """(example, the recording at 16 kHz or None of each of its turns) of a row. Raises InputError where one of them
    cannot be used."""
    clips = [*(source.earlier_recordings(index) if isinstance(source, RowSource) else ()), source.recordings(index)]
    example = source.example(index)
    clips = [()] * (len(example.history) + 1 - len(clips)) + clips
    return example, [read_clips(of_turn) if of_turn else None for of_turn in clips]


def _open_reader(source: Source) -> Callable[[int], Any]:
    return partial(read_row, source)


def sample_utterance(config: SynthesizeConfig, voices: dict[str, float], name: str, text: str) -> Utterance:
    """The utterance of an example: voice, rate and pitch are sampled from a hash of the seed and its id."""
    key = hashlib.sha256(f"{config.seed}/{name}".encode()).digest()
    rng = random.Random(key)  # noqa: S311 seeded, for the same data in every run; nothing secret
    voice = rng.choices(list(voices), list(voices.values()))[0]
    rate, pitch = rng.randint(*config.rate_wpm), rng.randint(*config.pitch)
    return Utterance(text, voice, rate, pitch, int.from_bytes(key[:3], "big") + 1, name)


@cache
def _engine(engine: EngineName, path: str, model: str, time_limit_seconds: float) -> IsolatedEngine:
    # a server that does not respond would reject every row
    timeout_error = EngineError if engine == "openai" else InputError
    return IsolatedEngine(load_engine, (engine, path, model, time_limit_seconds), time_limit_seconds, timeout_error)


@cache
def _asr_filter(checkpoint: str, max_wer: float, language: str) -> ASRFilter:
    import torch  # not needed without an ASR filter

    torch.set_num_threads(1)  # processes run in parallel
    return ASRFilter(checkpoint, max_wer, language)
