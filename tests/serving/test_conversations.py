"""System messages and earlier turns: the prompt is that of the model's chat template, in both modalities."""

import pytest
from examples import toy_examples
from serving import PNG, WAV, client, post_as_one_batch, request, served

from selfkd.evaluation.backends.endpoint import user_message

SYSTEM, HISTORY = "Answer in one word.", [("Is there a circle?", "yes"), ("And <|im_end|> here?", "no")]


def conversation(example, modality, system_role="system"):
    """The image is in the first turn, the query of `modality` in the last."""
    *image, query = user_message(example, modality)["content"]
    messages = [{"role": system_role, "content": SYSTEM}]
    for number, (text, response) in enumerate(HISTORY):
        messages.append(request(*image * (number == 0), text)["messages"][0])
        messages.append({"role": "assistant", "content": response})
    return [*messages, {"role": "user", "content": [query]}]


def expected_response(parts, example, modality, **context):
    """(response, number of tokens of the prompt) by the model's own interface."""
    model, processor = parts
    image = processor.encode_image(example.load_image(), **context)
    if modality == "text":
        prompt = processor.text_prompt(example.question, image)
    else:
        prompt = processor.audio_prompt(processor.encode_audio(example.samples()), image)
    settings = {"max_new_tokens": 12, "do_sample": False, "end_id": processor.end_id}
    ids = model.generate_responses(**processor.collate([prompt]), **settings)
    length = processor.length(prompt.prefix_ids + prompt.suffix_ids, prompt.audio_inputs)
    return processor.response_texts(ids)[0], length


def complete(server, messages, **fields):
    return client(server).chat.completions.create(model="selfkd", messages=messages, max_tokens=12, **fields)


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_conversation_has_the_prompt_of_the_chat_template(parts, server, modality):
    example = toy_examples(1)[0]
    text, prompt_tokens = expected_response(parts, example, modality, system=SYSTEM, history=HISTORY)
    assert prompt_tokens > expected_response(parts, example, modality)[1] + 20
    for role in ("system", "developer"):
        response = complete(server, conversation(example, modality, role))
        assert response.choices[0].message.content == text
        assert response.usage.prompt_tokens == prompt_tokens
    chunks = list(complete(server, conversation(example, modality), stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text


def test_each_part_of_a_conversation_counts(parts, server):
    example = toy_examples(1)[0]
    whole = conversation(example, "text")
    for messages, context in (
        ([whole[0], whole[1] | {"content": user_message(example, "text")["content"]}], {"system": SYSTEM}),
        (whole[1:], {"history": HISTORY}),
    ):
        text, prompt_tokens = expected_response(parts, example, "text", **context)
        response = complete(server, messages)
        assert (response.choices[0].message.content, response.usage.prompt_tokens) == (text, prompt_tokens)


def test_response_of_the_client_is_an_earlier_turn(server):
    """As the official client's users append it, with its empty fields; audio may be asked about it."""
    messages = request(PNG, "What is there?")["messages"]
    messages.append(complete(server, messages).choices[0].message)
    response = complete(server, [*messages, *request(WAV)["messages"]])
    assert response.choices[0].finish_reason in ("stop", "length")


def test_conversations_of_different_lengths_share_a_batch(parts, gate):
    """Each response is that of its own conversation."""
    whole = conversation(toy_examples(1)[0], "text")
    bodies = [{"model": "selfkd", "max_tokens": 8, "messages": messages} for messages in (whole, whole[1:], whole[:2])]
    with served(parts, batch_wait_seconds=0.0) as running:
        responses = post_as_one_batch(running, gate, bodies)
        assert gate.sizes == [1, 3]
        for body, (status, _, together) in zip(bodies, responses, strict=True):
            assert status == 200 and together["choices"] == running.post(body)[2]["choices"]


def test_template_that_takes_no_system_message_refuses_it(parts, monkeypatch):
    """Gemma's and others raise an exception; the request is at fault."""
    processor = parts[1]
    template = processor.vlm_processor.chat_template
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + template
    monkeypatch.setattr(processor.vlm_processor, "chat_template", refusing)
    monkeypatch.setattr(processor, "_pieces", {})
    messages = [{"role": "system", "content": SYSTEM}, *request("What?")["messages"]]
    with served(parts) as running:
        status, _, body = running.post({"model": "selfkd", "messages": messages, "max_tokens": 2})
        assert status == 400 and body["error"]["param"] == "messages" and "no system role" in body["error"]["message"]
        assert running.post({"model": "selfkd", "messages": messages[1:], "max_tokens": 2})[0] == 200
