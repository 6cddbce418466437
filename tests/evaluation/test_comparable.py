"""What must be the same in two runs before they are compared: `selfkd compare` refuses a difference by name, the report
keeps the runs apart and gives the reason."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import audio_data, evaluation, write_lines

from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.evaluation.comparable import ModalityRun, difference
from selfkd.evaluation.compare import CompareConfig, compare
from selfkd.evaluation.evaluate import EvaluateConfig
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import read_samples, sample, samples_path
from selfkd.files import write_json
from selfkd.report.build import ReportConfig, report
from selfkd.report.inputs import groups_of, read_runs
from selfkd.run_dir import CONFIG

PROPERTY = settings(deadline=None, max_examples=25, derandomize=True)
CONFIG_VALUES = json.loads(json.dumps(EvaluateConfig("m", synthesis={"engine": "kokoro"}).__dict__, default=str))
ITEM = {
    "id": "a", "source": "pope", "question": "Is it?", "target": "yes", "question_type": "yes_no", "category": "random",
    "details": {"image_source": "p"}, "group": "p", "image": "0a1b", "instruction": "", "answer_format": "\nShortly.",
    "prompt_hash": "77",
}  # fmt: skip
FIXED = {
    "instruction": "audio", "max_new_tokens": 16, "scoring": "official", "endpoint": {"extra": {"temperature": 1}},
    "skip": True,
}  # fmt: skip
AUDIO_SETTINGS = {"voices": ["anna"], "synthesis": {"engine": "flite"}}
FREE = {
    "model": "x", "data": ["y"], "output": "z", "modalities": ["text"], "cache": "c", "batch_size": 1, "seed": 9,
    "url": "http://127.0.0.1/v1", "asr_model": "r", "keep_failures": True, "endpoint": {"concurrency": 2, "budget": 3},
    "synthesis": {"engine": "kokoro", "processes": 4},
}  # fmt: skip


def modality_run(modality="audio", config=(), **item):
    return ModalityRun(f"run-{modality}", modality, CONFIG_VALUES | dict(config), [ITEM | {"id": "0"}, ITEM | item])


@PROPERTY
@given(st.sampled_from(sorted(FIXED)), st.sampled_from(["text", "audio", "cascade"]))
def test_difference_names_a_fixed_setting_with_both_values(name, modality):
    message = difference(modality_run(), modality_run(modality, {name: FIXED[name]}))
    value = FIXED[name]["extra"] if name == "endpoint" else FIXED[name]
    assert message.startswith("has other settings than run-audio (") and name in message
    assert json.dumps(value) in message and f"in run-{modality}" in message
    assert difference(modality_run(modality, {name: value}), modality_run(modality, {name: value})) == ""


@pytest.mark.parametrize("name", AUDIO_SETTINGS)
def test_voices_and_synthesis_matter_to_audio_only(name):
    assert name in difference(modality_run(), modality_run(config={name: AUDIO_SETTINGS[name]}))
    assert difference(modality_run("text", prompt_hash="1"), modality_run(config={name: AUDIO_SETTINGS[name]})) == ""


@PROPERTY
@given(st.sets(st.sampled_from(sorted(FREE))))
def test_model_and_speed_may_differ(names):
    assert difference(modality_run(), modality_run(config={name: FREE[name] for name in names})) == ""
    assert difference(modality_run(config={"voices": ["a", "b"]}), modality_run(config={"voices": ["b", "a"]})) == ""


@PROPERTY
@given(st.sampled_from(sorted(ITEM)), st.sampled_from(["text", "audio", "cascade"]))
def test_difference_names_an_item_with_both_values(field, modality):
    """In grouped benchmarks too, where the group does not contain the image."""
    other = {"other": 1} if field == "details" else "other"
    message = difference(modality_run(), modality_run(modality, **{field: other}))
    if field == "prompt_hash" and modality == "text":
        assert message == "", "text prompts hold no audio"
    elif field == "id":
        assert message.startswith("has other items than run-audio (item ")
        assert "item a is in" in message or "item other is in" in message
        assert modality == "audio" or message.endswith(f"(item a is in run-audio and not in run-{modality})")
    else:
        assert "item a: " in message and json.dumps(other) in message and json.dumps(ITEM[field]) in message
        assert ("has other audio than" in message) == (field == "prompt_hash")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs over the same POPE, two questions an image."""
    folder = tmp_path_factory.mktemp("made")
    data = audio_data(folder / "pope", 24, benchmark="pope")
    evaluation(folder / "sft", data, text="1" * 24, audio="1100" * 6)
    evaluation(folder / "selfkd", data, audio="1110" * 6)
    return folder


