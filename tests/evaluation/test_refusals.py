"""Refusals and answers, on sentences labelled by hand (fixtures/refusals.tsv: language, label, text)."""

import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfkd.evaluation.refusals import MAX_CHARACTERS, is_refusal

ROWS = [line.split("\t") for line in (Path(__file__).parents[1] / "fixtures/refusals.tsv").read_text().splitlines()]
BY_LABEL = {
    label: [(lang, text) for lang, row_label, text in ROWS if row_label == label] for label in ("refusal", "answer")
}
few = settings(deadline=None, max_examples=30, derandomize=True)


def test_labelled_sentences_are_classified():
    """A refusal is never the answer "no", and a denial is no refusal."""
    wrong = [row for row in ROWS if is_refusal(row[2]) != (row[1] == "refusal")]
    assert wrong == []
    sizes = Counter((lang, label) for lang, label, _ in ROWS)
    assert all(sizes[lang, label] >= 30 for lang in ("en", "zh", "es", "fr", "de") for label in BY_LABEL)
    assert (
        len(BY_LABEL["refusal"]) >= 150
        and len(BY_LABEL["answer"]) >= 150
        and len({text for *_, text in ROWS}) == len(ROWS)
    )


def in_capitals(text):
    return text.upper()


def in_markdown(text):
    return f"**{text}**\n"


def with_typed_apostrophes(text):
    return text.replace("'", "’")


@few
@given(
    row=st.sampled_from([r for r in ROWS if r[0] in ("en", "es", "fr")]),
    form=st.sampled_from([in_capitals, in_markdown, with_typed_apostrophes]),
)
def test_form_of_a_sentence_does_not_matter(row, form):
    assert is_refusal(form(row[2])) == (row[1] == "refusal")


@few
@given(
    refusal=st.sampled_from([text for lang, text in BY_LABEL["refusal"] if lang == "en"]),
    answer=st.sampled_from(["The answer is B.", "My best guess is a dog.", "The correct option is C.", "Answer: yes"]),
)
def test_answer_next_to_an_excuse_is_an_answer(refusal, answer):
    assert not is_refusal(f"{refusal} {answer}")


@few
@given(refusal=st.sampled_from([text for lang, text in BY_LABEL["refusal"] if lang == "en" and '"' not in text]))
def test_quoted_refusal_is_no_refusal(refusal):
    assert not is_refusal(f'The text on the sign is "{refusal}"')


@few
@given(text=st.text(max_size=300))
def test_any_text_is_classified(text):
    assert is_refusal(text) in (True, False)


@pytest.mark.parametrize(
    "part", ["i can't ", "audio ", "no image ", "the ", "as an ai ", "没有", "ich kann das bild ", "je ne "]
)
def test_long_text_is_classified_quickly(part):
    started = time.perf_counter()
    is_refusal((part * MAX_CHARACTERS)[:MAX_CHARACTERS])
    assert time.perf_counter() - started < 2
    assert not is_refusal("I can't see the image. " * MAX_CHARACTERS)  # a description
