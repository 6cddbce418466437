"""Disk and hours of the stages, said before anything begins.

Training is `--dry-run`'s estimate. The other rates are measured where a record is named, else assumed.
"""

import io
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from selfkd import train
from selfkd.errors import InputError
from selfkd.reproduce.config import ReproduceConfig
from selfkd.reproduce.recipe import Recipe
from selfkd.reproduce.stages import Stage, benchmarks_of, command_config
from selfkd.synthesis.workers import available_cores
from selfkd.training.config import DeviceKindName
from selfkd.training.device_kinds import DEVICE_KINDS, device_kind

GIGABYTE = 1e9
ASSUMED_GPU: DeviceKindName = "h100"
DOWNLOAD_GIGABYTES_PER_SECOND = 0.05  # assumed
# seconds of a core: Kokoro and a small Whisper (experiments/records/2026-11-24_kokoro_2000)
SYNTHESIS_CORE_SECONDS = 1.3
READING_CORE_SECONDS = 0.05  # of a recorded clip; assumed
QUESTION_GIGABYTES = 0.5 / 3000  # a shard of 3,000 with photographs (docs/data.md)
CLIP_GIGABYTES = 61 / 281_241  # LibriSpeech
RESPONSE_SECONDS = 0.25  # on a GPU, in a batch; assumed
COPY_GIGABYTES_PER_SECOND = 0.2  # of a conversion; assumed
ITEMS = {"mme": 2374, "hallusionbench": 951, "textvqa": 5000, "pope": 9000, "realworldqa": 765, "ai2d": 3088,
         "chartqa": 2500, "mmstar": 1500}  # fmt: skip
OTHER_ITEMS = 3000  # of a benchmark that is not listed
ENVIRONMENT_GIGABYTES = 7.0  # torch and transformers for the original's own code; assumed
REHEARSAL_GIGABYTES = 0.05  # of a stage at small dimensions, or of a few rows


@dataclass(frozen=True)
class Cost:
    gigabytes: float
    hours: float


def costs_of(config: ReproduceConfig, recipe: Recipe, stages: Sequence[Stage]) -> dict[str, Cost]:
    """{stage: its cost}; hours are 0 in a rehearsal, which is there to measure them."""
    found = {stage.name: _cost(config, recipe, stage) for stage in stages}
    return {n: Cost(c.gigabytes, 0.0) for n, c in found.items()} if config.rehearse else found


def check_disk(folder: Path, gigabytes: float) -> None:
    """Raises InputError where the disk of a folder, which need not exist, has less space."""
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free / GIGABYTE
    if gigabytes > free:
        raise InputError(
            f"output: {folder}: {gigabytes:,.0f} GB are needed and {free:,.0f} GB are free; give a folder on another "
            "disk, or --scale smoke"
        )


def _cost(config: ReproduceConfig, recipe: Recipe, stage: Stage) -> Cost:
    vlm, cores = recipe["downloads"]["vlm"]["gigabytes"], available_cores()
    if stage.command in ("align", "distill"):
        return _training(config, stage)
    match stage.name:
        case "download" if config.rehearse:
            down = recipe["downloads"]
            made = sum(one["gigabytes"] for one in (down["vlm"], down["speech_encoder"], down["asr_filter"]))
            return Cost(REHEARSAL_GIGABYTES if config.scale == "tiny" else made, 0.0)
        case "download":
            archives = [a["gigabytes"] for section in recipe["archives"].values() for a in section]
            repositories: Any = recipe["downloads"]
            models = sum(one["gigabytes"] for one in repositories.values())
            fetched = models + sum(archives) + recipe["benchmark_gigabytes"]
            # an archive is unpacked before it is removed
            return Cost(fetched + max(archives, default=0.0), _hours(fetched / DOWNLOAD_GIGABYTES_PER_SECOND))
        case "convert":
            size = REHEARSAL_GIGABYTES if config.scale == "tiny" else vlm
            return Cost(size, _hours(vlm / COPY_GIGABYTES_PER_SECOND))
        case "check":
            seconds = 600 + 2 * 5 * stage.settings["answers"]
            return Cost(ENVIRONMENT_GIGABYTES if stage.settings["environment"] else 0.0, _hours(seconds))
        case "questions":
            count = stage.settings["count"]
            return Cost(count * QUESTION_GIGABYTES, _hours(count * SYNTHESIS_CORE_SECONDS / cores))
        case "asr-data":
            rows = recipe["asr_rows"]
            return Cost(rows * CLIP_GIGABYTES, _hours(rows * READING_CORE_SECONDS / cores))
        case "table":
            return Cost(0.0, _hours(120))
    return _evaluation(stage, cores)


def gpu_kind() -> DeviceKindName:
    """The GPU of this machine; that of the estimate where there is none, or one that the table does not have."""
    try:
        kind = device_kind(None)
    except InputError:
        return ASSUMED_GPU
    return next(
        (name for name in get_args(DeviceKindName) if DEVICE_KINDS[name] is kind and name != "cpu"), ASSUMED_GPU
    )


def _training(config: ReproduceConfig, stage: Stage) -> Cost:
    if config.rehearse and config.scale == "tiny":
        return Cost(REHEARSAL_GIGABYTES, 0.0)
    run: Any = train.align if stage.command == "align" else train.distill
    with redirect_stdout(io.StringIO()):  # the estimate prints a table of its own
        found = run(replace(command_config(stage), dry_run=True, device_kind=gpu_kind()))
    return Cost(found["disk_gigabytes"]["peak"], found["hours"])


def _evaluation(stage: Stage, cores: int) -> Cost:
    """The first evaluation synthesizes the benchmarks; a cascade runs each transcript in two forms."""
    limit = stage.settings.get("limit", 0)
    sizes = [ITEMS.get(name, OTHER_ITEMS) for name in benchmarks_of(stage.settings["benchmarks"])]
    items = sum(min(limit or size, size) for size in sizes)
    is_first = "cascade" in stage.settings["modalities"]
    responses = items * (3 if is_first else 1)
    synthesis = items * SYNTHESIS_CORE_SECONDS / cores if is_first else 0.0
    size = items * QUESTION_GIGABYTES if is_first else 0.01
    return Cost(size, _hours(responses * RESPONSE_SECONDS + synthesis))


def _hours(seconds: float) -> float:
    return seconds / 3600
