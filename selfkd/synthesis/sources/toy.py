"""Sources that come with the package: the embedded world, words to repeat, MMAlign's form, easy-VQA.

Each gives example `index` of a split, always the same one, not yet spoken, for as many as are asked for; easy-VQA alone
ends.
"""

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import easy_vqa

from selfkd.data.example import Example, encode_picture
from selfkd.errors import InputError
from selfkd.toy_world.noisy_labels import annotated_response, own_response
from selfkd.toy_world.questions import COLORS, KINDS, SHAPES, WORLD_KINDS, ask, caption_pair, which_caption
from selfkd.toy_world.scenes import Split, draw_scene, has_held_out, render
from selfkd.toy_world.tasks import REPEAT_INSTRUCTION, some_words

_TRIES = 1000  # scenes that are looked through for one that allows the wanted kind of question


class _Generated:
    def __len__(self) -> int:
        raise InputError("count: 0 takes all of a source that ends; this one makes as many as are asked for")

    @property
    def skipped(self) -> dict[str, int]:
        return {}

    def named(self, index: int) -> tuple[str, str]:
        return f"row {index}", ""

    def recorded(self, index: int) -> None:
        return None

    def part(self, start: int, stop: int):
        return self


@dataclass(frozen=True)
class World(_Generated):
    """Questions about scenes of the embedded world, the kinds in turn; `annotated`: with the annotator's responses."""

    split: Split
    seed: int
    annotated: bool = False
    license: str = "Apache-2.0"

    @property
    def name(self) -> str:
        return "world-annotated" if self.annotated else "world"

    def example(self, index: int) -> Example:
        rng = random.Random(f"{self.name.removesuffix('-annotated')}/{self.split}/{self.seed}/{index}")
        kinds = tuple(KINDS) if self.split == "train" else WORLD_KINDS
        kind = kinds[index % len(kinds)]
        for attempt in range(_TRIES):
            scene = draw_scene(self.split, self.seed, index * _TRIES + attempt)
            question = ask(scene, kind, rng)
            if question is not None:
                break
        else:
            raise RuntimeError(f"no scene allows a question of kind {kind}")
        # the annotator draws from a generator of its own, so that both variants ask the same questions
        hand = random.Random(f"annotator/{self.seed}/{index}")
        return Example(
            id=f"world-{self.split}-{self.seed}-{index:06d}",
            question=question.text,
            answer=annotated_response(question, hand) if self.annotated else own_response(question),
            source=self.name,
            kind=kind,
            truth=question.answer,
            category="unseen combination" if has_held_out(scene) else "seen combinations",
            image=encode_picture(render(scene)),
        )


@dataclass(frozen=True)
class Words(_Generated):
    """Words to repeat, without a picture: speech recognition as a task for the LLM (stage 1)."""

    split: Split
    seed: int
    name: str = "words"
    license: str = "Apache-2.0"

    def example(self, index: int) -> Example:
        rng = random.Random(f"words/{self.split}/{self.seed}/{index}")
        text = some_words(draw_scene(self.split, self.seed, index), rng)
        return Example(
            id=f"words-{self.split}-{self.seed}-{index:06d}",
            question=text,
            answer=text,
            source=self.name,
            kind="repeat",
            truth=text,
            instruction=f"{REPEAT_INSTRUCTION}\n",
        )


@dataclass(frozen=True)
class MMAlignWorld(_Generated):
    """MMAlign's form on the embedded world: a picture, a true and a false caption; the model chooses. Half of the
    pairs test relations, half attributes; the true caption is first in half of them."""

    split: Split
    seed: int
    name: str = "mmalign-world"
    license: str = "Apache-2.0"

    def example(self, index: int) -> Example:
        rng = random.Random(f"mmalign/{self.split}/{self.seed}/{index}")
        wanted, true_first = ("relation", "attribute")[index % 2], index // 2 % 2 == 0
        attempt, pair = 0, None
        while pair is None or pair[0] != wanted:
            scene = draw_scene(self.split, self.seed + 1, index * _TRIES + attempt)
            pair, attempt = caption_pair(scene, rng), attempt + 1
        _, true, false = pair
        first, second = (true, false) if true_first else (false, true)
        truth = "A" if true_first else "B"
        return Example(
            id=f"mmalign-{self.split}-{self.seed}-{index:06d}",
            question=which_caption(first, second),
            answer=truth,
            source=self.name,
            kind="choice",
            truth=truth,
            category=wanted,
            image=encode_picture(render(scene)),
        )


@dataclass(frozen=True)
class EasyVQA(_Generated):
    """easy-VQA (MIT): 64 x 64 pictures of one shape, 107 distinct questions, the same in both of its splits. The
    embedded model was not trained on it. Questions get a capital letter; a seeded order makes the first n a sample of
    the whole split."""

    split: Split
    seed: int
    name: str = "easy-vqa"
    license: str = "MIT"

    def __len__(self) -> int:
        return len(_easy_vqa(self.split)[0])

    def example(self, index: int) -> Example:
        questions, answers, image_ids, paths = _easy_vqa(self.split)
        at = _order(self.seed, len(questions))[index]
        answer = answers[at]
        kind = "color" if answer in COLORS else "shape" if answer in SHAPES else "exists"
        return Example(
            id=f"easy-vqa-{'' if self.split == 'test' else 'train-'}{at:05d}",
            question=questions[at][0].upper() + questions[at][1:],
            answer=answer,
            source=self.name,
            kind=kind,
            truth=answer,
            category="negated" if {"no", "not"} & set(questions[at].rstrip("?").split()) else "plain",
            image=Path(paths[image_ids[at]]).read_bytes(),
        )


@cache
def _order(seed: int, count: int) -> list[int]:
    return random.Random(f"easy-vqa/{seed}").sample(range(count), count)


@cache
def _easy_vqa(split: Split):
    if split == "test":
        return (*easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths())
    if split == "train":
        return (*easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths())
    raise InputError("split: easy-vqa has train and test")
