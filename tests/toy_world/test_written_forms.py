"""Written forms: the words stay, in the order in which they were; only their spelling, case and punctuation change."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfkd.toy_world.scenes import sample_scene
from selfkd.toy_world.tasks import caption_task, sample_words
from selfkd.toy_world.written_forms import WRITTEN_FORMS, asr_form, full_stop, numbers_as_digits, random_form

SEEDS = st.integers(0, 2**32)


def a_text(seed: int) -> str:
    return sample_words(sample_scene("train", seed, 0), random.Random(seed))


@given(SEEDS, st.sampled_from(sorted(WRITTEN_FORMS)))
def test_every_form_has_as_many_words_and_one_form_for_a_seed(seed, form):
    text = a_text(seed)
    written = WRITTEN_FORMS[form](text, random.Random(seed))
    assert written == WRITTEN_FORMS[form](text, random.Random(seed))
    assert len(written.split()) == len(text.split())


@given(SEEDS)
def test_forms_of_case_and_punctuation_change_no_letter(seed):
    text, rng = a_text(seed), random.Random(seed)
    bare = re.sub(r"[^a-z ]", "", text.lower())
    for form in ("lower case", "no punctuation", "lower case, no punctuation", "lower case, full stop"):
        assert re.sub(r"[^a-z ]", "", WRITTEN_FORMS[form](text, rng).lower()) == bare
    assert WRITTEN_FORMS["lower case, no punctuation"](text, rng) == bare
    assert full_stop(text, rng).endswith(".")


def test_forms_of_a_question():
    rng = random.Random(0)
    assert asr_form("Is the red star left of or right of the gray circle?", rng) == (
        "is the red star left of or right of the gray circle"
    )
    assert numbers_as_digits("there are four red stars.", rng) == "there are 4 red stars."


@given(SEEDS)
def test_a_typo_is_one_letter_and_the_first_letter_stays(seed):
    text = a_text(seed)
    for before, after in zip(text.split(), WRITTEN_FORMS["typos"](text, random.Random(seed)).split(), strict=True):
        assert abs(len(before) - len(after)) <= 1 and before[0] == after[0]


@given(SEEDS)
def test_random_forms_differ_from_the_clean_text_often_and_keep_its_length(seed):
    text = "Which caption is right? Option A is a red star. Option B is a blue star."
    assert len(random_form(text, random.Random(seed)).split()) == len(text.split())


def test_caption_tasks_have_one_right_answer_and_all_three_kinds():
    rng, kinds = random.Random(0), set()
    for index in range(200):
        task = caption_task(sample_scene("train", 3, index), rng)
        if task is None:
            continue
        query, response = task
        kinds.add((query.split()[0], response))
        options = re.search(r"Option A is (.+)\. Option B is (.+)\.$", query)
        assert options is None or options[1] != options[2]
    assert kinds == {(first, yes_no) for first in ("Is", "Option") for yes_no in ("yes", "no")} | {
        ("Which", "A"),
        ("Which", "B"),
    }


@pytest.mark.parametrize("form", sorted(WRITTEN_FORMS))
def test_an_empty_text_stays_empty_or_a_mark(form):
    assert WRITTEN_FORMS[form]("", random.Random(0)).strip(".") == ""
