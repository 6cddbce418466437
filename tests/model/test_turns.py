"""Clips and images in earlier turns: the shared prefix holds them, and gives what the standard path gives."""

import pytest
import torch
from examples import tone, toy_examples
from hypothesis import given
from hypothesis import strategies as st
from native_models import NATIVE
from vlm_backbones import (
    BACKBONES,
    IMAGE,
    PAD,
    VISION_END,
    VISION_START,
    VOCABULARY,
    joined,
    one_image,
    padded_left,
    padded_right,
)

from selfkd.errors import InputError
from selfkd.model.control_tokens import Template
from selfkd.model.lora import adapter_parameters
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.prompts import EncodedAudio, Prompt, align_prefixes, common_length
from selfkd.training.align import AlignConfig, assemble

CLIP = VOCABULARY  # the audio token, beyond the VLM's vocabulary
SETTINGS = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}
SETTINGS |= {"suppress_tokens": [IMAGE]}  # which would need an image


def image(count):
    return [VISION_START, *[IMAGE] * count, VISION_END]


@pytest.mark.parametrize("projector", ["stack", "ctc"])
@pytest.mark.parametrize("name", BACKBONES)
def test_clips_in_the_shared_prefix_equal_standard_rows(name, projector):
    """Two prefixes of unequal length, one with its clip before the image; of each a query with a clip and one without.
    The third prefix has no clip."""
    model, image_inputs, tokens = joined(name, projector)
    torch.manual_seed(1)
    lengths = torch.tensor([60, 24, 41, 33, 52])
    mask = (torch.arange(60) < lengths[:, None]).long()
    features = torch.randn(5, 80, 60) * mask[:, None]
    prefixes = [[5, *image(tokens[0]), 6, CLIP, 7, 8], [9, CLIP, 10, *image(tokens[1]), 11, CLIP, 12, 13, 14], [15, 16]]
    suffixes = [[CLIP, 20, 21], [30, 31], [CLIP, 32], [33, 34, 35], [36, 37]]
    group, in_prefix, of_suffix = [0, 0, 1, 1, 2], [0, 1, 2], [3, 4]
    own = [(0, 3), (0,), (1, 2, 4), (1, 2), ()]  # the clips of each row
    clips = {"input_features": features, "feature_attention_mask": mask}

    def some(numbers):
        return {name: values[list(numbers)] for name, values in clips.items()}

    ids, prefix_mask = padded_left(prefixes)
    suffix_ids, suffix_mask = padded_right(suffixes)
    has_audio = torch.tensor([bool(numbers) for numbers in own])
    batch = ids, prefix_mask, torch.tensor(group), suffix_ids, suffix_mask, image_inputs, some(of_suffix), has_audio
    found = model.generate_responses(*batch, some(in_prefix), **SETTINGS)
    for row, (g, suffix) in enumerate(zip(group, suffixes, strict=True)):
        whole = torch.tensor([prefixes[g] + suffix])
        images = one_image(image_inputs, g, whole) if g < 2 else {}
        audio = some(own[row]) if own[row] else {}
        expected = model.generate(input_ids=whole, attention_mask=torch.ones_like(whole), **images, **audio, **SETTINGS)
        assert found[row].tolist() == expected[0, whole.shape[1] :].tolist(), row


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """The tiny model with adapters that change its output, and its processor."""
    model, processor = assemble(AlignConfig([], tmp_path_factory.mktemp("adapted"), projector="stack"))
    model.add_llm_adapters(r=4, lora_alpha=8)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(model.vlm):
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval(), processor


def messages_of(system, images, turns, query):
    """The conversation as `apply_chat_template` takes it."""
    messages = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    for one, (query_of_turn, response) in zip(images, [*turns, (query, None)], strict=True):
        content = [{"type": "image", "image": one}] if one is not None else []
        is_text = isinstance(query_of_turn, str)
        content.append(
            {"type": "text", "text": query_of_turn} if is_text else {"type": "audio", "audio": query_of_turn}
        )
        messages.append({"role": "user", "content": content})
        if response is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": response}]})
    return messages


GREEDY = {"max_new_tokens": 8, "do_sample": False}


@pytest.mark.parametrize("with_adapters", [False, True])
def test_earlier_turns_equal_the_chat_template(parts, adapted, with_adapters):
    """Clips and images in any turn: the ids and the responses are those of `apply_chat_template` and `generate`; both
    modalities of the last query share all before it."""
    model, processor = adapted if with_adapters else parts
    examples = toy_examples(3)
    scenes = [e.load_image() for e in examples]
    turns = [(examples[0].samples(), "a red circle"), ("And there?", "no")]
    images = [scenes[0], scenes[1], None]
    query, clip = "How many are there?", tone(0.7)
    inputs = processor.encode_queries([images], [query, None], [None, clip], system="Answer in a word.", history=turns)
    assert inputs["group"].tolist() == [0, 0] and len(inputs["prefix_ids"]) == 1
    assert len(inputs["prefix_audio_inputs"]["input_features"]) == len(inputs["audio_inputs"]["input_features"]) == 1
    responses = processor.response_texts(model.generate_responses(**inputs, **GREEDY))
    for row, query_of_turn in enumerate((query, clip)):
        rendered = messages_of("Answer in a word.", images, turns, query_of_turn)
        settings = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        standard = processor.apply_chat_template(rendered, **settings)
        ids = standard["input_ids"]
        suffix = inputs["suffix_ids"][row][inputs["suffix_mask"][row].bool()]
        assert [*inputs["prefix_ids"][0].tolist(), *suffix.tolist()] == ids[0].tolist()
        standard = {n: v for n, v in standard.items() if n != "num_patches"}
        new = model.generate(**standard, eos_token_id=[processor.end_id], **GREEDY)[:, ids.shape[1] :]
        assert processor.response_texts(new)[0] == responses[row]


