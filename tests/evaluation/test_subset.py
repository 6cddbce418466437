"""A limited run of a public benchmark states how far its scores may be from those of the whole."""

import json

import pytest
from benchmark_datasets import local_dataset
from chat_server import chat_server

from selfkd.evaluation.benchmarks.registry import open_benchmark
from selfkd.evaluation.config import EvaluateConfig
from selfkd.evaluation.evaluate import evaluate
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.tables import subset_notes
from selfkd.evaluation.uncertainty import subset_stderr

SHAPES = ("dog", "cat", "cup", "car", "bed", "fork", "bus", "kite", "tie", "oven", "sink", "bowl")


def pope(folder):
    """Twelve questions about six images, two each."""
    rows = [
        {"question_id": str(i), "question": f"Is there a {name} in the image?", "answer": "yes", "category": "popular",
         "image_source": f"COCO_val2014_{i // 2:012d}"} for i, name in enumerate(SHAPES)
    ]  # fmt: skip
    return local_dataset(folder, "pope", rows)


def test_a_limited_benchmark_knows_the_whole(tmp_path):
    path = pope(tmp_path)
    whole = open_benchmark("pope", path, limit=6).whole
    assert whole._asdict() == {"items": 12, "groups": 6}
    assert open_benchmark("pope", path).whole is None and open_benchmark("pope", path, limit=12).whole is None


@pytest.mark.slow
def test_scores_of_a_part_have_their_error_against_the_whole(tmp_path, monkeypatch, capsys):
    # shards are made in this process: the pool is not the subject
    run_here = lambda stage, jobs, *_: (stage(*job) for job in jobs)  # noqa: E731
    monkeypatch.setattr("selfkd.synthesis.synthesize.run_jobs", run_here)
    config = EvaluateConfig(
        "reads", [], tmp_path / "run", benchmarks=["pope"], local_datasets={"pope": pope(tmp_path)}, limit=6,
        cache=tmp_path / "cache", synthesis={"processes": 1},
    )  # fmt: skip
    with chat_server() as server:
        # right in text, where the name has three letters
        server.prediction = lambda request: (
            "Yes"
            if any(f"a {name} in" in text for text in request.texts for name in SHAPES if len(name) == 3)
            else "No"
        )
        config.url = server.url
        result = evaluate(config)["pope"]
    samples = {m: read_samples(samples_path(config.output, "pope", m)) for m in ("text", "audio")}
    for modality, some in samples.items():
        stderr = subset_stderr([s["score"] for s in some], [s["group"] for s in some], 6)
        assert result[modality]["subset"] == {"of_items": 12, "of_groups": 6, "stderr": stderr} and len(some) == 6
    assert result["audio"]["subset"]["stderr"] is None, "all are wrong: how groups differ is not known"
    text, gap = (100 * result[kind]["subset"]["stderr"] for kind in ("text", "gap"))
    assert text == gap > 0
    line = f"pope, of 12 items: standard error against the whole: text {text:.1f}, gap {gap:.1f}"
    assert subset_notes({"pope": result}) == [line] and line in " ".join(capsys.readouterr().out.split())
    assert json.loads((config.output / "result.json").read_text())["pope"]["text"]["subset"]["of_items"] == 12
