"""Rows that a model cannot take are listed at once, before its weights are read, or skipped and counted."""

import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from examples import interrupted_at, tone, toy_examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessorPil, WhisperFeatureExtractor

from selfkd.check_data import CheckConfig, check
from selfkd.cli import main
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, SCHEMA_VERSION, image_columns, image_to_png, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.files import sha256, write_json
from selfkd.model.checkpoint import CheckpointInfo
from selfkd.model.image_processor import image_processor_class
from selfkd.model.processing_omni import OmniProcessor
from selfkd.run_dir import MODEL, UNUSABLE, read_log
from selfkd.training import usable_rows
from selfkd.training.data import paired_item
from selfkd.training.distill import DistillConfig, distill
from selfkd.training.usable_rows import Unusable, Use, find_unusable


def png(width, height):
    return image_to_png(Image.new("RGB", (width, height), "red"))


def cut_jpeg():
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 90).convert("RGB").save(buffer, format="JPEG")
    return buffer.getvalue()[:3000]


# {problem: (how a good row gets it, the reason given)}
BAD = {
    "no question": (lambda e: replace(e, question=" \n"), "field question: is empty"),
    "no answer": (lambda e: replace(e, answer=""), "field answer: is empty"),
    "a long answer": (lambda e: replace(e, answer="very long " * 600), "tokens do not fit the model's context of 2048"),
    "a long question": (lambda e: replace(e, question="so what " * 900), "too short for its question|do not fit"),
    "a long instruction": (lambda e: replace(e, instruction="é" * 2100), "do not fit the model's context"),
    "no image": (lambda e: replace(e, image=b"not an image"), "field image: not a readable image"),
    "truncated image": (lambda e: replace(e, image=cut_jpeg()), "field image: not a readable image"),
    "short audio": (lambda e: e.with_audio(tone(0.01), "tone"), "field audio: 0.010 s of audio is too short"),
    "long audio": (lambda e: e.with_audio(tone(31), "tone"), "field audio: 31.000 s of audio is over 30 s"),
    "unreadable audio": (lambda e: replace(e, audio=b"not audio"), "field audio: not readable audio"),
    "no audio": (lambda e: replace(e, audio=None, duration_seconds=0.0), "field audio: 0.000 s of audio"),
    "audio too short for CTC": (lambda e: e.with_audio(tone(0.05), "tone"), "too short for its question: CTC needs"),
}


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(folder / "a.parquet", rows, {"rows": len(rows), "rejected": []})
    shard = {"file": "a.parquet", "rows": len(rows), "sha256": sha256(folder / "a.parquet")}
    whole = {
        "schema_version": SCHEMA_VERSION,
        "source": "world",
        "rows": len(rows),
        "rejected": [],
        "rejected_shards": [],
    }
    write_json(folder / MANIFEST, whole | {"shards": [shard]})
    return ExampleFolder(folder)


@pytest.mark.parametrize("problem", BAD)
def test_each_problem_is_found_with_its_row(parts, tmp_path, problem):
    make, reason = BAD[problem]
    rows = toy_examples(4)
    rows[2] = make(rows[2])
    use = Use(parts[1], 2048, trains=True, ctc_tokens=frozenset())
    (found,) = find_unusable([(write(tmp_path, rows), None)], use)
    assert (found.position, found.id) == (2, rows[2].id)
    assert re.search(reason, found.reason), found.reason
    if problem in ("no answer", "short audio", "long audio", "unreadable audio", "no audio", "audio too short for CTC"):
        evaluates = Use(parts[1], 2048, ["text"], new_tokens=64)
        assert not find_unusable([(ExampleFolder(tmp_path), None)], evaluates), "as a text query it can be used"


@settings(deadline=None, max_examples=12, derandomize=True, suppress_health_check=list(HealthCheck))
@given(wrong=st.dictionaries(st.integers(0, 5), st.sampled_from(sorted(BAD)), max_size=4), trains=st.booleans())
def test_usable_rows_can_be_prepared_and_unusable_ones_cannot(parts, tmp_path_factory, wrong, trains):
    rows = toy_examples(6)
    for i, problem in wrong.items():
        rows[i] = BAD[problem][0](rows[i])
    folder = write(tmp_path_factory.mktemp("data"), rows)
    use = Use(parts[1], 2048, trains=trains, new_tokens=0 if trains else 48)
    gone = {u.position for u in find_unusable([(folder, None)], use)}
    assert gone <= set(wrong)
    left = folder.without(gone)
    assert [e.id for e in left] == [row["id"] for row in left.columns("id")] == [
        e.id for i, e in enumerate(rows) if i not in gone
    ]  # fmt: skip
    assert len(left.metadata()) == len(left)
    for example in left:
        use.prepare(example)
    for i in gone:
        with pytest.raises(InputError):
            use.prepare(folder[i])


