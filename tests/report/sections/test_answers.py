"""The sentences of the first screen against the scores that they speak of, for any combination of runs: without text,
audio or cascade, one item, several voices and models, no clear gap, a gap that grows, a run without responses."""

import re
import shlex
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from report_runs import audio_data, evaluation, evaluation_on, rendered
from voice_samples import sample

from selfkd.cli import parse_command
from selfkd.evaluation.compare import compare_samples
from selfkd.report.inputs import Group, RunFolder, groups_of, pooled_voices, read_runs
from selfkd.report.sections.answers import (
    QUESTIONS,
    answers_section,
    cascade_answer,
    cause_answer,
    closed_answer,
    gap_answer,
)
from selfkd.report.sections.scope import Scope, main_scope

NUMBER = r"(\d+\.\d)"
AUDIO = {"sft": "SFT", "selfkd": "Self-KD", "ctc": "CTC projector", "third run": "third run"}
MIN_IMAGES = 10


def scope_of(scores, images, wers=None):
    """A scope of {system: {(voice, item): score, or None without a response}}, item i about image i % `images`."""
    voices = sorted({voice for of in scores.values() for voice, _ in of})
    runs = {s: RunFolder(s, Path(f"runs/eval-{s}"), "evaluate", config(s), {}, {}) for s in scores}
    groups = []
    for voice in voices:
        samples = {}
        for system, of in scores.items():
            samples[system] = [
                sample(f"{item}-item", score, "anna", f"image-{item % images}", error="" if score is not None else "x")
                | {"target": str(item), "word_error_rate": (wers or {}).get(item) if system == "cascade" else None}
                for (own, item), score in of.items()
                if own == voice
            ]
        name = f"mine@{voice}" if len(voices) > 1 else "mine"
        groups.append(Group(name, samples, runs, compare_samples(samples, 0) | {"scoring": "lenient"}))
    shown = [*pooled_voices(groups, 0).values(), *groups]
    return main_scope([Scope(group, group.benchmark, 0) for group in shown])


def config(name):
    return {"model": f"runs/{name} 1/model", "data": ["data/my test", "b=data/b"], "stage": "evaluate"}


@st.composite
def outcomes(draw):
    """({system: {(voice, item): score}}, number of images)."""
    images = draw(st.sampled_from([1, 3, 9, 10, 14, 40]))
    per_image = draw(st.sampled_from([1, 2]))
    voices = draw(st.sampled_from([["a"], ["a"], ["a", "b"]]))
    systems = [*(["text"] * draw(st.booleans() | st.just(True)))]
    systems += draw(st.lists(st.sampled_from(list(AUDIO)), unique=True, max_size=4))
    systems += ["cascade"] * draw(st.booleans())
    systems = systems or ["text"]
    random, found = draw(st.randoms(use_true_random=False)), {}
    for system in systems:
        right, missing = draw(st.sampled_from([0, 0.2, 0.5, 0.9, 1])), draw(st.sampled_from([0, 0, 0, 0.2, 1]))
        graded = draw(st.sampled_from([[1.0], [1.0], [1.0, 0.5]]))
        found[system] = {
            (voice, item): None if random.random() < missing
            else random.choice(graded) if random.random() < right else 0.0
            for voice in voices
            for item in range(images * per_image)
        }  # fmt: skip
    return found, images


def answered(scores, *systems):
    """Items with a response from all of the systems."""
    return [i for i in scores[systems[0]] if all(scores[s][i] is not None for s in systems)]


def mean(scores, system, items):
    return fmean(scores[system][i] for i in items)


def audio_systems(scores):
    return [s for s in scores if s in AUDIO and answered(scores, s)]


def number(pattern, text):
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return float(found[1].replace("−", "-"))


def images_of(items, images):
    return len({item % images for _, item in items})


def assert_points(text, difference):
    """A difference in points, with its direction in words."""
    if abs(difference) < 1e-9:
        assert ": no difference" in text
        return
    assert number(rf": {NUMBER} points", text) == pytest.approx(100 * abs(difference), abs=0.0501)
    assert f"points {'more' if difference > 0 else 'fewer'}" in text.partition(": ")[2]


def interval_excludes_zero(text):
    """Of the first interval: both its ends lie on one side."""
    ends = re.search(r"95% interval: (.*?)\)", text)[1]
    return " to " in ends and len(re.findall("more|fewer|difference", ends)) == 1


