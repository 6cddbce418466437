"""Damaged files, as hypothesis strategies: bytes of real files with flips, cuts, insertions and parts of others."""

from collections.abc import Sequence

import pytest
from hypothesis import strategies as st

INTERESTING = [b"\0", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80"]


@st.composite
def damaged(draw: st.DrawFn, files: Sequence[bytes]) -> bytes:
    """One of the files after up to four changes. Half of them are near its start, where headers are."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 4))):
        end = max(0, len(data) - 1)
        at = draw(st.integers(0, min(end, 80)) | st.integers(0, end))
        change = draw(st.sampled_from(["flip", "value", "cut", "drop", "insert", "splice", "repeat"]))
        length = draw(st.integers(1, 64))
        if change == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "value":
            value = draw(st.sampled_from(INTERESTING))
            data[at : at + len(value)] = value
        elif change == "cut":
            del data[at:]
        elif change == "drop":
            del data[at : at + length]
        elif change == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif change == "splice":  # the rest of another file, or its header before this one's rest
            other = draw(st.sampled_from(files))
            data = data[:at] + other[at:] if draw(st.booleans()) else bytearray(other[:at]) + data[at:]
        else:
            data[at:at] = bytes(data[at : at + length]) * draw(st.integers(1, 50))
    return bytes(data)


def assert_nothing_printed(capfd: pytest.CaptureFixture[str]) -> None:
    printed = capfd.readouterr()
    assert not printed.err and not printed.out, "decoders print nothing"
