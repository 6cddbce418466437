"""Published sets with recorded questions, as they lie on the hub or in a downloaded copy: one table each (`LAYOUTS`).

The transcript is the text query, the recording the audio query, so any of them is a paired test of the gap. In most of
these sets a TTS engine was the speaker (docs/data.md says in which); what is read here is the audio as published.

In a `Layout` a name leads to a column, or into a struct (`extra.raw_options`); an id, an image and a recording may be a
pattern of columns: `COCO_val2014_{image_id:012}.jpg`, `{sample_id//1000}` for its thousands, `{speech|question_id}` for
the first of them that a row has. `--columns.FIELD` replaces a name, where a set has changed since.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from selfkd.data.as_text import as_text, is_blank
from selfkd.errors import InputError
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.sources.annotations import (
    Answers,
    mm_vet_answers,
    plain_target,
    textvqa_answers,
    vqa_answers,
    whole_reference,
)
from selfkd.synthesis.sources.llava import split_question
from selfkd.synthesis.sources.rows import UNANSWERED, Clip, Row, RowSource, sample_rows
from selfkd.synthesis.sources.tables import NO_RECORDING, TEXT_TABLES, Folders, Table, clips_of, image_of, open_table
from selfkd.toy_world.tasks import REPEAT_INSTRUCTION

ONE_WORD = "\nAnswer the question using a single word or phrase."  # as in the benchmarks of the same questions
LETTER = "\nAnswer with the option's letter from the given choices directly."
OPEN = "answers are open: the rule for short answers hardly fits them, selfkd judge --criterion correctness grades them"
OCR_LEFT_OUT = "reference OCR tokens are left out, in both modalities"
OPTIONS_IN_TEXT = "options stay text, in both modalities"
FIELDS = ("id", "question", "answer", "image", "speech", "category", "options")
LETTERS = "ABCDEFGH"  # of options, as responses are parsed
_PATTERN = re.compile(r"\{([^{}:/]+)(?://(\d+))?(?::0?(\d+))?\}")  # columns, divisor, width
_KEYS = ("sample_id", "question_id", "image")  # columns by which answers are found


@dataclass(frozen=True)
class Layout:
    """The columns of a set by field, and what holds for all of its rows. Without a column of answers they are in a file
    of annotations, or, of type `repeat`, the answer is the transcript."""

    license: str
    question: str  # the transcript; a list of its parts is joined
    speech: tuple[str, ...]  # one clip after another
    id: str
    answer: str = ""  # a list holds the answers of several people, or spellings
    image: str = ""
    other_images: tuple[str, ...] = ()  # a row that has any of them is skipped
    category: str = ""
    options: str = ""
    text_question: str = ""  # stays text, after the query, where the recording is what the question is about
    only: tuple[str, str] | None = None  # (column, value) of the rows that are read, where there is such a column
    question_type: str = "words"
    joins_answer: bool = False  # the answer's column lists its words, not several answers
    answer_format: str = ""
    has_prompt: bool = False  # OCR tokens and a sentence on the answer's form are part of the question's column
    config: str = ""  # of the dataset on the hub
    folder: str = ""  # of the Parquet files in a copy of it; the config's name unless given
    file: str = ""  # of the questions, in a folder with files of images and recordings
    images: str = ""  # their folders in that folder
    recordings: str = ""
    annotations: str = ""  # file of the answers; next to the questions unless --annotations says where
    read_annotations: Callable[[Path], Answers] | None = None
    notes: tuple[str, ...] = ()


_BABILLAGE = Layout(
    license="CC-BY-4.0 (Babillage; the images have their own)",
    question="question_transcript",
    speech=("question_audio",),
    id="sample_id",
    answer="answer_transcript",
    joins_answer=True,  # words, as they are aligned with the audio
    notes=(OPEN,),
)
_LYRA = Layout(
    license="Apache-2.0 (Lyra-Eval; the images have their own)",
    question="text",
    speech=("{speech|question_id}",),
    id="{question_id}-{speech|question_id}",
    answer="answer",
    image="image",
    has_prompt=True,
    answer_format=ONE_WORD,
    recordings="lyra_audios",
)
_VOICEBENCH = Layout(
    license="Apache-2.0 (VoiceBench)", question="prompt", speech=("audio",), id="", question_type="repeat"
)
LAYOUTS: dict[str, Layout] = {
    "babillage-coco": replace(_BABILLAGE, config="coco", image="COCO_val2014_{image_id:012}.jpg"),
    "babillage-ocrvqa": replace(_BABILLAGE, config="ocrvqa", image="{image_id}.jpg"),
    "babillage-vqav2": replace(
        _BABILLAGE,
        config="vqav2",
        answer="",
        image="COCO_val2014_{sample_id//1000:012}.jpg",  # VQA v2's ids of questions begin with their image's
        question_type="vqa",
        answer_format=ONE_WORD,
        annotations="v2_mscoco_val2014_annotations.json",
        read_annotations=vqa_answers,
        notes=(),
    ),
    "voiceassistant-eval": Layout(
        license="MIT (VoiceAssistant-Eval; the images have their own)",
        question="extra.user_audio_transcripts",
        speech=tuple(f"user_audio_{number}" for number in range(7)),
        id="id",
        answer="ref_answers",
        image="image_0",
        other_images=tuple(f"image_{number}" for number in range(1, 5)),
        category="category2",
        options="extra.raw_options",
        config="viewing_multi_discipline",
        folder="viewing",
        notes=(OPTIONS_IN_TEXT,),
    ),
    "lyra-textvqa": replace(
        _LYRA,
        question="prompt",
        answer="",
        question_type="vqa",
        file="lyra_textvqa_val_v051_ocr_withspeechid.jsonl",
        images="train_images",
        annotations="TextVQA_0.5.1_val.json",
        read_annotations=textvqa_answers,
        notes=(OCR_LEFT_OUT,),
    ),
    "lyra-docvqa": replace(_LYRA, file="lyra_docvqa_audio.jsonl", question_type="document"),
    "lyra-chartvqa": replace(_LYRA, file="lyra_chartvqa_audio.jsonl", question_type="chart"),
    "lyra-mmvet": replace(
        _LYRA,
        answer="",
        file="lyra_mm_vet.jsonl",
        images="images",
        answer_format="",
        annotations="mm-vet.json",
        read_annotations=mm_vet_answers,
        notes=(OPEN,),
    ),
    "omnibench": Layout(
        license="not stated (OmniBench)",
        question="audio content",
        speech=("audio",),
        id="index",
        answer="answer",
        image="image",
        category="task type",
        options="options",
        text_question="question",
        only=("audio type", "speech"),
        notes=("the recording is content: the question and its options stay text, in both modalities",),
    ),
    "spokenvisit": Layout(
        license="CC-BY-4.0 (SpokenVisIT, under the terms of VisIT-Bench)",
        question="instruction",
        speech=("speech",),
        id="id",
        answer="reference_output",
        image="image",
        category="instruction_category",
        file="VisIT_speech.jsonl",
        images="images",
        recordings="speech",
        notes=(OPEN,),
    ),
    "voicebench-commoneval": replace(_VOICEBENCH, config="commoneval"),
    "voicebench-wildvoice": replace(_VOICEBENCH, config="wildvoice"),
    "voicebench-sdqa": replace(_VOICEBENCH, config="sd-qa", question_type="words", answer="reference"),
}


def published_set(config: SynthesizeConfig) -> RowSource:
    """The questions of a set in its published layout. Raises InputError, naming file and column, for another layout."""
    name, count, seed = config.source, config.count, config.seed
    layout = _with_columns(LAYOUTS[name], config.columns)
    table, images = _opened(name, layout, config)
    answers = _answers(name, layout, config, Path(config.path))
    skipped: Counter[str] = Counter()
    rows = sample_rows(_rows(name, layout, table, images, answers, skipped), count, seed)
    return RowSource(name, rows, layout.license, skipped=dict(skipped), notes=layout.notes)


def _with_columns(layout: Layout, columns: Mapping[str, str]) -> Layout:
    unknown = [field for field in columns if field not in FIELDS]
    if unknown:
        raise InputError(f"columns: {unknown[0]!r} is no field; there are {', '.join(FIELDS)}")
    changes: dict[str, Any] = dict(columns)
    if "speech" in changes:
        changes["speech"] = (columns["speech"],)
    return replace(layout, **changes)


def _opened(name: str, layout: Layout, config: SynthesizeConfig) -> tuple[Table, Path]:
    """(the records, the folder of images that they name)."""
    path, recordings = config.path, Path(config.recordings) if config.recordings else None
    images = Path(config.images)
    if layout.file:
        folder = Path(path).parent if Path(path).is_file() else Path(path)
        path = path if Path(path).is_file() else str(folder / layout.file)
        images = images if config.images else folder / layout.images
        recordings = recordings or folder / layout.recordings
        if not Path(path).is_file():
            raise InputError(f"path: {path}: no such file; {name} is read from the folder that holds {layout.file}")
    elif layout.config and ":" not in path and (not Path(path).exists() or (Path(path) / "README.md").is_file()):
        path = f"{path}:{layout.config}"  # of the hub, or a copy whose card lists the files of its configs
    elif layout.config and (inner := Path(path) / (layout.folder or layout.config)).is_dir():
        path = str(inner)
    files = dict.fromkeys(layout.speech, "speech") | dict.fromkeys((layout.image, *layout.other_images), "image")

    def check(available: Sequence[str]) -> None:
        _check_columns(name, layout, available, path)

    table = open_table(path, config.split, _columns_of(layout), files, Folders(images, recordings), check)
    if Path(path).suffix.lower() in TEXT_TABLES:  # whose columns are those of each record
        table = table._replace(records=_checked_at_first(table.records, check))
    return table, images


def _checked_at_first(
    records: Iterable[Mapping[str, Any]], check: Callable[[Sequence[str]], None]
) -> Iterator[Mapping[str, Any]]:
    for number, record in enumerate(records):
        if number == 0:
            check(list(record))
        yield record


def _alternatives(name: str) -> list[list[str]]:
    """The columns that a name or a pattern needs, each with its alternatives."""
    parts = [match[1] for match in _PATTERN.finditer(name)] if "{" in name else [name]
    return [[column.partition(".")[0] for column in part.split("|")] for part in parts if part]


def _columns_of(layout: Layout) -> set[str]:
    """All columns that are read."""
    names = [layout.id, layout.question, layout.answer, layout.image, *layout.speech, *layout.other_images]
    names += [layout.category, layout.options, layout.text_question, layout.only[0] if layout.only else ""]
    return {column for name in names for alternatives in _alternatives(name) for column in alternatives}


def _check_columns(name: str, layout: Layout, available: Sequence[str], where: str) -> None:
    """Raises InputError where a set has other columns than this table says. The category is of no account, nor are more
    images and more clips than the first."""
    fields = (layout.question, layout.speech[0], layout.id, layout.answer, layout.image, layout.options)
    for alternatives in (found for field in (*fields, layout.text_question) for found in _alternatives(field)):
        if not any(column in available for column in alternatives):
            raise InputError(
                f"columns: {where}: no column {alternatives[0]!r}, which {name} had when this reader was written; "
                f"there are {', '.join(available)} (--columns.FIELD names another)"
            )


def _answers(name: str, layout: Layout, config: SynthesizeConfig, path: Path) -> Answers | None:
    if layout.read_annotations is None:
        return None
    folder = path.parent if path.is_file() else path
    file = Path(config.annotations) if config.annotations else folder / layout.annotations
    if not file.is_file():
        raise InputError(
            f"annotations: {file}: no such file; {name} has its answers in {layout.annotations}, which its questions "
            "come without"
        )
    return layout.read_annotations(file)


def _rows(
    name: str, layout: Layout, table: Table, images: Path, answers: Answers | None, skipped: Counter[str]
) -> Iterator[Row]:
    for number, record in enumerate(table.records):
        where = f"columns: {table.where}: row {number}:"
        if layout.only and not is_blank(found := record.get(layout.only[0])) and found != layout.only[1]:
            skipped[f"{layout.only[0]} is not {layout.only[1]}"] += 1
            continue
        if any(image_of(record.get(column), images, where) for column in layout.other_images):
            skipped["several images"] += 1
            continue
        clips = _clips(layout, record, table.recordings, where)
        question, answer_format = _texts(layout, record, where)
        found_answers = _answers_of(layout, record, question, answers, where)
        if not clips:
            skipped[NO_RECORDING] += 1
        elif not question or not found_answers:
            skipped[UNANSWERED] += 1
        elif (graded := _graded(layout, record, found_answers, where)) is None:
            skipped["no answer that can be graded"] += 1
        else:
            suffix = as_text(_filled(layout.id, record, where), where) if layout.id else f"{number:06d}"
            yield Row(
                id=f"{name}-{suffix}",
                question=question,
                answer=graded.target,
                instruction=f"{REPEAT_INSTRUCTION}\n" if layout.question_type == "repeat" else "",
                answer_format=_after(layout, record, graded.details.get("options", {}), where) or answer_format,
                image=image_of(_filled(layout.image, record, where), images, f"{where} {layout.image!r}"),
                clips=clips,
                category=_joined(_value(record, layout.category), where),
                question_type=graded.question_type,
                details=json.dumps(graded.details, ensure_ascii=False) if graded.details else "",
            )


def _value(record: Mapping[str, Any], name: str) -> Any:
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _joined(value: Any, where: str) -> str:
    """The text of a value, of a list the texts of its items."""
    return as_text(" ".join(_texts_of(value if isinstance(value, list | tuple) else [value], where)), where)


def _texts_of(value: Any, where: str) -> list[str]:
    """The texts of a list's items that are not blank; none of any other value."""
    return [t for one in value if (t := as_text(one, where))] if isinstance(value, list | tuple) else []


