"""Sources in files: each on a fixture in its published layout; bad rows are named and rejected."""

import gzip
import io
import json
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Dataset, Features, Image, Value
from examples import tone, toy_examples
from PIL import Image as PILImage
from PIL import ImageOps

from selfkd.cli import main
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import image_columns, read_manifest
from selfkd.data.lazy_images import ImageInFolder, ImageInParquet
from selfkd.data.media import MAX_PIXELS
from selfkd.errors import InputError
from selfkd.serving.media import read_image
from selfkd.synthesis.sources.llava import split_question
from selfkd.synthesis.sources.registry import open_source
from selfkd.synthesis.sources.rows import RowSource, checked_image, json_records
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize

IMAGE = toy_examples(1)[0].image


def settings(tmp_path, source, path, **changes):
    return SynthesizeConfig(tmp_path / "out", source, str(path), **({"count": 0, "processes": 1} | changes))


@pytest.fixture
def llava_folder(tmp_path):
    """Records as in llava_v1_5_mix665k.json: turns, image placeholders, boxes, OCR, options, text only."""

    def turns(*texts):
        return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]

    short = "Answer the question using a single word or phrase."
    records = [
        {"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": turns(
            "<image>\nWhat are the colors of the bus in the image?", "White and red.",
            "What is on the back?", "An advertisement.")},
        {"id": "vg1", "image": "vg/VG_100K/1.jpg", "conversations": turns(
            f"<image>\nIs it day?\n{short}", "Yes",
            "Please provide the bounding box coordinate of the region this sentence describes: a bus.",
            "[0.1, 0.2, 0.3, 0.4]",
            "Please provide a short description for this region: [0.28, 0.4, 0.9, 1.00].", "a man")},
        {"id": "t1", "image": "textvqa/train_images/t.jpg", "conversations": turns(
            f"<image>\nWhat is written?\nReference OCR token: STOP, ALL\n{short}", "stop")},
        {"id": "x", "conversations": turns("Write a poem.", "Roses")},
        {"id": "sqa", "image": "coco/train2017/000000033471.jpg", "conversations": turns(
            "<image>\nWhich is it?\nA. 5 cats\nB. a dog\n"
            "Answer with the option's letter from the given choices directly.", "A")},
        {"id": "gone", "image": "coco/train2017/missing.jpg", "conversations": turns("<image>\nWhat is it?", "A cat.")},
        {"id": "caps", "image": "textvqa/train_images/t.jpg", "conversations": turns(
            "<image>\nProvide a one-sentence caption for the provided image.\nReference OCR token: STOP", "A sign.")},
    ]  # fmt: skip
    for record in records[:3]:
        file = tmp_path / "images" / record["image"]
        file.parent.mkdir(parents=True)
        file.write_bytes(IMAGE)
    (tmp_path / "llava.json").write_text(json.dumps(records))
    return tmp_path


@pytest.mark.slow
def test_llava(llava_folder, tmp_path):
    config = settings(tmp_path, "llava", llava_folder / "llava.json", images=str(llava_folder / "images"))
    manifest = synthesize(config)
    assert manifest["skipped_by_the_source"] == {"no image": 1, "boxes": 2}
    (gone,) = manifest["rejected"]
    assert gone["id"] == "llava-000005-00" and "missing.jpg: no such file" in gone["reason"]
    examples = {e.id: e for e in ExampleFolder(config.output)}
    assert len(examples) == manifest["rows"] == 6
    # in the order of the file, but questions about one image are adjacent
    assert [name.removeprefix("llava-") for name in examples] == [
        "000000-00", "000000-01", "000004-00", "000001-00", "000002-00", "000006-00",
    ]  # fmt: skip
    caption = examples["llava-000006-00"]
    assert caption.question == "Provide a one-sentence caption for the provided image." and not caption.answer_format
    assert caption.instruction == "Reference OCR token: STOP\n"
    first, second = examples["llava-000000-00"], examples["llava-000000-01"]
    assert first.question == "What are the colors of the bus in the image?" and first.image == second.image == IMAGE
    assert examples["llava-000001-00"].answer_format == "\nAnswer the question using a single word or phrase."
    assert "OCR token: STOP, ALL" in examples["llava-000002-00"].instruction
    options = examples["llava-000004-00"]
    assert options.spoken_text == "Which is it? Option A is five cats. Option B is a dog."
    assert options.question == "Which is it?\nA. 5 cats\nB. a dog" and options.category == "train2017"


