"""Run by each process of test_many_processes.py: a command of selfkd, interrupted in a step, then run again."""

import sys

from examples import interrupted_at

from selfkd.cli import main

step, command = int(sys.argv[1]), sys.argv[2:]
with interrupted_at(step):
    assert main(command) == 130, "was not interrupted"
assert main(command) == 0
