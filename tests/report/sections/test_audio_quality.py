"""The page on audio quality: word error rates by hand, audio of the worst rows, reasons for rejection."""

from dataclasses import replace

import pytest
from examples import toy_examples

from selfkd.cli import main
from selfkd.data.example import MANIFEST, REJECTED, write_shard
from selfkd.errors import InputError
from selfkd.files import write_json
from selfkd.report.sections.audio_quality import AudioQualityConfig, audio_quality_report


@pytest.fixture
def folder(tmp_path):
    kept = toy_examples(6)
    transcribed = [
        replace(
            e,
            voice=("anna", "ben")[i % 2],
            word_error_rate=(0.0, 0.25)[i == 3],
            transcript=f"transcript {i}",
            spoken_text=f"<{i}>",
        )
        for i, e in enumerate(kept)
    ]
    rejected = replace(
        transcribed[0], id="bad", word_error_rate=1.0, image=None, rejected="word error rate 1.00 is over 0.30"
    )
    write_shard(tmp_path / "d" / "train.parquet", transcribed, {"rows": 6})
    write_shard(tmp_path / "d" / REJECTED / "0.parquet", [rejected], {"rows": 1})
    manifest = {
        "shards": [{"file": "train.parquet"}],
        "rejected_shards": [{"file": f"{REJECTED}/0.parquet"}],
        "rejected": [
            {"id": "bad", "reason": rejected.rejected},
            {"id": "none", "reason": "field image: /x/a.jpg: no such file"},
        ],
        "engine_name": "some engine",
        "asr_filter": "openai/whisper-base.en",
    }
    write_json(tmp_path / "d" / MANIFEST, manifest)
    return tmp_path / "d"


def test_metrics_by_voice_and_worst_rows_first(folder, tmp_path, capsys):
    assert main(["data", "report", str(folder), "--output", str(tmp_path / "page.html"), "--items", "2"]) == 0
    page = (tmp_path / "page.html").read_text()
    # anna: 0, 0, 0 and the rejected 1; ben: 0, 0.25, 0 -> 0.083, standard error 0.083
    plain = page.replace(' class="text"', "")
    assert "<td>anna</td><td>some engine</td><td>4</td><td>0.250 ± 0.250</td><td>75.0%</td><td>1</td>" in plain
    assert "<td>ben</td><td>some engine</td><td>3</td><td>0.083 ± 0.083</td><td>66.7%</td><td>0</td>" in plain
    assert "whisper-base.en" in page and "<td>word error rate … is over …</td><td>1</td>" in plain
    assert page.count("data:audio/flac;base64,") == 2 and "&lt;3&gt;" in page and "<3>" not in page
    assert page.index("no: word error rate 1.00 is over 0.30") < page.index("transcript 3")
    assert "7 transcribed rows" in capsys.readouterr().out


def test_data_without_transcripts_are_refused(folder, tmp_path):
    write_shard(folder / "train.parquet", toy_examples(2), {"rows": 2})
    write_json(folder / MANIFEST, {"shards": [{"file": "train.parquet"}], "rejected_shards": [], "rejected": [],
                                   "engine_name": "e", "asr_filter": ""})  # fmt: skip
    with pytest.raises(InputError, match="no transcripts"):
        audio_quality_report(AudioQualityConfig([str(folder)], tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()
