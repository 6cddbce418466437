"""The output folder of `selfkd synthesize`: `plan.json` holds the configuration it was begun with, and keeps other data
out of it."""

import json
from pathlib import Path
from typing import Any

from selfkd.data.example import check_schema_version
from selfkd.errors import InputError
from selfkd.json_files import read_json
from selfkd.run_dir import check_same, write_settings

PLAN = "plan.json"
CONTENT_FIELDS = ("source_rows", "source_sha256")  # of the questions in a source's files, which its path does not fix
USAGE = "usage.json"  # what the requests to an endpoint have used of a budget
_OURS = (PLAN, USAGE, f".{USAGE}.lock")
EXECUTION_FIELDS = ("processes", "shard", "pool", "address", "budget")  # settings that do not change the data
_ENDPOINT_FIELDS = ("engine_path", "time_limit_seconds")  # nor do these: without the endpoint the job stops


def free_fields(engine: str) -> set[str]:
    """The settings that do not change the data."""
    return {"output", *EXECUTION_FIELDS, *(_ENDPOINT_FIELDS if engine == "openai" else ())}


def claim(folder: Path, plan: dict[str, Any]) -> None:
    """Begins or resumes a folder: it must be new, or hold the same plan. Raises InputError where it does not."""
    path = folder / PLAN
    # listed before the plan is read: concurrent jobs of an array write it first; a partial plan is no foreign file
    others = folder.is_dir() and any(
        not p.name.startswith(f".{PLAN}.") and p.name not in _OURS for p in folder.iterdir()
    )
    if not path.is_file():
        if others:
            raise InputError(f"{folder}: not empty and not made by this command; give another output")
        write_settings(path, plan)
    existing = read_json(path, dict[str, Any])
    wanted = json.loads(json.dumps(plan))
    check_schema_version(path, existing.get("schema_version"))
    free = free_fields(plan["engine"]) | set(CONTENT_FIELDS)
    names = [name for name in {**wanted, "turns": ""} if name not in free]  # which a plan has for conversations only
    check_same(existing, wanted, names, f"{folder}: holds other data")
    if not any(folder.glob("*.parquet")):  # no shard yet, so the questions may have been corrected
        write_settings(path, plan)
    else:
        remedy = "give another output, or delete it to synthesize again"
        names = [name for name in wanted if name in CONTENT_FIELDS]
        check_same(existing, wanted, names, f"{folder}: its questions are not those of the source now", remedy)


def release(folder: Path) -> None:
    """Leaves a folder without shards and rows as it was, but for what was used of a budget: the next command may have
    other settings. Files of concurrent jobs of an array are in the folder too, and then the plan stays."""
    if all(path.name in _OURS for path in folder.iterdir()):
        (folder / PLAN).unlink(missing_ok=True)


def restore_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Writes the plan where a concurrent job released the folder in the meantime."""
    if not (folder / PLAN).is_file():
        write_settings(folder / PLAN, plan)
