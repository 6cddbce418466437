"""The property itself: what breaks it is found, counted by kind, and named by its smallest input."""

from collections.abc import Callable
from typing import Any

import fuzzing
import numpy as np
import pytest
from fuzzing import ACCEPTED, GROWTH, HANG, TRACEBACK, Fuzzer, Malformed, table
from hypothesis import strategies as st

from selfkd.errors import InputError

INPUTS = st.integers(0, 9).map(lambda n: Malformed(n, f"number {n}", "too large" * (n > 8)))


def refuse(number: int) -> None:
    raise InputError(f"number: {number}: refused")


def fail(number: int) -> None:
    if number > 3:
        raise KeyError(number)
    refuse(number)


def hang(number: int) -> None:
    while number > 3:
        number += 1
    refuse(number)


def grow(number: int) -> None:
    np.ones(number * 2**20)  # 8 MB for each
    refuse(number)


def hide(number: int) -> None:
    """As code that takes any error for a bad input."""
    try:
        hang(number)
    except Exception as error:
        raise InputError("hidden") from error


def accept(number: int) -> None:
    if number < 9:
        refuse(number)


@pytest.mark.parametrize(
    ("use", "kind"), [(fail, TRACEBACK), (hang, HANG), (hide, HANG), (grow, GROWTH), (accept, ACCEPTED)]
)
def test_each_breach_is_found(use: Callable[[int], None], kind: str, monkeypatch):
    monkeypatch.setattr(fuzzing, "MAX_SECONDS", 0.05 if kind == HANG else 5.0)
    monkeypatch.setattr(fuzzing, "MAX_GROWTH_BYTES", 40 * 2**20)
    for fuzzer in (Fuzzer(), Fuzzer(0.01)):
        with pytest.raises(AssertionError, match=kind):
            fuzzer.run("numbers", INPUTS, use, examples=40)
    counts: dict[str, Any] = fuzzer.tallies["numbers"].counts
    assert [name for name, count in counts.items() if count] == [kind]
    (smallest,) = fuzzer.tallies["numbers"].smallest.values()
    assert smallest.startswith("number ")


def test_refusals_are_counted():
    fuzzer = Fuzzer()
    fuzzer.run("numbers", INPUTS, refuse, examples=10)
    assert fuzzer.tallies["numbers"].inputs == fuzzer.tallies["numbers"].refused == 10
    rows = fuzzer.rows()
    assert rows == [["numbers", 10, 10, 0, 0, 0, 0]]
    assert table(("name", "n"), [("a", 1), ("b", 20)]).splitlines() == ["name   n", "a      1", "b     20", "all   21"]
