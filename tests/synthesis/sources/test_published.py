"""Published sets with recorded questions: each from a copy in its published layout to its gap between modalities."""

import json

import pytest
from published_layouts import (
    CLIPS,
    COPIES,
    captions_database,
    json_lines,
    lyra_mmvet,
    lyra_textvqa,
    omnibench,
    spokenvisit,
)
from published_sets import IMAGES, gap_of, modality_counts, recorded, synthesized, write_file

from selfkd.data.trace import trace_of
from selfkd.errors import InputError
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.sources.caption_corpora import split_of_image
from selfkd.synthesis.sources.registry import open_source


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """{name: (copy, manifest, examples)}, the scores of the tiny model on all of them, and their run."""
    folder, made = tmp_path_factory.mktemp("sets"), {}
    with pytest.MonkeyPatch.context() as patch:
        # shards are made in this process: the pool is not the subject
        run_here = lambda stage, jobs, *_: (stage(*job) for job in jobs)  # noqa: E731
        patch.setattr("selfkd.synthesis.synthesize.run_jobs", run_here)
        for name, make in COPIES.items():
            copy = make(folder / "published" / name)
            made[name] = copy, *synthesized(folder / name, name, copy.path, **copy.settings)
    return made, gap_of([folder / name for name in COPIES], folder), folder / "eval"


@pytest.mark.slow
@pytest.mark.parametrize("name", COPIES)
def test_from_the_published_layout_to_the_gap(sets, name):
    (copy, manifest, examples), compared, run = sets[0][name], sets[1], sets[2]
    assert manifest["rejected"] == [] and manifest["skipped_by_the_source"] == (copy.skipped or {})
    assert [e.question for e in examples] == [e.spoken_text for e in examples] == copy.questions
    assert [e.target for e in examples] == copy.targets and examples[0].question_type == copy.question_type
    assert [e.duration_seconds for e in examples] == pytest.approx(copy.seconds, abs=0.05)  # MP3 has padding
    assert all(e.image for e in examples) or name.startswith("voicebench")
    assert (manifest["engine"], manifest["engine_name"]) == ("recorded", "recorded")
    assert manifest["source_license"] not in ("", "not stated")
    assert modality_counts(compared, name) == (len(examples),) * 3
    for modality in ("text", "audio"):
        samples = read_samples(samples_path(run, name, modality))
        assert [s["id"] for s in samples] == [e.id for e in examples] and not any(s["error"] for s in samples)


def test_a_published_set_needs_no_engine_and_names_the_text_it_leaves_out(tmp_path):
    copy = lyra_textvqa(tmp_path / "TextVQA_speech")
    manifest, examples = synthesized(tmp_path / "out", "lyra-textvqa", copy.path)
    assert manifest["source_notes"] == ["reference OCR tokens are left out, in both modalities"]
    assert not any("OCR" in text for e in examples for text in (e.instruction, e.question, e.answer_format))
    assert {e.answer_format for e in examples} == {"\nAnswer the question using a single word or phrase."}
    assert json.loads(examples[0].details) == {"answers": ["stop"] * 10}


def test_the_sound_is_content_and_the_question_stays_text(tmp_path):
    copy = omnibench(tmp_path / "omnibench")
    _, examples = synthesized(tmp_path / "out", "omnibench", copy.path)
    assert examples[0].question == "Let us begin number 0" and examples[0].category == "Action"
    expected = "\nWhat will they do?\nA. run\nB. sit\nC. sing\nD. sleep\n"
    assert examples[0].answer_format == f"{expected}Answer with the option's letter from the given choices directly."


def test_options_read_aloud_are_the_query_and_the_question_stays_text(tmp_path):
    copy = COPIES["xmodbench-recognition"](tmp_path / "repository" / "benchmark")
    manifest, (example,) = synthesized(tmp_path / "out", "xmodbench-recognition", copy.path.parent)
    assert example.instruction == (
        "Which option most likely matches the text shown in the image?\n"
        "The four options A, B, C and D follow in this order.\n"
    )
    assert example.answer_format == "\nAnswer the question with A, B, C, or D"
    assert json.loads(example.details)["options"]["B"] == "I like to spray guitar."
    assert "without their letters" in manifest["source_notes"][0] and "MIT" in manifest["source_license"]


def open_set(tmp_path, name, path, **changes):
    return open_source(SynthesizeConfig(tmp_path / "o", name, str(path), **({"count": 0} | changes)))


