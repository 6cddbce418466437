"""CTC projectors: runs, audio embeddings, CTC and soft-DTW losses, training, transcripts; the parts of the tiny
model."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from examples import interrupted_at, toy_examples, training_data
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import WhisperForConditionalGeneration

from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.losses import LossConfig
from selfkd.model.backbones import load_asr_model
from selfkd.model.checkpoint import load_model
from selfkd.model.ctc_asr import ctc_transcriber, join_asr_model
from selfkd.model.projectors import (
    CHARACTER_HEAD,
    AudioEmbeddings,
    CTCOutput,
    CTCProjector,
    ctc_loss,
    greedy_transcripts,
    runs_of,
)
from selfkd.model.tiny import asr_model_path, load_tiny_model
from selfkd.run_dir import MODEL, read_log
from selfkd.synthesis.tts.base import EspeakEngine, Utterance
from selfkd.training.align import AlignConfig, align, assemble
from selfkd.training.alignment import contrastive_loss, soft_dtw, soft_dtw_loss
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.distill import DistillConfig, distill
from selfkd.training.self_kd import paired_loss
from selfkd.training.stage import training_arguments
from selfkd.training.trainable import AUDIO_PARTS, freeze_all_but
from selfkd.training.trainer import SelfKDTrainer

BLANK = 3


@pytest.fixture(scope="module")
def bundled():
    return load_tiny_model()


def test_runs_of_frames():
    best = torch.tensor([[3, 0, 0, 3, 0, 1, 1, 2], [2, 2, 3, 3, 1, 1, 1, 1], [3, 3, 3, 3, 3, 3, 3, 3]])
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[1, 5:] = False
    output = CTCOutput(F.one_hot(best, BLANK + 1).float(), mask)
    run, there = runs_of(output)
    assert run.tolist() == [
        [-1, 0, 0, -1, 1, 2, 2, 3],
        [0, 0, -1, -1, 1, -1, -1, -1],
        [-1] * 8,
    ]
    assert there.tolist() == [[True] * 4, [True, True, False, False], [False] * 4]
    assert greedy_transcripts(output) == [[0, 0, 1, 2], [2, 1], []]


def test_audio_embedding_is_the_mean_token_embedding_under_the_posteriors_of_its_run():
    """Against a loop over frames; token embeddings come from the embedding module, which may scale them."""
    torch.manual_seed(0)
    encoder, embed = CTCProjector(6, [7, 2, 5]), nn.Embedding(10, 4)
    frames, mask = torch.randn(2, 9, 6), torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    audio = encoder(frames, mask, embed)
    for clip in range(2):
        posteriors = encoder.ctc_head(frames[clip][mask[clip]]).softmax(-1)
        runs, last, blank = [], None, len(encoder.token_ids)
        for p in posteriors:
            best = int(p.argmax())
            if best != blank:
                if best != last:
                    runs.append([])
                runs[-1].append(p[:3])
            last = best
        expected = [sum(run) @ embed.weight[[7, 2, 5]] / sum(map(torch.sum, run)) for run in runs]
        assert int(audio.mask[clip].sum()) == len(expected) > 0
        torch.testing.assert_close(audio.vectors[clip][audio.mask[clip]], torch.stack(expected))
    audio.vectors[audio.mask].sum().backward()
    assert encoder.ctc_head.weight.grad.abs().sum() > 0


def test_silence_gives_no_audio_embedding_and_the_model_still_responds(bundled):
    model, processor = bundled
    example = toy_examples(1)[0]
    prompt = processor.audio_prompt(
        processor.encode_audio(torch.zeros(8000).numpy()), processor.encode_image(example.load_image())
    )
    audio = model.encode_audio(**prompt.audio_inputs)
    assert audio.vectors.shape[1] == 0 and not audio.mask.any()
    assert (
        processor.response_texts(
            model.generate_responses(**processor.collate([prompt]), max_new_tokens=4, do_sample=False)
        )[0]
        is not None
    )


def test_ctc_loss_sums_over_all_alignments():
    """p(labels) as the sum over all paths of frames that collapse to them."""
    torch.manual_seed(1)
    log_probs = torch.randn(1, 4, 3).log_softmax(-1)
    labels = torch.tensor([[1, 0]])
    total = 0.0
    for path in product(range(3), repeat=4):
        collapsed = [p for i, p in enumerate(path) if p != 2 and (i == 0 or path[i - 1] != p)]
        if collapsed == [1, 0]:
            total += float(sum(log_probs[0, i, p] for i, p in enumerate(path)).exp())
    output = CTCOutput(log_probs, torch.ones(1, 4).bool())
    assert ctc_loss(output, labels).item() == pytest.approx(-torch.tensor(total).log().item(), rel=1e-5)


def test_labels_are_classes_of_the_head():
    encoder = CTCProjector(4, [7, 2, 5])
    ids = torch.tensor([[5, 9, 7], [2, -100, -100]])  # 9 is not in the vocabulary
    assert encoder.labels(ids).tolist() == [[2, 0], [1, -100]]


def test_soft_dtw_is_the_soft_minimum_over_all_paths():
    torch.manual_seed(0)
    costs = torch.rand(3, 4, 5)
    rows, columns = torch.tensor([4, 2, 3]), torch.tensor([5, 5, 1])

    def paths(i, j, ends):
        if (i, j) == ends:
            yield [(i, j)]
            return
        for a, b in ((i + 1, j), (i, j + 1), (i + 1, j + 1)):
            if a <= ends[0] and b <= ends[1]:
                yield from ([(i, j), *rest] for rest in paths(a, b, ends))

    for clip, found in enumerate(soft_dtw(costs, rows, columns, 0.06)):
        ends = int(rows[clip]) - 1, int(columns[clip]) - 1
        sums = torch.stack([sum(costs[clip, i, j] for i, j in path) for path in paths(0, 0, ends)])
        assert found.item() == pytest.approx((-0.06 * torch.logsumexp(-sums / 0.06, 0)).item(), abs=1e-5)


def test_soft_dtw_is_in_fp32_under_bf16_autocast():
    torch.manual_seed(0)
    embed, ids = nn.Embedding(10, 8), torch.tensor([[1, 2, 3, -100]])
    audio = AudioEmbeddings(torch.randn(1, 4, 8, requires_grad=True), torch.ones(1, 4, dtype=torch.bool))
    exact = soft_dtw_loss(audio, ids, embed)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(soft_dtw_loss(audio, ids, embed), exact)


def test_soft_dtw_is_lowest_for_the_query_embeddings_themselves():
    embed = nn.Embedding(10, 8)
    ids = torch.tensor([[1, 2, 3, -100]])
    query, other = (embed(torch.tensor([row])).detach() for row in ([1, 2, 3], [4, 5, 6]))
    there = torch.ones(1, 3, dtype=torch.bool)
    right, wrong = (soft_dtw_loss(AudioEmbeddings(v, there), ids, embed).item() for v in (query, other))
    assert right < 0.01 < wrong
    nothing = soft_dtw_loss(AudioEmbeddings(torch.zeros(1, 0, 8), torch.zeros(1, 0, dtype=torch.bool)), ids, embed)
    assert nothing.item() == 0


def test_contrastive_loss_is_infonce_over_the_queries_of_a_batch():
    torch.manual_seed(0)
    embed, ids = nn.Embedding(10, 8), torch.tensor([[1, 2, -100], [3, 4, 5], [1, 2, -100], [6, -100, -100]])
    mask = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0]]).bool()  # the last clip has no audio embeddings
    audio = AudioEmbeddings(torch.randn(4, 2, 8), mask)
    clips = [audio.vectors[0].mean(0), audio.vectors[1, 0], audio.vectors[2].mean(0)]
    queries = [embed(row[row != -100]).mean(0) for row in ids[:3]]
    cosines = torch.tensor([[torch.cosine_similarity(c, q, dim=0) for q in queries] for c in clips]) / 0.07
    expected = 0.0
    for i in range(3):
        others = [j for j in range(3) if j == i or {i, j} != {0, 2}]  # the first and the third ask the same
        expected -= cosines[i, i] - torch.logsumexp(cosines[i, others], 0)
        expected -= cosines[i, i] - torch.logsumexp(cosines[others, i], 0)
    assert contrastive_loss(audio, ids, embed).item() == pytest.approx(expected.item() / 2, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert contrastive_loss(audio, ids, embed).item() == pytest.approx(expected.item() / 2, rel=1e-5)


def test_contrastive_loss_of_one_query_or_none_is_zero():
    embed, ids = nn.Embedding(10, 8), torch.tensor([[1, 2], [1, 2]])
    vectors = torch.randn(2, 3, 8, requires_grad=True)
    same = contrastive_loss(AudioEmbeddings(vectors, torch.ones(2, 3, dtype=torch.bool)), ids, embed)
    nothing = contrastive_loss(AudioEmbeddings(vectors, torch.zeros(2, 3, dtype=torch.bool)), ids, embed)
    (same + nothing).backward()
    assert same.item() == pytest.approx(0, abs=1e-5) and nothing.item() == 0
    assert torch.isfinite(vectors.grad).all()


def test_tiny_model_encodes_a_query_near_its_token_embeddings(bundled, tmp_path):
    """One audio embedding per token, near the token's embedding; a saved model gives the same embeddings."""
    model, processor = bundled
    question = "What is the color of the circle?"
    inputs = processor.encode_audio(EspeakEngine().synthesize_audio(Utterance(question, "en-US"))).audio_inputs
    audio, ids = model.encode_audio(**inputs), torch.tensor(processor.ids(question))
    assert int(audio.mask.sum()) == len(ids)
    torch.testing.assert_close(audio.vectors[0], model.get_input_embeddings()(ids), atol=0.05, rtol=0.5)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = load_model(tmp_path)[0].encode_audio(**inputs)
    assert torch.equal(again.vectors, audio.vectors)


