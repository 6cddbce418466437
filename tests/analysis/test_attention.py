"""Recorded attention equals that of whole sequences with eager attention, for all VLM backbones, without a full matrix;
shares known by hand; the stage, interrupted and resumed."""

import json
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import toy_examples, training_start
from native_models import NATIVE, QWEN_TEMPLATE, QWEN_TOKENS, ids_of, tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageTextToText, Qwen2VLImageProcessorPil
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from vlm_backbones import qwen2_vl

from selfkd.analysis import analyze_attention as stage
from selfkd.analysis.analyze_attention import AttentionConfig, analyze_attention
from selfkd.analysis.attention import (
    CHUNK_ROWS,
    MEASURES,
    AttentionSums,
    attention_of_batch,
    attention_rows,
    image_map,
    recording,
)
from selfkd.analysis.forward import KEYS, TokenPositions, image_token, text_query
from selfkd.errors import InputError
from selfkd.model.image_processor import image_processor_class
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.training.align import AlignConfig, assemble
from selfkd.training.data import PairedCollator, paired_item
from tests.model.test_native_omni import plain_inputs


def tiny_qwen2_vl(folder):
    """A tiny Qwen2-VL with the bundled speech encoder: M-RoPE, grouped-query attention."""
    vlm_tokenizer = tokenizer(QWEN_TOKENS, QWEN_TEMPLATE)
    config = qwen2_vl()
    config.image_token_id, config.video_token_id = vlm_tokenizer.image_token_id, vlm_tokenizer.video_token_id
    config.vision_start_token_id = vlm_tokenizer.vision_bos_token_id
    for name, value in ids_of(vlm_tokenizer).items():
        setattr(config.text_config, name, value)
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 1024})
    processor = image_processor_class("qwen2_vl")(
        image_processor=images, tokenizer=vlm_tokenizer, chat_template=QWEN_TEMPLATE
    )
    processor.save_pretrained(folder / "vlm")
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder / "vlm")
    return assemble(AlignConfig([], folder, vlm=str(folder / "vlm"), projector="stack"))


def native(name):
    vlm, processor = NATIVE[name]()
    return OmniModel.from_native(vlm), OmniProcessor(processor)


@pytest.fixture(scope="module", params=["bundled", "Qwen2-VL", *NATIVE])
def backbone(request, parts, tmp_path_factory):
    """(model, processor) with attention that is far from uniform."""
    torch.manual_seed(0)
    if request.param == "bundled":
        model, processor = parts
    elif request.param == "Qwen2-VL":
        model, processor = tiny_qwen2_vl(tmp_path_factory.mktemp("backbone"))
    else:
        model, processor = native(request.param)
    if request.param != "bundled":
        with torch.no_grad():  # random weights of the usual size give nearly uniform attention
            for layer in model.vlm.get_decoder().layers:
                if hasattr(layer.self_attn, "q_proj"):
                    layer.self_attn.q_proj.weight.mul_(20)
    return model.eval(), processor


def batch_of(processor, examples):
    items = [paired_item(processor, e) for e in examples]
    questions = [text_query(processor, e, i) for e, i in zip(examples, items, strict=True)]
    return items, PairedCollator(processor)(items), questions


def examples_of_all_types():
    """Audio and questions of different length, two on one image, an instruction, an answer format."""
    examples = toy_examples(3)
    examples[1] = replace(examples[1], image=examples[0].image)
    examples[2] = replace(examples[2], instruction="Be brief.\n", answer_format="\nAnswer with one word.")
    return examples


def plain_attentions(model, item, modality):
    """Attention (L, H, T, T) of one whole sequence from transformers: eager, no cache, no padding."""
    ids = item.prefix_ids + getattr(item, f"{modality}_ids") + item.response_ids[:-1]
    if modality == "text" or model.is_native:
        audio = item.audio_inputs if modality == "audio" else {}
        return whole_attentions(model, plain_inputs(model, ids, item.image_inputs, audio))
    embeddings_SD = model.encode_audio(**item.audio_inputs)[0][0]
    at, word = ids.index(model.config.audio_token_id), ids[0]
    ids[at : at + 1] = [word] * len(embeddings_SD)

    def insert_audio_embeddings(_module, _inputs, embeddings):
        return torch.cat([embeddings[:, :at], embeddings_SD[None], embeddings[:, at + len(embeddings_SD) :]], dim=1)

    handle = model.get_input_embeddings().register_forward_hook(insert_audio_embeddings)
    try:
        return whole_attentions(model, plain_inputs(model, ids, item.image_inputs, {}))
    finally:
        handle.remove()


