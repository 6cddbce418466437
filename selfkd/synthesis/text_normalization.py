"""Text normalization: questions -> input of a TTS engine, with numbers, units, dates and symbols in words.

`english_words.py` spells numbers and symbols, pylatexenc the rest of LaTeX.
"""

import html
import re
from functools import cache
from typing import Any

from selfkd.data.as_text import tidy
from selfkd.errors import InputError
from selfkd.synthesis.english_words import NAMES, UNSPOKEN, english_words, is_fraction
from selfkd.synthesis.pronounceable import check_no_word_lost, check_scripts, compatibility_characters

MAX_CHARACTERS = 600  # 40 s of speech; shorter text may still be rejected by the length of its audio
_CODE = re.compile(r"```|^\s*(def |class |import |#include|function |SELECT )|[{;]\s*$", re.MULTILINE)
_TABLE_LINE = re.compile(r"^[^|\n]*\|[^|\n]*\|.*$", re.MULTILINE)
_OPTION = re.compile(r"^\s*\(?([A-H])[.):]\s+(.+?)\s*[.;]?\s*$", re.MULTILINE)
# MMStar's form: "Options: A: a cat, B: two dogs", each option up to the next letter
_INLINE = re.compile(r"(?:(?<=Options:)|,)\s*([A-H]):\s+(.+?)\s*(?:(?=,\s*[A-H]:\s)|[.;]?\s*$)", re.MULTILINE)
_MARKDOWN_MARK = re.compile(r"^[ \t]*(?:#+|>+)[ \t]+(?!of\b|\d)", re.MULTILINE)  # of Markdown, at the start of a line
_TAG = re.compile(r"""<(/?)([A-Za-z]\w*)((?:\s+[\w-]+\s*=\s*(?:"[^"]*"|'[^']*'))*)\s*(/?)>""")
_ELEMENTS = """
a abbr b big blockquote body br center cite code del div em font h1 h2 h3 h4 h5 h6 head hr html i ins kbd li mark ol p
pre q s samp small span strike strong sub sup table tbody td th thead title tr tt u ul var
"""
_HTML = frozenset(_ELEMENTS.split())
_UNPAIRED = ("br", "hr", "p", "li")  # tags without an end tag
_IN_BRACKETS = re.compile(r"(?<![\w)<])<([^\W\d_][^<>\n]*[\w.!?])>(?![\w(>])")  # <EXIT>, MMMU's <image 1>
_ENTITY = re.compile(r"&(?:#\d+|#[xX][\da-fA-F]+|[A-Za-z]\w*);")
_URL = re.compile(r"(?:https?://|(?=www\.))([\w.-]+)((?:[/?#:][^\s]*[^\s.,;:!?)\]}\"'])?)/?")
_URL_SIGNS = {"/": "slash", "?": "question mark", "=": "equals", "&": "and", "#": "hash", ".": "dot", "-": "dash",
              "_": "underscore", "%": "percent", "~": "tilde", ":": "colon", "+": "plus", "@": "at"}  # fmt: skip
