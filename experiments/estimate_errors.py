"""How far is `--dry-run` from every training step that was ever measured?

    python experiments/estimate_errors.py                # the table
    python experiments/estimate_errors.py --write        # and into docs/backbones.md
    python experiments/estimate_errors.py --leave_out    # the H100's shares, fitted; errors of a model left out

`experiments/measured_steps.yaml` has the steps with their sources. An error is (estimate - measured) / measured. The
device kinds' shares were fitted on these same steps, so the errors of a part's only measurement are no prediction.
"""

import argparse
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import yaml
from internvl2_1b import FRAME, QUESTION, SPEECH, TILE
from internvl2_1b import build as build_geometry
from recipe_cost import CTC_TOKENS, configuration
from scipy.optimize import minimize
from step_cost import LARGE

from selfkd.losses import LossConfig
from selfkd.model.modeling_omni import OmniModel
from selfkd.training.device_kinds import DEVICE_KINDS, Share
from selfkd.training.estimate_counts import ATTENTION, LLM, VISION, Load, layer_passes, memory, step_flops
from selfkd.training.trainable import AUDIO_PARTS, LORA, set_trainable

ROOT = Path(__file__).parents[1]
STEPS, PAGE = Path(__file__).with_name("measured_steps.yaml"), ROOT / "docs" / "backbones.md"
BEGIN, END = "<!-- estimate errors -->", "<!-- /estimate errors -->"
GEOMETRY, CPU_CORES = "geometry", 2
TIME_BAR, MEMORY_BAR = 0.15, 0.05
LOSSES = {
    "Self-KD": LossConfig(1.0),
    "SFT": LossConfig(0.0),
    "CTC-only": LossConfig(ctc_weight=1.0, response_weight=0.0),
}
FITTED = ("vision encoder", "LLM", "half width")
WEIGHTS = ("frozen weights", "trainable weights, gradients, optimizer")


class Estimated(NamedTuple):
    seconds: float
    gigabytes: float


def measured_steps() -> list[dict[str, Any]]:
    return yaml.safe_load(STEPS.read_text())


@cache
def model_of(name: str, device: str, ctc: bool) -> OmniModel:
    """The model of measured steps, without weights, with the parts trainable that trained."""
    if name == GEOMETRY:
        return build_geometry(device != "cpu", "meta")
    config = configuration(str(ROOT / "recipes/model_configs" / f"{name}.json"), 0)
    if ctc:
        config.ctc_token_ids = list(range(CTC_TOKENS))
    with torch.device("meta"):
        model = OmniModel(config)
        set_trainable(model, list(AUDIO_PARTS) if ctc else ["projector"], LORA)
    return model


def load_of(step: dict[str, Any]) -> Load:
    images = 1 if step["model"] == GEOMETRY else step["batch"]  # its questions are about one image
    tokens = step["tiles"] * TILE
    return Load(1, step["batch"] / images, tokens, tokens + FRAME, QUESTION, SPEECH * 4 / 50, LARGE.response)


def estimate_of(step: dict[str, Any]) -> Estimated:
    """What `--dry-run` says of a measured step."""
    kind, ctc = DEVICE_KINDS[step["device"]], step["step"] == "CTC-only"
    model, load, loss_config = model_of(step["model"], step["device"], ctc), load_of(step), LOSSES[step["step"]]
    trainable = list(AUDIO_PARTS) if ctc else ["projector"]
    flops = step_flops(model, load, step["batch"], trainable, loss_config)
    held = memory(model, load, step["batch"], trainable, loss_config, False)
    if step["model"] == GEOMETRY:  # no vision tower and no optimizer; on a GPU all weights are in bf16
        flops.pop(VISION)
        parameters = list(model.parameters())
        values = sum(p.numel() for p in parameters) + sum(p.numel() for p in parameters if p.requires_grad)
        weights = 0 if step["device"] == "cpu" else 2 * values / 1e9
        held = {"weights and gradients": weights} | {use: n for use, n in held.items() if use not in WEIGHTS}
    passes, width = layer_passes(model, trainable, loss_config), model.config.get_text_config().hidden_size
    with patch("torch.get_num_threads", lambda: CPU_CORES):
        return Estimated(kind.seconds(flops, passes, width), sum(held.values()))


