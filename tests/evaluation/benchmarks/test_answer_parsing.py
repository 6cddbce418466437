"""Which option a response chooses: against labels (fixtures/option_responses.tsv), under renaming, in linear time.

The labels were written by hand. The first version of the parser agreed with 379 of 383 responses of the part `dev`, 155
of 159 of `held_out` and 86 of 98 of `later`, which was written after both; the differences were then fixed by type, in
all three parts. {A} stands for a letter, {a} for a lowercase one, {Ａ} for a full-width one, and ⏎ for a line end.
"""

import time
from collections import defaultdict
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfkd.evaluation.benchmarks.answer_parsing import chosen_letter

TEXTS = {"A": "cat", "B": "dog", "C": "horse", "D": "bird"}
LINES = (Path(__file__).parents[2] / "fixtures" / "option_responses.tsv").read_text(encoding="utf-8").splitlines()[1:]
LABELED = [(part, letter.strip("-") or None, text) for part, _, _, letter, text in (li.split("\t") for li in LINES)]
PERMUTATIONS = [dict(zip("ABCD", order, strict=True)) for order in permutations("ABCD")]


def filled(template, renamed=None):
    """The template with its letters, or those that they are renamed to; option texts do not change."""
    text = template.replace("⏎", "\n")
    for slot in "ABCD":
        letter = (renamed or {}).get(slot, slot)
        for form in (str, str.lower, lambda x: chr(ord(x) + 0xFEE0)):  # the last is full-width
            # \0, so that inserted letters are not replaced again
            text = text.replace(f"{{{form(slot)}}}", f"\0{form(letter)}")
    return text.replace("\0", "")


def renamed_options(renamed):
    return {renamed[letter]: text for letter, text in TEXTS.items()}


def test_accuracy_on_the_labels():
    assert len(LABELED) >= 600
    wrong = defaultdict(list)
    for part, letter, template in LABELED:
        if chosen_letter(filled(template), TEXTS) != letter:
            wrong[part].append(template)
    # two letters mentioned as characters, and "A:" for "answer": a rule that treats all letters alike cannot know
    allowed = {"dev": 1, "held_out": 0, "later": 2}
    assert all(len(wrong[part]) <= allowed[part] for part in allowed), dict(wrong)


@pytest.mark.parametrize("renamed", PERMUTATIONS[1:], ids=lambda r: "".join(r.values()))
def test_renaming_the_letters_renames_the_choice(renamed):
    """For every labeled response, parsed correctly or not."""
    for _, _, template in LABELED:
        before = chosen_letter(filled(template), TEXTS)
        after = chosen_letter(filled(template, renamed), renamed_options(renamed))
        assert after == (renamed[before] if before else None), (template, renamed, before, after)


WORDS = [
    *(
        "{A}",
        "{B}",
        "{C}",
        "{D}",
        "({A})",
        "{B}.",
        "{C},",
        "{D}:",
        "{a}",
        "({b})",
        "**{C}**",
        "\\boxed{{D}}",
        "or",
        "and",
    ),
    *("not", "is", "isn't", "wrong", "right", "the answer is", "option", "rather than", "so", "but", "I pick", "cat"),
    *(
        "dog",
        "a",
        "the",
        "German",
        "shepherd",
        "looks",
        "best",
        "\n",
        ".",
        ",",
        "?",
        "no",
        "yes",
        "final answer:",
        "wait",
    ),
    *(
        "答案是",
        "不是",
        "la respuesta es",
        "no es",
        "ce n'est pas",
        "nicht",
        "statt",
        "3",
        "-",
        "most",
        "likely",
        "because",
    ),
]


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=14), st.sampled_from(PERMUTATIONS))
def test_renaming_holds_for_random_words(words, renamed):
    template = " ".join(words)
    before = chosen_letter(filled(template), TEXTS)
    after = chosen_letter(filled(template, renamed), renamed_options(renamed))
    assert after == (renamed[before] if before else None)


CHOSEN = [
    "The answer is {}",
    "I choose {}",
    "{} is correct",
    "It must be {}",
    "Option {}",
    "({})",
    "So it is {}",
    "答案是{}",
]
REJECTED = ["It is not {}", "{} is wrong", "I don't think it is {}", "Option {} is incorrect", "{} does not fit",
          "不是{}", "No es {}", "Ce n'est pas {}", "Es ist nicht {}", "The answer isn't {}",
          "{} can be ruled out"]  # fmt: skip
