"""Free replies -> yes or no, or the letter of an option; None where a reply says neither, or several of them.

One rule for every benchmark. It is more patient than most official scripts, which read the first letters of a reply
alone: a model that answers in a sentence is not to lose by its style, in neither view.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from selfkd.evaluation.benchmarks.option_choice import Sentence, sentences_of
from selfkd.evaluation.benchmarks.option_names import CONCLUDED, DECLARED, LETTERS, MARKED, PASSING, Naming
from selfkd.evaluation.benchmarks.yes_no_parsing import NO, YES, affirms

_FORM = re.compile(r"<\s*answer\s*>(.*?)(?:<\s*/\s*answer\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_MAX_WORDS = 30  # a reply with more, beyond the words of the option itself, describes and does not choose


def yes_or_no(prediction: str) -> str | None:
    """ "yes" where a reply affirms, "no" where it denies (affirmation.py); None where it does neither, doubts, or says
    that it cannot see or hear."""
    text = prediction.lower().strip()
    if text.rstrip(".") in ("y", "n"):
        return YES if text[0] == "y" else NO
    affirmed = affirms(prediction)
    return None if affirmed is None else YES if affirmed else NO


def chosen_letter(prediction: str, options: Mapping[str, str]) -> str | None:
    """The letter that a reply chooses among `options` ({letter: text}; texts may be "" where they are not known).

    Every place where an option is named, by its letter or its text, counts with its weight (`mentions.py`); what is
    rejected counts against it. The weightiest namings decide, what is said by a letter before what is said by a text;
    where they do not agree on one option the reply chooses none. Letters are read alike, whichever they are.
    """
    if forms := _FORM.findall(prediction):
        prediction = forms[-1]  # what stands around the form's answer explains it
    alone = re.fullmatch(r"[\W_]*([^\W\d_])[\W_]*", prediction)
    if alone and unicodedata.normalize("NFKC", alone[1]).upper() in options:
        return unicodedata.normalize("NFKC", alone[1]).upper()
    whole = [letter for letter, text in options.items() if _plain(text) and _plain(text) == _plain(prediction)]
    if whole:
        return only(whole)
    sentences = sentences_of(prediction, options)
    long = len(prediction.split()) > _MAX_WORDS + max((len(text.split()) for text in options.values()), default=0)
    for by_letter, least in ((True, MARKED if long else PASSING), (False, DECLARED if long else PASSING)):
        weighed = [(weight, letters) for weight, letters in _standing(sentences, by_letter) if weight >= least]
        if weighed:
            most = max(weight for weight, _ in weighed)
            top = [letters for weight, letters in weighed if weight == most]
            agreed = top[-1] if most >= CONCLUDED else set.intersection(*top)
            return only(agreed) if agreed <= set(options) else None
    return None


def _standing(sentences: Sequence[Sentence], by_letter: bool) -> list[tuple[int, set[str]]]:
    """(weight, letters) of the namings that are not taken back: by a rejection after them, or by a correction."""
    entries = [s.first for s in sentences if s.lists and s.first]
    # a list of the options said back, one to a line, chooses none of them
    listed = {id(n) for n in entries} if len({n.letters[0] for n in entries}) > 1 else set()
    rejected: dict[str, int] = {}
    standing: list[tuple[int, Naming]] = []
    corrected = False
    for at, part in enumerate(part for sentence in sentences for part in sentence.parts):
        corrected |= part.kind == "correction"
        naming = part.naming
        if naming is None:
            continue
        if naming.rejected:
            rejected |= dict.fromkeys(naming.letters, at)
        elif naming.is_letter == by_letter:
            if corrected:
                standing, corrected = [], False
            if id(naming) not in listed:
                standing.append((at, naming))
    kept = ((n.weight, {letter for letter in n.letters if rejected.get(letter, -1) < at}) for at, n in standing)
    return [(weight, letters) for weight, letters in kept if letters]


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


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .,;:!\"'*")


def only(found: Iterable[str]) -> str | None:
    """The one that was found; None where there was none, or several."""
    different = set(found)
    return different.pop() if len(different) == 1 else None
