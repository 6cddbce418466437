"""`selfkd publish`: the model card has the facts of run, data and scores. Nothing is uploaded here."""

import json

import pytest
from examples import training_start
from huggingface_hub import ModelCard

from selfkd.data.example import MANIFEST
from selfkd.errors import InputError
from selfkd.export import PublishConfig, publish
from selfkd.files import write_json
from selfkd.training.distill import DistillConfig, distill


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory):
    start = training_start(parts, tmp_path_factory.mktemp("start"))
    manifest = json.loads((start / "data" / MANIFEST).read_text())
    facts = {
        "source_license": "CC0-1.0",
        "engine_name": "an engine",
        "engine_license": "MIT",
        "voice_names": ["a", "b"],
    }
    write_json(start / "data" / MANIFEST, manifest | facts | {"rows": 16})
    distill(DistillConfig([str(start / "data")], start / "run", model=str(start / "model"), steps=1, alpha=0.25))
    return start / "run"


def test_model_card_has_settings_data_and_scores(run, tmp_path):
    system = {"n": 40, "accuracy": 0.5, "stderr": 0.079, "chance": 0.2}
    scores = {"systems": {s: system for s in ("text", "sft", "selfkd", "cascade")}}
    scores["systems"]["cascade"] = system | {"form": "question"}
    clear = {"share": 0.4, "interval": [0.3, 0.5], "verdict": "closed"}
    unclear = {"share": None, "interval": None, "verdict": "no clear gap"}
    closed = {"world": clear, "pope": unclear}
    write_json(tmp_path / "scores.json", {b: scores | {"gap_closed": {"selfkd": c}} for b, c in closed.items()})
    config = PublishConfig(run, "me/my-model", "apache-2.0", "base/model", str(tmp_path), dry_run=True)
    card = ModelCard.load(publish(config))
    assert card.data.license == "apache-2.0" and card.data.base_model == "base/model"
    for fact in ("| alpha | 0.25 |", "| examples | 16 |", "CC0-1.0", "| voices | 2: a, b |", "an engine", "MIT",
                 "| world | 40 | 20.0 | 50.0 (7.9) |", "selfkd 40% (30% to 50%)", "no clear gap",
                 "cascade with transcripts in question form: world, pope."):  # fmt: skip
        assert fact in card.text, fact


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repo": "just-a-name"}, "repo: 'just-a-name' is not owner/name"),
        ({"comparison": "nowhere"}, r"comparison: nowhere: no scores\.json there"),
    ],
)
def test_invalid_field_is_named(run, changes, message):
    with pytest.raises(InputError, match=message):
        publish(PublishConfig(**({"run": run, "repo": "me/model", "license": "mit", "dry_run": True} | changes)))


def test_incomplete_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a complete training run"):
        publish(PublishConfig(tmp_path, "me/model", "mit", dry_run=True))