BETWEEN = [". ", "; ", ", but ", "\n"]


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    st.sampled_from(CHOSEN), st.sampled_from(REJECTED), st.sampled_from(BETWEEN), st.permutations("ABCD"), st.booleans()
)
def test_rejected_option_is_never_chosen(choice, rejection, between, letters, first):
    chosen, rejected = letters[:2]
    both = [choice.format(chosen), rejection.format(rejected)]
    assert chosen_letter(between.join(both if first else both[::-1]), TEXTS) == chosen
    assert chosen_letter(rejection.format(rejected), TEXTS) is None


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    st.sampled_from(["German shepherd", "3-year-old child", "big one", "very tall tower", "few trees"]),
    st.sampled_from(["{}", "It shows a thing. {}", "{} stands there", "**{}**", "\"{}\"", "{}.", "{}\nIt is old"]),
    st.sampled_from(["A", "a"]),
)  # fmt: skip
def test_article_is_no_option_letter(noun, frame, article):
    assert chosen_letter(frame.format(f"{article} {noun}"), TEXTS) is None


# regressions: the issues that led to this parser
@pytest.mark.parametrize(("prediction", "letter"), [
    # eval_05_rejected_letter_is_chosen
    ("It is not A.", None), ("The answer is not A", None), ("(A) is incorrect; I pick B", "B"),
    ("It is not (A). C", "C"), ("Option A is wrong. The right one is C", "C"),
    ("Option A is incorrect, so it must be C", "C"),
    # eval_07_two_letters_are_one
    ("The answer is A or B.", None), ("The answer is A and B", None), ("Answer: A, B", None),
    ("The answer is A/B", None), ("A and B", None),
    # eval_08_plain_letters_unread
    ("The answer is b.", "B"), ("answer: b", "B"), ("\uff22", "B"), ("\uff08\uff22\uff09", "B"),
    ("\u7b54\u6848\u662f\uff22", "B"), ("The answer should be C, not A", "C"),
    ("The final answer is: $\\boxed{\\text{C}}$. A is a distractor.", "C"),
    # ref_01_letter_a_is_read_as_an_article
    ("The answer is A rather than B.", "A"), ("It is A rather than B.", "A"), ("A not B", "A"),
    ("Option A fits better than option B.", "A"), ("Neither A nor B", None),
])  # fmt: skip
def test_regressions(prediction, letter):
    assert chosen_letter(prediction, TEXTS) == letter


LETTER_SENTENCES = """{} seems right.|{} looks correct.|{} would be right.|{} fits best.|{} matches the picture.
{} might be right.|{} best describes the image.|{} it is.|{} for sure.|{} definitely.|{} probably.
{} most likely.|Option {} fits.|I pick {} based on the picture.|I choose {} for this.
Option {} seems right.|Option {} matches the picture best.|Choose {} please.|{} must be correct.
The answer is {} based on the image.|The answer is {} in this picture.|The answer is option {} here.
The correct choice is {} given the chart.|Answer: {} based on the image.|I would select {} from the list.
I go with {} here."""


@pytest.mark.parametrize("sentence", LETTER_SENTENCES.replace("\n", "|").split("|"))
def test_all_letters_are_parsed_the_same(sentence):
    """All sentences of ref_01_letter_a_is_read_as_an_article."""
    assert [chosen_letter(sentence.format(x), TEXTS) for x in "ABCD"] == list("ABCD")


LONG = ["A ", "not A ", "A, ", "not ", "(", "\\text{", "\\boxed{", " ", "\n", "A\n", "cat ", "A or ", "x", "A'",
        "A than ", "A less ", "a ", "A? ", "_", "<answer ", "不是", "wrong ", "A clearly ", "A/", "A-",
        "cat-", "A: cat, "]  # fmt: skip


@pytest.mark.parametrize("piece", LONG)
def test_time_is_linear_in_the_length(piece):
    """For 20,000 characters a linear parser takes up to 0.5 s, a quadratic one many seconds."""
    start = time.process_time()
    chosen_letter(piece * (20_000 // len(piece)), TEXTS | {"A": "a a a a a a a b"})
    assert time.process_time() - start < 2
