"""A response as parts: words, signs, cues (wording.py), and where an option is named by its letter or its text.

Whether a single letter is an option's, an article or a piece of a word is told by what stands around it, never by which
letter it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfkd.evaluation.benchmarks.cue_words import (
    ADJECTIVES,
    ARTICLES,
    NAMED,
    OPTION_WORDS,
    cue_at,
    is_cjk,
    is_verb,
    may_follow,
    tokens_of,
)

Texts = Mapping[str, Sequence[tuple[list[str], str]]]  # {first word: [(words, letter of the option)]}, longest first

LETTERS = "ABCDEFGH"
# how much a naming weighs: said in passing; "(B)", "Option B"; declared, or said alone; "so it is B"; "final answer: B"
PASSING, MARKED, DECLARED, CONCLUDED, FINAL = range(1, 6)
_OPENING, _CLOSING = set("([{<*_`【「『"), set(")]}>*_`】」』")
_WRAPPING = _OPENING | _CLOSING | set("\"'’‘“”«»$\\#~")
ENDS = set(".!?;\n。！？；")
_BULLETS = set("-•·–")
_NAMING = "⟨option⟩"  # the text of every naming: which it is must not count


@dataclass
class Naming:
    letters: list[str]  # several where they are enumerated
    is_letter: bool  # whether one of them stands as a letter; else they are named by their options' texts
    weight: int = PASSING
    denials: int = 0
    affirmed: bool = False

    @property
    def rejected(self) -> bool:
        return self.denials % 2 == 1


@dataclass
class Part:
    """A word, a sign, a cue or a naming, in the order in which they stand."""

    kind: str  # "word", "sign", "naming", or what a cue does
    text: str
    naming: Naming | None = None
    mark: bool = False  # of a letter: in brackets or bold, or after "option"
    label: bool = False  # of a letter: "B.", "B)" at the beginning of a sentence


def _texts(options: Mapping[str, str]) -> Texts:
    """{first word: [(words, letter), ...]} of the options' texts, the longest first. One that is itself a letter of an
    option is no text: the letter is the option's."""
    found: dict[str, list[tuple[list[str], str]]] = {}
    for letter, text in options.items():
        words = [t.word for t in tokens_of(text) if t.word not in _WRAPPING]
        while words and words[-1] in ENDS:
            words.pop()
        if words and "".join(words).upper() not in LETTERS:
            found.setdefault(words[0], []).append((words, letter))
    return {first: sorted(some, key=lambda item: -len(item[0])) for first, some in found.items()}


def parts_of(response: str, options: Mapping[str, str]) -> list[Part]:
    """`options` is {letter: text}."""
    reader = _Reader(response, _texts(options))
    at = 0
    while at < len(reader.words):
        at += reader.read(at)
    return reader.parts


