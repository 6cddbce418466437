"""Our checkpoints within lmms-eval: the same replies as our own views give. Needs lmms-eval, which is no dependency."""

import io
from types import SimpleNamespace

import pytest
from conftest import training_start, world_examples
from PIL import Image

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (pip install lmms-eval)")

from lmms_eval.models.registry_v2 import ModelRegistryV2

from selfkd.errors import InputError
from selfkd.evaluation.answerers import SpeechAnswerer, TextAnswerer
from selfkd.evaluation.lmms_adapter import MANIFEST


@pytest.fixture(scope="module")
def adapter(parts, tmp_path_factory):
    registry = ModelRegistryV2()
    registry.register_manifest(MANIFEST)
    start = training_start(parts, tmp_path_factory.mktemp("start"))
    return registry.get_model_class("selfkd")(pretrained=str(start / "model"), batch_size="3")


def requests_of(adapter, examples, spoken, **settings):
    adapter.task_dict = {"world": {"test": list(examples)}}

    def shown(example):
        picture = Image.open(io.BytesIO(example.image))
        return [picture, {"array": example.samples(), "sampling_rate": 16_000}] if spoken else [picture]

    text = [("" if spoken else f"<image>\n{e.question}") for e in examples]
    return [SimpleNamespace(args=(t, settings, shown, i, "world", "test")) for i, t in enumerate(text)]


def test_replies_are_those_of_our_views(adapter, examples):
    text = TextAnswerer(adapter.model, adapter.processor).answer(examples)
    assert adapter.generate_until(requests_of(adapter, examples, False)) == [r.text for r in text]
    speech = SpeechAnswerer(adapter.model, adapter.processor).answer(examples)
    assert adapter.generate_until(requests_of(adapter, examples, True)) == [r.text for r in speech]


def test_a_reply_ends_where_the_task_says(adapter, examples):
    whole = adapter.generate_until(requests_of(adapter, examples[:1], False))[0]
    cut = adapter.generate_until(requests_of(adapter, examples[:1], False, until=[whole[2]]))[0]
    assert cut == whole.split(whole[2])[0].strip()


def test_two_pictures_are_refused(adapter):
    (request,) = requests_of(adapter, world_examples(1), False)
    both = SimpleNamespace(args=(*request.args[:2], lambda e: request.args[2](e) * 2, *request.args[3:]))
    with pytest.raises(InputError, match="one picture and one sound"):
        adapter.generate_until([both])
