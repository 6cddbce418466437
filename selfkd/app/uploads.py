"""What the page takes for a file: one that was uploaded to it, or that it made itself, and no other of this machine.

Whoever reaches the port can name any path. Gradio checks paths before it copies a file to where it can be asked for,
but only of pages that it serves itself (`has_launched`); one that is mounted in another application says so here. URLs,
which Gradio would fetch, are no uploads either.
"""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from selfkd.errors import InputError
from selfkd.files import path_within


class UploadsPage(gr.Blocks):
    """Blocks that refuse an event, whatever route it came by, before anything of it is opened or copied, if it names a
    file that was not uploaded."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.has_launched = True  # Gradio's own checks are on from now on

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *others: Any, **settings: Any) -> Any:
        try:
            check_uploaded(inputs)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return await super().preprocess_data(block_fn, inputs, *others, **settings)


def check_uploaded(value: Any) -> None:
    """Raises InputError where a file is named, at any depth, that was not uploaded."""
    if isinstance(value, dict):
        if isinstance(value.get("path"), str):
            uploaded(value["path"])
        value = list(value.values())
    for part in value if isinstance(value, list | tuple) else ():
        check_uploaded(part)


def uploaded(path: str) -> Path:
    """The file; raises InputError, which does not say whether there is one, for a path elsewhere."""
    try:
        found = path_within(Path(get_upload_folder()), path)
        if found.is_absolute() and found.is_file():
            return found
    except (InputError, OSError, ValueError):
        pass
    raise InputError("only files that were uploaded to this page are read")
