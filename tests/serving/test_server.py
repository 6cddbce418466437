"""The server with OpenAI's client: responses equal those of evaluation, and each goes to its own request."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from examples import tone, toy_examples
from serving import (
    BODY,
    audio_file,
    audio_part,
    audio_request,
    client,
    complete,
    get,
    post_as_one_batch,
    post_behind_gate,
    post_concurrently,
    raw_connection,
    request,
    request_head,
    served,
    wait_until,
)

from selfkd.evaluation.backends.endpoint import EndpointClient, user_message
from selfkd.evaluation.backends.local import MAX_NEW_TOKENS, predict_modality
from selfkd.evaluation.backends.openai_client import EndpointSettings
from selfkd.serving.batching import RowStoppingCriteria


def generate_directly(parts, example, modality) -> tuple[str, int, int]:
    """(response, prompt tokens, response tokens) of `model.generate_responses`."""
    model, processor = parts
    image = processor.encode_image(example.load_image())
    if modality == "text":
        prompt = processor.text_prompt(example.question, image, example.instruction, example.answer_format)
    else:
        audio = processor.encode_audio(example.samples())
        prompt = processor.audio_prompt(audio, image, example.instruction, example.answer_format)
    ids = model.generate_responses(**processor.collate([prompt]), max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    length = processor.length(prompt.prefix_ids + prompt.suffix_ids, prompt.audio_inputs)
    return processor.response_texts(ids)[0], length, ids.shape[1]


# responses


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["text", "audio"])
def test_responses_equal_those_of_evaluation(parts, server, modality):
    """Token for token, with and without streaming, with an instruction and an answer format."""
    examples = toy_examples(3)
    examples.append(replace(examples[0], instruction="Look well.\n", answer_format="\nOne word."))
    examples.append(replace(examples[1], image=None))
    examples = [e.with_audio(tone(1.3), "tone") for e in examples]
    expected = [predict_modality(*parts, [e], modality)[0].text for e in examples]
    for example, text in zip(examples, expected, strict=True):
        message = user_message(example, modality)
        _, prompt_tokens, response_tokens = generate_directly(parts, example, modality)
        whole = complete(server, message)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (text, "stop")
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (prompt_tokens, response_tokens)
        chunks = list(complete(server, message, stream=True, stream_options={"include_usage": True}))
        deltas = [c.choices[0].delta.content for c in chunks[1:-2]]
        assert "".join(deltas) == text and all(deltas) and len(deltas) > min(2, response_tokens - 2)
        assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage == whole.usage
        assert len({c.id for c in chunks}) == 1


def test_generation_config_of_a_checkpoint_is_ignored(parts, server, monkeypatch):
    """As in evaluation: no penalty, beams or sampling, and a turn ends with the chat template's token."""
    model, processor = parts
    message = user_message(toy_examples(1)[0], "text")
    expected = complete(server, message).choices[0]
    for name, value in (("repetition_penalty", 1.8), ("num_beams", 3), ("do_sample", True), ("eos_token_id", None)):
        monkeypatch.setattr(model.vlm.generation_config, name, value)
    choice = complete(server, message).choices[0]
    assert choice.finish_reason == "stop" and choice.message.content == expected.message.content != ""
    assert choice.message.content == predict_modality(model, processor, toy_examples(1), "text")[0].text


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_endpoint_client_of_evaluation_gets_the_same_responses(parts, server, modality):
    examples = toy_examples(8)
    expected = [predict_modality(*parts, [e], modality)[0].text for e in examples]
    batches = server.state.worker.num_batches
    endpoint = EndpointClient(server.url, "selfkd", modality, EndpointSettings(concurrency=8, max_new_tokens=48))
    assert [(r.text, r.error) for r in endpoint.predict(examples)] == [(text, "") for text in expected]
    assert server.state.worker.num_batches - batches < 8  # some shared a batch


def test_roles_of_text_with_and_without_audio(parts, server):
    model, processor = parts
    example = toy_examples(1)[0]
    bare = predict_modality(model, processor, [replace(example, image=None)], "text")[0].text
    assert complete(server, {"role": "user", "content": example.question}).choices[0].message.content == bare
    both = replace(example, instruction="Is it red?\n", answer_format="\nOne word.")
    content = user_message(both, "audio")["content"]
    assert [p["type"] for p in content] == ["image_url", "text", "input_audio", "text"]
    image_last = {"role": "user", "content": [*content[1:], content[0]]}  # comes first in the prompt all the same
    expected = predict_modality(model, processor, [both], "audio")[0].text
    assert complete(server, image_last).choices[0].message.content == expected


def test_models_and_health(server):
    assert [m.id for m in client(server).models.list()] == ["selfkd"]
    assert client(server).models.retrieve("selfkd").id == "selfkd"
    assert get(server.url, "/v1/models/other")[0] == 404
    status, _, body = get(server.url, "/health")
    assert (status, body) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("rate_hz", "channels", "format_name"),
    [(96_000, 8, "wav"), (44_100, 2, "flac"), (44_100, 2, "mp3"), (8_000, 1, "wav"), (22_051, 1, "wav")],
)
def test_audio_of_any_sample_rate_and_channels(server, rate_hz, channels, format_name):
    """Eight channels at 96 kHz give the response of the same audio at 16 kHz; MP3 and odd rates change it slightly."""
    t = np.arange(2 * rate_hz) / rate_hz
    mono = (0.3 * np.sin(2 * np.pi * 220 * t)).astype(np.float32)
    content = audio_file(np.tile(mono[:, None], channels), rate_hz, format_name)
    response = server.post(audio_request(content, format_name, max_tokens=8))
    assert response[0] == 200, response
    if rate_hz == 96_000:
        plain = audio_file(0.3 * np.sin(2 * np.pi * 220 * np.arange(32_000) / 16_000), 16_000)
        assert server.post(audio_request(plain, max_tokens=8))[2]["choices"] == response[2]["choices"]


