"""The only decoder of audio: the header's full length, not silent, full scale 1; or an error with its reason."""

import builtins
import io
import struct

import numpy as np
import pytest
import soundfile
from examples import tone, toy_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from selfkd.data.example import SAMPLE_RATE_HZ
from selfkd.data.media import MIN_LEVEL, check_not_silent, decode_audio
from selfkd.errors import InputError
from selfkd.serving.media import read_audio
from selfkd.serving.schema import RefusedError
from selfkd.synthesis.sources.rows import Clip, read_clip
from selfkd.synthesis.tts.base import Utterance
from selfkd.synthesis.tts.registry import RecordedEngine

FEW = settings(deadline=None, max_examples=40, derandomize=True, database=None)
SECONDS = 2.0
FORMATS = {
    "WAV": {"format": "WAV", "subtype": "PCM_16"},
    "WAV of floats": {"format": "WAV", "subtype": "FLOAT"},
    "WAV, mu-law": {"format": "WAV", "subtype": "ULAW"},
    "RF64": {"format": "RF64", "subtype": "PCM_16"},
    "FLAC": {"format": "FLAC", "subtype": "PCM_16"},
    "MP3": {"format": "MP3"},
    "Vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "Opus": {"format": "OGG", "subtype": "OPUS"},
    "AIFF": {"format": "AIFF", "subtype": "PCM_16"},
    "AU": {"format": "AU", "subtype": "PCM_16"},
    "NIST": {"format": "NIST", "subtype": "PCM_16"},
}


def encoded(samples, rate_hz=SAMPLE_RATE_HZ, **how):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, **(how or FORMATS["WAV"]))
    return buffer.getvalue()


FILES = {name: encoded(tone(SECONDS), **how) for name, how in FORMATS.items()}


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_whole(name):
    samples, rate_hz, channels = decode_audio(FILES[name])
    assert (len(samples) / rate_hz, channels) == (SECONDS, 1)
    lossy = name in ("MP3", "Vorbis", "Opus", "WAV, mu-law")
    assert np.corrcoef(samples, tone(SECONDS))[0, 1] > 0.99 if lossy else np.abs(samples - tone(SECONDS)).max() < 1e-4


@FEW
@given(st.data())
def test_any_truncation_is_refused(data):
    """data_18_truncated_recording: beyond 0.02 s (0.04 s of MP3, where a frame is as long), in every format."""
    name = data.draw(st.sampled_from(sorted(FILES)))
    whole = FILES[name]
    cut = data.draw(st.integers(int(0.02 / SECONDS * len(whole)) + 2, len(whole) - 1))
    with pytest.raises(InputError):
        decode_audio(whole[:-cut])


