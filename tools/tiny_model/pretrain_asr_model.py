"""Trains the bundled ASR model: whisper-tiny.en's encoder with a CTC head over the tiny LLM's tokens, on speech of
several engines. The weights in `selfkd/assets/asr_model` are its output, in half precision.

    python -m tools.tiny_model.speech training DATA --kokoro FOLDER
    python -m tools.tiny_model.pretrain_asr_model DATA/* --start WHISPER --output OUTPUT [--seed N]

Reads folders of synthesized sentences, and a Whisper checkpoint. Every clip is augmented again in every epoch (speed,
rooms, babble and pink noise, codecs, level, pauses). An hour and a half on one core. An encoder trained on one
engine fails on all others: with espeak-ng's voices alone, the word error rate was 0.07 in new voices of espeak-ng
and 0.64 to 0.78 in those of other engines.
"""

import argparse
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import AutoTokenizer, Trainer, WhisperFeatureExtractor, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import SAMPLE_RATE_HZ, Example
from selfkd.files import follow_umask
from selfkd.model.backbones import check_speech_encoder, load_asr_model, load_feature_extractor, load_speech_encoder
from selfkd.model.features import log_mel, pad_mels
from selfkd.model.projectors import ctc_loss, ctc_output
from selfkd.model.speech_encoder import ASRModel, ASRModelConfig, encode_mel
from selfkd.model.tiny import vlm_path
from selfkd.synthesis.augment import augment
from selfkd.training.spec_augment import augment_mel
from selfkd.training.stage import last_checkpoint
from tools.tiny_model.pretraining import check_settings, pretraining_arguments

CLIPS_PER_STEP = 32
ENCODER_RATE, HEAD_FACTOR = 1.5e-4, 20  # peak; one rate for both does not work (`selfkd.training.config`)
CHARACTER_WEIGHT = 0.25  # of the loss of the head over characters, which is dropped after training
EFFECTS = {"speed": 0.5, "room": 0.3, "noise": 0.5, "telephone": 0.1, "codec": 0.2, "pause": 0.5, "level": 0.7}
SNR_DB = (0.0, 20.0)
SPEC_AUGMENT = 0.7
MAX_COPIES = 3
NO_SPEECH_SHARE, NO_SPEECH_LENGTH = 0.04, 20  # share of the clips, and the length by which their loss is divided
BABBLE_FILES, BABBLE_VOICES, BABBLE_SECONDS = 40, 6, 12


class AudioTexts(Dataset):
    """Augmented mel frames and label ids of audio examples."""

    def __init__(self, examples: Sequence[Example], extractor: WhisperFeatureExtractor, babble: Path, seed: int):
        self.examples, self.extractor, self.babble, self.seed, self.epoch = examples, extractor, str(babble), seed, 0
        self.token_ids: list[list[int]] = []
        self.character_ids: list[list[int]] = []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example, key = self.examples[index], f"{self.seed}/{self.epoch}/{index}"
        rng = random.Random(key)
        noise_folder = rng.choice(("", self.babble))
        if rng.random() < NO_SPEECH_SHARE:
            mel = log_mel(self.extractor, no_speech(len(example.samples()), rng), example.id)
            return {"mel_FM": mel, "input_ids": [], "character_ids": []}
        samples, _ = augment(example.samples(), EFFECTS, SNR_DB, noise_folder, key)
        mel = log_mel(self.extractor, samples, example.id)
        return {"mel_FM": mel, "input_ids": self.token_ids[index], "character_ids": self.character_ids[index]}


def no_speech(frames: int, rng: random.Random) -> NDArray[np.float32]:
    """Silence, or white noise of any level: the ASR model is to write nothing."""
    level = 0.0 if rng.random() < 0.3 else 10 ** (rng.uniform(-90, -15) / 20)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(frames, dtype=np.float32)
    return np.clip(np.float32(level) * noise, -1, 1)


def label_ids(split_texts: Sequence[Sequence[str]]) -> tuple[list[str], list[list[int]]]:
    """(sorted pieces that occur, each text as indices into them)."""
    pieces = sorted({piece for text in split_texts for piece in text})
    number = {piece: i for i, piece in enumerate(pieces)}
    return pieces, [[number[piece] for piece in text] for text in split_texts]


def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    mel, mask = pad_mels([item["mel_FM"] for item in items])
    mel = augment_mel(mel, mask, [torch.default_generator] * len(mel), SPEC_AUGMENT)
    labels = {
        name: nn.utils.rnn.pad_sequence([torch.tensor(item[name]).long() for item in items], True, -100)
        for name in ("input_ids", "character_ids")
    }
    return {"mel_BFM": mel, "mel_mask_BM": mask, **labels}


class TwoHeads(nn.Module):
    """The ASR model, and a second head over characters: a token spans many frames, so CTC over only tokens stays long
    at a solution of blanks only."""

    def __init__(self, asr_model: ASRModel, characters: int):
        super().__init__()
        self.asr_model = asr_model
        self.character_head = nn.Linear(asr_model.config.d_model, characters + 1)

    def forward(self, mel_BFM: Tensor, mel_mask_BM: Tensor, input_ids: Tensor, character_ids: Tensor) -> dict:
        """The mean over clips of the loss per token plus the weighted loss per character."""
        frames = encode_mel(self.asr_model.encoder, mel_BFM, mel_mask_BM)
        loss = torch.zeros((), device=mel_BFM.device)
        heads = ((self.asr_model.ctc_head, input_ids, 1.0), (self.character_head, character_ids, CHARACTER_WEIGHT))
        for head, labels, weight in heads:
            lengths = (labels != -100).sum(-1)
            lengths = torch.where(lengths > 0, lengths, NO_SPEECH_LENGTH)
            loss = loss + weight * (ctc_loss(ctc_output(head, *frames), labels) / lengths).mean()
        return {"loss": loss}


