"""`selfkd export`: an adapter holds what was trained, is put together with its base models bit for bit, and fits no
others."""

import json
import shutil

import pytest
import torch
from examples import toy_examples
from native_models import NATIVE
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from selfkd.cli import main
from selfkd.errors import InputError
from selfkd.export import ExportConfig, export
from selfkd.files import write_json
from selfkd.model.checkpoint import load_model
from selfkd.model.lora import adapter_parameters
from selfkd.model.release import weights_hash
from selfkd.model.tiny import vlm_path
from selfkd.run_dir import CONFIG, MODEL
from selfkd.training.align import AlignConfig, assemble

WEIGHTS = "model.safetensors"


def trained(model, *parts):
    """Changes all weights of these parts, as training does."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(parts):
                weight.add_(0.1 * torch.randn(weight.shape, dtype=weight.dtype))


def written(folder, trained_model, processor, **config):
    """A run directory with the model, whose configuration names what training started from."""
    trained_model.save_pretrained(folder / MODEL)
    processor.save_pretrained(folder / MODEL)
    write_json(folder / CONFIG, {"stage": "align", **config})
    return folder


@pytest.fixture(scope="module")
def run(tiny_whisper, tmp_path_factory):
    """A bundled VLM and a Whisper encoder, with a trained projector and trained adapters."""
    folder = tmp_path_factory.mktemp("runs") / "align"
    shutil.copytree(vlm_path(), folder.parent / "vlm")
    source = {"vlm": str(folder.parent / "vlm"), "speech_encoder": str(tiny_whisper)}
    model, processor = assemble(AlignConfig([], folder, projector="stack", **source))
    model.add_llm_adapters(r=4)
    trained(model, "projector.", "vlm.model.language_model.layers.0.self_attn.q_proj.lora_")
    return written(folder, model, processor, **source)


def exported(run, output, *arguments):
    assert main(["export", "--model", str(run / MODEL), "--output", str(output), *map(str, arguments)]) == 0
    return output


def equal(one, other):
    """Whether two models have the same weights, bit for bit, and the same logits."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def test_an_adapter_with_its_base_models_is_the_trained_model(run, tmp_path, capsys):
    folder = exported(run, tmp_path / "adapter", "--adapter", "true")
    assert "MB of weights, of " in (printed := capsys.readouterr().out)
    assert f"vlm: {run.parent / 'vlm'}: a folder, where the adapter will look for it" in printed
    names = load_file(folder / WEIGHTS).keys()
    assert names and all(n.startswith("projector.") or "lora_" in n for n in names)
    assert (folder / WEIGHTS).stat().st_size < (run / MODEL / WEIGHTS).stat().st_size / 2
    (model, processor), (expected, _) = load_model(folder), load_model(run / MODEL)
    assert equal(model, expected) and adapter_parameters(model.vlm)
    inputs = processor.encode_queries(
        [toy_examples(1)[0].load_image()] * 2, ["What?", None], [None, toy_examples(1)[0].samples()]
    )
    found, wanted = (one.generate_responses(**inputs, max_new_tokens=4) for one in (model, expected))
    assert torch.equal(found, wanted)
    whole = exported(folder.rename(tmp_path / MODEL).parent, tmp_path / "whole")
    assert equal(load_model(whole)[0], expected)
    assert json.loads((whole / CONFIG).read_text()).get("base_models") is None


def test_a_trained_speech_encoder_is_part_of_the_adapter(run, tiny_whisper, tmp_path):
    model, processor = load_model(run / MODEL)
    trained(model, "speech_encoder.")
    again = written(tmp_path / "run", model, processor, vlm=str(run.parent / "vlm"), speech_encoder=str(tiny_whisper))
    folder = exported(again, tmp_path / "adapter", "--adapter", "true")
    config = json.loads((folder / CONFIG).read_text())
    assert config["base_models"].keys() == {"vlm"}
    encoder = {name for name in load_file(folder / WEIGHTS) if name.startswith("speech_encoder.")}
    assert encoder == {f"speech_encoder.{name}" for name, _ in model.speech_encoder.named_parameters()}
    assert equal(load_model(folder)[0], model)