def marks(right, count=40):
    return {("a", i): float(i < right) for i in range(count)}


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(outcomes())
@example(({"text": marks(1, 1), "sft": marks(0, 1)}, 1))
@example(({"text": marks(40), "sft": marks(30), "selfkd": marks(0)}, 40))
@example(({"text": marks(40), "sft": marks(20), "selfkd": marks(19)}, 40))
@example(({"text": marks(39), "sft": marks(10), "selfkd": marks(24), "ctc": marks(36), "cascade": marks(39)}, 40))
@example(({"text": marks(40), "sft": marks(38), "cascade": marks(9)}, 40))
@example(({"text": marks(40), "sft": marks(9), "cascade": marks(38)}, 40))
def test_sentences_agree_with_the_scores(sampled):
    scores, images = sampled
    scope = scope_of(scores, images)
    answers = [gap_answer(scope), closed_answer(scope), cascade_answer(scope), cause_answer(scope)]
    assert_well_formed(answers)
    assert_gap(answers[0], scores, images)
    assert_closed(answers[1], scores, images)
    assert_cascade(answers[2], scores, images)
    assert_cause(answers[3], scores, images)


def assert_well_formed(answers):
    for answer in answers:
        for text in (answer.short, answer.sentence, *answer.more):
            assert text and not re.search(r"\b(nan|None|inf)\b|  |\.\.|\(\)", text), text
            assert text.count("(") == text.count(")") and text[0].isupper() | text.startswith("third"), text
        assert all(text.endswith(".") for text in (answer.sentence, *answer.more)), answer
        assert len(answer.short) <= 45 and not answer.short.endswith(".")
        if answer.command:
            program, command, *arguments = shlex.split(answer.command)
            parsed, _ = parse_command(command, arguments)
            assert program == "selfkd" and list(parsed.data) == ["data/my test", "b=data/b"]
            assert list(parsed.modalities) == [answer.command.partition("--modalities ")[2].split()[0]]


def without_a_gap(answer, scores):
    """Whether no gap can be measured, which the answer must say, with the modality that is missing."""
    if "text" not in scores or not answered(scores, "text"):
        assert answer.short == "Not known: no text queries" and "--modalities text" in answer.command
    elif not audio_systems(scores):
        assert answer.short == "Not known: no audio queries" and "--modalities audio" in answer.command
    elif not answered(scores, audio_systems(scores)[0], "text"):
        assert answer.short == "Not known: no item in common"
    else:
        return False
    return True


def assert_gap(answer, scores, images):
    if without_a_gap(answer, scores):
        return
    first = audio_systems(scores)[0]
    both = answered(scores, first, "text")
    audio, text = mean(scores, first, both), mean(scores, "text", both)
    assert answer.sentence.startswith(f"{AUDIO[first]} scores ")
    assert number(rf"scores {NUMBER}% on audio", answer.sentence) == pytest.approx(100 * audio, abs=0.0501)
    assert number(rf"and {NUMBER}% on the same", answer.sentence) == pytest.approx(100 * text, abs=0.0501)
    if images_of(both, images) < MIN_IMAGES:
        assert answer.short == "Not known yet: too few images"
    elif answer.short.startswith("Not measurable"):
        assert text < 0.5 and "at chance there is no gap" in answer.sentence
        return
    elif answer.short.startswith("Audio loses"):
        assert audio < text and interval_excludes_zero(answer.sentence)
        assert number(rf"loses {NUMBER}", answer.short) == pytest.approx(100 * (text - audio), abs=0.0501)
    elif answer.short.startswith("No gap: audio gains"):
        assert audio > text and interval_excludes_zero(answer.sentence)
        assert number(rf"gains {NUMBER}", answer.short) == pytest.approx(100 * (audio - text), abs=0.0501)
    else:
        assert answer.short == "No clear gap" and not interval_excludes_zero(answer.sentence)
    assert_points(answer.sentence, audio - text)


def others_of(scores):
    """{model after the first: (difference to the first, share of its gap), on the items that text answered too}."""
    first, *rest = audio_systems(scores)
    found = {}
    for system in rest:
        items = answered(scores, first, system, "text")
        if items:
            text, before, after = (mean(scores, s, items) for s in ("text", first, system))
            found[system] = after - before, (after - before) / (text - before) if text > before else None
    return found


