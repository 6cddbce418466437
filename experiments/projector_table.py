"""A row of the studies' tables: accuracy over seeds, the gap closed, paired differences, errors apart."""

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_rel

from selfkd.evaluation.metrics import gap_closed
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.uncertainty import DIFFERENCE, clustered_stderr, mean_interval
from selfkd.evaluation.verdicts import format_interval
from selfkd.files import write_json

HEAD = f"{'':<29}seeds  mean     sd     gap closed (95%) over cascade (95%)    over best (95%) seeing hearing"


def samples(run: Path, modality: str = "audio", benchmark: str = "world") -> list[dict[str, Any]]:
    return read_samples(samples_path(run, benchmark, modality))


Seeds = dict[str, list[dict[str, Any]]]  # samples by seed; "" where there is none
Right = dict[str, dict[str, dict[str, str]]]  # by condition, recipe and seed: which items were answered right


def right_of(answered: list[dict[str, Any]], items: list[dict[str, Any]]) -> str:
    """One bit an item, in the order of `items`, as hexadecimal digits."""
    right = {sample["id"]: int(sample["score"]) for sample in answered}
    if {sample["score"] for sample in answered} - {0, 1} or len(right) != len(items):
        raise ValueError("each item is right or wrong, once")
    return np.packbits([right[item["id"]] for item in items]).tobytes().hex()


def samples_of(right: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(right), np.uint8))[: len(items)].tolist()
    return [{"id": item["id"], "score": bit, "correct": bool(bit)} for item, bit in zip(items, bits, strict=True)]


def read_right(file: Path) -> Right:
    return json.loads(file.read_text()) if file.is_file() else {}


def keep_right(right: Right, file: Path) -> None:
    """Two processes may share the folder: what the other has written meanwhile stays."""
    for condition, recipes in read_right(file).items():
        for name, seeds in recipes.items():
            right.setdefault(condition, {})[name] = seeds | right.get(condition, {}).get(name, {})
    write_json(file, right)


def row(
    name: str, by_seed: Seeds, written: list, cascade: list, sft: Seeds | None, best: Seeds | None
) -> dict[str, Any]:
    """Intervals are over items: the seeds answer the same ones, so an item counts once, by its mean over the seeds.
    Errors are shares of all items: of seeing where the written answer is wrong too, else of hearing."""
    scores = [statistics.mean(s["score"] for s in one) for one in by_seed.values()]
    spread = statistics.stdev(scores) if len(scores) > 1 else None
    found: dict[str, Any] = {"mean": statistics.mean(scores), "sd": spread, "by_seed": scores}
    closed = over_cascade = over_best = ""
    if sft and name != "written":
        share = gap_closed(over_seeds({"": written}), over_seeds(sft), over_seeds(by_seed), seed=0)
        found["gap_closed"] = share
        if share["share"] is not None:
            closed = "{:.0%} ({:.0%} to {:.0%})".format(share["share"], *share["interval"])
    seen = {sample["id"]: sample["correct"] for sample in written}
    for what, right in (("seeing", False), ("hearing", True)):
        asked = [s["score"] for one in by_seed.values() for s in one if seen[s["id"]] == right]
        found[f"{what}_errors"] = (len(asked) - sum(asked)) / sum(map(len, by_seed.values()))
    if name != "cascade":
        found["over_cascade"] = paired(by_seed, {"": cascade})
        over_cascade = format_interval(found["over_cascade"]["interval"], len(written), "{:+.3f}".format)
    if best and name.startswith("best-"):
        found["over_best"] = paired(by_seed, best)
        over_best = format_interval(found["over_best"]["interval"], len(written), "{:+.3f}".format)
    told = "–" if spread is None else f"{spread:.3f}"
    errors = f"{found['seeing_errors']:>7.3f}{found['hearing_errors']:>8.3f}"
    print(
        f"{name:<29}{len(scores):>5}{found['mean']:>6.3f}{told:>7}{closed:>21}{over_cascade:>19}{over_best:>19}{errors}"
    )
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
