"""Synthesis resumes by row: killed at any row, it makes only what is missing and ends in the same bytes."""

import json
import os
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from examples import toy_examples
from faulty_engine import FaultyEngine
from processes import Command, forked_process

from selfkd.errors import EngineError, InputError
from selfkd.files import locked
from selfkd.progress import Progress
from selfkd.synthesis import shards, workers
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.row_journal import RowJournal
from selfkd.synthesis.shards import synthesize_shard
from selfkd.synthesis.sources.registry import open_source
from selfkd.synthesis.sources.toy import ToyWorld
from selfkd.synthesis.synthesize import synthesize
from selfkd.synthesis.tts.base import Utterance
from selfkd.synthesis.workers import IsolatedEngine, in_order

KILLED, ROWS, STEM = 9, 5, "train-00000-of-00001"


class Source(ToyWorld):
    def example(self, index):
        example = super().example(index)
        return replace(example, question="...") if index == 2 else example  # of which espeak-ng makes no audio


class LengthASR:
    """An ASR filter whose transcripts depend on the clips that it gets together, as a model's may."""

    def transcribe(self, examples):
        total = sum(len(e.samples()) for e in examples)
        return [replace(e, transcript=f"{total} {e.id}", word_error_rate=len(e.samples()) % 7 / 10) for e in examples]

    def check(self, example):
        if example.word_error_rate > 0.5:
            raise InputError(f"field audio: {example.transcript}")


def _make(folder: Path, kill_at: int = 0, is_torn: bool = False, engines: int = 1) -> None:
    """Makes the shard in a child process; it dies before line `kill_at` of the journal, or within it."""
    workers._is_pool_worker = True
    shards.ASR_GROUP_SIZE = 2
    shards._asr_filter = lambda *_: LengthASR()
    plain, numbers = RowJournal._append, count(1)

    def append(journal, value):
        if next(numbers) == kill_at:
            if is_torn:
                journal._file.seek(0, os.SEEK_END)
                journal._file.write(json.dumps(value).encode()[:-9])
                journal._file.flush()
            os._exit(KILLED)
        plain(journal, value)
        with folder.with_suffix(".made").open("a") as made:
            made.write(json.dumps([name for name in ("at", "transcript") if name in value]) + "\n")

    RowJournal._append = append
    config = SynthesizeConfig(folder, "world-noisy", asr_filter="any")
    synthesize_shard(config, Source("train", 0), {"en-US+m1": 1.0, "en-US+f2": 1.0}, (0, ROWS), STEM, engines)


def make(folder: Path, *arguments) -> int:
    process = forked_process(_make, folder, *arguments)
    process.join()
    return process.exitcode


def made(folder: Path) -> list[list[str]]:
    """What each line of the journals of a folder held."""
    path = folder.with_suffix(".made")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    folder.mkdir()
    assert make(folder) == 0
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("is_torn", [False, True])
def test_killed_before_or_within_any_row_it_makes_only_the_missing_ones(whole, tmp_path, is_torn):
    lines = made(whole)
    assert lines.count(["at"]) == ROWS and lines.count(["at", "transcript"]) == ROWS - 1
    for kill_at in range(1, len(lines) + 1):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        assert make(folder, kill_at, is_torn) == KILLED and not list(folder.glob("*.parquet"))
        before = made(folder)
        assert before == lines[: kill_at - 1]
        assert make(folder) == 0
        again = made(folder)[len(before) :]
        assert again.count(["at"]) == ROWS - before.count(["at"])
        found = {name: data for name, data in files(folder).items() if name[0] != "."}
        assert found == files(whole) and not list(folder.glob(".*.rows"))


