"""Does a stronger written path make a better spoken one, and a better teacher? The embedded model at three depths.

    python experiments/backbone_sizes.py --output runs/ears [--depths 2 4 6] [--seeds 0 1 2 3 4] [--only best best-sft]

The bundled model's LLM has 6 layers. A base of fewer keeps some of them, evenly spread, and is trained on for
`--steps` steps with the bundled model's own written tasks. Each hears by the bundled recogniser, whose tokens are
theirs, and goes through `projector_study.py`: the same recipes, speech and questions, in OUTPUT/depth-N; six layers are
that study itself, in OUTPUT. Whether a better reader is a better teacher is asked apart: the bundled model reads what
the ears that each base has trained write down (OUTPUT/depth-N/teachers-SPLIT.json). What is done is kept.
"""

import argparse
import statistics
from pathlib import Path

from projector_study import OWN_CASCADE, add_arguments, ask_one, keep_listening, right_file, study
from projector_table import Seeds, paired, read_right, samples, samples_of

from selfkd.files import write_json
from selfkd.run_dir import MODEL
from selfkd.toy_world.scenes import Split

DEPTH = 6  # of the bundled model's LLM


def shallower(depth: int, output: Path, steps: int) -> None:
    """A base of `depth` of the bundled LLM's layers, trained on."""
    from torch import nn
    from transformers import InternVLForConditionalGeneration

    from selfkd.model.backbones import load_vlm_processor
    from selfkd.model.tiny import vlm_path
    from tools.tiny_model.pretrain_vlm import pretrain_vlm

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
    from transformers.utils import SAFE_WEIGHTS_NAME

    from selfkd.model.tiny import asr_model_path

    if not (folder / "vlm" / SAFE_WEIGHTS_NAME).is_file():
        shallower(depth, folder / "vlm", steps)
    keep_listening(folder / "vlm", asr_model_path(), folder / "ctc")


def read_by_the_bundled_model(name: str, seeds: list[int], whole: Path, folder: Path, split: Split) -> None:
    """What the ears of a recipe in `folder` hear, read by the model in `whole`, beside what its own ears of that recipe
    hear, where they are there."""
    heard: Seeds = {}
    for seed in seeds:
        where, encoder = folder / f"seed-{seed}" / f"read-{name}" / split, folder / f"seed-{seed}" / name / MODEL
        ask_one(str(whole / "ctc"), whole / split, where, ["cascade"], asr_model=str(encoder))
        heard[str(seed)] = samples(where, "cascade")
    means = [statistics.mean(s["score"] for s in one) for one in heard.values()]
    found = {"by_seed": means, "mean": statistics.mean(means)}
    own = read_right(right_file(whole, split)).get(split, {}).get(f"{name}{OWN_CASCADE}", {})
    if own:
        written = samples(whole / "eval-untrained" / split, "text")
        found["over_own_ears"] = paired(heard, {seed: samples_of(bits, written) for seed, bits in own.items()})
    print(f"{name}: the bundled model reads what these ears hear: {found}")
    write_json(folder / f"teachers-{split}.json", {name: found})


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
        if depth < DEPTH and "best" in options.only:
            read_by_the_bundled_model("best", options.seeds, output, options.output, options.split)


if __name__ == "__main__":
    main()
