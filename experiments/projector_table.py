"""A row of the studies' tables: accuracy over seeds, the gap closed, paired differences, text and audio-only errors."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_rel

from selfkd.evaluation.metrics import gap_closed
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.uncertainty import DIFFERENCE, clustered_stderr, mean_interval, score_interval
from selfkd.evaluation.verdicts import format_interval
from selfkd.files import write_json

HEAD = f"{'':<29}seeds  mean     sd     gap closed (95%) over cascade (95%)    over best (95%)   text   audio"


def load_samples(run: Path, modality: str = "audio", benchmark: str = "world") -> list[dict[str, Any]]:
    return read_samples(samples_path(run, benchmark, modality))


Seeds = dict[str, list[dict[str, Any]]]  # samples by seed; "" where there is none
Correct = dict[str, dict[str, dict[str, str]]]  # by condition, recipe and seed: correctness of each item, as hex bits


def correct_bits(samples: list[dict[str, Any]], items: list[dict[str, Any]]) -> str:
    """One bit an item, 1 for correct, in the order of `items`, as hexadecimal digits."""
    scores = {sample["id"]: int(sample["score"]) for sample in samples}
    if {sample["score"] for sample in samples} - {0, 1} or len(scores) != len(items):
        raise ValueError("each item is right or wrong, once")
    return np.packbits([scores[item["id"]] for item in items]).tobytes().hex()


def samples_from_bits(correct: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples of which `correct_bits` made the digits, by id, score and correctness."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(correct), np.uint8))[: len(items)].tolist()
    return [{"id": item["id"], "score": bit, "correct": bool(bit)} for item, bit in zip(items, bits, strict=True)]


def accuracy(by_seed: Seeds) -> dict[str, Any]:
    """n, the mean over seeds, each seed's, their standard deviation where there are several, and a 95% interval over
    items: an item counts once, by its mean over the seeds."""
    means = [statistics.fmean(s["score"] for s in one) for one in by_seed.values()]
    items, first = over_seeds(by_seed), next(iter(by_seed.values()))
    interval = score_interval(items, [s["group"] for s in first]) if len(means) == 1 else mean_interval(items)
    found = {"n": len(items), "accuracy": statistics.fmean(means), "by_seed": means, "interval": interval}
    return found | ({"sd": statistics.stdev(means)} if len(means) > 1 else {})


def percent(cell: Mapping[str, Any]) -> str:
    """`90.2 ± 1.2`: an accuracy, and its standard deviation over seeds where there is one."""
    return f"{100 * cell['accuracy']:.1f}" + (f" ± {100 * cell['sd']:.1f}" if "sd" in cell else "")


def read_correct(file: Path) -> Correct:
    return json.loads(file.read_text()) if file.is_file() else {}


def write_correct(correct: Correct, file: Path) -> None:
    """Merges with what the file has: two processes may share the folder."""
    for condition, recipes in read_correct(file).items():
        for name, seeds in recipes.items():
            correct.setdefault(condition, {})[name] = seeds | correct.get(condition, {}).get(name, {})
    write_json(file, correct)


def row(name: str, by_seed: Seeds, text: list, cascade: list, sft: Seeds | None, best: Seeds | None) -> dict[str, Any]:
    """Prints the row and returns its values.

    Intervals are over items: the seeds answer the same ones, so an item counts once, by its mean over the seeds. Errors
    are shares of all items: text errors where the answer to the text query is wrong too, else audio-only errors.
    """
    scores = [statistics.mean(s["score"] for s in one) for one in by_seed.values()]
    spread = statistics.stdev(scores) if len(scores) > 1 else None
    found: dict[str, Any] = {"mean": statistics.mean(scores), "sd": spread, "by_seed": scores}
    closed = over_cascade = over_best = ""
    if sft and name != "text":
        share = gap_closed(over_seeds({"": text}), over_seeds(sft), over_seeds(by_seed), seed=0)
        found["gap_closed"] = share
        if share["share"] is not None:
            closed = "{:.0%} ({:.0%} to {:.0%})".format(share["share"], *share["interval"])
    text_correct = {sample["id"]: sample["correct"] for sample in text}
    for error_type, is_correct in (("text_errors", False), ("audio_errors", True)):
        these = [s["score"] for one in by_seed.values() for s in one if text_correct[s["id"]] == is_correct]
        found[error_type] = (len(these) - sum(these)) / sum(map(len, by_seed.values()))
    if name != "cascade":
        found["over_cascade"] = paired(by_seed, {"": cascade})
        over_cascade = format_interval(found["over_cascade"]["interval"], len(text), "{:+.3f}".format)
    if best and name.startswith(("best-", "ctc-only")):
        found["over_best"] = paired(by_seed, best)
        over_best = format_interval(found["over_best"]["interval"], len(text), "{:+.3f}".format)
    shown_spread = "–" if spread is None else f"{spread:.3f}"
    errors = f"{found['text_errors']:>7.3f}{found['audio_errors']:>8.3f}"
    scored = f"{name:<29}{len(scores):>5}{found['mean']:>6.3f}{shown_spread:>7}"
    print(f"{scored}{closed:>21}{over_cascade:>19}{over_best:>19}{errors}")
    return found


def paired(ours: Seeds, theirs: Seeds) -> dict[str, Any]:
    """The difference of the means, and its interval and standard error over items; and p of a paired t-test over the
    seeds that both have, where there are two and more."""
    better = np.subtract(over_seeds(ours), over_seeds(theirs))
    found: dict[str, Any] = {
        "difference": float(better.mean()),
        "stderr": clustered_stderr(better),
        "interval": mean_interval(better, bounds=DIFFERENCE),
    }
    both = [(ours[seed], theirs[seed]) for seed in sorted(set(ours) & set(theirs))]
    pairs = [[statistics.mean(s["score"] for s in one) for one in pair] for pair in both]
    if len({round(ours - theirs, 9) for ours, theirs in pairs}) > 1:  # differences that do not vary have no t
        found["p_over_seeds"] = float(ttest_rel(*zip(*pairs, strict=True)).pvalue)
    return found


def over_seeds(by_seed: Seeds) -> list[float]:
    """Each item's mean score over the seeds, in the order of the items."""
    by_item: dict[str, list[float]] = {}
    for sample in (s for one in by_seed.values() for s in one):
        by_item.setdefault(sample["id"], []).append(sample["score"])
    return [statistics.mean(by_item[item]) for item in sorted(by_item)]
