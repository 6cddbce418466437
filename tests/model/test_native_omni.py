"""Native omni models: both modalities equal transformers' own forward and generate; they train, are saved and resume
like joined models."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from examples import interrupted_at, toy_examples, training_data
from native_models import NATIVE
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniConfig

from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.losses import LossConfig
from selfkd.model.checkpoint import load_model
from selfkd.model.lora import train_adapters
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.training.config import DISTILL_RECIPES
from selfkd.training.config import NATIVE as NATIVE_RECIPE
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.distill import DistillConfig, distill
from selfkd.training.self_kd import paired_loss, paired_rows
from selfkd.training.trainable import set_trainable


@pytest.fixture(scope="module", params=list(NATIVE))
def native(request):
    torch.manual_seed(0)
    vlm, processor = NATIVE[request.param]()
    return OmniModel.from_native(vlm).eval(), OmniProcessor(processor)


@pytest.fixture(scope="module")
def items(native):
    """Three questions with images, the last two about the same one; clips of unequal length."""
    examples = toy_examples(3)
    examples[2] = replace(examples[2], image=examples[1].image)
    return [paired_item(native[1], e) for e in examples]


def ids_of(module):
    return {id(p) for p in module.parameters()}


def plain_inputs(model, ids, image_inputs, audio_inputs):
    """One prompt as transformers' own processors return it."""
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if model.config.vlm_config.model_type == "gemma4":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.vlm_config.image_token_id).int()
    return inputs | image_inputs | audio_inputs


def test_both_modalities_have_the_logits_of_whole_sequences(native, items):
    model, processor = native
    batch = PairedCollator(processor)(items)
    assert batch["group"].tolist() == [0, 1, 1]
    with torch.no_grad():
        student, teacher, labels, *_ = paired_rows(model, batch, with_teacher=True)
        loss = paired_loss(model, batch, LossConfig(0.5))
        for rows, modality in ((teacher, "text_ids"), (student, "audio_ids")):
            expected = []
            for item in items:
                ids = item.prefix_ids + getattr(item, modality) + item.response_ids[:-1]
                audio = item.audio_inputs if modality == "audio_ids" else {}
                logits = model.vlm(**plain_inputs(model, ids, item.image_inputs, audio)).logits[0]
                expected.append(logits[-len(item.response_ids) :])
            expected = torch.cat(expected)
            ours = model.get_output_embeddings()(rows)
            cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
            ours = ours if cap is None else cap * torch.tanh(ours / cap)
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)
        sft = torch.nn.functional.cross_entropy(expected, labels, reduction="sum")
    assert loss.sft.item() == pytest.approx(sft.item(), rel=1e-5)


def test_audio_and_vision_encoders_are_no_part_of_the_llm(native):
    """Phi-4's decoder has them next to its layers."""
    model = deepcopy(native[0])
    model.add_llm_adapters(r=2)
    llm = {name for part in model.part("llm") for name in ids_of(part)}
    encoder = {
        name for part in ("speech_encoder", "projector") for module in model.part(part) for name in ids_of(module)
    }
    assert llm and encoder and not llm & encoder
    adapted = {name.rpartition(".lora_")[0] for name, _ in model.vlm.named_parameters() if "lora_" in name}
    assert adapted and not [n for n in adapted for mark in ("audio", "vision", "image", "visual") if mark in n]
    set_trainable(model, ["projector"], {})
    assert not model.llm_trains
    model.train()  # Qwen's projector lies within the tower, which does not train
    assert not any(module.training for module in model.part("speech_encoder"))
    assert all(module.training for module in model.part("projector"))


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_generation_equals_transformers_generate(native, modality):
    model, processor = native
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    prompts = []
    for example in toy_examples(2):
        image, audio = processor.encode_image(example.load_image()), processor.encode_audio(example.samples())
        text_prompt, audio_prompt = processor.text_prompt(example.question, image), processor.audio_prompt(audio, image)
        prompts.append(text_prompt if modality == "text" else audio_prompt)
    ours = model.generate_responses(**processor.collate(prompts), **settings)
    for prompt, prediction in zip(prompts, ours, strict=True):
        inputs = plain_inputs(model, prompt.prefix_ids + prompt.suffix_ids, prompt.image_inputs, prompt.audio_inputs)
        expected = model.vlm.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :]
        assert prediction.tolist() == expected.tolist()


def test_audio_prompt_equals_that_of_the_models_own_processor(native):
    """The clip, the text around it and its placeholders, as transformers renders a chat with image and clip."""
    _, processor = native
    own, example = processor.vlm_processor, toy_examples(1)[0]
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "audio"}]}
    chat = own.apply_chat_template([turn], add_generation_prompt=True)
    whole = own(text=[chat], images=[example.load_image()], audio=[example.samples()], return_tensors="pt")
    prompt = processor.audio_prompt(
        processor.encode_audio(example.samples()), processor.encode_image(example.load_image())
    )
    assert prompt.prefix_ids + prompt.suffix_ids == whole["input_ids"][0].tolist()
    inputs = prompt.image_inputs | prompt.audio_inputs
    assert all(value.all() for name, value in inputs.items() if name not in whole), "a mask without effect"
    for name in set(inputs) & set(whole):
        torch.testing.assert_close(inputs[name], whole[name])


