"""What runs must have seen alike before they are compared: `selfkd compare` refuses it by name, the report keeps it
apart and says why."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import audio_data, evaluation, write_lines

from selfkd.errors import InputError
from selfkd.evaluation.comparable import Query, difference
from selfkd.evaluation.compare import CompareConfig, compare
from selfkd.evaluation.evaluate import EvaluateConfig
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import read_samples, sample, samples_path
from selfkd.files import write_json
from selfkd.report.build import ReportConfig, report
from selfkd.report.inputs import groups_of, read_runs
from selfkd.run_dir import CONFIG

PROPERTY = settings(deadline=None, max_examples=60, derandomize=True)
CONFIGURED = json.loads(json.dumps(EvaluateConfig("m", synthesis={"engine": "kokoro"}).__dict__, default=str))
ITEM = {
    "id": "a", "source": "pope", "question": "Is it?", "target": "yes", "question_type": "yes_no", "category": "random",
    "details": {"image_source": "p"}, "group": "p", "image": "0a1b", "instruction": "", "answer_format": "\nShortly.",
    "prompt": "77",
}  # fmt: skip
COUNTS = {
    "instruction": "spoken", "max_new_tokens": 16, "scoring": "official", "endpoint": {"extra": {"temperature": 1}},
    "skip": True,
}  # fmt: skip
OF_THE_SPEECH = {"voices": ["anna"], "audio": {"engine": "flite"}}
OF_THE_RUN = {
    "model": "x", "data": ["y"], "output": "z", "modalities": ["text"], "cache": "c", "batch_size": 1, "seed": 9,
    "url": "http://127.0.0.1/v1", "asr_model": "r", "keep_failures": True, "endpoint": {"concurrency": 2, "budget": 3},
    "audio": {"engine": "kokoro", "processes": 4},
}  # fmt: skip


def asked(modality="audio", config=(), **item):
    return Query(f"run-{modality}", modality, CONFIGURED | dict(config), [ITEM | {"id": "0"}, ITEM | item])


@PROPERTY
@given(st.sampled_from(sorted(COUNTS)), st.sampled_from(["text", "audio", "cascade"]))
def test_a_setting_that_changes_what_is_asked_is_named_with_both_values(name, modality):
    told = difference(asked(), asked(modality, {name: COUNTS[name]}))
    value = COUNTS[name]["extra"] if name == "endpoint" else COUNTS[name]
    assert told.startswith("was asked otherwise than run-speech (") and name in told and json.dumps(value) in told
    assert f"in run-{modality}" in told
    assert difference(asked(modality, {name: value}), asked(modality, {name: value})) == ""


@pytest.mark.parametrize("name", OF_THE_SPEECH)
def test_voices_and_speech_matter_to_what_is_spoken(name):
    assert name in difference(asked(), asked(config={name: OF_THE_SPEECH[name]}))
    assert difference(asked("text", prompt="1"), asked(config={name: OF_THE_SPEECH[name]})) == ""


@PROPERTY
@given(st.sets(st.sampled_from(sorted(OF_THE_RUN))))
def test_who_is_asked_and_how_fast_may_differ(names):
    assert difference(asked(), asked(config={name: OF_THE_RUN[name] for name in names})) == ""
    assert difference(asked(config={"voices": ["a", "b"]}), asked(config={"voices": ["b", "a"]})) == ""


@PROPERTY
@given(st.sampled_from(sorted(ITEM)), st.sampled_from(["text", "audio", "cascade"]))
def test_an_item_that_differs_is_named_with_both_values(field, modality):
    """In grouped benchmarks too, where the group does not hold the image."""
    other = {"other": 1} if field == "details" else "other"
    told = difference(asked(), asked(modality, **{field: other}))
    if field == "prompt" and modality == "text":
        assert told == "", "the sound is no part of what is written"
    elif field == "id":
        assert told == f"has other items than run-speech (item a is in run-speech and not in run-{modality})"
    else:
        assert "item a: " in told and json.dumps(other) in told and json.dumps(ITEM[field]) in told
        assert ("spoken otherwise than in" in told) == (field == "prompt")


@pytest.fixture
def two(tmp_path):
    """Two runs over the same POPE, two questions an image."""
    data = audio_data(tmp_path / "pope", 24, benchmark="pope")
    evaluation(tmp_path / "sft", data, text="1" * 24, audio="1100" * 6)
    evaluation(tmp_path / "selfkd", data, audio="1110" * 6)
    return [str(tmp_path / name) for name in ("sft", "selfkd")], tmp_path


def changed(run, modality="audio", **fields):
    path = samples_path(run, "pope", modality)
    samples = read_samples(path)
    samples[5] |= fields
    write_lines(path, samples)


def page_of(runs, tmp_path):
    return re.sub(r"<[^>]+>", "", report(ReportConfig(runs, tmp_path / "r.html")).read_text())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"image": "ffff"}, r'other items than .*sft \(item .*5: image: "[0-9a-f]+" in .*sft, "ffff" in .*selfkd\)'),
        ({"question": "Is it a cat?"}, r"has other items than .*sft \(item .*5: question: "),
        ({"target": "perhaps"}, r'has other items than .*sft \(item .*5: truth: "no" in .*, "perhaps" in '),
        ({"answer_format": "x"}, r"has other items than .*sft \(item .*5: answer_format: "),
        ({"prompt": "0"}, r"spoken otherwise than in .*sft \(item .*5: hash of the prompt: .*that of the voices"),
    ],
)  # fmt: skip
def test_items_that_differ_are_refused_and_stand_apart(two, fields, told):
    runs, tmp_path = two
    changed(tmp_path / "selfkd", **fields)
    with pytest.raises(InputError, match=rf"runs: .*selfkd: pope .*{told}"):
        compare(CompareConfig(runs, tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    assert all(len(group.spoken) == 1 for group in groups_of(read_runs(runs), 0))
    page = page_of(runs, tmp_path)
    assert "Measured apart: Self-KD" in page and "of the gap that" not in page and f"{next(iter(fields))}" in page


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"max_new_tokens": 16}, "max_new_tokens: 128 in .*sft, 16 in .*selfkd"),
        ({"instruction": "spoken"}, 'instruction: "text" in .*sft, "spoken" in .*selfkd'),
        ({"scoring": "official"}, 'scoring: .* in .*sft, "official" in .*selfkd'),
        ({"endpoint": {"extra": {"temperature": 1}}}, r'endpoint.extra: null in .*sft, .*"temperature": 1.* in .*'),
        ({"voices": ["anna"]}, 'voices: .* in .*sft, .*"anna".* in .*selfkd'),
    ],
)  # fmt: skip
def test_settings_that_differ_are_refused_and_stand_apart(two, config, told):
    runs, tmp_path = two
    path = tmp_path / "selfkd" / CONFIG
    write_json(path, json.loads(path.read_text()) | config)
    with pytest.raises(InputError, match=rf"runs: .*selfkd: pope was asked otherwise than .*sft \({told}\)"):
        compare(CompareConfig(runs, tmp_path / "c"))
    page = page_of(runs, tmp_path)
    assert "Measured apart: Self-KD was asked otherwise than sft" in page and "of the gap that" not in page


def test_what_is_the_same_is_compared(two):
    runs, tmp_path = two
    assert compare(CompareConfig(runs, tmp_path / "c"))["pope"]["gap_closed"]["selfkd"]["groups"] == 12
    assert "Measured apart" not in page_of(runs, tmp_path)


def test_samples_of_an_older_version_are_refused(two):
    runs, tmp_path = two
    path = samples_path(tmp_path / "selfkd", "pope", "audio")
    write_lines(path, [{k: v for k, v in s.items() if k != "image"} for s in read_samples(path)])
    with pytest.raises(InputError, match=r"pope.audio.jsonl: field image: missing; an older selfkd wrote this run"):
        compare(CompareConfig(runs, tmp_path / "c"))


def test_a_sample_says_what_was_shown(tmp_path):
    from selfkd.data.dataset import ExampleFolder

    example = ExampleFolder(audio_data(tmp_path / "pope", 2, benchmark="pope"))[0]
    one, other = (
        sample(e, "text", Prediction("yes")) for e in (example, replace(example, image=example.image + b"\0"))
    )
    assert one["group"] == other["group"] and one["image"] != other["image"] and one["prompt"] != other["prompt"]
    assert sample(replace(example, image=None), "text", Prediction("yes"))["image"] == ""
