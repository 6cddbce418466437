"""TTS engines that are commands of the system: Flite, Pico and Festival. A process for each utterance writes a WAV
file. The text is an argument or a file, never part of a shell's line or of a program."""

import re
import shutil
import subprocess
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from selfkd.data.media import decode_audio
from selfkd.data.resample import resampled
from selfkd.errors import EngineError, InputError, without_run_details
from selfkd.synthesis.tts.base import DEFAULT_RATE_WPM, Utterance

_HISS = 0.01  # peak of an engine's audio for a text without words; with words it is 0.3 and more


class CommandEngine(ABC):
    """A `TTSEngine` by commands. A command that takes longer than `time_limit_seconds` is ended: the process that
    isolates the engine could end only the engine, and the command would outlive it."""

    name: str
    license: str
    commands: tuple[str, ...]
    package: str  # what to install, after "no such command; "

    def __init__(self, time_limit_seconds: float = 60.0) -> None:
        self._time_limit_seconds = time_limit_seconds
        for command in self.commands:
            if shutil.which(command) is None:
                raise InputError(f"engine: {command}: no such command; {self.package}")

    @abstractmethod
    def _find_voices(self) -> Mapping[str, str]:
        """{voice: its language}, as the command lists them."""

    @abstractmethod
    def _command(self, utterance: Utterance, path: Path) -> Sequence[str]:
        """The command that writes the utterance's audio to `path`, in a folder of its own."""

    @cached_property
    def _languages(self) -> dict[str, str]:
        languages = dict(sorted(self._find_voices().items()))
        if not languages:
            raise EngineError(f"engine: {self.commands[0]}: has no voices; {self.package}")
        return languages

    def voices(self) -> list[str]:
        return list(self._languages)

    def language(self, voice: str) -> str:
        return self._languages[voice]

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        if utterance.voice not in self._languages:
            # the commands take an unknown name for a file or a variable, or use another voice
            known = ", ".join(self._languages)
            raise InputError(f"voice: {self.name} has no voice {utterance.voice!r}; there are {known}")
        if not any(character.isalnum() for character in utterance.text):
            # Pico reads the names of the signs, Festival dies
            raise InputError(f"text: {self.name} gives no audio for {utterance.text!r}")
        with TemporaryDirectory() as folder:
            path = Path(folder) / "audio.wav"
            command = self._command(utterance, path)
            done = self._run(command)
            if done.returncode or not path.is_file():
                reason = without_run_details(" ".join(done.stderr.split())) or f"exit code {done.returncode}"
                raise InputError(f"engine: {command[0]}: {reason}")
            try:
                samples, rate_hz, _ = decode_audio(path)
            except InputError as error:
                raise InputError(f"text: {self.name} gives no audio for {utterance.text!r} ({error})") from error
        if np.abs(samples).max() < _HISS:
            raise InputError(f"text: {self.name} gives no audio for {utterance.text!r}")
        return resampled(samples, rate_hz)

    def _run(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        try:
            return subprocess.run(  # noqa: S603 a list, no shell; the user chose the command
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
                timeout=self._time_limit_seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise InputError(f"engine: {command[0]}: no audio in {self._time_limit_seconds:.0f} s") from error
        except OSError as error:
            raise EngineError(f"engine: {command[0]}: cannot be run ({error.strerror})") from error


class FliteEngine(CommandEngine):
    """CMU Flite's American voices. Uses the rate of an utterance, not its pitch."""

    name, license, commands = "Flite", "BSD-like (CMU)", ("flite",)
    package = "Debian's and Homebrew's package is called flite"

    def _find_voices(self) -> Mapping[str, str]:
        names = self._run(["flite", "-lv"]).stdout.partition(":")[2].split()
        return {name: "en-us" for name in names if name != "awb_time"}  # which has the words of a clock only

    def _command(self, utterance: Utterance, path: Path) -> Sequence[str]:
        stretch = f"duration_stretch={DEFAULT_RATE_WPM / utterance.rate_wpm:.3f}"
        return ["flite", "-voice", utterance.voice, "--setf", stretch, "-t", utterance.text, "-o", str(path)]


class PicoEngine(CommandEngine):
    """SVOX Pico, the TTS engine of early Android: one voice for each language, called by it (en-US, en-GB, de-DE).
    Uses the rate and the pitch of an utterance, which are marks in its text."""

    name, license, commands = "SVOX Pico", "Apache-2.0", ("pico2wave",)
    package = "Debian's package is called libttspico-utils, in its section non-free"
    # signs of a text that Pico would take for a mark, as <speed level="50">, and not read out
    _MARK = re.compile(r"<(?=\s*/?\s*\w[^<]*>)")

    def _find_voices(self) -> Mapping[str, str]:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "audio.wav"
            listed = self._run(["pico2wave", "-l", "none", "-w", str(path), "a"])  # of an unknown language: the list
            known = re.findall(r"^\s*([a-z]{2,3}-[A-Z]{2})\s*$", listed.stdout + listed.stderr, re.MULTILINE)
            # the list is part of the command; the files of a language may be missing, wherever it looks for them
            runs = {language: self._run(["pico2wave", "-l", language, "-w", str(path), "a"]) for language in known}
        return {language: language.lower() for language, run in runs.items() if run.returncode == 0}

    def _command(self, utterance: Utterance, path: Path) -> Sequence[str]:
        speed = round(100 * utterance.rate_wpm / DEFAULT_RATE_WPM)
        pitch = round(100 * 2 ** ((utterance.pitch - 50) / 50))  # an octave down to one up: what it accepts
        text = self._MARK.sub("<, ", utterance.text)
        text = f'<speed level="{speed}"><pitch level="{pitch}">{text}</pitch></speed>'
        return ["pico2wave", "-l", utterance.voice, "-w", str(path), "--", text]


class FestivalEngine(CommandEngine):
    """Festival's English voices; those of other languages take text in encodings of their own. Uses the rate of an
    utterance, not its pitch."""

    name, license = "Festival", "BSD-like (CSTR, University of Edinburgh); each voice has its own"
    commands = ("festival", "text2wave")
    package = "Debian's packages are festival and its voices, such as festvox-kallpc16k and festvox-us-slt-hts"
    _LIST = """(mapcar (lambda (voice)
      (let ((about (cadr (voice.description voice))))
        (format t "%s %l %l\\n" voice (cadr (assoc 'language about)) (cadr (assoc 'dialect about)))))
      (voice.list))"""
    _DIALECTS: Mapping[str, str] = {"american": "en-us", "british": "en-gb"}
    # diphone and unit selection voices have the first parameter, HTS voices the second
    _RATE = """(begin (Parameter.set 'Duration_Stretch {stretch:.3f})
      (if (symbol-bound? 'hts_engine_params)
        (set! hts_engine_params (append hts_engine_params '(("-r" {speed:.3f}))))))"""

    def _find_voices(self) -> Mapping[str, str]:
        lines = [line.split() for line in self._run(["festival", "-b", self._LIST]).stdout.splitlines()]
        english = [line for line in lines if len(line) == 3 and line[1] == "english"]
        return {voice: self._DIALECTS.get(dialect, "en") for voice, _, dialect in english}

    def _command(self, utterance: Utterance, path: Path) -> Sequence[str]:
        text = path.with_name("text.txt")
        text.write_text(_ascii(utterance.text), encoding="ascii")
        speed = utterance.rate_wpm / DEFAULT_RATE_WPM
        rate = self._RATE.format(stretch=1 / speed, speed=speed)
        return ["text2wave", "-eval", f"(voice_{utterance.voice})", "-eval", rate, "-o", str(path), str(text)]


def _ascii(text: str) -> str:
    """Text as Festival's English voices can read it: without accents (they drop the letters), and without dots that
    would be a sentence of their own, of which a diphone voice dies. Raises InputError for other characters, which it
    would drop without a message."""
    marked = unicodedata.normalize("NFKD", text)
    plain = "".join(character for character in marked if not unicodedata.combining(character))
    other = next((character for character in plain if not character.isascii()), "")
    if other:
        raise InputError(f"text: Festival has no pronunciation for {other!r}")
    return re.sub(r"\.{2,}", ",", plain)
