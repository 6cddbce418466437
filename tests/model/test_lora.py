"""LoRA on the LLM is active for audio queries and their responses, and inactive everywhere else."""

import pytest
import torch
from examples import toy_examples

from selfkd.evaluation.backends.local import predict_modalities, predict_modality
from selfkd.losses import LossConfig, self_kd_loss
from selfkd.model.lora import adapter_parameters, adapters_on
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.training.align import AlignConfig, assemble
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.self_kd import paired_rows
from selfkd.training.trainable import ADAPTERS, freeze_all_but


@pytest.fixture
def adapted(tmp_path):
    """A model with adapters that change its output, and its processor."""
    model, processor = assemble(AlignConfig([], tmp_path, projector="stack"))
    model.add_llm_adapters(r=4, lora_alpha=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(model.vlm):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval(), processor


def test_adapters_change_audio_responses_and_not_text_responses(adapted, parts):
    model, processor = adapted
    plain, _ = parts
    with torch.no_grad():
        plain.projector.load_state_dict(model.projector.state_dict())
    examples = toy_examples(4)
    assert predict_modality(model, processor, examples, "text") == predict_modality(plain, processor, examples, "text")
    batch = PairedCollator(processor)([paired_item(processor, e) for e in examples])
    with torch.no_grad():
        (student, teacher, *_), (plain_student, plain_teacher, *_) = (
            paired_rows(m, batch, True) for m in (model, plain)
        )
    assert torch.equal(teacher, plain_teacher)
    assert not torch.allclose(student, plain_student, atol=1e-2)


def test_gradient_reaches_every_adapter_and_nothing_else_of_the_vlm(adapted):
    model, processor = adapted
    count = freeze_all_but(model, ["projector", ADAPTERS])
    assert count == sum(p.numel() for p in [*adapter_parameters(model.vlm), *model.projector.parameters()])
    batch = PairedCollator(processor)([paired_item(processor, e) for e in toy_examples(2)])
    student, teacher, labels, *_ = paired_rows(model.train(), batch, with_teacher=True)
    self_kd_loss(student, teacher, model.get_output_embeddings().weight, labels, LossConfig(1.0)).total.backward()
    with_gradient = {n for n, p in model.vlm.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert with_gradient == {n for n, _ in model.vlm.named_parameters() if "lora_" in n}


def test_saved_and_loaded_model_gives_the_same_responses(adapted, tmp_path):
    model, processor = adapted
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = OmniModel.from_pretrained(tmp_path / "model").eval()
    examples = toy_examples(3)
    again = predict_modalities(loaded, OmniProcessor.from_pretrained(tmp_path / "model"), examples)
    assert again == predict_modalities(model, processor, examples)


def test_adapters_are_inactive_outside_of_their_context_even_after_an_error(adapted):
    model, processor = adapted
    ids = torch.tensor([processor.ids("Is there a red circle?")])
    with torch.no_grad():
        off = model.vlm(input_ids=ids).logits
        with pytest.raises(RuntimeError), adapters_on(model.vlm):
            assert not torch.allclose(model.vlm(input_ids=ids).logits, off)
            raise RuntimeError
        assert torch.equal(model.vlm(input_ids=ids).logits, off)


def test_text_and_audio_responses_are_padded_with_the_same_token(adapted):
    """With adapters they are generated separately; many configurations name no padding, and their token 0 is a word."""
    model, processor = adapted
    example = toy_examples(1)[0]
    image, end, padding = processor.encode_image(example.load_image()), processor.end_id, 40
    audio = processor.encode_audio(example.samples())
    prompts = [processor.text_prompt(example.question, image), processor.audio_prompt(audio, image)]
    predictions = model.generate_responses(
        **processor.collate(prompts), max_new_tokens=30, do_sample=False, pad_token_id=padding
    )
    lengths = [
        (prediction == end).int().argmax().item() + 1 if end in prediction else len(prediction)
        for prediction in predictions
    ]
    assert len(set(lengths)) == 2, "one must end before the other"
    for prediction, length in zip(predictions, lengths, strict=True):
        assert prediction[length:].tolist() == [padding] * (len(prediction) - length)


def test_full_finetuning_leaves_existing_adapters_frozen(adapted):
    model, _ = adapted
    freeze_all_but(model, ["llm"])
    assert not any(parameter.requires_grad for parameter in adapter_parameters(model.vlm))
    assert model.get_output_embeddings().weight.requires_grad
    freeze_all_but(model, ["llm_adapters"])
    assert all(parameter.requires_grad for parameter in adapter_parameters(model.vlm))
    assert torch.tensor([p.requires_grad for p in model.parameters()]).sum() == len(list(adapter_parameters(model.vlm)))
