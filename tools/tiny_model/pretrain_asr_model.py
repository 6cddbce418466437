"""Trains the tiny speech encoder, from random weights, with a CTC head over the tiny LLM's tokens; the bundled weights
are in `selfkd/assets/asr_model`. (A pretrained encoder gets its head from `selfkd align`.)

    selfkd synthesize --source words --count 18000 --seed 1 --output DATA
    python -m tools.tiny_model.pretrain_asr_model DATA OUTPUT [--seed N]

Reads folders of synthesized sentences; writes the ASR model and its feature extractor, from which `selfkd align
--speech_encoder` makes a CTC projector: an hour on two cores. A head only over the LLM's tokens was still at the loss
of an empty output after 1,000 steps: a word has many frames, a character few. So the head is over characters first,
and over tokens once the encoder separates sounds.
"""

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoTokenizer, Trainer, WhisperFeatureExtractor, set_seed

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example
from selfkd.files import follow_umask
from selfkd.model.features import log_mel, pad_mels
from selfkd.model.projectors import ctc_loss
from selfkd.model.speech_encoder import ASRModel, ASRModelConfig
from selfkd.model.tiny import vlm_path
from selfkd.training.spec_augment import augment_mel
from selfkd.training.stage import last_checkpoint
from tools.tiny_model.architecture import WHISPER_SIZE
from tools.tiny_model.pretraining import check_settings, pretraining_arguments

CLIPS_PER_STEP = 32
RATES = (1.5e-3, 8e-4)  # peaks of the first and of the second part


class AudioTexts(Dataset):
    """Mel frames and label ids of audio examples, kept in memory. The Trainer groups by the length of `input_ids`."""

    def __init__(self, examples: list[Example], extractor: WhisperFeatureExtractor):
        self.mels = [log_mel(extractor, e.samples(), e.id) for e in examples]
        self.ids: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.mels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"mel_FM": self.mels[index], "input_ids": self.ids[index]}


def label_ids(texts: list[str], split: Callable[[str], list[str]]) -> tuple[list[str], list[list[int]]]:
    """(sorted pieces that occur, each text as indices into them)."""
    pieces = sorted({piece for text in texts for piece in split(text)})
    number = {piece: i for i, piece in enumerate(pieces)}
    return pieces, [[number[piece] for piece in split(text)] for text in texts]


def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    mel, mask = pad_mels([item["mel_FM"] for item in items])
    mel = augment_mel(mel, mask, [torch.default_generator] * len(mel))
    labels = torch.nn.utils.rnn.pad_sequence([torch.tensor(item["input_ids"]) for item in items], True, -100)
    return {"mel_BFM": mel, "mel_mask_BM": mask, "labels": labels}


class ASRModelTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        output = model(**inputs)
        loss = (ctc_loss(output, labels) / (labels != -100).sum(-1).clamp(min=1)).mean()
        return (loss, output) if return_outputs else loss


def pretrain_asr_model(
    data: Sequence[Path],
    output: Path,
    character_steps: int = 4500,
    token_steps: int = 2000,
    seed: int = 0,
    start: str = "",
) -> None:
    """Characters first, then a new head over the LLM's tokens; or only more of the second part, from `start`. The same
    call resumes an interrupted one; raises InputError where its settings differ."""
    steps = {"character_steps": character_steps, "token_steps": token_steps}
    check_settings(output, {"data": list(map(str, data)), **steps, "seed": seed, "start": start})
    set_seed(seed)
    examples = [example for folder in data for example in ExampleFolder(folder)]
    extractor = WhisperFeatureExtractor(feature_size=80)
    texts, words = [e.question for e in examples], AudioTexts(examples, extractor)
    checkpoints = [output / "checkpoints" / part for part in ("characters", "tokens")]
    if start:
        asr_model = ASRModel.from_pretrained(start)
    else:
        pieces, words.ids = label_ids(texts, list)
        asr_model = ASRModel(ASRModelConfig(pieces, **WHISPER_SIZE))
        _train(asr_model, words, checkpoints[0], character_steps, RATES[0], seed)
    tokenizer = AutoTokenizer.from_pretrained(vlm_path())
    pieces, words.ids = label_ids(
        texts, lambda text: [str(tokenizer.decode(i)) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    )
    if asr_model.config.pieces == pieces:
        token_model = asr_model
    else:
        set_seed(seed)  # the new head is the same after a resume of the first part
        token_model = ASRModel(ASRModelConfig.from_dict(asr_model.config.to_dict() | {"pieces": pieces}))
        token_model.encoder.load_state_dict(asr_model.encoder.state_dict())
    _train(token_model, words, checkpoints[1], token_steps, RATES[1], seed)
    for part in (extractor, token_model):  # the weights last
        part.save_pretrained(output)
    follow_umask(output)
    shutil.rmtree(output / "checkpoints", ignore_errors=True)


def _train(model: ASRModel, words: AudioTexts, checkpoints: Path, steps: int, rate: float, seed: int) -> None:
    if not steps:  # the Trainer would run three epochs
        return
    arguments = pretraining_arguments(
        checkpoints,
        steps,
        CLIPS_PER_STEP,
        rate,
        seed,
        warmup_steps=steps // 10,
        bf16=torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported(),
        train_sampling_strategy="group_by_length",
        save_steps=200,
        save_total_limit=1,
        logging_steps=max(1, steps // 50),
    )
    ASRModelTrainer(model, arguments, collate, words).train(resume_from_checkpoint=last_checkpoint(checkpoints))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("output", type=Path)
    parser.add_argument("--character_steps", type=int, default=4500)
    parser.add_argument("--token_steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", default="", help="ASR model to start from, with the second part")
    pretrain_asr_model(**vars(parser.parse_args()))
