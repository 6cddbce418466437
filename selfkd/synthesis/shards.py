"""One shard of synthesized questions: a job for any process on any machine, always with the same bytes."""

import hashlib
import json
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfkd.data.example import CONVERSATIONS, REJECTED, SCHEMA, SCHEMA_VERSION, Example, groups_of, write_shard
from selfkd.errors import EngineError, InputError, without_run_details
from selfkd.files import locked, replace_durably, sha256, strip_folders
from selfkd.synthesis.augment import augment
from selfkd.synthesis.config import EngineName, SynthesizeConfig
from selfkd.synthesis.output_folder import USAGE, free_fields
from selfkd.synthesis.pronounceable import ANY
from selfkd.synthesis.quality_filter import MAX_CLIPPED, MAX_CLIPPED_RECORDED, ASRFilter, check_audio
from selfkd.synthesis.row_journal import RowJournal
from selfkd.synthesis.sources.registry import TOY_SOURCES, Source
from selfkd.synthesis.sources.rows import RowSource, read_clips
from selfkd.synthesis.text_normalization import spoken_form
from selfkd.synthesis.tts.base import Utterance
from selfkd.synthesis.tts.endpoint import Budget
from selfkd.synthesis.tts.registry import ANY_LANGUAGE_ENGINES, load_engine
from selfkd.synthesis.workers import IsolatedEngine, IsolatedWorker, in_order, report_rows

ASR_GROUP_SIZE = 64  # examples that are transcribed together
MAX_READER_BYTES = 2**31  # of memory that the images and recordings of a row may take
NAME_DIGITS = 12  # of the hash in a shard's name


def synthesize_shard(
    config: SynthesizeConfig,
    source: Source,
    voices: dict[str, float],
    bounds: tuple[int, int],
    stem: str,
    engines: int = 1,
) -> Path:
    """Writes `stem`-HASH.parquet with the accepted examples of these bounds; returns its path. Where another job makes
    the same shard, waits for it and returns its shard. `engines` of them work on rows at the same time; the bytes do
    not depend on their number, nor on whether an earlier process began the shard (`row_journal`).

    Rejected examples with audio are written first, without their images, to rejected/`number`.parquet.
    """
    lock = config.output / f".{stem}.parquet.lock"
    with locked(lock):
        try:
            found = finished_shard(config.output, stem)
            if found:
                report_rows(resumed=bounds[1] - bounds[0])
            return found or _make(config, source, voices, bounds, stem, engines)
        finally:
            lock.unlink(missing_ok=True)  # waiting jobs look for the shard first


def _make(
    config: SynthesizeConfig,
    source: Source,
    voices: dict[str, float],
    bounds: tuple[int, int],
    stem: str,
    engines: int,
) -> Path:
    key = _journal_key(config, source, voices, bounds)
    journal = RowJournal(config.output / f".{stem}.parquet.rows", key)
    shard, schema = (
        _Shard(config, source, voices, journal, engines),
        CONVERSATIONS if config.turns == "whole" else SCHEMA,
    )
    unfinished = config.output / f".{stem}.{secrets.token_hex(4)}.parquet"
    try:
        write_shard(unfinished, shard.examples(*bounds), shard.report, schema)
    finally:
        shard.close()
        journal.close()
    rejected = config.output / REJECTED / f"{stem.partition('-')[2]}.parquet"
    rejected.unlink(missing_ok=True)  # of an earlier run in which every question was rejected
    if shard.rejected:
        write_shard(rejected, shard.rejected, {"rows": len(shard.rejected)}, schema)
    path = replace_durably(unfinished, config.output / f"{stem}-{sha256(unfinished)[:NAME_DIGITS]}.parquet")
    journal.remove()
    return path


