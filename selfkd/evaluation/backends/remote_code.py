"""Omni models that come with Python code of their own (`trust_remote_code`), run through that code's `chat`.

Megrez-3B-Omni (Infinigence) and MiniCPM-o 2.6 (OpenBMB): each takes image, text and audio of one user message in a form
of its own and returns text. Prompts and errors of an item are recorded as with any other backend.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Protocol

import torch
import transformers
from transformers import AutoModel, AutoTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example
from selfkd.errors import InputError, reason_of
from selfkd.evaluation.backends.base import Predictions
from selfkd.evaluation.backends.chat_response import short, valid_utf8
from selfkd.evaluation.backends.endpoint import wav
from selfkd.evaluation.backends.transcriber import Transcriber, transcribe
from selfkd.evaluation.cascade import predict_both_forms
from selfkd.evaluation.config import EvalModality, EvaluateConfig
from selfkd.evaluation.response import Prediction
from selfkd.hub import from_hub
from selfkd.input_hashes import hashes_of_checkpoint
from selfkd.model.backbones import read_config
from selfkd.model.checkpoint import CheckpointInfo
from selfkd.model.tiny import TINY_MODELS
from selfkd.training.data import Modality

# MiniCPM-o without sampling uses three beams and a repetition penalty unless told otherwise
GREEDY = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0}
_MEGREZ_END = "<|turn_end|>"


class MegrezChat:
    """Image and audio are files; all text is one string."""

    def __init__(self, source: str):
        self.model = _load(source)

    def chat(self, example: Example, modality: Modality, max_new_tokens: int) -> tuple[Any, str]:
        with TemporaryDirectory(prefix="selfkd-") as folder:
            content, image = {}, example.load_image()
            if image is not None:
                content["image"] = str(Path(folder) / "image.png")
                image.save(content["image"])
            if modality == "audio":
                content["audio"] = str(Path(folder) / "question.wav")
                Path(content["audio"]).write_bytes(wav(example))
            if text := "".join(_texts(example, modality)).strip():
                content["text"] = text
            message = {"role": "user", "content": content}
            response = self.model.chat([message], max_new_tokens=max_new_tokens, **GREEDY)
        if not isinstance(response, str):
            return response, ""
        # the end of the turn stays in the text: where it is missing, the token limit came first
        return response.removesuffix(_MEGREZ_END), "stop" if response.endswith(_MEGREZ_END) else "length"


class MiniCPMOChat:
    """Image, audio and texts are parts of a message in the order in which they are given."""

    def __init__(self, source: str):
        self.model = _load(source, init_tts=False)  # its own speech output is not loaded
        self.tokenizer = AutoTokenizer.from_pretrained(**from_hub(source), trust_remote_code=True)  # nosec B615 from_hub() gives a commit

    def chat(self, example: Example, modality: Modality, max_new_tokens: int) -> tuple[Any, str]:
        before, *after = _texts(example, modality)
        question = [example.samples()] if modality == "audio" else []
        image = example.load_image()
        # its code joins parts with a newline
        parts = [image, before.strip(), *question, *(text.strip() for text in after)]
        content = [part for part in parts if part is not None and not (isinstance(part, str) and not part)]
        message = {"role": "user", "content": content}
        response = self.model.chat(
            msgs=[message], tokenizer=self.tokenizer, max_new_tokens=max_new_tokens, generate_audio=False, **GREEDY
        )
        if not isinstance(response, str):
            return response, ""
        # nothing but the text is returned: as many tokens as were allowed are a response that was cut
        tokens = self.tokenizer(valid_utf8(response), add_special_tokens=False)["input_ids"]
        return response, "length" if len(tokens) >= max_new_tokens else "stop"


class Chat(Protocol):
    def chat(self, example: Example, modality: Modality, max_new_tokens: int) -> tuple[Any, str]:
        """Whatever the model's own code returns, and its finish_reason: "stop", or "length" for a response that was cut
        at the token limit."""
        ...


FAMILIES: dict[str, Callable[[str], Chat]] = {"MegrezO": MegrezChat, "MiniCPMO": MiniCPMOChat}


class RemoteCodeBackend:
    """Batches of one item. Any error of the model's code is that item's error, not a wrong answer."""

    scores_likelihoods: ClassVar[bool] = False

    def __init__(self, source: str, transcriber: Transcriber | None, max_new_tokens: int):
        self.model = FAMILIES[_family(read_config(source, "model"))](source)
        self.transcriber, self.max_new_tokens = transcriber, max_new_tokens

    @classmethod
    def accepts(cls, config: EvaluateConfig) -> bool:
        return config.model not in TINY_MODELS and needs_remote_code(config.model, config.trust_remote_code)

    @classmethod
    def inspect(cls, config: EvaluateConfig) -> None:
        return None

    @classmethod
    def input_hashes(cls, config: EvaluateConfig, checkpoint: CheckpointInfo | None) -> dict[str, Any]:
        return hashes_of_checkpoint("model", config.model)

    @classmethod
    @contextmanager
    def open(
        cls, config: EvaluateConfig, checkpoint: CheckpointInfo | None, transcriber: Transcriber | None, run: Path
    ) -> Iterator["RemoteCodeBackend"]:
        yield cls(config.model, transcriber, config.max_new_tokens)

    def predict(self, examples: ExampleFolder, wanted: Mapping[EvalModality, Sequence[int]]) -> Predictions:
        for modality, positions in wanted.items():
            for i in positions:
                yield i, modality, self._predict_one(examples[i], modality, examples.language)

    @torch.no_grad()
    def _predict_one(self, example: Example, modality: EvalModality, language: str) -> Prediction:
        if modality != "cascade":
            return self._chat(example, modality)
        start = time.perf_counter()
        try:
            transcripts = transcribe(self.transcriber, [example], language)
        except InputError as error:  # longer than the ASR model's window, or not decodable
            return Prediction("", error=str(error))
        seconds = time.perf_counter() - start

        def predict(queries: Iterable[Example]) -> Iterator[tuple[int, Prediction]]:
            yield from ((at, self._chat(query, "text", seconds)) for at, query in enumerate(queries))

        ((_, prediction),) = predict_both_forms([example], transcripts, language, predict)
        return prediction

    def _chat(self, example: Example, modality: Modality, seconds_before: float = 0.0) -> Prediction:
        if example.history:
            return Prediction("", error="a model with code of its own is given single questions only")
        start = time.perf_counter()
        try:
            response, finish_reason = self.model.chat(example, modality, self.max_new_tokens)
        except Exception as error:  # of code that is not ours
            return Prediction("", error=short(reason_of(error)))
        if not isinstance(response, str):
            return Prediction("", error=f"the model's chat returned {type(response).__name__}, not text")
        seconds = seconds_before + time.perf_counter() - start
        return Prediction(valid_utf8(response), seconds=seconds, finish_reason=finish_reason)


def needs_remote_code(source: str, trusted: bool) -> bool:
    """Whether a checkpoint's model runs through code of its own. Raises InputError where that code is not trusted."""
    config = read_config(source, "model")
    family = _family(config)
    if not family:
        return False
    version = str(config.get("version", "2.6"))
    if family == "MiniCPMO" and version != "2.6":
        raise InputError(f"model: {source}: MiniCPM-o {version}: its chat has another form than that of 2.6")
    if not trusted:
        raise InputError(
            f"trust_remote_code: {source} would run Python code that comes with the checkpoint; read it and pass "
            "--trust_remote_code, or give the --url of a server that runs it"
        )
    return True


