"""Which files the page reads: uploads and files of its own, and no other file of this machine. How much it keeps.

Any client can name any path. Gradio checks paths before it copies a file into its cache, but only for pages that it
serves itself (`has_launched`); a page that is mounted in another application must switch the checks on. URLs, which
Gradio would fetch, are refused too.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from selfkd.errors import InputError
from selfkd.files import path_within

KEEP_SECONDS = 3600  # uploads, and the state of a page that was closed
FORM_BYTES = 10_000  # of an upload, besides the file


class UploadOnlyBlocks(gr.Blocks):
    """Blocks that refuse an event with a file that was not uploaded, on every route, before any file is opened."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.has_launched = True  # switches Gradio's own path checks on

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *others: Any, **settings: Any) -> Any:
        try:
            check_uploaded(inputs)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return await super().preprocess_data(block_fn, inputs, *others, **settings)


def check_uploaded(value: Any) -> None:
    """Raises InputError if the value, at any depth, names a file that was not uploaded."""
    if isinstance(value, dict):
        if isinstance(value.get("path"), str):
            uploaded_path(value["path"])
        value = list(value.values())
    for part in value if isinstance(value, list | tuple) else ():
        check_uploaded(part)


def uploaded_path(path: str) -> Path:
    """The path of an uploaded file; for any other path raises InputError, which does not reveal whether it exists."""
    try:
        found = path_within(Path(get_upload_folder()), path)
        if found.is_absolute() and found.is_file():
            return found
    except (InputError, OSError, ValueError):
        pass
    raise InputError("only files that were uploaded to this page are read")


def has_room(folder: Path, size: int, max_total_bytes: int) -> bool:
    """Whether `size` more bytes fit into the uploads. Deletes those that are older than `KEEP_SECONDS`: the page's own
    timer misses files that no event has used."""
    total, oldest = size, time.time() - KEEP_SECONDS
    for path in folder.rglob("*"):
        with suppress(OSError):  # deleted meanwhile
            status = path.lstat()
            if not path.is_dir() and status.st_mtime < oldest:
                path.unlink()
            elif path.is_file():
                total += status.st_size
    return total <= max_total_bytes
