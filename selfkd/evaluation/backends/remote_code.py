"""Omni models that come with code of their own (`trust_remote_code`), asked through that code's `chat`.

Megrez-3B-Omni (Infinigence) and MiniCPM-o 2.6 (OpenBMB): each takes picture, text and sound of one user message in a
form of its own and gives back text. What it was asked and why it did not answer is told as of any other system.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
import transformers
from transformers import AutoModel, AutoTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example
from selfkd.errors import InputError, reason_of
from selfkd.evaluation.backends.base import Answers, Modality, transcribed_by
from selfkd.evaluation.backends.chat_response import plain, short
from selfkd.evaluation.backends.endpoint import wav
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.evaluation.response import Prediction
from selfkd.model.backbones import read_config
from selfkd.training.data import Modality as OneModality

# MiniCPM-o, where it does not sample, searches three beams and penalises repetition unless told otherwise
GREEDY = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0}
_MEGREZ_END = "<|turn_end|>"


class MegrezChat:
    """Picture and sound are files, and all that is written is one text."""

    def __init__(self, source: str):
        self.model = _loaded(source)

    def chat(self, example: Example, modality: OneModality, max_new_tokens: int) -> tuple[Any, str]:
        with TemporaryDirectory(prefix="selfkd-") as folder:
            content, image = {}, example.load_image()
            if image is not None:
                content["image"] = str(Path(folder) / "picture.png")
                image.save(content["image"])
            if modality == "audio":
                content["audio"] = str(Path(folder) / "question.wav")
                Path(content["audio"]).write_bytes(wav(example))
            if text := "".join(_written(example, modality)).strip():
                content["text"] = text
            message = {"role": "user", "content": content}
            said = self.model.chat([message], max_new_tokens=max_new_tokens, **GREEDY)
        if not isinstance(said, str):
            return said, ""
        # the end of the turn is left in the text: where it is missing, the limit of tokens came before it
        return said.removesuffix(_MEGREZ_END), "stop" if said.endswith(_MEGREZ_END) else "length"


class MiniCPMOChat:
    """Picture, sound and what is written are parts of a message in the order in which they are given."""

    def __init__(self, source: str):
        self.model = _loaded(source, init_tts=False)  # the voice of its replies is not loaded
        self.tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=True)

    def chat(self, example: Example, modality: OneModality, max_new_tokens: int) -> tuple[Any, str]:
        before, *after = _written(example, modality)
        question = [example.samples()] if modality == "audio" else []
        image = example.load_image()
        # it puts a line's end between parts
        parts = [image, before.strip(), *question, *(text.strip() for text in after)]
        content = [part for part in parts if part is not None and not (isinstance(part, str) and not part)]
        message = {"role": "user", "content": content}
        said = self.model.chat(
            msgs=[message], tokenizer=self.tokenizer, max_new_tokens=max_new_tokens, generate_audio=False, **GREEDY
        )
        if not isinstance(said, str):
            return said, ""
        # the text is all that comes back: as many tokens as were allowed are a response that was cut
        tokens = self.tokenizer(plain(said), add_special_tokens=False)["input_ids"]
        return said, "length" if len(tokens) >= max_new_tokens else "stop"


class Chat(Protocol):
    def chat(self, example: Example, modality: OneModality, max_new_tokens: int) -> tuple[Any, str]:
        """Whatever the model's own code gives back, and its finish_reason: "stop", or "length" for a response that was
        cut at the limit of tokens."""
        ...


FAMILIES: dict[str, Callable[[str], Chat]] = {"MegrezO": MegrezChat, "MiniCPMO": MiniCPMOChat}


class RemoteCodeBackend:
    """One item at a time. Whatever is wrong with a reply is that item's error: it is no wrong answer."""

    def __init__(self, source: str, transcriber: Transcriber | None, max_new_tokens: int):
        self.model = FAMILIES[_family(read_config(source, "model"))](source)
        self.transcriber, self.max_new_tokens = transcriber, max_new_tokens

    def answer(self, examples: ExampleFolder, wanted: Mapping[Modality, Sequence[int]]) -> Answers:
        for modality, positions in wanted.items():
            for i in positions:
                yield i, modality, self._reply(examples[i], modality, examples.language)

    @torch.no_grad()
    def _reply(self, example: Example, modality: Modality, language: str) -> Prediction:
        start, heard = time.perf_counter(), ""
        try:
            if modality == "cascade":
                (heard,) = transcribed_by(self.transcriber, [example], language)
                example = replace(example, question=heard)
            said, finish = self.model.chat(example, "audio" if modality == "audio" else "text", self.max_new_tokens)
        except Exception as error:  # of code that is not ours
            return Prediction("", heard, error=short(reason_of(error)))
        if not isinstance(said, str):
            return Prediction("", heard, error=f"the model's chat gave back {type(said).__name__}, not text")
        return Prediction(plain(said), heard, seconds=time.perf_counter() - start, finish_reason=finish)


def runs_own_code(source: str, trusted: bool) -> bool:
    """Whether a checkpoint is a model that is asked through code of its own; InputError where that is not trusted."""
    config = read_config(source, "model")
    family = _family(config)
    if not family:
        return False
    version = str(config.get("version", "2.6"))
    if family == "MiniCPMO" and version != "2.6":
        raise InputError(f"model: {source}: MiniCPM-o {version}: its chat has another form than that of 2.6")
    if not trusted:
        raise InputError(
            f"trust_remote_code: {source} would run Python code that comes with the checkpoint; read it and say "
            "--trust_remote_code true, or give the --url of a server that runs it"
        )
    return True


def _family(config: Mapping[str, Any]) -> str:
    """The class of a model that brings its code; "" for any other."""
    name = next(iter(config.get("architectures") or []), "")
    return name if name in FAMILIES and "AutoModel" in config.get("auto_map", {}) else ""


def _written(example: Example, modality: OneModality) -> tuple[str, ...]:
    """What is written before the question and after it; with the question, where it is not spoken."""
    if modality == "audio":
        return example.instruction, example.answer_format
    return (example.instruction + example.question + example.answer_format,)


def _loaded(source: str, **settings: Any) -> Any:
    """The model in the dtype of its checkpoint; raises InputError where its code does not run or its weights miss."""
    try:
        kind: Any = get_class_from_dynamic_module(read_config(source, "model")["auto_map"]["AutoModel"], source)
        # code of transformers 4 may leave out the end of construction (post_init), which since then sets this
        kind.all_tied_weights_keys = {}
        model, info = AutoModel.from_pretrained(source, trust_remote_code=True, output_loading_info=True, **settings)
    except Exception as error:  # of code that is not ours
        reason = short(reason_of(error))
        version = f"transformers {transformers.__version__}"
        raise InputError(f"model: {source}: its own code does not run with {version}: {reason}") from error
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"model: {source}: {len(missing)} weights are missing (such as {missing[0]})")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
