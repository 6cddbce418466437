"""Tux Paint's stamps: recordings of a language, splits by subject, false captions that are false."""

import io

import numpy as np
import pytest
import soundfile
from examples import tone
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.evaluation.grading import check_gradable
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.sources.rows import PAUSE_SECONDS, Clip, read_clips
from selfkd.synthesis.sources.stamps import Stamp, read_stamps, stamps, stamps_mmalign
from selfkd.synthesis.synthesize import synthesize

ANIMALS = ("koala", "wombat", "yak", "zebra", "otter", "owl", "lynx", "mole", "newt", "crow", "seal", "toad")
LETTERS = "symbols/alphabets/english/filled/uppercase"
SPLITS = ("train", "validation", "test")


def add_stamp(folder, name, english, spanish="", languages=("_es",), image=True):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [english, "de.utf8=", f"es.utf8={spanish}" if spanish else "# no translation", "odd line"]
    path.with_suffix(".txt").write_text("\n".join(lines), encoding="utf-8")
    if image:
        buffer = io.BytesIO()
        Image.new("RGBA", (8, 8), (len(name), 0, 0, 128)).save(buffer, "PNG")
        path.with_suffix(".png").write_bytes(buffer.getvalue())
    for number, language in enumerate(languages):
        soundfile.write(path.parent / f"{path.name}_desc{language}.ogg", tone(0.5, 200 + number), 16_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stamps")
    for name in ANIMALS:
        add_stamp(folder, f"animals/{name}", f"A {name}.", f"Un {name}o.", ("_es", "", "_pt_BR"))
        add_stamp(folder, f"animals/cartoon/{name}", f"A cartoon {name} in a tree.", f"Un {name}o dibujado.")
    for letter in "AB":
        add_stamp(folder, f"{LETTERS}/{letter}_filled", f"The letter {letter}.", f"La letra {letter}.")
    add_stamp(folder, "animals/drawn", "A drawn gnu.", "Un ñu.", image=False)
    add_stamp(folder, "animals/silent", "A silent ant.", "Una hormiga.", languages=())
    return folder


def of_all_splits(source, folder, language="es"):
    return [row for split in SPLITS for row in source(folder, language, split, 0, 0).rows]


def test_captions_to_repeat_are_those_that_someone_reads_aloud(folder):
    rows = of_all_splits(stamps, folder)
    assert len(rows) == 2 * len(ANIMALS) + 3  # the letters, and the stamp without an image
    assert all(row.question == row.answer and row.image is None for row in rows)
    assert "Un ñu." in {row.question for row in rows} and "Una hormiga." not in {row.question for row in rows}
    assert {row.clips[0].file.name for row in of_all_splits(stamps, folder, "en")} == {f"{a}_desc.ogg" for a in ANIMALS}
    skipped = [stamps(folder, "es", split, 0, 0).skipped for split in SPLITS]
    assert sum(one.get("no recording with its text in es", 0) for one in skipped) == 1


def test_a_subject_is_in_one_split_in_every_language_and_form(folder):
    splits = {}
    for stamp in read_stamps(folder):
        splits.setdefault(stamp.subject, set()).add(stamp.split)
    assert all(len(found) == 1 for found in splits.values()) and {*ANIMALS} < {*splits}
    for split in SPLITS:
        named = {row.question.split()[1].rstrip(".") for row in stamps(folder, "es", split, 0, 0).rows}
        assert {f"{a}o" for a in ANIMALS if splits[a] == {split}} <= named


@given(st.sampled_from(["A {}.", "A red {} in a tree.", "Two {}s, far away.", "A pair of {}s.", "The {} of Spain"]),
       st.sampled_from(ANIMALS), st.sampled_from(SPLITS))  # fmt: skip
def test_the_subject_is_the_word_of_the_caption(form, animal, split):
    one, other = (Stamp(None, "", {"en": caption}) for caption in (form.format(animal), f"A {animal}."))
    assert (one.subject, one.split) == (animal, other.split)


def test_questions_about_an_image_are_balanced_and_the_false_caption_is_false(folder):
    rows = of_all_splits(stamps_mmalign, folder)
    whether = [row for row in rows if row.question_type == "exists"]
    which = [row for row in rows if row.question_type == "choice"]
    assert len(whether) == 2 * len(which) and {row.answer for row in which} == {"A", "B"}
    assert [row.answer for row in whether] == ["yes", "no"] * len(which)
    for row in whether:
        name = row.image.name.removesuffix(".png").replace("_filled", "")
        assert (f"{name}o" in row.question or row.question == f"La letra {name}.") == (row.answer == "yes")
    for row in which:
        first, second = row.question.removeprefix("La letra A. ").split(" La letra B. ")
        true = next(r.question for r in whether if r.image == row.image and r.answer == "yes")
        assert {"A": first, "B": second}[row.answer] == true != {"A": second, "B": first}[row.answer]
        assert [clip.file.name for clip in row.clips[::2]] == ["A_filled_desc_es.ogg", "B_filled_desc_es.ogg"]
    assert stamps_mmalign(folder, "es", "train", 0, 0).skipped.get("no image in PNG", 0) <= 1


def test_false_captions_are_of_another_topic(tmp_path):
    for topic, name in (("animals", "o"), ("food", "e")):
        for animal in ANIMALS:
            add_stamp(tmp_path, f"{topic}/{animal}{name}", f"A {animal}{name}.", f"Un {animal}{name}.")
    false = [row for row in of_all_splits(stamps_mmalign, tmp_path) if row.answer == "no"]
    topics = {(row.category, row.question[-2]) for row in false}
    assert topics == {("animals", "e"), ("food", "o")}


def test_without_recorded_letters_there_is_no_choice(folder):
    assert {row.question_type for row in of_all_splits(stamps_mmalign, folder / "animals")} == {"exists"}
    assert {row.question_type for row in of_all_splits(stamps_mmalign, folder, "en")} == {"exists"}


def test_a_folder_is_synthesized_with_the_recordings_as_its_audio(folder, tmp_path):
    config = SynthesizeConfig(tmp_path / "out", "stamps-mmalign", str(folder), language="es", count=0, processes=1)
    manifest = synthesize(config)
    examples = ExampleFolder(tmp_path / "out")
    assert manifest["engine_name"] == "recorded" and manifest["voice_names"] == ["stamps-es"]
    assert "GPL-2" in manifest["source_license"] and not manifest["rejected"]
    check_gradable("stamps-mmalign", (vars(example) for example in examples))
    seconds = {e.question_type: round(e.duration_seconds, 2) for e in examples}
    assert seconds == {"exists": 0.5, "choice": round(4 * 0.5 + 3 * PAUSE_SECONDS, 2)}


def test_clips_are_read_one_after_another(folder):
    clip = Clip(folder / "animals" / "yak_desc_es.ogg")
    one, two = read_clips([clip]), read_clips([clip, clip])
    pause = round(16_000 * PAUSE_SECONDS)
    assert np.array_equal(two, np.concatenate([one, np.zeros(pause, np.float32), one]))


@pytest.mark.parametrize("source", [stamps, stamps_mmalign])
def test_unreadable_folders_are_named(source, folder, tmp_path):
    with pytest.raises(InputError, match=r"language: fr: no caption of .* is recorded in it; there are en \(\d+\), es"):
        source(folder, "fr", "train", 0, 0)
    with pytest.raises(InputError, match=r"path: .*nowhere: no such folder"):
        source(tmp_path / "nowhere", "es", "train", 0, 0)
    with pytest.raises(InputError, match="this is not the layout of Tux Paint's stamps"):
        source(tmp_path, "es", "train", 0, 0)
    (tmp_path / "bad.txt").write_bytes(b"A caf\xe9.")
    with pytest.raises(InputError, match=r"bad\.txt: not text in UTF-8"):
        source(tmp_path, "es", "train", 0, 0)


def test_a_recording_that_leads_out_of_the_folder_costs_its_row(folder, tmp_path):
    inside = tmp_path / "stamps"
    for animal in ANIMALS:
        add_stamp(inside, animal, f"A {animal}.", f"Un {animal}o.")
    soundfile.write(tmp_path / "private.ogg", tone(0.5), 16_000)
    rows = of_all_splits(stamps, inside)
    linked = rows[0].clips[0].file
    linked.unlink()
    linked.symlink_to(tmp_path / "private.ogg")
    with pytest.raises(InputError, match="field audio"):
        read_clips(rows[0].clips)
    assert read_clips(rows[1].clips).size


def test_overdriven_recordings_of_people_are_kept_and_square_waves_are_not(tmp_path):
    folder = tmp_path / "stamps"
    for number, animal in enumerate(ANIMALS):
        add_stamp(folder, animal, f"A {animal}.", f"Un {animal}o.")
        gain = 1.25 if number else 1e4
        loud = np.clip(tone(0.5) / np.abs(tone(0.5)).max() * gain, -1, 1)
        soundfile.write(folder / f"{animal}_desc_es.wav", loud, 16_000, subtype="FLOAT")
        (folder / f"{animal}_desc_es.ogg").unlink()
        assert np.mean(np.abs(loud) >= 0.999) > 0.05
    rejected, kept = [], 0
    for split in SPLITS:
        if stamps(folder, "es", split, 0, 0).rows:
            config = SynthesizeConfig(tmp_path / split, "stamps", str(folder), language="es", split=split, count=0)
            manifest = synthesize(config)
            kept += manifest["rows"]
            rejected += [row["id"] for row in manifest["rejected"]]
    assert rejected == [f"stamps-es-{ANIMALS[0]}"] and kept == len(ANIMALS) - 1
