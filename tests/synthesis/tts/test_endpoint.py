"""Synthesis by an endpoint that fails, limits the rate, returns broken audio, and costs money."""

import json
from dataclasses import replace

import pytest
from speech_server import speech_server

from selfkd.errors import EngineError, InputError
from selfkd.synthesis.output_folder import USAGE
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.synthesis.tts.endpoint import Budget

pytest.importorskip("openai")
TEXTS = [f"Is there a dog in image {name}?" for name in ("one", "two", "three", "four", "five")]
KEY = "sk-of-a-customer"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with speech_server() as server:
        yield server


@pytest.fixture
def config(server, tmp_path):
    rows = [{"id": str(at), "question": text, "answer": "No."} for at, text in enumerate(TEXTS)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SynthesizeConfig(
        tmp_path / "out", "jsonl", str(tmp_path / "q.jsonl"), count=0, processes=1, engine="openai",
        engine_path=server.url, engine_model="some-tts", voices="nova",
    )  # fmt: skip


def shards(folder):
    return [path.name for path in folder.glob("*.parquet")]


@pytest.mark.slow
def test_failures_are_tried_again_and_broken_audio_costs_its_row(server, config, tmp_path):
    whole = synthesize(replace(config, output=tmp_path / "whole"))
    assert whole["rows"] == 5 == len(server.requests) and server.keys == {f"Bearer {KEY}"}
    server.requests.clear()
    server.script = {
        TEXTS[0]: ["500", "drop"],
        TEXTS[1]: ["429 after 0.3"],
        TEXTS[2]: ["noise", "noise"],
        TEXTS[4]: ["503", "cut"],
    }
    assert synthesize(config)["rejected"] == [] and shards(config.output) == shards(tmp_path / "whole")
    assert [sum(r["input"] == text for r in server.requests) for text in TEXTS] == [3, 2, 3, 1, 3]
    server.requests.clear()
    server.script = {TEXTS[3]: ["noise"] * 9, TEXTS[1]: ["400"]}
    manifest = synthesize(replace(config, output=tmp_path / "broken"))
    assert [r["id"] for r in manifest["rejected"]] == ["1", "3"] and manifest["rows"] == 3
    reasons = [r["reason"] for r in manifest["rejected"]]
    assert f"some-tts at {server.url}: Error code: 400" in reasons[0] and KEY not in reasons[0]
    assert "not readable" in reasons[1] or "audio" in reasons[1]
    assert sum(r["input"] == TEXTS[3] for r in server.requests) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("limits", "sent"), [({"requests": 3}, 3), ({"characters": 70}, 2)])
def test_a_budget_stops_the_job_and_a_higher_one_resumes_with_the_next_row(server, config, tmp_path, limits, sent):
    synthesize(replace(config, output=tmp_path / "whole"))
    server.requests.clear()
    (name,) = limits
    for _ in range(2):  # the same command has nothing left
        with pytest.raises(EngineError, match=rf"^budget: \d+ of {limits[name]} {name} are used.*a higher budget res"):
            synthesize(replace(config, budget=limits))
        assert len(server.requests) == sent and not shards(config.output)
    manifest = synthesize(replace(config, budget={name: 1_000}, processes=2))
    assert manifest["rows"] == 5 == len(server.requests), "rows that were paid for are not requested again"
    assert shards(config.output) == shards(tmp_path / "whole")
    used = json.loads((config.output / USAGE).read_text())
    assert used == {"requests": 5, "characters": sum(map(len, TEXTS))}


def test_retries_count_and_no_file_holds_the_key(server, config):
    server.script = {TEXTS[0]: ["500", "429 after 0.1"]}
    server.always = "401"
    with pytest.raises(EngineError, match="Error code: 401") as caught:
        synthesize(replace(config, budget={"requests": 100}))
    assert KEY not in str(caught.value)
    assert json.loads((config.output / USAGE).read_text())["requests"] == 3
    for path in config.output.rglob("*"):
        assert KEY.encode() not in path.read_bytes(), path
    with pytest.raises(EngineError, match="3 of 3 requests"):  # another model: no row was made, so it may be corrected
        synthesize(replace(config, budget={"requests": 3}, engine_model="another"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": {"dollars": 3}}, "budget: dollars: 3: give requests and characters"),
        ({"budget": {"requests": 0}}, "budget: requests: 0: .* at least 1"),
        ({"budget": {"requests": 5}, "engine": "espeak"}, "budget: is for --engine openai; espeak costs nothing"),
    ],
)
def test_a_budget_that_cannot_hold_is_refused(config, changes, message):
    with pytest.raises(InputError, match=message):
        synthesize(replace(config, **changes))
    assert not config.output.exists()


def test_a_budget_is_shared_by_all_that_spend(tmp_path):
    budgets = [Budget(tmp_path / USAGE, 3, 100) for _ in range(2)]
    budgets[0].spend(50)
    budgets[1].spend(30)
    with pytest.raises(EngineError, match="budget: 80 of 100 characters are used, and the next one needs 21"):
        budgets[0].spend(21)
    budgets[1].spend(20)
    with pytest.raises(EngineError, match="budget: 3 of 3 requests are used"):
        budgets[0].spend(0)
