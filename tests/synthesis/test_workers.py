"""Shards in parallel: by processes forked from one server, by a Ray cluster, on a full disk."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hanging
import pytest

from selfkd.check_data import CheckConfig, check
from selfkd.errors import InputError
from selfkd.synthesis import workers
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.synthesis.workers import IsolatedWorker, run_jobs

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
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20, include_dashboard=False)
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


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same_shards_as_processes(tmp_path):
    pytest.importorskip("ray")
    synthesize(SynthesizeConfig(tmp_path / "local", "world-noisy", count=8, shard_rows=2))
    (tmp_path / "job.py").write_text(_ON_RAY)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path / "ray")]
    output = subprocess.run(command, check=True, timeout=600, stdout=subprocess.PIPE, text=True).stdout
    assert "a process was killed, usually for want of memory" in output
    assert names(tmp_path / "ray") == names(tmp_path / "local")  # which end in a hash of their content
    assert check(CheckConfig([tmp_path / "ray"]))[str(tmp_path / "ray")]["examples"] == 8


def test_an_answer_of_a_child_process_runs_no_code(tmp_path):
    worker = IsolatedWorker("reader", "content", hanging.opened, (hanging.answer_with_a_call,), 60)
    with pytest.raises(InputError, match="reader: its answer is no content"):
        worker.call(str(tmp_path / "made"))
    worker.close()
    assert not (tmp_path / "made").exists()


_SLOW = """
import os, sys, time
from pathlib import Path
from selfkd.synthesis.workers import IsolatedEngine, run_jobs
from selfkd.synthesis.tts.base import EspeakEngine, Utterance

def begin(number):
    engine = IsolatedEngine(EspeakEngine, (), 60)
    engine.synthesize_audio(Utterance("Well.", "en-US+m1"))
    Path(sys.argv[1], f"{os.getpid()} {engine._process.pid} {os.getppid()}").touch()
    time.sleep(600)

if __name__ == "__main__":
    list(run_jobs(begin, [(number,) for number in range(8)], "local", 2, ""))
"""


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_until(condition, seconds):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks processes up in /proc")
def test_no_process_survives_a_killed_command(tmp_path):
    """Neither the workers, which had six more jobs to do, nor their engines, nor the server that they are forked from;
    and no file of theirs is left."""
    (tmp_path / "job.py").write_text(_SLOW)
    begun, temporary = tmp_path / "begun", Path(tempfile.mkdtemp(dir="/tmp"))  # sockets have short paths
    begun.mkdir()
    command = [sys.executable, str(tmp_path / "job.py"), str(begun)]
    running = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(temporary)})
    assert _wait_until(lambda: len(list(begun.iterdir())) == 2, 120)
    processes = {pid for path in begun.iterdir() for pid in path.name.split()}
    assert len(processes) == 5 and all(map(_is_alive, processes))
    running.kill()
    running.wait()
    assert _wait_until(lambda: not any(map(_is_alive, processes)), 20) and len(list(begun.iterdir())) == 2
    assert _wait_until(lambda: not list(temporary.iterdir()), 20)
    temporary.rmdir()


def test_a_long_temporary_folder_has_room_for_no_socket_and_works(tmp_path):
    folder = tmp_path / ("long-" * 20)
    folder.mkdir()
    code = "from selfkd.synthesis.workers import run_jobs; print(sorted(run_jobs(abs, [(-1,), (2,)], 'local', 1, '')))"
    run = subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(folder)}, capture_output=True)
    assert run.stdout.split() == [b"[1,", b"2]"] and not list(folder.iterdir()), run.stderr


def test_a_script_needs_no_guard(tmp_path):
    """As in the README: the workers do not run the script again."""
    script = tmp_path / "script.py"
    call = f"synthesize(output={str(tmp_path / 'data')!r}, source='world', count=4, shard_rows=2, processes=2)"
    script.write_text(f"from selfkd import synthesize\nprint('begun')\nmade = {call}\nprint('made', made)\n")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("begun") == run.stdout.count("made ") == 1


def _tenfold(number):
    if number == 3:
        raise InputError("field x: three is wrong")
    return number * 10


def test_results_come_as_jobs_end_and_an_exception_is_raised():
    assert sorted(run_jobs(_tenfold, [(1,), (2,)], "local", 2, "")) == [10, 20]
    with pytest.raises(InputError, match="field x: three is wrong"):
        list(run_jobs(_tenfold, [(1,), (3,)], "local", 1, ""))


def test_a_killed_process_is_reported_with_its_usual_cause():
    with pytest.raises(InputError, match="killed, usually for want of memory: fewer --processes; the same command"):
        list(run_jobs(os._exit, [(1,), (1,)], "local", 2, ""))


def _state(_):
    os.umask(umask := os.umask(0o077))
    return os.environ.get("SELFKD_TEST"), os.environ.get("SELFKD_GONE"), umask, str(Path.cwd()), os.getppid()


def test_workers_have_the_state_of_the_process_that_starts_them(tmp_path, monkeypatch):
    """Environment, umask and folder, though their server was started earlier; and it is one server for all folders."""
    monkeypatch.setenv("SELFKD_GONE", "1")
    (first,) = run_jobs(_state, [(0,)], "local", 1, "")
    monkeypatch.delenv("SELFKD_GONE")
    monkeypatch.setenv("SELFKD_TEST", "later")
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o027)
    try:
        (second,) = run_jobs(_state, [(0,)], "local", 1, "")
    finally:
        os.umask(before)
    assert first[:3] == (None, "1", before) and second[:4] == ("later", None, 0o027, str(tmp_path))
    assert first[4] == second[4] != os.getpid()


def _is_preloaded(_):
    return [name for name in workers.PRELOAD if name not in sys.modules]


def test_workers_import_nothing_again():
    assert list(run_jobs(_is_preloaded, [(0,)], "local", 1, "")) == [[]]


def _limit_file_size(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_same_command_resumes(tmp_path):
    """A limit on the size of a file stands in for a full disk: the system refuses to write either way."""
    arguments = ["synthesize", "--count", "60", "--shard_rows", "30", "--processes", "1", "--output"]
    command = [sys.executable, "-m", "selfkd.cli", *arguments, str(tmp_path / "out")]
    ended = subprocess.run(command, preexec_fn=lambda: _limit_file_size(1_000_000), capture_output=True, text=True)
    assert ended.returncode == 2 and "2 of 2 shards are missing, the same command makes them" in ended.stderr
    assert "Traceback" not in ended.stderr and not names(tmp_path / "out")
    synthesize(SynthesizeConfig(tmp_path / "out", count=60, shard_rows=30, processes=1))
    assert check(CheckConfig([tmp_path / "out"]))[str(tmp_path / "out")]["examples"] == 60
