"""OmniModel: unchanged VLM for text queries, batches equal to single items, the same model after saving and loading."""

import pytest
import torch
from examples import toy_examples
from transformers import AutoModelForImageTextToText, Mistral3Config

from selfkd.evaluation.backends.local import predict_modality
from selfkd.model.backbones import load_speech_encoder
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.speech_encoder import encode_mel
from selfkd.model.tiny import vlm_path
from selfkd.training.data import MODALITIES


def whole(prompt):
    """One prompt as the plain inputs of `OmniModel.forward`."""
    inputs = {"input_ids": torch.tensor([prompt.prefix_ids + prompt.suffix_ids])}
    return inputs | prompt.image_inputs | prompt.audio_inputs


def test_text_queries_have_the_logits_of_the_vlm(model, processor, example):
    vlm = AutoModelForImageTextToText.from_pretrained(vlm_path()).eval()
    inputs = whole(processor.text_prompt(example.question, processor.encode_image(example.load_image())))
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, vlm(**inputs).logits)


@pytest.mark.parametrize("modality", MODALITIES)
def test_batched_responses_equal_single_ones(model, processor, modality):
    examples = toy_examples(5)
    together = predict_modality(model, processor, examples, modality)
    assert together == [predict_modality(model, processor, [e], modality)[0] for e in examples]


def test_prompts_that_share_an_image_get_the_responses_of_single_prompts(model, processor):
    """Prompts about one image share its prefix, and get the responses of transformers' own generate."""
    example = toy_examples(1)[0]
    image, audio = processor.encode_image(example.load_image()), processor.encode_audio(example.samples())
    prompts = [processor.text_prompt(q, image) for q in ("Describe the image.", "How many objects are there?")]
    batch = processor.collate(prompts)
    assert len(batch["prefix_ids"]) == 1 and batch["group"].tolist() == [0, 0]
    settings = {"max_new_tokens": 12, "do_sample": False}
    together = processor.response_texts(model.generate_responses(**batch, **settings))
    for prompt, prediction in zip(prompts, together, strict=True):
        inputs = whole(prompt)
        ids = model.vlm.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
        assert processor.response_texts(ids) == [prediction]
    prompt = processor.audio_prompt(audio, image)
    single = model.generate_responses(**processor.collate([prompt]), **settings)
    both = model.generate_responses(**processor.collate([prompt, prompt]), **settings)
    assert torch.equal(both, single.expand(2, -1))


def test_first_generated_token_is_the_argmax_of_forward(model, processor, example):
    """The first generated token of an audio query is forward's argmax: image and audio both reach generate."""
    prompt = processor.audio_prompt(
        processor.encode_audio(example.samples()), processor.encode_image(example.load_image())
    )
    inputs = whole(prompt)
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
        without_image = model(**{k: v for k, v in inputs.items() if k != "pixel_values"}).logits[0, -1]
    assert not torch.allclose(logits, without_image)
    assert (
        model.generate_responses(**processor.collate([prompt]), max_new_tokens=1, do_sample=False)[0, 0]
        == logits.argmax()
    )


def test_saved_and_loaded_model_has_the_same_weights_and_inputs(model, processor, example, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, loaded_processor = OmniModel.from_pretrained(tmp_path).eval(), OmniProcessor.from_pretrained(tmp_path)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    prompts = [
        p.audio_prompt(p.encode_audio(example.samples()), p.encode_image(example.load_image()))
        for p in (processor, loaded_processor)
    ]
    batches = [p.collate([prompt]) for p, prompt in zip((processor, loaded_processor), prompts, strict=True)]
    nested = ("image_inputs", "audio_inputs", "prefix_audio_inputs")
    assert all(torch.equal(batches[0][k], batches[1][k]) for k in batches[0] if k not in nested)
    assert torch.equal(*(b["image_inputs"]["pixel_values"] for b in batches))
    assert torch.equal(*(b["audio_inputs"]["input_features"] for b in batches))
    assert not list(tmp_path.rglob("*.bin")) + list(tmp_path.rglob("*.pt"))


def test_encoder_equals_whisper_at_full_length(model):
    """On thirty seconds, `encode_mel` equals transformers' own encoder."""
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    encoder = model.speech_encoder.eval()
    with torch.no_grad():
        ours, mask = encode_mel(encoder, mel, torch.ones(1, 3000, dtype=torch.long))
        torch.testing.assert_close(ours, encoder(mel).last_hidden_state, rtol=1e-5, atol=1e-5)
    assert mask.all()


def test_audio_prompt_without_an_audio_token_is_an_error(model, processor, example):
    inputs = whole(processor.audio_prompt(processor.encode_audio(example.samples()), processor.encode_image(None)))
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.audio_token_id, 0)
    with pytest.raises(ValueError, match="input_features: 1 clips for 0 placeholders"):
        model(**inputs)


def test_dtype_is_that_of_the_weights_and_not_of_their_checkpoint(processor, tiny_whisper, tmp_path):
    """The configuration of each part stores the dtype of its checkpoint; loading in that dtype would round weights."""
    stored = AutoModelForImageTextToText.from_pretrained(vlm_path()).to(torch.bfloat16)
    stored.config.text_config.dtype = torch.bfloat16
    stored.save_pretrained(tmp_path / "vlm")
    vlm = AutoModelForImageTextToText.from_pretrained(tmp_path / "vlm").float()
    with torch.no_grad():
        vlm.get_input_embeddings().weight.mul_(1.001)  # not representable in bfloat16
    model = OmniModel.from_parts(vlm, load_speech_encoder(tiny_whisper), processor.audio_token_id)
    assert model.dtype == torch.float32
    model.save_pretrained(tmp_path / "model")
    again = OmniModel.from_pretrained(tmp_path / "model")
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


def test_speech_encoder_and_projector_are_float32_next_to_a_bfloat16_vlm(processor, tiny_whisper, tmp_path):
    """Also where the VLM has parts with the names of ours, as Mistral 3 does."""
    text = {"model_type": "mistral", "vocab_size": 600, "hidden_size": 16, "intermediate_size": 24}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    vlm = AutoModelForImageTextToText.from_config(Mistral3Config(text_config=text, vision_config=vision))
    assert any("projector.norm" in name for name, _ in vlm.named_parameters())
    model = OmniModel.from_parts(vlm.to(torch.bfloat16), load_speech_encoder(tiny_whisper), processor.audio_token_id)
    model.save_pretrained(tmp_path / "model")
    again = OmniModel.from_pretrained(tmp_path / "model")
    assert {weight.dtype for weight in again.vlm.parameters()} == {torch.bfloat16}
    for part in (again.speech_encoder, again.projector):
        assert {weight.dtype for weight in part.parameters()} == {torch.float32}
