"""`selfkd convert`: original InternVL2 layouts, built here by hand at tiny size, give the same logits.

The names are mapped by hand too: nothing here uses the table of the converter.

The comparison with the original modelling code itself is in experiments/records/2026-11-23_internvl2_conversion.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from internvl2 import IMAGE_ID, LLM, QUESTION_TYPES, SPECIAL, TOKENS, write_original
from kill_points import files_at_most
from safetensors.torch import load_file, save_file
from transformers import InternVLForConditionalGeneration

from selfkd.cli import main
from selfkd.errors import InputError
from selfkd.model.backbones import load_vlm_processor
from selfkd.model.convert_internvl2 import ConvertConfig, convert
from selfkd.toy_world.scenes import render, sample_scene


@pytest.fixture(params=list(QUESTION_TYPES))
def original(request, tmp_path):
    """(folder of an original checkpoint, the model that it must become)."""
    folder = tmp_path / "original"
    return folder, write_original(folder, request.param)


def test_converted_model_gives_the_same_logits(original, tmp_path):
    folder, expected = original
    convert(ConvertConfig(folder, tmp_path / "out", shard_gigabytes=5e-5))
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1, "several shards are expected"
    model, loading = InternVLForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values()), loading
    ids = torch.randint(len(SPECIAL), 200, (1, 140))
    ids[ids == IMAGE_ID] = 3
    ids[:, 4 : 4 + 3 * 4] = IMAGE_ID
    inputs = {"input_ids": ids, "pixel_values": torch.randn(3, 3, 28, 28)}
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**inputs).logits, expected(**inputs).logits)


def test_processor_renders_the_models_template_and_tiles_images(original, tmp_path):
    folder, _ = original
    template = json.loads((folder / "config.json").read_text())["template"]
    processor = load_vlm_processor(convert(ConvertConfig(folder, tmp_path / "out")))
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    end = "<|end|>" if template == "phi3-chat" else "<|im_end|>"
    user, assistant = (
        ("<|user|>\n", "<|assistant|>\n")
        if template == "phi3-chat"
        else ("<|im_start|>user\n", "<|im_start|>assistant\n")
    )
    assert text.endswith(f"{end}{user}<IMG_CONTEXT>\nWhy?{end}{assistant}") and "InternVL" in text
    wide = render(sample_scene("train", 0, 0)).resize((28 * 6, 28 * 2))
    batch = processor(images=[wide], text=[text], return_tensors="pt")
    assert batch["pixel_values"].shape == (13, 3, 28, 28), "6 x 2 tiles and a thumbnail"
    assert (batch["input_ids"] == IMAGE_ID).sum() == 13 * 4
    stops = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [TOKENS.index(end), TOKENS.index("</s>")]


@pytest.mark.parametrize("original", ["Hermes-2"], indirect=True)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.pop("mlp1.3.bias"), "1 keys are missing, among them model.multi_modal_projector.linear_2.bias"),
        (lambda w: w.update({"vision_model.extra": torch.ones(1)}), "key vision_model.extra: no part of InternVL2"),
        (lambda w: w.update({"mlp1.1.weight": torch.ones(2, 2)}), r"key mlp1.1.weight: shape \(2, 2\)"),
    ],
)
def test_error_names_keys_that_do_not_fit_and_nothing_is_written(original, tmp_path, spoil, message):
    folder, _ = original
    weights = load_file(folder / "model.safetensors")
    spoil(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match=message):
        convert(ConvertConfig(folder, tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["original"]


@pytest.mark.parametrize("original", ["Hermes-2"], indirect=True)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "internvl"}, "field model_type"),
        ({"ps_version": "v1"}, "field ps_version"),
        ({"force_image_size": 56}, "field force_image_size"),
        ({"template": "vicuna"}, "field template: 'vicuna'"),
        ({"llm_config": LLM | {"architectures": ["GPT2LMHeadModel"]}}, "GPT2LMHeadModel"),
    ],
)
def test_checkpoints_without_exact_conversion_are_refused(original, tmp_path, change, message):
    folder, _ = original
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        convert(ConvertConfig(folder, tmp_path / "out"))


@pytest.mark.parametrize("original", ["Hermes-2"], indirect=True)
def test_broken_weights_are_named(original, tmp_path):
    folder, _ = original
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut short or damaged"):
        convert(ConvertConfig(folder, tmp_path / "out"))
    path.unlink()
    with pytest.raises(InputError, match="no safetensors file there"):
        convert(ConvertConfig(folder, tmp_path / "out"))


@pytest.mark.parametrize("original", ["Hermes-2"], indirect=True)
def test_without_space_it_leaves_no_folder_and_the_same_command_resumes(original, tmp_path, capsys):
    output = tmp_path / "output"
    arguments = ["convert", "--source", str(original[0]), "--output", str(output)]
    with files_at_most(3_000):
        assert main(arguments) == 2
    assert "selfkd convert: no space left on the disk" in capsys.readouterr().err and not output.exists()
    assert main(arguments) == 0
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("original", ["Hermes-2"], indirect=True)
def test_a_hub_id_is_read_from_the_hubs_cache(original, tmp_path, monkeypatch):
    folder, _ = original
    monkeypatch.setattr(constants, "HF_HUB_CACHE", tmp_path / "hub")
    repository = tmp_path / "hub" / "models--OpenGVLab--InternVL2-test"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    shutil.copytree(folder, repository / "snapshots" / "abc")
    convert(ConvertConfig(Path("OpenGVLab/InternVL2-test"), tmp_path / "from the hub"))
    convert(ConvertConfig(folder, tmp_path / "from the folder"))
    found = [load_file(tmp_path / f"from the {where}" / "model.safetensors") for where in ("hub", "folder")]
    torch.testing.assert_close(*found, rtol=0, atol=0)
    with pytest.raises(InputError, match="source: OpenGVLab/InternVL2-none: no folder, and not available on the hub"):
        convert(ConvertConfig(Path("OpenGVLab/InternVL2-none"), tmp_path / "none"))
