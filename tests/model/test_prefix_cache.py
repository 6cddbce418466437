"""The shared prefix gives what two plain passes over whole sequences give: the loss and every gradient."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from examples import toy_examples
from torch.nn import functional as F

from selfkd.losses import LossConfig, cross_entropy, divergence, self_kd_loss
from selfkd.model import prefix_cache
from selfkd.model.prefix_cache import continue_prefix, encode_prefix, extend_prefix, generate_after, positions
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.self_kd import FrozenTeacher, paired_loss, paired_rows
from selfkd.training.trainable import freeze_all_but, set_trainable

TRAINED = ("projector", "speech_encoder")


def two_plain_passes(model, items, alpha, teacher_vlm=None):
    """Teacher and student one example at a time, whole sequences through the VLM's own forward, all logits."""
    total = torch.zeros(())
    for item in items:
        ids = item.prefix_ids + item.text_ids + item.response_ids[:-1]
        audio_ids = item.prefix_ids + item.audio_ids + item.response_ids[:-1]
        image = item.image_inputs
        with torch.no_grad():
            teacher = (teacher_vlm or model.vlm)(input_ids=torch.tensor([ids]), **image).logits[0]
        student = model(torch.tensor([audio_ids]), **item.audio_inputs, **image).logits[0]
        rows = slice(-len(item.response_ids), None)
        labels = torch.tensor(item.response_ids)
        total = total + alpha * divergence(teacher[rows], student[rows])
        total = total + (1 - alpha) * cross_entropy(student[rows], labels)
    return total


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None and n.startswith(TRAINED)}


def assert_same_gradients(got, expected):
    assert expected and set(got) == set(expected)
    scale = max(g.abs().max() for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name] / scale, gradient / scale, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_shared_prefix_equals_two_passes(model, processor, alpha):
    model.vlm.requires_grad_(False)
    examples = toy_examples(5)
    examples[3] = replace(examples[3], image=None, instruction="Repeat the words.\n")  # prefixes of unequal length
    items = [paired_item(processor, e) for e in examples]

    plain = two_plain_passes(model, items, alpha)
    plain.backward()
    expected = gradients(model)
    model.zero_grad()

    student, teacher, labels, *_ = paired_rows(model, PairedCollator(processor)(items), with_teacher=alpha > 0)
    ours = self_kd_loss(student, teacher, model.get_output_embeddings().weight, labels, LossConfig(alpha))
    ours.total.backward()

    assert ours.total.item() == pytest.approx(plain.item(), rel=1e-5)
    assert_same_gradients(gradients(model), expected)


