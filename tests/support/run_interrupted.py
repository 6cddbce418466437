"""Run by each process of test_many_processes.py: a command of selfkd, interrupted in a step, then run again.

accelerate uses FSDP2 on GPUs only. Here it takes the CPUs of several processes for GPUs, and runs all of its own code
for FSDP2 with gloo.
"""

import os
import sys

from accelerate.state import DistributedType, PartialState
from examples import interrupted_at

from selfkd.cli import main

if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    prepare = PartialState.__init__

    def prepare_as_on_gpus(self, *args, **kwargs):
        prepare(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = prepare_as_on_gpus

step, command = int(sys.argv[1]), sys.argv[2:]
with interrupted_at(step):
    assert main(command) == 130, "was not interrupted"
assert main(command) == 0
