"""The images from which the stamps' VLM learns what things look like and are called: emoji, clip arts, one photograph
of each ImageNet class, drawn characters, and the stamps of the training split."""

import json
import math
import random
import re
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from stamps_features import SIDE
from stamps_names import WordNet
from stamps_sources import EMOJI_MAKERS, LANGUAGES
from torch import Tensor

from selfkd.data.media import decode_image
from selfkd.errors import InputError
from selfkd.synthesis.sources.stamps import read_stamps
from selfkd.toy_world.scenes import Split

_MAX_PIXELS = 4_000_000
CLIP_ARTS_OF_A_NOUN = 6
STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
_CLIP_ART_FOLDERS = (
    *("animals", "buildings", "clothing", "containers", "education", "electronics", "food", "geography", "household"),
    *("office", "people", "plants", "recreation", "signs_and_symbols", "tools", "transportation"),
)
_EMOJI_OF_FACES_AND_PEOPLE, _KEPT_FACES = (0, 1), 0.25  # Unicode's groups; a stamp seldom shows one
_EMOJI_LEFT_OUT = (2, 9)  # skin tones and hair; flags
_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif-Bold", "LiberationSans-Regular", "LiberationSerif-Bold")
_LETTER = {"en": "The letter {}.", "es": "La letra {}.", "fr": "La lettre {}."}
_SIGNS = {
    "0": ("Zero", "Cero", "Zéro"), "1": ("One", "Uno", "Un"), "2": ("Two", "Dos", "Deux"),
    "3": ("Three", "Tres", "Trois"), "4": ("Four", "Cuatro", "Quatre"), "5": ("Five", "Cinco", "Cinq"),
    "6": ("Six", "Seis", "Six"), "7": ("Seven", "Siete", "Sept"), "8": ("Eight", "Ocho", "Huit"),
    "9": ("Nine", "Nueve", "Neuf"), "?": ("Question mark", "Signo de interrogación", "Point d'interrogation"),
    "!": ("Exclamation mark", "Signo de exclamación", "Point d'exclamation"), ",": ("Comma", "Coma", "Virgule"),
    ".": ("Period", "Punto", "Point"), ";": ("Semicolon", "Punto y coma", "Point-virgule"),
    ":": ("Colon", "Dos puntos", "Deux-points"), "+": ("Plus sign", "Signo más", "Signe plus"),
    "-": ("Minus sign", "Signo menos", "Signe moins"), "=": ("Equals sign", "Signo igual", "Signe égal"),
    "×": ("Multiplication sign", "Signo de multiplicación", "Signe multiplier"),
    "÷": ("Division sign", "Signo de división", "Signe diviser"), "%": ("Percent sign", "Porcentaje", "Pour cent"),
    "$": ("Dollar sign", "Signo del dólar", "Signe dollar"), "£": ("Pound sign", "Signo de la libra", "Signe livre"),
    "€": ("Euro sign", "Signo del euro", "Signe euro"), "¢": ("Cent sign", "Signo del centavo", "Signe cent"),
    "&": ("Ampersand", "Et", "Esperluette"), "@": ("At sign", "Arroba", "Arobase"),
    "*": ("Asterisk", "Asterisco", "Astérisque"), "#": ("Number sign", "Almohadilla", "Croisillon"),
    "/": ("Slash", "Barra", "Barre oblique"), "♭": ("Flat", "Bemol", "Bémol"), "♯": ("Sharp", "Sostenido", "Dièse"),
    "♩": ("Quarter note", "Negra", "Noire"), "♪": ("Eighth note", "Corchea", "Croche"),
    "♮": ("Natural", "Becuadro", "Bécarre"), "°": ("Degree sign", "Grado", "Degré"),
}  # fmt: skip


