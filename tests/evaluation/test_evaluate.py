"""`selfkd evaluate`: any model, text and audio; an interrupted run resumes; an item without a response is never
wrong."""

import json
import os
import socket
import time
from dataclasses import replace
from types import SimpleNamespace

import pandas
import pytest
from benchmark_datasets import ANSWERS, HEADLINES, ROWS, local_dataset
from chat_server import chat_server, pair_of
from datasets import Dataset, Features, Image, Value
from examples import tone, toy_examples
from processes import Command, run_selfkd

from selfkd.cli import main
from selfkd.data import lazy_images
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, image_hash, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.benchmarks.registry import BENCHMARKS, open_benchmark
from selfkd.evaluation.compare import compare
from selfkd.evaluation.config import CompareConfig
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import SampleFile, read_samples, sample, samples_path
from selfkd.files import write_json
from selfkd.json_files import read_json

MODALITIES = ["text", "audio", "cascade"]
NAME = "world-noisy"  # the examples' source


@pytest.fixture(scope="module")
def run(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    config = EvaluateConfig(str(start / "model"), [str(start / "data")], folder, modalities=MODALITIES, batch_size=5)
    return folder, evaluate(config)


def _without_seconds(fields):
    return {k: v for k, v in fields.items() if k != "seconds"}


def samples_without_seconds(folder):
    return {
        path.name: [
            _without_seconds(s) | {"other_form": _without_seconds(s.get("other_form", {}))} for s in read_samples(path)
        ]
        for path in sorted((folder / "samples").iterdir())
    }


def write_data(folder, examples, **manifest):
    """A folder of examples in one shard."""
    write_shard(folder / "a.parquet", examples, {"rows": len(examples)})
    write_json(folder / MANIFEST, manifest | {"shards": [{"file": "a.parquet"}]})
    return str(folder)


@pytest.fixture
def inline_synthesis(monkeypatch):
    """Shards are synthesized in this process, with empty file caches as in a worker: the pool is not the subject."""

    def run_jobs(stage, jobs, *_):
        for cached in vars(lazy_images).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()
        return (stage(*job) for job in jobs)

    monkeypatch.setattr("selfkd.synthesis.synthesize.run_jobs", run_jobs)


@pytest.mark.slow
def test_run_holds_every_sample_and_every_metric(run):
    folder, result = run
    scores = result[NAME]
    assert [scores[v]["n"] for v in MODALITIES] == [16] * 3 and scores["text"]["accuracy"] > 0.8
    assert {"accuracy", "stderr", "parse_rate", "yes_bias", "failed"} <= set(scores["audio"])
    assert scores["gap"]["n"] == scores["cascade_gap"]["n"] == 16 and len(scores["gap"]["gap_interval"]) == 2
    table = pandas.read_json(samples_path(folder, NAME, "audio"), lines=True)
    assert len(table) == 16 and {"id", "prompt_hash", "prediction", "parsed", "score", "seconds", "error"} <= set(table)
    assert list(table["id"]) == [f"world-train-5-{i:06d}" for i in range(16)] and (table["seconds"] > 0).all()
    text = pandas.read_json(samples_path(folder, NAME, "text"), lines=True)
    assert (text["prompt_hash"] != table["prompt_hash"]).all() and table["prompt_hash"].is_unique
    assert json.loads((folder / "provenance.json").read_text())["commit"]


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_samples(start, run, tmp_path):
    command = ["evaluate", start / "model", "--data", start / "data", "--modalities", "text,audio,cascade"]
    command += ["--batch_size", "1", "--output", tmp_path / "killed"]
    partial = tmp_path / "killed" / "samples" / f"{NAME}.audio.jsonl.partial-0"
    with Command(command) as process:
        deadline = time.monotonic() + 90
        while not (partial.is_file() and partial.read_bytes().count(b"\n") >= 3) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.wait()
    kept = partial.read_bytes().count(b"\n")
    assert 3 <= kept < 16
    with partial.open("ab") as file:
        file.write(b'{"id": "world-train-5-0000')  # as a kill in the middle of a line leaves it
    done = run_selfkd(*command)
    assert done.returncode == 0 and "Score in % (standard error)" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert samples_without_seconds(tmp_path / "killed") == samples_without_seconds(run[0])


@pytest.mark.distributed
def test_two_processes_run_each_item_once(start, run, tmp_path):
    """With the environment that `accelerate launch` gives its processes."""
    command = ["evaluate", start / "model", "--data", start / "data", "--modalities", "text,audio,cascade"]
    command += ["--output", tmp_path / "two", "--batch_size", "5"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    ranks = [Command(command, env=environment | {"RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(2)]
    with ranks[0], ranks[1]:
        assert [process.wait() for process in ranks] == [0, 0], ranks[0].stderr + ranks[1].stderr
    assert samples_without_seconds(tmp_path / "two") == samples_without_seconds(run[0])


def test_undecodable_image_is_listed_or_kept_as_failure(start, tmp_path):
    rows = toy_examples(3)
    rows[1] = replace(rows[1], image=b"no image at all")
    write_data(tmp_path / "data", rows)
    config = EvaluateConfig(str(start / "model"), [str(tmp_path / "data")], tmp_path / "run")
    with pytest.raises(InputError, match=r"1 of 3 rows cannot be used .*not a readable image"):
        evaluate(config)
    assert not (tmp_path / "run" / "result.json").exists()
    config.keep_failures = True  # the item runs, and counts as failed
    scores = evaluate(config)[NAME]
    assert (scores["text"]["n"], scores["text"]["failed"], scores["gap"]["n"]) == (2, 1, 2)
    lost = read_samples(samples_path(tmp_path / "run", NAME, "text"))[1]
    assert lost["score"] is None and lost["correct"] is None and "not a readable image" in lost["error"]


def test_overlong_audio_fails_in_audio_and_not_in_text(start, tmp_path):
    rows = toy_examples(3)
    rows[1] = rows[1].with_audio(tone(31), "tone")
    write_data(tmp_path / "data", rows)
    config = EvaluateConfig(
        str(start / "model"), [str(tmp_path / "data")], tmp_path / "run", modalities=MODALITIES, keep_failures=True
    )
    scores = evaluate(config)[NAME]
    assert {modality: (scores[modality]["n"], scores[modality]["failed"]) for modality in MODALITIES} == {
        "text": (3, 0), "audio": (2, 1), "cascade": (2, 1),
    }  # fmt: skip


def test_endpoint_run_resumes_after_an_error(start, tmp_path):
    """Responses are kept; the same command runs the other items again; text, audio and a cascade."""
    examples = list(ExampleFolder(start / "data"))[:6]
    flaky = pair_of(examples[2].image, examples[2].question.encode())
    with chat_server() as server:
        server.script[flaky] = ["400"]
        config = EvaluateConfig(
            "some-omni", [str(start / "data")], tmp_path / "run", modalities=MODALITIES, limit=6, url=server.url,
            endpoint={"price_in": 1.0, "budget": 5.0, "max_retries": 0},
        )  # fmt: skip
        with pytest.raises(InputError, match="1 items of world-noisy have no response, the first because: "):
            evaluate(config)
        first_requests = len(server.requests)
        result = evaluate(config)[NAME]
        assert len(server.requests) == first_requests + 1, "only the item without a response runs again"
    assert [result[v]["n"] for v in MODALITIES] == [6] * 3
    cascade = read_samples(samples_path(tmp_path / "run", NAME, "cascade"))
    answered = 3 * 6 + sum(bool(s["other_form"]) for s in cascade)
    usage = json.loads((tmp_path / "run" / "usage.json").read_text())
    assert usage["requests"] == len(server.requests) and usage["prompt_tokens"] == 1000 * answered  # over both runs
    assert usage["dollars"] == pytest.approx(answered * 1000 / 1e6)
    audio = read_samples(samples_path(tmp_path / "run", NAME, "audio"))
    assert len({s["prediction"] for s in audio}) == 6
    assert all(isinstance(s["transcript"], str) for s in cascade)


def test_run_does_not_resume_over_other_data(tmp_path):
    def synthesize_audio(pitch_hz):
        rows = [replace(e, source="world").with_audio(tone(0.5, pitch_hz), "tone") for e in toy_examples(3)]
        write_shard(tmp_path / "data" / f"{pitch_hz}.parquet", rows, {"rows": 3})
        write_json(tmp_path / "data" / MANIFEST, {"shards": [{"file": f"{pitch_hz}.parquet"}]})

    (tmp_path / "data").mkdir()
    synthesize_audio(220)
    first = ExampleFolder(tmp_path / "data")[0]
    with chat_server() as server:
        server.script[pair_of(first.image, first.question.encode())] = ["400"]
        settings = {"max_retries": 0, "extra": {"max_tokens": None, "max_completion_tokens": 64}}
        config = EvaluateConfig(
            "some-omni", [str(tmp_path / "data")], tmp_path / "run", modalities=["text"], url=server.url,
            endpoint=settings,
        )  # fmt: skip
        with pytest.raises(InputError, match="1 items of world have no response"):
            evaluate(config)
        assert {"max_tokens", "max_completion_tokens"} & set(server.requests[0].body) == {"max_completion_tokens"}
        synthesize_audio(110)
        with pytest.raises(InputError, match=r"since the run began \(data: .*; give another output"):
            evaluate(config)
        synthesize_audio(220)
        other = replace(config, endpoint={"extra": {"temperature": 1}})
        with pytest.raises(InputError, match=r"since the run began \(endpoint.extra: .* there, .* here\); give ano"):
            evaluate(other)
        assert evaluate(config)["world"]["text"]["n"] == 3


def test_failed_item_of_a_benchmark_does_not_stop_the_others(start, tmp_path):
    rows = [replace(e, source="world", id=f"second-{i}") for i, e in enumerate(toy_examples(3))]
    write_data(tmp_path / "data", rows)
    lost = ExampleFolder(start / "data")[5]
    with chat_server() as server:
        server.script[pair_of(lost.image, lost.question.encode())] = ["html"]
        config = EvaluateConfig(
            "some-omni", [str(start / "data"), str(tmp_path / "data")], tmp_path / "run", modalities=["text"],
            url=server.url,
        )  # fmt: skip
        with pytest.raises(InputError, match=r"^1 items of world-noisy .*: .*not JSON"):
            evaluate(config)
        assert len(read_samples(samples_path(tmp_path / "run", "world", "text"))) == 3
        assert len(server.requests) == 16 + 3 and not (tmp_path / "run" / "result.json").exists()
        keeping = SampleFile(
            samples_path(tmp_path / "run", NAME, "text"), [e.id for e in ExampleFolder(start / "data")]
        )
        keeping.finish()  # as an interrupted run with --keep_failures leaves it
        assert {name: s["text"]["n"] for name, s in evaluate(config).items()} == {NAME: 16, "world": 3}
        assert len(server.requests) == 16 + 3 + 1


def test_endpoint_cascade_continues_after_overlong_audio(tmp_path, monkeypatch):
    """Audio over the ASR model's 30 s is that item's error; those after it run."""
    rows = toy_examples(3)
    rows[1] = rows[1].with_audio(tone(31), "tone")
    write_data(tmp_path / "data", rows)
    with chat_server() as server:
        config = EvaluateConfig(
            "some-omni", [str(tmp_path / "data")], tmp_path / "run", modalities=["cascade"], url=server.url,
            keep_failures=True,
        )  # fmt: skip
        scores = evaluate(config)[NAME]["cascade"]
    samples = read_samples(samples_path(tmp_path / "run", NAME, "cascade"))
    second_forms = sum(bool(s["other_form"]) for s in samples)
    assert (scores["n"], scores["failed"], len(server.requests)) == (2, 1, 2 + second_forms)
    assert [s["id"] for s in samples] == [e.id for e in rows]
    assert "31.0 s is over the encoder's 30 s" in samples[1]["error"]
    monkeypatch.setattr("selfkd.evaluation.evaluate._processes", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(InputError, match="url: an endpoint runs from one process"):
        evaluate(config)


def test_limit_takes_all_questions_about_an_image(tmp_path):
    """Of images 0, 1, 0, 2, 1 a limit of three takes the items of 0, since 1 would make four; samples name the
    group."""
    plain = toy_examples(5)
    rows = [replace(e, image=plain[at].image) for e, at in zip(plain, (0, 1, 0, 2, 1), strict=True)]
    write_data(tmp_path / "data", rows)
    with chat_server() as server:
        for limit, expected, groups in ((3, (0, 2), 1), (4, (0, 1, 2, 4), 2), (1, (0, 2), 1)):
            run = tmp_path / f"run-{limit}"
            config = EvaluateConfig("some-omni", [str(tmp_path / "data")], run, limit=limit, url=server.url)
            scores = evaluate(config)[NAME]
            assert (scores["audio"]["n"], scores["audio"]["groups"]) == (len(expected), groups)
            samples = read_samples(samples_path(run, NAME, "audio"))
            assert [s["id"] for s in samples] == [rows[i].id for i in expected]
            assert [s["group"] for s in samples] == [image_hash(rows[i].image) for i in expected]


@pytest.fixture
def pope_copy(tmp_path):
    """Four rows in POPE's layout."""
    images = [{"bytes": e.image, "path": None} for e in toy_examples(4)]
    table = {
        "id": list("0123"), "question_id": list("0123"), "answer": ["yes", "no", "yes", "no"],
        "question": ["Is there a dog in the image?", "Is there a cat in the image?", "Is there a bus in the image?",
                     "Is there a red car in the image?"],
        "image_source": ["x"] * 4, "image": images, "category": ["random"] * 4,
    }  # fmt: skip
    features = Features({**{k: Value("string") for k in table if k != "image"}, "image": Image()})
    Dataset.from_dict(table, features=features).to_parquet(tmp_path / "pope.parquet")
    return tmp_path / "pope.parquet"


@pytest.mark.slow
def test_benchmark_is_synthesized_once_a_voice(start, pope_copy, tmp_path, inline_synthesis):
    config = EvaluateConfig(
        str(start / "model"), [], tmp_path / "run", benchmarks=["pope"], local_datasets={"pope": str(pope_copy)},
        voices=["en-US+m1", "en-GB-scotland+f3"], cache=tmp_path / "cache", synthesis={"processes": 1},
    )  # fmt: skip
    result = evaluate(config)
    assert set(result) == {"pope@en-US+m1", "pope@en-GB-scotland+f3", "pope"}
    scores = result["pope@en-US+m1"]
    assert scores["text"]["n"] == 4 and set(scores["text"]["metrics"]) >= {"accuracy", "f1", "yes rate"}
    assert scores["text"]["accuracy"] * 100 == scores["text"]["metrics"]["accuracy"]
    assert result["pope"]["over_voices"]["voices"] == 2
    cached = [ExampleFolder(folder) for folder in sorted((tmp_path / "cache").glob("pope-*"))]
    assert len(cached) == 2 and all(e.answer_format.startswith("\nAnswer the question using") for e in cached[0])
    text = [read_samples(samples_path(tmp_path / "run", name, "text")) for name in list(result)[:2]]
    assert text[0] == text[1], "the second voice's text samples are the first one's"
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.parquet")}
    config.output, config.instruction = tmp_path / "again", "text"
    evaluate(config)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.parquet")}
    config.output, config.instruction, config.voices = tmp_path / "audio_form", "audio", ["en-US+m1"]
    evaluate(config)
    (folder,) = [f for f in map(ExampleFolder, (tmp_path / "cache").glob("pope-*")) if not f[0].answer_format]
    assert folder[0].question.endswith("Answer the question using a single word or phrase.") and len(cached[0]) == 4


def test_corrected_local_dataset_is_synthesized_again(start, pope_copy, tmp_path, inline_synthesis):
    def targets(output):
        config = EvaluateConfig(
            str(start / "model"), [], output, benchmarks=["pope"], local_datasets={"pope": str(pope_copy)},
            modalities=["text"], voices=["en-US+m1"], cache=tmp_path / "cache", synthesis={"processes": 1},
        )  # fmt: skip
        evaluate(config)
        return [s["target"] for s in read_samples(samples_path(output, "pope", "text"))]

    before = targets(tmp_path / "before")
    data = Dataset.from_parquet(str(pope_copy))
    turned = data.map(lambda row: {"answer": "no" if row["answer"] == "yes" else "yes"}, load_from_cache_file=False)
    turned.to_parquet(pope_copy)
    assert targets(tmp_path / "after") == [{"yes": "no", "no": "yes"}[t] for t in before]
    others = [{"bytes": e.image, "path": None} for e in toy_examples(8)[4:]]
    turned.remove_columns("image").add_column("image", others, feature=Image()).to_parquet(pope_copy)
    targets(tmp_path / "again")
    images = [ExampleFolder(folder)[0].image for folder in (tmp_path / "cache").glob("pope-*")]
    assert len(images) == 3 and others[0]["bytes"] in images


@pytest.mark.slow
def test_every_benchmark_from_its_layout_to_its_gap(tmp_path, inline_synthesis, capsys):
    """Each in the layout of its copy, synthesized, in text and audio; a model that answers text correctly and
    audio never. Its responses contain U+2028, which ends a line for Python and not for JSON."""
    rows = dict(ROWS) | {"mme": [ROWS["mme"][0], ROWS["mme"][1] | {"question": "Is a poem shown in the picture?"}]}
    local_datasets = {name: local_dataset(tmp_path, name, rows[name]) for name in BENCHMARKS}
    known = {
        row.question: row.answer for name, path in local_datasets.items() for row in open_benchmark(name, path).rows
    }
    config = EvaluateConfig(
        "reads", [], tmp_path / "run", benchmarks=["all"], local_datasets=local_datasets, cache=tmp_path / "cache",
        synthesis={"processes": 1},
    )  # fmt: skip
    with chat_server() as server:
        server.prediction = lambda request: next(
            (known[t] for t in request.texts if t in known), "It is\u2028a tone.\x85"
        )
        config.url = server.url
        result = evaluate(config)
    assert list(result) == [*BENCHMARKS, "average"]
    average = result.pop("average")["over_benchmarks"]
    assert average["benchmarks"] == list(BENCHMARKS)
    assert average["gap"]["headline"] == average["text"]["headline"] == 100
    output = capsys.readouterr().out
    assert "headline metrics" in output and max(len(line) for line in output.splitlines() if line[0] in "┏│└") <= 80
    for name, scores in result.items():
        text, audio = (scores[modality] for modality in ("text", "audio"))
        assert text["n"] == audio["n"] == len(ANSWERS[name]) and text["failed"] == audio["failed"] == 0
        for modality, headline in ((text, 100.0), (audio, 0.0)):
            assert next(iter(modality["metrics"].items())) == (HEADLINES[name], headline), name
        assert (scores["gap"]["gap"], scores["gap"]["only_text_correct"]) == (1.0, len(ANSWERS[name]))
        table = pandas.read_json(samples_path(config.output, name, "audio"), lines=True)
        assert list(table["prediction"]) == ["It is\u2028a tone."] * len(ANSWERS[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": []}, "data, benchmarks: name at least one"),
        ({"benchmarks": ["mmme"]}, "benchmarks: 'mmme' is not known; there are paper8, all, mme"),
        ({"benchmarks": ["pope"], "synthesis": {"voice": "x"}}, "synthesis: 'voice' is no setting here"),
        ({"endpoint": {"speed": 3}}, "endpoint: .*'speed'"),
        ({"modalities": []}, "modalities: must not be"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"endpoint": {"max_new_tokens": 9}}, "endpoint: max_new_tokens: is a field of the run itself"),
        ({"asr_prompt": "star"}, "asr_prompt: no effect without the modality cascade"),
        ({"asr_prompt": "star", "modalities": ["cascade"]}, "asr_prompt: needs a Whisper checkpoint as asr_model"),
        (
            {"benchmarks": ["pope"], "modalities": ["text", "cascade"]},
            "asr_model: .* the toy world only; name one",
        ),
    ],
)
def test_invalid_settings_are_refused(start, tmp_path, changes, message):
    settings = {"model": str(start / "model"), "data": [str(start / "data")], "output": tmp_path / "run"} | changes
    with pytest.raises(InputError, match=message):
        evaluate(EvaluateConfig(**settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_benchmark_in_several_voices(start, tmp_path, capsys):
    """Each folder has scores of its own under the name of its voice; text queries run once."""
    data = [f"{voice}={start / 'data'}" for voice in ("anna", "ben")]
    result = evaluate(EvaluateConfig(str(start / "model"), data, tmp_path / "eval-one", limit=4))
    assert set(result) == {"world-noisy@anna", "world-noisy@ben", "world-noisy"}
    assert result["world-noisy"]["over_voices"]["voices"] == 2
    base = EvaluateConfig(str(start / "model"), data, tmp_path / "eval-base", limit=4, modalities=["cascade"])
    evaluate(base)
    capsys.readouterr()
    compare(CompareConfig([str(tmp_path / "eval-one"), str(base.output)], tmp_path))
    printed = capsys.readouterr().out
    assert "world-noisy by voice" in printed and "WER" in printed and "SD over voices" in printed
    over = read_json(tmp_path / "scores.json")["world-noisy"]["over_voices"]["one"]
    assert over == result["world-noisy"]["over_voices"], "the same spread in both"
    assert over["voices"] == 2 and over["accuracy"]["sd"] == 0.0 and len(over["gap"]["interval"]) == 2
    with pytest.raises(InputError, match="a second folder of 'world-noisy@anna'; VOICE=FOLDER names the voice"):
        evaluate(EvaluateConfig(str(start / "model"), [data[0], data[0]], tmp_path / "run"))


def test_folder_given_twice_is_refused(start, tmp_path):
    with pytest.raises(InputError, match="a second folder of 'world-noisy'"):
        evaluate(EvaluateConfig(str(start / "model"), [str(start / "data")] * 2, tmp_path / "run"))


@pytest.mark.parametrize(
    ("name", "why"), [("pope", "names a public benchmark"), ("average", "is reserved"), ("me@home", "is reserved")]
)
def test_own_questions_with_a_reserved_name_are_refused(start, tmp_path, name, why):
    rows = [replace(e, source=name) for e in toy_examples(2)]
    write_data(tmp_path / "data", rows, source="jsonl")
    with pytest.raises(InputError, match=f"data: .*data: its questions are from '{name}', which {why}"):
        evaluate(EvaluateConfig(str(start / "model"), [str(tmp_path / "data")], tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_samples_of_several_processes_are_joined_in_the_order_of_the_data(tmp_path):
    examples = toy_examples(3)
    ids = [e.id for e in examples]
    files = [SampleFile(tmp_path / "world.text.jsonl", ids, rank) for rank in (0, 1)]
    files[1].add(sample(examples[2], "text", Prediction("two")))
    files[0].add(sample(examples[0], "text", Prediction("", error="lost")))
    assert files[0].missing() == [0, 1]
    files[1].add(sample(examples[0], "text", Prediction("zero")))
    files[0].add(sample(examples[1], "text", Prediction("one")))
    assert files[0].missing() == []
    files[0].finish()
    assert [s["prediction"] for s in read_samples(tmp_path / "world.text.jsonl")] == ["zero", "one", "two"]
    assert [p.name for p in tmp_path.iterdir()] == ["world.text.jsonl"]


def test_word_error_rate_of_each_modality():
    """In the cascade of its own transcript ("red" is gone, "a bed" is there: 2 of 3 words), in audio of the quality
    filter's."""
    (example,) = toy_examples(1)
    example = replace(example, question="Is it red?", spoken_text="Is it red?", word_error_rate=0.25)
    rates = {m: sample(example, m, Prediction("yes", "Is it a bed?"))["word_error_rate"] for m in MODALITIES}
    assert rates == {"text": None, "audio": 0.25, "cascade": pytest.approx(2 / 3)}
    assert sample(example, "cascade", Prediction("", error="lost"))["word_error_rate"] is None
    assert sample(replace(example, word_error_rate=-1.0), "audio", Prediction("yes"))["word_error_rate"] is None
    example = replace(example, spoken_text="图中有几只猫")  # a script without spaces: characters are counted
    assert sample(example, "cascade", Prediction("", "图中有几只狗"), "zh")["word_error_rate"] == pytest.approx(1 / 6)


def test_compare_of_two_runs(start, run, tmp_path, capsys):
    again = tmp_path / "eval-again"
    evaluate(EvaluateConfig(str(start / "model"), [str(start / "data")], again, modalities=["audio"]))
    capsys.readouterr()
    assert main(["compare", f"base={run[0]}", str(again), "--output", str(tmp_path / "c")]) == 0
    scores = json.loads((tmp_path / "c" / "scores.json").read_text())[NAME]
    assert list(scores["systems"]) == ["text", "base", "again", "cascade"]
    assert scores["gap_closed"]["again"]["baseline"] == "base" and scores["gap_closed"]["again"]["difference"] == 0
    assert set(scores["gap"]) == {"base", "again", "cascade"} and "gap closed" in capsys.readouterr().out
    with pytest.raises(InputError, match="a second 'base'"):
        main(["compare", f"base={run[0]}", f"base={again}", "--output", str(tmp_path / "d"), "--debug"])
