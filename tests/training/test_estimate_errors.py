"""Estimates against every training step that was ever measured, and devices by name. The figures are those of the
records, and docs/backbones.md has the table of today."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from selfkd.errors import InputError
from selfkd.training.device_kinds import DEVICE_KINDS, device_kind

ROOT = Path(__file__).parents[2]
MISSED_MEMORY = {("h100", "geometry", "Self-KD")}  # docs/backbones.md says why


@pytest.fixture(scope="module")
def script() -> Any:
    path = ROOT / "experiments" / "estimate_errors.py"
    spec = importlib.util.spec_from_file_location("estimate_errors", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # it imports its neighbours
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


STEPS = yaml.safe_load((ROOT / "experiments" / "measured_steps.yaml").read_text())


@pytest.mark.parametrize("step", STEPS, ids=lambda s: "-".join(str(s[k]) for k in ("device", "model", "step", "batch")))
def test_a_measured_step_is_in_its_record(step):
    lines = (ROOT / "experiments" / "records" / step["record"] / "README.md").read_text().splitlines()
    assert sum(step["quote"] in line for line in lines) == 1
    numbers = {
        float(cell.strip("*|,").replace(",", "")) for cell in step["quote"].split() if cell.strip("*|,.")[:1].isdigit()
    }
    assert {step["seconds"], round(step["seconds"] * 1000)} & numbers
    assert {step["gigabytes"], round(step["gigabytes"] * 1000)} & numbers


@pytest.mark.slow
def test_estimates_are_within_their_bars(script):
    missed = {
        (s["device"], s["model"], s["step"]) for s in STEPS if abs(script.errors(s).gigabytes) > script.MEMORY_BAR
    }
    assert [s for s in STEPS if abs(script.errors(s).seconds) > script.TIME_BAR] == []
    assert missed == MISSED_MEMORY
    assert all(abs(script.errors(s).gigabytes) < 0.06 for s in STEPS)


@pytest.mark.slow
def test_the_table_of_the_docs_is_current(script):
    text = script.PAGE.read_text()
    assert text == script.page_with_table(text), "python experiments/estimate_errors.py --write"


@pytest.mark.parametrize(
    ("gpu", "kind"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA A10", "a10"),
    ],
)
def test_the_present_gpu_is_the_default(gpu, kind, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpu)
    assert device_kind(None) is DEVICE_KINDS[kind]
    assert device_kind("cpu") is DEVICE_KINDS["cpu"]


def test_a_gpu_outside_the_table_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A10G")
    with pytest.raises(InputError, match=r"device_kind: NVIDIA A10G is not in the table; name the nearest of h200, "):
        device_kind(None)


def test_without_a_gpu_the_default_is_the_cpu_with_its_threads(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu, flops = device_kind(None), {"LLM": 1e12}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one = cpu.seconds(flops, 0, 896)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert one == pytest.approx(4 * cpu.seconds(flops, 0, 896)) == pytest.approx(1 / (0.11 * 0.54))


def test_kernel_launches_bound_a_small_step():
    h100 = DEVICE_KINDS["h100"]
    assert h100.seconds({"LLM": 1e9}, 100, 896) == pytest.approx(0.145)
