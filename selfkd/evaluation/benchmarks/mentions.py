"""Where a response names options, and whether it chooses or rejects them there.

The response is cut into sentences, a sentence into the options that it names ("A, B or C" is one naming of three) and
the words that deny or affirm them (wording.py). Each denial belongs to one naming: the one right after it ("not A",
"rather than B"), the one that it is said of ("A is wrong"), or the next in its clause ("I do not think that it is A").
An even number of denials denies nothing. All letters are read alike: renaming them renames what is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from selfkd.evaluation.benchmarks.wording import (
    FILLERS,
    FOLLOWS,
    NAMED,
    OPTION_WORDS,
    Token,
    cue_at,
    is_cjk,
    may_follow,
    tokens_of,
)

LETTERS = "ABCDEFGH"
# how much a naming weighs: said in passing; "(B)", "Option B"; declared, or said alone; "so it is B"; "final answer: B"
PASSING, MARKED, DECLARED, CONCLUDED, FINAL = range(1, 6)
_OPENING, _CLOSING = set("([{<*_`【「『"), set(")]}>*_`】」』")
_WRAPPING = _OPENING | _CLOSING | set("\"'’‘“”«»$\\#~")
_ENDS = set(".!?;\n。！？；")
_JOINING = set(",/&+|、-–—:")
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
    def namings(self) -> list[Naming]:
        return [part.naming for part in self.parts if part.naming]


def sentences_of(response: str, options: Mapping[str, str]) -> list[Sentence]:
    """The sentences of a response, their namings weighed, and denied or not. `options` is {letter: text}."""
    sentences = _cut(_parts(tokens_of(response), _texts(options)))
    for at, sentence in enumerate(sentences):
        _join(sentence)
        _deny(sentence)
        _weigh(sentence, is_first=not any(s.namings for s in sentences[:at]) and not at)
        if at and not sentence.namings and sentences[at - 1].asks:
            _answer(sentence, sentences[at - 1])
    return sentences


def _texts(options: Mapping[str, str]) -> dict[str, list[tuple[list[str], str]]]:
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


def _parts(raw: list[Token], texts: Mapping[str, Sequence[tuple[list[str], str]]]) -> list[Part]:
    kept = [at for at, token in enumerate(raw) if token.word not in _WRAPPING]
    words = [raw[at].word for at in kept]
    parts: list[Part] = []
    at = 0
    while at < len(words):
        text = next((t for t in texts.get(words[at], ()) if words[at : at + len(t[0])] == t[0]), None)
        if text and (len(text[0]) > 1 or not _is_option_letter(raw, kept, words, at, parts, texts)):
            same = [letter for held, letter in texts[words[at]] if held == text[0]]
            parts.append(Part("naming", " ".join(text[0]), Naming(same, is_letter=False)))
            at += len(text[0])
            continue
        if _is_option_letter(raw, kept, words, at, parts, texts):
            before, after = _around(raw, kept[at])
            mark = (before in _OPENING and after in _CLOSING) or (bool(parts) and parts[-1].text in OPTION_WORDS)
            label = after == ")" or (at + 1 < len(words) and words[at + 1] in (".", ":"))
            naming = Naming([words[at].upper()], is_letter=True)
            parts.append(Part("naming", words[at], naming, mark, label and _begins(parts)))
            at += 1
            continue
        cue = cue_at(words, at)
        if cue:
            parts.append(Part(cue[0] or "word", " ".join(words[at : at + cue[1]])))
            at += cue[1]
        else:
            is_sign = not words[at][0].isalnum()
            parts.append(Part("sign" if is_sign else "word", words[at]))
            at += 1
    return parts


def _around(raw: Sequence[Token], at: int) -> tuple[str, str]:
    return raw[at - 1].text if at else "", raw[at + 1].text if at + 1 < len(raw) else ""


def _begins(parts: Sequence[Part]) -> bool:
    """Whether what comes next begins a sentence, or a list's entry."""
    for part in reversed(parts):
        if part.text in _ENDS:
            return True
        if part.text not in ("-", "•", "·", "–") and part.text not in OPTION_WORDS:
            return False
    return True


