"""MME, POPE and HallusionBench: questions to be answered yes or no.

Prompts as in lmms-eval (tasks mme, pope, hallusion_bench_image), default models: the instruction of MME (" Please
answer yes or no.") is replaced by `ONE_WORD`, HallusionBench has none. A response that is neither is wrong."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from selfkd.errors import InputError
from selfkd.evaluation.benchmarks.answer_parsing import yes_or_no
from selfkd.evaluation.benchmarks.base import (
    Benchmark,
    Grade,
    Sample,
    details_json,
    group_by,
    load_image,
    percent,
    percent_all_correct,
    required_field,
)
from selfkd.synthesis.sources.rows import Row

ONE_WORD = "\nAnswer the question using a single word or phrase."
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
Records = Iterable[Mapping[str, Any]]


def grade(sample: Sample, prediction: str) -> Grade:
    parsed = yes_or_no(prediction)
    return Grade(parsed, float(parsed == sample["target"]))


def mme_rows(records: Records) -> Iterator[Row]:
    """Two questions per image: `question_id` is that of the image, so a number completes the id."""
    counts: Counter[str] = Counter()
    for number, record in enumerate(records):
        image_id = f"{required_field(record, 'category', number)}/{required_field(record, 'question_id', number)}"
        counts[image_id] += 1
        yield Row(
            id=f"mme-{image_id.replace('/', '-')}-{counts[image_id]}",
            question=required_field(record, "question", number).strip().replace(" Please answer yes or no.", ""),
            answer=_yes_or_no_target(record, "answer", number),
            answer_format=ONE_WORD,
            image=load_image(record, number),
            category=record["category"],
            question_type="yes_no",
            details=details_json(image=image_id),
        )


def mme_group(sample: Sample) -> str:
    return sample["details"]["image"]


def mme_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """A subtask's score is acc + acc+ (the share of images with both questions correct), 0 to 200; perception is the
    sum of ten (to 2000), cognition of four (to 800). The headline is their sum over 28, or, where subtasks are missing,
    over twice their number. Source: Fu et al., arXiv 2306.13394, and lmms-eval's mme task."""
    scores: dict[str, float] = {}
    by_subtask: dict[str, float] = {}
    for name, part in sorted(group_by(samples, lambda s: s["category"]).items()):
        acc, plus = percent(part), percent_all_correct(part, mme_group)
        scores[name] = acc + plus
        by_subtask |= {f"{name} acc": acc, f"{name} acc+": plus}
    total = sum(scores.values())
    cognition = sum(score for name, score in scores.items() if name in COGNITION)
    headline = total / (2 * len(scores)) if scores else 0.0
    return {"score": headline, "total": total, "perception": total - cognition, "cognition": cognition, **by_subtask}


def pope_rows(records: Records) -> Iterator[Row]:
    for number, record in enumerate(records):
        category = required_field(record, "category", number)
        yield Row(
            id=f"pope-{category}-{required_field(record, 'question_id', number)}",
            question=required_field(record, "question", number).strip(),
            answer=_yes_or_no_target(record, "answer", number),
            answer_format=ONE_WORD,
            image=load_image(record, number),
            category=category,
            question_type="yes_no",
            details=details_json(image_source=record["image_source"]),
        )


def pope_group(sample: Sample) -> str:
    """An image has six questions in each of three categories."""
    return sample["details"]["image_source"]


def pope_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """Yes is the positive class (Li et al., arXiv 2305.10355). A response that is neither counts as no yes: it lowers
    accuracy and recall. The yes rate is that of the responses; `pope_yes_ratio` of lmms-eval is that of the targets."""
    result = _detection_metrics(samples)
    for name, part in sorted(group_by(samples, lambda s: s["category"]).items()):
        result |= {f"{name} {metric}": value for metric, value in _detection_metrics(part).items()}
    return result


def _detection_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    predicted = sum(s["parsed"] == "yes" for s in samples)
    positives = sum(s["target"] == "yes" for s in samples)
    hits = sum(s["parsed"] == s["target"] == "yes" for s in samples)
    precision, recall = hits / predicted if predicted else 0.0, hits / positives if positives else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {
        "accuracy": percent(samples),
        "precision": 100 * precision,
        "recall": 100 * recall,
        "f1": 100 * f1,
        "yes rate": 100 * predicted / len(samples) if samples else 0.0,
    }


def hallusion_rows(records: Records) -> Iterator[Row]:
    """The 951 questions with an image, as in lmms-eval and VLMEvalKit. The 178 without (visual_input 0) measure the
    prior knowledge of a model and are left out."""
    for number, record in enumerate(records):
        if str(record["visual_input"]) == "0":
            continue
        parts = [str(record[name]) for name in ("category", "subcategory", "set_id", "figure_id", "question_id")]
        answer = str(required_field(record, "gt_answer", number))
        if answer not in ("0", "1"):
            raise InputError(f"row {number}: field gt_answer: {answer!r} is neither 0 nor 1")
        yield Row(
            id=f"hallusionbench-{'-'.join(parts)}",
            question=required_field(record, "question", number),
            answer=("no", "yes")[int(answer)],
            image=load_image(record, number),
            category=f"{parts[0]}/{parts[1]}",
            question_type="yes_no",
            details=details_json(set_id=parts[2], figure_id=parts[3], question_id=parts[4]),
        )


def hallusion_group(sample: Sample) -> str:
    """A set: original and edited images of one thing, and the questions on each."""
    return f"{sample['category']}/{sample['details']['set_id']}"


def hallusion_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """aAcc: questions; fAcc: images with all their questions correct; qAcc: questions correct on all their images.
    Groups as in the official evaluation (tianyi-lab/HallusionBench), which separates VD and VS: both have a subcategory
    "ocr". There GPT-4 judges the responses; here, as in VLMEvalKit without a judge, yes or no is parsed."""

    def key(name: str):
        return lambda s: (hallusion_group(s), s["details"][name])

    return {
        "aAcc": percent(samples),
        "fAcc": percent_all_correct(samples, key("figure_id")),
        "qAcc": percent_all_correct(samples, key("question_id")),
    }


def _yes_or_no_target(record: Mapping[str, Any], field: str, number: int) -> str:
    answer = str(required_field(record, field, number)).lower().strip().rstrip(".")
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
    license="not stated by the copy; the images are those of COCO",
    rows=pope_rows,
    grade=grade,
    metrics=pope_metrics,
    revision="4db1276663dfa5eb8ad16a52d24c31a09e470896",
    column_types={"question_id": "text or number"},
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
    column_types=dict.fromkeys(("visual_input", "set_id", "figure_id", "question_id", "gt_answer"), "text or number"),
    group=hallusion_group,
    counts_groups=True,
)
