"""Runs the stages of a recipe of the paper, each in a process of its own, and ends in its table.

Writes into OUTPUT/NAME what the stages' own commands write, and for each stage its fields and a record (`records`). The
same command resumes: complete stages are skipped, an interrupted one resumes as its command does.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from selfkd.errors import InputError
from selfkd.files import in_sole_use
from selfkd.reproduce.config import ReproduceConfig
from selfkd.reproduce.costs import GIGABYTE, Cost, check_disk, costs_of, gpu_kind
from selfkd.reproduce.download import check_reach
from selfkd.reproduce.process_tree import Finished, run_process
from selfkd.reproduce.recipe import load_recipe
from selfkd.reproduce.records import begin, check_begun, complete, read_record
from selfkd.reproduce.stages import Stage, command_config, run_folder, stages_of
from selfkd.stage_function import stage_function
from selfkd.synthesis.tts.base import check_installed
from selfkd.terminal import table_console

LOCK = ".lock"


@stage_function(ReproduceConfig)
def reproduce(config: ReproduceConfig) -> Path:
    """Returns the folder of the run. Raises InputError before anything begins where the recipe cannot be run: on this
    disk, without the hub, or in a folder of another recipe."""
    if config.scale == "tiny" and not config.rehearse:
        raise InputError("scale: tiny is for --rehearse: its small dimensions are of stand-ins")
    if config.scale == "smoke" and config.rehearse:
        raise InputError("scale: smoke runs real models; --rehearse takes full or tiny")
    recipe = load_recipe(config)
    stages, out = stages_of(config, recipe), run_folder(config)
    for stage in stages:
        if stage.command:
            command_config(stage)  # an error in the last stage is found before the first
    check_begun(out, stages)
    todo = [stage for stage in stages if read_record(out, stage) is None]
    costs = costs_of(config, recipe, todo)
    console = table_console()
    console.print(_costs_table(f"{recipe['title']}, in {out}", stages, costs, config.rehearse))
    if config.dry_run:
        console.print("Nothing was written.")
        return out
    if todo and not config.rehearse:
        _check_machine(recipe["questions"].get("engine", ""))
        if todo[0].name == "download":
            check_reach(recipe["downloads"]["vlm"]["repo"])
    check_disk(out, sum(cost.gigabytes for cost in costs.values()))
    out.mkdir(parents=True, exist_ok=True)
    by_name = {stage.name: stage for stage in stages}
    with in_sole_use(out, out / LOCK):
        for number, stage in enumerate(stages, 1):
            is_complete = read_record(out, stage) is not None
            end = ": complete" if is_complete else ""
            console.print(f"stage {number} of {len(stages)}: {stage.title}{end}", soft_wrap=True)
            if not is_complete:
                _run(out, stage, by_name)
    console.print(_measured_table(out, stages))
    return out


def _check_machine(engine: str) -> None:
    if engine == "kokoro":
        check_installed("kokoro", "kokoro_onnx", "onnxruntime")


def _run(out: Path, stage: Stage, stages: Mapping[str, Stage]) -> None:
    if stage.product.is_file():  # an earlier process ended between product and record
        complete(out, stage, stages, None)
        return
    settings = begin(out, stage)
    finished = run_process(arguments_of(stage, settings))
    if finished.code:
        raise InputError(f"{out}: stage {stage.name} ended with code {finished.code}{_hint(finished)}")
    complete(out, stage, stages, finished)


def arguments_of(stage: Stage, settings: Path) -> list[str]:
    """The arguments of python that run a stage."""
    if stage.command:
        return ["-m", "selfkd.cli", *stage.command.split(), "--recipe", str(settings)]
    return ["-m", "selfkd.reproduce.stage_process", stage.name, str(settings)]


def _hint(finished: Finished) -> str:
    killed = " (killed, perhaps for memory)" if finished.code == -9 else ""
    return f"{killed}, its message is above; the same command resumes"


def _costs_table(title: str, stages: Sequence[Stage], costs: Mapping[str, Cost], is_rehearsal: bool) -> Table:
    notes = [f"hours with one GPU ({gpu_kind()})"] if not is_rehearsal else []
    notes += ["complete stages cost nothing"] if len(costs) < len(stages) else []
    table = Table(title=title, caption="; ".join(notes) or None)
    table.add_column("stage")
    table.add_column("what it does", overflow="fold")
    for column in ("GB", "hours"):
        table.add_column(column, justify="right")
    for stage in stages:
        cost = costs.get(stage.name)
        cells = ("complete", "") if cost is None else (f"{cost.gigabytes:,.1f}", _hours_cell(cost, is_rehearsal))
        table.add_row(stage.name, stage.title, *cells)
    table.add_section()
    total = Cost(sum(c.gigabytes for c in costs.values()), sum(c.hours for c in costs.values()))
    table.add_row("all", "estimated, not measured", f"{total.gigabytes:,.1f}", _hours_cell(total, is_rehearsal))
    return table


def _hours_cell(cost: Cost, is_rehearsal: bool) -> str:
    return "–" if is_rehearsal else f"{cost.hours:.2f}"


def _measured_table(out: Path, stages: Sequence[Stage]) -> Table:
    """Seconds and peak memory of each stage, by its last process."""
    table = Table(title=f"Measured, in {out}")
    for column in ("stage", "seconds", "peak memory, GB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in stages:
        record = read_record(out, stage)
        if record is not None:
            peak = record.get("peak_bytes")
            table.add_row(stage.name, f"{record['seconds']:,.1f}", f"{peak / GIGABYTE:.1f}" if peak else "–")
    return table
