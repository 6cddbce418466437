"""Sources in the package: the toy world, words to repeat, MMAlign's form, easy-VQA.

Each gives example `index` of a split, always the same one, without audio, for any index; only easy-VQA is finite.
"""

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import easy_vqa

from selfkd.data.example import Example, ExampleTurn, image_to_png
from selfkd.errors import InputError
from selfkd.toy_world.noisy_labels import MISTAKE_SHARE, noiseless_response, noisy_response
from selfkd.toy_world.questions import (
    COLORS,
    QUESTION_TYPES,
    SHAPES,
    TOY_QUESTION_TYPES,
    Question,
    caption_pair,
    caption_question,
    make_question,
)
from selfkd.toy_world.scenes import Scene, Split, has_held_out, render, sample_scene
from selfkd.toy_world.tasks import REPEAT_INSTRUCTION, sample_words

TURNS = 3  # of a conversation
_TRIES = 1000  # scenes that are tried for one that allows the wanted question type


class _Generated:
    def __len__(self) -> int:
        raise InputError("count: 0 takes all of a finite source; this one has no end")

    @property
    def skipped(self) -> dict[str, int]:
        return {}

    def id_and_question(self, index: int) -> tuple[str, str]:
        return f"row {index}", ""

    def recordings(self, index: int) -> tuple[()]:
        return ()

    def part(self, start: int, stop: int):
        return self


@dataclass(frozen=True)
class ToyWorld(_Generated):
    """Questions about scenes of the toy world, the question types in turn; `noisy`: with noisy labels."""

    split: Split
    seed: int
    noisy: bool = False
    turns: int = 1  # questions about a scene, as one conversation
    license: str = "Apache-2.0"

    @property
    def name(self) -> str:
        return "world-noisy" if self.noisy else "world"

    def example(self, index: int) -> Example:
        scene, *questions = self.scene_and_question(index) if self.turns == 1 else self._conversation(index)
        noise = self._noise(index)
        answers = [noisy_response(q, noise) if self.noisy else noiseless_response(q) for q in questions]
        *earlier, (question, answer) = zip(questions, answers, strict=True)
        return Example(
            id=f"world-{self.split}-{self.seed}-{index:06d}",
            question=question.text,
            answer=answer,
            source=self.name,
            question_type=question.question_type,
            target=question.answer,
            category="held-out combination" if has_held_out(scene) else "training combinations",
            image=image_to_png(render(scene)),
            history=tuple(ExampleTurn(q.text, text, q.question_type, q.answer) for q, text in earlier),
        )

    def _conversation(self, index: int) -> tuple[Any, ...]:
        """(a scene, its questions, each of another type)."""
        rng = random.Random(f"turns/{self.split}/{self.seed}/{index}")  # noqa: S311 seeded, for the same data in every run; nothing secret
        known = tuple(QUESTION_TYPES) if self.split == "train" else TOY_QUESTION_TYPES
        for attempt in range(_TRIES):
            scene = sample_scene(self.split, self.seed, index * _TRIES + attempt)
            found = [make_question(scene, question_type, rng) for question_type in rng.sample(known, self.turns)]
            if all(found):
                return scene, *found
        raise RuntimeError(f"no scene allows {self.turns} questions")

    def scene_and_question(self, index: int) -> tuple[Scene, Question]:
        rng = random.Random(f"{self.name.removesuffix('-noisy')}/{self.split}/{self.seed}/{index}")  # noqa: S311 seeded, for the same data in every run; nothing secret
        question_types = tuple(QUESTION_TYPES) if self.split == "train" else TOY_QUESTION_TYPES
        question_type = question_types[index % len(question_types)]
        for attempt in range(_TRIES):
            scene = sample_scene(self.split, self.seed, index * _TRIES + attempt)
            question = make_question(scene, question_type, rng)
            if question is not None:
                return scene, question
        raise RuntimeError(f"no scene allows a question of type {question_type}")

    def noisy_response(self, index: int, mistake_share: float = MISTAKE_SHARE) -> str:
        """The noisy label of a question. The questions that are answered wrongly at one share are so at every higher
        one."""
        return noisy_response(self.scene_and_question(index)[1], self._noise(index), mistake_share)

    def _noise(self, index: int) -> random.Random:
        """A generator of its own, so that clean and noisy labels have the same questions."""
        return random.Random(f"annotator/{self.seed}/{index}")  # noqa: S311 seeded, for the same data in every run; nothing secret


@dataclass(frozen=True)
class ToyTranscription(_Generated):
    """Words to repeat, without an image: speech recognition as a task for the LLM (stage 1)."""

    split: Split
    seed: int
    name: str = "words"
    license: str = "Apache-2.0"

    def example(self, index: int) -> Example:
        rng = random.Random(f"words/{self.split}/{self.seed}/{index}")  # noqa: S311 seeded, for the same data in every run; nothing secret
        text = sample_words(sample_scene(self.split, self.seed, index), rng)
        return Example(
            id=f"words-{self.split}-{self.seed}-{index:06d}",
            question=text,
            answer=text,
            source=self.name,
            question_type="repeat",
            target=text,
            instruction=f"{REPEAT_INSTRUCTION}\n",
        )


@dataclass(frozen=True)
class ToyMMAlign(_Generated):
    """MMAlign's form on the toy world: an image, a true and a false caption; the model chooses. Half of the pairs test
    relations, half attributes; the true caption is first in half of them."""

    split: Split
    seed: int
    name: str = "mmalign-world"
    license: str = "Apache-2.0"

    def example(self, index: int) -> Example:
        rng = random.Random(f"mmalign/{self.split}/{self.seed}/{index}")  # noqa: S311 seeded, for the same data in every run; nothing secret
        wanted, true_first = ("relation", "attribute")[index % 2], index // 2 % 2 == 0
        attempt, pair = 0, None
        while pair is None or pair[0] != wanted:
            scene = sample_scene(self.split, self.seed + 1, index * _TRIES + attempt)
            pair, attempt = caption_pair(scene, rng), attempt + 1
        _, true, false = pair
        first, second = (true, false) if true_first else (false, true)
        target = "A" if true_first else "B"
        return Example(
            id=f"mmalign-{self.split}-{self.seed}-{index:06d}",
            question=caption_question(first, second),
            answer=target,
            source=self.name,
            question_type="choice",
            target=target,
            category=wanted,
            image=image_to_png(render(scene)),
        )


@dataclass(frozen=True)
class EasyVQA(_Generated):
    """easy-VQA (MIT): 64 x 64 images of one shape, 107 distinct questions, the same in both of its splits. The tiny
    model was not trained on it. Questions get a capital letter; a seeded order makes the first n a sample of the whole
    split."""

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
        question_type = "color" if answer in COLORS else "shape" if answer in SHAPES else "exists"
        return Example(
            id=f"easy-vqa-{'' if self.split == 'test' else 'train-'}{at:05d}",
            question=questions[at][0].upper() + questions[at][1:],
            answer=answer,
            source=self.name,
            question_type=question_type,
            target=answer,
            category="negated" if {"no", "not"} & set(questions[at].rstrip("?").split()) else "plain",
            image=Path(paths[image_ids[at]]).read_bytes(),
        )


@cache
def _order(seed: int, count: int) -> list[int]:
    return random.Random(f"easy-vqa/{seed}").sample(range(count), count)  # noqa: S311 seeded, for the same data in every run; nothing secret


@cache
def _easy_vqa(split: Split):
    if split == "test":
        return (*easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths())
    if split == "train":
        return (*easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths())
    raise InputError("split: easy-vqa has train and test")
