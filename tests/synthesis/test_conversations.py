"""`--turns whole`: conversations stay whole, each in one voice; single questions are stored as before."""

import json
from dataclasses import replace
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, load_dataset
from examples import conversation_folder, tone, toy_examples

from selfkd.check_data import CheckConfig, check
from selfkd.data.dataset import ExampleFolder, example_metadata
from selfkd.data.example import MANIFEST, REJECTED, read_manifest
from selfkd.errors import InputError
from selfkd.files import sha256
from selfkd.synthesis.shards import sample_utterance
from selfkd.synthesis.sources.registry import open_source
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize


def config(folder, **changes):
    return replace(
        SynthesizeConfig(folder, "world-noisy", count=5, shard_rows=3, processes=1, turns="whole"), **changes
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turns") / "train"
    synthesize(config(folder))
    return folder


def digests(folder):
    return {p.name: sha256(p) for p in folder.rglob("*.parquet")}


def test_conversations_are_stored_with_every_turn(data, capsys):
    examples, manifest = list(ExampleFolder(data)), read_manifest(data)
    assert len(examples) == manifest["rows"] == 5 and manifest["turns"] == "whole"
    for example in examples:
        assert len(example.history) == 2 and example.image is not None
        turns = list(example.turns())
        assert len({t.question for t in turns}) == 3 and all(t.answer and t.target for t in turns)
        assert all(len(t.samples()) == round(t.duration_seconds * 16_000) > 0 for t in turns)
        assert len({t.audio for t in turns}) == 3
        assert example.speech_seconds == pytest.approx(sum(len(t.samples()) / 16_000 for t in turns))
    counts = check(CheckConfig([data]))[str(data)]
    assert counts["examples"] == 5 and counts["turns"] == 15
    assert counts["hours of audio"] == round(sum(e.speech_seconds for e in examples) / 3600, 2)


def test_every_turn_has_the_voice_of_its_conversation(data, tmp_path, monkeypatch):
    utterances = []

    def in_order(engines, queries, utterance_of):
        for query in queries:
            utterances.append(utterance_of(query))
            yield query, tone(0.05 * len(utterances[-1].text))

    monkeypatch.setattr("selfkd.synthesis.shards.in_order", in_order)
    from selfkd.synthesis.row_journal import RowJournal
    from selfkd.synthesis.shards import _Shard

    source = open_source(config(data))
    journal = RowJournal(tmp_path / "rows", "key")
    shard = _Shard(config(data), source, {"en-US": 1.0, "en": 1.0, "en-GB-x-rp": 1.0}, journal, 1)
    made = list(shard.examples(0, 4))
    voices = [u[:: len(u)] for u in [utterances[i : i + 3] for i in range(0, 12, 3)]]
    assert len(made) == 4 and len(utterances) == 12 and len({v[0].voice for v in voices}) > 1
    for a, b in pairwise(utterances):
        if a.id.rpartition("-")[0] == b.id.rpartition("-")[0]:
            assert replace(a, text="", id="") == replace(b, text="", id="")
    expected = sample_utterance(config(data), shard.voices, made[0].id, made[0].history[0].question)
    assert utterances[0] == replace(expected, id=f"{made[0].id}-00")


def test_an_interrupted_folder_ends_in_the_same_bytes(data, tmp_path):
    synthesize(config(tmp_path / "two", processes=2))
    assert digests(tmp_path / "two") == digests(data)
    (tmp_path / "two" / MANIFEST).unlink()
    next((tmp_path / "two").glob("train-00001-*.parquet")).unlink()
    with pytest.raises(InputError, match="turns: 'whole' there, nothing here"):
        synthesize(config(tmp_path / "two", turns="split"))
    synthesize(config(tmp_path / "two"))
    assert digests(tmp_path / "two") == digests(data)


def test_single_questions_are_stored_as_before(tmp_path):
    synthesize(config(tmp_path / "one", turns="split", count=2))
    manifest = json.loads((tmp_path / "one" / MANIFEST).read_text())
    assert "turns" not in manifest and "turns" not in json.loads((tmp_path / "one/plan.json").read_text())
    (path,) = (tmp_path / "one").glob("*.parquet")
    assert "history" not in pq.read_schema(path).names
    folder = ExampleFolder(tmp_path / "one")
    assert [e.history for e in folder] == [(), ()]
    assert folder.metadata() == [example_metadata(e) for e in folder] and folder.metadata()[0].turns == 1


def test_metadata_counts_all_turns_and_reads_no_audio(data):
    folder = ExampleFolder(data)
    assert folder.metadata() == [example_metadata(e) for e in folder]
    assert {m.turns for m in folder.metadata()} == {3}
    rows = folder.without([1]).columns("id", "history")
    assert len(rows) == 4 and "audio" not in rows[0]["history"][0]
    assert rows[0]["history"][1]["question"] == folder[0].history[1].question


def test_datasets_reads_conversations_directly(data, tmp_path):
    loaded = load_dataset("parquet", data_files=str(data / "*.parquet"), split="train", cache_dir=tmp_path)
    assert isinstance(loaded.features["history"].feature["audio"], Audio)
    history = loaded.cast_column("audio", Audio(decode=False)).with_format("arrow")[0]["history"][0].as_py()
    assert history[0]["audio"]["bytes"] == ExampleFolder(data)[0].history[0].audio


def test_a_turn_that_cannot_be_used_rejects_its_conversation(tmp_path):
    lines = [
        {"image": "a.png", "messages": [message for turn in turns for message in turn]}
        for turns in (
            [user_and_assistant("Is there a circle?", "yes"), user_and_assistant("Where is it?", "left")],
            [user_and_assistant("。。。", "no"), user_and_assistant("Where is it?", "left")],
        )
    ]
    source = written(tmp_path, lines)
    manifest = synthesize(config(tmp_path / "out", source="jsonl", path=source, images=str(tmp_path), count=0))
    assert manifest["rows"] == 1 and len(manifest["rejected"]) == 1
    assert manifest["rejected"][0]["id"] == "lines-000001"
    assert not (tmp_path / "out" / REJECTED).exists()


def user_and_assistant(question, answer, **fields):
    return [{"role": "user", "content": question, **fields}, {"role": "assistant", "content": answer}]


def written(folder, lines):
    (folder / "a.png").write_bytes(toy_examples(1)[0].image)
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder / "lines.jsonl")


