"""Public benchmarks as spoken questions: made once by the data stage, kept under a name that says how."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from selfkd.credentials import masked
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST
from selfkd.data.lazy_images import InParquet, footer_hash
from selfkd.errors import InputError
from selfkd.evaluation.average import VOICE_MARK
from selfkd.evaluation.benchmarks.registry import BENCHMARKS, PAPER8, open_benchmark
from selfkd.files import expanded, locked
from selfkd.synthesis.sources.rows import RowSource
from selfkd.synthesis.synthesize import SynthesizeConfig, check_settings, synthesize

if TYPE_CHECKING:
    from selfkd.evaluation.evaluate import EvaluateConfig

InstructionForm = Literal["text", "spoken"]
SUITES: dict[str, Sequence[str]] = {"paper8": PAPER8, "all": tuple(BENCHMARKS)}
_OURS = ("output", "source", "path", "images", "columns", "split", "count", "voices", "instruction", "shard")


def check_benchmarks(config: "EvaluateConfig") -> tuple[list[str], dict[str, Any]]:
    """The benchmarks to speak and the settings of their speech; raises InputError for any that there is not."""
    names = [name for entry in config.benchmarks for name in SUITES.get(entry, [entry])]
    for field, given in (("benchmarks", names), ("local_datasets", config.local_datasets)):
        unknown = [name for name in given if name not in BENCHMARKS]
        if unknown:
            known = ", ".join([*SUITES, *BENCHMARKS])
            raise InputError(f"{field}: {unknown[0]!r} is not known; there are {known}")
    if names and not config.voices:
        raise InputError("voices: name at least one")
    settings = speech_settings(config.synthesis)
    if names:
        check_settings(SynthesizeConfig(Path(), **settings))
        expanded(config.cache)
    return list(dict.fromkeys(names)), settings


def synthesize_benchmarks(config: "EvaluateConfig") -> dict[str, ExampleFolder]:
    """{benchmark: folder}, or {"benchmark@voice": folder} where several voices are asked for."""
    names, settings = check_benchmarks(config)
    found = {}
    for name in names:
        spoken = config.instruction == "spoken"
        source = open_benchmark(
            name, config.local_datasets.get(name, ""), limit=config.limit, spoken_instruction=spoken
        )
        for voice in config.voices:
            key = name if len(config.voices) == 1 else f"{name}{VOICE_MARK}{voice}"
            found[key] = ExampleFolder(_speak(config, name, source, voice, settings))
    return found


def speech_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `SynthesizeConfig` that say how a benchmark is spoken; raises InputError for any other."""
    known = {f.name for f in fields(SynthesizeConfig)} - set(_OURS)
    wrong = [name for name in given if name not in known]
    if wrong:
        raise InputError(f"speech: {wrong[0]!r} is no setting here; there are {', '.join(sorted(known))}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SynthesizeConfig, as_group=False)
    try:
        values = parser.parse_object({"output": "spoken", **given})
    except ArgumentError as error:
        raise InputError(f"speech: {' '.join(str(error).split())}") from error
    return {name: values[name] for name in given}


def _speak(config: "EvaluateConfig", name: str, source: RowSource, voice: str, settings: Mapping[str, Any]) -> Path:
    asked: dict[str, Any] = {
        "source": "benchmark",
        "path": config.local_datasets.get(name, BENCHMARKS[name].hub),
        "instruction": config.instruction,
        "voices": voice,
        "count": len(source),
        **settings,
    }
    made = SynthesizeConfig(Path(), **asked)
    # all that the folder follows from, rows and pictures too: a copy corrected under the same path is made anew
    plan = masked({k: v for k, v in asdict(made).items() if k not in ("output", "processes", "pool", "address")})
    key = hashlib.sha256(json.dumps(plan, default=str, sort_keys=True).encode())
    key.update(repr([r._replace(image=None, clip=None) for r in source.rows]).encode())
    files = sorted({r.image.file for r in source.rows if isinstance(r.image, InParquet)})
    key.update("".join(map(footer_hash, files)).encode())
    output = expanded(config.cache) / f"{name}-{key.hexdigest()[:12]}"
    if not (output / MANIFEST).is_file():
        with locked(output.with_name(f".{output.name}.lock")):  # several models may be asked side by side
            if not (output / MANIFEST).is_file():
                synthesize(replace(made, output=output), source)
    return output
