"""Refusals told from answers, on sentences labelled by hand (fixtures/refusals.tsv: language, label, text)."""

import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfkd.evaluation.refusals import MAX_CHARACTERS, is_refusal

ROWS = [line.split("\t") for line in (Path(__file__).parents[1] / "fixtures/refusals.tsv").read_text().splitlines()]
OF = {label: [(lang, text) for lang, kind, text in ROWS if kind == label] for label in ("refusal", "answer")}
few = settings(deadline=None, max_examples=60, derandomize=True)


def test_the_labelled_sentences_are_told_apart():
    """eval_09_refusal_is_a_no: a refusal is never the answer "no", and a denial is no refusal."""
    wrong = [row for row in ROWS if is_refusal(row[2]) != (row[1] == "refusal")]
    assert wrong == []
    sizes = Counter((lang, label) for lang, label, _ in ROWS)
    assert all(sizes[lang, label] >= 30 for lang in ("en", "zh", "es", "fr", "de") for label in OF)
    assert len(OF["refusal"]) >= 150 and len(OF["answer"]) >= 150 and len({text for *_, text in ROWS}) == len(ROWS)


def shouted(text):
    return text.upper()


def in_markdown(text):
    return f"**{text}**\n"


def with_typed_apostrophes(text):
    return text.replace("'", "’")


@few
@given(
    row=st.sampled_from([r for r in ROWS if r[0] in ("en", "es", "fr")]),
    form=st.sampled_from([shouted, in_markdown, with_typed_apostrophes]),
)
def test_its_form_changes_no_sentence(row, form):
    assert is_refusal(form(row[2])) == (row[1] == "refusal")


@few
@given(
    refusal=st.sampled_from([text for lang, text in OF["refusal"] if lang == "en"]),
    answer=st.sampled_from(["The answer is B.", "My best guess is a dog.", "The correct option is C.", "Answer: yes"]),
)
def test_an_answer_beside_an_excuse_is_an_answer(refusal, answer):
    assert not is_refusal(f"{refusal} {answer}")


@few
@given(refusal=st.sampled_from([text for lang, text in OF["refusal"] if lang == "en" and '"' not in text]))
def test_what_is_read_off_the_image_is_no_refusal(refusal):
    assert not is_refusal(f'The text on the sign is "{refusal}"')


@few
@given(text=st.text(max_size=300))
def test_any_text_is_read(text):
    assert is_refusal(text) in (True, False)


@pytest.mark.parametrize(
    "part", ["i can't ", "audio ", "no image ", "the ", "as an ai ", "没有", "ich kann das bild ", "je ne "]
)
def test_a_long_text_costs_no_more_than_a_moment(part):
    started = time.perf_counter()
    is_refusal((part * MAX_CHARACTERS)[:MAX_CHARACTERS])
    assert time.perf_counter() - started < 2
    assert not is_refusal("I can't see the image. " * MAX_CHARACTERS)  # it describes
