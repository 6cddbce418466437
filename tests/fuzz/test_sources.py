"""Sources: files of questions and corpora with damaged rows, odd paths and odd media.

A row may be rejected, or the file refused; nothing outside of the source's own folders is read."""

import base64
import gzip
import io
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from examples import tone, toy_examples
from fuzzing import Malformed
from hypothesis import strategies as st
from malformed import as_json, damaged_bytes, edited_documents, json_values, short
from published_layouts import captions_database

from selfkd.errors import InputError
from selfkd.synthesis.config import SourceName, SynthesizeConfig
from selfkd.synthesis.sources.caption_corpora import split_of_image
from selfkd.synthesis.sources.published import LAYOUTS
from selfkd.synthesis.sources.registry import CAPTIONS, open_source
from selfkd.synthesis.sources.rows import read_clips
from selfkd.synthesis.sources.xmodbench import TASKS

pytestmark = pytest.mark.slow

IMAGE = toy_examples(1)[0].image
SECRET = toy_examples(2)[1].image  # of a file outside of every source
assert IMAGE and SECRET and IMAGE != SECRET
# within a source's folder: what names may lead to. `outside` is the folder with the secret files
NAMES = [
    "a.png", "missing.png", "", " ", ".", "..", "images", "../outside/secret.png", "images/../../outside/secret.png",
    "{outside}/secret.png", "file://{outside}/secret.png", "https://127.0.0.1:9/a.png", "link.png", "link/secret.png",
    "a\0.png", "x" * 300, "a.png\n", "loop.png", "/dev/zero", "/dev/stdin", "/proc/self/environ", "pipe", "a.wav",
    "%2e%2e/outside/secret.png", "..\\outside\\secret.png", "A.PNG", "{outside}/secret.wav", "../outside/secret.wav",
    "../../outside/secret", "link.wav",
]  # fmt: skip
VALUES = json_values(NAMES) | st.sampled_from(NAMES)

# an image of COCO in the same split as "a.png"
COCO_IMAGE = next(n for n in range(100) if split_of_image(str(n)) == split_of_image("a.png"))
TABLE = [
    {"id": str(i), "question": f"What is {i}?", "answer": "A star.", "image": "a.png", "category": "c",
     "question_type": "open"} for i in range(3)
]  # fmt: skip
TURNS = [{"from": "human", "value": "<image>\nIs it day?"}, {"from": "gpt", "value": "Yes"}]
LLAVA = [{"id": str(i), "image": "a.png", "conversations": [*TURNS, *TURNS]} for i in range(2)]
SEGMENT = {"sid": "S1", "begin_time": 0.0, "end_time": 0.5, "text_tn": "HELLO <COMMA> THERE"}
GIGASPEECH = {
    "dataset": "x",
    "audios": [{"aid": "A1", "path": "a.wav", "segments": [SEGMENT, SEGMENT | {"sid": "S2"}]}],
}
CUT = {
    "id": "c", "type": "MonoCut", "start": 0.0, "duration": 0.5, "channel": 0,
    "supervisions": [{"id": "s", "start": 0.0, "duration": 0.5, "text": "hello", "channel": 0,
                      "custom": {"texts": ["Hello."]}}],
    "recording": {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "sampling_rate": 16_000,
                  "transforms": [{"name": "Resample", "kwargs": {"target_sampling_rate": 16_000}}]},
}  # fmt: skip
SPEECH = [row | {"speech": "a.wav", "speaker": 3} for row in TABLE]
MESSAGES = [{"role": "user", "content": "<image>\nIs it day?", "speech": "a.wav"},
            {"role": "assistant", "content": "Yes"}]  # fmt: skip
LATER = [MESSAGES[0] | {"content": "And night?"}, MESSAGES[1]]
CONVERSATIONS = [{"id": str(i), "image": "a.png", "messages": [*MESSAGES, *LATER]} for i in range(2)]
LYRA = [{"question_id": "a", "image": "a.png", "speech": "a.wav", "prompt": "What is it?", "text": "What is it?",
         "answer": ["It."]}]  # fmt: skip
