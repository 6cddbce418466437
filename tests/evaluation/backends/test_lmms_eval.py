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

from selfkd.data.example import ExampleTurn
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


def doc_to_text_of(examples, calls, count):
    """`doc_to_text` of a task of so many rounds, each about what was calls before, as the protocol has it; `calls` gets
    its arguments."""

    def doc_to_text(example, previous_output=None, round_idx=None, previous_round_info=None):
        calls.append((example.id, list(previous_output), round_idx, previous_round_info))
        if round_idx == count(example):
            return None, None, True, [*previous_output, "the end"], None
        image = Image.open(io.BytesIO(example.image))
        turns = [{"value": example.question}, {"value": previous_output[-1]}, {"value": "And what color?"}]
        return [image], json.dumps(turns), False, previous_output, f"info {round_idx}"

    return doc_to_text


def test_each_round_has_the_prompt_that_the_task_makes_of_the_responses(adapter, examples):
    """Requests end after different numbers of rounds; the task may rewrite the outputs in the end."""
    some, calls = examples[:3], []
    count = {e.id: 1 + i for i, e in enumerate(some)}
    doc_to_text = doc_to_text_of(some, calls, lambda e: count[e.id])
    requests = [
        SimpleNamespace(args=(*request.args[:3], doc_to_text, *request.args[3:]))
        for request in requests_of(adapter, some, False, max_new_tokens=12)
    ]
    found = adapter.generate_until_multi_round(requests)
    first = [p.text for p in predict_modality(adapter.model, adapter.processor, some, "text", 12)]
    expected = []
    for example, response in zip(some, first, strict=True):
        outputs = [response]
        while len(outputs) < count[example.id]:
            turn = ExampleTurn(example.question, outputs[-1])
            query = replace(example, question="And what color?", history=(turn,))
            outputs += [p.text for p in predict_modality(adapter.model, adapter.processor, [query], "text", 12)]
        expected.append([*outputs, "the end"])
    assert found == expected and {len(outputs) for outputs in found} == {2, 3, 4}
    assert (some[2].id, expected[2][:2], 2, "info 1") in calls


@pytest.mark.parametrize("turns", [[], [{"value": "a"}, {"value": "b"}], [{"text": "a"}]])
def test_a_context_that_is_no_conversation_is_refused(adapter, turns):
    (request,) = requests_of(adapter, toy_examples(1), False)
    with pytest.raises(InputError, match="request 0: a conversation is turns with a value each"):
        adapter.generate_until([SimpleNamespace(args=(json.dumps(turns), *request.args[1:]))])


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