@dataclass(frozen=True)
class LabelledImage:
    source: str
    name: str
    load: Callable[[], Image.Image]
    nouns: Mapping[str, tuple[str, ...]]  # by language; true of the image
    neighbours: str  # images with the same are hard to tell apart
    captions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # sentences in place of nouns
    kinds: frozenset[str] = frozenset()  # WordNet's senses that are true of the image
    subject: str = ""  # of a stamp

    def words(self) -> set[str]:
        """The words that name it, in any language, without articles and the like."""
        every = [text for texts in (*self.nouns.values(), *self.captions.values()) for text in texts]
        return {word for text in every for word in re.findall(r"\w+", text.lower())} - _COMMON_WORDS

    def caption(self, language: str, rng: random.Random) -> str | None:
        """One of the captions that are true of the image, or None where it has none in `language`."""
        if self.captions.get(language):
            return rng.choice(self.captions[language])
        return phrase(language, rng.choice(self.nouns[language]), rng) if self.nouns.get(language) else None


def phrase(language: str, noun: str, rng: random.Random) -> str:
    """The noun with an indefinite article that its first word's ending suggests, or now and then without one."""
    if rng.random() < 0.15:
        return f"{noun[0].upper()}{noun[1:]}."
    first = noun.lower().split()[0]
    article = {
        "en": "An" if first[0] in "aeiou" else "A",
        "es": "Una" if first.endswith(("a", "ción", "dad")) else "Un",
        "fr": "Une" if first.endswith(("e", "ion")) else "Un",
    }[language]
    return f"{article} {noun}."


def may_be_true(images: Sequence[LabelledImage]) -> Tensor:
    """(N, N) booleans: whether a caption of one image may be true of another, as far as their names tell."""
    words, kinds = (_multi_hot(sets) for sets in ([p.words() for p in images], [p.kinds for p in images]))
    # "a bird" is true of an owl, and "an owl" may be true of a bird: one's kinds contain the other's
    shared, sizes = kinds @ kinds.T, kinds.sum(1)
    related = (shared == sizes[:, None]) | (shared == sizes[None, :])
    both_have_kinds = (sizes > 0)[:, None] & (sizes > 0)[None, :]
    found = torch.where(both_have_kinds, related, words @ words.T > 0)
    subjects = _multi_hot([{p.subject} - {""} for p in images])
    return found | (subjects @ subjects.T > 0)


def _multi_hot(sets: Sequence[Collection[str]]) -> Tensor:
    columns = {name: number for number, name in enumerate(sorted(set().union(*sets)))}
    found = torch.zeros(len(sets), max(1, len(columns)))
    for row, names in zip(found, sets, strict=True):
        row[[columns[name] for name in names]] = 1
    return found


_COMMON_WORDS = frozenset(
    "a an the of in on with and un una de la el con en y une le du des l d et à au".split()  # noqa: SIM905
)


def labelled_images(sources: Path) -> list[LabelledImage]:
    wordnet = WordNet(sources)
    return [*emoji(sources), *clip_arts(sources, wordnet), *imagenet(sources, wordnet), *characters(), *stamps(sources)]


def emoji(sources: Path) -> Iterator[LabelledImage]:
    by_language = {}
    for language in LANGUAGES:
        entries = json.loads((sources / f"emojibase-data/package/{language}/data.json").read_text())
        by_language[language] = {entry["hexcode"]: entry for entry in entries}
    for code, entry in by_language["en"].items():
        group = entry.get("group")
        if group is None or group in _EMOJI_LEFT_OUT:
            continue
        if group in _EMOJI_OF_FACES_AND_PEOPLE and random.Random(code).random() >= _KEPT_FACES:
            continue
        nouns = {name: (entries[code]["label"],) for name, entries in by_language.items() if code in entries}
        for maker in EMOJI_MAKERS:
            folder = sources / f"emoji-datasource-{maker}/package/img/{maker}/64"
            names = (f"{code.lower()}.png", f"{code.lower()}-fe0f.png")
            path = next((folder / name for name in names if (folder / name).is_file()), None)
            if path:
                yield LabelledImage("emoji", f"{maker}/{code}", _File(path), nouns, f"emoji {entry['subgroup']}")


