"""Free replies -> yes or no, or the letter of an option; None where a reply says neither, or several of them.

One rule for every benchmark. It is more patient than most official scripts, which read the first letters of a reply
alone: a model that answers in a sentence is not to lose by its style, in neither view.
"""

import re
from collections.abc import Iterable, Mapping

LETTERS = "ABCDEFGH"
_MOST_WORDS = 30  # a reply with more, beyond the words of the option itself, describes and does not choose
_FIRST = re.compile(r"\W*(yes|no)\b(?:(?:\s*/\s*|\s+(?:or|and)\s+)(yes|no)\b)?")
# letters may touch signs of other scripts ("答案是B") but no Latin ones
_START, _END = r"(?<![A-Za-z0-9'’])", r"(?![A-Za-z0-9'’])"
_DECLARED = re.compile(
    rf"\b(?i:(?:answer|choice)(?:\s+is|\s*[:=])|it(?:\s+is|['’]s))\s*(?i:option|choice)?[\s:*(\[\"']*([A-H]){_END}"
)
# what the reply opens with, whatever is explained after it, and a list of options said back, which chooses none
_LEADING = re.compile(r"[\W_]*([A-H])(?=[\W_]*(?:\n|$)|[)\]*.,:;](?:[\s*]|$)|\s+\(|\s+(?:because|since)\b)")
_LISTED = re.compile(r"(?:^|[\n,;…])\s*[(\[]?([A-H])(?=[.,):\]]|\s*(?:\n|$)|\s+(?:and|or)\b)")
_MARKED = re.compile(
    rf"[(\[]\s*([A-Ha-h])\s*[)\]]|\b(?i:option|choice)\s+([A-H]{_END}|[a-h](?=\s*(?:$|[.,;:)!])))|\*\*([A-H])\b"
    rf"|{_START}([A-H])(?:[):.](?=\s|\*|$)|[):])"
)
_BARE = re.compile(rf"{_START}([A-H]){_END}")
# before a word, or before an option's text, which is "…" by then
_ARTICLE = re.compile(r"\bA(?=\s+(?!(?:because|since|as|is|and|or)\b)[a-z…])")


def yes_or_no(reply: str) -> str | None:
    """The word a reply begins with, or the only one of the two that it holds. "Yes or no" is neither."""
    text = reply.lower().strip()
    if text.rstrip(".") in ("y", "n"):
        return "yes" if text[0] == "y" else "no"
    first = _FIRST.match(text)
    if first:
        return None if first[2] and first[2] != first[1] else first[1]
    return only(re.findall(r"\b(?:yes|no)\b", text))


def chosen_letter(reply: str, options: Mapping[str, str]) -> str | None:
    """The letter that a reply chooses among `options` ({letter: text}; texts may be "" where they are not known).

    In this order: the letter alone; an option's text alone; "the answer is B", "it is B"; "B" or "B. text" at the
    beginning, unless the list goes on; "(B)", "Option B", "B. text" anywhere; a lone capital; the only option whose
    text the reply holds. The first of them that occurs decides, and where it names several letters the reply chooses
    none.
    """
    texts = {letter: _plain(text) for letter, text in options.items() if _plain(text)}
    alone = re.fullmatch(r"[\W_]*([A-Za-z])[\W_]*", reply)
    if alone and alone[1].upper() in options:
        return alone[1].upper()
    whole = [letter for letter, text in texts.items() if text == _plain(reply)]
    if whole:
        return only(whole)
    # letters within an option's own words ("vitamin C") are no choice of C
    said, held = _without_texts(reply, texts)
    long = len(reply.split()) > _MOST_WORDS + max((len(text.split()) for text in texts.values()), default=0)
    said = _ARTICLE.sub(" ", said)
    leading, listed = _LEADING.match(said), set(_LISTED.findall(said))
    opening = {leading[1]} if leading and listed <= {leading[1]} else set()
    for letters in (_letters(_DECLARED, said), opening, _letters(_MARKED, said), _letters(_BARE, "" if long else said)):
        if letters & set(options):
            return only(letters & set(options))
    return None if long else only(held)


def options_of(question: str) -> dict[str, str]:
    """{letter: text} of options within a question: lines "A. text", or MMStar's "Options: A: text, B: text"."""
    text = question[max(question.rfind("Options:"), question.rfind("Choices:"), 0) :]
    marks: list[re.Match[str]] = []
    for letter in LETTERS:
        mark = re.compile(rf"(?:^|[\s,;])\(?{letter}[.:)]\s*", re.MULTILINE).search(
            text, marks[-1].end() if marks else 0
        )
        if mark is None:
            break
        marks.append(mark)
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    parts = [text[mark.end() : end] for mark, end in zip(marks, ends, strict=False)]
    if len(marks) < 2:
        return {}
    parts[-1] = parts[-1].split("\n")[0]
    return {letter: " ".join(part.split()).strip(" ,;.") for letter, part in zip(LETTERS, parts, strict=False)}


def _without_texts(reply: str, texts: Mapping[str, str]) -> tuple[str, list[str]]:
    """The reply without the options' texts, and the letters of those that it held; the longest first, so that "red" is
    not found within "dark red". Texts of one sign stay: they are letters and digits themselves."""
    said, held = reply, []
    for letter, text in sorted(texts.items(), key=lambda item: -len(item[1])):
        words = r"\s+".join(map(re.escape, text.split()))
        rest = re.sub(rf"(?i)(?<!\w){words}(?!\w)", " … ", said)
        if rest != said:
            held.append(letter)
            said = rest if len(text) > 1 else said
    return said, held


def _letters(pattern: re.Pattern[str], said: str) -> set[str]:
    return {letter.upper() for found in pattern.finditer(said) for letter in found.groups() if letter}


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .,;:!\"'*")


def only(found: Iterable[str]) -> str | None:
    """The one that was found; None where there was none, or several."""
    different = set(found)
    return different.pop() if len(different) == 1 else None
