"""A small copy of each published set with recorded questions, in the layout in which it is published."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Audio, Image, List, Value
from published_sets import IMAGES, recorded, write_dataset, write_file

TEXT, TEXTS = Value("string"), List(Value("string"))
TRAIN_IMAGES = (1, 2, 4, 5, 6, 8)  # of COCO's images 0 to 9, by a hash of the number
CLIPS = [recorded(1.6 + number / 5, 200 + 40 * number) for number in range(4)]


class Copy(NamedTuple):
    """A copy: what `selfkd synthesize` is given, and what it has to make of it."""

    path: Path
    settings: dict[str, Any]
    questions: list[str]
    targets: list[str]
    seconds: list[float]
    question_type: str = "words"
    skipped: dict[str, int] | None = None


def stored(content: bytes) -> dict[str, Any]:
    return {"bytes": content, "path": None}


def json_file(path: Path, value: Any) -> Path:
    return write_file(path, json.dumps(value).encode())


def json_lines(path: Path, rows: list[dict]) -> Path:
    return write_file(path, "\n".join(map(json.dumps, rows)).encode())


def write_card(folder: Path, config: str, split: str) -> None:
    """The card of a set on the hub, which says where the files of its configs are."""
    files = f"  data_files:\n  - split: {split}\n    path: {config}/{split}-*\n"
    write_file(
        folder / "README.md", f"---\nlicense: cc-by-4.0\nconfigs:\n- config_name: {config}\n{files}---\n".encode()
    )


def _babillage(folder: Path, config: str, split: str, rows: list[dict]) -> Path:
    times = List(List(Value("float64")))
    features = {"sample_id": Value("int64"), "image_id": Value("int64")}
    features |= {"question_audio": Audio(), "question_transcript": TEXTS, "question_alignment": times}
    features |= {"answer_audio": Audio(), "answer_transcript": TEXTS, "answer_alignment": times}
    for number, row in enumerate(rows):
        words = row["question_transcript"]
        row["question_audio"], row["question_alignment"] = stored(CLIPS[number]), [[0.0, 1.0] for _ in words]
        if "answer_transcript" in row:
            row["answer_audio"], row["answer_alignment"] = stored(CLIPS[3]), [[0.0, 1.0]]
    features = {name: feature for name, feature in features.items() if name in rows[0]}
    write_dataset(folder / config / f"{split}-00000-of-00001.parquet", rows, features)
    return folder


def babillage_coco(folder: Path) -> Copy:
    questions = [["What", "is", "shown?"], ["Describe", "the", "scene."]]
    answers = [["A", "red", "circle."], ["Two", "stars."]]
    rows = [
        {"sample_id": 10 + n, "image_id": 42 + n, "question_transcript": q, "answer_transcript": a}
        for n, (q, a) in enumerate(zip(questions, answers, strict=True))
    ]
    for number in range(2):
        write_file(folder / "val2014" / f"COCO_val2014_{42 + number:012d}.jpg", IMAGES[number])
    path = _babillage(folder / "Babillage", "coco", "validation", rows)
    write_card(path, "coco", "validation")
    settings = {"images": str(folder / "val2014"), "split": "validation"}
    texts = ["What is shown?", "Describe the scene."], ["A red circle.", "Two stars."]
    return Copy(path, settings, *texts, [1.6, 1.8])


def babillage_ocrvqa(folder: Path) -> Copy:
    row = {"sample_id": 7, "image_id": 5, "question_transcript": ["Who", "wrote", "it?"], "answer_transcript": ["Ann."]}
    write_file(folder / "images" / "5.jpg", IMAGES[0])
    path = _babillage(folder / "Babillage", "ocrvqa", "test", [row])
    return Copy(path, {"images": str(folder / "images"), "split": "test"}, ["Who wrote it?"], ["Ann."], [1.6])


def babillage_vqav2(folder: Path) -> Copy:
    """Neither images nor answers are in it: the id of a question begins with that of its image."""
    rows = [{"sample_id": 262148000 + n, "question_transcript": ["Is", "it", "red?"]} for n in range(3)]
    write_file(folder / "val2014" / "COCO_val2014_000000262148.jpg", IMAGES[0])
    answers = [["yes"] * 6 + ["no"] * 4, ["red"] * 10]
    records = [
        {"question_id": 262148000 + n, "image_id": 262148, "answers": [{"answer": a, "answer_id": 1} for a in some]}
        for n, some in enumerate(answers)
    ]
    file = json_file(folder / "v2_mscoco_val2014_annotations.json", {"info": {}, "annotations": records})
    path = _babillage(folder / "Babillage", "vqav2", "validation", rows)
    settings = {"images": str(folder / "val2014"), "annotations": str(file), "split": "validation"}
    skipped = {"no question or answer": 1}  # the third question has no annotation
    return Copy(path, settings, ["Is it red?"] * 2, ["yes", "red"], [1.6, 1.8], "vqa", skipped)


def voiceassistant_eval(folder: Path) -> Copy:
    audio = {f"user_audio_{number}": Audio() for number in range(7)}
    images = {f"image_{number}": Image() for number in range(5)}
    extra = {"user_audio_transcripts": TEXTS, "raw_question": TEXT, "raw_options": TEXTS, "role_name": TEXT}
    features = {"id": TEXT, "category1": TEXT, "category2": TEXT, "system_prompt": TEXT, "role_audio": Audio()}
    features |= audio | {"ref_answers": TEXTS} | images | {"extra": extra}

    def row(name, transcripts, answers, options=(), more_images=0):
        clips = {f"user_audio_{n}": stored(CLIPS[n]) for n in range(len(transcripts))}
        shown = {f"image_{n}": stored(IMAGES[n]) for n in range(1 + more_images)}
        details = {"user_audio_transcripts": transcripts, "raw_question": "q", "raw_options": list(options)}
        known = {"id": name, "category1": "viewing", "category2": "art", "ref_answers": answers, "extra": details}
        return dict.fromkeys(features) | known | clips | shown

    rows = [
        row("a", ["Which shape?"], ["B"], ["circle", "star"]),
        row("b", ["Think first.", "What color is it?"], ["red", "dark red"]),
        row("c", ["What differs?"], ["color"], more_images=1),
    ]
    write_dataset(folder / "viewing" / "test_viewing_multi_discipline.parquet", rows, features)
    questions = ["Which shape?", "Think first. What color is it?"]
    skipped = {"several images": 1}
    return Copy(folder, {"split": "test"}, questions, ["B", "red"], [1.6, 1.6 + 0.3 + 1.8], "multiple_choice", skipped)


def _lyra(folder: Path, file: str, images: str, rows: list[dict], names: list[str]) -> Path:
    for number, name in enumerate(names):
        write_file(folder / "lyra_audios" / name, recorded(1.6 + number / 5, format="MP3"))
    for number, row in enumerate(rows):
        write_file(folder / images / row["image"], IMAGES[number])
    json_lines(folder / file, rows)
    return folder


def lyra_textvqa(folder: Path) -> Copy:
    """One image has two questions, whose ids are the image's."""
    prompt = "{}\nReference OCR token: STOP, ALL\nAnswer the question using a single word or phrase."
    questions = ["which word is this?", "what color is the sign?"]
    rows = [
        {"question_id": "ab", "image": "ab.jpg", "speech": f"sp{n}", "prompt": prompt.format(question),
         "text": "<speech>\nReference OCR token: STOP, ALL"} for n, question in enumerate(questions)
    ]  # fmt: skip
    data = [
        {"question": question.capitalize(), "image_id": "ab", "question_id": n, "answers": [answer] * 10}
        for n, (question, answer) in enumerate(zip(questions, ["stop", "red"], strict=True))
    ]
    json_file(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": data})
    path = _lyra(folder, "lyra_textvqa_val_v051_ocr_withspeechid.jsonl", "train_images", rows, ["sp0.mp3", "sp1.mp3"])
    return Copy(path, {}, questions, ["stop", "red"], [1.6, 1.8], "vqa")


def lyra_docvqa(folder: Path) -> Copy:
    rows = [{"question_id": 49153, "image": "documents/x.png", "text": "What is the total?", "answer": ["$5", "5"]}]
    path = _lyra(folder, "lyra_docvqa_audio.jsonl", ".", rows, ["49153.mp3"])
    return Copy(path, {}, ["What is the total?"], ["$5"], [1.6], "document")


def lyra_chartvqa(folder: Path) -> Copy:
    rows = [{"question_id": 3, "image": "png/1.png", "text": "How many bars?", "answer": ["14"]}]
    path = _lyra(folder, "lyra_chartvqa_audio.jsonl", ".", rows, ["3.mp3"])
    return Copy(path, {}, ["How many bars?"], ["14"], [1.6], "chart")


def lyra_mmvet(folder: Path) -> Copy:
    rows = [{"question_id": f"v1_{n}", "image": f"v1_{n}.png", "text": "What is x?"} for n in range(2)]
    path = _lyra(folder, "lyra_mm_vet.jsonl", "images", rows, ["v1_0.mp3", "v1_1.mp3"])
    answers = {"v1_0": {"answer": "-1<AND>-5<OR>x=-1 or -5"}, "v1_1": {"answer": "a dog"}}
    json_file(path / "mm-vet.json", answers)
    return Copy(path, {}, ["What is x?"] * 2, ["-1 -5", "a dog"], [1.6, 1.8])


def omnibench(folder: Path) -> Copy:
    features = {"index": Value("int64"), "task type": TEXT, "audio type": TEXT, "question": TEXT, "options": TEXTS}
    features |= {"answer": TEXT, "image content": TEXT, "audio content": TEXT, "audio": Audio(), "image": Image()}
    rows = [
        {"index": n, "task type": "Action", "audio type": kind, "question": "What will they do?",
         "options": ["run", "sit", "sing", "sleep"], "answer": "sing", "image content": "people",
         "audio content": f"Let us begin number {n}", "audio": stored(CLIPS[n]), "image": stored(IMAGES[n])}
        for n, kind in enumerate(("speech", "music", "speech"))
    ]  # fmt: skip
    write_dataset(folder / "data" / "train-00000-of-00001.parquet", rows, features)
    questions, skipped = [f"Let us begin number {n}" for n in (0, 2)], {"audio type is not speech": 1}
    return Copy(folder / "data", {}, questions, ["C"] * 2, [1.6, 2.0], "multiple_choice", skipped)


def spokenvisit(folder: Path) -> Copy:
    rows = [
        {"id": n, "instruction_category": "scene", "image": f"images{n}.jpg", "speech": f"{n}.wav",
         "instruction": "Tell me a story.", "reference_output": "Once there was a star."} for n in range(2)
    ]  # fmt: skip
    for number in range(2):
        write_file(folder / "images" / f"images{number}.jpg", IMAGES[number])
        write_file(folder / "speech" / f"{number}.wav", CLIPS[number])
    json_lines(folder / "VisIT_speech.jsonl", rows)
    return Copy(folder, {}, ["Tell me a story."] * 2, ["Once there was a star."] * 2, [1.6, 1.8])


def _voicebench(folder: Path, config: str, split: str, rows: list[dict]) -> Path:
    rows = [row | {"audio": stored(CLIPS[n])} for n, row in enumerate(rows)]
    features = {name: Audio() if name == "audio" else TEXT for name in rows[0]}
    write_dataset(folder / config / f"{split}-00000-of-00001.parquet", rows, features)
    return folder


def _voicebench_repeat(config: str) -> Callable[[Path], Copy]:
    def made(folder: Path) -> Copy:
        texts = ["How do I boil an egg?", "Name a tall tree."]
        path = _voicebench(folder, config, "test", [{"prompt": text} for text in texts])
        return Copy(path, {"split": "test"}, texts, texts, [1.6, 1.8], "repeat")

    return made


def voicebench_sdqa(folder: Path) -> Copy:
    rows = [{"prompt": "Who wrote Emma?", "reference": "Jane Austen"}]
    path = _voicebench(folder, "sd-qa", "usa", rows)
    write_card(path, "sd-qa", "usa")
    return Copy(Path(f"{path}:sd-qa:usa"), {"split": "test"}, ["Who wrote Emma?"], ["Jane Austen"], [1.6])


def coco_captions(folder: Path) -> Copy:
    """Images 0 to 9, of which those of the split train are read; the first of these has two captions."""
    names = [f"val2014/COCO_val2014_{n:012d}.jpg" for n in range(10)]
    data = [
        {"image": name, "captions": [
            {"text": f"A dog number {n} on grass {k}", "speaker": f"m{k}", "uttid": f"u{n}-{k}",
             "wav": f"wavs/val/0/u{n}-{k}.wav"} for k in range(2 if n == TRAIN_IMAGES[0] else 1)]}
        for n, name in enumerate(names)
    ]  # fmt: skip
    for number, name in enumerate(names):
        write_file(folder / "images" / name, IMAGES[number % 4])
    for number in range(10):
        for k in range(2 if number == TRAIN_IMAGES[0] else 1):
            write_file(folder / "wavs/val/0" / f"u{number}-{k}.wav", CLIPS[k])
    path = json_file(folder / "SpokenCOCO_val.json", {"data": data})
    kept = TRAIN_IMAGES
    texts = [f"A dog number {n} on grass {k}" for n in kept for k in range(2 if n == TRAIN_IMAGES[0] else 1)]
    seconds = [1.6 + k / 5 for n in kept for k in range(2 if n == TRAIN_IMAGES[0] else 1)]
    settings = {"images": str(folder / "images")}
    skipped = {"another split": 11 - len(texts)}
    return Copy(path, settings, texts, texts, seconds, "repeat", skipped)


def captions_database(rows: list[tuple[Any, ...]]) -> bytes:
    """SPEECH-COCO's database, as its `speechcoco.py` makes it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE speakers (name TEXT PRIMARY KEY, gender TEXT, nationality TEXT)")
        connection.execute(
            "CREATE TABLE captions (captionID INTEGER PRIMARY KEY, imageID INTEGER, wavFilename TEXT, duration FLOAT, "
            "timecode TEXT, disfluencyPos TEXT, disfluencyVal TEXT, speed FLOAT, text TEXT, speaker TEXT)"
        )
        connection.execute("INSERT INTO speakers VALUES ('Phil', 'Male', 'US')")
        query = "INSERT INTO captions VALUES (?, ?, ?, 1.6, '[]', 'Middle', 'um', 0.9, ?, ?)"
        connection.executemany(query, rows)
        connection.commit()
        return connection.serialize()


def speech_coco(folder: Path) -> Copy:
    """Images 0 to 9, of which those of the split train are read."""
    rows = [(100 + n, n, f"{n}_{100 + n}_Phil_Middle_0-9.wav", f"A dog, um, number {n}.", "Phil") for n in range(10)]
    for number, _, wav, *_ in rows:
        write_file(folder / "train2014" / "wav" / wav, CLIPS[number % 2])
        write_file(folder / "images" / f"COCO_train2014_{number - 100:012d}.jpg", IMAGES[number % 4])
    write_file(folder / "train2014" / "train_2014.sqlite3", captions_database(rows))
    write_file(folder / "train2014" / "translations" / "train_translate.sqlite3", captions_database([]))
    texts = [f"A dog, um, number {n}." for n in TRAIN_IMAGES]
    seconds = [1.6 + n % 2 / 5 for n in TRAIN_IMAGES]
    settings = {"images": str(folder / "images")}
    return Copy(folder / "train2014", settings, texts, texts, seconds, "repeat", {"another split": 4})


def _xmodbench(task: str) -> Callable[[Path], Copy]:
    """Files name media by a folder of their authors' machine; the second record has a video in place of the image."""
    media = "/home/author/AudioBench/benchmark/Data/audiobench_rendertext"
    texts = ["I like to play guitar.", "I like to spray guitar.", "I enjoy music.", "I pursue guitar."]

    def made(folder: Path) -> Copy:
        records = [
            {
                "question": "Which audio most likely matches the text shown in the image? Answer the question with A, "
                "B, C, or D",
                "conditions": {"modality": kind, "input": f"{media}/audio/973.png", "text": texts[1]},
                "options": {
                    letter: {"modality": "Audio", "input": f"{media}/hard/973/{n}.wav", "text": texts[n]}
                    for n, letter in enumerate("ABCD")
                },
                "correct_answer": "B",
            }
            for kind in ("Image", "Video")
        ]
        write_file(folder / "Data/audiobench_rendertext/audio/973.png", IMAGES[0])
        for number in range(4):
            write_file(folder / f"Data/audiobench_rendertext/hard/973/{number}.wav", CLIPS[number])
        json_file(folder / "tasks/03_speech" / task / "acr_audio_bench_questions_vision_audio.json", records)
        skipped = {"not an image with four recordings": 1}
        seconds = sum(1.6 + number / 5 for number in range(4)) + 3 * 0.3
        return Copy(folder, {"split": "test"}, ["\n".join(texts)], ["B"], [seconds], "multiple_choice", skipped)

    return made


def localized_narratives(folder: Path) -> Copy:
    """A narrative of 65 s: its sentences are cut where the next would not fit into 30 s."""
    # fmt: off
    words = [("A large brown dog with a red collar", 0.5, 9.0), ("is running over the lawn.", 9.0, 14.0),
             ("The grass behind it is tall and green", 14.5, 24.0), ("and still wet from rain.", 24.0, 29.0),
             ("I see", 30.0, 31.0), ("a ball.", 31.0, 33.0), ("This is", 34.0, 50.0), ("slow.", 50.0, 65.0)]
    # fmt: on
    timed = [{"utterance": text, "start_time": start, "end_time": stop} for text, start, stop in words]
    # strokes in any order, with a point outside of the image
    record = {
        "dataset_id": "mscoco_val2017", "image_id": str(TRAIN_IMAGES[0]), "annotator_id": 93, "timed_caption": timed,
        "caption": " ".join(text for text, _, _ in words), "traces": [
            [{"x": 0.1, "y": 0.2, "t": 31.5}], [{"x": 1.2, "y": 0.2, "t": 1.0}, {"x": 0.3333, "y": 0.0, "t": 0.5}]],
        "voice_recording": "coco_val/coco_val_1_93.ogg",
    }  # fmt: skip
    write_file(folder / "images" / f"{TRAIN_IMAGES[0]:012d}.jpg", IMAGES[0])
    write_file(folder / "recordings/coco_val/coco_val_1_93.ogg", recorded(66.0, format="OGG", subtype="VORBIS"))
    path = json_lines(folder / "coco_val_localized_narratives.jsonl", [record])
    settings = {"images": str(folder / "images"), "recordings": str(folder / "recordings")}
    texts = [" ".join(text for text, _, _ in words[:4]), "I see a ball."]
    return Copy(path, settings, texts, texts, [28.5, 3.0], "repeat", {"a sentence over 30 s": 1})


def flickr8k_audio(folder: Path) -> Copy:
    image = "1000268201_693b08cb0e"  # of the split test
    write_file(
        folder / "flickr_audio" / "wav2capt.txt",
        f"{image}_0.wav {image}.jpg #0\n{image}_1.wav {image}.jpg #1\n".encode(),
    )
    write_file(folder / "flickr_audio" / "wav2spk.txt", f"{image}_0.wav 3\n{image}_1.wav 7\n".encode())
    captions = folder / "Flickr8k_text" / "Flickr8k.token.txt"
    write_file(captions, f"{image}.jpg#0\tA child climbs stairs .\n{image}.jpg#1\tA girl goes inside .\n".encode())
    for number in range(2):
        write_file(folder / "flickr_audio/wavs" / f"{image}_{number}.wav", CLIPS[number])
    write_file(folder / "images" / f"{image}.jpg", IMAGES[0])
    texts = ["A child climbs stairs .", "A girl goes inside ."]
    settings = {"images": str(folder / "images"), "annotations": str(captions), "split": "test"}
    return Copy(folder / "flickr_audio", settings, texts, texts, [1.6, 1.8], "repeat")


COPIES: dict[str, Callable[[Path], Copy]] = {
    "babillage-coco": babillage_coco,
    "babillage-ocrvqa": babillage_ocrvqa,
    "babillage-vqav2": babillage_vqav2,
    "voiceassistant-eval": voiceassistant_eval,
    "lyra-textvqa": lyra_textvqa,
    "lyra-docvqa": lyra_docvqa,
    "lyra-chartvqa": lyra_chartvqa,
    "lyra-mmvet": lyra_mmvet,
    "omnibench": omnibench,
    "spokenvisit": spokenvisit,
    "voicebench-commoneval": _voicebench_repeat("commoneval"),
    "voicebench-wildvoice": _voicebench_repeat("wildvoice"),
    "voicebench-sdqa": voicebench_sdqa,
    "xmodbench-recognition": _xmodbench("recognition"),
    "xmodbench-translation": _xmodbench("translation"),
    "spoken-coco": coco_captions,
    "speech-coco": speech_coco,
    "localized-narratives": localized_narratives,
    "flickr8k-audio": flickr8k_audio,
}
