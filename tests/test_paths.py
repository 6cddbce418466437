"""File names in data never lead out of their folder: files that are read, written and published."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import toy_examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfkd.check_data import CheckConfig, check
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, SCHEMA_VERSION, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.grading import check_source_name
from selfkd.evaluation.own_data import open_own_data
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import SampleFile, sample, samples_path
from selfkd.files import case_key, check_name, in_sole_use, locked, path_within, sha256, write_json
from selfkd.synthesis.sources.registry import open_source
from selfkd.synthesis.sources.rows import Clip, read_clip
from selfkd.synthesis.synthesize import synthesize
from selfkd.synthesis.tts.base import Utterance
from selfkd.synthesis.tts.registry import RecordedEngine
from tests.synthesis.sources.test_sources import IMAGE, audio_clip
from tests.synthesis.sources.test_sources import settings as source_settings

IMAGE_STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLUMNS = pa.schema([("question", pa.string()), ("answer", pa.string()), ("image", IMAGE_STRUCT)])
PARTS = st.sampled_from(
    ["..", ".", "a", "b", "out", "in", "loop", "", "...", "A", "private", "\0", "a.png", "~", "\\.."]
)

NAMES = st.sampled_from(
    ["a", "a.text", "a.text.jsonl.partial-0", "a.text.jsonl", "[a]", "a[0-9]", "a0", "a@x", "[ab]", "b", "ä"]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`images` with folders, a link that leads out, one that stays in, and one that leads to itself."""
    home = tmp_path_factory.mktemp("home")
    for name in ("private", "images/a", "images/b", "images-of-mine"):
        (home / name).mkdir(parents=True)
    for name in ("private/me.png", "images/a/a.png", "a.png", "images-of-mine/a.png"):
        (home / name).write_bytes(IMAGE)
    (home / "images" / "out").symlink_to(home / "private")
    (home / "images" / "in").symlink_to(home / "images" / "a")
    (home / "images" / "loop").symlink_to(home / "images" / "loop")
    return home / "images"


@settings(deadline=None, max_examples=80, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(PARTS, max_size=6), start=st.sampled_from(["", "/", "home", "images"]))
def test_no_name_leads_out_of_its_folder(folder, parts, start):
    """sec_06_picture_outside_the_folder"""
    name = {"home": f"{folder.parent}/", "images": f"{folder}/"}.get(start, start) + "/".join(parts)
    try:
        found = path_within(folder, name)
    except InputError:
        return
    assert found == folder / name and Path(os.path.realpath(found)).is_relative_to(os.path.realpath(folder))


def test_names_within_a_folder_are_unchanged(folder):
    for name in ("a/a.png", "in/a.png", "a/../a/a.png", str(folder / "a" / "a.png"), "not/there.png"):
        assert path_within(folder, name) == folder / name
    for name in ("out/me.png", "../a.png", "../images-of-mine/a.png", "/etc/passwd", str(folder.parent / "a.png")):
        with pytest.raises(InputError, match="leads out of the folder"):
            path_within(folder, name)


def test_links_of_a_hub_snapshot_to_its_blobs_are_accepted(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "f00").write_bytes(IMAGE)
    snapshot = tmp_path / "snapshots" / "1" / "images"
    snapshot.mkdir(parents=True)
    (snapshot / "a.png").symlink_to(tmp_path / "blobs" / "f00")
    assert path_within(snapshot, "a.png").read_bytes() == IMAGE
    with pytest.raises(InputError, match="leads out"):
        path_within(snapshot, "../../../x")


@pytest.mark.parametrize("name", ["../private/me.png", "{home}/private/me.png", "out/me.png"])
def test_an_image_outside_the_folder_is_rejected(folder, tmp_path, name):
    """sec_06_picture_outside_the_folder: in a list, in llava's file and by a path in a dataset's column."""
    name = name.format(home=folder.parent)
    rows = [
        {"image": name, "question": "What is it?", "answer": "x"},
        {"image": "a/a.png", "question": "And it?", "answer": "y"},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = synthesize(source_settings(tmp_path, "jsonl", tmp_path / "q.jsonl", images=str(folder)))
    (refused,) = manifest["rejected"]
    assert manifest["rows"] == 1 and "leads out of the folder" in refused["reason"], refused
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "x"}]
    (tmp_path / "llava.json").write_text(json.dumps([{"id": "1", "image": name, "conversations": turns}]))
    source = open_source(source_settings(tmp_path, "llava", tmp_path / "llava.json", images=str(folder)))
    with pytest.raises(InputError, match="leads out of the folder"):
        source.example(0)
    images = pa.array([{"bytes": None, "path": path} for path in (name, "a/a.png")])
    (tmp_path / "data").mkdir()
    table = pa.table({"question": ["a"] * 2, "answer": ["b"] * 2, "image": images})
    pq.write_table(table.cast(COLUMNS), tmp_path / "data" / "train.parquet")
    source = open_source(source_settings(tmp_path, "datasets", tmp_path / "data", images=str(folder)))
    with pytest.raises(InputError, match=r"field image: .*me.png: no file in "):
        source.example(0)
    assert source.example(1).image == IMAGE


