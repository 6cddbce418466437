"""Written questions -> what a voice can say: numbers, units, dates and symbols in words, options by their letters.

Numbers and signs are those of `english_words.py`, leftovers of LaTeX pylatexenc's.
"""

import re
from functools import cache
from typing import Any

from selfkd.data.english_words import UNSPOKEN, english_words
from selfkd.errors import InputError

MOST_CHARACTERS = 600  # 40 s of speech: what is near to it is refused when it has been spoken
_CODE = re.compile(r"```|^\s*(def |class |import |#include|function |SELECT )|[{;]\s*$", re.MULTILINE)
_TABLE_LINE = re.compile(r"^[^|\n]*\|[^|\n]*\|.*$", re.MULTILINE)
_OPTION = re.compile(r"^\s*\(?([A-H])[.):]\s+(.+?)\s*[.;]?\s*$", re.MULTILINE)
# MMStar's form: "Options: A: a cat, B: two dogs", each option up to the next letter
_INLINE = re.compile(r"(?:(?<=Options:)|,)\s*([A-H]):\s+(.+?)\s*(?:(?=,\s*[A-H]:\s)|[.;]?\s*$)", re.MULTILINE)
# of HTML, and what Markdown begins a line with
_TAG = re.compile(r"</?\w+/?>|^[ \t]*(?:#+|>+)[ \t]+(?!of\b|\d)", re.MULTILINE)
_NUMBERED_TAG = re.compile(r"<(\w+ \d+)>")  # MMMU's <image 1>
_URL = re.compile(r"(?:https?://|www\.)([\w.-]+)\S*")
# dollars as pandoc tells those of a formula from those that are paid; without signs of LaTeX it has no words in it
_MATH = re.compile(
    r"\${1,2}(?=[^\s$])([^$\n]*[\\^_][^$\n]*|(?:(?!\s[a-z]{2})[^$\n])+)(?<=\S)\${1,2}(?!\d)|\\\((.+?)\\\)|\\[A-Za-z]+"
)
_NO_WORDS = "field question: LaTeX that cannot be put into words"
_BRACKETS = str.maketrans("{}", "()")  # x^{n+1}
_ROOTS = {"2": "√", "3": "∛", "4": "∜"}
_MACROS = {"triangle": "△", "degree": "°"}  # that pylatexenc has nothing for
_QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": ", ", "–": "-", "…": "..."})
_RANGE = re.compile(r"(?<=\d)\s+–\s+(?=\d)")
# between numbers such signs are left to the voice, where they are not in English words by then
_UNSPOKEN = re.compile(rf"(?!(?<![<>~])[<>~]\s*\d|(?<=\d)\*\d|(?<=\d )\* \d){UNSPOKEN.pattern}")


def spoken_form(text: str, language: str = "en") -> str:
    """What is to be said for a written question; raises InputError for code, tables, and too long a text.

    Numbers and signs of other languages than English are left to the voice, which has its own words for them.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"field question: {len(text)} characters are too many to speak (at most {MOST_CHARACTERS})")
    if len(_TABLE_LINE.findall(text)) > 1:
        raise InputError("field question: a table cannot be spoken")
    english = language.startswith("en")
    text = _NUMBERED_TAG.sub(r"\1", _TAG.sub(" ", text))
    text = _OPTION.sub(lambda m: _named_option(m, english), text)
    asked, mark, options = text.partition("Options:")
    if mark:
        text = asked + _INLINE.sub(lambda m: f" {_named_option(m, english)}", mark + options).removeprefix(mark)
    if _CODE.search(text):
        raise InputError("field question: code cannot be spoken")
    text = _without_latex(_URL.sub(r"\1", text))
    if english:
        text = _RANGE.sub("-", text)
    lines = [line.strip() for line in text.translate(_QUOTES).splitlines()]
    text = " ".join(line if line[-1] in ".?!:;," else f"{line}." for line in lines if line).removesuffix(".") + (
        "." if lines and lines[-1].endswith(".") else ""
    )
    if english:
        text = english_words(text)
    text = " ".join(_UNSPOKEN.sub(" ", text).split())
    if not any(c.isalnum() for c in text):
        raise InputError("field question: nothing of it can be spoken")
    return re.sub(r"\s+([.,?!;:])", r"\1", text)


def _named_option(option: re.Match[str], english: bool) -> str:
    return f"Option {option[1]} is {option[2]}." if english else f"{option[1]}: {option[2]}."


def _without_latex(text: str) -> str:
    """Formulas, and commands outside of them with what they take, as plain signs."""
    parts, at = [], 0
    while found := _MATH.search(text, at):
        if formula := found[1] or found[2]:
            said, end = _plain_math(formula).replace("-", "−"), found.end()  # which no range has
        else:
            latex = _command(text, found.start())
            said, end = _plain_math(latex), found.start() + len(latex)
        parts += [text[at : found.start()], said]
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
        text = _latex().latex_to_text(latex, tolerant_parsing=False)
        return re.sub(r"\{(-?\d+)\}", r"\1", text).translate(_BRACKETS)
    except Exception as error:  # a command without what it takes makes pylatexenc raise nearly anything
        raise InputError(_NO_WORDS) from error


@cache
def _latex() -> Any:
    from pylatexenc.latex2text import LatexNodes2Text, MacroTextSpec, get_default_latex_context_db

    known = get_default_latex_context_db()
    ours = [MacroTextSpec("sqrt", _root), MacroTextSpec("frac", _fraction)]
    ours += [MacroTextSpec(name, said) for name, said in _MACROS.items()]
    known.add_context_category("said otherwise", macros=ours, prepend=True)
    return LatexNodes2Text(
        math_mode="text",
        latex_context=known,
        strict_latex_spaces="based-on-source",
        keep_braced_groups=True,
        keep_braced_groups_minlen=2,
    )


def _root(node: Any, l2tobj: Any) -> str:
    """With its degree, which pylatexenc's own leaves out."""
    degree, under = node.nodeargd.argnlist
    sign = _ROOTS.get(l2tobj.nodelist_to_text([degree]).strip("[] ") if degree else "2")
    if under is None or sign is None:
        raise InputError(_NO_WORDS)
    return f"{sign}({_argument(under, l2tobj)})"


def _fraction(node: Any, l2tobj: Any) -> str:
    above, below = (_argument(part, l2tobj) for part in node.nodeargd.argnlist)
    if above.isdecimal() and below.isdecimal():
        return f"{above}/{below} "  # which wetext says as one half
    above, below = (p if re.fullmatch(r"\w+|[√∛∜]\([^()]*\)", p) else f"({p})" for p in (above, below))
    return f"{above}∕{below} "


def _argument(node: Any, l2tobj: Any) -> str:
    return re.sub(r"^\{(.*)\}$", r"\1", l2tobj.nodelist_to_text([node]))
