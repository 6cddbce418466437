"""Scores by voice and by speaker: means weigh voices the same, the interval is over images, whoever asks about them."""

from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from voice_samples import sample, samples_of, speakers

from selfkd.evaluation.by_voice import (
    MAX_SPEAKERS,
    MIN_ITEMS,
    by_speaker,
    spread,
    spread_of,
    spread_over_voices,
    spread_rows,
)
from selfkd.evaluation.compare import compare_samples, compare_voices
from selfkd.evaluation.metrics import vision_audio_gap
from selfkd.evaluation.tables import gap_table, voices_tables
from selfkd.evaluation.uncertainty import SCORE, mean_interval
from selfkd.terminal import table_console

VOICES = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=12), min_size=1, max_size=5)


@given(VOICES)
def test_mean_weighs_voices_the_same_and_lies_in_its_interval(voices):
    values = {str(n): [(s, s["score"]) for s in samples_of(scores, str(n))] for n, scores in enumerate(voices)}
    found, means = spread(values, SCORE), [fmean(scores) for scores in voices]
    assert found["mean"] == pytest.approx(fmean(means))
    assert (found["min"], found["max"]) == (min(means), max(means))
    assert found["sd"] is None if len(voices) == 1 else found["sd"] == pytest.approx(stdev(means))
    groups = {s["group"] for items in values.values() for s, _ in items}
    if len(groups) < 2:
        assert found["interval"] is None
    else:
        low, high = found["interval"]
        assert low - 1e-9 <= found["mean"] <= high + 1e-9


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=6, max_size=6), min_size=2, max_size=4))
def test_with_as_many_items_each_the_interval_is_that_of_all_items_in_groups(voices):
    values = {str(n): [(s, s["score"]) for s in samples_of(scores, str(n))] for n, scores in enumerate(voices)}
    items = [s for of in values.values() for s, _ in of]
    expected = mean_interval([s["score"] for s in items], [s["group"] for s in items], SCORE)
    assert spread(values, SCORE)["interval"] == pytest.approx(expected)


def test_a_second_voice_with_the_same_errors_adds_no_certainty():
    scores = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    one = spread_of({"a": {"audio": samples_of(scores, "a")}})
    two = spread_of({v: {"audio": samples_of(scores, v)} for v in "ab"})
    width = [o["accuracy"]["interval"][1] - o["accuracy"]["interval"][0] for o in (one, two)]
    assert width[0] == pytest.approx(width[1]) and two["accuracy"]["sd"] == 0.0
    others = spread_of({v: {"audio": samples_of(scores, v, [f"{v}{i}" for i in range(8)])} for v in "ab"})
    assert others["accuracy"]["interval"][1] - others["accuracy"]["interval"][0] < width[0], "other images do"


def test_sentences_without_images_are_grouped_by_their_text():
    items = [sample(f"q-{v}", 1.0, v, image="") for v in "ab"]
    assert spread({v: [(s, 1.0)] for v, s in zip("ab", items, strict=True)}, SCORE)["interval"] is None


def test_scores_by_speaker():
    text, audio = speakers()
    found = by_speaker(text, audio)
    assert {name: (of["n"], of["accuracy"]) for name, of in found["speakers"].items()} == {
        "anna": (10, 0.9), "ben": (10, 0.4)
    }  # fmt: skip
    ben = [s for s in audio if s["voice"] == "ben"]
    expected = vision_audio_gap(text, ben)
    assert found["speakers"]["ben"]["gap"] == {name: expected[name] for name in found["speakers"]["ben"]["gap"]}
    assert found["speakers"]["ben"]["gap"]["verdict"] == "loses"
    over = found["over_speakers"]
    assert over["voices"] == 2 and over["gap"]["mean"] == pytest.approx(0.35)
    assert over["accuracy"] == {
        "mean": pytest.approx(0.65), "sd": pytest.approx(0.5 / 2**0.5), "min": 0.4, "max": 0.9,
        "interval": over["accuracy"]["interval"],
    }  # fmt: skip


def test_failed_items_count_for_no_speaker_and_one_speaker_has_no_spread():
    text, audio = speakers(errors=[f"{i}-ben" for i in range(10)])
    assert by_speaker(text, audio) == {}
    text, audio = speakers(errors=["0-ben"])
    assert by_speaker(text, audio)["speakers"]["ben"]["n"] == 9
    assert "gap" not in by_speaker([], audio)["over_speakers"]
    many = [s for n in range(MAX_SPEAKERS + 1) for s in samples_of([1.0] * MIN_ITEMS, str(n))]
    assert by_speaker([], many) == {}, "too many"
    assert len(by_speaker([], many[:-MIN_ITEMS])["speakers"]) == MAX_SPEAKERS
    assert by_speaker([], many[: 2 * MIN_ITEMS - 1]) == {}, "too few items"


def test_spread_over_voices_of_folders():
    audio = {"mme@a": [1.0, 0.0], "mme@b": [1.0, 1.0], "pope": [0.0, 0.0]}
    read = {name: {"audio": samples_of(s, name), "text": samples_of([1.0, 1.0], name)} for name, s in audio.items()}
    over = spread_over_voices(list(read), read.__getitem__)
    assert list(over) == ["mme"]
    assert over["mme"]["over_voices"]["accuracy"]["mean"] == 0.75
    assert over["mme"]["over_voices"]["gap"]["max"] == 0.5
    compared = compare_voices({n: {"text": of["text"], "run": of["audio"]} for n, of in read.items()}, 0)
    assert compared["mme"]["over_voices"]["run"] == over["mme"]["over_voices"]
    assert compared["mme"]["systems"] == {}


def shown(*tables, capsys):
    for table in tables:
        table_console().print(table)
    return capsys.readouterr().out


def test_tables_show_voices_speakers_and_spread(capsys):
    text, audio = speakers()
    scores = compare_samples({"text": text, "run": audio}, 0)
    assert set(scores["by_speaker"]["run"]["speakers"]) == {"anna", "ben"}
    printed = shown(*voices_tables({"mine": scores}), capsys=capsys)
    assert "mine by speaker" in printed and "anna" in printed and "40.0, 90.0" in printed
    rows = spread_rows({"run": scores["by_speaker"]["run"]["over_speakers"]}, ["text", "run"], lambda x: f"{x:.2f}")
    assert [row[:2] for row in rows] == [["mean (95%)", ""], ["SD over voices", ""], ["min, max", ""]]
    assert rows[1][2] == "0.35" and rows[2][2] == "0.40, 0.90"
    result = {
        "mine": {"text": scores["systems"]["text"], "audio": scores["systems"]["run"], "gap": scores["gap"]["run"]}
    }
    result["mine"] |= scores["by_speaker"]["run"]
    printed = shown(gap_table(result), capsys=capsys)
    assert "mine, over" in printed and "65.0 ± 35.4" in printed and "ben" in printed
