"""The endpoint client against a server that fails on demand: an error stays with its item, image and audio stay
together, and rate limit, budget and a dead server are noticed."""

import io
import json
import random
import re
import sys
import threading
import time
import tracemalloc
from dataclasses import asdict, replace
from itertools import count, pairwise

import numpy as np
import pytest
import soundfile
from chat_server import LONG_TEXT, chat_server, pair_of, read_parts
from examples import tone, toy_examples
from PIL import Image

from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.evaluation.backends.endpoint import EndpointClient, audio_part, image_part
from selfkd.evaluation.backends.openai_client import EndpointSettings, Usage, saved_usage

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    """The client waits half a second before its first retry, and twice as long each time."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.02)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    for variable in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def server():
    with chat_server() as chat:
        yield chat


def client_of(server, modality="audio", **settings):
    chosen = {"concurrency": 4, "timeout_seconds": 60.0, "max_retries": 2} | settings
    return EndpointClient(server.url, "some-model", modality, EndpointSettings(**chosen))


def pair(example: Example, modality: str = "audio") -> str:
    """The server's response to an example, computed from the example."""
    if modality == "text":
        return pair_of(example.image or b"", example.question.encode())
    return pair_of(example.image or b"", soundfile.read(io.BytesIO(example.audio), dtype="int16")[0].tobytes())


def small_examples(count: int) -> list[Example]:
    """Examples that differ in image and audio, quickly made."""
    image = np.zeros((8, 8, 3), np.uint8)
    made = []
    for i in range(count):
        image[0, 0] = i
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG")
        example = Example(f"e{i}", f"How many are there of thing number {i}?", "two", "s", "count", "two")
        made.append(replace(example, image=buffer.getvalue()).with_audio(tone(0.1 + i / 1000), "tone"))
    return made


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_user_message_holds_the_question_as_text_or_audio(server, modality):
    """Image, instruction, question, form of the answer; the question as text or as audio, never both."""
    example = replace(toy_examples(1)[0], instruction="Look closely.\n", answer_format="\nOne word.")
    bare = replace(example, image=None, instruction="", answer_format="")
    client = client_of(server, modality, max_new_tokens=7)
    assert [r.text for r in client.predict([example, bare])] == [pair(example, modality), pair(bare, modality)]
    first, second = sorted(server.requests, key=lambda request: -len(request.parts))
    question = {"text": "text", "audio": "input_audio"}[modality]
    assert [p["type"] for p in first.parts] == ["image_url", "text", question, "text"]
    assert [p["type"] for p in second.parts] == [question]
    assert first.texts == ["Look closely.\n", *([example.question] if modality == "text" else []), "\nOne word."]
    assert (example.question in str(first.body)) == (modality == "text")
    assert {k: first.body[k] for k in ("model", "temperature", "max_tokens")} == {
        "model": "some-model", "temperature": 0, "max_tokens": 7,
    }  # fmt: skip
    assert first.headers["authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize(
    ("format_name", "media_type"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("BMP", "image/png")],
)
def test_image_part_has_the_media_type_of_the_bytes(format_name, media_type):
    """Formats that endpoints read are sent unchanged, others as PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (9, 5), "red").save(buffer, format=format_name)
    example = replace(toy_examples(1)[0], image=buffer.getvalue())
    part = image_part(example)
    assert part["image_url"]["url"].startswith(f"data:{media_type};base64,")
    image, _ = read_parts([part, {"type": "text", "text": "x"}])
    assert (image == example.image) == (format_name != "BMP")
    assert Image.open(io.BytesIO(image)).size == (9, 5)


def test_audio_part_is_a_wav_of_the_same_samples():
    loud = np.array([0, 1, -1, 32_767, -32_768, 12_345] * 500, np.int16)
    example = toy_examples(1)[0].with_audio(loud / 32_768, "loud")
    _, audio_clip = read_parts([audio_part(example)])
    assert np.array_equal(np.frombuffer(audio_clip, np.int16), loud)


def test_concurrent_requests_keep_pairs_together(server):
    """60 items, 16 at once, answered in a random order; the first 16 wait for one another."""
    rng, lock, number, first = random.Random(0), threading.Lock(), count(), threading.Barrier(16)

    def delay():
        with lock:
            seconds, at = rng.uniform(0, 0.05), next(number)
        if at < 16:
            first.wait(60)
        return seconds

    server.delay_seconds = delay
    examples = small_examples(60)
    client = client_of(server, concurrency=16, timeout_seconds=60)
    came = list(client.predict_each(iter(examples)))
    assert [i for i, _ in came] != list(range(60)) and sorted(i for i, _ in came) == list(range(60))
    assert all(prediction.text == pair(examples[i]) and not prediction.error for i, prediction in came)
    assert all(0 < prediction.seconds < 60 for _, prediction in came)
    assert server.max_at_once == 16
    assert [r.text for r in client.predict(examples[:20])] == [pair(e) for e in examples[:20]]


def test_messages_are_made_when_their_turn_comes(server):
    """No more examples are read than requests have come, plus one for each that may be in flight."""
    ahead = []

    def examples():
        for i, example in enumerate(small_examples(30)):
            ahead.append(i - len(server.requests))
            yield example

    assert len(list(client_of(server, concurrency=3).predict_each(examples()))) == 30
    assert max(ahead) <= 3


RETRIED = ["408", "409", "429", "500", "502", "503", "504", "529", "hang", "cut", "drip"]


@pytest.mark.slow
def test_transient_errors_are_retried(server):
    """Each of them twice, then a response: the client's retries."""
    examples = small_examples(len(RETRIED))
    server.script = {pair(e): [b, b] for e, b in zip(examples, RETRIED, strict=True)}
    client = client_of(server, timeout_seconds=1, concurrency=len(RETRIED))
    assert [(r.text, r.error) for r in client.predict(examples)] == [(pair(e), "") for e in examples]
    assert (client.usage.requests, client.usage.retries) == (3 * len(RETRIED), 2 * len(RETRIED))
    assert len(server.requests) == 3 * len(RETRIED)
    assert client.usage.prompt_tokens == 1000 * len(RETRIED)


