"""A column of recorded speech in a table: the recording is the audio query, its transcript the text query."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, Image, List, Value
from published_sets import IMAGES, gap_of, modality_counts, recorded, synthesized, write_dataset, write_file

from selfkd.errors import InputError
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.sources.registry import open_source
from selfkd.synthesis.sources.rows import PAUSE_SECONDS
from selfkd.synthesis.synthesize import synthesize

CLIPS = [recorded(1.5 + number / 4, 200 + 30 * number) for number in range(4)]
COLORS = ("red", "blue", "green", "gray")
ROWS = [
    {"id": f"q{n}", "question": f"What color is number {n}?", "answer": color, "question_type": "color"}
    for n, color in enumerate(COLORS)
]


def write_lines(tmp_path, rows):
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "mine.jsonl"


@pytest.mark.slow
def test_a_table_with_recordings_from_its_layout_to_its_gap(tmp_path):
    for number, clip in enumerate(CLIPS):
        write_file(tmp_path / "audio" / f"{number}.wav", clip)
        write_file(tmp_path / "images" / f"{number}.png", IMAGES[number])
    rows = [row | {"speech": f"audio/{n}.wav", "image": f"{n}.png"} for n, row in enumerate(ROWS)]
    manifest, examples = synthesized(
        tmp_path / "out",
        "jsonl",
        write_lines(tmp_path, rows),
        images=str(tmp_path / "images"),
        source_license="CC-BY-4.0",
    )
    assert [e.question for e in examples] == [e.spoken_text for e in examples] == [row["question"] for row in ROWS]
    assert [e.duration_seconds for e in examples] == [1.5, 1.75, 2.0, 2.25] and [e.image for e in examples] == IMAGES
    assert (manifest["engine"], manifest["engine_name"], manifest["voice_names"]) == ("recorded",) * 2 + (["recorded"],)
    assert manifest["engine_license"] == manifest["source_license"] == "CC-BY-4.0"
    assert modality_counts(gap_of([tmp_path / "out"], tmp_path), "mine") == (4, 4, 4)


AUDIO, TEXTS = Audio(), dict.fromkeys(ROWS[0], Value("string"))


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (AUDIO, [{"bytes": clip, "path": "a.wav"} for clip in CLIPS]),
        (AUDIO, [{"bytes": None, "path": f"audio/{n}.wav"} for n in range(4)]),
        (Value("string"), [f"audio/{n}.wav" for n in range(4)]),
        (Value("string"), [f"audio/{n}" for n in range(4)]),  # without an extension
        (Value("binary"), CLIPS),
    ],
    ids=["stored", "path of an Audio column", "path", "name", "bytes"],
)
def test_recordings_in_every_form(tmp_path, feature, values):
    for number, clip in enumerate(CLIPS):
        write_file(tmp_path / "set" / "audio" / f"{number}.wav", clip)
    features = TEXTS | {"speech": feature, "speaker": Value("int64")}
    rows = [row | {"speech": value, "speaker": 7} for row, value in zip(ROWS, values, strict=True)]
    write_dataset(tmp_path / "set" / "train.parquet", rows, features)
    manifest, examples = synthesized(tmp_path / "out", "datasets", tmp_path / "set", shard_rows=3)
    assert [e.duration_seconds for e in examples] == [1.5, 1.75, 2.0, 2.25] and manifest["rejected"] == []
    assert {e.voice for e in examples} == {"7"} and manifest["voice_names"] == ["7"]


def test_audio_in_parquet_without_metadata(tmp_path):
    rows = [row | {"clip": {"bytes": clip, "path": None}} for row, clip in zip(ROWS, CLIPS, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    _, examples = synthesized(tmp_path / "out", "datasets", tmp_path / "mine.parquet", columns={"speech": "clip"})
    assert [e.duration_seconds for e in examples] == [1.5, 1.75, 2.0, 2.25]


@pytest.mark.parametrize("form", ["Parquet", "JSON lines"])
def test_a_list_of_clips_is_joined_in_its_order(tmp_path, form):
    for number, clip in enumerate(CLIPS):
        write_file(tmp_path / f"{number}.wav", clip)
    if form == "Parquet":
        features = TEXTS | {"speech": List(AUDIO)}
        clips = [{"bytes": CLIPS[n], "path": None} for n in (3, 0)]
        write_dataset(tmp_path / "mine.parquet", [ROWS[0] | {"speech": clips}], features)
        source, path = "datasets", tmp_path / "mine.parquet"
    else:
        source, path = "jsonl", write_lines(tmp_path, [ROWS[0] | {"speech": ["3.wav", "0.wav"]}])
    _, (example,) = synthesized(tmp_path / "out", source, path)
    assert example.duration_seconds == 2.25 + PAUSE_SECONDS + 1.5
    samples = example.samples()
    pause = samples[round(2.25 * 16_000) : round((2.25 + PAUSE_SECONDS) * 16_000)]
    assert not pause.any() and np.abs(samples).max() > 0.2


def test_a_bad_recording_costs_its_row(tmp_path):
    write_file(tmp_path.parent / "secret.wav", CLIPS[0])
    write_file(tmp_path / "good.wav", CLIPS[0])
    write_file(tmp_path / "short.wav", CLIPS[1][:-20_000])
    names = ["good.wav", "../secret.wav", "short.wav", "gone.wav"]
    rows = [row | {"speech": name} for row, name in zip(ROWS, names, strict=True)]
    manifest, examples = synthesized(tmp_path / "out", "jsonl", write_lines(tmp_path, rows))
    assert [e.id for e in examples] == ["q0"]
    reasons = [r["reason"] for r in manifest["rejected"]]
    assert [r["id"] for r in manifest["rejected"]] == ["q1", "q2", "q3"]
    assert "leads out of the folder" in reasons[0] and "truncated" in reasons[1] and "not readable audio" in reasons[2]


def test_recordings_stay_in_the_folder_given(tmp_path):
    write_file(tmp_path / "mine" / "a.wav", CLIPS[0])
    write_file(tmp_path / "other" / "b.wav", CLIPS[1])
    path = write_lines(tmp_path, [ROWS[0] | {"speech": "a.wav"}, ROWS[1] | {"speech": "../other/b.wav"}])
    manifest, examples = synthesized(tmp_path / "out", "jsonl", path, recordings=str(tmp_path / "mine"))
    assert [e.id for e in examples] == ["q0"] and "leads out of" in manifest["rejected"][0]["reason"]
    assert str(tmp_path) not in json.dumps(manifest["rejected"])


def test_rows_without_a_recording_are_counted_and_never_synthesized(tmp_path):
    write_file(tmp_path / "a.wav", CLIPS[0])
    speech = ["a.wav", "", None]
    rows = [row | {"speech": name} for row, name in zip(ROWS, speech, strict=False)] + [ROWS[3]]
    manifest, examples = synthesized(tmp_path / "out", "jsonl", write_lines(tmp_path, rows))
    assert [e.id for e in examples] == ["q0"] and manifest["skipped_by_the_source"] == {"no recording": 3}
    with pytest.raises(InputError, match=r"row 1: 'speech': a recording, where row 0 has none"):
        open_source(SynthesizeConfig(tmp_path / "o", "jsonl", str(write_lines(tmp_path, [ROWS[1], rows[0]])), count=0))


def test_a_table_without_recordings_needs_its_engine(tmp_path):
    with pytest.raises(InputError, match=r"engine_path: .*kokoro needs one"):
        synthesized(tmp_path / "out", "jsonl", write_lines(tmp_path, ROWS))


def test_stored_recordings_stay_on_disk(tmp_path):
    features = TEXTS | {"speech": AUDIO, "image": Image()}
    rows = [
        row | {"speech": {"bytes": CLIPS[0], "path": None}, "image": {"bytes": IMAGES[0], "path": None}} for row in ROWS
    ]
    write_dataset(tmp_path / "mine.parquet", rows, features)
    source = open_source(SynthesizeConfig(tmp_path / "o", "datasets", str(tmp_path / "mine.parquet"), count=0))
    (clip,) = source.recordings(1)
    assert clip.file.read() == CLIPS[0] and source.example(1).image == IMAGES[0]
    assert (
        source.sha256()
        == open_source(SynthesizeConfig(tmp_path / "o", "datasets", str(tmp_path / "mine.parquet"), count=0)).sha256()
    )


def test_a_folder_of_recordings_resumes_to_the_same_bytes(tmp_path):
    rows = [row | {"speech": f"{n}.wav"} for n, row in enumerate(ROWS)]
    for number, clip in enumerate(CLIPS):
        write_file(tmp_path / f"{number}.wav", clip)
    path = write_lines(tmp_path, rows)
    whole, _ = synthesized(tmp_path / "whole", "jsonl", path, shard_rows=2)
    config = SynthesizeConfig(tmp_path / "parts", "jsonl", str(path), count=0, shard_rows=2, processes=1, shard=1)
    assert synthesize(config)["missing"] == 1
    parts, _ = synthesized(tmp_path / "parts", "jsonl", path, shard_rows=2, engine="espeak")
    assert parts["shards"] == whole["shards"] and len(parts["shards"]) == 2
    write_lines(tmp_path, [rows[0] | {"speech": "1.wav"}, *rows[1:]])
    with pytest.raises(InputError, match="its questions are not those of the source now"):
        synthesized(tmp_path / "parts", "jsonl", path, shard_rows=2, engine="espeak")
