"""vLLM in this process: an `LLM` with the weights of a checkpoint of selfkd."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

from selfkd.errors import InputError
from selfkd.model.checkpoint import CheckpointInfo


def check_installed(field: str) -> None:
    """Raises InputError that names the field which asks for vLLM where there is none."""
    if find_spec("vllm") is None:
        raise InputError(f"{field}: vLLM is not installed; pip install 'selfkd[vllm]'")


@contextmanager
def open_engine(checkpoint: CheckpointInfo, seed: int, settings: Mapping[str, Any]) -> Iterator[Any]:
    """A `vllm.LLM` in the checkpoint's dtype and with its context; `settings` are further arguments.

    Raises InputError for a setting that vLLM refuses."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # torch has run in this process
    from vllm import LLM

    from selfkd.vllm.plugin import register

    register()
    with TemporaryDirectory() as folder:
        source = str(checkpoint.source)
        if checkpoint.kind == "tiny":  # it is no folder of its own
            source = folder
            for part in checkpoint.load():
                part.save_pretrained(folder)
        dtype = checkpoint.config.vlm_config.dtype or "float32"  # vLLM's own choice for float32 is half of it
        try:
            llm = LLM(source, seed=seed, **{"dtype": dtype, "max_model_len": checkpoint.config.context, **settings})
        except (TypeError, ValueError) as error:
            raise InputError(f"vllm: {str(error).strip().splitlines()[0]}") from error
        try:
            yield llm
        finally:
            llm.llm_engine.engine_core.shutdown()
