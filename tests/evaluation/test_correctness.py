"""The judge of open answers: scores are parsed or refused, its agreement is that of known ratings, and the run has
scores, agreements and the gap."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
from chat_server import chat_server
from examples import toy_examples
from hypothesis import given
from hypothesis import strategies as st
from report_runs import write_lines

from selfkd.cli import main
from selfkd.errors import InputError
from selfkd.evaluation.config import JudgeConfig
from selfkd.evaluation.correctness import EXAMPLES, correctness_messages, parse_score
from selfkd.evaluation.judge import judge_run
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import sample, samples_path
from selfkd.evaluation.schemas import Correctness
from selfkd.evaluation.uncertainty import weighted_kappa
from selfkd.json_files import read_json
from selfkd.report.sections.scores import _correctness_table


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"score": 0.7, "reason": "partly"}', 0.7),
        ('```json\n{"score": 1}\n```', 1.0),
        ('Well: {"score": 0.5} and so {"score": 0.5}', 0.5),
        ('{"score": 1.5}', None),
        ('{"score": -0.1}', None),
        ('{"score": true}', None),
        ('{"score": "1.0"}', None),
        ('{"score": 0.2} or {"score": 0.9}', None),
        ('{"score": 0.2} or {"score": 9}', None),
        ("0.8", None),
        ("", None),
    ],
)
def test_scores_are_parsed_or_errors(text, score):
    found = parse_score(text)
    assert (found.score, bool(found.error)) == (score, score is None)


def test_the_judge_gets_the_whole_reference_and_examples_in_both_orders():
    item = {
        "question": "What is x?",
        "target": "-1 5",
        "prediction": "1",
        "details": {"reference": "-1 <AND> 5 <OR> 7"},
    }
    system, user = correctness_messages(item)
    assert json.loads(user["content"]) == {
        "question": "What is x?", "reference": "-1 <AND> 5 <OR> 7", "prediction": "1",
    }  # fmt: skip
    reverse = correctness_messages(item, reverse=True)[0]["content"]
    positions = [[text.index(json.dumps(p)) for _, _, p, _ in EXAMPLES] for text in (system["content"], reverse)]
    assert positions[0] == sorted(positions[0]) and positions[1] == sorted(positions[1], reverse=True)
    assert '"prediction": "1"' in user["content"] and json.loads('{"score": 0.0}')


def test_kappa_of_a_table_by_hand():
    """Cohen's example: 20 both yes, 15 both no, 5 and 10 apart: observed 0.7, by chance 0.5."""
    first = [1] * 20 + [1] * 5 + [0] * 10 + [0] * 15
    second = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    found = weighted_kappa(first, second, 0)
    assert found["n"] == 50 and found["agreement"] == pytest.approx(0.7) and found["kappa"] == pytest.approx(0.4)
    assert found["low"] < 0.4 < found["high"] and found["difference"] == pytest.approx(0.3)


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=2, max_size=30))
def test_weighted_kappa_is_that_of_the_table_of_ratings(pairs):
    """Against the definition: sums over all pairs of ratings, observed and independent."""
    a, b = ([pair[i] / 10 for pair in pairs] for i in (0, 1))
    observed = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)
    by_chance = sum((x - y) ** 2 for x in a for y in b) / len(a) ** 2
    found = weighted_kappa(a, b, 0)["kappa"]
    assert found == (pytest.approx(1 - observed / by_chance) if by_chance > 1e-9 else None)


def test_agreement_of_equal_ratings_is_one_and_of_random_ones_none():
    rng = random.Random(0)
    ratings = [rng.randrange(11) / 10 for _ in range(400)]
    same = weighted_kappa(ratings, ratings, 0)
    assert (same["kappa"], same["agreement"], same["difference"]) == (1.0, 1.0, 0.0)
    shuffled = weighted_kappa(ratings, rng.sample(ratings, 400), 0)
    assert shuffled["low"] < 0 < shuffled["high"]
    assert weighted_kappa([1.0] * 12, [1.0] * 12, 0)["kappa"] is None