def test_all_terms_of_the_loss_add_up(bundled):
    model, processor = bundled
    freeze_all_but(model, ["projector"])
    batch = PairedCollator(processor)([paired_item(processor, e) for e in toy_examples(3)])
    weights = {"hidden_mse": 0.1, "ctc": 0.5, "soft_dtw": 0.2, "contrastive": 0.3}
    terms = {f"{name}_weight": weight for name, weight in weights.items()}
    parts = paired_loss(model, batch, LossConfig(0.3, response_weight=0.4, hidden_mse_layers=3, **terms))
    expected = 0.4 * (0.3 * parts.kd + 0.7 * parts.sft)
    expected = expected + sum(weights[name] * value for name, value in parts.terms.items())
    assert set(parts.terms) == set(weights)
    assert parts.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_ctc_only_training_does_not_run_the_llm(bundled, monkeypatch):
    model, processor = bundled
    freeze_all_but(model, ["projector", "speech_encoder"])
    batch = PairedCollator(processor)([paired_item(processor, e) for e in toy_examples(3)])
    monkeypatch.setattr("selfkd.training.self_kd.encode_prefix", None)  # no image is encoded
    loss = paired_loss(model, batch, LossConfig(ctc_weight=0.5, response_weight=0.0))
    tokens = model.encode_audio(**batch["audio_inputs"]).ctc.tokens
    expected = 0.5 * ctc_loss(tokens, model.projector.labels(batch["transcript_ids"])).sum()
    torch.testing.assert_close(loss.total, expected)
    assert loss.kd == loss.sft == 0 and loss.tokens == (batch["labels"] != -100).sum()
    loss.total.backward()
    assert model.speech_encoder.conv1.weight.grad.abs().sum() > 0
    model.zero_grad()


