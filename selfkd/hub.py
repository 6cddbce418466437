"""Names of models and datasets on the hub: OWNER/NAME, and OWNER/NAME@REVISION for a commit, a tag or a branch of it.

What a name without a revision stands for changes with the hub's main branch; a commit is always the same files."""

import re
from functools import cache
from pathlib import Path
from typing import Any

_HUB_ID = re.compile(r"(?P<name>\w[\w.-]*(?P<slash>/[\w.-]+)?)(?:@(?P<revision>\w[\w./-]*))?")


def is_hub_id(source: str | Path, with_owner: bool = True) -> bool:
    """Whether `source` has the form of a hub id. Old ones have no owner: gpt2."""
    found = _HUB_ID.fullmatch(str(source))
    return found is not None and (found["slash"] is not None or not with_owner)


def split_revision(source: str | Path) -> tuple[str, str | None]:
    """(NAME, REVISION) of a hub id; the revision is None where none is given, and for a path that exists."""
    found = None if Path(source).exists() else _HUB_ID.fullmatch(str(source))
    return (found["name"], found["revision"]) if found else (str(source), None)


def from_hub(source: str | Path) -> dict[str, Any]:
    """The first arguments of `from_pretrained`: a folder, or the name of a model and one commit, the same for all files
    that this process reads of it, even if the hub's branch moves in the meantime."""
    if Path(source).is_dir():
        return {"pretrained_model_name_or_path": source}
    return {"pretrained_model_name_or_path": split_revision(source)[0], "revision": hub_commit(source)}


def hub_commit(source: str | Path) -> str:
    """The commit of a model's hub id. Raises OSError where it is neither on the hub nor in its cache."""
    return _commit(*split_revision(source))


@cache
def _commit(name: str, revision: str | None) -> str:
    from transformers.utils import CONFIG_NAME, cached_file
    from transformers.utils.hub import extract_commit_hash

    return extract_commit_hash(cached_file(name, CONFIG_NAME, revision=revision), None) or revision or "main"
