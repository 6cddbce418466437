"""The Trainer: 8 x 1 == 2 x 4, kill and resume to the same bytes, the VLM unchanged."""

import os
import random
import shutil
import time
from dataclasses import replace

import pytest
import torch
from examples import interrupted_at, tone, toy_examples
from processes import Command
from safetensors.torch import load_file

from selfkd.errors import InputError
from selfkd.files import sha256
from selfkd.losses import LossConfig
from selfkd.model.backbones import load_vlm
from selfkd.model.checkpoint import load_model
from selfkd.model.lora import adapter_parameters
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.tiny import load_tiny_model, vlm_path
from selfkd.run_dir import MODEL, Run, read_log
from selfkd.training.align import AlignConfig, align
from selfkd.training.distill import DistillConfig, distill
from selfkd.training.stage import CHECKPOINTS, loader_workers, training_arguments
from selfkd.training.trainable import freeze_all_but, set_trainable
from selfkd.training.trainer import TRAINED, SelfKDTrainer

STEPS = 12


def config(start, output, **changes):
    settings = {"model": str(start / "model"), "steps": STEPS, "batch_size": 2, "save_steps": 2, "warmup_steps": 2}
    return DistillConfig([str(start / "data")], output, **(settings | {"alpha": 0.5} | changes))


def losses_and_weights(start, tmp_path, batch_size, accumulation):
    model = OmniModel.from_pretrained(start / "model")
    freeze_all_but(model, ["projector"])
    from selfkd.model.processing_omni import OmniProcessor

    extra = {"gradient_accumulation_steps": accumulation, "logging_steps": 1, "save_strategy": "no", "bf16": False}
    settings = config(start, tmp_path, steps=3, batch_size=batch_size, learning_rate=2e-3, training=extra)
    arguments = training_arguments(settings)
    processor = OmniProcessor.from_pretrained(start / "model")
    trainer = SelfKDTrainer(model, arguments, toy_examples(24), processor, LossConfig(0.5))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, model.projector.linear_out.weight.detach()


@pytest.mark.slow
def test_the_whole_llm_trains_against_a_frozen_teacher(start, tmp_path):
    """The LLM changes, its teacher does not: an interrupted and resumed run ends in the same bytes."""
    settings = config(start, tmp_path / "whole", trainable=["projector", "llm"], steps=4, learning_rate=1e-3)
    result = distill(settings)
    before, after = (OmniModel.from_pretrained(f) for f in (start / "model", tmp_path / "whole" / MODEL))
    moved = {n for n, p in after.named_parameters() if not torch.equal(p, before.get_parameter(n))}
    assert result["trained_parameters"] == sum(after.get_parameter(n).numel() for n in moved)
    assert not any("vision" in name for name in moved) and any("k_proj" in name for name in moved)

    again = replace(settings, output=tmp_path / "again")
    with interrupted_at(3), pytest.raises(KeyboardInterrupt):
        distill(again)
    distill(again)
    assert sha256(tmp_path / "again" / MODEL / "model.safetensors") == sha256(
        tmp_path / "whole" / MODEL / "model.safetensors"
    )


