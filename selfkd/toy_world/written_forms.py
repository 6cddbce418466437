"""Forms in which an ASR model or a person in a hurry writes a text: the tiny VLM is to answer all of them as the clean
one.

Whisper writes "is the grey circle left of the blue star." where a question of the toy world reads "Is the gray circle
left of the blue star?". A large LLM has read text in every form; the tiny LLM reads only what it is trained on.
"""

import random
import re
from collections.abc import Callable

# other spellings, homophones and near-homophones of words of the toy world, as ASR models write them
_HOMOPHONES = {
    "red": ("read",),
    "blue": ("blew",),
    "gray": ("grey",),
    "teal": ("teel", "til"),
    "black": ("block",),
    "brown": ("brawn",),
    "green": ("grain",),
    "star": ("start", "stir"),
    "stars": ("starts",),
    "circle": ("circled",),
    "rectangle": ("rectangles",),
    "triangle": ("triangles",),
    "color": ("colour",),
    "there": ("their", "they're"),
    "are": ("our",),
    "is": ("as",),
    "right": ("write",),
    "which": ("witch",),
    "where": ("wear",),
    "not": ("knot",),
    "a": ("uh",),
    "an": ("and",),
    "one": ("won",),
    "two": ("to", "too"),
    "four": ("for",),
    "left": ("lift",),
    "of": ("off",),
    "option": ("options",),
    "contain": ("contained",),
    "present": ("presents",),
}
_WORD = re.compile(r"[A-Za-z]+")
_TYPO_SHARE = 0.15  # of the words longer than two letters; each has one typo at most
_HOMOPHONE_SHARE = 0.15  # of the words that have one
_DIGITS = {"zero": "0", "one": "1", "two": "2", "three": "3", "four": "4"}


def lower_case(text: str, rng: random.Random) -> str:
    return text.lower()


def no_punctuation(text: str, rng: random.Random) -> str:
    return re.sub(r"[^\w\s']", "", text)


def asr_form(text: str, rng: random.Random) -> str:
    """Lower case without punctuation: the form in which ASR models are scored."""
    return lower_case(no_punctuation(text, rng), rng)


def full_stop(text: str, rng: random.Random) -> str:
    """Lower case that ends in a full stop."""
    return f"{text.lower().rstrip('?.!')}."


def numbers_as_digits(text: str, rng: random.Random) -> str:
    return _WORD.sub(lambda word: _DIGITS.get(word[0].lower(), word[0]), text)


def homophones(text: str, rng: random.Random) -> str:
    """Some words as another word that sounds alike, or in another spelling."""

    def sounds_alike(match: re.Match[str]) -> str:
        word = match[0]
        others = _HOMOPHONES.get(word.lower())
        if others is None or rng.random() >= _HOMOPHONE_SHARE:
            return word
        other = rng.choice(others)
        return other.capitalize() if word[0].isupper() and len(word) > 1 else other

    return _WORD.sub(sounds_alike, text)


def typos(text: str, rng: random.Random) -> str:
    """Some words with a letter left out, doubled or swapped with its neighbour; the first letter stays."""

    def mistyped(match: re.Match[str]) -> str:
        word = match[0]
        if len(word) < 3 or rng.random() >= _TYPO_SHARE:
            return word
        at = rng.randrange(1, len(word))
        kind = rng.randrange(3)
        if kind == 0:
            return word[:at] + word[at + 1 :]
        if kind == 1:
            return word[:at] + word[at] + word[at:]
        at = min(at, len(word) - 2)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

    return _WORD.sub(mistyped, text)


WRITTEN_FORMS: dict[str, Callable[[str, random.Random], str]] = {
    "lower case": lower_case,
    "no punctuation": no_punctuation,
    "lower case, no punctuation": asr_form,
    "lower case, full stop": full_stop,
    "numbers as digits": numbers_as_digits,
    "homophones": homophones,
    "typos": typos,
}


def random_form(text: str, rng: random.Random) -> str:
    """The text in one to three of the forms."""
    for name in rng.sample(list(WRITTEN_FORMS), rng.randint(1, 3)):
        text = WRITTEN_FORMS[name](text, rng)
    return text
