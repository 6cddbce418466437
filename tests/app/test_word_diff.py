"""The words in which a transcript differs from the question."""

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfkd.app.word_diff import runs, word_diff

WORDS = ["what", "color", "is", "the", "circle", "Circle?", "2", "-", "...", "teal", "feel", "(", "hundred"]
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)


def different(words):
    return [word for word, is_same in words if not is_same]


@pytest.mark.parametrize(("question", "transcript", "left", "right", "errors"), [
    ("What color is the circle?", "what colour is the circle", [], [], 0),
    ("Is the teal circle left?", "Is the feel circle left?", ["teal"], ["feel"], 1),
    ("How many circles are there?", "how many are there now", ["circles"], ["now"], 2),
    ("Are there two?", "are there 2", [], [], 0),
    ("Left - or right?", "left or right", [], [], 0),
])  # fmt: skip
def test_words_that_differ(question, transcript, left, right, errors):
    found = word_diff(question, transcript)
    assert (different(found.question), different(found.transcript), found.num_errors) == (left, right, errors)


@given(texts, texts)
def test_unmarked_words_are_the_same_in_both(question, transcript):
    found = word_diff(question, transcript)
    assert [word for word, _ in found.question] == question.split()
    assert [word for word, _ in found.transcript] == transcript.split()
    assert word_diff(question, question).num_errors == 0
    kept = [" ".join(word for word, is_same in words if is_same) for words in (found.question, found.transcript)]
    assert word_diff(*kept).num_errors == 0
    # no alignment has fewer errors: jiwer's has as many
    words = [[word.lower().strip("?-.(") for word in text.split()] for text in (question, transcript)]
    plain = [" ".join(filter(None, some)) for some in words]
    if all(plain):
        aligned = jiwer.process_words(*plain)
        assert found.num_errors == aligned.substitutions + aligned.deletions + aligned.insertions


def test_neighbours_are_joined():
    assert runs([("a", True), ("b", True), ("c", False), ("d", True)]) == [("a b", True), ("c", False), ("d", True)]
    assert runs([]) == []
