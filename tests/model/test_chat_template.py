"""A chat template is a program of whoever made the checkpoint: it cannot hang a command or take its memory."""

import time

import pytest

from selfkd.errors import InputError
from selfkd.model import chat_template
from selfkd.model.backbones import load_vlm_processor
from selfkd.model.chat_template import ChatFrame, chat_frame
from selfkd.model.tiny import vlm_path

LOOPS = "{% for i in range(99999) %}" * 3 + "x" + "{% endfor %}" * 3
DOUBLES = "{% set ns = namespace(x='ab') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"


@pytest.fixture(scope="module")
def processor():
    return load_vlm_processor(vlm_path())


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (LOOPS, "takes more than 1 s"),
        ("{{ 10 ** (10 ** 9) }}", "takes more than 1 s"),
        (DOUBLES, "within a gigabyte"),
        ("{{ 'a'.center(10 ** 10) }}", "within a gigabyte"),
        ("{{ messages[0]['content'][-1]['text'] }}{{ 'ab' * 5000000 }}", "more than 1,000,000 characters"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "OverflowError"),
        ("{{ ''.__class__.__mro__ }}", "cannot be rendered"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ raise_exception('no') }}", "no"),
        ("a query", "must contain the question exactly once"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    ],
)
def test_template_is_rendered_within_limits(processor, monkeypatch, template, reason):
    monkeypatch.setattr(chat_template, "RENDER_SECONDS", 1.0 if "takes" in reason else 60.0)
    monkeypatch.setattr(processor, "chat_template", template)
    start = time.monotonic()
    with pytest.raises(InputError, match="^chat template: .*" + reason):
        chat_frame(processor, with_image=False)
    assert time.monotonic() - start < 60


def test_frame_of_the_tiny_model(processor):
    found = chat_frame(processor, with_image=True)
    assert isinstance(found, ChatFrame) and found.before and found.after and found.end
    with_query = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
        add_generation_prompt=True,
    )
    assert found.before + "What?" + found.after == with_query
