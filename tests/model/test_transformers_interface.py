"""`OmniModel` and `OmniProcessor` as any model and processor of transformers: what its own common tests ask of a model,
and inputs of several images, clips and turns."""

from copy import deepcopy
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile
import torch
from examples import tone
from native_models import NATIVE
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM, AutoProcessor, GenerationConfig, StoppingCriteria, pipeline
from transformers.generation.streamers import BaseStreamer
from transformers.pipelines import any_to_any

from selfkd.data.dataset import ExampleFolder
from selfkd.demo import bundled_voice
from selfkd.errors import InputError
from selfkd.model.checkpoint import load_model
from selfkd.model.input_error import InputError as CarriedInputError
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.queries import AUDIO_TOKEN
from selfkd.model.tiny import TINY_MODELS

GREEDY = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture(scope="module", params=TINY_MODELS)
def tiny(request):
    return load_model(request.param)


@pytest.fixture(scope="module")
def ctc():
    return load_model(TINY_MODELS[0])


def user(*parts):
    kinds = {str: "text", np.ndarray: "audio"}
    content = [{"type": (kind := kinds.get(type(part), "image")), kind: part} for part in parts]
    return {"role": "user", "content": content}


def kokoro_examples(count):
    return [ExampleFolder(bundled_voice("kokoro"))[i] for i in range(count)]


def chats(count=3):
    """One turn each: an image and a clip."""
    return [[user(example.load_image(), example.samples())] for example in kokoro_examples(count)]


def encoded(processor, conversations, side="left", **kwargs):
    return processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": side},
        **kwargs,
    )


def new_tokens(model, inputs, **settings):
    return model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]


# the processor


def test_chat_template_gives_the_ids_and_features_of_queries(tiny):
    """Both interfaces put a clip where the text of a query would be."""
    _, processor = tiny
    example = kokoro_examples(1)[0]
    image, samples = example.load_image(), example.samples()
    query = processor.audio_prompt(processor.encode_audio(samples), processor.encode_image(image))
    inputs = encoded(processor, [[user(image, samples)]])
    assert inputs["input_ids"].tolist() == [query.prefix_ids + query.suffix_ids]
    assert torch.equal(inputs["pixel_values"], query.image_inputs["pixel_values"])
    assert all(torch.equal(inputs[name], values) for name, values in query.audio_inputs.items())
    assert set(inputs) == set(processor.model_input_names) - {"token_type_ids"}
    text = encoded(processor, [[user(image, example.question)]])
    query = processor.text_prompt(example.question, processor.encode_image(image))
    assert text["input_ids"].tolist() == [query.prefix_ids + query.suffix_ids] and "input_features" not in text


@pytest.mark.parametrize("side", ["left", "right"])
def test_responses_are_those_of_queries_in_a_batch(tiny, side):
    model, processor = tiny
    prompts = [
        processor.audio_prompt(processor.encode_audio(e.samples()), processor.encode_image(e.load_image()))
        for e in kokoro_examples(3)
    ]
    settings = GREEDY | {"eos_token_id": processor.end_id, "pad_token_id": processor.pad_id}
    expected = model.generate_responses(**processor.collate(prompts), **settings)
    found = new_tokens(model, encoded(processor, chats(), side), **settings)
    assert found.tolist() == expected.tolist()
    assert processor.batch_decode(found, skip_special_tokens=True) == processor.response_texts(expected)


