"""Numbers and signs of a written English question -> words. A sign that is left out makes another question of it.

Numbers and units are wetext's (weighted finite-state transducers, Apache-2.0); signs that neither it nor this file
knows go by their names in Unicode.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

from selfkd.errors import InputError

UNSPOKEN = re.compile(r'[][{}<>|~`*_\\"\x00-\x1f\x7f]')
_ONE_THOUSAND = re.compile(r"(?<![$€£\d.,])\b1,(\d{3})(?![\d.,]\d)")  # which wetext says without its "one"
_YEAR = re.compile(r"(1[5-9]|20)\d\d")
_DECADES = {"0": "hundreds", "1": "tens"}  # of a century; wetext knows 20s to 90s
_NAMES = {
    "<": "less than", ">": "greater than", "≤": "at most", "≥": "at least", "=": "equals", "≠": "is not",
    "≈": "approximately", "≅": "congruent to", "∼": "similar to", "+": "plus", "−": "minus", "±": "plus or minus",
    "×": "times", "·": "times", "⋅": "times", "÷": "divided by", "∕": "over", "√": "square root of",
    "∛": "cube root of", "∜": "fourth root of", "∠": "angle", "△": "triangle", "⊙": "circle", "∥": "parallel to",
    "⊥": "perpendicular to", "→": "goes to", "⇒": "implies", "∑": "sum", "∏": "product", "∫": "integral",
    "∴": "therefore", "′": "prime", "#": "hash",
}  # fmt: skip
# signs within a formula stand between these: numbers, brackets, letters that stand alone
_LEFT, _RIGHT = r"(?:(?<=[\d)])|(?<=\b[A-Za-z]))", r"(?=[-−√$€£]?[\d(]|[A-Za-z]\b)"
_SMALL_LEFT, _SMALL_RIGHT = r"(?:(?<=[\d)])|(?<=\b[a-z]))", r"(?=[\d(]|[a-z]\b)"  # M*A*S*H is no formula
_UNSAYABLE = re.compile(rf"{_LEFT}\s*[|~]\s*{_RIGHT}|{_SMALL_LEFT}\s*\*\s*{_SMALL_RIGHT}")
_CANNOT = "field question: holds signs that cannot be put into words"


def english_words(text: str) -> str:
    """Raises InputError for signs of a formula that have no words."""
    for pattern, form in _FORMS:
        text = pattern.sub(form, text)
    if _UNSAYABLE.search(text):
        raise InputError(_CANNOT)
    text = _ONE_THOUSAND.sub(lambda m: f"one thousand {int(m[1]) or ''}", text)
    text = _tidy("".join(_name(c) if c in _NAMES or unicodedata.category(c) == "Sm" else c for c in text))
    said = _said(text)
    if said is None:
        words = [w if _said(w) else re.sub(r"[^\w\s.,?!;:'°%/-]", lambda m: _name(m[0]), w) for w in text.split()]
        said = _said(_tidy(" ".join(words)))
    if said is None:
        raise InputError(_CANNOT)
    return said


def _said(text: str) -> str | None:
    try:
        return _normalizer().normalize(text)
    except (AssertionError, RuntimeError):  # wetext has no path for some signs
        return None


def _name(sign: str) -> str:
    if sign not in _NAMES and (sign in "|~" or unicodedata.category(sign) in ("Ps", "Pe")):
        return " "
    return f" {_NAMES.get(sign) or unicodedata.name(sign, '').lower().removesuffix(' sign')} "


def _tidy(text: str) -> str:
    return re.sub(r"(?<=\() | (?=\))", "", " ".join(UNSPOKEN.sub(" ", text).split()))


def _plain(found: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", found[0])


def _decade(found: re.Match[str]) -> str:
    return f"{found[1]} {_DECADES.get(found[2], f'{found[2]}0s')}"


def _meters(found: re.Match[str]) -> str:
    return f"{found[1]} meter{'' if found[1] == '1' else 's'}{' per second' if found[2] else ''}"


def _power(found: re.Match[str]) -> str:
    within, alone = found.groups()
    exponent = alone or (within if re.fullmatch(r"[-−]?(\d+|\w)", within) else f"({within})")
    if exponent not in ("2", "3"):
        return f" to the power of {exponent} "
    if re.search(r"\b[^\W\d]$", found.string[: found.start()]):  # left to wetext, which takes the s of "s squared" for
        return f"^{exponent} "  # seconds
    return " squared " if exponent == "2" else " cubed "


def _absolute(found: re.Match[str]) -> str:
    return f" absolute value of {found[1] if found[1].isalnum() else f'({found[1]})'} "


def _minus(found: re.Match[str]) -> str:
    first, second = found.groups()
    is_range = _YEAR.fullmatch(first) and _YEAR.fullmatch(second) and first < second
    return f"{first}-" if is_range else f"{first} minus "


_FORMS: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(pattern), form)
    for pattern, form in (
        (r"(?<!\w)_{2,}(?!\w)", " blank "),
        (r"\b(?!2000)(1[1-9]|20)(\d)0'?s\b", _decade),
        (r"(?i)(?<=\byes or no)\.(?=\s+\d)", ","),  # which is no number
        (r"\b[Nn]o\.\s?(?=\d)", "number "),
        (r"(\d)'\s?(\d+)(?:\"|'')", r"\1 feet \2 inches"),
        (r"^([^\"]*\d)\"([^\"]*)$", r"\1 inches\2"),
        (r"(?<=\d)\s?[ΩΩ]", " ohms"),
        (r"<-+>", "↔"), (r"-+>", "→"), (r"=>", "⇒"), (r"<=", "≤"), (r">=", "≥"), (r"!=", "≠"), (r"==", "="),
        (r"[⁰¹²³⁴-⁹]?[⁺⁻](?![⁰¹²³⁴-⁹])", lambda m: f" {_plain(m)} "),  # of an ion
        (r"⁻?[⁰¹²³⁴-⁹ⁿ]+", lambda m: f"^{_plain(m)}"),
        (r"[₀-₉]+", _plain),
        (r"([∑∏∫])_(\([^()]*\)|\w)\^(\([^()]*\)|\w)", r"\1 from \2 to \3 of "),
        (r"(?<![\w.,$€£])(\d[\d.,]*)\s?m(/s)?(?!['\w])", _meters),  # which wetext says as minutes
        (r"\^?∘|\^°", "°"),
        (r"\^'", "′"),
        (r"(\w+)\u20d7", r"vector \1"),
        # wetext says 2x as two times, and 1/2 as one half where no letter follows
        (r"(?<![\w.,/])(\d+/\d+)\s?(?=[a-z]\b|\()", lambda m: f"{_said(m[1])} "),
        (r"(?<![\w.,])(\d+)\s?x\b(?!\s*[\d(])", lambda m: f"{_said(m[1])} x"),
        (r"(?<=[\w)])\*\*(?=[\d(])", "^"),
        (r"(?<![\w)])\|([^|\s]+(?:\s*[-−+*/^]\s*[^|\s]+)*)\s?\|(?!\w)", _absolute),
        (r"\b(Pr?\([^()|]+)\|(?=[^()|]+\))", r"\1 given "),
        (r"\s\|\s", ", "),
        (r"\s*\^\s*(?:[({]([^(){}]+)[)}]|([-−]?\d+(?:\.\d+)?|[-−]?[^\W\d]))", _power),
        (r"(?<=\d)\s?~\s?(?=\d)", " to "),
        (r"(?<!\b\w\s)(?<![\w)])~\s?(?=[$€£]?\d)", "about "),
        (r"#\s?(?=\d|of\b)", " number "),
        (r"(?<=\b[A-G])#", " sharp"),
        (rf"{_LEFT}\s+\*\s+{_RIGHT}|{_SMALL_LEFT}\*{_SMALL_RIGHT}", " × "),
        (r"(?i)\b(pages?|ages?|aged|years?|lines?|from|between)\s(\d+)\s-\s(?=\d)", r"\1 \2-"),
        (r"(?<=\d)-(?=[$€£]\d)", " to "),
        (r"(\d+|[%)]|\b[a-z])\s+-\s+(?=[$€£(]?(\d+|[a-z]\b))", _minus),
        (r"(?<=\d)-(?=\d+\s*[=+×÷])|(?<=\b[xyzn])-(?=\d)|(?<=\d)-(?=[xyzn]\b)", " minus "),
        (r"(?<=\()-(?=\d)", "negative "),
        (r"(?<=[\d)])\s+/\s+(?=[\d(])", " divided by "),
        (r"(?<=\))\s*/\s*|(?<=\w)\s*/\s*(?=\()", " over "),
    )
]  # fmt: skip


@cache
def _normalizer() -> Any:
    from wetext import Normalizer  # a third of a second, once in a process

    return Normalizer(lang="en", operator="tn")
