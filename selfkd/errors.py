"""The exceptions that the command line shows as a single line: something the user can put right. And how any exception
becomes a reason that is written down: the same in every run."""

import re

_ADDRESS = re.compile(r"\s*<[^<>]* at 0x[0-9A-Fa-f]+[^<>]*>|\s+at 0x[0-9A-Fa-f]{6,}")
# names of files and folders that Python's `tempfile` makes, numbers of processes and threads, of requests to a server
_OF_ONE_RUN = (
    (re.compile(r"(?<![A-Za-z0-9_])tmp[a-z0-9_]{8}(?![a-z0-9_])"), "tmp"),
    (re.compile(r"(?i)\b(pid|process id|thread(?: id)?|tid)([ =:#]+)\d+"), r"\1"),
    (re.compile(r"\b(ForkPoolWorker|SpawnPoolWorker|Process|Thread)-\d+(?::\d+)?"), r"\1"),
    (
        re.compile(r"(?i)\s*\(?(?:request[ _-]?id|x-request-id|trace[ _-]?id)['\"]?\s*[:=]\s*['\"]?[\w=;.-]+['\"]?\)?"),
        "",
    ),
    (re.compile(r"\b(req|chatcmpl|resp|cmpl)[_-][A-Za-z0-9]{8,}"), r"\1"),
    (re.compile(r"\b0x[0-9A-Fa-f]{8,16}\b"), "0x"),
)


class InputError(ValueError):
    """Bad input; the message names the file and the field, and no object of this process. The command exits with 2."""

    def __init__(self, message: object = ""):
        super().__init__(_ADDRESS.sub("", str(message)))


class EngineError(InputError):
    """A speech engine that is of no use for any row: it does not start, or its server is out of reach. The job stops,
    and no row is refused for it."""


def steady(text: str) -> str:
    """What another program or library says, without what differs from run to run: addresses in memory, names of
    temporary files, numbers of processes and of requests."""
    text = _ADDRESS.sub("", text)
    for pattern, rest in _OF_ONE_RUN:
        text = pattern.sub(rest, text)
    return text


def reason_of(error: BaseException) -> str:
    """An exception as a reason that can be written down: an InputError's own message, of any other its class too."""
    return str(error) if isinstance(error, InputError) else steady(f"{type(error).__name__}: {error}")
