"""Each field of TrainingArguments and LoraConfig has an effect or is refused: data_17_settings_without_effect."""

import copy
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch
from examples import toy_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import TrainingArguments

from selfkd.errors import InputError
from selfkd.losses import LossConfig
from selfkd.model.lora import add_adapters
from selfkd.training.arguments import HONOURED, HONOURED_OF_LORA, OURS
from selfkd.training.distill import TOKENS, DistillConfig
from selfkd.training.stage import resolve_config, training_arguments
from selfkd.training.trainable import set_trainable
from selfkd.training.trainer import SelfKDTrainer


def asked(**changes):
    known = {"data": [], "output": Path("run"), "trainable": ["projector", "llm_adapters"], "steps": 2, "batch_size": 4}
    return DistillConfig(**known | {"warmup_steps": 0} | changes)


def other_than(value):
    """Something that a field is not by default."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {"a": 1} if isinstance(value, dict) else "something"


def default_of(field):
    return field.default if field.default_factory is MISSING else field.default_factory()


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.sampled_from([(kind, field) for kind in (TrainingArguments, LoraConfig) for field in fields(kind)]))
def test_what_is_not_honoured_is_refused(kind_and_field):
    """Of the installed versions every one, and of others any that is new."""
    kind, field = kind_and_field
    where, honoured = ("lora", HONOURED_OF_LORA) if kind is LoraConfig else ("training", HONOURED | set(OURS))
    if field.name in honoured:
        return
    with pytest.raises(InputError, match=rf"^{where}\.{field.name}: "):
        resolve_config(asked(**{where: {field.name: other_than(default_of(field))}}), TOKENS)
    resolve_config(asked(**{where: {field.name: default_of(field)}}), TOKENS)


def test_what_is_honoured_is_there():
    assert {f.name for f in fields(TrainingArguments)} >= HONOURED and not HONOURED & set(OURS)
    assert {f.name for f in fields(LoraConfig)} >= HONOURED_OF_LORA


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"label_smoothing_factor": 0.5}}, "training.label_smoothing_factor: has no effect"),
        ({"training": {"neftune_noise_alpha": 5}}, "training.neftune_noise_alpha: has no effect"),
        ({"training": {"torch_compile": True}}, "training.torch_compile: has no effect on this training, or one"),
        ({"training": {"accelerator_config": {"split_batches": True}}}, "training.accelerator_config: "),
        ({"training": {"deepspeed": "z2.json"}}, "training.deepspeed: accelerate launch --config_file"),
        (
            {"training": {"optim": "sgd", "adam_beta1": 0.5}},
            "training.adam_beta1: 0.5: the optimizer sgd does not have",
        ),
        ({"training": {"optim_args": "momentum=0.9"}}, "training.optim_args: .*: the optimizer adamw_torch_fused does"),
        ({"training": {"optim": "galore_adamw"}}, "training.optim: galore_adamw"),
        ({"training": {"optim": "nothing"}}, "training: nothing is not a valid OptimizerNames"),
        (
            {"training": {"lr_scheduler_type": "reduce_lr_on_plateau"}},
            "training.*(evaluation|eval)",
        ),
        (
            {"training": {"lr_scheduler_kwargs": {"nope": 1}}},
            "lr_scheduler_kwargs: .*: the schedule constant_with_warmup has",
        ),
        ({"training": {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"nope": 1}}}, "training: .*nope"),
        ({"training": {"activation_checkpointing_kwargs": {"offload": True}}}, "without training.activation_check"),
        (
            {"training": {"dataloader_persistent_workers": True, "dataloader_num_workers": 0}},
            "needs training.dataloader_n",
        ),
        ({"training": {"save_strategy": "best"}}, "training.save_strategy: best"),
        ({"lora": {"bias": "all"}}, "lora.bias: the adapters alone train"),
        ({"lora": {"init_lora_weights": "pissa"}}, "lora.init_lora_weights: 'pissa': true, false or gaussian"),
        ({"lora": {"r": 4}, "trainable": ["projector"]}, "lora: is for trainable llm_adapters"),
    ],
)
def test_settings_without_effect_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        resolve_config(asked(**changes), TOKENS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains in fp16")
def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(InputError, match=r"training.fp16: there is no GPU here"):
        resolve_config(asked(training={"fp16": True, "bf16": False}), TOKENS)


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    """The weights that two steps with some settings end in."""
    model, processor = parts
    folder = tmp_path_factory.mktemp("trained")

    def weights(**changes):
        torch.manual_seed(0)
        config, student = resolve_config(asked(output=folder, **changes), TOKENS), copy.deepcopy(model)
        set_trainable(student, config.trainable, config.lora)
        arguments = training_arguments(config)
        arguments.save_strategy = "no"
        SelfKDTrainer(student, arguments, toy_examples(8), processor, LossConfig(0.5)).train()
        return [p.detach() for p in student.parameters() if p.requires_grad]

    return weights


CHANGES = [
    {"weight_decay": 0.9}, {"adam_beta1": 0.1}, {"adam_beta2": 0.5}, {"adam_epsilon": 0.1}, {"max_grad_norm": 1e-6},
    {"optim": "sgd"}, {"optim": "sgd", "optim_args": "momentum=0.9"}, {"gradient_accumulation_steps": 2},
    {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 3}}, {"lr_scheduler_type": "linear"},
    {"bf16": True},
]  # fmt: skip


def test_what_is_honoured_changes_the_weights(trained):
    """Each setting from the plain run, and from each other."""
    found = [trained()] + [trained(training=change) for change in CHANGES]
    lora = [{"use_rslora": True}, {"lora_alpha": 3}, {"init_lora_weights": False}, {"init_lora_weights": "gaussian"}]
    lora += [{"alpha_pattern": {"q_proj": 3}}, {"lora_dropout": 0.5}]
    found += [trained(lora={"r": 16, "lora_alpha": 32} | change) for change in lora]
    for i, weights in enumerate(found):
        for others in found[:i]:
            assert any(not torch.equal(a, b) for a, b in zip(weights, others, strict=True)), i
    assert all(torch.equal(a, b) for a, b in zip(found[0], trained(), strict=True))


@pytest.mark.parametrize(
    ("lora", "kept"),
    [
        ({"target_modules": ["q_proj"]}, "q_proj"),
        ({"exclude_modules": ["q_proj"]}, "v_proj"),
        ({"rank_pattern": {"q_proj": 2}}, "q_proj"),
    ],
)
def test_where_adapters_are(parts, lora, kept):
    vlm = copy.deepcopy(parts[0].vlm)
    add_adapters(vlm, {"r": 8} | lora)
    names = [n for n, _ in vlm.named_parameters() if "lora_A" in n]
    of_kind = [n for n in names if kept in n]
    if "rank_pattern" in lora:
        assert {vlm.get_parameter(n).shape[0] for n in of_kind} == {2} and len(names) > len(of_kind)
    elif "exclude_modules" in lora:
        assert of_kind and not any("q_proj" in n for n in names)
    else:
        assert names == of_kind
