"""What the stamps' VLM is asked in training: the benchmark's questions, naming, and repeating, in three languages."""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from PIL import Image
from stamps_features import PATCHES, augmented, features
from stamps_images import STAMPS, LabelledImage, labelled_images, may_be_true, stamps
from stamps_sources import LANGUAGES
from torch import Tensor
from torch.utils.data import Dataset

from selfkd.synthesis.sources.stamps import IS_TRUE, WHICH_IS_TRUE, read_stamps
from selfkd.toy_world.tasks import REPEAT_INSTRUCTION
from tools.tiny_model.world_groups import QUESTIONS_PER_GROUP, Group, GroupCollator

VERSIONS = {"ImageNet": 3, "stamps": 3}  # of each image; of the others one
SHARES = {"ImageNet": 0.34, "stamps": 0.26, "clip art": 0.17, "emoji": 0.19, "character": 0.04}  # of the groups
NEAR_SHARE = 0.7  # of the false captions, at the end of the curriculum
NAME = {
    "en": "Name what the image shows in English.\n",
    "es": "Name what the image shows in Spanish.\n",
    "fr": "Name what the image shows in French.\n",
}
REPEAT = f"{REPEAT_INSTRUCTION}\n"


def collect(sources: Path, cache: Path) -> tuple[list[LabelledImage], Tensor, list[list[int]]]:
    """(images, features (N, 1280, 7, 7) in float16 of all their versions, rows of each image's versions)."""
    by_source: dict[str, list[LabelledImage]] = defaultdict(list)
    for image in labelled_images(sources):
        by_source[image.source].append(image)
    by_source |= {"validation": list(stamps(sources, ["validation"]))}
    found: list[Tensor] = []
    every: list[LabelledImage] = []
    rows: list[list[int]] = []
    count = 0
    for source, some in by_source.items():
        first = len(rows)
        rows += [[] for _ in some]
        every += some
        for number in range(VERSIONS.get(source, 1)):
            loads = [partial(_version, image, number) for image in some]
            found.append(features(loads, sources, cache / f"{source}-{number}.safetensors"))
            for index in range(len(some)):
                rows[first + index].append(count + index)
            count += len(some)
    return every, torch.cat(found), rows


def _version(image: LabelledImage, number: int) -> Image.Image:
    loaded = image.load()
    return augmented(loaded, random.Random(f"{image.name}/{number}")) if number else loaded


@dataclass
class Collection:
    """Images with their features, to sample from."""

    images: list[LabelledImage]
    features: Tensor
    rows: list[list[int]]
    letters: Mapping[str, tuple[str, str]]  # the captions of the letters A and B by language
    texts: list[str]  # to repeat

    @cached_property
    def by_source(self) -> dict[str, list[int]]:
        return _grouped((image.source, index) for index, image in enumerate(self.images))

    @cached_property
    def by_neighbours(self) -> dict[str, list[int]]:
        return _grouped((image.neighbours, index) for index, image in enumerate(self.images))

    def sample(self, rng: random.Random) -> int:
        (source,) = rng.choices(list(SHARES), list(SHARES.values()))
        return rng.choice(self.by_source[source])

    def features_of(self, index: int, rng: random.Random) -> Tensor:
        return self.features[rng.choice(self.rows[index])]

    @cached_property
    def may_be_true(self) -> Tensor:
        return may_be_true(self.images)

    def false_caption(self, index: int, language: str, rng: random.Random, near_share: float = 1.0) -> str | None:
        """A caption of another image, now and then of a similar one."""
        image = self.images[index]
        for _ in range(20):
            near = self.by_neighbours[image.neighbours] if rng.random() < near_share else self.by_source[image.source]
            other = rng.choice(near)
            caption = self.images[other].caption(language, rng)
            if caption and not self.may_be_true[index, other]:
                return caption
        return None

    def group(self, index: int, rng: random.Random, progress: float) -> "FeatureGroup | None":
        """Questions of one kind about an image, in all languages. A curriculum: at first mostly one caption, and false
        ones of any image; later two to choose from, and false ones of similar images."""
        weights = [1, 4 - 2 * progress, 0.5 + 3.5 * progress]
        image, kind = self.images[index], rng.choices(["name", "is true", "which"], weights)[0]
        tasks: list[tuple[str, str]] = []
        instruction = {"is true": IS_TRUE, "which": WHICH_IS_TRUE}.get(kind, "")
        languages = [language for language in LANGUAGES if image.caption(language, rng)]
        if kind == "name":
            language = rng.choice(languages)
            instruction = NAME[language]
            captions = dict.fromkeys(image.caption(language, rng) for _ in range(2))
            tasks = [("", caption) for caption in captions if caption]
        for number in range(QUESTIONS_PER_GROUP if kind != "name" else 0):
            language = rng.choice(languages)
            true = image.caption(language, rng)
            false = self.false_caption(index, language, rng, NEAR_SHARE * progress)
            if true is None or false is None:
                continue
            if kind == "is true":
                tasks.append((true, "yes") if number % 2 else (false, "no"))
            else:
                tasks.append(which(self.letters[language], true, false, rng.random() < 0.5))
        return FeatureGroup(self.features_of(index, rng), tuple(tasks), instruction) if tasks else None