TEXTVQA = {"data": [{"image_id": "a", "question": "What is it?", "answers": ["a star", "star"]}]}
VISIT = [{"id": 1, "image": "a.png", "speech": "a.wav", "instruction": "What is it?", "reference_output": "It."}]
OMNI = [{"index": n, "task type": "a", "audio type": "speech", "question": "What?", "options": ["it", "that"],
         "answer": "it", "audio content": "Hello there.", "audio": "a.wav", "image": "a.png"}
        for n in range(2)]  # fmt: skip
COCO_CAPTIONS = {"data": [{"image": "a.png", "captions": [
    {"text": "A dog.", "speaker": "m", "uttid": "u", "wav": "a.wav"},
    {"text": "A cat.", "speaker": "m", "uttid": "v", "wav": "a.wav"}]}]}  # fmt: skip
NARRATIVE = {
    "dataset_id": "mscoco_val2017", "image_id": "a", "annotator_id": 9, "caption": "A dog.", "voice_recording": "a.wav",
    "timed_caption": [{"utterance": "A dog.", "start_time": 0.0, "end_time": 0.5}],
    "traces": [[{"x": 0.1, "y": 0.2, "t": 0.1}, {"x": 0.2, "y": 0.2, "t": 0.2}]],
}  # fmt: skip
SPEECH_COCO = [
    {"captionID": n, "imageID": COCO_IMAGE, "wavFilename": "a.wav", "text": "A dog.", "speaker": "Phil"}
    for n in range(2)
]
XMOD_OPTION = {"modality": "Audio", "input": "a.wav", "text": "A dog."}
XMODBENCH = [{"question": "Which audio? Answer the question with A, B, C, or D", "correct_answer": "B",
              "conditions": {"modality": "Image", "input": "/x/Data/a.png"},
              "options": dict.fromkeys("ABCD", XMOD_OPTION)}]  # fmt: skip
XMODBENCH_FILE = "tasks/03_speech/recognition/acr_audio_bench_questions_vision_audio.json"
MMMB = [{"index": str(n), "question": "What is it?", "A": "a star", "B": "a dog", "answer": "A", "category": "c",
         "image": base64.b64encode(IMAGE).decode() if n == 0 else "0"} for n in range(2)]  # fmt: skip
VOICE = [{"client_id": "x", "path": "a.wav", "sentence": "Hello there.", "up_votes": "2"}] * 2
# source -> (name of its file, rows of it, bytes of these rows)
Written = Callable[[Any], bytes]


def lines(rows: Any) -> bytes:
    return b"\n".join(map(as_json, rows if isinstance(rows, list) else [rows]))


