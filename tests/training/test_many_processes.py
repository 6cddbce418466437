"""Two processes on a CPU (gloo) give the loss and the weights of one, with replicas (DDP) and shards (FSDP2)."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import run_sharded
import torch
from examples import toy_examples
from processes import forked_process

from selfkd.data.example import MANIFEST, write_shard
from selfkd.files import write_json
from selfkd.model.modeling_omni import OmniModel
from selfkd.run_dir import MODEL, read_log
from selfkd.training.distill import DistillConfig, distill


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_equal_one(start, tmp_path):
    """Nine examples, eight a step: the second step of an epoch has one example, and a process has none. Interrupted in
    the middle of the second epoch and resumed, the processes continue in the order of that epoch."""
    data = tmp_path / "data"
    data.mkdir()
    write_shard(data / "train.parquet", toy_examples(9), {"rows": 9, "rejected": []})
    write_json(data / MANIFEST, {"source": "world", "shards": [{"file": "train.parquet"}]})
    settings = {"steps": 4, "batch_size": 8, "warmup_steps": 1, "alpha": 0.5, "weight_averaging": 0.5, "seed": 2}
    settings |= {"training": {"logging_steps": 1}}
    distill(DistillConfig([str(data)], tmp_path / "one", model=str(start / "model"), **settings))

    # with --cpu accelerate starts one process unless mpirun is installed; --multi_gpu starts any number
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
    before, single, double = (
        OmniModel.from_pretrained(folder).projector.linear_out.weight
        for folder in (start / "model", tmp_path / "one" / MODEL, tmp_path / "two" / MODEL)
    )
    assert (single - before).abs().max() > 1e-4
    torch.testing.assert_close(double, single, rtol=1e-3, atol=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize(("trainable", "count"), [("projector", 6), ("projector,llm_adapters", 6 + 84)])
def test_a_sharded_model_has_the_gradients_of_a_whole_one(start, tmp_path, trainable, count):
    """FSDP2's `fully_shard` around our forward: see support/run_sharded.py."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    arguments = start / "model", trainable.split(",")
    ranks = [
        forked_process(run_sharded.main, *arguments, launch | {"RANK": rank, "LOCAL_RANK": rank}, tmp_path / "count")
        for rank in ("0", "1")
    ]
    for rank in ranks:
        rank.join(300)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert (tmp_path / "count").read_text() == str(count)
