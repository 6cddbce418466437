"""Sampling: the distribution of the sampler, and requests with settings of their own in one batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import BODY, client, post_as_one_batch, request, served

from selfkd.serving.sampling import RowSampler, cut_at_stop, without_partial_stop
from selfkd.serving.schema import Sampling

some_examples = settings(deadline=None, max_examples=60, derandomize=True, database=None)
logits_rows = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=12)
temperatures = st.floats(1e-4, 2)


def sample(logits, sampling, count=1):
    """`count` tokens of one row."""
    sampler, scores_1V = RowSampler([sampling]), torch.tensor([logits])
    return [int(sampler(torch.zeros(1, 1, dtype=torch.long), scores_1V).argmax()) for _ in range(count)]


# the sampler


@some_examples
@given(logits=logits_rows, seed=st.integers(-(2**63), 2**63 - 1))
def test_low_temperature_and_one_token_are_greedy(logits, seed):
    greedy = int(torch.tensor(logits).argmax())
    assert sample(logits, Sampling(1e-6, seed=seed)) == [greedy]
    assert sample(logits, Sampling(1.7, top_k=1, seed=seed)) == [greedy]
    # the sampler itself, just above: a token has the largest logit, or nearly
    (token,) = sample(logits, Sampling(1e-4, seed=seed))
    assert logits[token] >= logits[greedy] - 0.01
    (token,) = sample(logits, Sampling(2.0, top_p=1e-9, seed=seed))
    assert logits[token] >= logits[greedy] - 1e-5


@some_examples
@given(logits=logits_rows, temperature=temperatures, top_k=st.integers(0, 14), seed=st.integers(0, 2**63 - 1))
def test_same_seed_gives_the_same_tokens(logits, temperature, top_k, seed):
    """Whatever the other rows are; each of the tokens is among the `top_k` largest logits."""
    sampling = Sampling(temperature, top_k=top_k, seed=seed)
    tokens = sample(logits, sampling, 5)
    assert sample(logits, sampling, 5) == tokens
    if top_k:
        smallest = sorted(logits, reverse=True)[min(top_k, len(logits)) - 1]
        assert all(logits[token] >= smallest for token in tokens)
    scores_3V = torch.tensor([logits, logits[::-1], logits])
    sampler = RowSampler([Sampling(), sampling, Sampling(1.0, seed=seed + 1 if seed < 2**62 else 0)])
    chosen_3V = sampler(torch.zeros(3, 1, dtype=torch.long), scores_3V)
    assert torch.equal(chosen_3V[0], scores_3V[0])  # a greedy row stays as it is
    assert torch.equal(scores_3V, torch.tensor([logits, logits[::-1], logits]))
    assert int(chosen_3V[1].argmax()) == sample(logits[::-1], sampling)[0]


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1.0, seed=1), [0, 1, 2, 3]),
        (Sampling(0.5, seed=2), [0, 1, 2, 3]),
        (Sampling(1.0, top_k=2, seed=3), [1, 3]),
        (Sampling(1.0, top_p=0.75, seed=4), [0, 1, 3]),  # 0.4, 0.3 and the one that reaches 0.75
        (Sampling(2.0, top_k=3, top_p=0.6, seed=5), [1, 3]),
    ],
)
def test_frequencies_are_those_of_the_distribution(sampling, kept):
    """Within five standard errors of 4,000 tokens."""
    probabilities, count = torch.tensor([0.2, 0.3, 0.1, 0.4]), 4_000
    expected = torch.zeros(4)
    expected[kept] = probabilities[kept] ** (1 / sampling.temperature)
    expected /= expected.sum()
    tokens = torch.tensor(sample((probabilities.log() + 3).tolist(), sampling, count))
    found = torch.bincount(tokens, minlength=4) / count
    bounds = 5 * (expected * (1 - expected) / count).sqrt()
    assert ((found - expected).abs() <= bounds).all(), (found, expected)


def test_other_seeds_give_other_tokens():
    sampled = {tuple(sample([0.0] * 50, Sampling(1.0, seed=seed), 4)) for seed in range(20)}
    assert len(sampled) == 20


def test_logits_that_are_no_numbers_raise_no_error():
    """An error in a CUDA kernel would end the server."""
    assert sample([float("nan")] * 3, Sampling(1.0, seed=1))[0] in range(3)
    with pytest.raises(ValueError, match="seed"):
        RowSampler([Sampling(1.0)])


# texts that end a response


@some_examples
@given(text=st.text("abc", max_size=12), stops=st.lists(st.text("abc", min_size=1, max_size=3), max_size=2))
def test_streamed_text_is_the_beginning_of_the_response(text, stops):
    """As the text grows by one character at a time, nothing is sent that the response does not begin with."""
    whole, is_cut = cut_at_stop(text, stops)
    assert is_cut == any(stop in text for stop in stops) and text.startswith(whole)
    assert not any(stop in whole for stop in stops)
    for end in range(len(whole) + 1):
        assert whole.startswith(without_partial_stop(text[:end], stops))
    if not stops:
        assert without_partial_stop(text, stops) == whole == text


def test_stop_texts_end_a_response(server, endless):
    plain = server.post(BODY | {"max_tokens": 12})[2]["choices"][0]["message"]["content"]
    stop = plain[len(plain) // 2 :][:3]
    expected = plain[: plain.index(stop)].strip()
    for fields in ({"stop": stop}, {"stop": ["no such text", stop]}):
        response = server.post(BODY | {"max_tokens": 12} | fields)[2]
        choice = response["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (expected, "stop")
        assert response["usage"]["completion_tokens"] <= 12
    chunks = list(
        client(server).chat.completions.create(
            model="selfkd", messages=BODY["messages"], max_tokens=12, stop=stop, stream=True
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


# requests


def create(running, **fields):
    return client(running).chat.completions.create(model="selfkd", messages=BODY["messages"], max_tokens=12, **fields)


def test_seed_decides_the_response(server, endless):
    def text(**fields):
        return create(server, **fields).choices[0].message.content

    greedy = text()
    assert text(temperature=0, seed=5, top_p=0.3) == greedy == text(temperature=1.5, extra_body={"top_k": 1})
    sampled = [text(temperature=1.5, seed=seed) for seed in (1, 2, 3, 1)]
    assert sampled[0] == sampled[3] and len({greedy, *sampled}) == 4
    assert text(temperature=1.5) != text(temperature=1.5)  # without a seed
    chunks = list(create(server, temperature=1.5, seed=1, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == sampled[0]
    assert chunks[-1].usage.completion_tokens == 12


def test_rows_of_one_batch_have_settings_of_their_own(parts, endless, gate):
    """Greedy or sampled, a response is that of the same request in a batch of one."""
    fields = [{}, {"temperature": 1.5, "seed": 1}, {"temperature": 0.8, "seed": 1, "top_p": 0.9}, {"temperature": 0}]
    bodies = [request(f"What colour is it{'?' * n}", max_tokens=12) | f for n, f in enumerate(fields)]
    with served(parts, batch_wait_seconds=0.0) as running:
        responses = post_as_one_batch(running, gate, bodies)
        assert gate.sizes == [1, 4]
        for body, (status, _, together) in zip(bodies, responses, strict=True):
            assert status == 200
            single = running.post(body)[2]
            assert (together["choices"], together["usage"]) == (single["choices"], single["usage"])


def test_batch_that_fails_is_sampled_again_with_the_same_numbers(parts, endless, monkeypatch, gate):
    """A stream would have sent the beginning of its response already."""
    plain, calls = RowSampler.__call__, []

    def failing(self, input_ids, scores):
        calls.append(len(scores))
        if len(scores) == 2 and calls.count(2) == 6:
            raise RuntimeError("out of memory")
        return plain(self, input_ids, scores)

    monkeypatch.setattr(RowSampler, "__call__", failing)
    body = BODY | {"max_tokens": 12, "temperature": 1.5, "seed": 3}
    with served(parts, batch_wait_seconds=0.0) as running:
        responses = post_as_one_batch(running, gate, [body, BODY | {"max_tokens": 12}])
        assert [r[0] for r in responses] == [200, 200] and gate.sizes == [1, 2, 1, 1]
        assert responses[0][2]["choices"] == running.post(body)[2]["choices"]
