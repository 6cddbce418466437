"""The spoken form of questions."""

import hashlib
import re
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfkd.errors import InputError
from selfkd.synthesis.pronounceable import ANY, check_no_word_lost
from selfkd.synthesis.sources.toy import EasyVQA, ToyMMAlign, ToyTranscription, ToyWorld
from selfkd.synthesis.text_normalization import spoken_form


@pytest.mark.parametrize(
    ("text", "expected"),
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
        # data_16_spoken_text: words in angle brackets, inequalities, ratios, numbers with adjacent letters
        ("What does the <EXIT> sign say?", "What does the EXIT sign say?"),
        ("Which is true: a<b>c?", "Which is true: a less than b greater than c?"),
        ("Is x<5>y, or is it <b>bold</b>?", "Is x less than five greater than y, or is it bold?"),
        ('Is <a href="x.html">this</a><br/>red?', "Is this red?"),
        ("Is the shop open 24/7?", "Is the shop open twenty four seven?"),
        ("Is it 50/50, 80/20 or 24/7/365?", "Is it fifty fifty, eighty twenty or twenty four seven three sixty five?"),
        ("Was 9/11 9/11 of it?", "Was nine eleven nine elevenths of it?"),
        (
            "Is it 3/4, 16/9, 10/10 or 120/80?",
            "Is it three quarters, sixteen ninths, ten out of ten or one hundred and twenty over eighty?",
        ),
        (r"Is it $\dfrac{24}{7}$ or $\frac{9}{11}$?", "Is it twenty four over seven or nine over eleven?"),
        ("Is it 2/3rds, 1st/2nd or 5%-10%?", "Is it two thirds, first slash second or five to ten percent?"),
        ("Is it version 1.5B?", "Is it version one point five B?"),
        (
            "Is it v2.0, 1.2.3 or 802.11ac?",
            "Is it v two point oh, one point two point three or eight hundred and two point one one ac?",
        ),
        (
            "Is it 1.5kg, 2.5M, 1.5x or 5e-3?",
            "Is it one point five kilograms, two point five M, one point five x or five e minus three?",
        ),
        (
            "Is it $10k, 1,234.56 or 2½?",
            "Is it ten thousand dollars, one thousand two hundred and thirty four point five six or two and a half?",
        ),
        ("Is it 5 µm, 6.1″ or 5‰?", "Is it five micrometers, six point one inches or five per mille?"),
        ("Is it ①, Ⅳ, Ｂ or ﬁsh?", "Is it one, IV, B or fish?"),
        ("Is it AT&amp;T?", "Is it AT and T?"),
        ("Write to a.b_1@x-y.com?", "Write to a dot b underscore one at x dash y dot com?"),
        ("Is www.foo.com/a-b ♥?", "Is WWW dot foo dot com slash a dash b heart?"),
        (r"Is $\mathbb{R}$ or $\left(\bar{x}\right)$ it?", "Is R or (x bar) it?"),
        (
            "Is it a 20th-century, 1/2-inch or 1980s-style f/1.4, 2nd-3rd?",
            "Is it a twentieth century, one half inch or "
            "nineteen eighties style f slash one point four, second to third?",
        ),
        ("Is e^ monkey x^2?", "Is e circumflex monkey x squared?"),
    ],
)
def test_questions_are_put_into_words(text, expected):
    assert spoken_form(text) == expected


def test_numbers_of_other_languages_are_left_to_the_voice():
    assert spoken_form("Wie viele der 12 Hunde sind rot?", "de") == "Wie viele der 12 Hunde sind rot?"
    assert spoken_form(r"Was ist \frac{\sqrt[3]{8}}{2}?", "de") == "Was ist ∛(8)∕2?"
    assert spoken_form("Was ist 2 × #3?\nA. sechs\nB. acht", "de") == "Was ist 2 × #3? A: sechs. B: acht."
    assert spoken_form("Ist 3 < 5, ~2 * 3 oder *eins*?", "de") == "Ist 3 < 5, ~2 * 3 oder eins?"
    assert spoken_form(r"Ist $x^{n+1}-1$ rot?", "de") == "Ist x^(n+1)−1 rot?"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("why? " * 4000, "20000 characters are too many to synthesize"),
        ("What does this do?\n```print(1)```", "code has no spoken form"),
        ("What does this do?\ndef f(x):\n  return x", "code has no spoken form"),
        ("Sum it up.\n| a | b |\n|---|---|\n| 1 | 2 |", "a table has no spoken form"),
        (r"$\sqrt$ of $2^3$?", "LaTeX that cannot be put into words"),
        (r"Is \frac{1 more?", "LaTeX that cannot be put into words"),
        (r"What is \sqrt[5]{3}?", "LaTeX that cannot be put into words"),
        (r"Is it \underline", "LaTeX that cannot be put into words"),
        (r"\frac{" * 60 + "1", "LaTeX that cannot be put into words"),
        (r"Say \verb|", "LaTeX that cannot be put into words"),
        ("Is a|b?", "holds symbols without words"),
        ("Is X ~ 3?", "holds symbols without words"),
        ("...?!", "no words to synthesize"),
        ("What does 你好 mean?", r"'你' \(Cjk\) is not of the voice's language, 'en'"),
        ("What is ١٢٣?", r"'١' \(Arabic-indic\) is not of the voice's language"),
        ("What is Привет?", r"'П' \(Cyrillic\) is not of the voice's language"),
        ("What is λόγος?", r"'λόγος' \(Greek\) is not of the voice's language"),
        ("Is it 😀?", "'😀' cannot be put into words"),
        (r"Is it in C:\Users?", "LaTeX that cannot be put into words"),
        (r"Is it \foo{bar}?", "LaTeX that cannot be put into words"),
    ],
)
def test_text_without_a_spoken_form_is_refused(text, reason):
    with pytest.raises(InputError, match=f"field question: {reason}"):
        spoken_form(text)


