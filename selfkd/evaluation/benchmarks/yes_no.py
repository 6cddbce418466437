"""MME, POPE and HallusionBench: questions to be answered yes or no.

Prompts as in lmms-eval (tasks mme, pope, hallusion_bench_image), default models: MME's own " Please answer yes or no."
gives way to the sentence below, HallusionBench is asked as it stands. A reply that says neither is wrong.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from selfkd.errors import InputError
from selfkd.evaluation.benchmarks.answer_parsing import yes_or_no
from selfkd.evaluation.benchmarks.base import (
    Benchmark,
    Grade,
    Sample,
    as_details,
    grouped,
    load_image,
    needed,
    percent,
    percent_all_right,
)
from selfkd.synthesis.sources.rows import Row

ONE_WORD = "\nAnswer the question using a single word or phrase."
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
Records = Iterable[Mapping[str, Any]]


def grade(sample: Sample, prediction: str) -> Grade:
    parsed = yes_or_no(prediction)
    return Grade(parsed, float(parsed == sample["target"]))


def mme_rows(records: Records) -> Iterator[Row]:
    """Two questions for each picture: `question_id` names the picture, so that a number makes the id."""
    asked: Counter[str] = Counter()
    for number, record in enumerate(records):
        shown = f"{needed(record, 'category', number)}/{needed(record, 'question_id', number)}"
        asked[shown] += 1
        yield Row(
            id=f"mme-{shown.replace('/', '-')}-{asked[shown]}",
            question=needed(record, "question", number).strip().replace(" Please answer yes or no.", ""),
            answer=_truth(record, "answer", number),
            answer_format=ONE_WORD,
            image=load_image(record, number),
            category=record["category"],
            question_type="yes_no",
            details=as_details(image=shown),
        )


def mme_group(sample: Sample) -> str:
    return sample["details"]["picture"]


def mme_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """A subtask's score is acc + acc+ (the share of pictures with both questions right), 0 to 200; perception is the
    sum of ten (to 2000), cognition of four (to 800). The headline is their sum over 28, or, where subtasks are missing,
    over twice their number. Source: Fu et al., arXiv 2306.13394, and lmms-eval's mme task."""
    scores: dict[str, float] = {}
    each: dict[str, float] = {}
    for name, some in sorted(grouped(samples, lambda s: s["category"]).items()):
        acc, plus = percent(some), percent_all_right(some, mme_group)
        scores[name] = acc + plus
        each |= {f"{name} acc": acc, f"{name} acc+": plus}
    total = sum(scores.values())
    cognition = sum(score for name, score in scores.items() if name in COGNITION)
    headline = total / (2 * len(scores)) if scores else 0.0
    return {"score": headline, "total": total, "perception": total - cognition, "cognition": cognition, **each}


def pope_rows(records: Records) -> Iterator[Row]:
    for number, record in enumerate(records):
        category = needed(record, "category", number)
        yield Row(
            id=f"pope-{category}-{needed(record, 'question_id', number)}",
            question=needed(record, "question", number).strip(),
            answer=_truth(record, "answer", number),
            answer_format=ONE_WORD,
            image=load_image(record, number),
            category=category,
            question_type="yes_no",
            details=as_details(image_source=record["image_source"]),
        )


def pope_group(sample: Sample) -> str:
    """A picture is asked about six times in each of three categories."""
    return sample["details"]["image_source"]


def pope_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """Yes is the positive class (Li et al., arXiv 2305.10355). A reply that says neither is no yes: it lowers accuracy
    and recall. The yes rate is that of the replies; lmms-eval's `pope_yes_ratio` is that of the truths."""
    every = _detection(samples)
    for name, some in sorted(grouped(samples, lambda s: s["category"]).items()):
        every |= {f"{name} {metric}": value for metric, value in _detection(some).items()}
    return every