@pytest.mark.slow
def test_killed_at_every_row_in_turn_and_with_other_numbers_of_engines_it_ends_in_the_same_bytes(whole, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    runs = 0
    while make(folder, 3, runs % 2 == 1, 1 + runs % 3) == KILLED:
        runs += 1
        assert runs < 30
    assert runs > ROWS - 2
    assert {name for name in files(folder) if name[0] != "."} == set(files(whole))


@pytest.mark.slow
def test_a_killed_command_resumes_by_row_and_counts_earlier_rows(tmp_path):
    """The whole command, killed while its only shard has some rows; the resumed one prints plain lines to a pipe."""
    arguments = ["synthesize", "--source", "world", "--count", "60", "--shard_rows", "60", "--processes", "2"]
    with Command([*arguments, "--output", tmp_path / "out"]) as command:
        journal = tmp_path / "out" / ".train-00000-of-00001.parquet.rows"
        while command.poll() is None and not (journal.is_file() and journal.read_bytes().count(b"\n") > 5):
            pass
        command.kill()
    with locked(journal.with_suffix(".lock")):  # until its workers are gone too, which is soon
        whole_lines = journal.read_bytes().count(b"\n") - 1  # without its head
    with Command([*arguments, "--output", tmp_path / "out"]) as command:
        assert command.wait() == 0, command.stderr
        last = command.stderr.splitlines()[-1]
    assert last.startswith(f"synthesizing world: 60 of 60 rows, {whole_lines} from before, ")
    assert ", took 0:" in last and "\r" not in command.stderr
    synthesize(SynthesizeConfig(tmp_path / "whole", "world", count=60, shard_rows=60))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


def test_a_journal_of_other_questions_or_with_damage_is_begun_again_there(tmp_path):
    path, example = tmp_path / "rows", toy_examples(1)[0]
    journal = RowJournal(path, "one")
    for at in "012":
        journal.add(at, example)
    journal.add_reason("3", "no words")
    journal.add_transcript("1", replace(example, transcript="said", word_error_rate=0.5))
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)

    def known(content):
        path.write_bytes(content)
        journal = RowJournal(path, "one")
        found = "".join(at for at in "01234" if at in journal), journal.transcript("1")
        journal.close()
        return found

    assert known(b"".join(lines)) == ("0123", ("said", 0.5))
    assert known(b"".join(lines)[:-1]) == ("0123", None)
    assert known(b"".join([*lines[:2], b"\0" * len(lines[2]), *lines[3:]])) == ("0", None)  # after a power cut
    assert known(b"".join([*lines[:2], b'{"at": 1}\n', *lines[3:]])) == ("0", None)
    assert known(b'{"key": "two"}\n' + b"".join(lines[1:])) == ("", None)
    assert not path.exists(), "a journal without rows is no file"
    path.write_bytes(b"".join(lines))
    journal = RowJournal(path, "one")
    text_only = replace(example, audio=None, voice="", duration_seconds=0.0, spoken_text="")
    assert journal.restored("2", text_only) == example
    with pytest.raises(InputError, match=r"^no words$"):
        journal.restored("3", text_only)
    journal.remove()
    assert not path.exists()


def test_corrected_questions_begin_a_journal_again(tmp_path):
    """A folder without a shard takes corrected questions; rows of the old ones are not among them."""
    questions = tmp_path / "q.jsonl"

    def key(text, **changes):
        questions.write_text(json.dumps({"id": "a", "question": text, "answer": "b"}))
        config = replace(SynthesizeConfig(tmp_path, "jsonl", str(questions), count=0, processes=3), **changes)
        return shards._journal_key(config, open_source(config), {"v": 1.0}, (0, 1))

    first = key("Is it red?")
    assert first == key("Is it red?", processes=7, output=tmp_path / "other") != key("Is it blue?")
    assert first != key("Is it red?", pitch=(1, 2))


def test_results_come_in_order_while_engines_work_on_other_rows():
    engines = [IsolatedEngine(FaultyEngine, (), 2.0) for _ in range(3)]
    texts = ["well", "hang", "", "fail", "die", "well", "well"]
    results = list(
        in_order(engines, texts, lambda text: Utterance(text, "v") if text else None),
    )
    assert [text for text, _ in results] == texts
    reasons = [str(r) if isinstance(r, InputError) else r if r is None else len(r) for _, r in results]
    assert reasons[0] == reasons[5] == reasons[6] == 8_000 and reasons[2] is None
    assert reasons[1] == "engine: no audio in 2 s, the time limit of a row"
    assert reasons[3] == "engine: KeyError: 'phoneme'" and reasons[4] == "engine: died on this row (exit code 7)"
    for engine in engines:
        engine.close()


def test_an_engine_of_no_use_ends_the_rows_after_those_that_it_made():
    engines = [IsolatedEngine(FaultyEngine, (works,), 10.0) for works in (False, True)]
    found = []
    with pytest.raises(EngineError, match="nothing there"):
        for _, result in in_order(engines, ["a", "b", "c", "d", "e"], lambda text: Utterance(text, "v")):
            if isinstance(result, EngineError):
                raise result
            found.append(len(result))
    assert found in ([], [8_000]), "the second engine's row came before, or was not begun"
    for engine in engines:
        engine.close()


def test_the_rate_leaves_out_rows_of_an_earlier_run(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("selfkd.progress.time.monotonic", lambda: now[0])
    shown = Progress("synthesizing world", 400, "rows", 0.0)
    shown.skip(200)
    now[0] += 10
    shown.advance(50)
    now[0] += 30
    shown.advance(150)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "synthesizing world: 250 of 400 rows, 200 from before, 5/s, 0:30 left"
    assert last == "synthesizing world: 400 of 400 rows, 200 from before, 5/s, took 0:40"
