"""`selfkd demo` at a small size: the terminal output, the scores and the report."""

import json
import re

import pytest
from processes import run_selfkd

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import read_manifest
from selfkd.demo import BUNDLED_TRAINING_VOICES, BUNDLED_VOICES, SYNTHESIZED_VOICE, DemoConfig, training_data
from selfkd.files import locked

pytestmark = pytest.mark.slow


def test_terminal_shows_the_scores(demo):
    lines = demo.stdout.splitlines()
    assert "Accuracy in % (standard error)" in demo.stdout and "easy-vqa" in demo.stdout and "Report:" in demo.stdout
    assert f"selfkd app selfkd-tiny {demo.folder}/selfkd/model" in demo.stdout
    assert "world by voice: accuracy in %" in demo.stdout and "WER" in demo.stdout
    assert max(len(line) for line in lines if str(demo.folder) not in line) <= 80
    stages = [re.match(r"stage (\d+) of (\d+): ", line) for line in lines]
    numbers = [tuple(map(int, stage.groups())) for stage in stages if stage]
    assert numbers == [(n + 1, len(numbers)) for n in range(len(numbers))] and len(numbers) == 11


def test_other_settings_are_refused(demo):
    with locked(demo.lock):
        again = run_selfkd(*demo.arguments, "--alpha", "0.5")
    assert again.returncode == 2 and "holds another run (alpha: 1.0 there, 0.5 here)" in again.stderr


def test_scores_hold_every_metric(demo):
    scores = json.loads((demo.folder / "scores.json").read_text())
    voices = {f"world@{voice}" for voice in (SYNTHESIZED_VOICE, *BUNDLED_VOICES)}
    assert set(scores) == voices | {"easy-vqa", "mmalign-world", "world"}
    over_voices = scores.pop("world")
    assert not over_voices["systems"] and {"sft", "selfkd", "ctc"} <= set(over_voices["over_voices"])
    for benchmark in scores.values():
        assert list(benchmark["systems"]) == ["text", "sft", "selfkd", "ctc", "cascade"]
        for metrics in benchmark["systems"].values():
            assert {"n", "correct", "accuracy", "stderr", "parse_rate", "yes_rate"} <= set(metrics)
            assert metrics["accuracy"] == pytest.approx(metrics["correct"] / metrics["n"])
        assert {"share", "interval"} <= set(benchmark["gap_closed"]["selfkd"])
        assert set(benchmark["gap"]) == {"sft", "selfkd", "ctc", "cascade"}


def test_text_queries_are_answered_by_the_bundled_model(demo):
    """Training changes neither the VLM backbone nor its responses to text queries."""
    scores = json.loads((demo.folder / "scores.json").read_text())
    assert scores["world@pico"]["systems"]["text"]["accuracy"] > 0.8


def test_training_data_is_in_voices_of_three_engines(tmp_path):
    """With clean labels the clips are the same, and each response is the reference answer."""
    noisy, clean = (
        [ExampleFolder(f) for f in training_data(DemoConfig(tmp_path / labels, labels, questions=4))]
        for labels in ("noisy", "clean")
    )
    assert [read_manifest(f.folder)["engine"] for f in noisy] == ["espeak", *BUNDLED_TRAINING_VOICES]
    for some, same in zip(noisy, clean, strict=True):
        assert (some.source, same.source) == ("world-noisy", "world") and len(some) == len(same)
        assert some[0].audio == same[0].audio and some[0].question == same[0].question
        assert all(row["answer"] == row["target"] for row in same.columns("answer", "target"))
        assert any(row["answer"] != row["target"] for row in some.columns("answer", "target"))


def test_sft_and_selfkd_differ_in_alpha_only(demo):
    configs = [json.loads((demo.folder / name / "config.json").read_text()) for name in ("sft", "selfkd")]
    differing = {k for k in configs[0] if configs[0][k] != configs[1][k]}
    assert differing == {"alpha", "output"}


def test_report_is_one_self_contained_page(demo):
    page = (demo.folder / "report.html").read_text()
    assert page.count("<article") >= page.count("data:audio/") >= 40 and page.count("<svg") >= 20
    assert page.index('id="answers"') < page.index("world by voice") < page.index('class="finding"')
    assert "world, 4 voices: " in page, "what the first screen speaks of"
    assert page.count('class="map"') == 2 * 4 * 2 * 2, "two items, four models, two modalities, two layers"
    assert not re.search(r"""src=["'](?!data:)|href=["'](?:/|\w+:)(?<!data:)""", page), "links to data are relative"
    for section in ("scores", "attention", "agreement", "items", "training", "audio_quality", "provenance"):
        assert f'<section id="{section}"' in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert "mirror the paper&#39;s setting" in page


def test_rerun_repeats_no_stage(demo):
    before = (demo.folder / "scores.json").read_bytes()
    with locked(demo.lock):
        again = run_selfkd(*demo.arguments)
    assert again.returncode == 0 and " ".join(again.stdout.split()).count(": complete") == 9
    assert (demo.folder / "scores.json").read_bytes() == before
