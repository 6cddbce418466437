"""Stand-ins in place of all downloads, for a rehearsal: the same folders, classes and layouts, and no network."""

import json
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any

from selfkd.data.example import MANIFEST
from selfkd.errors import InputError
from selfkd.files import sync, write_json
from selfkd.json_files import read_json
from selfkd.reproduce.stand_in_data import write_benchmark, write_librispeech, write_llava
from selfkd.reproduce.stand_in_models import save_internvl2, save_qwen2_vl, save_whisper
from selfkd.run_dir import Settings

_VOCABULARY = 51_866  # of Whisper-large-v3
_BASE_EN: dict[str, int] = {  # the encoder of whisper-base.en
    "d_model": 512,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "num_mel_bins": 80,
}
_TINY_TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 1200}  # fmt: skip
_TINY_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
                "image_size": [56, 56], "patch_size": [14, 14]}  # fmt: skip
_TINY_QWEN_VISION = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2}
_TINY_AUDIO = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}


def make_stand_ins(settings: Mapping[str, Any]) -> None:
    """`settings`: output, downloads, model_config, convert, tiny, benchmarks, and the numbers of questions and clips.
    What an interrupted process left is made again."""
    output, is_tiny = Path(settings["output"]), settings["tiny"]
    rmtree(output, ignore_errors=True)
    dimensions = read_json(Path(settings["model_config"]), Settings)
    vlm, audio = dimensions["vlm_config"], dimensions["audio_config"]
    base_en, vocabulary = _BASE_EN, _VOCABULARY
    if is_tiny:
        vlm, audio, vocabulary = _shrunk(vlm), audio | _TINY_AUDIO, 300
        base_en = _BASE_EN | _TINY_AUDIO
    if settings["convert"]:
        save_internvl2(output / "vlm", vlm)
    elif vlm["model_type"] == "qwen2_vl":
        save_qwen2_vl(output / "vlm", vlm)
    else:
        raise InputError(f"{settings['model_config']}: field vlm_config.model_type: {vlm['model_type']}: no stand-in")
    save_whisper(output / "speech_encoder", audio, vocabulary)
    save_whisper(output / "asr_filter", base_en, vocabulary)
    side = 56 if is_tiny else 448  # one tile of InternVL2
    (file,) = settings["downloads"]["questions"]["files"]
    write_llava(output / "questions" / file, output / "images", settings["questions"], side)
    write_librispeech(output / "asr_data", settings["clips"])
    for name in settings["benchmarks"]:
        write_benchmark(output / "benchmarks" / f"{name}.parquet", name, side)
    sync(output)
    write_json(output / MANIFEST, {"stand-ins": json.loads(json.dumps(dict(settings)))})


def _shrunk(vlm: Mapping[str, Any]) -> dict[str, Any]:
    """The same classes at small dimensions."""
    if vlm["model_type"] == "qwen2_vl":
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
        text = dict(vlm["text_config"]) | _TINY_TEXT | {"rope_parameters": rope}
        return {**vlm, "text_config": text, "vision_config": _TINY_QWEN_VISION}
    heads = {"num_key_value_heads": 4} if vlm["text_config"]["model_type"] == "phi3" else {}
    text = dict(vlm["text_config"]) | _TINY_TEXT | heads
    return {**vlm, "text_config": text, "vision_config": dict(vlm["vision_config"]) | _TINY_VISION}