def test_several_images_clips_and_turns_in_any_order(tiny, tmp_path):
    """Clips and images are taken in the order of their placeholders, from memory and from files."""
    _, processor = tiny
    first, second = kokoro_examples(2)
    clips = [tone(0.4), tone(0.7, 330), tone(0.3, 440)]
    soundfile.write(tmp_path / "clip.wav", np.stack([clips[2]] * 2, axis=1), 16_000, subtype="FLOAT")
    second.load_image().save(tmp_path / "image.png")
    conversation = [
        {"role": "system", "content": [{"type": "text", "text": "Answer in one word."}]},
        user(clips[0], first.load_image(), "and", clips[1]),
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        {
            "role": "user",
            "content": [
                {"type": "image", "path": str(tmp_path / "image.png")},
                {"type": "audio", "path": str(tmp_path / "clip.wav")},
            ],
        },
    ]
    inputs = encoded(processor, [conversation, chats(1)[0], [user("no clip")]])
    text = processor.tokenizer.decode(inputs["input_ids"][0][inputs["attention_mask"][0] == 1])
    assert text.count(AUDIO_TOKEN) == 3 and text.index("Answer in one word.") < text.index(AUDIO_TOKEN)
    assert text.index(AUDIO_TOKEN) < text.index("<IMG_CONTEXT>") < text.index("and") < text.index("yes")
    assert inputs["pixel_values"].shape[0] == 3 and inputs["input_features"].shape[0] == 4
    expected = [processor.encode_audio(clip).audio_inputs["input_features"][0] for clip in clips]
    for features, mask, own in zip(inputs["input_features"], inputs["feature_attention_mask"], expected, strict=False):
        torch.testing.assert_close(features[:, mask.bool()], own, atol=2e-4, rtol=0)


def test_clips_of_a_call_are_in_the_order_of_their_placeholders(ctc):
    _, processor = ctc
    clips = [tone(0.3), tone(0.5), tone(0.4)]
    texts = [f"a {AUDIO_TOKEN} b {AUDIO_TOKEN}", f"{AUDIO_TOKEN} c"]
    settings = {"return_tensors": "pt", "padding": True, "padding_side": "right"}
    flat = processor(text=texts, audio=clips, **settings)
    nested = processor(text=texts, audio=[clips[:2], clips[2:]], **settings)
    assert all(torch.equal(flat[name], nested[name]) for name in flat)
    frames = [processor.encode_audio(clip).audio_inputs["input_features"].shape[2] for clip in clips]
    assert flat["feature_attention_mask"].sum(-1).tolist() == frames
    assert flat["attention_mask"][1].tolist() == sorted(flat["attention_mask"][1].tolist(), reverse=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"text": f"a {AUDIO_TOKEN}"}, "audio: the texts have 1 placeholders <speech> for 0 clips"),
        ({"text": "a", "audio": tone(0.3)}, "audio: the texts have 0 placeholders <speech> for 1 clips"),
        ({"text": ["a", AUDIO_TOKEN], "audio": [[tone(0.3)], []]}, "audio: row 0 of the texts has 0 placeholders"),
        ({"text": AUDIO_TOKEN, "audio": np.zeros((2, 8000))}, r"audio: samples of shape \(2, 8000\), expected one row"),
        ({"text": AUDIO_TOKEN, "audio": tone(0.3), "sampling_rate": 8000}, "sampling_rate: 8000: clips have 16000"),
        ({"text": AUDIO_TOKEN, "audio": tone(31)}, "clip 0: field audio: 31.0 s is over the encoder's 30 s"),
        ({"text": AUDIO_TOKEN, "audio": "none.wav"}, "audio: none.wav: No such file"),
    ],
)
def test_wrong_inputs_of_the_processor_are_refused_in_one_line(ctc, call, message):
    with pytest.raises(InputError, match=message) as refused:
        ctc[1](**call, return_tensors="pt", padding=True)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.pop("input_features"), "0 clips for 2 placeholders"),
        (lambda i: i.update(input_features=i["input_features"][:1]), "1 clips for 2 placeholders"),
        (lambda i: i.update(input_ids=i["input_ids"].clamp(max=10)), "2 clips for 0 placeholders"),
        (lambda i: i.update(position_ids=torch.zeros_like(i["input_ids"])), "position_ids: the number of audio"),
        (
            lambda i: i.update({k: i[k].repeat(1, 300) for k in ("input_ids", "attention_mask")}, input_features=None),
            "0 clips for 600 placeholders",
        ),
    ],
)
@pytest.mark.parametrize("method", ["forward", "generate"])
def test_wrong_inputs_of_the_model_are_refused_in_one_line(ctc, change, message, method):
    model, processor = ctc
    inputs = dict(encoded(processor, chats(2)))
    change(inputs)
    with pytest.raises(InputError, match=message):
        getattr(model, method)(**inputs)


