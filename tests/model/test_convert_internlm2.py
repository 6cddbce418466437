"""InternVL2-2B and 8B (InternLM2): the tokenizer's ids are those of the original (ref_02_internlm2_tokenizer_ids_are_
shifted), logits those of its layout, and no field of the original configuration is ignored."""

import copy
import json
import random
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from internlm2 import IMAGES, LINES, NAMES, SlowTokenizer, write_tokenizer
from internvl2 import LLM, VISION, original_layout
from safetensors.torch import save_file
from transformers import InternVLForConditionalGeneration

from selfkd.errors import InputError
from selfkd.model import convert_internvl2_processor
from selfkd.model.backbones import load_vlm_processor
from selfkd.model.convert_internvl2 import ConvertConfig, convert, internvl_config, read_original_config
from selfkd.model.convert_internvl2_processor import convert_processor

ATOMS = [
    *NAMES, *IMAGES, "<s>", "</s>", "<unk>", " ", "  ", "   ", "\n", "\t", "é", "日本", "👩‍🔬", "a", "aa", "aaa",
    "the ", "image", "What", "▁", "<0x0A>", "[UNUSED", "\u200b", "\u3000", "<|im_", "fox", "?",
]  # fmt: skip
CONFIG = {
    "model_type": "internvl_chat", "template": "internlm2-chat", "vision_config": VISION, "force_image_size": 28,
    "ps_version": "v2", "select_layer": -1, "min_dynamic_patch": 1, "max_dynamic_patch": 12, "downsample_ratio": 0.5,
    "dynamic_image_size": True, "use_thumbnail": True, "pad2square": False, "use_llm_lora": 0, "use_backbone_lora": 0,
    "torch_dtype": "float32", "llm_config": LLM | {
        "architectures": ["InternLM2ForCausalLM"], "bias": False, "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "max_position_embeddings": 128, "tie_word_embeddings": False, "hidden_act": "silu", "vocab_size": 480,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=[(False, False), (True, False), (False, True), (True, True)], ids=str)
def tokenizers(request, tmp_path_factory):
    """(ours after a round through a folder, the original's)."""
    folder = tmp_path_factory.mktemp("original")
    write_tokenizer(folder, *request.param)
    convert_processor(folder, CONFIG).save_pretrained(folder / "ours")
    (folder / "ours/config.json").write_text('{"model_type": "internvl"}')
    return load_vlm_processor(folder / "ours").tokenizer, SlowTokenizer(folder)


def test_a_thousand_texts_have_the_ids_of_the_original(tokenizers):
    ours, original = tokenizers
    draw = random.Random(0)
    texts = ["".join(draw.choice(ATOMS) for _ in range(draw.randint(0, 12))) for _ in range(1000)]
    texts += [c * n for c in " a\n" for n in range(1, 40)] + LINES
    assert [t for t in texts if ours(t)["input_ids"] != original(t)] == []
    assert {name: ours.convert_tokens_to_ids(name) for name in original.added} == original.added


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    parts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.sampled_from(ATOMS), max_size=6)
)
def test_any_text_has_the_ids_of_the_original(tokenizers, parts):
    ours, original = tokenizers
    assert ours("".join(parts))["input_ids"] == original("".join(parts))