def test_the_instruction_stays_text_or_becomes_audio():
    value = "<image>\nIs it day?\nAnswer the question using a single word or phrase."
    assert split_question(value, False) == ("Is it day?", "", "\nAnswer the question using a single word or phrase.")
    assert split_question(value, True) == ("Is it day?\nAnswer the question using a single word or phrase.", "", "")


def test_a_sample_depends_on_the_seed_and_keeps_the_order(llava_folder, tmp_path):
    def ids(**changes):
        config = settings(tmp_path, "llava", llava_folder / "llava.json", images="x", **changes)
        return [row.id for row in open_source(config).rows]

    assert ids(count=3) == ids(count=3) and set(ids(count=3)) < set(ids()) and len(ids(count=3)) == 3
    assert len({tuple(ids(count=3, seed=seed)) for seed in range(8)}) > 1
    with pytest.raises(InputError, match="count: 9 wanted, the source has 7"):
        ids(count=9)


def test_a_source_in_the_package_takes_no_path(tmp_path):
    """A positional argument meant for the split was once an unused path, and an experiment used the wrong split."""
    with pytest.raises(InputError, match="path: world is in the package and takes none"):
        open_source(settings(tmp_path, "world", "test"))


@pytest.mark.parametrize(
    ("source", "field", "value"),
    [("world", "images", "x"), ("librispeech", "columns", {"answer": "a"}), ("jsonl", "instruction", "audio")],
)
def test_a_field_without_effect_is_refused(tmp_path, source, field, value):
    with pytest.raises(InputError, match=f"{field}: is for llava.*, not for {source}|columns: is for jsonl, datasets"):
        open_source(settings(tmp_path, source, "x", **{field: value}))


def test_conversations_without_images_are_no_source(tmp_path):
    turns = [{"from": "human", "value": "Write a poem."}, {"from": "gpt", "value": "Roses"}]
    (tmp_path / "text.json").write_text(json.dumps([{"id": "x", "conversations": turns}]))
    with pytest.raises(InputError, match=r"text.json: holds no question \(no image: 1\)"):
        synthesize(settings(tmp_path, "llava", tmp_path / "text.json"))


def test_json_lines_and_their_columns(tmp_path):
    (tmp_path / "a.png").write_bytes(IMAGE)
    lines = [{"query": "What is it?", "prediction": "A star.", "file": "a.png"}, {"query": "", "prediction": "?"}]
    lines.append({"query": "Say it.", "prediction": "It.", "file": ""})
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8-sig")  # as Windows has it
    columns = {"question": "query", "answer": "prediction", "image": "file"}
    config = settings(tmp_path, "jsonl", tmp_path / "mine.jsonl", images=str(tmp_path), columns=columns)
    manifest = synthesize(config)
    assert manifest["skipped_by_the_source"] == {"no question or answer": 1}
    first, second = ExampleFolder(config.output)
    assert (first.id, first.image, first.source) == ("mine-000000", IMAGE, "mine") and second.image is None


def test_zero_and_false_are_answers_and_blanks_are_not(tmp_path, capsys):
    answers = [0, False, 0.0, " ", None, [], ""]
    lines = [json.dumps({"question": "How many?", "answer": a, "category": 0}) for a in answers]
    lines += ['{"question": " ", "answer": "b"}', "", "  "]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines) + "\n\n")
    config = settings(tmp_path, "jsonl", tmp_path / "mine.jsonl")
    assert synthesize(config)["skipped_by_the_source"] == {"no question or answer": 5}
    assert [(e.answer, e.category) for e in ExampleFolder(config.output)] == [("0", "0"), ("false", "0"), ("0.0", "0")]
    assert "3 questions, 0 rejected; skipped by the source: no question or answer: 5" in capsys.readouterr().out


