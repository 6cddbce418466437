"""A response as a list of parts: words, punctuation, cues (cue_words.py), and mentions of options by letter or by text.

Whether a single letter is that of an option, an article or part of a word depends on its context, never on which letter
it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfkd.evaluation.benchmarks.cue_words import (
    ADJECTIVES,
    ARTICLES,
    LABELED_THINGS,
    OPTION_WORDS,
    cue_at,
    follows_option_letter,
    is_cjk,
    is_verb,
    tokens_of,
)

OptionTexts = Mapping[str, Sequence[tuple[list[str], str]]]  # {first word: [(words, option letter)]}, longest first

LETTERS = "ABCDEFGH"
# weights of a mention: in passing; "(B)", "Option B"; declared, or by itself; "so it is B"; "final answer: B"
PASSING, MARKED, DECLARED, CONCLUDED, FINAL = range(1, 6)
_OPENING, _CLOSING = set("([{<*_`【「『"), set(")]}>*_`】」』")
_WRAPPING = _OPENING | _CLOSING | set("\"'’‘“”«»$\\#~")
ENDS = set(".!?;\n。！？；")
_BULLETS = set("-•·–")
_MENTION = "⟨option⟩"  # the text of every mention: rules must not depend on which option it is


@dataclass
class Mention:
    """One or more options at one position of a response."""

    letters: list[str]  # several in an enumeration
    is_letter: bool  # whether one of them is mentioned by its letter, not by its text
    weight: int = PASSING
    denials: int = 0
    affirmed: bool = False

    @property
    def rejected(self) -> bool:
        return self.denials % 2 == 1


@dataclass
class Part:
    """A word, a punctuation mark, a cue or a mention, in the order of the response."""

    role: str  # "word", "punctuation", "mention", or the role of a cue
    text: str
    mention: Mention | None = None
    mark: bool = False  # a letter in brackets or bold, or after "option"
    label: bool = False  # a letter as in "B.", "B)" at the start of a sentence


def _index_option_texts(options: Mapping[str, str]) -> OptionTexts:
    """{first word: [(words, letter), ...]} of the option texts, the longest first. A text that is a single option
    letter is left out: there the letter is the mention."""
    index: dict[str, list[tuple[list[str], str]]] = {}
    for letter, text in options.items():
        words = [t.word for t in tokens_of(text) if t.word not in _WRAPPING]
        while words and words[-1] in ENDS:
            words.pop()
        if words and "".join(words).upper() not in LETTERS:
            index.setdefault(words[0], []).append((words, letter))
    return {first: sorted(texts, key=lambda text: -len(text[0])) for first, texts in index.items()}


def parts_of(response: str, options: Mapping[str, str]) -> list[Part]:
    """`options` is {letter: text}."""
    reader = _PartReader(response, _index_option_texts(options))
    at = 0
    while at < len(reader.words):
        at += reader.read(at)
    return reader.parts


class _PartReader:
    """Reads the parts of a response from its start."""

    def __init__(self, response: str, texts: OptionTexts):
        self.raw = tokens_of(response)
        self.kept = [at for at, token in enumerate(self.raw) if token.word not in _WRAPPING]
        self.words = [self.raw[at].word for at in self.kept]
        # rules must not depend on the letter: an "a" that is no option is treated as a "b" would be
        self.plain = ["a" if len(word) == 1 and word.upper() in LETTERS else word for word in self.words]
        self.texts = texts
        self.parts: list[Part] = []

    def read(self, at: int) -> int:
        """Adds the part at this position; returns its number of words."""
        text = self.option_text_at(at)
        is_letter = self.is_option_letter(at)
        if text and (len(text[0]) > 1 or not is_letter):
            same = [letter for held, letter in self.texts[self.words[at]] if held == text[0]]
            self.parts.append(Part("mention", _MENTION, Mention(same, is_letter=False)))
            return len(text[0])
        if is_letter:
            self.parts.append(self._letter_part(at))
            return 1
        cue = cue_at(self.plain, at)
        if cue:
            self.parts.append(Part(cue[0] or "word", " ".join(self.plain[at : at + cue[1]])))
            return cue[1]
        self.parts.append(Part("word" if self.words[at][0].isalnum() else "punctuation", self.plain[at]))
        return 1

    def _letter_part(self, at: int) -> Part:
        letter, after_option = (
            self.raw[self.kept[at]].text.upper(),
            bool(self.parts) and self.parts[-1].text in OPTION_WORDS,
        )
        before, after = self._neighbors(at)
        dotted = self.words[at + 1 : at + 2] in ([":"], ["."])
        following_text = self.option_text_at(at + 2) if dotted else None
        label = (following_text is not None and following_text[1] == letter) or (
            (dotted or after == ")") and self._starts_sentence()
        )
        mark = (before in _OPENING and after in _CLOSING) or after_option
        return Part("mention", _MENTION, Mention([letter], is_letter=True), mark, label)

    def option_text_at(self, at: int) -> tuple[list[str], str] | None:
        """(words, letter) of the longest option text at this position that is not part of a longer word."""
        for text, letter in self.texts.get(self.words[at], ()) if at < len(self.words) else ():
            if self.words[at : at + len(text)] == text and not self._is_part_of_compound(at, at + len(text) - 1):
                return text, letter
        return None

    def _neighbors(self, at: int) -> tuple[str, str]:
        """The words or marks before and after, brackets included."""
        position = self.kept[at]
        before = self.raw[position - 1].text if position else ""
        return before, self.raw[position + 1].text if position + 1 < len(self.raw) else ""

    def _attached(self, at: int, step: int) -> list[str]:
        """At most two words or marks on one side of the word without a space between."""
        found: list[str] = []
        position = self.kept[at]
        while len(found) < 2 and 0 <= position + step < len(self.raw):
            near, far = sorted((self.raw[position], self.raw[position + step]), key=lambda token: token.start)
            if near.end != far.start:
                break
            found.append(self.raw[position + step].text)
            position += step
        return found

    def _is_part_of_compound(self, first: int, last: int) -> bool:
        """Whether the words from first to last are part of a longer one: "cat-like", "B-17"."""
        sides = self._attached(first, -1), self._attached(last, 1)
        return any(len(side) == 2 and side[0] == "-" and side[1][0].isalnum() for side in sides)

    def _starts_sentence(self) -> bool:
        """Whether the next part starts a sentence or a list entry."""
        for part in reversed(self.parts):
            if part.text in ENDS:
                return True
            if part.text not in _BULLETS and part.text not in OPTION_WORDS:
                return False
        return True

    def is_option_letter(self, at: int) -> bool:
        """Whether the word is an option letter, by its context and never by which letter it is."""
        token = self.raw[self.kept[at]]
        if len(token.text) != 1 or token.text.upper() not in LETTERS or self._is_part_of_a_word(at):
            return False
        before, after = self._neighbors(at)
        previous = self.parts[-1] if self.parts else None
        if previous and previous.text in LABELED_THINGS:
            return False
        following = self.plain[at + 1] if at + 1 < len(self.plain) else ""
        ends = not following or not following[0].isalnum()
        marked = before in _OPENING and after in _CLOSING
        after_option = previous is not None and previous.text in OPTION_WORDS and previous.text != "answer"
        if token.text.islower():
            declared = previous is not None and (
                previous.role in ("declare", "is", "final") or previous.text in (":", "-", "=")
            )
            label = (after == ")" or following in (".", ":")) and self._starts_sentence()
            is_last = all(word in ENDS for word in self.words[at + 1 : at + 5]) and self._starts_sentence()
            ends = ends or is_cjk(following) or following in ("because", "since", "as", "or", "and")
            subject = following in ("is", "isn't") and (after_option or self._starts_sentence())
            return marked or label or is_last or subject or (ends and (after_option or declared))
        if marked or after_option or ends or is_cjk(following) or (after in _CLOSING and after != "_"):
            return True
        following_text = self.option_text_at(at + 1)
        if following_text is not None:
            return following_text[1] == token.text
        enumerated = self.parts[-2].mention if len(self.parts) > 1 and self.parts[-1].role == "and" else None
        if enumerated and enumerated.is_letter:
            return True
        return not following[0].isdigit() and self._is_not_an_article(at, following)

    def _is_part_of_a_word(self, at: int) -> bool:
        """ "A-frame", "U.S.A.", "C++", "N/A", "A's": but "B+C" and "A/B" name two options, and "B.dog" one."""
        before, after = self._attached(at, -1), self._attached(at, 1)
        if after and after[0] in "-+#'.@/":
            beyond = after[1] if len(after) > 1 and after[1][0].isalnum() and not is_cjk(after[1]) else ""
            other = len(beyond) == 1 and beyond.upper() in LETTERS
            if (after[0] in "+#@" and not other) or (
                beyond
                and not (
                    (after[0] in "+/" and other) or (after[0] == "." and len(beyond) > 1 and self._starts_sentence())
                )
            ):
                return True
        if len(before) == 2 and before[0] in "-.+'@/" and before[1][-1].isalnum() and not is_cjk(before[1]):
            return not (before[0] in "+/" and bool(self.parts[-2:-1]) and self.parts[-2].mention is not None)
        return False

    def _is_not_an_article(self, at: int, following: str) -> bool:
        """Whether the word after a capital shows that it is neither an article nor part of a name."""
        if following == "a":  # another letter
            return self.raw[self.kept[at + 1]].text.isupper() and not self._is_part_of_compound(at + 1, at + 1)
        if not self._starts_sentence() and is_verb(following) and self.parts[-1].text not in ARTICLES:
            return True
        cue = cue_at(self.plain, at + 1)
        if cue is None or following in ADJECTIVES:
            return follows_option_letter(self.plain, at + 1)
        if cue[0] == "and":
            return self.plain[at + 2 : at + 3] != ["half"] and not (
                self.plain[at + 2 : at + 3] == ["a"] and self.raw[self.kept[at + 2]].text.islower()
            )
        return cue[0] != "declare" and following not in ("answer", "choice")
