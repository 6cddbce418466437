"""What selfkd adds to vLLM's workers (`worker_extension_cls`): loading the weights of a student that trains."""

from typing import Any


class LoadsStudent:
    """Becomes a base class of the worker, whose methods `LLM.collective_rpc` calls by name."""

    reload_weights: Any  # the worker's own
    get_model: Any

    def load_student(self, folder: str) -> None:
        """Loads the weights of a checkpoint in the place of those that the worker has."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.reload_weights(weights_path=folder)
        for module in self.get_model().modules():
            if isinstance(module, ParallelLMHead):  # on a CPU one with tied weights keeps a packed copy of the old ones
                module.quant_method.process_weights_after_loading(module)
