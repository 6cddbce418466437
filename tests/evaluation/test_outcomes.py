"""An evaluation over an endpoint whose responses are not all answers: samples, counts, table, report, and a rerun."""

import io
import json

import pytest
import soundfile
from chat_server import chat_server, pair_of
from examples import toy_examples
from rich.console import Console

from selfkd.data.example import MANIFEST, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import read_samples, sample, samples_path
from selfkd.evaluation.tables import scores_table
from selfkd.files import write_json, write_text
from selfkd.report.build import ReportConfig, report

pytest.importorskip("openai")
BEHAVIOURS = ["thinks", "thinks apart", "at the limit", "silence", "no audio", "ok", "thinks too long", "aborted"]
NAME = "world-noisy"


@pytest.fixture(scope="module")
def examples():
    return toy_examples(len(BEHAVIOURS))


@pytest.fixture(scope="module")
def data(examples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "a.parquet", examples, {"rows": len(BEHAVIOURS)})
    write_json(folder / MANIFEST, {"source": NAME, "shards": [{"file": "a.parquet"}]})
    return folder


def audio_pair(example):
    return pair_of(example.image or b"", soundfile.read(io.BytesIO(example.audio), dtype="int16")[0].tobytes())


def config(data, run, url, **others):
    return EvaluateConfig("m", [str(data)], run, url=url, endpoint={"concurrency": 2, "max_retries": 0}, **others)


def test_each_response_has_its_outcome_and_failed_items_run_again(examples, data, tmp_path, capsys):
    """All outcomes in one run: the samples' fields, the counts, the warnings next to the gap, the report."""
    targets = {
        pair: e.target for e in examples for pair in (audio_pair(e), pair_of(e.image or b"", e.question.encode()))
    }
    with chat_server() as server:
        server.prediction = lambda request: targets[request.pair]
        server.script = {audio_pair(e): [behaviour] for e, behaviour in zip(examples, BEHAVIOURS, strict=True)}
        with pytest.raises(InputError, match=r"2 items of world-noisy have no response.*--keep_failures"):
            evaluate(config(data, tmp_path / "run", server.url))
        for e, behaviour in zip(examples, BEHAVIOURS, strict=True):
            server.script[audio_pair(e)] = [behaviour]
        found = evaluate(config(data, tmp_path / "kept", server.url, keep_failures=True))[NAME]
        before = len(server.requests)
        again = evaluate(config(data, tmp_path / "run", server.url))[NAME]
        assert len(server.requests) == before + 2  # now they answer
    assert again["audio"]["outcomes"] == {"answer": 5, "cut": 1, "empty": 1, "refused": 1, "failed": 0}
    assert found["audio"]["outcomes"] == {"answer": 3, "cut": 1, "empty": 1, "refused": 1, "failed": 2}
    assert found["text"]["outcomes"] == {"answer": 8, "cut": 0, "empty": 0, "refused": 0, "failed": 0}
    samples = read_samples(samples_path(tmp_path / "kept", NAME, "audio"))
    assert [(s["outcome"], s["finish_reason"], s["score"]) for s in samples] == [
        ("answer", "stop", 1.0), ("answer", "stop", 1.0), ("cut", "length", 0.0), ("empty", "stop", 0.0),
        ("refused", "stop", 0.0), ("answer", "stop", 1.0), ("failed", "length", None), ("failed", "abort", None),
    ]  # fmt: skip
    assert [s["reasoning"] for s in samples] == ["Is it no? Or A?"] * 2 + [""] * 4 + ["Is it no?", ""]
    assert [s["parsed"] for s in samples[3:5]] == [None, None] and found["audio"]["parse_rate"] <= 4 / 6
    assert len(found["gap"]["warnings"]) == 4
    output = capsys.readouterr().out
    assert all(" ".join(line.split()) in " ".join(output.split()) for line in found["gap"]["warnings"])
    report(ReportConfig([str(tmp_path / "kept")], tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert "12% of audio responses were cut at the token limit" in page and "(refusal)" in page
    assert all(f">{name}" in page for name in ("Truncated", "Empty", "Refused", "No response"))


def test_table_fits_a_terminal_and_omits_benchmarks_with_answers_only():
    def scores(**outcomes):
        counts = {"answer": 9000, "cut": 0, "empty": 0, "refused": 0, "failed": 0} | outcomes
        values = {"n": 9000, "failed": counts["failed"], "accuracy": 0.5, "stderr": 0.01, "chance": 0.5}
        return values | {"outcomes": counts}

    line = "12% of audio responses were cut at the token limit, 0% of text: raise --max_new_tokens"
    gap = {"n": 9000, "gap": 0.1, "gap_interval": [0.1, 0.2], "mcnemar_p": 0.5, "verdict": "loses", "warnings": [line]}
    result = {
        "hallusionbench@some_very_long_voice": {"text": scores(), "audio": scores(cut=1080, refused=12), "gap": gap},
        "mme": {"text": scores(), "audio": scores(), "gap": gap | {"warnings": []}},
    }
    console = Console(width=80, file=io.StringIO())
    console.print(scores_table(result))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "1080" in console.file.getvalue() and "audio" in console.file.getvalue()
    outcomes = "\n".join(lines[next(i for i, text in enumerate(lines) if "Responses by outcome" in text) :])
    assert "mme" not in outcomes and " ".join(line.split()) in " ".join(outcomes.split())
    console = Console(width=80, file=io.StringIO())
    console.print(scores_table({"mme": result["mme"]}))
    assert "Responses" not in console.file.getvalue()


def test_samples_of_an_older_selfkd_are_refused(tmp_path, examples):
    path = samples_path(tmp_path / "run", NAME, "text")
    whole = sample(examples[0], "text", Prediction("yes"))
    for new, old in (("outcome", "x"), ("question_type", "kind"), ("target", "truth"), ("prediction", "reply")):
        write_text(path, json.dumps({old if name == new else name: value for name, value in whole.items()}) + "\n")
        with pytest.raises(InputError, match=rf"line 1: field {new}: missing; an older selfkd wrote this file"):
            read_samples(path)