@pytest.mark.slow
def test_lasting_errors_stay_with_their_item(server):
    """Each of them three times, among items that are answered."""
    examples = small_examples(2 * len(RETRIED))
    server.script = {pair(e): [b] * 3 for e, b in zip(examples[::2], RETRIED, strict=True)}
    client = client_of(server, timeout_seconds=0.8, concurrency=16)
    predictions = client.predict(examples)
    assert [r.text for r in predictions[1::2]] == [pair(e) for e in examples[1::2]]
    for behaviour, prediction in zip(RETRIED, predictions[::2], strict=True):
        expected = {"hang": "no whole response within 0.8 s", "drip": "no whole response", "cut": "Connection error"}
        assert prediction.text == "" and expected.get(behaviour, f"Error code: {behaviour}") in prediction.error
        assert "sk-secret" not in prediction.error
    assert client.usage.requests == 3 * len(RETRIED) + len(RETRIED)


def logged_pauses(caplog) -> list[float]:
    found = [re.search(r"Retrying request .*in ([\d.]+) seconds", r.getMessage()) for r in caplog.records]
    return [float(f[1]) for f in found if f]


def test_retries_respect_retry_after_and_back_off(server, monkeypatch, caplog):
    """By the client's own log, and by the arrival of requests."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.1)
    caplog.set_level("INFO", logger="openai._base_client")
    waits, *grow = small_examples(11)
    server.script = {pair(waits): ["429 after 0.6"]} | {pair(e): ["503"] * 3 for e in grow}
    client = client_of(server, max_retries=3, concurrency=10)
    client.predict([waits])
    first, second = (r.seconds for r in server.requests)
    assert second - first > 0.55 and logged_pauses(caplog) == [0.6]
    caplog.clear()
    client.predict(grow)
    pauses = sorted(logged_pauses(caplog))
    for some, longest in ((pauses[:10], 0.1), (pauses[10:20], 0.2), (pauses[20:], 0.4)):
        assert len(set(some)) == 10 and all(0.75 * longest <= p <= longest for p in some)  # the jitter
    times = [r.seconds for r in server.requests if r.pair == pair(grow[0])]
    assert all(b - a > 0.07 for a, b in pairwise(times)) and len(times) == 4


ODD = {
    "html": "not JSON: '<!doctype html>",
    "half": "not JSON",
    "list": "JSON list",
    "empty": "not JSON",
    "no choices": "no choices",
    "error inside": "the model behind me fell over",
    "null": r"no text (finish_reason stop)",
    "no message": "no message",
    "number": "no text",
    "filter": "no text (finish_reason content_filter)",
}


def test_malformed_bodies_with_status_200_are_errors(server):
    """Without text there is an error that names the body. No retry: the status is that of success."""
    examples = small_examples(2 * len(ODD))
    server.script = {pair(e): [b] for e, b in zip(examples[::2], ODD, strict=True)}
    predictions = client_of(server).predict(examples)
    assert [r.text for r in predictions[1::2]] == [pair(e) for e in examples[1::2]]
    for prediction, reason in zip(predictions[::2], ODD.values(), strict=True):
        assert prediction.text == "" and reason in prediction.error
    assert len(server.requests) == len(examples)


def test_unusual_texts_are_responses(server):
    behaviours = ["parts", "bytes", "surrogate", "endless", "refusal", "silence", "no usage", "odd usage"]
    examples = small_examples(len(behaviours))
    server.script = {pair(e): [b] for e, b in zip(examples, behaviours, strict=True)}
    predictions = client_of(server).predict(examples)
    assert [r.error for r in predictions] == [""] * len(examples)
    texts = dict(zip(behaviours, ((r.text, pair(e)) for r, e in zip(predictions, examples, strict=True)), strict=True))
    for behaviour, ending in (
        ("parts", ""), ("bytes", " caf\ufffd"), ("surrogate", " \ufffd and \U0001f600"),
        ("endless", LONG_TEXT.rstrip()), ("no usage", ""), ("odd usage", ""),
    ):  # fmt: skip
        text, name = texts[behaviour]
        assert text == name + ending
        text.encode("utf-8")
    assert texts["refusal"][0] == "I cannot help with that." and texts["silence"][0] == ""


def test_client_errors_stay_with_their_item(server):
    """400 is not retried and is that item's; so is 401 once the server has answered others."""
    examples = small_examples(6)
    server.script = {pair(examples[1]): ["400"], pair(examples[3]): ["401"], pair(examples[4]): ["422"]}
    predictions = client_of(server, concurrency=1).predict(examples)
    assert [bool(r.error) for r in predictions] == [False, True, False, True, True, False]
    assert (
        "Error code: 400" in predictions[1].error
        and "status 400 on demand, Bearer (OPENAI_API_KEY)" in predictions[1].error
    )
    assert len(server.requests) == 6


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_wrong_key_url_or_model_ends_the_run_at_once(server, status):
    server.always = status
    with pytest.raises(InputError, match=rf"url: some-model at {server.url}.*{status}.*OPENAI_API_KEY right\?"):
        client_of(server, concurrency=2).predict(small_examples(30))
    assert len(server.requests) <= 4


