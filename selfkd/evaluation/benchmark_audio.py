"""Public benchmarks with synthesized questions: made once by the data stage, cached under a hash of all their
inputs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from selfkd.credentials import masked
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST
from selfkd.data.lazy_images import ImageInParquet, footer_hash
from selfkd.errors import InputError
from selfkd.evaluation.average import VOICE_MARK
from selfkd.evaluation.benchmarks.registry import BENCHMARKS, PAPER8, open_benchmark
from selfkd.evaluation.config import EvaluateConfig
from selfkd.files import expanded, locked
from selfkd.synthesis.config import synthesis_settings
from selfkd.synthesis.output_folder import EXECUTION_FIELDS
from selfkd.synthesis.sources.rows import RowSource
from selfkd.synthesis.synthesize import SynthesizeConfig, check_settings, synthesize

SUITES: dict[str, Sequence[str]] = {"paper8": PAPER8, "all": tuple(BENCHMARKS)}


def check_benchmarks(config: EvaluateConfig) -> tuple[list[str], dict[str, Any]]:
    """(benchmarks to synthesize, settings of their synthesis); raises InputError for a name or setting that is not
    known."""
    names = [name for entry in config.benchmarks for name in SUITES.get(entry, [entry])]
    for field, given in (("benchmarks", names), ("local_datasets", config.local_datasets)):
        unknown = [name for name in given if name not in BENCHMARKS]
        if unknown:
            known = ", ".join([*SUITES, *BENCHMARKS])
            raise InputError(f"{field}: {unknown[0]!r} is not known; there are {known}")
    if names and not config.voices:
        raise InputError("voices: name at least one")
    settings = synthesis_settings(config.synthesis)
    if names:
        check_settings(SynthesizeConfig(Path(), **settings))
        expanded(config.cache)
    return list(dict.fromkeys(names)), settings


def synthesize_benchmarks(config: EvaluateConfig) -> dict[str, ExampleFolder]:
    """{benchmark: folder}, or {"benchmark@voice": folder} for each of several voices."""
    names, settings = check_benchmarks(config)
    found = {}
    for name in names:
        path, as_audio = config.local_datasets.get(name, ""), config.instruction == "audio"
        source = open_benchmark(name, path, limit=config.limit, audio_instruction=as_audio)
        for voice in config.voices:
            key = name if len(config.voices) == 1 else f"{name}{VOICE_MARK}{voice}"
            found[key] = ExampleFolder(_synthesize_cached(config, name, source, voice, settings))
    return found


def _synthesize_cached(
    config: EvaluateConfig, name: str, source: RowSource, voice: str, settings: Mapping[str, Any]
) -> Path:
    """The folder of a benchmark in a voice, made if the cache has none."""
    chosen: dict[str, Any] = {
        "source": "benchmark",
        "path": config.local_datasets.get(name, BENCHMARKS[name].hub),
        "instruction": config.instruction,
        "voices": voice,
        "count": len(source),
        **settings,
    }
    synthesis = SynthesizeConfig(Path(), **chosen)
    # all inputs of the folder, rows and images included: a copy corrected under the same path is synthesized again
    values = asdict(synthesis)
    inputs = masked({k: v for k, v in values.items() if k not in ("output", *EXECUTION_FIELDS)})
    key = hashlib.sha256(json.dumps(inputs, default=str, sort_keys=True).encode())
    key.update(repr([r._replace(image=None, clips=()) for r in source.rows]).encode())
    files = sorted({r.image.file for r in source.rows if isinstance(r.image, ImageInParquet)})
    key.update("".join(map(footer_hash, files)).encode())
    output = expanded(config.cache) / f"{name}-{key.hexdigest()[:12]}"
    if not (output / MANIFEST).is_file():
        with locked(output.with_name(f".{output.name}.lock")):  # several evaluations may share the cache
            if not (output / MANIFEST).is_file():
                synthesize(replace(synthesis, output=output), source)
    return output
