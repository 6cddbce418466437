"""A small dataset folder; a run of each stage, made once per process."""

import pytest
from report_runs import audio_data, one_run_of_each_stage


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return one_run_of_each_stage(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def data(tmp_path):
    return audio_data(tmp_path / "world")
