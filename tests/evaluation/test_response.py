"""The gate before grading: a response is one of answer, cut, empty, refused, failed, and reasoning meets no grader."""

import json
from dataclasses import replace

import pytest
from benchmark_datasets import local_dataset
from examples import toy_examples
from hypothesis import given, settings
from hypothesis import strategies as st

from selfkd.evaluation.backends.chat_response import parse_chat_response
from selfkd.evaluation.backends.local import predict_modalities
from selfkd.evaluation.benchmarks.registry import BENCHMARKS, open_benchmark
from selfkd.evaluation.grading import grade
from selfkd.evaluation.metrics import score
from selfkd.evaluation.response import ENDED, LIMIT, OUTCOMES, Prediction, gate, outcome_warnings, split_reasoning
from selfkd.evaluation.samples import sample

few = settings(deadline=None, max_examples=40, derandomize=True)
MARKS = [
    ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<THINK>", "</THINK>"), ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"), ("<seed:think>", "</seed:think>"), ("<think budget=5>", "</think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"), ("◁think▷", "◁/think▷"), ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"), ("&lt;think&gt;", "&lt;/think&gt;"),
    ("<unused94>thought\n", "<unused95>"), ("<|channel>thought\n", "<channel|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
]  # fmt: skip
plain_text = st.text(st.sampled_from("abc yes no. \nABÄ猫?,"), max_size=40)
words = st.sampled_from(["Yes", "No.", "B", "The answer is C.", "a red car", "两只狗", "42"])


def graded(prediction, source="pope", **details):
    known = {"id": "x", "source": source, "question_type": "yes_no", "category": "", "question": "?", "target": "yes"}
    return grade(known | {"details": details}, prediction)


@few
@given(
    text=st.one_of(plain_text, words, st.sampled_from([a + "hm" + b + c for a, b in MARKS for c in ("", " Yes")])),
    finish=st.sampled_from(
        ["", "stop", "length", "max_tokens", "error", "abort", "content_filter", "refusal", "odd", "7"]
    ),
    reasoning=plain_text,
    error=st.sampled_from(["", "", "it fell over"]),
)
def test_every_response_is_exactly_one_outcome(text, finish, reasoning, error):
    prediction = Prediction(text, "transcript", error, finish_reason=finish, reasoning=reasoning)
    assert prediction.outcome in OUTCOMES and (prediction.outcome == "failed") == bool(prediction.error)
    assert bool(prediction.text) == (prediction.outcome not in ("failed", "empty")) or finish == "refusal"
    assert finish.lower() in ENDED | LIMIT | {"refusal"} or prediction.outcome == "failed"
    assert prediction.outcome != "cut" or finish in LIMIT
    assert replace(prediction, seconds=1.0) == replace(prediction, seconds=1.0)
    again = replace(prediction, transcript="else")  # the gate is idempotent
    assert again == replace(prediction, transcript="else") and (again.text, again.outcome) == (
        prediction.text,
        prediction.outcome,
    )
    assert graded(prediction).score in (0.0, 1.0) and (
        prediction.outcome in ("answer", "cut") or graded(prediction).parsed is None
    )


@few
@given(marks=st.sampled_from(MARKS), thought=plain_text, answer=words)
def test_reasoning_between_tags_is_kept_and_not_graded(marks, thought, answer):
    """Closed, opened by the chat template, in pieces, and unclosed, with all kinds of tags."""
    begin, end = marks
    for text in (
        f"{begin}{thought}{end}\n\n{answer}",
        f"{thought}{end}{answer}",
        f"\n{begin}{thought}{begin}{end} {answer}",
    ):
        assert split_reasoning(text) == (answer, thought.strip(), False), text
    prediction = Prediction(f"{begin}{thought}{end}{answer}", finish_reason="stop")
    assert (prediction.text, prediction.reasoning, prediction.outcome) == (answer, thought.strip(), "answer")
    open_ended = f"{begin}{thought} {answer}"
    assert split_reasoning(open_ended)[0] == "" and split_reasoning(open_ended)[2]
    assert Prediction(open_ended, finish_reason="length").outcome == "failed" == Prediction(open_ended).outcome
    assert Prediction(open_ended, finish_reason="stop").outcome == "empty"
    assert Prediction(f"{begin}{thought}{end}", finish_reason="length").error.endswith("raise max_new_tokens")