@pytest.mark.slow
def test_eight_by_one_equals_two_by_four(start, tmp_path):
    (losses, weights), (others, other_weights) = (
        losses_and_weights(start, tmp_path / str(size), size, 8 // size) for size in (8, 2)
    )
    assert losses == pytest.approx(others, rel=1e-4)
    torch.testing.assert_close(weights, other_weights, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains")
def test_in_bf16_a_cpu_uses_eager_attention_with_the_same_loss(start, tmp_path, monkeypatch):
    bf16 = {"steps": 2, "batch_size": 4, "training": {"bf16": True, "logging_steps": 1}}
    distill(config(start, tmp_path / "eager", **bf16))
    monkeypatch.setattr(OmniModel, "set_attn_implementation", lambda *_: None)
    distill(config(start, tmp_path / "fused", **bf16))
    eager, fused = ([entry["loss"] for entry in read_log(tmp_path / name)] for name in ("eager", "fused"))
    assert eager != fused and eager == pytest.approx(fused, rel=5e-3)


@pytest.mark.slow
def test_killed_at_a_random_moment_it_resumes_to_the_same_bytes(start, tmp_path):
    distill(config(start, tmp_path / "whole"))
    killed = tmp_path / "killed"
    settings = config(start, killed)
    command = ["distill", "--data", *settings.data, "--output", killed, "--model", settings.model, "--alpha", 0.5]
    command += ["--steps", STEPS, "--batch_size", 2, "--save_steps", 2, "--warmup_steps", 2]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on their number
    after = random.Random().choice([2, 4, 6, 8])
    deadline = time.monotonic() + 120
    with Command(command, env=os.environ | threads) as process:
        while not list((killed / CHECKPOINTS).glob(f"checkpoint-{after}/{TRAINED}")):
            assert process.poll() is None and time.monotonic() < deadline, f"never came to step {after}"
            time.sleep(0.005)
        process.kill()
        process.wait()
    assert not (killed / "result.json").exists()

    distill(config(start, killed))
    names = sorted(p.name for p in (tmp_path / "whole" / MODEL).rglob("*") if p.is_file())
    assert names == sorted(p.name for p in (killed / MODEL).rglob("*") if p.is_file())
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert sha256(killed / MODEL / name) == sha256(tmp_path / "whole" / MODEL / name), (name, after)


@pytest.mark.slow
def test_a_run_that_stopped_after_its_last_step_is_saved_by_the_next_command(start, tmp_path, monkeypatch):
    """The disk was full; then the process was stopped before its last file. Twelve steps are one and a half epochs."""
    settings = config(start, tmp_path / "whole", weight_averaging=0.5, learning_rate=2e-3)
    whole = distill(settings)
    again = replace(settings, output=tmp_path / "again")
    with monkeypatch.context() as patch:
        patch.setattr(OmniModel, "save_pretrained", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "no room")))
        with pytest.raises(OSError, match="no room"):
            distill(again)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            distill(again)
    result = distill(again)
    assert result["steps"] == STEPS and result["final_loss"] == whole["final_loss"] > 0 and result["seconds"] > 0
    file = f"{MODEL}/model.safetensors"
    assert sha256(tmp_path / "again" / file) == sha256(tmp_path / "whole" / file)
    assert not (tmp_path / "again" / CHECKPOINTS).exists()


class RecordingTrainer(SelfKDTrainer):
    """Records (response tokens of the batch, the count that its sum is divided by, the mean) of each batch."""

    batches: list[tuple[int, float, float]]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        mean = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.batches.append((int((inputs["labels"] != -100).sum()), float(num_items_in_batch), float(mean.detach())))
        return mean


def test_an_on_policy_step_is_divided_by_its_response_tokens_and_has_no_sft(start, tmp_path):
    """Two batches a step; with alpha 0.5 an SFT term would show in the mean."""
    model, processor = load_model(start / "model")
    set_trainable(model, ["projector"], {})
    extra = {"gradient_accumulation_steps": 2, "save_strategy": "no", "logging_steps": 1}
    arguments = training_arguments(config(start, tmp_path, steps=2, learning_rate=1e-3, training=extra))
    trainer = RecordingTrainer(model, arguments, toy_examples(16), processor, LossConfig(0.5), on_policy_fraction=1.0)
    trainer.batches = []
    trainer.train()
    assert len(trainer.batches) == 4
    for first, second in (trainer.batches[:2], trainer.batches[2:]):
        assert first[1] == second[1] == first[0] + second[0]
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    for step, pair in zip(losses, (trainer.batches[:2], trainer.batches[2:]), strict=True):
        assert step["kd_per_token"] == pytest.approx(sum(mean for _, _, mean in pair), rel=1e-4)


@pytest.mark.parametrize("response", [0.0, 1.0])
def test_a_process_without_an_example_has_zero_gradients(start, tmp_path, response):
    """Its gradients exist, for the collective operations, and are zero; it adds nothing to the log and has no
    rollout."""
    model, processor = load_tiny_model()
    set_trainable(model, ["projector", "speech_encoder"], {})
    loss_config = LossConfig(0.5, ctc_weight=0.5, soft_dtw_weight=0.1, response_weight=response)
    arguments = training_arguments(config(start, tmp_path, learning_rate=1e-3))
    trainer = SelfKDTrainer(model, arguments, toy_examples(2), processor, loss_config, on_policy_fraction=response)
    batch = trainer.data_collator(trainer.train_dataset.__getitems__([]))
    assert trainer._get_num_items_in_batch([batch], "cpu") == 0 and trainer._on_policy(batch, True) is batch
    loss = trainer.compute_loss(model.train(), batch, num_items_in_batch=torch.tensor(7))
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert not loss.detach() and gradients and not any(g.any() for g in gradients)
    assert trainer._terms and not any(trainer._terms.values())