@pytest.mark.slow
def test_ctc_projector_trains_and_resumes_to_the_same_bytes(bundled, tmp_path):
    """SpecAugment and rollouts in half of the steps depend on seed and step only. The run is interrupted within the
    steps whose weights are averaged."""
    model, processor = bundled
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    training_data(tmp_path)
    settings = DistillConfig(
        [str(tmp_path / "data")], tmp_path / "whole", ["projector", "speech_encoder"], steps=4, batch_size=2,
        save_steps=1, model=str(tmp_path / "model"), spec_augment=1.0, on_policy_fraction=0.5, weight_averaging=0.75,
    )  # fmt: skip
    distill(settings)
    again = replace(settings, output=tmp_path / "again")
    with interrupted_at(3), pytest.raises(KeyboardInterrupt):
        distill(again)
    distill(again)
    whole, resumed = ((folder / MODEL / "model.safetensors").read_bytes() for folder in (settings.output, again.output))
    assert whole == resumed
    after = load_model(settings.output / MODEL)[0]
    moved = {name for name, p in after.named_parameters() if not torch.equal(p, model.get_parameter(name))}
    assert any("ctc_head" in name for name in moved) and not any(name.startswith("vlm") for name in moved)


def test_new_ctc_head_has_its_own_learning_rate_and_a_character_head(tmp_path, tiny_whisper):
    training_data(tmp_path)
    settings = AlignConfig([str(tmp_path / "data")], tmp_path / "run", speech_encoder=str(tiny_whisper), steps=1)
    model, processor = assemble(settings)
    own = WhisperForConditionalGeneration.from_pretrained(tiny_whisper).get_encoder().state_dict()
    for name, weight in model.speech_encoder.state_dict().items():
        assert torch.equal(weight, own[name]), name
    frames, mask = torch.randn(1, 9, 32), torch.ones(1, 9).bool()
    model.projector.set_characters(())
    tokens_only = model.projector.ctc_outputs(frames, mask)
    model.projector.set_characters("abc")
    tokens, characters = model.projector.ctc_outputs(frames, mask)
    assert tokens_only.characters is None and characters.log_probs.shape == (1, 9, 4)
    assert torch.equal(tokens.log_probs, tokens_only.tokens.log_probs)
    labels = model.projector.character_labels(["cab", "?"])  # characters that the data do not have are left out
    assert labels.tolist() == [[2, 0, 1], [-100, -100, -100]]
    by_hand = F.ctc_loss(characters.log_probs[0], labels[0], [9], [3], blank=3, reduction="sum")
    assert ctc_loss(characters, labels[:1]).item() == pytest.approx(by_hand.item(), rel=1e-5)

    freeze_all_but(model, AUDIO_PARTS)
    arguments = training_arguments(replace(settings, learning_rate=1e-4))
    how = arguments, toy_examples(2), processor, LossConfig(ctc_weight=1.0, response_weight=0.0)
    groups = SelfKDTrainer(model, *how, projector_learning_rate=3e-3).create_optimizer().param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates == {id(p): 3e-3 if "head" in name else 1e-4 for name, p in model.named_parameters() if p.requires_grad}


