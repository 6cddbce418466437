"""Text -> audio. A `TTSEngine` is a TTS engine with voices; espeak-ng comes as a dependency.

espeak-ng is GPL-3 and comes in the wheel `espeakng-loader`; it is loaded at run time, in process, and nothing of it is
part of this package. Its audio is reproducible and far from natural: right for tests and the demo.
"""

import _ctypes
import ctypes
import hashlib
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import espeakng_loader
import numpy as np
from numpy.typing import NDArray

from selfkd.data.resample import resampled
from selfkd.errors import InputError
from selfkd.files import cache_folder, private_folder
from selfkd.synthesis.tts import random_voices

DEFAULT_RATE_WPM = 175  # at which a voice has its natural speed


@dataclass(frozen=True)
class Utterance:
    """The input of an engine. The same utterance gives the same samples."""

    text: str
    voice: str
    rate_wpm: int = DEFAULT_RATE_WPM
    pitch: int = 50  # 0 to 99
    seed: int = 1
    id: str = ""  # of the example, for engines that look up a recording


class TTSEngine(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def license(self) -> str: ...

    def voices(self) -> list[str]:
        """Names of voices for `Utterance.voice`."""
        ...

    def language(self, voice: str) -> str:
        """The language of a voice (en, de, en-gb); "any" where the voice takes it from the text."""
        ...

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        """Mono samples (frames,) in [-1, 1] at 16 kHz. Raises InputError for an unknown voice or a text without
        words."""
        ...


def check_installed(extra: str, *packages: str) -> None:
    """Raises InputError, naming the extra, where packages of an engine are not installed, and names only these."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        are = "are" if len(missing) > 1 else "is"
        raise InputError(f"engine: {extra}: {', '.join(missing)} {are} not installed; pip install 'selfkd[{extra}]'")


_ACCENTS = {
    "training": ("en-US", "en", "en-GB-x-rp", "en-GB-x-gbclan", "en-029", "en-GB-scotland"),
    "heldout": ("en-US-nyc", "en-GB-x-gbcwmd"),
}
_VARIANTS = {
    "training": ("m1", "m2", "m3", "m5", "m7", "f1", "f2", "f4", "Alex", "Andy", "Annie", "Diogo", "Lee", "Mario",
                 "Michael", "Reed", "adam", "anika", "benjamin", "david", "edward", "iven", "john", "linda", "antonio",
                 "aunty", "belinda", "boris", "caleb", "ed", "grandma", "gustave", "marcelo", "miguel", "norbert",
                 "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "travis", "zac"),
    "heldout": ("m4", "m6", "m8", "f3", "f5", "Alicia", "Denis", "Marco", "ian", "max", "steph", "victor"),
}  # fmt: skip
# training and heldout share neither an accent nor a variant; random voices have the accents of training
ESPEAK_VOICES = {part: [f"{a}+{v}" for a in _ACCENTS[part] for v in _VARIANTS[part]] for part in _ACCENTS}
ESPEAK_VOICES["random"] = [f"{a}+{v}" for a in _ACCENTS["training"] for v in random_voices.NAMES]


def espeak_voices(names: str, accents: Iterable[str]) -> list[str]:
    """The "training" or "heldout" voices with other accents than the English ones, those of another language; without
    accents for romanized text (pinyin)."""
    return [f"{accent}+{variant}" for accent in accents if "Latn" not in accent for variant in _VARIANTS[names]]


_SYNCHRONOUS, _NO_EXIT, _UTF8, _RATE, _PITCH = 2, 0x8000, 1, 1, 3
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class EspeakEngine:
    """espeak-ng in process: some 130 languages and accents (8 of them English) by 104 variants, named "accent+variant",
    as in "en-GB-scotland+f3" or "de+m1"."""

    name, license = "espeak-ng 1.52", "GPL-3.0 (engine, loaded at run time)"

    def __init__(self) -> None:
        library, data = Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())
        self._folder = _espeak_folder(library, data)
        self._library_path = str(self._folder / library.name)
        self._accents = {p.name for p in (data / "lang").rglob("*") if p.is_file() and p.name != "en-Shaw"}
        self._variants = {p.name for p in (self._folder / "espeak-ng-data" / "voices" / "!v").iterdir()}

    def voices(self) -> list[str]:
        return [f"{a}+{v}" for a in sorted(self._accents) for v in sorted(self._variants)]

    def language(self, voice: str) -> str:
        return voice.partition("+")[0].lower()

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        # espeak replaces an unknown name by another voice without an error, so both parts of the name are looked up
        # among its files first
        accent, plus, variant = utterance.voice.partition("+")
        if accent not in self._accents or (plus and variant not in self._variants):
            accents = ", ".join(sorted(a for a in self._accents if a.startswith("en")))
            raise InputError(f"voice: espeak-ng has no voice {utterance.voice!r}; English accents: {accents}")
        samples, native_rate_hz = self._synthesize(utterance)
        if not len(samples) or not np.abs(samples).max():
            raise InputError(f"text: espeak-ng gives no audio for {utterance.text!r}")
        return resampled(samples / np.float32(32768), native_rate_hz)

    def _synthesize(self, utterance: Utterance) -> tuple[NDArray[np.float32], int]:
        # The library keeps phases and counters between utterances, which no call resets: the same text gave other
        # samples, even another length, each time. Loading it again (1 ms) and seeding both of its random generators
        # makes the samples a function of the utterance.
        library = ctypes.CDLL(self._library_path)
        try:
            native_rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, str(self._folder).encode(), _NO_EXIT)
            if native_rate_hz <= 0:
                raise InputError(f"espeak-ng could not start with the data in {self._folder}")
            chunks: list[NDArray[np.int16]] = []

            def collect(samples, count, _events) -> int:
                if samples and count > 0:
                    chunks.append(np.frombuffer(ctypes.string_at(samples, 2 * count), np.int16))
                return 0

            callback = _CALLBACK(collect)
            library.espeak_SetSynthCallback(callback)
            if library.espeak_SetVoiceByName(utterance.voice.encode()) != 0:
                raise InputError(f"voice: espeak-ng refused the voice {utterance.voice!r}")
            library.espeak_SetParameter(_RATE, utterance.rate_wpm, 0)
            library.espeak_SetParameter(_PITCH, utterance.pitch, 0)
            library.espeak_ng_SetRandSeed(ctypes.c_long(utterance.seed))
            ctypes.CDLL(None).srand(utterance.seed)
            text = utterance.text.encode()
            library.espeak_Synth(text, len(text) + 1, 0, 0, 0, _UTF8, None, None)
            library.espeak_Terminate()
            return np.concatenate(chunks or [np.zeros(0, np.int16)]).astype(np.float32), native_rate_hz
        finally:
            _ctypes.dlclose(library._handle)


def _espeak_folder(library: Path, data: Path) -> Path:
    """A folder with a copy of the library, links to its data, and the random voices: one for all processes, and kept,
    since a killed process, as an isolated engine is, could not remove one of its own. Raises InputError where it cannot
    be made.

    A copy: the library that others in this process hold open (Kokoro's phonemizer does) cannot be loaded again.
    """
    voice_files = {name: random_voices.voice_file(name) for name in random_voices.NAMES}
    key = hashlib.sha256(library.read_bytes() + f"{data}{voice_files}".encode()).hexdigest()[:12]
    cache = cache_folder() / "espeak"
    folder = cache / f"espeak-{key}"
    try:
        private_folder(cache)
        if folder.is_dir():
            return folder
        made = cache / f".{folder.name}.{secrets.token_hex(4)}"
        made.mkdir()
        try:
            _link_data(data, made / "espeak-ng-data")
            for name, text in voice_files.items():
                (made / "espeak-ng-data" / "voices" / "!v" / name).write_text(text)
            shutil.copy(library, made)
            made.rename(folder)
        except OSError:
            shutil.rmtree(made)
            if not folder.is_dir():  # else another process was first
                raise
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({error.strerror}); set XDG_CACHE_HOME to another folder"
        ) from error
    return folder


def _link_data(source: Path, target: Path) -> None:
    """Links to espeak's data, its languages by their lower-case names in one folder, where it finds a voice at once.
    Otherwise it reads all voice files, which takes longer than the synthesis of a question."""
    (target / "lang").mkdir(parents=True)
    (target / "voices" / "!v").mkdir(parents=True)
    for path in (*source.iterdir(), *(source / "voices").iterdir(), *(source / "voices" / "!v").iterdir()):
        if path.name not in ("lang", "voices", "!v"):
            (target / path.relative_to(source)).symlink_to(path)
    for path in (source / "lang").rglob("*"):
        if path.is_file():
            (target / "lang" / path.name.lower()).symlink_to(path)