def test_the_bundled_model_has_an_adapter(tmp_path):
    """Its speech encoder is of an ASR model of selfkd, no Whisper checkpoint, so the adapter has it."""
    model, processor = load_model("selfkd-tiny")
    trained(model, "projector.")
    folder = exported(
        written(tmp_path / "run", model, processor, model="selfkd-tiny"), tmp_path / "a", "--adapter", "true"
    )
    assert equal(load_model(folder)[0], model)


def test_an_adapter_of_a_native_omni_model(tmp_path):
    vlm, native_processor = NATIVE["Qwen2.5-Omni"]()
    for part in (vlm, native_processor):
        part.save_pretrained(tmp_path / "base")
    model, processor = load_model(tmp_path / "base")
    model.add_llm_adapters(r=2)
    trained(model, "vlm.model.audio_tower.proj.")
    run = written(tmp_path / "run", model, processor, model=str(tmp_path / "base"))
    folder = exported(run, tmp_path / "adapter", "--adapter", "true")
    names = {name for name in load_file(folder / WEIGHTS) if "lora_" not in name}
    assert names == {"vlm.model.audio_tower.proj.weight", "vlm.model.audio_tower.proj.bias"}
    assert equal(load_model(folder)[0], model)


def test_other_weights_of_a_base_model_are_refused(run, tmp_path):
    vlm = shutil.copytree(run.parent / "vlm", tmp_path / "vlm")
    folder = exported(run, tmp_path / "adapter", "--adapter", "true", "--vlm", vlm)
    load_model(folder)
    weights = load_file(vlm / WEIGHTS)
    name = min(weights)
    weights[name].view(torch.uint8).view(-1)[0] ^= 1  # one bit
    save_file(weights, vlm / WEIGHTS, {"format": "pt"})
    with pytest.raises(InputError, match=rf"vlm: {vlm}: other weights than the release was made with \(sha256"):
        load_model(folder)
    shutil.rmtree(vlm)
    with pytest.raises(InputError, match=rf"vlm: {vlm}: the base model cannot be loaded"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.pop("projector.linear_in.bias"),
            r"the release lacks the weight projector\.linear_in\.bias",
        ),
        (lambda weights: weights.update(more=torch.zeros(1)), "the release has besides the weight more"),
        (lambda weights: weights.update({"projector.norm.bias": torch.zeros(3)}), r"size mismatch for projector\.norm"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(run, tmp_path, change, message):
    folder = exported(run, tmp_path / "adapter", "--adapter", "true")
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(InputError, match=message) as found:
        load_model(folder)
    assert "\n" not in str(found.value)


def test_fields_that_do_not_fit_are_named(run, tmp_path):
    model, output = run / MODEL, tmp_path / "out"
    for settings, message in (
        ({"vlm": "me/vlm"}, r"vlm: only an adapter builds on it"),
        ({"adapter": True, "vlm": str(tmp_path)}, r"vlm: "),
        (
            {"adapter": True, "speech_encoder": str(run.parent / "vlm")},
            r"speech_encoder: .* is not a Whisper checkpoint",
        ),
    ):
        with pytest.raises(InputError, match=message):
            export(ExportConfig(str(model), output, **settings))
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"vlm: .*nothing says what it was trained from; give a hub id or a folder"):
        export(ExportConfig(str(copy), output, adapter=True))
    assert not output.exists()
    output.mkdir()
    (output / "mine").touch()
    with pytest.raises(InputError, match=r"output: .*not empty"):
        export(ExportConfig(str(model), output))


def test_any_change_of_a_weight_changes_the_hash(tiny_whisper):
    encoder = WhisperForConditionalGeneration.from_pretrained(tiny_whisper).get_encoder()
    before = weights_hash(encoder)
    assert before == weights_hash(WhisperForConditionalGeneration.from_pretrained(tiny_whisper).get_encoder())
    with torch.no_grad():
        weight = encoder.layer_norm.weight
        weight[0], weight[1] = 1.5, 0.5  # whose sum stays
    assert weights_hash(encoder) != before and weights_hash(encoder.half()) != before