def open_run(folder, count=24):
    """A run whose text responses are right, whose audio responses are in every third item."""
    examples = [
        replace(e, question_type="words", category="ocr,math" if i % 2 else "ocr", question=f"What is {i}?",
                target="blue" if i % 2 else "a long answer of many words", details="")
        for i, e in enumerate(toy_examples(count))
    ]  # fmt: skip
    for modality in ("text", "audio"):
        responses = [e.target if modality == "text" or i % 3 == 0 else "green" for i, e in enumerate(examples)]
        responses[-1] = ""
        records = [sample(e, modality, Prediction(r)) for e, r in zip(examples, responses, strict=True)]
        write_lines(samples_path(folder, "mine", modality), records)
    return folder


def test_open_answers_are_scored_with_agreements_and_the_gap(tmp_path, capsys):
    run = open_run(tmp_path / "run")
    with chat_server() as server:

        def scored(request):
            system, user = request.body["messages"]
            item = json.loads(user["content"])
            is_second = system["content"].index(EXAMPLES[0][2]) > system["content"].index(EXAMPLES[-1][2])
            score = 0.9 if item["prediction"] == item["reference"] else 0.1 if is_second else 0.0
            return json.dumps({"score": score, "reason": "r"})

        server.prediction = scored
        config = JudgeConfig(run, "a-judge", server.url, criterion="correctness", repeats=10)
        result = judge_run(config)
        requests = len(server.requests)
        assert requests == 2 * (23 + 10), "an empty response needs no judge"
        assert judge_run(config) == result and len(server.requests) == requests
    assert read_json(run / "correctness.json", Correctness)["about"]["judge"] == "a-judge"
    text, audio = result["metrics"]["mine.text"], result["metrics"]["mine.audio"]
    assert (text["items"], text["judged"]) == (24, 24) and text["score"] == pytest.approx(0.9 * 23 / 24)
    assert audio["score"] == pytest.approx(0.9 * 8 / 24) and set(audio["by_category"]) == {"ocr", "math"}
    # 12 items have a reference of one word; there the rule and the judge agree
    assert (audio["with_rule"]["n"], audio["with_rule"]["kappa"]) == (12, 1.0)
    assert audio["with_itself"]["n"] == 10 and 0.9 < audio["with_itself"]["kappa"] < 1
    assert result["gaps"]["mine"]["gap"] == pytest.approx(0.9 * 15 / 24) and result["gaps"]["mine"]["n"] == 24
    (table,) = [t for t in [_correctness_table([SimpleNamespace(folder=run, name="run")])] if t.rows]
    assert [row[0] for row in table.rows] == ["mine.audio", "mine.text"] and table.rows[0][3].startswith("30.0%")
    assert "judged by a-judge" in table.note and "mine 56.2" in table.note
    output = capsys.readouterr().out
    printed = " ".join(output.split())
    assert "text minus audio 56.2" in printed and "1.00 of 12" in printed
    assert max(len(line) for line in output.splitlines() if line[:1] in "┏│└") <= 80


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ""}, "model: name the endpoint's judge"),
        ({"repeats": -1}, "repeats: -1: must not be negative"),
    ],
)
def test_bad_settings_are_refused(tmp_path, change, message):
    run = open_run(tmp_path / "run", 2)
    with pytest.raises(InputError, match=message):
        judge_run(replace(JudgeConfig(run, "j", "http://127.0.0.1:9", criterion="correctness"), **change))


def test_a_run_without_open_answers_is_named(tmp_path, capsys):
    example = toy_examples(1)[0]
    write_lines(samples_path(tmp_path, "world", "text"), [sample(example, "text", Prediction("yes"))])
    assert main(["judge", str(tmp_path), "--criterion", "correctness", "--model", "j"]) == 2
    assert f"run: {tmp_path}: no open answers (question types words, open_ended)" in capsys.readouterr().err
