"""Questions outside the CTC vocabulary: an error before training."""

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
def other_questions(tmp_path):
    """Questions that are not from the toy world."""
    questions = ["Whose dog is holding a frisbee?", "Which airline owns the plane?"]
    examples = [replace(e, question=q, question_type="words") for e, q in zip(toy_examples(2), questions, strict=True)]
    (tmp_path / "others").mkdir()
    write_shard(tmp_path / "others" / "train.parquet", examples, {"rows": 2, "rejected": []})
    write_json(tmp_path / "others" / MANIFEST, {"source": "mine", "shards": [{"file": "train.parquet"}]})
    return str(tmp_path / "others")


def cascade(data, output):
    return EvaluateConfig("some-omni", [data], output, modalities=["cascade"], url="http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("stage", "config", "remedy"),
    [
        (align, lambda data, output: AlignConfig([data], output, steps=1), "speech_encoder: name a Whisper"),
        (distill, lambda data, output: DistillConfig([data], output, steps=1), "selfkd align with a Whisper"),
        (evaluate, cascade, "asr_model: name one"),
    ],
    ids=["align", "distill", "evaluate"],
)
def test_questions_outside_the_vocabulary_are_refused_before_training(other_questions, tmp_path, stage, config, remedy):
    with pytest.raises(InputError, match=rf"others: \d\d% of the questions' tokens .*{remedy}"):
        stage(config(other_questions, tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_toy_world_is_covered(tmp_path):
    training_data(tmp_path)
    check_vocabulary_coverage(
        [ExampleFolder(tmp_path / "data")], load_tiny_model()[0].config.ctc_token_ids, load_tiny_model()[1], ""
    )
