"""The chat template of a VLM, for messages with clips.

A template that knows text and images leaves out any other part of a message. vLLM renders the checkpoint's own
template, so the rewriting of clips to text has to be part of it.
"""

from typing import Any

# before a template that knows text and images only: a clip becomes the text of its placeholder
_WITH_AUDIO = """\
{%- set rewritten = namespace(messages=[], parts=[]) -%}
{%- for message in messages -%}
  {%- if message['content'] is string or message['content'] is none or message['content'] is undefined -%}
    {%- if message['content'] is string and AUDIO in message['content'] -%}
      {{- raise_exception('text: contains ' ~ AUDIO ~ ', which stands for a clip') -}}
    {%- endif -%}
    {%- set rewritten.messages = rewritten.messages + [message] -%}
  {%- else -%}
    {%- set rewritten.parts = [] -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'audio' -%}
        {%- set rewritten.parts = rewritten.parts + [{'type': 'text', 'text': AUDIO}] -%}
      {%- else -%}
        {%- if part['type'] == 'text' and AUDIO in part['text'] -%}
          {{- raise_exception('text: contains ' ~ AUDIO ~ ', which stands for a clip') -}}
        {%- endif -%}
        {%- set rewritten.parts = rewritten.parts + [part] -%}
      {%- endif -%}
    {%- endfor -%}
    {%- set rewritten.messages = rewritten.messages + [dict(message, content=rewritten.parts)] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = rewritten.messages -%}
"""


def with_audio(template: str, audio_token: str) -> str:
    """A VLM's chat template in Jinja for messages that have clips ({"type": "audio"}) too; a clip is `audio_token`.
    Texts that contain it are refused. What it makes of other messages is the same."""
    return _WITH_AUDIO.replace("AUDIO", repr(audio_token)) + template


def serve_template(template: str, tokenizer: Any, model_config: Any) -> None:
    """Makes vLLM render messages with this template, where a request or `--chat-template` gives no other.

    vLLM asks the processor that transformers finds in the checkpoint before it asks the tokenizer; that answer is set
    too."""
    from vllm.renderers import hf

    code_revision = model_config.code_revision if model_config.tokenizer == model_config.model else None
    key = (tokenizer.name_or_path, model_config.tokenizer_revision, code_revision, model_config.trust_remote_code)
    hf._PROCESSOR_CHAT_TEMPLATES[key] = tokenizer.chat_template = template
