"""The data on which the tiny VLM is pretrained: groups of text tasks about one image, or without an image.

Made on the fly from a seed, so that no file is needed; group `index` is always the same.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from selfkd.model.chat_template import chat_frame
from selfkd.toy_world.scenes import Scene, Split, render, sample_scene, split_of
from selfkd.toy_world.tasks import image_task, text_task

TEXT_ONLY_SHARE = 0.15
QUESTIONS_PER_GROUP = 8
ONE_THING_SHARE = 0.15
_CURRICULUM = ((0.1, 1), (0.3, 2), (1.0, 4))  # (up to this share of the training, max objects in a scene)


@dataclass(frozen=True)
class Group:
    image: Any  # PIL image, or None
    tasks: tuple[tuple[str, str], ...]  # (query, response)


class WorldGroups(Dataset):
    """`count` groups of one split, sampled from the seed at each access."""

    def __init__(self, count: int, seed: int, split: Split = "train", curriculum: bool = True):
        self.count, self.seed, self.split = count, seed, split
        self.curriculum = _CURRICULUM if curriculum else _CURRICULUM[-1:]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Group:
        rng = random.Random(f"group/{self.seed}/{index}")
        scene = self._with_few_things(sample_scene(self.split, self.seed, index), index / self.count, rng)
        if rng.random() < TEXT_ONLY_SHARE:
            return Group(None, tuple(text_task(scene, rng) for _ in range(QUESTIONS_PER_GROUP)))
        return Group(render(scene), tuple(image_task(scene, rng) for _ in range(QUESTIONS_PER_GROUP)))

    def _with_few_things(self, scene: Scene, progress: float, rng: random.Random) -> Scene:
        """A curriculum: one object at first, then two, then all; sometimes one object until the end.

        Binding a colour to a shape among several objects is learnt last, after attention to the image.
        """
        max_things = next(things for until, things in self.curriculum if progress <= until)
        if rng.random() < ONE_THING_SHARE:
            max_things = 1
        fewer = Scene(scene.background, scene.things[:max_things])
        return fewer if split_of(fewer) == self.split else scene


class GroupCollator:
    """Groups -> one batch: G prefixes (left-padded), B continuations (right-padded), labels on all after the prefix,
    those of the response marked."""

    def __init__(self, processor: Any):
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.frames = {with_image: chat_frame(processor, with_image) for with_image in (False, True)}

    def prefixes(self, groups: Sequence[Group]) -> Mapping[str, Tensor]:
        """Token ids and mask of what precedes the queries, left-padded, and the pixel values of the images."""
        images = [g.image for g in groups if g.image is not None]
        before = [self.frames[g.image is not None].before for g in groups]
        self.tokenizer.padding_side = "left"
        return self.processor(
            images=images or None, text=before, padding=True, add_special_tokens=False, return_tensors="pt"
        )

    def __call__(self, groups: Sequence[Group]) -> dict[str, Tensor]:
        prefix = self.prefixes(groups)
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        queries = [q + self.frames[g.image is not None].after for g in groups for q, _ in g.tasks]
        query_ids = self.tokenizer(queries, add_special_tokens=False)["input_ids"]
        response_ids = self.tokenizer([r for g in groups for _, r in g.tasks], add_special_tokens=False)["input_ids"]
        rows = [(q, [*r, end]) for q, r in zip(query_ids, response_ids, strict=True)]
        width = max(len(q) + len(r) for q, r in rows)
        input_ids = torch.full((len(rows), width), pad)
        labels = torch.full((len(rows), width), -100)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        in_response = torch.zeros((len(rows), width), dtype=torch.bool)
        for i, (q, r) in enumerate(rows):
            input_ids[i, : len(q) + len(r)] = torch.tensor(q + r)
            mask[i, : len(q) + len(r)] = 1
            # the row at position t predicts token t + 1
            labels[i, : len(q) + len(r) - 1] = torch.tensor((q + r)[1:])
            in_response[i, len(q) - 1 : len(q) + len(r) - 1] = True
        batch = {
            "prefix_ids": prefix["input_ids"],
            "prefix_mask": prefix["attention_mask"],
            "group": torch.tensor([i for i, g in enumerate(groups) for _ in g.tasks]),
            "input_ids": input_ids,
            "mask": mask,
            "labels": labels,
            "in_response": in_response,
        }
        if "pixel_values" in prefix:
            batch["pixel_values"] = prefix["pixel_values"]
        return batch
