"""MMStar, AI2D, RealWorldQA and MMBench: questions to be answered with an option's letter.

Prompts exactly as in lmms-eval (tasks mmstar, ai2d, realworldqa, mmbench_en_dev), default models: the instruction of
MMStar has no full stop, that of MMBench follows an empty line. Responses are parsed by `answer_parsing.chosen_letter`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from selfkd.errors import InputError
from selfkd.evaluation.benchmarks.answer_parsing import LETTERS, chosen_letter, options_of
from selfkd.evaluation.benchmarks.base import (
    Benchmark,
    Grade,
    Sample,
    details_json,
    group_by,
    load_image,
    percent,
    percent_all_correct,
    percent_by_category,
    required_field,
)
from selfkd.synthesis.sources.rows import Row

LETTER = "\nAnswer with the option's letter from the given choices directly."
ROTATION = 1_000_000  # MMBench: index + k * ROTATION is the same question, its options rotated k times
_INSTRUCTION = re.compile(r"(?:(?<!\s)\s+)?Please answer directly with [^\n]*\Z")
Records = Iterable[Mapping[str, Any]]


def grade(sample: Sample, prediction: str) -> Grade:
    parsed = chosen_letter(prediction, sample["details"]["options"])
    return Grade(parsed, float(parsed == sample["target"]))


def metrics(samples: Sequence[Sample]) -> dict[str, float]:
    return {"accuracy": percent(samples)} | {k: v for k, v in percent_by_category(samples).items() if k}


def mmstar_rows(records: Records) -> Iterator[Row]:
    """The options are part of the question, as "Options: A: ..., B: ...", and stay there."""
    for number, record in enumerate(records):
        question = required_field(record, "question", number).strip()
        yield Row(
            id=f"mmstar-{str(required_field(record, 'index', number)).zfill(4)}",
            question=question,
            answer=_target_letter(record, number),
            answer_format=LETTER.removesuffix("."),
            image=load_image(record, number),
            category=record["category"],
            question_type="multiple_choice",
            details=details_json(options=options_of(question) or _unknown_options(), ability=record["l2_category"]),
        )


def mmstar_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """Accuracy over all 1,500, which is the mean of the six categories of 250 (Chen et al., arXiv 2403.20330);
    lmms-eval's "average" is the mean over the 18 abilities, which are not of one size."""
    abilities = group_by(samples, lambda s: s["details"]["ability"]).values()
    mean = sum(map(percent, abilities)) / len(abilities) if abilities else 0.0
    return metrics(samples) | {"mean of abilities": mean}


def ai2d_rows(records: Records) -> Iterator[Row]:
    """`answer` is the index of the correct option, as text."""
    for number, record in enumerate(records):
        options = dict(zip(LETTERS, required_field(record, "options", number), strict=False))
        answer = str(required_field(record, "answer", number))
        if not answer.isdecimal() or int(answer) >= len(options):
            raise InputError(f"row {number}: field answer: {answer!r} is no index of the {len(options)} options")
        yield Row(
            id=f"ai2d-{number:04d}",
            question=f"{required_field(record, 'question', number)}\n{_option_lines(options)}",
            answer=LETTERS[int(answer)],
            answer_format=LETTER,
            image=load_image(record, number),
            question_type="multiple_choice",
            details=details_json(options=options),
        )


def realworldqa_rows(records: Records) -> Iterator[Row]:
    """Options and the instruction are part of the question; the instruction becomes the answer format. Where the target
    is a word or a number there are no options."""
    for number, record in enumerate(records):
        full_question = required_field(record, "question", number).strip()
        question = _INSTRUCTION.sub("", full_question)
        answer = str(required_field(record, "answer", number)).strip()
        options = (options_of(question) or _unknown_options()) if answer in ("A", "B", "C", "D") else {}
        yield Row(
            id=f"realworldqa-{number:03d}",
            question=question,
            answer=answer,
            answer_format=full_question.removeprefix(question),
            image=load_image(record, number),
            category="choice" if options else "word",
            question_type="multiple_choice",
            details=details_json(options=options),
        )


def realworldqa_grade(sample: Sample, prediction: str) -> Grade:
    """As lmms-eval: the letter where there are options, else the same word up to case and a full stop."""
    if sample["details"]["options"]:
        return grade(sample, prediction)
    parsed = prediction.lower().strip().rstrip(".")
    return Grade(parsed or None, float(parsed == sample["target"].lower()))


