"""The TTS engine behind an HTTP server: `/v1/audio/speech`, OpenAI's own or any server with its interface
(`selfkd[openai]`). The client is the `openai` package: it retries after 408, 409, 429, 5xx, a timeout or a lost
connection, with exponential back-off or after the seconds that the server names (Retry-After)."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from selfkd.credentials import masked_text, read_endpoint, without
from selfkd.data.media import decode_audio
from selfkd.data.resample import resampled
from selfkd.errors import EngineError, InputError, without_run_details
from selfkd.files import locked, write_json
from selfkd.json_files import read_json
from selfkd.response_limit import ENCODINGS, read_up_to
from selfkd.synthesis.tts.base import DEFAULT_RATE_WPM, Utterance, check_installed

KEY_VARIABLE = "OPENAI_API_KEY"
DECODING_ATTEMPTS = 3  # requests for a text whose audio cannot be decoded
_MAX_SPEECH_BYTES = 32_000_000  # two minutes of 32-bit stereo at 32 kHz
_MAX_RETRIES = 5
_ROW_STATUS_CODES = (400, 413, 422)  # of a server that cannot synthesize a text
# of OpenAI itself, and of "training"; other servers have their own, without a list of them
_OPENAI_VOICES = ("alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse")


class _Used(TypedDict):
    requests: int
    characters: int


@dataclass(frozen=True)
class Budget:
    """What the requests of all processes, and of all runs into a folder, may use together; 0 sets no limit. Each
    attempt counts when it is sent, so that a bill is at most that."""

    file: Path
    requests: int = 0
    characters: int = 0

    def spend(self, characters: int) -> None:
        """Counts a request for a text of so many characters. Raises EngineError, and counts nothing, where that would
        exceed the budget."""
        with locked(self.file.with_name(f".{self.file.name}.lock")):
            used = read_json(self.file, _Used) if self.file.is_file() else {"requests": 0, "characters": 0}
            wanted = {"requests": used["requests"] + 1, "characters": used["characters"] + characters}
            for name, limit in (("requests", self.requests), ("characters", self.characters)):
                if limit and wanted[name] > limit:
                    raise EngineError(
                        f"budget: {used[name]:,} of {limit:,} {name} are used, and the next one needs "
                        f"{wanted[name] - used[name]:,}; the same command with a higher budget resumes"
                    )
            write_json(self.file, wanted)


@dataclass
class EndpointEngine:
    """`url` is "" for OpenAI's. The key comes from the environment variable OPENAI_API_KEY and from nowhere else; the
    audio is not reproducible."""

    url: str
    model: str
    timeout_seconds: float
    budget: Budget | None = None
    license: str = "as the endpoint's terms say"

    @property
    def name(self) -> str:
        return f"{self.model or 'tts-1'} at {self._endpoint.shown or 'OpenAI'}"

    def __post_init__(self) -> None:
        check_installed("openai", "openai")
        self._endpoint = read_endpoint(self.url, "engine_path")
        self._key = os.environ.get(KEY_VARIABLE, "").strip() or "none"
        self._characters = 0  # of the text of the requests that are sent now

    @cached_property
    def _client(self) -> Any:
        from openai import DefaultHttpxClient, OpenAI

        http_client = DefaultHttpxClient(
            timeout=self.timeout_seconds,
            event_hooks={"request": [self._before_attempt], "response": [read_up_to(_MAX_SPEECH_BYTES)]},
        )
        http_client.headers["Accept-Encoding"] = ENCODINGS
        return OpenAI(
            base_url=self._endpoint.base or None,
            api_key=self._key,
            default_headers=self._endpoint.headers,
            default_query=self._endpoint.query,
            max_retries=_MAX_RETRIES,
            timeout=self.timeout_seconds,
            http_client=http_client,
        )

    def _before_attempt(self, _request: Any) -> None:
        if self.budget is not None:
            self.budget.spend(self._characters)

    def voices(self) -> list[str]:
        return list(_OPENAI_VOICES)

    def language(self, voice: str) -> str:
        return "any"

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        """Raises EngineError where the server has no response to any text, and InputError where it refuses this one, or
        its audio cannot be decoded: a text is requested again then, for the connection may have been cut."""
        for attempt in range(DECODING_ATTEMPTS):
            content = self._request(utterance)
            try:
                samples, rate_hz, _ = decode_audio(content)
                return resampled(samples, rate_hz)
            except InputError as error:
                if attempt == DECODING_ATTEMPTS - 1:
                    raise InputError(f"engine: {self.name}: {error}") from error
        raise AssertionError("the last attempt returns or raises")

    def _request(self, utterance: Utterance) -> bytes:
        from openai import APIStatusError, OpenAIError

        self._characters = len(utterance.text)
        try:
            response = self._client.audio.speech.create(
                model=self.model or "tts-1",
                voice=utterance.voice,
                input=utterance.text,
                response_format="wav",
                speed=utterance.rate_wpm / DEFAULT_RATE_WPM,
            )
            return response.read()
        except (OpenAIError, InputError) as error:
            for cause in (error, error.__cause__):  # older clients wrap what a hook raises
                if isinstance(cause, EngineError):
                    raise cause from None
            is_row_error = isinstance(error, InputError) or (
                isinstance(error, APIStatusError) and error.status_code in _ROW_STATUS_CODES
            )
            # servers repeat keys in their error messages; reasons are written to files
            secrets = [*self._endpoint.secrets, *([self._key] if self._key != "none" else [])]
            reason = f"engine: {self.name}: {masked_text(without(without_run_details(str(error)), secrets))}"
            raise (InputError if is_row_error else EngineError)(reason) from error
