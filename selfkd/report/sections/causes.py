"""Whether a model's errors come from the speech or from the image.

With the question as text no speech is involved: what is wrong then is the image's share of the errors (or a question
that is hard for another reason). What is lost from text to audio on the same items is the share of the speech. An ASR
model's transcripts tell whether the clip or the model's audio path is to blame: a clip that is transcribed without an
error is intelligible.
"""

from statistics import fmean
from typing import Any

from selfkd.evaluation.compare import CASCADE, TEXT
from selfkd.evaluation.uncertainty import Bounds, enough
from selfkd.evaluation.verdicts import too_few
from selfkd.report.charts import percent, points
from selfkd.report.html import run_title
from selfkd.report.sections.scope import Scope

_SPEECH_MINUS_IMAGE: Bounds = (-2.0, 1.0)  # 2 text - audio - 1, of two scores


def cause_sentences(scope: Scope) -> tuple[str, str, list[str], bool]:
    """The answer in a few words, its sentence, further sentences, and whether there are transcripts. For the best audio
    model; the first one follows."""
    best, first = scope.best, scope.audio[0]
    short, sentence = _shares(scope, best)
    wers = _word_error_rates(scope)
    clips = [_clips(scope, system, wers) for system in dict.fromkeys((best, first))]
    more = [_shares(scope, first)[1]] if first != best else []
    if wers:
        more += [f"The ASR model's mean word error rate on these clips is {percent(fmean(wers.values()))}.", *clips]
    else:
        more.append("Whether the clips or the model's audio path are to blame is not known: no run has transcripts.")
    return short, sentence, [line for line in more if line], bool(wers)


def _shares(scope: Scope, system: str) -> tuple[str, str]:
    """The verdict in a few words, and the shares of image and speech in the errors of a model."""
    found, name = scope.answered_by([TEXT, system]), run_title(system)
    if found is None:
        return "Not known: no item in common", f"No item has a response from both {name} and text."
    scores, groups = found
    image = fmean(float(1 - of[:, 0].mean()) for of in scores)
    speech = fmean(float((of[:, 0] - of[:, 1]).mean()) for of in scores)
    more = f"{points(speech)} more" if speech > 0 else "no more"
    sentence = f"{name} loses {points(image)} with the question as text, where speech plays no part (the image, or a "
    sentence += f"hard question), and {more} with the same question as audio (the speech)."
    interval, count = scope.interval([2 * of[:, 0] - of[:, 1] - 1 for of in scores], groups, _SPEECH_MINUS_IMAGE)
    if interval is None or not enough(count):
        return "Not known yet: too few images", f"{sentence} There are {too_few(count)}."
    if scope.gap_of(system)["verdict"] == "at chance":
        return "The image: text is at chance too", sentence
    if image == 0 and speech <= 0:
        return "Neither: no error is left", sentence
    if interval[0] > 0:
        return f"{'Only' if image == 0 else 'Mostly'} the speech", sentence
    if interval[1] < 0:
        return f"{'Only' if speech <= 0 else 'Mostly'} the image", sentence
    return "Both, neither clearly more", sentence


def _word_error_rates(scope: Scope) -> dict[tuple[int, str], float]:
    """{(part, id): word error rate} of the cascade's transcripts, else of those of the data's quality filter."""
    systems = [CASCADE, *scope.audio]
    found: dict[tuple[int, str], float] = {}
    for at, part in enumerate(scope.parts):
        for system in reversed([s for s in systems if s in part]):
            rates = {(at, s["id"]): s["word_error_rate"] for s in part[system] if not s["error"]}
            found |= {key: rate for key, rate in rates.items() if rate is not None}
    return found


def _clips(scope: Scope, system: str, wers: dict[tuple[int, str], float]) -> str:
    """How many of the questions that only text gets right have a transcript without an error; "" without such."""
    lost = [wers[key] for key in _lost(scope, system) if key in wers]
    if not lost:
        return ""
    exact = sum(rate == 0 for rate in lost)
    verdict = ""
    if enough(len(lost)) and 2 * exact > len(lost):
        verdict = ": these clips are intelligible, so it is the model's audio path that fails"
    elif enough(len(lost)):
        verdict = ": at least half of these clips are hard for an ASR model too, so check the audio"
    have = "has" if exact == 1 else "have"
    clips = "1 clip" if len(lost) == 1 else f"{len(lost):,} clips"
    name = run_title(system)
    return f"{name}: of {clips} on which only text is right, {exact:,} {have} a transcript without an error{verdict}."


def _lost(scope: Scope, system: str) -> list[tuple[int, str]]:
    keys = []
    for at, part in enumerate(scope.parts):
        answers: dict[str, Any] = {s["id"]: s for s in part[system] if not s["error"]}
        text = [s for s in part[TEXT] if not s["error"] and s["id"] in answers]
        keys += [(at, s["id"]) for s in text if s["correct"] and not answers[s["id"]]["correct"]]
    return keys
