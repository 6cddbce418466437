"""Examples, tones and small training folders that tests of every room share."""

import struct
import zlib
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from unittest.mock import patch

import numpy as np
from transformers import Trainer

from selfkd.data.example import CONVERSATIONS, MANIFEST, SAMPLE_RATE_HZ, SCHEMA_VERSION, Example, write_shard
from selfkd.files import sha256, write_json
from selfkd.synthesis.sources.registry import ToyWorld


def tone(seconds: float, pitch_hz: float = 220) -> np.ndarray:
    """Audio of an exact length, without words."""
    t = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * pitch_hz * t) * np.sin(2 * np.pi * 3 * t)).astype(np.float32)


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file, for files that Pillow does not write."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def toy_examples(count: int, noisy: bool = True) -> list[Example]:
    """Examples of the toy world with tones of different lengths as audio: quick to make, valid in every field."""
    source = ToyWorld("train", 5, noisy)
    return [source.example(i).with_audio(tone(0.5 + 0.17 * i), "tone") for i in range(count)]


def toy_conversations(count: int, turns: int = 3) -> list[Example]:
    """Conversations about scenes of the toy world, with tones of different lengths as their clips."""
    source, found = ToyWorld("train", 5, noisy=True, turns=turns), []
    for i in range(count):
        example = source.example(i).with_audio(tone(0.5 + 0.17 * i), "tone")
        history = []
        for k, turn in enumerate(example.history):
            own = example.with_audio(tone(0.4 + 0.13 * k + 0.05 * i), "tone")
            seconds, audio = own.duration_seconds, own.audio
            history.append(replace(turn, audio=audio, duration_seconds=seconds, spoken_text=turn.question))
        found.append(replace(example, history=tuple(history)))
    return found


def conversation_folder(folder, examples):
    """Writes a complete folder that may hold conversations; returns its path as text."""
    folder.mkdir()
    write_shard(folder / "train.parquet", examples, {"rows": len(examples), "rejected": []}, CONVERSATIONS)
    shards = [{"file": "train.parquet", "rows": len(examples), "sha256": sha256(folder / "train.parquet")}]
    manifest = {"schema_version": SCHEMA_VERSION, "rows": len(examples), "source": examples[0].source, "shards": shards}
    write_json(folder / MANIFEST, manifest | {"rejected": [], "rejected_shards": []})
    return str(folder)


def training_start(parts, folder):
    """Writes a model to start from (`folder/model`) and sixteen examples (`folder/data`); returns the folder."""
    model, processor = parts
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    training_data(folder)
    return folder


def training_data(folder):
    """Writes sixteen examples (`folder/data`)."""
    write_examples(folder / "data", toy_examples(16))


def write_examples(folder, examples):
    """Writes a dataset of these examples."""
    folder.mkdir()
    write_shard(folder / "train.parquet", examples, {"rows": len(examples), "rejected": []})
    write_json(folder / MANIFEST, {"source": "world", "shards": [{"file": "train.parquet"}]})


@contextmanager
def interrupted_at(step):
    """Within it a training run is interrupted, as by ctrl-C, in that step."""
    plain, calls = Trainer.training_step, count(1)

    def training_step(self, *args, **kwargs):
        if next(calls) == step:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    with patch.object(Trainer, "training_step", training_step):
        yield