def test_other_columns_are_named_and_replaced_on_the_command_line(tmp_path):
    copy = spokenvisit(tmp_path / "SpokenVisIT")
    rows = [json.loads(line) for line in (copy.path / "VisIT_speech.jsonl").read_text().splitlines()]
    rows = [row | {"gpt4_answer": row.pop("reference_output")} for row in rows]
    json_lines(copy.path / "VisIT_speech.jsonl", rows)
    with pytest.raises(InputError, match=r"no column 'reference_output', which spokenvisit had .*there are id, .*gpt4"):
        open_set(tmp_path, "spokenvisit", copy.path)
    source = open_set(tmp_path, "spokenvisit", copy.path, columns={"answer": "gpt4_answer"})
    assert [row.answer for row in source.rows] == copy.targets
    with pytest.raises(InputError, match="columns: 'speaker' is no field; there are id, question, answer"):
        open_set(tmp_path, "spokenvisit", copy.path, columns={"speaker": "x"})


def test_columns_of_parquet_are_checked_before_its_rows_are_read(tmp_path):
    copy = omnibench(tmp_path / "omnibench")
    with pytest.raises(InputError, match=r"no column 'user_audio_0', which voiceassistant-eval had .*there are index"):
        open_set(tmp_path, "voiceassistant-eval", copy.path, columns={"question": "question"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "annotations: .*TextVQA_0.5.1_val.json: no such file; lyra-textvqa has its answers in"),
        ('{"data": [{"image_id": "ab", "question": "What?"}]}', "record 0: other fields .*answers"),
        ('{"data": [3]}', "record 0: other fields"),
        ("[]", "does not begin like a JSON file of this source"),
    ],
)
def test_missing_and_other_annotations_are_named(tmp_path, content, message):
    copy = lyra_textvqa(tmp_path / "TextVQA_speech")
    file = copy.path / "TextVQA_0.5.1_val.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(InputError, match=message):
        open_set(tmp_path, "lyra-textvqa", copy.path)


def test_open_answers_keep_their_alternatives_for_a_judge(tmp_path):
    copy = lyra_mmvet(tmp_path / "MM_vet_speech")
    first, second = open_set(tmp_path, "lyra-mmvet", copy.path).rows
    assert json.loads(first.details) == {"reference": "-1 <AND> -5 <OR> x=-1 or -5"} and first.answer == "-1 -5"
    assert second.details == "" and second.answer == "a dog"
    copy = COPIES["voiceassistant-eval"](tmp_path / "assistant")
    open_one = open_set(tmp_path, "voiceassistant-eval", copy.path, **copy.settings).rows[1]
    assert json.loads(open_one.details) == {"reference": "red <OR> dark red"}


def test_a_part_of_a_set_without_its_questions_is_named(tmp_path):
    copy = lyra_mmvet(tmp_path / "MM_vet_speech")
    with pytest.raises(InputError, match=r"lyra_docvqa_audio.jsonl: no such file; lyra-docvqa is read from the folder"):
        open_set(tmp_path, "lyra-docvqa", copy.path)
    assert len(open_set(tmp_path, "lyra-mmvet", copy.path / "lyra_mm_vet.jsonl").rows) == 2


def test_names_in_a_set_do_not_lead_out_of_its_folders(tmp_path):
    write_file(tmp_path / "secret.wav", CLIPS[0])
    copy = spokenvisit(tmp_path / "SpokenVisIT")
    rows = [json.loads(line) for line in (copy.path / "VisIT_speech.jsonl").read_text().splitlines()]
    rows[0]["speech"], rows[1]["image"] = "../../secret.wav", "../speech/0.wav"
    rows.append(rows[0] | {"id": 9, "speech": "0.wav", "image": "images0.jpg"})
    json_lines(copy.path / "VisIT_speech.jsonl", rows)
    manifest, examples = synthesized(tmp_path / "out", "spokenvisit", copy.path)
    assert [e.id for e in examples] == ["spokenvisit-9"]
    assert all("leads out of the folder" in r["reason"] for r in manifest["rejected"])
    assert len(manifest["rejected"]) == 2


def test_an_image_has_one_split_in_all_corpora():
    names = ("val2014/COCO_val2014_000000325114.jpg", "COCO_train2014_000000325114.jpg", "325114", "000000325114.jpg")
    assert len({split_of_image(name) for name in names}) == 1
    splits = [split_of_image(str(number)) for number in range(3000)]
    assert [round(splits.count(part) / 3000, 1) for part in ("train", "validation", "test")] == [0.7, 0.1, 0.2]


