"""Responses in many styles, parsed and graded."""

import json
from dataclasses import replace

import pytest
from examples import toy_examples, training_start

from selfkd.data.example import write_shard
from selfkd.errors import InputError
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.evaluation.grading import check_gradable, grade, is_correct, parse
from selfkd.evaluation.response import Prediction
from selfkd.toy_world.questions import caption_question

CAPTIONS = caption_question("the man is on the horse", "the horse is on the man")


@pytest.mark.parametrize(
    ("question_type", "question", "prediction", "parsed"),
    [
        ("exists", "Is there a star?", "yes", "yes"),
        ("exists", "Is there a star?", "No, the image shows no star.", "no"),
        ("exists", "Is there not a star?", "yes, there is no star.", "yes"),
        ("exists", "Is there a star?", "maybe", None),
        ("exists", "Is there a star?", "it could be yes or no", None),
        ("exists", "Is there a star?", "Yes or no", None),
        ("exists", "Is there a star?", "y", "yes"),
        ("relation", "Is it left of it?", "I think yes", "yes"),
        ("color", "What color is the star?", "the star is blue.", "blue"),
        ("color", "What color is the star?", "blue or red", None),
        ("color", "What color is the star?", "It is grey.", "gray"),
        ("color", "What color is the grey star?", "gray", None),
        ("shape", "What is the red shape?", "star", "star"),
        ("size", "Is it small or large?", "large is the size of it", "large"),
        ("size", "Is it small or large?", "small or large", None),
        ("count", "How many stars are there?", "there are 3", "three"),
        ("count", "How many stars are there?", "two stars can be seen.", "two"),
        ("count", "How many stars are there?", "None", "zero"),
        ("count", "How many stars are there?", "There are no stars.", "zero"),
        ("count", "How many stars are there?", "No idea.", None),
        ("count", "How many stars are there?", "I see no green stars", "zero"),
        ("count", "How many stars are there?", "No, there are two.", "two"),
        ("count", "How many stars are there?", "No, there are 7", None),
        ("count", "How many stars are there?", "No, there are seven", None),
        ("count", "How many stars are there?", "some", None),
        ("place", "Where is it?", "at the top left of the image", "top left"),
        ("place", "Where is it?", "top", None),
        ("neighbor", "What is left of the red star?", "left of the red star is a blue circle.", "blue circle"),
        ("neighbor", "What is left of the red star?", "a grey circle", "gray circle"),
        ("neighbor", "What is left of the red star?", "a circle", None),
        ("side", "Is the red star left of or right of the pink circle?", "I see the red star left of it.", "left"),
        ("side", "Is the red star left of or right of the pink circle?", "left or right", None),
        ("describe", "Describe the image.", "I see a red star and a blue circle.", "blue circle, red star"),
        ("choice", "Which caption is right?", "option B is right.", "B"),
        ("choice", "Which caption is right?", "a red star", None),
        ("choice", "Which caption is right?", "A or B", None),
        ("choice", CAPTIONS, "b.", "B"),
        ("choice", CAPTIONS, "A man is on the horse", None),
        ("choice", CAPTIONS, "The horse is on the man.", "B"),
        ("choice", CAPTIONS, "Option A is the man is on the horse.", "A"),
        ("choice", CAPTIONS, "Ein Mann reitet. " * 500, None),
        ("repeat", "", "", None),
        ("words", "", "It's a *dark* Red.", "it s a dark red"),
        ("words", "", " ?!", None),
    ],
)
def test_parse(question_type, question, prediction, parsed):
    assert parse(question_type, question, prediction) == parsed


def test_correct_answers():
    assert is_correct("neighbor", "a blue circle", "blue circle")
    assert is_correct("describe", "a red star and a blue circle", "blue circle, red star")
    assert not is_correct("describe", "a red star and a blue circle", "blue circle")
    assert not is_correct("color", "red", None)
    assert is_correct("repeat", "Is there a star?", "is there a star?")
    assert is_correct("words", "Dark red", "it s a dark red") and not is_correct("words", "red", "it is reddish")
    assert not is_correct("words", "red dark", "it s a dark red")


def test_question_types_without_rules_are_an_error():
    with pytest.raises(KeyError, match="poem"):
        parse("poem", "", "")


@pytest.mark.parametrize(("question_type", "target", "prediction"), [
    ("exists", "Yes.", "Yes"), ("choice", "b", "B"), ("choice", "B.", "B"), ("count", "3", "There are three."),
    ("count", "3", "3"), ("color", "Red", "It is red."), ("color", "Grey", "gray"),
])  # fmt: skip
def test_target_may_be_written_in_the_style_of_a_response(question_type, target, prediction):
    question = "What is it?"
    check_gradable("mine", [{"id": "a", "question_type": question_type, "question": question, "target": target}])
    assert is_correct(question_type, target, parse(question_type, question, prediction))
    assert not is_correct(question_type, target, parse(question_type, question, "I do not know"))


@pytest.mark.parametrize(("question_type", "target"), [
    ("count", "7"), ("color", "orange"), ("side", "behind"), ("shape", "octagon"), ("choice", "C"), ("exists", "maybe"),
    ("words", " "),
])  # fmt: skip
def test_target_that_no_response_can_match_is_refused(question_type, target):
    with pytest.raises(
        InputError, match=f"data: mine: q7: no response to 'What is it\\?' could be parsed as '{target}'"
    ):
        item = {"id": "q7", "question_type": question_type, "question": "What is it?", "target": target}
        check_gradable("mine", [item])


@pytest.mark.parametrize(
    ("question_type", "target", "details", "scores"),
    [
        ("vqa", "red", {"answers": ["red"] * 2 + ["dark red"] * 8}, {"Red.": 0.6, "dark red": 1.0, "blue": 0.0}),
        ("document", "$5", {"answers": ["$5", "5 dollars"]}, {"5 dollars": 1.0, "5 dollar": 8 / 9, "none": 0.0}),
        ("chart", "14", {}, {"14.5": 1.0, "15": 0.0}),
        ("multiple_choice", "B", {"options": {"A": "cat", "B": "dog"}}, {"B": 1.0, "The dog.": 1.0, "A": 0.0}),
    ],
)
def test_rules_of_public_benchmarks_grade_other_sources_of_their_questions(question_type, target, details, scores):
    item = {"id": "a", "source": "lyra", "category": "", "question_type": question_type, "question": "?"}
    check_gradable("lyra", [item | {"target": target, "details": json.dumps(details)}])
    sample = item | {"target": target, "details": details}
    for response, score in scores.items():
        assert grade(sample, Prediction(response)).score == pytest.approx(score), response


def test_questions_without_answers_for_their_rule_are_refused():
    item = {"id": "a", "source": "mine", "category": "", "question_type": "vqa", "question": "?", "target": "red"}
    with pytest.raises(InputError, match=r"example a: field details: mine cannot be graded by it .*answers"):
        check_gradable("mine", [item | {"details": ""}])


def test_folder_without_grading_rules_is_refused(parts, tmp_path):
    """A training set such as llava's has answers, and no rule that says whether another one is correct."""
    training_start(parts, tmp_path)
    examples = [replace(e, question_type="open") for e in toy_examples(2)]
    write_shard(tmp_path / "data" / "train.parquet", examples, {"rows": 2, "rejected": []})
    with pytest.raises(InputError, match="data: world-noisy: questions of type 'open' have no rule"):
        evaluate(EvaluateConfig(str(tmp_path / "model"), [str(tmp_path / "data")], tmp_path / "run"))
    assert not (tmp_path / "run").exists()
