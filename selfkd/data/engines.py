"""Speech engines beside espeak-ng, each an extra that is imported when it is asked for: Kokoro (`selfkd[kokoro]`), any
OpenAI-compatible speech endpoint (`selfkd[openai]`), recordings of people in a folder."""

import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from selfkd.data.listed import Clip, read_clip
from selfkd.data.speakers import EspeakSpeaker, Speaker, Utterance, resampled
from selfkd.errors import InputError

EngineName = Literal["espeak", "kokoro", "openai", "recorded"]
USUAL_RATE_WPM = 175
# the first letter of a voice of Kokoro-82M, by its model card
_KOKORO_LANGUAGES = {"a": "en-us", "b": "en-gb", "e": "es", "f": "fr-fr", "h": "hi", "i": "it", "p": "pt-br"}
_OPENAI_VOICES = ("alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse")


def open_engine(engine: EngineName, path: str, model: str = "") -> Speaker:
    """The engine with what it needs: a folder for Kokoro and recordings, a base URL for an endpoint."""
    if engine == "espeak":
        return EspeakSpeaker()
    if engine == "openai":
        return EndpointSpeaker(path, model)
    folder = Path(path)
    if not path or not folder.is_dir():
        raise InputError(f"engine_path: {path or '(empty)'}: no such folder; {engine} needs one")
    return KokoroSpeaker(folder) if engine == "kokoro" else RecordedSpeaker(folder)


@dataclass
class KokoroSpeaker:
    """Kokoro-82M by onnxruntime: `folder` holds model.onnx and voices.bin. Of rate and pitch it takes the rate."""

    folder: Path
    engine: str = "Kokoro-82M (ONNX)"
    license: str = "Apache-2.0"

    @cached_property
    def _kokoro(self) -> Any:
        try:
            import onnxruntime
            from kokoro_onnx import Kokoro
        except ImportError as error:
            raise InputError(f"engine: kokoro: {error}; pip install 'selfkd[kokoro]'") from error
        files = self.folder / "model.onnx", self.folder / "voices.bin"
        for file in files:
            if not file.is_file():
                raise InputError(f"engine_path: {file}: no such file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # processes are what runs side by side
        session = onnxruntime.InferenceSession(str(files[0]), options, providers=["CPUExecutionProvider"])
        return Kokoro.from_session(session, str(files[1]))

    def voices(self) -> list[str]:
        file = self.folder / "voices.bin"
        if not file.is_file():
            raise InputError(f"engine_path: {file}: no such file")
        with np.load(file) as voices:
            return sorted(voices.keys())

    def language(self, voice: str) -> str:
        return _KOKORO_LANGUAGES.get(voice[0], "unknown")

    def speak(self, utterance: Utterance) -> NDArray[np.float32]:
        if utterance.voice not in self._kokoro.voices:
            raise InputError(f"voice: Kokoro has no voice {utterance.voice!r}; there are {', '.join(self.voices())}")
        speed = min(max(utterance.rate_wpm / USUAL_RATE_WPM, 0.5), 2.0)
        language = self.language(utterance.voice)
        samples, rate_hz = self._kokoro.create(utterance.text, voice=utterance.voice, speed=speed, lang=language)
        return resampled(samples, rate_hz)


@dataclass
class EndpointSpeaker:
    """`/v1/audio/speech` of any server. The key comes from OPENAI_API_KEY; what it answers is not ours to reproduce."""

    url: str
    model: str
    license: str = "as the endpoint's terms say"

    @property
    def engine(self) -> str:
        return f"{self.model or 'tts-1'} at {self.url or 'OpenAI'}"

    @cached_property
    def _client(self) -> Any:
        try:
            from openai import OpenAI
        except ImportError as error:
            raise InputError(f"engine: openai: {error}; pip install 'selfkd[openai]'") from error
        return OpenAI(base_url=self.url or None, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=5)

    def voices(self) -> list[str]:
        return list(_OPENAI_VOICES)

    def language(self, voice: str) -> str:
        return "any"

    def speak(self, utterance: Utterance) -> NDArray[np.float32]:
        from openai import OpenAIError

        try:
            answer = self._client.audio.speech.create(
                model=self.model or "tts-1",
                voice=utterance.voice,
                input=utterance.text,
                response_format="wav",
                speed=utterance.rate_wpm / USUAL_RATE_WPM,
            )
            samples, rate_hz = soundfile.read(io.BytesIO(answer.read()), dtype="float32", always_2d=True)
        except (OpenAIError, soundfile.LibsndfileError) as error:
            raise InputError(f"engine: {self.engine}: {error}") from error
        return resampled(samples.mean(axis=1), rate_hz)


@dataclass
class RecordedSpeaker:
    """People's recordings: a file for each question, named by its id (.wav, .flac, .mp3, .ogg, .opus)."""

    folder: Path
    engine: str = "recorded"
    license: str = "as the recordings' owner says"

    def voices(self) -> list[str]:
        return ["recorded"]

    def language(self, voice: str) -> str:
        return "any"

    def speak(self, utterance: Utterance) -> NDArray[np.float32]:
        for suffix in (".wav", ".flac", ".mp3", ".ogg", ".opus"):
            path = self.folder / f"{utterance.id}{suffix}"
            if path.is_file():
                return resampled(*read_clip(Clip(path)))
        raise InputError(f"field speech: {self.folder / utterance.id}: no recording")
