"""Both modalities in one generation respond as each does alone; candidates get the likelihood of a plain forward
pass."""

from copy import deepcopy
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from examples import tone, toy_examples
from native_models import NATIVE, QWEN_TEMPLATE, QWEN_TOKENS, ids_of, tokenizer
from transformers import AutoModelForImageTextToText, Qwen2VLImageProcessorPil, WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from vlm_backbones import qwen2_vl

from selfkd.errors import InputError
from selfkd.evaluation.backends.local import choice_log_likelihoods, predict_modalities, predict_modality, prompts_of
from selfkd.model.image_processor import image_processor_class
from selfkd.model.lora import adapter_parameters, adapters_on
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.queries import AUDIO_TOKEN
from selfkd.synthesis.tts.base import EspeakEngine, Utterance
from selfkd.training.data import MODALITIES


def qwen2_vl_with_speech_encoder():
    """A Qwen2-VL, which has three positions a token, with a speech encoder and projector."""
    made = tokenizer(QWEN_TOKENS, QWEN_TEMPLATE)
    made.add_tokens([AUDIO_TOKEN], special_tokens=True)
    config = qwen2_vl()
    config.image_token_id, config.video_token_id = made.image_token_id, made.video_token_id
    config.vision_start_token_id = made.vision_bos_token_id
    for name, value in ids_of(made).items():
        setattr(config.text_config, name, value)
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 1024})
    own = image_processor_class("qwen2_vl")(image_processor=images, tokenizer=made, chat_template=QWEN_TEMPLATE)
    encoder = WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=24, decoder_layers=0
    )
    vlm = AutoModelForImageTextToText.from_config(config)
    processor = OmniProcessor(own, WhisperFeatureExtractor())
    return OmniModel.from_parts(vlm, WhisperEncoder(encoder), processor.audio_token_id).eval(), processor


def native(name):
    vlm, processor = NATIVE[name]()
    return OmniModel.from_native(vlm).eval(), OmniProcessor(processor)


@pytest.fixture(scope="module", params=["tiny", "Qwen2-VL", "Qwen2.5-Omni", "Gemma 4"])
def any_model(request, parts):
    """Gemma's window of 16 slides over every prompt here."""
    torch.manual_seed(0)
    if request.param == "tiny":
        return parts
    return qwen2_vl_with_speech_encoder() if request.param == "Qwen2-VL" else native(request.param)


@pytest.fixture(scope="module")
def synthesized():
    """Four questions with TTS audio, the last two about one image, one with an instruction before it."""
    tts_engine, examples = EspeakEngine(), toy_examples(4)
    examples[3] = replace(examples[3], image=examples[2].image)
    examples[1] = replace(examples[1], instruction="Look:\n", answer_format="\nOne word.")
    return [e.with_audio(tts_engine.synthesize_audio(Utterance(e.question, "en-US")), "en-US") for e in examples]


def test_both_modalities_together_respond_as_each_by_itself(any_model, synthesized):
    model, processor = any_model
    both = predict_modalities(model, processor, synthesized, max_new_tokens=8)
    assert both["text"] == predict_modality(model, processor, synthesized, "text", 8)
    assert both["audio"] == predict_modality(model, processor, synthesized, "audio", 8)
    one_by_one = [predict_modalities(model, processor, [e], max_new_tokens=8) for e in synthesized]
    assert both == {modality: [predictions[modality][0] for predictions in one_by_one] for modality in MODALITIES}
    assert both["text"] != both["audio"], "the modalities have the same responses"


def test_image_is_encoded_once_for_both_modalities(parts, synthesized):
    model, processor = parts
    tower, encoded = model.vlm.base_model.vision_tower, []
    handle = tower.register_forward_hook(lambda _, inputs, output: encoded.append(len(output[0])))
    with patch.object(processor, "encode_image", wraps=processor.encode_image) as encode_image:
        predict_modalities(model, processor, synthesized, max_new_tokens=2)
    handle.remove()
    assert encode_image.call_count == sum(encoded) == 3


def test_batch_with_and_without_images(parts, synthesized):
    model, processor = parts
    examples = [synthesized[0], replace(synthesized[1], image=None), replace(synthesized[2], image=None)]
    together = predict_modalities(model, processor, examples, max_new_tokens=8)
    single = [predict_modalities(model, processor, [e], max_new_tokens=8) for e in examples]
    assert together == {modality: [predictions[modality][0] for predictions in single] for modality in MODALITIES}


def test_token_across_instruction_and_question_keeps_one_prefix(parts, synthesized):
    """The last characters of the instruction and the first of the question are one token: in the text modality alone
    the prefix would end before it."""
    _, processor = parts
    example = replace(synthesized[0], instruction="The im", question="age shows what?")
    text, audio = prompts_of(processor, [example], MODALITIES)[0]
    single = [prompts_of(processor, [example], [modality])[0][0] for modality in MODALITIES]
    assert single[0].prefix_ids != single[1].prefix_ids
    assert len(processor.collate([text, audio])["prefix_ids"]) == 1
    whole = [p.prefix_ids + p.suffix_ids for p in (*single, text, audio)]
    assert whole[:2] == whole[2:]