@pytest.fixture(scope="module")
def start(native, tmp_path_factory):
    """A native checkpoint, as it would be on the hub, and sixteen examples."""
    folder = tmp_path_factory.mktemp("native")
    training_data(folder)
    model, processor = native
    model.vlm.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder


@pytest.mark.slow
def test_native_model_is_trained_resumed_saved_and_evaluated(native, start, tmp_path):
    settings = {"steps": 3, "batch_size": 2, "warmup_steps": 1, "alpha": 0.5, "learning_rate": 0.05}
    config = DistillConfig([str(start / "data")], tmp_path / "whole", model=str(start / "model"), **settings)
    estimated = distill(replace(config, dry_run=True))
    result = distill(config)
    assert estimated["trained_parameters"] == result["trained_parameters"] > 0

    again = replace(config, output=tmp_path / "again", save_steps=2)
    with interrupted_at(3), pytest.raises(KeyboardInterrupt):
        distill(again)
    distill(again)
    weights = [load_file(c.output / "model/model.safetensors") for c in (config, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    (model, processor), before = load_model(tmp_path / "whole/model"), native[0]
    changed = {name for name, p in model.vlm.named_parameters() if not torch.equal(p, before.vlm.get_parameter(name))}
    projector = {id(p) for module in before.part("projector") for p in module.parameters()}
    assert changed == {name for name, p in before.vlm.named_parameters() if id(p) in projector}

    text = paired_item(processor, toy_examples(1)[0])
    inputs = plain_inputs(model, text.prefix_ids + text.text_ids, text.image_inputs, {})
    with torch.no_grad():
        assert torch.equal(model.eval().vlm(**inputs).logits, before.vlm(**inputs).logits), "text responses changed"
    scores = evaluate(EvaluateConfig(str(tmp_path / "whole/model"), [str(start / "data")], tmp_path / "eval", limit=2))
    assert {key: s["n"] for key, s in scores["world-noisy"].items()} == {"text": 2, "audio": 2, "gap": 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Gemma 4", "Qwen2.5-Omni"])
@pytest.mark.parametrize(
    "parts", [["projector"], ["projector", "speech_encoder"], ["llm_adapters"], ["projector", "llm"]]
)
def test_bfloat16_checkpoint_stays_bfloat16(tmp_path, name, parts):
    """Parameters are fp32 while they train; the saved model has the dtype and the text responses of the first one."""
    torch.manual_seed(0)
    vlm, its_processor = NATIVE[name]()
    vlm.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    OmniProcessor(its_processor).save_pretrained(tmp_path / "model")
    training_data(tmp_path)
    settings = {"steps": 1, "batch_size": 2, "warmup_steps": 0, "trainable": parts, "learning_rate": 0.05}
    config = DistillConfig([str(tmp_path / "data")], tmp_path / "run", model=str(tmp_path / "model"), **settings)
    distill(config)
    (before, processor), (after, _) = (load_model(f) for f in (tmp_path / "model", tmp_path / "run/model"))
    adapters = {n for n, p in after.named_parameters() if p.dtype == torch.float32}
    assert adapters == {n for n, _ in after.named_parameters() if "lora_" in n} and after.dtype == torch.bfloat16
    if "llm" not in parts:
        item = paired_item(processor, toy_examples(1)[0])
        inputs = plain_inputs(before, item.prefix_ids + item.text_ids, item.image_inputs, {})
        inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
        with torch.no_grad():
            if adapters:
                train_adapters(after.vlm, False)
            assert torch.equal(after.eval().vlm(**inputs).logits, before.eval().vlm(**inputs).logits)
    if parts == ["projector"]:  # what was saved is a native model to the next stage
        distill(replace(config, output=tmp_path / "next", model=str(tmp_path / "run/model"), learning_rate=None))
        rate = json.loads((tmp_path / "next" / "config.json").read_text())["learning_rate"]
        assert rate == DISTILL_RECIPES[NATIVE_RECIPE]["learning_rate"]


@pytest.mark.parametrize("part", ["speech_encoder", "llm_adapters"])
def test_other_parts_can_train(part):
    torch.manual_seed(0)
    vlm, processor = NATIVE["Gemma 4"]()
    model, processor = OmniModel.from_native(vlm), OmniProcessor(processor)
    set_trainable(model, [part], {"r": 2})
    model.train()
    items = [paired_item(processor, e) for e in toy_examples(2)]
    paired_loss(model, PairedCollator(processor)(items), LossConfig(1.0)).total.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved and all(("lora_B" if part == "llm_adapters" else "audio_tower") in name for name in moved)
    assert not model.vlm.base_model.vision_tower.training


def test_thinker_of_a_model_with_speech_output_is_loaded(tmp_path):
    vlm, processor = NATIVE["Qwen2.5-Omni"]()
    whole = Qwen2_5OmniConfig(thinker_config=vlm.config.to_dict()).to_dict() | {"enable_audio_output": False}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    weights = {f"thinker.{name}": p.contiguous() for name, p in vlm.state_dict().items()}
    save_file(weights | {"talker.some.weight": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    processor.save_pretrained(tmp_path)
    model, _ = load_model(tmp_path)
    for name, weight in vlm.state_dict().items():
        assert torch.equal(model.vlm.state_dict()[name], weight), name
