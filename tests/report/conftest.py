"""Runs of each kind, made once per process."""

import pytest
from report_runs import one_run_of_each_stage


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return one_run_of_each_stage(tmp_path_factory.mktemp("runs"))