class ASRModelTrainer(Trainer):
    def _get_train_sampler(self, train_dataset=None) -> LengthGroupedSampler:
        """The Trainer's own would make every item to learn its length."""
        assert isinstance(self.train_dataset, AudioTexts)
        lengths = [round(100 * e.duration_seconds) for e in self.train_dataset.examples]
        generator = torch.Generator().manual_seed(self.args.seed)
        return LengthGroupedSampler(self.args.train_batch_size, lengths=lengths, generator=generator)

    def create_optimizer(self, model=None):
        model = self.model
        assert isinstance(model, TwoHeads)
        # not the sinusoidal positions
        encoder = [p for p in model.asr_model.encoder.parameters() if p.requires_grad]
        heads = [*model.asr_model.ctc_head.parameters(), *model.character_head.parameters()]
        head_rate = self.args.learning_rate * HEAD_FACTOR
        groups = [{"params": encoder, "lr": self.args.learning_rate}, {"params": heads, "lr": head_rate}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=self.args.weight_decay)
        return self.optimizer


def write_babble(examples: Sequence[Example], folder: Path, seed: int) -> None:
    """Files of several voices speaking at once."""
    rng = random.Random(f"babble/{seed}")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(BABBLE_FILES):
        total = torch.zeros(BABBLE_SECONDS * SAMPLE_RATE_HZ)
        for _ in range(BABBLE_VOICES):
            voice = torch.zeros(0)
            while len(voice) < len(total):
                voice = torch.cat([voice, torch.from_numpy(rng.choice(examples).samples())])
            total += voice[: len(total)]
        soundfile.write(folder / f"{number:02}.wav", (0.9 * total / total.abs().max()).numpy(), SAMPLE_RATE_HZ)


def copy_head(asr_model: ASRModel, start: ASRModel) -> None:
    """Gives the CTC head the weights of another for the pieces that both have, and for the blank."""
    ours, theirs = ([*model.config.pieces, "blank"] for model in (asr_model, start))
    number = {piece: i for i, piece in enumerate(theirs)}
    pairs = [(i, number[piece]) for i, piece in enumerate(ours) if piece in number]
    rows, their_rows = (torch.tensor(side) for side in zip(*pairs, strict=True))
    with torch.no_grad():
        asr_model.ctc_head.weight[rows] = start.ctc_head.weight[their_rows]
        asr_model.ctc_head.bias[rows] = start.ctc_head.bias[their_rows]


def pretrain_asr_model(
    data: Sequence[Path], start: Path, output: Path, steps: int = 1000, seed: int = 0, rate: float = ENCODER_RATE
) -> None:
    """`start` is a Whisper checkpoint, or an ASR model, whose head is kept. The same call resumes an interrupted one;
    raises InputError where its settings differ."""
    settings = {"data": list(map(str, data)), "start": str(start), "steps": steps, "seed": seed, "rate": rate}
    check_settings(output, settings)
    set_seed(seed)
    folders = [ExampleFolder(folder) for folder in data]
    largest = max(map(len, folders))
    # a small folder, of a slow engine, several times: its clips differ in every epoch and every copy
    examples = [e for folder in folders for _ in range(min(MAX_COPIES, largest // len(folder))) for e in folder]
    checkpoints = output / "checkpoints"
    write_babble(examples, checkpoints / "babble", seed)
    extractor = load_feature_extractor(start, "start")
    audio_texts = AudioTexts(examples, extractor, checkpoints / "babble", seed)
    tokenizer = AutoTokenizer.from_pretrained(vlm_path())
    texts = [e.question for e in examples]
    token_texts = [
        [str(tokenizer.decode(i)) for i in ids] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]
    ]
    pieces, audio_texts.token_ids = label_ids(token_texts)
    characters, audio_texts.character_ids = label_ids(texts)
    encoder = load_speech_encoder(start)
    config = encoder.config.to_dict() | {"decoder_layers": 0, "pieces": pieces, "dtype": "float32"}
    asr_model = ASRModel(ASRModelConfig.from_dict(config))
    asr_model.encoder.load_state_dict(encoder.state_dict())
    before = load_asr_model(start)[0] if check_speech_encoder(start) == ASRModelConfig.model_type else None
    if isinstance(before, ASRModel):
        copy_head(asr_model, before)
    arguments = pretraining_arguments(
        checkpoints,
        steps,
        CLIPS_PER_STEP,
        rate,
        seed,
        warmup_steps=steps // 10,
        bf16=torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported(),
        save_steps=200,
        save_total_limit=1,
        logging_steps=max(1, steps // 80),
    )
    model = TwoHeads(asr_model, len(characters))
    ASRModelTrainer(model, arguments, collate, audio_texts).train(resume_from_checkpoint=last_checkpoint(checkpoints))
    for part in (extractor, asr_model.half()):  # the weights last
        part.save_pretrained(output)
    follow_umask(output)
    shutil.rmtree(checkpoints, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--start", type=Path, required=True, help="checkpoint of whisper-tiny.en, or an ASR model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=ENCODER_RATE, help="peak learning rate of the encoder")
    pretrain_asr_model(**vars(parser.parse_args()))