def test_rows_without_words_are_skipped_in_every_source(tmp_path):
    """Training would stop at an answer without words."""
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": " "}]
    (tmp_path / "l.json").write_text(json.dumps([{"image": "a", "conversations": turns}]))
    (tmp_path / "cv.tsv").write_text("client_id\tpath\tsentence\nx\ta.mp3\t \n")
    (tmp_path / "1-2.trans.txt").write_text("1-2-0\n")
    segment = {"sid": "a", "begin_time": 1.0, "end_time": 3.0, "text_tn": ""}
    (tmp_path / "g.json").write_text(json.dumps({"audios": [{"aid": "a", "path": "b", "segments": [segment]}]}))
    recording = {"sources": [{"type": "file", "source": "a.flac"}]}
    cut = {"id": "a", "start": 0, "duration": 1, "supervisions": [{"text": None}], "recording": recording}
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut) + "\n\n")
    for source, file in (
        ("llava", "l.json"), ("common-voice", "cv.tsv"), ("librispeech", ""), ("gigaspeech", "g.json"),
        ("lhotse", "cuts.jsonl"),
    ):  # fmt: skip
        opened = open_source(settings(tmp_path, source, tmp_path / file))
        assert (len(opened), opened.skipped) == (0, {"no question or answer": 1}), source


def test_a_dataset_by_its_columns(tmp_path):
    features = Features({"q": Value("string"), "a": Value("string"), "photo": Image()})
    rows = {"q": ["What is it?", "And this?"], "a": ["A star.", "The same."], "photo": [{"bytes": IMAGE}] * 2}
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "data" / "train.parquet")
    columns = {"question": "q", "answer": "a", "image": "photo"}
    source = open_source(settings(tmp_path, "datasets", tmp_path / "data", columns=columns))
    assert [source.example(i).question for i in range(2)] == rows["q"] and source.example(1).image == IMAGE
    with pytest.raises(InputError, match=r"columns: .*row 0 has no 'question'; there are q, a, photo"):
        open_source(settings(tmp_path, "datasets", tmp_path / "data"))


def test_unused_columns_are_not_decoded(tmp_path):
    """As the audio of our own folders, for which `datasets` needs torchcodec."""
    synthesize(SynthesizeConfig(tmp_path / "ours", count=2, processes=1))
    source = open_source(settings(tmp_path, "datasets", tmp_path / "ours"))
    assert [r.question for r in source.rows] == [e.question for e in ExampleFolder(tmp_path / "ours")]
    assert checked_image(source.example(0).image)
    with pytest.raises(InputError, match=r"row 0 has no 'prediction'; there are id, question.* audio"):
        open_source(settings(tmp_path, "datasets", tmp_path / "ours", columns={"answer": "prediction"}))
    with pytest.raises(InputError, match="'audio' is a dict, not text"):
        open_source(settings(tmp_path, "datasets", tmp_path / "ours", columns={"answer": "audio"}))


def test_a_table_of_paths_and_a_folder_of_images(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.csv").write_text("question,answer,image\nWhat is it?,A star.,a.png\nAnd this?,It.,\n")
    (tmp_path / "a.png").write_bytes(IMAGE)
    source = open_source(settings(tmp_path, "datasets", f"{tmp_path / 'mine'}/", images=str(tmp_path)))
    assert source.name == "mine" and [source.example(i).image for i in range(2)] == [IMAGE, None]


def test_a_split_of_a_dataset_by_its_own_name(tmp_path):
    for name in ("sft", "dpo"):
        rows = {"question": [f"What of {name}?"], "answer": ["It."]}
        Dataset.from_dict(rows).to_parquet(tmp_path / "data" / f"{name}.parquet")
    files = "".join(f"  - {{split: train_{name}, path: {name}.parquet}}\n" for name in ("sft", "dpo"))
    (tmp_path / "data" / "README.md").write_text(f"---\nconfigs:\n- config_name: one\n  data_files:\n{files}---\n")
    for path in (f"{tmp_path / 'data'}:one:train_dpo", f"{tmp_path / 'data'}::train_dpo[:100%]"):
        source = open_source(settings(tmp_path, "datasets", path, split="test"))
        assert [row.question for row in source.rows] == ["What of dpo?"]
    with pytest.raises(InputError, match=r"path: .*data:one:dev: .*Unknown split"):
        open_source(settings(tmp_path, "datasets", f"{tmp_path / 'data'}:one:dev"))
    with pytest.raises(InputError, match="Unknown split"):
        open_source(settings(tmp_path, "datasets", f"{tmp_path / 'data'}:one"))


def test_images_in_parquet_without_metadata(tmp_path):
    rows = {"question": ["What is it?"], "answer": ["A star."], "image": [{"bytes": IMAGE, "path": None}]}
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "data" / "train.parquet")
    assert open_source(settings(tmp_path, "datasets", tmp_path / "data")).example(0).image == IMAGE


