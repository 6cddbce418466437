"""Free-form responses -> yes or no, or the letter of an option; None where a response gives none or several.

One rule for all benchmarks. It is more lenient than most official scripts, which parse only the first characters of a
response: a model that answers in a sentence must not lose by its style, in any modality.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from selfkd.evaluation.benchmarks.option_choice import Sentence, sentences_of
from selfkd.evaluation.benchmarks.option_mentions import CONCLUDED, DECLARED, LETTERS, MARKED, PASSING, Mention
from selfkd.evaluation.benchmarks.yes_no_parsing import NO, YES, affirms

_ANSWER_TAG = re.compile(r"<\s*answer\s*>(.*?)(?:<\s*/\s*answer\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_MAX_WORDS = 30  # a longer response, beyond the words of the option itself, describes and does not choose


def yes_or_no(prediction: str) -> str | None:
    """ "yes" where a response affirms, "no" where it denies (yes_no_parsing.py); None where it does neither, doubts, or
    says that it has no image or audio."""
    text = prediction.lower().strip()
    if text.rstrip(".") in ("y", "n"):
        return YES if text[0] == "y" else NO
    affirmed = affirms(prediction)
    return None if affirmed is None else YES if affirmed else NO


def chosen_letter(prediction: str, options: Mapping[str, str]) -> str | None:
    """The letter that a response chooses among `options` ({letter: text}; texts may be "" where they are not known).

    Every mention of an option, by its letter or its text, has a weight (`option_mentions.py`); rejections count against
    it. The mentions of the highest weight decide, letters before texts; where they do not agree on one option the
    response chooses none. All letters are parsed the same way.
    """
    if tagged := _ANSWER_TAG.findall(prediction):
        prediction = tagged[-1]  # text outside the tag is explanation
    single = re.fullmatch(r"[\W_]*([^\W\d_])[\W_]*", prediction)
    if single and unicodedata.normalize("NFKC", single[1]).upper() in options:
        return unicodedata.normalize("NFKC", single[1]).upper()
    whole = [letter for letter, text in options.items() if _plain(text) and _plain(text) == _plain(prediction)]
    if whole:
        return only(whole)
    sentences = sentences_of(prediction, options)
    long = len(prediction.split()) > _MAX_WORDS + max((len(text.split()) for text in options.values()), default=0)
    for by_letter, min_weight in ((True, MARKED if long else PASSING), (False, DECLARED if long else PASSING)):
        weighed = [
            (weight, letters) for weight, letters in _valid_mentions(sentences, by_letter) if weight >= min_weight
        ]
        if weighed:
            max_weight = max(weight for weight, _ in weighed)
            top = [letters for weight, letters in weighed if weight == max_weight]
            common = top[-1] if max_weight >= CONCLUDED else set.intersection(*top)
            return only(common) if common <= set(options) else None
    return None


def _valid_mentions(sentences: Sequence[Sentence], by_letter: bool) -> list[tuple[int, set[str]]]:
    """(weight, letters) of the mentions that are not revoked by a later rejection or correction."""
    entries = [s.first_mention for s in sentences if s.is_list_entry and s.first_mention]
    # a repeated list of the options, one per line, chooses none of them
    listed = {id(n) for n in entries} if len({n.letters[0] for n in entries}) > 1 else set()
    rejected: dict[str, int] = {}
    valid: list[tuple[int, Mention]] = []
    corrected = False
    for at, part in enumerate(part for sentence in sentences for part in sentence.parts):
        corrected |= part.role == "correction"
        mention = part.mention
        if mention is None:
            continue
        if mention.rejected:
            rejected |= dict.fromkeys(mention.letters, at)
        elif mention.is_letter == by_letter:
            if corrected:
                valid, corrected = [], False
            if id(mention) not in listed:
                valid.append((at, mention))
    kept = ((n.weight, {letter for letter in n.letters if rejected.get(letter, -1) < at}) for at, n in valid)
    return [(weight, letters) for weight, letters in kept if letters]


def options_of(question: str) -> dict[str, str]:
    """{letter: text} of the options in a question: lines "A. text", or "Options: A: text, B: text" as in MMStar."""
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


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .,;:!\"'*")


def only(values: Iterable[str]) -> str | None:
    """The only distinct value; None where there is none, or several."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None
