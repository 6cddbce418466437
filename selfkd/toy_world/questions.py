"""Questions about a scene of the toy world, each with its one right answer.

A question type is a function from a scene to a question, or to None where the scene allows no unambiguous one. Answers
are short: a word, a phrase, or for "describe" a list from left to right.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from selfkd.toy_world.scenes import COLORS, SHAPES, SIZES, Scene, Thing

NUMBERS = ("zero", "one", "two", "three", "four")
QUADRANTS = tuple(f"{v} {h}" for v in ("top", "bottom") for h in ("left", "right"))
_CLEAR = 8.0  # pixels by which two centers must differ on an axis for a question about it
_MIDDLE = 32.0


@dataclass(frozen=True)
class Question:
    question_type: str
    text: str
    answer: str
    subject: str = ""  # the thing in question, for a full sentence
    options: tuple[str, ...] = ()  # all plausible answers; wrong answers are sampled from them


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _exists(scene: Scene, rng: random.Random) -> Question:
    wanted = rng.random() < 0.5
    things, names = scene.things, {t.name for t in scene.things}
    level = rng.random()
    if level < 0.5:
        if wanted:
            noun = rng.choice(things).name
        else:  # half of the absent ones recombine what is there: red and circle, but no red circle
            pool = [f"{a.color} {b.shape}" for a in things for b in things] if rng.random() < 0.5 else []
            pool = [n for n in pool if n not in names] or [f"{c} {s}" for c in COLORS for s in SHAPES]
            noun = rng.choice([n for n in pool if n not in names])
    elif level < 0.75:
        present = {t.color for t in things}
        noun = f"{rng.choice([c for c in COLORS if (c in present) == wanted])} {rng.choice(('object', 'shape'))}"
    else:
        present = {t.shape for t in things}
        candidates = [s for s in SHAPES if (s in present) == wanted]
        if not candidates:
            candidates, wanted = list(SHAPES), True
        noun = rng.choice(candidates)
    negated = rng.random() < 0.2
    form = rng.choice(
        ("Is there not {}?", "Does the image not contain {}?", "Is there not {} in the image?")
        if negated
        else ("Is there {}?", "Is there {} in the image?", "Does the image contain {}?", "Is {} present?")
    )
    answer = "yes" if wanted != negated else "no"
    return Question("exists", form.format(article(noun)), answer, noun, ("yes", "no"))


def _color(scene: Scene, rng: random.Random) -> Question | None:
    shapes = [t.shape for t in scene.things]
    unique = [t for t in scene.things if shapes.count(t.shape) == 1]
    if not unique:
        return None
    thing = rng.choice(unique)
    form = rng.choice(("What color is the {}?", "What is the color of the {}?"))
    return Question("color", form.format(thing.shape), thing.color, thing.shape, COLORS)


def _shape(scene: Scene, rng: random.Random) -> Question | None:
    colors = [t.color for t in scene.things]
    unique = [t for t in scene.things if colors.count(t.color) == 1]
    if not unique:
        return None
    thing = rng.choice(unique)
    form = rng.choice(("What shape is the {} object?", "What is the {} shape?"))
    return Question("shape", form.format(thing.color), thing.shape, f"{thing.color} object", SHAPES)


def _size(scene: Scene, rng: random.Random) -> Question:
    thing = rng.choice(scene.things)
    return Question("size", f"Is the {thing.name} small or large?", thing.size, thing.name, SIZES)


def _count(scene: Scene, rng: random.Random) -> Question:
    level = rng.random()
    if level < 0.4:
        noun = rng.choice([t.shape for t in scene.things] + list(SHAPES))
        number = sum(t.shape == noun for t in scene.things)
    elif level < 0.8:
        color = rng.choice([t.color for t in scene.things] * 2 + list(COLORS))
        noun, number = f"{color} object", sum(t.color == color for t in scene.things)
    else:
        noun, number = "object", len(scene.things)
    return Question("count", f"How many {noun}s are there?", NUMBERS[number], noun, NUMBERS)


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    a, b = rng.sample(scene.things, 2)
    words = _direction(a, b, rng)
    if words is None:
        return None
    true, named = words[0], rng.choice(sorted(words))
    text = f"Is the {a.name} {named} the {b.name}?"
    return Question("relation", text, "yes" if named == true else "no", f"{a.name} {named} the {b.name}", ("yes", "no"))


def _side(scene: Scene, rng: random.Random) -> Question | None:
    """Asks for the relation, where "relation" asks whether a given one holds: an easier step towards it."""
    a, b = rng.sample(scene.things, 2)
    words = _direction(a, b, rng)
    if words is None:
        return None
    first, second = sorted(words)
    options = (first.split()[0], second.split()[0])
    text = f"Is the {a.name} {first} or {second} the {b.name}?"
    return Question("side", text, words[0].split()[0], f"{a.name} ... the {b.name}", options)


def _direction(a: Thing, b: Thing, rng: random.Random) -> tuple[str, str] | None:
    """(direction of a from b, its opposite) on a random axis; None where their centers are too close on it."""
    horizontal = rng.random() < 0.5
    distance = (b.x - a.x) if horizontal else (b.y - a.y)
    if abs(distance) < _CLEAR:
        return None
    words = ("left of", "right of") if horizontal else ("above", "below")
    return words if distance > 0 else words[::-1]


_DIRECTIONS: dict[str, Callable[[Thing, Thing], float]] = {
    "left of": lambda t, anchor: anchor.x - t.x,
    "right of": lambda t, anchor: t.x - anchor.x,
    "above": lambda t, anchor: anchor.y - t.y,
    "below": lambda t, anchor: t.y - anchor.y,
}


def _neighbor(scene: Scene, rng: random.Random) -> Question | None:
    anchor = rng.choice(scene.things)
    direction = rng.choice(list(_DIRECTIONS))
    offsets = [(_DIRECTIONS[direction](t, anchor), t) for t in scene.things if t is not anchor]
    there = [t for offset, t in offsets if offset >= _CLEAR]
    # one right answer only: exactly one thing on that side, and none so near the line that one could argue
    if len(there) != 1 or any(abs(offset) < _CLEAR for offset, _ in offsets):
        return None
    options = tuple(article(f"{c} {s}") for c in COLORS for s in SHAPES)
    text = f"What is {direction} the {anchor.name}?"
    return Question("neighbor", text, article(there[0].name), f"{direction} the {anchor.name}", options)


def _place(scene: Scene, rng: random.Random) -> Question | None:
    clear = [t for t in scene.things if min(abs(t.x - _MIDDLE), abs(t.y - _MIDDLE)) > _CLEAR / 2]
    if not clear:
        return None
    thing = rng.choice(clear)
    answer = f"{'top' if thing.y < _MIDDLE else 'bottom'} {'left' if thing.x < _MIDDLE else 'right'}"
    return Question("place", f"Where is the {thing.name}?", answer, thing.name, QUADRANTS)


def enumerate_names(names: Sequence[str]) -> str:
    names = [article(n) for n in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _describe(scene: Scene, rng: random.Random) -> Question | None:
    ordered = sorted(scene.things, key=lambda t: t.x)
    if any(b.x - a.x < _CLEAR / 2 for a, b in itertools.pairwise(ordered)):
        return None
    form = rng.choice(("Describe the image.", "What is in the image?"))
    return Question("describe", form, enumerate_names([t.name for t in ordered]))


def _choice(scene: Scene, rng: random.Random) -> Question | None:
    """Two captions, one true: the form of MMAlign as one question with both options in it."""
    pair = caption_pair(scene, rng)
    if pair is None:
        return None
    _, true, false = pair
    true_first = rng.random() < 0.5
    first, second = (true, false) if true_first else (false, true)
    return Question("choice", caption_question(first, second), "A" if true_first else "B", "caption", ("A", "B"))


def caption_question(first: str, second: str) -> str:
    """The two-way choice of MMAlign, in one wording for the toy world and for ARO."""
    return f"Which caption is right? Option A is {first}. Option B is {second}."


def captions_in(question: str) -> dict[str, str]:
    """{option letter: caption} of a `caption_question`; empty captions for any other question."""
    both = question.partition("Option A is ")[2]
    first, _, second = both.removesuffix(".").rpartition(". Option B is ")
    is_choice = first and second and both.endswith(".") and "\n" not in both
    return {"A": first, "B": second} if is_choice else {"A": "", "B": ""}


def caption_pair(scene: Scene, rng: random.Random) -> tuple[str, str, str] | None:
    """(category, true caption, false caption) as in ARO: relation swaps the things, attribute swaps their colours."""
    a, b = rng.sample(scene.things, 2)
    if rng.random() < 0.5:
        words = _direction(a, b, rng)
        if words is None:
            return None
        word = words[0]
        return "relation", f"{article(a.name)} {word} {article(b.name)}", f"{article(b.name)} {word} {article(a.name)}"
    swapped = [f"{b.color} {a.shape}", f"{a.color} {b.shape}"]
    if a.color == b.color or a.shape == b.shape or {t.name for t in scene.things} & set(swapped):
        return None
    return "attribute", f"{article(a.name)} and {article(b.name)}", " and ".join(article(n) for n in swapped)


QUESTION_TYPES: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "exists": _exists,
    "color": _color,
    "shape": _shape,
    "size": _size,
    "count": _count,
    "relation": _relation,
    "side": _side,
    "neighbor": _neighbor,
    "place": _place,
    "describe": _describe,
    "choice": _choice,
}
_TYPES_OF_TWO_THINGS = ("relation", "side", "neighbor", "choice")
TOY_QUESTION_TYPES = tuple(k for k in QUESTION_TYPES if k != "choice")  # "choice" is the form of the MMAlign benchmark


def make_question(scene: Scene, question_type: str, rng: random.Random, attempts: int = 12) -> Question | None:
    """A question of a type; None where `attempts` random tries gave no unambiguous one."""
    if len(scene.things) < 2 and question_type in _TYPES_OF_TWO_THINGS:
        return None
    for _ in range(attempts):
        question = QUESTION_TYPES[question_type](scene, rng)
        if question is not None:
            return question
    return None


def with_wrong_answer(question: Question, rng: random.Random) -> Question:
    """The same question with a plausible wrong answer."""
    if question.question_type == "describe":
        names = question.answer.replace(" and ", ", ").split(", ")
        at = rng.randrange(len(names))
        wrong = rng.choice([article(f"{c} {s}") for c in COLORS for s in SHAPES])
        names[at] = wrong if wrong not in names else names[at - 1]
        return replace(question, answer=" and ".join([", ".join(names[:-1]), names[-1]]))
    return replace(question, answer=rng.choice([o for o in question.options if o != question.answer]))
