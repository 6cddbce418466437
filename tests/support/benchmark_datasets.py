"""Local datasets in the layout of each benchmark on the hub, with a row or two."""

import io

from datasets import Dataset, Features, Image, Sequence, Value
from PIL import Image as PILImage

ONE_WORD = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


def png(color, size=(8, 6)):
    buffer = io.BytesIO()
    PILImage.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = png("red")
TEXT, NUMBER, TEXTS = Value("string"), Value("int64"), Sequence(Value("string"))
# column names and types as on the hub
LAYOUTS = {
    "mme": {"question_id": TEXT, "image": Image(), "question": TEXT, "answer": TEXT, "category": TEXT},
    "pope": {"id": TEXT, "question_id": TEXT, "question": TEXT, "answer": TEXT, "image_source": TEXT, "image": Image(),
             "category": TEXT},
    "hallusionbench": {"category": TEXT, "subcategory": TEXT, "visual_input": TEXT, "set_id": TEXT, "figure_id": TEXT,
                       "sample_note": TEXT, "question_id": TEXT, "question": TEXT, "gt_answer_details": TEXT,
                       "gt_answer": TEXT, "filename": TEXT, "image": Image()},
    "textvqa": {"image_id": TEXT, "question_id": NUMBER, "question": TEXT, "question_tokens": TEXTS, "image": Image(),
                "image_width": NUMBER, "answers": TEXTS, "set_name": TEXT, "ocr_tokens": TEXTS},
    "realworldqa": {"image": Image(), "image_path": TEXT, "question": TEXT, "answer": TEXT},
    "ai2d": {"question": TEXT, "options": TEXTS, "answer": TEXT, "image": Image()},
    "chartqa": {"type": TEXT, "question": TEXT, "answer": TEXT, "image": Image()},
    "mmstar": {"index": NUMBER, "question": TEXT, "image": Image(), "answer": TEXT, "category": TEXT,
               "l2_category": TEXT, "meta_info": {"source": TEXT, "split": TEXT, "image_path": TEXT}},
    "docvqa": {"questionId": TEXT, "question": TEXT, "question_types": TEXTS, "image": Image(), "docId": NUMBER,
               "ucsf_document_id": TEXT, "ucsf_document_page_no": TEXT, "answers": TEXTS, "data_split": TEXT},
    "infovqa": {"questionId": TEXT, "question": TEXT, "answers": TEXTS, "answer_type": TEXTS, "image": Image(),
                "image_url": TEXT, "operation/reasoning": TEXTS, "ocr": TEXT, "data_split": TEXT},
    "ocrbench": {"dataset": TEXT, "question": TEXT, "question_type": TEXT, "answer": TEXTS, "image": Image()},
    "mmbench": {"index": TEXT, "question": TEXT, "hint": TEXT, "answer": TEXT, "A": TEXT, "B": TEXT, "C": TEXT,
                "D": TEXT, "category": TEXT, "image": Image(), "source": TEXT, "L2-category": TEXT, "comment": TEXT,
                "split": TEXT},
    "mmvet": {"question_id": TEXT, "image": Image(), "question": TEXT, "answer": TEXT, "image_source": TEXT,
              "capability": TEXT},
}  # fmt: skip
# the first metric of each benchmark
HEADLINES = dict.fromkeys(("pope", "realworldqa", "ai2d", "mmstar", "ocrbench", "mmbench"), "accuracy") | {
    "mme": "score", "hallusionbench": "aAcc", "textvqa": "vqa accuracy", "chartqa": "relaxed accuracy",
    "docvqa": "anls", "infovqa": "anls", "mmvet": "words",
}  # fmt: skip
ROWS = {
    "mme": [
        {"question_id": "code_reasoning/0020.png", "question": "Is a c++ code shown in the picture? Please answer yes "
         "or no.", "answer": answer, "category": "code_reasoning"} for answer in ("Yes", "No")],
    "pope": [{"question_id": "1", "question": "Is there a snowboard in the image?", "answer": "yes",
              "image_source": "COCO_val2014_000000310196", "category": category} for category in ("popular", "random")],
    "hallusionbench": [
        {"category": "VS", "subcategory": "ocr", "visual_input": "2", "set_id": "6", "figure_id": "2",
         "question_id": "0", "question": "According to the image, is G 6.67?", "gt_answer": "0"},
        {"category": "VS", "subcategory": "ocr", "visual_input": "0", "set_id": "6", "figure_id": "0",
         "question_id": "0", "question": "Is G 6.67?", "gt_answer": "1", "image": None}],
    "textvqa": [{"question_id": 34602, "question": "what is the brand of this Camera?",
                 "answers": ["nous les gosses", *["dakota"] * 8, "clos culombu"]}],
    "realworldqa": [
        {"question": "In which direction is the sign?\n\nA. Left\nB. Right\nC. Up\nPlease answer directly with only "
         "the letter of the correct option and nothing else.", "answer": "B"},
        {"question": "How many cars are there? Please answer directly with a single word or number.", "answer": "3"}],
    "ai2d": [{"question": "Which is the larva?", "options": ["egg", "1", "C", "d"], "answer": "2"}],
    "chartqa": [{"type": answer_type, "question": "What is the value of 2018?", "answer": "14"}
                for answer_type in ("human_test", "augmented_test")],
    "mmstar": [{"index": 0, "question": "Which option describe the object relationship in the image correctly?\n"
                "Options: A: The suitcase is on the book., B: The suitcase is beneath the cat., C: The suitcase is "
                "beneath the bed., D: The suitcase is beneath the book.", "answer": "A",
                "category": "coarse perception", "l2_category": "image scene and topic"}],
    "docvqa": [{"questionId": "49153", "question": "What is the ‘actual’ value per 1000?", "answers": ["0.28"],
                "question_types": ["figure/diagram"]}],
    "infovqa": [{"questionId": "98313", "question": "Which platform has heavy FEMALE audience?",
                 "answers": ["pinterest"], "answer_type": ["single span"]}],
    "ocrbench": [{"dataset": "IIIT5K", "question": "what is written in the image?", "answer": ["CENTRE"],
                  "question_type": "Regular Text Recognition"}],
    "mmbench": [
        {"index": "241", "question": "Which of these is a dog?", "hint": "nan", "answer": "B", "A": "one", "B": "two",
         "C": "nan", "D": None, "category": "ocr", "L2-category": "finegrained_perception (instance-level)"},
        {"index": "1000241", "question": "Which of these is a dog?", "hint": "Look.", "answer": "A", "A": "two",
         "B": "one", "C": "nan", "D": None, "category": "ocr",
         "L2-category": "finegrained_perception (instance-level)"}],
    "mmvet": [
        {"question_id": "v1_0", "question": "What is x in the equation?", "answer": "-1<AND>-5", "capability":
         "ocr,math", "image_source": "https://a.b/c"},
        {"question_id": "v1_1", "question": "Which game is it?", "answer": "soccer<OR>football", "capability": "rec"}],
}  # fmt: skip
PROMPTS = {
    "mme": [f"Is a c++ code shown in the picture?{ONE_WORD}"] * 2,
    "pope": [f"Is there a snowboard in the image?{ONE_WORD}"] * 2,
    "hallusionbench": ["According to the image, is G 6.67?"],
    "textvqa": [f"What is the brand of this camera?{ONE_WORD}"],  # str.capitalize, as lmms-eval has it
    "realworldqa": [row["question"] for row in ROWS["realworldqa"]],
    "ai2d": [f"Which is the larva?\nA. egg\nB. 1\nC. C\nD. d{LETTER}"],
    "chartqa": ["What is the value of 2018?\nAnswer the question with a single word."] * 2,
    "mmstar": [ROWS["mmstar"][0]["question"] + LETTER.removesuffix(".")],
    "docvqa": [f"What is the ‘actual’ value per 1000?{ONE_WORD}"],
    "infovqa": [f"Which platform has heavy FEMALE audience?{ONE_WORD}"],
    "ocrbench": ["what is written in the image?"],
    "mmvet": ["What is x in the equation?", "Which game is it?"],
    "mmbench": [
        f"Which of these is a dog? There are several options:\nA. one\nB. two\n{LETTER}",
        f"Look. Which of these is a dog? There are several options:\nA. two\nB. one\n{LETTER}",
    ],
}
ANSWERS = {
    "mme": ["yes", "no"], "pope": ["yes"] * 2, "hallusionbench": ["no"], "textvqa": ["dakota"],
    "realworldqa": ["B", "3"], "ai2d": ["C"], "chartqa": ["14"] * 2, "mmstar": ["A"], "docvqa": ["0.28"],
    "infovqa": ["pinterest"], "ocrbench": ["CENTRE"], "mmbench": ["B", "A"],
    "mmvet": ["-1 -5", "soccer"],
}  # fmt: skip
IDS = {
    "mme": ["mme-code_reasoning-code_reasoning-0020.png-1", "mme-code_reasoning-code_reasoning-0020.png-2"],
    "pope": ["pope-popular-1", "pope-random-1"], "hallusionbench": ["hallusionbench-VS-ocr-6-2-0"],
    "textvqa": ["textvqa-34602"], "realworldqa": ["realworldqa-000", "realworldqa-001"], "ai2d": ["ai2d-0000"],
    "chartqa": ["chartqa-0000", "chartqa-0001"], "mmstar": ["mmstar-0000"], "docvqa": ["docvqa-49153"],
    "infovqa": ["infovqa-98313"], "ocrbench": ["ocrbench-0000"], "mmbench": ["mmbench-0000241", "mmbench-1000241"],
    "mmvet": ["mmvet-v1_0", "mmvet-v1_1"],
}  # fmt: skip


def local_dataset(folder, name, rows=None, without=()):
    """A Parquet file in the layout of the hub, with images as `datasets.Image`; `without` are columns to leave out."""
    layout = {k: v for k, v in LAYOUTS[name].items() if k not in without}
    complete = [
        {k: row.get(k, {"bytes": IMAGE} if k == "image" else None) for k in layout} for row in rows or ROWS[name]
    ]
    path = folder / f"{name}.parquet"
    Dataset.from_list(complete, Features(layout)).to_parquet(path)
    return str(path)
