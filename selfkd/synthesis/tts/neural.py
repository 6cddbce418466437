"""Neural TTS by onnxruntime, on one thread, since processes run in parallel: Kokoro (`selfkd[kokoro]`)
and Piper (`selfkd[piper]`, whose engine is GPL-3 and loaded at run time)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NotRequired
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from selfkd.data.resample import resampled
from selfkd.errors import EngineError, InputError
from selfkd.files import cache_folder, replace_durably
from selfkd.json_files import read_json
from selfkd.synthesis.tts.base import DEFAULT_RATE_WPM, Utterance, check_installed

_POINTER = "a file of a few lines of text is a git-lfs pointer: git lfs pull"
LOUDNESS = 0.9  # for voices that scale each sentence to its peak
# the first letter of a voice of Kokoro-82M, by its model card
_KOKORO_LANGUAGES = {"a": "en-us", "b": "en-gb", "e": "es", "f": "fr-fr", "h": "hi", "i": "it", "p": "pt-br"}


@dataclass
class KokoroEngine:
    """Kokoro-82M: `folder` holds model.onnx and voices.bin. Uses the rate of an utterance, not its pitch."""

    folder: Path
    name: str = "Kokoro-82M (ONNX)"
    license: str = "Apache-2.0"

    def __post_init__(self) -> None:
        check_installed("kokoro", "kokoro_onnx", "onnxruntime")
        for file in ("model.onnx", "voices.bin"):
            if not (self.folder / file).is_file():
                raise InputError(f"engine_path: {self.folder / file}: no such file")

    @cached_property
    def _kokoro(self) -> Any:
        from kokoro_onnx import Kokoro

        self.voices()  # raises EngineError where they cannot be read
        return Kokoro.from_session(_session(self.folder / "model.onnx"), str(self.folder / "voices.bin"))

    def load(self) -> None:
        """Reads the model; raises EngineError where it cannot be read."""
        assert self._kokoro  # noqa: S101 an invariant of this code, no check of input

    def voices(self) -> list[str]:
        path = self.folder / "voices.bin"
        try:
            with np.load(path) as voices:
                return sorted(voices.keys())
        except (OSError, ValueError, EOFError, AttributeError, BadZipFile) as error:
            raise EngineError(f"engine_path: {path}: not Kokoro's voices; {_POINTER}") from error

    def language(self, voice: str) -> str:
        return _KOKORO_LANGUAGES.get(voice[0], "unknown")

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        if utterance.voice not in self._kokoro.voices:
            raise InputError(f"voice: Kokoro has no voice {utterance.voice!r}; there are {', '.join(self.voices())}")
        speed = min(max(utterance.rate_wpm / DEFAULT_RATE_WPM, 0.5), 2.0)
        language = self.language(utterance.voice)
        samples, rate_hz = self._kokoro.create(utterance.text, voice=utterance.voice, speed=speed, lang=language)
        return resampled(samples, rate_hz)


class _PiperLanguage(TypedDict):
    voice: str


class _PiperVoice(TypedDict):
    """What is read here of a voice's NAME.onnx.json."""

    espeak: _PiperLanguage
    num_speakers: int
    speaker_id_map: NotRequired[dict[str, int] | None]


@dataclass
class PiperEngine:
    """Piper: `folder` holds voices as they are published, NAME.onnx and NAME.onnx.json. A voice is called NAME, or
    NAME#SPEAKER where the model has several speakers. Without a folder the voices are those in a cache, where Piper's
    own downloader puts others by their names (`fetch`).

    A model's noise comes from a generator that cannot be seeded for each utterance, so it is off: the same text has the
    same samples, with slightly less variation.
    """

    folder: Path | None = None
    name: str = "Piper"
    license: str = "GPL-3.0 (engine, loaded at run time); each voice has its own"

    def __post_init__(self) -> None:
        check_installed("piper", "piper", "onnxruntime")
        if self.folder is not None and not self._configs:
            raise InputError(f"engine_path: {self.folder}: holds no voice (NAME.onnx and NAME.onnx.json)")

    @property
    def _voice_folder(self) -> Path:
        return self.folder or cache_folder() / "piper"

    def fetch(self, voice: str) -> bool:
        """Downloads a voice that is not there, by its published name (en_US-lessac-medium); whether this can be the
        name of one. Raises InputError where it cannot be downloaded."""
        from piper.download_voices import VOICE_PATTERN, download_voice

        name, folder = voice.partition("#")[0], self._voice_folder
        if self.folder is not None or name in self._configs or not VOICE_PATTERN.match(name):
            return name in self._configs
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as temporary:
            try:
                download_voice(name, Path(temporary))
            except OSError as error:
                command = f"python -m piper.download_voices --download-dir FOLDER {name}"
                raise InputError(
                    f"voices: {name}: cannot be downloaded ({error}); where there is a network: {command}, and "
                    "--engine_path FOLDER"
                ) from error
            for suffix in (".onnx", ".onnx.json"):  # with its second file a voice is there
                replace_durably(Path(temporary) / f"{name}{suffix}", folder / f"{name}{suffix}")
        del self._configs
        return name in self._configs

    @cached_property
    def _configs(self) -> dict[str, dict[str, Any]]:
        files = [f for f in sorted(self._voice_folder.glob("*.onnx")) if f.with_suffix(".onnx.json").is_file()]
        try:
            return {f.stem: read_json(f.with_suffix(".onnx.json"), _PiperVoice) for f in files}
        except InputError as error:
            raise InputError(f"engine_path: {error}") from error

    def voices(self) -> list[str]:
        found: list[str] = []
        for name, config in self._configs.items():
            speakers: Sequence[str] = list(config.get("speaker_id_map") or {}) if config["num_speakers"] > 1 else []
            found += [f"{name}#{speaker}" for speaker in speakers] or [name]
        return found

    def language(self, voice: str) -> str:
        return self._configs[voice.partition("#")[0]]["espeak"]["voice"].lower()

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        from piper import SynthesisConfig

        if utterance.voice not in self.voices():
            raise InputError(f"voice: Piper has no voice {utterance.voice!r}; there are {', '.join(self.voices())}")
        name, _, speaker = utterance.voice.partition("#")
        settings = SynthesisConfig(
            speaker_id=self._configs[name]["speaker_id_map"][speaker] if speaker else None,
            length_scale=DEFAULT_RATE_WPM / utterance.rate_wpm,
            noise_scale=0.0,
            noise_w_scale=0.0,
            volume=LOUDNESS,
        )
        sentences = list(_piper(self._voice_folder / f"{name}.onnx").synthesize(utterance.text, settings))
        if not sentences:
            raise InputError(f"text: Piper gives no audio for {utterance.text!r}")
        return resampled(np.concatenate([s.audio_float_array for s in sentences]), sentences[0].sample_rate)


@cache
def _piper(path: Path) -> Any:
    from piper import PiperVoice
    from piper.config import PiperConfig

    config = PiperConfig.from_dict(read_json(path.with_suffix(".onnx.json"), _PiperVoice))
    return PiperVoice(config=config, session=_session(path))


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has many exception classes without a common base
        raise EngineError(f"engine_path: {path}: not a model that can be read; {_POINTER}") from error
