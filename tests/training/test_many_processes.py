"""Two processes on a CPU (gloo) give the loss and the weights of one: replicas (DDP), shards (FSDP2, DeepSpeed's ZeRO-2
and ZeRO-3), and two nodes of Slurm."""

import os
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
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

ACCELERATE = Path(__file__).parents[2] / "recipes" / "accelerate"
JOB = Path(__file__).parents[2] / "recipes" / "slurm" / "train.sbatch"
SCRIPT = Path(__file__).parents[1] / "support" / "run_interrupted.py"
NEEDS_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")


def nine_examples(folder: Path) -> Path:
    """Eight a step: the second step of an epoch has one example, and one of two processes has none."""
    folder.mkdir()
    write_shard(folder / "train.parquet", toy_examples(9), {"rows": 9, "rejected": []})
    write_json(folder / MANIFEST, {"source": "world", "shards": [{"file": "train.parquet"}]})
    return folder


@pytest.fixture(scope="module")
def one_process(start, tmp_path_factory):
    """A folder with data and `one`, the run of one process."""
    folder = tmp_path_factory.mktemp("processes")
    settings = {"steps": 4, "batch_size": 8, "warmup_steps": 1, "alpha": 0.5, "weight_averaging": 0.5, "seed": 2}
    settings |= {"training": {"logging_steps": 1}}
    data = nine_examples(folder / "data")
    distill(DistillConfig([str(data)], folder / "one", model=str(start / "model"), **settings))
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def half_of_one_process(folder: Path, start: Path, output: Path) -> list[str]:
    """The command that is that of `one_process` in two processes."""
    command = ["distill", "--data", folder / "data", "--output", output, "--model", start / "model"]
    command += ["--steps", "4", "--save_steps", "1", "--batch_size", "4", "--warmup_steps", "1", "--alpha", "0.5"]
    command += ["--training.logging_steps", "1", "--weight_averaging", "0.5", "--seed", "2"]
    return list(map(str, command))


def assert_same_run(one: Path, two: Path, start: Path) -> None:
    logs = read_log(one), read_log(two)
    assert [e["step"] for e in logs[1] if "loss" in e] == [1, 2, 3, 4]
    for metric in ("loss", "kd_per_token", "grad_norm"):
        first, second = ([e[metric] for e in log] for log in logs)
        assert first == pytest.approx(second, rel=1e-4), metric
    before, single, double = (
        dict(OmniModel.from_pretrained(folder).projector.named_parameters())
        for folder in (start / "model", one / MODEL, two / MODEL)
    )
    assert (single["linear_out.weight"] - before["linear_out.weight"]).abs().max() > 1e-4
    for name, weight in single.items():
        torch.testing.assert_close(double[name], weight, rtol=1e-4, atol=5e-6, msg=name)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        "ddp",
        "fsdp2",
        pytest.param("deepspeed_zero2", marks=NEEDS_DEEPSPEED),
        pytest.param("deepspeed_zero3", marks=NEEDS_DEEPSPEED),
    ],
)
def test_two_processes_equal_one(file, one_process, start, tmp_path):
    """By accelerate's launcher and our files. Interrupted in the middle of the second epoch and resumed, the processes
    continue in the order of that epoch; the means of the weights, of which three steps are in the checkpoint, too."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ACCELERATE / f"{file}.yaml"]
    launcher += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", str(free_port())]
    command = [*launcher, SCRIPT, 4, *half_of_one_process(one_process, start, tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert_same_run(one_process / "one", tmp_path / "two", start)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_nodes_of_slurm_equal_one_process(one_process, start, tmp_path):
    """The job script, with a `srun` that starts its command once for each of two nodes, on this machine."""
    programs = {
        "scontrol": '[ "$*" = "show hostnames node[1-2]" ] && printf "127.0.0.1\\nother\\n"',
        "srun": '''[ "$1" = --kill-on-bad-exit=1 ] && shift
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" && wait "$first"''',
    }
    (tmp_path / "bin").mkdir()
    for name, lines in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{lines}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"JOB_ID": "7", "JOB_NODELIST": "node[1-2]", "NNODES": "2", "GPUS_ON_NODE": "1"}
    environment = os.environ | {f"SLURM_{name}": value for name, value in slurm.items()}
    environment |= {"PATH": path, "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    config = tmp_path / "ddp.yaml"  # without bf16, to compare
    config.write_text((ACCELERATE / "ddp.yaml").read_text().replace("mixed_precision: bf16", "mixed_precision: 'no'"))
    command = ["bash", JOB, config, *half_of_one_process(one_process, start, tmp_path / "two")]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert_same_run(one_process / "one", tmp_path / "two", start)


def test_the_job_script_has_no_mistake_that_shellcheck_finds():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    ended = subprocess.run([shellcheck, JOB], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


def test_the_job_script_prints_its_usage():
    ended = subprocess.run(["bash", JOB, "recipes/accelerate/ddp.yaml"], capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.startswith("usage: sbatch train.sbatch FILE")


@pytest.mark.distributed
@pytest.mark.parametrize(("trainable", "count"), [("projector", 6), ("projector,llm_adapters", 6 + 84)])
def test_a_sharded_model_has_the_gradients_of_a_whole_one(start, tmp_path, trainable, count):
    """FSDP2's `fully_shard` around our forward: see support/run_sharded.py."""
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    arguments = start / "model", trainable.split(",")
    ranks = [
        forked_process(run_sharded.main, *arguments, launch | {"RANK": rank, "LOCAL_RANK": rank}, tmp_path / "count")
        for rank in ("0", "1")
    ]
    for rank in ranks:
        rank.join(300)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert (tmp_path / "count").read_text() == str(count)
