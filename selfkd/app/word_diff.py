"""Where a transcript differs from the question, word by word."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from rapidfuzz.distance import Levenshtein

from selfkd.synthesis.quality_filter import normalizer


@dataclass(frozen=True)
class WordDiff:
    """The words of both texts, each with whether it is in the other at its place, and as few substitutions,
    deletions and insertions as make one of the other."""

    question: tuple[tuple[str, bool], ...]
    transcript: tuple[tuple[str, bool], ...]
    num_errors: int


def word_diff(question: str, transcript: str, language: str = "en") -> WordDiff:
    """Words are the same that the word error rate takes for the same: case, punctuation, "two" and "2", "colour" and
    "color" do not count, and neither do words that are nothing but punctuation."""
    normalize = normalizer(language)
    texts = question.split(), transcript.split()
    keys = [[_key(word, normalize) for word in words] for words in texts]
    positions = [[at for at, key in enumerate(some) if key] for some in keys]
    compared = [[some[at] for at in of] for some, of in zip(keys, positions, strict=True)]
    edits = Levenshtein.editops(*compared)
    differs = [
        {positions[0][edit.src_pos] for edit in edits if edit.tag != "insert"},
        {positions[1][edit.dest_pos] for edit in edits if edit.tag != "delete"},
    ]
    typed, recognized = (
        tuple((word, at not in wrong) for at, word in enumerate(words))
        for words, wrong in zip(texts, differs, strict=True)
    )
    return WordDiff(typed, recognized, len(edits))


def _key(word: str, normalize: Callable[[str], str]) -> str:
    try:
        key = normalize(word).strip()
    except Exception:  # Whisper's fails on some numbers
        key = word.casefold()
    return key if any(map(str.isalnum, key)) else ""


def runs(words: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Neighbouring words that are both the same, or both differ, joined."""
    grouped = groupby(words, key=itemgetter(1))
    return [(" ".join(word for word, _ in some), is_same) for is_same, some in grouped]