def test_messages_of_a_table_are_turns(tmp_path):
    """Whole or split; fields of a question within its message; the placeholder of the image leaves the first one."""
    first = user_and_assistant("<image>\nWhat color?", "red", question_type="color", answer_format="One word.")
    line = {"id": "c1", "image": "a.png", "category": "k", "messages": [*first, *user_and_assistant("Where?", "left")]}
    path = written(tmp_path, [line])
    settings = {"source": "jsonl", "path": path, "images": str(tmp_path), "count": 0}
    whole = open_source(config(tmp_path, **settings))
    example = whole.example(0)
    assert (example.id, example.question, example.answer, example.category) == ("c1", "Where?", "left", "k")
    (turn,) = example.history
    assert (turn.question, turn.answer, turn.question_type, turn.target) == ("What color?", "red", "color", "red")
    assert turn.answer_format == "\nOne word." and example.image is not None
    split = open_source(config(tmp_path, turns="split", **settings))
    assert [split.example(i).id for i in range(2)] == ["c1-00", "c1-01"]
    assert [split.example(i).question for i in range(2)] == ["What color?", "Where?"]
    assert all(split.example(i).image == example.image and not split.example(i).history for i in range(2))
    assert whole.sha256() != split.sha256()


@pytest.mark.parametrize("messages, problem", [
    (user_and_assistant("Where?", "left")[:1], "ends with a message of the user, without a response"),
    ([*user_and_assistant("Where?", " "), *user_and_assistant("Why?", "so")], "message 1: field content: is empty"),
    (user_and_assistant("Where?", "left")[::-1], "message 0: field role: 'assistant', expected 'user'"),
    ([*user_and_assistant("Where?", "left", speech="a.wav"), *user_and_assistant("Why?", "so")],
     "message 2: field speech: no recording, where others have one"),
    ([{"role": "user", "content": [1]}], "message 0: field content: not a text"),
    (["user"], "not a list of messages"),
])  # fmt: skip
def test_messages_that_are_no_turns_are_refused(tmp_path, messages, problem):
    path = written(tmp_path, [{"image": "a.png", "messages": messages}])
    for form in ("whole", "split"):
        settings = {"source": "jsonl", "path": path, "images": str(tmp_path), "count": 0, "turns": form}
        with pytest.raises(InputError) as error:
            open_source(config(tmp_path, **settings))
        assert str(error.value).startswith(f"columns: {path}: row 0: 'messages'") and problem in str(error.value)


