"""The option `--fuzz-seconds`, and the table of what the generators found."""

import shutil
from dataclasses import replace

import pytest
from fuzzing import KINDS, Fuzzer, KillTally, table

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, write_shard
from selfkd.files import sha256, write_json
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.synthesize import synthesize

GENERATORS = 9  # that share the time of `--fuzz-seconds`
_fuzzer = pytest.StashKey[Fuzzer]()
_kills = pytest.StashKey[dict[str, KillTally]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-seconds", type=float, default=0, help="seconds of all generators together; 0: the few inputs of CI"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_fuzzer] = Fuzzer(config.getoption("--fuzz-seconds", 0) / GENERATORS)
    config.stash[_kills] = {}


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    found = {
        ("generator", "inputs", "refused", *KINDS): config.stash[_fuzzer].rows(),
        ("command", "kills", "differing bytes", "lost rows"): [
            [name, t.kills, t.differing_bytes, t.lost_rows] for name, t in config.stash[_kills].items()
        ],
    }
    for head, rows in found.items():
        if rows:
            terminalreporter.section("fuzzing")
            terminalreporter.write_line(table(head, rows))


@pytest.fixture
def fuzzer(pytestconfig) -> Fuzzer:
    return pytestconfig.stash[_fuzzer]


@pytest.fixture
def kill_tallies(pytestconfig) -> dict[str, KillTally]:
    return pytestconfig.stash[_kills]


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """Four questions of the toy world, as `selfkd synthesize` writes them with an ASR filter."""
    made = tmp_path_factory.mktemp("fuzz") / "made"
    manifest = synthesize(SynthesizeConfig(made, "world", split="test", count=4, processes=1))
    transcribed = [replace(e, transcript=e.spoken_text, word_error_rate=0.25) for e in ExampleFolder(made)]
    (shard,) = manifest["shards"]
    folder = shutil.copytree(made, made.with_name("data"))  # another: readers cache a shard's footer by its path
    path = folder / shard["file"]
    write_shard(path, transcribed, {"rows": len(transcribed), "rejected": [], "word_error_rates": {}})
    write_json(folder / MANIFEST, manifest | {"shards": [shard | {"sha256": sha256(path)}], "asr_filter": "whisper"})
    return folder