@settings(deadline=None, max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(st.text(max_size=60), min_size=4, max_size=4),
    size=st.sampled_from([(0, 0), (64, 64), (640, 480)]),
    seconds=st.floats(0.1, 5),
)
def test_a_row_that_surely_fits_does_fit(parts, texts, size, seconds):
    """The bound that avoids the tokenizer is an upper bound for any row."""
    question, answer, instruction, answer_format = texts
    example = replace(
        toy_examples(1)[0], question=f"a{question}", answer=f"a{answer}", instruction=instruction,
        answer_format=answer_format, image=png(*size) if size[0] else None,
    ).with_audio(tone(seconds), "tone")  # fmt: skip
    row = vars(example) | image_columns(example)
    processor = parts[1]
    item = paired_item(processor, example)
    needed = max(
        processor.length([*item.prefix_ids, *ids, *item.response_ids], audio)
        for ids, audio in ((item.text_ids, {}), (item.audio_ids, item.audio_inputs))
    )
    for context in (needed - 1, needed, 3000):
        if Use(processor, context, trains=True).surely_fits(row):
            assert needed <= context


def test_of_much_data_only_the_columns_are_read(parts, tmp_path, monkeypatch):
    """Sizes are known without decoding, and small rows are not tokenized."""
    folder = write(tmp_path, [*toy_examples(6), *[BAD["no image"][0](e) for e in toy_examples(1)]])
    monkeypatch.setattr(usable_rows, "DECODED_PIXELS", 0)
    monkeypatch.setattr(ExampleFolder, "read", lambda *_: pytest.fail("an image was read"))
    (found,) = find_unusable([(folder, None)], Use(parts[1], 2048, trains=True))
    assert found.position == 6


def qwen2_vl():
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_bos_token": "<|vision_start|>"}
    names |= {"vision_eos_token": "<|vision_end|>"}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>", "<|im_start|>", *names.values()])
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}{% if p['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=template,
        extra_special_tokens=names,
    )  # fmt: skip
    own = image_processor_class("qwen2_vl")(
        image_processor=Qwen2VLImageProcessorPil(), tokenizer=tokenizer, chat_template=template
    )
    return OmniProcessor(own, WhisperFeatureExtractor())


@settings(deadline=None, max_examples=25, derandomize=True)
@given(size=st.tuples(st.integers(1, 700), st.integers(1, 700)))
def test_images_of_extreme_shape_are_refused_for_qwen2_vl(size):
    """transformers raises a ValueError; the same message comes from the columns and from the image itself."""
    processor = _QWEN2_VL
    example = replace(toy_examples(1)[0], id="strip", image=png(*size))
    strip = max(size) / min(size) > 200
    for name, prepare in (
        ("field image", lambda: processor.image_tokens(*size)),
        ("example strip: field image", lambda: paired_item(processor, example)),
    ):
        if strip:
            with pytest.raises(InputError, match=f"^{name}: the model does not take {size[0]} x {size[1]} pixels"):
                prepare()
        else:
            prepare()


_QWEN2_VL = qwen2_vl()


def unusable_data(folder):
    rows = toy_examples(12)
    for i, problem in ((1, "a long answer"), (5, "truncated image"), (9, "short audio")):
        rows[i] = BAD[problem][0](rows[i])
    write(folder, rows)
    return [rows[i].id for i in (1, 5, 9)]


def config(start, data, output, **changes):
    given = {"model": str(start / "model"), "steps": 6, "batch_size": 3, "save_steps": 2, "warmup_steps": 1}
    return DistillConfig([str(data)], output, **given | changes)


def test_training_lists_unusable_rows_before_the_model_is_loaded(start, tmp_path, monkeypatch):
    ids = unusable_data(tmp_path / "data")
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointInfo, "load", lambda *_: pytest.fail("the model was loaded"))
        with pytest.raises(InputError, match="data: 3 of 12 rows cannot be used") as raised:
            distill(config(start, tmp_path / "data", tmp_path / "run"))
    assert all(f"example {i}: field" in str(raised.value) or f"example {i}: " in str(raised.value) for i in ids)
    assert "--skip_unusable" in str(raised.value)
    # the corrected command can use the run directory
    result = distill(config(start, tmp_path / "data", tmp_path / "run", skip_unusable=True))
    assert result["examples"] == 9 and result["skipped_unusable"] == 3 and sum(result["skipped_because"].values()) == 3
    assert [entry["id"] for entry in json.loads((tmp_path / "run" / UNUSABLE).read_text())] == ids
    assert read_log(tmp_path / "run")[0]["skipped_unusable"] == 3


