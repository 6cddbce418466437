"""The audio of the noise study: training, validation and test questions of easy-VQA, in quiet, in babble and in rooms.

Babble is a sum of six voices that read sentences of the project's license, the first half of it in training, the other
one in the test. No engine or voice of the test is in training: neither the question's nor those of the babble.
"""

import json
import random
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from projector_recipes import KOKORO_VOICES

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, SAMPLE_RATE_HZ, Example
from selfkd.data.rewrite import rewrite
from selfkd.synthesis.augment import augment_example
from selfkd.synthesis.config import SourceName
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize

if TYPE_CHECKING:
    from selfkd.synthesis.tts.registry import EngineName

BENCHMARK: SourceName = "easy-vqa"
LICENSE = Path(__file__).parents[1] / "LICENSE"
SNR_DB = (20, 10, 5, 0)
CONDITIONS: dict[str, tuple[dict[str, float], int]] = {  # effects, signal-to-noise ratio in dB
    **{f"babble, {snr_db} dB": ({"noise": 1.0}, snr_db) for snr_db in SNR_DB},
    "room": ({"room": 1.0}, 0),
}
VALIDATION = ("babble, 5 dB",)
TRAINING_EFFECTS, TRAINING_SNR_DB, TRAINING_COPIES = {"noise": 0.8, "room": 0.4}, (-3.0, 20.0), 2
BABBLE_VOICES, BABBLE_SECONDS, BABBLE_FILES = 6, 15, 24
# engine, its voices, which half of the license
BABBLE: dict[str, tuple["EngineName", str, int]] = {
    "training": ("espeak", "random", 0),
    "training-flite": ("flite", "kal,kal16,rms,awb", 0),
    "validation": ("pico", "en-US,en-GB", 1),
    "test": ("kokoro", "af_bella,am_adam,bf_isabella,bm_lewis,af_sarah,am_puck", 1),
}


def synthesized(
    options: Any, name: str, source: SourceName, count: int, engine: "EngineName", voices: str, **more: Any
) -> Path:
    folder = options.output / "audio" / name
    path = str(options.models / "kokoro") if engine == "kokoro" else ""
    config = SynthesizeConfig(
        folder, source, count=count, engine=engine, engine_path=path, voices=voices, processes=1, **more
    )
    synthesize(config)
    return folder


def sentences(half: int) -> list[str]:
    """Parts of the license's sentences that a voice reads in a few seconds."""
    text = re.sub(r"[^A-Za-z,;.' ]+", " ", LICENSE.read_text().partition("APPENDIX")[0])
    parts = (" ".join(part.split()) for part in re.split(r"[,;.]", text))
    found = [part for part in parts if 5 <= len(part.split()) <= 14]
    return found[half::2]


def babble(options: Any, name: str) -> Path:
    """A folder of sums of `BABBLE_VOICES` voices, each as loud as the others."""
    folder, (engine, voices, half) = options.output / "babble" / name, BABBLE[name]
    texts = options.output / "babble" / f"sentences-{half}.jsonl"
    if not texts.is_file():
        texts.parent.mkdir(parents=True, exist_ok=True)
        texts.write_text("".join(json.dumps({"question": text, "answer": "-"}) + "\n" for text in sentences(half)))
    read = synthesized(options, f"babble-{name}", "jsonl", 0, engine, voices, path=str(texts), seed=11)
    clips = [example.samples() for example in ExampleFolder(read)]
    clips = [clip / np.sqrt(np.mean(np.square(clip))) for clip in clips]
    for index in range(BABBLE_FILES):
        path, rng = folder / f"{index:02d}.wav", random.Random(f"babble/{name}/{index}")
        if path.is_file():
            continue
        total = np.zeros(BABBLE_SECONDS * SAMPLE_RATE_HZ, np.float32)
        for _ in range(BABBLE_VOICES):
            one = np.concatenate(rng.sample(clips, min(len(clips), 12)))
            total += np.resize(one[rng.randrange(len(one) // 2) :], len(total))
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.5 * total / np.abs(total).max(), SAMPLE_RATE_HZ)
    return folder


def in_condition(example: Example, condition: str, noise: Path) -> Example:
    """The same stretch of babble at every level: only its level differs."""
    effects, snr_db = CONDITIONS[condition]
    return augment_example(example, effects, (snr_db, snr_db), str(noise), example.id) if effects else example


def conditions(folder: Path, noise: Path, names: Mapping[str, Any] | tuple[str, ...]) -> dict[str, Path]:
    """{condition: folder of the same questions in it}."""
    found = {}
    for name in names:
        found[name] = folder.with_name(f"{folder.name}, {name}")
        if not (found[name] / MANIFEST).is_file():
            rewrite(folder, found[name], partial(in_condition, condition=name, noise=noise))
    return found


def training_audio(options: Any) -> dict[str, list[str]]:
    """Folders of stage 1: "quiet", and the same clips in "noise", each in several draws."""
    clean = [
        synthesized(options, "questions-random", BENCHMARK, 1200, "espeak", "random", seed=1),
        synthesized(options, "questions-flite", BENCHMARK, 900, "flite", "kal,kal16,rms", seed=2),
        synthesized(options, "words-random", "words", 600, "espeak", "random", seed=3),
    ]
    noises = [babble(options, name) for name in ("training", "training-flite")]
    noisy = []
    for folder in clean:
        for copy in range(TRAINING_COPIES):
            path = folder.with_name(f"{folder.name}, noisy {copy}")
            if not (path / MANIFEST).is_file():
                rewrite(folder, path, partial(_noisy, noise=noises[copy % len(noises)], copy=copy))
            noisy.append(str(path))
    return {"quiet": [str(folder) for folder in clean], "noise": noisy}


def _noisy(example: Example, noise: Path, copy: int) -> Example:
    return augment_example(example, TRAINING_EFFECTS, TRAINING_SNR_DB, str(noise), f"{copy}/{example.id}")


def test_audio(options: Any) -> dict[str, Path]:
    """Kokoro's voices, {condition: folder}."""
    read = synthesized(options, "test", BENCHMARK, options.questions, "kokoro", KOKORO_VOICES, split="test", seed=100)
    return conditions(read, babble(options, "test"), CONDITIONS)


def validation_audio(options: Any) -> dict[str, Path]:
    """A voice of Flite that is not in training, {condition: folder}: other questions of the same split."""
    read = synthesized(options, "validation", BENCHMARK, options.questions // 2, "flite", "slt", split="test", seed=200)
    return conditions(read, babble(options, "validation"), VALIDATION)