def errors(step: dict[str, Any]) -> Estimated:
    """Relative errors of a step's estimate."""
    found = estimate_of(step)
    return Estimated(found.seconds / step["seconds"] - 1, found.gigabytes / step["gigabytes"] - 1)


def table() -> str:
    """Markdown: each measured step, its estimate and errors; an error above its bar is in bold."""
    lines = ["| device | model | step | batch | tiles | s | estimate | error | GB | estimate | error | record |"]
    lines.append("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for step in measured_steps():
        found, (in_time, in_memory) = estimate_of(step), errors(step)
        model = "InternVL2-1B's geometry" if step["model"] == GEOMETRY else step["model"]
        record = f"[{step['record']}](../experiments/records/{step['record']}/README.md)"
        cells = [DEVICE_KINDS[step["device"]].label, model, step["step"], step["batch"], step["tiles"]]
        cells += [f"{step['seconds']:.3f}", f"{found.seconds:.3f}", _marked(in_time, TIME_BAR)]
        cells += [f"{step['gigabytes']:.4g}", f"{found.gigabytes:.3g}", _marked(in_memory, MEMORY_BAR), record]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _marked(error: float, bar: float) -> str:
    return f"**{error:+.0%}**" if abs(error) > bar else f"{error:+.0%}"


def page_with_table(text: str) -> str:
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


def fit_shares(steps: list[dict[str, Any]], vision: float) -> dict[str, float]:
    """The shares of the peak of vision encoder and LLM and the LLM's half width, with the smallest largest error, found
    from a vision encoder's share of `vision`: two models alone do not determine three numbers."""

    def largest_error(logs: np.ndarray) -> float:
        found = dict(zip(FITTED, np.exp(logs), strict=True))
        return max(abs(fitted_error(step, found)) for step in steps)

    options = {"maxiter": 4000, "xatol": 1e-6, "fatol": 1e-9}
    best = minimize(largest_error, np.log([vision, 0.6, 2000]), method="Nelder-Mead", options=options)
    return dict(zip(FITTED, np.exp(best.x), strict=True))


def fitted_error(step: dict[str, Any], found: dict[str, float]) -> float:
    h100, model = DEVICE_KINDS["h100"], model_of(step["model"], "h100", False)
    llm = Share(found["LLM"])
    shares = dict(h100.shares) | {VISION: Share(found["vision encoder"]), LLM: llm, ATTENTION: llm}
    kind = replace(h100, shares=shares, half_width=found["half width"])
    flops = flops_of(step["model"], step["batch"], step["step"])
    return kind.seconds(flops, 0, model.config.get_text_config().hidden_size) / step["seconds"] - 1


@cache
def flops_of(name: str, batch: int, step: str) -> dict[str, float]:
    """Of a measured step of a frozen LLM on an H100."""
    load = load_of({"model": name, "batch": batch, "tiles": 7})
    return step_flops(model_of(name, "h100", False), load, batch, ["projector"], LOSSES[step])


def show_left_out() -> None:
    large = [s for s in measured_steps() if s["device"] == "h100" and s["tiles"] == 7 and s["step"] != "CTC-only"]
    for left_out in ("", *sorted({s["model"] for s in large})):
        for vision in (0.25, 0.4, 0.8):
            found = fit_shares([s for s in large if s["model"] != left_out], vision)
            shown = [fitted_error(s, found) for s in large if left_out in ("", s["model"])]
            fitted = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
            print(f"without {left_out or 'none'}: {fitted}; errors {', '.join(f'{e:+.1%}' for e in shown)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into docs/backbones.md")
    parser.add_argument("--leave_out", action="store_true", help="fit the H100's shares without one of the models")
    options = parser.parse_args()
    if options.leave_out:
        show_left_out()
        return
    print(table())
    if options.write:
        PAGE.write_text(page_with_table(PAGE.read_text()))


if __name__ == "__main__":
    main()