def test_examples_that_cannot_be_encoded_are_not_sent(server):
    examples = small_examples(4)
    examples[1] = replace(examples[1], audio=None)
    examples[2] = replace(examples[2], image=b"no image")
    predictions = client_of(server).predict(examples)
    assert "e1: field audio" in predictions[1].error and "e2: field image" in predictions[2].error
    assert [r.text for r in predictions[::3]] == [pair(examples[0]), pair(examples[3])] and len(server.requests) == 2


def test_dead_server_ends_the_run_and_keeps_its_responses(server):
    """10 answers, then nothing but 503: five failures in a row end it; one now and then does not."""
    examples = small_examples(40)
    server.script = {pair(e): [] for e in examples[:10]}
    server.script[pair(examples[3])] = ["503"] * 3
    server.always = "503"
    client = client_of(server, concurrency=2, max_failures=5)
    kept = {}
    with pytest.raises(InputError, match=r"some-model at .*: 5 items failed one after another: .*Error code: 503"):
        for i, prediction in client.predict_each(examples):
            kept[i] = prediction
    assert sorted(i for i, r in kept.items() if not r.error) == [0, 1, 2, *range(4, 10)]
    assert len(kept) <= 17 and len(server.requests) <= 60
    with pytest.raises(InputError, match=r"\d items failed one after another"):  # counted over calls
        client.predict(examples[20:21])


def test_unreachable_server_ends_the_run():
    client = EndpointClient("http://127.0.0.1:9/v1", "m", "text", EndpointSettings(max_retries=1, max_failures=3))
    with pytest.raises(InputError, match=r"3 items failed one after another: .*Connect"):
        client.predict(small_examples(10))
    assert len(EndpointClient("http://127.0.0.1:9/v1", "m", "text").predict([])) == 0


def test_rate_limit_spreads_requests(server):
    """1200 a minute is one in 50 ms, retries included, over all calls."""
    examples = small_examples(12)
    server.script = {pair(e): ["503"] for e in examples[:4]}
    client, started = client_of(server, concurrency=8, requests_per_minute=1200), time.monotonic()
    client.predict(examples[:6])
    client.predict(examples[6:])
    times = sorted(r.seconds for r in server.requests)
    assert len(times) == 16
    # no request before its turn: a slow machine makes them late, and never early
    assert all(at >= started + turn * 0.05 - 0.001 for turn, at in enumerate(times))


