"""Hidden states between the layers of an LLM, to record or to replace."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def states_after(vlm: Any, layer: int, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Within the context `change` is called with the hidden states (B, S, D) of each pass after an LLM layer; what it
    returns, if anything, takes their place."""

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        whole = output[0] if isinstance(output, tuple) else output
        # layers of Gemma 3n return several streams, one of which is active
        active = vlm.config.get_text_config().altup_active_idx if whole.ndim == 4 else None
        changed = change(whole if active is None else whole[active])
        if changed is None:
            return None
        if active is not None:
            streams = whole.clone()
            streams[active] = changed
            changed = streams
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = vlm.get_decoder().layers[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
