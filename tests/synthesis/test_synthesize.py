"""Synthesized data: shards that other tools can read, the same bytes from one seed, resumed and in parallel."""

import json
import os
import random
import shutil
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import active_children

import pyarrow.parquet as pq
import pytest
from datasets import Audio, load_dataset
from faulty_source import FaultySource
from huggingface_hub import HfApi
from processes import Command

from selfkd.check_data import CheckConfig, check
from selfkd.cli import main
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, SCHEMA_VERSION, read_manifest, shard_metadata, write_shard
from selfkd.errors import InputError
from selfkd.files import locked, sha256, write_json
from selfkd.publish import PublishDataConfig, publish_data
from selfkd.report.sections.audio_quality import quality_tables
from selfkd.synthesis.shards import synthesize_shard
from selfkd.synthesis.sources.toy import ToyWorld
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.synthesis.tts.base import ESPEAK_VOICES
from selfkd.synthesis.workers import server_context


def config(folder, **changes):
    return replace(SynthesizeConfig(folder, "world-noisy", count=8, shard_rows=3, processes=1), **changes)


def digests(folder):
    return {p.name: sha256(p) for p in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "train"
    synthesize(config(folder))
    return folder


def test_two_processes_and_an_interrupted_run_give_the_same_bytes(data, tmp_path):
    synthesize(config(tmp_path / "two", processes=2))
    assert digests(tmp_path / "two") == digests(data) and len(digests(data)) == 3
    (tmp_path / "two" / MANIFEST).unlink()
    next((tmp_path / "two").glob("train-00001-of-00003-*.parquet")).unlink()
    with pytest.raises(InputError, match="unfinished"):
        read_manifest(tmp_path / "two")
    synthesize(config(tmp_path / "two"))
    assert digests(tmp_path / "two") == digests(data)


def test_datasets_reads_the_shards_directly(data, tmp_path):
    loaded = load_dataset("parquet", data_files=str(data / "*.parquet"), split="train", cache_dir=tmp_path)
    assert type(loaded.features["image"]).__name__ == "Image" and type(loaded.features["audio"]).__name__ == "Audio"
    assert loaded.features["audio"].sampling_rate == 16_000
    row = loaded.cast_column("audio", Audio(decode=False))[0]
    assert row["image"].size == (64, 64) and row["audio"]["bytes"][:4] == b"fLaC"
    assert len(loaded) == 8


def test_a_folder_becomes_a_dataset_repository(data, tmp_path):
    """All steps but the upload."""
    folder = shutil.copytree(data, tmp_path / "data")
    arguments = ["--repo", "me/toy-world", "--license", "apache-2.0", "--dry-run"]
    assert main(["data", "publish", str(folder), *arguments]) == 0
    card = (folder / "README.md").read_text()
    assert "| questions | 8 |" in card and "espeak-ng" in card and str(tmp_path) not in card
    loaded = load_dataset(str(folder), cache_dir=tmp_path / "cache")  # by the card's own configuration
    assert list(loaded) == ["train"] and len(loaded["train"]) == 8
    assert check(CheckConfig([folder]))[str(folder)]["examples"] == 8
    assert main(["data", "publish", str(folder), "--repo", "nobody", "--license", "mit"]) == 2


def test_a_published_folder_holds_no_local_path(tmp_path, monkeypatch):
    """Neither in settings nor in reasons of rejected rows; file names are kept."""
    mine = tmp_path / "my own" / "images"
    mine.mkdir(parents=True)
    rows = [{"id": "a", "question": "Is it?", "answer": "b", "image": "of her/a.png"}]
    rows += [{"id": "b", "question": "Is it?", "answer": "b"}]
    (mine.parent / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "out"
    synthesize(SynthesizeConfig(folder, "jsonl", str(mine.parent / "q.jsonl"), str(mine), count=0, processes=1))
    assert shard_metadata(next(folder.glob("*.parquet")))["rejected"] == read_manifest(folder)["rejected"]
    manifest = read_manifest(folder) | {"asr_filter": str(mine / "whisper"), "language": "de-AT"}
    manifest["rejected"] += [manifest["rejected"][0] | {"reason": f"{word} not there"} for word in (
        "field image: /home/me/.cache/x.png:", "engine: tts at http://host/v1/x:", "field audio: 1 and/or 2:",
    )]  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    sent, uploaded = {}, {}
    monkeypatch.setattr(HfApi, "create_repo", lambda *a, **k: None)
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **k: uploaded.update(k))
    monkeypatch.setattr(HfApi, "upload_file", lambda self, **k: sent.update(json.loads(k["path_or_fileobj"])))
    publish_data(PublishDataConfig(folder, "me/mine", "mit"))
    assert "my own" not in json.dumps(sent) and str(tmp_path) not in json.dumps(sent)
    assert [r["reason"] for r in sent["rejected"]] == [
        "field image: of her/a.png: no such file", "field image: x.png: not there",
        "engine: tts at http://host/v1/x: not there", "field audio: 1 and/or 2: not there",
    ]  # fmt: skip
    assert sent["asr_filter"] == "whisper" and "language: de\n" in (folder / "README.md").read_text()
    assert quality_tables([folder], [])[0].rows[0][2] == "whisper"
    # earlier shards may have other names
    assert uploaded["delete_patterns"] == ["train-*.parquet", "rejected/*.parquet"]
    assert uploaded["allow_patterns"] == ["README.md", *uploaded["delete_patterns"]]
    shard = next(folder.glob("*.parquet"))
    assert b"my own" not in shard.read_bytes() and str(tmp_path).encode() not in shard.read_bytes()
    before = [{"id": "a", "reason": f"field image: {mine}/a.png: no such file"}]
    write_shard(shard, list(ExampleFolder(folder)), {"rows": 1, "rejected": before})
    with pytest.raises(InputError, match="row a: its reason has a path of this machine"):
        publish_data(PublishDataConfig(folder, "me/mine", "mit"))


def test_examples_are_read_as_they_were_synthesized(data):
    examples = list(ExampleFolder(data))
    source = ToyWorld("train", 0, noisy=True)
    for index, example in enumerate(examples):
        plain = source.example(index)
        assert replace(example, audio=None, voice="", duration_seconds=0.0, spoken_text="") == plain
        assert example.spoken_text == plain.question
        assert example.voice in ESPEAK_VOICES["training"]
        assert len(example.samples()) == round(example.duration_seconds * 16_000) > 8_000
        assert example.load_image().size == (64, 64)


def test_the_manifest_holds_sources_and_licenses(data):
    manifest = read_manifest(data)
    assert manifest["rows"] == 8 and manifest["rejected"] == [] and manifest["schema_version"] == SCHEMA_VERSION
    assert {"seed", "engine", "engine_license", "source_license", "voice_names", "rate_wpm"} <= set(manifest)
    assert {s["file"]: s["sha256"] for s in manifest["shards"]} == digests(data)


def test_voices_are_varied_and_depend_on_the_seed(tmp_path, data):
    synthesize(config(tmp_path / "other", seed=1))
    voices = [[e.voice for e in ExampleFolder(f)] for f in (data, tmp_path / "other")]
    assert voices[0] != voices[1] and len(set(voices[0])) > 4


def test_a_question_without_words_is_rejected_with_a_reason(tmp_path):
    class Silent(ToyWorld):
        def example(self, index):
            example = super().example(index)
            return replace(example, question="...") if index == 2 else example

    path = synthesize_shard(config(tmp_path, source="world"), Silent("train", 0), {"en-US+m1": 1.0}, (0, 3), "shard")
    kept = shard_metadata(path)
    assert pq.read_table(path).num_rows == kept["rows"] == 2
    assert kept["rejected"][0]["id"] == "world-train-0-000002" and "gives no audio" in kept["rejected"][0]["reason"]


def test_a_file_that_hangs_or_ends_its_decoder_costs_one_row(tmp_path):
    """jsonl: a source of files; the rows 1 to 4 are faulty."""
    settings, voices = config(tmp_path, source="jsonl", time_limit_seconds=2.0), {"en-US+m1": 1.0}
    path = synthesize_shard(settings, FaultySource("train", 0), voices, (0, 6), "shard")
    kept = shard_metadata(path)
    assert pq.read_table(path).num_rows == kept["rows"] == 2
    reasons = [one["reason"] for one in kept["rejected"]]
    assert reasons == [
        "reader: no content in 2 s, the time limit of a row",
        "reader: died on this row (exit code 7)",
        "reader: takes over 2147 MB",
        "reader: KeyError: 'of a library'",
    ]
    readers = [child for child in active_children() if child.name == "reader"]
    assert not readers, "a reader outlives its shard"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voices": "en-US+m1,nobody"}, "voices: unknown voice 'nobody'"),
        ({"shard_rows": 0}, "count, shard_rows: must be at least 1"),
        ({"count": 0}, "count: 0 takes all of a finite source"),
        ({"voices": "de+m1"}, r"voices: 'de\+m1' speaks de, the questions are in en"),
        ({"voices": "en-US+m1:x"}, "is not name:weight"),
        ({"source": "llava"}, "path: llava needs one"),
        ({"engine": "kokoro"}, r"engine_path: \(empty\): no such folder"),
        ({"rate_wpm": (200, 100)}, "rate_wpm: 200 to 100"),
        ({"pitch": (0, 120)}, "pitch: 0 to 120"),
    ],
)
def test_bad_settings_leave_nothing_behind(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        synthesize(config(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_data_is_refused(data, tmp_path):
    with pytest.raises(InputError, match="seed: 0 there, 5 here"):
        synthesize(config(data, seed=5))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        synthesize(config(tmp_path))


def test_a_folder_without_shards_takes_a_corrected_command(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "?!", "answer": "b"}')
    wrong = config(tmp_path / "out", source="jsonl", path=str(tmp_path / "q.jsonl"), count=1)
    with pytest.raises(InputError, match="all 1 questions were rejected"):
        synthesize(wrong)
    assert not any(wrong.output.iterdir())
    assert synthesize(config(wrong.output, count=1))["rows"] == 1


def test_a_shard_that_another_job_is_making_is_waited_for(tmp_path):
    lock, made = tmp_path / ".train-00000-of-00001.parquet.lock", tmp_path / "train-00000-of-00001-theirs.parquet"
    arguments = (config(tmp_path), ToyWorld("train", 0), {"en-US+m1": 1.0}, (0, 1), made.stem[:20])
    with ProcessPoolExecutor(1, server_context()) as pool:
        assert pool.submit(abs, -1).result(60) == 1, "the worker has started"
        with locked(lock):
            job = pool.submit(synthesize_shard, *arguments)
            with pytest.raises(TimeoutError):
                job.result(1.5)
            made.touch()
        assert job.result(60) == made
    assert [p.name for p in tmp_path.iterdir()] == [made.name]


def test_a_truncated_shard_is_named(tmp_path):
    synthesize(config(tmp_path / "cut", count=2, shard_rows=2))
    (shard,) = (tmp_path / "cut").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"{shard.name}: not a readable shard"):
        list(ExampleFolder(tmp_path / "cut"))


def test_a_whole_folder_passes_the_check_and_a_damaged_one_does_not(data, tmp_path, capsys):
    assert main(["data", "check", str(data)]) == 0
    assert "is whole" in capsys.readouterr().out
    assert check(CheckConfig([data]))[str(data)]["examples"] == 8
    folder = shutil.copytree(data, tmp_path / "copy")
    shard = sorted(folder.glob("*.parquet"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:200] + b"?" + whole[201:])
    with pytest.raises(InputError, match=f"{shard.name}: field sha256"):
        check(CheckConfig([folder]))
    shard.write_bytes(whole)
    other = shutil.copy(shard, folder / "train-00009.parquet")
    with pytest.raises(InputError, match=r"train-00009.parquet: not in the manifest"):
        check(CheckConfig([folder]))
    other.unlink()
    shard.unlink()
    with pytest.raises(InputError, match="in the manifest, but there is no such file"):
        check(CheckConfig([folder]))
    shutil.rmtree(folder)
    folder = shutil.copytree(data, tmp_path / "again")
    shards = sorted(folder.glob("*.parquet"))
    written = replace(list(ExampleFolder(folder))[4], duration_seconds=9.0)  # the second row of the second shard
    write_shard(shards[1], [written, written], {"rows": 2, "rejected": []})
    manifest = read_manifest(folder)
    manifest["shards"][1] |= {"sha256": sha256(shards[1])}
    write_json(folder / MANIFEST, manifest)
    with pytest.raises(InputError, match=f"{shards[1].name}: row 0: field duration_seconds"):
        check(CheckConfig([folder]))
    (folder / MANIFEST).write_text("{")
    with pytest.raises(InputError, match=r"manifest.json: not readable"):
        check(CheckConfig([folder]))
    (folder / MANIFEST).write_text(f'{{"schema_version": {SCHEMA_VERSION}, "rows": 8}}')
    with pytest.raises(InputError, match="field shards: missing"):
        check(CheckConfig([folder]))


def test_shards_are_named_by_their_hash_and_can_be_made_one_by_one(data, tmp_path):
    """As in an array job: each shard by itself, the manifest with the last."""
    for shard in (2, 0, 1):
        made = synthesize(config(tmp_path / "array", shard=shard))
        assert ("missing" in made) == (shard != 1)
    assert digests(tmp_path / "array") == digests(data)
    assert all(name.endswith(f"-{digest[:12]}.parquet") for name, digest in digests(data).items())
    with pytest.raises(InputError, match="shard: 3 of 3"):
        synthesize(config(tmp_path / "array", shard=3))


def test_partial_files_of_killed_jobs_are_ignored_and_removed(data, tmp_path):
    """A partial plan of a job that was killed, or that another job of an array is writing; partial shards."""
    folder = tmp_path / "left"
    (folder / "rejected").mkdir(parents=True)
    (folder / ".plan.json.1a2b3c4d").write_text("{")
    with pytest.raises(InputError, match="not empty"):
        synthesize(config(folder))
    (folder / "rejected").rmdir()
    synthesize(config(folder, shard=0))
    (folder / "..train-00001-of-00003.5e6f.parquet.7a8b").write_bytes(b"PAR1")
    (folder / "rejected").mkdir()
    (folder / "rejected" / ".00001-of-00003.parquet.9c0d").write_bytes(b"PAR1")
    synthesize(config(folder))
    assert digests(folder) == digests(data)
    assert not [p for p in folder.rglob(".*") if p.name != ".plan.json.1a2b3c4d"]


def test_a_folder_of_an_older_version_is_refused_in_one_line(data, tmp_path, capsys):
    """Complete or not: columns and fields had other names."""
    folder = shutil.copytree(data, tmp_path / "older")
    manifest = json.loads((folder / MANIFEST).read_text())
    write_json(folder / MANIFEST, manifest | {"schema_version": SCHEMA_VERSION - 1})
    message = (
        f"schema_version: {SCHEMA_VERSION - 1}, not {SCHEMA_VERSION}: an older selfkd wrote this folder; synthesize"
    )
    for read in (read_manifest, ExampleFolder, lambda folder: check(CheckConfig([folder]))):
        with pytest.raises(InputError, match=f"manifest.json: field {message} it again"):
            read(folder)
    assert main(["data", "check", str(folder)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    (folder / MANIFEST).unlink()
    plan = json.loads((folder / "plan.json").read_text())
    write_json(folder / "plan.json", {k: v for k, v in plan.items() if k != "schema_version"})
    with pytest.raises(InputError, match=r"plan.json: field schema_version: None, not .*an older selfkd wrote"):
        synthesize(config(folder))
    write_json(folder / MANIFEST, manifest | {"schema_version": SCHEMA_VERSION + 1})
    with pytest.raises(InputError, match="a newer selfkd wrote this folder"):
        read_manifest(folder)


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_ends_in_the_same_bytes(tmp_path):
    """A terminal sends it to every process at once: an engine that it ended would have cost a row of a whole shard."""
    arguments = ["synthesize", "--source", "world-noisy", "--count", "96", "--shard_rows", "4", "--output"]
    synthesize(config(tmp_path / "whole", count=96, shard_rows=4))
    for made in (1, 6):
        with Command([*arguments, tmp_path / "stopped"]) as command:
            while len(list((tmp_path / "stopped").glob("train-*.parquet"))) < made and command.poll() is None:
                time.sleep(0.01)
            os.killpg(command.pid, signal.SIGINT)
            assert command.wait(60) == 130 and "interrupted; the same command resumes" in command.stderr
        assert not (tmp_path / "stopped" / MANIFEST).exists()
    synthesize(config(tmp_path / "stopped", count=96, shard_rows=4))
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")
    assert read_manifest(tmp_path / "stopped")["rejected"] == []


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_in_the_same_bytes(data, tmp_path):
    folder = tmp_path / "killed"
    for latest in (1, 2, 3, 3, 4, 4):  # seconds: the command takes about two
        arguments = ["--source", "world-noisy", "--count", "8", "--shard_rows", "3", "--output", folder]
        with Command(["synthesize", *arguments]):  # which is killed at the end
            time.sleep(random.Random().uniform(latest - 1, latest))
        assert {p.name for p in folder.glob("train-*.parquet")} <= set(digests(data))
        if (folder / MANIFEST).is_file():  # it ended before it was killed: from the beginning
            assert digests(folder) == digests(data)
            shutil.rmtree(folder)
    synthesize(config(folder))
    assert digests(folder) == digests(data)
