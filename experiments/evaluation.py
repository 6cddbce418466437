"""What does an evaluation cost: audio added to text, and items in a batch against one at a time?

    python experiments/evaluation.py [--check] [--n 100] [--repeats 5]

Both modalities: geometry of InternVL2-1B at a quarter of depth and width, 7 tiles, a text query of 20 tokens and an
audio query of 4 s (32 layers of Whisper, quartered too), 5 tokens of chat template after it, 8 new tokens, random
weights, CPU, for one image and for four. The vision tower is left out: it would run once for both sides, so the
measured ratio is above the real one. In a batch: the tiny model, questions of all types, synthesized by espeak-ng in
held-out voices, both modalities, 50 items a batch; its projector is untrained, so the responses to audio are no answers
(7 tokens).

CPU time of one thread does not depend on what else runs on the machine; items a second, for the second bar, are in
wall time with all cores too, because a batch can use them and one item cannot. A ratio is taken within a repeat,
both sides one after the other, in the other order each time; mean and standard deviation over the repeats. "fastest" is
the ratio of each side's fastest, which the bars are held against: what else runs only adds to a time. `--check` exits
with 1 where a bar is missed: both modalities at most 1.3 times the text modality; a batch at least 3 times as many
items a second as one at a time.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from internvl2_1b import FRAME, QUESTION, SPEECH, SPEECH_TOKEN, STACK, TILE, build

from selfkd.data.example import Example
from selfkd.evaluation.backends.local import predict_modalities
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.synthesis.sources.registry import ToyWorld
from selfkd.synthesis.tts.base import ESPEAK_VOICES, EspeakEngine, Utterance
from selfkd.training.align import AlignConfig, assemble
from selfkd.training.data import MODALITIES

TILES, AFTER, NEW_TOKENS, ENCODER_LAYERS, BATCH = 7, 5, 8, 32, 50
MAX_BOTH_OVER_TEXT, MIN_BATCH_OVER_ONE = 1.3, 3.0


def prompts(model: OmniModel, images: int, modalities: tuple[str, ...]) -> dict[str, Any]:
    """One question about each of so many images in each modality, as `OmniProcessor` makes them."""
    generator, rows = torch.Generator().manual_seed(0), images * len(modalities)
    vocabulary = len(model.get_input_embeddings().weight)

    def ids(count: int, length: int) -> torch.Tensor:
        return torch.randint(2, vocabulary, (count, length), generator=generator)

    prefix, suffix = ids(images, TILES * TILE + FRAME - AFTER), ids(rows, QUESTION + AFTER)
    is_audio = torch.tensor([modality == "audio" for modality in modalities]).repeat(images)
    mask = torch.ones_like(suffix)
    suffix[is_audio, 0], mask[is_audio, 1 + AFTER :] = SPEECH_TOKEN, 0
    mel = torch.randn(int(is_audio.sum()), 80, SPEECH * STACK * 2, generator=generator)
    return {
        "prefix_ids": prefix,
        "prefix_mask": torch.ones_like(prefix),
        "group": torch.arange(images).repeat_interleave(len(modalities)),
        "suffix_ids": suffix,
        "suffix_mask": mask,
        "image_inputs": {},
        "audio_inputs": {"input_features": mel, "feature_attention_mask": torch.ones(len(mel), mel.shape[2]).long()}
        if len(mel)
        else {},
        "has_audio": is_audio,
    }


def audio_examples(count: int) -> list[Example]:
    source, tts_engine, voices = ToyWorld("test", 7), EspeakEngine(), ESPEAK_VOICES["heldout"]
    examples = []
    for i in range(count):
        example, voice = source.example(i), voices[i % len(voices)]
        examples.append(example.with_audio(tts_engine.synthesize_audio(Utterance(example.question, voice)), voice))
    return examples


def answer_in_batches(model: OmniModel, processor: OmniProcessor, examples: list[Example], size: int) -> None:
    ordered = sorted(examples, key=lambda e: len(e.question))  # as an evaluation does
    for start in range(0, len(ordered), size):
        predict_modalities(model, processor, ordered[start : start + size], MODALITIES)


def seconds(action: Callable[[], Any], clock: Callable[[], float]) -> float:
    started = clock()
    action()
    return clock() - started


def compare(
    first: Callable[[], Any], second: Callable[[], Any], repeats: int, threads: int = 1
) -> list[tuple[float, float]]:
    """Seconds of both, a pair a repeat, the order turned each time; what runs first of all is not counted."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    sides, pairs = (first, second), []
    first(), second()
    for repeat in range(repeats):
        order = (0, 1) if repeat % 2 == 0 else (1, 0)
        took = {side: seconds(sides[side], clock) for side in order}
        pairs.append((took[0], took[1]))
    return pairs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    parser.add_argument("--n", type=int, default=100, help="examples for batches against one at a time")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    found: list[tuple[str, list[tuple[float, float]], float | None, bool]] = []
    model = build(full_size=False, device="cpu", speech_layers=ENCODER_LAYERS // 4).eval()
    for images in (1, 4):
        both, text = (
            partial(
                model.generate,
                **prompts(model, images, modalities),
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
            )
            for modalities in (("text", "audio"), ("text",))
        )
        name = f"CPU s, both modalities over text, {images} image{'s' * (images > 1)}"
        found.append((name, compare(both, text, options.repeats), MAX_BOTH_OVER_TEXT, True))
    model, processor = assemble(AlignConfig([], Path(), projector="stack"))
    model.eval()
    examples = audio_examples(options.n)
    one_by_one, batched = (partial(answer_in_batches, model, processor, examples, size) for size in (1, BATCH))
    cores = os.cpu_count() or 1
    for threads, bar in ((1, None), (cores, MIN_BATCH_OVER_ONE)):
        name = f"{'CPU s' if threads == 1 else f'wall s, {threads} cores'}, batch of {BATCH} over one"
        found.append((name, compare(one_by_one, batched, options.repeats, threads), bar, False))

    print(f"CPU, torch {torch.__version__}; {options.repeats} repeats; n = {options.n} for batches")
    print(f"{'':45}{'seconds':>12}{'ratio':>6}{'sd':>6}{'fastest':>8}{'bar':>6}")
    missed = False
    for name, pairs, bar, is_upper in found:
        ratios, means = [a / b for a, b in pairs], [statistics.mean(side) for side in zip(*pairs, strict=True)]
        fastest = min(a for a, _ in pairs) / min(b for _, b in pairs)
        is_met = bar is None or (fastest <= bar if is_upper else fastest >= bar)
        missed |= not is_met
        limit = "" if bar is None else f" {'<=' if is_upper else '>='}{bar:3.1f}{'' if is_met else ' miss'}"
        print(
            f"{name:45}{means[0]:6.2f}{means[1]:6.2f}{statistics.mean(ratios):6.2f}{statistics.pstdev(ratios):6.2f}"
            f"{fastest:8.2f}{limit}"
        )
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