class _Reader:
    """What a response says from its beginning to a place in it."""

    def __init__(self, response: str, texts: Texts):
        self.raw = tokens_of(response)
        self.kept = [at for at, token in enumerate(self.raw) if token.word not in _WRAPPING]
        self.words = [self.raw[at].word for at in self.kept]
        # to every rule a letter is a letter, whichever it is: an "a" that is no option's is what a "b" would be
        self.plain = ["a" if len(word) == 1 and word.upper() in LETTERS else word for word in self.words]
        self.texts = texts
        self.parts: list[Part] = []

    def read(self, at: int) -> int:
        """Adds what stands at this place to the parts; returns how many words it has."""
        text = self.text_at(at)
        is_letter = self.is_option_letter(at)
        if text and (len(text[0]) > 1 or not is_letter):
            same = [letter for held, letter in self.texts[self.words[at]] if held == text[0]]
            self.parts.append(Part("naming", _NAMING, Naming(same, is_letter=False)))
            return len(text[0])
        if is_letter:
            self.parts.append(self._letter(at))
            return 1
        cue = cue_at(self.plain, at)
        if cue:
            self.parts.append(Part(cue[0] or "word", " ".join(self.plain[at : at + cue[1]])))
            return cue[1]
        self.parts.append(Part("word" if self.words[at][0].isalnum() else "sign", self.plain[at]))
        return 1

    def _letter(self, at: int) -> Part:
        letter, after_option = (
            self.raw[self.kept[at]].text.upper(),
            bool(self.parts) and self.parts[-1].text in OPTION_WORDS,
        )
        before, after = self._around(at)
        dotted = self.words[at + 1 : at + 2] in ([":"], ["."])
        own = self.text_at(at + 2) if dotted else None
        label = (own is not None and own[1] == letter) or ((dotted or after == ")") and self._begins())
        mark = (before in _OPENING and after in _CLOSING) or after_option
        return Part("naming", _NAMING, Naming([letter], is_letter=True), mark, label)

    def text_at(self, at: int) -> tuple[list[str], str] | None:
        """(words, letter) of the longest option's text that stands at this place, as words of their own."""
        for text, letter in self.texts.get(self.words[at], ()) if at < len(self.words) else ():
            if self.words[at : at + len(text)] == text and not self._compound(at, at + len(text) - 1):
                return text, letter
        return None

    def _around(self, at: int) -> tuple[str, str]:
        """The signs or words before and after, brackets too."""
        place = self.kept[at]
        before = self.raw[place - 1].text if place else ""
        return before, self.raw[place + 1].text if place + 1 < len(self.raw) else ""

    def _touching(self, at: int, step: int) -> list[str]:
        """What touches the word on one side without a space: at most two words or signs."""
        found: list[str] = []
        place = self.kept[at]
        while len(found) < 2 and 0 <= place + step < len(self.raw):
            near, far = sorted((self.raw[place], self.raw[place + step]), key=lambda token: token.start)
            if near.end != far.start:
                break
            found.append(self.raw[place + step].text)
            place += step
        return found

    def _compound(self, first: int, last: int) -> bool:
        """Whether the words from the first to the last are a part of a longer one: "cat-like", "B-17"."""
        sides = self._touching(first, -1), self._touching(last, 1)
        return any(len(side) == 2 and side[0] == "-" and side[1][0].isalnum() for side in sides)

    def _begins(self) -> bool:
        """Whether what comes next begins a sentence, or a list's entry."""
        for part in reversed(self.parts):
            if part.text in ENDS:
                return True
            if part.text not in _BULLETS and part.text not in OPTION_WORDS:
                return False
        return True

    def is_option_letter(self, at: int) -> bool:
        """Whether the word is a letter of an option, by what stands around it and never by which letter it is."""
        token = self.raw[self.kept[at]]
        if len(token.text) != 1 or token.text.upper() not in LETTERS or self._is_part_of_a_word(at):
            return False
        before, after = self._around(at)
        previous = self.parts[-1] if self.parts else None
        if previous and previous.text in NAMED:
            return False
        following = self.plain[at + 1] if at + 1 < len(self.plain) else ""
        ends = not following or not following[0].isalnum()
        marked = before in _OPENING and after in _CLOSING
        after_option = previous is not None and previous.text in OPTION_WORDS and previous.text != "answer"
        if token.text.islower():
            declared = previous is not None and (
                previous.kind in ("declare", "is", "final") or previous.text in (":", "-", "=")
            )
            label = (after == ")" or following in (".", ":")) and self._begins()
            alone = all(word in ENDS for word in self.words[at + 1 : at + 5]) and self._begins()
            ends = ends or is_cjk(following) or following in ("because", "since", "as", "or", "and")
            subject = following in ("is", "isn't") and (after_option or self._begins())
            return marked or label or alone or subject or (ends and (after_option or declared))
        if marked or after_option or ends or is_cjk(following) or (after in _CLOSING and after != "_"):
            return True
        own = self.text_at(at + 1)
        if own is not None:
            return own[1] == token.text
        enumerated = self.parts[-2].naming if len(self.parts) > 1 and self.parts[-1].kind == "and" else None
        if enumerated and enumerated.is_letter:
            return True
        return not following[0].isdigit() and self._is_no_article(at, following)

    def _is_part_of_a_word(self, at: int) -> bool:
        """ "A-frame", "U.S.A.", "C++", "N/A", "A's": but "B+C" and "A/B" name two options, and "B.dog" one."""
        before, after = self._touching(at, -1), self._touching(at, 1)
        if after and after[0] in "-+#'.@/":
            beyond = after[1] if len(after) > 1 and after[1][0].isalnum() and not is_cjk(after[1]) else ""
            other = len(beyond) == 1 and beyond.upper() in LETTERS
            if (after[0] in "+#@" and not other) or (
                beyond
                and not ((after[0] in "+/" and other) or (after[0] == "." and len(beyond) > 1 and self._begins()))
            ):
                return True
        if len(before) == 2 and before[0] in "-.+'@/" and before[1][-1].isalnum() and not is_cjk(before[1]):
            return not (before[0] in "+/" and bool(self.parts[-2:-1]) and self.parts[-2].naming is not None)
        return False

    def _is_no_article(self, at: int, following: str) -> bool:
        """Of a capital before a word: whether that word shows that it is neither an article nor a name's part."""
        if following == "a":  # another letter
            return self.raw[self.kept[at + 1]].text.isupper() and not self._compound(at + 1, at + 1)
        begins = self._begins()
        if not begins and is_verb(following) and self.parts[-1].text not in ARTICLES:
            return True
        cue = cue_at(self.plain, at + 1)
        if cue is None or following in ADJECTIVES:
            return may_follow(self.plain, at + 1)
        if cue[0] == "and":
            return self.plain[at + 2 : at + 3] != ["half"] and not (
                self.plain[at + 2 : at + 3] == ["a"] and self.raw[self.kept[at + 2]].text.islower()
            )
        return cue[0] != "declare" and following not in ("answer", "choice")
