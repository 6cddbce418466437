"""The toy world: small scenes of colored shapes, sampled from a seed.

Reads nothing. Gives scenes (things and their positions) and their images; `questions.py` makes questions about them.
Each color has two CSS shades, slightly jittered. Train, validation and test never share a scene, and each of the latter
two holds (color, shape) combinations that no other split has.
"""

import hashlib
import math
import random
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageColor, ImageDraw

Split = Literal["train", "validation", "test"]

SHADES = {  # CSS colour names and codes
    "red": ("red", "crimson"),
    "green": ("green", "lime"),
    "blue": ("blue", "royalblue"),
    "yellow": ("yellow", "gold"),
    "black": ("black", "#1c1c1c"),
    "gray": ("gray", "darkgray"),
    "brown": ("brown", "saddlebrown"),
    "teal": ("teal", "darkcyan"),
}
COLORS = tuple(SHADES)
SHAPES = ("circle", "rectangle", "triangle", "star")
SIZES = ("small", "large")
RADIUS_RANGE = {"small": (5.0, 6.5), "large": (9.5, 12.0)}  # pixels of a 64-pixel image
HELD_OUT = {
    ("teal", "star"): "validation",
    ("brown", "circle"): "validation",
    ("yellow", "triangle"): "test",
    ("blue", "rectangle"): "test",
}
HELD_OUT_SHARE = 0.3  # of the validation and test scenes show a combination of their own
IMAGE_SIZE = 64
_SUPERSAMPLE = 4
_MARGIN = 2.0  # pixels between two things, and between a thing and the edge
_COLOR_JITTER = 14


@dataclass(frozen=True)
class Thing:
    """One object of a scene; `x` and `y` are its center, all lengths in pixels of the 64-pixel image."""

    color: str
    shape: str
    size: str
    x: float
    y: float
    radius: float
    aspect: float  # width / height, used by rectangles
    rgb: tuple[int, int, int]

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    background: tuple[int, int, int]
    things: tuple[Thing, ...]

    def key(self) -> str:
        """The identity of the scene: the set of things with their positions on an 8 x 8 grid."""
        return "|".join(sorted(f"{t.name} {t.size} {t.x // 8:.0f} {t.y // 8:.0f}" for t in self.things))


def split_of(scene: Scene) -> Split | None:
    """The one split that a scene may appear in; None where it holds combinations of two splits."""
    owners = {HELD_OUT[t.color, t.shape] for t in scene.things if (t.color, t.shape) in HELD_OUT}
    if len(owners) > 1:
        return None
    if owners:
        return owners.pop()  # type: ignore[return-value]
    bucket = hashlib.sha256(scene.key().encode()).digest()[0] % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")  # type: ignore[return-value]


def sample_scene(split: Split, seed: int, index: int) -> Scene:
    """Scene `index` of a split: the same arguments give the same scene, on any machine."""
    rng = random.Random(f"scene/{split}/{seed}/{index}")  # noqa: S311 seeded, for the same data in every run; nothing secret
    own_combinations = [c for c, owner in HELD_OUT.items() if owner == split]
    wants_held_out = bool(own_combinations) and rng.random() < HELD_OUT_SHARE
    while True:
        scene = _random_scene(rng, rng.choice(own_combinations) if wants_held_out else None)
        if split_of(scene) == split and (wants_held_out or not has_held_out(scene)):
            return scene


def has_held_out(scene: Scene) -> bool:
    """Whether the scene shows a (color, shape) combination that no training scene has."""
    return any((t.color, t.shape) in HELD_OUT for t in scene.things)


def _random_scene(rng: random.Random, first: tuple[str, str] | None) -> Scene:
    background = tuple(rng.randint(225, 255) for _ in range(3))
    names = [first] if first else []
    count = rng.randint(2, 4)
    while len(names) < count:
        name = (rng.choice(COLORS), rng.choice(SHAPES))
        if name not in names:
            names.append(name)
    while True:
        things = _arrange(rng, names)
        if things:
            return Scene(background, things)  # type: ignore[arg-type]


def _arrange(rng: random.Random, names: list[tuple[str, str]]) -> tuple[Thing, ...] | None:
    """The named things at random positions without overlap; None where a try fails."""
    things: list[Thing] = []
    for color, shape in names:
        size = rng.choice(SIZES)
        radius = rng.uniform(*RADIUS_RANGE[size])
        shade = ImageColor.getrgb(rng.choice(SHADES[color]))
        rgb = tuple(min(255, max(0, c + rng.randint(-_COLOR_JITTER, _COLOR_JITTER))) for c in shade[:3])
        for _ in range(20):
            low, high = radius + _MARGIN, IMAGE_SIZE - radius - _MARGIN
            x, y = rng.uniform(low, high), rng.uniform(low, high)
            if all(math.hypot(x - t.x, y - t.y) > radius + t.radius + _MARGIN for t in things):
                aspect = math.exp(rng.uniform(-0.45, 0.45))
                things.append(Thing(color, shape, size, x, y, radius, aspect, rgb))  # type: ignore[arg-type]
                break
        else:
            return None
    return tuple(things)


def render(scene: Scene) -> Image.Image:
    """The image of a scene: RGB, 64 x 64, smooth edges."""
    side = IMAGE_SIZE * _SUPERSAMPLE
    image = Image.new("RGB", (side, side), scene.background)
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        x, y, r = (v * _SUPERSAMPLE for v in (thing.x, thing.y, thing.radius))
        if thing.shape == "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=thing.rgb)
        elif thing.shape == "rectangle":
            half_width, half_height = r * min(1.0, thing.aspect), r * min(1.0, 1 / thing.aspect)
            pen.rectangle((x - half_width, y - half_height, x + half_width, y + half_height), fill=thing.rgb)
        elif thing.shape == "triangle":
            pen.polygon([(x, y - r), (x - r, y + r * 0.8), (x + r, y + r * 0.8)], fill=thing.rgb)
        else:
            tips = [(r if i % 2 == 0 else r * 0.42, math.pi * (i / 5 - 0.5)) for i in range(10)]
            pen.polygon([(x + d * math.cos(a), y + d * math.sin(a)) for d, a in tips], fill=thing.rgb)
    return image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