def test_half_a_surrogate_pair_rejects_one_row(tmp_path):
    """JSON and Python can hold it, but no file in UTF-8 can."""
    lines = ['{"id": "a", "question": "What \\ud83d is it?", "answer": "b"}']
    lines += ['{"id": "b", "question": "What is it?", "answer": "\\ud83d"}']
    lines += ['{"id": "c", "question": "What is it?", "answer": "b"}']
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    manifest = synthesize(settings(tmp_path, "jsonl", tmp_path / "mine.jsonl"))
    assert manifest["rows"] == 1 and [r["id"] for r in manifest["rejected"]] == ["a", "b"]
    assert [r["reason"][:15] for r in manifest["rejected"]] == ["field question:", "field answer: n"]


def audio_clip(path, seconds=1.0, rate_hz=16_000, channels=1, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.repeat(np.resize(tone(seconds), round(seconds * rate_hz))[:, None], channels, axis=1)
    soundfile.write(path, samples, rate_hz, **more)


def test_librispeech(tmp_path):
    chapter = tmp_path / "LibriSpeech/train-clean-100/103/1240"
    audio_clip(chapter / "103-1240-0000.flac", 2.0)
    (chapter / "103-1240.trans.txt").write_text("103-1240-0000 MISSUS RACHEL AND I LIVED THERE\n")
    config = settings(tmp_path, "librispeech", tmp_path / "LibriSpeech")
    synthesize(config)
    (example,) = ExampleFolder(config.output)
    assert example.question == example.answer == example.spoken_text == "Missus rachel and I lived there"
    assert (example.question_type, example.voice, example.duration_seconds) == ("repeat", "103", 2.0)


def test_recordings_need_no_engine(tmp_path):
    """Neither its voices nor its files are checked, and the manifest names the speakers."""
    (tmp_path / "cv.tsv").write_text("client_id\tpath\tsentence\nann\ta.wav\tWie bitte?\nbob\tb.wav\tWo denn?\n")
    for name in "ab":
        audio_clip(tmp_path / "clips" / f"{name}.wav", 2.0)
    config = settings(tmp_path, "common-voice", tmp_path / "cv.tsv", language="de", engine="kokoro")
    manifest = synthesize(config)
    assert (manifest["engine_name"], manifest["engine_license"]) == ("recorded", "CC0-1.0")
    assert manifest["voice_names"] == ["ann", "bob"] and manifest["rows"] == 2
    assert main(["data", "publish", str(config.output), "--repo", "me/cv", "--license", "cc0-1.0", "--dry-run"]) == 0
    card = (config.output / "README.md").read_text()
    assert "| TTS engine | recorded |" in card and "| voices | 2: ann, bob |" in card and "espeak" not in card


def test_common_voice(tmp_path):
    audio_clip(tmp_path / "en/clips/common_voice_en_1.mp3", 2.0, 32_000, format="MP3")
    table = 'client_id\tpath\tsentence\tlocale\nabcdefabcdefabcdef\tcommon_voice_en_1.mp3\tIt is a "cat".\ten\n'
    (tmp_path / "en/validated.tsv").write_text(table)
    config = settings(tmp_path, "common-voice", tmp_path / "en/validated.tsv")
    synthesize(config)
    (example,) = ExampleFolder(config.output)
    assert example.question == 'It is a "cat".' and example.voice == "abcdefabcdef"
    assert example.duration_seconds == pytest.approx(2.0, abs=0.1)


def test_gigaspeech(tmp_path):
    audio_clip(tmp_path / "audio/podcast/P1/POD1.opus", 6.0, 16_000, format="OGG", subtype="OPUS")
    segments = [
        {"sid": "POD1_1", "begin_time": 1.0, "end_time": 3.0, "text_tn": "AS THEY SAY <COMMA> I GO <PERIOD>"},
        {"sid": "POD1_2", "begin_time": 3.0, "end_time": 4.0, "text_tn": "<MUSIC>"},
        {"sid": "POD1_3", "begin_time": 0.0, "end_time": 31.0, "text_tn": "LONG"},
    ]
    audio = {"aid": "POD1", "path": "audio/podcast/P1/POD1.opus", "segments": segments}
    (tmp_path / "GigaSpeech.json").write_text(json.dumps({"audios": [audio]}))
    config = settings(tmp_path, "gigaspeech", tmp_path / "GigaSpeech.json")
    manifest = synthesize(config)
    assert manifest["skipped_by_the_source"] == {"noise": 1, "over 30 s": 1}
    (example,) = ExampleFolder(config.output)
    assert example.question == "As they say, I go." and example.duration_seconds == 2.0


@pytest.mark.parametrize("zipped", [False, True])
def test_lhotse_cuts_and_libriheavy(tmp_path, zipped):
    audio_clip(tmp_path / "download/large/a.flac", 5.0)
    recording = {"id": "a", "sources": [{"type": "file", "channels": [0], "source": "download/large/a.flac"}]}
    supervision = {"id": "a_1", "speaker": "98", "text": "old", "custom": {"texts": ["The cat, at last.", "THE CAT"]}}
    cut = {"id": "large/a_1", "start": 1.5, "duration": 2.5, "supervisions": [supervision], "recording": recording}
    text = json.dumps(cut) + "\n" + json.dumps(cut | {"id": "b", "supervisions": []}) + "\n"
    path = tmp_path / ("cuts.jsonl.gz" if zipped else "cuts.jsonl")
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    config = settings(tmp_path, "lhotse", path)
    manifest = synthesize(config)
    assert manifest["skipped_by_the_source"] == {"not one supervision": 1}
    (example,) = ExampleFolder(config.output)
    assert (example.question, example.voice, example.duration_seconds) == ("The cat, at last.", "98", 2.5)


def test_cuts_that_are_damaged_are_named(tmp_path):
    cuts = "".join(json.dumps({"id": random.random()}) + "\n" for _ in range(500))
    packed = bytearray(gzip.compress(cuts.encode()))
    packed[20:30] = b"\xff" * 10
    (tmp_path / "cuts.jsonl.gz").write_bytes(packed)
    with pytest.raises(InputError, match=r"cuts.jsonl.gz: not lhotse's JSON lines \(Error -3"):
        open_source(settings(tmp_path, "lhotse", tmp_path / "cuts.jsonl.gz"))


def test_easy_vqa_is_shuffled_once(tmp_path, monkeypatch):
    shuffled = []
    draws = SimpleNamespace(Random=lambda key: shuffled.append(key) or random.Random(key))
    monkeypatch.setattr("selfkd.synthesis.sources.toy.random", draws)
    source = open_source(settings(tmp_path, "easy-vqa", "", split="test", seed=71))
    assert source.example(0).id != source.example(1).id and len(shuffled) == 1


def jpeg(width, height):
    buffer = io.BytesIO()
    PILImage.new("RGB", (width, height), "red").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("question_type", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_decoded_upright(question_type, orientation):
    """A camera held on its side stores the sensor's rows and an EXIF orientation."""
    exif, buffer = PILImage.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    left, right = PILImage.new("RGB", (32, 32), "red"), PILImage.new("RGB", (64, 32), "blue")
    right.paste(left, (0, 0))
    right.save(buffer, question_type, exif=exif)
    example = replace(toy_examples(1)[0], image=buffer.getvalue())
    expected = ImageOps.exif_transpose(PILImage.open(io.BytesIO(example.image))).convert("RGB")
    assert example.load_image().tobytes() == expected.tobytes()
    assert read_image(example.image, 10_000).tobytes() == expected.tobytes()
    size = (64, 32) if orientation < 5 else (32, 64)
    assert example.load_image().size == read_image(example.image, 10_000).size == size
    assert tuple(image_columns(example).values())[1:] == size


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("mode", ["RGB", "P", "LA", "L"])
def test_an_image_without_orientation_is_not_rotated(mode):
    buffer, broken = io.BytesIO(), io.BytesIO()
    PILImage.open(io.BytesIO(IMAGE)).convert(mode).save(buffer, "PNG")
    PILImage.open(io.BytesIO(IMAGE)).save(broken, "JPEG", exif=b"Exif\0\0MM\0*nonsense")
    for data in (buffer.getvalue(), broken.getvalue()):
        example = replace(toy_examples(1)[0], image=data)
        plain = PILImage.open(io.BytesIO(data)).convert("RGB")
        assert example.load_image().tobytes() == read_image(data, 10_000).tobytes() == plain.tobytes()
        assert tuple(image_columns(example).values())[1:] == plain.size


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (jpeg(200, 200)[:-500], "not a readable image"),
        (b"no image", "not a readable image"),
        (jpeg(9000, 9000), f"9000 x 9000 pixels are too many|exceeds limit of {MAX_PIXELS}"),
    ],
)
def test_unusable_images_are_refused(data, reason):
    with pytest.raises(InputError, match=f"field image: .*({reason})"):
        checked_image(data)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: audio_clip(p, 0), "holds no samples"),
        (lambda p: p.write_bytes(b"RIFF"), "not readable audio"),
        (lambda p: None, "not readable audio"),
        (lambda p: soundfile.write(p, np.zeros(32_000), 16_000), "silent"),
        (lambda p: soundfile.write(p, np.sign(tone(2.0)), 16_000, subtype="FLOAT"), "clipped"),
        (
            lambda p: soundfile.write(p, np.zeros((600 * 16_000, 8), np.int16), 16_000, format="FLAC"),
            "600 s of 8 channels are too much",
        ),
        (
            lambda p: soundfile.write(p, np.append(tone(2.0), np.nan), 16_000, subtype="FLOAT", format="WAV"),
            "NaN or infinite",
        ),
        (lambda p: audio_clip(p, 31.0), "31.0 s is over the encoder's window of 30 s"),
        (lambda p: audio_clip(p, 29.0), "29.0 s for 26 characters is not a plausible length"),
    ],
)
def test_unusable_recordings_are_rejected(tmp_path, make, reason):
    chapter = tmp_path / "LibriSpeech/1/2"
    chapter.mkdir(parents=True)
    make(chapter / "1-2-0.wav")
    (chapter / "1-2-0.wav").exists() and (chapter / "1-2-0.wav").rename(chapter / "1-2-0.flac")
    (chapter / "1-2.trans.txt").write_text("1-2-0 MISSUS RACHEL AND I LIVED THERE\n")
    audio_clip(chapter / "1-2-1.flac", 2.0)
    with (chapter / "1-2.trans.txt").open("a") as transcripts:
        transcripts.write("1-2-1 WHERE DO YOU LIVE\n")
    manifest = synthesize(settings(tmp_path, "librispeech", tmp_path / "LibriSpeech"))
    assert manifest["rows"] == 1 and reason in manifest["rejected"][0]["reason"], manifest["rejected"]
    assert manifest["rejected"][0]["id"] == "librispeech-1-2-0"


