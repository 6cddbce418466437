"""How often our parsers and the official rules of MME, POPE, HallusionBench, MMStar and OCRBench parse a response
differently, by type of response, and which of them gives the intended answer.

    python experiments/official_disagreement.py --n 200 --seed 0

No model is run. Responses are generated in the styles of public models, over objects and options sampled by the seed,
so that the intended answer is known; added are the labelled responses of tests/fixtures. Prints a table.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from selfkd.evaluation.benchmarks import official_scoring
from selfkd.evaluation.benchmarks.answer_parsing import chosen_letter, yes_or_no

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
THINGS = ["dog", "cat", "car", "bicycle", "person", "chair", "bottle", "bird", "umbrella", "clock", "banana", "laptop"]
# {response type: (responses that mean yes, responses that mean no)}
YES_NO = {
    "one word": (["Yes", "Yes.", "yes"], ["No", "No.", "no"]),
    "word, then sentence": (
        ["Yes, there is a {x} in the image.", "Yes. The {x} is on the left, it is not moving."],
        ["No, there is no {x} in the image.", "No. I see only a table."],
    ),
    "marked": (["**Yes**", "Answer: Yes", '"Yes"'], ["**No**", "Answer: No", '"No"']),
    "answer at the end": (
        ["Based on the image, the answer is yes.", "I would say yes"],
        ["Based on the image, the answer is no.", "I would say no"],
    ),
    "sentence": (
        ["There is a {x} in the image.", "I can see a {x}."],
        ["There is no {x} in the image.", "I don't see a {x}."],
    ),
    "other word": (["Yeah", "Yep.", "Correct."], ["Nope", "Not at all.", "It is not visible"]),
    "double denial": (
        ["It is not true that there is no {x}.", "There is no doubt that there is a {x}."],
        ["There is no doubt that there is no {x}.", "It is not true that there is a {x}."],
    ),
    "other language": (["Oui.", "是的。", "Sí, hay uno."], ["Non.", "没有。", "Nein."]),
}
UNANSWERED = {
    "refusal": ["I'm sorry, but there is no audio in your message.", "I can't see the image.", "I cannot hear it."],
    "doubt": ["It is unclear whether there is a {x}.", "Maybe.", "I'm not sure."],
}
# {letter}, {text} of the intended option; {other} and {its} of another option
OPTIONS = {
    "letter": ["{letter}", "{letter}.", "({letter})"],
    "letter and text": ["{letter}. {text}", "({letter}) {text}", "{letter}: {text}"],
    "text": ["{text}", "It is a {text}."],
    "declared": ["The answer is {letter}.", "Option {letter}"],
    "declared otherwise": ["The correct answer is {letter}.", "Answer: {letter}", "I would choose {letter}."],
    "marked": ["**{letter}**", "$\\boxed{{{letter}}}$", '{{"answer": "{letter}"}}'],
    "reasoning, then answer": [
        "There is no {its}, so the answer is {letter}.",
        "There is fur.\n\nAnswer: {letter}",
    ],
    "rejects others": ["Option {other} is wrong. It is {letter}", "Not {other}, but {letter}."],
}
UNCHOSEN = {
    "undecided": ["{letter} or {other}", "It could be {letter} or {other}."],
    "only rejects": ["{letter} is wrong.", "It is not {letter}."],
    "begins with a word in A to D": ["A big thing stands there.", "An odd view.", "Dark clouds and a road."],
    "refusal": ["I cannot see the image.", "Based on no audio I cannot answer."],
}

Parse = Callable[[str], str | None]


def yes_no_responses(n: int, rng: random.Random) -> Iterator[tuple[str, str, str | None]]:
    """(response type, response, intended answer)"""
    for response_type, forms in YES_NO.items():
        for i in range(n):
            yield response_type, rng.choice(forms[i % 2]).format(x=rng.choice(THINGS)), ("yes", "no")[i % 2]
    for response_type, some in UNANSWERED.items():
        for _ in range(n):
            yield response_type, rng.choice(some).format(x=rng.choice(THINGS)), None
    for line in (FIXTURES / "yes_no_responses.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        answer, response = line.split("\t")
        yield "labelled", response, None if answer == "-" else answer


def option_responses(n: int, rng: random.Random) -> Iterator[tuple[str, str, str | None, dict[str, str]]]:
    """(response type, response, intended letter, options)"""
    for response_type, forms in (OPTIONS | UNCHOSEN).items():
        for _ in range(n):
            options = dict(zip("ABCD", rng.sample(THINGS, 4), strict=True))
            letter, other = rng.sample("ABCD", 2)
            response = rng.choice(forms).format(letter=letter, text=options[letter], other=other, its=options[other])
            yield response_type, response, letter if response_type in OPTIONS else None, options
    options = {"A": "cat", "B": "dog", "C": "horse", "D": "bird"}
    for line in (FIXTURES / "option_responses.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        *_, letter, response = line.split("\t")
        for slot in "ABCD":
            for form in (str, str.lower, lambda x: chr(ord(x) + 0xFEE0)):
                response = response.replace(f"{{{form(slot)}}}", form(slot))
        yield "labelled", response.replace("⏎", "\n"), None if letter == "-" else letter, options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="responses of each type")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: dict[tuple[str, str], list[int]] = {}

    def count(benchmark: str, response_type: str, target: str | None, ours: str | None, theirs: str | None) -> None:
        row = counts.setdefault((benchmark, response_type), [0, 0, 0, 0])
        for i, holds in enumerate((True, ours != theirs, ours == target, theirs == target)):
            row[i] += holds

    rules: dict[str, Parse] = {b: official_scoring.RULES[b] for b in ("mme", "pope", "hallusionbench")}
    for response_type, response, target in yes_no_responses(options.n, random.Random(f"yes/{options.seed}")):
        for benchmark, rule in rules.items():
            count(benchmark, response_type, target, yes_or_no(response), rule(response))
    labelled = option_responses(options.n, random.Random(f"option/{options.seed}"))
    for response_type, response, target, choices in labelled:
        count("mmstar", response_type, target, chosen_letter(response, choices), official_scoring.mmstar(response))
    for benchmarks in (tuple(rules), ("mmstar",)):
        names = " | ".join(f"`{b}`: differ | as intended: ours | official" for b in benchmarks)
        print(f"\n| type of response | n | {names} |\n|---|---|{'---|---|---|' * len(benchmarks)}")
        for response_type in (name for benchmark, name in counts if benchmark == benchmarks[0]):
            n = counts[benchmarks[0], response_type][0]
            shares = [f"{100 * share / n:.0f}%" for b in benchmarks for share in counts[b, response_type][1:]]
            print(f"| {response_type} | {n} | {' | '.join(shares)} |")


if __name__ == "__main__":
    main()