def adapted(parts):
    model = deepcopy(parts[0])
    model.add_llm_adapters(r=4, lora_alpha=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(model.vlm):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval(), parts[1]


def test_adapters_are_on_for_audio_only(parts, synthesized):
    model, processor = adapted(parts)
    both = predict_modalities(model, processor, synthesized, max_new_tokens=8)
    assert both["text"] == predict_modality(*parts, synthesized, "text", 8)
    assert both["audio"] == predict_modality(model, processor, synthesized, "audio", 8)
    assert both["audio"] != predict_modality(*parts, synthesized, "audio", 8)


def test_generation_stops_when_all_responses_have_ended(parts, synthesized):
    model, processor = parts
    calls = []
    handle = model.vlm.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    whole = predict_modalities(model, processor, synthesized[:2], ["text"], max_new_tokens=200)["text"]
    handle.remove()
    longest = max(len(processor.ids(prediction.text)) for prediction in whole)
    assert len(calls) == longest + 1 < 100, "one more step for the end of the turn"
    short = predict_modalities(model, processor, synthesized[:2], ["text"], max_new_tokens=1)["text"]
    assert [len(processor.ids(prediction.text)) for prediction in short] == [1, 1]


def plain_log_likelihood(model, prompt, answer_ids):
    """From the logits of one whole forward pass over prompt and answer."""
    ids = torch.tensor([prompt.prefix_ids + prompt.suffix_ids + answer_ids])
    inputs = dict(prompt.image_inputs)
    if "image_grid_thw" in inputs or model.config.vlm_config.model_type == "gemma4":
        inputs["mm_token_type_ids"] = (ids == model.config.vlm_config.image_token_id).int()
        if model.config.vlm_config.model_type.startswith("qwen2_5_omni"):
            del inputs["mm_token_type_ids"]
            inputs["attention_mask"] = torch.ones_like(ids)
    audio = prompt.audio_inputs
    with torch.no_grad():
        if audio and not model.is_native:
            merged, mask, _ = model.merge_audio_embeddings(ids, torch.ones_like(ids), audio)
            if "mm_token_type_ids" in inputs:
                inputs |= whole_positions(model, prompt, mask.shape[1])
            logits = model.vlm(attention_mask=mask, **merged, **inputs).logits
        else:
            logits = model.vlm(input_ids=ids, **inputs, **audio).logits
    log_p = logits[0, -len(answer_ids) - 1 : -1].float().log_softmax(-1)
    return float(log_p[range(len(answer_ids)), answer_ids].sum())


def whole_positions(model, prompt, positions):
    """Token types and positions of a whole Qwen2-VL prompt with audio, as transformers' own function gives them for as
    many ordinary tokens in place of the audio."""
    stand_in = torch.tensor([prompt.prefix_ids + [5] * (positions - len(prompt.prefix_ids))])
    types = (stand_in == model.config.vlm_config.image_token_id).int()
    grid = prompt.image_inputs["image_grid_thw"]
    positions, _ = model.vlm.base_model.get_rope_index(stand_in, types, image_grid_thw=grid)
    return {"mm_token_type_ids": types, "position_ids": positions}


CANDIDATES = [["A", "B"], ["a red star", "a red circle", "no"], ["yes", "no"], ["two stars", "A", "two"]]


def test_likelihood_equals_a_plain_forward_pass(any_model, synthesized):
    model, processor = any_model
    found = choice_log_likelihoods(model, processor, synthesized, CANDIDATES)
    for example, prompts in enumerate(prompts_of(processor, synthesized, MODALITIES)):
        for modality, prompt in zip(MODALITIES, prompts, strict=True):
            answers = [processor.ids(c) for c in CANDIDATES[example]]
            expected = [plain_log_likelihood(model, prompt, ids) for ids in answers]
            assert found[modality][example] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_probabilities_of_the_vocabulary_sum_to_one(parts, synthesized):
    model, processor = parts
    head = model.get_output_embeddings().weight
    every = [str(token) for token in range(len(head))]  # each names that token
    with patch.object(processor, "response_ids", side_effect=lambda text, _: [int(text), processor.end_id]):
        found = choice_log_likelihoods(model, processor, synthesized[:1], [every])
    for modality in MODALITIES:
        assert torch.tensor(found[modality][0]).logsumexp(0).item() == pytest.approx(0, abs=1e-5)


def test_adapters_change_likelihoods_of_audio_only(parts, synthesized):
    model, processor = adapted(parts)
    found = choice_log_likelihoods(model, processor, synthesized, CANDIDATES)
    plain = choice_log_likelihoods(*parts, synthesized, CANDIDATES)
    assert found["text"] == plain["text"]
    assert found["audio"][0] != pytest.approx(plain["audio"][0], abs=1e-2)
    with torch.no_grad(), adapters_on(model.vlm):
        on_for_all = choice_log_likelihoods(model, processor, synthesized, CANDIDATES, ["text"])["text"]
    assert on_for_all[0] != pytest.approx(found["text"][0], abs=1e-2)


@pytest.mark.parametrize("candidates", [[], [["A", ""]], [[]]])
def test_invalid_candidates_are_refused(parts, synthesized, candidates):
    with pytest.raises(InputError, match="candidates: "):
        choice_log_likelihoods(*parts, synthesized[:1], candidates)


def test_prompt_without_room_for_the_response_is_refused(parts, synthesized):
    long = synthesized[0].with_audio(tone(10), "tone")
    with pytest.raises(InputError, match="do not fit the model's context of 48"):
        predict_modalities(*parts, [long], max_new_tokens=2000)
