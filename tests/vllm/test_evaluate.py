"""`selfkd evaluate --engine vllm`: the samples of `--engine transformers`, and what it refuses."""

import json
from importlib.util import find_spec

import pytest

from selfkd.data.example import MANIFEST, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.backends import vllm_engine
from selfkd.evaluation.backends.registry import backend_for
from selfkd.evaluation.config import EvaluateConfig
from selfkd.evaluation.evaluate import evaluate
from selfkd.files import write_json
from selfkd.synthesis.sources.registry import ToyWorld
from selfkd.synthesis.tts.base import EspeakEngine, Utterance

VOICE = "en-US-nyc+f3"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vllm": {"dtype": "float32"}}, "vllm: has no effect without engine vllm"),
        ({"engine": "vllm", "url": "http://127.0.0.1:1/v1"}, "engine: vllm runs a model of selfkd; leave out url"),
        ({"engine": "vllm"}, "engine: vLLM is not installed; pip install 'selfkd[vllm]'"),
    ],
)
def test_settings_without_effect_are_refused(fields, message, monkeypatch):
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)
    with pytest.raises(InputError) as found:
        backend_for(EvaluateConfig("selfkd-tiny", **fields))
    assert str(found.value).startswith(message)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="wants vLLM")
def test_samples_are_those_of_transformers(tmp_path, monkeypatch):
    """In text, in audio and as a cascade."""
    for name, value in {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}.items():
        monkeypatch.setenv(name, value)
    source, tts = ToyWorld("test", 5, False), EspeakEngine()
    examples = [source.example(i) for i in range(8)]
    examples = [e.with_audio(tts.synthesize_audio(Utterance(e.question, VOICE)), VOICE) for e in examples]
    (tmp_path / "data").mkdir()
    write_shard(tmp_path / "data" / "test.parquet", examples, {"rows": 8, "rejected": []})
    write_json(tmp_path / "data" / MANIFEST, {"source": "world", "shards": [{"file": "test.parquet"}]})
    shared = {"data": [str(tmp_path / "data")], "modalities": ["text", "audio", "cascade"]}
    evaluate(EvaluateConfig("selfkd-tiny", output=tmp_path / "transformers", **shared))
    settings = {"engine": "vllm", "vllm": {"enforce_eager": True}}
    evaluate(EvaluateConfig("selfkd-tiny", output=tmp_path / "vllm", **shared, **settings))
    assert samples(tmp_path / "vllm") == samples(tmp_path / "transformers")


def samples(run):
    files = sorted((run / "samples").iterdir())
    rows = {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in files}
    return {name: [{k: v for k, v in row.items() if "seconds" not in k} for row in some] for name, some in rows.items()}
