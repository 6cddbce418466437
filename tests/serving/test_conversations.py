"""System messages and earlier turns: the prompt is that of the model's chat template, in both modalities."""

import pytest
from examples import tone, toy_examples
from serving import (
    PNG,
    WAV,
    assert_refused,
    audio_file,
    audio_part,
    client,
    image_part,
    png_bytes,
    post_as_one_batch,
    request,
    served,
)

from selfkd.evaluation.backends.endpoint import user_message
from selfkd.model.prompts import Turn

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


def mixed_turns(number):
    """(messages, the arguments of `encode_queries`) of a conversation whose turns have their media in other places
    with each `number`, all of them with audio: first an instruction, a clip and an answer format."""
    examples = toy_examples(3)
    images = [example.load_image() for example in examples]
    clips = [example.samples() for example in examples]
    image_parts = [user_message(example, "audio")["content"][0] for example in examples]
    clip_parts = [audio_part(audio_file(samples, 16_000, subtype="FLOAT")) for samples in clips]
    first = Turn(clips[0], "a red circle", "Look. ", " Be brief.")
    user_parts = [[image_parts[0], first.instruction, clip_parts[0], first.answer_format]]
    shown, history, query = [images[0]], [first], {"text": "How many are there?"}
    if number:  # another image and a text query, after it
        user_parts.append(["And there?", image_parts[1]])
        history.append(Turn("And there?", "no"))
        shown.append(images[1])
    if number == 2:
        user_parts.append(["Answer this: ", clip_parts[2], " One word.", image_parts[2]])
        shown.append(images[2])
        query = {"audio": clips[2], "instruction": "Answer this: ", "answer_format": " One word."}
    else:
        user_parts.append([query["text"]])
        shown.append(None)
    messages = []
    for parts, turn in zip(user_parts, [*history, None], strict=True):
        messages += request(*parts)["messages"]
        messages += [{"role": "assistant", "content": turn.response}] if turn else []
    return messages, {"images": [shown], "history": history, **query}


def test_media_in_every_turn_equal_the_models_own_interface(parts, server):
    model, processor = parts
    for number in range(3):
        messages, arguments = mixed_turns(number)
        inputs = processor.encode_queries(**arguments)
        assert inputs["prefix_audio_inputs"]
        ids = model.generate_responses(**inputs, max_new_tokens=12, do_sample=False)
        response = complete(server, messages)
        assert response.choices[0].message.content == processor.response_texts(ids)[0]
        without = [m if m["role"] != "user" else request("What?")["messages"][0] for m in messages]
        assert response.usage.prompt_tokens > complete(server, without).usage.prompt_tokens + 16 * (1 + number)


def test_a_batch_of_mixed_turns_equals_each_request(parts, gate):
    """One, two and three images, one and two clips, in the prefix and after it."""
    bodies = [{"model": "selfkd", "max_tokens": 8, "messages": mixed_turns(number)[0]} for number in range(3)]
    bodies.append(request(*bodies[2]["messages"][-1]["content"], max_tokens=8))  # a single turn
    with served(parts, batch_wait_seconds=0.0) as running:
        responses = post_as_one_batch(running, gate, bodies)
        assert gate.sizes == [1, 4]
        for body, (status, _, together) in zip(bodies, responses, strict=True):
            assert status == 200 and together["choices"] == running.post(body)[2]["choices"]


def test_a_batch_has_no_more_clips_than_requests(parts, gate):
    """Of one, one, two and one clips: a third does not fit after the first two."""
    conversations = [mixed_turns(number)[0] for number in (0, 0, 2, 0)]
    with served(parts, batch_wait_seconds=0.0, max_batch=3) as running:
        bodies = [{"model": "selfkd", "max_tokens": 2, "messages": messages} for messages in conversations]
        assert [status for status, _, _ in post_as_one_batch(running, gate, bodies)] == [200] * 4
        assert sum(gate.sizes) == 5 and len(gate.sizes) == 3


def test_limits_hold_for_all_turns_together(parts):
    """Exactly the limit is accepted; one sample or pixel more is refused, and names its turn."""

    def chat(*turns):
        messages = []
        for turn in turns:
            messages += [*request(*turn)["messages"], {"role": "assistant", "content": "yes"}]
        return {"model": "selfkd", "max_tokens": 2, "messages": messages[:-1]}

    def clip(seconds):
        return audio_part(audio_file(tone(seconds), 16_000))

    def image(width, height):
        return image_part(png_bytes(width, height))

    with served(parts, max_audio_seconds=1.0, max_pixels=10_000) as running:
        assert running.post(chat([clip(0.5)], [clip(0.5)]))[0] == 200
        refused = running.post(chat(["First:", clip(0.5)], ["?"], ["And:", clip(0.6)]))
        message = (
            r"^messages.4.content.1.input_audio: over the limit of 0.5 s \(0.5 s of audio of other turns count too"
        )
        assert_refused(refused, 400, message)
        refused = running.post(chat([clip(1)], [clip(0.1)]))
        assert_refused(refused, 400, "^messages.2.content.0.input_audio: the clips before it have 1 s, all that")
        assert running.post(chat([image(50, 100), "?"], [image(100, 50), "?"]))[0] == 200
        refused = running.post(chat([image(50, 100), "?"], [image(101, 50), "?"]))
        message = r"^messages.2.content.0.image_url: 101 x 50 pixels are too many, at most 5000 .*5000 pixels of other"
        assert_refused(refused, 400, message)
        refused = running.post(chat([image(100, 100), "?"], [image(1, 1), "?"]))
        assert_refused(refused, 400, "^messages.2.content.0.image_url: the images before it have 10000 pixels, all")


def test_an_image_in_a_later_turn_is_not_one_in_the_first(server):
    red, other = PNG, user_message(toy_examples(1)[0], "text")["content"][0]
    yes = {"role": "assistant", "content": "yes"}
    first = [*request(red, "Red?")["messages"], yes, *request(other, WAV)["messages"]]
    swapped = [*request(other, "Red?")["messages"], yes, *request(red, WAV)["messages"]]
    counts = [complete(server, messages).usage.prompt_tokens for messages in (first, swapped)]
    assert counts[0] == counts[1] > complete(server, first[2:]).usage.prompt_tokens + 16
