"""WordNet's nouns, what they are kinds of, and their names in English, Spanish and French."""

import gzip
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from itertools import islice
from pathlib import Path

_BASE_64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"  # dictd's digits
_TRANSLATION = re.compile(r"[^\W\d_]+(?:[ '’-][^\W\d_]+){0,2}")
NAMES_OF_EACH = 2  # the first two are the usual ones


class WordNet:
    """`sources` is the folder that `stamps_sources.py` writes. A sense is the offset of a synset of nouns."""

    def __init__(self, sources: Path):
        self._sources = sources
        self._wordnet = sources / "wordnet-base/usr/share/wordnet"
        self._english: dict[str, list[str]] = {}
        self._parents: dict[str, list[str]] = {}
        for line in (self._wordnet / "data.noun").read_text().splitlines():
            if line.startswith(" "):  # the licence
                continue
            fields = line.partition(" | ")[0].split()
            words = 4 + 2 * int(fields[3], 16)
            pointers = fields[words + 1 :]
            self._english[fields[0]] = [word.lower().replace("_", " ") for word in fields[4:words:2]]
            pairs = zip(pointers[::4], pointers[1::4], strict=False)
            self._parents[fields[0]] = [to for mark, to in pairs if mark in ("@", "@i")]
        self._kinds: dict[str, frozenset[str]] = {}

    @cached_property
    def senses(self) -> dict[str, list[str]]:
        """Of each noun, the most frequent one first."""
        found = {}
        for line in (self._wordnet / "index.noun").read_text().splitlines():
            if not line.startswith(" "):
                fields = line.split()
                found[fields[0].replace("_", " ")] = fields[-int(fields[2]) :]
        return found

    def kinds(self, sense: str) -> frozenset[str]:
        """The sense and all that it is a kind of."""
        if sense not in self._kinds:
            self._kinds[sense] = frozenset({sense}).union(*(self.kinds(parent) for parent in self._parents[sense]))
        return self._kinds[sense]

    def parent(self, sense: str) -> str:
        return next(iter(self._parents[sense]), sense)

    def names(self, sense: str) -> dict[str, tuple[str, ...]]:
        """By language; a language without a name is left out."""
        english = self._english[sense][:NAMES_OF_EACH]
        found = {"en": tuple(english)}
        for language, wordnets in self._wordnets.items():
            listed = next((w[sense] for w in wordnets if sense in w), [])
            translated = listed or next(filter(None, (self._translations(language, word) for word in english)), [])
            if translated:
                found[language] = tuple(translated[:NAMES_OF_EACH])
        return found

    @cached_property
    def _wordnets(self) -> dict[str, list[dict[str, list[str]]]]:
        folder = self._sources / "omw-data/wns"
        files = {"es": ["wikt/wn-wikt-spa.tab"], "fr": ["fra/wn-data-fra.tab", "wikt/wn-wikt-fra.tab"]}
        return {language: [_lemmas(folder / name) for name in names] for language, names in files.items()}

    @cached_property
    def _dictionaries(self) -> dict[str, dict[str, str]]:
        return {"es": _dictd(self._sources, "eng-spa"), "fr": _dictd(self._sources, "eng-fra")}

    def _translations(self, language: str, word: str) -> list[str]:
        entry = self._dictionaries[language].get(word, "")
        lines = (re.sub(r"<.*?>|\[.*?\]|\(.*?\)|^\s*\d+\.", "", line) for line in entry.splitlines()[1:])
        parts = (part.strip() for line in lines for part in re.split("[,;]", line))
        return list(islice((p for p in parts if len(p) < 30 and _TRANSLATION.fullmatch(p)), NAMES_OF_EACH))


def _lemmas(path: Path) -> dict[str, list[str]]:
    found = defaultdict(list)
    for line in path.read_text().splitlines():
        fields = line.split("\t")
        if len(fields) >= 3 and fields[0].endswith("-n") and fields[1].endswith("lemma"):
            found[fields[0].removesuffix("-n")].append(fields[2].replace("_", " "))
    return dict(found)


def _dictd(sources: Path, name: str) -> dict[str, str]:
    folder = sources / f"dict-freedict-{name}/usr/share/dictd"
    text = gzip.decompress((folder / f"freedict-{name}.dict.dz").read_bytes())
    entries = {}
    for line in (folder / f"freedict-{name}.index").read_text().splitlines():
        word, start, length = line.split("\t")
        at = _number(start)
        entries[word.lower()] = text[at : at + _number(length)].decode(errors="replace")
    return entries


def _number(digits: Iterable[str]) -> int:
    value = 0
    for digit in digits:
        value = 64 * value + _BASE_64.index(digit)
    return value