def test_rows_longer_than_the_context_are_refused(ctc, monkeypatch):
    model, processor = ctc
    inputs, text = encoded(processor, chats(1)), encoded(processor, [[user("word " * 50)]])
    monkeypatch.setattr(model.config.get_text_config(), "max_position_embeddings", inputs["input_ids"].shape[1])
    for given in (inputs, text):
        with pytest.raises(ValueError, match=r"input_ids: \d+ tokens, audio embeddings included, exceed the model's"):
            model(**given)


def test_errors_of_carried_files_are_those_of_the_package():
    assert CarriedInputError is InputError


# generation


class Recorded(BaseStreamer):
    def __init__(self):
        self.values, self.has_ended = [], False

    def put(self, value):
        self.values += value.flatten().tolist()

    def end(self):
        self.has_ended = True


def test_streamer_gets_the_prompt_as_given_and_each_token(tiny):
    model, processor = tiny
    inputs, streamer = encoded(processor, chats(1)), Recorded()
    found = model.generate(**inputs, **GREEDY, streamer=streamer)
    assert streamer.values == found[0].tolist() and streamer.has_ended


def test_stopping_criteria_end_each_row_on_its_own(tiny):
    model, processor = tiny
    inputs = encoded(processor, chats(2))
    whole = new_tokens(model, inputs, **GREEDY)

    class SecondRowAfterTwo(StoppingCriteria):
        def __init__(self):
            self.calls = 0

        def __call__(self, input_ids, scores, **kwargs):
            self.calls += 1
            return torch.tensor([False, self.calls == 2])

    found = new_tokens(model, inputs, **GREEDY, stopping_criteria=[SecondRowAfterTwo()], pad_token_id=0)
    assert found[0, :4].tolist() == whole[0, :4].tolist()
    assert found[1, :2].tolist() == whole[1, :2].tolist() and not found[1, 2:].any()


def test_variants_of_generation_agree(tiny):
    model, processor = tiny
    inputs = encoded(processor, chats(2))
    greedy = new_tokens(model, inputs, **GREEDY).tolist()
    for settings in (
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"do_sample": True, "top_k": 1},
        {"generation_config": GenerationConfig(max_new_tokens=8, do_sample=False, **ends_of(model))},
    ):
        assert new_tokens(model, inputs, **GREEDY | settings).tolist() == greedy, settings
    found = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
    assert found.sequences[:, inputs["input_ids"].shape[1] :].tolist() == greedy
    assert found.logits[0].argmax(-1).tolist() == [row[0] for row in greedy]
    torch.manual_seed(0)
    first = new_tokens(model, inputs, max_new_tokens=8, do_sample=True, num_return_sequences=3, temperature=5.0)
    torch.manual_seed(0)
    again = new_tokens(model, inputs, max_new_tokens=8, do_sample=True, num_return_sequences=3, temperature=5.0)
    assert len(first) == 6 and torch.equal(first, again) and len(set(map(tuple, first.tolist()))) > 2


def ends_of(model):
    return {"eos_token_id": model.generation_config.eos_token_id, "pad_token_id": 0}


def test_responses_end_with_the_turn_in_a_saved_checkpoint_too(tiny, parts, tmp_path):
    """Also where the VLM's own generation config names another token."""
    for model, processor in (tiny, parts):
        assert processor.end_id in model.generation_config.eos_token_id
    model = deepcopy(tiny[0])
    model.generation_config.eos_token_id = 7
    model.stop_at(tiny[1].end_id)
    model.save_pretrained(tmp_path)
    assert OmniModel.from_pretrained(tmp_path).generation_config.eos_token_id == sorted({7, tiny[1].end_id})


