"""The bundled models match their card: size, format, and roughly its metrics on small samples."""

import json

import pytest

from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.model.tiny import asr_model_path, vlm_path
from selfkd.toy_world.questions import TOY_QUESTION_TYPES
from tools.tiny_model.measure import (
    description_examples,
    repeat_examples,
    sentence_error,
    synthesized,
    text_accuracies,
    toy_examples,
)

ASSETS = vlm_path().parent


def test_assets_are_small_and_without_pickle():
    files = [p for p in ASSETS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 25_000_000
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".jinja", ".md"}
    assert (vlm_path() / "model.safetensors").is_file() and (asr_model_path() / "model.safetensors").is_file()


def test_card_has_the_measured_metrics():
    metrics, card = json.loads((ASSETS / "metrics.json").read_text()), (ASSETS / "README.md").read_text()
    question_types = {k: v for k, v in metrics["text"].items() if k != "all"}
    assert metrics["n_per_type"] >= 100 and set(question_types) == set(TOY_QUESTION_TYPES)
    for value in (*question_types.values(), metrics["text"]["all"], metrics["sentence_error_heldout_voices"]):
        assert f"{value:.3f}" in card


@pytest.mark.slow
def test_text_queries_are_answered(parts):
    accuracies = text_accuracies(*parts, toy_examples(15))
    assert accuracies["all"] >= 0.94, accuracies


def test_texts_are_repeated_and_questions_without_an_image_answered(parts):
    assert text_accuracies(*parts, repeat_examples(40))["all"] >= 0.95
    assert text_accuracies(*parts, description_examples(40))["all"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("part", "max_error"), [("training", 0.05), ("heldout", 0.28)])
def test_asr_model_transcribes(part, max_error):
    transcriber = Transcriber.from_pretrained()
    assert sentence_error(transcriber, synthesized(toy_examples(10), part)) <= max_error
