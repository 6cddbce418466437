"""Few images say little, and nothing says more than they do: result, tables, comparison and page.

eval_10_one_picture_is_certain: all questions about one image had an interval of zero width ("37.5 to 37.5") and a
verdict ("67% of the gap closed")."""

import json
import re

import pytest
from report_runs import agreement, attention, audio_data, evaluation
from rich.console import Console

from selfkd.evaluation.compare import CompareConfig, compare, comparison_table
from selfkd.evaluation.gap_table import gap_notes, gap_table
from selfkd.report.build import ReportConfig, report
from selfkd.run_dir import RESULT

VERDICTS = ("of the gap closed", "is closed", " points (", "no clear gap", "no clear share", "rises in", "falls in")


def runs_over(images: int, tmp_path, items: int = 24, text="1", first="10", second="1110") -> list[str]:
    data = audio_data(tmp_path / "pope", items, benchmark="pope", per_image=items // images)
    marks = {"text": text, "first": first, "second": second}
    text, first, second = (((of * items)[:items]) for of in marks.values())
    evaluation(tmp_path / "sft", data, text=text, audio=first, cascade=second)
    evaluation(tmp_path / "selfkd", data, audio=second)
    return [str(tmp_path / name) for name in ("sft", "selfkd")]


def told(runs, tmp_path) -> tuple[dict, dict, str, str]:
    """The first run's result, the comparison, the tables in a terminal, and the page's text."""
    result, scores = json.loads((tmp_path / "sft" / RESULT).read_text()), compare(CompareConfig(runs, tmp_path / "c"))
    console = Console(width=80)
    with console.capture() as capture:
        console.print(gap_table(result), comparison_table(scores))
    html = report(ReportConfig(runs, tmp_path / "r.html")).read_text()
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html[: html.rindex("<script>")]))
    return result["pope"], scores["pope"], " ".join(capture.get().split()), page


def test_of_one_image_there_is_no_interval_and_no_verdict(tmp_path):
    result, scores, tables, page = told(runs_over(1, tmp_path), tmp_path)
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
    assert "Too few images (1, a verdict takes 10) to say anything of the gap." in page


@pytest.mark.parametrize("images", [2, 6, 8])
def test_of_a_few_images_there_is_an_interval_and_no_verdict(tmp_path, images):
    result, scores, tables, page = told(runs_over(images, tmp_path), tmp_path)
    low, high = result["gap"]["gap_interval"]
    assert result["gap"]["groups"] == images and low < 0.5 < high and high - low > 0.3
    assert result["gap"]["verdict"] == scores["gap_closed"]["selfkd"]["verdict"] == "too few"
    assert scores["gap_closed"]["selfkd"]["share"] is None and "too few" in tables
    assert not any(verdict in page for verdict in VERDICTS)
    # every interval on the page says what it is
    intervals = re.findall(r"[^ ]+ [^ ]+ [^ ]+ [−\d.]+% to [−\d.]+%", page)
    assert intervals and all("too few" in told for told in intervals), intervals


@pytest.mark.parametrize(("first", "second"), [("0", "0"), ("1", "1"), ("0", "1")])
def test_all_right_or_all_wrong_is_no_certainty(tmp_path, first, second):
    """Of twelve images: no interval is of zero width, be it of a score, a gap, a share or a difference."""
    result, scores, _, page = told(runs_over(12, tmp_path, first=first, second=second), tmp_path)
    closed = scores["gap_closed"]["selfkd"]
    found = [result["text"]["interval"], result["audio"]["interval"], result["gap"]["gap_interval"]]
    found += [closed["difference_interval"], *([closed["interval"]] if closed["interval"] else [])]
    assert all(high - low > 0.2 for low, high in found)
    assert closed["verdict"] == {"00": "no clear share", "11": "no clear gap", "01": "closed"}[first + second]
    assert not any(low == high for low, high in re.findall(r"([−\d.]+)% to ([−\d.]+)%", page))


def test_of_enough_images_it_is_said(tmp_path):
    result, scores, _, page = told(runs_over(24, tmp_path, first="1000", second="1110"), tmp_path)
    assert result["gap"]["verdict"] == "loses" and scores["gap_closed"]["selfkd"]["verdict"] == "closed"
    assert "67% of the gap closed with Self-KD" in page and "Chance is 50.0%." in page


@pytest.mark.parametrize("images", [1, 5, 12])
def test_analyses_of_few_images_draw_no_conclusion(tmp_path, images):
    data = audio_data(tmp_path / "pope", 12 if images == 12 else 5, benchmark="pope", per_image=5 // images or 1)
    runs = [
        attention(tmp_path / "attention", data, {"sft": (0.44, 0.3), "selfkd": (0.44, 0.42)}),
        agreement(tmp_path / "agreement", data, {"sft": 6.5, "selfkd": 0.4}),
    ]
    html = report(ReportConfig(list(map(str, runs)), tmp_path / "r.html")).read_text()
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html[: html.rindex("<script>")]))
    few = f"too few images ({images}, a verdict takes 10)"
    assert (f"{few[0].upper()}{few[1:]} to say where attention goes." in page) == (images < 10)
    assert (f"These are {few}." in page) == (images < 10) and ("falls in the middle" in page) == (images == 12)
    intervals = re.findall(r"[−+\d.]+ \[[−+\d., ]+\]( \(too few\))?", page)
    assert bool(intervals) == (images > 1) and all(intervals) == (images < 10), "few of a kind or voice are few as well"
