"""The folders of a field `data` -> {benchmark: folder}: one benchmark a folder, or one benchmark in several voices."""

from collections.abc import Sequence

from selfkd.data.dataset import ExampleFolder
from selfkd.data.turns import TurnFolder
from selfkd.errors import InputError
from selfkd.evaluation.average import VOICE_MARK
from selfkd.evaluation.grading import check_source_name
from selfkd.files import case_key, check_name
from selfkd.run_dir import name_and_path


def open_own_data(entries: Sequence[str]) -> dict[str, ExampleFolder]:
    """{name of the source: folder} of FOLDER, {"world@pico": folder} of pico=FOLDER; the items of a folder of
    conversations are their turns. Raises InputError for a folder
    that cannot be evaluated, and for two of one name."""
    folders: dict[str, ExampleFolder] = {}
    for entry in entries:
        voice, path = name_and_path(entry)
        folder = TurnFolder(path)
        check_source_name(folder)
        if voice:
            check_name(voice)
        name = f"{folder.source}{VOICE_MARK}{voice}" if voice else folder.source
        if case_key(name) in map(case_key, folders):  # one file of samples where the case of names is ignored
            raise InputError(f"data: {path}: a second folder of {name!r}; VOICE=FOLDER names the voice of each")
        folders[name] = folder
    return folders
