"""`selfkd publish`: the model card has the facts of run, data and scores. Nothing is uploaded here."""

import json
from dataclasses import astuple

import pytest
from examples import training_start
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST
from selfkd.errors import InputError
from selfkd.export import PublishConfig, publish
from selfkd.files import write_json
from selfkd.model.parts import license_of, parts_of_run
from selfkd.run_dir import CONFIG, MODEL
from selfkd.training.distill import DistillConfig, distill


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory):
    start = training_start(parts, tmp_path_factory.mktemp("start"))
    manifest = json.loads((start / "data" / MANIFEST).read_text())
    facts = {"source_license": "CC0-1.0", "engine_name": "an engine", "engine_license": "MIT"}
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
    voices = {row["voice"] for row in ExampleFolder(run.parent / "data").columns("voice")}
    card = ModelCard.load(publish(config))
    assert card.data.license == "apache-2.0" and card.data.base_model == "base/model"
    for fact in ("| alpha | 0.25 |", "| examples | 16 |", "CC0-1.0", f"| voices | {len(voices)}: ", "an engine", "MIT",
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


def write_run(folder, **config):
    """A run directory with a model, as far as cards read it."""
    (folder / MODEL).mkdir(parents=True)
    write_json(folder / CONFIG, {"stage": "s", **config})
    return folder


def test_parts_are_followed_back_to_the_checkpoints_of_stage_1(tmp_path, monkeypatch):
    """Hub ids with the commit of the run and the licence of that commit's card, folders by their names."""
    cards = {"big/vlm": "license: mit", "big/whisper": "license: other\nlicense_name: own-1.0"}

    def downloaded(name, file, revision):
        assert (file, revision) == ("README.md", "c0ffee" if name == "big/vlm" else "main")
        path = tmp_path / f"{name.replace('/', '-')}.md"
        path.write_text(f"---\n{cards[name]}\n---\n# card\n")
        return str(path)

    monkeypatch.setattr("selfkd.model.parts.hf_hub_download", downloaded)
    first = write_run(tmp_path / "align", vlm="big/vlm", speech_encoder="big/whisper@main")
    write_json(
        first / "inputs.json", {"vlm: big/vlm": "commit c0ffee", "speech_encoder: big/whisper@main": "commit main"}
    )
    second = write_run(tmp_path / "sft", model=str(first / MODEL))
    last = write_run(tmp_path / "selfkd", model=str(second / MODEL))
    expected = [("VLM", "big/vlm", "c0ffee", "mit"), ("speech encoder", "big/whisper@main", "main", "own-1.0")]
    assert [astuple(part) for part in parts_of_run(last)] == expected == [astuple(p) for p in parts_of_run(first)]


def test_parts_that_nothing_is_known_of(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("selfkd.model.parts.hf_hub_download", unreachable)
    mine = tmp_path / "mine"
    mine.mkdir()
    for card in (None, "no metadata", "---\n- a list\n---\n", "---\nlicense: [mit, gpl]\n---\n"):
        if card is not None:
            (mine / "README.md").write_text(card)
        assert license_of(str(mine)) == ""
    bundled = [("selfkd's bundled VLM", "apache-2.0"), ("the encoder of openai/whisper-tiny.en", "mit")]
    for config in ({"vlm": "", "speech_encoder": ""}, {"model": "selfkd-tiny"}):
        found = parts_of_run(write_run(tmp_path / str(len(config)), **config))
        assert [(part.source.partition(",")[0], part.license) for part in found] == bundled
    folder = parts_of_run(write_run(tmp_path / "b", vlm=str(mine), speech_encoder="big/whisper"))
    assert [(part.source, part.license) for part in folder] == [("mine", ""), ("big/whisper", "")]
    assert [p.role for p in parts_of_run(write_run(tmp_path / "c", model="Qwen/Qwen2.5-Omni-3B"))] == ["model"]
    circle = write_run(tmp_path / "circle", model=str(tmp_path / "circle" / MODEL))
    gone = write_run(tmp_path / "gone", model=str(tmp_path / "nowhere" / MODEL))
    assert parts_of_run(circle) == parts_of_run(gone) == []
