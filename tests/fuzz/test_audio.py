"""Audio: files of every format with damaged bytes and lengths, parts of them, and extreme samples."""

import io
from functools import cache

import numpy as np
import pytest
import soundfile
from examples import tone
from fuzzing import Malformed
from hypothesis import strategies as st
from malformed import damaged_bytes

from selfkd.data.example import SAMPLE_RATE_HZ
from selfkd.data.media import decode_audio
from selfkd.errors import InputError
from selfkd.serving.media import audio_formats, read_audio
from selfkd.serving.schema import RefusedError

pytestmark = pytest.mark.slow

SECONDS = 0.5
FORMATS = {
    "WAV": ("WAV", "PCM_16"), "floats": ("WAV", "FLOAT"), "mu-law": ("WAV", "ULAW"), "ADPCM": ("WAV", "IMA_ADPCM"),
    "RF64": ("RF64", "PCM_16"), "FLAC": ("FLAC", "PCM_16"), "MP3": ("MP3", None), "Vorbis": ("OGG", "VORBIS"),
    "Opus": ("OGG", "OPUS"), "AIFF": ("AIFF", "PCM_16"), "AU": ("AU", "PCM_16"), "NIST": ("NIST", "PCM_16"),
}  # fmt: skip
CONTAINERS = {"m4a": ("mp4", "aac"), "aac": ("adts", "aac"), "webm": ("webm", "libopus"), "3gp": ("3gp", "aac")}
PARTS = [
    (0.0, 0.0), (0.1, 0.3), (0.0, 0.5), (0.4, 0.2), (-1.0, 0.2), (1e9, 0.0), (0.0, 1e9), (float("nan"), 0.0),
    (0, float("inf")),
]  # fmt: skip


@cache
def audio_file(name: str, rate_hz: int = SAMPLE_RATE_HZ, channels: int = 1) -> bytes:
    samples = np.stack([tone(SECONDS)] * channels, axis=1)
    buffer = io.BytesIO()
    if name in FORMATS:
        soundfile.write(buffer, samples, rate_hz, format=FORMATS[name][0], subtype=FORMATS[name][1])
        return buffer.getvalue()
    import av

    container, codec = CONTAINERS[name]
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, :1].T), "flt", "mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        resampler = av.AudioResampler(stream.format, "mono", 48_000, stream.frame_size or 960)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return buffer.getvalue()


@st.composite
def damaged_files(draw: st.DrawFn) -> Malformed:
    name = draw(st.sampled_from([*FORMATS, *CONTAINERS]))
    content, label = draw(damaged_bytes(audio_file(name)))
    if draw(st.booleans()):
        content, more = draw(damaged_bytes(content or b"\0"))
        label = f"{label}, {more}"
    part = draw(st.just((0.0, 0.0)) | st.sampled_from(PARTS))
    return Malformed((content, *part), f"{name}: {label}; from {part[0]} to {part[1]} s")


@st.composite
def half_files(draw: st.DrawFn) -> Malformed:
    name = draw(st.sampled_from(sorted(FORMATS)))
    content = audio_file(name)
    return Malformed((content[: len(content) // 2], 0.0, 0.0), f"half of {name}", "a file that was cut short")


@st.composite
def odd_samples(draw: st.DrawFn) -> Malformed:
    """Silent, constant, infinite, of another scale, at odd rates, of many channels."""
    value = draw(st.sampled_from([0.0, 1.0, 1e-9, 1e30, float("nan"), float("inf"), -float("inf")]))
    rate_hz = draw(st.sampled_from([1, 100, 16_000, 2**31 - 1]))
    channels = draw(st.sampled_from([1, 2, 64]))
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full((1600, channels), value, np.float32), rate_hz, format="WAV", subtype="FLOAT")
    label = f"WAV of floats: {value}, {rate_hz} Hz, {channels} channels"
    return Malformed((buffer.getvalue(), 0.0, 0.0), label, "samples without sound")


ODD_PARTS = st.sampled_from(PARTS).map(
    lambda part: Malformed((audio_file("WAV"), *part), f"WAV from {part[0]} to {part[1]}")
)


def decode(given: tuple[bytes, float, float]) -> None:
    content, start, stop = given
    for expected in audio_formats(content):
        try:
            samples = read_audio(content, expected, 30.0)
            assert samples.dtype == np.float32 and np.isfinite(samples).all()
        except RefusedError as error:
            assert error.status == 400 and len(error.message) < 500
    samples, rate_hz, _ = decode_audio(content, start, stop)
    assert samples.ndim == 1 and np.isfinite(samples).all() and np.abs(samples).max() <= 1 and rate_hz > 0


def test_audio(fuzzer, capfd):
    fuzzer.run("audio", damaged_files() | half_files() | odd_samples() | ODD_PARTS, decode, examples=200)
    assert not capfd.readouterr().err, "a library of decoders writes to the log"


def test_whole_files_are_accepted():
    """What is damaged above."""
    for name in (*FORMATS, *CONTAINERS):
        try:
            decode((audio_file(name), 0.0, 0.0))
        except InputError as error:
            raise AssertionError(name) from error
