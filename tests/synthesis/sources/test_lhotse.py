"""Cuts of lhotse: of several channels the one that is transcribed; no sound that is to be changed when it is read."""

import json

import numpy as np
import pytest
import soundfile
from examples import tone

from selfkd.errors import InputError
from selfkd.synthesis.sources.asr_corpora import lhotse_cuts
from selfkd.synthesis.sources.rows import read_clip

TO_8_KHZ = {"name": "Resample", "kwargs": {"target_sampling_rate": 8_000}}
VOICES = np.stack([tone(2.0, hz) for hz in (200, 450, 700)], axis=1)


def cuts(folder, cut_channel, text_channel=None, numbers=(0, 1, 2), sources=None, **changes):
    soundfile.write(folder / "call.wav", VOICES, 16_000, subtype="FLOAT")
    sources = sources or [{"type": "file", "channels": list(numbers), "source": "call.wav"}]
    supervision = {"id": "s", "start": 0.0, "duration": 2.0, "text": "hello there", "channel": text_channel}
    cut = {
        "id": "c", "type": "MonoCut", "start": 0.0, "duration": 2.0, "channel": cut_channel,
        "supervisions": [{k: v for k, v in supervision.items() if v is not None}],
        "recording": {"id": "call", "sources": sources, "sampling_rate": 16_000},
    }  # fmt: skip
    recording = {k: v for k, v in changes.items() if k == "transforms"}
    cut["recording"] |= recording
    cut |= {k: v for k, v in changes.items() if k not in recording}
    (folder / "cuts.jsonl").write_text(json.dumps(cut))
    (row,) = lhotse_cuts(folder / "cuts.jsonl", 0, 0).rows
    return read_clip(row.clips[0])[0]


@pytest.mark.parametrize(("given", "columns"), [
    ({"cut_channel": 0, "text_channel": 0}, [0]),
    ({"cut_channel": 2}, [2]),
    ({"cut_channel": 7, "numbers": (5, 6, 7)}, [2]),  # a channel's number is not its place in the file
    ({"cut_channel": [0, 1], "type": "MultiCut"}, [0, 1]),
    ({"cut_channel": [0, 1, 2], "text_channel": 1, "type": "MultiCut"}, [1]),
    ({"cut_channel": [0, 1, 2], "text_channel": [1, 2], "type": "MultiCut"}, [1, 2]),
    ({"cut_channel": None}, [0, 1, 2]),
])  # fmt: skip
def test_the_channel_that_is_transcribed_is_read(tmp_path, given, columns):
    """data_09_lhotse_channel"""
    assert np.allclose(cuts(tmp_path, **given), VOICES[:, columns].mean(axis=1), atol=1e-6)


def test_a_file_for_each_channel(tmp_path):
    for n in range(2):
        soundfile.write(tmp_path / f"{n}.wav", VOICES[:, n], 16_000, subtype="FLOAT")
    sources = [{"type": "file", "channels": [n], "source": f"{n}.wav"} for n in range(2)]
    assert np.allclose(cuts(tmp_path, 1, 1, sources=sources), VOICES[:, 1], atol=1e-6)
    with pytest.raises(InputError, match=r"line 1: field recording.sources: not one file"):
        cuts(tmp_path, [0, 1], sources=sources, type="MultiCut")


@pytest.mark.parametrize(("given", "words"), [
    ({"cut_channel": 3}, r"field channel: 3: there are \[3\]|field channel: 3"),
    ({"cut_channel": 0, "text_channel": 1}, "field channel: 1: there are"),
    ({"cut_channel": "left"}, "field channel: 'left': neither a number"),
    ({"cut_channel": True}, "field channel: True: neither a number"),
    ({"cut_channel": 0, "transforms": [{"name": "Speed", "kwargs": {"factor": 0.9}}]}, ".*transforms: 'Speed'"),
    ({"cut_channel": 0, "transforms": [{"name": "Volume", "kwargs": {"factor": 2}}]}, ".*transforms: 'Volume'"),
    ({"cut_channel": 0, "transforms": [TO_8_KHZ]}, ".*transforms: 'Resample'"),
    ({"cut_channel": 0, "transforms": ["odd"]}, ".*transforms: 'odd'"),
    ({"cut_channel": 0, "type": "MixedCut"}, "field type: 'MixedCut': MonoCut and MultiCut are read"),
    ({"cut_channel": 0, "type": "PaddingCut"}, "field type: 'PaddingCut'"),
])  # fmt: skip
def test_other_audio_than_recorded_is_refused(tmp_path, given, words):
    with pytest.raises(InputError, match=rf"path: .*cuts.jsonl: line 1: ({words})"):
        cuts(tmp_path, **given)


def test_resampling_equals_our_own(tmp_path):
    transforms = [{"name": "Resample", "kwargs": {"source_sampling_rate": 8_000, "target_sampling_rate": 16_000}}]
    assert np.allclose(cuts(tmp_path, 0, transforms=transforms), VOICES[:, 0], atol=1e-6)
