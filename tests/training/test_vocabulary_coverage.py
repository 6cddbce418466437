"""Ears that hear tokens, and data of which they could not hear the half: an error before anything is learnt from it."""

from dataclasses import replace

import pytest
from examples import toy_examples, training_data

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.files import write_json
from selfkd.model.tiny import load_tiny_model
from selfkd.training.align import AlignConfig, align
from selfkd.training.data import check_vocabulary_coverage
from selfkd.training.distill import DistillConfig, distill


@pytest.fixture
def others(tmp_path):
    """Questions of another world than the embedded one."""
    questions = ["Whose dog is holding a frisbee?", "Which airline owns the plane?"]
    examples = [replace(e, question=q, question_type="words") for e, q in zip(toy_examples(2), questions, strict=True)]
    (tmp_path / "others").mkdir()
    write_shard(tmp_path / "others" / "train.parquet", examples, {"rows": 2, "rejected": []})
    write_json(tmp_path / "others" / MANIFEST, {"source": "mine", "shards": [{"file": "train.parquet"}]})
    return str(tmp_path / "others")


def asked(data, output):
    return EvaluateConfig("some-omni", [data], output, modalities=["cascade"], url="http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("stage", "config", "remedy"),
    [
        (align, lambda data, output: AlignConfig([data], output, steps=1), "speech_encoder: name a Whisper"),
        (distill, lambda data, output: DistillConfig([data], output, steps=1), "selfkd align with the speech_encoder"),
        (evaluate, asked, "recognizer: name one"),
    ],
    ids=["align", "distill", "evaluate"],
)
def test_what_the_bundled_ears_cannot_hear_is_said_before_anything_is_made(others, tmp_path, stage, config, remedy):
    with pytest.raises(InputError, match=rf"others: \d\d% of the tokens that are said .*{remedy}"):
        stage(config(others, tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_embedded_world_they_hear(tmp_path):
    training_data(tmp_path)
    check_vocabulary_coverage(
        [ExampleFolder(tmp_path / "data")], load_tiny_model()[0].config.ctc_token_ids, load_tiny_model()[1], ""
    )