def mmbench_rows(records: Records) -> Iterator[Row]:
    """The hint, if there is one, comes first; missing hints and options are empty, or the word "nan"."""
    for number, record in enumerate(records):
        options = {letter: str(record[letter]) for letter in "ABCD" if _is_present(record[letter])}
        hint = f"{record['hint']} " if _is_present(record["hint"]) else ""
        question = required_field(record, "question", number)
        index = str(required_field(record, "index", number))  # int64 in some copies, text in others
        if not index.isdecimal():
            raise InputError(f"row {number}: field index: {index!r} is no number")
        yield Row(
            id=f"mmbench-{int(index):07d}",
            question=f"{hint}{question} There are several options:\n{_option_lines(options)}",
            answer=_target_letter(record, number),
            answer_format=f"\n{LETTER}",
            image=load_image(record, number),
            category=record["L2-category"],
            question_type="multiple_choice",
            details=details_json(options=options, index=int(index), leaf=record["category"]),
        )


def mmbench_group(sample: Sample) -> str:
    """A question with all its rotations."""
    return str(sample["details"]["index"] % ROTATION)


def mmbench_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """CircularEval (Liu et al., arXiv 2307.06281): a question counts where the model is correct under every rotation of
    its options. There is a "circular" score only for samples with rotations; without, accuracy is the vanilla one."""
    unrotated = [s for s in samples if s["details"]["index"] < ROTATION]
    result = {"accuracy": percent_all_correct(samples, mmbench_group), "vanilla": percent(unrotated)}
    if len(unrotated) < len(samples):
        result["circular"] = result["accuracy"]
    for name, part in sorted(group_by(samples, lambda s: s["category"]).items()):
        result[name] = percent_all_correct(part, mmbench_group)
    return result


def _option_lines(options: Mapping[str, str]) -> str:
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def _unknown_options() -> dict[str, str]:
    """Options whose texts cannot be parsed from the question: their letters can still be chosen."""
    return dict.fromkeys("ABCD", "")


def _is_present(value: Any) -> bool:
    return value is not None and str(value) not in ("", "nan")


def _target_letter(record: Mapping[str, Any], number: int) -> str:
    answer = str(required_field(record, "answer", number)).strip().upper()
    if answer not in tuple(LETTERS):
        raise InputError(f"row {number}: field answer: {answer!r} is no option letter")
    return answer


MMSTAR = Benchmark(
    name="mmstar",
    hub="Lin-Chen/MMStar",
    config=None,
    split="val",
    columns=("index", "question", "image", "answer", "category", "l2_category"),
    license="not stated; composed of questions of other benchmarks",
    rows=mmstar_rows,
    grade=grade,
    metrics=mmstar_metrics,
    revision="bc98d668301da7b14f648724866e57302778ab27",
    column_types={"index": "text or number"},
)
AI2D = Benchmark(
    name="ai2d",
    hub="lmms-lab-encoder/ai2d",
    config=None,
    split="test",
    columns=("question", "options", "answer", "image"),
    license="not stated by the copy",
    rows=ai2d_rows,
    grade=grade,
    metrics=metrics,
    revision="c83a9b9692933aff8349157c88a413df9d02c4e5",
    column_types={"options": "texts", "answer": "text or number"},
)
REALWORLDQA = Benchmark(
    name="realworldqa",
    hub="lmms-lab-encoder/RealWorldQA",
    config=None,
    split="test",
    columns=("question", "answer", "image"),
    license="CC-BY-ND-4.0 (xAI; the copy says CC-BY-4.0)",
    rows=realworldqa_rows,
    grade=realworldqa_grade,
    metrics=metrics,
    revision="907c4e5228fd1703c710ed937601cb5f89ab8d5c",
)
MMBENCH = Benchmark(
    name="mmbench",
    hub="lmms-lab-encoder/MMBench",
    config="en",
    split="dev",
    columns=("index", "question", "hint", "answer", "A", "B", "C", "D", "category", "image", "L2-category"),
    license="Apache-2.0 (MMBench's repository; not stated by the copy)",
    rows=mmbench_rows,
    grade=grade,
    metrics=mmbench_metrics,
    revision="56ba1af8954932c4804bd3f522e05ed96e63b654",
    column_types={"index": "text or number"},
    group=mmbench_group,
    counts_groups=True,
)