def test_forward_with_a_cache_continues_a_row(tiny):
    """A second turn with a clip of its own after the cache of the first."""
    model, processor = tiny
    example = kokoro_examples(1)[0]
    whole = encoded(processor, [[user(example.load_image(), tone(0.4)), user("and", tone(0.6, 330))]])
    cut = whole["input_ids"][0].tolist().index(processor.audio_token_id) + 1
    clips = {name: whole[name] for name in ("input_features", "feature_attention_mask")}
    with torch.no_grad():
        expected = model(**whole).logits
        first = model(
            input_ids=whole["input_ids"][:, :cut],
            pixel_values=whole["pixel_values"],
            use_cache=True,
            **{name: values[:1] for name, values in clips.items()},
        )
        second = model(
            input_ids=whole["input_ids"][:, cut:],
            attention_mask=torch.ones(1, first.logits.shape[1] + whole["input_ids"].shape[1] - cut).long(),
            past_key_values=first.past_key_values,
            **{name: values[1:] for name, values in clips.items()},
        )
    found = torch.cat([first.logits, second.logits], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_pipeline_any_to_any(ctc, monkeypatch):
    if find_spec("torchvision") is None:  # the pipeline asks for it where a model takes images, and does not use it
        monkeypatch.setattr(any_to_any, "requires_backends", lambda *_: None)
    model, processor = ctc
    run = pipeline("any-to-any", model=model, processor=processor, device="cpu")
    chat = chats(1)[0]
    expected = processor.batch_decode(new_tokens(model, encoded(processor, [chat]), **GREEDY), skip_special_tokens=True)
    found = run(text=chat, return_full_text=False, max_new_tokens=8, generate_kwargs={"do_sample": False})
    assert [entry["generated_text"] for entry in found] == expected


# the model


def test_features_of_images_and_clips(tiny):
    model, processor = tiny
    inputs = encoded(processor, chats(2))
    with torch.no_grad():
        clips = model.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"])
        audio = model.encode_audio(inputs["input_features"], inputs["feature_attention_mask"])
        images = model.get_image_features(inputs["pixel_values"]).pooler_output
    assert [len(clip) for clip in clips.pooler_output] == audio.mask.sum(-1).tolist()
    assert torch.equal(torch.cat(clips.pooler_output), audio.vectors[audio.mask])
    assert images.shape[-1] == clips.last_hidden_state.shape[-1] == model.config.get_text_config().hidden_size


def test_saved_model_has_the_same_bytes_and_logits(tiny, tmp_path):
    model, processor = tiny
    model.save_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "first")
    again = AutoModelForMultimodalLM.from_pretrained(tmp_path / "first").eval()
    assert isinstance(again, OmniModel)
    again.save_pretrained(tmp_path / "second")
    ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert ours == theirs and load_file(tmp_path / "first" / "model.safetensors")
    loaded = AutoProcessor.from_pretrained(tmp_path / "first")
    assert isinstance(loaded, OmniProcessor)
    inputs = encoded(loaded, chats(2))
    assert all(torch.equal(values, inputs[name]) for name, values in encoded(processor, chats(2)).items())
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)
    assert again.generation_config.to_diff_dict() == model.generation_config.to_diff_dict()


def test_generation_config_that_transformers_refuses_does_not_cost_the_weights(ctc, tmp_path):
    model = deepcopy(ctc[0])
    model.generation_config = GenerationConfig(eos_token_id=[2, 3], pad_token_id=0, temperature=0.1)
    with pytest.raises(ValueError, match="temperature"):
        model.generation_config.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert OmniModel.from_pretrained(tmp_path).generation_config.eos_token_id == [2, 3]


def test_resized_embedding_keeps_the_logits(ctc, tmp_path):
    model, processor = deepcopy(ctc[0]), ctc[1]
    inputs, before = encoded(processor, chats(1)), model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        expected = model(**inputs).logits
        model.resize_token_embeddings(before + 16)
        found = model(**inputs).logits
    assert found.shape[-1] == before + 16 and torch.equal(found[..., :before], expected)
    model.save_pretrained(tmp_path)
    again = OmniModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, found)


