"""TTS engines that are commands: their real audio where they are installed, and their errors by commands made here."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from selfkd.data.dataset import ExampleFolder
from selfkd.errors import EngineError, InputError
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.synthesis.tts.base import Utterance
from selfkd.synthesis.tts.commands import FliteEngine
from selfkd.synthesis.tts.registry import open_engine, weighted_voices

QUESTION = "Is there a red circle?"
COMMANDS = {"flite": ("flite",), "pico": ("pico2wave",), "festival": ("festival", "text2wave")}
VOICES = {"flite": ("slt", "rms"), "pico": ("en-US", "en-GB"), "festival": ("kal_diphone", "cmu_us_slt_arctic_hts")}
LIST = {
    "flite": "Voices available: slt awb_time",
    "pico": "Unknown language: none\nValid languages:\nen-US\nde-DE\nit-IT\n\nUsage: pico2wave <words>",
    "festival": "kal_diphone english american\nel_diphone spanish nil\nnew_hts english nil\n"
    "rab_diphone english british",
}


def needs(engine):
    missing = [command for command in COMMANDS[engine] if shutil.which(command) is None]
    return pytest.mark.skipif(bool(missing), reason=f"there is no command {', '.join(missing)}")


def opened(engine, voice):
    """The engine; skips where a voice of its own package is not installed."""
    tts_engine = open_engine(engine, "")
    if voice not in tts_engine.voices():
        pytest.skip(f"{tts_engine.name} has no voice {voice} here")
    return tts_engine


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install(engine, script): commands that list `LIST`, and run the shell script where they are to synthesize. In it
    $out is the path of the audio; the arguments of the last call are the lines of `arguments`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(engine, script, listed=None):
        (tmp_path / "list").write_text(LIST[engine] if listed is None else listed)
        lists = {
            "flite": '[ "$1" = -lv ]',
            "pico": '[ "$2" = none ] || [ "$5" = a -a "$2" != it-IT ] || { [ "$2" = it-IT ] && exit 1; }',
            "festival": '[ "$1" = -b ]',
        }
        for command in COMMANDS[engine]:
            (folder / command).write_text(
                f'#!/bin/sh\nif {lists[engine]}; then cat "{tmp_path}/list"; exit 0; fi\n'
                f'printf "%s\\n" "$@" > "{tmp_path}/arguments"\n'
                'for argument; do case "$before" in -o|-w) out=$argument;; esac; before=$argument; done\n'
                f"{script}\n"
            )
            (folder / command).chmod(0o755)
        return open_engine(engine, "")

    return make


@pytest.fixture
def speech(tmp_path):
    """A WAV file of a tone."""
    import soundfile

    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(np.arange(16_000) / 5), 16_000)
    return tmp_path / "tone.wav"


@pytest.mark.parametrize(
    ("engine", "voice"), [pytest.param(e, v, marks=needs(e)) for e, voices in VOICES.items() for v in voices]
)
def test_audio_is_deterministic_and_follows_the_voice_and_the_rate(engine, voice):
    tts_engine, utterance = opened(engine, voice), Utterance(QUESTION, voice)
    samples = tts_engine.synthesize_audio(utterance)
    assert samples.dtype == np.float32 and 16_000 < len(samples) < 48_000 and 0.2 < np.abs(samples).max() <= 1
    assert np.array_equal(samples, open_engine(engine, "").synthesize_audio(utterance))
    # Pico shortens the pauses less than the words
    at_double_rate = len(tts_engine.synthesize_audio(replace(utterance, rate_wpm=350))) / len(samples)
    assert 0.6 < at_double_rate < 0.75 if engine == "pico" else at_double_rate == pytest.approx(0.5, rel=0.1)
    other = next(v for v in tts_engine.voices() if v != voice)
    assert not np.array_equal(samples, tts_engine.synthesize_audio(replace(utterance, voice=other)))


@pytest.mark.parametrize("engine", [pytest.param(e, marks=needs(e)) for e in VOICES])
def test_the_text_is_neither_an_option_nor_a_program(engine):
    voice = VOICES[engine][0]
    tts_engine = opened(engine, voice)
    for text in (
        "-o what",
        "--help",
        "(quit)",
        '" (quit) "',
        "$(exit 3) `exit 3`",
        "It's 5 < 6 & b > a.",
        "What? ... Yes.",
    ):
        assert 4_000 < len(tts_engine.synthesize_audio(Utterance(text, voice))) < 160_000, text
    for text in ("...", "?", " "):
        with pytest.raises(InputError, match=r"text: .* gives no audio for"):
            tts_engine.synthesize_audio(Utterance(text, voice))
    with pytest.raises(InputError, match="voice: .* has no voice 'nobody'; there are .*" + voice):
        tts_engine.synthesize_audio(Utterance(QUESTION, "nobody"))


@needs("flite")
def test_voices_of_flite():
    assert {"kal", "slt"} <= set(open_engine("flite", "").voices())
    assert "awb_time" not in open_engine("flite", "").voices()  # whose words are those of a clock


@needs("pico")
def test_pico_follows_the_pitch_and_reads_marks_out():
    tts_engine, utterance = opened("pico", "en-US"), Utterance("Is it red or blue?", "en-US")

    def fundamental_hz(pitch):
        samples = tts_engine.synthesize_audio(replace(utterance, pitch=pitch))
        frames = np.stack([samples[i : i + 1024] for i in range(0, len(samples) - 1024, 320)])
        voiced = frames[np.sqrt((frames**2).mean(1)) > 0.05]
        spectrum = np.abs(np.fft.rfft(voiced, 4096)) ** 2
        correlation = np.fft.irfft(spectrum)[:, 40:267]  # lags of 400 to 60 Hz
        return 16_000 / np.median(40 + correlation.argmax(1))

    assert fundamental_hz(0) / fundamental_hz(50) == pytest.approx(0.5, rel=0.1)
    assert fundamental_hz(65) / fundamental_hz(50) == pytest.approx(2**0.3, rel=0.1)
    marked = replace(utterance, text='Is it <speed level="500">red or blue</speed>?')
    assert len(tts_engine.synthesize_audio(marked)) > 2 * len(tts_engine.synthesize_audio(utterance))


@needs("festival")
def test_festival_refuses_characters_that_it_would_drop():
    tts_engine = opened("festival", "kal_diphone")
    for text, same in (("Is the café red?", "Is the cafe red?"), ("Is it… red?", "Is it, red?")):
        both = [tts_engine.synthesize_audio(Utterance(t, "kal_diphone")) for t in (text, same)]
        assert np.array_equal(*both)
    with pytest.raises(InputError, match="text: Festival has no pronunciation for 'π'"):
        tts_engine.synthesize_audio(Utterance("Is it π?", "kal_diphone"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param(e, marks=needs(e)) for e in ("pico", "festival")])
def test_a_folder_in_the_voices_of_an_engine(tmp_path, engine):
    config = SynthesizeConfig(tmp_path / "out", "world", count=4, processes=1, engine=engine)
    opened(engine, VOICES[engine][0])
    manifest = synthesize(config)
    assert manifest["rows"] == 4 and manifest["rejected"] == []
    assert manifest["engine_name"] == open_engine(engine, "").name
    assert manifest["engine_license"].startswith({"pico": "Apache-2.0", "festival": "BSD-like"}[engine])
    assert {e.voice for e in ExampleFolder(config.output)} <= set(manifest["voice_names"])
    assert synthesize(replace(config, output=tmp_path / "again"))["shards"] == manifest["shards"]


@pytest.mark.parametrize(("engine", "command"), [(e, c) for e, commands in COMMANDS.items() for c in commands])
def test_a_missing_command_is_an_error_with_its_package(engine, command, tmp_path, install, monkeypatch):
    install(engine, "exit 0")
    (tmp_path / "bin" / command).unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(InputError, match=f"engine: {command}: no such command; .*Debian's .*package"):
        open_engine(engine, "")


@pytest.mark.parametrize(
    ("engine", "voices", "other"),
    [
        ("flite", {"slt": "en-us"}, "awb_time"),
        ("pico", {"de-DE": "de-de", "en-US": "en-us"}, "it-IT"),  # in the list, without files
        ("festival", {"kal_diphone": "en-us", "new_hts": "en", "rab_diphone": "en-gb"}, "el_diphone"),
    ],
)
def test_voices_are_those_that_the_command_lists(engine, voices, other, install):
    tts_engine = install(engine, "exit 0")
    assert {voice: tts_engine.language(voice) for voice in tts_engine.voices()} == voices
    assert list(weighted_voices("training", tts_engine, "en")) == [v for v, lang in voices.items() if lang[:2] == "en"]
    english = ", ".join(v for v, language in voices.items() if language[:2] == "en")
    with pytest.raises(InputError, match=f"voices: unknown voice '{other}'; .*{tts_engine.name} has {english}"):
        weighted_voices(other, tts_engine, "en")
    with pytest.raises(InputError, match=f"voice: .* has no voice '{other}'; there are {', '.join(voices)}"):
        tts_engine.synthesize_audio(Utterance(QUESTION, other))
    if engine == "pico":
        with pytest.raises(InputError, match="voices: 'de-DE' speaks de-de, the questions are in en"):
            weighted_voices("de-DE", tts_engine, "en")
    else:
        with pytest.raises(InputError, match=f"voices: {tts_engine.name} has none that speaks fr"):
            weighted_voices("training", tts_engine, "fr")


@pytest.mark.parametrize("engine", COMMANDS)
def test_a_command_without_voices_is_of_no_use(engine, install):
    with pytest.raises(EngineError, match=rf"engine: {COMMANDS[engine][0]}: has no voices; Debian's"):
        install(engine, "exit 0", listed="nothing").voices()


@pytest.mark.parametrize("engine", COMMANDS)
def test_a_failure_of_a_command_is_an_error_of_the_row(engine, install):
    command, voice = COMMANDS[engine][-1], VOICES[engine][0]
    for script, reason in (
        ("echo 'no luck' >&2; exit 3", f"engine: {command}: no luck"),
        ("exit 3", f"engine: {command}: exit code 3"),
        ("exit 0", f"engine: {command}: exit code 0"),
        ('echo "SIOD ERROR: unbound" >&2; exit 0', f"engine: {command}: SIOD ERROR: unbound"),
        (': > "$out"', "text: .* gives no audio for 'Is there a red circle"),
        ('echo "no audio" > "$out"', "text: .* gives no audio for 'Is there a red circle"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            install(engine, script).synthesize_audio(Utterance(QUESTION, voice))
        assert not isinstance(caught.value, EngineError) and "\n" not in str(caught.value)


def test_a_command_that_hangs_is_ended(install):
    install("flite", "exec sleep 60")
    with pytest.raises(InputError, match="engine: flite: no audio in 1 s"):
        FliteEngine(time_limit_seconds=1.0).synthesize_audio(Utterance(QUESTION, "slt"))


def test_arguments_of_the_commands(tmp_path, install, speech):
    copy = f'cp "{speech}" "$out"'

    def arguments(engine, utterance):
        assert len(install(engine, copy).synthesize_audio(utterance)) == 16_000
        return (tmp_path / "arguments").read_text().splitlines()

    assert arguments("flite", Utterance("-x", "slt", 350))[:6] == [
        "-voice",
        "slt",
        "--setf",
        "duration_stretch=0.500",
        "-t",
        "-x",
    ]
    *_, end, text = arguments("pico", Utterance("<s> a < b </pitch>", "en-US", 350, 100))
    assert (end, text) == ("--", '<speed level="200"><pitch level="200"><, s> a < b <, /pitch></pitch></speed>')
    festival = " ".join(arguments("festival", Utterance("(quit)", "kal_diphone", 350)))
    assert "(voice_kal_diphone)" in festival and "'Duration_Stretch 0.500" in festival and '("-r" 2.000)' in festival
    assert "quit" not in festival and festival.endswith("text.txt")
