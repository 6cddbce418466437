"""Tux Paint's stamps: images with captions in a hundred languages, many of them read aloud by people.

The layout is that of the package `tuxpaint-stamps-default` (GPL-2; not part of selfkd): NAME.png; NAME.txt with the
English caption in its first line, then lines LANGUAGE.utf8=CAPTION; NAME_desc.ogg and NAME_desc_LANGUAGE.ogg. Two
sources read it: `stamps`, captions to repeat (stage 1), and `stamps-mmalign`, MMAlign's question about an image.

The split is by subject: all stamps whose English captions name the same thing (a photograph and a drawing of a koala)
are in one, whatever the language.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from selfkd.data.as_text import tidy
from selfkd.data.audio_files import SUFFIXES
from selfkd.errors import InputError
from selfkd.synthesis.sources.caption_corpora import split_of_key
from selfkd.synthesis.sources.rows import Clip, Row, RowSource, sample_rows, with_suffix_of_any_case
from selfkd.toy_world.scenes import Split
from selfkd.toy_world.tasks import REPEAT_INSTRUCTION

LICENSE = "GPL-2 (Tux Paint stamps)"
IS_TRUE = "Is this a true caption of the image? Answer yes or no.\n"
WHICH_IS_TRUE = "Which caption is true of the image? Answer A or B.\n"
ENGLISH = "en"
# letters that Tux Paint has as stamps: their captions, read aloud, announce the two captions of a choice
_LETTERS = [f"symbols/alphabets/english/filled/uppercase/{letter}_filled" for letter in "AB"]
_CAPTION = re.compile(r"([\w@]+)\.utf8=(.*)")
_RECORDING = re.compile(r".+_desc(?:_([A-Za-z@_]+))?")
_BEFORE_SUBJECT = re.compile(r"\b(?:pair|piece|bunch|bowl|cup|glass|slice|kind|type|couple|set|group)s? of\b")
_AFTER_SUBJECT = re.compile(r"\s(?:of|in|on|with|at|for|from|by|to|and|or|without|that|which)\s.*|[,(:].*")


@dataclass(frozen=True)
class Stamp:
    path: Path  # without a suffix
    name: str  # the path within the folder of all stamps
    captions: dict[str, str]  # by language: es, pt_BR

    @cached_property
    def subject(self) -> str:
        """The last word of the English caption's first noun phrase: "kangaroo" of "A red kangaroo in Australia." """
        words = re.findall(r"\w+", _AFTER_SUBJECT.sub("", _BEFORE_SUBJECT.sub("", self.captions[ENGLISH].lower())))
        word = words[-1] if words else self.name
        return word.removesuffix("s") if len(word) > 3 and not word.endswith("ss") else word

    @property
    def topic(self) -> str:
        """The first folder of its name: animals, food, vehicles."""
        return self.name.partition("/")[0]

    @property
    def split(self) -> Split:
        return split_of_key(self.subject)


class _Recorded(NamedTuple):
    """A stamp's caption in the language asked for, and where someone reads it aloud."""

    stamp: Stamp
    caption: str
    clip: Clip


def stamps(folder: Path, language: str, split: Split, count: int, seed: int) -> RowSource:
    """The recorded captions of a split in `language`, to repeat. Raises InputError."""
    recorded, _, skipped = _captions_of(folder, language, split)
    rows = (
        Row(
            _row_id("stamps", language, one),
            one.caption,
            one.caption,
            f"{REPEAT_INSTRUCTION}\n",
            clips=(one.clip,),
            category=language,
            speaker=_speaker(language),
            question_type="repeat",
        )
        for one in recorded
    )
    return RowSource("stamps", sample_rows(rows, count, seed), LICENSE, skipped=dict(+skipped))


def stamps_mmalign(folder: Path, language: str, split: Split, count: int, seed: int) -> RowSource:
    """Three questions about every image of a split whose caption is recorded in `language`: whether its caption is
    true, whether that of another subject is, and, where the letters are recorded too, which of the two. The other
    subject is of another topic where there is one. Raises InputError."""
    recorded, letters, skipped = _captions_of(folder, language, split)
    usable = [one for one in recorded if one.stamp.path.with_suffix(".png").is_file()]
    skipped["no image in PNG"] += len(recorded) - len(usable)
    rows = _questions(usable, letters, language, skipped)
    return RowSource("stamps-mmalign", sample_rows(rows, count, seed), LICENSE, skipped=dict(+skipped))


