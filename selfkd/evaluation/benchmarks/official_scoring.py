"""How official scripts read responses: `--scoring official` grades by these, so that a figure may stand beside a
published table. They are strict where ours is patient, and read refusals and descriptions as answers; they are written
anew from the scripts that each names, and no part of ours is in them.

Not here: benchmarks whose official rule is ours already (OCRBench, the answers of VQA, ANLS, relaxed accuracy), and
those without one (AI2D, RealWorldQA; MMBench's asks a language model).
"""

from selfkd.evaluation.benchmarks.base import Grade, Sample
from selfkd.evaluation.benchmarks.option_names import LETTERS

_MARKS = ';/[]"{}()=+\\_-><@`,?!'


def mme(prediction: str) -> str | None:
    """BradyFU/Awesome-Multimodal-Large-Language-Models, tools/eval_tool.zip (1c1d69e), calculation.py, parse_pred_ans,
    read in the copy of zjunlp/Deco (a3ccc15): "yes" or "no" within the first four characters; else "other", which is
    wrong."""
    start = prediction.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def pope(prediction: str) -> str:
    """AoiDragon/POPE, evaluate.py (f3ec604): no where the first sentence holds the word "No", "no" or "not"; all else
    is yes, be it empty."""
    words = prediction.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def hallusionbench(prediction: str) -> str | None:
    """The official script (tianyi-lab/HallusionBench, utils.py, 744007c) asks GPT-4. This is VLMEvalKit's rule without
    a judge (open-compass/VLMEvalKit, dataset/utils/yorn.py, YOrN_Extraction, 0c7163c): the only one of the words "yes"
    and "no" in the reply."""
    text = prediction.lower()
    kept = text
    for mark in _MARKS:  # VQA v2's: beside a space a mark goes, between letters it becomes one
        kept = kept.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    words = set(kept.replace(".", "").split()) & {"yes", "no"}
    return words.pop() if len(words) == 1 else None


def mmstar(prediction: str) -> str | None:
    """MMStar-Benchmark/MMStar, eval/vlmeval/evaluate/mmstar.py (88f243a): the letter that the reply begins with, alone,
    after "(", "option " or "the answer is ". "A dog" is A."""
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
