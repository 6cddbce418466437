"""Training steps of selfkd and of other projects' trainers on one model and dataset: what `peers.py` starts in each
one's environment.

    python experiments/peers_steps.py --side trl --setting on-policy --folder DIR --steps 4 --output trl.json

DIR holds `model` (of selfkd) and `vlm` (the same VLM without speech encoder), `questions` (a folder of `selfkd
synthesize`). Writes seconds and peak memory of each step after the first, from the end of a step to the end of the
next, so that loading, generation, loss, backward pass and optimizer are all in it. Every example is used once.

What a peer is left: gradient checkpointing off, fp32, no warm-up, no logging. `--probe` in place of a setting runs what
a trainer cannot do, and writes the message of its error.
"""

import argparse
import json
import tempfile
import time
import traceback
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from transformers import TrainerCallback, trainer

from selfkd.errors import InputError

BATCH = 4
MAX_RESPONSE = 22  # tokens, as many as the longest response of `peers_inputs.py`
MIB = 2**20


def memory_mib(field: str) -> float:
    """VmRSS (resident now) or VmHWM (its peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / MIB
    raise ValueError(f"/proc/self/status: no {field}")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class StepMeter(TrainerCallback):
    """Seconds of the clock and of the CPU, and peak resident MiB, of each step of a `transformers.Trainer`."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.resting, self.started, self.cpu_started = 0.0, 0.0, 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.resting = memory_mib("VmRSS")
        self._restart()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        seconds = {"seconds": time.perf_counter() - self.started, "cpu_seconds": time.process_time() - self.cpu_started}
        self.steps.append(seconds | {"peak_mib": memory_mib("VmHWM")})
        self._restart()

    def _restart(self) -> None:
        reset_peak()
        self.started, self.cpu_started = time.perf_counter(), time.process_time()


METER = StepMeter()


def add_meter() -> None:
    """To every trainer of this process: a stage function and a command take no callbacks."""
    callbacks = cast(list[Any], trainer.DEFAULT_CALLBACKS)
    if METER not in callbacks:
        callbacks.append(METER)


def selfkd_steps(folder: Path, setting: str, steps: int) -> None:
    from selfkd.training.distill import distill

    with tempfile.TemporaryDirectory() as output:
        distill(
            model=str(folder / "model"),
            data=[str(folder / "questions")],
            output=Path(output) / "run",
            alpha=1.0,
            divergence="forward",
            ctc_weight=0.0,
            on_policy_fraction=1.0 if setting.startswith("on-policy") else 0.0,
            trainable=["llm"] if setting.endswith("LLM") else ["projector"],
            steps=steps,
            batch_size=BATCH,
            learning_rate=1e-4,
            warmup_steps=0,
            spec_augment=0.0,
            weight_averaging=0.0,
        )


def questions_of(folder: Path) -> list[Any]:
    from selfkd.data.dataset import ExampleFolder

    examples = ExampleFolder(folder / "questions")
    return [examples[i] for i in range(len(examples))]


def open_vlm(folder: Path, setting: str) -> tuple[Any, Any, Any]:
    """(student, teacher, processor); where the LLM does not train, the vision tower's projector does, because TRL has
    no speech projector, and gradient flows through the LLM as it does in selfkd."""
    from selfkd.model.backbones import load_vlm, load_vlm_processor

    student, processor = load_vlm(folder / "vlm"), load_vlm_processor(folder / "vlm")
    processor.tokenizer.padding_side = "left"
    teacher = deepcopy(student).requires_grad_(False)
    student.requires_grad_(False)
    trained = student.model.language_model if setting.endswith("LLM") else student.model.multi_modal_projector
    trained.requires_grad_(True)
    return student, teacher, processor


def trl_arguments(output: str, steps: int) -> dict[str, Any]:
    return {
        "output_dir": output, "max_steps": steps, "per_device_train_batch_size": BATCH, "learning_rate": 1e-4,
        "warmup_steps": 0, "weight_decay": 0.01, "bf16": False, "use_cpu": True, "gradient_checkpointing": False,
        "report_to": "none", "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True, "beta": 0.0,
    }  # fmt: skip


def response_tokens(examples: list[Any], processor: Any) -> int:
    return max(len(processor.tokenizer(example.target).input_ids) + 1 for example in examples)


def trl_on_policy(folder: Path, setting: str, steps: int) -> None:
    """Text query and image, for student and teacher; the student generates as many tokens as selfkd's may."""
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    student, teacher, processor = open_vlm(folder, setting)
    examples = questions_of(folder)
    rows = [
        {"prompt": [{"role": "user", "content": example.question}], "image": example.load_image()}
        for example in examples
    ]
    with tempfile.TemporaryDirectory() as output:
        config = DistillationConfig(
            **trl_arguments(output, steps), max_completion_length=response_tokens(examples, processor)
        )
        DistillationTrainer(student, teacher, config, Dataset.from_list(rows), processing_class=processor).train()


def trl_off_policy(folder: Path, setting: str, steps: int, with_image: bool = False) -> None:
    """The responses of the data. The trainer passes token ids only, so words stand for the image's tokens, as many."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    student, teacher, processor = open_vlm(folder, setting)
    count_calls(student.model.vision_tower)
    words = " red" * processor.image_seq_length
    rows = []
    for example in questions_of(folder):
        image = processor.image_token * processor.image_seq_length if with_image else words
        query = {"role": "user", "content": f"{image}\n{example.question}"}
        rows.append({"messages": [query, {"role": "assistant", "content": example.target}]})
    with tempfile.TemporaryDirectory() as output:
        config = GKDConfig(**trl_arguments(output, steps), lmbda=0.0, max_length=2048)
        GKDTrainer(
            student, teacher, config, train_dataset=Dataset.from_list(rows), processing_class=processor.tokenizer
        ).train()


ENCODER_CALLS = {"generation": 0, "loss": 0}


def count_calls(encoder: Any) -> None:
    """Of the student's encoder of images or audio, by whether gradient is recorded."""

    def count(*_: Any) -> None:
        ENCODER_CALLS["loss" if torch.is_grad_enabled() else "generation"] += 1

    encoder.register_forward_pre_hook(count)


