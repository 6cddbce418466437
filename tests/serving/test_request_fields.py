"""Fields that the server does not support: one that could change the response is refused by name."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from serving import BODY, PNG, request

from selfkd.serving.schema import HARMLESS, NEUTRAL, ChatRequest, RefusedError, Sampling, read_request

few_examples = settings(deadline=None, max_examples=40, derandomize=True)
KNOWN = {*HARMLESS, *NEUTRAL, *ChatRequest.model_fields}
names = st.text(st.sampled_from("abcdefgh_ijk"), min_size=1, max_size=12).filter(lambda n: n not in KNOWN)
scalars = st.one_of(st.booleans(), st.integers(-5, 5), st.floats(-2, 2), st.text(max_size=5))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
)


def read_with(**fields):
    return read_request(json.dumps(BODY | fields).encode())


def refusal_of(**fields):
    with pytest.raises(RefusedError) as caught:
        read_with(**fields)
    return caught.value.status, caught.value.param, caught.value.message


@few_examples
@given(name=names, value=values)
def test_unknown_field_is_refused_by_name(name, value):
    status, param, message = refusal_of(**{name: value})
    assert (status, param) == (400, name) and message.startswith(f"{name}: ")
    read_with(**{name: None})


@few_examples
@given(name=st.sampled_from(sorted(n for n in NEUTRAL if "." not in n)), value=values)
def test_known_field_is_accepted_with_neutral_values_only(name, value):
    for neutral in NEUTRAL[name]:
        read_with(**{name: neutral})
    if not any(value == neutral for neutral in NEUTRAL[name]):
        assert refusal_of(**{name: value})[:2] == (400, name)


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
def test_sampling_fields_of_other_servers_are_refused(field, value):
    """eval_17_fields_ignored_in_silence."""
    assert refusal_of(**{field: value})[:2] == (400, field)


def test_fields_of_message_parts_are_checked():
    image = PNG["image_url"]
    for part, path in (
        ({**PNG, "image_url": {**image, "detail": "low"}}, "messages.0.content.0.image_url.detail"),
        ({**PNG, "max_pixels": 100}, "messages.0.content.0.max_pixels"),
    ):
        with pytest.raises(RefusedError, match=path):
            read_request(json.dumps(request(part, "What?")).encode())
    accepted = {**PNG, "image_url": {**image, "detail": "auto"}, "cache_control": {"type": "ephemeral"}, "uuid": "1"}
    assert read_request(json.dumps(request(accepted, "What?")).encode()).model == "selfkd"
    assert refusal_of(stream_options={"continuous_usage_stats": True})[1] == "stream_options.continuous_usage_stats"
    assert read_with(stream_options={"include_usage": True, "include_obfuscation": False}).includes_usage


# default fields of vllm bench serve, sglang.bench_serving, lmms-eval and VLMEvalKit
CLIENT_DEFAULTS = (
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


def test_sampling_settings():
    """Greedy unless a temperature is sent; with temperature 0 or one token, `top_p`, `top_k` and `seed` have no
    effect."""
    assert read_with().sampling == Sampling() and read_with().sampling.is_greedy
    assert read_with(temperature=0, top_p=0.5, top_k=5, seed=7).sampling.is_greedy
    assert read_with(temperature=1e-300).sampling.is_greedy and read_with(temperature=2, top_k=1).sampling.is_greedy
    sampling = read_with(temperature=1, top_p=0.5, top_k=5, seed=-7).sampling
    assert sampling == Sampling(1.0, 0.5, 5, -7) and not sampling.is_greedy
    assert read_with(temperature=1, top_k=-1).sampling == Sampling(1.0)
    assert [read_with(stop=stop).stop for stop in ("", "a", ["a", "b"], [])] == [[], ["a"], ["a", "b"], []]


@pytest.mark.parametrize("fields", CLIENT_DEFAULTS)
def test_default_fields_of_common_clients_are_accepted(fields):
    assert read_with(**fields).model == "selfkd"


def test_every_field_of_the_official_client_is_known_or_refused(server):
    """No field is accepted with a value that could change the response."""
    official = set(CompletionCreateParamsNonStreaming.__annotations__) | {"seed", "user", "stop"}
    assert {"seed", "stop", "logit_bias"} <= official
    for name in official - HARMLESS - set(ChatRequest.model_fields) - set(NEUTRAL):
        assert refusal_of(**{name: {"odd": 1}})[1] == name
    client = OpenAI(base_url=server.url, api_key="none")
    messages = [{"role": "user", "content": "Hello?"}]
    assert client.chat.completions.create(model="selfkd", messages=messages).choices[0].finish_reason
    with pytest.raises(Exception, match="guided_choice"):
        client.chat.completions.create(model="selfkd", messages=messages, extra_body={"guided_choice": ["a"]})
