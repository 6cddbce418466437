"""Responses of a converted model against those of the original's own code: `original_code.py`, which runs with the
transformers of its time in an environment of its own.

The pixels are those of the converted image processor, so that only the models differ, and both are in fp32: in bf16 two
right models soon differ in a token. Writes `result.json`.
"""

import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.files import write_json
from selfkd.json_files import read_json
from selfkd.model.backbones import load_vlm, load_vlm_processor
from selfkd.progress import progress
from selfkd.run_dir import RESULT

MIN_SHARE = 0.5  # of equal responses: kernels differ in a few, a wrong conversion in all
SCRIPT = Path(__file__).with_name("original_code.py")


def check_responses(settings: Mapping[str, Any]) -> None:
    """`settings`: answers, max_new_tokens, environment (packages), original, converted, data, output. Raises InputError
    where fewer than half of the responses are equal."""
    output, questions = Path(settings["output"]), Path(settings["output"]) / "questions"
    questions.mkdir(parents=True, exist_ok=True)
    examples = ExampleFolder(Path(settings["data"]))
    count = min(settings["answers"], len(examples))
    ours = _converted_responses(settings["converted"], [examples[i] for i in range(count)], questions, settings)
    python = _environment(output / "environment", settings["environment"])
    source = settings["original"] if settings["environment"] else settings["converted"]
    answers = output / "original.json"
    arguments = [
        str(python),
        "-I",
        str(SCRIPT),
        str(source),
        str(questions),
        str(answers),
        str(settings["max_new_tokens"]),
    ]
    code = subprocess.run(arguments).returncode  # noqa: S603 the arguments are ours; -I: no module here is one of its
    if code:
        raise InputError(f"check: {SCRIPT.name} ended with code {code}; its message is above")
    theirs = read_json(answers, list[str])
    equal = [a.strip() == b.strip() for a, b in zip(ours, theirs, strict=True)]
    pairs = [{"converted": a, "original": b} for a, b in zip(ours, theirs, strict=True)]
    who = "the original's own code" if settings["environment"] else "transformers' classes, in place of the original"
    print(f"{output}: {sum(equal)} of {count} responses equal those of {who}")
    if sum(equal) < MIN_SHARE * count:
        raise InputError(f"check: {sum(equal)} of {count} responses are the original's; {answers} has them")
    write_json(output / RESULT, {"n": count, "equal": sum(equal), "compared_with": who, "responses": pairs})


@torch.no_grad()
def _converted_responses(
    source: str, examples: Sequence[Any], questions: Path, settings: Mapping[str, Any]
) -> list[str]:
    """Greedy responses to text queries; writes the inputs of the other side to `questions`."""
    model, processor = load_vlm(source).float().eval(), load_vlm_processor(source)
    if torch.cuda.is_available():
        model.to("cuda")
    found, texts = [], []
    with progress("converted model", len(examples), "responses") as shown:
        for number, example in enumerate(shown.over(examples)):
            content = [{"type": "image"}, {"type": "text", "text": example.question}]
            messages = [{"role": "user", "content": content}]
            prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
            inputs = processor(text=[prompt], images=[example.load_image()], return_tensors="pt")
            save_file({"pixel_values": inputs["pixel_values"].contiguous()}, questions / f"{number}.safetensors")
            texts.append({"question": example.question, "prompt": prompt})
            inputs = inputs.to(model.device)
            ids = model.generate(**inputs, max_new_tokens=settings["max_new_tokens"], do_sample=False)
            new = ids[0, inputs["input_ids"].shape[1] :]
            found.append(processor.tokenizer.decode(new, skip_special_tokens=True))
    write_json(questions / "questions.json", texts)
    return found


def _environment(folder: Path, packages: Sequence[str]) -> Path:
    """The python of an environment with these packages, made once; this one where there are none."""
    if not packages:
        return Path(sys.executable)
    python, done = folder / "bin" / "python", folder / "packages.json"
    if not (done.is_file() and read_json(done, list[str]) == list(packages)):
        venv.create(folder, clear=True, with_pip=True)
        code = subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages]).returncode  # noqa: S603 the recipe's packages
        if code:
            raise InputError(f"check.environment: pip ended with code {code}; its message is above")
        write_json(done, list(packages))
    return python
