"""Benchmarks whose pictures are larger than what may stand in memory: peaks of whole processes, small copy and large.

`SELFKD_LARGE_COPY_MB` measures with another size (docs/benchmarks.md has the figures of 600).
"""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value, load_dataset
from datasets import Image as Picture
from PIL import Image

from selfkd.data.example import image_to_png
from selfkd.data.lazy_images import dataset_rows, parquet_rows

LARGE_MB = int(os.environ.get("SELFKD_LARGE_COPY_MB", "120"))
IMAGE_SIDE = 400  # of noise, which no format makes smaller: 480 kB as PNG, what a page of DocVQA has
# the peaks are sampled: what the system calls a process's peak holds that of the process that it was forked from
_MEASURE = """
import json, sys, threading
from pathlib import Path
import psutil
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.evaluation.benchmarks.registry import open_benchmark

peaks, here = {}, psutil.Process()

def watch(stage, ended):
    while not ended.wait(0.01):
        note(stage, here)
        for child in here.children(recursive=True):
            note("workers", child)

def note(name, process):
    try:
        peaks[name] = max(peaks.get(name, 0), process.memory_info().rss / 2**20)
    except psutil.Error:
        pass  # it has ended

def watched(stage, do):
    ended = threading.Event()
    thread = threading.Thread(target=watch, args=(stage, ended))
    thread.start()
    try:
        return do()
    finally:
        ended.set()
        thread.join()

if __name__ == "__main__":
    copy, output = sys.argv[1:]
    source = watched("opening", lambda: open_benchmark("docvqa", copy))
    asked = SynthesizeConfig(Path(output), "benchmark", copy, count=len(source), shard_rows=40, processes=1)
    made = watched("speaking", lambda: synthesize(asked, source))
    print(json.dumps({"rows": made["rows"], **peaks}))
"""


def noise_copy(path, megabytes):
    """A copy in DocVQA's layout with pictures of noise, written a row group at a time; how many rows there are."""
    rng, rows = np.random.default_rng(0), 0
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = pa.list_(pa.string())
    schema = pa.schema([("questionId", pa.string()), ("question", pa.string()), ("question_types", texts),
                        ("image", image), ("answers", texts)])  # fmt: skip
    features = {name: {"dtype": "string", "_type": "Value"} for name in ("questionId", "question")}
    features |= {name: {"feature": features["question"], "_type": "List"} for name in ("question_types", "answers")}
    features["image"] = {"_type": "Image"}
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with pq.ParquetWriter(path, schema) as writer:
        while path.stat().st_size < megabytes * 2**20:
            group = []
            for _ in range(20):
                noise = rng.integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)
                pil_image = {"bytes": image_to_png(Image.fromarray(noise))}
                row = {"questionId": str(rows), "question": "Yes?", "question_types": ["form"], "answers": ["yes"]}
                group.append(row | {"image": pil_image})
                rows += 1
            writer.write_table(pa.Table.from_pylist(group, schema))
    return rows


@pytest.mark.parametrize("statistics", [True, False])
def test_pictures_that_are_not_there(tmp_path, statistics):
    """Told by the file's statistics, or, of a file or a row group that says less, by what is in it."""
    kinds = [b"first", None, b"", b"fourth", b"fifth", b"sixth"]  # in row groups of two: some, some, all there
    layout = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [None if k is None else {"bytes": k, "path": "a.png"} for k in kinds[:2]]
    images += [{"bytes": k or None, "path": "a.png"} for k in kinds[2:]]
    table = pa.table({"id": list("012345"), "image": pa.array(images, layout), "unused": [0] * 6})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2, write_statistics=statistics)
    rows = list(parquet_rows([str(tmp_path / "t.parquet")], ["id", "image"], "image"))
    assert [row["id"] for row in rows] == list("012345") and set(rows[0]) == {"id", "image"}
    sent = pickle.loads(pickle.dumps(rows))  # as to a process that speaks
    assert [row["image"] and row["image"].read() for row in sent] == [b"first", None, None, *kinds[3:]]


def test_a_dataset_keeps_its_pictures_on_disk(tmp_path):
    rows = [{"q": str(i), "image": None if i % 3 == 1 else {"bytes": bytes(100_000 + i)}} for i in range(30)]
    Dataset.from_list(rows, Features({"q": Value("string"), "image": Picture()})).to_parquet(tmp_path / "t.parquet")
    data = load_dataset("parquet", data_files=str(tmp_path / "t.parquet"), split="train", cache_dir=str(tmp_path))
    sent = pickle.dumps(list(dataset_rows(data, "image", ())))
    assert len(sent) < 20_000
    for i, row in enumerate(pickle.loads(sent)):
        assert row["q"] == str(i)
        assert row["image"] is None if i % 3 == 1 else row["image"].read() == bytes(100_000 + i)


def peaks(folder, megabytes):
    copy = folder / f"{megabytes}.parquet"
    rows = noise_copy(copy, megabytes)
    (folder / "measure.py").write_text(_MEASURE)
    command = [sys.executable, str(folder / "measure.py"), str(copy), str(folder / f"spoken-{megabytes}")]
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found.pop("rows") == rows
    return found


def test_a_large_copy_is_never_whole_in_memory(tmp_path, capsys):
    small, large = peaks(tmp_path, 20), peaks(tmp_path, LARGE_MB)
    with capsys.disabled():
        print(f"\n  {LARGE_MB} MB against 20: " + ", ".join(f"{k} {small[k]:.0f} -> {large[k]:.0f} MB" for k in small))
    for process in small:
        assert large[process] - small[process] < (LARGE_MB - 20) / 2, process