def _filled(name: str, record: Mapping[str, Any], where: str) -> Any:
    """The value of a plain name; of a pattern the text with the columns' values in it, "" where one is missing."""
    if "{" not in name:
        return _value(record, name)
    values: dict[str, str] = {}
    for match in _PATTERN.finditer(name):
        text = next((t for c in match[1].split("|") if (t := as_text(_value(record, c), where))), "")
        if match[2]:
            text = str(int(text) // int(match[2])) if text.isdecimal() else ""
        if not text:
            return ""
        values[match[0]] = text.zfill(int(match[3] or 0))
    return _PATTERN.sub(lambda match: values[match[0]], name)


def _clips(layout: Layout, record: Mapping[str, Any], folder: Path, where: str) -> tuple[Clip, ...]:
    return tuple(c for name in layout.speech for c in clips_of(_filled(name, record, where), folder, where))


def _texts(layout: Layout, record: Mapping[str, Any], where: str) -> tuple[str, str]:
    """(question, text after it)."""
    text = _joined(_value(record, layout.question), f"{where} {layout.question!r}")
    if not layout.has_prompt:
        return text, layout.answer_format
    question, _, answer_format = split_question(text, audio_instruction=False)
    return question, answer_format or layout.answer_format


def _answers_of(
    layout: Layout, record: Mapping[str, Any], question: str, answers: Answers | None, where: str
) -> list[str]:
    """The answers of a row, in the order of the set; none where it has none."""
    if layout.question_type == "repeat":
        return [question]
    if answers is not None:
        return answers({name: as_text(record.get(name), where) for name in _KEYS}, question)
    value = _value(record, layout.answer)
    if layout.joins_answer or not isinstance(value, list | tuple):
        value = [_joined(value, where)]
    return _texts_of(value, f"{where} {layout.answer!r}")


class _Graded(NamedTuple):
    target: str
    question_type: str
    details: dict[str, Any]  # what the rule for this type needs


def _graded(layout: Layout, record: Mapping[str, Any], answers: Sequence[str], where: str) -> _Graded | None:
    """How a response is graded; None where no rule can."""
    options = dict(zip(LETTERS, listed := _texts_of(_value(record, layout.options), where), strict=False))
    if listed:
        same = [letter for letter, text in options.items() if text == answers[0]]
        letter = same[0] if len(same) == 1 else answers[0].strip(" ().").upper()
        known = letter in options and len(listed) <= len(LETTERS)
        return _Graded(letter, "multiple_choice", {"options": options}) if known else None
    if layout.question_type == "vqa":
        return _Graded(Counter(answers).most_common(1)[0][0], "vqa", {"answers": list(answers)})
    if layout.question_type == "document":
        return _Graded(answers[0], "document", {"answers": list(answers)})
    target, reference = plain_target(answers), whole_reference(answers)
    if layout.question_type == "words" and not re.search(r"\w", target):
        return None
    return _Graded(target, layout.question_type, {} if target == reference else {"reference": reference})


def _after(layout: Layout, record: Mapping[str, Any], options: Mapping[str, str], where: str) -> str:
    """The text after the query where there are options, or a question in text; "" otherwise."""
    question = _joined(_value(record, layout.text_question), where) if layout.text_question else ""
    lines = [*([question] if question else []), *(f"{letter}. {text}" for letter, text in options.items())]
    return "".join(f"\n{line}" for line in lines) + (LETTER if options else "")
