"""What `selfkd align` says before training, whether it is known to suffice, and after it, what is understood."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from examples import training_data

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST
from selfkd.files import write_json
from selfkd.model.checkpoint import load_model
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.synthesis.tts.base import ESPEAK_VOICES
from selfkd.training import align_check
from selfkd.training.align import AlignConfig, align
from selfkd.training.align_check import held_out_check, lines
from selfkd.training.align_evidence import ENOUGH, IN_PART, UNDERSTOOD, verdict, warnings
from selfkd.training.config import CTC, NEW_CTC, STACK


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words") / "data"
    synthesize(SynthesizeConfig(folder, "words", count=16, voices="training", processes=1))
    return folder


@pytest.fixture(autouse=True)
def few_sentences(monkeypatch):
    monkeypatch.setattr(align_check, "SENTENCES", 12)


@pytest.mark.slow
def test_align_ends_with_the_word_error_rate_of_the_bundled_encoder(words, tmp_path, capsys):
    """One step at a rate of almost nothing: the bundled ASR model's own transcripts, in voices of no training."""
    config = AlignConfig([str(words)], tmp_path / "run", steps=1, batch_size=2, learning_rate=1e-12, warmup_steps=0)
    result = align(config)
    found = result["held_out"]
    assert found["n"] == 12 and set(found["voices"]) <= set(ESPEAK_VOICES["heldout"]) and len(found["voices"]) > 6
    assert found["word_error_rate"] < 0.05
    assert json.loads((tmp_path / "run" / "result.json").read_text())["held_out"] == found
    printed = capsys.readouterr()
    assert "warning" not in printed.err, "a trained head needs no new training"
    first, second, third = printed.out.splitlines()[-3:]
    assert first.startswith(f"{config.output}: word error rate {found['word_error_rate']:.1%} (standard error ")
    assert "12 sentences of the data in held-out voices of espeak-ng" in first
    assert second.startswith(f"{config.output}: speech encoder and projector understand speech: up to 5%")
    assert third == f"{config.output}: the model is in {config.output / 'model'}"


@pytest.mark.slow
def test_a_new_head_of_few_steps_is_warned_of_and_understands_nothing(words, tmp_path, capsys, tiny_whisper):
    settings = AlignConfig([str(words)], tmp_path / "run", speech_encoder=str(tiny_whisper), steps=2, batch_size=4)
    assert align(settings)["held_out"]["word_error_rate"] > 0.9
    printed = capsys.readouterr()
    warned = [line for line in printed.err.splitlines() if "warning" in line]
    assert "steps: 2 are 8 examples, under the 12,800 that worked for a new CTC head" in warned[0]
    assert "data: 0.00" in warned[1] and "hours of audio, under the 1.6 that worked" in warned[1]
    assert "docs/results.md" in warned[0] and "do not understand speech: over 40%" in printed.out


@pytest.mark.slow
def test_a_frame_stacking_projector_is_compared_with_another_rows_audio(words, tmp_path):
    model, processor = load_model("selfkd-tiny-stack")
    config = AlignConfig([str(words)], tmp_path, projector="stack")
    found = held_out_check(model, processor, config)
    assert found["same_answers"] > 0.4 and found["same_answers_of_another_audio"] < 0.2
    printed = lines(found)
    assert "so the audio decides the answers" in printed[0] and "no word error rate" in printed[1]
    deaf = found | {"same_answers": 0.1, "same_answers_of_another_audio": 0.1}
    assert "no clear difference: the audio does not decide them" in lines(deaf)[0]


def test_voices_of_the_training_and_unknown_languages_are_left_out(words, parts, tmp_path):
    folder = tmp_path / "data"
    training_data(tmp_path)
    manifest = json.loads((folder / MANIFEST).read_text())
    for changes in ({"voice_names": ESPEAK_VOICES["heldout"]}, {"language": "xx"}):
        write_json(folder / MANIFEST, manifest | changes)
        assert not align_check._in_held_out_voices([ExampleFolder(folder)], 0)
        found = held_out_check(*parts, AlignConfig([str(folder)], tmp_path))
        assert found == {"reason": "espeak-ng speaks none of the sentences"}
        assert lines(found) == ["not measured in a held-out voice: espeak-ng speaks none of the sentences"]
    write_json(folder / MANIFEST, manifest | {"language": "de-AT"})
    voices = {one.example.voice for one in align_check._in_held_out_voices([ExampleFolder(folder)], 0)}
    assert voices and all(voice.startswith("de+") for voice in voices)


def test_no_error_of_the_check_costs_a_finished_training(parts, tmp_path):
    found = held_out_check(*parts, AlignConfig([str(tmp_path / "gone")], tmp_path))
    assert list(found) == ["reason"] and "gone" in found["reason"]


def test_warnings_count_examples_of_all_steps_and_hours_of_the_data(words, tmp_path, monkeypatch):
    config = AlignConfig([str(words)], tmp_path, steps=200, batch_size=16)
    folders = [ExampleFolder(words)]
    assert len(warnings(NEW_CTC, config, folders)) == len(warnings(STACK, config, folders)) == 2
    assert warnings(CTC, config, folders) == []
    enough = replace(config, steps=400, batch_size=16, training={"gradient_accumulation_steps": 2})
    assert ["data: " in line for line in warnings(NEW_CTC, enough, folders)] == [True]
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert ["data: " in line for line in warnings(NEW_CTC, config, folders)] == [True]
    hours = sum(e.duration_seconds for e in folders[0]) / 3600
    many = folders * (int(ENOUGH[NEW_CTC].hours / hours) + 1)
    assert warnings(NEW_CTC, config, many) == []


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.0, "understand speech: up to 5%"), (0.05, "understand speech: up"), (0.051, "in part"), (0.4, "in part"),
     (0.41, "do not understand"), (2.0, "do not understand")],
)  # fmt: skip
def test_the_verdict_follows_the_word_error_rate(rate, expected):
    assert expected in verdict(rate)


def test_the_points_of_the_verdict_are_those_of_the_record():
    record = Path(__file__).parents[2] / "experiments/records/2026-11-29_three_engines"
    scores = json.loads((record / "scores.json").read_text())
    cascades = [*json.loads((record / "scores-whisper.json").read_text()).values()]
    cascades += [found for methods in scores.values() for name, found in methods.items() if name.startswith("cascade")]
    text = scores["espeak-ng"]["text"]["accuracy"]
    lost = {one["wer"]: 100 * (text - one["accuracy"]) for one in cascades if one.get("n") == 400}
    assert len(lost) == 12
    understood = [points for rate, points in lost.items() if rate <= UNDERSTOOD]
    in_part = [points for rate, points in lost.items() if UNDERSTOOD < rate <= IN_PART]
    assert f"at most {max(understood):.0f} points" in verdict(UNDERSTOOD)
    assert f"lost {min(in_part):.0f} to {max(in_part):.0f} points" in verdict(IN_PART)
