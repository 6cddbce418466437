"""Tiny tokenizers of the types that models have, each with its own control tokens, trained on a few lines."""

import json
from functools import cache

from native_models import QWEN_TEMPLATE, QWEN_TOKENS, tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from selfkd.model.tiny import vlm_path

LINES = [
    "What color is the circle?",
    "a  b   c",
    "Describe the table <table><tr>",
    "red and blue\n\nyes",
    "user\nassistant\n",
]
CHAT = (
    "{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def bundled():
    return AutoTokenizer.from_pretrained(vlm_path())


def qwen():
    """Bytes as tokens; control tokens that are not `special`, as Qwen's for tools and thoughts."""
    made = tokenizer(QWEN_TOKENS, QWEN_TEMPLATE)
    made.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<tool_call>", "<think>")])
    return made


def _sentencepiece_like(prefix: str, special: list[str], plain: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Replace(" ", "▁")]
    if prefix == "normalizer":  # Llama 2: before every piece of text between control tokens
        steps.insert(0, normalizers.Prepend("▁"))
    backend.normalizer = normalizers.Sequence(steps)
    if prefix == "first":  # Llama's later form: at the very beginning alone
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    first = ["<unk>", "<s>", "</s>", *[f"<0x{i:02X}>" for i in range(256)]]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=first, show_progress=False)
    backend.train_from_iterator(LINES * 5, trainer)
    # training adds its special tokens; bytes are none
    made = Tokenizer.from_str(json.dumps(json.loads(backend.to_str()) | {"added_tokens": []}))
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ["<unk>", "<s>", "</s>", *special]])
    made.add_tokens([AddedToken(t, normalized=False) for t in plain])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def llama():
    return _sentencepiece_like("normalizer", ["<image>", "<|audio|>"], [])


def llama_first():
    return _sentencepiece_like("first", ["<image>", "[INST]"], [])


def gemma():
    """Turn markers that are no special tokens, next to spaces and HTML tags that are pieces of text."""
    made = _sentencepiece_like(
        "", ["<image_soft_token>"], ["<start_of_turn>", "<end_of_turn>", "\n\n", "▁▁", "<table>", "</tr>", "<unused7>"]
    )
    made.chat_template = CHAT
    return made


def unigram():
    """A model whose vocabulary contains the control tokens, scored above all pieces."""
    characters = sorted({c for line in LINES for c in line.replace(" ", "▁")} | set("<>|/_[]s"))
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((c, -5.0) for c in characters), ("▁the", -6.0)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<unk>", "<s>", "</s>", "<image>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


def folded():
    """One that matches its tokens after normalization: full-width characters and capitals match too."""
    backend = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=True) for t in ("<|end|>", "<image>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


class SlowTokenizer(PreTrainedTokenizer):
    """Characters as tokens, in Python."""

    characters = [chr(i) for i in range(32, 127)] + ["\n", "é", "日"]

    def __init__(self, **kwargs):
        super().__init__(unk_token="<unk>", eos_token="</s>", additional_special_tokens=["<image>"], **kwargs)

    @property
    def vocab_size(self):
        return len(self.characters)

    def get_vocab(self):
        return {c: i for i, c in enumerate(self.characters)} | self.added_tokens_encoder

    def _tokenize(self, text, **kwargs):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.characters.index(token) if token in self.characters else self.unk_token_id

    def _convert_id_to_token(self, index):
        return self.characters[index]


TOKENIZERS = [bundled, qwen, llama, llama_first, gemma, unigram, folded, SlowTokenizer]


@cache
def made(make):
    return make()
