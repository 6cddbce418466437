"""Several folders of spoken questions as one, in proportions of one's own."""

import random
import re
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

from selfkd.data.example import Example
from selfkd.data.folder import ExampleFolder, Examples, Sketch
from selfkd.errors import InputError


class Mixture(Examples):
    """The examples of all folders, one folder after the other, and which of them an epoch takes.

    An epoch has as many examples as the folders hold together. With weights a folder gives its share of them, over any
    number of epochs to within one example: it walks through its examples in an order that the seed draws, and begins a
    new one when all have been taken, so that over the epochs none is taken twice before all were taken once.
    """

    def __init__(self, folders: Sequence[ExampleFolder], weights: Sequence[float], seed: int = 0):
        self.folders, self.seed = list(folders), seed
        self._ends = list(accumulate(map(len, self.folders)))
        exact = [Fraction(str(weight)) for weight in weights]  # 0.1 as it is written
        self.quotas = [len(self) * weight / sum(exact) for weight in exact]  # examples an epoch, on average
        for folder, quota in zip(self.folders, self.quotas, strict=True):
            if quota < 1:
                raise InputError(
                    f"data: {folder.folder}: its weight gives it {float(quota):.2g} of the {len(self)} examples of an "
                    "epoch; it must be at least one"
                )

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, position: int) -> Example:
        number = next(i for i, end in enumerate(self._ends) if position < end)
        return self.folders[number][position - self._ends[number]]  # counted from the folder's end

    def sketches(self) -> list[Sketch]:
        return [sketch for folder in self.folders for sketch in folder.sketches()]

    def taken_before(self, number: int) -> list[int]:
        """How many examples of each folder the epochs before this one take: the whole part of its share, and of what is
        then left of the epochs' length one more to those that miss most of theirs."""
        shares = [number * quota for quota in self.quotas]
        counts = [int(share) for share in shares]
        by_missing = sorted(range(len(counts)), key=lambda folder: counts[folder] - shares[folder])
        for folder in by_missing[: number * len(self) - sum(counts)]:
            counts[folder] += 1
        return counts

    def epoch(self, number: int) -> list[int]:
        """Indices of the examples of an epoch, in no order that matters."""
        taken = []
        bounds = zip(self._ends, self.taken_before(number), self.taken_before(number + 1), strict=True)
        for folder, (end, first, last) in enumerate(bounds):
            size = len(self.folders[folder])
            for turn in range(first // size, -(-last // size)):
                order = random.Random(f"mixture/{self.seed}/{folder}/{turn}").sample(range(size), size)
                taken += [end - size + i for i in order[max(0, first - turn * size) : last - turn * size]]
        return taken


def open_mixture(data: Sequence[str], seed: int, left_out: Mapping[Path, Collection[int]] | None = None) -> Examples:
    """The folders of a setting `data`, each FOLDER or FOLDER:WEIGHT; raises InputError naming the one that is wrong.
    `left_out` are the positions of rows that are not taken, by folder.

    Without weights each example is taken once an epoch.
    """
    if not data:
        raise InputError("data: names no folder")
    folders, weights = [], []
    for entry in data:
        path, weight = split_weight(entry)
        folder = ExampleFolder(path).without((left_out or {}).get(path, ()))
        if not len(folder):
            raise InputError(f"data: {path}: holds no examples")
        if weight is not None and weight <= 0:
            raise InputError(f"data: {entry}: a weight must be above 0")
        folders.append(folder)
        weights.append(weight)
    if len(folders) == 1:
        return folders[0]
    given = [w for w in weights if w is not None]
    if given and len(given) < len(weights):
        raise InputError("data: some folders have a weight and some have none")
    return Mixture(folders, given or [float(len(f)) for f in folders], seed)


def folders_of(data: Sequence[str]) -> list[ExampleFolder]:
    """The folders of a setting `data`, whatever they weigh."""
    return [ExampleFolder(split_weight(entry)[0]) for entry in data]


def split_weight(entry: str) -> tuple[Path, float | None]:
    """("runs/data", 2.0) of "runs/data:2"."""
    path, colon, weight = entry.rpartition(":")
    if colon and re.fullmatch(r"\d+(\.\d+)?", weight):
        return Path(path), float(weight)
    return Path(entry), None
