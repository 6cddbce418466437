"""Where a response names options, and whether it chooses or rejects them there.

The response is cut into sentences, a sentence into the options that it names ("A, B or C" is one naming of three) and
the words that deny or affirm them (wording.py). Each denial belongs to one naming: the one right after it ("not A",
"rather than B"), the one that it is said of ("A is wrong"), or the next in its clause ("I do not think that it is A").
An even number of denials denies nothing. All letters are read alike: renaming them renames what is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from selfkd.evaluation.benchmarks.wording import (
    ADJECTIVES,
    AGREEING,
    ARTICLES,
    FILLERS,
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
_ENDS = set(".!?;\n。！？；")
_BULLETS = set("-•·–")
_NAMING = "⟨option⟩"  # the text of every naming: which it is must not count
_JOINING = set(",/&+|、-–—:")
_NEAR = 12  # words across which a denial reaches
_DENYING = ("not", "no", "wrong", "reject", "instead")


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


@dataclass
class Sentence:
    parts: list[Part] = field(default_factory=list)
    asks: bool = False
    alone: bool = False  # its first naming stands alone in it

    @property
    def first(self) -> Naming | None:
        return next((part.naming for part in self.parts if part.naming), None)

    @property
    def lists(self) -> bool:
        """Whether it is an entry of a list of options: a letter alone, with or without its text, and no verdict."""
        return self.alone and self.first is not None and self.first.is_letter and not self.first.rejected


def sentences_of(response: str, options: Mapping[str, str]) -> list[Sentence]:
    """The sentences of a response, their namings weighed, and denied or not. `options` is {letter: text}."""
    sentences = _cut(_parts(response, _texts(options)))
    for at, sentence in enumerate(sentences):
        _join(sentence)
        _deny(sentence)
        _weigh(sentence, is_first=not at)
        if at and not sentence.first and sentences[at - 1].asks:
            _answer(sentence, sentences[at - 1])
    return sentences


def _texts(options: Mapping[str, str]) -> Texts:
    """{first word: [(words, letter), ...]} of the options' texts, the longest first. One that is itself a letter of an
    option is no text: the letter is the option's."""
    found: dict[str, list[tuple[list[str], str]]] = {}
    for letter, text in options.items():
        words = [t.word for t in tokens_of(text) if t.word not in _WRAPPING]
        while words and words[-1] in _ENDS:
            words.pop()
        if words and "".join(words).upper() not in LETTERS:
            found.setdefault(words[0], []).append((words, letter))
    return {first: sorted(some, key=lambda item: -len(item[0])) for first, some in found.items()}


def _parts(response: str, texts: Texts) -> list[Part]:
    reader = _Reader(response, texts)
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
            if part.text in _ENDS:
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
            alone = all(word in _ENDS for word in self.words[at + 1 : at + 5]) and self._begins()
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


def _cut(parts: Sequence[Part]) -> list[Sentence]:
    sentences = [Sentence()]
    for part in parts:
        own = sentences[-1].parts
        if part.text in _ENDS:
            if part.text == "." and own and own[-1].label and len([p for p in own if p.naming]) == 1:
                own.append(Part("sign", "label."))
                continue
            sentences[-1].asks = part.text == "?"
            if own:
                sentences.append(Sentence())
        else:
            own.append(part)
    return [sentence for sentence in sentences if sentence.parts]


def _join(sentence: Sentence) -> None:
    """Makes one naming of an enumeration, and of a letter with its own text."""
    joined: list[Part] = []
    between: list[Part] = []
    conjunction = ""
    after = [*sentence.parts, None]
    for position, part in enumerate(sentence.parts):
        last = joined[-1] if joined else None
        if part.naming is None:
            if last and last.naming and _may_join(part):
                between.append(part)
            else:
                joined += [*between, part]
                between, conjunction = [], ""
            continue
        signs = [p.text for p in between if p.text not in FILLERS]
        words = [p.text for p in between if p.kind in ("and", "not")]
        if last and last.naming and last.naming.letters == part.naming.letters:
            last.naming.is_letter |= part.naming.is_letter
            last.mark |= part.mark
        elif last and last.naming and _enumerates(signs, words, conjunction, joined[-2:-1], after[position + 1]):
            last.naming.letters += part.naming.letters
            last.naming.is_letter |= part.naming.is_letter
            last.mark = last.mark or part.mark
            conjunction = words[0] if words else conjunction
        else:
            joined += [*between, part]
            conjunction = ""
        between = []
    sentence.parts = [*joined, *between]


def _may_join(part: Part) -> bool:
    return (
        part.kind == "and"
        or part.text in _JOINING
        or part.text == "label."
        or part.text in ("nor", "ni", "noch", "or", "nem", "a", "an", "the", "la", "el", "die", "der", "das", "le")
        or part.text in OPTION_WORDS
    )


def _enumerates(
    signs: Sequence[str], words: Sequence[str], conjunction: str, before: Sequence[Part], after: Part | None
) -> bool:
    """Whether a naming goes on that of the one before: by what stands between, before and after them."""
    if "label." in signs or (conjunction and not words):
        return False
    if words or any(sign in ("/", "&", "+", "|", "、") for sign in signs):
        return True
    if before and before[0].kind in _DENYING:  # "unlike B, C": what is denied ends at the comma
        return False
    predicate = after is not None and after.text in ("is", "isn't", "fits", "fails", "est", "es", "ist", "was")
    return not (predicate and "," in signs)


