"""Numbers and symbols of an English question -> words. Leaving a symbol out would change the question.

wetext (weighted finite-state transducers, Apache-2.0) spells numbers and units; symbols that neither it nor this file
knows are replaced by their Unicode names.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

from selfkd.errors import InputError

UNSPOKEN = re.compile(r'[][{}<>|~`*_\\"\x00-\x1f\x7f]')
_ONE_THOUSAND = re.compile(r"(?<![$€£\d.,])\b1,(\d{3})(?![\d,]\d)(\.\d+)?(?!\.\d)")  # wetext omits its "one"
_YEAR = re.compile(r"(1[5-9]|20)\d\d")
_DECADES = {"0": "hundreds", "1": "tens"}  # of a century; wetext knows 20s to 90s
NAMES = {
    "<": "less than", ">": "greater than", "≤": "at most", "≥": "at least", "=": "equals", "≠": "is not",
    "≈": "approximately", "≅": "congruent to", "∼": "similar to", "+": "plus", "−": "minus", "±": "plus or minus",
    "×": "times", "·": "times", "⋅": "times", "÷": "divided by", "∕": "over", "√": "square root of",
    "∛": "cube root of", "∜": "fourth root of", "∠": "angle", "△": "triangle", "⊙": "circle", "∥": "parallel to",
    "⊥": "perpendicular to", "→": "goes to", "⇒": "implies", "∑": "sum", "∏": "product", "∫": "integral",
    "∴": "therefore", "′": "prime", "″": "double prime", "#": "hash", "‰": "per mille", "†": "dagger",
    "‡": "double dagger", "¶": "paragraph", "✓": "check mark", "✔": "check mark", "✗": "cross", "✘": "cross",
    "★": "star", "☆": "star", "♥": "heart", "♡": "heart", "♠": "spade", "♣": "club", "♦": "diamond", "♀": "female",
    "♂": "male", "♪": "note",
}  # fmt: skip
# operands of a symbol in a formula: numbers, brackets, single letters
_LEFT, _RIGHT = r"(?:(?<=[\d)])|(?<=\b[A-Za-z]))", r"(?=[-−√$€£]?[\d(]|[A-Za-z]\b)"
_SMALL_LEFT, _SMALL_RIGHT = r"(?:(?<=[\d)])|(?<=\b[a-z]))", r"(?=[\d(]|[a-z]\b)"  # M*A*S*H is no formula
_UNPRONOUNCEABLE = re.compile(rf"{_LEFT}\s*[|~]\s*{_RIGHT}|{_SMALL_LEFT}\s*\*\s*{_SMALL_RIGHT}")
_MONEY = {"$": "dollars", "€": "euros", "£": "pounds"}
_MICRO = {"G": "grams", "S": "seconds", "L": "liters", "F": "farads", "V": "volts", "A": "amperes", "W": "watts"}
_MAX_BELOW = 10  # "twenty two sevenths", but "one hundred twenty over eighty"
_MARKS = {"\u0304": "bar", "\u0305": "bar", "\u0302": "hat", "\u0303": "tilde", "\u0307": "dot", "\u0308": "double dot"}
_LEFT_OVER = re.compile("([\u0370-\u03ff\u1f00-\u1fff])|[\u0300-\u036f\u2020\u2021\u2030\u2033\u00b6\u20a0-\u20cf]")
_NO_WORDS = "field question: holds symbols without words"


def english_words(text: str) -> str:
    """The text in words; raises InputError for symbols of a formula that have no words."""
    for pattern, form in _FORMS:
        text = pattern.sub(form, text)
    if _UNPRONOUNCEABLE.search(text):
        raise InputError(_NO_WORDS)
    text = _ONE_THOUSAND.sub(_one_thousand, text)
    text = _tidy("".join(_name(c) if c in NAMES or unicodedata.category(c) == "Sm" else c for c in text))
    normalized = _normalized(text)
    if normalized is None:
        words = [w if _normalized(w) else re.sub(r"[^\w\s.,?!;:'°%/-]", lambda m: _name(m[0]), w) for w in text.split()]
        normalized = _normalized(_tidy(" ".join(words)))
    if normalized is None:
        raise InputError(_NO_WORDS)
    return " ".join(_LEFT_OVER.sub(_by_name, normalized).split()).replace(" )", ")")


def is_fraction(above: int, below: int) -> bool:
    """Whether "above/below" is a fraction ("three quarters"): not "nine eleven", a rate or a ratio."""
    return (above, below) not in ((9, 11), (24, 7)) and (above < below or above > below <= _MAX_BELOW)


def _slashed(found: re.Match[str]) -> str:
    above, below, then = int(found[1]), int(found[2]), found[3] or ""
    split = above + below == 100 and above >= below and above % 5 == 0  # 50/50, 80/20
    if then.strip()[:1] in tuple("=+×*"):
        split = False
    elif (above, below) in ((24, 7), (20, 20)) or split or ((above, below) == (9, 11) and then.strip() != "of"):
        return f"{_normalized(found[1])} {_normalized(found[2])}{then}"
    if is_fraction(above, below) or (above, below) == (9, 11):
        return found[0]
    return f"{found[1]} {'out of' if above == below and not then.strip() else 'over'} {found[2]}{then}"


def _decimal(found: re.Match[str]) -> str:
    """A number with points and adjacent letters: wetext spells "1.5kg", but makes "one.five" of "v1.5" and "1.5B"."""
    before, number, after = found.groups()
    parts = number.split(".")
    if len(parts) in (2, 4):
        spelled = _normalized(found[0])
        fits = spelled is not None and not re.search(r"[a-z]\.[a-z]", spelled.lower())
        return found[0] if fits else f"{before} {number} {after}"
    return f"{before} {' point '.join(parts)} {after}"


def _one_thousand(found: re.Match[str]) -> str:
    if found[2]:
        return f"one thousand {found[1].lstrip('0')}{found[2]}"
    return f"one thousand {int(found[1]) or ''}"


def _by_name(found: re.Match[str]) -> str:
    """The name of a symbol that wetext leaves: voices other than espeak's would omit it."""
    sign = found[0]
    if found[1]:  # Greek, as GREEK SMALL LETTER FINAL SIGMA
        return f" {re.sub('.* ', '', unicodedata.name(sign).partition(' WITH ')[0]).lower()} "
    if unicodedata.category(sign)[0] == "M":
        if sign not in _MARKS:
            raise InputError(_NO_WORDS)
        return f" {_MARKS[sign]} "
    return _name(sign)