def _questions(
    recorded: Sequence[_Recorded], letters: Sequence[_Recorded], language: str, skipped: Counter[str]
) -> Iterator[Row]:
    for number, one in enumerate(recorded):
        others = _distractors(one, recorded)
        if not others:
            skipped["no caption that is false of it"] += 1
            continue
        # the seed of the sample does not choose the distractor: a question is the same in every sample
        rng = random.Random(f"stamps-mmalign/{language}/{one.stamp.name}")  # noqa: S311 seeded, for the same data in every run; nothing secret
        false = rng.choice(others)
        shared: dict[str, Any] = {
            "image": one.stamp.path.with_suffix(".png"),
            "category": _category(one),
            "speaker": _speaker(language),
        }
        for answer, stated in ("yes", one), ("no", false):
            yield Row(
                f"{_row_id('stamps-mmalign', language, one)}-{answer}",
                stated.caption,
                answer,
                IS_TRUE,
                clips=(stated.clip,),
                question_type="exists",
                **shared,
            )
        if letters:
            options = (one, false) if number % 2 else (false, one)
            parts = [part for pair in zip(letters, options, strict=True) for part in pair]
            yield Row(
                f"{_row_id('stamps-mmalign', language, one)}-which",
                " ".join(part.caption for part in parts),
                "A" if number % 2 else "B",
                WHICH_IS_TRUE,
                clips=tuple(part.clip for part in parts),
                question_type="choice",
                **shared,
            )


def _distractors(one: _Recorded, recorded: Sequence[_Recorded]) -> list[_Recorded]:
    """The captions of other subjects of other topics, which nobody would call true of the image: within a topic
    they may be, as "An orange." is of a mandarin. Those of its own topic where there is no other."""
    others = [other for other in recorded if _differ(one, other)]
    return [other for other in others if other.stamp.topic != one.stamp.topic] or others


def _differ(one: _Recorded, other: _Recorded) -> bool:
    """Whether the caption of `other` is false of the image of `one`, as far as the captions tell."""
    a, b = (set(re.findall(r"\w+", part.caption.lower())) for part in (one, other))
    return one.stamp.subject != other.stamp.subject and not (a <= b or b <= a)


def _captions_of(folder: Path, language: str, split: Split) -> tuple[list[_Recorded], list[_Recorded], Counter[str]]:
    """(captions of a split that are recorded in `language`, the letters A and B where both are, why others are left
    out). Raises InputError where no split has any."""
    every = read_stamps(folder)
    recorded = [one for stamp in every if (one := _recorded_in(language, stamp, folder))]
    if not recorded:
        names = (_RECORDING.fullmatch(path.stem) for path in folder.rglob("*_desc*") if path.suffix.lower() in SUFFIXES)
        languages = Counter(name[1] or ENGLISH for name in names if name)
        known = ", ".join(f"{code} ({times})" for code, times in sorted(languages.items()))
        raise InputError(f"language: {language}: no caption of {folder} is recorded in it; there are {known or 'none'}")
    chosen = [one for one in recorded if one.stamp.split == split]
    letters = [one for one in recorded if one.stamp.name in _LETTERS]
    left_out = sum(stamp.split == split for stamp in every) - len(chosen)
    skipped = Counter({f"no recording with its text in {language}": left_out})
    return chosen, letters if len(letters) == len(_LETTERS) else [], skipped


def _recorded_in(language: str, stamp: Stamp, folder: Path) -> _Recorded | None:
    code = language.replace("-", "_")
    # recordings in English have no language in their names
    names = (f"_desc_{code}", "_desc") if code == ENGLISH else (f"_desc_{code}",)
    files = (stamp.path.with_name(f"{stamp.path.name}{name}{suffix}") for name in names for suffix in SUFFIXES)
    path = next(filter(None, map(with_suffix_of_any_case, files)), None)
    if path is None or code not in stamp.captions:
        return None
    # a link out of the folder is refused when it is read, and costs its row only
    return _Recorded(stamp, stamp.captions[code], Clip(path, folder=folder))


def read_stamps(folder: Path) -> list[Stamp]:
    """All stamps of a folder and the folders in it, in the order of their names. Raises InputError for a folder of
    another layout, and for a caption that is not UTF-8."""
    if not folder.is_dir():
        raise InputError(f"path: {folder}: no such folder; give one of Tux Paint's folders of stamps")
    found = []
    for path in sorted(folder.rglob("*.txt")):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (UnicodeDecodeError, OSError) as error:
            raise InputError(f"path: {path}: not text in UTF-8 ({error})") from error
        captions = {m[1]: tidy(m[2]) for line in lines[1:] if (m := _CAPTION.fullmatch(line.strip()))}
        captions = {language: caption for language, caption in captions.items() if caption}
        if lines and (english := tidy(lines[0])):
            name = path.relative_to(folder).with_suffix("").as_posix()
            found.append(Stamp(path.with_suffix(""), name, {ENGLISH: english} | captions))
    if not found:
        raise InputError(
            f"path: {folder}: no NAME.txt with a caption in it; this is not the layout of Tux Paint's stamps"
        )
    return found


def _category(one: _Recorded) -> str:
    return one.stamp.name.rpartition("/")[0]


def _speaker(language: str) -> str:
    """Speakers are not named in the files; each language was recorded by a few people."""
    return f"stamps-{language}"


def _row_id(source: str, language: str, one: _Recorded) -> str:
    return f"{source}-{language}-{one.stamp.name.replace('/', '.')}"
