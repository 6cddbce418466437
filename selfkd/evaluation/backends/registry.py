"""All backends by name. The first that accepts a configuration runs its model."""

from selfkd.evaluation.backends.base import Backend
from selfkd.evaluation.backends.endpoint import EndpointBackend
from selfkd.evaluation.backends.local import LocalBackend
from selfkd.evaluation.backends.remote_code import RemoteCodeBackend
from selfkd.evaluation.backends.vllm_engine import VLLMBackend
from selfkd.evaluation.config import EvaluateConfig

BACKENDS: dict[str, type[Backend]] = {
    "vllm": VLLMBackend,
    "endpoint": EndpointBackend,
    "remote_code": RemoteCodeBackend,
    "local": LocalBackend,  # any other
}


def backend_for(config: EvaluateConfig) -> type[Backend]:
    """Raises InputError for a model whose own code is not trusted."""
    return next(backend for backend in BACKENDS.values() if backend.accepts(config))
