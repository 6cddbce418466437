"""Stand-ins have the weights, classes and layouts of what they stand for."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from selfkd.evaluation.benchmarks.registry import PAPER8, open_benchmark
from selfkd.model.convert_internvl2 import converted, internvl_config
from selfkd.reproduce.stand_in_data import write_benchmark, write_librispeech, write_llava
from selfkd.reproduce.stand_in_models import byte_level_tokenizer, internvl2_shapes, save_internvl2
from selfkd.synthesis.sources.asr_corpora import librispeech
from selfkd.synthesis.sources.llava import llava

ROOT = Path(__file__).parents[2]
MODEL_CONFIGS = ROOT / "recipes" / "model_configs"


def original_config(name, monkeypatch, tmp_path):
    """The `config.json` that a stand-in of these dimensions gets; no weights are written."""
    monkeypatch.setattr("selfkd.reproduce.stand_in_models.write_random_weights", lambda folder, shapes: None)
    dimensions = json.loads((MODEL_CONFIGS / f"{name}.json").read_text())["vlm_config"]
    save_internvl2(tmp_path / name, dimensions)
    return json.loads((tmp_path / name / "config.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["internvl2_1b", "internvl2_2b", "internvl2_4b", "internvl2_8b"])
def test_weights_convert_to_every_parameter_at_full_dimensions(name, monkeypatch, tmp_path):
    config = original_config(name, monkeypatch, tmp_path)
    with torch.device("meta"):
        wanted = {
            n: tuple(t.shape)
            for n, t in InternVLForConditionalGeneration(internvl_config(config, 1)).state_dict().items()
        }
        found = {
            new: tuple(part.shape)
            for name, shape in internvl2_shapes(config).items()
            for new, part in converted(name, torch.empty(shape), config["llm_config"]).items()
        }
    assert found == wanted


def test_a_tokenizer_has_its_size_merges_and_special_tokens(tmp_path):
    byte_level_tokenizer(151_655, ["<|im_end|>", "<img>"], eos_token="<|im_end|>").save_pretrained(tmp_path)
    made = AutoTokenizer.from_pretrained(tmp_path)
    text = "The value of the expression is evaluated, and the image: 日本."
    ids = made(text)["input_ids"]
    assert len(made) == 151_655 and made.convert_tokens_to_ids("<img>") == 151_654
    assert made.decode(ids) == text and len(ids) < len(text) / 2


@pytest.mark.parametrize("name", PAPER8)
def test_tables_are_read_as_the_benchmarks_are(name, tmp_path):
    write_benchmark(tmp_path / f"{name}.parquet", name, side=56)
    source = open_benchmark(name, str(tmp_path / f"{name}.parquet"))
    assert len(source) == 4 and source.example(0).load_image().size == (56, 56)
    assert source.example(0).target


def test_questions_and_clips_are_read_as_the_downloads_are(tmp_path):
    write_llava(tmp_path / "questions" / "q.json", tmp_path / "images", count=8, side=56)
    source = llava(tmp_path / "questions" / "q.json", tmp_path / "images", 8, 0, False)
    assert len(source) == 8 and len({row.image.name for row in source.rows}) == 4
    assert source.example(1).load_image().size == (56, 56)
    write_librispeech(tmp_path / "asr_data", count=5)
    clips = librispeech(tmp_path / "asr_data", 0, 0)
    assert len(clips) == 5 and {row.speaker for row in clips.rows} == {"1", "2"}
    assert all(clip.file.is_file() for row in clips.rows for clip in row.clips)