def delimited(mark: str) -> Written:
    def written(rows: Any) -> bytes:
        rows = [row for row in (rows if isinstance(rows, list) else [rows]) if isinstance(row, dict)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
        return "\n".join(mark.join(row) for row in cells).encode("utf-8", "surrogatepass")

    return written


def database(rows: Any) -> bytes:
    names = ("captionID", "imageID", "wavFilename", "text", "speaker")
    rows = [row for row in (rows if isinstance(rows, list) else [rows]) if isinstance(row, dict)]
    cells = [[row.get(name) for name in names] for row in rows]
    plain = (int, float, str, bytes, type(None))
    try:
        return captions_database([tuple(c if isinstance(c, plain) else str(c) for c in cell) for cell in cells])
    except sqlite3.Error as error:  # a number of another type, two rows of one id
        raise ValueError(str(error)) from error


def parquet(rows: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


KINDS: dict[str, tuple[SourceName, str, Any, Written]] = {
    "jsonl": ("jsonl", "table.jsonl", TABLE, lines),
    "JSON": ("datasets", "table.json", TABLE, as_json),
    "CSV": ("datasets", "table.csv", TABLE, delimited(",")),
    "TSV": ("datasets", "table.tsv", TABLE, delimited("\t")),
    "Parquet": ("datasets", "table.parquet", TABLE, parquet),
    "llava": ("llava", "llava.json", LLAVA, as_json),
    "gigaspeech": ("gigaspeech", "GigaSpeech.json", GIGASPEECH, as_json),
    "lhotse": ("lhotse", "cuts.jsonl", [CUT, CUT | {"id": "d"}], lines),
    "lhotse, zipped": ("lhotse", "cuts.jsonl.gz", [CUT], lambda rows: gzip.compress(lines(rows), mtime=0)),
    "common-voice": ("common-voice", "validated.tsv", VOICE, delimited("\t")),
    "librispeech": ("librispeech", "1/2/1-2.trans.txt", "1-2-0 MISSUS RACHEL\n1-2-1 AND I\n", str.encode),
    "jsonl with recordings": ("jsonl", "table.jsonl", SPEECH, lines),
    "Parquet with recordings": ("datasets", "table.parquet", SPEECH, parquet),
    "jsonl of conversations": ("jsonl", "table.jsonl", CONVERSATIONS, lines),
    "Parquet of conversations": ("datasets", "table.parquet", CONVERSATIONS, parquet),
    "llava of conversations": ("llava", "llava.json", LLAVA, as_json),
    "lyra-docvqa": ("lyra-docvqa", "lyra_docvqa_audio.jsonl", LYRA, lines),
    "answers of lyra-textvqa": ("lyra-textvqa", "TextVQA_0.5.1_val.json", TEXTVQA, as_json),
    "spokenvisit": ("spokenvisit", "VisIT_speech.jsonl", VISIT, lines),
    "omnibench": ("omnibench", "omni.parquet", OMNI, parquet),
    "spoken-coco": ("spoken-coco", "SpokenCOCO_val.json", COCO_CAPTIONS, as_json),
    "speech-coco": ("speech-coco", "train_2014.sqlite3", SPEECH_COCO, database),
    "xmodbench": ("xmodbench-recognition", XMODBENCH_FILE, XMODBENCH, as_json),
    "mmmb": ("mmmb", "mmmb_en.tsv", MMMB, delimited("\t")),
    "localized-narratives": ("localized-narratives", "narratives.jsonl", [NARRATIVE], lines),
    "flickr8k-audio": ("flickr8k-audio", "wav2capt.txt", "a.wav a.png #0\nlink.wav a.png #1\n", str.encode),
    "stamps": ("stamps", "animals/koala.txt", "A koala.\nes.utf8=Un koala.\n", str.encode),
    "stamps-mmalign": ("stamps-mmalign", "animals/koala.txt", "A koala.\nes.utf8=Un koala.\n", str.encode),
}  # fmt: skip


@cache
def recording(stretch: int = 1) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(0.6 * stretch), 16_000, format="WAV")
    return buffer.getvalue()


def write_files(folder: Path) -> None:
    """The media that the sources name, links out of their folders, a pipe, and a folder outside of them."""
    outside, source = folder / "outside", folder / "source"
    outside.mkdir(parents=True)
    (outside / "secret.png").write_bytes(SECRET or b"")
    (outside / "secret.wav").write_bytes(recording(2))
    for inner in ("images", "clips", "1/2", "animals", "."):
        here = source / inner
        here.mkdir(parents=True, exist_ok=True)
        (here / "a.png").write_bytes(IMAGE or b"")
        (here / "a.wav").write_bytes(recording())
        (here / "link.png").symlink_to(outside / "secret.png")
        (here / "link.wav").symlink_to(outside / "secret.wav")
        (here / "link").symlink_to(outside)
        (here / "loop.png").symlink_to(here / "loop.png")
    (source / "lyra_textvqa_val_v051_ocr_withspeechid.jsonl").write_bytes(lines(LYRA))
    (source / "Flickr8k.token.txt").write_text("a.png#0\tA dog .\na.png#1\tA cat .\n")
    (source / "wav2spk.txt").write_text("a.wav 3\n")
    soundfile.write(source / "1/2/1-2-0.flac", tone(0.6), 16_000)
    (source / "1/2/1-2-1.flac").symlink_to(outside / "secret.wav")
    for name in ("koala", "wombat"):
        (source / "animals" / f"{name}.txt").write_text(f"A {name}.\nes.utf8=Un {name}.\n")
        (source / "animals" / f"{name}.png").write_bytes(IMAGE or b"")
        (source / "animals" / f"{name}_desc_es.wav").write_bytes(recording())


@st.composite
def edited_rows(draw: st.DrawFn) -> Malformed:
    kind = draw(st.sampled_from(sorted(KINDS)))
    _, _, rows, written = KINDS[kind]
    if isinstance(rows, str):
        content, label = draw(damaged_bytes(rows.encode()))
        return Malformed((kind, content, None), f"{kind}: {label}")
    document, label = draw(edited_documents(rows, VALUES))
    try:
        content = written(document)
    except (
        pa.ArrowException,
        OverflowError,
        TypeError,
        ValueError,
        AttributeError,
        LookupError,
    ):  # Parquet does not hold everything
        content, label = as_json(document), f"JSON of {label}"
    return Malformed((kind, content, None), f"{kind}: {label}")


@st.composite
def damaged_tables(draw: st.DrawFn) -> Malformed:
    kind = draw(st.sampled_from(sorted(KINDS)))
    _, _, rows, written = KINDS[kind]
    content, label = draw(damaged_bytes(written(rows)))
    return Malformed((kind, content, None), f"{kind}: {label}")


@st.composite
def odd_paths(draw: st.DrawFn) -> Malformed:
    """A name that leads elsewhere in place of the image's or the recording's."""
    kind, name = draw(st.sampled_from(sorted(KINDS))), draw(st.sampled_from(NAMES))
    _, _, rows, written = KINDS[kind]
    named = json.loads(json.dumps(rows).replace('"a.png"', json.dumps(name)).replace('"a.wav"', json.dumps(name)))
    if kind == "librispeech":
        named = f"{name} MISSUS RACHEL\n"
    return Malformed((kind, written(named), None), f"{kind}: {short(name)}")


@st.composite
def odd_media(draw: st.DrawFn) -> Malformed:
    kind = draw(st.sampled_from(sorted(KINDS)))
    _, _, rows, written = KINDS[kind]
    name = draw(st.sampled_from(["a.png", "a.wav"]))
    content, label = draw(damaged_bytes((IMAGE or b"") if name == "a.png" else recording()))
    return Malformed((kind, written(rows), (name, content)), f"{kind}: {name} {label}")


def read(base: Path, output: Path, given: tuple[str, bytes, tuple[str, bytes] | None]) -> None:
    """Raises InputError where the source is refused; a row may be rejected by itself."""
    kind, content, media = given
    source_name, file, _, _ = KINDS[kind]
    with tempfile.TemporaryDirectory(dir=output) as made:
        folder = Path(made)
        shutil.copytree(base, folder, symlinks=True, dirs_exist_ok=True)
        source = folder / "source"
        if media:
            for path in source.rglob(media[0]):
                path.write_bytes(media[1])
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_bytes(content.replace(b"{outside}", str(folder / "outside").encode()))
        whole = source_name in ("librispeech", "stamps", "stamps-mmalign", "lyra-textvqa", "flickr8k-audio", *TASKS)
        named = source_name in ("llava", "jsonl", "datasets", *LAYOUTS, *CAPTIONS, *TASKS)
        config = SynthesizeConfig(
            folder / "out",
            source_name,
            str(source if whole else source / file),
            images=str(source) if named else "",
            recordings=str(source) if named and source_name != "llava" else "",
            annotations=str(source / "Flickr8k.token.txt") if source_name == "flickr8k-audio" else "",
            count=0,
            language="es" if source_name.startswith("stamps") else "en",
            split=split_of_image("a.png") if source_name in CAPTIONS else "train",
            turns="whole" if kind.endswith("conversations") else "split",
        )
        opened = open_source(config)
        for index in range(len(opened)):
            name, question = opened.id_and_question(index)
            assert isinstance(name, str) and isinstance(question, str)
            try:
                example = opened.example(index)
                assert example.image != SECRET, "an image from outside of the source"
                earlier = opened.earlier_recordings(index) if kind.endswith("conversations") else []
                for clips in filter(None, [*earlier, opened.recordings(index)]):
                    for clip in clips:
                        assert len(read_clips([clip])) < 1.1 * 16_000, "a recording from outside of the source"
            except InputError:
                continue


def test_sources(fuzzer, tmp_path):
    write_files(tmp_path / "base")
    inputs = edited_rows() | edited_rows() | damaged_tables() | odd_paths() | odd_media()
    fuzzer.run("sources", inputs, partial(read, tmp_path / "base", tmp_path), examples=150)


def test_undamaged_sources_are_read(tmp_path):
    write_files(tmp_path / "base")
    for kind, (_, _, rows, written) in KINDS.items():
        try:
            read(tmp_path / "base", tmp_path, (kind, written(rows), None))
        except InputError as error:
            assert kind.startswith(("stamps", "common-voice")), f"{kind}: {error}"