def _detection(samples: Sequence[Sample]) -> dict[str, float]:
    said = sum(s["parsed"] == "yes" for s in samples)
    there = sum(s["target"] == "yes" for s in samples)
    hits = sum(s["parsed"] == s["target"] == "yes" for s in samples)
    precision, recall = hits / said if said else 0.0, hits / there if there else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {
        "accuracy": percent(samples),
        "precision": 100 * precision,
        "recall": 100 * recall,
        "f1": 100 * f1,
        "yes rate": 100 * said / len(samples) if samples else 0.0,
    }


def hallusion_rows(records: Records) -> Iterator[Row]:
    """The 951 questions with a picture, which lmms-eval and VLMEvalKit ask; the 178 without (visual_input 0) measure
    what a model believes without looking, and are left out."""
    for number, record in enumerate(records):
        if str(record["visual_input"]) == "0":
            continue
        parts = [str(record[name]) for name in ("category", "subcategory", "set_id", "figure_id", "question_id")]
        answer = str(needed(record, "gt_answer", number))
        if answer not in ("0", "1"):
            raise InputError(f"row {number}: field gt_answer: {answer!r} is neither 0 nor 1")
        yield Row(
            id=f"hallusionbench-{'-'.join(parts)}",
            question=needed(record, "question", number),
            answer=("no", "yes")[int(answer)],
            image=load_image(record, number),
            category=f"{parts[0]}/{parts[1]}",
            question_type="yes_no",
            details=as_details(set_id=parts[2], figure_id=parts[3], question_id=parts[4]),
        )


def hallusion_group(sample: Sample) -> str:
    """A set: pictures of one thing, true and edited, and the questions that are asked about each."""
    return f"{sample['category']}/{sample['details']['set_id']}"


def hallusion_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """aAcc: questions; fAcc: pictures with all their questions right; qAcc: questions right on all their pictures.
    Groups as in the official evaluation (tianyi-lab/HallusionBench), which keeps VD and VS apart: both have a
    subcategory "ocr". There GPT-4 judges the replies; here, as in VLMEvalKit without a judge, yes or no is read."""

    def key(name: str):
        return lambda s: (hallusion_group(s), s["details"][name])

    return {
        "aAcc": percent(samples),
        "fAcc": percent_all_right(samples, key("figure_id")),
        "qAcc": percent_all_right(samples, key("question_id")),
    }


def _truth(record: Mapping[str, Any], field: str, number: int) -> str:
    answer = str(needed(record, field, number)).lower().strip().rstrip(".")
    if answer not in ("yes", "no"):
        raise InputError(f"row {number}: field {field}: {answer!r} is neither yes nor no")
    return answer


MME = Benchmark(
    name="mme",
    hub="lmms-lab-encoder/MME",
    config=None,
    split="test",
    columns=("question_id", "image", "question", "answer", "category"),
    license="not stated (the authors allow academic research)",
    rows=mme_rows,
    grade=grade,
    metrics=mme_metrics,
    revision="d6c9023f017b564f7b3ccccf5348166bce8fdbcd",
    group=mme_group,
    counts_groups=True,
)
POPE = Benchmark(
    name="pope",
    hub="lmms-lab-encoder/POPE",
    config=None,
    split="test",
    columns=("question_id", "question", "answer", "image_source", "image", "category"),
    license="not stated by the copy; the pictures are COCO's",
    rows=pope_rows,
    grade=grade,
    metrics=pope_metrics,
    revision="4db1276663dfa5eb8ad16a52d24c31a09e470896",
    holds={"question_id": "text or number"},
    group=pope_group,
)
HALLUSIONBENCH = Benchmark(
    name="hallusionbench",
    hub="lmms-lab-encoder/HallusionBench",
    config=None,
    split="image",
    columns=(
        *("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id"),
        *("question", "gt_answer", "image"),
    ),
    license="BSD-3-Clause",
    rows=hallusion_rows,
    grade=grade,
    metrics=hallusion_metrics,
    revision="ea5fd49f1b711d12cc8b0ec75be0c0593e17befe",
    holds=dict.fromkeys(("visual_input", "set_id", "figure_id", "question_id", "gt_answer"), "text or number"),
    group=hallusion_group,
    counts_groups=True,
)
