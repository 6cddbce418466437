"""Our checkpoints within lmms-eval: the same responses as `selfkd evaluate`. Needs lmms-eval, which is not a
dependency."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from examples import toy_examples
from PIL import Image

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (pip install lmms-eval)")

import lmms_eval
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from lmms_eval.models.registry_v2 import ModelRegistryV2

from selfkd.errors import InputError
from selfkd.evaluation.backends.lmms_eval import MANIFEST
from selfkd.evaluation.backends.local import predict_modality
from selfkd.evaluation.benchmarks.registry import BENCHMARKS, open_benchmark
from selfkd.evaluation.samples import sample
from selfkd.synthesis.sources.registry import ToyWorld


@pytest.fixture(scope="module")
def adapter(start):
    registry = ModelRegistryV2()
    registry.register_manifest(MANIFEST)
    return registry.get_model_class("selfkd")(pretrained=str(start / "model"), batch_size="3")


def requests_of(adapter, examples, with_audio, **settings):
    adapter.task_dict = {"world": {"test": list(examples)}}

    def visuals(example):
        image = Image.open(io.BytesIO(example.image))
        return [image, {"array": example.samples(), "sampling_rate": 16_000}] if with_audio else [image]

    text = [("" if with_audio else f"<image>\n{e.question}") for e in examples]
    return [SimpleNamespace(args=(t, settings, visuals, i, "world", "test")) for i, t in enumerate(text)]


def test_responses_equal_those_of_predict_modality(adapter, examples):
    text = predict_modality(adapter.model, adapter.processor, examples, "text")
    assert adapter.generate_until(requests_of(adapter, examples, False)) == [r.text for r in text]
    audio = predict_modality(adapter.model, adapter.processor, examples, "audio")
    assert adapter.generate_until(requests_of(adapter, examples, True)) == [r.text for r in audio]


def test_response_ends_at_the_tasks_stop_string(adapter, examples):
    whole = adapter.generate_until(requests_of(adapter, examples[:1], False))[0]
    cut = adapter.generate_until(requests_of(adapter, examples[:1], False, until=[whole[2]]))[0]
    assert cut == whole.split(whole[2])[0].strip()


def test_two_images_are_refused(adapter):
    (request,) = requests_of(adapter, toy_examples(1), False)
    both = SimpleNamespace(args=(*request.args[:2], lambda e: request.args[2](e) * 2, *request.args[3:]))
    with pytest.raises(InputError, match="one image and one audio clip"):
        adapter.generate_until([both])


POPE_HERE = """
include: {pope}
task: pope_here
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {copy}}}}}
lmms_eval_specific_kwargs: {{default: {{pre_prompt: "", post_prompt: ""}}}}
"""


def test_pope_of_lmms_eval_gives_our_metrics(start, adapter, tmp_path):
    """Its own POPE over a copy in POPE's layout, without the answer format, which the tiny model was not trained on."""
    examples = [e for e in map(ToyWorld("test", 5).example, range(200)) if e.question_type == "exists"][:24]
    rows = [{"id": e.id, "question_id": e.id, "question": e.question, "answer": e.target, "image_source": e.id,
             "image": {"bytes": e.image}, "category": "random"} for e in examples]  # fmt: skip
    layout = Features({k: ImageFeature() if k == "image" else Value("string") for k in rows[0]})
    Dataset.from_list(rows, layout).to_parquet(tmp_path / "pope.parquet")
    pope = Path(lmms_eval.__file__).parent / "tasks" / "pope" / "pope.yaml"
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "here.yaml").write_text(POPE_HERE.format(pope=pope, copy=tmp_path / "pope.parquet"))
    command = [sys.executable, "-m", "lmms_eval", "eval", "--model", "selfkd", "--tasks", "pope_here", "--model_args"]
    command += [
        f"pretrained={start / 'model'}",
        "--include_path",
        tmp_path / "tasks",
        "--output_path",
        tmp_path / "out",
    ]
    hub = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(list(map(str, command)), env=os.environ | hub, check=True, timeout=300, capture_output=True)
    (found,) = (tmp_path / "out").rglob("*results*.json")
    theirs = json.loads(found.read_text())["results"]["pope_here"]
    source = open_benchmark("pope", str(tmp_path / "pope.parquet"))
    ours = [replace(source.example(i), answer_format="") for i in range(len(source))]
    predictions = predict_modality(adapter.model, adapter.processor, ours, "text")
    metrics = BENCHMARKS["pope"].metrics([sample(e, "text", r) for e, r in zip(ours, predictions, strict=True)])
    assert metrics["accuracy"] > 80
    for metric, name in (
        ("accuracy", "accuracy"),
        ("precision", "precision"),
        ("recall", "recall"),
        ("f1", "f1_score"),
    ):
        assert 100 * theirs[f"pope_{name},none"] == pytest.approx(metrics[metric])
