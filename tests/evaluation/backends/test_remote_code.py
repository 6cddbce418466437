"""Models that bring their own code, asked through it. Their published code needs their hub; what stands in for it here
has the same `chat` (tests/fixtures/remote_code) and is loaded as a checkpoint's code is."""

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
from selfkd.evaluation.backends.remote_code import RemoteCodeBackend, runs_own_code
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.files import write_json

CODE = Path(__file__).parents[2] / "fixtures" / "remote_code"
QUESTION_TYPES = {
    "minicpmo": ("MiniCPMO", "configuration_minicpm.MiniCPMOConfig", "modeling_minicpmo.MiniCPMO",
                 {"vpm": 3, "apm": 1, "tts": 1}),
    "megrezo": ("MegrezO", "configuration_megrezo.MegrezOConfig", "modeling_megrezo.MegrezO",
                {"vision": 3, "audio": 1}),
}  # fmt: skip


def checkpoint(folder, question_type, processor, without="", **changes):
    """A folder as the hub has it: code, configuration, weights at random, a tokenizer."""
    name, config, model, layers = QUESTION_TYPES[question_type]
    shutil.copytree(CODE / question_type, folder)
    maps = {"AutoConfig": config, "AutoModel": model, "AutoModelForCausalLM": model}
    values = {"architectures": [name], "model_type": question_type, "hidden_size": 4, "auto_map": maps} | changes
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
def asked():
    first, second, third = toy_examples(3)
    written = {"instruction": "Look closely.\n", "answer_format": "\nAnswer with one word."}
    return [replace(first, **written), second, replace(third, image=None)]


def predictions(source, folder, modalities=("text", "audio")):
    system = RemoteCodeBackend(source, None, max_new_tokens=7)
    wanted = {modality: range(len(folder)) for modality in modalities}
    found = {(i, modality): prediction for i, modality, prediction in system.answer(folder, wanted)}
    return system.model.model, found


