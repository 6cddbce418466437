"""Text tasks of the toy world: questions about an image, words to repeat, questions about a description."""

import random

from selfkd.toy_world.noisy_labels import SENTENCE_INSTRUCTION, noiseless_response, noisy_response, sentence_response
from selfkd.toy_world.questions import QUESTION_TYPES, Question, enumerate_names, make_question
from selfkd.toy_world.scenes import Scene, sample_scene

REPEAT_INSTRUCTION = "Repeat the words."
# hard types have larger weights: relations (two things to find, then a sign) and the color of a shape
QUESTION_TYPE_WEIGHTS = {"exists": 2.0, "color": 1.5, "shape": 1.5, "size": 1.0, "count": 2.0, "relation": 2.5,
                         "side": 2.0, "neighbor": 2.0, "place": 1.0, "describe": 3.0, "choice": 0.5}  # fmt: skip
SENTENCE_SHARE = 0.1
SPREAD_SHARE, WIDEST_GAP = 0.4, 6


def spread(text: str, rng: random.Random) -> str:
    """The text, in a share of the calls with more spaces between its words.

    Audio embeddings reach the LLM with gaps: some vectors are words, most are sounds between them. A large LLM has been
    trained on enough untidy text to tolerate that. The tiny LLM, trained on tidy text only, answered 0 to 13% of the
    questions with one to six spaces between words, against 95%, and no projector can correct that.
    """
    if rng.random() >= SPREAD_SHARE:
        return text
    widest = rng.randint(1, WIDEST_GAP)
    return " ".join(word + " " * rng.randrange(widest) for word in ("", *text.split(" ")))


def image_task(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """(query about the image, response)."""
    question = weighted_question(scene, rng)
    if rng.random() < SENTENCE_SHARE:
        return spread(f"{question.text} {SENTENCE_INSTRUCTION}", rng), sentence_response(question)
    return spread(question.text, rng), noiseless_response(question)


def weighted_question(scene: Scene, rng: random.Random) -> Question:
    """A question that the scene allows, its type sampled by `QUESTION_TYPE_WEIGHTS`."""
    while True:
        question_type = rng.choices(list(QUESTION_TYPE_WEIGHTS), list(QUESTION_TYPE_WEIGHTS.values()))[0]
        question = make_question(scene, question_type, rng)
        if question is not None:
            return question


def text_task(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A task without an image: repeat the words, or answer from a text description."""
    if rng.random() < 0.6:
        words = sample_words(scene, rng)
        return f"{REPEAT_INSTRUCTION}\n{spread(words, rng)}", words
    query, question = description_task(scene, rng)
    return spread(query, rng), noiseless_response(question)


def description_task(scene: Scene, rng: random.Random) -> tuple[str, Question]:
    """(text description of the scene and a question about it, that question)."""
    question = sample_question(scene, rng, ("exists", "color", "shape", "count"))
    return f"The image shows {enumerate_names([t.name for t in scene.things])}. {question.text}", question


def sample_question(
    scene: Scene, rng: random.Random, question_types: tuple[str, ...] = tuple(QUESTION_TYPES)
) -> Question:
    while True:
        question = make_question(scene, rng.choice(question_types), rng)
        if question is not None:
            return question


def sample_words(scene: Scene, rng: random.Random) -> str:
    """Words to synthesize or repeat: a question, a sentence, or the words of a question in another order."""
    question = sample_question(scene, rng)
    level = rng.random()
    if level < 0.5:
        return question.text
    if level < 0.75:
        return rng.choice([sentence_response(question), noisy_response(question, rng)])
    words = question.text.split()
    rng.shuffle(words)
    return " ".join(words)


def corpus(count: int, seed: int) -> list[str]:
    """Text to train the tokenizer on: questions and responses in every form, and the words of the chat template."""
    rng = random.Random(f"corpus/{seed}")
    texts = [f"user\nassistant\n{REPEAT_INSTRUCTION} {SENTENCE_INSTRUCTION}"] * count
    for index in range(count):
        scene = sample_scene("train", seed, index)
        for question in (q for question_type in QUESTION_TYPES if (q := make_question(scene, question_type, rng))):
            texts += [question.text, noiseless_response(question), sentence_response(question)]
            texts.append(noisy_response(question, rng))
    return texts
