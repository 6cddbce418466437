"""The exceptions that the command line shows as a single line, because the user can correct their cause; and the text
of any exception as a reason in files, which is the same in every run."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from selfkd.model.input_error import ADDRESS
from selfkd.model.input_error import InputError as InputError

# names of Python's `tempfile`, ids of processes, threads and server requests
_RUN_DETAILS = (
    (re.compile(r"(?<![A-Za-z0-9_])tmp[a-z0-9_]{8}(?![a-z0-9_])"), "tmp"),
    (re.compile(r"(?i)\b(pid|process id|thread(?: id)?|tid)([ =:#]+)\d+"), r"\1"),
    (re.compile(r"\b(ForkPoolWorker|SpawnPoolWorker|Process|Thread)-\d+(?::\d+)?"), r"\1"),
    (
        re.compile(
            r"(?i)(?:(?<!\s)\s+)?\(?(?:request[ _-]?id|x-request-id|trace[ _-]?id)"
            r"['\"]?\s*[:=]\s*['\"]?[\w=;.-]+['\"]?\)?"
        ),
        "",
    ),
    (re.compile(r"\b(req|chatcmpl|resp|cmpl)[_-][A-Za-z0-9]{8,}"), r"\1"),
    (re.compile(r"\b0x[0-9A-Fa-f]{8,16}\b"), "0x"),
)


class EngineError(InputError):
    """A TTS engine that is of no use for any row: it does not start, or its server is out of reach. The job stops, and
    no row is rejected for it."""


def without_run_details(text: str) -> str:
    """The message of another program or library without parts that differ between runs: addresses in memory, names of
    temporary files, ids of processes and requests."""
    text = ADDRESS.sub("", text)
    for pattern, replacement in _RUN_DETAILS:
        text = pattern.sub(replacement, text)
    return text


def reason_of(error: BaseException) -> str:
    """An exception as a reason for files: the message of an InputError, with the class name of any other."""
    return str(error) if isinstance(error, InputError) else without_run_details(f"{type(error).__name__}: {error}")


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean --steps?` for a word near to a known one, or ""."""
    found = get_close_matches(word, list(known), 1, 0.6)
    return f"; did you mean {prefix}{found[0]}?" if found else ""