@pytest.mark.parametrize("layers", [1, 3])
def test_hidden_states_of_several_layers_are_those_of_plain_passes(model, processor, layers):
    """The last layer's after its norm, and earlier ones' divided by their root mean square; teacher and student have
    queries of other lengths."""
    model.vlm.requires_grad_(False)
    items = [paired_item(processor, example) for example in toy_examples(3)]
    count = len(model.vlm.get_decoder().layers)
    chosen = [count * number // layers for number in range(1, layers)]  # hidden_states[0] are the embeddings
    plain = torch.zeros(())
    for item in items:
        ids = item.prefix_ids + item.text_ids + item.response_ids[:-1]
        audio_ids = torch.tensor([item.prefix_ids + item.audio_ids + item.response_ids[:-1]])
        settings = {"output_hidden_states": True, **item.image_inputs}
        with torch.no_grad():
            teacher = model.vlm(input_ids=torch.tensor([ids]), **settings).hidden_states
        student = model(audio_ids, **item.audio_inputs, **settings).hidden_states
        rows = slice(-len(item.response_ids), None)
        pairs = [(student[-1][0, rows], teacher[-1][0, rows])]
        for layer in chosen:
            pairs.append(
                tuple(F.rms_norm(states[layer][0, rows], states[layer].shape[-1:]) for states in (student, teacher))
            )
        plain = plain + sum((a - b).square().mean(-1).sum() for a, b in pairs) / layers
    plain.backward()
    expected = gradients(model)
    model.zero_grad()
    loss_config = LossConfig(0.0, hidden_mse_weight=1.0, hidden_mse_layers=layers, response_weight=0.0)
    ours = paired_loss(model, PairedCollator(processor)(items), loss_config)
    ours.total.backward()
    assert ours.terms["hidden_mse"].item() == pytest.approx(plain.item(), rel=1e-4)
    assert_same_gradients(gradients(model), expected)


def test_prompts_that_share_an_image_encode_it_once(model, processor):
    """Four examples, two images: two prefixes in the batch, and the loss and gradients of plain passes."""
    model.vlm.requires_grad_(False)
    examples = toy_examples(4)
    examples = [replace(e, image=examples[i // 2].image) for i, e in enumerate(examples)]
    items = [paired_item(processor, e) for e in examples]
    batch = PairedCollator(processor)(items)
    assert batch["group"].tolist() == [0, 0, 1, 1]
    assert len(batch["prefix_ids"]) == len(batch["image_inputs"]["pixel_values"]) == 2

    two_plain_passes(model, items, 0.5).backward()
    expected = gradients(model)
    model.zero_grad()
    student, teacher, labels, *_ = paired_rows(model, batch, with_teacher=True)
    self_kd_loss(student, teacher, model.get_output_embeddings().weight, labels, LossConfig(0.5)).total.backward()
    assert_same_gradients(gradients(model), expected)


def test_no_gradient_reaches_the_prefix_or_the_teacher(model, processor):
    model.vlm.get_decoder().requires_grad_(False)
    items = [paired_item(processor, e) for e in toy_examples(2)]
    student, teacher, *_ = paired_rows(model, PairedCollator(processor)(items), with_teacher=True)
    assert not teacher.requires_grad
    student.sum().backward()
    assert all(p.grad is None for p in model.vlm.base_model.vision_tower.parameters())


def test_continuations_do_not_disturb_the_prefix(model, processor):
    """The same prefix serves several continuations, in any order, with one image for all of them."""
    prompt = processor.text_prompt("Is there a red circle?", processor.encode_image(None))
    ids, mask = processor.pad_left([prompt.prefix_ids])
    with torch.no_grad():
        prefix = encode_prefix(model.vlm, ids, mask)
        before = [keys.clone() for keys, _ in prefix.layers]
        first = torch.tensor([prompt.suffix_ids])
        second = torch.tensor([processor.ids("How many stars are there?")])
        runs = [
            continue_prefix(model.vlm, prefix, {"input_ids": question}, torch.ones_like(question))
            for question in (first, second, first)
        ]
        both = continue_prefix(
            model.vlm,
            prefix.rows(torch.tensor([0, 0])),
            {"input_ids": torch.cat([first, first])},
            torch.ones(2, first.shape[1]),
        )
        whole = model.vlm.base_model(input_ids=torch.tensor([prompt.prefix_ids + prompt.suffix_ids]))
    assert all(torch.equal(a, b) for a, (b, _) in zip(before, prefix.layers, strict=True))
    torch.testing.assert_close(runs[0], runs[2], rtol=0, atol=0)
    torch.testing.assert_close(both[0:1], runs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        F.normalize(runs[0][0, -1], dim=0), F.normalize(whole[0][0, -1], dim=0), atol=1e-5, rtol=0
    )


def test_caches_share_the_keys_of_the_prefix_and_leave_them_as_they_are(model, processor):
    """A copy would be as large as the prefix: gigabytes, of a large model."""
    prompt = processor.text_prompt("Is there a red circle?", processor.encode_image(None))
    ids, mask = processor.pad_left([prompt.prefix_ids])
    query = torch.tensor([prompt.suffix_ids])
    with torch.no_grad():
        prefix = encode_prefix(model.vlm, ids, mask)
        before = [(keys.clone(), values.clone()) for keys, values in prefix.layers]
        for cache in (prefix_cache._PrefixCache(prefix.layers), prefix_cache._cache_of(prefix.layers)):
            assert cache.get_seq_length() == ids.shape[1]
            for layer, (keys, values) in zip(cache.layers, prefix.layers, strict=True):
                assert layer.keys is keys and layer.values is values
        longer = extend_prefix(model.vlm, prefix, {"input_ids": query[:, :-1]}, torch.ones_like(query[:, :-1]))
        generate_after(model.vlm, longer, query[:, -1], max_new_tokens=4)
    assert longer.layers[0][0].shape[2] == ids.shape[1] + query.shape[1] - 1
    for own, was in zip(prefix.layers, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(own, was, strict=True))


def test_positions_skip_padding():
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    assert positions(mask).tolist() == [[0, 0, 0, 1, 2, 2], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("parts_that_train", [["projector"], ["projector", "llm"], ["projector", "llm_adapters"]])
def test_gradient_checkpointing_changes_memory_only(parts, parts_that_train):
    """The same loss and gradients; layers of the LLM run again in the backward pass, frozen or not, with adapters."""
    model, processor = deepcopy(parts[0]), parts[1]
    set_trainable(model, parts_that_train, {"r": 4})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # which start as zeros
            torch.nn.init.normal_(parameter, std=0.1)
    batch = PairedCollator(processor)([paired_item(processor, e) for e in toy_examples(3)])
    teacher, calls, found = FrozenTeacher(model)(batch), [], []
    model.vlm.get_decoder().layers[0].input_layernorm.register_forward_hook(
        lambda *_: calls.append(torch.is_grad_enabled())
    )
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()  # the name that all versions of transformers know
        calls.clear()
        model.train().zero_grad()
        loss = paired_loss(model, batch, LossConfig(0.5), teacher).total
        loss.backward()
        found.append((loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
        passes = 1 + ("llm" in parts_that_train)  # with gradient: the continuation, and the prefix where the LLM trains
        assert sum(calls) == passes * (2 if checkpointing else 1)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert_same_gradients(found[1][1], found[0][1])


def test_frozen_copy_is_the_teacher_where_the_llm_trains(parts):
    """The loss and every gradient of the LLM, through the prefix too, are those of plain passes."""
    model, processor = deepcopy(parts[0]), parts[1]
    freeze_all_but(model, ["projector", "llm"])
    items = [paired_item(processor, e) for e in toy_examples(3)]
    batch = PairedCollator(processor)(items)
    teacher = FrozenTeacher(model)
    with torch.no_grad():  # student and teacher differ
        for parameter in model.vlm.get_decoder().parameters():
            parameter.mul_(1.01)
    two_plain_passes(model, items, 0.5, teacher.vlm).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert any("layers.0.self_attn.k_proj" in name for name in expected)
    model.zero_grad()
    loss = paired_loss(model, batch, LossConfig(0.5), teacher(batch))
    loss.total.backward()
    assert_same_gradients({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, expected)
    with pytest.raises(AssertionError, match="would train with its student"):
        paired_loss(model, batch, LossConfig(0.5))
