"""The metrics of the benchmarks on cases worked out by hand from their papers, with the arithmetic in comments."""

import pytest
from benchmark_datasets import HEADLINES

from selfkd.evaluation.benchmarks.answer_parsing import chosen_letter, options_of, yes_or_no
from selfkd.evaluation.benchmarks.registry import BENCHMARKS
from selfkd.evaluation.benchmarks.short_answer import CONTRACTIONS, anls, is_close, normalize_answer, vqa_accuracy
from selfkd.evaluation.benchmarks.yes_no import COGNITION

OPTIONS = {"A": "red", "B": "dark red", "C": "vitamin C", "D": "a dog"}


def graded(name, *cases):
    """Samples of (target, response, category, details), graded by the rule of the benchmark."""
    samples = []
    for number, (target, prediction, category, details) in enumerate(cases):
        sample = {"id": str(number), "question": "?", "target": target, "category": category, "details": details}
        grade = BENCHMARKS[name].grade(sample, prediction)
        assert 0 <= grade.score <= 1
        samples.append(sample | {"parsed": grade.parsed, "score": grade.score})
    return samples


def metrics(name, *cases):
    result = BENCHMARKS[name].metrics(graded(name, *cases))
    assert next(iter(result)) == HEADLINES[name]
    return result


@pytest.mark.parametrize(("prediction", "answer"), [
    ("Yes", "yes"), ("no.", "no"), ("Y", "yes"), ("No, there is not.", "no"), ("There is no dog.", "no"),
    ("Yes, no doubt", "yes"), ("yes " * 3000, "yes"), ("I would say yes", "yes"),
    ("", None), ("Yes or no?", None), ("yes/no", None), ("Ja, natürlich", "yes"), ("是", "yes"),
    ("nothing known", None),
    ("It may be yes, it may be no", None), ("The sky is blue. " * 500, None),
])  # fmt: skip
def test_yes_or_no(prediction, answer):
    assert yes_or_no(prediction) == answer


@pytest.mark.parametrize(("prediction", "letter"), [
    ("B", "B"), ("b.", "B"), ("(B)", "B"), ("Option B", "B"), ("B. dark red", "B"), ("B) dark red", "B"),
    ("**B**", "B"),
    ("D: a dog", "D"), ("The answer is B because A is not", "B"), ("Answer: (B)", "B"), ("I think it is B", "B"),
    ("答案是B。", "B"),
    # option texts; the longer of two where one contains the other; letters within words do not count
    ("dark red", "B"), ("It is dark red.", "B"), ("RED", "A"), ("vitamin C", "C"), ("A dog is there", "D"),
    # an article before an option text does not count either
    ("A dark red.", "B"), ("A dark red thing is shown", "B"), ("It is a red", "A"), ("A vitamin C or a dog", None),
    ("A: red", "A"), ("Option A red", "A"), ("A (red)", "A"),
    # an explanation does not revoke the first answer
    ("B. dark red. Option A is wrong.", "B"), ("It is B. Choice A is a distractor.", "B"), ("B (not A)", "B"),
    ("B\nA is not right", "B"), ("B\n\n" + "It explains at length. " * 20, "B"), ("B, A is wrong", "B"),
    ("B, because it is " + "very " * 40 + "red", "B"), ("B because A is too bright", "B"), ("option b", "B"),
    ("A. red is wrong. The answer is B", "B"),
    # several, none, another language, very long
    ("Some choice a person makes", None), ("A, B and C", None), ("A: red B: dark red", None), ("A\nB", None),
    ("A or B", None), ("A and B", None), ("(A) is wrong, (B) is right", "B"), ("red and vitamin C", None),
    ("A. red\nB. dark red\nC. vitamin C\nD. a dog", None), ("", None), ("E", None), ("rojo oscuro", None),
    ("It shows many things, B among them. " * 200, None), ("some dark red thing on a table " * 200, None),
])  # fmt: skip
def test_chosen_letter(prediction, letter):
    assert chosen_letter(prediction, OPTIONS) == letter


