"""What a request may hold beyond what the server honours: nothing that could change its reply.

A reply must not look as if a field had been heeded that was not. So a field that is not known is refused by name, be it
new, misspelt or another server's; one that is known is taken where its value asks for nothing, or where no value of it
could change a reply that is greedy, written and the only one.
"""

from collections.abc import Iterable
from typing import Any

from selfkd.serving.refused import RefusedError

# say who asks, how the request is carried, stored or charged, or what is printed beside the text; `seed` draws nothing
HARMLESS = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_retention", "seed", "priority", "request_id", "rid", "cache_salt", "parallel_tool_calls"),
        *("include_reasoning", "separate_reasoning", "stream_reasoning", "stream_options.include_obfuscation"),
    }
)
HARMLESS_IN_MESSAGES = frozenset({"cache_control", "uuid"})
# fields of OpenAI, vLLM, SGLang and transformers with the values that ask for nothing; null always does
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (0,),
    "top_p": (1,),
    "top_k": (-1, 0, 1),
    "min_p": (0,),
    "do_sample": (False,),
    "n": (1,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "num_beams": (1,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "logit_bias": ({},),
    "bad_words": ([],),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop": ("", []),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "no_stop_trim": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (False,),
    "echo": (False,),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "return_hidden_states": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"], []),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "continue_final_turn": (False,),
    "add_special_tokens": (False,),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "documents": ([],),
    "logits_processors": ([],),
    "stream_options.continuous_usage_stats": (False,),
}
NEUTRAL_IN_MESSAGES: dict[str, tuple[Any, ...]] = {"detail": ("auto", "high")}  # of an image: all of it is looked at
_WHY = {
    "temperature": "replies are greedy here; leave temperature out or send 0",
    "n": "there is one reply to a request",
}


def check_honoured(fields: Iterable[tuple[str, Any]]) -> None:
    """Raises RefusedError for the first field that asks for what is not honoured. A field is named by its place in the
    request: `min_p`, `stream_options.continuous_usage_stats`, `messages.0.content.1.image_url.detail`."""
    for place, value in fields:
        name, harmless, neutral = place, HARMLESS, NEUTRAL
        if place.startswith("messages."):
            name, harmless, neutral = place.rpartition(".")[2], HARMLESS_IN_MESSAGES, NEUTRAL_IN_MESSAGES
        if value is None or name in harmless or any(_is_same(value, one) for one in neutral.get(name, ())):
            continue
        why = _WHY.get(name, "is not offered here" if name in neutral else "is no field that is honoured here")
        raise RefusedError(400, f"{place}: {why}", place, "unsupported_parameter")


def _is_same(value: Any, neutral: Any) -> bool:
    """JSON's true is no 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
