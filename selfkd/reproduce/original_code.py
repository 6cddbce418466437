"""Greedy responses of an original InternVL2 by its own remote code: `python original_code.py MODEL QUESTIONS OUTPUT N`.

Runs with the transformers of the original's time, and imports nothing of selfkd. A checkpoint in transformers' own
classes, as in a rehearsal, answers through them.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

NEW_CLASSES = "internvl"  # model_type of transformers' own


def main(source: str, questions: Path, output: Path, max_new_tokens: int) -> None:
    disable_progress_bar()
    texts = json.loads((questions / "questions.json").read_text())
    pixels = [load_file(questions / f"{number}.safetensors")["pixel_values"] for number in range(len(texts))]
    is_new = json.loads((Path(source) / "config.json").read_text())["model_type"] == NEW_CLASSES
    respond = new_classes if is_new else remote_code
    output.write_text(json.dumps(respond(source, texts, pixels, max_new_tokens)))


def remote_code(source: str, texts: list, pixels: list, max_new_tokens: int) -> list:
    config = AutoConfig.from_pretrained(source, trust_remote_code=True)
    # published checkpoints ask for flash attention, which needs not be there
    for part in (config, config.llm_config, config.vision_config):
        part.use_flash_attn = False
        part.attn_implementation = part._attn_implementation = "eager"
    model = AutoModel.from_pretrained(
        source, config=config, torch_dtype=torch.float32, trust_remote_code=True, low_cpu_mem_usage=True
    )
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=True, use_fast=False)
    settings = {"max_new_tokens": max_new_tokens, "do_sample": False}
    found = []
    for text, values in zip(texts, pixels, strict=True):
        values = values.to(model.device, torch.float32)
        found.append(model.chat(tokenizer, values, f"<image>\n{text['question']}", settings))
    return found


def new_classes(source: str, texts: list, pixels: list, max_new_tokens: int) -> list:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    found = []
    for text, values in zip(texts, pixels, strict=True):
        tokens = f"<img>{'<IMG_CONTEXT>' * (len(values) * model.config.image_seq_length)}</img>"
        ids = tokenizer(text["prompt"].replace("<IMG_CONTEXT>", tokens), return_tensors="pt").input_ids
        with torch.no_grad():
            made = model.generate(
                input_ids=ids, pixel_values=values.to(model.dtype), max_new_tokens=max_new_tokens, do_sample=False
            )
        found.append(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    return found


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
