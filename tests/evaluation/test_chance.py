"""Chance: the score of always giving the best answer to each question type, by the benchmark's rule; and the verdict
where the text modality is no better."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import audio_data, evaluation, write_lines
from rich.console import Console

from selfkd.data.dataset import ExampleFolder
from selfkd.evaluation.chance import chance_accuracy
from selfkd.evaluation.compare import CompareConfig, compare
from selfkd.evaluation.evaluate import score
from selfkd.evaluation.grading import grade
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.tables import comparison_table, gap_notes, gap_table
from selfkd.evaluation.verdicts import AT_CHANCE
from selfkd.files import write_json
from selfkd.report.build import ReportConfig, report
from selfkd.run_dir import RESULT

PROPERTY = settings(deadline=None, max_examples=30, derandomize=True)


def make_sample(target, question_type="yes_no", category="", source="pope", **details):
    fields = {"source": source, "question_type": question_type, "category": category, "question": "", "target": target}
    return fields | {"details": details}


@PROPERTY
@given(st.lists(st.tuples(st.sampled_from(["random", "popular"]), st.sampled_from(["yes", "no"])), min_size=1))
def test_no_constant_yes_or_no_beats_chance(items):
    samples = [make_sample(target, category=category) for category, target in items]
    chance = chance_accuracy(samples)
    constants = [sum(s["target"] == answer for s in samples) / len(samples) for answer in ("yes", "no")]
    assert 0.5 <= chance <= 1 and (len(samples) == 1 or chance >= max(constants) - 1e-9)


@PROPERTY
@given(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=60))
def test_chance_of_options_is_never_below_random(targets):
    options = dict(zip("ABCD", "wxyz", strict=True))
    chance = chance_accuracy([make_sample(t, "multiple_choice", source="ai2d", options=options) for t in targets])
    commonest = max(map(targets.count, targets)) / len(targets)
    assert chance == pytest.approx(max(0.25, commonest) if len(targets) > 1 else 0.25)


def test_types_are_question_types_or_else_categories():
    question_types = [make_sample("yes", "exists", source="world")] * 12 + [
        make_sample("no", "relation", source="world")
    ] * 12
    assert chance_accuracy(question_types) == 1.0
    categories = (
        [make_sample("yes", category="a")] * 15
        + [make_sample("no", category="a")] * 5
        + [make_sample("no", category="b")] * 20
    )
    assert chance_accuracy(categories) == (15 + 20) / 40
    # types of fewer than ten items are merged by form: yes is right for three of four; a single question is left out
    small = [make_sample("yes", "exists", source="world")] * 3 + [make_sample("no", "relation", source="world")]
    assert chance_accuracy([*small, make_sample("red", "color", source="world")]) == pytest.approx(3 / 5)
    assert chance_accuracy([make_sample("yes")]) == 0.5 and chance_accuracy([]) is None


def test_graded_scores_follow_the_benchmarks_rule():
    """ANLS, VQA accuracy, relaxed accuracy: the best one answer is often the commonest target, and scores more."""
    document = [make_sample("2010", "document", "table", "docvqa", answers=["2010"])] * 2
    document += [make_sample(f"201{i}", "document", "table", "docvqa", answers=[f"201{i}"]) for i in range(1, 10)]
    assert chance_accuracy(document) == pytest.approx((2 + 9 * 0.75) / 11)
    chart = [make_sample(str(n), "chart", "human", "chartqa") for n in (100, 100, 104, 96, 300)]
    assert chance_accuracy(chart) == pytest.approx(4 / 5), "within 5% of 100"
    people = [make_sample("stop", "vqa", "", "textvqa", answers=["stop"] * 2 + ["go"] * 8)] * 3
    people += [make_sample("go", "vqa", "", "textvqa", answers=["go"] * 10)]
    best = max(sum(grade(s, Prediction(answer)).score for s in people) / 4 for answer in ("stop", "go"))
    assert chance_accuracy(people) == pytest.approx(best) and best > 3 / 4


@pytest.fixture
def pope(tmp_path):
    return audio_data(tmp_path / "pope", 48, benchmark="pope")


def yes_no_run(folder: Path, data: Path, **by_modality: str) -> Path:
    """A run with these predictions, "y" and "n", one an item."""
    run = evaluation(folder, data, **{modality: "1" * len(marks) for modality, marks in by_modality.items()})
    for modality, marks in by_modality.items():
        path = samples_path(run, "pope", modality)
        samples = read_samples(path)
        for sample, mark in zip(samples, marks, strict=True):
            text = {"y": "yes", "n": "no"}[mark]
            is_correct = text == sample["target"]
            sample |= {"prediction": text, "parsed": text, "score": float(is_correct), "correct": is_correct}
        write_lines(path, samples)
    write_json(run / RESULT, {"pope": score({v: read_samples(samples_path(run, "pope", v)) for v in by_modality}, 0)})
    return run


def printed(table) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table)
    return " ".join(capture.get().split())


def test_text_modality_at_chance_has_no_gap(pope, tmp_path, capsys):
    """Text is always answered with yes, which is right for one half; audio with no, right for the other half."""
    first = yes_no_run(tmp_path / "sft", pope, text="y" * 48, audio="n" * 48)
    second = yes_no_run(tmp_path / "selfkd", pope, audio="yn" * 24)
    result = json.loads((first / RESULT).read_text())
    assert [result["pope"][modality]["chance"] for modality in ("text", "audio")] == [0.5, 0.5]
    assert result["pope"]["gap"]["verdict"] == "at chance"
    table = printed(gap_table(result))
    assert "at chance" in table and "50.0" in table and gap_notes(result) == [f"pope: {AT_CHANCE}"]
    scores = compare(CompareConfig([str(first), str(second)], tmp_path / "c"))
    closed = scores["pope"]["gap_closed"]["selfkd"]
    assert (closed["share"], closed["interval"], closed["verdict"]) == (None, None, "at chance")
    assert closed["difference"] == 0.5, "the difference of two audio runs is known"
    assert f"\npope: {AT_CHANCE}\n" in capsys.readouterr().out
    page = re.sub(r"<[^>]+>", "", report(ReportConfig([str(first), str(second)], tmp_path / "r.html")).read_text())
    assert "The text modality is at chance: there is no gap to measure." in page and "Chance is 50.0%." in page
    assert "of the gap closed" not in page and " points (" not in page


@pytest.mark.parametrize(("right", "verdict"), [(48, "loses"), (40, "loses"), (28, "at chance"), (20, "at chance")])
def test_at_chance_takes_uncertainty_into_account(pope, tmp_path, right, verdict):
    """28 of 48 are more than half, but no more than chance gives."""
    marks = ("yn" * 24)[:right] + ("ny" * 24)[: 48 - right]
    wrong = ("ny" * 24)[:48]
    run = yes_no_run(tmp_path / "run", pope, text=marks, audio=wrong)
    assert json.loads((run / RESULT).read_text())["pope"]["gap"]["verdict"] == verdict


def test_chance_is_next_to_every_accuracy(pope, tmp_path):
    evaluation(tmp_path / "sft", pope, text="1" * 48, audio="1100" * 12, cascade="1110" * 12)
    result = json.loads((tmp_path / "sft" / RESULT).read_text())["pope"]
    assert [result[modality]["chance"] for modality in ("text", "audio", "cascade")] == [0.5] * 3
    scores = compare(CompareConfig([str(tmp_path / "sft")], tmp_path / "c"))
    assert all(system["chance"] == 0.5 for system in scores["pope"]["systems"].values())
    assert "chance" in printed(comparison_table(scores)) and "chance" in printed(gap_table({"pope": result}))
    page = report(ReportConfig([str(tmp_path / "sft")], tmp_path / "r.html")).read_text()
    assert ">Chance</button>" in page and "chance: 50.0%" in page
    examples = ExampleFolder(pope)
    assert len({e.target for e in examples}) == 2
