"""What is said for a written question."""

import pytest

from selfkd.data.spoken_text import spoken_form
from selfkd.errors import InputError


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Is there a red circle in the image?", "Is there a red circle in the image?"),
        ("How many of the 12 dogs weigh 5kg?", "How many of the twelve dogs weigh five kilograms?"),
        ("Is it 23.5°C at 3:45 PM?", "Is it twenty three point five degrees Celsius at three forty five PM?"),
        ("What is 20% of 1,000?", "What is twenty percent of one thousand?"),
        ("What does https://www.example.com/a?b=1 show?", "What does WWW dot example dot com show?"),
        (r"What is $\frac{1}{2}$ of $x^2$?", "What is one half of x squared?"),
        (r"What is \sqrt[3]{8}?", "What is cube root of (eight)?"),
        (r"Find \sqrt 2.", "Find square root of (two)."),
        (r"Simplify \frac{\sqrt{2}}{3}.", "Simplify square root of (two) over three."),
        (r"Is \frac 1 2 more than $\frac{1}{\sqrt{2}}$?", "Is one half more than one over square root of (two)?"),
        (r"Is \alpha at \textbf{the \emph{left}}?", "Is α at the left?"),
        ("Which tastes “better” — <b>this</b>?", "Which tastes better, this?"),
        ("What is it?\nA. a cat\nB. a dog\n", "What is it? Option A is a cat. Option B is a dog."),
        (
            "Which describes it?\nOptions: A: two dogs, cats, B: none, C: it is red.",
            "Which describes it? Option A is two dogs, cats. Option B is none. Option C is it is red.",
        ),
        ("Is it A, B: or C?", "Is it A, B: or C?"),
        ("What is it? \n(A) red;\n(B) blue", "What is it? Option A is red. Option B is blue."),
        ("Who is #1 & why?", "Who is number one and why?"),
        ("Read [it] {aloud}", "Read it aloud"),
        ("What is\x00 it?", "What is it?"),
    ],
)
def test_what_is_said(written, said):
    assert spoken_form(written) == said


def test_other_languages_are_left_to_their_voice():
    assert spoken_form("Wie viele der 12 Hunde sind rot?", "de") == "Wie viele der 12 Hunde sind rot?"
    assert spoken_form(r"Was ist \frac{\sqrt[3]{8}}{2}?", "de") == "Was ist ∛(8)∕2?"
    assert spoken_form("Was ist 2 × #3?\nA. sechs\nB. acht", "de") == "Was ist 2 × #3? A: sechs. B: acht."


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("why? " * 4000, "20000 characters are too many to speak"),
        ("What does this do?\n```print(1)```", "code cannot be spoken"),
        ("What does this do?\ndef f(x):\n  return x", "code cannot be spoken"),
        ("Sum it up.\n| a | b |\n|---|---|\n| 1 | 2 |", "a table cannot be spoken"),
        (r"$\sqrt$ of $2^3$?", "LaTeX that cannot be put into words"),
        (r"Is \frac{1 more?", "LaTeX that cannot be put into words"),
        (r"What is \sqrt[5]{3}?", "LaTeX that cannot be put into words"),
        (r"Is it \underline", "LaTeX that cannot be put into words"),
        (r"\frac{" * 60 + "1", "LaTeX that cannot be put into words"),
        (r"Say \verb|", "LaTeX that cannot be put into words"),
        ("...?!", "nothing of it can be spoken"),
    ],
)
def test_what_cannot_be_said(written, reason):
    with pytest.raises(InputError, match=f"field question: {reason}"):
        spoken_form(written)