def llava_file(folder, *conversations):
    records = []
    for turns in conversations:
        values = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]
        records.append({"id": "x", "image": "a.png", "conversations": values})
    (folder / "llava.json").write_text(json.dumps(records))
    (folder / "a.png").write_bytes(toy_examples(1)[0].image)
    return {"source": "llava", "path": str(folder / "llava.json"), "images": str(folder), "count": 0}


def test_llava_conversations_stay_whole(tmp_path):
    box = "Where is it? [0.1, 0.2, 0.3, 0.4]"
    settings = llava_file(
        tmp_path, ["<image>\nWhat?", "A dog.", "Which color?", "Brown."], ["What?", "A cat.", box, "there"], ["A?", " "]
    )
    source = open_source(config(tmp_path, **settings))
    assert len(source) == 1 and source.skipped == {"boxes": 1, "no question or answer": 1}
    example = source.example(0)
    assert (example.id, example.question, example.answer) == ("llava-000000", "Which color?", "Brown.")
    assert [(t.question, t.answer) for t in example.history] == [("What?", "A dog.")]
    split = open_source(config(tmp_path, turns="split", **settings))
    assert [r.id for r in split.rows] == ["llava-000000-00", "llava-000000-01", "llava-000001-00"]


def test_llava_conversation_that_ends_with_the_user_is_refused(tmp_path):
    settings = llava_file(tmp_path, ["What?", "A dog.", "Why?"])
    with pytest.raises(InputError, match=r"llava.json: record 0: field conversations: ends with a turn of human"):
        open_source(config(tmp_path, **settings))


def test_turns_are_for_sources_of_conversations(tmp_path):
    with pytest.raises(InputError, match="turns: is for llava, jsonl, datasets, world, world-noisy, not for words"):
        synthesize(config(tmp_path, source="words"))


@pytest.mark.parametrize("change, problem", [
    ({"answer": ""}, "field history: turn 1: field answer: is empty"),
    ({"audio": None}, "field history: turn 1: field audio: no audio"),
    ({"duration_seconds": 9.0}, "field history: turn 1: field duration_seconds: not the length"),
])  # fmt: skip
def test_data_check_names_a_turn(data, tmp_path, change, problem):
    source = ExampleFolder(data)[0]
    broken = replace(source, history=(replace(source.history[0], **change), *source.history[1:]))
    conversation_folder(tmp_path / "broken", [broken])
    with pytest.raises(InputError, match=problem):
        check(CheckConfig([tmp_path / "broken"]))


TURN = {"question": "a", "answer": "b", "question_type": "open", "target": "b", "instruction": "", "answer_format": "",
        "duration_seconds": 1.0}  # fmt: skip
TURN_TYPE = pa.array([TURN]).type


@pytest.mark.parametrize("column, problem", [
    (pa.array(["x"]), "is of type string, expected a list of turns"),
    (pa.array([None], pa.list_(TURN_TYPE)), "row 0: field history: holds no value"),
    (pa.array([[None]], pa.list_(TURN_TYPE)), "turn 0 of all: field history: holds no value"),
    (pa.array([[{"question": "a"}]]), "has no field 'answer'"),
    (pa.array([[TURN | {"question": 1}]]), "field question: is of type int64, expected string"),
    (pa.array([[TURN | {"answer": None}]], pa.list_(TURN_TYPE)), "row 0: field answer: holds no value"),
    (pa.array([[TURN | {"mood": "b"}]]), "has a field 'mood'"),
    (pa.array([[TURN | {"duration_seconds": -1.0}]]), "field duration_seconds: -1.0"),
])  # fmt: skip
def test_damaged_turns_are_named(data, tmp_path, column, problem):
    conversation_folder(tmp_path / "bad", [ExampleFolder(data)[0]])
    path = tmp_path / "bad/train.parquet"
    table = pq.read_table(path).drop_columns(["history"]).append_column("history", column)
    pq.write_table(table, path)
    for read in (lambda f: f[0], ExampleFolder.metadata):
        with pytest.raises(InputError, match=problem) as error:
            read(ExampleFolder(tmp_path / "bad"))
        assert "history" in str(error.value) and str(path) in str(error.value)