@pytest.mark.parametrize("adapters", [False, True])
def test_gradients_are_the_same_with_activation_checkpointing(tiny, adapters):
    model, processor = deepcopy(tiny[0]), tiny[1]
    if adapters:
        with_random_adapters(model)
    inputs = encoded(processor, chats(2))
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] >= 400, -100)
    model.requires_grad_(True).train()
    model.speech_encoder.eval()

    def gradients():
        model.zero_grad()
        model(**inputs, labels=labels, use_cache=False).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    model.gradient_checkpointing_enable()
    model.train()
    model.speech_encoder.eval()
    found = gradients()
    assert found.keys() == expected.keys() and any("projector" in name for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


# LoRA for audio queries


def with_random_adapters(model):
    torch.manual_seed(0)
    model.add_llm_adapters(r=4, lora_alpha=8)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.fixture(scope="module")
def adapted(ctc):
    model = deepcopy(ctc[0])
    with_random_adapters(model)
    return model.eval(), ctc[1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_adapters_are_active_from_the_first_clip_on(adapted, ctc, side):
    """As with the shared prefix: the image before the clip, and rows without clips, have the logits of the VLM."""
    model, processor = adapted
    examples = kokoro_examples(3)
    mixed = [*chats(2), [user(examples[2].load_image(), examples[2].question)]]
    inputs = encoded(processor, mixed, side)
    with torch.no_grad():
        found, plain = model(**inputs).logits, ctc[0](**inputs).logits
    is_text = inputs["attention_mask"][2].bool()
    width = inputs["input_ids"].shape[1]
    text = slice(found.shape[1] - width, None) if side == "left" else slice(width)
    assert torch.equal(found[2, text][is_text], plain[2, text][is_text])
    changed = (found[0] != plain[0]).any(-1)
    first = inputs["input_ids"][0].tolist().index(processor.audio_token_id)
    first += text.start or 0 if side == "left" else 0
    assert not changed[inputs["attention_mask"][0].argmax() : first].any() or side == "left"
    assert changed[-3 if side == "left" else first + 1]
    queries = [
        processor.audio_prompt(processor.encode_audio(e.samples()), processor.encode_image(e.load_image()))
        for e in examples[:2]
    ] + [processor.text_prompt(examples[2].question, processor.encode_image(examples[2].load_image()))]
    settings = GREEDY | {"eos_token_id": processor.end_id, "pad_token_id": processor.pad_id}
    expected = model.generate_responses(**processor.collate(queries), **settings)
    assert new_tokens(model, inputs, **settings).tolist() == expected.tolist()
    without = ctc[0].generate_responses(**processor.collate(queries), **settings)
    assert without[:2].tolist() != expected[:2].tolist() and without[2].tolist() == expected[2].tolist()


def test_adapters_that_cannot_be_masked_are_refused(adapted, ctc):
    model, processor = adapted
    inputs = encoded(processor, chats(1))
    with torch.no_grad():
        cache = ctc[0](**inputs, use_cache=True).past_key_values
    with pytest.raises(InputError, match="past_key_values: with adapters"):
        model(input_ids=torch.tensor([[5]]), past_key_values=cache)
    model = deepcopy(ctc[0])
    model.add_llm_adapters(r=2, use_dora=True)
    with pytest.raises(InputError, match="llm_lora: adapters of experts, and DoRA"):
        model(**inputs)


# native omni models


@pytest.fixture(scope="module", params=list(NATIVE))
def native(request):
    torch.manual_seed(0)
    vlm, processor = NATIVE[request.param]()
    return OmniModel.from_native(vlm).eval(), OmniProcessor(processor)


def test_native_model_is_transformers_own(native):
    """The inputs of its own processor, its own logits, and the tokens of its own `generate`."""
    model, processor = native
    conversations = chats(2)
    inputs = encoded(processor, conversations)
    own = encoded(processor.vlm_processor, conversations)
    assert inputs.keys() == own.keys() and all(torch.equal(inputs[name], own[name]) for name in own)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, model.vlm(**own).logits)
    settings = GREEDY | {"eos_token_id": None, "pad_token_id": processor.pad_id}
    assert torch.equal(model.generate(**inputs, **settings), model.vlm.generate(**own, **settings))
    right = encoded(processor, conversations, "right")
    assert new_tokens(model, right, **settings).tolist() == new_tokens(model, inputs, **settings).tolist()


def test_adapters_of_a_native_model_are_active_from_the_first_clip_on(native):
    model, processor = deepcopy(native[0]), native[1]
    with_random_adapters(model)
    example = kokoro_examples(1)[0]
    inputs = encoded(processor, [chats(1)[0], [user(example.load_image(), example.question)]])
    query = processor.audio_prompt(
        processor.encode_audio(example.samples()), processor.encode_image(example.load_image())
    )
    settings = GREEDY | {"eos_token_id": None, "pad_token_id": processor.pad_id}
    if any(type(module).__name__ == "ParamWrapper" for module in model.vlm.modules()):  # of a mixture's experts
        with pytest.raises(InputError, match="llm_lora: adapters of experts"):
            model(**inputs)
        return
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits[1], native[0](**inputs).logits[1])
    expected = model.generate_responses(**processor.collate([query]), **settings)
    assert new_tokens(model, inputs, **settings)[0].tolist() == expected[0].tolist()