def test_budget_ends_requests(server):
    """A thousand tokens in at $5 a million and ten out at $100: $0.006 an item, so four items reach $0.02."""
    examples = small_examples(20)
    settings = EndpointSettings(concurrency=1, price_in=5, price_out=100, budget=0.02)
    usage = Usage()
    audio = EndpointClient(server.url, "m", "audio", settings, usage)
    predictions = audio.predict(examples)
    assert [r.text for r in predictions[:4]] == [pair(e) for e in examples[:4]]
    assert {r.error for r in predictions[4:]} == {"budget of $0.02 reached"} and len(server.requests) == 4
    assert asdict(usage) == {
        "requests": 4, "retries": 0, "prompt_tokens": 4000, "completion_tokens": 40, "dollars": pytest.approx(0.024),
    }  # fmt: skip
    text = EndpointClient(server.url, "m", "text", settings, usage)  # the same budget
    assert text.predict(examples[:1])[0].error == "budget of $0.02 reached"
    more = EndpointClient(server.url, "m", "audio", replace(settings, budget=0.2), usage)  # resumes with the rest
    assert [r.text for r in more.predict(examples[4:])] == [pair(e) for e in examples[4:]]


def test_usage_is_saved_before_the_end(tmp_path, monkeypatch):
    """A process that is killed writes nothing at its end."""
    monkeypatch.setattr("selfkd.evaluation.backends.openai_client.SAVED_EVERY_SECONDS", 0)
    with saved_usage(tmp_path / "usage.json", "m") as usage:
        usage.spend(7, 2, 0.5)
        assert json.loads((tmp_path / "usage.json").read_text())["dollars"] == 0.5


def test_budget_without_token_counts_ends_the_run(server):
    server.always = "no usage"
    client = client_of(server, concurrency=1, price_in=1, budget=1)
    kept = []
    with pytest.raises(InputError, match=r"budget: .*returns no token counts"):
        kept.extend(client.predict_each(small_examples(5)))
    assert len(server.requests) == 1


def test_closing_cancels_requests_in_flight(server):
    server.script = {pair(e): ["hang"] for e in small_examples(10)[1:]}
    client = client_of(server, timeout_seconds=60).predict_each(small_examples(10))
    assert next(client)[0] == 0
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 30  # half of their timeout
    assert not [t for t in threading.enumerate() if t.name == "openai-client"]


def test_invalid_settings_name_their_field(monkeypatch):
    for bad, field in (
        ({"concurrency": 0}, "concurrency"),
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"budget": 1}, "budget"),
        ({"max_failures": 0}, "max_failures"),
    ):
        with pytest.raises(InputError, match=f"^{field}: "):
            EndpointSettings(**bad)
    with pytest.raises(InputError, match=r"^url: "):
        EndpointClient("localhost:8000", "m", "text")
    with pytest.raises(InputError, match=r"^model: "):
        EndpointClient("", "", "text")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-schlüssel")
    with pytest.raises(InputError, match=r"^OPENAI_API_KEY: (?!.*schl)"):
        EndpointClient("", "m", "text")


def test_missing_openai_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"pip install 'selfkd\[openai\]'"):
        EndpointClient("", "m", "text").predict(small_examples(1))


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("gzip", ""),
        ("cut gzip", "cannot be decompressed (it is cut short)"),
        ("no gzip", "cannot be decompressed"),
        ("huge", "more than 8 MB"),
        ("huge gzip", "more than 8 MB"),
        ("redirect", "more than 8 MB"),
        ("gzip twice", "encoding 'gzip, gzip'"),
        ("unknown encoding", "encoding 'br'"),
    ],
)
def test_response_is_limited_after_decompression(server, behaviour, reason):
    """sec_12: 1.5 MB of gzip took 4.3 GB."""
    server.always = behaviour
    example = small_examples(1)[0]
    tracemalloc.start()
    (prediction,) = client_of(server, max_retries=0).predict([example])
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason in prediction.error and bool(reason) == bool(prediction.error)
    assert prediction.text == ("" if reason else pair(example))
    assert server.requests[0].headers["accept-encoding"] == "gzip, deflate"
    assert peak_bytes < (200e6 if behaviour.startswith(("huge", "redirect")) else 40e6)
