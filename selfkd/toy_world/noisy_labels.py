"""Noisy labels: responses in another style than the tiny model's (full sentences, another order), some of them wrong.

The paper trains on the responses of llava-1.5-mix-665k, which its models did not generate and which are not always
right. The toy world has that property on purpose: `noiseless_response` has the style of the tiny model,
`noisy_response` that of the noisy labels, and `sentence_response` is the tiny model's longer form for
`SENTENCE_INSTRUCTION`.
"""

import random

from selfkd.toy_world.questions import Question, article, with_wrong_answer

SENTENCE_INSTRUCTION = "Answer in a sentence."
MISTAKE_SHARE = 0.3


def noiseless_response(question: Question) -> str:
    return question.answer


def sentence_response(question: Question) -> str:
    """One full sentence, in the phrasing of the tiny model."""
    subject, answer = question.subject, question.answer
    match question.question_type:
        case "exists":
            there = (answer == "yes") != (" not " in question.text)
            return f"{answer}, there is {article(subject) if there else f'no {subject}'}."
        case "color" | "shape" | "size":
            return f"the {subject} is {answer if question.question_type != 'shape' else article(answer)}."
        case "count":
            return f"there {'is' if answer == 'one' else 'are'} {answer} {subject}{'' if answer == 'one' else 's'}."
        case "relation":
            return f"{answer}, the {_relation_clause(subject, answer)}."
        case "side":
            return f"the {_side_clause(subject, f'is {answer}')}."
        case "neighbor":
            return f"{subject} is {answer}."
        case "place":
            return f"the {subject} is at the {answer}."
        case "describe":
            return f"the image shows {answer}."
        case _:
            return f"option {answer} is right."


def noisy_response(question: Question, rng: random.Random, mistake_share: float = MISTAKE_SHARE) -> str:
    """The sentence of the noisy labels; with probability `mistake_share` its answer is wrong."""
    if rng.random() < mistake_share:
        question = with_wrong_answer(question, rng)
    subject, answer = question.subject, question.answer
    match question.question_type:
        case "exists":
            there = (answer == "yes") != (" not " in question.text)
            return f"{answer}, the image shows {article(subject) if there else f'no {subject}'}."
        case "color" | "shape" | "size":
            return f"{answer} is the {question.question_type} of the {subject}."
        case "count":
            return f"{answer} {subject}{'' if answer == 'one' else 's'} can be seen."
        case "relation":
            return f"{answer}, I see that the {_relation_clause(subject, answer)}."
        case "side":
            return f"I see the {_side_clause(subject, answer)}."
        case "neighbor":
            return f"there is {answer} {subject}."
        case "place":
            return f"at the {answer} of the image is the {subject}."
        case "describe":
            names = answer.replace(" and ", ", ").split(", ")
            return f"I see {' and '.join(reversed(names))}."
        case _:
            return f"the right caption is option {answer}."


def _relation_clause(subject: str, answer: str) -> str:
    """ "red star above the gray circle" -> "red star is (not) above the gray circle"."""
    color, shape, rest = subject.split(" ", 2)
    return f"{color} {shape} is {'' if answer == 'yes' else 'not '}{rest}"


def _side_clause(subject: str, answer: str) -> str:
    """ "red star ... the gray circle", "is left" -> "red star is left of the gray circle"."""
    return subject.replace("...", f"{answer} of" if answer.endswith(("left", "right")) else answer)