def whole_attentions(model, inputs):
    if "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == image_token(model)).int()
    with attention_implementation(model, "eager"):
        return torch.cat(model.vlm(**inputs, output_attentions=True).attentions)


@contextmanager
def attention_implementation(model, implementation):
    """Within the context the LLM uses this implementation."""
    llm = model.vlm.get_decoder()
    before = llm.config._attn_implementation
    llm.set_attn_implementation(implementation)
    try:
        yield
    finally:
        llm.set_attn_implementation(before)


def groups_by_hand(model, item, modality, question, length):
    """{role: positions in the whole sequence}, from the ids of the item only."""
    start, rows = len(item.prefix_ids), len(item.response_ids)
    ids = item.prefix_ids + getattr(item, f"{modality}_ids")
    extra = length - (len(ids) + rows - 1)  # audio embeddings beyond their one placeholder token
    if modality == "text":
        query = range(start + question.start, start + question.stop)
    else:
        audio = [i for i, token in enumerate(ids) if token == model.config.audio_token_id]
        query = range(audio[0], audio[-1] + 1 + extra)
    return {
        "image": [i for i, token in enumerate(ids) if token == image_token(model)],
        "query": list(query),
        "response": list(range(length - rows + 1, length)),
        "rows": list(range(length - rows, length)),
    }


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_shares_equal_those_of_whole_sequences(backbone, implementation):
    model, processor = backbone
    items, batch, questions = batch_of(processor, examples_of_all_types())
    assert batch["group"].tolist() == [0, 0, 1]
    last = len(model.vlm.get_decoder().layers) - 1

    def first_row_and_all(modality, continuation):
        query_BS = continuation.positions.query_BS.float()
        first_BS = query_BS * (query_BS.cumsum(-1) == 1)
        return torch.stack([first_BS, query_BS / query_BS.sum(-1, keepdim=True)], dim=-1)

    with attention_implementation(model, implementation):
        found = attention_of_batch(model, batch, questions, (0, last), first_row_and_all)
    for modality, by_item in found.items():
        for item, question, ours in zip(items, questions, by_item, strict=True):
            with torch.no_grad():
                whole_LHTT = plain_attentions(model, item, modality)
            at = groups_by_hand(model, item, modality, question, whole_LHTT.shape[-1])
            assert (ours.query_tokens, ours.image_tokens) == (len(at["query"]), len(at["image"]))
            for g, rows in enumerate((at["query"], at["rows"])):
                assert whole_LHTT[:, :, rows].std() > 1e-3, "nearly uniform: the test would show nothing"
                for k, name in enumerate(KEYS[:3]):
                    expected = whole_LHTT[:, :, rows][..., at[name]].sum(-1).mean(-1)
                    torch.testing.assert_close(ours.share_LHGK[:, :, g, k], expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(
                ours.share_LHGK.sum(-1), torch.ones(whole_LHTT.shape[:2])[..., None].expand(-1, -1, 2)
            )
            for layer in (0, last):
                expected = whole_LHTT[layer][:, at["query"]][..., at["image"]].mean((0, 1))
                torch.testing.assert_close(torch.tensor(ours.maps[layer]), expected, rtol=0, atol=1e-5)
            of_words = whole_LHTT[:, :, at["query"]][..., at["image"]].mean(1)
            expected_LWI = torch.stack([of_words[:, 0], of_words.mean(1)], dim=1)
            torch.testing.assert_close(ours.word_maps_LWI, expected_LWI, rtol=0, atol=1e-5)


def test_text_query_is_the_question(parts):
    _, processor = parts
    for example in examples_of_all_types():
        item = paired_item(processor, example)
        ids = item.text_ids[text_query(processor, example, item)]
        assert processor.tokenizer.decode(ids) == example.question


def test_uniform_attention_gives_the_share_of_the_keys(parts):
    """With zero queries each row attends uniformly to all earlier keys, so every share is known."""
    model, processor = deepcopy(parts[0]), parts[1]
    with torch.no_grad():
        for layer in model.vlm.get_decoder().layers:
            layer.self_attn.q_proj.weight.zero_()
            layer.self_attn.q_proj.bias.zero_()
    examples = toy_examples(2)
    items, batch, questions = batch_of(processor, examples)
    for modality, by_item in attention_of_batch(model, batch, questions).items():
        for item, question, ours in zip(items, questions, by_item, strict=True):
            length = len(item.prefix_ids) + len(getattr(item, f"{modality}_ids")) + len(item.response_ids) - 1
            length += ours.query_tokens - 1 if modality == "audio" else 0
            at = groups_by_hand(model, item, modality, question, length)
            expected = np.mean([len(at["image"]) / (row + 1) for row in at["query"]])
            layers = ours.by_layer()
            assert ours.uniform == pytest.approx(expected, rel=1e-6)
            assert layers["query_to_image"] == pytest.approx([expected] * 6, rel=1e-5)
            assert layers["query_to_image_over_uniform"] == pytest.approx([1.0] * 6, rel=1e-5)
            assert layers["query_to_image_sum"] == pytest.approx([expected * len(at["query"])] * 6, rel=1e-5)
            to_query = np.mean([len(at["query"]) / (row + 1) for row in at["rows"]])
            assert layers["response_to_query"] == pytest.approx([to_query] * 6, rel=1e-5)
            assert layers["response_to_query_per_token"][0] == pytest.approx(to_query / len(at["query"]), rel=1e-5)
            assert set(layers) == set(MEASURES)


class Largest(TorchDispatchMode):
    """Records the largest number of elements of a tensor that is created within the context."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def largest_of_recording(length, heads=8):
    query_BHSE, key_BHTE = torch.randn(1, heads, length, 4), torch.randn(1, heads, length, 4)
    is_query = torch.arange(length)[None] >= length // 2
    sums = AttentionSums(TokenPositions(is_query, ~is_query, torch.zeros(1, length, dtype=torch.long)), (0,))
    with Largest() as largest:
        sums.add(0, query_BHSE, key_BHTE, None)
    return largest.numbers


def test_memory_is_linear_in_the_length():
    """For all rows no tensor has more than a chunk of them; twice the length, twice the largest tensor."""
    heads, length = 8, 512
    assert largest_of_recording(length, heads) <= heads * CHUNK_ROWS * length < heads * length * length / 8
    assert largest_of_recording(2 * length, heads) <= 2 * largest_of_recording(length, heads)


def test_rows_with_a_cap_and_a_window():
    """Capped scores and an additive mask, as in the eager functions of transformers, against plain arithmetic."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 9, 8)
    position = torch.arange(9)
    distance = (position[3:, None] - position)[None, None].expand(2, 1, -1, -1)
    is_visible = (distance >= 0) & (distance < 4)
    scores = torch.tanh(query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.3 / 2) * 2
    expected = scores.masked_fill(~is_visible, -torch.inf).softmax(-1)
    at = torch.tensor([[0, 5], [2, 2]])
    wanted = torch.stack([expected[b, :, rows] for b, rows in enumerate(at)])
    for mask in (is_visible, torch.zeros(is_visible.shape).masked_fill(~is_visible, torch.finfo(torch.float32).min)):
        torch.testing.assert_close(attention_rows(query, key, mask, at, scaling=0.3, softcap=2.0), wanted)


def test_model_with_its_own_attention_function_is_refused(parts):
    no_rows = torch.zeros(1, 1, dtype=torch.bool)
    sums = AttentionSums(TokenPositions(no_rows, no_rows, no_rows.long()))
    with pytest.raises(InputError, match="attention of layer 0 cannot be recorded"), recording(parts[0].vlm, sums):
        pass
    assert "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS), "the wrapper is still installed"


def test_map_has_the_layout_of_the_image(parts):
    """A token of 2 x 2 patches: the patch in row 1, column 6 of 8 is in row 0, column 3 of the map."""
    model, processor = parts
    patches = torch.zeros(1, 8, 8, 1)
    patches[0, 1, 6] = 1
    tokens = model.vlm.base_model.pixel_shuffle(patches, scale_factor=0.5).reshape(16, -1)
    assert tokens.any(-1).nonzero().flatten().tolist() == [4 * 0 + 3]
    example = toy_examples(1)[0]
    item = paired_item(processor, example)
    _, batch, questions = batch_of(processor, [example])
    found = attention_of_batch(model, batch, questions, map_layers=(3,))["audio"][0]
    grid = np.array(image_map(model, item, found, 3))
    assert grid.shape == (4, 4)
    assert grid.sum() == pytest.approx(found.by_layer()["query_to_image"][3], rel=1e-5)
    assert grid.ravel().tolist() == found.maps[3]
    with pytest.raises(InputError, match="was not recorded"):
        image_map(model, item, found, 0)
    tiles = replace(item, image_inputs={"pixel_values": item.image_inputs["pixel_values"].repeat(4, 1, 1, 1)})
    with pytest.raises(InputError, match="not one grid"):
        image_map(model, tiles, found, 3)


@pytest.mark.slow
def test_stage_resumes_with_the_same_result(parts, tmp_path, monkeypatch):
    start = training_start(parts, tmp_path)
    again = f"again={start / 'model'}"
    config = AttentionConfig([f"one={start / 'model'}", again], [str(start / "data")], tmp_path / "whole", limit=5)
    config = replace(config, batch_size=2, maps=1)
    result = analyze_attention(config)["world-noisy"]

    cut = replace(config, output=tmp_path / "cut")
    calls, plain = [], stage.attention_of_batch

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(stage, "attention_of_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        analyze_attention(cut)
    assert analyze_attention(cut)["world-noisy"] == result
    assert len(calls) == 5 + 3, "items of the first model were measured again"
    files = ("items/world-noisy.one.jsonl", "heads/world-noisy.again.json", "maps/world-noisy.one.jsonl")
    for name in (*files, "result.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    lines = [json.loads(line) for line in (tmp_path / "whole/items/world-noisy.one.jsonl").read_text().splitlines()]
    assert len(lines) == 5 and lines[0]["id"] == toy_examples(1)[0].id
    by_hand = np.mean([line["modalities"]["audio"]["query_to_image"] for line in lines], axis=0)
    one = result["models"]["one"]
    assert one["modalities"]["audio"]["query_to_image"]["layers"]["mean"] == pytest.approx(by_hand.tolist())
    late = one["modalities"]["audio"]["query_to_image"]["thirds"]["late"]
    assert late["mean"] == pytest.approx(by_hand[4:].mean()) and late["low"] < late["mean"] < late["high"]
    same = result["between_models"]["again minus one"]["gap"]["query_to_image"]["layers"]
    assert same["mean"] == [0.0] * 6 and same["low"] == same["high"] == [None] * 6, "of zero width"
    heads = json.loads((tmp_path / "whole/heads/world-noisy.one.json").read_text())
    by_head = heads["text"]["query_to_image"]
    assert np.mean(by_head["mean"], axis=1) == pytest.approx(
        one["modalities"]["text"]["query_to_image"]["layers"]["mean"], rel=1e-4
    )
    low, mean, high = (np.array(by_head[name]) for name in ("low", "mean", "high"))
    assert by_head["n"] == 5 and low.shape == (6, 5) and (low < mean).all() and (mean < high).all()
    maps = [json.loads(line) for line in (tmp_path / "whole/maps/world-noisy.one.jsonl").read_text().splitlines()]
    assert [(m["modality"], m["layer"]) for m in maps] == [("text", 3), ("text", 5), ("audio", 3), ("audio", 5)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "models: give at least one"),
        ({"models": ["a=x", "a=y"]}, "models: a=y: give each a different name"),
        ({"data": []}, "data: give at least one"),
        ({"batch_size": 0}, "batch_size"),
        ({"map_layers": [9]}, "map_layers: .9.: the model has layers 0 to 5"),
    ],
)
def test_bad_input_is_refused(parts, tmp_path, change, message):
    start = training_start(parts, tmp_path)
    config = AttentionConfig([str(start / "model")], [str(start / "data")], tmp_path / "out", limit=1)
    with pytest.raises(InputError, match=message):
        analyze_attention(replace(config, **change))
    assert not list((tmp_path / "out").glob("*.json")), "a failed attempt must leave its output usable"
