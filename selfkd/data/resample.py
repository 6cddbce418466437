"""Audio samples of any rate -> 16 kHz, the rate of Whisper's features."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from selfkd.data.example import SAMPLE_RATE_HZ

_RATE_STEP_HZ = 25


def resampled(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """Samples at 16 kHz, in [-1, 1]. The rate is rounded to a multiple of 25 Hz, an error of at most 0.3%: the low-pass
    filters of other rates take megabytes."""
    rate_hz = round(rate_hz / _RATE_STEP_HZ) * _RATE_STEP_HZ
    if rate_hz != SAMPLE_RATE_HZ:
        from scipy.signal import resample_poly  # 0.8 s to import, in the processes that resample only

        divisor = math.gcd(SAMPLE_RATE_HZ, rate_hz)
        up, down = SAMPLE_RATE_HZ // divisor, rate_hz // divisor
        samples = resample_poly(samples, up, down, window=_low_pass(max(up, down)))
    return np.clip(samples, -1, 1).astype(np.float32)


@lru_cache(maxsize=32)
def _low_pass(rate: int) -> NDArray[np.float32]:
    from scipy.signal import firwin

    # scipy's own filter, which it would design again for each clip: more work than the filtering
    return firwin(20 * rate + 1, 1 / rate, window=("kaiser", 5.0)).astype(np.float32)
