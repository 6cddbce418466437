"""A run that goes on must go on over the very data that it began with: folders may have been made anew in between.
`asked.json` in the run says which shards there were."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfkd.credentials import masked
from selfkd.data.example import read_manifest
from selfkd.data.folder import ExampleFolder
from selfkd.errors import InputError
from selfkd.files import write_json
from selfkd.runs import CONFIG, PROVENANCE, first_difference, is_main_process

ASKED = "asked.json"


@contextmanager
def same_data(run: Path, folders: Mapping[str, ExampleFolder], extra: Mapping[str, Any]) -> Iterator[None]:
    """Raises InputError where a run that goes on would mix what its folders held before and hold now, or the replies of
    an endpoint that is asked with other fields (`extra`). `folders` are by the name that the run has for each. A run
    that ends in an InputError before anything was made forgets them."""
    path = run / ASKED
    now = {
        "shards": {name: read_manifest(f.folder)["shards"] for name, f in folders.items()},
        "extra": masked(extra, "extra"),
    }
    before = json.loads(path.read_text()) if path.is_file() else now
    if found := first_difference(before["shards"], now["shards"], folders):
        raise InputError(f"data: {folders[found[0]].folder}: made anew since this run began; give another output")
    if before["extra"] != now["extra"]:
        raise InputError(
            f"endpoint.extra: {before['extra']} when this run began, {now['extra']} now; give another output"
        )
    if is_main_process():
        write_json(path, now)
    try:
        yield
    except InputError:
        made = (p for p in run.rglob("*") if p.is_file() and p.name not in (CONFIG, PROVENANCE, ASKED, ".lock"))
        if is_main_process() and not any(made):
            path.unlink(missing_ok=True)
        raise
