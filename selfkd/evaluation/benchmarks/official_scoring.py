"""How official scripts parse responses: `--scoring official` grades by these rules, for scores that are comparable with
published tables. They are strict where our rules are lenient, and parse refusals and descriptions as answers. They are
reimplemented from the scripts that each docstring names and share no code with our rules.

Not here: benchmarks whose official rule is also ours (OCRBench, the answers of VQA, ANLS, relaxed accuracy), and those
without one (AI2D, RealWorldQA; MMBench uses a language model).
"""

from selfkd.evaluation.benchmarks.base import Grade, Sample
from selfkd.evaluation.benchmarks.option_mentions import LETTERS

_MARKS = ';/[]"{}()=+\\_-><@`,?!'


def mme(prediction: str) -> str | None:
    """BradyFU/Awesome-Multimodal-Large-Language-Models, tools/eval_tool.zip (1c1d69e), calculation.py, parse_pred_ans,
    from the copy in zjunlp/Deco (a3ccc15): "yes" or "no" within the first four characters; else "other", which is
    wrong."""
    start = prediction.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def pope(prediction: str) -> str:
    """AoiDragon/POPE, evaluate.py (f3ec604): no where the first sentence has the word "No", "no" or "not"; everything
    else is yes, even an empty response."""
    words = prediction.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def hallusionbench(prediction: str) -> str | None:
    """The official script (tianyi-lab/HallusionBench, utils.py, 744007c) uses GPT-4. This is VLMEvalKit's rule without
    a judge (open-compass/VLMEvalKit, dataset/utils/yorn.py, YOrN_Extraction, 0c7163c): the only one of the words "yes"
    and "no" in the response."""
    text = prediction.lower()
    kept = text
    for mark in _MARKS:  # as in VQA v2: a mark next to a space is removed, between characters it becomes a space
        kept = kept.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    words = set(kept.replace(".", "").split()) & {"yes", "no"}
    return words.pop() if len(words) == 1 else None


def mmstar(prediction: str) -> str | None:
    """MMStar-Benchmark/MMStar, eval/vlmeval/evaluate/mmstar.py (88f243a): the letter that the response starts with, by
    itself or after "(", "option " or "the answer is ". "A dog" is A."""
    text = prediction.lower().strip().replace("\n", " ")
    for opening in ("(", "option ", "the answer is ", ""):
        if text.startswith(opening):
            letter = text[len(opening) : len(opening) + 1].upper()
            return letter if letter and letter in LETTERS else None
    return None


RULES = {"mme": mme, "pope": pope, "hallusionbench": hallusionbench, "mmstar": mmstar}


def grade(benchmark: str, sample: Sample, prediction: str) -> Grade:
    """By the official rule of one of `RULES`."""
    parsed = RULES[benchmark](prediction)
    return Grade(parsed, float(parsed == sample["target"]))
