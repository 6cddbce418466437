"""Folders of recordings: what is in them after each change, also where a process is killed or the disk is full, and
sources, names and mappings that are wrong."""

import csv
import json
import resource
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from recordings import SPEAKER, config_of, same_question, speech, wav, write_questions

from selfkd.cli import main
from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.files import is_disk_full
from selfkd.json_files import read_json, read_json_lines
from selfkd.recording.config import RecordConfig
from selfkd.recording.folder import RecordingFolder, check_speaker, existing, opened
from selfkd.recording.record import record
from selfkd.recording.sentences import Sentence
from selfkd.synthesis.synthesize import synthesize

QUESTION = "What color is the circle?"
DAY = "2026-01-31"


@pytest.fixture(scope="module")
def questions():
    return same_question(QUESTION, 3)


@pytest.fixture(scope="module")
def voice():
    return 0.4 * speech(QUESTION)


@pytest.fixture
def table(tmp_path, questions):
    return write_questions(tmp_path / "source", questions)


@pytest.fixture
def config(table, tmp_path):
    return config_of(table, tmp_path / "mine", microphone=False)


@pytest.fixture
def recordings(config):
    with opened(config) as folder:
        yield folder


def rows_of(folder):
    return list(read_json_lines(folder.table)) if folder.table.is_file() else []


def test_nothing_is_recorded_before_consent(recordings, voice):
    with pytest.raises(InputError, match="has not agreed to the consent text"):
        recordings.add(SPEAKER, recordings.sentences[0], voice, 16_000)
    with pytest.raises(InputError, match="the text has changed"):
        recordings.agree(SPEAKER, "another text")
    assert not (recordings.folder / "audio").exists() and not (recordings.folder / "consents.json").exists()
    recordings.agree(SPEAKER, recordings.settings["consent"])
    stored = read_json(recordings.folder / "consents.json")[SPEAKER]
    assert stored["text"] == recordings.settings["consent"] and stored["agreed"].startswith("20")
    recordings.add(SPEAKER, recordings.sentences[0], voice, 16_000)
    assert [row["speaker"] for row in rows_of(recordings)] == [SPEAKER]


def test_rows_hold_all_fields_of_the_source(recordings, questions, voice):
    for speaker in ("b", "a"):
        recordings.agree(speaker, recordings.settings["consent"])
        for sentence in recordings.sentences[1:]:
            recordings.add(speaker, sentence, voice, 16_000)
    rows = rows_of(recordings)
    assert [row["id"] for row in rows] == ["q/1-a", "q/2-a", "q/1-b", "q/2-b"]
    for row, example in zip(rows, questions[1:] * 2, strict=True):
        assert (row["question"], row["answer"]) == (example.question, example.target)
        assert row["question_type"] == example.question_type
        assert (recordings.folder / row["image"]).read_bytes() == example.image
        samples, rate_hz = soundfile.read(recordings.folder / row["speech"], dtype="float32")
        assert rate_hz == 16_000 and np.abs(samples - voice).max() < 1e-4


def test_a_dataset_of_recordings_has_their_speakers_and_license(config, voice, tmp_path):
    config = replace(config, license="CC-BY-4.0")
    with opened(config) as recordings:
        recordings.agree(SPEAKER, recordings.settings["consent"])
        for sentence in recordings.sentences:
            recordings.add(SPEAKER, sentence, np.repeat(voice, 3), 48_000)
    manifest = synthesize(
        output=tmp_path / "data", source="jsonl", path=config.output / "questions.jsonl", images=config.output, count=0,
        split="test", source_license="CC-BY-4.0", processes=1,
    )  # fmt: skip
    assert manifest["rows"] == 3 and manifest["voice_names"] == [SPEAKER]
    assert manifest["engine_license"] == "CC-BY-4.0" and manifest["rejected"] == []
    examples = ExampleFolder(tmp_path / "data")
    assert [e.voice for e in examples] == [SPEAKER] * 3
    assert examples[0].duration_seconds == pytest.approx(len(voice) / 16_000, abs=0.01)


