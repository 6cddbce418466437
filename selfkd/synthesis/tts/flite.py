"""CMU Flite's American voices, by its command `flite` (Debian and Homebrew have it; its licence is like BSD's)."""

import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from selfkd.data.media import decode_audio
from selfkd.errors import InputError, steady
from selfkd.synthesis.tts.base import Utterance, resampled
from selfkd.synthesis.tts.neural import USUAL_RATE_WPM

_HISS = 0.01  # peak of what it makes of no words at all; of words it is 0.3 and more
_ABOUT_ONE_THING = ("awb_time",)  # voices that can say the time and nothing else


@dataclass
class FliteEngine:
    """Of rate and pitch it takes the rate."""

    engine: str = "Flite"
    license: str = "BSD-like (CMU)"

    def __post_init__(self) -> None:
        if shutil.which("flite") is None:
            raise InputError("engine: flite: no such command; Debian's and Homebrew's package is called flite")

    @cached_property
    def _voices(self) -> list[str]:
        listed = subprocess.run(["flite", "-lv"], capture_output=True, text=True, check=True).stdout
        return sorted(set(listed.partition(":")[2].split()) - set(_ABOUT_ONE_THING))

    def voices(self) -> list[str]:
        return self._voices

    def language(self, voice: str) -> str:
        return "en-us"

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        if utterance.voice not in self._voices:
            # flite takes a name that it does not know for a file to load, and ends in a message of its own
            raise InputError(f"voice: Flite has no voice {utterance.voice!r}; there are {', '.join(self._voices)}")
        with TemporaryDirectory() as folder:
            said = Path(folder) / "said.wav"
            stretch = f"duration_stretch={USUAL_RATE_WPM / utterance.rate_wpm:.3f}"
            command = ["flite", "-voice", utterance.voice, "--setf", stretch, "-t", utterance.text, "-o", str(said)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not said.is_file():
                raise InputError(f"engine: flite: {steady(done.stderr.strip()) or f'exit code {done.returncode}'}")
            try:
                samples, rate_hz, _ = decode_audio(said)
            except InputError as error:
                raise InputError(f"text: Flite found nothing to say in {utterance.text!r} ({error})") from error
        if np.abs(samples).max() < _HISS:
            raise InputError(f"text: Flite found nothing to say in {utterance.text!r}")
        return resampled(samples, rate_hz)
