"""A tiny InternVL2 checkpoint with InternLM2, as `selfkd convert` reads one, and an independent reference for its
tokenizer and wqkv, written from the layout only."""

import json
import re
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

NAMES = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
IMAGES = ["<img>", "</img>", "<IMG_CONTEXT>"]
LINES = [
    "What is in the image? A dog.",
    "user assistant system",
    "the quick brown fox jumps over it",
    "  a   lot  ",
    "aaa aaaa",
]


def write_tokenizer(folder: Path, add_dummy_prefix: bool, remove_extra_whitespaces: bool = False) -> None:
    """`tokenizer.model` ending in [UNUSED_TOKEN_0..146], and the configuration that gives six tokens the ids of the
    last six pieces and three the ids after them."""
    (folder / "lines.txt").write_text("\n".join(LINES * 50))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "lines.txt"), model_prefix=str(folder / "small"), model_type="bpe", vocab_size=320,
        byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=add_dummy_prefix, unk_id=0, bos_id=1,
        remove_extra_whitespaces=remove_extra_whitespaces, eos_id=2, pad_id=-1, minloglevel=2, hard_vocab_limit=False,
        allow_whitespace_only_pieces=True,
    )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "small.model").read_bytes())
    for i in range(147):
        piece = proto.pieces.add()
        piece.piece, piece.score, piece.type = f"[UNUSED_TOKEN_{i}]", 0.0, type(piece).USER_DEFINED
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    for name in ("lines.txt", "small.model", "small.vocab"):
        (folder / name).unlink()
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    ids = dict(zip(NAMES + IMAGES, range(len(proto.pieces) - len(NAMES), len(proto.pieces) + len(IMAGES)), strict=True))
    decoder = {str(i): {"content": name} | flags for name, i in ({"<unk>": 0, "<s>": 1, "</s>": 2} | ids).items()}
    config = {
        "added_tokens_decoder": decoder, "additional_special_tokens": NAMES + IMAGES, "bos_token": "<s>",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}, "eos_token": "</s>",
        "pad_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "InternLM2Tokenizer",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenization_internlm2.py").write_text("")


class SlowTokenizer:
    """A text is split at added tokens; SentencePiece encodes each part between them separately."""

    def __init__(self, folder: Path):
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        config = json.loads((folder / "tokenizer_config.json").read_text())
        self.added = {token["content"]: int(i) for i, token in config["added_tokens_decoder"].items()}
        self.cuts = re.compile("(" + "|".join(map(re.escape, sorted(self.added, key=len, reverse=True))) + ")")

    def __call__(self, text: str) -> list[int]:
        ids = [self.model.bos_id()]
        for part in self.cuts.split(text):
            ids += [self.added[part]] if part in self.added else self.model.encode(part)
        return ids
