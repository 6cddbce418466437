"""Model and data of `peers.py`: a VLM and questions that selfkd and the other projects all read."""

import json
from pathlib import Path
from typing import Any

MIDDLE_TEXT: dict[str, Any] = {
    "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6,
    "num_key_value_heads": 6, "vocab_size": 8192,
}  # fmt: skip
MIDDLE_VISION: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4,
    "image_size": [448, 448], "patch_size": [14, 14],
}  # fmt: skip
MIDDLE_IMAGE_TOKENS = 256
WHISPER_TINY: dict[str, Any] = {
    "d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_layers": 1,
    "decoder_attention_heads": 6, "decoder_ffn_dim": 64,
}  # fmt: skip
END, PAD = 2, 0  # of the bundled tokenizer
ANSWER_REPEATS = 3  # of a sentence: responses of about 20 tokens


def make_inputs(folder: Path, size: str) -> None:
    """Writes `vlm` (an InternVL with transformers' own processor files) and `model` (the same with speech encoder and
    frame-stacking projector), random weights: of the bundled model's dimensions (tiny), or with an image of 256
    tokens, 8,192 tokens of vocabulary and a Whisper encoder of tiny's dimensions (middle)."""
    from transformers import (
        AutoConfig,
        AutoModelForImageTextToText,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperModel,
        set_seed,
    )

    from selfkd.model.backbones import load_vlm_processor
    from selfkd.model.tiny import vlm_path
    from selfkd.training.align import AlignConfig, assemble

    set_seed(0)
    processor, config, encoder = load_vlm_processor(vlm_path()), AutoConfig.from_pretrained(vlm_path()), ""
    if size == "middle":
        config.text_config.update(MIDDLE_TEXT)
        config.text_config.layer_types = ["full_attention"] * MIDDLE_TEXT["num_hidden_layers"]
        config.vision_config.update(MIDDLE_VISION)
        config.image_seq_length = processor.image_seq_length = MIDDLE_IMAGE_TOKENS
        height, width = MIDDLE_VISION["image_size"]
        processor.image_processor.size = {"height": height, "width": width}
        encoder = str(folder / "whisper")
        WhisperModel(WhisperConfig(**WHISPER_TINY)).save_pretrained(encoder)
        WhisperFeatureExtractor(feature_size=80).save_pretrained(encoder)
    vlm = AutoModelForImageTextToText.from_config(config)
    vlm.generation_config.eos_token_id, vlm.generation_config.pad_token_id = END, PAD
    for part in (vlm, processor):
        part.save_pretrained(folder / "vlm")
    parts = AlignConfig([], Path(), vlm=str(folder / "vlm"), speech_encoder=encoder, projector="stack")
    for part in assemble(parts):
        part.save_pretrained(folder / "model")


def make_questions(folder: Path, count: int) -> None:
    """Writes `questions`: of the toy world, in espeak-ng's voices, each about an image of its own."""
    from selfkd import synthesize
    from selfkd.synthesis.sources.registry import ToyWorld

    source, images = ToyWorld("train", 0), folder / "images"
    rows: list[dict[str, str]] = []
    images.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        example = source.example(number)
        (images / f"{number}.png").write_bytes(example.image or b"")
        answer = " ".join([f"the answer is {example.target}"] * ANSWER_REPEATS)
        rows.append({"id": str(number), "image": f"{number}.png", "question": example.question, "answer": answer})
    table = folder / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    synthesize(output=folder / "questions", source="jsonl", path=str(table), images=str(images), count=0)


def make_pope(file: Path, count: int) -> None:
    """Writes questions of the toy world that ask whether something exists, in POPE's layout."""
    from datasets import Dataset, Features, Image, Value

    from selfkd.synthesis.sources.registry import ToyWorld

    source, number = ToyWorld("test", 5), 0
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        example, number = source.example(number), number + 1
        if example.question_type == "exists":
            rows.append({
                "id": example.id, "question_id": example.id, "question": example.question, "answer": example.target,
                "image_source": example.id, "image": {"bytes": example.image}, "category": "random",
            })  # fmt: skip
    layout = Features({name: Image() if name == "image" else Value("string") for name in rows[0]})
    Dataset.from_list(rows, layout).to_parquet(file)


def make_with_video(folder: Path, size: str) -> None:
    """Writes VLMs with the video processor that transformers' own InternVLProcessor wants: `vlm-video`, the one of
    `vlm`, and in bf16, which lmms-eval's wrapper loads every model in, `evaluated/vlm` and `evaluated/model`. What is
    evaluated at the tiny size has the bundled weights, so that its responses are answers. Needs torchvision."""
    import torch
    from transformers import InternVLProcessor, InternVLVideoProcessor

    from selfkd.model.backbones import load_vlm, load_vlm_processor
    from selfkd.model.tiny import vlm_path
    from selfkd.training.align import AlignConfig, assemble

    evaluated = vlm_path() if size == "tiny" else folder / "vlm"
    for source, output, dtype in (
        (folder / "vlm", "vlm-video", torch.float32),
        (evaluated, "evaluated/vlm", torch.bfloat16),
    ):
        processor, vlm = load_vlm_processor(source), load_vlm(source)
        tokenizer, images = processor.tokenizer, processor.image_processor
        tokenizer.video_token = "<video>"
        whole = InternVLProcessor(
            images,
            tokenizer,
            InternVLVideoProcessor(size=dict(images.size)),
            image_seq_length=processor.image_seq_length,
            chat_template=processor.chat_template,
        )
        for parameter in vlm.parameters():
            parameter.data = parameter.data.to(dtype)
        vlm.config.dtype = dtype
        for part in (vlm, whole):
            part.save_pretrained(folder / output)
    joined = assemble(AlignConfig([], Path(), vlm=str(folder / "evaluated" / "vlm"), projector="stack"))
    for either in joined:
        either.save_pretrained(folder / "evaluated" / "model")
