"""Kinds of devices, and the seconds that a training step takes on one: FLOPs by part, each at a share of the peak.

A share is measured where an experiment timed that part on that device, and assumed otherwise; an estimate says which.
`experiments/estimate_errors.py` compares the estimates with every step that was ever measured.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch

from selfkd.errors import InputError
from selfkd.training.config import DeviceKindName
from selfkd.training.estimate_counts import ATTENTION, LLM, SPEECH, VISION


class Share(NamedTuple):
    """Share of the peak that a part reaches, and the experiment that measured it: "" where the share is assumed."""

    value: float
    record: str = ""


@dataclass(frozen=True)
class DeviceKind:
    """A device with its peak of dense bf16 matrix products (on a CPU of fp32, of one core), its memory (None: the
    machine's), and the share of the peak by part. `half_width`: an LLM of that width reaches half of its share, for
    norms, activations and rotations cost time by width and matrix products by its square. `layer_seconds`: the least
    that a pass of a layer takes, which is Python's time to launch its kernels."""

    label: str
    peak_teraflops: float
    gigabytes: float | None
    shares: Mapping[str, Share]
    half_width: float = 0.0
    layer_seconds: float = 0.0

    def share(self, part: str, llm_width: int) -> Share:
        share = self.shares[part]
        if part in (LLM, ATTENTION) and self.half_width:
            return share._replace(value=share.value * llm_width / (llm_width + self.half_width))
        return share

    def seconds(self, flops: Mapping[str, float], layer_passes: float, llm_width: int) -> float:
        """Seconds of a step of `flops` by part, with `layer_passes` passes of single layers."""
        cores = 1 if self.gigabytes else torch.get_num_threads()
        peak = self.peak_teraflops * 1e12 * cores
        computing = sum(value / (peak * self.share(part, llm_width).value) for part, value in flops.items())
        return max(computing, layer_passes * self.layer_seconds)


_H100, _CPU = "2026-11-27_gpu", "2026-11-23_step_cost"
_HALF_WIDTH, _LAYER_SECONDS = 2970.0, 1.45e-3  # both fitted on an H100's steps, as its shares are
_MEASURED = {
    VISION: Share(0.39, _H100),
    LLM: Share(0.75, _H100),
    ATTENTION: Share(0.75, _H100),
    SPEECH: Share(0.084, _H100),  # of a CTC-only step of 16 clips of 4 s; more speech in a step may reach more
}


def _gpu(label: str, peak_teraflops: float, gigabytes: float, measured: bool = False) -> DeviceKind:
    shares = _MEASURED if measured else {part: Share(share.value) for part, share in _MEASURED.items()}
    return DeviceKind(label, peak_teraflops, gigabytes, shares, _HALF_WIDTH, _LAYER_SECONDS)


DEVICE_KINDS: dict[str, DeviceKind] = {  # peaks and memory: the vendors' data sheets, without sparsity
    "h200": _gpu("H200", 989, 141),
    "h100": _gpu("H100", 989, 80, measured=True),
    "a100": _gpu("A100", 312, 80),
    "l40s": _gpu("L40S", 362, 48),
    "rtx4090": _gpu("RTX 4090", 165, 24),
    "a10": _gpu("A10", 125, 24),
    "cpu": DeviceKind(
        "CPU", 0.11, None,  # of one core: 32 FLOPs a cycle (AVX-512 in two halves) at 3.5 GHz
        {VISION: Share(0.5), LLM: Share(0.54, _CPU), ATTENTION: Share(0.27, _CPU), SPEECH: Share(0.7)},
    ),
}  # fmt: skip
assert set(DEVICE_KINDS) == set(get_args(DeviceKindName)), "config.py names the kinds without importing torch"  # noqa: S101 an invariant of this code, no check of input


def device_kind(name: DeviceKindName | None) -> DeviceKind:
    """The kind of that name; by default that of this machine's first GPU, or the CPU. Raises InputError for a GPU that
    the table does not have."""
    if name is not None:
        return DEVICE_KINDS[name]
    if not torch.cuda.is_available():
        return DEVICE_KINDS["cpu"]
    gpu = torch.cuda.get_device_name()
    words = gpu.upper().replace("-", " ").replace("RTX 4090", "RTX4090").split()
    for found in DEVICE_KINDS:
        if found.upper() in words:
            return DEVICE_KINDS[found]
    raise InputError(f"device_kind: {gpu} is not in the table; name the nearest of {', '.join(DEVICE_KINDS)}")


def device_gigabytes(kind: DeviceKind) -> float:
    """Memory of a device of that kind; of the CPU this machine's."""
    if kind.gigabytes is not None:
        return kind.gigabytes
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
