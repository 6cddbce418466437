"""Are wrong responses on topic? Verdicts of the judge are parsed or refused, never guessed; the lexical measure agrees
with labels as far as was measured."""

import json

import pytest
from chat_server import chat_server

from selfkd.errors import InputError
from selfkd.evaluation.backends.openai_client import EndpointSettings, OpenAIClient
from selfkd.evaluation.judge import PROMPT_VERSION, Verdict, agreement, judge, labelled_predictions, parse_verdict
from selfkd.evaluation.overlap import overlap

LABELLED = labelled_predictions()
COLOR = "What color is the umbrella?"


@pytest.mark.parametrize(
    ("question", "prediction", "expected"),
    [
        (COLOR, "", 0),
        (COLOR, "?!", 0),
        (COLOR, "what color is the umbrella", 0),
        (COLOR, "Sorry, the color of the umbrella is not clear.", 0),
        (COLOR, "I can’t tell the color.", 0),
        (COLOR, "Blue", 1),
        (COLOR, "The umbrella is large.", 1 / 2),  # of color, umbrella
        (COLOR, "A busy street.", 0),
        ("How many dogs are there?", "3", 1),
        ("How many dogs are there?", "Some dogs.", 1),
        ("Is there a cup on the table?", "Yes.", 1),
        ("Is there a cup on the table?", "A cup is there.", 1 / 2),  # of cup, table
        ("Is there a cup of red color?", "Red wine.", 1 / 3),  # a yes/no question does not ask for a color
        ("Where is the cat?", "Near the door.", 1),
        ("What is the man holding in his hand?", "The man holds a cup in the hand", 2 / 3),  # man, hand; not holding
        ("What is this?", "A car.", 0),
    ],
)
def test_overlap_of_known_responses(question, prediction, expected):
    assert overlap(question, prediction) == pytest.approx(expected)


def test_overlap_agrees_with_labels_as_measured():
    """At a threshold of one half, fixed before measuring: agreement 20 of 26, kappa 0.54. It misses short answers to
    open questions, other languages, a number that counts something else, a paraphrase of the question."""
    verdicts = [Verdict(overlap(x["question"], x["prediction"]) >= 0.5) for x in LABELLED]
    found = agreement(verdicts, [x["on_topic"] for x in LABELLED])
    assert found["n"] == 26 and 0.7 < found["agreement"] < 0.85 and 0.4 < found["kappa"] < 0.7


def test_agreement_of_known_verdicts():
    """Ten items with 3 + 4 equal verdicts, and one item without a verdict."""
    verdicts = [Verdict(v) for v in [True] * 5 + [False] * 5] + [Verdict(None, error="no JSON")]
    labels = [True, True, True, False, False, False, False, False, False, True, True]
    found = agreement(verdicts, labels)
    assert (found["n"], found["without_verdict"], found["agreement"]) == (10, 1, 0.7)
    assert found["stderr"] == pytest.approx((0.7 * 0.3 / 10) ** 0.5)
    # 5 of 10 verdicts are yes, 4 of 10 labels: by chance 0.5 * 0.4 + 0.5 * 0.6 = 0.5
    assert found["kappa"] == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert agreement([Verdict(True)], [True])["kappa"] is None
    assert agreement([Verdict(None)], [True])["agreement"] is None
    with pytest.raises(InputError, match="labels: 1 for 0"):
        agreement([], [True])


@pytest.mark.parametrize(
    ("text", "on_topic", "reason"),
    [
        ('{"on_topic": true, "reason": "Answers it."}', True, "Answers it."),
        ('```json\n{"on_topic": false, "reason": "No."}\n```', False, "No."),
        ('Well. {curly} Here: {"reason": "a {b}", "on_topic": true} I hope so.', True, "a {b}"),
        ('{"verdict": {"on_topic": false}}', None, ""),
        ('{"on_topic": false, "reason": null}', False, ""),
        ('{"on_topic": true, "reason": "two\nlines"}', True, "two\nlines"),
        ('{"reason": "on topic"}', None, ""),
        ('{"on_topic": "true"}', None, ""),
        ('{"on_topic": true, "reason": "cut o', None, ""),
        ('{"on_topic": true} or rather {"on_topic": false}', None, ""),
        ("true", None, ""),
        ("", None, ""),
    ],
)
def test_verdicts_are_parsed_or_errors(text, on_topic, reason):
    verdict = parse_verdict(text)
    assert (verdict.on_topic, verdict.reason, bool(verdict.error)) == (on_topic, reason, on_topic is None)
    assert verdict.prompt_version == PROMPT_VERSION


def test_judge_behind_an_endpoint(monkeypatch):
    """A judge that returns the labels, once malformed; each verdict is that of its own item."""
    pytest.importorskip("openai")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.02)
    labels = {(x["question"], x["prediction"]): x["on_topic"] for x in LABELLED}
    samples = [{**x, "correct": False} for x in LABELLED]
    samples[5] |= {"prediction": "", "error": "budget of $1 reached"}

    def prediction(request):
        system, user = request.body["messages"]
        item = json.loads(user["content"])
        assert "on_topic" in system["content"] and set(item) == {"question", "true_answer", "prediction"}
        if item["prediction"] == "Blue.":
            return "On topic, I would say."
        verdict = {"on_topic": labels[item["question"], item["prediction"]], "reason": "r"}
        return f"```json\n{json.dumps(verdict)}\n```"

    with chat_server() as server:
        server.prediction = prediction
        client = OpenAIClient(server.url, "judge", EndpointSettings(concurrency=8, max_retries=1))
        verdicts = judge(samples, client)
        assert client.usage.requests == len(samples) - 1
        server.always = "503"
        assert "Error code: 503" in judge(samples[:1], client)[0].error
    assert verdicts[0].on_topic is None and "no JSON object" in verdicts[0].error
    assert verdicts[5].error == "there is no prediction to judge: budget of $1 reached"
    found = agreement(verdicts, [x["on_topic"] for x in LABELLED])
    assert (found["n"], found["without_verdict"], found["kappa"]) == (len(LABELLED) - 2, 2, 1.0)
    with pytest.raises(InputError, match="item 0: field target"):
        judge([{"question": "q", "prediction": "r"}], client)