def trl_steps(folder: Path, setting: str, steps: int) -> None:
    (trl_on_policy if setting.startswith("on-policy") else trl_off_policy)(folder, setting, steps)


def trl_image_off_policy(folder: Path) -> None:
    trl_off_policy(folder, "off-policy, LLM", 1, with_image=True)


def trl_omni(folder: Path, content: list[dict[str, Any]]) -> None:
    """One step on a Qwen2.5-Omni at tiny dimensions."""
    from datasets import Dataset
    from native_models import qwen2_5_omni  # of tests/support
    from trl import DistillationConfig, DistillationTrainer

    student, processor = qwen2_5_omni()
    processor.tokenizer.padding_side = "left"
    rows = [{"prompt": [{"role": "user", "content": content}]}] * BATCH
    teacher = deepcopy(student)
    count_calls(next(part for name, part in student.named_modules() if name.endswith("audio_tower")))
    with tempfile.TemporaryDirectory() as output:
        config = DistillationConfig(**trl_arguments(output, 1), max_completion_length=8)
        DistillationTrainer(student, teacher, config, Dataset.from_list(rows), processing_class=processor).train()


def trl_omni_text(folder: Path) -> None:
    trl_omni(folder, [{"type": "text", "text": questions_of(folder)[0].question}])


def trl_omni_audio(folder: Path) -> None:
    import soundfile

    with tempfile.TemporaryDirectory() as clips:
        soundfile.write(f"{clips}/query.wav", questions_of(folder)[0].samples(), 16_000)
        trl_omni(folder, [{"type": "audio", "audio": f"{clips}/query.wav"}])


def swift_steps(folder: Path, setting: str, steps: int) -> None:
    """Text query and image, for student and teacher, on the student's responses or on the data's."""
    import swift.trainers.patcher  # noqa: F401 it replaces the list of callbacks that the meter joins
    from swift.pipelines.train.rlhf import rlhf_main

    add_meter()
    vlm, llm_trains = str(folder / "vlm-video"), setting.endswith("LLM")
    with tempfile.TemporaryDirectory() as output:
        table = Path(output) / "rows.jsonl"
        with table.open("w") as file:
            for line in (folder / "rows.jsonl").read_text().splitlines():
                row = json.loads(line)
                query = {"role": "user", "content": f"<image>{row['question']}"}
                answer = {"role": "assistant", "content": row["answer"]}
                image = str(folder / "images" / row["image"])
                file.write(json.dumps({"messages": [query, answer], "images": [image]}) + "\n")
        values = {
            "rlhf_type": "gkd", "model": vlm, "teacher_model": vlm, "model_type": "internvl", "template": "internvl_hf",
            "teacher_model_type": "internvl", "dataset": table, "tuner_type": "full", "torch_dtype": "float32",
            "bf16": False, "fp16": False, "use_cpu": True, "freeze_vit": True, "freeze_aligner": llm_trains,
            "freeze_llm": not llm_trains, "lmbda": int(setting.startswith("on-policy")), "beta": 0,
            "max_completion_length": MAX_RESPONSE, "max_steps": steps, "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": 1, "learning_rate": 1e-4, "warmup_ratio": 0, "gradient_checkpointing": False,
            "split_dataset_ratio": 0, "dataloader_num_workers": 0, "report_to": "none", "save_strategy": "no",
            "logging_steps": 1000, "output_dir": Path(output) / "run",
        }  # fmt: skip
        rlhf_main([text for name, value in values.items() for text in (f"--{name}", str(value))])


SIDES: dict[str, Callable[[Path, str, int], None]] = {"selfkd": selfkd_steps, "trl": trl_steps, "ms-swift": swift_steps}
PROBES: dict[str, Callable[[Path], None]] = {
    "TRL GKDTrainer, image in the query": trl_image_off_policy,
    "TRL DistillationTrainer, Qwen2.5-Omni, text query": trl_omni_text,
    "TRL DistillationTrainer, Qwen2.5-Omni, audio query": trl_omni_audio,
}


def probe(name: str, folder: Path) -> str:
    """The error of what a peer cannot do, or that there was none."""
    try:
        PROBES[name](folder)
    except InputError:
        raise  # of selfkd, about the inputs: no finding about a peer
    except Exception as error:  # whatever its code raises is the finding
        where, line = traceback.extract_tb(error.__traceback__)[-1], str(error).strip().partition("\n")[0]
        return f"{type(error).__name__}: {line} ({Path(where.filename).name}:{where.lineno})"
    calls = ", ".join(f"{count} in the {where}" for where, count in ENCODER_CALLS.items())
    return f"no error; calls of the student's encoder of images or audio: {calls}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--setting")
    parser.add_argument("--probe", choices=PROBES)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4, help="that count; one more runs before them")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if options.probe:
        options.output.write_text(json.dumps(probe(options.probe, options.folder)))
        return
    add_meter()
    SIDES[options.side](options.folder, options.setting, options.steps + 1)
    options.output.write_text(json.dumps({"resting_mib": METER.resting, "steps": METER.steps[1:]}))


if __name__ == "__main__":
    main()