def test_chosen_letter_where_option_texts_are_letters_or_unknown():
    assert chosen_letter("B", {"A": "B", "B": "C", "C": "A"}) == "B"  # as in AI2D: the letter is that of the option
    assert chosen_letter("There are 3 of them", {"A": "2", "B": "3", "C": "13"}) == "B"
    assert chosen_letter("C", dict.fromkeys("ABCD", "")) == "C"


@pytest.mark.parametrize(("question", "options"), [
    ("Which?\nOptions: A: on the book., B: beneath, the cat., C: 8.5, D: no", ["on the book", "beneath, the cat",
                                                                             "8.5", "no"]),
    ("Hint: e.g., A, B, C, D, at the end.\nQuestion: Find x.\nChoices:\n(A) 3/11\n(B) 8/11", ["3/11", "8/11"]),
    ("Where?\n\nA. To the left.\nB. Straight\n", ["To the left", "Straight"]),
    ("Is this plan A. or another?", []),
])  # fmt: skip
def test_options_of_a_question(question, options):
    assert list(options_of(question).values()) == options and list(options_of(question)) == list("ABCD"[: len(options)])


def test_mme():
    def pair(category, image, *predictions):
        targets = ("yes", "no")
        return [(t, r, category, {"image": image}) for t, r in zip(targets, predictions, strict=True)]

    result = metrics("mme", *pair("count", "1", "Yes", "No"), *pair("count", "2", "Yes", "yes."),
                     *pair("OCR", "1", "", "No, it does not"), *pair("code_reasoning", "1", "yes", "no"))  # fmt: skip
    # count: acc 3/4 = 75, acc+ 1/2 = 50; OCR: acc 50, acc+ 0; code: 100 + 100
    assert result["count acc"] == 75 and result["count acc+"] == 50
    assert (result["perception"], result["cognition"], result["total"]) == (175, 200, 375)
    assert result["score"] == pytest.approx(375 / 6)  # three subtasks of 200 points: 375 of 600


def test_mme_total_is_of_2800_and_its_headline_a_28th():
    perception = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork",
                  "OCR")  # fmt: skip
    cases = [(t, t if category != "OCR" else "yes", category, {"image": "1"})
             for category in (*perception, *COGNITION) for t in ("yes", "no")]  # fmt: skip
    result = metrics("mme", *cases)
    # thirteen subtasks of 200; "yes" to both OCR questions: acc 50, acc+ 0
    assert (result["perception"], result["cognition"], result["total"]) == (1850, 800, 2650)
    assert result["score"] == pytest.approx(2650 / 28)


def test_pope():
    def case(target, prediction, category):
        return target, prediction, category, {}

    result = metrics("pope", case("yes", "Yes", "random"), case("yes", "Yes.", "random"), case("yes", "No", "random"),
                     case("yes", "A dog", "popular"), case("no", "Yes", "popular"),
                     case("no", "No", "popular"))  # fmt: skip
    # 3 yes responses, 2 of them correct; 4 yes targets: precision 2/3, recall 2/4, F1 = 2*(2/3)(1/2)/(2/3+1/2) = 4/7
    expected = {"accuracy": 50, "precision": 200 / 3, "recall": 50, "f1": 400 / 7, "yes rate": 50}
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    # random: 3 yes targets, 2 found, no false positive; popular: none found
    assert result["random precision"] == 100 and result["random recall"] == pytest.approx(200 / 3)
    assert result["random f1"] == pytest.approx(80) and result["popular f1"] == result["popular precision"] == 0
    assert result["popular yes rate"] == pytest.approx(100 / 3)


def test_hallusionbench():
    def case(right, category, set_id, metric, question):
        details = {"set_id": set_id, "figure_id": metric, "question_id": question}
        return "yes", "Yes" if right else "No", category, details

    result = metrics(
        "hallusionbench",
        *(case(True, "VD/ocr", "0", "0", q) for q in "01"),  # figure 0: both correct
        case(True, "VD/ocr", "0", "1", "0"), case(False, "VD/ocr", "0", "1", "1"),  # figure 1: one wrong
        case(False, "VS/ocr", "0", "1", "0"),  # the other "ocr" is another figure and another question
    )  # fmt: skip
    # aAcc 3/5; images: VD 0 correct, VD 1 not, VS 1 not = 1/3; questions: VD 0 correct on both, VD 1 and VS 0 not = 1/3
    assert result == pytest.approx({"aAcc": 60, "fAcc": 100 / 3, "qAcc": 100 / 3})


