"""The floor of chance: what always giving the best one answer to each question type scores, by the benchmark's rule;
and what is said where the text modality is no better."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import audio_data, evaluation, write_lines
from rich.console import Console

from selfkd.data.dataset import ExampleFolder
from selfkd.evaluation.chance import chance_floor
from selfkd.evaluation.compare import CompareConfig, compare, comparison_table
from selfkd.evaluation.evaluate import score
from selfkd.evaluation.gap_table import gap_notes, gap_table
from selfkd.evaluation.grading import grade
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.verdicts import AT_CHANCE
from selfkd.files import write_json
from selfkd.report.build import ReportConfig, report
from selfkd.run_dir import RESULT

PROPERTY = settings(deadline=None, max_examples=60, derandomize=True)


def asked(target, question_type="yes_no", category="", source="pope", **details):
    return {
        "source": source,
        "question_type": question_type,
        "category": category,
        "question": "",
        "target": target,
        "details": details,
    }


@PROPERTY
@given(st.lists(st.tuples(st.sampled_from(["random", "popular"]), st.sampled_from(["yes", "no"])), min_size=1))
def test_no_constant_answer_of_yes_and_no_beats_the_floor(items):
    samples = [asked(target, category=category) for category, target in items]
    floor = chance_floor(samples)
    constants = [sum(s["target"] == answer for s in samples) / len(samples) for answer in ("yes", "no")]
    assert 0.5 <= floor <= 1 and (len(samples) == 1 or floor >= max(constants) - 1e-9)


@PROPERTY
@given(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=60))
def test_of_options_never_less_than_by_lot(targets):
    options = dict(zip("ABCD", "wxyz", strict=True))
    floor = chance_floor([asked(t, "multiple_choice", source="ai2d", options=options) for t in targets])
    most = max(map(targets.count, targets)) / len(targets)
    assert floor == pytest.approx(max(0.25, most) if len(targets) > 1 else 0.25)


def test_by_kind_and_where_there_is_one_by_category():
    question_types = [asked("yes", "exists", source="world")] * 12 + [asked("no", "relation", source="world")] * 12
    assert chance_floor(question_types) == 1.0
    categories = [asked("yes", category="a")] * 15 + [asked("no", category="a")] * 5 + [asked("no", category="b")] * 20
    assert chance_floor(categories) == (15 + 20) / 40
    # types of fewer than ten are one by their form: three of four say yes; of a lone question nothing is known
    small = [asked("yes", "exists", source="world")] * 3 + [asked("no", "relation", source="world")]
    assert chance_floor([*small, asked("red", "color", source="world")]) == pytest.approx(3 / 5)
    assert chance_floor([asked("yes")]) == 0.5 and chance_floor([]) is None


def test_what_is_graded_by_degrees_is_graded_by_its_own_rule():
    """ANLS, VQA accuracy, relaxed accuracy: the best one answer is often the commonest target, and scores more."""
    document = [asked("2010", "document", "table", "docvqa", answers=["2010"])] * 2
    document += [asked(f"201{i}", "document", "table", "docvqa", answers=[f"201{i}"]) for i in range(1, 10)]
    assert chance_floor(document) == pytest.approx((2 + 9 * 0.75) / 11)
    chart = [asked(str(n), "chart", "human", "chartqa") for n in (100, 100, 104, 96, 300)]
    assert chance_floor(chart) == pytest.approx(4 / 5), "within 5% of 100"
    people = [asked("stop", "vqa", "", "textvqa", answers=["stop"] * 2 + ["go"] * 8)] * 3
    people += [asked("go", "vqa", "", "textvqa", answers=["go"] * 10)]
    best = max(sum(grade(s, Prediction(answer)).score for s in people) / 4 for answer in ("stop", "go"))
    assert chance_floor(people) == pytest.approx(best) and best > 3 / 4


@pytest.fixture
def pope(tmp_path):
    return audio_data(tmp_path / "pope", 48, benchmark="pope")


def answers(folder: Path, data: Path, **by_modality: str) -> Path:
    """A run whose replies are told, "y" and "n", one an item."""
    run = evaluation(folder, data, **{modality: "1" * len(told) for modality, told in by_modality.items()})
    for modality, told in by_modality.items():
        path = samples_path(run, "pope", modality)
        records = [
            r
            | {
                "prediction": prediction,
                "parsed": prediction,
                "score": float(prediction == r["target"]),
                "correct": prediction == r["target"],
            }
            for r, prediction in zip(read_samples(path), ({"y": "yes", "n": "no"}[t] for t in told), strict=True)
        ]
        write_lines(path, records)
    write_json(run / RESULT, {"pope": score({v: read_samples(samples_path(run, "pope", v)) for v in by_modality}, 0)})
    return run


def shown(table) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table)
    return " ".join(capture.get().split())


def test_a_text_modality_at_chance_has_no_gap(pope, tmp_path, capsys):
    """It says yes to everything: half of it is right; what is spoken is answered with no, and the other half is."""
    first = answers(tmp_path / "sft", pope, text="y" * 48, audio="n" * 48)
    second = answers(tmp_path / "selfkd", pope, audio="yn" * 24)
    result = json.loads((first / RESULT).read_text())
    assert [result["pope"][modality]["chance"] for modality in ("text", "audio")] == [0.5, 0.5]
    assert result["pope"]["gap"]["verdict"] == "at chance"
    table = shown(gap_table(result))
    assert "at chance" in table and "50.0" in table and gap_notes(result) == [f"pope: {AT_CHANCE}"]
    scores = compare(CompareConfig([str(first), str(second)], tmp_path / "c"))
    closed = scores["pope"]["gap_closed"]["selfkd"]
    assert (closed["share"], closed["interval"], closed["verdict"]) == (None, None, "at chance")
    assert closed["difference"] == 0.5, "how two runs that were asked aloud differ is known"
    assert f"\npope: {AT_CHANCE}\n" in capsys.readouterr().out
    page = re.sub(r"<[^>]+>", "", report(ReportConfig([str(first), str(second)], tmp_path / "r.html")).read_text())
    assert "The text modality is at chance: there is no gap to measure." in page and "Chance is 50.0%." in page
    assert "of the gap closed" not in page and " points (" not in page


@pytest.mark.parametrize(("right", "verdict"), [(48, "loses"), (40, "loses"), (28, "at chance"), (20, "at chance")])
def test_at_chance_is_judged_with_its_uncertainty(pope, tmp_path, right, verdict):
    """28 of 48 are more than half, but no more than chance gives."""
    told = ("yn" * 24)[:right] + ("ny" * 24)[: 48 - right]
    wrong = ("ny" * 24)[:48]
    run = answers(tmp_path / "run", pope, text=told, audio=wrong)
    assert json.loads((run / RESULT).read_text())["pope"]["gap"]["verdict"] == verdict


def test_the_floor_stands_beside_every_accuracy(pope, tmp_path):
    evaluation(tmp_path / "sft", pope, text="1" * 48, audio="1100" * 12, cascade="1110" * 12)
    result = json.loads((tmp_path / "sft" / RESULT).read_text())["pope"]
    assert {modality: result[modality]["chance"] for modality in ("text", "audio", "cascade")} == dict.fromkeys(
        ("text", "audio", "cascade"), 0.5
    )
    scores = compare(CompareConfig([str(tmp_path / "sft")], tmp_path / "c"))
    assert all(of["chance"] == 0.5 for of in scores["pope"]["systems"].values())
    assert "chance" in shown(comparison_table(scores)) and "chance" in shown(gap_table({"pope": result}))
    page = report(ReportConfig([str(tmp_path / "sft")], tmp_path / "r.html")).read_text()
    assert 'type="button">Chance</button>' in page and "chance: 50.0%" in page
    examples = ExampleFolder(pope)
    assert len({e.target for e in examples}) == 2
