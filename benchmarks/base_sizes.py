"""Does a stronger written path make a better spoken one, and a better teacher? The embedded model at three depths.

    python benchmarks/base_sizes.py --output runs/ears [--depths 2 4 6] [--seeds 0 1 2 3 4] [--only best best-sft]

The bundled model's LLM has 6 layers. A base of fewer keeps some of them, evenly spread, and is trained on for
`--steps` steps with the bundled model's own written tasks. Each hears by the bundled recogniser, whose tokens are
theirs, and goes through `ears_study.py`: the same recipes, speech and questions, in OUTPUT/depth-N; six layers are
that study itself, in OUTPUT. What is done is kept.
"""

import argparse
from pathlib import Path

from ears_study import add_arguments, keep_listening, study

DEPTH = 6  # of the bundled model's LLM


def shallower(depth: int, output: Path, steps: int) -> None:
    """A base of `depth` of the bundled LLM's layers, trained on."""
    from torch import nn
    from transformers import InternVLForConditionalGeneration

    from selfkd.model.embedded import vlm_path
    from selfkd.model.load import load_vlm_processor
    from selfkd.training.pretrain_vlm import pretrain_vlm

    model = InternVLForConditionalGeneration.from_pretrained(vlm_path())
    kept = [round(i * (DEPTH - 1) / (depth - 1)) for i in range(depth)]  # the first and the last among them
    llm = model.model.language_model
    llm.layers = nn.ModuleList(llm.layers[i] for i in kept)
    for place, layer in enumerate(llm.layers):
        layer.self_attn.layer_idx = place  # the key-value cache counts by it
    llm.config.num_hidden_layers = depth
    llm.config.layer_types = llm.config.layer_types[:depth]
    start = output / "start"
    for part in (load_vlm_processor(vlm_path()), model):
        part.save_pretrained(start)
    pretrain_vlm(output, steps, seed=depth, start=start, learning_rate=1e-3, tower_rate=0.1)


def listening(depth: int, folder: Path, steps: int) -> None:
    """The model that the study of a depth begins with, in folder/tokens."""
    from selfkd.model.embedded import recognizer_path

    if not (folder / "vlm" / "model.safetensors").is_file():
        shallower(depth, folder / "vlm", steps)
    keep_listening(folder / "vlm", recognizer_path(), folder / "tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4, 6], choices=range(2, DEPTH + 1))
    parser.add_argument("--steps", type=int, default=400, help="of a base that lost layers")
    parser.set_defaults(only=["best", "best-sft"])
    options = parser.parse_args()
    output = options.output
    for depth in options.depths:
        print(f"\n{depth} layers")
        options.output = output if depth == DEPTH else output / f"depth-{depth}"
        if depth < DEPTH:
            listening(depth, options.output, options.steps)
        study(options)


if __name__ == "__main__":
    main()
