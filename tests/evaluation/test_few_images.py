"""With few images, result, tables, comparison and report give no verdict.

A past bug: all questions about one image had an interval of zero width ("37.5 to 37.5") and a verdict ("67% of the gap
closed")."""

import json
import re

import pytest
from report_runs import agreement, attention, audio_data, evaluation
from rich.console import Console

from selfkd.evaluation.compare import CompareConfig, compare
from selfkd.evaluation.tables import comparison_table, gap_notes, gap_table
from selfkd.report.build import ReportConfig, report
from selfkd.run_dir import RESULT

VERDICTS = (
    "of the gap closed",
    "of the gap left by",
    " points (",
    "no clear gap",
    "no clear share",
    "rises in",
    "falls in",
)


def runs_over(images: int, tmp_path, items: int = 24, text="1", first="10", second="1110") -> list[str]:
    data = audio_data(tmp_path / "pope", items, benchmark="pope", per_image=items // images)
    marks = {"text": text, "first": first, "second": second}
    text, first, second = ((pattern * items)[:items] for pattern in marks.values())
    evaluation(tmp_path / "sft", data, text=text, audio=first, cascade=second)
    evaluation(tmp_path / "selfkd", data, audio=second)
    return [str(tmp_path / name) for name in ("sft", "selfkd")]


def outputs(runs, tmp_path) -> tuple[dict, dict, str, str]:
    """The first run's result, the comparison, the tables in a terminal, and the page's text."""
    result, scores = json.loads((tmp_path / "sft" / RESULT).read_text()), compare(CompareConfig(runs, tmp_path / "c"))
    console = Console(width=80)
    with console.capture() as capture:
        console.print(gap_table(result), comparison_table(scores))
    html = report(ReportConfig(runs, tmp_path / "r.html")).read_text()
    results = html[: html.index('<dl class="terms">')]  # what follows explains words
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", results))
    return result["pope"], scores["pope"], " ".join(capture.get().split()), page


def test_one_image_gives_no_interval_and_no_verdict(tmp_path):
    result, scores, tables, page = outputs(runs_over(1, tmp_path), tmp_path)
    gap, closed = result["gap"], scores["gap_closed"]["selfkd"]
    assert (gap["groups"], gap["gap"], gap["gap_interval"], gap["stderr"], gap["mcnemar_p"]) == (1, 0.5, *[None] * 3)
    assert gap["verdict"] == closed["verdict"] == "too few"
    assert [result[modality]["interval"] for modality in ("text", "audio", "cascade")] == [None] * 3
    assert [closed[k] for k in ("share", "interval", "difference_interval")] == [None] * 3
    assert closed["difference"] == 0.25
    assert "50.0 (too few)" in tables and gap_notes({"pope": result}) == [
        "pope: too few images for a verdict, fewer than 10"
    ]
    assert not re.search(r"%\)? to |\d to \d|% \(\d", tables + page), "an interval"
    assert not any(verdict in page for verdict in VERDICTS)
    assert "Too few images (1, a verdict takes 10) to estimate the gap." in page


@pytest.mark.parametrize("images", [2, 6, 8])
def test_few_images_give_an_interval_and_no_verdict(tmp_path, images):
    result, scores, tables, page = outputs(runs_over(images, tmp_path), tmp_path)
    low, high = result["gap"]["gap_interval"]
    assert result["gap"]["groups"] == images and low < 0.5 < high and high - low > 0.3
    assert result["gap"]["verdict"] == scores["gap_closed"]["selfkd"]["verdict"] == "too few"
    assert scores["gap_closed"]["selfkd"]["share"] is None and "too few" in tables
    assert not any(verdict in page for verdict in VERDICTS)
    # every interval on the page is marked
    intervals = re.findall(r"[^ ]+ [^ ]+ [^ ]+ [−\d.]+% to [−\d.]+%", page)
    assert intervals and all("too few" in text for text in intervals), intervals


@pytest.mark.parametrize(("first", "second"), [("0", "0"), ("1", "1"), ("0", "1")])
def test_all_right_or_all_wrong_has_an_interval(tmp_path, first, second):
    """Over twelve images no interval has zero width: score, gap, share, difference."""
    result, scores, _, page = outputs(runs_over(12, tmp_path, first=first, second=second), tmp_path)
    closed = scores["gap_closed"]["selfkd"]
    found = [result["text"]["interval"], result["audio"]["interval"], result["gap"]["gap_interval"]]
    found += [closed["difference_interval"], *([closed["interval"]] if closed["interval"] else [])]
    assert all(high - low > 0.2 for low, high in found)
    assert closed["verdict"] == {"00": "no clear share", "11": "no clear gap", "01": "closed"}[first + second]
    assert not any(low == high for low, high in re.findall(r"([−\d.]+)% to ([−\d.]+)%", page))


def test_enough_images_give_a_verdict(tmp_path):
    result, scores, _, page = outputs(runs_over(24, tmp_path, first="1000", second="1110"), tmp_path)
    assert result["gap"]["verdict"] == "loses" and scores["gap_closed"]["selfkd"]["verdict"] == "closed"
    assert "67% of the gap closed by Self-KD" in page and "Chance is 50.0%." in page


@pytest.mark.parametrize("images", [1, 5, 12])
def test_analyses_of_few_images_give_no_verdict(tmp_path, images):
    data = audio_data(tmp_path / "pope", 12 if images == 12 else 5, benchmark="pope", per_image=5 // images or 1)
    runs = [
        attention(tmp_path / "attention", data, {"sft": (0.44, 0.3), "selfkd": (0.44, 0.42)}),
        agreement(tmp_path / "agreement", data, {"sft": 6.5, "selfkd": 0.4}),
    ]
    html = report(ReportConfig(list(map(str, runs)), tmp_path / "r.html")).read_text()
    results = html[: html.index('<dl class="terms">')]  # what follows explains words
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", results))
    few = f"too few images ({images}, a verdict takes 10)"
    assert (f"{few[0].upper()}{few[1:]}." in page) == (images < 10)
    assert (f"There are {few}." in page) == (images < 10) and ("falls in the middle" in page) == (images == 12)
    intervals = re.findall(r"[−+\d.]+ \[[−+\d., ]+\]( \(too few\))?", page)
    assert bool(intervals) == (images > 1) and all(intervals) == (images < 10), (
        "few of a question type or voice are few as well"
    )
