"""Whether two evaluated runs saw the same thing: only then is their difference that of the models.

Two views of runs are comparable where the settings that change what is asked or how it is graded are the same, and so
is every item: its image, question, target, instruction and the form of its answer; of two views of one modality also
the whole prompt, sound included. `selfkd compare` refuses what is not; the report keeps it apart, and says why.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfkd.errors import InputError
from selfkd.run_dir import first_difference

# what runs on the same items may differ in: who is asked, where things lie, which part is asked, at what pace
_OF_THE_RUN = {
    *(
        "stage",
        "model",
        "data",
        "output",
        "benchmarks",
        "local_datasets",
        "modalities",
        "cache",
        "asr_model",
        "limit",
        "seed",
    ),
    *("trust_remote_code", "url", "batch_size", "likelihood", "keep_failures"),
}
_OF_THE_PACE = {
    "endpoint": {
        *("concurrency", "requests_per_minute", "timeout_seconds", "max_retries"),
        *("max_failures", "budget", "price_in", "price_out"),
    },
    "audio": {"processes", "pool", "address", "engine_path"},
}
_OF_THE_SPEECH = ("voices", "audio")  # nothing to a run that is asked in writing
_OF_THE_ITEM = (
    "source",
    "question",
    "target",
    "question_type",
    "category",
    "details",
    "group",
    "image",
    "instruction",
    "answer_format",
)


@dataclass(frozen=True)
class Query:
    """What a system was asked on a benchmark: the run, as messages name it, its view, configuration and samples."""

    run: str
    modality: str
    config: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]


def difference(first: Query, second: Query) -> str:
    """How the second was asked otherwise than the first, with the name of what differs and both values, as the end of a
    sentence about it; "" where all is the same."""
    if told := _setting(first, second):
        return f"was asked otherwise than {first.run} ({told})"
    if told := _item(first, second):
        return f"has other items than {first.run} ({told})"
    # the cascade is asked by the sound of the speech view
    if (first.modality == "text") == (second.modality == "text") and (told := _prompt(first, second)):
        how = "asked otherwise than" if first.modality == "text" else "spoken otherwise than in"
        return f"was {how} {first.run} ({told})"
    return ""


def check_fields(path: Path, samples: Sequence[Mapping[str, Any]], more: Sequence[str] = ()) -> None:
    """Raises InputError where samples lack what comparing asks of them: an older selfkd wrote them."""
    needed = (*more, "id", "prompt", *_OF_THE_ITEM, "prediction", "error", "score")
    missing = [name for name in needed if samples and name not in samples[0]]
    if missing:
        raise InputError(f"{path}: field {missing[0]}: missing; an older selfkd wrote this run, evaluate again")


def _setting(first: Query, second: Query) -> str:
    here, there = (_that_count(asked) for asked in (first, second))
    names = [
        n for n in sorted({*here, *there}) if n not in _OF_THE_SPEECH or "text" not in (first.modality, second.modality)
    ]
    found = first_difference(here, there, names)
    if found is None:
        return ""
    name, one, other = found
    if isinstance(one, dict) and isinstance(other, dict):
        inner = first_difference(one, other, sorted({*one, *other}))
        assert inner is not None
        name, one, other = f"{name}.{inner[0]}", *inner[1:]
    return _told(name, first, one, second, other)


def _that_count(asked: Query) -> dict[str, Any]:
    settings = {name: value for name, value in asked.config.items() if name not in _OF_THE_RUN}
    for name, of_pace in _OF_THE_PACE.items():
        given = settings.get(name) or {}
        settings[name] = {k: v for k, v in given.items() if k not in of_pace and v not in ({}, None)}
    settings["voices"] = sorted(settings.get("voices") or [])  # a voice is a benchmark of its own
    return settings


def _item(first: Query, second: Query) -> str:
    if [s["id"] for s in first.samples] != [s["id"] for s in second.samples]:
        ids = [{s["id"] for s in asked.samples} for asked in (first, second)]
        lacking = sorted(ids[0] ^ ids[1])
        if not lacking:
            return f"the items of {second.run} have another order than those of {first.run}"
        has, lacks = (first, second) if lacking[0] in ids[0] else (second, first)
        return f"item {lacking[0]} is in {has.run} and not in {lacks.run}"
    for one, other in zip(first.samples, second.samples, strict=True):
        if found := first_difference(one, other, _OF_THE_ITEM):
            name, here, there = found
            return f"item {one['id']}: {_told(name, first, here, second, there)}"
    return ""


def _prompt(first: Query, second: Query) -> str:
    for one, other in zip(first.samples, second.samples, strict=True):
        if one["prompt"] != other["prompt"]:
            return f"item {one['id']}: {_told('hash of the prompt', first, one['prompt'], second, other['prompt'])}"
    return ""


def _told(name: str, first: Query, one: Any, second: Query, other: Any) -> str:
    return f"{name}: {_short(one)} in {first.run}, {_short(other)} in {second.run}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}..."
