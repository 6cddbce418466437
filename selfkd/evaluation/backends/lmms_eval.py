"""Our checkpoints within lmms-eval (its registry finds this by the entry point `lmms_eval.models`).

    lmms-eval --model selfkd --model_args pretrained=runs/selfkd/model --tasks mme --batch_size 16

A request may hold one image and one audio clip. With audio, the clip is the query of the audio modality and the task's
text stays text after it. Imported only where lmms-eval is installed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from numpy.typing import NDArray
from PIL import Image

from selfkd.data.example import Example, ExampleTurn, groups_of, image_to_png
from selfkd.data.image_placeholders import leftover_image_placeholder, strip_audio_placeholder, strip_image_placeholder
from selfkd.data.media import RATES_HZ, check_not_silent, mono, rgb
from selfkd.data.resample import resampled
from selfkd.errors import InputError
from selfkd.evaluation.backends.local import MAX_NEW_TOKENS, predict_modalities
from selfkd.json_files import parse_json
from selfkd.model.checkpoint import load_model
from selfkd.progress import progress
from selfkd.training.data import Modality

MANIFEST = ModelManifest("selfkd", simple_class_path="selfkd.evaluation.backends.lmms_eval.SelfKD")


class SelfKD(lmms):
    """`pretrained` is a model of selfkd or a native omni model, by path or hub id."""

    is_simple = True

    def __init__(self, pretrained: str, batch_size: int | str = 16, device: str = "cpu", **_: Any):
        super().__init__()
        self.model, self.processor = load_model(pretrained)
        self.model.eval().to(device)
        self.batch_size = int(batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Greedy responses in the order of the requests, cut at the task's stop strings."""
        queries = {}
        for at, request in enumerate(requests):
            context, settings, doc_to_visual, doc_id, task, split = request.args
            queries[at] = _example(at, context, doc_to_visual(self.task_dict[task][split][doc_id])), settings
        found = self._responses(queries)
        return [found[at] for at in range(len(requests))]

    def _responses(self, queries: Mapping[int, tuple[Example, Mapping[str, Any]]]) -> dict[int, str]:
        """The responses to (example, settings of its task), by the number of the request."""
        batches: dict[tuple[Modality, int], list[tuple[int, Example]]] = {}
        for at, (example, settings) in queries.items():
            modality: Modality = "text" if example.audio is None else "audio"
            batches.setdefault((modality, settings.get("max_new_tokens", MAX_NEW_TOKENS)), []).append((at, example))
        predictions = {}
        with progress("selfkd", len(queries), "requests") as shown:
            for (modality, new_tokens), items in batches.items():
                for some in groups_of(sorted(items, key=lambda item: len(item[1].question)), self.batch_size):
                    batch = [example for _, example in some]
                    found = predict_modalities(self.model, self.processor, batch, [modality], new_tokens)[modality]
                    for (at, _), prediction in zip(some, found, strict=True):
                        predictions[at] = _stopped(prediction.text, queries[at][1].get("until"))
                    shown.advance(len(some))
        return predictions

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("selfkd evaluate --likelihood scores options by their likelihood")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Greedy responses to the rounds of each request, in the order of the requests. As in lmms-eval's own models a
        round's prompt is what the task's `doc_to_text` makes of the responses so far: a text, or the turns of a
        conversation as JSON. The requests of a round are one batch."""
        outputs: list[list[str]] = [[] for _ in requests]
        info: list[Any] = [None] * len(requests)
        prompts: dict[int, tuple[str, Any]] = {}
        for at, request in enumerate(requests):
            context, _, doc_to_visual, _, *where = request.args
            prompts[at] = context, doc_to_visual(self._doc(*where))
        round_idx = 0
        while prompts:
            queries = {at: (_example(at, *prompt), requests[at].args[1]) for at, prompt in prompts.items()}
            for at, response in self._responses(queries).items():
                outputs[at].append(response)
            round_idx, last, prompts = round_idx + 1, list(prompts), {}
            for at in last:
                _, _, _, doc_to_text, *where = requests[at].args
                visuals, context, is_over, given, info[at] = doc_to_text(
                    self._doc(*where),
                    previous_output=list(outputs[at]),
                    round_idx=round_idx,
                    previous_round_info=info[at],
                )
                outputs[at] = list(given)
                if not is_over:
                    prompts[at] = context, visuals
        return outputs

    def _doc(self, doc_id: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]


def _turns(at: int, context: str) -> tuple[list[ExampleTurn], str]:
    """(earlier turns, last query) of a context, which is a text or, as JSON, a list of turns: {"value": TEXT}, of the
    user and the model in turn."""
    try:
        found = parse_json(context)
    except ValueError:
        return [], context
    if not isinstance(found, list):  # the text is a number, say
        return [], context
    if len(found) % 2 == 0 or not all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in found):
        raise InputError(f"request {at}: a conversation is turns with a value each, the last one of the user")
    values = [strip_audio_placeholder(turn["value"]) for turn in found]
    values[0] = strip_image_placeholder(values[0])
    return [ExampleTurn(*pair) for pair in zip(values[:-1:2], values[1::2], strict=True)], values[-1]


def _example(at: int, context: str, visuals: Sequence[Any] | None) -> Example:
    images = [s for s in visuals or [] if isinstance(s, Image.Image)]
    audio_clips = [s for s in visuals or [] if isinstance(s, dict) and "array" in s]
    if len(images) > 1 or len(audio_clips) > 1 or len(images) + len(audio_clips) < len(visuals or []):
        raise InputError(f"request {at}: selfkd takes one image and one audio clip, this request has others")
    try:
        image = image_to_png(rgb(images[0])) if images else None
        samples = _resampled_mono(audio_clips[0]) if audio_clips else None
    except InputError as error:
        raise InputError(f"request {at}: {error}") from error
    history, last = _turns(at, context)
    text = strip_image_placeholder(strip_audio_placeholder(last))
    if left := leftover_image_placeholder(text, bool(images)):
        raise InputError(f"request {at}: {left}")
    turns = tuple(history)
    if samples is None:
        return Example(str(at), text, "", "lmms-eval", "open", "", image=image, history=turns)
    if turns:
        raise InputError(f"request {at}: a conversation with an audio clip; its turns are texts")
    after = f"\n{text}" if text else ""
    example = Example(str(at), "(audio)", "", "lmms-eval", "open", "", image=image, answer_format=after)
    return example.with_audio(samples, "recorded")


def _resampled_mono(audio_clip: dict[str, Any]) -> NDArray[np.float32]:
    """Mono, 16 kHz, of an array (frames,) or (channels, frames), as `datasets` decodes them."""
    samples = np.atleast_2d(np.asarray(audio_clip["array"], dtype=np.float32))
    if audio_clip["sampling_rate"] not in RATES_HZ:
        raise InputError(
            f"sampling_rate: {audio_clip['sampling_rate']}: {RATES_HZ[0]} to {RATES_HZ[-1]} Hz are supported"
        )
    found = mono(samples.T)
    check_not_silent(found)
    return resampled(found, audio_clip["sampling_rate"])


def _stopped(text: str, until: Sequence[str] | str | None) -> str:
    for end in [until] if isinstance(until, str) else until or []:
        text = text.split(end)[0] if end else text
    return text.strip()
