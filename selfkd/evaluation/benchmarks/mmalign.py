"""MMAlign, the paper's benchmark: which of two captions fits the image, in text and in audio.

Built out of ARO, or of the toy world, as a dataset folder for `selfkd evaluate`. From ARO it reads
`visual_genome_relation.json` and `visual_genome_attribution.json` with their folder of images, as published by
Yuksekgonul et al. (arXiv 2210.01936; mertyg/vision-language-models-are-bows), whose loader crops each image to the
item's box, as here. The number of items and the template of the paper are not known: 300 of each, half of them
with the true caption first, in the template of the toy world's MMAlign.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfkd.data.as_text import as_text
from selfkd.data.example import image_to_png
from selfkd.data.lazy_images import ImageInFolder
from selfkd.data.media import decode_image
from selfkd.errors import InputError
from selfkd.evaluation.benchmarks.base import details_json
from selfkd.synthesis.config import synthesis_settings
from selfkd.synthesis.sources.rows import Row, RowSource, checked_image, json_records
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.toy_world.questions import caption_question

FIELDS = ("image_path", "true_caption", "false_caption", "bbox_x", "bbox_y", "bbox_w", "bbox_h")
SWAPPED = {"relation": "relation_name", "attribution": "attributes"}  # what the two captions differ in


def open_mmalign(relation: Path, attribution: Path, images: Path, per_type: int = 300, seed: int = 0) -> RowSource:
    """2 x `per_type` questions, relations first; raises InputError with file and item for data that cannot be used."""
    if per_type < 1:
        raise InputError(f"per_type: {per_type}: must be at least 1")
    rows = [*_rows("relation", relation, images, per_type, seed)]
    rows += _rows("attribution", attribution, images, per_type, seed)
    return RowSource("mmalign", tuple(rows), "MIT (ARO's captions); the images are those of Visual Genome, CC-BY-4.0")


def _rows(question_type: str, path: Path, images: Path, count: int, seed: int) -> Iterator[Row]:
    items = list(json_records(path))
    if count > len(items):
        raise InputError(f"{path}: per_type: {count}: there are only {len(items)} items")
    rng = random.Random(f"mmalign/{question_type}/{seed}")  # noqa: S311 seeded, for the same data in every run; nothing secret
    chosen = sorted(rng.sample(range(len(items)), count))
    true_first = [i % 2 == 0 for i in range(count)]
    rng.shuffle(true_first)
    for number, first in zip(chosen, true_first, strict=True):
        item, where = items[number], f"{path}: item {number}"
        missing = [
            name for name in (*FIELDS, SWAPPED[question_type]) if not isinstance(item, Mapping) or name not in item
        ]
        if missing:
            raise InputError(f"{where}: field {missing[0]}: missing")
        true, false = (as_text(item[name], f"{where}: field {name}:") for name in ("true_caption", "false_caption"))
        if not true or not false:
            raise InputError(f"{where}: field {'false' if true else 'true'}_caption: empty")
        yield Row(
            id=f"mmalign-{question_type}-{number:05d}",
            question=caption_question(*((true, false) if first else (false, true))),
            answer="A" if first else "B",
            image=_crop(item, images, where),
            category=question_type,
            question_type="choice",
            details=details_json(true_caption=true, false_caption=false, swapped=item[SWAPPED[question_type]]),
        )


def _crop(item: Mapping[str, Any], images: Path, where: str) -> bytes:
    """The image of an item cropped to its box, PNG. Parts beyond the edge of the image are black, as in ARO's
    loader."""
    box = [item[name] for name in ("bbox_x", "bbox_y", "bbox_w", "bbox_h")]
    if not all(isinstance(side, int | float) for side in box):
        raise InputError(f"{where}: field bbox: {box} are not four numbers")
    left, top, width, height = box
    try:
        image = decode_image(checked_image(ImageInFolder(images, str(item["image_path"])).read()))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    overlaps = width > 0 and height > 0 and left < image.width and top < image.height
    if not (overlaps and left + width > 0 and top + height > 0):
        raise InputError(f"{where}: field bbox: {box} is outside the image of {image.width} x {image.height}")
    return image_to_png(image.crop((left, top, left + width, top + height)))


@dataclass
class MMAlignConfig:
    """MMAlign as a dataset folder with audio: from ARO's relations and attributions, or from the toy world.

    Args:
        output: Dataset folder to write.
        relation: ARO's visual_genome_relation.json; without it the questions are of the toy world.
        attribution: ARO's visual_genome_attribution.json.
        images: ARO's folder of images.
        per_type: How many questions on relations, and how many on attributions.
        seed: Seed of the sample and of the order of the captions.
        voices: Voices of the audio, as in selfkd synthesize.
        synthesis: Further fields of selfkd synthesize: {engine: kokoro, asr_filter: openai/whisper-base.en}.
    """

    output: Path
    relation: str = ""
    attribution: str = ""
    images: str = ""
    per_type: int = 300
    seed: int = 0
    voices: str = "heldout"
    synthesis: dict[str, Any] = field(default_factory=dict)


def build_mmalign(config: MMAlignConfig) -> Mapping[str, Any]:
    """Writes the folder and returns its manifest; the same command resumes an interrupted one."""
    if config.per_type < 1:
        raise InputError(f"per_type: {config.per_type}: must be at least 1")
    shared = {"voices": config.voices, "seed": config.seed, **synthesis_settings(config.synthesis)}
    files = {"relation": config.relation, "attribution": config.attribution, "images": config.images}
    if not any(files.values()):
        count = 2 * config.per_type
        return synthesize(SynthesizeConfig(config.output, "mmalign-world", split="test", count=count, **shared))
    missing = [name for name, path in files.items() if not path]
    if missing:
        raise InputError(f"{missing[0]}: ARO needs relation, attribution and images")
    relation, attribution, images = map(Path, files.values())
    source = open_mmalign(relation, attribution, images, config.per_type, config.seed)
    synthesis = SynthesizeConfig(config.output, "benchmark", config.relation, count=len(source), **shared)
    return synthesize(synthesis, source)
