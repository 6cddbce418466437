"""Does attention go where the words of a query point? On narratives of the toy world, made in the published layout of
Localized Narratives: scenes, sentences about where their shapes are, and a mouse that hovers over the shape while it is
named. Then `selfkd synthesize --source localized-narratives` and `selfkd analyze attention`.

    python experiments/narratives.py --count 100 --output runs/narratives selfkd-tiny
"""

import argparse
import json
import random
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from selfkd.analysis.analyze_attention import analyze_attention
from selfkd.analysis.config import AttentionConfig
from selfkd.data.example import SAMPLE_RATE_HZ, image_to_png
from selfkd.files import write_text
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.sources.caption_corpora import split_of_image
from selfkd.synthesis.synthesize import synthesize
from selfkd.synthesis.tts.base import TTSEngine, Utterance
from selfkd.synthesis.tts.registry import open_engine
from selfkd.toy_world.scenes import IMAGE_SIZE, Scene, Split, Thing, render, sample_scene

POINTS_PER_SECOND = 30
GAP_SECONDS = 0.05  # between two utterances
HOVER = 0.7  # share of a shape's radius within which the mouse stays
SPLIT: Split = "test"
VOICES = ("en-US", "en-GB-x-rp")


def image_name(number: int) -> str:
    return f"toy{number:06d}"


def narrative(scene: Scene) -> list[tuple[str, Thing | None]]:
    """(utterance, what the mouse is over): a sentence about each thing and the next one to its right."""
    utterances: list[tuple[str, Thing | None]] = []
    for left, right in pairwise(sorted(scene.things, key=lambda thing: thing.x)):
        utterances += [(f"The {left.name}", left), ("is left of", None), (f"the {right.name}.", right)]
    return utterances


def hover(thing: Thing, start: float, stop: float, rng: random.Random) -> list[dict[str, float]]:
    """Points over a thing, as shares of the image."""
    points = []
    for number in range(round((stop - start) * POINTS_PER_SECOND)):
        x, y = (at + HOVER * thing.radius * rng.uniform(-1, 1) for at in (thing.x, thing.y))
        t = start + number / POINTS_PER_SECOND
        points.append({"x": x / IMAGE_SIZE, "y": y / IMAGE_SIZE, "t": round(t, 3)})
    return points


def write_narrative(folder: Path, number: int, seed: int, engine: TTSEngine) -> dict[str, Any]:
    """The record of a narrative; its image and recording are written."""
    scene, rng = sample_scene("test", seed, number), random.Random(f"narrative/{seed}/{number}")
    voice = rng.choice(VOICES)
    audio, timed, traces, at = [], [], [], 0.0
    for text, thing in narrative(scene):
        samples = engine.synthesize_audio(Utterance(text, voice))
        stop = at + len(samples) / SAMPLE_RATE_HZ
        timed.append({"utterance": text, "start_time": round(at, 3), "end_time": round(stop, 3)})
        traces.append(hover(thing, at, stop, rng) if thing else [])
        audio += [samples, np.zeros(round(GAP_SECONDS * SAMPLE_RATE_HZ), np.float32)]
        at = stop + GAP_SECONDS
    name = image_name(number)
    soundfile.write(folder / "recordings" / f"{name}.wav", np.concatenate(audio), SAMPLE_RATE_HZ)
    (folder / "images" / f"{name}.jpg").write_bytes(image_to_png(render(scene)))
    caption = " ".join(text for text, _ in narrative(scene))
    record = {"dataset_id": "toy", "image_id": name, "annotator_id": VOICES.index(voice), "caption": caption}
    return record | {"timed_caption": timed, "traces": traces, "voice_recording": f"{name}.wav"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--count", type=int, default=100, help="number of narratives")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    published, data = options.output / "published", options.output / "data"
    for part in ("images", "recordings"):
        (published / part).mkdir(parents=True, exist_ok=True)
    engine = open_engine("espeak", "")
    of_split = (number for number in count() if split_of_image(image_name(number)) == SPLIT)
    records = [write_narrative(published, n, options.seed, engine) for n in islice(of_split, options.count)]
    file = published / "toy_localized_narratives.jsonl"
    write_text(file, "".join(json.dumps(record) + "\n" for record in records))
    images, recordings = str(published / "images"), str(published / "recordings")
    synthesize(SynthesizeConfig(data, "localized-narratives", str(file), images, recordings, split=SPLIT, count=0))
    analyze_attention(AttentionConfig(options.models, [str(data)], options.output / "attention"))


if __name__ == "__main__":
    main()