@pytest.mark.parametrize(
    ("gpu", "cores", "ranks", "workers"), [(0, 16, 1, 0), (1, 16, 1, 8), (1, 24, 8, 3), (1, 2, 4, 1)]
)
def test_loader_workers_share_the_cores_of_a_machine_with_gpus(monkeypatch, gpu, cores, ranks, workers):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpu))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert loader_workers() == workers


def test_images_are_read_only_where_the_llm_runs(start, tmp_path):
    """And only there do they count as cost."""
    model, processor = load_model(start / "model")
    examples = [replace(e, id=f"{e.id}-{n}").with_audio(tone(n), "tone") for e in toy_examples(32) for n in (1, 2)]
    for loss_config in (LossConfig(), LossConfig(soft_dtw_weight=1.0, response_weight=0.0)):
        trainer = SelfKDTrainer(model, training_arguments(config(start, tmp_path)), examples, processor, loss_config)
        with_image = loss_config == LossConfig()
        assert trainer.train_dataset.with_image == with_image
        order = list(trainer._get_train_sampler())
        mixed = sum(
            examples[i].duration_seconds != examples[j].duration_seconds
            for i, j in zip(order[::2], order[1::2], strict=True)
        )
        assert mixed == 32 if with_image else mixed <= 2


def test_loader_workers_are_persistent(start, tmp_path):
    def how(**training):
        return training_arguments(config(start, tmp_path, training=training))

    assert how(dataloader_num_workers=2).dataloader_persistent_workers
    assert not how(dataloader_num_workers=0).dataloader_persistent_workers


def test_one_of_several_visible_gpus_is_used(start, tmp_path, capsys):
    model, processor = load_model(start / "model")
    arguments = training_arguments(config(start, tmp_path))
    assert arguments.n_gpu == torch.cuda.device_count()
    arguments._n_gpu = 2  # as TrainingArguments count them without a launcher
    trainer = SelfKDTrainer(model, arguments, toy_examples(4), processor, LossConfig())
    assert trainer.args.n_gpu == 1 and "2 GPUs are visible, one is used" in capsys.readouterr().out


def test_a_model_whose_logits_are_scaled_is_refused(start, tmp_path):
    model, processor = load_model(start / "model")
    model.config.get_text_config().logits_scaling = 8.0
    with pytest.raises(InputError, match=r"its logits_scaling of 8.0 would be left out of the loss"):
        SelfKDTrainer(model, training_arguments(config(start, tmp_path)), toy_examples(4), processor, LossConfig())


def test_adapter_dropout_is_active_in_training_only(start):
    model, _ = load_model(start / "model")
    set_trainable(model, ["llm_adapters"], {"r": 2, "lora_dropout": 0.5, "target_modules": ["q_proj"]})
    drops = [m for n, m in model.vlm.named_modules() if "lora_dropout.default" in n]
    assert drops and all(m.training for m in model.train().vlm.modules() if m in drops)
    assert not model.vlm.get_decoder().layers[0].training and not any(m.training for m in model.eval().modules())
    freeze_all_but(model, ["projector"])
    model.train()
    assert not any(m.training for m in drops), "the teacher would be noisy"


def test_training_does_not_change_the_vlm(start, tmp_path):
    before = OmniModel.from_pretrained(start / "model").state_dict()
    distill(config(start, tmp_path / "run", trainable=["projector", "speech_encoder"], steps=2))
    after = OmniModel.from_pretrained(tmp_path / "run" / MODEL).state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed and not any(name.startswith("vlm.") for name in changed)
    assert any(name.startswith("speech_encoder.") for name in changed)


def test_training_adapters_does_not_change_the_vlm(start, tmp_path):
    before = OmniModel.from_pretrained(start / "model").state_dict()
    distill(config(start, tmp_path / "run", trainable=["llm_adapters"], lora={"r": 2, "lora_alpha": 4}, steps=3))
    after = OmniModel.from_pretrained(tmp_path / "run" / MODEL).state_dict()
    kept = {name.replace(".base_layer", ""): t for name, t in after.items() if "lora_" not in name}
    assert kept.keys() == before.keys() and all(torch.equal(before[name], t) for name, t in kept.items())
    trained = [t for name, t in after.items() if "lora_B" in name]
    assert trained and all(t.abs().max() > 0 for t in trained)


