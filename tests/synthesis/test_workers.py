"""Shards made side by side: by processes, by a Ray cluster, on a disk without room."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfkd.data.check import CheckConfig, check
from selfkd.errors import InputError
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.synthesis.workers import run_jobs

# a cluster of two workers with a core each, and the command that joins it by its address
_ON_RAY = """
import os
import sys
from ray.cluster_utils import Cluster
from selfkd.cli import main
from selfkd.synthesis.workers import run_jobs
from selfkd.errors import InputError

def killed(number):
    os._exit(number)

if __name__ == "__main__":
    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    wanted = ["--source", "world-noisy", "--count", "8", "--shard_rows", "2", "--output", sys.argv[1]]
    status = main(["synthesize", *wanted, "--pool", "ray", "--address", cluster.address])
    try:
        list(run_jobs(killed, [(1,)], "ray", 1, cluster.address))
    except InputError as error:
        print(error)
    cluster.shutdown()
    sys.exit(status)
"""


def names(folder):
    return sorted(p.name for p in folder.rglob("*.parquet"))


def test_a_ray_cluster_makes_the_shards_that_processes_make(tmp_path):
    pytest.importorskip("ray")
    synthesize(SynthesizeConfig(tmp_path / "local", "world-noisy", count=8, shard_rows=2))
    (tmp_path / "job.py").write_text(_ON_RAY)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path / "ray")]
    told = subprocess.run(command, check=True, timeout=600, stdout=subprocess.PIPE, text=True).stdout
    assert "a process was killed, usually for want of memory" in told
    assert names(tmp_path / "ray") == names(tmp_path / "local")  # which end in a hash of what they hold
    assert check(CheckConfig([tmp_path / "ray"]))[str(tmp_path / "ray")]["examples"] == 8


_SLOW = """
import os, sys, time
from pathlib import Path
from selfkd.synthesis.workers import GuardedSpeaker
from selfkd.synthesis.workers import run_jobs
from selfkd.synthesis.tts.base import EspeakSpeaker, Utterance

def begun(number):
    engine = GuardedSpeaker(EspeakSpeaker, (), 60)
    engine.speak(Utterance("Well.", "en-US+m1"))
    Path(sys.argv[1], f"{os.getpid()} {engine._process.pid}").touch()
    time.sleep(600)

if __name__ == "__main__":
    list(run_jobs(begun, [(number,) for number in range(8)], "local", 2, ""))
"""


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks processes up in /proc")
def test_nothing_goes_on_when_the_command_is_killed(tmp_path):
    """Neither the workers, which had six more jobs to do, nor their engines."""
    (tmp_path / "job.py").write_text(_SLOW)
    (tmp_path / "begun").mkdir()
    command = subprocess.Popen([sys.executable, str(tmp_path / "job.py"), str(tmp_path / "begun")])
    until = time.monotonic() + 120
    while len(list((tmp_path / "begun").iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    processes = [pid for path in (tmp_path / "begun").iterdir() for pid in path.name.split()]
    assert len(processes) == 4 and all(map(_lives, processes))
    command.kill()
    command.wait()
    until = time.monotonic() + 20
    while any(map(_lives, processes)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(_lives, processes)) and len(list((tmp_path / "begun").iterdir())) == 2


def _tenth(number):
    if number == 3:
        raise InputError("field x: three is wrong")
    return number * 10


def test_what_a_job_raises_is_raised_and_the_others_come_as_they_are_done():
    assert sorted(run_jobs(_tenth, [(1,), (2,)], "local", 2, "")) == [10, 20]
    with pytest.raises(InputError, match="field x: three is wrong"):
        list(run_jobs(_tenth, [(1,), (3,)], "local", 1, ""))


def test_a_process_that_is_killed_is_told_as_what_it_mostly_is():
    with pytest.raises(
        InputError, match="killed, usually for want of memory: fewer --processes; the same command goes"
    ):
        list(run_jobs(os._exit, [(1,), (1,)], "local", 2, ""))


def _with_room_for(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_no_room_on_the_disk(tmp_path):
    """A limit on the size of a file stands in for a full disk: the system refuses to write either way."""
    command = [sys.executable, "-m", "selfkd.cli", "synthesize", "--count", "60", "--shard_rows", "30"]
    command += ["--processes", "1", "--output", str(tmp_path / "out")]
    ended = subprocess.run(command, preexec_fn=lambda: _with_room_for(1_000_000), capture_output=True, text=True)
    assert ended.returncode == 2 and "2 of 2 shards are missing, the same command makes them" in ended.stderr
    assert "Traceback" not in ended.stderr and not names(tmp_path / "out")
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert check(CheckConfig([tmp_path / "out"]))[str(tmp_path / "out")]["examples"] == 60
