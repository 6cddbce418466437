"""Converts tokenizer, chat template and tiling of an original InternVL2 checkpoint to a processor of transformers."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GotOcr2ImageProcessorPil, PreTrainedTokenizerBase

from selfkd.errors import InputError
from selfkd.model.convert_internvl2_config import tiles
from selfkd.model.convert_internvl2_tokenizer import CONFIG_FILE, added_tokens, internlm2_tokenizer, is_internlm2
from selfkd.model.image_processor import InternVLImageTextProcessor

# the system message that InternVL2 was tuned with (OpenGVLab/InternVL, internvl_chat/internvl/conversation.py): "You
# are the Shusheng multimodal model developed by Shanghai AI Laboratory with SenseTime, in English InternVL, a helpful
# and harmless AI assistant."
SYSTEM_MESSAGE = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
# template: (before the system message, before the user's turn, before the assistant's, after each turn)
_TURNS = {
    "Hermes-2": ("<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>"),
    "internlm2-chat": ("<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>"),
    "phi3-chat": ("<|system|>\n", "<|user|>\n", "<|assistant|>\n", "<|end|>"),
}
_IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
}
_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def convert_processor(source: Path, original: dict[str, Any]) -> InternVLImageTextProcessor:
    """The processor; raises InputError where the chat template is unknown or a token of InternVL2 is missing."""
    tokenizer = _tokenizer(source)
    end = _turns(original)[3]
    if end not in tokenizer.get_vocab():
        given = original["template"]
        raise InputError(f"config.json: field template: {given!r}: the tokenizer of {source} has no token {end!r}")
    side, (min_tiles, max_tiles) = original["vision_config"]["image_size"], tiles(original)
    image_processor = GotOcr2ImageProcessorPil(
        size={"height": side, "width": side},
        crop_to_patches=True,
        min_patches=min_tiles,
        max_patches=max_tiles,
        image_mean=_IMAGENET_MEAN,
        image_std=_IMAGENET_STD,
        do_convert_rgb=True,
    )
    return InternVLImageTextProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        image_seq_length=image_tokens_a_tile(original),
        chat_template=chat_template(original, tokenizer),
    )


def image_tokens_a_tile(original: dict[str, Any]) -> int:
    vision = original["vision_config"]
    return int((vision["image_size"] // vision["patch_size"]) ** 2 * original.get("downsample_ratio", 0.5) ** 2)


def chat_template(original: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
    """InternVL2's conversation format in Jinja: the beginning-of-sequence token where the tokenizer adds one, turns
    without a newline between them, the image before the query."""
    system, user, assistant, end = (repr(t) for t in _turns(original))
    message = original.get("system_message", SYSTEM_MESSAGE)
    begins = tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id is not None
    return (
        (f"{{{{ {tokenizer.bos_token!r} }}}}" if begins else "")
        + "{% if messages[0]['role'] != 'system' %}"
        + f"{{{{ {system} + {message!r} + {end} }}}}"
        + "{% endif %}{% for message in messages %}"
        + f"{{{{ {{'system': {system}, 'user': {user}, 'assistant': {assistant}}}[message['role']] }}}}"
        + "{% if message['content'] is string %}{{ message['content'] }}"
        + "{% else %}{% for part in message['content'] %}"
        + "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}"
        + "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
        + f"{{% endfor %}}{{% endif %}}{{{{ {end} }}}}{{% endfor %}}"
        + f"{{% if add_generation_prompt %}}{{{{ {assistant} }}}}{{% endif %}}"
    )


def stop_tokens(original: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a response: the end of the turn, and the tokenizer's own end token."""
    ids = [tokenizer.convert_tokens_to_ids(_turns(original)[3]), tokenizer.eos_token_id]
    return list(dict.fromkeys(i for i in ids if i is not None))


def _turns(original: dict[str, Any]) -> tuple[str, str, str, str]:
    name = original.get("template")
    if name not in _TURNS:
        raise InputError(f"config.json: field template: {name!r}; known: {', '.join(_TURNS)}")
    return _TURNS[name]


def _tokenizer(source: Path) -> PreTrainedTokenizerBase:
    """The tokenizer; raises InputError where a token of InternVL2 is missing, or an added token has another id than in
    its file."""
    if is_internlm2(source):
        tokenizer: PreTrainedTokenizerBase = internlm2_tokenizer(source, _IMAGE_TOKENS)
    else:
        known = AutoTokenizer.from_pretrained(source).get_vocab()  # nosec B615 a folder
        for token in _IMAGE_TOKENS.values():  # transformers would append a missing one with a new id
            if token not in known:
                raise InputError(f"source: {source}: the tokenizer has no token {token!r}")
        tokenizer = AutoTokenizer.from_pretrained(source, extra_special_tokens=_IMAGE_TOKENS)  # nosec B615 a folder
    for i, added in added_tokens(source).items():
        found = tokenizer.convert_tokens_to_ids(added.content)
        if found != i:
            raise InputError(f"{source / CONFIG_FILE}: {added.content!r} is token {i}, and was loaded as token {found}")
    return tokenizer
