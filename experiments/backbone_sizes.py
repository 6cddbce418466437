"""Is a backbone that is better with text better with audio, and a better teacher? The tiny model at three depths.

    python experiments/backbone_sizes.py --output runs/projector [--depths 2 4 6] [--seeds 0 1 2] [--only best]

The bundled model's LLM has 6 layers. A backbone of fewer layers keeps some of them, evenly spaced, and is trained
further for `--steps` steps on the bundled model's own text tasks. Each has a CTC projector from the bundled ASR model,
whose tokens are theirs, and goes through `projector_study.py`: the same recipes, speech and questions, in
OUTPUT/depth-N; six layers are that study itself, in OUTPUT. For the second question the bundled model answers the
transcripts of the speech encoder that each backbone has taught (OUTPUT/depth-N/teachers-SPLIT.json). Finished runs are
kept.
"""

import argparse
import statistics
from pathlib import Path

from projector_study import (
    OWN_CASCADE,
    add_arguments,
    correct_file,
    evaluate_once,
    save_untrained_model,
    study,
)
from projector_table import Seeds, load_samples, paired, read_correct, samples_from_bits

from selfkd.files import write_json
from selfkd.run_dir import MODEL
from selfkd.toy_world.scenes import Split

DEPTH = 6  # of the bundled model's LLM


def train_shallower_vlm(depth: int, output: Path, steps: int) -> None:
    """Saves a VLM with `depth` of the bundled LLM's layers, trained further for `steps` steps."""
    from torch import nn
    from transformers import InternVLForConditionalGeneration

    from selfkd.model.backbones import load_vlm_processor
    from selfkd.model.tiny import vlm_path
    from tools.tiny_model.pretrain_vlm import pretrain_vlm

    model = InternVLForConditionalGeneration.from_pretrained(vlm_path())
    kept = [round(i * (DEPTH - 1) / (depth - 1)) for i in range(depth)]  # the first and the last among them
    llm = model.model.language_model
    llm.layers = nn.ModuleList(llm.layers[i] for i in kept)
    for index, layer in enumerate(llm.layers):
        layer.self_attn.layer_idx = index  # the key-value cache counts by it
    llm.config.num_hidden_layers = depth
    llm.config.layer_types = llm.config.layer_types[:depth]
    start = output / "start"
    for part in (load_vlm_processor(vlm_path()), model):
        part.save_pretrained(start)
    pretrain_vlm(output, steps, seed=depth, start=start, learning_rate=1e-3, tower_rate=0.1)


def save_start_model(depth: int, folder: Path, steps: int) -> None:
    """Saves the model that the study of a depth starts from, in folder/ctc."""
    from transformers.utils import SAFE_WEIGHTS_NAME

    from selfkd.model.tiny import asr_model_path

    if not (folder / "vlm" / SAFE_WEIGHTS_NAME).is_file():
        train_shallower_vlm(depth, folder / "vlm", steps)
    save_untrained_model(folder / "vlm", asr_model_path(), folder / "ctc")


def evaluate_transcripts(name: str, seeds: list[int], whole: Path, folder: Path, split: Split) -> None:
    """Accuracy of the model in `whole` on the transcripts of a recipe's speech encoder in `folder`, and its difference
    from the transcripts of the encoder that the model itself taught, where that run is there."""
    by_seed: Seeds = {}
    for seed in seeds:
        run, encoder = folder / f"seed-{seed}" / f"transcripts-{name}" / split, folder / f"seed-{seed}" / name / MODEL
        evaluate_once(str(whole / "ctc"), whole / split, run, ["cascade"], asr_model=str(encoder))
        by_seed[str(seed)] = load_samples(run, "cascade")
    means = [statistics.mean(s["score"] for s in one) for one in by_seed.values()]
    found = {"by_seed": means, "mean": statistics.mean(means)}
    own = read_correct(correct_file(whole, split)).get(split, {}).get(f"{name}{OWN_CASCADE}", {})
    if own:
        text = load_samples(whole / "eval-untrained" / split, "text")
        own_by_seed = {seed: samples_from_bits(bits, text) for seed, bits in own.items()}
        found["over_own_transcripts"] = paired(by_seed, own_by_seed)
    print(f"{name}: the bundled model on the transcripts of these encoders: {found}")
    write_json(folder / f"teachers-{split}.json", {name: found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4, 6], choices=range(2, DEPTH + 1))
    parser.add_argument("--steps", type=int, default=400, help="of a backbone with fewer layers")
    parser.set_defaults(only=["best", "best-sft"])
    options = parser.parse_args()
    output = options.output
    for depth in options.depths:
        print(f"\n{depth} layers")
        options.output = output if depth == DEPTH else output / f"depth-{depth}"
        if depth < DEPTH:
            save_start_model(depth, options.output, options.steps)
        study(options)
        if depth < DEPTH and "best" in options.only:
            evaluate_transcripts("best", options.seeds, output, options.output, options.split)


if __name__ == "__main__":
    main()