# conversations with a shared prefix

SYSTEM, HISTORY = "Answer in one word.", [("Is there a circle?", "yes"), ("And <|im_end|> here?", "no")]


def conversation(image, query, history=HISTORY):
    """The same conversation as messages of the standard interface."""
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for turn in history
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    messages = [{"role": "system", "content": [{"type": "text", "text": SYSTEM}]}, *turns, user(query)]
    messages[1]["content"].insert(0, {"type": "image", "image": image})
    return messages


@pytest.mark.parametrize("with_turns", [False, True])
def test_conversations_have_the_ids_of_the_chat_template(tiny, with_turns):
    """A system message and earlier turns, in both modalities; the earlier turns are part of the shared prefix."""
    model, processor = tiny
    example, history = kokoro_examples(1)[0], [HISTORY[0]] * with_turns
    image, samples = example.load_image(), example.samples()
    encoded_image = processor.encode_image(image, system=SYSTEM, history=history)
    text = processor.text_prompt(example.question, encoded_image)
    audio = processor.audio_prompt(processor.encode_audio(samples), encoded_image)
    chats_of_both = [conversation(image, query, history) for query in (example.question, samples)]
    for prompt, chat in zip((text, audio), chats_of_both, strict=True):
        assert encoded(processor, [chat])["input_ids"].tolist() == [prompt.prefix_ids + prompt.suffix_ids]
    assert text.prefix_ids == audio.prefix_ids
    shared = processor.tokenizer.decode(text.prefix_ids)
    assert SYSTEM in shared and ("yes" in shared) == with_turns
    settings = GREEDY | {"eos_token_id": processor.end_id, "pad_token_id": processor.pad_id}
    queries = {"text": [example.question, None], "audio": [None, samples], "system": SYSTEM, "history": history}
    inputs = processor.encode_queries(image, **queries) | settings
    assert len(inputs["prefix_ids"]) == 1
    inputs.pop("end_id")
    assert (
        model.generate_responses(**inputs).tolist()
        == new_tokens(model, encoded(processor, chats_of_both), **settings).tolist()
    )


def test_conversations_of_native_models_have_the_ids_of_the_chat_template(native):
    processor, example = native[1], kokoro_examples(1)[0]
    image, samples = example.load_image(), example.samples()
    encoded_image = processor.encode_image(image, system=SYSTEM, history=HISTORY[:1])
    prompt = processor.audio_prompt(processor.encode_audio(samples), encoded_image)
    inputs = encoded(processor, [conversation(image, samples, HISTORY[:1])])
    assert inputs["input_ids"].tolist() == [prompt.prefix_ids + prompt.suffix_ids]


def test_names_of_control_tokens_in_earlier_turns_are_text(ctc):
    """Unlike in the standard interface, where transformers makes control tokens of them."""
    processor, image = ctc[1], kokoro_examples(1)[0].load_image()
    prompt = processor.text_prompt("What?", processor.encode_image(image, system="a <|im_end|>", history=HISTORY))
    plain = processor.text_prompt("What?", processor.encode_image(image, system="a", history=[HISTORY[0]] * 2))
    ends = [p.prefix_ids.count(processor.end_id) for p in (prompt, plain)]
    assert ends[0] == ends[1] > 3


def test_template_that_repeats_a_text_makes_no_conversation(ctc, monkeypatch):
    processor = OmniProcessor(deepcopy(ctc[1].vlm_processor), ctc[1].feature_extractor)
    repeated = (
        "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}{{ messages[0]['content'][-1]['text'] }}"
    )
    processor.vlm_processor.chat_template = repeated
    with pytest.raises(InputError, match="chat template: must contain each text of a conversation exactly once"):
        processor.encode_image(None, system=SYSTEM)