def test_vqa_accuracy():
    # two of ten people. Leave one of them out: 1/3 (twice); leave another out: 2/3 (eight times)
    assert vqa_accuracy("dakota", ["dakota"] * 2 + ["x"] * 8) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    # four: leave any out, three are left or four: all 1. three: 2/3 three times, 1 seven times
    assert vqa_accuracy("dakota", ["dakota"] * 4 + ["x"] * 6) == 1
    assert vqa_accuracy("dakota", ["dakota"] * 3 + ["x"] * 7) == pytest.approx((3 * 2 / 3 + 7) / 10)
    result = metrics("textvqa", ("Dakota", "The Dakota.", "", {"answers": ["Dakota"] * 10}),
                     ("x", "", "", {"answers": [""] * 10}))  # fmt: skip
    assert result == {"vqa accuracy": 50}


@pytest.mark.parametrize(("answer", "normalized"), [
    ("The Two  Dogs", "2 dogs"), ("none", "0"), ("eleven", "eleven"), ("dont", "don't"), ("couldntve", "couldntve"),
    ("couldnt've", "couldn't've"), ("oclock", "o'clock"), ("somebody'd", "somebodyd"), ("well", "well"),
    ("Mr. T", "mr t"), ("3.50", "3.50"), ("1,000", "1000"), ("dr-pepper", "dr pepper"), ("dr - pepper", "dr  pepper"),
    ("John's", "john 's"), ("What?!", "what"), ("10:30", "10:30"), ("a\nb", "b"),
])  # fmt: skip
def test_normalize_answer(answer, normalized):
    assert normalize_answer(answer) == " ".join(normalized.split())


def test_contractions_of_the_vqa_evaluation():
    assert CONTRACTIONS["aint"] == "ain't" and CONTRACTIONS["yall'd've"] == "y'all'd've" and "hell" not in CONTRACTIONS
    assert len(CONTRACTIONS) == 114  # the official table, but for two that change nothing and four with capitals


@pytest.mark.parametrize(("response", "target", "right"), [
    ("105", "100", True), ("95", "100", True), ("105.1", "100", False), ("-3", "-3.1", True), ("3", "-3", False),
    ("14.0", "14", True), ("5%", "0.05", True), ("5", "5%", False), ("5.2%", "5%", True), ("0", "0", True),
    ("0.0", "0", False), ("yes", "Yes", True), ("Yes.", "Yes", False), ("nan", "14", False), ("14 apples", "14", False),
])  # fmt: skip
def test_chartqa_relaxed_accuracy(response, target, right):
    assert is_close(response, target) is right


def test_chartqa_metrics():
    result = metrics("chartqa", ("100", " 104 ", "human", {}), ("100", "110", "human", {}), ("a", "A", "augmented", {}),
                     ("a", "A", "augmented", {}), ("a", "", "augmented", {}))  # fmt: skip
    assert result == pytest.approx({"relaxed accuracy": 60, "augmented": 200 / 3, "human": 50})


@pytest.mark.parametrize(("response", "answers", "score"), [
    ("Hello", ["hello"], 1), ("  hello   world ", ["Hello world"], 1), ("helo", ["hello"], 1 - 1 / 5),
    ("kitten", ["sitting"], 1 - 3 / 7), ("abcd", ["abxy"], 0.5), ("abcde", ["abxyz"], 0), ("x", ["hello"], 0),
    ("hallo", ["x", "hello"], 0.8), ("x" + " " * 1000, ["hello"], 0), ("hello " * 1000, ["hello"], 0),
])  # fmt: skip
def test_anls(response, answers, score):
    assert anls(response, answers) == pytest.approx(score)


@pytest.mark.parametrize("name", ["docvqa", "infovqa"])
def test_anls_metrics(name):
    result = metrics(name, ("1", "1", "", {"answers": ["1"]}), ("h", "helo", "", {"answers": ["x", "hello"]}),
                     ("h", "", "", {"answers": ["hello"]}))  # fmt: skip
    assert result == {"anls": pytest.approx(100 * (1 + 0.8 + 0) / 3)}


