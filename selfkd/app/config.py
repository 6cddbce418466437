"""The configuration of the app."""

from dataclasses import dataclass, field

from selfkd.data.example import MAX_AUDIO_SECONDS, SHORTEST_SECONDS
from selfkd.errors import InputError
from selfkd.serving.config import is_loopback

MAX_MODELS = 2


@dataclass
class AppConfig:
    """A web page that runs questions about an image as text queries and as audio queries, on one or two models.

    The page has no login, so it accepts connections from this machine only.

    Args:
        models: One or two models to compare, NAME=PATH or PATH (the name is then the run's): a model of selfkd, or a
            native omni model. Default: the bundled model.
        asr_model: Whisper checkpoint, a hub id or a path, that transcribes audio queries. Default: the bundled ASR
            model for models with the bundled speech encoder, none for others.
        recordings: Folder that selfkd record has begun: a second tab records its sentences.
        host: Address of this machine to bind to.
        port: Port to bind to; 0 takes a free one.
        max_upload_bytes: Maximum size of an uploaded file.
        max_total_upload_bytes: Maximum size of all uploads of the last hour; older ones are deleted.
        max_pixels: Maximum number of pixels of an image.
        max_audio_seconds: Maximum duration of an audio query; at most 30.
        max_new_tokens: Maximum number of tokens in a response.
        max_waiting: Maximum number of queries that wait while one runs.
    """

    models: list[str] = field(default_factory=list)
    asr_model: str = ""
    recordings: str = ""
    host: str = "127.0.0.1"
    port: int = 7860
    max_upload_bytes: int = 20_000_000
    max_total_upload_bytes: int = 1_000_000_000
    max_pixels: int = 20_000_000
    max_audio_seconds: float = MAX_AUDIO_SECONDS
    max_new_tokens: int = 64
    max_waiting: int = 16

    def __post_init__(self) -> None:
        for name in ("max_upload_bytes", "max_total_upload_bytes", "max_pixels", "max_new_tokens", "max_waiting"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)}: must be at least 1")
        if self.max_total_upload_bytes < self.max_upload_bytes:
            raise InputError(f"max_total_upload_bytes: {self.max_total_upload_bytes}: less than one upload")
        if not 0 <= self.port <= 65_535:
            raise InputError(f"port: {self.port}: must be between 0 and 65535")
        if not SHORTEST_SECONDS <= self.max_audio_seconds <= MAX_AUDIO_SECONDS:
            allowed = f"between {SHORTEST_SECONDS} and {MAX_AUDIO_SECONDS:.0f}"
            raise InputError(f"max_audio_seconds: {self.max_audio_seconds}: must be {allowed}")
        if len(self.models) > MAX_MODELS:
            raise InputError(f"models: {len(self.models)} are too many, give one or two")
        if not is_loopback(self.host):
            raise InputError(f"host: {self.host}: the page has no login; only this machine's own addresses are allowed")