def _journal_key(config: SynthesizeConfig, source: Source, voices: dict[str, float], bounds: tuple[int, int]) -> str:
    """Of all that the rows of a shard depend on: `output_folder.claim` lets the questions of a folder without a shard
    be corrected."""
    content = source.sha256() if isinstance(source, RowSource) else ""
    settings = {name: value for name, value in asdict(config).items() if name not in free_fields(config.engine)}
    text = json.dumps([SCHEMA_VERSION, settings, content, voices, bounds], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def finished_shard(folder: Path, stem: str) -> Path | None:
    """The path of a complete shard, whose name ends in a hash of its content; None where there is none."""
    return next(iter(sorted(folder.glob(f"{stem}-*.parquet"))), None)


@dataclass(frozen=True)
class _Row:
    """A row on its way: its text example, or why it has none."""

    index: int
    id: str
    question: str
    example: Example | None = None
    problem: InputError | None = None


@dataclass(frozen=True)
class _Query:
    """A turn of a row on its way, with its recording or the input of an engine; with neither the journal has it, or the
    row has no turns."""

    row: _Row
    number: int = 0
    is_last: bool = True
    turn: Example | None = None
    recording: NDArray[np.float32] | None = None
    utterance: Utterance | None = None

    @property
    def at(self) -> str:
        """Its name in the journal."""
        return _at(self.row.index, self.number)


def _at(index: int, turn: int) -> str:
    return f"{index}-{turn}"


class _Shard:
    """Makes the examples of a shard; `report` and `rejected` are complete after the last example. The journal keeps
    what an engine or the ASR model made: reading a recording again costs no more than reading it there."""

    def __init__(
        self, config: SynthesizeConfig, source: Source, voices: dict[str, float], journal: RowJournal, engines: int
    ):
        self.config, self.source, self.voices, self.journal = config, source, voices, journal
        self.report: dict[str, Any] = {"rows": 0, "rejected": [], "word_error_rates": {}}
        self.rejected: list[Example] = []
        settings = config.engine, config.engine_path, config.engine_model, config.time_limit_seconds
        budget = Budget(config.output / USAGE, **config.budget) if config.budget else None
        self._engines = [_engine(*settings, budget, number) for number in range(engines)]
        # bytes from outside are decoded in a process that can be killed
        self._reader: IsolatedWorker | None = None
        if config.source not in TOY_SOURCES:
            limits = config.time_limit_seconds, InputError, MAX_READER_BYTES
            self._reader = IsolatedWorker("reader", "content", _open_reader, (source,), *limits)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def examples(self, start: int, stop: int) -> Iterator[Example]:
        for group in groups_of(self._with_audio(start, stop), ASR_GROUP_SIZE):
            for example in self._accepted(group):
                self.report["rows"] += 1
                yield example

    def _with_audio(self, start: int, stop: int) -> Iterator[tuple[int, Example]]:
        """(index, example with audio) of the rows that have plausible audio, in their order."""
        queries = (query for index in range(start, stop) for query in self._queries(index))
        of_row: list[tuple[_Query, Any]] = []
        for query, result in in_order(self._engines, queries, lambda query: query.utterance):
            of_row.append((query, result))
            if query.is_last:
                is_resumed = all(one.at in self.journal for one, _ in of_row)
                example = self._checked(query.row, of_row)
                report_rows(made=not is_resumed, resumed=is_resumed)
                if example is not None:
                    yield query.row.index, example
                of_row = []

    def _queries(self, index: int) -> Iterator[_Query]:
        """Those of a row; one without a turn where the row cannot be read."""
        name, question = self.source.id_and_question(index)
        try:
            example, recordings = self._reader.call(index) if self._reader else read_row(self.source, index)
            row, turns = _Row(index, example.id, example.question, example), single_turns(example)
            queries = [
                self._query(_Query(row, number, number == len(turns) - 1, turn, recording))
                for number, (turn, recording) in enumerate(zip(turns, recordings, strict=True))
            ]
        except EngineError:
            raise
        except InputError as error:  # no image, or no text to synthesize
            queries = [_Query(_Row(index, name, question, problem=error))]
        yield from queries

    def _query(self, query: _Query) -> _Query:
        """With the input of an engine where it has no audio. The turns of a conversation have one voice."""
        if query.turn is None or query.recording is not None or query.at in self.journal:
            return query
        text = self._spoken_text(query.turn)
        utterance = sample_utterance(self.config, self.voices, query.row.id, text)
        return replace(query, utterance=replace(utterance, id=query.turn.id))

    def _checked(self, row: _Row, queries: Sequence[tuple[_Query, Any]]) -> Example | None:
        """The example with its audio, which the queries' results, of the engine, or the journal has; None for a
        rejected row."""
        problem, turns = row.problem, list[Example]()
        for query, result in queries:
            try:
                if query.turn is not None:
                    turns.append(self._turn_with_audio(query, query.turn, result))
            except EngineError:
                raise
            except InputError as error:  # no audio; the other turns are kept for a resumed run
                problem = problem or error
        if problem or row.example is None:  # nothing to keep
            reason = self._reason(problem or InputError("field audio: none"))
            self.report["rejected"].append({"id": row.id, "question": row.question[:200], "reason": reason})
            return None
        example = joined(row.example, turns)
        # one text for the teacher's query, the voice and the CTC labels
        assert example.question == row.question  # noqa: S101 an invariant of this code, no check of input
        try:
            is_recorded = queries[0][0].recording is not None or self.config.engine == "recorded"
            max_clipped = MAX_CLIPPED_RECORDED if is_recorded else MAX_CLIPPED
            for number, turn in enumerate(turns):
                with _naming_turn(number, example):
                    check_audio(turn.samples(), turn.spoken_text, max_clipped)
            return example
        except InputError as error:
            self._reject(example, error)
            return None

    def _turn_with_audio(self, query: _Query, turn: Example, result: Any) -> Example:
        """Raises InputError, with the reason, for a turn without audio."""
        if query.recording is not None:
            return self._augmented(turn, query.recording, turn.voice or "recorded", turn.question, query.row.id)
        if query.utterance is None:
            return self.journal.restored(query.at, turn)
        try:
            if isinstance(result, InputError):
                raise result
            spoken = self._augmented(turn, result, query.utterance.voice, query.utterance.text, query.row.id)
        except EngineError:
            raise
        except InputError as error:
            self.journal.add_reason(query.at, self._reason(error))
            raise
        self.journal.add(query.at, spoken)
        return spoken

    def _spoken_text(self, example: Example) -> str:
        """The question as the input of the TTS engine."""
        config = self.config
        if config.source in TOY_SOURCES:  # whose questions are plain words already
            return example.question
        voice_language = ANY if config.engine in ANY_LANGUAGE_ENGINES else config.language
        return spoken_form(example.question, config.language, voice_language)

    def _augmented(self, example: Example, samples: Any, voice: str, spoken_text: str, name: str) -> Example:
        """`name` is that of its conversation, whose turns have one room and one noise."""
        config, key = self.config, f"{self.config.seed}/{name}"
        samples, effects = augment(samples, config.augment, config.noise_snr_db, config.noise_folder, key)
        return replace(example, augmentation=effects).with_audio(samples, voice, spoken_text)

    def _accepted(self, rows: list[tuple[int, Example]]) -> Iterator[Example]:
        if not self.config.asr_filter:
            yield from (example for _, example in rows)
            return
        asr_filter = _asr_filter(self.config.asr_filter, self.config.max_wer, self.config.language)
        every = [(_at(i, n), turn) for i, example in rows for n, turn in enumerate(single_turns(example))]
        transcribed = iter(self._transcribed(every, asr_filter))
        for _, before in rows:
            turns = [next(transcribed) for _ in range(len(before.history) + 1)]
            example = joined(before, turns)
            for turn in turns:
                total, count = self.report["word_error_rates"].get(turn.voice, (0.0, 0))
                self.report["word_error_rates"][turn.voice] = (total + turn.word_error_rate, count + 1)
            try:
                for number, turn in enumerate(turns):
                    with _naming_turn(number, example):
                        asr_filter.check(turn)
                yield example
            except InputError as error:
                self._reject(example, error)

    def _transcribed(self, turns: list[tuple[str, Example]], asr_filter: ASRFilter) -> list[Example]:
        """Of the journal, or by the ASR model, which makes them together: one may depend on the others."""
        known = [self.journal.transcript(at) for at, _ in turns]
        found = [
            replace(turn, transcript=one[0], word_error_rate=one[1])
            for (_, turn), one in zip(turns, known, strict=True)
            if one is not None
        ]
        if len(found) < len(turns):
            found = asr_filter.transcribe([turn for _, turn in turns])
            for (at, _), turn in zip(turns, found, strict=True):
                self.journal.add_transcript(at, turn)
        return found

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
def _engine(
    engine: EngineName, path: str, model: str, time_limit_seconds: float, budget: Budget | None, number: int
) -> IsolatedEngine:
    """Number `number` of the engines of this process, which are used for all its shards."""
    # a server that does not respond would reject every row
    timeout_error = EngineError if engine == "openai" else InputError
    arguments = engine, path, model, time_limit_seconds, budget
    return IsolatedEngine(load_engine, arguments, time_limit_seconds, timeout_error)


@cache
def _asr_filter(checkpoint: str, max_wer: float, language: str) -> ASRFilter:
    import torch  # not needed without an ASR filter

    torch.set_num_threads(1)  # processes run in parallel
    return ASRFilter(checkpoint, max_wer, language)