def test_scripts_of_the_voices_language_are_accepted():
    assert spoken_form("Что это?", "ru") == "Что это?"
    assert spoken_form("これは何ですか?", "ja") == "これは何ですか?"
    assert spoken_form("यह क्या है?", "hi") == "यह क्या है?"
    assert spoken_form("Was ist der Winkel α?", "de") == "Was ist der Winkel α?"
    assert spoken_form("Ist a<b>c?", "de") == "Ist a<b>c?" and spoken_form("Wo ist <AUS>?", "de") == "Wo ist AUS?"
    with pytest.raises(InputError, match=r"'Ч' \(Cyrillic\) is not of the voice's language, 'de-AT'"):
        spoken_form("Was ist Что?", "de-AT")
    assert spoken_form("What does 你好 mean?", "en", ANY) == "What does 你好 mean?"


@pytest.mark.parametrize(
    ("text", "spoken", "lost"),
    [
        ("the red cup", "the cup", "the red"),
        ("Is it 5 or 6 cups?", "Is it five or cups?", "6"),
        (
            "Is it 6 o'clock in the U.S.A. on 3/4/20?",
            "Is it six o'clock in the USA on the third of april twenty?",
            None,
        ),
        ("What is the EXIT sign?", "What is the sign?", "is the exit"),
        ("a cup 7", "a cup", "7"),
    ],
)
def test_a_lost_word_is_refused_by_name(text, spoken, lost):
    if lost is None:
        return check_no_word_lost(text, spoken)
    with pytest.raises(InputError, match=f"field question: '{lost}' would not be spoken"):
        check_no_word_lost(text, spoken)


_PARTS = st.sampled_from([*"abcxyzABKMGQ0123456789<>&/.,:;%$#@_-+*=^~'\"()[]{}|!?`éßα½²℃→≤√°€–—“’1", "<b>", "</b>",
    "<EXIT>", "1/2", "24/7", "1.5", "www.", "km/h", "你", "١", "😀", "&amp;"])  # fmt: skip
_TOKENS = (
    st.lists(_PARTS, min_size=1, max_size=6)
    .map("".join)
    .filter(lambda token: any(c.isalnum() for c in re.sub(r"</?b>|&amp;", "", token)))
)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(_TOKENS, _TOKENS, st.sampled_from(["en", "en", "de"]))
def test_every_word_is_spoken_or_the_text_refused(first, second, language):
    """Each run of letters and digits has a counterpart at its position, or the row is rejected with a reason."""
    try:
        spoken = spoken_form(f"zebra {first} monkey {second} walrus", language)
    except InputError as error:
        assert str(error).startswith("field question: ")
        return
    between = re.fullmatch(r"zebra(.*)monkey(.*)walrus", spoken)
    assert between and all(any(c.isalnum() for c in part) for part in between.groups()), spoken


@pytest.mark.slow
def test_sources_in_the_package_keep_their_spoken_form():
    """Byte for byte: experiments and the bundled model depend on it."""
    sources = [
        toy_source(split, 0) for split in ("train", "test") for toy_source in (ToyWorld, ToyMMAlign, ToyTranscription)
    ]
    questions = [source.example(i).question for source in sources for i in range(60)]
    questions += [example.question for example in islice(map(EasyVQA("test", 0).example, range(300)), 300)]
    spoken = {question: spoken_form(question) for question in set(questions)}
    assert all(text == question for question, text in spoken.items())
    pairs = "\n".join(sorted(f"{question}\0{text}" for question, text in spoken.items()))
    assert (
        hashlib.sha256(pairs.encode()).hexdigest() == "d2bab4dfb05a97384c924986f280fb31749ed423343559f207d2e9300c366d22"
    )
