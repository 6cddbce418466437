"""The image placeholder in a question: "<image>" in LLaVA's data, and the tokens of other models.

The image comes first in every prompt of this package, so the placeholder is removed from the text: the teacher would
read it, and a voice cannot say it. "<image 1>" is no placeholder but a reference within a sentence, and stays.
"""

import re

IMAGE_PLACEHOLDER = re.compile(
    r"<\|vision_start\|>\s*(?:<\|image_pad\|>\s*)*<\|vision_end\|>"  # Qwen-VL
    r"|<img>[^<>\s]*</img>|\(?<image>[^<>\s]*</image>\)?"  # Qwen-VL, MiniCPM-V: with the file between
    r"|<\|?(?:image|img)(?:[-_]?(?:placeholder|pad|token|soft_token|here))?[-_]?\d*\|?>"
    r"|<start_of_image>|\[IMG\]|<img\s[^<>]*>|!\[[^\]\n]{0,300}\]\([^()\s]+\)",
    re.IGNORECASE,
)
_AUDIO_PLACEHOLDER = re.compile(
    r"<\|?audio(?:[-_]?(?:placeholder|pad|token|soft_token|here))?[-_]?\d*\|?>", re.IGNORECASE
)
_WORD_BEFORE = re.compile(r"\w['\")\]]?[ \t]*\Z")
_SENTENCE_AFTER = re.compile(r"[ \t]+\w|[ \t]*[?.!,;:)]")


def strip_image_placeholder(text: str) -> str:
    """The text without its one image placeholder, the spaces between words kept. Unchanged where there are several, or
    where the placeholder is a word of the sentence ("What is in <image>?")."""
    return _strip(text, IMAGE_PLACEHOLDER)


def strip_audio_placeholder(text: str) -> str:
    return _strip(text, _AUDIO_PLACEHOLDER)


def _strip(text: str, placeholder: re.Pattern[str]) -> str:
    found = [*placeholder.finditer(text)]
    if len(found) != 1 or _is_a_word(text, found[0]):
        return text.strip()
    before, after = text[: found[0].start()].rstrip(" \t"), text[found[0].end() :].lstrip(" \t")
    if before.endswith("\n"):
        after = after.removeprefix("\n")  # a line of its own
    between = "" if not before or not after or before[-1] == "\n" or after[0] == "\n" else " "
    return f"{before}{between}{after}".strip()


def leftover_image_placeholder(text: str, has_image: bool) -> str:
    """Why a placeholder is left in a text after `strip_image_placeholder`; "" where none is."""
    found = IMAGE_PLACEHOLDER.findall(text)
    if not found:
        return ""
    if not has_image:
        return f"{found[0]} stands for an image, and there is none"
    if len(found) > 1:
        return f"{len(found)} placeholders for one image ({', '.join(found[:2])})"
    if IMAGE_PLACEHOLDER.fullmatch(text.strip()):
        return f"{found[0]} is the whole question"
    return f"{found[0]} stands for a word of the sentence"


def _is_a_word(text: str, placeholder: re.Match[str]) -> bool:
    """Within a line, where the sentence continues after it. With letters on both sides ("Is<image>it") it is no word:
    two words were joined at the placeholder."""
    before, after = _WORD_BEFORE.search(text[: placeholder.start()]), _SENTENCE_AFTER.match(text[placeholder.end() :])
    if not before or not after:
        return False
    apart = text[placeholder.start() - 1] in " \t"
    return apart if after[0][-1].isalnum() else True