def test_audio_outside_the_folder_is_rejected(tmp_path):
    audio_clip(tmp_path / "private.flac", 2.0)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "link.flac").symlink_to(tmp_path / "private.flac")
    for name in ("../private.flac", str(tmp_path / "private.flac"), "link.flac"):
        (tmp_path / "own" / "c.tsv").write_text(f"client_id\tpath\tsentence\nx\t../{name}\tWhat is it?\n")
        cut = {
            "id": "a", "start": 0.0, "duration": 2.0, "supervisions": [{"text": "what is it"}],
            "recording": {"sources": [{"type": "file", "channels": [0], "source": name}]},
        }  # fmt: skip
        (tmp_path / "own" / "cuts.jsonl").write_text(json.dumps(cut))
        segment = {"sid": "s", "text_tn": "WHAT IS IT", "begin_time": 0.0, "end_time": 2.0}
        audios = {"audios": [{"path": name, "aid": "a", "segments": [segment]}]}
        (tmp_path / "own" / "giga.json").write_text(json.dumps(audios))
        for source, file in (("common-voice", "c.tsv"), ("lhotse", "cuts.jsonl"), ("gigaspeech", "giga.json")):
            opened = open_source(source_settings(tmp_path, source, tmp_path / "own" / file))
            with pytest.raises(InputError, match=r"field audio: .*leads out of the folder"):
                read_clip(opened.recordings(0)[0])
    assert len(read_clip(Clip(tmp_path / "own" / "link.flac"))[0]) == 32_000, "a path of the user is read"


@pytest.fixture
def data(tmp_path):
    """A complete folder of two examples."""
    return folder_of(tmp_path / "data", toy_examples(2))


def folder_of(path, examples):
    write_shard(path / "test-0.parquet", examples, {"rows": len(examples), "rejected": []})
    entry = {"file": "test-0.parquet", "rows": len(examples), "sha256": sha256(path / "test-0.parquet")}
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "rows": len(examples),
        "shards": [entry],
        "rejected": [],
        "rejected_shards": [],
    }
    write_json(path / MANIFEST, manifest)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../../victim/x",
        "/tmp/x",
        "a/b",
        "..",
        ".",
        "",
        " ",
        "a\\b",
        "a\nb",
        "x" * 300,
        "*",
        "a?",
        "a:b",
        '"',
        "a.",
        " a",
        "nul",
        "COM1.text",
        "a|b",
        "<a>",
        "\0",
    ],
)
def test_a_source_that_cannot_name_a_file_is_refused(data, name):
    """sec_04_data_source_writes_outside_the_run"""
    with pytest.raises(InputError, match="cannot name a file"):
        check_name(name)
    if not name:
        return
    table = pq.read_table(data / "test-0.parquet")
    at = table.schema.get_field_index("source")
    table = table.set_column(at, table.schema.field(at), pa.array([name] * 2))
    pq.write_table(table, data / "test-0.parquet")
    manifest = json.loads((data / MANIFEST).read_text())
    manifest["shards"][0]["sha256"] = sha256(data / "test-0.parquet")
    write_json(data / MANIFEST, manifest)
    with pytest.raises(InputError, match=r"data: row 0: field source: .* cannot name a file"):
        ExampleFolder(data).source  # noqa: B018
    with pytest.raises(InputError, match=r"row 0: field source: .* cannot name a file"):
        check(CheckConfig([data]))
    with pytest.raises(InputError, match="cannot name a file"):
        check_source_name(ExampleFolder(data))


