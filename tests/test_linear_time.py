"""Every pattern and every reader of free text takes time in proportion to the text (sec_11: 79 s and 2.6 hours for a
text of 100,000 characters): responses of an endpoint have any length, and questions are data.

A text is one unit many times, between a beginning and an end. Its time is compared with that of a text four times as
long, in one process: linear is a ratio of 4, quadratic one of 16."""

import importlib
import json
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import pytest

import selfkd
from selfkd.credentials import masked_text
from selfkd.data.as_text import check_text, tidy
from selfkd.data.image_placeholders import leftover_image_placeholder, strip_image_placeholder
from selfkd.errors import InputError, without_run_details
from selfkd.evaluation import refusals
from selfkd.evaluation.backends.chat_response import parse_chat_response
from selfkd.evaluation.benchmarks import official_scoring
from selfkd.evaluation.benchmarks.answer_parsing import chosen_letter, options_of, yes_or_no
from selfkd.evaluation.benchmarks.registry import BENCHMARKS
from selfkd.evaluation.cascade import question_form
from selfkd.evaluation.correctness import parse_score
from selfkd.evaluation.grading import SCORED_TYPES, parse
from selfkd.evaluation.judge import parse_verdict
from selfkd.evaluation.overlap import overlap
from selfkd.evaluation.response import Prediction
from selfkd.files import strip_folders
from selfkd.report.sections.audio_quality import _general_reason
from selfkd.synthesis import text_normalization
from selfkd.synthesis.quality_filter import word_error_rate
from selfkd.synthesis.sources.llava import _BOX, split_question
from selfkd.synthesis.text_normalization import spoken_form
from selfkd.toy_world.questions import captions_in

SHORT, LONG = 2_000, 8_000  # characters
MAX_RATIO = 9.0
NEGLIGIBLE_SECONDS = 0.03  # quadratic time of a pattern at LONG is 0.1 s and more

# of texts that are cut before they are matched: see `test_texts_with_a_limit`
# modules of plugins whose host is not there
NOT_INSTALLED = tuple(
    name
    for library, names in {
        "lmms_eval": ["selfkd.evaluation.backends.lmms_eval"],
        "vllm": ["selfkd.vllm.models", "selfkd.vllm.processing"],
    }.items()
    if find_spec(library) is None
    for name in names
)
BOUNDED = ("selfkd.synthesis.text_normalization", "selfkd.synthesis.english_words", "selfkd.evaluation.refusals")
UNITS = (
    *" \n\t()[]{}<>|a1A.,:-'\"\\$&/_*@!é中",
    *("a ", "a.", "1,", "1.", "A. ", "a_", "a-", "a:", "a@", "a, ", "(a", "a)", "<a ", "<a", "</", "&#1", "$a", "\\a"),
    *("\n ", "\na", "\n|", "|a", '"a', 'a="', "['", "![", "[1.1,", " 0.1,", " at 0x", "://", "no ", "not ", "wrong "),
    *(
        "A is ",
        "is A ",
        "A or ",
        "answer ",
        "Answer: ",
        "<answer>",
        "</think>",
        "<think>",
        "Option A is ",
        "{",
        '{"a":',
    ),
    *(". Option B is ", "hundred ", "one ", "<|channel|>final", "- A", "A/", "A? ", "wait "),
)
AROUND = (("", ""), ("<a (", "!\nb"))
FEW_AROUND = (("a", "!\nb"),)  # for slow functions


def patterns() -> dict[str, re.Pattern[str]]:
    """All patterns of all modules, by name."""
    found: dict[re.Pattern[str], str] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
            found.setdefault(value, name)
        elif isinstance(value, list | tuple | dict):
            for i, part in enumerate(value.values() if isinstance(value, dict) else value):
                collect(f"{name}[{i}]", part)

    for module in pkgutil.walk_packages(selfkd.__path__, "selfkd."):
        if not module.name.startswith((*BOUNDED, *NOT_INSTALLED)):
            for name, value in list(vars(importlib.import_module(module.name)).items()):
                if not name.startswith("__"):
                    collect(f"{module.name}.{name}", value)
    return {name: pattern for pattern, name in found.items()}


