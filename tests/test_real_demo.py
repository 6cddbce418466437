"""`selfkd demo --real` on stand-ins of SmolVLM's and Whisper's own classes, and offline."""

import csv
import json
import re

import pytest
import soundfile
from documentation import DOCS, documented_commands
from examples import tone
from smolvlm import save_smolvlm, save_whisper

from selfkd import real_demo
from selfkd.cli import main
from selfkd.data.dataset import ExampleFolder
from selfkd.demo import DemoConfig, demo
from selfkd.errors import InputError
from selfkd.model.checkpoint import load_model
from selfkd.synthesis.sources.toy import ToyWorld
from selfkd.toy_world.questions import TOY_QUESTION_TYPES

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def parts_of_the_hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    save_smolvlm(folder / "smolvlm")
    save_whisper(folder / "whisper")
    return folder


@pytest.fixture
def stand_ins(parts_of_the_hub, monkeypatch):
    monkeypatch.setattr(real_demo, "VLM", str(parts_of_the_hub / "smolvlm"))
    monkeypatch.setattr(real_demo, "WHISPER", str(parts_of_the_hub / "whisper"))


@pytest.fixture
def own(tmp_path):
    """Three images and questions of a user."""
    (tmp_path / "images").mkdir()
    world, lines = ToyWorld("test", 3), []
    for i in range(3):
        example = world.example(TOY_QUESTION_TYPES.index("color") + i * len(TOY_QUESTION_TYPES))
        (tmp_path / "images" / f"{i}.png").write_bytes(example.image)
        line = {"image": f"{i}.png", "question": example.question, "answer": example.target, "question_type": "words"}
        lines.append(json.dumps(line))
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.slow
def test_own_images_and_questions_get_scores_and_a_report(stand_ins, own, capsys):
    arguments = ["demo", "--real", "--path", str(own / "questions.jsonl"), "--images", str(own / "images")]
    arguments += ["--questions", "5", "--distill_steps", "2", "--output", str(own / "demo")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    scores = json.loads((own / "demo" / "eval-align" / "result.json").read_text())["questions"]
    assert [scores[m]["n"] for m in ("text", "audio", "cascade")] == [3, 3, 3]
    stages = re.findall(r"^stage (\d+) of (\d+): ", printed, re.MULTILINE)
    assert stages == [(str(n), "4") for n in range(1, 5)]
    assert "gap (95%)" in printed and "cascade" in printed and "Report: " in printed
    assert "coloured shapes" not in printed
    assert "user&#39;s own" in (own / "demo" / "report.html").read_text()
    train = [ExampleFolder(own / "demo" / "data" / f"train-{i}") for i in range(2)]
    assert [len(folder) for folder in train] == [3, 3], "five questions of training, of three"
    voices = [{row["voice"] for row in f.columns("voice")} for f in (*train, ExampleFolder(own / "demo/data/test"))]
    assert voices[0] != voices[1] and not voices[2] & (voices[0] | voices[1])
    model, _ = load_model(str(own / "demo" / "align" / "model"))
    assert model.config.projector_type == "ctc" and model.vlm.config.model_type == "idefics3"
    before = (own / "demo" / "align" / "model" / "model.safetensors").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (own / "demo" / "align" / "model" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_first_hour_ends_in_a_gap(stand_ins, own, monkeypatch):
    """The commands of docs/first_hour.md, in order, at a small size; the browser's is only parsed (test_docs.py), and
    the recordings come from files in place of a microphone."""
    (own / "mine" / "audio").mkdir(parents=True)
    (own / "images").rename(own / "mine" / "images")
    (own / "questions.jsonl").rename(own / "mine" / "questions.jsonl")
    monkeypatch.chdir(own)
    smaller = {"demo": ["--questions", "3", "--distill_steps", "1"], "record": ["--no_microphone"]}
    commands = [c for c in documented_commands(DOCS / "first_hour.md") if c[1] != "app"]
    assert [c[1] for c in commands] == ["demo", "record", "synthesize", "data", "evaluate", "report"]
    for command in commands:
        words = [real_demo.WHISPER if word == "openai/whisper-base" else word for word in command[1:]]
        assert main([*words, *smaller.get(words[0], [])]) == 0
        if words[0] == "record":
            with (own / "mine" / "voice" / "reading_list.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            for number, row in enumerate(rows):
                row |= {"file": f"take {number}.wav", "speaker": "anna", "consent_date": "2026-11-30"}
                soundfile.write(own / "mine" / "audio" / row["file"], tone(1.5 + 0.2 * number), 16_000)
            with (own / "filled.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            files = ["--output", "mine/voice", "--files", "mine/audio", "--mapping", "filled.csv"]
            assert main(["record", *files]) == 0
    scores = json.loads((own / "runs" / "eval-my-voice" / "result.json").read_text())["questions"]
    assert "gap" in scores and scores["text"]["n"] == scores["audio"]["n"] == scores["cascade"]["n"] == 3
    assert "data:audio/" in (own / "my-voice.html").read_text()


def test_offline_it_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    def unreachable(name, timeout):
        raise ConnectionError(f"We couldn't connect to 'https://huggingface.co' to load {name}\nCheck it")

    monkeypatch.setattr(real_demo, "model_info", unreachable)
    monkeypatch.setattr(real_demo, "_is_cached", lambda name: False)
    assert main(["demo", "--real", "--output", str(tmp_path / "demo")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and not (tmp_path / "demo").exists()
    assert error.startswith(
        "selfkd demo: real: HuggingFaceTB/SmolVLM-256M-Instruct is not on this machine, and the hub"
    )


def test_own_images_want_the_real_model(tmp_path):
    with pytest.raises(InputError, match="path: the bundled model knows coloured shapes only; --real answers about"):
        demo(DemoConfig(tmp_path / "demo", path="questions.jsonl"))
