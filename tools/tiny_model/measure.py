"""Measures the bundled models and writes the metrics of their model card.

    python -m tools.tiny_model.measure [--per_type N] [--output FILE]

Accuracy on text queries of the toy world's test split by question type, in every written form, on MMAlign's choice by
category, on repeating a text and on questions without an image; the word error rate of the ASR model by engine.
`experiments/voices.py` measures answers to audio queries, and noise.
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example
from selfkd.demo import BUNDLED_VOICES, bundled_voice
from selfkd.evaluation.backends.local import predict_modality
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.evaluation.grading import is_correct, parse
from selfkd.files import write_json
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.tiny import asr_model_path
from selfkd.synthesis.quality_filter import word_error_rate
from selfkd.synthesis.sources.registry import ToyMMAlign, ToyWorld
from selfkd.synthesis.tts.base import ESPEAK_VOICES, EspeakEngine, Utterance
from selfkd.toy_world.questions import TOY_QUESTION_TYPES
from selfkd.toy_world.scenes import sample_scene
from selfkd.toy_world.tasks import REPEAT_INSTRUCTION, description_task, sample_words
from selfkd.toy_world.written_forms import WRITTEN_FORMS
from selfkd.training.align import AlignConfig, assemble

SEED = 1000
ASR_FORM = "lower case, no punctuation"
BATCH = 50


def toy_examples(per_type: int) -> list[Example]:
    """`per_type` test questions of every type of the toy world."""
    return [ToyWorld("test", SEED).example(i) for i in range(per_type * len(TOY_QUESTION_TYPES))]


def in_form(examples: list[Example], form: str) -> list[Example]:
    """The same questions in a written form."""
    rng = random.Random(f"bundle/{form}/{SEED}")
    return [replace(e, question=WRITTEN_FORMS[form](e.question, rng)) for e in examples]


def repeat_examples(count: int) -> list[Example]:
    rng = random.Random(f"bundle/repeat/{SEED}")
    texts = [sample_words(sample_scene("test", SEED, i), rng) for i in range(count)]
    return [
        Example(f"repeat-{i}", text, text, "words", "repeat", text, instruction=f"{REPEAT_INSTRUCTION}\n")
        for i, text in enumerate(texts)
    ]


def description_examples(count: int) -> list[Example]:
    """Questions about a text that describes a scene, without an image."""
    rng, examples = random.Random(f"bundle/told/{SEED}"), []
    for i in range(count):
        text, question = description_task(sample_scene("test", SEED, i), rng)
        target = question.answer
        examples.append(Example(f"description-{i}", text, target, "description", question.question_type, target))
    return examples


def text_accuracies(
    model: OmniModel, processor: OmniProcessor, examples: list[Example], form: str = ""
) -> dict[str, float]:
    """Accuracy on text queries, in a written form, by question type, of MMAlign's form by category, and "all"."""
    written = in_form(examples, form) if form else examples
    right: dict[str, list[bool]] = {}
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        predictions = predict_modality(model, processor, written[start : start + BATCH], "text")
        for example, prediction in zip(batch, predictions, strict=True):
            # a description names colours itself: parse the response against the question only
            question = example.question.rpartition(". ")[2]
            parsed = parse(example.question_type, question, prediction.text) if prediction.is_parsable else None
            is_right = is_correct(example.question_type, example.target, parsed)
            # MMAlign's categories are relation and attribute
            part = example.category if example.question_type == "choice" else example.question_type
            right.setdefault(part, []).append(is_right)
    all_right = [r for of_type in right.values() for r in of_type]
    return {**{k: sum(r) / len(r) for k, r in right.items()}, "all": sum(all_right) / len(all_right)}


def synthesized(examples: list[Example], part: str = "heldout") -> list[Example]:
    """The examples with espeak-ng's audio of their questions, in voices of `part`."""
    tts_engine, rng = EspeakEngine(), random.Random(f"bundle/voices/{SEED}")
    audio_examples = []
    for example in examples:
        voice = rng.choice(ESPEAK_VOICES[part])
        utterance = Utterance(example.question, voice, rng.randint(150, 200), rng.randint(35, 65), rng.randint(1, 9999))
        audio_examples.append(example.with_audio(tts_engine.synthesize_audio(utterance), voice))
    return audio_examples


def mean_word_error(transcriber: Transcriber, examples: list[Example]) -> float:
    """Mean over clips of the word error rate of the transcripts."""
    rates: list[float] = []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        transcripts = transcriber.transcribe(batch)
        rates += [word_error_rate(e.question, t) for e, t in zip(batch, transcripts, strict=True)]
    return fmean(rates)


def measure(model: OmniModel, processor: OmniProcessor, per_type: int) -> dict[str, Any]:
    parts = model, processor
    transcriber = Transcriber.from_pretrained()
    questions = toy_examples(per_type)
    captions = [ToyMMAlign("test", SEED).example(i) for i in range(per_type)]
    return {
        "n_per_type": per_type,
        "seed": SEED,
        "text": text_accuracies(*parts, questions),
        "text_in_other_forms": {form: text_accuracies(*parts, questions, form)["all"] for form in WRITTEN_FORMS},
        "text_mmalign": text_accuracies(*parts, captions),
        "text_mmalign_in_asr_form": text_accuracies(*parts, captions, ASR_FORM),
        "repeats": text_accuracies(*parts, repeat_examples(per_type))["all"],
        "answers_without_an_image": text_accuracies(*parts, description_examples(per_type))["all"],
        "word_error": {
            "espeak-ng, training voices": mean_word_error(transcriber, synthesized(questions, "training")),
            "espeak-ng, held-out voices": mean_word_error(transcriber, synthesized(questions)),
            **{v: mean_word_error(transcriber, list(ExampleFolder(bundled_voice(v)))) for v in BUNDLED_VOICES},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per_type", type=int, default=100)
    parser.add_argument("--output", type=Path, default=asr_model_path().parent / "metrics.json")
    options = parser.parse_args()
    model, processor = assemble(AlignConfig([], Path(), projector="stack"))
    metrics = measure(model.eval(), processor, options.per_type)
    write_json(options.output, metrics)
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