def test_each_word_of_a_narrative_has_its_trace(tmp_path):
    copy = COPIES["localized-narratives"](tmp_path / "narratives")
    _, (first, second) = synthesized(tmp_path / "out", "localized-narratives", copy.path, **copy.settings)
    words = trace_of(first)
    assert words[0] == {
        "utterance": "A large brown dog with a red collar", "start": 0.0, "stop": 8.5, "points": [[0.333, 0.0]],
    }  # fmt: skip
    assert [word["points"] for word in words[1:]] == [[], [], []]
    # times are those of the audio, which is a part of the recording
    assert trace_of(second) == [
        {"utterance": "I see", "start": 0.0, "stop": 1.0, "points": []},
        {"utterance": "a ball.", "start": 1.0, "stop": 3.0, "points": [[0.1, 0.2]]},
    ]
    assert " ".join(word["utterance"] for word in words) == first.question


def test_captions_of_an_image_stay_in_one_split(tmp_path):
    copy = COPIES["spoken-coco"](tmp_path / "coco")
    parts = {s: open_set(tmp_path, "spoken-coco", copy.path, split=s).rows for s in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == 11
    images = {s: {row.id.rpartition("-")[0] for row in rows} for s, rows in parts.items()}
    assert not any(images[a] & images[b] for a in parts for b in parts if a < b)


@pytest.mark.parametrize("name", ["spoken-coco", "speech-coco", "localized-narratives", "flickr8k-audio"])
def test_a_speaker_is_in_one_split_only(tmp_path, name):
    copy = COPIES[name](tmp_path / name)
    parts = {}
    for split in ("train", "validation", "test"):
        settings = copy.settings | {"split": split, "split_by": "speaker"}
        parts[split] = {row.speaker for row in open_set(tmp_path, name, copy.path, **settings).rows}
    every = [speaker for speakers in parts.values() for speaker in speakers]
    assert every and len(every) == len(set(every)) and "" not in every
    with pytest.raises(InputError, match=r"split_by: is for spoken-coco, speech-coco, .*, not for words"):
        open_source(SynthesizeConfig(tmp_path / "o", "words", split_by="speaker"))


def test_captions_without_a_speaker_are_counted(tmp_path):
    copy = COPIES["flickr8k-audio"](tmp_path / "f")
    (copy.path / "wav2spk.txt").write_text("")
    source = open_set(tmp_path, "flickr8k-audio", copy.path, **copy.settings | {"split_by": "speaker"})
    assert len(source) == 0 and source.skipped == {"no speaker": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a folder with one database of SPEECH-COCO"),
        (b"", "not a database of SPEECH-COCO .no such table: captions"),
        (b"SQLite format 3\0" + b"\1" * 90, "not a database of SPEECH-COCO"),
        (captions_database([(1, None, "a.wav", "A dog.", "Phil")]), "caption 1: not in the published layout"),
    ],
)
def test_other_databases_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "train_2014.sqlite3").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_set(tmp_path, "speech-coco", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("spoken-coco", "a.json", '{"data": [{"image": "a.jpg"}]}', "record 0: not in the published layout .*captions"),
        ("spoken-coco", "a.json", "[]", "does not begin like a JSON file"),
        ("localized-narratives", "a.jsonl", '{"image_id": "a"}', "record 0: not in the published layout"),
        ("flickr8k-audio", "wav2capt.txt", "a.wav a.jpg", "annotations: flickr8k-audio comes without its captions"),
    ],
)
def test_other_layouts_of_caption_corpora_are_named(tmp_path, name, file, content, message):
    (tmp_path / file).write_text(content)
    path = tmp_path if name == "flickr8k-audio" else tmp_path / file
    with pytest.raises(InputError, match=message):
        open_set(tmp_path, name, path, split="train")


def test_lines_of_flickr8k_audio_with_too_few_fields_are_named(tmp_path):
    copy = COPIES["flickr8k-audio"](tmp_path / "f")
    (copy.path / "wav2capt.txt").write_text("a.wav a.jpg\n")
    with pytest.raises(InputError, match=r"wav2capt.txt: line 1: 2 fields, expected 3"):
        open_set(tmp_path, "flickr8k-audio", copy.path, **copy.settings)


def test_a_name_without_an_extension_is_that_of_any_audio_file(tmp_path):
    copy = lyra_mmvet(tmp_path / "MM_vet_speech")
    audio = copy.path / "lyra_audios"
    (audio / "v1_0.mp3").unlink()
    write_file(audio / "v1_0.wav", recorded(2.4))
    _, examples = synthesized(tmp_path / "out", "lyra-mmvet", copy.path)
    assert [round(e.duration_seconds, 1) for e in examples] == [2.4, 1.8] and examples[0].image == IMAGES[0]
