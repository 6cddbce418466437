"""The process of a stage that is a function of this room: `python -m selfkd.reproduce.stage_process NAME SETTINGS`."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from selfkd.errors import InputError
from selfkd.recipe_file import read_recipe
from selfkd.terminal import plain_output

FUNCTIONS = {
    "download": "selfkd.reproduce.download:download",
    "stand-ins": "selfkd.reproduce.stand_ins:make_stand_ins",
    "check": "selfkd.reproduce.original:check_responses",
    "table": "selfkd.reproduce.table:write_table",
}


def function_name(name: str, settings: Mapping[str, Any]) -> str:
    """Of a stage; the downloads of a rehearsal are stand-ins."""
    return "stand-ins" if name == "download" and "tiny" in settings else name


def run_function(name: str, settings_file: Path) -> int:
    """Returns 0, or 2 after an InputError, which it prints."""
    disable_progress_bar()  # over the tensors of a file
    settings, _ = read_recipe(settings_file)
    module, _, function = FUNCTIONS[function_name(name, settings)].partition(":")
    run: Callable[[dict[str, Any]], None] = getattr(import_module(module), function)
    try:
        run(settings)
    except InputError as error:
        print(f"selfkd reproduce: {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    with plain_output(sys.stdout, sys.stderr):
        code = run_function(sys.argv[1], Path(sys.argv[2]))
    sys.exit(code)
