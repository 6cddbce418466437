"""Written questions -> what a voice can say: numbers, units, dates and symbols in words, options by their letters.

Numbers and units are wetext's (weighted finite-state transducers, Apache-2.0), leftovers of LaTeX pylatexenc's.
"""

import re
from functools import cache
from typing import Any

from selfkd.errors import InputError

MOST_CHARACTERS = 600  # 40 s of speech: what is near to it is refused when it has been spoken
_CODE = re.compile(r"```|^\s*(def |class |import |#include|function |SELECT )|[{;]\s*$", re.MULTILINE)
_TABLE_LINE = re.compile(r"^[^|\n]*\|[^|\n]*\|.*$", re.MULTILINE)
_OPTION = re.compile(r"^\s*\(?([A-H])[.):]\s+(.+?)\s*[.;]?\s*$", re.MULTILINE)
# MMStar's form: "Options: A: a cat, B: two dogs", each option up to the next letter
_INLINE = re.compile(r"(?:(?<=Options:)|,)\s*([A-H]):\s+(.+?)\s*(?:(?=,\s*[A-H]:\s)|[.;]?\s*$)", re.MULTILINE)
_TAG = re.compile(r"</?\w+/?>")
_ONE_THOUSAND = re.compile(r"(?<![$€£\d.,])\b1,(\d{3})(?![\d.,]\d)")  # which wetext says without its "one"
_URL = re.compile(r"(?:https?://|www\.)([\w.-]+)\S*")
_MATH = re.compile(r"\$([^$\n]*[\\^_][^$\n]*)\$|\\\((.+?)\\\)|\\[A-Za-z]+")
_NO_WORDS = "field question: LaTeX that cannot be put into words"
_ROOTS = {"2": "√", "3": "∛", "4": "∜"}
_QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": ", ", "–": "-", "…": "..."})
_SIGNS = str.maketrans({"×": " times ", "≤": " at most ", "≥": " at least ", "≠": " is not ", "√": " square root of ",
                         "∛": " cube root of ", "∜": " fourth root of ", "∕": " over ",
                         "²": "^2", "³": "^3", "#": " number "})  # fmt: skip
_UNSPOKEN = re.compile(r'[][{}<>|~`*_\\"\x00-\x1f\x7f]')


def spoken_form(text: str, language: str = "en") -> str:
    """What is to be said for a written question; raises InputError for code, tables, and too long a text.

    Numbers and signs of other languages than English are left to the voice, which has its own words for them.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"field question: {len(text)} characters are too many to speak (at most {MOST_CHARACTERS})")
    if len(_TABLE_LINE.findall(text)) > 1:
        raise InputError("field question: a table cannot be spoken")
    english = language.startswith("en")
    text = _OPTION.sub(lambda m: _named_option(m, english), _TAG.sub(" ", text))
    asked, mark, options = text.partition("Options:")
    if mark:
        text = asked + _INLINE.sub(lambda m: f" {_named_option(m, english)}", mark + options).removeprefix(mark)
    if _CODE.search(text):
        raise InputError("field question: code cannot be spoken")
    text = _without_latex(_URL.sub(r"\1", text))
    lines = [line.strip() for line in text.translate(_QUOTES).splitlines()]
    text = " ".join(line if line[-1] in ".?!:;," else f"{line}." for line in lines if line).removesuffix(".") + (
        "." if lines and lines[-1].endswith(".") else ""
    )
    if english:
        text = _in_words(text.translate(_SIGNS))
    text = " ".join(_UNSPOKEN.sub(" ", text).split())
    if not any(c.isalnum() for c in text):
        raise InputError("field question: nothing of it can be spoken")
    return re.sub(r"\s+([.,?!;:])", r"\1", text)


def _named_option(option: re.Match[str], english: bool) -> str:
    return f"Option {option[1]} is {option[2]}." if english else f"{option[1]}: {option[2]}."


def _in_words(text: str) -> str:
    text = _ONE_THOUSAND.sub(lambda m: f"one thousand {int(m[1]) or ''}", text)
    text = " ".join(_UNSPOKEN.sub(" ", text).split())
    try:
        return _normalizer().normalize(text)
    except (AssertionError, RuntimeError):  # wetext has no path for some signs
        plain = " ".join(re.sub(r"[^\w\s.,?!;:'%$°/^+=-]", " ", text).split())
        try:
            return _normalizer().normalize(plain)
        except (AssertionError, RuntimeError) as error:
            raise InputError("field question: holds signs that cannot be put into words") from error


@cache
def _normalizer() -> Any:
    from wetext import Normalizer  # a third of a second, once in a process

    return Normalizer(lang="en", operator="tn")


def _without_latex(text: str) -> str:
    """Formulas, and commands outside of them with what they take, as plain signs."""
    parts, at = [], 0
    while found := _MATH.search(text, at):
        latex = found[1] or found[2] or _command(text, found.start())
        end = found.end() if found[1] or found[2] else found.start() + len(latex)
        parts += [text[at : found.start()], _plain_math(latex)]
        at = end
    return "".join([*parts, text[at:]])


def _command(text: str, start: int) -> str:
    """The command that begins there, with its arguments: braces within braces, [3], or the next sign."""
    from pylatexenc.latexwalker import LatexWalker

    try:
        _, _, length = LatexWalker(text, tolerant_parsing=False).get_latex_nodes(start, read_max_nodes=1)
    except Exception as error:
        raise InputError(_NO_WORDS) from error
    return text[start : start + length].rstrip()


def _plain_math(latex: str) -> str:
    try:
        # tolerant of unclosed braces, it would try each of them twice, those within them four times, and so on
        return _latex().latex_to_text(latex, tolerant_parsing=False)
    except Exception as error:  # a command without what it takes makes pylatexenc raise nearly anything
        raise InputError(_NO_WORDS) from error


@cache
def _latex() -> Any:
    from pylatexenc.latex2text import LatexNodes2Text, MacroTextSpec, get_default_latex_context_db

    known = get_default_latex_context_db()
    ours = [MacroTextSpec("sqrt", _root), MacroTextSpec("frac", _fraction)]
    known.add_context_category("said otherwise", macros=ours, prepend=True)
    return LatexNodes2Text(math_mode="text", latex_context=known)


def _root(node: Any, l2tobj: Any) -> str:
    """With its degree, which pylatexenc's own leaves out."""
    degree, under = node.nodeargd.argnlist
    sign = _ROOTS.get(l2tobj.nodelist_to_text([degree]).strip("[] ") if degree else "2")
    if under is None or sign is None:
        raise InputError(_NO_WORDS)
    return f"{sign}({l2tobj.nodelist_to_text([under])})"


def _fraction(node: Any, l2tobj: Any) -> str:
    above, below = (l2tobj.nodelist_to_text([part]) for part in node.nodeargd.argnlist)
    # wetext says 1/2 as one half, and finds no words for a bracket beside that stroke
    return f"{above}∕{below}" if "(" in above + below else f"{above}/{below}"
