"""Results by voice and by speaker: one test set in several voices, or one with recordings of several people, and the
spread over them.

A voice is a folder of its own ("mme@anna", see `own_data.py`); speakers are the voices in the samples of one folder.
The mean over voices weighs each the same. Its interval is over groups, as every other: the questions about one image
are one group, whoever asks them. It says how sure the mean of these voices is; how voices differ is said by the
standard deviation, the minimum and the maximum.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from selfkd.evaluation.average import by_voice
from selfkd.evaluation.metrics import pair_samples, score_with_interval, vision_audio_gap
from selfkd.evaluation.uncertainty import DIFFERENCE, SCORE, Bounds, mean_interval

Sample = Mapping[str, Any]
Samples = Sequence[Sample]
# a folder of synthesized speech may have hundreds of voices with an item or two each
MIN_ITEMS, MAX_SPEAKERS = 3, 50
_GAP_FIELDS = ("n", "groups", "gap", "stderr", "gap_interval", "verdict", "mcnemar_p")


def spread(values: Mapping[str, Sequence[tuple[Sample, float]]], bounds: Bounds, seed: int = 0) -> dict[str, Any]:
    """Mean, standard deviation, minimum and maximum over voices of the mean of each voice's values, and the interval of
    that mean over groups; `values` are items with their value, by voice, at least one each."""
    means = [fmean(value for _, value in items) for items in values.values()]
    # weighted so that their mean is the mean over voices, also where voices have different numbers of items
    total, count = sum(map(len, values.values())), len(values)
    weights = [total / count / len(items) for items in values.values()]
    weighted = [w * value for w, items in zip(weights, values.values(), strict=True) for _, value in items]
    groups = [group_over_voices(item) for items in values.values() for item, _ in items]
    widest = max(weights)
    return {
        "mean": fmean(means),
        "sd": stdev(means) if count > 1 else None,
        "min": min(means),
        "max": max(means),
        "interval": mean_interval(weighted, groups, (widest * bounds[0], widest * bounds[1]), seed),
    }


def group_over_voices(item: Sample) -> str:
    """The group of an item in whatever voice: an id may name the speaker, so without an image the sentence counts."""
    return item["group"] if item["image"] or item["group"] != item["id"] else item["question"]


def spread_of(modalities: Mapping[str, Mapping[str, Samples]], seed: int = 0, system: str = "audio") -> dict[str, Any]:
    """{"voices": their number, "accuracy": `spread`, "gap": `spread` of text minus audio} for {voice: {modality: its
    samples}}; without "gap" where a voice has no text samples, {} without samples that have a response."""
    scores: dict[str, list[tuple[Sample, float]]] = {}
    gaps: dict[str, list[tuple[Sample, float]]] = {}
    for voice, samples in modalities.items():
        answered = [s for s in samples.get(system, ()) if not s["error"]]
        if answered:
            scores[voice] = [(s, float(s["score"])) for s in answered]
            text, audio = pair_samples(samples.get("text", ()), answered)
            if text:
                gaps[voice] = [(a, float(a["score"]) - float(b["score"])) for a, b in zip(text, audio, strict=True)]
    if not scores:
        return {}
    found = {"voices": len(scores), "accuracy": spread(scores, SCORE, seed)}
    return found | ({"gap": spread(gaps, DIFFERENCE, seed)} if len(gaps) == len(scores) else {})


def spread_over_voices(
    names: Sequence[str], samples_of: Callable[[str], Mapping[str, Samples]], seed: int = 0
) -> dict[str, Any]:
    """{benchmark: {"over_voices": `spread_of`}} for the names "benchmark@voice"; `samples_of` reads one's samples by
    modality."""
    found = {}
    for benchmark, voices in by_voice((name, name) for name in names).items():
        over = spread_of({voice: samples_of(name) for voice, name in voices}, seed)
        if over:
            found[benchmark] = {"over_voices": over}
    return found


def by_speaker(text: Samples, audio: Samples, seed: int = 0, chance: float | None = None) -> dict[str, Any]:
    """{"speakers": {speaker: scores and "gap"}, "over_speakers": `spread_of`} of one folder's samples; {} for a single
    speaker, for over `MAX_SPEAKERS`, and where one has fewer than `MIN_ITEMS` items. `text` may be empty."""
    of: dict[str, list[Sample]] = {}
    for sample in audio:
        if not sample["error"]:
            of.setdefault(sample["voice"], []).append(sample)
    if not 1 < len(of) <= MAX_SPEAKERS or min(map(len, of.values())) < MIN_ITEMS:
        return {}
    speakers = {}
    for speaker, samples in sorted(of.items()):
        speakers[speaker] = score_with_interval(samples)
        paired, own = pair_samples(text, samples)
        if paired:
            gap = vision_audio_gap(paired, own, seed, chance)
            speakers[speaker]["gap"] = {name: gap[name] for name in _GAP_FIELDS}
    modalities = {speaker: {"text": text, "audio": samples} for speaker, samples in sorted(of.items())}
    return {"speakers": speakers, "over_speakers": spread_of(modalities, seed)}


def spread_rows(
    spreads: Mapping[str, Mapping[str, Any]], systems: Sequence[str], write: Callable[[float], str]
) -> list[list[str]]:
    """Rows of a table beneath those of the voices, with a cell for each of `systems`: the mean over voices of accuracy
    with its interval, the standard deviation, minimum and maximum. `write` formats a share."""
    over = [spreads.get(system, {}).get("accuracy") for system in systems]

    def cells(cell: Callable[[Mapping[str, Any]], str]) -> list[str]:
        return ["" if found is None else cell(found) for found in over]

    return [
        ["mean (95%)", *cells(lambda o: write(o["mean"]) + _interval(o["interval"], write))],
        ["SD over voices", *cells(lambda o: "–" if o["sd"] is None else write(o["sd"]))],
        ["min, max", *cells(lambda o: f"{write(o['min'])}, {write(o['max'])}")],
    ]


def _interval(pair: Sequence[float] | None, write: Callable[[float], str]) -> str:
    return "" if pair is None else f" ({write(pair[0])} to {write(pair[1])})"