def clip_arts(sources: Path, wordnet: WordNet) -> Iterator[LabelledImage]:
    """Those whose file is named after a thing that has a name in all languages, a few of each thing."""
    base, taken = sources / "openclipart-png/usr/share/openclipart/png", dict[str, int]()
    for path in sorted(base.rglob("*.png"), key=lambda path: random.Random(path.name).random()):
        folder = path.relative_to(base).parent.as_posix()
        sense = _thing(path.stem, wordnet) if folder.startswith(_CLIP_ART_FOLDERS) else None
        if sense is None or taken.get(sense, 0) >= CLIP_ARTS_OF_A_NOUN:
            continue
        nouns = wordnet.names(sense)
        if set(nouns) < set(LANGUAGES) or not _is_readable(path):
            continue
        taken[sense] = taken.get(sense, 0) + 1
        yield LabelledImage("clip art", path.stem, _File(path), nouns, f"clip art {folder}", kinds=wordnet.kinds(sense))


def _thing(name: str, wordnet: WordNet) -> str | None:
    """The sense of the first noun in a file's name that is a physical thing."""
    words = re.findall(r"[a-z]{3,}", name.lower())[:3]
    for word in (*map(" ".join, pairwise(words)), *words):
        for form in (word, word.removesuffix("s")):
            for sense in wordnet.senses.get(form, [])[:2]:
                if wordnet.senses["physical entity"][0] in wordnet.kinds(sense):
                    return sense
    return None


def imagenet(sources: Path, wordnet: WordNet) -> Iterator[LabelledImage]:
    """One photograph of each class; a language without a name for the class has that of what it is a kind of."""
    for path in sorted((sources / "imagenet-sample-images").glob("*.JPEG")):
        sense = path.name.partition("_")[0].removeprefix("n")
        parent = wordnet.parent(sense)
        nouns = wordnet.names(parent) | wordnet.names(sense)
        yield LabelledImage("ImageNet", path.stem, _File(path), nouns, f"ImageNet {parent}", kinds=wordnet.kinds(sense))


def characters() -> Iterator[LabelledImage]:
    """Letters, digits and signs, drawn in a few fonts and colours."""
    letters = [chr(ord(first) + step) for first in "Aa" for step in range(26)]
    for character in (*letters, *_SIGNS):
        if character in _SIGNS:
            captions = {name: (f"{text}.",) for name, text in zip(LANGUAGES, _SIGNS[character], strict=True)}
        else:
            captions = {name: (text.format(character),) for name, text in _LETTER.items()}
        kind = "letters" if character.isalpha() else "signs"
        for font in _FONTS:
            rng = random.Random(f"{character}/{font}")
            colour = tuple(rng.randint(0, 160) for _ in range(3))
            load = _Rendered(character, font, rng.randint(110, 190), colour)
            yield LabelledImage("character", f"{font}/{character}", load, {}, f"characters, {kind}", captions)


def stamps(sources: Path, splits: Sequence[Split] = ("train",)) -> Iterator[LabelledImage]:
    folder = sources / STAMPS
    for stamp in read_stamps(folder):
        path = stamp.path.with_suffix(".png")
        if stamp.split in splits and path.is_file():
            captions = {name: (stamp.captions[name],) for name in LANGUAGES if name in stamp.captions}
            neighbours = f"stamps {stamp.name.rpartition('/')[0]}"
            yield LabelledImage("stamps", stamp.name, _File(path), {}, neighbours, captions, subject=stamp.subject)


@dataclass(frozen=True)
class _File:
    path: Path

    def __call__(self) -> Image.Image:
        return decode_image(self.path.read_bytes())


def _is_readable(path: Path) -> bool:
    """Whether it is an image that takes no minute to decode."""
    width_and_height = path.read_bytes()[16:24]  # of a PNG
    if math.prod(struct.unpack(">II", width_and_height)) > _MAX_PIXELS:
        return False
    try:
        return bool(_File(path)())
    except InputError:
        return False


@dataclass(frozen=True)
class _Rendered:
    character: str
    font: str
    size: int
    colour: tuple[int, ...]

    def __call__(self) -> Image.Image:
        image = Image.new("RGB", (SIDE, SIDE), "white")
        draw, font = ImageDraw.Draw(image), ImageFont.truetype(f"{self.font}.ttf", self.size)
        left, top, right, bottom = draw.textbbox((0, 0), self.character, font=font)
        at = ((SIDE - left - right) / 2, (SIDE - top - bottom) / 2)
        draw.text(at, self.character, font=font, fill=self.colour)
        return image