def test_the_same_command_resumes(config, voice):
    with opened(config) as recordings:
        recordings.agree(SPEAKER, recordings.settings["consent"])
        recordings.add(SPEAKER, recordings.sentences[1], voice, 16_000)
    with opened(config) as again:
        assert again.recorded(SPEAKER) == {again.sentences[1].id} and again.has_agreed(SPEAKER)
    with opened(RecordConfig(config.output)) as without_source:
        assert without_source.progress() == {SPEAKER: 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 2}, "was begun with another sentences of the source"),
        ({"language": "de"}, "was begun with another language"),
        ({"license": "MIT"}, "license: MIT: .* was begun with none"),
    ],
)
def test_another_source_is_refused(config, recordings, change, message):
    with pytest.raises(InputError, match=message), opened(replace(config, **change)):
        pass


def test_a_changed_consent_text_needs_consent_again(config, tmp_path):
    text = tmp_path / "consent.txt"
    text.write_text("I agree.")
    config = replace(config, consent=str(text))
    with opened(config) as recordings:
        recordings.agree(SPEAKER, "I agree.")
    text.write_text("I agree to more.")
    with pytest.raises(InputError, match=r"not the text that .* was begun with"), opened(config):
        pass
    settings = read_json(config.output / "recording.json")
    (config.output / "recording.json").write_text(json.dumps(settings | {"consent": "I agree to more."}))
    with existing(config.output) as recordings:
        assert not recordings.has_agreed(SPEAKER)


def test_a_killed_process_loses_nothing(config, voice, monkeypatch):
    """Killed between the audio file and the table, and within the audio file."""
    with opened(config) as recordings:
        recordings.agree(SPEAKER, recordings.settings["consent"])
        recordings.add(SPEAKER, recordings.sentences[0], voice, 16_000)
        monkeypatch.setattr(RecordingFolder, "write_table", lambda self: None)
        recordings.add(SPEAKER, recordings.sentences[1], voice, 16_000)
        assert len(rows_of(recordings)) == 1
        half = recordings.path(SPEAKER, recordings.sentences[2])
        half.with_name(f".{half.name}.abcd").write_bytes(b"fLaC")
    monkeypatch.undo()
    with opened(config) as again:
        assert [row["id"] for row in rows_of(again)] == [f"q/0-{SPEAKER}", f"q/1-{SPEAKER}"]
        assert sorted(p.suffix for p in (again.folder / "audio" / SPEAKER).iterdir()) == [".flac", ".flac"]