def _normalized(text: str) -> str | None:
    try:
        return _normalizer().normalize(text)
    except (AssertionError, RuntimeError):  # wetext has no path for some symbols
        return None


def _name(sign: str) -> str:
    if sign not in NAMES and (sign in "|~" or unicodedata.category(sign) in ("Ps", "Pe")):
        return " "
    return f" {NAMES.get(sign) or unicodedata.name(sign, '').lower().removesuffix(' sign')} "


def _tidy(text: str) -> str:
    return re.sub(r"(?<=\() | (?=\))", "", " ".join(UNSPOKEN.sub(" ", text).split()))


def _plain(found: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", found[0])


def _decade(found: re.Match[str]) -> str:
    return f"{found[1]} {_DECADES.get(found[2], f'{found[2]}0s')}"


def _meters(found: re.Match[str]) -> str:
    return f"{found[1]} meter{'' if found[1] == '1' else 's'}{' per second' if found[2] else ''}"


def _power(found: re.Match[str]) -> str:
    within, bare = found.groups()
    exponent = bare or (within if re.fullmatch(r"[-−]?(\d+|\w)", within) else f"({within})")
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
        (r"\b24\s?[-–]\s?7\b|\b24/7(?=/365\b)", "twenty four seven"),
        (r"(?<=twenty four seven)/365\b", " three sixty five"),
        (r"(?<![\w.,/])(\d{1,2}|100)/(\d{1,2}|100)(?![\w/]|[.,]\d)(\s*[=+×*]|\s+of\b)?", _slashed),
        (r"(?<![\w.,/])(\d{3})/(\d{2,3})(?![\w/]|[.,]\d)()", _slashed),
        (r"(\d+/\d+)(?:rd|th|nd)s?\b", r"\1"),
        (r"(?<=\d)(st|nd|rd|th)/(?=\d)", r"\1 slash "),
        (r"(?<=\d)(st|nd|rd|th)-(?=\d)", r"\1 to "),
        (r"((?<![\d/])\d+/\d+|\dst|\dnd|\drd|\dth|\d0s)-(?=[A-Za-z])", r"\1 "),
        (r"(?<=[A-Za-z])/(?=\d+\.\d)", " slash "),
        (r"(?<=%)\s?[-–]\s?(?=\d)", " to "),
        (r"(?<=\d)[eE][-−](?=\d)", " e minus "), (r"(?<=\d)[eE]\+(?=\d)", " e plus "),
        (r"([$€£])(\d+(?:\.\d+)?)\s?[kK]\b", lambda m: f"{m[2]} thousand {_MONEY[m[1]]}"),
        (r"(?<=\d)\s?μ(g|s|[lL]|F|V|A|W)\b", lambda m: f" micro{_MICRO[m[1].upper()]}"),
        (r"(?<=\d)″", "\""), (r"(?<=\d)′(?=\s?\d+\")", "'"),
        (r"(?<![\w.,$€£])([A-Za-z]*)(\d+(?:\.\d+)+)((?:[A-Za-z]\w*)?)(?![\w°])", _decimal),
        (r"(?<=[A-Za-z])\.(?=\d)", ". "),
        (r"\b(?!2000)(1[1-9]|20)(\d)0'?s\b", _decade),
        (r"(?i)(?<=\byes or no)\.(?=\s+\d)", ","),  # "no." is no number here
        (r"\b[Nn]o\.\s?(?=\d)", "number "),
        (r"(\d)'\s?(\d+)(?:\"|'')", r"\1 feet \2 inches"),
        (r"^([^\"]*\d)\"([^\"]*)$", r"\1 inches\2"),
        (r"(?<=\d)\s?[ΩΩ]", " ohms"),
        (r"<-+>", "↔"), (r"-+>", "→"), (r"=>", "⇒"), (r"<=", "≤"), (r">=", "≥"), (r"!=", "≠"), (r"==", "="),
        (r"[⁰¹²³⁴-⁹]?[⁺⁻](?![⁰¹²³⁴-⁹])", lambda m: f" {_plain(m)} "),  # of an ion
        (r"⁻?[⁰¹²³⁴-⁹ⁿ]+", lambda m: f"^{_plain(m)}"),
        (r"[₀-₉]+", _plain),
        (r"([∑∏∫])_(\([^()]*\)|\w)\^(\([^()]*\)|\w)", r"\1 from \2 to \3 of "),
        (r"(?<![\w.,$€£])(\d[\d.,]*)\s?m(/s)?(?!['\w])", _meters),  # wetext spells m as minutes
        (r"\^?∘|\^°", "°"),
        (r"\^'", "′"),
        (r"(\w+)\u20d7", r"vector \1"),
        # wetext spells 2x as two times, and 1/2 as one half where no letter follows
        (r"(?<![\w.,/])(\d+/\d+)\s?(?=[a-z]\b|\()", lambda m: f"{_normalized(m[1])} "),
        (r"(?<![\w.,])(\d+(?:\.\d+)?)\s?x\b(?!\s*[\d(])", lambda m: f"{_normalized(m[1])} x"),
        (r"(?<=[\w)])\*\*(?=[\d(])", "^"),
        (r"(?<![\w)])\|([^|\s]+(?:\s*[-−+*/^]\s*[^|\s]+)*)\s?\|(?!\w)", _absolute),
        (r"\b(Pr?\([^()|]+)\|(?=[^()|]+\))", r"\1 given "),
        (r"\s\|\s", ", "),
        (r"\s*\^(?:\s*[({]([^(){}]+)[)}]|\s*([-−]?\d+(?:\.\d+)?|(?<!\s)[-−]?[^\W\d]|[-−]?[^\W\d]\b))", _power),
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
    from wetext import Normalizer  # 0.3 s to build, once in a process

    return Normalizer(lang="en", operator="tn")