def assert_closed(answer, scores, images):
    if without_a_gap(answer, scores):
        return
    first, *_ = audio_systems(scores)
    others = others_of(scores) if first == next(s for s in scores if s in AUDIO) else {}
    if not others and len(set(scores) & set(AUDIO)) > 1:
        assert answer.short == "Not known: no item in common" and "the first model" in answer.sentence
        return
    if not others:
        assert answer.short == "Not known: only one model" and "TRAINED_MODEL" in answer.command
        return
    named = re.match(rf"({'|'.join(AUDIO.values())})", answer.sentence)[1]
    best = next(s for s, title in AUDIO.items() if title == named)
    difference, share = others[best]
    if "share" in answer.short or "closes" in answer.short or "grows" in answer.short:
        same_items = len({len(answered(scores, first, s, "text")) for s in others}) == 1
        assert not same_items or share == pytest.approx(max(s for _, s in others.values() if s is not None))
        assert f"of {AUDIO[first]} " in answer.sentence or f"that {AUDIO[first]} leaves" in answer.sentence
        k = re.search(r"the best of (\d) models", answer.sentence)
        assert (int(k[1]) if k else 1) <= len(others)
    if answer.short.startswith(f"{named} closes"):
        assert share > 0
        assert number(rf"closes {NUMBER}%", answer.short) == pytest.approx(100 * share, abs=0.0501)
        assert number(rf"closes {NUMBER}%", answer.sentence) == pytest.approx(100 * share, abs=0.0501)
    elif answer.short == "Not at all: the gap grows":
        assert share < 0
        assert number(rf"larger by {NUMBER}%", answer.sentence) == pytest.approx(-100 * share, abs=0.0501)
    elif answer.short == "By no clear share":
        assert number(r"closes (−?\d+\.\d)%", answer.sentence) == pytest.approx(100 * share, abs=0.0501)
        low, high = re.search(r"leaves \((.*)% to (.*)%\)", answer.sentence).groups()
        assert low.startswith("−") or float(low) == 0
        assert not high.startswith("−")
    else:
        items = answered(scores, first, best, "text")
        few = images_of(items, images) < MIN_IMAGES
        assert (answer.short == "Not known yet: too few images") == few
        assert few or answer.short in ("No clear gap to close", "Not measurable: text is at chance")
        assert (
            difference == pytest.approx(max(d for d, _ in others.values()))
            or len({len(answered(scores, first, s, "text")) for s in others}) > 1
        )


def assert_compared(text, scores, first, second):
    items = answered(scores, first, second)
    one, other = mean(scores, first, items), mean(scores, second, items)
    assert number(rf"scores {NUMBER}%", text) == pytest.approx(100 * one, abs=0.0501)
    assert number(rf", the cascade {NUMBER}%", text) == pytest.approx(100 * other, abs=0.0501)
    assert_points(text, one - other)
    return one - other


def assert_cascade(answer, scores, images):
    if "cascade" not in scores or not answered(scores, "cascade"):
        assert answer.short == "Not known: no cascade" and "--modalities cascade" in answer.command
        return
    if not audio_systems(scores):
        assert answer.short == "Not known: no audio queries"
        return
    named = re.search(rf"({'|'.join(AUDIO.values())})", answer.sentence)[1]
    best = next(s for s, title in AUDIO.items() if title == named)
    if answer.short == "Not known: no item in common":
        assert not answered(scores, best, "cascade")
        return
    difference = assert_compared(answer.sentence, scores, best, "cascade")
    if all(score is not None for of in scores.values() for score in of.values()):
        every = list(scores["cascade"])
        assert mean(scores, best, every) == pytest.approx(max(mean(scores, s, every) for s in audio_systems(scores)))
    few = images_of(answered(scores, best, "cascade"), images) < MIN_IMAGES
    assert (answer.short == "Not known yet: too few images") == few
    if not few:
        assert ("no clear difference" in answer.sentence) == (answer.short == "No clear difference")
        assert interval_excludes_zero(answer.sentence) == (answer.short != "No clear difference")
    if "ahead" in answer.short or "behind" in answer.short:
        assert (difference > 0) == ("ahead" in answer.short)
        assert number(rf"by {NUMBER}", answer.short) == pytest.approx(100 * abs(difference), abs=0.0501)


def assert_cause(answer, scores, images):
    if without_a_gap(answer, scores):
        return
    named = re.search(rf"({'|'.join(AUDIO.values())})", answer.sentence)[1]
    best = next(s for s, title in AUDIO.items() if title == named)
    both = answered(scores, best, "text")
    if not both:
        assert answer.short == "Not known: no item in common"
        return
    text, audio = mean(scores, "text", both), mean(scores, best, both)
    image, speech = 1 - text, text - audio
    assert number(rf"loses {NUMBER} points with", answer.sentence) == pytest.approx(100 * image, abs=0.0501)
    if speech > 1e-9:
        assert number(rf"and {NUMBER} points more with", answer.sentence) == pytest.approx(100 * speech, abs=0.0501)
    elif speech < -1e-9:
        assert "and no more with" in answer.sentence
    few = images_of(both, images) < MIN_IMAGES
    assert (answer.short == "Not known yet: too few images") == few
    if answer.short == "Mostly the speech":
        assert speech > image > 0
    elif answer.short == "Only the speech":
        assert speech > 0 and image == pytest.approx(0)
    elif answer.short == "Mostly the image":
        assert image > speech > 0
    elif answer.short == "Only the image":
        assert image > 0 and speech <= 1e-9
    elif answer.short.startswith("Neither"):
        assert image == pytest.approx(0) and speech <= 1e-9


