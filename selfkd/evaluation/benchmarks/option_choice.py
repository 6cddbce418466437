"""Where a response names options, and whether it chooses or rejects them there.

The response is cut into sentences, a sentence into the options that it names ("A, B or C" is one naming of three) and
the words that deny or affirm them (wording.py). Each denial belongs to one naming: the one right after it ("not A",
"rather than B"), the one that it is said of ("A is wrong"), or the next in its clause ("I do not think that it is A").
An even number of denials denies nothing. All letters are read alike: renaming them renames what is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from selfkd.evaluation.benchmarks.cue_words import AGREEING, FILLERS, OPTION_WORDS
from selfkd.evaluation.benchmarks.option_names import (
    CONCLUDED,
    DECLARED,
    ENDS,
    FINAL,
    MARKED,
    PASSING,
    Naming,
    Part,
    parts_of,
)

_JOINING = set(",/&+|、-–—:")
_NEAR = 12  # words across which a denial reaches
_DENYING = ("not", "no", "wrong", "reject", "instead")


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
    sentences = _cut(parts_of(response, options))
    for at, sentence in enumerate(sentences):
        _join(sentence)
        _deny(sentence)
        _weigh(sentence, is_first=not at)
        if at and not sentence.first and sentences[at - 1].asks:
            _answer(sentence, sentences[at - 1])
    return sentences


def _cut(parts: Sequence[Part]) -> list[Sentence]:
    sentences = [Sentence()]
    for part in parts:
        own = sentences[-1].parts
        if part.text in ENDS:
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
