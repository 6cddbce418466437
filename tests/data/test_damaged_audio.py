"""Any bytes are decoded to a clip within the limits, or refused in one line, in little time and without a word in the
log (sec_10_mp3_fills_the_log): those of real files with flips, cuts and parts of others, and small files that would
take long. No other module opens an image or an audio file."""

import os
import re
import struct
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from damaged import assert_nothing_printed, damaged
from examples import tone
from hypothesis import HealthCheck, example, given, settings

from selfkd.data.media import MAX_SAMPLES, decode_audio
from selfkd.data.quiet import quiet_libraries
from selfkd.errors import InputError
from selfkd.files import open_regular
from selfkd.synthesis.augment import augment
from selfkd.synthesis.sources.rows import Clip, read_clip
from tests.data.test_audio_files import FORMATS, RECORDED, by_ffmpeg, encoded

SECONDS = 5.0  # of a file: far more than these take, far less than they took
SETTINGS = settings(deadline=None, max_examples=150, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck))  # fmt: skip
SHORT = {name: encoded(tone(0.25), **how) for name, how in FORMATS.items()}
FILES = list(SHORT.values())
PHONES = [by_ffmpeg(*how, **options) for _, how, options in RECORDED.values()] if find_spec("av") else []


def check(data):
    results = []
    begun = time.process_time()
    for _ in range(2):
        try:
            samples, rate_hz, channels = decode_audio(data)
        except InputError as error:
            results.append(str(error))
            continue
        assert samples.dtype == np.float32 and 0 < samples.size * channels <= MAX_SAMPLES
        assert np.abs(samples).max() <= 1 and 4_000 <= rate_hz <= 384_000
        results.append(samples.tobytes())
    assert results[0] == results[1], "the same result every time"
    if isinstance(results[0], str):
        assert "\n" not in results[0] and not re.search(r" at 0x|<_io", results[0]), results[0]
    assert time.process_time() - begun < SECONDS


@SETTINGS
@given(data=damaged(FILES))
@example(data=b"")
def test_a_damaged_recording_is_decoded_or_refused(data, capfd):
    check(data)
    assert_nothing_printed(capfd)


@pytest.mark.skipif(not PHONES, reason="PyAV is not installed")
@SETTINGS
@given(data=damaged(PHONES))
def test_a_damaged_recording_of_a_phone_is_decoded_or_refused(data, capfd):
    check(data)
    assert_nothing_printed(capfd)


def with_id3(size, content):
    return b"ID3\x04\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + content


def wav_with(chunks):
    wav = SHORT["WAV"]
    return b"RIFF" + struct.pack("<I", len(chunks) + len(wav) - 8) + b"WAVE" + chunks + wav[12:]


def flac_of_frames(number):
    """A FLAC that declares this many frames."""
    data = bytearray(SHORT["FLAC"])
    data[21] = data[21] & 0xF0 | number >> 32
    data[22:26] = struct.pack(">I", number & 0xFFFFFFFF)
    return bytes(data)


def silence(hours, **how):
    return encoded(np.zeros(int(16_000 * 3_600 * hours), np.int16), **how)


TOO_MUCH = {
    "hours in a FLAC": (lambda: silence(3, **FORMATS["FLAC"]), "10800 s of 1 channels are too much"),
    "frames declared by a FLAC": (lambda: flac_of_frames(2**36 - 1), "not readable audio"),
    "frames declared by a WAV": (lambda: SHORT["WAV"][:40] + struct.pack("<I", 2**31 - 2**20) + SHORT["WAV"][44:],
                                 "too much|truncated"),
    "channels": (lambda: encoded(np.full((50, 100), 0.1, np.float32)), "100 channels are too many"),
    "chunks": (lambda: wav_with(b"abcd\0\0\0\0" * 1_000_000), "more than 10000 chunks"),
    "junk after an MP3": (lambda: SHORT["MP3"] + b"\xff" * 5_000_000, "runs of junk"),
    "headers after an MP3": (lambda: SHORT["MP3"] + b"\xff\xfb\x90\x44" * 2_000_000, "runs of junk"),
    "headers": (lambda: b"\xff\xfb\x90\x44" * 2_000_000, "not readable audio|runs of junk"),
    "other formats after an ID3 tag": (lambda: with_id3(0, encoded(tone(0.25), format="CAF", subtype="PCM_16")),
                                       "not readable audio"),
    "bytes": (lambda: SHORT["FLAC"] + bytes(256_000_000), "bytes are too many"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_recording_that_would_take_long_is_refused_at_once(name, capfd):
    make, words = TOO_MUCH[name]
    data, begun = make(), time.process_time()
    with pytest.raises(InputError, match=words):
        decode_audio(data)
    assert time.process_time() - begun < 1.0 and not capfd.readouterr().err


def test_odd_tags_of_an_mp3_are_no_lines_in_the_log(capfd):
    """sec_10_mp3_fills_the_log"""
    number = 20_000
    data = with_id3(12 * number, (b"TXXX\0\0\0\2" + bytes(4)) * number + SHORT["MP3"])
    assert len(decode_audio(data).samples) == 4_000
    assert not capfd.readouterr().err
    with quiet_libraries():
        os.write(2, b"a line of Python's\n")
    assert capfd.readouterr().err == "a line of Python's\n"


def test_a_pipe_is_no_recording(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    for read in (open_regular, decode_audio, lambda path: read_clip(Clip(path, folder=tmp_path))):
        with pytest.raises(InputError, match="no regular file"):
            read(tmp_path / "a.wav")


def test_a_damaged_file_of_noise_costs_a_row(tmp_path):
    (tmp_path / "noise.wav").write_bytes(b"RIFF" + bytes(100))
    with pytest.raises(InputError, match=r"noise_folder: field audio: .*noise.wav: not readable audio"):
        augment(tone(1.0), {"noise": 1.0}, (5.0, 20.0), str(tmp_path), "a")
    (tmp_path / "noise.wav").unlink()
    (tmp_path / "private.wav").symlink_to(Path("/dev/zero"))
    with pytest.raises(InputError, match="leads out of the folder"):
        augment(tone(1.0), {"noise": 1.0}, (5.0, 20.0), f"{tmp_path}/", "a")


OPENERS = re.compile(
    r"\bImage\.open\(|\b(?:soundfile|sf)\.(?:read|info|blocks|SoundFile)\b|\bav\.open\(|\blibrosa\b|\btorchaudio\b"
    r"|\bcv2\b|\bimageio\b|\bwavfile\b|\bAddBackgroundNoise\b|\baudioread\b|\bimport wave\b"
)


def test_no_module_opens_an_image_or_an_audio_file_itself():
    root = Path(__file__).parents[2]
    # the last one is the code that checkpoints carry, for files that a caller in Python names
    openers = {"selfkd/data/media.py", "selfkd/data/audio_files.py", "selfkd/model/media_files.py"}
    paths = [path for folder in ("selfkd", "tools", "experiments") for path in sorted((root / folder).rglob("*.py"))]
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in paths
        if str(path.relative_to(root)) not in openers
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if OPENERS.search(line)
    ]
    assert len(paths) > 100 and not found, found