def test_reasoning_tags_of_known_formats():
    for text, answer in (
        (
            "<|channel|>analysis<|message|>A dog?<|end|><|start|>assistant<|channel|>final<|message|>Yes<|return|>",
            "Yes",
        ),
        ("analysisWe think. Maybe no.assistantfinalYes", "Yes"),
        ("Here is my thought process:\nno\nHere is my response:\nYes", "Yes"),
        ("<SUMMARY>s</SUMMARY><REASONING>is it A?</REASONING><CONCLUSION> B </CONCLUSION>", "B"),
        ("<think>A?</think><answer>B</answer>", "B"),
        ("<|begin_of_thought|>A<|end_of_thought|>\n<|begin_of_solution|>B<|end_of_solution|>", "B"),
        ("Let me see: A? <answer>B</answer> That is it.", "B"),
        ("<think>A</think>maybe<think>C</think>B", "maybe\nB"),
        ("<thinking>a<reflection>b</reflection>c</thinking>Yes", "Yes"),
        ("<answer><|begin_of_box|>B<|end_of_box|></answer>", "B"),
        ("a < b and [reason] of <b>it</b>", "a < b and [reason] of <b>it</b>"),
        ("I think it is B", "I think it is B"),
    ):
        assert split_reasoning(text)[::2] == (answer, False), text
    assert split_reasoning("<|channel|>analysis<|message|>Is it")[::2] == ("", True)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_benchmark_grades_reasoning(tmp_path, name):
    """A word, a letter, a yes within reasoning changes no grade."""
    source = open_benchmark(name, local_dataset(tmp_path, name))
    for e in (source.example(i) for i in range(len(source))):
        known = {"id": e.id, "source": name, "question": e.question, "target": e.target, "category": e.category,
                 "question_type": e.question_type, "details": json.loads(e.details)}  # fmt: skip
        assert (
            grade(known, Prediction(f"<think>surely {e.target}</think>purple prose", finish_reason="stop")).score == 0
        )
        for right in (f"<think>zebra, no, A, B, yes, 7</think>\n\n{e.target}", f"zebra, no, B</think>{e.target}"):
            assert (
                grade(known, Prediction(right)) == grade(known, Prediction(e.target))
                and grade(known, Prediction(right)).score == 1
            )
        assert grade(known, Prediction("I'm sorry, but I can't hear the audio.")).parsed is None
        assert grade(known, Prediction(e.target, finish_reason="length")).score == 1  # cut, and graded as it stands


def response_body(message, finish="stop", **more):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish} | more
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()


def prediction_of(content):
    read = parse_chat_response(content)
    return Prediction(read.text, error=read.error, finish_reason=read.finish_reason, reasoning=read.reasoning)


THINKING = [
    {"reasoning_content": "Is it A?"}, {"reasoning": "Is it A?"}, {"thinking": "Is it A?"},
    {"reasoning": "Is it A?", "reasoning_details": [{"type": "reasoning.text", "text": "Is it A?"}]},
    {"thinking_blocks": [{"type": "thinking", "thinking": "Is it A?", "signature": "x"}]},
]  # fmt: skip
PARTS = [
    [{"type": "thinking", "thinking": "Is it A?"}], [{"type": "reasoning", "text": "Is it A?"}],
    [{"type": "thinking", "thinking": [{"type": "text", "text": "Is it A?"}]}],
    [{"type": "reasoning", "summary": ["Is it A?"]}],
]  # fmt: skip


@few
@given(thinking=st.sampled_from(THINKING), parts=st.sampled_from(PARTS), answer=words)
def test_reasoning_in_its_own_fields_and_parts(thinking, parts, answer):
    for message in ({"content": answer, **thinking}, {"content": [*parts, {"type": "text", "text": answer}]}):
        prediction = prediction_of(response_body(message))
        assert (prediction.text, prediction.reasoning, prediction.outcome) == (answer, "Is it A?", "answer")
    for content in ("", None):
        prediction = prediction_of(response_body({"content": content, **thinking}, "length"))
        assert (prediction.outcome, prediction.text, prediction.reasoning) == (
            "failed",
            "",
            "Is it A?",
        ) and prediction.error


@few
@given(
    text=st.sampled_from(["", "N", "No", "Yes, there is", None]),
    failure=st.sampled_from(
        [
            *(
                {"finish": f}
                for f in ("error", "abort", "content_filter", "tool_calls", "SAFETY", "network_error", "x")
            ),
            *({"error": e} for e in ({"code": 502}, "fell over", {"message": "m"})),
        ]
    ),
)
def test_error_inside_status_200_is_a_failure(text, failure):
    """Whatever text came before it."""
    prediction = prediction_of(response_body({"content": text}, **failure))
    assert (prediction.outcome, prediction.text) == ("failed", "") and prediction.error


