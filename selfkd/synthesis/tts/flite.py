"""CMU Flite's American voices, by its command `flite` (packaged by Debian and Homebrew; BSD-like license)."""

import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from selfkd.data.media import decode_audio
from selfkd.data.resample import resampled
from selfkd.errors import InputError, without_run_details
from selfkd.synthesis.tts.base import Utterance
from selfkd.synthesis.tts.neural import DEFAULT_RATE_WPM

_HISS = 0.01  # peak of its audio for a text without words; with words it is 0.3 and more
_LIMITED_VOICES = ("awb_time",)  # limited-domain voices


@dataclass
class FliteEngine:
    """Uses the rate of an utterance, not its pitch."""

    name: str = "Flite"
    license: str = "BSD-like (CMU)"

    def __post_init__(self) -> None:
        if shutil.which("flite") is None:
            raise InputError("engine: flite: no such command; Debian's and Homebrew's package is called flite")

    @cached_property
    def _voices(self) -> list[str]:
        listed = subprocess.run(["flite", "-lv"], capture_output=True, text=True, check=True).stdout
        return sorted(set(listed.partition(":")[2].split()) - set(_LIMITED_VOICES))

    def voices(self) -> list[str]:
        return self._voices

    def language(self, voice: str) -> str:
        return "en-us"

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        if utterance.voice not in self._voices:
            # flite takes an unknown name for a file to load, and ends in a message of its own
            raise InputError(f"voice: Flite has no voice {utterance.voice!r}; there are {', '.join(self._voices)}")
        with TemporaryDirectory() as folder:
            path = Path(folder) / "audio.wav"
            stretch = f"duration_stretch={DEFAULT_RATE_WPM / utterance.rate_wpm:.3f}"
            command = ["flite", "-voice", utterance.voice, "--setf", stretch, "-t", utterance.text, "-o", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not path.is_file():
                raise InputError(
                    f"engine: flite: {without_run_details(done.stderr.strip()) or f'exit code {done.returncode}'}"
                )
            try:
                samples, rate_hz, _ = decode_audio(path)
            except InputError as error:
                raise InputError(f"text: Flite gives no audio for {utterance.text!r} ({error})") from error
        if np.abs(samples).max() < _HISS:
            raise InputError(f"text: Flite gives no audio for {utterance.text!r}")
        return resampled(samples, rate_hz)
