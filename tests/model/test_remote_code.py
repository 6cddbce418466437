"""A checkpoint carries the code of its model: transformers loads and runs it where selfkd is not installed."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import tone, toy_examples
from native_models import NATIVE
from safetensors.torch import load_file
from transformers.dynamic_module_utils import get_relative_import_files
from vlm_backbones import save_qwen_vlm

from selfkd.export import ExportConfig, export
from selfkd.model import auto_classes, modeling_omni, processing_omni
from selfkd.model.checkpoint import inspect_checkpoint, load_model
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.tiny import vlm_path
from selfkd.training.align import AlignConfig, assemble

CARRIED = {
    "chat_template", "configuration_omni", "control_tokens", "fast_linear", "features", "generation",
    "generation_mixin", "image_processor", "input_error", "kept_frames", "lora", "media_files", "modeling_omni",
    "native_omni", "prefix_cache", "processing_omni", "projectors", "prompts", "queries", "release",
    "speech_encoder", "wide_rows",
}  # fmt: skip
LIBRARIES = {
    "torch", "transformers", "numpy", "PIL", "tokenizers", "peft", "safetensors", "soundfile", "scipy",
    "typing_extensions",
}  # fmt: skip

# what a stranger without selfkd runs: [blocked packages, folder of checkpoints, threads]
STRANGER = """
import sys

class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor
import numpy as np

torch.set_num_threads(int(sys.argv[3]))
root = Path(sys.argv[2])
for folder in sorted(path.parent for path in root.glob("*/config.json")):
    assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "selfkd_omni"
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True).eval()
    clip, image = np.load(root / "clip.npy"), str(root / "image.png")
    parts = [{"type": "image", "path": image}, {"type": "audio", "audio": clip}, {"type": "text", "text": "What?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )
    with torch.no_grad():
        logits = model(**inputs).logits
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)
    save_file({"logits": logits, "ids": ids}, root / f"{folder.name}.{sys.argv[4]}.safetensors")
    if folder.name == "selfkd-tiny":
        assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)).__name__ == "OmniModel"
        model.save_pretrained(root / "again")
        processor.save_pretrained(root / "again")
assert not {"selfkd"} & {name.partition(".")[0] for name in sys.modules} or "selfkd" not in sys.argv[1]
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Checkpoints with each projector, of a VLM whose processor takes videos, with adapters, whole and as a release of
    what was trained, and of a native model."""
    root = tmp_path_factory.mktemp("checkpoints")
    made = {name: load_model(name) for name in ("selfkd-tiny", "selfkd-tiny-stack")}
    save_qwen_vlm("qwen2_5_vl", root / "parts" / "vlm")
    made["qwen"] = assemble(AlignConfig([], root, vlm=str(root / "parts" / "vlm"), projector="stack"))
    made["adapters"] = load_model("selfkd-tiny")
    made["adapters"][0].add_llm_adapters(r=4)
    for name, parameter in made["adapters"][0].named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    vlm, processor = NATIVE["Qwen2.5-Omni"]()
    made["native"] = OmniModel.from_native(vlm), OmniProcessor(processor)
    for name, parts in made.items():
        for part in parts:
            part.save_pretrained(root / name)
    export(ExportConfig(str(root / "adapters"), root / "release", adapter=True, vlm=str(vlm_path())))
    np.save(root / "clip.npy", tone(0.7))
    toy_examples(1)[0].load_image().save(root / "image.png")
    return root


def run_stranger(root, blocked, kind):
    environment = os.environ | {"HF_MODULES_CACHE": str(root / "modules")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", STRANGER, blocked, str(root), str(torch.get_num_threads()), kind]
    finished = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]


@pytest.mark.slow
def test_logits_and_responses_are_those_of_selfkd_to_the_bit(checkpoints):
    """The same script runs with this package's own classes and with those that the checkpoints carry."""
    run_stranger(checkpoints, "selfkd", "remote")
    names = sorted(path.name.partition(".")[0] for path in checkpoints.glob("*.remote.safetensors"))
    assert names == ["adapters", "native", "qwen", "release", "selfkd-tiny", "selfkd-tiny-stack"]
    for name in names:
        model, processor = load_model(checkpoints / name)
        found = load_file(checkpoints / f"{name}.remote.safetensors")
        inputs = inputs_of(processor, checkpoints)
        with torch.no_grad():
            assert torch.equal(model(**inputs).logits, found["logits"]), name
        assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None), found["ids"])
    again, first = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.name != "config.json" and p.is_file()}
        for folder in (checkpoints / "again", checkpoints / "selfkd-tiny")
    )
    assert again == first  # config.json gets the dtype of the encoder, which a new model's has not


def inputs_of(processor, root):
    parts = [{"type": "image", "path": str(root / "image.png")}, {"type": "audio", "audio": np.load(root / "clip.npy")}]
    return processor.apply_chat_template(
        [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_the_files_of_a_checkpoint_are_those_of_the_package(checkpoints):
    for name in ("selfkd-tiny", "native", "release"):
        carried = {path.stem: path for path in (checkpoints / name).glob("*.py")}
        own = Path(modeling_omni.__file__).parent
        assert carried.keys() == CARRIED
        for stem, path in carried.items():
            assert path.read_bytes() == (own / f"{stem}.py").read_bytes()


def test_carried_files_import_only_each_other_and_libraries():
    """Head of the licence, relative imports, and libraries that a model of transformers may need."""
    entries = [modeling_omni.__file__, processing_omni.__file__]
    files = {Path(file) for entry in entries for file in (entry, *get_relative_import_files(entry))}
    assert {path.stem for path in files} == CARRIED
    for path in files:
        text = path.read_text()
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module in CARRIED, (path, node.module)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                for name in names:
                    top = name.partition(".")[0]
                    assert top in LIBRARIES or top in sys.stdlib_module_names, (path, name)


def test_selfkd_runs_its_own_code_and_not_that_of_a_checkpoint(checkpoints, tmp_path):
    """Code of a checkpoint that would end the process is there, and is not run."""
    model, processor = load_model("selfkd-tiny")
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    for path in tmp_path.glob("*.py"):
        path.write_text("raise SystemExit('the code of a checkpoint has run')\n")
    assert inspect_checkpoint(tmp_path).kind == "omni"
    loaded, loaded_processor = load_model(tmp_path)
    assert type(loaded) is OmniModel and type(loaded_processor) is OmniProcessor
    assert type(auto_classes.AutoModelForMultimodalLM.from_pretrained(tmp_path, trust_remote_code=True)) is OmniModel
    assert type(auto_classes.AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)) is OmniProcessor


def test_checkpoint_without_code_loads_as_before(tmp_path):
    model, processor = load_model("selfkd-tiny")
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    for path in tmp_path.glob("*.py"):
        path.unlink()
    for name, keys in {"config.json": ["auto_map"], "processor_config.json": ["auto_map"]}.items():
        values = json.loads((tmp_path / name).read_text())
        for key in keys:
            del values[key]
        values |= {"processor_class": "InternVLImageTextProcessor"} if name.startswith("processor") else {}
        (tmp_path / name).write_text(json.dumps(values))
    (tmp_path / "generation_config.json").unlink()
    loaded, loaded_processor = load_model(tmp_path)
    before = model.state_dict()
    assert all(torch.equal(weights, before[name]) for name, weights in loaded.state_dict().items())
    assert loaded_processor.audio_token_id == processor.audio_token_id
