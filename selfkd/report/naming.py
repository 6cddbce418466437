"""What runs and systems are called on the page, and the style (colour, dashes, marker) that each keeps throughout."""

from collections.abc import Sequence

from selfkd.evaluation.side_by_side import CASCADE, TEXT

STYLES = 8
_TITLES = {"sft": "SFT", "selfkd": "Self-KD", "base": "Base", "tokens": "token ears"}
_WRITTEN_STYLE, _CASCADE_STYLE = 0, STYLES - 1


class Styles:
    """Written and cascade have styles of their own; models share the others, in the order in which they come."""

    def __init__(self) -> None:
        self._of = {TEXT: _WRITTEN_STYLE, CASCADE: _CASCADE_STYLE}

    def of(self, name: str) -> int:
        models = len(self._of) - 2
        return self._of.setdefault(name, 1 + models % (STYLES - 2))


def titled(name: str) -> str:
    return _TITLES.get(name, name)


def listed(names: Sequence[str]) -> str:
    """ "SFT, Self-KD and Base"."""
    *first, last = map(titled, names)
    return f"{', '.join(first)} and {last}" if first else last


def system_title(system: str, writer: str = "") -> str:
    """With the name of the run that was asked in writing, where there are several."""
    whose = f", {titled(writer)}" if writer else ""
    return {TEXT: f"Written{whose}", CASCADE: f"Cascade{whose}"}.get(system, f"Spoken, {titled(system)}")
