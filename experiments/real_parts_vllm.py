"""Does vLLM give the responses of `selfkd evaluate` with pretrained parts: SmolLM2-135M and whisper-tiny.en?

    python experiments/real_parts_vllm.py DATA MODELS OUTPUT --vllm VENV [--count 200] [--new_tokens 24]

DATA is a folder of `selfkd synthesize`, MODELS holds smollm2-135m-instruct and whisper-tiny.en, VENV an environment
with vLLM and `selfkd[vllm]`. Makes a model with each projector around the two, with the tiny model's vision tower; what
joins them (projectors, CTC head) has random weights, so the responses are no answers. They are long, and any difference
in what the LLM gets would change them. Both engines run the same questions in fp32, greedily; text queries are the same
with either projector and run with one of them.

Prints for each projector and modality how many responses are equal, and writes OUTPUT/equality.json, which has both of
each pair that differs.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
from real_parts_vlm import assemble
from serving import CPU
from transformers import AutoTokenizer, set_seed

from selfkd.data.dataset import ExampleFolder
from selfkd.evaluation.config import EvalModality, EvaluateConfig
from selfkd.evaluation.evaluate import evaluate
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.files import write_json
from selfkd.model.backbones import load_feature_extractor, load_speech_encoder
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.run_dir import RESULT, once

PROJECTORS: dict[str, list[EvalModality]] = {"ctc": ["text", "audio"], "stack": ["audio"]}  # modalities that are run
HEAD_STD = 1.0  # of a random CTC head; with transformers' 0.02 all its tokens would be about equally probable


def make_model(models: Path, questions: list[str], projector: str, output: Path) -> None:
    """Writes an `OmniModel` with a projector of random weights, unless it is there already."""
    if (output / "config.json").is_file():
        return
    set_seed(0)
    whisper = str(models / "whisper-tiny.en")
    vlm, vlm_processor = assemble(models / "smollm2-135m-instruct")
    processor = OmniProcessor(vlm_processor, load_feature_extractor(whisper, "speech_encoder", mel_bins=80))
    tokens = sorted({i for text in questions for i in processor.text_ids(text)}) if projector == "ctc" else None
    encoder = load_speech_encoder(whisper)
    model = OmniModel.from_parts(vlm, encoder, processor.audio_token_id, ctc_token_ids=tokens)
    if projector == "ctc":
        torch.nn.init.normal_(model.get_parameter("projector.ctc_head.weight"), std=HEAD_STD)
    model.stop_at(processor.end_id)
    processor.save_pretrained(output)
    model.save_pretrained(output)


def run_engines(options: argparse.Namespace, model: Path, modalities: list[EvalModality]) -> tuple[Path, Path]:
    """The runs of both engines; each is run once."""
    own, other = (options.output / f"{model.name}-{engine}" for engine in ("transformers", "vllm"))
    settings = {"max_new_tokens": options.new_tokens, "limit": options.count, "keep_failures": True}
    config = EvaluateConfig(
        str(model), [str(options.data)], own, modalities=modalities, batch_size=16, seed=0, **settings
    )
    once(evaluate, config)
    if not (other / RESULT).is_file():
        command = [str(options.vllm / "bin" / "python"), "-m", "selfkd.cli", "evaluate", str(model)]
        command += ["--data", str(options.data), "--modalities", ",".join(modalities), "--output", str(other)]
        command += ["--engine", "vllm", "--vllm.enforce_eager", "true", "--vllm.max_num_seqs", "32"]
        command += [part for name, value in settings.items() for part in (f"--{name}", str(value).lower())]
        subprocess.run(command, env=os.environ | CPU | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}, check=True)
    return own, other


def compared(own: Path, other: Path, modality: str, tokenizer: Any) -> dict[str, Any]:
    """Counts of responses, of equal ones and of tokens; both responses of each pair that differs."""
    pairs = list(zip(*(read_samples(samples_path(run, "world", modality)) for run in (own, other)), strict=True))
    fields = ("prediction", "finish_reason", "error")
    different = [(a, b) for a, b in pairs if any(a[name] != b[name] for name in fields)]
    ids = [tokenizer(a["prediction"])["input_ids"] for a, _ in pairs]
    return {
        "responses": len(pairs),
        "equal": len(pairs) - len(different),
        "tokens": sum(map(len, ids)),
        "distinct_responses": len({a["prediction"] for a, _ in pairs}),
        "failed": sum(bool(a["error"]) for a, _ in pairs),
        "different": [
            {"id": a["id"], "transformers": a["prediction"] or a["error"], "vllm": b["prediction"] or b["error"]}
            for a, b in different
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--vllm", type=Path, required=True, help="virtual environment with vLLM and selfkd[vllm]")
    parser.add_argument("--count", type=int, default=200, help="questions")
    parser.add_argument("--new_tokens", type=int, default=24, help="at most, of a response")
    options = parser.parse_args()
    questions = [row["question"] for row in ExampleFolder(options.data).columns("question")]
    found: dict[str, Any] = {}
    for projector, modalities in PROJECTORS.items():
        model = options.output / projector
        make_model(options.models, questions, projector, model)
        runs = run_engines(options, model, modalities)
        tokenizer = AutoTokenizer.from_pretrained(model)
        found |= {f"{projector}, {modality}": compared(*runs, modality, tokenizer) for modality in modalities}
    for name, result in found.items():
        print(name, json.dumps({k: v for k, v in result.items() if k != "different"}))
    write_json(options.output / "equality.json", found)


if __name__ == "__main__":
    main()
