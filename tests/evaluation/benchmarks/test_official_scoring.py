"""`--scoring official`: the rules of official scripts on cases worked out by hand, and the rule of a run in its
results, its comparison and its report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_datasets import local_dataset
from examples import tone, training_start
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import audio_data, evaluation

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, write_shard
from selfkd.errors import InputError
from selfkd.evaluation import evaluate as evaluate_module
from selfkd.evaluation.benchmarks import official_scoring
from selfkd.evaluation.benchmarks.registry import open_benchmark
from selfkd.evaluation.benchmarks.short_answer import ocrbench_grade
from selfkd.evaluation.compare import CompareConfig, compare
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.evaluation.grading import OFFICIAL, grade, scoring_of
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.files import write_json
from selfkd.report.build import ReportConfig, report


@pytest.mark.parametrize(("benchmark", "prediction", "parsed"), [
    ("mme", "Yes", "yes"), ("mme", "no, it", "no"), ("mme", "Not at all", "no"), ("mme", "now", "no"),
    ("mme", "There is no dog", None), ("mme", "**Yes**", None), ("mme", "", None), ("mme", " no", "no"),
    ("pope", "No", "no"), ("pope", "There is no dog", "no"), ("pope", "It is not there", "no"), ("pope", "", "yes"),
    ("pope", "NO", "yes"), ("pope", "Nope", "yes"), ("pope", "Yes. No", "yes"), ("pope", "No\nreally", "yes"),
    ("pope", "I can't see it", "yes"), ("pope", "Well, no, it is", "no"),
    ("hallusionbench", "Yes, it is.", "yes"), ("hallusionbench", "There is no dog", "no"),
    ("hallusionbench", "Yes and no", None), ("hallusionbench", "It is not", None), ("hallusionbench", "(No)", "no"),
    ("mmstar", "A dog", "A"), ("mmstar", "b", "B"), ("mmstar", "(C) x", "C"), ("mmstar", "Option D", "D"),
    ("mmstar", "The answer is B.", "B"), ("mmstar", "The correct answer is B", None), ("mmstar", "", None),
    ("mmstar", "(", None), ("mmstar", "The answer is a dog", "A"), ("mmstar", "Because of that", "B"),
])  # fmt: skip
def test_rules(benchmark, prediction, parsed):
    assert official_scoring.RULES[benchmark](prediction) == parsed


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.text(max_size=40), st.sampled_from(sorted(official_scoring.RULES)), st.sampled_from(["yes", "no", "A", "C"]))
def test_random_responses_are_graded(prediction, benchmark, target):
    sample = {"source": benchmark, "target": target, "details": {"options": {}}, "question_type": "yes_no"}
    graded = grade(sample, Prediction(prediction), "official")
    assert graded == official_scoring.grade(benchmark, sample, Prediction(prediction).text)
    assert graded.score == float(graded.parsed == target)


def test_mmstar_agrees_with_the_official_script():
    """The script compares the target letter with the characters at four positions; ours returns the letter."""
    for prediction in (
        "",
        "(",
        "a",
        "A dog",
        "(b)",
        "option c",
        "option",
        "the answer is d",
        "the answer is ",
        "dog",
        "(option a",
    ):
        for target in "ABCDE":
            text = prediction.lower().strip()
            positions = [text[:1], text[1:2] if text[:1] == "(" else "", text[7:8] if text[:7] == "option " else ""]
            positions.append(text[14:15] if text[:14] == "the answer is " else "")
            assert (official_scoring.mmstar(prediction) == target) == (target.lower() in filter(None, positions)), (
                prediction,
                target,
            )


def test_other_benchmarks_keep_their_rule():
    assert OFFICIAL == ("mme", "pope", "hallusionbench", "mmstar", "ocrbench")
    assert scoring_of("pope@af_heart", "official") == "official" and scoring_of("ai2d", "official") == "lenient"
    sample = {
        "source": "ocrbench",
        "target": "x",
        "details": {"dataset": "svt", "answers": ["x"]},
        "question_type": "ocr",
    }
    assert grade(sample, Prediction("It says X"), "official") == ocrbench_grade(sample, "It says X")


def benchmark_folder(folder, name):
    """A dataset folder with a tone as audio, which needs no TTS engine."""
    source = open_benchmark(name, local_dataset(folder, name))
    examples = [source.example(i).with_audio(tone(0.3), "tone") for i in range(len(source))]
    write_shard(folder / name / "test.parquet", examples, {"rows": len(examples)})
    shards = [{"file": "test.parquet"}]
    write_json(
        folder / name / MANIFEST, {"source": name, "rows": len(examples), "shards": shards, "rejected_shards": []}
    )
    return str(folder / name)


def test_run_has_one_rule_and_reports_it(parts, tmp_path, capsys, monkeypatch):
    start = training_start(parts, tmp_path / "start")
    benchmarks = {name: ExampleFolder(Path(benchmark_folder(tmp_path, name))) for name in ("pope", "ai2d")}
    monkeypatch.setattr(evaluate_module, "synthesize_benchmarks", lambda config: benchmarks)
    config = EvaluateConfig(
        str(start / "model"), [], tmp_path / "run", benchmarks=list(benchmarks), modalities=["text"], scoring="official"
    )
    evaluate(config)
    assert "graded by the official rule: pope" in " ".join(capsys.readouterr().out.split())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {name: result[name]["text"]["scoring"] for name in ("pope", "ai2d")} == {
        "pope": "official",
        "ai2d": "lenient",
    }
    samples = read_samples(samples_path(tmp_path / "run", "pope", "text"))
    assert samples and all(s["parsed"] == official_scoring.pope(s["prediction"]) for s in samples)
    with pytest.raises(InputError, match="scoring: 'official' there, 'lenient' here"):
        evaluate(replace(config, scoring="lenient"))


def set_scoring(folder, scoring):
    """In the files of a run, as `evaluate` writes it."""
    for name in ("result.json", "config.json"):
        content = json.loads((folder / name).read_text())
        if name == "config.json":
            content["scoring"] = scoring
        else:
            for scores in (content["pope"][modality] for modality in ("text", "audio") if modality in content["pope"]):
                scores["scoring"] = scoring
        (folder / name).write_text(json.dumps(content))
    return str(folder)


def test_runs_with_different_rules_are_not_compared(tmp_path):
    data = audio_data(tmp_path / "pope", benchmark="pope")
    plain = set_scoring(evaluation(tmp_path / "plain", data, text="1" * 12, audio="10" * 6), "lenient")
    strict = set_scoring(evaluation(tmp_path / "strict", data, audio="01" * 6), "official")
    with pytest.raises(InputError, match=r"runs: .*strict: pope .*scoring"):
        compare(CompareConfig([plain, strict], tmp_path / "c"))


def test_table_and_report_name_the_rule(tmp_path, capsys):
    data = audio_data(tmp_path / "pope", benchmark="pope")
    runs = [
        set_scoring(evaluation(tmp_path / "base", data, text="1" * 12, audio="10" * 6), "official"),
        set_scoring(evaluation(tmp_path / "sft", data, audio="110110110110"), "official"),
    ]
    scores = compare(CompareConfig(runs, tmp_path / "c"))
    assert scores["pope"]["scoring"] == "official"
    assert "graded by the official rule: pope" in " ".join(capsys.readouterr().out.split())
    html = report(ReportConfig(runs, tmp_path / "r.html")).read_text()
    assert "Graded by the official rule: pope." in html and "pope, official rule" in html