def test_the_error_of_half_a_file_has_its_length(tmp_path):
    """data_18_truncated_recording"""
    for name in ("WAV", "MP3"):
        path = tmp_path / "half.bin"
        path.write_bytes(FILES[name][: len(FILES[name]) // 2])
        with pytest.raises(InputError, match=r"field audio: .*half.bin: truncated: holds [01]\.\d\d s of [12]\.\d\d s"):
            read_clip(Clip(path))


@FEW
@given(size=st.sampled_from([0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36, 0x80000000]), riff=st.booleans())
def test_the_length_of_a_stream_is_ignored(size, riff):
    """As ffmpeg, browsers and endpoints write it for an unknown length."""
    content = bytearray(FILES["WAV"])
    at = content.find(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    if riff:
        content[4:8] = struct.pack("<I", size)
    assert len(decode_audio(bytes(content)).samples) == round(SECONDS * SAMPLE_RATE_HZ)
    assert len(read_audio(bytes(content), "wav", 30)) == round(SECONDS * SAMPLE_RATE_HZ)


def test_a_flac_without_a_length_is_read_to_its_end():
    content = bytearray(FILES["FLAC"])
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    assert len(decode_audio(bytes(content)).samples) == round(SECONDS * SAMPLE_RATE_HZ)
    with pytest.raises(InputError):
        decode_audio(bytes(content)[:-500])


def test_tags_after_an_mp3_are_no_frames():
    for tags in (b"TAG" + bytes(125), b"APETAGEX" + bytes(60), bytes(1000)):
        assert len(decode_audio(b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + FILES["MP3"] + tags).samples)


@FEW
@given(
    level=st.floats(-MIN_LEVEL / 2, MIN_LEVEL / 2),
    constant=st.floats(-1, 1),
    kind=st.sampled_from(["WAV of floats", "WAV", "FLAC"]),
)
def test_silence_is_refused_everywhere(level, constant, kind):
    """eval_14_silence_is_answered: zeros, samples under -60 dBFS, and a constant."""
    samples = np.clip(constant + level * np.sign(tone(0.5)), -1, 1).astype(np.float32)
    content = encoded(samples, **FORMATS[kind])
    with pytest.raises(InputError, match="silent"):
        decode_audio(content)
    with pytest.raises(RefusedError, match="input_audio: silent"):
        read_audio(content, "flac" if kind == "FLAC" else "wav", 30)
    example = toy_examples(1)[0].with_audio(samples, "x")
    with pytest.raises(InputError, match=f"example {example.id}: field audio: silent"):
        example.samples()


def test_a_short_word_in_a_long_silence_is_accepted():
    check_not_silent(np.concatenate([np.zeros(200_000, np.float32), 0.1 * tone(0.5)]))


@FEW
@given(at=st.integers(0, 7_999), value=st.sampled_from([np.nan, np.inf, -np.inf]), channels=st.sampled_from([1, 2]))
def test_nan_and_infinity_are_refused(at, value, channels):
    samples = np.stack([tone(0.5)] * channels, axis=1)
    samples[at, channels - 1] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        decode_audio(encoded(samples, **FORMATS["WAV of floats"]))


def test_another_scale_is_refused():
    """Integers stored as floats, as scipy and numpy do: all but noise would be clipped."""
    with pytest.raises(InputError, match=r"holds samples up to 9.*, full scale is 1"):
        decode_audio(encoded(tone(0.5) * 32_768, **FORMATS["WAV of floats"]))
    assert decode_audio(encoded(tone(0.5) * 4, **FORMATS["WAV of floats"])).samples.max() == 1.0


@FEW
@given(
    samples=arrays(np.int16, st.tuples(st.integers(800, 900), st.integers(1, 3)), elements=st.integers(-32768, 32767)),
    kind=st.sampled_from(["WAV", "FLAC", "RF64", "AIFF", "AU", "NIST"]),
)
def test_lossless_formats_are_decoded_without_loss(samples, kind):
    samples[::7] = 9_000  # not silent, though the rest may be zeros
    samples[3::7] = -9_000
    expected = (samples / np.float32(32_768)).mean(axis=1, dtype=np.float32)
    found = decode_audio(encoded(samples, **FORMATS[kind]))
    assert np.allclose(found.samples, expected, atol=1e-6) and found.channels == samples.shape[1]
    for channel in range(samples.shape[1]):
        try:
            single = decode_audio(encoded(samples, **FORMATS[kind]), channels=[channel]).samples
        except InputError as error:
            assert "silent" in str(error)
            continue
        assert np.allclose(single, samples[:, channel] / 32_768, atol=1e-6)
    with pytest.raises(InputError, match=f"no channel {samples.shape[1]} "):
        decode_audio(encoded(samples, **FORMATS[kind]), channels=[samples.shape[1]])


def test_a_part_beyond_the_end_is_refused(tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(FILES["FLAC"])
    assert len(read_clip(Clip(path, 0.5, 1.5))[0]) == 16_000
    assert len(read_clip(Clip(path, 0.5))[0]) == 24_000
    assert len(read_clip(Clip(path, 1.0, 2.05))[0]) == 16_000, "manifests round times"
    with pytest.raises(InputError, match=r"truncated: holds 1\.0 s of the 9\.0 s from 1\.0 s on"):
        read_clip(Clip(path, 1.0, 10.0))
    half = tmp_path / "half.wav"
    half.write_bytes(FILES["WAV"][:33_000])
    assert len(read_clip(Clip(half, 0.0, 0.9))[0]) == 14_400, "the part is complete, though the file is not"


@pytest.mark.parametrize("suffix", [".WAV", ".Flac", ".MP3", ".OGG", ".Opus", ".Aiff"])
def test_a_recording_is_found_whatever_the_case_of_its_extension(tmp_path, suffix):
    kind = {".opus": "Opus", ".ogg": "Vorbis", ".aiff": "AIFF"}.get(suffix.lower(), suffix[1:].upper())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"my.id{suffix}").write_bytes(FILES[kind])
    assert len(RecordedEngine(tmp_path).synthesize_audio(Utterance("x", "recorded", id="a/my.id"))) == 32_000
    assert len(read_clip(Clip(tmp_path / "a" / f"my.id{suffix.lower()}"))[0]) == 32_000
    for name in ("../my.id", "../a", "b", "", ".", "..", "a", "/etc/passwd", "x/../../a/b"):
        with pytest.raises(InputError):
            RecordedEngine(tmp_path / "a").synthesize_audio(Utterance("x", "recorded", id=name))


# recordings of browsers and phones


def by_ffmpeg(container, codec, rate_hz=48_000, **options):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    buffer, samples = io.BytesIO(), np.repeat(tone(SECONDS), 3)[None]
    with av.open(buffer, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate_hz)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        resampler, fifo = av.AudioResampler(stream.codec_context.format.name, "mono", rate_hz), av.AudioFifo()
        for some in resampler.resample(frame) + resampler.resample(None):
            fifo.write(some)
        size = stream.codec_context.frame_size or 1024
        while (some := fifo.read(size)) or (some := fifo.read(size, partial=True)):
            output.mux(stream.encode(some))
        output.mux(stream.encode(None))
    return buffer.getvalue()


RECORDED = {
    "m4a": ("m4a", ("ipod", "aac"), {}),
    "mp4 in fragments": ("mp4", ("mp4", "aac"), {"movflags": "frag_keyframe+empty_moov"}),
    "webm": ("webm", ("webm", "libopus"), {}),
    "webm of a stream": ("webm", ("webm", "libopus"), {"live": "1"}),
    "aac": ("aac", ("adts", "aac"), {}),
    "3gp": ("3gp", ("3gp", "libopencore_amrnb", 8_000), {}),
    "opus": ("opus", ("ogg", "libopus"), {}),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recordings_of_browsers_and_phones(name):
    name_of_format, how, options = RECORDED[name]
    content = by_ffmpeg(*how, **options)
    samples, rate_hz, _ = decode_audio(content)
    assert len(samples) / rate_hz == pytest.approx(SECONDS, abs=0.06)
    assert len(read_audio(content, name_of_format, 30)) == pytest.approx(SECONDS * 16_000, abs=1_000)
    part = decode_audio(content, 0.5, 1.5)
    assert len(part.samples) == part.rate_hz
    with pytest.raises(RefusedError, match="over the limit of 1 s"):
        read_audio(content, name_of_format, 1)
    if name != "webm of a stream":
        with pytest.raises(InputError):
            decode_audio(content[: len(content) // 2])


def test_the_error_without_pyav_names_the_extra(monkeypatch):
    content = by_ffmpeg("ipod", "aac")
    real = builtins.__import__
    no_av = lambda name, *others: (_ for _ in ()).throw(ImportError(name)) if name == "av" else real(name, *others)  # noqa: E731
    monkeypatch.setattr(builtins, "__import__", no_av)
    with pytest.raises(RefusedError, match=r"mp4 files need PyAV: pip install 'selfkd\[media\]'; or convert"):
        read_audio(content, "m4a", 30)


def test_other_files_are_no_audio():
    for content in (b"", b"RIFF", bytes(99), b"%PDF-1.7", b"\x89PNG\r\n\x1a\n", b"ID3"):
        with pytest.raises(InputError, match="not readable audio") as found:
            decode_audio(content)
        assert " at 0x" not in str(found.value)
