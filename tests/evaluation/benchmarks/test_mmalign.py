"""MMAlign from its files to scores, and a judge of wrong responses, through the commands."""

import json

import pytest
from chat_server import chat_server
from PIL import Image

from selfkd.cli import main
from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.evaluation.judge import PROMPT, PROMPT_VERSION, JudgeConfig, judge_run
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.report.build import ReportConfig, report


@pytest.fixture
def aro(tmp_path):
    """Six items of each type in the layout of ARO, on one image."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "images" / "1.jpg")
    box = {"image_path": "1.jpg", "bbox_x": 0, "bbox_y": 0, "bbox_w": 60, "bbox_h": 60}
    for question_type, more in (
        ("relation", {"relation_name": "left of"}),
        ("attribution", {"attributes": ["red", "blue"]}),
    ):
        items = [
            {
                **box,
                **more,
                "true_caption": f"the red cup {i} is on the blue table",
                "false_caption": f"the blue cup {i}",
            }
            for i in range(6)
        ]
        (tmp_path / f"{question_type}.json").write_text(json.dumps(items))
    return tmp_path


@pytest.mark.slow
def test_mmalign_is_built_synthesized_and_evaluated(aro, start, tmp_path):
    command = ["mmalign", "build", "--output", tmp_path / "data", "--per_type", "4", "--synthesis.processes", "1"]
    command += ["--relation", aro / "relation.json", "--attribution", aro / "attribution.json"]
    assert main([*map(str, command), "--images", str(aro / "images")]) == 0
    data = ExampleFolder(tmp_path / "data")
    assert len(data) == 8 and sorted(e.target for e in data) == list("AAAABBBB")
    assert data.source == "mmalign" and "red cup" in data[0].spoken_text
    config = EvaluateConfig(str(start / "model"), [str(tmp_path / "data")], tmp_path / "run", likelihood=True)
    scores = evaluate(config)["mmalign"]
    for modality in ("text", "audio"):
        samples = read_samples(samples_path(tmp_path / "run", "mmalign", modality))
        assert all(len(s["log_likelihoods"]) == 2 and max(s["log_likelihoods"]) < 0 for s in samples)
        choices = [("A", "B")[s["log_likelihoods"][1] > s["log_likelihoods"][0]] for s in samples]
        correct = sum(a == s["target"] for a, s in zip(choices, samples, strict=True))
        assert scores[modality]["likelihood_accuracy"] == correct / 8
        assert scores[modality]["target_first_rate"] is None or 0 <= scores[modality]["first_rate"] <= 1


@pytest.mark.slow
def test_mmalign_of_the_toy_world(tmp_path):
    assert main(["mmalign", "build", "--output", str(tmp_path / "data"), "--per_type", "2"]) == 0
    assert [e.category for e in ExampleFolder(tmp_path / "data")] == ["relation", "attribute"] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--relation", "r.json"], "attribution: ARO needs"),
        (["--per_type", "0"], "per_type: 0: must be at least 1"),
        (["--synthesis.voice", "x"], "synthesis: 'voice' is no setting here"),
    ],
)
def test_bad_settings_are_refused(tmp_path, capsys, arguments, message):
    assert main(["mmalign", "build", "--output", str(tmp_path / "data"), *arguments]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "data").exists()


@pytest.mark.slow
def test_judge_grades_wrong_responses_and_resumes(start, tmp_path, capsys):
    run = tmp_path / "run"
    evaluate(EvaluateConfig(str(start / "model"), [str(start / "data")], run, modalities=["text", "audio"]))
    free = judge_run(JudgeConfig(run))
    name = "world-noisy.audio"
    wrong = [s for s in read_samples(samples_path(run, "world-noisy", "audio")) if not s["correct"]]
    assert free[name]["wrong"] == len(wrong) > 0 and free[name]["judged"] == 0 and 0 <= free[name]["overlap"] <= 1
    with chat_server() as server:
        server.prediction = lambda request: '{"on_topic": true, "reason": "it answers"}'
        judged = judge_run(JudgeConfig(run, "a-judge", server.url))
        # all are on topic: the interval depends on their number only
        interval = [pytest.approx(0.025 ** (1 / len(wrong))), 1.0]
        assert judged[name] == {**free[name], "judged": len(wrong), "on_topic": 1.0, "interval": interval}
        requests = len(server.requests)
        assert requests == sum(metrics["wrong"] for metrics in judged.values()) + 26
        about = json.loads((run / "judged.json").read_text())["about"]
        assert (about["judge"], about["prompt_version"], about["prompt"]) == ("a-judge", PROMPT_VERSION, PROMPT)
        # 14 of the 26 labels are true: a judge that always answers true agrees with these, as by chance
        agrees = [about["agreement"][key] for key in ("n", "without_verdict", "agreement", "kappa")]
        assert agrees == [26, 0, 14 / 26, 0]
        assert "a-judge: agrees with 54% (10) of 26 labels, kappa 0.00" in capsys.readouterr().out
        with (run / "judged" / f"{name}.jsonl").open("ab") as file:
            file.write(b'{"id": "cut sh')
        assert judge_run(JudgeConfig(run, "a-judge", server.url)) == judged and len(server.requests) == requests
        server.prediction = lambda request: '{"on_topic": false, "reason": "it does not"}'
        other = judge_run(JudgeConfig(run, "another-judge", server.url))
        assert other[name]["on_topic"] == 0 and len(server.requests) == 2 * requests, (
            "verdicts of another judge are not reused"
        )
        path = samples_path(run, "world-noisy", "audio")
        samples = [
            s | {"prediction": f"{s['prediction']} indeed"} if s["id"] == wrong[0]["id"] else s
            for s in read_samples(path)
        ]
        path.write_text("".join(json.dumps(s) + "\n" for s in samples))
        other = judge_run(JudgeConfig(run, "another-judge", server.url))
        assert len(server.requests) == 2 * requests + 1, "a verdict belongs to a response"
        judge_run(JudgeConfig(run, "another-judge", server.url, {"extra": {"temperature": 1}}))
        assert len(server.requests) == 3 * requests + 1, "and to the settings of the request"
    assert judge_run(JudgeConfig(run)) == other, "without a judge existing verdicts stay"
    page = report(ReportConfig([str(run)], tmp_path / "report.html")).read_text()
    assert "run: another-judge agrees with 46% (10) of 26 labels" in page
    with pytest.raises(InputError, match="holds no samples"):
        judge_run(JudgeConfig(tmp_path))


@pytest.mark.slow
def test_judge_budget_holds_over_repetitions_and_its_end_is_reported(start, tmp_path, capsys):
    run = tmp_path / "run"
    evaluate(EvaluateConfig(str(start / "model"), [str(start / "data")], run, modalities=["audio"]))
    wrong = judge_run(JudgeConfig(run))["world-noisy.audio"]["wrong"]
    assert wrong > 2
    with chat_server() as server:  # 1,000 prompt tokens a request
        server.prediction = lambda request: '{"on_topic": true, "reason": "it answers"}'
        endpoint = {"concurrency": 1, "price_in": 1.0, "budget": 0.028}
        for _ in range(2):
            with pytest.raises(
                InputError, match=rf"{wrong - 2} predictions have no verdict, .*: budget of \$0.028 reached"
            ):
                judge_run(JudgeConfig(run, "a-judge", server.url, endpoint))
            assert len(server.requests) == 26 + 2, "the labels come first, and the budget is that of the run"
        printed = capsys.readouterr().out
        assert "agrees with 54% (10) of 26 labels" in printed and "a-judge: 28 requests (0 retries)" in printed
        judged = json.loads((run / "judged.json").read_text())
        assert judged["metrics"]["world-noisy.audio"]["judged"] == 2
        judge_run(JudgeConfig(run, "a-judge", server.url, endpoint | {"budget": 1}))
        assert len(server.requests) == 26 + wrong
