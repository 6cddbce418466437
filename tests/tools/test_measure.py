"""The bundled models match their card: size, format, and roughly its metrics on small samples."""

import json

import pytest

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import read_manifest
from selfkd.demo import BUNDLED_TRAINING_VOICES, BUNDLED_VOICES, QUESTIONS_A_VOICE, TEST_SEED, bundled_voice
from selfkd.evaluation.backends.local import predict_modality
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.files import asset_path
from selfkd.model.checkpoint import load_model
from selfkd.model.tiny import TINY_STACK_MODEL, asr_model_path, vlm_path
from selfkd.synthesis.sources.registry import ToyMMAlign, ToyWorld
from selfkd.toy_world.questions import TOY_QUESTION_TYPES
from selfkd.toy_world.written_forms import WRITTEN_FORMS
from tools.tiny_model.measure import (
    ASR_FORM,
    description_examples,
    mean_word_error,
    repeat_examples,
    synthesized,
    text_accuracies,
    toy_examples,
)

ASSETS = vlm_path().parent


def test_assets_are_small_and_without_pickle():
    files = [p for p in ASSETS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 55_000_000
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".jinja", ".md", ".parquet", ".txt"}
    assert (vlm_path() / "model.safetensors").is_file() and (asr_model_path() / "model.safetensors").is_file()


def test_card_has_the_measured_metrics():
    metrics, card = json.loads((ASSETS / "metrics.json").read_text()), (ASSETS / "README.md").read_text()
    question_types = {k: v for k, v in metrics["text"].items() if k != "all"}
    assert metrics["n_per_type"] >= 100 and set(question_types) == set(TOY_QUESTION_TYPES)
    for value in (*question_types.values(), metrics["text"]["all"], *metrics["word_error"].values()):
        assert f"{value:.3f}" in card


@pytest.mark.slow
def test_text_queries_are_answered(parts):
    accuracies = text_accuracies(*parts, toy_examples(15))
    assert accuracies["all"] >= 0.94, accuracies


def test_texts_are_repeated_and_questions_without_an_image_answered(parts):
    assert text_accuracies(*parts, repeat_examples(40))["all"] >= 0.95
    assert text_accuracies(*parts, description_examples(40))["all"] >= 0.95


@pytest.mark.slow
def test_frame_stacking_projector_hands_over_words():
    """Stage 1 of the paper baseline: most sentences in voices that were not trained on are repeated as they are."""
    model, processor = load_model(TINY_STACK_MODEL)
    examples = synthesized(repeat_examples(40))
    predictions = predict_modality(model, processor, examples, "audio")
    assert sum(p.text == e.question for p, e in zip(predictions, examples, strict=True)) >= 0.7 * len(examples)


def test_other_written_forms_and_captions_are_answered(parts):
    questions = toy_examples(6)
    for form in WRITTEN_FORMS:
        assert text_accuracies(*parts, questions, form)["all"] >= 0.85, form
    captions = [ToyMMAlign("test", 7).example(i) for i in range(40)]
    accuracies = text_accuracies(*parts, captions, ASR_FORM)
    assert min(accuracies["relation"], accuracies["attribute"]) >= 0.85, accuracies


@pytest.mark.slow
@pytest.mark.parametrize("part", ["training", "heldout"])
def test_asr_model_transcribes_espeak(part):
    assert mean_word_error(Transcriber.from_pretrained(), synthesized(toy_examples(6), part)) <= 0.08


@pytest.mark.slow
@pytest.mark.parametrize("voice", BUNDLED_VOICES)
def test_asr_model_transcribes_engines_and_voices_that_were_not_trained_on(voice):
    folder = ExampleFolder(bundled_voice(voice))
    assert len(folder) == QUESTIONS_A_VOICE and folder.source == "world"
    assert mean_word_error(Transcriber.from_pretrained(), folder[:60]) <= 0.08


def test_bundled_training_speech_is_in_voices_that_no_test_question_is_in():
    tested = {(read_manifest(f)["engine"], v) for f in map(bundled_voice, BUNDLED_VOICES) for v in voices_of(f)}
    for name in BUNDLED_TRAINING_VOICES:
        folder = asset_path("speech") / "training" / name
        manifest = read_manifest(folder)
        assert not {(manifest["engine"], voice) for voice in voices_of(folder)} & tested
        assert manifest["split"] == "train" and "GPL" not in manifest["engine_license"]


def voices_of(folder):
    return {row["voice"] for row in ExampleFolder(folder).columns("voice")}


def test_bundled_speech_is_of_the_demos_questions():
    """The items of all voices are the same, and the licence of each engine allows copies."""
    questions = [ToyWorld("test", TEST_SEED).example(i) for i in range(QUESTIONS_A_VOICE)]
    for voice in BUNDLED_VOICES:
        folder = ExampleFolder(bundled_voice(voice))
        rows = list(folder.columns("id", "question", "target"))
        assert rows == [{"id": q.id, "question": q.question, "target": q.target} for q in questions]
        assert all(folder[i].image == questions[i].image for i in (0, 199, 399))
        manifest = read_manifest(bundled_voice(voice))
        assert manifest["engine_license"] and "GPL" not in manifest["engine_license"]
