"""Two processes on a CPU (gloo) give the loss and the weights of one, with whole copies (DDP) and in shares (FSDP2)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from examples import toy_examples, training_start

from selfkd.data.example import MANIFEST, write_shard
from selfkd.files import write_json
from selfkd.model.modeling_omni import OmniModel
from selfkd.run_dir import MODEL, read_log
from selfkd.training.distill import DistillConfig, distill


@pytest.fixture(scope="module")
def start(parts, tmp_path_factory):
    return training_start(parts, tmp_path_factory.mktemp("start"))


def test_two_processes_equal_one(start, tmp_path):
    """Nine examples, eight a step: the second of an epoch is of one, and a process has none (data_14_ranks_overlap).
    Stopped in the middle of the second epoch and resumed, they have the order of that epoch."""
    data = tmp_path / "data"
    data.mkdir()
    write_shard(data / "train.parquet", toy_examples(9), {"rows": 9, "rejected": []})
    write_json(data / MANIFEST, {"source": "world", "shards": [{"file": "train.parquet"}]})
    settings = {"steps": 4, "batch_size": 8, "warmup_steps": 1, "alpha": 0.5, "weight_averaging": 0.5, "seed": 2}
    settings |= {"training": {"logging_steps": 1}}
    distill(DistillConfig([str(data)], tmp_path / "one", model=str(start / "model"), **settings))

    # with --cpu accelerate starts one process unless mpirun is there; --multi_gpu starts as many as it is told
    script = Path(__file__).parents[1] / "support" / "run_interrupted.py"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", script, 4]
    command += ["distill", "--data", data, "--output", tmp_path / "two", "--model", start / "model"]
    command += ["--steps", "4", "--save_steps", "1", "--batch_size", "4", "--warmup_steps", "1", "--alpha", "0.5"]
    command += ["--training.logging_steps", "1", "--weight_averaging", "0.5", "--seed", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]

    one, two = (read_log(tmp_path / name) for name in ("one", "two"))
    assert [e["step"] for e in two if "loss" in e] == [1, 2, 3, 4]
    for metric in ("loss", "kd_per_token", "grad_norm"):
        assert [e[metric] for e in one] == pytest.approx([e[metric] for e in two], rel=1e-3), metric
    before, alone, together = (
        OmniModel.from_pretrained(folder).projector.linear_out.weight
        for folder in (start / "model", tmp_path / "one" / MODEL, tmp_path / "two" / MODEL)
    )
    assert (alone - before).abs().max() > 1e-4
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("parts_that_train", "count"), [("projector", 6), ("projector,llm_adapters", 6 + 84)])
def test_a_model_in_shares_gives_the_gradients_of_a_whole_one(start, parts_that_train, count):
    """FSDP2's `fully_shard` around our forward: see run_sharded.py."""
    script = Path(__file__).parents[1] / "support" / "run_sharded.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", script, start / "model"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        list(map(str, [*command, parts_that_train])), capture_output=True, text=True, env=environment, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert f"{count} gradients and means equal" in ended.stdout