_EMAIL = re.compile(r"(?<![\w.])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
# a formula between dollars by the rules of pandoc; without LaTeX commands it holds no words
_MATH = re.compile(
    r"\${1,2}(?=[^\s$])([^$\n]*[\\^_][^$\n]*|(?:(?!\s[a-z]{2})[^$\n])+)(?<=\S)\${1,2}(?!\d)|\\\((.+?)\\\)|\\[A-Za-z]+"
)
_FRACTION = re.compile(r"\\[cdt]frac\b")
# formatting commands unknown to pylatexenc; the name of any other would be lost, as that of C:\Users
_FORMATTING_COMMANDS = """
left right middle big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle scriptstyle limits nolimits boxed fbox
operatorname mathop mathord rm bf it tt sf cal bold bm pmb nonumber notag centering noindent par newline hfill
underbrace overbrace underline mbox substack
"""
_FORMATTING = frozenset(_FORMATTING_COMMANDS.split())
_NO_WORDS = "field question: LaTeX that cannot be put into words"
_BRACKETS = str.maketrans("{}", "()")  # x^{n+1}
_ROOTS = {"2": "√", "3": "∛", "4": "∜"}
_MACROS = {"triangle": "△", "degree": "°"}  # unknown to pylatexenc
_QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": ", ", "–": "-", "…": "..."})
_RANGE = re.compile(r"(?<=\d)\s+–\s+(?=\d)")
# between numbers such symbols are left to the voice where english_words.py has not replaced them
_UNSPOKEN = re.compile(rf"(?!(?<![<>~])[<>]\s*\w|(?<![<>~])~\s*\d|(?<=\d)\*\d|(?<=\d )\* \d){UNSPOKEN.pattern}")
_LATEX_SYNTAX = re.compile(
    r"(?<=\\sqrt)\s*\[\w\]|\\[hv]space\*?\s*\{[^{}]*\}|\\(?:begin|end)\s*\{\w+\*?\}(?:\{[lcr| ]+\})?|\\[A-Za-z]+"
)


def spoken_form(text: str, language: str = "en", voice_language: str = "") -> str:
    """The spoken form of a question, with all of its words. Raises InputError for code, tables, too long a text, and
    for text that a voice of this language cannot pronounce (another script, pictographs, formulas without words).
    `voice_language` is needed where the voice knows other languages than that of the questions ("any").

    Numbers and symbols of other languages than English are left to the voice, which spells them itself.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"field question: {len(text)} characters are too many to synthesize (at most {MAX_CHARACTERS})"
        )
    if len(_TABLE_LINE.findall(text)) > 1:
        raise InputError("field question: a table has no spoken form")
    english = language.startswith("en")
    text = _ENTITY.sub(lambda m: html.unescape(m[0]), _without_html(_MARKDOWN_MARK.sub(" ", tidy(text))))
    text = compatibility_characters(_IN_BRACKETS.sub(r"\1", text))
    text = _OPTION.sub(lambda m: _named_option(m, english), text)
    question, mark, options = text.partition("Options:")
    if mark:
        text = question + _INLINE.sub(lambda m: f" {_named_option(m, english)}", mark + options).removeprefix(mark)
    if _CODE.search(text):
        raise InputError("field question: code has no spoken form")
    if english:
        text = _EMAIL.sub(lambda m: _spelled_address(m[0]), _URL.sub(lambda m: f"{m[1]}{_spelled_address(m[2])}", text))
    text = compatibility_characters(_without_latex(text))
    check_scripts(text, voice_language or language, NAMES if english else ())
    if english:
        text = _RANGE.sub("-", text)
    lines = [line.strip() for line in text.translate(_QUOTES).splitlines()]
    text = " ".join(line if line[-1] in ".?!:;," else f"{line}." for line in lines if line).removesuffix(".") + (
        "." if lines and lines[-1].endswith(".") else ""
    )
    spoken = english_words(text) if english else text
    spoken = " ".join(_UNSPOKEN.sub(" ", spoken).split())
    if not any(c.isalnum() for c in spoken):
        raise InputError("field question: no words to synthesize")
    check_no_word_lost(text, spoken)
    return re.sub(r"\s+([.,?!;:])", r"\1", spoken)


def _without_html(text: str) -> str:
    """Without HTML tags; <EXIT>, and the b in a<b>c, which has no </b>, are kept."""
    names = {(tag[1], tag[2].lower()) for tag in _TAG.finditer(text)}

    def replacement(tag: re.Match[str]) -> str:
        end, name, attributes, self_closing = tag[1], tag[2].lower(), tag[3], tag[4]
        within = text[: tag.start()][-1:].isalnum() and text[tag.end() :][:1].isalnum()
        paired = ("" if end else "/", name) in names
        unpaired = name in _UNPAIRED and not (within and len(name) == 1)
        return " " if name in _HTML and (paired or unpaired or attributes or self_closing or end) else tag[0]

    return _TAG.sub(replacement, text)


def _spelled_address(address: str) -> str:
    """An address with the names of its symbols."""
    return re.sub(r"[^\w\s]|_", lambda m: f" {_URL_SIGNS.get(m[0], '')} ", address)


def _named_option(option: re.Match[str], english: bool) -> str:
    return f"Option {option[1]} is {option[2]}." if english else f"{option[1]}: {option[2]}."


def _without_latex(text: str) -> str:
    """The text with formulas, and commands outside of formulas with their arguments, as plain symbols."""
    text = _FRACTION.sub(r"\\frac", text)
    parts, at = [], 0
    while found := _MATH.search(text, at):
        if formula := found[1] or found[2]:
            spoken, end = _plain_math(formula).replace("-", "−"), found.end()  # a minus sign is no range
        else:
            latex = _command(text, found.start())
            formula, spoken, end = latex, _plain_math(latex), found.start() + len(latex)
        check_no_word_lost(_LATEX_SYNTAX.sub(" ", formula), spoken)
        parts += [text[at : found.start()], spoken]
        at = end
    return "".join([*parts, text[at:]])


def _command(text: str, start: int) -> str:
    """The command at `start` with its arguments: nested braces, [3], or the next character."""
    from pylatexenc.latexwalker import LatexWalker

    try:
        _, _, length = LatexWalker(text, tolerant_parsing=False).get_latex_nodes(start, read_max_nodes=1)
    except Exception as error:
        raise InputError(_NO_WORDS) from error
    return text[start : start + length].rstrip()


def _plain_math(latex: str) -> str:
    try:
        # tolerant parsing of unclosed braces takes time exponential in their depth
        text = _latex().latex_to_text(latex, tolerant_parsing=False)
        return re.sub(r"\{(-?\d+)\}", r"\1", text).translate(_BRACKETS)
    except Exception as error:  # without its arguments a command makes pylatexenc raise nearly anything
        raise InputError(_NO_WORDS) from error


@cache
def _latex() -> Any:
    from pylatexenc.latex2text import LatexNodes2Text, MacroTextSpec, get_default_latex_context_db

    known = get_default_latex_context_db()
    ours = [MacroTextSpec("sqrt", _root), MacroTextSpec("frac", _fraction)]
    ours += [MacroTextSpec(name, symbol) for name, symbol in _MACROS.items()]
    known.add_context_category("selfkd", macros=ours, prepend=True)
    known.set_unknown_macro_spec(MacroTextSpec("", _unknown))
    return LatexNodes2Text(
        math_mode="text",
        latex_context=known,
        strict_latex_spaces="based-on-source",
        keep_braced_groups=True,
        keep_braced_groups_minlen=2,
    )


def _unknown(node: Any) -> str:
    if node.macroname in _FORMATTING:
        return ""
    raise InputError(f"{_NO_WORDS} (\\{node.macroname})")


def _root(node: Any, l2tobj: Any) -> str:
    """A root with its degree, which pylatexenc leaves out."""
    degree, under = node.nodeargd.argnlist
    sign = _ROOTS.get(l2tobj.nodelist_to_text([degree]).strip("[] ") if degree else "2")
    if under is None or sign is None:
        raise InputError(_NO_WORDS)
    return f"{sign}({_argument(under, l2tobj)})"


def _fraction(node: Any, l2tobj: Any) -> str:
    above, below = (_argument(part, l2tobj) for part in node.nodeargd.argnlist)
    if above.isdecimal() and below.isdecimal() and is_fraction(int(above), int(below)):
        return f"{above}/{below} "  # wetext spells it as one half
    above, below = (p if re.fullmatch(r"\w+|[√∛∜]\([^()]*\)", p) else f"({p})" for p in (above, below))
    return f"{above}∕{below} "


def _argument(node: Any, l2tobj: Any) -> str:
    return re.sub(r"^\{(.*)\}$", r"\1", l2tobj.nodelist_to_text([node]))