def test_a_loss_of_nan_stops_the_run_names_the_examples_and_keeps_checkpoints(start, parts, tmp_path):
    settings = {"learning_rate": 1e30, "save_steps": 1, "warmup_steps": 1}
    with pytest.raises(InputError, match=r"the loss of step \d+ is (nan|inf); examples world-train-5-\d+, world-"):
        distill(config(start, tmp_path / "run", **settings))
    checkpoint = next((tmp_path / "run" / CHECKPOINTS).glob("checkpoint-*/trainer_state.json")).parent
    assert not (tmp_path / "run" / "result.json").exists()
    saved = load_file(checkpoint / TRAINED)  # trainable weights only
    assert set(saved) == {f"projector.{name}" for name, _ in parts[0].projector.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 1.5}, "alpha: 1.5 is not between 0 and 1"),
        ({"weight_averaging": 1.5}, "weight_averaging: 1.5 is not between 0 and 1"),
        ({"temperature": 0.0}, "temperature: 0.0 is not above 0"),
        ({"trainable": ["vlm"]}, "trainable: .*vlm"),
        ({"training": {"learning_rat": 1}}, "training.learning_rat: transformers.TrainingArguments has no such field"),
        ({"training": {"max_steps": 9}}, "training.max_steps: set the field steps instead"),
        ({"training": {"output_dir": "x"}}, "training.output_dir: set the field output instead"),
        ({"lora": {"rank": 8}}, "lora.rank: peft.LoraConfig has no such field"),
        ({"steps": 0}, "steps: 0: must be at least 1"),
        ({"on_policy_fraction": 1.5}, "on_policy_fraction: 1.5 is not between 0 and 1"),
        ({"on_policy_fraction": 0.5, "alpha": 0.0}, "on_policy_fraction: .*alpha 0 has no teacher"),
        ({"rollout_temperature": -1.0}, "rollout_temperature: -1.0 is not between 0 and 2"),
        ({"rollout_sync_steps": 0}, "rollout_sync_steps: 0: must be at least 1"),
        ({"rollout_engine": "vllm"}, "rollout_engine: no effect without on_policy_fraction"),
        ({"vllm": {"seed": 1}}, "vllm: has no effect without rollout_engine vllm"),
        (
            {"rollout_engine": "vllm", "on_policy_fraction": 0.5, "trainable": ["projector", "llm_adapters"]},
            "rollout_engine: vllm has no LoRA for audio queries only",
        ),
        ({"response_weight": 0.0}, "response_weight: 0 leaves no loss"),
        (
            {"response_weight": 0.0, "soft_dtw_weight": 1.0, "on_policy_fraction": 0.5},
            "on_policy_fraction: .*response_weight 0 leaves",
        ),
        (
            {"response_weight": 0.0, "soft_dtw_weight": 1.0, "trainable": ["projector", "llm_adapters"]},
            "trainable: llm_adapters: does not train in CTC-only training",
        ),
        ({"hidden_mse_weight": -1.0}, "hidden_mse_weight: -1.0: must not be negative"),
        ({"contrastive_weight": -1.0}, "contrastive_weight: -1.0: must not be negative"),
        ({"hidden_mse_layers": 3}, "hidden_mse_layers: no effect without hidden_mse_weight"),
        (
            {"hidden_mse_layers": 7, "hidden_mse_weight": 1.0},
            "hidden_mse_layers: 7 is not between 1 and the 6 layers of the LLM",
        ),
        ({"spec_augment": -1.0}, "spec_augment: -1.0: must not be negative"),
        ({"warmup_steps": -1}, "warmup_steps: -1: must not be negative"),
        ({"learning_rate": -1.0}, "learning_rate: -1.0: must be above 0"),
        ({"training": {"gradient_accumulation_steps": 0}}, "training.gradient_accumulation_steps: must be at least 1"),
        ({"training": {"learning_rate": 1.0}}, "training.learning_rate: set the field learning_rate instead"),
        ({"training": {"lr_scheduler_type": "foo"}}, "training: foo is not a valid"),
        ({"training": {"eval_strategy": "steps"}}, "training.eval_strategy: eval_every scores held-out questions"),
        ({"training": {"gradient_checkpointing_kwargs": {"use_reentrant": True}}}, "use_reentrant: true: a layer's"),
        ({"trainable": ["llm_adapters"], "lora": {"target_modules": ["nope"]}}, "lora: .*nope"),
    ],
)
def test_invalid_settings_are_named(start, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        distill(config(start, tmp_path / "run", **changes))
    distill(config(start, tmp_path / "run", steps=1))  # the same output with valid settings


@pytest.mark.slow
def test_existing_adapters_keep_their_settings(start, tmp_path):
    lora = {"trainable": ["llm_adapters"], "steps": 1, "lora": {"r": 2, "lora_alpha": 4}}
    distill(config(start, tmp_path / "first", **lora))
    there = {"model": str(tmp_path / "first" / MODEL)}
    with pytest.raises(InputError, match=r"lora: \{'r': 8\}: the model's adapters have \{'lora_alpha': 4, 'r': 2\}"):
        distill(config(start, tmp_path / "other", **(lora | there | {"lora": {"r": 8}})))
    distill(config(start, tmp_path / "same", **(lora | there)))


@pytest.mark.slow
def test_the_final_loss_is_the_mean_of_all_steps_also_over_a_resume(start, tmp_path):
    """Logged every second step of six, interrupted in the fifth step, resumed from the third."""
    steps = {"steps": 6, "save_steps": 3}
    whole = distill(config(start, tmp_path / "whole", **steps, training={"logging_steps": 1}))
    cut = config(start, tmp_path / "cut", **steps, training={"logging_steps": 2})
    with interrupted_at(5), pytest.raises(KeyboardInterrupt):
        distill(cut)
    assert [(e["step"], e["steps"]) for e in read_log(cut.output)] == [(2, 2), (4, 2)]
    assert distill(cut)["final_loss"] == pytest.approx(whole["final_loss"], rel=1e-5)
    assert [(e["step"], e["steps"]) for e in read_log(cut.output)] == [(2, 2), (4, 2), (6, 2)]
    unlogged = distill(config(start, tmp_path / "unlogged", **steps, training={"logging_steps": 500}))
    assert unlogged["final_loss"] == pytest.approx(whole["final_loss"], rel=1e-5) and unlogged["seconds"] > 0


def test_a_run_directory_is_not_overwritten(start, tmp_path):
    distill(config(start, tmp_path / "run", steps=1))
    with pytest.raises(InputError, match="complete already"):
        distill(config(start, tmp_path / "run", steps=1))
    with pytest.raises(InputError, match=r"another run \(steps: 1 there, 2 here\)"):
        distill(config(start, tmp_path / "run", steps=2))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not a run directory"):
        distill(config(start, tmp_path / "mine"))


@pytest.mark.slow
def test_a_vlm_in_bfloat16_stays_so_and_the_projector_trains_in_float32(start, tmp_path):
    """Published checkpoints are in bf16: half the memory for frozen weights, full precision for trainable ones."""
    folder = tmp_path / "vlm"
    shutil.copytree(vlm_path(), folder)
    load_vlm(vlm_path()).to(torch.bfloat16).save_pretrained(folder)
    align(
        AlignConfig(
            [str(start / "data")],
            tmp_path / "run",
            vlm=str(folder),
            projector="stack",
            steps=2,
            batch_size=4,
            warmup_steps=1,
        )
    )
    model = OmniModel.from_pretrained(tmp_path / "run" / MODEL)
    dtypes = {part: {p.dtype for p in getattr(model, part).parameters()} for part in ("vlm", "projector")}
    assert dtypes == {"vlm": {torch.bfloat16}, "projector": {torch.float32}}
    settings = {"model": str(tmp_path / "run" / MODEL), "steps": 2, "trainable": ["projector", "llm_adapters"]}
    distill(config(start, tmp_path / "next", **settings))
    adapted = OmniModel.from_pretrained(tmp_path / "next" / MODEL)
    assert {p.dtype for p in adapter_parameters(adapted)} == {torch.float32}
    trained = adapted.projector.linear_out.weight
    assert trained.dtype == torch.float32 and not torch.equal(trained, model.projector.linear_out.weight)
    assert not torch.equal(trained, trained.bfloat16().float())


def test_incompatible_settings_are_refused(start, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="llm and llm_adapters exclude each other"):
        distill(config(start, tmp_path, trainable=["llm", "llm_adapters"]))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="llm: not with FSDP"):
        distill(config(start, tmp_path, trainable=["llm"]))
    with pytest.raises(InputError, match="on_policy_fraction: not with FSDP or ZeRO-3"):
        distill(config(start, tmp_path, on_policy_fraction=0.5))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(InputError, match="on_policy_fraction: not with FSDP or ZeRO-3"):
        distill(config(start, tmp_path, on_policy_fraction=0.5))