@pytest.mark.parametrize(("name", "make"), [
    ("eight channels at 96 kHz", lambda p: audio_clip(p, 2.0, 96_000, 8)),
    ("an mp3 named .wav", lambda p: audio_clip(p, 2.0, 16_000, format="MP3")),
])  # fmt: skip
def test_recordings_are_converted_to_mono_16_khz(tmp_path, name, make):
    make(tmp_path / "voices" / "mine-000000.wav")
    (tmp_path / "mine.jsonl").write_text('{"question": "What is in it?", "answer": "A star."}')
    changes = {"engine": "recorded", "engine_path": str(tmp_path / "voices"), "voices": "recorded"}
    config = settings(tmp_path, "jsonl", tmp_path / "mine.jsonl", **changes)
    assert synthesize(config)["rejected"] == []
    (example,) = ExampleFolder(config.output)
    assert example.samples().shape[0] == pytest.approx(32_000, abs=2_000)


@pytest.mark.parametrize(
    ("source", "text", "message"),
    [
        ("llava", "{", "does not begin like a JSON file of this source"),
        ("llava", "[{}, {", "record 0: field conversations"),
        ("llava", "", "does not begin like a JSON file"),
        ("llava", b'["\xff"]', "after record 0: not UTF-8"),
        ("llava", '[{"id": 1}]', "record 0: field conversations"),
        ("llava", '[{"image": "a", "conversations": ["x", "y"]}]', "record 0: .*turn 0 is not human's, then gpt's"),
        ("llava", '[{"image": "a", "conversations": [{"from": "human"}, {"from": "gpt"}]}]', "record 0: .*turn 0"),
        ("jsonl", "", "holds no question"),
        ("jsonl", '{"question": "a", "answer": ["b", "c"]}', "row 0: 'answer' is a list, not text"),
        ("jsonl", '{"question": "a", "answer": "b"}\nnonsense', "line 2: not JSON in UTF-8"),
        ("jsonl", b'{"question": "\xff"}', "line 1: not JSON in UTF-8"),
        ("jsonl", '{"question": "a"}', "row 0 has no 'answer'; there are question"),
        ("jsonl", '{"id": 1, "question": "a", "answer": "b"}\n' * 2, "field id: '1' of more than one row"),
        ("common-voice", "a\tb\n1\t2\n", "no column 'path'"),
        ("common-voice", b"client_id\tpath\tsentence\nx\ta.mp3\t\xff\n", "not a table in UTF-8"),
        ("common-voice", "client_id\tpath\tsentence\nx\ta.mp3\n", "line 2: fewer columns"),
        ("lhotse", "nonsense", "not lhotse's JSON lines"),
        ("lhotse", '{"id": 1}\n', "line 1: not in the published layout .*supervisions"),
        ("lhotse", "[1]\n", "line 1: not in the published layout"),
        ("gigaspeech", "nonsense", "does not begin like a JSON file"),
        ("gigaspeech", '{"audios": [1', "audio 0: not in the published layout|record 0: not JSON"),
        ("gigaspeech", '{"audios": [{"aid": "a", "path": "b"}]}', "audio 0: not in the published layout .*segments"),
        ("librispeech", "", "no such folder"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, source, text, message):
    (tmp_path / "file").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        synthesize(settings(tmp_path, source, tmp_path / "file"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [1, 7, 2**20])
def test_a_list_in_json_is_read_an_item_at_a_time(tmp_path, monkeypatch, size):
    """For any block size: items, numbers and characters of several bytes are split."""
    monkeypatch.setattr("selfkd.synthesis.sources.rows._READ_CHARACTERS", size)
    items = [{"a": ["x", {"b": "]é日"}]}, 12345, [], "text, text", None]
    for text in (json.dumps(items), json.dumps(items, indent=2, ensure_ascii=False)):
        (tmp_path / "list.json").write_text(text)
        assert list(json_records(tmp_path / "list.json", r"\s*\[?")) == items
    (tmp_path / "list.json").write_text(json.dumps(items)[:-30])
    with pytest.raises(InputError, match=r"list.json: record \d: not JSON"):
        list(json_records(tmp_path / "list.json"))


def test_transcripts_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "1-2.trans.txt").write_bytes(b"1-2-0 \xff\n")
    with pytest.raises(InputError, match=r"1-2.trans.txt: not text in UTF-8"):
        open_source(settings(tmp_path, "librispeech", tmp_path))


def test_a_truncated_parquet_file_is_named(tmp_path):
    path = tmp_path / "data" / "train.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"path: .*data: .*(corrupted|not a parquet)"):
        open_source(settings(tmp_path, "datasets", tmp_path / "data"))


def test_a_question_too_long_is_listed_with_its_reason(tmp_path):
    rows = [{"id": "long", "question": "why " * 5000, "answer": "b"}, {"id": "b", "question": "Why?", "answer": "b"}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = synthesize(settings(tmp_path, "jsonl", tmp_path / "mine.jsonl"))
    assert manifest["rejected"][0]["id"] == "long" and "too many to synthesize" in manifest["rejected"][0]["reason"]
    assert read_manifest(tmp_path / "out")["rows"] == 1


def test_without_any_accepted_row_the_command_gives_the_reason_and_can_be_run_again(tmp_path):
    def run(image, question="Why?"):
        row = {"id": "a", "question": question, "answer": "b", "image": image}
        (tmp_path / "mine.jsonl").write_text(json.dumps(row))
        synthesize(settings(tmp_path, "jsonl", tmp_path / "mine.jsonl", images=str(tmp_path)))

    with pytest.raises(
        InputError, match=r"out: all 1 questions were rejected \(field image: .*b.png: no such file\); no"
    ):
        run("b.png")
    with pytest.raises(InputError, match=r"all 1 questions were rejected .*no such file"):
        run("b.png")
    with pytest.raises(InputError, match=r"all 1 questions were rejected .*no words to synthesize"):
        run(None, "...")
    assert not list((tmp_path / "out").rglob("*.parquet")) and not (tmp_path / "out" / "manifest.json").exists()
    (tmp_path / "a.png").write_bytes(IMAGE)
    run("a.png")
    assert read_manifest(tmp_path / "out")["rows"] == 1


def test_audio_of_rejected_rows_is_kept_and_the_command_can_be_run_again(tmp_path):
    (tmp_path / "1-2.trans.txt").write_text("1-2-0 WHERE DO YOU LIVE\n")
    soundfile.write(tmp_path / "1-2-0.flac", np.sign(tone(2.0)), 16_000)
    config = settings(tmp_path, "librispeech", tmp_path)
    for _ in range(2):
        with pytest.raises(InputError, match=r"all 1 questions were rejected .*clipped.*their audio is in .*rejected"):
            synthesize(config)
    (refused,) = (tmp_path / "out" / "rejected").iterdir()
    assert pq.read_table(refused)["rejected"][0].as_py().startswith("field audio: clipped")
    audio_clip(tmp_path / "1-2-0.flac", 2.0)
    manifest = synthesize(config)
    assert (manifest["rows"], manifest["rejected"], manifest["rejected_shards"]) == (1, [], [])


def test_a_folder_resumes_only_with_its_own_questions(tmp_path):
    file = tmp_path / "mine.jsonl"
    rows = [{"id": name, "question": f"Is it {name}?", "answer": "yes", "image": None} for name in "abc"]
    config = settings(tmp_path, "jsonl", file, shard_rows=2, images=str(tmp_path))
    file.write_text("\n".join(map(json.dumps, rows)))
    synthesize(config)
    manifest = (tmp_path / "out" / "manifest.json").read_bytes()
    file.write_text("\n" + "\n".join(map(json.dumps, rows)) + "\n")  # the same rows
    synthesize(config)
    for change, field in ((rows[:2], "source_rows: 3 there, 2 here"), (
        [*rows[:2], rows[2] | {"answer": "no"}], "source_sha256: "), ([*rows[:2], rows[2] | {"image": "b.png"}], "sou"),
    ):  # fmt: skip
        file.write_text("\n".join(map(json.dumps, change)))
        with pytest.raises(InputError, match=f"out: its questions are not those of the source now .{field}"):
            synthesize(config)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest


def test_the_hash_of_a_source_covers_which_row_has_which_image(tmp_path):
    rows = {"question": ["Is it?", "Is it?"], "answer": ["a", "b"], "image": [{"bytes": IMAGE}, None]}
    features = Features({"question": Value("string"), "answer": Value("string"), "image": Image()})
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "data" / "train.parquet")
    source = open_source(settings(tmp_path, "datasets", tmp_path / "data"))
    first, second = source.rows
    swapped = (first._replace(image=None), second._replace(image=first.image))
    assert source.sha256() == open_source(settings(tmp_path, "datasets", tmp_path / "data")).sha256()
    assert source.sha256() != RowSource("x", swapped).sha256()
    question_types = [
        IMAGE,
        tmp_path / "a.png",
        ImageInFolder(tmp_path, "b.png"),
        ImageInParquet(str(tmp_path / "c"), 0, 1, "image"),
    ]
    assert len({RowSource("x", (first._replace(image=image),)).sha256() for image in question_types}) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "validation"}, "split: easy-vqa has train and test"),
        ({"split": "validation", "count": 5}, "split: easy-vqa has train and test"),
        ({"count": 50_000}, "count: 50000 wanted, easy-vqa has 38575 train questions"),
    ],
)
def test_missing_parts_of_easy_vqa_are_an_error_at_once(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        synthesize(settings(tmp_path, "easy-vqa", "", **changes))
    assert not (tmp_path / "out").exists()
    assert len(open_source(settings(tmp_path, "easy-vqa", "", split="test"))) == 9673
