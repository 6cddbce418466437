"""On-policy responses by vLLM: greedy ones are those of the model itself, token for token, and so is the loss; weights
that train reach vLLM.

Wants vLLM (`make test-vllm VLLM=DIR`); each model starts an engine in this process.
"""

from dataclasses import replace

import pytest
import torch
from examples import interrupted_at, toy_examples, training_data

from selfkd.losses import LossConfig
from selfkd.model.checkpoint import inspect_checkpoint
from selfkd.model.tiny import TINY_MODELS
from selfkd.run_dir import MODEL, read_log
from selfkd.training.config import DistillConfig
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.distill import distill
from selfkd.training.rollout import rollout, until_end, with_responses
from selfkd.training.rollout_engine import engine_prompts, open_rollouts
from selfkd.training.self_kd import paired_loss
from selfkd.training.trainable import freeze_all_but

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow
NEW_TOKENS = 8
SETTINGS = {"enforce_eager": True, "dtype": "float32", "max_num_seqs": 4}


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    for name, value in {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}.items():
        monkeypatch.setenv(name, value)
    yield
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()


def moved(modules):
    """Adds noise to all weights, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(0.1 * parameter.abs().mean() * torch.randn_like(parameter))


def by_both(engine, model, processor, examples, step):
    """(batch with the model's own greedy responses, with vLLM's, steps that vLLM's LLM is behind)."""
    batch = PairedCollator(processor)([paired_item(processor, e) for e in examples])
    own = rollout(model, batch, processor.end_id, NEW_TOKENS, temperature=0.0)
    stale = engine.synchronize(model, processor, step)
    prompts = engine_prompts(model, processor, batch, examples)
    ids = engine.generate(prompts, processor.end_id, NEW_TOKENS, 0.0, [0] * len(prompts))
    return own, with_responses(batch, [until_end(torch.tensor(i), processor.end_id) for i in ids]), stale


@pytest.mark.parametrize("name", TINY_MODELS)
def test_rollouts_and_loss_are_those_of_the_model(name):
    """With a frozen LLM, whose projector has trained since vLLM was opened; then with an LLM that trains."""
    checkpoint, examples = inspect_checkpoint(name), toy_examples(8)
    model, processor = checkpoint.load()
    with open_rollouts(checkpoint, 0, SETTINGS, sync_steps=2) as engine:
        freeze_all_but(model, ["projector"])
        moved([model.projector])
        own, other, stale = by_both(engine, model, processor, examples, 7)
        assert torch.equal(own["labels"], other["labels"]) and stale == 0
        ours, its = (paired_loss(model, batch, LossConfig(1.0)) for batch in (own, other))
        torch.testing.assert_close(ours.total, its.total)

        freeze_all_but(model, ["llm"])
        moved([model.vlm])
        own, other, stale = by_both(engine, model, processor, examples, 8)
        assert torch.equal(own["labels"], other["labels"]) and stale == 0
        moved([model.vlm])
        own, other, stale = by_both(engine, model, processor, examples, 9)
        assert stale == 1 and not torch.equal(own["labels"], other["labels"])
        own, other, stale = by_both(engine, model, processor, examples, 10)
        assert stale == 0 and torch.equal(own["labels"], other["labels"])


def test_sampled_rollouts_follow_their_seeds_and_hold_no_placeholder():
    checkpoint, examples = inspect_checkpoint("selfkd-tiny"), toy_examples(4)
    model, processor = checkpoint.load()
    batch = PairedCollator(processor)([paired_item(processor, e) for e in examples])
    prompts = engine_prompts(model, processor, batch, examples)
    with open_rollouts(checkpoint, 0, SETTINGS, 1) as engine:
        first, same, other = (
            engine.generate(prompts, processor.end_id, 32, 2.0, [seed + i for i in range(4)]) for seed in (0, 0, 9)
        )
        assert first == same != other
        assert set(engine.bias) == {model.config.vlm_config.image_token_id}
        assert not {i for row in (*first, *other) for i in row} & set(engine.bias)


def test_a_resumed_run_ends_in_the_same_bytes(tmp_path):
    training_data(tmp_path)
    settings = DistillConfig(
        [str(tmp_path / "data")], tmp_path / "whole", ["projector"], steps=3, batch_size=2, save_steps=1,
        on_policy_fraction=1.0, rollout_engine="vllm", vllm=SETTINGS, weight_averaging=0.0, warmup_steps=0,
        training={"logging_steps": 1},
    )  # fmt: skip
    distill(settings)
    again = replace(settings, output=tmp_path / "again")
    with interrupted_at(2), pytest.raises(KeyboardInterrupt):
        distill(again)
    distill(again)
    whole, resumed = ((run / MODEL / "model.safetensors").read_bytes() for run in (settings.output, again.output))
    assert whole == resumed
    assert [entry["rollout_staleness"] for entry in read_log(again.output) if "loss" in entry] == [0.0] * 3