def test_other_bodies_have_their_outcome():
    call = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    calls = [{"content": c, "tool_calls": call} for c in (None, "")]
    calls.append({"content": "", "function_call": call[0]["function"]})
    for message in (*calls, {"content": None}, {}, {"content": [{"type": "image"}]}):
        assert prediction_of(response_body(message)).outcome == "failed", message
    assert prediction_of(b'{"choices": []}').outcome == prediction_of(b'{"error": {"code": 1}}').outcome == "failed"
    assert prediction_of(response_body({"content": "Yes", "tool_calls": []})).outcome == "answer"
    assert (
        prediction_of(response_body({"content": ""})).outcome
        == prediction_of(response_body({"content": " \n"}, None)).outcome
        == "empty"
    )
    assert prediction_of(response_body({"content": ""}, "length")).outcome == "failed"
    for message in ({"content": None, "refusal": "No."}, {"content": [{"type": "refusal", "refusal": "No."}]}):
        assert (prediction_of(response_body(message)).outcome, prediction_of(response_body(message)).text) == (
            "refused",
            "No.",
        )
        assert graded(prediction_of(response_body(message))).parsed is None
    assert prediction_of(response_body({"content": "Yes, but"}, "length")).outcome == "cut"


def test_local_response_is_cut_where_no_end_token_came(parts):
    examples = toy_examples(3)
    whole = predict_modalities(*parts, examples, ["text"], 40)["text"]
    cut = predict_modalities(*parts, examples, ["text"], 1)["text"]
    assert {r.finish_reason for r in whole} == {"stop"} and {r.outcome for r in whole} == {"answer"}
    assert {r.finish_reason for r in cut} == {"length"} and {r.outcome for r in cut} <= {"cut", "failed"}


def samples_of(*responses, modality="text"):
    return [sample(e, modality, r) for e, r in zip(toy_examples(len(responses)), responses, strict=True)]


def test_outcomes_are_counted_and_their_difference_warns():
    """The result has the counts, the gap a warning where the modalities differ."""
    text = samples_of(*[Prediction("yes", finish_reason="stop")] * 8)
    audio = samples_of(
        Prediction("yes", finish_reason="stop"), Prediction("It is", finish_reason="length"),
        Prediction("", finish_reason="stop"),
        Prediction("I can't hear the audio.", finish_reason="stop"), Prediction("", error="x"),
        *[Prediction("no", finish_reason="stop")] * 3, modality="audio",
    )  # fmt: skip
    assert [r["outcome"] for r in audio[:5]] == ["answer", "cut", "empty", "refused", "failed"]
    assert {r["finish_reason"] for r in audio} == {"stop", "length", ""} and {r["reasoning"] for r in audio} == {""}
    assert [r["parsed"] for r in audio[2:5]] == [None] * 3 and [r["score"] for r in audio[2:5]] == [0.0, 0.0, None]
    found = score({"text": text, "audio": audio}, 0)
    assert found["audio"]["outcomes"] == {"answer": 4, "cut": 1, "empty": 1, "refused": 1, "failed": 1}
    assert found["text"]["outcomes"] == {"answer": 8, "cut": 0, "empty": 0, "refused": 0, "failed": 0}
    first, *others = found["gap"]["warnings"]
    assert len(others) == 3 and first == (
        "12% of audio responses were cut at the token limit, 0% of text: raise --max_new_tokens before reading the gap"
    )
    assert score({"text": text, "audio": text}, 0)["gap"]["warnings"] == []


@few
@given(text=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=30), data=st.data())
def test_only_different_rates_warn(text, data):
    audio = data.draw(st.permutations(text))
    first, same, cut = ([{"outcome": o, "error": ""} for o in some] for some in (text, audio, ["cut" for _ in text]))
    assert outcome_warnings(first, same) == []
    warned = any("cut" in line for line in outcome_warnings(first, cut))
    assert warned == (set(text) != {"cut"})


def test_gate_gives_the_reason_of_a_failure():
    assert gate("Yes", "abort").error == "the response has incomplete text (finish_reason abort)"
    assert gate("", "length").error.startswith("no text within the token limit")
    assert gate("", "length", "hm").error.startswith("reasoning and no answer within the token limit")
    assert gate("\u200b \ufeff", "stop").outcome == "empty"