def test_the_model_that_closes_the_largest_share_is_named():
    """Not the first that closes a clear one, as Self-KD does here."""
    scores = {"text": marks(39), "sft": marks(10), "selfkd": marks(24), "ctc": marks(38), "cascade": marks(39)}
    answer = closed_answer(scope_of(scores, 40))
    assert answer.short == "CTC projector closes 96.6%"
    assert answer.sentence.startswith("CTC projector, the best of 2 models, closes 96.6% of the gap that SFT leaves (")
    assert any(line.startswith("Next is Self-KD, with 48.3% (") for line in answer.more)


def test_a_run_that_makes_things_worse():
    scores = {"text": marks(40), "sft": marks(28), "selfkd": marks(8)}
    answer = closed_answer(scope_of(scores, 40))
    assert answer.short == "Not at all: the gap grows" and "larger by 166.7% of it (" in answer.sentence
    assert scope_of(scores, 40).best == "sft", "the others compare with the first model"


def test_transcripts_without_an_error_blame_the_audio_path():
    scores = {"text": marks(40), "sft": marks(20), "cascade": marks(40)}
    fine, bad = dict.fromkeys(range(40), 0.0), dict.fromkeys(range(40), 0.5)
    lines = [" ".join(cause_answer(scope_of(scores, 40, wers)).more) for wers in (fine, bad)]
    assert (
        "on which only text is right, 20 have a transcript without an error: these clips are intelligible" in lines[0]
    )
    assert "word error rate on these clips is 50.0%" in lines[1] and "check the audio" in lines[1]
    no_cascade = cause_answer(scope_of({s: scores[s] for s in ("text", "sft")}, 40))
    assert "no run has transcripts" in no_cascade.more[-1] and "--modalities cascade" in no_cascade.command


def test_trainings_that_differ_in_their_seed():
    scores = {"text": marks(40), "sft": marks(10), "selfkd": marks(30), "ctc": marks(35)}
    recipe = {"stage": "distill", "alpha": 1.0}
    runs = [RunFolder(name, Path(name), "distill", recipe | {"seed": seed, "output": name}, {}, {})
            for name, seed in (("selfkd", 0), ("ctc", 1))]  # fmt: skip
    more = closed_answer(scope_of(scores, 40), runs).more
    assert more[-1] == "It is one of 2 trainings that differ in their seed only: 66.7% to 83.3%, mean 75.0%."
    other = [runs[0], RunFolder("ctc", Path("ctc"), "distill", recipe | {"alpha": 0.5, "seed": 1}, {}, {})]
    assert not any("seed" in line for line in closed_answer(scope_of(scores, 40), other).more)


def test_voices_of_one_benchmark_are_one_subject():
    by_voice = {s: marks(right) | {("b", i): float(i < right - 5) for i in range(40)}
                for s, right in (("text", 40), ("sft", 20), ("selfkd", 30))}  # fmt: skip
    scope = scope_of(by_voice, 40)
    assert scope.title == "mine, 2 voices" and scope.gap["n"] == 80 and scope.gap["groups"] == 40
    assert gap_answer(scope).sentence.startswith("SFT scores 43.8% on audio queries and 93.8% on the same questions")


@pytest.mark.slow
def test_average_over_public_benchmarks_comes_first(tmp_path):
    pope, mme = (audio_data(tmp_path / name, n, benchmark=name) for name, n in (("pope", 96), ("mme", 80)))
    evaluation_on(
        tmp_path / "sft",
        {pope: {"text": "1" * 96, "audio": "10" * 48}, mme: {"text": "1" * 80, "audio": "00000010" * 10}},
    )
    evaluation_on(tmp_path / "selfkd", {pope: {"audio": "1110" * 24}, mme: {"audio": "01111110" * 10}})
    html = rendered([tmp_path / "sft", tmp_path / "selfkd"], tmp_path)
    text = re.sub(r"<[^>]+>", "", html)
    assert "average of 2: 176 questions." in text
    assert "SFT scores 31.2% on audio queries and 100.0% on the same questions as text: 68.8 points fewer" in text
    assert "Self-KD closes 63.6% of the gap that SFT leaves" in text
    assert "The same figures for 3 benchmarks and parts" in text


def test_no_answers_without_evaluations():
    assert answers_section([], []) is None


def test_page_has_the_four_questions(tmp_path):
    data = audio_data(tmp_path / "world")
    run = evaluation(tmp_path / "base", data, text="1" * 12)
    html = rendered([run], tmp_path)
    assert all(question in re.sub(r"<[^>]+>", "", html) for question in QUESTIONS)
    (group,) = groups_of(read_runs([str(run)]), 0)
    assert gap_answer(Scope(group, "world", 0)).short == "Not known: no audio queries"
    assert f"--data {data} --modalities audio" in html
