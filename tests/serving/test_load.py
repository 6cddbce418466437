"""64 clients at once, some of them bad, for ten seconds: everybody gets the answer to what was asked, memory stays.

SELFKD_SOAK_SECONDS sets another length; a minute is the long form. `pytest -s` shows the figures.
"""

import asyncio
import json
import os
import random
import socket
import time
from dataclasses import replace

import psutil
import pytest
from examples import tone, toy_examples
from openai import AsyncOpenAI
from serving import PATIENCE, head, post, request, served_by_process

from selfkd.evaluation.backends.endpoint import user_message
from selfkd.evaluation.backends.local import predict_modality
from selfkd.training.data import MODALITIES

SECONDS = float(os.environ.get("SELFKD_SOAK_SECONDS", "10"))
CLIENTS, WARM_UP = 64, 256  # answers, before the time begins and memory must not grow any more
MAX_GROWTH = 40_000_000  # bytes; a single picture of the largest size is 60 MB


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for part in parts:
        part.save_pretrained(folder)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def questions(parts):
    """(message, reply) of both views, sounds of different lengths; each view answered in one batch of its own."""
    examples = [replace(e, id=str(i)) for i, e in enumerate(toy_examples(24))]
    examples = [e.spoken(tone(0.5 + 0.1 * i), "tone") for i, e in enumerate(examples)]
    made = []
    for modality in MODALITIES:
        predictions = predict_modality(*parts, examples, modality)
        made += [
            (user_message(e, modality), prediction.text) for e, prediction in zip(examples, predictions, strict=True)
        ]
    assert len({prediction for _, prediction in made}) > 20  # a wrong pairing shows
    return made


def test_64_clients(folder, questions):
    with served_by_process(folder, free_port(), max_requests=CLIENTS + 40, timeout_seconds=PATIENCE) as (url, process):
        answered, wrong, warm, sizes = asyncio.run(load(url, questions, psutil.Process(process.pid)))
        assert post(url, request("What?", max_tokens=2))[0] == 200
        growth = max(sizes[-3:]) - max(warm)
        print(
            f"\n{CLIENTS} clients, {SECONDS:g} s: {answered / SECONDS:.1f} answers a second; "
            f"memory {warm[0] / 1e6:.0f} MB, at the end {sizes[-1] / 1e6:.0f} MB, "
            f"growth after {WARM_UP} answers {growth / 1e6:+.0f} MB"
        )
        assert not wrong, wrong[:3]
        assert answered > 0 and len(sizes) > 3
        assert growth < MAX_GROWTH
        assert not [line for line in process.log if "Traceback" in line], "".join(process.log)[-3000:]


async def load(url, questions, process):
    """(answers after the first `WARM_UP`, what was wrong, bytes of memory until then, and after)."""
    counts, wrong, warm, sizes = [0], [], [], []
    ends: list[float] = []  # when: known once it is warm

    def goes_on():
        return not ends or time.monotonic() < ends[0]

    async def good(number):
        draw = random.Random(number)
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE) as client:
            while goes_on():
                message, expected = draw.choice(questions)
                settings = {"model": "selfkd", "messages": [message], "max_tokens": 48}
                if draw.random() < 0.5:
                    prediction = (await client.chat.completions.create(**settings)).choices[0].message.content
                else:
                    chunks = await client.chat.completions.create(**settings, stream=True)
                    prediction = "".join([c.choices[0].delta.content or "" async for c in chunks])
                counts[0] += 1
                if prediction != expected:
                    wrong.append((prediction, expected))

    async def bad(number):
        """Slow bodies, connections cut before, while and after they are answered, bodies that are no requests."""
        draw = random.Random(-number)
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        while goes_on():
            message, _ = draw.choice(questions)
            body = {"model": "selfkd", "messages": [message], "stream": draw.random() < 0.5}
            content = json.dumps(body).encode()
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(head(body))
            cut = draw.choice([0, len(content) // 2, len(content), len(content)])
            for start in range(0, cut, 4_000):
                writer.write(content[start : min(cut, start + 4_000)])
                await asyncio.sleep(draw.uniform(0, 0.05))
            if cut == len(content) and draw.random() < 0.5:
                await reader.read(200)
            await asyncio.sleep(draw.uniform(0, 0.3))
            (writer.transport.abort if draw.random() < 0.5 else writer.close)()

    async def watch():
        while counts[0] < WARM_UP:
            warm.append(process.memory_info().rss)
            await asyncio.sleep(0.25)
        ends.append(time.monotonic() + SECONDS)
        while goes_on():
            sizes.append(process.memory_info().rss)
            await asyncio.sleep(0.25)

    await asyncio.gather(*map(good, range(CLIENTS)), *map(bad, range(8)), watch())
    return counts[0] - WARM_UP, wrong, warm, sizes
