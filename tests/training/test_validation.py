"""Held-out questions scored during training: the best step becomes the model, a resumed run ends in the same bytes, and
training is the same with and without them."""

import json
from dataclasses import replace

import pytest
from examples import interrupted_at, toy_examples, write_examples

from selfkd.errors import InputError
from selfkd.files import sha256
from selfkd.model.checkpoint import load_model
from selfkd.run_dir import MODEL, VALIDATION, read_log
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.synthesize import synthesize
from selfkd.train import align, distill
from selfkd.training import distill as without_grader
from selfkd.training.config import AlignConfig, DistillConfig
from selfkd.training.stage import CHECKPOINTS

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 6


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held-out") / "data"
    write_examples(folder, toy_examples(22)[16:])
    return folder


def config(start, output, held_out, **changes):
    settings = {"model": str(start / "model"), "steps": STEPS, "batch_size": 2, "save_steps": 2, "warmup_steps": 1}
    settings |= {"eval_data": [str(held_out)], "eval_every": 2, "learning_rate": 5e-3}
    return DistillConfig([str(start / "data")], output, **(settings | changes))


def weights_hash(run):
    return sha256(run / MODEL / "model.safetensors")


def scripted(monkeypatch, correct):
    """A grader that finds so many right audio answers, one call after another; the steps' weights are its arguments."""
    seen, left = [], iter(correct)

    def count(model, processor, folder, positions):
        assert not model.training and list(positions) == list(range(len(folder)))
        seen.append(model.projector.linear_out.weight.detach().clone())
        return {"text": 3, "audio": next(left)}

    monkeypatch.setattr("selfkd.train.count_correct", count)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(("correct", "chosen"), [((1, 5, 3), 4), ((4, 4, 4), 2), ((0, 1, 2), 6)])
def test_the_best_step_by_audio_accuracy_is_kept(correct, chosen, start, held_out, tmp_path, monkeypatch):
    seen = scripted(monkeypatch, correct)
    result = distill(config(start, tmp_path / "run", held_out))
    assert result["validation"] == {
        "chosen_by": "audio accuracy", "chosen_step": chosen, "chosen_items": 6, "chosen_text": 0.5,
        "chosen_audio": max(correct) / 6,
    }  # fmt: skip
    assert json.loads((tmp_path / "run" / "result.json").read_text())["validation"] == result["validation"]
    scores = json.loads((tmp_path / "run" / VALIDATION).read_text())
    assert [(s["step"], s["audio"]) for s in scores] == [(2 * i + 2, n / 6) for i, n in enumerate(correct)]
    kept = load_model(str(tmp_path / "run" / MODEL))[0].projector.linear_out.weight
    assert [bool((kept == weight).all()) for weight in seen] == [step == chosen for step in (2, 4, 6)]
    assert not (tmp_path / "run" / CHECKPOINTS).exists()


@pytest.mark.slow
def test_training_is_the_same_with_and_without(start, held_out, tmp_path, monkeypatch):
    """The last step has the best score, so it is the model; losses are logged alike."""
    distill(config(start, tmp_path / "plain", held_out, eval_data=[], eval_every=0))
    scripted(monkeypatch, (0, 1, 2))
    distill(config(start, tmp_path / "scored", held_out))
    assert weights_hash(tmp_path / "scored") == weights_hash(tmp_path / "plain")
    plain, scored = (
        [{k: v for k, v in e.items() if k != "seconds"} for e in read_log(tmp_path / n)] for n in ("plain", "scored")
    )
    assert plain == scored and len(plain) == STEPS
    assert not (tmp_path / "plain" / VALIDATION).exists()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"weight_averaging": 0.5}])
def test_a_resumed_run_ends_in_the_same_bytes(changes, start, held_out, tmp_path, capsys):
    """With the real grader; the run is interrupted after scores that its checkpoint does not have."""
    settings = config(start, tmp_path / "whole", held_out, **changes)
    result = distill(replace(settings, eval_every=1))
    again = replace(settings, eval_every=1, output=tmp_path / "again")
    for step in (4, 2):
        with interrupted_at(step), pytest.raises(KeyboardInterrupt):
            distill(again)
    resumed = distill(again)
    for name in (f"{MODEL}/model.safetensors", VALIDATION):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert resumed["validation"] == result["validation"]
    assert "step 1: accuracy text " in capsys.readouterr().out
    scores = json.loads((tmp_path / "whole" / VALIDATION).read_text())
    assert len(scores) == STEPS and len({entry["text"] for entry in scores}) == 1, "the text path does not train"


@pytest.mark.slow
def test_ctc_training_is_scored_too(tmp_path, start):
    speech = SynthesizeConfig(tmp_path / "speech", "world", split="test", count=6, voices="heldout")
    synthesize(speech)
    settings = AlignConfig([str(start / "data")], tmp_path / "run", steps=2, batch_size=2, warmup_steps=0)
    result = align(replace(settings, eval_data=[str(speech.output)], eval_every=1))
    assert result["validation"]["chosen_audio"] > 0.5, "the bundled projector"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_data": []}, "eval_every: has no effect without eval_data"),
        ({"eval_every": 0}, "eval_data: has no effect without eval_every"),
        ({"eval_every": -1}, "eval_every: -1: must not be negative"),
        ({"eval_data": ["{data}:2"]}, "eval_data: .*: is in data too; hold out other questions"),
        ({"eval_data": ["none"]}, "none/manifest.json: not found"),
        ({"eval_data": ["{long}"]}, "eval_data: .*'free'.* have no rule that grades them"),
    ],
)
def test_held_out_data_that_cannot_be_used_is_refused(changes, message, start, held_out, tmp_path):
    write_examples(tmp_path / "long", [replace(e, question_type="free") for e in toy_examples(1)])
    names = {"data": start / "data", "long": tmp_path / "long"}
    changes = {k: [e.format(**names) for e in v] if isinstance(v, list) else v for k, v in changes.items()}
    with pytest.raises(InputError, match=message):
        distill(config(start, tmp_path / "run", held_out, **changes))


@pytest.mark.slow
def test_training_without_a_grader_is_refused(start, held_out, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"eval_every: needs a grader; selfkd\.align and selfkd\.distill have one"):
        without_grader.distill(config(start, tmp_path / "run", held_out))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="eval_every: wants the whole weights on each process"):
        distill(config(start, tmp_path / "sharded", held_out))


@pytest.mark.slow
def test_metrics_reach_tensorboard(start, held_out, tmp_path):
    """The files outlast the checkpoints; a run resumes with another setting of `report_to`."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = config(start, tmp_path / "run", held_out, report_to=["tensorboard"])
    with interrupted_at(4), pytest.raises(KeyboardInterrupt):
        distill(replace(settings, report_to=[]))
    distill(settings)
    events = reading.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/kd_per_token", "eval/audio_accuracy"} <= set(events.Tags()["scalars"])
    logged = {entry["step"]: entry["loss"] for entry in read_log(tmp_path / "run")}
    written = {event.step: event.value for event in events.Scalars("train/loss")}
    assert written == {step: pytest.approx(logged[step], rel=1e-6) for step in (3, 4, 5, 6)}


@pytest.mark.slow
def test_missing_tensorboard_is_named(start, held_out, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: False)
    with pytest.raises(InputError, match="report_to: tensorboard: is not installed; pip install tensorboard"):
        distill(config(start, tmp_path / "run", held_out, report_to=["tensorboard"]))
