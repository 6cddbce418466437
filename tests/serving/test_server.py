"""The server by the official client: its answers are those of the answerers, and each goes to who asked."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from examples import tone, toy_examples
from serving import ASK, ask, client, encoded, get, head, lined_up, raw, request, served, sound_of, together, until

from selfkd.evaluation.backends.endpoint import EndpointClient, user_message
from selfkd.evaluation.backends.local import MAX_NEW_TOKENS, predict_modality
from selfkd.evaluation.backends.openai_client import EndpointSettings
from selfkd.serving.batching import Rows


def asked_by_hand(parts, example, modality) -> tuple[str, int, int]:
    """(reply, tokens read, tokens generated) of the model itself."""
    model, processor = parts
    seen = processor.encode_image(example.load_image())
    if modality == "text":
        prompt = processor.text_prompt(example.question, seen, example.instruction, example.answer_format)
    else:
        heard = processor.encode_audio(example.samples())
        prompt = processor.audio_prompt(heard, seen, example.instruction, example.answer_format)
    ids = model.generate(**processor.collate([prompt]), max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    length = processor.length(prompt.prefix_ids + prompt.suffix_ids, prompt.audio_inputs)
    return processor.decode(ids)[0], length, ids.shape[1]


# answers


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_answers_are_those_of_the_answerers(parts, server, modality):
    """Token for token, whole and streamed, with the texts around the question."""
    examples = toy_examples(5)
    examples.append(replace(examples[0], instruction="Look well.\n", answer_format="\nOne word."))
    examples.append(replace(examples[1], image=None))
    examples = [e.spoken(tone(1.3), "tone") for e in examples]
    expected = [predict_modality(*parts, [e], modality)[0].text for e in examples]
    for example, text in zip(examples, expected, strict=True):
        message = user_message(example, modality)
        _, read, generated = asked_by_hand(parts, example, modality)
        whole = ask(server, message)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (text, "stop")
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (read, generated)
        chunks = list(ask(server, message, stream=True, stream_options={"include_usage": True}))
        pieces = [c.choices[0].delta.content for c in chunks[1:-2]]
        assert "".join(pieces) == text and all(pieces) and len(pieces) > min(2, generated - 2)
        assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage == whole.usage
        assert len({c.id for c in chunks}) == 1


def test_a_checkpoints_own_ways_of_generating_are_off(parts, server, monkeypatch):
    """As in evaluation: its penalty, beams and sampling do not count, and a turn ends where the chat template says."""
    model, processor = parts
    message = user_message(toy_examples(1)[0], "text")
    expected = ask(server, message).choices[0]
    for name, value in (("repetition_penalty", 1.8), ("num_beams", 3), ("do_sample", True), ("eos_token_id", None)):
        monkeypatch.setattr(model.vlm.generation_config, name, value)
    found = ask(server, message).choices[0]
    assert found.finish_reason == "stop" and found.message.content == expected.message.content != ""
    assert found.message.content == predict_modality(model, processor, toy_examples(1), "text")[0].text


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_our_own_endpoint_answerer_gets_the_same(parts, server, modality):
    examples = toy_examples(16)
    expected = [predict_modality(*parts, [e], modality)[0].text for e in examples]
    batches = server.state.worker.batches
    asking = EndpointClient(server.url, "selfkd", modality, EndpointSettings(concurrency=16, max_new_tokens=48))
    assert [(r.text, r.error) for r in asking.answer(examples)] == [(text, "") for text in expected]
    assert server.state.worker.batches - batches < 16  # some were asked together


def test_a_string_is_a_question_and_text_around_sound_is_instruction_and_form(parts, server):
    model, processor = parts
    example = toy_examples(1)[0]
    bare = predict_modality(model, processor, [replace(example, image=None)], "text")[0].text
    assert ask(server, {"role": "user", "content": example.question}).choices[0].message.content == bare
    both = replace(example, instruction="Is it red?\n", answer_format="\nOne word.")
    content = user_message(both, "audio")["content"]
    assert [p["type"] for p in content] == ["image_url", "text", "input_audio", "text"]
    late_picture = {"role": "user", "content": [*content[1:], content[0]]}  # the model has it first all the same
    expected = predict_modality(model, processor, [both], "audio")[0].text
    assert ask(server, late_picture).choices[0].message.content == expected


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
def test_sound_of_any_rate_and_channels(parts, server, rate_hz, channels, format_name):
    """Eight channels at 96 kHz are answered as the same sound at 16 kHz is; MP3 and odd rates change it a little."""
    t = np.arange(2 * rate_hz) / rate_hz
    mono = (0.3 * np.sin(2 * np.pi * 220 * t)).astype(np.float32)
    content = encoded(np.tile(mono[:, None], channels), rate_hz, format_name)
    answered = server.post(request(sound_of(content, format_name), max_tokens=8))
    assert answered[0] == 200, answered
    if rate_hz == 96_000:
        plain = encoded(0.3 * np.sin(2 * np.pi * 220 * np.arange(32_000) / 16_000), 16_000)
        assert server.post(request(sound_of(plain), max_tokens=8))[2]["choices"] == answered[2]["choices"]


def test_fields_that_ask_for_nothing_are_taken(server):
    """And one that is not known is refused: it might change a reply elsewhere (eval_17_fields_ignored_in_silence)."""
    odd = {"seed": 1, "user": "me", "store": True, "stop": None, "n": 1, "top_p": 1.0}
    odd |= {"response_format": {"type": "text"}, "stream": None, "logit_bias": None, "tools": []}
    assert server.post(ASK | odd)[0] == 200
    status, _, body = server.post(ASK | odd | {"nonsense": {"a": [1]}})
    assert status == 400 and body["error"]["param"] == "nonsense" and "nonsense" in body["error"]["message"]


# batches


def test_rows_of_a_batch_end_at_their_own_limits(parts, endless, gate):
    limits = [1, 5, 30, 9, 9]
    with served(parts, max_batch=8, batch_wait_seconds=0.0, max_new_tokens=20) as running:
        threads, found = lined_up(running, gate, [ASK | {"max_tokens": n} for n in limits])
        gate.set()
        for thread in threads:
            thread.join()
    assert gate.sizes == [1, 5]
    for limit, (status, _, body) in zip(limits, found, strict=True):
        assert status == 200 and body["usage"]["completion_tokens"] == min(limit, 20)
        assert body["choices"][0]["finish_reason"] == "length"


def test_kinds_are_batched_apart_and_no_more_than_the_maximum(parts, gate):
    audio_clip = sound_of(encoded(tone(0.5), 16_000))
    with served(parts, max_batch=2, batch_wait_seconds=0.0) as running:
        threads, found = lined_up(running, gate, [ASK] * 3 + [request(audio_clip, max_tokens=4)] * 2)
        gate.set()
        for thread in threads:
            thread.join()
    assert [answered[0] for answered in found] == [200] * 5
    assert gate.sizes[0] == 1 and sorted(gate.sizes[1:]) == [1, 2, 2]


def test_a_request_that_breaks_its_batch_fails_alone(parts, monkeypatch, caplog, gate):
    """Even where the model itself falls over it; the reply holds no traceback."""
    model, processor = parts
    plain, poison = model.generate, processor.ids("Zzzz")[0]

    def generate(suffix_ids, **inputs):
        if (suffix_ids == poison).any():
            raise RuntimeError("secret of the inside")
        return plain(suffix_ids=suffix_ids, **inputs)

    monkeypatch.setattr(model, "generate", generate)
    with served(parts, batch_wait_seconds=0.0) as running:
        threads, found = lined_up(running, gate, [ASK, request("Zzzz?", max_tokens=4), ASK, ASK])
        gate.set()
        for thread in threads:
            thread.join()
        good = running.post(ASK)[2]["choices"]
        assert [status for status, _, _ in found] == [200, 500, 200, 200]
        assert all(body["choices"] == good for status, _, body in found if status == 200)
        assert "secret" not in json.dumps(found[1][2]) and found[1][2]["error"]["code"] == "model_failed"
        streamed = running.post(request("Zzzz?", stream=True))
        assert streamed[0] == 500  # not begun, so with a status of its own
    assert "secret" in caplog.text and "a batch of 4 failed" in caplog.text


def test_a_client_that_has_gone_is_dropped_before_it_is_asked(parts, gate):
    with served(parts, batch_wait_seconds=0.0) as running:
        first, found = together(running, [ASK])
        until(lambda: gate.sizes == [1])
        gone = raw(running.url, head(ASK) + json.dumps(ASK).encode())
        until(lambda: len(running.state.worker._waiting) == 1)
        gone.close()
        until(lambda: running.state.inside == 1)
        gate.set()
        first[0].join()
        assert found[0][0] == 200 and running.post(ASK)[0] == 200
        assert gate.sizes == [1, 1]


def test_a_stream_stops_with_its_client(parts, endless, monkeypatch, gate):
    """500 tokens of 20 ms were ten seconds; the other row of the batch goes on."""
    plain, steps = Rows.__call__, []

    def slowly(self, *arguments, **others):
        steps.append([job.is_gone for job in self.jobs])
        time.sleep(0.02)
        return plain(self, *arguments, **others)

    monkeypatch.setattr(Rows, "__call__", slowly)
    with served(parts, batch_wait_seconds=0.0) as running:
        threads, found = lined_up(running, gate, [ASK | {"max_tokens": 60}])
        stream = raw(running.url, head(body := ASK | {"stream": True, "max_tokens": 500}) + json.dumps(body).encode())
        until(lambda: len(running.state.worker._waiting) == 2)
        gate.set()
        read = b""
        while read.count(b"data: ") < 6:
            read += stream.recv(4096)
        stream.close()
        for thread in threads:
            thread.join()
        assert found[0][2]["usage"]["completion_tokens"] == 60
        until(lambda: running.state.inside == 0)
        assert running.post(ASK)[0] == 200  # the batch has ended
    assert gate.sizes == [1, 2, 1]
    of_both = [is_gone for is_gone in steps if len(is_gone) == 2]
    assert 60 <= len(of_both) < 400 and True in of_both[-1]
