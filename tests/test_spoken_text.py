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
        (
            "What does https://www.example.com/a?b=1 show?",
            "What does WWW dot example dot com slash a question mark b equals one show?",
        ),
        (r"What is $\frac{1}{2}$ of $x^2$?", "What is one half of x squared?"),
        (r"What is \sqrt[3]{8}?", "What is cube root of (eight)?"),
        (r"Find \sqrt 2.", "Find square root of (two)."),
        (r"Simplify \frac{\sqrt{2}}{3}.", "Simplify square root of (two) over three."),
        (r"Is \frac 1 2 more than $\frac{1}{\sqrt{2}}$?", "Is one half more than one over square root of (two)?"),
        (r"Is \alpha at \textbf{the \emph{left}}?", "Is alpha at the left?"),
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
        (
            "Taken in the 1980s, the 2010's or the 90s?",
            "Taken in the nineteen eighties, the twenty tens or the nineties?",
        ),
        ("Is 3 < 5 or 3 >= 5?", "Is three less than five or three at least five?"),
        ("Is BMI >30 or ~20?", "Is BMI greater than thirty or about twenty?"),
        ("What is 8 * 2, 10 - 4 and 8 / 2?", "What is eight times two, ten minus four and eight divided by two?"),
        ("Is it 3-5, 10-20 kg, or from 2 - 4?", "Is it three to five, ten to twenty kilograms, or from two to four?"),
        ("Was it 2010 - 2015?", "Was it two thousand and ten to two thousand and fifteen?"),
        ("Does 10-4=6, and is x-1 2x?", "Does ten minus four equals six, and is x minus one two x?"),
        ("What is |x - 2| or P(A|B)?", "What is absolute value of (x minus two) or P(A given B)?"),
        ("Is $x^2+1$ or $x-1$ more than $x$?", "Is x squared plus one or x minus one more than x?"),
        ("Is $x^{n+1}$ 10^3 or 2^10?", "Is x to the power of (n plus one) ten cubed or two to the power of ten?"),
        (r"Is it $\frac{a+b}{2}$, $\frac{1}{2}x$?", "Is it (a plus b) over two, one half x?"),
        (r"Is $\sum_{i=1}^{n} i$ $\sin x$?", "Is sum from (i equals one) to n of i sin x?"),
        (r"In \triangle ABC, is $\angle B = 90^\circ$?", "In triangle ABC, is angle B equals ninety degrees?"),
        (
            "Is 5±2 ÷ 2 ≈ 3, a → b, AB ∥ CD, A ⊂ B?",
            "Is five plus or minus two divided by two approximately three, "
            "a goes to b, AB parallel to CD, A subset of B?",
        ),
        ("Is it C#, #cats or the # of cats?", "Is it C sharp, hash cats or the number of cats?"),
        ("Is 6'2\" No. 7 or no. 8?", "Is six feet two inches number seven or number eight?"),
        ("Answer yes or no. 3 dogs?", "Answer yes or no, three dogs?"),
        (
            "Is it 5 m, 10 m² at 3 m/s, or $5m?",
            "Is it five meters, ten meters squared at three meters per second, or five million dollars?",
        ),
        ("Is 10⁻³ CO₂ or Ca²⁺?", "Is ten to the power of minus three CO two or Ca two plus?"),
        ("Is it 5€ or £4?", "Is it five euro or four pounds?"),
        ("# The *one*\n> It is ____ in <image 1>.", "The one. It is blank in image one."),
        ("Is it M*A*S*H, 2x zoom or $5 or $6?", "Is it M A S H, two x zoom or five dollars or six dollars?"),
    ],
)
def test_what_is_said(written, said):
    assert spoken_form(written) == said


def test_other_languages_are_left_to_their_voice():
    assert spoken_form("Wie viele der 12 Hunde sind rot?", "de") == "Wie viele der 12 Hunde sind rot?"
    assert spoken_form(r"Was ist \frac{\sqrt[3]{8}}{2}?", "de") == "Was ist ∛(8)∕2?"
    assert spoken_form("Was ist 2 × #3?\nA. sechs\nB. acht", "de") == "Was ist 2 × #3? A: sechs. B: acht."
    assert spoken_form("Ist 3 < 5, ~2 * 3 oder *eins*?", "de") == "Ist 3 < 5, ~2 * 3 oder eins?"
    assert spoken_form(r"Ist $x^{n+1}-1$ rot?", "de") == "Ist x^(n+1)−1 rot?"


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
        ("Is a|b?", "holds signs that cannot be put into words"),
        ("Is X ~ 3?", "holds signs that cannot be put into words"),
        ("...?!", "nothing of it can be spoken"),
    ],
)
def test_what_cannot_be_said(written, reason):
    with pytest.raises(InputError, match=f"field question: {reason}"):
        spoken_form(written)
