"""A cascade's transcripts run as the ASR model writes them and as questions; the better form of a benchmark counts."""

import json
import re
from dataclasses import replace

import pytest
from chat_server import chat_server, pair_of
from examples import toy_examples
from hypothesis import example, given
from hypothesis import strategies as st

from selfkd.cli import main
from selfkd.data.example import MANIFEST, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.evaluation.cascade import FORM_FIELDS, error_of, in_better_form, in_form, predict_both_forms, question_form
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import SampleFile, read_samples, sample, samples_path
from selfkd.files import write_json, write_text
from selfkd.report.build import ReportConfig, report

NAME = "world-noisy"  # the examples' source
WORDS = st.sampled_from(
    ["is", "What's", "isn’t", "the", "on", "which", "dog", "iPhone", "ßa", "ǆ", '"stop"', "3", "Mr.", "U.S.", "été"]
)
MARKS = st.sampled_from(["", ".", "?", "!", "...", "…", ",", ' ."', ".)", " .", "？"])
TRANSCRIPTS = st.tuples(st.lists(WORDS, max_size=5).map(" ".join), MARKS).map("".join) | st.text()


@pytest.mark.parametrize(
    ("transcript", "expected"),
    [
        ("is the red circle left of the blue star.", "Is the red circle left of the blue star?"),
        ("what color is it", "What color is it?"),
        ("Isn't it red.", "Isn't it red?"),
        ("what’s on the left", "What’s on the left?"),
        ("on which side is the dog.", "On which side is the dog?"),
        ('what does "stop" mean.', 'What does "stop" mean?'),
        ('"is it red."', '"Is it red."'),
        ("  how many dogs are there . ", "How many dogs are there?"),
        ("is it red?", "Is it red?"),
        ("is it red!", "Is it red!"),
        ("is it red...", "Is it red..."),
        ("is it red,", "Is it red,"),
        ("it is red.", "It is red."),
        ("the dog is", "The dog is"),
        ("is it red. answer yes or no.", "Is it red. answer yes or no."),
        ("island or lake.", "Island or lake."),
        ("will-o'-the-wisp.", "Will-o'-the-wisp."),
        ("iPhone or iPad", "iPhone or iPad"),
        ("IS IT RED", "IS IT RED?"),
        ("3 dogs.", "3 dogs."),
        ("", ""),
    ],
)
def test_question_form_of_english(transcript, expected):
    assert question_form(transcript) == question_form(transcript, "en-US") == expected


def test_question_form_of_other_languages_gets_a_capital_only():
    assert question_form("will er das.", "de") == "Will er das."
    assert question_form("图中有几只猫", "zh") == "图中有几只猫"


@given(TRANSCRIPTS, st.sampled_from(["en", "de"]))
@example("ǆ is", "en")
@example("ıs it", "en")
def test_question_form_keeps_the_words_and_is_idempotent(transcript, language):
    found = question_form(transcript, language)
    assert question_form(found, language) == found
    plain = transcript.strip()
    if found.endswith("?") and not plain.endswith("?"):
        found, plain = found.removesuffix("?"), plain.removesuffix(".").rstrip()
    assert len(found) == len(plain)
    changed = [(a, b) for a, b in zip(plain, found, strict=True) if a != b]
    assert len(changed) <= 1 and all(a.title() == b for a, b in changed)


def test_equal_forms_are_one_query_and_others_two():
    rows, sizes = toy_examples(3), []

    def predict(queries):
        queries = list(queries)
        sizes.append(len(queries))
        for at in reversed(range(len(queries))):  # as parallel requests may end
            yield at, Prediction(queries[at].question, seconds=at)

    transcripts = ["Is it red?", "is it red.", ""]
    found = dict(predict_both_forms(rows, transcripts, "en", predict))
    assert sizes == [4] and [found[at].transcript for at in range(3)] == transcripts
    assert [found[at].text for at in range(3)] == transcripts
    assert found[0].question_form is None and found[2].question_form is None
    assert found[1].question_form == Prediction("Is it red?", "Is it red?", seconds=2)


def sample_in_both(row, verbatim, question, error=""):
    """A sample of a cascade with a verbatim response, and one of its question form if that is not None."""
    other = None if question is None else Prediction(question, "Is it red?", error, seconds=0.5)
    return sample(row, "cascade", Prediction(verbatim, "is it red.", question_form=other))


def test_better_form_is_that_with_the_higher_score():
    rows = [replace(row, question_type="exists", target="yes") for row in toy_examples(4)]
    better = [sample_in_both(row, "no", "yes") for row in rows[:2]] + [sample_in_both(rows[2], "yes", None)]
    samples = in_better_form(better)
    assert [(s["form"], s["prediction"], s["transcript"]) for s in samples] == [
        ("question", "yes", "Is it red?"), ("question", "yes", "Is it red?"), ("question", "yes", "is it red."),
    ]  # fmt: skip
    assert [s["other_form"].get("prediction") for s in samples] == ["no", "no", None]
    assert [in_form(s, "verbatim") for s in samples] == better and in_better_form(samples) == samples
    assert all(list(s) == list(better[0]) and set(s["other_form"]) in ({*FORM_FIELDS}, set()) for s in samples)
    worse = [sample_in_both(rows[0], "yes", "no"), sample_in_both(rows[1], "no", "yes")]
    assert {s["form"] for s in in_better_form(worse)} == {"verbatim"}, "on a tie"
    lost = [sample_in_both(rows[0], "no", "yes"), *(sample_in_both(row, "yes", "", "lost") for row in rows[1:])]
    assert {s["form"] for s in in_better_form(lost)} == {"question"}, "items without a response in both do not count"
    assert [error_of(s) for s in in_better_form(lost)] == ["", "lost", "lost", "lost"]