def test_ocrbench():
    def case(prediction, answers, category, dataset="IIIT5K"):
        return answers[0], prediction, category, {"answers": answers, "dataset": dataset}

    formula = "Handwritten Mathematical Expression Recognition"
    result = metrics(
        "ocrbench",
        case("It says Centre.", ["CENTRE"], "Regular Text Recognition"), case("cen tre", ["centre"], "Digit String "
        "Recognition"), case("15\n%", ["x", "15 %"], "Doc-oriented VQA", "docVQA"),
        case("x ^ 2+1", ["x^2 + 1"], formula, "HME100k"), case("X^2", ["x^2"], formula, "HME100k"),
    )  # fmt: skip
    # 3 of 5 correct: 600 of 1,000. In formulas case counts and spaces do not; elsewhere the reverse
    assert result["accuracy"] == pytest.approx(60) and result["score"] == pytest.approx(600)
    assert result["Text Recognition"] == 50 and result["Doc-oriented VQA"] == 100 and result[formula] == 50
    assert len(result) == 5


def test_mmstar():
    def case(prediction, category, ability):
        return "A", prediction, category, {"options": dict.fromkeys("ABCD", ""), "ability": ability}

    result = metrics("mmstar", case("A", "math", "geometry"), case("B", "math", "geometry"), case("A", "math",
                     "statistics"), case("", "logical reasoning", "code"))  # fmt: skip
    assert result == pytest.approx({"accuracy": 50, "logical reasoning": 0, "math": 200 / 3,
                                    "mean of abilities": 100 * (0.5 + 1 + 0) / 3})  # fmt: skip


def test_ai2d_and_realworldqa():
    assert metrics("ai2d", ("B", "dark red", "", {"options": OPTIONS}), ("A", "B", "", {"options": OPTIONS}))[
        "accuracy"
    ] == 50  # fmt: skip
    word, choice = {"options": {}}, {"options": OPTIONS}
    result = metrics("realworldqa", ("3", "3.", "word", word), ("Yes", "yes", "word", word), ("3", "three", "word",
                     word), ("C", "C. vitamin C", "choice", choice))  # fmt: skip
    assert result == pytest.approx({"accuracy": 75, "choice": 100, "word": 200 / 3})


def test_mmbench_circular():
    def case(index, target, prediction, category="logic"):
        return target, prediction, category, {"options": {"A": "x y", "B": "z w"}, "index": index}

    plain = [case(1, "A", "A"), case(2, "B", "B"), case(3, "A", "B", "ocr")]
    assert metrics("mmbench", *plain) == pytest.approx(
        {"accuracy": 200 / 3, "vanilla": 200 / 3, "logic": 100, "ocr": 0}
    )
    # question 1 correct under both rotations, question 2 once, question 3 only when rotated
    rotated = [case(1_000_001, "B", "z w"), case(1_000_002, "A", "B"), case(1_000_003, "B", "B", "ocr")]
    expected = {"accuracy": 100 / 3, "vanilla": 200 / 3, "circular": 100 / 3, "logic": 50, "ocr": 0}
    assert metrics("mmbench", *plain, *rotated) == pytest.approx(expected)


def test_mmvet_by_the_rule():
    """A part that stands in the response counts its share; of alternatives the best; signs are part of a number."""
    both, either = {"reference": "-1 <AND> -5"}, {"reference": "a red car <OR> sports car"}
    cases = [
        ("-1 -5", "x = -1 or x=-5.", "ocr,math", both),  # 1
        ("-1 -5", "x = 1 or -5", "ocr,math", both),  # 1/2
        ("a red car", "It is a Sports-Car!", "rec", either),  # 1
        ("a red car", "It is red", "rec", either),  # 0
        ("cat", "A cat.", "rec,know", {}),  # 1
    ]
    found = metrics("mmvet", *cases)
    assert found == {"words": 70.0, "know": 100.0, "math": 75.0, "ocr": 75.0, "rec": pytest.approx(200 / 3)}
