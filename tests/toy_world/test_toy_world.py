"""The toy world: seeded, disjoint splits, one right answer to every question."""

import random

import pytest

from selfkd.errors import InputError
from selfkd.evaluation.grading import is_correct, parse
from selfkd.synthesis.sources.registry import EasyVQA, ToyMMAlign, ToyWorld
from selfkd.toy_world.noisy_labels import MISTAKE_SHARE, noiseless_response, noisy_response, sentence_response
from selfkd.toy_world.questions import (
    QUESTION_TYPES,
    TOY_QUESTION_TYPES,
    caption_pair,
    make_question,
    with_wrong_answer,
)
from selfkd.toy_world.scenes import HELD_OUT, render, sample_scene, split_of

SPLITS = ("train", "validation", "test")


def questions(question_type, count=60, split="train"):
    rng = random.Random(question_type)
    for index in range(count):
        scene = sample_scene(split, 3, index)
        question = make_question(scene, question_type, rng)
        if question is not None:
            yield scene, question


def test_same_seed_same_pixels():
    assert render(sample_scene("test", 1, 7)).tobytes() == render(sample_scene("test", 1, 7)).tobytes()
    assert sample_scene("test", 1, 7) != sample_scene("test", 2, 7)


def test_splits_share_neither_scenes_nor_held_out_combinations():
    keys, combinations = {}, {}
    for split in SPLITS:
        scenes = [sample_scene(split, seed, i) for seed in (0, 1) for i in range(300)]
        assert all(split_of(s) == split for s in scenes)
        keys[split] = {s.key() for s in scenes}
        combinations[split] = {(t.color, t.shape) for s in scenes for t in s.things}
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not keys[a] & keys[b]
    for combination, owner in HELD_OUT.items():
        assert [s for s in SPLITS if combination in combinations[s]] == [owner]


def test_things_are_inside_the_image_and_do_not_overlap():
    for index in range(200):
        things = sample_scene("train", 0, index).things
        assert 2 <= len(things) <= 4 and len({t.name for t in things}) == len(things)
        for i, a in enumerate(things):
            assert a.radius <= a.x <= 64 - a.radius and a.radius <= a.y <= 64 - a.radius
            assert all((a.x - b.x) ** 2 + (a.y - b.y) ** 2 > (a.radius + b.radius) ** 2 for b in things[:i])


@pytest.mark.parametrize("question_type", QUESTION_TYPES)
def test_the_right_answer_is_graded_right_in_every_style(question_type):
    """Short answers, full sentences and noisy labels are parsed to the target; a wrong answer never is."""
    rng, count = random.Random(0), 0
    for _, question in questions(question_type):
        count += 1
        for response in (
            noiseless_response(question),
            sentence_response(question),
            noisy_response(question, rng, mistake_share=0.0),
        ):
            assert is_correct(question_type, question.answer, parse(question_type, question.text, response)), (
                question,
                response,
            )
        wrong = noisy_response(question, rng, mistake_share=1.0)
        assert not is_correct(question_type, question.answer, parse(question_type, question.text, wrong)), (
            question,
            wrong,
        )
        assert with_wrong_answer(question, rng).answer != question.answer
    assert count > 30


@pytest.mark.parametrize("question_type", ["exists", "relation", "choice"])
def test_two_way_answers_are_balanced(question_type):
    answers = [q.answer for _, q in questions(question_type, 400)]
    assert 0.4 < answers.count(answers[0]) / len(answers) < 0.6


def test_neighbor_questions_follow_the_positions():
    for scene, question in questions("neighbor", 200):
        names = {t.name: t for t in scene.things}
        direction, anchor = question.text.removeprefix("What is ").rstrip("?").split(" the ")
        a, b = names[question.answer.removeprefix("a ").removeprefix("an ")], names[anchor]
        inside = {"left of": a.x < b.x, "right of": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}
        assert inside[direction]


def test_false_captions_are_false():
    rng = random.Random(1)
    categories = set()
    for index in range(200):
        scene = sample_scene("test", 0, index)
        pair = caption_pair(scene, rng)
        if pair is None:
            continue
        category, true, false = pair
        categories.add(category)
        assert sorted(true.replace("an ", "a ").split()) == sorted(false.replace("an ", "a ").split())
        if category == "attribute":
            names = {t.name for t in scene.things}
            assert all(n.split(" ", 1)[1] in names for n in true.split(" and "))
            assert not any(n.split(" ", 1)[1] in names for n in false.split(" and "))
    assert categories == {"relation", "attribute"}


def test_noisy_labels_have_the_same_questions_and_the_stated_error_rate():
    clean, noisy = ToyWorld("train", 0), ToyWorld("train", 0, noisy=True)
    wrong = 0
    for index in range(400):
        a, b = clean.example(index), noisy.example(index)
        assert (a.question, a.target, a.image) == (b.question, b.target, b.image)
        assert a.answer == a.target and b.answer != a.answer
        wrong += not is_correct(b.question_type, b.target, parse(b.question_type, b.question, b.answer))
    assert abs(wrong / 400 - MISTAKE_SHARE) < 0.07


def test_a_higher_share_of_mistakes_has_the_mistakes_of_a_lower_one():
    world = ToyWorld("train", 0)

    def wrong(share: float) -> set[int]:
        right = [world.noisy_response(index, 0.0) for index in range(200)]
        return {index for index in range(200) if world.noisy_response(index, share) != right[index]}

    assert not wrong(0.0) and wrong(0.15) < wrong(0.3) < wrong(1.0) == set(range(200))


def test_the_toy_source_cycles_through_the_question_types():
    question_types = [ToyWorld("test", 0).example(i).question_type for i in range(2 * len(TOY_QUESTION_TYPES))]
    assert question_types == list(TOY_QUESTION_TYPES) * 2 and len(TOY_QUESTION_TYPES) >= 7


def test_mmalign_pairs_are_balanced():
    examples = [ToyMMAlign("test", 0).example(i) for i in range(40)]
    assert [e.target for e in examples].count("A") == 20
    assert [e.category for e in examples].count("relation") == 20


def test_easy_vqa_is_a_sample_of_the_split():
    examples = [EasyVQA("test", 0).example(i) for i in range(300)]
    assert len({e.id for e in examples}) == 300 and len({e.question for e in examples}) > 60
    assert all(e.load_image().size == (64, 64) for e in examples[:5])
    assert {e.question_type for e in examples} == {"exists", "color", "shape"}
    trained = [EasyVQA("train", 0).example(i) for i in range(300)]
    assert not {e.image for e in trained} & {e.image for e in examples} and not {e.id for e in trained} & {
        e.id for e in examples
    }
    with pytest.raises(InputError, match="split: easy-vqa has train and test"):
        EasyVQA("validation", 0).example(0)
