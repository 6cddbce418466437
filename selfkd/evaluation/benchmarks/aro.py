"""MMAlign out of ARO: which of two captions fits a cut of a picture, the relation or the attributes swapped in one.

Reads `visual_genome_relation.json` and `visual_genome_attribution.json` with their folder of pictures, as published by
Yuksekgonul et al. (arXiv 2210.01936; mertyg/vision-language-models-are-bows). Its loader cuts each picture to the
item's box, and so do we. How many items the paper draws, and in what words it asks, is not known: 300 of each, half of
them with the true caption first, in the words of the embedded world's MMAlign.
"""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfkd.data.as_text import as_text
from selfkd.data.example import encode_picture
from selfkd.data.json_list import json_records
from selfkd.data.listed import Listed, Row, checked_image
from selfkd.data.media import decode_image
from selfkd.data.questions import which_caption
from selfkd.data.stored import InFolder
from selfkd.errors import InputError
from selfkd.evaluation.benchmarks.benchmark import as_details

FIELDS = ("image_path", "true_caption", "false_caption", "bbox_x", "bbox_y", "bbox_w", "bbox_h")
SWAPPED = {"relation": "relation_name", "attribution": "attributes"}  # what the two captions differ in


def mmalign(relation: Path, attribution: Path, images: Path, per_kind: int = 300, seed: int = 0) -> Listed:
    """2 x `per_kind` questions, relations first; raises InputError naming file and item for what cannot be used."""
    if per_kind < 1:
        raise InputError(f"per_kind: {per_kind}: must be at least 1")
    rows = [*_rows("relation", relation, images, per_kind, seed)]
    rows += _rows("attribution", attribution, images, per_kind, seed)
    return Listed("mmalign", tuple(rows), "MIT (ARO's captions); the pictures are Visual Genome's, CC-BY-4.0")


def _rows(kind: str, path: Path, images: Path, count: int, seed: int) -> Iterator[Row]:
    items = list(json_records(path))
    if count > len(items):
        raise InputError(f"{path}: per_kind: {count} are asked for, there are {len(items)}")
    rng = random.Random(f"mmalign/{kind}/{seed}")
    chosen = sorted(rng.sample(range(len(items)), count))
    true_first = [i % 2 == 0 for i in range(count)]
    rng.shuffle(true_first)
    for number, first in zip(chosen, true_first, strict=True):
        item, where = items[number], f"{path}: item {number}"
        missing = [name for name in (*FIELDS, SWAPPED[kind]) if not isinstance(item, Mapping) or name not in item]
        if missing:
            raise InputError(f"{where}: field {missing[0]}: missing")
        true, false = (as_text(item[name], f"{where}: field {name}:") for name in ("true_caption", "false_caption"))
        if not true or not false:
            raise InputError(f"{where}: field {'false' if true else 'true'}_caption: empty")
        yield Row(
            id=f"mmalign-{kind}-{number:05d}",
            question=which_caption(*((true, false) if first else (false, true))),
            answer="A" if first else "B",
            image=_cut(item, images, where),
            category=kind,
            kind="choice",
            details=as_details(true_caption=true, false_caption=false, swapped=item[SWAPPED[kind]]),
        )


def _cut(item: Mapping[str, Any], images: Path, where: str) -> bytes:
    """The box of an item's picture, PNG. What of it lies beyond the picture's edge is black, as in ARO's loader."""
    box = [item[name] for name in ("bbox_x", "bbox_y", "bbox_w", "bbox_h")]
    if not all(isinstance(side, int | float) for side in box):
        raise InputError(f"{where}: field bbox: {box} are not four numbers")
    left, top, width, height = box
    try:
        picture = decode_image(checked_image(InFolder(images, str(item["image_path"])).read()))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    inside = width > 0 and height > 0 and left < picture.width and top < picture.height
    if not (inside and left + width > 0 and top + height > 0):
        raise InputError(f"{where}: field bbox: {box} is outside the picture of {picture.width} x {picture.height}")
    return encode_picture(picture.crop((left, top, left + width, top + height)))