def _deny(sentence: Sentence) -> None:
    """Counts each denial with the naming that it belongs to, and notes which are affirmed."""
    parts = sentence.parts
    named = [(at, part.naming) for at, part in enumerate(parts) if part.naming]
    passed = 0
    for at, part in enumerate(parts):
        if part.kind not in (*_DENYING, "right"):
            continue
        if part.text in AGREEING and any(p.kind == "not" for p in parts[max(at - 2, 0) : at]):
            continue  # "ce n'est ni A ni B": one denial in two words
        while passed < len(named) and named[passed][0] < at:
            passed += 1
        before = named[passed - 1] if passed else None
        after = named[passed] if passed < len(named) else None
        if part.kind == "instead":
            _contrast(parts, at, before, after)
            continue
        said = before is not None and _said_of(parts, before[0], at)
        if part.kind == "right":
            if before and said:
                before[1].affirmed = True
        elif after and part.kind != "wrong" and _adjacent(parts, at, after[0]):
            after[1].denials += 1
        elif before and said and _closes(parts, at, before[0]):
            before[1].denials += 1
        elif after and _reaches(parts, at, after[0]):
            after[1].denials += 1


def _contrast(
    parts: Sequence[Part], at: int, before: tuple[int, Naming] | None, after: tuple[int, Naming] | None
) -> None:
    """ "A rather than B", "A is less likely than B" """
    if after is None or not _adjacent(parts, at, after[0]):
        return
    if before and any(p.kind == "less" for p in parts[max(before[0], at - _NEAR) : at]):
        before, after = after, before
    after[1].denials += 1
    if before:
        before[1].affirmed = True


def _adjacent(parts: Sequence[Part], at: int, naming: int) -> bool:
    return naming - at <= _NEAR and all(p.text in FILLERS for p in parts[at + 1 : naming])


def _closes(parts: Sequence[Part], at: int, naming: int) -> bool:
    """Whether a denial after a naming is said of it: "A is wrong", "A is not ...", "A: no"."""
    part, previous = parts[at], parts[at - 1]
    is_last = at + 1 == len(parts) or parts[at + 1].text in (",", ":", ")")
    verb = naming == at - 1 or previous.kind == "is" or previous.text in FILLERS or part.text.endswith("'t")
    return part.kind == "wrong" or is_last or (part.kind == "not" and verb)


def _said_of(parts: Sequence[Part], naming: int, at: int) -> bool:
    """Whether what stands at `at` is said of the naming: only words of no weight stand between."""
    if at - naming > _NEAR:
        return False
    between = parts[naming + 1 : at]
    if any(p.text == "label." for p in between):
        return len(between) == 1
    return all(
        p.text in FILLERS or p.kind in ("is", *_DENYING, "right") or p.text in (":", "-", "–", "—", "both")
        for p in between
    )


def _reaches(parts: Sequence[Part], at: int, naming: int) -> bool:
    """Whether what is denied may be the next naming: no other thought begins before it."""
    if parts[at].kind == "wrong" and naming == at + 2 and parts[at + 1].text == ":":  # "Wrong: A"
        return True
    return naming - at <= _NEAR and not any(
        p.kind in ("but", "and", "so", "final", "correction") or p.text in (",", ":", "-", "–", "—")
        for p in parts[at + 1 : naming]
    )


def _weigh(sentence: Sentence, is_first: bool) -> None:
    parts = sentence.parts
    concluded = final = declared = hedged = False
    first = True
    for at, part in enumerate(parts):
        if part.naming is None:
            concluded |= part.kind == "so"
            final |= part.kind == "final"
            declared |= part.kind in ("declare", "right")
            hedged |= part.kind == "perhaps"
            if part.kind == "but" or part.text == ",":
                hedged = False
            continue
        naming = part.naming
        near = parts[max(at - 2, 0) : at]
        copula = any(p.kind == "is" for p in near) and all(p.kind == "is" or p.text in FILLERS for p in near[-1:])
        leads = is_first and first and all(p.text in OPTION_WORDS or p.kind == "sign" for p in parts[:at])
        alone = first and all(p is part or p.kind in ("sign", "right", "is", "so") or p.text in FILLERS for p in parts)
        hedged |= any(p.kind == "perhaps" for p in parts[at + 1 : at + 4]) and not declared
        if part.mark:
            naming.weight = MARKED
        if (leads or alone) and len(naming.letters) == 1:
            naming.weight = DECLARED
            sentence.alone = True
        if (declared or copula or naming.affirmed) and not naming.rejected:
            naming.weight, sentence.alone = DECLARED, False
        if (hedged or sentence.asks) and naming.weight >= DECLARED:
            naming.weight = PASSING
        elif concluded and not naming.rejected:
            naming.weight = CONCLUDED
        if final and not naming.rejected:
            naming.weight = FINAL
        declared = hedged = final = False
        first = False


def _answer(sentence: Sentence, question: Sentence) -> None:
    """ "A? No." """
    verdict = sentence.parts[0].kind
    for naming in [part.naming for part in question.parts if part.naming][-1:]:
        if verdict in ("no", "not", "wrong"):
            naming.denials += 1
        elif verdict == "right":
            naming.affirmed, naming.weight = True, DECLARED
