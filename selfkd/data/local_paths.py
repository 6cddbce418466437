"""Where files lie on this machine is nothing for data that others may be given: their own names are left."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOCAL = ("path", "images", "engine_path", "noise_folder", "verify")  # settings that may be paths
_ABSOLUTE = re.compile(r"(?<![\w.:/])(?:/|[A-Za-z]:\\)\S*[/\\]")  # the folders of an absolute path; not those of a URL


def without_folders(reason: str, settings: Mapping[str, Any]) -> str:
    """A reason in which files are called by their names within the folders of the settings, or by their own alone."""
    named = {Path(settings[name]) for name in LOCAL if settings.get(name)}
    for folder in sorted((str(p) for p in named | {p.parent for p in named}), key=len, reverse=True):
        reason = reason.replace(f" {folder}/", " ")
    return _ABSOLUTE.sub("", reason)