def _is_option_letter(
    raw: Sequence[Token], kept: Sequence[int], words: Sequence[str], at: int, parts: Sequence[Part], texts: Mapping
) -> bool:
    """Whether the word is a letter of an option, by what stands around it and never by which letter it is."""
    token = raw[kept[at]]
    if len(token.text) != 1 or words[at].upper() not in LETTERS:
        return False
    before, after = _around(raw, kept[at])
    touches_before = kept[at] > 0 and raw[kept[at] - 1].end == token.start
    touches_after = kept[at] + 1 < len(raw) and raw[kept[at] + 1].start == token.end
    beyond = raw[kept[at] + 2] if touches_after and kept[at] + 2 < len(raw) else None
    next_touches = beyond is not None and beyond.start == token.end + len(after) and beyond.text[0].isalnum()
    begins = _begins(parts)
    if touches_after and after in ("-", "+", "#", "'", ".", "@") and not is_cjk(beyond.text if beyond else "x"):
        joined = next_touches and after == "+" and len(beyond.text) == 1  # B+C
        entry = next_touches and after == "." and len(beyond.text) > 1 and begins  # B.dog
        if (next_touches and not (joined or entry)) or after in ("+", "#", "@") and not joined:
            return False
    if touches_before and before in "-.+'@" and kept[at] > 1 and raw[kept[at] - 2].end == raw[kept[at] - 1].start:
        if before != "+" and raw[kept[at] - 2].text[-1].isalnum() and not is_cjk(raw[kept[at] - 2].text):
            return False
    previous = parts[-1] if parts else None
    if previous and previous.text in NAMED:
        return False
    following = words[at + 1] if at + 1 < len(words) else ""
    after_option = previous is not None and previous.text in OPTION_WORDS and previous.text != "answer"
    marked = before in _OPENING and after in _CLOSING
    if token.text.islower():
        declared = previous is not None and (previous.kind in ("declare", "is", "final") or previous.text in ":-=")
        ends = not following or not following[0].isalnum() or following in ("because", "since", "as", "or", "and")
        label = begins and (after == ")" or following in (".", ":")) and not next_touches
        alone = begins and all(w in _ENDS for w in words[at + 1 :])
        return marked or label or alone or (ends and (after_option or declared))
    if marked or after_option or not following or not following[0].isalnum() or is_cjk(following):
        return True
    if after in _CLOSING and after != "_":
        return True
    own = next((t[1] for t in texts.get(following, ()) if words[at + 1 : at + 1 + len(t[0])] == t[0]), None)
    if own is not None:
        return own == token.text
    if following[0].isdigit():
        return False
    if len(following) == 1 and following.upper() in LETTERS and raw[kept[at + 1]].text.isupper():
        return True
    cue = cue_at(words, at + 1)
    if cue and following not in ("a", "first", "right", "false", "true", "correct", "best", "better", "wrong", "less"):
        return cue[0] != "declare" and (following not in FILLERS or following not in ("answer", "choice", "an"))
    return may_follow(words, at + 1)


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
    for part in sentence.parts:
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
        elif last and last.naming and _enumerates(sentence, last, part, signs, words, conjunction):
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
    sentence: Sentence, last: Part, part: Part, signs: Sequence[str], words: Sequence[str], conjunction: str
) -> bool:
    if "label." in signs or (conjunction and not words):
        return False
    if words or any(sign in ("/", "&", "+", "|", "、") for sign in signs):
        return True
    at = sentence.parts.index(last)
    before = sentence.parts[at - 1].kind if at else ""
    if before in ("not", "instead", "no", "reject"):  # "unlike B, C": what is denied ends at the comma
        return False
    position = next(i for i, p in enumerate(sentence.parts) if p is part)
    following = next((p for p in sentence.parts[position + 1 :]), None)
    predicate = following is not None and following.text in ("is", "isn't", "fits", "fails", "est", "es", "ist", "was")
    return not (predicate and "," in signs)


def _deny(sentence: Sentence) -> None:
    parts = sentence.parts
    at_of = [at for at, part in enumerate(parts) if part.naming]
    before = after = 0
    for at, part in enumerate(parts):
        if part.kind not in _DENYING and part.kind != "right":
            continue
        while before < len(at_of) and at_of[before] < at:
            before += 1
        after = before
        previous = at_of[before - 1] if before else None
        following = at_of[after] if after < len(at_of) else None
        if part.kind == "right":
            if previous is not None and _said_of(parts, previous, at):
                parts[previous].naming.affirmed = True
            continue
        adjacent = following is not None and all(p.text in FILLERS for p in parts[at + 1 : following])
        if part.kind == "instead":
            if adjacent:
                swap = previous is not None and any(p.kind == "less" for p in parts[previous:at])
                target, other = (previous, following) if swap else (following, previous)
                parts[target].naming.denials += 1
                if other is not None:
                    parts[other].naming.affirmed = True
            continue
        copula = at > 0 and (parts[at - 1].kind == "is" or parts[at - 1].text in FILLERS or part.text.endswith("'t"))
        said = previous is not None and _said_of(parts, previous, at)
        last_word = at + 1 == len(parts) or parts[at + 1].text in (",", ":", ")")
        if adjacent and part.kind in ("not", "reject", "no"):
            target = following
        elif said and (part.kind == "wrong" or (part.kind == "not" and (copula or last_word or not following))):
            target = previous
        elif said and part.kind == "no" and last_word:
            target = previous
        elif following is not None and _reaches(parts, at, following):
            target = following
        else:
            continue
        parts[target].naming.denials += 1


def _said_of(parts: Sequence[Part], naming: int, at: int) -> bool:
    """Whether what stands at `at` is said of the naming: only words of no weight stand between."""
    between = parts[naming + 1 : at]
    if any(p.text == "label." for p in between):
        return len(between) == 1
    return len(between) <= 12 and all(
        p.text in FILLERS or p.kind in ("is", *_DENYING, "right") or p.text in (":", "-", "–", "—", "both")
        for p in between
    )


def _reaches(parts: Sequence[Part], at: int, following: int) -> bool:
    between = parts[at + 1 : following]
    return len(between) <= 12 and not any(
        p.kind in ("but", "and", "so", "final", "correction") or p.text in (",", ":", "-", "–", "—") for p in between
    )


def _weigh(sentence: Sentence, is_first: bool) -> None:
    parts = sentence.parts
    opened = [p.kind for p in parts]
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
        copula = at > 0 and parts[at - 1].kind == "is" or (at > 1 and parts[at - 2].kind == "is" and parts[at - 1].text in FILLERS)
        leads = is_first and first and all(p.text in OPTION_WORDS or p.kind == "sign" for p in parts[:at])
        rest = [p for p in parts if p is not part and p.kind not in ("sign", "right", "is", "so") and p.text not in FILLERS]
        alone = first and not rest
        hedged |= at + 1 < len(parts) and "perhaps" in opened[at + 1 : at + 4] and not declared
        if part.mark:
            naming.weight = MARKED
        if (leads or alone) and len(naming.letters) == 1:
            naming.weight = DECLARED
            sentence.alone = not (declared or copula or naming.affirmed)
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
    for naming in question.namings[-1:]:
        if verdict in ("no", "not", "wrong"):
            naming.denials += 1
        elif verdict == "right":
            naming.affirmed, naming.weight = True, DECLARED
