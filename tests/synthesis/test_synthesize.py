"""Spoken data: shards that others can read, the same bytes from one seed, resumed and in parallel."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pyarrow.parquet as pq
import pytest
from datasets import Audio, load_dataset
from huggingface_hub import HfApi

from selfkd.cli import main
from selfkd.data.check import CheckConfig, check
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, read_manifest, shard_metadata, write_shard
from selfkd.errors import InputError
from selfkd.export import PublishDataConfig, publish_data
from selfkd.files import locked, sha256, write_json
from selfkd.report.sections.audio_quality import quality_tables
from selfkd.synthesis.shards import synthesize_shard
from selfkd.synthesis.sources import toy as embedded_sources
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.synthesis.tts.base import ESPEAK_VOICES


def config(folder, **changes):
    return replace(SynthesizeConfig(folder, "world-noisy", count=8, shard_rows=3, processes=1), **changes)


def digests(folder):
    return {p.name: sha256(p) for p in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken") / "train"
    synthesize(config(folder))
    return folder


def test_two_processes_and_an_interrupted_run_give_the_same_bytes(spoken, tmp_path):
    synthesize(config(tmp_path / "two", processes=2))
    assert digests(tmp_path / "two") == digests(spoken) and len(digests(spoken)) == 3
    (tmp_path / "two" / MANIFEST).unlink()
    next((tmp_path / "two").glob("train-00001-of-00003-*.parquet")).unlink()
    with pytest.raises(InputError, match="unfinished"):
        read_manifest(tmp_path / "two")
    synthesize(config(tmp_path / "two"))
    assert digests(tmp_path / "two") == digests(spoken)


def test_datasets_reads_the_shards_as_they_are(spoken, tmp_path):
    data = load_dataset("parquet", data_files=str(spoken / "*.parquet"), split="train", cache_dir=tmp_path)
    assert type(data.features["image"]).__name__ == "Image" and type(data.features["audio"]).__name__ == "Audio"
    assert data.features["audio"].sampling_rate == 16_000
    row = data.cast_column("audio", Audio(decode=False))[0]
    assert row["image"].size == (64, 64) and row["audio"]["bytes"][:4] == b"fLaC"
    assert len(data) == 8


def test_a_folder_becomes_a_dataset_repository(spoken, tmp_path):
    """All but the upload, for which there is no hub here."""
    folder = shutil.copytree(spoken, tmp_path / "spoken")
    arguments = ["--repo", "me/spoken-world", "--license", "apache-2.0", "--dry-run"]
    assert main(["data", "publish", str(folder), *arguments]) == 0
    card = (folder / "README.md").read_text()
    assert "| questions | 8 |" in card and "espeak-ng" in card and str(tmp_path) not in card
    data = load_dataset(str(folder), cache_dir=tmp_path / "cache")  # by the card's own configuration
    assert list(data) == ["train"] and len(data["train"]) == 8
    assert check(CheckConfig([folder]))[str(folder)]["examples"] == 8
    assert main(["data", "publish", str(folder), "--repo", "nobody", "--license", "mit"]) == 2


def test_what_goes_to_the_hub_says_nothing_of_this_machine(tmp_path, monkeypatch):
    """Neither the settings nor the reasons of rows that were refused; the files' own names are left."""
    mine = tmp_path / "my own" / "pictures"
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
    # shards of an earlier time have other names
    assert uploaded["delete_patterns"] == ["train-*.parquet", "rejected/*.parquet"]
    assert uploaded["allow_patterns"] == ["README.md", *uploaded["delete_patterns"]]
    shard = next(folder.glob("*.parquet"))
    assert b"my own" not in shard.read_bytes() and str(tmp_path).encode() not in shard.read_bytes()
    before = [{"id": "a", "reason": f"field image: {mine}/a.png: no such file"}]
    write_shard(shard, list(ExampleFolder(folder)), {"rows": 1, "rejected": before})
    with pytest.raises(InputError, match="row a: its reason says where files are on this machine"):
        publish_data(PublishDataConfig(folder, "me/mine", "mit"))