@pytest.mark.parametrize("name", ["../other/test-0.parquet", "{home}/other/test-0.parquet", "link.parquet"])
def test_a_manifest_names_no_shard_outside_its_folder(data, tmp_path, name):
    folder_of(tmp_path / "other", toy_examples(1))
    (data / "link.parquet").symlink_to(tmp_path / "other" / "test-0.parquet")
    manifest = json.loads((data / MANIFEST).read_text())
    manifest["shards"][0]["file"] = name.format(home=tmp_path)
    write_json(data / MANIFEST, manifest)
    for read in (ExampleFolder, lambda folder: check(CheckConfig([folder]))):
        with pytest.raises(InputError, match=r"leads out of the folder|does not name a file|not in the manifest"):
            read(data)


def test_samples_of_a_run_stay_in_its_folder(tmp_path):
    assert samples_path(tmp_path, "mme@anna", "text") == tmp_path / "samples" / "mme@anna.text.jsonl"
    with pytest.raises(InputError, match="leads out"):
        samples_path(tmp_path, "../../x", "text")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "samples").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads out"):
        samples_path(tmp_path / "run", "x", "text")


@settings(deadline=None, max_examples=60, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(names=st.lists(NAMES, min_size=2, max_size=3, unique_by=case_key))
def test_no_benchmark_reads_the_samples_of_another(tmp_path_factory, names):
    """Partial files are found by their names, which data give."""
    folder = tmp_path_factory.mktemp("run")
    samples = {name: sample(replace(toy_examples(1)[0], id=name), "text", Prediction("x")) for name in names}
    files = {name: SampleFile(samples_path(folder, name, "text"), [name]) for name in names}
    for name in names:
        files[name].add(samples[name])
    for name in names:
        assert list(files[name].known()) == [name]
    for name in names:
        files[name].finish()
        assert [list(SampleFile(files[n].path, [n]).known()) for n in names] == [[n] for n in names]


def test_samples_are_not_written_through_a_link(tmp_path):
    path = samples_path(tmp_path / "run", "x", "text")
    path.parent.mkdir(parents=True)
    (tmp_path / "private").write_text("mine")
    path.with_name(f"{path.name}.partial-0").symlink_to(tmp_path / "private")
    with pytest.raises(InputError, match="leads out"):
        SampleFile(path, ["a"])
    assert (tmp_path / "private").read_text() == "mine"


@pytest.mark.parametrize("other", ["World", "WORLD", "world"])
def test_two_sources_are_no_one_file_where_case_is_ignored(tmp_path, other):
    for number, source in enumerate(("world", other)):
        folder_of(tmp_path / str(number), [replace(e, source=source, question_type="open") for e in toy_examples(2)])
    with pytest.raises(InputError, match="a second folder of"):
        open_own_data([str(tmp_path / "0"), str(tmp_path / "1")])


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "ä" * 200, "\0", "\ud800", "a" * 5_000])
def test_names_that_no_file_has_are_refused(folder, tmp_path, name):
    with pytest.raises(InputError, match="no file name"):
        path_within(folder, name)
    with pytest.raises(InputError, match="no file name"):
        read_clip(Clip(folder / f"{name}.flac", folder=folder))
    with pytest.raises(InputError, match="no file name"):
        RecordedEngine(tmp_path).synthesize_audio(Utterance("x", "recorded", id=name))


def test_a_link_with_another_case_is_refused(tmp_path):
    audio_clip(tmp_path / "private.flac", 2.0)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.FLAC").symlink_to(tmp_path / "private.flac")
    with pytest.raises(InputError, match="leads out"):
        read_clip(Clip(tmp_path / "own" / "a.flac", folder=tmp_path / "own"))


def test_a_lock_follows_no_link(tmp_path):
    (tmp_path / "private").write_text("mine")
    (tmp_path / "link.lock").symlink_to(tmp_path / "private")
    os.mkfifo(tmp_path / "pipe.lock")
    (tmp_path / "folder.lock").mkdir()
    for name in ("link.lock", "pipe.lock", "folder.lock"):
        with pytest.raises(InputError, match=f"{name}: cannot be a lock"), in_sole_use(tmp_path, tmp_path / name):
            pass
        with pytest.raises(InputError, match=f"{name}: cannot be a lock"), locked(tmp_path / name):
            pass
    assert (tmp_path / "private").read_text() == "mine"
    with locked(tmp_path / "new" / "a.lock"):
        assert (tmp_path / "new" / "a.lock").is_file()
