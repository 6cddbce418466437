"""What is refused before vLLM loads anything, and the chat template; neither needs vLLM."""

from types import SimpleNamespace

import jinja2
import pytest
from transformers import InternVLConfig, LlavaConfig, WhisperConfig

from selfkd.errors import InputError
from selfkd.model.configuration_omni import OmniConfig
from selfkd.vllm.chat_template import with_audio
from selfkd.vllm.configuration import ARCHITECTURES, ServedOmniConfig

PLAIN = (
    "{% for m in messages %}[{{ m['role'] }}]{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% elif p['type'] == 'text' %}{{ p['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def rendered(template, messages):
    def refuse(message):
        raise ValueError(message)

    return jinja2.Environment(autoescape=False).from_string(template).render(messages=messages, raise_exception=refuse)


def test_architecture_is_that_of_the_vlm():
    config = ServedOmniConfig(InternVLConfig(), audio_config=WhisperConfig())
    assert config.architectures == ["OmniInternVL"] and config.projector_type == "stack"
    assert set(ARCHITECTURES) == {"internvl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"vlm_config": LlavaConfig(), "audio_config": WhisperConfig()},
            "vlm_config: llava: vLLM runs selfkd's models",
        ),
        ({"vlm_config": InternVLConfig()}, "vlm_config: internvl: a native omni model"),
        (
            {"vlm_config": InternVLConfig(), "audio_config": WhisperConfig(), "llm_lora": {"r": 4}},
            "llm_lora: this model has LoRA for audio queries only",
        ),
        (
            {"vlm_config": InternVLConfig(), "audio_config": WhisperConfig(), "base_models": {"vlm": {}}},
            "base_models: an adapter; vLLM loads whole checkpoints",
        ),
    ],
)
def test_models_with_other_responses_are_refused(fields, message):
    OmniConfig(**fields)
    with pytest.raises(InputError, match=f"^{message}[^\n]*$"):
        ServedOmniConfig(**fields)


def test_template_renders_clips_and_nothing_else_otherwise():
    template = with_audio(PLAIN, "<speech>")
    image, text = {"type": "image"}, {"type": "text", "text": "What?"}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [image, text]},
        {"role": "assistant", "content": "A star."},
    ]
    assert (
        rendered(template, messages)
        == rendered(PLAIN, messages)
        == "[system]Be brief.[user]<image>What?[assistant]A star."
    )
    with_clip = [*messages, {"role": "user", "content": [image, {"type": "audio"}, text]}]
    assert rendered(template, with_clip) == rendered(PLAIN, messages) + "[user]<image><speech>What?"
    assert "audio" not in str(SimpleNamespace(**messages[1]))  # the given messages are as they were


@pytest.mark.parametrize("content", ["say <speech>", [{"type": "text", "text": "say <speech>"}]])
def test_text_of_a_placeholder_is_refused(content):
    with pytest.raises(ValueError, match="text: contains <speech>, which stands for a clip"):
        rendered(with_audio(PLAIN, "<speech>"), [{"role": "user", "content": content}])
