"""Text tasks of the toy world: questions about an image, words to repeat, questions about a description."""

import random
import re

from selfkd.toy_world.noisy_labels import SENTENCE_INSTRUCTION, noiseless_response, noisy_response, sentence_response
from selfkd.toy_world.questions import (
    QUESTION_TYPES,
    Question,
    caption_pair,
    caption_question,
    enumerate_names,
    make_question,
)
from selfkd.toy_world.scenes import Scene, sample_scene
from selfkd.toy_world.written_forms import random_form

REPEAT_INSTRUCTION = "Repeat the words."
# hard types have larger weights: relations (two things to find, then a sign) and the color of a shape
QUESTION_TYPE_WEIGHTS = {"exists": 2.0, "color": 1.5, "shape": 1.5, "size": 1.0, "count": 2.0, "relation": 2.5,
                         "side": 2.0, "neighbor": 2.0, "place": 1.0, "describe": 3.0, "choice": 3.0}  # fmt: skip
SENTENCE_SHARE = 0.1
FORM_SHARE = 0.5  # of the questions, in another written form than the clean one
CAPTION_SHARE, EASY_SHARE = 0.12, 0.4
SPREAD_SHARE, WIDEST_GAP = 0.4, 6
PARAPHRASE_SHARE = 0.5
_NEGATED = re.compile(r"(?:Is there not|Does the image not contain) an? (.+?)(?: in the image)?\?")
_NEGATED_WORDS = (
    "Is no {} present?",
    "Is there no {}?",
    "Is there no {} in the image?",
    "Does the image contain no {}?",
)
_WORDS_FOR_ONE_THING = ("What {} is present?", "What {} does the image contain?", "What {} is in the image?",
                        "What {} can be seen?", "What is the {}?")  # fmt: skip


def as_written(text: str, rng: random.Random) -> str:
    """The text, in a share of the calls in another written form, and in a share of them with more spaces."""
    return spread(random_form(text, rng) if rng.random() < FORM_SHARE else text, rng)


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
    if rng.random() < CAPTION_SHARE:
        task = caption_task(scene, rng)
        if task is not None:
            return as_written(task[0], rng), task[1]
    question = weighted_question(scene, rng)
    text = paraphrase(question, len(scene.things), rng) if rng.random() < PARAPHRASE_SHARE else question.text
    if rng.random() < SENTENCE_SHARE:
        return as_written(f"{text} {SENTENCE_INSTRUCTION}", rng), sentence_response(question)
    return as_written(text, rng), noiseless_response(question)


def paraphrase(question: Question, things: int, rng: random.Random) -> str:
    """The question in words that the toy world's questions do not have, with the same answer; the question itself where
    there are none. A model that has read each question in its few words only fails on all others."""
    negated = _NEGATED.fullmatch(question.text)
    if negated:
        return rng.choice(_NEGATED_WORDS).format(negated[1])
    if things == 1 and question.question_type in ("shape", "color"):
        return rng.choice(_WORDS_FOR_ONE_THING).format(question.question_type)
    return question.text


def caption_task(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """(question about one or two captions, response); None where the scene has no pair of captions.

    The steps that lead to MMAlign's choice between two captions, which stood at chance for 1.4 million questions
    without them: whether one caption is right; the same in the words of an option; and the choice with a false caption
    that names things which the image does not show.
    """
    pair = _caption_pair(scene, rng)
    if pair is None:
        return None
    true, false = pair
    level = rng.random()
    if level < EASY_SHARE:
        elsewhere = _caption_pair(sample_scene("train", rng.getrandbits(32), 0), rng)
        if elsewhere is None or elsewhere[0] == true:
            return None
        false = elsewhere[0]
    if level < EASY_SHARE / 2 or level > (1 + EASY_SHARE) / 2:
        true_first = rng.random() < 0.5
        query = caption_question(*((true, false) if true_first else (false, true)))
        return query, "A" if true_first else "B"
    is_right = rng.random() < 0.5
    caption = true if is_right else false
    letter = rng.choice("AB")
    query = rng.choice((f"Is this caption right? {caption}.", f"Option {letter} is {caption}. Is it right?"))
    return query, "yes" if is_right else "no"


def _caption_pair(scene: Scene, rng: random.Random, attempts: int = 12) -> tuple[str, str] | None:
    """(true caption, false caption)."""
    if len(scene.things) < 2:
        return None
    for _ in range(attempts):
        pair = caption_pair(scene, rng)
        if pair is not None:
            return pair[1:]
    return None


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
    return as_written(query, rng), noiseless_response(question)


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
    """Words to synthesize or repeat: a question, a sentence, the words of a question in another order, or a few words
    of one of these or of an answer, often only one."""
    question = sample_question(scene, rng)
    level = rng.random()
    if level < 0.45:
        return question.text
    if level < 0.6:
        return rng.choice([sentence_response(question), noisy_response(question, rng)])
    words = question.text.split()
    if level < 0.7:
        rng.shuffle(words)
        return " ".join(words)
    texts = question.text, noiseless_response(question), sentence_response(question), noisy_response(question, rng)
    words = rng.choice(texts).split()
    start, length = rng.randrange(len(words)), rng.choice((1, 1, 2, 3, 4))
    return " ".join(words[start : start + length])


def corpus(count: int, seed: int) -> list[str]:
    """Text to train the tokenizer on: questions and responses in every form, and the words of the chat template."""
    rng = random.Random(f"corpus/{seed}")  # noqa: S311 seeded, for the same data in every run; nothing secret
    texts = [f"user\nassistant\n{REPEAT_INSTRUCTION} {SENTENCE_INSTRUCTION}"] * count
    for index in range(count):
        scene = sample_scene("train", seed, index)
        for question in (q for question_type in QUESTION_TYPES if (q := make_question(scene, question_type, rng))):
            texts += [question.text, noiseless_response(question), sentence_response(question)]
            texts.append(noisy_response(question, rng))
    return texts
