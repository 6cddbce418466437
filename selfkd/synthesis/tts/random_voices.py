"""Voices for espeak-ng that nobody made by hand: the settings of its voice files, drawn at random within about what the
voices that it comes with have, and an accent for each: some phonemes are others. Ears that have heard a few dozen
voices know these; ears that have heard hundreds know speech.

The settings are those of espeak-ng's docs/voices.md, phonemes those of its English; percents are of the accent's own
values.
"""

import random

COUNT = 600
NAMES = [f"drawn{i:03}" for i in range(COUNT)]
_FORMANTS = 9
_SHORT, _LONG = ("I", "E", "a", "0", "V", "U"), ("i:", "3:", "A:", "O:", "u:", "aa")
_GLIDES, _BEFORE_R = ("eI", "aI", "OI", "aU", "oU"), ("e@", "i@", "U@", "O@", "A@")
_REDUCED = ("@", "I2", "i", "3", "a#")
# what a vowel may become in another accent: one that is as long, or begins or ends where it does
_VOWELS = {
    **dict.fromkeys(_SHORT, _SHORT + _LONG),
    **dict.fromkeys((*_LONG, *_GLIDES), _LONG + _GLIDES),
    **dict.fromkeys(_BEFORE_R, _BEFORE_R + _LONG),
    **dict.fromkeys(_REDUCED, (*_REDUCED, "I", "E", "V", "U")),
}
_CONSONANTS = {"h": ("NULL",), "D": ("d", "v", "z"), "T": ("t", "f", "s"), "N": ("n",), "z": ("s",), "w": ("v",),
               "r": ("l", "w"), "dZ": ("j", "Z"), "t": ("d", "?"), "S": ("s",)}  # fmt: skip
_VOWEL_CHANCE, _CONSONANT_CHANCE = 0.3, 0.12


def voice_file(name: str) -> str:
    """The text of a voice file: the same for the same name, always."""
    rng = random.Random(f"voice/{name}")
    tract = rng.uniform(0.82, 1.25)  # the length of the vocal tract moves all formants together
    low = rng.uniform(70, 190)
    lines = ["language variant", f"name {name}", f"pitch {low:.0f} {low * rng.uniform(1.2, 1.8):.0f}"]
    for number in range(_FORMANTS):
        frequency = 100 * tract * rng.uniform(0.9, 1.1) if number else 100
        height, width = rng.uniform(60, 150) if number < 5 else rng.uniform(0, 150), rng.uniform(60, 160)
        lines.append(f"formant {number} {frequency:.0f} {height:.0f} {width:.0f}")
    if rng.random() < 0.5:
        lines.append(f"echo {rng.randint(5, 60)} {rng.randint(5, 80)}")
    if rng.random() < 0.3:
        lines.append("breath " + " ".join(str(rng.randint(0, 8)) for _ in range(8)))
    lines += [
        f"intonation {rng.randint(1, 4)}",
        f"flutter {rng.randint(0, 10)}",
        f"roughness {rng.randint(0, 3)}",
        f"voicing {rng.randint(40, 140)}",
        f"consonants {rng.randint(60, 140)} {rng.randint(20, 140)}",
        "tone " + " ".join(f"{hertz} {rng.randint(40, 240)}" for hertz in (600, 1400, 3000, 4800)),
        "stressAmp " + " ".join(str(rng.randint(12, 28)) for _ in range(8)),
        "stressAdd " + " ".join(str(rng.randint(-30, 120)) for _ in range(8)),
    ]
    return "\n".join([*lines, *_accent(rng)]) + "\n"


def _accent(rng: random.Random) -> list[str]:
    """Which phonemes this voice exchanges, wherever they stand."""
    exchanged = []
    for chance, choices in ((_VOWEL_CHANCE, _VOWELS), (_CONSONANT_CHANCE, _CONSONANTS)):
        for phoneme, others in choices.items():
            if rng.random() < chance:
                exchanged.append(f"replace 0 {phoneme} {rng.choice([o for o in others if o != phoneme])}")
    return exchanged
