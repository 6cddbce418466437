"""Sentences, speech and folders for tests of recordings."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import numpy as np
import soundfile

from selfkd.data.example import SAMPLE_RATE_HZ, Example
from selfkd.recording.config import RecordConfig
from selfkd.recording.folder import opened
from selfkd.recording.record import page_server
from selfkd.serving.config import decoder_bytes
from selfkd.serving.isolated import IsolatedProcess
from selfkd.synthesis.sources.toy import ToyWorld
from selfkd.synthesis.tts.base import EspeakEngine, Utterance

SPEAKER = "Anna B"


def same_question(question: str, count: int) -> list[Example]:
    """Examples of the toy world with one question, about different images."""
    found: list[Example] = []
    world = ToyWorld("test", 3)
    for index in range(3000):
        example = world.example(index)
        if example.question == question:
            found.append(example)
            if len(found) == count:
                return found
    raise AssertionError(f"only {len(found)} of {count} examples ask {question!r}")


def write_questions(folder: Path, examples: list[Example]) -> Path:
    """`questions.jsonl` and the images in a folder; returns the table."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, example in enumerate(examples):
        name = f"{number}.png"
        (folder / "images" / name).write_bytes(example.image or b"")
        rows.append(
            {"id": f"q/{number}", "question": example.question, "answer": example.target, "image": name}
            | {"question_type": example.question_type}
        )
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_of(table: Path, output: Path, **fields: Any) -> RecordConfig:
    return RecordConfig(output, source="jsonl", path=str(table), images=str(table.parent / "images"), **fields)


def speech(text: str, rate_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """A synthesized voice with half a second of silence around it."""
    from scipy.signal import resample_poly

    samples = EspeakEngine().synthesize_audio(Utterance(text, "en-US+m3"))
    silence = np.zeros(SAMPLE_RATE_HZ // 2, np.float32)
    samples = np.concatenate([silence, samples, silence])
    return samples if rate_hz == SAMPLE_RATE_HZ else resample_poly(samples, rate_hz // 100, SAMPLE_RATE_HZ // 100)


def wav(samples: np.ndarray, rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def decoder(max_upload_bytes: int = 20_000_000) -> IsolatedProcess:
    return IsolatedProcess(decoder_bytes(max_upload_bytes, 0))


@contextmanager
def served(config: RecordConfig) -> Iterator[str]:
    """The address of the page of `selfkd record`, in a thread of this process."""
    with opened(config) as recordings:
        process = decoder(config.max_upload_bytes)
        server = page_server(config, recordings, process)
        thread = Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            sleep(0.01)
        try:
            yield server.url
        finally:
            server.should_exit = True
            thread.join()
            process.close()
