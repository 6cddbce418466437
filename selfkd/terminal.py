"""What a command prints, without the control sequences of others: questions, responses of endpoints, names of files and
messages of libraries may hold some that recolour, hide or overwrite text, set the clipboard, or reverse its direction.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, cast

from rich.console import Console

_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # of colours and of the cursor
_CONTROLS = (
    *range(0x20), *range(0x7F, 0xA0),  # C0, among them the escape that begins a sequence; DEL; C1
    0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A),  # direction of writing
    0x2028, 0x2029, 0xFFF9, 0xFFFA, 0xFFFB,
)  # fmt: skip
_REMOVED = dict.fromkeys(code for code in _CONTROLS if chr(code) not in "\n\t")
_CURSOR_UP = re.compile(r"(?:\x1b\[A)+")  # all that tqdm writes between two progress bars


def plain(text: str) -> str:
    """The text without control characters and sequences, line ends and tabs excepted. A carriage return stays at both
    ends, where progress bars have it: within a text it would hide what stands before it."""
    inner = text.strip("\r")
    start = text[: len(text) - len(text.lstrip("\r"))]
    end = text[len(start) + len(inner) :]
    return f"{start}{_SEQUENCE.sub('', inner).translate(_REMOVED)}{end}"


class PlainStream:
    """A text stream that passes on the texts written to it, made `plain`, and in an encoding's terms where it lacks a
    character."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        shown = text if _CURSOR_UP.fullmatch(text) else plain(text)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def raw_stream(stream: Any) -> Any:
    """The stream that a `PlainStream` writes to, for what draws with control sequences of its own."""
    while isinstance(stream, PlainStream):
        stream = stream._stream
    return stream


def is_terminal(stream: Any) -> bool:
    return bool(raw_stream(stream).isatty())


@contextmanager
def plain_output(stdout: Any, stderr: Any) -> Iterator[None]:
    """All that is printed meanwhile, by libraries too, passes a `PlainStream`."""
    with redirect_stdout(cast(Any, PlainStream(stdout))), redirect_stderr(cast(Any, PlainStream(stderr))):
        yield


def table_console() -> Console:
    """Prints tables verbatim: a name such as [red] is no markup."""
    return Console(markup=False, highlight=False, emoji=False)