def test_added_tokens_have_the_ids_of_published_checkpoints(tokenizers):
    """<|im_end|> and <|im_start|> have the ids of the last two pieces, <IMG_CONTEXT> the third id after them."""
    ours, original = tokenizers
    last = original.model.get_piece_size() - 1
    positions = [
        ours.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>")
    ]
    assert positions == [last - 1, last, last + 1, last + 2, last + 3]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(folder of a tiny original checkpoint, the model that it must become)."""
    folder = tmp_path_factory.mktemp("internvl2")
    write_tokenizer(folder, add_dummy_prefix=False)
    size = SlowTokenizer(folder).added["<IMG_CONTEXT>"] + 1
    config = copy.deepcopy(CONFIG)
    config["llm_config"]["vocab_size"] = size
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = InternVLForConditionalGeneration(internvl_config(read_original_config(folder), size - 1)).eval()
    weights = {name: t.contiguous() for name, t in original_layout(model, "internlm2-chat").items()}
    save_file(weights, folder / "model.safetensors")
    return folder, model


def test_converted_checkpoint_has_the_logits_of_its_layout(source, tmp_path):
    folder, expected = source
    out = convert(ConvertConfig(folder, tmp_path / "out"))
    ours = InternVLForConditionalGeneration.from_pretrained(out).eval()
    text = "<|im_start|>user\n<img>" + "<IMG_CONTEXT>" * 4 + "</img>\nWhat is in the image?<|im_end|>"
    ids = load_vlm_processor(out).tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == SlowTokenizer(folder)(text)
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 28, 28)}
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs).logits, expected(**inputs).logits, rtol=0, atol=1e-4)
    stops = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [SlowTokenizer(folder).added[t] for t in ("<|im_end|>", "</s>")]


# (where, field, other values): each that the original's code reads
FIELDS = [
    ("", "use_thumbnail", [False]), ("", "dynamic_image_size", [False]), ("", "pad2square", [True]),
    ("", "system_message", ["Be brief.", "", None]), ("", "template", ["phi3-chat", "vicuna", None]),
    ("", "ps_version", ["v1", None]), ("", "select_layer", [-2, 1, 7, -9]), ("", "force_image_size", [56]),
    ("", "downsample_ratio", [0.25, 1.0, 0.3]), ("", "min_dynamic_patch", [2, 0, 13]),
    ("", "max_dynamic_patch", [6, 1, 0]), ("", "torch_dtype", ["bfloat16"]), ("", "use_llm_lora", [16]),
    ("", "use_backbone_lora", [16]), ("", "image_fold", [2]), ("", "quantization_config", [{"bits": 4}]),
    ("", "tie_word_embeddings", [True]), ("vision_config", "hidden_act", ["relu"]),
    ("vision_config", "norm_type", ["rms_norm"]), ("vision_config", "layer_norm_eps", [1e-5]),
    ("vision_config", "qkv_bias", [False]), ("vision_config", "qk_normalization", [True]),
    ("vision_config", "num_attention_heads", [4]), ("vision_config", "num_hidden_layers", [1, 3]),
    ("vision_config", "image_size", [56]), ("vision_config", "patch_size", [14]),
    ("vision_config", "num_channels", [1]),
    ("vision_config", "use_moe", [True]), ("vision_config", "pruned_heads", [{"0": [1]}]),
    ("vision_config", "intermediate_size", [16]), ("llm_config", "tie_word_embeddings", [True]),
    ("llm_config", "rope_theta", [1e4]), ("llm_config", "rope_scaling", [
        None, {"type": "linear", "factor": 2.0}, {"type": "dynamic", "factor": 3.0}, {"factor": 2.0},
        {"type": "yarn", "factor": 2.0},
    ]), ("llm_config", "rms_norm_eps", [1e-6]), ("llm_config", "hidden_act", ["gelu"]), ("llm_config", "bias", [True]),
    ("llm_config", "max_position_embeddings", [256]), ("llm_config", "num_attention_heads", [8]),
    ("llm_config", "num_key_value_heads", [4]), ("llm_config", "num_hidden_layers", [1]),
    ("llm_config", "vocab_size", [100]), ("llm_config", "head_dim", [16]), ("llm_config", "mlp_bias", [True]),
    ("llm_config", "pruned_heads", [{"0": [1]}]), ("llm_config", "intermediate_size", [32]),
    ("llm_config", "architectures", [["GPT2LMHeadModel"]]), ("llm_config", "rope_parameters", [{"rope_type": "yarn"}]),
]  # fmt: skip
CHANGES = [(where, field, value) for where, field, values in FIELDS for value in values]


@pytest.fixture(scope="module")
def unchanged(source):
    return converted_files(source[0], {})


def converted_files(source: Path, config: dict) -> dict[str, str]:
    """{file: hash} of a conversion. `config` replaces the original's; {} keeps it."""
    with TemporaryDirectory() as folder:
        here = Path(folder) / "original"
        here.mkdir()
        for path in source.iterdir():
            if path.is_file():
                (here / path.name).symlink_to(path)
        if config:
            (here / "config.json").unlink()
            (here / "config.json").write_text(json.dumps(config))
        out = convert(ConvertConfig(here, Path(folder) / "out"))
        return {path.name: sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}


def test_no_field_is_ignored(source, unchanged, monkeypatch):
    """Each change gives other files or is refused: by name, except where the shapes of weights show it first."""
    folder = source[0]
    tokenizer = convert_internvl2_processor._tokenizer(folder)  # the same for all: no change is to a tokenizer file
    monkeypatch.setattr(convert_internvl2_processor, "_tokenizer", lambda _: copy.deepcopy(tokenizer))
    for where, field, value in CHANGES:
        config = json.loads((folder / "config.json").read_text())
        (config[where] if where else config)[field] = value
        try:
            assert converted_files(folder, config) != unchanged, field
        except InputError as error:
            assert field in str(error) or "key" in str(error)


def test_stored_defaults_change_nothing(source, unchanged):
    """Every published configuration has fields that the original's code does not read."""
    config = json.loads((source[0] / "config.json").read_text())
    dump = {
        "top_k": 50,
        "temperature": 1.0,
        "id2label": {"0": "LABEL_0"},
        "drop_path_rate": 0.1,
        "use_flash_attn": True,
    }
    for part in (config, config["vision_config"], config["llm_config"]):
        part.update(dump)
    assert converted_files(source[0], config) == unchanged


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.model", b"not a model", "tokenizer.model: not a SentencePiece model"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json: not JSON"),
        ("tokenizer_config.json", b'{"tokenizer_class": "InternLM2Tokenizer"}', "the tokenizer has no token '<img>'"),
    ],
)
def test_error_names_a_tokenizer_file_that_cannot_be_read(source, tmp_path, name, content, message):
    for path in source[0].iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(content if path.name == name else path.read_bytes())
    with pytest.raises(InputError, match=message):
        convert(ConvertConfig(tmp_path, tmp_path / "out"))
