"""`import selfkd`: names are imported on first use, stages take fields or a configuration, and the package's example
runs."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import selfkd
from selfkd.errors import InputError
from selfkd.evaluation.compare import CompareConfig
from selfkd.stage_function import stage_function
from selfkd.training.distill import DistillConfig

NAMES = [
    *("load_model", "OmniModel", "OmniProcessor", "SelfKDTrainer", "LossConfig"),
    *("synthesize", "align", "distill", "evaluate", "compare", "report"),
]


@pytest.mark.slow
def test_import_is_lazy():
    """`import selfkd`, `dir` and `__all__` import no module with code; a name imports its module."""
    code = (
        "import sys, selfkd; dir(selfkd), selfkd.__all__; "
        "assert {m for m in sys.modules if m.startswith('selfkd')} == {'selfkd', 'selfkd.version'}; "
        "assert not {'torch', 'transformers', 'jsonargparse'} & sys.modules.keys(); "
        "from selfkd import compare, report; "
        "assert callable(report) and report is selfkd.report and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names():
    assert sorted(selfkd.__all__) == sorted(NAMES)
    assert {*NAMES, "__version__"} <= {*dir(selfkd)}
    assert all(callable(getattr(selfkd, name)) for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        selfkd.nothing  # noqa: B018


def test_a_stage_takes_fields_or_a_configuration():
    taken = []
    stage = stage_function(DistillConfig)(taken.append)
    expected = DistillConfig(["data"], Path("runs/selfkd"), alpha=0.5, model="folder")
    stage(expected)
    stage(data=[Path("data")], output="runs/selfkd", alpha=0.5, model=Path("folder"))
    stage(("data",), "runs/selfkd", alpha=0.5, model="folder")
    assert taken == [expected] * 3
    assert list(inspect.signature(selfkd.compare).parameters) == ["runs", "output", "seed"]
    assert CompareConfig.__doc__ in selfkd.compare.__doc__


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: selfkd.distill(data=["d"], output="r", alhpa=1.0),
            "alhpa: not a field of distill; did you mean alpha\\? it has data, output",
        ),
        (lambda: selfkd.distill(data=["d"]), "output: missing; distill needs data, output"),
        (lambda: selfkd.compare(["a"], "out", runs=["b"]), "runs: given twice to compare"),
        (lambda: selfkd.compare(["a"], "out", 0, 1), "compare: 4 arguments, and it has 3 fields"),
        (lambda: selfkd.report(rnus=["a"]), "rnus: not a field of report"),
        (lambda: selfkd.distill(data=["d"], output="r", alpha=2.0), "alpha: 2.0 is not between 0 and 1"),
        (lambda: selfkd.load_model("nowhere/at/all"), "model: nowhere/at/all: no checkpoint there"),
    ],
)
def test_wrong_fields_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_one_call_answers_text_and_audio_queries(parts, example, tmp_path):
    """`encode_queries` gives `generate_responses` what the prompts of an example give; files are decoded like
    arrays."""
    model, processor = parts
    image, samples = example.load_image(), example.samples()
    image.save(tmp_path / "image.png")
    soundfile.write(tmp_path / "query.wav", samples, 16_000, subtype="FLOAT")
    encoded = processor.encode_image(image)
    prompts = [
        processor.text_prompt(example.question, encoded, answer_format="\nOne word."),
        processor.audio_prompt(processor.encode_audio(samples), encoded, answer_format="\nOne word."),
    ]
    expected = model.generate_responses(**processor.collate(prompts), max_new_tokens=6, eos_token_id=[processor.end_id])
    both = {"text": [example.question, None], "audio": [None, samples], "answer_format": "\nOne word."}
    inputs = processor.encode_queries(images=image, **both)
    assert len(inputs["prefix_ids"]) == 1, "one image is encoded once"
    together = model.generate_responses(**inputs, max_new_tokens=6)
    assert torch.equal(together, expected)
    both["audio"] = [None, tmp_path / "query.wav"]
    inputs = processor.encode_queries(str(tmp_path / "image.png"), **both)
    assert torch.equal(model.generate_responses(**inputs, max_new_tokens=6), expected)
    inputs = processor.encode_queries(image, text=example.question, answer_format="\nOne word.")
    text_only = model.generate_responses(**inputs, max_new_tokens=6)
    assert processor.response_texts(text_only)[0] == processor.response_texts(expected)[0]
    assert processor.encode_queries(text="No image.")["image_inputs"] == {}


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ({}, "text, audio: give exactly one"),
        ({"text": "What?", "audio": np.zeros(8000)}, "text, audio: give exactly one"),
        ({"text": ["a", "b"], "images": [None] * 3}, "images, text, audio: 3, 2 and 2 given"),
        ({"audio": "none.wav"}, "audio: none.wav: No such file"),
        ({"text": "What?", "images": "none.png"}, "images: none.png: No such file"),
    ],
)
def test_wrong_queries_are_refused(parts, queries, message):
    with pytest.raises(InputError, match=message):
        parts[1].encode_queries(**queries)


@pytest.mark.slow
def test_the_packages_example_runs(tmp_path, monkeypatch, capsys):
    """The code in the docstring of `selfkd`, in at most nine lines of code plus imports, with smaller numbers."""
    code = "\n".join(line[4:] for line in selfkd.__doc__.splitlines() if line.startswith("    "))
    lines = [line for line in code.splitlines() if line and not re.match("from|import", line)]
    assert len(lines) <= 9, lines
    small = code.replace("count=400", "count=4, processes=1").replace("steps=100", "steps=1, batch_size=2")
    assert small.count("processes=1") == small.count("batch_size=2") == 1
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(small, "example", "exec"), names)
    assert (tmp_path / "runs/comparison/scores.json").is_file() and len(names["scores"]) == 2
    assert re.search(r"^\['.*', '.*'\]$", capsys.readouterr().out, re.MULTILINE)
