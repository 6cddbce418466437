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
from selfkd.evaluation.gap_table import scores_table
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.files import write_json, write_text
from selfkd.report.build import ReportConfig, report

pytest.importorskip("openai")
SAYS = ["thinks", "thinks apart", "at the limit", "silence", "deaf", "ok", "thinks too long", "aborted"]
NAME = "world-noisy"


@pytest.fixture(scope="module")
def examples():
    return toy_examples(len(SAYS))


@pytest.fixture(scope="module")
def data(examples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "a.parquet", examples, {"rows": len(SAYS)})
    write_json(folder / MANIFEST, {"source": NAME, "shards": [{"file": "a.parquet"}]})
    return folder


def spoken(example):
    return pair_of(example.image or b"", soundfile.read(io.BytesIO(example.audio), dtype="int16")[0].tobytes())


def config(data, run, url, **others):
    return EvaluateConfig("m", [str(data)], run, url=url, endpoint={"concurrency": 2, "max_retries": 0}, **others)


def test_each_response_has_its_outcome_and_the_failed_are_asked_again(examples, data, tmp_path, capsys):
    """eval_01, 02, 03, 04 and 09 in one run: the samples' fields, the counts, the words beside the gap, the report."""
    targets = {pair: e.target for e in examples for pair in (spoken(e), pair_of(e.image or b"", e.question.encode()))}
    with chat_server() as server:
        server.prediction = lambda asked: targets[asked.pair]
        server.script = {spoken(e): [says] for e, says in zip(examples, SAYS, strict=True)}
        with pytest.raises(InputError, match=r"2 items of world-noisy have no reply.*--keep_failures"):
            evaluate(config(data, tmp_path / "run", server.url))
        for e, says in zip(examples, SAYS, strict=True):
            server.script[spoken(e)] = [says]
        found = evaluate(config(data, tmp_path / "kept", server.url, keep_failures=True))[NAME]
        before = len(server.asked)
        again = evaluate(config(data, tmp_path / "run", server.url))[NAME]
        assert len(server.asked) == before + 2  # now they answer
    assert again["audio"]["outcomes"] == {"answer": 5, "cut": 1, "empty": 1, "refused": 1, "failed": 0}
    assert found["audio"]["outcomes"] == {"answer": 3, "cut": 1, "empty": 1, "refused": 1, "failed": 2}
    assert found["text"]["outcomes"] == {"answer": 8, "cut": 0, "empty": 0, "refused": 0, "failed": 0}
    records = read_samples(samples_path(tmp_path / "kept", NAME, "audio"))
    told = [(r["outcome"], r["finish_reason"], r["score"]) for r in records]
    assert told == [
        ("answer", "stop", 1.0), ("answer", "stop", 1.0), ("cut", "length", 0.0), ("empty", "stop", 0.0),
        ("refused", "stop", 0.0), ("answer", "stop", 1.0), ("failed", "length", None), ("failed", "abort", None),
    ]  # fmt: skip
    assert [r["reasoning"] for r in records] == ["Is it no? Or A?"] * 2 + [""] * 4 + ["Is it no?", ""]
    assert [r["parsed"] for r in records[3:5]] == [None, None] and found["audio"]["parse_rate"] <= 4 / 6
    assert len(found["gap"]["warnings"]) == 4
    said = capsys.readouterr().out
    assert all(" ".join(line.split()) in " ".join(said.split()) for line in found["gap"]["warnings"])
    report(ReportConfig([str(tmp_path / "kept")], tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert "12% of audio responses were cut at the token limit" in page and "a refusal" in page
    assert all(f">{name}" in page for name in ("Cut", "Empty", "Refused", "No reply"))


def test_the_table_fits_a_terminal_and_leaves_out_what_is_in_order():
    def scores(**outcomes):
        counts = {"answer": 9000, "cut": 0, "empty": 0, "refused": 0, "failed": 0} | outcomes
        return {
            "n": 9000,
            "failed": counts["failed"],
            "accuracy": 0.5,
            "stderr": 0.01,
            "chance": 0.5,
            "outcomes": counts,
        }

    line = (
        "12% of audio responses were cut at the token limit, 0% of text: raise --max_new_tokens before reading the gap"
    )
    gap = {"n": 9000, "gap": 0.1, "gap_interval": [0.1, 0.2], "mcnemar_p": 0.5, "verdict": "loses", "warnings": [line]}
    result = {
        "hallusionbench@some_very_long_voice": {"text": scores(), "audio": scores(cut=1080, refused=12), "gap": gap},
        "mme": {"text": scores(), "audio": scores(), "gap": gap | {"warnings": []}},
    }
    console = Console(width=80, file=io.StringIO())
    console.print(scores_table(result))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "1080" in console.file.getvalue() and "audio" in console.file.getvalue()
    outcomes = "\n".join(lines[next(i for i, text in enumerate(lines) if "Responses" in text) :])
    assert "mme" not in outcomes and " ".join(line.split()) in " ".join(outcomes.split())
    console = Console(width=80, file=io.StringIO())
    console.print(scores_table({"mme": result["mme"]}))
    assert "Responses" not in console.file.getvalue()


def test_samples_of_an_older_run_are_refused_in_words(tmp_path, data, examples):
    path = samples_path(tmp_path / "run", NAME, "text")
    write_text(path, json.dumps({"id": "x", "prediction": "yes", "error": ""}) + "\n")
    with pytest.raises(InputError, match=r"text\.jsonl: field outcome: missing; an older selfkd wrote this run"):
        read_samples(path)