def test_what_is_read_is_what_was_spoken(spoken):
    examples = list(ExampleFolder(spoken))
    source = embedded_sources.ToyWorld("train", 0, noisy=True)
    for index, example in enumerate(examples):
        plain = source.example(index)
        assert replace(example, audio=None, voice="", duration_seconds=0.0, spoken_text="") == plain
        assert example.spoken_text == plain.question
        assert example.voice in ESPEAK_VOICES["training"]
        assert len(example.samples()) == round(example.duration_seconds * 16_000) > 8_000
        assert example.load_image().size == (64, 64)


def test_manifest_says_where_everything_is_from(spoken):
    manifest = read_manifest(spoken)
    assert manifest["rows"] == 8 and manifest["rejected"] == [] and manifest["schema_version"] == 3
    assert {"seed", "engine", "engine_license", "source_license", "voice_names", "rate_wpm"} <= set(manifest)
    assert {s["file"]: s["sha256"] for s in manifest["shards"]} == digests(spoken)


def test_voices_are_varied_and_depend_on_the_seed(tmp_path, spoken):
    synthesize(config(tmp_path / "other", seed=1))
    voices = [[e.voice for e in ExampleFolder(f)] for f in (spoken, tmp_path / "other")]
    assert voices[0] != voices[1] and len(set(voices[0])) > 4


def test_what_cannot_be_spoken_is_rejected_with_a_reason(tmp_path):
    class Silent(embedded_sources.ToyWorld):
        def example(self, index):
            example = super().example(index)
            return replace(example, question="...") if index == 2 else example

    path = synthesize_shard(config(tmp_path, source="world"), Silent("train", 0), {"en-US+m1": 1.0}, (0, 3), "shard")
    kept = shard_metadata(path)
    assert pq.read_table(path).num_rows == kept["rows"] == 2
    assert kept["rejected"][0]["id"] == "world-train-0-000002" and "nothing to say" in kept["rejected"][0]["reason"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voices": "en-US+m1,nobody"}, "voices: unknown voice 'nobody'"),
        ({"shard_rows": 0}, "count, shard_rows: must be at least 1"),
        ({"count": 0}, "count: 0 takes all of a source that ends"),
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


def test_a_folder_with_other_data_is_refused(spoken, tmp_path):
    with pytest.raises(InputError, match="seed: 0 there, 5 here"):
        synthesize(config(spoken, seed=5))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        synthesize(config(tmp_path))


def test_a_folder_in_which_nothing_was_made_takes_a_corrected_command(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "?!", "answer": "b"}')
    wrong = config(tmp_path / "out", source="jsonl", path=str(tmp_path / "q.jsonl"), count=1)
    with pytest.raises(InputError, match="all 1 questions were refused"):
        synthesize(wrong)
    assert not any(wrong.output.iterdir())
    assert synthesize(config(wrong.output, count=1))["rows"] == 1


def test_a_shard_that_another_job_is_making_is_waited_for(tmp_path):
    lock, made = tmp_path / ".train-00000-of-00001.parquet.lock", tmp_path / "train-00000-of-00001-theirs.parquet"
    arguments = (config(tmp_path), embedded_sources.ToyWorld("train", 0), {"en-US+m1": 1.0}, (0, 1), made.stem[:20])
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with locked(lock):
            job = pool.submit(synthesize_shard, *arguments)
            with pytest.raises(TimeoutError):
                job.result(8)
            made.touch()
        assert job.result(60) == made
    assert [p.name for p in tmp_path.iterdir()] == [made.name]


def test_a_shard_cut_short_is_named(spoken, tmp_path):
    synthesize(config(tmp_path / "cut", count=2, shard_rows=2))
    (shard,) = (tmp_path / "cut").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"{shard.name}: not a readable shard"):
        list(ExampleFolder(tmp_path / "cut"))