def which(letters: tuple[str, str], true: str, false: str, is_first: bool) -> tuple[str, str]:
    first, second = (true, false) if is_first else (false, true)
    return f"{letters[0]} {first} {letters[1]} {second}", "A" if is_first else "B"


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    found = defaultdict(list)
    for key, index in pairs:
        found[key].append(index)
    return dict(found)


@dataclass(frozen=True)
class FeatureGroup(Group):
    """`image` holds features of the vision encoder, (1280, 7, 7)."""

    instruction: str = ""


class StampsGroups(Dataset):
    """`count` groups, sampled from the seed at each access; one in sixteen repeats captions without an image."""

    def __init__(self, collection: Collection, count: int, seed: int):
        self.collection, self.count, self.seed = collection, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> FeatureGroup:
        rng = random.Random(f"stamps group/{self.seed}/{index}")
        if rng.random() < 1 / 16:
            texts = [_shuffled(rng.choice(self.collection.texts), rng) for _ in range(QUESTIONS_PER_GROUP)]
            return FeatureGroup(None, tuple((text, text) for text in texts), REPEAT)
        while (group := self.collection.group(self.collection.sample(rng), rng, index / self.count)) is None:
            pass
        return group


def _shuffled(text: str, rng: random.Random) -> str:
    """Now and then in another order, which only a model that takes in the audio can repeat."""
    words = text.split()
    return " ".join(rng.sample(words, len(words))) if rng.random() < 0.25 else text


class FeatureCollator(GroupCollator):
    def prefixes(self, groups: Sequence[Group]) -> dict[str, Tensor]:
        image = self.tokenizer.image_token
        texts = [
            self.frames[group.image is not None].before.replace(image, image * PATCHES) + group.instruction
            for group in groups
            if isinstance(group, FeatureGroup)
        ]
        self.tokenizer.padding_side = "left"
        batch = self.tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        images = [group.image.float() for group in groups if group.image is not None]
        return {**batch, **({"pixel_values": torch.stack(images)} if images else {})}


def collections(sources: Path, cache: Path) -> tuple[Collection, Collection]:
    """(to train on, the stamps of the validation split)."""
    every, tensor, rows = collect(sources, cache)
    read = read_stamps(sources / STAMPS)
    by_name = {stamp.name.rpartition("/")[2]: stamp.captions for stamp in read if "english/filled/upper" in stamp.name}
    letters = {name: (by_name["A_filled"][name], by_name["B_filled"][name]) for name in LANGUAGES}
    texts = [
        stamp.captions[name] for stamp in read if stamp.split == "train" for name in LANGUAGES if name in stamp.captions
    ]
    held_out = {image.name for image in stamps(sources, ["validation"])}
    train = [index for index, image in enumerate(every) if image.name not in held_out]
    other = [index for index, image in enumerate(every) if image.name in held_out]

    def part(indices: list[int]) -> Collection:
        return Collection([every[i] for i in indices], tensor, [rows[i] for i in indices], letters, texts)

    return part(train), part(other)
