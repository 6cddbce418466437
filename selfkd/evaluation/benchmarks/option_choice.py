"""Whether a response chooses or rejects the options that it mentions, and how strongly.

The response is split into sentences, a sentence into mentions of options ("A, B or C" is one mention of three) and cues
that deny or affirm them (cue_words.py). Each denial belongs to one mention: the one right after it ("not A", "rather
than B"), its subject ("A is wrong"), or the next in its clause ("I do not think that it is A"). An even number of
denials cancels out. All letters are treated the same: renaming the options renames the result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from selfkd.evaluation.benchmarks.cue_words import AGREEING, FILLERS, OPTION_WORDS
from selfkd.evaluation.benchmarks.option_mentions import (
    CONCLUDED,
    DECLARED,
    ENDS,
    FINAL,
    MARKED,
    PASSING,
    Mention,
    Part,
    parts_of,
)

_JOINING = set(",/&+|、-–—:")
_MAX_DISTANCE = 12  # words between a denial and its mention
_DENYING = ("not", "no", "wrong", "reject", "instead")


@dataclass
class Sentence:
    parts: list[Part] = field(default_factory=list)
    is_question: bool = False
    is_single_mention: bool = False  # has no content but its first mention

    @property
    def first_mention(self) -> Mention | None:
        return next((part.mention for part in self.parts if part.mention), None)

    @property
    def is_list_entry(self) -> bool:
        """Whether it is an entry of a list of options: a letter with or without its text, and no verdict."""
        mention = self.first_mention
        return self.is_single_mention and mention is not None and mention.is_letter and not mention.rejected


def sentences_of(response: str, options: Mapping[str, str]) -> list[Sentence]:
    """The sentences of a response with the weights and denials of their mentions. `options` is {letter: text}."""
    sentences = _split_sentences(parts_of(response, options))
    for at, sentence in enumerate(sentences):
        _join_mentions(sentence)
        _count_denials(sentence)
        _set_weights(sentence, is_first=not at)
        if at and not sentence.first_mention and sentences[at - 1].is_question:
            _apply_answer(sentence, sentences[at - 1])
    return sentences


def _split_sentences(parts: Sequence[Part]) -> list[Sentence]:
    sentences = [Sentence()]
    for part in parts:
        own = sentences[-1].parts
        if part.text in ENDS:
            if part.text == "." and own and own[-1].label and len([p for p in own if p.mention]) == 1:
                own.append(Part("punctuation", "label."))
                continue
            sentences[-1].is_question = part.text == "?"
            if own:
                sentences.append(Sentence())
        else:
            own.append(part)
    return [sentence for sentence in sentences if sentence.parts]


def _join_mentions(sentence: Sentence) -> None:
    """Merges the mentions of an enumeration, and a letter with its own text."""
    joined: list[Part] = []
    between: list[Part] = []
    conjunction = ""
    after = [*sentence.parts, None]
    for position, part in enumerate(sentence.parts):
        last = joined[-1] if joined else None
        if part.mention is None:
            if last and last.mention and _may_join(part):
                between.append(part)
            else:
                joined += [*between, part]
                between, conjunction = [], ""
            continue
        signs = [p.text for p in between if p.text not in FILLERS]
        words = [p.text for p in between if p.role in ("and", "not")]
        if last and last.mention and last.mention.letters == part.mention.letters:
            last.mention.is_letter |= part.mention.is_letter
            last.mark |= part.mark
        elif (
            last
            and last.mention
            and _continues_enumeration(signs, words, conjunction, joined[-2:-1], after[position + 1])
        ):
            last.mention.letters += part.mention.letters
            last.mention.is_letter |= part.mention.is_letter
            last.mark = last.mark or part.mark
            conjunction = words[0] if words else conjunction
        else:
            joined += [*between, part]
            conjunction = ""
        between = []
    sentence.parts = [*joined, *between]


def _may_join(part: Part) -> bool:
    return (
        part.role == "and"
        or part.text in _JOINING
        or part.text == "label."
        or part.text in ("nor", "ni", "noch", "or", "nem", "a", "an", "the", "la", "el", "die", "der", "das", "le")
        or part.text in OPTION_WORDS
    )


def _continues_enumeration(
    signs: Sequence[str], words: Sequence[str], conjunction: str, before: Sequence[Part], after: Part | None
) -> bool:
    """Whether a mention continues the enumeration of the previous one, by the parts between, before and after."""
    if "label." in signs or (conjunction and not words):
        return False
    if words or any(sign in ("/", "&", "+", "|", "、") for sign in signs):
        return True
    if before and before[0].role in _DENYING:  # "unlike B, C": the denial ends at the comma
        return False
    predicate = after is not None and after.text in ("is", "isn't", "fits", "fails", "est", "es", "ist", "was")
    return not (predicate and "," in signs)


def _count_denials(sentence: Sentence) -> None:
    """Adds each denial to the mention that it belongs to, and sets which are affirmed."""
    parts = sentence.parts
    mentions = [(at, part.mention) for at, part in enumerate(parts) if part.mention]
    passed = 0
    for at, part in enumerate(parts):
        if part.role not in (*_DENYING, "right"):
            continue
        if part.text in AGREEING and any(p.role == "not" for p in parts[max(at - 2, 0) : at]):
            continue  # "ce n'est ni A ni B": one denial in two words
        while passed < len(mentions) and mentions[passed][0] < at:
            passed += 1
        before = mentions[passed - 1] if passed else None
        after = mentions[passed] if passed < len(mentions) else None
        if part.role == "instead":
            _apply_contrast(parts, at, before, after)
            continue
        is_about_before = before is not None and _is_about(parts, before[0], at)
        if part.role == "right":
            if before and is_about_before:
                before[1].affirmed = True
        elif after and part.role != "wrong" and _is_adjacent(parts, at, after[0]):
            after[1].denials += 1
        elif before and is_about_before and _is_predicate(parts, at, before[0]):
            before[1].denials += 1
        elif after and _applies_to_next(parts, at, after[0]):
            after[1].denials += 1


def _apply_contrast(
    parts: Sequence[Part], at: int, before: tuple[int, Mention] | None, after: tuple[int, Mention] | None
) -> None:
    """ "A rather than B", "A is less likely than B": affirms one mention and denies the other."""
    if after is None or not _is_adjacent(parts, at, after[0]):
        return
    if before and any(p.role == "less" for p in parts[max(before[0], at - _MAX_DISTANCE) : at]):
        before, after = after, before
    after[1].denials += 1
    if before:
        before[1].affirmed = True


def _is_adjacent(parts: Sequence[Part], at: int, mention: int) -> bool:
    return mention - at <= _MAX_DISTANCE and all(p.text in FILLERS for p in parts[at + 1 : mention])


def _is_predicate(parts: Sequence[Part], at: int, mention: int) -> bool:
    """Whether a denial after a mention is about it: "A is wrong", "A is not ...", "A: no"."""
    part, previous = parts[at], parts[at - 1]
    is_last = at + 1 == len(parts) or parts[at + 1].text in (",", ":", ")")
    verb = mention == at - 1 or previous.role == "is" or previous.text in FILLERS or part.text.endswith("'t")
    return part.role == "wrong" or is_last or (part.role == "not" and verb)


def _is_about(parts: Sequence[Part], mention: int, at: int) -> bool:
    """Whether the cue at `at` is about the mention before it: only filler words are between."""
    if at - mention > _MAX_DISTANCE:
        return False
    between = parts[mention + 1 : at]
    if any(p.text == "label." for p in between):
        return len(between) == 1
    return all(
        p.text in FILLERS or p.role in ("is", *_DENYING, "right") or p.text in (":", "-", "–", "—", "both")
        for p in between
    )


def _applies_to_next(parts: Sequence[Part], at: int, mention: int) -> bool:
    """Whether a denial may be about the next mention: no other clause starts before it."""
    if parts[at].role == "wrong" and mention == at + 2 and parts[at + 1].text == ":":  # "Wrong: A"
        return True
    return mention - at <= _MAX_DISTANCE and not any(
        p.role in ("but", "and", "so", "final", "correction") or p.text in (",", ":", "-", "–", "—")
        for p in parts[at + 1 : mention]
    )


def _set_weights(sentence: Sentence, is_first: bool) -> None:
    parts = sentence.parts
    concluded = final = declared = hedged = False
    first = True
    for at, part in enumerate(parts):
        if part.mention is None:
            concluded |= part.role == "so"
            final |= part.role == "final"
            declared |= part.role in ("declare", "right")
            hedged |= part.role == "perhaps"
            if part.role == "but" or part.text == ",":
                hedged = False
            continue
        mention = part.mention
        near = parts[max(at - 2, 0) : at]
        copula = any(p.role == "is" for p in near) and all(p.role == "is" or p.text in FILLERS for p in near[-1:])
        leads = is_first and first and all(p.text in OPTION_WORDS or p.role == "punctuation" for p in parts[:at])
        is_single = first and all(
            p is part or p.role in ("punctuation", "right", "is", "so") or p.text in FILLERS for p in parts
        )
        hedged |= any(p.role == "perhaps" for p in parts[at + 1 : at + 4]) and not declared
        if part.mark:
            mention.weight = MARKED
        if (leads or is_single) and len(mention.letters) == 1:
            mention.weight = DECLARED
            sentence.is_single_mention = True
        if (declared or copula or mention.affirmed) and not mention.rejected:
            mention.weight, sentence.is_single_mention = DECLARED, False
        if (hedged or sentence.is_question) and mention.weight >= DECLARED:
            mention.weight = PASSING
        elif concluded and not mention.rejected:
            mention.weight = CONCLUDED
        if final and not mention.rejected:
            mention.weight = FINAL
        declared = hedged = final = False
        first = False


def _apply_answer(sentence: Sentence, question: Sentence) -> None:
    """ "A? No.": the verdict of a sentence on the last mention of the question before it."""
    verdict = sentence.parts[0].role
    for mention in [part.mention for part in question.parts if part.mention][-1:]:
        if verdict in ("no", "not", "wrong"):
            mention.denials += 1
        elif verdict == "right":
            mention.affirmed, mention.weight = True, DECLARED
