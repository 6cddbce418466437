"""What the app is told when it starts."""

from dataclasses import dataclass, field

from selfkd.errors import InputError
from selfkd.model.features import LONGEST_SECONDS, SHORTEST_SECONDS
from selfkd.serving.config import is_own_machine

MAX_MODELS = 2


@dataclass
class AppConfig:
    """A page in the browser: one question about a picture, written and spoken, put to one or two models.

    It has no login, so it listens to this machine alone.

    Args:
        models: One or two models to put side by side, NAME=PATH or PATH (the name is then the run's): a model of
            selfkd, or a native omni model. The bundled model by default.
        asr_model: Whisper checkpoint, a hub id or a path, that writes down what was heard; models with the bundled
            ears take the bundled recogniser by default, others none.
        host: Address of this machine to listen at.
        port: Port to listen at; 0 takes a free one.
        max_upload_bytes: Longest file that is taken.
        max_pixels: Most pixels of a picture.
        max_audio_seconds: Longest spoken question; at most 30.
        max_new_tokens: Most tokens of an answer.
        max_waiting: Most questions that wait while one is answered.
    """

    models: list[str] = field(default_factory=list)
    asr_model: str = ""
    host: str = "127.0.0.1"
    port: int = 7860
    max_upload_bytes: int = 20_000_000
    max_pixels: int = 20_000_000
    max_audio_seconds: float = LONGEST_SECONDS
    max_new_tokens: int = 64
    max_waiting: int = 16

    def __post_init__(self) -> None:
        for name in ("max_upload_bytes", "max_pixels", "max_new_tokens", "max_waiting"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)}: must be at least 1")
        if not 0 <= self.port <= 65_535:
            raise InputError(f"port: {self.port}: must be between 0 and 65535")
        if not SHORTEST_SECONDS <= self.max_audio_seconds <= LONGEST_SECONDS:
            allowed = f"between {SHORTEST_SECONDS} and {LONGEST_SECONDS:.0f}"
            raise InputError(f"max_audio_seconds: {self.max_audio_seconds}: must be {allowed}")
        if len(self.models) > MAX_MODELS:
            raise InputError(f"models: {len(self.models)} do not fit side by side, give one or two")
        if not is_own_machine(self.host):
            raise InputError(f"host: {self.host}: the page has no login, so it listens to this machine alone")
