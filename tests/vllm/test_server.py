"""vLLM's server with selfkd's plugin, through the official client: text and audio queries, several turns, streams,
refused requests, and an image's prefix that both modalities share.

Wants vLLM, and selfkd installed next to it: vLLM's processes find the plugin by its entry point.
"""

import base64
import io
import os
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from importlib.metadata import entry_points

import numpy as np
import pytest
import soundfile
from openai import BadRequestError, OpenAI

from selfkd.data.example import SAMPLE_RATE_HZ
from selfkd.evaluation.backends.endpoint import audio_part, image_part, text_part, user_message
from selfkd.evaluation.backends.local import predict_modalities
from selfkd.model.checkpoint import load_model
from selfkd.synthesis.sources.registry import ToyWorld
from selfkd.synthesis.tts.base import EspeakEngine, Utterance
from selfkd.training.data import MODALITIES

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow
START_SECONDS, VOICE, BLOCK = 500, "en-US-nyc+f3", 32


@pytest.fixture(scope="module")
def examples():
    source, tts = ToyWorld("test", 5, False), EspeakEngine()
    made = [source.example(i) for i in range(6)]
    return [e.with_audio(tts.synthesize_audio(Utterance(e.question, VOICE)), VOICE) for e in made]


@pytest.fixture(scope="module")
def parts():
    return load_model()


@pytest.fixture(scope="module")
def url(parts, tmp_path_factory):
    """The base URL of vLLM's server for the tiny model."""
    from serving import free_port

    if not any(found.name == "selfkd" for found in entry_points(group="vllm.general_plugins")):
        pytest.skip("selfkd is not installed here, only on the path")
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    for part in parts:
        part.save_pretrained(folder / "model")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")]
    command += ["--served-model-name", "selfkd", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--block-size", str(BLOCK), "--max-num-seqs", "8"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    base = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_SECONDS
        while not is_up(base):
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()[-3000:]
            time.sleep(1)
        yield f"{base}/v1"
    finally:
        process.terminate()
        process.wait(60)


def is_up(base):
    try:
        with urllib.request.urlopen(f"{base}/health", timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def chat(url):
    client = OpenAI(base_url=url, api_key="none", max_retries=0)

    def chat(*messages, **settings):
        return client.chat.completions.create(
            model="selfkd", messages=list(messages), **({"temperature": 0, "max_tokens": 16} | settings)
        )

    return chat


def text_of(completion):
    return completion.choices[0].message.content.strip()


def test_responses_are_those_of_the_evaluation(chat, parts, examples):
    expected = predict_modalities(*parts, examples)
    for modality in MODALITIES:
        found = [text_of(chat(user_message(example, modality))) for example in examples]
        assert found == [prediction.text for prediction in expected[modality]]


def test_stream_and_sampling(chat, examples):
    whole = text_of(chat(user_message(examples[0], "audio")))
    chunks = chat(user_message(examples[0], "audio"), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip() == whole
    sampled = {
        text_of(chat(user_message(examples[0], "audio"), temperature=2.0, top_p=1.0, seed=seed)) for seed in range(8)
    }
    assert len(sampled) > 1


def test_turns_have_images_and_clips_of_their_own(chat, parts, examples):
    """Each turn in the other modality than the one before, with an image of its own or none: the responses are those of
    the model under transformers' interface."""
    model, processor = parts
    turns = [
        (examples[0], "audio", True),
        (examples[1], "text", True),
        (examples[2], "audio", False),
        (examples[3], "audio", True),
    ]
    served, own = [], []
    for example, modality, has_image in turns:
        query = {"type": "text", "text": example.question}
        if modality == "audio":
            query = {"type": "audio", "audio": example.samples()}
        image = [{"type": "image", "image": example.load_image()}] if has_image else []
        served.append(user_message(example if has_image else replace(example, image=None), modality))
        own.append({"role": "user", "content": [*image, query]})
        inputs = processor.apply_chat_template(
            own, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
        )
        generated = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        [text] = processor.response_texts([generated[0, inputs["input_ids"].shape[1] :].tolist()])
        assert text_of(chat(*served)) == text and text
        served.append({"role": "assistant", "content": text})
        own.append({"role": "assistant", "content": [{"type": "text", "text": text}]})


def clip_part(samples):
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(file.getvalue()).decode(), "format": "wav"}}


@pytest.mark.parametrize(
    ("parts_of", "message"),
    [
        (lambda e: [image_part(e), clip_part(np.zeros(31 * SAMPLE_RATE_HZ))], "audio: field audio: 31.0 s is over"),
        (lambda e: [image_part(e), clip_part(np.zeros(160))], "audio: field audio: 0.010 s of audio is too short"),
        (lambda e: [image_part(e), clip_part(np.zeros(SAMPLE_RATE_HZ))], "audio: no speech is recognized in the clip"),
        (lambda e: [text_part("Say <speech>")], "text: contains <speech>, which stands for a clip"),
        (lambda e: [image_part(e), text_part("<speech>"), audio_part(e)], "text: contains <speech>, which stands for"),
    ],
)
def test_bad_requests_are_named(chat, examples, parts_of, message):
    with pytest.raises(BadRequestError, match=re.escape(message)):
        chat({"role": "user", "content": parts_of(examples[0])})
    assert text_of(chat(user_message(examples[0], "text")))  # and the server still answers


def test_prefix_of_an_image_is_read_once(chat, url, examples):
    """An instruction makes the prefix longer than a block."""
    instruction = text_part(" ".join(["What is in the image?"] * 16))
    example = examples[-1]
    before = cached(url)
    for query in (text_part(example.question), audio_part(example)):
        chat({"role": "user", "content": [image_part(example), instruction, query]})
    assert cached(url) - before >= BLOCK


def cached(url):
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=30) as response:
        text = response.read().decode()
    return sum(map(float, re.findall(r"^vllm:prefix_cache_hits_total\S* (\S+)$", text, re.MULTILINE)))
