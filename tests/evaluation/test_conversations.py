"""`selfkd evaluate` on conversations: each turn is an item, after the reference responses of the turns before."""

from dataclasses import replace

import pytest
from examples import conversation_folder, toy_conversations, toy_examples

from selfkd.data.dataset import ExampleFolder, example_metadata
from selfkd.data.turns import TurnFolder, conversation_of
from selfkd.evaluation.backends.endpoint import messages_of, user_message
from selfkd.evaluation.backends.transcriber import with_transcripts_of_history
from selfkd.evaluation.cascade import predict_both_forms, question_form
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.evaluation.grading import GRADED_COLUMNS
from selfkd.evaluation.metrics import score
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import prompt_hash, read_samples, sample
from selfkd.evaluation.tables import turns_table
from selfkd.model.checkpoint import load_model

COUNTS = [3, 3, 1, 2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    examples = [*toy_conversations(2), toy_examples(3)[2], *toy_conversations(4, turns=2)[3:]]
    return conversation_folder(tmp_path_factory.mktemp("turns") / "data", examples)


@pytest.fixture(scope="module")
def run(start, data, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "eval"
    modalities = ["text", "audio", "cascade"]
    settings = {"modalities": modalities, "max_new_tokens": 12, "batch_size": 4}
    return output, evaluate(EvaluateConfig(str(start / "model"), [data], output, **settings))


def test_every_turn_is_an_item(data):
    stored, turns = ExampleFolder(data), TurnFolder(data)
    assert len(stored) == 4 and len(turns) == sum(COUNTS)
    expected = [example.at_turn(k) for example, n in zip(stored, COUNTS, strict=True) for k in range(n)]
    for item, example in zip(turns, expected, strict=True):
        assert replace(item, id=example.id) == example and conversation_of(item.id) == example.id
    assert [item.id.rpartition("/")[2] for item in turns][:4] == ["turn-1", "turn-2", "turn-3", "turn-1"]
    assert turns[6].id == stored[2].id  # a single question
    assert turns.metadata() == [example_metadata(e) for e in turns]
    rows = turns.columns(*GRADED_COLUMNS)
    assert rows == [{name: getattr(item, name) for name in GRADED_COLUMNS} for item in turns]
    rest = turns.without([0, 6])
    assert [e.id for e in rest] == [e.id for i, e in enumerate(turns) if i not in (0, 6)]
    assert [row["id"] for row in rest.columns("id")] == [e.id for e in rest]


def test_responses_are_those_of_the_chat_template_after_the_reference_responses(start, run, data):
    """By `apply_chat_template` and `generate`: in the audio modality all queries are clips, in text all are texts."""
    model, processor = load_model(str(start / "model"))
    model.eval()
    samples = {m: read_samples(run[0] / f"samples/world-noisy.{m}.jsonl") for m in ("text", "audio")}
    items = TurnFolder(data)
    for at in (2, 4, 8):
        for modality, found in samples.items():
            messages = []
            for number, turn in enumerate(items[at].turns()):
                image = [{"type": "image", "image": turn.load_image()}] if number == 0 else []
                query = {"type": "text", "text": turn.question}
                if modality == "audio":
                    query = {"type": "audio", "audio": turn.samples()}
                messages.append({"role": "user", "content": [*image, query]})
                messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
            settings = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
            inputs = processor.apply_chat_template(messages[:-1], **settings)
            inputs = {name: value for name, value in inputs.items() if name != "num_patches"}
            ids = model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=[processor.end_id])
            (response,) = processor.response_texts(ids[:, inputs["input_ids"].shape[1] :])
            assert (found[at]["id"], found[at]["prediction"]) == (items[at].id, response), modality


def test_samples_and_scores_are_by_turn(run, data):
    output, result = run
    items = TurnFolder(data)
    for modality in ("text", "audio", "cascade"):
        samples = read_samples(output / f"samples/world-noisy.{modality}.jsonl")
        assert [s["id"] for s in samples] == [item.id for item in items]
        assert [s["turn"] for s in samples] == [k + 1 for n in COUNTS for k in range(n)]
        assert [s["target"] for s in samples] == [item.target for item in items]
        assert len({s["group"] for s in samples[:3]}) == 1 and samples[0]["group"] != samples[3]["group"]
        scores = result["world-noisy"][modality]
        assert scores["n"] == 9 and {turn: s["n"] for turn, s in scores["turns"].items()} == {"1": 4, "2": 3, "3": 2}
        for turn, of_turn in scores["turns"].items():
            own = [s["score"] for s in samples if s["turn"] == int(turn)]
            assert of_turn["accuracy"] == pytest.approx(sum(own) / len(own))
    gap = result["world-noisy"]["gap"]["turns"]
    for turn, found in gap.items():
        text, audio = (result["world-noisy"][m]["turns"][turn]["accuracy"] for m in ("text", "audio"))
        assert found["gap"] == pytest.approx(text - audio)
    table = turns_table(result)
    assert table.row_count == 3 and list(table.columns[1].cells) == ["1", "2", "3"]


def test_single_questions_have_no_scores_by_turn():
    samples = [sample(e, "text", Prediction("red")) for e in toy_examples(3)]
    found = score({"text": samples}, seed=0)
    assert "turns" not in found["text"] and turns_table({"world": found}).row_count == 0


def test_a_prompt_depends_on_the_turns_before():
    (example,) = toy_conversations(1)
    changes = [{"answer": "x"}, {"question": "x"}, {"audio": b"x"}]
    others = [replace(example, history=(replace(example.history[0], **c), example.history[1])) for c in changes]
    hashes = [[prompt_hash(e, m) for e in (example, *others)] for m in ("text", "audio")]
    assert [[h == of[0] for h in of[1:]] for of in hashes] == [[False, False, True], [False, True, False]]


def test_an_endpoint_gets_the_turns_before():
    (example,) = toy_conversations(1)
    for modality in ("text", "audio"):
        messages = messages_of(example, modality)
        assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant", "user"]
        assert [m["content"] for m in messages[1::2]] == [turn.answer for turn in example.history]
        turns = list(example.turns())
        assert messages[0] == user_message(turns[0], modality) and len(messages[0]["content"]) == 2
        assert [m["content"] for m in messages[2::2]] == [
            user_message(replace(turn, image=None), modality)["content"] for turn in turns[1:]
        ]


class OwnText:
    """Transcribes by heart: the first two words of what was said, in lower case."""

    def transcribe(self, examples, language=""):
        return [" ".join(e.question.lower().split()[:2]) + "." for e in examples]


def test_cascade_gives_the_transcripts_of_all_turns_in_both_forms():
    examples = [*toy_conversations(2), toy_examples(1)[0]]
    known = with_transcripts_of_history(OwnText(), examples, "en")
    queries_given = []

    def predict(queries):
        for at, query in enumerate(queries):
            queries_given.append([turn.question for turn in query.turns()])
            yield at, Prediction(f"response {at}")

    found = dict(predict_both_forms(known, OwnText().transcribe(examples), "en", predict))
    expected = []
    for example in examples:
        verbatim = OwnText().transcribe(list(example.turns()))
        forms = [verbatim, [question_form(text) for text in verbatim]]
        expected += forms if forms[0] != forms[1] else forms[:1]
    assert queries_given == expected and len(found) == 3
    assert found[0].transcript == OwnText().transcribe(examples)[0]
    assert [turn.answer for turn in known[0].history] == [turn.answer for turn in examples[0].history]
