"""Recipes: YAML with fields of other types, other fields, aliases, merge keys, tags, and damaged text.

Each goes through the command itself, with `--dry_run` where it has one, so that no model trains."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzzing import Malformed
from hypothesis import strategies as st
from malformed import damaged_bytes, edited_documents, json_values, short

from selfkd.cli import main
from selfkd.errors import InputError

pytestmark = pytest.mark.slow

# command -> a recipe that ends without a model: at missing data, or as an estimate
RECIPES: dict[str, dict[str, Any]] = {
    "align": {
        "data": ["data"], "output": "run", "projector": "stack", "steps": 3, "batch_size": 2, "learning_rate": 1e-3,
        "trainable": ["projector"], "training": {"max_grad_norm": 1.0, "bf16": False}, "dry_run": True,
        "stack_factor": 4, "weight_averaging": 0.5,
    },
    "distill": {
        "data": ["data:2", "data:1"], "output": "run", "model": "selfkd-tiny", "alpha": 0.5, "temperature": 2.0,
        "divergence": "forward", "on_policy_fraction": 0.1, "save_steps": 2, "dry_run": True, "training": {},
        "lora": {"r": 4}, "trainable": ["projector", "llm_adapters"],
    },
    "evaluate": {
        "model": "selfkd-tiny", "data": ["none"], "modalities": ["text", "audio"], "limit": 3, "scoring": "official",
        "voices": ["heldout"], "endpoint": {"concurrency": 2}, "synthesis": {"engine": "espeak"}, "output": "run",
        "local_datasets": {"mme": "none"},
    },
    "synthesize": {
        "source": "jsonl", "path": "none.jsonl", "images": "none", "columns": {"question": "q"}, "count": 2,
        "rate_wpm": [150, 200], "augment": {"room": 0.3}, "noise_snr_db": [5, 20], "output": "run", "voices": "en-us:2",
    },
    "compare": {"runs": ["none", "a=none"], "output": "run", "seed": 0},
    "judge": {"run": "none", "model": "", "endpoint": {"concurrency": 2, "budget": 1.0}},
    "analyze attention": {"models": ["selfkd-tiny"], "data": ["none"], "output": "run", "map_layers": [1], "maps": 2},
}  # fmt: skip
DRY_RUN = dict.fromkeys(("align", "distill"), ("--dry_run",))  # whatever the recipe has
# no path of the machine, no other host, and no count that asks for real work
TEXTS = [
    "", " ", "none", "../none", "a,b", "[", "{}", "1e3", "true", "null", "a=b=c", "data:0", "data:-1", "data:x",
    "\u202e", "x" * 300,
]  # fmt: skip
VALUES = json_values(TEXTS)
STRUCTURES = [
    "steps: &a 3\nbatch_size: *a\n", "data: &d [data]\ntraining: {x: *d}\n", "<<: {steps: 3}\n", "<<: [1, 2]\n",
    "<<: *none\n", "? [a, b]\n: 1\n", "? {a: 1}\n: 1\n", "- steps\n", "steps: 3\nsteps: 4\n",
    "--- \nsteps: 3\n---\nsteps: 4\n", "steps", "7", "null", "~: 1\n", "1: 2\n", "true: 3\n", "2026-01-01: 1\n",
    "!!python/object/apply:os.system ['true']\n", "steps: !!python/name:os.system\n", "steps: !!binary aGk=\n",
    "steps: !!set {a}\n", "training: !!omap [a: 1]\n", "steps: 0o17\nseed: 0x1F\n", "seed: 1_000\nsteps: 190:20:30\n",
    "data: &a [*a]\n", "training: &a {b: *a}\n", "training: &a [*a, *a]\n", "%YAML 9.9\n---\nsteps: 1\n", "steps:\t3\n",
    "steps: 3 # é\n", "'': 1\n", "recipe: none.yaml\n", "config: none.yaml\n", "steps: .nan\n", "learning_rate: .inf\n",
    "learning_rate: -.inf\n", "training: {'': 1}\n", "training: {~: 1}\n", "output: \n", "data:\n", "lora: {r: }\n",
    "training: {max_grad_norm: }\n", "training.bf16: true\n", "help: true\n", "debug: 1\n",
]  # fmt: skip
BOMB = "".join(["a0: &a0 [x, x]\n", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))])
DEEP = {
    "lists": "data: " + "[" * 20_000, "maps": "training: " + "{a: " * 5_000,
    "blocks": "".join(f"{' ' * i}a:\n" for i in range(3_000)), "digits": "steps: " + "9" * 20_000,
    "text": "output: " + "x" * 100_000, "aliases": BOMB, "colons": "a: " * 3_000,
}  # fmt: skip
INSERTED = [
    b"\xff", b"\0", b"\xef\xbb\xbf", b"[" * 1_000, b"\t", b"&a ", b"*a", b"!!x ", b": ", b"\r", b"\xe2\x80\xa8",
    b"\x85",
]  # fmt: skip


@st.composite
def edited_recipes(draw: st.DrawFn) -> Malformed:
    command = draw(st.sampled_from(sorted(RECIPES)))
    recipe, label = draw(edited_documents(RECIPES[command], VALUES))
    text = yaml.safe_dump(recipe, allow_unicode=draw(st.booleans()), sort_keys=False).encode("utf-8", "surrogatepass")
    return Malformed((command, text), f"{command}: {label}", wrong(command, recipe))


def wrong(command: str, recipe: Any) -> str:
    if not isinstance(recipe, dict):
        return "a recipe that is no mapping" if recipe is not None else ""
    unknown = [name for name in recipe if name not in RECIPES[command] and "." not in str(name)]
    if unknown and unknown[0] not in ("", "other"):
        return ""  # it may be the name of another field
    if unknown:
        return "an unknown field"
    containers = [name for name, value in RECIPES[command].items() if isinstance(value, int | float | str)]
    if any(isinstance(recipe.get(name), list | dict) for name in containers):
        return "a list or mapping in place of a value"
    return "data without a folder" if "data" in recipe and recipe["data"] in (None, []) else ""


@st.composite
def odd_structures(draw: st.DrawFn) -> Malformed:
    command, text = draw(st.sampled_from(["align", "distill", "evaluate"])), draw(st.sampled_from(STRUCTURES))
    rest = yaml.safe_dump(RECIPES[command]) if draw(st.booleans()) else ""
    return Malformed((command, (rest + text).encode()), f"{command}: {text!r} after {len(rest)} characters")


@st.composite
def damaged_recipes(draw: st.DrawFn) -> Malformed:
    command = draw(st.sampled_from(sorted(RECIPES)))
    text, label = draw(damaged_bytes(yaml.safe_dump(RECIPES[command]).encode(), INSERTED))
    return Malformed((command, text), f"{command}: {label}")


LARGE = st.sampled_from(
    [Malformed(("align", text.encode()), f"align: {name}", "too deep, or no field") for name, text in DEEP.items()]
)


def run(folder: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, bytes]) -> None:
    """Raises InputError for the one line of a refusal."""
    command, text = given
    recipe = folder / "recipe.yaml"
    recipe.write_bytes(text)
    code = main([*command.split(), "--recipe", str(recipe), *DRY_RUN.get(command, ())])
    error = capsys.readouterr().err
    assert code in (0, 2), f"exit code {code}"
    if code == 2:
        *warnings, line = error.splitlines()
        assert line.startswith(f"selfkd {command}: "), short(error)
        assert not any(re.match(r"Traceback|usage:|\w+Error", w) for w in warnings), short(error)
        assert len(line) < 20_000, f"a line of {len(line)} characters"
        raise InputError(line)


def test_recipes(fuzzer, data_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").symlink_to(data_folder)
    monkeypatch.chdir(tmp_path)
    use: Callable[[Any], None] = partial(run, tmp_path, capsys)
    use(("align", yaml.safe_dump(RECIPES["align"]).encode()))  # what is damaged is accepted
    fuzzer.run(
        "recipes", edited_recipes() | edited_recipes() | odd_structures() | damaged_recipes() | LARGE, use, examples=60
    )
