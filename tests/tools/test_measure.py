"""The bundled parts keep what their card says: size, format, and about its figures on small samples."""

import json

import pytest

from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.model.tiny import asr_model_path, vlm_path
from selfkd.toy_world.questions import TOY_QUESTION_TYPES
from tools.tiny_model.measure import repeat_examples, sentence_error, share_right, spoken, told_examples, toy_examples

ASSETS = vlm_path().parent


def test_small_and_without_pickle():
    files = [p for p in ASSETS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 25_000_000
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".jinja", ".md"}
    assert (vlm_path() / "model.safetensors").is_file() and (asr_model_path() / "model.safetensors").is_file()


def test_the_card_holds_the_measured_figures():
    metrics, card = json.loads((ASSETS / "figures.json").read_text()), (ASSETS / "README.md").read_text()
    question_types = {k: v for k, v in metrics["written"].items() if k != "all"}
    assert metrics["n_per_kind"] >= 100 and set(question_types) == set(TOY_QUESTION_TYPES)
    for value in (*question_types.values(), metrics["written"]["all"], metrics["sentence_error_unseen_voices"]):
        assert f"{value:.3f}" in card


def test_written_questions_are_answered(parts):
    shares = share_right(*parts, toy_examples(15))
    assert shares["all"] >= 0.94, shares


def test_it_repeats_and_answers_without_a_picture(parts):
    assert share_right(*parts, repeat_examples(40))["all"] >= 0.95
    assert share_right(*parts, told_examples(40))["all"] >= 0.95


@pytest.mark.parametrize(("part", "most"), [("training", 0.05), ("heldout", 0.28)])
def test_the_recogniser_hears(part, most):
    transcriber = Transcriber.from_pretrained()
    assert sentence_error(transcriber, spoken(toy_examples(10), part)) <= most