def test_queries_that_differ_in_an_earlier_clip_share_all_before_it(processor):
    """The placeholder of another clip is another input, although its id is the same."""
    image = processor.encode_image(toy_examples(1)[0].load_image(), history=[("What?", "yes")])
    clips = [processor.encode_audio(tone(seconds)) for seconds in (0.5, 0.6)]
    histories = [[(query, "a star")] for query in ("Where is it?", *clips)]
    prompts = [processor.text_prompt("Why?", processor.with_history(image, history)) for history in histories]
    aligned = align_prefixes(prompts, processor.clip_token_id)
    first = processor.text_ids(image.pieces[0])
    assert all(p.prefix_ids == first for p in aligned)
    assert all(
        p.prefix_ids + p.suffix_ids == q.prefix_ids + q.suffix_ids for p, q in zip(aligned, prompts, strict=True)
    )
    same = align_prefixes([prompts[1], processor.audio_prompt(clips[1], processor.with_history(image, histories[1]))],
                          processor.clip_token_id)  # fmt: skip
    assert same[0].prefix_ids == prompts[1].prefix_ids and processor.audio_token_id in same[0].prefix_ids


def test_images_of_a_conversation_are_one_for_each_turn(processor):
    with pytest.raises(InputError, match="images: 1 for 1 turns and a query"):
        processor.encode_queries([[None]], "What?", history=[("Where?", "left")])


@pytest.mark.parametrize("name", list(NATIVE))
def test_native_model_takes_clips_in_earlier_turns(name):
    torch.manual_seed(0)
    vlm, own_processor = NATIVE[name]()
    model, processor = OmniModel.from_native(vlm).eval(), OmniProcessor(own_processor)
    example = toy_examples(1)[0]
    image = processor.encode_image(example.load_image(), history=[("", "")])
    history = [(processor.encode_audio(tone(0.6)), "yes")]
    image = processor.with_history(image, history)
    prompts = [processor.text_prompt("Where?", image), processor.audio_prompt(processor.encode_audio(tone(0.9)), image)]
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    batch = processor.collate(align_prefixes(prompts, processor.clip_token_id))
    assert batch["group"].tolist() == [0, 0] and batch["prefix_audio_inputs"]
    found = model.generate_responses(**batch, **settings)
    for prompt, response in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt.prefix_ids + prompt.suffix_ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if model.config.vlm_config.model_type == "gemma4":
            inputs["mm_token_type_ids"] = (ids == model.config.vlm_config.image_token_id).int()
        expected = model.vlm.generate(**inputs, **prompt.image_inputs, **prompt.audio_inputs, **settings)
        assert response.tolist() == expected[0, ids.shape[1] :].tolist()


TOKENS = st.lists(st.sampled_from([3, 5, CLIP]), max_size=8)


@given(st.lists(TOKENS, min_size=1, max_size=4), st.data())
def test_longest_common_prefix_is_common_and_cannot_be_longer(rows, data):
    """Of rows with clips: equal ids with equal clips, and beyond it, the next of some row differs."""
    known = [EncodedAudio(Template("<speech>"), {}) for _ in range(2)]
    prompts = []
    for ids in rows:
        clips = tuple(known[data.draw(st.integers(0, 1))] for _ in range(ids.count(CLIP)))
        prompts.append(Prompt(list(ids), [7], {}, clips))
    aligned = align_prefixes(prompts, CLIP)
    cut = len(aligned[0].prefix_ids)
    pairs = []  # what the LLM gets at each position, found without `token_keys`
    for prompt in prompts:
        clips = iter(prompt.clips)
        pairs.append([(i, id(next(clips))) if i == CLIP else (i, -1) for i in prompt.prefix_ids])
    assert all(row[:cut] == pairs[0][:cut] for row in pairs)
    assert any(len(row) == cut for row in pairs) or len({row[cut] for row in pairs}) > 1
    for before, after in zip(prompts, aligned, strict=True):
        assert after.prefix_ids + after.suffix_ids == before.prefix_ids + before.suffix_ids
        assert after.prefix_ids == aligned[0].prefix_ids and after.clips == before.clips


@given(st.lists(st.integers(0, 2), max_size=9), st.lists(st.integers(0, 2), max_size=9))
def test_common_length_is_that_of_a_plain_loop(a, b):
    plain = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common_length(a, b) == common_length(b, a) == plain
