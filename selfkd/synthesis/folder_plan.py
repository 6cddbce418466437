"""What a folder of spoken questions was begun with: `plan.json`, which keeps other data out of it."""

import json
from pathlib import Path
from typing import Any

from selfkd.errors import InputError
from selfkd.files import read_json, write_json
from selfkd.run_dir import check_same

PLAN = "plan.json"
CONTENT = ("source_rows", "source_sha256")  # in plans of sources in files, since the path alone was written there
HOW = ("processes", "shard", "pool", "address")  # settings that do not change the data
_HOW_OF_ENDPOINT = ("engine_path", "time_limit_seconds")  # nor do these: where it does not answer the job stops


def claim(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Makes the folder ours: it must be new, or hold the very same plan. Returns the plan as it is there."""
    path = folder / PLAN
    # looked at before the plan, which comes first: jobs of an array begin at once; nor is half a plan somebody's file
    others = folder.is_dir() and any(not p.name.startswith(f".{PLAN}.") for p in folder.iterdir())
    if not path.is_file():
        if others:
            raise InputError(f"{folder}: not empty and not made by this command; give another output")
        write_json(path, plan)
    theirs = read_json(path)
    ours = json.loads(json.dumps(plan))
    free = {"output", *CONTENT, *(_HOW_OF_ENDPOINT if plan["engine"] == "openai" else ())}
    check_same(theirs, ours, (n for n in ours if n not in free), f"{folder}: holds other data")
    if not any(folder.glob("*.parquet")):  # no question stands there yet, so they may have been corrected
        write_json(path, plan)
    else:
        names = [n for n in ours if n in CONTENT and n in theirs]
        remedy = "give another output, or delete it to synthesize again"
        check_same(theirs, ours, names, f"{folder}: its questions are not those of the source now", remedy)
        plan = {name: value for name, value in plan.items() if name not in CONTENT or name in theirs}
    return plan


def give_back(folder: Path) -> None:
    """Leaves a folder in which nothing was made as it was found: the next command may have other settings. What a job
    of an array is making there beside this one stands in the folder too."""
    if all(path.name == PLAN for path in folder.iterdir()):
        (folder / PLAN).unlink(missing_ok=True)


def hold(folder: Path, plan: dict[str, Any]) -> None:
    """Writes the plan where a job that had not found anything in the folder yet gave it back meanwhile."""
    if not (folder / PLAN).is_file():
        write_json(folder / PLAN, plan)
