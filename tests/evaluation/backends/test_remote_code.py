"""Models that come with their own code, run through it. The published code needs the hub; stand-ins with the same
`chat` (tests/fixtures/remote_code) are loaded as a checkpoint's code is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import toy_examples
from safetensors.torch import save_file

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.backends.remote_code import RemoteCodeBackend, needs_remote_code
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.files import write_json

CODE = Path(__file__).parents[2] / "fixtures" / "remote_code"
FAMILIES = {
    "minicpmo": ("MiniCPMO", "configuration_minicpm.MiniCPMOConfig", "modeling_minicpmo.MiniCPMO",
                 {"vpm": 3, "apm": 1, "tts": 1}),
    "megrezo": ("MegrezO", "configuration_megrezo.MegrezOConfig", "modeling_megrezo.MegrezO",
                {"vision": 3, "audio": 1}),
}  # fmt: skip


def checkpoint(folder, family, processor, without="", **changes):
    """A folder as the hub has it: code, configuration, random weights, a tokenizer."""
    name, config, model, layers = FAMILIES[family]
    shutil.copytree(CODE / family, folder)
    maps = {"AutoConfig": config, "AutoModel": model, "AutoModelForCausalLM": model}
    values = {"architectures": [name], "model_type": family, "hidden_size": 4, "auto_map": maps} | changes
    (folder / "config.json").write_text(json.dumps(values))
    torch.manual_seed(0)
    weights = {f"{k}.{part}": torch.randn(shape) for k, n in layers.items()
               for part, shape in (("weight", (4, n)), ("bias", (4,))) if k != without}  # fmt: skip
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    processor.tokenizer.save_pretrained(folder)
    return str(folder)


def data(folder, examples):
    folder.mkdir()
    write_shard(folder / "a.parquet", examples, {"rows": len(examples)})
    write_json(folder / MANIFEST, {"shards": [{"file": "a.parquet"}]})
    return ExampleFolder(folder)


@pytest.fixture
def items():
    first, second, third = toy_examples(3)
    texts = {"instruction": "Look closely.\n", "answer_format": "\nAnswer with one word."}
    return [replace(first, **texts), second, replace(third, image=None)]


def predictions(source, folder, modalities=("text", "audio")):
    backend = RemoteCodeBackend(source, None, max_new_tokens=7)
    wanted = {modality: range(len(folder)) for modality in modalities}
    found = {(i, modality): prediction for i, modality, prediction in backend.predict(folder, wanted)}
    return backend.model.model, found


def test_minicpm_o_gets_the_messages_of_its_code(tmp_path, processor, items):
    model, found = predictions(checkpoint(tmp_path / "m", "minicpmo", processor), data(tmp_path / "d", items))
    assert type(model).__module__.startswith("transformers_modules") and not hasattr(model, "tts")
    assert not model.training and all(p.dtype == torch.float32 for p in model.parameters())
    greedy = {"num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 7, "generate_audio": False}
    assert all({k: v for k, v in call.items() if k not in ("role", "content")} == greedy for call in model.calls)
    texts, audios = ([call["content"] for call in some] for some in (model.calls[:3], model.calls[3:]))
    image, text = texts[0]
    assert np.array_equal(np.asarray(image), np.asarray(items[0].load_image()))
    assert text == f"Look closely.\n{items[0].question}\nAnswer with one word."
    assert [type(part) for part in texts[2]] == [str]  # an item without an image
    image, before, audio_clip, after = audios[0]
    assert np.array_equal(audio_clip, items[0].samples()) and audio_clip.dtype == np.float32
    assert (before, after) == ("Look closely.", "Answer with one word.")
    assert [type(part).__name__ for part in audios[1]] == ["Image", "ndarray"]
    assert not any(isinstance(p, str) and items[i].question in p for i in range(3) for p in audios[i])
    assert all(r.text.startswith("yes ") and r.seconds > 0 and not r.error for r in found.values())
    assert len({r.text for r in found.values()}) == 6  # each depends on image, question and audio


def test_megrez_gets_the_messages_of_its_code(tmp_path, processor, items):
    model, found = predictions(checkpoint(tmp_path / "m", "megrezo", processor), data(tmp_path / "d", items))
    assert all(call["max_new_tokens"] == 7 and call["sampling"] is False for call in model.calls)
    assert all((call["num_beams"], call["repetition_penalty"]) == (1, 1.0) for call in model.calls)
    first, _, third, *audios = model.calls
    assert np.array_equal(np.asarray(first["image"]), np.asarray(items[0].load_image()))
    assert first["content"]["text"] == f"Look closely.\n{items[0].question}\nAnswer with one word."
    assert set(third["content"]) == {"text"}
    assert np.array_equal(audios[0]["audio"], items[0].samples()) and audios[0]["rate"] == 16_000
    assert audios[0]["content"]["text"] == "Look closely.\n\nAnswer with one word."
    assert set(audios[1]["content"]) == {"image", "audio"}
    assert all(not Path(call["content"][k]).exists() for call in model.calls for k in call["content"] if k != "text")
    assert all(r.text.startswith("yes ") and "<|" not in r.text for r in found.values())


def test_errors_of_the_models_code_are_failures(tmp_path, processor):
    questions = ("Is it red?", "fall over", "say nothing", "return more", "half a sign")
    examples = [replace(e, question=q) for e, q in zip(toy_examples(5), questions, strict=True)]
    examples[0] = replace(examples[0], image=b"no image at all")
    source = checkpoint(tmp_path / "m", "minicpmo", processor)
    model, found = predictions(source, data(tmp_path / "d", examples), ["text"])
    assert len(model.calls) == 4 and [r.text for r in found.values()] == [*[""] * 4, "yes \ufffd"]
    unreadable, *others = [r.error for r in found.values() if r.error]
    assert unreadable.startswith(f"example {examples[0].id}: field image: not a readable image")
    assert others == [
        "RuntimeError: CUDA error: an illegal memory access",
        "the model's chat returned NoneType, not text",
        "the model's chat returned tuple, not text",
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_in_every_modality(tmp_path, processor, family):
    source = checkpoint(tmp_path / "m", family, processor)
    data(tmp_path / "d", toy_examples(4))
    modalities = ["text", "audio", "cascade"]
    config = EvaluateConfig(source, [str(tmp_path / "d")], tmp_path / "run", modalities=modalities)
    with pytest.raises(InputError, match=r"^trust_remote_code: .*/m would run Python code .*--trust_remote_code"):
        evaluate(config)
    assert not (tmp_path / "run").exists()
    config.trust_remote_code = True
    (scores,) = evaluate(config).values()
    assert [scores[v]["n"] for v in modalities] == [4] * 3 and scores["gap"]["n"] == 4
    samples = read_samples(samples_path(tmp_path / "run", "world-noisy", "cascade"))
    assert all(s["prediction"].startswith("yes") and s["transcript"] in s["prediction"] for s in samples)
    config.likelihood, config.output = True, tmp_path / "likelihood"
    with pytest.raises(InputError, match="likelihood: needs a model in the classes of transformers"):
        evaluate(config)


def test_checkpoint_that_cannot_be_loaded_is_named(tmp_path, processor):
    source = checkpoint(tmp_path / "less", "megrezo", processor, without="audio")
    with pytest.raises(InputError, match=r"less: 2 weights are missing \(such as audio.bias\)"):
        RemoteCodeBackend(source, None, 7)
    source = checkpoint(tmp_path / "broken", "megrezo", processor)
    (tmp_path / "broken" / "modeling_megrezo.py").write_text("from transformers import NoSuchClass\n")
    with pytest.raises(InputError, match=r"broken: its own code does not run with transformers \d.*NoSuchClass"):
        RemoteCodeBackend(source, None, 7)
    with pytest.raises(InputError, match=r"MiniCPM-o 4\.5: its chat has another form"):
        needs_remote_code(checkpoint(tmp_path / "later", "minicpmo", processor, version="4.5"), True)


def test_models_without_remote_code_need_no_trust(tmp_path, processor):
    source = checkpoint(tmp_path / "m", "megrezo", processor, auto_map={})
    assert not needs_remote_code(source, False)
    config = EvaluateConfig(source, [], tmp_path / "run", trust_remote_code=True)
    with pytest.raises(InputError, match="'megrezo' takes no audio"):
        evaluate(config)
