"""Voices for espeak-ng that nobody made by hand: the settings of its voice files, drawn at random within about what the
voices that it comes with have. Ears that have heard a few dozen voices know these; ears that have heard hundreds know
speech.

The settings are those of espeak-ng's docs/voices.md; percents are of the accent's own values.
"""

import random

COUNT = 300
NAMES = [f"drawn{i:03}" for i in range(COUNT)]
_FORMANTS = 9


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
    return "\n".join(lines) + "\n"
