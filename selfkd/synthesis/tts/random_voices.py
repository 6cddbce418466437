"""Random voices for espeak-ng: the settings of voice files, sampled within about the range of its own voices, and an
accent for each, which replaces some phonemes. A speech encoder trained on a few dozen voices overfits to them; hundreds
of voices generalize.

The settings are those of espeak-ng's docs/voices.md, the phonemes those of its English; percentages refer to the
values of the accent.
"""

import random

COUNT = 600
NAMES = [f"drawn{i:03}" for i in range(COUNT)]
_FORMANTS = 9
_SHORT, _LONG = ("I", "E", "a", "0", "V", "U"), ("i:", "3:", "A:", "O:", "u:", "aa")
_GLIDES, _BEFORE_R = ("eI", "aI", "OI", "aU", "oU"), ("e@", "i@", "U@", "O@", "A@")
_REDUCED = ("@", "I2", "i", "3", "a#")
# replacements of a vowel in another accent: of the same length, or with the same onset or offset
_VOWELS = {
    **dict.fromkeys(_SHORT, _SHORT + _LONG),
    **dict.fromkeys((*_LONG, *_GLIDES), _LONG + _GLIDES),
    **dict.fromkeys(_BEFORE_R, _BEFORE_R + _LONG),
    **dict.fromkeys(_REDUCED, (*_REDUCED, "I", "E", "V", "U")),
}
_CONSONANTS = {"h": ("NULL",), "D": ("d", "v", "z"), "T": ("t", "f", "s"), "N": ("n",), "z": ("s",), "w": ("v",),
               "r": ("l", "w"), "dZ": ("j", "Z"), "t": ("d", "?"), "S": ("s",)}  # fmt: skip
_VOWEL_PROBABILITY, _CONSONANT_PROBABILITY = 0.3, 0.12


def voice_file(name: str) -> str:
    """The text of a voice file, a function of the name."""
    rng = random.Random(f"voice/{name}")  # noqa: S311 seeded, for the same data in every run; nothing secret
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
    """Lines that replace phonemes of this voice in any position."""
    lines = []
    for probability, choices in ((_VOWEL_PROBABILITY, _VOWELS), (_CONSONANT_PROBABILITY, _CONSONANTS)):
        for phoneme, others in choices.items():
            if rng.random() < probability:
                lines.append(f"replace 0 {phoneme} {rng.choice([o for o in others if o != phoneme])}")
    return lines
