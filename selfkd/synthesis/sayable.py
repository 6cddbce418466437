"""Whether all that is written is said: letters that a voice's language has no sounds for, words that got lost."""

import re
import unicodedata
from collections.abc import Container
from difflib import SequenceMatcher

from selfkd.errors import InputError

# scripts by the first word of their letters' names in Unicode; languages that are not here are written in Latin letters
_SCRIPTS = {
    "CYRILLIC": "ru uk bg be mk sr kk ky tt ba cv mn tg",
    "GREEK": "el grc",
    "ARABIC": "ar fa ur ug sd ckb ps",
    "HEBREW": "he yi",
    "DEVANAGARI": "hi mr ne sa kok mai bho",
    "BENGALI": "bn as bpy",
    "TAMIL": "ta", "TELUGU": "te", "KANNADA": "kn", "MALAYALAM": "ml", "GUJARATI": "gu", "GURMUKHI": "pa",
    "ORIYA": "or", "SINHALA": "si", "THAI": "th", "LAO": "lo", "KHMER": "km", "MYANMAR": "my shn",
    "GEORGIAN": "ka", "ARMENIAN": "hy", "ETHIOPIC": "am ti", "CHEROKEE": "chr",
    "HANGUL": "ko",
    "CJK": "zh cmn yue hak wuu nan ja ko",
    "BOPOMOFO": "zh cmn yue hak nan",
    "HIRAGANA": "ja", "KATAKANA": "ja", "KATAKANA-HIRAGANA": "ja", "IDEOGRAPHIC": "zh cmn yue ja ko",
    "ARABIC-INDIC": "ar ckb ps", "EXTENDED": "fa ur ps sd ug",  # digits
}  # fmt: skip
ANY = "any"  # the language of a voice that follows the text
_OF_ALL = ("LATIN", "DIGIT", "FEMININE", "MASCULINE", "MODIFIER", "COMBINING", "SUPERSCRIPT", "SUBSCRIPT", "GREEK")
_KEPT_FORMS = ("<super>", "<sub>", "<noBreak>")  # exponents and indices have words of their own
_SAID_SIGNS = "°©®™℠"  # the rest of Unicode's "other symbols" are pictures
_GREEK_WORD = re.compile("[\u0370-\u03ff\u1f00-\u1fff]{2,}")
_ABBREVIATED = re.compile(r"(?<=[^\W\d_])[./](?=[^\W\d_]\b)")  # a.m. is said AM, A/C is AC
_WORD = re.compile(r"\d+(?:st|nd|rd|th|s)\b|[^\W\d_]+|\d+")
# words that numbers, dates and signs are said with: the "the" of a sentence is not to be held against that of a date
_OF_NUMBERS = """
a and at by clock dash dot equals half hash is less minus more number o of oh on option out over per percent plus point
slash than the times to zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million
billion first second third quarter quarters halves january february march april may june july august september october
november december hours minutes seconds dollars cents euros pounds
"""
_NO_ANCHORS = frozenset(_OF_NUMBERS.split())


def plain_letters(text: str) -> str:
    """Letters, digits and units of a typographer's form (ﬁ, Ｂ, ①, Ⅳ, 2½, ㎏) as plain ones."""
    return text if text.isascii() else "".join(map(_plain, text, " " + text))


def _plain(sign: str, before: str) -> str:
    form = unicodedata.decomposition(sign)
    is_sign = not sign.isalnum() and unicodedata.category(sign) != "So"  # of punctuation
    if not form.startswith("<") or form.startswith(_KEPT_FORMS) or is_sign:
        return sign
    plain = unicodedata.normalize("NFKC", sign)
    if form.startswith("<fraction>"):
        return (" " if before.isdigit() else "") + plain.replace("\u2044", "/")
    return plain


def check_letters(text: str, language: str, named: Container[str] = ()) -> None:
    """Raises InputError for letters, digits and pictures that a voice of this language has no sounds for: it would say
    "Chinese letter", or nothing. A Greek letter that stands alone, as in a formula, has a name in every language, and
    so have the signs `named`."""
    if text.isascii():
        return
    for sign in text:
        category, script = unicodedata.category(sign), unicodedata.name(sign, "").partition(" ")[0]
        is_picture = category == "So" and sign not in _SAID_SIGNS and sign not in named
        if is_picture or category in ("Co", "Cn", "Cs"):
            raise InputError(f"field question: {sign!r} cannot be put into words")
        if category[0] in "LMN" and script not in _OF_ALL and not _is_of(script, language):
            raise InputError(_not_of(sign, script, language))
    if (greek := _GREEK_WORD.search(text)) and not _is_of("GREEK", language):
        raise InputError(_not_of(greek[0], "GREEK", language))


def _is_of(script: str, language: str) -> bool:
    return language == ANY or language.lower().partition("-")[0] in _SCRIPTS.get(script, "").split()


def _not_of(letters: str, script: str, language: str) -> str:
    return f"field question: {letters!r} ({script.capitalize()}) is not of the voice's language, {language!r}"


def check_all_said(written: str, said: str) -> None:
    """Raises InputError where a word or a number was written of which nothing is said: words that are the same on both
    sides are held against each other, and what was between two of them has to be there, in whatever words."""
    before, after = (_WORD.findall(_ABBREVIATED.sub("", text).casefold()) for text in (written, said))
    if before == after:
        return
    anchors = [f"{word}?" if word in _NO_ANCHORS else word for word in before]  # which then is the same as none
    changes = SequenceMatcher(None, anchors, after, autojunk=False).get_opcodes()
    for _, start, stop, there, to in changes:
        words = [word for word in before[start:stop] if not word[0].isdecimal()]
        if len(words) + (len(words) < stop - start) > to - there:  # of several numbers one may be made
            raise InputError(f"field question: {' '.join(before[start:stop])!r} would not be said, or not all of it")
