"""The place of the picture in a written question: "<image>" as LLaVA's data has it, and what other models call it.

The picture comes first in every prompt of ours, so its place goes out of the text: the teacher would read it, the
student's voice could not say it. "<image 1>" is no such place but a reference within a sentence, and stays.
"""

import re

IMAGE_PLACE = re.compile(
    r"<\|vision_start\|>\s*(?:<\|image_pad\|>\s*)*<\|vision_end\|>"  # Qwen-VL
    r"|<img>[^<>\s]*</img>|\(?<image>[^<>\s]*</image>\)?"  # Qwen-VL, MiniCPM-V: with the file between
    r"|<\|?(?:image|img)(?:[-_]?(?:placeholder|pad|token|soft_token|here))?[-_]?\d*\|?>"
    r"|<start_of_image>|\[IMG\]|<img\s[^<>]*>|!\[[^\]\n]*\]\([^()\s]+\)",
    re.IGNORECASE,
)
_SOUND_PLACE = re.compile(r"<\|?audio(?:[-_]?(?:placeholder|pad|token|soft_token|here))?[-_]?\d*\|?>", re.IGNORECASE)
_ON_A_LINE_BEFORE = re.compile(r"\w['\")\]]?[ \t]*\Z")
_GOES_ON = re.compile(r"[ \t]+\w|[ \t]*[?.!,;:)]")


def without_image_place(text: str) -> str:
    """The text without the one place of a picture in it, its words as far apart as before. As it stands where there are
    several, or where the place is a word of the sentence ("What is in <image>?")."""
    return _without(text, IMAGE_PLACE)


def without_sound_place(text: str) -> str:
    return _without(text, _SOUND_PLACE)


def _without(text: str, place: re.Pattern[str]) -> str:
    positions = [*place.finditer(text)]
    if len(positions) != 1 or _is_a_word(text, positions[0]):
        return text.strip()
    before, after = text[: positions[0].start()].rstrip(" \t"), text[positions[0].end() :].lstrip(" \t")
    if before.endswith("\n"):
        after = after.removeprefix("\n")  # a line of its own
    between = "" if not before or not after or before[-1] == "\n" or after[0] == "\n" else " "
    return f"{before}{between}{after}".strip()


def image_place_left(text: str, has_image: bool) -> str:
    """Why a text whose place was taken out still holds one; "" where it holds none."""
    positions = IMAGE_PLACE.findall(text)
    if not positions:
        return ""
    if not has_image:
        return f"{positions[0]} stands for a picture, and there is none"
    if len(positions) > 1:
        return f"{len(positions)} places for one picture ({', '.join(positions[:2])})"
    if IMAGE_PLACE.fullmatch(text.strip()):
        return f"{positions[0]} is all that is asked"
    return f"{positions[0]} stands for a word of the sentence"


def _is_a_word(text: str, place: re.Match[str]) -> bool:
    """Within a line, where the sentence goes on after it. Letters on both sides of it ("Is<image>it") are words that
    someone joined at the place."""
    before, after = _ON_A_LINE_BEFORE.search(text[: place.start()]), _GOES_ON.match(text[place.end() :])
    if not before or not after:
        return False
    apart = text[place.start() - 1] in " \t"
    return apart if after[0][-1].isalnum() else True