def _family(config: Mapping[str, Any]) -> str:
    """The class of a model that comes with its code; "" for any other."""
    name = next(iter(config.get("architectures") or []), "")
    return name if name in FAMILIES and "AutoModel" in config.get("auto_map", {}) else ""


def _texts(example: Example, modality: Modality) -> tuple[str, ...]:
    """The text before the audio and after it; in the text modality all text with the question."""
    if modality == "audio":
        return example.instruction, example.answer_format
    return (example.instruction + example.question + example.answer_format,)


def _class_of_code(source: str) -> str:
    """MODULE.CLASS of a model that comes with its code. Raises InputError where that is in another repository
    (OTHER--MODULE.CLASS): the revision of the model would not fix the code."""
    reference = str(read_config(source, "model")["auto_map"]["AutoModel"])
    if "--" in reference:
        raise InputError(f"model: {source}: config.json: field auto_map: {reference}: code of another repository")
    return reference


def _load(source: str, **settings: Any) -> Any:
    """The model in the dtype of its checkpoint; raises InputError where its code does not run or weights are
    missing."""
    class_name, code = _class_of_code(source), from_hub(source)
    try:
        model_class: Any = get_class_from_dynamic_module(class_name, **code)
        # code of transformers 4 may leave out the end of construction (post_init), which since then sets this
        model_class.all_tied_weights_keys = {}
        model, info = AutoModel.from_pretrained(**code, trust_remote_code=True, output_loading_info=True, **settings)  # nosec B615 from_hub() gives a commit
    except Exception as error:  # of code that is not ours
        reason = short(reason_of(error))
        version = f"transformers {transformers.__version__}"
        raise InputError(f"model: {source}: its own code does not run with {version}: {reason}") from error
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"model: {source}: {len(missing)} weights are missing (such as {missing[0]})")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
