"""Prints what the readers of the imported selfkd make of every response of a demo: `python compare.py runs/demo`."""

import json
import sys
from pathlib import Path

from selfkd.evaluation.scorers import parse

for path in sorted(Path(sys.argv[1]).glob("eval-*/samples/*.jsonl")):
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        parsed = parse(sample["kind"], sample["question"], sample["reply"])
        print(json.dumps([path.parts[-3], path.name, sample["id"], sample["reply"], parsed]))