def test_item_that_fails_in_one_form_runs_again(tmp_path):
    (row,) = toy_examples(1)
    file = SampleFile(tmp_path / "world.cascade.jsonl", [row.id])
    file.add(sample_in_both(row, "no", "", "lost"))
    assert file.missing() == [0]
    file.finish()
    file.reopen()
    assert file.missing() == [0]
    file.add(sample_in_both(row, "no", "yes"))
    assert file.missing() == []


def test_cascade_of_an_older_selfkd_is_refused(tmp_path):
    (row,) = toy_examples(1)
    old = {k: v for k, v in sample_in_both(row, "no", None).items() if k not in ("form", "other_form")}
    write_text(tmp_path / "pope.jsonl.cascade.jsonl.partial-0", json.dumps(old) + "\n")
    with pytest.raises(InputError, match=r"partial-0: line 1: field form: missing; an older selfkd wrote this file"):
        SampleFile(tmp_path / "pope.jsonl.cascade.jsonl", [row.id]).missing()
    text = sample(row, "text", Prediction("yes"))
    write_text(tmp_path / "a.cascade.text.jsonl", json.dumps(text) + "\n")
    assert read_samples(tmp_path / "a.cascade.text.jsonl") == [text] and "form" not in text


@pytest.fixture
def whisper_style(monkeypatch):
    """The ASR model writes each question as Whisper may: in lower case, with a full stop."""

    def transcribe(self, examples, language=""):
        return [f"{e.question.removesuffix('?').lower()}." for e in examples]

    monkeypatch.setattr(Transcriber, "transcribe", transcribe)


def questions(folder, count=6):
    folder.mkdir()
    rows = [
        replace(row, question=f"Is number {i} red?", question_type="exists", target="yes", answer_format="")
        for i, row in enumerate(toy_examples(count))
    ]
    write_shard(folder / "a.parquet", rows, {"rows": count})
    write_json(folder / MANIFEST, {"source": NAME, "shards": [{"file": "a.parquet"}]})
    return rows


def lines_without_seconds(folder):
    text = samples_path(folder, NAME, "cascade").read_text()
    return re.sub(r'"seconds": [0-9.]+', "", text).splitlines()


def test_cascade_has_the_scores_of_its_better_form(tmp_path, whisper_style, capsys):
    """Of an endpoint that reads questions only: result, table, compare and report name the form; a run that lost a
    response resumes to the same bytes."""
    rows = questions(tmp_path / "data")

    def respond(request):
        return "yes" if any(text.endswith("?") for text in request.texts) else "no"

    config = EvaluateConfig(
        "some-omni", [str(tmp_path / "data")], tmp_path / "eval-base", modalities=["text", "audio", "cascade"],
        asr_model="selfkd-tiny", endpoint={"max_retries": 0},
    )  # fmt: skip
    with chat_server() as server:
        server.prediction = respond
        config.url = server.url
        scores = evaluate(config)[NAME]["cascade"]
        assert len(server.requests) == 6 * 4, "text, audio, and a cascade in two forms"
        other = replace(config, output=tmp_path / "resumed")
        server.script[pair_of(rows[3].image, b"Is number 3 red?")] = ["ok", "400"]  # text, then the cascade's question
        with pytest.raises(InputError, match=r"^1 items of world-noisy have no response"):
            evaluate(other)
        before = len(server.requests)
        evaluate(other)
        assert len(server.requests) == before + 2, "the item runs again in both forms"
    assert (scores["form"], scores["accuracy"], scores["n"]) == ("question", 1.0, 6)
    assert {form: s["accuracy"] for form, s in scores["forms"].items()} == {"verbatim": 0.0, "question": 1.0}
    note = "cascade with transcripts in question form: world-noisy"
    assert note in " ".join(capsys.readouterr().out.split())
    samples = read_samples(samples_path(config.output, NAME, "cascade"))
    assert [(s["transcript"], s["prediction"]) for s in samples] == [(row.question, "yes") for row in rows]
    assert samples[2]["other_form"]["transcript"] == "is number 2 red."
    assert lines_without_seconds(tmp_path / "resumed") == lines_without_seconds(config.output)

    assert main(["compare", str(config.output), "--output", str(tmp_path / "c")]) == 0
    compared = json.loads((tmp_path / "c" / "scores.json").read_text())[NAME]["systems"]["cascade"]
    assert (compared["form"], compared["accuracy"]) == ("question", 1.0)
    assert compared["forms"]["verbatim"]["accuracy"] == 0.0
    assert note in " ".join(capsys.readouterr().out.split())
    page = report(ReportConfig([str(config.output)], tmp_path / "r.html")).read_text()
    assert "cascade (question form) 100.0%" in page and "<dt>Cascade (question form)</dt>" in page


def test_local_backend_runs_both_forms(start, tmp_path, whisper_style):
    """Text queries in the question form have the same response as the cascade in question form."""
    questions(tmp_path / "data")
    config = EvaluateConfig(
        str(start / "model"), [str(tmp_path / "data")], tmp_path / "run", modalities=["text", "cascade"], batch_size=4,
        asr_model="selfkd-tiny",
    )  # fmt: skip
    evaluate(config)
    text = read_samples(samples_path(config.output, NAME, "text"))
    cascade = [in_form(s, "question") for s in read_samples(samples_path(config.output, NAME, "cascade"))]
    assert [s["prediction"] for s in cascade] == [s["prediction"] for s in text]
    assert all(s["seconds"] > 0 and s["other_form"]["seconds"] > 0 for s in cascade)
