"""A folder of examples, read from disk on demand: the same examples, constant memory, an order by cost."""

import json
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import toy_examples
from torch.utils.data import DataLoader

from selfkd.data import dataset as dataset_module
from selfkd.data.dataset import ExampleFolder, example_metadata
from selfkd.data.example import MANIFEST, ROWS_PER_GROUP, image_hash, image_to_png, write_shard
from selfkd.errors import InputError
from selfkd.files import write_json
from selfkd.training.data import PairedDataset
from selfkd.training.sampler import CostSampler, token_cost


def write_folder(folder, examples, shards=2):
    size = -(-len(examples) // shards)
    names = [f"train-{i}.parquet" for i in range(shards)]
    for i, name in enumerate(names):
        write_shard(folder / name, examples[i * size : (i + 1) * size], {"rows": size, "rejected": []})
    write_json(folder / MANIFEST, {"source": "world", "shards": [{"file": n} for n in names]})
    return ExampleFolder(folder)


@pytest.fixture
def examples():
    examples = toy_examples(75)
    return [replace(e, image=None) if i == 2 else e for i, e in enumerate(examples)]


def test_the_same_examples_in_any_order(tmp_path, examples):
    folder = write_folder(tmp_path, examples)
    assert len(folder) == 75 and list(folder) == examples == list(ExampleFolder(tmp_path))
    assert [folder[i] for i in (74, 0, 40, -1)] == [examples[i] for i in (74, 0, 40, -1)]
    assert folder[36:39] == examples[36:39]
    with pytest.raises(IndexError):
        folder[75]


def test_metadata_is_read_without_the_images(tmp_path, examples, monkeypatch):
    folder = write_folder(tmp_path, examples)
    read, columns_read = pq.read_table, []
    monkeypatch.setattr(
        pq, "read_table", lambda path, columns: columns_read.extend(columns) or read(path, columns=columns)
    )
    assert folder.metadata() == [example_metadata(e) for e in examples]
    assert not {"image", "audio"} & set(columns_read)
    assert folder.metadata()[2].image == examples[2].id
    first = example_metadata(examples[0])
    assert (first.width, first.height) == (64, 64) and first.image == image_hash(examples[0].image)


def test_an_image_that_cannot_be_decoded_has_metadata(examples):
    broken = example_metadata(replace(examples[0], image=b"no image"))
    assert (broken.width, broken.height) == (0, 0) and broken.image == image_hash(b"no image")


@pytest.mark.slow
def test_memory_is_constant(tmp_path, examples, monkeypatch):
    """Eighty megabytes of images are read; a few row groups stay in memory."""
    kept = 4 * ROWS_PER_GROUP * 240_000
    monkeypatch.setattr(dataset_module, "ROW_GROUP_BYTES", kept)
    noise = [i.to_bytes(2, "big") * 120_000 for i in range(360)]
    many = [replace(examples[0], id=f"e{i}", image=image, audio=None) for i, image in enumerate(noise)]
    folder, before, peak = write_folder(tmp_path, many), pa.total_allocated_bytes(), 0
    for i in (k * 7 % 360 for k in range(360)):
        assert folder[i].image == noise[i]
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < kept + 2 * ROWS_PER_GROUP * 240_000 < 0.6 * sum(map(len, noise))


def test_a_small_folder_is_read_once(tmp_path, examples, monkeypatch):
    folder, read, own = write_folder(tmp_path, examples), [], dataset_module._row_group
    monkeypatch.setattr(dataset_module, "_row_group", lambda *which: read.append(which) or own(*which))
    for _ in range(2):
        dataset_module._example.cache_clear()
        assert [folder[i] for i in range(len(folder))] == examples
    assert len(read) == len(set(read)) == len(folder._groups)


def test_workers_of_a_data_loader_read_the_shards(tmp_path, parts):
    _, processor = parts
    folder = write_folder(tmp_path, toy_examples(12))
    dataset = PairedDataset(folder, processor, context=2048)
    loader = DataLoader(dataset, batch_size=1, num_workers=2, collate_fn=lambda items: items[0].id)
    assert list(loader) == [e.id for e in folder]


def test_steps_hold_images_of_similar_size(parts, examples):
    """The cost is in image tokens, as the VLM's own processor counts them: one tile or twelve and a thumbnail."""
    _, processor = parts
    assert processor.image_tokens(64, 64) == 16 + 2 and processor.image_tokens(64 * 4, 64 * 3) == 13 * 16 + 2
    assert processor.image_tokens(0, 0) == 0
    wide = image_to_png(examples[0].load_image().resize((256, 192)))
    mixed = [replace(e, image=wide) if i % 2 else e for i, e in enumerate(examples[:64])]
    known = [example_metadata(e) for e in mixed]
    costs = [token_cost(s, processor.image_tokens(s.width, s.height)) for s in known]
    order = list(CostSampler(costs, step_size=8, seed=0))
    steps = [{known[i].width for i in order[s : s + 8]} for s in range(0, 64, 8)]
    assert sum(len(widths) == 1 for widths in steps) >= 7


def test_bad_folders(tmp_path, examples):
    with pytest.raises(InputError, match=r"manifest.json: not found"):
        ExampleFolder(tmp_path)
    write_folder(tmp_path, examples[:4])
    (tmp_path / "train-1.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"train-1.parquet: not a readable shard of schema 4"):
        ExampleFolder(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({"shards": [{"file": "train-2.parquet"}]}))
    with pytest.raises(InputError, match=r"train-2.parquet: not a readable shard"):
        ExampleFolder(tmp_path)
    table = pq.read_table(tmp_path / "train-0.parquet").drop_columns(["image_hash"])
    pq.write_table(table, tmp_path / "train-2.parquet")
    with pytest.raises(InputError, match=r"train-2.parquet: not a readable shard of schema 4 .*image_hash"):
        ExampleFolder(tmp_path).metadata()


def test_a_lock_admits_one_process_at_a_time(tmp_path):
    code = """
import sys, time, pathlib, selfkd.files
with selfkd.files.locked(pathlib.Path(sys.argv[1])):
    begun = time.monotonic()
    time.sleep(0.3)
    print(begun, time.monotonic())
"""
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    (_, first_ended), (second_began, _) = sorted(tuple(map(float, p.communicate()[0].split())) for p in both)
    assert first_ended <= second_began
