"""What a request may hold beyond what the server honours: a field that could change the reply is refused by name."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from serving import ASK, PNG, request, served

from selfkd.serving.schema import HARMLESS, NEUTRAL, ChatRequest, RefusedError, read_request

few = settings(deadline=None, max_examples=80, derandomize=True)
KNOWN = {*HARMLESS, *NEUTRAL, *ChatRequest.model_fields}
names = st.text(st.sampled_from("abcdefgh_ijk"), min_size=1, max_size=12).filter(lambda n: n not in KNOWN)
scalars = st.one_of(st.booleans(), st.integers(-5, 5), st.floats(-2, 2), st.text(max_size=5))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
)


def read(**fields):
    return read_request(json.dumps(ASK | fields).encode())


def refused_for(**fields):
    with pytest.raises(RefusedError) as caught:
        read(**fields)
    return caught.value.status, caught.value.param, caught.value.message


@few
@given(name=names, value=values)
def test_a_field_that_is_not_known_is_refused_by_name(name, value):
    status, param, message = refused_for(**{name: value})
    assert (status, param) == (400, name) and message.startswith(f"{name}: ")
    read(**{name: None})


@few
@given(name=st.sampled_from(sorted(n for n in NEUTRAL if "." not in n)), value=values)
def test_a_known_field_is_taken_with_the_values_that_ask_for_nothing(name, value):
    for neutral in NEUTRAL[name]:
        read(**{name: neutral})
    if not any(value == neutral for neutral in NEUTRAL[name]):
        assert refused_for(**{name: value})[:2] == (400, name)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guided_choice", ["yes", "no"]), ("guided_json", {}), ("guided_regex", "a"), ("guided_grammar", "x"),
        ("structured_outputs", {"choice": ["yes"]}), ("repetition_penalty", 1.5), ("stop_token_ids", [5]),
        ("bad_words", ["gray"]), ("min_tokens", 50), ("top_k", 5), ("min_p", 0.1), ("top_p", 0.5),
        ("length_penalty", 2), ("use_beam_search", True), ("prompt_logprobs", 1), ("echo", True),
        ("chat_template", "{{ x }}"), ("chat_template_kwargs", {"enable_thinking": True}), ("regex", "a+"),
        ("ebnf", "root"), ("json_schema", "{}"), ("ignore_eos", True), ("skip_special_tokens", False),
        ("max_new_tokens", 5), ("mm_processor_kwargs", {"max_pixels": 9}), ("allowed_token_ids", [1]),
        ("logits_processors", ["x"]), ("truncate_prompt_tokens", 5), ("lora_path", "x"), ("reasoning_effort", "high"),
        ("verbosity", "low"), ("n", True), ("web_search_options", {}), ("prediction", {"type": "content"}),
        ("audio", {"voice": "a"}), ("thinking_token_budget", 9),
    ],
)  # fmt: skip
def test_fields_of_other_servers(field, value):
    """eval_17_fields_ignored_in_silence."""
    assert refused_for(**{field: value})[:2] == (400, field)


def test_fields_within_messages():
    image = PNG["image_url"]
    for part, place in (
        ({**PNG, "image_url": {**image, "detail": "low"}}, "messages.0.content.0.image_url.detail"),
        ({**PNG, "max_pixels": 100}, "messages.0.content.0.max_pixels"),
    ):
        with pytest.raises(RefusedError, match=place):
            read_request(json.dumps(request(part, "What?")).encode())
    taken = {**PNG, "image_url": {**image, "detail": "auto"}, "cache_control": {"type": "ephemeral"}, "uuid": "1"}
    assert read_request(json.dumps(request(taken, "What?")).encode()).model == "selfkd"
    assert refused_for(stream_options={"continuous_usage_stats": True})[1] == "stream_options.continuous_usage_stats"
    assert read(stream_options={"include_usage": True, "include_obfuscation": False}).includes_usage


# what clients send that are told nothing but a question: vllm bench serve, sglang.bench_serving, lmms-eval, VLMEvalKit
SENT = (
    {"temperature": 0.0, "max_completion_tokens": 9, "stream": True, "stream_options": {"include_usage": True}},
    {"temperature": 0.0, "max_completion_tokens": 9, "stream": False, "repetition_penalty": 1.0, "logprobs": None},
    {"temperature": 0, "max_tokens": 1024, "n": 1, "seed": 42, "top_p": 1.0, "top_k": -1, "min_p": 0.0},
    {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "safety_identifier": "x"},
    {
        "skip_special_tokens": True,
        "spaces_between_special_tokens": True,
        "add_generation_prompt": True,
        "ignore_eos": False,
    },
)


@pytest.mark.parametrize("fields", SENT)
def test_what_clients_send_by_default_is_taken(fields):
    assert read(**fields).model == "selfkd"


def test_every_field_of_the_official_client_is_known_or_refused(parts):
    """None of them passes with a value that could change the reply."""
    official = set(CompletionCreateParamsNonStreaming.__annotations__) | {"seed", "user", "stop"}
    assert {"seed", "stop", "logit_bias"} <= official
    for name in official - HARMLESS - set(ChatRequest.model_fields) - set(NEUTRAL):
        assert refused_for(**{name: {"odd": 1}})[1] == name
    with served(parts) as running:
        client = OpenAI(base_url=running.url, api_key="none")
        messages = [{"role": "user", "content": "Hello?"}]
        assert client.chat.completions.create(model="selfkd", messages=messages).choices[0].finish_reason
        with pytest.raises(Exception, match="guided_choice"):
            client.chat.completions.create(model="selfkd", messages=messages, extra_body={"guided_choice": ["a"]})