def test_neutral_fields_are_accepted_and_unknown_ones_refused(server):
    """An unknown field might change the response on another server (eval_17_fields_ignored_in_silence)."""
    neutral = {"seed": 1, "user": "me", "store": True, "stop": None, "n": 1, "top_p": 1.0}
    neutral |= {"response_format": {"type": "text"}, "stream": None, "logit_bias": None, "tools": []}
    assert server.post(BODY | neutral)[0] == 200
    status, _, body = server.post(BODY | neutral | {"nonsense": {"a": [1]}})
    assert status == 400 and body["error"]["param"] == "nonsense" and "nonsense" in body["error"]["message"]


# batches


def test_rows_of_a_batch_end_at_their_own_limits(parts, endless, gate):
    limits = [1, 5, 30, 9, 9]
    with served(parts, max_batch=8, batch_wait_seconds=0.0, max_new_tokens=20) as running:
        responses = post_as_one_batch(running, gate, [BODY | {"max_tokens": n} for n in limits])
    assert gate.sizes == [1, 5]
    for limit, (status, _, body) in zip(limits, responses, strict=True):
        assert status == 200 and body["usage"]["completion_tokens"] == min(limit, 20)
        assert body["choices"][0]["finish_reason"] == "length"


def test_batches_hold_one_modality_and_at_most_max_batch(parts, gate):
    audio = audio_part(audio_file(tone(0.5), 16_000))
    with served(parts, max_batch=2, batch_wait_seconds=0.0) as running:
        responses = post_as_one_batch(running, gate, [BODY] * 3 + [request(audio, max_tokens=4)] * 2)
    assert [response[0] for response in responses] == [200] * 5
    assert gate.sizes[0] == 1 and sorted(gate.sizes[1:]) == [1, 2, 2]


def test_request_that_breaks_its_batch_does_not_fail_the_others(parts, monkeypatch, caplog, gate):
    """Even if the model raises an exception; the response holds no traceback."""
    model, processor = parts
    plain, poison = model.generate_responses, processor.ids("Zzzz")[0]

    def generate_responses(suffix_ids, **inputs):
        if (suffix_ids == poison).any():
            raise RuntimeError("internal secret")
        return plain(suffix_ids=suffix_ids, **inputs)

    monkeypatch.setattr(model, "generate_responses", generate_responses)
    with served(parts, batch_wait_seconds=0.0) as running:
        responses = post_as_one_batch(running, gate, [BODY, request("Zzzz?", max_tokens=4), BODY, BODY])
        good = running.post(BODY)[2]["choices"]
        assert [status for status, _, _ in responses] == [200, 500, 200, 200]
        assert all(body["choices"] == good for status, _, body in responses if status == 200)
        assert "secret" not in json.dumps(responses[1][2]) and responses[1][2]["error"]["code"] == "model_failed"
        streamed = running.post(request("Zzzz?", stream=True))
        assert streamed[0] == 500  # the stream has not begun, so it has its own status
    assert "secret" in caplog.text and "a batch of 4 failed" in caplog.text


def test_disconnected_client_is_dropped_before_generation(parts, gate):
    with served(parts, batch_wait_seconds=0.0) as running:
        first, responses = post_concurrently(running, [BODY])
        wait_until(lambda: gate.sizes == [1])
        disconnected = raw_connection(running.url, request_head(BODY) + json.dumps(BODY).encode())
        wait_until(lambda: len(running.state.worker._waiting) == 1)
        disconnected.close()
        wait_until(lambda: running.state.num_active == 1)
        gate.set()
        first[0].join()
        assert responses[0][0] == 200 and running.post(BODY)[0] == 200
        assert gate.sizes == [1, 1]


def test_stream_stops_when_its_client_disconnects(parts, endless, monkeypatch, gate):
    """500 tokens at 10 ms would take five seconds; the other row of the batch continues."""
    plain, steps = RowStoppingCriteria.__call__, []

    def slow_call(self, *arguments, **others):
        steps.append([job.is_cancelled for job in self.jobs])
        time.sleep(0.01)
        return plain(self, *arguments, **others)

    monkeypatch.setattr(RowStoppingCriteria, "__call__", slow_call)
    with served(parts, batch_wait_seconds=0.0) as running:
        threads, responses = post_behind_gate(running, gate, [BODY | {"max_tokens": 60}])
        body = BODY | {"stream": True, "max_tokens": 500}
        stream = raw_connection(running.url, request_head(body) + json.dumps(body).encode())
        wait_until(lambda: len(running.state.worker._waiting) == 2)
        gate.set()
        read = b""
        while read.count(b"data: ") < 6:
            read += stream.recv(4096)
        stream.close()
        for thread in threads:
            thread.join()
        assert responses[0][2]["usage"]["completion_tokens"] == 60
        wait_until(lambda: running.state.num_active == 0)
        assert running.post(BODY)[0] == 200  # the batch has ended
    assert gate.sizes == [1, 2, 1]
    both_rows = [step for step in steps if len(step) == 2]
    assert 60 <= len(both_rows) < 400 and True in both_rows[-1]
