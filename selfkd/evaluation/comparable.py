"""Whether two evaluated runs had the same items and settings: only then is their difference that of the models.

Two modalities of runs are comparable where the settings that change a prompt or its grade are the same, and so is every
item: its image, question, target, instruction and the form of its answer; within one modality the whole prompt, audio
included. `selfkd compare` refuses other runs; the report keeps them apart and gives the reason.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Required

from typing_extensions import TypedDict

from selfkd.run_dir import first_difference
from selfkd.synthesis.output_folder import EXECUTION_FIELDS

# fields of EvaluateConfig in which comparable runs may differ: model, paths, choice of items and modalities, speed
_FREE_FIELDS = {
    *("stage", "model", "data", "output", "benchmarks", "local_datasets", "modalities", "cache", "limit"),
    *("asr_model", "asr_prompt"),
    *("seed", "trust_remote_code", "url", "batch_size", "likelihood", "keep_failures"),
}
_FREE_KEYS = {
    "endpoint": {
        *("concurrency", "requests_per_minute", "timeout_seconds", "max_retries"),
        *("max_failures", "budget", "price_in", "price_out"),
    },
    "synthesis": {*EXECUTION_FIELDS, "engine_path"},
}
_AUDIO_FIELDS = ("voices", "synthesis")  # do not matter to text queries
_ITEM_FIELDS = (
    *("source", "question", "target", "question_type", "category", "details", "group", "image", "instruction"),
    "answer_format",
)


class ReadSettings(TypedDict, total=False):
    """The fields of a run's `config.json` that a comparison or a report reads."""

    stage: Required[str]
    data: list[str]
    seed: int
    voices: list[str] | None
    endpoint: dict[str, Any] | None
    synthesis: dict[str, Any] | None


@dataclass(frozen=True)
class ModalityRun:
    """One modality of one run on one benchmark: the run's name for messages, its configuration and its samples."""

    run: str
    modality: str
    config: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]


def difference(first: ModalityRun, second: ModalityRun) -> str:
    """How the second differs from the first, with the name of the field and both values, as the predicate of a sentence
    about the second; "" where they are comparable."""
    if found := _setting_difference(first, second):
        return f"has other settings than {first.run} ({found})"
    if found := _item_difference(first, second):
        return f"has other items than {first.run} ({found})"
    # the cascade has the audio of the audio modality
    if (first.modality == "text") == (second.modality == "text") and (found := _prompt_difference(first, second)):
        difference = "other prompts" if first.modality == "text" else "other audio"
        return f"has {difference} than {first.run} ({found})"
    return ""


def _setting_difference(first: ModalityRun, second: ModalityRun) -> str:
    here, there = (_fixed_settings(one.config) for one in (first, second))
    has_text = "text" in (first.modality, second.modality)
    names = [n for n in sorted({*here, *there}) if n not in _AUDIO_FIELDS or not has_text]
    found = first_difference(here, there, names)
    if found is None:
        return ""
    name, one, other = found
    if isinstance(one, dict) and isinstance(other, dict):
        inner = first_difference(one, other, sorted({*one, *other}))
        assert inner is not None  # noqa: S101 an invariant of this code, no check of input
        name, one, other = f"{name}.{inner[0]}", *inner[1:]
    return _both_values(name, first, one, second, other)


def _fixed_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change a prompt or its grade."""
    settings = {name: value for name, value in config.items() if name not in _FREE_FIELDS}
    for name, free in _FREE_KEYS.items():
        given = settings.get(name) or {}
        settings[name] = {k: v for k, v in given.items() if k not in free and v not in ({}, None)}
    settings["voices"] = sorted(settings.get("voices") or [])  # each voice is a benchmark of its own
    return settings


def _item_difference(first: ModalityRun, second: ModalityRun) -> str:
    if [s["id"] for s in first.samples] != [s["id"] for s in second.samples]:
        ids = [{s["id"] for s in one.samples} for one in (first, second)]
        lacking = sorted(ids[0] ^ ids[1])
        if not lacking:
            return f"the items of {second.run} have another order than those of {first.run}"
        has, lacks = (first, second) if lacking[0] in ids[0] else (second, first)
        return f"item {lacking[0]} is in {has.run} and not in {lacks.run}"
    for one, other in zip(first.samples, second.samples, strict=True):
        if found := first_difference(one, other, _ITEM_FIELDS):
            name, here, there = found
            return f"item {one['id']}: {_both_values(name, first, here, second, there)}"
    return ""


def _prompt_difference(first: ModalityRun, second: ModalityRun) -> str:
    for one, other in zip(first.samples, second.samples, strict=True):
        if one["prompt_hash"] != other["prompt_hash"]:
            values = _both_values("prompt_hash", first, one["prompt_hash"], second, other["prompt_hash"])
            return f"item {one['id']}: {values}"
    return ""


def _both_values(name: str, first: ModalityRun, one: Any, second: ModalityRun, other: Any) -> str:
    return f"{name}: {_short(one)} in {first.run}, {_short(other)} in {second.run}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}..."