def test_an_estimate_lists_unusable_rows(start, tmp_path):
    unusable_data(tmp_path / "data")
    estimated = config(start, tmp_path / "data", tmp_path / "run", dry_run=True)
    with pytest.raises(InputError, match="data: 3 of 12 rows cannot be used"):
        distill(estimated)
    assert distill(replace(estimated, skip_unusable=True))["load"]["examples"] == 9
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_resumed_run_skips_the_same_rows(start, tmp_path):
    unusable_data(tmp_path / "data")
    data = [f"{tmp_path / 'data'}:1", f"{start / 'data'}:2"]
    whole, cut = (
        replace(config(start, "", tmp_path / name, skip_unusable=True), data=data) for name in ("whole", "cut")
    )
    distill(whole)
    with interrupted_at(4), pytest.raises(KeyboardInterrupt):
        distill(cut)
    distill(cut)
    one, two = (sha256(c.output / MODEL / "model.safetensors") for c in (whole, cut))
    assert one == two


def test_evaluation_lists_or_skips_unusable_rows(start, tmp_path, capsys):
    ids = unusable_data(tmp_path / "data")
    settings = EvaluateConfig(str(start / "model"), [str(tmp_path / "data")], tmp_path / "run", max_new_tokens=4)
    with pytest.raises(InputError, match="data: 2 of 12 rows cannot be used"):  # evaluation does not use answers
        evaluate(settings)
    scores = evaluate(replace(settings, skip_unusable=True))["world-noisy"]
    for modality in ("text", "audio"):
        assert (scores[modality]["n"], scores[modality]["skipped_unusable"]) == (10, 2)
    assert "2 rows were left out" in " ".join(capsys.readouterr().out.split())
    few = evaluate(replace(settings, skip_unusable=True, limit=6, output=tmp_path / "few"))["world-noisy"]
    assert few["text"]["n"] == 6
    left = [entry["id"] for entry in json.loads((tmp_path / "run" / UNUSABLE).read_text())]
    assert left == ids[1:]


def test_data_check_with_a_model_lists_unusable_rows(start, tmp_path, capsys):
    write(tmp_path / "good", toy_examples(3))
    rows = toy_examples(5)
    rows[3] = BAD["a long answer"][0](rows[3])
    write(tmp_path / "bad", rows)
    folders = [tmp_path / "good", tmp_path / "bad"]
    assert check(CheckConfig(folders))[str(tmp_path / "bad")]["examples"] == 5, "the files are complete"
    assert main(["data", "check", *map(str, folders), "--model", str(start / "model")]) == 2
    out, err = capsys.readouterr()
    assert "bad: 4 of 5 rows can be used" in " ".join(out.split())
    assert "good: 3 of 3 rows can be used" in " ".join(out.split())
    assert f"example {rows[3].id}: " in err and len(err.splitlines()[-1:]) == 1
    assert check(CheckConfig(folders[:1], str(start / "model")))[str(folders[0])]["usable"] == 3


def test_a_group_with_an_unusable_row_is_skipped_as_a_whole(tmp_path, monkeypatch):
    """A pair without one of its rows is not a pair."""
    from selfkd.evaluation import evaluate as module

    folder = write(tmp_path, toy_examples(6))
    grouped = SimpleNamespace(counts_groups=True)
    monkeypatch.setattr(module, "BENCHMARKS", {folder.source: grouped})
    monkeypatch.setattr(module, "_groups", lambda _: ["a", "a", "b", "b", "c", "c"])
    left = module._without(folder, [Unusable(folder.folder, 3, "x", "")])
    assert list(left.positions) == [0, 1, 4, 5]
