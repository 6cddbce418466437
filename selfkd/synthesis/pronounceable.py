"""Whether a voice can say a text: characters outside of its language's scripts, words lost by text normalization."""

import re
import unicodedata
from collections.abc import Container
from difflib import SequenceMatcher

from selfkd.errors import InputError

# scripts by the first word of their characters' Unicode names; other languages have Latin script
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
ANY = "any"  # the language of a voice that takes it from the text
_COMMON = ("LATIN", "DIGIT", "FEMININE", "MASCULINE", "MODIFIER", "COMBINING", "SUPERSCRIPT", "SUBSCRIPT", "GREEK")
_KEPT_FORMS = ("<super>", "<sub>", "<noBreak>")  # exponents and indices are read out
_SPOKEN_SYMBOLS = "°©®™℠"  # the rest of Unicode's "other symbols" are pictographs
_GREEK_WORD = re.compile("[\u0370-\u03ff\u1f00-\u1fff]{2,}")
_ABBREVIATED = re.compile(r"(?<=[^\W\d_])[./](?=[^\W\d_]\b)")  # a.m. becomes AM, A/C becomes AC
_WORD = re.compile(r"\d+(?:st|nd|rd|th|s)\b|[^\W\d_]+|\d+")
# words of spelled-out numbers, dates and symbols: the "the" of a sentence must not match that of a date
_NUMBER_WORDS = """
a and at by clock dash dot equals half hash is less minus more number o of oh on option out over per percent plus point
slash than the times to zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million
billion first second third quarter quarters halves january february march april may june july august september october
november december hours minutes seconds dollars cents euros pounds
"""
_NO_ANCHORS = frozenset(_NUMBER_WORDS.split())


def compatibility_characters(text: str) -> str:
    """Typographic forms of letters, digits and units (ﬁ, Ｂ, ①, Ⅳ, 2½, ㎏) as plain characters."""
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


def check_scripts(text: str, language: str, named: Container[str] = ()) -> None:
    """Raises InputError for letters, digits and pictographs that a voice of this language cannot pronounce: it would
    say "Chinese letter", or nothing. A single Greek letter, as in a formula, has a name in every language, and so have
    the symbols `named`."""
    if text.isascii():
        return
    for sign in text:
        category, script = unicodedata.category(sign), unicodedata.name(sign, "").partition(" ")[0]
        is_pictograph = category == "So" and sign not in _SPOKEN_SYMBOLS and sign not in named
        if is_pictograph or category in ("Co", "Cn", "Cs"):
            raise InputError(f"field question: {sign!r} cannot be put into words")
        if category[0] in "LMN" and script not in _COMMON and not _has_script(script, language):
            raise InputError(_script_message(sign, script, language))
    if (greek := _GREEK_WORD.search(text)) and not _has_script("GREEK", language):
        raise InputError(_script_message(greek[0], "GREEK", language))


def _has_script(script: str, language: str) -> bool:
    return language == ANY or language.lower().partition("-")[0] in _SCRIPTS.get(script, "").split()


def _script_message(characters: str, script: str, language: str) -> str:
    return f"field question: {characters!r} ({script.capitalize()}) is not of the voice's language, {language!r}"


def check_no_word_lost(text: str, spoken: str) -> None:
    """Raises InputError where a word or a number of the text has no counterpart in its spoken form: equal words on both
    sides are aligned, and whatever is between two of them must have a counterpart in any words."""
    before, after = (_WORD.findall(_ABBREVIATED.sub("", t).casefold()) for t in (text, spoken))
    if before == after:
        return
    anchors = [f"{word}?" if word in _NO_ANCHORS else word for word in before]  # which then matches no word
    changes = SequenceMatcher(None, anchors, after, autojunk=False).get_opcodes()
    for _, start, stop, spoken_start, spoken_stop in changes:
        words = [word for word in before[start:stop] if not word[0].isdecimal()]
        if len(words) + (len(words) < stop - start) > spoken_stop - spoken_start:  # several numbers may become one
            raise InputError(f"field question: {' '.join(before[start:stop])!r} would not be spoken, or not all of it")
