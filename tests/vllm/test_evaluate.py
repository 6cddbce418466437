"""`selfkd evaluate --engine vllm`: the samples of `--engine transformers`, and what it refuses."""

import json
import sys
from collections import namedtuple
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from examples import toy_examples

from selfkd.errors import InputError
from selfkd.evaluation.backends.registry import backend_for
from selfkd.evaluation.backends.vllm_engine import VLLMBackend
from selfkd.evaluation.config import EvaluateConfig
from selfkd.evaluation.evaluate import evaluate
from selfkd.model.prompts import Turn
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.vllm import engine

VOICE = "en-US-nyc+f3"
Output = namedtuple("Output", ["token_ids", "finish_reason"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vllm": {"dtype": "float32"}}, "vllm: has no effect without engine vllm"),
        ({"engine": "vllm", "url": "http://127.0.0.1:1/v1"}, "engine: vllm runs a model of selfkd; leave out url"),
        ({"engine": "vllm"}, "engine: vLLM is not installed; pip install 'selfkd[vllm]'"),
    ],
)
def test_settings_without_effect_are_refused(fields, message, monkeypatch):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(InputError) as found:
        backend_for(EvaluateConfig("selfkd-tiny", **fields))
    assert str(found.value).startswith(message)


class Engine:
    """An `LLM` that refuses prompts of over 60 tokens, and adds three to the others."""

    def generate(self, prompts, settings, use_tqdm):
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        if any(len(of_prompt) > 60 for of_prompt in ids):
            raise ValueError("The prompt is longer than the maximum model length.\nMake it shorter.")
        return [SimpleNamespace(prompt_token_ids=[*i, 0, 0, 0], outputs=[Output([], "stop")]) for i in ids]


def test_a_question_beyond_the_context_is_named(processor, monkeypatch):
    """One line that begins with the example, whether vLLM refuses it or answers with too little room."""
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=dict))
    lengths = {"short": 1, "long": 20, "longer": 80}
    examples = [
        replace(e, id=i, question="no " * n) for e, (i, n) in zip(toy_examples(3), lengths.items(), strict=True)
    ]
    short, long = (len(processor.unexpanded_ids([Turn(e.question, "")], e.image is not None)) for e in examples[:2])
    backend = VLLMBackend(Engine(), processor, short + 5 + 3, None, 5)
    assert [(at, p.error) for at, p in sorted(backend._responses(examples, "text"), key=lambda found: found[0])] == [
        (0, ""),
        (1, f"example long: {long + 3} tokens do not fit the model's context of {short + 3}"),
        (2, "example longer: The prompt is longer than the maximum model length."),
    ]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="wants vLLM")
def test_samples_are_those_of_transformers(tmp_path, monkeypatch):
    """In text, in audio and as a cascade; single questions and each turn of conversations."""
    for name, value in {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}.items():
        monkeypatch.setenv(name, value)
    for name, turns in {"questions": "split", "conversations": "whole"}.items():
        settings = {"split": "test", "count": 8 if turns == "split" else 3, "voices": VOICE, "processes": 1}
        synthesize(SynthesizeConfig(tmp_path / name, "world", turns=turns, **settings))
    data = [str(tmp_path / "questions"), f"turns={tmp_path / 'conversations'}"]
    shared = {"data": data, "modalities": ["text", "audio", "cascade"]}
    evaluate(EvaluateConfig("selfkd-tiny", output=tmp_path / "transformers", **shared))
    settings = {"engine": "vllm", "vllm": {"enforce_eager": True}}
    evaluate(EvaluateConfig("selfkd-tiny", output=tmp_path / "vllm", **shared, **settings))
    found = samples(tmp_path / "vllm")
    assert found == samples(tmp_path / "transformers")
    assert any("/turn-2" in row["id"] for rows in found.values() for row in rows)


def samples(run):
    files = sorted((run / "samples").iterdir())
    rows = {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in files}
    return {name: [{k: v for k, v in row.items() if "seconds" not in k} for row in some] for name, some in rows.items()}