@pytest.fixture
def two(made, tmp_path):
    """A copy of them to change."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return [str(tmp_path / name) for name in ("sft", "selfkd")], tmp_path


def change_sample(run, modality="audio", **fields):
    path = samples_path(run, "pope", modality)
    samples = read_samples(path)
    samples[5] |= fields
    write_lines(path, samples)


def page_of(runs, tmp_path):
    return re.sub(r"<[^>]+>", "", report(ReportConfig(runs, tmp_path / "r.html")).read_text())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": "ffff"}, r'other items than .*sft \(item .*5: image: "[0-9a-f]+" in .*sft, "ffff" in .*selfkd\)'),
        ({"question": "Is it a cat?"}, r"has other items than .*sft \(item .*5: question: "),
        ({"target": "perhaps"}, r'has other items than .*sft \(item .*5: target: "no" in .*, "perhaps" in '),
        ({"answer_format": "x"}, r"has other items than .*sft \(item .*5: answer_format: "),
        ({"prompt_hash": "0"}, r"has other audio than .*sft \(item .*5: prompt_hash: .*that of the voices"),
    ],
)  # fmt: skip
def test_different_items_are_refused_and_kept_apart(two, fields, message):
    runs, tmp_path = two
    change_sample(tmp_path / "selfkd", **fields)
    with pytest.raises(InputError, match=rf"runs: .*selfkd: pope .*{message}"):
        compare(CompareConfig(runs, tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    assert all(len(group.audio_systems) == 1 for group in groups_of(read_runs(runs), 0))
    page = page_of(runs, tmp_path)
    assert "In a group of its own: Self-KD" in page and "of the gap left by" not in page and next(iter(fields)) in page


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"max_new_tokens": 16}, "max_new_tokens: 128 in .*sft, 16 in .*selfkd"),
        ({"instruction": "audio"}, 'instruction: "text" in .*sft, "audio" in .*selfkd'),
        ({"scoring": "official"}, 'scoring: .* in .*sft, "official" in .*selfkd'),
        ({"endpoint": {"extra": {"temperature": 1}}}, r'endpoint.extra: null in .*sft, .*"temperature": 1.* in .*'),
        ({"voices": ["anna"]}, 'voices: .* in .*sft, .*"anna".* in .*selfkd'),
    ],
)  # fmt: skip
def test_different_settings_are_refused_and_kept_apart(two, config, message):
    runs, tmp_path = two
    path = tmp_path / "selfkd" / CONFIG
    write_json(path, json.loads(path.read_text()) | config)
    with pytest.raises(InputError, match=rf"runs: .*selfkd: pope has other settings than .*sft \({message}\)"):
        compare(CompareConfig(runs, tmp_path / "c"))
    page = page_of(runs, tmp_path)
    assert "In a group of its own: Self-KD has other settings than sft" in page and "of the gap left by" not in page


def test_equal_runs_are_compared(two):
    runs, tmp_path = two
    assert compare(CompareConfig(runs, tmp_path / "c"))["pope"]["gap_closed"]["selfkd"]["groups"] == 12
    assert "In a group of its own" not in page_of(runs, tmp_path)


def test_samples_of_an_older_version_are_refused(two):
    runs, tmp_path = two
    path = samples_path(tmp_path / "selfkd", "pope", "audio")
    write_lines(path, [{k: v for k, v in s.items() if k != "image"} for s in read_samples(path)])
    with pytest.raises(InputError, match=r"pope.audio.jsonl: line 1: field image: missing; an older selfkd"):
        compare(CompareConfig(runs, tmp_path / "c"))


def test_sample_identifies_image_and_prompt(tmp_path):
    example = ExampleFolder(audio_data(tmp_path / "pope", 2, benchmark="pope"))[0]
    one, other = (
        sample(e, "text", Prediction("yes")) for e in (example, replace(example, image=example.image + b"\0"))
    )
    assert (
        one["group"] == other["group"] and one["image"] != other["image"] and one["prompt_hash"] != other["prompt_hash"]
    )
    assert sample(replace(example, image=None), "text", Prediction("yes"))["image"] == ""