def test_a_whole_folder_passes_the_check_and_a_damaged_one_does_not(spoken, tmp_path, capsys):
    assert main(["data", "check", str(spoken)]) == 0
    assert "is whole" in capsys.readouterr().out
    assert check(CheckConfig([spoken]))[str(spoken)]["examples"] == 8
    folder = shutil.copytree(spoken, tmp_path / "copy")
    shard = sorted(folder.glob("*.parquet"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:200] + b"?" + whole[201:])
    with pytest.raises(InputError, match=f"{shard.name}: field sha256"):
        check(CheckConfig([folder]))
    shard.write_bytes(whole)
    other = shutil.copy(shard, folder / "train-00009.parquet")
    with pytest.raises(InputError, match=r"train-00009.parquet: there, though the manifest does not name it"):
        check(CheckConfig([folder]))
    other.unlink()
    shard.unlink()
    with pytest.raises(InputError, match="not there, though the manifest names it"):
        check(CheckConfig([folder]))
    shutil.rmtree(folder)
    folder = shutil.copytree(spoken, tmp_path / "again")
    shards = sorted(folder.glob("*.parquet"))
    written = replace(list(ExampleFolder(folder))[4], duration_seconds=9.0)  # the second row of the second shard
    write_shard(shards[1], [written, written], {"rows": 2, "rejected": []})
    manifest = read_manifest(folder)
    manifest["shards"][1] |= {"sha256": sha256(shards[1])}
    write_json(folder / MANIFEST, manifest)
    with pytest.raises(InputError, match=f"{shards[1].name}: row 0: field duration_seconds"):
        check(CheckConfig([folder]))
    (folder / MANIFEST).write_text("{")
    with pytest.raises(InputError, match=r"manifest.json: not a manifest"):
        check(CheckConfig([folder]))
    (folder / MANIFEST).write_text('{"schema_version": 3, "rows": 8}')
    with pytest.raises(InputError, match="field shards: not in the manifest"):
        check(CheckConfig([folder]))


def test_shards_are_named_by_what_they_hold_and_can_be_made_alone(spoken, tmp_path):
    """As an array job would: each shard by itself, the manifest with the last."""
    for shard in (2, 0, 1):
        made = synthesize(config(tmp_path / "array", shard=shard))
        assert ("missing" in made) == (shard != 1)
    assert digests(tmp_path / "array") == digests(spoken)
    assert all(name.endswith(f"-{digest[:12]}.parquet") for name, digest in digests(spoken).items())
    with pytest.raises(InputError, match="shard: 3 of 3"):
        synthesize(config(tmp_path / "array", shard=3))


def test_what_killed_jobs_leave_is_no_hindrance_and_goes_at_the_end(spoken, tmp_path):
    """Half a plan of a job that was killed, or that another job of an array is writing; halves of shards."""
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
    assert digests(folder) == digests(spoken)
    assert not [p for p in folder.rglob(".*") if p.name != ".plan.json.1a2b3c4d"]


def listen_to_ctrl_c():
    """What a shell has started in the background, as these tests may be, does not, nor does what that starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_after_ctrl_c_the_same_command_ends_in_the_same_bytes(tmp_path):
    """A terminal sends it to every process at once: an engine that it ended would have cost a row of a whole shard."""
    wanted = ["--source", "world-noisy", "--count", "400", "--shard_rows", "10", "--output"]
    synthesize(config(tmp_path / "whole", count=400, shard_rows=10))
    command = [sys.executable, "-m", "selfkd.cli", "synthesize", *wanted, str(tmp_path / "stopped")]
    for made in (1, 6):
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listen_to_ctrl_c
        )
        while len(list((tmp_path / "stopped").glob("train-*.parquet"))) < made and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        assert "interrupted; the same command resumes" in process.communicate(timeout=60)[1]
        assert process.returncode == 130 and not (tmp_path / "stopped" / MANIFEST).exists()
    synthesize(config(tmp_path / "stopped", count=400, shard_rows=10))
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")
    assert read_manifest(tmp_path / "stopped")["rejected"] == []


def test_killed_at_random_moments_it_ends_in_the_same_bytes(spoken, tmp_path):
    command = [sys.executable, "-m", "selfkd.cli", "synthesize", "--source", "world-noisy", "--count", "8"]
    command += ["--shard_rows", "3", "--output", str(tmp_path / "killed")]
    for _ in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.Random().uniform(0.5, 6))
        process.kill()
        process.wait()
        names = [p.name for p in (tmp_path / "killed").glob("train-*.parquet")]
        assert set(names) <= set(digests(spoken))
        if (tmp_path / "killed" / MANIFEST).is_file():  # done before it was killed: from the beginning
            assert digests(tmp_path / "killed") == digests(spoken)
            shutil.rmtree(tmp_path / "killed")
    synthesize(config(tmp_path / "killed"))
    assert digests(tmp_path / "killed") == digests(spoken)