def test_minicpm_o_is_asked_as_its_code_takes_it(tmp_path, processor, asked):
    model, found = predictions(checkpoint(tmp_path / "m", "minicpmo", processor), data(tmp_path / "d", asked))
    assert type(model).__module__.startswith("transformers_modules") and not hasattr(model, "tts")
    assert not model.training and all(p.dtype == torch.float32 for p in model.parameters())
    greedy = {"num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 7, "generate_audio": False}
    assert all({k: v for k, v in call.items() if k not in ("role", "content")} == greedy for call in model.asked)
    written, spoken = ([call["content"] for call in some] for some in (model.asked[:3], model.asked[3:]))
    image, text = written[0]
    assert np.array_equal(np.asarray(image), np.asarray(asked[0].load_image()))
    assert text == f"Look closely.\n{asked[0].question}\nAnswer with one word."
    assert [type(part) for part in written[2]] == [str]  # an item without a picture
    image, before, audio_clip, after = spoken[0]
    assert np.array_equal(audio_clip, asked[0].samples()) and audio_clip.dtype == np.float32
    assert (before, after) == ("Look closely.", "Answer with one word.")
    assert [type(part).__name__ for part in spoken[1]] == ["Image", "ndarray"]
    assert not any(isinstance(p, str) and asked[i].question in p for i in range(3) for p in spoken[i])
    assert all(r.text.startswith("yes ") and r.seconds > 0 and not r.error for r in found.values())
    assert len({r.text for r in found.values()}) == 6  # each follows from picture, question and sound


def test_megrez_is_asked_as_its_code_takes_it(tmp_path, processor, asked):
    model, found = predictions(checkpoint(tmp_path / "m", "megrezo", processor), data(tmp_path / "d", asked))
    assert all(call["max_new_tokens"] == 7 and call["sampling"] is False for call in model.asked)
    assert all((call["num_beams"], call["repetition_penalty"]) == (1, 1.0) for call in model.asked)
    first, _, third, *spoken = model.asked
    assert np.array_equal(np.asarray(first["image"]), np.asarray(asked[0].load_image()))
    assert first["content"]["text"] == f"Look closely.\n{asked[0].question}\nAnswer with one word."
    assert set(third["content"]) == {"text"}
    assert np.array_equal(spoken[0]["audio"], asked[0].samples()) and spoken[0]["rate"] == 16_000
    assert spoken[0]["content"]["text"] == "Look closely.\n\nAnswer with one word."
    assert set(spoken[1]["content"]) == {"image", "audio"}
    assert all(not Path(call["content"][k]).exists() for call in model.asked for k in call["content"] if k != "text")
    assert all(r.text.startswith("yes ") and "<|" not in r.text for r in found.values())


def test_what_goes_wrong_with_a_reply_is_no_wrong_answer(tmp_path, processor):
    questions = ("Is it red?", "fall over", "say nothing", "return more", "half a sign")
    examples = [replace(e, question=q) for e, q in zip(toy_examples(5), questions, strict=True)]
    examples[0] = replace(examples[0], image=b"no picture at all")
    source = checkpoint(tmp_path / "m", "minicpmo", processor)
    model, found = predictions(source, data(tmp_path / "d", examples), ["text"])
    assert len(model.asked) == 4 and [r.text for r in found.values()] == [*[""] * 4, "yes \ufffd"]
    unreadable, *others = [r.error for r in found.values() if r.error]
    assert unreadable.startswith(f"example {examples[0].id}: field image: not a readable picture")
    assert others == [
        "RuntimeError: CUDA error: an illegal memory access",
        "the model's chat gave back NoneType, not text",
        "the model's chat gave back tuple, not text",
    ]


@pytest.mark.parametrize("question_type", QUESTION_TYPES)
def test_a_run_in_every_view(tmp_path, processor, question_type):
    source = checkpoint(tmp_path / "m", question_type, processor)
    data(tmp_path / "d", toy_examples(4))
    modalities = ["text", "audio", "cascade"]
    config = EvaluateConfig(source, [str(tmp_path / "d")], tmp_path / "run", modalities=modalities)
    with pytest.raises(InputError, match=r"^trust_remote_code: .*/m would run Python code .*--trust_remote_code true"):
        evaluate(config)
    assert not (tmp_path / "run").exists()
    config.trust_remote_code = True
    (scores,) = evaluate(config).values()
    assert [scores[v]["n"] for v in modalities] == [4] * 3 and scores["gap"]["n"] == 4
    records = read_samples(samples_path(tmp_path / "run", "world-noisy", "cascade"))
    assert all(r["prediction"].startswith("yes") and r["transcript"] in r["prediction"] for r in records)
    config.likelihood, config.output = True, tmp_path / "weighed"
    with pytest.raises(InputError, match="likelihood: needs a model in the classes of transformers"):
        evaluate(config)


def test_what_cannot_be_loaded_is_named(tmp_path, processor):
    source = checkpoint(tmp_path / "less", "megrezo", processor, without="audio")
    with pytest.raises(InputError, match=r"less: 2 weights are missing \(such as audio.bias\)"):
        RemoteCodeBackend(source, None, 7)
    source = checkpoint(tmp_path / "broken", "megrezo", processor)
    (tmp_path / "broken" / "modeling_megrezo.py").write_text("from transformers import NoSuchClass\n")
    with pytest.raises(InputError, match=r"broken: its own code does not run with transformers \d.*NoSuchClass"):
        RemoteCodeBackend(source, None, 7)
    with pytest.raises(InputError, match=r"MiniCPM-o 4\.5: its chat has another form"):
        runs_own_code(checkpoint(tmp_path / "later", "minicpmo", processor, version="4.5"), True)


def test_models_without_code_of_their_own_need_no_trust(tmp_path, processor):
    source = checkpoint(tmp_path / "m", "megrezo", processor, auto_map={})
    assert not runs_own_code(source, False)
    config = EvaluateConfig(source, [], tmp_path / "run", trust_remote_code=True)
    with pytest.raises(InputError, match="'megrezo' takes no audio"):
        evaluate(config)