OPTIONS = {"A": "a cat", "B": "two dogs", "C": "not a dog"}
READERS: dict[str, Callable[[str], Any]] = {
    "chosen_letter": lambda text: chosen_letter(text, OPTIONS),
    "options_of": options_of,
    "yes_or_no": yes_or_no,
    **{f"official {name}": rule for name, rule in official_scoring.RULES.items()},
    **{
        f"parse {name}": lambda text, name=name: parse(name, "What is it?", text)
        for name in sorted(SCORED_TYPES - {"exists", "relation", "choice"})  # which are yes_or_no and chosen_letter
    },
    **{
        f"grade {name}": lambda text, grade=grade: grade(
            {
                "target": "B", "question": f"What?\n{text}", "category": "c",
                "details": {"answers": ["a"], "dataset": "d", "options": OPTIONS},
            },
            text,
        )
        for grade, name in {benchmark.grade: name for name, benchmark in BENCHMARKS.items()}.items()
    },
    "Prediction": Prediction,
    "parse_verdict": parse_verdict,
    "parse_score": parse_score,
    "parse_chat_response": lambda text: parse_chat_response(
        json.dumps({"choices": [{"message": {"content": text, "reasoning": text}}]}).encode()
    ),
    "overlap": lambda text: (overlap("how many dogs?", text), overlap(text, "two")),
    "question_form": question_form,
    "word_error_rate": lambda text: (word_error_rate(text, "what"), word_error_rate("what", text, "de")),
    "captions_in": captions_in,
    "split_question": lambda text: (split_question(text, False), _BOX.search(text)),
    "strip_image_placeholder": lambda text: strip_image_placeholder(f"{text}<image>{text}"),
    "leftover_image_placeholder": lambda text: leftover_image_placeholder(text, True),
    "tidy": lambda text: check_text("question", tidy(text)),
    "masked_text": masked_text,
    "errors": lambda text: (InputError(text), without_run_details(text), strip_folders(text, {"path": "/data"})),
    "_general_reason": _general_reason,
}  # fmt: skip


def seconds(work: Callable[[str], Any], text: str) -> float:
    start = time.process_time()
    with suppress(InputError):
        work(text)
    return time.process_time() - start


def superlinear(work: Callable[[str], Any], around=AROUND) -> Iterator[tuple[float, str, str, str]]:
    """(ratio, beginning, unit, end) of the texts on which the time grows faster than the text."""
    for unit in UNITS:
        for start, end in around:
            short, long = (start + unit * (size // len(unit)) + end for size in (SHORT, LONG))
            if (took := seconds(work, long)) < NEGLIGIBLE_SECONDS:
                continue
            for _ in range(3):  # a machine under load is slow at times
                ratio = took / max(min(seconds(work, short) for _ in range(2)), 1e-5)
                if ratio < MAX_RATIO:
                    break
                took = seconds(work, long)
            else:
                yield round(ratio, 1), start, unit, end


# of patterns that are tried at one position of a text only, by `match` or `fullmatch`
ANCHORED = (
    "credentials._NO_SCHEME", "data.image_placeholders._SENTENCE_AFTER", "evaluation.cascade._QUESTION_START",
    "evaluation.overlap._YES_NO", "model.convert_internvl2._COMPUTED", "synthesis.sources.rows._BETWEEN",
    "synthesis.sources.stamps._CAPTION", "synthesis.sources.stamps._RECORDING", "model.control_tokens._MARK",
    "evaluation.benchmarks.cue_words._VERB",
)  # fmt: skip


@pytest.mark.slow
def test_patterns_are_linear():
    every = {name.removeprefix("selfkd."): pattern for name, pattern in patterns().items()}
    assert every.keys() >= set(ANCHORED)
    found = {
        name: wrong
        for name, pattern in every.items()
        if (
            wrong := list(
                superlinear(
                    pattern.match if name in ANCHORED else lambda text, pattern=pattern: [*pattern.finditer(text)]
                )
            )
        )
    }
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_readers_are_linear(name):
    assert not list(superlinear(READERS[name], FEW_AROUND))


@pytest.mark.slow
def test_texts_with_a_limit():
    """Their patterns need not be linear: at the limit each text takes little time."""
    for name, work, limit in (
        ("spoken_form", spoken_form, text_normalization.MAX_CHARACTERS),
        ("is_refusal", refusals.is_refusal, refusals.MAX_CHARACTERS),
    ):
        for unit in UNITS:
            for start, end in FEW_AROUND:
                text = start + unit * ((limit - len(start + end)) // len(unit)) + end
                assert seconds(work, text) < 1.5 or seconds(work, text) < 1.5, (name, start, unit, end)


def test_the_measure_finds_a_quadratic_pattern():
    pattern = re.compile(r"\s*\?")
    assert [unit for _, _, unit, _ in superlinear(pattern.search, (("", "b"),))][:2] == [" ", "\n"]


def test_numbers_that_whisper_cannot_normalize():
    assert word_error_rate("hundred " * 4_000, "what") == 1.0
    assert word_error_rate("1" * 5_000, "what " + "1" * 5_000) == 1.0
