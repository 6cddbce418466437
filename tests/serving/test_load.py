"""64 clients at once, some misbehaving, for two seconds: every client gets its own response, and memory is constant.

SELFKD_SOAK_SECONDS sets another duration; 60 is the long form. `pytest -s` shows the figures.
"""

import asyncio
import json
import os
import random
import time
from dataclasses import replace

import psutil
import pytest
from examples import tone, toy_examples
from openai import AsyncOpenAI
from serving import TIMEOUT_SECONDS, free_port, post, request, request_head, serve_process

from selfkd.evaluation.backends.endpoint import user_message
from selfkd.evaluation.backends.local import predict_modality
from selfkd.training.data import MODALITIES

SECONDS = float(os.environ.get("SELFKD_SOAK_SECONDS", "2"))
CLIENTS, WARM_UP = 64, 128  # responses before the duration starts; memory must not grow afterwards
MAX_GROWTH = 40_000_000  # bytes; one image of the maximum size takes 60 MB


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for part in parts:
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def questions(parts):
    """(message, expected response) in both modalities, with audio of different lengths."""
    examples = [replace(e, id=str(i)) for i, e in enumerate(toy_examples(24))]
    examples = [e.with_audio(tone(0.5 + 0.1 * i), "tone") for i, e in enumerate(examples)]
    pairs = []
    for modality in MODALITIES:
        predictions = predict_modality(*parts, examples, modality)
        pairs += [
            (user_message(e, modality), prediction.text) for e, prediction in zip(examples, predictions, strict=True)
        ]
    assert len({prediction for _, prediction in pairs}) > 20  # so a response to another request is noticed
    return pairs


@pytest.mark.slow
def test_64_clients(folder, questions):
    settings = {"max_requests": CLIENTS + 40, "timeout_seconds": TIMEOUT_SECONDS}
    with serve_process(folder, free_port(), **settings) as (url, process):
        count, wrong, warm, sizes = asyncio.run(load(url, questions, psutil.Process(process.pid)))
        assert post(url, request("What?", max_tokens=2))[0] == 200
        growth = max(sizes[-3:]) - max(warm)
        print(
            f"\n{CLIENTS} clients, {SECONDS:g} s: {count / SECONDS:.1f} responses per second; "
            f"memory {warm[0] / 1e6:.0f} MB, at the end {sizes[-1] / 1e6:.0f} MB, "
            f"growth after {WARM_UP} responses {growth / 1e6:+.0f} MB"
        )
        assert not wrong, wrong[:3]
        assert count > 0 and len(sizes) > 3
        assert growth < MAX_GROWTH
        assert "Traceback" not in process.stderr, process.stderr[-3000:]


async def load(url, questions, process):
    """(responses after the warm-up, wrong ones, bytes of memory during the warm-up, bytes after it)."""
    counts, wrong, warm, sizes = [0], [], [], []
    deadline: list[float] = []  # set after the warm-up

    def is_running():
        return not deadline or time.monotonic() < deadline[0]

    async def good_client(number):
        rng = random.Random(number)
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=TIMEOUT_SECONDS) as client:
            while is_running():
                message, expected = rng.choice(questions)
                settings = {"model": "selfkd", "messages": [message], "max_tokens": 48}
                if rng.random() < 0.5:
                    prediction = (await client.chat.completions.create(**settings)).choices[0].message.content
                else:
                    chunks = await client.chat.completions.create(**settings, stream=True)
                    prediction = "".join([c.choices[0].delta.content or "" async for c in chunks])
                counts[0] += 1
                if prediction != expected:
                    wrong.append((prediction, expected))

    async def bad_client(number):
        """Slow and truncated bodies, and connections closed before, during and after the response."""
        rng = random.Random(-number)
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        while is_running():
            message, _ = rng.choice(questions)
            body = {"model": "selfkd", "messages": [message], "stream": rng.random() < 0.5}
            content = json.dumps(body).encode()
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request_head(body))
            sent = rng.choice([0, len(content) // 2, len(content), len(content)])
            for start in range(0, sent, 4_000):
                writer.write(content[start : min(sent, start + 4_000)])
                await asyncio.sleep(rng.uniform(0, 0.05))
            if sent == len(content) and rng.random() < 0.5:
                await reader.read(200)
            await asyncio.sleep(rng.uniform(0, 0.3))
            (writer.transport.abort if rng.random() < 0.5 else writer.close)()

    async def watch():
        while counts[0] < WARM_UP:
            warm.append(process.memory_info().rss)
            await asyncio.sleep(0.25)
        deadline.append(time.monotonic() + SECONDS)
        while is_running():
            sizes.append(process.memory_info().rss)
            await asyncio.sleep(0.25)

    await asyncio.gather(*map(good_client, range(CLIENTS)), *map(bad_client, range(8)), watch())
    return counts[0] - WARM_UP, wrong, warm, sizes
