"""What the stamps' VLM is asked in training: the benchmark's questions and repeating, in three languages."""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from PIL import Image
from stamps_features import augmented, features
from stamps_images import STAMPS, LabelledImage, labelled_images, may_be_true, stamps
from stamps_sources import LANGUAGES
from torch import Tensor

from selfkd.synthesis.sources.stamps import read_stamps

VERSIONS = {"ImageNet": 4, "stamps": 5}  # of each image; of the others one
DROPOUT = 0.3  # of image features
SHARES = {"ImageNet": 0.34, "stamps": 0.26, "clip art": 0.17, "emoji": 0.19, "character": 0.04}  # of the groups


def collect(sources: Path, cache: Path) -> tuple[list[LabelledImage], Tensor, list[list[int]]]:
    """(images, features (N, 1280) of all their versions, rows of each image's versions)."""
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
    return every, torch.cat(found).flatten(1).float(), rows


def _version(image: LabelledImage, number: int) -> Image.Image:
    loaded = image.load()
    return augmented(loaded, random.Random(f"{image.name}/{number}")) if number else loaded


@dataclass
class Collection:
    """Images with their features, to sample from."""

    images: list[LabelledImage]
    features: Tensor  # (N, 1280)
    rows: list[list[int]]
    letters: Mapping[str, tuple[str, str]]  # the captions of the letters A and B by language
    texts: list[str]  # to repeat

    @cached_property
    def by_source(self) -> dict[str, list[int]]:
        return _grouped((image.source, index) for index, image in enumerate(self.images))

    @cached_property
    def by_neighbours(self) -> dict[str, list[int]]:
        return _grouped((image.neighbours, index) for index, image in enumerate(self.images))

    @cached_property
    def may_be_true(self) -> Tensor:
        return may_be_true(self.images)

    def also_true(self, chosen: Sequence[int]) -> Tensor:
        """(N, N): where a caption of another image may be true of the image too; False on the diagonal."""
        rows = torch.tensor(chosen)
        return self.may_be_true[rows][:, rows].fill_diagonal_(False)

    def features_of(self, chosen: Sequence[int], rng: random.Random) -> Tensor:
        """(N, 1280): of a version of each image."""
        return self.features[[rng.choice(self.rows[index]) for index in chosen]]

    @cached_property
    def mean_and_spread(self) -> tuple[Tensor, Tensor]:
        return self.features.mean(0), self.features.std(0) + 1e-3

    def perturbed(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """(N, 1280), with noise, and with the mean in place of some of them: 1,280 features of 7,000 images are soon
        learnt by heart."""
        mean, spread = self.mean_and_spread
        x = (features - mean) / spread + 0.3 * torch.randn(features.shape, generator=generator)
        kept = torch.rand(features.shape, generator=generator) >= DROPOUT
        return mean + spread * x * kept / (1 - DROPOUT)

    def captioned(self, count: int, neighbours: int, rng: random.Random) -> dict[int, str]:
        """{index of an image: a caption of it, mostly in one language}; some of the images are alike."""
        main = rng.choice(LANGUAGES)
        chosen: dict[int, str] = {}
        while len(chosen) < count:
            (source,) = rng.choices(list(SHARES), list(SHARES.values()))
            index = rng.choice(self.by_source[source])
            near = self.by_neighbours[self.images[index].neighbours]
            for one in (index, *rng.sample(near, min(len(near), neighbours))):
                language = main if rng.random() < 0.8 else rng.choice(LANGUAGES)
                caption = self.images[one].caption(language, rng)
                if caption:
                    chosen[one] = caption
        return dict(list(chosen.items())[:count])

    def false_caption(self, index: int, language: str, rng: random.Random) -> str | None:
        """A caption of an image of another topic, as the benchmark has it; None where there is none in `language`."""
        topic = self.images[index].neighbours.partition("/")[0]
        others = [
            caption
            for other, image in enumerate(self.images)
            if image.neighbours.partition("/")[0] != topic
            and not self.may_be_true[index, other]
            and (caption := image.caption(language, rng))
        ]
        return rng.choice(others) if others else None


def which(letters: tuple[str, str], true: str, false: str, is_first: bool) -> tuple[str, str]:
    """The question which of two captions is true, and its answer."""
    first, second = (true, false) if is_first else (false, true)
    return f"{letters[0]} {first} {letters[1]} {second}", "A" if is_first else "B"


def shuffled(text: str, rng: random.Random) -> str:
    """Now and then in another order, which only a model that takes in the audio can repeat."""
    words = text.split()
    return " ".join(rng.sample(words, len(words))) if rng.random() < 0.25 else text


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    found = defaultdict(list)
    for key, index in pairs:
        found[key].append(index)
    return dict(found)


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
