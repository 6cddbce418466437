"""Whether a response affirms or denies: against labels, and on sentences of a grammar with known answers."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfkd.evaluation.benchmarks.answer_parsing import yes_or_no

LINES = (Path(__file__).parents[2] / "fixtures" / "yes_no_responses.tsv").read_text(encoding="utf-8").splitlines()[1:]


@pytest.mark.parametrize("line", LINES)
def test_labels(line):
    """Written by hand. The first version of the parser agreed with 159 of the first 160 and 73 of the other 86; the
    differences were then fixed by type."""
    answer, response = line.split("\t")
    assert yes_or_no(response) == {"yes": "yes", "no": "no", "-": None}[answer]


def test_refusals_are_no_answer():
    """From eval_09_refusal_is_a_no, the part of `yes_or_no`."""
    assert yes_or_no("I have no way to hear the question.") is None
    assert yes_or_no("Sorry, I have no access to the image.") is None
    assert yes_or_no("There is no doubt that there is a dog.") == "yes"


# (affirming, denying)
STATEMENTS = [
    ("there is a dog", "there is no dog"), ("there is one", "there isn't one"),
    ("there are two dogs", "there aren't any"),
    ("I see a dog", "I don't see a dog"), ("a dog is visible", "a dog is not visible"),
    ("there is a dog in the image", "there isn't a dog in the image"), ("it is", "it isn't"), ("it does", "it doesn't"),
]  # fmt: skip
# (whether it keeps the answer, words before the statement)
FRAMES = [
    (True, ""), (True, "no doubt "), (True, "there is no doubt that "), (True, "it is true that "),
    (False, "it is not true that "), (False, "it is false that "), (False, "it is not the case that "),
]  # fmt: skip
WORDS = [(True, "yes"), (True, "yeah"), (True, "yep"), (False, "no"), (False, "nope"), (True, "oui"), (False, "nein")]
ENDS = ["", ".", "!"]


def expected_answer(keeps, affirms):
    return "yes" if keeps == affirms else "no"


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    st.sampled_from(STATEMENTS), st.sampled_from(FRAMES), st.sampled_from(FRAMES), st.booleans(), st.sampled_from(ENDS),
    st.sampled_from([str, str.capitalize, str.upper]),
)  # fmt: skip
def test_the_number_of_denials_decides(statement, outer, inner, affirms, end, form):
    sentence = form(outer[1] + inner[1] + statement[0 if affirms else 1]) + end
    assert yes_or_no(sentence) == expected_answer(outer[0] == inner[0], affirms), sentence


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    st.sampled_from(WORDS), st.sampled_from([". ", ", ", "! ", ": "]), st.sampled_from(STATEMENTS), st.booleans(),
    st.sampled_from(["{}", "**{}**", '"{}"', " {} ", "({})"]),
)  # fmt: skip
def test_explicit_answer_comes_first(word, between, statement, affirms, frame):
    """Whatever the explanation after it."""
    response = frame.format(word[1]) + between + statement[0 if affirms else 1]
    assert yes_or_no(response) == ("yes" if word[0] else "no"), response


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.sampled_from(WORDS), st.sampled_from(WORDS), st.sampled_from(["no wait, ", "wait, ", "actually, "]))
def test_correction_wins(first, second, correction):
    assert yes_or_no(f"{first[1]}... {correction}{second[1]}.") == ("yes" if second[0] else "no")


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    st.sampled_from(["maybe ", "perhaps ", "I am not sure whether ", "I can't tell whether ", "it is unclear whether ",
                     "it is hard to say whether ", "I have no idea whether ", "I don't know if "]),
    st.sampled_from(STATEMENTS), st.booleans(), st.sampled_from(ENDS),
)  # fmt: skip
def test_doubt_is_no_answer(doubt, statement, affirms, end):
    assert yes_or_no(doubt + statement[0 if affirms else 1] + end) is None


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    st.sampled_from(["I can't ", "I cannot ", "I could not ", "I can’t really "]),
    st.sampled_from(
        ["say", "tell", "determine", "judge", "decide", "verify", "conclude", "answer", "be sure", "assess"]
    ),
    st.sampled_from([" that", "", " whether there is one", " if it is there"]),
    st.sampled_from(ENDS),
)
def test_missing_knowledge_is_no_denial(modal, verb, about, end):
    assert yes_or_no(modal + verb + about + end) is None


@pytest.mark.parametrize(
    "piece", ["no ", "yes ", "not not ", "是不是", "no, ", "A ", "\n", "no doubt ", "don't ", "wait "]
)
def test_time_is_linear_in_the_length(piece):
    start = time.process_time()
    yes_or_no(piece * (20_000 // len(piece)))
    assert time.process_time() - start < 2
