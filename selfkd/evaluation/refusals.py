"""Whether a response is a refusal: that there is no audio or no image, that the model cannot process it, or that it
will not answer. Such a response is no answer; in particular it is not "no".

By rules for ten languages (`refusals.yaml`), made for precision. The medium itself must be missing or out of reach ("I
can't see the image"), not something in it ("I can't see a dog in the image"), and a response that gives an answer next
to its excuse ("I can't hear it well, but the answer is B") is an answer. Their accuracy on sentences labelled by hand:
tests/evaluation/test_refusals.py.
"""

import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

MAX_CHARACTERS = 2000  # a longer response is a description
_QUOTED = re.compile(
    r'"[^"\n]{1,200}"|“[^”\n]{1,200}”|„[^“”\n]{1,200}[“”]|«[^»\n]{1,200}»|「[^」\n]{1,200}」|『[^』\n]{1,200}』'
)
_SENTENCE = re.compile(r"(?<=[.!?;…。！？；\n])\s*")
_MARKUP = re.compile(r"[*_#>`~]+")


class Rules(NamedTuple):
    refusals: re.Pattern[str]
    answers: re.Pattern[str]


def is_refusal(text: str) -> bool:
    """Text in quotes comes from the image, and does not count."""
    if len(text) > MAX_CHARACTERS:
        return False
    sentences = _sentences(text)
    return any(_refuses(sentences, rules) for rules in _rules())


def _refuses(sentences: list[str], rules: Rules) -> bool:
    found = [rules.refusals.search(sentence) for sentence in sentences]
    if not any(found):
        return False
    # the rest of the response: an excuse may begin with "but there is ..."
    rest = [s if f is None else f"{s[: f.start()]} … {s[f.end() :]}" for s, f in zip(sentences, found, strict=True)]
    return not any(rules.answers.search(sentence.strip()) for sentence in rest)


def _sentences(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", _QUOTED.sub(" “…” ", text)).lower()
    text = _MARKUP.sub("", text.replace("’", "'").replace("‘", "'"))
    return [" ".join(s.split()).rstrip(".!?;…。！？；") for s in _SENTENCE.split(text) if s.strip()]


@cache
def _rules() -> list[Rules]:
    languages = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return [
        Rules(_pattern(of["refusals"], of["words"]), _pattern(of["answers"], of["words"])) for of in languages.values()
    ]


def _pattern(alternatives: list[str], words: dict[str, str]) -> re.Pattern[str]:
    joined = "|".join(f"(?:{one})" for one in alternatives)
    while (named := re.search(r"<(\w+)>", joined)) is not None:
        joined = joined.replace(named[0], words[named[1]])
    return re.compile(joined)
