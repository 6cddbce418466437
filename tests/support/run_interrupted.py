"""What each process of test_many_processes.py does: a command of selfkd, stopped in a step, and given again."""

import sys

from examples import interrupted_at

from selfkd.cli import main

step, command = int(sys.argv[1]), sys.argv[2:]
with interrupted_at(step):
    assert main(command) == 130, "was not stopped"
assert main(command) == 0
