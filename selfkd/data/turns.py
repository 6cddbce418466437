"""A folder of conversations as its turns: what `selfkd evaluate` runs, and scores one by one."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import HISTORY, Example


class TurnFolder(ExampleFolder):
    """Each turn of each conversation of a folder as an example, whose `history` are the turns before it with their
    responses. Single questions are as they are.

    The id of a turn is that of its conversation with "/turn-1" and so on."""

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        counts = [len(row[HISTORY]) + 1 for row in super()._all_columns(HISTORY)]
        self._turns = [(row, turn, count) for row, count in enumerate(counts) for turn in range(count)]
        self.positions = range(len(self._turns))

    def _stored(self, position: int) -> Example:
        row, turn, count = self._turns[position]
        example = super()._stored(row).at_turn(turn)
        return example if count == 1 else replace(example, id=_turn_id(example.id, turn))

    def _all_columns(self, *names: str) -> list[dict[str, Any]]:
        rows = super()._all_columns(*names, HISTORY)
        found = []
        for row, turn, count in self._turns:
            values = dict(rows[row])
            if turn < count - 1:
                values |= {name: value for name, value in values[HISTORY][turn].items() if name in names}
                values |= {"details": ""} if "details" in names else {}
            if count > 1 and "id" in names:
                values["id"] = _turn_id(values["id"], turn)
            history = values.pop(HISTORY)[:turn]
            found.append(values | ({HISTORY: history} if HISTORY in names else {}))
        return found


def _turn_id(conversation: str, turn: int) -> str:
    return f"{conversation}/turn-{turn + 1}"


def conversation_of(id_: str) -> str:
    """The id of the conversation that a turn of a `TurnFolder` belongs to; any other id as it is."""
    return re.sub(r"/turn-\d+$", "", id_)
