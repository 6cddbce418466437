"""The ASR filter keeps clips up to its word error rate and refuses those above it."""

import pytest

from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.synthesis.quality_filter import ASRFilter


@pytest.mark.parametrize(("rate", "is_kept"), [(0.0, True), (0.3, True), (0.31, False), (1.5, False)])
def test_clips_above_the_max_word_error_rate_are_refused(rate, is_kept):
    example = Example("a", "Is it red?", "yes", "mine", "exists", "yes", transcript="is it bed", word_error_rate=rate)
    if is_kept:
        ASRFilter("none", 0.3).check(example)
    else:
        with pytest.raises(InputError, match=r"is over 0\.30"):
            ASRFilter("none", 0.3).check(example)
