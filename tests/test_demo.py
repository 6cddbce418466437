"""The whole pipeline at a tenth of its size, as a user starts it, and the page that it ends in."""

import json
import re
import subprocess
import sys

import pytest

SMALL = {"words": 40, "questions": 40, "align_steps": 3, "distill_steps": 3, "token_steps": 2, "test_share": 0.06}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    command = [sys.executable, "-m", "selfkd.cli", "demo", "--output", folder]
    for name, value in SMALL.items():
        command += [f"--{name}", value]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done, command


def test_terminal_shows_the_table(demo):
    _, done, _ = demo
    assert "Accuracy in % (standard error)" in done.stdout and "easy-vqa" in done.stdout and "Report:" in done.stdout
    assert f"selfkd app {demo[0]}/tokens/model" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 200


def test_another_setting_is_not_taken_for_what_was_done(demo):
    again = subprocess.run([*map(str, demo[2]), "--alpha", "0.5"], capture_output=True, text=True, timeout=300)
    assert again.returncode == 2 and "holds another run (alpha: 1.0 there, 0.5 here)" in again.stderr


def test_scores_hold_every_figure(demo):
    scores = json.loads((demo[0] / "scores.json").read_text())
    assert set(scores) == {"world", "easy-vqa", "mmalign-world"}
    for benchmark in scores.values():
        assert list(benchmark["systems"]) == ["text", "sft", "selfkd", "tokens", "cascade"]
        for metrics in benchmark["systems"].values():
            assert {"n", "correct", "accuracy", "stderr", "parse_rate", "yes_rate"} <= set(metrics)
            assert metrics["accuracy"] == pytest.approx(metrics["correct"] / metrics["n"])
        assert {"share", "interval"} <= set(benchmark["gap_closed"]["selfkd"])
        assert set(benchmark["gap"]) == {"sft", "selfkd", "tokens", "cascade"}


def test_the_written_view_is_the_bundled_models(demo):
    """Written questions are answered whatever was trained: the embedded model does it, and nothing touched it."""
    scores = json.loads((demo[0] / "scores.json").read_text())
    assert scores["world"]["systems"]["text"]["accuracy"] > 0.8


def test_sft_and_selfkd_saw_the_same_data_in_the_same_order(demo):
    configs = [json.loads((demo[0] / name / "config.json").read_text()) for name in ("sft", "selfkd")]
    differing = {k for k in configs[0] if configs[0][k] != configs[1][k]}
    assert differing == {"alpha", "output"}


def test_report_is_one_page_that_needs_nothing_else(demo):
    page = (demo[0] / "report.html").read_text()
    assert page.count("<article") == page.count("data:audio/") == 48 and page.count("<svg") >= 20
    assert page.count('class="map"') == 2 * 4 * 2 * 2, "two items, four models, both views, two layers"
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    for section in ("scores", "attention", "agreement", "items", "training", "quality", "origins"):
        assert f'<section id="{section}"' in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert "mirror the paper&#39;s setting" in page


def test_again_it_does_nothing_twice(demo):
    folder, _, command = demo
    before = (folder / "scores.json").read_bytes()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("done before") == 10
    assert (folder / "scores.json").read_bytes() == before