def test_asr_model_with_pieces_that_are_no_tokens_is_refused(bundled):
    asr_model, _ = load_asr_model(asr_model_path())
    asr_model.config.pieces = ["no token of this model at all", *asr_model.config.pieces[1:]]
    with pytest.raises(InputError, match="no token of the language model"):
        join_asr_model(bundled[0].vlm, bundled[1], asr_model)


def test_align_trains_a_ctc_projector(tmp_path, tiny_whisper):
    """A Whisper encoder gets a new head over the tokens of the data; an ASR model has its own. Training is CTC-only: no
    loss of the LLM is logged."""
    training_data(tmp_path)
    settings = AlignConfig(
        [str(tmp_path / "data")], tmp_path / "align", speech_encoder=str(tiny_whisper), steps=3, batch_size=4
    )
    with pytest.raises(InputError, match="trainable: llm_adapters: does not train in CTC-only training"):
        align(replace(settings, trainable=["projector", "llm_adapters"]))
    align(settings)
    model, processor = load_model(settings.output / MODEL)
    tokens = {i for e in ExampleFolder(tmp_path / "data") for i in processor.ids(e.question)}
    assert set(model.config.ctc_token_ids) == tokens
    logged = read_log(settings.output)[-1]
    assert logged["ctc_per_token"] > 0 and "sft_per_token" not in logged
    assert logged["character_ctc_per_token"] > 0 and model.projector.character_head is None
    weights = load_file(settings.output / MODEL / "model.safetensors")
    assert not any(name.startswith(CHARACTER_HEAD) for name in weights)
    again = replace(settings, output=tmp_path / "again", save_steps=1)
    with interrupted_at(2), pytest.raises(KeyboardInterrupt):
        align(again)
    align(again)
    for name, weight in load_file(again.output / MODEL / "model.safetensors").items():
        assert torch.equal(weight, weights[name]), name
    own, _ = assemble(replace(settings, speech_encoder=""))
    assert len(own.config.ctc_token_ids) == len(load_asr_model(asr_model_path())[0].config.pieces)


def test_ctc_projector_transcribes_like_the_asr_model_that_it_came_from(bundled, tmp_path):
    """A cascade can use the CTC projector of a model; that of the tiny model is the bundled ASR model."""
    for part in bundled:
        part.save_pretrained(tmp_path)
    texts = ["What is the color of the circle?", "How many stars are there?"]
    tts_engine = EspeakEngine()
    clips = [tts_engine.synthesize_audio(Utterance(text, "en-US+m1")) for text in texts]
    examples = [
        e.with_audio(clip, "en-US+m1", text) for e, clip, text in zip(toy_examples(2), clips, texts, strict=True)
    ]
    audio = Transcriber.from_pretrained(str(tmp_path)).transcribe(examples)
    assert audio == Transcriber.from_pretrained().transcribe(examples) == texts


def test_padded_encoder_is_padded_as_an_asr_model_too(tmp_path, tiny_whisper):
    training_data(tmp_path)
    encoder = {"speech_encoder": str(tiny_whisper), "pad_to_window": True}
    model, processor = assemble(AlignConfig([str(tmp_path / "data")], tmp_path / "run", **encoder))
    model.eval()
    mel, mask = torch.randn(2, 80, 40), torch.ones(2, 40, dtype=torch.long)
    encoder, _ = ctc_transcriber(model, processor)
    assert torch.equal(encoder.ctc_output(mel, mask).log_probs, model.ctc_outputs(mel, mask).tokens.log_probs)


def test_stack_projector_has_no_transcript(parts):
    with pytest.raises(InputError, match="has no CTC projector"):
        ctc_transcriber(*parts)
