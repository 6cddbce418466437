"""A speech engine in a process of its own, so that one that hangs or dies costs a row and not the job."""

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfkd.data.shard_pool import end_with_parent
from selfkd.data.speakers import Speaker, Utterance
from selfkd.errors import EngineError, InputError, reason_of

START_SECONDS = 120  # to import an engine and read its weights


class GuardedSpeaker:
    """Speaks through `opened(*arguments)`, a `Speaker`, in a child process. Raises InputError for a row that it
    cannot say, `slow` where it says nothing in time, EngineError where the engine is of no use for any row."""

    def __init__(
        self,
        opened: Callable[..., Speaker],
        arguments: tuple[Any, ...],
        time_limit_seconds: float,
        slow: type[InputError] = InputError,
    ):
        self._opened, self._arguments, self._time_limit, self._slow = opened, arguments, time_limit_seconds, slow
        self._process: Any = None
        self._pipe: Any = None

    def speak(self, utterance: Utterance) -> NDArray[np.float32]:
        try:
            return self._answer(utterance)
        except InputError:
            raise
        except BaseException:  # as ctrl-C: the answer that is still to come would be taken for that of the next row
            self.close()
            raise

    def _answer(self, utterance: Utterance) -> NDArray[np.float32]:
        if self._process is None:
            self._start()
        try:
            self._pipe.send(utterance)
            if not self._pipe.poll(self._time_limit):
                self.close()
                raise self._slow(f"engine: said nothing for {self._time_limit:.0f} s, the time limit of a row")
            answer = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._process.join(10)
            code = self._process.exitcode
            self.close()
            raise InputError(f"engine: died on this row (exit code {code})") from error
        if isinstance(answer, InputError):
            raise answer
        return answer

    def close(self) -> None:
        """Ends the child; the next row starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _start(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._opened, self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(START_SECONDS):
            self.close()
            raise EngineError(f"engine: did not start within {START_SECONDS} s")
        try:
            wrong = self._pipe.recv()
        except EOFError as error:
            self.close()
            raise EngineError("engine: died at its start") from error
        if wrong:
            self.close()
            raise EngineError(wrong)


def _serve(pipe: Connection, opened: Callable[..., Speaker], arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    try:
        speaker = opened(*arguments)
        pipe.send("")
    except InputError as error:
        pipe.send(str(error))
        return
    while True:
        try:
            utterance = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(speaker.speak(utterance))
        except InputError as error:
            pipe.send(error)
        except Exception as error:  # an engine's own: the row is lost, the reason is not
            pipe.send(InputError(f"engine: {reason_of(error)}"))