@contextmanager
def files_of_at_most(size):
    """As a full disk: the system refuses to write beyond `size` bytes of a file (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_earlier_recordings(recordings, voice):
    recordings.agree(SPEAKER, recordings.settings["consent"])
    recordings.add(SPEAKER, recordings.sentences[0], voice, 16_000)
    path = recordings.path(SPEAKER, recordings.sentences[0])
    before = {p: p.read_bytes() for p in (path, recordings.table)}
    for sentence in recordings.sentences[:2]:
        with files_of_at_most(1000), pytest.raises(OSError) as error:
            recordings.add(SPEAKER, sentence, voice[::-1], 16_000)
        assert is_disk_full(error.value)
    assert {p: p.read_bytes() for p in before} == before
    assert list(path.parent.iterdir()) == [path]
    with files_of_at_most(10), pytest.raises(OSError):
        recordings.agree("another", recordings.settings["consent"])
    assert not recordings.has_agreed("another")


# sources


def test_a_source_without_sentences_is_refused(tmp_path, table):
    table.write_text("")
    with pytest.raises(InputError, match="has no sentence to read"), opened(config_of(table, tmp_path / "mine")):
        pass
    table.write_text('{"question": "", "answer": "red"}\n')
    with pytest.raises(InputError, match="has no sentence to read"), opened(config_of(table, tmp_path / "mine")):
        pass
    assert not (tmp_path / "mine").exists()
    with pytest.raises(InputError, match="source: missing"), opened(RecordConfig(tmp_path / "mine")):
        pass


def test_sentences_without_an_image_and_with_a_broken_one(table, tmp_path, capsys):
    lines = table.read_text().splitlines()
    without = json.loads(lines[0]) | {"id": "without", "image": ""}
    broken = json.loads(lines[1]) | {"id": "broken", "image": "broken.png"}
    outside = json.loads(lines[2]) | {"id": "outside", "image": "../questions.jsonl"}
    (table.parent / "images" / "broken.png").write_bytes(b"\x89PNG nonsense")
    table.write_text("".join(json.dumps(row) + "\n" for row in (without, broken, outside)))
    result = record(config_of(table, tmp_path / "mine", microphone=False))
    assert result["sentences"] == 1 and result["speakers"] == {}
    assert "2 sentences cannot be read and are left out, the first: broken: " in capsys.readouterr().out
    with existing(tmp_path / "mine") as recordings:
        assert [(s.id, s.image) for s in recordings.sentences] == [("without", "")]
        assert [one["id"] for one in recordings.settings["left_out"]] == ["broken", "outside"]


@pytest.mark.parametrize("name", ["other", "file", "file/below"])
def test_a_folder_of_others_is_left_as_it_is(table, tmp_path, name):
    (tmp_path / "other").mkdir()
    for path in ("other/thing", "file"):
        (tmp_path / path).write_bytes(b"of others")
    output, given = str(tmp_path / name), ("--path", str(table), "--images", str(table.parent / "images"))
    assert main(["record", "--source", "jsonl", *given, "--microphone", "false", "--output", output]) == 2
    assert (tmp_path / "file").read_bytes() == b"of others" and len(list((tmp_path / "other").iterdir())) == 1


def test_recorded_questions_are_not_recorded_again(table, tmp_path):
    (table.parent / "a.wav").write_bytes(wav(np.zeros(100)))
    table.write_text('{"question": "a?", "answer": "b", "speech": "a.wav"}\n')
    with pytest.raises(InputError, match="recorded already"), opened(config_of(table, tmp_path / "mine")):
        pass


@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
def test_names_of_files_are_safe_and_of_one_sentence(one, other):
    stems = {Sentence(name, "a?", "b").file_stem for name in (one, other)}
    assert len(stems) == len({one, other})
    for stem in stems:
        assert len(stem) < 60 and stem.replace("-", "").isalnum() and stem.isascii()


PATHS = ["../a", "a/b", "/etc/passwd", "", " ", ".", "..", ".hidden", "con", "a\0b", "a" * 300, "a\nb"]


@pytest.mark.parametrize("name", PATHS)
def test_a_name_that_is_a_path_is_refused(recordings, name):
    with pytest.raises(InputError, match=r"^speaker: .* cannot be a speaker's name"):
        check_speaker(name)
    with pytest.raises(InputError, match="cannot be a speaker's name"):
        recordings.agree(name, recordings.settings["consent"])
    with pytest.raises(InputError):
        recordings.path(name, recordings.sentences[0])
    assert not (recordings.folder / "consents.json").exists()


def test_two_names_of_one_folder_and_a_link_are_refused(recordings, voice, tmp_path):
    recordings.agree("anna", recordings.settings["consent"])
    with pytest.raises(InputError, match="are one name on some systems"):
        recordings.agree("Anna", recordings.settings["consent"])
    (recordings.folder / "audio").mkdir()
    (recordings.folder / "audio" / "anna").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads out of the folder"):
        recordings.add("anna", recordings.sentences[0], voice, 16_000)


@pytest.mark.parametrize(
    "damage",
    [{"sentences": []}, {"consent": ""}, {"name": "../a"}, {"sentences": [{"id": 3}]}],
)
def test_a_damaged_folder_is_refused(config, recordings, damage):
    path = config.output / "recording.json"
    path.write_text(json.dumps(read_json(path) | damage))
    with pytest.raises(InputError):
        RecordingFolder(config.output)


# a reading list, and files by a mapping


def fill_in(path, files, rows):
    """The reading list with (file, speaker, date) of each sentence."""
    with path.open(newline="") as file:
        listed = list(csv.DictReader(file))
    for row, (name, speaker, day) in zip(listed, rows, strict=True):
        row |= {"file": name, "speaker": speaker, "consent_date": day}
    with (files / "filled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, listed[0])
        writer.writeheader()
        writer.writerows(listed)
    return files / "filled.csv"


@pytest.fixture
def files(tmp_path, voice):
    folder = tmp_path / "phone"
    (folder / "2026").mkdir(parents=True)
    (folder / "2026" / "Voice 001.wav").write_bytes(wav(np.repeat(voice, 3), 48_000))
    soundfile.write(folder / "x.flac", voice, 16_000)
    (folder / "loud.wav").write_bytes(wav(np.clip(50 * voice, -1, 1)))
    return folder


def test_files_of_any_names_become_recordings(config, files, tmp_path, capsys):
    record(config)
    page = (config.output / "reading_list.html").read_text()
    assert page.count("<li>") == 3 and QUESTION in page and "I agree that my voice" in page and "images/" in page
    rows = [("2026/Voice 001.wav", "ben", DAY), ("loud.wav", "ben", DAY), ("3.wav", "", "")]
    mapping = fill_in(config.output / "reading_list.csv", files, rows)
    capsys.readouterr()
    result = record(output=config.output, files=files, mapping=mapping)
    assert result["speakers"] == {"ben": 1}
    assert len(result["refused"]) == 1 and result["refused"][0].startswith("loud.wav: too loud: ")
    out = capsys.readouterr().out
    assert "not kept: loud.wav: too loud" in out and "ben: 1 of 3 sentences recorded" in out
    assert "selfkd synthesize" in out
    assert read_json(config.output / "consents.json")["ben"] == {
        "text": read_json(config.output / "recording.json")["consent"], "agreed": DAY, "on_paper": True
    }  # fmt: skip
    rows[1] = ("x.flac", "carla", DAY)
    result = record(output=config.output, files=files, mapping=fill_in(config.output / "reading_list.csv", files, rows))
    assert result["speakers"] == {"ben": 1, "carla": 1} and result["refused"] == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("x.flac", "", DAY), "row 2: speaker ''"),
        (("x.flac", "ben", ""), "row 2: consent_date ''"),
        (("x.flac", "ben", "31.1.2026"), "row 2: consent_date"),
        (("x.flac", "ben", "2999-01-01"), "row 2: consent_date"),
        (("../source/questions.jsonl", "ben", DAY), "row 2: file .*leads out of the folder"),
        (("/etc/passwd", "ben", DAY), "row 2: file .*leads out of the folder"),
        (("x.flac", "../ben", DAY), "cannot be a speaker's name"),
        (("none.wav", "ben", DAY), "none of 1 recordings can be kept, the first: none.wav: no such file"),
        (("2026", "ben", DAY), "none of 1 recordings can be kept"),
    ],
)
def test_a_wrong_mapping_is_refused(config, files, row, message):
    record(config)
    mapping = fill_in(config.output / "reading_list.csv", files, [row, ("", "", ""), ("", "", "")])
    with pytest.raises(InputError, match=message):
        record(output=config.output, files=files, mapping=mapping)
    assert not (config.output / "audio").exists()


def test_mappings_without_rows_or_columns_are_refused(config, files):
    record(config)
    mapping = files / "m.csv"
    for text, message in (
        ("id,file\n1,x.flac\n", "no column 'speaker'"),
        ("id,file,speaker,consent_date\n", "no row has a file"),
        ("id,file,speaker,consent_date\n1,2\n", "^mapping: .* line 2: other columns than the 4"),
        (f"id,file,speaker,consent_date\nnone,x.flac,ben,{DAY}\n", "id 'none' is none of the 3 sentences"),
        (f"id,file,speaker,consent_date\n{2 * f'q/0,x.flac,ben,{DAY}{chr(10)}'}", "a second time"),
    ):
        mapping.write_text(text)
        with pytest.raises(InputError, match=message):
            record(output=config.output, files=files, mapping=mapping)
    with pytest.raises(InputError, match=r"neither \.csv nor \.tsv"):
        record(output=config.output, files=files, mapping=files / "x.flac")
    with pytest.raises(InputError, match="mapping: missing"):
        RecordConfig(config.output, files=str(files))
