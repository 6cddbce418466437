"""Benchmarks whose images do not fit into memory: peaks of whole processes with a small and a large local dataset.

`SELFKD_LARGE_DATASET_MB` sets another size (docs/benchmarks.md has the result for 600).
"""

import io
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
from datasets import Image as ImageFeature
from PIL import Image

from selfkd.data.lazy_images import dataset_rows, parquet_rows

LARGE_MB = int(os.environ.get("SELFKD_LARGE_DATASET_MB", "120"))
IMAGE_SIDE = 800  # of noise, which no format compresses: 1.9 MB as PNG
# peaks are sampled: the peak that the system reports includes that of the process from which it was forked
_MEASURE = """
import json, sys, threading
from pathlib import Path
import psutil
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.evaluation.benchmarks.registry import open_benchmark

peaks, this_process = {}, psutil.Process()

def watch(stage, ended):
    while not ended.wait(0.01):
        record(stage, this_process)
        for child in this_process.children(recursive=True):
            record("workers", child)

def record(name, process):
    try:
        peaks[name] = max(peaks.get(name, 0), process.memory_info().rss / 2**20)
    except psutil.Error:
        pass  # the process has ended

def watched(stage, function):
    ended = threading.Event()
    thread = threading.Thread(target=watch, args=(stage, ended))
    thread.start()
    try:
        return function()
    finally:
        ended.set()
        thread.join()
        record(stage, this_process)  # also of a stage shorter than the interval

if __name__ == "__main__":
    for dataset in sys.argv[1:]:  # the smallest first
        peaks = {}
        source = watched("opening", lambda: open_benchmark("docvqa", dataset))
        output = Path(dataset).with_suffix("")
        config = SynthesizeConfig(output, "benchmark", dataset, count=len(source), shard_rows=5, processes=1)
        manifest = watched("synthesis", lambda: synthesize(config, source))
        print("PEAKS", json.dumps({"rows": manifest["rows"], **peaks}), flush=True)
"""


def write_noise_dataset(path, megabytes):
    """A local dataset in the layout of DocVQA with images of noise; returns its number of rows."""
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
            for _ in range(5):
                noise = rng.integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(noise).save(buffer, "PNG", compress_level=0)
                row = {"questionId": str(rows), "question": "Yes?", "question_types": ["form"], "answers": ["yes"]}
                group.append(row | {"image": {"bytes": buffer.getvalue()}})
                rows += 1
            writer.write_table(pa.Table.from_pylist(group, schema))
    return rows


@pytest.mark.parametrize("statistics", [True, False])
def test_missing_images(tmp_path, statistics):
    """Known from the statistics of the file, or from the values of a row group without statistics."""
    contents = [b"first", None, b"", b"fourth", b"fifth", b"sixth"]  # row groups of two; the last has all images
    layout = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [None if k is None else {"bytes": k, "path": "a.png"} for k in contents[:2]]
    images += [{"bytes": k or None, "path": "a.png"} for k in contents[2:]]
    table = pa.table({"id": list("012345"), "image": pa.array(images, layout), "unused": [0] * 6})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2, write_statistics=statistics)
    rows = list(parquet_rows([str(tmp_path / "t.parquet")], ["id", "image"], "image"))
    assert [row["id"] for row in rows] == list("012345") and set(rows[0]) == {"id", "image"}
    received = pickle.loads(pickle.dumps(rows))  # as to a worker process
    assert [row["image"] and row["image"].read() for row in received] == [b"first", None, None, *contents[3:]]


def test_dataset_keeps_its_images_on_disk(tmp_path):
    rows = [{"q": str(i), "image": None if i % 3 == 1 else {"bytes": bytes(100_000 + i)}} for i in range(30)]
    Dataset.from_list(rows, Features({"q": Value("string"), "image": ImageFeature()})).to_parquet(
        tmp_path / "t.parquet"
    )
    data = load_dataset("parquet", data_files=str(tmp_path / "t.parquet"), split="train", cache_dir=str(tmp_path))
    sent = pickle.dumps(list(dataset_rows(data, {"image": ("image", ())})))
    assert len(sent) < 20_000
    for i, row in enumerate(pickle.loads(sent)):
        assert row["q"] == str(i)
        assert row["image"] is None if i % 3 == 1 else row["image"].read() == bytes(100_000 + i)


def measure_peaks(folder, *sizes):
    """{process: MB} for each size, in one process for all of them."""
    files = {folder / f"{megabytes}.parquet": megabytes for megabytes in sizes}
    rows = [write_noise_dataset(file, megabytes) for file, megabytes in files.items()]
    (folder / "measure.py").write_text(_MEASURE)
    command = [sys.executable, str(folder / "measure.py"), *map(str, files)]
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 0, ended.stderr[-2000:]
    peaks = [json.loads(line.removeprefix("PEAKS")) for line in ended.stdout.splitlines() if line.startswith("PEAKS")]
    assert [peak.pop("rows") for peak in peaks] == rows
    return peaks


@pytest.mark.slow
def test_large_dataset_is_never_whole_in_memory(tmp_path, capsys):
    small, large = measure_peaks(tmp_path, 20, LARGE_MB)
    with capsys.disabled():
        print(f"\n  {LARGE_MB} MB against 20: " + ", ".join(f"{k} {small[k]:.0f} -> {large[k]:.0f} MB" for k in small))
    for process in small:
        assert large[process] - small[process] < (LARGE_MB - 20) / 2, process
