# SPDX-License-Identifier: Apache-2.0
"""Linear layers in fp32 by oneDNN on AMD processors with AVX-512.

torch gives them to MKL there, which does not use AVX-512 on processors that are not Intel's: with oneDNN, which torch
brings too and uses for bf16, the same product in the same precision takes less than half the time
(experiments/records/2026-11-30_cpu_profile). The order of summation differs, so the last bits do.

Legend: N rows of any number of axes, D width of the input, V width of the output.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SMALLEST = 2_000_000  # products of numbers: below them a call costs more than it saves

_plain = F.linear
_active = False


@contextmanager
def fast_linear() -> Iterator[None]:
    """Within the context `torch.nn.functional.linear`, and so each `nn.Linear`, runs by oneDNN where that is faster."""
    global _active
    if _active or not mkl_is_slow():
        yield
        return
    F.linear, _active = linear, True  # type: ignore[assignment]
    try:
        yield
    finally:
        F.linear, _active = _plain, False


def linear_is_fast() -> bool:
    return _active


@cache
def mkl_is_slow() -> bool:
    """Whether this is an AMD processor with AVX-512 and torch has both libraries. Nothing else was measured."""
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    if not has_both or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    processors = Path("/proc/cpuinfo")
    return processors.is_file() and "AuthenticAMD" in processors.read_text(encoding="utf-8", errors="replace")


def linear(input_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None = None) -> Tensor:
    """`F.linear`, by oneDNN for large products in fp32 on a CPU."""
    if (
        input_ND.numel() * weight_VD.shape[0] < SMALLEST
        or weight_VD.ndim != 2
        or not input_ND.dtype == weight_VD.dtype == torch.float32
        or not input_ND.device.type == weight_VD.device.type == "cpu"
        or (bias_V is not None and bias_V.dtype != torch.float32)
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
    ):
        return _plain(input_ND, weight_VD, bias_V)
    trains = input_ND.requires_grad or weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad)
    if trains and torch.is_grad_enabled():
        return _Linear.apply(input_ND, weight_VD, bias_V)
    return _product(input_ND, weight_VD, bias_V)


def _product(input_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input_ND, weight_VD, bias_V, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
        ctx.save_for_backward(input_ND if ctx.needs_input_grad[1] else None, weight_VD)
        return _product(input_ND, weight_VD, bias_V)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NV: Tensor) -> tuple[Tensor | None, ...]:
        input_ND, weight_VD = ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad
        flat_NV = gradient_NV.reshape(-1, gradient_NV.shape[-1])
        return (
            _product(gradient_NV, weight_VD.T) if of_input else None,
            _product(flat_NV.T, input_ND.reshape(-1, input_ND.shape[-1]).T) if of_weight else None,
            flat_NV.sum(0) if of_bias else None,
        )
