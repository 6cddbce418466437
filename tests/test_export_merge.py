"""`selfkd merge`: one plain checkpoint, adapters merged, a native model in its own layout."""

import pytest
import torch
from examples import toy_examples
from native_models import NATIVE
from transformers import AutoModelForMultimodalLM

from selfkd.cli import main
from selfkd.errors import InputError
from selfkd.export import MergeConfig, merge
from selfkd.model.checkpoint import load_model
from selfkd.model.lora import adapter_parameters, adapters_on
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.training.data import paired_item


@pytest.mark.parametrize("native", [False, True])
def test_merged_model_equals_the_model_with_adapters_on(native, parts, tmp_path, capsys):
    torch.manual_seed(0)
    if native:
        vlm, native_processor = NATIVE["Qwen2.5-Omni"]()
        model, processor = OmniModel.from_native(vlm).eval(), OmniProcessor(native_processor)
    else:
        parts[0].save_pretrained(tmp_path / "plain")
        parts[1].save_pretrained(tmp_path / "plain")
        model, processor = load_model(tmp_path / "plain")
        model.eval()
    model.add_llm_adapters(r=4)
    with torch.no_grad():
        for parameter in adapter_parameters(model.vlm):
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert main(["merge", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "merged")]) == 0
    assert "responses to text queries now differ from the VLM backbone" in capsys.readouterr().out

    item = paired_item(processor, toy_examples(1)[0])
    ids = torch.tensor([item.prefix_ids + item.text_ids])
    with torch.no_grad(), adapters_on(model.vlm):
        expected = model.vlm(input_ids=ids, **item.image_inputs).logits
    if native:
        merged = AutoModelForMultimodalLM.from_pretrained(tmp_path / "merged").eval()
        assert load_model(tmp_path / "merged")[0].is_native
    else:
        merged = load_model(tmp_path / "merged")[0].eval().vlm
    assert not adapter_parameters(merged)
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids, **item.image_inputs).logits, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"output: .*not empty"):
        merge(MergeConfig(str(tmp_path / "model"), tmp_path / "merged"))
