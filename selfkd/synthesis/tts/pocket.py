"""Pocket TTS (`selfkd[pocket]`): a language model of 100M parameters over audio latents that speaks in the voice of any
recording, as XTTS and F5-TTS do, on a core of a CPU. The package is MIT, its weights are CC-BY-4.0."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfkd.data.resample import resampled
from selfkd.errors import EngineError, InputError, without_run_details
from selfkd.synthesis.tts.base import Utterance, check_installed

DEFAULT_MODEL = "english"
VOICE_SUFFIXES = (".wav", ".safetensors")  # a recording, or what pocket-tts export-voice made of one
_LANGUAGES = {"english": "en", "french": "fr", "german": "de", "portuguese": "pt", "italian": "it", "spanish": "es",
              "dutch": "nl"}  # fmt: skip
# by the package's README; each has a license of its own
_VOICES = {
    "en": ("alba", "anna", "azelma", "bill_boerst", "caro_davy", "charles", "cosette", "eponine", "eve", "fantine",
           "george", "jane", "jean", "javert", "marius", "mary", "michael", "paul", "peter_yearsley", "stuart_bell",
           "vera"),
    "it": ("giovanni",), "es": ("lola",), "de": ("juergen",), "pt": ("rafael",), "fr": ("estelle",), "nl": ("daan",),
}  # fmt: skip


@dataclass
class PocketEngine:
    """`folder` holds recordings of voices, NAME.wav (or NAME.safetensors): a voice is called NAME. Without a folder the
    voices are those of the package. `model` is one of its language models (english, german_24l, ...) or a YAML file of
    one. Uses neither the rate nor the pitch of an utterance: the recording sets both."""

    folder: Path | None
    model: str = ""
    name: str = "Pocket TTS"
    license: str = "MIT (engine), CC-BY-4.0 (weights); each voice has its own"

    def __post_init__(self) -> None:
        check_installed("pocket", "pocket_tts")
        if self.folder is not None and not self._files:
            raise InputError(f"engine_path: {self.folder}: holds no voice (NAME{' or NAME'.join(VOICE_SUFFIXES)})")

    @cached_property
    def _files(self) -> dict[str, Path]:
        files = sorted(self.folder.iterdir()) if self.folder is not None else ()
        return {file.stem: file for file in files if file.suffix.lower() in VOICE_SUFFIXES}

    @cached_property
    def _model(self) -> Any:
        import torch
        from pocket_tts import TTSModel

        torch.set_num_threads(1)  # processes run in parallel
        model = self.model or DEFAULT_MODEL
        given = {"config": model} if model.endswith((".yaml", ".yml")) else {"language": model}
        try:
            loaded = TTSModel.load_model(**given)
        except Exception as error:  # of the hub, of files, of configurations
            reason = without_run_details(" ".join(str(error).split()))
            raise EngineError(f"engine_model: {model}: cannot be loaded ({reason})") from error
        # by default it decodes the frames that are ready together, whose number depends on the time, and the rounding
        # on their number
        loaded.max_decoder_frames_per_call = 1
        return loaded

    @cached_property
    def _states(self) -> dict[str, Any]:
        """{voice: what the model has made of its recording}."""
        return {}

    def load(self) -> None:
        """Reads the model, from the hub where it is not in the cache; raises EngineError where it cannot be read."""
        assert self._model is not None  # noqa: S101 an invariant of this code, no check of input

    def voices(self) -> list[str]:
        return list(self._files) or list(_VOICES.get(self._language, ()))

    @property
    def _language(self) -> str:
        family = re.split(r"[_.]", Path(self.model or DEFAULT_MODEL).name)[0]
        return _LANGUAGES.get(family, "any")

    def language(self, voice: str) -> str:
        return self._language

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        import torch

        if utterance.voice not in self.voices():
            known = ", ".join(self.voices())
            raise InputError(f"voice: Pocket TTS has no voice {utterance.voice!r}; there are {known}")
        if not any(character.isalnum() for character in utterance.text):
            raise InputError(f"text: Pocket TTS gives no audio for {utterance.text!r}")
        if utterance.voice not in self._states:
            try:
                prompt = self._files.get(utterance.voice, utterance.voice)
                self._states[utterance.voice] = self._model.get_state_for_audio_prompt(prompt)
            except Exception as error:  # of the hub, of an audio file, of a model without voice cloning
                reason = without_run_details(" ".join(str(error).split()))
                raise EngineError(f"voices: {utterance.voice}: cannot be used ({reason})") from error
        with torch.random.fork_rng(devices=[]):  # the model samples: the same utterance has the same samples
            torch.manual_seed(utterance.seed)
            audio = self._model.generate_audio(self._states[utterance.voice], utterance.text)
        return resampled(audio.numpy().astype(np.float32), self._model.sample_rate)
