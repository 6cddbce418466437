"""On-policy responses by an inference engine in place of the model's own `generate`: vLLM in this process.

The engine gets the audio embeddings that the student's speech encoder and projector give with the weights of this very
step, as vectors, so that nothing of those parts is ever copied to it. The LLM of the engine is the student's as long as
the LLM is frozen. Where it trains (`--trainable llm`), its weights are written to a folder and loaded by the engine
every `sync_steps` steps, as TRL's `vllm_mode="colocate"` does; between, the responses are those of an older LLM.

Legend: U audio embeddings, D width.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.model.checkpoint import CheckpointInfo
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.prompts import Turn
from selfkd.vllm.configuration import check_served
from selfkd.vllm.engine import check_installed, open_engine
from selfkd.vllm.worker import LoadsStudent


@dataclass(frozen=True)
class EnginePrompt:
    """An audio query as an engine takes it: ids with one placeholder for the image and one for the clip, and the clip's
    audio embeddings (U, D). A clip without any embedding has no placeholder."""

    ids: list[int]
    image: Image | None
    vectors_UD: Tensor | None  # noqa: N815


class RolloutEngine(Protocol):
    """What generates on-policy responses."""

    def synchronize(self, model: OmniModel, processor: OmniProcessor, step: int) -> int:
        """Gives the engine the student's weights where they are due; the number of steps that its LLM is behind."""
        ...

    def generate(
        self,
        prompts: Sequence[EnginePrompt],
        end_id: int,
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[list[int]]:
        """Ids of a response to each prompt; `seeds` make sampled ones repeatable."""
        ...


@torch.no_grad()
def engine_prompts(
    model: OmniModel, processor: OmniProcessor, batch: Mapping[str, Any], examples: Sequence[Example]
) -> list[EnginePrompt]:
    """The audio queries of a batch, with the embeddings of its clips, which may be augmented."""
    was_training = model.training
    model.eval()
    audio = model.encode_audio(**batch["audio_inputs"])
    model.train(was_training)
    prompts = []
    for example, vectors_UD, mask_U in zip(examples, audio.vectors, audio.mask, strict=True):
        image, given = example.load_image(), vectors_UD[mask_U].float().cpu()
        query = Turn(None, "", example.instruction, example.answer_format)
        ids = processor.unexpanded_ids([query], image is not None)
        if not len(given):
            ids = [token_id for token_id in ids if token_id != processor.audio_token_id]
        prompts.append(EnginePrompt(ids, image, given if len(given) else None))
    return prompts


class VLLMRollouts:
    """vLLM in this process."""

    def __init__(self, llm: Any, folder: Path, sync_steps: int, suppressed: Sequence[int]):
        """`suppressed` are the ids that no response may hold; `folder` takes the weights on their way to vLLM."""
        self.llm, self.folder, self.sync_steps = llm, folder, sync_steps
        self.bias = dict.fromkeys(suppressed, -100.0)
        self.synchronized: int | None = None  # step of the last copy

    def synchronize(self, model: OmniModel, processor: OmniProcessor, step: int) -> int:
        if not model.llm_trains:
            return 0
        due = step - step % self.sync_steps  # also right after a resume, whatever step that is
        if self.synchronized is None or self.synchronized < due:
            shutil.rmtree(self.folder, ignore_errors=True)
            model.save_pretrained(self.folder)
            self.llm.collective_rpc("load_student", args=(str(self.folder),))
            for forget in ("reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache"):  # made by older weights
                getattr(self.llm.llm_engine, forget)()
            self.synchronized = step
        return step - self.synchronized

    def generate(
        self,
        prompts: Sequence[EnginePrompt],
        end_id: int,
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[list[int]]:
        from vllm import SamplingParams

        common: dict[str, Any] = {"temperature": temperature, "max_tokens": max_new_tokens, "logit_bias": self.bias}
        common |= {"ignore_eos": True, "stop_token_ids": [end_id], "detokenize": False}
        requests, settings = [], []
        for prompt, seed in zip(prompts, seeds, strict=True):
            media: dict[str, Any] = {} if prompt.image is None else {"image": prompt.image}
            if prompt.vectors_UD is not None:
                media["audio"] = prompt.vectors_UD[None]
            requests.append({"prompt_token_ids": prompt.ids, "multi_modal_data": media})
            settings.append(SamplingParams(seed=seed, **common))
        outputs = self.llm.generate(requests, settings, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


def check_engine(model_config: Any, trainable: Sequence[str], processes: int) -> None:
    """Raises InputError for a model or a run whose responses vLLM cannot generate."""
    check_served(model_config)
    if "llm_adapters" in trainable:
        raise InputError("rollout_engine: vllm has no LoRA for audio queries only; leave out llm_adapters")
    if processes > 1:
        raise InputError(f"rollout_engine: vllm runs in one process, not in {processes}")
    check_installed("rollout_engine")


@contextmanager
def open_rollouts(
    checkpoint: CheckpointInfo, seed: int, settings: Mapping[str, Any], sync_steps: int
) -> Iterator[VLLMRollouts]:
    """vLLM with the weights of a checkpoint, as an engine for the responses of the student that starts from it."""
    config = checkpoint.config
    vocabulary = config.get_text_config().vocab_size
    suppressed = [i for i in config.placeholder_ids if i < vocabulary]
    own = {"enable_mm_embeds": True, "worker_extension_cls": f"{LoadsStudent.__module__}.{LoadsStudent.__name__}"}
    with TemporaryDirectory() as folder, open_engine(checkpoint, seed, {**settings, **own}) as llm:
        yield VLLMRollouts(llm, Path(folder) / "weights", sync_steps, suppressed)
