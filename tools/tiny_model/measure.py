"""Measures what the bundled parts can do and writes it beside them: the figures of their card.

    python -m tools.tiny_model.measure [--per_kind N] [--output FILE]

Written questions on the world's test split by kind, repeating and answering without a picture, and the sentence error
of the recogniser on unseen voices.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

from selfkd.data.example import Example
from selfkd.evaluation.backends.local import predict_modality
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.evaluation.grading import is_right, parse
from selfkd.files import write_json
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.tiny import asr_model_path
from selfkd.synthesis.sources.registry import ToyMMAlign, ToyWorld
from selfkd.synthesis.tts.base import ESPEAK_VOICES, EspeakEngine, Utterance
from selfkd.toy_world.questions import TOY_QUESTION_TYPES
from selfkd.toy_world.scenes import draw_scene
from selfkd.toy_world.tasks import REPEAT_INSTRUCTION, sample_words, transcription_task
from selfkd.training.align import AlignConfig, assemble

SEED = 1000
BATCH = 50


def toy_examples(per_type: int) -> list[Example]:
    """As many test questions of every kind of the world."""
    return [ToyWorld("test", SEED).example(i) for i in range(per_type * len(TOY_QUESTION_TYPES))]


def repeat_examples(count: int) -> list[Example]:
    rng = random.Random(f"bundle/repeat/{SEED}")
    texts = [sample_words(draw_scene("test", SEED, i), rng) for i in range(count)]
    return [
        Example(f"repeat-{i}", text, text, "words", "repeat", text, instruction=f"{REPEAT_INSTRUCTION}\n")
        for i, text in enumerate(texts)
    ]


def told_examples(count: int) -> list[Example]:
    """Questions about a description in writing, no picture."""
    rng, examples = random.Random(f"bundle/told/{SEED}"), []
    for i in range(count):
        text, question = transcription_task(draw_scene("test", SEED, i), rng)
        examples.append(Example(f"told-{i}", text, question.answer, "told", question.question_type, question.answer))
    return examples


def share_right(model: OmniModel, processor: OmniProcessor, examples: list[Example]) -> dict[str, float]:
    """Share of right answers to written questions by kind, and "all"."""
    right: dict[str, list[bool]] = {}
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        for example, prediction in zip(batch, predict_modality(model, processor, batch, "text"), strict=True):
            # a description in writing names colours itself: read the reply against the question alone
            question = example.question.rpartition(". ")[2]
            parsed = parse(example.question_type, question, prediction.text) if prediction.is_read else None
            right.setdefault(example.question_type, []).append(is_right(example.question_type, example.target, parsed))
    everything = [r for question_type in right.values() for r in question_type]
    return {**{k: sum(r) / len(r) for k, r in right.items()}, "all": sum(everything) / len(everything)}


def spoken(examples: list[Example], part: str = "heldout") -> list[Example]:
    tts_engine, rng = EspeakEngine(), random.Random(f"bundle/voices/{SEED}")
    said = []
    for example in examples:
        voice = rng.choice(ESPEAK_VOICES[part])
        utterance = Utterance(example.question, voice, rng.randint(150, 200), rng.randint(35, 65), rng.randint(1, 9999))
        said.append(example.spoken(tts_engine.synthesize_audio(utterance), voice))
    return said


def sentence_error(transcriber: Transcriber, examples: list[Example]) -> float:
    """Share of spoken sentences whose transcript differs from what was said."""
    wrong = 0
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        wrong += sum(h != e.question for h, e in zip(transcriber.transcribe(batch), batch, strict=True))
    return wrong / len(examples)


def measure(model: OmniModel, processor: OmniProcessor, per_type: int) -> dict[str, Any]:
    parts = model, processor
    transcriber = Transcriber.from_pretrained()
    questions = toy_examples(per_type)
    captions = [ToyMMAlign("test", SEED).example(i) for i in range(per_type)]
    return {
        "n_per_kind": per_type,
        "seed": SEED,
        "written": share_right(*parts, questions),
        "written_mmalign": share_right(*parts, captions)["all"],
        "repeats": share_right(*parts, repeat_examples(per_type))["all"],
        "answers_without_a_picture": share_right(*parts, told_examples(per_type))["all"],
        "sentence_error_unseen_voices": sentence_error(transcriber, spoken(questions)),
        "sentence_error_training_voices": sentence_error(transcriber, spoken(questions, "training")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per_kind", type=int, default=100)
    parser.add_argument("--output", type=Path, default=asr_model_path().parent / "figures.json")
    options = parser.parse_args()
    model, processor = assemble(AlignConfig([], Path(), projector="stack"))
    metrics = measure(model.eval(), processor, options.per_type)
    write_json(options.output, metrics)
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
