"""Trains the bundled frame-stacking projector, the paper baseline after stage 1, between the frozen encoder and the
frozen VLM of the package. The weights in `selfkd/assets/stack_projector` are its output.

    python -m tools.tiny_model.speech training DATA --kokoro FOLDER
    python -m tools.tiny_model.speech questions QUESTIONS --kokoro FOLDER
    python -m tools.tiny_model.pretrain_stack_projector DATA/*-2 QUESTIONS/kokoro --output OUTPUT [--steps N] [--seed N]

It is `selfkd align --projector stack` on speech of the engines that the ASR model was trained on. Every clip is there
twice, as it is and augmented as for the ASR model, and is encoded once. Writes the projector into OUTPUT/projector, and
into OUTPUT/eval-probe the share of test sentences, in held-out voices, that the LLM repeats word by word.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file
from transformers.utils import SAFE_WEIGHTS_NAME

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, Example
from selfkd.data.rewrite import rewrite
from selfkd.demo import synthesize_test
from selfkd.evaluation.config import EvaluateConfig
from selfkd.evaluation.evaluate import evaluate
from selfkd.files import follow_umask
from selfkd.model.checkpoint import load_model
from selfkd.model.kept_frames import keep_frames
from selfkd.run_dir import MODEL, once
from selfkd.synthesis.augment import augment_example
from selfkd.training.align import align
from selfkd.training.config import AlignConfig
from tools.tiny_model.pretrain_asr_model import EFFECTS, SNR_DB, write_babble

KEPT_BYTES = 10 * 2**30
PROBE_SENTENCES = 400


def augmented(folder: Path, output: Path, seed: int) -> Path:
    """The folder's examples with other audio effects each, babble of the folder itself among the noises."""

    def change(example: Example) -> Example:
        return augment_example(example, EFFECTS, SNR_DB, str(babble), f"{seed}/{example.id}")

    babble = output / "babble"
    if not (output / MANIFEST).is_file():
        write_babble(ExampleFolder(folder), babble, seed)
        rewrite(folder, output, change)
    return output


def pretrain_stack_projector(data: Sequence[Path], output: Path, steps: int, seed: int) -> None:
    """The same call resumes an interrupted one."""
    folders = [*data, *(augmented(folder, output / "augmented" / folder.name, seed) for folder in data)]
    with keep_frames(KEPT_BYTES):
        stack = AlignConfig(list(map(str, folders)), output / "align", projector="stack", steps=steps, seed=seed)
        once(align, stack)
        probe = output / "probe"
        synthesize_test(probe, "words", PROBE_SENTENCES)
        audio = EvaluateConfig(str(stack.output / MODEL), [str(probe)], output / "eval-probe", modalities=["audio"])
        once(evaluate, audio)
    (output / "projector").mkdir(exist_ok=True)
    save_file(load_model(stack.output / MODEL)[0].projector.state_dict(), output / "projector" / SAFE_WEIGHTS_NAME)
    follow_umask(output / "projector")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=0)
    pretrain_stack_projector(**vars(parser.parse_args()))
