"""MMAlign, the paper's benchmark: which of two captions fits the picture, written and spoken.

Built out of ARO's published files, or of the embedded world, as a folder of spoken questions for `selfkd evaluate`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfkd.data.synthesize import SynthesizeConfig, synthesize
from selfkd.errors import InputError
from selfkd.evaluation.benchmark_speech import speech_settings
from selfkd.evaluation.benchmarks.aro import mmalign


@dataclass
class MMAlignConfig:
    """MMAlign as spoken questions: ARO's relations and attributions, or the embedded world's.

    Args:
        output: Folder for the spoken questions.
        relation: ARO's visual_genome_relation.json; without it the questions are about the embedded world.
        attribution: ARO's visual_genome_attribution.json.
        images: ARO's folder of pictures.
        per_kind: How many questions of each of the two kinds.
        seed: Seed of the draw and of the order of the captions.
        voices: Voices that speak, as in selfkd synthesize.
        speech: Further fields of selfkd synthesize: {engine: kokoro, verify: openai/whisper-base.en}.
    """

    output: Path
    relation: str = ""
    attribution: str = ""
    images: str = ""
    per_kind: int = 300
    seed: int = 0
    voices: str = "unseen"
    speech: dict[str, Any] = field(default_factory=dict)


def build_mmalign(config: MMAlignConfig) -> Mapping[str, Any]:
    """Writes the folder and returns its manifest; the same command continues what was cut short."""
    if config.per_kind < 1:
        raise InputError(f"per_kind: {config.per_kind}: must be at least 1")
    shared = {"voices": config.voices, "seed": config.seed, **speech_settings(config.speech)}
    files = {"relation": config.relation, "attribution": config.attribution, "images": config.images}
    if not any(files.values()):
        count = 2 * config.per_kind
        return synthesize(SynthesizeConfig(config.output, "mmalign-world", split="test", count=count, **shared))
    missing = [name for name, path in files.items() if not path]
    if missing:
        raise InputError(f"{missing[0]}: ARO's questions need relation, attribution and images")
    relation, attribution, images = map(Path, files.values())
    source = mmalign(relation, attribution, images, config.per_kind, config.seed)
    asked = SynthesizeConfig(config.output, "benchmark", config.relation, count=len(source), **shared)
    return synthesize(asked, source)
